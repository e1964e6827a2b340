/* SPDX-License-Identifier: MIT */
/* Q16, Q17, Q30: every operation, with every one of its calls failing once; see fault.h. */
#include "../fault/tally.h"
#include "fault.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BASE GIB

/* -------------------------------------------------------------------------------- open, close */

static int run_open(struct fault_world *world)
{
	struct gr_ram_opts opts = {.embedder_reclaim = 1};
	struct gr_ram *ram = NULL;
	int rc = gr_ram_open(&opts, &ram);

	if (rc < 0) {
		assert_null(ram);
		return rc;
	}
	rc = gr_ram_close(ram);
	if (rc < 0) /* refused, so it is still there */
		assert_ok(gr_ram_close(ram));
	return rc;
}

static int run_close(struct fault_world *world)
{
	int rc = gr_ram_close(world->ram);

	if (!rc)
		world->ram = NULL;
	return rc;
}

static int run_space_open(struct fault_world *world)
{
	int rc = gr_space_open(world->ram, "extra", &world->space);

	if (rc < 0)
		assert_null(world->space);
	return rc;
}

static void open_space(struct fault_world *world)
{
	world->space = case_space(world->ram, "extra");
}

static void open_space_with_ranges(struct fault_world *world)
{
	struct gr_txn *txn;
	unsigned i;

	open_space(world);
	assert_ok(gr_txn_begin(world->space, &txn));
	for (i = 0; i < 100; i++)
		assert_ok(gr_txn_map(txn, i * GIB, world->spare, 0, PAGE, RW));
	assert_ok(gr_txn_commit(txn));
}

static int run_space_close(struct fault_world *world)
{
	int rc = gr_space_close(world->space);

	if (rc < 0)
		assert_non_null(case_lookup(world->space, 99 * GIB, 1, RW));
	else
		world->space = NULL;
	return rc;
}

/* Reclaim by the embedder: what was deleted goes in the end, whatever failed. */
static int run_reclaim(struct fault_world *world)
{
	struct gr_ram_opts opts = {.embedder_reclaim = 1};
	struct gr_block_opts block_opts = {.name = "gone",
					   .backing = GR_BACKING_MEMFD,
					   .length = 4 * PAGE,
					   .max_length = 8 * PAGE};
	struct gr_block *block;
	struct gr_ram_stats stats;
	struct gr_ram *ram;
	struct pollfd ready = {.events = POLLIN};
	int rc = gr_ram_open(&opts, &ram), closed;

	if (rc < 0)
		return rc;
	ready.fd = gr_ram_reclaim_fd(ram);
	assert_true(ready.fd >= 0);
	rc = gr_block_new(ram, &block_opts, &block);
	if (!rc)
		rc = gr_block_delete(block);
	if (!rc) {
		assert_int_equal(poll(&ready, 1, 10000), 1);
		assert_int_equal(gr_ram_reclaim(ram), 1);
	}
	gr_ram_get_stats(ram, &stats);
	assert_int_equal(stats.blocks_pending, 0);
	closed = gr_ram_close(ram);
	if (closed < 0)
		assert_ok(gr_ram_close(ram));
	return rc < 0 ? rc : closed;
}

static int run_drain(struct fault_world *world)
{
	struct gr_ram_stats stats;
	int rc = gr_block_delete(world->spare);

	if (rc < 0)
		return rc;
	assert_ok(gr_ram_drain(world->ram, 10000));
	gr_ram_get_stats(world->ram, &stats);
	assert_int_equal(stats.blocks_pending, 0);
	return 0;
}

/* ------------------------------------------------------------------------------------- blocks */

static int new_block(struct fault_world *world, struct gr_block_opts *opts)
{
	struct gr_block *block = NULL;
	int rc;

	opts->name = "made";
	opts->length = opts->length ? opts->length : 4 * PAGE;
	rc = gr_block_new(world->ram, opts, &block);
	if (rc < 0)
		assert_null(block);
	return rc;
}

static int run_new_anon(struct fault_world *world)
{
	struct gr_block_opts opts = {.max_length = 8 * PAGE, .align = 64 * KIB};

	return new_block(world, &opts);
}

static int run_new_anon_with_everything(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.flags = GR_PREALLOC | GR_LOCKED | GR_NO_DUMP | GR_NO_FORK | GR_NO_THP | GR_RESERVE,
		.length = 4 * MIB,
		.prealloc_threads = 3,
		.numa_policy = GR_NUMA_PREFERRED,
		.numa_nodes = "0",
	};

	return new_block(world, &opts);
}

static int run_new_memfd(struct fault_world *world)
{
	struct gr_block_opts opts = {.backing = GR_BACKING_MEMFD, .flags = GR_PREALLOC};

	return new_block(world, &opts);
}

static int run_new_temporary(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.backing = GR_BACKING_FILE,
		.flags = GR_TEMPORARY | GR_SHARED | GR_PREALLOC,
		.path = world->directory,
	};

	return new_block(world, &opts);
}

static char file_path[128];

static int run_new_created(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.backing = GR_BACKING_FILE,
		.flags = GR_CREATE | GR_SHARED,
		.path = file_path,
	};

	snprintf(file_path, sizeof(file_path), "%s/created", world->directory);
	return new_block(world, &opts);
}

static void remove_file(struct fault_world *world)
{
	struct stat file;

	assert_int_equal(stat(file_path, &file), 0);
	assert_int_equal(file.st_size, 4 * PAGE);
	unlink(file_path);
}

static void remove_full_file(struct fault_world *world)
{
	char text[4];
	int fd = open(file_path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, text, 4, 4 * PAGE), 4);
	assert_memory_equal(text, "kept", 4);
	close(fd);
	unlink(file_path);
}

/* A file that is there and empty is grown, and made empty again when it was for nothing. */
static void make_empty_file(struct fault_world *world)
{
	snprintf(file_path, sizeof(file_path), "%s/empty", world->directory);
	close(open(file_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
}

static int run_new_in_an_empty_file(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.backing = GR_BACKING_FILE,
		.flags = GR_SHARED,
		.fd = open(file_path, O_RDWR | O_CLOEXEC),
	};
	struct stat file;
	int rc = new_block(world, &opts);

	assert_int_equal(fstat(opts.fd, &file), 0); /* still the caller's */
	assert_int_equal(file.st_size, rc < 0 ? 0 : 4 * PAGE);
	close(opts.fd);
	return rc;
}

static void make_full_file(struct fault_world *world)
{
	int fd;

	snprintf(file_path, sizeof(file_path), "%s/full", world->directory);
	fd = open(file_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 8 * PAGE), 0);
	assert_int_equal(pwrite(fd, "kept", 4, 4 * PAGE), 4);
	close(fd);
}

static int run_new_in_a_full_file(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.backing = GR_BACKING_FILE,
		.flags = GR_SURVIVE_TRUNCATION | GR_SHARED,
		.path = file_path,
		.fd_offset = 4 * PAGE,
	};
	struct stat file;
	int rc = new_block(world, &opts);

	assert_int_equal(stat(file_path, &file), 0);
	assert_int_equal(file.st_size, 8 * PAGE);
	return rc;
}

static int run_new_in_lent_memory(struct fault_world *world)
{
	struct gr_block_opts opts = {.backing = GR_BACKING_CALLER, .host = world->lent};

	return new_block(world, &opts);
}

static void count(void *context, void *host, uint64_t length)
{
	__atomic_add_fetch((int *)context, 1, __ATOMIC_SEQ_CST);
}

/* A callback that is given and not wanted: what we did not take is not given back. */
static int run_new_with_release(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.backing = GR_BACKING_CALLER,
		.host = world->lent,
		.release = count,
		.release_context = &world->released,
	};

	return new_block(world, &opts);
}

static int run_new_windowed(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.backing = GR_BACKING_FILE,
		.flags = GR_WINDOWED | GR_TEMPORARY | GR_SHARED,
		.path = world->directory,
		.max_length = GIB,
		.max_windows = 2,
	};

	return new_block(world, &opts);
}

static int refuse_map(void *context, uint64_t offset, uint64_t length, unsigned access, void **host)
{
	return -EIO;
}

static void never_unmap(void *context, void *host, uint64_t length)
{
	fail(); /* nothing was mapped */
}

static int run_new_foreign(struct fault_world *world)
{
	static const struct gr_foreign_ops ops = {.map = refuse_map, .unmap = never_unmap};
	struct gr_block_opts opts = {.backing = GR_BACKING_FOREIGN, .foreign = &ops};

	return new_block(world, &opts);
}

/* Two windows of a file, which an access of a few bytes needs. */
static void map_windowed(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.name = "windowed",
		.backing = GR_BACKING_FILE,
		.flags = GR_WINDOWED | GR_TEMPORARY | GR_SHARED | GR_DELETE_UNMAP,
		.path = world->directory,
		.length = 2 * PAGE,
		.window_size = PAGE,
		.max_windows = 2,
	};
	struct gr_block *block;

	open_space(world);
	assert_ok(gr_block_new(world->ram, &opts, &block));
	assert_ok(gr_space_map(world->space, BASE, block, 0, 2 * PAGE, RW));
}

static int run_store_windowed(struct fault_world *world)
{
	return gr_store_u64(world->space, BASE + 8, UINT64_C(0x1122334455667788));
}

static void check_windowed(struct fault_world *world)
{
	uint64_t value;

	assert_ok(gr_load_u64(world->space, BASE + 8, &value));
	assert_int_equal(value, UINT64_C(0x1122334455667788));
}

/* A block of all advice there is, that grows. */
static struct gr_block *advised;

static void make_advised(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.name = "advised",
		.flags = GR_PREALLOC | GR_LOCKED | GR_NO_DUMP | GR_NO_FORK | GR_NO_THP,
		.length = PAGE,
		.max_length = 8 * PAGE,
	};

	assert_ok(gr_block_new(world->ram, &opts, &advised));
}

static int run_grow_advised(struct fault_world *world)
{
	return gr_block_resize(advised, 4 * PAGE);
}

/* A file that grows by pages that are there, or not at all. */
static void make_allocated(struct fault_world *world)
{
	struct gr_block_opts opts = {
		.name = "allocated",
		.backing = GR_BACKING_FILE,
		.flags = GR_TEMPORARY | GR_SHARED | GR_PREALLOC,
		.path = "/dev/shm",
		.length = PAGE,
		.max_length = 8 * PAGE,
	};

	assert_ok(gr_block_new(world->ram, &opts, &advised));
}

static int run_grow_allocated(struct fault_world *world)
{
	int rc = gr_block_resize(advised, 4 * PAGE);
	struct gr_block_info info;
	struct stat file;

	gr_block_get_info(advised, &info);
	assert_int_equal(fstat(info.fd, &file), 0);
	assert_int_equal(file.st_blocks * 512, rc < 0 ? PAGE : 4 * PAGE);
	return rc;
}

static int run_delete(struct fault_world *world)
{
	return gr_block_delete(world->spare);
}

static int run_delete_mapped(struct fault_world *world)
{
	return gr_block_delete(world->anon);
}

static void check_anon_is_gone(struct fault_world *world)
{
	assert_null(case_lookup(world->wide, 0, 1, 0));
	assert_null(case_lookup(world->flat, BASE, 1, 0));
	assert_non_null(case_lookup(world->wide, UINT64_MAX, 1, 0));
}

static int run_grow(struct fault_world *world)
{
	return gr_block_resize(world->anon, 12 * PAGE);
}

static void check_grown(struct fault_world *world)
{
	char *host = case_host(world->anon);

	assert_ptr_equal(case_lookup(world->wide, 300 * GIB + 12 * PAGE - 1, 1, GR_READ),
			 host + 12 * PAGE - 1);
	assert_null(case_lookup(world->wide, 300 * GIB + 12 * PAGE, 1, 0));
	host[12 * PAGE - 1] = 1;
}

static int run_grow_memfd(struct fault_world *world)
{
	return gr_block_resize(world->memfd, 16 * PAGE);
}

static void fill_blocks(struct fault_world *world)
{
	memset(case_host(world->anon), 0x17, 4 * PAGE);
	memset(case_host(world->memfd), 0x17, 4 * PAGE);
	memset(case_host(world->shared), 0x17, 4 * PAGE);
}

static int run_shrink(struct fault_world *world)
{
	char *host = case_host(world->anon);
	int rc = gr_block_resize(world->anon, PAGE);

	if (rc < 0) /* nothing was lost */
		assert_int_equal(host[4 * PAGE - 1], 0x17);
	return rc;
}

static void check_shrunk(struct fault_world *world)
{
	assert_null(case_lookup(world->wide, PAGE, 1, 0));
	assert_ptr_equal(case_lookup(world->wide, PAGE - 1, 1, RW),
			 (char *)case_host(world->anon) + PAGE - 1);
	assert_ok(gr_block_resize(world->anon, 4 * PAGE));
	assert_int_equal(((char *)case_host(world->anon))[PAGE], 0);
	assert_int_equal(((char *)case_host(world->anon))[PAGE - 1], 0x17);
}

static int run_shrink_memfd(struct fault_world *world)
{
	return gr_block_resize(world->memfd, PAGE);
}

static int run_discard(struct fault_world *world)
{
	return gr_block_discard(world->anon, PAGE, PAGE);
}

static int run_discard_memfd(struct fault_world *world)
{
	return gr_block_discard(world->memfd, PAGE, PAGE);
}

static int run_discard_file(struct fault_world *world)
{
	return gr_block_discard(world->shared, PAGE, PAGE);
}

static void check_discarded(struct fault_world *world)
{
	int i;

	for (i = 0; i < 4; i++)
		assert_int_equal(((char *)case_host(world->shared))[i * PAGE], i == 1 ? 0 : 0x17);
}

/* -------------------------------------------------------------------------------------- ranges */

static int run_map(struct fault_world *world)
{
	return gr_space_map(world->flat, BASE + 65 * PAGE, world->spare, 0, PAGE, RW);
}

static int run_map_first(struct fault_world *world)
{
	return gr_space_map(world->space, BASE, world->spare, 0, PAGE, RW);
}

/* From one kind of index to the other, and over a GiB that becomes uniform. */
static int run_map_far(struct fault_world *world)
{
	return gr_space_map(world->flat, 900 * GIB, world->spare, 0, 16 * PAGE, RW);
}

static int run_map_wide(struct fault_world *world)
{
	return gr_space_map(world->wide, 310 * GIB, world->spare, 0, PAGE, RW);
}

static int run_unmap(struct fault_world *world)
{
	return gr_space_unmap(world->flat, BASE + 8 * PAGE, PAGE);
}

static int run_unmap_middle(struct fault_world *world)
{
	return gr_space_unmap(world->wide, 300 * GIB + 5 * PAGE, 2 * PAGE);
}

static int run_unmap_many(struct fault_world *world)
{
	return gr_space_unmap(world->flat, BASE, 100 * PAGE);
}

static int run_txn(struct fault_world *world)
{
	struct gr_txn *txn = NULL;
	unsigned i;
	int rc = gr_txn_begin(world->flat, &txn);

	if (rc < 0)
		return rc;
	rc = gr_txn_unmap(txn, BASE, 1000 * PAGE);
	for (i = 0; i < 80 && !rc; i++)
		rc = gr_txn_map(txn, BASE + i * 3 * MIB, world->spare, i % 4 * PAGE, PAGE, RW);
	if (!rc)
		rc = gr_txn_map(txn, 200 * GIB, world->memfd, 0, PAGE, RW);
	if (rc < 0) {
		gr_txn_abort(txn);
		return rc;
	}
	return gr_txn_commit(txn);
}

static int run_txn_begin(struct fault_world *world)
{
	struct gr_txn *txn = NULL;
	int rc = gr_txn_begin(world->flat, &txn);

	if (rc < 0)
		assert_null(txn);
	gr_txn_abort(txn);
	return rc;
}

/*
 * What could not be collected leaves the transaction as it was, to be tried again. Many, so that
 * its list grows.
 */
static int run_txn_map(struct fault_world *world)
{
	struct gr_txn *txn = NULL;
	int rc, failed = 0;
	unsigned i;

	rc = gr_txn_begin(world->flat, &txn);
	for (i = 0; i < 40 && !rc && !failed; i++)
		failed = gr_txn_map(txn, 10 * GIB + i * PAGE, world->spare, 0, PAGE, RW);
	if (failed)
		rc = gr_txn_map(txn, 10 * GIB + (i - 1) * PAGE, world->spare, 0, PAGE, RW);
	assert_true(failed || rc || i == 40);
	gr_txn_abort(txn);
	return failed ? failed : rc;
}

static int run_txn_unmap(struct fault_world *world)
{
	struct gr_txn *txn = NULL;
	int rc, failed = 0;
	unsigned i;

	rc = gr_txn_begin(world->flat, &txn);
	for (i = 0; i < 40 && !rc && !failed; i++)
		failed = gr_txn_unmap(txn, 10 * GIB + i * PAGE, PAGE);
	if (failed)
		rc = gr_txn_unmap(txn, 10 * GIB, PAGE);
	gr_txn_abort(txn);
	return failed ? failed : rc;
}

/* The commit alone: collecting is done before. It is over either way, so it is collected anew. */
static void begin_txn(struct fault_world *world)
{
	unsigned i;

	assert_ok(gr_txn_begin(world->flat, &world->txn));
	assert_ok(gr_txn_unmap(world->txn, BASE, 1000 * PAGE));
	for (i = 0; i < 80; i++)
		assert_ok(gr_txn_map(world->txn, BASE + i * 3 * MIB, world->spare, i % 4 * PAGE,
				     PAGE, RW));
	assert_ok(gr_txn_map(world->txn, 200 * GIB, world->memfd, 0, PAGE, RW));
}

static int run_txn_commit(struct fault_world *world)
{
	int rc;

	if (!world->txn) /* after a failure, with no fault armed */
		begin_txn(world);
	rc = gr_txn_commit(world->txn);
	world->txn = NULL;
	return rc;
}

static void check_txn(struct fault_world *world)
{
	struct gr_ram_stats stats;

	gr_ram_get_stats(world->ram, &stats);
	assert_int_equal(stats.ranges, 81 + 3);
	assert_null(case_lookup(world->flat, BASE + 2 * PAGE, 1, 0));
}

/* ----------------------------------------------------------------------------------- listeners */

static struct ledger guest_book;

static int run_listener_open(struct fault_world *world)
{
	int rc;

	ledger_init(&guest_book);
	rc = gr_listener_open(world->ram, &ledger_ops, &guest_book, 0, &world->extra);
	if (rc < 0) { /* what it was told, it was told back */
		assert_null(world->extra);
		assert_int_equal(guest_book.wrong, 0);
		assert_int_equal(guest_book.range_count + guest_book.block_count, 0);
	}
	return rc;
}

static void check_listener(struct fault_world *world)
{
	struct gr_space *spaces[2] = {world->flat, world->wide};

	assert_ledger(&guest_book, world->ram, spaces, 2);
}

static void open_listener(struct fault_world *world)
{
	ledger_open(&guest_book, world->ram, 0);
	world->extra = guest_book.listener;
}

static int run_listener_close(struct fault_world *world)
{
	int rc = gr_listener_close(world->extra);

	if (rc < 0) /* it still listens, and has what it had */
		assert_int_equal(guest_book.range_count, 67);
	else
		world->extra = NULL;
	if (!rc)
		assert_int_equal(guest_book.range_count + guest_book.block_count, 0);
	return rc;
}

/* ---------------------------------------------------------------------------------- the table */

static const struct fault_case operations[] = {
	{"gr_ram_open", .no_ram = true, .run = run_open, .at_least = 5},
	{"gr_ram_close", .run = run_close, .at_least = 1},
	{"gr_ram_reclaim", .covers = "gr_ram_reclaim gr_ram_reclaim_fd", .no_ram = true,
	 .run = run_reclaim, .at_least = 10},
	{"gr_ram_drain", .run = run_drain, .at_least = 1},
	{"gr_space_open", .run = run_space_open, .at_least = 3},
	{"gr_space_close", .prepare = open_space_with_ranges, .run = run_space_close,
	 .at_least = 2},
	{"gr_block_new anon", .run = run_new_anon, .at_least = 6},
	{"gr_block_new anon with everything", .run = run_new_anon_with_everything, .at_least = 12},
	{"gr_block_new memfd", .run = run_new_memfd, .at_least = 8},
	{"gr_block_new temporary file", .run = run_new_temporary, .at_least = 8},
	{"gr_block_new temporary file, without O_TMPFILE", .missing = "open.tmpfile",
	 .run = run_new_temporary, .at_least = 8},
	{"gr_block_new created file", .run = run_new_created, .check = remove_file, .at_least = 8},
	{"gr_block_new empty file", .prepare = make_empty_file, .run = run_new_in_an_empty_file,
	 .check = remove_file, .at_least = 8},
	{"gr_block_new existing file", .prepare = make_full_file, .run = run_new_in_a_full_file,
	 .check = remove_full_file, .at_least = 8},
	{"gr_block_new lent memory", .run = run_new_in_lent_memory, .at_least = 3},
	{"gr_block_new lent memory with release", .run = run_new_with_release, .at_least = 3},
	{"gr_block_new windowed file", .run = run_new_windowed, .at_least = 8},
	{"gr_block_new foreign", .run = run_new_foreign, .at_least = 6},
	{"gr_store windowed", .prepare = map_windowed, .run = run_store_windowed,
	 .check = check_windowed, .at_least = 1},
	{"gr_block_delete", .run = run_delete, .at_least = 1},
	{"gr_block_delete mapped", .run = run_delete_mapped, .check = check_anon_is_gone,
	 .at_least = 6},
	{"gr_block_resize grow", .run = run_grow, .check = check_grown, .at_least = 4},
	{"gr_block_resize grow advised", .prepare = make_advised, .run = run_grow_advised,
	 .at_least = 7},
	{"gr_block_resize grow allocated", .prepare = make_allocated, .run = run_grow_allocated,
	 .at_least = 4},
	{"gr_block_resize grow memfd", .run = run_grow_memfd, .at_least = 3},
	{"gr_block_resize shrink", .prepare = fill_blocks, .run = run_shrink, .check = check_shrunk,
	 .at_least = 5, .republishes = true},
	{"gr_block_resize shrink memfd", .run = run_shrink_memfd, .at_least = 3,
	 .republishes = true},
	{"gr_block_discard", .run = run_discard, .at_least = 1},
	{"gr_block_discard memfd", .run = run_discard_memfd, .at_least = 1},
	{"gr_block_discard file", .prepare = fill_blocks, .run = run_discard_file,
	 .check = check_discarded, .at_least = 1},
	{"gr_space_map", .run = run_map, .at_least = 3},
	{"gr_space_map first", .prepare = open_space, .run = run_map_first, .at_least = 3},
	{"gr_space_map far", .run = run_map_far, .at_least = 4},
	{"gr_space_map wide", .run = run_map_wide, .at_least = 4},
	{"gr_space_unmap", .run = run_unmap, .at_least = 3},
	{"gr_space_unmap middle", .run = run_unmap_middle, .at_least = 3},
	{"gr_space_unmap many", .run = run_unmap_many, .at_least = 2},
	{"gr_txn", .covers = "gr_txn_begin gr_txn_map gr_txn_unmap gr_txn_commit gr_txn_abort",
	 .run = run_txn, .check = check_txn, .at_least = 8},
	{"gr_txn_begin", .run = run_txn_begin, .at_least = 1},
	{"gr_txn_map", .run = run_txn_map, .at_least = 2},
	{"gr_txn_unmap", .run = run_txn_unmap, .at_least = 2},
	{"gr_txn_commit", .prepare = begin_txn, .run = run_txn_commit, .check = check_txn,
	 .at_least = 4},
	{"gr_listener_open", .run = run_listener_open, .check = check_listener, .at_least = 3},
	{"gr_listener_close", .prepare = open_listener, .run = run_listener_close, .at_least = 2},
};

static void run_named(const char *start)
{
	fault_run_named(operations, COUNT_OF(operations), start);
}

static void q16_every_fault_of_opening_and_closing(void **unused)
{
	run_named("gr_ram_");
	run_named("gr_space_open");
	run_named("gr_space_close");
}

/* A lookup that maps a window: its error is no address (Q7). */
static void q7_q16_every_fault_of_a_window(void **unused)
{
	run_named("gr_store windowed");
}

/* A failed preallocation is one of them: an error, not an exit (Q30). */
static void q17_q30_every_fault_of_a_new_block(void **unused)
{
	run_named("gr_block_new");
}

static void q16_every_fault_of_a_delete(void **unused)
{
	run_named("gr_block_delete");
}

static void q16_every_fault_of_a_resize(void **unused)
{
	run_named("gr_block_resize");
}

static void q16_every_fault_of_a_discard(void **unused)
{
	run_named("gr_block_discard");
}

static void q16_every_fault_of_map_and_unmap(void **unused)
{
	run_named("gr_space_map");
	run_named("gr_space_unmap");
	run_named("gr_txn");
}

static void q16_every_fault_of_listeners(void **unused)
{
	run_named("gr_listener");
}

/* Calls it, and says that it was called where nothing failed. */
#define CALL(function, ...)                                                                        \
	({                                                                                         \
		tally_nothing(#function);                                                          \
		function(__VA_ARGS__);                                                             \
	})

static int any_block(void *context, struct gr_block *block)
{
	return 0;
}

static int any_range(void *context, const struct gr_range *range)
{
	return 0;
}

/* What readers call has nothing that could fail: no allocation, no system call. */
static void look_everywhere(struct fault_world *world)
{
	struct gr_cursor cursor;
	struct iovec iov[8];
	struct gr_range range;
	int i;

	CALL(gr_cursor_init, &cursor, world->flat);
	CALL(gr_read_begin);
	for (i = 0; i < 64; i++) {
		CALL(gr_host, world->flat, BASE + i * PAGE, 8, RW);
		CALL(gr_cursor_host, &cursor, BASE + i * PAGE, 8, RW);
	}
	gr_host(world->wide, UINT64_MAX, 1, RW);
	CALL(gr_spans, world->wide, 0, 4 * PAGE, RW, iov, 8);
	CALL(gr_space_find, world->wide, 0, &range);
	CALL(gr_space_each_range, world->wide, any_range, NULL);
	CALL(gr_ram_each_block, world->ram, any_block, NULL);
	CALL(gr_block_by_name, world->ram, "anon");
	CALL(gr_block_by_host, world->ram, case_host(world->anon), NULL);
	CALL(gr_block_by_offset, world->ram, 0, NULL);
	CALL(gr_read_end);
}

static void move_and_pin(struct fault_world *world)
{
	struct gr_pin pins[8], pin;
	char buf[64];
	uint64_t value, expected = 0, offset;
	uint32_t expected_32 = 0;
	int i, found, fd;

	CALL(gr_load, world->wide, 0, buf, sizeof(buf));
	CALL(gr_store, world->wide, 0, buf, sizeof(buf));
	CALL(gr_fill, world->wide, 8, 1, 16);
	CALL(gr_load_u64, world->wide, 1, &value);
	CALL(gr_store_u64, world->wide, UINT64_MAX - 7, 1);
	CALL(gr_cmpxchg_u64, world->wide, 0, &expected, 1);
	CALL(gr_cmpxchg_u32, world->wide, 8, &expected_32, 1);
	assert_ok(CALL(gr_pin, world->wide, 0, 8, RW, &pin));
	CALL(gr_unpin, &pin);
	assert_ok(CALL(gr_block_pin, world->anon, 0, 8, GR_READ, &pin));
	gr_unpin(&pin);
	found = CALL(gr_pin_spans, world->wide, 0, 2 * PAGE, RW, pins, 8);
	for (i = 0; i < found; i++)
		gr_unpin(&pins[i]);
	gr_load(world->wide, 64 * GIB, buf, 8); /* errors too */
	gr_pin(world->wide, 64 * GIB, 8, RW, &pin);
	assert_ok(CALL(gr_block_share_fd, world->memfd, &fd, &offset));
}

static void read_everything(struct fault_world *world)
{
	struct gr_block_info info;
	struct gr_ram_stats stats;

	look_everywhere(world);
	move_and_pin(world);
	CALL(gr_block_get_info, world->anon, &info);
	CALL(gr_ram_get_stats, world->ram, &stats);
	CALL(gr_space_name, world->wide);
	CALL(gr_version);
	CALL(gr_last_error);
}

static void q16_reading_has_nothing_that_can_fail(void **unused)
{
	struct fault_world world;

	fault_world_open(&world, true, NULL);
	assert_int_equal(fault_count(read_everything, &world), 0);
	fault_world_close(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(q16_every_fault_of_opening_and_closing),
		cmocka_unit_test(q7_q16_every_fault_of_a_window),
		cmocka_unit_test(q17_q30_every_fault_of_a_new_block),
		cmocka_unit_test(q16_every_fault_of_a_delete),
		cmocka_unit_test(q16_every_fault_of_a_resize),
		cmocka_unit_test(q16_every_fault_of_a_discard),
		cmocka_unit_test(q16_every_fault_of_map_and_unmap),
		cmocka_unit_test(q16_every_fault_of_listeners),
		cmocka_unit_test(q16_reading_has_nothing_that_can_fail),
	};

	case_watchdog(110);
	assert_ok(gr_sigbus_install());
	return cmocka_run_group_tests_name("every fault", tests, NULL, NULL);
}
