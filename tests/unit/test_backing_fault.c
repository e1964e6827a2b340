/* SPDX-License-Identifier: MIT */
/*
 * Q16 Q17 Q30 P24 P25 for backings: each system call and allocation of each operation fails once,
 * at every position. Then nothing has changed, and the next try works. And Q11: no other thread's
 * memory is ever touched by what we do in our own address space.
 */
#include "../fault/tally.h"
#include "backing_util.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#define LENGTH (8 * PAGE)
#define MAX_LENGTH (16 * PAGE)

static char directory[64], path[96];

#define MOST (GR_PREALLOC | GR_NO_DUMP | GR_NO_FORK | GR_NO_THP)

static const struct scenario {
	const char *name;
	enum gr_backing backing;
	unsigned flags;
	const char *path;
} scenarios[] = {
	{"private anon", GR_BACKING_ANON, MOST | GR_MERGEABLE, NULL},
	{"private anon, locked", GR_BACKING_ANON, GR_LOCKED, NULL},
	{"shared anon", GR_BACKING_ANON, MOST | GR_SHARED, NULL},
	{"shared anon, locked", GR_BACKING_ANON, GR_SHARED | GR_LOCKED, NULL},
	{"memfd", GR_BACKING_MEMFD, MOST | GR_LOCKED, NULL},
	{"unsealed memfd", GR_BACKING_MEMFD, GR_UNSEALED, NULL},
	{"created file", GR_BACKING_FILE, MOST | GR_CREATE | GR_SHARED, path},
	{"created private file", GR_BACKING_FILE, MOST | GR_CREATE, path},
	{"surviving file", GR_BACKING_FILE, GR_CREATE | GR_SHARED | GR_SURVIVE_TRUNCATION, path},
	{"temporary file", GR_BACKING_FILE, MOST | GR_TEMPORARY | GR_SHARED, directory},
	{"temporary file in shm", GR_BACKING_FILE, GR_TEMPORARY | GR_SHARED, "/dev/shm"},
};

static const int errors[] = {ENOMEM, EINVAL, EACCES, EOPNOTSUPP, EIO, ENOSPC, EAGAIN};

/* Failures that the operation has another way for; everything else must fail it. */
static const struct {
	const char *call;
	int error;	/* 0: any */
	char operation; /* 0: any */
} has_another_way[] = {
	{"pthread_create", 0, 0},	   /* the other threads do its part */
	{"open.tmpfile", EOPNOTSUPP, 'm'}, /* mkostemp() */
	{"madvise.populate", EINVAL, 0},   /* touching */
	{"fallocate", EOPNOTSUPP, 0},	   /* the kernel tells when it fetches */
	{"madvise", EINVAL, 0},		   /* of GR_NO_THP only, see below */
	{"madvise.remove", EACCES, 's'},   /* once more, while writable */
	{"mmap", 0, 's'},		   /* mprotect() has hidden the tail before */
};

static bool may_go_on(const char *call, int error, char operation)
{
	size_t i;

	/* what a thread needs to start */
	if (!strcmp(call, "alloc"))
		return call_before_fault() && !strcmp(call_before_fault(), "pthread_create");
	for (i = 0; i < COUNT_OF(has_another_way); i++)
		if (!strcmp(has_another_way[i].call, call) &&
		    (!has_another_way[i].error || has_another_way[i].error == error) &&
		    (!has_another_way[i].operation || has_another_way[i].operation == operation))
			return true;
	return false;
}

static struct gr_block_opts opts_of(const struct scenario *scenario)
{
	return (struct gr_block_opts){
		.name = "fault",
		.backing = scenario->backing,
		.flags = scenario->flags,
		.path = scenario->path,
		.length = LENGTH,
		.max_length = MAX_LENGTH,
		.numa_policy = GR_NUMA_PREFERRED,
		.numa_nodes = "0",
		.prealloc_threads = 2,
	};
}

static void release(const struct scenario *scenario, struct gr__mem *mem)
{
	gr__mem_release(mem);
	if (scenario->flags & GR_CREATE)
		assert_int_equal(unlink(path), 0);
}

static void check_failure(const struct scenario *scenario, char operation, int nth, int error,
			  int rc)
{
	const char *call = fired_fault();

	tally_fault(operation == 'm'   ? "gr_block_new"
		    : operation == 'd' ? "gr_block_discard"
				       : "gr_block_resize",
		    call);
	if (rc == 0 && !strcmp(call, "madvise") && !(scenario->flags & GR_NO_THP))
		fail_msg("%s, '%c': \"madvise\" failed, and nothing was said", scenario->name,
			 operation);
	if (rc == 0 && !may_go_on(call, error, operation))
		fail_msg("%s, '%c': \"%s\" (%d) failed with %d, and nothing was said",
			 scenario->name, operation, call, nth, error);
	if (rc < 0 && !strstr(gr_last_error(), "block fault: ") && !strstr(gr_last_error(), "numa"))
		fail_msg("%s, '%c': \"%s\" (%d) failed, and the sentence is \"%s\"", scenario->name,
			 operation, call, nth, gr_last_error());
}

static void test_Q16_every_fault_of_map(void **unused)
{
	static struct state before;
	size_t i, e;
	int nth, rc, fired = 0;

	take_state(&before);
	for (i = 0; i < COUNT_OF(scenarios); i++)
		for (e = 0; e < COUNT_OF(errors); e++)
			for (nth = 1;; nth++) {
				struct gr_block_opts opts = opts_of(&scenarios[i]);
				struct gr__mem mem, untouched;

				memset(&mem, 0x77, sizeof(mem));
				untouched = mem;
				arm_fault(nth, errors[e]);
				rc = gr__mem_map(&opts, &mem);
				disarm_faults();
				if (fired_fault()) {
					fired++;
					check_failure(&scenarios[i], 'm', nth, errors[e], rc);
				} else {
					assert_ok(rc);
				}
				if (rc < 0) {
					assert_memory_equal(&mem, &untouched, sizeof(mem));
				} else {
					fill(&mem, 0, LENGTH, 3);
					assert_true(is_filled(&mem, 0, LENGTH, 3));
					release(&scenarios[i], &mem);
				}
				assert_true(is_empty_directory(directory));
				assert_same_state(&before);
				if (!fired_fault())
					break;
			}
	print_message("%d faults\n", fired);
	assert_true(fired > 500);
}

static int resize_or_discard(struct gr__mem *mem, char operation)
{
	switch (operation) {
	case 'g':
		return gr__mem_resize(mem, MAX_LENGTH);
	case 's':
		return gr__mem_resize(mem, 2 * PAGE);
	default:
		return gr__mem_discard(mem, 2 * PAGE, 3 * PAGE);
	}
}

static void test_Q16_every_fault_of_resize_and_discard(void **unused)
{
	static struct state before, empty;
	static const char operations[] = "gsd";
	const char *operation;
	size_t i, e;
	int nth, rc, fired = 0;

	take_state(&empty);
	for (i = 0; i < COUNT_OF(scenarios); i++)
		for (operation = operations; *operation; operation++)
			for (e = 0; e < COUNT_OF(errors); e++)
				for (nth = 1;; nth++) {
					struct gr_block_opts opts = opts_of(&scenarios[i]);
					struct gr__mem mem, was;

					map_ok(&opts, &mem);
					fill(&mem, 0, LENGTH, 3);
					was = mem;
					take_state(&before);
					arm_fault(nth, errors[e]);
					rc = resize_or_discard(&mem, *operation);
					disarm_faults();
					if (fired_fault()) {
						fired++;
						check_failure(&scenarios[i], *operation, nth,
							      errors[e], rc);
					} else {
						assert_ok(rc);
					}
					if (rc < 0) {
						assert_memory_equal(&mem, &was, sizeof(mem));
						/* a lock that does not come back is told late */
						if (!strstr(gr_last_error(), "done, but")) {
							assert_same_state(&before);
							assert_true(is_filled(&mem, 0, LENGTH, 3));
							assert_locked((char *)mem.host + LENGTH - 1,
								      mem.flags & GR_LOCKED);
						}
						if (mem.fd >= 0 && mem.flags & GR_PREALLOC &&
						    mem.flags & GR_SHARED)
							assert_int_equal(bytes_on_disk(mem.fd),
									 LENGTH);
						assert_ok(resize_or_discard(&mem, *operation));
					}
					assert_true(is_filled(&mem, 0, 2 * PAGE, 3));
					assert_int_equal(is_readable((char *)mem.host + mem.length),
							 false);
					if (*operation == 'g')
						assert_true(is_zero(&mem, LENGTH, LENGTH));
					if (*operation == 'd')
						assert_true(is_zero(&mem, 2 * PAGE, 3 * PAGE));
					release(&scenarios[i], &mem);
					assert_same_state(&empty);
					if (!fired_fault())
						break;
				}
	print_message("%d faults\n", fired);
	assert_true(fired > 500);
}

/* What has another way must not need it when nothing fails, nor hide a real failure. */
static void test_advice_that_the_kernel_does_not_know(void **unused)
{
	static const struct {
		unsigned flag;
		int rc;
	} rows[] = {
		{GR_NO_THP, 0},		{GR_THP, -ENOTSUP},	{GR_MERGEABLE, -ENOTSUP},
		{GR_NO_DUMP, -ENOTSUP}, {GR_NO_FORK, -ENOTSUP},
	};
	struct gr__mem mem;
	size_t i;

	for (i = 0; i < COUNT_OF(rows); i++) {
		struct gr_block_opts opts = {.name = "old", .flags = rows[i].flag, .length = PAGE};
		int rc;

		arm_fault_by_name("madvise", EINVAL);
		rc = gr__mem_map(&opts, &mem);
		disarm_faults();
		assert_int_equal(rc, rows[i].rc);
		if (!rc)
			gr__mem_release(&mem);
	}
}

static void test_lock_that_finds_no_page_is_out_of_memory(void **unused)
{
	struct gr_block_opts opts = {.name = "lock", .flags = GR_LOCKED, .length = PAGE};
	struct gr__mem mem;

	arm_fault_by_name("mlock", EAGAIN);
	assert_int_equal(gr__mem_map(&opts, &mem), -ENOMEM);
	disarm_faults();
	assert_non_null(strstr(gr_last_error(), "RLIMIT_MEMLOCK"));
}

/* -------- Q11 */

static atomic_bool stop;
static atomic_ulong damaged;

/* Maps, writes, checks and unmaps memory of its own, of sizes that would fit into our holes. */
static void *use_own_memory(void *arg)
{
	const uint64_t seed = (uintptr_t)arg;
	uint64_t i, length, turn;

	for (turn = 0; !atomic_load(&stop); turn++) {
		uint64_t *own[8];

		for (i = 0; i < COUNT_OF(own); i++) {
			length = (1 + (turn + i) % 16) * PAGE;
			own[i] = mmap(NULL, length, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (own[i] == MAP_FAILED)
				return NULL;
			own[i][0] = seed ^ turn;
			own[i][length / 8 - 1] = seed ^ turn;
		}
		for (i = 0; i < COUNT_OF(own); i++) {
			length = (1 + (turn + i) % 16) * PAGE;
			if (own[i][0] != (seed ^ turn) || own[i][length / 8 - 1] != (seed ^ turn))
				atomic_fetch_add(&damaged, 1);
			munmap(own[i], length);
		}
	}
	return NULL;
}

/* A SIGSEGV of the other threads is a failure too: their memory was unmapped. */
static void test_Q11_no_gap_for_other_threads_to_fall_into(void **unused)
{
	pthread_t threads[2];
	struct gr__mem mem;
	size_t i, turn;
	int rc, nth;

	atomic_store(&stop, false);
	for (i = 0; i < COUNT_OF(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, use_own_memory, (void *)(i + 1)),
				 0);
	for (turn = 0; turn < 400; turn++) {
		struct gr_block_opts opts = opts_of(&scenarios[turn % 6]);

		opts.flags &= ~(GR_PREALLOC | GR_LOCKED);
		opts.align = turn % 3 ? 0 : 2 * MIB;
		for (nth = 1; nth < 20; nth += 2) {
			/* also while undoing */
			arm_fault(nth, ENOMEM);
			rc = gr__mem_map(&opts, &mem);
			if (!rc)
				gr__mem_release(&mem);
		}
		disarm_faults();
		map_ok(&opts, &mem);
		fill(&mem, 0, LENGTH, turn);
		for (nth = 1; nth < 8; nth++) {
			arm_fault(nth, ENOMEM);
			gr__mem_resize(&mem, MAX_LENGTH);
			gr__mem_resize(&mem, LENGTH);
		}
		disarm_faults();
		assert_true(is_filled(&mem, 0, LENGTH, turn));
		gr__mem_release(&mem);
	}
	atomic_store(&stop, true);
	for (i = 0; i < COUNT_OF(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(damaged, 0);
}

static int set_up(void **unused)
{
	struct gr_block_opts opts = {.name = "warm", .length = 64 * MIB, .flags = GR_PREALLOC};
	struct gr__mem mem;

	make_directory(directory, sizeof(directory));
	snprintf(path, sizeof(path), "%s/ram", directory);
	/* The C library keeps stacks of threads that have ended: make it have them already. */
	opts.prealloc_threads = 2;
	map_ok(&opts, &mem);
	gr__mem_release(&mem);
	if (gr_sigbus_install() < 0)
		return -1;
	return 0;
}

static int tear_down(void **unused)
{
	return rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_Q16_every_fault_of_map),
		cmocka_unit_test(test_Q16_every_fault_of_resize_and_discard),
		cmocka_unit_test(test_advice_that_the_kernel_does_not_know),
		cmocka_unit_test(test_lock_that_finds_no_page_is_out_of_memory),
		cmocka_unit_test(test_Q11_no_gap_for_other_threads_to_fall_into),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
