/* SPDX-License-Identifier: MIT */
/* See page_map.h. */
#include "page_map.h"
#include "grid.h"
#include "out_file.h"
#include "svg.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	PAGE = 4096,
	BLOCKS_MAX = 64, /* drawn */
	CELLS_MAX = 8192,
	CELLS_MOST = 1024, /* of a block */
	COLUMNS = 64,
	CELL = 12,
	MARGIN = 24,
	ROW = 20, /* of text */
	WIDTH = 2 * MARGIN + COLUMNS * CELL,
};

int page_map_begin(struct page_map *map, unsigned blocks)
{
	unsigned drawn = blocks < BLOCKS_MAX ? blocks : BLOCKS_MAX;

	memset(map, 0, sizeof(*map));
	map->blocks = calloc(drawn + 1, sizeof(*map->blocks));
	if (!map->blocks)
		return -ENOMEM;
	map->cells_most = CELLS_MOST;
	while (map->cells_most * drawn > CELLS_MAX)
		map->cells_most /= 2;
	return 0;
}

int page_map_block(struct page_map *map, const char *name, uint64_t length)
{
	struct page_map_block *block = &map->blocks[map->block_count];
	uint64_t pages = length / PAGE;

	if (map->block_count == BLOCKS_MAX) {
		map->hidden_count++;
		return 0;
	}
	block->name = name;
	block->length = length;
	block->cell_pages = 1;
	while ((pages + block->cell_pages - 1) / block->cell_pages > map->cells_most)
		block->cell_pages *= 2;
	block->cell_count = (unsigned)((pages + block->cell_pages - 1) / block->cell_pages);
	block->cells = calloc(block->cell_count + 1, sizeof(*block->cells));
	if (!block->cells)
		return -ENOMEM;
	map->block_count++;
	return 0;
}

/* Pages of the kind, or marked ones: @kind PAGE_MAP_KINDS. */
static void count(struct page_map *map, unsigned block, uint64_t offset, uint64_t length,
		  unsigned kind)
{
	uint64_t page = offset / PAGE, end = page + length / PAGE, next;

	if (kind < PAGE_MAP_KINDS)
		map->sums.pages[kind] += end - page;
	else
		map->sums.marked += end - page;
	if (block >= map->block_count)
		return;
	for (; page < end; page = next) {
		const struct page_map_block *its = &map->blocks[block];
		struct page_map_cell *cell = &its->cells[page / its->cell_pages];

		next = (page / its->cell_pages + 1) * its->cell_pages;
		if (next > end)
			next = end;
		if (kind < PAGE_MAP_KINDS)
			cell->pages[kind] += next - page;
		else
			cell->marked += next - page;
	}
}

void page_map_add(struct page_map *map, unsigned block, uint64_t offset, uint64_t length,
		  unsigned kind)
{
	count(map, block, offset, length, kind);
}

void page_map_mark(struct page_map *map, unsigned block, uint64_t offset, uint64_t length)
{
	count(map, block, offset, length, PAGE_MAP_KINDS);
}

/* -------------------------------------------------------------------------------------- drawing */

static unsigned mix(const struct page_map *map, const struct page_map_cell *cell)
{
	unsigned colour = 0, kind, shift;
	double pages = 0, sum;

	for (kind = 0; kind < map->kind_count; kind++)
		pages += (double)cell->pages[kind];
	for (shift = 0; shift < 24; shift += 8) {
		sum = 0;
		for (kind = 0; kind < map->kind_count; kind++)
			sum += (double)cell->pages[kind] *
			       (double)(map->kinds[kind].colour >> shift & 0xff);
		colour |= (unsigned)(pages > 0 ? sum / pages + 0.5 : 0xff) << shift;
	}
	return colour;
}

static void draw_cell(const struct page_map *map, const struct page_map_block *block, unsigned n,
		      int top, FILE *out)
{
	const struct page_map_cell *cell = &block->cells[n];
	uint64_t pages = 0;
	int x = MARGIN + (int)(n % COLUMNS) * CELL, y = top + (int)(n / COLUMNS) * CELL;
	const char *between = ": ";

	fprintf(out,
		"<g><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#%06x\"/>"
		"<title>0x%llx",
		x, y, CELL - 1, CELL - 1, mix(map, cell),
		(unsigned long long)(n * block->cell_pages * PAGE));
	for (unsigned kind = 0; kind < map->kind_count; kind++) {
		if (!cell->pages[kind])
			continue;
		fprintf(out, "%s%llu %s", between, (unsigned long long)cell->pages[kind],
			map->kinds[kind].name);
		pages += cell->pages[kind];
		between = ", ";
	}
	if (cell->marked)
		fprintf(out, "; %llu %s", (unsigned long long)cell->marked, map->mark);
	fputs("</title>", out);
	if (cell->marked && pages) /* as wide as there are many of them, and seen at least */
		fprintf(out, "<path class=\"m\" d=\"M%d %dh%.1f\"/>", x, y + CELL - 3,
			1.0 + (CELL - 2.0) * (double)cell->marked / (double)pages);
	fputs("</g>\n", out);
}

static int rows_of(const struct page_map_block *block)
{
	return (int)((block->cell_count + COLUMNS - 1) / COLUMNS);
}

static int draw_block(const struct page_map *map, const struct page_map_block *block, int top,
		      FILE *out)
{
	char length[24], cell[24];

	fprintf(out, "<text class=\"b\" x=\"%d\" y=\"%d\">", MARGIN, top + ROW - 6);
	svg_text(out, block->name);
	fprintf(out, "</text><text class=\"s\" x=\"%d\" y=\"%d\">%s, a cell is %s</text>\n",
		WIDTH - MARGIN, top + ROW - 6, human_size(length, block->length),
		human_size(cell, block->cell_pages * PAGE));
	for (unsigned n = 0; n < block->cell_count; n++)
		draw_cell(map, block, n, top + ROW, out);
	return top + ROW + rows_of(block) * CELL + CELL;
}

static int draw_count(const char *name, unsigned colour, uint64_t pages, int y, FILE *out)
{
	char size[24];

	fprintf(out,
		"<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#%06x\" "
		"stroke=\"#999\"/><text class=\"l\" x=\"%d\" y=\"%d\">%s: %llu pages, %s</text>\n",
		MARGIN, y + 4, CELL, CELL, colour, MARGIN + 2 * CELL, y + CELL + 2, name,
		(unsigned long long)pages, human_size(size, pages * PAGE));
	return y + ROW;
}

static void draw(const void *context, FILE *out)
{
	const struct page_map *map = context;
	int y = MARGIN, height = 2 * MARGIN + ROW * (int)(map->kind_count + 4);

	for (unsigned i = 0; i < map->block_count; i++)
		height += ROW + (rows_of(&map->blocks[i]) + 1) * CELL;
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
		"viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n"
		"<style>text.t{font-size:15px;font-weight:bold}text.b{font-weight:bold}"
		"text.s{text-anchor:end;fill:#777}text.h{fill:#777}"
		"path.m{stroke:#c00;stroke-width:3}</style>\n"
		"<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
		WIDTH, height, WIDTH, height, WIDTH, height);
	fprintf(out, "<text class=\"t\" x=\"%d\" y=\"%d\">", MARGIN, y + ROW - 6);
	svg_text(out, map->title);
	fputs("</text>\n", out);
	y += ROW;
	for (unsigned kind = 0; kind < map->kind_count; kind++)
		y = draw_count(map->kinds[kind].name, map->kinds[kind].colour,
			       map->sums.pages[kind], y, out);
	if (map->mark)
		y = draw_count(map->mark, 0xcc0000, map->sums.marked, y, out);
	y += ROW / 2;
	for (unsigned i = 0; i < map->block_count; i++)
		y = draw_block(map, &map->blocks[i], y, out);
	if (map->hidden_count)
		fprintf(out, "<text class=\"h\" x=\"%d\" y=\"%d\">and %u blocks</text>\n", MARGIN,
			y + ROW - 6, map->hidden_count);
	fputs("</svg>\n", out);
}

int page_map_write(const struct page_map *map, const char *path)
{
	return out_file_write(path, draw, map);
}

void page_map_end(struct page_map *map)
{
	for (unsigned i = 0; map->blocks && i < map->block_count; i++)
		free(map->blocks[i].cells);
	free(map->blocks);
	map->blocks = NULL;
}
