/* SPDX-License-Identifier: MIT */
/*
 * The listening socket of the status: its name, its mode, who may connect.
 *
 * The mode is right from the beginning: bind() gives the name the mode that the socket's own inode
 * has, less the umask, so that is set first; the umask, which belongs to all threads of the
 * program, is left alone. The name's mode is looked at before listen(), and nobody can connect
 * before that. Last, each client is asked who he is.
 *
 * Of two processes that find the same dead socket, one must not remove what the other has made of
 * it. So they lock the directory (flock) from looking to listening.
 */
#include "base/error.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/hooks.h"
#include "status/status.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 8
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
static int clear_name(const char *path, const struct sockaddr_un *addr)
{
	struct stat st;
	int fd, rc = 0;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0
				       : gr__fail(-errno, "status %s: cannot be looked at", path);
	if (!S_ISSOCK(st.st_mode))
		return gr__fail(-EEXIST, "status %s: a file that is no socket is there", path);
	fd = open_socket();
	if (fd < 0)
		return gr__fail(fd, "status %s: no socket", path);
	if (!connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) || errno != ECONNREFUSED)
		rc = gr__fail(-EADDRINUSE, "status %s: another process listens there", path);
	close(fd);
	if (!rc && unlink(path) < 0 && errno != ENOENT)
		rc = gr__fail(-errno, "status %s: a dead socket cannot be removed", path);
	return rc;
}

/* Names the socket; the directory is locked. */
static int bind_and_listen(struct gr__status_socket *result, const struct sockaddr_un *addr)
{
	int error = GR_FAULT("fchmod");
	struct stat st;
	int rc;

	if (error || fchmod(result->fd, 0600) < 0)
		return gr__fail(error ? -error : -errno, "status %s: its mode", result->path);
	error = GR_FAULT("bind");
	if (error || bind(result->fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		return gr__fail(error ? -error : -errno, "status %s: bind", result->path);
	error = GR_FAULT("lstat");
	if (error || lstat(result->path, &st) < 0) {
		rc = gr__fail(error ? -error : -errno, "status %s: it is gone", result->path);
		goto unlink_path;
	}
	if (!S_ISSOCK(st.st_mode) || st.st_mode & 0177) {
		rc = gr__fail(-EPERM, "status %s: it came out with mode %o, not 600", result->path,
			      st.st_mode & 07777);
		goto unlink_path;
	}
	error = GR_FAULT("listen");
	if (error || listen(result->fd, BACKLOG) < 0) {
		rc = gr__fail(error ? -error : -errno, "status %s: listen", result->path);
		goto unlink_path;
	}
	result->device = st.st_dev;
	result->inode = st.st_ino;
	return 0;

unlink_path:
	unlink(result->path);
	return rc;
}

int gr__status_listen(const char *path, struct gr__status_socket *result)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int directory, rc;

	if (!path || !*path)
		return gr__fail(-EINVAL, "status: no path");
	if (strlen(path) >= sizeof(addr.sun_path))
		return gr__fail(-ENAMETOOLONG, "status %s: over %zu bytes", path,
				sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	result->path = gr__strdup(path);
	if (!result->path)
		return gr__fail(-ENOMEM, "status %s: no memory", path);
	result->fd = open_socket();
	if (result->fd < 0) {
		rc = gr__fail(result->fd, "status %s: no socket", path);
		goto free_path;
	}
	directory = lock_directory(path);
	rc = clear_name(path, &addr);
	if (!rc)
		rc = bind_and_listen(result, &addr);
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

void gr__status_unlisten(struct gr__status_socket *socket)
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

int gr__status_accept(const struct gr__status_socket *socket)
{
	int error = GR_FAULT("accept");
	struct ucred peer;
	socklen_t size = sizeof(peer);
	int fd = error ? -1 : accept4(socket->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return error ? -error : -errno;
	error = GR_FAULT("peer");
	if (error || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ||
	    (peer.uid && peer.uid != geteuid())) {
		close(fd);
		return -EPERM;
	}
	return fd;
}
