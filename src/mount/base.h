/* SPDX-License-Identifier: MIT */
/*
 * The bytes that all clones share: a page source, read at any offset, with a bounded cache of its
 * chunks before it. A chunk is asked for once, whoever waits for it.
 *
 * Calls return 0 or -errno. Threads: any number.
 */
#ifndef GR__MOUNT_BASE_H
#define GR__MOUNT_BASE_H

#include <guestram/pager.h>
#include <stdint.h>

/* A block that is shown: its name in the file system, number in the source, bytes. */
struct gr__mount_block {
	const char *name;
	int block;
	uint64_t length;
	uint64_t chunk; /* of the source; 0: it has none */
};

struct gr__mount_base;

/* @chunk: the largest of all blocks; @cache: bytes for chunks, at least two of them are had. */
int gr__mount_base_new(const struct gr_page_source *source, uint64_t chunk, uint64_t cache,
		       struct gr__mount_base **base);
/* The source stays its owner's. NULL does nothing. */
void gr__mount_base_free(struct gr__mount_base *base);

/* Bytes within the block, at any offset; or what the source failed with, then @buf is of no use. */
int gr__mount_base_read(struct gr__mount_base *base, const struct gr__mount_block *block,
			uint64_t offset, void *buf, uint64_t length);

/*
 * enum gr_pages at @offset, a multiple of 4 KiB below the block's length, and in *length for how
 * many bytes from there on; or -errno.
 */
int gr__mount_base_look(const struct gr__mount_base *base, const struct gr__mount_block *block,
			uint64_t offset, uint64_t *length);

#endif
