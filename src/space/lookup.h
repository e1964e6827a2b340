/* SPDX-License-Identifier: MIT */
/* The pieces of a guest range in one view; for pins and accesses. Inside a read section. */
#ifndef GR__LOOKUP_H
#define GR__LOOKUP_H

#include "space/view.h"
#include "window/window.h"

/* The visible part of one range from some address on. */
struct gr__piece {
	struct gr__place place;
	const struct gr__range *range;
	uint64_t first;	 /* of the range */
	uint64_t into;	 /* where in the range the piece begins */
	uint64_t length; /* of the piece */
};

/* Not of a foreign range. */
static inline void *gr__piece_host(const struct gr__piece *piece)
{
	return (void *)(uintptr_t)(piece->first + piece->into + piece->range->delta); /* NOLINT */
}

/*
 * Where a piece is: 0, and @window (NULL where there is none) is what to pin beside the block; or
 * the errors of gr__window_miss(). A piece of a foreign range lies in one window, as
 * gr__walk_pieces() gives them.
 */
static inline int gr__piece_locate(const struct gr__piece *piece, void **host,
				   struct gr__mapping **window)
{
	uint64_t offset = piece->range->offset + piece->into;
	int rc;

	*window = NULL;
	if (!piece->range->foreign) {
		*host = gr__piece_host(piece);
		return 0;
	}
	rc = gr__window_get(piece->range->windows, offset, piece->length, window);
	if (!rc)
		*host = gr__window_host(*window, offset);
	return rc;
}

/* How much of a foreign piece lies in the window it begins in. */
static inline uint64_t gr__piece_in_window(const struct gr__piece *piece)
{
	uint64_t size = piece->range->windows->size;
	uint64_t left = size - ((piece->range->offset + piece->into) & (size - 1));

	return left < piece->length ? left : piece->length;
}

/* From @addr to the end of its range; false: no memory there. */
bool gr__piece_find(const struct gr__view *view, uint64_t addr, struct gr__piece *piece);
/* The rest of its range, else the range that follows without a gap; false: neither is there. */
bool gr__piece_next(const struct gr__view *view, struct gr__piece *piece);

/* 0, -EINVAL (access), -ERANGE (wraps). */
int gr__check_span(uint64_t addr, uint64_t length, unsigned access);

/*
 * Call @fn (may be NULL) for each piece of a range that gr__check_span() passed. Returns their
 * number, -EFAULT, -EACCES, -ERANGE (more than an int counts), or what @fn failed with; @fn has
 * then seen the pieces before. Pieces of foreign ranges end where windows do.
 */
int gr__walk_pieces(const struct gr__view *view, uint64_t addr, uint64_t length, unsigned access,
		    int (*fn)(void *context, const struct gr__piece *piece, int index),
		    void *context);

#endif
