/* SPDX-License-Identifier: MIT */
/*
 * The old design, a most-recently-used pointer that all readers share, by the same explorer and the
 * same checks: Q1 must be found in it. Its repair, in which the pointer is set to NULL again after
 * a first grace period and the memory goes after a second, must hold.
 */
#include "baseline/shared_mru.h"
#include "scripts.h"
#include "world.h"
#include <urcu/urcu-memb.h>

static struct mru_list list;
static struct mru_block item;
static bool repaired;

static void between_find_and_store(struct mru_block *block)
{
	sched_point("mru.store");
}

static void find(void)
{
	struct mru_block *seen;
	char owner = 0;

	section_begin();
	seen = mru_find(&list, 0, between_find_and_store);
	if (seen)
		owner = hold(world.cells[0].host); /* what seen->host was: `seen` may be gone */
	section_end(seen ? world.cells[0].host : NULL, owner);
}

static void find_twice(void)
{
	find();
	find();
}

static void remove_and_free(void)
{
	mru_remove(&list, &item);
	if (repaired) {
		__atomic_store_n(&list.mru, NULL, __ATOMIC_RELAXED);
		urcu_memb_synchronize_rcu();
	}
	sched_point("free");
	check(!world.cells[0].holders, "the block is freed while a reader has it");
	world.cells[0].owner = 0;
}

static void prepare(void)
{
	world_open(NULL);
	mru_init(&list);
	world.cells[0].owner = 'X';
	world.cells[0].host[0] = 'X';
	item = (struct mru_block){.addr = 0, .length = PAGE, .host = (char *)world.cells[0].host};
	mru_insert(&list, &item);
	sched_thread('r', find_twice);
	sched_thread('s', find);
	sched_thread('d', remove_and_free);
}

static void prepare_old(void)
{
	repaired = false;
	prepare();
}

static void prepare_repaired(void)
{
	repaired = true;
	prepare();
}

static void judge(void)
{
	pthread_mutex_destroy(&list.lock);
	world_close();
}

const struct script script_shared_mru = {
	.name = "shared-mru",
	.what = "Q1 on the old design",
	.prepare = prepare_old,
	.judge = judge,
	.quick = 2,
	.full = 3,
	.wrong = true,
};

const struct script script_repaired_mru = {
	.name = "repaired-mru",
	.what = "Q1 on the old design with two grace periods",
	.prepare = prepare_repaired,
	.judge = judge,
	.quick = 2,
	.full = 4,
	.mutants = {NO_GRACE},
};
