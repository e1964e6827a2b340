/* SPDX-License-Identifier: MIT */
/*
 * Delete, grace period, last pin, reclaim; drain and close; threads that come and go; fork.
 *
 * "Not released" is looked at after a pause in which a library that does not wait would have
 * released; "released" is waited for with a time-out.
 */
#include "testing.h"
#include <poll.h>
#include <sys/wait.h>
#include <urcu/urcu-memb.h>

#define PAUSE_US 30000

static struct gr_ram *ram;
static struct gr_space *space;
static int released;

static int open_ram(void **unused)
{
	released = 0;
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	return 0;
}

static int open_ram_for_an_embedder(void **unused)
{
	struct gr_ram_opts opts = {.embedder_reclaim = 1};

	released = 0;
	assert_ok(gr_ram_open(&opts, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	return 0;
}

static int close_ram(void **unused)
{
	assert_ok(gr_ram_close(ram));
	return 0;
}

/* A block of two pages that can be touched. */
static struct gr_block *new_touchable(const char *name)
{
	void *host =
		mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(host, MAP_FAILED);
	memset(host, 0x66, 2 * PAGE);
	return new_caller(ram, name, host, 2 * PAGE, &released);
}

/* ------------------------------------------------------------------------- a reader elsewhere */

struct reader {
	struct gate inside, leave;
	struct gr_space *space;
	unsigned char *host;
	int bad; /* it saw something else than it should */
	bool exit_inside;
	pthread_t thread;
};

static void *read_and_wait(void *arg)
{
	struct reader *reader = arg;

	gr_read_begin();
	reader->host = gr_host(reader->space, 0, PAGE, GR_READ);
	gate_open(&reader->inside);
	reader->bad = !gate_wait(&reader->leave) || !reader->host || reader->host[PAGE - 1] != 0x66;
	if (reader->exit_inside)
		pthread_exit(NULL);
	gr_read_end();
	return NULL;
}

static void reader_start(struct reader *reader)
{
	gate_init(&reader->inside);
	gate_init(&reader->leave);
	reader->space = space;
	reader->thread = thread_start(read_and_wait, reader);
	assert_true(gate_wait(&reader->inside));
}

static void reader_end(struct reader *reader)
{
	gate_open(&reader->leave);
	thread_join(reader->thread);
	assert_false(reader->bad);
}

/* ----------------------------------------------------------------------------- grace, pins */

static void test_release_waits_for_the_reader(void **unused)
{
	struct gr_block *block = new_touchable("ram0");
	uint64_t graces = stats_of(ram).grace_periods;
	struct reader reader = {0};

	assert_ok(gr_space_map(space, 0, block, 0, 2 * PAGE, RW));
	reader_start(&reader);
	assert_ok(gr_space_unmap(space, 0, 2 * PAGE));
	assert_ok(gr_block_delete(block));
	assert_null(look_up(space, 0, 1, 0));
	sleep_us(PAUSE_US);
	assert_int_equal(get(&released), 0);
	assert_int_equal(stats_of(ram).blocks_pending, 1);
	assert_int_equal(stats_of(ram).bytes_pending, 2 * PAGE);
	reader_end(&reader);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(get(&released), 1);
	assert_true(stats_of(ram).grace_periods > graces);
	assert_int_equal(stats_of(ram).bytes_pending, 0);
	assert_int_equal(stats_of(ram).blocks_reclaimed, 1);
	assert_int_equal(stats_of(ram).bytes_reclaimed, 2 * PAGE);
}

static void *unpin_here(void *pin)
{
	gr_unpin(pin);
	return NULL;
}

static void test_the_last_of_several_pins_releases_from_any_thread(void **unused)
{
	struct gr_block *block = new_touchable("ram0");
	struct gr_pin pins[3];
	unsigned i;

	assert_ok(gr_space_map(space, 0, block, 0, 2 * PAGE, RW));
	assert_ok(gr_pin(space, 8, 8, GR_READ, &pins[0]));
	assert_int_equal(gr_pin_spans(space, 0, 2 * PAGE, RW, &pins[1], 1), 1);
	assert_ok(gr_block_pin(block, PAGE, PAGE, GR_WRITE, &pins[2]));
	assert_int_equal(info_of(block).pins, 3);
	assert_ok(gr_space_unmap(space, 0, 2 * PAGE));
	assert_ok(gr_block_delete(block));
	assert_int_equal(gr_ram_drain(ram, 30), -ETIMEDOUT);
	for (i = 0; i < 3; i++) {
		assert_int_equal(get(&released), 0);
		assert_int_equal(stats_of(ram).pins, 3 - i);
		assert_int_equal(*(unsigned char *)pins[i].host, 0x66);
		*(unsigned char *)pins[2].host = 0x66;
		thread_join(thread_start(unpin_here, &pins[i]));
		if (i < 2)
			sleep_us(PAUSE_US / 4);
	}
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(get(&released), 1);
}

static void test_a_pin_released_before_the_grace_period_ends_releases_once(void **unused)
{
	struct gr_block *block = new_touchable("ram0");
	struct reader reader = {0};
	struct gr_pin pin;

	assert_ok(gr_space_map(space, 0, block, 0, 2 * PAGE, RW));
	assert_ok(gr_pin(space, 0, 8, GR_READ, &pin));
	reader_start(&reader);
	assert_ok(gr_space_unmap(space, 0, 2 * PAGE));
	assert_ok(gr_block_delete(block));
	gr_unpin(&pin);
	sleep_us(PAUSE_US);
	assert_int_equal(get(&released), 0);
	reader_end(&reader);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(get(&released), 1);
}

static void test_a_pinned_block_delays_no_other(void **unused)
{
	struct gr_block *pinned = new_touchable("pinned"), *other;
	struct gr_pin pin;
	int first, i;

	assert_ok(gr_block_pin(pinned, 0, PAGE, GR_READ, &pin));
	assert_ok(gr_block_delete(pinned));
	for (i = 0; i < 20; i++) {
		first = get(&released);
		other = new_touchable("other");
		assert_ok(gr_block_delete(other));
		assert_true(wait_until(get(&released) == first + 1));
	}
	assert_int_equal(stats_of(ram).blocks_pending, 1);
	assert_int_equal(gr_ram_drain(ram, 0), -ETIMEDOUT);
	gr_unpin(&pin);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(get(&released), 21);
}

/* ----------------------------------------------------------------------------------- drain */

static void test_drain_times_out_at_the_time_asked(void **unused)
{
	struct gr_block *block = new_touchable("ram0");
	struct gr_pin pin;
	int64_t begin;

	assert_ok(gr_ram_drain(ram, 0)); /* nothing to wait for */
	assert_ok(gr_ram_drain(ram, -1));
	assert_ok(gr_block_pin(block, 0, PAGE, GR_READ, &pin));
	assert_ok(gr_block_delete(block));
	begin = now_ms();
	assert_error(gr_ram_drain(ram, 0), -ETIMEDOUT, "drain");
	assert_true(now_ms() - begin < 100);
	begin = now_ms();
	assert_error(gr_ram_drain(ram, 150), -ETIMEDOUT, "150 ms");
	assert_in_range(now_ms() - begin, 145, 1000);
	gr_unpin(&pin);
	assert_ok(gr_ram_drain(ram, -1));
}

struct drain {
	struct gate begins;
	int rc;
};

static void *drain_long(void *arg)
{
	struct drain *drain = arg;

	gate_open(&drain->begins);
	drain->rc = gr_ram_drain(ram, LONG_MS / 2);
	return NULL;
}

/* "Before the call": a later deletion is none of its business. */
static void test_drain_waits_only_for_what_was_deleted_before(void **unused)
{
	struct gr_block *first = new_touchable("first"), *second = new_touchable("second");
	struct drain drain = {.rc = 1};
	struct reader reader = {0};
	struct gr_pin pin;
	pthread_t drainer;
	int64_t begin;

	gate_init(&drain.begins);
	assert_ok(gr_space_map(space, 0, first, 0, PAGE, RW));
	assert_ok(gr_block_pin(second, 0, PAGE, GR_READ, &pin));
	reader_start(&reader);
	assert_ok(gr_space_unmap(space, 0, PAGE));
	assert_ok(gr_block_delete(first));
	drainer = thread_start(drain_long, &drain);
	assert_true(gate_wait(&drain.begins));
	sleep_us(2 * PAUSE_US); /* until it waits */
	assert_ok(gr_block_delete(second));
	begin = now_ms();
	reader_end(&reader);
	thread_join(drainer);
	assert_int_equal(drain.rc, 0);
	assert_true(now_ms() - begin < LONG_MS / 4); /* it was woken, and did not look at the end */
	assert_int_equal(get(&released), 1);
	assert_int_equal(gr_ram_drain(ram, 20), -ETIMEDOUT); /* now it is */
	gr_unpin(&pin);
	assert_ok(gr_ram_drain(ram, LONG_MS));
}

static void test_waiting_calls_in_a_section_say_deadlock(void **unused)
{
	struct gr_ram_opts opts = {.max_pending = PAGE};
	struct gr_block *block;
	struct gr_ram *full;
	struct gr_block_opts block_opts = {.name = "one more", .length = PAGE};
	struct gr_pin pin;

	gr_read_begin();
	assert_error(gr_ram_drain(ram, 10), -EDEADLK, "section");
	assert_error(gr_ram_close(ram), -EDEADLK, "section");
	gr_read_begin(); /* they nest */
	gr_read_end();
	assert_error(gr_ram_drain(ram, 10), -EDEADLK, "section");
	gr_read_end();
	assert_ok(gr_ram_drain(ram, 10));

	assert_ok(gr_ram_open(&opts, &full));
	block = new_anon(full, "ram0", 2 * PAGE, 0);
	assert_ok(gr_block_pin(block, 0, PAGE, GR_READ, &pin));
	gr_read_begin();
	assert_ok(gr_block_delete(block)); /* does not wait */
	assert_error(gr_block_new(full, &block_opts, &block), -EDEADLK, "section");
	gr_read_end();
	gr_unpin(&pin);
	assert_ok(gr_ram_close(full));
}

static void drain_in_release(void *context, void *host, uint64_t length)
{
	*(int *)context = gr_ram_drain(ram, 10);
}

static void test_waiting_calls_in_a_release_say_deadlock(void **unused)
{
	int rc = 1;
	struct gr_block_opts opts = {
		.name = "ram0",
		.backing = GR_BACKING_CALLER,
		.length = PAGE,
		.host = reserve(PAGE),
		.release = drain_in_release,
		.release_context = &rc,
	};
	struct gr_block *block;

	assert_ok(gr_block_new(ram, &opts, &block));
	assert_ok(gr_block_delete(block));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(rc, -EDEADLK);
}

/* ------------------------------------------------------------------------ embedder's reclaim */

static bool is_readable(int fd, int timeout_ms)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	return poll(&poll_fd, 1, timeout_ms) == 1 && poll_fd.revents == POLLIN;
}

static void test_embedder_releases_and_nobody_else(void **unused)
{
	struct gr_block *one = new_touchable("one"), *two = new_touchable("two");
	struct gr_block *pinned = new_touchable("pinned");
	int fd = gr_ram_reclaim_fd(ram);
	struct reader reader = {0};
	struct gr_pin pin;

	assert_true(fd >= 0);
	assert_ok(gr_space_map(space, 0, one, 0, PAGE, RW));
	assert_ok(gr_block_pin(pinned, 0, PAGE, GR_READ, &pin));
	reader_start(&reader);
	assert_ok(gr_space_unmap(space, 0, PAGE));
	assert_ok(gr_block_delete(one));
	assert_false(is_readable(fd, 30)); /* the reader is still there */
	assert_int_equal(gr_ram_reclaim(ram), 0);
	reader_end(&reader);
	assert_true(is_readable(fd, LONG_MS));
	assert_ok(gr_block_delete(two));
	assert_ok(gr_block_delete(pinned));
	sleep_us(PAUSE_US);
	assert_int_equal(get(&released), 0);
	gr_read_begin(); /* it never waits */
	assert_int_equal(gr_ram_reclaim(ram), 2);
	gr_read_end();
	assert_int_equal(get(&released), 2);
	assert_false(is_readable(fd, 0));
	assert_int_equal(gr_ram_reclaim(ram), 0);
	gr_unpin(&pin);
	assert_true(is_readable(fd, LONG_MS));
	assert_int_equal(get(&released), 2);
	assert_ok(gr_ram_drain(ram, LONG_MS)); /* does the embedder's part */
	assert_int_equal(get(&released), 3);
	assert_false(is_readable(fd, 0));
}

static void test_close_does_the_embedders_part(void **unused)
{
	struct gr_ram_opts opts = {.embedder_reclaim = 1};
	unsigned i;

	released = 0;
	assert_ok(gr_ram_open(&opts, &ram));
	for (i = 0; i < 3; i++) {
		struct gr_block *block = new_touchable("ram0");

		assert_ok(gr_block_delete(block));
	}
	new_touchable("live");
	assert_ok(gr_ram_close(ram));
	assert_int_equal(released, 4);
	assert_ok(gr_ram_open(NULL, &ram));
	assert_error(gr_ram_reclaim_fd(ram), -EINVAL, "embedder_reclaim");
	assert_int_equal(gr_ram_reclaim(ram), 0);
	assert_ok(gr_ram_close(ram));
}

/* ---------------------------------------------------------------------------- max_pending */

static struct gr_block_opts small_opts = {.name = "small", .length = PAGE};

static void *make_small(void *arg)
{
	struct gr_block *block;

	return (void *)(intptr_t)gr_block_new(ram, &small_opts, &block);
}

static void test_max_pending_bounds_what_waits(void **unused)
{
	struct gr_ram_opts opts = {.max_pending = 4 * PAGE};
	struct gr_block *blocks[2], *more = NULL;
	struct gr_block_opts no_wait = {.name = "no wait", .length = PAGE, .flags = GR_NO_WAIT};
	struct gr_pin pins[2];
	pthread_t maker;
	unsigned i;

	assert_ok(gr_ram_open(&opts, &ram));
	for (i = 0; i < 2; i++) {
		blocks[i] = new_anon(ram, i ? "b" : "a", 3 * PAGE, 0);
		assert_ok(gr_block_pin(blocks[i], 0, PAGE, GR_READ, &pins[i]));
	}
	assert_ok(gr_block_delete(blocks[0]));
	assert_ok(gr_block_new(ram, &no_wait, &more)); /* 3 pages are under 4 */
	assert_ok(gr_block_delete(blocks[1]));
	no_wait.name = "no wait either";
	assert_error(gr_block_new(ram, &no_wait, &more), -ENOBUFS, "max_pending");
	maker = thread_start(make_small, NULL);
	sleep_us(PAUSE_US);
	assert_int_equal(stats_of(ram).blocks, 1);
	gr_unpin(&pins[0]);
	thread_join(maker);
	assert_int_equal(stats_of(ram).blocks, 2);
	gr_unpin(&pins[1]);
	assert_ok(gr_ram_close(ram));
}

/* ------------------------------------------------------------------------------------ close */

static void test_close_releases_what_is_queued_and_what_is_live(void **unused)
{
	struct gr_block *block;
	unsigned i;

	open_ram(NULL);
	for (i = 0; i < 40; i++) {
		block = new_touchable("ram0");
		assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
		assert_ok(gr_space_unmap(space, 0, PAGE));
		assert_ok(gr_block_delete(block));
	}
	block = new_touchable("mapped");
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	new_touchable("not mapped");
	assert_ok(gr_ram_close(ram));
	assert_int_equal(released, 42); /* each once, none later */
	assert_ok(gr_ram_close(NULL));
}

static void test_close_under_pins_is_busy_and_changes_nothing(void **unused)
{
	struct gr_block *block = new_touchable("ram0"), *gone = new_touchable("gone");
	struct gr_pin live, dead;

	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_ok(gr_pin(space, 0, 8, GR_READ, &live));
	assert_ok(gr_block_pin(gone, 0, 8, GR_READ, &dead));
	assert_ok(gr_block_delete(gone));
	assert_error(gr_ram_close(ram), -EBUSY, "2 pins");
	gr_unpin(&live);
	assert_error(gr_ram_close(ram), -EBUSY, "1 pin");
	assert_non_null(look_up(space, 0, PAGE, RW));
	assert_int_equal(stats_of(ram).blocks, 1);
	gr_unpin(&dead);
}

/* ---------------------------------------------------------------------------------- threads */

static void test_a_thread_that_exits_inside_a_section_holds_nothing_back(void **unused)
{
	struct gr_block *block = new_touchable("ram0");
	struct reader reader = {.exit_inside = true};

	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	reader_start(&reader);
	assert_ok(gr_space_unmap(space, 0, PAGE));
	assert_ok(gr_block_delete(block));
	sleep_us(PAUSE_US);
	assert_int_equal(get(&released), 0);
	reader_end(&reader);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(get(&released), 1);
}

static void *one_section(void *arg)
{
	return look_up(arg, 0, 8, GR_READ);
}

static void test_many_short_threads_leave_nothing_behind(void **unused)
{
	struct gr_block *block = new_touchable("ram0");
	unsigned i;

	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	for (i = 0; i < 200; i++)
		thread_join(thread_start(one_section, space));
	assert_ok(gr_space_unmap(space, 0, PAGE));
	assert_ok(gr_block_delete(block));
	assert_ok(gr_ram_drain(ram, LONG_MS)); /* looks at every registered thread */
}

static void *register_itself(void *arg)
{
	bool ours;

	urcu_memb_register_thread();
	look_up(arg, 0, 8, GR_READ);
	ours = URCU_TLS(urcu_memb_reader).registered;
	urcu_memb_unregister_thread(); /* ends the process when it was done before */
	return (void *)(intptr_t)ours;
}

static pthread_key_t late_key;

#ifdef GR__TSAN
enum { LATE_ROUNDS = 2 }; /* it takes its thread down in the last round, maybe before our turn */
#else
enum { LATE_ROUNDS = 3 };
#endif

static void read_at_exit(void *arg)
{
	static _Thread_local int rounds;

	look_up(arg, 0, 8, GR_READ);
	if (++rounds < LATE_ROUNDS)
		pthread_setspecific(late_key, arg); /* and again, after the library's own */
}

static void *read_while_exiting(void *arg)
{
	pthread_setspecific(late_key, arg);
	look_up(arg, 0, 8, GR_READ);
	return NULL;
}

static void test_threads_that_register_themselves_or_read_while_they_exit(void **unused)
{
	struct gr_block *block = new_touchable("ram0");
	unsigned i;

	assert_int_equal(pthread_key_create(&late_key, read_at_exit), 0);
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	for (i = 0; i < 20; i++) {
		thread_join(thread_start(register_itself, space));
		thread_join(thread_start(read_while_exiting, space));
	}
	assert_ok(gr_space_unmap(space, 0, PAGE));
	assert_ok(gr_block_delete(block));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	pthread_key_delete(late_key);
}

/* ------------------------------------------------------------------------------------- fork */

/* In the child: the number of what went wrong, 0: nothing. No assertion, no stdio. */
static int check_child(struct gr_block *block, const unsigned char *host, struct gr_txn *txn)
{
	struct gr_block_opts opts = {.name = "child", .length = PAGE};
	struct gr_listener_ops ops = {0};
	struct gr_listener *listener;
	struct gr_block *other;
	struct gr_space *view;
	unsigned char byte = 0;
	struct gr_txn *more;

	if (host[0] != 0x66 || gr_load(space, 1, &byte, 1) || byte != 0x66)
		return 1;
	if (gr_ram_close(ram) != -ENOTSUP || gr_ram_drain(ram, 10) != -ENOTSUP)
		return 2;
	if (gr_block_new(ram, &opts, &other) != -ENOTSUP || gr_block_delete(block) != -ENOTSUP)
		return 3;
	if (gr_space_map(space, 4 * PAGE, block, 0, PAGE, RW) != -ENOTSUP ||
	    gr_space_unmap(space, 0, PAGE) != -ENOTSUP)
		return 4;
	if (gr_space_open(ram, "child", &view) != -ENOTSUP || gr_space_close(space) != -ENOTSUP)
		return 5;
	if (gr_listener_open(ram, &ops, NULL, 0, &listener) != -ENOTSUP ||
	    gr_txn_begin(space, &more) != -ENOTSUP || gr_txn_commit(txn) != -ENOTSUP)
		return 6;
	if (gr_block_resize(block, PAGE) != -ENOTSUP || gr_block_discard(block, 0, 0) != -ENOTSUP)
		return 7;
	return look_up(space, 0, 1, 0) ? 0 : 8;
}

static void test_a_forked_child_reads_and_execs_but_changes_nothing(void **unused)
{
	struct gr_block *block = new_touchable("ram0");
	int status = -1;
	struct gr_txn *txn;
	void *host;
	pid_t pid;

	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_map(txn, 8 * PAGE, block, 0, PAGE, RW));
	host = look_up(space, 0, PAGE, RW);
	pid = fork();
	if (!pid) {
		int wrong = check_child(block, host, txn);

		if (wrong)
			_exit(wrong);
		execl("/bin/true", "true", (char *)NULL);
		_exit(99);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_ok(gr_txn_commit(txn)); /* nothing of it shows here */
	assert_ok(gr_space_unmap(space, 0, PAGE));
	assert_ok(gr_space_unmap(space, 8 * PAGE, PAGE));
	assert_ok(gr_block_delete(block));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(get(&released), 1);
}

static void test_ram_open_refuses_what_it_does_not_know(void **unused)
{
	struct gr_ram_opts opts = {.reserved = {[3] = 1}};
	struct gr_ram *none = NULL;

	assert_error(gr_ram_open(&opts, &none), -EINVAL, "reserved");
	assert_error(gr_ram_open(NULL, NULL), -EINVAL, "result");
	assert_null(none);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_release_waits_for_the_reader),
		each(test_the_last_of_several_pins_releases_from_any_thread),
		each(test_a_pin_released_before_the_grace_period_ends_releases_once),
		each(test_a_pinned_block_delays_no_other),
		each(test_drain_times_out_at_the_time_asked),
		each(test_drain_waits_only_for_what_was_deleted_before),
		each(test_waiting_calls_in_a_section_say_deadlock),
		each(test_waiting_calls_in_a_release_say_deadlock),
		cmocka_unit_test_setup_teardown(test_embedder_releases_and_nobody_else,
						open_ram_for_an_embedder, close_ram),
		cmocka_unit_test(test_close_does_the_embedders_part),
		cmocka_unit_test(test_max_pending_bounds_what_waits),
		cmocka_unit_test(test_close_releases_what_is_queued_and_what_is_live),
		each(test_close_under_pins_is_busy_and_changes_nothing),
		each(test_a_thread_that_exits_inside_a_section_holds_nothing_back),
		each(test_many_short_threads_leave_nothing_behind),
		each(test_threads_that_register_themselves_or_read_while_they_exit),
		each(test_a_forked_child_reads_and_execs_but_changes_nothing),
		cmocka_unit_test(test_ram_open_refuses_what_it_does_not_know),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
