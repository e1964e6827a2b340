/* SPDX-License-Identifier: MIT */
/*
 * Packed rings: where they begin, wishes, what is given back. See layout.h.
 *
 *   [ u | free for the driver | a  taken by us … | next to take ]      u: used_idx, a: last_avail
 *
 * Both go round, each with a bit that flips at the ring's end. From used_idx to last_avail there
 * are q->taken descriptors; answers are written from used_idx on, in the order in which requests
 * end, and each stands for as many descriptors as its request had.
 */
#include "vhost/layout.h"
#include <errno.h>

static void advance(const struct gr__queue *q, uint16_t *at, bool *wrap, unsigned by)
{
	unsigned sum = *at + by; /* at most two rounds */

	if (sum >= q->num) {
		sum -= q->num;
		*wrap = !*wrap;
	}
	*at = (uint16_t)sum;
}

static uint16_t place(uint16_t at, bool wrap)
{
	return (uint16_t)(at | (wrap ? WIRE_WRAP : 0));
}

static void set_event(struct gr__queue *q, const struct gr__ring *ring, uint32_t event)
{
	gr__packed_set_device_event(ring, event);
	gr__queue_mark_used(q, ring, 0, sizeof(event));
}

/* Go on from the record of requests in flight: what was taken follows what was given back. */
static int begin_recorded(struct gr__queue *q, const struct gr__ring *ring)
{
	int found = gr__inflight_packed_begin(&q->inflight, ring, q->num, &q->used_idx,
					      &q->used_wrap, q->resubmit);

	if (found < 0) {
		q->fault = "a record of requests in flight that is none";
		return -EPROTO;
	}
	q->resubmit_count = (unsigned)found;
	for (int i = 0; i < found; i++)
		q->taken += q->resubmit[i].count; /* num at most, in all */
	q->last_avail = q->used_idx;
	q->avail_wrap = q->used_wrap;
	advance(q, &q->last_avail, &q->avail_wrap, q->taken);
	return 0;
}

int gr__packed_begin(struct gr__queue *q, const struct gr__ring *ring)
{
	/* a ring that nobody has told of begins in the round of 1 */
	uint32_t base = q->base_told ? q->base : WIRE_WRAP << 16 | WIRE_WRAP;

	q->last_avail = base & ~WIRE_WRAP & UINT16_MAX;
	q->avail_wrap = base & WIRE_WRAP;
	q->used_idx = base >> 16 & ~WIRE_WRAP;
	q->used_wrap = base >> 16 & WIRE_WRAP;
	q->taken = 0;
	if (q->last_avail >= q->num || q->used_idx >= q->num) {
		q->fault = "an index past the ring's size";
		return -EPROTO;
	}
	set_event(q, ring, WIRE_EVENT_ENABLE);
	return q->inflight.packed ? begin_recorded(q, ring) : 0;
}

uint32_t gr__packed_base(const struct gr__queue *q)
{
	return (uint32_t)place(q->used_idx, q->used_wrap) << 16 |
	       place(q->last_avail, q->avail_wrap);
}

void gr__packed_took(struct gr__queue *q, const struct gr__slot *slot)
{
	advance(q, &q->last_avail, &q->avail_wrap, slot->count);
	q->taken += slot->count;
	if (q->inflight.packed)
		gr__inflight_packed_taken(&q->inflight, slot->count);
}

void gr__packed_no_kicks(struct gr__queue *q, const struct gr__ring *ring)
{
	set_event(q, ring, WIRE_EVENT_DISABLE);
}

void gr__packed_ask_kick(struct gr__queue *q, const struct gr__ring *ring)
{
	set_event(q, ring,
		  q->event_idx ? place(q->last_avail, q->avail_wrap) | WIRE_EVENT_DESC
			       : WIRE_EVENT_ENABLE);
}

/* Does the driver want to hear of the @moved descriptors from @old on? */
static bool wants_call(struct gr__queue *q, const struct gr__ring *ring, uint16_t old,
		       bool old_wrap, unsigned moved)
{
	bool first = !q->called;
	uint32_t event;

	gr__ring_fence(); /* our descriptors before his wish */
	event = gr__packed_driver_event(ring);
	q->called = true;
	if ((event & WIRE_EVENT_FLAGS) == WIRE_EVENT_DESC && q->event_idx)
		return first || gr__packed_passed((uint16_t)event, old, old_wrap, moved, q->num);
	return (event & WIRE_EVENT_FLAGS) != WIRE_EVENT_DISABLE;
}

/* One by one: each descriptor says for itself that it was given back. */
bool gr__packed_publish(struct gr__queue *q, const struct gr__ring *ring)
{
	struct gr__inflight *inflight = q->inflight.packed ? &q->inflight : NULL;
	uint16_t old = q->used_idx;
	bool old_wrap = q->used_wrap;
	unsigned moved = 0;

	for (unsigned i = 0; i < q->done_count; i++) {
		const struct gr__done *done = &q->done[i];
		uint16_t at = q->used_idx;
		bool wrap = q->used_wrap;

		gr__packed_set_used(ring, at, done->id, done->length);
		advance(q, &q->used_idx, &q->used_wrap, done->count);
		if (inflight)
			gr__inflight_packed_returning(inflight, done->entry, done->count,
						      q->used_idx, q->used_wrap);
		gr__packed_publish_used(ring, at, done->length, wrap);
		gr__queue_mark_desc(q, ring, at, 1);
		if (inflight)
			gr__inflight_packed_returned(inflight, done->entry, q->used_idx,
						     q->used_wrap);
		moved += done->count;
	}
	q->taken = (uint16_t)(q->taken - moved);
	return wants_call(q, ring, old, old_wrap, moved);
}
