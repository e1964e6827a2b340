/* SPDX-License-Identifier: MIT */
/*
 * What stands in a snapshot beside pages, all of one moment: plugged granules and spaces under one
 * hold of the RAM's lock, then the embedder's state.
 */
#include "base/error.h"
#include "os/alloc.h"
#include "ram/granules.h"
#include "snapshot/save.h"
#include "space/space.h"
#include <errno.h>
#include <string.h>

/* Lock held. */
static int copy_granules(struct gr__save *save, unsigned block)
{
	const struct gr__held *held = &save->holds.items[block];
	const struct gr__granules *granules = gr__block_open_granules(held->block);
	struct gr__written *written = &save->writer.blocks[block];
	struct gr__run run = {0, 0};
	unsigned count = 0;

	if (!granules)
		return 0;
	while (gr__granules_next(granules, granules->plugged, held->block->mem.max_length, &run))
		count++;
	save->runs[block] = gr__alloc_array(count + 1, sizeof(struct wire_run));
	if (!save->runs[block])
		return -ENOMEM;
	run = (struct gr__run){0, 0};
	while (gr__granules_next(granules, granules->plugged, held->block->mem.max_length, &run))
		save->runs[block][written->run_count++] = (struct wire_run){run.offset, run.length};
	written->granule = granules->granule;
	written->runs = save->runs[block];
	return 0;
}

static int number_of(const struct gr__save *save, const struct gr_block *block)
{
	unsigned i;

	for (i = 0; i < save->holds.count; i++)
		if (save->holds.items[i].block == block)
			return (int)i;
	return -1;
}

/* Lock held. */
static int copy_space(const struct gr__save *save, const struct gr__space *space,
		      struct gr__snap_space *to)
{
	const struct gr__view *view = gr__space_current(space);
	struct gr_snapshot_range *ranges = gr__alloc_array(view->ranges + 1, sizeof(*ranges));
	struct gr__place place = {0, 0};
	bool more = view->chunk_count > 0;

	to->ranges = ranges;
	to->name = gr__strdup(space->name);
	if (!ranges || !to->name)
		return -ENOMEM;
	for (; more; more = gr__view_next(view, &place)) {
		struct gr_range range;
		int block;

		gr__range_describe(gr__view_first(view, place), gr__view_range(view, place),
				   &range);
		block = number_of(save, range.block);
		if (block < 0)
			return -EBUSY; /* it came since the set of blocks was compared */
		ranges[to->range_count++] = (struct gr_snapshot_range){
			.addr = range.addr,
			.length = range.length,
			.offset = range.offset,
			.block = (unsigned)block,
			.access = range.access,
		};
	}
	return 0;
}

/* Lock held. */
static int copy_all(struct gr__save *save)
{
	const struct gr__space *space;
	unsigned i;
	int rc = 0;

	for (i = 0; i < save->holds.count && !rc; i++) {
		save->writer.blocks[i].used = save->holds.items[i].used;
		rc = copy_granules(save, i);
	}
	save->spaces = gr__alloc_array(save->ram->space_count + 1, sizeof(*save->spaces));
	if (!save->spaces)
		return -ENOMEM;
	cds_list_for_each_entry (space, &save->ram->spaces, node)
		if (!rc)
			rc = copy_space(save, space, &save->spaces[save->space_count++]);
	return rc;
}

int gr__save_moment(struct gr__save *save)
{
	int rc;

	save->runs = gr__alloc_array(save->holds.count + 1, sizeof(*save->runs));
	if (!save->runs)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	pthread_mutex_lock(&save->ram->lock);
	rc = copy_all(save);
	pthread_mutex_unlock(&save->ram->lock);
	if (rc < 0)
		return gr__fail(rc, "snapshot: spaces and granules: %s",
				rc == -EBUSY ? "the set of blocks changed meanwhile" : "no memory");
	if (!save->ops.state)
		return 0;
	gr__callback_begin();
	rc = save->ops.state(save->opts->context, &save->state);
	gr__callback_end();
	return rc < 0 ? gr__fail(rc, "snapshot: the state was not given: %s", strerrordesc_np(-rc))
		      : 0;
}

void gr__save_moment_free(struct gr__save *save)
{
	unsigned i;

	for (i = 0; i < save->space_count; i++) {
		gr__free((void *)save->spaces[i].name);
		gr__free((void *)save->spaces[i].ranges);
	}
	gr__free(save->spaces);
	for (i = 0; save->runs && i < save->holds.count; i++)
		gr__free(save->runs[i]);
	gr__free(save->runs);
	for (i = 0; i < save->state.count; i++) {
		gr__free((void *)save->state.items[i].name);
		gr__free((void *)save->state.items[i].bytes);
	}
	gr__free(save->state.items);
}

int gr_snapshot_put_state(struct gr_snapshot_state *state, const char *name, const void *bytes,
			  uint64_t length)
{
	size_t name_length = name ? strlen(name) : 0;
	struct gr__snap_state *items, *item;
	void *copy;
	unsigned i;

	if (!name_length || name_length > 255 || (length && !bytes))
		return gr__fail(-EINVAL, "snapshot: a piece of state's name has %zu bytes",
				name_length);
	for (i = 0; i < state->count; i++)
		if (!strcmp(state->items[i].name, name))
			return gr__fail(-EEXIST, "snapshot: two pieces of state are named %s",
					name);
	if (length > WIRE_STATE_MAX - state->bytes)
		return gr__fail(-ERANGE, "snapshot: more than %llu bytes of state",
				(unsigned long long)WIRE_STATE_MAX);
	if (state->count == state->room) {
		items = gr__alloc_array(state->room * 2 + 16, sizeof(*items));
		if (!items)
			return gr__fail(-ENOMEM, "snapshot: no memory");
		if (state->count)
			memcpy(items, state->items, state->count * sizeof(*items));
		gr__free(state->items);
		state->items = items;
		state->room = state->room * 2 + 16;
	}
	item = &state->items[state->count];
	*item = (struct gr__snap_state){.name = gr__strdup(name), .length = length};
	copy = gr__alloc_raw(length + 1);
	item->bytes = copy;
	if (!item->name || !copy) {
		gr__free((void *)item->name);
		gr__free(copy);
		return gr__fail(-ENOMEM, "snapshot: no memory for %s", name);
	}
	if (length)
		memcpy(copy, bytes, length);
	state->bytes += length;
	state->count++;
	return 0;
}
