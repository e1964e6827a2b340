/* SPDX-License-Identifier: MIT */
/*
 * The two layouts of a ring behind one interface: split (split.c) and packed (packed.c). queue.c
 * does the rest for both; chain.c reads the descriptors of both.
 *
 *            split                            packed
 *   desc     table of descriptors, read only  ring of descriptors, given back in place
 *   avail    available ring: heads            the driver's wish for calls
 *   used     used ring: ids and lengths       our wish for kicks
 *
 * Threads: the queue's worker, in the read section in which the ring was mapped. The choice between
 * the two is a test of q->packed, and no pointer to a function.
 */
#ifndef GR__VHOST_LAYOUT_H
#define GR__VHOST_LAYOUT_H

#include "vhost/queue.h"

/* Bytes of a ring's areas; and what we do in the first. */
struct gr__areas {
	uint64_t desc, avail, used;
	unsigned desc_access;
};

/* @event: with the event indices of a split ring. */
static inline struct gr__areas gr__ring_areas(const struct gr__queue *q, bool event)
{
	uint64_t end = event ? sizeof(uint16_t) : 0;

	if (gr_unlikely(q->packed))
		return (struct gr__areas){q->num * sizeof(struct wire_packed_desc),
					  sizeof(uint32_t), sizeof(uint32_t), GR_READ | GR_WRITE};
	return (struct gr__areas){
		q->num * sizeof(struct wire_desc),
		sizeof(struct wire_avail) + q->num * sizeof(uint16_t) + end,
		sizeof(struct wire_used) + q->num * sizeof(struct wire_used_elem) + end, GR_READ};
}

/*
 * First look at a ring that was started: from q->base, or from the record of requests in flight.
 * 0, or -EPROTO: q->fault says what is wrong.
 */
int gr__split_begin(struct gr__queue *q, const struct gr__ring *ring);
int gr__packed_begin(struct gr__queue *q, const struct gr__ring *ring);
/* Where it would go on, for SET_VRING_BASE. Out of read sections, too. */
uint32_t gr__packed_base(const struct gr__queue *q);

/* How many chains are there to be taken, at most; 0: none. -EPROTO. */
static inline int gr__split_available(struct gr__queue *q, const struct gr__ring *ring);
static inline int gr__packed_available(struct gr__queue *q, const struct gr__ring *ring);
/* A chain was taken into the slot. */
static inline void gr__split_took(struct gr__queue *q, const struct gr__slot *slot);
void gr__packed_took(struct gr__queue *q, const struct gr__slot *slot);

/* Ask for no kick; and for one when there is a chain behind those that were taken. */
void gr__split_no_kicks(struct gr__queue *q, const struct gr__ring *ring);
void gr__packed_no_kicks(struct gr__queue *q, const struct gr__ring *ring);
void gr__split_ask_kick(struct gr__queue *q, const struct gr__ring *ring);
void gr__packed_ask_kick(struct gr__queue *q, const struct gr__ring *ring);

/*
 * Everything in done[] to the ring, with the record of what is in flight around it. true: the
 * driver wants to hear of it.
 */
bool gr__split_publish(struct gr__queue *q, const struct gr__ring *ring);
bool gr__packed_publish(struct gr__queue *q, const struct gr__ring *ring);

static inline int gr__split_available(struct gr__queue *q, const struct gr__ring *ring)
{
	unsigned pending = (uint16_t)(gr__ring_avail_idx(ring) - q->last_avail);

	if (gr_unlikely(pending > q->num)) {
		q->fault = "an available index past the ring's size";
		return -EPROTO;
	}
	return (int)pending;
}

/* The next one is there, or it is not; how many follow is seen when they are taken. */
static inline int gr__packed_available(struct gr__queue *q, const struct gr__ring *ring)
{
	return gr__packed_is_available(ring, q->last_avail, q->avail_wrap) ? (int)q->num : 0;
}

static inline void gr__split_took(struct gr__queue *q, const struct gr__slot *slot)
{
	q->last_avail++;
	if (q->inflight.queue)
		gr__inflight_taken(&q->inflight, slot->head);
}

#define GR__BY_LAYOUT(q, what, ...)                                                                \
	((q)->packed ? gr__packed_##what(__VA_ARGS__) : gr__split_##what(__VA_ARGS__))

#endif
