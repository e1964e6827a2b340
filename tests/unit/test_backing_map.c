/* SPDX-License-Identifier: MIT */
/* Every kind of backing with every option: what the kernel says of the mapping afterwards. */
#include "backing_util.h"
#include "os/memory.h"
#include <sys/wait.h>

#define LENGTH (4 * PAGE)

/* The kinds that are always there; hugetlb has a test of its own. */
static const struct {
	const char *name;
	enum gr_backing backing;
	unsigned flags;
	const char *path;
} kinds[] = {
	{"private anon", GR_BACKING_ANON, 0, NULL},
	{"shared anon", GR_BACKING_ANON, GR_SHARED, NULL},
	{"memfd", GR_BACKING_MEMFD, 0, NULL},
	{"unsealed memfd", GR_BACKING_MEMFD, GR_UNSEALED, NULL},
	{"private file", GR_BACKING_FILE, GR_TEMPORARY, "/tmp"},
	{"shared file", GR_BACKING_FILE, GR_TEMPORARY | GR_SHARED, "/tmp"},
	{"shared file in shm", GR_BACKING_FILE, GR_TEMPORARY | GR_SHARED, "/dev/shm"},
};

static struct gr_block_opts opts_of(size_t kind)
{
	return (struct gr_block_opts){
		.name = "mapped",
		.backing = kinds[kind].backing,
		.flags = kinds[kind].flags,
		.path = kinds[kind].path,
		.length = LENGTH,
	};
}

static void test_memory_is_whole_and_guarded_and_leaves_nothing(void **unused)
{
	static struct state before;
	size_t i;

	take_state(&before);
	for (i = 0; i < COUNT_OF(kinds); i++) {
		struct gr_block_opts opts = opts_of(i);
		struct gr__mem mem;
		char *host, line[512];

		opts.length = LENGTH - 1; /* rounded up */
		opts.max_length = 2 * LENGTH;
		opts.fd_offset = opts.backing == GR_BACKING_FILE ? 3 * PAGE : 0;
		map_ok(&opts, &mem);
		host = mem.host;
		assert_int_equal(mem.length, LENGTH);
		assert_int_equal(mem.max_length, 2 * LENGTH);
		assert_int_equal(mem.page_size, PAGE);
		assert_int_equal(mem.reserved_length, 2 * LENGTH + PAGE);
		assert_int_equal(!!(mem.flags & GR_SHARED),
				 opts.backing == GR_BACKING_MEMFD || opts.flags & GR_SHARED);
		assert_true(is_zero(&mem, 0, LENGTH));
		fill(&mem, 0, LENGTH, 7);
		assert_true(is_filled(&mem, 0, LENGTH, 7));
		/* the tail, the guard page, and nothing of ours behind it */
		assert_false(is_readable(host + LENGTH));
		assert_false(is_readable(host + 2 * LENGTH - 1));
		assert_false(is_readable(host + 2 * LENGTH));
		assert_true(find_map("/proc/self/maps", host + LENGTH, line, sizeof(line)));
		assert_non_null(strstr(line, " ---p "));
		assert_true(find_map("/proc/self/maps", host, line, sizeof(line)));
		assert_non_null(strstr(line, mem.flags & GR_SHARED ? " rw-s " : " rw-p "));
		assert_int_equal(mem.fd >= 0, opts.backing != GR_BACKING_ANON);
		if (mem.fd >= 0)
			assert_true(fcntl(mem.fd, F_GETFD) & FD_CLOEXEC);
		gr__mem_release(&mem);
		assert_same_state(&before);
	}
}

static void test_alignment(void **unused)
{
	static const struct {
		uint64_t length, align, expect;
	} rows[] = {
		{PAGE, 0, PAGE},
		{2 * MIB - PAGE, 0, PAGE},
		{2 * MIB, 0, 2 * MIB},
		{3 * MIB, PAGE, PAGE},
		{PAGE, 1, PAGE},
		{PAGE, 64 * KIB, 64 * KIB},
		{2 * MIB, 1 * GIB, 1 * GIB},
		{PAGE, 1 * GIB, 1 * GIB},
	};
	static struct state before;
	size_t kind, i, guard;

	take_state(&before);
	for (kind = 0; kind < COUNT_OF(kinds); kind++)
		for (i = 0; i < COUNT_OF(rows); i++)
			for (guard = 0; guard < 2; guard++) {
				struct gr_block_opts opts = opts_of(kind);
				struct gr__mem mem;

				opts.length = rows[i].length;
				opts.align = rows[i].align;
				opts.flags |= guard ? 0 : GR_NO_GUARD;
				map_ok(&opts, &mem);
				assert_int_equal((uintptr_t)mem.host % rows[i].expect, 0);
				assert_ptr_equal(mem.host, mem.reserved);
				/* slack is given back: what is kept is the memory and its guard */
				assert_int_equal(mem.reserved_length,
						 rows[i].length + guard * PAGE);
				gr__mem_release(&mem);
				assert_same_state(&before);
			}
}

/* Flags of the mapping, as two letters of VmFlags: there with the option, not there without. */
static void test_flags_reach_the_kernel(void **unused)
{
	static const struct {
		unsigned flag;
		const char *letters;
		bool inverse;
		unsigned not_with; /* kinds with one of these flags are left out */
	} rows[] = {
		{GR_NO_DUMP, "dd", false, 0},
		{GR_NO_FORK, "dc", false, 0},
		{GR_THP, "hg", false, 0},
		{GR_NO_THP, "nh", false, 0},
		{GR_MERGEABLE, "mg", false, GR_SHARED},
#ifndef HAS_SANITIZER
		{GR_LOCKED, "lo", false, 0},
#endif
		{GR_RESERVE, "nr", true, GR_SHARED},
		{GR_PREALLOC, "nr", true, GR_SHARED},
	};
	size_t kind, i;

	for (kind = 0; kind < COUNT_OF(kinds); kind++)
		for (i = 0; i < COUNT_OF(rows); i++) {
			struct gr_block_opts opts = opts_of(kind);
			struct gr__mem mem;

			if (rows[i].not_with & GR_SHARED &&
			    (opts.flags & GR_SHARED || opts.backing == GR_BACKING_MEMFD))
				continue;
			map_ok(&opts, &mem);
			if (has_vm_flag(mem.host, rows[i].letters) != rows[i].inverse)
				fail_msg("%s: \"%s\" without its flag", kinds[kind].name,
					 rows[i].letters);
			gr__mem_release(&mem);
			opts.flags |= rows[i].flag;
			opts.max_length = 2 * LENGTH;
			map_ok(&opts, &mem);
			if (has_vm_flag(mem.host, rows[i].letters) == rows[i].inverse)
				fail_msg("%s: no \"%s\"", kinds[kind].name, rows[i].letters);
			/* what it grows by, too */
			assert_ok(gr__mem_resize(&mem, 2 * LENGTH));
			if (has_vm_flag((char *)mem.host + 2 * LENGTH - 1, rows[i].letters) ==
			    rows[i].inverse)
				fail_msg("%s: no \"%s\" in what it grew by", kinds[kind].name,
					 rows[i].letters);
			gr__mem_release(&mem);
		}
}

static void test_numa_policy(void **unused)
{
	static const struct {
		enum gr_numa_policy policy;
		const char *nodes, *shown;
	} rows[] = {
		{GR_NUMA_BIND, "0", " bind:0"},
		{GR_NUMA_BIND, "0-0,0", " bind:0"},
		{GR_NUMA_PREFERRED, "0", " prefer:0"},
		{GR_NUMA_INTERLEAVE, "0", " interleave:0"},
	};
	struct gr_block_opts opts = {.name = "numa", .length = PAGE, .max_length = 2 * PAGE};
	struct gr__mem mem;
	char line[512];
	size_t i;

	if (access("/sys/devices/system/node/node0", F_OK) < 0) {
		print_message("skipped: this kernel has no NUMA nodes\n");
		skip();
	}
	for (i = 0; i < COUNT_OF(rows); i++) {
		opts.numa_policy = rows[i].policy;
		opts.numa_nodes = rows[i].nodes;
		map_ok(&opts, &mem);
		assert_true(find_map("/proc/self/numa_maps", mem.host, line, sizeof(line)));
		assert_non_null(strstr(line, rows[i].shown));
		/* all of it: one mapping with the policy */
		assert_ok(gr__mem_resize(&mem, 2 * PAGE));
		fill(&mem, 0, 2 * PAGE, 0);
		assert_false(find_map("/proc/self/numa_maps", (char *)mem.host + PAGE, line,
				      sizeof(line)) &&
			     !strstr(line, rows[i].shown));
		gr__mem_release(&mem);
	}
}

static void test_name_in_maps(void **unused)
{
	char name[256], line[1024];
	struct gr_block_opts opts = {.name = "dimm [0]\n", .length = PAGE};
	struct gr__mem mem;

	opts.backing = GR_BACKING_MEMFD;
	opts.name = "dimm 0";
	map_ok(&opts, &mem);
	assert_true(find_map("/proc/self/maps", mem.host, line, sizeof(line)));
	assert_non_null(strstr(line, "/memfd:dimm 0 "));
	gr__mem_release(&mem);

	/* longer than what the kernel takes, not than what we do */
	memset(name, 'n', 255);
	name[255] = '\0';
	opts.name = name;
	map_ok(&opts, &mem);
	assert_true(find_map("/proc/self/maps", mem.host, line, sizeof(line)));
	assert_non_null(strstr(line, "/memfd:nnnnnnn"));
	gr__mem_release(&mem);

	opts.backing = GR_BACKING_ANON;
	opts.name = "dimm [0]\n";
	map_ok(&opts, &mem);
	assert_true(find_map("/proc/self/maps", mem.host, line, sizeof(line)));
	if (!strstr(line, "[anon:"))
		print_message("not seen: this kernel shows no names of anonymous memory\n");
	else
		assert_non_null(strstr(line, "[anon:dimm _0__]"));
	gr__mem_release(&mem);
}

static void test_prealloc_by_any_number_of_threads(void **unused)
{
	static const unsigned threads[] = {0, 1, 3, 100000};
	const uint64_t length = 9 * MIB + PAGE;
	size_t kind, i, old;

	for (kind = 0; kind < COUNT_OF(kinds); kind++)
		for (i = 0; i < COUNT_OF(threads); i++)
			for (old = 0; old < 2; old++) {
				struct gr_block_opts opts = opts_of(kind);
				struct gr__mem mem;

				opts.length = length;
				opts.max_length = length + 5 * PAGE;
				opts.flags |= GR_PREALLOC;
				opts.prealloc_threads = threads[i];
				if (old) /* as a kernel before 5.14 answers */
					arm_fault_by_name("madvise.populate", EINVAL);
				map_ok(&opts, &mem);
				assert_int_equal(count_resident(mem.host, length), length / PAGE);
				assert_ok(gr__mem_resize(&mem, length + 5 * PAGE));
				assert_int_equal(count_resident(mem.host, length + 5 * PAGE),
						 length / PAGE + 5);
				disarm_faults();
				if (mem.fd >= 0 && mem.flags & GR_SHARED)
					assert_true(bytes_on_disk(mem.fd) >= length + 5 * PAGE);
				assert_true(is_zero(&mem, 0, length + 5 * PAGE));
				gr__mem_release(&mem);
			}
}

/* A thread that does not start is no reason to fail: the others do its part. */
static void test_prealloc_without_helpers(void **unused)
{
	struct gr_block_opts opts = {.name = "alone", .length = 20 * MIB, .flags = GR_PREALLOC};
	struct gr__mem mem;

	opts.prealloc_threads = 4;
	arm_fault_by_name("pthread_create", EAGAIN);
	map_ok(&opts, &mem);
	assert_string_equal(fired_fault(), "pthread_create");
	disarm_faults();
	assert_int_equal(count_resident(mem.host, 20 * MIB), 20 * MIB / PAGE);
	gr__mem_release(&mem);
}

static int prealloc_too_much(void)
{
	size_t kind;

	for (kind = 0; kind < COUNT_OF(kinds); kind++) {
		struct gr_block_opts opts = opts_of(kind);
		struct gr__mem mem;

		if (opts.backing == GR_BACKING_FILE)
			continue; /* their places have limits of their own, tested elsewhere */
		opts.length = gr__os_total_memory() + GIB;
		opts.flags |= GR_PREALLOC;
		if (gr__mem_map(&opts, &mem) != -ENOMEM)
			return 1;
	}
	return 0;
}

/*
 * Q31: refused at creation, and not by a killed process or a SIGBUS later. In a child, which is the
 * one to be killed, and soon, if it is not so.
 */
static void test_Q31_prealloc_of_more_than_there_is(void **unused)
{
	pid_t child;
	int fd, status;

	fflush(NULL);
	child = fork();
	if (!child) {
		fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "1000", 4) != 4)
			_exit(2);
		alarm(1);
		_exit(prealloc_too_much());
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* Q27: no 32-bit arithmetic. Sparse: only what is touched has memory. */
static void test_Q27_blocks_of_5_GiB(void **unused)
{
	const uint64_t length = 5 * GIB, marks[] = {0, 4 * GIB - PAGE, 4 * GIB, 5 * GIB - PAGE};
	static struct state before;
	size_t kind, i;

	take_state(&before);
	for (kind = 0; kind < COUNT_OF(kinds); kind++) {
		struct gr_block_opts opts = opts_of(kind);
		struct gr__mem mem;

		opts.length = length;
		map_ok(&opts, &mem);
		for (i = 0; i < COUNT_OF(marks); i++)
			fill(&mem, marks[i], PAGE, kind);
		for (i = 0; i < COUNT_OF(marks); i++)
			assert_true(is_filled(&mem, marks[i], PAGE, kind));
		/* longer than 32 bits can tell, ending before the last mark */
		assert_ok(gr__mem_discard(&mem, PAGE, 5 * GIB - 2 * PAGE));
		assert_true(is_filled(&mem, 0, PAGE, kind));
		assert_true(is_zero(&mem, 4 * GIB - PAGE, 2 * PAGE));
		assert_true(is_filled(&mem, 5 * GIB - PAGE, PAGE, kind));
		assert_ok(gr__mem_resize(&mem, 4 * GIB + PAGE));
		assert_false(is_readable((char *)mem.host + 4 * GIB + PAGE));
		assert_true(is_readable((char *)mem.host + 4 * GIB));
		assert_ok(gr__mem_resize(&mem, length));
		assert_true(is_zero(&mem, 5 * GIB - PAGE, PAGE));
		assert_true(is_filled(&mem, 0, PAGE, kind));
		gr__mem_release(&mem);
		assert_same_state(&before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prealloc_by_any_number_of_threads), /* warms thread stacks */
		cmocka_unit_test(test_prealloc_without_helpers),
		cmocka_unit_test(test_memory_is_whole_and_guarded_and_leaves_nothing),
		cmocka_unit_test(test_alignment),
		cmocka_unit_test(test_flags_reach_the_kernel),
		cmocka_unit_test(test_numa_policy),
		cmocka_unit_test(test_name_in_maps),
		cmocka_unit_test(test_Q31_prealloc_of_more_than_there_is),
		cmocka_unit_test(test_Q27_blocks_of_5_GiB),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
