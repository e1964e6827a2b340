/* SPDX-License-Identifier: MIT */
/*
 * Windows of foreign memory against their end: evicted by others, invalidated because what is
 * behind them moved, with their block's delete; found by lookups and kept by pins.
 *
 * The memory is two pages whose place changes: `version` counts that. A mapping shows the version
 * of the moment in which it was asked for.
 */
#include "scripts.h"
#include "world.h"
#include <string.h>

#define MAPPINGS 16
#define PAGES 2

static unsigned char memory[MAPPINGS][PAGE] __attribute__((aligned(4096)));
static struct {
	bool mapped;
	unsigned holders; /* bits of threads that may touch it */
	unsigned version;
	unsigned page;
} mappings[MAPPINGS];
static unsigned used, version, invalidated,
	released; /* invalidated: the version asked for by then */
static struct gr_block *block;

static int map(void *context, uint64_t offset, uint64_t length, unsigned access, void **host)
{
	check(used < MAPPINGS, "more windows are mapped than are looked for");
	mappings[used].mapped = true;
	mappings[used].version = version;
	mappings[used].page = (unsigned)(offset / PAGE);
	memory[used][0] = (unsigned char)('a' + offset / PAGE);
	*host = memory[used++];
	return 0;
}

static void unmap(void *context, void *host, uint64_t length)
{
	unsigned at = (unsigned)((unsigned char(*)[PAGE])host - memory);

	check(mappings[at].mapped, "a window is unmapped twice");
	check(!mappings[at].holders, "a window is unmapped while a thread has it");
	mappings[at].mapped = false;
	memory[at][0] = 0;
	sched_trace("(unmaps %u)", at);
	sched_point("unmap");
}

static void release(void *context)
{
	unsigned i;

	for (i = 0; i < used; i++)
		check(!mappings[i].mapped, "the block is released before its windows");
	released++;
}

static const struct gr_foreign_ops domain = {.map = map, .unmap = unmap, .release = release};

/* The thread has what it was given for @page, since it asked when @asked was invalidated. */
static unsigned hold_window(void *host, unsigned page, unsigned asked)
{
	unsigned at = (unsigned)((unsigned char(*)[PAGE])host - memory);

	check(mappings[at].mapped, "%c was given a window that is unmapped", sched_letter());
	check(mappings[at].page == page, "%c was given page %u for page %u", sched_letter(),
	      mappings[at].page, page);
	check(mappings[at].version >= asked, "%c was given what was invalidated before",
	      sched_letter());
	mappings[at].holders |= 1u << sched_number();
	sched_trace("(has %u)", at);
	sched_point("held");
	check(memory[at][0] == 'a' + page, "a window lost its bytes while %c has it",
	      sched_letter());
	return at;
}

static void drop_window(unsigned at)
{
	mappings[at].holders &= ~(1u << sched_number());
}

static void look_up(unsigned page)
{
	unsigned asked, at = 0;
	void *host;

	section_begin();
	asked = invalidated;
	host = gr_host(world.space, page * PAGE, 1, RW);
	if (host)
		at = hold_window(host, page, asked);
	if (host)
		drop_window(at);
	gr_read_end();
}

static void look_up_first(void)
{
	look_up(0);
}

static void look_up_second(void)
{
	look_up(1);
}

static void look_up_both(void)
{
	look_up(0);
	look_up(1);
}

static void use_and_unpin(struct gr_pin *pin, unsigned asked)
{
	drop_window(hold_window(pin->host, 0, asked));
	gr_unpin(pin);
}

static void pin_by_address(void)
{
	struct gr_pin pin;
	unsigned asked;

	sched_point("pin");
	asked = invalidated;
	if (succeed_or(-EFAULT, gr_pin(world.space, 0, PAGE, RW, &pin)) == 0)
		use_and_unpin(&pin, asked);
}

static void pin_by_block(void)
{
	struct gr_pin pin;
	unsigned asked;

	sched_point("pin");
	asked = invalidated;
	if (succeed_or(-EFAULT, gr_block_pin(block, 0, PAGE, RW, &pin)) == 0)
		use_and_unpin(&pin, asked);
}

static void invalidate(void)
{
	unsigned moved, i;
	int rc;

	sched_point("move");
	moved = ++version;
	rc = succeed_or(-EBUSY, gr_foreign_invalidate(block, 0, PAGE));
	invalidated = moved;
	for (i = 0; i < used && !rc; i++)
		check(!mappings[i].mapped || mappings[i].page || mappings[i].version >= moved,
		      "a window is mapped that was invalidated");
}

static void delete_and_drain(void)
{
	succeed(gr_block_delete(block));
	succeed(gr_ram_drain(world.ram, -1));
	check(released == 1, "drained, and the block is not released");
}

static void open_world(uint64_t max_windows)
{
	const struct gr_block_opts opts = {
		.name = "domain",
		.backing = GR_BACKING_FOREIGN,
		.flags = GR_DELETE_UNMAP,
		.length = PAGES * PAGE,
		.window_size = PAGE,
		.max_windows = max_windows,
		.foreign = &domain,
	};

	memset(mappings, 0, sizeof(mappings));
	used = version = invalidated = released = 0;
	world_open(NULL);
	succeed(gr_block_new(world.ram, &opts, &block));
	world.others = 1;
	world_map(0, block, PAGES * PAGE);
}

static void judge(void)
{
	unsigned i;

	world_close();
	check(released == 1, "the block was released %u times", released);
	for (i = 0; i < used; i++)
		check(!mappings[i].mapped, "window %u stays mapped for ever", i);
}

static void prepare_evict(void)
{
	open_world(1);
	look_up_first();
	sched_thread('r', look_up_first);
	sched_thread('s', look_up_second);
}

const struct script script_window_evict = {
	.name = "window-evict",
	.what = "a hit of a window against a miss that evicts it",
	.prepare = prepare_evict,
	.judge = judge,
	.quick = 3,
	.full = 5,
	.mutants = {NO_GRACE},
};

static void prepare_evict_three(void)
{
	open_world(1);
	sched_thread('r', look_up_both);
	sched_thread('s', look_up_second);
	sched_thread('t', look_up_first);
}

const struct script script_window_three = {
	.name = "window-three",
	.what = "lookups of two pages by three threads through one window",
	.prepare = prepare_evict_three,
	.judge = judge,
	.quick = 1,
	.full = 3,
	.mutants = {NO_GRACE},
};

static void prepare_invalidate(void)
{
	open_world(2);
	sched_thread('r', look_up_first);
	sched_thread('s', look_up_first);
	sched_thread('i', invalidate);
}

const struct script script_window_invalidate = {
	.name = "window-invalidate",
	.what = "two lookups, hits or misses, against an invalidation",
	.prepare = prepare_invalidate,
	.judge = judge,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, UNSTALE},
};

static void prepare_pin(void)
{
	open_world(2);
	sched_thread('p', pin_by_address);
	sched_thread('b', pin_by_block);
	sched_thread('i', invalidate);
}

const struct script script_window_pin = {
	.name = "window-pin",
	.what = "pins of a window, by address and by block, against its invalidation",
	.prepare = prepare_pin,
	.judge = judge,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, UNSTALE, TORN_WINDOW, KEPT_WINDOW},
};

static void prepare_delete(void)
{
	open_world(2);
	sched_thread('p', pin_by_address);
	sched_thread('r', look_up_first);
	sched_thread('d', delete_and_drain);
}

const struct script script_window_delete = {
	.name = "window-delete",
	.what = "a pin and a lookup of a window against the delete of its block",
	.prepare = prepare_delete,
	.judge = judge,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, KEPT_UNPIN},
};
