/* SPDX-License-Identifier: MIT */
/*
 * `guestram snapshot info --svg`: each page of a snapshot by what is told of it and by whom, and
 * which pages are in a recorded working set. See cmd_snapshot.h.
 */
#include "cli.h"
#include "cmd_snapshot.h"
#include "page_map.h"
#include <errno.h>
#ifdef CLI_PAGER
#include <guestram/pager.h>
#endif
#include <stdio.h>
#include <stdlib.h>

enum { ABSENT, ZERO, ZERO_OLD, OWN, OWN_AGAIN, OLD };

static const struct page_map_kind kinds_alone[] = {
	[ABSENT] = {"zero, not told of", 0xf3f3f3},
	[ZERO] = {"zero", 0xc9d3df},
	[ZERO_OLD] = {"zero, told by a parent", 0xdfe6ee},
	[OWN] = {"stored", 0x3d7dca},
	[OWN_AGAIN] = {"stored once, used several times", 0x8e5bb5},
	[OLD] = {"stored by a parent", 0x9cc79a},
};

static const struct page_map_kind kinds_child[] = {
	[ABSENT] = {"zero, not told of", 0xf3f3f3},
	[ZERO] = {"zero since the parent", 0xf2d9a8},
	[ZERO_OLD] = {"zero, as in the parent", 0xdfe6ee},
	[OWN] = {"changed since the parent", 0xe07b28},
	[OWN_AGAIN] = {"changed, stored once, used several times", 0x8e5bb5},
	[OLD] = {"shared with the parent", 0x9cc79a},
};

/* A chunk of the snapshot's own file, by where its bytes are. */
struct stored_chunk {
	uint64_t at; /* in the file */
	unsigned block;
	uint64_t chunk; /* in the block */
};

/* A growing array: of chunks, or of runs. */
struct list {
	void *items;
	size_t count, room;
};

static void *add(struct list *list, size_t size)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 256;
		void *items = reallocarray(list->items, room, size);

		if (!items)
			return NULL;
		list->items = items;
		list->room = room;
	}
	return (char *)list->items + list->count++ * size;
}

static int by_place(const void *a, const void *b)
{
	const struct stored_chunk *one = a, *other = b;

	return (one->at > other->at) - (one->at < other->at);
}

/* ---------------------------------------------------------------------------------- what is told
 */

/* The chunks that are stored where another is, too: by place, each once. */
static int find_equal(const struct gr_snapshot *snapshot, struct list *equal)
{
	struct gr_snapshot_place place = {0};
	struct gr_snapshot_block info;
	struct stored_chunk *chunks;
	uint64_t at, length;
	unsigned block;
	int rc, level;
	size_t i, kept = 0;

	for (block = 0; !gr_snapshot_get_block(snapshot, block, &info); block++)
		for (at = 0; at < info.length; at += length) {
			struct stored_chunk *last = equal->items;

			rc = gr_snapshot_look(snapshot, block, at, &length, &level);
			if (rc < 0)
				return rc;
			if (!rc || level)
				continue;
			rc = gr_snapshot_locate(snapshot, block, at, &length, &place);
			if (rc < 0)
				return rc;
			if (equal->count && last[equal->count - 1].block == block &&
			    last[equal->count - 1].chunk == place.chunk)
				continue;
			last = add(equal, sizeof(*last));
			if (!last)
				return -ENOMEM;
			*last = (struct stored_chunk){place.offset, block, place.chunk};
		}
	chunks = equal->items;
	if (chunks)
		qsort(chunks, equal->count, sizeof(*chunks), by_place);
	for (i = 1; i < equal->count; i++)
		if (chunks[i].at == chunks[i - 1].at &&
		    (!kept || chunks[kept - 1].at != chunks[i].at))
			chunks[kept++] = chunks[i];
	equal->count = kept;
	return 0;
}

static int kind_of(const struct gr_snapshot *snapshot, const struct list *equal, unsigned block,
		   uint64_t at, uint64_t *length)
{
	struct gr_snapshot_place place;
	struct stored_chunk key;
	int level, rc = gr_snapshot_look(snapshot, block, at, length, &level);

	if (rc < 0)
		return rc;
	if (!rc)
		return level < 0 ? ABSENT : level ? ZERO_OLD : ZERO;
	if (level)
		return OLD;
	rc = gr_snapshot_locate(snapshot, block, at, length, &place);
	if (rc < 0)
		return rc;
	key.at = place.offset;
	return equal->count && bsearch(&key, equal->items, equal->count, sizeof(key), by_place)
		       ? OWN_AGAIN
		       : OWN;
}

static int add_pages(const struct gr_snapshot *snapshot, const struct list *equal,
		     struct page_map *map)
{
	struct gr_snapshot_block info;
	uint64_t at, length;
	unsigned block;
	int kind, rc;

	for (block = 0; !gr_snapshot_get_block(snapshot, block, &info); block++) {
		rc = page_map_block(map, info.name, info.length);
		if (rc < 0)
			return rc;
		for (at = 0; at < info.length; at += length) {
			kind = kind_of(snapshot, equal, block, at, &length);
			if (kind < 0)
				return kind;
			page_map_add(map, block, at, length, (unsigned)kind);
		}
	}
	return 0;
}

/* ----------------------------------------------------------------------------------- working set
 */

#ifdef CLI_PAGER

struct run {
	unsigned block;
	uint64_t offset, length;
};

static int by_offset(const void *a, const void *b)
{
	const struct run *one = a, *other = b;

	if (one->block != other->block)
		return one->block < other->block ? -1 : 1;
	return (one->offset > other->offset) - (one->offset < other->offset);
}

static int take_run(void *context, int block, uint64_t offset, uint64_t length)
{
	struct run *run = add(context, sizeof(*run));

	if (!run)
		return -ENOMEM;
	*run = (struct run){(unsigned)block, offset, length};
	return 0;
}

/* Each page once, within its block, however often the file has it. */
static void mark_runs(const struct gr_snapshot *snapshot, struct list *list, struct page_map *map)
{
	struct gr_snapshot_block info;
	struct run *runs = list->items;
	uint64_t end = 0;
	size_t i;

	if (!runs)
		return;
	qsort(runs, list->count, sizeof(*runs), by_offset);
	for (i = 0; i < list->count; i++) {
		uint64_t from = runs[i].offset, left;

		if (!i || runs[i].block != runs[i - 1].block)
			end = 0;
		if (gr_snapshot_get_block(snapshot, runs[i].block, &info) < 0 ||
		    from >= info.length)
			continue;
		left = info.length - from;
		left = runs[i].length < left ? runs[i].length : left;
		if (from + left <= end)
			continue;
		if (from < end) {
			left -= end - from;
			from = end;
		}
		page_map_mark(map, runs[i].block, from, left);
		end = from + left;
	}
}

static int add_order(const struct snapshot_args *args, struct gr_snapshot *snapshot,
		     struct page_map *map)
{
	struct gr_page_source source;
	struct list runs = {0};
	int rc = gr_snapshot_source(snapshot, &source);

	if (!rc)
		rc = gr_working_set_read(args->order, &source, take_run, &runs);
	if (!rc)
		mark_runs(snapshot, &runs, map);
	free(runs.items);
	return rc;
}

#endif

int snapshot_draw(struct snapshot_args *args, struct gr_snapshot *snapshot)
{
	struct gr_snapshot_info info = {0};
	struct list equal = {0};
	struct page_map map = {0};
	int rc = gr_snapshot_get_info(snapshot, 0, &info);

	if (!rc)
		rc = page_map_begin(&map, info.blocks);
	map.title = args->args[0];
	map.kinds = info.depth ? kinds_child : kinds_alone;
	map.kind_count = sizeof(kinds_alone) / sizeof(kinds_alone[0]);
	if (!rc)
		rc = find_equal(snapshot, &equal);
	if (!rc)
		rc = add_pages(snapshot, &equal, &map);
#ifdef CLI_PAGER
	if (!rc && args->order) {
		map.mark = "in the working set";
		rc = add_order(args, snapshot, &map);
	}
#endif
	rc = rc < 0 ? cli_fail_gr(rc, "%s", args->what) : page_map_write(&map, args->svg);
	page_map_end(&map);
	free(equal.items);
	return rc;
}
