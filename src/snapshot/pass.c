/* SPDX-License-Identifier: MIT */
/*
 * Pages out of memory: each is looked at once, copied if it is not zero, and what was copied is
 * hashed, packed and written from there, while it is in the processor's cache. Guests may write
 * meanwhile; what they write is dirty then, and comes again.
 *
 * In the order of memory there are: holes, which are known from the page tables and files and not
 * read; zeroes, which are read; and content.
 */
#include "base/error.h"
#include "base/range.h"
#include "base/zero.h"
#include "os/alloc.h"
#include "ram/ram.h"
#include "snapshot/save.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 4 /* chunks that are taken together */
#define PROGRESS_BYTES (UINT64_C(16) << 20)
#define SLAB (UINT64_C(4) << 20)
/* Only what was discarded, or has grown, is dirty in such runs. */
#define SOON_RUN (UINT64_C(32) << 20)

/* ---------------------------------------------------------------------------------------- feed */

/* Have [at, end) of the current block; false: it has no more. Lock held. */
static bool next_run(struct gr__save *save)
{
	struct gr__feed *feed = &save->feed;
	uint64_t used = save->holds.items[feed->block].used, offset, length;

	if (feed->at < feed->end)
		return true;
	if (feed->over)
		return false;
	if (!feed->harvests) {
		feed->over = true;
		feed->at = 0;
		feed->end = used;
		return true;
	}
	while (gr_harvest_next(feed->harvests[feed->block], &offset, &length)) {
		if (offset >= used)
			continue;
		feed->at = offset;
		feed->end = length < used - offset ? offset + length : used;
		return true;
	}
	feed->over = true;
	return false;
}

/* The chunk at the feed, whole or what was harvested of it. Lock held; there is a run. */
static void cut_piece(struct gr__save *save, struct gr__piece *piece)
{
	struct gr__feed *feed = &save->feed;

	*piece = (struct gr__piece){.block = feed->block, .number = feed->at / WIRE_CHUNK};
	do {
		uint64_t in = feed->at % WIRE_CHUNK, part = WIRE_CHUNK - in;

		if (part > feed->end - feed->at)
			part = feed->end - feed->at;
		piece->here |=
			gr__chunk_bits((unsigned)(in / WIRE_PAGE), (unsigned)(part / WIRE_PAGE));
		feed->at += part;
	} while (next_run(save) && feed->at / WIRE_CHUNK == piece->number);
}

/* False: there are no more. Lock held. */
static bool next_piece(struct gr__save *save, struct gr__piece *piece)
{
	struct gr__feed *feed = &save->feed;
	uint64_t next = 0, before;
	bool ask;

	for (; feed->block < save->holds.count; feed->block++) {
		struct gr__held *held = &save->holds.items[feed->block];

		while (next_run(save)) {
			cut_piece(save, piece);
			save->stats.bytes_done +=
				(uint64_t)__builtin_popcountll(piece->here) * WIRE_PAGE;
			ask = !feed->soon || feed->end - feed->at >= SOON_RUN;
			piece->may = ask ? gr__held_may(held, piece->number, &next) : piece->here;
			piece->by_file =
				held->by_file || (!ask && gr__held_reads_file(held, piece->number));
			if (piece->may || !feed->skip)
				return true;
			before = feed->at;
			if (feed->at < feed->end && next > feed->at / WIRE_CHUNK)
				feed->at = next * WIRE_CHUNK < feed->end ? next * WIRE_CHUNK
									 : feed->end;
			save->stats.bytes_done += feed->at - before;
		}
		feed->at = feed->end = 0;
		feed->over = false;
	}
	return false;
}

static void feed_begin(struct gr__save *save, struct gr_harvest **harvests, bool skip, bool soon)
{
	save->feed = (struct gr__feed){.harvests = harvests, .skip = skip, .soon = soon};
	gr__holds_forget(&save->holds);
}

/* --------------------------------------------------------------------------------------- pages */

static int read_run(const struct gr__held *held, uint64_t number, unsigned first, unsigned count,
		    char *to)
{
	uint64_t offset = number * WIRE_CHUNK + first * (uint64_t)WIRE_PAGE;
	int rc = gr__pages_read(held->pages, offset, to, count * (uint64_t)WIRE_PAGE);

	return rc < 0 ? gr__fail(rc, "snapshot: block %s at %#llx: its file: %s", held->block->name,
				 (unsigned long long)offset, strerrordesc_np(-rc))
		      : 0;
}

/* Those of @want that are not zero: which, in *data, and their bytes one after the other. */
static int take_pages(const struct gr__save *save, const struct gr__piece *piece, uint64_t want,
		      uint64_t *data, char *bytes)
{
	const struct gr__held *held = &save->holds.items[piece->block];
	const char *chunk = held->host + piece->number * WIRE_CHUNK;
	unsigned first, count, page;
	int rc;

	*data = 0;
	while (gr__chunk_run(&want, &first, &count)) {
		char *at = bytes;

		if (piece->by_file) {
			rc = read_run(held, piece->number, first, count, bytes);
			if (rc < 0)
				return rc;
		}
		for (page = first; page < first + count; page++) {
			const char *from = piece->by_file ? at : chunk + page * (uint64_t)WIRE_PAGE;

			at += WIRE_PAGE;
			if (gr__is_zero(from, WIRE_PAGE))
				continue;
			if (piece->by_file)
				memmove(bytes, from, WIRE_PAGE);
			else
				gr__copy_guest(bytes, from, WIRE_PAGE);
			bytes += WIRE_PAGE;
			*data |= UINT64_C(1) << page;
		}
	}
	return 0;
}

static int put_piece(struct gr__save *save, struct gr__packer *packer, unsigned block,
		     uint64_t number, uint64_t here, uint64_t data, char *bytes)
{
	const struct wire_entry *old = gr__writer_entry(&save->writer, block, number);
	int rc = 0;

	if (save->opts->parent)
		rc = gr__drop_same(save->opts->parent, save->there[block], number, packer, &here,
				   &data, bytes);
	/* a chunk of zeroes that was never told of need not be, where there is no parent */
	if (rc < 0 || (!old && (save->child ? !here : !data)))
		return rc;
	rc = gr__writer_put(&save->writer, packer, block, number, here, data, bytes);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&save->lock);
	save->stats.bytes_data += (uint64_t)__builtin_popcountll(data) * WIRE_PAGE;
	save->stats.bytes_zero += (uint64_t)__builtin_popcountll(here & ~data) * WIRE_PAGE;
	pthread_mutex_unlock(&save->lock);
	return 0;
}

static int save_piece(struct gr__save *save, struct gr__packer *packer, struct gr__piece *piece)
{
	const struct wire_entry *old = gr__writer_entry(&save->writer, piece->block, piece->number);
	uint64_t data;
	int rc;

	if (old) /* again, and all that was told: memory is as new as that or newer */
		piece->here |= old->here;
	rc = take_pages(save, piece, piece->here & piece->may, &data, packer->pages);
	return rc ? rc
		  : put_piece(save, packer, piece->block, piece->number, piece->here, data,
			      packer->pages);
}

/* ---------------------------------------------------------------------------------------- pass */

static int progress(struct gr__save *save)
{
	struct gr_snapshot_stats stats;
	bool tell;
	int stop;

	pthread_mutex_lock(&save->lock);
	stats = save->stats;
	tell = stats.bytes_done - save->told >= PROGRESS_BYTES;
	if (tell)
		save->told = stats.bytes_done;
	pthread_mutex_unlock(&save->lock);
	if (!tell || !save->ops.progress)
		return 0;
	gr__callback_begin();
	stop = save->ops.progress(save->opts->context, &stats);
	gr__callback_end();
	return stop ? gr__fail(-ECANCELED, "snapshot: cancelled") : 0;
}

static int work(void *context, unsigned thread)
{
	struct gr__save *save = context;
	struct gr__piece pieces[BATCH];
	unsigned count, i;
	int rc = 0;

	do {
		pthread_mutex_lock(&save->lock);
		for (count = 0; count < BATCH && next_piece(save, &pieces[count]); count++)
			;
		pthread_mutex_unlock(&save->lock);
		for (i = 0; i < count && !rc; i++)
			rc = save_piece(save, &save->packers[thread], &pieces[i]);
		if (!rc && !thread)
			rc = progress(save);
	} while (count && !rc && !gr__crew_failed(&save->crew));
	return rc;
}

int gr__save_pass(struct gr__save *save, struct gr_harvest **harvests, bool first)
{
	feed_begin(save, harvests, first && !save->child, false);
	return gr__crew_run(&save->crew, work, save);
}

/* ---------------------------------------------------------------------------------------- late */

int gr__save_make_slab(struct gr__save *save, uint64_t bytes)
{
	struct gr__slab *slab = gr__alloc(sizeof(*slab));

	if (!slab)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	slab->size = bytes;
	slab->bytes = gr__alloc_aligned(WIRE_PAGE, bytes); /* which touches it */
	if (!slab->bytes) {
		gr__free(slab);
		return gr__fail(-ENOMEM, "snapshot: no memory for %llu bytes that changed",
				(unsigned long long)bytes);
	}
	slab->older = save->slabs;
	save->slabs = slab;
	return 0;
}

static struct gr__late *new_late(struct gr__save *save)
{
	struct gr__late *late;
	uint64_t room;

	if (save->late_count == save->late_room) {
		room = save->late_room ? save->late_room * 2 : 1024;
		late = gr__alloc_array(room, sizeof(*late));
		if (!late)
			return NULL;
		if (save->late_count)
			memcpy(late, save->late, save->late_count * sizeof(*late));
		gr__free(save->late);
		save->late = late;
		save->late_room = room;
	}
	return &save->late[save->late_count++];
}

/* Alone: nobody else uses the feed. */
int gr__save_take_late(struct gr__save *save, struct gr_harvest **harvests)
{
	struct gr__piece piece;
	struct gr__late *late;
	uint64_t bytes;
	int rc = 0;

	feed_begin(save, harvests, false, true);
	while (!rc && next_piece(save, &piece)) {
		late = new_late(save);
		if (!late)
			return gr__fail(-ENOMEM, "snapshot: no memory");
		bytes = (uint64_t)__builtin_popcountll(piece.here & piece.may) * WIRE_PAGE;
		if (!save->slabs || save->slabs->size - save->slabs->used < bytes)
			rc = gr__save_make_slab(save, SLAB);
		if (rc)
			return rc;
		*late = (struct gr__late){
			.piece = piece,
			.sequence = save->late_count,
			.bytes = save->slabs->bytes + save->slabs->used,
		};
		rc = take_pages(save, &piece, piece.here & piece.may, &late->data, late->bytes);
		save->slabs->used += (uint64_t)__builtin_popcountll(late->data) * WIRE_PAGE;
		save->late_bytes += (uint64_t)__builtin_popcountll(piece.here) * WIRE_PAGE;
	}
	return rc;
}

static int by_chunk(const void *a, const void *b)
{
	const struct gr__late *one = a, *two = b;

	if (one->piece.block != two->piece.block)
		return one->piece.block < two->piece.block ? -1 : 1;
	if (one->piece.number != two->piece.number)
		return one->piece.number < two->piece.number ? -1 : 1;
	return one->sequence < two->sequence ? -1 : 1;
}

/* Where the newest bytes of each page are; NULL: it is zero. Which pages, in *here. */
static void find_newest(const struct gr__late *late, uint64_t count, uint64_t *here,
			const char *from[WIRE_CHUNK_PAGES])
{
	unsigned page;
	uint64_t i;

	for (*here = 0, i = 0; i < count; i++) {
		const char *bytes = late[i].bytes;

		*here |= late[i].piece.here;
		for (page = 0; page < WIRE_CHUNK_PAGES; page++) {
			uint64_t bit = UINT64_C(1) << page;

			if (late[i].piece.here & bit)
				from[page] = late[i].data & bit ? bytes : NULL;
			bytes += late[i].data & bit ? WIRE_PAGE : 0;
		}
	}
}

/* What was taken of one chunk, @count times, over what the file has of it. */
static int merge_late(struct gr__save *save, struct gr__packer *packer, const struct gr__late *late,
		      uint64_t count)
{
	const struct gr__piece *piece = &late->piece;
	const struct wire_entry *old = gr__writer_entry(&save->writer, piece->block, piece->number);
	const char *from[WIRE_CHUNK_PAGES] = {0};
	uint64_t here, keep, data;
	unsigned page;
	char *to = packer->pages;
	int rc = 0;

	find_newest(late, count, &here, from);
	data = keep = old ? old->data & ~here : 0;
	if (keep) /* to their places there, and then together */
		rc = gr__writer_read(&save->writer, packer, old, keep, packer->compare);
	if (rc < 0)
		return rc;
	for (page = 0; page < WIRE_CHUNK_PAGES; page++) {
		if (keep >> page & 1)
			from[page] = packer->compare + page * (uint64_t)WIRE_PAGE;
		if (!from[page])
			continue;
		memcpy(to, from[page], WIRE_PAGE);
		to += WIRE_PAGE;
		data |= UINT64_C(1) << page;
	}
	return put_piece(save, packer, piece->block, piece->number, here | (old ? old->here : 0),
			 data, packer->pages);
}

/* All of one chunk; NULL: there are no more. Lock held. */
static const struct gr__late *next_late(struct gr__save *save, uint64_t *count)
{
	const struct gr__late *first = &save->late[save->late_next];
	uint64_t left = save->late_count - save->late_next;

	for (*count = 0; *count < left; ++*count)
		if (first[*count].piece.block != first->piece.block ||
		    first[*count].piece.number != first->piece.number)
			break;
	save->late_next += *count;
	return *count ? first : NULL;
}

static int work_late(void *context, unsigned thread)
{
	struct gr__save *save = context;
	const struct gr__late *late;
	uint64_t count;
	int rc = 0;

	do {
		pthread_mutex_lock(&save->lock);
		late = next_late(save, &count);
		pthread_mutex_unlock(&save->lock);
		if (late)
			rc = merge_late(save, &save->packers[thread], late, count);
	} while (late && !rc && !gr__crew_failed(&save->crew));
	return rc;
}

int gr__save_put_late(struct gr__save *save)
{
	if (!save->late_count)
		return 0;
	qsort(save->late, save->late_count, sizeof(*save->late), by_chunk);
	return gr__crew_run(&save->crew, work_late, save);
}
