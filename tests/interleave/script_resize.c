/* SPDX-License-Identifier: MIT */
/* Shrinking and growing a block against those who have its tail. */
#include "backing/backing.h"
#include "ram/ram.h"
#include "scripts.h"
#include "world.h"
#include <urcu/compiler.h>

/* The names are the linker's. NOLINTBEGIN(bugprone-reserved-identifier) */
int __real_gr__mem_resize(struct gr__mem *mem, uint64_t length);
int __wrap_gr__mem_resize(struct gr__mem *mem, uint64_t length);
int __real_gr__mem_discard(struct gr__mem *mem, uint64_t offset, uint64_t length);
int __wrap_gr__mem_discard(struct gr__mem *mem, uint64_t offset, uint64_t length);
/* NOLINTEND(bugprone-reserved-identifier) */

static struct gr_block *block; /* two pages, the second is the tail */
static unsigned holders;       /* bits of threads that may touch the tail */
static bool there;	       /* the memory of the tail */
static int hidden, shown;      /* a resize has returned */
static int started;	       /* a resize has come to its memory */
static bool resizing;	       /* and has not returned */
static bool discarding;
static int result;

int __wrap_gr__mem_discard(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	int rc;

	check(!resizing, "pages are discarded while the block is resized");
	plug_discards(offset);
	discarding = true;
	sched_point("discard");
	rc = __real_gr__mem_discard(mem, offset, length);
	discarding = false;
	return rc;
}

int __wrap_gr__mem_resize(struct gr__mem *mem, uint64_t length)
{
	bool shrinks = length < mem->length;
	int rc;

	check(!shrinks || !holders, "the tail is discarded while a thread has it");
	if (mutant == NOT_BUSY)
		caa_container_of(mem, struct gr_block, mem)->busy = false;
	check(!discarding, "the block is resized while pages are discarded");
	started = 1;
	resizing = true;
	sched_point("memory");
	check(!shrinks || !holders, "a thread got the tail while it is discarded");
	if (shrinks)
		there = false;
	rc = __real_gr__mem_resize(mem, length);
	there = mem->length == 2 * PAGE;
	sched_point("memory.done");
	return rc;
}

void resize_forget(void)
{
	resizing = false;
	discarding = false;
}

static void hold_tail(unsigned char *tail)
{
	check(there, "%c was given a tail that has no memory", sched_letter());
	holders |= 1u << sched_number();
	sched_trace("(has the tail)");
}

static void drop_tail(unsigned char *tail)
{
	++*tail; /* it is there, or this ends the process */
	holders &= ~(1u << sched_number());
}

static void look_up(void)
{
	bool was_hidden, was_shown;
	unsigned char *tail;

	section_begin();
	was_hidden = hidden;
	was_shown = shown;
	tail = gr_host(world.space, PAGE, 1, RW);
	/* still hidden: no growth has begun since */
	check(!tail || !was_hidden || !hidden, "the tail is visible after the resize that hid it");
	check(tail || !was_shown, "the tail is hidden after the resize that showed it");
	if (tail)
		hold_tail(tail);
	sched_point("section.end");
	if (tail)
		drop_tail(tail);
	gr_read_end();
}

static void look_up_twice(void)
{
	look_up();
	look_up();
}

static void shrink(void)
{
	result = succeed_or(-EBUSY, gr_block_resize(block, PAGE));
	resizing = false;
	if (!result)
		hidden = 1;
}

static void shrink_and_grow(void)
{
	shrink();
	check(!result, "a shrink was refused, and nobody had a pin");
	sched_point("grow");
	hidden = 0;
	succeed(gr_block_resize(block, 2 * PAGE));
	shown = 1;
}

static void open_world(void)
{
	struct gr_block_opts opts = {.name = "tail", .length = 2 * PAGE, .flags = GR_DELETE_UNMAP};

	world_open(NULL);
	succeed(gr_block_new(world.ram, &opts, &block));
	world.others = 1;
	world_map(0, block, 2 * PAGE);
	holders = 0;
	there = true;
	hidden = 0;
	shown = 0;
	started = 0;
	resizing = false;
	discarding = false;
	result = 0;
}

static void prepare_lookup(void)
{
	open_world();
	sched_thread('r', look_up_twice);
	sched_thread('z', shrink_and_grow);
}

const struct script script_resize_lookup = {
	.name = "resize-lookup",
	.what = "two lookups of a block's tail against a shrink and a growth",
	.prepare = prepare_lookup,
	.judge = world_close,
	.quick = 2,
	.full = 5,
	.mutants = {NO_GRACE, FREE_AT_ONCE},
};

/* ---------------------------------------------------------------------------------------- pins */

static void keep_tail(struct gr_pin *pin)
{
	hold_tail(pin->host);
	sched_point("pinned");
	drop_tail(pin->host);
	gr_unpin(pin);
}

static void pin_by_address(void)
{
	struct gr_pin pin;

	sched_point("pin");
	if (succeed_or(-EFAULT, gr_pin(world.space, PAGE, PAGE, RW, &pin)) == 0)
		keep_tail(&pin);
}

static void pin_by_block(void)
{
	struct gr_pin pin;

	sched_point("pin");
	if (succeed_or(-EFAULT, gr_block_pin(block, PAGE, PAGE, RW, &pin)) == 0)
		keep_tail(&pin);
}

static void prepare_pins(void)
{
	open_world();
	sched_thread('p', pin_by_address);
	sched_thread('b', pin_by_block);
	sched_thread('z', shrink);
}

static void judge_pins(void)
{
	struct gr_block_info info;

	gr_block_get_info(block, &info);
	check(info.length == (result ? 2 * PAGE : PAGE),
	      "the resize returned %d, and %#llx are used", result,
	      (unsigned long long)info.length);
	look_up();
	world_close();
}

const struct script script_resize_pin = {
	.name = "resize-pin",
	.what = "pins of a block's tail, by address and by block, against a shrink",
	.prepare = prepare_pins,
	.judge = judge_pins,
	.quick = 2,
	.full = 5,
	.mutants = {NO_GRACE, LATE_PIN},
};

/* -------------------------------------------------------------------------------------- delete */

static void delete_meanwhile(void)
{
	int rc;

	sched_await(&started);
	rc = succeed_or(-EBUSY, gr_block_delete(block));
	check(rc < 0 || !resizing, "a block is deleted that is being resized");
}

static void shrink_only(void)
{
	shrink();
	check(!result, "the shrink fails with %d", result);
}

static void prepare_delete(void)
{
	open_world();
	sched_thread('z', shrink_only);
	sched_thread('d', delete_meanwhile);
}

const struct script script_resize_delete = {
	.name = "resize-delete",
	.what = "a delete of a block while it is being shrunk",
	.prepare = prepare_delete,
	.judge = world_close,
	.quick = 2,
	.full = 8,
	.mutants = {NOT_BUSY},
};

static void close_meanwhile(void)
{
	int rc;

	sched_await(&started);
	rc = succeed_or(-EBUSY, gr_ram_close(world.ram));
	check(rc < 0 || !resizing, "the RAM is closed while a block is resized");
	world.closed = !rc;
}

static void prepare_close(void)
{
	open_world();
	sched_thread('z', shrink_only);
	sched_thread('c', close_meanwhile);
}

const struct script script_resize_close = {
	.name = "resize-close",
	.what = "a RAM's close while a block is being shrunk",
	.prepare = prepare_close,
	.judge = world_close,
	.quick = 3,
	.full = 6,
	.mutants = {NOT_BUSY},
};

/* ------------------------------------------------------------------------------------- discard */

static void discard(void)
{
	int rc = gr_block_discard(block, 0, PAGE);

	check(!rc || rc == -EBUSY, "a discard returns %d", rc);
}

static void prepare_discard(void)
{
	open_world();
	sched_thread('z', shrink);
	sched_thread('d', discard);
	sched_thread('e', discard);
}

const struct script script_resize_discard = {
	.name = "resize-discard",
	.what = "two discards of pages against a shrink",
	.prepare = prepare_discard,
	.judge = judge_pins,
	.quick = 2,
	.full = 5,
	.mutants = {NOT_BUSY},
};
