/* SPDX-License-Identifier: MIT */
/*
 * What pages are expected to hold, a source that the tests have in their hands, and memory that is
 * looked at.
 *
 * Threads: the source may be asked by any; its knobs are atomic.
 */
#ifndef PATTERN_H
#define PATTERN_H

#include "testing.h"
#include <guestram/pager.h>

/* Every word of the page at @offset of a source's block names both, and the word. */
void pattern_fill(unsigned block, uint64_t offset, void *page, uint64_t length);
bool pattern_is(unsigned block, uint64_t offset, const void *page, uint64_t length);
bool zeroes_are(const void *page, uint64_t length);
/* What differs first, for people. */
void pattern_describe(unsigned block, uint64_t offset, const void *page, char *text, size_t size);

/* Every @zero_every-th 64 KiB are zero, if it is not 0. */
struct pattern_source {
	struct gr_page_source source;
	unsigned blocks; /* named "b0", "b1" … */
	uint64_t length; /* of each */
	uint64_t chunk;
	unsigned zero_every;
	int failing;	     /* atomic: errno of reads, or 0 */
	unsigned delay_us;   /* atomic */
	int reads;	     /* atomic: so many were made */
	uint64_t read_bytes; /* atomic */
	struct gate *hold;   /* atomic: reads wait for it when not NULL */
	int holding;	     /* atomic: so many do */
	const char *image;   /* file that has block 0 as it is, or NULL */
	int image_fd;
};

void pattern_source_init(struct pattern_source *source, unsigned blocks, uint64_t length);
bool pattern_is_zero(const struct pattern_source *source, uint64_t offset);
/* Writes block 0 to a file and has it as place(); false when it cannot. */
bool pattern_source_to_file(struct pattern_source *source, const char *path);

/* The page at @offset of @host is what the source has (or zero). */
bool page_is_right(const struct pattern_source *source, unsigned block, uint64_t offset,
		   const char *host);

#endif
