/* SPDX-License-Identifier: MIT */
/* Connecting to a status socket and reading it, with an end to waiting; see live.h. */
#include "live.h"
#include "cli.h"
#include "wait.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* From the connection to the last byte. */
#define ANSWER_MS 10000

struct buffer {
	char *text;
	size_t length, room;
};

/* -------------------------------------------------------------------------------- where it is */

/* The process a PID-file names; or CLI_FAILED told, negative. */
static pid_t read_pid(const char *path)
{
	char text[64] = "", *end;
	FILE *file = fopen(path, "re");
	long pid;

	if (!file || !fgets(text, sizeof(text), file)) {
		cli_fail(file ? 0 : errno, "%s%s", path,
			 file ? ": neither a socket nor a file with a process identifier" : "");
		if (file)
			fclose(file);
		return -1;
	}
	fclose(file);
	errno = 0;
	pid = strtol(text, &end, 10);
	if (errno || end == text || pid <= 0 || pid > INT32_MAX ||
	    strspn(end, " \t\r\n") != strlen(end)) {
		cli_fail(0, "%s: neither a socket nor a file with a process identifier", path);
		return -1;
	}
	return (pid_t)pid;
}

void live_target(const struct argp_state *state, const char **target, const char *arg)
{
	if (*target)
		cli_usage(state, "one process at a time: %s", arg);
	*target = arg;
}

void live_target_end(const struct argp_state *state, const char *target)
{
	if (!target)
		cli_usage(state, "which process? give its status socket or PID-file");
}

static bool is_socket(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISSOCK(st.st_mode);
}

/* The socket beside NAME.pid: NAME or NAME.status. */
static int find_beside(const char *file, char *path, size_t size)
{
	size_t length = strlen(file);

	if (length <= 4 || strcmp(file + length - 4, ".pid") != 0)
		return cli_fail(0, "%s: the name of a PID-file ends in .pid", file);
	if (length + 8 > size)
		return cli_fail(ENAMETOOLONG, "%s", file);
	memcpy(path, file, length - 4);
	path[length - 4] = 0;
	if (is_socket(path))
		return CLI_OK;
	strcat(path, ".status");
	if (is_socket(path))
		return CLI_OK;
	return cli_fail(0, "%s: there is no socket %.*s nor %s", file, (int)length - 4, file, path);
}

/* ---------------------------------------------------------------------------------- the socket */

static int connect_to(int fd, const char *path, int64_t deadline)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const struct timespec pause = {0, 10000000};

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		/* a full backlog: the kernel does not tell when there is room */
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (cli_now_ms() >= deadline)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int grow(struct buffer *buffer)
{
	size_t room = buffer->room ? 2 * buffer->room : 65536;
	char *text;

	if (buffer->room >= LIVE_MAX)
		return -EMSGSIZE;
	text = realloc(buffer->text, room);
	if (!text)
		return -ENOMEM;
	buffer->text = text;
	buffer->room = room;
	return 0;
}

static int read_all(int fd, struct buffer *buffer, int64_t deadline)
{
	ssize_t bytes;
	int rc;

	for (;;) {
		rc = buffer->length == buffer->room ? grow(buffer) : 0;
		if (!rc)
			rc = cli_wait_for(fd, POLLIN, deadline);
		if (rc < 0)
			return rc;
		bytes = recv(fd, buffer->text + buffer->length, buffer->room - buffer->length, 0);
		if (bytes < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (bytes <= 0)
			return bytes < 0 ? -errno : 0;
		buffer->length += (size_t)bytes;
	}
}

static int tell(const char *path, int error)
{
	switch (error) {
	case -ECONNREFUSED:
		return cli_fail(0, "%s: nobody listens on this socket any more", path);
	case -ETIMEDOUT:
		return cli_fail(0, "%s: no answer within %d s", path, ANSWER_MS / 1000);
	case -EMSGSIZE:
		return cli_fail(0, "%s: it answers with more than %zu MiB", path, LIVE_MAX >> 20);
	case -EPROTOTYPE:
		return cli_fail(0, "%s: it is a socket of another kind", path);
	default:
		return cli_fail(error, "%s", path);
	}
}

/* All that the socket says, and who it is. */
static int fetch(const char *path, struct buffer *buffer, pid_t *pid)
{
	int64_t deadline = cli_now_ms() + ANSWER_MS;
	socklen_t size = sizeof(struct ucred);
	struct ucred peer;
	int fd, rc;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return cli_fail(errno, "no socket");
	rc = connect_to(fd, path, deadline);
	if (!rc && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		rc = -errno;
	if (!rc)
		rc = read_all(fd, buffer, deadline);
	close(fd);
	if (rc < 0)
		return tell(path, rc);
	if (!buffer->length)
		return cli_fail(0,
				"%s: it hung up without a word: only its own user and root are "
				"answered",
				path);
	*pid = peer.pid;
	return CLI_OK;
}

int live_fetch(const char *target, struct live *live)
{
	struct buffer buffer = {NULL, 0, 0};
	char path[PATH_MAX], why[256];
	pid_t wanted = 0, pid = 0;
	struct stat st;
	int rc = CLI_OK;

	*live = (struct live){0};
	if (stat(target, &st) < 0)
		return cli_fail(errno, "%s", target);
	if (strlen(target) >= sizeof(path))
		return cli_fail(ENAMETOOLONG, "%s", target);
	strcpy(path, target);
	if (!S_ISSOCK(st.st_mode)) {
		if (!S_ISREG(st.st_mode))
			return cli_fail(0,
					"%s: neither a socket nor a file with a process "
					"identifier",
					target);
		wanted = read_pid(target);
		if (wanted < 0)
			return CLI_FAILED;
		rc = find_beside(target, path, sizeof(path));
	}
	if (!rc)
		rc = fetch(path, &buffer, &pid);
	if (!rc && wanted && pid != wanted)
		rc = cli_fail(0, "%s: it names process %d, but %s is of process %d", target,
			      (int)wanted, path, (int)pid);
	if (!rc && live_decode(buffer.text, buffer.length, live, why, sizeof(why)) < 0)
		rc = cli_fail(0, "%s: not the status of a program that uses guestram: %s", path,
			      why);
	if (rc) {
		free(buffer.text);
		return rc;
	}
	live->text = buffer.text;
	live->text_length = buffer.length;
	/* the kernel's word for it, in our namespace of processes; 0: it is in none that we see */
	live->pid = pid;
	return CLI_OK;
}
