/* SPDX-License-Identifier: MIT */
/*
 * P29 Q19 Q35: giving pages back, by discard and by shrinking, on every kind of memory: reads as it
 * should, is really free, and nothing else has changed.
 */
#include "backing_util.h"

#define PAGES 16
#define LENGTH (PAGES * PAGE)
#define FILE_OFFSET (3 * PAGE)

static const struct {
	const char *name;
	enum gr_backing backing;
	unsigned flags;
	const char *path;
} kinds[] = {
	{"private anon", GR_BACKING_ANON, 0, NULL},
	{"private anon, locked", GR_BACKING_ANON, GR_LOCKED, NULL},
	{"shared anon", GR_BACKING_ANON, GR_SHARED, NULL},
	{"shared anon, locked", GR_BACKING_ANON, GR_SHARED | GR_LOCKED, NULL},
	{"memfd", GR_BACKING_MEMFD, 0, NULL},
	{"memfd, locked", GR_BACKING_MEMFD, GR_LOCKED, NULL},
	{"unsealed memfd", GR_BACKING_MEMFD, GR_UNSEALED, NULL},
	{"private file", GR_BACKING_FILE, GR_TEMPORARY, "/tmp"},
	{"private file, locked", GR_BACKING_FILE, GR_TEMPORARY | GR_LOCKED, "/tmp"},
	{"shared file", GR_BACKING_FILE, GR_TEMPORARY | GR_SHARED, "/tmp"},
	{"shared file in shm", GR_BACKING_FILE, GR_TEMPORARY | GR_SHARED, "/dev/shm"},
};

static void map_kind(size_t kind, struct gr__mem *mem)
{
	struct gr_block_opts opts = {
		.name = "discarded",
		.backing = kinds[kind].backing,
		.flags = kinds[kind].flags,
		.path = kinds[kind].path,
		.length = LENGTH / 2,
		.max_length = LENGTH,
		.fd_offset = kinds[kind].backing == GR_BACKING_FILE ? FILE_OFFSET : 0,
	};

	/* in two pieces, so that the seam between them is tried too */
	map_ok(&opts, mem);
	assert_ok(gr__mem_resize(mem, LENGTH));
	fill(mem, 0, LENGTH, 1);
	assert_int_equal(count_resident(mem->host, LENGTH), PAGES);
}

/* Pages that hold memory of the block, be it mapped or in its file. */
static uint64_t pages_held(const struct gr__mem *mem)
{
	if (mem->fd < 0 || !(mem->flags & GR_SHARED))
		return count_resident(mem->host, LENGTH);
	/* allocated late on disk, so ask for it to be written */
	fsync(mem->fd);
	return bytes_on_disk(mem->fd) / PAGE;
}

/* The bits of /proc/self/pagemap for present or swapped: private memory of this process's own. */
static uint64_t private_pages(const struct gr__mem *mem)
{
	uint64_t entries[PAGES], count = 0, i;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, entries, sizeof(entries), (uintptr_t)mem->host / PAGE * 8),
			 sizeof(entries));
	close(fd);
	for (i = 0; i < PAGES; i++) /* present, and not of a file */
		count += entries[i] >> 63 && !(entries[i] >> 61 & 1);
	return count;
}

static void test_P29_Q19_Q35_discard(void **unused)
{
	static const struct {
		uint64_t first, count;
	} rows[] = {{0, 1}, {7, 2}, {3, 4}, {15, 1}, {0, PAGES}, {4, 0}};
	static struct state before, empty;
	size_t kind, i;

	take_state(&empty);
	for (kind = 0; kind < COUNT_OF(kinds); kind++)
		for (i = 0; i < COUNT_OF(rows); i++) {
			uint64_t offset = rows[i].first * PAGE, length = rows[i].count * PAGE;
			struct gr__mem mem;

			map_kind(kind, &mem);
			take_state(&before);
			assert_int_equal(pages_held(&mem), PAGES);
			assert_ok(gr__mem_discard(&mem, offset, length));
			if (!(kinds[kind].flags & GR_LOCKED))
				assert_same_state(&before); /* mapping, access, offsets */
			if (mem.backing == GR_BACKING_FILE && !(mem.flags & GR_SHARED))
				assert_int_equal(private_pages(&mem), PAGES - rows[i].count);
			else
				assert_int_equal(pages_held(&mem), PAGES - rows[i].count);
			assert_true(is_filled(&mem, 0, offset, 1));
			if (length)
				assert_true(is_zero(&mem, offset, length));
			assert_true(is_filled(&mem, offset + length, LENGTH - offset - length, 1));
			assert_locked((char *)mem.host + offset, kinds[kind].flags & GR_LOCKED);
			fill(&mem, offset, length, 2);
			assert_true(is_filled(&mem, offset, length, 2));
			gr__mem_release(&mem);
			assert_same_state(&empty);
		}
}

/* A private file reads as the file again, and the file has never changed. */
static void test_P29_private_file_reads_as_the_file_again(void **unused)
{
	char path[] = "/tmp/guestram-test-XXXXXX", page[PAGE];
	int fd = mkostemp(path, O_CLOEXEC), i;
	struct gr_block_opts opts = {
		.name = "private",
		.backing = GR_BACKING_FILE,
		.path = path,
		.length = 3 * PAGE,
		.fd_offset = PAGE,
	};
	struct gr__mem mem;
	char *host;

	assert_true(fd >= 0);
	for (i = 0; i < 4; i++) {
		memset(page, 'a' + i, sizeof(page));
		assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
	}
	map_ok(&opts, &mem);
	host = mem.host;
	memset(host, 'X', 3 * PAGE);
	assert_ok(gr__mem_discard(&mem, PAGE, PAGE));
	assert_int_equal(host[PAGE - 1], 'X');
	assert_int_equal(host[PAGE], 'c');
	assert_int_equal(host[2 * PAGE - 1], 'c');
	assert_int_equal(host[2 * PAGE], 'X');
	for (i = 0; i < 4; i++) {
		assert_int_equal(pread(fd, page, 1, i * PAGE), 1);
		assert_int_equal(page[0], 'a' + i);
	}
	gr__mem_release(&mem);
	close(fd);
	unlink(path);
}

static void test_discard_of_what_is_not_pages_of_it(void **unused)
{
	static const struct {
		uint64_t offset, length;
	} rows[] = {
		{LENGTH, PAGE},
		{0, LENGTH + PAGE},
		{PAGE, UINT64_MAX - PAGE + 1},
		{1, PAGE},
		{0, 1},
		{UINT64_MAX - PAGE + 1, PAGE},
		{UINT64_MAX, 2 * PAGE},
	};
	struct gr__mem mem;
	size_t kind, i;

	for (kind = 0; kind < COUNT_OF(kinds); kind++) {
		map_kind(kind, &mem);
		for (i = 0; i < COUNT_OF(rows); i++)
			assert_int_equal(gr__mem_discard(&mem, rows[i].offset, rows[i].length),
					 -ERANGE);
		assert_true(is_filled(&mem, 0, LENGTH, 1));
		gr__mem_release(&mem);
	}
}

static void test_shrinking_frees_and_hides_the_tail(void **unused)
{
	static const uint64_t pages[] = {PAGES - 1, PAGES / 2, 3, 1};
	static struct state before, empty;
	size_t kind, i, old;

	take_state(&empty);
	for (kind = 0; kind < COUNT_OF(kinds); kind++)
		for (i = 0; i < COUNT_OF(pages); i++)
			for (old = 0; old < 2; old++) {
				uint64_t length = pages[i] * PAGE;
				struct gr__mem mem;
				char *host;

				map_kind(kind, &mem);
				host = mem.host;
				take_state(&before);
				if (old) /* the kernel refuses once, as it did before 6.7 */
					arm_fault(kinds[kind].flags & GR_LOCKED ? 3 : 2, EACCES);
				if (old && (!(mem.flags & GR_SHARED) || mem.fd >= 0))
					disarm_faults();
				assert_ok(gr__mem_resize(&mem, length));
				if (old && mem.flags & GR_SHARED && mem.fd < 0)
					assert_string_equal(fired_fault(), "madvise.remove");
				disarm_faults();
				assert_int_equal(mem.length, length);
				assert_false(is_readable(host + length));
				assert_false(is_readable(host + LENGTH - 1));
				assert_true(is_filled(&mem, 0, length, 1));
				if (mem.fd >= 0 && mem.flags & GR_SHARED)
					assert_int_equal(pages_held(&mem), pages[i]);
				/* what comes back is empty, and the mappings are as before */
				assert_ok(gr__mem_resize(&mem, LENGTH));
				assert_true(is_zero(&mem, length, LENGTH - length));
				assert_true(is_filled(&mem, 0, length, 1));
				if (mem.fd >= 0)
					assert_same_state(&before);
				gr__mem_release(&mem);
				assert_same_state(&empty);
			}
}

/* Shared anonymous memory has no descriptor to ask: its pages are the process's Shmem. */
static long shared_kib(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128];
	long kib = -1;

	assert_non_null(file);
	while (kib < 0 && fgets(line, sizeof(line), file))
		sscanf(line, "Shmem: %ld", &kib);
	fclose(file);
	return kib;
}

static void test_shrinking_shared_anonymous_memory_frees_it(void **unused)
{
	struct gr_block_opts opts = {.name = "freed", .flags = GR_SHARED, .length = 256 * MIB};
	long empty = shared_kib(), full;
	struct gr__mem mem;

	map_ok(&opts, &mem);
	fill(&mem, 0, mem.length, 0);
	full = shared_kib();
	assert_ok(gr__mem_resize(&mem, PAGE));
	/* others use such memory too: half of it is enough to tell */
	assert_true(full - empty > 128 * 1024);
	assert_true(full - shared_kib() > 128 * 1024);
	gr__mem_release(&mem);
}

static void test_resize_limits(void **unused)
{
	static struct state before;
	struct gr__mem mem;
	size_t kind;

	for (kind = 0; kind < COUNT_OF(kinds); kind++) {
		map_kind(kind, &mem);
		take_state(&before);
		assert_int_equal(gr__mem_resize(&mem, 0), -EINVAL);
		assert_int_equal(gr__mem_resize(&mem, PAGE + 1), -EINVAL);
		assert_int_equal(gr__mem_resize(&mem, LENGTH + PAGE), -ERANGE);
		assert_int_equal(gr__mem_resize(&mem, UINT64_MAX - PAGE + 1), -ERANGE);
		assert_int_equal(gr__mem_resize(&mem, LENGTH), 0);
		assert_same_state(&before);
		assert_true(is_filled(&mem, 0, LENGTH, 1));
		gr__mem_release(&mem);
	}
}

/* Growing and shrinking for ever needs no more maps than once. */
static void test_a_thousand_resizes_leave_no_trace(void **unused)
{
	static struct state before;
	struct gr__mem mem;
	size_t kind;
	int i;

	for (kind = 0; kind < COUNT_OF(kinds); kind++) {
		map_kind(kind, &mem);
		assert_ok(gr__mem_resize(&mem, PAGE));
		take_state(&before);
		for (i = 0; i < 1000; i++)
			assert_ok(gr__mem_resize(&mem, i % 2 ? PAGE : LENGTH));
		assert_same_state(&before);
		gr__mem_release(&mem);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_P29_Q19_Q35_discard),
		cmocka_unit_test(test_P29_private_file_reads_as_the_file_again),
		cmocka_unit_test(test_discard_of_what_is_not_pages_of_it),
		cmocka_unit_test(test_shrinking_frees_and_hides_the_tail),
		cmocka_unit_test(test_shrinking_shared_anonymous_memory_frees_it),
		cmocka_unit_test(test_resize_limits),
		cmocka_unit_test(test_a_thousand_resizes_leave_no_trace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
