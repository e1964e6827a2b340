/* SPDX-License-Identifier: MIT */
/*
 * Threads stopped at named points of the library (src/os/hooks.h), so that what happens by bad luck
 * happens each time.
 */
#include "os/hooks.h"
#include "stop.h"

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;
static int released;

static int open_ram(void **unused)
{
	void *host =
		mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	released = 0;
	stuck = 0;
	memset(host, 0x66, PAGE);
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_caller(ram, "ram0", host, 4 * MIB, &released);
	return 0;
}

static int close_ram(void **unused)
{
	assert_int_equal(stuck, 0);
	assert_ok(gr_ram_close(ram));
	return 0;
}

static void remove_block(void)
{
	assert_ok(gr_space_unmap(space, 0, 4 * MIB));
	assert_ok(gr_block_delete(block));
}

/* ------------------------------------------------------------- a block found before its maker
 * returns */

static void *make_block(void *result)
{
	struct gr_block_opts opts = {.name = "new", .length = PAGE};

	gr_block_new(ram, &opts, result);
	return NULL;
}

static void test_a_block_may_be_deleted_while_its_maker_still_returns(void **unused)
{
	struct gr_block *made = NULL, *found;
	pthread_t maker;
	unsigned i;

	for (i = 0; i < 3; i++) { /* what is wrong with a list shows in the next round */
		arm("change.unlocked");
		maker = thread_start(make_block, &made);
		assert_true(gate_wait(&arrived));
		gr_read_begin();
		found = gr_block_by_name(ram, "new");
		gr_read_end();
		assert_non_null(found);
		assert_ok(gr_block_delete(found));
		assert_ok(gr_ram_drain(ram, LONG_MS));
		assert_int_equal(stats_of(ram).blocks_pending, 0);
		gate_open(&go_on);
		thread_join(maker);
		assert_int_equal(stats_of(ram).blocks, 1);
	}
}

/* ----------------------------------------------------------------------- pins against reclaim */

static struct gr_pin pin;
static int pin_rc;

static void *pin_it(void *unused)
{
	pin_rc = gr_pin(space, 0, PAGE, RW, &pin);
	return NULL;
}

/* Found, not yet counted, and the block goes: the section must keep it until it is counted. */
static void test_a_pin_that_found_its_block_keeps_it(void **unused)
{
	pthread_t thread;

	assert_ok(gr_space_map(space, 0, block, 0, 4 * MIB, RW));
	arm("pin.found");
	thread = thread_start(pin_it, NULL);
	assert_true(gate_wait(&arrived));
	remove_block();
	assert_int_equal(gr_ram_drain(ram, 30), -ETIMEDOUT);
	assert_int_equal(get(&released), 0);
	gate_open(&go_on);
	thread_join(thread);
	assert_int_equal(pin_rc, 0);
	assert_int_equal(gr_ram_drain(ram, 30), -ETIMEDOUT);
	assert_int_equal(*(unsigned char *)pin.host, 0x66);
	assert_int_equal(get(&released), 0);
	gr_unpin(&pin);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(get(&released), 1);
}

/* The last pin leaves while the reclaim thread is before, or just behind, its grace period. */
static void test_the_last_pin_may_leave_at_any_step_of_reclaim(void **unused)
{
	static const char *const points[] = {"reclaim.before_grace", "reclaim.after_grace"};
	size_t i;

	for (i = 0; i < COUNT_OF(points); i++) {
		struct gr_block *other = new_caller(ram, "other", reserve(PAGE), PAGE, &released);

		assert_ok(gr_block_pin(other, 0, PAGE, RW, &pin));
		arm(points[i]);
		assert_ok(gr_block_delete(other));
		assert_true(gate_wait(&arrived));
		gr_unpin(&pin);
		sleep_us(5000);
		assert_int_equal(get(&released), (int)i);
		gate_open(&go_on);
		assert_ok(gr_ram_drain(ram, LONG_MS));
		assert_int_equal(get(&released), (int)i + 1);
		sleep_us(5000);
		assert_int_equal(get(&released), (int)i + 1);
	}
}

/* What is deleted while the reclaim thread waits gets a grace period of its own. */
static void test_a_deletion_during_a_grace_period_waits_for_the_next(void **unused)
{
	struct gr_block *other = new_caller(ram, "other", reserve(PAGE), PAGE, &released);

	assert_ok(gr_space_map(space, 0, block, 0, 4 * MIB, RW));
	arm("reclaim.after_grace");
	assert_ok(gr_block_delete(other));
	assert_true(gate_wait(&arrived));
	gr_read_begin(); /* after the grace period of `other` */
	assert_non_null(gr_host(space, 0, PAGE, RW));
	remove_block();
	gate_open(&go_on);
	assert_true(wait_until(get(&released) == 1));
	sleep_us(20000);
	assert_int_equal(get(&released), 1);
	gr_read_end();
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(get(&released), 2);
}

/* -------------------------------------------------------------------------------- cursors */

static struct gr_cursor cursor;
static unsigned char seen;

static void *fill_cursor(void *unused)
{
	unsigned char *host;

	gr_read_begin();
	host = gr_cursor_host(&cursor, 0, PAGE, RW);
	seen = host ? *host : 0;
	gr_read_end();
	return NULL;
}

/* Q1: found, about to be remembered, removed: the reader is right, and no later one follows it. */
static void test_what_a_cursor_remembers_late_is_not_followed_later(void **unused)
{
	struct gr_block *next;
	pthread_t thread;

	gr_cursor_init(&cursor, space);
	assert_ok(gr_space_map(space, 0, block, 0, 4 * MIB, RW));
	arm("cursor.fill");
	thread = thread_start(fill_cursor, NULL);
	assert_true(gate_wait(&arrived));
	remove_block();
	assert_int_equal(gr_ram_drain(ram, 30), -ETIMEDOUT);
	assert_int_equal(get(&released), 0);
	gate_open(&go_on);
	thread_join(thread);
	assert_int_equal(seen, 0x66);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	gr_read_begin();
	assert_null(gr_cursor_host(&cursor, 0, PAGE, RW));
	gr_read_end();
	next = new_anon(ram, "ram0", 4 * MIB, 0);
	assert_ok(gr_space_map(space, 0, next, 0, 4 * MIB, RW));
	gr_read_begin();
	assert_ptr_equal(gr_cursor_host(&cursor, PAGE, PAGE, RW),
			 (char *)info_of(next).host + PAGE);
	gr_read_end();
}

/* ------------------------------------------------------------------ a pin against a resize */

static struct gr_block *dimm;
static int resize_rc;

static void *pin_tail(void *unused)
{
	pin_rc = gr_block_pin(dimm, 3 * PAGE, PAGE, RW, &pin);
	return NULL;
}

static void *shrink(void *unused)
{
	resize_rc = gr_block_resize(dimm, PAGE);
	return NULL;
}

/* The resize saw no pin when it began; the pin saw the old length. */
static void test_a_pin_that_comes_while_the_block_shrinks_stops_it(void **unused)
{
	pthread_t pinner, resizer;

	dimm = new_anon(ram, "dimm", 4 * PAGE, 0);
	arm("pin.block");
	pinner = thread_start(pin_tail, NULL);
	assert_true(gate_wait(&arrived));
	resizer = thread_start(shrink, NULL);
	assert_true(wait_until(info_of(dimm).length ==
			       PAGE)); /* published; now it waits for the section */
	gate_open(&go_on);
	thread_join(pinner);
	thread_join(resizer);
	assert_int_equal(pin_rc, 0);
	assert_int_equal(resize_rc, -EBUSY);
	assert_int_equal(info_of(dimm).length, 4 * PAGE);
	memset(pin.host, 0x55, PAGE);
	gr_unpin(&pin);
	assert_ok(gr_block_resize(dimm, PAGE));
	assert_ok(gr_block_delete(dimm));
}

/* ---------------------------------------------------------------------------- publication */

static void *unmap_all(void *unused)
{
	gr_space_unmap(space, 0, 4 * MIB);
	return NULL;
}

static void test_readers_see_the_old_view_before_and_the_new_one_after(void **unused)
{
	pthread_t thread;
	void *before;

	assert_ok(gr_space_map(space, 0, block, 0, 4 * MIB, RW));
	before = look_up(space, 0, PAGE, RW);
	arm("view.publish");
	thread = thread_start(unmap_all, NULL);
	assert_true(gate_wait(&arrived));
	assert_ptr_equal(look_up(space, 0, PAGE, RW), before);
	gate_open(&go_on);
	thread_join(thread);
	assert_ok(gr_space_map(space, 0, block, 0, 4 * MIB, RW));
	arm("view.published");
	thread = thread_start(unmap_all, NULL);
	assert_true(gate_wait(&arrived));
	assert_null(look_up(space, 0, PAGE, RW)); /* though the writer has not returned */
	gate_open(&go_on);
	thread_join(thread);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_a_block_may_be_deleted_while_its_maker_still_returns),
		each(test_a_pin_that_found_its_block_keeps_it),
		each(test_the_last_pin_may_leave_at_any_step_of_reclaim),
		each(test_a_deletion_during_a_grace_period_waits_for_the_next),
		each(test_what_a_cursor_remembers_late_is_not_followed_later),
		each(test_a_pin_that_comes_while_the_block_shrinks_stops_it),
		each(test_readers_see_the_old_view_before_and_the_new_one_after),
	};

	gr__hook_point = stop_at;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
