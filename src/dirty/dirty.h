/* SPDX-License-Identifier: MIT */
/*
 * What the files of dirty/ share: the dirty state of one RAM.
 *
 *   state (one for each RAM that ever had a client or source; ends with the RAM)
 *     ├─ clients, sources
 *     └─ tracked blocks ─ one bitmap for each client, by offset in the block
 *
 * Writes are noted once, in the log of marks (ram/marks.h) or by a source. A harvest first
 * collects: it moves what the log and the sources have for the part that is asked for into the
 * bitmaps of ALL clients. Then it takes the bits of its own client. So a mark costs the same for
 * one client and for ten, and each client has its own granularity.
 *
 * Order of a harvest: sources re-armed and bits of the log cleared, then a barrier in all threads,
 * then the caller reads memory.
 *
 * Threads: state->lock around everything here. It is taken with no lock of the library held, and
 * sources are called under it; ram->lock is taken inside it nowhere.
 */
#ifndef GR__DIRTY_H
#define GR__DIRTY_H

#include "ram/marks.h"
#include "ram/ram.h"
#include <guestram/dirty.h>
#include <urcu/list.h>

struct gr__dirty_state {
	struct gr_ram *ram; /* const */

	pthread_mutex_t lock;
	struct cds_list_head clients; /* wr: lock */
	struct cds_list_head sources; /* wr: lock */
	struct cds_list_head tracked; /* wr: lock */
	uint64_t next_id;	      /* wr: lock */
};

struct gr_dirty {
	struct gr__dirty_state *state; /* const */
	struct cds_list_head node;     /* wr: lock */
	char name[64];		       /* const */
	unsigned shift;		       /* const: of its granularity */
	bool fine;		       /* const: below a page */
	bool all;		       /* const: GR_DIRTY_ALL */
	unsigned harvests;	       /* wr: lock: open ones */
};

/* One client's bits of one block. */
struct gr__bits {
	struct cds_list_head node; /* wr: lock: in tracked->bits */
	struct gr_dirty *client;
	uint64_t count; /* of bits */
	uint64_t *words;
};

/* A block that is live, or about to be. */
struct gr__tracked {
	struct cds_list_head node; /* wr: lock */
	struct cds_list_head bits; /* wr: lock: struct gr__bits */
	struct gr_block *block;
	uint64_t id; /* a later block at the same address has another one */
};

struct gr_dirty_source {
	struct gr__dirty_state *state;	       /* const */
	struct cds_list_head node;	       /* wr: lock */
	const struct gr_dirty_source_ops *ops; /* const */
	void *context;			       /* const */
	void (*free)(void *context);	       /* const: of one of our own, or NULL */
};

struct gr_dirty_sink {
	struct gr__tracked *tracked;
};

/*
 * The state of @ram, made when it has none yet, and one more that must be closed before the RAM;
 * 0 or -errno, said.
 */
int gr__dirty_state_get(struct gr_ram *ram, struct gr__dirty_state **state);
void gr__dirty_state_put(struct gr__dirty_state *state);

/* The tracked block, or NULL. Lock held. */
struct gr__tracked *gr__tracked_find(struct gr__dirty_state *state, const struct gr_block *block);

/* A client's bits of a block; they are there for every client and block. Lock held. */
struct gr__bits *gr__bits_find(struct gr__tracked *tracked, const struct gr_dirty *client);

/* Bits for a new client, in all blocks; 0 or -ENOMEM, with none made. Lock held. */
int gr__bits_add(struct gr_dirty *client);
void gr__bits_remove(struct gr_dirty *client);

/* Set the bits of [offset, offset + length), cut at the block's max length. Lock held. */
void gr__bits_set(struct gr__bits *bits, uint64_t offset, uint64_t length);

/* Log and sources into the bitmaps. Lock held. 0 or what a source failed with. */
int gr__dirty_collect(struct gr__dirty_state *state, struct gr__tracked *tracked, uint64_t offset,
		      uint64_t length);

/* A source of any kind; for source.c and watch.c. */
int gr__source_open(struct gr_ram *ram, const struct gr_dirty_source_ops *ops, void *context,
		    void (*free_context)(void *context), struct gr_dirty_source **source);

#endif
