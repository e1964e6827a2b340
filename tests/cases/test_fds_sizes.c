/* SPDX-License-Identifier: MIT */
/*
 * P5, P24, P25, P26, P28, P29, Q7, Q19, Q31, Q35, private in shared: descriptors, sizes, offsets,
 * and what the kernel still holds afterwards.
 */
#include "case.h"
#include "os/hooks.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define BASE GIB

static int make_memfd(uint64_t size)
{
	int fd = memfd_create("case", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

/* ------------------------------------------------------------------------------------- P5 */

static int failing_calls;

static int count_calls(const char *call)
{
	failing_calls += !strcmp(call, "mmap");
	return 0;
}

static void p5_sizes_and_offsets_that_cannot_be_are_refused_before_anything_is_mapped(void **unused)
{
	static const uint64_t huge = UINT64_C(2) << 20;
	static const struct {
		const char *name;
		uint64_t length, max_length, fd_offset, page_size;
		int rc;
	} cases[] = {
		{"length 0", 0, 0, 0, 0, -EINVAL},
		{"length 0 with a maximum", 0, MIB, 0, 0, -EINVAL},
		{"length over its maximum", 2 * MIB, MIB, 0, 0, -EINVAL},
		{"length of 2^64 - 1", UINT64_MAX, 0, 0, 0, -ERANGE},
		{"length that rounds up to 2^64", UINT64_MAX - PAGE + 2, 0, 0, 0, -ERANGE},
		{"length of 2^63", UINT64_C(1) << 63, 0, 0, 0, -ERANGE},
		{"maximum of 2^64 - 1", PAGE, UINT64_MAX, 0, 0, -ERANGE},
		{"size + offset wraps", 2 * PAGE, 0, UINT64_MAX - PAGE + 1, 0, -ERANGE},
		{"size + offset passes 2^63", 2 * PAGE, 0, (UINT64_C(1) << 63) - PAGE, 0, -ERANGE},
		{"maximum + offset wraps", PAGE, UINT64_C(1) << 62, UINT64_C(3) << 62, 0, -ERANGE},
		{"offset in the middle of a page", PAGE, 0, PAGE / 2, 0, -EINVAL},
		{"past the end of the file", PAGE, 0, 4 * PAGE, 0, -ERANGE},
		{"over the end of the file", 2 * PAGE, 0, 3 * PAGE, 0, -ERANGE},
		{"another page size than the file's", huge, 0, 0, huge, -EINVAL},
		{"no page size", PAGE, 0, 0, 12345, -EINVAL},
	};
	static struct process_state before;
	struct gr_ram *ram = case_ram();
	int fd = make_memfd(4 * PAGE);
	size_t i;

	process_take(&before);
	gr__hook_fault = count_calls;
	failing_calls = 0;
	for (i = 0; i < COUNT_OF(cases); i++) {
		struct gr_block_opts opts = {
			.name = "x",
			.backing = GR_BACKING_FILE,
			.flags = GR_SHARED,
			.fd = fd,
			.length = cases[i].length,
			.max_length = cases[i].max_length,
			.fd_offset = cases[i].fd_offset,
			.page_size = cases[i].page_size,
		};
		struct gr_block *block = NULL;
		int rc = gr_block_new(ram, &opts, &block);

		if (rc != cases[i].rc)
			fail_msg("%s: %d: %s", cases[i].name, rc, gr_last_error());
		assert_null(block);
		assert_same_process(&before); /* no mapping, our copy of the fd closed */
		if (cases[i].fd_offset || !cases[i].length)
			continue;
		/* the same for memory of our own */
		opts.backing = GR_BACKING_ANON;
		opts.fd = 0;
		if (cases[i].rc == -ERANGE && cases[i].length < UINT64_C(1) << 62 &&
		    cases[i].max_length < UINT64_C(1) << 62)
			continue;
		rc = gr_block_new(ram, &opts, &block);
		if (cases[i].page_size == huge) {
			if (!rc)
				assert_ok(gr_block_delete(block));
			block = NULL;
			case_drain(ram);
			continue;
		}
		assert_true(rc < 0);
		assert_null(block);
		assert_same_process(&before);
	}
	gr__hook_fault = NULL;
	assert_true(failing_calls <= 4); /* those of the huge pages, where the machine has them */
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC); /* ours is still ours */
	close(fd);
	case_close(ram);
}

/* A file that is empty would be grown: not to a size that has wrapped. */
static void p5_empty_file_is_not_grown_to_a_size_that_wraps(void **unused)
{
	static const struct {
		uint64_t length, max_length, fd_offset;
	} cases[] = {
		{2 * PAGE, 0, TOP(PAGE)},
		{PAGE, 2 * PAGE, TOP(PAGE)},
		{2 * PAGE, 0, (UINT64_C(1) << 63) - PAGE},
		{PAGE, UINT64_C(1) << 62, UINT64_C(3) << 62},
		{TOP(PAGE) + 1, 0, 0},
		{UINT64_MAX, 0, PAGE},
	};
	static struct process_state before;
	struct gr_ram *ram = case_ram();
	int fd = make_memfd(0);
	struct stat file;
	size_t i;

	process_take(&before);
	for (i = 0; i < COUNT_OF(cases); i++) {
		struct gr_block_opts opts = {
			.name = "x",
			.backing = GR_BACKING_FILE,
			.flags = GR_SHARED,
			.fd = fd,
			.length = cases[i].length,
			.max_length = cases[i].max_length,
			.fd_offset = cases[i].fd_offset,
		};
		struct gr_block *block = NULL;

		assert_int_equal(gr_block_new(ram, &opts, &block), -ERANGE);
		assert_null(block);
		assert_int_equal(fstat(fd, &file), 0);
		assert_int_equal(file.st_size, 0);
		assert_same_process(&before);
	}
	close(fd);
	case_close(ram);
}

static void p5_resize_to_a_size_that_rounds_to_0(void **unused)
{
	static const uint64_t lengths[] = {
		UINT64_MAX,	   UINT64_MAX - PAGE + 2, UINT64_MAX - PAGE + 1,
		UINT64_C(1) << 63, 4 * PAGE + 1,
	};
	struct gr_block_opts opts = {.name = "x", .length = 2 * PAGE, .max_length = 4 * PAGE};
	struct gr_ram *ram = case_ram();
	struct gr_block *block;
	struct gr_block_info info;
	size_t i;

	assert_ok(gr_block_new(ram, &opts, &block));
	memset(case_host(block), 1, 2 * PAGE);
	for (i = 0; i < COUNT_OF(lengths); i++) {
		assert_int_equal(gr_block_resize(block, lengths[i]), -ERANGE);
		gr_block_get_info(block, &info);
		assert_int_equal(info.length, 2 * PAGE);
		assert_int_equal(((char *)info.host)[2 * PAGE - 1], 1);
	}
	assert_int_equal(gr_block_resize(block, 0), -EINVAL);
	assert_ok(gr_block_resize(block, 3 * PAGE + 1));
	gr_block_get_info(block, &info);
	assert_int_equal(info.length, 4 * PAGE);
	case_close(ram);
}

/* A size that is less than a huge page is one huge page, never none. */
static void p5_size_below_a_huge_page_rounds_up(void **unused)
{
	struct gr_block_opts opts = {.name = "x", .length = 1, .page_size = 2 * MIB};
	static struct process_state before;
	struct gr_ram *ram = case_ram();
	struct gr_block *block = NULL;
	struct gr_block_info info;
	int rc;

	process_take(&before);
	rc = gr_block_new(ram, &opts, &block);
	if (!rc) {
		gr_block_get_info(block, &info);
		assert_int_equal(info.length, 2 * MIB);
		assert_ok(gr_block_delete(block));
		case_drain(ram);
	} else { /* no pool, which is told */
		assert_true(rc == -ENOMEM || rc == -ENOTSUP);
		assert_non_null(strstr(gr_last_error(), "huge pages"));
	}
	assert_same_process(&before);
	opts.length = UINT64_MAX - MIB; /* rounds to 0 */
	assert_int_equal(gr_block_new(ram, &opts, &block), rc == -ENOTSUP ? rc : -ERANGE);
	assert_same_process(&before);
	case_close(ram);
}

/* ------------------------------------------------------------------------------- P24, P25 */

/* A table as a front-end sends it: regions of one file, one fd each. */
static int make_table(struct gr_ram *ram, struct gr_space *space, const int *fds,
		      const uint64_t *lengths, unsigned count, struct gr_block **blocks)
{
	struct gr_txn *txn;
	char name[40];
	unsigned made, i;
	int rc = gr_txn_begin(space, &txn);

	if (rc < 0)
		return rc;
	rc = gr_txn_unmap(txn, 0, TOP(PAGE));
	for (made = 0; made < count && !rc; made++) {
		struct gr_block_opts opts = {
			.name = name,
			.backing = GR_BACKING_FILE,
			.flags = GR_SHARED,
			.fd = fds[made],
			.length = lengths[made],
			.fd_offset = made * 4 * PAGE,
		};

		snprintf(name, sizeof(name), "r%p-%u", (void *)blocks, made);
		rc = gr_block_new(ram, &opts, &blocks[made]);
		if (rc < 0)
			break;
		rc = gr_txn_map(txn, made * BASE, blocks[made], 0, lengths[made], RW);
	}
	if (!rc)
		rc = gr_txn_commit(txn);
	else
		gr_txn_abort(txn);
	for (i = 0; rc < 0 && i < made; i++)
		assert_ok(gr_block_delete(blocks[i]));
	return rc;
}

static unsigned fail_at;

static int fail_nth_mmap(const char *call)
{
	return !strcmp(call, "mmap") && fail_at && !--fail_at ? ENOMEM : 0;
}

static void p24_p25_descriptors_and_maps_are_the_same_after_every_table(void **unused)
{
	enum { REGIONS = 8, ROUNDS = 1000 };
	static struct process_state before, with_table;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *tables[2][REGIONS];
	int fd = make_memfd(64 * 4 * PAGE), fds[REGIONS];
	uint64_t lengths[REGIONS], value = 0;
	unsigned round, i, k, open_fds = 0;

	for (i = 0; i < REGIONS; i++) {
		fds[i] = fd;
		lengths[i] = 4 * PAGE;
	}
	process_take(&before);

	/* a good one */
	assert_ok(make_table(ram, space, fds, lengths, REGIONS, tables[0]));
	assert_ok(gr_store_u64(space, 7 * BASE, 77));
	process_take(&with_table);

	/* a bad size, or a bad descriptor, in region k; mmap failing in region k */
	for (k = 0; k < REGIONS; k++) {
		lengths[k] = k % 2 ? 0 : UINT64_C(1) << 40;
		assert_int_equal(make_table(ram, space, fds, lengths, REGIONS, tables[1]),
				 k % 2 ? -EINVAL : -ERANGE);
		lengths[k] = 4 * PAGE;
		fds[k] = 9999;
		assert_int_equal(make_table(ram, space, fds, lengths, REGIONS, tables[1]), -EBADF);
		fds[k] = fd;
		fail_at = 2 * k + 2; /* a reservation and a mapping each */
		gr__hook_fault = fail_nth_mmap;
		assert_int_equal(make_table(ram, space, fds, lengths, REGIONS, tables[1]), -ENOMEM);
		gr__hook_fault = NULL;
		case_drain(ram);
		assert_same_process(&with_table);
		assert_ok(gr_load_u64(space, 7 * BASE, &value)); /* the old table is whole */
		assert_int_equal(value, 77);
	}

	/* replaced a thousand times */
	for (round = 0; round < ROUNDS; round++) {
		struct gr_block **old = tables[round % 2], **next = tables[(round + 1) % 2];

		assert_ok(make_table(ram, space, fds, lengths, REGIONS, next));
		for (i = 0; i < REGIONS; i++)
			assert_ok(gr_block_delete(old[i]));
		if (round % 100 == 99)
			case_drain(ram);
		if (!round) {
			case_drain(ram);
			open_fds = process_fds();
		}
	}
	case_drain(ram);
	assert_int_equal(process_fds(), open_fds);
	for (i = 0; i < REGIONS; i++) {
		assert_ok(gr_space_unmap(space, i * BASE, 4 * PAGE));
		assert_ok(gr_block_delete(tables[ROUNDS % 2][i]));
	}
	case_drain(ram);
	assert_same_process(&before);
	close(fd);
	case_close(ram);
}

/* No descriptors left: the block is refused, and the next one, when there are some, works. */
static void p24_no_descriptor_to_be_had_is_an_error(void **unused)
{
	static const enum gr_backing kinds[] = {GR_BACKING_MEMFD, GR_BACKING_FILE};
	static struct process_state before;
	struct gr_ram *ram = case_ram(), *other = NULL;
	struct rlimit limit, none;
	size_t i;

	process_take(&before);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (i = 0; i < COUNT_OF(kinds); i++) {
		struct gr_block_opts opts = {
			.name = "x",
			.backing = kinds[i],
			.length = PAGE,
			.flags = kinds[i] == GR_BACKING_FILE ? GR_TEMPORARY : 0,
			.path = kinds[i] == GR_BACKING_FILE ? "/tmp" : NULL,
		};
		struct gr_block *block = NULL;

		none = limit;
		none.rlim_cur = 0;
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
		assert_int_equal(gr_block_new(ram, &opts, &block), -EMFILE);
		assert_int_equal(gr_ram_open(NULL, &other), -EMFILE);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		assert_null(block);
		assert_null(other);
		assert_same_process(&before);
		assert_ok(gr_block_new(ram, &opts, &block));
		assert_ok(gr_block_delete(block));
		case_drain(ram);
		assert_same_process(&before);
	}
	case_close(ram);
}

/* ------------------------------------------------------------------------------------ P26 */

static void p26_sparse_memfd_at_two_offsets_maps_its_size_and_no_more(void **unused)
{
	static const uint64_t offsets[] = {0, 3 * GIB};
	static const uint64_t addrs[] = {0, 4 * GIB};
	const uint64_t length = 16 * MIB;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	int fd = make_memfd(3 * GIB + length);
	uint64_t at, used = process_address_space(), value, marker;
	struct gr_block *blocks[2];
	struct gr_block_info info;
	struct gr_ram_stats stats;
	size_t i;

	for (i = 0; i < 2; i++)
		for (at = 0; at < length; at += PAGE) {
			marker = offsets[i] + at + 1;
			assert_int_equal(pwrite(fd, &marker, 8, (off_t)(offsets[i] + at)), 8);
		}
	for (i = 0; i < 2; i++) {
		struct gr_block_opts opts = {
			.name = i ? "high" : "low",
			.backing = GR_BACKING_FILE,
			.flags = GR_SHARED,
			.fd = fd,
			.fd_offset = offsets[i],
			.length = length,
		};

		assert_ok(gr_block_new(ram, &opts, &blocks[i]));
		case_map(space, addrs[i], blocks[i], 0, length, RW);
		gr_block_get_info(blocks[i], &info);
		assert_int_equal(info.fd_offset, offsets[i]);
		assert_int_equal(info.length, length);
	}
	/* the guard pages; not 3 GiB of what lies before the second region */
	used = process_address_space() - used;
	assert_true(WATCHED || (used >= 2 * length && used <= 2 * length + 4 * MIB));
	gr_ram_get_stats(ram, &stats);
	assert_int_equal(stats.bytes, 2 * length);
	for (i = 0; i < 2; i++)
		for (at = 0; at < length; at += PAGE) {
			assert_ok(gr_load_u64(space, addrs[i] + at, &value));
			assert_int_equal(value, offsets[i] + at + 1);
			assert_ok(gr_store_u64(space, addrs[i] + at + 8, ~at));
		}
	assert_int_equal(pread(fd, &value, 8, (off_t)(3 * GIB + 5 * PAGE + 8)), 8);
	assert_int_equal(value, ~(5 * PAGE));
	/* a discard is of the region's own pages, wherever it lies in the file */
	assert_ok(gr_block_discard(blocks[1], 0, PAGE));
	assert_int_equal(pread(fd, &value, 8, 3 * GIB), 8);
	assert_int_equal(value, 0);
	assert_int_equal(pread(fd, &value, 8, 0), 8);
	assert_int_equal(value, 1);
	case_close(ram);
	close(fd);
}

/* ------------------------------------------------------------------------------------ P28 */

static void p28_region_past_the_end_of_a_file_is_refused(void **unused)
{
	static const struct {
		uint64_t size, offset, length;
		int rc;
	} cases[] = {
		{4 * PAGE, 0, 4 * PAGE, 0},
		{4 * PAGE, 3 * PAGE, PAGE, 0},
		{4 * PAGE, 0, 4 * PAGE + 1, -ERANGE},
		{4 * PAGE, PAGE, 4 * PAGE, -ERANGE},
		{4 * PAGE, 4 * PAGE, PAGE, -ERANGE},
		{4 * PAGE, 400 * PAGE, PAGE, -ERANGE},
		{PAGE + 100, 0, PAGE + 100, 0},
		{PAGE + 100, 0, PAGE + 101, -ERANGE},
		{1, 0, PAGE, -ERANGE},
	};
	struct gr_ram *ram = case_ram();
	size_t i;
	int flags;

	for (i = 0; i < COUNT_OF(cases); i++)
		for (flags = 0; flags < 2; flags++) {
			int fd = make_memfd(cases[i].size);
			struct gr_block_opts opts = {
				.name = "x",
				.backing = GR_BACKING_FILE,
				.flags = flags ? GR_SHARED : 0,
				.fd = fd,
				.fd_offset = cases[i].offset,
				.length = cases[i].length,
			};
			struct gr_block *block = NULL;
			struct stat file;
			volatile char *host;

			assert_int_equal(gr_block_new(ram, &opts, &block), cases[i].rc);
			assert_int_equal(fstat(fd, &file), 0);
			assert_int_equal(file.st_size, cases[i].size);
			if (!cases[i].rc) {
				host = case_host(block);
				host[cases[i].length - 1] = 1; /* no signal */
				assert_ok(gr_block_delete(block));
				case_drain(ram);
			}
			close(fd);
		}
	case_close(ram);
}

static void p28_our_memfds_cannot_be_shrunk_by_a_peer(void **unused)
{
	struct gr_block_opts opts = {.name = "x", .backing = GR_BACKING_MEMFD, .length = 4 * PAGE};
	struct gr_ram *ram = case_ram();
	struct gr_block *block;
	uint64_t offset = 1;
	int fd = -1, peer;

	assert_ok(gr_block_new(ram, &opts, &block));
	assert_ok(gr_block_share_fd(block, &fd, &offset));
	assert_int_equal(offset, 0);
	peer = dup(fd); /* what the peer gets */
	assert_int_equal(fcntl(peer, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
			 F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	assert_int_equal(ftruncate(peer, 0), -1);
	assert_int_equal(ftruncate(peer, 2 * PAGE), -1);
	assert_int_equal(ftruncate(peer, 64 * PAGE), -1);
	memset(case_host(block), 1, 4 * PAGE);
	close(peer);
	case_close(ram);
}

/* A peer truncates its file: no signal ends us, and what was lost is told. */
static void p28_peer_that_truncates_its_file_does_not_kill_us(void **unused)
{
	int fd = make_memfd(4 * PAGE);
	struct gr_block_opts opts = {
		.name = "x",
		.backing = GR_BACKING_FILE,
		.flags = GR_SHARED | GR_SURVIVE_TRUNCATION,
		.fd = fd,
		.length = 4 * PAGE,
	};
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block;
	struct gr_block_info info;
	char buf[2 * PAGE];
	uint64_t value;

	assert_ok(gr_sigbus_install());
	assert_ok(gr_block_new(ram, &opts, &block));
	case_map(space, BASE, block, 0, 4 * PAGE, RW);
	memset(case_host(block), 0x41, 4 * PAGE);
	assert_int_equal(ftruncate(fd, PAGE), 0);
	assert_ok(gr_load_u64(space, BASE, &value));
	assert_int_equal(value, 0x4141414141414141);
	gr_block_get_info(block, &info);
	assert_int_equal(info.lost_pages, 0);
	assert_ok(gr_load(space, BASE + PAGE, buf, sizeof(buf))); /* copies two lost pages */
	assert_int_equal(buf[0] | buf[sizeof(buf) - 1], 0);
	gr_block_get_info(block, &info);
	assert_int_equal(info.lost_pages, 2);
	assert_ok(gr_store_u64(space, BASE + 3 * PAGE, 5));
	assert_ok(gr_load_u64(space, BASE + 3 * PAGE, &value));
	assert_int_equal(value, 5);
	gr_block_get_info(block, &info);
	assert_int_equal(info.lost_pages, 3);
	case_close(ram);
	close(fd);
}

/* ------------------------------------------------------------------------------------- Q7 */

/* What mmap() refuses is an error with no block, and its error value is no address. */
static void q7_mapping_that_fails_is_an_error_and_no_address(void **unused)
{
	static struct process_state before;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = NULL;
	struct gr_block_opts opts = {.name = "x", .backing = GR_BACKING_FILE, .length = PAGE};
	const struct {
		const char *name;
		int fd;
		unsigned flags;
	} cases[] = {
		{"a directory", open("/tmp", O_RDONLY | O_CLOEXEC), 0},
		{"a path only", open("/proc/self/exe", O_PATH | O_CLOEXEC), 0},
		{"a character device", open("/dev/null", O_RDWR | O_CLOEXEC), GR_SHARED},
		{"for reading only", open("/proc/self/exe", O_RDONLY | O_CLOEXEC), GR_SHARED},
		{"for writing only", open("/tmp", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600), 0},
		{"none", 12345, 0},
	};
	size_t i;

	process_take(&before);
	for (i = 0; i < COUNT_OF(cases); i++) {
		int rc;

		opts.fd = cases[i].fd;
		opts.flags = cases[i].flags;
		rc = gr_block_new(ram, &opts, &block);
		if (rc >= 0 || block)
			fail_msg("%s: %d", cases[i].name, rc);
		assert_same_process(&before);
	}
	/* The value that mmap() fails with, lent as if it were memory. */
	opts = (struct gr_block_opts){
		.name = "x", .backing = GR_BACKING_CALLER, .length = PAGE, .host = MAP_FAILED};
	assert_int_equal(gr_block_new(ram, &opts, &block), -EINVAL);
	opts.host = NULL;
	assert_int_equal(gr_block_new(ram, &opts, &block), -EINVAL);
	opts.host = (void *)(uintptr_t)TOP(PAGE);
	opts.length = 2 * PAGE;
	assert_int_equal(gr_block_new(ram, &opts, &block), -ERANGE);
	/* and each mmap() of each kind of block, failing */
	for (i = 1; i <= 2; i++) {
		opts = (struct gr_block_opts){.name = "x", .length = PAGE};
		for (opts.backing = GR_BACKING_ANON; opts.backing <= GR_BACKING_MEMFD;
		     opts.backing++) {
			fail_at = (unsigned)i;
			gr__hook_fault = fail_nth_mmap;
			assert_int_equal(gr_block_new(ram, &opts, &block), -ENOMEM);
			gr__hook_fault = NULL;
			assert_null(block);
			gr_read_begin();
			assert_null(gr_block_by_host(ram, MAP_FAILED, NULL));
			assert_null(gr_block_by_name(ram, "x"));
			gr_read_end();
			assert_same_process(&before);
		}
	}
	assert_null(case_lookup(space, 0, 1, 0));
	for (i = 0; i < 5; i++)
		close(cases[i].fd);
	case_close(ram);
}

/* ---------------------------------------------------------------------- private in shared */

static void private_in_shared_is_refused_with_the_way_out(void **unused)
{
	int file = make_memfd(4 * PAGE);
	void *memory = case_pages(PAGE);
	const struct {
		struct gr_block_opts opts;
		int rc;
	} cases[] = {
		{{.name = "anon", .backing = GR_BACKING_ANON}, -ENOTSUP},
		/* shared with children only: there is no descriptor */
		{{.name = "shared-anon", .backing = GR_BACKING_ANON, .flags = GR_SHARED}, -ENOTSUP},
		{{.name = "private-file", .backing = GR_BACKING_FILE, .fd = file}, -ENOTSUP},
		{{.name = "lent", .backing = GR_BACKING_CALLER, .host = memory}, -ENOTSUP},
		{{.name = "memfd", .backing = GR_BACKING_MEMFD}, 0},
		{{.name = "shared-file",
		  .backing = GR_BACKING_FILE,
		  .flags = GR_SHARED,
		  .fd = file,
		  .fd_offset = PAGE},
		 0},
	};
	struct gr_ram *ram = case_ram();
	size_t i;

	for (i = 0; i < COUNT_OF(cases); i++) {
		struct gr_block_opts opts = cases[i].opts;
		struct gr_block *block;
		uint64_t offset = 77;
		int fd = 77;
		char *peer;

		opts.length = PAGE;
		assert_ok(gr_block_new(ram, &opts, &block));
		assert_int_equal(gr_block_share_fd(block, &fd, &offset), cases[i].rc);
		if (cases[i].rc) {
			assert_int_equal(fd, 77); /* outputs are written only on success */
			assert_int_equal(offset, 77);
			assert_non_null(strstr(gr_last_error(), opts.name));
			assert_non_null(strstr(gr_last_error(), "GR_BACKING_MEMFD"));
			assert_non_null(strstr(gr_last_error(), "GR_SHARED"));
			continue;
		}
		assert_int_equal(offset, opts.fd_offset);
		peer = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
		assert_ptr_not_equal(peer, MAP_FAILED);
		*(char *)case_host(block) = 'x';
		assert_int_equal(*peer, 'x');
		munmap(peer, PAGE);
	}
	case_close(ram);
	close(file);
	munmap(memory, PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			p5_sizes_and_offsets_that_cannot_be_are_refused_before_anything_is_mapped),
		cmocka_unit_test(p5_empty_file_is_not_grown_to_a_size_that_wraps),
		cmocka_unit_test(p5_resize_to_a_size_that_rounds_to_0),
		cmocka_unit_test(p5_size_below_a_huge_page_rounds_up),
		cmocka_unit_test(p24_p25_descriptors_and_maps_are_the_same_after_every_table),
		cmocka_unit_test(p24_no_descriptor_to_be_had_is_an_error),
		cmocka_unit_test(p26_sparse_memfd_at_two_offsets_maps_its_size_and_no_more),
		cmocka_unit_test(p28_region_past_the_end_of_a_file_is_refused),
		cmocka_unit_test(p28_our_memfds_cannot_be_shrunk_by_a_peer),
		cmocka_unit_test(p28_peer_that_truncates_its_file_does_not_kill_us),
		cmocka_unit_test(q7_mapping_that_fails_is_an_error_and_no_address),
		cmocka_unit_test(private_in_shared_is_refused_with_the_way_out),
	};

	case_watchdog(60);
	return cmocka_run_group_tests_name("descriptors and sizes", tests, NULL, NULL);
}
