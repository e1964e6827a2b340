/* SPDX-License-Identifier: MIT */
/*
 * The handlers of messages, by topic: protocol.c has the table, the dispatch and what is asked of
 * the device; protocol_ring.c rings; protocol_memory.c memory, and what is shared beside it;
 * protocol_postcopy.c memory that is still on its way.
 *
 * A handler returns 0 or -errno. An error is told by the means that the message has: the answer to
 * NEED_REPLY, or the form of reply that the specification gives it; where there is none the
 * connection ends, since the front-end would go on believing.
 *
 * Context: the server's thread.
 */
#ifndef GR__VHOST_PROTOCOL_H
#define GR__VHOST_PROTOCOL_H

#include "vhost/server.h"

struct gr__reply {
	union wire_payload payload;
	uint32_t size;
	int fd;	  /* goes with it and is closed then; -1: none */
	bool own; /* of a message that has none else: the message itself, as the handler left it */
};

typedef int (*gr__handle_fn)(struct gr_vhost *server, struct gr__message *message,
			     struct gr__reply *reply);

static inline int gr__reply_u64(struct gr__reply *reply, uint64_t value)
{
	reply->payload.u64 = value;
	reply->size = sizeof(value);
	return 0;
}

/* protocol_ring.c: tell all rings of features, and whether they are enabled; forget them. */
void gr__rings_features(struct gr_vhost *server, uint64_t features);
void gr__rings_disable(struct gr_vhost *server);
void gr__rings_forget(struct gr_vhost *server);
/* Each ring has the part of the server's in-flight memory that is its own, or none. */
void gr__rings_inflight(struct gr_vhost *server);
/* Is a ring started? */
bool gr__rings_started(const struct gr_vhost *server);
/* Would a log of @log_size bytes have a bit for all that we write of a ring at @addr? */
bool gr__ring_is_logged_within(const struct gr__queue *q, const struct wire_vring_addr *addr,
			       uint64_t desc_gpa, uint64_t log_size);
/* The memory table has changed: where the guest has them may have, too. */
void gr__rings_moved(struct gr_vhost *server);

int gr__handle_set_vring_num(struct gr_vhost *server, struct gr__message *message,
			     struct gr__reply *reply);
int gr__handle_set_vring_addr(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply);
int gr__handle_set_vring_base(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply);
int gr__handle_get_vring_base(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply);
int gr__handle_set_vring_kick(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply);
int gr__handle_set_vring_call(struct gr_vhost *server, struct gr__message *message,
			      struct gr__reply *reply);
int gr__handle_set_vring_err(struct gr_vhost *server, struct gr__message *message,
			     struct gr__reply *reply);
int gr__handle_set_vring_enable(struct gr_vhost *server, struct gr__message *message,
				struct gr__reply *reply);

/* protocol_memory.c: does the log reach all regions? 0 or -ERANGE, said. */
int gr__memory_check_log(const struct gr_vhost *server);
int gr__handle_set_mem_table(struct gr_vhost *server, struct gr__message *message,
			     struct gr__reply *reply);
int gr__handle_get_max_mem_slots(struct gr_vhost *server, struct gr__message *message,
				 struct gr__reply *reply);
int gr__handle_add_mem_reg(struct gr_vhost *server, struct gr__message *message,
			   struct gr__reply *reply);
int gr__handle_rem_mem_reg(struct gr_vhost *server, struct gr__message *message,
			   struct gr__reply *reply);
int gr__handle_set_log_base(struct gr_vhost *server, struct gr__message *message,
			    struct gr__reply *reply);
int gr__handle_set_log_fd(struct gr_vhost *server, struct gr__message *message,
			  struct gr__reply *reply);
int gr__handle_get_inflight_fd(struct gr_vhost *server, struct gr__message *message,
			       struct gr__reply *reply);
/* No ring is started. */
void gr__inflight_forget(struct gr_vhost *server);
int gr__handle_set_inflight_fd(struct gr_vhost *server, struct gr__message *message,
			       struct gr__reply *reply);

/* protocol_postcopy.c */
int gr__handle_postcopy_advise(struct gr_vhost *server, struct gr__message *message,
			       struct gr__reply *reply);
int gr__handle_postcopy_listen(struct gr_vhost *server, struct gr__message *message,
			       struct gr__reply *reply);
int gr__handle_postcopy_end(struct gr_vhost *server, struct gr__message *message,
			    struct gr__reply *reply);
/* Regions of a message while it listens: mapped, their uaddr becomes ours, for the answer. */
int gr__postcopy_prepare(struct gr_vhost *server, struct wire_region *regions, const int *fds,
			 unsigned count, bool whole, struct gr__reply *reply);
/* Is it the front-end's word that it can answer faults in them? Then: register and publish. */
bool gr__postcopy_is_ack(const struct gr_vhost *server, const struct gr__message *message);
int gr__postcopy_publish(struct gr_vhost *server);

#endif
