/* SPDX-License-Identifier: MIT */
/*
 * The live blocks, sorted three ways, as readers find them. Immutable; each change makes a new one
 * and retires the old one. Changes cost one copy of the arrays: making a block costs a system call
 * per page range anyway.
 *
 * Threads: readers inside a read section, no lock; writers under ram->lock.
 */
#ifndef GR__DIRECTORY_H
#define GR__DIRECTORY_H

#include "ram/ram.h"

struct gr__directory {
	struct gr__garbage garbage;
	size_t count;
	struct gr_block **by_offset, **by_name, **by_host;
};

/* A copy of @old (NULL: empty) with @add in it and @remove not (either may be NULL); or NULL. */
struct gr__directory *gr__directory_edit(const struct gr__directory *old, struct gr_block *add,
					 const struct gr_block *remove);
void gr__directory_free(struct gr__directory *directory);

/* Make @next the RAM's directory and retire the old one. Lock held. */
void gr__directory_publish(struct gr_ram *ram, struct gr__directory *next);

/* The current one; in a read section or under ram->lock. */
const struct gr__directory *gr__directory_get(struct gr_ram *ram);

#endif
