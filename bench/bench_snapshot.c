/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench snapshot`: saving and loading on tmpfs beside what they are made of, copying
 * memory and writing a file, or libzstd alone, each with two threads; the pause of a guest that
 * writes. Lazy restores and clones have files of their own: bench_restore.c, bench_clones.c.
 *
 * Threads: two for each piece that is measured; a guest in one part.
 */
#include "bench_snapshot.h"
#include "bench.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <fcntl.h>
#include <guestram/mark.h>
#include <guestram/snapshot.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define PAGE 4096
#define PIECE (256 * UINT64_C(1024))
#define THREADS 2
#define FOLDER "/dev/shm"

enum { COPY, WRITE, SAVE, LOAD, ZSTD, PACK, CONTENDERS };

struct world {
	struct gr_ram *ram;
	struct gr_block *block;
	char *host, *copy;
	uint64_t length;
	int fd;
	char file[64], plain[64];
	int end;	     /* atomic: the guest's */
	int running, parked; /* atomic */
};

struct share {
	struct world *world;
	uint64_t first, end;
	int rc;
};

int bench_snapshot_block(struct gr_ram **ram, struct gr_block **block, uint64_t length, char **host)
{
	struct gr_block_opts opts = {.name = "ram", .backing = GR_BACKING_MEMFD, .length = length};
	struct gr_block_info info;
	int rc = gr_ram_open(NULL, ram);

	if (!rc)
		rc = gr_block_new(*ram, &opts, block);
	if (rc < 0)
		return rc;
	gr_block_get_info(*block, &info);
	*host = info.host;
	return 0;
}

/* Half of each page is hard to pack. */
static void fill(char *host, uint64_t length)
{
	uint64_t state = 1, at, i;

	for (at = 0; at < length; at += PAGE) {
		uint64_t *words = (uint64_t *)(host + at);

		for (i = 0; i < PAGE / 8; i++) {
			state = state * UINT64_C(6364136223846793005) + 1;
			words[i] = i & 1 ? state >> 8 : at;
		}
	}
}

/* ---------------------------------------------------------------------------- what it is made of
 */

static void *copy_share(void *arg)
{
	struct share *share = arg;
	struct world *world = share->world;

	memcpy(world->copy + share->first, world->host + share->first, share->end - share->first);
	return NULL;
}

static void *write_share(void *arg)
{
	struct share *share = arg;
	uint64_t at;

	for (at = share->first; at < share->end; at += PIECE)
		if (pwrite(share->world->fd, share->world->host + at, PIECE, (off_t)at) !=
		    (ssize_t)PIECE)
			share->rc = errno ? -errno : -EIO;
	return NULL;
}

static void *pack_share(void *arg)
{
	struct share *share = arg;
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	char *packed = malloc(PIECE);
	uint64_t at;

	for (at = share->first; at < share->end && zstd && packed; at += PIECE)
		ZSTD_compressCCtx(zstd, packed, PIECE, share->world->host + at, PIECE, 1);
	share->rc = zstd && packed ? 0 : -ENOMEM;
	ZSTD_freeCCtx(zstd);
	free(packed);
	return NULL;
}

/* Seconds, or negative. */
static double by_two(struct world *world, void *(*work)(void *arg))
{
	struct share shares[THREADS] = {{world, 0, world->length / 2, 0},
					{world, world->length / 2, world->length, 0}};
	double begin = bench_now();
	pthread_t thread;

	if (pthread_create(&thread, NULL, work, &shares[1]))
		return -EAGAIN;
	work(&shares[0]);
	pthread_join(thread, NULL);
	if (shares[0].rc | shares[1].rc)
		return shares[0].rc | shares[1].rc;
	return (bench_now() - begin) / 1e9;
}

static double write_file(struct world *world)
{
	double seconds;

	unlink(world->plain);
	world->fd = open(world->plain, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (world->fd < 0)
		return -errno;
	seconds = by_two(world, write_share);
	close(world->fd);
	unlink(world->plain);
	return seconds;
}

static double save(struct world *world, enum gr_snapshot_layout layout)
{
	struct gr_snapshot_opts opts = {.layout = layout, .threads = THREADS};
	double begin;
	int rc;

	unlink(world->file);
	begin = bench_now();
	rc = gr_snapshot_save(world->ram, world->file, &opts, NULL);
	return rc < 0 ? rc : (bench_now() - begin) / 1e9;
}

/* Into memory that has no pages yet. */
static double load(struct world *world)
{
	struct gr_snapshot_opts opts = {.threads = THREADS};
	struct gr_snapshot *snapshot = NULL;
	struct gr_block *block;
	struct gr_ram *ram = NULL;
	double begin, seconds = 0;
	char *host;
	int rc = bench_snapshot_block(&ram, &block, world->length, &host);

	begin = bench_now();
	if (!rc)
		rc = gr_snapshot_open(world->file, NULL, &snapshot);
	if (!rc)
		rc = gr_snapshot_load(snapshot, ram, &opts, NULL);
	seconds = (bench_now() - begin) / 1e9;
	gr_snapshot_close(snapshot);
	if (ram)
		gr_ram_close(ram);
	return rc < 0 ? rc : seconds;
}

static double measure(struct world *world, int contender)
{
	switch (contender) {
	case COPY:
		return by_two(world, copy_share);
	case WRITE:
		return write_file(world);
	case SAVE:
		return save(world, GR_SNAPSHOT_MAPPED);
	case LOAD:
		return load(world);
	case ZSTD:
		return by_two(world, pack_share);
	default:
		return save(world, GR_SNAPSHOT_PACKED);
	}
}

static int rates(struct bench *bench, struct world *world, int first, int last)
{
	static const char *const names[] = {"memory copy",  "file write",	"save, mapped",
					    "load, mapped", "libzstd, level 1", "save, packed"};
	static double rate[CONTENDERS][BENCH_REPETITIONS_MAX];
	static double least[BENCH_REPETITIONS_MAX];
	int n = bench->quick ? 2 : 5, r, c;

	for (r = 0; r < n; r++)
		for (c = first; c <= last; c++) {
			double seconds = measure(world, c);

			out_progress("snapshot: %s", names[c]);
			if (seconds < 0)
				return cli_fail_gr((int)seconds, "bench snapshot: %s", names[c]),
				       (int)seconds;
			rate[c][r] = (double)world->length / seconds / 1e9;
		}
	for (c = first; c <= last; c++)
		bench_row(bench, json_pack("{s:s, s:I, s:i, s:f}", "what", names[c], "MiB",
					   (json_int_t)(world->length / MIB), "threads", THREADS,
					   "GB_s", bench_median(rate[c], n)));
	if (first == ZSTD) {
		bench_goal(bench, "packed save / libzstd alone",
			   bench_ratio(rate[PACK], rate[ZSTD], n), AT_LEAST, 0.9);
		return 0;
	}
	for (r = 0; r < n; r++)
		least[r] = rate[COPY][r] < rate[WRITE][r] ? rate[COPY][r] : rate[WRITE][r];
	bench_goal(bench, "save / the slower of copy and write", bench_ratio(rate[SAVE], least, n),
		   AT_LEAST, 0.8);
	bench_goal(bench, "load / the slower of copy and write", bench_ratio(rate[LOAD], least, n),
		   AT_LEAST, 0.8);
	return 0;
}

/* --------------------------------------------------------------------------------------- pause */

static void *run_guest(void *arg)
{
	struct world *world = arg;
	uint64_t state = 1, page;

	while (!__atomic_load_n(&world->end, __ATOMIC_ACQUIRE)) {
		struct timespec pause = {0, 50000}; /* and what the timer adds */

		nanosleep(&pause, NULL);
		if (!__atomic_load_n(&world->running, __ATOMIC_ACQUIRE)) {
			__atomic_store_n(&world->parked, 1, __ATOMIC_RELEASE);
			continue;
		}
		for (int i = 0; i < 4; i++) {
			state = state * UINT64_C(6364136223846793005) + 1;
			page = (state >> 20) % (world->length / PAGE);
			gr_read_begin();
			__atomic_add_fetch((uint64_t *)(world->host + page * PAGE), 1,
					   __ATOMIC_RELAXED);
			gr_mark_host(world->host + page * PAGE, 8);
			gr_read_end();
		}
	}
	return NULL;
}

static void stop(void *context)
{
	struct world *world = context;
	struct timespec pause = {0, 10000};

	__atomic_store_n(&world->parked, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&world->running, 0, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&world->parked, __ATOMIC_ACQUIRE))
		nanosleep(&pause, NULL);
}

static void resume(void *context)
{
	__atomic_store_n(&((struct world *)context)->running, 1, __ATOMIC_RELEASE);
}

static int pauses(struct bench *bench, struct world *world)
{
	static const struct gr_snapshot_ops ops = {.stop = stop, .resume = resume};
	struct gr_snapshot_opts opts = {.threads = THREADS, .ops = &ops, .context = world};
	double ms[BENCH_REPETITIONS_MAX];
	struct gr_snapshot_stats stats = {0};
	int n = bench->quick ? 2 : 7, r, rc = 0;
	pthread_t guest;

	world->running = 1;
	if (pthread_create(&guest, NULL, run_guest, world))
		return cli_fail(EAGAIN, "bench snapshot: a thread"), -EAGAIN;
	for (r = 0; r < n && !rc; r++) {
		out_progress("snapshot: a running guest");
		rc = gr_snapshot_save(world->ram, world->file, &opts, &stats);
		ms[r] = (double)stats.pause_ns / 1e6;
	}
	__atomic_store_n(&world->end, 1, __ATOMIC_RELEASE);
	pthread_join(guest, NULL);
	if (rc < 0)
		return cli_fail_gr(rc, "bench snapshot: a running guest"), rc;
	bench_row(bench, json_pack("{s:s, s:I, s:f, s:I, s:I}", "what", "pause of a guest", "MiB",
				   (json_int_t)(world->length / MIB), "ms", bench_median(ms, n),
				   "rounds", (json_int_t)stats.rounds, "KiB in the pause",
				   (json_int_t)(stats.bytes_paused / 1024)));
	bench_goal(bench, "pause of a guest that writes 50,000 pages/s, ms", bench_median(ms, n),
		   AT_MOST, 10);
	return 0;
}

static int world_init(struct world *world, uint64_t length)
{
	int rc = bench_snapshot_block(&world->ram, &world->block, length, &world->host);

	if (rc < 0)
		return cli_fail_gr(rc, "bench snapshot"), rc;
	world->length = length;
	fill(world->host, length);
	return 0;
}

int bench_snapshot(struct bench *bench)
{
	uint64_t available = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE),
		 length = bench->quick		 ? 64 * MIB
			  : available > 18 * GIB ? 4 * GIB
						 : GIB;
	struct world world = {.copy = MAP_FAILED};
	int rc = world_init(&world, length);

	snprintf(world.file, sizeof(world.file), FOLDER "/guestram-bench-%d.gr", (int)getpid());
	snprintf(world.plain, sizeof(world.plain), FOLDER "/guestram-bench-%d", (int)getpid());
	if (!rc) {
		world.copy = mmap(NULL, length, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		rc = world.copy == MAP_FAILED ? -errno : 0;
		if (rc < 0)
			cli_fail(rc, "bench snapshot: memory to copy to");
	}
	if (!rc)
		rc = rates(bench, &world, COPY, LOAD);
	if (world.copy != MAP_FAILED)
		munmap(world.copy, length);
	if (!rc)
		rc = pauses(bench, &world);
	world.length = length < 512 * MIB ? length : 512 * MIB;
	if (!rc && world.length < length)
		rc = gr_block_resize(world.block, world.length);
	if (!rc)
		rc = rates(bench, &world, ZSTD, PACK);
	if (world.ram)
		gr_ram_close(world.ram);
	if (!rc)
		rc = bench_clones(bench, world.file);
#ifdef CLI_PAGER
	if (!rc)
		rc = bench_restore(bench, world.file);
#endif
	unlink(world.file);
	return rc;
}
