/* SPDX-License-Identifier: MIT */
/*
 * Noting that guest memory was written, inline. Included by <guestram/access.h>.
 *
 * While somebody asks which pages change (<guestram/dirty.h>), each write of the library's own sets
 * a bit in a *log*: one bit for each 4 KiB of this process's address space, so that the place of a
 * bit follows from the host address alone and no block is looked up. The log is a reservation of
 * address space that has memory only where bits were set, 1/32,768 of what is tracked. While nobody
 * asks there is none, and a mark is one load and a test.
 *
 * Order. The data is stored first, then its bit; whoever harvests clears the bit first and reads
 * the page then. A bit that is set already is not stored again, so the load that finds it set must
 * not run ahead of the data's store: instead of a full barrier in each mark, the harvester has
 * every thread of the process pass one, between clearing and reading (membarrier(2),
 * MEMBARRIER_CMD_ PRIVATE_EXPEDITED). A mark before that barrier has its data visible; a mark after
 * it finds the bit clear. Kernels without that call get the barrier in the mark (gr__marks.slow).
 */
#ifndef GUESTRAM_MARK_H
#define GUESTRAM_MARK_H

#include <guestram/fast.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GR__MARK_SHIFT 12

/*
 * atomic; wr: src/ram/marks.c, under its lock. A mark that begins inside a read section may use
 * what it saw until the section's end.
 */
struct gr__marks {
	uintptr_t log;	/* where the bit of address 0 would be; 0: nobody asks */
	uintptr_t fine; /* the same with a bit for each KiB */
	int slow;	/* there is a fine log, or a mark needs a barrier */
};

extern __attribute__((visibility("default"))) struct gr__marks gr__marks;

__attribute__((visibility("default"))) void gr__mark_slow(const void *host, uint64_t length);

/**
 * gr_mark_host() - @length bytes at @host have just been written
 *
 * For those who write through host pointers: emulators, devices, code generators. gr_store() and
 * its like, gr_cmpxchg_u32() and _u64(), gr_fill(), the vhost-user server, and the end of a pin
 * with GR_WRITE mark by themselves. Call it after the last store, in the read section or under the
 * pin that @host comes from.
 *
 * Context: any thread; no lock, no wait. Memory outside of any block may be named, to no effect.
 * Since 0.1.
 */
static inline void gr_mark_host(const void *host, uint64_t length)
{
	uintptr_t log = __atomic_load_n(&gr__marks.log, __ATOMIC_RELAXED);
	uint64_t first = (uintptr_t)host >> GR__MARK_SHIFT;
	uint64_t bit, *word;

	if (gr_likely(!log))
		return;
	if (gr_unlikely(!length || first != ((uintptr_t)host + (length - 1)) >> GR__MARK_SHIFT ||
			__atomic_load_n(&gr__marks.slow, __ATOMIC_RELAXED))) {
		gr__mark_slow(host, length);
		return;
	}
	bit = UINT64_C(1) << (first & 63);
	word = (uint64_t *)log + (first >> 6); /* NOLINT */
	/* the compiler keeps the data's store in front; for the processor see above */
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	/* release: the data comes with the bit; pairs with the acquire in gr__marks_take() */
	if (!(__atomic_load_n(word, __ATOMIC_RELAXED) & bit))
		__atomic_fetch_or(word, bit, __ATOMIC_RELEASE);
}

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_MARK_H */
