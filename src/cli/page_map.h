/* SPDX-License-Identifier: MIT */
/*
 * Pages of blocks by kind, as a picture: a row of cells for each block, each cell a run of pages in
 * the mixed colour of its kinds, with a legend that counts them all. However large the blocks are,
 * there are CELLS_MAX cells at most, and BLOCKS_MAX blocks; of the others only the pages are
 * counted.
 *
 * Threads: one.
 */
#ifndef PAGE_MAP_H
#define PAGE_MAP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define PAGE_MAP_KINDS 6

struct page_map_kind {
	const char *name;
	unsigned colour; /* 0xrrggbb */
};

struct page_map_cell {
	uint64_t pages[PAGE_MAP_KINDS];
	uint64_t marked;
};

struct page_map_block {
	const char *name;
	uint64_t length;
	uint64_t cell_pages; /* of one cell */
	unsigned cell_count;
	struct page_map_cell *cells;
};

struct page_map {
	const char *title;
	const struct page_map_kind *kinds; /* PAGE_MAP_KINDS at most */
	unsigned kind_count;
	const char *mark; /* what a mark says; NULL: nothing is marked */
	struct page_map_block *blocks;
	unsigned block_count, hidden_count;
	unsigned cells_most; /* of one block */
	struct page_map_cell sums;
};

/* Of @blocks blocks; title, kinds and mark are set after it. 0 or -ENOMEM. */
int page_map_begin(struct page_map *map, unsigned blocks);
/* The next of them; names live as long as the map. 0 or -ENOMEM. */
int page_map_block(struct page_map *map, const char *name, uint64_t length);
/* @block by its place among those. Each page has one kind; all in bytes, within the block. */
void page_map_add(struct page_map *map, unsigned block, uint64_t offset, uint64_t length,
		  unsigned kind);
/* Each page once. */
void page_map_mark(struct page_map *map, unsigned block, uint64_t offset, uint64_t length);
/* CLI_OK, or CLI_FAILED with the reason told. */
int page_map_write(const struct page_map *map, const char *path);
void page_map_end(struct page_map *map);

#endif
