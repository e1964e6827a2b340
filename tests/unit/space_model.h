/* SPDX-License-Identifier: MIT */
/*
 * What a space should be, written as plainly as can be: a list of ranges in no order, searched from
 * end to end. Nothing here is shared with the library, so the same mistake is not made twice.
 */
#ifndef SPACE_MODEL_H
#define SPACE_MODEL_H

#include "testing.h"

struct model_block {
	struct gr_block *block;
	char *host;
	uint64_t used, maximum;
	bool resizable;
};

struct model_range {
	uint64_t first, last;
	struct model_block *block;
	uint64_t offset;
	unsigned access;
};

struct model {
	struct model_range *ranges;
	size_t count, room;
};

struct model_piece {
	const struct model_range *range;
	uint64_t addr, length;
};

void model_fini(struct model *model);
void model_copy(struct model *to, const struct model *from);
void model_sort(struct model *model);

/* 0 or -EEXIST. */
int model_map(struct model *model, const struct model_range *range);
/* Was anything there? */
bool model_unmap(struct model *model, uint64_t first, uint64_t last);
bool model_unmap_block(struct model *model, const struct model_block *block);

/* The bytes that readers see of it. */
uint64_t model_visible(const struct model_range *range);
/* The range that holds @addr, seen or not; or NULL. */
const struct model_range *model_find(const struct model *model, uint64_t addr);
void *model_place(const struct model_range *range, uint64_t addr);

/* What gr_host() should give. */
void *model_host(const struct model *model, uint64_t addr, uint64_t length, unsigned access);
/* What gr_spans() should give; fills up to @max. */
int model_spans(const struct model *model, uint64_t addr, uint64_t length, unsigned access,
		struct model_piece *pieces, int max);
/* The word of an index that reaches that far. */
uint64_t model_word(const struct model *model, uint64_t granule);

/* Ranges that name the block. */
unsigned model_mapped(const struct model *model, const struct model_block *block);

#endif
