/* SPDX-License-Identifier: MIT */
/*
 * What the scripts share: a RAM with a space, memory whose owner is known byte by byte, and what
 * must hold whatever the schedule.
 *
 *  - Memory is never released, nor given to another block, while a thread has it: from its lookup
 *    to the end of its section, or from its pin to its unpin (hold() and drop()).
 *  - Every block is released exactly once, by the end.
 *  - What a listener was told adds up: nothing comes twice, nothing leaves that is not there; at
 *    the end it is what is published, and after its close it is nothing and stays so.
 *
 * Threads: those that have the turn.
 */
#ifndef WORLD_H
#define WORLD_H

#include "explore.h"
#include "schedule.h"
#include <errno.h>
#include <guestram.h>

#define PAGE UINT64_C(4096)
#define RW (GR_READ | GR_WRITE)
#define CELLS 4
#define CELL_LENGTH GR_GRANULE /* address space; blocks use a page of it, or all */

/* Memory for blocks of GR_BACKING_CALLER. Its first byte is its owner's letter. */
struct cell {
	unsigned char *host;	 /* a multiple of CELL_LENGTH */
	char owner;		 /* of the block that has it, or 0 */
	unsigned holders;	 /* bits of threads that may touch it */
	unsigned made, released; /* blocks */
};

struct world {
	struct gr_ram *ram;
	struct gr_space *space;
	struct cell cells[CELLS];
	bool closed;	 /* the RAM: no callback may come any more */
	uint64_t others; /* blocks that were made and are not in a cell */
};

extern struct world world;

/* A RAM (@opts may be NULL) with an empty space; forgets what was. */
void world_open(const struct gr_ram_opts *opts);
/* Close the RAM, unless a script has, and judge what was released. */
void world_close(void);

/* The block called @letter in that cell: a page long, or a granule. */
struct gr_block *world_block(char letter, unsigned cell, unsigned flags);
struct gr_block *world_big_block(char letter, unsigned cell, unsigned flags);
/* With the result of gr_block_new(), for what may fail. */
int world_try_block(char letter, unsigned cell, uint64_t length, unsigned flags,
		    struct gr_block **block);
void world_map(uint64_t addr, struct gr_block *block, uint64_t length);

/* The letter of the block whose memory it is. Fails unless that is what stands there. */
char owner_at(const void *host);
/* From now on the running thread may touch the cell of @host. Returns its owner. */
char hold(const void *host);
/* It still has the same owner: touch it. */
void use(const void *host, char owner);
void drop(const void *host);

/* A read section, with points around its begin and in front of its end, up to which the thread has
 * what it was given: @host is NULL or what hold() was called with. */
void section_begin(void);
void section_end(const void *host, char owner);

#define succeed(call) succeed_at(call, #call)
void succeed_at(int rc, const char *call);
/* One of the two. */
#define succeed_or(error, call) succeed_or_at(error, call, #call)
int succeed_or_at(int error, int rc, const char *call);

/* What a listener knows of blocks and of ranges at the addresses 0, PAGE, 2 * PAGE … of
 * world.space. */
#define LEDGER_PAGES 8
struct ledger {
	char name;
	bool ended; /* its close has returned: nothing may be told */
	bool has_range[LEDGER_PAGES];
	char owner[LEDGER_PAGES];
	bool has_block[128]; /* by letter */
	bool reclaimed[128]; /* its memory is gone; told at most once for each block */
	int told;	     /* times */
	unsigned refuse;     /* bits of pages whose ranges it refuses, … */
	char refuse_owner;   /* … of that block */
	struct gr_listener *listener;
};

int ledger_open(struct ledger *ledger, char name, int priority);
void ledger_close(struct ledger *ledger);
/* After the RAM's close, which ends listeners too. */
void ledger_end(struct ledger *ledger);
/* What it knows is what is published, now. */
void ledger_compare(const struct ledger *ledger);

#endif
