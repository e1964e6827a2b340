/* SPDX-License-Identifier: MIT */
/* What a space is behind the pointer that readers see. */
#ifndef GR__SPACE_H
#define GR__SPACE_H

#include "space/view.h"

struct gr__interval {
	uint64_t first, last;
};

/* Addresses that a change under way has told listeners about: no other change may touch them. */
struct gr__claim {
	struct cds_list_head node; /* wr: ram->lock: in space->claims */
	struct gr__interval *intervals;
	size_t count;
};

/*
 * A strict window: a piece of a block with granules, at addresses of a space that are its own; its
 * plugged runs are the ranges there. Made by plug/plug.c.
 */
struct gr__window {
	struct cds_list_head in_space;	  /* wr: ram->lock: in space->windows */
	struct cds_list_head in_granules; /* wr: ram->lock: in granules->windows */
	struct gr__space *space;	  /* these: const */
	struct gr_block *block;
	uint64_t first, last; /* addresses */
	uint64_t offset;      /* in the block */
	unsigned access;
};

struct gr__space {
	struct gr_space read; /* first; on a line that writers leave alone but to publish */
	char apart[GR__LINE]; /* as in struct gr_block */
	struct gr_ram *ram;   /* const */
	char *name;	      /* const */
	struct gr__garbage garbage;
	struct cds_list_head node;    /* wr: ram->lock: in ram->spaces */
	struct cds_list_head claims;  /* wr: ram->lock */
	struct cds_list_head windows; /* wr: ram->lock: struct gr__window */
	unsigned txns;		      /* wr: ram->lock: open transactions */
	unsigned balloons;	      /* wr: ram->lock: open ones */
	bool closing;		      /* wr: ram->lock */
	uint64_t leaves;	      /* wr: ram->lock: distinct leaves of the current view */
	uint64_t index_bytes;	      /* wr: ram->lock: of the current view */
	uint64_t range_bytes;	      /* wr: ram->lock: of the current view */
};

static inline struct gr__space *gr__space_of(struct gr_space *space)
{
	return (struct gr__space *)space;
}

/* Under ram->lock, or in a read section. */
static inline const struct gr__view *gr__space_current(const struct gr__space *space)
{
	return gr__view_of(gr__space_view(&space->read));
}

#endif
