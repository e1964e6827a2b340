/* SPDX-License-Identifier: MIT */
/* See qmp.h. */
#include "qmp.h"
#include "cli.h"
#include "wait.h"
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_MS = 30000, PAUSE_MS = 10 };
#define LINE_MAX_BYTES ((size_t)16 << 20)

/* One line, without its end, in qmp->text; what follows it is kept. 0 or -errno. */
static int read_line(struct qmp *qmp, int64_t deadline, json_t **message)
{
	json_error_t error;
	char *end;

	*message = NULL;
	while (!(end = qmp->used ? memchr(qmp->text, '\n', qmp->used) : NULL)) {
		ssize_t got;
		int rc;

		if (qmp->used == qmp->room) {
			size_t room = qmp->room ? 2 * qmp->room : 65536;
			char *text = room > LINE_MAX_BYTES ? NULL : realloc(qmp->text, room);

			if (!text)
				return room > LINE_MAX_BYTES ? -EMSGSIZE : -ENOMEM;
			qmp->text = text;
			qmp->room = room;
		}
		rc = cli_wait_for(qmp->fd, POLLIN, deadline);
		if (rc < 0)
			return rc;
		got = recv(qmp->fd, qmp->text + qmp->used, qmp->room - qmp->used, 0);
		if (got < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -ECONNRESET;
		qmp->used += (size_t)got;
	}
	*message = json_loadb(qmp->text, (size_t)(end - qmp->text), 0, &error);
	qmp->used -= (size_t)(end + 1 - qmp->text);
	memmove(qmp->text, end + 1, qmp->used);
	if (json_is_object(*message))
		return 0;
	json_decref(*message);
	return -EPROTO;
}

/* @pass goes with the first byte. */
static int send_all(struct qmp *qmp, const char *text, size_t length, int pass, int64_t deadline)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {0};

	while (length) {
		struct iovec iov = {(char *)text, length};
		struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t sent;
		int rc;

		if (pass >= 0) {
			message.msg_control = control.room;
			message.msg_controllen = sizeof(control.room);
			control.header.cmsg_level = SOL_SOCKET;
			control.header.cmsg_type = SCM_RIGHTS;
			control.header.cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(&control.header), &pass, sizeof(int));
		}
		rc = cli_wait_for(qmp->fd, POLLOUT, deadline);
		if (rc < 0)
			return rc;
		sent = sendmsg(qmp->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (sent < 0)
			return -errno;
		text += sent;
		length -= (size_t)sent;
		pass = -1;
	}
	return 0;
}

int qmp_text(const json_t *object, const char *member, char *text, size_t size)
{
	const char *from = json_string_value(json_object_get(object, member));
	size_t n;

	if (!from)
		return cli_fail(0, "QEMU's answer has no text '%s'", member);
	if (strlen(from) >= size)
		return cli_fail(0, "QEMU's answer has too long a '%s'", member);
	for (n = 0; from[n]; n++)
		text[n] = (unsigned char)from[n] < ' ' || from[n] == 0x7f ? '?' : from[n];
	text[n] = '\0';
	return CLI_OK;
}

static int tell(const char *command, int rc)
{
	if (rc == -ETIMEDOUT)
		return cli_fail(0, "%s: no answer from QEMU within %d s", command,
				ANSWER_MS / 1000);
	if (rc == -ECONNRESET || rc == -EPIPE)
		return cli_fail(0, "%s: QEMU is gone", command);
	return cli_fail(rc, "%s: QEMU's answer", command);
}

/* The next message that is no event. */
static int read_answer(struct qmp *qmp, int64_t deadline, json_t **message)
{
	int rc;

	for (;;) {
		rc = read_line(qmp, deadline, message);
		if (rc < 0 || !json_object_get(*message, "event"))
			return rc;
		json_decref(*message);
	}
}

/* 0 and a message, or -errno. */
static int ask(struct qmp *qmp, const char *command, json_t *arguments, int pass, json_t **message)
{
	int64_t deadline = cli_now_ms() + ANSWER_MS;
	json_t *question = json_object();
	char *text;
	int rc = -ENOMEM;

	json_object_set_new(question, "execute", json_string(command));
	if (arguments)
		json_object_set_new(question, "arguments", arguments);
	text = json_dumps(question, JSON_COMPACT);
	json_decref(question);
	if (text)
		rc = send_all(qmp, text, strlen(text), pass, deadline);
	if (!rc)
		rc = send_all(qmp, "\n", 1, -1, deadline);
	free(text);
	return rc ? rc : read_answer(qmp, deadline, message);
}

int qmp_run(struct qmp *qmp, const char *command, json_t *arguments, int pass, json_t **answer)
{
	json_t *message;
	char why[512];
	int rc = ask(qmp, command, arguments, pass, &message);

	if (rc < 0)
		return tell(command, rc);
	if (json_object_get(message, "return")) {
		if (answer)
			*answer = json_incref(json_object_get(message, "return"));
		rc = CLI_OK;
	} else {
		rc = CLI_FAILED;
		if (!qmp_text(json_object_get(message, "error"), "desc", why, sizeof(why)))
			cli_fail(0, "QEMU refuses %s: %s", command, why);
	}
	json_decref(message);
	return rc;
}

static bool is_gone(pid_t child)
{
	siginfo_t info = {0};

	/* it stays to be waited for */
	return child && !waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) &&
	       info.si_pid;
}

static int connect_to(const char *path, int timeout_ms, pid_t child, struct qmp *qmp)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const struct timespec pause = {0, PAUSE_MS * 1000000L};
	int64_t deadline = cli_now_ms() + timeout_ms;

	if (strlen(path) >= sizeof(addr.sun_path))
		return cli_fail(ENAMETOOLONG, "%s", path);
	strcpy(addr.sun_path, path);
	while (connect(qmp->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		if (is_gone(child))
			return cli_fail(0, "QEMU ended at once");
		if (cli_now_ms() >= deadline ||
		    (errno != ENOENT && errno != ECONNREFUSED && errno != EAGAIN))
			return cli_fail(errno, "%s", path);
		nanosleep(&pause, NULL);
	}
	return CLI_OK;
}

int qmp_open(const char *path, int timeout_ms, pid_t child, struct qmp *qmp)
{
	socklen_t size = sizeof(struct ucred);
	struct ucred peer = {0};
	json_t *greeting;
	int rc;

	memset(qmp, 0, sizeof(*qmp));
	qmp->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (qmp->fd < 0)
		return cli_fail(errno, "no socket");
	rc = connect_to(path, timeout_ms, child, qmp);
	if (rc)
		goto close_it;
	if (getsockopt(qmp->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
		rc = cli_fail(errno, "%s: who listens", path);
		goto close_it;
	}
	qmp->pid = peer.pid;
	/* it is silent while it serves somebody else */
	rc = read_line(qmp, cli_now_ms() + ANSWER_MS, &greeting);
	if (!rc) {
		rc = json_object_get(greeting, "QMP") ? 0 : -EPROTO;
		json_decref(greeting);
	}
	if (rc < 0) {
		rc = cli_fail(rc, "%s: no greeting of QEMU's QMP%s", path,
			      rc == -ETIMEDOUT ? " (does somebody else use it?)" : "");
		goto close_it;
	}
	rc = qmp_run(qmp, "qmp_capabilities", NULL, -1, NULL);
	if (!rc)
		return CLI_OK;
close_it:
	qmp_close(qmp);
	return rc;
}

void qmp_close(struct qmp *qmp)
{
	if (qmp->fd >= 0)
		close(qmp->fd);
	qmp->fd = -1;
	free(qmp->text);
	qmp->text = NULL;
}

int qmp_quit(struct qmp *qmp)
{
	json_t *message;
	int rc = ask(qmp, "quit", NULL, -1, &message);

	if (rc == -ECONNRESET || rc == -EPIPE)
		return CLI_OK;
	if (rc < 0)
		return tell("quit", rc);
	json_decref(message);
	return CLI_OK;
}

int qmp_give(struct qmp *qmp, const char *name, int fd)
{
	return qmp_run(qmp, "getfd", json_pack("{s:s}", "fdname", name), fd, NULL);
}

int qmp_ignore_shared(struct qmp *qmp, bool on)
{
	json_t *capability =
		json_pack("{s:s, s:b}", "capability", "x-ignore-shared", "state", (int)on);

	return qmp_run(qmp, "migrate-set-capabilities",
		       json_pack("{s:[o]}", "capabilities", capability), -1, NULL);
}
