/* SPDX-License-Identifier: MIT */
/*
 * Runs the threads of a script one at a time. Each is a real thread, with its own stack,
 * thread-local storage and destructors, but only the one that has the turn moves. It gives the turn
 * back at points: GR_POINT() of the library, steps of the script, and in front of each lock,
 * condition, grace period, event and join, which the linker leads here (--wrap). So "would block"
 * is a state of the scheduler: a thread that waits is enabled when what it waits for has come, and
 * a state in which no thread is enabled is a deadlock.
 *
 * A grace period is the least that liburcu promises: it ends when each read section that was open
 * at its begin, as the threads' own counts in liburcu say, has ended. liburcu's waiting is not run.
 *
 * Threads: everything here is called by the thread that has the turn; passing it on orders all that
 * was done before it.
 */
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include <pthread.h>
#include <stdbool.h>

/* The library has no threads of its own but the worker of a RAM. */
#define THREADS_MAX 8

/*
 * Make the calling thread the only one, called 'm', which prepares and judges a script. @real: each
 * thread is made for this run, and its end is a part of it.
 */
void sched_begin(bool real);
/* A thread of the script, which stops at its first point. @letter: its name in schedules. */
void sched_thread(char letter, void (*run)(void));
/*
 * Run them in an order that explore_choose() decides at each point. Returns when all have ended,
 * thread-specific destructors included. Workers of a RAM may be left; from then on the calling
 * thread runs on unless it waits.
 */
void sched_run(void);

/* The running thread may be stopped here. */
void sched_point(const char *name);
/* Wait until another thread has set it. */
void sched_await(const int *flag);
/* Wait until an event of the library (os/event.h) is set, as an embedder that polls does. */
void sched_await_event(int fd);

/* The running thread's letter, and its number: dense, from 0. */
char sched_letter(void);
unsigned sched_number(void);

/* All the thread letters by number, for schedules. */
const char *sched_letters(void);
/* Does any thread hold or wait for that lock? */
bool sched_uses_lock(const pthread_mutex_t *mutex);

/* Printed for each step when set: "r lookup.slow". */
extern bool sched_tracing;
__attribute__((format(printf, 1, 2))) void sched_trace(const char *format, ...);

#endif
