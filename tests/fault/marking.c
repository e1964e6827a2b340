/* SPDX-License-Identifier: MIT */
/*
 * Each call that fails once in the functions of <guestram/dirty.h>; what cannot fail is shown to
 * make no call that could. Watches: tests/dirty/test_watch.c.
 *
 * Threads: one.
 */
#include "nth.h"
#include "os/hooks.h"
#include "tally.h"
#include <errno.h>
#include <guestram/dirty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

#include <cmocka.h>

#define PAGE GR_PAGE_SIZE
#define PAGES 64

static struct gr_ram *ram;
static struct gr_block *block;
static struct gr_dirty *client;
static struct gr_harvest *harvest;
static struct gr_dirty_source *source;
static uint64_t bytes;

static int collect(void *context, struct gr_block *of, uint64_t offset, uint64_t length,
		   struct gr_dirty_sink *sink)
{
	int before = seen;

	gr_dirty_report(sink, offset + 3 * PAGE, PAGE);
	assert_int_equal(seen, before);
	return 0;
}

static const struct gr_dirty_source_ops source_ops = {.collect = collect};

static int open_client(void)
{
	struct gr_dirty_opts opts = {.name = "client", .granularity = 1024};

	return gr_dirty_open(ram, &opts, &client);
}

static int open_source(void)
{
	return gr_dirty_source_open(ram, &source_ops, NULL, &source);
}

static int take(void)
{
	return gr_dirty_harvest(client, block, 0, 0, &harvest);
}

static int count(void)
{
	return gr_dirty_bytes(client, NULL, &bytes);
}

/* Until it gets through; then it has run once. */
static void each_fault(const char *function, int (*run)(void))
{
	for (int nth = 1;; nth++) {
		struct gr_ram_stats before, after;
		const char *call;
		int rc;

		gr_ram_get_stats(ram, &before);
		arm(nth);
		rc = run();
		call = disarm();
		gr_ram_get_stats(ram, &after);
		if (rc && (!call || before.blocks != after.blocks || !gr_last_error()[0]))
			fail_msg("%s, call %d, %s: %d", function, nth, call ? call : "none", rc);
		if (call)
			tally_fault(function, call);
		else if (nth == 1)
			tally_nothing(function);
		if (!rc)
			break;
	}
}

static void no_fault(const char *function)
{
	disarm();
	if (seen)
		fail_msg("%s made %d calls that can fail", function, seen);
	tally_nothing(function);
}

static void clients_sources_and_harvests(void **state)
{
	struct gr_block_opts opts = {.name = "block", .length = PAGES * PAGE};
	struct gr_block_info info;
	uint64_t offset, length;

	assert_int_equal(gr_ram_open(NULL, &ram), 0);
	assert_int_equal(gr_block_new(ram, &opts, &block), 0);
	gr_block_get_info(block, &info);
	each_fault("gr_dirty_open", open_client);
	each_fault("gr_dirty_source_open", open_source);
	arm(0);
	gr_dirty_mark(block, PAGE, PAGE);
	no_fault("gr_dirty_mark");
	arm(0);
	gr_mark_host((char *)info.host + 5 * PAGE, 1);
	no_fault("gr_mark_host");
	each_fault("gr_dirty_bytes", count);
	each_fault("gr_dirty_harvest", take);
	tally_nothing("gr_dirty_report"); /* see collect() */
	arm(0);
	assert_in_range(gr_harvest_bytes(harvest), 2 * PAGE + 1024, 3 * PAGE);
	no_fault("gr_harvest_bytes");
	arm(0);
	assert_int_equal(gr_harvest_next(harvest, &offset, &length), 1);
	no_fault("gr_harvest_next");
	assert_int_equal(offset, PAGE);
	arm(0);
	gr_harvest_return(harvest);
	no_fault("gr_harvest_return");
	assert_int_equal(take(), 0);
	arm(0);
	gr_harvest_commit(harvest);
	no_fault("gr_harvest_commit");
}

static int close_client(void)
{
	return gr_dirty_close(client);
}

static void their_end(void **state)
{
	arm(0);
	gr_dirty_source_close(source);
	no_fault("gr_dirty_source_close");
	for (int nth = 1;; nth++) {
		const char *call;
		int rc;

		arm(nth);
		rc = close_client();
		call = disarm();
		if (call)
			tally_fault("gr_dirty_close", call);
		else
			tally_nothing("gr_dirty_close");
		if (!rc)
			break;
		assert_non_null(call);
	}
	assert_int_equal(gr_ram_close(ram), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_sources_and_harvests),
		cmocka_unit_test(their_end),
	};

	return cmocka_run_group_tests_name("fault-marking", tests, NULL, NULL);
}
