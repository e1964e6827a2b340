/* SPDX-License-Identifier: MIT */
#include "space/builder.h"
#include "base/error.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "ram/reclaim.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <urcu/compiler.h>

/* Neighbours with no more ranges than this between them become one chunk after a removal. */
#define MERGE_RANGES (GR__CHUNK_RANGES * 3 / 4)

static int no_memory(const struct gr__builder *builder)
{
	return gr__fail(-ENOMEM, "space %s: no memory for a view", builder->space->name);
}

int gr__builder_begin(struct gr__builder *builder, struct gr__space *space)
{
	memset(builder, 0, sizeof(*builder));
	builder->space = space;
	builder->base = gr__space_current(space);
	builder->count = builder->base->chunk_count;
	builder->room = builder->count + 4;
	builder->chunks = gr__alloc_raw(builder->room * sizeof(struct gr__chunk *));
	if (!builder->chunks)
		return no_memory(builder);
	if (builder->count)
		memcpy(builder->chunks, builder->base->chunks,
		       builder->count * sizeof(struct gr__chunk *));
	return 0;
}

/* ------------------------------------------------------------------------------- touched */

static int touch(struct gr__builder *builder, uint64_t first, uint64_t last)
{
	if (builder->touched_count == builder->touched_room) {
		size_t room = builder->touched_room ? 2 * builder->touched_room : 8;
		struct gr__interval *touched = gr__alloc_raw(room * sizeof(*touched));

		if (!touched)
			return no_memory(builder);
		if (builder->touched_count)
			memcpy(touched, builder->touched,
			       builder->touched_count * sizeof(*touched));
		gr__free(builder->touched);
		builder->touched = touched;
		builder->touched_room = room;
	}
	builder->touched[builder->touched_count++] = (struct gr__interval){first, last};
	return 0;
}

static int compare_intervals(const void *left, const void *right)
{
	const struct gr__interval *a = left, *b = right;

	return a->first < b->first ? -1 : a->first > b->first;
}

static void join_touched(struct gr__builder *builder)
{
	struct gr__interval *touched = builder->touched;
	size_t i, kept = 0;

	if (builder->touched_count < 2)
		return;
	qsort(touched, builder->touched_count, sizeof(*touched), compare_intervals);
	for (i = 1; i < builder->touched_count; i++) {
		if (touched[i].first <= touched[kept].last) {
			if (touched[i].last > touched[kept].last)
				touched[kept].last = touched[i].last;
		} else {
			touched[++kept] = touched[i];
		}
	}
	builder->touched_count = kept + 1;
}

/* -------------------------------------------------------------------------------- chunks */

static void free_chunk_garbage(struct gr__garbage *garbage)
{
	gr__free(caa_container_of(garbage, struct gr__chunk, garbage));
}

static struct gr__chunk *new_chunk(struct gr__builder *builder)
{
	struct gr__chunk *chunk = gr__alloc_raw(sizeof(*chunk));

	if (!chunk)
		return NULL;
	chunk->garbage = (struct gr__garbage){.free = free_chunk_garbage, .bytes = sizeof(*chunk)};
	chunk->builder = builder;
	chunk->dropped = NULL;
	chunk->count = 0;
	return chunk;
}

static void copy_ranges(struct gr__chunk *to, unsigned at, const struct gr__chunk *from,
			unsigned first, unsigned count)
{
	memcpy(&to->firsts[at], &from->firsts[first], count * sizeof(to->firsts[0]));
	memcpy(&to->ranges[at], &from->ranges[first], count * sizeof(to->ranges[0]));
}

/* A chunk leaves the array: ours is freed, one of the base is retired at publish. */
static void drop_chunk(struct gr__builder *builder, struct gr__chunk *chunk)
{
	if (chunk->builder == builder) {
		gr__free(chunk);
	} else {
		chunk->dropped = builder->dropped;
		builder->dropped = chunk;
	}
}

/* Chunk @at as one we may write to, or NULL. */
static struct gr__chunk *own_chunk(struct gr__builder *builder, unsigned at)
{
	struct gr__chunk *old = builder->chunks[at], *chunk;

	if (old->builder == builder)
		return old;
	chunk = new_chunk(builder);
	if (!chunk)
		return NULL;
	copy_ranges(chunk, 0, old, 0, old->count);
	chunk->count = old->count;
	builder->chunks[at] = chunk;
	drop_chunk(builder, old);
	return chunk;
}

/* Room for a new chunk @at. */
static int open_slot(struct gr__builder *builder, unsigned at, struct gr__chunk *chunk)
{
	if (builder->count == builder->room) {
		unsigned room = 2 * builder->room;
		struct gr__chunk **chunks = gr__alloc_raw(room * sizeof(struct gr__chunk *));

		if (!chunks)
			return no_memory(builder);
		memcpy(chunks, builder->chunks, builder->count * sizeof(struct gr__chunk *));
		gr__free(builder->chunks);
		builder->chunks = chunks;
		builder->room = room;
	}
	memmove(&builder->chunks[at + 1], &builder->chunks[at],
		(builder->count - at) * sizeof(struct gr__chunk *));
	builder->chunks[at] = chunk;
	builder->count++;
	return 0;
}

static void close_slot(struct gr__builder *builder, unsigned at)
{
	builder->count--;
	memmove(&builder->chunks[at], &builder->chunks[at + 1],
		(builder->count - at) * sizeof(struct gr__chunk *));
}

/* Split the full chunk @at. When ranges are appended, as a growing table is, it stays full. */
static int split_chunk(struct gr__builder *builder, unsigned at, bool appending)
{
	struct gr__chunk *chunk = builder->chunks[at], *right = new_chunk(builder);
	unsigned keep = appending ? chunk->count : chunk->count / 2;
	int rc;

	if (!right)
		return no_memory(builder);
	rc = open_slot(builder, at + 1, right);
	if (rc < 0) {
		gr__free(right);
		return rc;
	}
	right->count = chunk->count - keep;
	copy_ranges(right, 0, chunk, keep, right->count);
	chunk->count = keep;
	return 0;
}

static int insert_range(struct gr__builder *builder, struct gr__place place, uint64_t first,
			const struct gr__range *range)
{
	struct gr__chunk *chunk;
	unsigned move;
	int rc;

	if (!builder->count) {
		chunk = new_chunk(builder);
		if (!chunk)
			return no_memory(builder);
		builder->chunks[0] = chunk; /* there is room for 4 */
		builder->count = 1;
		place = (struct gr__place){0, 0};
	}
	chunk = own_chunk(builder, place.chunk);
	if (!chunk)
		return no_memory(builder);
	if (chunk->count == GR__CHUNK_RANGES) {
		rc = split_chunk(builder, place.chunk, place.index == chunk->count);
		if (rc < 0)
			return rc;
		if (place.index > chunk->count || chunk->count == GR__CHUNK_RANGES) {
			place.index -= chunk->count;
			chunk = builder->chunks[++place.chunk];
		}
	}
	move = chunk->count - place.index;
	memmove(&chunk->firsts[place.index + 1], &chunk->firsts[place.index],
		move * sizeof(chunk->firsts[0]));
	memmove(&chunk->ranges[place.index + 1], &chunk->ranges[place.index],
		move * sizeof(chunk->ranges[0]));
	chunk->firsts[place.index] = first;
	chunk->ranges[place.index] = *range;
	chunk->count++;
	return 0;
}

/* Put chunk @at + 1 behind chunk @at when both are small. */
static int merge_chunks(struct gr__builder *builder, unsigned at)
{
	struct gr__chunk *chunk, *right;

	if (at + 1 >= builder->count ||
	    builder->chunks[at]->count + builder->chunks[at + 1]->count > MERGE_RANGES)
		return 0;
	chunk = own_chunk(builder, at);
	if (!chunk)
		return no_memory(builder);
	right = builder->chunks[at + 1];
	copy_ranges(chunk, chunk->count, right, 0, right->count);
	chunk->count += right->count;
	close_slot(builder, at + 1);
	drop_chunk(builder, right);
	return 0;
}

static int remove_range(struct gr__builder *builder, struct gr__place place)
{
	struct gr__chunk *chunk = own_chunk(builder, place.chunk);
	unsigned move;
	int rc;

	if (!chunk)
		return no_memory(builder);
	chunk->count--;
	move = chunk->count - place.index;
	memmove(&chunk->firsts[place.index], &chunk->firsts[place.index + 1],
		move * sizeof(chunk->firsts[0]));
	memmove(&chunk->ranges[place.index], &chunk->ranges[place.index + 1],
		move * sizeof(chunk->ranges[0]));
	if (!chunk->count) {
		close_slot(builder, place.chunk);
		drop_chunk(builder, chunk);
		return 0;
	}
	if (chunk->count >= GR__CHUNK_RANGES / 4)
		return 0;
	rc = merge_chunks(builder, place.chunk);
	if (!rc && place.chunk)
		rc = merge_chunks(builder, place.chunk - 1);
	return rc;
}

/* --------------------------------------------------------------------------------- edits */

bool gr__builder_seek(const struct gr__builder *builder, uint64_t addr, struct gr__place *place)
{
	unsigned low = 0, high = builder->count;
	const struct gr__chunk *chunk;
	unsigned index;

	while (low < high) { /* low: how many chunks begin at or below addr */
		unsigned middle = low + (high - low) / 2;

		if (builder->chunks[middle]->firsts[0] <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low) {
		*place = (struct gr__place){0, 0};
		return builder->count;
	}
	chunk = builder->chunks[low - 1];
	index = gr__count_upto(chunk->firsts, chunk->count, addr) - 1;
	if (chunk->ranges[index].last < addr)
		index++;
	/* past the end of its chunk: a place to insert, and the next chunk's first range to read */
	*place = (struct gr__place){low - 1, index};
	if (index < chunk->count)
		return true;
	if (low == builder->count)
		return false;
	*place = (struct gr__place){low, 0};
	return true;
}

static void show(const struct gr__builder *builder, uint64_t first, struct gr__range *range)
{
	uint64_t length = range->last - first + 1;
	uint64_t used =
		range->block == builder->resized ? builder->resized_length : range->block->length;

	if (range->offset >= used)
		range->visible = 0;
	else
		range->visible = length < used - range->offset ? length : used - range->offset;
}

int gr__builder_map(struct gr__builder *builder, uint64_t addr, struct gr_block *block,
		    uint64_t offset, uint64_t length, unsigned access)
{
	uint64_t last = addr + (length - 1); /* checked by the caller */
	struct gr__range range = {
		.last = last,
		.delta = (uintptr_t)block->mem.host + offset - addr,
		.block = block,
		.offset = offset,
		.access = access,
	};
	struct gr__place place;
	int rc;

	if (block->windows) {
		range.foreign = true;
		range.windows = block->windows;
	}
	if (gr__builder_seek(builder, addr, &place)) {
		const struct gr__chunk *chunk = builder->chunks[place.chunk];
		uint64_t first = chunk->firsts[place.index];

		if (first <= last)
			return gr__fail(
				-EEXIST,
				"space %s: [%#llx, %#llx] overlaps [%#llx, %#llx] of block %s",
				builder->space->name, (unsigned long long)addr,
				(unsigned long long)last, (unsigned long long)first,
				(unsigned long long)chunk->ranges[place.index].last,
				chunk->ranges[place.index].block->name);
		/* keep appending to the chunk before rather than in front of a full one */
		if (!place.index && place.chunk) {
			place.chunk--;
			place.index = builder->chunks[place.chunk]->count;
		}
	}
	rc = touch(builder, addr, last);
	if (rc < 0)
		return rc;
	show(builder, addr, &range);
	return insert_range(builder, place, addr, &range);
}

/* Take [first, last] out of the range at @place, which overlaps it. */
static int cut_range(struct gr__builder *builder, struct gr__place place, uint64_t first,
		     uint64_t last)
{
	struct gr__chunk *chunk = builder->chunks[place.chunk];
	uint64_t start = chunk->firsts[place.index];
	struct gr__range whole = chunk->ranges[place.index];
	struct gr__range right = whole;
	int rc;

	rc = touch(builder, start, whole.last);
	if (rc < 0)
		return rc;
	if (first <= start && whole.last <= last)
		return remove_range(builder, place);
	chunk = own_chunk(builder, place.chunk);
	if (!chunk)
		return no_memory(builder);
	if (last < whole.last) { /* the right part stays */
		right.offset = whole.offset + (last + 1 - start);
		show(builder, last + 1, &right);
	}
	if (first <= start) {
		chunk->firsts[place.index] = last + 1;
		chunk->ranges[place.index] = right;
		return 0;
	}
	chunk->ranges[place.index].last = first - 1;
	show(builder, start, &chunk->ranges[place.index]);
	if (whole.last <= last)
		return 0;
	place.index++;
	return insert_range(builder, place, last + 1, &right);
}

int gr__builder_unmap(struct gr__builder *builder, uint64_t first, uint64_t last, bool *found)
{
	struct gr__place place;
	int rc = 0;

	while (!rc && gr__builder_seek(builder, first, &place) &&
	       builder->chunks[place.chunk]->firsts[place.index] <= last) {
		*found = true;
		rc = cut_range(builder, place, first, last);
	}
	return rc;
}

int gr__builder_unmap_block(struct gr__builder *builder, const struct gr_block *block)
{
	uint64_t addr = 0;
	struct gr__place place;
	bool found;
	int rc = 0;

	while (!rc && gr__builder_seek(builder, addr, &place)) {
		const struct gr__chunk *chunk = builder->chunks[place.chunk];
		uint64_t first = chunk->firsts[place.index], last = chunk->ranges[place.index].last;

		if (chunk->ranges[place.index].block == block)
			rc = gr__builder_unmap(builder, first, last, &found);
		if (last == UINT64_MAX)
			break;
		addr = last + 1;
	}
	return rc;
}

int gr__builder_resize(struct gr__builder *builder, const struct gr_block *block, uint64_t length)
{
	unsigned c, i;
	int rc;

	builder->resized = block;
	builder->resized_length = length;
	for (c = 0; c < builder->count; c++) {
		for (i = 0; i < builder->chunks[c]->count; i++) {
			struct gr__chunk *chunk = builder->chunks[c];
			struct gr__range range = chunk->ranges[i];

			if (range.block != block)
				continue;
			show(builder, chunk->firsts[i], &range);
			if (range.visible == chunk->ranges[i].visible)
				continue;
			rc = touch(builder, chunk->firsts[i], range.last);
			if (rc < 0)
				return rc;
			chunk = own_chunk(builder, c);
			if (!chunk)
				return no_memory(builder);
			chunk->ranges[i] = range;
		}
	}
	return 0;
}

/* -------------------------------------------------------------------------------- result */

int gr__builder_finish(struct gr__builder *builder)
{
	struct gr_view shape = gr__index_shape(builder);
	struct gr__view *view = gr__view_new(builder->count, &shape);
	unsigned i;

	if (!view)
		return no_memory(builder);
	builder->view = view;
	for (i = 0; i < builder->count; i++) {
		view->firsts[i] = builder->chunks[i]->firsts[0];
		view->chunks[i] = builder->chunks[i];
		view->ranges += builder->chunks[i]->count;
	}
	join_touched(builder);
	if (gr__index_build(builder) < 0)
		return no_memory(builder);
	return 0;
}

static int count_gone(void *unused, uint64_t first, const struct gr__range *range)
{
	/* relaxed: for gr_block_get_info(); under the lock otherwise */
	__atomic_sub_fetch(&range->block->mapped, 1, __ATOMIC_RELAXED);
	return 0;
}

static int count_came(void *unused, uint64_t first, const struct gr__range *range)
{
	__atomic_add_fetch(&range->block->mapped, 1, __ATOMIC_RELAXED);
	return 0;
}

static void free_scratch(struct gr__builder *builder)
{
	gr__free(builder->chunks);
	gr__free(builder->touched);
	memset(builder, 0, sizeof(*builder));
}

void gr__builder_publish(struct gr__builder *builder)
{
	struct gr__space *space = builder->space;
	struct gr_ram *ram = space->ram;
	struct gr__view *view = builder->view;
	const struct gr__view *base = builder->base;
	/* the index stands in the view's memory and is counted with the leaves */
	uint64_t index_words = view->read.flat_count + view->read.slot_count;
	uint64_t range_bytes = builder->count * sizeof(struct gr__chunk) + view->garbage.bytes -
			       index_words * sizeof(uint64_t);
	struct gr__chunk *dropped;
	unsigned i;
	size_t k;

	for (k = 0; k < builder->touched_count; k++)
		gr__view_diff(base, view, builder->touched[k].first, builder->touched[k].last,
			      count_gone, count_came, NULL);
	for (i = 0; i < builder->count; i++)
		if (builder->chunks[i]->builder == builder)
			builder->chunks[i]->builder = NULL;
	view->read.generation = ++ram->generation;
	ram->ranges += view->ranges - base->ranges;
	ram->range_bytes += range_bytes - space->range_bytes;
	space->range_bytes = range_bytes;

	GR_POINT("view.publish");
	/* release: a reader that loads it sees all of it; pairs with gr__space_view() */
	__atomic_store_n(&space->read.view, &view->read, __ATOMIC_RELEASE);
	GR_POINT("view.published");

	gr__index_publish(builder);
	while ((dropped = builder->dropped)) {
		builder->dropped = dropped->dropped;
		gr__retire(ram, &dropped->garbage);
	}
	gr__retire(ram, (struct gr__garbage *)&base->garbage);
	free_scratch(builder);
}

void gr__builder_abandon(struct gr__builder *builder)
{
	struct gr__leaf *leaf;
	unsigned i;

	for (i = 0; i < builder->count && builder->chunks; i++)
		if (builder->chunks[i]->builder == builder)
			gr__free(builder->chunks[i]);
	while ((leaf = builder->fresh)) {
		builder->fresh = leaf->fresh;
		gr__free(leaf);
	}
	gr__view_free(builder->view);
	free_scratch(builder);
}
