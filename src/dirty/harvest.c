/* SPDX-License-Identifier: MIT */
/*
 * Collecting and harvesting. The words of a harvest have the numbering of the client's, from the
 * word on that its first bit is in. Threads and locks in dirty.h.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/range.h"
#include "dirty/dirty.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include <errno.h>

struct gr_harvest {
	struct gr_dirty *client;
	const struct gr_block *block; /* to be compared only: it may be gone */
	uint64_t id;		      /* of the tracked block */
	uint64_t first_word;	      /* of the client's */
	uint64_t words_count;
	uint64_t length; /* of the block then */
	uint64_t at;	 /* next bit of gr_harvest_next(), from the first of words[] on */
	uint64_t words[];
};

/* ----------------------------------------------------------------------------------- collect */

struct collector {
	const struct gr__dirty_state *state;
	struct gr__tracked *tracked;
	uint64_t first; /* unit of the log that the part begins with, from the block's start */
	unsigned shift; /* of the log */
};

/* Bits of the log, at @unit, into one client's. */
static void put_bits(struct gr__bits *bits, uint64_t unit, uint64_t log_bits, unsigned log_shift)
{
	unsigned by = bits->client->shift - log_shift, in = unit & 63;
	uint64_t *word = &bits->words[unit >> 6];

	if (!by) {
		word[0] |= log_bits << in;
		if (in && log_bits >> (64 - in))
			word[1] |= log_bits >> (64 - in);
		return;
	}
	while (log_bits) {
		unsigned low = __builtin_ctzll(log_bits);
		uint64_t bit = (unit + low) >> by;
		/* all units of the log that are this bit need no further look */
		uint64_t next = ((bit + 1) << by) - unit;

		bits->words[bit >> 6] |= UINT64_C(1) << (bit & 63);
		log_bits = next < 64 ? log_bits & (~UINT64_C(0) << next) : 0;
	}
}

/* Tell sources, by runs, which pages the log had. */
static void tell_noted(const struct collector *collector, uint64_t unit, uint64_t log_bits)
{
	struct gr_dirty_source *source;
	unsigned low, count;

	cds_list_for_each_entry (source, &collector->state->sources, node) {
		uint64_t left = log_bits;

		for (; source->ops->noted && left;
		     left &= ~(((UINT64_C(2) << (count - 1)) - 1) << low)) {
			low = __builtin_ctzll(left);
			count = ~(left >> low) ? __builtin_ctzll(~(left >> low)) : 64;
			source->ops->noted(source->context, collector->tracked->block,
					   (unit + low) << GR__MARK_SHIFT,
					   (uint64_t)count << GR__MARK_SHIFT);
		}
	}
}

static void collect_word(void *context, uint64_t unit, uint64_t log_bits)
{
	const struct collector *collector = context;
	bool fine = collector->shift != GR__MARK_SHIFT;
	struct gr__bits *bits;

	unit += collector->first;
	cds_list_for_each_entry (bits, &collector->tracked->bits, node)
		if (bits->client->fine == fine)
			put_bits(bits, unit, log_bits, collector->shift);
	if (!fine) /* what is in the fine log is in the other one too */
		tell_noted(collector, unit, log_bits);
}

void gr_dirty_report(struct gr_dirty_sink *sink, uint64_t offset, uint64_t length)
{
	struct gr__bits *bits;

	cds_list_for_each_entry (bits, &sink->tracked->bits, node)
		gr__bits_set(bits, offset, length);
}

int gr__dirty_collect(struct gr__dirty_state *state, struct gr__tracked *tracked, uint64_t offset,
		      uint64_t length)
{
	struct collector collector = {.state = state, .tracked = tracked};
	struct gr_dirty_sink sink = {tracked};
	uint64_t page = UINT64_C(1) << GR__MARK_SHIFT, first = gr__align_down(offset, page), end;
	struct gr_block *block = tracked->block;
	struct gr_dirty_source *source;
	unsigned shift;
	int rc;

	if (!gr__align_up(offset + length, page, &end)) /* max_length is a multiple of it */
		return gr__fail(-ERANGE, "dirty: block %s is too long", block->name);
	for (shift = GR__MARK_FINE_SHIFT; shift <= GR__MARK_SHIFT;
	     shift += GR__MARK_SHIFT - GR__MARK_FINE_SHIFT) {
		collector.shift = shift;
		collector.first = first >> shift;
		gr__marks_take(shift, block, first, end - first, collect_word, &collector);
	}
	cds_list_for_each_entry (source, &state->sources, node) {
		rc = source->ops->collect(source->context, block, first, end - first, &sink);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* ----------------------------------------------------------------------------------- harvest */

static int check_part(const struct gr_dirty *client, const struct gr_block *block, uint64_t offset,
		      uint64_t *length)
{
	uint64_t granularity = UINT64_C(1) << client->shift, whole = gr__block_length(block);

	if (!gr__is_aligned(offset, granularity))
		return gr__fail(-EINVAL, "harvest: offset %#llx is no multiple of %#llx",
				(unsigned long long)offset, (unsigned long long)granularity);
	if (offset >= block->mem.max_length)
		return gr__fail(-ERANGE, "harvest: offset %#llx is past block %s",
				(unsigned long long)offset, block->name);
	if (!*length)
		*length = block->mem.max_length - offset;
	if (!gr__range_within(offset, *length, block->mem.max_length))
		return gr__fail(-ERANGE, "harvest: %#llx bytes at %#llx leave block %s",
				(unsigned long long)*length, (unsigned long long)offset,
				block->name);
	if (!gr__is_aligned(*length, granularity) && offset + *length != whole &&
	    offset + *length != block->mem.max_length)
		return gr__fail(-EINVAL, "harvest: length %#llx is no multiple of %#llx",
				(unsigned long long)*length, (unsigned long long)granularity);
	/* what is not used now has no content */
	if (offset + *length > whole)
		*length = whole > offset ? whole - offset : 0;
	return 0;
}

static struct gr_harvest *new_harvest(struct gr_dirty *client, const struct gr__tracked *tracked,
				      uint64_t offset, uint64_t length)
{
	uint64_t first = offset >> client->shift;
	uint64_t last = length ? (offset + (length - 1)) >> client->shift : first;
	uint64_t count = (last >> 6) - (first >> 6) + 1;
	struct gr_harvest *harvest;

	harvest = gr__alloc(sizeof(*harvest) + count * sizeof(uint64_t));
	if (!harvest)
		return NULL;
	harvest->client = client;
	harvest->block = tracked->block;
	harvest->id = tracked->id;
	harvest->first_word = first >> 6;
	harvest->words_count = length ? count : 0;
	harvest->length = offset + length;
	return harvest;
}

/* Move the bits of the part out of the client's. Lock held. */
static void take_bits(struct gr_harvest *harvest, struct gr__bits *bits, uint64_t first,
		      uint64_t last)
{
	uint64_t i;

	for (i = 0; i < harvest->words_count; i++) {
		uint64_t *word = &bits->words[harvest->first_word + i];

		if (!*word)
			continue; /* and leave the harvest's own untouched: it has no page yet */
		harvest->words[i] = *word & gr__bits_mask(harvest->first_word + i, first, last);
		*word &= ~harvest->words[i];
	}
}

int gr_dirty_harvest(struct gr_dirty *client, struct gr_block *block, uint64_t offset,
		     uint64_t length, struct gr_harvest **result)
{
	struct gr__dirty_state *state = client->state;
	struct gr__tracked *tracked;
	struct gr_harvest *harvest;
	int rc = gr__ram_check(state->ram, "harvest");

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&state->lock);
	tracked = gr__tracked_find(state, block);
	rc = tracked ? check_part(client, block, offset, &length)
		     : gr__fail(-ENOENT, "harvest: no live block of the client's RAM");
	if (rc < 0)
		goto unlock;
	/* before anything is cleared */
	harvest = new_harvest(client, tracked, offset, length);
	if (!harvest) {
		rc = gr__fail(-ENOMEM, "harvest: no memory");
		goto unlock;
	}
	if (length)
		rc = gr__dirty_collect(state, tracked, offset, length);
	if (rc < 0) {
		gr__free(harvest);
		goto unlock;
	}
	if (length)
		take_bits(harvest, gr__bits_find(tracked, client), offset >> client->shift,
			  (offset + (length - 1)) >> client->shift);
	client->harvests++;
	*result = harvest;
unlock:
	pthread_mutex_unlock(&state->lock);
	if (!rc)
		gr__marks_settle(); /* cleared, and now to be read */
	return rc;
}

int gr_harvest_next(struct gr_harvest *harvest, uint64_t *offset, uint64_t *length)
{
	uint64_t end = harvest->words_count * 64;
	unsigned shift = harvest->client->shift;
	uint64_t first = gr__bits_next(harvest->words, harvest->at, end, true);

	if (first == end) {
		harvest->at = 0;
		return 0;
	}
	harvest->at = gr__bits_next(harvest->words, first, end, false);
	*offset = (harvest->first_word * 64 + first) << shift;
	*length = (harvest->at - first) << shift;
	if (*length > harvest->length - *offset)
		*length = harvest->length - *offset;
	return 1;
}

/* Bytes of some words, the last granule being cut at @length. */
static uint64_t count_bytes(const uint64_t *words, uint64_t first_word, uint64_t count,
			    unsigned shift, uint64_t length)
{
	uint64_t bits = 0, part = length & ((UINT64_C(1) << shift) - 1), last = length >> shift, i;

	for (i = 0; i < count; i++)
		bits += __builtin_popcountll(words[i]);
	if (part && last >> 6 >= first_word && (last >> 6) - first_word < count &&
	    words[(last >> 6) - first_word] >> (last & 63) & 1)
		return ((bits - 1) << shift) + part;
	return bits << shift;
}

uint64_t gr_harvest_bytes(const struct gr_harvest *harvest)
{
	return count_bytes(harvest->words, harvest->first_word, harvest->words_count,
			   harvest->client->shift, harvest->length);
}

static void end_harvest(struct gr_harvest *harvest, bool give_back)
{
	struct gr__dirty_state *state = harvest->client->state;
	struct gr__tracked *tracked;
	uint64_t i;

	pthread_mutex_lock(&state->lock);
	tracked = give_back ? gr__tracked_find(state, harvest->block) : NULL;
	if (tracked && tracked->id == harvest->id) {
		struct gr__bits *bits = gr__bits_find(tracked, harvest->client);

		for (i = 0; i < harvest->words_count; i++)
			if (harvest->words[i])
				bits->words[harvest->first_word + i] |= harvest->words[i];
	}
	harvest->client->harvests--;
	pthread_mutex_unlock(&state->lock);
	gr__free(harvest);
}

void gr_harvest_commit(struct gr_harvest *harvest)
{
	if (harvest)
		end_harvest(harvest, false);
}

void gr_harvest_return(struct gr_harvest *harvest)
{
	if (harvest)
		end_harvest(harvest, true);
}

/* ------------------------------------------------------------------------------------- others */

/* Lock held. */
static int count_block(const struct gr_dirty *client, struct gr__tracked *tracked, uint64_t *bytes)
{
	uint64_t length = gr__block_length(tracked->block);
	const struct gr__bits *bits = gr__bits_find(tracked, client);
	uint64_t granules = (length + ((UINT64_C(1) << client->shift) - 1)) >> client->shift;
	uint64_t full = granules / 64, rest = granules % 64, last;
	int rc = gr__dirty_collect(client->state, tracked, 0, length);

	if (rc < 0)
		return rc;
	*bytes += count_bytes(bits->words, 0, full, client->shift, length);
	if (rest) {
		last = bits->words[full] & ((UINT64_C(1) << rest) - 1);
		*bytes += count_bytes(&last, full, 1, client->shift, length);
	}
	return 0;
}

int gr_dirty_bytes(struct gr_dirty *client, struct gr_block *block, uint64_t *bytes)
{
	struct gr__dirty_state *state = client->state;
	struct gr__tracked *tracked;
	uint64_t sum = 0;
	int rc = gr__ram_check(state->ram, "dirty");

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&state->lock);
	if (block && !gr__tracked_find(state, block))
		rc = gr__fail(-ENOENT, "dirty: no live block of the client's RAM");
	cds_list_for_each_entry (tracked, &state->tracked, node) {
		if (rc < 0)
			break;
		if (!block || tracked->block == block)
			rc = count_block(client, tracked, &sum);
	}
	pthread_mutex_unlock(&state->lock);
	if (!rc)
		*bytes = sum;
	return rc;
}

void gr_dirty_mark(struct gr_block *block, uint64_t offset, uint64_t length)
{
	uint64_t whole = block->mem.max_length;

	if (offset >= whole)
		return;
	gr__mark_block(block, offset, length < whole - offset ? length : whole - offset);
}
