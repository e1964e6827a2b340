/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench blk`, between its files: servers of a disk (bench_blk_server.c), and what a guest
 * does to it (bench_blk_load.c), by the front-end of tests/vhost.
 *
 * Threads: all of the main thread, save the one that changes the memory table while a piece runs,
 * which has the front-end's socket then.
 */
#ifndef BENCH_BLK_H
#define BENCH_BLK_H

#include "../tests/vhost/frontend.h"
#include "bench.h"
#include <sys/types.h>

/* ----------------------------------------------------------------------------------- servers */

/* Ways to run a server, of which the one with the most requests in a second is measured. */
struct blk_setting {
	const char *name;
	const char *aio; /* of the file; NULL: ours */
	bool iothread;
};

struct blk_disk {
	const char *file; /* NULL: a null target */
	uint64_t size;
};

struct blk_server {
	pid_t pid; /* 0: not running */
	char socket[64];
	char log[72]; /* what it said */
};

/* Where qemu-storage-daemon is, or NULL. The buffer is static. */
const char *blk_server_qemu(void);

/* @processor: to run on, or -1. 0, or -errno, said. */
int blk_server_start(struct blk_server *server, const char *folder,
		     const struct blk_setting *setting, const struct blk_disk *disk, int processor);
/* Ends it, if it runs. 0, or -EIO, with its log on stderr, when it had failed. */
int blk_server_stop(struct blk_server *server);
/* ns that all its threads have used so far, those that ended too; negative: -errno. */
double blk_server_cpu(const struct blk_server *server);

/* -------------------------------------------------------------------------------------- load */

enum { BLK_SAMPLES_MAX = 1 << 17 }; /* latencies kept of one piece, from its start */

struct blk_load {
	const char *name;
	bool write, sequential;
	uint32_t length; /* of one request */
	unsigned depth;	 /* requests in flight */
};

/* A guest: a connection, one queue, buffers, and what it has done last. */
struct blk_guest {
	struct fe fe;
	uint64_t disk_size;
	uint64_t x;	   /* random state */
	uint64_t next;	   /* sequential: the request after the last one */
	double *ns;	   /* latencies of the last piece, BLK_SAMPLES_MAX */
	double *began;	   /* by request in flight */
	unsigned samples;  /* in ns */
	uint64_t requests; /* of the last piece */
	double took;	   /* ns */
};

/* 0 or -errno; @disk_size a power of two from 1 MiB on; @spins: its processor is its own. Closing
 * is fine after a failure. */
int blk_guest_open(struct blk_guest *guest, const char *socket, uint64_t disk_size, bool spins);
void blk_guest_close(struct blk_guest *guest);

/* A piece: @load for about @length_ns. 0 or -errno (-EIO: a request failed). */
int blk_guest_run(struct blk_guest *guest, const struct blk_load *load, double length_ns);

/* The same while regions are added and removed, @changes of both in a second; *done of them. */
int blk_guest_run_changing(struct blk_guest *guest, const struct blk_load *load, double length_ns,
			   unsigned changes, unsigned *done);

/*
 * Write the whole disk, and read and compare it, by @load's length, order and depth: each 8 bytes
 * tell their place and @seed. 0, -EBADMSG: wrong data, or -errno.
 */
int blk_guest_fill(struct blk_guest *guest, const struct blk_load *load, uint64_t seed);
int blk_guest_check(struct blk_guest *guest, const struct blk_load *load, uint64_t seed);
/* And what 8 bytes at @offset of the disk are to be. */
uint64_t blk_pattern(uint64_t seed, uint64_t offset);

#endif
