/* SPDX-License-Identifier: MIT */
/* P29, Q19, Q31, Q35: pages that are given back, and pages that are not to be had. */
#include "case.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int make_memfd(uint64_t size)
{
	int fd = memfd_create("case", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static uint64_t bytes_in_file(int fd)
{
	struct stat file;

	assert_int_equal(fstat(fd, &file), 0);
	return (uint64_t)file.st_blocks * 512;
}

static uint64_t count_resident(void *addr, uint64_t length)
{
	unsigned char resident[256];
	uint64_t pages = length / PAGE, count = 0, i;

	assert_true(pages <= sizeof(resident));
	assert_int_equal(mincore(addr, length, resident), 0);
	for (i = 0; i < pages; i++)
		count += resident[i] & 1;
	return count;
}

/* -------------------------------------------------------------------------- P29, Q19, Q35 */

static void vm_flags(const void *addr, char *flags, size_t size)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	unsigned long first, end;
	bool inside = false;
	char line[512];

	assert_non_null(file);
	flags[0] = '\0';
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &first, &end) == 2) {
			inside = first <= (uintptr_t)addr && (uintptr_t)addr < end;
			if (inside) /* rights, offset, file */
				snprintf(flags, size, "%lx-%lx%s", first, end, strchr(line, ' '));
		} else if (inside && !strncmp(line, "VmFlags:", 8)) {
			strncat(flags, line, size - strlen(flags) - 1);
		}
	}
	fclose(file);
}

static const char pool_path[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
static long pool_before = -1; /* what put_huge_pages() restores */

static long read_pool(void)
{
	FILE *file = fopen(pool_path, "re");
	long count = -1;

	if (!file)
		return -1;
	if (fscanf(file, "%ld", &count) != 1)
		count = -1;
	fclose(file);
	return count;
}

static void write_pool(long count)
{
	FILE *file = fopen(pool_path, "we");

	if (!file)
		return;
	fprintf(file, "%ld\n", count);
	fclose(file);
}

/* False: told why. */
static bool get_huge_pages(long count)
{
	pool_before = read_pool();
	if (pool_before >= 0)
		write_pool(count);
	if (read_pool() == count)
		return true;
	print_message("           skipped: no %ld huge pages to be had\n", count);
	return false;
}

/* Runs after a test that failed, too. */
static int put_huge_pages(void **unused)
{
	if (pool_before >= 0)
		write_pool(pool_before);
	pool_before = -1;
	return 0;
}

struct kind {
	const char *name;
	enum gr_backing backing;
	unsigned flags;
	uint64_t page_size, fd_offset;
	bool has_file; /* of ours: it gets the fd of one with 'f' in it */
	char after;    /* a discarded byte */
	bool frees;    /* memory of a file, counted by st_blocks */
};

static void check_discard(const struct kind *kind)
{
	enum { PAGES = 8 };
	const uint64_t page = kind->page_size ? kind->page_size : PAGE;
	struct gr_ram *ram = case_ram();
	int fd = kind->has_file ? make_memfd(kind->fd_offset + (PAGES + 2) * page) : 0;
	struct gr_block_opts opts = {
		.name = "x",
		.backing = kind->backing,
		.flags = kind->flags,
		.page_size = kind->page_size,
		.fd = fd,
		.fd_offset = kind->fd_offset,
		.length = PAGES * page,
	};
	struct gr_block_info info;
	char flags[1024], now[1024], byte;
	struct gr_block *block;
	uint64_t held = 0, resident, i;
	char *host;

	if (fd) {
		for (i = 0; i < (PAGES + 2) * page; i += PAGE)
			assert_int_equal(pwrite(fd, "f", 1, (off_t)(kind->fd_offset + i)), 1);
		if (kind->fd_offset)
			assert_int_equal(pwrite(fd, "b", 1, 0), 1);
	}
	assert_ok(gr_block_new(ram, &opts, &block));
	gr_block_get_info(block, &info);
	host = info.host;
	memset(host, 'd', PAGES * page);
	vm_flags(host, flags, sizeof(flags));
	resident = page == PAGE ? count_resident(host, PAGES * page) : 0;
	if (kind->frees)
		held = bytes_in_file(info.fd);

	assert_ok(gr_block_discard(block, 2 * page, 3 * page));
	if (kind->frees)
		assert_int_equal(bytes_in_file(info.fd), held - 3 * page);
	/* private pages of a file stay in the page cache, which is not ours */
	if (page == PAGE && !(kind->has_file && !(kind->flags & GR_SHARED)))
		assert_int_equal(count_resident(host, PAGES * page), resident - 3);
	for (i = 0; i < PAGES; i++) {
		char expect = i >= 2 && i < 5 ? kind->after : 'd';

		if (host[i * page] != expect)
			fail_msg("%s: page %d has %d", kind->name, (int)i, host[i * page]);
		if (!kind->has_file && host[(i + 1) * page - 1] != expect)
			fail_msg("%s: the end of page %d", kind->name, (int)i);
	}
	vm_flags(host, now, sizeof(now));
	assert_string_equal(flags, now); /* and no piece of it became a mapping of its own */
	if (fd) {
		/* neighbours in the file: what lies before and behind the block */
		for (i = 0; i < 2; i++) {
			assert_int_equal(
				pread(fd, &byte, 1, (off_t)(kind->fd_offset + (PAGES + i) * page)),
				1);
			assert_int_equal(byte, 'f');
		}
		if (kind->fd_offset) {
			assert_int_equal(pread(fd, &byte, 1, 0), 1);
			assert_int_equal(byte, 'b');
		}
		assert_int_equal(pread(fd, &byte, 1, (off_t)(kind->fd_offset + 2 * page)), 1);
		assert_int_equal(byte, kind->flags & GR_SHARED ? 0 : 'f');
	}
	/* what was discarded is ordinary memory again */
	memset(host + 2 * page, 'n', page);
	assert_int_equal(host[3 * page - 1], 'n');
	/* the edges, and what is refused changes nothing */
	assert_ok(gr_block_discard(block, 0, page));
	assert_ok(gr_block_discard(block, 7 * page, page));
	assert_int_equal(host[page], 'd');
	assert_int_equal(host[6 * page], 'd');
	assert_int_equal(gr_block_discard(block, page / 2, page), -EINVAL);
	assert_int_equal(gr_block_discard(block, page, page / 2), -EINVAL);
	assert_int_equal(gr_block_discard(block, 7 * page, 2 * page), -ERANGE);
	assert_int_equal(gr_block_discard(block, 8 * page, page), -ERANGE);
	assert_int_equal(gr_block_discard(block, UINT64_MAX - page + 1, page), -ERANGE);
	assert_int_equal(host[page], 'd');
	case_close(ram);
	if (fd)
		close(fd);
}

static void p29_q19_q35_discard_frees_memory_and_leaves_the_neighbours(void **unused)
{
	static const struct kind kinds[] = {
		{"private anon", GR_BACKING_ANON, 0, 0, 0, false, 0, false},
		{"private anon, locked", GR_BACKING_ANON, GR_LOCKED, 0, 0, false, 0, false},
		{"shared anon", GR_BACKING_ANON, GR_SHARED, 0, 0, false, 0, false},
		{"private anon with flags", GR_BACKING_ANON,
		 GR_NO_DUMP | GR_NO_FORK | GR_MERGEABLE | GR_NO_THP, 0, 0, false, 0, false},
		{"memfd", GR_BACKING_MEMFD, 0, 0, 0, false, 0, true},
		{"shared file", GR_BACKING_FILE, GR_SHARED, 0, 0, true, 0, true},
		{"shared file at an offset", GR_BACKING_FILE, GR_SHARED, 0, 3 * GIB + 5 * PAGE,
		 true, 0, true},
		{"private file", GR_BACKING_FILE, 0, 0, 0, true, 'f', false},
		{"private file at an offset", GR_BACKING_FILE, 0, 0, 7 * PAGE, true, 'f', false},
	};
	size_t i;

	for (i = 0; i < COUNT_OF(kinds); i++)
		check_discard(&kinds[i]);
}

static void p29_q35_discard_of_huge_pages(void **unused)
{
	static const struct kind kinds[] = {
		{"private huge pages", GR_BACKING_ANON, 0, 2 * MIB, 0, false, 0, false},
		{"shared huge pages", GR_BACKING_ANON, GR_SHARED, 2 * MIB, 0, false, 0, false},
		{"memfd of huge pages", GR_BACKING_MEMFD, 0, 2 * MIB, 0, false, 0, true},
	};
	size_t i;

	if (!get_huge_pages(12))
		skip();
	for (i = 0; i < COUNT_OF(kinds); i++)
		check_discard(&kinds[i]);
}

/* ------------------------------------------------------------------------------------ Q31 */

/* Runs @fn in a child, where a SIGBUS or a file system of our own harms nobody. */
static int in_child(int (*fn)(void))
{
	pid_t child;
	int status;

	fflush(NULL);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		signal(SIGBUS, SIG_DFL);
		alarm(20);
		_exit(fn());
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFSIGNALED(status))
		fail_msg("the child died of signal %d", WTERMSIG(status));
	return WEXITSTATUS(status);
}

/* 0 as it should be, 77 skipped, else the number of the step that was wrong. */
static int fill_small_shm(void)
{
	struct gr_block_opts opts = {
		.name = "x",
		.backing = GR_BACKING_FILE,
		.flags = GR_TEMPORARY | GR_SHARED | GR_PREALLOC,
		.path = "/dev/shm",
		.length = 4 * MIB,
	};
	struct gr_block *block = NULL;
	struct gr_ram *ram;
	unsigned i;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", "/dev/shm", "tmpfs", 0, "size=1m") < 0)
		return 77;
	if (gr_ram_open(NULL, &ram) < 0)
		return 1;
	if (gr_block_new(ram, &opts, &block) != -ENOSPC || block)
		return 2;
	opts.length = MIB; /* what was taken in vain is there again */
	if (gr_block_new(ram, &opts, &block) < 0)
		return 3;
	{
		struct gr_block_info info;

		gr_block_get_info(block, &info);
		for (i = 0; i < MIB; i += PAGE)
			((volatile char *)info.host)[i] = 1;
	}
	opts.name = "y";
	opts.length = PAGE;
	if (gr_block_new(ram, &opts, &block) != -ENOSPC)
		return 4;
	return gr_ram_close(ram) < 0 ? 5 : 0;
}

static int grow_in_small_shm(void)
{
	struct gr_block_opts opts = {
		.name = "x",
		.backing = GR_BACKING_FILE,
		.flags = GR_TEMPORARY | GR_SHARED | GR_PREALLOC,
		.path = "/dev/shm",
		.length = 512 * KIB,
		.max_length = 2 * MIB,
	};
	struct gr_block *block;
	struct gr_block_info info;
	struct gr_ram *ram;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", "/dev/shm", "tmpfs", 0, "size=1m") < 0)
		return 77;
	if (gr_ram_open(NULL, &ram) < 0 || gr_block_new(ram, &opts, &block) < 0)
		return 1;
	if (gr_block_resize(block, 2 * MIB) != -ENOSPC)
		return 2;
	gr_block_get_info(block, &info);
	if (info.length != 512 * KIB || bytes_in_file(info.fd) != 512 * KIB)
		return 3;
	if (gr_block_resize(block, MIB) < 0)
		return 4;
	((volatile char *)info.host)[MIB - 1] = 1;
	return gr_ram_close(ram) < 0 ? 5 : 0;
}

static void assert_child(int (*fn)(void))
{
	int rc = in_child(fn);

	if (rc == 77) {
		print_message("           skipped: needs CAP_SYS_ADMIN or huge pages\n");
		skip();
	}
	assert_int_equal(rc, 0);
}

static void q31_full_shm_is_enospc_at_creation(void **unused)
{
	assert_child(fill_small_shm);
}

static void q31_full_shm_is_enospc_when_growing(void **unused)
{
	assert_child(grow_in_small_shm);
}

/* Not even a touch later: pages that a block was promised are reserved when it is made. */
static void q31_exhausted_huge_pages_are_enomem_at_creation(void **unused)
{
	enum { POOL = 4 };
	static const unsigned flags[] = {0, GR_PREALLOC, GR_SHARED, GR_SHARED | GR_PREALLOC};
	static const enum gr_backing kinds[] = {GR_BACKING_ANON, GR_BACKING_MEMFD};
	static struct process_state state;
	struct gr_ram *ram = case_ram();
	size_t i, k;

	if (!get_huge_pages(POOL)) {
		case_close(ram);
		skip();
	}
	process_take(&state);
	for (k = 0; k < COUNT_OF(kinds); k++)
		for (i = 0; i < COUNT_OF(flags); i++) {
			struct gr_block_opts opts = {
				.name = "x",
				.backing = kinds[k],
				.flags = flags[i],
				.length = (POOL + 2) * 2 * MIB,
				.page_size = 2 * MIB,
			};
			struct gr_block *block = NULL, *second = NULL;

			assert_int_equal(gr_block_new(ram, &opts, &block), -ENOMEM);
			assert_null(block);
			assert_same_process(&state);
			/* all of them can be had, and then no more; each can be touched */
			opts.length = POOL * 2 * MIB;
			assert_ok(gr_block_new(ram, &opts, &block));
			opts.name = "y";
			opts.length = 2 * MIB;
			assert_int_equal(gr_block_new(ram, &opts, &second), -ENOMEM);
			memset(case_host(block), 1, POOL * 2 * MIB);
			assert_ok(gr_block_delete(block));
			case_drain(ram);
			assert_same_process(&state);
		}
	case_close(ram);
}

static void q31_preallocated_memory_is_there(void **unused)
{
	static const struct {
		enum gr_backing backing;
		unsigned flags;
		const char *path;
	} kinds[] = {
		{GR_BACKING_ANON, 0, NULL},
		{GR_BACKING_ANON, GR_SHARED, NULL},
		{GR_BACKING_MEMFD, 0, NULL},
		{GR_BACKING_FILE, GR_TEMPORARY | GR_SHARED, "/dev/shm"},
		{GR_BACKING_FILE, GR_TEMPORARY, "/tmp"},
	};
	size_t i;

	for (i = 0; i < COUNT_OF(kinds); i++) {
		struct gr_ram *ram = case_ram();
		struct gr_block_opts opts = {
			.name = "x",
			.backing = kinds[i].backing,
			.flags = kinds[i].flags | GR_PREALLOC,
			.path = kinds[i].path,
			.length = 64 * PAGE,
			.max_length = 128 * PAGE,
			.prealloc_threads = 1 + (unsigned)i % 3,
		};
		struct gr_block *block;
		struct gr_block_info info;

		assert_ok(gr_block_new(ram, &opts, &block));
		assert_int_equal(count_resident(case_host(block), 64 * PAGE), 64);
		assert_ok(gr_block_resize(block, 128 * PAGE));
		assert_int_equal(count_resident(case_host(block), 128 * PAGE), 128);
		gr_block_get_info(block, &info);
		if (info.fd >= 0 && info.flags & GR_SHARED)
			assert_int_equal(bytes_in_file(info.fd), 128 * PAGE);
		case_close(ram);
	}
}

static void q31_preallocation_of_more_than_the_machine_has_is_enomem(void **unused)
{
	struct gr_block_opts opts = {
		.name = "x",
		.flags = GR_PREALLOC,
		.length = UINT64_C(1) << 45,
	};
	static struct process_state before;
	struct gr_ram *ram = case_ram();
	struct gr_block *block = NULL;

	process_take(&before);
	assert_int_equal(gr_block_new(ram, &opts, &block), -ENOMEM);
	opts.backing = GR_BACKING_MEMFD;
	assert_int_equal(gr_block_new(ram, &opts, &block), -ENOMEM);
	assert_same_process(&before);
	case_close(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p29_q19_q35_discard_frees_memory_and_leaves_the_neighbours),
		cmocka_unit_test_teardown(p29_q35_discard_of_huge_pages, put_huge_pages),
		cmocka_unit_test(q31_full_shm_is_enospc_at_creation),
		cmocka_unit_test(q31_full_shm_is_enospc_when_growing),
		cmocka_unit_test_teardown(q31_exhausted_huge_pages_are_enomem_at_creation,
					  put_huge_pages),
		cmocka_unit_test(q31_preallocated_memory_is_there),
		cmocka_unit_test(q31_preallocation_of_more_than_the_machine_has_is_enomem),
	};

	case_watchdog(60);
	return cmocka_run_group_tests_name("discard", tests, NULL, NULL);
}
