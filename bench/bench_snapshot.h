/* SPDX-License-Identifier: MIT */
/* What the parts of `guestram bench snapshot` share. Threads: main. */
#ifndef BENCH_SNAPSHOT_H
#define BENCH_SNAPSHOT_H

#include "bench.h"
#include <guestram.h>

/* A RAM with one block, "ram", of shared memory that has no pages yet; @host is its first byte. */
int bench_snapshot_block(struct gr_ram **ram, struct gr_block **block, uint64_t length,
			 char **host);

/* Each is a part, 0 or -errno after having said why; @file may be made and replaced. */
int bench_restore(struct bench *bench, const char *file); /* in a build with pager */
int bench_clones(struct bench *bench, const char *file);

#endif
