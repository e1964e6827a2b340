/* SPDX-License-Identifier: MIT */
/*
 * A set of 4 KiB pages, known by their host address. Its memory is in proportion to what is in it:
 * 80 bytes for each 2 MiB of addresses that hold any, in a hash table.
 *
 * Threads: the caller serialises.
 */
#ifndef GR__FRAMES_H
#define GR__FRAMES_H

#include <stdbool.h>
#include <stdint.h>

struct gr__frame_chunk;

struct gr__frames {
	struct gr__frame_chunk *chunks; /* open addressing; key UINT64_MAX: free */
	uint64_t room, used;		/* room: 0 or a power of two */
	uint64_t count;			/* pages */
};

void gr__frames_fini(struct gr__frames *frames);

/* Room for the pages of [host, host + length); 0 or -ENOMEM. After it an add of them cannot fail.
 */
int gr__frames_reserve(struct gr__frames *frames, uint64_t length);
/* All multiples of 4 KiB, no wrap. Each returns the number of pages that it changed. */
uint64_t gr__frames_add(struct gr__frames *frames, uint64_t host, uint64_t length);
uint64_t gr__frames_remove(struct gr__frames *frames, uint64_t host, uint64_t length);
/* How many of the pages are in it. */
uint64_t gr__frames_count(const struct gr__frames *frames, uint64_t host, uint64_t length);

/*
 * The next page at or above @host and at most @last that is in the set (@in) or is not; false when
 * there is none.
 */
bool gr__frames_next(const struct gr__frames *frames, uint64_t *host, uint64_t last, bool in);

#endif
