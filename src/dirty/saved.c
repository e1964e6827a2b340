/* SPDX-License-Identifier: MIT */
/* See saved.h. */
#include "dirty/saved.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "ram/ram.h"
#include <errno.h>
#include <guestram/mark.h>

struct gr__saved *gr__saved_new(struct gr_block *block)
{
	uint64_t pages = block->mem.max_length >> GR__MARK_SHIFT;
	struct gr__saved *saved = gr__alloc(sizeof(*saved) + (pages + 63) / 64 * sizeof(uint64_t));

	if (!saved) {
		gr__say("dirty source: no memory for the pages of block %s", block->name);
		return NULL;
	}
	saved->block = block;
	saved->pages = pages;
	return saved;
}

struct gr__saved *gr__saved_find(struct cds_list_head *all, const struct gr_block *block)
{
	struct gr__saved *saved;

	cds_list_for_each_entry (saved, all, node)
		if (saved->block == block)
			return saved;
	return NULL;
}

void gr__saved_forget(struct cds_list_head *all, const struct gr_block *block)
{
	struct gr__saved *saved = gr__saved_find(all, block);

	if (!saved)
		return;
	cds_list_del(&saved->node);
	gr__free(saved);
}

/* The pages of a part, cut at the block's end; false: there is none. */
static bool pages_of(const struct gr__saved *saved, uint64_t offset, uint64_t length,
		     uint64_t *first, uint64_t *last)
{
	if (!gr__range_last(offset, length, last))
		return false;
	*first = offset >> GR__MARK_SHIFT;
	*last >>= GR__MARK_SHIFT;
	if (*last >= saved->pages)
		*last = saved->pages - 1;
	return *first <= *last;
}

void gr__saved_put(struct gr__saved *saved, uint64_t offset, uint64_t length)
{
	uint64_t first, last, at;

	if (!saved || !pages_of(saved, offset, length, &first, &last))
		return;
	for (at = first >> 6; at <= last >> 6; at++)
		saved->words[at] |= gr__bits_mask(at, first, last);
}

void gr__saved_report(struct gr__saved *saved, uint64_t offset, uint64_t length,
		      struct gr_dirty_sink *sink)
{
	uint64_t first, last, at, end, next;

	if (!pages_of(saved, offset, length, &first, &last))
		return;
	end = last + 1;
	for (at = gr__bits_next(saved->words, first, end, true); at < end;
	     at = gr__bits_next(saved->words, next, end, true)) {
		next = gr__bits_next(saved->words, at, end, false);
		gr_dirty_report(sink, at << GR__MARK_SHIFT, (next - at) << GR__MARK_SHIFT);
	}
	for (at = first >> 6; at <= last >> 6; at++)
		saved->words[at] &= ~gr__bits_mask(at, first, last);
}
