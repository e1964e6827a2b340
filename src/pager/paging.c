/* SPDX-License-Identifier: MIT */
/*
 * The thread of a paging: events in, answers out, and what is fetched ahead. See paging.h.
 */
#include "pager/paging.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/hooks.h"
#include "os/thread.h"
#include "os/transfer.h"
#include "os/uffd.h"
#include "pager/latency.h"
#include "ram/ram.h"
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#define MS UINT64_C(1000000)
#define RETRY_FIRST (10 * MS)
#define RETRY_LAST (1000 * MS)
/* The kernel asks to wait: that long without a pause, then by the millisecond. */
#define SPIN_NS (MS / 5)
/* So many holes in a row make a file one that has little. */
#define HOLES_FEW 256

void gr__paging_count(uint64_t *counter, uint64_t more)
{
	/* relaxed: a figure */
	__atomic_fetch_add(counter, more, __ATOMIC_RELAXED);
}

static void set_figure(uint64_t *figure, uint64_t to)
{
	__atomic_store_n(figure, to, __ATOMIC_RELAXED);
}

uint64_t gr__paging_now(void)
{
	return gr__now_ns();
}

#define say(paging, level, ...)                                                                    \
	do {                                                                                       \
		char line_[300];                                                                   \
		snprintf(line_, sizeof(line_), __VA_ARGS__);                                       \
		if ((paging)->say)                                                                 \
			(paging)->say((paging)->say_context, level, line_);                        \
	} while (0)

/* ------------------------------------------------------------------------------------ waiting */

static size_t find_waiting(const struct gr__paging *paging, unsigned piece, uint64_t offset)
{
	size_t i;

	for (i = 0; i < paging->waiting_count; i++)
		if (paging->waiting[i].piece == piece && paging->waiting[i].offset == offset)
			break;
	return i;
}

static void show_waiting(struct gr__paging *paging)
{
	set_figure(&paging->stats.faults_waiting, paging->waiting_count);
}

uint64_t gr__paging_answered(struct gr__paging *paging, unsigned piece, uint64_t offset,
			     uint64_t length)
{
	uint64_t now = 0, there = 0;
	size_t i;

	for (i = 0; i < paging->waiting_count;) {
		const struct gr__waiting *waiting = &paging->waiting[i];

		if (waiting->piece != piece || waiting->offset < offset ||
		    waiting->offset - offset >= length) {
			i++;
			continue;
		}
		if (!now)
			now = gr__paging_now();
		gr__paging_count(&paging->stats.latency[gr__latency_step(now - waiting->since)], 1);
		if (now - waiting->since > paging->stats.most_ns)
			set_figure(&paging->stats.most_ns, now - waiting->since);
		gr__paging_count(&paging->stats.faults, 1);
		there += paging->pieces[piece].page_size;
		paging->waiting[i] = paging->waiting[--paging->waiting_count];
	}
	if (now)
		show_waiting(paging);
	return there;
}

static int add_waiting(struct gr__paging *paging, unsigned piece, uint64_t offset, bool minor)
{
	struct gr__paged *paged = &paging->pieces[piece];
	size_t found = find_waiting(paging, piece, offset);
	bool first;

	paged->in_file |= minor;
	if (minor)
		paged->holes = 0;
	if (found < paging->waiting_count) {
		paging->waiting[found].minor |= minor;
		return 0;
	}
	if (!paging->waiting || paging->waiting_count == paging->waiting_room) {
		size_t room = paging->waiting_room ? 2 * paging->waiting_room : 64;
		struct gr__waiting *all = gr__alloc_array(room, sizeof(*all));

		/* it looks again, and so comes again */
		if (!all)
			return gr__uffd_wake(paging->uffd, paged->addr + offset, paged->page_size);
		if (paging->waiting)
			memcpy(all, paging->waiting, paging->waiting_count * sizeof(*all));
		gr__free(paging->waiting);
		paging->waiting = all;
		paging->waiting_room = room;
	}
	paging->waiting[paging->waiting_count++] =
		(struct gr__waiting){piece, offset, gr__paging_now(), minor};
	show_waiting(paging);
	if (!paging->recording)
		return 0;
	pthread_mutex_lock(&paging->lock);
	first = !gr__paged_is_done(paged, offset);
	pthread_mutex_unlock(&paging->lock);
	if (first && gr__order_add(&paging->record, paged->block, paged->source_offset + offset,
				   paged->page_size) < 0)
		say(paging, GR_LOG_WARNING, "pager: a touch is not recorded: no memory");
	return 0;
}

/* ------------------------------------------------------------------------------------- events */

static int piece_at(const struct gr__paging *paging, uint64_t addr)
{
	unsigned low = 0, high = paging->count;

	while (low < high) {
		unsigned middle = low + (high - low) / 2;

		if (paging->pieces[middle].addr <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low || addr - paging->pieces[low - 1].addr >= paging->pieces[low - 1].length)
		return -1;
	return (int)low - 1;
}

static void remove_range(struct gr__paging *paging, uint64_t addr, uint64_t length)
{
	uint64_t last, pages;
	unsigned i;

	if (!gr__range_last(addr, length, &last))
		return;
	for (i = 0; i < paging->count; i++) {
		struct gr__paged *piece = &paging->pieces[i];
		uint64_t end = piece->addr + (piece->length - 1), from, to;

		if (!gr__ranges_overlap(addr, last, piece->addr, end))
			continue;
		from = addr > piece->addr ? addr - piece->addr : 0;
		to = (last < end ? last : end) - piece->addr;
		pthread_mutex_lock(&paging->lock);
		pages = gr__paged_finish(piece, from, to - from + 1);
		pthread_mutex_unlock(&paging->lock);
		gr__paging_count(&paging->stats.removed, pages * piece->page_size);
	}
}

static int take_event(struct gr__paging *paging, const struct gr__uffd_event *event)
{
	int piece;

	switch (event->kind) {
	case GR__UFFD_FAULT:
		piece = piece_at(paging, event->addr);
		if (piece < 0)
			return gr__fail(-EPROTO, "pager: a touch at %#llx, of no memory told of",
					(unsigned long long)event->addr);
		return add_waiting(paging, (unsigned)piece,
				   gr__align_down(event->addr - paging->pieces[piece].addr,
						  paging->pieces[piece].page_size),
				   event->minor);
	case GR__UFFD_REMOVE:
		remove_range(paging, event->addr, event->length);
		return 0;
	case GR__UFFD_MOVE:
		return gr__fail(-EPROTO, "pager: memory at %#llx was moved",
				(unsigned long long)event->addr);
	case GR__UFFD_FORK:
		gr__fd_close(event->fd);
		say(paging, GR_LOG_WARNING, "pager: a forked child is not served");
		return 0;
	case GR__UFFD_OTHER:
		break;
	}
	return 0;
}

static int take_events(struct gr__paging *paging)
{
	struct gr__uffd_event events[GR__UFFD_EVENTS];
	int count, i, rc;

	for (;;) {
		count = gr__uffd_read(paging->uffd, events, GR__UFFD_EVENTS);
		/* interrupted by what is none of ours to end: they are still there */
		if (count == -ENOMEM || count == -EINTR || count == -EAGAIN)
			return 0;
		if (count < 0)
			return gr__fail(count, "pager: userfaultfd: %s", strerrordesc_np(-count));
		for (i = 0; i < count; i++) {
			rc = take_event(paging, &events[i]);
			if (rc < 0)
				return rc;
		}
		if (count < GR__UFFD_EVENTS)
			return 0;
	}
}

/* -------------------------------------------------------------------------------------- reads */

int gr__paging_read(struct gr__paging *paging, struct gr__job *job)
{
	const struct gr__paged *piece = &paging->pieces[job->piece];

	return paging->source->ops->read(paging->source->context, piece->block,
					 piece->source_offset + job->offset, job->buf, job->length);
}

void gr__paging_answer(struct gr__paging *paging, struct gr__job *job)
{
	/* all of it under the lock: once the thread has the job the paging may end */
	pthread_mutex_lock(&paging->answers_lock);
	gr__jobs_add(&paging->answers, job);
	gr__event_set(paging->wake);
	pthread_mutex_unlock(&paging->answers_lock);
}

static void submit(struct gr__paging *paging, struct gr__job *job)
{
	job->early = !paging->ahead_order_done;
	job->flying = paging->flying;
	paging->flying = job;
	paging->flying_count++;
	gr__pool_submit(paging->pool, job);
}

static struct gr__job *find_flying(const struct gr__paging *paging, unsigned piece, uint64_t offset)
{
	struct gr__job *job;

	for (job = paging->flying; job; job = job->flying)
		if (job->piece == piece && offset >= job->offset &&
		    offset - job->offset < job->length)
			break;
	return job;
}

static struct gr__job *find_installing(const struct gr__paging *paging, unsigned piece,
				       uint64_t offset)
{
	struct gr__job *job;

	for (job = paging->installing.first; job; job = job->next)
		if (job->piece == piece && offset >= job->offset &&
		    offset - job->offset < job->length)
			break;
	return job;
}

/* What is best read with the page at *offset: the source's chunk around it. */
static void widen(const struct gr__paged *piece, uint64_t *offset, uint64_t *length)
{
	uint64_t size = piece->page_size, chunk = piece->chunk, at, first, end;

	*length = size;
	if (chunk <= size || chunk > GR__POOL_CHUNK)
		return;
	at = piece->source_offset + *offset;
	first = gr__align_down(at, chunk);
	end = first + chunk - piece->source_offset;
	first = first > piece->source_offset ? first - piece->source_offset : 0;
	if (end > piece->length)
		end = piece->length;
	first = gr__align_down(first, size);
	end = gr__align_down(end, size);
	if (first <= *offset && end > *offset) {
		*offset = first;
		*length = end - first;
	}
}

/* The page at @offset from the page cache, without waiting. */
static int read_now(struct gr__paging *paging, const struct gr__paged *piece, uint64_t offset)
{
	const struct gr_page_source *source = paging->source;
	uint64_t length = piece->page_size, fd_offset;
	int fd, rc;

	if (!source->ops->place || !paging->page)
		return -EAGAIN;
	rc = source->ops->place(source->context, piece->block, piece->source_offset + offset,
				&length, &fd, &fd_offset);
	if (rc < 0 || length < piece->page_size)
		return -EAGAIN;
	return gr__file_read_now(fd, paging->page, length, fd_offset) < 0 ? -EAGAIN : 0;
}

/* -------------------------------------------------------------------------------- answering */

enum served {
	SERVED,
	FLIES, /* somebody will tell when it may go on */
	PARKED,
};

/* What the kernel said to a page. */
static int outcome(struct gr__paging *paging, int rc)
{
	if (!rc)
		return SERVED;
	if (rc == -EAGAIN || rc == -ENOMEM || rc == -ENOSPC || rc == -EINTR) {
		gr__paging_count(&paging->stats.parked, 1);
		paging->parked = true;
		return PARKED;
	}
	return rc == -ESRCH
		       ? rc
		       : gr__fail(rc, "pager: the kernel takes no page: %s", strerrordesc_np(-rc));
}

static int put_from(struct gr__paging *paging, struct gr__job *job, uint64_t offset)
{
	uint64_t at = 0, size = paging->pieces[job->piece].page_size;

	return outcome(paging, gr__paged_put(paging, job->piece, offset, size,
					     (const char *)job->buf + (offset - job->offset), &at));
}

static int serve_from_source(struct gr__paging *paging, unsigned index, uint64_t offset)
{
	struct gr__paged *piece = &paging->pieces[index];
	struct gr__job *job = find_installing(paging, index, offset);
	uint64_t at = 0, length;

	if (job)
		return put_from(paging, job, offset);
	job = find_flying(paging, index, offset);
	if (job) {
		if (!job->touched) {
			job->touched = true;
			gr__pool_hurry(paging->pool, job);
		}
		return FLIES;
	}
	if (!read_now(paging, piece, offset))
		return outcome(paging, gr__paged_put(paging, index, offset, piece->page_size,
						     paging->page, &at));
	if (gr__paging_now() < paging->retry_at)
		return FLIES; /* the loop comes back then */
	widen(piece, &offset, &length);
	job = gr__pool_take(paging->pool, length, true);
	if (!job) {
		/* others' buffers come back, of which nobody tells us */
		paging->parked = true;
		return PARKED;
	}
	job->paging = paging;
	job->piece = index;
	job->offset = offset;
	submit(paging, job);
	return FLIES;
}

static int serve(struct gr__paging *paging, const struct gr__waiting *waiting)
{
	struct gr__paged *piece = &paging->pieces[waiting->piece];
	uint64_t offset = waiting->offset, mapped;
	bool done, held;
	int rc = -EFAULT;

	pthread_mutex_lock(&paging->lock);
	done = gr__paged_is_done(piece, offset);
	held = gr__paged_is_held(piece, offset);
	pthread_mutex_unlock(&paging->lock);
	if (held)
		return FLIES;
	if (waiting->minor)
		rc = gr__paged_map(paging, waiting->piece, offset, piece->page_size, &mapped);
	if (rc != -EFAULT) /* else its file has it not, or not any more */
		return outcome(paging, rc);
	if (done)
		return outcome(paging, gr__paged_put_zeroes(paging, waiting->piece, offset));
	return serve_from_source(paging, waiting->piece, offset);
}

static int serve_all(struct gr__paging *paging)
{
	size_t i = 0;

	while (i < paging->waiting_count) {
		struct gr__waiting one = paging->waiting[i];
		int rc = serve(paging, &one);

		if (rc < 0)
			return rc;
		/* answered ones have left, and another stands in their place */
		if (i < paging->waiting_count && paging->waiting[i].piece == one.piece &&
		    paging->waiting[i].offset == one.offset)
			i++;
	}
	return 0;
}

/* -------------------------------------------------------------------------- what workers bring */

static void read_failed(struct gr__paging *paging, const struct gr__job *job)
{
	const struct gr__paged *piece = &paging->pieces[job->piece];

	gr__paging_count(&paging->stats.failed_reads, 1);
	if (!paging->retry_after)
		say(paging, GR_LOG_WARNING,
		    "pager: the source fails at %#llx, and is asked again until it does not: %s",
		    (unsigned long long)(piece->source_offset + job->offset),
		    strerrordesc_np(-job->rc));
	paging->retry_after = paging->retry_after ? 2 * paging->retry_after : RETRY_FIRST;
	if (paging->retry_after > RETRY_LAST)
		paging->retry_after = RETRY_LAST;
	paging->retry_at = gr__paging_now() + paging->retry_after;
	set_figure(&paging->stats.stalled, 1);
	/* what was to be fetched ahead is looked for again */
	paging->ahead_run = 0;
	paging->ahead_order_done = false;
	paging->ahead_piece = 0;
	paging->ahead_offset = 0;
}

static void read_worked(struct gr__paging *paging)
{
	if (paging->retry_after)
		say(paging, GR_LOG_INFO, "pager: the source answers again");
	paging->retry_after = paging->retry_at = 0;
	set_figure(&paging->stats.stalled, 0);
}

static void land(struct gr__paging *paging, struct gr__job *job)
{
	struct gr__job **link = &paging->flying;

	while (*link != job)
		link = &(*link)->flying;
	*link = job->flying;
	paging->flying_count--;
}

static struct gr__job *next_answer(struct gr__paging *paging)
{
	struct gr__job *job;

	pthread_mutex_lock(&paging->answers_lock);
	job = gr__jobs_take(&paging->answers);
	pthread_mutex_unlock(&paging->answers_lock);
	return job;
}

/* The pages that somebody waits for are put by serve_all(), the rest by install_some(). */
static void take_answers(struct gr__paging *paging)
{
	struct gr__job *job;

	while ((job = next_answer(paging))) {
		land(paging, job);
		if (job->rc < 0) {
			read_failed(paging, job);
			gr__pool_put(paging->pool, job);
			continue;
		}
		read_worked(paging);
		gr__jobs_add(&paging->installing, job);
	}
}

/* A slice of what is there. 1: something was done. */
static int install_some(struct gr__paging *paging)
{
	struct gr__job *job = paging->installing.first;
	int rc;

	if (!job)
		return 0;
	rc = outcome(paging, gr__paged_put(paging, job->piece, job->offset, job->length, job->buf,
					   &job->at));
	if (rc < 0)
		return rc;
	if (job->at >= job->length)
		gr__pool_put(paging->pool, gr__jobs_take(&paging->installing));
	return rc == SERVED;
}

/* --------------------------------------------------------------------------------- ahead of it */

/* The next missing part that the recorded order names. */
static bool next_of_order(struct gr__paging *paging, unsigned *index, uint64_t *offset,
			  uint64_t *length)
{
	const struct gr__order *order = paging->order;

	for (; order && paging->ahead_run < order->count;
	     paging->ahead_run++, paging->ahead_piece = 0, paging->ahead_offset = 0) {
		const struct gr__run_of *run = &order->runs[paging->ahead_run];

		for (; paging->ahead_piece < paging->count;
		     paging->ahead_piece++, paging->ahead_offset = 0) {
			struct gr__paged *piece = &paging->pieces[paging->ahead_piece];
			uint64_t first = run->offset > piece->source_offset
						 ? run->offset - piece->source_offset
						 : 0;
			uint64_t end = run->offset + (run->length - 1), at, part;

			if (run->block != piece->block || end < piece->source_offset ||
			    first >= piece->length)
				continue;
			end -= piece->source_offset; /* the last byte */
			if (end >= piece->length)
				end = piece->length - 1;
			at = first > paging->ahead_offset ? first : paging->ahead_offset;
			if (at > end || !gr__paged_next_missing(piece, &at, &part) || at > end)
				continue;
			if (part > end - at + 1)
				part = end - at + 1;
			*index = paging->ahead_piece;
			*offset = at;
			*length = part;
			return true;
		}
	}
	return false;
}

static bool next_of_all(struct gr__paging *paging, unsigned *index, uint64_t *offset,
			uint64_t *length)
{
	for (; paging->ahead_piece < paging->count;
	     paging->ahead_piece++, paging->ahead_offset = 0) {
		*offset = paging->ahead_offset;
		if (!gr__paged_next_missing(&paging->pieces[paging->ahead_piece], offset, length))
			continue;
		*index = paging->ahead_piece;
		return true;
	}
	return false;
}

static bool next_ahead(struct gr__paging *paging, unsigned *index, uint64_t *offset,
		       uint64_t *length)
{
	if (!paging->ahead_order_done) {
		if (next_of_order(paging, index, offset, length))
			return true;
		paging->ahead_order_done = true;
		paging->ahead_piece = 0;
		paging->ahead_offset = 0;
	}
	if (paging->flags & GR_PAGER_NO_PREFETCH)
		return false;
	if (next_of_all(paging, index, offset, length))
		return true;
	/* what was skipped (held, refused by the kernel) is left */
	if (paging->flying || paging->installing.first)
		return false;
	paging->ahead_piece = 0;
	paging->ahead_offset = 0;
	return false;
}

/* Is all that the order names there? What was asked for after it may still be under way. */
static void look_at_order(struct gr__paging *paging)
{
	const struct gr__job *job;

	if (paging->stats.working_set_ns || !paging->order || !paging->ahead_order_done)
		return;
	for (job = paging->flying; job; job = job->flying)
		if (job->early)
			return;
	for (job = paging->installing.first; job; job = job->next)
		if (job->early)
			return;
	set_figure(&paging->stats.working_set_ns, gr__paging_now() - paging->started);
}

/*
 * What the file has of a job's pages needs no read, which is then from the first hole to the last.
 * Each page is asked for, and one of a slice when many in a row are holes.
 */
static int map_ahead(struct gr__paging *paging, struct gr__job *job)
{
	const struct gr__paged *piece = &paging->pieces[job->piece];
	uint64_t at, end = job->offset + job->length, first = end, last = end, some;
	int rc;

	for (at = job->offset; at < end; at += some) {
		rc = gr__paged_map(paging, job->piece, at, end - at, &some);
		if (rc < 0 && rc != -EFAULT)
			return outcome(paging, rc);
		if (!rc)
			continue;
		some = piece->page_size;
		if (piece->holes > HOLES_FEW && some < GR__SLICE)
			some = GR__SLICE;
		if (some > end - at)
			some = end - at;
		if (first == end)
			first = at;
		last = at + some;
	}
	job->offset = first;
	job->length = last - first;
	return SERVED;
}

/* 1: something was done, and events may have come meanwhile. */
static int fetch_ahead(struct gr__paging *paging)
{
	uint64_t offset, length, chunk, end;
	unsigned index;

	if (paging->recording || gr__paging_now() < paging->retry_at)
		return 0;
	while (next_ahead(paging, &index, &offset, &length)) {
		struct gr__paged *piece = &paging->pieces[index];
		struct gr__job *job;
		int rc = SERVED;

		/* whole pages of the memory, that begin where the source likes it */
		chunk = piece->page_size > GR__POOL_CHUNK ? piece->page_size : GR__POOL_CHUNK;
		offset = gr__align_down(offset, piece->page_size);
		if (!gr__align_up(length, piece->page_size, &length))
			return 0;
		end = gr__align_down(piece->source_offset + offset, chunk) + chunk -
		      piece->source_offset;
		end = gr__align_down(end, piece->page_size);
		if (end > offset && length > end - offset)
			length = end - offset;
		if (length > chunk)
			length = chunk;
		job = gr__pool_take(paging->pool, length, false);
		if (!job)
			return 0;
		job->paging = paging;
		job->piece = index;
		job->offset = offset;
		if (piece->in_file)
			rc = map_ahead(paging, job);
		if (rc == SERVED)
			paging->ahead_offset = offset + length;
		if (rc == SERVED && job->length)
			submit(paging, job);
		else
			gr__pool_put(paging->pool, job);
		if (rc != SERVED || piece->in_file)
			return rc < 0 ? rc : rc == SERVED;
	}
	return 0;
}

/* ----------------------------------------------------------------------------------- the loop */

static bool is_complete(struct gr__paging *paging)
{
	uint64_t left = 0;
	unsigned i;

	pthread_mutex_lock(&paging->lock);
	for (i = 0; i < paging->count; i++)
		left += paging->pieces[i].left;
	pthread_mutex_unlock(&paging->lock);
	return !left;
}

/* All is done: nobody need be told of touches any more. */
static void complete(struct gr__paging *paging)
{
	unsigned i;

	pthread_mutex_lock(&paging->lock);
	for (i = 0; i < paging->count; i++) {
		struct gr__paged *piece = &paging->pieces[i];

		if (piece->mem && !piece->ended)
			/* release: pairs with filler_of() */
			__atomic_store_n(&piece->mem->filler, NULL, __ATOMIC_RELEASE);
		else if (!piece->mem)
			gr__uffd_unregister(paging->uffd, (void *)(uintptr_t)piece->addr,
					    piece->length);
	}
	if (paging->peer < 0) {
		/* the last descriptor: the kernel forgets all of it, and wakes who waits */
		gr__fd_close(paging->uffd);
		paging->uffd = -1;
	}
	paging->complete = true;
	set_figure(&paging->stats.complete_ns, gr__paging_now() - paging->started);
	pthread_cond_broadcast(&paging->over);
	pthread_mutex_unlock(&paging->lock);
	if (paging->ended >= 0)
		gr__event_set(paging->ended);
	paging->waiting_count = 0;
	show_waiting(paging);
}

/* Milliseconds until something is to be done that nobody will tell of. */
static int pause_ms(struct gr__paging *paging)
{
	uint64_t now = gr__paging_now();
	bool more;

	if (!paging->parked)
		paging->parked_since = 0;
	if (paging->parked && !paging->parked_since)
		paging->parked_since = now;
	if (paging->parked && now - paging->parked_since < SPIN_NS) {
		sched_yield();
		return 0;
	}
	if (paging->parked)
		return 1;
	if (paging->retry_at > now)
		return (int)((paging->retry_at - now) / MS) + 1;
	/* it has come since serve_all() looked */
	if (paging->retry_at && paging->waiting_count && !paging->flying)
		return 0;
	/* is more to be fetched ahead? Buffers that others have may be free by then */
	more = !paging->recording && ((paging->order && !paging->ahead_order_done) ||
				      !(paging->flags & GR_PAGER_NO_PREFETCH));
	return paging->flying || !more ? -1 : 5;
}

/* 0, or why it ends; -ECONNRESET: the other side has gone. */
static int wait_for_more(struct gr__paging *paging, int timeout_ms)
{
	struct pollfd fds[3] = {{.fd = paging->uffd, .events = POLLIN},
				{.fd = paging->wake, .events = POLLIN},
				{.fd = paging->peer, .events = POLLRDHUP}};

	if (poll(fds, 3, timeout_ms) < 0)
		return errno == EINTR || errno == ENOMEM ? 0 : -errno;
	if (fds[1].revents)
		gr__event_clear(paging->wake);
	/* what it sends is not looked at; when it hangs up it is over */
	return fds[2].revents ? -ECONNRESET : 0;
}

static int turn(struct gr__paging *paging)
{
	int rc = 0, some = 0;

	paging->parked = false;
	if (paging->uffd >= 0)
		rc = take_events(paging);
	take_answers(paging);
	if (!rc)
		rc = serve_all(paging);
	if (!rc)
		some = rc = install_some(paging);
	if (rc < 0)
		return rc;
	/* a touch from before the end may still be told of, and the kernel may be busy then */
	if (paging->complete)
		return wait_for_more(paging, paging->parked ? pause_ms(paging) : -1);
	rc = fetch_ahead(paging);
	if (rc < 0)
		return rc;
	some |= rc;
	look_at_order(paging);
	if (is_complete(paging)) {
		complete(paging);
		return 0;
	}
	return some ? 0 : wait_for_more(paging, pause_ms(paging));
}

/* What is missing will never come. In this process only; elsewhere it is the monitor's to say. */
static void give_up(struct gr__paging *paging, struct gr__paged *piece)
{
	uint64_t size = piece->page_size, pages = piece->length / size, page = 0, end;

	while ((page = gr__bits_next(piece->done, page, pages, false)) < pages) {
		end = gr__bits_next(piece->done, page, pages, true);
		gr__uffd_give_up(paging->uffd, (void *)(uintptr_t)(piece->addr + page * size),
				 (end - page) * size);
		page = end;
	}
}

void gr__paging_leave(struct gr__paging *paging)
{
	unsigned i;

	pthread_mutex_lock(&paging->lock);
	for (i = 0; i < paging->count; i++) {
		struct gr__paged *piece = &paging->pieces[i];

		if (piece->ended || paging->complete)
			continue;
		/* release: pairs with filler_of() */
		__atomic_store_n(&piece->mem->filler, NULL, __ATOMIC_RELEASE);
		give_up(paging, piece);
	}
	pthread_mutex_unlock(&paging->lock);
}

static void put_all(struct gr__paging *paging)
{
	struct gr__job *job;

	while (paging->flying_count) {
		job = next_answer(paging);
		if (!job) {
			gr__event_wait(paging->wake);
			gr__event_clear(paging->wake);
			continue;
		}
		paging->flying_count--;
		gr__pool_put(paging->pool, job);
	}
	paging->flying = NULL;
	while ((job = gr__jobs_take(&paging->installing)))
		gr__pool_put(paging->pool, job);
}

static void run(void *arg)
{
	struct gr__paging *paging = arg;
	int rc = 0;

	/* acquire, both: what was done before; pairs with gr__paging_go() and gr__paging_stop() */
	while (!__atomic_load_n(&paging->go, __ATOMIC_ACQUIRE) &&
	       !__atomic_load_n(&paging->stop, __ATOMIC_ACQUIRE)) {
		gr__event_wait(paging->wake);
		gr__event_clear(paging->wake);
	}
	if (!__atomic_load_n(&paging->stop, __ATOMIC_ACQUIRE))
		gr__paged_drop_zeroes(paging);
	while (!rc && !__atomic_load_n(&paging->stop, __ATOMIC_ACQUIRE))
		rc = paging->complete && paging->peer < 0 ? 1 : turn(paging);
	if (rc < 0 && rc != -ECONNRESET && rc != -ESRCH)
		say(paging, GR_LOG_ERROR, "%s", gr_last_error());
	paging->flying_count -= gr__pool_cancel(paging->pool, paging);
	put_all(paging);
	/* it cannot go on: an error for those who wait, rather than no end */
	if (rc < 0 && paging->pieces[0].mem)
		gr__paging_leave(paging);
	pthread_mutex_lock(&paging->lock);
	paging->left = true;
	paging->rc = rc < 0 ? rc : 0;
	pthread_cond_broadcast(&paging->over);
	pthread_mutex_unlock(&paging->lock);
	if (paging->ended >= 0)
		gr__event_set(paging->ended);
}

/* ------------------------------------------------------------------------------- open, close */

static void count_all(struct gr__paging *paging)
{
	unsigned i;

	for (i = 0; i < paging->count; i++)
		paging->stats.bytes += paging->pieces[i].length;
}

int gr__paging_open(struct gr__paging *paging, struct gr__paged *pieces, unsigned count)
{
	unsigned i;
	int rc;

	paging->pieces = pieces;
	paging->count = count;
	paging->started = gr__paging_now();
	gr__jobs_init(&paging->answers);
	gr__jobs_init(&paging->installing);
	for (i = 0; i < count; i++)
		if (pieces[i].page_size > paging->largest)
			paging->largest = pieces[i].page_size;
	count_all(paging);
	for (i = 0; i < count; i++) {
		uint64_t pages = pieces[i].length / pieces[i].page_size;

		pieces[i].paging = paging;
		/* memory of this process was emptied, and only we fill it */
		pieces[i].in_file = !pieces[i].mem;
		pieces[i].left = pages;
		pieces[i].done = gr__alloc_array((pages + 63) / 64, sizeof(uint64_t));
		if (!pieces[i].done)
			goto no_memory;
	}
	if (paging->largest <= GR__POOL_CHUNK * 8) {
		paging->page = gr__alloc_aligned(GR_PAGE_SIZE, paging->largest);
		if (!paging->page)
			goto no_memory;
	}
	if (paging->largest > GR_PAGE_SIZE) {
		paging->zeroes = gr__alloc(paging->largest);
		if (!paging->zeroes)
			goto no_memory;
	}
	paging->wake = gr__event_open();
	if (paging->wake < 0) {
		rc = gr__fail(paging->wake, "pager: eventfd: %s", strerrordesc_np(-paging->wake));
		goto free_all;
	}
	pthread_mutex_init(&paging->lock, NULL);
	pthread_mutex_init(&paging->answers_lock, NULL);
	pthread_cond_init(&paging->over, NULL);
	return 0;

no_memory:
	rc = gr__fail(-ENOMEM, "pager: no memory for %u pieces of memory", count);
free_all:
	for (i = 0; i < count; i++) {
		gr__free(pieces[i].done);
		pieces[i].done = NULL;
	}
	gr__free(paging->page);
	gr__free(paging->zeroes);
	paging->page = paging->zeroes = NULL;
	paging->pieces = NULL;
	return rc;
}

int gr__paging_start(struct gr__paging *paging)
{
	int rc = gr__thread_start(run, paging, "gr-pager", &paging->thread);

	return rc < 0 ? gr__fail(rc, "pager: no thread: %s", strerrordesc_np(-rc)) : 0;
}

void gr__paging_go(struct gr__paging *paging)
{
	/* release: pairs with run() */
	__atomic_store_n(&paging->go, 1, __ATOMIC_RELEASE);
	gr__event_set(paging->wake);
}

void gr__paging_stop(struct gr__paging *paging)
{
	/* release: pairs with run() */
	__atomic_store_n(&paging->stop, 1, __ATOMIC_RELEASE);
	gr__event_set(paging->wake);
	gr__thread_join(paging->thread);
}

static void free_piece(struct gr__paged *piece)
{
	gr__free(piece->done);
	gr__free(piece->name);
}

void gr__paging_close(struct gr__paging *paging)
{
	unsigned i;

	gr__fd_close(paging->uffd);
	gr__fd_close(paging->wake);
	gr__fd_close(paging->peer);
	for (i = 0; i < paging->count; i++)
		free_piece(&paging->pieces[i]);
	gr__free(paging->pieces);
	gr__free(paging->page);
	gr__free(paging->zeroes);
	gr__free(paging->waiting);
	gr__order_fini(&paging->record);
	pthread_cond_destroy(&paging->over);
	pthread_mutex_destroy(&paging->answers_lock);
	pthread_mutex_destroy(&paging->lock);
}

void gr__paging_stats(struct gr__paging *paging, struct gr_pager_stats *stats)
{
	const uint64_t *from = (const uint64_t *)&paging->stats;
	uint64_t *to = (uint64_t *)stats;
	uint64_t left = 0;
	size_t i;

	for (i = 0; i < sizeof(*stats) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	pthread_mutex_lock(&paging->lock);
	for (i = 0; i < paging->count; i++)
		left += paging->pieces[i].left * paging->pieces[i].page_size;
	pthread_mutex_unlock(&paging->lock);
	stats->bytes_there = stats->bytes - left;
	pthread_mutex_lock(&paging->pool->lock);
	stats->buffer_bytes = paging->pool->used;
	stats->buffer_bytes_most = paging->pool->most;
	pthread_mutex_unlock(&paging->pool->lock);
	stats->p50_ns = gr__latency_rank(stats->latency, 500);
	stats->p99_ns = gr__latency_rank(stats->latency, 990);
}
