/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench change`: do changes of some blocks stop lookups of others?
 *
 *  - a reader takes the time of single lookups, each in its own read section, in ranges that stay,
 *    while a writer does nothing, resizes a block, plugs and unplugs granules, discards pages, or
 *    does all three in turn. What counts is p99 in a storm of 10,000 changes a second, which is
 * more than guests ask for, over p99 when it is quiet, taken one after the other, and the median of
 *    that over the repetitions. As fast as the writer can is shown beside it: then a lookup in a
 *    hundred is the first one after a change, whatever that costs it (the new view comes from the
 *    writer's cache, the grace period interrupts the reader). All of it twice: with what changes
 *    below 64 GiB, where the index is one array that a change copies, and above;
 *  - what each change costs;
 *  - preallocation by one thread and by as many as there are processors.
 *
 * Threads: the reader and the writer, each bound to a processor; `stop` is atomic, all else is
 * handed over by starting and joining them.
 */
#include "bench.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <guestram.h>
#include <guestram/plug.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define GRANULE (2 * MIB)
#define PAGE UINT64_C(4096)
#define RW (GR_READ | GR_WRITE)

enum { STAY = 64, GRANULES = 64, SAMPLES = 1 << 18, CHANGE_REPETITIONS = 15, PACE_NS = 100000 };

enum storm { QUIET, RESIZE, PLUG, DISCARD, ALL, STORMS };

static const char goal[] = "p99 of lookups in a storm / quiet";

static const char *const storm_names[STORMS] = {
	[QUIET] = "quiet",
	[RESIZE] = "grow and shrink a block",
	[PLUG] = "plug and unplug granules",
	[DISCARD] = "discard pages",
	[ALL] = "all of them in turn",
};

/* What is measured in one go: the reader under a storm, paced or not. */
enum { PIECES = 1 + 2 * (STORMS - 1) };

struct piece {
	enum storm storm;
	bool paced;
};

static struct piece piece_of(int number)
{
	if (number < STORMS)
		return (struct piece){(enum storm)number, true};
	return (struct piece){(enum storm)(number - STORMS + 1), false};
}

struct world {
	const struct bench *bench;
	struct gr_ram *ram;
	struct gr_space *space;
	struct gr_block *elastic, *vmem, *paged;
	struct gr_plug *plug;
	uint64_t base;	       /* where what changes begins */
	double *samples;       /* ns; SAMPLES of them, the reader's */
	const uint64_t *trace; /* BENCH_TRACE addresses in the ranges that stay */
	struct piece piece;    /* what the writer does */
	int stop;	       /* atomic, relaxed: set when the samples are taken */
	uint64_t changes;      /* the writer's */
	double spent;	       /* ns; the writer's */
	int rc;		       /* the writer's */
	uint64_t missed;       /* lookups that found nothing: none must */
};

/* ------------------------------------------------------------------------------------- world */

static int new_block(struct world *world, const char *name, uint64_t length, uint64_t maximum,
		     struct gr_block **block)
{
	const struct gr_block_opts opts = {.name = name, .length = length, .max_length = maximum};

	return gr_block_new(world->ram, &opts, block);
}

/* Ranges that stay from 0 on, two granules apart; what changes lies above them. */
static int fill(struct world *world)
{
	struct gr_block *block;
	char name[32];
	int rc = 0, i;

	for (i = 0; i < STAY && !rc; i++) {
		snprintf(name, sizeof(name), "stay-%d", i);
		rc = new_block(world, name, GRANULE, 0, &block);
		if (!rc)
			rc = gr_space_map(world->space, (uint64_t)i * 2 * GRANULE, block, 0,
					  GRANULE, RW);
	}
	if (!rc)
		rc = new_block(world, "elastic", GRANULE, 64 * GRANULE, &world->elastic);
	if (!rc)
		rc = gr_space_map(world->space, world->base, world->elastic, 0, 64 * GRANULE, RW);
	if (!rc)
		rc = new_block(world, "vmem", GRANULES * GRANULE, 0, &world->vmem);
	if (!rc)
		rc = gr_plug_open(world->vmem, NULL, &world->plug);
	if (!rc)
		rc = gr_plug_map(world->plug, world->space, world->base + 4 * GIB, 0,
				 GRANULES * GRANULE, RW);
	if (!rc)
		rc = new_block(world, "paged", GRANULE, 0, &world->paged);
	if (!rc)
		rc = gr_space_map(world->space, world->base + 8 * GIB, world->paged, 0, GRANULE,
				  RW);
	return rc;
}

static void world_fini(struct world *world)
{
	free(world->samples);
	free((void *)world->trace);
	if (world->plug) {
		gr_plug_unmap(world->plug, world->space, world->base + 4 * GIB);
		gr_plug_remove_all(world->plug);
		gr_plug_close(world->plug);
	}
	gr_ram_close(world->ram);
}

static int world_init(struct world *world, const struct bench *bench, uint64_t base)
{
	uint64_t *trace = malloc(BENCH_TRACE * sizeof(*trace));
	int rc;

	memset(world, 0, sizeof(*world));
	world->bench = bench;
	world->base = base;
	world->trace = trace;
	world->samples = malloc(SAMPLES * sizeof(*world->samples));
	if (!world->trace || !world->samples) {
		free(trace);
		free(world->samples);
		return cli_fail(ENOMEM, "bench change"), -ENOMEM;
	}
	bench_trace(trace, STAY, 2 * GRANULE, GRANULE, false);
	rc = gr_ram_open(NULL, &world->ram);
	if (!rc)
		rc = gr_space_open(world->ram, "bench", &world->space);
	if (!rc)
		rc = fill(world);
	if (rc < 0) {
		cli_fail_gr(rc, "bench change: blocks to change");
		world_fini(world);
	}
	return rc;
}

/* ------------------------------------------------------------------------------------ writer */

/* One there and one back again, so two changes. */
static int change(struct world *world, enum storm storm, uint64_t turn)
{
	uint64_t offset = turn * 7 % GRANULES * GRANULE;
	int rc;

	switch (storm) {
	case RESIZE:
		rc = gr_block_resize(world->elastic, (2 + turn % 62) * GRANULE);
		return rc < 0 ? rc : gr_block_resize(world->elastic, GRANULE);
	case PLUG:
		rc = gr_plug_add(world->plug, offset, GRANULE);
		return rc < 0 ? rc : gr_plug_remove(world->plug, offset, GRANULE);
	case DISCARD:
		rc = gr_block_discard(world->paged, turn % 511 * PAGE, PAGE);
		return rc < 0 ? rc : gr_block_discard(world->paged, turn % 511 * PAGE + PAGE, PAGE);
	default:
		return -EINVAL;
	}
}

static void bind_to(int processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void *write_all(void *context)
{
	struct world *world = context;
	const struct piece piece = world->piece;
	double next = bench_now(), begin;
	uint64_t turn = 0;
	int rc = 0;

	bind_to(world->bench->processor[1]);
	while (!rc && !__atomic_load_n(&world->stop, __ATOMIC_RELAXED)) {
		enum storm storm =
			piece.storm == ALL ? RESIZE + (enum storm)(turn % 3) : piece.storm;

		begin = bench_now();
		if (piece.paced && begin < next)
			continue;
		next = begin + 2 * PACE_NS;
		rc = change(world, storm, turn++);
		world->spent += bench_now() - begin;
		/* relaxed: the reader only waits until there are some */
		__atomic_store_n(&world->changes, world->changes + 2, __ATOMIC_RELAXED);
	}
	world->rc = rc;
	return NULL;
}

/* ------------------------------------------------------------------------------------ reader */

static void *read_all(void *context)
{
	struct world *world = context;
	uint64_t i;

	bind_to(world->bench->processor[0]);
	for (i = 0; i < SAMPLES; i++) {
		uint64_t addr = world->trace[i % BENCH_TRACE];
		double begin = bench_now();
		void *host;

		gr_read_begin();
		host = gr_host(world->space, addr, 8, GR_READ);
		gr_read_end();
		world->samples[i] = bench_now() - begin;
		world->missed += !host;
	}
	__atomic_store_n(&world->stop, 1, __ATOMIC_RELAXED);
	return NULL;
}

/* One piece: samples under a storm. 0 or -errno. */
static int measure(struct world *world, struct piece piece)
{
	pthread_t reader, writer;
	int rc;

	world->piece = piece;
	world->spent = 0;
	world->rc = 0;
	world->stop = 0;
	world->changes = 0;
	if (piece.storm != QUIET) {
		rc = pthread_create(&writer, NULL, write_all, world);
		if (rc)
			return cli_fail(rc, "bench change: a thread"), -rc;
		for (rc = 0; !__atomic_load_n(&world->changes, __ATOMIC_RELAXED) && rc < 10000;
		     rc++)
			usleep(100); /* until it is under way, or has failed */
	}
	rc = pthread_create(&reader, NULL, read_all, world);
	if (rc)
		__atomic_store_n(&world->stop, 1, __ATOMIC_RELAXED);
	else
		pthread_join(reader, NULL);
	if (piece.storm != QUIET)
		pthread_join(writer, NULL);
	if (rc)
		return cli_fail(rc, "bench change: a thread"), -rc;
	if (world->rc < 0)
		return cli_fail_gr(world->rc, "bench change: %s", storm_names[piece.storm]),
		       world->rc;
	return 0;
}

struct figures {
	double p50[CHANGE_REPETITIONS], p99[CHANGE_REPETITIONS], us[CHANGE_REPETITIONS];
};

static int measure_all(struct world *world, struct figures *figures, int repetitions)
{
	int r, p, rc = 0;

	for (r = -1; r < repetitions && !rc; r++) { /* the first is to warm up */
		out_progress("change: repetition %d of %d", r + 1, repetitions);
		for (p = 0; p < PIECES && !rc; p++) {
			struct figures *f = &figures[p];

			rc = measure(world, piece_of(p));
			if (rc < 0 || r < 0)
				continue;
			f->p50[r] = bench_percentile(world->samples, SAMPLES, 0.5);
			f->p99[r] = bench_percentile(world->samples, SAMPLES, 0.99);
			f->us[r] = p ? world->spent / 1000 / (double)world->changes : 0;
		}
	}
	return rc;
}

static void report(struct bench *bench, const char *where, const struct figures *figures,
		   int repetitions)
{
	char name[128];
	int p;

	for (p = 0; p < PIECES; p++) {
		const struct figures *f = &figures[p];
		struct piece piece = piece_of(p);

		bench_row(bench,
			  json_pack("{s:s, s:s, s:s, s:s, s:f, s:f, s:o}", "what",
				    "one lookup and its section, ns", "what changes", where,
				    "meanwhile", storm_names[piece.storm], "changes",
				    !p		  ? "none"
				    : piece.paced ? "10,000 a second"
						  : "all it can",
				    "p50", bench_median(f->p50, repetitions), "p99",
				    bench_median(f->p99, repetitions), "us_each_change",
				    p ? json_real(bench_median(f->us, repetitions)) : json_null()));
		if (!p || !piece.paced)
			continue;
		snprintf(name, sizeof(name), "%s, %s: %s", goal, where, storm_names[piece.storm]);
		bench_goal(bench, name, bench_ratio(f->p99, figures[0].p99, repetitions), AT_MOST,
			   2);
	}
}

static int change_lookups(struct bench *bench, uint64_t base, const char *where)
{
	int repetitions = bench->quick ? 3 : CHANGE_REPETITIONS;
	struct figures *figures = NULL;
	struct world world;
	char name[128];
	int rc, storm;

	if (bench->processors < 2) {
		for (storm = RESIZE; storm < STORMS; storm++) {
			snprintf(name, sizeof(name), "%s, %s: %s", goal, where, storm_names[storm]);
			bench_goal_missing(bench, name, AT_MOST, 2, "one processor only");
		}
		return 0;
	}
	rc = world_init(&world, bench, base);
	if (rc < 0)
		return rc;
	figures = calloc(PIECES, sizeof(*figures));
	rc = figures ? measure_all(&world, figures, repetitions)
		     : (cli_fail(ENOMEM, "bench change"), -ENOMEM);
	if (!rc && world.missed)
		rc = (cli_fail(EFAULT, "bench change: lookups that found nothing"), -EFAULT);
	if (!rc)
		report(bench, where, figures, repetitions);
	free(figures);
	world_fini(&world);
	return rc;
}

/* ------------------------------------------------------------------------------ preallocation */

/* ms for a block that has all its pages, or -errno. */
static double preallocate(struct gr_ram *ram, uint64_t length, unsigned threads)
{
	const struct gr_block_opts opts = {
		.name = "prealloc",
		.flags = GR_PREALLOC | GR_NO_THP,
		.length = length,
		.prealloc_threads = threads,
	};
	struct gr_block *block;
	double begin = bench_now(), ms;
	int rc = gr_block_new(ram, &opts, &block);

	if (rc < 0)
		return rc;
	ms = (bench_now() - begin) / 1e6;
	rc = gr_block_delete(block);
	if (!rc)
		rc = gr_ram_drain(ram, 60000);
	return rc < 0 ? rc : ms;
}

static int change_preallocation(struct bench *bench)
{
	unsigned threads[2] = {1, (unsigned)sysconf(_SC_NPROCESSORS_ONLN)}, i;
	uint64_t length = bench->quick ? 32 * MIB : 512 * MIB;
	double ms[2][CHANGE_REPETITIONS];
	int repetitions = bench->quick ? 3 : CHANGE_REPETITIONS, r;
	static const char scales[] = "preallocation: faster by all processors, times their number";
	struct gr_ram *ram;
	int rc = gr_ram_open(NULL, &ram);

	if (rc < 0)
		return cli_fail_gr(rc, "bench change: an empty RAM"), rc;
	for (r = -1; r < repetitions && !rc; r++) {
		out_progress("change: preallocation %d of %d", r + 1, repetitions);
		for (i = 0; i < 2 && !rc; i++) {
			double took = preallocate(ram, length, threads[i]);

			if (took < 0)
				rc = (int)took;
			else if (r >= 0)
				ms[i][r] = took;
		}
	}
	gr_ram_close(ram);
	if (rc < 0)
		return cli_fail_gr(rc, "bench change: preallocation"), rc;
	for (i = 0; i < 2; i++)
		bench_row(bench,
			  json_pack("{s:s, s:I, s:I, s:f}", "what", "preallocation, ms", "MiB",
				    (json_int_t)(length / MIB), "threads", (json_int_t)threads[i],
				    "guestram", bench_median(ms[i], repetitions)));
	if (threads[1] < 2)
		bench_goal_missing(bench, scales, AT_LEAST, 0.75, "one processor only");
	else
		bench_goal(bench, scales, bench_ratio(ms[0], ms[1], repetitions) / threads[1],
			   AT_LEAST, 0.75);
	return 0;
}

int bench_change(struct bench *bench)
{
	int rc = change_lookups(bench, 4 * GIB, "below 64 GiB");

	if (!rc)
		rc = change_lookups(bench, 80 * GIB, "above");
	return rc < 0 ? rc : change_preallocation(bench);
}
