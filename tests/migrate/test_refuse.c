/* SPDX-License-Identifier: MIT */
/* Q28: blocks that do not fit are refused before anything is changed; and failures on either side.
 */
#include "huge_pages.h"
#include "pair.h"

enum odd { MISSING, RENAMED, MORE, BIGGER, SMALLER, LONGER_MAX, OTHER_PAGES, READ_ONLY_THERE };

static void make_odd(struct pair *pair, enum odd odd)
{
	struct side *to = &pair->to;
	struct gr_block_opts opts = {.name = "low", .length = LOW_BYTES};
	struct gr_block *block;
	static char memory[LOW_BYTES] __attribute__((aligned(4096)));

	if (odd == MORE) {
		new_anon(to->ram, "extra", PAGE, 0);
		return;
	}
	assert_ok(gr_space_unmap(to->space, 0, LOW_BYTES));
	assert_ok(gr_block_delete(to->low));
	to->low = NULL;
	if (odd == MISSING)
		return;
	if (odd == RENAMED)
		opts.name = "lowest";
	if (odd == BIGGER)
		opts.length = 2 * LOW_BYTES;
	if (odd == SMALLER)
		opts.length = LOW_BYTES / 2;
	if (odd == LONGER_MAX)
		opts.max_length = 2 * LOW_BYTES;
	if (odd == OTHER_PAGES)
		opts.page_size = 2 * MIB;
	if (odd == READ_ONLY_THERE) {
		opts.backing = GR_BACKING_CALLER;
		opts.host = memory;
		opts.flags = GR_READ_ONLY;
	}
	assert_ok(gr_block_new(to->ram, &opts, &block));
	to->low = block;
}

static void refuse(enum odd odd, const char *what, const char *values)
{
	struct pair pair;
	char *high;

	pair_open(&pair, 2, PAIR_SOCKETS);
	make_odd(&pair, odd);
	high = info_of(pair.to.high).host;
	high[5] = 0x33;
	pair_run(&pair);
	assert_int_equal(pair.from.rc, -ECONNREFUSED);
	assert_int_equal(pair.to.rc, -EINVAL);
	if (!strstr(pair.from.why, what) || !strstr(pair.from.why, values) ||
	    !strstr(pair.to.why, values))
		fail_msg("%s; %s", pair.from.why, pair.to.why);
	assert_int_equal(high[5], 0x33); /* nothing was changed */
	assert_int_equal(info_of(pair.to.high).length, HIGH_BYTES);
	assert_int_equal(pair.from.stops, 0);
	assert_true(get(&pair.from.running));
	assert_one_guest(&pair);
	pair_close(&pair);
}

static void q28_missing(void **unused)
{
	refuse(MISSING, "block low", "is there and not here");
}

static void q28_renamed(void **unused)
{
	refuse(RENAMED, "block low", "is there and not here");
}

static void q28_one_more(void **unused)
{
	refuse(MORE, "block extra", "is here and not there");
}

static void q28_bigger(void **unused)
{
	refuse(BIGGER, "block low", "4194304 bytes there, 8388608 here");
}

static void q28_smaller(void **unused)
{
	refuse(SMALLER, "block low", "4194304 bytes there, 2097152 here");
}

static void q28_longer_max(void **unused)
{
	refuse(LONGER_MAX, "block low", "4194304 bytes there, 8388608 here");
}

static void q28_other_pages(void **unused)
{
	if (!get_huge_pages(2 * MIB, LOW_BYTES / (2 * MIB)))
		skip();
	refuse(OTHER_PAGES, "block low", "pages of 4096 bytes there, of 2097152 here");
	put_huge_pages();
}

static void q28_read_only(void **unused)
{
	refuse(READ_ONLY_THERE, "block low", "is writable there, read-only here");
}

static int keep_low(void *context, struct gr_block *block)
{
	return !strcmp(info_of(block).name, "low");
}

static int refuse_low(void *context, struct gr_block *block)
{
	return strcmp(info_of(block).name, "low") ? 0 : -EPERM;
}

static void private_memory_cannot_stay(void **unused)
{
	struct gr_migrate_ops ops = pair_ops;
	struct pair pair;

	ops.block = keep_low;
	pair_open(&pair, 1, PAIR_SOCKETS);
	pair.from.opts.ops = &ops;
	pair_run(&pair);
	assert_int_equal(pair.from.rc, -ECONNREFUSED);
	assert_non_null(strstr(pair.from.why, "left in place there, and private here"));
	pair_close(&pair);
}

static void blocks_stay_in_place(void **unused)
{
	struct gr_migrate_ops ops = pair_ops;
	struct pair pair;
	char *there;

	ops.block = keep_low;
	pair_open(&pair, 1, PAIR_SOCKETS);
	pair.from.opts.ops = pair.to.opts.ops = &ops;
	pair.from.opts.flags = GR_MIGRATE_SHARED_IN_PLACE; /* and "high" */
	there = info_of(pair.to.high).host;
	there[0] = 0x44;
	pair_run(&pair);
	assert_int_equal(pair.from.rc, 0);
	assert_int_equal(pair.to.rc, 0);
	assert_int_equal(there[0], 0x44);
	assert_int_equal(pair.from.stats.bytes_copied + pair.from.stats.bytes_zero, 0);
	assert_int_equal(((unsigned char *)info_of(pair.to.low).host)[0], 0xee);
	pair_close(&pair);
}

static void an_embedder_refuses(void **unused)
{
	struct gr_migrate_ops ops = pair_ops;
	struct pair pair;

	ops.block = refuse_low;
	for (unsigned side = 0; side < 2; side++) {
		pair_open(&pair, 1, PAIR_SOCKETS);
		(side ? &pair.to : &pair.from)->opts.ops = &ops;
		pair_run(&pair);
		assert_int_equal((side ? &pair.to : &pair.from)->rc, -EPERM);
		assert_true((side ? &pair.from : &pair.to)->rc < 0);
		assert_non_null(strstr((side ? &pair.to : &pair.from)->why, "block low"));
		assert_one_guest(&pair);
		pair_close(&pair);
	}
}

/* ------------------------------------------------------------------------------- failing sides */

static void state_that_does_not_load(void **unused)
{
	struct pair pair;

	pair_open(&pair, 2, PAIR_SOCKETS);
	pair.to.load_error = -EUCLEAN;
	side_start_guest(&pair.from);
	pair_run(&pair);
	assert_int_equal(pair.from.rc, -ECONNABORTED);
	assert_non_null(strstr(pair.from.why, "loading state"));
	assert_int_equal(pair.to.rc, -EUCLEAN);
	assert_int_equal(pair.from.resumes, 1);
	assert_int_equal(pair.to.resumes, 0);
	assert_one_guest(&pair);
	pair_close(&pair);
}

static void callbacks_that_fail(void **unused)
{
	struct pair pair;

	for (unsigned which = 0; which < 2; which++) {
		pair_open(&pair, 1, PAIR_SOCKETS);
		if (which)
			pair.from.save_error = -ENXIO;
		else
			pair.from.stop_error = -EXDEV;
		pair_run(&pair);
		assert_int_equal(pair.from.rc, which ? -ENXIO : -EXDEV);
		assert_true(pair.to.rc < 0);
		assert_int_equal(pair.from.resumes, which);
		assert_one_guest(&pair);
		pair_close(&pair);
	}
}

static void too_much_state(void **unused)
{
	struct pair pair;

	pair_open(&pair, 1, PAIR_SOCKETS);
	pair.to.opts.max_state = MIB;
	pair_run(&pair);
	assert_true(pair.from.rc < 0);
	assert_int_equal(pair.to.rc, -ERANGE);
	assert_one_guest(&pair);
	pair_close(&pair);
}

static void cancelled(void **unused)
{
	struct pair pair;

	pair_open(&pair, 2, PAIR_SOCKETS);
	pair.from.cancel_at = 1;
	pair_run(&pair);
	assert_int_equal(pair.from.rc, -ECANCELED);
	assert_true(pair.to.rc < 0);
	assert_one_guest(&pair);
	pair_close(&pair);
}

/* Q33: the set of blocks changes. */
static int plug_at_stop(void *context)
{
	struct side *side = context;

	new_anon(side->ram, "late", PAGE, 0);
	return 0;
}

static int unplug_at_stop(void *context)
{
	struct side *side = context;

	assert_ok(gr_space_unmap(side->space, 0, LOW_BYTES));
	return gr_block_delete(side->low);
}

static void q33_blocks_that_come_or_go(void **unused)
{
	struct gr_migrate_ops ops = pair_ops;
	struct pair pair;

	for (unsigned which = 0; which < 2; which++) {
		ops.stop = which ? plug_at_stop : unplug_at_stop;
		pair_open(&pair, 2, PAIR_SOCKETS);
		pair.from.opts.ops = &ops;
		pair_run(&pair);
		assert_int_equal(pair.from.rc, -EBUSY);
		assert_non_null(strstr(pair.from.why, which ? "late" : "low"));
		assert_int_equal(pair.from.resumes, 1);
		assert_one_guest(&pair);
		pair_close(&pair);
	}
}

static void wrong_options(void **unused)
{
	struct gr_migrate_opts opts = {0};
	struct pair pair;
	int fd = 0;

	pair_open(&pair, 1, PAIR_SOCKETS);
	assert_error(gr_migrate_send(pair.from.ram, &opts, NULL), -EINVAL, "channels");
	opts.fds = &fd;
	opts.fd_count = 17;
	assert_error(gr_migrate_receive(pair.to.ram, &opts, NULL), -EINVAL, "17 channels");
	opts.fd_count = 1;
	opts.flags = 1u << 20;
	assert_error(gr_migrate_send(pair.from.ram, &opts, NULL), -EINVAL, "flags");
	opts.flags = GR_MIGRATE_ONE_WAY | GR_MIGRATE_POSTCOPY;
	assert_error(gr_migrate_send(pair.from.ram, &opts, NULL), -EINVAL, "answers");
	opts.flags = 0;
	opts.zstd_level = 20;
	assert_error(gr_migrate_send(pair.from.ram, &opts, NULL), -EINVAL, "zstd");
	opts.zstd_level = 0;
	fd = -1;
	assert_error(gr_migrate_send(pair.from.ram, &opts, NULL), -EINVAL, "descriptor");
	gr_read_begin();
	assert_error(gr_migrate_send(pair.from.ram, &pair.from.opts, NULL), -EDEADLK, "migrate");
	gr_read_end();
	pair_close(&pair);
}

static void other_ends(void **unused)
{
	struct pair pair;

	pair_open(&pair, 2, PAIR_SOCKETS); /* one of two channels */
	pair.to.opts.fd_count = 1;
	pair_run(&pair);
	assert_true(pair.from.rc < 0);
	assert_int_equal(pair.to.rc, -EPROTO);
	assert_non_null(strstr(pair.from.why, "the sender has 2 channels, we have 1"));
	pair_close(&pair);

	pair_open(&pair, 3, PAIR_SOCKETS); /* in another order: numbers decide */
	{
		int fd = pair.to.fds[1];

		pair.to.fds[1] = pair.to.fds[2];
		pair.to.fds[2] = fd;
	}
	pair_run(&pair);
	assert_int_equal(pair.from.rc, 0);
	assert_same_memory(&pair);
	pair_close(&pair);
}

static void a_dead_peer(void **unused)
{
	struct pair pair;

	pair_open(&pair, 1, PAIR_SOCKETS);
	pair.from.opts.timeout_ms = 200;
	pair.to.stats.guest = GR_GUEST_THERE; /* it is never called */
	assert_error(gr_migrate_send(pair.from.ram, &pair.from.opts, &pair.from.stats), -ETIMEDOUT,
		     "nothing moved for 200 ms");
	assert_one_guest(&pair);
	pair_close(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(q28_missing),
		cmocka_unit_test(q28_renamed),
		cmocka_unit_test(q28_one_more),
		cmocka_unit_test(q28_bigger),
		cmocka_unit_test(q28_smaller),
		cmocka_unit_test(q28_longer_max),
		cmocka_unit_test(q28_other_pages),
		cmocka_unit_test(q28_read_only),
		cmocka_unit_test(private_memory_cannot_stay),
		cmocka_unit_test(blocks_stay_in_place),
		cmocka_unit_test(an_embedder_refuses),
		cmocka_unit_test(state_that_does_not_load),
		cmocka_unit_test(callbacks_that_fail),
		cmocka_unit_test(too_much_state),
		cmocka_unit_test(cancelled),
		cmocka_unit_test(q33_blocks_that_come_or_go),
		cmocka_unit_test(wrong_options),
		cmocka_unit_test(other_ends),
		cmocka_unit_test(a_dead_peer),
	};

	testing_end_after(170);
	return cmocka_run_group_tests_name("migrate: refusals", tests, NULL, NULL);
}
