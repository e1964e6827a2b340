/* SPDX-License-Identifier: MIT */
#include "ram/offsets.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include <errno.h>
#include <string.h>

void gr__offsets_fini(struct gr__offsets *offsets)
{
	gr__free(offsets->extents);
	memset(offsets, 0, sizeof(*offsets));
}

static int make_room(struct gr__offsets *offsets)
{
	size_t room = offsets->room ? offsets->room * 2 : 16;
	struct gr__extent *extents;

	if (offsets->count < offsets->room)
		return 0;
	extents = gr__alloc_array(room, sizeof(*extents));
	if (!extents)
		return gr__fail(-ENOMEM, "RAM offset: no memory for %zu extents", room);
	if (offsets->count)
		memcpy(extents, offsets->extents, offsets->count * sizeof(*extents));
	gr__free(offsets->extents);
	offsets->extents = extents;
	offsets->room = room;
	return 0;
}

int gr__offsets_take(struct gr__offsets *offsets, uint64_t length, uint64_t *offset)
{
	uint64_t best_gap = UINT64_MAX, best = 0, next = 0, size;
	size_t position = 0, i;
	bool found = false;
	int rc;

	if (!gr__align_up(length, GR__OFFSET_UNIT, &size) || !size)
		return gr__fail(-ERANGE, "RAM offset: length %#llx wraps",
				(unsigned long long)length);
	rc = make_room(offsets);
	if (rc < 0)
		return rc;
	/* next: first free offset after extent i - 1; 0 again when the last extent ends the
	 * numbering */
	for (i = 0; i <= offsets->count; i++) {
		uint64_t end = i < offsets->count ? offsets->extents[i].first : 0;
		uint64_t gap =
			end - next; /* 0 - next: all that is left, 0 when that is all of it */

		if (i && !next)
			break;
		if (i == offsets->count && !next)
			gap = UINT64_MAX - GR__OFFSET_UNIT + 1;
		if (gap >= size && (!found || gap < best_gap)) {
			found = true;
			best_gap = gap;
			best = next;
			position = i;
		}
		if (i < offsets->count)
			next = offsets->extents[i].last + 1;
	}
	if (!found)
		return gr__fail(-ERANGE, "RAM offset: no gap of %#llx bytes is left",
				(unsigned long long)size);
	memmove(&offsets->extents[position + 1], &offsets->extents[position],
		(offsets->count - position) * sizeof(*offsets->extents));
	offsets->extents[position] = (struct gr__extent){best, best + (size - 1)};
	offsets->count++;
	*offset = best;
	return 0;
}

void gr__offsets_put(struct gr__offsets *offsets, uint64_t offset)
{
	size_t low = 0, high = offsets->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (offsets->extents[middle].first < offset)
			low = middle + 1;
		else
			high = middle;
	}
	offsets->count--;
	memmove(&offsets->extents[low], &offsets->extents[low + 1],
		(offsets->count - low) * sizeof(*offsets->extents));
}
