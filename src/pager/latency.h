/* SPDX-License-Identifier: MIT */
/*
 * How long answers took: counts by steps of a quarter of a power of two.
 *
 * Threads: one adds; any may read what was counted by then (relaxed: figures for people).
 */
#ifndef GR__LATENCY_H
#define GR__LATENCY_H

#include <guestram/pager.h>

static inline unsigned gr__latency_step(uint64_t ns)
{
	unsigned power, step;

	if (ns < 4)
		return (unsigned)ns;
	power = 63 - (unsigned)__builtin_clzll(ns);
	step = 4 * power + (unsigned)(ns >> (power - 2) & 3);
	return step < GR_PAGER_STEPS ? step : GR_PAGER_STEPS - 1;
}

/* The middle of a step, in nanoseconds. */
static inline uint64_t gr__latency_of(unsigned step)
{
	uint64_t first;

	if (step < 8)
		return step < 4 ? step : 4;
	first = (uint64_t)(4 + step % 4) << (step / 4 - 2);
	return first + ((UINT64_C(1) << (step / 4 - 2)) >> 1);
}

/* That which @permille of all were no longer than; 0: there were none. */
static inline uint64_t gr__latency_rank(const uint64_t *steps, unsigned permille)
{
	uint64_t all = 0, below = 0;
	unsigned i;

	for (i = 0; i < GR_PAGER_STEPS; i++)
		all += steps[i];
	for (i = 0; i < GR_PAGER_STEPS && all; i++) {
		below += steps[i];
		if (below * 1000 >= all * permille)
			return gr__latency_of(i);
	}
	return 0;
}

#endif
