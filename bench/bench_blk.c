/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench blk`: this program's `serve blk` beside qemu-storage-daemon, under one and the
 * same guest (bench_blk_load.c), on files in memory and on a target that keeps nothing.
 *
 * Both servers run all the time, the guest on the first processor, they on the second; pieces
 * alternate, and the one that is not measured sleeps. qemu-storage-daemon runs in the setting, of
 * those listed, that answers most reads of 4 KiB in a second. CPU time is that of the server's
 * process, all threads.
 */
#include "bench_blk.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

enum { OURS, QEMU, SERVERS };
enum {
	CHANGES = 100,	  /* of the memory table, in a second */
	SETTLE_US = 2000, /* the kernel counts what a thread has run when it goes to sleep */
};

static const struct blk_setting ours = {"guestram", NULL, false};

/* Of files, and of null targets, of which aio says nothing. */
static const struct blk_setting file_settings[] = {
	{"aio=io_uring, iothread", "io_uring", true},
	{"aio=io_uring", "io_uring", false},
	{"aio=threads, iothread", "threads", true},
	{"aio=threads", "threads", false},
	{0},
};
static const struct blk_setting null_settings[] = {
	{"iothread", "threads", true},
	{"no iothread", "threads", false},
	{0},
};

static const struct blk_load loads[] = {
	{"random read, 4 KiB", false, false, 4096, 1},
	{"random read, 4 KiB", false, false, 4096, 32},
	{"random read, 4 KiB", false, false, 4096, 128},
	{"random write, 4 KiB", true, false, 4096, 1},
	{"random write, 4 KiB", true, false, 4096, 32},
	{"random write, 4 KiB", true, false, 4096, 128},
	{"sequential read, 1 MiB", false, true, MIB, 8},
	{"sequential write, 1 MiB", true, true, MIB, 8},
};
enum { READ_1, READ_32, READ_128, SEQUENTIAL = 6, LOADS = 8 }; /* places in loads */

struct figures {
	double rate[BENCH_REPETITIONS_MAX];	/* requests in a second */
	double rate_cpu[BENCH_REPETITIONS_MAX]; /* and in one of the server's CPU time */
	double p50[BENCH_REPETITIONS_MAX];	/* us */
	double p99[BENCH_REPETITIONS_MAX];
	double changes[BENCH_REPETITIONS_MAX]; /* of the memory table, in a second */
};

struct world {
	struct bench *bench;
	const char *target;
	char folder[64];
	char files[SERVERS][96];
	struct blk_disk disks[SERVERS];
	struct blk_server servers[SERVERS];
	struct blk_guest guests[SERVERS];
	int count;	     /* of servers: 1 without qemu-storage-daemon */
	const char *missing; /* why there is none */
	const struct blk_setting *setting;
	int processor; /* of the servers, or -1 */
	struct figures figures[SERVERS];
};

static const char *name_of(int who)
{
	return who == OURS ? "guestram serve blk" : "qemu-storage-daemon";
}

static double piece_ns(const struct world *world)
{
	return world->bench->quick ? 5e6 : 100e6;
}

/* One piece, into place @r of the figures. 0 or -errno, said. */
static int piece(struct world *world, int who, const struct blk_load *load, double ns, int r,
		 unsigned changes, struct figures *figures)
{
	struct blk_guest *guest = &world->guests[who];
	double before = blk_server_cpu(&world->servers[who]), used;
	unsigned done = 0;
	int rc;

	if (changes)
		rc = blk_guest_run_changing(guest, load, ns, changes, &done);
	else
		rc = blk_guest_run(guest, load, ns);
	if (rc < 0)
		return cli_fail(rc, "bench blk: %s, %s, depth %u", name_of(who), load->name,
				load->depth),
		       rc;
	usleep(SETTLE_US);
	used = blk_server_cpu(&world->servers[who]) - before;
	if (before < 0 || used <= 0)
		return cli_fail(0, "bench blk: %s: its CPU time cannot be read", name_of(who)),
		       -EIO;
	figures->rate[r] = (double)guest->requests / guest->took * 1e9;
	figures->rate_cpu[r] = (double)guest->requests / used * 1e9;
	figures->changes[r] = done / guest->took * 1e9;
	figures->p99[r] = bench_percentile(guest->ns, (int)guest->samples, 0.99) / 1e3;
	figures->p50[r] = bench_percentile(guest->ns, (int)guest->samples, 0.5) / 1e3;
	return 0;
}

static int start(struct world *world, int who, const struct blk_setting *setting)
{
	int rc = blk_server_start(&world->servers[who], world->folder, setting, &world->disks[who],
				  world->processor);

	if (rc < 0)
		return rc;
	rc = blk_guest_open(&world->guests[who], world->servers[who].socket, world->disks[who].size,
			    world->processor >= 0);
	if (rc < 0)
		return cli_fail(rc, "bench blk: no connection to %s (%s)", name_of(who),
				setting->name),
		       rc;
	return 0;
}

/* 0, or -EIO, said, when the server had failed. */
static int stop(struct world *world, int who)
{
	int rc;

	blk_guest_close(&world->guests[who]);
	rc = blk_server_stop(&world->servers[who]);
	return rc < 0 ? cli_fail(0, "bench blk: %s failed", name_of(who)), rc : 0;
}

/* Run qemu-storage-daemon in each setting, and keep the best one. */
static int choose(struct world *world, const struct blk_setting *setting)
{
	double best = 0;

	for (; setting->name; setting++) {
		int rounds = world->bench->quick ? 1 : 5, rc;
		struct figures figures = {0};
		double rate;

		out_progress("blk: %s, %s", name_of(QEMU), setting->name);
		rc = start(world, QEMU, setting);
		for (int r = 0; r < rounds && !rc; r++)
			rc = piece(world, QEMU, &loads[READ_32], piece_ns(world), r, 0, &figures);
		if (rc < 0) {
			stop(world, QEMU);
			return rc;
		}
		rc = stop(world, QEMU);
		if (rc < 0)
			return rc;
		rate = bench_median(figures.rate, rounds);
		bench_row(world->bench,
			  json_pack("{s:s, s:s, s:f, s:f}", "target", world->target, "qemu_setting",
				    setting->name, "requests_s", rate, "requests_cpu_s",
				    bench_median(figures.rate_cpu, rounds)));
		if (rate > best) {
			best = rate;
			world->setting = setting;
		}
	}
	return 0;
}

/* ------------------------------------------------------------------------------------- measuring
 */

static void judge(struct world *world, const struct blk_load *load, const char *what, double value)
{
	char name[160];

	snprintf(name, sizeof(name), "%s / qemu-storage-daemon's, %s, %s, depth %u", what,
		 world->target, load->name, load->depth);
	if (world->count > 1)
		bench_goal(world->bench, name, value, AT_LEAST, 1.5);
	else
		bench_goal_missing(world->bench, name, AT_LEAST, 1.5, world->missing);
}

static json_t *median_of(const struct world *world, int who, const double *values)
{
	if (who >= world->count)
		return json_null();
	return json_real(bench_median(values, world->bench->repetitions));
}

static void report(struct world *world, const struct blk_load *load)
{
	const struct figures *a = &world->figures[OURS], *b = &world->figures[QEMU];
	int n = world->bench->repetitions;
	double rate = 0, cpu = 0;
	json_t *row = json_pack("{s:s, s:s, s:i}", "target", world->target, "what", load->name,
				"depth", (int)load->depth);

	if (world->count > 1) {
		rate = bench_ratio(a->rate, b->rate, n);
		cpu = bench_ratio(a->rate_cpu, b->rate_cpu, n);
	}
	json_object_set_new(row, "requests_s", median_of(world, OURS, a->rate));
	json_object_set_new(row, "qemu", median_of(world, QEMU, b->rate));
	json_object_set_new(row, "ratio", world->count > 1 ? json_real(rate) : json_null());
	json_object_set_new(row, "requests_cpu_s", median_of(world, OURS, a->rate_cpu));
	json_object_set_new(row, "qemu_cpu", median_of(world, QEMU, b->rate_cpu));
	json_object_set_new(row, "ratio_cpu", world->count > 1 ? json_real(cpu) : json_null());
	json_object_set_new(row, "p50_us", median_of(world, OURS, a->p50));
	json_object_set_new(row, "p99_us", median_of(world, OURS, a->p99));
	json_object_set_new(row, "qemu_p50_us", median_of(world, QEMU, b->p50));
	json_object_set_new(row, "qemu_p99_us", median_of(world, QEMU, b->p99));
	bench_row(world->bench, row);
	if (load->depth >= 32) {
		judge(world, load, "requests/s", rate);
		judge(world, load, "requests/CPU-second", cpu);
	}
}

static int measure(struct world *world, const struct blk_load *load)
{
	int n = world->bench->repetitions, rc = 0;

	for (int r = 0; r < n && !rc; r++) {
		out_progress("blk: %s, %s, depth %u: %d of %d", world->target, load->name,
			     load->depth, r + 1, n);
		for (int i = 0; i < world->count && !rc; i++) {
			int who = world->count > 1 ? i ^ (r & 1) : i;

			rc = piece(world, who, load, piece_ns(world), r, 0, &world->figures[who]);
		}
	}
	if (!rc)
		report(world, load);
	return rc;
}

/* Latency while the memory table changes. */
static int measure_changes(struct world *world)
{
	static struct figures quiet[SERVERS], changing[SERVERS];
	const struct blk_load *load = &loads[READ_32];
	int n = world->bench->quick ? 3 : 15, rc = 0;
	double ns = piece_ns(world) * 4;
	char name[128];

	for (int r = 0; r < n && !rc; r++) {
		out_progress("blk: %s, memory table changes: %d of %d", world->target, r + 1, n);
		for (int who = 0; who < world->count && !rc; who++) {
			rc = piece(world, who, load, ns, r, 0, &quiet[who]);
			if (!rc)
				rc = piece(world, who, load, ns, r, CHANGES, &changing[who]);
		}
	}
	for (int who = 0; who < world->count && !rc; who++)
		bench_row(world->bench,
			  json_pack("{s:s, s:s, s:i, s:s, s:f, s:f, s:f, s:f}", "target",
				    world->target, "what", load->name, "depth", (int)load->depth,
				    "server", name_of(who), "changes_s",
				    bench_median(changing[who].changes, n), "quiet_p99_us",
				    bench_median(quiet[who].p99, n), "changing_p99_us",
				    bench_median(changing[who].p99, n), "ratio",
				    bench_ratio(changing[who].p99, quiet[who].p99, n)));
	snprintf(name, sizeof(name), "p99 at depth 32 with %d table changes a second / quiet, %s",
		 CHANGES, world->target);
	if (!rc)
		bench_goal(world->bench, name, bench_ratio(changing[OURS].p99, quiet[OURS].p99, n),
			   AT_MOST, 1.5);
	return rc;
}

/* -------------------------------------------------------------------------------- checked data */

static int check_file(const struct blk_disk *disk, uint64_t seed)
{
	static uint64_t words[MIB / 8];
	int fd = open(disk->file, O_RDONLY | O_CLOEXEC), rc = fd < 0 ? -errno : 0;

	for (uint64_t at = 0; at < disk->size && !rc; at += sizeof(words)) {
		if (pread(fd, words, sizeof(words), (off_t)at) != sizeof(words))
			rc = -EIO;
		for (uint64_t i = 0; i < sizeof(words) / 8 && !rc; i++)
			if (words[i] != blk_pattern(seed, at + i * 8))
				rc = -EBADMSG;
	}
	if (fd >= 0)
		close(fd);
	return rc;
}

/* All that was written by each load is read by another one, and found in the file. */
static int verify(struct world *world, int who)
{
	static const int passes[][2] = {
		{SEQUENTIAL, READ_1}, {READ_32, SEQUENTIAL}, {READ_128, READ_128}};
	struct blk_guest *guest = &world->guests[who];
	int rc = 0;

	for (unsigned i = 0; i < sizeof(passes) / sizeof(passes[0]) && !rc; i++) {
		out_progress("blk: %s: checking its data", name_of(who));
		rc = blk_guest_fill(guest, &loads[passes[i][0]], i);
		if (!rc)
			rc = blk_guest_check(guest, &loads[passes[i][1]], i);
		if (!rc)
			rc = check_file(&world->disks[who], i);
	}
	return rc < 0 ? cli_fail(rc, "bench blk: %s: data", name_of(who)), rc : 0;
}

/* ----------------------------------------------------------------------------------- all of it */

static int make_file(struct world *world, int who)
{
	struct blk_disk *disk = &world->disks[who];
	int fd, rc;

	snprintf(world->files[who], sizeof(world->files[who]), "%s/disk-%d", world->folder, who);
	disk->file = world->files[who];
	fd = open(disk->file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return cli_fail(errno, "bench blk: %s", disk->file), -errno;
	rc = -posix_fallocate(fd, 0, (off_t)disk->size);
	close(fd);
	return rc < 0 ? cli_fail(rc, "bench blk: %s", disk->file), rc : 0;
}

static int run_target(struct world *world, bool files)
{
	int rc = 0;

	world->target = files ? "tmpfs" : "null";
	for (int who = 0; who < world->count && !rc; who++) {
		world->disks[who] = (struct blk_disk){NULL, (world->bench->quick ? 16 : 256) * MIB};
		if (files)
			rc = make_file(world, who);
	}
	if (!rc && world->count > 1)
		rc = choose(world, files ? file_settings : null_settings);
	if (!rc)
		rc = start(world, OURS, &ours);
	if (!rc && world->count > 1)
		rc = start(world, QEMU, world->setting);
	for (int who = 0; who < world->count && files && !rc; who++)
		rc = verify(world, who);
	for (int i = 0; i < LOADS && !rc; i++)
		rc = measure(world, &loads[i]);
	if (!rc)
		rc = measure_changes(world);
	for (int who = 0; who < SERVERS; who++) {
		int failed = stop(world, who);

		rc = rc ? rc : failed;
	}
	for (int who = 0; who < world->count && files; who++)
		unlink(world->files[who]);
	return rc;
}

int bench_blk(struct bench *bench)
{
	static struct world world; /* figures are large */
	int rc;

	world = (struct world){.bench = bench, .count = 2, .processor = -1};
	strcpy(world.folder, "/dev/shm/guestram-bench-XXXXXX");
	if (!blk_server_qemu()) {
		world.count = 1;
		world.missing = "no qemu-storage-daemon (Debian's qemu-system-common)";
	}
	if (!mkdtemp(world.folder))
		return cli_fail(errno, "bench blk: a folder in /dev/shm"), -EIO;
	if (bench->processors > 1)
		world.processor = bench->processor[1];
	bench_bind(bench, 0);
	rc = run_target(&world, true);
	if (!rc)
		rc = run_target(&world, false);
	rmdir(world.folder);
	return rc;
}
