/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench window`: memory that is seen through windows beside the same file mapped whole:
 * what a hit costs, by pointer and by value, and what a miss costs, beside mmap and munmap alone.
 *
 * The addresses are recorded; the file has its pages and stays in the processor's caches. Misses go
 * round more windows than there may be, so that each evicts one. Threads: one.
 */
#include "bench.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <guestram.h>
#include <stdlib.h>
#include <sys/mman.h>

#define MIB (UINT64_C(1) << 20)
#define LENGTH (16 * MIB) /* seen in the hits */
#define WINDOW (64 * UINT64_C(1024))
#define WINDOWS 512 /* twice as many as the hits see */
#define FILE_LENGTH (8 * WINDOWS * WINDOW)
#define MASK ((uint64_t)BENCH_TRACE - 1)

struct world {
	uint64_t trace[BENCH_TRACE];
	struct gr_ram *ram;
	struct gr_space *space, *plain; /* the file in windows; a block with a host address */
	struct gr_block *block;
	char *mapped; /* LENGTH of the file */
	int fd;
	uint64_t next; /* window to miss */
	uint64_t failed, sum;
};

#define LOOP(name, ...)                                                                            \
	static __attribute__((noinline)) void name(void *context, int thread, uint64_t iterations) \
	{                                                                                          \
		struct world *world = context;                                                     \
		const uint64_t *trace = world->trace;                                              \
		uint64_t sum = 0, failed = 0, k;                                                   \
                                                                                                   \
		(void)thread;                                                                      \
		gr_read_begin();                                                                   \
		for (k = 0; k < iterations; k++) {                                                 \
			uint64_t addr = trace[k & MASK], value = 0;                                \
                                                                                                   \
			__VA_ARGS__;                                                               \
			sum += value;                                                              \
		}                                                                                  \
		gr_read_end();                                                                     \
		world->sum += sum;                                                                 \
		world->failed += failed;                                                           \
	}

#define POINTER(where)                                                                             \
	{                                                                                          \
		const void *host = gr_host(where, addr, 8, GR_READ);                               \
                                                                                                   \
		failed += !host;                                                                   \
		value = (uintptr_t)host;                                                           \
	}

LOOP(direct_load, value = __atomic_load_n((uint64_t *)(world->mapped + addr), __ATOMIC_RELAXED))
LOOP(plain_host, POINTER(world->plain))
LOOP(plain_load, failed += gr_load_u64(world->plain, addr, &value) != 0)
LOOP(window_host, POINTER(world->space))
LOOP(window_load, failed += gr_load_u64(world->space, addr, &value) != 0)

/* One word of each window, in turn; both touch the page. */
static __attribute__((noinline)) void window_miss(void *context, int thread, uint64_t iterations)
{
	struct world *world = context;
	uint64_t value = 0, k;

	(void)thread;
	for (k = 0; k < iterations; k++, world->next += WINDOW) {
		world->failed += gr_load_u64(world->space, world->next % FILE_LENGTH, &value) != 0;
		world->sum += value;
	}
}

static __attribute__((noinline)) void map_and_unmap(void *context, int thread, uint64_t iterations)
{
	struct world *world = context;
	uint64_t k;

	(void)thread;
	for (k = 0; k < iterations; k++, world->next += WINDOW) {
		uint64_t *host = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_SHARED, world->fd,
				      (off_t)(world->next % FILE_LENGTH));

		if (host == MAP_FAILED) {
			world->failed++;
			continue;
		}
		world->sum += *host;
		munmap(host, WINDOW);
	}
}

struct contender {
	const char *what, *way;
	bench_fn fn;
};

static int measure(struct bench *bench, struct world *world, const struct contender *contenders,
		   int count, double *medians)
{
	static double ns[8][BENCH_REPETITIONS_MAX];
	int n = bench->repetitions, c, r;
	uint64_t iterations[8];

	for (c = 0; c < count; c++)
		iterations[c] = bench_calibrate(bench, 1, contenders[c].fn, world);
	for (r = 0; r < n; r++)
		for (c = 0; c < count; c++) {
			ns[c][r] = bench_threads(bench, 1, contenders[c].fn, world, iterations[c]);
			if (ns[c][r] < 0)
				return (int)ns[c][r];
		}
	if (world->failed)
		return cli_fail(0, "bench window: %llu lookups failed",
				(unsigned long long)world->failed),
		       -EFAULT;
	for (c = 0; c < count; c++) {
		medians[c] = bench_median(ns[c], n);
		bench_row(bench, json_pack("{s:s, s:s, s:f, s:f}", "what", contenders[c].what,
					   "way", contenders[c].way, "ns", medians[c], "over_first",
					   bench_difference(ns[c], ns[0], n)));
	}
	return 0;
}

static int world_init(struct world *world)
{
	struct gr_block_opts opts = {
		.name = "windowed",
		.backing = GR_BACKING_FILE,
		.flags = GR_WINDOWED | GR_SHARED | GR_TEMPORARY,
		.path = "/dev/shm",
		.length = FILE_LENGTH,
		.window_size = WINDOW,
		.max_windows = WINDOWS,
	};
	struct gr_block *plain = NULL;
	uint64_t offset, i;
	int rc;

	rc = gr_ram_open(NULL, &world->ram);
	if (!rc)
		rc = gr_space_open(world->ram, "windows", &world->space);
	if (!rc)
		rc = gr_space_open(world->ram, "plain", &world->plain);
	if (!rc)
		rc = gr_block_new(world->ram, &opts, &world->block);
	if (!rc)
		rc = gr_space_map(world->space, 0, world->block, 0, FILE_LENGTH,
				  GR_READ | GR_WRITE);
	if (!rc)
		rc = gr_block_share_fd(world->block, &world->fd, &offset);
	for (i = 0; i < FILE_LENGTH && !rc; i += WINDOW)
		rc = gr_store_u64(world->space, i, i);
	opts = (struct gr_block_opts){.name = "plain",
				      .backing = GR_BACKING_MEMFD,
				      .length = LENGTH,
				      .flags = GR_PREALLOC};
	if (!rc)
		rc = gr_block_new(world->ram, &opts, &plain);
	if (!rc)
		rc = gr_space_map(world->plain, 0, plain, 0, LENGTH, GR_READ | GR_WRITE);
	if (rc < 0)
		return cli_fail_gr(rc, "bench window: a RAM with a file in windows"), rc;
	world->mapped =
		mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, world->fd, 0);
	if (world->mapped == MAP_FAILED)
		return cli_fail(errno, "bench window: mapping the file"), -ENOMEM;
	/* some words of each window: what differs is the lookup, not the caches */
	bench_trace(world->trace, LENGTH / WINDOW, WINDOW, 512, false);
	return 0;
}

int bench_window(struct bench *bench)
{
	static const struct contender hits[] = {
		{"hit", "load, file mapped whole", direct_load},
		{"hit", "gr_host, block with an address", plain_host},
		{"hit", "gr_host, windows", window_host},
		{"hit", "gr_load_u64, block with an address", plain_load},
		{"hit", "gr_load_u64, windows", window_load},
	};
	static const struct contender misses[] = {
		{"miss", "mmap, touch, munmap", map_and_unmap},
		{"miss", "gr_load_u64, windows, each evicts one", window_miss},
	};
	struct world *world = calloc(1, sizeof(*world));
	double ns[8];
	int rc;

	if (!world)
		return cli_fail(ENOMEM, "bench window"), -ENOMEM;
	world->mapped = MAP_FAILED;
	rc = world_init(world);
	if (!rc) {
		out_progress("window: hits");
		rc = measure(bench, world, hits, 5, ns);
	}
	if (!rc) {
		bench_goal(bench, "window hit, gr_host in a section, ns", ns[2], AT_MOST, 10);
		bench_goal(bench, "gr_load_u64, windows - with an address, ns", ns[4] - ns[3],
			   AT_MOST, 10);
		out_progress("window: misses");
		rc = measure(bench, world, misses, 2, ns);
	}
	if (world->mapped != MAP_FAILED)
		munmap(world->mapped, LENGTH);
	gr_ram_close(world->ram);
	free(world);
	return rc;
}
