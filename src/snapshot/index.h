/* SPDX-License-Identifier: MIT */
/*
 * What is told of a block's chunks while its snapshot is written: found by number, walked by rising
 * number.
 *
 *   fork ─┬─ fork ─┬─ leaf    a fork names the highest bit in which the leaves below it differ;
 *         │        └─ leaf    a leaf has the entries of GR__LEAF chunks that follow each other
 *         └─ leaf
 *
 * Memory follows the chunks that are told of, wherever they are: the length that a block can have
 * may be a stranger's word. And no choice of numbers makes it deeper than a number has bits.
 *
 * Threads: any find while one makes. Nodes stay until all is freed; an entry is its user's.
 */
#ifndef GR__SNAPSHOT_INDEX_H
#define GR__SNAPSHOT_INDEX_H

#include "snapshot/wire.h"

#define GR__LEAF 4u

struct gr__node {
	uint64_t bit; /* const: that bit alone; 0: it is a leaf */
};

struct gr__index {
	struct gr__node *root; /* wr: the user's lock, read atomically; NULL: it is empty */
};

/* Nodes that are still to be walked: one of each bit, and a last one. */
struct gr__index_walk {
	struct gr__node *nodes[65];
	unsigned count;
};

/* NULL: nothing was made there. It is all zero, beside a neighbour, until it is filled in. */
struct wire_entry *gr__index_find(const struct gr__index *index, uint64_t number);
/* NULL: no memory. The user's lock held. */
struct wire_entry *gr__index_make(struct gr__index *index, uint64_t number);
void gr__index_free(struct gr__index *index);

void gr__index_walk(const struct gr__index *index, struct gr__index_walk *walk);
/* The next GR__LEAF entries, of which some may be zero; NULL: there are no more. */
const struct wire_entry *gr__index_next(struct gr__index_walk *walk);

#endif
