/* SPDX-License-Identifier: MIT */
/*
 * The logs that <guestram/mark.h> writes to: made while somebody needs them, and read. See marks.c.
 */
#ifndef GR__MARKS_H
#define GR__MARKS_H

#include "ram/ram.h"
#include <guestram/mark.h>
#include <stdbool.h>

/* Shift of what one bit of a log stands for. */
#define GR__MARK_FINE_SHIFT 10

/*
 * From the return on, what read sections that begin then mark in the log of @shift (GR__MARK_SHIFT
 * or GR__MARK_FINE_SHIFT) is there. Each open wants its close. Waits for readers: only where
 * gr__may_wait(). 0 or -errno, said.
 */
int gr__marks_open(unsigned shift);
void gr__marks_close(unsigned shift);

/* Can addresses up to @last be marked? */
bool gr__marks_reach(uintptr_t last);

/* This part of a block, within its max length, was written. */
void gr__mark_block(struct gr_block *block, uint64_t offset, uint64_t length);

/*
 * Clear the bits of a part of a block, more than none, and give those that were set to @fn (may be
 * NULL), some at a time: bit i of @bits stands for unit @unit + i, counted from the unit of
 * @offset. A log that is not open has none. The caller calls gr__marks_settle() before anybody
 * reads the memory.
 */
typedef void (*gr__marks_fn)(void *context, uint64_t unit, uint64_t bits);
void gr__marks_take(unsigned shift, const struct gr_block *block, uint64_t offset, uint64_t length,
		    gr__marks_fn fn, void *context);

/* Every thread passes a full barrier: what it wrote under marks that were taken is visible. */
void gr__marks_settle(void);

#endif
