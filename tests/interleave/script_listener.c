/* SPDX-License-Identifier: MIT */
/* Listeners that come, refuse and go while others change what they are told of. */
#include "backing/backing.h"
#include "scripts.h"
#include "world.h"

static struct gr_block *blocks[2]; /* X, Y */
static struct ledger first, second;
static int results[2];

static void prepare_blocks(void)
{
	world_open(NULL);
	blocks[0] = world_block('X', 0, GR_DELETE_UNMAP);
	blocks[1] = world_block('Y', 1, GR_DELETE_UNMAP);
	world_map(0, blocks[0], PAGE);
	first = (struct ledger){.name = 0};
	second = first;
	results[0] = 0;
	results[1] = 0;
}

static void judge_both(void)
{
	ledger_compare(&first);
	ledger_compare(&second);
	ledger_close(&first);
	ledger_close(&second);
	world_close();
}

/* ---------------------------------------------------------------------------------------- open */

static void open_second(void)
{
	succeed(ledger_open(&second, 'B', -1));
}

static void map_and_unmap(void)
{
	world_map(PAGE, blocks[1], PAGE);
	succeed(gr_space_unmap(world.space, 0, PAGE));
}

static void prepare_open(void)
{
	prepare_blocks();
	succeed(ledger_open(&first, 'A', 0));
	sched_thread('l', open_second);
	sched_thread('n', map_and_unmap);
}

const struct script script_listener_open = {
	.name = "listener-open",
	.what = "a listener opens while a map and an unmap are told to another one",
	.prepare = prepare_open,
	.judge = judge_both,
	.quick = 2,
	.full = 5,
	.mutants = {TOLD_ONCE, LATE_JOIN, NO_LOCK},
};

/* --------------------------------------------------------------------------------------- close */

static void close_first(void)
{
	ledger_close(&first);
}

static void map_y(void)
{
	world_map(PAGE, blocks[1], PAGE);
}

static void delete_x(void)
{
	succeed(gr_block_delete(blocks[0]));
}

static void prepare_close(void)
{
	prepare_blocks();
	succeed(ledger_open(&first, 'A', 0));
	sched_thread('l', close_first);
	sched_thread('n', map_y);
	sched_thread('d', delete_x);
}

const struct script script_listener_close = {
	.name = "listener-close",
	.what = "a listener closes while a map, a delete and its reclaim are told to it",
	.prepare = prepare_close,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {UNCOUNTED, NO_BROADCAST},
};

/* ------------------------------------------------------------------------------------- refusal */

static void map_refused(void)
{
	int rc = gr_space_map(world.space, PAGE, blocks[0], 0, PAGE, RW);

	check(rc == -EPERM || rc == -EBUSY || rc == -EEXIST,
	      "a map that a listener refuses returns %d", rc);
}

static void map_beside(void)
{
	results[0] =
		succeed_or(-EBUSY, gr_space_map(world.space, PAGE, blocks[1], 0, PAGE, GR_READ));
	world_map(2 * PAGE, blocks[1], PAGE);
}

static void prepare_refusal(void)
{
	prepare_blocks();
	succeed(ledger_open(&first, 'A', 0));
	second.refuse = 1u << 1;
	second.refuse_owner = 'X';
	succeed(ledger_open(&second, 'B', 1));
	sched_thread('x', map_refused);
	sched_thread('y', map_beside);
}

static void judge_refusal(void)
{
	check(results[0] || first.has_range[1], "a map that succeeded is not there");
	judge_both();
}

const struct script script_listener_refusal = {
	.name = "listener-refusal",
	.what = "a map that the second listener refuses against maps that it takes",
	.prepare = prepare_refusal,
	.judge = judge_refusal,
	.quick = 2,
	.full = 5,
	.mutants = {NO_REFUSAL, NO_CLAIMS},
};

/* --------------------------------------------------------------- new blocks, found and deleted */

static void make(void)
{
	struct gr_block *block;

	succeed(world_try_block('N', 2, PAGE, 0, &block));
}

static void find_and_delete(void)
{
	struct gr_block *block;

	section_begin();
	block = gr_block_by_name(world.ram, "N");
	sched_point("found");
	if (block)
		results[0] = succeed_or(-EBUSY, gr_block_delete(block)) == 0;
	section_end(NULL, 0);
}

static void prepare_new(void)
{
	prepare_blocks();
	succeed(ledger_open(&first, 'A', 0));
	sched_thread('n', make);
	sched_thread('f', find_and_delete);
	sched_thread('l', open_second);
}

const struct script script_listener_new = {
	.name = "listener-new",
	.what = "a block is made, found and deleted inside a section while a listener opens",
	.prepare = prepare_new,
	.judge = judge_both,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, FREE_AT_ONCE, TOLD_ONCE},
};

/* -------------------------------------------------- blocks that are mapped and deleted at once */

static void delete_while_mapped(void)
{
	sched_await(&first.told);
	results[0] = succeed_or(-EBUSY, gr_block_delete(blocks[1]));
}

static void prepare_map_delete(void)
{
	prepare_blocks();
	succeed(ledger_open(&first, 'A', 0));
	succeed(ledger_open(&second, 'B', 1));
	first.told = 0;
	sched_thread('n', map_y);
	sched_thread('d', delete_while_mapped);
}

const struct script script_map_delete = {
	.name = "map-delete",
	.what = "a delete of a block whose map is being told",
	.prepare = prepare_map_delete,
	.judge = judge_both,
	.quick = 2,
	.full = 3,
	.mutants = {NOT_KEPT},
};

static void delete_it(void)
{
	results[0] = succeed_or(-EBUSY, gr_block_delete(blocks[0]));
}

static void find_and_map(void)
{
	struct gr_block *block;

	section_begin();
	block = gr_block_by_name(world.ram, "X");
	if (block)
		results[1] = succeed_or(
			-EBUSY, gr_space_map(world.space, 3 * PAGE, block, 0, PAGE, GR_READ));
	section_end(NULL, 0);
}

static void prepare_find_map(void)
{
	prepare_blocks();
	succeed(ledger_open(&first, 'A', 0));
	succeed(ledger_open(&second, 'B', 1));
	sched_thread('d', delete_it);
	sched_thread('n', find_and_map);
}

static void judge_find_map(void)
{
	check(!results[0] || !results[1], "each change was refused because of the other");
	judge_both();
}

const struct script script_find_map = {
	.name = "find-map",
	.what = "a block is found by name and mapped while its delete is told",
	.prepare = prepare_find_map,
	.judge = judge_find_map,
	.quick = 2,
	.full = 3,
	.mutants = {NOT_BUSY, NO_GRACE},
};

/* -------------------------------------------------- a refused block that a listener has pinned */

/* The names are the linker's. NOLINTBEGIN(bugprone-reserved-identifier) */
void __real_gr__mem_undo(struct gr__mem *mem);
void __wrap_gr__mem_undo(struct gr__mem *mem);
/* NOLINTEND(bugprone-reserved-identifier) */

static struct gr_pin pin;
static int pinned;
static unsigned undone;

void __wrap_gr__mem_undo(struct gr__mem *mem)
{
	check(!pinned, "the memory of a refused block goes while it is pinned");
	sched_point("undo");
	check(!pinned, "the memory of a refused block is pinned while it goes");
	undone++;
	__real_gr__mem_undo(mem);
}

static int pin_added(void *context, struct gr_block *block)
{
	succeed(gr_block_pin(block, 0, PAGE, RW, &pin));
	pinned = 1;
	sched_point("told.block");
	return 0;
}

static int refuse_added(void *context, struct gr_block *block)
{
	sched_point("told.block");
	return -EPERM;
}

static void make_refused(void)
{
	struct gr_block *block;
	int rc = world_try_block('N', 2, PAGE, 0, &block);

	check(rc == -EPERM, "a refused block returns %d", rc);
}

static void unpin(void)
{
	sched_await(&pinned);
	sched_point("pinned");
	pinned = 0;
	gr_unpin(&pin);
}

static void prepare_refused(void)
{
	static const struct gr_listener_ops pins = {.block_added = pin_added};
	static const struct gr_listener_ops refuses = {.block_added = refuse_added};
	struct gr_listener *listener;

	world_open(NULL);
	pinned = 0;
	undone = 0;
	succeed(gr_listener_open(world.ram, &pins, NULL, 0, &listener));
	succeed(gr_listener_open(world.ram, &refuses, NULL, 1, &listener));
	sched_thread('n', make_refused);
	sched_thread('u', unpin);
}

static void judge_refused(void)
{
	struct gr_ram_stats stats;

	succeed(gr_ram_drain(world.ram, -1));
	check(undone == 1, "the memory of the refused block was undone %u times", undone);
	gr_ram_get_stats(world.ram, &stats);
	world.others = stats.blocks_reclaimed; /* when it had to be undone later */
	check(!stats.blocks && world.others <= 1, "%llu blocks live, %llu were reclaimed",
	      (unsigned long long)stats.blocks, (unsigned long long)world.others);
	world_close();
}

const struct script script_refused_block = {
	.name = "refused-block",
	.what = "a block that one listener pins and another refuses against the unpin",
	.prepare = prepare_refused,
	.judge = judge_refused,
	.quick = 2,
	.full = 5,
	.mutants = {KEPT_UNPIN, NO_REFUSAL},
};

/* ----------------------------------------------------------------------------- a space's close */

static void close_space(void)
{
	sched_await(&first.told);
	results[0] = succeed_or(-EBUSY, gr_space_close(world.space));
	if (!results[0])
		world.space = NULL;
}

static void prepare_space(void)
{
	prepare_blocks();
	succeed(ledger_open(&first, 'A', 0));
	first.told = 0;
	sched_thread('n', map_y);
	sched_thread('c', close_space);
}

static void judge_space(void)
{
	size_t i;

	for (i = 0; i < LEDGER_PAGES; i++)
		check(!first.has_range[i] || world.space,
		      "listener A has page %zu of a closed space", i);
	if (world.space)
		ledger_compare(&first);
	ledger_close(&first);
	world_close();
}

const struct script script_space_close = {
	.name = "space-close",
	.what = "a space closes while a map in it is told",
	.prepare = prepare_space,
	.judge = judge_space,
	.quick = 2,
	.full = 8,
	.mutants = {UNCLAIMED_COMMIT},
};
