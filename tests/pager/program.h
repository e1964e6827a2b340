/* SPDX-License-Identifier: MIT */
/*
 * `guestram pager` as it is shipped, in a process of its own.
 *
 * Threads: the test's own.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include "testing.h"

/* Runs "PROGRAM pager WORDS…", its stderr into the file @said, unless that is NULL. */
pid_t program_start(const char *program, const char *const *words, const char *said);

/* The process that serves: the one child of the one that was started. */
pid_t server_of(pid_t keeper);

#endif
