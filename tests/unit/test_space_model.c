/* SPDX-License-Identifier: MIT */
/*
 * Spaces against a plain model of them (space_model.h): random changes, some of which run out of
 * memory on purpose, and after each one every way to look up must say what the model says. The
 * shapes of address space are chosen so that the index takes each of its forms and moves between
 * them, and so that chunks split and merge.
 *
 * The model test is deterministic but for its last seed, which is printed: pass it as the argument
 * to run that again.
 */
#include "os/hooks.h"
#include "space/space.h"
#include "space_world.h"

static const struct shape shapes[] = {
	{"a few pages", {{0, 48 * PAGE}}, {PAGE, PAGE, PAGE}, 6, 0, 16, 700, 40},
	{"pages and granules", {{6 * MIB, 16 * MIB}}, {PAGE, PAGE, 2 * MIB}, 700, 1, 10, 500, 24},
	{"granules",
	 {{4 * GIB - 64 * MIB, 256 * MIB}},
	 {2 * MIB, 2 * MIB, PAGE},
	 12,
	 1,
	 40,
	 400,
	 16},
	{"around 64 GiB",
	 {{0, 2 * GIB}, {63 * GIB, 3 * GIB}},
	 {256 * MIB, 2 * MIB, PAGE},
	 9,
	 0,
	 14,
	 700,
	 16},
	{"slots", {{3 * GIB, 120 * GIB}}, {GIB, 512 * MIB, 2 * MIB}, 30, 0, 12, 500, 16},
	{"long ranges", {{0, 900 * GIB}}, {GIB, 2 * MIB, GIB}, 240, 0, 8, 300, 16},
	{"around 16 TiB",
	 {{512 * MIB, 3 * GIB}, {16 * TIB - 2 * GIB, 6 * GIB}, {40 * TIB, 2 * GIB}},
	 {512 * MIB, 2 * MIB, GIB},
	 5,
	 0,
	 12,
	 700,
	 16},
	{"the last granules",
	 {{0 - 16 * MIB, 16 * MIB}},
	 {PAGE, 2 * MIB, 2 * MIB},
	 5,
	 0,
	 8,
	 300,
	 24},
	{"the last 80 GiB",
	 {{0 - 80 * GIB, 80 * GIB}},
	 {GIB, 512 * MIB, 2 * MIB},
	 25,
	 0,
	 8,
	 400,
	 16},
	{"everywhere",
	 {{0, GIB}, {1 * TIB, GIB}, {1ull << 63, GIB}, {0 - GIB, GIB}},
	 {2 * MIB, 256 * MIB, PAGE},
	 4,
	 0,
	 12,
	 600,
	 16},
	{"hundreds of pages", {{GIB, 4096 * PAGE}}, {PAGE, PAGE, PAGE}, 2, 10, 700, 2200, 6},
	{"thousands", {{0, 200 * GIB}}, {2 * MIB, 4 * MIB, 2 * MIB}, 2, 100, 2500, 3200, 4},
};

static char *areas[2]; /* address space of the callers' blocks; never touched */
static const uint64_t area_sizes[2] = {512 * GIB, 64 * MIB + 3 * PAGE};
static uint64_t extra_seed;

/* ------------------------------------------------------------------- running out of memory */

static _Thread_local int fail_in; /* this many allocations from now; 0: none */
static _Thread_local bool failed;

static int fail_one(const char *call)
{
	if (strcmp(call, "alloc") || !fail_in || --fail_in)
		return 0;
	failed = true;
	return ENOMEM;
}

static void arm(struct world *world)
{
	failed = false;
	fail_in = rng_one_in(&world->rng, 5) ? 1 + (int)rng_below(&world->rng, 12) : 0;
}

/* Did the call fail for want of memory, as it was told to? Else it must have returned @want. */
static bool out_of_memory(struct world *world, const char *what, int rc, int want)
{
	fail_in = 0;
	if (failed && rc == -ENOMEM)
		return true;
	if (rc != want)
		fail_msg("step %u: %s: %d \"%s\", not %d", world->step, what, rc, gr_last_error(),
			 want);
	return false;
}

/* ------------------------------------------------------------------------ choosing changes */

struct interval world_choose_interval(struct world *world)
{
	const struct shape *shape = world->shape;
	uint64_t unit = shape->units[rng_below(&world->rng, COUNT_OF(shape->units))];
	const struct window *window;
	uint64_t offset, length;

	do
		window = &shape->windows[rng_below(&world->rng, COUNT_OF(shape->windows))];
	while (!window->size);
	offset = rng_below(&world->rng, window->size) / unit * unit;
	length = unit * (1 + rng_below(&world->rng, shape->longest));
	if (length > window->size - offset)
		length = window->size - offset;
	return (struct interval){window->base + offset, window->base + offset + (length - 1)};
}

static void remember(struct world *world, unsigned space, struct interval interval)
{
	world->recent[space][world->recent_count[space]++ % RECENT] = interval;
}

static struct model_range choose_range(struct world *world)
{
	struct interval interval = world_choose_interval(world);
	struct model_block *block = &world->blocks[rng_below(&world->rng, BLOCKS)];
	uint64_t length = interval.last - interval.first + 1, offset;

	if (length > block->maximum) {
		length = block->maximum;
		interval.last = interval.first + (length - 1);
	}
	/* for blocks that change their length, mostly where the change shows */
	offset = rng_below(&world->rng, (block->maximum - length) / PAGE + 1) * PAGE;
	if (block->resizable && !rng_one_in(&world->rng, 4))
		offset = block->used > length / 2 ? (block->used - length / 2) / PAGE * PAGE : 0;
	if (rng_one_in(&world->rng, 2))
		offset = offset / GR_GRANULE * GR_GRANULE;
	if (offset > block->maximum - length)
		offset = block->maximum - length;
	return (struct model_range){
		.first = interval.first,
		.last = interval.last,
		.block = block,
		.offset = offset,
		.access = 1 + (unsigned)rng_below(&world->rng, 3),
	};
}

/* -------------------------------------------------------------------------------- changing */

static void change_map(struct world *world, unsigned at)
{
	struct model_range range = choose_range(world);
	struct model next;
	int rc, want;

	model_copy(&next, &world->models[at]);
	want = model_map(&next, &range);
	arm(world);
	rc = gr_space_map(world->spaces[at], range.first, range.block->block, range.offset,
			  range.last - range.first + 1, range.access);
	remember(world, at, (struct interval){range.first, range.last});
	if (out_of_memory(world, "map", rc, want) || rc < 0) {
		model_fini(&next);
		return;
	}
	model_fini(&world->models[at]);
	world->models[at] = next;
}

static void unmap(struct world *world, unsigned at, struct interval interval)
{
	struct model next;
	int rc, want;

	model_copy(&next, &world->models[at]);
	want = model_unmap(&next, interval.first, interval.last) ? 0 : -ENOENT;
	arm(world);
	rc = gr_space_unmap(world->spaces[at], interval.first, interval.last - interval.first + 1);
	remember(world, at, interval);
	if (out_of_memory(world, "unmap", rc, want) || rc < 0) {
		model_fini(&next);
		return;
	}
	model_fini(&world->models[at]);
	world->models[at] = next;
}

/* Mostly a piece of something, now and then a whole window or half the space. */
static void change_unmap(struct world *world, unsigned at)
{
	const struct model *model = &world->models[at];
	struct interval interval = world_choose_interval(world);

	if (model->count && !rng_one_in(&world->rng, 4)) {
		const struct model_range *range =
			&model->ranges[rng_below(&world->rng, model->count)];
		uint64_t pages = (range->last - range->first + 1) / PAGE;
		uint64_t skip = rng_one_in(&world->rng, 2) ? rng_below(&world->rng, pages) : 0;
		uint64_t keep =
			rng_one_in(&world->rng, 2) ? rng_below(&world->rng, pages - skip) : 0;

		interval.first = range->first + skip * PAGE;
		interval.last = range->last - keep * PAGE;
	} else if (rng_one_in(&world->rng, 12)) {
		if (rng_one_in(&world->rng, 2))
			interval.first = 0;
		else
			interval.last = UINT64_MAX;
	} else if (interval.first && rng_one_in(&world->rng, 4)) {
		interval.first = (interval.first - 1) / PAGE * PAGE; /* reach over a neighbour */
	}
	if (interval.first == 0 && interval.last == UINT64_MAX)
		interval.first = PAGE; /* its length is no number */
	unmap(world, at, interval);
}

static void change_transaction(struct world *world, unsigned at)
{
	unsigned count = 1 + (unsigned)rng_below(&world->rng, 8), i;
	struct gr_txn *txn;
	struct model next;
	int rc, want = 0;

	model_copy(&next, &world->models[at]);
	assert_ok(gr_txn_begin(world->spaces[at], &txn));
	for (i = 0; i < count; i++) {
		struct model_range range = choose_range(world);
		uint64_t length = range.last - range.first + 1;

		remember(world, at, (struct interval){range.first, range.last});
		if (rng_one_in(&world->rng, 2)) {
			assert_ok(gr_txn_unmap(txn, range.first, length));
			if (!want)
				model_unmap(&next, range.first, range.last);
			if (rng_one_in(&world->rng, 2))
				continue;
		}
		assert_ok(gr_txn_map(txn, range.first, range.block->block, range.offset, length,
				     range.access));
		if (!want)
			want = model_map(&next, &range);
	}
	if (rng_one_in(&world->rng, 8)) {
		gr_txn_abort(txn);
		model_fini(&next);
		return;
	}
	arm(world);
	rc = gr_txn_commit(txn);
	if (out_of_memory(world, "commit", rc, want) || rc < 0) {
		model_fini(&next);
		return;
	}
	model_fini(&world->models[at]);
	world->models[at] = next;
}

static void change_length(struct world *world)
{
	struct model_block *block = &world->blocks[3 + rng_below(&world->rng, 2)];
	uint64_t used = (1 + rng_below(&world->rng, block->maximum / PAGE)) * PAGE;
	int rc;

	if (rng_one_in(&world->rng, 2)) {
		used = (used + GR_GRANULE - 1) / GR_GRANULE * GR_GRANULE;
		if (used > block->maximum)
			used = block->maximum;
	}
	arm(world);
	rc = gr_block_resize(block->block, used);
	if (!out_of_memory(world, "resize", rc, 0))
		block->used = used;
}

static void make_block(struct world *world, unsigned number)
{
	struct model_block *block = &world->blocks[number];
	uint64_t longest = world->shape->longest * world->shape->units[0];
	struct gr_block_opts opts = {.flags = GR_DELETE_UNMAP};
	char name[16];

	snprintf(name, sizeof(name), "block%u", number);
	opts.name = name;
	block->resizable = number >= 3;
	if (block->resizable) {
		block->maximum = (longest < GIB ? longest : GIB) * (number - 2) + 3 * PAGE;
		block->used = (1 + rng_below(&world->rng, block->maximum / PAGE)) * PAGE;
	} else {
		opts.backing = GR_BACKING_CALLER;
		opts.host = areas[number & 1];
		block->maximum = block->used = area_sizes[number & 1];
	}
	opts.length = block->used;
	opts.max_length = block->maximum;
	assert_ok(gr_block_new(world->ram, &opts, &block->block));
	block->host = info_of(block->block).host;
}

static void change_block(struct world *world)
{
	unsigned number = (unsigned)rng_below(&world->rng, BLOCKS), at;
	struct model_block *block = &world->blocks[number];
	int rc;

	arm(world);
	rc = gr_block_delete(block->block);
	if (out_of_memory(world, "delete", rc, 0))
		return;
	for (at = 0; at < SPACES; at++)
		model_unmap_block(&world->models[at], block);
	make_block(world, number);
}

static void open_space(struct world *world, unsigned at)
{
	unsigned i;

	assert_ok(gr_space_open(world->ram, "space", &world->spaces[at]));
	for (i = 0; i < CURSORS; i++)
		gr_cursor_init(&world->cursors[at][i], world->spaces[at]);
	world->opened[at] = gr__space_current(gr__space_of(world->spaces[at]));
	world->changed[at] = false;
}

static void change_space(struct world *world, unsigned at)
{
	int rc;

	arm(world);
	rc = gr_space_close(world->spaces[at]);
	if (out_of_memory(world, "close", rc, 0))
		return;
	model_fini(&world->models[at]);
	open_space(world, at);
}

static void change(struct world *world)
{
	unsigned at = (unsigned)rng_below(&world->rng, SPACES);
	unsigned dice = (unsigned)rng_below(&world->rng, 200);
	unsigned map_below;

	if (world->models[at].count <= world->shape->few)
		world->growing[at] = true;
	if (world->models[at].count >= world->shape->many)
		world->growing[at] = false;
	map_below = world->growing[at] ? 140 : 30;
	if (dice < map_below)
		change_map(world, at);
	else if (dice < 170)
		change_unmap(world, at);
	else if (dice < 186)
		change_transaction(world, at);
	else if (dice < 194)
		change_length(world);
	else if (dice < 199)
		change_block(world);
	else if (world->shape->many < 100 || rng_one_in(&world->rng, 20))
		change_space(world, at);
}

/* ----------------------------------------------------------------------------- the test */

static void run(const struct shape *shape, uint64_t seed)
{
	struct world *world = calloc(1, sizeof(*world));
	uint64_t generation;
	unsigned i;

	assert_non_null(world);
	world->shape = shape;
	world->rng.state = seed;
	assert_ok(gr_ram_open(NULL, &world->ram));
	for (i = 0; i < BLOCKS; i++)
		make_block(world, i);
	for (i = 0; i < SPACES; i++)
		open_space(world, i);
	for (world->step = 0; world->step < shape->steps; world->step++) {
		bool few = world->models[0].count + world->models[1].count < 100;

		generation = stats_of(world->ram).generation;
		failed = false;
		change(world);
		if (failed && stats_of(world->ram).generation < generation)
			fail_msg("step %u: the generation went back", world->step);
		for (i = 0; i < SPACES; i++)
			if (gr__space_current(gr__space_of(world->spaces[i])) != world->opened[i])
				world->changed[i] = true; /* for good, perhaps to nothing */
		world_check(world, world->step % (few ? 4 : 50) == 0);
	}
	world_check(world, true);
	assert_ok(gr_ram_close(world->ram));
	for (i = 0; i < SPACES; i++)
		model_fini(&world->models[i]);
	free(world);
}

static void test_each_shape_agrees_with_the_model(void **unused)
{
	size_t i;

	for (i = 0; i < COUNT_OF(shapes); i++)
		run(&shapes[i], 1 + i);
}

static void test_each_shape_agrees_with_the_model_random_seed(void **unused)
{
	size_t i;

	print_message("seed %#llx\n", (unsigned long long)extra_seed);
	for (i = 0; i < COUNT_OF(shapes); i++)
		run(&shapes[i], extra_seed + i);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_shape_agrees_with_the_model),
		cmocka_unit_test(test_each_shape_agrees_with_the_model_random_seed),
	};
	unsigned i;

	extra_seed = argc > 1 ? strtoull(argv[1], NULL, 0) : seed_of_the_day();
	for (i = 0; i < COUNT_OF(areas); i++)
		areas[i] = reserve(area_sizes[i]);
	gr__hook_fault = fail_one;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
