/* SPDX-License-Identifier: MIT */
/*
 * The vm-memory peer as a process beside us (baseline/vm_memory): it gets the table and the
 * recorded addresses on a pipe, then one request a line, and answers with what it measured. It
 * sleeps in read(2) while others are measured.
 *
 * It is looked for beside the program, then where it is installed.
 */
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PEER "guestram-bench-vm-memory"

#ifndef BENCH_LIBEXECDIR
#define BENCH_LIBEXECDIR "/usr/libexec/guestram"
#endif

extern char **environ;

static bool find(char path[PATH_MAX])
{
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length > 0) {
		self[length] = 0;
		if (snprintf(path, PATH_MAX, "%s/%s", dirname(self), PEER) < PATH_MAX &&
		    !access(path, X_OK))
			return true;
	}
	snprintf(path, PATH_MAX, "%s/%s", BENCH_LIBEXECDIR, PEER);
	return !access(path, X_OK);
}

static bool write_all(int fd, const void *data, size_t length)
{
	const char *at = data;

	while (length) {
		ssize_t done = write(fd, at, length);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		at += done;
		length -= (size_t)done;
	}
	return true;
}

static int spawn(struct bench_peer *peer, const char *path)
{
	char *const argv[] = {(char *)PEER, NULL};
	posix_spawn_file_actions_t actions;
	int in[2], out[2], rc;

	if (pipe2(in, O_CLOEXEC))
		return -errno;
	if (pipe2(out, O_CLOEXEC)) {
		rc = errno;
		goto close_in;
	}
	rc = posix_spawn_file_actions_init(&actions);
	if (rc)
		goto close_out;
	rc = posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
	if (!rc)
		rc = posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
	if (!rc)
		rc = posix_spawn(&peer->pid, path, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (rc)
		goto close_out;
	close(in[0]);
	close(out[1]);
	peer->to = in[1];
	peer->from = fdopen(out[0], "r");
	if (peer->from)
		return 0;
	rc = errno;
	close(in[1]);
	close(out[0]);
	waitpid(peer->pid, NULL, 0); /* its stdin is closed, so it ends */
	peer->pid = 0;
	return -rc;

close_out:
	close(out[0]);
	close(out[1]);
close_in:
	close(in[0]);
	close(in[1]);
	peer->pid = 0;
	return -rc;
}

void bench_peer_open(struct bench_peer *peer, uint64_t ranges, uint64_t stride, uint64_t length,
		     const uint64_t *trace)
{
	char path[PATH_MAX], head[128];
	int rc;

	memset(peer, 0, sizeof(*peer));
	if (!find(path)) {
		snprintf(peer->missing, sizeof(peer->missing),
			 "no %s (built where cargo and librust-vm-memory-dev are)", PEER);
		return;
	}
	signal(SIGPIPE, SIG_IGN); /* a peer that dies is an error of ours to tell */
	rc = spawn(peer, path);
	if (rc < 0) {
		snprintf(peer->missing, sizeof(peer->missing), "%s: %s", PEER, strerror(-rc));
		return;
	}
	snprintf(head, sizeof(head), "%llu %llu %llu %d\n", (unsigned long long)ranges,
		 (unsigned long long)stride, (unsigned long long)length, BENCH_TRACE);
	if (write_all(peer->to, head, strlen(head)) &&
	    write_all(peer->to, trace, BENCH_TRACE * sizeof(*trace)))
		return;
	bench_peer_close(peer);
	snprintf(peer->missing, sizeof(peer->missing), "%s ended early", PEER);
}

void bench_peer_close(struct bench_peer *peer)
{
	if (!peer->pid)
		return;
	close(peer->to);
	fclose(peer->from);
	while (waitpid(peer->pid, NULL, 0) < 0 && errno == EINTR)
		;
	peer->pid = 0;
}

double bench_peer_ask(struct bench_peer *peer, const char *format, ...)
{
	char request[128], answer[64];
	va_list args;
	double ns;

	if (!peer->pid)
		return -1;
	va_start(args, format);
	vsnprintf(request, sizeof(request) - 1, format, args);
	va_end(args);
	strcat(request, "\n");
	if (write_all(peer->to, request, strlen(request)) &&
	    fgets(answer, sizeof(answer), peer->from) && sscanf(answer, "%lf", &ns) == 1)
		return ns;
	bench_peer_close(peer);
	snprintf(peer->missing, sizeof(peer->missing), "%s ended while measuring", PEER);
	return -1;
}
