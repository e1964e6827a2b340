/* SPDX-License-Identifier: MIT */
/*
 * The record of requests in flight, in memory that outlives us: which heads of a split ring were
 * taken and not given back. A back-end that is started after a crash takes those again. The layout
 * and the steps are the vhost-user specification's ("Inflight I/O tracking").
 *
 *   taken:     counter, then inflight = 1
 *   given back, a batch:  each one's next = last_batch_head, last_batch_head = it
 *                         the ring's used index is published
 *                         each one's inflight = 0, then used_idx = the ring's
 *   after a crash: used_idx behind the ring's tells that the last batch was published, and its
 *                  inflight bytes may be stale; it is the list from last_batch_head on
 *
 * A process that dies leaves its stores in the order in which it made them, so compiler order is
 * all that is needed. What is read back after a restart is hostile, as all of the front-end's.
 *
 * Threads: the worker of the ring.
 */
#ifndef GR__VHOST_INFLIGHT_H
#define GR__VHOST_INFLIGHT_H

#include "vhost/wire.h"
#include <stdbool.h>
#include <stddef.h>

/* One queue's part; bytes NULL: not tracked. */
struct gr__inflight {
	struct wire_inflight_queue *queue;
	uint32_t size;	  /* heads that there is room for */
	uint64_t counter; /* of the next one taken */
};

/* A head that was taken before the crash. */
struct gr__resubmit {
	uint64_t counter;
	uint16_t head;
};

/* Bytes of one queue's part, a multiple of 64 as other back-ends have it. */
static inline uint64_t gr__inflight_queue_size(uint32_t size)
{
	uint64_t bytes = sizeof(struct wire_inflight_queue) +
			 (uint64_t)size * sizeof(struct wire_inflight_desc);

	return (bytes + 63) & ~UINT64_C(63);
}

/*
 * A ring is about to run whose used index is @used_idx and that has @num entries: make the record
 * ready, and give in @found (room for @num) what was in flight, oldest first; returns how many.
 * -EINVAL: the record is none that we know, or too small.
 */
int gr__inflight_begin(struct gr__inflight *inflight, uint16_t used_idx, uint32_t num,
		       struct gr__resubmit *found);

static inline void gr__inflight_taken(struct gr__inflight *inflight, uint16_t head)
{
	struct wire_inflight_desc *desc = &inflight->queue->desc[head];

	__atomic_store_n(&desc->counter, inflight->counter++, __ATOMIC_RELAXED);
	__atomic_store_n(&desc->inflight, 1, __ATOMIC_RELEASE); /* see head: after the counter */
}

/* Before the used index is published: this one is in the batch. */
static inline void gr__inflight_returning(struct gr__inflight *inflight, uint16_t head)
{
	struct wire_inflight_queue *queue = inflight->queue;
	uint16_t before = __atomic_load_n(&queue->last_batch_head, __ATOMIC_RELAXED);

	__atomic_store_n(&queue->desc[head].next, before, __ATOMIC_RELAXED);
	__atomic_store_n(&queue->last_batch_head, head, __ATOMIC_RELEASE); /* after next */
}

/* After it was: this one is given back; and then all of the batch is. */
static inline void gr__inflight_returned(struct gr__inflight *inflight, uint16_t head)
{
	__atomic_store_n(&inflight->queue->desc[head].inflight, 0, __ATOMIC_RELEASE);
}

static inline void gr__inflight_settle(struct gr__inflight *inflight, uint16_t used_idx)
{
	__atomic_store_n(&inflight->queue->used_idx, used_idx, __ATOMIC_RELEASE);
}

#endif
