/* SPDX-License-Identifier: MIT */
/*
 * A live space as the source of a core.
 *
 * Its ranges are copied in one read section, from one view, and the block of each is pinned in it;
 * so after the section all that the dump touches stays, whatever is unmapped and deleted. Which
 * pages hold anything is os/pages.h's business. Memory that has no fixed host address (windows) is
 * loaded by guest address, and stands as zeroes where it has left the space meanwhile.
 *
 * Threads: the caller's. No lock is taken.
 */
#include "base/error.h"
#include "dump/core.h"
#include "os/alloc.h"
#include "os/pages.h"
#include "ram/reclaim.h"
#include "space/space.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct held {
	struct gr_block *block; /* pinned */
	uint64_t offset;	/* in the block */
};

struct live {
	struct gr_space *space;
	struct gr_dump_range *ranges;
	struct held *held;
	size_t count;
	uint64_t generation;
	struct gr__pages *pages; /* of range `current` */
	size_t current;		 /* or SIZE_MAX */
};

static int hold_ranges(struct live *live)
{
	const struct gr__view *view = gr__space_current(gr__space_of(live->space));
	struct gr__place place = {0, 0};
	bool more = view->chunk_count > 0;

	live->generation = view->read.generation;
	live->ranges = gr__alloc_array(view->ranges + 1, sizeof(*live->ranges));
	live->held = gr__alloc_array(view->ranges + 1, sizeof(*live->held));
	if (!live->ranges || !live->held)
		return gr__fail(-ENOMEM, "dump: no memory for %llu ranges",
				(unsigned long long)view->ranges);
	for (; more; more = gr__view_next(view, &place)) {
		const struct gr__range *range = gr__view_range(view, place);

		if (!range->visible)
			continue;
		gr__block_get(range->block);
		live->held[live->count] = (struct held){range->block, range->offset};
		live->ranges[live->count++] = (struct gr_dump_range){
			.addr = gr__view_first(view, place),
			.length = range->visible,
		};
	}
	return 0;
}

static enum gr__pages_kind kind_of(const struct gr__mem *mem)
{
	bool shared = mem->flags & GR_SHARED;

	if (mem->fd >= 0)
		return shared ? GR__PAGES_SHARED_FILE : GR__PAGES_PRIVATE_FILE;
	if (mem->backing == GR_BACKING_ANON)
		return shared ? GR__PAGES_SHARED_ANON : GR__PAGES_PRIVATE;
	return GR__PAGES_UNKNOWN;
}

/* Does its memory stand at one address? */
static bool has_host(const struct live *live, size_t range)
{
	return live->held[range].block->mem.host != NULL;
}

static int open_pages(struct live *live, size_t range)
{
	const struct held *held = &live->held[range];
	const struct gr__mem *mem = &held->block->mem;
	struct gr__pages_of of = {
		.kind = kind_of(mem),
		.host = (uintptr_t)mem->host + held->offset,
		.length = live->ranges[range].length,
		.fd = mem->fd,
		.fd_offset = mem->fd_offset + held->offset,
	};
	int rc;

	if (live->current == range)
		return 0;
	if (live->current != SIZE_MAX)
		gr__pages_close(live->pages);
	live->current = SIZE_MAX;
	rc = gr__pages_open(live->pages, &of);
	if (rc < 0)
		return gr__fail(rc, "dump: block %s", held->block->name);
	live->current = range;
	return 0;
}

static int next_bytes(void *context, size_t range, uint64_t offset, uint64_t *first,
		      uint64_t *length)
{
	struct live *live = context;
	int rc;

	if (!has_host(live, range))
		return 0; /* all of it */
	rc = open_pages(live, range);
	if (rc < 0)
		return rc;
	rc = gr__pages_next(live->pages, offset, first, length);
	return rc < 0 ? gr__fail(rc, "dump: which pages block %s has",
				 live->held[range].block->name)
		      : 0;
}

static int read_bytes(void *context, size_t range, uint64_t offset, void *buf, uint64_t length)
{
	struct live *live = context;
	int rc;

	if (!has_host(live, range))
		return gr_load(live->space, live->ranges[range].addr + offset, buf, length);
	rc = open_pages(live, range);
	if (rc < 0)
		return rc;
	rc = gr__pages_read(live->pages, offset, buf, length);
	return rc < 0 ? gr__fail(rc, "dump: reading block %s", live->held[range].block->name) : 0;
}

int gr_dump(struct gr_space *space, int fd, const struct gr_dump_opts *opts)
{
	struct live live = {.space = space, .current = SIZE_MAX};
	struct gr_dump_source source = {.next = next_bytes, .read = read_bytes, .context = &live};
	char about[512];
	size_t i;
	int rc;

	if (!space)
		return gr__fail(-EINVAL, "dump: no space");
	rc = gr__may_wait("dump"); /* it holds pins for long */
	if (rc < 0)
		return rc;
	live.pages = gr__alloc(sizeof(*live.pages));
	if (!live.pages)
		return gr__fail(-ENOMEM, "dump: no memory");
	gr_read_begin();
	rc = hold_ranges(&live);
	gr_read_end();
	source.ranges = live.ranges;
	source.count = live.count;
	snprintf(about, sizeof(about), "LIBRARY=%s\nSPACE=%s\nGENERATION=%llu\n", gr_version(),
		 gr_space_name(space), (unsigned long long)live.generation);
	if (!rc)
		rc = gr__core_write(&source, fd, opts, about, live.generation);
	if (live.current != SIZE_MAX)
		gr__pages_close(live.pages);
	for (i = 0; i < live.count; i++)
		gr__block_put(live.held[i].block);
	gr__free(live.held);
	gr__free(live.ranges);
	gr__free(live.pages);
	return rc;
}
