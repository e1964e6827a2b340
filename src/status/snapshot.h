/* SPDX-License-Identifier: MIT */
/*
 * What one RAM was at one moment, copied out of it, so that nothing of the RAM is held while a
 * document is made of it.
 */
#ifndef GR__STATUS_SNAPSHOT_H
#define GR__STATUS_SNAPSHOT_H

#include "ram/ram.h"

struct gr__seen_range {
	uint64_t addr, length, visible, offset;
	const void *host;
	unsigned access;
	size_t block; /* index in blocks */
};

struct gr__seen_space {
	char *name;
	uint64_t generation;
	struct gr__seen_range *ranges;
	size_t count;
};

struct gr__seen_block {
	char *name;
	struct gr_block_info info; /* name is the above, host and fd are numbers only */
	uint64_t inode;		   /* of its file; 0: none or not known */
	char *path;		   /* of its file, or NULL */
	uint64_t resident;	   /* UINT64_MAX: not known */
	uint64_t granule, plugged; /* bytes; 0: it has no granules now */
};

struct gr__seen_pending {
	char *name;
	uint64_t bytes, pins, waited_ns;
};

struct gr__snapshot {
	uint64_t number;
	struct gr_ram_stats stats;
	struct gr__seen_space *spaces;
	size_t space_count;
	struct gr__seen_block *blocks; /* by RAM offset */
	size_t block_count;
	struct gr__seen_pending *pending; /* in order of deletion */
	size_t pending_count;
};

/* 0 or -ENOMEM; the caller keeps @ram open, and ends the snapshot after a failure too. */
int gr__snapshot_take(struct gr__snapshot *snapshot, struct gr_ram *ram);
void gr__snapshot_fini(struct gr__snapshot *snapshot);

#endif
