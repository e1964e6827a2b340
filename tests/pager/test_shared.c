/* SPDX-License-Identifier: MIT */
/*
 * The server of pages, with monitors whose memory is a file that others map, too: what the file has
 * is mapped, what it has not is copied, once for all who share it; against discards of one of them,
 * holes that somebody punches, and each answer of the kernel.
 *
 * Threads: the server's, in this process, and one that punches holes; monitors have their own
 * processes.
 */
#include "../fault/tally.h"
#include "serving.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

static const struct kind {
	const char *name;
	bool shared;
	uint64_t page_size;
} kinds[] = {
	{"shared", true, 4096},
	{"private", false, 4096},
	{"huge shared", true, 2097152},
	{"huge private", false, 2097152},
};

/* --------------------------------------------------------------------------------- its file */

struct file {
	int fd;
	char *host; /* the test's own mapping */
	uint64_t page_size;
};

/* Every @filled-th page is the source's from now on. */
static void fill(struct file *file, const struct serving *serving, unsigned filled)
{
	uint64_t at, page;

	for (at = 0; filled && at < SERVED_LENGTH; at += filled * file->page_size)
		for (page = at; page < at + file->page_size; page += PAGE)
			if (pattern_is_zero(&serving->source, page))
				memset(file->host + page, 0, PAGE);
			else
				pattern_fill(0, page, file->host + page, PAGE);
}

/* Filled as above. false: not possible here. */
static bool file_new(struct file *file, const struct serving *serving, uint64_t page_size,
		     unsigned filled)
{
	file->page_size = page_size;
	file->fd = memfd_create("shared",
				MFD_CLOEXEC | (page_size > PAGE ? MFD_HUGETLB | 21u << 26 : 0));
	if (file->fd < 0 || ftruncate(file->fd, SERVED_LENGTH) < 0)
		fail_msg("memfd: %s", strerror(errno));
	file->host = mmap(NULL, SERVED_LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, file->fd, 0);
	if (file->host == MAP_FAILED) {
		close(file->fd);
		print_message("no huge pages here\n");
		return false;
	}
	fill(file, serving, filled);
	return true;
}

static void file_end(struct file *file)
{
	munmap(file->host, SERVED_LENGTH);
	close(file->fd);
}

/* Bytes that it has. */
static uint64_t file_bytes(const struct file *file)
{
	struct stat stat;

	assert_int_equal(fstat(file->fd, &stat), 0);
	return (uint64_t)stat.st_blocks * 512;
}

/* Bytes of those pages of the source that are not zero all over, and that one in @filled is (or is
 * not) of. */
static uint64_t data_bytes(const struct serving *serving, uint64_t page_size, unsigned filled,
			   bool those)
{
	uint64_t at, page, sum = 0;

	for (at = 0; at < SERVED_LENGTH; at += page_size) {
		bool data = false;

		for (page = at; page < at + page_size; page += PAGE)
			data |= !pattern_is_zero(&serving->source, page);
		if (data && (filled && !(at / page_size % filled)) == those)
			sum += page_size;
	}
	return sum;
}

static struct monitor sharer(const struct serving *serving, const struct kind *kind,
			     const struct file *file)
{
	struct monitor monitor = usual(serving);

	monitor.page_size = kind->page_size;
	monitor.shared = kind->shared;
	monitor.file = file->fd;
	monitor.minor = true;
	return monitor;
}

/* ------------------------------------------------------------------------------ who has what */

/* The source is not even asked. */
static void what_the_file_has_is_mapped(void **unused)
{
	unsigned possible = 0;

	with_huge_pages(SERVED_HUGE_PAGES);
	for (unsigned i = 0; i < 2 * COUNT_OF(kinds); i++) {
		const struct kind *kind = &kinds[i / 2];
		struct gr_pager_server_stats stats;
		struct monitor monitor;
		struct serving serving;
		struct file file;

		serving_init(&serving);
		serving.source.failing = EIO;
		serving.opts.flags = i % 2 ? GR_PAGER_NO_PREFETCH : 0;
		if (!file_new(&file, &serving, kind->page_size, 1))
			continue;
		serving_start(&serving);
		monitor = sharer(&serving, kind, &file);
		monitor.system_calls = kind->page_size == PAGE;
		if (run_one(&serving, &monitor, kind->name)) {
			assert_true(wait_until(get(&serving.ended) == 1));
			stats = stats_now(&serving);
			assert_int_equal(get(&serving.source.reads), 0);
			assert_int_equal(stats.pages.copied, 0);
			assert_true(stats.pages.shared >=
				    data_bytes(&serving, kind->page_size, 0, false));
			if (i % 2)
				assert_int_equal(stats.pages.prefetched, 0);
			assert_true(was_said(&serving, "shared"));
			possible++;
		}
		serving_end(&serving);
		file_end(&file);
	}
	with_huge_pages(0);
	assert_true(possible >= 4);
}

/* Fetched ahead, before anybody touches anything. */
static void what_the_file_has_is_mapped_ahead(void **unused)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct kind *kind = &kinds[i];
		struct gr_pager_server_stats stats;
		struct monitor monitor;
		struct serving serving;
		struct file file;
		uint64_t has, lacks;
		pid_t pid;

		serving_init(&serving);
		assert_true(file_new(&file, &serving, kind->page_size, 3));
		has = data_bytes(&serving, kind->page_size, 3, true);
		lacks = data_bytes(&serving, kind->page_size, 3, false);
		serving_start(&serving);
		monitor = sharer(&serving, kind, &file);
		pid = start_staying(&serving, &monitor);
		assert_true(wait_until(get(&serving.complete) == 1));
		stats = stats_now(&serving);
		assert_int_equal(stats.pages.faults, 0);
		assert_int_equal(stats.pages.shared, has);
		assert_int_equal(stats.pages.copied, lacks);
		assert_int_equal(stats.pages.prefetched, has + lacks);
		kill_one(pid);
		serving_end(&serving);
		file_end(&file);
	}
}

static void what_the_file_has_not_is_copied(void **unused)
{
	unsigned possible = 0;

	with_huge_pages(SERVED_HUGE_PAGES);
	for (unsigned i = 0; i < 2 * COUNT_OF(kinds); i++) {
		const struct kind *kind = &kinds[i / 2];
		struct gr_pager_server_stats stats;
		struct monitor monitor;
		struct serving serving;
		struct file file;
		uint64_t before, lacks;

		serving_init(&serving);
		serving.opts.flags = i % 2 ? GR_PAGER_NO_PREFETCH : 0;
		if (!file_new(&file, &serving, kind->page_size, 2))
			continue;
		before = file_bytes(&file);
		lacks = data_bytes(&serving, kind->page_size, 2, false);
		serving_start(&serving);
		monitor = sharer(&serving, kind, &file);
		if (run_one(&serving, &monitor, kind->name)) {
			assert_true(wait_until(get(&serving.ended) == 1));
			stats = stats_now(&serving);
			assert_int_equal(stats.pages.copied, lacks);
			assert_true(stats.pages.shared >=
				    data_bytes(&serving, kind->page_size, 2, true));
			/* private memory has its own, but for zeroes, which the kernel may put */
			if (kind->shared)
				assert_int_equal(file_bytes(&file), SERVED_LENGTH);
			else
				assert_in_range(file_bytes(&file), before, SERVED_LENGTH - lacks);
			possible++;
		}
		serving_end(&serving);
		file_end(&file);
	}
	with_huge_pages(0);
	assert_true(possible >= 4);
}

/* By a sharer that is faster than the source. */
static void what_is_filled_while_it_is_read_is_mapped(void **unused)
{
	struct gr_pager_server_stats stats;
	struct monitor monitor;
	struct serving serving;
	struct file file;
	struct gate gate;
	pid_t pid;

	serving_init(&serving);
	gate_init(&gate);
	serving.source.hold = &gate;
	assert_true(file_new(&file, &serving, PAGE, 0));
	serving_start(&serving);
	monitor = sharer(&serving, &kinds[0], &file);
	pid = start_staying(&serving, &monitor);
	assert_true(wait_until(get(&serving.source.holding) == 2));
	fill(&file, &serving, 1);
	__atomic_store_n(&serving.source.hold, NULL, __ATOMIC_SEQ_CST);
	gate_open(&gate);
	assert_true(wait_until(get(&serving.complete) == 1));
	stats = stats_now(&serving);
	assert_int_equal(stats.pages.copied, 0);
	assert_int_equal(stats.pages.raced, 0);
	assert_int_equal(stats.pages.shared, data_bytes(&serving, PAGE, 0, false));
	assert_int_equal(stats.pages.prefetched, stats.pages.shared);
	kill_one(pid);
	serving_end(&serving);
	file_end(&file);
}

/* By a sharer, while its pages are read. Touching them is SIGBUS then, and no affair of the
 * pager's. */
static void a_file_that_gets_shorter_ends_no_session(void **unused)
{
	struct monitor monitor;
	struct serving serving;
	struct file file;
	struct gate gate;
	pid_t pid;

	serving_init(&serving);
	gate_init(&gate);
	serving.source.hold = &gate;
	assert_true(file_new(&file, &serving, PAGE, 0));
	serving_start(&serving);
	monitor = sharer(&serving, &kinds[0], &file);
	pid = start_staying(&serving, &monitor);
	assert_true(wait_until(get(&serving.source.holding) == 2));
	assert_int_equal(ftruncate(file.fd, MIB), 0);
	__atomic_store_n(&serving.source.hold, NULL, __ATOMIC_SEQ_CST);
	gate_open(&gate);
	assert_true(wait_until(get(&serving.complete) == 1));
	assert_true(stats_now(&serving).pages.raced > 0);
	assert_true(stats_now(&serving).pages.copied <= MIB);
	kill_one(pid);
	serving_end(&serving);
	file_end(&file);
}

/* Whoever of them was first. */
static void a_page_is_copied_once_for_all(void **unused)
{
	enum { SHARERS = 4 };
	unsigned possible = 0;

	with_huge_pages(SERVED_HUGE_PAGES);
	for (unsigned i = 0; i < COUNT_OF(kinds); i += 2) {
		const struct kind *kind = &kinds[i];
		struct gr_pager_server_stats stats;
		struct monitor monitor;
		struct serving serving;
		pid_t pids[SHARERS];
		struct file file;
		bool all = true;

		serving_init(&serving);
		serving.source.delay_us = 100;
		if (!file_new(&file, &serving, kind->page_size, 0))
			continue;
		serving_start(&serving);
		monitor = sharer(&serving, kind, &file);
		for (unsigned k = 0; k < SHARERS; k++) {
			monitor.minor = k != 1; /* one is told of missing pages alone */
			pids[k] = monitor_start(&monitor, serving.path);
		}
		for (unsigned k = 0; k < SHARERS; k++)
			all &= end_one(&monitor, pids[k], kind->name);
		assert_true(wait_until(get(&serving.ended) == SHARERS));
		stats = stats_now(&serving);
		print_message("%s: %llu copied, %llu shared, %llu raced\n", kind->name,
			      (unsigned long long)stats.pages.copied,
			      (unsigned long long)stats.pages.shared,
			      (unsigned long long)stats.pages.raced);
		if (all) {
			assert_int_equal(stats.pages.copied,
					 data_bytes(&serving, kind->page_size, 0, false));
			assert_true(stats.pages.shared > 0);
			possible++;
		}
		serving_end(&serving);
		file_end(&file);
	}
	with_huge_pages(0);
	assert_true(possible >= 1);
}

/* A page of the file that all of them map is written by each of them apart. */
static void clones_write_apart(void **unused)
{
	enum { CLONES = 3 };
	struct monitor monitor;
	struct serving serving;
	pid_t pids[CLONES];
	struct file file;

	serving_init(&serving);
	assert_true(file_new(&file, &serving, PAGE, 2));
	serving_start(&serving);
	monitor = sharer(&serving, &kinds[1], &file);
	monitor.touchers = 1;
	monitor.writes = true;
	for (unsigned i = 0; i < CLONES; i++)
		pids[i] = monitor_start(&monitor, serving.path);
	for (unsigned i = 0; i < CLONES; i++)
		assert_int_equal(monitor_wait(pids[i], LONG_MS), 0);
	for (uint64_t at = 0; at < SERVED_LENGTH; at += 2 * PAGE)
		assert_true(page_is_right(&serving.source, 0, at, file.host));
	for (uint64_t at = PAGE; at < SERVED_LENGTH; at += 2 * PAGE)
		assert_true(zeroes_are(file.host + at, PAGE));
	serving_end(&serving);
	file_end(&file);
}

/* ----------------------------------------------------------------------------------- discards */

/* In private memory: what the file has shows again, and is no more the source's to give. */
static void a_private_discard_shows_the_file(void **unused)
{
	unsigned possible = 0;

	with_huge_pages(SERVED_HUGE_PAGES);
	for (unsigned i = 0; i < 4; i++) {
		const struct kind *kind = &kinds[i / 2 * 2 + 1];
		struct monitor monitor;
		struct serving serving;
		struct file file;

		serving_init(&serving);
		serving.source.delay_us = 100 * (i % 2);
		serving.opts.flags = i % 2 ? GR_PAGER_NO_PREFETCH : 0;
		if (!file_new(&file, &serving, kind->page_size, 2))
			continue;
		serving_start(&serving);
		monitor = sharer(&serving, kind, &file);
		monitor.filled = 2;
		monitor.discards = true;
		monitor.touchers = 3;
		possible += run_one(&serving, &monitor, kind->name);
		serving_end(&serving);
		file_end(&file);
	}
	with_huge_pages(0);
	assert_true(possible >= 2);
}

struct puncher {
	const struct file *file;
	int *marks;
	int stop; /* atomic */
};

/* As a sharer's balloon by the descriptor: no userfaultfd tells of it. */
static void *punch_some(void *arg)
{
	struct puncher *puncher = arg;
	uint64_t size = puncher->file->page_size, units = SERVED_LENGTH / size, i;
	struct rng rng = {7};

	while (!get(&puncher->stop)) {
		uint64_t first = rng_below(&rng, units) * size / PAGE;

		for (i = 0; i < size / PAGE; i++)
			if (!get(&puncher->marks[first + i]))
				set(&puncher->marks[first + i], 1);
		if (fallocate(puncher->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      (off_t)(first * PAGE), (off_t)size) < 0)
			break;
		for (i = 0; i < size / PAGE; i++)
			set(&puncher->marks[first + i], 2);
		sleep_us(100);
	}
	return NULL;
}

/* Of one of them, of all, and of who is none of them: nobody waits for ever, nor finds bytes that
 * are none of the source's, nor zeroes where nobody discarded. */
static void touches_against_discards_by_sharers(void **unused)
{
	enum { SHARERS = 3, WAYS = 3 };
	unsigned possible = 0;

	with_huge_pages(SERVED_HUGE_PAGES);
	for (unsigned i = 0; i < WAYS * 2; i++) {
		const struct kind *kind = &kinds[i / WAYS * 2];
		struct puncher puncher = {0};
		struct monitor monitor;
		struct serving serving;
		pid_t pids[SHARERS];
		pthread_t thread;
		struct file file;
		bool all = true;
		int marks;

		serving_init(&serving);
		serving.source.delay_us = 50;
		serving.opts.flags = i % WAYS == 1 ? GR_PAGER_NO_PREFETCH : 0;
		if (!file_new(&file, &serving, kind->page_size, 0))
			continue;
		marks = memfd_create("marks", MFD_CLOEXEC);
		assert_int_equal(ftruncate(marks, SERVED_LENGTH / PAGE * sizeof(int)), 0);
		puncher.file = &file;
		puncher.marks = mmap(NULL, SERVED_LENGTH / PAGE * sizeof(int),
				     PROT_READ | PROT_WRITE, MAP_SHARED, marks, 0);
		assert_true(puncher.marks != MAP_FAILED);
		serving_start(&serving);
		monitor = sharer(&serving, kind, &file);
		monitor.marks = marks;
		for (unsigned k = 0; k < SHARERS; k++) {
			monitor.discards = i % WAYS == 1 || (i % WAYS == 0 && !k);
			pids[k] = monitor_start(&monitor, serving.path);
		}
		thread = i % WAYS == 2 ? thread_start(punch_some, &puncher) : pthread_self();
		for (unsigned k = 0; k < SHARERS; k++)
			all &= end_one(&monitor, pids[k], kind->name);
		set(&puncher.stop, 1);
		if (i % WAYS == 2)
			thread_join(thread);
		assert_true(wait_until(get(&serving.ended) == SHARERS));
		possible += all;
		print_message("%s: %llu removed, %llu shared, %llu raced\n", kind->name,
			      (unsigned long long)stats_now(&serving).pages.removed,
			      (unsigned long long)stats_now(&serving).pages.shared,
			      (unsigned long long)stats_now(&serving).pages.raced);
		serving_end(&serving);
		munmap(puncher.marks, SERVED_LENGTH / PAGE * sizeof(int));
		close(marks);
		file_end(&file);
	}
	with_huge_pages(0);
	assert_true(possible >= WAYS);
}

/* ------------------------------------------------------------------------------- working sets */

/* A touch of a page that is only mapped is one. */
static void what_is_mapped_is_recorded(void **unused)
{
	enum { PAGES = 600 };
	struct monitor monitor;
	struct serving serving;
	struct file file;
	uint64_t data = 0;
	char order[80];
	pid_t pid;

	serving_init(&serving);
	snprintf(order, sizeof(order), "%s.order", serving.path);
	serving.opts.record = order;
	assert_true(file_new(&file, &serving, PAGE, 1));
	serving_start(&serving);
	monitor = sharer(&serving, &kinds[0], &file);
	monitor.only = PAGES;
	run_one(&serving, &monitor, "recorded");
	assert_true(wait_until(get(&serving.ended) == 1));
	assert_int_equal(stats_now(&serving).pages.prefetched, 0);
	serving_end(&serving);

	serving_init(&serving);
	serving.source.failing = EIO;
	serving.opts.prefetch = order;
	serving.opts.flags = GR_PAGER_NO_PREFETCH;
	serving_start(&serving);
	for (uint64_t page = 0; page < PAGES; page++)
		data += pattern_is_zero(&serving.source, page * PAGE) ? 0 : PAGE;
	monitor = sharer(&serving, &kinds[0], &file);
	pid = start_staying(&serving, &monitor);
	assert_true(wait_until(stats_now(&serving).pages.prefetched == data));
	assert_int_equal(stats_now(&serving).pages.shared, data);
	assert_true(wait_until(stats_now(&serving).pages.working_set_ns > 0));
	kill_one(pid);
	serving_end(&serving);
	unlink(order);
	file_end(&file);
}

/* --------------------------------------------------------------------------- kernel's answers */

/* One that does not know the call, too. */
static void answers_that_race(void **unused)
{
	static const struct {
		const char *call;
		int error, times;
	} answers[] = {
		{"uffdio.continue", EAGAIN, 200}, {"uffdio.continue", ENOMEM, 50},
		{"uffdio.continue", EFAULT, 200}, {"uffdio.continue", EINVAL, 3},
		{"uffdio.copy", EAGAIN, 100},
	};

	for (unsigned i = 0; i < 4 * COUNT_OF(answers); i++) {
		struct monitor monitor;
		struct serving serving;
		struct file file;
		int status, left;

		serving_init(&serving);
		serving.opts.flags = i & 1 ? GR_PAGER_NO_PREFETCH : 0;
		assert_true(file_new(&file, &serving, PAGE, 2));
		serving_start(&serving);
		monitor = sharer(&serving, &kinds[i >> 1 & 1], &file);
		fail_begin(answers[i / 4].call, answers[i / 4].error, answers[i / 4].times);
		status = monitor_wait(monitor_start(&monitor, serving.path), LONG_MS);
		left = fail_end();
		if (status)
			fail_msg("%s, %s, case %u: %d", answers[i / 4].call,
				 strerrorname_np(answers[i / 4].error), i, status);
		assert_true(left < answers[i / 4].times);
		tally_fault("gr_pager_server_run", answers[i / 4].call);
		serving_end(&serving);
		file_end(&file);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_file_has_is_mapped),
		cmocka_unit_test(what_the_file_has_is_mapped_ahead),
		cmocka_unit_test(what_the_file_has_not_is_copied),
		cmocka_unit_test(what_is_filled_while_it_is_read_is_mapped),
		cmocka_unit_test(a_file_that_gets_shorter_ends_no_session),
		cmocka_unit_test(a_page_is_copied_once_for_all),
		cmocka_unit_test(clones_write_apart),
		cmocka_unit_test(a_private_discard_shows_the_file),
		cmocka_unit_test(touches_against_discards_by_sharers),
		cmocka_unit_test(what_is_mapped_is_recorded),
		cmocka_unit_test(answers_that_race),
	};

	monitor_main(argc, argv);
	alarm(170);
	return cmocka_run_group_tests_name("pager's server of shared memory", tests, NULL, NULL);
}
