/* SPDX-License-Identifier: MIT */
/*
 * Which RAM offsets are taken. A block gets the smallest gap that holds its max length; gaps start
 * at multiples of GR__OFFSET_UNIT, so that two blocks never share a word of a dirty bitmap (64
 * pages of 4 KiB).
 *
 * Threads: the caller's lock.
 */
#ifndef GR__OFFSETS_H
#define GR__OFFSETS_H

#include <stddef.h>
#include <stdint.h>

#define GR__OFFSET_UNIT (UINT64_C(64) * 4096)

struct gr__extent {
	uint64_t first, last;
};

struct gr__offsets {
	struct gr__extent *extents; /* sorted, apart */
	size_t count, room;
};

void gr__offsets_fini(struct gr__offsets *offsets);
/* 0, -ENOMEM, -ERANGE when no gap is large enough. */
int gr__offsets_take(struct gr__offsets *offsets, uint64_t length, uint64_t *offset);
/* @offset: as taken. Needs no memory. */
void gr__offsets_put(struct gr__offsets *offsets, uint64_t offset);

#endif
