/* SPDX-License-Identifier: MIT */
/*
 * The file of a snapshot, as docs/snapshot-format.md has it: little-endian, fixed widths. Numbers
 * stand in these structures in the file's order of bytes; le64toh() and its like are for who reads
 * them.
 */
#ifndef GR__SNAPSHOT_WIRE_H
#define GR__SNAPSHOT_WIRE_H

#include <stdint.h>

#define WIRE_MAGIC "GRSNAP\r\n"
#define WIRE_VERSION 1u
#define WIRE_PAGE 4096u
#define WIRE_CHUNK_PAGES 64u
#define WIRE_CHUNK (WIRE_CHUNK_PAGES * WIRE_PAGE)

#define WIRE_BLOCKS_MAX 65536u
#define WIRE_TAIL_MAX (UINT64_C(512) << 20)
#define WIRE_STATE_MAX (UINT64_C(256) << 20) /* all pieces together */

/* The first page; what is behind this structure, up to the hash in its last 8 bytes, is zero. */
struct wire_header {
	uint8_t magic[8];
	uint32_t version;
	uint32_t layout; /* enum gr_snapshot_layout */
	uint64_t size;	 /* of the file */
	uint64_t tail;	 /* where the manifest begins; a multiple of a page */
	uint64_t manifest_length;
	uint64_t index_length;
	uint8_t id[16];
	uint8_t parent[16];	   /* its id; zeroes: none */
	uint8_t parent_digest[16]; /* likewise */
	uint64_t created;	   /* ns since 1970 */
	uint32_t chunk;
	uint32_t page;
	uint8_t digest[16]; /* XXH3-128 of what stands before, of the manifest and of the index */
};
_Static_assert(sizeof(struct wire_header) == 128, "header");
#define WIRE_HASH_AT (WIRE_PAGE - 8)

/* The manifest; everything in it is padded with zeroes to 8 bytes. */
struct wire_manifest {
	uint32_t blocks;
	uint32_t spaces;
	uint32_t states;
	uint32_t parent_name_length;
}; /* then the parent's name */
_Static_assert(sizeof(struct wire_manifest) == 16, "manifest");

enum { WIRE_BLOCK_READ_ONLY = 1 };

struct wire_block {
	uint64_t used;
	uint64_t max;
	uint64_t page_size;
	uint64_t granule; /* 0: it has none */
	uint64_t area;	  /* mapped: where in the file its first byte is; packed: 0 */
	uint64_t entries; /* of the index; those of block 0 come first */
	uint32_t flags;
	uint32_t runs; /* of plugged granules */
	uint32_t name_length;
	uint32_t zero;
}; /* then the name, then the runs */
_Static_assert(sizeof(struct wire_block) == 64, "block");

struct wire_run {
	uint64_t offset;
	uint64_t length;
};
_Static_assert(sizeof(struct wire_run) == 16, "run");

struct wire_space {
	uint32_t name_length;
	uint32_t ranges;
}; /* then the name, then the ranges */
_Static_assert(sizeof(struct wire_space) == 8, "space");

struct wire_range {
	uint64_t addr;
	uint64_t length;
	uint64_t offset; /* in the block */
	uint32_t block;
	uint32_t access;
};
_Static_assert(sizeof(struct wire_range) == 32, "range");

struct wire_state {
	uint64_t length;
	uint32_t name_length;
	uint32_t zero;
}; /* then the name, then the bytes */
_Static_assert(sizeof(struct wire_state) == 16, "state");

enum { WIRE_ENTRY_ZSTD = 1 };

/* The index: chunks of which something is known here, by block and rising number. */
struct wire_entry {
	uint64_t number; /* its offset in the block is that times WIRE_CHUNK */
	uint64_t here;	 /* pages of it that are told of: the parent's do not count */
	uint64_t data;	 /* those of them that have bytes; the others are zero */
	uint64_t place;	 /* in the file: mapped: of the chunk, packed: of the stored bytes */
	uint32_t stored; /* bytes */
	uint32_t flags;
	uint64_t hash; /* XXH3-64 of the stored bytes */
};
_Static_assert(sizeof(struct wire_entry) == 48, "entry");

#endif
