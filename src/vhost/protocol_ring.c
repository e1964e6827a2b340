/* SPDX-License-Identifier: MIT */
/*
 * Messages that set rings up. Set-up is changed by gr__worker_call() on the ring's worker, between
 * two batches. Thus no lock is taken when requests run, and a change is complete when its answer
 * goes out. See protocol.h.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/event.h"
#include "vhost/layout.h"
#include "vhost/protocol.h"
#include <errno.h>
#include <fcntl.h>

/* A change of one queue; members that a change has no use for are 0. */
struct change {
	struct gr__queue *q;
	const union wire_payload *payload;
	uint64_t value;
	uint64_t desc_gpa;
	struct gr__inflight inflight;
	int fd;
	int rc;
};

static void call(struct gr__queue *q, gr__worker_fn fn, struct change *change)
{
	change->q = q;
	gr__worker_call(q->worker, fn, change);
}

static bool is_packed(const struct gr_vhost *server)
{
	return server->connection.features & WIRE_F_RING_PACKED;
}

/* NULL, with gr__fail() said: there is none. */
static struct gr__queue *find_queue(struct gr_vhost *server, uint64_t index)
{
	if (index < server->queue_count)
		return &server->queues[index];
	gr__say("queue %llu of %u", (unsigned long long)index, server->queue_count);
	return NULL;
}

static bool do_features(void *arg)
{
	struct change *change = arg;
	struct gr__queue *q = change->q;

	bool packed = change->value & WIRE_F_RING_PACKED;

	if (packed != q->packed) {
		/* it is not started; what was told of it was of the other layout */
		if (!packed && q->num & (q->num - 1))
			gr__queue_resize(q, 0);
		q->addr_set = q->base_told = false;
		q->base = 0;
		q->packed = packed;
	}
	q->event_idx = !!(change->value & WIRE_F_EVENT_IDX);
	q->indirect = !!(change->value & WIRE_F_INDIRECT_DESC);
	if (!(change->value & WIRE_F_PROTOCOL_FEATURES))
		q->enabled = true; /* rings begin enabled then */
	gr__queue_update(q);
	return true;
}

static bool do_enable(void *arg)
{
	struct change *change = arg;

	change->q->enabled = change->value;
	gr__queue_update(change->q);
	return true;
}

static bool do_num(void *arg)
{
	struct change *change = arg;

	if (change->q->kick_set)
		change->rc = -EBUSY;
	else
		change->rc = gr__queue_resize(change->q, (uint32_t)change->value);
	gr__queue_update(change->q);
	return true;
}

static bool do_base(void *arg)
{
	struct change *change = arg;

	if (change->q->kick_set)
		change->rc = -EBUSY;
	else
		change->q->base = (uint32_t)change->value;
	change->q->base_told |= !change->rc;
	return true;
}

static bool do_addr(void *arg)
{
	struct change *change = arg;
	struct gr__queue *q = change->q;

	gr__queue_flush(q); /* to where the driver has looked so far */
	q->addr = change->payload->addr;
	q->desc_gpa = change->desc_gpa;
	q->addr_set = true;
	gr__queue_update(q);
	return true;
}

/* The region that it is in has another place for the guest: that is what is logged now. */
static bool do_move(void *arg)
{
	struct change *change = arg;
	struct gr__queue *q = change->q;
	const struct gr__log_view *log;

	q->desc_gpa = change->desc_gpa;
	gr_read_begin();
	log = gr__log_view(&q->server->dirty_log);
	if (log && q->addr.flags & WIRE_VRING_LOG)
		gr__log_mark(log, q->desc_gpa, q->num * sizeof(struct wire_packed_desc));
	gr_read_end();
	return true;
}

static void drop_kick(struct gr__queue *q)
{
	if (q->kick >= 0) {
		gr__worker_unwatch(q->worker, q);
		gr__fd_close(q->kick);
	}
	q->kick = -1;
	q->kick_set = q->polled = false;
}

static bool do_kick(void *arg)
{
	struct change *change = arg;
	struct gr__queue *q = change->q;
	bool was_set = q->kick_set;

	drop_kick(q);
	q->kick = change->fd;
	if (q->kick >= 0) {
		change->rc = gr__worker_watch(q->worker, q);
		if (change->rc < 0) {
			q->kick = -1; /* the caller closes it */
			gr__queue_update(q);
			return true;
		}
	}
	/*
	 * The ring counts as started from here on and not from the first kick: what a driver made
	 * available before, perhaps to a back-end that died, is found without one.
	 */
	q->polled = q->kick < 0;
	q->kick_set = true;
	q->fresh = !was_set || q->fresh;
	q->broken = q->broken && was_set;
	gr__queue_update(q);
	return true;
}

static bool do_call(void *arg)
{
	struct change *change = arg;
	struct gr__queue *q = change->q;

	gr__fd_close(q->call);
	q->call = change->fd;
	/* what was used while there was nobody to call; one call too many does no harm */
	if (q->call >= 0 && q->kick_set)
		gr__event_set(q->call);
	return true;
}

static bool do_err(void *arg)
{
	struct change *change = arg;

	gr__fd_close(change->q->err);
	change->q->err = change->fd;
	return true;
}

static bool do_stop(void *arg)
{
	struct change *change = arg;
	struct gr__queue *q = change->q;

	q->runnable = false;
	if (q->in_flight)
		return false; /* asked again after the next round */
	gr__queue_flush(q);
	if (q->done_count) {
		gr__vhost_log(q->server, GR_LOG_WARNING,
			      "queue %u: %u answers are lost, its ring is not in memory", q->index,
			      q->done_count);
		gr__count(&q->requests, q->done_count);
		q->done_count = 0;
	}
	gr__holds_idle(&q->holds);
	if (q->kick_set && !q->fresh) {
		q->base = q->packed ? gr__packed_base(q) : q->last_avail;
		q->base_told = true;
	}
	drop_kick(q);
	gr__fd_close(q->call);
	q->call = -1;
	q->broken = false;
	gr__queue_update(q);
	return true;
}

static bool do_inflight(void *arg)
{
	struct change *change = arg;

	change->q->inflight = change->inflight;
	return true;
}

static bool do_forget(void *arg)
{
	struct change *change = arg;

	gr__queue_reset(change->q);
	return true;
}

static void stop_queue(struct gr__queue *q)
{
	struct change change = {0};

	call(q, do_stop, &change);
}

void gr__rings_forget(struct gr_vhost *server)
{
	struct change change = {0};

	for (unsigned i = 0; i < server->queue_count; i++)
		stop_queue(&server->queues[i]);
	for (unsigned i = 0; i < server->queue_count; i++)
		call(&server->queues[i], do_forget, &change);
}

void gr__rings_features(struct gr_vhost *server, uint64_t features)
{
	struct change change = {.value = features};

	for (unsigned i = 0; i < server->queue_count; i++)
		call(&server->queues[i], do_features, &change);
}

void gr__rings_disable(struct gr_vhost *server)
{
	struct change change = {0};

	for (unsigned i = 0; i < server->queue_count; i++)
		call(&server->queues[i], do_enable, &change);
}

bool gr__rings_started(const struct gr_vhost *server)
{
	/* the workers have left it, see call() */
	for (unsigned i = 0; i < server->queue_count; i++)
		if (server->queues[i].kick_set)
			return true;
	return false;
}

void gr__rings_inflight(struct gr_vhost *server)
{
	const struct gr__shared *shared = &server->inflight;

	for (unsigned i = 0; i < server->queue_count; i++) {
		struct change change = {0};

		if (shared->bytes && i < server->inflight_queues) {
			uint32_t size = server->inflight_size;
			void *part = shared->bytes +
				     i * gr__inflight_queue_size(size, is_packed(server));

			change.inflight.size = size;
			change.inflight.next = server->inflight_next + (size_t)i * size;
			if (is_packed(server))
				change.inflight.packed = part;
			else
				change.inflight.queue = part;
		}
		call(&server->queues[i], do_inflight, &change);
	}
}

/* -------------------------------------------------------------------------------- messages */

int gr__handle_set_vring_num(struct gr_vhost *server, struct gr__message *message,
			     struct gr__reply *reply)
{
	struct wire_vring_state state = message->payload.state;
	struct change change = {.value = state.num};
	struct gr__queue *q = find_queue(server, state.index);

	(void)reply;
	if (!q)
		return -EINVAL;
	if (!state.num || state.num > server->queue_size_max ||
	    (!q->packed && state.num & (state.num - 1)))
		return gr__fail(-EINVAL, "a ring of %u, not %s up to %u", state.num,
				q->packed ? "a size" : "a power of two", server->queue_size_max);
	call(q, do_num, &change);
	return change.rc < 0 ? gr__fail(change.rc, "the size of queue %u: %s", q->index,
					change.rc == -EBUSY ? "it is running" : "no memory")
			     : 0;
}

int gr__handle_set_vring_base(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply)
{
	struct wire_vring_state state = message->payload.state;
	struct change change = {.value = state.num};
	struct gr__queue *q = find_queue(server, state.index);

	(void)reply;
	if (!q)
		return -EINVAL;
	if (q->packed ? q->num && ((state.num & ~WIRE_WRAP & UINT16_MAX) >= q->num ||
				   (state.num >> 16 & ~WIRE_WRAP) >= q->num)
		      : state.num > UINT16_MAX)
		return gr__fail(-EINVAL, "a ring index of %#x", state.num);
	call(q, do_base, &change);
	return change.rc < 0 ? gr__fail(change.rc, "the index of queue %u: it is running", q->index)
			     : 0;
}

/* Each area whole in one region. */
static int check_mapped(const struct gr_vhost *server, const struct gr__queue *q,
			const struct wire_vring_addr *addr)
{
	/* without the event indices, which may be negotiated later: rings have room */
	struct gr__areas areas = gr__ring_areas(q, false);
	bool mapped;

	gr_read_begin();
	mapped = gr_host(server->uaddr, addr->desc, areas.desc, areas.desc_access) &&
		 gr_host(server->uaddr, addr->avail, areas.avail, GR_READ) &&
		 gr_host(server->uaddr, addr->used, areas.used, GR_READ | GR_WRITE);
	gr_read_end();
	return mapped ? 0 : gr__fail(-EFAULT, "a ring that is not whole in one region");
}

bool gr__ring_is_logged_within(const struct gr__queue *q, const struct wire_vring_addr *addr,
			       uint64_t desc_gpa, uint64_t log_size)
{
	struct gr__areas areas = gr__ring_areas(q, true);

	if (!(addr->flags & WIRE_VRING_LOG))
		return true;
	return gr__log_reaches(log_size, addr->log, areas.used) &&
	       (!q->packed || gr__log_reaches(log_size, desc_gpa, areas.desc));
}

int gr__handle_set_vring_addr(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply)
{
	const struct wire_vring_addr *addr = &message->payload.addr;
	struct change change = {.payload = &message->payload};
	struct gr__queue *q = find_queue(server, addr->index);
	int rc;

	(void)reply;
	if (!q)
		return -EINVAL;
	if (addr->flags & ~WIRE_VRING_LOG)
		return gr__fail(-EINVAL, "ring flags %#x", addr->flags);
	if (addr->desc & 15 || addr->avail & (q->packed ? 3 : 1) || addr->used & 3)
		return gr__fail(-EINVAL, "ring addresses %#llx %#llx %#llx are not aligned",
				(unsigned long long)addr->desc, (unsigned long long)addr->avail,
				(unsigned long long)addr->used);
	if (!q->num)
		return gr__fail(-EPROTO, "a ring's addresses before its size");
	rc = check_mapped(server, q, addr);
	if (rc < 0)
		return rc;
	gr__memory_find_uaddr(&server->memory, addr->desc, &change.desc_gpa);
	if (!gr__ring_is_logged_within(q, addr, change.desc_gpa, gr__log_size(&server->dirty_log)))
		return gr__fail(-ERANGE, "a ring is logged at %#llx, which the log does not reach",
				(unsigned long long)addr->log);
	call(q, do_addr, &change);
	return 0;
}

void gr__rings_moved(struct gr_vhost *server)
{
	for (unsigned i = 0; i < server->queue_count; i++) {
		struct gr__queue *q = &server->queues[i];
		struct change change = {0};

		if (q->packed && q->addr_set &&
		    gr__memory_find_uaddr(&server->memory, q->addr.desc, &change.desc_gpa) &&
		    change.desc_gpa != q->desc_gpa)
			call(q, do_move, &change);
	}
}

int gr__handle_get_vring_base(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply)
{
	struct wire_vring_state state = message->payload.state;
	struct gr__queue *q = find_queue(server, state.index);

	if (!q)
		return -EINVAL;
	stop_queue(q);
	reply->payload.state.index = state.index;
	reply->payload.state.num = q->base; /* the worker has left it, see call() */
	reply->size = sizeof(reply->payload.state);
	return 0;
}

/* SET_VRING_KICK, CALL, ERR: the descriptor, or -1 where the message says that there is none. */
static int take_vring_fd(struct gr__message *message, int *fd)
{
	uint64_t value = message->payload.u64;
	int flags, rc;

	if (value & ~(WIRE_VRING_INDEX_MASK | WIRE_VRING_NO_FD))
		return gr__fail(-EINVAL, "bits %#llx beside a queue's number",
				(unsigned long long)value);
	if (!!(value & WIRE_VRING_NO_FD) != !message->fd_count)
		return gr__fail(-EINVAL, "%u descriptors where the message says %s",
				message->fd_count, value & WIRE_VRING_NO_FD ? "none" : "one");
	*fd = gr__message_take_fd(message, 0);
	if (*fd < 0)
		return 0;
	/* a full pipe or counter must never stop a worker */
	flags = fcntl(*fd, F_GETFL);
	if (flags < 0 || fcntl(*fd, F_SETFL, flags | O_NONBLOCK)) {
		rc = gr__fail(-errno, "a descriptor that cannot be made non-blocking");
		gr__fd_close(*fd);
		return rc;
	}
	return 0;
}

static int set_vring_fd(struct gr_vhost *server, struct gr__message *message, gr__worker_fn fn)
{
	struct gr__queue *q = find_queue(server, message->payload.u64 & WIRE_VRING_INDEX_MASK);
	struct change change = {0};
	int rc;

	if (!q)
		return -EINVAL;
	rc = take_vring_fd(message, &change.fd);
	if (rc < 0)
		return rc;
	call(q, fn, &change);
	if (change.rc < 0)
		gr__fd_close(change.fd);
	return change.rc < 0 ? gr__fail(change.rc, "a descriptor that cannot be watched") : 0;
}

int gr__handle_set_vring_kick(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply)
{
	(void)reply;
	return set_vring_fd(server, message, do_kick);
}

int gr__handle_set_vring_call(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply)
{
	(void)reply;
	return set_vring_fd(server, message, do_call);
}

int gr__handle_set_vring_err(struct gr_vhost *server, struct gr__message *message,
			     struct gr__reply *reply)
{
	(void)reply;
	return set_vring_fd(server, message, do_err);
}

int gr__handle_set_vring_enable(struct gr_vhost *server, struct gr__message *message,
				struct gr__reply *reply)
{
	struct wire_vring_state state = message->payload.state;
	struct change change = {.value = state.num};
	struct gr__queue *q = find_queue(server, state.index);

	(void)reply;
	if (!q)
		return -EINVAL;
	if (state.num > 1)
		return gr__fail(-EINVAL, "a queue is enabled by 1 or disabled by 0, not %u",
				state.num);
	call(q, do_enable, &change);
	return 0;
}
