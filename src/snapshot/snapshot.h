/* SPDX-License-Identifier: MIT */
/*
 * A snapshot that is open: its file and its parents', checked, and pages out of them.
 *
 *   gr_snapshot ── file[0]  the child ── blocks ── entries of its index, by rising number
 *               ── file[1]  its parent           (pages that no entry tells of are the parent's)
 *               ── …        the last one has none: they are zero
 *
 * Everything is constant once open, but the readers that wait for their next use (lock).
 */
#ifndef GR__SNAPSHOT_H
#define GR__SNAPSHOT_H

#include "snapshot/wire.h"
#include <guestram/snapshot.h>
#include <pthread.h>
#include <stdbool.h>
#include <zstd.h>

#define XXH_STATIC_LINKING_ONLY /* the state's size */
#include <xxhash.h>

#define GR__SNAPSHOT_DEPTH 64

/* In wire_entry.flags of ours, never in a file: each page has a place of its own. */
#define GR__ENTRY_MAPPED (1u << 31)

/* What stands in a file, in our order of bytes. */
struct gr__snap_block {
	const char *name;
	uint64_t used, max, page_size, granule, area;
	unsigned flags; /* WIRE_BLOCK_… */
	unsigned run_count;
	const struct wire_run *runs;
	const struct wire_entry *entries;
	uint64_t entry_count;
};

struct gr__snap_space {
	const char *name;
	unsigned range_count;
	const struct gr_snapshot_range *ranges;
};

struct gr__snap_state {
	const char *name;
	const void *bytes;
	uint64_t length;
};

struct gr__snap_file {
	int fd;
	char *path;
	struct wire_header header; /* in our order of bytes */
	uint64_t *tail;		   /* manifest and index */
	const char *parent_name;
	char *names; /* all names of the manifest, each with its zero byte */
	struct gr_snapshot_range *ranges;
	struct gr__snap_block *blocks;
	const struct gr__snap_block **by_name;
	struct gr__snap_space *spaces;
	struct gr__snap_state *states;
	unsigned block_count, space_count, state_count;
};

/* What one thread needs to read pages. */
struct gr__snap_reader {
	struct gr__snap_reader *next;
	ZSTD_DCtx *zstd;
	char *stored; /* WIRE_CHUNK */
	char *pages;  /* WIRE_CHUNK */
};

struct gr_snapshot {
	struct gr__snap_file *files[GR__SNAPSHOT_DEPTH + 1];
	unsigned file_count;
	int *parents; /* of block b and file f, the block's number there or -1: [b * file_count + f]
		       */
	pthread_mutex_t lock;
	struct gr__snap_reader *readers; /* wr: lock: idle ones */
};

/* Reads and checks one file. 0 or -errno, said. */
int gr__snap_file_open(const char *path, struct gr__snap_file **file);
void gr__snap_file_close(struct gr__snap_file *file);

/* -1 when there is none. */
int gr__snap_file_find(const struct gr__snap_file *file, const char *name);

/* The first entry of @number or more; NULL. */
const struct wire_entry *gr__snap_entry_from(const struct gr__snap_block *block, uint64_t number);

/* Bits of the chunk's pages that lie within [0, used). */
static inline uint64_t gr__chunk_pages(uint64_t used, uint64_t number)
{
	uint64_t first = number * WIRE_CHUNK;

	if (first >= used)
		return 0;
	if (used - first >= WIRE_CHUNK)
		return ~UINT64_C(0);
	return (UINT64_C(1) << (used - first) / WIRE_PAGE) - 1;
}

/* @count bits from @first on; @count > 0, both within 64. */
static inline uint64_t gr__chunk_bits(unsigned first, unsigned count)
{
	return (~UINT64_C(0) >> (64 - count)) << first;
}

/* The next run of set bits of *bits, which it takes away: false: there is none. */
static inline bool gr__chunk_run(uint64_t *bits, unsigned *first, unsigned *count)
{
	uint64_t rest;

	if (!*bits)
		return false;
	*first = (unsigned)__builtin_ctzll(*bits);
	rest = ~(*bits >> *first);
	*count = rest ? (unsigned)__builtin_ctzll(rest) : 64 - *first;
	if (*count > 64 - *first)
		*count = 64 - *first;
	*bits &= ~gr__chunk_bits(*first, *count);
	return true;
}

/* How many pages have bytes, up to and without @page, so where those of @page stand. */
static inline unsigned gr__chunk_before(uint64_t data, unsigned page)
{
	return (unsigned)__builtin_popcountll(data & ((UINT64_C(1) << page) - 1));
}

/* ------------------------------------------------------------------------------------- reading */

struct gr__snap_reader *gr__snap_reader_new(void);
void gr__snap_reader_free(struct gr__snap_reader *reader);

/*
 * The pages @want of an entry's chunk, which must be among its data, to @to + page * WIRE_PAGE.
 * What was stored is compared with its hash. 0; -EBADMSG, -EIO …, not said.
 */
int gr__entry_read(int fd, const struct wire_entry *entry, struct gr__snap_reader *reader,
		   uint64_t want, char *to);

/*
 * Of the pages @want of a chunk of the child's: those that have content, through all files, in
 * *data, and their bytes in @to + page * WIRE_PAGE; NULL: none are read. The others are zero, and
 * nothing is written for them. 0 or -errno, said.
 */
int gr__snap_read(const struct gr_snapshot *snapshot, unsigned block, uint64_t number,
		  uint64_t want, struct gr__snap_reader *reader, char *to, uint64_t *data);

/* The next chunk, from *number on, that some file tells of; false: there is none. */
bool gr__snap_next(const struct gr_snapshot *snapshot, unsigned block, uint64_t *number);

/*
 * As gr_snapshot_look(), of what is there, for at most *length bytes; *level: -1: nobody tells it.
 */
int gr__snap_look(const struct gr_snapshot *snapshot, unsigned block, uint64_t offset,
		  uint64_t *length, int *level);

/* Pages of a chunk that are in the used length and in plugged granules. */
uint64_t gr__snap_pages(const struct gr__snap_block *block, uint64_t number);

#endif
