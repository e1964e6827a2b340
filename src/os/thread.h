/* SPDX-License-Identifier: MIT */
/* The library's own threads: all signals but those of faults blocked, so that none of the
 * program's lands on them. */
#ifndef GR__THREAD_H
#define GR__THREAD_H

#include <pthread.h>

/* 0 or -errno. @name: at most 15 bytes, shown by ps and gdb. Fault name: "pthread_create". */
int gr__thread_start(void (*run)(void *arg), void *arg, const char *name, pthread_t *thread);
void gr__thread_join(pthread_t thread);

#endif
