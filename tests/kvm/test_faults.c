/* SPDX-License-Identifier: MIT */
/*
 * Each system call and allocation of each change fails once, at every position; and changes at
 * random, from several threads, with a listener that refuses some and a machine that fails some.
 * Each time slots equal ranges afterwards.
 */
#include "../fault/tally.h"
#include "fake.h"
#include "os/hooks.h"
#include "testing.h"
#include <linux/kvm.h>

#define SIZE (64 * PAGE)

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block, *dimm;
static struct gr_kvm *kvm;
static int paused, pauses;

static void do_pause(void *context)
{
	__atomic_add_fetch(&paused, 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(&pauses, 1, __ATOMIC_RELAXED);
}

static void do_resume(void *context)
{
	__atomic_sub_fetch(&paused, 1, __ATOMIC_RELAXED);
}

static const struct gr_kvm_opts with_pause = {.pause = do_pause, .resume = do_resume};

static void open_all(void)
{
	fake_reset();
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "ram0", SIZE, 2 * SIZE);
	dimm = new_anon(ram, "dimm", SIZE, 0);
	assert_ok(gr_space_map(space, 0, block, 0, 2 * SIZE, RW));
	assert_ok(gr_space_map(space, GIB, dimm, 0, SIZE, GR_READ));
	assert_ok(gr_kvm_open(space, FAKE_FD, &with_pause, &kvm));
}

static void close_all(void)
{
	assert_ok(gr_kvm_close(kvm));
	assert_int_equal(fake.in_use, 0);
	assert_int_equal(fake.wrong, 0);
	assert_int_equal(paused, 0);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(stats_of(ram).pins, 0);
	assert_ok(gr_ram_close(ram));
}

/* ------------------------------------------------------------------- each fault at each place */

static int map(void)
{
	return gr_space_map(space, 2 * GIB, dimm, 0, SIZE, RW);
}

static int unmap(void)
{
	return gr_space_unmap(space, GIB, SIZE);
}

static int split(void)
{
	return gr_space_unmap(space, 7 * PAGE, PAGE);
}

static int replace(void)
{
	struct gr_txn *txn;
	int rc = gr_txn_begin(space, &txn);

	if (rc < 0)
		return rc;
	rc = gr_txn_unmap(txn, GIB + PAGE, 8 * PAGE);
	if (!rc)
		rc = gr_txn_map(txn, GIB + PAGE, dimm, 0, 4 * PAGE, RW);
	if (!rc)
		rc = gr_txn_map(txn, 3 * GIB, dimm, 0, PAGE, RW);
	if (!rc)
		return gr_txn_commit(txn);
	gr_txn_abort(txn);
	return rc;
}

static int grow(void)
{
	return gr_block_resize(block, 2 * SIZE);
}

static int shrink(void)
{
	return gr_block_resize(block, 3 * PAGE);
}

static int log_dirty(void)
{
	return gr_kvm_set_dirty_log(kvm, 1);
}

static int log_block(void)
{
	return gr_kvm_set_block_dirty_log(kvm, dimm, 1);
}

static int open_second(void)
{
	const struct gr_kvm_opts opts = {.first_slot = 500, .address_space = 1};
	struct gr_kvm *second;
	int rc;

	fake.address_spaces = 2;
	rc = gr_kvm_open(space, FAKE_FD, &opts, &second);
	if (!rc) {
		rc = gr_kvm_close(second);
		if (rc < 0) /* nothing changed, or a slot was kept: once more */
			assert_ok(gr_kvm_close(second));
	}
	return rc;
}

static const struct {
	const char *name;
	int (*run)(void);
} operations[] = {
	{"map", map},	       {"unmap", unmap},   {"split", split},   {"replace", replace},
	{"grow", grow},	       {"shrink", shrink}, {"log", log_dirty}, {"log a block", log_block},
	{"open", open_second},
};

static const char *failed_call;
static int fail_at, calls, fail_with;

static int fault(const char *call)
{
	if (++calls != fail_at)
		return 0;
	failed_call = call;
	return fail_with;
}

/* What a change must not have changed. */
struct state {
	struct fake_slot slots[2][FAKE_SLOTS];
	struct gr_ram_stats stats;
};

static struct state take_state(void)
{
	struct state state = {.stats = stats_of(ram)};

	memcpy(state.slots, fake.slots, sizeof(state.slots));
	return state;
}

static bool is_same(const struct fake_slot *a, const struct fake_slot *b)
{
	return a->flags == b->flags && a->addr == b->addr && a->size == b->size &&
	       a->host == b->host;
}

/* Numbers may differ: a slot that was given back is the same in another place. */
static bool same_slots(const struct state *state)
{
	int i, k, found = 0, had = 0;

	for (i = 0; i < FAKE_SLOTS; i++) {
		const struct fake_slot *a = &state->slots[0][i];

		if (!a->size)
			continue;
		had++;
		for (k = 0; k < FAKE_SLOTS; k++)
			found += is_same(a, &fake.slots[0][k]);
	}
	return found == had && had == fake.in_use;
}

static int positions_failed;

/* One operation with the fault at one place; false: it has no such place. */
static bool fail_once(int (*run)(void), int position, int error)
{
	struct gr_kvm_stats stats;
	struct state before;
	int rc;

	open_all();
	before = take_state();
	failed_call = NULL;
	calls = 0;
	fail_at = position;
	fail_with = error;
	gr__hook_fault = fault;
	rc = run();
	gr__hook_fault = NULL;
	if (!failed_call) {
		assert_ok(rc);
		close_all();
		return false;
	}
	positions_failed++;
	gr_kvm_get_stats(kvm, &stats);
	if (rc < 0) {
		assert_true(same_slots(&before));
		assert_int_equal(stats_of(ram).ranges, before.stats.ranges);
		assert_true(slots_equal_ranges(kvm, space));
		assert_ok(run()); /* now it works */
	} else if (!strcmp(failed_call, "kvm.delete")) {
		/* too late to refuse: the slot stays with its memory, and goes with the next change
		 */
		assert_true(stats.stuck == 1 || slots_equal_ranges(kvm, space));
	}
	assert_ok(gr_space_map(space, 10 * GIB, block, 0, PAGE, RW));
	assert_true(slots_equal_ranges(kvm, space));
	close_all();
	return true;
}

static const char *function_of(const char *operation)
{
	if (!strcmp(operation, "open"))
		return "gr_kvm_open";
	if (!strcmp(operation, "log"))
		return "gr_kvm_set_dirty_log";
	return !strcmp(operation, "log a block") ? "gr_kvm_set_block_dirty_log" : "gr_space_map";
}

static void test_each_call_fails_once_at_each_position(void **unused)
{
	static const int errors[] = {ENOMEM, EINVAL};
	size_t i, k;
	int position;

	for (i = 0; i < COUNT_OF(operations); i++) {
		for (k = 0; k < COUNT_OF(errors); k++) {
			position = 1;
			while (fail_once(operations[i].run, position, errors[k])) {
				tally_fault(function_of(operations[i].name), failed_call);
				position++;
			}
			/* at least the structures and one call of the machine */
			assert_true(position > 2);
		}
	}
	print_message("%d positions failed\n", positions_failed);
	assert_true(positions_failed > 100);
}

static void arm(int position)
{
	failed_call = NULL;
	calls = 0;
	fail_at = position;
	fail_with = ENOMEM;
	gr__hook_fault = fault;
}

static void test_questions_cannot_fail_and_the_end_can(void **unused)
{
	struct gr_kvm_slot slots[8];
	struct gr_kvm_stats stats;
	int position, rc;

	for (position = 1;; position++) {
		open_all();
		arm(0);
		gr_kvm_get_stats(kvm, &stats);
		assert_in_range(gr_kvm_get_slots(kvm, slots, 8), 2, 8);
		gr__hook_fault = NULL;
		assert_int_equal(calls, 0);
		arm(position);
		rc = gr_kvm_close(kvm);
		gr__hook_fault = NULL;
		if (failed_call)
			tally_fault("gr_kvm_close", failed_call);
		if (rc < 0)
			assert_ok(gr_kvm_close(kvm));
		assert_int_equal(paused, 0);
		assert_ok(gr_ram_close(ram));
		if (!failed_call)
			break;
	}
	tally_nothing("gr_kvm_get_stats");
	tally_nothing("gr_kvm_get_slots");
	assert_true(position > 1);
}

/* With memory of the machine's own for each block. */
static void test_every_fault_of_guest_memory(void **unused)
{
	const struct gr_kvm_opts opts = {.flags = GR_KVM_GUEST_MEMFD};
	int position, rc;

	for (position = 1;; position++) {
		open_all();
		assert_ok(gr_kvm_close(kvm));
		assert_ok(gr_space_unmap(space, GIB, SIZE)); /* it cannot be read-only */
		fake.guest_memfd = 1;
		arm(position);
		rc = gr_kvm_open(space, FAKE_FD, &opts, &kvm);
		gr__hook_fault = NULL;
		if (failed_call)
			tally_fault("gr_kvm_open", failed_call);
		if (rc < 0) {
			assert_int_equal(fake.in_use, 0);
			assert_ok(gr_kvm_open(space, FAKE_FD, &opts, &kvm));
		}
		close_all();
		if (!failed_call)
			break;
	}
	assert_true(position > 4);
}

/* ------------------------------------------------------------------------ changes at random */

struct storm {
	pthread_t thread;
	uint64_t seed, base;
	long done, refused;
};

#define PLACES 32

static void random_change(struct storm *storm, struct rng *rng)
{
	uint64_t first = rng_below(rng, PLACES), count = 1 + rng_below(rng, PLACES - first);
	uint64_t addr = storm->base + first * PAGE;
	unsigned access = rng_one_in(rng, 3) ? GR_READ : RW;
	struct gr_txn *txn;
	int rc;

	switch (rng_below(rng, 4)) {
	case 0:
		rc = gr_space_unmap(space, addr, count * PAGE);
		break;
	case 1:
		rc = gr_space_map(space, addr, block, first * PAGE, count * PAGE, access);
		break;
	default:
		if (gr_txn_begin(space, &txn) < 0) {
			storm->refused++;
			return;
		}
		rc = gr_txn_unmap(txn, addr, count * PAGE);
		if (!rc)
			rc = gr_txn_map(txn, addr, rng_one_in(rng, 2) ? block : dimm, 0,
					(1 + count / 2) * PAGE, access);
		if (!rc)
			rc = gr_txn_commit(txn);
		else
			gr_txn_abort(txn);
	}
	storm->done += !rc;
	storm->refused += rc < 0;
}

static void *run_storm(void *arg)
{
	struct storm *storm = arg;
	struct rng rng = {storm->seed};
	int i;

	for (i = 0; i < 4000; i++)
		random_change(storm, &rng);
	return NULL;
}

static uint64_t refuser_random = 88172645463325252u;

static int refuse_some(void *context, struct gr_space *of, const struct gr_range *range)
{
	uint64_t now = __atomic_add_fetch(&refuser_random, 0x9e3779b97f4a7c15u, __ATOMIC_RELAXED);

	return (now >> 40) % 16 == 0 ? -EPERM : 0;
}

static const struct gr_listener_ops refuser = {.range_added = refuse_some};

static void test_changes_at_random_from_threads_keep_slots_and_ranges_equal(void **unused)
{
	const struct gr_kvm_opts tight = {.max_slots = 14, .pause = do_pause, .resume = do_resume};
	struct storm storms[3] = {{0}};
	struct gr_listener *listener;
	struct gr_kvm_stats stats;
	uint64_t seed = seed_of_the_day();
	long done = 0, refused = 0;
	size_t i;

	print_message("seed %llu\n", (unsigned long long)seed);
	open_all();
	assert_ok(gr_space_unmap(space, 0, 2 * GIB));
	assert_ok(gr_kvm_close(kvm));
	assert_ok(gr_kvm_open(space, FAKE_FD, &tight, &kvm));
	assert_ok(gr_listener_open(ram, &refuser, NULL, 10, &listener));
	for (i = 0; i < COUNT_OF(storms); i++) {
		storms[i].seed = seed + i;
		storms[i].base = i * GIB;
		storms[i].thread = thread_start(run_storm, &storms[i]);
	}
	for (i = 0; i < COUNT_OF(storms); i++) {
		thread_join(storms[i].thread);
		done += storms[i].done;
		refused += storms[i].refused;
	}
	gr_kvm_get_stats(kvm, &stats);
	print_message("%ld changes, %ld refused, %d pauses, at most %llu slots\n", done, refused,
		      pauses, (unsigned long long)stats.slots_peak);
	print_message("now %llu slots, %d in the machine, %llu pending, %llu stuck, %llu missing\n",
		      (unsigned long long)stats.slots, fake.in_use,
		      (unsigned long long)stats.pending, (unsigned long long)stats.stuck,
		      (unsigned long long)stats.missing);
	assert_true(slots_equal_ranges(kvm, space));
	assert_int_equal(paused, 0);
	assert_int_equal(stats_of(ram).pins, 0);
	assert_true(done > 1000 && refused > 100 && pauses > 100);
	assert_ok(gr_listener_close(listener));
	close_all();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_call_fails_once_at_each_position),
		cmocka_unit_test(test_questions_cannot_fail_and_the_end_can),
		cmocka_unit_test(test_every_fault_of_guest_memory),
		cmocka_unit_test(test_changes_at_random_from_threads_keep_slots_and_ranges_equal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
