/* SPDX-License-Identifier: MIT */
/*
 * A RAM and the models of its spaces, as test_space_model.c changes them and space_check.c compares
 * them. One thread.
 */
#ifndef SPACE_WORLD_H
#define SPACE_WORLD_H

#include "space_model.h"

#define SPACES 2
#define BLOCKS 5
#define RECENT 32
#define CURSORS 3

struct window {
	uint64_t base, size;
};

struct shape {
	const char *name;
	struct window windows[4];
	uint64_t units[3];  /* of addresses and lengths, one is chosen each time */
	unsigned longest;   /* in units */
	unsigned few, many; /* goes back and forth between so many ranges */
	unsigned steps;
	unsigned probes; /* ranges and places looked at after each step */
};

struct interval {
	uint64_t first, last;
};

struct world {
	const struct shape *shape;
	struct rng rng;
	struct gr_ram *ram;
	struct model_block blocks[BLOCKS];
	struct gr_space *spaces[SPACES];
	struct model models[SPACES];
	struct gr_cursor cursors[SPACES][CURSORS];
	struct interval recent[SPACES][RECENT];
	unsigned recent_count[SPACES];
	bool growing[SPACES], changed[SPACES];
	const struct gr__view *opened[SPACES]; /* the view that the space was opened with */
	unsigned step;
};

/* An interval of the shape. */
struct interval world_choose_interval(struct world *world);
/* Fails the test where the spaces and their models differ; @thorough: looks everywhere. */
void world_check(struct world *world, bool thorough);

#endif
