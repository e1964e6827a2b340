/* SPDX-License-Identifier: MIT */
/*
 * The blocks that are moved, in the order of the manifest: held as by a pin, so that their memory
 * stays whatever the embedder does, and cannot shrink. No granule is, so that they come and go.
 *
 * Threads: what the bits mean, and who guards them, is said where they are used (sender.h,
 * place.h).
 */
#ifndef GR__MIGRATE_BLOCKS_H
#define GR__MIGRATE_BLOCKS_H

#include "base/bits.h"
#include "migrate/session.h"

struct gr__moved {
	struct gr_block *block; /* const */
	bool held;
	char *host;	    /* const */
	uint64_t used;	    /* as both sides have agreed; the receiver's: wr: at a barrier */
	uint64_t page_size; /* const */
	unsigned flags;	    /* const: WIRE_BLOCK_… */
	bool fresh;	    /* receiver, const: its memory was all zero at first */
	uint64_t *bits;	    /* one for each 4 KiB of max_length, or NULL */
	uint64_t *torn;	    /* receiver: likewise, see place.c; NULL until there is one */
};

struct gr__blocks {
	struct gr__moved *items;
	unsigned count;
};

/* Every live block of the RAM, held, with no bits. 0 or -errno, said. */
int gr__blocks_collect(struct gr__session *session, struct gr__blocks *blocks);
void gr__blocks_free(struct gr__blocks *blocks);

/* Bits for each 4 KiB that a block can have, all zero, or NULL. */
uint64_t *gr__bits_new(const struct gr_block *block);

/* Ask the embedder and the flags what is done with each; 0 or -errno, said. */
int gr__blocks_judge(struct gr__session *session, struct gr__blocks *blocks);

/* Is the set of live blocks still this one? 0 or -EBUSY, a session's failure. */
int gr__blocks_same(struct gr__session *session, const struct gr__blocks *blocks);

/* Bits for each block that is moved, all of them zero. 0 or -ENOMEM, said. */
int gr__blocks_bits(struct gr__session *session, struct gr__blocks *blocks);

int gr__blocks_put_manifest(struct gr__session *session, const struct gr__blocks *blocks);

/*
 * Read the sender's manifest and bring @blocks, the receiver's own, into its order. What does not
 * fit is told in *refusal, with the other side's value and ours; *refusal empty: all fits. Nothing
 * is changed. 0 or a failure of the session.
 */
int gr__blocks_match(struct gr__session *session, struct gr__blocks *blocks,
		     char refusal[WIRE_TEXT_MAX + 1]);

static inline bool gr__moves(const struct gr__moved *moved)
{
	return !(moved->flags & (WIRE_BLOCK_IN_PLACE | WIRE_BLOCK_READ_ONLY));
}

/* ------------------------------------------------------------------------------ bits of pages */

/* Set or clear [first, first + count). How many changed. */
uint64_t gr__bits_put(uint64_t *bits, uint64_t first, uint64_t count, bool set);

#endif
