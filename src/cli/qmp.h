/* SPDX-License-Identifier: MIT */
/*
 * QEMU's control protocol: one command after the other over its socket. Each call has a time limit;
 * answers are another process's and may be anything.
 *
 * Calls return CLI_OK, or CLI_FAILED with the reason told. Threads: its owner.
 */
#ifndef QMP_H
#define QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct qmp {
	int fd; /* -1: closed */
	pid_t pid;
	char *text;
	size_t used, room;
};

/*
 * Connect and shake hands. While nobody listens it is tried again, until @timeout_ms have passed or
 * process @child (if not 0) is gone.
 */
int qmp_open(const char *path, int timeout_ms, pid_t child, struct qmp *qmp);
void qmp_close(struct qmp *qmp);

/*
 * Run a command. @arguments: NULL, or taken over; @pass: a descriptor that goes with it, or -1;
 * @answer: what it returned, a new reference; NULL: of no interest.
 */
int qmp_run(struct qmp *qmp, const char *command, json_t *arguments, int pass, json_t **answer);

/* End QEMU; it may be gone before it has answered. */
int qmp_quit(struct qmp *qmp);
/* Give QEMU a descriptor under a name. */
int qmp_give(struct qmp *qmp, const char *name, int fd);
/* Turn x-ignore-shared on or off: shared memory is no part of a migration. */
int qmp_ignore_shared(struct qmp *qmp, bool on);
/* The text of a member of an answer, fit for a terminal, in a buffer. */
int qmp_text(const json_t *object, const char *member, char *text, size_t size);

#endif
