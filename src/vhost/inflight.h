/* SPDX-License-Identifier: MIT */
/*
 * The record of requests in flight, in memory that outlives us: which requests of a ring were taken
 * and not given back. A back-end that is started after a crash takes those again. The layout and
 * the steps are the vhost-user specification's ("Inflight I/O tracking"), for split rings
 * (inflight.c) and packed ones (inflight_packed.c).
 *
 * Split: the heads, by their numbers.
 *   taken:     counter, then inflight = 1
 *   given back, a batch:  each one's next = last_batch_head, last_batch_head = it
 *                         the ring's used index is published
 *                         each one's inflight = 0, then used_idx = the ring's
 *   after a crash: used_idx behind the ring's tells that the last batch was published, and its
 *                  inflight bytes may be stale; it is the list from last_batch_head on
 *
 * Packed: copies of the descriptors, since the ring's are overwritten. Entries stand in a free
 * list, or in the chain of a request. taken:     entries from free_head on are filled, the first
 * one's inflight = 1, and at last old_free_head = free_head = the one that follows given back: they
 * are put before free_head; used_idx is moved the ring's descriptor is published inflight = 0, then
 * old_free_head, old_used_wrap, old_used_idx = the new ones after a crash: old values that differ
 * tell of one that was being given back; the ring tells whether it was. What is in the free list is
 * not in flight. Links are read once, when a ring begins; after that our own copy of them counts.
 *
 * A process that dies leaves its stores in the order in which it made them, so compiler order is
 * all that is needed. What is read back after a restart is hostile, as all of the front-end's.
 *
 * Threads: the worker of the ring.
 */
#ifndef GR__VHOST_INFLIGHT_H
#define GR__VHOST_INFLIGHT_H

#include "vhost/ring.h"
#include <stddef.h>

/* One queue's part. That of the ring's layout is there, or neither: it is not tracked. */
struct gr__inflight {
	struct wire_inflight_queue *queue;
	struct wire_packed_record *packed;
	uint16_t *next; /* packed: our copy of its links, size of them; at least size: the end */
	uint16_t free_head; /* packed, likewise */
	uint32_t size;	    /* heads, or descriptors, that there is room for */
	uint64_t counter;   /* of the next one taken */
};

/* What was taken before the crash. */
struct gr__resubmit {
	uint64_t counter;
	uint16_t head;	/* or the entry of its first descriptor */
	uint16_t count; /* packed: of its descriptors */
};

/* Bytes of one queue's part, a multiple of 64 as other back-ends have it. */
static inline uint64_t gr__inflight_queue_size(uint32_t size, bool packed)
{
	uint64_t split_bytes = sizeof(struct wire_inflight_queue) +
			       (uint64_t)size * sizeof(struct wire_inflight_desc);
	uint64_t packed_bytes = sizeof(struct wire_packed_record) +
				(uint64_t)size * sizeof(struct wire_packed_state);

	return ((packed ? packed_bytes : split_bytes) + 63) & ~UINT64_C(63);
}

/* Oldest first; by hand: qsort() may allocate, and the counters are hostile. */
void gr__inflight_sort(struct gr__resubmit *found, unsigned count);

/* ------------------------------------------------------------------------------------ split */

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

/* ----------------------------------------------------------------------------------- packed */

/*
 * As gr__inflight_begin(); *used_idx and *used_wrap, where the ring is thought to be, become what
 * the record says, which is below @num; so is the sum of the descriptors of all that was found. In
 * the read section of @ring.
 */
int gr__inflight_packed_begin(struct gr__inflight *inflight, const struct gr__ring *ring,
			      uint32_t num, uint16_t *used_idx, bool *used_wrap,
			      struct gr__resubmit *found);

/* A descriptor was read that may be taken: its entry is one of the free list's. */
static inline void gr__inflight_packed_note(struct gr__inflight *inflight, uint16_t entry,
					    const struct wire_packed_desc *desc)
{
	struct wire_packed_state *state = &inflight->packed->desc[entry];

	__atomic_store_n(&state->addr, desc->addr, __ATOMIC_RELAXED);
	__atomic_store_n(&state->length, desc->length, __ATOMIC_RELAXED);
	__atomic_store_n(&state->id, desc->id, __ATOMIC_RELAXED);
	__atomic_store_n(&state->flags, desc->flags, __ATOMIC_RELAXED);
}

/* It was, with those after it, @count in all. */
void gr__inflight_packed_taken(struct gr__inflight *inflight, unsigned count);
/* Before the descriptor is published, and after it was; where the ring is then. */
void gr__inflight_packed_returning(struct gr__inflight *inflight, uint16_t entry, unsigned count,
				   uint16_t used_idx, bool used_wrap);
void gr__inflight_packed_returned(struct gr__inflight *inflight, uint16_t entry, uint16_t used_idx,
				  bool used_wrap);

#endif
