/* SPDX-License-Identifier: MIT */
/*
 * A snapshot that is being written: chunks in any order, each again if need be, then the tail.
 *
 *   mapped   pages go to their places
 *   packed   chunks go one behind the other; what was stored before with the same bytes is named
 *            again. What is replaced leaves a gap, which is zero in the end.
 *
 * Threads: put on any number of threads at once, for different chunks, each with its own packer;
 * the rest by the one that owns it.
 */
#ifndef GR__SNAPSHOT_WRITER_H
#define GR__SNAPSHOT_WRITER_H

#include "os/whole.h"
#include "snapshot/index.h"
#include "snapshot/snapshot.h"

/* A block as it will stand in the manifest. Its name is the caller's. */
struct gr__written {
	const char *name;
	uint64_t used, max, page_size, granule, area;
	unsigned flags; /* WIRE_BLOCK_… */
	unsigned run_count;
	const struct wire_run *runs; /* the caller's */
	struct gr__index index;	     /* makes: lock */
};

struct gr__stored {
	uint64_t hash, place;
	uint32_t stored, flags; /* stored 0: a free slot */
};

struct gr__writer {
	struct gr__whole file;
	enum gr_snapshot_layout layout;
	int level;
	struct gr__written *blocks;
	unsigned block_count;
	uint64_t area; /* where the next block's may begin */
	pthread_mutex_t lock;
	uint64_t next;			  /* wr: lock: packed: where the next chunk goes */
	struct gr__stored *known;	  /* wr: lock: a table by hash; a power of two of slots */
	uint64_t known_size, known_count; /* wr: lock */
	bool gaps;			  /* wr: lock: something was replaced */
	uint64_t stored, shared;	  /* wr: lock: bytes written; memory that was named again */
};

/* What one thread needs to pack. */
struct gr__packer {
	ZSTD_CCtx *zstd;
	char *packed;  /* WIRE_CHUNK */
	char *compare; /* WIRE_CHUNK */
	char *pages;   /* WIRE_CHUNK: for its user */
	struct gr__snap_reader *reader;
};

/* What stands in the tail beside blocks. */
struct gr__snap_meta {
	const struct gr__snap_space *spaces;
	const struct gr__snap_state *states;
	unsigned space_count, state_count;
	const uint8_t *parent, *parent_digest; /* NULL: none */
	const char *parent_name;
};

/* What is written is a child of that one. */
void gr__meta_set_parent(struct gr__snap_meta *meta, const struct gr_snapshot *parent);

/* @block_count: room for so many. 0 or -errno, said; also of the others. */
int gr__writer_open(struct gr__writer *writer, const char *path,
		    const struct gr_snapshot_opts *opts, unsigned block_count);
int gr__writer_add_block(struct gr__writer *writer, const struct gr__written *block);

int gr__packer_init(struct gr__packer *packer, const struct gr__writer *writer);
void gr__packer_fini(struct gr__packer *packer);

/*
 * Pages @here of a chunk are told of; those of @data have bytes, in @bytes one after the other. In
 * place of what was told before of that chunk.
 */
int gr__writer_put(struct gr__writer *writer, struct gr__packer *packer, unsigned block,
		   uint64_t number, uint64_t here, uint64_t data, const char *bytes);
/* What was told of it; NULL: nothing. */
const struct wire_entry *gr__writer_entry(struct gr__writer *writer, unsigned block,
					  uint64_t number);
/* Its pages @want, which have bytes, to @to + page * WIRE_PAGE. */
int gr__writer_read(struct gr__writer *writer, struct gr__packer *packer,
		    const struct wire_entry *entry, uint64_t want, char *to);

/* Zeroes where something was written; by a hole, where the file system has such. Not said. */
int gr__writer_wipe(struct gr__writer *writer, uint64_t at, uint64_t length);

/* Write the tail, and make it the file of that name. @header: as written, in our order of bytes.
 * The writer is to be closed after it, whatever it returns. */
int gr__writer_commit(struct gr__writer *writer, const struct gr__snap_meta *meta,
		      struct wire_header *header);
/* 0, or -EEXIST, said: the file at @path is the snapshot of that id, which is a parent to be. */
int gr__writer_spare(const char *path, const uint8_t id[GR_SNAPSHOT_ID]);
/* Without a commit, nothing is left of the file. */
void gr__writer_close(struct gr__writer *writer);

/*
 * What @parent has in the same chunk of its block @there (-1: it has no such block) need not be
 * told again: takes such pages out of *here, *data and @bytes.
 */
int gr__drop_same(const struct gr_snapshot *parent, int there, uint64_t number,
		  struct gr__packer *packer, uint64_t *here, uint64_t *data, char *bytes);

#endif
