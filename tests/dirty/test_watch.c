/* SPDX-License-Identifier: MIT */
/*
 * Watches: writes that nobody marks, in both modes, on each kind of memory. What the machine lacks
 * is said and skipped.
 */
#include "../fault/tally.h"
#include "testing.h"
#include <fcntl.h>
#include <guestram/dirty.h>
#include <os/hooks.h>

#define PAGES 40

enum kind { ANON, SHARED_ANON, MEMFD, HUGE, FILE_SHARED, FILE_PRIVATE, KINDS };
static const char *const kind_names[] = {"anonymous",  "shared anonymous", "memfd",
					 "huge pages", "shared file",	   "private file"};

static struct gr_ram *ram;
static struct gr_dirty *client;
static struct gr_dirty_source *watch;
static char path[] = "/tmp/guestram-watch-XXXXXX";

/* NULL: the machine has no such memory. */
static struct gr_block *make(enum kind kind, const char *name, uint64_t pages, uint64_t maximum)
{
	struct gr_block_opts opts = {
		.name = name, .length = pages * PAGE, .max_length = maximum * PAGE};
	struct gr_block *block;
	int fd, rc;

	switch (kind) {
	case SHARED_ANON:
		opts.flags = GR_SHARED;
		break;
	case MEMFD:
		opts.backing = GR_BACKING_MEMFD;
		break;
	case HUGE:
		opts.page_size = 2 * MIB;
		opts.length = pages * 2 * MIB;
		opts.max_length = maximum * 2 * MIB;
		break;
	case FILE_SHARED:
	case FILE_PRIVATE:
		opts.backing = GR_BACKING_FILE;
		opts.flags = kind == FILE_SHARED ? GR_SHARED : 0;
		strcpy(path, "/tmp/guestram-watch-XXXXXX");
		fd = mkstemp(path);
		assert_true(fd >= 0);
		unlink(path);
		opts.fd = fd;
		assert_int_equal(ftruncate(fd, pages * PAGE), 0);
		opts.max_length = 0;
		break;
	default:
		break;
	}
	rc = gr_block_new(ram, &opts, &block);
	if (kind == FILE_SHARED || kind == FILE_PRIVATE)
		close(opts.fd);
	if (kind == HUGE && rc == -ENOMEM)
		return NULL;
	assert_ok(rc);
	return block;
}

static const char *harvest(struct gr_block *block)
{
	uint64_t offset, length, page = info_of(block).page_size;
	static char text[4096];
	struct gr_harvest *got;
	size_t at = 0;

	assert_ok(gr_dirty_harvest(client, block, 0, 0, &got));
	text[0] = 0;
	while (gr_harvest_next(got, &offset, &length))
		at += snprintf(text + at, sizeof(text) - at, at ? " %llu+%llu" : "%llu+%llu",
			       (unsigned long long)(offset / page),
			       (unsigned long long)(length / page));
	gr_harvest_commit(got);
	return text;
}

static int open_all(enum gr_watch_mode mode)
{
	const struct gr_dirty_opts opts = {.name = "test"};
	int rc;

	assert_ok(gr_ram_open(NULL, &ram));
	rc = gr_dirty_watch_open(ram, mode, &watch);
	if (rc == -ENOTSUP || rc == -EPERM) {
		print_message("skipped: %s\n", gr_last_error());
		assert_ok(gr_ram_close(ram));
		return rc;
	}
	assert_ok(rc);
	assert_int_equal(gr_dirty_watch_mode(watch), mode);
	assert_ok(gr_dirty_open(ram, &opts, &client));
	return 0;
}

static void close_all(void)
{
	assert_ok(gr_dirty_close(client));
	gr_dirty_source_close(watch);
	assert_ok(gr_ram_close(ram));
}

/* A write of the kernel's. */
static void read_into(char *to)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	assert_int_equal(read(fd, to, 3), 3);
	close(fd);
}

static void see_writes(enum kind kind)
{
	struct gr_block *block = make(kind, kind_names[kind], kind == HUGE ? 4 : PAGES, 0);
	uint64_t page;
	char *host;

	if (!block) {
		print_message("skipped: no huge pages are set aside (vm.nr_hugepages)\n");
		return;
	}
	page = info_of(block).page_size;
	host = info_of(block).host;
	harvest(block); /* what making it has done */
	assert_string_equal(harvest(block), "");
	host[0] = 1;
	host[3 * page + 7] = 1;
	assert_string_equal(harvest(block), "0+1 3+1");
	assert_string_equal(harvest(block), "");
	assert_true(host[0] == 1 && host[page] == 0); /* reading does not count */
	assert_string_equal(harvest(block), "");
	host[3 * page] = 2; /* a page that was written before */
	read_into(host + page + 5);
	assert_string_equal(harvest(block), "1+1 3+1");
	if (kind != FILE_SHARED && kind != FILE_PRIVATE && kind != HUGE) {
		assert_ok(gr_block_discard(block, 3 * page, page));
		assert_string_equal(harvest(block), "3+1");
		assert_int_equal(host[3 * page], 0);
		harvest(block);
		host[3 * page] = 1;
		assert_string_equal(harvest(block), "3+1");
	}
	assert_ok(gr_block_delete(block));
	assert_ok(gr_ram_drain(ram, LONG_MS));
}

static void see_all(enum gr_watch_mode mode)
{
	if (open_all(mode) < 0)
		skip();
	for (unsigned kind = 0; kind < KINDS; kind++) {
		/* before 6.7 a file's pages cannot be protected */
		if (mode == GR_WATCH_SYNC && kind >= FILE_SHARED)
			continue;
		see_writes(kind);
	}
	close_all();
}

static void async_sees_each_write_on_each_kind(void **unused)
{
	see_all(GR_WATCH_ASYNC);
}

static void sync_sees_each_write_on_each_kind(void **unused)
{
	see_all(GR_WATCH_SYNC);
}

static void blocks_there_before_and_writes_from_before(enum gr_watch_mode mode)
{
	const struct gr_dirty_opts opts = {.name = "test"};
	struct gr_block *block;
	char *host;
	int rc;

	assert_ok(gr_ram_open(NULL, &ram));
	block = make(ANON, "old", PAGES, 0);
	host = info_of(block).host;
	memset(host, 1, 10 * PAGE);
	rc = gr_dirty_watch_open(ram, mode, &watch);
	if (rc == -ENOTSUP || rc == -EPERM) {
		assert_ok(gr_ram_close(ram));
		skip();
	}
	assert_ok(rc);
	assert_ok(gr_dirty_open(ram, &opts, &client));
	assert_string_equal(harvest(block), "");
	host[5 * PAGE] = 2;
	host[39 * PAGE] = 2;
	assert_string_equal(harvest(block), "5+1 39+1");
	host[6 * PAGE] = 2;
	/* it goes, and what it knew stays; nothing is protected any more */
	gr_dirty_source_close(watch);
	host[7 * PAGE] = 2;
	assert_string_equal(harvest(block), "6+1");
	assert_ok(gr_dirty_watch_open(ram, mode, &watch));
	host[8 * PAGE] = 2;
	assert_string_equal(harvest(block), "8+1");
	close_all();
}

static void async_on_what_was_there(void **unused)
{
	blocks_there_before_and_writes_from_before(GR_WATCH_ASYNC);
}

static void sync_on_what_was_there(void **unused)
{
	blocks_there_before_and_writes_from_before(GR_WATCH_SYNC);
}

static void grow_and_shrink(enum gr_watch_mode mode)
{
	struct gr_block *block;
	char *host;

	if (open_all(mode) < 0)
		skip();
	block = make(MEMFD, "grows", 4, 64);
	host = info_of(block).host;
	harvest(block);
	assert_ok(gr_block_resize(block, 20 * PAGE));
	assert_string_equal(harvest(block), "4+16");
	host[19 * PAGE] = 1;
	assert_string_equal(harvest(block), "19+1");
	/* away and back with no harvest in between: other pages stand there now */
	assert_ok(gr_block_resize(block, 2 * PAGE));
	assert_ok(gr_block_resize(block, 20 * PAGE));
	host[1 * PAGE] = 1;
	assert_string_equal(harvest(block), "1+19");
	host[10 * PAGE] = 1;
	assert_string_equal(harvest(block), "10+1");
	close_all();
}

static void async_follows_resizes(void **unused)
{
	grow_and_shrink(GR_WATCH_ASYNC);
}

static void sync_follows_resizes(void **unused)
{
	grow_and_shrink(GR_WATCH_SYNC);
}

/* ---------------------------------------------------------------------------------- threads */

static int stop;
static char *shared;

static void *scribble(void *arg)
{
	struct rng rng = {(uintptr_t)arg + 5};
	uint64_t count = 0;

	while (!get(&stop))
		__atomic_store_n(
			(uint64_t *)(shared + rng_below(&rng, PAGES) * PAGE + (uintptr_t)arg * 8),
			++count, __ATOMIC_RELAXED);
	return NULL;
}

static void race(enum gr_watch_mode mode)
{
	static char copy[PAGES * PAGE];
	struct gr_harvest *got;
	pthread_t threads[2];
	uint64_t offset, length;
	struct gr_block *block;
	int64_t end;

	if (open_all(mode) < 0)
		skip();
	block = make(MEMFD, "b", PAGES, 0);
	shared = info_of(block).host;
	memset(copy, 0, sizeof(copy));
	set(&stop, 0);
	for (uintptr_t i = 0; i < 2; i++)
		threads[i] = thread_start(scribble, (void *)i);
	for (end = now_ms() + 700;;) {
		bool last = now_ms() >= end;

		if (last) {
			set(&stop, 1);
			for (unsigned i = 0; i < 2; i++)
				thread_join(threads[i]);
		}
		assert_ok(gr_dirty_harvest(client, block, 0, 0, &got));
		while (gr_harvest_next(got, &offset, &length))
			for (uint64_t at = offset; at < offset + length; at += 8)
				*(uint64_t *)(copy + at) = __atomic_load_n(
					(const uint64_t *)(shared + at), __ATOMIC_RELAXED);
		gr_harvest_commit(got);
		if (last)
			break;
	}
	assert_memory_equal(copy, shared, PAGES * PAGE);
	close_all();
}

static void q15_async_misses_no_write(void **unused)
{
	race(GR_WATCH_ASYNC);
}

static void q15_sync_misses_no_write(void **unused)
{
	race(GR_WATCH_SYNC);
}

/* ------------------------------------------------------------------------------------ faults */

static _Atomic int fault_at, fault_count; /* the watch's thread counts, too */
static const char *_Atomic failed_call;

static int fail_once(const char *call)
{
	if (++fault_count != fault_at)
		return 0;
	failed_call = call;
	return EIO;
}

/* The watch's thread may be at a call. Release: pairs with gr__fault(). */
static void hook(int (*fault)(const char *call))
{
	__atomic_store_n(&gr__hook_fault, fault, __ATOMIC_RELEASE);
}

static void every_fault_of(enum gr_watch_mode mode)
{
	struct gr_harvest *got;
	struct gr_block *block;
	unsigned positions = 0;
	int rc;

	if (open_all(mode) < 0)
		skip();
	gr_dirty_source_close(watch);
	block = make(MEMFD, "b", PAGES, 0);
	harvest(block);
	for (fault_at = 1;; fault_at++) {
		fault_count = 0;
		hook(fail_once);
		rc = gr_dirty_watch_open(ram, mode, &watch);
		hook(NULL);
		if (!rc)
			break;
		assert_true(rc < 0);
		tally_fault("gr_dirty_watch_open", failed_call);
		positions++;
	}
	((char *)info_of(block).host)[7 * PAGE] = 1;
	for (fault_at = 1;; fault_at++) {
		fault_count = 0;
		hook(fail_once);
		rc = gr_dirty_harvest(client, block, 0, 0, &got);
		hook(NULL);
		if (!rc)
			break;
		assert_true(rc < 0);
		tally_fault("gr_dirty_harvest", failed_call);
		positions++;
	}
	fault_count = 0;
	hook(fail_once);
	assert_int_not_equal(gr_dirty_watch_mode(watch), GR_WATCH_AUTO);
	hook(NULL);
	assert_int_equal(fault_count, 0);
	tally_nothing("gr_dirty_watch_mode");
	/* the failures have lost nothing */
	assert_int_equal(gr_harvest_bytes(got), PAGE);
	gr_harvest_commit(got);
	assert_true(positions >= 7);
	close_all();
}

static void async_every_fault(void **unused)
{
	every_fault_of(GR_WATCH_ASYNC);
}

static void sync_every_fault(void **unused)
{
	every_fault_of(GR_WATCH_SYNC);
}

/* A kernel without WP_ASYNC: AUTO takes the other. */
static int no_async(const char *call)
{
	static int calls;

	return !strcmp(call, "uffdio.api") && !calls++ ? EINVAL : 0;
}

static void auto_falls_back(void **unused)
{
	int rc;

	assert_ok(gr_ram_open(NULL, &ram));
	gr__hook_fault = no_async;
	rc = gr_dirty_watch_open(ram, GR_WATCH_AUTO, &watch);
	gr__hook_fault = NULL;
	if (rc == -EPERM || rc == -ENOTSUP) {
		print_message("skipped: %s\n", gr_last_error());
		assert_ok(gr_ram_close(ram));
		skip();
	}
	assert_ok(rc);
	assert_int_equal(gr_dirty_watch_mode(watch), GR_WATCH_SYNC);
	gr_dirty_source_close(watch);
	assert_int_equal(gr_dirty_watch_open(ram, 7, &watch), -EINVAL);
	assert_ok(gr_ram_close(ram));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(async_sees_each_write_on_each_kind),
		cmocka_unit_test(sync_sees_each_write_on_each_kind),
		cmocka_unit_test(async_on_what_was_there),
		cmocka_unit_test(sync_on_what_was_there),
		cmocka_unit_test(async_follows_resizes),
		cmocka_unit_test(sync_follows_resizes),
		cmocka_unit_test(q15_async_misses_no_write),
		cmocka_unit_test(q15_sync_misses_no_write),
		cmocka_unit_test(async_every_fault),
		cmocka_unit_test(sync_every_fault),
		cmocka_unit_test(auto_falls_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
