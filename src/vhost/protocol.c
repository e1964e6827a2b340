/* SPDX-License-Identifier: MIT */
/*
 * The vhost-user messages, as a table; the dispatch; what is asked of the device. See protocol.h.
 */
#include "vhost/protocol.h"
#include "base/error.h"
#include "os/event.h"
#include <errno.h>
#include <string.h>

struct entry {
	const char *name;
	uint16_t size_min, size_max;
	uint8_t fds_min, fds_max;
	bool replies;	/* has a reply of its own */
	uint64_t needs; /* protocol features */
	gr__handle_fn handle;
};

#define PROTOCOL_FEATURES                                                                          \
	(WIRE_P_MQ | WIRE_P_LOG_SHMFD | WIRE_P_REPLY_ACK | WIRE_P_CONFIG | WIRE_P_INFLIGHT_SHMFD | \
	 WIRE_P_RESET_DEVICE | WIRE_P_CONFIGURE_MEM_SLOTS)

static uint64_t features(const struct gr_vhost *server)
{
	return server->ops->features | WIRE_F_VERSION_1 | WIRE_F_INDIRECT_DESC | WIRE_F_EVENT_IDX |
	       WIRE_F_PROTOCOL_FEATURES | WIRE_F_LOG_ALL | WIRE_F_RING_PACKED;
}

/* Who loses his memory in the middle of a move must not take us with him. */
static uint64_t protocol_features(const struct gr_vhost *server)
{
	bool postcopy = server->memory.survive && gr__postcopy_is_possible();

	return PROTOCOL_FEATURES | (postcopy ? WIRE_P_PAGEFAULT : 0);
}

static void reset_device(struct gr_vhost *server)
{
	gr__rings_forget(server);
	if (server->ops->reset)
		server->ops->reset(server->context);
}

void gr__protocol_forget(struct gr_vhost *server)
{
	reset_device(server);
	gr__log_drop(&server->dirty_log);
	gr__inflight_forget(server);
}

/* --------------------------------------------------------------------------------- handlers */

static int get_features(struct gr_vhost *server, struct gr__message *message,
			struct gr__reply *reply)
{
	(void)message;
	return gr__reply_u64(reply, features(server));
}

static int set_features(struct gr_vhost *server, struct gr__message *message,
			struct gr__reply *reply)
{
	uint64_t value = message->payload.u64;
	int rc;

	(void)reply;
	if (value & ~features(server))
		return gr__fail(-EINVAL, "features %#llx were not offered",
				(unsigned long long)(value & ~features(server)));
	if (value & WIRE_F_LOG_ALL) {
		rc = gr__memory_check_log(server);
		if (rc < 0)
			return rc;
	}
	if ((value ^ server->connection.features) & WIRE_F_RING_PACKED) {
		if (gr__rings_started(server))
			return gr__fail(-EBUSY, "another layout of rings, while one is running");
		gr__inflight_forget(server); /* it was of the other layout */
		gr__vhost_log(server, GR_LOG_INFO, "rings are %s from now on",
			      value & WIRE_F_RING_PACKED ? "packed" : "split");
	}
	server->connection.features = value;
	gr__log_set_all(&server->dirty_log, value & WIRE_F_LOG_ALL);
	if (server->ops->set_features)
		server->ops->set_features(server->context, value & ~WIRE_F_LOG_ALL);
	gr__rings_features(server, value);
	return 0;
}

static int get_protocol_features(struct gr_vhost *server, struct gr__message *message,
				 struct gr__reply *reply)
{
	(void)message;
	return gr__reply_u64(reply, protocol_features(server));
}

static int set_protocol_features(struct gr_vhost *server, struct gr__message *message,
				 struct gr__reply *reply)
{
	uint64_t value = message->payload.u64, unknown = value & ~PROTOCOL_FEATURES;

	(void)reply;
	if (unknown)
		unknown &= ~protocol_features(server);
	if (unknown)
		return gr__fail(-EINVAL, "protocol features %#llx were not offered",
				(unsigned long long)unknown);
	server->connection.protocol = value;
	return 0;
}

static int set_owner(struct gr_vhost *server, struct gr__message *message, struct gr__reply *reply)
{
	(void)server;
	(void)message;
	(void)reply;
	return 0; /* the one connection is the owner */
}

/* No longer used by front-ends; the specification leaves us to ignore it or to disable all rings.
 */
static int reset_owner(struct gr_vhost *server, struct gr__message *message,
		       struct gr__reply *reply)
{
	(void)message;
	(void)reply;
	gr__rings_disable(server);
	return 0;
}

static int handle_reset_device(struct gr_vhost *server, struct gr__message *message,
			       struct gr__reply *reply)
{
	(void)message;
	(void)reply;
	reset_device(server);
	return 0;
}

static int get_queue_num(struct gr_vhost *server, struct gr__message *message,
			 struct gr__reply *reply)
{
	(void)message;
	return gr__reply_u64(reply, server->queue_count);
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
static int get_config(struct gr_vhost *server, struct gr__message *message, struct gr__reply *reply)
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

static int set_config(struct gr_vhost *server, struct gr__message *message, struct gr__reply *reply)
{
	const struct wire_config *config = &message->payload.config;
	int rc = check_config(message);

	(void)reply;
	if (rc < 0)
		return rc;
	if (!server->ops->set_config)
		return gr__fail(-EACCES, "the device has no writable configuration");
	if (config->offset > server->ops->config_size ||
	    config->size > server->ops->config_size - config->offset)
		return gr__fail(-EINVAL, "%u bytes at %u of a configuration of %zu", config->size,
				config->offset, server->ops->config_size);
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
				WIRE_TABLE_REGIONS, false, 0, gr__handle_set_mem_table},
	[WIRE_SET_LOG_BASE] = {"SET_LOG_BASE", sizeof(struct wire_log), sizeof(struct wire_log), 1,
			       1, true, WIRE_P_LOG_SHMFD, gr__handle_set_log_base},
	[WIRE_SET_LOG_FD] = {"SET_LOG_FD", 0, sizeof(uint64_t), 1, 1, false, 0,
			     gr__handle_set_log_fd},
	[WIRE_SET_VRING_NUM] = {"SET_VRING_NUM", STATE, 0, 0, false, 0, gr__handle_set_vring_num},
	[WIRE_SET_VRING_ADDR] = {"SET_VRING_ADDR", sizeof(struct wire_vring_addr),
				 sizeof(struct wire_vring_addr), 0, 0, false, 0,
				 gr__handle_set_vring_addr},
	[WIRE_SET_VRING_BASE] = {"SET_VRING_BASE", STATE, 0, 0, false, 0,
				 gr__handle_set_vring_base},
	[WIRE_GET_VRING_BASE] = {"GET_VRING_BASE", STATE, 0, 0, true, 0, gr__handle_get_vring_base},
	[WIRE_SET_VRING_KICK] = {"SET_VRING_KICK", U64, 0, 1, false, 0, gr__handle_set_vring_kick},
	[WIRE_SET_VRING_CALL] = {"SET_VRING_CALL", U64, 0, 1, false, 0, gr__handle_set_vring_call},
	[WIRE_SET_VRING_ERR] = {"SET_VRING_ERR", U64, 0, 1, false, 0, gr__handle_set_vring_err},
	[WIRE_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", NONE, 0, 0, true, 0,
					get_protocol_features},
	[WIRE_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", U64, 0, 0, false, 0,
					set_protocol_features},
	[WIRE_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", NONE, 0, 0, true, WIRE_P_MQ, get_queue_num},
	[WIRE_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", STATE, 0, 0, false, 0,
				   gr__handle_set_vring_enable},
	[WIRE_GET_CONFIG] = {"GET_CONFIG", WIRE_CONFIG_HEAD, sizeof(struct wire_config), 0, 0, true,
			     WIRE_P_CONFIG, get_config},
	[WIRE_SET_CONFIG] = {"SET_CONFIG", WIRE_CONFIG_HEAD, sizeof(struct wire_config), 0, 0,
			     false, WIRE_P_CONFIG, set_config},
	[WIRE_POSTCOPY_ADVISE] = {"POSTCOPY_ADVISE", NONE, 0, 0, true, WIRE_P_PAGEFAULT,
				  gr__handle_postcopy_advise},
	[WIRE_POSTCOPY_LISTEN] = {"POSTCOPY_LISTEN", NONE, 0, 0, false, WIRE_P_PAGEFAULT,
				  gr__handle_postcopy_listen},
	[WIRE_POSTCOPY_END] = {"POSTCOPY_END", NONE, 0, 0, true, WIRE_P_PAGEFAULT,
			       gr__handle_postcopy_end},
	[WIRE_GET_INFLIGHT_FD] = {"GET_INFLIGHT_FD", WIRE_INFLIGHT_SHORT,
				  sizeof(struct wire_inflight), 0, 0, true, WIRE_P_INFLIGHT_SHMFD,
				  gr__handle_get_inflight_fd},
	[WIRE_SET_INFLIGHT_FD] = {"SET_INFLIGHT_FD", WIRE_INFLIGHT_SHORT,
				  sizeof(struct wire_inflight), 1, 1, false, WIRE_P_INFLIGHT_SHMFD,
				  gr__handle_set_inflight_fd},
	[WIRE_RESET_DEVICE] = {"RESET_DEVICE", NONE, 0, 0, false, WIRE_P_RESET_DEVICE,
			       handle_reset_device},
	[WIRE_GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", NONE, 0, 0, true,
				    WIRE_P_CONFIGURE_MEM_SLOTS, gr__handle_get_max_mem_slots},
	[WIRE_ADD_MEM_REG] = {"ADD_MEM_REG", sizeof(uint64_t), sizeof(struct wire_mem_reg), 0, 1,
			      false, WIRE_P_CONFIGURE_MEM_SLOTS, gr__handle_add_mem_reg},
	[WIRE_REM_MEM_REG] = {"REM_MEM_REG", sizeof(uint64_t), sizeof(struct wire_mem_reg), 0, 1,
			      false, WIRE_P_CONFIGURE_MEM_SLOTS, gr__handle_rem_mem_reg},
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

/* An empty reply, or one without a descriptor, says no. */
static bool can_refuse(uint32_t request)
{
	return request == WIRE_GET_CONFIG || request == WIRE_POSTCOPY_ADVISE;
}

int gr__protocol_handle(struct gr_vhost *server, struct gr__message *message)
{
	const struct wire_header *header = &message->header;
	static const struct entry unknown = {.name = "unknown"};
	const struct entry *entry = &unknown;
	struct gr__reply reply = {.size = 0, .fd = -1};
	bool acknowledge;
	int rc;

	gr__count(&server->messages, 1);
	if ((header->flags & (WIRE_VERSION_MASK | WIRE_REPLY)) != WIRE_VERSION)
		return gr__fail(-EPROTO, "message %u has flags %#x", header->request,
				header->flags);
	if (header->request < WIRE_REQUESTS && entries[header->request].handle)
		entry = &entries[header->request];
	/* the reply of SET_LOG_BASE is of that form itself, but front-ends do not look into it */
	acknowledge = header->flags & WIRE_NEED_REPLY &&
		      (!entry->replies || header->request == WIRE_SET_LOG_BASE) &&
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
	if (reply.own && rc >= 0) {
		reply.size = header->size;
		memcpy(&reply.payload, &message->payload, reply.size);
	} else if (acknowledge) {
		gr__reply_u64(&reply, rc < 0 ? (uint64_t)-rc : 0);
	} else if (rc < 0 && !can_refuse(header->request)) {
		return rc; /* no way to tell him */
	} else if (!entry->replies) {
		return 0;
	}
	rc = gr__message_send(server->connection.fd, header->request, &reply.payload, reply.size,
			      reply.fd);
	gr__fd_close(reply.fd);
	return rc;
}
