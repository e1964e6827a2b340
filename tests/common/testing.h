/* SPDX-License-Identifier: MIT */
/*
 * What the tests share: random numbers, address space without memory, blocks in one line, and
 * threads that are waited for with a time-out, so that what hangs is a failure and no hang.
 *
 * Threads: assertions jump, so they belong to the test's own thread; others leave what they saw in
 * memory, to be judged after thread_join().
 */
#ifndef TESTING_H
#define TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
/* after the above, which it needs */
#include <cmocka.h>

#include "watched.h"
#include <errno.h>
#include <guestram.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define GIB (KIB * MIB)
#define TIB (KIB * GIB)
#define PAGE UINT64_C(4096)
#define RW (GR_READ | GR_WRITE)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Longer than anything here takes on a loaded machine. */
#define LONG_MS 10000

#define assert_ok(expression) assert_ok_at(expression, #expression, __FILE__, __LINE__)
void assert_ok_at(int rc, const char *expression, const char *file, int line);
/* An error, and its sentence has @part in it. */
#define assert_error(expression, error, part)                                                      \
	assert_error_at(expression, error, part, #expression, __FILE__, __LINE__)
void assert_error_at(int rc, int error, const char *part, const char *expression, const char *file,
		     int line);

/* ------------------------------------------------------------------------ random numbers */

struct rng {
	uint64_t state;
};

uint64_t rng_next(struct rng *rng);
uint64_t rng_below(struct rng *rng, uint64_t bound); /* bound > 0 */
bool rng_one_in(struct rng *rng, unsigned chances);
uint64_t seed_of_the_day(void);

/* --------------------------------------------------------------------------------- memory */

/* Inaccessible address space that costs nothing. */
void *reserve(uint64_t length);

struct gr_block *new_anon(struct gr_ram *ram, const char *name, uint64_t length, uint64_t maximum);
struct gr_block *new_memfd(struct gr_ram *ram, const char *name, uint64_t length);
/* @released may be NULL; else counts the calls of the release callback, atomically. */
struct gr_block *new_caller(struct gr_ram *ram, const char *name, void *host, uint64_t length,
			    int *released);

/* What gr_host() gives, in a section of its own: to compare, not to follow. */
void *look_up(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access);
struct gr_ram_stats stats_of(struct gr_ram *ram);
struct gr_block_info info_of(const struct gr_block *block);

/* Entries of /proc/self/fd: to be compared with what they were. */
unsigned open_fds(void);

/* -------------------------------------------------------------------------------- threads */

pthread_t thread_start(void *(*run)(void *), void *arg);
#define thread_join(thread) thread_join_at(thread, __FILE__, __LINE__)
void thread_join_at(pthread_t thread, const char *file, int line);

/* A gate that one thread opens once and others pass. gate_wait() is false after LONG_MS. */
struct gate {
	sem_t sem;
};

void gate_init(struct gate *gate);
void gate_open(struct gate *gate);
bool gate_wait(struct gate *gate);
bool gate_wait_ms(struct gate *gate, int timeout_ms);

/* Wait until an expression becomes true; its last value. */
#define wait_until(expression)                                                                     \
	({                                                                                         \
		int64_t end_ = now_ms() + LONG_MS;                                                 \
		bool is_;                                                                          \
		while (!(is_ = (expression)) && now_ms() < end_)                                   \
			sleep_us(100);                                                             \
		is_;                                                                               \
	})
int64_t now_ms(void);
void sleep_us(unsigned us);

static inline int get(const int *value)
{
	return __atomic_load_n(value, __ATOMIC_ACQUIRE);
}

static inline void set(int *value, int to)
{
	__atomic_store_n(value, to, __ATOMIC_RELEASE);
}

/* ------------------------------------------------------------------------------ time-outs */

/* Ends this process after that time, ten times as long where each access is watched. */
static inline void testing_end_after(unsigned seconds)
{
	alarm(WATCHED ? seconds * 10 : seconds);
}

#endif
