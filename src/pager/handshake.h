/* SPDX-License-Identifier: MIT */
/*
 * What a monitor sends: one JSON array that tells of its memory, and its userfaultfd beside it, at
 * once or in pieces, the descriptor with any of them.
 *
 * Threads: the server's own. All of it is hostile.
 */
#ifndef GR__HANDSHAKE_H
#define GR__HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GR__HANDSHAKE_BYTES (1u << 20)
#define GR__HANDSHAKE_REGIONS 4096

struct gr__region {
	uint64_t addr, length, offset, page_size;
};

struct gr__handshake {
	char *text;
	size_t size, room;
	size_t scanned, depth; /* of the array so far */
	bool in_string, escaped, whole;
	int fd; /* the first that came, or -1 */
};

void gr__handshake_init(struct gr__handshake *handshake);
void gr__handshake_fini(struct gr__handshake *handshake);

/*
 * More bytes, of which none is looked at behind the array. 0 or -errno, said: -EMSGSIZE, -EBADMSG
 * (no array), -ENOMEM.
 */
int gr__handshake_add(struct gr__handshake *handshake, const char *bytes, size_t size);

/*
 * Of an array that is whole: its regions by address, checked against each other and @length bytes
 * of the source. 0 or -errno, said.
 */
int gr__handshake_parse(const struct gr__handshake *handshake, uint64_t length,
			struct gr__region **regions, unsigned *count);

#endif
