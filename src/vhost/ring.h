/* SPDX-License-Identifier: MIT */
/*
 * The one place that loads from and stores to rings in guest memory, split and packed. Each field
 * is read once into a local by a machine access that the compiler cannot repeat; the caller checks
 * the copy.
 *
 * Orders, with the driver as partner (virtio 1.x, 2.7.13, 2.7.14, 2.8.21):
 *   avail->idx   acquire   pairs with the driver's write barrier before it publishes the index
 *   used->idx    release   pairs with the driver's read barrier after it has read the index
 *   flags of a packed descriptor, which say whose it is: likewise, acquire and release
 *   a full fence between storing our index (or wish) and loading the driver's wish (or index)
 *                          pairs with the driver's full barrier between the same two, swapped
 *
 * Context: all in the read section in which the ring was mapped.
 */
#ifndef GR__VHOST_RING_H
#define GR__VHOST_RING_H

#include "os/hooks.h"
#include "vhost/wire.h"
#include <stdbool.h>
#include <string.h>

/* Host addresses of a ring's three areas, valid until the end of the read section. */
struct gr__ring {
	union {
		const struct wire_desc *desc;
		struct wire_packed_desc *packed;
	};
	union {
		const struct wire_avail *avail;
		const uint32_t *driver_event;
	};
	union {
		struct wire_used *used;
		uint32_t *device_event;
	};
};

static inline void gr__ring_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs: see head */
}

/* One descriptor of either layout, from a table of any alignment. */
static inline void gr__ring_read_desc(const void *from, struct wire_desc *desc)
{
	uint64_t words[2];

	GR_POINT("ring.desc");
	if (!((uintptr_t)from & 7)) {
		words[0] = __atomic_load_n((const uint64_t *)from, __ATOMIC_RELAXED);
		words[1] = __atomic_load_n((const uint64_t *)from + 1, __ATOMIC_RELAXED);
	} else {
		const uint8_t *bytes = (const uint8_t *)from;

		for (unsigned i = 0; i < sizeof(words); i++)
			((uint8_t *)words)[i] = __atomic_load_n(bytes + i, __ATOMIC_RELAXED);
	}
	memcpy(desc, words, sizeof(*desc));
}

/* ------------------------------------------------------------------------------------ split */

static inline uint16_t gr__ring_avail_idx(const struct gr__ring *ring)
{
	GR_POINT("ring.avail_idx");
	return __atomic_load_n(&ring->avail->idx, __ATOMIC_ACQUIRE); /* pairs: see head */
}

static inline uint16_t gr__ring_avail_flags(const struct gr__ring *ring)
{
	GR_POINT("ring.avail_flags");
	return __atomic_load_n(&ring->avail->flags, __ATOMIC_RELAXED);
}

/* @at: below the ring's size; at the size itself it is used_event */
static inline uint16_t gr__ring_avail_entry(const struct gr__ring *ring, unsigned at)
{
	GR_POINT("ring.avail_entry");
	return __atomic_load_n(&ring->avail->ring[at], __ATOMIC_RELAXED);
}

static inline uint16_t gr__ring_used_idx(const struct gr__ring *ring)
{
	return __atomic_load_n(&ring->used->idx, __ATOMIC_RELAXED);
}

static inline void gr__ring_publish_used(const struct gr__ring *ring, uint16_t idx)
{
	__atomic_store_n(&ring->used->idx, idx, __ATOMIC_RELEASE); /* pairs: see head */
}

static inline void gr__ring_set_used(const struct gr__ring *ring, unsigned at, uint32_t id,
				     uint32_t length)
{
	__atomic_store_n(&ring->used->ring[at].id, id, __ATOMIC_RELAXED);
	__atomic_store_n(&ring->used->ring[at].length, length, __ATOMIC_RELAXED);
}

static inline void gr__ring_set_used_flags(const struct gr__ring *ring, uint16_t flags)
{
	__atomic_store_n(&ring->used->flags, flags, __ATOMIC_RELAXED);
}

static inline void gr__ring_set_avail_event(const struct gr__ring *ring, unsigned num, uint16_t idx)
{
	__atomic_store_n((uint16_t *)&ring->used->ring[num], idx, __ATOMIC_RELAXED);
}

/* Did [old, idx) pass @event? Indices count modulo 2^16. */
static inline bool gr__ring_passed(uint16_t event, uint16_t idx, uint16_t old)
{
	return (uint16_t)(idx - event - 1) < (uint16_t)(idx - old);
}

/* ----------------------------------------------------------------------------------- packed */

/* The two bits that say whose a descriptor is, in the round that @wrap tells. */
static inline uint16_t gr__packed_available_flags(bool wrap)
{
	return wrap ? WIRE_DESC_AVAIL : WIRE_DESC_USED;
}

static inline uint16_t gr__packed_used_flags(bool wrap)
{
	return wrap ? WIRE_DESC_AVAIL | WIRE_DESC_USED : 0;
}

static inline bool gr__packed_is_available(const struct gr__ring *ring, unsigned at, bool wrap)
{
	GR_POINT("ring.packed_flags");
	/* pairs: see head */
	return (__atomic_load_n(&ring->packed[at].flags, __ATOMIC_ACQUIRE) &
		(WIRE_DESC_AVAIL | WIRE_DESC_USED)) == gr__packed_available_flags(wrap);
}

/* The descriptor at @at is the driver's again, and tells of buffer @id. */
static inline void gr__packed_set_used(const struct gr__ring *ring, unsigned at, uint16_t id,
				       uint32_t length)
{
	__atomic_store_n(&ring->packed[at].id, id, __ATOMIC_RELAXED);
	__atomic_store_n(&ring->packed[at].length, length, __ATOMIC_RELAXED);
}

static inline void gr__packed_publish_used(const struct gr__ring *ring, unsigned at, bool wrote,
					   bool wrap)
{
	uint16_t flags = (wrote ? WIRE_DESC_WRITE : 0) | gr__packed_used_flags(wrap);

	__atomic_store_n(&ring->packed[at].flags, flags, __ATOMIC_RELEASE); /* pairs: see head */
}

static inline uint32_t gr__packed_driver_event(const struct gr__ring *ring)
{
	GR_POINT("ring.driver_event");
	return __atomic_load_n(ring->driver_event, __ATOMIC_RELAXED);
}

static inline void gr__packed_set_device_event(const struct gr__ring *ring, uint32_t event)
{
	__atomic_store_n(ring->device_event, event, __ATOMIC_RELAXED);
}

/*
 * Is @event, an index with its wrap counter, one of the @moved descriptors from @old on? Places
 * count modulo two rounds.
 */
static inline bool gr__packed_passed(uint16_t event, uint16_t old, bool old_wrap, uint32_t moved,
				     uint32_t num)
{
	uint32_t ahead = event & ~WIRE_WRAP;

	if (!!(event & WIRE_WRAP) != old_wrap)
		ahead += num;
	ahead += 2 * num - old;
	return ahead % (2 * num) < moved;
}

#endif
