/* SPDX-License-Identifier: MIT */
/*
 * What a test made fail, told at its end in lines that scripts/run-faults adds up:
 *
 *   fault gr_block_new mmap 12      12 times mmap failed in gr_block_new(), and all was right
 *   fault gr_host - 0               gr_host() was run, and made no call that can fail
 *
 * Threads: the test's own.
 */
#ifndef FAULT_TALLY_H
#define FAULT_TALLY_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TALLY_MAX 1024

static struct {
	char operation[48];
	char call[32];
	unsigned times;
} tally_lines[TALLY_MAX];
static unsigned tally_count;

static inline void tally_print(void)
{
	for (unsigned i = 0; i < tally_count; i++)
		printf("fault %s %s %u\n", tally_lines[i].operation, tally_lines[i].call,
		       tally_lines[i].times);
	fflush(stdout);
}

static inline void tally_add(const char *operation, size_t length, const char *call, unsigned times)
{
	unsigned i;

	if (!tally_count)
		atexit(tally_print);
	for (i = 0; i < tally_count; i++)
		if (!strncmp(tally_lines[i].operation, operation, length) &&
		    !tally_lines[i].operation[length] && !strcmp(tally_lines[i].call, call))
			break;
	if (i == tally_count) {
		if (i == TALLY_MAX || length >= sizeof(tally_lines[i].operation) ||
		    strlen(call) >= sizeof(tally_lines[i].call))
			abort();
		memcpy(tally_lines[i].operation, operation, length);
		strcpy(tally_lines[i].call, call);
		tally_count++;
	}
	tally_lines[i].times += times;
}

/* @call failed in @operation: a function's name, or several with a space between them. */
static inline void tally_fault(const char *operations, const char *call)
{
	while (*operations) {
		size_t length = strcspn(operations, " ");

		tally_add(operations, length, call, 1);
		operations += length;
		operations += strspn(operations, " ");
	}
}

/* @operation made no call that can fail; whoever says so has counted. */
static inline void tally_nothing(const char *operation)
{
	tally_add(operation, strlen(operation), "-", 0);
}

#endif
