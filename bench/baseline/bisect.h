/* SPDX-License-Identifier: MIT */
/*
 * A sorted array of ranges that is searched by halves, without a branch that depends on the
 * address: what most monitors do. The caller brings RCU or a lock.
 */
#ifndef BISECT_H
#define BISECT_H

#include <stddef.h>
#include <stdint.h>

struct bisect_range {
	uint64_t addr;
	uint64_t length;
	char *host;
};

struct bisect {
	uint64_t count; /* at least 1; const once published */
	struct bisect_range range[];
};

static inline __attribute__((always_inline)) char *bisect_find(const struct bisect *table,
							       uint64_t addr, uint64_t length)
{
	const struct bisect_range *range = table->range;
	uint64_t count = table->count;
	uint64_t offset;

	while (count > 1) {
		uint64_t half = count / 2;

		/* a mask, as the compiler is free to make a branch of ?: */
		range += half & -(uint64_t)(range[half].addr <= addr);
		count -= half;
	}
	offset = addr - range->addr;
	if (__builtin_expect(offset >= range->length || length > range->length - offset, 0))
		return NULL;
	return range->host + offset;
}

#endif
