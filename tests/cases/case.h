/* SPDX-License-Identifier: MIT */
/*
 * What the tests of public faults share: short ways to make RAMs, blocks and ranges, gates that
 * stop a thread at a named point of the library, what the process holds before and after, and a
 * listener that keeps books.
 *
 * Threads: cmocka's assertions belong to the main thread; helper threads count what they find wrong
 * and the main thread judges. A test that hangs is ended by case_watchdog().
 */
#ifndef CASE_H
#define CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
/* after the above, which it needs */
#include <cmocka.h>

#include "../common/watched.h"
#include <errno.h>
#include <guestram.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define GIB (KIB * MIB)
#define RW (GR_READ | GR_WRITE)

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* The last address from which @length bytes still end at 2^64. */
#define TOP(length) (UINT64_MAX - (length) + 1)

#define assert_ok(expression) assert_ok_at(expression, #expression, __FILE__, __LINE__)
void assert_ok_at(int rc, const char *expression, const char *file, int line);

/* Ends the program, as failed, after so many seconds. Also keeps glibc from mapping memory of its
 * own in the middle of a test, which would look like a leak. */
void case_watchdog(unsigned seconds);

uint64_t case_now_ns(void);
/* A repeatable generator; @state is not 0. */
uint64_t case_random(uint64_t *state);

/* -------- RAMs, blocks, ranges: each fails the test with the library's sentence */

struct gr_ram *case_ram(void);
struct gr_space *case_space(struct gr_ram *ram, const char *name);
struct gr_block *case_anon(struct gr_ram *ram, const char *name, uint64_t length);
/* A block of memory that is ours: @release is counted in *released when its memory comes back. */
struct gr_block *case_caller(struct gr_ram *ram, const char *name, void *host, uint64_t length,
			     unsigned flags, int *released);
void case_map(struct gr_space *space, uint64_t addr, struct gr_block *block, uint64_t offset,
	      uint64_t length, unsigned access);
/* Everything deleted is reclaimed, within seconds. */
void case_drain(struct gr_ram *ram);
void case_close(struct gr_ram *ram);
void *case_host(const struct gr_block *block);
/* Memory of our own, page-aligned, zero; ended by munmap(). */
void *case_pages(uint64_t length);
int case_released(const int *released);

/* gr_host() in a section of its own, for tests that only compare pointers. */
void *case_lookup(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access);
void *case_cursor(struct gr_cursor *cursor, uint64_t addr, uint64_t length, unsigned access);

/* -------- what a RAM is: its view and its numbers, for "nothing changed" */

#define CASE_MAX_RANGES 1024

struct case_table {
	size_t count;
	struct gr_range ranges[CASE_MAX_RANGES];
};

bool case_same_range(const struct gr_range *a, const struct gr_range *b);
void case_table_take(struct gr_space *space, struct case_table *table);
#define assert_same_table(a, b) assert_same_table_at(a, b, __FILE__, __LINE__)
void assert_same_table_at(const struct case_table *a, const struct case_table *b, const char *file,
			  int line);

/* -------- gates: a thread stops at a point of the library until it is let on */

struct gate {
	const char *point; /* GR_POINT() name */
	pthread_t who;	   /* valid if !any */
	bool any;
	int skip; /* so many passes before it stops */
	sem_t reached, go;
	bool spent;
};

/* The thread @who (NULL: any) stops at @point after @skip passes. One of at most 4 at a time. */
void gate_arm(struct gate *gate, const char *point, const pthread_t *who, int skip);
/* Wait until a thread stands there; fails the test after 10 s. */
void gate_wait(struct gate *gate);
void gate_open(struct gate *gate);
void gate_disarm(struct gate *gate);

/* -------- what the process holds */

struct process_state {
	char maps[1 << 16]; /* all but the heap */
	char fds[1 << 12];
};

void process_take(struct process_state *state);
#define assert_same_process(before) assert_same_process_at(before, __FILE__, __LINE__)
void assert_same_process_at(const struct process_state *before, const char *file, int line);

unsigned process_fds(void);
unsigned process_maps(void);
uint64_t process_resident(void);
uint64_t process_address_space(void);

/* -------- a listener that keeps books */

#define LEDGER_MAX 2048

struct ledger {
	pthread_mutex_t lock;
	struct gr_block *blocks[LEDGER_MAX]; /* added and not deleting */
	size_t block_count;
	struct {
		struct gr_space *space;
		struct gr_range range;
	} ranges[LEDGER_MAX]; /* added and not removed */
	size_t range_count;
	uint64_t added, removed, committed, reclaimed, deleting;
	uint64_t calls;
	unsigned wrong; /* removals of what was not there, additions of what was */
	int refuse;	/* the next range_added returns this */
	struct gr_listener *listener;
};

void ledger_open(struct ledger *ledger, struct gr_ram *ram, int priority);
void ledger_init(struct ledger *ledger);
extern const struct gr_listener_ops ledger_ops;
/* Its books are exactly what the RAM has. */
#define assert_ledger(ledger, ram, spaces, count)                                                  \
	assert_ledger_at(ledger, ram, spaces, count, __FILE__, __LINE__)
void assert_ledger_at(struct ledger *ledger, struct gr_ram *ram, struct gr_space **spaces,
		      size_t count, const char *file, int line);

#endif
