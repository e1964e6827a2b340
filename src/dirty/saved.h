/* SPDX-License-Identifier: MIT */
/*
 * Pages that a source has learnt of and has not reported yet: a bit for each 4 KiB of each block
 * that is tracked. For sources whose logs are not kept by block, and end before anybody asks.
 *
 * Threads: none of its own; under a lock of the source's.
 */
#ifndef GR__DIRTY_SAVED_H
#define GR__DIRTY_SAVED_H

#include <guestram/dirty.h>
#include <urcu/list.h>

struct gr__saved {
	struct cds_list_head node;
	struct gr_block *block;
	uint64_t pages;
	uint64_t words[];
};

/* None for a block that comes; NULL, said, for want of memory. */
struct gr__saved *gr__saved_new(struct gr_block *block);
/* NULL when the block is not among them. */
struct gr__saved *gr__saved_find(struct cds_list_head *all, const struct gr_block *block);
/* Of @all, as the block goes. */
void gr__saved_forget(struct cds_list_head *all, const struct gr_block *block);

/* This part was written; cut at the block's end. @saved may be NULL: nobody asks. */
void gr__saved_put(struct gr__saved *saved, uint64_t offset, uint64_t length);
/* Report those of a part, more than nothing, and have them no more. */
void gr__saved_report(struct gr__saved *saved, uint64_t offset, uint64_t length,
		      struct gr_dirty_sink *sink);

#endif
