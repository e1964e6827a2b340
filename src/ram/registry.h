/* SPDX-License-Identifier: MIT */
/*
 * The open RAMs of this process, for those who look at all of them: a list with a count of lookers
 * in each RAM.
 *
 * Threads: any. The registry's lock is held for a few instructions only, never while @fn runs and
 * never together with a ram->lock, so it has no place in an order of locks. gr_ram_close() waits
 * for lookers, which therefore must not wait for reclaim, pins or callbacks of that RAM.
 *
 * A forked child begins with an empty list: the RAMs it inherited have no threads there.
 */
#ifndef GR__REGISTRY_H
#define GR__REGISTRY_H

#include "ram/ram.h"

/* When the RAM can be looked at, and when nobody may any more; the latter waits for lookers. */
int gr__registry_enter(struct gr_ram *ram);
void gr__registry_leave(struct gr_ram *ram);

/*
 * Call @fn for each open RAM, in order of opening, with no lock held. The RAM stays until @fn
 * returns; others may come and go meanwhile. Returns the first non-zero that @fn returned.
 */
int gr__registry_each(int (*fn)(void *context, struct gr_ram *ram), void *context);

#endif
