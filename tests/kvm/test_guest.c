/* SPDX-License-Identifier: MIT */
/*
 * Guests on /dev/kvm whose memory is a space: they read, write and execute in plugged blocks, and
 * run on while those of others come and go, are split, or change their rights.
 *
 * Threads: the test's own changes the space; another one runs the processor and leaves what it saw
 * in struct runner.
 */
#include "machine.h"
#include "testing.h"
#include <sys/ioctl.h>

#define CODE 0x1000ull
#define CONTROL 0x4000ull /* rounds, and stop */
#define DIMM 0x10000000ull
#define DIMM_SIZE (64 * PAGE)
/* Summed words; few, since each change of slots costs the guest its page tables. */
#define WORDS (2 * (uint32_t)PAGE / 4)

static struct machine machine;
static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *low, *dimm;
static struct gr_kvm *kvm;

static void open_with(const struct gr_kvm_opts *opts)
{
	machine_open(&machine);
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	low = new_anon(ram, "low", 16 * PAGE, 0);
	assert_ok(gr_space_map(space, 0, low, 0, 16 * PAGE, RW));
	assert_ok(gr_kvm_open(space, machine.vm_fd, opts, &kvm));
	dimm = new_memfd(ram, "dimm", DIMM_SIZE);
}

static int open_all(void **unused)
{
	open_with(NULL);
	return 0;
}

static int close_all(void **unused)
{
	struct gr_kvm_stats stats;

	gr_kvm_get_stats(kvm, &stats);
	assert_int_equal(stats.pending + stats.stuck + stats.missing, 0);
	assert_int_equal(stats.added - stats.removed, stats.slots);
	assert_ok(gr_kvm_close(kvm));
	machine_close(&machine);
	assert_ok(gr_ram_close(ram));
	return 0;
}

static void load_guest(const struct guest *guest, const struct start *start)
{
	assert_ok(
		gr_store(space, start->entry, guest->first, (uint64_t)(guest->end - guest->first)));
	machine_start(&machine, start);
}

static uint32_t word_at(uint64_t addr)
{
	uint32_t word = 0;

	assert_ok(gr_load(space, addr, &word, sizeof(word)));
	return word;
}

/* What the guest says on this port, its next exit. */
static uint32_t said(int port)
{
	const struct kvm_run *run = machine.run;
	uint32_t value;

	assert_int_equal(machine_run(&machine), KVM_EXIT_IO);
	assert_int_equal(run->io.port, port);
	memcpy(&value, (const char *)run + run->io.data_offset, sizeof(value));
	return value;
}

/* ------------------------------------------------------------------------- what memory can do */

static void test_a_guest_reads_writes_and_executes_in_a_plugged_block(void **unused)
{
	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW));
	load_guest(&guest_touch, &(struct start){.entry = CODE, .ebx = DIMM + 8 * PAGE});
	assert_int_equal(said(PORT_VALUE), 0x2ab8);
	assert_int_equal(said(PORT_VALUE), 0x2a);
	said(PORT_END);
	assert_int_equal(word_at(DIMM + 8 * PAGE + 0x100), 0x2a);
}

static void test_a_real_mode_guest_does_so_too(void **unused)
{
	assert_ok(gr_space_map(space, 0x20000, dimm, 0, 16 * PAGE, RW));
	load_guest(&guest_real, &(struct start){.entry = CODE, .real_mode = true});
	assert_int_equal(said(PORT_VALUE), 0xcb002ab8);
	assert_int_equal(said(PORT_VALUE), 0x2a);
	said(PORT_END);
	assert_int_equal(word_at(0x20100), 0x2a);
}

static void test_a_write_to_read_only_memory_exits(void **unused)
{
	const uint32_t there = 0x12345678;

	memcpy(info_of(dimm).host, &there, sizeof(there));
	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, GR_READ));
	load_guest(&guest_store, &(struct start){.entry = CODE, .ebx = DIMM, .esi = 77});
	assert_int_equal(machine_run(&machine), KVM_EXIT_MMIO);
	assert_true(machine.run->mmio.is_write);
	assert_int_equal(machine.run->mmio.phys_addr, DIMM);
	assert_int_equal(machine.run->mmio.data[0], 77);
	assert_int_equal(said(PORT_VALUE), there);
	said(PORT_END);
}

static void test_an_access_to_what_was_unplugged_exits(void **unused)
{
	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW));
	load_guest(&guest_store, &(struct start){.entry = CODE, .ebx = DIMM, .esi = 77});
	assert_int_equal(said(PORT_VALUE), 77);
	assert_ok(gr_space_unmap(space, DIMM, DIMM_SIZE));
	assert_ok(gr_block_delete(dimm));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	load_guest(&guest_store, &(struct start){.entry = CODE, .ebx = DIMM, .esi = 78});
	assert_int_equal(machine_run(&machine), KVM_EXIT_MMIO);
	assert_int_equal(machine.run->mmio.phys_addr, DIMM);
}

static void test_a_slot_of_somebody_else_is_named(void **unused)
{
	struct kvm_userspace_memory_region other = {
		.slot = 500,
		.guest_phys_addr = DIMM + PAGE,
		.memory_size = PAGE,
		.userspace_addr = (uintptr_t)info_of(low).host,
	};

	assert_int_equal(ioctl(machine.vm_fd, KVM_SET_USER_MEMORY_REGION, &other), 0);
	assert_error(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW), -EEXIST, "somebody else");
	assert_ok(gr_space_map(space, DIMM, dimm, 0, PAGE, RW));
}

static void test_the_dirty_log_has_what_the_guest_wrote(void **unused)
{
	uint64_t bits[1] = {0};
	struct kvm_dirty_log log = {.dirty_bitmap = bits};
	struct gr_kvm_slot slots[2];

	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW));
	assert_ok(gr_kvm_set_block_dirty_log(kvm, dimm, 1));
	assert_int_equal(gr_kvm_get_slots(kvm, slots, 2), 2);
	assert_int_equal(slots[1].addr, DIMM);
	assert_int_equal(slots[1].flags, KVM_MEM_LOG_DIRTY_PAGES);
	load_guest(&guest_store, &(struct start){.entry = CODE, .ebx = DIMM + 5 * PAGE, .esi = 77});
	said(PORT_VALUE);
	log.slot = slots[1].number;
	assert_int_equal(ioctl(machine.vm_fd, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits[0], 1u << 5);
	assert_ok(gr_kvm_set_block_dirty_log(kvm, dimm, 0));
	assert_int_equal(ioctl(machine.vm_fd, KVM_GET_DIRTY_LOG, &log), -1);
}

static void test_guest_memfd_where_the_machine_has_it(void **unused)
{
	const struct gr_kvm_opts opts = {.flags = GR_KVM_GUEST_MEMFD};
	int rc;

	open_with(NULL);
	assert_ok(gr_kvm_close(kvm));
	rc = gr_kvm_open(space, machine.vm_fd, &opts, &kvm);
	if (rc == -ENOTSUP) {
		assert_non_null(strstr(gr_last_error(), "guest_memfd"));
		assert_ok(gr_kvm_open(space, machine.vm_fd, NULL, &kvm));
		print_message("skipped: this kernel has no guest_memfd for plain machines\n");
		skip();
	}
	assert_ok(rc);
	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW));
	assert_ok(gr_space_unmap(space, DIMM + 2 * PAGE, PAGE));
	assert_error(gr_space_map(space, 2 * DIMM, dimm, 0, PAGE, RW), -EINVAL, "KVM: slot");
	load_guest(&guest_touch, &(struct start){.entry = CODE, .ebx = DIMM + 8 * PAGE});
	assert_int_equal(said(PORT_VALUE), 0x2ab8);
	assert_int_equal(said(PORT_VALUE), 0x2a);
}

/* ------------------------------------------------------------------- changes under a processor */

struct runner {
	pthread_t thread;
	int end;	  /* KVM_EXIT_…, or -errno, that ended it */
	long mmio, wrong; /* exits on memory; sums that were not right */
};

static void *run_guest(void *arg)
{
	struct runner *runner = arg;
	struct kvm_run *run = machine.run;
	int rc;

	for (;;) {
		runner->end = machine_run(&machine);
		if (runner->end == KVM_EXIT_MMIO) { /* between two slots: it is memory still */
			__atomic_add_fetch(&runner->mmio, 1, __ATOMIC_RELAXED);
			rc = run->mmio.is_write ? gr_store(space, run->mmio.phys_addr,
							   run->mmio.data, run->mmio.len)
						: gr_load(space, run->mmio.phys_addr,
							  run->mmio.data, run->mmio.len);
			if (!rc)
				continue;
		}
		if (runner->end == KVM_EXIT_IO && run->io.port == PORT_VALUE) {
			runner->wrong++;
			continue;
		}
		return NULL;
	}
}

/* Let the guest sum @words at @addr, and wait until it does. */
static void start_summing(struct runner *runner, uint64_t addr, uint32_t words)
{
	const uint32_t zeroes[2] = {0, 0};
	uint32_t sum = 0, i;

	for (i = 0; i < words; i++) {
		uint32_t word = i * 2654435761u + 1;

		assert_ok(gr_store(space, addr + 4 * i, &word, 4));
		sum += word;
	}
	assert_ok(gr_store(space, CONTROL, zeroes, sizeof(zeroes)));
	load_guest(&guest_checksum,
		   &(struct start){
			   .entry = CODE, .ebx = addr, .ecx = words, .esi = sum, .edi = CONTROL});
	memset(runner, 0, sizeof(*runner));
	runner->thread = thread_start(run_guest, runner);
	assert_true(wait_until(word_at(CONTROL) > 10));
}

static void stop_summing(struct runner *runner)
{
	const uint32_t stop = 1;
	uint32_t before = word_at(CONTROL);

	assert_true(wait_until(word_at(CONTROL) > before + 2)); /* it still does */
	assert_ok(gr_store(space, CONTROL + 4, &stop, 4));
	thread_join(runner->thread);
	assert_int_equal(runner->end, KVM_EXIT_IO);
	assert_int_equal(machine.run->io.port, PORT_END);
	assert_int_equal(runner->wrong, 0);
}

static void test_a_guest_runs_on_while_other_blocks_come_and_go(void **unused)
{
	enum { ROUNDS = 2000 };
	struct runner runner;
	uint32_t before;
	int64_t begin;
	int i;

	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW));
	start_summing(&runner, DIMM, WORDS);
	before = word_at(CONTROL);
	begin = now_ms();
	for (i = 0; i < ROUNDS; i++) {
		struct gr_block *other = new_memfd(ram, "other", DIMM_SIZE);

		assert_ok(gr_space_map(space, DIMM + DIMM_SIZE, other, 0, DIMM_SIZE, RW));
		assert_ok(gr_space_unmap(space, DIMM + DIMM_SIZE, DIMM_SIZE));
		assert_ok(gr_block_delete(other));
	}
	print_message("%d plugs and unplugs in %lld ms, %u sums meanwhile\n", ROUNDS,
		      (long long)(now_ms() - begin), word_at(CONTROL) - before);
	assert_true(word_at(CONTROL) > before);
	stop_summing(&runner);
	assert_int_equal(runner.mmio, 0);
	assert_ok(gr_ram_drain(ram, LONG_MS));
}

/* A page is cut off the range in which it sums, and put back, as one range again. */
static int split_and_join(int rounds)
{
	struct gr_txn *txn;
	int i;

	for (i = 0; i < rounds; i++) {
		assert_ok(gr_space_unmap(space, DIMM + DIMM_SIZE - PAGE, PAGE));
		assert_ok(gr_txn_begin(space, &txn));
		assert_ok(gr_txn_unmap(txn, DIMM, DIMM_SIZE));
		assert_ok(gr_txn_map(txn, DIMM, dimm, 0, DIMM_SIZE, RW));
		assert_ok(gr_txn_commit(txn));
	}
	return 2 * rounds;
}

static void test_splits_under_a_processor_that_is_paused_are_not_noticed(void **unused)
{
	const struct gr_kvm_opts opts = {
		.pause = machine_pause, .resume = machine_resume, .pause_context = &machine};
	struct gr_kvm_stats stats;
	struct runner runner;
	int changes;

	open_with(&opts);
	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW));
	start_summing(&runner, DIMM, WORDS);
	changes = split_and_join(500);
	stop_summing(&runner);
	gr_kvm_get_stats(kvm, &stats);
	print_message("%d changes, %llu pauses, %ld kicks, %ld exits on memory\n", changes,
		      (unsigned long long)stats.pauses, machine.kicks, runner.mmio);
	assert_int_equal(runner.mmio, 0);
	assert_int_equal(stats.pauses, changes);
}

static void test_splits_under_a_running_processor_exit_and_are_completed(void **unused)
{
	struct gr_kvm_stats stats;
	struct runner runner;
	int changes = 0;

	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW));
	start_summing(&runner, DIMM, WORDS);
	do
		changes += split_and_join(100);
	while (!__atomic_load_n(&runner.mmio, __ATOMIC_RELAXED) && changes < 5000);
	stop_summing(&runner);
	gr_kvm_get_stats(kvm, &stats);
	print_message("%d changes, %ld exits on memory\n", changes, runner.mmio);
	assert_true(runner.mmio > 0); /* or the test of pauses shows nothing either */
	assert_int_equal(stats.pauses, 0);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_all, close_all)
#define each_opens(test) cmocka_unit_test_teardown(test, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_a_guest_reads_writes_and_executes_in_a_plugged_block),
		each(test_a_real_mode_guest_does_so_too),
		each(test_a_write_to_read_only_memory_exits),
		each(test_an_access_to_what_was_unplugged_exits),
		each(test_a_slot_of_somebody_else_is_named),
		each(test_the_dirty_log_has_what_the_guest_wrote),
		each_opens(test_guest_memfd_where_the_machine_has_it),
		each(test_a_guest_runs_on_while_other_blocks_come_and_go),
		each_opens(test_splits_under_a_processor_that_is_paused_are_not_noticed),
		each(test_splits_under_a_running_processor_exit_and_are_completed),
	};

	if (!machine_is_there())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
