/* SPDX-License-Identifier: MIT */
/*
 * Bitmaps in words of 64 bits: which bits of a word a run has, and where the next run begins. Loads
 * are relaxed atomics, so that a bitmap which others change may be walked too.
 */
#ifndef GR__BASE_BITS_H
#define GR__BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>

/* The bits of word number @word that lie in [first, last], which reaches into it. */
static inline uint64_t gr__bits_mask(uint64_t word, uint64_t first, uint64_t last)
{
	uint64_t mask = ~UINT64_C(0);

	if (word == first >> 6)
		mask &= ~UINT64_C(0) << (first & 63);
	if (word == last >> 6)
		mask &= ~UINT64_C(0) >> (63 - (last & 63));
	return mask;
}

/* The first bit from @at on, below @end, that is @set; @end when there is none. */
static inline uint64_t gr__bits_next(const uint64_t *bits, uint64_t at, uint64_t end, bool set)
{
	while (at < end) {
		/* relaxed: whoever changes them says what orders it */
		uint64_t word = __atomic_load_n(&bits[at >> 6], __ATOMIC_RELAXED);

		word = (set ? word : ~word) & (~UINT64_C(0) << (at & 63));
		if (word) {
			at = (at & ~UINT64_C(63)) + (uint64_t)__builtin_ctzll(word);
			return at < end ? at : end;
		}
		at = (at & ~UINT64_C(63)) + 64;
	}
	return end;
}

#endif
