/* SPDX-License-Identifier: MIT */
/*
 * Reading and writing guest memory by guest address. Included by <guestram.h>.
 *
 * Each call is a read section of its own (they nest, so a caller may hold one around many), works
 * across range seams, and is all or nothing: on an error no byte was moved. Length 0 succeeds at
 * any address and touches nothing. Guest memory changes at any time: read once, check the copy, use
 * it.
 *
 * Memory that is seen through windows (<guestram/foreign.h>) is mapped before the first byte is
 * moved, up to 16 windows; what needs more of them, or more than the block may have at once, is
 * moved piece by piece. Outside of sections that may wait for readers. More errors there: what
 * mapping a window failed with, which in the middle of such a long access leaves a part moved, and
 * -ENOBUFS, no window can be had now.
 *
 * Values that lie naturally aligned in one range are moved by one machine access (single-copy
 * atomic), relaxed; order them with the fences of <stdatomic.h>. Others are moved as bytes.
 * gr_load_u32() and its like use the host's byte order, _le and _be the named one.
 *
 * Return everywhere: 0, -EFAULT (a byte has no memory), -EACCES, -ERANGE (wraps). Since 0.1.
 */
#ifndef GUESTRAM_ACCESS_H
#define GUESTRAM_ACCESS_H

#include <guestram/fast.h>
#include <guestram/mark.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef GR_API
#define GR_API __attribute__((visibility("default")))
#endif

/* What does not lie in one range with the right access. In the caller's read section. */
GR_API int gr__load_slow(struct gr_space *space, uint64_t addr, void *buf, uint64_t length);
GR_API int gr__store_slow(struct gr_space *space, uint64_t addr, const void *buf, uint64_t length);
GR_API int gr__fill_slow(struct gr_space *space, uint64_t addr, int byte, uint64_t length);

/**
 * gr_load() / gr_store() / gr_fill() - copy guest memory out, copy into it, fill it with a byte
 *
 * They work across range seams. On an error no byte was moved. Length 0 succeeds at any address.
 *
 * Context: any thread, in or out of a read section; no lock, no wait.
 * Return: 0, -EFAULT (a byte has no memory), -EACCES, -ERANGE (wraps). Since 0.1.
 */
#ifdef GR__ACCESS_TWINS /* the library's own: symbols for those who cannot use inline functions */
GR_API int gr_load(struct gr_space *space, uint64_t addr, void *buf, uint64_t length);
GR_API int gr_store(struct gr_space *space, uint64_t addr, const void *buf, uint64_t length);
GR_API int gr_fill(struct gr_space *space, uint64_t addr, int byte, uint64_t length);
#else
static inline int gr_load(struct gr_space *space, uint64_t addr, void *buf, uint64_t length)
{
	const void *host;
	int rc = 0;

	gr_read_begin();
	host = gr_host(space, addr, length, 1u /* GR_READ */);
	if (gr_likely(host != NULL))
		memcpy(buf, host, length);
	else
		rc = gr__load_slow(space, addr, buf, length);
	gr_read_end();
	return rc;
}

static inline int gr_store(struct gr_space *space, uint64_t addr, const void *buf, uint64_t length)
{
	void *host;
	int rc = 0;

	gr_read_begin();
	host = gr_host(space, addr, length, 2u /* GR_WRITE */);
	if (gr_likely(host != NULL)) {
		memcpy(host, buf, length);
		gr_mark_host(host, length);
	} else {
		rc = gr__store_slow(space, addr, buf, length);
	}
	gr_read_end();
	return rc;
}

static inline int gr_fill(struct gr_space *space, uint64_t addr, int byte, uint64_t length)
{
	void *host;
	int rc = 0;

	gr_read_begin();
	host = gr_host(space, addr, length, 2u /* GR_WRITE */);
	if (gr_likely(host != NULL)) {
		memset(host, byte, length);
		gr_mark_host(host, length);
	} else {
		rc = gr__fill_slow(space, addr, byte, length);
	}
	gr_read_end();
	return rc;
}
#endif

/**
 * gr_cmpxchg_u32() / _u64() - compare and exchange, sequentially consistent
 * @expected: the value looked for; replaced by what was there when that differs
 *
 * Needs GR_READ and GR_WRITE.
 *
 * Context: any thread, in or out of a read section; no lock, no wait.
 * Return: 1 exchanged, 0 not; -EINVAL unaligned, -EFAULT, -EACCES. Since 0.1.
 */
GR_API int gr_cmpxchg_u32(struct gr_space *space, uint64_t addr, uint32_t *expected,
			  uint32_t desired);
GR_API int gr_cmpxchg_u64(struct gr_space *space, uint64_t addr, uint64_t *expected,
			  uint64_t desired);

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define GR__LE(bits, value) (value)
#define GR__BE(bits, value) GR__SWAP##bits(value)
#else
#define GR__LE(bits, value) GR__SWAP##bits(value)
#define GR__BE(bits, value) (value)
#endif
#define GR__NATIVE(bits, value) (value)
#define GR__SWAP16(value) __builtin_bswap16(value)
#define GR__SWAP32(value) __builtin_bswap32(value)
#define GR__SWAP64(value) __builtin_bswap64(value)

#define GR__ACCESSORS(bits, suffix, order)                                                         \
	static inline int gr_load_u##bits##suffix(struct gr_space *space, uint64_t addr,           \
						  uint##bits##_t *value)                           \
	{                                                                                          \
		const void *host;                                                                  \
		uint##bits##_t raw;                                                                \
		int rc = 0;                                                                        \
                                                                                                   \
		gr_read_begin();                                                                   \
		host = gr_host(space, addr, sizeof(raw), 1u /* GR_READ */);                        \
		if (gr_likely(host && !((uintptr_t)host & (sizeof(raw) - 1))))                     \
			raw = __atomic_load_n((const uint##bits##_t *)host, __ATOMIC_RELAXED);     \
		else if (host)                                                                     \
			memcpy(&raw, host, sizeof(raw));                                           \
		else                                                                               \
			rc = gr__load_slow(space, addr, &raw, sizeof(raw));                        \
		gr_read_end();                                                                     \
		if (gr_likely(!rc))                                                                \
			*value = order(bits, raw);                                                 \
		return rc;                                                                         \
	}                                                                                          \
	static inline int gr_store_u##bits##suffix(struct gr_space *space, uint64_t addr,          \
						   uint##bits##_t value)                           \
	{                                                                                          \
		uint##bits##_t raw = order(bits, value);                                           \
		void *host;                                                                        \
		int rc = 0;                                                                        \
                                                                                                   \
		gr_read_begin();                                                                   \
		host = gr_host(space, addr, sizeof(raw), 2u /* GR_WRITE */);                       \
		if (gr_likely(host && !((uintptr_t)host & (sizeof(raw) - 1)))) {                   \
			__atomic_store_n((uint##bits##_t *)host, raw, __ATOMIC_RELAXED);           \
			gr_mark_host(host, sizeof(raw));                                           \
		} else if (host) {                                                                 \
			memcpy(host, &raw, sizeof(raw));                                           \
			gr_mark_host(host, sizeof(raw));                                           \
		} else {                                                                           \
			rc = gr__store_slow(space, addr, &raw, sizeof(raw));                       \
		}                                                                                  \
		gr_read_end();                                                                     \
		return rc;                                                                         \
	}

/**
 * gr_load_u8() / gr_load_u16() / gr_load_u32() / gr_load_u64() / gr_load_u16_le() /
 * gr_load_u32_le() / gr_load_u64_le() / gr_load_u16_be() / gr_load_u32_be() / gr_load_u64_be() /
 * gr_store_u8() / gr_store_u16() / gr_store_u32() / gr_store_u64() / gr_store_u16_le() /
 * gr_store_u32_le() / gr_store_u64_le() / gr_store_u16_be() / gr_store_u32_be() /
 * gr_store_u64_be() - move a value from or to guest memory
 *
 * _le and _be are the value's byte order in the guest, without them it is the host's. A naturally
 * aligned value is moved by one machine access (single-copy atomic), relaxed.
 *
 * Context: any thread, in or out of a read section; no lock, no wait.
 * Return: 0, -EFAULT, -EACCES, -ERANGE (wraps); @value is written only on success. Since 0.1.
 */
GR__ACCESSORS(8, , GR__NATIVE)
GR__ACCESSORS(16, , GR__NATIVE)
GR__ACCESSORS(32, , GR__NATIVE)
GR__ACCESSORS(64, , GR__NATIVE)
GR__ACCESSORS(16, _le, GR__LE)
GR__ACCESSORS(32, _le, GR__LE)
GR__ACCESSORS(64, _le, GR__LE)
GR__ACCESSORS(16, _be, GR__BE)
GR__ACCESSORS(32, _be, GR__BE)
GR__ACCESSORS(64, _be, GR__BE)
#undef GR__ACCESSORS

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_ACCESS_H */
