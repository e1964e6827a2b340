/* SPDX-License-Identifier: MIT */
/* The table of a block's granules; see granules.h for who may touch what. */
#include "ram/granules.h"
#include "base/bits.h"
#include "os/alloc.h"
#include "os/hooks.h"

#define WORD_BITS 64

struct gr__granules *gr__granules_new(uint64_t granule, uint64_t count)
{
	uint64_t words = (count + (WORD_BITS - 1)) / WORD_BITS;
	struct gr__granules *granules = gr__alloc(sizeof(*granules));

	if (!granules)
		return NULL;
	granules->granule = granule;
	granules->count = count;
	CDS_INIT_LIST_HEAD(&granules->windows);
	granules->plugged = gr__alloc_array(words, sizeof(uint64_t));
	granules->pinnable = gr__alloc_array(words, sizeof(uint64_t));
	granules->pins = gr__alloc_array(count, sizeof(uint64_t));
	if (granules->plugged && granules->pinnable && granules->pins)
		return granules;
	gr__granules_free(granules);
	return NULL;
}

void gr__granules_free(struct gr__granules *granules)
{
	while (granules) {
		struct gr__granules *older = granules->older;

		gr__free(granules->plugged);
		gr__free(granules->pinnable);
		gr__free(granules->pins);
		gr__free(granules);
		granules = older;
	}
}

/* ----------------------------------------------------------------------------------- bits */

void gr__granules_mark(const struct gr__granules *granules, uint64_t *bits, struct gr__run run,
		       bool on)
{
	uint64_t first = run.offset / granules->granule, at;
	uint64_t count = run.length / granules->granule, last = first + count - 1;

	for (at = first / WORD_BITS; count && at <= last / WORD_BITS; at++) {
		uint64_t mask = gr__bits_mask(at, first, last);

		/*
		 * relaxed: whoever acts on a bit that was cleared waits for a grace period first;
		 * what a set bit stands for is ordered by the view or the call that led there
		 */
		if (on)
			__atomic_fetch_or(&bits[at], mask, __ATOMIC_RELAXED);
		else
			__atomic_fetch_and(&bits[at], ~mask, __ATOMIC_RELAXED);
	}
}

uint64_t gr__granules_count(const struct gr__granules *granules, const uint64_t *bits,
			    struct gr__run run)
{
	uint64_t first = run.offset / granules->granule, set = 0, at;
	uint64_t count = run.length / granules->granule, last = first + count - 1;

	/* relaxed: as in gr__granules_mark() */
	for (at = first / WORD_BITS; count && at <= last / WORD_BITS; at++)
		set += (uint64_t)__builtin_popcountll(__atomic_load_n(&bits[at], __ATOMIC_RELAXED) &
						      gr__bits_mask(at, first, last));
	return set;
}

bool gr__granules_next(const struct gr__granules *granules, const uint64_t *bits, uint64_t end,
		       struct gr__run *run)
{
	uint64_t first = (run->offset + run->length) / granules->granule;
	uint64_t stop = end / granules->granule, last;

	first = gr__bits_next(bits, first, stop, true);
	if (first >= stop)
		return false;
	last = gr__bits_next(bits, first, stop, false);
	*run = (struct gr__run){first * granules->granule, (last - first) * granules->granule};
	return true;
}

/* ----------------------------------------------------------------------------------- pins */

bool gr__granules_pin(struct gr__granules *granules, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / granules->granule, at;
	uint64_t last = (offset + (length - 1)) / granules->granule; /* within the block */

	if (gr__bits_next(granules->pinnable, first, last + 1, false) <= last)
		return false;
	GR_POINT("pin.granule");
	for (at = first; at <= last; at++)
		/* relaxed: the read section that the caller is in orders it before the look of a
		 * removal */
		__atomic_add_fetch(&granules->pins[at], 1, __ATOMIC_RELAXED);
	return true;
}

void gr__granules_unpin(struct gr__granules *granules, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / granules->granule, at;
	uint64_t last = (offset + (length - 1)) / granules->granule;

	for (at = first; at <= last; at++)
		/* release: what was done through the pin comes before the discard; pairs with
		 * gr__granules_pinned() */
		__atomic_sub_fetch(&granules->pins[at], 1, __ATOMIC_RELEASE);
}

bool gr__granules_pinned(const struct gr__granules *granules, struct gr__run run)
{
	uint64_t at = run.offset / granules->granule;
	uint64_t end = at + run.length / granules->granule;

	for (; at < end; at++)
		if (__atomic_load_n(&granules->pins[at], __ATOMIC_ACQUIRE))
			return true;
	return false;
}
