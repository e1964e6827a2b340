/* SPDX-License-Identifier: MIT */
/*
 * A save under way. save.c says in which order things happen; pass.c has the pages, moment.c what
 * is taken while the guest stands still.
 *
 * Threads: a crew goes through memory together, taking chunks from one feed under `lock`.
 */
#ifndef GR__SNAPSHOT_SAVE_H
#define GR__SNAPSHOT_SAVE_H

#include "snapshot/chain.h"
#include "snapshot/crew.h"
#include "snapshot/hold.h"
#include "snapshot/writer.h"

/* The harvests of one moment, by held block; they end with the save. */
struct gr__round {
	struct gr__round *older;
	struct gr_harvest **harvests;
};

/* Where a pass over memory is. */
struct gr__feed {
	struct gr_harvest **harvests; /* NULL: all memory */
	bool skip;		      /* chunks that were never touched need not be told of */
	bool soon; /* the guest waits, or writes on: where there are holes takes long to ask */
	unsigned block;
	bool over; /* its runs have all been given */
	uint64_t at, end;
};

/* A chunk to look at. */
struct gr__piece {
	unsigned block;
	uint64_t number, here, may;
	bool by_file; /* reading memory would fill a hole that nobody has asked about */
};

/* One that was taken into memory, to be written when the guest runs again. */
struct gr__late {
	struct gr__piece piece;
	uint64_t sequence; /* of several of one chunk, the last one counts */
	uint64_t data;
	char *bytes;
};

struct gr__slab {
	struct gr__slab *older;
	uint64_t size, used;
	char *bytes;
};

struct gr_snapshot_state {
	struct gr__snap_state *items;
	unsigned count, room;
	uint64_t bytes;
};

struct gr__save {
	struct gr_ram *ram;
	const struct gr_snapshot_opts *opts;
	struct gr_snapshot_ops ops;
	bool child;		 /* of chain's last, or of opts->parent */
	struct gr__holds holds;	 /* used lengths: wr: between passes */
	struct gr_dirty *client; /* chain's, or our own */
	bool own_client;
	struct gr__writer writer;
	struct gr__crew crew;
	struct gr__packer *packers; /* by thread */
	int *there;		    /* of each block in opts->parent, or -1 */
	struct gr__round *rounds;   /* newest first */
	bool stopped;		    /* the guest, by us */

	pthread_mutex_t lock;
	struct gr__feed feed;		/* wr: lock, in a pass */
	struct gr_snapshot_stats stats; /* wr: lock, in a pass */
	uint64_t told;			/* wr: lock: bytes_done at the last progress */

	struct gr__slab *slabs;
	struct gr__late *late;
	uint64_t late_count, late_room, late_bytes;
	uint64_t late_next; /* wr: lock: in the pass over them */

	/* the moment */
	struct wire_run **runs; /* of plugged granules, by block */
	struct gr__snap_space *spaces;
	unsigned space_count;
	struct gr_snapshot_state state;
};

/* One pass over what @harvests have (NULL: all memory), into the file. @first: nothing was written
 * before. 0 or -errno, said; as the others. */
int gr__save_pass(struct gr__save *save, struct gr_harvest **harvests, bool first);
/* What the harvests have, into memory; and that, into the file. */
int gr__save_take_late(struct gr__save *save, struct gr_harvest **harvests);
int gr__save_put_late(struct gr__save *save);
/* Room for @bytes of it, touched. */
int gr__save_make_slab(struct gr__save *save, uint64_t bytes);

/* Used lengths, granules, spaces and the embedder's state. */
int gr__save_moment(struct gr__save *save);
void gr__save_moment_free(struct gr__save *save);

#endif
