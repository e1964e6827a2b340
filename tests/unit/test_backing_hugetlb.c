/* SPDX-License-Identifier: MIT */
/*
 * Huge pages of a pool. The pool's size is set for the test and put back; where that is not
 * allowed, the test says so and is skipped.
 */
#include "backing_util.h"

#define HUGE (2 * MIB)
#define PAGES 4

static char mounted[64];

static const struct {
	const char *name;
	enum gr_backing backing;
	unsigned flags;
} kinds[] = {
	{"private anon", GR_BACKING_ANON, 0},
	{"shared anon", GR_BACKING_ANON, GR_SHARED},
	{"memfd", GR_BACKING_MEMFD, 0},
	{"private file", GR_BACKING_FILE, GR_TEMPORARY},
	{"shared file", GR_BACKING_FILE, GR_TEMPORARY | GR_SHARED},
};

static struct gr_block_opts opts_of(size_t kind)
{
	bool is_file = kinds[kind].backing == GR_BACKING_FILE;

	return (struct gr_block_opts){
		.name = "huge",
		.backing = kinds[kind].backing,
		.flags = kinds[kind].flags,
		.path = is_file ? mounted : NULL,
		.page_size = is_file ? 0 : HUGE,
		.fd_offset = is_file ? HUGE : 0,
		.length = PAGES * HUGE,
	};
}

/* The sizes are rounded, placed and told in huge pages, and the pool gives exactly those. */
static void test_huge_pages_are_taken_reserved_and_given_back(void **unused)
{
	static struct state before;
	struct gr__mem mem;
	char line[512];
	size_t kind;

	take_state(&before);
	for (kind = 0; kind < COUNT_OF(kinds); kind++) {
		struct gr_block_opts opts = opts_of(kind);

		opts.length = HUGE + 1;
		opts.max_length = (PAGES - 1) * HUGE + 5;
		map_ok(&opts, &mem);
		assert_int_equal(mem.page_size, HUGE);
		assert_int_equal(mem.length, 2 * HUGE);
		assert_int_equal(mem.max_length, PAGES * HUGE);
		assert_int_equal((uintptr_t)mem.host % HUGE, 0);
		assert_int_equal(mem.reserved_length, PAGES * HUGE + PAGE);
		assert_true(has_vm_flag(mem.host, "ht"));
		assert_true(find_map("/proc/self/maps", mem.host, line, sizeof(line)));
		assert_false(is_readable((char *)mem.host + 2 * HUGE));
		/* reserved before anybody touches them, the used ones only */
		assert_int_equal(free_huge_pages(HUGE), PAGES - 2);
		fill(&mem, 0, 2 * HUGE, 9);
		assert_int_equal(free_huge_pages(HUGE), PAGES - 2);
		assert_ok(gr__mem_resize(&mem, PAGES * HUGE));
		assert_int_equal(free_huge_pages(HUGE), 0);
		fill(&mem, 2 * HUGE, 2 * HUGE, 9);
		assert_true(is_filled(&mem, 0, PAGES * HUGE, 9));
		assert_ok(gr__mem_resize(&mem, HUGE));
		assert_int_equal(free_huge_pages(HUGE), PAGES - 1);
		assert_true(is_filled(&mem, 0, HUGE, 9));
		assert_false(is_readable((char *)mem.host + HUGE));
		assert_int_equal(gr__mem_resize(&mem, HUGE + PAGE), -EINVAL);
		gr__mem_release(&mem);
		assert_int_equal(free_huge_pages(HUGE), PAGES);
		assert_same_state(&before);
	}
}

static void test_P29_discard_of_huge_pages(void **unused)
{
	static struct state before;
	struct gr__mem mem;
	size_t kind;

	for (kind = 0; kind < COUNT_OF(kinds); kind++) {
		struct gr_block_opts opts = opts_of(kind);

		map_ok(&opts, &mem);
		fill(&mem, 0, PAGES * HUGE, 4);
		assert_int_equal(free_huge_pages(HUGE), 0);
		take_state(&before);
		assert_int_equal(gr__mem_discard(&mem, PAGE, HUGE), -ERANGE);
		assert_ok(gr__mem_discard(&mem, HUGE, 2 * HUGE));
		assert_same_state(&before);
		/* Free, or reserved again for a private mapping, as the kernel's version has it */
		if (mem.flags & GR_SHARED)
			assert_int_equal(free_huge_pages(HUGE), 2);
		assert_true(is_filled(&mem, 0, HUGE, 4));
		assert_true(is_zero(&mem, HUGE, 2 * HUGE));
		assert_true(is_filled(&mem, 3 * HUGE, HUGE, 4));
		gr__mem_release(&mem);
	}
}

/* Q31: an exhausted pool is -ENOMEM at creation and at growth, with the way out. */
static void test_Q31_exhausted_pool(void **unused)
{
	static struct state before;
	struct gr__mem mem, most;
	size_t kind, prealloc;

	take_state(&before);
	for (kind = 0; kind < COUNT_OF(kinds); kind++)
		for (prealloc = 0; prealloc < 2; prealloc++) {
			struct gr_block_opts opts = opts_of(kind);

			opts.flags |= prealloc ? GR_PREALLOC : 0;
			opts.length = (PAGES + 1) * HUGE;
			assert_int_equal(gr__mem_map(&opts, &mem), -ENOMEM);
			assert_non_null(strstr(gr_last_error(), "nr_hugepages"));
			assert_int_equal(free_huge_pages(HUGE), PAGES);
			assert_same_state(&before);

			/* untouched, and yet nobody else gets them */
			opts.length = (PAGES - 1) * HUGE;
			opts.max_length = 2 * PAGES * HUGE;
			map_ok(&opts, &most);
			opts.length = 2 * HUGE;
			assert_int_equal(gr__mem_map(&opts, &mem), -ENOMEM);
			assert_int_equal(gr__mem_resize(&most, (PAGES + 1) * HUGE), -ENOMEM);
			assert_int_equal(most.length, (PAGES - 1) * HUGE);
			assert_int_equal(free_huge_pages(HUGE), 1);
			assert_ok(gr__mem_resize(&most, PAGES * HUGE));
			fill(&most, 0, PAGES * HUGE, 0); /* dies here of SIGBUS if it was not so */
			gr__mem_release(&most);
			assert_same_state(&before);
		}
	assert_int_equal(free_huge_pages(HUGE), PAGES);
}

static void test_refused_with_huge_pages(void **unused)
{
	static const struct {
		uint64_t page_size, fd_offset;
		unsigned flags;
		int rc;
	} rows[] = {
		{4096, 0, 0, -EINVAL},
		{GIB, 0, 0, -EINVAL},
		{0, PAGE, 0, -EINVAL},
		{0, HUGE - 1, 0, -EINVAL},
		{0, 0, GR_THP, -EINVAL},
		{0, 0, GR_MERGEABLE, -EINVAL},
		{HUGE, HUGE, GR_NO_DUMP | GR_NO_FORK | GR_LOCKED | GR_PREALLOC, 0},
	};
	static struct state before;
	struct gr__mem mem;
	size_t i;

	take_state(&before);
	for (i = 0; i < COUNT_OF(rows); i++) {
		struct gr_block_opts opts = {
			.name = "huge",
			.backing = GR_BACKING_FILE,
			.path = mounted,
			.flags = GR_TEMPORARY | rows[i].flags,
			.length = HUGE,
			.page_size = rows[i].page_size,
			.fd_offset = rows[i].fd_offset,
		};
		int rc = gr__mem_map(&opts, &mem);

		assert_int_equal(rc, rows[i].rc);
		if (!rc) {
			assert_true(has_vm_flag(mem.host, "dd") && has_vm_flag(mem.host, "dc"));
			gr__mem_release(&mem);
		}
		assert_same_state(&before);
	}
}

/* P5: a size that rounds up past 2^64 on a huge page. */
static void test_P5_rounding_wraps(void **unused)
{
	struct gr_block_opts opts = {.name = "P5", .page_size = GIB};
	struct gr__mem mem;
	uint64_t length;

	for (length = UINT64_MAX; length > UINT64_MAX - GIB + 1; length -= 100 * MIB) {
		opts.length = length;
		assert_int_equal(gr__mem_map(&opts, &mem), -ERANGE);
	}
}

static void test_pages_of_1_GiB(void **unused)
{
	struct gr_block_opts opts = {.name = "gigantic", .length = 5, .page_size = GIB};
	struct gr__mem mem;

	put_huge_pages();
	if (!get_huge_pages(GIB, 1)) {
		assert_true(get_huge_pages(HUGE, PAGES));
		skip();
	}
	map_ok(&opts, &mem);
	assert_int_equal(mem.length, GIB);
	assert_int_equal((uintptr_t)mem.host % GIB, 0);
	assert_int_equal(free_huge_pages(GIB), 0);
	gr__mem_release(&mem);
	opts.backing = GR_BACKING_MEMFD;
	map_ok(&opts, &mem);
	fill(&mem, GIB - HUGE, HUGE, 0);
	assert_ok(gr__mem_discard(&mem, 0, GIB));
	assert_int_equal(free_huge_pages(GIB), 1);
	gr__mem_release(&mem);
	put_huge_pages();
	assert_true(get_huge_pages(HUGE, PAGES));
}

/* As on a machine whose pool is not ours to set: what there is not is said before anything is made.
 */
static int set_up(void **unused)
{
	if (!get_huge_pages(HUGE, PAGES))
		return -1;
	if (mount_private("hugetlbfs", "pagesize=2M", mounted, sizeof(mounted)))
		return 0;
	put_huge_pages();
	return -1;
}

static int tear_down(void **unused)
{
	unmount_private(mounted);
	put_huge_pages();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_huge_pages_are_taken_reserved_and_given_back),
		cmocka_unit_test(test_P29_discard_of_huge_pages),
		cmocka_unit_test(test_Q31_exhausted_pool),
		cmocka_unit_test(test_refused_with_huge_pages),
		cmocka_unit_test(test_P5_rounding_wraps),
		cmocka_unit_test(test_pages_of_1_GiB),
	};

	if (set_up(NULL) < 0)
		return 77; /* skipped, in the words of the test runner */
	return cmocka_run_group_tests(tests, NULL, tear_down);
}
