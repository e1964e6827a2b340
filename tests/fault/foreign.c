/* SPDX-License-Identifier: MIT */
/*
 * Each call that fails once where memory is seen through windows: making the block, the lookup that
 * maps one, taking them out. A failure maps nothing, and the same works then.
 *
 * Threads: one, and the RAM's.
 */
#include "foreign_domain.h"
#include "nth.h"
#include "os/hooks.h"
#include "tally.h"

#define LENGTH (64 * PAGE)
#define WINDOW (8 * PAGE)

static struct domain domain;
static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;

static int open_world(void **unused)
{
	domain_open(&domain, LENGTH);
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	return 0;
}

static int close_world(void **unused)
{
	disarm();
	assert_ok(gr_ram_close(ram));
	domain_close(&domain);
	return 0;
}

static int make(void)
{
	struct gr_block_opts opts = domain_opts(&domain, WINDOW, 2);

	return gr_block_new(ram, &opts, &block);
}

static void a_block_that_cannot_be_made(void **unused)
{
	int nth = 1, rc;

	for (;; nth++) {
		const char *call;

		block = NULL;
		arm(nth);
		rc = make();
		call = disarm();
		if (call)
			tally_fault("gr_block_new", call);
		if (!rc)
			break;
		assert_non_null(call);
		assert_null(block);
		assert_int_equal(stats_of(ram).blocks, 0);
		assert_int_equal(domain.released,
				 0); /* what we did not take is still the caller's */
	}
	assert_true(nth > 3);
}

static void a_window_that_cannot_be_mapped(void **unused)
{
	int nth = 1, failures = 0;
	uint64_t value;

	assert_ok(make());
	assert_ok(gr_space_map(space, 0, block, 0, LENGTH, RW));
	assert_null(
		look_up(space, LENGTH, 8, GR_READ)); /* a thread's first section asks for more */
	for (;; nth++) {
		uint64_t at = nth % 2 * WINDOW;
		struct gr_foreign_stats stats;
		const char *call;
		int rc;

		arm(nth);
		rc = look_up(space, at, 8, GR_READ) ? 0 : -1;
		call = disarm();
		if (call)
			tally_fault("gr_host", call);
		if (rc) {
			failures++;
			assert_ok(gr_foreign_get_stats(block, &stats));
			assert_int_equal(stats.mapping, 0);
			assert_int_equal(stats.published, domain_mapped(&domain));
		}
		assert_ok(gr_load_u64(space, at, &value));
		assert_int_equal(value, domain_stamp(at, false));
		/* the next load finds no window again */
		arm(nth);
		rc = gr_foreign_invalidate(block, 0, LENGTH);
		if (disarm())
			tally_fault("gr_foreign_invalidate", failed);
		else
			tally_nothing("gr_foreign_invalidate");
		if (rc)
			assert_ok(gr_foreign_invalidate(block, 0, LENGTH));
		assert_int_equal(domain_mapped(&domain), 0);
		if (!call)
			break;
	}
	assert_true(failures > 0);
	arm(0);
	assert_ok(gr_foreign_get_stats(block, &(struct gr_foreign_stats){0}));
	disarm();
	assert_int_equal(seen, 0);
	tally_nothing("gr_foreign_get_stats");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_block_that_cannot_be_made, open_world,
						close_world),
		cmocka_unit_test_setup_teardown(a_window_that_cannot_be_mapped, open_world,
						close_world),
	};

	return cmocka_run_group_tests_name("fault-foreign", tests, NULL, NULL);
}
