/* SPDX-License-Identifier: MIT */
/*
 * `guestram torture --baseline shared-mru`: the old design (bench/baseline/shared_mru.h) under the
 * same checks. It must be caught.
 *
 * A hook widens the design's window: a reader that found a block in the list waits, before it
 * stores it to the shared pointer, until that block is unlinked, or for some milliseconds. All
 * readers look mostly at the slot whose block goes next, so that one of them follows the pointer
 * after the release. Without the hook the same happens, but rarely.
 *
 * Threads: each writer owns the slots of its number; `hot` is what readers look at (atomic).
 */
#include "baseline/shared_mru.h"
#include "bench.h"
#include "torture.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

enum { WINDOW_US = 5000, NAP_US = 20, PLUGGED_US = 300, GONE_US = 300 };

/* One process tortures one world at a time. */
static struct {
	struct mru_list list;
	struct mru_block node[TORTURE_POOL]; /* of the descriptor with the same index */
	uint64_t hot;			     /* atomic: address */
} base;

int baseline_open(struct world *world)
{
	(void)world;
	mru_init(&base.list);
	return 0;
}

void baseline_close(struct world *world)
{
	(void)world;
	pthread_mutex_destroy(&base.list.lock);
}

/* Between finding @block in the list and caching it. */
static void wait_for_unlink(struct mru_block *block)
{
	int waited;

	for (waited = 0; waited < WINDOW_US; waited += NAP_US) {
		/* pairs with mru_remove() */
		if (__atomic_load_n(&block->unlinked, __ATOMIC_ACQUIRE))
			return;
		usleep(NAP_US);
	}
}

struct reader {
	struct world *world;
	uint64_t random, lookups;
};

static void look_up(void *context)
{
	struct reader *reader = context;
	struct world *world = reader->world;
	uint64_t step = torture_step(TORTURE_LARGE), since = world_now(world), addr;
	struct mru_block *block;
	struct stamp stamp, again;

	addr = __atomic_load_n(&base.hot, __ATOMIC_RELAXED) +
	       (torture_random(&reader->random) >> 32) % 16 * step;
	urcu_memb_read_lock();
	block = mru_find(&base.list, addr, wait_for_unlink);
	if (block) {
		const char *host = block->host + (addr - block->addr);

		world_read_stamp(host, &stamp);
		if (world_check(world, &stamp, SPACE_GUEST, addr, GR_READ, since)) {
			world_read_stamp(host, &again);
			if (again.serial != stamp.serial)
				world_stale(world, "a stamp changed inside a section", SPACE_GUEST,
					    addr, &again);
		}
	}
	urcu_memb_read_unlock();
	reader->lookups++;
}

void *baseline_reader(void *argument)
{
	struct torture_thread *thread = argument;
	struct reader reader = {thread->world, 0, 0};

	reader.random = torture_seed(thread->world->options->seed, (uint64_t)thread->number);
	urcu_memb_register_thread();
	while (!torture_stopped(reader.world)) {
		torture_guarded(reader.world, look_up, &reader);
		if (reader.lookups >= 256) {
			torture_count(&reader.world->lookups, reader.lookups);
			reader.lookups = 0;
		}
	}
	urcu_memb_unregister_thread();
	torture_count(&reader.world->lookups, reader.lookups);
	return NULL;
}

void *baseline_writer(void *argument)
{
	struct torture_thread *thread = argument;
	struct world *world = thread->world;
	uint64_t random = torture_seed(world->options->seed, 100 + (uint64_t)thread->number);

	urcu_memb_register_thread();
	while (!torture_stopped(world)) {
		struct desc *desc = world_take(world, true, TORTURE_LARGE);
		int slot = (int)((torture_random(&random) >> 32) % TORTURE_SLOTS);
		uint64_t addr = torture_place(thread->number, slot, 0);
		struct mru_block *node;

		if (!desc) { /* more writers than blocks */
			usleep(GONE_US);
			continue;
		}
		node = &base.node[desc - world->desc];
		world_stamp(world, desc);
		world_map(desc, SPACE_GUEST, addr, TORTURE_LARGE, 0, GR_READ);
		node->addr = addr;
		node->length = TORTURE_LARGE;
		node->host = desc->host;
		mru_insert(&base.list, node);
		torture_count(&world->created, 1);
		__atomic_store_n(&base.hot, addr, __ATOMIC_RELAXED);
		usleep(PLUGGED_US);

		desc->deleted = bench_now();
		mru_remove(&base.list, node); /* waits for a grace period */
		torture_count(&world->removals, 1);
		__atomic_store_n(&desc->mapping[0].ended, world_tick(world), __ATOMIC_RELAXED);
		world_release(world, desc);
		torture_count(&world->reclaims, 1);
		usleep(GONE_US);
		world_leave(world, desc);
		world_leave(world, desc);
	}
	urcu_memb_unregister_thread();
	return NULL;
}
