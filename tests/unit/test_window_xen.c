/* SPDX-License-Identifier: MIT */
/* The Xen adapter over a stand-in of the library it uses; no Xen is asked. */
#include "../fault/tally.h"
#include "foreign_domain.h"
#include "os/hooks.h"
#include "xen_stand_in.h"
#include <guestram/xen.h>

#define GFN 0x100
#define LENGTH (16 * PAGE)

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;

static int open_world(void **unused)
{
	struct gr_block_opts opts = {.name = "domU",
				     .backing = GR_BACKING_FOREIGN,
				     .length = LENGTH,
				     .foreign = &gr_xen_ops,
				     .window_size = 4 * PAGE,
				     .max_windows = 2};
	struct gr_xen *xen = NULL;
	uint64_t gfn;

	memset(&xen_stand_in, 0, sizeof(xen_stand_in));
	xen_stand_in.fd = memfd_create("domU", MFD_CLOEXEC);
	xen_stand_in.domain = 7;
	for (gfn = GFN; gfn < GFN + 16; gfn++)
		assert_int_equal(pwrite(xen_stand_in.fd, &gfn, 8, (off_t)(gfn * PAGE)), 8);
	assert_int_equal(ftruncate(xen_stand_in.fd, (GFN + 16) * PAGE), 0);
	assert_ok(gr_xen_open(7, GFN, &xen));
	opts.foreign_context = xen;
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	assert_ok(gr_block_new(ram, &opts, &block));
	assert_ok(gr_space_map(space, 0, block, 0, LENGTH, RW));
	return 0;
}

static int close_world(void **unused)
{
	assert_ok(gr_ram_close(ram));
	assert_int_equal(xen_stand_in.mapped, 0);
	assert_int_equal(xen_stand_in.handles, 0);
	close(xen_stand_in.fd);
	return 0;
}

static void test_frames_of_the_domain_are_seen(void **unused)
{
	uint64_t page, value = 0;

	for (page = 0; page < 16; page++) {
		assert_ok(gr_load_u64(space, page * PAGE, &value));
		assert_int_equal(value, GFN + page);
		assert_ok(gr_store_u64(space, page * PAGE + 8, ~page));
		assert_int_equal(
			pread(xen_stand_in.fd, &value, 8, (off_t)((GFN + page) * PAGE + 8)), 8);
		assert_int_equal(value, ~page);
	}
	assert_in_range(xen_stand_in.mapped, 1, 4);
}

static void test_a_window_with_a_missing_page_is_none(void **unused)
{
	uint64_t value = 5;

	xen_stand_in.missing_gfn = GFN + 6;
	assert_error(gr_load_u64(space, 4 * PAGE, &value), -ENOENT, "domU");
	assert_null(look_up(space, 4 * PAGE, 8, GR_READ));
	assert_int_equal(value, 5);
	assert_int_equal(xen_stand_in.mapped, 0);
	assert_ok(gr_load_u64(space, 0, &value)); /* another window */
	xen_stand_in.missing_gfn = 0;
	assert_ok(gr_load_u64(space, 4 * PAGE, &value));
	assert_int_equal(value, GFN + 4);
}

static void test_a_map_that_fails_whole_is_an_error(void **unused)
{
	uint64_t value = 5;

	xen_stand_in.map_error = EPERM;
	assert_error(gr_load_u64(space, 0, &value), -EPERM, "domU");
	xen_stand_in.map_error = 0;
	assert_ok(gr_load_u64(space, 0, &value));
	assert_ok(gr_foreign_invalidate(block, 0, LENGTH));
	assert_int_equal(xen_stand_in.mapped, 0);
}

static void test_a_handle_that_does_not_open(void **unused)
{
	struct gr_xen *xen = NULL;

	xen_stand_in.open_error = EACCES;
	assert_error(gr_xen_open(7, 0, &xen), -EACCES, "xenforeignmemory_open");
	assert_null(xen);
	assert_error(gr_xen_open(7, UINT64_MAX, &xen), -EINVAL, "gfn");
	xen_stand_in.open_error = 0;
	assert_ok(gr_xen_open(7, 0, &xen));
	gr_xen_close(xen);
	gr_xen_close(NULL);
}

static int fault_at;
static const char *failed_call;

static int fail_one(const char *call)
{
	if (--fault_at)
		return 0;
	failed_call = call;
	return EMFILE;
}

static void test_every_fault_of_opening(void **unused)
{
	struct gr_xen *xen = NULL;
	int nth = 1, rc;

	for (;; nth++) {
		fault_at = nth;
		failed_call = NULL;
		gr__hook_fault = fail_one;
		rc = gr_xen_open(7, 0, &xen);
		gr__hook_fault = NULL;
		if (!rc)
			break;
		tally_fault("gr_xen_open", failed_call);
		assert_null(xen);
	}
	assert_int_equal(nth, 3);
	fault_at = 0;
	gr__hook_fault = fail_one;
	gr_xen_close(xen);
	gr__hook_fault = NULL;
	assert_int_equal(fault_at, 0);
	tally_nothing("gr_xen_close");
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, open_world, close_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_WORLD(test_frames_of_the_domain_are_seen),
		IN_WORLD(test_a_window_with_a_missing_page_is_none),
		IN_WORLD(test_a_map_that_fails_whole_is_an_error),
		IN_WORLD(test_a_handle_that_does_not_open),
		IN_WORLD(test_every_fault_of_opening),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
