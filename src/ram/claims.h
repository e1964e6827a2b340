/* SPDX-License-Identifier: MIT */
/*
 * Who forbids discards and who needs them.
 *
 * Threads: all under ram->lock. A claim is opened against those there are and against the discards
 * that are under way, which are counted from the look at the claims to the end of the system call.
 */
#ifndef GR__CLAIMS_H
#define GR__CLAIMS_H

#include "ram/ram.h"

struct gr_discard_claim {
	struct gr_ram *ram;	   /* const */
	struct cds_list_head node; /* wr: ram->lock: in ram->claims; empty: its block is gone */
	struct gr_block *block;	   /* const; NULL: all */
	enum gr_discard_kind kind; /* const */
	char reason[128];	   /* const, cut */
};

/* What a discard was announced by. */
enum gr__discard {
	GR__DISCARD_UNTOLD, /* nobody */
	GR__DISCARD_TOLD,   /* listeners hear of it first, and callbacks run before it is over */
};

/* 0, or -EBUSY with the claim's reason said. Lock held. After it, end. */
int gr__discard_begin(struct gr_block *block, enum gr__discard how);
void gr__discard_end(struct gr_block *block, enum gr__discard how);

/* The block is being unlinked: claims on it say nothing any more. Lock held. */
void gr__claims_drop(struct gr_block *block);
/* The RAM ends: so do its claims. */
void gr__claims_free(struct gr_ram *ram);

#endif
