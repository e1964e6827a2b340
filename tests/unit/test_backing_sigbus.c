/* SPDX-License-Identifier: MIT */
/* Files that get shorter under us: gr_sigbus_install() and GR_SURVIVE_TRUNCATION. */
#include "backing_util.h"
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PAGES 64
#define THREADS 4

static volatile sig_atomic_t passed_on;
static sigjmp_buf escape;
static struct sigaction installed;

/* The test runner puts a handler of its own over ours for each test. */
static void use_handler(void)
{
	assert_int_equal(sigaction(SIGBUS, &installed, NULL), 0);
}

/* Whoever used SIGBUS before us. */
static void earlier_handler(int number, siginfo_t *info, void *context)
{
	passed_on++;
	if (info->si_code > 0)
		siglongjmp(escape, 1);
}

static int new_file(uint64_t length)
{
	int fd = memfd_create("peer", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, length), 0);
	return fd;
}

static void map_surviving(int fd, unsigned flags, uint64_t length, struct gr__mem *mem)
{
	struct gr_block_opts opts = {
		.name = "peer",
		.backing = GR_BACKING_FILE,
		.fd = fd,
		.length = length,
		.flags = flags | GR_SURVIVE_TRUNCATION,
	};

	map_ok(&opts, mem);
}

static void test_flag_without_handler_is_refused(void **unused)
{
	struct gr_block_opts opts = {.name = "peer", .backing = GR_BACKING_FILE, .length = PAGE};
	struct sigaction before, after;
	struct gr__mem mem;

	opts.fd = new_file(PAGE);
	opts.flags = GR_SHARED | GR_SURVIVE_TRUNCATION;
	sigaction(SIGBUS, NULL, &before);
	assert_int_equal(gr__mem_map(&opts, &mem), -EINVAL);
	assert_non_null(strstr(gr_last_error(), "gr_sigbus_install()"));
	sigaction(SIGBUS, NULL, &after);
	assert_ptr_equal(before.sa_sigaction, after.sa_sigaction);
	close(opts.fd);
}

static void test_install_fails_and_then_works(void **unused)
{
	struct sigaction action = {.sa_sigaction = earlier_handler, .sa_flags = SA_SIGINFO};
	struct sigaction first, second;
	int nth;

	assert_int_equal(sigaction(SIGBUS, &action, NULL), 0);
	for (nth = 1; nth <= 2; nth++) {
		arm_fault(nth, EINVAL);
		assert_int_equal(gr_sigbus_install(), -EINVAL);
		disarm_faults();
		sigaction(SIGBUS, NULL, &first);
		assert_ptr_equal(first.sa_sigaction, earlier_handler);
	}
	assert_int_equal(gr_sigbus_install(), 0);
	sigaction(SIGBUS, NULL, &first);
	assert_ptr_not_equal(first.sa_sigaction, earlier_handler);
	assert_int_equal(gr_sigbus_install(), 0); /* again: once is enough */
	sigaction(SIGBUS, NULL, &second);
	assert_ptr_equal(first.sa_sigaction, second.sa_sigaction);
	assert_true(first.sa_flags & SA_ONSTACK); /* stacks of vCPU threads may be small */
	installed = first;
}

static void test_lost_pages_read_zero_and_are_counted(void **unused)
{
	static const unsigned flags[] = {GR_SHARED, 0, GR_SHARED | GR_READ_ONLY};
	static struct state before;
	size_t i;

	use_handler();
	take_state(&before);
	for (i = 0; i < COUNT_OF(flags); i++) {
		int fd = new_file(8 * PAGE);
		struct gr__mem mem;
		char *host, line[512];
		uint64_t page;

		map_surviving(fd, flags[i], 8 * PAGE, &mem);
		host = mem.host;
		for (page = 0; page < 8; page++)
			assert_int_equal(pwrite(fd, "x", 1, page * PAGE), 1);
		assert_int_equal(gr__mem_lost_pages(&mem), 0);
		assert_int_equal(ftruncate(fd, 3 * PAGE), 0);
		errno = 1234;
		assert_int_equal(host[3 * PAGE], 0); /* dies here without the handler */
		assert_int_equal(errno, 1234);
		assert_int_equal(gr__mem_lost_pages(&mem), 1);
		assert_int_equal(host[3 * PAGE + 100], 0);
		assert_int_equal(gr__mem_lost_pages(&mem), 1); /* that page is there now */
		assert_int_equal(host[8 * PAGE - 1], 0);
		assert_int_equal(gr__mem_lost_pages(&mem), 2);
		assert_int_equal(host[2 * PAGE], 'x'); /* and this was never lost */
		assert_true(find_map("/proc/self/maps", host + 7 * PAGE, line, sizeof(line)));
		assert_non_null(strstr(line, flags[i] & GR_READ_ONLY ? " r--p " : " rw-p "));
		if (!(flags[i] & GR_READ_ONLY)) {
			host[5 * PAGE] = 'y'; /* by a store as well */
			assert_int_equal(host[5 * PAGE], 'y');
			assert_int_equal(gr__mem_lost_pages(&mem), 3);
			/* what stands in for the file is discarded with it */
			assert_ok(gr__mem_discard(&mem, 5 * PAGE, PAGE));
			assert_int_equal(host[5 * PAGE], 0);
		}
		assert_int_equal(passed_on, 0);
		gr__mem_release(&mem);
		close(fd);
		assert_same_state(&before);
	}
}

/* -------- many threads */

struct race {
	char *host;
	pthread_barrier_t start;
};

/* Every thread adds one to a word of each lost page, all in the same order. */
static void *add_ones(void *arg)
{
	struct race *race = arg;
	uint64_t page;

	for (page = 0; page < PAGES; page++) {
		pthread_barrier_wait(&race->start);
		__atomic_fetch_add((uint64_t *)(race->host + page * PAGE), 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* A page that two threads lose at once is replaced once: a second time would forget a store. */
static void test_threads_that_lose_the_same_page(void **unused)
{
	int round;

	use_handler();
	for (round = 0; round < 20; round++) {
		int fd = new_file(PAGES * PAGE);
		pthread_t threads[THREADS];
		struct gr__mem mem;
		struct race race;
		uint64_t i;

		map_surviving(fd, GR_SHARED, PAGES * PAGE, &mem);
		race.host = mem.host;
		pthread_barrier_init(&race.start, NULL, THREADS);
		assert_int_equal(ftruncate(fd, 0), 0);
		for (i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, add_ones, &race), 0);
		for (i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		for (i = 0; i < PAGES; i++)
			assert_int_equal(*(uint64_t *)(race.host + i * PAGE), THREADS);
		assert_int_equal(gr__mem_lost_pages(&mem), PAGES);
		pthread_barrier_destroy(&race.start);
		gr__mem_release(&mem);
		close(fd);
	}
}

/* Each thread makes, truncates, touches and releases blocks of its own: nodes are used again. */
static void *live_and_die(void *arg)
{
	uintptr_t failures = 0;
	int i;

	for (i = 0; i < 200; i++) {
		struct gr_block_opts opts = {
			.name = "own",
			.backing = GR_BACKING_FILE,
			.length = 4 * PAGE,
			.flags = GR_SHARED | GR_SURVIVE_TRUNCATION,
		};
		struct gr__mem mem;
		int page;

		opts.fd = memfd_create("own", MFD_CLOEXEC);
		if (ftruncate(opts.fd, 4 * PAGE) < 0 || gr__mem_map(&opts, &mem) < 0)
			return (void *)1;
		memset(mem.host, 0xff, 4 * PAGE);
		failures += ftruncate(opts.fd, (i % 4) * PAGE) != 0;
		for (page = 0; page < 4; page++)
			failures +=
				((signed char *)mem.host)[page * PAGE] != (page < i % 4 ? -1 : 0);
		failures += gr__mem_lost_pages(&mem) != 4 - i % 4;
		gr__mem_release(&mem);
		close(opts.fd);
	}
	return (void *)failures;
}

static void test_threads_with_blocks_that_come_and_go(void **unused)
{
	pthread_t threads[THREADS];
	void *failures;
	int i;

	use_handler();
	for (i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, live_and_die, NULL), 0);
	for (i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &failures);
		assert_int_equal((uintptr_t)failures, 0);
	}
}

static void test_lost_huge_page(void **unused)
{
	struct gr__mem mem;
	char *host;
	int fd;

	use_handler();
	if (!get_huge_pages(2 * MIB, 2))
		skip();
	fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	assert_int_equal(ftruncate(fd, 4 * MIB), 0);
	map_surviving(fd, GR_SHARED, 4 * MIB, &mem);
	host = mem.host;
	memset(host, 1, 4 * MIB);
	assert_int_equal(ftruncate(fd, 2 * MIB), 0);
	assert_int_equal(host[2 * MIB + 12345], 0);
	host[4 * MIB - 1] = 3;
	assert_int_equal(host[2 * MIB], 0);
	assert_int_equal(host[2 * MIB - 1], 1);
	assert_int_equal(gr__mem_lost_pages(&mem), 1); /* a huge one */
	gr__mem_release(&mem);
	close(fd);
	put_huge_pages();
}

/* Resized away and back, a page is the file's again and can be lost again. */
static void test_lost_page_that_is_mapped_anew(void **unused)
{
	struct gr_block_opts opts = {
		.name = "anew",
		.backing = GR_BACKING_FILE,
		.path = "/dev/shm",
		.length = 4 * PAGE,
		.flags = GR_TEMPORARY | GR_SHARED | GR_SURVIVE_TRUNCATION,
	};
	struct gr__mem mem;
	char *host;

	use_handler();
	map_ok(&opts, &mem);
	host = mem.host;
	assert_int_equal(ftruncate(mem.fd, PAGE), 0);
	host[2 * PAGE] = 1;
	host[3 * PAGE] = 1;
	assert_ok(gr__mem_resize(&mem, PAGE));
	assert_ok(gr__mem_resize(&mem, 4 * PAGE));
	host[2 * PAGE + 1] = 2; /* hangs here if its bit was not cleared */
	host[3 * PAGE + 1] = 2;
	assert_int_equal(host[2 * PAGE], 0);
	assert_int_equal(host[3 * PAGE], 0);
	assert_int_equal(gr__mem_lost_pages(&mem), 4);
	gr__mem_release(&mem);
}

static void test_other_faults_are_passed_on(void **unused)
{
	int fd = new_file(PAGE), guarded = new_file(PAGE);
	volatile char *other = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0), *host;
	struct gr__mem mem;

	use_handler();
	map_surviving(guarded, GR_SHARED, PAGE, &mem);
	assert_int_equal(ftruncate(fd, 0), 0);
	passed_on = 0;
	if (!sigsetjmp(escape, 1)) {
		(void)*other;
		fail_msg("a page that is nobody's was read");
	}
	assert_int_equal(passed_on, 1);
	raise(SIGBUS); /* sent, not faulted */
	assert_int_equal(passed_on, 2);
	assert_int_equal(gr__mem_lost_pages(&mem), 0);
	/* released: whatever is mapped there next is not ours to heal */
	host = mem.host;
	gr__mem_release(&mem);
	assert_ptr_equal(
		mmap((void *)host, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0), host);
	if (!sigsetjmp(escape, 1)) {
		(void)*host;
		fail_msg("a page of a released block was read");
	}
	assert_int_equal(passed_on, 3);
	munmap((void *)host, PAGE);
	munmap((void *)other, PAGE);
	close(fd);
	close(guarded);
}

/* As the kernel says it of a page that a load found broken. */
static void test_a_page_that_broke_is_not_hidden(void **unused)
{
	int fd = new_file(2 * PAGE);
	siginfo_t info = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AR};
	struct gr__mem mem;
	volatile char *host;

	use_handler();
	map_surviving(fd, GR_SHARED, 2 * PAGE, &mem);
	host = mem.host;
	host[PAGE] = 'x';
	info.si_addr = (void *)(host + PAGE);
	passed_on = 0;
	if (!sigsetjmp(escape, 1)) {
		syscall(SYS_rt_sigqueueinfo, getpid(), SIGBUS, &info);
		fail_msg("nobody was told of the page that broke");
	}
	assert_int_equal(passed_on, 1);
	assert_int_equal(host[PAGE], 'x');
	assert_int_equal(gr__mem_lost_pages(&mem), 0);
	gr__mem_release(&mem);
	close(fd);
}

/* The signal that ended a child which did @act after installing on top of @handler. */
static int death_of_child(void (*handler)(int), void (*act)(void))
{
	pid_t child;
	int status;

	fflush(NULL);
	child = fork();
	if (!child) {
		/* A process of its own, in which nothing is installed yet. */
		signal(SIGBUS, handler);
		if (gr_sigbus_install() < 0)
			_exit(1);
		act();
		_exit(0);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void touch_lost_page_of_nobody(void)
{
	int fd = memfd_create("nobody", MFD_CLOEXEC);
	volatile char *other = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

	(void)*other;
}

static void send_to_self(void)
{
	raise(SIGBUS);
}

/* First, while this process has not installed it: the children must start from nothing. */
static void test_without_an_earlier_handler_it_is_as_ever(void **unused)
{
	assert_int_equal(death_of_child(SIG_DFL, touch_lost_page_of_nobody), SIGBUS);
	assert_int_equal(death_of_child(SIG_IGN, touch_lost_page_of_nobody), SIGBUS);
	assert_int_equal(death_of_child(SIG_DFL, send_to_self), SIGBUS);
	assert_int_equal(death_of_child(SIG_IGN, send_to_self), 0);
}

/* 128 GiB of block: its notes are found page by page and cost nothing until used. */
static void test_P28_large_block(void **unused)
{
	int fd = new_file(128 * GIB);
	struct gr__mem mem;

	use_handler();
	map_surviving(fd, GR_SHARED, 128 * GIB, &mem);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(((char *)mem.host)[128 * GIB - 1], 0);
	assert_int_equal(((char *)mem.host)[0], 0);
	assert_int_equal(gr__mem_lost_pages(&mem), 2);
	gr__mem_release(&mem);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_without_an_earlier_handler_it_is_as_ever),
		cmocka_unit_test(test_flag_without_handler_is_refused),
		cmocka_unit_test(test_install_fails_and_then_works),
		cmocka_unit_test(test_lost_pages_read_zero_and_are_counted),
		cmocka_unit_test(test_threads_that_lose_the_same_page),
		cmocka_unit_test(test_threads_with_blocks_that_come_and_go),
		cmocka_unit_test(test_lost_huge_page),
		cmocka_unit_test(test_lost_page_that_is_mapped_anew),
		cmocka_unit_test(test_other_faults_are_passed_on),
		cmocka_unit_test(test_a_page_that_broke_is_not_hidden),
		cmocka_unit_test(test_P28_large_block),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
