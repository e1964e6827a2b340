/* SPDX-License-Identifier: MIT */
/*
 * Pins: a count on the block, taken inside a read section in which a lookup found the block, so
 * that reclaim, which waits for that section, sees it. See ram/reclaim.c. Of a block with granules
 * also a count on each granule, see ram/granules.h; of foreign memory on its window, which is
 * therefore not evicted.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/hooks.h"
#include "ram/reclaim.h"
#include "space/lookup.h"
#include "space/space.h"
#include <errno.h>

struct pinner {
	struct gr_pin *pins;
	int max;
	unsigned access;
	int done;
};

/* Count what @pin says. Inside the section that found its block. */
static int take(struct gr_pin *pin)
{
	/* before its count: a block that gets granules now waits for this section */
	struct gr__granules *granules = gr__block_granules(pin->block);

	GR_POINT("pin.count");
	if (granules && !gr__granules_pin(granules, pin->offset, pin->length))
		return gr__fail(-EFAULT, "block %s: of %#llx bytes at %#llx some are unplugged",
				pin->block->name, (unsigned long long)pin->length,
				(unsigned long long)pin->offset);
	pin->granules = granules;
	gr__block_get(pin->block);
	if (pin->window)
		gr__window_pin(pin->window);
	return 0;
}

static int pin_piece(void *context, const struct gr__piece *piece, int index)
{
	struct pinner *pinner = context;
	struct gr__mapping *window;
	void *host;
	int rc;

	if (index >= pinner->max)
		return 0;
	rc = gr__piece_locate(piece, &host, &window);
	if (rc)
		return rc;
	GR_POINT("pin.found");
	pinner->pins[index] = (struct gr_pin){
		.host = host,
		.length = piece->length,
		.block = piece->range->block,
		.offset = piece->range->offset + piece->into,
		.access = pinner->access,
		.window = window,
	};
	rc = take(&pinner->pins[index]);
	if (!rc)
		pinner->done++;
	return rc;
}

/* Every piece, or none. In a read section. */
static int pin_pieces(struct pinner *pinner, const struct gr__view *view, uint64_t addr,
		      uint64_t length)
{
	/* Count first, so that an error further on has pinned nothing. */
	int count = gr__walk_pieces(view, addr, length, pinner->access, NULL, NULL);

	if (count <= 0 || count > pinner->max)
		return count;
	pinner->done = 0;
	count = gr__walk_pieces(view, addr, length, pinner->access, pin_piece, pinner);
	/* a granule on the way is unplugged, or a window cannot be had */
	while (count < 0 && pinner->done)
		gr_unpin(&pinner->pins[--pinner->done]);
	return count;
}

/*
 * After a pin in a section of its own found no room for a window: wait for some. @rc, or 0 to try
 * again; each try may find that others were faster.
 */
static int wait_for_window(struct gr_ram *ram, int rc)
{
	if (rc != -EAGAIN)
		return rc;
	return gr__windows_wait(ram) ? 0 : -ENOBUFS;
}

int gr_pin_spans(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
		 struct gr_pin *pins, int max)
{
	struct pinner pinner = {pins, max, access, 0};
	int rc = gr__check_span(addr, length, access), count;

	if (rc < 0)
		return rc;
	if (max < 0 || (max && !pins))
		return gr__fail(-EINVAL, "pin: no room for %d pieces", max);
	do {
		gr_read_begin();
		count = pin_pieces(&pinner, gr__view_of(gr__space_view(space)), addr, length);
		gr_read_end();
		rc = count < 0 ? wait_for_window(gr__space_of(space)->ram, count) : count;
	} while (count < 0 && !rc);
	return rc;
}

/* In a read section. */
static int pin_one(struct pinner *pinner, const struct gr__view *view, uint64_t addr,
		   uint64_t length)
{
	struct gr__piece piece;
	int rc;

	if (gr__piece_find(view, addr, &piece) && length <= piece.length &&
	    !(pinner->access & ~piece.range->access) &&
	    (!piece.range->foreign || length <= gr__piece_in_window(&piece))) {
		piece.length = length;
		return pin_piece(pinner, &piece, 0);
	}
	rc = gr__walk_pieces(view, addr, length, pinner->access, NULL, NULL);
	if (rc < 0)
		return rc;
	return gr__fail(-EXDEV, "pin: %#llx bytes at %#llx lie in %d ranges or windows",
			(unsigned long long)length, (unsigned long long)addr, rc);
}

int gr_pin(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
	   struct gr_pin *pin)
{
	struct gr_pin got;
	struct pinner pinner = {&got, 1, access, 0};
	int rc = gr__check_span(addr, length, access), pinned;

	if (rc < 0)
		return rc;
	if (!length)
		return gr__fail(-EINVAL, "pin: 0 bytes at %#llx", (unsigned long long)addr);
	do {
		gr_read_begin();
		pinned = pin_one(&pinner, gr__view_of(gr__space_view(space)), addr, length);
		gr_read_end();
		rc = wait_for_window(gr__space_of(space)->ram, pinned);
	} while (pinned < 0 && !rc);
	if (!rc)
		*pin = got;
	return rc;
}

/* A piece that lies in the used length. In a read section. */
static int pin_in_block(struct gr_block *block, uint64_t offset, uint64_t length, unsigned access,
			struct gr_pin *pin)
{
	struct gr__mapping *window = NULL;
	struct gr_pin got = {
		.host = (char *)block->mem.host + offset,
		.length = length,
		.block = block,
		.offset = offset,
		.access = access,
	};
	int rc;

	if (block->windows) {
		if ((offset ^ (offset + (length - 1))) & ~(block->windows->size - 1))
			return gr__fail(-EXDEV,
					"block %s: pin of %#llx bytes at %#llx: more than a window",
					block->name, (unsigned long long)length,
					(unsigned long long)offset);
		rc = gr__window_get(block->windows, offset, length, &window);
		if (rc)
			return rc;
		got.host = gr__window_host(window, offset);
		got.window = window;
	}
	GR_POINT("pin.block");
	rc = take(&got);
	if (!rc)
		*pin = got;
	return rc;
}

int gr_block_pin(struct gr_block *block, uint64_t offset, uint64_t length, unsigned access,
		 struct gr_pin *pin)
{
	int rc = gr__check_span(offset, length, access), pinned;

	if (rc < 0)
		return rc;
	if (!length)
		return gr__fail(-EINVAL, "block %s: pin of 0 bytes", block->name);
	if (access & GR_WRITE && block->mem.flags & GR_READ_ONLY)
		return gr__fail(-EACCES, "block %s is read-only", block->name);
	do {
		gr_read_begin();
		/* In a section, so that a shrinking resize, which waits for it, sees the pin or we
		 * the length. */
		if (gr__range_within(offset, length, gr__block_length(block)))
			pinned = pin_in_block(block, offset, length, access, pin);
		else
			pinned = gr__fail(
				-EFAULT, "block %s: %#llx bytes at %#llx leave its %#llx bytes",
				block->name, (unsigned long long)length, (unsigned long long)offset,
				(unsigned long long)gr__block_length(block));
		gr_read_end();
		rc = wait_for_window(block->ram, pinned);
	} while (pinned < 0 && !rc);
	return rc;
}

void gr_unpin(struct gr_pin *pin)
{
	struct gr_block *block = pin->block;
	struct gr__mapping *window = pin->window;

	if (pin->access & GR_WRITE)
		gr_mark_host(pin->host, pin->length); /* whatever was written under it */
	if (pin->granules)
		gr__granules_unpin(pin->granules, pin->offset, pin->length);
	pin->host = NULL;
	pin->block = NULL;
	pin->window = NULL;
	if (window)
		gr__window_unpin(window); /* while the block's pin keeps it */
	gr__block_put(block);
}
