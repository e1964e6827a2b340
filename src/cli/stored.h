/* SPDX-License-Identifier: MIT */
/*
 * What a file on the disk holds of a machine: a snapshot's blocks and pieces of state, or a raw
 * image of memory, which is one block, named as its file without folder and ending.
 *
 * Threads: const once open; the source is for any of them.
 */
#ifndef STORED_H
#define STORED_H

#include "mount/mount.h"

struct gr_snapshot;

struct stored {
	struct gr_page_source source;
	struct gr_snapshot *snapshot; /* NULL: an image */
	const char **blocks;
	unsigned block_count;
	struct gr__mount_state *states; /* bytes are the snapshot's */
	unsigned state_count;
	char *image_name;
};

/*
 * @parent: of the snapshot; NULL: where it says. @image: it is a raw one. CLI_OK, or CLI_FAILED
 * with the reason told.
 */
int stored_open(const char *path, const char *parent, bool image, struct stored *stored);
void stored_close(struct stored *stored);

#endif
