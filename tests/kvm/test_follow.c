/* SPDX-License-Identifier: MIT */
/*
 * Slots equal ranges, whatever is changed, refused or failed in whatever order: on a machine that
 * is none (fake.h), so that KVM's refusals can be had at will.
 */
#include "fake.h"
#include "kvm/kvm.h"
#include "os/hooks.h"
#include "testing.h"
#include <fcntl.h>
#include <linux/kvm.h>

#define SIZE (64 * PAGE)

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;
static struct gr_kvm *kvm;
static int log_lines;

static void count_line(void *context, enum gr_log_level level, const char *message)
{
	__atomic_add_fetch(&log_lines, 1, __ATOMIC_RELAXED);
}

static int open_ram(void **unused)
{
	const struct gr_ram_opts opts = {.log = count_line};

	fake_reset();
	log_lines = 0;
	assert_ok(gr_ram_open(&opts, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "ram0", SIZE, 4 * SIZE);
	return 0;
}

static int open_all(void **unused)
{
	open_ram(unused);
	assert_ok(gr_kvm_open(space, FAKE_FD, NULL, &kvm));
	return 0;
}

static int close_all(void **unused)
{
	gr__hook_fault = NULL;
	assert_ok(gr_kvm_close(kvm));
	kvm = NULL;
	assert_int_equal(fake.in_use, 0);
	assert_int_equal(fake.wrong, 0);
	assert_ok(gr_ram_close(ram));
	return 0;
}

static struct gr_kvm_stats figures(void)
{
	struct gr_kvm_stats stats;

	gr_kvm_get_stats(kvm, &stats);
	return stats;
}

#define assert_in_step() assert_true(slots_equal_ranges(kvm, space))

/* ------------------------------------------------------------------------------ plain changes */

static void test_ranges_of_before_and_after_the_open_are_slots(void **unused)
{
	open_ram(unused);
	assert_ok(gr_space_map(space, 0, block, 0, 4 * PAGE, RW));
	assert_ok(gr_space_map(space, 16 * PAGE, block, 4 * PAGE, PAGE, GR_READ));
	assert_ok(gr_kvm_open(space, FAKE_FD, NULL, &kvm));
	assert_int_equal(fake.in_use, 2);
	assert_in_step();
	assert_int_equal(fake_at(16 * PAGE)->flags, KVM_MEM_READONLY);
	assert_ok(gr_space_map(space, 8 * PAGE, block, 0, PAGE, RW));
	assert_int_equal(fake.in_use, 3);
	assert_in_step();
	assert_ok(gr_space_unmap(space, 0, 8 * PAGE));
	assert_in_step();
	assert_int_equal(figures().removed, 1);
	assert_int_equal(figures().bytes, 2 * PAGE);
	assert_int_equal(info_of(block).pins, 0);
}

static void test_a_split_deletes_one_slot_and_sets_two(void **unused)
{
	assert_ok(gr_space_map(space, 0, block, 0, 8 * PAGE, RW));
	assert_ok(gr_space_unmap(space, 3 * PAGE, PAGE));
	assert_in_step();
	assert_int_equal(fake.sets, 3);
	assert_int_equal(fake.deletes, 1);
	assert_int_equal(fake.in_use, 2);
}

static void test_moves_replacements_and_other_rights_are_followed(void **unused)
{
	struct gr_txn *txn;

	assert_ok(gr_space_map(space, 0, block, 0, 8 * PAGE, RW));
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, 0, 8 * PAGE));
	assert_ok(gr_txn_map(txn, 32 * PAGE, block, 0, 8 * PAGE, RW));
	assert_ok(gr_txn_commit(txn));
	assert_in_step();
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, 32 * PAGE, 8 * PAGE));
	assert_ok(gr_txn_map(txn, 32 * PAGE, block, 0, 8 * PAGE, GR_READ));
	assert_ok(gr_txn_commit(txn));
	assert_in_step();
	assert_int_equal(fake_at(32 * PAGE)->flags, KVM_MEM_READONLY);
}

static void test_the_machine_sees_the_used_part_of_a_block(void **unused)
{
	assert_ok(gr_space_map(space, 0, block, 0, 4 * SIZE, RW));
	assert_ok(gr_space_map(space, 8 * SIZE, block, SIZE, SIZE, RW)); /* nothing used there */
	assert_int_equal(fake.in_use, 1);
	assert_int_equal(fake_at(0)->size, SIZE);
	assert_ok(gr_block_resize(block, 2 * SIZE));
	assert_in_step();
	assert_int_equal(fake.in_use, 2);
	assert_ok(gr_block_resize(block, PAGE));
	assert_in_step();
	assert_int_equal(fake_at(0)->size, PAGE);
	assert_ok(gr_space_unmap(space, 8 * SIZE, SIZE));
	assert_in_step();
}

static void test_other_spaces_do_not_concern_it(void **unused)
{
	struct gr_space *other;

	assert_ok(gr_space_open(ram, "other", &other));
	assert_ok(gr_space_map(other, 0, block, 0, PAGE, RW));
	assert_int_equal(fake.in_use, 0);
	assert_ok(gr_space_close(other));
}

static void test_memory_is_reclaimed_at_once_after_a_delete(void **unused)
{
	struct gr_block *dimm = new_anon(ram, "dimm", SIZE, 0);

	assert_ok(gr_space_map(space, 0, dimm, 0, SIZE, RW));
	assert_ok(gr_space_unmap(space, 0, SIZE));
	assert_ok(gr_block_delete(dimm));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(stats_of(ram).pins, 0);
	assert_in_step();
}

/* ----------------------------------------------------------------------- refusals and limits */

static int refuse(void *context, struct gr_space *of, const struct gr_range *range)
{
	return of == space ? -EPERM : 0;
}

static const struct gr_listener_ops refuser = {.range_added = refuse};

static void test_a_change_that_another_refuses_leaves_slots_alone(void **unused)
{
	struct gr_listener *listener;
	struct gr_txn *txn;
	long deletes, sets;

	assert_ok(gr_space_map(space, 0, block, 0, 8 * PAGE, RW));
	/* after us in order of priority; it refuses only what comes, not what it is opened with */
	assert_ok(gr_space_unmap(space, 0, 8 * PAGE));
	assert_ok(gr_listener_open(ram, &refuser, NULL, 10, &listener));
	assert_error(gr_space_map(space, 0, block, 0, 8 * PAGE, RW), -EPERM, "refused");
	assert_in_step();
	assert_ok(gr_listener_close(listener));

	assert_ok(gr_space_map(space, 0, block, 0, 8 * PAGE, RW));
	assert_ok(gr_space_map(space, 64 * PAGE, block, 0, 8 * PAGE, RW));
	deletes = fake.deletes;
	sets = fake.sets;
	fake.fail_sets = 1;
	fake.fail_with = ENOMEM;
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, 64 * PAGE, 8 * PAGE));
	assert_ok(gr_txn_map(txn, 32 * PAGE, block, 0, PAGE, RW));
	assert_error(gr_txn_commit(txn), -ENOMEM, "KVM: slot");
	assert_in_step();
	assert_int_equal(fake.deletes, deletes); /* what was to leave was not disturbed */
	assert_int_equal(fake.sets, sets);
	assert_int_equal(stats_of(ram).pins, 0);
}

static void test_a_replacement_that_fails_half_way_is_taken_back(void **unused)
{
	int position;

	assert_ok(gr_space_map(space, 0, block, 0, 8 * PAGE, RW));
	for (position = 1; position <= 2; position++) {
		fake.fail_sets = position;
		fake.fail_with = EINVAL;
		assert_error(gr_space_unmap(space, 3 * PAGE, PAGE), -EINVAL, "KVM: slot");
		assert_in_step();
		assert_int_equal(fake.in_use, 1);
	}
	assert_int_equal(figures().refused, 2);
	assert_int_equal(stats_of(ram).pins, 0);
}

static void test_the_limit_is_named_and_nothing_changes(void **unused)
{
	const struct gr_kvm_opts opts = {.first_slot = 7, .max_slots = 3};
	struct gr_txn *txn;
	int i;

	open_ram(unused);
	assert_ok(gr_kvm_open(space, FAKE_FD, &opts, &kvm));
	for (i = 0; i < 3; i++)
		assert_ok(gr_space_map(space, i * SIZE, block, 0, 4 * PAGE, RW));
	assert_error(gr_space_map(space, 3 * SIZE, block, 0, PAGE, RW), -ENOSPC, "all 3 are taken");
	assert_error(gr_space_unmap(space, SIZE + PAGE, PAGE), -ENOSPC, "all 3 are taken");
	assert_in_step();
	assert_int_equal(fake.in_use, 3);
	assert_true(fake.slots[0][7].size && fake.slots[0][8].size && fake.slots[0][9].size);
	/* what leaves in the same change gives its number, though its addresses do not come back */
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, SIZE, 4 * PAGE));
	assert_ok(gr_txn_map(txn, 3 * SIZE, block, 0, PAGE, RW));
	assert_ok(gr_txn_commit(txn));
	assert_in_step();
	assert_int_equal(figures().slots_peak, 3);
}

/* Ranges that a space of this build cannot hold, told as a space would. */
static void test_ranges_that_no_slot_can_hold_are_refused_with_the_reason(void **unused)
{
	struct gr_block_info info = info_of(block);
	struct gr_range range = {0, PAGE, PAGE, block, 0, NULL, RW};

	assert_error(gr__kvm_listener.range_added(kvm, space, &range), -ENOTSUP, "foreign window");
	range.host = (char *)info.host + 8;
	assert_error(gr__kvm_listener.range_added(kvm, space, &range), -EINVAL, "whole pages");
	range.host = info.host;
	range.addr = 0 - PAGE;
	assert_error(gr__kvm_listener.range_added(kvm, space, &range), -ERANGE, "2^64");
	range.addr = 0;
	range.length = range.visible = 8 * TIB;
	assert_error(gr__kvm_listener.range_added(kvm, space, &range), -ERANGE, "pages of a slot");
	assert_int_equal(fake.in_use, 0);
	assert_int_equal(figures().refused, 4);
}

static void test_read_only_needs_a_machine_that_has_it(void **unused)
{
	open_ram(unused);
	fake.read_only = 0;
	assert_ok(gr_kvm_open(space, FAKE_FD, NULL, &kvm));
	assert_error(gr_space_map(space, 0, block, 0, PAGE, GR_READ), -ENOTSUP,
		     "KVM_CAP_READONLY_MEM");
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_in_step();
}

static void test_options_that_make_no_sense_are_refused(void **unused)
{
	struct gr_kvm_opts opts;
	struct gr_kvm *none = NULL;

	opts = (struct gr_kvm_opts){.flags = 1u << 31};
	assert_error(gr_kvm_open(space, FAKE_FD, &opts, &none), -EINVAL, "unknown flags");
	opts = (struct gr_kvm_opts){.reserved = {1}};
	assert_error(gr_kvm_open(space, FAKE_FD, &opts, &none), -EINVAL, "reserved");
	opts = (struct gr_kvm_opts){.pause = (void (*)(void *))abort};
	assert_error(gr_kvm_open(space, FAKE_FD, &opts, &none), -EINVAL, "come together");
	opts = (struct gr_kvm_opts){.first_slot = FAKE_SLOTS};
	assert_error(gr_kvm_open(space, FAKE_FD, &opts, &none), -ERANGE, "the machine has 1024");
	opts = (struct gr_kvm_opts){.first_slot = 1, .max_slots = FAKE_SLOTS};
	assert_error(gr_kvm_open(space, FAKE_FD, &opts, &none), -ERANGE, "the machine has 1024");
	opts = (struct gr_kvm_opts){.address_space = 1};
	assert_error(gr_kvm_open(space, FAKE_FD, &opts, &none), -ENOTSUP, "the machine has 1");
	opts = (struct gr_kvm_opts){.address_space = 1u << 16};
	assert_error(gr_kvm_open(space, FAKE_FD, &opts, &none), -ERANGE, "16 bits");
	opts = (struct gr_kvm_opts){.flags = GR_KVM_GUEST_MEMFD};
	assert_error(gr_kvm_open(space, FAKE_FD, &opts, &none), -ENOTSUP, "no guest_memfd");
	opts = (struct gr_kvm_opts){.flags = GR_KVM_GUEST_MEMFD | GR_KVM_LOG_DIRTY};
	assert_error(gr_kvm_open(space, FAKE_FD, &opts, &none), -ENOTSUP, "logs no dirty");
	assert_error(gr_kvm_open(space, -1, NULL, &none), -EBADF, "no virtual machine");
	assert_null(none);
}

static void test_a_followed_space_is_not_closed(void **unused)
{
	assert_error(gr_space_close(space), -EBUSY, "open");
	assert_error(gr_ram_close(ram), -EBUSY, "");
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_in_step();
}

static void test_two_machines_or_address_spaces_share_a_descriptor(void **unused)
{
	const struct gr_kvm_opts opts = {.first_slot = 100, .max_slots = 50, .address_space = 1};
	struct gr_space *smm;
	struct gr_kvm *second;

	fake.address_spaces = 2;
	assert_ok(gr_space_open(ram, "smm", &smm));
	assert_ok(gr_kvm_open(smm, FAKE_FD, &opts, &second));
	assert_ok(gr_space_map(smm, 0, block, 0, 2 * PAGE, RW));
	assert_ok(gr_space_map(space, 0, block, PAGE, PAGE, RW));
	assert_int_equal(fake.slots[1][100].size, 2 * PAGE);
	assert_int_equal(fake.slots[0][0].size, PAGE);
	assert_ok(gr_kvm_close(second));
	assert_int_equal(fake.in_use, 1);
	assert_in_step();
}

/* -------------------------------------------------------------------------------- dirty logs */

static void test_dirty_logs_are_switched_for_slots_there_and_to_come(void **unused)
{
	struct gr_block *other = new_anon(ram, "other", SIZE, 0);

	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_ok(gr_space_map(space, SIZE, other, 0, PAGE, GR_READ));
	assert_ok(gr_kvm_set_dirty_log(kvm, 1));
	assert_int_equal(fake_at(0)->flags, KVM_MEM_LOG_DIRTY_PAGES);
	assert_int_equal(fake_at(SIZE)->flags, KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY);
	assert_ok(gr_space_map(space, 2 * SIZE, other, 0, PAGE, RW));
	assert_int_equal(fake_at(2 * SIZE)->flags, KVM_MEM_LOG_DIRTY_PAGES);
	assert_ok(gr_kvm_set_block_dirty_log(kvm, other, 1));
	assert_ok(gr_kvm_set_dirty_log(kvm, 0));
	assert_int_equal(fake_at(0)->flags, 0);
	assert_int_equal(fake_at(2 * SIZE)->flags, KVM_MEM_LOG_DIRTY_PAGES);
	assert_ok(gr_space_map(space, 3 * SIZE, other, 0, PAGE, RW));
	assert_int_equal(fake_at(3 * SIZE)->flags, KVM_MEM_LOG_DIRTY_PAGES);
	assert_ok(gr_kvm_set_block_dirty_log(kvm, other, 0));
	assert_int_equal(fake_at(3 * SIZE)->flags, 0);
	assert_int_equal(fake.deletes, 0);
	assert_in_step();
}

static void test_a_block_that_is_gone_leaves_no_log_to_the_next(void **unused)
{
	struct gr_block *other = new_anon(ram, "other", SIZE, 0);
	uint64_t ram_offset = info_of(other).ram_offset;

	assert_ok(gr_kvm_set_block_dirty_log(kvm, other, 1));
	assert_ok(gr_block_delete(other));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	other = new_anon(ram, "next", SIZE, 0);
	assert_int_equal(info_of(other).ram_offset, ram_offset);
	assert_ok(gr_space_map(space, 0, other, 0, PAGE, RW));
	assert_int_equal(fake_at(0)->flags, 0);
}

static void test_a_log_that_cannot_be_had_for_all_is_had_for_none(void **unused)
{
	int i;

	for (i = 0; i < 4; i++)
		assert_ok(gr_space_map(space, i * SIZE, block, 0, PAGE, RW));
	fake.fail_sets = 3;
	fake.fail_with = ENOMEM;
	assert_error(gr_kvm_set_dirty_log(kvm, 1), -ENOMEM, "flags of slot");
	for (i = 0; i < 4; i++)
		assert_int_equal(fake_at(i * SIZE)->flags, 0);
	assert_ok(gr_space_map(space, 4 * SIZE, block, 0, PAGE, RW));
	assert_int_equal(fake_at(4 * SIZE)->flags, 0);
	assert_in_step();
}

/* ------------------------------------------------------------------------------- guest_memfd */

static void test_a_block_has_one_guest_memfd_for_all_its_ranges(void **unused)
{
	const struct gr_kvm_opts opts = {.flags = GR_KVM_GUEST_MEMFD};
	int memfd;

	open_ram(unused);
	fake.guest_memfd = 1;
	assert_ok(gr_kvm_open(space, FAKE_FD, &opts, &kvm));
	assert_ok(gr_space_map(space, 0, block, 8 * PAGE, 8 * PAGE, RW));
	memfd = fake_at(0)->guest_memfd;
	assert_true(memfd > 0);
	assert_int_equal(fake_at(0)->flags, 4);
	assert_int_equal(fake_at(0)->guest_memfd_offset, 8 * PAGE);
	assert_ok(gr_space_unmap(space, 3 * PAGE, PAGE));
	assert_int_equal(fake_at(0)->guest_memfd, memfd);
	assert_int_equal(fake_at(4 * PAGE)->guest_memfd, memfd);
	assert_int_equal(fake_at(4 * PAGE)->guest_memfd_offset, 12 * PAGE);
	assert_error(gr_space_map(space, SIZE, block, 0, PAGE, GR_READ), -ENOTSUP, "guest_memfd");
	assert_error(gr_kvm_set_dirty_log(kvm, 1), -ENOTSUP, "guest_memfd");
	assert_error(gr_kvm_set_block_dirty_log(kvm, block, 1), -ENOTSUP, "guest_memfd");
	/* the descriptor goes with the block */
	assert_ok(gr_space_unmap(space, 0, SIZE));
	assert_ok(gr_block_delete(block));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(fcntl(memfd, F_GETFD), -1);
}

/* --------------------------------------------------------------------------------- pausing */

static int pauses, paused, slots_when_paused, slots_when_resumed;

static void do_pause(void *context)
{
	assert_ptr_equal(context, &pauses);
	pauses++;
	paused++;
	slots_when_paused = fake.in_use;
	gr_kvm_get_stats(kvm, &(struct gr_kvm_stats){0}); /* no lock is held */
}

static void do_resume(void *context)
{
	assert_ptr_equal(context, &pauses);
	paused--;
	slots_when_resumed = fake.in_use;
	gr_kvm_get_stats(kvm, &(struct gr_kvm_stats){0});
}

static const struct gr_kvm_opts pausing = {
	.pause = do_pause, .resume = do_resume, .pause_context = &pauses};

static void test_only_what_takes_away_and_gives_back_pauses(void **unused)
{
	struct gr_txn *txn;

	open_ram(unused);
	pauses = paused = 0;
	assert_ok(gr_kvm_open(space, FAKE_FD, &pausing, &kvm));
	assert_ok(gr_space_map(space, 0, block, 0, 8 * PAGE, RW));
	assert_ok(gr_space_map(space, SIZE, block, 0, 8 * PAGE, RW));
	assert_ok(gr_space_unmap(space, SIZE, 8 * PAGE));
	assert_int_equal(pauses, 0);

	assert_ok(gr_space_unmap(space, 3 * PAGE, PAGE)); /* a split */
	assert_int_equal(pauses, 1);
	assert_int_equal(slots_when_paused, 1);
	assert_int_equal(slots_when_resumed, 2);
	assert_int_equal(paused, 0);

	assert_ok(gr_block_resize(block, 2 * SIZE)); /* no range of it changes */
	assert_int_equal(pauses, 1);
	assert_ok(gr_txn_begin(space, &txn)); /* two at once: one pause */
	assert_ok(gr_txn_unmap(txn, 0, SIZE));
	assert_ok(gr_txn_map(txn, 0, block, 0, SIZE, GR_READ));
	assert_ok(gr_txn_commit(txn));
	assert_int_equal(pauses, 2);
	assert_int_equal(paused, 0);
	assert_int_equal(figures().pauses, 2);
	assert_in_step();
}

static void test_a_failed_change_resumes_too(void **unused)
{
	int position;

	open_ram(unused);
	pauses = paused = 0;
	assert_ok(gr_kvm_open(space, FAKE_FD, &pausing, &kvm));
	assert_ok(gr_space_map(space, 0, block, 0, 8 * PAGE, RW));
	for (position = 1; position <= 2; position++) {
		fake.fail_sets = position;
		fake.fail_with = ENOMEM;
		assert_error(gr_space_unmap(space, 3 * PAGE, PAGE), -ENOMEM, "KVM");
		assert_int_equal(pauses, position);
		assert_int_equal(paused, 0);
		assert_in_step();
	}
	fake.fail_deletes = 1;
	assert_error(gr_space_unmap(space, 3 * PAGE, PAGE), -ENOMEM, "did not delete");
	assert_int_equal(paused, 0);
	assert_in_step();
}

/* --------------------------------------------------------------------- what should never be */

static void test_a_slot_that_stays_keeps_its_memory(void **unused)
{
	struct gr_block *dimm = new_anon(ram, "dimm", SIZE, 0);

	assert_ok(gr_space_map(space, 0, dimm, 0, SIZE, RW));
	fake.fail_deletes = -1;
	fake.fail_with = EIO;
	assert_ok(gr_space_unmap(space, 0, SIZE));
	assert_int_equal(log_lines, 1);
	assert_int_equal(figures().stuck, 1);
	assert_ok(gr_block_delete(dimm));
	assert_int_equal(gr_ram_drain(ram, 20), -ETIMEDOUT);
	assert_error(gr_space_map(space, 0, block, 0, PAGE, RW), -EBUSY, "did not give it up");
	assert_error(gr_kvm_close(kvm), -EIO, "KVM kept 1 slots");
	assert_int_equal(gr_ram_drain(ram, 20), -ETIMEDOUT);
	fake.fail_deletes = 0;
	assert_ok(gr_kvm_close(kvm)); /* again */
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(log_lines, 1);
	assert_ok(gr_kvm_open(space, FAKE_FD, NULL, &kvm));
}

static void test_a_stuck_slot_goes_with_the_next_change(void **unused)
{
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	fake.fail_deletes = 1;
	fake.fail_with = EIO;
	assert_ok(gr_space_unmap(space, 0, PAGE));
	assert_int_equal(figures().stuck, 1);
	assert_ok(gr_space_map(space, SIZE, block, 0, PAGE, RW));
	assert_int_equal(figures().stuck, 0);
	assert_in_step();
	assert_int_equal(info_of(block).pins, 0);
}

static void test_a_range_that_kvm_does_not_take_back_is_tried_again(void **unused)
{
	assert_ok(gr_space_map(space, 0, block, 0, 8 * PAGE, RW));
	fake.fail_sets = -1;
	fake.fail_with = ENOMEM;
	assert_error(gr_space_unmap(space, 3 * PAGE, PAGE), -ENOMEM, "KVM");
	assert_int_equal(figures().missing, 1);
	assert_int_equal(fake.in_use, 0);
	assert_true(log_lines >= 1);
	fake.fail_sets = 0;
	assert_ok(gr_space_map(space, SIZE, block, 0, PAGE, RW));
	assert_in_step();
	assert_int_equal(fake.in_use, 2);
	/* and one that leaves while it is missing is forgotten */
	fake.fail_sets = -1;
	assert_error(gr_space_unmap(space, 3 * PAGE, PAGE), -ENOMEM, "KVM");
	assert_ok(gr_space_unmap(space, 0, 8 * PAGE));
	fake.fail_sets = 0;
	assert_in_step();
}

/* ------------------------------------------------------------- two changes at the same time */

static struct gate blocked, go_on;

/* The second range of its kind waits in the middle of its change. */
static int block_one(void *context, struct gr_space *of, const struct gr_range *range)
{
	if (range->addr == SIZE && range->access == GR_READ) {
		gate_open(&blocked);
		if (!gate_wait(&go_on))
			return -ETIMEDOUT;
	}
	return 0;
}

static void *replace_two(void *unused)
{
	struct gr_txn *txn;

	if (!gr_txn_begin(space, &txn) && !gr_txn_unmap(txn, 0, 2 * SIZE) &&
	    !gr_txn_map(txn, 0, block, 0, PAGE, GR_READ) &&
	    !gr_txn_map(txn, SIZE, block, 0, PAGE, GR_READ))
		gr_txn_commit(txn);
	return NULL;
}

static void test_numbers_kept_for_another_change_are_not_missed_when_one_is_undone(void **unused)
{
	const struct gr_listener_ops blocker = {.range_added = block_one};
	const struct gr_kvm_opts opts = {.max_slots = 3};
	struct gr_listener *listener;
	pthread_t thread;

	open_ram(unused);
	assert_ok(gr_kvm_open(space, FAKE_FD, &opts, &kvm));
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_ok(gr_space_map(space, SIZE, block, 0, PAGE, RW));
	assert_ok(gr_space_map(space, 2 * SIZE, block, 0, 8 * PAGE, RW));
	gate_init(&blocked);
	gate_init(&go_on);
	assert_ok(gr_listener_open(ram, &blocker, NULL, 10, &listener));
	thread = thread_start(replace_two, NULL);
	assert_true(gate_wait(&blocked));
	/* all three are in use, and two more are kept for what the other change took away */
	assert_error(gr_space_unmap(space, 2 * SIZE + PAGE, PAGE), -ENOSPC, "all 3 are taken");
	assert_int_equal(figures().missing, 0);
	assert_non_null(fake_at(2 * SIZE));
	gate_open(&go_on);
	thread_join(thread);
	assert_ok(gr_listener_close(listener));
	assert_in_step();
	assert_int_equal(fake_at(SIZE)->flags, KVM_MEM_READONLY);
	assert_int_equal(log_lines, 0);
}

/* ----------------------------------------------------------------------------- never a leak */

static void test_numbers_do_not_leak_in_100000_plugs(void **unused)
{
	int i;

	for (i = 0; i < 100000; i++) {
		assert_int_equal(gr_space_map(space, (i % 7) * SIZE, block, 0, PAGE, RW), 0);
		assert_int_equal(gr_space_unmap(space, (i % 7) * SIZE, PAGE), 0);
	}
	assert_int_equal(fake.in_use, 0);
	assert_int_equal(figures().slots_peak, 1);
	assert_int_equal(figures().added, 100000);
	assert_int_equal(figures().removed, 100000);
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_true(fake.slots[0][0].size);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_all, close_all)
#define each_opens(test) cmocka_unit_test_teardown(test, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each_opens(test_ranges_of_before_and_after_the_open_are_slots),
		each(test_a_split_deletes_one_slot_and_sets_two),
		each(test_moves_replacements_and_other_rights_are_followed),
		each(test_the_machine_sees_the_used_part_of_a_block),
		each(test_other_spaces_do_not_concern_it),
		each(test_memory_is_reclaimed_at_once_after_a_delete),
		each(test_a_change_that_another_refuses_leaves_slots_alone),
		each(test_a_replacement_that_fails_half_way_is_taken_back),
		each_opens(test_the_limit_is_named_and_nothing_changes),
		each(test_ranges_that_no_slot_can_hold_are_refused_with_the_reason),
		each_opens(test_read_only_needs_a_machine_that_has_it),
		each(test_options_that_make_no_sense_are_refused),
		each(test_a_followed_space_is_not_closed),
		each(test_two_machines_or_address_spaces_share_a_descriptor),
		each(test_dirty_logs_are_switched_for_slots_there_and_to_come),
		each(test_a_block_that_is_gone_leaves_no_log_to_the_next),
		each(test_a_log_that_cannot_be_had_for_all_is_had_for_none),
		each_opens(test_a_block_has_one_guest_memfd_for_all_its_ranges),
		each_opens(test_only_what_takes_away_and_gives_back_pauses),
		each_opens(test_a_failed_change_resumes_too),
		each(test_a_slot_that_stays_keeps_its_memory),
		each(test_a_stuck_slot_goes_with_the_next_change),
		each(test_a_range_that_kvm_does_not_take_back_is_tried_again),
		each_opens(test_numbers_kept_for_another_change_are_not_missed_when_one_is_undone),
		each(test_numbers_do_not_leak_in_100000_plugs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
