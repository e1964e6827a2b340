/* SPDX-License-Identifier: MIT */
/*
 * What dirty tracking costs: marks, harvests of marks, and harvests by page protection beside the
 * bare kernel call that they are made of.
 */
#include "bench.h"
#include "cli.h"
#include "os/uffd_abi.h"
#include "out.h"
#include <errno.h>
#include <fcntl.h>
#include <guestram/dirty.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define GIB (UINT64_C(1) << 30)
#define MARKED (UINT64_C(64) << 20) /* that marks walk through: its log is 2 KiB */

struct world {
	struct gr_ram *ram;
	struct gr_space *space;
	struct gr_block *block;
	struct gr_dirty *client; /* or NULL: tracking is off */
	char *host;
	uint64_t length;
	uint64_t bytes; /* result of the last harvest */
	int error;
};

static int world_init(struct world *world, uint64_t length, unsigned flags)
{
	const struct gr_block_opts opts = {.name = "bench", .length = length, .flags = flags};
	struct gr_block_info info;
	int rc;

	memset(world, 0, sizeof(*world));
	world->length = length;
	rc = gr_ram_open(NULL, &world->ram);
	if (!rc)
		rc = gr_space_open(world->ram, "bench", &world->space);
	if (!rc)
		rc = gr_block_new(world->ram, &opts, &world->block);
	if (!rc)
		rc = gr_space_map(world->space, 0, world->block, 0, length, GR_READ | GR_WRITE);
	if (rc < 0)
		return cli_fail_gr(rc, "bench dirty"), rc;
	gr_block_get_info(world->block, &info);
	world->host = info.host;
	return 0;
}

static int client_open(struct world *world)
{
	const struct gr_dirty_opts opts = {.name = "bench"};
	int rc = gr_dirty_open(world->ram, &opts, &world->client);

	return rc < 0 ? cli_fail_gr(rc, "bench dirty"), rc : 0;
}

static void world_fini(struct world *world)
{
	gr_dirty_close(world->client);
	gr_ram_close(world->ram);
}

/* The harvest of the whole block, all stretches looked at. */
static void harvest(struct world *world)
{
	struct gr_harvest *got;
	uint64_t offset, length;

	world->error = gr_dirty_harvest(world->client, world->block, 0, 0, &got);
	if (world->error)
		return;
	world->bytes = 0;
	while (gr_harvest_next(got, &offset, &length))
		world->bytes += length;
	gr_harvest_commit(got);
}

/* ------------------------------------------------------------------------------------- marks */

/* A page that is dirty already: what nearly all marks meet. */
static __attribute__((noinline)) void mark_set(void *context, int thread, uint64_t iterations)
{
	struct world *world = context;
	char *host = world->host;
	uint64_t k;

	(void)thread;
	for (k = 0; k < iterations; k++)
		gr_mark_host(host + (k & 15) * PAGE, 8);
}

static __attribute__((noinline)) void mark_many_set(void *context, int thread, uint64_t iterations)
{
	struct world *world = context;
	uint64_t k;

	(void)thread;
	for (k = 0; k < iterations; k++)
		gr_mark_host(world->host + (k & 15) * 256 * PAGE, 256 * PAGE);
}

static __attribute__((noinline)) void store_one(void *context, int thread, uint64_t iterations)
{
	struct world *world = context;
	uint64_t k, failed = 0;

	(void)thread;
	for (k = 0; k < iterations; k++)
		failed |= (uint64_t)gr_store_u64(world->space, (k & 1023) * 8, k);
	world->error |= failed != 0;
}

/* 256 pages that are clean: 4 words are stored. The log is cleared outside of the time. */
static double mark_clean(struct world *world, int repetitions_inside)
{
	double ns = 0, begin;
	int i;
	uint64_t at;

	for (i = 0; i < repetitions_inside; i++) {
		harvest(world);
		begin = bench_now();
		for (at = 0; at < world->length; at += 256 * PAGE)
			gr_mark_host(world->host + at, 256 * PAGE);
		ns += bench_now() - begin;
	}
	return ns / repetitions_inside * (256.0 * PAGE) / (double)world->length;
}

static int dirty_marks(struct bench *bench)
{
	static double off[BENCH_REPETITIONS_MAX], on[BENCH_REPETITIONS_MAX];
	static double one[BENCH_REPETITIONS_MAX], many[BENCH_REPETITIONS_MAX];
	static double clean[BENCH_REPETITIONS_MAX];
	int n = bench->repetitions, r, rc;
	struct world tracked, plain;
	uint64_t iterations;

	out_progress("dirty: marks");
	rc = world_init(&tracked, MARKED, GR_PREALLOC);
	if (!rc)
		rc = world_init(&plain, MARKED, GR_PREALLOC);
	if (rc < 0)
		return rc;
	iterations = bench_calibrate(bench, 1, store_one, &plain);
	for (r = 0; r < n && !rc; r++) {
		off[r] = bench_threads(bench, 1, store_one, &plain, iterations);
		rc = client_open(&tracked);
		if (rc < 0)
			break;
		on[r] = bench_threads(bench, 1, store_one, &tracked, iterations);
		one[r] = bench_threads(bench, 1, mark_set, &tracked, iterations);
		many[r] = bench_threads(bench, 1, mark_many_set, &tracked, iterations / 4);
		clean[r] = mark_clean(&tracked, 64);
		gr_dirty_close(tracked.client);
		tracked.client = NULL;
	}
	if (!rc && (tracked.error || plain.error))
		rc = (cli_fail(0, "bench dirty: stores failed"), -EFAULT);
	if (!rc) {
		bench_row(bench, json_pack("{s:s, s:f, s:f, s:f}", "what", "gr_store_u64", "off",
					   bench_median(off, n), "on", bench_median(on, n), "over",
					   bench_difference(on, off, n)));
		bench_row(bench,
			  json_pack("{s:s, s:f, s:f, s:f}", "what", "gr_mark_host", "one page, set",
				    bench_median(one, n), "256 pages, set", bench_median(many, n),
				    "256 pages, clean", bench_median(clean, n)));
		bench_goal(bench, "mark of a page that is set, ns", bench_median(one, n), AT_MOST,
			   2);
		bench_goal(bench, "mark of 256 pages that are set, ns", bench_median(many, n),
			   AT_MOST, 8);
		bench_goal(bench, "mark of 256 clean pages, ns", bench_median(clean, n), AT_MOST,
			   8);
	}
	world_fini(&tracked);
	world_fini(&plain);
	return rc;
}

/* --------------------------------------------------------------------------- harvest of marks */

static int dirty_clean_harvest(struct bench *bench)
{
	static double ms[BENCH_REPETITIONS_MAX];
	int n = bench->repetitions, r, rc;
	struct world world;

	out_progress("dirty: a clean harvest of 64 GiB");
	rc = world_init(&world, 64 * GIB, 0);
	if (!rc)
		rc = client_open(&world);
	if (rc < 0)
		return rc;
	for (r = 0; r < n && !rc; r++) {
		double begin = bench_now();

		harvest(&world);
		ms[r] = (bench_now() - begin) / 1e6;
		rc = world.error;
	}
	if (!rc) {
		bench_row(bench,
			  json_pack("{s:s, s:f, s:f}", "what", "harvest of 64 GiB, all clean", "ms",
				    bench_median(ms, n), "first", ms[0]));
		bench_goal(bench, "clean harvest of 64 GiB, ms", bench_median(ms, n), AT_MOST, 5);
	}
	world_fini(&world);
	return rc;
}

/* ----------------------------------------------------------------------------- page protection */

/* The same memory and the bare kernel call, with all the room that its result may need. */
struct bare {
	int uffd, pagemap;
	char *host;
	struct page_region *regions;
};

static int bare_open(struct bare *bare, uint64_t length)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_WP};

	bare->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bare->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	bare->host = mmap(NULL, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	bare->regions = malloc(length / PAGE * sizeof(*bare->regions));
	if (bare->pagemap < 0 || bare->uffd < 0 || bare->host == MAP_FAILED || !bare->regions)
		return -errno;
	madvise(bare->host, length, MADV_NOHUGEPAGE);
	reg.range.start = (uintptr_t)bare->host;
	reg.range.len = length;
	if (ioctl(bare->uffd, UFFDIO_API, &api) < 0 || ioctl(bare->uffd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	return 0;
}

static int64_t bare_scan(struct bare *bare, uint64_t length)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (uintptr_t)bare->host,
		.end = (uintptr_t)bare->host + length,
		.vec = (uintptr_t)bare->regions,
		.vec_len = length / PAGE,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};

	return ioctl(bare->pagemap, PAGEMAP_SCAN, &arg);
}

static void bare_close(struct bare *bare, uint64_t length)
{
	if (bare->host && bare->host != MAP_FAILED)
		munmap(bare->host, length);
	close(bare->uffd);
	close(bare->pagemap);
	free(bare->regions);
}

/* Every 16th page: 6.25%. */
static void write_some(char *host, uint64_t length)
{
	uint64_t at;

	for (at = 0; at < length; at += 16 * PAGE)
		host[at]++;
}

static int dirty_watch(struct bench *bench)
{
	static double ours[BENCH_REPETITIONS_MAX], kernel[BENCH_REPETITIONS_MAX];
	uint64_t length = bench->quick ? GIB / 8 : GIB;
	struct gr_dirty_source *watch = NULL;
	int n = bench->repetitions, r, rc;
	struct bare bare = {-1, -1, NULL, NULL};
	struct world world;
	const char *goal = "harvest of 1 GiB, 6% dirty / bare PAGEMAP_SCAN";
	double ratio;

	out_progress("dirty: harvests by page protection");
	rc = world_init(&world, length, GR_PREALLOC | GR_NO_THP);
	if (rc < 0)
		return rc;
	rc = gr_dirty_watch_open(world.ram, GR_WATCH_ASYNC, &watch);
	if (rc < 0) {
		bench_goal_missing(bench, goal, AT_MOST, 1.2, gr_last_error());
		world_fini(&world);
		return 0;
	}
	rc = client_open(&world);
	if (!rc)
		rc = bare_open(&bare, length);
	for (r = 0; r < n + 1 && !rc; r++) {
		int at = r ? r - 1 : 0; /* the first one is to warm up */
		double begin;

		write_some(bare.host, length);
		begin = bench_now();
		if (bare_scan(&bare, length) < 0)
			rc = -errno;
		kernel[at] = (bench_now() - begin) / 1e6;
		write_some(world.host, length);
		begin = bench_now();
		harvest(&world);
		ours[at] = (bench_now() - begin) / 1e6;
		if (world.error)
			rc = world.error;
		else if (r && world.bytes != length / 16)
			rc = -EIO;
	}
	if (rc < 0) {
		cli_fail_gr(rc, "bench dirty: page protection");
	} else {
		ratio = bench_ratio(ours, kernel, n);
		bench_row(bench, json_pack("{s:s, s:f, s:f, s:f}", "what",
					   "harvest of 1 GiB, 6% dirty, watched", "guestram_ms",
					   bench_median(ours, n), "PAGEMAP_SCAN_ms",
					   bench_median(kernel, n), "ratio", ratio));
		bench_goal(bench, goal, ratio, AT_MOST, 1.2);
	}
	bare_close(&bare, length);
	gr_dirty_close(world.client);
	world.client = NULL;
	gr_dirty_source_close(watch);
	world_fini(&world);
	return rc;
}

int bench_dirty(struct bench *bench)
{
	int rc = dirty_marks(bench);

	if (!rc)
		rc = dirty_clean_harvest(bench);
	if (!rc)
		rc = dirty_watch(bench);
	return rc;
}
