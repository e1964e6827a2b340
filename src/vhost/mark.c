/* SPDX-License-Identifier: MIT */
/*
 * What we and the device wrote into guest memory, marked: for clients in this process
 * (<guestram/dirty.h>) and in the front-end's log (log.h). Exactly the bytes that were written: of
 * a ring the used elements, index, flags and event index, or the descriptors that were given back;
 * of a request what the device says.
 *
 * While nobody asks, a mark is a read section, two loads and a test.
 */
#include "vhost/server.h"

static bool nobody_asks(const struct gr__log_view *log)
{
	/* relaxed: see <guestram/mark.h> */
	return !log && !__atomic_load_n(&gr__marks.log, __ATOMIC_RELAXED);
}

void gr__slot_mark_first(struct gr__slot *slot, uint64_t written)
{
	const struct gr__log_view *log;

	gr_read_begin();
	log = gr__log_view_all(&slot->queue->server->dirty_log);
	for (unsigned i = 0; i < slot->target_count && written && !nobody_asks(log); i++) {
		const struct gr__target *target = &slot->targets[i];
		uint64_t part = written < target->length ? written : target->length;

		gr_mark_host(target->host, part);
		if (log)
			gr__log_mark(log, target->gpa, part);
		written -= part;
	}
	gr_read_end();
}

void gr__slot_mark(struct gr__slot *slot, const void *host, uint64_t length)
{
	const struct gr__log_view *log = gr__log_view_all(&slot->queue->server->dirty_log);
	uintptr_t first = (uintptr_t)host, end = first + length;

	if (nobody_asks(log))
		return;
	gr_mark_host(host, length);
	for (unsigned i = 0; log && i < slot->target_count; i++) {
		const struct gr__target *target = &slot->targets[i];
		uintptr_t from = (uintptr_t)target->host, to = from + target->length;
		uintptr_t begin = first > from ? first : from;

		if (begin < (end < to ? end : to))
			gr__log_mark(log, target->gpa + (begin - from),
				     (end < to ? end : to) - begin);
	}
}

/* Of a ring: @length bytes that are logged at @gpa. */
static void mark_ring(struct gr__queue *q, const void *host, uint64_t gpa, uint64_t length)
{
	const struct gr__log_view *log = NULL;

	gr_mark_host(host, length);
	if (gr_unlikely(q->addr.flags & WIRE_VRING_LOG))
		log = gr__log_view(&q->server->dirty_log);
	if (log)
		gr__log_mark(log, gpa, length);
}

void gr__queue_mark_used(struct gr__queue *q, const struct gr__ring *ring, uint64_t offset,
			 uint64_t length)
{
	mark_ring(q, (const char *)ring->used + offset, q->addr.log + offset, length);
}

void gr__queue_mark_desc(struct gr__queue *q, const struct gr__ring *ring, unsigned at,
			 unsigned count)
{
	mark_ring(q, &ring->packed[at], q->desc_gpa + at * sizeof(*ring->packed),
		  count * sizeof(*ring->packed));
}
