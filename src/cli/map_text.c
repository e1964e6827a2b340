/* SPDX-License-Identifier: MIT */
/* A live process's memory as tables for people; see map.h. */
#include "grid.h"
#include "map.h"
#include <stdio.h>
#include <string.h>

/* Blocks are told apart by a letter, and by a colour where there are colours. */
const char *map_tag(char text[4], size_t block)
{
	if (block < 26)
		snprintf(text, 4, "%c", (char)('A' + block));
	else if (block < 26 * 27)
		snprintf(text, 4, "%c%c", (char)('A' + block / 26 - 1), (char)('A' + block % 26));
	else
		snprintf(text, 4, "#");
	return text;
}

static int colour_of(size_t block)
{
	static const int colours[] = {32, 33, 34, 35, 36, 92, 93, 94, 95, 96};

	return colours[block % (sizeof(colours) / sizeof(colours[0]))];
}

static const char *access_name(unsigned access)
{
	static const char *const names[] = {"-", "r", "w", "rw"};

	return names[access & 3];
}

static void add_hole(struct grid *grid, uint64_t first, uint64_t last)
{
	char size[24];

	grid_row(grid, 2);
	grid_cell(grid, "0x%llx", (unsigned long long)first);
	grid_cell(grid, "0x%llx", (unsigned long long)last);
	grid_cell(grid, "%s", human_size(size, last - first + 1));
	grid_cell(grid, "-");
	grid_cell(grid, "%s", "");
	grid_cell(grid, "hole");
}

static void print_space(const struct live_ram *ram, const struct live_space *space, bool colours)
{
	static const char *const heads[] = {">first", ">last", ">size", "access",
					    "",	      "block", ">at",	"note"};
	uint64_t next = 0;
	char size[24], tag[4];
	struct grid grid;
	size_t i;

	printf("\nspace %s: %zu range%s, generation %llu\n", space->name, space->count,
	       space->count == 1 ? "" : "s", (unsigned long long)space->generation);
	if (!space->count)
		return;
	grid_begin(&grid, heads, sizeof(heads) / sizeof(heads[0]));
	for (i = 0; i < space->count; i++) {
		const struct live_range *range = &space->ranges[i];
		const struct live_block *block = &ram->blocks[range->block];

		if (range->addr > next)
			add_hole(&grid, next, range->addr - 1);
		grid_row(&grid, colour_of(range->block));
		grid_cell(&grid, "0x%llx", (unsigned long long)range->addr);
		grid_cell(&grid, "0x%llx", (unsigned long long)(range->addr + (range->length - 1)));
		grid_cell(&grid, "%s", human_size(size, range->length));
		grid_cell(&grid, "%s", access_name(range->access));
		grid_cell(&grid, "%s", map_tag(tag, range->block));
		grid_cell(&grid, "%s", block->name);
		grid_cell(&grid, "0x%llx", (unsigned long long)range->offset);
		if (!range->visible)
			grid_cell(&grid, "past the used length");
		else if (range->visible < range->length)
			grid_cell(&grid, "%s used", human_size(size, range->visible));
		next = range->addr + range->length; /* 0 past 2^64: nothing follows */
	}
	grid_end(&grid, stdout, 2, colours);
}

static void add_flags(struct grid *grid, const struct live_block *block)
{
	char text[256] = "", size[24];
	size_t i, at = 0;

	for (i = 0; i < json_array_size(block->flags); i++) {
		const char *flag = json_string_value(json_array_get(block->flags, i));
		int length = snprintf(text + at, sizeof(text) - at, "%s%s", i ? "," : "", flag);

		if (length < 0 || (size_t)length >= sizeof(text) - at)
			break;
		at += (size_t)length;
	}
	if (block->granule)
		snprintf(text + at, sizeof(text) - at, "%s%s plugged", at ? ", " : "",
			 human_size(size, block->plugged));
	grid_cell(grid, "%s", text);
}

static void print_blocks(const struct live_ram *ram, bool colours)
{
	static const char *const heads[] = {"",	       "block", "backing",    ">used",
					    ">max",    ">page", ">in memory", ">RAM offset",
					    ">ranges", ">pins", "flags",      "file"};
	char size[24], tag[4];
	struct grid grid;
	size_t i;

	if (!ram->block_count)
		return;
	printf("\nblocks\n");
	grid_begin(&grid, heads, sizeof(heads) / sizeof(heads[0]));
	for (i = 0; i < ram->block_count; i++) {
		const struct live_block *block = &ram->blocks[i];

		grid_row(&grid, colour_of(i));
		grid_cell(&grid, "%s", map_tag(tag, i));
		grid_cell(&grid, "%s", block->name);
		grid_cell(&grid, "%s", block->backing);
		grid_cell(&grid, "%s", human_size(size, block->length));
		grid_cell(&grid, "%s", human_size(size, block->max_length));
		grid_cell(&grid, "%s", human_size(size, block->page_size));
		grid_cell(&grid, "%s",
			  block->resident == UINT64_MAX ? "?" : human_size(size, block->resident));
		grid_cell(&grid, "0x%llx", (unsigned long long)block->ram_offset);
		grid_cell(&grid, "%llu", (unsigned long long)block->mapped);
		grid_cell(&grid, "%llu", (unsigned long long)block->pins);
		add_flags(&grid, block);
		if (block->fd >= 0)
			grid_cell(&grid, "%s%sinode %llu at 0x%llx%s",
				  block->path ? block->path : "", block->path ? ", " : "",
				  (unsigned long long)block->inode,
				  (unsigned long long)block->fd_offset,
				  block->lost_pages ? ", pages lost" : "");
	}
	grid_end(&grid, stdout, 2, colours);
}

static void print_pending(const struct live_ram *ram, bool colours)
{
	static const char *const heads[] = {"block", ">size", ">pins", ">waiting", ""};
	struct grid grid;
	char size[24];
	size_t i;

	if (!ram->pending_count)
		return;
	printf("\npending reclaim\n");
	grid_begin(&grid, heads, sizeof(heads) / sizeof(heads[0]));
	for (i = 0; i < ram->pending_count; i++) {
		const struct live_pending *pending = &ram->pending[i];

		grid_row(&grid, 31);
		grid_cell(&grid, "%s", pending->name);
		grid_cell(&grid, "%s", human_size(size, pending->bytes));
		grid_cell(&grid, "%llu", (unsigned long long)pending->pins);
		grid_cell(&grid, "%.1f s", (double)pending->waited_us / 1e6);
		grid_cell(&grid, "%s",
			  pending->pins ? "for its last pin" : "for readers, or its release");
	}
	grid_end(&grid, stdout, 2, colours);
}

void map_print(const struct live *live)
{
	bool colours = grid_colours(stdout);
	char used[24], reserved[24], pending[24];
	size_t i, k;

	printf("process %d, %s, library %s: %zu RAM%s\n", (int)live->pid, live->program,
	       live->library, live->count, live->count == 1 ? "" : "s");
	for (i = 0; i < live->count; i++) {
		const struct live_ram *ram = &live->rams[i];
		const struct gr_ram_stats *stats = &ram->stats;

		printf("\nRAM %llu: %llu block%s, %s used of %s; generation %llu; %llu pin%s; ",
		       (unsigned long long)ram->number, (unsigned long long)stats->blocks,
		       stats->blocks == 1 ? "" : "s", human_size(used, stats->bytes),
		       human_size(reserved, stats->bytes_reserved),
		       (unsigned long long)stats->generation, (unsigned long long)stats->pins,
		       stats->pins == 1 ? "" : "s");
		if (stats->blocks_pending)
			printf("%llu block%s (%s) pending reclaim\n",
			       (unsigned long long)stats->blocks_pending,
			       stats->blocks_pending == 1 ? "" : "s",
			       human_size(pending, stats->bytes_pending));
		else
			printf("nothing pending\n");
		for (k = 0; k < ram->space_count; k++)
			print_space(ram, &ram->spaces[k], colours);
		print_blocks(ram, colours);
		print_pending(ram, colours);
	}
}
