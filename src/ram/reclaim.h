/* SPDX-License-Identifier: MIT */
/* Grace periods, and what happens after them; see reclaim.c. */
#ifndef GR__RECLAIM_H
#define GR__RECLAIM_H

#include "ram/ram.h"

/* Start and end the RAM's thread. Stopping waits until nothing is left to do. */
int gr__reclaim_start(struct gr_ram *ram);
void gr__reclaim_stop(struct gr_ram *ram);

/* Free @garbage one grace period from now. Lock held. Needs no memory. */
void gr__retire(struct gr_ram *ram, struct gr__garbage *garbage);

/*
 * A writer that outruns the worker frees what was retired itself: it takes it while it still holds
 * the lock (NULL: nothing to do), and settles it after dropping the lock.
 */
struct gr__garbage *gr__retire_surplus(struct gr_ram *ram);
void gr__retire_settle(struct gr_ram *ram, struct gr__garbage *surplus);

/*
 * Reclaim an unlinked block after its readers and pins. Lock held; no view and no directory that a
 * new read section can load names it. Needs no memory.
 */
void gr__block_reclaim_later(struct gr_block *block);

/* A pin more or less; the caller has the right to @block (a section, a pin, or owns it). */
static inline void gr__block_get(struct gr_block *block)
{
	/* relaxed: the read section or pin that the caller holds keeps the block */
	__atomic_add_fetch(&block->pins, 1, __ATOMIC_RELAXED);
}

void gr__block_put(struct gr_block *block);

/* Wait, at most until @deadline_ms from now, for deletions up to ram->sequence of the call. */
int gr__reclaim_wait(struct gr_ram *ram, int timeout_ms);

/* Wait until less than max_pending is pending. 0, -ENOBUFS, -EDEADLK. No lock held. */
int gr__reclaim_throttle(struct gr_ram *ram, bool may_wait);

#endif
