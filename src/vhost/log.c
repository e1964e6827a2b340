/* SPDX-License-Identifier: MIT */
/* See log.h. */
#include "vhost/log.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/hooks.h"
#include "ram/ram.h"
#include <errno.h>

/* Put @fresh in place, wait for those who look at the old one, and give that back. */
static struct gr__log_view *publish(struct gr__log *log, struct gr__log_view *fresh)
{
	struct gr__log_view *old = log->current;

	__atomic_store_n(&log->current, fresh, __ATOMIC_RELEASE); /* pairs: gr__log_view() */
	gr__synchronize();
	return old;
}

static void free_shared(struct gr__shared *shared)
{
	if (!shared)
		return;
	gr__shared_unmap(shared);
	gr__free(shared);
}

int gr__log_set(struct gr__log *log, int fd, uint64_t offset, uint64_t size, bool survive)
{
	struct gr__log_view *fresh = gr__alloc(sizeof(*fresh)), *old;
	struct gr__shared *shared = gr__alloc(sizeof(*shared));
	int rc = gr__fail(-ENOMEM, "no memory for a log");

	if (!fresh || !shared)
		goto free_both;
	rc = gr__shared_map(fd, offset, size, survive, shared);
	if (rc < 0)
		goto free_both;
	*fresh = (struct gr__log_view){
		.shared = shared,
		.bits = shared->bytes,
		.pages = size > UINT64_MAX / 8 ? UINT64_MAX : size * 8,
		.event = log->current ? log->current->event : -1,
	};
	old = publish(log, fresh);
	if (old)
		free_shared(old->shared);
	gr__free(old);
	return 0;

free_both:
	gr__free(shared);
	gr__free(fresh);
	return rc;
}

int gr__log_set_event(struct gr__log *log, int fd)
{
	struct gr__log_view *fresh = gr__alloc(sizeof(*fresh)), *old;

	if (!fresh)
		return gr__fail(-ENOMEM, "no memory for a log");
	if (log->current)
		*fresh = *log->current;
	fresh->event = fd;
	old = publish(log, fresh);
	if (old)
		gr__fd_close(old->event);
	gr__free(old);
	return 0;
}

void gr__log_set_all(struct gr__log *log, bool all)
{
	if (__atomic_exchange_n(&log->all, all, __ATOMIC_RELAXED) != all)
		gr__synchronize(); /* see head */
}

void gr__log_drop(struct gr__log *log)
{
	struct gr__log_view *old;

	__atomic_store_n(&log->all, 0, __ATOMIC_RELAXED);
	if (!log->current)
		return;
	old = publish(log, NULL);
	free_shared(old->shared);
	gr__fd_close(old->event);
	gr__free(old);
}

bool gr__log_reaches(uint64_t log_size, uint64_t gpa, uint64_t size)
{
	uint64_t last;

	return gr__range_last(gpa, size, &last) && last >> GR__LOG_PAGE_SHIFT >> 3 < log_size;
}

uint64_t gr__log_size(const struct gr__log *log)
{
	const struct gr__log_view *view = log->current;

	return view && view->shared ? view->shared->size : UINT64_MAX;
}

bool gr__log_covers(const struct gr__log *log, uint64_t gpa, uint64_t size)
{
	return gr__log_reaches(gr__log_size(log), gpa, size);
}

void gr__log_mark(const struct gr__log_view *view, uint64_t gpa, uint64_t length)
{
	uint64_t page = gpa >> GR__LOG_PAGE_SHIFT, last;

	if (!view->pages || !gr__range_last(gpa, length, &last))
		return;
	GR_POINT("log.mark");
	last >>= GR__LOG_PAGE_SHIFT;
	if (last >= view->pages)
		last = view->pages - 1;
	while (page <= last) {
		unsigned bits = 0;
		uint64_t byte = page / 8;

		for (; page <= last && page / 8 == byte; page++)
			bits |= 1u << page % 8;
		/* release: after the data; pairs with the exchange of the front-end */
		__atomic_fetch_or(&view->bits[byte], (uint8_t)bits, __ATOMIC_RELEASE);
	}
}

void gr__log_signal(const struct gr__log_view *view)
{
	if (view->event >= 0)
		gr__event_set(view->event);
}
