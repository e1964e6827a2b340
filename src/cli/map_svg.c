/* SPDX-License-Identifier: MIT */
/*
 * A live process's memory as a picture: a column for each space, addresses from the bottom up, a
 * box for each range, a thin dashed one for each hole however large it is. One block has one colour
 * and one letter wherever its pieces are. See map.h.
 *
 * A box is the higher the larger the range is, by the logarithm: 4 KiB and 64 GiB fit on a page.
 */
#include "grid.h"
#include "map.h"
#include "svg.h"
#include <string.h>

enum {
	MARGIN = 24,
	AXIS = 150,	  /* room for addresses */
	BOX = 260,	  /* width of a range */
	GAP = 40,	  /* between columns */
	HOLE = 26,	  /* height of a hole */
	ROW = 20,	  /* of text */
	BOXES_MAX = 400,  /* of a column; more are counted in words */
	COLUMNS_MAX = 64, /* of a RAM, and RAMs */
};

struct extent {
	int width, height;
};

static int box_height(uint64_t length)
{
	int bits = 0;

	while (length >>= 1)
		bits++;
	return bits <= 12 ? 24 : 24 + 3 * (bits - 12);
}

static size_t shown(const struct live_space *space)
{
	return space->count < BOXES_MAX ? space->count : BOXES_MAX;
}

static int column_height(const struct live_space *space)
{
	uint64_t next = 0;
	int height = 2 * ROW;
	size_t i;

	for (i = 0; i < shown(space); i++) {
		const struct live_range *range = &space->ranges[i];

		height += (range->addr > next ? HOLE : 0) + box_height(range->length);
		next = range->addr + range->length;
	}
	return height + (space->count > shown(space) ? ROW : 0);
}

/*
 * Light colours around the circle by the golden angle: neighbours differ, any number of blocks
 * goes.
 */
static unsigned colour_of(size_t block, bool pale)
{
	unsigned hue = (unsigned)(block * 137 % 360), sextant = hue / 60, rest = hue % 60;
	unsigned low = pale ? 232 : 170, high = pale ? 248 : 236;
	unsigned up = low + (high - low) * rest / 60, down = high - (high - low) * rest / 60;
	const unsigned rgb[6][3] = {
		{high, up, low},   {down, high, low}, {low, high, up},
		{low, down, high}, {up, low, high},   {high, low, down},
	};

	return rgb[sextant][0] << 16 | rgb[sextant][1] << 8 | rgb[sextant][2];
}

static void draw_address(FILE *out, int x, int y, uint64_t addr)
{
	fprintf(out, "<text class=\"a\" x=\"%d\" y=\"%d\">0x%llx</text>\n", x - 8, y + 4,
		(unsigned long long)addr);
}

static void draw_range(FILE *out, const struct live_ram *ram, const struct live_range *range, int x,
		       int y, int height)
{
	const struct live_block *block = &ram->blocks[range->block];
	char size[24], tag[4];
	int middle = y + height / 2 + 4;

	fprintf(out,
		"<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"3\" fill=\"#%06x\" "
		"stroke=\"#333\"%s/>\n",
		x, y, BOX, height, colour_of(range->block, !range->visible),
		range->access & GR_WRITE ? "" : " stroke-width=\"2.5\"");
	fprintf(out, "<text x=\"%d\" y=\"%d\"><tspan class=\"t\">%s</tspan> ", x + 8, middle,
		map_tag(tag, range->block));
	svg_text(out, block->name);
	fprintf(out, "</text><text class=\"s\" x=\"%d\" y=\"%d\">%s%s</text>\n", x + BOX - 8,
		middle, human_size(size, range->length),
		range->access & GR_WRITE ? "" : ", read-only");
	if (block->pins)
		fprintf(out,
			"<circle class=\"p\" cx=\"%d\" cy=\"%d\" r=\"5\"><title>%llu pins"
			"</title></circle>\n",
			x + BOX + 9, y + height / 2, (unsigned long long)block->pins);
}

static void draw_hole(FILE *out, uint64_t length, int x, int y)
{
	char size[24];

	fprintf(out,
		"<path class=\"h\" d=\"M%d %dv%d m%d 0v-%d\"/>"
		"<text class=\"h\" x=\"%d\" y=\"%d\">%s hole</text>\n",
		x, y, HOLE, BOX, HOLE, x + BOX / 2, y + HOLE / 2 + 4, human_size(size, length));
}

/* From @bottom up. */
static void draw_space(FILE *out, const struct live_ram *ram, const struct live_space *space, int x,
		       int bottom)
{
	uint64_t next = 0, last = 0;
	int y = bottom;
	size_t i;

	fprintf(out, "<text class=\"n\" x=\"%d\" y=\"%d\">", x + BOX / 2, bottom + ROW);
	svg_text(out, space->name);
	fprintf(out, ", generation %llu</text>\n", (unsigned long long)space->generation);
	for (i = 0; i < shown(space); i++) {
		const struct live_range *range = &space->ranges[i];
		int height = box_height(range->length);

		if (range->addr > next) {
			if (!i || last != next)
				draw_address(out, x, y, next);
			y -= HOLE;
			draw_hole(out, range->addr - next, x, y);
		}
		draw_address(out, x, y, range->addr);
		y -= height;
		draw_range(out, ram, range, x, y, height);
		last = next = range->addr + range->length;
	}
	if (i)
		draw_address(out, x, y,
			     space->ranges[i - 1].addr + (space->ranges[i - 1].length - 1));
	if (space->count > shown(space))
		fprintf(out, "<text class=\"h\" x=\"%d\" y=\"%d\">and %zu ranges above</text>\n",
			x + BOX / 2, y - 8, space->count - shown(space));
}

static struct extent measure(const struct live_ram *ram)
{
	struct extent extent = {MARGIN, 0};
	size_t i;

	for (i = 0; i < ram->space_count && i < COLUMNS_MAX; i++) {
		int height = column_height(&ram->spaces[i]);

		extent.width += AXIS + BOX + GAP;
		if (height > extent.height)
			extent.height = height;
	}
	if (extent.width < MARGIN + AXIS + 2 * BOX)
		extent.width = MARGIN + AXIS + 2 * BOX;
	extent.height +=
		3 * ROW +
		(int)(ram->pending_count < BOXES_MAX ? ram->pending_count : BOXES_MAX) * ROW;
	return extent;
}

static void draw_pending(FILE *out, const struct live_ram *ram, int y)
{
	char size[24];
	size_t i;

	for (i = 0; i < ram->pending_count && i < BOXES_MAX; i++) {
		const struct live_pending *pending = &ram->pending[i];

		fprintf(out, "<text class=\"w\" x=\"%d\" y=\"%d\">pending reclaim: ", MARGIN,
			y + (int)i * ROW);
		svg_text(out, pending->name);
		fprintf(out, ", %s, %llu pins, for %.1f s</text>\n",
			human_size(size, pending->bytes), (unsigned long long)pending->pins,
			(double)pending->waited_us / 1e6);
	}
}

static int draw_ram(FILE *out, const struct live *live, const struct live_ram *ram, int top)
{
	struct extent extent = measure(ram);
	char used[24], reserved[24];
	int x = MARGIN, bottom = top + extent.height - 2 * ROW;
	size_t i;

	bottom -= (int)(ram->pending_count < BOXES_MAX ? ram->pending_count : BOXES_MAX) * ROW;
	fprintf(out, "<text class=\"r\" x=\"%d\" y=\"%d\">", MARGIN, top + ROW - 4);
	svg_text(out, live->program);
	fprintf(out, " (%d), RAM %llu: %s used of %s</text>\n", (int)live->pid,
		(unsigned long long)ram->number, human_size(used, ram->stats.bytes),
		human_size(reserved, ram->stats.bytes_reserved));
	for (i = 0; i < ram->space_count && i < COLUMNS_MAX; i++) {
		draw_space(out, ram, &ram->spaces[i], x + AXIS, bottom);
		x += AXIS + BOX + GAP;
	}
	draw_pending(out, ram, bottom + 2 * ROW);
	return top + extent.height;
}

void map_draw(const struct live *live, FILE *out)
{
	int width = MARGIN + AXIS + 2 * BOX, height = 2 * MARGIN, top = MARGIN;
	size_t i;

	for (i = 0; i < live->count && i < COLUMNS_MAX; i++) {
		struct extent extent = measure(&live->rams[i]);

		if (extent.width > width)
			width = extent.width;
		height += extent.height + MARGIN;
	}
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
		"viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n"
		"<style>text.a{text-anchor:end;font-family:monospace;font-size:11px}"
		"text.s{text-anchor:end}text.h{text-anchor:middle;fill:#777}"
		"path.h{stroke:#999;stroke-dasharray:3 3;fill:none}"
		"text.n{text-anchor:middle;font-weight:bold}text.r{font-size:15px;font-weight:bold}"
		"tspan.t{font-weight:bold}circle.p{fill:#c00}text.w{fill:#c00}</style>\n"
		"<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
		width, height, width, height, width, height);
	for (i = 0; i < live->count && i < COLUMNS_MAX; i++)
		top = draw_ram(out, live, &live->rams[i], top) + MARGIN;
	fputs("</svg>\n", out);
}
