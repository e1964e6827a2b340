/* SPDX-License-Identifier: MIT */
/*
 * One loop for each contender of `guestram bench lookup`, see lookup_loops.h.
 *
 * A dependent loop adds the two highest bits of the last host address to the next guest address:
 * they are 0 in every process, which the compiler does not know and the processor has to wait for.
 *
 * The baselines enter liburcu's sections without asking whether their thread is registered, which
 * the library cannot leave out; that is to their advantage.
 *
 * Threads: readers only; nothing here is changed while they run.
 */
#define _LGPL_SOURCE /* liburcu inline, as it is in <guestram.h> */
#include "lookup_loops.h"
#include <urcu/urcu-memb.h>

#define MASK ((uint64_t)BENCH_TRACE - 1)

#define STEP(dependent, find)                                                                      \
	do {                                                                                       \
		uint64_t addr = trace[k & MASK] + ((dependent) ? d : 0);                           \
		const char *host;                                                                  \
                                                                                                   \
		find;                                                                              \
		sum += (uintptr_t)host;                                                            \
		if (dependent)                                                                     \
			d = (uintptr_t)host >> 62;                                                 \
	} while (0)

#define LOOP(name, dependent, prepare, find)                                                       \
	static __attribute__((noinline)) uint64_t name(struct lookup_world *world, int thread,     \
						       uint64_t start, uint64_t iterations)        \
	{                                                                                          \
		const uint64_t *trace = world->trace;                                              \
		uint64_t sum = 0, d = 0, k;                                                        \
                                                                                                   \
		(void)thread;                                                                      \
		prepare;                                                                           \
		for (k = start; k < start + iterations; k++)                                       \
			STEP(dependent, find);                                                     \
		return sum + d;                                                                    \
	}

#define LOOPS(name, prepare, find)                                                                 \
	LOOP(name##_independent, 0, prepare, find)                                                 \
	LOOP(name##_dependent, 1, prepare, find)

LOOPS(empty, , host = (const char *)(uintptr_t)addr /* NOLINT */)

LOOPS(limit, const uint64_t *words = world->flat.words;
      uint64_t count = world->flat.count, host = flat_find(words, count, addr, 8))

LOOPS(guestram, struct gr_space *space = world->space, {
	gr_read_begin();
	host = gr_host(space, addr, 8, GR_READ);
	/* as a user would: what was found is used inside the section */
	sum += (uintptr_t)host;
	gr_read_end();
})

LOOPS(cursor, struct gr_cursor *cursor = &world->thread[thread].cursor, {
	gr_read_begin();
	host = gr_cursor_host(cursor, addr, 8, GR_READ);
	sum += (uintptr_t)host;
	gr_read_end();
})

LOOPS(bisect, , {
	urcu_memb_read_lock();
	host = bisect_find(rcu_dereference(world->bisect), addr, 8);
	sum += (uintptr_t)host;
	urcu_memb_read_unlock();
})

#ifdef CLI_BASELINE
LOOPS(mru, struct mru_list *list = &world->mru, {
	struct mru_block *block;

	urcu_memb_read_lock();
	block = mru_find(list, addr, NULL);
	host = block ? block->host + (addr - block->addr) : NULL;
	sum += (uintptr_t)host;
	urcu_memb_read_unlock();
})
#endif

LOOPS(rwlock, , {
	pthread_rwlock_rdlock(&world->rwlock);
	host = bisect_find(world->bisect, addr, 8);
	sum += (uintptr_t)host;
	pthread_rwlock_unlock(&world->rwlock);
})

/* One section for 64 lookups: what a queue or a vCPU that walks many addresses pays. */
#define LOOP_64(name, dependent)                                                                   \
	static __attribute__((noinline)) uint64_t name(struct lookup_world *world, int thread,     \
						       uint64_t start, uint64_t iterations)        \
	{                                                                                          \
		struct gr_space *space = world->space;                                             \
		const uint64_t *trace = world->trace;                                              \
		uint64_t sum = 0, d = 0, k = start;                                                \
		int i;                                                                             \
                                                                                                   \
		(void)thread;                                                                      \
		while (k < start + iterations) {                                                   \
			gr_read_begin();                                                           \
			for (i = 0; i < 64; i++, k++)                                              \
				STEP(dependent, host = gr_host(space, addr, 8, GR_READ));          \
			gr_read_end();                                                             \
		}                                                                                  \
		return sum + d;                                                                    \
	}

LOOP_64(guestram_64_independent, 0)
LOOP_64(guestram_64_dependent, 1)

const struct lookup_loops lookup_loops[LOOKUP_CONTENDERS] = {
	[LOOKUP_EMPTY] = {"empty_loop", empty_independent, empty_dependent},
	[LOOKUP_LIMIT] = {"limit", limit_independent, limit_dependent},
	[LOOKUP_GUESTRAM] = {"guestram", guestram_independent, guestram_dependent},
	[LOOKUP_GUESTRAM_64] = {"guestram_64", guestram_64_independent, guestram_64_dependent},
	[LOOKUP_CURSOR] = {"cursor", cursor_independent, cursor_dependent},
	[LOOKUP_BISECT] = {"bisect", bisect_independent, bisect_dependent},
#ifdef CLI_BASELINE
	[LOOKUP_MRU] = {"shared_mru", mru_independent, mru_dependent},
#else
	[LOOKUP_MRU] = {"shared_mru", NULL, NULL},
#endif
	[LOOKUP_RWLOCK] = {"rwlock", rwlock_independent, rwlock_dependent},
};
