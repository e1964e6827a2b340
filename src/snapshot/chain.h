/* SPDX-License-Identifier: MIT */
/* What a RAM's memory was equal to last, and what changed since. */
#ifndef GR__SNAPSHOT_CHAIN_H
#define GR__SNAPSHOT_CHAIN_H

#include "snapshot/wire.h"
#include <guestram/dirty.h>
#include <guestram/snapshot.h>
#include <stdbool.h>

/* Belongs to one call at a time. */
struct gr_snapshot_chain {
	struct gr_ram *ram; /* const */
	struct gr_dirty *client;
	bool has_last;
	uint8_t id[GR_SNAPSHOT_ID], digest[GR_SNAPSHOT_ID];
	char name[256]; /* of its file, without a folder; "": it is too long for a file */
};

/* From now on memory is that of the snapshot of @header, whose file is at @path. */
void gr__chain_set(struct gr_snapshot_chain *chain, const struct wire_header *header,
		   const char *path);

/* All memory is as it was at the last snapshot: 0 or -errno, said. */
int gr__chain_clean(struct gr_snapshot_chain *chain);

#endif
