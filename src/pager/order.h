/* SPDX-License-Identifier: MIT */
/*
 * A working set: which pages were touched first, in which order. Kept in a file of lines, in the
 * source's own numbering, so that it fits wherever the memory is mapped:
 *
 *   guestram working set 1
 *   block pc.ram                  what follows is in that block of the source ("block" alone: its
 * first) 1f000 2000                    offset and length in hexadecimal
 *
 * Threads: the caller serialises.
 */
#ifndef GR__ORDER_H
#define GR__ORDER_H

#include <guestram/pager.h>
#include <stddef.h>

struct gr__run_of {
	int block; /* of the source */
	uint64_t offset, length;
};

struct gr__order {
	struct gr__run_of *runs;
	size_t count, room;
};

/* One more touch; it joins the last run where it goes on. 0 or -ENOMEM. */
int gr__order_add(struct gr__order *order, int block, uint64_t offset, uint64_t length);
void gr__order_fini(struct gr__order *order);

/* 0 or -errno, said: -EBADMSG for what is no such file. Blocks that the source has not are left
 * out. */
int gr__order_load(struct gr__order *order, const char *path, const struct gr_page_source *source);

/* The name of a block of the source, NULL for its first. */
typedef const char *(*gr__order_name_fn)(void *context, int block);
/* The file is there whole, or as it was. 0 or -errno, said. */
int gr__order_save(const struct gr__order *order, const char *path, gr__order_name_fn name,
		   void *context);

#endif
