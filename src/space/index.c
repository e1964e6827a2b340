/* SPDX-License-Identifier: MIT */
/*
 * The index of a view: a word for each granule, so that a lookup reads one word and adds.
 *
 * A word is filled only where one range's visible part covers the whole granule, at a host address
 * of its own; all else is GR__WORD_NONE and asks the ranges. Words are computed from the finished
 * ranges, for the touched addresses only; the rest is copied (flat) or shared (leaves) from the
 * view before.
 *
 * Cost of a change: flat, a copy of at most 256 KiB (8 bytes a granule up to the highest range);
 * else a copy of the slots (8 bytes a GiB) and of the leaves it touches (4 KiB a GiB), one leaf for
 * all the GiBs that a range covers whole.
 */
#include "os/alloc.h"
#include "ram/reclaim.h"
#include "space/builder.h"
#include <errno.h>
#include <string.h>
#include <urcu/compiler.h>

#define SLOT_GRANULES_SHIFT (GR__SLOT_SHIFT - GR_GRANULE_SHIFT)

static uint64_t *word_at(uintptr_t biased, uint64_t granule)
{
	return (uint64_t *)(biased + granule * sizeof(uint64_t));
}

static void clear_words(uint64_t *words, uint64_t count)
{
	uint64_t i;

	for (i = 0; i < count; i++)
		words[i] = GR__WORD_NONE;
}

/* The granules whose word a range is: its visible part covers them whole. false: there are none. */
static bool whole_granules(uint64_t first, const struct gr__range *range, uint64_t *low,
			   uint64_t *high)
{
	uint64_t mask = GR_GRANULE - 1, last;

	if (range->visible < GR_GRANULE || range->foreign)
		return false;
	last = first + (range->visible - 1);
	*low = (first >> GR_GRANULE_SHIFT) + ((first & mask) != 0);
	*high = last >> GR_GRANULE_SHIFT;
	if ((last & mask) != mask) {
		if (!*high)
			return false;
		--*high;
	}
	return *low <= *high;
}

/* Words of the granules [low, high] from the ranges. @biased as in struct gr_view. */
static void fill_words(const struct gr__builder *builder, uintptr_t biased, uint64_t low,
		       uint64_t high)
{
	struct gr__place place;
	bool more;

	clear_words(word_at(biased, low), high - low + 1);
	more = gr__builder_seek(builder, low << GR_GRANULE_SHIFT, &place);
	for (; more && place.chunk < builder->count; place.chunk++, place.index = 0) {
		const struct gr__chunk *chunk = builder->chunks[place.chunk];

		for (; place.index < chunk->count; place.index++) {
			const struct gr__range *range = &chunk->ranges[place.index];
			uint64_t first = chunk->firsts[place.index], from, to, granule;

			if (first >> GR_GRANULE_SHIFT > high)
				return;
			if (!whole_granules(first, range, &from, &to))
				continue;
			if (from < low)
				from = low;
			if (to > high)
				to = high;
			for (granule = from; granule <= to; granule++)
				*word_at(biased, granule) = gr__word_of(range);
		}
	}
}

/* ---------------------------------------------------------------------------------- flat */

static void fill_flat(struct gr__builder *builder, uint64_t low, uint64_t high)
{
	struct gr__view *view = builder->view;

	if (high >= view->read.flat_count)
		high = view->read.flat_count - 1;
	if (low <= high)
		fill_words(builder, (uintptr_t)gr__view_words(view), low, high);
}

static void build_flat(struct gr__builder *builder)
{
	struct gr__view *view = builder->view;
	const struct gr_view *base = &builder->base->read;
	uint64_t count = view->read.flat_count;
	uint64_t kept = count < base->flat_count ? count : base->flat_count;
	size_t i;

	if (builder->base->ranges && !base->flat_count) { /* it had slots */
		fill_flat(builder, 0, count - 1);
		return;
	}
	memcpy(gr__view_words(view), base + 1, kept * sizeof(uint64_t));
	clear_words(gr__view_words(view) + kept, count - kept);
	for (i = 0; i < builder->touched_count; i++)
		fill_flat(builder, builder->touched[i].first >> GR_GRANULE_SHIFT,
			  builder->touched[i].last >> GR_GRANULE_SHIFT);
}

/* --------------------------------------------------------------------------------- slots */

static void free_leaf_garbage(struct gr__garbage *garbage)
{
	gr__free(caa_container_of(garbage, struct gr__leaf, garbage));
}

static struct gr__leaf *new_leaf(struct gr__builder *builder)
{
	struct gr__leaf *leaf = gr__alloc_aligned(64, sizeof(*leaf));

	if (!leaf)
		return NULL;
	leaf->garbage = (struct gr__garbage){.free = free_leaf_garbage, .bytes = sizeof(*leaf)};
	leaf->builder = builder;
	leaf->uniform = GR__WORD_NONE;
	leaf->fresh = builder->fresh;
	builder->fresh = leaf;
	return leaf;
}

/* The leaf whose every word is @word: the one in a neighbouring slot, or a new one. */
static const uint64_t *uniform_words(struct gr__builder *builder, uint64_t slot, uint64_t word)
{
	const uint64_t **slots = gr__view_slots(builder->view);
	struct gr__leaf *leaf;
	unsigned i;

	if (slots[slot] != gr__empty_words && gr__leaf_of(slots[slot])->uniform == word)
		return slots[slot];
	if (slot && slots[slot - 1] != gr__empty_words &&
	    gr__leaf_of(slots[slot - 1])->uniform == word)
		return slots[slot - 1];
	leaf = new_leaf(builder);
	if (!leaf)
		return NULL;
	for (i = 0; i < GR__LEAF_WORDS; i++)
		leaf->words[i] = word;
	leaf->uniform = word;
	return leaf->words;
}

/* Make the words of granules [low, high], all of slot number @number, right. */
static int build_slot(struct gr__builder *builder, uint64_t number, uint64_t low, uint64_t high)
{
	uint64_t slot = number - builder->view->read.slot_first;
	const uint64_t **slots = gr__view_slots(builder->view);
	uint64_t slot_low = number << SLOT_GRANULES_SHIFT;
	uint64_t slot_high = slot_low + GR__LEAF_WORDS - 1;
	uint64_t addr = number << GR__SLOT_SHIFT;
	struct gr__place place;
	struct gr__leaf *leaf;

	if (!gr__builder_seek(builder, addr, &place) ||
	    builder->chunks[place.chunk]->firsts[place.index] >> GR__SLOT_SHIFT > number) {
		slots[slot] = gr__empty_words;
		return 0;
	} else {
		const struct gr__chunk *chunk = builder->chunks[place.chunk];
		const struct gr__range *range = &chunk->ranges[place.index];
		uint64_t from, to;

		if (range->foreign && chunk->firsts[place.index] <= addr &&
		    range->last >= addr + (UINT64_C(1) << GR__SLOT_SHIFT) - 1) {
			slots[slot] = gr__empty_words;
			return 0;
		}
		if (whole_granules(chunk->firsts[place.index], range, &from, &to) &&
		    from <= slot_low && slot_high <= to) {
			const uint64_t *words = uniform_words(builder, slot, gr__word_of(range));

			if (!words)
				return -ENOMEM;
			slots[slot] = words;
			return 0;
		}
	}
	leaf = slots[slot] == gr__empty_words ? NULL : gr__leaf_of(slots[slot]);
	/* one of ours that is not uniform stands in this slot only */
	if (!leaf || leaf->builder != builder || leaf->uniform != GR__WORD_NONE) {
		leaf = new_leaf(builder);
		if (!leaf)
			return -ENOMEM;
		memcpy(leaf->words, slots[slot], sizeof(leaf->words));
		slots[slot] = leaf->words;
	}
	fill_words(builder, (uintptr_t)leaf->words - slot_low * sizeof(uint64_t), low, high);
	return 0;
}

static int build_touched_slots(struct gr__builder *builder, uint64_t first, uint64_t last)
{
	const struct gr_view *read = &builder->view->read;
	uint64_t number = first >> GR__SLOT_SHIFT, end = last >> GR__SLOT_SHIFT;
	int rc = 0;

	if (number < read->slot_first)
		number = read->slot_first;
	if (end > read->slot_first + read->slot_count - 1)
		end = read->slot_first + read->slot_count - 1;
	for (; number <= end && !rc; number++) {
		uint64_t low = number << SLOT_GRANULES_SHIFT;
		uint64_t high = low + GR__LEAF_WORDS - 1;

		if (low < first >> GR_GRANULE_SHIFT)
			low = first >> GR_GRANULE_SHIFT;
		if (high > last >> GR_GRANULE_SHIFT)
			high = last >> GR_GRANULE_SHIFT;
		rc = build_slot(builder, number, low, high);
	}
	return rc;
}

static int build_slots(struct gr__builder *builder)
{
	const struct gr_view *read = &builder->view->read, *base = &builder->base->read;
	const uint64_t **slots = gr__view_slots(builder->view);
	uint64_t i;
	size_t k;
	bool moved;
	int rc = 0;

	for (i = 0; i < read->slot_count; i++) {
		uint64_t in_base = read->slot_first + i - base->slot_first;

		slots[i] = in_base < base->slot_count ? gr__view_slots(builder->base)[in_base]
						      : gr__empty_words;
	}
	/* The base lacks words of ranges it had when it was flat, or when some lay above its last
	 * slot. */
	moved = base->slot_first != read->slot_first || base->slot_count != read->slot_count;
	if (moved && (!base->slot_count || base->slot_count == GR__SLOTS_MAX))
		return build_touched_slots(builder, 0, UINT64_MAX);
	for (k = 0; k < builder->touched_count && !rc; k++)
		rc = build_touched_slots(builder, builder->touched[k].first,
					 builder->touched[k].last);
	return rc;
}

struct gr_view gr__index_shape(const struct gr__builder *builder)
{
	struct gr_view shape = {0};
	const struct gr__chunk *chunk;
	uint64_t lowest, highest;

	if (!builder->count)
		return shape;
	chunk = builder->chunks[builder->count - 1];
	lowest = builder->chunks[0]->firsts[0];
	highest = chunk->ranges[chunk->count - 1].last;
	if (highest >> GR_GRANULE_SHIFT < GR__FLAT_MAX) {
		shape.flat_count = (highest >> GR_GRANULE_SHIFT) + 1;
		return shape;
	}
	shape.slot_first = lowest >> GR__SLOT_SHIFT;
	shape.slot_count = (highest >> GR__SLOT_SHIFT) - shape.slot_first + 1;
	if (shape.slot_count > GR__SLOTS_MAX)
		shape.slot_count = GR__SLOTS_MAX;
	return shape;
}

int gr__index_build(struct gr__builder *builder)
{
	if (builder->view->read.slot_count)
		return build_slots(builder);
	if (builder->view->read.flat_count)
		build_flat(builder);
	return 0;
}

/* ------------------------------------------------------------------------------- publish */

static const uint64_t *words_in(const struct gr__view *view, uint64_t number)
{
	uint64_t slot = number - view->read.slot_first;

	return slot < view->read.slot_count ? gr__view_slots(view)[slot] : gr__empty_words;
}

static void count_in(struct gr__space *space, const uint64_t *words)
{
	if (words == gr__empty_words)
		return;
	if (!gr__leaf_of(words)->slots++)
		space->leaves++;
}

static void count_out(struct gr__space *space, const uint64_t *words)
{
	if (words == gr__empty_words || --gr__leaf_of(words)->slots)
		return;
	space->leaves--;
	gr__retire(space->ram, &gr__leaf_of(words)->garbage);
}

void gr__index_publish(struct gr__builder *builder)
{
	struct gr__space *space = builder->space;
	const struct gr__view *base = builder->base, *view = builder->view;
	uint64_t bytes, i;

	/* First all that come: a leaf that only moves must not be retired in between. */
	for (i = 0; i < view->read.slot_count; i++)
		if (words_in(base, view->read.slot_first + i) != gr__view_slots(view)[i])
			count_in(space, gr__view_slots(view)[i]);
	for (i = 0; i < base->read.slot_count; i++)
		if (words_in(view, base->read.slot_first + i) != gr__view_slots(base)[i])
			count_out(space, gr__view_slots(base)[i]);
	/* Those that were made and then not needed were never seen. */
	while (builder->fresh) {
		struct gr__leaf *leaf = builder->fresh;

		builder->fresh = leaf->fresh;
		leaf->builder = NULL;
		if (!leaf->slots)
			gr__free(leaf);
	}
	bytes = (view->read.flat_count + view->read.slot_count) * sizeof(uint64_t) +
		space->leaves * sizeof(struct gr__leaf);
	space->ram->index_bytes += bytes - space->index_bytes;
	space->index_bytes = bytes;
}
