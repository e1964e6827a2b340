/* SPDX-License-Identifier: MIT */
/*
 * Messages of a guest whose memory is still on its way: see postcopy.h, and protocol.h.
 *
 * While we listen, a region goes through two messages. The one that brings it (SET_MEM_TABLE,
 * ADD_MEM_REG) maps it where nobody can see it, and is answered by itself with our address in place
 * of the front-end's. When the front-end can answer faults in it, it sends the same message with
 * nothing but a u64 of 0: now all that came is registered, and then published.
 */
#include "base/error.h"
#include "os/file.h"
#include "vhost/protocol.h"
#include <errno.h>

int gr__handle_postcopy_advise(struct gr_vhost *server, struct gr__message *message,
			       struct gr__reply *reply)
{
	int rc = gr__postcopy_advise(&server->postcopy);

	(void)message;
	if (rc < 0)
		return rc;
	reply->fd = gr__file_dup(server->postcopy.uffd);
	return reply->fd < 0 ? gr__fail(reply->fd, "no descriptor to pass on") : 0;
}

int gr__handle_postcopy_listen(struct gr_vhost *server, struct gr__message *message,
			       struct gr__reply *reply)
{
	int rc;

	(void)message;
	(void)reply;
	if (server->memory.count)
		return gr__fail(-EBUSY, "memory is mapped already");
	rc = gr__postcopy_listen(&server->postcopy, server->connection.fd);
	if (!rc)
		gr__vhost_log(server, GR_LOG_INFO, "memory comes while the guest runs");
	return rc;
}

int gr__handle_postcopy_end(struct gr_vhost *server, struct gr__message *message,
			    struct gr__reply *reply)
{
	(void)message;
	if (!server->postcopy.listening)
		return gr__fail(-EPROTO, "nothing listens");
	gr__memory_forget_prepared(&server->memory);
	gr__postcopy_end(&server->postcopy, true);
	gr__vhost_log(server, GR_LOG_INFO, "all memory has come");
	return gr__reply_u64(reply, 0);
}

bool gr__postcopy_is_ack(const struct gr_vhost *server, const struct gr__message *message)
{
	return server->postcopy.listening && server->memory.prepared_waits &&
	       message->header.size == sizeof(message->payload.u64) && !message->payload.u64 &&
	       !message->fd_count;
}

int gr__postcopy_prepare(struct gr_vhost *server, struct wire_region *regions, const int *fds,
			 unsigned count, bool whole, struct gr__reply *reply)
{
	struct gr__memory *memory = &server->memory;
	int rc = gr__memory_prepare(memory, regions, fds, count, whole);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < count; i++) {
		const struct gr__region *region =
			&memory->prepared[memory->prepared_count - count + i];
		struct gr_block_info info;

		gr_block_get_info(region->block, &info);
		regions[i].uaddr = (uintptr_t)info.host + region->block_offset;
	}
	reply->own = true;
	return 0;
}

int gr__postcopy_publish(struct gr_vhost *server)
{
	struct gr__memory *memory = &server->memory;

	for (unsigned i = 0; i < memory->prepared_count; i++) {
		int rc = gr__postcopy_register(&server->postcopy, memory->prepared[i].block);

		if (rc < 0)
			return rc;
	}
	return gr__memory_publish_prepared(memory);
}
