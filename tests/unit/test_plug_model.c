/* SPDX-License-Identifier: MIT */
/*
 * Granules against a plain model of them: random plugging and unplugging, windows and lenient
 * ranges that come and go, pins, resizes, a listener that refuses, allocations and system calls
 * that fail on purpose; after each step every way to look says what the model says.
 *
 * Deterministic but for the last seed, which is printed: pass it as the argument to run that again.
 */
#include "os/hooks.h"
#include "plug_util.h"
#include "recorder.h"

#define COUNT 24
#define WINDOWS 4
#define SPACES 2
#define PINS 6
#define LENIENT (64 * GIB)

struct window {
	bool open;
	unsigned space;
	uint64_t addr, first, count; /* granules */
};

struct held {
	bool used;
	uint64_t offset, length;
	struct gr_pin pin;
};

struct world {
	struct rng rng;
	struct gr_ram *ram;
	struct gr_space *spaces[SPACES];
	struct gr_block *block;
	struct gr_plug *plug;
	char *host;
	struct watcher watcher;
	struct recorder recorder;
	bool plugged[COUNT];
	uint64_t used; /* granules that the used length has */
	struct window windows[WINDOWS];
	struct held pins[PINS];
	unsigned step;
	bool listens;
};

static uint64_t extra_seed;

/* ---------------------------------------------------------------------- failing on purpose */

static _Thread_local int fail_in; /* this many calls from now; 0: none */
static _Thread_local bool failed;

static int fail_one(const char *call)
{
	if (!fail_in || --fail_in)
		return 0;
	failed = true;
	return ENOMEM;
}

static void arm(struct world *world)
{
	failed = false;
	fail_in = rng_one_in(&world->rng, 4) ? 1 + (int)rng_below(&world->rng, 14) : 0;
}

/* It was told to fail, and did; else it must have returned @want. */
static bool is_failed(struct world *world, const char *what, int rc, int want)
{
	fail_in = 0;
	if (failed && rc == -ENOMEM)
		return true;
	if (rc != want)
		fail_msg("step %u: %s: %d \"%s\", not %d", world->step, what, rc, gr_last_error(),
			 want);
	return false;
}

/* -------------------------------------------------------------------------------- the model */

static bool all_are(const struct world *world, uint64_t first, uint64_t count, bool on)
{
	uint64_t i;

	for (i = first; i < first + count; i++)
		if (world->plugged[i] != on)
			return false;
	return true;
}

static bool has_pin(const struct world *world, uint64_t first, uint64_t count)
{
	uint64_t begin = first * GRANULE, end = begin + count * GRANULE;
	unsigned i;

	for (i = 0; i < PINS; i++)
		if (world->pins[i].used && world->pins[i].offset < end &&
		    begin < world->pins[i].offset + world->pins[i].length)
			return true;
	return false;
}

static unsigned model_pins(const struct world *world)
{
	unsigned count = 0, i;

	for (i = 0; i < PINS; i++)
		count += world->pins[i].used;
	return count;
}

/* ----------------------------------------------------------------------------------- changes */

static void choose_run(struct world *world, uint64_t *first, uint64_t *count)
{
	*first = rng_below(&world->rng, COUNT);
	*count = 1 + rng_below(&world->rng, rng_one_in(&world->rng, 3) ? COUNT - *first : 2);
	if (*count > COUNT - *first)
		*count = COUNT - *first;
}

static void set_run(struct world *world, uint64_t first, uint64_t count, bool on)
{
	uint64_t i;

	for (i = first; i < first + count; i++) {
		world->plugged[i] = on;
		if (!on)
			continue; /* it may be past the used length now */
		if (world->host[i * GRANULE] != 0)
			fail_msg("step %u: granule %d is not zero", world->step, (int)i);
		world->host[i * GRANULE] = 1;
	}
}

static void plug(struct world *world)
{
	uint64_t first, count;
	int want = 0, rc, refuse;

	choose_run(world, &first, &count);
	refuse = world->listens && rng_one_in(&world->rng, 8) ? -EPERM : 0;
	if (first + count > world->used)
		want = -ERANGE;
	else if (!all_are(world, first, count, false))
		want = -EEXIST;
	else
		want = refuse;
	world->watcher.refuse_plugging = refuse;
	arm(world);
	rc = gr_plug_add(world->plug, first * GRANULE, count * GRANULE);
	world->watcher.refuse_plugging = 0;
	if (!is_failed(world, "plug", rc, want) && !rc)
		set_run(world, first, count, true);
}

static void unplug(struct world *world)
{
	uint64_t first, count;
	int want, rc, refuse;

	choose_run(world, &first, &count);
	refuse = world->listens && rng_one_in(&world->rng, 8) ? -EPERM : 0;
	if (!all_are(world, first, count, true))
		want = -ENOENT;
	else
		want = has_pin(world, first, count) ? -EBUSY : refuse;
	world->watcher.refuse_unplugging = refuse;
	arm(world);
	rc = gr_plug_remove(world->plug, first * GRANULE, count * GRANULE);
	world->watcher.refuse_unplugging = 0;
	if (!is_failed(world, "unplug", rc, want) && !rc)
		set_run(world, first, count, false);
}

static void unplug_all(struct world *world)
{
	uint64_t i;
	int want = 0, rc;

	for (i = 0; i < COUNT; i++)
		if (world->plugged[i] && has_pin(world, i, 1))
			want = -EBUSY;
	arm(world);
	rc = gr_plug_remove_all(world->plug);
	if (is_failed(world, "unplug all", rc, want) || rc < 0)
		return;
	set_run(world, 0, COUNT, false);
	for (i = 0; failed && i < world->used; i++) /* of the later runs one may be kept */
		world->host[i * GRANULE] = 0;
}

static void change_window(struct world *world)
{
	unsigned at = (unsigned)rng_below(&world->rng, WINDOWS);
	struct window *window = &world->windows[at];
	int rc;

	if (window->open) {
		arm(world);
		rc = gr_plug_unmap(world->plug, world->spaces[window->space], window->addr);
		if (!is_failed(world, "unmap", rc, 0))
			window->open = false;
		return;
	}
	window->space = (unsigned)rng_below(&world->rng, SPACES);
	choose_run(world, &window->first, &window->count);
	/* mostly not a multiple of the index's granule */
	window->addr = (at + 1) * GIB + rng_below(&world->rng, 3) * PAGE;
	arm(world);
	rc = gr_plug_map(world->plug, world->spaces[window->space], window->addr,
			 window->first * GRANULE, window->count * GRANULE, RW);
	if (!is_failed(world, "map", rc, 0))
		window->open = true;
}

static void change_pin(struct world *world)
{
	struct held *held = &world->pins[rng_below(&world->rng, PINS)];
	uint64_t first, last;
	int rc, want;

	if (held->used) {
		gr_unpin(&held->pin);
		held->used = false;
		return;
	}
	held->offset = rng_below(&world->rng, COUNT * GRANULE / PAGE) * PAGE;
	held->length = rng_one_in(&world->rng, 2) ? PAGE : GRANULE;
	if (held->offset + held->length > COUNT * GRANULE)
		held->length = PAGE;
	first = held->offset / GRANULE;
	last = (held->offset + held->length - 1) / GRANULE;
	want = held->offset + held->length <= world->used * GRANULE &&
			       all_are(world, first, last - first + 1, true)
		       ? 0
		       : -EFAULT;
	if (rng_one_in(&world->rng, 2))
		rc = gr_pin(world->spaces[0], LENIENT + held->offset, held->length, RW, &held->pin);
	else
		rc = gr_block_pin(world->block, held->offset, held->length, RW, &held->pin);
	if (rc != want)
		fail_msg("step %u: pin: %d \"%s\", not %d", world->step, rc, gr_last_error(), want);
	held->used = !rc;
}

static void resize(struct world *world)
{
	uint64_t used = 1 + rng_below(&world->rng, COUNT);
	int want = 0, rc;

	if (used < world->used && model_pins(world))
		want = -EBUSY;
	else if (used < world->used && !all_are(world, used, COUNT - used, false))
		want = -EBUSY;
	arm(world);
	rc = gr_block_resize(world->block, used * GRANULE);
	if (!is_failed(world, "resize", rc, want) && !rc)
		world->used = used;
}

/* A listener comes or goes: it is told of all there is, and its sums are zero at its end. */
static void change_listener(struct world *world)
{
	if (world->listens) {
		watcher_close(&world->watcher);
		recorder_close(&world->recorder);
	} else {
		memset(&world->watcher, 0, sizeof(world->watcher));
		memset(&world->recorder, 0, sizeof(world->recorder));
		watcher_open(&world->watcher, world->ram, world->block, 0);
		recorder_open(&world->recorder, world->ram, 1);
	}
	world->listens = !world->listens;
}

/* ---------------------------------------------------------------------------------- checking */

static void check_window(struct world *world, const struct window *window)
{
	struct gr_space *space = world->spaces[window->space];
	uint64_t i, run;

	for (i = 0; i < window->count; i++) {
		uint64_t addr = window->addr + i * GRANULE, at = window->first + i;
		char *host = world->host + at * GRANULE;
		struct gr_range range;
		int rc;

		gr_read_begin();
		rc = gr_space_find(space, addr, &range);
		if ((rc == 0) != world->plugged[at])
			fail_msg("step %u: granule %d of a window: %d", world->step, (int)at, rc);
		if (gr_host(space, addr, PAGE, RW) != (world->plugged[at] ? host : NULL))
			fail_msg("step %u: lookup of granule %d", world->step, (int)at);
		if (!rc && world->plugged[at] && (!i || !world->plugged[at - 1])) {
			/* maximal: it ends where plugging, or the window, does */
			for (run = 0; i + run < window->count && world->plugged[at + run]; run++)
				;
			if (range.addr != addr || range.length != run * GRANULE ||
			    range.visible != range.length || range.host != host)
				fail_msg("step %u: the range of granule %d", world->step, (int)at);
			if (gr_spans(space, addr, run * GRANULE, RW, NULL, 0) != 1)
				fail_msg("step %u: pieces of granule %d", world->step, (int)at);
			if (gr_host(space, addr, run * GRANULE + 1, RW))
				fail_msg("step %u: past granule %d", world->step, (int)at);
		}
		gr_read_end();
	}
}

static void check_all(struct world *world)
{
	uint64_t bytes = 0, i;
	unsigned w;

	for (i = 0; i < COUNT; i++) {
		int is = gr_plug_is(world->plug, i * GRANULE, GRANULE);

		if (is != (world->plugged[i] ? GR_PLUG_ALL : GR_PLUG_NONE))
			fail_msg("step %u: granule %d is %d", world->step, (int)i, is);
		bytes += world->plugged[i] ? GRANULE : 0;
		/* what is plugged keeps its bytes; what is not, and is visible, is zero */
		if (world->plugged[i] && world->host[i * GRANULE] != 1)
			fail_msg("step %u: granule %d lost its bytes", world->step, (int)i);
		if (!world->plugged[i] && i < world->used && world->host[i * GRANULE] != 0)
			fail_msg("step %u: granule %d is not given back", world->step, (int)i);
	}
	if (gr_plug_bytes(world->plug) != bytes)
		fail_msg("step %u: the sum", world->step);
	if (info_of(world->block).pins != model_pins(world) ||
	    info_of(world->block).length != world->used * GRANULE)
		fail_msg("step %u: the block's pins or length", world->step);
	for (w = 0; w < WINDOWS; w++)
		if (world->windows[w].open)
			check_window(world, &world->windows[w]);
	if (world->listens &&
	    (!watcher_agrees(&world->watcher, world->plug) || world->recorder.wrong))
		fail_msg("step %u: the listener", world->step);
}

static void change(struct world *world)
{
	unsigned dice = (unsigned)rng_below(&world->rng, 100);

	if (dice < 35)
		plug(world);
	else if (dice < 60)
		unplug(world);
	else if (dice < 63)
		unplug_all(world);
	else if (dice < 75)
		change_window(world);
	else if (dice < 90)
		change_pin(world);
	else if (dice < 96)
		resize(world);
	else
		change_listener(world);
}

static void run(uint64_t seed, unsigned steps)
{
	struct world *world = calloc(1, sizeof(*world));
	struct gr_block_opts opts = {
		.name = "vmem",
		.backing = seed % 2 ? GR_BACKING_ANON : GR_BACKING_MEMFD,
		.length = COUNT * GRANULE,
	};
	unsigned i;

	assert_non_null(world);
	world->rng.state = seed;
	assert_ok(gr_ram_open(NULL, &world->ram));
	for (i = 0; i < SPACES; i++)
		assert_ok(gr_space_open(world->ram, "space", &world->spaces[i]));
	assert_ok(gr_block_new(world->ram, &opts, &world->block));
	world->host = info_of(world->block).host;
	world->used = COUNT;
	assert_ok(gr_space_map(world->spaces[0], LENIENT, world->block, 0, COUNT * GRANULE, RW));
	assert_ok(gr_plug_open(world->block, NULL, &world->plug));
	for (world->step = 0; world->step < steps; world->step++) {
		change(world);
		check_all(world);
	}
	for (i = 0; i < PINS; i++)
		if (world->pins[i].used)
			gr_unpin(&world->pins[i].pin);
	for (i = 0; i < WINDOWS; i++)
		if (world->windows[i].open)
			assert_ok(gr_plug_unmap(world->plug, world->spaces[world->windows[i].space],
						world->windows[i].addr));
	assert_ok(gr_plug_remove_all(world->plug));
	if (world->listens)
		change_listener(world);
	assert_ok(gr_plug_close(world->plug));
	assert_int_equal(stats_of(world->ram).ranges, 1);
	assert_ok(gr_ram_close(world->ram));
	free(world);
}

static void test_granules_agree_with_the_model(void **unused)
{
	uint64_t seed;

	for (seed = 1; seed <= 4; seed++)
		run(seed, 1500);
}

static void test_granules_agree_with_the_model_random_seed(void **unused)
{
	print_message("seed %#llx\n", (unsigned long long)extra_seed);
	run(extra_seed, 2500);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_granules_agree_with_the_model),
		cmocka_unit_test(test_granules_agree_with_the_model_random_seed),
	};

	extra_seed = argc > 1 ? strtoull(argv[1], NULL, 0) : seed_of_the_day();
	gr__hook_fault = fail_one;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
