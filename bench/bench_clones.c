/* SPDX-License-Identifier: MIT */
/*
 * Part of `guestram bench snapshot`: many clones of one guest of 256 MiB, each a RAM whose block is
 * the snapshot's file, mapped privately (gr_snapshot_map_block(), as `guestram qemu clone
 * --private` has it through a mount); and a few that load the snapshot, to compare. Each touches
 * what a clone of a real guest touched (bench/record-traces), and keeps it until all have.
 *
 * All are in one process: pages that several map are shared as between processes, and what each has
 * of its own is the kernel's word for its mapping (smaps). What a monitor needs besides is not
 * here.
 *
 * Threads: main, and those of each RAM.
 */
#include "bench.h"
#include "bench_snapshot.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <guestram/snapshot.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define PAGE UINT64_C(4096)
#define LENGTH (256 * MIB)
#define CONTENT (95 * MIB) /* of the guest that was recorded */

static const struct touch {
	uint32_t page, count, write;
} trace[] = {
#include "traces/clone.inc"
};

enum { TOUCHES = sizeof(trace) / sizeof(trace[0]) };

struct clone {
	struct gr_ram *ram;
	struct gr_snapshot *snapshot; /* its own: a clone stands for a process */
	char *host;
};

struct crowd {
	int count;
	double start_s, touch_s;		 /* of all */
	double private_kib, shared_kib, rss_kib; /* of their memory */
	double tables_kib;			 /* the kernel's page tables for it */
};

static uint64_t written_pages(void)
{
	static unsigned char seen[LENGTH / PAGE];
	uint64_t count = 0;

	memset(seen, 0, sizeof(seen));
	for (int i = 0; i < TOUCHES; i++)
		for (uint32_t page = trace[i].page;
		     trace[i].write && page < trace[i].page + trace[i].count; page++) {
			count += !seen[page];
			seen[page] = 1;
		}
	return count;
}

static char value(uint64_t page)
{
	return (char)(page % 251 + 1);
}

/* Content where the clone touches, and from the beginning on until it is as much as the guest had.
 */
static int save_guest(const char *file)
{
	struct gr_ram *ram = NULL;
	struct gr_block *block;
	uint64_t page, left = CONTENT / PAGE;
	char *host;
	int rc = bench_snapshot_block(&ram, &block, LENGTH, &host);

	for (int i = 0; i < TOUCHES && !rc; i++)
		for (page = trace[i].page; page < trace[i].page + trace[i].count; page++) {
			left -= !host[page * PAGE];
			memset(host + page * PAGE, value(page), PAGE);
		}
	for (page = 0; left && !rc; page++) {
		left -= !host[page * PAGE];
		memset(host + page * PAGE, value(page), PAGE);
	}
	unlink(file);
	if (!rc)
		rc = gr_snapshot_save(ram, file, NULL, NULL);
	if (ram)
		gr_ram_close(ram);
	return rc;
}

static int start_clone(const char *file, bool mapped, struct clone *clone)
{
	struct gr_block_info info;
	struct gr_block *block;
	int rc;

	if (!mapped) {
		rc = bench_snapshot_block(&clone->ram, &block, LENGTH, &clone->host);
		if (!rc)
			rc = gr_snapshot_open(file, NULL, &clone->snapshot);
		return rc ? rc : gr_snapshot_load(clone->snapshot, clone->ram, NULL, NULL);
	}
	rc = gr_ram_open(NULL, &clone->ram);
	if (!rc)
		rc = gr_snapshot_open(file, NULL, &clone->snapshot);
	if (!rc)
		rc = gr_snapshot_map_block(clone->snapshot, clone->ram, "ram", NULL, &block);
	if (rc < 0)
		return rc;
	gr_block_get_info(block, &info);
	clone->host = info.host;
	return 0;
}

static void end_clone(struct clone *clone)
{
	if (clone->ram)
		gr_ram_close(clone->ram);
	gr_snapshot_close(clone->snapshot);
}

/* As the guest did; each page is what the snapshot has, or what this clone wrote. */
static int touch(const struct clone *clone, int number)
{
	for (int i = 0; i < TOUCHES; i++) {
		uint64_t page = trace[i].page, end = page + trace[i].count;

		for (; page < end; page++) {
			volatile char *at = clone->host + page * PAGE;

			if (at[1] != value(page))
				return -EIO;
			if (trace[i].write)
				memcpy((char *)at + 8, &number, sizeof(number));
		}
	}
	return 0;
}

static int check(const struct clone *clone, int number)
{
	for (int i = 0; i < TOUCHES; i++)
		if (trace[i].write &&
		    memcmp(clone->host + trace[i].page * PAGE + 8, &number, sizeof(number)))
			return -EIO;
	return 0;
}

/* What smaps says of mappings of @length bytes of files that have @name in theirs. */
static int measure(const char *name, struct crowd *crowd)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	bool ours = false;
	char line[512];

	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file)) {
		unsigned long long first, last;
		double kib;

		if (sscanf(line, "%llx-%llx ", &first, &last) == 2)
			ours = strstr(line, name) && last - first == LENGTH;
		else if (!ours)
			continue;
		else if (sscanf(line, "Private_Clean: %lf", &kib) == 1 ||
			 sscanf(line, "Private_Dirty: %lf", &kib) == 1)
			crowd->private_kib += kib;
		else if (sscanf(line, "Rss: %lf", &kib) == 1)
			crowd->rss_kib += kib;
	}
	fclose(file);
	return 0;
}

static double tables_kib(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	double kib = 0;

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "VmPTE: %lf", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib;
}

static int run_crowd(const char *file, bool mapped, struct crowd *crowd)
{
	struct clone *clones = calloc((size_t)crowd->count, sizeof(*clones));
	double begin = bench_now(), tables = tables_kib();
	int rc = clones ? 0 : -ENOMEM, i;

	for (i = 0; i < crowd->count && !rc; i++)
		rc = start_clone(file, mapped, &clones[i]);
	crowd->start_s = (bench_now() - begin) / 1e9;
	begin = bench_now();
	for (i = 0; i < crowd->count && !rc; i++)
		rc = touch(&clones[i], i + 1);
	crowd->touch_s = (bench_now() - begin) / 1e9;
	crowd->tables_kib = tables_kib() - tables;
	if (!rc)
		rc = measure(mapped ? strrchr(file, '/') + 1 : "/memfd:", crowd);
	for (i = 0; i < crowd->count && !rc; i++)
		rc = check(&clones[i], i + 1);
	for (i = 0; i < crowd->count && clones; i++)
		end_clone(&clones[i]);
	free(clones);
	return rc;
}

static uint64_t available_bytes(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib * 1024;
}

static void tell(struct bench *bench, const char *way, const struct crowd *crowd)
{
	int count = crowd->count;

	/* what is not private is the file's pages, which all of them share */
	bench_row(bench, json_pack("{s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "what",
				   "clones of a guest of 256 MiB", "memory", way, "clones", count,
				   "start, ms each", crowd->start_s * 1e3 / count,
				   "touches, ms each", crowd->touch_s * 1e3 / count, "all, s",
				   crowd->start_s + crowd->touch_s, "private, MiB each",
				   crowd->private_kib / 1024 / count, "seen and shared, MiB each",
				   (crowd->rss_kib - crowd->private_kib) / 1024 / count,
				   "page tables, KiB each", crowd->tables_kib / count));
}

int bench_clones(struct bench *bench, const char *file)
{
	static const int counts[] = {10, 100, 1000}, quick_counts[] = {2, 4, 8};
	const uint64_t written = written_pages() * PAGE;
	const char *goal = "private memory of clones / pages they wrote, the furthest from 1";
	double worst = 1;
	struct crowd crowd;
	int rc = save_guest(file);

	for (int i = 0; i < 3 && !rc; i++) {
		crowd = (struct crowd){.count = bench->quick ? quick_counts[i] : counts[i]};
		out_progress("snapshot: %d clones", crowd.count);
		if ((uint64_t)crowd.count * written > available_bytes() / 4 * 3) {
			bench_goal_missing(bench, goal, AT_MOST, 1.05, "too little memory");
			goal = NULL;
			break;
		}
		rc = run_crowd(file, true, &crowd);
		if (rc < 0)
			break;
		tell(bench, "mapped", &crowd);
		double ratio = crowd.private_kib * 1024 / crowd.count / (double)written;

		if (ratio < 1)
			ratio = 1 / ratio;
		worst = ratio > worst ? ratio : worst;
	}
	if (!rc && goal)
		bench_goal(bench, goal, worst, AT_MOST, 1.05);
	crowd = (struct crowd){.count = bench->quick ? quick_counts[0] : counts[0]};
	if (!rc)
		rc = run_crowd(file, false, &crowd);
	if (!rc)
		tell(bench, "loaded", &crowd);
	return rc < 0 ? (cli_fail_gr(rc, "bench snapshot: clones"), rc) : 0;
}
