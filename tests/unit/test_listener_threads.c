/* SPDX-License-Identifier: MIT */
/*
 * Listeners while several threads change things: a callback that stays inside a change, and what
 * others may do meanwhile; listeners that come and go under a storm of changes.
 */
#include "recorder.h"

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;

static int open_ram(void **unused)
{
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "ram0", 64 * PAGE, 0);
	log_clear();
	return 0;
}

static int close_ram(void **unused)
{
	assert_ok(gr_ram_close(ram));
	return 0;
}

static int map(uint64_t page, uint64_t pages)
{
	return gr_space_map(space, page * PAGE, block, page * PAGE, pages * PAGE, RW);
}

static int unmap(uint64_t page, uint64_t pages)
{
	return gr_space_unmap(space, page * PAGE, pages * PAGE);
}

/* ------------------------------------------------------------------ a change that is being told */

static struct gate inside, leave;
static enum event_kind stop_at;
static bool stuck;

static void stop_inside(struct recorder *recorder, const struct event *event)
{
	if (event->kind != stop_at)
		return;
	recorder->hook = NULL;
	gate_open(&inside);
	stuck |= !gate_wait(&leave);
}

static int changer_rc;

static void *map_4_to_7(void *unused)
{
	changer_rc = map(4, 4);
	return NULL;
}

static void *unmap_half(void *unused)
{
	changer_rc = unmap(0, 32);
	return NULL;
}

static pthread_t start_change(struct recorder *recorder, enum event_kind kind,
			      void *(*change)(void *))
{
	pthread_t thread;

	gate_init(&inside);
	gate_init(&leave);
	stuck = false;
	changer_rc = 1;
	stop_at = kind;
	recorder->hook = stop_inside;
	thread = thread_start(change, NULL);
	assert_true(gate_wait(&inside));
	return thread;
}

static void end_change(pthread_t thread)
{
	gate_open(&leave);
	thread_join(thread);
	assert_false(stuck);
}

static void test_others_change_other_ranges_meanwhile(void **unused)
{
	struct recorder recorder = {0};
	struct gr_block *other;
	struct gr_space *iova;
	struct gr_txn *txn;
	pthread_t thread;

	recorder_open(&recorder, ram, 0);
	assert_ok(map(20, 2));
	thread = start_change(&recorder, RANGE_ADDED, map_4_to_7);
	assert_ok(map(8, 2)); /* its neighbour */
	assert_ok(map(0, 4));
	assert_ok(unmap(20, 1));
	assert_error(map(7, 1), -EBUSY, "being changed");
	assert_error(map(3, 1), -EEXIST, "overlaps");
	assert_error(map(4, 4), -EBUSY, "being changed");
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_map(txn, 30 * PAGE, block, 0, PAGE, RW));
	assert_ok(gr_txn_map(txn, 5 * PAGE, block, 0, PAGE, RW));
	assert_int_equal(gr_txn_commit(txn), -EBUSY);
	assert_null(look_up(space, 30 * PAGE, 1, 0));
	assert_int_equal(gr_space_close(space), -EBUSY);
	assert_int_equal(gr_block_delete(block), -EBUSY);
	assert_error(gr_ram_close(ram), -EBUSY, "another thread");
	other = new_anon(ram, "ram1", PAGE, 0);
	assert_ok(gr_space_open(ram, "iova", &iova));
	assert_ok(gr_space_map(iova, 4 * PAGE, other, 0, PAGE, RW)); /* another space */
	assert_ok(gr_space_close(iova));
	assert_ok(gr_block_delete(other));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_null(look_up(space, 4 * PAGE, 1, 0)); /* not published yet */
	end_change(thread);
	assert_int_equal(changer_rc, 0);
	assert_non_null(look_up(space, 4 * PAGE, 4 * PAGE, RW));
	assert_true(recorder_agrees(&recorder, space));
	recorder_close(&recorder);
}

/* What comes into a hole of an unmap under way would leave with it, untold. */
static void test_nothing_comes_into_the_holes_of_an_unmap_that_is_being_told(void **unused)
{
	struct recorder recorder = {0};
	pthread_t thread;

	recorder_open(&recorder, ram, 0);
	assert_ok(map(4, 4));
	assert_ok(map(40, 4));
	thread = start_change(&recorder, RANGE_REMOVED, unmap_half);
	assert_non_null(look_up(space, 4 * PAGE, 4 * PAGE, RW)); /* still there */
	assert_int_equal(map(20, 1), -EBUSY);
	assert_int_equal(unmap(5, 1), -EBUSY);
	assert_ok(map(50, 1));
	assert_ok(unmap(40, 1));
	end_change(thread);
	assert_int_equal(changer_rc, 0);
	assert_ok(map(20, 1));
	assert_true(recorder_agrees(&recorder, space));
	recorder_close(&recorder);
}

static void test_a_listener_opened_meanwhile_is_told_all_in_the_end(void **unused)
{
	static const int refusals[] = {0, -EPERM};
	size_t i;

	for (i = 0; i < COUNT_OF(refusals); i++) {
		struct recorder first = {0}, last = {0}, later = {0}, lowest = {0};
		pthread_t thread;

		assert_ok(map(20, 2));
		recorder_open(&first, ram, 0);
		recorder_open(&last, ram, 1);
		thread = start_change(&first, RANGE_ADDED, map_4_to_7);
		recorder_open(&later, ram, 2);
		recorder_open(&lowest, ram, -1);
		assert_int_equal(later.count, 2); /* the block and what was published */
		last.refuse_in = refusals[i] ? 1 : 0;
		last.refuse_with = refusals[i];
		end_change(thread);
		assert_int_equal(changer_rc, refusals[i]);
		assert_true(recorder_agrees(&first, space));
		assert_true(recorder_agrees(&last, space));
		assert_true(recorder_agrees(&later, space));
		assert_true(recorder_agrees(&lowest, space));
		assert_int_equal(look_up(space, 4 * PAGE, 1, 0) != NULL, !refusals[i]);
		recorder_close(&later);
		recorder_close(&last);
		recorder_close(&lowest);
		recorder_close(&first);
		assert_ok(unmap(0, 64));
	}
}

static void test_a_late_listener_may_refuse_the_change_it_came_into(void **unused)
{
	struct recorder first = {0}, later = {0};
	pthread_t thread;

	recorder_open(&first, ram, 0);
	thread = start_change(&first, RANGE_ADDED, map_4_to_7);
	recorder_open(&later, ram, 1);
	later.refuse_in = 1;
	later.refuse_with = -EPERM;
	end_change(thread);
	assert_int_equal(changer_rc, -EPERM);
	assert_null(look_up(space, 4 * PAGE, 1, 0));
	assert_true(recorder_agrees(&first, space) && recorder_agrees(&later, space));
	recorder_close(&first);
	recorder_close(&later);
}

/* ------------------------------------------------------------------------------------- close */

struct closing {
	struct recorder *recorder;
	int rc, over;
};

static void *close_listener(void *arg)
{
	struct closing *closing = arg;

	closing->rc = gr_listener_close(closing->recorder->listener);
	set(&closing->over, 1);
	return NULL;
}

static void test_close_waits_for_a_callback_that_runs(void **unused)
{
	struct recorder recorder = {0};
	struct closing closing = {.recorder = &recorder, .rc = 1};
	pthread_t thread, closer;

	recorder_open(&recorder, ram, 0);
	thread = start_change(&recorder, RANGE_ADDED, map_4_to_7);
	closer = thread_start(close_listener, &closing);
	sleep_us(20000);
	assert_int_equal(get(&closing.over), 0);
	end_change(thread);
	thread_join(closer);
	assert_int_equal(closing.rc, 0);
	assert_int_equal(recorder.count, 0);
	assert_int_equal(recorder.wrong, 0);
}

static void test_close_in_a_section_says_deadlock(void **unused)
{
	struct recorder recorder = {0};

	recorder_open(&recorder, ram, 0);
	gr_read_begin();
	assert_error(gr_listener_close(recorder.listener), -EDEADLK, "section");
	gr_read_end();
	recorder_close(&recorder);
}

/* ------------------------------------------------------------------------------------- storm */

#define STORM_MS 400
static int stop_storm, storm_errors;

static void *change_at_random(void *arg)
{
	struct rng rng = {(uintptr_t)arg};

	while (!get(&stop_storm)) {
		uint64_t page = rng_below(&rng, 60), pages = 1 + rng_below(&rng, 4);
		int rc = rng_one_in(&rng, 2) ? map(page, pages) : unmap(page, pages);

		if (rc && rc != -EEXIST && rc != -ENOENT && rc != -EBUSY)
			__atomic_add_fetch(&storm_errors, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *make_blocks(void *unused)
{
	struct gr_block_opts opts = {.name = "dimm", .length = PAGE, .flags = GR_DELETE_UNMAP};
	struct gr_block *dimm;

	while (!get(&stop_storm)) {
		int rc = gr_block_new(ram, &opts, &dimm);

		if (!rc) {
			gr_space_map(space, 62 * PAGE, dimm, 0, PAGE, RW);
			do
				rc = gr_block_delete(dimm);
			while (rc == -EBUSY);
		}
		if (rc)
			__atomic_add_fetch(&storm_errors, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void test_sums_are_zero_after_a_storm(void **unused)
{
	static struct recorder steady, coming;
	pthread_t threads[3];
	int64_t end = now_ms() + STORM_MS;
	unsigned opened = 0, i;

	memset(&steady, 0, sizeof(steady));
	set(&stop_storm, 0);
	recorder_open(&steady, ram, 0);
	threads[0] = thread_start(change_at_random, (void *)1);
	threads[1] = thread_start(change_at_random, (void *)2);
	threads[2] = thread_start(make_blocks, NULL);
	/* a busy machine may not get far in that time */
	while (now_ms() < end || (opened < 3 && now_ms() < end + LONG_MS)) {
		memset(&coming, 0, sizeof(coming));
		recorder_open(&coming, ram, (int)(opened++ % 3) - 1);
		sleep_us(opened % 7 * 300);
		recorder_close(&coming);
	}
	set(&stop_storm, 1);
	for (i = 0; i < COUNT_OF(threads); i++)
		thread_join(threads[i]);
	assert_int_equal(storm_errors, 0);
	assert_true(opened >= 3);
	assert_true(recorder_agrees(&steady, space));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	recorder_close(&steady);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_others_change_other_ranges_meanwhile),
		each(test_nothing_comes_into_the_holes_of_an_unmap_that_is_being_told),
		each(test_a_listener_opened_meanwhile_is_told_all_in_the_end),
		each(test_a_late_listener_may_refuse_the_change_it_came_into),
		each(test_close_waits_for_a_callback_that_runs),
		each(test_close_in_a_section_says_deadlock),
		each(test_sums_are_zero_after_a_storm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
