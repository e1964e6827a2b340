/* SPDX-License-Identifier: MIT */
/* Set-up, batches, completion and notification of one ring. See queue.h. */
#include "os/alloc.h"
#include "os/event.h"
#include "vhost/layout.h"
#include "vhost/server.h"
#include <errno.h>

void gr__queue_init(struct gr__queue *q, struct gr_vhost *server, struct gr__worker *worker,
		    unsigned index)
{
	*q = (struct gr__queue){.server = server, .worker = worker, .index = index};
	q->kick = q->call = q->err = -1;
	gr_cursor_init(&q->desc_cursor, server->uaddr);
	gr_cursor_init(&q->avail_cursor, server->uaddr);
	gr_cursor_init(&q->used_cursor, server->uaddr);
	gr_cursor_init(&q->table_cursor, server->gpa);
	gr__holds_init(&q->holds, server->gpa);
}

static struct gr__slot *slot_at(struct gr__queue *q, unsigned i)
{
	return (struct gr__slot *)(void *)(q->slots + q->slot_size * i);
}

static void free_slots(struct gr__queue *q)
{
	for (unsigned i = 0; i < q->slot_count; i++) {
		struct gr__slot *slot = slot_at(q, i);

		if (slot->grown) {
			gr__free(slot->iov);
			gr__free(slot->holds);
			gr__free(slot->targets);
		}
	}
	gr__free(q->slots);
	gr__free(q->iov_slab);
	gr__free(q->hold_slab);
	gr__free(q->target_slab);
	gr__free(q->done);
	gr__free(q->resubmit);
	q->slots = NULL;
	q->iov_slab = NULL;
	q->hold_slab = NULL;
	q->target_slab = NULL;
	q->done = NULL;
	q->resubmit = NULL;
	q->free = NULL;
	q->slot_count = q->free_count = q->done_count = 0;
	q->resubmit_at = q->resubmit_count = 0;
	q->num = 0;
	gr__holds_fini(&q->holds);
}

void gr__queue_reset(struct gr__queue *q)
{
	free_slots(q);
	gr__fd_close(q->kick);
	gr__fd_close(q->call);
	gr__fd_close(q->err);
	q->kick = q->call = q->err = -1;
	q->addr_set = q->kick_set = q->polled = q->enabled = false;
	q->event_idx = q->indirect = q->packed = q->base_told = false;
	q->runnable = q->broken = q->fresh = q->stalled = q->notify_off = false;
	q->base = 0;
	q->inflight = (struct gr__inflight){0};
}

int gr__queue_resize(struct gr__queue *q, uint32_t num)
{
	size_t size = sizeof(struct gr__slot) + q->server->ops->request_size;

	if (num == q->num)
		return 0;
	free_slots(q);
	if (!num)
		return 0;
	q->slot_size = (size + 63) & ~(size_t)63;
	q->slots = gr__alloc_array(num, q->slot_size);
	q->iov_slab = gr__alloc_array(num, GR__SLOT_ROOM * sizeof(*q->iov_slab));
	q->hold_slab = gr__alloc_array(num, GR__SLOT_ROOM * sizeof(*q->hold_slab));
	q->target_slab = gr__alloc_array(num, GR__SLOT_ROOM * sizeof(*q->target_slab));
	q->done = gr__alloc_array(num, sizeof(*q->done));
	q->resubmit = gr__alloc_array(num, sizeof(*q->resubmit));
	if (!q->slots || !q->iov_slab || !q->hold_slab || !q->target_slab || !q->done ||
	    !q->resubmit || gr__holds_grow(&q->holds) < 0) {
		free_slots(q);
		return -ENOMEM;
	}
	for (unsigned i = num; i--;) {
		struct gr__slot *slot = slot_at(q, i);

		slot->queue = q;
		slot->request.queue = q->index;
		slot->request.room = slot + 1;
		slot->room = GR__SLOT_ROOM;
		slot->iov = q->iov_slab + (size_t)i * GR__SLOT_ROOM;
		slot->holds = q->hold_slab + (size_t)i * GR__SLOT_ROOM;
		slot->targets = q->target_slab + (size_t)i * GR__SLOT_ROOM;
		slot->next = q->free;
		q->free = slot;
	}
	q->slot_count = q->free_count = q->num = num;
	return 0;
}

void gr__queue_update(struct gr__queue *q)
{
	q->runnable = q->num && q->addr_set && q->kick_set && q->enabled && !q->broken;
}

void gr__queue_break(struct gr__queue *q, const char *why)
{
	q->broken = true;
	gr__queue_update(q);
	gr__count(&q->broken_times, 1);
	gr__vhost_log(q->server, GR_LOG_ERROR, "queue %u: the driver sent %s; the queue is stopped",
		      q->index, why);
	if (q->err >= 0)
		gr__event_set(q->err);
}

/* Twice the room, out of any read section. */
static int grow_slot(struct gr__slot *slot)
{
	unsigned room = slot->room * 2;
	struct gr__hold **holds = gr__alloc_array(room, sizeof(struct gr__hold *));
	struct gr__target *targets = gr__alloc_array(room, sizeof(*targets));
	struct iovec *iov = gr__alloc_array(room, sizeof(*iov));

	if (!holds || !targets || !iov) {
		gr__free(holds);
		gr__free(targets);
		gr__free(iov);
		return -ENOMEM;
	}
	if (slot->grown) {
		gr__free(slot->iov);
		gr__free(slot->holds);
		gr__free(slot->targets);
	}
	slot->iov = iov;
	slot->holds = holds;
	slot->targets = targets;
	slot->room = room;
	slot->grown = true;
	return 0;
}

/* Look the ring up, all of it in one range each. In a read section. */
static bool map_ring(struct gr__queue *q, struct gr__ring *ring)
{
	struct gr__areas areas = gr__ring_areas(q, q->event_idx);

	ring->desc = gr_cursor_host(&q->desc_cursor, q->addr.desc, areas.desc, areas.desc_access);
	ring->avail = gr_cursor_host(&q->avail_cursor, q->addr.avail, areas.avail, GR_READ);
	ring->used = gr_cursor_host(&q->used_cursor, q->addr.used, areas.used, GR_READ | GR_WRITE);
	return gr_likely(ring->desc && ring->avail && ring->used);
}

/* The ring left memory: wait for it to come back. Not in a read section. */
static void stall(struct gr__queue *q)
{
	if (q->stalled)
		return;
	q->stalled = true;
	gr__vhost_log(q->server, GR_LOG_WARNING, "queue %u: its ring is not in memory; it waits",
		      q->index);
}

/*
 * First look at a ring that was started. Out of read sections. false: it cannot run, or its memory
 * is not there.
 */
static bool begin_ring(struct gr__queue *q)
{
	struct gr__ring ring;
	bool mapped;
	int rc = 0;

	q->resubmit_at = q->resubmit_count = 0;
	gr_read_begin();
	mapped = map_ring(q, &ring);
	if (mapped)
		rc = GR__BY_LAYOUT(q, begin, q, &ring);
	gr_read_end();
	if (!mapped) {
		stall(q);
		return false;
	}
	q->fresh = q->called = q->notify_off = false;
	if (rc < 0)
		gr__queue_break(q, q->fault);
	return !rc;
}

/*
 * The next chain: of those to be taken again, then of the ring. 1, 0 when there is none, or -errno.
 */
static int take_one(struct gr__queue *q, const struct gr__ring *ring, struct gr__slot *slot)
{
	const struct gr__resubmit *again =
		q->resubmit_at < q->resubmit_count ? &q->resubmit[q->resubmit_at] : NULL;
	int rc;

	/* a split ring has said how many there are */
	if (q->packed && !again && !gr__packed_available(q, ring))
		return 0;
	rc = gr__chain_take(q, ring, again, slot);
	if (rc < 0)
		return rc;
	if (again)
		q->resubmit_at++;
	else
		GR__BY_LAYOUT(q, took, q, slot);
	return 1;
}

/* One batch in one read section. Returns how many were taken; *rc says why it ended early. */
static unsigned take(struct gr__queue *q, struct gr_vhost_request **batch, unsigned max, int *rc)
{
	struct gr__ring ring;
	unsigned count = 0, pending;

	gr_read_begin();
	gr__holds_sync(&q->holds);
	if (!map_ring(q, &ring)) {
		*rc = -EFAULT;
		goto end;
	}
	q->stalled = false;
	*rc = GR__BY_LAYOUT(q, available, q, &ring);
	if (gr_unlikely(*rc < 0))
		goto end;
	pending = (unsigned)*rc + q->resubmit_count - q->resubmit_at;
	*rc = 0;
	if (!pending)
		goto end;
	if (!q->event_idx && !q->notify_off) {
		GR__BY_LAYOUT(q, no_kicks, q, &ring);
		q->notify_off = true;
	}
	if (max > pending)
		max = pending;
	if (max > q->free_count - q->done_count)
		max = q->free_count - q->done_count; /* done[] never holds more than the ring */
	while (count < max) {
		struct gr__slot *slot = q->free;

		*rc = take_one(q, &ring, slot);
		if (*rc <= 0)
			break;
		*rc = 0;
		q->free = slot->next;
		q->free_count--;
		__atomic_store_n(&slot->taken, 1, __ATOMIC_RELAXED);
		batch[count++] = &slot->request;
	}
end:
	gr_read_end();
	return count;
}

unsigned gr__queue_run(struct gr__queue *q)
{
	struct gr_vhost_request *batch[GR__QUEUE_BATCH];
	unsigned count = 0;
	int rc;

	if (!q->runnable || q->free_count == q->done_count)
		return 0;
	if (gr_unlikely(q->fresh) && !begin_ring(q))
		return 0;
	do {
		count += take(q, batch + count, GR__QUEUE_BATCH - count, &rc);
		if (gr_likely(rc != -ENOBUFS))
			break;
		/* a long chain: more room for it, then on */
		rc = q->lacks_hold ? gr__holds_grow(&q->holds) : grow_slot(q->free);
	} while (!rc && count < GR__QUEUE_BATCH);
	if (count) {
		unsigned bad = 0;

		for (unsigned i = 0; i < count; i++)
			bad += batch[i]->error != 0;
		if (bad)
			gr__count(&q->bad_requests, bad);
		gr__count(&q->in_flight, count);
		gr__worker_handle(q->worker, batch, count);
	}
	if (gr_unlikely(rc == -EPROTO))
		gr__queue_break(q, q->fault);
	else if (gr_unlikely(rc == -EFAULT))
		stall(q);
	else if (gr_unlikely(rc == -ENOMEM))
		gr__queue_break(q, "a chain that there is no memory for");
	return count;
}

bool gr__queue_arm(struct gr__queue *q)
{
	struct gr__ring ring;
	bool more = false;

	gr__holds_idle(&q->holds);
	/* without a free slot a completion comes first, and then another look at the ring */
	if (!q->runnable || q->free_count == q->done_count || q->polled)
		return false;
	if (gr_unlikely(q->fresh) && !begin_ring(q))
		return false;
	gr_read_begin();
	if (map_ring(q, &ring)) {
		if (q->event_idx || q->notify_off) {
			GR__BY_LAYOUT(q, ask_kick, q, &ring);
			q->notify_off = false;
		}
		gr__ring_fence(); /* our wish before his index */
		more = GR__BY_LAYOUT(q, available, q, &ring) != 0 ||
		       q->resubmit_at < q->resubmit_count;
	}
	gr_read_end();
	return more;
}

void gr__queue_flush(struct gr__queue *q)
{
	const struct gr__log_view *log;
	struct gr__ring ring;
	bool mapped, call = false;

	if (!q->done_count)
		return;
	gr_read_begin();
	mapped = map_ring(q, &ring);
	if (mapped) {
		call = GR__BY_LAYOUT(q, publish, q, &ring);
		log = gr__log_view(&q->server->dirty_log);
		if (gr_unlikely(log))
			gr__log_signal(log);
	}
	gr_read_end();
	if (!mapped) {
		stall(q); /* they stay in done until the ring is back */
		return;
	}
	gr__count(&q->requests, q->done_count);
	q->done_count = 0;
	if (call && q->call >= 0) {
		gr__event_set(q->call);
		gr__count(&q->calls, 1);
	}
}

void gr__queue_complete(struct gr__slot *slot, uint64_t written)
{
	struct gr__queue *q = slot->queue;

	if (written > slot->in_length)
		written = slot->in_length;
	gr__slot_mark_first(slot, written); /* while its memory is held */
	if (written > UINT32_MAX)
		written = UINT32_MAX;
	gr__chain_drop_holds(q, slot);
	slot->next = q->free;
	q->free = slot;
	q->free_count++;
	__atomic_store_n(&q->in_flight, q->in_flight - 1, __ATOMIC_RELAXED);
	q->done[q->done_count++] =
		(struct gr__done){(uint32_t)written, slot->head, slot->count, slot->entry};
	/* so that the driver goes on while the rest of the batch is done */
	if (q->done_count >= GR__QUEUE_FLUSH)
		gr__queue_flush(q);
}
