/* SPDX-License-Identifier: MIT */
/*
 * The loops that `guestram bench lookup` times: one noinline function for each contender and kind,
 * all of one shape, so that the compiler treats them alike.
 */
#ifndef LOOKUP_LOOPS_H
#define LOOKUP_LOOPS_H

#include "baseline/bisect.h"
#include "baseline/flat.h"
#include "baseline/shared_mru.h"
#include "bench.h"
#include <guestram.h>

/* What is looked up in: the same ranges for every contender. const while loops run, but for mru. */
struct lookup_world {
	uint64_t trace[BENCH_TRACE];
	struct flat flat;
	struct bisect *bisect; /* RCU */
	pthread_rwlock_t rwlock;
	struct gr_space *space;
	/* on lines of their own: readers store to them */
	struct mru_list mru __attribute__((aligned(128)));
	struct {
		struct gr_cursor cursor;
	} __attribute__((aligned(128))) thread[BENCH_THREADS_MAX];
};

enum lookup_contender {
	LOOKUP_EMPTY, /* the loop alone: subtracted from all others */
	LOOKUP_LIMIT,
	LOOKUP_GUESTRAM,
	LOOKUP_GUESTRAM_64,
	LOOKUP_CURSOR,
	LOOKUP_BISECT,
	LOOKUP_MRU,
	LOOKUP_RWLOCK,
	LOOKUP_CONTENDERS,
};

/*
 * Looks up @iterations (a multiple of 64) addresses of the trace from @start on, 8 bytes each, and
 * returns the sum of the host addresses, which keeps the compiler honest.
 */
typedef uint64_t (*lookup_loop)(struct lookup_world *world, int thread, uint64_t start,
				uint64_t iterations);

struct lookup_loops {
	const char *name;
	lookup_loop independent; /* NULL: built without this one */
	lookup_loop dependent;	 /* each address waits for the lookup before it */
};

extern const struct lookup_loops lookup_loops[LOOKUP_CONTENDERS];

#endif
