/* SPDX-License-Identifier: MIT */
/*
 * The stream, as docs/migration-format.md has it: little-endian, fixed widths. Numbers stand in
 * these structures in the stream's order of bytes; le64toh() and its like are for who reads them.
 */
#ifndef GR__MIGRATE_WIRE_H
#define GR__MIGRATE_WIRE_H

#include <stdint.h>

#define WIRE_MAGIC "GRMIGR\r\n"
#define WIRE_VERSION 1u
#define WIRE_PAGE 4096u

/* What a record may have at most. */
#define WIRE_DATA_MAX (2u << 20) /* bytes of pages in a record, as memory */
#define WIRE_EXTENTS_MAX 512u	 /* extents of a record */
#define WIRE_COPIES_MAX (WIRE_DATA_MAX / WIRE_PAGE)
#define WIRE_PAYLOAD_MAX (3u << 20) /* of any record */
#define WIRE_BLOCKS_MAX 65536u
#define WIRE_TEXT_MAX 400u

enum { WIRE_HEADER_ONE_WAY = 1, WIRE_HEADER_POSTCOPY = 2 };

/* First of all on each channel. */
struct wire_header {
	uint8_t magic[8];
	uint32_t version;
	uint32_t flags;
	uint16_t channel;
	uint16_t channels;
	uint32_t zero;
	uint8_t session[16];
	uint64_t hash; /* of what stands before */
};
_Static_assert(sizeof(struct wire_header) == 48, "header");

enum wire_type {
	/* sender's */
	WIRE_MANIFEST = 1,
	WIRE_PAGES = 2,
	WIRE_ROUND = 3,
	WIRE_STATE = 4,
	WIRE_SWITCH = 5,
	WIRE_END = 6,
	WIRE_GO = 7,
	/* receiver's, on channel 0 */
	WIRE_ACCEPT = 16,
	WIRE_REFUSE = 17,
	WIRE_READY = 18,
	WIRE_DONE = 19,
	WIRE_REQUEST = 20,
	WIRE_FAILED = 21,
};

enum { WIRE_MORE = 1, WIRE_ZSTD = 2 }; /* wire_record.flags */

struct wire_record {
	uint8_t type;
	uint8_t flags;
	uint16_t zero;
	uint32_t length;   /* of the payload */
	uint64_t sequence; /* of the record in its direction of its channel, from 0 */
	uint64_t hash;	   /* XXH3-64 of the payload (of PAGES: up to the data), seeded with the 8
			    * bytes of the first three fields, as a number, plus the sequence */
};
_Static_assert(sizeof(struct wire_record) == 24, "record");

enum { WIRE_BLOCK_IN_PLACE = 1, WIRE_BLOCK_READ_ONLY = 2 };

/* MANIFEST: these one after the other, each with its name behind it. */
struct wire_block {
	uint64_t used;
	uint64_t max;
	uint64_t page_size;
	uint32_t flags;
	uint16_t name_length;
	uint16_t zero;
};
_Static_assert(sizeof(struct wire_block) == 32, "block");

/* PAGES: this, extents, XXH3-64 of each page of WIRE_COPY, data. */
struct wire_pages {
	uint32_t block; /* its place in the manifest */
	uint32_t extents;
	uint32_t data;	 /* bytes behind the hashes */
	uint32_t memory; /* bytes that they are when unpacked: all pages of WIRE_COPY */
};
_Static_assert(sizeof(struct wire_pages) == 16, "pages");

enum { WIRE_COPY = 0, WIRE_ZERO = 1 };

struct wire_extent {
	uint64_t offset; /* in the block */
	uint32_t pages;	 /* of 4 KiB */
	uint32_t kind;
};
_Static_assert(sizeof(struct wire_extent) == 16, "extent");

/* ROUND: this and, on channel 0, the lengths of blocks that have grown. */
struct wire_round {
	uint32_t round;
	uint32_t count;
};
_Static_assert(sizeof(struct wire_round) == 8, "round");

struct wire_length {
	uint32_t block;
	uint32_t zero;
	uint64_t used;
};
_Static_assert(sizeof(struct wire_length) == 16, "length");

/* STATE: this, the name, bytes. The next record continues it when WIRE_MORE is set. */
struct wire_state {
	uint32_t name_length;
	uint32_t zero;
	uint64_t total;
};
_Static_assert(sizeof(struct wire_state) == 16, "state");

/* SWITCH, as many as there is room for; REQUEST has one of them. */
struct wire_run {
	uint32_t block;
	uint32_t pages;
	uint64_t offset;
};
_Static_assert(sizeof(struct wire_run) == 16, "run");

/* END */
struct wire_end {
	uint64_t copied; /* bytes of memory on this channel */
	uint64_t zero;
	uint64_t digest; /* of the records before: see gr__channel_put() */
};
_Static_assert(sizeof(struct wire_end) == 24, "end");

enum { WIRE_ACCEPT_POSTCOPY = 1 };

struct wire_accept {
	uint32_t version;
	uint32_t features;
};
_Static_assert(sizeof(struct wire_accept) == 8, "accept");

#endif
