/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench lookup`: ns for each turn of a guest address into a host pointer, beside the
 * limit and the peers.
 *
 * Ranges of 2 MiB, 4 MiB apart up to 256 of them and 128 MiB from 1,024 on. Memory is only
 * reserved: lookups do not touch it. Every range has a distance between host and guest address of
 * its own, so that no index can be shorter than the table asks for. What the empty loop takes is
 * subtracted from every figure, repetition by repetition.
 */
#include "cli.h"
#include "lookup_loops.h"
#include "out.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <urcu/urcu-memb.h>

#define MIB (UINT64_C(1) << 20)
#define LENGTH (2 * MIB)
#define HOST_STRIDE (3 * LENGTH)

static const uint64_t sizes[] = {1, 16, 64, 256, 1024, 4096};

enum { SIZES = sizeof(sizes) / sizeof(sizes[0]), PEER = LOOKUP_CONTENDERS, ALL };

static uint64_t stride_of(uint64_t ranges)
{
	return ranges > 256 ? 128 * MIB : 4 * MIB;
}

/* What has to be undone for one size. */
struct table {
	uint64_t ranges;
	char *host; /* reservation of ranges * HOST_STRIDE */
	uint64_t *words;
	struct mru_block *mru;
	struct gr_ram *ram;
	struct lookup_world *world;
};

static int fill_guestram(struct table *table)
{
	struct gr_block_opts opts = {.backing = GR_BACKING_CALLER, .length = LENGTH};
	uint64_t stride = stride_of(table->ranges), i;
	struct gr_block *block;
	struct gr_txn *txn;
	char name[32];
	int rc;

	rc = gr_ram_open(NULL, &table->ram);
	if (rc < 0)
		return rc;
	rc = gr_space_open(table->ram, "bench", &table->world->space);
	if (rc < 0)
		return rc;
	rc = gr_txn_begin(table->world->space, &txn);
	if (rc < 0)
		return rc;
	for (i = 0; i < table->ranges; i++) {
		snprintf(name, sizeof(name), "bench-%llu", (unsigned long long)i);
		opts.name = name;
		opts.host = table->host + i * HOST_STRIDE;
		rc = gr_block_new(table->ram, &opts, &block);
		if (!rc)
			rc = gr_txn_map(txn, i * stride, block, 0, LENGTH, GR_READ | GR_WRITE);
		if (rc < 0) {
			gr_txn_abort(txn);
			return rc;
		}
	}
	return gr_txn_commit(txn);
}

static int fill_baselines(struct table *table)
{
	struct lookup_world *world = table->world;
	uint64_t stride = stride_of(table->ranges), i;

	world->flat.count = (table->ranges * stride) >> FLAT_SHIFT;
	table->words = malloc(world->flat.count * sizeof(*table->words));
	world->bisect =
		malloc(sizeof(*world->bisect) + table->ranges * sizeof(world->bisect->range[0]));
	table->mru = aligned_alloc(64, table->ranges * sizeof(*table->mru));
	if (!table->words || !world->bisect || !table->mru)
		return -ENOMEM;
	world->flat.words = table->words;
	for (i = 0; i < world->flat.count; i++)
		table->words[i] = FLAT_ABSENT;
	world->bisect->count = table->ranges;
	for (i = 0; i < table->ranges; i++) {
		char *host = table->host + i * HOST_STRIDE;

		table->words[(i * stride) >> FLAT_SHIFT] = (uintptr_t)host - i * stride;
		world->bisect->range[i] = (struct bisect_range){i * stride, LENGTH, host};
		table->mru[i] = (struct mru_block){i * stride, LENGTH, host, NULL, 0, {0}};
#ifdef CLI_BASELINE
		mru_insert(&world->mru, &table->mru[i]);
#endif
	}
	return 0;
}

static void table_fini(struct table *table)
{
	if (table->world) {
		free(table->world->bisect);
		pthread_rwlock_destroy(&table->world->rwlock);
	}
	free(table->words);
	free(table->mru);
	gr_ram_close(table->ram);
	free(table->world);
	if (table->host)
		munmap(table->host, table->ranges * HOST_STRIDE);
}

static int table_init(struct table *table, uint64_t ranges)
{
	void *host;
	int rc = -ENOMEM;
	int t;

	memset(table, 0, sizeof(*table));
	table->ranges = ranges;
	table->world = aligned_alloc(128, sizeof(*table->world));
	if (!table->world)
		return cli_fail(ENOMEM, "bench lookup"), rc;
	memset(table->world, 0, sizeof(*table->world));
#ifdef CLI_BASELINE
	mru_init(&table->world->mru);
#endif
	pthread_rwlock_init(&table->world->rwlock, NULL);
	host = mmap(NULL, ranges * HOST_STRIDE, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (host == MAP_FAILED) {
		cli_fail(errno, "bench lookup: reserving %llu MiB of addresses",
			 (unsigned long long)(ranges * HOST_STRIDE / MIB));
		goto undo;
	}
	table->host = host;
	rc = fill_baselines(table);
	if (rc < 0) {
		cli_fail(rc, "bench lookup: the baselines' tables");
		goto undo;
	}
	rc = fill_guestram(table);
	if (rc < 0) {
		cli_fail_gr(rc, "bench lookup: mapping %llu ranges", (unsigned long long)ranges);
		goto undo;
	}
	for (t = 0; t < BENCH_THREADS_MAX; t++)
		gr_cursor_init(&table->world->thread[t].cursor, table->world->space);
	return 0;

undo:
	table_fini(table);
	return rc;
}

struct piece {
	struct lookup_world *world;
	lookup_loop loop;
	uint64_t start;
	uint64_t sum[BENCH_THREADS_MAX]; /* kept, so that no loop is thrown away */
};

static void run_piece(void *context, int thread, uint64_t iterations)
{
	struct piece *piece = context;

	piece->sum[thread] += piece->loop(piece->world, thread,
					  piece->start + (uint64_t)thread * 7919, iterations);
}

/* One line of the table. */
struct shape {
	uint64_t ranges;
	bool local, dependent;
	int threads;
};

static double ask_peer(struct bench *bench, struct bench_peer *peer, const struct shape *shape,
		       const char *verb, uint64_t start, uint64_t iterations)
{
	double ns = bench_peer_ask(peer, "%s %d %d %llu %llu %d %d", verb, shape->dependent,
				   shape->threads, (unsigned long long)start,
				   (unsigned long long)iterations, bench->processor[0],
				   bench->processor[bench->processors - 1]);

	return ns < 0 ? ns : ns / (double)iterations;
}

static lookup_loop loop_of(const struct shape *shape, int contender)
{
	return shape->dependent ? lookup_loops[contender].dependent
				: lookup_loops[contender].independent;
}

static bool have(int contender)
{
	return lookup_loops[contender].independent != NULL;
}

/* ns[contender][repetition], the empty loop subtracted from all but itself. */
static int measure(struct bench *bench, struct lookup_world *world, struct bench_peer *peer,
		   const struct shape *shape, double ns[ALL][BENCH_REPETITIONS_MAX])
{
	uint64_t iterations[ALL] = {0};
	struct piece piece = {.world = world};
	int c, r;

	for (c = 0; c < LOOKUP_CONTENDERS; c++) {
		if (!have(c))
			continue;
		piece.loop = loop_of(shape, c);
		iterations[c] = bench_calibrate(bench, shape->threads, run_piece, &piece);
	}
	iterations[PEER] = bench->quick ? 4096 : 50000;
	for (r = 0; r < bench->repetitions; r++) {
		double empty;

		/* slow contenders see only a part of the trace: another one each time */
		piece.start = (uint64_t)r * 12289;
		for (c = 0; c < LOOKUP_CONTENDERS; c++) {
			if (!have(c))
				continue;
			piece.loop = loop_of(shape, c);
			ns[c][r] = bench_threads(bench, shape->threads, run_piece, &piece,
						 iterations[c]);
			if (ns[c][r] < 0)
				return (int)ns[c][r];
			if (c != LOOKUP_EMPTY)
				ns[c][r] -= ns[LOOKUP_EMPTY][r];
		}
		if (!peer->pid)
			continue;
		empty = ask_peer(bench, peer, shape, "empty", piece.start, iterations[PEER]);
		ns[PEER][r] = ask_peer(bench, peer, shape, "lookup", piece.start, iterations[PEER]);
		ns[PEER][r] -= empty;
	}
	return 0;
}

static void report_row(struct bench *bench, const struct shape *shape, bool have_peer,
		       double ns[ALL][BENCH_REPETITIONS_MAX])
{
	int n = bench->repetitions, c;
	json_t *row =
		json_pack("{s:I, s:I, s:s, s:i, s:s}", "ranges", (json_int_t)shape->ranges,
			  "space_mib", (json_int_t)(shape->ranges * stride_of(shape->ranges) / MIB),
			  "lookups", shape->dependent ? "dependent" : "independent", "threads",
			  shape->threads, "addresses", shape->local ? "local" : "uniform");

	for (c = 0; row && c < LOOKUP_CONTENDERS; c++)
		json_object_set_new(row, lookup_loops[c].name,
				    have(c) ? json_real(bench_median(ns[c], n)) : json_null());
	if (row)
		json_object_set_new(row, "vm_memory",
				    have_peer ? json_real(bench_median(ns[PEER], n)) : json_null());
	if (row)
		json_object_set_new(
			row, "to_limit",
			json_real(bench_ratio(ns[LOOKUP_GUESTRAM], ns[LOOKUP_LIMIT], n)));
	bench_row(bench, row);
}

/* What the goals need of all shapes, by size. */
struct summary {
	double dependent[2];   /* ratio to the limit, 1 thread: uniform, local */
	double independent;    /* worst difference to it, 1 thread */
	double independent_64; /* the same, 64 lookups in a section */
	double two_threads[2]; /* guestram independent, 1 and 2 threads, uniform */
	double mru, peer;      /* theirs to ours, independent, uniform, 1 thread */
	double cursor[2];      /* to shared_mru: independent, dependent, uniform, 1 thread */
};

static double worst(double a, double b)
{
	return a > b ? a : b;
}

static void summarise(struct summary *s, const struct bench *bench, const struct shape *shape,
		      double ns[ALL][BENCH_REPETITIONS_MAX])
{
	int n = bench->repetitions;

	if (!shape->local && !shape->dependent)
		s->two_threads[shape->threads - 1] = bench_median(ns[LOOKUP_GUESTRAM], n);
	if (shape->threads > 1)
		return;
	if (shape->dependent) {
		s->dependent[shape->local] = bench_ratio(ns[LOOKUP_GUESTRAM], ns[LOOKUP_LIMIT], n);
	} else {
		s->independent = worst(s->independent,
				       bench_difference(ns[LOOKUP_GUESTRAM], ns[LOOKUP_LIMIT], n));
		s->independent_64 =
			worst(s->independent_64,
			      bench_difference(ns[LOOKUP_GUESTRAM_64], ns[LOOKUP_LIMIT], n));
	}
	if (shape->local)
		return;
	s->cursor[shape->dependent] = bench_ratio(ns[LOOKUP_CURSOR], ns[LOOKUP_MRU], n);
	if (shape->dependent)
		return;
	s->mru = bench_ratio(ns[LOOKUP_MRU], ns[LOOKUP_GUESTRAM], n);
	s->peer = bench_ratio(ns[PEER], ns[LOOKUP_GUESTRAM], n);
}

static void judge_mru(struct bench *bench, const char *name, double value,
		      enum bench_relation relation, double goal)
{
	if (have(LOOKUP_MRU))
		bench_goal(bench, name, value, relation, goal);
	else
		bench_goal_missing(bench, name, relation, goal, "built without baselines");
}

static void judge(struct bench *bench, uint64_t ranges, const struct summary *s,
		  const char *peer_missing)
{
	unsigned long long n = ranges;
	char name[128];

	for (int local = 0; local < 2; local++) {
		snprintf(name, sizeof(name), "dependent lookup / limit, %s, %llu ranges",
			 local ? "local" : "uniform", n);
		bench_goal(bench, name, s->dependent[local], AT_MOST,
			   ranges * stride_of(ranges) <= 64 * 1024 * MIB ? 1.15 : 1.3);
	}
	snprintf(name, sizeof(name), "independent lookup - limit, ns, %llu ranges", n);
	bench_goal(bench, name, s->independent, AT_MOST, ranges < 4096 ? 1.2 : 1.8);
	snprintf(name, sizeof(name), "guestram_64 - limit, ns, %llu ranges", n);
	bench_goal(bench, name, s->independent_64, AT_MOST, 0.4);
	snprintf(name, sizeof(name), "2 threads / 1 thread, %llu ranges", n);
	if (bench->processors > 1)
		bench_goal(bench, name, s->two_threads[1] / s->two_threads[0], AT_MOST, 1.1);
	else
		bench_goal_missing(bench, name, AT_MOST, 1.1, "one processor");
	if (ranges == 256 || ranges == 4096) {
		snprintf(name, sizeof(name), "shared_mru / guestram, uniform, %llu ranges", n);
		judge_mru(bench, name, s->mru, AT_LEAST, ranges == 256 ? 95 : 850);
	}
	snprintf(name, sizeof(name), "vm_memory / guestram, %llu ranges", n);
	if (peer_missing)
		bench_goal_missing(bench, name, AT_LEAST, 6, peer_missing);
	else
		bench_goal(bench, name, s->peer, AT_LEAST, 6);
	if (ranges == 1) {
		judge_mru(bench, "cursor / shared_mru, independent, 1 range", s->cursor[0], AT_MOST,
			  1.1);
		judge_mru(bench, "cursor / shared_mru, dependent, 1 range", s->cursor[1], AT_MOST,
			  1.1);
	}
}

/* All rows of one size and kind of addresses. */
static int run_addresses(struct bench *bench, struct table *table, bool local, struct summary *s,
			 char *missing, size_t missing_size)
{
	static double ns[ALL][BENCH_REPETITIONS_MAX];
	struct shape shape = {.ranges = table->ranges, .local = local};
	struct bench_peer peer;
	int rc = 0;

	bench_trace(table->world->trace, table->ranges, stride_of(table->ranges), LENGTH, local);
	bench_peer_open(&peer, table->ranges, stride_of(table->ranges), LENGTH,
			table->world->trace);
	for (int dependent = 0; dependent < 2 && !rc; dependent++) {
		shape.dependent = dependent;
		for (shape.threads = 1; shape.threads <= bench->processors; shape.threads++) {
			out_progress("lookup: %llu ranges, %s, %s, %d threads",
				     (unsigned long long)table->ranges, local ? "local" : "uniform",
				     dependent ? "dependent" : "independent", shape.threads);
			rc = measure(bench, table->world, &peer, &shape, ns);
			if (rc < 0) {
				cli_fail(rc, "bench lookup: a thread");
				break;
			}
			report_row(bench, &shape, peer.pid != 0, ns);
			summarise(s, bench, &shape, ns);
		}
	}
	if (!peer.pid)
		snprintf(missing, missing_size, "%s", peer.missing);
	bench_peer_close(&peer);
	return rc;
}

int bench_lookup(struct bench *bench)
{
	struct summary summary[SIZES];
	char missing[128] = "";
	int rc = 0, i;

	urcu_memb_register_thread(); /* the baselines' sections need it */
	for (i = 0; i < SIZES && !rc; i++) {
		struct table table;

		rc = table_init(&table, sizes[i]);
		if (rc)
			break;
		summary[i] =
			(struct summary){.independent = -INFINITY, .independent_64 = -INFINITY};
		rc = run_addresses(bench, &table, false, &summary[i], missing, sizeof(missing));
		if (!rc)
			rc = run_addresses(bench, &table, true, &summary[i], missing,
					   sizeof(missing));
		table_fini(&table);
		if (!rc)
			judge(bench, sizes[i], &summary[i], *missing ? missing : NULL);
	}
	urcu_memb_unregister_thread();
	return rc;
}
