/* SPDX-License-Identifier: MIT */
/*
 * Large pages while the guest is fetched: huge ones of 2 MiB, which come whole, and transparent
 * ones of memory whose pages are 4 KiB.
 */
#include "huge_pages.h"
#include "pair.h"
#include <sys/mman.h>

#define HUGE (2 * MIB)
#define BYTES (4 * HUGE)

/* Pages of both kinds in one huge page; and one that is all zero. */
static void fill_some(char *host)
{
	for (uint64_t at = 0; at < BYTES - HUGE; at += PAGE)
		if (at / PAGE % 3)
			memset(host + at, (int)(at / PAGE % 251) + 1, PAGE);
}

static bool make_blocks(struct pair *pair, const struct gr_block_opts *opts,
			struct gr_block *blocks[2])
{
	struct gr_ram *rams[2] = {pair->from.ram, pair->to.ram};

	for (unsigned i = 0; i < 2; i++) {
		if (!gr_block_new(rams[i], opts, &blocks[i]))
			continue;
		print_message("huge pages: %s\n", gr_last_error());
		return false;
	}
	return true;
}

/* What the guest does once it runs there: it reads all of it, and writes. */
struct reader {
	struct side *side;
	const char *here;
	char *there;
	uint64_t wrong;
};

static void *read_there(void *arg)
{
	struct reader *reader = arg;

	if (!wait_until(get(&reader->side->running)))
		return NULL;
	/* from the end: what is pushed comes from the beginning */
	for (uint64_t at = BYTES; at; at -= PAGE)
		if (memcmp(reader->here + at - PAGE, reader->there + at - PAGE, PAGE) != 0)
			reader->wrong++;
	return arg;
}

static char *dirtied; /* the sender's memory: all of it is written while it is sent */

static int write_all(void *context, const struct gr_migrate_stats *stats)
{
	if (stats->rounds == 1)
		gr_mark_host(dirtied, BYTES);
	return 0;
}

static void move(const struct gr_block_opts *opts, bool switched)
{
	struct gr_block *blocks[2];
	struct gr_migrate_ops ops = pair_ops;
	struct reader reader = {0};
	struct pair pair;
	pthread_t thread;

	pair_open(&pair, 2, PAIR_SOCKETS);
	if (!make_blocks(&pair, opts, blocks)) {
		pair_close(&pair);
		skip();
	}
	reader.side = &pair.to;
	reader.here = info_of(blocks[0]).host;
	reader.there = info_of(blocks[1]).host;
	madvise(info_of(blocks[0]).host, BYTES, MADV_HUGEPAGE); /* no more than wishes */
	madvise(reader.there, BYTES, MADV_HUGEPAGE);
	fill_some(info_of(blocks[0]).host);
	if (switched) {
		pair.from.opts.flags |= GR_MIGRATE_POSTCOPY;
		pair.from.opts.max_rounds = 1;
		pair.from.opts.max_downtime_ms = 1;
		pair.from.opts.max_bytes_per_second = 64 * MIB;
		pair.from.opts.ops = &ops;
		ops.progress = write_all;
		dirtied = info_of(blocks[0]).host;
	}
	thread = thread_start(read_there, &reader);
	pair_run(&pair);
	thread_join(thread);
	if (strstr(pair.from.why, "does not converge")) {
		print_message("no postcopy here: see vm.unprivileged_userfaultfd\n");
		pair_close(&pair);
		skip();
	}
	if (pair.from.rc || pair.to.rc)
		fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc, pair.to.why);
	assert_int_equal(pair.to.stats.postcopy, switched);
	if (switched)
		assert_true(pair.to.stats.requests > 0);
	assert_int_equal(reader.wrong, 0);
	assert_memory_equal(reader.here, reader.there, BYTES);
	print_message("%llu requests, %llu copied, %llu zero\n",
		      (unsigned long long)pair.to.stats.requests,
		      (unsigned long long)pair.to.stats.bytes_copied,
		      (unsigned long long)pair.to.stats.bytes_zero);
	pair_close(&pair);
}

static const struct gr_block_opts huge = {
	.name = "huge", .backing = GR_BACKING_MEMFD, .length = BYTES, .page_size = HUGE};
static const struct gr_block_opts transparent = {.name = "thp", .length = BYTES};
static const struct gr_block_opts shared = {
	.name = "thp", .backing = GR_BACKING_MEMFD, .length = BYTES};

static void huge_pages(bool switched)
{
	if (!get_huge_pages(HUGE, 2 * BYTES / HUGE))
		skip(); /* it said what is missing */
	move(&huge, switched);
	put_huge_pages();
}

static void huge_pages_before(void **unused)
{
	huge_pages(false);
}

static void huge_pages_afterwards(void **unused)
{
	huge_pages(true);
}

static void transparent_huge_pages_afterwards(void **unused)
{
	move(&transparent, true);
}

static void shared_transparent_huge_pages_afterwards(void **unused)
{
	move(&shared, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(huge_pages_before),
		cmocka_unit_test(huge_pages_afterwards),
		cmocka_unit_test(transparent_huge_pages_afterwards),
		cmocka_unit_test(shared_transparent_huge_pages_afterwards),
	};

	alarm(170);
	return cmocka_run_group_tests_name("migrate: huge pages", tests, NULL, NULL);
}
