/* SPDX-License-Identifier: MIT */
#include "space_model.h"

void model_fini(struct model *model)
{
	free(model->ranges);
	memset(model, 0, sizeof(*model));
}

void model_copy(struct model *to, const struct model *from)
{
	to->count = from->count;
	to->room = from->count + 64;
	to->ranges = calloc(to->room, sizeof(*to->ranges));
	assert_non_null(to->ranges);
	if (from->count)
		memcpy(to->ranges, from->ranges, from->count * sizeof(*to->ranges));
}

static int compare_ranges(const void *left, const void *right)
{
	const struct model_range *a = left, *b = right;

	return a->first < b->first ? -1 : a->first > b->first;
}

void model_sort(struct model *model)
{
	if (model->count)
		qsort(model->ranges, model->count, sizeof(*model->ranges), compare_ranges);
}

static void add_range(struct model *model, const struct model_range *range)
{
	struct model_range copy = *range; /* it may stand in what moves */

	if (model->count == model->room) {
		model->room = 2 * model->room + 64;
		model->ranges = realloc(model->ranges, model->room * sizeof(*model->ranges));
		assert_non_null(model->ranges);
	}
	model->ranges[model->count++] = copy;
}

int model_map(struct model *model, const struct model_range *range)
{
	size_t i;

	for (i = 0; i < model->count; i++)
		if (range->first <= model->ranges[i].last && model->ranges[i].first <= range->last)
			return -EEXIST;
	add_range(model, range);
	return 0;
}

bool model_unmap(struct model *model, uint64_t first, uint64_t last)
{
	bool found = false;
	size_t i = 0;

	while (i < model->count) {
		struct model_range whole = model->ranges[i], piece = whole;

		if (whole.last < first || last < whole.first) {
			i++;
			continue;
		}
		found = true;
		model->ranges[i] = model->ranges[--model->count];
		if (whole.first < first) {
			piece.last = first - 1;
			add_range(model, &piece);
		}
		if (last < whole.last) {
			piece = whole;
			piece.first = last + 1;
			piece.offset += piece.first - whole.first;
			add_range(model, &piece);
		}
	}
	return found;
}

bool model_unmap_block(struct model *model, const struct model_block *block)
{
	bool found = false;
	size_t i = 0;

	while (i < model->count) {
		if (model->ranges[i].block == block) {
			model->ranges[i] = model->ranges[--model->count];
			found = true;
		} else {
			i++;
		}
	}
	return found;
}

uint64_t model_visible(const struct model_range *range)
{
	uint64_t length = range->last - range->first + 1, used = range->block->used;

	if (range->offset >= used)
		return 0;
	return used - range->offset < length ? used - range->offset : length;
}

const struct model_range *model_find(const struct model *model, uint64_t addr)
{
	size_t i;

	for (i = 0; i < model->count; i++)
		if (model->ranges[i].first <= addr && addr <= model->ranges[i].last)
			return &model->ranges[i];
	return NULL;
}

void *model_place(const struct model_range *range, uint64_t addr)
{
	return range->block->host + range->offset + (addr - range->first);
}

int model_spans(const struct model *model, uint64_t addr, uint64_t length, unsigned access,
		struct model_piece *pieces, int max)
{
	int count = 0;

	if (access & ~RW)
		return -EINVAL;
	if (length && UINT64_MAX - addr < length - 1)
		return -ERANGE;
	while (length) {
		const struct model_range *range = model_find(model, addr);
		uint64_t left;

		if (!range || addr - range->first >= model_visible(range))
			return -EFAULT;
		if (access & ~range->access)
			return -EACCES;
		left = model_visible(range) - (addr - range->first);
		if (left > length)
			left = length;
		if (count < max)
			pieces[count] = (struct model_piece){range, addr, left};
		count++;
		addr += left;
		length -= left;
	}
	return count;
}

void *model_host(const struct model *model, uint64_t addr, uint64_t length, unsigned access)
{
	struct model_piece piece;

	if (model_spans(model, addr, length, access, &piece, 1) != 1)
		return NULL;
	return model_place(piece.range, addr);
}

uint64_t model_word(const struct model *model, uint64_t granule)
{
	uint64_t addr = granule << GR_GRANULE_SHIFT;
	const struct model_range *range = model_find(model, addr);
	uint64_t into;

	if (!range)
		return GR__WORD_NONE;
	into = addr - range->first;
	if (model_visible(range) < into || model_visible(range) - into < GR_GRANULE)
		return GR__WORD_NONE;
	/* the low bits say what is missing */
	return ((uintptr_t)model_place(range, addr) - addr) | (RW & ~range->access);
}

unsigned model_mapped(const struct model *model, const struct model_block *block)
{
	unsigned count = 0;
	size_t i;

	for (i = 0; i < model->count; i++)
		count += model->ranges[i].block == block;
	return count;
}
