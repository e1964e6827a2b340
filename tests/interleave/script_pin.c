/* SPDX-License-Identifier: MIT */
/* Pins against delete and reclaim; RAM offsets, which wait for pins too. */
#include "scripts.h"
#include "world.h"

static struct gr_block *block, *other;
static struct gr_pin pins[2];

static void use_and_unpin(struct gr_pin *pin)
{
	void *host = pin->host;
	char owner = hold(host);

	sched_point("pinned");
	use(host, owner);
	drop(host);
	gr_unpin(pin);
}

static void pin_and_unpin(void)
{
	struct gr_pin pin;

	sched_point("pin");
	if (succeed_or(-EFAULT, gr_pin(world.space, 0, PAGE, RW, &pin)) == 0)
		use_and_unpin(&pin);
}

static void pin_spans_and_unpin(void)
{
	struct gr_pin pin;

	sched_point("pin");
	if (succeed_or(-EFAULT, gr_pin_spans(world.space, 0, PAGE, RW, &pin, 1)) == 1)
		use_and_unpin(&pin);
}

static void unpin_first(void)
{
	use_and_unpin(&pins[0]);
}

static void unpin_second(void)
{
	use_and_unpin(&pins[1]);
}

static void delete_and_drain(void)
{
	succeed(gr_block_delete(block));
	succeed(gr_ram_drain(world.ram, -1));
	check(world.cells[0].released == 1, "drained, and the block is not released");
}

static void prepare_pin(void)
{
	world_open(NULL);
	block = world_block('X', 0, GR_DELETE_UNMAP);
	world_map(0, block, PAGE);
	sched_thread('p', pin_and_unpin);
	sched_thread('q', pin_spans_and_unpin);
	sched_thread('d', delete_and_drain);
}

const struct script script_pin_delete = {
	.name = "pin-delete",
	.what = "two pins by address against a delete and its reclaim",
	.prepare = prepare_pin,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, LATE_PIN, TORN_UNPIN, KEPT_UNPIN},
};

static void prepare_unpin(void)
{
	world_open(NULL);
	block = world_block('X', 0, 0);
	succeed(gr_block_pin(block, 0, PAGE, RW, &pins[0]));
	succeed(gr_block_pin(block, 0, PAGE, RW, &pins[1]));
	sched_thread('p', unpin_first);
	sched_thread('q', unpin_second);
	sched_thread('d', delete_and_drain);
}

const struct script script_unpin_reclaim = {
	.name = "unpin-reclaim",
	.what = "the two last pins of a block leave while the worker marks it",
	.prepare = prepare_unpin,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {TORN_UNPIN, KEPT_UNPIN, NO_WAKE},
};

/* The worker takes both blocks at once when it comes late enough. */
static void delete_both_and_drain(void)
{
	succeed(gr_block_delete(other));
	delete_and_drain();
	check(world.cells[1].released == 1, "drained, and Y is not released");
}

static void prepare_two(void)
{
	world_open(NULL);
	block = world_block('X', 0, 0);
	other = world_block('Y', 1, 0);
	succeed(gr_block_pin(block, 0, PAGE, RW, &pins[0]));
	succeed(gr_block_pin(other, 0, PAGE, RW, &pins[1]));
	sched_thread('p', unpin_first);
	sched_thread('q', unpin_second);
	sched_thread('d', delete_both_and_drain);
}

const struct script script_unpin_two = {
	.name = "unpin-two",
	.what = "the last pins of two blocks leave while the worker marks one after the other",
	.prepare = prepare_two,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {KEPT_UNPIN, NO_WAKE},
};

/* --------------------------------------------------------------------------------- RAM offsets */

static uint64_t offset_of_first;

static void delete_only(void)
{
	succeed(gr_block_delete(block));
}

static void make_next(void)
{
	struct gr_block_info info;
	struct gr_block *next = world_block('Y', 1, 0);

	gr_block_get_info(next, &info);
	check(info.ram_offset != offset_of_first || world.cells[0].released,
	      "Y has the RAM offset of X, which is not released");
}

static void prepare_offset(void)
{
	struct gr_block_info info;

	world_open(NULL);
	block = world_block('X', 0, 0);
	gr_block_get_info(block, &info);
	offset_of_first = info.ram_offset;
	succeed(gr_block_pin(block, 0, PAGE, RW, &pins[0]));
	sched_thread('p', unpin_first);
	sched_thread('d', delete_only);
	sched_thread('n', make_next);
}

const struct script script_offset_reuse = {
	.name = "offset-reuse",
	.what = "a new block against the delete, last pin and release of one whose RAM offset it "
		"may get",
	.prepare = prepare_offset,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {EARLY_OFFSET, KEPT_UNPIN},
};
