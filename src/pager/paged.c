/* SPDX-License-Identifier: MIT */
/*
 * What is put where: the pages of each piece that are done, the kernel's calls that fill others,
 * and discards in this process. See paging.h.
 */
#include "base/bits.h"
#include "base/range.h"
#include "os/event.h"
#include "os/hooks.h"
#include "os/uffd.h"
#include "pager/paging.h"
#include <errno.h>

/* Zeroes of that many bytes are worth a mapping of their own, of at most so many of those. */
#define UNWATCH_MIN (UINT64_C(2) << 20)
#define UNWATCH_MAX 256

/* -------------------------------------------------------------------------------- done pages */

uint64_t gr__paged_finish(struct gr__paged *piece, uint64_t offset, uint64_t length)
{
	uint64_t page, last, end, were = 0, word;

	if (offset >= piece->length)
		return 0;
	end = length < piece->length - offset ? offset + length : piece->length;
	page = (offset + piece->page_size - 1) / piece->page_size;
	last = end / piece->page_size; /* one past it */
	if (page >= last)
		return 0;
	last--;
	for (word = page >> 6; word <= last >> 6; word++) {
		uint64_t mask = gr__bits_mask(word, page, last);
		uint64_t before = piece->done[word];

		were += (uint64_t)__builtin_popcountll(mask & ~before);
		/* relaxed, as in gr__bits_next(); the lock orders it */
		__atomic_store_n(&piece->done[word], before | mask, __ATOMIC_RELAXED);
	}
	piece->left -= were;
	return were;
}

bool gr__paged_is_done(struct gr__paged *piece, uint64_t offset)
{
	uint64_t page = offset / piece->page_size;

	return piece->ended || piece->done[page >> 6] >> (page & 63) & 1;
}

bool gr__paged_is_held(struct gr__paged *piece, uint64_t offset)
{
	const struct gr__filler_hold *hold;

	for (hold = piece->holds; hold; hold = hold->next)
		if (offset >= hold->offset && offset - hold->offset < hold->length)
			return true;
	return false;
}

bool gr__paged_next_missing(struct gr__paged *piece, uint64_t *offset, uint64_t *length)
{
	uint64_t size = piece->page_size, pages = piece->length / size, first, end;

	pthread_mutex_lock(&piece->paging->lock);
	first = gr__bits_next(piece->done, *offset / size, pages, false);
	end = gr__bits_next(piece->done, first, pages, true);
	if (piece->ended)
		first = pages;
	pthread_mutex_unlock(&piece->paging->lock);
	if (first >= pages)
		return false;
	*offset = first * size;
	*length = (end - first) * size;
	return true;
}

void gr__paged_drop_zeroes(struct gr__paging *paging)
{
	const struct gr_page_source *source = paging->source;
	unsigned i, unwatched = 0;

	for (i = 0; i < paging->count && source->ops->look; i++) {
		struct gr__paged *piece = &paging->pieces[i];
		uint64_t at = 0, length, pages;

		for (; at < piece->length; at += length) {
			int kind;

			length = piece->length - at;
			kind = source->ops->look(source->context, piece->block,
						 piece->source_offset + at, &length);
			if (kind < 0 || !length || length > piece->length - at)
				break; /* a read will tell */
			if (kind != GR_PAGES_ZERO)
				continue;
			pthread_mutex_lock(&paging->lock);
			pages = piece->ended ? 0 : gr__paged_finish(piece, at, length);
			if (pages && length >= UNWATCH_MIN && unwatched < UNWATCH_MAX &&
			    gr__is_aligned(at | length, piece->page_size)) {
				gr__uffd_unregister(paging->uffd,
						    (void *)(uintptr_t)(piece->addr + at), length);
				unwatched++;
			}
			pthread_mutex_unlock(&paging->lock);
			gr__paging_count(&paging->stats.zeroed, pages * piece->page_size);
		}
	}
}

/* ----------------------------------------------------------------------------- putting pages */

/* Lock held: the pages from *at on that may get bytes now, at most a slice. */
static uint64_t next_run(struct gr__paged *piece, uint64_t offset, uint64_t length, uint64_t *at)
{
	uint64_t size = piece->page_size, run = 0;

	while (*at < length &&
	       (gr__paged_is_done(piece, offset + *at) || gr__paged_is_held(piece, offset + *at)))
		*at += size;
	while (*at + run < length && (!run || run + size <= GR__SLICE) &&
	       !gr__paged_is_done(piece, offset + *at + run) &&
	       !gr__paged_is_held(piece, offset + *at + run))
		run += size;
	return run;
}

/* Lock held. */
static int try_map(struct gr__paged *piece, uint64_t offset, uint64_t length, uint64_t *done)
{
	struct gr__paging *paging = piece->paging;
	int rc;

	*done = 0;
	if (!piece->in_file)
		return -EFAULT;
	rc = gr__uffd_try_map(paging->uffd, piece->addr + offset, length, done);
	piece->in_file = rc != -EINVAL;
	piece->holes = *done ? 0 : piece->holes + (rc == -EFAULT);
	gr__paged_finish(piece, offset, *done);
	gr__paging_count(&paging->stats.shared, *done);
	return rc == -EINVAL ? -EFAULT : rc;
}

/*
 * Lock held: what the kernel answered for the page at @offset, nothing having been put there. So
 * many bytes are *mapped instead.
 */
static int settle(struct gr__paged *piece, uint64_t offset, int rc, uint64_t *mapped)
{
	struct gr__paging *paging = piece->paging;

	switch (rc) {
	case -EEXIST: /* another was faster: a thread of the process, a sharer, a pager before us */
		rc = try_map(piece, offset, piece->page_size, mapped);
		if (rc != -EEXIST && rc != -EFAULT && rc != -ENOENT)
			return rc;
		break;
	case -ENOENT: /* it is no such memory any more */
	case -EFAULT: /* its file has become shorter */
		break;
	default:
		return rc;
	}
	gr__paged_finish(piece, offset, piece->page_size);
	gr__paging_count(&paging->stats.raced, 1);
	return gr__uffd_wake(paging->uffd, piece->addr + offset, piece->page_size);
}

/* Lock not held: whoever waits for them has been woken; @given of these bytes are new. */
static void tell(struct gr__paging *paging, unsigned index, uint64_t offset, uint64_t length,
		 uint64_t given)
{
	uint64_t touched = length ? gr__paging_answered(paging, index, offset, length) : 0;

	if (given > touched)
		gr__paging_count(&paging->stats.prefetched, given - touched);
}

int gr__paged_put(struct gr__paging *paging, unsigned index, uint64_t offset, uint64_t length,
		  const void *bytes, uint64_t *at)
{
	struct gr__paged *piece = &paging->pieces[index];
	uint64_t run, done = 0, from, mapped = 0;
	bool settled = false;
	int rc = 0;

	GR_POINT("pager.put");
	pthread_mutex_lock(&paging->lock);
	run = next_run(piece, offset, length, at);
	from = offset + *at;
	if (run) {
		rc = gr__uffd_try_copy(paging->uffd, piece->addr + from, (const char *)bytes + *at,
				       run, &done);
		gr__paged_finish(piece, from, done);
		*at += done;
		if (rc == -EAGAIN && done) {
			rc = 0; /* it goes on from there */
		} else if (rc < 0) {
			rc = settle(piece, from + done, rc, &mapped);
			settled = !rc;
		}
	}
	pthread_mutex_unlock(&paging->lock);
	gr__paging_count(&paging->stats.copied, done);
	tell(paging, index, from, done, done);
	if (settled) {
		tell(paging, index, from + done, piece->page_size, mapped);
		*at += piece->page_size;
	}
	return rc;
}

int gr__paged_map(struct gr__paging *paging, unsigned index, uint64_t offset, uint64_t length,
		  uint64_t *done)
{
	struct gr__paged *piece = &paging->pieces[index];
	uint64_t given;
	int rc;

	GR_POINT("pager.map");
	pthread_mutex_lock(&paging->lock);
	rc = try_map(piece, offset, length, &given);
	*done = given;
	if (rc == -EAGAIN && given) {
		rc = 0; /* it goes on from there */
	} else if (rc < 0 && rc != -EFAULT) {
		rc = settle(piece, offset, rc, &given);
		*done = rc ? 0 : piece->page_size;
	}
	pthread_mutex_unlock(&paging->lock);
	tell(paging, index, offset, *done, given);
	return rc;
}

int gr__paged_put_zeroes(struct gr__paging *paging, unsigned index, uint64_t offset)
{
	struct gr__paged *piece = &paging->pieces[index];
	uint64_t to = piece->addr + offset, done = 0, mapped;
	int rc = 0;

	pthread_mutex_lock(&paging->lock);
	if (!piece->ended) {
		if (piece->page_size == GR_PAGE_SIZE)
			rc = gr__uffd_try_zero(paging->uffd, to, GR_PAGE_SIZE, &done);
		else
			rc = gr__uffd_try_copy(paging->uffd, to, paging->zeroes, piece->page_size,
					       &done);
		if (rc < 0)
			rc = settle(piece, offset, rc, &mapped);
	}
	pthread_mutex_unlock(&paging->lock);
	if (!rc)
		gr__paging_answered(paging, index, offset, piece->page_size);
	gr__paging_count(&paging->stats.zeroed, done);
	return rc;
}

/* ------------------------------------------------------------------- discards in this process */

/* The filler is the first member of its piece. */
static struct gr__paged *piece_of(struct gr__filler *filler)
{
	return (struct gr__paged *)filler;
}

static void hold_pages(struct gr__filler *filler, struct gr__filler_hold *hold)
{
	struct gr__paged *piece = piece_of(filler);

	pthread_mutex_lock(&piece->paging->lock);
	hold->next = piece->holds;
	piece->holds = hold;
	pthread_mutex_unlock(&piece->paging->lock);
	GR_POINT("pager.hold");
}

static void release_pages(struct gr__filler *filler, struct gr__filler_hold *hold, bool discarded)
{
	struct gr__paged *piece = piece_of(filler);
	struct gr__paging *paging = piece->paging;
	struct gr__filler_hold **link;
	uint64_t pages = 0;

	GR_POINT("pager.release");
	pthread_mutex_lock(&paging->lock);
	for (link = &piece->holds; *link != hold; link = &(*link)->next)
		;
	*link = hold->next;
	if (discarded)
		pages = gr__paged_finish(piece, hold->offset, hold->length);
	pthread_mutex_unlock(&paging->lock);
	/* relaxed: a figure, to which the paging's thread adds too */
	__atomic_fetch_add(&paging->stats.removed, pages * piece->page_size, __ATOMIC_RELAXED);
	gr__event_set(paging->wake);
}

static void end_pages(struct gr__filler *filler)
{
	struct gr__paged *piece = piece_of(filler);
	struct gr__paging *paging = piece->paging;

	pthread_mutex_lock(&paging->lock);
	piece->ended = true;
	piece->left = 0;
	pthread_mutex_unlock(&paging->lock);
	gr__event_set(paging->wake);
}

const struct gr__filler_ops gr__paged_filler_ops = {
	.hold = hold_pages,
	.release = release_pages,
	.end = end_pages,
};
