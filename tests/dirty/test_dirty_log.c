/* SPDX-License-Identifier: MIT */
/*
 * A log that a back-end sets bits in: they come out by block and offset, whatever the space does
 * meanwhile. The back-end is this test, through a mapping of its own; a real one is in
 * tests/vhost/log_source.c.
 */
#include "../fault/tally.h"
#include "os/hooks.h"
#include "testing.h"
#include <guestram/dirty.h>

#define PAGES 100
#define SIZE (PAGES * PAGE)
#define LAST (5 * GIB - 1)

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *first, *second;
static struct gr_dirty *client;
static struct gr_dirty_log *marks;
static uint8_t *peer; /* the log, as it maps it */
static uint64_t peer_bytes;

static void open_ram(void)
{
	const struct gr_dirty_opts opts = {.name = "test"};

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	first = new_anon(ram, "first", SIZE, 0);
	second = new_anon(ram, "second", SIZE, 0);
	assert_ok(gr_dirty_open(ram, &opts, &client));
}

static void close_ram(void)
{
	assert_ok(gr_dirty_close(client));
	assert_ok(gr_ram_close(ram));
}

static void map_peer(void)
{
	int fd = gr_dirty_log_fd(marks, &peer_bytes);

	peer = mmap(NULL, peer_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(peer != MAP_FAILED);
}

static int open_all(void **unused)
{
	open_ram();
	assert_ok(gr_dirty_log_open(space, LAST, &marks));
	map_peer();
	return 0;
}

static int close_all(void **unused)
{
	munmap(peer, peer_bytes);
	assert_ok(gr_dirty_log_close(marks));
	close_ram();
	return 0;
}

static void mark(uint64_t addr)
{
	__atomic_fetch_or(&peer[addr / PAGE / 8], (uint8_t)(1u << addr / PAGE % 8),
			  __ATOMIC_RELEASE);
}

/* What a harvest of a part gives, as "offset+length" in pages. */
static const char *harvest_part(struct gr_block *block, uint64_t from, uint64_t count)
{
	static char text[1024];
	struct gr_harvest *got;
	uint64_t offset, length;
	size_t at = 0;

	assert_ok(gr_dirty_harvest(client, block, from * PAGE, count * PAGE, &got));
	text[0] = 0;
	while (gr_harvest_next(got, &offset, &length) && at < sizeof(text) - 50)
		at += (size_t)snprintf(
			text + at, sizeof(text) - at, at ? " %llu+%llu" : "%llu+%llu",
			(unsigned long long)(offset / PAGE), (unsigned long long)(length / PAGE));
	gr_harvest_commit(got);
	return text;
}

static const char *harvest(struct gr_block *block)
{
	return harvest_part(block, 0, 0);
}

static void marks_are_told_by_block_and_offset(void **unused)
{
	/* pieces, at odd addresses, one above 4 GiB; a word of the log has two of them */
	assert_ok(gr_space_map(space, 3 * PAGE, first, 0, 7 * PAGE, RW));
	assert_ok(gr_space_map(space, 10 * PAGE, second, 30 * PAGE, 70 * PAGE, RW));
	assert_ok(gr_space_map(space, 9 * GIB / 2 + PAGE, first, 20 * PAGE, 80 * PAGE, GR_READ));
	mark(2 * PAGE); /* nobody's */
	mark(3 * PAGE);
	mark(9 * PAGE);
	mark(10 * PAGE);
	mark(79 * PAGE);
	mark(80 * PAGE);   /* nobody's */
	mark(9 * GIB / 2); /* nobody's */
	mark(9 * GIB / 2 + 80 * PAGE);
	assert_string_equal(harvest(first), "0+1 6+1 99+1");
	assert_string_equal(harvest(first), "");
	assert_string_equal(harvest_part(second, 90, 10), "99+1");
	assert_string_equal(harvest(second), "30+1");
	assert_string_equal(harvest(second), "");
	mark(79 * PAGE);
	assert_string_equal(harvest(second), "99+1");
}

static void one_page_that_is_mapped_twice_is_told_once(void **unused)
{
	assert_ok(gr_space_map(space, 0, first, 0, SIZE, RW));
	assert_ok(gr_space_map(space, GIB, first, 0, SIZE, RW));
	mark(5 * PAGE);
	mark(GIB + 5 * PAGE);
	mark(GIB + 6 * PAGE);
	assert_string_equal(harvest(first), "5+2");
	assert_string_equal(harvest(first), "");
}

static void marks_of_a_range_that_left_are_its_own(void **unused)
{
	assert_ok(gr_space_map(space, 0, first, 0, SIZE, RW));
	mark(5 * PAGE);
	assert_ok(gr_space_unmap(space, 0, SIZE));
	mark(6 * PAGE); /* it has not been told yet */
	assert_ok(gr_space_map(space, 0, second, 0, SIZE, RW));
	mark(7 * PAGE);
	assert_string_equal(harvest(first), "5+2");
	assert_string_equal(harvest(second), "7+1");
	assert_ok(gr_space_unmap(space, 0, SIZE));
	mark(8 * PAGE);
	assert_string_equal(harvest(second), "8+1");
	assert_string_equal(harvest(first), "");
}

static void marks_that_nobody_owned_are_not_of_a_block_that_comes(void **unused)
{
	mark(5 * PAGE);
	assert_ok(gr_space_map(space, 0, first, 0, SIZE, RW));
	assert_string_equal(harvest(first), "");
}

static void a_split_or_move_loses_nothing(void **unused)
{
	struct gr_txn *txn;

	assert_ok(gr_space_map(space, 0, first, 0, SIZE, RW));
	mark(0);
	mark(50 * PAGE);
	mark(99 * PAGE);
	assert_ok(gr_space_unmap(space, 50 * PAGE, PAGE));
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, 0, SIZE));
	assert_ok(gr_txn_map(txn, GIB, first, 0, SIZE, RW));
	assert_ok(gr_txn_map(txn, 0, second, 0, SIZE, RW));
	assert_ok(gr_txn_commit(txn));
	mark(GIB + 70 * PAGE);
	assert_string_equal(harvest(first), "0+1 50+1 70+1 99+1");
	assert_string_equal(harvest(second), "");
}

static int refuse(void *context, struct gr_space *of, const struct gr_range *range)
{
	return range->addr == GIB ? -EPERM : 0;
}

static const struct gr_listener_ops refuser = {.range_added = refuse};

static void a_change_that_is_refused_loses_nothing(void **unused)
{
	struct gr_listener *listener;
	struct gr_txn *txn;

	assert_ok(gr_space_map(space, 0, first, 0, SIZE, RW));
	assert_ok(gr_listener_open(ram, &refuser, NULL, 10, &listener));
	mark(5 * PAGE);
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, 0, SIZE));
	assert_ok(gr_txn_map(txn, GIB, first, 0, SIZE, RW));
	assert_int_equal(gr_txn_commit(txn), -EPERM);
	mark(6 * PAGE);
	assert_string_equal(harvest(first), "5+2");
	assert_ok(gr_listener_close(listener));
}

static void blocks_come_and_go(void **unused)
{
	struct gr_block *dimm;
	uint64_t i;

	for (i = 0; i < 300; i++) {
		uint64_t addr = GIB + i * SIZE;

		dimm = new_anon(ram, "dimm", SIZE, 0);
		assert_ok(gr_space_map(space, addr, dimm, 0, SIZE, RW));
		mark(addr + 9 * PAGE);
		assert_string_equal(harvest(dimm), "9+1");
		mark(addr + 10 * PAGE);
		assert_ok(gr_space_unmap(space, addr, SIZE));
		assert_ok(gr_space_map(space, 0, first, 0, SIZE, RW));
		mark(PAGE);
		assert_ok(gr_space_unmap(space, 0, SIZE));
		assert_string_equal(harvest(dimm), "10+1");
		assert_ok(gr_block_delete(dimm));
	}
	assert_string_equal(harvest(first), "1+1");
}

/* Not more than 64 are remembered; of those that are not, what was marked before is told. */
static void many_that_left_are_not_kept_for_ever(void **unused)
{
	uint64_t i;

	for (i = 0; i < PAGES; i++) {
		assert_ok(gr_space_map(space, GIB + i * PAGE, first, i * PAGE, PAGE, RW));
		if (i % 2)
			mark(GIB + i * PAGE);
		assert_ok(gr_space_unmap(space, GIB + i * PAGE, PAGE));
	}
	mark(GIB); /* it left 99 ranges ago */
	mark(GIB + 98 * PAGE);
	assert_string_equal(harvest_part(first, 0, 4), "1+1 3+1");
	assert_string_equal(harvest_part(first, 96, 4), "97+3");
}

static void what_is_above_the_log_is_refused(void **unused)
{
	struct gr_dirty_log *other;
	uint64_t bytes;

	assert_error(gr_space_map(space, LAST + 1, first, 0, PAGE, RW), -ERANGE, "dirty log");
	assert_error(gr_space_map(space, LAST - PAGE + 1, first, 0, 2 * PAGE, RW), -ERANGE, "log");
	assert_ok(gr_space_map(space, LAST - PAGE + 1, first, 0, PAGE, RW));
	assert_error(gr_dirty_log_open(space, LAST - PAGE, &other), -ERANGE, "dirty log");
	assert_error(gr_space_close(space), -EBUSY, "");
	gr_dirty_log_fd(marks, &bytes);
	assert_true(bytes >= 5 * GIB / PAGE / 8);
	/* the peer cannot cut it */
	assert_int_equal(ftruncate(gr_dirty_log_fd(marks, &bytes), 0), -1);
}

static void a_close_tells_what_is_marked(void **unused)
{
	open_all(NULL);
	assert_ok(gr_space_map(space, 0, first, 0, SIZE, RW));
	mark(5 * PAGE);
	gr_read_begin();
	assert_int_equal(gr_dirty_log_close(marks), -EDEADLK);
	gr_read_end();
	mark(6 * PAGE);
	close_all(NULL);
}

/* ------------------------------------------------------------------------------------- races */

static bool stop;
static uint64_t stored;

/* Data, then its bit, page by page. */
static void *write_and_mark(void *arg)
{
	uint64_t *memory = arg;
	struct rng rng = {seed_of_the_day()};

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		uint64_t page = rng_below(&rng, PAGES);

		__atomic_store_n(&memory[page * PAGE / 8], ++stored, __ATOMIC_RELAXED);
		mark(GIB + page * PAGE);
	}
	return NULL;
}

/* The mapping goes and comes back elsewhere and here: the peer marks at GIB all the time. */
static void *remap(void *arg)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		assert_ok(gr_space_unmap(space, GIB + 30 * PAGE, 20 * PAGE));
		assert_ok(gr_space_map(space, GIB + 30 * PAGE, first, 30 * PAGE, 20 * PAGE, RW));
	}
	return NULL;
}

static void no_mark_is_lost_under_harvests_and_changes(void **unused)
{
	uint64_t *memory = info_of(first).host, *copy = calloc(1, SIZE);
	uint64_t offset, length, page;
	int64_t begin = now_ms();
	struct gr_harvest *got;
	pthread_t writer, changer;
	long harvests = 0;
	bool last = false;

	stop = false;
	assert_ok(gr_space_map(space, GIB, first, 0, SIZE, RW));
	writer = thread_start(write_and_mark, memory);
	changer = thread_start(remap, NULL);
	while (!last) {
		last = stop;
		assert_ok(gr_dirty_harvest(client, first, 0, 0, &got));
		while (gr_harvest_next(got, &offset, &length))
			for (page = offset / PAGE; page < (offset + length) / PAGE; page++)
				copy[page * PAGE / 8] =
					__atomic_load_n(&memory[page * PAGE / 8], __ATOMIC_RELAXED);
		gr_harvest_commit(got);
		harvests++;
		if (!stop && now_ms() - begin > 700) {
			__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
			thread_join(writer);
			thread_join(changer);
		}
	}
	print_message("%llu stores, %ld harvests\n", (unsigned long long)stored, harvests);
	assert_memory_equal(copy, memory, SIZE);
	free(copy);
}

/* ------------------------------------------------------------------------------------- faults */

static const char *failed_call;
static int fail_at, calls;

static int fault(const char *call)
{
	if (++calls != fail_at)
		return 0;
	failed_call = call;
	return ENOMEM;
}

static void arm(int position)
{
	failed_call = NULL;
	calls = 0;
	fail_at = position;
	gr__hook_fault = fault;
}

static void every_fault_of_opening_and_closing(void **unused)
{
	int position, rc;

	for (position = 1;; position++) {
		open_ram();
		assert_ok(gr_space_map(space, 0, first, 0, SIZE, RW));
		arm(position);
		rc = gr_dirty_log_open(space, LAST, &marks);
		gr__hook_fault = NULL;
		if (failed_call)
			tally_fault("gr_dirty_log_open", failed_call);
		if (rc < 0)
			assert_ok(gr_dirty_log_open(space, LAST, &marks));
		map_peer();
		mark(5 * PAGE);
		assert_string_equal(harvest(first), "5+1");
		mark(6 * PAGE);
		munmap(peer, peer_bytes);
		arm(position);
		tally_nothing("gr_dirty_log_fd");
		rc = gr_dirty_log_close(marks);
		gr__hook_fault = NULL;
		if (failed_call)
			tally_fault("gr_dirty_log_close", failed_call);
		if (rc < 0)
			assert_ok(gr_dirty_log_close(marks));
		assert_string_equal(harvest(first), "6+1");
		close_ram();
		if (!failed_call && calls < position && position > 20)
			break;
	}
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_all, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(marks_are_told_by_block_and_offset),
		each(one_page_that_is_mapped_twice_is_told_once),
		each(marks_of_a_range_that_left_are_its_own),
		each(marks_that_nobody_owned_are_not_of_a_block_that_comes),
		each(a_split_or_move_loses_nothing),
		each(a_change_that_is_refused_loses_nothing),
		each(blocks_come_and_go),
		each(many_that_left_are_not_kept_for_ever),
		each(what_is_above_the_log_is_refused),
		cmocka_unit_test(a_close_tells_what_is_marked),
		each(no_mark_is_lost_under_harvests_and_changes),
		cmocka_unit_test(every_fault_of_opening_and_closing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
