/* SPDX-License-Identifier: MIT */
/*
 * What a clone wrote over a block of the base, page by page: a sparse file without a name, and a
 * bit for each page that is in it. What cannot be kept is marked as lost, and is an error from then
 * on: the older bytes would be the wrong ones.
 *
 * Calls return 0 or -errno; ranges lie within the block, at any offset. Threads: any number; reads
 * and writes of the same bytes at once give either.
 */
#ifndef GR__MOUNT_OVERLAY_H
#define GR__MOUNT_OVERLAY_H

#include "mount/base.h"
#include <stdbool.h>

struct gr__mount_overlay;

/* @directory: of the file; NULL: in memory. @base and @block outlive it. */
int gr__mount_overlay_new(const char *directory, struct gr__mount_base *base,
			  const struct gr__mount_block *block, struct gr__mount_overlay **overlay);
/* NULL does nothing. */
void gr__mount_overlay_free(struct gr__mount_overlay *overlay);

int gr__mount_overlay_read(struct gr__mount_overlay *overlay, uint64_t offset, void *buf,
			   uint64_t length);
int gr__mount_overlay_write(struct gr__mount_overlay *overlay, uint64_t offset, const void *buf,
			    uint64_t length);
/* Zero from now on; whole pages give their memory back. */
int gr__mount_overlay_punch(struct gr__mount_overlay *overlay, uint64_t offset, uint64_t length);

/* As gr__mount_base_look(). */
int gr__mount_overlay_look(struct gr__mount_overlay *overlay, uint64_t offset, uint64_t *length);

/*
 * All that was written through mappings is here: said to @who, a number other than 0, who is
 * remembered until somebody else is told.
 */
void gr__mount_overlay_sync(struct gr__mount_overlay *overlay, uint64_t who);
bool gr__mount_overlay_was_synced(const struct gr__mount_overlay *overlay, uint64_t who);

/* Bytes of pages that are no longer the base's. */
uint64_t gr__mount_overlay_bytes(const struct gr__mount_overlay *overlay);

#endif
