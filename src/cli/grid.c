/* SPDX-License-Identifier: MIT */
#include "grid.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void grid_begin(struct grid *grid, const char *const *heads, size_t columns)
{
	*grid = (struct grid){.heads = heads,
			      .columns = columns < GRID_COLUMNS ? columns : GRID_COLUMNS};
}

void grid_row(struct grid *grid, int colour)
{
	size_t room = grid->room ? 2 * grid->room : 32;
	char **cells;
	int *colours;

	if (grid->rows == grid->room) {
		cells = realloc(grid->cells, room * grid->columns * sizeof(char *));
		grid->cells = cells ? cells : grid->cells;
		colours = realloc(grid->colours, room * sizeof(*colours));
		grid->colours = colours ? colours : grid->colours;
		if (!cells || !colours) {
			grid->failed = true;
			return;
		}
		grid->room = room;
	}
	memset(&grid->cells[grid->rows * grid->columns], 0, grid->columns * sizeof(char *));
	grid->colours[grid->rows++] = colour;
}

void grid_cell(struct grid *grid, const char *format, ...)
{
	char **row = grid->rows ? &grid->cells[(grid->rows - 1) * grid->columns] : NULL;
	va_list args;
	char *text;
	size_t i = 0;

	while (row && i < grid->columns && row[i])
		i++;
	if (grid->failed || !row || i == grid->columns)
		return;
	va_start(args, format);
	if (vasprintf(&text, format, args) >= 0)
		row[i] = text;
	else
		grid->failed = true;
	va_end(args);
}

/* Places on the screen: bytes that begin a character. */
static int width_of(const char *text)
{
	int width = 0;

	for (; *text; text++)
		width += (*text & 0xc0) != 0x80;
	return width;
}

static void print_row(const struct grid *grid, FILE *out, int indent, char *const *cells,
		      const int *widths)
{
	size_t i, last = grid->columns;

	while (last && (!cells[last - 1] || !*cells[last - 1]))
		last--;
	fprintf(out, "%*s", indent, "");
	for (i = 0; i < last; i++) {
		const char *text = cells[i] ? cells[i] : "";
		int pad = widths[i] - width_of(text);
		bool right = grid->heads[i][0] == '>';

		if (right)
			fprintf(out, "%*s%s", pad, "", text);
		else
			fprintf(out, "%s%*s", text, i + 1 < last ? pad : 0, "");
		if (i + 1 < last)
			fputs("  ", out);
	}
}

void grid_end(struct grid *grid, FILE *out, int indent, bool colours)
{
	char *heads[GRID_COLUMNS];
	int widths[GRID_COLUMNS];
	size_t i, row;

	for (i = 0; i < grid->columns; i++) {
		heads[i] = (char *)grid->heads[i] + (grid->heads[i][0] == '>');
		widths[i] = width_of(heads[i]);
		for (row = 0; row < grid->rows; row++) {
			const char *cell = grid->cells[row * grid->columns + i];
			int width = cell ? width_of(cell) : 0;

			if (width > widths[i])
				widths[i] = width;
		}
	}
	print_row(grid, out, indent, heads, widths);
	fputc('\n', out);
	for (row = 0; row < grid->rows; row++) {
		bool coloured = colours && grid->colours[row];

		if (coloured)
			fprintf(out, "\033[%dm", grid->colours[row]);
		print_row(grid, out, indent, &grid->cells[row * grid->columns], widths);
		fputs(coloured ? "\033[0m\n" : "\n", out);
	}
	for (i = 0; i < grid->rows * grid->columns; i++)
		free(grid->cells[i]);
	free(grid->cells);
	free(grid->colours);
}

const char *human_size(char *text, uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	uint64_t rest = bytes;
	size_t unit = 0;

	while (value >= 1024 && unit < 6) {
		value /= 1024;
		unit++;
	}
	if (unit)
		rest = bytes & ((UINT64_C(1) << 10 * unit) - 1);
	if (!unit || !rest)
		snprintf(text, 24, "%llu %s", (unsigned long long)(bytes >> 10 * unit),
			 units[unit]);
	else
		snprintf(text, 24, "%.1f %s", value, units[unit]);
	return text;
}

bool grid_colours(FILE *out)
{
	const char *off = getenv("NO_COLOR");

	return isatty(fileno(out)) && !(off && *off);
}
