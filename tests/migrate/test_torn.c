/* SPDX-License-Identifier: MIT */
/*
 * A page that the guest writes to after the sender took its hash and before it went: it arrives as
 * neither the old one nor the new one. It comes again when the write was marked, and only then is
 * there a guest on the other side.
 */
#include "os/hooks.h"
#include "pair.h"

static struct {
	struct side *side;
	unsigned how; /* as side.mark */
	int writes;   /* atomic: left to do */
} guest;

/* Write to a page that is on its way: to several, so that one of them is in this record. */
static void write_on_the_way(const char *point)
{
	struct gr_block_info info;

	if (strcmp(point, "migrate.hashed") != 0 || !guest.side ||
	    __atomic_fetch_sub(&guest.writes, 1, __ATOMIC_RELAXED) <= 0)
		return;
	gr_block_get_info(guest.side->low, &info);
	for (uint64_t page = 1; page < LOW_BYTES / PAGE; page += 64) {
		char *to = (char *)info.host + page * PAGE + 100;

		__atomic_fetch_add(to, 1, __ATOMIC_RELAXED);
		if (guest.how == 1)
			gr_mark_host(to, 1);
	}
}

static void begin(struct pair *pair, unsigned channels, unsigned how, int writes)
{
	struct gr_block_info info;

	pair_open(pair, channels, PAIR_SOCKETS);
	info = info_of(pair->from.low);
	for (uint64_t at = 0; at < LOW_BYTES; at += 8)
		*(uint64_t *)((char *)info.host + at) = at + 1;
	guest.side = &pair->from;
	guest.how = how;
	guest.writes = writes;
	__atomic_store_n(&gr__hook_point, write_on_the_way, __ATOMIC_RELEASE);
}

static void end(struct pair *pair)
{
	__atomic_store_n(&gr__hook_point, NULL, __ATOMIC_RELEASE);
	guest.side = NULL;
	pair_close(pair);
}

static void marked_it_comes_again(unsigned channels)
{
	struct pair pair;

	begin(&pair, channels, 1, 20);
	pair_run(&pair);
	if (pair.from.rc || pair.to.rc)
		fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc, pair.to.why);
	assert_same_memory(&pair);
	assert_one_guest(&pair);
	end(&pair);
}

static void over_one_channel(void **unused)
{
	marked_it_comes_again(1);
}

static void over_three_channels(void **unused)
{
	marked_it_comes_again(3);
}

static void not_marked_it_is_missed(void **unused)
{
	struct pair pair;

#ifdef GR__TSAN
	skip(); /* pages are copied for it, and so whole */
#endif
	begin(&pair, 1, 2, 20);
	pair_run(&pair);
	assert_int_equal(pair.to.rc, -EBADMSG);
	assert_non_null(strstr(pair.to.why, "came damaged, and not again"));
	assert_int_equal(pair.from.stats.guest, GR_GUEST_HERE);
	assert_one_guest(&pair);
	end(&pair);
}

/* Torn in the last look before the switch: it is fetched. */
static void before_postcopy(void **unused)
{
	struct pair pair;

	begin(&pair, 1, 1, 20);
	pair.from.opts.flags |= GR_MIGRATE_POSTCOPY;
	pair.from.opts.max_rounds = 1;
	pair.from.opts.max_downtime_ms = 1;
	pair.from.opts.max_bytes_per_second = 40 * MIB; /* what is left takes longer than 1 ms */
	pair_run(&pair);
	if (strstr(pair.from.why, "does not converge")) {
		end(&pair);
		skip();
	}
	if (pair.from.rc || pair.to.rc)
		fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc, pair.to.why);
	assert_int_equal(pair.to.stats.postcopy, 1);
	assert_same_memory(&pair);
	end(&pair);
}

/* Pages that are packed are copied first: none is torn, marked or not. */
static void packed_it_is_whole(void **unused)
{
	struct pair pair;

	begin(&pair, 1, 2, 20);
	pair.from.opts.zstd_level = 1;
	pair_run(&pair);
	assert_int_equal(pair.from.rc, 0);
	end(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(over_one_channel),	   cmocka_unit_test(over_three_channels),
		cmocka_unit_test(not_marked_it_is_missed), cmocka_unit_test(before_postcopy),
		cmocka_unit_test(packed_it_is_whole),
	};

	alarm(170);
	return cmocka_run_group_tests_name("migrate: torn", tests, NULL, NULL);
}
