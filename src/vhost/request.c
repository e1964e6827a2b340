/* SPDX-License-Identifier: MIT */
/*
 * What a device calls on a request. Context: the request's owner, see <guestram/vhost.h>.
 */
#include "vhost/worker.h"
#include <errno.h>
#include <string.h>

static struct gr__slot *slot_of(struct gr_vhost_request *request)
{
	return (struct gr__slot *)request; /* its first member */
}

GR_API void gr_vhost_complete(struct gr_vhost_request *request, uint64_t written)
{
	struct gr__slot *slot = slot_of(request);
	struct gr__worker *worker = slot->queue->worker;

	/* a device that completes twice must not hand a slot out twice; relaxed: its own order */
	if (!__atomic_exchange_n(&slot->taken, 0, __ATOMIC_RELAXED))
		return;
	if (gr_likely(gr__worker_is_me(worker))) {
		gr__queue_complete(slot, written);
		return;
	}
	slot->written = written;
	gr__worker_give(worker, slot);
}

/*
 * Take @length bytes off the front of @iov, copying them from or to @buf: into the memory of @slot,
 * if it is not NULL, and marking that.
 */
static int move(struct iovec **iov, unsigned *count, uint64_t *total, char *buf, size_t length,
		struct gr__slot *slot)
{
	if (length > *total)
		return -EFAULT;
	*total -= length;
	while (length) {
		size_t part;

		/* empty ones: the device may have trimmed them */
		while (*count && !(*iov)->iov_len) {
			(*iov)++;
			(*count)--;
		}
		if (!*count)
			return -EFAULT;
		part = (*iov)->iov_len < length ? (*iov)->iov_len : length;
		if (slot) {
			memcpy((*iov)->iov_base, buf, part);
			gr__slot_mark(slot, (*iov)->iov_base, part);
		} else {
			memcpy(buf, (*iov)->iov_base, part);
		}
		(*iov)->iov_base = (char *)(*iov)->iov_base + part;
		(*iov)->iov_len -= part;
		buf += part;
		length -= part;
	}
	while (*count && !(*iov)->iov_len) {
		(*iov)++;
		(*count)--;
	}
	return 0;
}

/* Was any of its memory lost while we touched it? */
static int check_lost(const struct gr__slot *slot)
{
	for (unsigned i = 0; i < slot->hold_count; i++)
		if (gr_unlikely(slot->holds[i]->lossy) && gr__hold_lost(slot->holds[i]))
			return -EFAULT;
	return 0;
}

GR_API int gr_vhost_pull(struct gr_vhost_request *request, void *buf, size_t length)
{
	int rc = move(&request->out, &request->out_count, &request->out_length, buf, length, NULL);

	__asm__ volatile("" ::: "memory"); /* the copy is the one that is used */
	return rc < 0 ? rc : check_lost(slot_of(request));
}

GR_API int gr_vhost_push(struct gr_vhost_request *request, const void *buf, size_t length)
{
	int rc;

	/* around the copy and its mark, so that whoever turns a log on waits for both */
	gr_read_begin();
	rc = move(&request->in, &request->in_count, &request->in_length, (char *)buf, length,
		  slot_of(request));
	gr_read_end();
	return rc < 0 ? rc : check_lost(slot_of(request));
}

GR_API void gr_vhost_wrote(struct gr_vhost_request *request, const void *host, uint64_t length)
{
	gr_read_begin();
	gr__slot_mark(slot_of(request), host, length);
	gr_read_end();
}
