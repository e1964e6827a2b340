/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench update`: what changing the table costs.
 *
 *  - map + unmap of one range among many, in holes that the recorded addresses pick, beside
 *    vm-memory's insert_region + remove_region (each published) in the same holes;
 *  - many times add, map, unmap, delete: time of the first and last 1,000, growth of memory,
 *    descriptors and mappings;
 *  - memory of the index for 1 TiB.
 */
#include "bench.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <guestram.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIB (UINT64_C(1) << 20)
#define TIB (UINT64_C(1) << 40)
#define LENGTH (2 * MIB)

static void *reserve(uint64_t length)
{
	void *host =
		mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return host == MAP_FAILED ? NULL : host;
}

/* One RAM with one space, over addresses that are only reserved. */
struct table {
	uint64_t reserved;
	char *host;
	struct gr_ram *ram;
	struct gr_space *space;
};

static int table_init(struct table *table, uint64_t reserved)
{
	int rc;

	memset(table, 0, sizeof(*table));
	table->host = reserve(reserved);
	if (!table->host)
		return cli_fail(errno, "bench update: reserving addresses"), -ENOMEM;
	table->reserved = reserved;
	rc = gr_ram_open(NULL, &table->ram);
	if (!rc)
		rc = gr_space_open(table->ram, "bench", &table->space);
	if (!rc)
		return 0;
	cli_fail_gr(rc, "bench update: an empty RAM");
	gr_ram_close(table->ram);
	munmap(table->host, reserved);
	return rc;
}

static void table_fini(struct table *table)
{
	gr_ram_close(table->ram);
	munmap(table->host, table->reserved);
}

static int new_block(struct table *table, uint64_t number, uint64_t offset, uint64_t length,
		     struct gr_block **block)
{
	struct gr_block_opts opts = {.backing = GR_BACKING_CALLER, .length = length};
	char name[32];

	snprintf(name, sizeof(name), "bench-%llu", (unsigned long long)number);
	opts.name = name;
	opts.host = table->host + offset;
	return gr_block_new(table->ram, &opts, block);
}

/* ------------------------------------------------------------------- one range among many */

struct among {
	uint64_t ranges, stride;
	struct table table;
	struct gr_block *spare;
	uint64_t *trace;
	struct bench_peer peer;
	uint64_t next;			     /* hole */
	double ns[2][BENCH_REPETITIONS_MAX]; /* guestram, vm_memory */
};

static int among_init(struct among *among, uint64_t ranges)
{
	struct gr_block *block;
	struct gr_txn *txn;
	uint64_t i;
	int rc;

	memset(among, 0, sizeof(*among));
	among->ranges = ranges;
	among->stride = ranges > 256 ? 128 * MIB : 4 * MIB;
	among->trace = malloc(BENCH_TRACE * sizeof(*among->trace));
	if (!among->trace)
		return cli_fail(ENOMEM, "bench update"), -ENOMEM;
	bench_trace(among->trace, ranges, among->stride, LENGTH, false);
	rc = table_init(&among->table, (ranges + 1) * 3 * LENGTH);
	if (rc < 0)
		goto free_trace;
	rc = gr_txn_begin(among->table.space, &txn);
	for (i = 0; i < ranges && !rc; i++) {
		rc = new_block(&among->table, i, i * 3 * LENGTH, LENGTH, &block);
		if (!rc)
			rc = gr_txn_map(txn, i * among->stride, block, 0, LENGTH,
					GR_READ | GR_WRITE);
		if (rc < 0)
			gr_txn_abort(txn);
	}
	if (!rc)
		rc = gr_txn_commit(txn);
	if (!rc)
		rc = new_block(&among->table, ranges, ranges * 3 * LENGTH, LENGTH, &among->spare);
	if (rc < 0) {
		cli_fail_gr(rc, "bench update: mapping %llu ranges", (unsigned long long)ranges);
		goto close_table;
	}
	bench_peer_open(&among->peer, ranges, among->stride, LENGTH, among->trace);
	return 0;

close_table:
	table_fini(&among->table);
free_trace:
	free(among->trace);
	among->trace = NULL;
	return rc;
}

static void among_fini(struct among *among)
{
	if (!among->trace)
		return;
	bench_peer_close(&among->peer);
	table_fini(&among->table);
	free(among->trace);
}

/* ns for each pair of map and unmap, or -errno. */
static double map_and_unmap(struct among *among, uint64_t pairs)
{
	double begin = bench_now();
	uint64_t i;

	for (i = 0; i < pairs; i++) {
		/* the hole behind the range that the next recorded address lies in */
		uint64_t addr = among->trace[among->next++ % BENCH_TRACE];
		int rc;

		addr = addr / among->stride * among->stride + LENGTH;
		rc = gr_space_map(among->table.space, addr, among->spare, 0, LENGTH,
				  GR_READ | GR_WRITE);
		if (!rc)
			rc = gr_space_unmap(among->table.space, addr, LENGTH);
		if (rc < 0)
			return rc;
	}
	return (bench_now() - begin) / (double)pairs;
}

static int measure_among(struct bench *bench, struct among *among, int count)
{
	uint64_t pairs = bench->quick ? 20 : 400;
	int r, i;

	for (r = 0; r < bench->repetitions; r++) {
		out_progress("update: repetition %d of %d", r + 1, bench->repetitions);
		for (i = 0; i < count; i++) {
			struct among *a = &among[i];
			double ns;

			map_and_unmap(a, 8); /* warm */
			a->ns[0][r] = map_and_unmap(a, pairs);
			if (a->ns[0][r] < 0)
				return cli_fail_gr((int)a->ns[0][r], "bench update: map and unmap"),
				       (int)a->ns[0][r];
			ns = bench_peer_ask(&a->peer, "update %llu", (unsigned long long)pairs);
			a->ns[1][r] = ns / (double)pairs;
		}
	}
	return 0;
}

static int update_among(struct bench *bench)
{
	static const uint64_t sizes[] = {1, 16, 256, 1024, 4096};
	enum { SIZES = sizeof(sizes) / sizeof(sizes[0]), FEW = 1, MANY = SIZES - 1 };
	static struct among among[SIZES];
	int rc = 0, i;

	for (i = 0; i < SIZES && !rc; i++)
		rc = among_init(&among[i], sizes[i]);
	if (!rc)
		rc = measure_among(bench, among, SIZES);
	for (i = 0; i < SIZES && !rc; i++) {
		struct among *a = &among[i];

		bench_row(bench, json_pack("{s:s, s:I, s:f, s:o}", "what", "map + unmap, ns",
					   "ranges", (json_int_t)a->ranges, "guestram",
					   bench_median(a->ns[0], bench->repetitions), "vm_memory",
					   a->peer.pid ? json_real(bench_median(a->ns[1],
										bench->repetitions))
						       : json_null()));
	}
	if (!rc) {
		bench_goal(bench, "map + unmap among 4096 / among 16",
			   bench_ratio(among[MANY].ns[0], among[FEW].ns[0], bench->repetitions),
			   AT_MOST, 10);
		if (among[MANY].peer.pid)
			bench_goal(bench, "map + unmap among 4096 / vm_memory's",
				   bench_ratio(among[MANY].ns[0], among[MANY].ns[1],
					       bench->repetitions),
				   AT_MOST, 1);
		else
			bench_goal_missing(bench, "map + unmap among 4096 / vm_memory's", AT_MOST,
					   1, among[MANY].peer.missing);
	}
	for (i = 0; i < SIZES; i++)
		among_fini(&among[i]);
	return rc;
}

/* --------------------------------------------------------- add, map, unmap, delete, many times */

enum { EDGE = 1000 }; /* of the first and of the last turns */

static int one_turn(struct gr_ram *ram, struct gr_space *space)
{
	static const struct gr_block_opts opts = {.name = "churn", .length = 64 << 10};
	struct gr_block *block;
	int rc;

	rc = gr_block_new(ram, &opts, &block);
	if (!rc)
		rc = gr_space_map(space, LENGTH, block, 0, opts.length, GR_READ | GR_WRITE);
	if (!rc)
		rc = gr_space_unmap(space, LENGTH, opts.length);
	if (!rc)
		rc = gr_block_delete(block);
	return rc;
}

/* Sizes of the process once all that was deleted is reclaimed. */
static int look(struct gr_ram *ram, long sizes[3])
{
	int rc = gr_ram_drain(ram, 60000);

	sizes[0] = bench_rss_kib();
	sizes[1] = bench_fds();
	sizes[2] = bench_maps();
	return rc;
}

static int churn(struct bench *bench, struct gr_ram *ram, struct gr_space *space)
{
	uint64_t turns = bench->quick ? 20000 : 1000000, i;
	static double first[EDGE], last[EDGE];
	long before[3], after[3];
	double begin = bench_now(), spent, early, late;
	int rc = 0;

	for (i = 0; i < turns; i++) {
		double t = bench_now();

		rc = one_turn(ram, space);
		if (rc < 0)
			return rc;
		t = bench_now() - t;
		if (i < EDGE)
			first[i] = t;
		if (i >= turns - EDGE)
			last[i - (turns - EDGE)] = t;
		if (i % 4096 == 0)
			out_progress("update: %llu of %llu times add, map, unmap, delete",
				     (unsigned long long)i, (unsigned long long)turns);
		if (i + 1 == EDGE) {
			rc = look(ram, before);
			if (rc < 0)
				return rc;
		}
	}
	spent = bench_now() - begin;
	rc = look(ram, after);
	if (rc < 0)
		return rc;
	early = bench_percentile(first, EDGE, 0.5);
	late = bench_percentile(last, EDGE, 0.5);
	bench_row(bench, json_pack("{s:s, s:I, s:f, s:f, s:f, s:I, s:I, s:I}", "what",
				   "add, map, unmap, delete, ns", "turns", (json_int_t)turns,
				   "mean", spent / (double)turns, "first_1000", early, "last_1000",
				   late, "rss_growth_kib", (json_int_t)(after[0] - before[0]),
				   "fds_growth", (json_int_t)(after[1] - before[1]), "maps_growth",
				   (json_int_t)(after[2] - before[2])));
	bench_goal(bench, "last 1,000 turns / first 1,000, medians", late / early, AT_MOST, 1.1);
	bench_goal(bench, "RSS growth over all turns, KiB", (double)(after[0] - before[0]), AT_MOST,
		   1024);
	bench_goal(bench, "descriptors grown", (double)(after[1] - before[1]), AT_MOST, 0);
	bench_goal(bench, "mappings grown", (double)(after[2] - before[2]), AT_MOST, 4);
	return 0;
}

static int update_churn(struct bench *bench)
{
	/* bounded, as an embedder would: the reclaim thread may be slower than the loop */
	struct gr_ram_opts opts = {.max_pending = 64 * MIB};
	struct gr_space *space;
	struct gr_ram *ram;
	int rc;

	rc = gr_ram_open(&opts, &ram);
	if (rc < 0)
		return cli_fail_gr(rc, "bench update: an empty RAM"), rc;
	rc = gr_space_open(ram, "bench", &space);
	if (!rc)
		rc = churn(bench, ram, space);
	if (rc < 0)
		cli_fail_gr(rc, "bench update: add, map, unmap, delete");
	gr_ram_close(ram);
	return rc;
}

/* ------------------------------------------------------------------------- memory of the index */

/* 1 TiB in @pieces, each at a distance of its own from its host memory. */
static int index_bytes(struct table *table, uint64_t pieces, uint64_t *bytes)
{
	uint64_t length = TIB / pieces, i;
	struct gr_ram_stats stats;
	struct gr_block *block;
	struct gr_txn *txn;
	int rc;

	rc = gr_txn_begin(table->space, &txn);
	if (rc < 0)
		return rc;
	for (i = 0; i < pieces; i++) {
		rc = new_block(table, i, i * (length + LENGTH), length, &block);
		if (!rc)
			rc = gr_txn_map(txn, i * length, block, 0, length, GR_READ | GR_WRITE);
		if (rc < 0) {
			gr_txn_abort(txn);
			return rc;
		}
	}
	rc = gr_txn_commit(txn);
	if (rc < 0)
		return rc;
	gr_ram_get_stats(table->ram, &stats);
	*bytes = stats.index_bytes;
	return 0;
}

static int update_index(struct bench *bench)
{
	static const uint64_t pieces[] = {1, 16, 256, 1024, 4096};
	double most = 0;
	int i;

	for (i = 0; i < (int)(sizeof(pieces) / sizeof(pieces[0])); i++) {
		struct table table;
		uint64_t bytes;
		int rc;

		out_progress("update: index of 1 TiB in %llu blocks",
			     (unsigned long long)pieces[i]);
		rc = table_init(&table, TIB + (pieces[i] + 1) * LENGTH);
		if (rc < 0)
			return rc;
		rc = index_bytes(&table, pieces[i], &bytes);
		if (rc < 0)
			cli_fail_gr(rc, "bench update: mapping 1 TiB in %llu blocks",
				    (unsigned long long)pieces[i]);
		table_fini(&table);
		if (rc < 0)
			return rc;
		bench_row(bench,
			  json_pack("{s:s, s:I, s:f}", "what", "index of 1 TiB, MiB", "blocks",
				    (json_int_t)pieces[i], "mib", (double)bytes / (double)MIB));
		if ((double)bytes / (double)MIB > most)
			most = (double)bytes / (double)MIB;
	}
	bench_goal(bench, "index of 1 TiB in up to 4,096 blocks, MiB", most, AT_MOST, 5);
	return 0;
}

int bench_update(struct bench *bench)
{
	int rc = update_among(bench);

	if (!rc)
		rc = update_churn(bench);
	if (!rc)
		rc = update_index(bench);
	return rc;
}
