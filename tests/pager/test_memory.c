/* SPDX-License-Identifier: MIT */
/*
 * A pager over blocks of this process: every byte of every page, on each kind of memory, touched or
 * fetched ahead, discarded, shrunk, unplugged and deleted meanwhile, with a source that is slow or
 * fails.
 *
 * Threads: touchers, which leave what they saw to be judged.
 */
#include "pattern.h"
#include <fcntl.h>
#include <guestram/plug.h>
#include <setjmp.h>
#include <signal.h>

static struct gr_ram *ram;
static char path[64];

static int open_ram(void **unused)
{
	return gr_ram_open(NULL, &ram);
}

static int close_ram(void **unused)
{
	return gr_ram_close(ram);
}

static struct gr_pager_stats pager_stats(struct gr_pager *pager)
{
	struct gr_pager_stats stats;

	gr_pager_get_stats(pager, &stats);
	return stats;
}

static void check_pages(const struct pattern_source *source, unsigned block, const char *host,
			uint64_t from, uint64_t to)
{
	char text[200];

	for (uint64_t at = from; at < to; at += PAGE) {
		if (page_is_right(source, block, at, host))
			continue;
		pattern_describe(block, at, host + at, text, sizeof(text));
		fail_msg("%s", text);
	}
}

static void delete_block(struct gr_block *block)
{
	assert_ok(gr_block_delete(block));
	assert_ok(gr_ram_drain(ram, LONG_MS));
}

/* ------------------------------------------------------------------------- kinds of memory */

static const struct kind {
	const char *name;
	struct gr_block_opts opts;
	uint64_t length;
} kinds[] = {
	{"private", {.backing = GR_BACKING_ANON}, 8 * MIB},
	{"shared", {.backing = GR_BACKING_ANON, .flags = GR_SHARED}, 8 * MIB},
	{"memfd", {.backing = GR_BACKING_MEMFD}, 8 * MIB},
	{"file",
	 {.backing = GR_BACKING_FILE, .flags = GR_SHARED | GR_TEMPORARY, .path = "/dev/shm"},
	 8 * MIB},
	{"huge", {.backing = GR_BACKING_ANON, .page_size = 2 * MIB}, 16 * MIB},
	{"huge memfd", {.backing = GR_BACKING_MEMFD, .page_size = 2 * MIB}, 16 * MIB},
};

/* NULL: this machine has none of it. */
static struct gr_block *new_kind(const struct kind *kind, const char *name)
{
	struct gr_block_opts opts = kind->opts;
	struct gr_block *block;
	int rc;

	opts.name = name;
	opts.length = kind->length;
	rc = gr_block_new(ram, &opts, &block);
	if (rc == -ENOMEM && opts.page_size)
		return NULL;
	assert_ok(rc);
	return block;
}

static void with_huge_pages(unsigned pages)
{
	FILE *file = fopen("/proc/sys/vm/nr_hugepages", "w");

	if (!file)
		return;
	fprintf(file, "%u\n", pages);
	fclose(file);
}

static void every_byte_of_every_kind(void **unused)
{
	with_huge_pages(20);
	for (unsigned i = 0; i < COUNT_OF(kinds); i++) {
		for (unsigned ahead = 0; ahead < 2; ahead++) {
			struct gr_pager_opts opts = {.flags = ahead ? 0 : GR_PAGER_NO_PREFETCH};
			struct gr_block *block = new_kind(&kinds[i], "b1");
			struct pattern_source source;
			struct gr_pager_stats stats;
			struct gr_pager *pager;
			char *host;

			if (!block) {
				print_message("%s: not here\n", kinds[i].name);
				continue;
			}
			pattern_source_init(&source, 2, kinds[i].length);
			source.zero_every = 3;
			host = info_of(block).host;
			memset(host, 0x55, kinds[i].length); /* what it was before is gone */
			assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
			if (!ahead)
				check_pages(&source, 1, host, 0, kinds[i].length);
			assert_ok(gr_pager_wait(pager, LONG_MS));
			check_pages(&source, 1, host, 0, kinds[i].length);
			stats = pager_stats(pager);
			assert_int_equal(stats.bytes_there, kinds[i].length);
			assert_int_equal(stats.bytes, kinds[i].length);
			if (ahead)
				assert_true(stats.prefetched > kinds[i].length / 2);
			else
				assert_int_equal(stats.prefetched, 0);
			assert_ok(gr_pager_close(pager));
			memset(host, 0x77, kinds[i].length); /* it is ordinary memory again */
			delete_block(block);
		}
	}
	with_huge_pages(0);
}

/* Registration is gone when all is there: so another userfaultfd can have it. */
static void it_ends_by_itself(void **unused)
{
	struct gr_block *block = new_anon(ram, "b0", 4 * MIB, 4 * MIB);
	struct pattern_source source;
	struct gr_pager *pager, *second;

	pattern_source_init(&source, 1, 4 * MIB);
	assert_ok(gr_pager_open(ram, &source.source, NULL, &pager));
	assert_ok(gr_pager_wait(pager, LONG_MS));
	assert_ok(gr_pager_open(ram, &source.source, NULL, &second));
	assert_ok(gr_pager_wait(second, LONG_MS));
	check_pages(&source, 0, info_of(block).host, 0, 4 * MIB);
	assert_error(gr_ram_close(ram), -EBUSY, "");
	assert_ok(gr_pager_close(second));
	assert_ok(gr_pager_close(pager));
	delete_block(block);
}

/* Pages in the page cache need no worker. */
static void what_is_cached_needs_no_worker(void **unused)
{
	const uint64_t length = 4 * MIB;
	struct gr_pager_opts opts = {.flags = GR_PAGER_NO_PREFETCH};
	struct gr_block *block = new_anon(ram, "b0", length, length);
	struct pattern_source source;
	struct gr_pager *pager;

	pattern_source_init(&source, 1, length);
	assert_true(pattern_source_to_file(&source, path));
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	check_pages(&source, 0, info_of(block).host, 0, length);
	print_message("%d reads by workers, p50 %llu ns, p99 %llu ns\n", get(&source.reads),
		      (unsigned long long)pager_stats(pager).p50_ns,
		      (unsigned long long)pager_stats(pager).p99_ns);
	assert_true(get(&source.reads) < 100);
	assert_ok(gr_pager_wait(pager, LONG_MS));
	assert_ok(gr_pager_close(pager));
	gr_page_source_close(&source.source);
	unlink(path);
	delete_block(block);
}

/* Of a packed source's chunk all pages come with the one that is touched. */
static void a_chunk_comes_whole(void **unused)
{
	struct gr_pager_opts opts = {.flags = GR_PAGER_NO_PREFETCH};
	struct gr_block *block = new_anon(ram, "b0", 4 * MIB, 4 * MIB);
	const char *host = info_of(block).host;
	struct pattern_source source;
	struct gr_pager *pager;

	pattern_source_init(&source, 1, 4 * MIB);
	source.chunk = 64 * KIB;
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	check_pages(&source, 0, host, 5 * PAGE, 6 * PAGE);
	assert_true(wait_until(pager_stats(pager).bytes_there == 64 * KIB));
	check_pages(&source, 0, host, 0, 4 * MIB);
	assert_int_equal(get(&source.reads), 64);
	assert_ok(gr_pager_close(pager));
	delete_block(block);
}

/* ------------------------------------------------------------------------------- refusals */

static void what_does_not_fit_is_refused(void **unused)
{
	struct gr_block *block = new_anon(ram, "b0", 4 * MIB, 4 * MIB), *caller, *other;
	char *host = info_of(block).host, *own;
	struct gr_pager_opts opts = {0};
	struct gr_discard_claim *claim;
	struct pattern_source source;
	struct gr_pager *pager, *second;

	memset(host, 0x11, 4 * MIB);
	pattern_source_init(&source, 1, 2 * MIB);
	assert_error(gr_pager_open(ram, &source.source, NULL, &pager), -ERANGE, "b0");
	pattern_source_init(&source, 1, 4 * MIB);
	assert_error(gr_pager_open(ram, NULL, NULL, &pager), -EINVAL, "source");
	opts.flags = 1u << 31;
	assert_error(gr_pager_open(ram, &source.source, &opts, &pager), -EINVAL, "flags");
	opts.flags = 0;
	opts.reserved[3] = 1;
	assert_error(gr_pager_open(ram, &source.source, &opts, &pager), -EINVAL, "reserved");
	opts.reserved[3] = 0;
	opts.workers = 65;
	assert_error(gr_pager_open(ram, &source.source, &opts, &pager), -EINVAL, "65 workers");
	opts.workers = 0;
	opts.block = block;
	opts.name = "b7";
	assert_error(gr_pager_open(ram, &source.source, &opts, &pager), -ENOENT, "b7");
	opts.name = NULL;
	opts.source_offset = PAGE;
	assert_error(gr_pager_open(ram, &source.source, &opts, &pager), -ERANGE, "0x1000");
	opts.source_offset = 17;
	assert_error(gr_pager_open(ram, &source.source, &opts, &pager), -EINVAL, "0x11");
	opts.source_offset = 0;
	opts.prefetch = "/dev/null";
	assert_error(gr_pager_open(ram, &source.source, &opts, &pager), -EBADMSG, "working set");
	opts.prefetch = NULL;

	own = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	caller = new_caller(ram, "b1", own, MIB, NULL);
	assert_error(gr_pager_open(ram, &source.source, NULL, &pager), -ENOTSUP, "b1");
	delete_block(caller);
	munmap(own, MIB);
	other = new_anon(ram, "b9", MIB, MIB);
	assert_error(gr_pager_open(ram, &source.source, NULL, &pager), -ENOENT, "b9");
	delete_block(other);
	assert_ok(gr_discard_claim_open(ram, block, GR_DISCARD_FORBID, "a device", &claim));
	assert_error(gr_pager_open(ram, &source.source, NULL, &pager), -EBUSY, "a device");
	gr_discard_claim_close(claim);

	/* nothing has changed by all that */
	for (uint64_t at = 0; at < 4 * MIB; at++)
		if (host[at] != 0x11)
			fail_msg("byte %#llx", (unsigned long long)at);

	opts.flags = GR_PAGER_NO_PREFETCH;
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	assert_error(gr_pager_open(ram, &source.source, NULL, &second), -EBUSY, "has a pager");
	assert_error(gr_pager_wait(pager, 10), -ETIMEDOUT, "missing");
	gr_read_begin();
	assert_int_equal(gr_pager_close(pager), -EDEADLK);
	gr_read_end();
	check_pages(&source, 0, host, 0, 4 * MIB);
	assert_ok(gr_pager_close(pager));
	assert_ok(gr_pager_close(NULL));
	delete_block(block);
}

/* ------------------------------------------------------------------------------- discards */

static void what_is_discarded_stays_zero(void **unused)
{
	for (unsigned i = 0; i < COUNT_OF(kinds); i++) {
		struct gr_pager_opts opts = {.flags = GR_PAGER_NO_PREFETCH};
		uint64_t length = kinds[i].length, half = length / 2;
		struct pattern_source source;
		struct gr_pager_stats stats;
		struct gr_block *block;
		struct gr_pager *pager;
		char *host;

		if (kinds[i].opts.page_size)
			with_huge_pages(20);
		block = new_kind(&kinds[i], "b0");
		if (!block)
			continue;
		host = info_of(block).host;
		pattern_source_init(&source, 1, length);
		assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
		check_pages(&source, 0, host, 0, PAGE); /* one that was there */
		assert_ok(gr_block_discard(block, 0, half));
		stats = pager_stats(pager);
		assert_true(stats.removed >= half - 2 * MIB && stats.removed < half);
		assert_true(zeroes_are(host, half));
		check_pages(&source, 0, host, half, length);
		assert_true(zeroes_are(host, half));
		assert_ok(gr_pager_wait(pager, LONG_MS));
		assert_true(zeroes_are(host, half));
		assert_ok(gr_pager_close(pager));
		delete_block(block);
	}
	with_huge_pages(0);
}

struct race {
	struct pattern_source source;
	struct gr_block *block;
	char *host;
	uint64_t length;
	int *discarded; /* by page, atomic: 1 it is under way, 2 it is over */
	int stop;
	uint64_t touched;
	char wrong[200];
};

static void *touch_pages(void *arg)
{
	struct race *race = arg;
	struct rng rng = {(uintptr_t)&rng};
	uint64_t pages = race->length / PAGE, count = 0;

	while (!get(&race->stop)) {
		uint64_t page = rng_below(&rng, pages);
		int before = get(&race->discarded[page]);
		unsigned char copy[4096];
		bool data, zero;

		memcpy(copy, race->host + page * PAGE, PAGE);
		data = pattern_is(0, page * PAGE, copy, PAGE);
		zero = zeroes_are(copy, PAGE);
		count++;
		/* while it is being discarded a page may be torn in two, but not come back */
		if (before == 2 ? zero : get(&race->discarded[page]) ? true : data)
			continue;
		snprintf(race->wrong, sizeof(race->wrong),
			 "page %llu, discarded %d: neither (data %d, zero %d)",
			 (unsigned long long)page, before, data, zero);
		break;
	}
	__atomic_add_fetch(&race->touched, count, __ATOMIC_SEQ_CST);
	return NULL;
}

static void *discard_pages(void *arg)
{
	struct race *race = arg;
	struct rng rng = {(uintptr_t)&rng + 1};
	uint64_t pages = race->length / PAGE, i;

	while (!get(&race->stop)) {
		uint64_t page = rng_below(&rng, pages), run = 1 + rng_below(&rng, 16);

		if (page + run > pages)
			run = pages - page;
		for (i = 0; i < run; i++) {
			int none = 0;

			__atomic_compare_exchange_n(&race->discarded[page + i], &none, 1, false,
						    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		}
		if (gr_block_discard(race->block, page * PAGE, run * PAGE) < 0)
			snprintf(race->wrong, sizeof(race->wrong), "%s", gr_last_error());
		for (i = 0; i < run; i++)
			set(&race->discarded[page + i], 2);
	}
	return NULL;
}

/* P43: touches, discards and what is fetched ahead, all at once, over and over. */
static void discards_race_with_all(void **unused)
{
	const uint64_t length = 16 * MIB;
	struct gr_pager_stats stats;
	uint64_t removed = 0, touched = 0;

	for (unsigned round = 0; round < 12; round++) {
		struct race race = {.length = length};
		pthread_t threads[3];
		struct gr_pager *pager;

		pattern_source_init(&race.source, 1, length);
		race.source.delay_us = round % 3 * 50;
		race.block = round % 2 ? new_memfd(ram, "b0", length)
				       : new_anon(ram, "b0", length, length);
		race.host = info_of(race.block).host;
		race.discarded = calloc(length / PAGE, sizeof(int));
		assert_ok(gr_pager_open(ram, &race.source.source, NULL, &pager));
		threads[0] = thread_start(touch_pages, &race);
		threads[1] = thread_start(touch_pages, &race);
		threads[2] = thread_start(discard_pages, &race);
		assert_ok(gr_pager_wait(pager, LONG_MS));
		sleep_us(5000);
		set(&race.stop, 1);
		for (unsigned i = 0; i < COUNT_OF(threads); i++)
			thread_join(threads[i]);
		if (race.wrong[0])
			fail_msg("round %u: %s", round, race.wrong);
		for (uint64_t page = 0; page < length / PAGE; page++) {
			const char *host = race.host + page * PAGE;

			if (race.discarded[page] ? zeroes_are(host, PAGE)
						 : pattern_is(0, page * PAGE, host, PAGE))
				continue;
			fail_msg("round %u: page %llu, discarded %d", round,
				 (unsigned long long)page, race.discarded[page]);
		}
		stats = pager_stats(pager);
		removed += stats.removed;
		touched += race.touched;
		assert_ok(gr_pager_close(pager));
		free(race.discarded);
		delete_block(race.block);
	}
	print_message("%llu pages touched, %llu KiB removed before they came\n",
		      (unsigned long long)touched, (unsigned long long)removed / 1024);
	assert_true(removed > 0);
}

/* A read is under way when its page is discarded: its bytes are dropped. */
static void a_read_under_way_does_not_bring_it_back(void **unused)
{
	struct gr_block *block = new_anon(ram, "b0", MIB, MIB);
	struct gr_pager_opts opts = {.workers = 4};
	const char *host = info_of(block).host;
	struct pattern_source source;
	struct gr_pager *pager;
	struct gate gate;

	gate_init(&gate);
	pattern_source_init(&source, 1, MIB);
	source.hold = &gate;
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	assert_true(wait_until(get(&source.holding) == 4));
	assert_ok(gr_block_discard(block, 256 * KIB, 512 * KIB));
	assert_true(zeroes_are(host + 256 * KIB, 512 * KIB));
	for (unsigned i = 0; i < 4; i++)
		gate_open(&gate);
	assert_ok(gr_pager_wait(pager, LONG_MS));
	assert_true(zeroes_are(host + 256 * KIB, 512 * KIB));
	check_pages(&source, 0, host, 0, 256 * KIB);
	check_pages(&source, 0, host, 768 * KIB, MIB);
	assert_ok(gr_pager_close(pager));
	delete_block(block);
}

/* ---------------------------------------------------------------- blocks that change and go */

static void what_shrinks_is_zero_when_it_grows(void **unused)
{
	struct gr_pager_opts opts = {.flags = GR_PAGER_NO_PREFETCH};
	struct gr_block *block = new_anon(ram, "b0", 8 * MIB, 16 * MIB);
	struct pattern_source source;
	struct gr_pager *pager;
	char *host = info_of(block).host;

	pattern_source_init(&source, 1, 16 * MIB);
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	check_pages(&source, 0, host, 0, PAGE);
	assert_ok(gr_block_resize(block, 4 * MIB));
	assert_ok(gr_block_resize(block, 12 * MIB));
	assert_true(zeroes_are(host + 4 * MIB, 8 * MIB));
	check_pages(&source, 0, host, 0, 4 * MIB);
	assert_ok(gr_pager_wait(pager, LONG_MS));
	assert_ok(gr_pager_close(pager));
	delete_block(block);
}

static void unplugged_granules_stay_zero(void **unused)
{
	struct gr_pager_opts opts = {.flags = GR_PAGER_NO_PREFETCH};
	struct gr_block *block = new_anon(ram, "b0", 16 * MIB, 16 * MIB);
	struct pattern_source source;
	struct gr_pager *pager;
	struct gr_plug *plug;
	char *host = info_of(block).host;

	assert_ok(gr_plug_open(block, NULL, &plug));
	assert_ok(gr_plug_add(plug, 0, 8 * MIB));
	pattern_source_init(&source, 1, 16 * MIB);
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	assert_int_equal(pager_stats(pager).bytes_there, 8 * MIB);
	assert_ok(gr_plug_add(plug, 8 * MIB, 2 * MIB));
	assert_true(zeroes_are(host + 8 * MIB, 2 * MIB));
	check_pages(&source, 0, host, 0, 2 * MIB);
	assert_ok(gr_plug_remove(plug, 0, 4 * MIB));
	assert_ok(gr_plug_add(plug, 0, 4 * MIB));
	assert_true(zeroes_are(host, 4 * MIB));
	check_pages(&source, 0, host, 4 * MIB, 8 * MIB);
	assert_ok(gr_pager_wait(pager, LONG_MS));
	assert_ok(gr_pager_close(pager));
	assert_ok(gr_plug_remove_all(plug));
	assert_ok(gr_plug_close(plug));
	delete_block(block);
}

/* A block goes while its pages come; the pager lives on with the others. */
static void a_block_may_be_deleted(void **unused)
{
	for (unsigned round = 0; round < 20; round++) {
		struct gr_block *block = new_anon(ram, "b0", 8 * MIB, 8 * MIB);
		struct gr_block *other = new_anon(ram, "b1", MIB, MIB);
		struct gr_pager_opts opts = {.flags = round & 1 ? GR_PAGER_NO_PREFETCH : 0};
		struct pattern_source source;
		struct gr_pager *pager;

		pattern_source_init(&source, 2, 8 * MIB);
		source.delay_us = 100;
		assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
		sleep_us(round * 200);
		delete_block(block);
		block = new_anon(ram, "b0", 8 * MIB, 8 * MIB); /* where the first was, maybe */
		memset(info_of(block).host, 0x42, 8 * MIB);
		check_pages(&source, 1, info_of(other).host, 0, MIB);
		assert_ok(gr_pager_wait(pager, LONG_MS));
		for (uint64_t at = 0; at < 8 * MIB; at += 64)
			assert_int_equal(((char *)info_of(block).host)[at], 0x42);
		assert_ok(gr_pager_close(pager));
		delete_block(block);
		delete_block(other);
	}
}

/* ------------------------------------------------------------------------- sources that fail */

struct toucher {
	const char *host;
	int done;
	unsigned char copy[4096];
};

static void *touch_one(void *arg)
{
	struct toucher *toucher = arg;

	memcpy(toucher->copy, toucher->host, PAGE);
	set(&toucher->done, 1);
	return NULL;
}

static void a_failing_source_stalls_and_is_asked_again(void **unused)
{
	struct gr_block *block = new_anon(ram, "b0", MIB, MIB);
	struct toucher toucher = {.host = (char *)info_of(block).host + 7 * PAGE};
	struct pattern_source source;
	struct gr_pager *pager;
	pthread_t thread;

	pattern_source_init(&source, 1, MIB);
	source.failing = EIO;
	assert_ok(gr_pager_open(ram, &source.source, NULL, &pager));
	thread = thread_start(touch_one, &toucher);
	assert_true(wait_until(pager_stats(pager).stalled && pager_stats(pager).failed_reads > 3 &&
			       pager_stats(pager).faults_waiting == 1));
	assert_int_equal(get(&toucher.done), 0);
	assert_int_equal(pager_stats(pager).bytes_there, 0);
	set(&source.failing, 0);
	assert_true(wait_until(get(&toucher.done)));
	thread_join(thread);
	assert_true(pattern_is(0, 7 * PAGE, toucher.copy, PAGE));
	assert_ok(gr_pager_wait(pager, LONG_MS));
	assert_int_equal(pager_stats(pager).stalled, 0);
	check_pages(&source, 0, info_of(block).host, 0, MIB);
	assert_ok(gr_pager_close(pager));
	delete_block(block);
}

/* The thread that reads events does not wait for workers: other touches are served. */
static void a_slow_read_holds_up_no_other(void **unused)
{
	struct gr_pager_opts opts = {.flags = GR_PAGER_NO_PREFETCH, .workers = 2};
	struct gr_block *block = new_anon(ram, "b0", MIB, MIB);
	char *host = info_of(block).host;
	struct toucher toucher = {.host = host};
	struct pattern_source source;
	struct gr_pager *pager;
	struct gate gate;
	pthread_t thread;

	gate_init(&gate);
	pattern_source_init(&source, 1, MIB);
	source.hold = &gate;
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	thread = thread_start(touch_one, &toucher);
	assert_true(wait_until(get(&source.holding) == 1));
	/* the reads that follow */
	__atomic_store_n(&source.hold, NULL, __ATOMIC_RELEASE);
	check_pages(&source, 0, host, MIB / 2, MIB);
	assert_int_equal(get(&toucher.done), 0);
	gate_open(&gate);
	assert_true(wait_until(get(&toucher.done)));
	thread_join(thread);
	assert_true(pattern_is(0, 0, toucher.copy, PAGE));
	assert_ok(gr_pager_close(pager));
	delete_block(block);
}

static sigjmp_buf jump;

static void on_signal(int signal)
{
	siglongjmp(jump, signal);
}

/* Closed before all is there: what is missing is an error, and no other bytes. */
static void what_never_comes_raises_sigbus(void **unused)
{
	struct gr_pager_opts opts = {.flags = GR_PAGER_NO_PREFETCH};
	struct gr_block *block = new_anon(ram, "b0", MIB, MIB);
	struct sigaction action = {.sa_handler = on_signal}, bus, segv;
	volatile char *host = info_of(block).host;
	struct pattern_source source;
	struct gr_pager *pager;
	int signal;

	pattern_source_init(&source, 1, MIB);
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	check_pages(&source, 0, info_of(block).host, 0, MIB / 2);
	assert_ok(gr_pager_close(pager));
	check_pages(&source, 0, info_of(block).host, 0, MIB / 2);
	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGSEGV, &action, &segv);
	signal = sigsetjmp(jump, 1);
	if (!signal) {
		(void)host[MIB / 2];
		fail_msg("a missing page was read");
	}
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	assert_true(signal == SIGBUS || signal == SIGSEGV);
	delete_block(block);
}

/* ---------------------------------------------------------------------------- working sets */

static void a_recorded_order_is_fetched_first(void **unused)
{
	static const unsigned touched[] = {900, 3, 4, 5, 700, 12, 13, 800};
	struct gr_block *block = new_anon(ram, "b0", 4 * MIB, 4 * MIB);
	char *host = info_of(block).host, text[300], beside[80];
	struct gr_pager_opts opts = {.record = path};
	struct pattern_source source;
	struct gr_pager_stats stats;
	struct gr_pager *pager;
	FILE *file;
	size_t got;

	pattern_source_init(&source, 1, 4 * MIB);
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	for (unsigned i = 0; i < COUNT_OF(touched); i++)
		check_pages(&source, 0, host, touched[i] * PAGE, (touched[i] + 1) * PAGE);
	assert_int_equal(pager_stats(pager).prefetched, 0);
	assert_ok(gr_pager_close(pager));
	delete_block(block);
	file = fopen(path, "r");
	assert_non_null(file);
	got = fread(text, 1, sizeof(text) - 1, file);
	text[got] = 0;
	fclose(file);
	assert_string_equal(text, "guestram working set 1\nblock b0\n384000 1000\n3000 3000\n"
				  "2bc000 1000\nc000 2000\n320000 1000\n");
	snprintf(beside, sizeof(beside), "%s.new", path);
	assert_int_equal(access(beside, F_OK), -1);

	block = new_anon(ram, "b0", 4 * MIB, 4 * MIB);
	host = info_of(block).host;
	opts = (struct gr_pager_opts){.prefetch = path, .flags = GR_PAGER_NO_PREFETCH};
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	assert_true(wait_until(pager_stats(pager).working_set_ns));
	assert_int_equal(pager_stats(pager).bytes_there, COUNT_OF(touched) * PAGE);
	for (unsigned i = 0; i < COUNT_OF(touched); i++)
		check_pages(&source, 0, host, touched[i] * PAGE, (touched[i] + 1) * PAGE);
	stats = pager_stats(pager);
	assert_int_equal(stats.faults, 0);
	assert_int_equal(stats.prefetched, COUNT_OF(touched) * PAGE);
	assert_ok(gr_pager_close(pager));
	delete_block(block);
	unlink(path);
}

/* Its moment is told when it has come, not when what was asked for after it has come, too. */
static void a_working_set_is_there_before_the_rest(void **unused)
{
	const unsigned delay_us = 20000;
	struct gr_block *block = new_anon(ram, "b0", 4 * MIB, 4 * MIB);
	struct gr_pager_opts opts = {.prefetch = path};
	struct pattern_source source;
	struct gr_pager_stats stats;
	struct gr_pager *pager;
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs("guestram working set 1\nblock b0\n384000 1000\n3000 3000\n", file);
	fclose(file);
	pattern_source_init(&source, 1, 4 * MIB);
	source.delay_us = delay_us;
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	assert_ok(gr_pager_wait(pager, -1));
	stats = pager_stats(pager);
	assert_true(stats.working_set_ns >= delay_us * UINT64_C(1000));
	assert_true(stats.complete_ns > stats.working_set_ns + delay_us * UINT64_C(1000));
	assert_ok(gr_pager_close(pager));
	delete_block(block);
	unlink(path);
}

static void damaged_working_sets_are_refused(void **unused)
{
	static const char *const bad[] = {
		"",
		"guestram working set 2\n",
		"guestram working set 1\n1000",
		"guestram working set 1\n1000 \n",
		"guestram working set 1\n1000 100\n",
		"guestram working set 1\n1000 0\n",
		"guestram working set 1\n12345678901234567 1000\n",
		"guestram working set 1\nfffffffffffff000 2000\n",
		"guestram working set 1\nblock %4\n",
		"guestram working set 1\nblock %00\n",
		"guestram working set 1\nblock \n",
	};
	struct gr_block *block = new_anon(ram, "b0", MIB, MIB);
	struct gr_pager_opts opts = {.prefetch = path};
	struct pattern_source source;
	struct gr_pager *pager;
	FILE *file;

	pattern_source_init(&source, 1, MIB);
	for (unsigned i = 0; i < COUNT_OF(bad); i++) {
		file = fopen(path, "w");
		assert_non_null(file);
		fputs(bad[i], file);
		fclose(file);
		if (gr_pager_open(ram, &source.source, &opts, &pager) != -EBADMSG)
			fail_msg("taken: %s", bad[i]);
	}
	/* what lies outside, or in blocks that are not, is passed over */
	file = fopen(path, "w");
	assert_non_null(file);
	fputs("guestram working set 1\n7000 2000\nfffff000 100000000\nblock b77\n0 1000\n"
	      "block %62%30\n0 1000\nff000 fffff000\n",
	      file);
	fclose(file);
	opts.flags = GR_PAGER_NO_PREFETCH;
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	assert_true(wait_until(pager_stats(pager).working_set_ns));
	assert_int_equal(pager_stats(pager).bytes_there, 4 * PAGE);
	assert_ok(gr_pager_close(pager));
	delete_block(block);
	unlink(path);
}

/* Buffers in flight stay under what was allowed. */
static void memory_is_bounded(void **unused)
{
	const uint64_t length = 64 * MIB;
	struct gr_pager_opts opts = {.max_buffers = MIB};
	struct gr_block *block = new_anon(ram, "b0", length, length);
	struct pattern_source source;
	struct gr_pager *pager;

	pattern_source_init(&source, 1, length);
	assert_ok(gr_pager_open(ram, &source.source, &opts, &pager));
	assert_ok(gr_pager_wait(pager, LONG_MS));
	assert_true(pager_stats(pager).buffer_bytes_most <= MIB);
	assert_true(pager_stats(pager).buffer_bytes_most >= MIB / 2);
	check_pages(&source, 0, info_of(block).host, 0, length);
	assert_ok(gr_pager_close(pager));
	delete_block(block);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_byte_of_every_kind),
		cmocka_unit_test(it_ends_by_itself),
		cmocka_unit_test(what_is_cached_needs_no_worker),
		cmocka_unit_test(a_chunk_comes_whole),
		cmocka_unit_test(what_does_not_fit_is_refused),
		cmocka_unit_test(what_is_discarded_stays_zero),
		cmocka_unit_test(discards_race_with_all),
		cmocka_unit_test(a_read_under_way_does_not_bring_it_back),
		cmocka_unit_test(what_shrinks_is_zero_when_it_grows),
		cmocka_unit_test(unplugged_granules_stay_zero),
		cmocka_unit_test(a_block_may_be_deleted),
		cmocka_unit_test(a_failing_source_stalls_and_is_asked_again),
		cmocka_unit_test(a_slow_read_holds_up_no_other),
		cmocka_unit_test(what_never_comes_raises_sigbus),
		cmocka_unit_test(a_recorded_order_is_fetched_first),
		cmocka_unit_test(a_working_set_is_there_before_the_rest),
		cmocka_unit_test(damaged_working_sets_are_refused),
		cmocka_unit_test(memory_is_bounded),
	};

	snprintf(path, sizeof(path), "/tmp/guestram-pager-%d", (int)getpid());
	alarm(110);
	return cmocka_run_group_tests_name("pager in process", tests, open_ram, close_ram);
}
