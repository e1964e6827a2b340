/* SPDX-License-Identifier: MIT */
/*
 * Aligned columns of text for people, with colours where a terminal shows them. Main thread only.
 */
#ifndef GRID_H
#define GRID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define GRID_COLUMNS 12

struct grid {
	const char *const *heads; /* those that begin with '>' have their column to the right */
	size_t columns;
	char **cells; /* columns a row */
	int *colours; /* one a row: an ANSI code, or 0 */
	size_t rows, room;
	bool failed; /* no memory: it prints what it has */
};

void grid_begin(struct grid *grid, const char *const *heads, size_t columns);
/* The next row; each cell is then given once, in order. */
void grid_row(struct grid *grid, int colour);
__attribute__((format(printf, 2, 3))) void grid_cell(struct grid *grid, const char *format, ...);
/* Print it, indented, and forget it. */
void grid_end(struct grid *grid, FILE *out, int indent, bool colours);

/* "2 MiB", "1.5 GiB", "4 KiB", "17 B" into @text, of at least 24 bytes; returns it. */
const char *human_size(char *text, uint64_t bytes);

/* Are colours wanted on @out? A terminal, and NO_COLOR is not set. */
bool grid_colours(FILE *out);

#endif
