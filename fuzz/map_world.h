/* SPDX-License-Identifier: MIT */
/*
 * One RAM, and beside it a plain model of all that should be true of it (the spaces' part is
 * tests/unit/space_model.h). fuzz_map.c changes both, map_listen.c hears of the changes and answers
 * back, map_check.c compares.
 *
 * Threads: one, and the RAM's reclaim thread, which runs release and reclaimed callbacks; what
 * those write is atomic.
 */
#ifndef FUZZ_MAP_WORLD_H
#define FUZZ_MAP_WORLD_H

/* after the headers above it, which cmocka's asks for */
#include "space_model.h"

#include "fuzz.h"
#include <errno.h>

enum {
	MAP_SPACES = 2, /* changed by the input; one more is changed by callbacks */
	MAP_SIDE = MAP_SPACES,
	MAP_BLOCKS = 6,
	MAP_PINS = 12,
	MAP_LISTENERS = 3,
	MAP_CURSORS = 3,
	MAP_TXN_OPS = 64,
	MAP_LIVES = 1024,
	MAP_STEPS = 400,
	MAP_TOLD = 1024,
	MAP_REFUSED = -ECANCELED, /* what listeners refuse with */
};

/* One block from its making to its reclaim. */
struct life {
	bool used, caller, dead;
	void *host;
	uint64_t maximum, ram_offset;
	unsigned pins;
	int released;	   /* atomic: calls of the release callback */
	int reclaimed;	   /* atomic: listeners that were told */
	unsigned audience; /* world->audience when it died */
};

struct map_block {
	struct model_block model; /* .block is NULL: there is none */
	struct life *life;
	unsigned flags;
	bool touchable; /* memory that may be written */
	unsigned txn_users;
	char name[16];
};

struct map_space {
	struct gr_space *space; /* NULL: closed */
	struct model model;
	struct gr_cursor cursors[MAP_CURSORS];
};

struct txn_op {
	bool map;
	struct model_range range;
};

struct map_pin {
	struct gr_pin pin;
	struct life *life;
	bool readable;
};

struct told_range {
	struct gr_space *space;
	struct gr_range range;
};

struct map_listener {
	struct world *world;
	struct gr_listener *listener; /* NULL: closed */
	bool replaying; /* being opened or closed: told of what is there, not of a change */
	struct told_range ranges[MAP_TOLD];
	unsigned range_count;
	struct told_range gone[MAP_TOLD]; /* in this step */
	unsigned gone_count;
	struct gr_block *gone_block; /* no step deletes two */
	struct gr_block *blocks[MAP_LIVES];
	unsigned block_count;
};

struct interval {
	uint64_t first, last;
};

struct world {
	struct fuzz_input in;
	const uint64_t *windows;
	struct gr_ram *ram;
	struct map_block blocks[MAP_BLOCKS + 1]; /* the last is the side space's */
	struct map_space spaces[MAP_SPACES + 1];
	struct map_pin pins[MAP_PINS];
	unsigned pin_count;
	struct life lives[MAP_LIVES];
	unsigned life_count;
	unsigned dead_count;

	struct gr_txn *txn;
	unsigned txn_space;
	struct txn_op txn_ops[MAP_TXN_OPS];
	unsigned txn_count;

	struct map_listener listeners[MAP_LISTENERS];
	unsigned audience;  /* changes whenever one is opened or closed */
	unsigned refuse_in; /* the n-th addition that is told from now on; 0: none */
	bool refused;
	unsigned depth;	       /* of callbacks */
	unsigned answer;       /* what callbacks do; 0: nothing */
	unsigned side_changes; /* that callbacks may still make in this step */
	unsigned busy_space;   /* the one space that is being changed, or none */

	struct interval near; /* what the last step was about */
	unsigned near_space;
	bool embedder, in_section, closing;
	uint64_t max_pending; /* 0: no bound */
};

/* Allocations: the n-th from now on fails (fuzz_map.c). */
extern _Thread_local unsigned map_fail_in;
extern _Thread_local bool map_failed;

/* ------------------------------------------------------------------------------ map_space.c */

extern const uint64_t map_units[4]; /* of addresses and lengths */

uint64_t map_take_addr(struct world *world);
uint64_t map_take_length(struct world *world);
/* One that is there, or NULL. */
struct map_space *map_take_space(struct world *world, unsigned *at);
struct map_block *map_take_block(struct world *world);
/* What this step is about: looked at closely after it. */
void map_remember(struct world *world, unsigned at, uint64_t addr, uint64_t length);

/* The errors that a call may return; none: it must succeed. */
struct wants {
	int errors[8];
	unsigned count;
};

void map_want(struct wants *wants, bool condition, int error);
/* Did the call change anything? All else is an error that was to be expected, or the end. */
bool map_settle(struct world *world, const char *what, int rc, const struct wants *wants);

void map_open_space(struct world *world, unsigned at);
void map_step_space(struct world *world);
void map_step_map(struct world *world);
void map_step_unmap(struct world *world);
void map_step_txn(struct world *world);
void map_txn_end(struct world *world, bool commit);

/* -------------------------------------------------------------------------------------------- */

/* map_listen.c */
extern const struct gr_listener_ops map_listener_ops;
void map_side_open(struct world *world);
/* Toggles the side space's one range. */
void map_side_change(struct world *world);

/* map_check.c: after a step; @thorough: each word of the index, each access. */
void map_check(struct world *world, bool thorough);
void map_probe(struct world *world, unsigned at, uint64_t addr, uint64_t length, unsigned access);
/* Loads and stores through the space against the same through the model. */
void map_check_access(struct world *world, unsigned at, uint64_t addr, uint64_t length);

#endif
