/* SPDX-License-Identifier: MIT */
/* Split rings: where they begin, wishes, what is given back. See layout.h. */
#include "vhost/layout.h"
#include <errno.h>
#include <stddef.h>

static void set_used_flags(struct gr__queue *q, const struct gr__ring *ring, uint16_t flags)
{
	gr__ring_set_used_flags(ring, flags);
	gr__queue_mark_used(q, ring, offsetof(struct wire_used, flags), sizeof(flags));
}

int gr__split_begin(struct gr__queue *q, const struct gr__ring *ring)
{
	int found;

	q->last_avail = (uint16_t)q->base;
	q->used_idx = gr__ring_used_idx(ring);
	set_used_flags(q, ring, 0);
	if (!q->inflight.queue)
		return 0;
	found = gr__inflight_begin(&q->inflight, q->used_idx, q->num, q->resubmit);
	if (found < 0) {
		q->fault = "a record of requests in flight that is none";
		return -EPROTO;
	}
	/* all that was taken was given back, or is found; more is told by nobody after a crash */
	q->resubmit_count = (unsigned)found;
	q->last_avail = (uint16_t)(q->used_idx + found);
	return 0;
}

void gr__split_no_kicks(struct gr__queue *q, const struct gr__ring *ring)
{
	set_used_flags(q, ring, WIRE_USED_NO_NOTIFY);
}

void gr__split_ask_kick(struct gr__queue *q, const struct gr__ring *ring)
{
	if (!q->event_idx) {
		set_used_flags(q, ring, 0);
		return;
	}
	gr__ring_set_avail_event(ring, q->num, q->last_avail);
	gr__queue_mark_used(q, ring, offsetof(struct wire_used, ring[q->num]), sizeof(uint16_t));
}

/* Does the driver want to hear of [old, used_idx)? */
static bool wants_call(struct gr__queue *q, const struct gr__ring *ring, uint16_t old)
{
	bool first = !q->called;

	gr__ring_fence(); /* our index before his wish */
	if (!q->event_idx)
		return !(gr__ring_avail_flags(ring) & WIRE_AVAIL_NO_INTERRUPT);
	q->called = true;
	return first || gr__ring_passed(gr__ring_avail_entry(ring, q->num), q->used_idx, old);
}

/* The used elements of a batch, which may go round the ring's end. */
static void mark_elements(struct gr__queue *q, const struct gr__ring *ring)
{
	const uint64_t size = sizeof(struct wire_used_elem);
	unsigned at = q->used_idx & (q->num - 1);
	unsigned first = q->done_count < q->num - at ? q->done_count : q->num - at;

	gr__queue_mark_used(q, ring, offsetof(struct wire_used, ring[at]), first * size);
	if (first < q->done_count)
		gr__queue_mark_used(q, ring, offsetof(struct wire_used, ring),
				    (q->done_count - first) * size);
}

bool gr__split_publish(struct gr__queue *q, const struct gr__ring *ring)
{
	struct gr__inflight *inflight = q->inflight.queue ? &q->inflight : NULL;
	uint16_t old = q->used_idx;

	for (unsigned i = 0; i < q->done_count; i++) {
		gr__ring_set_used(ring, (uint16_t)(q->used_idx + i) & (q->num - 1), q->done[i].id,
				  q->done[i].length);
		if (inflight)
			gr__inflight_returning(inflight, q->done[i].id);
	}
	mark_elements(q, ring);
	q->used_idx = (uint16_t)(q->used_idx + q->done_count);
	gr__ring_publish_used(ring, q->used_idx);
	gr__queue_mark_used(q, ring, offsetof(struct wire_used, idx), sizeof(q->used_idx));
	if (inflight) {
		for (unsigned i = 0; i < q->done_count; i++)
			gr__inflight_returned(inflight, q->done[i].id);
		gr__inflight_settle(inflight, q->used_idx);
	}
	return wants_call(q, ring, old);
}
