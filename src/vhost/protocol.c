/* SPDX-License-Identifier: MIT */
/*
 * The vhost-user messages, as a table, and what each does.
 *
 * A handler returns 0 or -errno. An error is told by the means that the message has: the answer to
 * NEED_REPLY, or the form of reply that the specification gives it; where there is none the
 * connection ends, since the front-end would go on believing.
 *
 * Set-up of a ring is changed by gr__worker_call() on the ring's worker, between two batches. Thus
 * no lock is taken when requests run, and a change is complete when its answer goes out.
 *
 * Context: the server's thread.
 */
#include "base/error.h"
#include "os/event.h"
#include "vhost/server.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

struct reply {
	union wire_payload payload;
	uint32_t size;
};

typedef int (*handle_fn)(struct gr_vhost *server, struct gr__message *message, struct reply *reply);

struct entry {
	const char *name;
	uint16_t size_min, size_max;
	uint8_t fds_min, fds_max;
	bool replies;	/* has a reply of its own */
	uint64_t needs; /* protocol features */
	handle_fn handle;
};

#define PROTOCOL_FEATURES                                                                          \
	(WIRE_P_MQ | WIRE_P_REPLY_ACK | WIRE_P_CONFIG | WIRE_P_RESET_DEVICE |                      \
	 WIRE_P_CONFIGURE_MEM_SLOTS)

static uint64_t features(const struct gr_vhost *server)
{
	return server->ops->features | WIRE_F_VERSION_1 | WIRE_F_INDIRECT_DESC | WIRE_F_EVENT_IDX |
	       WIRE_F_PROTOCOL_FEATURES;
}

static int reply_u64(struct reply *reply, uint64_t value)
{
	reply->payload.u64 = value;
	reply->size = sizeof(value);
	return 0;
}

/* --------------------------------------------------------------------- changes on the worker */

/* A change of one queue; members that a change has no use for are 0. */
struct change {
	struct gr__queue *q;
	const union wire_payload *payload;
	uint64_t value;
	int fd;
	int rc;
};

static void call(struct gr__queue *q, gr__worker_fn fn, struct change *change)
{
	change->q = q;
	gr__worker_call(q->worker, fn, change);
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
		change->q->last_avail = (uint16_t)change->value;
	return true;
}

static bool do_addr(void *arg)
{
	struct change *change = arg;
	struct gr__queue *q = change->q;

	gr__queue_flush(q); /* to where the driver has looked so far */
	q->addr = change->payload->addr;
	q->addr_set = true;
	gr__queue_update(q);
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
	drop_kick(q);
	gr__fd_close(q->call);
	q->call = -1;
	q->broken = false;
	gr__queue_update(q);
	return true;
}

static bool do_forget(void *arg)
{
	struct change *change = arg;

	gr__queue_reset(change->q);
	return true;
}

void gr__protocol_stop_queue(struct gr_vhost *server, struct gr__queue *q)
{
	struct change change = {0};

	(void)server;
	call(q, do_stop, &change);
}

static void reset_device(struct gr_vhost *server)
{
	struct change change = {0};

	for (unsigned i = 0; i < server->queue_count; i++)
		gr__protocol_stop_queue(server, &server->queues[i]);
	for (unsigned i = 0; i < server->queue_count; i++)
		call(&server->queues[i], do_forget, &change);
	if (server->ops->reset)
		server->ops->reset(server->context);
}

void gr__protocol_forget(struct gr_vhost *server)
{
	reset_device(server);
}

/* --------------------------------------------------------------------------------- handlers */

static int get_features(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	(void)message;
	return reply_u64(reply, features(server));
}

static int set_features(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	struct change change = {.value = message->payload.u64};

	(void)reply;
	if (change.value & ~features(server))
		return gr__fail(-EINVAL, "features %#llx were not offered",
				(unsigned long long)(change.value & ~features(server)));
	server->connection.features = change.value;
	if (server->ops->set_features)
		server->ops->set_features(server->context, change.value);
	for (unsigned i = 0; i < server->queue_count; i++)
		call(&server->queues[i], do_features, &change);
	return 0;
}

static int get_protocol_features(struct gr_vhost *server, struct gr__message *message,
				 struct reply *reply)
{
	(void)server;
	(void)message;
	return reply_u64(reply, PROTOCOL_FEATURES);
}

static int set_protocol_features(struct gr_vhost *server, struct gr__message *message,
				 struct reply *reply)
{
	uint64_t value = message->payload.u64;

	(void)reply;
	if (value & ~PROTOCOL_FEATURES)
		return gr__fail(-EINVAL, "protocol features %#llx were not offered",
				(unsigned long long)(value & ~PROTOCOL_FEATURES));
	server->connection.protocol = value;
	return 0;
}

static int set_owner(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	(void)server;
	(void)message;
	(void)reply;
	return 0; /* the one connection is the owner */
}

/* No longer used by front-ends; the specification leaves us to ignore it or to disable all rings.
 */
static int reset_owner(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	struct change change = {0};

	(void)message;
	(void)reply;
	for (unsigned i = 0; i < server->queue_count; i++)
		call(&server->queues[i], do_enable, &change);
	return 0;
}

static int handle_reset_device(struct gr_vhost *server, struct gr__message *message,
			       struct reply *reply)
{
	(void)message;
	(void)reply;
	reset_device(server);
	return 0;
}

static int get_queue_num(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	(void)message;
	return reply_u64(reply, server->queue_count);
}

/* Rings that waited for memory find it. */
static void wake_workers(struct gr_vhost *server)
{
	for (unsigned i = 0; i < server->worker_count; i++)
		gr__worker_wake(&server->workers[i]);
}

static int set_mem_table(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	const struct wire_table *table = &message->payload.table;
	uint32_t count = table->count;
	int rc;

	(void)reply;
	if (count > WIRE_TABLE_REGIONS)
		return gr__fail(-EINVAL, "a table of %u regions, at most %u fit", count,
				WIRE_TABLE_REGIONS);
	if (message->header.size < 8 + count * sizeof(*table->regions))
		return gr__fail(-EINVAL, "%u regions in %u bytes", count, message->header.size);
	if (message->fd_count != count)
		return gr__fail(-EINVAL, "%u descriptors for %u regions", message->fd_count, count);
	rc = gr__memory_set(&server->memory, table->regions, message->fds, count);
	wake_workers(server);
	return rc;
}

static int get_max_mem_slots(struct gr_vhost *server, struct gr__message *message,
			     struct reply *reply)
{
	(void)server;
	(void)message;
	return reply_u64(reply, GR__MEMORY_SLOTS);
}

static int add_mem_reg(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	int rc = gr__memory_add(&server->memory, &message->payload.mem_reg.region, message->fds[0]);

	(void)reply;
	wake_workers(server);
	return rc;
}

/* A descriptor that comes along (old front-ends send one) is closed unused. */
static int rem_mem_reg(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	(void)reply;
	return gr__memory_remove(&server->memory, &message->payload.mem_reg.region);
}

static int set_vring_num(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	struct wire_vring_state state = message->payload.state;
	struct change change = {.value = state.num};
	struct gr__queue *q = find_queue(server, state.index);

	(void)reply;
	if (!q)
		return -EINVAL;
	if (!state.num || state.num > server->queue_size_max || state.num & (state.num - 1))
		return gr__fail(-EINVAL, "a ring of %u, not a power of two up to %u", state.num,
				server->queue_size_max);
	call(q, do_num, &change);
	return change.rc < 0 ? gr__fail(change.rc, "the size of queue %u: %s", q->index,
					change.rc == -EBUSY ? "it is running" : "no memory")
			     : 0;
}

static int set_vring_base(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	struct wire_vring_state state = message->payload.state;
	struct change change = {.value = state.num};
	struct gr__queue *q = find_queue(server, state.index);

	(void)reply;
	if (!q)
		return -EINVAL;
	if (state.num > UINT16_MAX)
		return gr__fail(-EINVAL, "a ring index of %u", state.num);
	call(q, do_base, &change);
	return change.rc < 0 ? gr__fail(change.rc, "the index of queue %u: it is running", q->index)
			     : 0;
}

static int set_vring_addr(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	const struct wire_vring_addr *addr = &message->payload.addr;
	struct change change = {.payload = &message->payload};
	struct gr__queue *q = find_queue(server, addr->index);
	bool mapped;

	(void)reply;
	if (!q)
		return -EINVAL;
	if (addr->flags & ~WIRE_VRING_LOG)
		return gr__fail(-EINVAL, "ring flags %#x", addr->flags);
	if (addr->desc & 15 || addr->avail & 1 || addr->used & 3)
		return gr__fail(-EINVAL, "ring addresses %#llx %#llx %#llx are not aligned",
				(unsigned long long)addr->desc, (unsigned long long)addr->avail,
				(unsigned long long)addr->used);
	if (!q->num)
		return gr__fail(-EPROTO, "a ring's addresses before its size");
	gr_read_begin();
	/* with the event indices, whether they are negotiated by now or not: rings have room */
	mapped = gr_host(server->uaddr, addr->desc, q->num * sizeof(struct wire_desc), GR_READ) &&
		 gr_host(server->uaddr, addr->avail,
			 sizeof(struct wire_avail) + q->num * sizeof(uint16_t), GR_READ) &&
		 gr_host(server->uaddr, addr->used,
			 sizeof(struct wire_used) + q->num * sizeof(struct wire_used_elem),
			 GR_READ | GR_WRITE);
	gr_read_end();
	if (!mapped)
		return gr__fail(-EFAULT, "a ring that is not whole in one region");
	call(q, do_addr, &change);
	return 0;
}

static int get_vring_base(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	struct wire_vring_state state = message->payload.state;
	struct gr__queue *q = find_queue(server, state.index);

	if (!q)
		return -EINVAL;
	gr__protocol_stop_queue(server, q);
	reply->payload.state.index = state.index;
	reply->payload.state.num = q->last_avail; /* the worker has left it, see call() */
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

static int set_vring_kick(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	(void)reply;
	return set_vring_fd(server, message, do_kick);
}

static int set_vring_call(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	(void)reply;
	return set_vring_fd(server, message, do_call);
}

static int set_vring_err(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	(void)reply;
	return set_vring_fd(server, message, do_err);
}

static int set_vring_enable(struct gr_vhost *server, struct gr__message *message,
			    struct reply *reply)
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

static int check_config(const struct gr__message *message)
{
	const struct wire_config *config = &message->payload.config;

	if (config->size > WIRE_CONFIG_BYTES || config->offset > WIRE_CONFIG_BYTES - config->size ||
	    message->header.size != WIRE_CONFIG_HEAD + config->size)
		return gr__fail(-EINVAL, "configuration of %u bytes at %u in a message of %u",
				config->size, config->offset, message->header.size);
	return 0;
}

/* On an error its reply has no payload. */
static int get_config(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	const struct wire_config *asked = &message->payload.config;
	struct wire_config *config = &reply->payload.config;
	uint8_t bytes[WIRE_CONFIG_BYTES] = {0};
	int rc = check_config(message);

	reply->size = 0;
	if (rc < 0)
		return rc;
	server->ops->get_config(server->context, bytes);
	config->offset = asked->offset;
	config->size = asked->size;
	config->flags = asked->flags;
	memcpy(config->bytes, bytes + asked->offset, asked->size);
	reply->size = message->header.size;
	return 0;
}

static int set_config(struct gr_vhost *server, struct gr__message *message, struct reply *reply)
{
	const struct wire_config *config = &message->payload.config;
	int rc = check_config(message);

	(void)reply;
	if (rc < 0)
		return rc;
	if (!server->ops->set_config)
		return gr__fail(-EACCES, "the device has no writable configuration");
	return server->ops->set_config(server->context, config->offset, config->bytes,
				       config->size);
}

#define U64 sizeof(uint64_t), sizeof(uint64_t)
#define STATE sizeof(struct wire_vring_state), sizeof(struct wire_vring_state)
#define NONE 0, 0

/* name, smallest and largest payload, fewest and most descriptors, own reply, needs, handler */
static const struct entry entries[WIRE_REQUESTS] = {
	[WIRE_GET_FEATURES] = {"GET_FEATURES", NONE, 0, 0, true, 0, get_features},
	[WIRE_SET_FEATURES] = {"SET_FEATURES", U64, 0, 0, false, 0, set_features},
	[WIRE_SET_OWNER] = {"SET_OWNER", NONE, 0, 0, false, 0, set_owner},
	[WIRE_RESET_OWNER] = {"RESET_OWNER", NONE, 0, 0, false, 0, reset_owner},
	[WIRE_SET_MEM_TABLE] = {"SET_MEM_TABLE", 8, sizeof(struct wire_table), 0,
				WIRE_TABLE_REGIONS, false, 0, set_mem_table},
	[WIRE_SET_VRING_NUM] = {"SET_VRING_NUM", STATE, 0, 0, false, 0, set_vring_num},
	[WIRE_SET_VRING_ADDR] = {"SET_VRING_ADDR", sizeof(struct wire_vring_addr),
				 sizeof(struct wire_vring_addr), 0, 0, false, 0, set_vring_addr},
	[WIRE_SET_VRING_BASE] = {"SET_VRING_BASE", STATE, 0, 0, false, 0, set_vring_base},
	[WIRE_GET_VRING_BASE] = {"GET_VRING_BASE", STATE, 0, 0, true, 0, get_vring_base},
	[WIRE_SET_VRING_KICK] = {"SET_VRING_KICK", U64, 0, 1, false, 0, set_vring_kick},
	[WIRE_SET_VRING_CALL] = {"SET_VRING_CALL", U64, 0, 1, false, 0, set_vring_call},
	[WIRE_SET_VRING_ERR] = {"SET_VRING_ERR", U64, 0, 1, false, 0, set_vring_err},
	[WIRE_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", NONE, 0, 0, true, 0,
					get_protocol_features},
	[WIRE_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", U64, 0, 0, false, 0,
					set_protocol_features},
	[WIRE_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", NONE, 0, 0, true, WIRE_P_MQ, get_queue_num},
	[WIRE_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", STATE, 0, 0, false, 0, set_vring_enable},
	[WIRE_GET_CONFIG] = {"GET_CONFIG", WIRE_CONFIG_HEAD, sizeof(struct wire_config), 0, 0, true,
			     WIRE_P_CONFIG, get_config},
	[WIRE_SET_CONFIG] = {"SET_CONFIG", WIRE_CONFIG_HEAD, sizeof(struct wire_config), 0, 0,
			     false, WIRE_P_CONFIG, set_config},
	[WIRE_RESET_DEVICE] = {"RESET_DEVICE", NONE, 0, 0, false, WIRE_P_RESET_DEVICE,
			       handle_reset_device},
	[WIRE_GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", NONE, 0, 0, true,
				    WIRE_P_CONFIGURE_MEM_SLOTS, get_max_mem_slots},
	[WIRE_ADD_MEM_REG] = {"ADD_MEM_REG", sizeof(struct wire_mem_reg),
			      sizeof(struct wire_mem_reg), 1, 1, false, WIRE_P_CONFIGURE_MEM_SLOTS,
			      add_mem_reg},
	[WIRE_REM_MEM_REG] = {"REM_MEM_REG", sizeof(struct wire_mem_reg),
			      sizeof(struct wire_mem_reg), 0, 1, false, WIRE_P_CONFIGURE_MEM_SLOTS,
			      rem_mem_reg},
};

/* -------------------------------------------------------------------------------- dispatch */

static int check(const struct gr_vhost *server, const struct gr__message *message,
		 const struct entry *entry)
{
	const struct wire_header *header = &message->header;

	if (entry->needs & ~server->connection.protocol)
		return gr__fail(-EPROTO, "its protocol feature was not negotiated");
	if (header->size < entry->size_min || header->size > entry->size_max)
		return gr__fail(-EINVAL, "a payload of %u bytes", header->size);
	if (message->fds_lost)
		return gr__fail(-EMFILE, "descriptors that this process has no room for");
	if (message->fd_count < entry->fds_min || message->fd_count > entry->fds_max)
		return gr__fail(-EINVAL, "%u descriptors", message->fd_count);
	return 0;
}

int gr__protocol_handle(struct gr_vhost *server, struct gr__message *message)
{
	const struct wire_header *header = &message->header;
	static const struct entry unknown = {.name = "unknown"};
	const struct entry *entry = &unknown;
	struct reply reply = {.size = 0};
	bool acknowledge;
	int rc;

	gr__count(&server->messages, 1);
	if ((header->flags & (WIRE_VERSION_MASK | WIRE_REPLY)) != WIRE_VERSION)
		return gr__fail(-EPROTO, "message %u has flags %#x", header->request,
				header->flags);
	if (header->request < WIRE_REQUESTS && entries[header->request].handle)
		entry = &entries[header->request];
	acknowledge = header->flags & WIRE_NEED_REPLY && !entry->replies &&
		      server->connection.protocol & WIRE_P_REPLY_ACK;
	if (!entry->handle)
		rc = gr__fail(-ENOTSUP, "there is no such message");
	else
		rc = check(server, message, entry);
	if (!rc) {
		rc = entry->handle(server, message, &reply);
		/* features that this very message has set */
		acknowledge = acknowledge && server->connection.protocol & WIRE_P_REPLY_ACK;
	}
	/* before the answer: he who reads it finds nothing of this message left here */
	gr__message_close_fds(message);
	if (rc < 0) {
		gr__count(&server->refused, 1);
		gr__vhost_log(server, GR_LOG_ERROR, "message %u (%s) is refused: %s",
			      header->request, entry->name, gr_last_error());
	}
	if (rc == -EIO || rc == -EPIPE)
		return rc;
	if (acknowledge)
		reply_u64(&reply, rc < 0 ? (uint64_t)-rc : 0);
	else if (rc < 0 && header->request != WIRE_GET_CONFIG)
		return rc; /* no way to tell him */
	else if (!entry->replies)
		return 0;
	return gr__message_send(server->connection.fd, header->request, &reply.payload, reply.size);
}
