/* SPDX-License-Identifier: MIT */
/*
 * What guests on /dev/kvm write comes out in harvests: exactly the pages, and none is lost while
 * others are harvested, and while blocks are plugged, unplugged, split and joined under the guest.
 *
 * Threads: the test's own harvests; one runs the processor, one changes the space.
 */
#include "machine.h"
#include "testing.h"
#include <sys/ioctl.h>

#define CODE 0x1000ull
#define CONTROL 0x4000ull /* rounds, and stop */
#define DIMM 0x10000000ull
#define DIMM_PAGES 200
#define DIMM_SIZE (DIMM_PAGES * PAGE)

static struct machine machine;
static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *low, *dimm;
static struct gr_kvm *kvm;
static struct gr_dirty *client;
static struct gr_dirty_source *source;
static long full_rings;

/* @rings: bytes of one, 0: bitmaps. false: this machine has no rings. */
static bool open_all(uint64_t rings, const struct gr_kvm_opts *opts)
{
	const struct gr_dirty_opts dirty_opts = {.name = "test"};

	machine_open_without_cpu(&machine);
	if (rings && gr_kvm_ring_enable(machine.vm_fd, &rings) < 0) {
		print_message("skipped: %s\n", gr_last_error());
		close(machine.vm_fd);
		close(machine.kvm_fd);
		return false;
	}
	machine_add_cpu(&machine);
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	low = new_anon(ram, "low", 16 * PAGE, 0);
	dimm = new_memfd(ram, "dimm", DIMM_SIZE);
	assert_ok(gr_space_map(space, 0, low, 0, 16 * PAGE, RW));
	assert_ok(gr_kvm_open(space, machine.vm_fd, opts, &kvm));
	assert_ok(gr_dirty_open(ram, &dirty_opts, &client));
	assert_ok(gr_kvm_dirty_open(kvm, rings, &source));
	if (rings)
		assert_ok(gr_kvm_ring_add(source, machine.cpu_fd));
	return true;
}

static void close_all(void)
{
	gr_dirty_source_close(source);
	assert_ok(gr_kvm_close(kvm));
	assert_ok(gr_dirty_close(client));
	machine_close(&machine);
	assert_ok(gr_ram_close(ram));
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

static void run_to_the_end(void)
{
	int end;

	do {
		end = machine_run(&machine);
		if (end == KVM_EXIT_DIRTY_RING_FULL) {
			assert_ok(gr_kvm_ring_empty(source));
			full_rings++;
			continue;
		}
		assert_int_equal(end, KVM_EXIT_IO);
	} while (end != KVM_EXIT_IO || machine.run->io.port != PORT_END);
}

/* The guest writes to one place, and says that it did. */
static void guest_writes(uint64_t addr)
{
	load_guest(&guest_store, &(struct start){.entry = CODE, .ebx = addr, .esi = 77});
	run_to_the_end();
}

/* What a harvest gives, as "offset+length" in pages. */
static const char *harvest(struct gr_block *block)
{
	static char text[1024];
	struct gr_harvest *got;
	uint64_t offset, length;
	size_t at = 0;

	assert_ok(gr_dirty_harvest(client, block, 0, 0, &got));
	text[0] = 0;
	while (gr_harvest_next(got, &offset, &length) && at < sizeof(text) - 50)
		at += (size_t)snprintf(
			text + at, sizeof(text) - at, at ? " %llu+%llu" : "%llu+%llu",
			(unsigned long long)(offset / PAGE), (unsigned long long)(length / PAGE));
	gr_harvest_commit(got);
	return text;
}

/* ----------------------------------------------------------------------------- exactly that */

static void check_pages(void)
{
	struct gr_block *other;

	/* two slots of one block, not in its order */
	assert_ok(gr_space_map(space, DIMM, dimm, 0, 128 * PAGE, RW));
	assert_ok(gr_space_map(space, DIMM / 2, dimm, 130 * PAGE, 70 * PAGE, RW));
	assert_string_equal(harvest(dimm), "");
	guest_writes(DIMM);
	guest_writes(DIMM + 63 * PAGE);
	guest_writes(DIMM + 64 * PAGE);
	guest_writes(DIMM + 127 * PAGE + 4092);
	guest_writes(DIMM / 2);
	guest_writes(DIMM / 2 + 69 * PAGE);
	assert_string_equal(harvest(dimm), "0+1 63+2 127+1 130+1 199+1");
	assert_string_equal(harvest(dimm), "");
	guest_writes(DIMM + 63 * PAGE); /* it was protected again */
	assert_string_equal(harvest(dimm), "63+1");

	/* one that came later, that goes */
	other = new_memfd(ram, "other", DIMM_SIZE);
	assert_ok(gr_space_map(space, 2 * DIMM, other, 0, DIMM_SIZE, RW));
	guest_writes(2 * DIMM + 150 * PAGE);
	assert_ok(gr_space_unmap(space, 2 * DIMM, DIMM_SIZE));
	assert_string_equal(harvest(other), "150+1");
	assert_ok(gr_block_delete(other));

	/* a split under it, and a move */
	guest_writes(DIMM + 5 * PAGE);
	assert_ok(gr_space_unmap(space, DIMM + 60 * PAGE, PAGE));
	guest_writes(DIMM + 61 * PAGE);
	assert_string_equal(harvest(dimm), "5+1 61+1");
	guest_writes(DIMM + 62 * PAGE);
	assert_ok(gr_space_unmap(space, DIMM, 128 * PAGE));
	assert_ok(gr_space_map(space, 0x20000, dimm, 40 * PAGE, 16 * PAGE, RW));
	guest_writes(0x20000);
	assert_string_equal(harvest(dimm), "40+1 62+1");
	assert_string_equal(harvest(dimm), "");
}

static void each_page_that_a_guest_writes_is_told_and_no_other(void **unused)
{
	open_all(0, NULL);
	check_pages();
	close_all();
}

static void a_real_mode_guest_s_writes_are_told(void **unused)
{
	open_all(0, NULL);
	assert_ok(gr_space_map(space, 0x20000, dimm, 40 * PAGE, 16 * PAGE, RW));
	load_guest(&guest_real, &(struct start){.entry = CODE, .real_mode = true});
	run_to_the_end();
	assert_string_equal(harvest(dimm), "40+1");
	assert_string_equal(harvest(dimm), "");
	close_all();
}

static void rings_tell_each_page_and_no_other(void **unused)
{
	if (!open_all(MIB, NULL))
		skip();
	check_pages();
	close_all();
}

/* --------------------------------------------------------------------- a copy that is kept right
 */

struct runner {
	pthread_t thread, changer;
	int end;
	bool stop;
	long mmio, full, changes, harvests, pages;
	char copy[DIMM_SIZE] __attribute__((aligned(8)));
};

static void *run_guest(void *arg)
{
	struct runner *runner = arg;
	struct kvm_run *run = machine.run;

	for (;;) {
		runner->end = machine_run(&machine);
		if (runner->end == KVM_EXIT_DIRTY_RING_FULL) {
			__atomic_add_fetch(&runner->full, 1, __ATOMIC_RELAXED);
			if (!gr_kvm_ring_empty(source))
				continue;
		}
		if (runner->end == KVM_EXIT_MMIO && run->mmio.is_write) { /* between two slots */
			uint32_t value;

			runner->mmio++;
			memcpy(&value, run->mmio.data, sizeof(value));
			if (run->mmio.len == 4 && !gr_store_u32(space, run->mmio.phys_addr, value))
				continue;
		}
		return NULL;
	}
}

/* Splits and joins the range that is written, and plugs others. The last page is not written to. */
static void *change(void *arg)
{
	struct runner *runner = arg;
	struct gr_block *other;
	struct gr_txn *txn;

	while (!__atomic_load_n(&runner->stop, __ATOMIC_RELAXED)) {
		assert_ok(gr_space_unmap(space, DIMM + DIMM_SIZE - PAGE, PAGE));
		other = new_memfd(ram, "other", DIMM_SIZE);
		assert_ok(gr_space_map(space, 2 * DIMM, other, 0, DIMM_SIZE, RW));
		assert_ok(gr_txn_begin(space, &txn));
		assert_ok(gr_txn_unmap(txn, DIMM, DIMM_SIZE));
		assert_ok(gr_txn_map(txn, DIMM, dimm, 0, DIMM_SIZE, RW));
		assert_ok(gr_txn_commit(txn));
		assert_ok(gr_space_unmap(space, 2 * DIMM, DIMM_SIZE));
		assert_ok(gr_block_delete(other));
		__atomic_add_fetch(&runner->changes, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void copy_what_changed(struct runner *runner)
{
	const uint64_t *memory = info_of(dimm).host;
	uint64_t *copy = (uint64_t *)(void *)runner->copy, word;
	struct gr_harvest *got;
	uint64_t offset, length;

	assert_ok(gr_dirty_harvest(client, dimm, 0, 0, &got));
	while (gr_harvest_next(got, &offset, &length)) {
		for (word = offset / 8; word < (offset + length) / 8; word++)
			copy[word] = __atomic_load_n(&memory[word], __ATOMIC_RELAXED);
		runner->pages += (long)(length / PAGE);
	}
	gr_harvest_commit(got);
	runner->harvests++;
}

/* A guest that writes all the time makes kvm_pvm, which emulates it, overrun a ring that is full.
 */
#define PAUSE_OF_RINGS 100

static void keep_a_copy(bool changes, uint32_t pause)
{
	struct runner *runner = calloc(1, sizeof(*runner));
	const uint32_t stop = 1;
	int64_t begin = now_ms();
	uint64_t i;

	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW));
	load_guest(
		&guest_scatter,
		&(struct start){.entry = CODE, .ebx = DIMM, .ecx = DIMM_PAGES - 1, .edi = CONTROL});
	runner->thread = thread_start(run_guest, runner);
	if (changes)
		runner->changer = thread_start(change, runner);
	while ((now_ms() - begin < 1500 || runner->pages < 1000 ||
		(changes && __atomic_load_n(&runner->changes, __ATOMIC_RELAXED) < 20)) &&
	       now_ms() - begin < LONG_MS)
		copy_what_changed(runner);
	__atomic_store_n(&runner->stop, true, __ATOMIC_RELAXED);
	if (changes)
		thread_join(runner->changer);
	assert_ok(gr_store(space, CONTROL + 4, &stop, 4));
	thread_join(runner->thread);
	assert_int_equal(runner->end, KVM_EXIT_IO);
	copy_what_changed(runner);
	print_message("%u writes, %ld harvests of %ld pages, %ld changes, %ld exits on memory, "
		      "%ld of a full ring\n",
		      word_at(CONTROL), runner->harvests, runner->pages, runner->changes,
		      runner->mmio, runner->full);
	for (i = 0; i < DIMM_PAGES; i++)
		if (memcmp(runner->copy + i * PAGE, (char *)info_of(dimm).host + i * PAGE, PAGE))
			fail_msg("page %llu: its last write is in no harvest",
				 (unsigned long long)i);
	assert_true(runner->pages > 200);
	assert_true(!changes || runner->changes > 10);
	free(runner);
}

static void what_is_written_during_a_harvest_is_in_this_one_or_the_next(void **unused)
{
	open_all(0, NULL);
	keep_a_copy(false, 0);
	close_all();
}

static void nothing_is_lost_under_changes_of_the_slots(void **unused)
{
	open_all(0, NULL);
	keep_a_copy(true, 0);
	close_all();
}

static void nothing_is_lost_under_changes_with_pauses(void **unused)
{
	const struct gr_kvm_opts opts = {
		.pause = machine_pause, .resume = machine_resume, .pause_context = &machine};

	open_all(0, &opts);
	keep_a_copy(true, 0);
	close_all();
}

static void rings_lose_nothing_during_a_harvest(void **unused)
{
	if (!open_all(MIB, NULL))
		skip();
	keep_a_copy(false, PAUSE_OF_RINGS);
	close_all();
}

static void rings_lose_nothing_under_changes_of_the_slots(void **unused)
{
	if (!open_all(MIB, NULL))
		skip();
	keep_a_copy(true, PAUSE_OF_RINGS);
	close_all();
}

/* A ring of 256 entries, of which KVM keeps some for itself; nobody harvests. */
static void a_processor_whose_ring_is_full_goes_on_when_it_was_emptied(void **unused)
{
	uint64_t round, page;

	if (!open_all(PAGE, NULL))
		skip();
	assert_ok(gr_space_map(space, DIMM, dimm, 0, DIMM_SIZE, RW));
	full_rings = 0;
	for (round = 0; round < 3; round++) {
		for (page = 0; page < DIMM_PAGES - 1; page++)
			guest_writes(DIMM + page * PAGE);
		assert_string_equal(harvest(dimm), "0+199");
		assert_string_equal(harvest(dimm), "");
	}
	print_message("%ld exits of a full ring\n", full_rings);
	assert_true(full_rings > 0);
	close_all();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_page_that_a_guest_writes_is_told_and_no_other),
		cmocka_unit_test(a_real_mode_guest_s_writes_are_told),
		cmocka_unit_test(what_is_written_during_a_harvest_is_in_this_one_or_the_next),
		cmocka_unit_test(nothing_is_lost_under_changes_of_the_slots),
		cmocka_unit_test(nothing_is_lost_under_changes_with_pauses),
		cmocka_unit_test(rings_tell_each_page_and_no_other),
		cmocka_unit_test(rings_lose_nothing_during_a_harvest),
		cmocka_unit_test(rings_lose_nothing_under_changes_of_the_slots),
		cmocka_unit_test(a_processor_whose_ring_is_full_goes_on_when_it_was_emptied),
	};

	if (!machine_is_there())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
