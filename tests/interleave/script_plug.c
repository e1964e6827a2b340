/* SPDX-License-Identifier: MIT */
/*
 * Unplugging a granule against those who look it up, pin it by either way, or listen late. Granules
 * of one page; the second one comes and goes.
 */
#include "scripts.h"
#include "world.h"
#include <guestram/plug.h>

static struct gr_block *block;
static struct gr_plug *plug;
static unsigned holders; /* bits of threads that may touch the granule */
static bool there;	 /* its bytes */
static int result, hidden;

void plug_discards(uint64_t offset)
{
	if (!plug || offset != PAGE)
		return;
	check(!holders, "the granule is discarded while a thread has it");
	there = false;
	sched_point("discarding");
	check(!holders, "a thread got the granule while it is discarded");
}

static void hold_granule(unsigned char *byte)
{
	check(there, "%c was given a granule that has no memory", sched_letter());
	holders |= 1u << sched_number();
	sched_trace("(has the granule)");
	sched_point("held");
	check(there && *byte == 'g', "the granule lost its bytes while %c has it", sched_letter());
	holders &= ~(1u << sched_number());
}

static void look_up(void)
{
	unsigned char *byte;
	bool was_hidden;

	section_begin();
	was_hidden = hidden;
	byte = gr_host(world.space, PAGE, 1, RW);
	check(!byte || !was_hidden, "the granule is visible after the removal that hid it");
	if (byte)
		hold_granule(byte);
	gr_read_end();
}

static void pin_by_address(void)
{
	struct gr_pin pin;

	sched_point("pin");
	if (succeed_or(-EFAULT, gr_pin(world.space, PAGE, PAGE, RW, &pin)) == 0) {
		hold_granule(pin.host);
		gr_unpin(&pin);
	}
}

static void pin_by_block(void)
{
	struct gr_pin pin;

	sched_point("pin");
	if (succeed_or(-EFAULT, gr_block_pin(block, PAGE, PAGE, RW, &pin)) == 0) {
		hold_granule(pin.host);
		gr_unpin(&pin);
	}
}

static void remove_granule(void)
{
	result = succeed_or(-EBUSY, gr_plug_remove(plug, PAGE, PAGE));
	if (!result)
		hidden = 1;
}

static void open_world(void)
{
	const struct gr_plug_opts granules = {.granule = PAGE};
	struct gr_block_opts opts = {.name = "vmem", .length = 2 * PAGE};
	struct gr_block_info info;

	plug = NULL; /* what opening discards is nobody's */
	resize_forget();
	world_open(NULL);
	succeed(gr_block_new(world.ram, &opts, &block));
	world.others = 1;
	succeed(gr_plug_open(block, &granules, &plug));
	succeed(gr_plug_map(plug, world.space, 0, 0, 2 * PAGE, RW));
	succeed(gr_plug_add(plug, 0, 2 * PAGE));
	gr_block_get_info(block, &info);
	((unsigned char *)info.host)[PAGE] = 'g';
	holders = 0;
	there = true;
	result = hidden = 0;
}

static void judge(void)
{
	struct gr_plug *mine = plug;

	check(gr_plug_is(plug, PAGE, PAGE) == (result ? GR_PLUG_ALL : GR_PLUG_NONE),
	      "the removal returned %d, and the granule is not so", result);
	check(there == !!result, "the removal returned %d, and its bytes are not so", result);
	look_up();
	plug = NULL;
	succeed(gr_plug_unmap(mine, world.space, 0));
	succeed(gr_plug_remove_all(mine));
	succeed(gr_plug_close(mine));
	world_close();
}

static void prepare_lookup(void)
{
	open_world();
	sched_thread('r', look_up);
	sched_thread('s', look_up);
	sched_thread('u', remove_granule);
}

const struct script script_plug_lookup = {
	.name = "plug-lookup",
	.what = "two lookups of a granule against its removal",
	.prepare = prepare_lookup,
	.judge = judge,
	.quick = 2,
	.full = 4,
	.mutants = {NO_GRACE},
};

static void prepare_pins(void)
{
	open_world();
	sched_thread('p', pin_by_address);
	sched_thread('b', pin_by_block);
	sched_thread('u', remove_granule);
}

const struct script script_plug_pin = {
	.name = "plug-pin",
	.what = "pins of a granule, by address and by block, against its removal",
	.prepare = prepare_pins,
	.judge = judge,
	.quick = 2,
	.full = 4,
	.mutants = {NO_GRACE, LATE_PIN},
};

/* ------------------------------------------------------------------------ a listener, late */

static struct gr_listener *first, *late;
static int first_told, late_told; /* granules that they know of, by their sums */

static int plugging(void *told, struct gr_block *of, uint64_t offset, uint64_t length)
{
	*(int *)told += (int)(length / PAGE);
	sched_point("told");
	return 0;
}

static int unplugging(void *told, struct gr_block *of, uint64_t offset, uint64_t length)
{
	*(int *)told -= (int)(length / PAGE);
	check(*(int *)told >= 0, "a granule is told as unplugging and was not as plugging");
	sched_point("told");
	return 0;
}

static const struct gr_listener_ops ops = {
	.granules_plugging = plugging,
	.granules_unplugging = unplugging,
};

static void listen(void)
{
	sched_point("open"); /* not in a section yet */
	succeed(gr_listener_open(world.ram, &ops, &late_told, 0, &late));
}

static void prepare_listener(void)
{
	open_world();
	first_told = late_told = 0;
	late = NULL;
	succeed(gr_listener_open(world.ram, &ops, &first_told, 0, &first));
	sched_thread('l', listen);
	sched_thread('u', remove_granule);
}

static void judge_listener(void)
{
	check(first_told == 1, "the first listener's sum is %d granules, not 1", first_told);
	check(late_told == 1, "the late listener's sum is %d granules, not 1", late_told);
	succeed(gr_listener_close(late));
	succeed(gr_listener_close(first));
	check(!first_told && !late_told, "at their close the sums are %d and %d", first_told,
	      late_told);
	judge();
}

const struct script script_plug_listener = {
	.name = "plug-listener",
	.what = "a listener that opens while a granule is removed",
	.prepare = prepare_listener,
	.judge = judge_listener,
	.quick = 3,
	.full = 6,
	.mutants = {TOLD_ONCE, LATE_JOIN},
};
