/* SPDX-License-Identifier: MIT */
/*
 * Strict windows: a piece of a block with granules at addresses of a space, of which only plugged
 * runs are ranges. To readers, cursors and listeners they are ranges as any others.
 *
 * Invariants, under ram->lock: the addresses of a window are its own, holes too, so nothing else is
 * mapped or unmapped there; its ranges are exactly the maximal runs of plugged granules within it.
 * So a plugged run is joined with a range that touches it inside the window.
 */
#include "space/windows.h"
#include "base/error.h"
#include "base/range.h"
#include <errno.h>

int gr__windows_check(const struct gr__space *space, const struct gr__op *op)
{
	const struct gr__window *window;

	cds_list_for_each_entry (window, &space->windows, in_space) {
		if (!gr__ranges_overlap(window->first, window->last, op->first, op->last))
			continue;
		if (op->kind == GR__OP_UNMAP)
			return gr__fail(-EBUSY,
					"space %s: [%#llx, %#llx] is a strict window of block %s: "
					"gr_plug_unmap() takes it away",
					space->name, (unsigned long long)window->first,
					(unsigned long long)window->last, window->block->name);
		return gr__fail(
			-EEXIST,
			"space %s: [%#llx, %#llx] overlaps [%#llx, %#llx], a strict window of "
			"block %s",
			space->name, (unsigned long long)op->first, (unsigned long long)op->last,
			(unsigned long long)window->first, (unsigned long long)window->last,
			window->block->name);
	}
	return 0;
}

/* The addresses of the part of @run that the window shows; false: it shows none of it. */
static bool clip(const struct gr__window *window, struct gr__run run, uint64_t *first,
		 uint64_t *last)
{
	uint64_t begin = window->offset, end = begin + (window->last - window->first);
	uint64_t run_last = run.offset + (run.length - 1); /* within the block, all of them */

	if (!gr__ranges_overlap(run.offset, run_last, begin, end))
		return false;
	if (run.offset > begin)
		begin = run.offset;
	if (run_last < end)
		end = run_last;
	*first = window->first + (begin - window->offset);
	*last = window->first + (end - window->offset);
	return true;
}

static int map(struct gr__builder *builder, const struct gr__window *window, uint64_t first,
	       uint64_t last)
{
	return gr__builder_map(builder, first, window->block,
			       window->offset + (first - window->first), last - first + 1,
			       window->access);
}

int gr__window_show(struct gr__builder *builder, const struct gr__window *window)
{
	const struct gr__granules *granules = window->block->granules;
	uint64_t end = window->offset + (window->last - window->first) + 1; /* within the block */
	struct gr__run run = {window->offset, 0};
	struct gr__place place;
	uint64_t first, last;
	int rc = 0;

	/* its holes are its own, too */
	if (gr__builder_seek(builder, window->first, &place) &&
	    builder->chunks[place.chunk]->firsts[place.index] <= window->last) {
		const struct gr__chunk *chunk = builder->chunks[place.chunk];

		return gr__fail(-EEXIST,
				"space %s: [%#llx, %#llx] overlaps [%#llx, %#llx] of block %s",
				builder->space->name, (unsigned long long)window->first,
				(unsigned long long)window->last,
				(unsigned long long)chunk->firsts[place.index],
				(unsigned long long)chunk->ranges[place.index].last,
				chunk->ranges[place.index].block->name);
	}
	while (!rc && gr__granules_next(granules, granules->plugged, end, &run))
		if (clip(window, run, &first, &last))
			rc = map(builder, window, first, last);
	return rc;
}

int gr__window_hide(struct gr__builder *builder, const struct gr__window *window)
{
	bool found;

	return gr__builder_unmap(builder, window->first, window->last, &found);
}

/* The range that holds @addr; false: there is none. */
static bool find(const struct gr__builder *builder, uint64_t addr, uint64_t *first, uint64_t *last)
{
	struct gr__place place;

	if (!gr__builder_seek(builder, addr, &place))
		return false;
	*first = builder->chunks[place.chunk]->firsts[place.index];
	*last = builder->chunks[place.chunk]->ranges[place.index].last;
	return *first <= addr;
}

/* Show [first, last], now a hole, as one range with what it touches on either side. */
static int join(struct gr__builder *builder, const struct gr__window *window, uint64_t first,
		uint64_t last)
{
	uint64_t left_first, left_last, right_first, right_last;
	bool found, left, right;
	int rc = 0;

	left = first > window->first && find(builder, first - 1, &left_first, &left_last);
	right = last < window->last && find(builder, last + 1, &right_first, &right_last);
	if (left) {
		first = left_first;
		rc = gr__builder_unmap(builder, left_first, left_last, &found);
	}
	if (right && !rc) {
		last = right_last;
		rc = gr__builder_unmap(builder, right_first, right_last, &found);
	}
	return rc < 0 ? rc : map(builder, window, first, last);
}

int gr__window_change(struct gr__builder *builder, const struct gr__window *window,
		      const struct gr__granule_change *change)
{
	uint64_t first, last;
	bool found;
	size_t i;
	int rc = 0;

	for (i = 0; i < change->run_count && !rc; i++) {
		if (!clip(window, change->runs[i], &first, &last))
			continue;
		if (change->plug)
			rc = join(builder, window, first, last);
		else
			rc = gr__builder_unmap(builder, first, last, &found);
	}
	return rc;
}
