/* SPDX-License-Identifier: MIT */
/*
 * Free-page hints: pieces of a guest range are given back by whole pages of their backing.
 *
 * Threads: any; one read section around all, which keeps the blocks that are found in it, and
 * gr_block_discard() for each piece, which looks at claims and at those who resize.
 */
#include "base/error.h"
#include "base/range.h"
#include "plug/plug.h"
#include "space/lookup.h"
#include "space/space.h"
#include <errno.h>

struct hint {
	uint64_t given_back;
	int rc; /* of the first discard that failed */
};

/* Whole pages of the backing inside the piece. */
static int give_back(void *context, const struct gr__piece *piece, int index)
{
	struct gr_block *block = piece->range->block;
	uint64_t offset = piece->range->offset + piece->into; /* within the block */
	uint64_t end = offset + piece->length, first;
	struct hint *hint = context;
	int rc;

	end = gr__align_down(end, block->mem.page_size);
	if (!gr__align_up(offset, block->mem.page_size, &first) || first >= end)
		return 0;
	rc = gr_block_discard(block, first, end - first);
	if (!rc)
		hint->given_back += end - first;
	else if (!hint->rc)
		hint->rc = rc;
	return 0;
}

int64_t gr_hint_free(struct gr_space *space, uint64_t addr, uint64_t length)
{
	struct hint hint = {0, 0};
	const struct gr__view *view;
	int rc = gr__ram_check(gr__space_of(space)->ram, "hint");

	if (!rc)
		rc = gr__check_span(addr, length, GR_READ | GR_WRITE);
	if (rc < 0)
		return rc;
	gr_read_begin();
	view = gr__view_of(gr__space_view(space));
	rc = gr__walk_pieces(view, addr, length, GR_READ | GR_WRITE, NULL, NULL);
	if (rc > 0)
		gr__walk_pieces(view, addr, length, GR_READ | GR_WRITE, give_back, &hint);
	gr_read_end();
	if (rc < 0)
		return rc;
	return hint.given_back ? (int64_t)hint.given_back : hint.rc;
}
