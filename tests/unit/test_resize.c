/* SPDX-License-Identifier: MIT */
/*
 * Blocks that grow and shrink: what listeners are told and in which order, what happens when a step
 * fails and then its undoing does; and changes in callbacks, which must be -EBUSY and nothing else.
 */
#include "os/hooks.h"
#include "plug_util.h"
#include "recorder.h"

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;
static char *host;
static int warnings;

static void count_warnings(void *context, enum gr_log_level level, const char *message)
{
	warnings++;
}

static int open_ram(void **unused)
{
	struct gr_ram_opts opts = {.log = count_warnings};

	warnings = 0;
	assert_ok(gr_ram_open(&opts, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "elastic", 4 * PAGE, 16 * PAGE);
	host = info_of(block).host;
	assert_ok(gr_space_map(space, 0, block, 0, 16 * PAGE, RW));
	return 0;
}

static int close_ram(void **unused)
{
	gr__hook_fault = NULL;
	assert_ok(gr_ram_close(ram));
	return 0;
}

/* ----------------------------------------------------------------------------- what is told */

static void test_a_resize_is_told_in_the_order_that_is_promised(void **unused)
{
	struct recorder recorder = {0};
	struct watcher watcher = {0};

	recorder_open(&recorder, ram, 0);
	watcher_open(&watcher, ram, block, 0);
	log_clear();
	assert_ok(gr_block_resize(block, 8 * PAGE));
	assert_true(event_is(0, RANGE_REMOVED, &recorder, 0, 16 * PAGE));
	assert_int_equal(event_log[0].range.visible, 4 * PAGE);
	assert_true(event_is(1, RANGE_ADDED, &recorder, 0, 16 * PAGE));
	assert_int_equal(event_log[1].range.visible, 8 * PAGE);
	assert_int_equal(event_log[2].kind, COMMITTED);
	assert_int_equal(event_count, 3);
	/* last, and the block says the new length by then */
	assert_int_equal(watcher.resized, 1);
	assert_int_equal(watcher.committed, 1);
	assert_int_equal(watcher.order, watcher.told);
	assert_int_equal(watcher.old_length, 4 * PAGE);
	assert_int_equal(watcher.length, 8 * PAGE);
	assert_ok(gr_block_resize(block, 8 * PAGE)); /* which is none */
	assert_int_equal(watcher.resized, 1);
	assert_ok(gr_block_resize(block, 2 * PAGE));
	assert_int_equal(watcher.old_length, 8 * PAGE);
	assert_int_equal(watcher.length, 2 * PAGE);
	watcher_close(&watcher);
	recorder_close(&recorder);
}

static void test_a_block_that_is_mapped_nowhere_is_told_as_resized_too(void **unused)
{
	struct gr_block *loose = new_anon(ram, "loose", PAGE, 4 * PAGE);
	struct watcher watcher = {0};

	watcher_open(&watcher, ram, loose, 0);
	assert_ok(gr_block_resize(loose, 3 * PAGE));
	assert_int_equal(watcher.resized, 1);
	assert_int_equal(watcher.length, 3 * PAGE);
	assert_int_equal(watcher.committed, 0);
	watcher_close(&watcher);
}

static struct gr_pin pin;

/* A listener pins the tail while it is told that it goes: the shrink finds it and is told back. */
static int pin_tail(void *context, struct gr_space *in, const struct gr_range *range)
{
	int *times = context;

	return ++*times == 2 ? gr_block_pin(block, 3 * PAGE, PAGE, RW, &pin) : 0;
}

static void test_a_shrink_that_fails_is_told_back(void **unused)
{
	struct gr_listener_ops ops = {.range_added = pin_tail};
	struct recorder recorder = {0};
	struct gr_listener *pinner;
	struct watcher watcher = {0};
	int times = 0;

	recorder_open(&recorder, ram, 0);
	watcher_open(&watcher, ram, block, 0);
	assert_ok(gr_listener_open(ram, &ops, &times, 0, &pinner));
	assert_error(gr_block_resize(block, 2 * PAGE), -EBUSY, "pinned");
	assert_int_equal(watcher.resized, 2);
	assert_int_equal(watcher.old_length, 2 * PAGE);
	assert_int_equal(watcher.length, 4 * PAGE);
	assert_true(recorder_agrees(&recorder, space));
	assert_ptr_equal(look_up(space, 0, 4 * PAGE, RW), host);
	gr_unpin(&pin);
	assert_ok(gr_listener_close(pinner));
	watcher_close(&watcher);
	recorder_close(&recorder);
}

/* --------------------------------------------------------- a failure, and another in its undoing
 */

static int fail_discard, fail_allocs;

static int fail_the_discard(const char *call)
{
	if (fail_discard && (!strcmp(call, "madvise") || !strcmp(call, "madvise.remove")))
		return EIO;
	return 0;
}

/* From the failed discard on there is no memory either. */
static int fail_both(const char *call)
{
	if (fail_discard && !strcmp(call, "madvise")) {
		fail_allocs = 1;
		return EIO;
	}
	return fail_allocs && !strcmp(call, "alloc") ? ENOMEM : 0;
}

static void test_a_shrink_whose_discard_fails_shows_the_tail_again(void **unused)
{
	memset(host, 7, 4 * PAGE);
	fail_discard = 1;
	gr__hook_fault = fail_the_discard;
	assert_int_equal(gr_block_resize(block, PAGE), -EIO);
	gr__hook_fault = NULL;
	assert_int_equal(info_of(block).length, 4 * PAGE);
	assert_ptr_equal(look_up(space, 0, 4 * PAGE, RW), host);
	assert_int_equal(host[4 * PAGE - 1], 7);
	assert_int_equal(warnings, 0);
}

/* It stays short, says so, and the next resize gives the tail back whatever it is to. */
static void test_a_tail_that_cannot_be_shown_again_is_put_right_by_the_next_resize(void **unused)
{
	static const uint64_t lengths[] = {PAGE, 2 * PAGE, 6 * PAGE};
	size_t i;

	for (i = 0; i < COUNT_OF(lengths); i++) {
		assert_ok(gr_block_resize(block, 4 * PAGE));
		memset(host, 7, 4 * PAGE);
		warnings = 0;
		fail_discard = 1;
		fail_allocs = 0;
		gr__hook_fault = fail_both;
		assert_int_equal(gr_block_resize(block, 2 * PAGE), -EIO);
		gr__hook_fault = NULL;
		assert_int_equal(warnings, 1);
		assert_int_equal(info_of(block).length, 2 * PAGE);
		assert_null(look_up(space, 3 * PAGE, 1, GR_READ));
		assert_ok(gr_block_resize(block, lengths[i]));
		assert_int_equal(info_of(block).length, lengths[i]);
		assert_ok(gr_block_resize(block, 6 * PAGE));
		assert_ptr_equal(look_up(space, 0, 6 * PAGE, RW), host);
		assert_int_equal(host[2 * PAGE], 0); /* it was given back */
		assert_int_equal(host[0], 7);
	}
}

/* The same for granules: they stay unplugged, everybody knows it, and they can be plugged again. */
static void test_granules_that_cannot_be_shown_again_stay_unplugged(void **unused)
{
	struct gr_block *vmem = new_anon(ram, "vmem", 4 * GRANULE, 0);
	struct watcher watcher = {0};
	struct gr_plug *plug;
	char *at = info_of(vmem).host;
	unsigned both;

	assert_ok(gr_plug_open(vmem, NULL, &plug));
	assert_ok(gr_plug_map(plug, space, GIB, 0, 4 * GRANULE, RW));
	watcher_open(&watcher, ram, vmem, 0);
	for (both = 0; both < 2; both++) {
		assert_ok(gr_plug_add(plug, 0, 3 * GRANULE));
		memset(at, 7, 3 * GRANULE);
		warnings = 0;
		fail_discard = 1;
		fail_allocs = 0;
		gr__hook_fault = both ? fail_both : fail_the_discard;
		assert_int_equal(gr_plug_remove(plug, GRANULE, GRANULE), -EIO);
		gr__hook_fault = NULL;
		assert_true(watcher_agrees(&watcher, plug));
		assert_int_equal(warnings, both);
		assert_int_equal(gr_plug_is(plug, GRANULE, GRANULE),
				 both ? GR_PLUG_NONE : GR_PLUG_ALL);
		assert_ptr_equal(look_up(space, GIB, 3 * GRANULE, RW), both ? NULL : at);
		if (both) {
			assert_ok(gr_plug_add(plug, GRANULE, GRANULE));
			assert_int_equal(at[GRANULE], 0);
		}
		assert_int_equal(at[0], 7);
		assert_ok(gr_block_pin(vmem, GRANULE, PAGE, RW, &pin)); /* as any other */
		gr_unpin(&pin);
		assert_ok(gr_plug_remove_all(plug));
	}
	watcher_close(&watcher);
	assert_ok(gr_plug_unmap(plug, space, GIB));
	assert_ok(gr_plug_close(plug));
}

/* ----------------------------------------------------------------------- changes in callbacks */

static struct gr_block *other;
static int in_added[2], in_removed[2];

static int change_when_added(void *context, struct gr_space *in, const struct gr_range *range)
{
	if (range->addr != GIB)
		return 0;
	in_added[0] = gr_space_unmap(space, GIB, PAGE);
	in_added[1] = gr_space_map(space, GIB, other, 0, PAGE, RW);
	return 0;
}

static void change_when_removed(void *context, struct gr_space *in, const struct gr_range *range)
{
	if (range->addr != GIB)
		return;
	in_removed[0] = gr_space_unmap(space, GIB, PAGE);
	in_removed[1] = gr_space_map(space, GIB, other, 0, PAGE, RW);
}

/* Not -ENOENT for what is not there yet, nor -EEXIST for what is on its way out. */
static void test_a_change_of_what_is_being_told_is_busy_in_a_callback(void **unused)
{
	struct gr_listener_ops ops = {
		.range_added = change_when_added,
		.range_removed = change_when_removed,
	};
	struct gr_listener *listener;

	other = new_anon(ram, "other", PAGE, 0);
	assert_ok(gr_listener_open(ram, &ops, NULL, 0, &listener));
	assert_ok(gr_space_map(space, GIB, block, 0, PAGE, RW));
	assert_ok(gr_space_unmap(space, GIB, PAGE));
	assert_int_equal(in_added[0], -EBUSY);
	assert_int_equal(in_added[1], -EBUSY);
	assert_int_equal(in_removed[0], -EBUSY);
	assert_int_equal(in_removed[1], -EBUSY);
	assert_ok(gr_listener_close(listener));
}

struct restless {
	unsigned added;
	int sum;
};

static int change_again(void *context, struct gr_space *in, const struct gr_range *range)
{
	struct restless *restless = context;

	restless->sum++;
	restless->added++;
	if (range->addr < GIB)
		return 0;
	assert_int_equal(
		gr_space_map(space, GIB + (uint64_t)restless->added * PAGE, other, 0, PAGE, RW), 0);
	return 0;
}

static void count_removed(void *context, struct gr_space *in, const struct gr_range *range)
{
	((struct restless *)context)->sum--;
}

/* A listener that makes a change of each thing it is told would be told for ever. */
static void test_a_listener_that_never_catches_up_is_refused(void **unused)
{
	struct gr_listener_ops ops = {.range_added = change_again, .range_removed = count_removed};
	struct restless restless = {0};
	struct gr_listener *listener = NULL;

	other = new_anon(ram, "other", PAGE, 0);
	assert_ok(gr_space_map(space, GIB, other, 0, PAGE, RW));
	assert_error(gr_listener_open(ram, &ops, &restless, 0, &listener), -EBUSY,
		     "without a pause");
	assert_null(listener);
	assert_int_equal(restless.sum, 0);
	assert_true(restless.added >= 1000);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_a_resize_is_told_in_the_order_that_is_promised),
		each(test_a_block_that_is_mapped_nowhere_is_told_as_resized_too),
		each(test_a_shrink_that_fails_is_told_back),
		each(test_a_shrink_whose_discard_fails_shows_the_tail_again),
		each(test_a_tail_that_cannot_be_shown_again_is_put_right_by_the_next_resize),
		each(test_granules_that_cannot_be_shown_again_stay_unplugged),
		each(test_a_change_of_what_is_being_told_is_busy_in_a_callback),
		each(test_a_listener_that_never_catches_up_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
