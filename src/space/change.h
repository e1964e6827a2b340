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
};

struct gr__op {
	enum gr__op_kind kind;
	bool hole_is_error; /* UNMAP: -ENOENT when nothing was there */
	uint64_t first, last;
	struct gr_block *block;
	uint64_t offset; /* MAP */
	uint64_t length; /* RESIZE: the new used length */
	unsigned access;
};

struct gr__change {
	struct gr_ram *ram;
	/* Edits of one space … */
	struct gr__space *space;
	const struct gr__op *ops;
	size_t op_count;
	bool close; /* and it ends with them */
	/* … or of every space that maps this block. */
	struct gr_block *add, *remove, *resize; /* at most one of them */
	uint64_t length;			/* of resize */
	bool told; /* result, on errors too: listeners have heard of it */
};

/* Context: no lock held; waits for other writers, not for readers. 0 or -errno, nothing changed. */
int gr__change_run(struct gr__change *change);

#endif
