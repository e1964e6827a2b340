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
 * The same for what unmaps memory or runs a callback: only the worker frees it, with no lock held,
 * and before the memory of any block that is queued for reclaim later. @soon: call the worker now,
 * else whenever it comes. Lock held. Needs no memory.
 */
void gr__retire_mapping(struct gr_ram *ram, struct gr__garbage *garbage, bool soon);

/* Call the worker for what gr__retire_mapping() has taken. */
void gr__retire_mappings_soon(struct gr_ram *ram);

/*
 * Wait until all that gr__retire_mapping() has taken is freed; false: nothing was left to wait for.
 * No lock held; only where gr__may_wait().
 */
bool gr__retire_mappings_wait(struct gr_ram *ram);

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
