/* SPDX-License-Identifier: MIT */
/*
 * Part of `guestram bench snapshot`: a sparse image restored lazily, with three moments told apart:
 * the first access after the call, the recorded working set there, all there; beside a load of the
 * same file, after which all is there too, and what the process grows by.
 *
 * Content stands in runs of 64 KiB, spread evenly: the images differ in length, not in content. The
 * file is in the page cache: what is measured is the way, not a disk.
 *
 * Threads: main touches; those of the pager answer.
 */
#include "bench.h"
#include "bench_snapshot.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <guestram/pager.h>
#include <guestram/snapshot.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define PAGE UINT64_C(4096)
#define RUN (64 * UINT64_C(1024))

enum { SET_SHARE = 16, REPETITIONS = 5 }; /* of the runs, one in so many is in the working set */

struct image {
	const char *file, *order;
	uint64_t length, data;
};

struct moments {
	double first_ms, set_ms, all_ms, load_ms, rss_kib, load_rss_kib;
};

/* Where a run of content begins. */
static uint64_t run_at(const struct image *image, uint64_t run)
{
	return run * (image->length / (image->data / RUN));
}

/* The runs of the working set, in an order that is not that of addresses. */
static uint64_t set_run(const struct image *image, uint64_t i)
{
	uint64_t count = image->data / RUN / SET_SHARE;

	return i * 7919 % count * SET_SHARE; /* a prime over all counts: each once */
}

static char value(uint64_t offset)
{
	return (char)(offset / PAGE % 251 + 1);
}

static int save_image(const struct image *image, enum gr_snapshot_layout layout)
{
	const struct gr_snapshot_opts opts = {.layout = layout};
	struct gr_ram *ram = NULL;
	struct gr_block *block;
	char *host;
	int rc = bench_snapshot_block(&ram, &block, image->length, &host);

	for (uint64_t run = 0; !rc && run < image->data / RUN; run++) {
		uint64_t offset = run_at(image, run);

		for (uint64_t end = offset + RUN; offset < end; offset += PAGE)
			memset(host + offset, value(offset), PAGE);
	}
	unlink(image->file);
	if (!rc)
		rc = gr_snapshot_save(ram, image->file, &opts, NULL);
	if (ram)
		gr_ram_close(ram);
	return rc;
}

static int touch_set(const struct image *image, const char *host)
{
	for (uint64_t i = 0; i < image->data / RUN / SET_SHARE; i++) {
		uint64_t offset = run_at(image, set_run(image, i));

		for (uint64_t end = offset + RUN; offset < end; offset += PAGE)
			if (*(const volatile char *)(host + offset) != value(offset))
				return -EIO;
	}
	return 0;
}

static int all_right(const struct image *image, const char *host)
{
	for (uint64_t run = 0; run < image->data / RUN; run++) {
		uint64_t offset = run_at(image, run) + RUN - PAGE;

		if (host[offset] != value(offset))
			return -EIO;
	}
	return 0;
}

/* Opened, paged, and a page of the working set touched; with @record instead, all of that set. */
static int restore(const struct image *image, bool record, struct moments *moments)
{
	/* 16 MiB of 256, as by default; shorter images keep to the same share */
	const struct gr_pager_opts opts = {.max_buffers = image->data / 16,
					   .record = record ? image->order : NULL,
					   .prefetch = record ? NULL : image->order};
	struct gr_snapshot *snapshot = NULL;
	struct gr_page_source source = {0};
	struct gr_pager_stats stats;
	struct gr_pager *pager;
	struct gr_ram *ram = NULL;
	struct gr_block *block;
	char *host;
	double begin, opened;
	long before = bench_rss_kib();
	int rc = bench_snapshot_block(&ram, &block, image->length, &host);

	begin = bench_now();
	if (!rc)
		rc = gr_snapshot_open(image->file, NULL, &snapshot);
	if (!rc)
		rc = gr_snapshot_source(snapshot, &source);
	opened = bench_now();
	if (!rc)
		rc = gr_pager_open(ram, &source, &opts, &pager);
	if (rc < 0)
		goto close_snapshot;
	if (record) {
		rc = touch_set(image, host);
		goto close_pager;
	}
	/* the last run of the set: what is fetched ahead has not come so far */
	rc = host[run_at(image, set_run(image, image->data / RUN / SET_SHARE - 1))] ? 0 : -EIO;
	moments->first_ms = (bench_now() - begin) / 1e6;
	if (!rc)
		rc = gr_pager_wait(pager, 120000);
	gr_pager_get_stats(pager, &stats);
	moments->set_ms = (opened - begin + (double)stats.working_set_ns) / 1e6;
	moments->all_ms = (opened - begin + (double)stats.complete_ns) / 1e6;
	moments->rss_kib = (double)(bench_rss_kib() - before);
	if (!rc)
		rc = all_right(image, host);
close_pager:
	if (rc < 0)
		gr_pager_close(pager);
	else
		rc = gr_pager_close(pager);
close_snapshot:
	gr_page_source_close(&source);
	gr_snapshot_close(snapshot);
	if (ram)
		gr_ram_close(ram);
	return rc;
}

static int load(const struct image *image, struct moments *moments)
{
	struct gr_snapshot *snapshot = NULL;
	struct gr_ram *ram = NULL;
	struct gr_block *block;
	char *host;
	double begin;
	long before = bench_rss_kib();
	int rc = bench_snapshot_block(&ram, &block, image->length, &host);

	begin = bench_now();
	if (!rc)
		rc = gr_snapshot_open(image->file, NULL, &snapshot);
	if (!rc)
		rc = gr_snapshot_load(snapshot, ram, NULL, NULL);
	moments->load_ms = (bench_now() - begin) / 1e6;
	moments->load_rss_kib = (double)(bench_rss_kib() - before);
	if (!rc)
		rc = all_right(image, host);
	gr_snapshot_close(snapshot);
	if (ram)
		gr_ram_close(ram);
	return rc;
}

static void tell(struct bench *bench, const struct image *image, const char *layout,
		 const struct moments *all, int n)
{
	double first[REPETITIONS], set[REPETITIONS], there[REPETITIONS], loaded[REPETITIONS];
	double rss[REPETITIONS], load_rss[REPETITIONS], data = (double)image->data / 1024;
	char name[96];

	for (int r = 0; r < n; r++) {
		first[r] = all[r].first_ms;
		set[r] = all[r].set_ms;
		there[r] = all[r].all_ms;
		loaded[r] = all[r].load_ms;
		rss[r] = all[r].rss_kib;
		load_rss[r] = all[r].load_rss_kib;
	}
	bench_row(bench, json_pack("{s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "what",
				   "lazy restore of a sparse image", "layout", layout, "MiB",
				   (json_int_t)(image->length / MIB), "MiB of content",
				   (json_int_t)(image->data / MIB), "first access, ms",
				   bench_median(first, n), "working set there, ms",
				   bench_median(set, n), "all there, ms", bench_median(there, n),
				   "load instead, ms", bench_median(loaded, n), "RSS grows by, MiB",
				   bench_median(rss, n) / 1024, "load: RSS grows by, MiB",
				   bench_median(load_rss, n) / 1024));
	snprintf(name, sizeof(name), "first access after the call, %s, %llu MiB, ms", layout,
		 (unsigned long long)(image->length / MIB));
	bench_goal(bench, name, bench_median(first, n), AT_MOST, 5);
	snprintf(name, sizeof(name), "RSS growth / content, %s, %llu MiB, lazy", layout,
		 (unsigned long long)(image->length / MIB));
	bench_goal(bench, name, bench_median(rss, n) / data, AT_MOST, 1.2);
	snprintf(name, sizeof(name), "RSS growth / content, %s, %llu MiB, load", layout,
		 (unsigned long long)(image->length / MIB));
	bench_goal(bench, name, bench_median(load_rss, n) / data, AT_MOST, 1.2);
}

int bench_restore(struct bench *bench, const char *file)
{
	static const struct {
		enum gr_snapshot_layout layout;
		const char *name;
	} layouts[] = {{GR_SNAPSHOT_MAPPED, "mapped"}, {GR_SNAPSHOT_PACKED, "packed"}};
	static const int gib[] = {1, 4, 16};
	struct moments moments[REPETITIONS] = {{0}};
	char order[80];
	struct image image = {.file = file, .order = order};
	int n = bench->quick ? 2 : REPETITIONS, rc = 0;

	snprintf(order, sizeof(order), "%s.order", file);
	image.data = bench->quick ? 32 * MIB : 256 * MIB;
	for (size_t l = 0; l < 2 && !rc; l++) {
		for (size_t i = 0; i < 3 && !rc; i++) {
			image.length = (uint64_t)gib[i] * (bench->quick ? 128 : 1024) * MIB;
			out_progress("snapshot: lazy restore of %d GiB", gib[i]);
			rc = save_image(&image, layouts[l].layout);
			if (!rc)
				rc = restore(&image, true, moments);
			for (int r = 0; r < n && !rc; r++) {
				rc = restore(&image, false, &moments[r]);
				if (!rc)
					rc = load(&image, &moments[r]);
			}
			if (!rc)
				tell(bench, &image, layouts[l].name, moments, n);
		}
	}
	unlink(order);
	return rc < 0 ? (cli_fail_gr(rc, "bench snapshot: lazy restore"), rc) : 0;
}
