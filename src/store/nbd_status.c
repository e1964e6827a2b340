/* SPDX-License-Identifier: MIT */
/*
 * What is zero in an export: asked once, piece after piece, by one link at a time, and kept as a
 * bit for each page, so that the answer never waits. What is not known is data.
 *
 * The server may tell it in pieces as small as it likes; a bound on the questions ends that.
 */
#include "base/bits.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "ram/ram.h"
#include "store/nbd.h"
#include <errno.h>
#include <string.h>

#define STEP (UINT64_C(1) << 30) /* of one question; fits 32 bits */
#define QUESTIONS 65536
#define MAP_BYTES (UINT64_C(1) << 28) /* an export of 8 TiB */

void gr__nbd_status_init(struct gr__nbd_store *store)
{
	uint64_t words = (store->length / GR_PAGE_SIZE + 63) / 64;

	if (store->has_status && words <= MAP_BYTES / 8)
		store->zeroes = gr__alloc_array(words, 8); /* without it all is data */
	store->stats.status_done = !store->zeroes;
}

static void set_zero(struct gr__nbd_store *store, uint64_t first, uint64_t end)
{
	uint64_t page, pages = 0;

	if (end == store->size)
		end = store->length; /* the page that is cut goes on with zeroes */
	if (!gr__align_up(first, GR_PAGE_SIZE, &first))
		return;
	for (page = first / GR_PAGE_SIZE; page < end / GR_PAGE_SIZE; page++) {
		uint64_t bit = UINT64_C(1) << (page & 63);

		if (!(page & 63) && end / GR_PAGE_SIZE - page >= 64) {
			/* relaxed: the bits tell of nothing else */
			__atomic_store_n(&store->zeroes[page / 64], ~UINT64_C(0), __ATOMIC_RELAXED);
			page += 63;
			pages += 64;
			continue;
		}
		__atomic_fetch_or(&store->zeroes[page / 64], bit, __ATOMIC_RELAXED);
		pages++;
	}
	pthread_mutex_lock(&store->lock);
	store->stats.zero_bytes += pages * GR_PAGE_SIZE;
	pthread_mutex_unlock(&store->lock);
}

/* The zeroes up to here end here. */
static void end_run(struct gr__nbd_link *link)
{
	if (link->zero_from < link->status_at)
		set_zero(link->store, link->zero_from, link->status_at);
	link->zero_from = UINT64_MAX;
}

static int take_extents(void *user, const char *context, uint64_t offset, uint32_t *entries,
			size_t count, int *error)
{
	struct gr__nbd_link *link = user;

	/* another context, a second answer to one question, or not from where we asked */
	if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 || offset != link->status_at) {
		*error = EPROTO;
		return -1;
	}
	for (size_t i = 0; i + 1 < count && link->status_at < link->status_end; i += 2) {
		uint64_t length = entries[i];

		if (length > link->status_end - link->status_at)
			length = link->status_end - link->status_at;
		if (!(entries[i + 1] & LIBNBD_STATE_ZERO))
			end_run(link);
		else if (link->zero_from == UINT64_MAX)
			link->zero_from = link->status_at;
		link->status_at += length;
	}
	return 0;
}

static int answered(void *user, int *error)
{
	struct gr__nbd_link *link = user;

	link->asking_over = true;
	link->asking_error = *error;
	return 1; /* libnbd forgets it */
}

void gr__nbd_status_ask(struct gr__nbd_link *link)
{
	struct gr__nbd_store *store = link->store;
	nbd_extent_callback extent = {.callback = take_extents, .user_data = link};
	nbd_completion_callback done = {.callback = answered, .user_data = link};
	uint64_t left;
	bool mine;
	int fault;

	if (link->asking)
		return;
	pthread_mutex_lock(&store->lock);
	mine = !store->stats.status_done && (!store->status_link || store->status_link == link);
	if (mine) {
		if (!store->status_link) {
			link->status_at = store->status_at;
			link->zero_from = UINT64_MAX;
		}
		store->status_link = link;
		store->status_asked++;
	}
	pthread_mutex_unlock(&store->lock);
	if (!mine)
		return;
	left = store->size - link->status_at;
	link->status_end = link->status_at + (left < STEP ? left : STEP);
	link->asking = true;
	link->asking_over = false;
	link->asking_since = gr__now_ns();
	fault = GR_FAULT("nbd.status");
	if (fault || nbd_aio_block_status(link->nbd, link->status_end - link->status_at,
					  link->status_at, extent, done, 0) < 0) {
		link->asking_over = true;
		link->asking_error = fault ? fault : EINVAL;
	}
}

void gr__nbd_status_end(struct gr__nbd_link *link, bool lost)
{
	struct gr__nbd_store *store = link->store;
	bool over = !lost, refused = over && link->asking_error, stuck, more;

	if (!link->asking)
		return;
	link->asking = false;
	link->asking_over = false;
	stuck = link->status_at <= store->status_at; /* only this link writes it while it asks */
	more = link->status_at < store->size;
	if (!more || refused || !over)
		end_run(link);
	pthread_mutex_lock(&store->lock);
	store->status_at = link->status_at;
	/* A server that will not tell is not asked again. One that is lost is, by whoever is next.
	 */
	if (over && (refused || stuck || !more || store->status_asked >= QUESTIONS)) {
		store->stats.status_done = 1;
		pthread_cond_broadcast(&store->change);
	}
	if (!over || store->stats.status_done)
		store->status_link = NULL;
	pthread_mutex_unlock(&store->lock);
}

bool gr__nbd_is_zero(const struct gr__nbd_store *store, uint64_t offset, uint64_t *length)
{
	uint64_t page = offset / GR_PAGE_SIZE, end, until;
	bool zero;

	if (!store->zeroes)
		return false;
	if (!gr__align_up(offset + *length, GR_PAGE_SIZE, &end))
		return false;
	end /= GR_PAGE_SIZE;
	zero = gr__bits_next(store->zeroes, page, page + 1, true) == page;
	until = gr__bits_next(store->zeroes, page, end, !zero) * GR_PAGE_SIZE - offset;
	if (*length > until)
		*length = until;
	return zero;
}
