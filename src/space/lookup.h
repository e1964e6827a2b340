/* SPDX-License-Identifier: MIT */
/* The pieces of a guest range in one view; for pins and accesses. Inside a read section. */
#ifndef GR__LOOKUP_H
#define GR__LOOKUP_H

#include "space/view.h"

/* The visible part of one range from some address on. */
struct gr__piece {
	struct gr__place place;
	const struct gr__range *range;
	uint64_t first;	 /* of the range */
	uint64_t into;	 /* where in the range the piece begins */
	uint64_t length; /* of the piece */
};

static inline void *gr__piece_host(const struct gr__piece *piece)
{
	return (void *)(uintptr_t)(piece->first + piece->into + piece->range->delta); /* NOLINT */
}

/* From @addr to the end of its range; false: no memory there. */
bool gr__piece_find(const struct gr__view *view, uint64_t addr, struct gr__piece *piece);
/* The range that follows without a gap; false: none does. */
bool gr__piece_next(const struct gr__view *view, struct gr__piece *piece);

/* 0, -EINVAL (access), -ERANGE (wraps). */
int gr__check_span(uint64_t addr, uint64_t length, unsigned access);

/*
 * Call @fn (may be NULL) for each piece of a range that gr__check_span() passed. Returns their
 * number, -EFAULT, -EACCES, or what @fn failed with; @fn has then seen the pieces before.
 */
int gr__walk_pieces(const struct gr__view *view, uint64_t addr, uint64_t length, unsigned access,
		    int (*fn)(void *context, const struct gr__piece *piece, int index),
		    void *context);

#endif
