/* SPDX-License-Identifier: MIT */
/*
 * Blocks whose memory is seen through windows: another domain's pages, or a file that is larger
 * than the address space allowed. Included by <guestram.h>. How to use them: docs/foreign.md.
 *
 * A window is window_size bytes of the block, mapped when somebody looks there and unmapped when
 * others are wanted more. At most max_windows can be found by lookups; those that were taken out
 * stay mapped until the read sections and pins that may know them have ended, and these are at most
 * as many again. So a block never has more than 2 * max_windows mapped.
 *
 * What differs from other blocks:
 *  - A block has no host address: gr_block_info.host and gr_range.host are NULL, and
 *    gr_block_by_host() never finds it.
 *  - A lookup that finds no window maps one: it takes a lock, makes a system call or calls
 *    gr_foreign_ops.map, and can fail. One that finds a window stores its time of last use there,
 *    if another window was mapped since; else nothing.
 *  - A piece ends where its window does: gr_host() gives NULL and gr_pin() -EXDEV across that,
 *    gr_spans() and gr_pin_spans() give a piece for each window, loads and stores work.
 *  - A host pointer that was given out stays valid until the end of the section, whatever else is
 *    looked up. So when windows run out, a lookup inside the caller's section fails: gr_host()
 * gives NULL, the others -ENOBUFS. gr_load(), gr_store(), gr_fill(), gr_pin() and their like,
 * called outside of sections and callbacks, wait for the readers instead (not under
 * embedder_reclaim).
 */
#ifndef GUESTRAM_FOREIGN_H
#define GUESTRAM_FOREIGN_H

#include <guestram/fast.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef GR_API
#define GR_API __attribute__((visibility("default")))
#endif

struct gr_block;

/**
 * struct gr_foreign_ops - how windows of a GR_BACKING_FOREIGN block come and go
 * @map:     make @length bytes from @offset on accessible (@access: GR_READ, or with GR_WRITE) and
 *           tell where. On an error *host is not looked at; NULL, MAP_FAILED and what is no
 *           multiple of the page size count as -EIO, as does -EAGAIN. The block's last window may
 * be shorter
 * @unmap:   the end of one mapping, exactly once for each
 * @discard: give pages back; then windows over them are mapped anew. NULL: gr_block_discard() is
 *           -ENOTSUP
 * @release: the block is gone and so is its last window; called once. Not for a block that was
 *           never made. May be NULL
 *
 * They return 0 or a negative errno.
 *
 * Context: @map inside a read section, on the thread that looks; the others on any thread. No lock
 * of the library is held. May call gr_ functions except those that wait; a lookup in here of the
 * window that is being mapped would never end.
 */
struct gr_foreign_ops {
	int (*map)(void *context, uint64_t offset, uint64_t length, unsigned access, void **host);
	void (*unmap)(void *context, void *host, uint64_t length);
	int (*discard)(void *context, uint64_t offset, uint64_t length);
	void (*release)(void *context);
};

/**
 * gr_foreign_invalidate() - the memory behind a part of a block has changed its place
 * @offset, @length: within max_length; windows that overlap them are meant, and mappings under way
 *
 * From its return on no lookup finds a window that was mapped before the call, and all of these are
 * unmapped but for pinned ones, which go with their last pin.
 *
 * Context: any thread; waits for readers; -EDEADLK inside a read section or callback.
 * Return: 0, -EBUSY some of them are pinned (out of sight they are; ask again to learn whether they
 * are gone), -EINVAL the block has no windows, -ERANGE, -EDEADLK, -ENOTSUP in a forked child. Since
 * 0.1.
 */
GR_API int gr_foreign_invalidate(struct gr_block *block, uint64_t offset, uint64_t length);

/**
 * struct gr_foreign_stats - the windows of a block at one moment; hits are not counted
 * @window_size, @max_windows: as in use
 * @published:   windows that lookups find
 * @retired:     others that are still mapped, for the sake of readers and pins
 * @mapping:     being mapped
 * @misses:      windows that lookups began to map, since the block was made
 * @failures:    of those, where the mapping failed
 * @evictions:   windows taken out to make room
 * @invalidated: windows taken out by gr_foreign_invalidate(), discard and resize
 * @waits:       times that there was no room for a window, so that a lookup had to wait or fail
 */
struct gr_foreign_stats {
	uint64_t window_size;
	uint64_t max_windows;
	uint64_t published;
	uint64_t retired;
	uint64_t mapping;
	uint64_t misses;
	uint64_t failures;
	uint64_t evictions;
	uint64_t invalidated;
	uint64_t waits;
	uint64_t reserved[8];
};

/**
 * gr_foreign_get_stats() - the figures of one block's windows
 *
 * Context: any thread that knows @block to be alive; may wait for a miss on another thread.
 * Return: 0, -EINVAL the block has no windows, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_foreign_get_stats(struct gr_block *block, struct gr_foreign_stats *stats);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_FOREIGN_H */
