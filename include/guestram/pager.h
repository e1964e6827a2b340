/* SPDX-License-Identifier: MIT */
/*
 * Memory that comes when it is touched: faults answered from a source of pages, and the rest
 * fetched behind them.
 *
 *    guest ─ touches ─► userfaultfd ─► one thread: events, and every copy into the memory
 *                                        │ ▲
 *                        what must wait  ▼ │  buffers with bytes
 *                                     workers ─► source (a snapshot, an image, a store)
 *
 * gr_pager_open() does that for blocks of this process, gr_pager_server_open() for monitors that
 * hand over their userfaultfd through a socket. Both end by themselves when all is there.
 *
 * Caveats first:
 *  - A source that fails stalls those who touch missing pages. It is asked again and again, and the
 *    figures and the log tell; nothing else is ever put in the place of its bytes.
 *  - Who touches a page that is missing must be allowed to wait: not with a lock that the source
 *    needs.
 *  - Another process that maps the same shared memory finds zeroes where pages are missing, and
 *    makes them stay so. Let it in when all is there.
 *  - A fault inside a system call needs the right to handle it: vm.unprivileged_userfaultfd = 1, or
 *    CAP_SYS_PTRACE.
 */
#ifndef GUESTRAM_PAGER_H
#define GUESTRAM_PAGER_H

#include <guestram.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------- sources of pages */

/** enum gr_pages - what a source has somewhere. */
enum gr_pages {
	GR_PAGES_DATA = 0,
	GR_PAGES_ZERO = 1,
};

/**
 * struct gr_page_source_info - one of the blocks that a source has
 * @length: bytes
 * @chunk:  reads that begin and end at multiples of it cost least (packed chunks, objects of a
 *          store); a power of two, or 0: no matter
 */
struct gr_page_source_info {
	uint64_t length;
	uint64_t chunk;
	uint64_t reserved[6];
};

/**
 * struct gr_page_source_ops - where pages come from; constant, outlives the source
 * @find:  the number of the block of that name, 0 or more, and what is known of it; -ENOENT. A NULL
 *         name asks for the first. Called when a pager opens
 * @look:  what is at @offset, and for how many bytes from there on, at most *length, that holds:
 *         enum gr_pages or -errno. *length comes and goes > 0, a multiple of 4 KiB. Must not wait:
 *         it is asked while a guest waits. NULL: data all over
 * @read:  @length bytes at @offset, both multiples of 4 KiB, within the block; may wait. All of
 *         them, or -errno: whatever it is, it is asked again later
 * @place: where those bytes lie in a file just as they are: the descriptor (the source's), the
 *         offset in it, and for how many bytes from there on, at most *length, that holds.
 * -ENOTSUP: they do not (they are packed, or remote). Must not wait. NULL: never. Pages that are in
 *         the page cache then need no worker, and shared ones no copy
 * @close: from gr_page_source_close(), when nobody uses it any more. May be NULL
 *
 * Context: any thread, several at once, no lock held. They must not touch memory that the pager
 * still fills.
 */
struct gr_page_source_ops {
	int (*find)(void *context, const char *name, struct gr_page_source_info *info);
	int (*look)(void *context, int block, uint64_t offset, uint64_t *length);
	int (*read)(void *context, int block, uint64_t offset, void *buf, uint64_t length);
	int (*place)(void *context, int block, uint64_t offset, uint64_t *length, int *fd,
		     uint64_t *fd_offset);
	void (*close)(void *context);
	void *reserved[3]; /* NULL */
};

/** struct gr_page_source - a source: its functions, and their first argument; may be copied. */
struct gr_page_source {
	const struct gr_page_source_ops *ops;
	void *context;
};

/**
 * gr_image_source_open() - a raw image of memory as a source: the byte at an offset of the memory
 * is the one at that offset of the file
 * @source: result; ends with gr_page_source_close()
 *
 * It has one block, which any name finds. Holes of the file are zero; they are looked up once,
 * here. The file must not change while it is used; its last page may be cut, the rest of that is
 * zero.
 *
 * Context: any thread. Return: 0, -EINVAL (not a regular file, or an empty one), -ENOMEM, or the
 * error of a system call on the file. Since 0.1.
 */
GR_API int gr_image_source_open(const char *path, struct gr_page_source *source);

/** gr_page_source_close() - end it, when no pager uses it; closed or NULL ones are left alone.
 * Since 0.1. */
GR_API void gr_page_source_close(struct gr_page_source *source);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_PAGER_H */
