/* SPDX-License-Identifier: MIT */
/*
 * The limit: one flat array of words (host minus guest address) that nobody ever changes, so that
 * no synchronisation is needed. No table that can change is faster than this one.
 */
#ifndef FLAT_H
#define FLAT_H

#include <stddef.h>
#include <stdint.h>

enum { FLAT_SHIFT = 21, FLAT_ABSENT = 3 };

/* A word's two lowest bits: no loads, no stores; the tests are as few as they can be. */
struct flat {
	const uint64_t *words; /* one for each 2 MiB */
	uint64_t count;
};

static inline __attribute__((always_inline)) char *flat_find(const uint64_t *words, uint64_t count,
							     uint64_t addr, uint64_t length)
{
	const uint64_t granule = UINT64_C(1) << FLAT_SHIFT;
	uint64_t word;

	if (__builtin_expect(addr >> FLAT_SHIFT >= count, 0))
		return NULL;
	word = words[addr >> FLAT_SHIFT];
	if (__builtin_expect((word & 1) || (addr & (granule - 1)) > granule - length, 0))
		return NULL;
	return (char *)(uintptr_t)((word & ~UINT64_C(0xfff)) + addr); /* NOLINT */
}

#endif
