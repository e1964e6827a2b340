/* SPDX-License-Identifier: MIT */
/*
 * Copies a RAM: pointers to its views and its directory under ram->lock, so that they are of one
 * moment; what they lead to afterwards, in the same read section, which keeps it; files and pages
 * of blocks last, in a read section for each few, since that takes system calls. None of those
 * waits for a file server or a disk.
 *
 * Threads: any; the caller keeps the RAM open (ram/registry.h).
 */
#include "status/snapshot.h"
#include "os/alloc.h"
#include "os/pages.h"
#include "ram/directory.h"
#include "space/space.h"
#include <errno.h>
#include <string.h>

/* Pages are counted up to so many bytes in one document, and in one read section. */
#define COUNT_BUDGET (UINT64_C(4) << 30)
#define COUNT_PIECE (UINT64_C(64) << 20)

/* The pointers of one moment, valid in the read section in which they were taken. */
struct moment {
	const struct gr__directory *directory;
	const struct gr__space **spaces;
	const struct gr__view **views;
};

/* Lock held. */
static int copy_pending(struct gr__snapshot *snapshot, struct gr_ram *ram)
{
	uint64_t now = gr__now_ns();
	struct gr_block *block;

	if (!ram->blocks_pending)
		return 0;
	snapshot->pending = gr__alloc_array(ram->blocks_pending, sizeof(*snapshot->pending));
	if (!snapshot->pending)
		return -ENOMEM;
	cds_list_for_each_entry (block, &ram->pending, node) {
		struct gr__seen_pending *seen = &snapshot->pending[snapshot->pending_count];

		seen->name = gr__strdup(block->name);
		if (!seen->name)
			return -ENOMEM;
		seen->bytes = block->mem.max_length;
		/* relaxed: a figure */
		seen->pins = __atomic_load_n(&block->pins, __ATOMIC_RELAXED) & ~GR__PINS_UNLINKED;
		seen->waited_ns = now > block->deleted_ns ? now - block->deleted_ns : 0;
		snapshot->pending_count++;
	}
	return 0;
}

/* In a read section. */
static int take_moment(struct gr__snapshot *snapshot, struct gr_ram *ram, struct moment *moment)
{
	const struct gr__space *space;
	size_t count;
	int rc;

	pthread_mutex_lock(&ram->lock);
	snapshot->number = ram->number;
	gr__ram_stats(ram, &snapshot->stats);
	rc = copy_pending(snapshot, ram);
	moment->directory = ram->directory;
	count = ram->space_count;
	moment->spaces = gr__alloc_array(count + 1, sizeof(*moment->spaces));
	moment->views = gr__alloc_array(count + 1, sizeof(*moment->views));
	if (moment->spaces && moment->views) {
		count = 0;
		cds_list_for_each_entry (space, &ram->spaces, node) {
			moment->spaces[count] = space;
			moment->views[count++] = gr__space_current(space);
		}
		snapshot->space_count = count;
	} else {
		rc = -ENOMEM;
	}
	pthread_mutex_unlock(&ram->lock);
	return rc;
}

/* The directory is sorted by RAM offset, and so are the blocks. */
static size_t index_of(const struct gr__directory *directory, const struct gr_block *block)
{
	size_t first = 0, count = directory->count;

	while (count > 1) {
		size_t half = count / 2;

		if (directory->by_offset[first + half]->ram_offset <= block->ram_offset)
			first += half;
		count -= half;
	}
	return first;
}

static int copy_space(struct gr__seen_space *seen, const struct gr__space *space,
		      const struct gr__view *view, const struct gr__directory *directory)
{
	struct gr__place place = {0, 0};
	bool more = view->chunk_count > 0;

	seen->generation = view->read.generation;
	seen->name = gr__strdup(space->name);
	seen->ranges = gr__alloc_array(view->ranges + 1, sizeof(*seen->ranges));
	if (!seen->name || !seen->ranges)
		return -ENOMEM;
	for (; more; more = gr__view_next(view, &place)) {
		const struct gr__range *range = gr__view_range(view, place);
		struct gr_range public;

		gr__range_describe(gr__view_first(view, place), range, &public);
		seen->ranges[seen->count++] = (struct gr__seen_range){
			.addr = public.addr,
			.length = public.length,
			.visible = public.visible,
			.offset = public.offset,
			.host = public.host,
			.access = public.access,
			.block = index_of(directory, public.block),
		};
	}
	return 0;
}

/* The table stays as long as the block, whoever opens and closes granules meanwhile. */
static void see_granules(struct gr__seen_block *seen, const struct gr_block *block)
{
	const struct gr__granules *granules = gr__block_granules(block);

	if (!granules || !__atomic_load_n(&block->plug, __ATOMIC_RELAXED))
		return;
	seen->granule = granules->granule;
	seen->plugged = __atomic_load_n(&granules->bytes, __ATOMIC_RELAXED);
}

static int copy_blocks(struct gr__snapshot *snapshot, const struct gr__directory *directory)
{
	size_t i;

	snapshot->blocks = gr__alloc_array(directory->count + 1, sizeof(*snapshot->blocks));
	if (!snapshot->blocks)
		return -ENOMEM;
	for (i = 0; i < directory->count; i++) {
		struct gr__seen_block *seen = &snapshot->blocks[snapshot->block_count];

		gr_block_get_info(directory->by_offset[i], &seen->info);
		see_granules(seen, directory->by_offset[i]);
		seen->resident = UINT64_MAX;
		seen->name = gr__strdup(seen->info.name);
		if (!seen->name)
			return -ENOMEM;
		seen->info.name = seen->name;
		snapshot->block_count++;
	}
	return 0;
}

static int copy_moment(struct gr__snapshot *snapshot, const struct moment *moment)
{
	int rc = copy_blocks(snapshot, moment->directory);
	size_t i;

	if (rc < 0)
		return rc;
	snapshot->spaces = gr__alloc_array(snapshot->space_count + 1, sizeof(*snapshot->spaces));
	if (!snapshot->spaces)
		return -ENOMEM;
	for (i = 0; i < snapshot->space_count && !rc; i++)
		rc = copy_space(&snapshot->spaces[i], moment->spaces[i], moment->views[i],
				moment->directory);
	return rc;
}

/* Is it there, as it was? In a read section, at whose end the answer is old. */
static bool is_still(struct gr_ram *ram, const struct gr__seen_block *seen)
{
	const struct gr_block *block = gr_block_by_offset(ram, seen->info.ram_offset, NULL);

	return block && block->mem.host == seen->info.host && block->mem.fd == seen->info.fd &&
	       !strcmp(block->name, seen->name) && gr__block_length(block) >= seen->info.length;
}

static int look_at_file(struct gr_ram *ram, struct gr__seen_block *seen)
{
	struct gr__file_pages file = {0};
	char path[512];
	bool known;

	gr_read_begin();
	known = is_still(ram, seen) && !gr__file_pages_get(seen->info.fd, &file);
	if (known && gr__file_path(seen->info.fd, path, sizeof(path)) < 0)
		path[0] = 0;
	gr_read_end();
	if (!known)
		return 0;
	seen->inode = file.inode;
	/* of all the file: blocks that share one each tell the whole */
	if (seen->info.flags & GR_SHARED)
		seen->resident = file.allocated;
	if (!path[0])
		return 0;
	seen->path = gr__strdup(path);
	return seen->path ? 0 : -ENOMEM;
}

static void count_pages(struct gr_ram *ram, struct gr__seen_block *seen, uint64_t *budget)
{
	uint64_t at, sum = 0, piece, bytes;

	if (seen->info.length > *budget || seen->info.page_size != gr__pages_size())
		return;
	*budget -= seen->info.length;
	for (at = 0; at < seen->info.length; at += piece) {
		bool known;

		piece = seen->info.length - at < COUNT_PIECE ? seen->info.length - at : COUNT_PIECE;
		gr_read_begin();
		known = is_still(ram, seen) &&
			!gr__pages_resident((char *)seen->info.host + at, piece, &bytes);
		gr_read_end();
		if (!known)
			return;
		sum += bytes;
	}
	seen->resident = sum;
}

int gr__snapshot_take(struct gr__snapshot *snapshot, struct gr_ram *ram)
{
	struct moment moment = {NULL, NULL, NULL};
	uint64_t budget = COUNT_BUDGET;
	size_t i;
	int rc;

	memset(snapshot, 0, sizeof(*snapshot));
	gr_read_begin();
	rc = take_moment(snapshot, ram, &moment);
	if (!rc)
		rc = copy_moment(snapshot, &moment);
	gr_read_end();
	gr__free(moment.views);
	gr__free(moment.spaces);
	for (i = 0; i < snapshot->block_count && !rc; i++) {
		struct gr__seen_block *seen = &snapshot->blocks[i];

		if (seen->info.fd >= 0)
			rc = look_at_file(ram, seen);
		else if (seen->info.backing == GR_BACKING_ANON)
			count_pages(ram, seen, &budget);
	}
	return rc;
}

void gr__snapshot_fini(struct gr__snapshot *snapshot)
{
	size_t i;

	for (i = 0; snapshot->spaces && i < snapshot->space_count; i++) {
		gr__free(snapshot->spaces[i].name);
		gr__free(snapshot->spaces[i].ranges);
	}
	for (i = 0; snapshot->blocks && i < snapshot->block_count; i++) {
		gr__free(snapshot->blocks[i].name);
		gr__free(snapshot->blocks[i].path);
	}
	for (i = 0; snapshot->pending && i < snapshot->pending_count; i++)
		gr__free(snapshot->pending[i].name);
	gr__free(snapshot->spaces);
	gr__free(snapshot->blocks);
	gr__free(snapshot->pending);
}
