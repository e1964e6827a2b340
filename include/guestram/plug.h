/* SPDX-License-Identifier: MIT */
/*
 * Memory that comes and goes inside a block: granules that are plugged or not (as virtio-mem has
 * them), free-page hints, and a balloon.
 *
 * Where a block is mapped by gr_space_map(), unplugged granules read as zero; where it is mapped by
 * gr_plug_map(), a *strict window*, there is no memory at their addresses, and plugged runs are
 * ranges as any others. See docs/plug.md.
 */
#ifndef GUESTRAM_PLUG_H
#define GUESTRAM_PLUG_H

#include <guestram.h>

#ifdef __cplusplus
extern "C" {
#endif

/* -------------------------------------------------------------------------------------- granules
 */

/* One block's granules; the name with `struct` is the object, gr_plug_…() are its functions. */
struct gr_plug;

/**
 * struct gr_plug_opts - all zero is a good default
 * @granule: bytes, a power of two, a multiple of the block's page size; the block's max_length is a
 *           multiple of it. 0: 2 MiB, or the page size where that is larger
 */
struct gr_plug_opts {
	uint64_t granule;
	uint64_t reserved[7]; /* zero */
};

/**
 * gr_plug_open() - a block becomes granules, none of them plugged
 * @opts: NULL for the defaults
 * @plug: result; ends with gr_plug_close()
 *
 * What the block held is discarded. It may be mapped in spaces: there it reads as zero now. Until
 * gr_plug_close() it cannot be deleted nor its RAM closed, nobody can forbid told discards of it
 * (GR_DISCARD_NEED_TOLD is claimed), and granules that are not plugged cannot be pinned.
 *
 * Context: any thread; waits for readers; not inside a read section or callback.
 * Return: 0, -EINVAL, -EEXIST it has granules already, -EBUSY (it is pinned, being changed, or a
 * claim forbids discards), -EACCES (read-only), -ENOTSUP (memory that is the caller's, or a private
 * file's, which does not become zero; or that is seen through windows), -ENOMEM, -EDEADLK, or the
 * error of the discard. Since 0.1.
 */
GR_API int gr_plug_open(struct gr_block *block, const struct gr_plug_opts *opts,
			struct gr_plug **plug);

/**
 * gr_plug_close() - the block is ordinary memory again, all of it zero
 *
 * Its granules must be unplugged and its windows unmapped before.
 *
 * Context: as gr_plug_open(). Return: 0 (NULL too), -EBUSY granules are plugged, windows are mapped
 * or another thread is changing it, -EDEADLK, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_plug_close(struct gr_plug *plug);

/**
 * gr_plug_add() - plug granules, all or none
 * @offset, @length: in the block, multiples of the granule, within its used length; length > 0
 *
 * They read as zero at first. Of blocks made with GR_PREALLOC, and of huge pages, they have their
 * memory before anybody sees them. Listeners hear granules_plugging and may refuse. Then the
 * granules appear in all strict windows of all spaces, in each as one change; a run that touches
 * another becomes one range with it.
 *
 * Context: any thread, also inside read sections and callbacks; does not wait for readers.
 * Return: 0, -EINVAL, -ERANGE, -EEXIST one of them is plugged, -EBUSY another thread is changing
 * the granules or the block, -ENOMEM, -ENOSPC, -ENOTSUP in a forked child, or what a listener
 * refused with; nothing changed then. Since 0.1.
 */
GR_API int gr_plug_add(struct gr_plug *plug, uint64_t offset, uint64_t length);

/**
 * gr_plug_remove() - unplug granules and give their memory back, all or none
 * @offset, @length: as for gr_plug_add()
 *
 * In this order: claims are asked, and pins (no new ones from here on); listeners hear
 * granules_unplugging and may refuse; the granules leave all strict windows; readers are waited
 * for; the memory is discarded. A failure at any of these undoes those before it. There is one
 * exception: when the discard fails and then memory is lacking to show the granules again, they
 * stay unplugged (gr_plug_is() tells, and the log does).
 *
 * Context: any thread; waits for readers; not inside a read section or callback.
 * Return: 0, -EINVAL, -ERANGE, -ENOENT one of them is not plugged, -EBUSY (one is pinned, a claim
 * forbids it, or another thread is changing the granules or the block), -ENOMEM, -EDEADLK,
 * -ENOTSUP in a forked child, the error of the discard, or what a listener refused with. Since 0.1.
 */
GR_API int gr_plug_remove(struct gr_plug *plug, uint64_t offset, uint64_t length);

/**
 * gr_plug_remove_all() - as gr_plug_remove() for all that is plugged, in one change
 *
 * Where several runs are plugged and the discard fails for one that is not the first, there is no
 * way back, since bytes are gone: all are unplugged then, the log tells, and the memory that is
 * left is given back when it is plugged and unplugged again. Since 0.1.
 */
GR_API int gr_plug_remove_all(struct gr_plug *plug);

enum gr_plug_state {
	GR_PLUG_NONE,
	GR_PLUG_ALL,
	GR_PLUG_MIXED,
};

/**
 * gr_plug_is() - how much of a piece is plugged
 * @offset, @length: any, > 0, within the block's max_length; granules that they touch count
 *
 * Context: any thread; no lock, no wait. While a change is published, of several granules some may
 * count as before it and some as after it.
 * Return: enum gr_plug_state, -ERANGE, -EINVAL. Since 0.1.
 */
GR_API int gr_plug_is(const struct gr_plug *plug, uint64_t offset, uint64_t length);

/** gr_plug_bytes() - plugged now. Context: any thread; no lock, no wait. Since 0.1. */
GR_API uint64_t gr_plug_bytes(const struct gr_plug *plug);

/** gr_plug_granule() / gr_plug_block() - what it was opened with. Since 0.1. */
GR_API uint64_t gr_plug_granule(const struct gr_plug *plug);
GR_API struct gr_block *gr_plug_block(const struct gr_plug *plug);

/**
 * gr_plug_of() - the granules of a block
 *
 * Context: inside a read section, at whose end the result dies unless the caller knows better; no
 * lock, no wait. Return: NULL when none are open. Since 0.1.
 */
GR_API struct gr_plug *gr_plug_of(const struct gr_block *block);

/**
 * gr_plug_each() - call @fn for each plugged run, by rising offset, as they are at one moment
 *
 * Context: any thread; may wait for a writer. @fn runs with no lock held. Return: 0, the first
 * non-zero that @fn returned, -ENOMEM, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_plug_each(struct gr_plug *plug,
			int (*fn)(void *context, uint64_t offset, uint64_t length), void *context);

/**
 * gr_plug_map() - a strict window: the plugged granules of a piece, and nothing else
 * @addr, @access:   as for gr_space_map()
 * @offset, @length: in the block, multiples of the granule, within its max_length
 *
 * The window's addresses are its own until gr_plug_unmap(), those of unplugged granules too:
 * gr_space_map() there is -EEXIST, gr_space_unmap() is -EBUSY.
 *
 * Context and return as gr_space_map(), and -EBUSY while another thread is changing the granules.
 * Since 0.1.
 */
GR_API int gr_plug_map(struct gr_plug *plug, struct gr_space *space, uint64_t addr, uint64_t offset,
		       uint64_t length, unsigned access);

/**
 * gr_plug_unmap() - take away the strict window that begins at @addr
 *
 * Context: as gr_space_unmap(). Return: 0, -ENOENT no window of @plug begins there, -EBUSY another
 * thread is changing the granules, -ENOMEM, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_plug_unmap(struct gr_plug *plug, struct gr_space *space, uint64_t addr);

/* ------------------------------------------------------------------------- hints and the balloon
 */

/**
 * gr_hint_free() - the guest says that it does not need what is there
 * @addr, @length: any; length 0 does nothing
 *
 * Pages of the backing that lie whole inside the piece are discarded, never a partial one; so a
 * hint of 64 KiB frees nothing of a 2 MiB page. The range is checked first; from then on it is done
 * as far as it goes.
 *
 * Context: any thread, also inside a read section; does not wait for readers.
 * Return: bytes that were given back; -EFAULT, -EACCES (not writable), -ERANGE, with nothing
 * changed; or when nothing could be given back, why: as gr_block_discard(). Since 0.1.
 */
GR_API int64_t gr_hint_free(struct gr_space *space, uint64_t addr, uint64_t length);

struct gr_balloon;

/**
 * gr_balloon_open() - a balloon for the guest that lives in @space
 * @balloon: result; ends with gr_balloon_close()
 *
 * It claims GR_DISCARD_NEED for the whole RAM, and listens; the space cannot be closed meanwhile.
 *
 * Context: any thread, not under a lock that listeners of the RAM take.
 * Return: 0, -EBUSY discards are forbidden (the reason is said) or the space is being closed,
 * -ENOMEM, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_balloon_open(struct gr_space *space, struct gr_balloon **balloon);

/**
 * gr_balloon_inflate() - the guest gives pages of 4 KiB to the balloon
 * @addr, @length: multiples of GR_PAGE_SIZE
 *
 * A page of the backing is discarded when all of it is in the balloon; a larger one waits for the
 * rest of it. Pages that are in it already are no error. A page is known by its memory, so it is in
 * the balloon once, wherever it is mapped; what is unmapped from the space, or whose block is
 * deleted, is in it no longer.
 *
 * Context: any thread; does not wait for readers; not inside a callback of the RAM.
 * Return: 0, -EFAULT, -EACCES (not writable), -ERANGE, -EINVAL, -ENOTSUP (foreign memory), -EBUSY,
 * -ENOMEM or the error of a discard: the pages are not in the balloon then but for those that were
 * before. Since 0.1.
 */
GR_API int gr_balloon_inflate(struct gr_balloon *balloon, uint64_t addr, uint64_t length);

/**
 * gr_balloon_deflate() - the guest takes pages back; they read as zero, or as they were
 *
 * Pages that are not in the balloon are no error.
 *
 * Context: as gr_balloon_inflate(). Return: 0, -EFAULT, -EACCES, -ERANGE, -EINVAL, -ENOTSUP;
 * nothing changed then. Since 0.1.
 */
GR_API int gr_balloon_deflate(struct gr_balloon *balloon, uint64_t addr, uint64_t length);

/** gr_balloon_bytes() - in the balloon now. Context: any thread, may wait for another user of the
 * balloon. Since 0.1. */
GR_API uint64_t gr_balloon_bytes(struct gr_balloon *balloon);

/**
 * gr_balloon_close() - forget it; what was given back stays so
 *
 * Context: any thread; waits for callbacks that are running; not inside a read section or callback.
 * Return: 0 (NULL too), -EDEADLK, -ENOMEM, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_balloon_close(struct gr_balloon *balloon);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_PLUG_H */
