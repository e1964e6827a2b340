/* SPDX-License-Identifier: MIT */
/*
 * A file that is there whole or not at all: it is written under another name in the same directory,
 * and gets its own when every byte is on the disk. Until then whatever had that name keeps it.
 *
 * Calls return 0 or -errno. Threads: its owner.
 */
#ifndef GR__WHOLE_H
#define GR__WHOLE_H

#include <stdint.h>

struct gr__whole {
	int fd; /* to read and write */
	char *path, *temporary;
};

/* Only its owner may read the file. Faults: "alloc", "open". */
int gr__whole_open(struct gr__whole *file, const char *path);
/* All of it, wherever that is. Fault: "file.put". */
int gr__whole_write(const struct gr__whole *file, const void *buf, uint64_t length,
		    uint64_t offset);
/* Closed either way; after an error nothing is left of it. Faults: "file.sync", "rename". */
int gr__whole_commit(struct gr__whole *file);
/* Leave nothing of it; after a commit it does nothing. */
void gr__whole_abandon(struct gr__whole *file);

#endif
