/* SPDX-License-Identifier: MIT */
/*
 * The read path, inline: read sections, lookups, cursors. Included by <guestram.h>.
 *
 * Names with two underscores (gr__…) and the members of the structures here are internals that are
 * visible so that a lookup needs no call: they may change with the library's soname.
 *
 * A lookup
 *
 *      space ──► view ──► word of the address's granule (2 MiB) ──► host = addr + delta
 *
 *          flat: all ranges end below 64 GiB: the words stand right behind the view
 *          else: one slot for each GiB ──► leaf of 512 words
 *
 *      word:  host minus guest address, and in its low bits what is missing:
 *             INDIRECT (no one range covers the granule: ask the ranges), GR_WRITE, GR_READ
 *             so that one test of the bits that are asked for finds a hit
 *
 * Invariants: a view and all it points to are constant once published, and freed one grace period
 * after it is replaced. Nothing here stores to memory that another thread reads, except that
 * thread's own section count in liburcu.
 *
 * Read sections are liburcu's "memb" flavour (membarrier(2)): Desnoyers et al., "User-Level
 * Implementations of Read-Copy Update", IEEE TPDS 23(2), 2012.
 */
#ifndef GUESTRAM_FAST_H
#define GUESTRAM_FAST_H

#include <stddef.h>
#include <stdint.h>

/* before what a 32-bit host may not have */
#if UINTPTR_MAX != UINT64_MAX
#error "guestram needs a 64-bit host: a word of the index holds the distance of two 64-bit addresses"
#endif

#include <urcu/static/urcu-memb.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__SANITIZE_THREAD__)
#define GR__TSAN
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define GR__TSAN
#endif
#endif

/*
 * ThreadSanitizer sees neither side of liburcu's ordering, assembly in the reader and membarrier(2)
 * in the writer. So it is told the one thing that the library builds on: what a section did comes
 * before the return of the grace period that waited for it. gr_read_end() releases this address,
 * gr__synchronize() acquires it. Nothing is said the other way round: what a section sees of a
 * writer it must see through a pointer that it loads.
 */
#ifdef GR__TSAN
#include <sanitizer/tsan_interface.h>
#include <urcu/urcu-memb.h>
#define GR__TSAN_SECTIONS ((void *)&urcu_memb_gp)
#endif

#define gr_likely(x) __builtin_expect(!!(x), 1)
#define gr_unlikely(x) __builtin_expect(!!(x), 0)

#define GR_GRANULE_SHIFT 21
#define GR_GRANULE (UINT64_C(1) << GR_GRANULE_SHIFT)
#define GR__SLOT_SHIFT 30
#define GR__LEAF_WORDS (1u << (GR__SLOT_SHIFT - GR_GRANULE_SHIFT))

/* The low bits of a word. Both addresses are multiples of GR_PAGE_SIZE, so the delta leaves them.
 */
#define GR__WORD_INDIRECT UINT64_C(4)
#define GR__WORD_NONE UINT64_C(7) /* nothing here, or nothing simple */
#define GR__WORD_BITS UINT64_C(0xfff)

/*
 * What readers need of a view. const once published. Behind it in memory follow its words when it
 * is flat, else its slots, so that a lookup loads little but what depends on the address.
 */
struct gr_view {
	uint64_t generation;
	uint64_t flat_count; /* words; 0: not flat */
	uint64_t slot_first; /* number of the first slot's GiB */
	uint64_t slot_count;
};

/* What readers need of a space; the rest stands behind it, out of sight. */
struct gr_space {
	const struct gr_view *view; /* RCU: replaced by gr__builder_publish() */
};

/**
 * struct gr_cursor - a last-hit cache that its caller owns
 *
 * For one vCPU or one queue: never used by two threads at once. It is trusted only while its
 * generation is that of the view the caller's read section sees, so it can never give memory that
 * was unmapped before the section began. Made by gr_cursor_init(), needs no end, must not outlive
 * its space.
 */
struct gr_cursor {
	struct gr_space *space;
	uint64_t generation;
	uint64_t first;
	uint64_t length;
	uint64_t word;
};

__attribute__((visibility("default"), cold)) void gr__thread_register(void);
__attribute__((visibility("default"))) void *
gr__host_slow(const struct gr_view *view, uint64_t addr, uint64_t length, unsigned access);
__attribute__((visibility("default"))) void *
gr__cursor_slow(struct gr_cursor *cursor, uint64_t addr, uint64_t length, unsigned access);

/**
 * gr_read_begin() - enter a read section
 *
 * Sections nest. A thread needs no set-up: it is registered with liburcu on its first section and
 * unregistered when it exits. A program that uses urcu-memb itself registers its threads before
 * their first section here, and then owns that registration.
 *
 * Context: any thread, not a signal handler. About 1 ns. Since 0.1.
 */
static inline void gr_read_begin(void)
{
	if (gr_unlikely(!URCU_TLS(urcu_memb_reader).registered))
		gr__thread_register();
#ifdef GR__TSAN
	urcu_memb_read_lock(); /* not inline, so that liburcu's own races by design are not seen */
#else
	_urcu_memb_read_lock();
#endif
}

/** gr_read_end() - leave it: what was looked up inside is dead, unless it is pinned. Since 0.1. */
static inline void gr_read_end(void)
{
#ifdef GR__TSAN
	/* only where the outermost section ends: inner ones promise nothing */
	if ((URCU_TLS(urcu_memb_reader).ctr & URCU_GP_CTR_NEST_MASK) == URCU_GP_COUNT)
		__tsan_release(GR__TSAN_SECTIONS);
	urcu_memb_read_unlock();
#else
	_urcu_memb_read_unlock();
#endif
}

static inline const struct gr_view *gr__space_view(const struct gr_space *space)
{
#ifdef GR__TSAN
	return __atomic_load_n(&space->view, __ATOMIC_ACQUIRE);
#else
	/*
	 * Relaxed, and ordered by the address dependency of all that is read through it, as
	 * rcu_dereference() is; pairs with the release in gr__builder_publish().
	 */
	return __atomic_load_n(&space->view, __ATOMIC_RELAXED);
#endif
}

static inline uint64_t gr__view_word(const struct gr_view *view, uint64_t addr)
{
	uint64_t granule = addr >> GR_GRANULE_SHIFT;
	uint64_t slot;

	if (gr_likely(granule < view->flat_count))
		return ((const uint64_t *)(view + 1))[granule];
	slot = (addr >> GR__SLOT_SHIFT) - view->slot_first;
	if (gr_unlikely(slot >= view->slot_count))
		return GR__WORD_NONE;
	return ((const uint64_t *const *)(view + 1))[slot][granule % GR__LEAF_WORDS];
}

/* Do @length bytes at @addr, more than none, end in the granule they begin in? */
static inline int gr__in_one_granule(uint64_t addr, uint64_t length)
{
	uint64_t in_granule = addr & (GR_GRANULE - 1);

	if (__builtin_constant_p(length) && length && length <= GR_GRANULE)
		return in_granule <= GR_GRANULE - length;
	/* length 0 wraps to the largest number */
	return length - 1 < GR_GRANULE - in_granule;
}

static inline void *gr__word_host(uint64_t word, uint64_t addr)
{
	return (void *)(uintptr_t)(addr + (word & ~GR__WORD_BITS)); /* NOLINT */
}

/**
 * gr_host() - the host address of a guest range
 * @length: bytes, all within one range; 0 gives NULL
 * @access: the rights that are needed, GR_READ | GR_WRITE and no other bit; 0: any memory will do
 *
 * Context: inside a read section, at whose end the pointer dies. No lock, no store, no wait.
 * Return: the pointer, or NULL: no memory, not in one range, no rights, wraps, length 0. Since 0.1.
 */
static inline void *gr_host(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access)
{
	const struct gr_view *view = gr__space_view(space);
	uint64_t word = gr__view_word(view, addr);

	if (gr_likely(!(word & (access | GR__WORD_INDIRECT)) && gr__in_one_granule(addr, length)))
		return gr__word_host(word, addr);
	return gr__host_slow(view, addr, length, access);
}

/** gr_cursor_init() - an empty cursor over @space. Since 0.1. */
static inline void gr_cursor_init(struct gr_cursor *cursor, struct gr_space *space)
{
	cursor->space = space;
	cursor->generation = 0; /* no view has it */
	cursor->first = 0;
	cursor->length = 0;
	cursor->word = GR__WORD_NONE;
}

/*
 * Do @length bytes at @offset, more than none, lie in the @whole bytes of a cursor? Those are at
 * least a page when its generation is that of a view, so what is no longer than a page needs one
 * test.
 */
static inline int gr__in_stretch(uint64_t offset, uint64_t length, uint64_t whole)
{
	if (__builtin_constant_p(length) && length && length <= 4096)
		return offset <= whole - length;
	return offset < whole && length - 1 < whole - offset;
}

/** gr_cursor_host() - as gr_host(), faster when the same range is asked for again. Since 0.1. */
static inline void *gr_cursor_host(struct gr_cursor *cursor, uint64_t addr, uint64_t length,
				   unsigned access)
{
	const struct gr_view *view = gr__space_view(cursor->space);
	uint64_t offset = addr - cursor->first;

	if (gr_likely(view->generation == cursor->generation &&
		      gr__in_stretch(offset, length, cursor->length) && !(cursor->word & access)))
		return gr__word_host(cursor->word, addr);
	return gr__cursor_slow(cursor, addr, length, access);
}

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_FAST_H */
