/* SPDX-License-Identifier: MIT */
/*
 * What models/ found wrong in the code once, each as a test that failed before its fix. The mutant
 * that is the fault is named at each.
 *
 * Threads: one of a test waits with a time-out for another that may hang.
 */
#include "testing.h"

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;

static int setup(void **state)
{
	assert_ok(gr_ram_open(NULL, &ram));
	block = new_anon(ram, "block", MIB, MIB);
	assert_ok(gr_space_open(ram, "space", &space));
	return 0;
}

static int teardown(void **state)
{
	return gr_ram_close(ram);
}

/* ---------------------------------------------------- listeners: claim-without-holes */

struct ledger {
	int added, removed, refused;
	int (*in_added)(void);	 /* called in the first range_added */
	int (*in_removed)(void); /* called in the first range_removed */
};

static int note_added(void *context, struct gr_space *in, const struct gr_range *range)
{
	struct ledger *ledger = context;

	ledger->added++;
	if (ledger->in_added && ledger->added == 1)
		ledger->refused = ledger->in_added();
	return 0;
}

static void note_removed(void *context, struct gr_space *in, const struct gr_range *range)
{
	struct ledger *ledger = context;

	ledger->removed++;
	if (ledger->in_removed && ledger->removed == 1)
		ledger->refused = ledger->in_removed();
}

static const struct gr_listener_ops ledger_ops = {
	.range_added = note_added,
	.range_removed = note_removed,
};

static int map_into_the_hole(void)
{
	return gr_space_map(space, MIB, block, 0, PAGE, RW);
}

static int unmap_all(void)
{
	return gr_space_unmap(space, 0, 2 * MIB);
}

static void a_map_into_a_hole_that_is_being_unmapped_is_refused(void **state)
{
	struct ledger ledger = {.in_removed = map_into_the_hole};
	struct gr_listener *listener;

	assert_ok(gr_listener_open(ram, &ledger_ops, &ledger, 0, &listener));
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_ok(unmap_all());
	assert_int_equal(ledger.refused, -EBUSY);
	assert_null(look_up(space, MIB, 1, GR_READ));
	assert_int_equal(ledger.added, 1);
	assert_int_equal(ledger.removed, 1);
	assert_ok(map_into_the_hole()); /* now it may */
	assert_ok(gr_listener_close(listener));
	assert_int_equal(ledger.added, 2);
	assert_int_equal(ledger.removed, 2);
}

static void an_unmap_over_a_range_that_is_being_mapped_is_refused(void **state)
{
	struct ledger ledger = {0};
	struct gr_listener *listener;

	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_ok(gr_listener_open(ram, &ledger_ops, &ledger, 0, &listener));
	ledger = (struct ledger){.in_added = unmap_all};
	assert_ok(map_into_the_hole());
	assert_int_equal(ledger.refused, -EBUSY);
	assert_non_null(look_up(space, 0, 1, GR_READ));
	assert_non_null(look_up(space, MIB, 1, GR_READ));
	assert_ok(unmap_all());
	assert_int_equal(ledger.removed, 2);
	assert_ok(gr_listener_close(listener));
	assert_int_equal(ledger.removed, 2);
}

/* ---------------------------------------------------- listeners: committed-unclaimed */

struct closing {
	int calls, rc;
};

static void close_space(void *context, struct gr_space *changed, uint64_t generation)
{
	struct closing *closing = context;

	closing->calls++;
	closing->rc = gr_space_close(changed);
}

static void a_space_stays_open_while_its_commit_is_told(void **state)
{
	static const struct gr_listener_ops ops = {.committed = close_space};
	struct closing closing = {0, 0};
	struct gr_listener *listener;

	assert_ok(gr_listener_open(ram, &ops, &closing, 0, &listener));
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_int_equal(closing.calls, 1);
	assert_int_equal(closing.rc, -EBUSY);
	assert_ok(gr_listener_close(listener));
	assert_ok(gr_space_close(space));
}

/* ------------------------------------------------------- embedder: writer-settles */

static struct gr_ram *embedder_ram;
static pthread_mutex_t big = PTHREAD_MUTEX_INITIALIZER;
static struct gate inside;
static int done;

static void *take_big_lock_in_section(void *arg)
{
	gr_read_begin();
	gate_open(&inside);
	pthread_mutex_lock(&big);
	pthread_mutex_unlock(&big);
	gr_read_end();
	return NULL;
}

static int refuse_block(void *context, struct gr_block *added)
{
	return -EPERM;
}

/* More changes than any bound on what waits for readers, and a block that is refused. */
static void *write_under_big_lock(void *arg)
{
	static const struct gr_listener_ops ops = {.block_added = refuse_block};
	struct gr_block_opts opts = {.name = "refused", .length = PAGE};
	struct gr_block *first = new_anon(embedder_ram, "first", MIB, MIB), *refused;
	struct gr_space *there = NULL;
	struct gr_listener *listener;
	pthread_t reader;
	int failed = gr_space_open(embedder_ram, "there", &there), i;

	pthread_mutex_lock(&big);
	reader = thread_start(take_big_lock_in_section, NULL);
	failed |= !gate_wait(&inside);
	for (i = 0; i < 5000 && !failed; i++) {
		failed |= gr_space_map(there, 0, first, 0, PAGE, RW);
		failed |= gr_space_unmap(there, 0, PAGE);
	}
	failed |= gr_block_delete(first);
	failed |= gr_listener_open(embedder_ram, &ops, NULL, 0, &listener);
	failed |= gr_block_new(embedder_ram, &opts, &refused) != -EPERM;
	gr_ram_reclaim(embedder_ram);
	pthread_mutex_unlock(&big);
	pthread_join(reader, NULL);
	failed |= gr_ram_close(embedder_ram);
	set(&done, failed ? -1 : 1);
	return NULL;
}

static void no_writer_waits_for_readers_under_the_embedders_lock(void **state)
{
	static const struct gr_ram_opts opts = {.embedder_reclaim = 1};
	pthread_t writer;

	assert_ok(gr_ram_open(&opts, &embedder_ram));
	gate_init(&inside);
	writer = thread_start(write_under_big_lock, NULL);
	assert_true(wait_until(get(&done)));
	assert_int_equal(get(&done), 1);
	thread_join(writer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_map_into_a_hole_that_is_being_unmapped_is_refused,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			an_unmap_over_a_range_that_is_being_mapped_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_space_stays_open_while_its_commit_is_told, setup,
						teardown),
		cmocka_unit_test(no_writer_waits_for_readers_under_the_embedders_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
