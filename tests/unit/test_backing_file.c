/* SPDX-License-Identifier: MIT */
/* Files and memfds: who makes them, how long they are, who may change that, and what is on disk. */
#include "backing_util.h"

static char directory[64], path[96];

static int make_place(void **unused)
{
	make_directory(directory, sizeof(directory));
	snprintf(path, sizeof(path), "%s/ram", directory);
	return 0;
}

static int remove_place(void **unused)
{
	return rmdir(directory);
}

static struct gr_block_opts file_opts(unsigned flags)
{
	return (struct gr_block_opts){
		.name = "file",
		.backing = GR_BACKING_FILE,
		.flags = flags,
		.path = path,
		.length = 2 * PAGE,
	};
}

static uint64_t size_of_file(const char *name)
{
	struct stat file;

	assert_int_equal(stat(name, &file), 0);
	return file.st_size;
}

/* A file of @pages pages, each full of its number plus 1. */
static int make_file(const char *name, uint64_t pages)
{
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	char content[4096];
	uint64_t i;

	assert_true(fd >= 0);
	for (i = 0; i < pages; i++) {
		memset(content, i + 1, sizeof(content));
		assert_int_equal(write(fd, content, sizeof(content)), sizeof(content));
	}
	return fd;
}

static void test_created_file_keeps_what_is_stored(void **unused)
{
	struct gr_block_opts opts = file_opts(GR_CREATE | GR_SHARED);
	struct gr__mem mem;
	struct stat file;

	opts.max_length = 4 * PAGE;
	opts.fd_offset = PAGE;
	map_ok(&opts, &mem);
	assert_int_equal(stat(path, &file), 0);
	assert_int_equal(file.st_size, 5 * PAGE);
	assert_int_equal(file.st_mode & 0777, 0600);
	assert_true(mem.resizable);
	fill(&mem, 0, 2 * PAGE, 3);
	gr__mem_release(&mem);

	/* again: it is there and not empty, so it stays as it is */
	map_ok(&opts, &mem);
	assert_true(is_filled(&mem, 0, 2 * PAGE, 3));
	assert_false(mem.resizable);
	assert_int_equal(gr__mem_resize(&mem, 4 * PAGE), -ENOTSUP);
	assert_int_equal(gr__mem_resize(&mem, PAGE), -ENOTSUP);
	gr__mem_undo(&mem); /* not ours, so it is not removed */
	assert_int_equal(size_of_file(path), 5 * PAGE);
	assert_int_equal(unlink(path), 0);
}

static void test_undo_removes_what_was_created(void **unused)
{
	struct gr_block_opts opts = file_opts(GR_CREATE | GR_SHARED);
	struct gr__mem mem;
	int fd;

	map_ok(&opts, &mem);
	gr__mem_undo(&mem);
	assert_true(is_empty_directory(directory));

	/* an empty file that was there is empty again */
	fd = make_file(path, 0);
	map_ok(&opts, &mem);
	assert_int_equal(size_of_file(path), 2 * PAGE);
	gr__mem_undo(&mem);
	assert_int_equal(size_of_file(path), 0);

	/* another file under that name is not ours to remove */
	assert_int_equal(unlink(path), 0);
	close(fd);
	map_ok(&opts, &mem);
	assert_int_equal(unlink(path), 0);
	fd = make_file(path, 1);
	gr__mem_undo(&mem);
	assert_int_equal(size_of_file(path), PAGE);
	assert_int_equal(unlink(path), 0);
	close(fd);
}

static void test_temporary_file_has_no_name(void **unused)
{
	static const char *const places[] = {directory, "/dev/shm"};
	struct gr__mem mem;
	struct stat file;
	char link[32];
	size_t i, old;

	for (i = 0; i < COUNT_OF(places); i++)
		for (old = 0; old < 2; old++) {
			struct gr_block_opts opts = file_opts(GR_TEMPORARY | GR_SHARED);

			opts.path = places[i];
			if (old) /* as file systems without O_TMPFILE answer */
				arm_fault_by_name("open.tmpfile", EOPNOTSUPP);
			map_ok(&opts, &mem);
			disarm_faults();
			assert_int_equal(fstat(mem.fd, &file), 0);
			assert_int_equal(file.st_nlink, 0);
			assert_int_equal(file.st_mode & 0777, 0600);
			/* and cannot be given one */
			snprintf(link, sizeof(link), "/proc/self/fd/%d", mem.fd);
			assert_int_equal(linkat(AT_FDCWD, link, AT_FDCWD, path, AT_SYMLINK_FOLLOW),
					 -1);
			assert_true(is_empty_directory(directory));
			assert_true(mem.resizable);
			gr__mem_release(&mem);
		}
}

/* P28: past the end is refused with both sizes, and nothing is resized. */
static void test_P28_past_the_end_of_a_file(void **unused)
{
	static const struct {
		uint64_t size, offset, length;
		int rc;
	} rows[] = {
		{4 * PAGE, 0, 4 * PAGE, 0},
		{4 * PAGE, 0, 4 * PAGE + 1, -ERANGE},
		{4 * PAGE, 2 * PAGE, 2 * PAGE, 0},
		{4 * PAGE, 2 * PAGE, 2 * PAGE + 1, -ERANGE},
		{4 * PAGE, 3 * PAGE, PAGE, 0},
		{4 * PAGE, 4 * PAGE, PAGE, -ERANGE},
		{4 * PAGE, 5 * PAGE, PAGE, -ERANGE},
		{4 * PAGE, 1ull << 62, PAGE, -ERANGE},
		{1, 0, 1, 0}, /* a page that the file fills in part */
		{1, 0, 2, -ERANGE},
	};
	static const unsigned flags[] = {0, GR_SHARED, GR_CREATE | GR_SHARED, GR_READ_ONLY};
	static struct state before;
	struct gr__mem mem;
	size_t i, j;

	close(make_file(path, 0));
	take_state(&before);
	for (i = 0; i < COUNT_OF(rows); i++)
		for (j = 0; j < COUNT_OF(flags); j++) {
			struct gr_block_opts opts = file_opts(flags[j]);
			char number[24];
			int rc;

			assert_int_equal(truncate(path, rows[i].size), 0);
			opts.fd_offset = rows[i].offset;
			opts.length = rows[i].length;
			rc = gr__mem_map(&opts, &mem);
			assert_int_equal(rc, rows[i].rc);
			assert_int_equal(size_of_file(path), rows[i].size);
			if (rc) {
				snprintf(number, sizeof(number), "%#lx",
					 (unsigned long)rows[i].size);
				assert_non_null(strstr(gr_last_error(), number));
				snprintf(number, sizeof(number), "%#lx",
					 (unsigned long)rows[i].length);
				assert_non_null(strstr(gr_last_error(), number));
				assert_same_state(&before);
				continue;
			}
			/* every byte of it can be touched */
			assert_true(is_readable((char *)mem.host + mem.length - 1));
			gr__mem_release(&mem);
		}
	/* an empty one is no memory for who may not make it longer */
	assert_int_equal(truncate(path, 0), 0);
	for (j = 0; j < COUNT_OF(flags); j++) {
		struct gr_block_opts opts = file_opts(flags[j]);
		bool grows = flags[j] & GR_SHARED;
		int rc;

		rc = gr__mem_map(&opts, &mem);
		assert_int_equal(rc, grows ? 0 : -ERANGE);
		if (grows)
			gr__mem_undo(&mem);
		assert_int_equal(size_of_file(path), 0);
	}
	assert_same_state(&before);
	assert_int_equal(unlink(path), 0);
}

static void test_by_descriptor(void **unused)
{
	struct gr_block_opts opts = file_opts(GR_SHARED);
	struct gr__mem mem;
	int fd = make_file(path, 4), read_fd = open(path, O_RDONLY | O_CLOEXEC);
	int write_fd = open(path, O_WRONLY | O_CLOEXEC), name_fd = open(path, O_PATH | O_CLOEXEC);

	opts.path = NULL;
	opts.fd = fd;
	opts.fd_offset = 2 * PAGE;
	map_ok(&opts, &mem);
	assert_true(mem.fd >= 0 && mem.fd != fd);
	assert_int_equal(*(char *)mem.host, 3);
	assert_int_equal(((char *)mem.host)[PAGE], 4);
	gr__mem_release(&mem);
	assert_true(fcntl(fd, F_GETFD) >= 0); /* the caller keeps his */

	opts.fd = read_fd;
	assert_int_equal(gr__mem_map(&opts, &mem), -EACCES);
	assert_non_null(strstr(gr_last_error(), "writing"));
	opts.flags = GR_SHARED | GR_READ_ONLY;
	map_ok(&opts, &mem);
	assert_false(is_writable(mem.host));
	assert_int_equal(gr__mem_discard(&mem, 0, PAGE), -EACCES);
	gr__mem_release(&mem);
	opts.flags = 0; /* private: reading is enough */
	map_ok(&opts, &mem);
	*(char *)mem.host = 99;
	gr__mem_release(&mem);
	opts.fd = write_fd;
	assert_int_equal(gr__mem_map(&opts, &mem), -EACCES);
	opts.fd = name_fd;
	assert_true(gr__mem_map(&opts, &mem) < 0);
	close(write_fd);
	close(name_fd);
	close(read_fd);
	close(fd);
	assert_int_equal(unlink(path), 0);
}

/* P26: one sparse memfd, a marker in each page, blocks at offsets 0 and 3 GiB. */
static void test_P26_regions_at_offsets_of_one_memfd(void **unused)
{
	static const uint64_t offsets[] = {0, 3 * GIB};
	const uint64_t pages = 64;
	int fd = memfd_create("P26", MFD_CLOEXEC);
	struct gr__mem mem[2];
	uint64_t i, page, marker;

	assert_int_equal(ftruncate(fd, 3 * GIB + pages * PAGE), 0);
	for (i = 0; i < 2; i++)
		for (page = 0; page < pages; page++) {
			marker = offsets[i] + page;
			assert_int_equal(pwrite(fd, &marker, 8, offsets[i] + page * PAGE), 8);
		}
	for (i = 0; i < 2; i++) {
		struct gr_block_opts opts = file_opts(GR_SHARED);

		opts.path = NULL;
		opts.fd = fd;
		opts.fd_offset = offsets[i];
		opts.length = pages * PAGE;
		map_ok(&opts, &mem[i]);
		/* address space is that of the RAM, not offset + size */
		assert_int_equal(mem[i].reserved_length, pages * PAGE + PAGE);
	}
	for (i = 0; i < 2; i++)
		for (page = 0; page < pages; page++)
			assert_int_equal(*(uint64_t *)((char *)mem[i].host + page * PAGE),
					 offsets[i] + page);
	/* a discard is at the block's place in the file */
	assert_ok(gr__mem_discard(&mem[1], PAGE, PAGE));
	for (i = 0; i < 2; i++)
		for (page = 0; page < pages; page++) {
			assert_int_equal(pread(fd, &marker, 8, offsets[i] + page * PAGE), 8);
			assert_int_equal(marker, i == 1 && page == 1 ? 0 : offsets[i] + page);
		}
	gr__mem_release(&mem[0]);
	gr__mem_release(&mem[1]);
	close(fd);
}

/* P28: nobody makes our memfd shorter, or longer, or takes that away. */
static void test_P28_memfd_is_sealed(void **unused)
{
	struct gr_block_opts opts = {.name = "sealed", .backing = GR_BACKING_MEMFD};
	struct gr__mem mem;
	struct stat file;

	opts.length = 2 * PAGE;
	opts.max_length = 4 * PAGE;
	map_ok(&opts, &mem);
	assert_int_equal(ftruncate(mem.fd, PAGE), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(mem.fd, 8 * PAGE), -1);
	assert_int_equal(fcntl(mem.fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
	assert_int_equal(errno, EPERM);
	assert_ok(gr__mem_resize(&mem, 4 * PAGE)); /* we can */
	fill(&mem, 0, 4 * PAGE, 1);
	assert_ok(gr__mem_resize(&mem, PAGE));
	assert_int_equal(bytes_on_disk(mem.fd), PAGE);
	assert_int_equal(fstat(mem.fd, &file), 0);
	assert_int_equal(file.st_size, 4 * PAGE);
	gr__mem_release(&mem);

	opts.flags = GR_UNSEALED;
	map_ok(&opts, &mem);
	assert_int_equal(ftruncate(mem.fd, 8 * PAGE), 0);
	assert_int_equal(ftruncate(mem.fd, 4 * PAGE), 0);
	assert_ok(gr__mem_resize(&mem, 4 * PAGE));
	gr__mem_release(&mem);
}

/* Q31: what does not fit is -ENOSPC at creation, not SIGBUS later. */
static void test_Q31_full_tmpfs(void **unused)
{
	static struct state before;
	struct gr_block_opts opts = file_opts(GR_TEMPORARY | GR_SHARED | GR_PREALLOC);
	char place[64], named[80];
	struct gr__mem mem;
	size_t private, step;

	if (!mount_private("tmpfs", "size=1m", place, sizeof(place)))
		skip();
	snprintf(named, sizeof(named), "%s/ram", place);
	take_state(&before);
	for (step = 0; step < 2; step++) {
		opts.path = step ? named : place;
		opts.flags = (step ? GR_CREATE : GR_TEMPORARY) | GR_SHARED | GR_PREALLOC;
		opts.length = 2 * MIB;
		assert_int_equal(gr__mem_map(&opts, &mem), -ENOSPC);
		assert_non_null(strstr(gr_last_error(), "fallocate"));
		/* a file system that cannot allocate: fetching says it */
		arm_fault_by_name("fallocate", EOPNOTSUPP);
		assert_int_equal(gr__mem_map(&opts, &mem), -ENOSPC);
		assert_non_null(strstr(gr_last_error(), "fetching"));
		disarm_faults();
		assert_true(is_empty_directory(place));
		assert_same_state(&before);
	}
	/* what it grows by does not fit: the rest stays, the file gets nothing */
	for (private = 0; private < 2; private ++) {
		opts.path = place;
		opts.flags = GR_TEMPORARY | GR_PREALLOC | (private ? 0 : GR_SHARED);
		opts.length = 512 * KIB;
		opts.max_length = 2 * MIB;
		map_ok(&opts, &mem);
		fill(&mem, 0, mem.length, 5);
		if (private) {
			gr__mem_release(&mem);
			continue;
		}
		assert_int_equal(gr__mem_resize(&mem, 2 * MIB), -ENOSPC);
		assert_int_equal(mem.length, 512 * KIB);
		assert_int_equal(bytes_on_disk(mem.fd), 512 * KIB);
		assert_true(is_filled(&mem, 0, mem.length, 5));
		assert_false(is_readable((char *)mem.host + mem.length));
		assert_ok(gr__mem_resize(&mem, 768 * KIB)); /* this fits */
		gr__mem_release(&mem);
	}
	assert_same_state(&before);
	unmount_private(place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_created_file_keeps_what_is_stored),
		cmocka_unit_test(test_undo_removes_what_was_created),
		cmocka_unit_test(test_temporary_file_has_no_name),
		cmocka_unit_test(test_P28_past_the_end_of_a_file),
		cmocka_unit_test(test_by_descriptor),
		cmocka_unit_test(test_P26_regions_at_offsets_of_one_memfd),
		cmocka_unit_test(test_P28_memfd_is_sealed),
		cmocka_unit_test(test_Q31_full_tmpfs),
	};

	return cmocka_run_group_tests(tests, make_place, remove_place);
}
