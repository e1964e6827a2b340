/* SPDX-License-Identifier: MIT */
/*
 * The blocks of a RAM while they are saved or loaded: kept, so that their memory stays and cannot
 * shrink; and which of their pages may have content.
 *
 * Threads: gr__held_may() under a lock of its caller's; the rest by one.
 */
#ifndef GR__SNAPSHOT_HOLD_H
#define GR__SNAPSHOT_HOLD_H

#include "os/pages.h"
#include "snapshot/snapshot.h"

struct gr__held {
	struct gr_block *block;
	char *host;
	uint64_t used;
	bool by_file;		 /* bytes are read from its file, which may have got shorter */
	struct gr__pages *pages; /* NULL: all may have content */
	uint64_t pages_length;
	bool unknown; /* the kernel does not tell: all may have content */
	/* what was asked last: nothing in [asked, first), perhaps something in [first, end) */
	uint64_t asked, first, end;
};

struct gr__holds {
	struct gr_ram *ram;
	struct gr__held *items; /* by RAM offset */
	unsigned count;
};

/* 0 or -errno, said. Blocks without a host address are -ENOTSUP. */
int gr__holds_take(struct gr_ram *ram, struct gr__holds *holds);
void gr__holds_drop(struct gr__holds *holds);
/* Is the set of blocks still this one? 0 or -EBUSY, said. Takes over used lengths. */
int gr__holds_check(struct gr__holds *holds);
/* What is known of pages is to be asked again. */
void gr__holds_forget(struct gr__holds *holds);

/*
 * Pages of a chunk that may have content; when there are none, *next is the next chunk that may
 * have some.
 */
uint64_t gr__held_may(struct gr__held *held, uint64_t number, uint64_t *next);

/* Can that chunk be read from the block's file, which fills no hole? */
static inline bool gr__held_reads_file(const struct gr__held *held, uint64_t number)
{
	return held->pages && held->pages->by_file &&
	       (number + 1) * WIRE_CHUNK <= held->pages_length;
}

#endif
