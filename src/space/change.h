/* SPDX-License-Identifier: MIT */
/*
 * One change of a RAM: edits of spaces, a block that comes, goes or changes its length, all
 * published together or not at all. See change.c.
 */
#ifndef GR__CHANGE_H
#define GR__CHANGE_H

#include "space/space.h"

enum gr__op_kind {
	GR__OP_MAP,
	GR__OP_UNMAP,
	GR__OP_UNMAP_BLOCK,
	GR__OP_RESIZE,
	GR__OP_WINDOW_OPEN,
	GR__OP_WINDOW_CLOSE,
	GR__OP_GRANULES,
};

struct gr__op {
	enum gr__op_kind kind;
	bool hole_is_error; /* UNMAP: -ENOENT when nothing was there */
	uint64_t first, last;
	struct gr_block *block;
	uint64_t offset; /* MAP */
	uint64_t length; /* RESIZE: the new used length */
	unsigned access;
	struct gr__window *window;		   /* WINDOW_…, GRANULES */
	const struct gr__granule_change *granules; /* GRANULES */
};

/* Granules of one block that become plugged or unplugged, in all its strict windows at once. */
struct gr__granule_change {
	struct gr_block *block;
	const struct gr__run *runs; /* sorted, apart from each other */
	size_t run_count;
	bool plug;
};

struct gr__change {
	struct gr_ram *ram;
	/* Edits of one space … */
	struct gr__space *space;
	const struct gr__op *ops;
	size_t op_count;
	bool close; /* and it ends with them */
	/* … or of every space that has a window of this block, whose `busy` the caller has … */
	const struct gr__granule_change *granules;
	/* … or of every space that maps this block. */
	struct gr_block *add, *remove, *resize; /* at most one of them */
	uint64_t length;			/* of resize */
	bool undo; /* back to what listeners had before: they are not asked */
	bool told; /* result, on errors too: listeners have heard of it */
};

/* Context: no lock held; waits for other writers, not for readers. 0 or -errno, nothing changed. */
int gr__change_run(struct gr__change *change);

#endif
