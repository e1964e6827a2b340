/* SPDX-License-Identifier: MIT */
/*
 * Pins: a count on the block, taken inside a read section in which a lookup found the block, so
 * that reclaim, which waits for that section, sees it. See ram/reclaim.c.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/hooks.h"
#include "ram/reclaim.h"
#include "space/lookup.h"
#include <errno.h>

struct pinner {
	struct gr_pin *pins;
	int max;
	unsigned access;
};

static int pin_piece(void *context, const struct gr__piece *piece, int index)
{
	const struct pinner *pinner = context;

	if (index >= pinner->max)
		return 0;
	GR_POINT("pin.found");
	gr__block_get(piece->range->block);
	pinner->pins[index] = (struct gr_pin){
		.host = gr__piece_host(piece),
		.length = piece->length,
		.block = piece->range->block,
		.offset = piece->range->offset + piece->into,
		.access = pinner->access,
	};
	return 0;
}

int gr_pin_spans(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
		 struct gr_pin *pins, int max)
{
	struct pinner pinner = {pins, max, access};
	const struct gr__view *view;
	int rc = gr__check_span(addr, length, access), count;

	if (rc < 0)
		return rc;
	if (max < 0 || (max && !pins))
		return gr__fail(-EINVAL, "pin: no room for %d pieces", max);
	gr_read_begin();
	view = gr__view_of(gr__space_view(space));
	/* Count first, so that an error further on has pinned nothing. */
	count = gr__walk_pieces(view, addr, length, access, NULL, NULL);
	if (count > 0 && count <= max)
		gr__walk_pieces(view, addr, length, access, pin_piece, &pinner);
	gr_read_end();
	return count;
}

int gr_pin(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
	   struct gr_pin *pin)
{
	struct pinner pinner = {pin, 1, access};
	const struct gr__view *view;
	struct gr__piece piece;
	int rc = gr__check_span(addr, length, access);

	if (rc < 0)
		return rc;
	if (!length)
		return gr__fail(-EINVAL, "pin: 0 bytes at %#llx", (unsigned long long)addr);
	gr_read_begin();
	view = gr__view_of(gr__space_view(space));
	if (gr__piece_find(view, addr, &piece) && length <= piece.length &&
	    !(access & ~piece.range->access)) {
		piece.length = length;
		rc = pin_piece(&pinner, &piece, 0);
	} else {
		rc = gr__walk_pieces(view, addr, length, access, NULL, NULL);
		if (rc >= 0)
			rc = gr__fail(-EXDEV, "pin: %#llx bytes at %#llx lie in %d ranges",
				      (unsigned long long)length, (unsigned long long)addr, rc);
	}
	gr_read_end();
	return rc;
}

int gr_block_pin(struct gr_block *block, uint64_t offset, uint64_t length, unsigned access,
		 struct gr_pin *pin)
{
	int rc = gr__check_span(offset, length, access);

	if (rc < 0)
		return rc;
	if (!length)
		return gr__fail(-EINVAL, "block %s: pin of 0 bytes", block->name);
	if (access & GR_WRITE && block->mem.flags & GR_READ_ONLY)
		return gr__fail(-EACCES, "block %s is read-only", block->name);
	gr_read_begin();
	/* In a section, so that a shrinking resize, which waits for it, sees the pin or we the
	 * length. */
	if (gr__range_within(offset, length, gr__block_length(block))) {
		GR_POINT("pin.block");
		gr__block_get(block);
		*pin = (struct gr_pin){
			.host = (char *)block->mem.host + offset,
			.length = length,
			.block = block,
			.offset = offset,
			.access = access,
		};
	} else {
		rc = gr__fail(-EFAULT, "block %s: %#llx bytes at %#llx leave its %#llx bytes",
			      block->name, (unsigned long long)length, (unsigned long long)offset,
			      (unsigned long long)gr__block_length(block));
	}
	gr_read_end();
	return rc;
}

void gr_unpin(struct gr_pin *pin)
{
	struct gr_block *block = pin->block;

	if (pin->access & GR_WRITE)
		gr_mark_host(pin->host, pin->length); /* whatever was written under it */
	pin->host = NULL;
	pin->block = NULL;
	gr__block_put(block);
}
