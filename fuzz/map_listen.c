/* SPDX-License-Identifier: MIT */
/*
 * Listeners that keep a record of what they were told. An addition of what is there or a removal of
 * what is not ends the process at once; that the record says the same as the model is checked after
 * each step. As the input wants, they refuse, and call back: into another space, into what is being
 * changed (which must say -EBUSY), and into what waits (-EDEADLK).
 *
 * Threads: the fuzzer's, save reclaimed().
 */
#include "map_world.h"

#define SIDE_ADDR (64 * GIB - 2 * MIB)

void map_side_open(struct world *world)
{
	struct map_block *block = &world->blocks[MAP_BLOCKS];
	struct gr_block_opts opts = {
		.name = "side",
		.length = 4 * MIB,
		.flags = GR_DELETE_UNMAP,
		.user = &world->lives[0],
	};
	struct gr_block_info info;

	FUZZ_CHECK(gr_space_open(world->ram, "side", &world->spaces[MAP_SIDE].space) == 0);
	FUZZ_CHECK(gr_block_new(world->ram, &opts, &block->model.block) == 0);
	gr_block_get_info(block->model.block, &info);
	block->model.host = info.host;
	block->model.used = block->model.maximum = info.length;
	block->flags = opts.flags;
	block->life = &world->lives[0];
	*block->life = (struct life){.used = true, .host = info.host, .maximum = info.max_length};
	block->life->ram_offset = info.ram_offset;
	world->life_count = 1;
	snprintf(block->name, sizeof(block->name), "%s", opts.name);
	for (unsigned i = 0; i < MAP_CURSORS; i++)
		gr_cursor_init(&world->spaces[MAP_SIDE].cursors[i], world->spaces[MAP_SIDE].space);
}

void map_side_change(struct world *world)
{
	struct map_space *side = &world->spaces[MAP_SIDE];
	struct map_block *block = &world->blocks[MAP_BLOCKS];
	struct model_range range = {
		.first = SIDE_ADDR,
		.last = SIDE_ADDR + (4 * MIB - 1),
		.block = &block->model,
		.access = GR_READ,
	};
	unsigned failing = map_fail_in;
	int rc;

	/*
	 * A listener that is opened is told until nothing changes any more: one that makes a change
	 * of each change would never be done.
	 */
	if (!world->side_changes)
		return;
	world->side_changes--;
	map_fail_in = 0; /* what fails is the change being told, not this one */
	if (side->model.count) {
		rc = gr_space_unmap(side->space, SIDE_ADDR, 4 * MIB);
		if (!rc)
			model_unmap(&side->model, range.first, range.last);
	} else {
		rc = gr_space_map(side->space, SIDE_ADDR, block->model.block, 0, 4 * MIB, GR_READ);
		if (!rc)
			model_map(&side->model, &range);
	}
	/* this very range may be being told to a listener that opens or closes */
	FUZZ_CHECK_SAY(!rc || rc == -EBUSY, "%d: %s", rc, gr_last_error());
	map_fail_in = failing;
}

static unsigned find_block(struct world *world, const struct gr_block *block)
{
	for (unsigned i = 0; i <= MAP_BLOCKS; i++)
		if (world->blocks[i].model.block == block)
			return i;
	return MAP_BLOCKS + 1;
}

/*
 * One more listener in the middle of a change: it is told what there is, and then of the change
 * too.
 */
static void join(struct world *world)
{
	struct map_listener *late = &world->listeners[MAP_LISTENERS - 1];
	int rc;

	if (late->listener || late->replaying || world->closing)
		return;
	late->world = world;
	late->replaying = true;
	late->range_count = late->block_count = 0;
	rc = gr_listener_open(world->ram, &map_listener_ops, late, 0, &late->listener);
	FUZZ_CHECK_SAY(!rc, "%d: %s", rc, gr_last_error());
	late->replaying = false;
	world->audience++;
}

/* Waits are refused in callbacks, whatever else is going on. */
static void try_to_wait(struct world *world, struct map_listener *self)
{
	FUZZ_CHECK(gr_ram_drain(world->ram, 0) == -EDEADLK);
	FUZZ_CHECK(gr_ram_close(world->ram) == -EDEADLK);
	if (self->listener)
		FUZZ_CHECK(gr_listener_close(self->listener) == -EDEADLK);
}

static void answer_range(struct map_listener *self, struct gr_space *space,
			 const struct gr_range *range, bool coming)
{
	struct world *world = self->world;
	unsigned failing = map_fail_in;
	struct gr_pin pin;
	int rc;

	if (world->depth > 1 || !world->answer)
		return;
	map_fail_in = 0; /* what fails is the change being told, not these */
	if (world->answer & 1)
		map_side_change(world);
	if (world->answer & 2) {
		try_to_wait(world, self);
		if (!self->replaying)
			join(world);
	}
	/*
	 * A listener that is opened or closed is told of what is published and of no change, so
	 * nothing is busy then.
	 */
	if (world->answer & 4 && !self->replaying && world->busy_space < MAP_SPACES &&
	    space == world->spaces[world->busy_space].space) {
		rc = gr_space_unmap(space, range->addr, range->length);
		FUZZ_CHECK_SAY(rc == -EBUSY || rc == -ENOENT, "%d: %s", rc, gr_last_error());
		rc = gr_space_close(space);
		FUZZ_CHECK_SAY(rc == -EBUSY, "%d: %s", rc, gr_last_error());
		rc = gr_space_map(space, range->addr, range->block, range->offset, range->length,
				  range->access);
		FUZZ_CHECK_SAY(rc == -EBUSY || rc == -EEXIST, "%d: %s", rc, gr_last_error());
	}
	if (world->answer & 8 && range->visible) {
		/* the memory is there in either case */
		rc = gr_block_pin(range->block, range->offset, range->visible, range->access, &pin);
		FUZZ_CHECK_SAY(!rc || !coming || rc == -EFAULT, "%d: %s", rc, gr_last_error());
		if (!rc) {
			FUZZ_CHECK(pin.host == range->host && pin.length == range->visible);
			gr_unpin(&pin);
		}
	}
	map_fail_in = failing;
}

static bool refuses(struct world *world)
{
	/* not what the change of a callback is about */
	if (world->depth > 1 || !world->refuse_in || --world->refuse_in)
		return false;
	world->refused = true;
	return true;
}

static bool is_same_range(const struct gr_range *a, const struct gr_range *b)
{
	return a->addr == b->addr && a->length == b->length && a->visible == b->visible &&
	       a->block == b->block && a->offset == b->offset && a->host == b->host &&
	       a->access == b->access;
}

/*
 * Was it there when this step began? Then it is told back, since the change failed, and there is
 * nothing left that could be refused.
 */
static bool is_told_back(const struct map_listener *self, const struct gr_space *space,
			 const struct gr_range *range)
{
	for (unsigned i = 0; i < self->gone_count; i++)
		if (self->gone[i].space == space && is_same_range(&self->gone[i].range, range))
			return true;
	return false;
}

static int range_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct map_listener *self = context;
	struct world *world = self->world;
	unsigned i;
	int rc = 0;

	world->depth++;
	for (i = 0; i < self->range_count; i++) {
		const struct told_range *told = &self->ranges[i];

		FUZZ_CHECK_SAY(told->space != space ||
				       range->addr + (range->length - 1) < told->range.addr ||
				       told->range.addr + (told->range.length - 1) < range->addr,
			       "%#llx", (unsigned long long)range->addr);
	}
	for (i = 0; i < self->block_count && self->blocks[i] != range->block; i++)
		;
	FUZZ_CHECK(i < self->block_count);
	FUZZ_CHECK(range->length && range->visible <= range->length);
	answer_range(self, space, range, true);
	if (!is_told_back(self, space, range) && refuses(world)) {
		rc = MAP_REFUSED;
	} else {
		FUZZ_CHECK(self->range_count < MAP_TOLD);
		self->ranges[self->range_count++] = (struct told_range){space, *range};
	}
	world->depth--;
	return rc;
}

static void range_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct map_listener *self = context;
	unsigned i;

	self->world->depth++;
	for (i = 0; i < self->range_count; i++)
		if (self->ranges[i].space == space && is_same_range(&self->ranges[i].range, range))
			break;
	FUZZ_CHECK_SAY(i < self->range_count, "%#llx", (unsigned long long)range->addr);
	/* others may be told within this call, so the record changes first */
	self->ranges[i] = self->ranges[--self->range_count];
	if (self->gone_count < MAP_TOLD)
		self->gone[self->gone_count++] = (struct told_range){space, *range};
	answer_range(self, space, range, false);
	self->world->depth--;
}

static int block_added(void *context, struct gr_block *block)
{
	struct map_listener *self = context;
	struct world *world = self->world;
	int rc = 0;

	world->depth++;
	for (unsigned i = 0; i < self->block_count; i++)
		FUZZ_CHECK(self->blocks[i] != block);
	if (world->depth == 1 && world->answer & 2)
		try_to_wait(world, self);
	if (world->depth == 1 && world->answer & 4 && !self->replaying) {
		/* it is not there yet */
		FUZZ_CHECK(gr_block_delete(block) == -EBUSY);
		FUZZ_CHECK(gr_block_resize(block, PAGE) == -EBUSY ||
			   gr_block_resize(block, PAGE) == -EDEADLK);
	}
	if (block != self->gone_block && refuses(world))
		rc = MAP_REFUSED;
	else
		self->blocks[self->block_count++] = block;
	world->depth--;
	return rc;
}

static void block_deleting(void *context, struct gr_block *block)
{
	struct map_listener *self = context;
	struct world *world = self->world;
	unsigned i;

	world->depth++;
	for (i = 0; i < self->range_count; i++)
		FUZZ_CHECK(self->ranges[i].range.block != block);
	for (i = 0; i < self->block_count && self->blocks[i] != block; i++)
		;
	FUZZ_CHECK(i < self->block_count);
	self->blocks[i] = self->blocks[--self->block_count];
	self->gone_block = block;
	if (world->depth == 1 && world->answer & 4 && !self->replaying &&
	    find_block(world, block) <= MAP_BLOCKS)
		FUZZ_CHECK(gr_block_delete(block) == -EBUSY);
	if (world->depth == 1 && world->answer & 1)
		map_side_change(world);
	world->depth--;
}

/* On the reclaim thread, or wherever the embedder reclaims. */
static void block_reclaimed(void *context, const struct gr_block_info *info)
{
	struct life *life = info->user;

	(void)context;
	FUZZ_CHECK(!strcmp(info->name, "side") || info->name[0] == 'b');
	FUZZ_CHECK(!info->pins);
	if (life->used && life->caller) /* release comes first */
		FUZZ_CHECK(__atomic_load_n(&life->released, __ATOMIC_ACQUIRE) == 1);
	__atomic_add_fetch(&life->reclaimed, 1, __ATOMIC_RELEASE);
}

static void committed(void *context, struct gr_space *space, uint64_t generation)
{
	struct map_listener *self = context;

	/* nobody else publishes: new sections see just this, or what a callback published since */
	gr_read_begin();
	FUZZ_CHECK(generation <= gr__space_view(space)->generation);
	gr_read_end();
	if (!self->world->depth && self->world->answer & 1) {
		self->world->depth++;
		map_side_change(self->world);
		self->world->depth--;
	}
}

const struct gr_listener_ops map_listener_ops = {
	.block_added = block_added,
	.block_deleting = block_deleting,
	.block_reclaimed = block_reclaimed,
	.range_added = range_added,
	.range_removed = range_removed,
	.committed = committed,
};
