/* SPDX-License-Identifier: MIT */
/*
 * What the tests of snapshots share: a folder of files, a RAM with blocks of several kinds, and
 * comparing two of them byte by byte.
 */
#ifndef SNAPSHOT_WORLD_H
#define SNAPSHOT_WORLD_H

#include "testing.h"
#include <guestram/dirty.h>
#include <guestram/snapshot.h>

#define LOW_BYTES (3 * MIB + 5 * PAGE) /* no whole number of chunks */
#define LOW_MAX (8 * MIB)
#define HIGH_BYTES (2 * MIB)

/* "low": private, can grow; "high": a memfd; "tiny": one page. */
struct world {
	struct gr_ram *ram;
	struct gr_block *low, *high, *tiny;
};

/* A folder for the test's files, which goes at the end. */
int folder_open(void **unused);
int folder_close(void **unused);
/* A path in it; four of them are good at a time. */
const char *file_at(const char *name);
bool file_exists(const char *name);
unsigned files_there(void);

void world_open(struct world *world);
void world_close(struct world *world);

char *host_of(struct gr_block *block);
/* A page gets bytes that tell @seed, and is marked. */
void write_page(struct gr_block *block, uint64_t page, uint64_t seed);
void zero_page(struct gr_block *block, uint64_t page);
/* About one page in @of gets new bytes, a quarter of them zeroes. */
void scribble(struct world *world, struct rng *rng, unsigned of);

/* Both have the same lengths and bytes. */
#define assert_same_memory(a, b) assert_same_memory_at(a, b, __FILE__, __LINE__)
void assert_same_memory_at(struct world *a, struct world *b, const char *file, int line);
/* A copy of all bytes, to compare with later. */
struct copy {
	char *low, *high, *tiny;
	uint64_t low_bytes;
};
void copy_take(struct copy *copy, struct world *world);
#define assert_is_copy(world, copy) assert_is_copy_at(world, copy, __FILE__, __LINE__)
void assert_is_copy_at(struct world *world, const struct copy *copy, const char *file, int line);
void copy_free(struct copy *copy);

struct gr_snapshot *open_file(const char *name);
/* Open the file, verify it, load it into a new world; the world is the caller's. */
#define load_new(name, world) load_new_at(name, world, __FILE__, __LINE__)
void load_new_at(const char *name, struct world *world, const char *file, int line);

#endif
