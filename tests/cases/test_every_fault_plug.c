/* SPDX-License-Identifier: MIT */
/* Q16, Q17, Q30 for granules, hints, balloons and claims on discards; see fault.h. */
#include "../fault/tally.h"
#include "fault.h"
#include <guestram/plug.h>
#include <stdlib.h>
#include <string.h>

#define BASE (2048 * GIB)

static const struct gr_plug_opts pages = {.granule = PAGE};
static struct gr_plug *plug;
static struct gr_balloon *balloon;
static struct gr_discard_claim *claim;

static void close_granules(struct fault_world *world)
{
	gr_plug_unmap(plug, world->wide, BASE);
	gr_plug_unmap(plug, world->flat, 0);
	assert_ok(gr_plug_remove_all(plug));
	assert_ok(gr_plug_close(plug));
	plug = NULL;
}

/* ---------------------------------------------------------------------------------- granules */

static int run_open(struct fault_world *world)
{
	int rc = gr_plug_open(world->spare, &pages, &plug);

	if (rc < 0)
		assert_null(plug);
	return rc;
}

static void open_granules(struct fault_world *world)
{
	assert_ok(gr_plug_open(world->spare, &pages, &plug));
}

static int run_close(struct fault_world *world)
{
	int rc = gr_plug_close(plug);

	if (!rc)
		plug = NULL;
	return rc;
}

static int run_map(struct fault_world *world)
{
	return gr_plug_map(plug, world->wide, BASE, 0, 16 * PAGE, RW);
}

static void plug_two_runs(struct fault_world *world)
{
	open_granules(world);
	assert_ok(gr_plug_add(plug, 0, PAGE));
	assert_ok(gr_plug_add(plug, 2 * PAGE, 2 * PAGE));
}

static void map_two_runs(struct fault_world *world)
{
	plug_two_runs(world);
	assert_ok(run_map(world));
	assert_ok(gr_plug_map(plug, world->flat, 0, 0, 4 * PAGE, GR_READ));
	memset(case_host(world->spare), 'p', PAGE);
	memset((char *)case_host(world->spare) + 2 * PAGE, 'p', 2 * PAGE);
}

static int run_unmap(struct fault_world *world)
{
	return gr_plug_unmap(plug, world->wide, BASE);
}

static int run_add(struct fault_world *world)
{
	int rc = gr_plug_add(plug, PAGE, PAGE);

	if (rc < 0)
		assert_int_equal(gr_plug_bytes(plug), 3 * PAGE);
	return rc;
}

/* All became one range, in both spaces, and what was there is there. */
static void check_added(struct fault_world *world)
{
	char *host = case_host(world->spare);

	assert_ptr_equal(case_lookup(world->wide, BASE, 4 * PAGE, RW), host);
	assert_ptr_equal(case_lookup(world->flat, 0, 4 * PAGE, GR_READ), host);
	assert_int_equal(host[0], 'p');
	assert_int_equal(host[PAGE], 0);
	assert_int_equal(host[4 * PAGE - 1], 'p');
	close_granules(world);
}

/* A failure loses no byte of what stays plugged. */
static int run_remove(struct fault_world *world)
{
	int rc = gr_plug_remove(plug, 3 * PAGE, PAGE);
	char *host = case_host(world->spare);

	assert_int_equal(host[3 * PAGE], rc < 0 ? 'p' : 0);
	assert_int_equal(host[0], 'p');
	assert_int_equal(gr_plug_is(plug, 3 * PAGE, PAGE), rc < 0 ? GR_PLUG_ALL : GR_PLUG_NONE);
	return rc;
}

static int run_remove_all(struct fault_world *world)
{
	int rc = gr_plug_remove_all(plug);
	char *host = case_host(world->spare);

	if (rc < 0) {
		assert_int_equal(host[0], 'p');
		assert_int_equal(host[3 * PAGE], 'p');
	}
	assert_int_equal(gr_plug_bytes(plug), rc < 0 ? 3 * PAGE : 0);
	return rc;
}

static struct gr_block *allocated;

static void open_allocated(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.name = "allocated",
		.backing = GR_BACKING_MEMFD,
		.flags = GR_PREALLOC,
		.length = 4 * PAGE,
	};

	assert_ok(gr_block_new(world->ram, &opts, &allocated));
	assert_ok(gr_plug_open(allocated, &pages, &plug));
}

static int run_add_allocated(struct fault_world *world)
{
	return gr_plug_add(plug, PAGE, 2 * PAGE);
}

static int count_runs(void *context, uint64_t offset, uint64_t length)
{
	++*(int *)context;
	return 0;
}

static int run_each(struct fault_world *world)
{
	int count = 0, rc = gr_plug_each(plug, count_runs, &count);

	assert_int_equal(count, rc < 0 ? 0 : 2);
	return rc;
}

/* ----------------------------------------------------------------- hints, balloons and claims */

static int run_hint(struct fault_world *world)
{
	return (int)gr_hint_free(world->wide, 0, 4 * PAGE);
}

static int run_balloon_open(struct fault_world *world)
{
	int rc = gr_balloon_open(world->wide, &balloon);

	if (rc < 0)
		assert_null(balloon);
	return rc;
}

static void close_balloon(struct fault_world *world)
{
	assert_ok(gr_balloon_close(balloon));
	balloon = NULL;
}

static void open_balloon(struct fault_world *world)
{
	assert_ok(gr_balloon_open(world->wide, &balloon));
}

static int run_inflate(struct fault_world *world)
{
	int rc = gr_balloon_inflate(balloon, 0, 3 * PAGE);

	assert_int_equal(gr_balloon_bytes(balloon), rc < 0 ? 0 : 3 * PAGE);
	return rc;
}

static int run_deflate(struct fault_world *world)
{
	return gr_balloon_deflate(balloon, 0, 2 * PAGE);
}

static void inflate(struct fault_world *world)
{
	open_balloon(world);
	assert_ok(gr_balloon_inflate(balloon, 0, 4 * PAGE));
}

static void check_deflated(struct fault_world *world)
{
	assert_int_equal(gr_balloon_bytes(balloon), 2 * PAGE);
	close_balloon(world);
}

/* A balloon that has no memory to remember what leaves forgets it: the change itself goes on. */
static int run_unmap_ballooned(struct fault_world *world)
{
	int rc = gr_space_unmap(world->wide, 0, PAGE);

	if (!rc)
		assert_true(gr_balloon_bytes(balloon) <= 3 * PAGE);
	return rc;
}

static void check_ballooned(struct fault_world *world)
{
	assert_ok(gr_space_unmap(world->wide, PAGE, 3 * PAGE));
	assert_int_equal(gr_balloon_bytes(balloon), 0);
	close_balloon(world);
}

static int run_balloon_close(struct fault_world *world)
{
	int rc = gr_balloon_close(balloon);

	if (!rc)
		balloon = NULL;
	return rc;
}

static int run_claim(struct fault_world *world)
{
	int rc = gr_discard_claim_open(world->ram, world->anon, GR_DISCARD_FORBID, "dma", &claim);

	if (rc < 0)
		assert_null(claim);
	return rc;
}

static void close_claim(struct fault_world *world)
{
	assert_int_equal(gr_block_discard(world->anon, 0, PAGE), -EBUSY);
	gr_discard_claim_close(claim);
	claim = NULL;
}

static const struct fault_case operations[] = {
	{"gr_plug_open", .run = run_open, .check = close_granules, .at_least = 6},
	{"gr_plug_close", .prepare = open_granules, .run = run_close},
	{"gr_plug_map", .prepare = plug_two_runs, .run = run_map, .check = close_granules,
	 .at_least = 4},
	{"gr_plug_unmap", .prepare = map_two_runs, .run = run_unmap, .check = close_granules,
	 .at_least = 3},
	{"gr_plug_add", .prepare = map_two_runs, .run = run_add, .check = check_added,
	 .at_least = 8},
	{"gr_plug_add allocated", .prepare = open_allocated, .run = run_add_allocated,
	 .check = close_granules, .at_least = 3},
	{"gr_plug_remove", .prepare = map_two_runs, .run = run_remove, .check = close_granules,
	 .at_least = 8, .republishes = true},
	{"gr_plug_remove_all", .prepare = map_two_runs, .run = run_remove_all,
	 .check = close_granules, .at_least = 8, .republishes = true},
	{"gr_plug_each", .prepare = plug_two_runs, .run = run_each, .check = close_granules,
	 .at_least = 1},
	{"gr_hint_free", .run = run_hint, .at_least = 1},
	{"gr_balloon_open", .run = run_balloon_open, .check = close_balloon, .at_least = 4},
	{"gr_balloon_inflate", .prepare = open_balloon, .run = run_inflate, .check = close_balloon,
	 .at_least = 3},
	{"gr_balloon_deflate", .prepare = inflate, .run = run_deflate, .check = check_deflated},
	{"gr_space_unmap with a balloon", .prepare = inflate, .run = run_unmap_ballooned,
	 .check = check_ballooned, .at_least = 4},
	{"gr_balloon_close", .prepare = inflate, .run = run_balloon_close, .at_least = 1},
	{"gr_discard_claim_open", .covers = "gr_discard_claim_open gr_discard_claim_close",
	 .run = run_claim, .check = close_claim, .at_least = 1},
};

static void run_named(const char *start)
{
	fault_run_named(operations, COUNT_OF(operations), start);
}

static void q16_every_fault_of_granules(void **unused)
{
	run_named("gr_plug_");
}

static void q16_every_fault_of_hints_and_balloons(void **unused)
{
	run_named("gr_hint_");
	run_named("gr_balloon_");
	run_named("gr_space_unmap");
}

static void q16_every_fault_of_a_claim(void **unused)
{
	run_named("gr_discard_claim_");
}

static void ask_everything(struct fault_world *world)
{
	assert_int_equal(gr_plug_bytes(plug), 3 * PAGE);
	assert_int_equal(gr_plug_granule(plug), PAGE);
	assert_ptr_equal(gr_plug_block(plug), world->spare);
	assert_ptr_equal(gr_plug_of(world->spare), plug);
	assert_int_equal(gr_plug_is(plug, 0, PAGE), GR_PLUG_ALL);
	assert_int_equal(gr_balloon_bytes(balloon), 0);
}

static void q16_asking_has_nothing_that_can_fail(void **unused)
{
	static const char *const asked[] = {"gr_plug_bytes", "gr_plug_granule", "gr_plug_block",
					    "gr_plug_of",    "gr_plug_is",	"gr_balloon_bytes"};
	struct fault_world world;
	size_t i;

	fault_world_open(&world, true, NULL);
	plug_two_runs(&world);
	assert_ok(gr_balloon_open(world.flat, &balloon));
	assert_int_equal(fault_count(ask_everything, &world), 0);
	for (i = 0; i < COUNT_OF(asked); i++)
		tally_nothing(asked[i]);
	assert_ok(gr_balloon_close(balloon));
	balloon = NULL;
	close_granules(&world);
	fault_world_close(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(q16_every_fault_of_granules),
		cmocka_unit_test(q16_every_fault_of_hints_and_balloons),
		cmocka_unit_test(q16_every_fault_of_a_claim),
		cmocka_unit_test(q16_asking_has_nothing_that_can_fail),
	};

	case_watchdog(90);
	return cmocka_run_group_tests_name("every fault of granules", tests, NULL, NULL);
}
