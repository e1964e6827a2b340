/* SPDX-License-Identifier: MIT */
/*
 * A balloon: the pages of 4 KiB that a guest does not use, and whole pages of the backing among
 * them given back.
 *
 * A page is known by its host address, so it is in the set once wherever it is mapped, and what is
 * mapped at the same guest address later is another page. A page of the backing is discarded when
 * all its guest pages are in the set, whatever ranges show them.
 *
 * What leaves the space must leave the set: the balloon listens. Ranges are told as removed and
 * added also when they are merely split, joined or resized. So what is removed is remembered, what
 * is added again is taken out of that, and the rest is dropped when the change is committed. Where
 * memory for that is lacking, a block is deleted, or another change of the space is committed in
 * between, pages are dropped at once: forgetting a page is always safe.
 *
 * Threads and locks. balloon->lock guards all; the space is looked up while it is held, so the
 * pages of a change that is committed are either not found any more or dropped. ram->lock is taken
 * inside it for moments; callbacks, which take it too, run with no lock of the RAM's.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "plug/frames.h"
#include "plug/plug.h"
#include "space/lookup.h"
#include "space/space.h"
#include <errno.h>
#include <string.h>

/* Memory of a range that was told as removed and not as added again. */
struct gone {
	uint64_t addr, host, length;
};

struct gr_balloon {
	struct gr__space *space;	/* const */
	struct gr_discard_claim *claim; /* const */
	struct gr_listener *listener;	/* const once open */
	pthread_mutex_t lock;
	struct gr__frames frames; /* wr: lock */
	struct gone *gone;	  /* wr: lock */
	size_t gone_count, gone_room;
};

/* --------------------------------------------------------------------- listening: what leaves */

static void forget(struct gr_balloon *balloon, const struct gone *gone)
{
	gr__frames_remove(&balloon->frames, gone->host, gone->length);
}

static int push(struct gr_balloon *balloon, const struct gone *gone)
{
	if (balloon->gone_count == balloon->gone_room) {
		size_t room = balloon->gone_room ? 2 * balloon->gone_room : 8;
		struct gone *all = gr__alloc_array(room, sizeof(*all));

		if (!all)
			return -ENOMEM;
		if (balloon->gone_count)
			memcpy(all, balloon->gone, balloon->gone_count * sizeof(*all));
		gr__free(balloon->gone);
		balloon->gone = all;
		balloon->gone_room = room;
	}
	balloon->gone[balloon->gone_count++] = *gone;
	return 0;
}

static void push_or_forget(struct gr_balloon *balloon, const struct gone *gone)
{
	if (gone->length && push(balloon, gone) < 0)
		forget(balloon, gone);
}

/* The same memory at the same place is there again: the pieces on either side of it are left. */
static void take_out(struct gr_balloon *balloon, const struct gone *back)
{
	size_t i = 0;

	while (i < balloon->gone_count) {
		struct gone whole = balloon->gone[i], right = whole;
		uint64_t end = whole.host + whole.length, back_end = back->host + back->length;

		if (whole.host - whole.addr != back->host - back->addr || end <= back->host ||
		    back_end <= whole.host) {
			i++;
			continue;
		}
		balloon->gone[i] = balloon->gone[--balloon->gone_count];
		if (whole.host < back->host) {
			whole.length = back->host - whole.host;
			push_or_forget(balloon, &whole);
		}
		if (back_end < end) {
			right.addr += back_end - right.host;
			right.host = back_end;
			right.length = end - back_end;
			push_or_forget(balloon, &right);
		}
	}
}

static struct gone of_range(const struct gr_range *range)
{
	return (struct gone){range->addr, (uintptr_t)range->host, range->visible};
}

static void range_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct gr_balloon *balloon = context;
	struct gone gone = of_range(range);

	if (space != &balloon->space->read)
		return;
	pthread_mutex_lock(&balloon->lock);
	if (balloon->frames.count)
		push_or_forget(balloon, &gone);
	pthread_mutex_unlock(&balloon->lock);
}

static int range_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct gr_balloon *balloon = context;
	struct gone back = of_range(range);

	if (space != &balloon->space->read)
		return 0;
	pthread_mutex_lock(&balloon->lock);
	take_out(balloon, &back);
	pthread_mutex_unlock(&balloon->lock);
	return 0;
}

static void committed(void *context, struct gr_space *space, uint64_t generation)
{
	struct gr_balloon *balloon = context;

	if (space != &balloon->space->read)
		return;
	pthread_mutex_lock(&balloon->lock);
	while (balloon->gone_count)
		forget(balloon, &balloon->gone[--balloon->gone_count]);
	pthread_mutex_unlock(&balloon->lock);
}

static void block_deleting(void *context, struct gr_block *block)
{
	struct gr_balloon *balloon = context;

	pthread_mutex_lock(&balloon->lock);
	if (block->mem.host)
		gr__frames_remove(&balloon->frames, (uintptr_t)block->mem.host,
				  block->mem.max_length);
	pthread_mutex_unlock(&balloon->lock);
}

static const struct gr_listener_ops listener_ops = {
	.block_deleting = block_deleting,
	.range_added = range_added,
	.range_removed = range_removed,
	.committed = committed,
};

/* ------------------------------------------------------------------------------ open and close */

static void free_balloon(struct gr_balloon *balloon)
{
	gr__frames_fini(&balloon->frames);
	gr__free(balloon->gone);
	pthread_mutex_destroy(&balloon->lock);
	gr__free(balloon);
}

static int enter(struct gr__space *space)
{
	int rc;

	pthread_mutex_lock(&space->ram->lock);
	rc = gr__ram_check_open(space->ram);
	if (!rc && space->closing)
		rc = gr__fail(-EBUSY, "space %s: it is being closed", space->name);
	if (!rc)
		space->balloons++;
	pthread_mutex_unlock(&space->ram->lock);
	return rc;
}

static void leave(struct gr__space *space)
{
	pthread_mutex_lock(&space->ram->lock);
	space->balloons--;
	pthread_mutex_unlock(&space->ram->lock);
}

int gr_balloon_open(struct gr_space *public, struct gr_balloon **result)
{
	struct gr__space *space = gr__space_of(public);
	struct gr_balloon *balloon;
	int rc = gr__ram_check(space->ram, "balloon");

	if (rc < 0)
		return rc;
	if (!result)
		return gr__fail(-EINVAL, "balloon: no place for the result");
	balloon = gr__alloc(sizeof(*balloon));
	if (!balloon)
		return gr__fail(-ENOMEM, "space %s: no memory for a balloon", space->name);
	balloon->space = space;
	pthread_mutex_init(&balloon->lock, NULL);
	rc = enter(space);
	if (rc < 0)
		goto free_balloon;
	rc = gr_discard_claim_open(space->ram, NULL, GR_DISCARD_NEED,
				   "a balloon gives guest pages back", &balloon->claim);
	if (rc < 0)
		goto leave;
	rc = gr_listener_open(space->ram, &listener_ops, balloon, 0, &balloon->listener);
	if (rc < 0)
		goto close_claim;
	*result = balloon;
	return 0;

close_claim:
	gr_discard_claim_close(balloon->claim);
leave:
	leave(space);
free_balloon:
	free_balloon(balloon);
	return rc;
}

int gr_balloon_close(struct gr_balloon *balloon)
{
	int rc;

	if (!balloon)
		return 0;
	rc = gr_listener_close(balloon->listener);
	if (rc < 0)
		return rc;
	gr_discard_claim_close(balloon->claim);
	leave(balloon->space);
	free_balloon(balloon);
	return 0;
}

/* ---------------------------------------------------------------------------- inflate, deflate */

struct work {
	struct gr_balloon *balloon;
	struct gone *fresh; /* runs that this call added, to take out again if it fails */
	size_t count, room;
};

static int remember(struct work *work, uint64_t host, uint64_t length)
{
	if (work->count == work->room) {
		size_t room = work->room ? 2 * work->room : 8;
		struct gone *fresh = gr__alloc_array(room, sizeof(*fresh));

		if (!fresh)
			return -ENOMEM;
		if (work->count)
			memcpy(fresh, work->fresh, work->count * sizeof(*fresh));
		gr__free(work->fresh);
		work->fresh = fresh;
		work->room = room;
	}
	work->fresh[work->count++] = (struct gone){0, host, length};
	return 0;
}

/* The pages of the piece that are not in the set yet, by runs. */
static int add_piece(void *context, const struct gr__piece *piece, int index)
{
	struct work *work = context;
	struct gr__frames *frames = &work->balloon->frames;
	uint64_t at, last, end;
	int rc;

	if (piece->range->foreign)
		return gr__fail(-ENOTSUP, "balloon: block %s is seen through windows: discard it",
				piece->range->block->name);
	at = (uintptr_t)gr__piece_host(piece);
	last = at + (piece->length - 1);
	rc = gr__frames_reserve(frames, piece->length);
	while (!rc && gr__frames_next(frames, &at, last, false)) {
		end = at;
		if (!gr__frames_next(frames, &end, last, true))
			end = last + 1;
		rc = remember(work, at, end - at);
		if (!rc)
			gr__frames_add(frames, at, end - at);
		at = end;
	}
	return rc < 0 ? gr__fail(rc, "balloon: no memory to note its pages") : 0;
}

/* Of the pages of the backing that the piece touches, those that are all in the balloon, by runs.
 */
static int discard_piece(void *context, const struct gr__piece *piece, int index)
{
	struct work *work = context;
	struct gr_block *block = piece->range->block;
	const struct gr__frames *frames = &work->balloon->frames;
	uint64_t page = block->mem.page_size, host = (uintptr_t)block->mem.host;
	uint64_t offset =
		piece->range->offset + piece->into; /* all within the block from here on */
	uint64_t at = gr__align_down(offset, page), from;
	uint64_t end = gr__align_down(offset + (piece->length - 1), page) + page;
	int rc = 0;

	while (at < end && !rc) {
		for (from = at; at < end; at += page)
			if (gr__frames_count(frames, host + at, page) != page / GR_PAGE_SIZE)
				break;
		if (at > from)
			rc = gr_block_discard(block, from, at - from);
		at += page;
	}
	return rc;
}

static int check_piece(void *unused, const struct gr__piece *piece, int index)
{
	if (piece->range->foreign)
		return gr__fail(-ENOTSUP, "balloon: block %s has no memory of this process",
				piece->range->block->name);
	return 0;
}

static int check(const struct gr_balloon *balloon, const char *verb, uint64_t addr, uint64_t length)
{
	int rc = gr__ram_check(balloon->space->ram, "balloon");

	if (!rc && !gr__is_aligned(addr | length, GR_PAGE_SIZE))
		rc = gr__fail(-EINVAL, "balloon: %s of %#llx bytes at %#llx: not multiples of %#x",
			      verb, (unsigned long long)length, (unsigned long long)addr,
			      GR_PAGE_SIZE);
	return rc < 0 ? rc : gr__check_span(addr, length, GR_READ | GR_WRITE);
}

int gr_balloon_inflate(struct gr_balloon *balloon, uint64_t addr, uint64_t length)
{
	const unsigned access = GR_READ | GR_WRITE;
	struct work work = {.balloon = balloon};
	const struct gr__view *view;
	size_t i;
	int rc = check(balloon, "inflate", addr, length);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&balloon->lock);
	gr_read_begin();
	view = gr__view_of(gr__space_view(&balloon->space->read));
	rc = gr__walk_pieces(view, addr, length, access, check_piece, NULL);
	if (rc > 0)
		rc = gr__walk_pieces(view, addr, length, access, add_piece, &work);
	if (rc > 0)
		rc = gr__walk_pieces(view, addr, length, access, discard_piece, &work);
	for (i = 0; rc < 0 && i < work.count; i++)
		gr__frames_remove(&balloon->frames, work.fresh[i].host, work.fresh[i].length);
	gr_read_end();
	pthread_mutex_unlock(&balloon->lock);
	gr__free(work.fresh);
	return rc < 0 ? rc : 0;
}

static int remove_piece(void *context, const struct gr__piece *piece, int index)
{
	struct gr_balloon *balloon = context;

	if (!piece->range->foreign) /* it never held any */
		gr__frames_remove(&balloon->frames, (uintptr_t)gr__piece_host(piece),
				  piece->length);
	return 0;
}

int gr_balloon_deflate(struct gr_balloon *balloon, uint64_t addr, uint64_t length)
{
	const unsigned access = GR_READ | GR_WRITE;
	const struct gr__view *view;
	int rc = check(balloon, "deflate", addr, length);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&balloon->lock);
	gr_read_begin();
	view = gr__view_of(gr__space_view(&balloon->space->read));
	rc = gr__walk_pieces(view, addr, length, access, check_piece, NULL);
	if (rc > 0)
		gr__walk_pieces(view, addr, length, access, remove_piece, balloon);
	gr_read_end();
	pthread_mutex_unlock(&balloon->lock);
	return rc < 0 ? rc : 0;
}

uint64_t gr_balloon_bytes(struct gr_balloon *balloon)
{
	uint64_t count;

	pthread_mutex_lock(&balloon->lock);
	count = balloon->frames.count;
	pthread_mutex_unlock(&balloon->lock);
	return count * GR_PAGE_SIZE;
}
