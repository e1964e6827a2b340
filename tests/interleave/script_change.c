/* SPDX-License-Identifier: MIT */
/* Two writers in one space, with and without listeners, and a reader who must see all or nothing.
 */
#include "ram/ram.h"
#include "scripts.h"
#include "world.h"
#include <string.h>

static struct gr_block *blocks[3]; /* X, Y, Z */
static struct ledger ledger;
static int results[2];

/* -------------------------------------------------------------------------------- transactions */

/* Replace both pages by those of a block of its own. */
static void replace(struct gr_block *block, int *result)
{
	struct gr_txn *txn;

	succeed(gr_txn_begin(world.space, &txn));
	succeed(gr_txn_unmap(txn, 0, 2 * PAGE));
	succeed(gr_txn_map(txn, 0, block, 0, PAGE, RW));
	succeed(gr_txn_map(txn, PAGE, block, 0, PAGE, RW));
	*result = succeed_or(-EBUSY, gr_txn_commit(txn));
}

static void replace_by_x(void)
{
	replace(blocks[0], &results[0]);
}

static void replace_by_y(void)
{
	replace(blocks[1], &results[1]);
}

struct seen {
	struct gr_block *blocks[2];
	unsigned count;
};

static int see(void *context, const struct gr_range *range)
{
	struct seen *seen = context;

	check(seen->count < 2 && range->addr == seen->count * PAGE, "a range at %#llx",
	      (unsigned long long)range->addr);
	seen->blocks[seen->count++] = range->block;
	return 0;
}

static struct gr_block *see_all_or_nothing(void)
{
	struct seen seen = {.count = 0};

	section_begin();
	gr_space_each_range(world.space, see, &seen);
	check(seen.count == 2 && seen.blocks[0] == seen.blocks[1],
	      "a part of a transaction is seen: %u ranges, of %s", seen.count,
	      seen.blocks[0] == seen.blocks[1] ? "one block" : "two blocks");
	section_end(NULL, 0);
	return seen.blocks[0];
}

static void read_all_or_nothing(void)
{
	see_all_or_nothing();
}

static void prepare_blocks(void)
{
	world_open(NULL);
	blocks[0] = world_block('X', 0, 0);
	blocks[1] = world_block('Y', 1, 0);
	blocks[2] = world_block('Z', 2, 0);
	world_map(0, blocks[2], PAGE);
	world_map(PAGE, blocks[2], PAGE);
	memset(results, 0, sizeof(results));
}

static void prepare_txns(void)
{
	prepare_blocks();
	sched_thread('x', replace_by_x);
	sched_thread('y', replace_by_y);
	sched_thread('r', read_all_or_nothing);
}

static void judge_txns(void)
{
	struct gr_block *last = see_all_or_nothing();

	check(!results[0] && !results[1], "a transaction failed that nobody was in the way of");
	check(last != blocks[2], "both were committed, and what was there before still is");
	world_close();
}

const struct script script_txn_txn = {
	.name = "txn-txn",
	.what = "two transactions on the same addresses against a reader",
	.prepare = prepare_txns,
	.judge = judge_txns,
	.quick = 2,
	.full = 4,
	.mutants = {NO_LOCK, TORN_TXN},
};

static void prepare_told(void)
{
	prepare_blocks();
	succeed(ledger_open(&ledger, 'l', 0));
	sched_thread('x', replace_by_x);
	sched_thread('y', replace_by_y);
}

static void judge_told(void)
{
	struct gr_block *last = see_all_or_nothing();

	check(!results[0] || !results[1], "each transaction was refused because of the other");
	check(last == (results[0]   ? blocks[1]
		       : results[1] ? blocks[0]
				    : last),
	      "a transaction that was refused is visible");
	check(last != blocks[2], "what was there before still is");
	ledger_compare(&ledger);
	ledger_close(&ledger);
	world_close();
}

const struct script script_txn_told = {
	.name = "txn-told",
	.what = "the same with a listener: they may refuse each other, it never gets muddled",
	.prepare = prepare_told,
	.judge = judge_told,
	.quick = 2,
	.full = 5,
	.mutants = {NO_CLAIMS},
};

static int collected; /* the transaction has its block */

static void map_in_txn(void)
{
	struct gr_txn *txn;

	succeed(gr_txn_begin(world.space, &txn));
	succeed(gr_txn_map(txn, 2 * PAGE, blocks[1], 0, PAGE, RW));
	collected = 1;
	sched_point("collected");
	succeed(gr_txn_commit(txn));
}

static void delete_collected(void)
{
	sched_await(&collected);
	results[0] = succeed_or(-EBUSY, gr_block_delete(blocks[1]));
}

static void prepare_txn_delete(void)
{
	prepare_blocks();
	collected = 0;
	sched_thread('t', map_in_txn);
	sched_thread('d', delete_collected);
}

static void judge_txn_delete(void)
{
	check(results[0], "a block is deleted that a transaction has mapped");
	world_close();
}

const struct script script_txn_delete = {
	.name = "txn-delete",
	.what = "a delete of a block that an open transaction maps",
	.prepare = prepare_txn_delete,
	.judge = judge_txn_delete,
	.quick = 3,
	.full = 6,
	.mutants = {NOT_KEPT},
};

/* ------------------------------------------------------------------------ an unmap with a hole */

static void unmap_both(void)
{
	results[0] = succeed_or(-EBUSY, gr_space_unmap(world.space, 0, 2 * PAGE));
}

static void map_into_hole(void)
{
	results[1] =
		succeed_or(-EBUSY, gr_space_map(world.space, PAGE, blocks[1], 0, PAGE, GR_READ));
	if (!results[1])
		succeed_or(-EBUSY, gr_space_map(world.space, 2 * PAGE, blocks[1], 0, PAGE, RW));
}

static void prepare_hole(void)
{
	prepare_blocks();
	succeed(gr_space_unmap(world.space, PAGE, PAGE));
	succeed(ledger_open(&ledger, 'l', 0));
	sched_thread('u', unmap_both);
	sched_thread('n', map_into_hole);
}

static void judge_hole(void)
{
	check(!results[0] || !results[1], "each change was refused because of the other");
	ledger_compare(&ledger);
	ledger_close(&ledger);
	world_close();
}

const struct script script_unmap_hole = {
	.name = "unmap-hole",
	.what = "an unmap over a range and a hole against a map into the hole, with a listener",
	.prepare = prepare_hole,
	.judge = judge_hole,
	.quick = 2,
	.full = 5,
	.mutants = {NO_CLAIMS},
};

/* -------------------------------------------------------------- writers that outrun the worker */

static void map_and_settle(void)
{
	/* As if thousands of views had been replaced since: it waits for readers itself. */
	world.ram->garbage_count = 1 << 20;
	succeed(gr_space_unmap(world.space, 0, PAGE));
}

static void delete_last(void)
{
	succeed(gr_block_delete(blocks[1])); /* the worker takes what is replaced by then */
}

static void look_up(void)
{
	void *host;
	char owner = 0;

	section_begin();
	host = gr_host(world.space, 0, 1, GR_READ);
	if (host)
		owner = hold(host);
	section_end(host, owner);
}

static void prepare_settle(void)
{
	prepare_blocks();
	sched_thread('u', map_and_settle);
	sched_thread('d', delete_last);
	sched_thread('r', look_up);
}

const struct script script_settle = {
	.name = "settle",
	.what = "a writer that frees replaced views itself, the worker that does too, and a reader",
	.prepare = prepare_settle,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, FREE_AT_ONCE},
};
