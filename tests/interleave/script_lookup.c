/* SPDX-License-Identifier: MIT */
/* Lookups, by address, name and cursor, against the removal of what they find. */
#include "scripts.h"
#include "world.h"

static struct gr_block *block;
static int gone, next_mapped; /* steps of the deleter that are over */

static void reset(void)
{
	gone = 0;
	next_mapped = 0;
	world_open(NULL);
}

static void delete_and_drain(void)
{
	succeed(gr_block_delete(block));
	gone = 1;
	succeed(gr_ram_drain(world.ram, -1));
	check(world.cells[0].released == 1, "drained, and the block is not released");
}

/* ---------------------------------------------------------------------------------- by address */

static void look_up(void)
{
	int was_gone = 0;
	void *host;
	char owner = 0;

	section_begin();
	was_gone = gone;
	host = gr_host(world.space, 0, 1, GR_READ);
	if (host) {
		check(!was_gone, "the lookup finds a block whose delete has returned");
		owner = hold(host);
	}
	section_end(host, owner);
}

static void look_up_twice(void)
{
	look_up();
	look_up();
}

static void prepare_lookup(void)
{
	reset();
	block = world_block('X', 0, GR_DELETE_UNMAP);
	world_map(0, block, PAGE);
	sched_thread('r', look_up_twice);
	sched_thread('d', delete_and_drain);
}

const struct script script_lookup_delete = {
	.name = "lookup-delete",
	.what = "two lookups against a delete and its reclaim",
	.prepare = prepare_lookup,
	.judge = world_close,
	.quick = 2,
	.full = 4,
	.mutants = {NO_GRACE, FREE_AT_ONCE, NO_WAKE},
};

/* The steps of gr_host() one by one, where a word serves a whole granule. */
static void look_up_in_steps(void)
{
	const struct gr_view *view;
	void *host = NULL;
	uint64_t word;
	char owner = 0;
	int was_gone;

	section_begin();
	was_gone = gone;
	view = gr__space_view(world.space);
	sched_point("view");
	word = gr__view_word(view, 0);
	if (!(word & (GR_READ | GR__WORD_INDIRECT))) {
		host = gr__word_host(word, 0);
		check(!was_gone, "the lookup finds a block whose delete has returned");
		sched_point("word");
		owner = hold(host);
	}
	section_end(host, owner);
}

static void unmap_delete_and_drain(void)
{
	succeed(gr_space_unmap(world.space, 0, CELL_LENGTH));
	gone = 1;
	delete_and_drain();
}

static void prepare_words(void)
{
	reset();
	block = world_big_block('X', 0, 0);
	world_map(0, block, CELL_LENGTH);
	sched_thread('r', look_up_in_steps);
	sched_thread('s', look_up_in_steps);
	sched_thread('d', unmap_delete_and_drain);
}

const struct script script_word_delete = {
	.name = "word-delete",
	.what = "two readers, each step of the inline lookup, against unmap and delete",
	.prepare = prepare_words,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, FREE_AT_ONCE},
};

/* ---------------------------------------------------------------------------- by name and host */

static void find_by_name(void)
{
	struct gr_block_info info = {.host = NULL};
	struct gr_block *found_block;
	char owner = 0;
	int was_gone;

	section_begin();
	was_gone = gone;
	found_block = gr_block_by_name(world.ram, "X");
	if (found_block) {
		check(!was_gone, "a block is found by name whose delete has returned");
		sched_point("found");
		gr_block_get_info(found_block, &info);
		owner = hold(info.host);
	}
	section_end(info.host, owner);
}

static void find_by_host(void)
{
	uint64_t offset = 1;
	struct gr_block *found_block;
	struct gr_pin pin;

	section_begin();
	found_block = gr_block_by_host(world.ram, world.cells[0].host, &offset);
	sched_point("found");
	if (found_block)
		succeed(gr_block_pin(found_block, 0, PAGE, RW, &pin));
	section_end(NULL, 0);
	if (found_block) {
		check(!offset, "found by host at another offset");
		hold(pin.host);
		sched_point("unpin");
		drop(pin.host);
		gr_unpin(&pin);
	}
}

static void prepare_names(void)
{
	reset();
	block = world_block('X', 0, 0);
	sched_thread('n', find_by_name);
	sched_thread('h', find_by_host);
	sched_thread('d', delete_and_drain);
}

const struct script script_name_delete = {
	.name = "name-delete",
	.what = "lookups by name and by host, the latter pins, against a delete",
	.prepare = prepare_names,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, FREE_AT_ONCE},
};

/* ------------------------------------------------------------------------------------- cursors */

static struct gr_cursor cursors[2];
static uint64_t cursor_length;

static void ask_cursor(struct gr_cursor *cursor)
{
	int was_gone, was_mapped;
	void *host;
	char owner = 0;

	section_begin();
	was_gone = gone;
	was_mapped = next_mapped;
	host = gr_cursor_host(cursor, 0, 1, GR_READ);
	check(host || !was_mapped, "the cursor misses a block that was mapped before its section");
	if (host) {
		owner = hold(host);
		check(owner != 'Z', "the cursor gives memory that is not mapped any more");
		check(!was_gone || owner == 'Y',
		      "the cursor gives block %c, whose delete had returned before", owner);
		check(!was_mapped || owner == 'Y', "the cursor gives %c instead of Y", owner);
	}
	section_end(host, owner);
}

static void ask_twice(void)
{
	ask_cursor(&cursors[0]);
	ask_cursor(&cursors[0]);
}

static void ask_once(void)
{
	ask_cursor(&cursors[1]);
}

/* One block gets the same memory, another one the same address. */
static void delete_and_reuse(void)
{
	struct gr_block *next;

	if (cursor_length == PAGE)
		world_map(0, block, PAGE);
	delete_and_drain();
	world_block('Z', 0, 0);
	next = cursor_length == PAGE ? world_block('Y', 1, GR_DELETE_UNMAP)
				     : world_big_block('Y', 1, GR_DELETE_UNMAP);
	world_map(0, next, cursor_length);
	next_mapped = 1;
}

static void prepare_cursor(uint64_t length)
{
	reset();
	cursor_length = length;
	block = length == PAGE ? world_block('X', 0, GR_DELETE_UNMAP)
			       : world_big_block('X', 0, GR_DELETE_UNMAP);
	if (length != PAGE) /* a page is mapped while they look */
		world_map(0, block, length);
	gr_cursor_init(&cursors[0], world.space);
	gr_cursor_init(&cursors[1], world.space);
	sched_thread('r', ask_twice);
	sched_thread('d', delete_and_reuse);
}

static void prepare_cursor_page(void)
{
	prepare_cursor(PAGE);
}

static void prepare_cursor_granule(void)
{
	prepare_cursor(CELL_LENGTH);
	sched_thread('s', ask_once);
}

static void judge_cursor(void)
{
	ask_cursor(&cursors[0]); /* whatever it remembers, it is Y now */
	world_close();
}

const struct script script_cursor_reuse = {
	.name = "cursor-reuse",
	.what = "Q1: a cursor against a map, a delete and the reuse of memory and address, one "
		"page",
	.prepare = prepare_cursor_page,
	.judge = judge_cursor,
	.quick = 2,
	.full = 4,
	.mutants = {NO_GRACE, STUCK_GENERATION, FREE_AT_ONCE},
};

const struct script script_cursor_granule = {
	.name = "cursor-granule",
	.what = "the same with a whole granule, and a second reader with its own cursor",
	.prepare = prepare_cursor_granule,
	.judge = judge_cursor,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, STUCK_GENERATION},
};
