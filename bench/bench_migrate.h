/* SPDX-License-Identifier: MIT */
/* What the files of `guestram bench migrate` share: two sides of one block each, and sockets. */
#ifndef BENCH_MIGRATE_H
#define BENCH_MIGRATE_H

#include "bench.h"
#include <guestram/migrate.h>

enum bench_socket { BENCH_TCP, BENCH_UNIX };

struct bench_side {
	struct gr_ram *ram;
	struct gr_block *block;
	char *host;
	uint64_t length;
};

/* The sockets of one migration. */
struct bench_way {
	enum bench_socket kind;
	unsigned channels;
	unsigned zstd; /* level */
	unsigned opened;
	int from[GR_MIGRATE_CHANNELS_MAX], to[GR_MIGRATE_CHANNELS_MAX];
};

/* 0 or -errno, said. */
int bench_side_open(struct bench_side *side, uint64_t length, unsigned flags);
void bench_side_close(struct bench_side *side);
/* Random words with the bits of @mask: no page is zero. */
void bench_side_fill(struct bench_side *side, uint64_t mask);
/* No page has memory. 0 or -errno. */
int bench_side_empty(struct bench_side *side);

/* way->channels pairs; 0 or -errno, said. Ends with bench_hang_up() in either case. */
int bench_connect(struct bench_way *way);
void bench_hang_up(struct bench_way *way);

/* bench_migrate_down.c: how long a guest that writes stands still. 0 or -errno, said. */
int bench_migrate_down(struct bench *bench, struct bench_side *from, struct bench_side *to);

#endif
