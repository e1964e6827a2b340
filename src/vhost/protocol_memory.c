/* SPDX-License-Identifier: MIT */
/*
 * Messages of the front-end's memory: the table of regions, the log of dirty pages, the record of
 * requests in flight. See protocol.h.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/file.h"
#include "vhost/protocol.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

/*
 * While device writes are logged, each page that can be written has a bit. A front-end that has
 * stopped logging lets its table grow past the log it had.
 */
static int check_logged(const struct gr_vhost *server, const struct wire_region *regions,
			unsigned count)
{
	for (unsigned i = 0; i < count && server->connection.features & WIRE_F_LOG_ALL; i++)
		if (!gr__log_covers(&server->dirty_log, regions[i].gpa, regions[i].size))
			return gr__fail(-ERANGE,
					"a region of %#llx bytes at %#llx, which the log does not "
					"reach",
					(unsigned long long)regions[i].size,
					(unsigned long long)regions[i].gpa);
	return 0;
}

/* Rings that waited for memory find it. */
static void table_changed(struct gr_vhost *server)
{
	gr__rings_moved(server);
	for (unsigned i = 0; i < server->worker_count; i++)
		gr__worker_wake(&server->workers[i]);
}

static int publish_prepared(struct gr_vhost *server)
{
	int rc = gr__postcopy_publish(server);

	table_changed(server);
	return rc;
}

int gr__handle_set_mem_table(struct gr_vhost *server, struct gr__message *message,
			     struct gr__reply *reply)
{
	struct wire_table *table = &message->payload.table;
	uint32_t count = table->count;
	int rc;

	if (gr__postcopy_is_ack(server, message))
		return publish_prepared(server);
	if (count > WIRE_TABLE_REGIONS)
		return gr__fail(-EINVAL, "a table of %u regions, at most %u fit", count,
				WIRE_TABLE_REGIONS);
	if (message->header.size < 8 + count * sizeof(*table->regions))
		return gr__fail(-EINVAL, "%u regions in %u bytes", count, message->header.size);
	if (message->fd_count != count)
		return gr__fail(-EINVAL, "%u descriptors for %u regions", message->fd_count, count);
	rc = check_logged(server, table->regions, count);
	if (!rc && server->postcopy.listening)
		return gr__postcopy_prepare(server, table->regions, message->fds, count, true,
					    reply);
	if (!rc)
		rc = gr__memory_set(&server->memory, table->regions, message->fds, count);
	table_changed(server);
	return rc;
}

int gr__handle_get_max_mem_slots(struct gr_vhost *server, struct gr__message *message,
				 struct gr__reply *reply)
{
	(void)server;
	(void)message;
	return gr__reply_u64(reply, GR__MEMORY_SLOTS);
}

/* One region, which shorter messages, of postcopy, have not. */
static int check_region(const struct gr__message *message, unsigned fds_min)
{
	if (message->header.size != sizeof(struct wire_mem_reg) || message->fd_count < fds_min)
		return gr__fail(-EINVAL, "a region in %u bytes with %u descriptors",
				message->header.size, message->fd_count);
	return 0;
}

int gr__handle_add_mem_reg(struct gr_vhost *server, struct gr__message *message,
			   struct gr__reply *reply)
{
	struct wire_region *region = &message->payload.mem_reg.region;
	int rc;

	if (gr__postcopy_is_ack(server, message))
		return publish_prepared(server);
	rc = check_region(message, 1);
	if (!rc)
		rc = check_logged(server, region, 1);
	if (!rc && server->postcopy.listening)
		return gr__postcopy_prepare(server, region, message->fds, 1, false, reply);
	if (!rc)
		rc = gr__memory_add(&server->memory, region, message->fds[0]);
	table_changed(server);
	return rc;
}

/* A descriptor that comes along (old front-ends send one) is closed unused. */
int gr__handle_rem_mem_reg(struct gr_vhost *server, struct gr__message *message,
			   struct gr__reply *reply)
{
	int rc;

	(void)reply;
	if (gr__postcopy_is_ack(server, message))
		return publish_prepared(server);
	rc = check_region(message, 0);
	return rc < 0 ? rc : gr__memory_remove(&server->memory, &message->payload.mem_reg.region);
}

/* ------------------------------------------------------------------------- log of dirty pages */

int gr__memory_check_log(const struct gr_vhost *server)
{
	for (unsigned i = 0; i < server->memory.count; i++) {
		const struct wire_region *region = &server->memory.regions[i].wire;

		if (!gr__log_covers(&server->dirty_log, region->gpa, region->size))
			return gr__fail(-ERANGE,
					"the log does not reach the region of %#llx bytes at %#llx",
					(unsigned long long)region->size,
					(unsigned long long)region->gpa);
	}
	return 0;
}

int gr__handle_set_log_base(struct gr_vhost *server, struct gr__message *message,
			    struct gr__reply *reply)
{
	const struct wire_log *log = &message->payload.log;
	int rc;

	for (unsigned i = 0; i < server->memory.count; i++) {
		const struct wire_region *region = &server->memory.regions[i].wire;

		if (!gr__log_reaches(log->size, region->gpa, region->size))
			return gr__fail(-ERANGE,
					"a log of %#llx bytes does not reach the region of %#llx "
					"bytes at %#llx",
					(unsigned long long)log->size,
					(unsigned long long)region->size,
					(unsigned long long)region->gpa);
	}
	for (unsigned i = 0; i < server->queue_count; i++) {
		const struct gr__queue *q = &server->queues[i];

		if (q->addr_set && !gr__ring_is_logged_within(q, &q->addr, q->desc_gpa, log->size))
			return gr__fail(-ERANGE, "a log of %#llx bytes does not reach queue %u",
					(unsigned long long)log->size, i);
	}
	rc = gr__log_set(&server->dirty_log, message->fds[0], log->offset, log->size,
			 server->memory.survive);
	return rc < 0 ? rc : gr__reply_u64(reply, 0);
}

int gr__handle_set_log_fd(struct gr_vhost *server, struct gr__message *message,
			  struct gr__reply *reply)
{
	int fd = gr__message_take_fd(message, 0), flags, rc;

	(void)reply;
	flags = fcntl(fd, F_GETFL); /* a full one must never stop a worker */
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK)) {
		rc = gr__fail(-errno, "a descriptor that cannot be made non-blocking");
		goto close_fd;
	}
	rc = gr__log_set_event(&server->dirty_log, fd);
	if (rc < 0)
		goto close_fd;
	return 0;

close_fd:
	gr__fd_close(fd);
	return rc;
}

/* --------------------------------------------------------------------------- requests in flight */

static int check_inflight(const struct gr_vhost *server, const struct wire_inflight *inflight)
{
	if (!inflight->queues || inflight->queues > server->queue_count || !inflight->queue_size ||
	    inflight->queue_size > server->queue_size_max)
		return gr__fail(-EINVAL, "requests in flight of %u queues of %u", inflight->queues,
				inflight->queue_size);
	return 0;
}

/* Bytes of one queue's part. */
static uint64_t part_size(const struct gr_vhost *server, const struct wire_inflight *inflight)
{
	return gr__inflight_queue_size(inflight->queue_size,
				       server->connection.features & WIRE_F_RING_PACKED);
}

/* Fresh memory, all zero, which no process can cut short. */
static int make_inflight(uint64_t size)
{
	int fd = gr__file_memfd("vhost-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING), rc;

	if (fd < 0)
		return gr__fail(fd, "no memory for requests in flight");
	rc = gr__file_set_size(fd, size);
	if (!rc)
		rc = gr__file_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	if (!rc)
		return fd;
	gr__fd_close(fd);
	return gr__fail(rc, "no memory for requests in flight");
}

int gr__handle_get_inflight_fd(struct gr_vhost *server, struct gr__message *message,
			       struct gr__reply *reply)
{
	struct wire_inflight *inflight = &reply->payload.inflight;
	int rc = check_inflight(server, &message->payload.inflight);

	if (rc < 0)
		return rc;
	*inflight = message->payload.inflight;
	inflight->offset = 0;
	inflight->size = inflight->queues * part_size(server, inflight);
	reply->fd = make_inflight(inflight->size);
	if (reply->fd < 0)
		return reply->fd;
	reply->size = message->header.size;
	return 0;
}

int gr__handle_set_inflight_fd(struct gr_vhost *server, struct gr__message *message,
			       struct gr__reply *reply)
{
	const struct wire_inflight *inflight = &message->payload.inflight;
	struct gr__shared fresh, old = server->inflight;
	uint16_t *next, *old_next = server->inflight_next;
	int rc = check_inflight(server, inflight);

	(void)reply;
	if (rc < 0)
		return rc;
	if (gr__rings_started(server))
		return gr__fail(-EBUSY, "requests in flight of a ring that is running");
	if (inflight->offset & 63 ||
	    inflight->size < inflight->queues * part_size(server, inflight))
		return gr__fail(-EINVAL,
				"requests in flight of %u queues of %u in %#llx bytes at "
				"offset %#llx",
				inflight->queues, inflight->queue_size,
				(unsigned long long)inflight->size,
				(unsigned long long)inflight->offset);
	next = gr__alloc_array(inflight->queues, inflight->queue_size * sizeof(*next));
	if (!next)
		return gr__fail(-ENOMEM, "no memory for links of requests in flight");
	rc = gr__shared_map(message->fds[0], inflight->offset, inflight->size,
			    server->memory.survive, &fresh);
	if (rc < 0) {
		gr__free(next);
		return rc;
	}
	server->inflight = fresh;
	server->inflight_next = next;
	server->inflight_queues = inflight->queues;
	server->inflight_size = inflight->queue_size;
	gr__rings_inflight(server);
	gr__shared_unmap(&old);
	gr__free(old_next);
	return 0;
}

void gr__inflight_forget(struct gr_vhost *server)
{
	struct gr__shared old = server->inflight;

	server->inflight = (struct gr__shared){0};
	gr__rings_inflight(server);
	gr__shared_unmap(&old);
	gr__free(server->inflight_next);
	server->inflight_next = NULL;
}
