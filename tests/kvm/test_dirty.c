/* SPDX-License-Identifier: MIT */
/*
 * What a guest writes comes out in harvests: each page that was written, and no other, whatever
 * slots come, go, are split or move meanwhile. On a machine that is none (fake.h), whose guest
 * writes before and after each call that is made on it: so at the worst moments.
 */
#include "../fault/tally.h"
#include "fake.h"
#include "os/hooks.h"
#include "testing.h"
#include <linux/kvm.h>

#define PAGES 96 /* of a block: a word and a half */
#define SIZE (PAGES * PAGE)
#define BLOCKS 3

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *blocks[BLOCKS];
static struct gr_kvm *kvm;
static struct gr_dirty *client;
static struct gr_dirty_source *source;
static int paused;

static void do_pause(void *context)
{
	paused++;
}

static void do_resume(void *context)
{
	paused--;
}

static const struct gr_kvm_opts with_pause = {.pause = do_pause, .resume = do_resume};

/* How a machine tells. */
struct kind {
	const char *name;
	int manual, ring, addr_bits;
	bool pauses;
};

static const struct kind kinds[] = {
	{"bitmaps that a fetch clears", 0, 0, 46, false},
	{"bitmaps that are cleared", 3, 0, 46, false},
	{"bitmaps, with pauses", 3, 0, 46, true},
	{"bitmaps of slots that do not move", 3, 0, 0, false},
	{"rings", 0, FAKE_RING_BYTES, 46, false},
};

static void open_machine(const struct kind *kind)
{
	static const char *const names[] = {"ram0", "ram1", "ram2"};
	const struct gr_dirty_opts opts = {.name = "test"};
	int i;

	fake_reset();
	fake.manual = kind->manual;
	fake.ring_max = 65536;
	fake.addr_bits = kind->addr_bits;
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	for (i = 0; i < BLOCKS; i++)
		blocks[i] = new_anon(ram, names[i], SIZE, 0);
	assert_ok(gr_dirty_open(ram, &opts, &client));
	assert_ok(gr_kvm_open(space, FAKE_FD, kind->pauses ? &with_pause : NULL, &kvm));
}

static void open_all(const struct kind *kind)
{
	uint64_t bytes = FAKE_RING_BYTES;

	open_machine(kind);
	if (kind->ring)
		assert_ok(gr_kvm_ring_enable(FAKE_FD, &bytes));
	assert_ok(gr_kvm_dirty_open(kvm, (uint64_t)kind->ring, &source));
	if (kind->ring)
		assert_ok(gr_kvm_ring_add(source, fake_cpu()));
}

static void close_machine(void)
{
	fake.meanwhile = NULL;
	gr__hook_fault = NULL;
	assert_ok(gr_kvm_close(kvm));
	assert_int_equal(fake.in_use, 0);
	assert_int_equal(fake.wrong, 0);
	assert_int_equal(paused, 0);
	assert_ok(gr_dirty_close(client));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_ok(gr_ram_close(ram));
}

static void close_all(void)
{
	fake.meanwhile = NULL;
	gr_dirty_source_close(source);
	close_machine();
}

/* What a harvest of a part of a block gives, as "offset+length" in pages. */
static const char *harvest_part(struct gr_block *block, uint64_t first, uint64_t count)
{
	static char text[1024];
	struct gr_harvest *got;
	uint64_t offset, length;
	size_t at = 0;

	assert_ok(gr_dirty_harvest(client, block, first * PAGE, count * PAGE, &got));
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

static void guest_writes(uint64_t addr)
{
	uint64_t host;

	assert_int_equal(fake_write(addr, &host), 1);
}

/* ------------------------------------------------------------------------------- one at a time */

static void each_kind(void (*run)(const struct kind *kind))
{
	size_t i;

	for (i = 0; i < COUNT_OF(kinds); i++) {
		open_all(&kinds[i]);
		run(&kinds[i]);
		close_all();
	}
}

static void check_offsets(const struct kind *kind)
{
	/* the block's last 5 pages, and 3 from its middle, at addresses of another order */
	assert_ok(gr_space_map(space, 0, blocks[0], (PAGES - 5) * PAGE, 5 * PAGE, RW));
	assert_ok(gr_space_map(space, GIB, blocks[0], 7 * PAGE, 70 * PAGE, RW));
	assert_ok(gr_space_map(space, 2 * GIB, blocks[1], 0, SIZE, RW));
	assert_ok(gr_space_map(space, 3 * GIB, blocks[2], 0, SIZE, GR_READ));
	guest_writes(4 * PAGE);
	guest_writes(GIB);
	guest_writes(GIB + 69 * PAGE);
	guest_writes(2 * GIB + 64 * PAGE);
	assert_string_equal(harvest(blocks[0]), "7+1 76+1 95+1");
	assert_string_equal(harvest(blocks[0]), "");
	assert_string_equal(harvest(blocks[1]), "64+1");
	assert_string_equal(harvest(blocks[1]), "");
	assert_string_equal(harvest(blocks[2]), "");
}

static void pages_are_told_in_the_block_s_offsets(void **unused)
{
	each_kind(check_offsets);
}

static void check_parts(const struct kind *kind)
{
	assert_ok(gr_space_map(space, 0, blocks[0], 0, SIZE, RW));
	guest_writes(3 * PAGE);
	guest_writes(20 * PAGE);
	guest_writes(90 * PAGE);
	assert_string_equal(harvest_part(blocks[0], 10, 20), "20+1");
	assert_string_equal(harvest_part(blocks[0], 10, 20), "");
	guest_writes(3 * PAGE);
	assert_string_equal(harvest_part(blocks[0], 80, 16), "90+1");
	assert_string_equal(harvest(blocks[0]), "3+1");
	assert_string_equal(harvest(blocks[0]), "");
}

static void a_part_that_is_harvested_leaves_the_rest(void **unused)
{
	each_kind(check_parts);
}

static void check_later(const struct kind *kind)
{
	struct gr_block *dimm = new_anon(ram, "dimm", SIZE, 0);

	assert_ok(gr_space_map(space, GIB, dimm, 0, SIZE, RW));
	guest_writes(GIB + 65 * PAGE);
	assert_string_equal(harvest(dimm), "65+1");
	guest_writes(GIB);
	assert_ok(gr_space_unmap(space, GIB, SIZE));
	assert_string_equal(harvest(dimm), kind->addr_bits ? "0+1" : "0+96");
	assert_ok(gr_space_map(space, 2 * GIB, dimm, 32 * PAGE, 32 * PAGE, RW));
	guest_writes(2 * GIB + PAGE);
	assert_ok(gr_space_unmap(space, 2 * GIB, 32 * PAGE));
	assert_ok(gr_block_delete(dimm));
	dimm = new_anon(ram, "dimm", SIZE, 0);
	assert_string_equal(harvest(dimm), "");
}

static void blocks_that_are_plugged_and_unplugged_are_told_of(void **unused)
{
	each_kind(check_later);
}

static void one_that_is_closed_has_lost_nothing(void **unused)
{
	open_all(&kinds[1]);
	assert_ok(gr_space_map(space, 0, blocks[0], 0, SIZE, RW));
	guest_writes(5 * PAGE);
	gr_dirty_source_close(source);
	assert_string_equal(harvest(blocks[0]), "5+1");
	assert_int_equal(fake_at(0)->flags, 0);
	/* and what is written then nobody asked for */
	guest_writes(6 * PAGE);
	assert_ok(gr_kvm_dirty_open(kvm, 0, &source));
	assert_string_equal(harvest(blocks[0]), "");
	close_all();
}

static void a_full_ring_is_emptied_and_forgets_nothing(void **unused)
{
	const uint64_t count = FAKE_RING_BYTES / 16 - FAKE_RING_KEPT;
	uint64_t host, i, written = 0;

	open_all(&kinds[4]);
	for (i = 0; i < BLOCKS; i++)
		assert_ok(gr_space_map(space, i * GIB, blocks[i], 0, SIZE, RW));
	for (i = 0; i < 3 * PAGES; i++) {
		int rc = fake_write(i / PAGES * GIB + i % PAGES * PAGE, &host);

		if (rc < 0) {
			assert_int_equal(i, count); /* this one exits */
			assert_ok(gr_kvm_ring_empty(source));
			rc = fake_write(i / PAGES * GIB + i % PAGES * PAGE, &host);
		}
		written += rc == 1;
	}
	assert_int_equal(written, 3 * PAGES);
	for (i = 0; i < BLOCKS; i++)
		assert_string_equal(harvest(blocks[i]), "0+96");
	close_all();
}

static void what_does_not_go_is_refused(void **unused)
{
	struct gr_dirty_source *other;
	struct gr_kvm_opts opts = {.flags = GR_KVM_GUEST_MEMFD};
	uint64_t bytes = 0, much = 1 << 20;

	open_machine(&kinds[1]);
	assert_error(gr_kvm_dirty_open(kvm, PAGE, &source), -ENOTSUP, "has none");
	assert_error(gr_kvm_dirty_open(kvm, PAGE + 1, &source), -EINVAL, "rings of");
	assert_error(gr_kvm_ring_enable(FAKE_FD, &much), -ERANGE, "at most");
	assert_ok(gr_kvm_dirty_open(kvm, 0, &source));
	assert_error(gr_kvm_dirty_open(kvm, 0, &other), -EBUSY, "has a source");
	assert_error(gr_kvm_close(kvm), -EBUSY, "source of dirty pages is open");
	assert_error(gr_kvm_ring_add(source, 0), -EINVAL, "has no rings");
	assert_error(gr_kvm_ring_empty(source), -EINVAL, "has no rings");
	gr_dirty_source_close(source);
	bytes = FAKE_RING_BYTES;
	assert_ok(gr_kvm_ring_enable(FAKE_FD, &bytes));
	assert_error(gr_kvm_ring_enable(FAKE_FD, &bytes), -EINVAL, "once");
	assert_error(gr_kvm_dirty_open(kvm, 0, &source), -ENOTSUP, "no bitmaps then");
	assert_ok(gr_kvm_close(kvm));
	fake.ring_max = 0;
	assert_error(gr_kvm_ring_enable(FAKE_FD, &bytes), -ENOTSUP, "no rings");
	fake.guest_memfd = 1;
	assert_ok(gr_kvm_open(space, FAKE_FD, &opts, &kvm));
	assert_error(gr_kvm_dirty_open(kvm, 0, &source), -ENOTSUP, "guest_memfd");
	close_machine();
}

/* --------------------------------------------------------------------------- at random moments */

/* When each page was last written and not told since; in calls of the guest, from 1 on. */
static uint64_t written[BLOCKS][PAGES];
static uint64_t told_at[BLOCKS][PAGES]; /* when the harvest ended that told it last */
static uint64_t last_write[BLOCKS][PAGES];
static uint64_t clock_now;
static uint64_t hosts[BLOCKS];
static struct rng guest_rng;
static long guest_wrote;
static bool ring_is_full;

#define PLACES 160 /* pages of guest addresses that are used */

static void write_somewhere(void)
{
	uint64_t host = 0;
	int i, rc;

	if (paused)
		return;
	rc = fake_write(rng_below(&guest_rng, PLACES) * PAGE, &host);
	clock_now++;
	if (rc < 0)
		ring_is_full = true;
	if (rc != 1)
		return;
	for (i = 0; i < BLOCKS; i++)
		if (host - hosts[i] < SIZE) {
			uint64_t page = (host - hosts[i]) / PAGE;

			written[i][page] = last_write[i][page] = clock_now;
			guest_wrote++;
		}
}

/* Each page that was written before the harvest is in it; each in it was written since it was last.
 */
static void harvest_and_judge(int which, uint64_t first, uint64_t count, bool exact)
{
	uint64_t begin = clock_now, offset, length, page;
	bool told[PAGES] = {false};
	struct gr_harvest *got;

	assert_ok(gr_dirty_harvest(client, blocks[which], first * PAGE, count * PAGE, &got));
	while (gr_harvest_next(got, &offset, &length))
		for (page = offset / PAGE; page < (offset + length) / PAGE; page++)
			told[page] = true;
	gr_harvest_commit(got);
	for (page = first; page < first + count; page++) {
		if (written[which][page] && written[which][page] <= begin && !told[page])
			fail_msg("block %d: page %llu was written and is not told", which,
				 (unsigned long long)page);
		/* a write while it was harvested may be told twice */
		if (exact && told[page] && last_write[which][page] <= told_at[which][page])
			fail_msg("block %d: page %llu is told and was not written", which,
				 (unsigned long long)page);
		if (told[page]) {
			written[which][page] = 0;
			told_at[which][page] = begin;
		}
	}
}

static void change_something(struct rng *rng)
{
	uint64_t addr = rng_below(rng, PLACES - 1), count = 1 + rng_below(rng, PLACES - addr);
	struct gr_block *block = blocks[rng_below(rng, BLOCKS)];
	uint64_t room = count < PAGES ? count : PAGES;
	uint64_t offset = rng_below(rng, PAGES - room + 1);
	struct gr_txn *txn;

	int rc;

	if (rng_one_in(rng, 3)) {
		rc = gr_space_unmap(space, addr * PAGE, count * PAGE);
		assert_true(!rc || rc == -ENOENT);
		return;
	}
	assert_ok(gr_txn_begin(space, &txn));
	rc = gr_txn_unmap(txn, addr * PAGE, count * PAGE);
	assert_true(!rc || rc == -ENOENT);
	assert_ok(gr_txn_map(txn, addr * PAGE, block, offset * PAGE, room * PAGE,
			     rng_one_in(rng, 8) ? GR_READ : RW));
	assert_ok(gr_txn_commit(txn));
}

static void forget_writes(void)
{
	memset(written, 0, sizeof(written));
	memset(told_at, 0, sizeof(told_at));
	memset(last_write, 0, sizeof(last_write));
	clock_now = 1;
	guest_wrote = 0;
}

static void storm(const struct kind *kind)
{
	struct rng rng = {seed_of_the_day()};
	int round, i;

	forget_writes();
	guest_rng.state = rng.state + 1;
	for (i = 0; i < BLOCKS; i++)
		hosts[i] = (uintptr_t)info_of(blocks[i]).host;
	fake.meanwhile = write_somewhere;
	for (round = 0; round < 3000; round++) {
		uint64_t first = rng_below(&rng, PAGES);

		change_something(&rng);
		write_somewhere();
		if (ring_is_full)
			assert_ok(gr_kvm_ring_empty(source));
		ring_is_full = false;
		if (rng_one_in(&rng, 2))
			harvest_and_judge((int)rng_below(&rng, BLOCKS), first,
					  1 + rng_below(&rng, PAGES - first), kind->addr_bits);
	}
	for (i = 0; i < BLOCKS; i++)
		harvest_and_judge(i, 0, PAGES, kind->addr_bits);
	print_message("%s: %ld pages written, %ld moves, %ld fetches, %ld clears, %ld resets\n",
		      kind->name, guest_wrote, fake.moves, fake.fetches, fake.clears, fake.resets);
	assert_true(guest_wrote > 2000);
	assert_true(kind->ring ? fake.resets > 100 : fake.fetches > 1000);
	assert_int_equal(fake.moves > 0, !kind->ring && kind->addr_bits);
	assert_int_equal(fake.clears > 0, !!kind->manual);
}

static void no_write_is_lost_and_none_invented_in_a_storm_of_changes(void **unused)
{
	print_message("seed %llu\n", (unsigned long long)seed_of_the_day());
	each_kind(storm);
}

/* -------------------------------------------------------------------- each fault at each place */

static const char *failed_call;
static int fail_at, calls, fail_with;

static int fault(const char *call)
{
	if (++calls != fail_at)
		return 0;
	failed_call = call;
	return fail_with;
}

static void arm(int position, int error)
{
	failed_call = NULL;
	calls = 0;
	fail_at = position;
	fail_with = error;
	gr__hook_fault = fault;
}

/* The call as it fails at @position; true when there was something to fail. */
static bool failed(const char *function, int rc)
{
	gr__hook_fault = NULL;
	if (!failed_call) {
		assert_ok(rc);
		return false;
	}
	tally_fault(function, failed_call);
	return true;
}

static void test_every_fault_of_opening(const struct kind *kind)
{
	uint64_t bytes;
	int position, rc;
	bool more = true;

	for (position = 1; more; position++) {
		open_machine(kind);
		assert_ok(gr_space_map(space, 0, blocks[0], 0, SIZE, RW));
		bytes = FAKE_RING_BYTES;
		if (kind->ring)
			assert_ok(gr_kvm_ring_enable(FAKE_FD, &bytes));
		arm(position, ENOMEM);
		rc = gr_kvm_dirty_open(kvm, (uint64_t)kind->ring, &source);
		more = failed("gr_kvm_dirty_open", rc);
		if (rc < 0) {
			assert_int_equal(fake_at(0)->flags, 0);
			assert_ok(gr_kvm_dirty_open(kvm, (uint64_t)kind->ring, &source));
		}
		if (kind->ring)
			assert_ok(gr_kvm_ring_add(source, fake_cpu()));
		guest_writes(9 * PAGE);
		assert_string_equal(harvest(blocks[0]), "9+1");
		close_all();
	}
	assert_true(position > 6);
}

static void test_every_fault_of_a_harvest(const struct kind *kind)
{
	struct gr_harvest *got;
	int position, rc;
	bool more = true;

	for (position = 1; more; position++) {
		open_all(kind);
		assert_ok(gr_space_map(space, 0, blocks[0], 0, SIZE, RW));
		guest_writes(9 * PAGE);
		guest_writes(70 * PAGE);
		arm(position, ENOMEM);
		rc = gr_dirty_harvest(client, blocks[0], 0, 0, &got);
		more = failed("gr_dirty_harvest", rc);
		if (!rc)
			gr_harvest_return(got);
		guest_writes(10 * PAGE);
		assert_string_equal(harvest(blocks[0]), "9+2 70+1");
		assert_string_equal(harvest(blocks[0]), "");
		close_all();
	}
	assert_true(position > 3);
}

/* What fails while a slot goes costs exactness, never a page. */
static void guest_writes_to(uint64_t page)
{
	guest_writes(page * PAGE);
	written[0][page] = clock_now;
}

static void test_every_fault_of_a_slot_that_goes(const struct kind *kind)
{
	int position, error, rc;
	bool more = true;

	for (position = 1, error = ENOMEM; more; position++) {
		open_all(kind);
		assert_ok(gr_space_map(space, 0, blocks[0], 0, SIZE, RW));
		forget_writes();
		guest_writes_to(9);
		guest_writes_to(70);
		arm(position, error);
		rc = gr_space_unmap(space, 20 * PAGE, PAGE);
		more = failed("gr_space_map", rc);
		assert_true(slots_equal_ranges(kvm, space));
		if (rc < 0)
			guest_writes_to(20);
		guest_writes_to(10);
		harvest_and_judge(0, 0, PAGES, false);
		assert_ok(gr_space_unmap(space, 0, SIZE));
		close_all();
	}
	assert_true(position > 6);
}

static void every_fault_of_opening_a_source(void **unused)
{
	test_every_fault_of_opening(&kinds[1]);
	test_every_fault_of_opening(&kinds[4]);
}

static void every_fault_of_a_harvest_loses_nothing(void **unused)
{
	test_every_fault_of_a_harvest(&kinds[1]);
	test_every_fault_of_a_harvest(&kinds[4]);
}

static void every_fault_while_a_slot_goes_loses_nothing(void **unused)
{
	test_every_fault_of_a_slot_that_goes(&kinds[1]);
	test_every_fault_of_a_slot_that_goes(&kinds[4]);
}

static void every_fault_of_rings(void **unused)
{
	uint64_t bytes = FAKE_RING_BYTES;
	int position, rc;
	bool more = true;

	for (position = 1; more; position++) {
		open_machine(&kinds[4]);
		arm(position, ENOMEM);
		rc = gr_kvm_ring_enable(FAKE_FD, &bytes);
		more = failed("gr_kvm_ring_enable", rc);
		if (rc < 0)
			assert_ok(gr_kvm_ring_enable(FAKE_FD, &bytes));
		close_machine();
	}
	assert_true(position > 2);
	more = true;
	for (position = 1; more; position++) {
		open_machine(&kinds[4]);
		assert_ok(gr_kvm_ring_enable(FAKE_FD, &bytes));
		assert_ok(gr_kvm_dirty_open(kvm, bytes, &source));
		arm(position, ENOMEM);
		rc = gr_kvm_ring_add(source, fake_cpu());
		more = failed("gr_kvm_ring_add", rc);
		close_all();
	}
	assert_true(position > 3);
	open_all(&kinds[4]);
	assert_ok(gr_space_map(space, 0, blocks[0], 0, SIZE, RW));
	guest_writes(9 * PAGE);
	arm(1, EIO);
	assert_error(gr_kvm_ring_empty(source), -EIO, "resetting");
	assert_true(failed("gr_kvm_ring_empty", -EIO));
	assert_string_equal(harvest(blocks[0]), "9+1");
	assert_int_equal(fake.ring_tail, 1);
	close_all();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_are_told_in_the_block_s_offsets),
		cmocka_unit_test(a_part_that_is_harvested_leaves_the_rest),
		cmocka_unit_test(blocks_that_are_plugged_and_unplugged_are_told_of),
		cmocka_unit_test(one_that_is_closed_has_lost_nothing),
		cmocka_unit_test(a_full_ring_is_emptied_and_forgets_nothing),
		cmocka_unit_test(what_does_not_go_is_refused),
		cmocka_unit_test(no_write_is_lost_and_none_invented_in_a_storm_of_changes),
		cmocka_unit_test(every_fault_of_opening_a_source),
		cmocka_unit_test(every_fault_of_a_harvest_loses_nothing),
		cmocka_unit_test(every_fault_while_a_slot_goes_loses_nothing),
		cmocka_unit_test(every_fault_of_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
