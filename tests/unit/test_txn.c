/* SPDX-License-Identifier: MIT */
/* Mapping, unmapping and transactions: what is refused, what is all or nothing, in which order. */
#include "testing.h"

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;

static int open_ram(void **unused)
{
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "ram0", 64 * PAGE, 0);
	return 0;
}

static int close_ram(void **unused)
{
	assert_ok(gr_ram_close(ram));
	return 0;
}

static uint64_t generation(void)
{
	return stats_of(ram).generation;
}

/* -------------------------------------------------------------------------------- arguments */

static const struct {
	const char *name;
	uint64_t addr, offset, length;
	unsigned access;
	int want;
} refused[] = {
	{"0 bytes", 0, 0, 0, RW, -EINVAL},
	{"wraps by a page", 0 - PAGE, 0, 2 * PAGE, RW, -ERANGE},
	{"wraps by all of it", 0 - PAGE, 0, 0 - PAGE, RW, -ERANGE},
	{"address in a page", 8, 0, PAGE, RW, -EINVAL},
	{"length in a page", 0, 0, PAGE + 8, RW, -EINVAL},
	{"offset in a page", 0, 8, PAGE, RW, -EINVAL},
	{"past the block", 0, 63 * PAGE, 2 * PAGE, RW, -EINVAL},
	{"behind the block", 0, 64 * PAGE, PAGE, RW, -EINVAL},
	{"offset wraps", 0, 0 - PAGE, 2 * PAGE, RW, -EINVAL},
	{"no access", 0, 0, PAGE, 0, -EINVAL},
	{"unknown access", 0, 0, PAGE, RW | 4, -EINVAL},
};

static void test_map_refuses_bad_arguments_at_once(void **unused)
{
	uint64_t before = generation();
	struct gr_txn *txn;
	size_t i;

	assert_ok(gr_txn_begin(space, &txn));
	for (i = 0; i < COUNT_OF(refused); i++) {
		int map = gr_space_map(space, refused[i].addr, block, refused[i].offset,
				       refused[i].length, refused[i].access);
		int later = gr_txn_map(txn, refused[i].addr, block, refused[i].offset,
				       refused[i].length, refused[i].access);

		if (map != refused[i].want || later != refused[i].want)
			fail_msg("%s: %d and %d, not %d", refused[i].name, map, later,
				 refused[i].want);
	}
	/* what was refused is not in the transaction, which goes on */
	assert_ok(gr_txn_map(txn, PAGE, block, 0, PAGE, RW));
	assert_int_equal(generation(), before);
	assert_ok(gr_txn_commit(txn));
	assert_int_equal(stats_of(ram).ranges, 1);
}

static void test_unmap_refuses_bad_arguments_at_once(void **unused)
{
	struct gr_txn *txn;

	assert_ok(gr_space_map(space, 0 - PAGE, block, 0, PAGE, RW));
	assert_ok(gr_txn_begin(space, &txn));
	assert_error(gr_space_unmap(space, 0, 0), -EINVAL, "0 bytes");
	assert_error(gr_space_unmap(space, 0 - PAGE, 2 * PAGE), -ERANGE, "2^64");
	assert_error(gr_space_unmap(space, 1, PAGE), -EINVAL, "multiples");
	assert_error(gr_space_unmap(space, 0, 1), -EINVAL, "multiples");
	assert_error(gr_space_unmap(space, 0, 0 - PAGE), -ENOENT, "nothing");
	assert_error(gr_txn_unmap(txn, 0, 0), -EINVAL, "0 bytes");
	assert_error(gr_txn_unmap(txn, 0 - PAGE, 2 * PAGE), -ERANGE, "2^64");
	gr_txn_abort(txn);
	assert_int_equal(stats_of(ram).ranges, 1);
	assert_ok(gr_space_unmap(space, 0 - PAGE, PAGE));
}

static void test_a_block_of_another_ram_is_refused(void **unused)
{
	struct gr_block *stranger;
	struct gr_ram *other;

	assert_ok(gr_ram_open(NULL, &other));
	stranger = new_anon(other, "ram0", PAGE, 0);
	assert_error(gr_space_map(space, 0, stranger, 0, PAGE, RW), -EINVAL, "another RAM");
	assert_ok(gr_ram_close(other));
}

static void test_overlap_names_the_other_range(void **unused)
{
	static const uint64_t bad[][2] = {{4, 4}, {5, 2}, {3, 2}, {7, 1},
					  {7, 9}, {4, 1}, {0, 5}, {0, 64}};
	uint64_t before;
	size_t i;

	assert_ok(gr_space_map(space, 4 * PAGE, block, 0, 4 * PAGE, RW));
	before = generation();
	for (i = 0; i < COUNT_OF(bad); i++)
		assert_error(gr_space_map(space, bad[i][0] * PAGE, block, 0, bad[i][1] * PAGE, RW),
			     -EEXIST, "[0x4000, 0x7fff] of block ram0");
	assert_int_equal(generation(), before);
	assert_ok(gr_space_map(space, 0, block, 0, 4 * PAGE, RW));
	assert_ok(gr_space_map(space, 8 * PAGE, block, 0, 4 * PAGE, RW));
	assert_int_equal(stats_of(ram).ranges, 3);
}

/* ------------------------------------------------------------------------------ transactions */

static void test_nothing_shows_before_the_commit_and_all_after_it(void **unused)
{
	uint64_t before = generation();
	struct gr_txn *txn;

	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_map(txn, 0, block, 0, PAGE, RW));
	assert_ok(gr_txn_map(txn, GR_GRANULE, block, PAGE, PAGE, GR_READ));
	assert_null(look_up(space, 0, 1, 0));
	assert_int_equal(generation(), before);
	assert_ok(gr_txn_commit(txn));
	assert_int_equal(generation(), before + 1); /* one view */
	assert_non_null(look_up(space, 0, PAGE, RW));
	assert_non_null(look_up(space, GR_GRANULE, PAGE, GR_READ));
	assert_null(look_up(space, GR_GRANULE, PAGE, GR_WRITE));
}

static void test_a_failing_step_at_any_place_undoes_all(void **unused)
{
	int bad;

	assert_ok(gr_space_map(space, 8 * PAGE, block, 0, PAGE, RW));
	for (bad = 0; bad < 5; bad++) {
		void *host = look_up(space, 8 * PAGE, PAGE, RW);
		uint64_t before = generation();
		struct gr_txn *txn;
		int i;

		assert_ok(gr_txn_begin(space, &txn));
		for (i = 0; i < 5; i++) {
			if (i == bad)
				assert_ok(gr_txn_map(txn, 7 * PAGE, block, 0, 2 * PAGE, RW));
			else
				assert_ok(gr_txn_map(txn, (unsigned)i * PAGE, block, 0, PAGE, RW));
		}
		assert_error(gr_txn_commit(txn), -EEXIST, "overlaps");
		assert_int_equal(generation(), before);
		assert_int_equal(stats_of(ram).ranges, 1);
		assert_int_equal(info_of(block).mapped, 1);
		assert_null(look_up(space, 0, 1, 0));
		assert_ptr_equal(look_up(space, 8 * PAGE, PAGE, RW), host);
	}
}

static void test_steps_apply_in_the_order_they_were_collected(void **unused)
{
	char *host = info_of(block).host;
	struct gr_txn *txn;

	assert_ok(gr_space_map(space, 0, block, 0, 4 * PAGE, RW));
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, PAGE, PAGE)); /* makes room for the next one */
	assert_ok(gr_txn_map(txn, PAGE, block, 9 * PAGE, PAGE, GR_READ));
	assert_ok(gr_txn_map(txn, 8 * PAGE, block, 0, PAGE, RW));
	assert_ok(gr_txn_unmap(txn, 8 * PAGE, PAGE));  /* takes it away again */
	assert_ok(gr_txn_unmap(txn, 16 * PAGE, PAGE)); /* a hole is no error */
	assert_ok(gr_txn_commit(txn));
	assert_ptr_equal(look_up(space, 0, PAGE, RW), host);
	assert_ptr_equal(look_up(space, PAGE, PAGE, GR_READ), host + 9 * PAGE);
	assert_ptr_equal(look_up(space, 2 * PAGE, 2 * PAGE, RW), host + 2 * PAGE);
	assert_null(look_up(space, 8 * PAGE, 1, 0));
	assert_int_equal(info_of(block).mapped, 3);

	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_map(txn, 0, block, 0, PAGE, RW)); /* the other way round: too early */
	assert_ok(gr_txn_unmap(txn, 0, PAGE));
	assert_int_equal(gr_txn_commit(txn), -EEXIST);
}

static void test_replacing_a_whole_table_is_one_step_for_readers(void **unused)
{
	struct gr_block *other = new_anon(ram, "ram1", 64 * PAGE, 0);
	struct gr_cursor cursor;
	struct gr_txn *txn;
	void *host;

	gr_cursor_init(&cursor, space);
	assert_ok(gr_space_map(space, 0, block, 0, 64 * PAGE, RW));
	gr_read_begin();
	host = gr_cursor_host(&cursor, PAGE, PAGE, RW);
	gr_read_end();
	assert_ptr_equal(host, (char *)info_of(block).host + PAGE);
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, 0, 64 * PAGE));
	assert_ok(gr_txn_map(txn, 0, other, 0, 64 * PAGE, RW));
	assert_ok(gr_txn_commit(txn));
	gr_read_begin();
	assert_ptr_equal(gr_cursor_host(&cursor, PAGE, PAGE, RW),
			 (char *)info_of(other).host + PAGE);
	gr_read_end();
	assert_int_equal(info_of(block).mapped, 0);
	assert_ok(gr_block_delete(block));
}

static void test_a_view_is_kept_for_the_reader_that_holds_it(void **unused)
{
	struct iovec iov[2];
	int i;

	assert_ok(gr_space_map(space, 0, block, 0, 4 * PAGE, RW));
	gr_read_begin();
	for (i = 0; i < 200; i++) { /* more than wakes the reclaim thread */
		assert_ok(gr_space_unmap(space, PAGE, PAGE));
		assert_int_equal(gr_spans(space, 0, 2 * PAGE, RW, iov, 2), -EFAULT);
		assert_ok(gr_space_map(space, PAGE, block, PAGE, PAGE, RW));
		assert_int_equal(gr_spans(space, 0, 2 * PAGE, RW, iov, 2), 2);
	}
	gr_read_end();
}

static void test_abort_forgets_and_takes_null(void **unused)
{
	uint64_t before = generation();
	struct gr_txn *txn;

	gr_txn_abort(NULL);
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_map(txn, 0, block, 0, PAGE, RW));
	gr_txn_abort(txn);
	assert_int_equal(generation(), before);
	assert_null(look_up(space, 0, 1, 0));
	assert_ok(gr_block_delete(block)); /* it does not hold the block */
}

static void test_an_empty_transaction_commits_and_changes_nothing(void **unused)
{
	uint64_t before = generation();
	struct gr_txn *txn;

	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_commit(txn));
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, 0, PAGE));
	assert_ok(gr_txn_commit(txn));
	assert_true(generation() - before <= 1);
	assert_int_equal(stats_of(ram).ranges, 0);
}

static void test_two_transactions_of_one_space_do_not_hinder_each_other(void **unused)
{
	struct gr_txn *one, *two;

	assert_ok(gr_txn_begin(space, &one));
	assert_ok(gr_txn_begin(space, &two));
	assert_ok(gr_txn_map(one, 0, block, 0, PAGE, RW));
	assert_ok(gr_txn_map(two, PAGE, block, 0, PAGE, RW));
	assert_ok(gr_txn_commit(two));
	assert_error(gr_space_close(space), -EBUSY, "transaction");
	assert_ok(gr_txn_commit(one));
	assert_int_equal(stats_of(ram).ranges, 2);
}

/* ----------------------------------------------------------------------------------- memory */

/* One leaf of 512 words serves every GiB that a range covers whole. */
static void test_the_index_of_a_long_range_is_small(void **unused)
{
	const uint64_t leaf = 4096 + 256; /* with its bookkeeping */
	struct gr_block *large = new_caller(ram, "large", reserve(900 * GIB), 900 * GIB, NULL);
	uint64_t ranges;

	assert_int_equal(stats_of(ram).index_bytes, 0);
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_int_equal(stats_of(ram).index_bytes, 8);
	ranges = stats_of(ram).range_bytes;
	assert_true(ranges > 0);
	assert_ok(gr_space_map(space, 100 * GIB, large, 0, 800 * GIB, RW));
	assert_in_range(stats_of(ram).index_bytes, 900 * 8, 900 * 8 + 2 * leaf);
	assert_int_equal(stats_of(ram).range_bytes, ranges); /* both stand in one chunk */
	assert_ok(gr_space_unmap(space, 500 * GIB + 2 * MIB, 2 * MIB)); /* a slot of its own */
	assert_in_range(stats_of(ram).index_bytes, 900 * 8, 900 * 8 + 4 * leaf);
	assert_ok(gr_space_unmap(space, 100 * GIB, 800 * GIB));
	assert_int_equal(stats_of(ram).index_bytes, 8);
}

/* ------------------------------------------------------------------------------------ close */

static void test_close_while_a_transaction_is_open_is_busy(void **unused)
{
	struct gr_txn *txn;

	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_map(txn, 0, block, 0, PAGE, RW));
	assert_error(gr_space_close(space), -EBUSY, "transaction");
	assert_error(gr_ram_close(ram), -EBUSY, "transaction");
	assert_ok(gr_txn_commit(txn));
	assert_non_null(look_up(space, 0, PAGE, RW));
	assert_ok(gr_space_close(space));
	assert_ok(gr_space_close(NULL));
	assert_int_equal(stats_of(ram).spaces, 0);
	assert_int_equal(stats_of(ram).ranges, 0);
	assert_int_equal(stats_of(ram).index_bytes, 0);
	assert_int_equal(stats_of(ram).range_bytes, 0);
	assert_int_equal(info_of(block).mapped, 0);
	assert_ok(gr_block_delete(block));
}

static void test_a_reader_may_go_on_with_a_space_that_was_closed(void **unused)
{
	int i;

	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	gr_read_begin();
	assert_ok(gr_space_close(space));
	for (i = 0; i < 100; i++) {
		struct gr_space *other;

		assert_ok(gr_space_open(ram, "other", &other));
		assert_ok(gr_space_close(other));
	}
	assert_null(gr_host(space, 0, 1, 0));
	assert_string_equal(gr_space_name(space), "gpa");
	gr_read_end();
}

static void test_space_names(void **unused)
{
	struct gr_space *same, *none = NULL;
	char name[257];

	memset(name, 'n', 256);
	name[256] = 0;
	assert_error(gr_space_open(ram, name, &none), -EINVAL, "255");
	assert_error(gr_space_open(ram, "", &none), -EINVAL, "255");
	assert_error(gr_space_open(ram, NULL, &none), -EINVAL, "255");
	assert_null(none);
	assert_ok(gr_space_open(ram, "gpa", &same));
	assert_string_equal(gr_space_name(same), "gpa");
	assert_int_equal(stats_of(ram).spaces, 2);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_map_refuses_bad_arguments_at_once),
		each(test_unmap_refuses_bad_arguments_at_once),
		each(test_a_block_of_another_ram_is_refused),
		each(test_overlap_names_the_other_range),
		each(test_nothing_shows_before_the_commit_and_all_after_it),
		each(test_a_failing_step_at_any_place_undoes_all),
		each(test_steps_apply_in_the_order_they_were_collected),
		each(test_replacing_a_whole_table_is_one_step_for_readers),
		each(test_a_view_is_kept_for_the_reader_that_holds_it),
		each(test_abort_forgets_and_takes_null),
		each(test_an_empty_transaction_commits_and_changes_nothing),
		each(test_two_transactions_of_one_space_do_not_hinder_each_other),
		each(test_the_index_of_a_long_range_is_small),
		each(test_close_while_a_transaction_is_open_is_busy),
		each(test_a_reader_may_go_on_with_a_space_that_was_closed),
		each(test_space_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
