/* SPDX-License-Identifier: MIT */
/*
 * Is memory all zeroes? And a copy of it. The guest may be writing meanwhile: what is read then is
 * any mixture.
 */
#ifndef GR__BASE_ZERO_H
#define GR__BASE_ZERO_H

#include <guestram/fast.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t gr__vector __attribute__((vector_size(32), aligned(8), may_alias));

/*
 * @length is a multiple of 256. Most pages that are not zero show it in their first words, so those
 * are looked at alone; then four vectors at a time.
 */
static inline bool gr__is_zero(const void *bytes, size_t length)
{
	const uint64_t *words = (const uint64_t *)bytes;
	size_t i;

#ifdef GR__TSAN
	/* relaxed: beside the guest's own stores */
	for (i = 0; i < length / 8; i++)
		if (__atomic_load_n(&words[i], __ATOMIC_RELAXED))
			return false;
	return true;
#else
	if (words[0] | words[1])
		return false;
	for (i = 0; i < length / 8; i += 32) {
		const gr__vector *v = (const gr__vector *)(words + i);
		gr__vector all = (v[0] | v[1] | v[2] | v[3]) | (v[4] | v[5] | v[6] | v[7]);

		if (all[0] | all[1] | all[2] | all[3])
			return false;
	}
	return true;
#endif
}

/* @length is a multiple of 8. */
static inline void gr__copy_guest(void *to, const void *from, size_t length)
{
#ifdef GR__TSAN
	for (size_t i = 0; i < length / 8; i++)
		((uint64_t *)to)[i] = __atomic_load_n((const uint64_t *)from + i, __ATOMIC_RELAXED);
#else
	memcpy(to, from, length);
#endif
}

#endif
