/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench access`: loads and stores by guest address beside plain ones on the same memory,
 * and bulk copies beside memcpy.
 *
 * The addresses are recorded; the memory has its pages and stays in the processor's caches, where
 * the difference shows most. Threads: one.
 */
#include "bench.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <guestram.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define LENGTH (2 * MIB)
#define MASK ((uint64_t)BENCH_TRACE - 1)

struct world {
	uint64_t trace[BENCH_TRACE];
	char *host; /* of guest address 0; one block, mapped in @ranges pieces at its own offsets */
	struct gr_ram *ram;
	struct gr_space *space;
	char *buffer;	 /* MIB */
	uint64_t failed; /* accesses that returned an error: there are none */
	uint64_t sum;
};

/* ------------------------------------------------------------------------ single values, 64 bit */

/* The memory is zero, which only the processor can tell: a dependent load waits for the last. */
#define LOAD_LOOP(name, dependent, load)                                                           \
	static __attribute__((noinline)) void name(void *context, int thread, uint64_t iterations) \
	{                                                                                          \
		struct world *world = context;                                                     \
		const uint64_t *trace = world->trace;                                              \
		uint64_t sum = 0, d = 0, failed = 0, k;                                            \
                                                                                                   \
		(void)thread;                                                                      \
		for (k = 0; k < iterations; k++) {                                                 \
			uint64_t addr = trace[k & MASK] + ((dependent) ? d : 0);                   \
			uint64_t value = 0;                                                        \
                                                                                                   \
			load;                                                                      \
			sum += value;                                                              \
			if (dependent)                                                             \
				d = value;                                                         \
		}                                                                                  \
		world->sum += sum;                                                                 \
		world->failed += failed;                                                           \
	}

#define PLAIN_LOAD value = __atomic_load_n((uint64_t *)(world_host + addr), __ATOMIC_RELAXED)
#define GUEST_LOAD failed += gr_load_u64(world->space, addr, &value) != 0
#define world_host world->host

LOAD_LOOP(plain_load_independent, 0, PLAIN_LOAD)
LOAD_LOOP(plain_load_dependent, 1, PLAIN_LOAD)
LOAD_LOOP(guest_load_independent, 0, GUEST_LOAD)
LOAD_LOOP(guest_load_dependent, 1, GUEST_LOAD)

static __attribute__((noinline)) void plain_store(void *context, int thread, uint64_t iterations)
{
	struct world *world = context;
	const uint64_t *trace = world->trace;
	uint64_t k;

	(void)thread;
	for (k = 0; k < iterations; k++)
		__atomic_store_n((uint64_t *)(world->host + trace[k & MASK]), 0, __ATOMIC_RELAXED);
}

static __attribute__((noinline)) void guest_store(void *context, int thread, uint64_t iterations)
{
	struct world *world = context;
	const uint64_t *trace = world->trace;
	uint64_t failed = 0, k;

	(void)thread;
	for (k = 0; k < iterations; k++)
		failed += gr_store_u64(world->space, trace[k & MASK], 0) != 0;
	world->failed += failed;
}

static int measure_pair(struct bench *bench, bench_fn plain, bench_fn guest, struct world *world,
			double ns[2][BENCH_REPETITIONS_MAX])
{
	uint64_t iterations = bench_calibrate(bench, 1, guest, world);
	int r;

	for (r = 0; r < bench->repetitions; r++) {
		ns[0][r] = bench_threads(bench, 1, plain, world, iterations);
		ns[1][r] = bench_threads(bench, 1, guest, world, iterations);
	}
	if (!world->failed)
		return 0;
	return cli_fail(0, "bench access: %llu accesses failed", (unsigned long long)world->failed),
	       -EFAULT;
}

static int access_values(struct bench *bench, struct world *world, int ranges)
{
	static const struct {
		const char *what, *kind;
		bench_fn plain, guest;
	} pairs[] = {
		{"load_u64, ns", "independent", plain_load_independent, guest_load_independent},
		{"load_u64, ns", "dependent", plain_load_dependent, guest_load_dependent},
		{"store_u64, ns", "independent", plain_store, guest_store},
	};
	static double ns[2][BENCH_REPETITIONS_MAX];
	int n = bench->repetitions, rc;
	size_t i;

	for (i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		char name[128];
		double over;

		out_progress("access: %s, %d ranges", pairs[i].what, ranges);
		rc = measure_pair(bench, pairs[i].plain, pairs[i].guest, world, ns);
		if (rc < 0)
			return rc;
		over = bench_difference(ns[1], ns[0], n);
		bench_row(bench, json_pack("{s:s, s:i, s:s, s:f, s:f, s:f}", "what", pairs[i].what,
					   "ranges", ranges, "kind", pairs[i].kind, "plain",
					   bench_median(ns[0], n), "guestram",
					   bench_median(ns[1], n), "over", over));
		if (ranges != 1 || i > 1)
			continue;
		snprintf(name, sizeof(name), "gr_load_u64 - plain load, ns, %s, 1 range",
			 pairs[i].kind);
		bench_goal(bench, name, over, AT_MOST, 3);
	}
	return 0;
}

/* -------------------------------------------------------------------------------------- bulk */

struct bulk {
	struct world *world;
	uint64_t size;
};

/* One after the other through the whole block. */
#define BULK_LOOP(name, copy)                                                                      \
	static __attribute__((noinline)) void name(void *context, int thread, uint64_t iterations) \
	{                                                                                          \
		struct bulk *bulk = context;                                                       \
		struct world *world = bulk->world;                                                 \
		uint64_t size = bulk->size, addr = 0, failed = 0, k;                               \
                                                                                                   \
		(void)thread;                                                                      \
		for (k = 0; k < iterations; k++) {                                                 \
			copy;                                                                      \
			addr = (addr + size) & (LENGTH - 1);                                       \
			/* the copy is wanted, whatever the compiler can see of its use */         \
			__asm__ volatile("" : : "r"(world->buffer) : "memory");                    \
		}                                                                                  \
		world->failed += failed;                                                           \
	}

BULK_LOOP(plain_from, memcpy(world->buffer, world->host + addr, size))
BULK_LOOP(plain_to, memcpy(world->host + addr, world->buffer, size))
BULK_LOOP(guest_from, failed += gr_load(world->space, addr, world->buffer, size) != 0)
BULK_LOOP(guest_to, failed += gr_store(world->space, addr, world->buffer, size) != 0)

static int access_bulk(struct bench *bench, struct world *world)
{
	static const uint64_t sizes[] = {64, 512, 4096, 65536, MIB};
	static const struct {
		const char *what;
		bench_fn plain, guest;
	} ways[] = {
		{"gr_load", plain_from, guest_from},
		{"gr_store", plain_to, guest_to},
	};
	static double ns[2][BENCH_REPETITIONS_MAX];
	int n = bench->repetitions, r;
	size_t i;

	for (i = 0; i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t way = i / (sizeof(sizes) / sizeof(sizes[0]));
		struct bulk bulk = {world, sizes[i % (sizeof(sizes) / sizeof(sizes[0]))]};
		uint64_t iterations = bench_calibrate(bench, 1, ways[way].plain, &bulk);
		double ratio;
		char name[128];

		out_progress("access: %s of %llu bytes", ways[way].what,
			     (unsigned long long)bulk.size);
		for (r = 0; r < n; r++) {
			ns[0][r] = bench_threads(bench, 1, ways[way].plain, &bulk, iterations);
			ns[1][r] = bench_threads(bench, 1, ways[way].guest, &bulk, iterations);
		}
		if (world->failed)
			return cli_fail(0, "bench access: copies failed"), -EFAULT;
		ratio = bench_ratio(ns[0], ns[1], n);
		/* bytes in a ns are GB in a second */
		bench_row(bench,
			  json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f}", "what", ways[way].what,
				    "bytes", (json_int_t)bulk.size, "memcpy_ns",
				    bench_median(ns[0], n), "guestram_ns", bench_median(ns[1], n),
				    "memcpy_gb_s", (double)bulk.size / bench_median(ns[0], n),
				    "guestram_gb_s", (double)bulk.size / bench_median(ns[1], n),
				    "ratio", ratio));
		if (bulk.size < 4096)
			continue; /* shown, but not what "bulk" means */
		snprintf(name, sizeof(name), "%s / memcpy, speed, %llu bytes", ways[way].what,
			 (unsigned long long)bulk.size);
		bench_goal(bench, name, ratio, AT_LEAST, 0.95);
	}
	return 0;
}

/* One block with all its pages; from the second range on, each is the next piece of it. */
static int world_init(struct world *world, uint64_t ranges)
{
	struct gr_block_opts opts = {.name = "bench", .length = LENGTH, .flags = GR_PREALLOC};
	struct gr_block_info info;
	struct gr_block *block = NULL;
	uint64_t piece = LENGTH / ranges, i;
	int rc;

	world->buffer = aligned_alloc(4096, MIB);
	if (!world->buffer)
		return -ENOMEM;
	memset(world->buffer, 0, MIB);
	rc = gr_ram_open(NULL, &world->ram);
	if (!rc)
		rc = gr_space_open(world->ram, "bench", &world->space);
	if (!rc)
		rc = gr_block_new(world->ram, &opts, &block);
	for (i = 0; i < ranges && !rc; i++)
		rc = gr_space_map(world->space, i * piece, block, i * piece, piece,
				  GR_READ | GR_WRITE);
	if (rc)
		return rc;
	gr_block_get_info(block, &info);
	world->host = info.host;
	bench_trace(world->trace, 1, LENGTH, LENGTH, false);
	return 0;
}

static void world_fini(struct world *world)
{
	gr_ram_close(world->ram);
	free(world->buffer);
	free(world);
}

int bench_access(struct bench *bench)
{
	/* one range that covers its granule, and a granule that 16 share: the slow path */
	static const int ranges[] = {1, 16};
	int rc = 0;
	size_t i;

	for (i = 0; i < sizeof(ranges) / sizeof(ranges[0]) && !rc; i++) {
		struct world *world = calloc(1, sizeof(*world));

		if (!world)
			return cli_fail(ENOMEM, "bench access"), -ENOMEM;
		rc = world_init(world, (uint64_t)ranges[i]);
		if (rc < 0)
			cli_fail_gr(rc, "bench access: %d ranges", ranges[i]);
		if (!rc)
			rc = access_values(bench, world, ranges[i]);
		if (!rc && ranges[i] == 1)
			rc = access_bulk(bench, world);
		world_fini(world);
	}
	return rc;
}
