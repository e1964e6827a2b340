/* SPDX-License-Identifier: MIT */
/*
 * Strict windows as callers see them: made and ended here, shown by space/windows.c. Threads and
 * locks as in plug.c.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "plug/plug.h"
#include "space/change.h"
#include <errno.h>

static int check_window(const struct gr_plug *plug, struct gr__window *window, uint64_t length)
{
	const struct gr__space *space = window->space;
	const struct gr_block *block = plug->block;

	if (space->ram != block->ram)
		return gr__fail(-EINVAL, "space %s: block %s belongs to another RAM", space->name,
				block->name);
	if (!gr__is_aligned(window->first, GR_PAGE_SIZE))
		return gr__fail(-EINVAL, "space %s: window at %#llx: not a multiple of %#x",
				space->name, (unsigned long long)window->first, GR_PAGE_SIZE);
	if (!gr__range_last(window->first, length, &window->last))
		return gr__fail(length ? -ERANGE : -EINVAL,
				"space %s: window of %#llx bytes at %#llx is empty or passes 2^64",
				space->name, (unsigned long long)length,
				(unsigned long long)window->first);
	if (!window->access || window->access & ~(GR_READ | GR_WRITE))
		return gr__fail(-EINVAL, "space %s: access %#x is not made of GR_READ and GR_WRITE",
				space->name, window->access);
	return gr__plug_check_run(plug, "window", (struct gr__run){window->offset, length},
				  block->mem.max_length);
}

/* The one edit of a window's space. Has granules->busy, and gives it back. */
static int run(struct gr_plug *plug, struct gr__window *window, enum gr__op_kind kind)
{
	struct gr_ram *ram = plug->block->ram;
	const struct gr__op op = {
		.kind = kind,
		.first = window->first,
		.last = window->last,
		.window = window,
	};
	struct gr__change change = {
		.ram = ram,
		.space = window->space,
		.ops = &op,
		.op_count = 1,
	};
	int rc = gr__change_run(&change);

	pthread_mutex_lock(&ram->lock);
	gr__plug_end(plug);
	pthread_mutex_unlock(&ram->lock);
	return rc;
}

int gr_plug_map(struct gr_plug *plug, struct gr_space *space, uint64_t addr, uint64_t offset,
		uint64_t length, unsigned access)
{
	struct gr_ram *ram = plug->block->ram;
	struct gr__window *window;
	int rc = gr__ram_check(ram, "plug map");

	if (rc < 0)
		return rc;
	window = gr__alloc(sizeof(*window));
	if (!window)
		return gr__fail(-ENOMEM, "block %s: no memory for a window", plug->block->name);
	*window = (struct gr__window){
		.space = gr__space_of(space),
		.block = plug->block,
		.first = addr,
		.offset = offset,
		.access = access,
	};
	rc = check_window(plug, window, length);
	if (!rc) {
		pthread_mutex_lock(&ram->lock);
		rc = gr__plug_begin(plug);
		pthread_mutex_unlock(&ram->lock);
	}
	if (!rc)
		rc = run(plug, window, GR__OP_WINDOW_OPEN);
	if (rc < 0)
		gr__free(window);
	return rc;
}

/* Lock held. */
static struct gr__window *find(const struct gr_plug *plug, const struct gr__space *space,
			       uint64_t addr)
{
	struct gr__window *window;

	cds_list_for_each_entry (window, &plug->granules->windows, in_granules)
		if (window->space == space && window->first == addr)
			return window;
	return NULL;
}

int gr_plug_unmap(struct gr_plug *plug, struct gr_space *space, uint64_t addr)
{
	struct gr_ram *ram = plug->block->ram;
	struct gr__window *window;
	int rc = gr__ram_check(ram, "plug unmap");

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&ram->lock);
	window = find(plug, gr__space_of(space), addr);
	rc = window ? gr__plug_begin(plug)
		    : gr__fail(-ENOENT, "block %s: no strict window begins at %#llx of space %s",
			       plug->block->name, (unsigned long long)addr,
			       gr__space_of(space)->name);
	pthread_mutex_unlock(&ram->lock);
	if (rc < 0)
		return rc;
	rc = run(plug, window, GR__OP_WINDOW_CLOSE);
	if (!rc)
		gr__free(window);
	return rc;
}
