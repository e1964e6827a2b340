/* SPDX-License-Identifier: MIT */
/*
 * Windows under threads that are stopped at named points of the library: a reader and a pinner
 * against eviction, two misses of one window, misses against invalidation and delete, the last
 * unpin against the end of its window.
 */
#include "foreign_domain.h"
#include "os/hooks.h"

#define WINDOW (64 * KIB)
#define WINDOWS 2
#define LENGTH (2 * MIB)
#define STOPS 2

static struct domain domain;
static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;

/* Each stops the first thread that comes to its point. */
static struct stop {
	const char *point; /* atomic; NULL: not armed */
	struct gate arrived, go_on;
} stops[STOPS];
static int stuck;

static void stop_at(const char *point)
{
	int i;

	for (i = 0; i < STOPS; i++) {
		const char *wanted = __atomic_load_n(&stops[i].point, __ATOMIC_ACQUIRE);

		if (!wanted || strcmp(point, wanted) ||
		    !__atomic_compare_exchange_n(&stops[i].point, &wanted, NULL, 0,
						 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			continue;
		gate_open(&stops[i].arrived);
		if (!gate_wait(&stops[i].go_on))
			set(&stuck, 1);
		return;
	}
}

static void arm(int i, const char *point)
{
	gate_init(&stops[i].arrived);
	gate_init(&stops[i].go_on);
	__atomic_store_n(&stops[i].point, point, __ATOMIC_RELEASE);
}

static int open_world(void **unused)
{
	struct gr_block_opts opts;

	domain_open(&domain, LENGTH);
	opts = domain_opts(&domain, WINDOW, WINDOWS);
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	assert_ok(gr_block_new(ram, &opts, &block));
	assert_ok(gr_space_map(space, 0, block, 0, LENGTH, RW));
	stuck = 0;
	return 0;
}

static int close_world(void **unused)
{
	int i;

	for (i = 0; i < STOPS; i++)
		__atomic_store_n(&stops[i].point, NULL, __ATOMIC_RELEASE);
	assert_int_equal(stuck, 0);
	assert_ok(gr_ram_close(ram));
	assert_int_equal(domain.released, 1);
	assert_in_range(domain.most, 0, 2 * WINDOWS);
	domain_close(&domain);
	return 0;
}

static struct gr_foreign_stats stats(void)
{
	struct gr_foreign_stats now;

	assert_ok(gr_foreign_get_stats(block, &now));
	return now;
}

static uint64_t load(uint64_t offset)
{
	uint64_t value = 0;

	assert_ok(gr_load_u64(space, offset, &value));
	return value;
}

/* One thread's call, and what came of it. */
struct call {
	uint64_t offset, value;
	int rc;
	struct gr_pin pin;
	struct gate looked, leave;
};

/* Looks up, waits inside its section if that gate is there, then reads. */
static void *read_it(void *arg)
{
	struct call *call = arg;
	const uint64_t *host;

	gr_read_begin();
	host = gr_host(space, call->offset, 8, GR_READ);
	gate_open(&call->looked);
	call->rc = host && gate_wait(&call->leave) ? 0 : -1;
	if (!call->rc)
		call->value = *host;
	gr_read_end();
	return NULL;
}

static void *load_it(void *arg)
{
	struct call *call = arg;

	call->rc = gr_load_u64(space, call->offset, &call->value);
	return NULL;
}

static void *pin_it(void *arg)
{
	struct call *call = arg;

	call->rc = gr_pin(space, call->offset, 8, RW, &call->pin);
	return NULL;
}

static void *unpin_it(void *arg)
{
	gr_unpin(&((struct call *)arg)->pin);
	return NULL;
}

static void *invalidate_it(void *arg)
{
	struct call *call = arg;

	call->rc = gr_foreign_invalidate(block, 0, WINDOW);
	gate_open(&call->looked);
	return NULL;
}

static void call_init(struct call *call, uint64_t offset)
{
	memset(call, 0, sizeof(*call));
	call->offset = offset;
	call->rc = 99;
	gate_init(&call->looked);
	gate_init(&call->leave);
}

/* Looks at others until window 0 is out of its slot. */
static void evict_first(void)
{
	uint64_t i;

	for (i = 1; i <= WINDOWS; i++)
		assert_int_equal(load(i * WINDOW), domain_stamp(i * WINDOW, false));
	assert_int_equal(stats().evictions, 1);
}

/* ------------------------------------------------------------------------------------- readers */

static void test_a_reader_keeps_what_it_found(void **unused)
{
	struct call call;
	pthread_t reader;

	load(0);
	call_init(&call, 0);
	arm(0, "window.hit");
	reader = thread_start(read_it, &call);
	assert_true(gate_wait(&stops[0].arrived)); /* it has the window, and no address yet */
	evict_first();
	sleep_us(20000);
	assert_int_equal(stats().retired, 1);
	assert_int_equal(domain_mapped(&domain), WINDOWS + 1);
	gate_open(&stops[0].go_on);
	assert_true(gate_wait(&call.looked));
	sleep_us(20000);
	assert_int_equal(stats().retired, 1);
	gate_open(&call.leave);
	thread_join(reader);
	assert_int_equal(call.rc, 0);
	assert_int_equal(call.value, domain_stamp(0, false));
	assert_true(wait_until(!stats().retired));
	assert_int_equal(domain_mapped(&domain), WINDOWS);
}

/* A load that finds no room waits for the reader, who knows nothing of it. */
static void test_a_load_waits_for_readers(void **unused)
{
	struct call reader_call[WINDOWS], call;
	pthread_t readers[WINDOWS], loader;
	uint64_t i;

	for (i = 0; i < WINDOWS; i++) {
		call_init(&reader_call[i], i * WINDOW);
		readers[i] = thread_start(read_it, &reader_call[i]);
		assert_true(gate_wait(&reader_call[i].looked));
	}
	for (i = 0; i < WINDOWS; i++) /* these take the place of the readers' windows */
		load((WINDOWS + i) * WINDOW);
	call_init(&call, 8 * WINDOW);
	loader = thread_start(load_it, &call);
	assert_true(wait_until(stats().waits > 0));
	sleep_us(20000);
	assert_int_equal(__atomic_load_n(&call.rc, __ATOMIC_RELAXED), 99);
	for (i = 0; i < WINDOWS; i++)
		gate_open(&reader_call[i].leave);
	thread_join(loader);
	assert_int_equal(call.rc, 0);
	assert_int_equal(call.value, domain_stamp(8 * WINDOW, false));
	for (i = 0; i < WINDOWS; i++) {
		thread_join(readers[i]);
		assert_int_equal(reader_call[i].value, domain_stamp(i * WINDOW, false));
	}
}

/* ------------------------------------------------------------------------------- two misses */

static void test_two_misses_leave_one_window(void **unused)
{
	struct call calls[2];
	pthread_t threads[2];
	int i;

	for (i = 0; i < 2; i++) {
		call_init(&calls[i], 16 + 8 * i);
		arm(i, "window.mapped");
		threads[i] = thread_start(load_it, &calls[i]);
		assert_true(gate_wait(&stops[i].arrived));
	}
	assert_int_equal(domain_mapped(&domain), 2);
	for (i = 0; i < 2; i++) {
		gate_open(&stops[i].go_on);
		thread_join(threads[i]);
		assert_int_equal(calls[i].rc, 0);
	}
	assert_int_equal(stats().published, 1);
	assert_int_equal(stats().mapping, 0);
	assert_int_equal(domain_mapped(&domain), 1);
	assert_int_equal(domain.maps, 2);
}

/* One fails after the other has published; his error is his alone. */
static void test_a_miss_may_fail_beside_another(void **unused)
{
	struct call calls[2];
	pthread_t threads[2];

	call_init(&calls[0], 0);
	call_init(&calls[1], 0);
	__atomic_store_n(&domain.fail, -ENXIO, __ATOMIC_RELEASE);
	arm(0, "window.mapped");
	threads[0] = thread_start(pin_it, &calls[0]);
	assert_true(gate_wait(&stops[0].arrived));
	__atomic_store_n(&domain.fail, 0, __ATOMIC_RELEASE);
	threads[1] = thread_start(load_it, &calls[1]);
	thread_join(threads[1]);
	gate_open(&stops[0].go_on);
	thread_join(threads[0]);
	assert_int_equal(calls[0].rc, -ENXIO);
	assert_int_equal(calls[1].rc, 0);
	assert_int_equal(calls[1].value, domain_stamp(0, false));
	assert_int_equal(domain_mapped(&domain), 1);
}

/* ------------------------------------------------------------------------------------- pins */

/* The window was found, is not counted yet, and leaves its slot. */
static void test_a_pin_that_found_its_window_keeps_it(void **unused)
{
	struct call call;
	pthread_t pinner;

	load(0);
	call_init(&call, 0);
	arm(0, "pin.found");
	pinner = thread_start(pin_it, &call);
	assert_true(gate_wait(&stops[0].arrived));
	evict_first();
	gate_open(&stops[0].go_on);
	thread_join(pinner);
	assert_int_equal(call.rc, 0);
	assert_true(wait_until(stats().retired == 1));
	sleep_us(20000);
	assert_int_equal(*(uint64_t *)call.pin.host, domain_stamp(0, false));
	assert_int_equal(stats().retired, 1);
	gr_unpin(&call.pin);
	assert_true(wait_until(!stats().retired));
	assert_int_equal(domain_mapped(&domain), WINDOWS);
}

/* Whoever comes second unmaps: the RAM's thread or the last unpin. */
static void test_the_last_unpin_meets_the_end_of_its_window(void **unused)
{
	struct call call, invalidation;
	pthread_t unpinner, invalidator;
	int first;

	for (first = 0; first < 2; first++) {
		call_init(&call, 0);
		call_init(&invalidation, 0);
		assert_ok(gr_pin(space, 0, 8, RW, &call.pin));
		arm(0, "window.end");
		invalidator = thread_start(invalidate_it, &invalidation);
		assert_true(gate_wait(&stops[0].arrived));
		if (first) {
			unpinner = thread_start(unpin_it, &call);
			thread_join(unpinner);
		}
		gate_open(&stops[0].go_on);
		thread_join(invalidator);
		assert_int_equal(invalidation.rc, first ? 0 : -EBUSY);
		if (!first)
			gr_unpin(&call.pin);
		assert_int_equal(domain_mapped(&domain), 0);
		assert_int_equal(stats().retired, 0);
	}
}

/* ----------------------------------------------------------------------------- invalidation */

/* Mapped before, published after: it must not be. */
static void test_a_miss_under_way_is_invalidated(void **unused)
{
	static const char *const points[] = {"window.mapped", "window.map"};
	struct call call, invalidation;
	pthread_t loader, invalidator;
	size_t i;

	for (i = 0; i < COUNT_OF(points); i++) {
		call_init(&call, 0);
		call_init(&invalidation, 0);
		assert_ok(gr_foreign_invalidate(block, 0, WINDOW));
		arm(0, points[i]);
		loader = thread_start(load_it, &call);
		assert_true(gate_wait(&stops[0].arrived));
		domain_move(&domain);
		arm(1, "window.dropped");
		invalidator = thread_start(invalidate_it, &invalidation);
		assert_true(gate_wait(&stops[1].arrived));
		gate_open(&stops[1].go_on);
		/* it is not done while what was mapped before may still be there */
		assert_false(gate_wait_ms(&invalidation.looked, 20));
		gate_open(&stops[0].go_on);
		thread_join(invalidator);
		thread_join(loader);
		assert_int_equal(invalidation.rc, 0);
		assert_int_equal(call.rc, 0);
		assert_int_equal(call.value, domain_stamp(0, true));
		assert_int_equal(load(0), domain_stamp(0, true));
		assert_int_equal(domain_mapped(&domain), 1);
		pthread_mutex_lock(&domain.lock);
		domain.fd_shift = 0;
		pthread_mutex_unlock(&domain.lock);
	}
}

/* The same for a discard, which does not wait. */
static void test_a_miss_under_way_sees_a_discard(void **unused)
{
	struct call call;
	pthread_t loader;

	call_init(&call, 0);
	arm(0, "window.mapped");
	loader = thread_start(load_it, &call);
	assert_true(gate_wait(&stops[0].arrived));
	assert_ok(gr_block_discard(block, 0, PAGE));
	gate_open(&stops[0].go_on);
	thread_join(loader);
	assert_int_equal(call.rc, 0);
	assert_int_equal(call.value, domain_stamp(0, true));
	assert_int_equal(domain_mapped(&domain), 1);
}

/* ----------------------------------------------------------------------------------- delete */

static void test_a_miss_under_way_meets_delete(void **unused)
{
	static const char *const points[] = {"lookup.slow", "window.map", "window.mapped"};
	struct gr_block_opts opts = domain_opts(&domain, WINDOW, WINDOWS);
	struct call call;
	pthread_t reader;
	size_t i;

	for (i = 0; i < COUNT_OF(points); i++) {
		load(WINDOW);
		load(2 * WINDOW); /* no room without an eviction */
		call_init(&call, 0);
		arm(0, points[i]);
		reader = thread_start(read_it, &call);
		assert_true(gate_wait(&stops[0].arrived));
		assert_ok(gr_space_unmap(space, 0, LENGTH));
		assert_ok(gr_block_delete(block));
		gate_open(&stops[0].go_on);
		assert_true(gate_wait(&call.looked));
		if (i)
			assert_int_equal(gr_ram_drain(ram, 20), -ETIMEDOUT);
		gate_open(&call.leave);
		thread_join(reader);
		/* nothing is retired of a deleted block, so there was no room for a new window */
		assert_int_equal(call.rc, i ? 0 : -1);
		if (i)
			assert_int_equal(call.value, domain_stamp(0, false));
		assert_ok(gr_ram_drain(ram, LONG_MS));
		assert_int_equal(domain_mapped(&domain), 0);
		assert_int_equal(domain.released, 1);
		domain.released = 0;
		assert_ok(gr_block_new(ram, &opts, &block));
		assert_ok(gr_space_map(space, 0, block, 0, LENGTH, RW));
	}
}

/* ------------------------------------------------------------------- callbacks that look up */

static int nested_rc, drain_rc, invalidate_rc;

static void look_elsewhere(void)
{
	uint64_t value = 0;

	if (domain.maps > 1)
		return;
	nested_rc = gr_load_u64(space, 9 * WINDOW, &value);
	drain_rc = gr_ram_drain(ram, 0);
	invalidate_rc = gr_foreign_invalidate(block, 0, PAGE);
}

/* No lock is held around map: it may look up other windows, but not wait. */
static void test_map_may_look_up_but_not_wait(void **unused)
{
	domain.while_mapping = look_elsewhere;
	assert_int_equal(load(0), domain_stamp(0, false));
	assert_int_equal(nested_rc, 0);
	assert_int_equal(drain_rc, -EDEADLK);
	assert_int_equal(invalidate_rc, -EDEADLK);
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, open_world, close_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_WORLD(test_a_reader_keeps_what_it_found),
		IN_WORLD(test_a_load_waits_for_readers),
		IN_WORLD(test_two_misses_leave_one_window),
		IN_WORLD(test_a_miss_may_fail_beside_another),
		IN_WORLD(test_a_pin_that_found_its_window_keeps_it),
		IN_WORLD(test_the_last_unpin_meets_the_end_of_its_window),
		IN_WORLD(test_a_miss_under_way_is_invalidated),
		IN_WORLD(test_a_miss_under_way_sees_a_discard),
		IN_WORLD(test_a_miss_under_way_meets_delete),
		IN_WORLD(test_map_may_look_up_but_not_wait),
	};

	__atomic_store_n(&gr__hook_point, stop_at, __ATOMIC_RELEASE);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
