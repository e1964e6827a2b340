/* SPDX-License-Identifier: MIT */
#include "ram/directory.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "ram/reclaim.h"
#include <string.h>
#include <urcu/compiler.h>

static int by_offset(const struct gr_block *a, const struct gr_block *b)
{
	return a->ram_offset < b->ram_offset ? -1 : a->ram_offset > b->ram_offset;
}

static int by_name(const struct gr_block *a, const struct gr_block *b)
{
	return strcmp(a->name, b->name);
}

static int by_host(const struct gr_block *a, const struct gr_block *b)
{
	uintptr_t first = (uintptr_t)a->mem.host, other = (uintptr_t)b->mem.host;

	return first < other ? -1 : first > other;
}

/* Copy @count blocks without @remove, putting @add where the order wants it. */
static void edit_sorted(struct gr_block **to, struct gr_block *const *from, size_t count,
			struct gr_block *add, const struct gr_block *remove,
			int (*compare)(const struct gr_block *, const struct gr_block *))
{
	size_t i;

	for (i = 0; i < count; i++) {
		if (from[i] == remove)
			continue;
		if (add && compare(add, from[i]) < 0) {
			*to++ = add;
			add = NULL;
		}
		*to++ = from[i];
	}
	if (add)
		*to = add;
}

static void free_garbage(struct gr__garbage *garbage)
{
	gr__directory_free(caa_container_of(garbage, struct gr__directory, garbage));
}

struct gr__directory *gr__directory_edit(const struct gr__directory *old, struct gr_block *add,
					 const struct gr_block *remove)
{
	size_t before = old ? old->count : 0;
	size_t count = before + (add ? 1 : 0) - (remove ? 1 : 0);
	struct gr__directory *next =
		gr__alloc(sizeof(*next) + 3 * count * sizeof(struct gr_block *));

	if (!next)
		return NULL;
	next->garbage.free = free_garbage;
	next->garbage.bytes = sizeof(*next) + 3 * count * sizeof(struct gr_block *);
	next->count = count;
	next->by_offset = (struct gr_block **)(next + 1);
	next->by_name = next->by_offset + count;
	next->by_host = next->by_name + count;
	edit_sorted(next->by_offset, old ? old->by_offset : NULL, before, add, remove, by_offset);
	edit_sorted(next->by_name, old ? old->by_name : NULL, before, add, remove, by_name);
	edit_sorted(next->by_host, old ? old->by_host : NULL, before, add, remove, by_host);
	return next;
}

void gr__directory_free(struct gr__directory *directory)
{
	gr__free(directory);
}

void gr__directory_publish(struct gr_ram *ram, struct gr__directory *next)
{
	const struct gr__directory *old = ram->directory;

	/* release: a reader that sees it sees its blocks whole; pairs with gr__directory_get() */
	__atomic_store_n(&ram->directory, next, __ATOMIC_RELEASE);
	if (old)
		gr__retire(ram, (struct gr__garbage *)&old->garbage);
}

const struct gr__directory *gr__directory_get(struct gr_ram *ram)
{
	return __atomic_load_n(&ram->directory,
			       __ATOMIC_ACQUIRE); /* pairs with gr__directory_publish() */
}

struct gr_block *gr_block_by_name(struct gr_ram *ram, const char *name)
{
	const struct gr__directory *directory = gr__directory_get(ram);
	size_t low = 0, high = directory->count;

	GR_POINT("directory.found");
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(directory->by_name[middle]->name, name);

		if (!order)
			return directory->by_name[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static uint64_t offset_key(const struct gr_block *block)
{
	return block->ram_offset;
}

static uint64_t host_key(const struct gr_block *block)
{
	return (uintptr_t)block->mem.host;
}

/* The block whose [key, key + max_length) holds @value. */
static struct gr_block *find_holding(struct gr_block *const *blocks, size_t count, uint64_t value,
				     uint64_t (*key)(const struct gr_block *),
				     uint64_t *offset_in_block)
{
	size_t low = 0, high = count;
	struct gr_block *block;

	while (low < high) { /* low: how many keys are known to be at most value */
		size_t middle = low + (high - low) / 2;

		if (key(blocks[middle]) <= value)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return NULL;
	block = blocks[low - 1];
	if (value - key(block) >= block->mem.max_length)
		return NULL;
	if (offset_in_block)
		*offset_in_block = value - key(block);
	return block;
}

struct gr_block *gr_block_by_offset(struct gr_ram *ram, uint64_t ram_offset,
				    uint64_t *offset_in_block)
{
	const struct gr__directory *directory = gr__directory_get(ram);

	return find_holding(directory->by_offset, directory->count, ram_offset, offset_key,
			    offset_in_block);
}

struct gr_block *gr_block_by_host(struct gr_ram *ram, const void *host, uint64_t *offset_in_block)
{
	const struct gr__directory *directory = gr__directory_get(ram);

	struct gr_block *block;
	uint64_t offset = 0;

	block = find_holding(directory->by_host, directory->count, (uintptr_t)host, host_key,
			     &offset);
	if (!block || !block->mem.host) /* seen through windows, it stands first of all */
		return NULL;
	if (offset_in_block)
		*offset_in_block = offset;
	return block;
}

int gr_ram_each_block(struct gr_ram *ram, int (*fn)(void *context, struct gr_block *block),
		      void *context)
{
	const struct gr__directory *directory = gr__directory_get(ram);
	size_t i;
	int rc = 0;

	for (i = 0; i < directory->count && !rc; i++)
		rc = fn(context, directory->by_offset[i]);
	return rc;
}
