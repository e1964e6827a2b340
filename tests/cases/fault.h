/* SPDX-License-Identifier: MIT */
/*
 * Every system call and allocation of an operation fails once, at position 1, 2, 3 …, until the
 * operation gets through. After each failure the world is as it was before: the RAM's numbers,
 * views, blocks, listeners' books, the process's descriptors and mappings, files. Then the same
 * call works.
 *
 * Threads: the failing call may be made by any thread of the library.
 */
#ifndef FAULT_H
#define FAULT_H

#include "case.h"

/* A RAM with two spaces, some blocks and ranges, and, in every second run, two listeners. */
struct fault_world {
	struct gr_ram *ram; /* NULL: the operation opens it */
	struct gr_space *flat, *wide;
	struct gr_block *anon;	   /* mapped in both, and in pieces */
	struct gr_block *memfd;	   /* mapped once; 4 of at most 16 pages used */
	struct gr_block *shared;   /* of a temporary file, not mapped */
	struct gr_block *spare;	   /* anonymous, not mapped */
	struct gr_listener *extra; /* these two are made by an operation */
	struct gr_space *space;
	struct gr_txn *txn;   /* of flat */
	struct ledger *books; /* two, or NULL */
	char *directory;      /* empty, of our own */
	int released;	      /* counts release callbacks of memory that an operation lends */
	char *lent;	      /* 4 pages */
};

struct fault_case {
	const char *name;   /* begins with the function that is called */
	const char *covers; /* all functions that are, if more; with a space between them */
	bool no_ram;
	/* Brings the world, in which faults are not armed yet, to where the operation begins. */
	void (*prepare)(struct fault_world *world);
	/* 0 or a negative errno. */
	int (*run)(struct fault_world *world);
	/* What is asked of the world after a success. May be NULL. */
	void (*check)(struct fault_world *world);
	/* A call that always fails, with EOPNOTSUPP: it is done another way. May be NULL. */
	const char *missing;
	/* Fault points it has at least, so that the test is about something. */
	unsigned at_least;
	/* A failure may publish the old state anew: the generation grows. */
	bool republishes;
};

/* Fails the test on the first difference, after telling which call had failed. */
void fault_run(const struct fault_case *operation);
/* Those whose names begin so; there must be one. */
void fault_run_named(const struct fault_case *operations, size_t count, const char *start);

/* How many calls that can fail @fn makes. */
unsigned fault_count(void (*fn)(struct fault_world *world), struct fault_world *world);

void fault_world_open(struct fault_world *world, bool listeners,
		      const struct fault_case *operation);
void fault_world_close(struct fault_world *world);

#endif
