/* SPDX-License-Identifier: MIT */
/*
 * Every system call and allocation of a pager in this process fails once, at position 1, 2, 3 …:
 * either it does not open, and all is as it was, or every byte comes all the same.
 *
 * Threads: the failing call may be any thread's.
 */
#include "../fault/tally.h"
#include "os/hooks.h"
#include "pattern.h"

static int position;	 /* atomic: counted down */
static int error;	 /* const while a call runs */
static const char *call; /* atomic: that failed */
static char path[64], order[80];

static int fail_one(const char *name)
{
	if (__atomic_sub_fetch(&position, 1, __ATOMIC_SEQ_CST) != 0)
		return 0;
	__atomic_store_n(&call, name, __ATOMIC_SEQ_CST);
	return error;
}

static void arm_nth(int nth)
{
	__atomic_store_n(&call, NULL, __ATOMIC_SEQ_CST);
	__atomic_store_n(&position, nth, __ATOMIC_SEQ_CST);
	__atomic_store_n(&gr__hook_fault, fail_one, __ATOMIC_RELEASE);
}

static const char *disarm_nth(void)
{
	__atomic_store_n(&gr__hook_fault, NULL, __ATOMIC_RELEASE);
	return __atomic_load_n(&call, __ATOMIC_SEQ_CST);
}

enum { CACHED = 1, RECORDED = 2, ORDERED = 4 };

static void run_faults(unsigned how, int with)
{
	const uint64_t length = 256 * KIB;
	struct gr_ram *ram;
	struct gr_block *block;
	struct pattern_source source;
	unsigned fds, refused = 0, went_on = 0;
	bool through = false;
	char *host;

	assert_ok(gr_ram_open(NULL, &ram));
	block = new_anon(ram, "b0", length, length);
	host = info_of(block).host;
	pattern_source_init(&source, 1, length);
	source.zero_every = 4;
	if (how & CACHED)
		assert_true(pattern_source_to_file(&source, path));
	fds = open_fds();
	error = with;
	for (int nth = 1; !through; nth++) {
		struct gr_pager_opts opts = {
			.flags = how & RECORDED ? GR_PAGER_NO_PREFETCH : 0,
			.record = how & RECORDED ? order : NULL,
			.prefetch = how & ORDERED ? order : NULL,
			.workers = 1,
		};
		struct gr_pager_stats stats;
		struct gr_pager *pager;
		const char *failed;
		int rc;

		memset(host, 0x33, length);
		arm_nth(nth);
		rc = gr_pager_open(ram, &source.source, &opts, &pager);
		if (rc < 0) {
			failed = disarm_nth();
			refused++;
			assert_non_null(failed);
			tally_fault("gr_pager_open", failed);
			if (host[length - 1] != 0x33 && strcmp(failed, "madvise") != 0)
				fail_msg("%s, call %d: it is changed", failed, nth);
			assert_int_equal(open_fds(), fds);
			continue;
		}
		for (uint64_t at = 0; at < length; at += PAGE)
			if (!page_is_right(&source, 0, at, host))
				fail_msg("%s, call %d: page %#llx", call, nth,
					 (unsigned long long)at);
		gr_pager_get_stats(pager, &stats);
		rc = gr_pager_wait(pager, LONG_MS);
		if (rc < 0)
			fail_msg("%s, call %d: %s", call, nth, gr_last_error());
		rc = gr_pager_close(pager);
		failed = disarm_nth();
		through = !failed;
		if (rc < 0 && (!(how & RECORDED) || !failed))
			fail_msg("%s, call %d: close: %s", failed, nth, gr_last_error());
		if (failed) {
			tally_fault(rc < 0 ? "gr_pager_close" : "gr_pager_open gr_pager_wait",
				    failed);
			went_on++;
		}
		assert_int_equal(open_fds(), fds);
		for (uint64_t at = 0; at < length; at += PAGE)
			if (!page_is_right(&source, 0, at, host))
				fail_msg("%s, call %d: page %#llx", failed, nth,
					 (unsigned long long)at);
	}
	print_message("how %u, errno %d: %u refused, %u went on\n", how, with, refused, went_on);
	assert_true(refused >= 12);
	assert_true(went_on >= (how & RECORDED ? 20 : 2));
	gr_page_source_close(&source.source);
	assert_ok(gr_ram_close(ram));
}

static void no_memory(void **unused)
{
	run_faults(0, ENOMEM);
}

static void no_memory_cached_and_recorded(void **unused)
{
	run_faults(CACHED | RECORDED, ENOMEM);
}

static void try_again(void **unused)
{
	run_faults(CACHED | ORDERED, EAGAIN);
}

static void no_memory_in_order(void **unused)
{
	run_faults(ORDERED, ENOMEM);
}

static const char *only; /* const while armed */
static int times;	 /* atomic: counted down */

static int fail_named(const char *name)
{
	if (strcmp(name, only) != 0)
		return 0;
	return __atomic_sub_fetch(&times, 1, __ATOMIC_SEQ_CST) >= 0 ? error : 0;
}

/* Answers of the kernel that are data: none of them is an end, and none makes a byte wrong. */
static void the_kernels_answers(void **unused)
{
	static const struct {
		const char *call;
		int error;
	} answers[] = {
		{"uffdio.copy", EAGAIN}, {"uffdio.copy", ENOMEM},     {"uffdio.zeropage", EAGAIN},
		{"uffdio.copy", EINTR},	 {"uffdio.zeropage", ENOMEM}, {"file.read_now", EIO},
		{"alloc", ENOMEM},	 {"uffd.read", ENOMEM},
	};
	const uint64_t length = 512 * KIB;

	for (unsigned i = 0; i < COUNT_OF(answers); i++) {
		struct gr_pager_opts opts = {.flags = GR_PAGER_NO_PREFETCH};
		struct gr_pager_stats stats;
		struct pattern_source source;
		struct gr_block *block;
		struct gr_pager *pager;
		struct gr_ram *ram;
		char *host;

		assert_ok(gr_ram_open(NULL, &ram));
		block = new_anon(ram, "b0", length, length);
		host = info_of(block).host;
		pattern_source_init(&source, 1, length);
		assert_true(pattern_source_to_file(&source, path));
		assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
		assert_ok(gr_block_discard(block, 0, 64 * KIB));
		only = answers[i].call;
		error = answers[i].error;
		times = 30;
		__atomic_store_n(&gr__hook_fault, fail_named, __ATOMIC_RELEASE);
		assert_true(zeroes_are(host, 64 * KIB));
		for (uint64_t at = 64 * KIB; at < length; at += PAGE)
			assert_true(page_is_right(&source, 0, at, host));
		__atomic_store_n(&gr__hook_fault, NULL, __ATOMIC_RELEASE);
		assert_true(get(&times) < 30);
		gr_pager_get_stats(pager, &stats);
		if (!strncmp(only, "uffdio", 6))
			assert_true(stats.parked >= 30);
		tally_fault("gr_pager_open", only);
		assert_ok(gr_pager_wait(pager, LONG_MS));
		assert_ok(gr_pager_close(pager));
		gr_page_source_close(&source.source);
		assert_ok(gr_ram_close(ram));
	}
	tally_nothing("gr_pager_get_stats");
}

struct sum {
	uint64_t runs, bytes;
};

static int add_run(void *context, int block, uint64_t offset, uint64_t length)
{
	struct sum *sum = context;

	assert_int_equal(block, 0);
	assert_int_equal(offset % PAGE, 0);
	sum->runs++;
	sum->bytes += length;
	return 0;
}

static int stop_at_once(void *context, int block, uint64_t offset, uint64_t length)
{
	(void)context;
	return -ECANCELED;
}

/* What was recorded above: every page of it but those that are zero. */
static void looking_at_a_working_set(void **unused)
{
	struct pattern_source source;
	unsigned refused = 0;
	bool through = false;

	pattern_source_init(&source, 1, 256 * KIB);
	error = EIO;
	for (int nth = 1; !through; nth++) {
		struct sum sum = {0, 0};
		const char *failed;
		int rc;

		arm_nth(nth);
		rc = gr_working_set_read(order, &source.source, add_run, &sum);
		failed = disarm_nth();
		through = !failed;
		if (rc < 0) {
			assert_non_null(failed);
			assert_int_equal(sum.runs, 0);
			tally_fault("gr_working_set_read", failed);
			refused++;
			continue;
		}
		assert_true(sum.runs > 0);
		assert_int_equal(sum.bytes, 192 * KIB);
	}
	assert_true(refused >= 4);
	assert_int_equal(gr_working_set_read(order, &source.source, stop_at_once, NULL),
			 -ECANCELED);
	assert_error(gr_working_set_read(path, &source.source, add_run, NULL), -EBADMSG,
		     "no working set");
	assert_error(gr_working_set_read(order, NULL, add_run, NULL), -EINVAL, "no path, source");
	gr_page_source_close(&source.source);
}

static int remove_files(void **unused)
{
	unlink(path);
	unlink(order);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_memory),
		cmocka_unit_test(no_memory_cached_and_recorded),
		cmocka_unit_test(try_again),
		cmocka_unit_test(no_memory_in_order),
		cmocka_unit_test(the_kernels_answers),
		cmocka_unit_test(looking_at_a_working_set),
	};

	snprintf(path, sizeof(path), "/tmp/guestram-pager-fault-%d", (int)getpid());
	snprintf(order, sizeof(order), "%s.order", path);
	alarm(110);
	return cmocka_run_group_tests_name("pager: every fault", tests, NULL, remove_files);
}
