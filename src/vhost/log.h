/* SPDX-License-Identifier: MIT */
/*
 * The front-end's log of dirty pages, for live migration: bit n is the page of 4 KiB at
 * guest-physical address n * 4096. We set bits, the front-end takes them.
 *
 *   log->current ──► { bits, pages, event }     replaced whole; read in read sections
 *
 * Order. The data is stored first, then its bit, by an atomic OR that releases; the front-end takes
 * the bits by an atomic exchange and reads the page then. A bit that is set already is stored
 * again: to skip that store a full barrier would have to stand between the data and the look at the
 * bit, since the front-end, another process, cannot make our threads pass one.
 *
 * Whoever writes into guest memory marks it before he leaves the read section in which he looked
 * for the log (or, where the device wrote before, in a section that begins after the write). A
 * change of the log or of `all` waits for all read sections before it is answered. So after the
 * answer nothing is marked in the log that was, and nothing is left unmarked in the one that is.
 *
 * Threads: gr__log_set() and its like: the server's. The rest: any, in a read section.
 */
#ifndef GR__VHOST_LOG_H
#define GR__VHOST_LOG_H

#include "vhost/shared.h"
#include <guestram.h>

#define GR__LOG_PAGE_SHIFT 12

/* const once published */
struct gr__log_view {
	struct gr__shared *shared; /* NULL: an event, and no log yet */
	uint8_t *bits;
	uint64_t pages; /* that it has bits for */
	int event;	/* -1: none */
};

struct gr__log {
	struct gr__log_view *current; /* atomic: release in publish(), acquire in gr__log_view() */
	uint32_t all; /* atomic, relaxed: VHOST_F_LOG_ALL; the wait orders it, see head */
};

/* Replace the log by @size bytes at @offset of the file. 0 or -errno, said; nothing changed then.
 */
int gr__log_set(struct gr__log *log, int fd, uint64_t offset, uint64_t size, bool survive);
/* Signal this descriptor when bits were set; it is ours with 0. 0 or -ENOMEM. */
int gr__log_set_event(struct gr__log *log, int fd);
void gr__log_set_all(struct gr__log *log, bool all);
/* Nothing is in flight. */
void gr__log_drop(struct gr__log *log);

/* Has a log of @log_size bytes a bit for every page of @size bytes at @gpa? Not of none. */
bool gr__log_reaches(uint64_t log_size, uint64_t gpa, uint64_t size);
/* Bytes of the log; without one as many as there can be, since nothing is left out then. */
uint64_t gr__log_size(const struct gr__log *log);
/* Can it have a bit for every page of @size bytes at @gpa? true when there is no log. */
bool gr__log_covers(const struct gr__log *log, uint64_t gpa, uint64_t size);

/* The log where writes of rings go, or NULL; and where those of devices go. */
static inline const struct gr__log_view *gr__log_view(const struct gr__log *log)
{
	return __atomic_load_n(&log->current, __ATOMIC_ACQUIRE); /* pairs: see the member */
}

static inline const struct gr__log_view *gr__log_view_all(const struct gr__log *log)
{
	const struct gr__log_view *view = gr__log_view(log);

	if (gr_likely(!view))
		return NULL;
	return __atomic_load_n(&log->all, __ATOMIC_RELAXED) ? view : NULL;
}

/* @length bytes at @gpa have been written. Pages that the log does not have are left out. */
void gr__log_mark(const struct gr__log_view *view, uint64_t gpa, uint64_t length);
/* Tell the front-end, after some marks. */
void gr__log_signal(const struct gr__log_view *view);

#endif
