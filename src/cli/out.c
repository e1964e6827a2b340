/* SPDX-License-Identifier: MIT */
/*
 * Progress, tables and JSON for people and programs. Main thread only; the one state is whether a
 * progress line stands on the terminal.
 */
#include "out.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CELL = 128, COLUMNS = 40 };

static bool progress_shown;

void out_progress(const char *format, ...)
{
	va_list args;

	if (!isatty(STDERR_FILENO))
		return;
	fputs("\r\033[K", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fflush(stderr);
	progress_shown = true;
}

void out_progress_end(void)
{
	if (!progress_shown)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	progress_shown = false;
}

static const char *cell(const json_t *value, char text[CELL])
{
	if (json_is_string(value))
		return json_string_value(value);
	if (json_is_integer(value))
		snprintf(text, CELL, "%lld", (long long)json_integer_value(value));
	else if (json_is_real(value))
		snprintf(text, CELL, "%.4g", json_real_value(value));
	else if (json_is_boolean(value))
		return json_is_true(value) ? "yes" : "no";
	else
		return "-";
	/* 1e+05 is for programs; from 10,000 on the digits behind the point say nothing */
	if (json_is_real(value) && (strchr(text, 'e') || json_real_value(value) >= 10000))
		snprintf(text, CELL, json_real_value(value) >= 1000 ? "%.0f" : "%.2g",
			 json_real_value(value));
	return text;
}

static bool same_keys(const json_t *a, const json_t *b)
{
	void *ia = json_object_iter((json_t *)a);
	void *ib = json_object_iter((json_t *)b);

	while (ia && ib && !strcmp(json_object_iter_key(ia), json_object_iter_key(ib))) {
		ia = json_object_iter_next((json_t *)a, ia);
		ib = json_object_iter_next((json_t *)b, ib);
	}
	return !ia && !ib;
}

/* Words stand left, figures right. A column is told by its first row that is not null. */
static void print_cell(const char *text, int width, bool left, bool last)
{
	if (left && last)
		fputs(text, stdout);
	else
		printf("%*s%s", left ? -width : width, text, last ? "" : "  ");
}

static void print_group(const json_t *rows, size_t first, size_t count, int indent)
{
	const json_t *head = json_array_get(rows, first);
	int width[COLUMNS] = {0};
	bool left[COLUMNS] = {false};
	size_t columns = json_object_size(head);
	char text[CELL];
	const char *key;
	json_t *value;
	size_t row, c;

	if (columns > COLUMNS)
		columns = COLUMNS;
	c = 0;
	json_object_foreach((json_t *)head, key, value)
	{
		if (c < columns)
			width[c++] = (int)strlen(key);
	}
	for (row = first; row < first + count; row++) {
		c = 0;
		json_object_foreach(json_array_get(rows, row), key, value)
		{
			int length = (int)strlen(cell(value, text));

			if (c >= columns)
				break;
			if (length > width[c])
				width[c] = length;
			left[c] |= json_is_string(value);
			c++;
		}
	}
	printf("%*s", indent, "");
	c = 0;
	json_object_foreach((json_t *)head, key, value)
	{
		if (c >= columns)
			break;
		print_cell(key, width[c], left[c], c + 1 == columns);
		c++;
	}
	putchar('\n');
	for (row = first; row < first + count; row++) {
		printf("%*s", indent, "");
		c = 0;
		json_object_foreach(json_array_get(rows, row), key, value)
		{
			if (c >= columns)
				break;
			print_cell(cell(value, text), width[c], left[c], c + 1 == columns);
			c++;
		}
		putchar('\n');
	}
}

void out_table(const json_t *rows, int indent)
{
	size_t first = 0;

	while (first < json_array_size(rows)) {
		size_t count = 1;

		while (first + count < json_array_size(rows) &&
		       same_keys(json_array_get(rows, first), json_array_get(rows, first + count)))
			count++;
		if (first)
			putchar('\n');
		print_group(rows, first, count, indent);
		first += count;
	}
}

int out_json(const json_t *object)
{
	if (json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) < 0)
		return -EIO;
	putchar('\n');
	return 0;
}

int out_flush(void)
{
	if (fflush(stdout) || ferror(stdout))
		return errno ? -errno : -EIO;
	return 0;
}
