/* SPDX-License-Identifier: MIT */
/*
 * A listening socket: its name, its mode, who connects. See socket.h.
 *
 * The mode is right from the beginning: bind() gives the name the mode that the socket's own inode
 * has, less the umask, so that is set first; the umask, which belongs to all threads of the
 * program, is left alone. The name's mode is looked at before listen(), and nobody can connect
 * before that.
 *
 * Of two processes that find the same dead socket, one must not remove what the other has made of
 * it. So they lock the directory (flock) from looking to listening.
 */
#include "os/socket.h"
#include "base/error.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/hooks.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 128
/* The kernel passes at most that many descriptors at once (SCM_MAX_FD). */
#define KERNEL_FDS 253
#define LOCK_TRIES 200 /* of 5 ms */

static int open_socket(void)
{
	int error = GR_FAULT("socket");
	int fd = error ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (error)
		return -error;
	return fd < 0 ? -errno : fd;
}

/*
 * The directory of @path, locked against others who do this. Negative: it cannot be, or somebody
 * keeps it locked, who may be anybody in a directory like /tmp; then we go on without.
 */
static int lock_directory(const char *path)
{
	const struct timespec pause = {0, 5000000};
	const char *slash = strrchr(path, '/');
	int error = GR_FAULT("flock"), fd, tries;
	char directory[sizeof(((struct sockaddr_un *)0)->sun_path)];
	size_t length = slash ? (size_t)(slash - path) : 0;

	if (error)
		return -error;
	memcpy(directory, slash ? path : ".", slash ? length : 1);
	directory[slash ? length : 1] = 0;
	if (slash && !length)
		strcpy(directory, "/");
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (tries = 0; tries < LOCK_TRIES; tries++) {
		if (!flock(fd, LOCK_EX | LOCK_NB))
			return fd;
		if (errno != EWOULDBLOCK && errno != EINTR)
			break; /* a file system without locks */
		nanosleep(&pause, NULL);
	}
	close(fd);
	return -EBUSY;
}

/* Remove a socket that nobody listens on. 0: the name is free. */
static int clear_name(const char *what, const char *path, const struct sockaddr_un *addr)
{
	struct stat st;
	int fd, rc = 0;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0
				       : gr__fail(-errno, "%s %s: cannot be looked at", what, path);
	if (!S_ISSOCK(st.st_mode))
		return gr__fail(-EEXIST, "%s %s: a file that is no socket is there", what, path);
	fd = open_socket();
	if (fd < 0)
		return gr__fail(fd, "%s %s: no socket", what, path);
	if (!connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) || errno != ECONNREFUSED)
		rc = gr__fail(-EADDRINUSE, "%s %s: another process listens there", what, path);
	close(fd);
	if (!rc && unlink(path) < 0 && errno != ENOENT)
		rc = gr__fail(-errno, "%s %s: a dead socket cannot be removed", what, path);
	return rc;
}

/* Names the socket; the directory is locked. */
static int bind_and_listen(const char *what, struct gr__socket *result,
			   const struct sockaddr_un *addr)
{
	int error = GR_FAULT("fchmod");
	struct stat st;
	int rc;

	if (error || fchmod(result->fd, 0600) < 0)
		return gr__fail(error ? -error : -errno, "%s %s: its mode", what, result->path);
	error = GR_FAULT("bind");
	if (error || bind(result->fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		return gr__fail(error ? -error : -errno, "%s %s: bind", what, result->path);
	error = GR_FAULT("lstat");
	if (error || lstat(result->path, &st) < 0) {
		rc = gr__fail(error ? -error : -errno, "%s %s: it is gone", what, result->path);
		goto unlink_path;
	}
	if (!S_ISSOCK(st.st_mode) || st.st_mode & 0177) {
		rc = gr__fail(-EPERM, "%s %s: it came out with mode %o, not 600", what,
			      result->path, st.st_mode & 07777);
		goto unlink_path;
	}
	error = GR_FAULT("listen");
	if (error || listen(result->fd, BACKLOG) < 0) {
		rc = gr__fail(error ? -error : -errno, "%s %s: listen", what, result->path);
		goto unlink_path;
	}
	result->device = st.st_dev;
	result->inode = st.st_ino;
	return 0;

unlink_path:
	unlink(result->path);
	return rc;
}

int gr__socket_listen(const char *what, const char *path, struct gr__socket *result)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int directory, rc;

	if (!path || !*path)
		return gr__fail(-EINVAL, "%s: no path", what);
	if (strlen(path) >= sizeof(addr.sun_path))
		return gr__fail(-ENAMETOOLONG, "%s %s: over %zu bytes", what, path,
				sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	result->path = gr__strdup(path);
	if (!result->path)
		return gr__fail(-ENOMEM, "%s %s: no memory", what, path);
	result->fd = open_socket();
	if (result->fd < 0) {
		rc = gr__fail(result->fd, "%s %s: no socket", what, path);
		goto free_path;
	}
	directory = lock_directory(path);
	rc = clear_name(what, path, &addr);
	if (!rc)
		rc = bind_and_listen(what, result, &addr);
	gr__fd_close(directory); /* and unlocks it */
	if (rc < 0)
		goto close_socket;
	return 0;

close_socket:
	gr__fd_close(result->fd);
free_path:
	gr__free(result->path);
	result->path = NULL;
	result->fd = -1;
	return rc;
}

void gr__socket_unlisten(struct gr__socket *socket)
{
	int directory = lock_directory(socket->path);
	struct stat st;

	/* while it listens, so that nobody takes it for a dead one and puts his own there */
	if (!lstat(socket->path, &st) && st.st_dev == socket->device && st.st_ino == socket->inode)
		unlink(socket->path);
	gr__fd_close(socket->fd);
	gr__fd_close(directory);
	gr__free(socket->path);
	socket->path = NULL;
	socket->fd = -1;
}

int gr__socket_accept(const struct gr__socket *socket, struct ucred *peer)
{
	int error = GR_FAULT("accept");
	socklen_t size = sizeof(*peer);
	int fd = error ? -1 : accept4(socket->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return error ? -error : -errno;
	error = GR_FAULT("peer");
	if (error || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &size) < 0) {
		close(fd);
		return -EPERM;
	}
	return fd;
}

int64_t gr__socket_receive(int fd, void *buf, size_t size, int *fds, unsigned *count)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * KERNEL_FDS)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {buf, size};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	int error = GR_FAULT("recvmsg"), one;
	unsigned room = *count;
	struct cmsghdr *cmsg;
	ssize_t got;
	size_t i;

	*count = 0;
	if (error)
		return -error;
	do
		got = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	for (cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		for (i = 0; i < (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			memcpy(&one, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(one));
			if (*count < room)
				fds[(*count)++] = one;
			else
				close(one);
		}
	}
	return got;
}
