/* SPDX-License-Identifier: MIT */
/*
 * The front-end's memory: each of its regions is a block, mapped in two spaces.
 *
 *   fd, offset, size ──► block ──► gpa space     descriptors
 *                              └─► uaddr space   rings
 *
 * Threads: changes on the server's thread; queues read the spaces all the while. lock guards the
 * times of removals, which the reclaim thread reads.
 * Invariant: regions[] says what is mapped, in both spaces alike; a change that fails has changed
 * nothing, except -EIO, after which the caller drops the connection. prepared[] are mapped in the
 * process and in no space.
 */
#ifndef GR__VHOST_MEMORY_H
#define GR__VHOST_MEMORY_H

#include "vhost/wire.h"
#include <guestram.h>
#include <pthread.h>
#include <stdbool.h>

#define GR__MEMORY_SLOTS 509
#define GR__MEMORY_TIMES 64

struct gr__region {
	struct wire_region wire;
	struct gr_block *block;
	uint64_t block_offset; /* of the region's first byte: huge pages begin lower */
};

struct gr__memory {
	struct gr_ram *ram;
	struct gr_space *gpa, *uaddr;
	bool survive;	 /* GR_SURVIVE_TRUNCATION where a file can shrink */
	uint64_t serial; /* for names */
	unsigned count;
	struct gr__region regions[GR__MEMORY_SLOTS];
	/* Regions, or none, that wait for the front-end's word in postcopy; a whole table of them?
	 */
	bool prepared_waits, prepared_whole;
	unsigned prepared_count;
	struct gr__region prepared[GR__MEMORY_SLOTS];
	/* Blocks of no region any more that could not be deleted (-ENOMEM); tried again. */
	unsigned leftover_count;
	struct gr_block *leftovers[2 * GR__MEMORY_SLOTS];

	struct gr_listener *listener;
	pthread_mutex_t lock;
	struct {
		uint64_t ram_offset;
		uint64_t at;	     /* ns, 0: free */
	} removed[GR__MEMORY_TIMES]; /* lock; the newest ones */
	unsigned removed_next;	     /* lock */
	uint64_t last_reclaim_us;    /* atomic, relaxed */
	uint64_t changes;	     /* atomic, relaxed; one writer */
};

int gr__memory_open(struct gr__memory *memory, const struct gr_ram_opts *opts, bool survive);
/* 0, or what gr_ram_close() failed with, and then nothing has changed. NULL RAM: 0. */
int gr__memory_close(struct gr__memory *memory);

/* All return 0 or -errno; descriptors stay the caller's. */
int gr__memory_set(struct gr__memory *memory, const struct wire_region *regions, const int *fds,
		   unsigned count);
int gr__memory_add(struct gr__memory *memory, const struct wire_region *region, int fd);
int gr__memory_remove(struct gr__memory *memory, const struct wire_region *region);
/*
 * The same in two steps. What is prepared is touched by nobody, and more may follow; its memory
 * survives the loss of pages. @whole: a whole table.
 */
int gr__memory_prepare(struct gr__memory *memory, const struct wire_region *regions, const int *fds,
		       unsigned count, bool whole);
int gr__memory_publish_prepared(struct gr__memory *memory);
void gr__memory_forget_prepared(struct gr__memory *memory);
/* The guest's address of @uaddr, and true; false: no region has it. The server's thread. */
bool gr__memory_find_uaddr(const struct gr__memory *memory, uint64_t uaddr, uint64_t *gpa);
/* The connection ended: all regions go. -ENOMEM: not all could, so nobody else may come yet. */
int gr__memory_clear(struct gr__memory *memory);

#endif
