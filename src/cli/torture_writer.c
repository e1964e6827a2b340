/* SPDX-License-Identifier: MIT */
/*
 * A writer of `guestram torture`: adds, maps, unmaps, splits, deletes and replaces at random.
 *
 * Each writer owns the places of its slots in the guest and the alias space, and the blocks that
 * are mapped there: no change of his can meet another's, so every call has one right answer, and
 * any other is counted as an error. The table's space belongs to whoever holds table_lock.
 */
#include "bench.h"
#include "torture.h"
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct place {
	struct desc *desc; /* NULL: empty */
	struct mapping *mapping;
};

struct writer {
	struct world *world;
	int number;
	uint64_t random;
	struct place place[SPACE_TABLE][TORTURE_SLOTS][TORTURE_PLACES];
};

static uint64_t below(uint64_t *random, uint64_t limit)
{
	return (torture_random(random) >> 32) * limit >> 32;
}

static void release(void *context, void *host, uint64_t length)
{
	struct desc *desc = context;

	(void)host, (void)length;
	world_release(desc->world, desc);
}

/* ------------------------------------------------------------------------------------- blocks */

/* A block of a random backing, stamped, not mapped. NULL: none to be had, nothing changed. */
static struct desc *add(struct world *world, uint64_t *random, uint64_t length)
{
	static const struct {
		enum gr_backing backing;
		unsigned flags;
	} kinds[] = {
		{GR_BACKING_CALLER, 0},		{GR_BACKING_CALLER, 0},	      {GR_BACKING_ANON, 0},
		{GR_BACKING_ANON, GR_NO_GUARD}, {GR_BACKING_ANON, GR_SHARED}, {GR_BACKING_MEMFD, 0},
	};
	uint64_t kind = below(random, sizeof(kinds) / sizeof(kinds[0]));
	bool pool = kinds[kind].backing == GR_BACKING_CALLER;
	struct desc *desc = world_take(world, pool, length);
	struct gr_block_opts opts = {.backing = kinds[kind].backing, .length = length};
	struct gr_block_info info;
	char name[32];
	int rc;

	if (!desc)
		return NULL;
	snprintf(name, sizeof(name), "t%llu", (unsigned long long)desc->serial);
	desc->flags = below(random, 2) ? GR_DELETE_UNMAP : 0;
	opts.name = name;
	/* not waiting: if reclaim is stuck, the run still ends, and says so */
	opts.flags = kinds[kind].flags | desc->flags | GR_NO_WAIT;
	opts.user = desc;
	if (pool) {
		opts.host = desc->host;
		opts.release = release;
		opts.release_context = desc;
	}
	rc = gr_block_new(world->ram, &opts, &desc->block);
	if (rc < 0) {
		if (rc != -ENOBUFS)
			world_error(world, rc, "gr_block_new");
		world_leave(world, desc);
		world_leave(world, desc);
		return NULL;
	}
	torture_count(&world->created, 1);
	gr_block_get_info(desc->block, &info);
	desc->host = info.host;
	world_stamp(world, desc);
	return desc;
}

static void end_mapping(struct world *world, struct desc *desc, struct mapping *mapping)
{
	__atomic_store_n(&mapping->ended, world_tick(world), __ATOMIC_RELAXED);
	desc->live--;
}

/* Unlinks @desc, whose mappings all end with it; it is dead for the caller. */
static void delete (struct world *world, struct desc *desc)
{
	unsigned i;
	int rc;

	if (desc->live && !(desc->flags & GR_DELETE_UNMAP)) {
		rc = gr_block_delete(desc->block);
		if (rc != -EBUSY)
			world_error(world, rc, "gr_block_delete of a mapped block");
		for (i = 0; i < desc->mappings; i++) {
			struct mapping *m = &desc->mapping[i];

			if (m->ended)
				continue;
			rc = gr_space_unmap(world->space[m->space], m->addr, m->length);
			if (rc < 0)
				world_error(world, rc, "gr_space_unmap before delete");
			end_mapping(world, desc, m);
		}
	}
	desc->deleted = bench_now();
	rc = gr_block_delete(desc->block);
	if (rc < 0)
		world_error(world, rc, "gr_block_delete");
	for (i = 0; i < desc->mappings; i++) {
		if (!desc->mapping[i].ended)
			end_mapping(world, desc, &desc->mapping[i]);
	}
	torture_count(&world->removals, 1);
	world_leave(world, desc);
}

/* Nothing free: let what was deleted be reclaimed. */
static void wait_for_reclaim(struct world *world)
{
	int rc = gr_ram_drain(world->ram, 20);

	if (rc < 0 && rc != -ETIMEDOUT)
		world_error(world, rc, "gr_ram_drain");
}

/* ------------------------------------------------------------------------------------- places */

static void map(struct writer *writer, enum torture_space space, struct place *place, uint64_t addr,
		uint64_t length, struct desc *desc)
{
	uint64_t offset = length == TORTURE_SMALL ? below(&writer->random, 2) * TORTURE_SMALL : 0;
	unsigned access = below(&writer->random, 2) ? GR_READ : GR_READ | GR_WRITE;
	struct world *world = writer->world;
	struct mapping *m = world_map(desc, space, addr, length, offset, access);
	int rc;

	if (!m)
		return;
	desc->live++;
	rc = gr_space_map(world->space[space], addr, desc->block, offset, length, access);
	if (rc < 0) {
		world_error(world, rc, "gr_space_map");
		end_mapping(world, desc, m);
		return;
	}
	place->desc = desc;
	place->mapping = m;
}

/* Empty all places of a block, which is about to go. */
static void forget(struct writer *writer, const struct desc *desc)
{
	struct place *place = &writer->place[0][0][0];
	size_t i;

	for (i = 0; i < sizeof(writer->place) / sizeof(*place); i++) {
		if (place[i].desc == desc)
			place[i].desc = NULL;
	}
}

/* Another block of the writer that has its size and a mapping left, or NULL. */
static struct desc *own(struct writer *writer, uint64_t length)
{
	struct place *place = &writer->place[0][0][0];
	size_t count = sizeof(writer->place) / sizeof(*place), i;
	size_t start = below(&writer->random, count);

	for (i = 0; i < count; i++) {
		struct desc *desc = place[(start + i) % count].desc;

		if (desc && desc->mappings < TORTURE_MAPPINGS && desc->length == length)
			return desc;
	}
	return NULL;
}

/* Unmap a piece: the range is split, or loses an end. */
static void punch(struct writer *writer, const struct place *place)
{
	struct mapping *m = place->mapping;
	uint64_t pages = m->length / TORTURE_PAGE;
	uint64_t first = below(&writer->random, pages);
	uint64_t count = 1 + below(&writer->random, pages - first);
	struct world *world = writer->world;
	int rc;

	if (m->hole_ended || count == pages)
		return;
	m->hole = m->addr + first * TORTURE_PAGE;
	m->hole_length = count * TORTURE_PAGE;
	rc = gr_space_unmap(world->space[m->space], m->hole, m->hole_length);
	if (rc < 0) {
		world_error(world, rc, "gr_space_unmap of a piece");
		return;
	}
	/* pairs with judge_mapping(), which reads where the hole is */
	__atomic_store_n(&m->hole_ended, world_tick(world), __ATOMIC_RELEASE);
}

static void empty(struct writer *writer, struct place *place)
{
	struct world *world = writer->world;
	struct desc *desc = place->desc;
	struct mapping *m = place->mapping;
	int rc;

	switch (below(&writer->random, 4)) {
	case 0:
		punch(writer, place);
		return;
	case 1:
		rc = gr_space_unmap(world->space[m->space], m->addr, m->length);
		if (rc < 0)
			world_error(world, rc, "gr_space_unmap");
		end_mapping(world, desc, m);
		place->desc = NULL;
		if (desc->live)
			return;
		break;
	default:
		break;
	}
	forget(writer, desc);
	delete (world, desc);
}

static void change_place(struct writer *writer)
{
	enum torture_space space = below(&writer->random, 2) ? SPACE_GUEST : SPACE_ALIAS;
	int slot = (int)below(&writer->random, TORTURE_SLOTS);
	int number = (int)below(&writer->random, TORTURE_PLACES);
	struct place *place = &writer->place[space][slot][number];
	uint64_t length = number ? TORTURE_SMALL_BLOCK : TORTURE_LARGE;
	struct desc *desc;

	if (place->desc) {
		empty(writer, place);
		return;
	}
	desc = below(&writer->random, 3) ? NULL : own(writer, length);
	if (!desc)
		desc = add(writer->world, &writer->random, length);
	if (!desc) {
		wait_for_reclaim(writer->world);
		return;
	}
	map(writer, space, place, torture_place(writer->number, slot, number),
	    torture_place_length(number), desc);
	if (!desc->live)
		delete (writer->world, desc); /* the map failed, and was counted */
}

/* -------------------------------------------------------------------------------------- table */

/* All of @next in place of all that was there, in one transaction. */
static int swap_table(struct world *world, struct desc *next[TORTURE_TABLE])
{
	struct gr_txn *txn;
	int rc, i;

	rc = gr_txn_begin(world->space[SPACE_TABLE], &txn);
	if (rc < 0)
		return rc;
	rc = gr_txn_unmap(txn, 0, TORTURE_TABLE * TORTURE_SMALL);
	for (i = 0; i < TORTURE_TABLE && !rc; i++) {
		uint64_t addr = (uint64_t)i * TORTURE_SMALL;

		next[i]->version = world->table_version + 1;
		world_map(next[i], SPACE_TABLE, addr, TORTURE_SMALL, 0, GR_READ);
		next[i]->live++;
		rc = gr_txn_map(txn, addr, next[i]->block, 0, TORTURE_SMALL, GR_READ);
	}
	if (rc < 0) {
		gr_txn_abort(txn);
		return rc;
	}
	rc = gr_txn_commit(txn);
	if (rc < 0)
		return rc;
	world->table_version++;
	for (i = 0; i < TORTURE_TABLE; i++) {
		struct desc *old = world->table[i];

		world->table[i] = next[i];
		next[i] = old;
		if (old)
			end_mapping(world, old, &old->mapping[0]);
	}
	return 0;
}

/* 0, -EAGAIN when there are no blocks to be had now, or what failed. */
static int replace_table(struct world *world, uint64_t *random)
{
	struct desc *next[TORTURE_TABLE] = {NULL};
	int rc = 0, i;

	for (i = 0; i < TORTURE_TABLE && !rc; i++) {
		next[i] = add(world, random, TORTURE_SMALL_BLOCK);
		rc = next[i] ? 0 : -EAGAIN;
	}
	if (!rc) {
		pthread_mutex_lock(&world->table_lock);
		rc = swap_table(world, next);
		pthread_mutex_unlock(&world->table_lock);
	}
	/* those that were replaced, or those that did not get in */
	for (i = 0; i < TORTURE_TABLE; i++) {
		if (next[i])
			delete (world, next[i]);
	}
	return rc;
}

int torture_table_init(struct world *world)
{
	uint64_t random = torture_seed(world->options->seed, 1000);

	return replace_table(world, &random);
}

int torture_table_fini(struct world *world)
{
	int i;

	for (i = 0; i < TORTURE_TABLE; i++) {
		if (world->table[i])
			delete (world, world->table[i]);
		world->table[i] = NULL;
	}
	return 0;
}

void *torture_writer(void *argument)
{
	struct torture_thread *thread = argument;
	struct world *world = thread->world;
	struct writer *writer = calloc(1, sizeof(*writer));
	struct place *place;
	size_t i;
	int rc;

	if (!writer) {
		world_error(world, -ENOMEM, "a writer");
		return NULL;
	}
	writer->world = world;
	writer->number = thread->number;
	writer->random = torture_seed(world->options->seed, 100 + (uint64_t)thread->number);
	while (!torture_stopped(world)) {
		if (below(&writer->random, 16)) {
			change_place(writer);
			continue;
		}
		rc = replace_table(world, &writer->random);
		if (rc == -EAGAIN)
			wait_for_reclaim(world);
		else if (rc < 0)
			world_error(world, rc, "replacing the table");
	}
	place = &writer->place[0][0][0];
	for (i = 0; i < sizeof(writer->place) / sizeof(*place); i++) {
		struct desc *desc = place[i].desc;

		if (!desc)
			continue;
		forget(writer, desc);
		delete (world, desc);
	}
	free(writer);
	return NULL;
}
