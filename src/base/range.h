/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic on addresses and lengths that a guest, peer or file gave: the only place where
 * `base + length` is written on them. A range is kept as first and last (inclusive), so that one
 * may end exactly at 2^64.
 */
#ifndef GR__RANGE_H
#define GR__RANGE_H

#include <stdbool.h>
#include <stdint.h>

/* last = first + length - 1; false when length is 0 or the range wraps. */
static inline bool gr__range_last(uint64_t first, uint64_t length, uint64_t *last)
{
	return length && !__builtin_add_overflow(first, length - 1, last);
}

/* Does [offset, offset + length) lie within a whole of @size bytes? */
static inline bool gr__range_within(uint64_t offset, uint64_t length, uint64_t size)
{
	return offset <= size && length <= size - offset;
}

static inline bool gr__ranges_overlap(uint64_t first, uint64_t last, uint64_t other_first,
				      uint64_t other_last)
{
	return first <= other_last && other_first <= last;
}

static inline bool gr__is_pow2(uint64_t value)
{
	return value && !(value & (value - 1));
}

static inline bool gr__is_aligned(uint64_t value, uint64_t pow2)
{
	return !(value & (pow2 - 1));
}

static inline uint64_t gr__align_down(uint64_t value, uint64_t pow2)
{
	return value & ~(pow2 - 1);
}

/* false when the result passes 2^64 - 1 */
static inline bool gr__align_up(uint64_t value, uint64_t pow2, uint64_t *result)
{
	if (__builtin_add_overflow(value, pow2 - 1, result))
		return false;
	*result = gr__align_down(*result, pow2);
	return true;
}

#endif
