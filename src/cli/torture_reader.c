/* SPDX-License-Identifier: MIT */
/*
 * A reader of `guestram torture`: looks up addresses in every way there is, and has what it finds
 * checked. Everything it remembers between sections is a cursor or a pin.
 */
#include "torture.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 16, PINS = 8 };

struct pinned {
	struct gr_pin pin;
	struct stamp stamp;
	uint64_t addr;
	bool held;
};

struct reader {
	struct world *world;
	uint64_t random;
	uint64_t lookups; /* not yet added to the world's */
	struct gr_cursor cursor;
	int writer, slot, place; /* where the cursor is */
	struct pinned pin[PINS];
};

static uint64_t below(struct reader *reader, uint64_t limit)
{
	return (torture_random(&reader->random) >> 32) * limit >> 32;
}

/* A stamped page of a random place. */
static uint64_t pick(struct reader *reader, int writer, int slot, int place)
{
	uint64_t length = torture_place_length(place);
	uint64_t step = torture_step(length);

	return torture_place(writer, slot, place) + below(reader, length / step) * step;
}

static uint64_t pick_any(struct reader *reader)
{
	return pick(reader, (int)below(reader, (uint64_t)reader->world->options->writers),
		    (int)below(reader, TORTURE_SLOTS), (int)below(reader, TORTURE_PLACES));
}

static enum torture_space pick_space(struct reader *reader)
{
	return below(reader, 2) ? SPACE_GUEST : SPACE_ALIAS;
}

/* What a section has seen, to be looked at again at its end. */
struct seen {
	const void *host;
	struct stamp stamp;
	enum torture_space space;
	uint64_t addr;
};

static void look_again(struct reader *reader, const struct seen *seen, int count)
{
	struct stamp now;
	int i;

	for (i = 0; i < count; i++) {
		world_read_stamp(seen[i].host, &now);
		if (memcmp(&now, &seen[i].stamp, sizeof(now)) != 0)
			world_stale(reader->world, "a stamp changed inside a section",
				    seen[i].space, seen[i].addr, &now);
	}
}

/* The block by its other names; a block that was just deleted has none. */
static void other_names(struct reader *reader, struct desc *desc, const struct seen *seen)
{
	struct gr_ram *ram = reader->world->ram;
	struct gr_block_info info;
	struct gr_block *block;
	char name[32];

	block = gr_block_by_host(ram, seen->host, NULL);
	if (block) {
		gr_block_get_info(block, &info);
		if (info.user != desc)
			world_stale(reader->world, "gr_block_by_host() found another block",
				    seen->space, seen->addr, &seen->stamp);
	}
	snprintf(name, sizeof(name), "t%llu", (unsigned long long)seen->stamp.serial);
	block = gr_block_by_name(ram, name);
	if (block) {
		gr_block_get_info(block, &info);
		if (info.user != desc)
			world_stale(reader->world, "gr_block_by_name() found another block",
				    seen->space, seen->addr, &seen->stamp);
	}
}

/* One section, several lookups by gr_host(). */
static void by_host(void *context)
{
	struct reader *reader = context;
	struct world *world = reader->world;
	uint64_t since = world_now(world);
	int lookups = 1 + (int)below(reader, BATCH), count = 0, i;
	struct seen seen[BATCH];

	gr_read_begin();
	for (i = 0; i < lookups; i++) {
		struct seen *s = &seen[count];
		unsigned access = below(reader, 4) ? GR_READ : GR_READ | GR_WRITE;
		struct desc *desc;

		s->addr = pick_any(reader);
		s->space = pick_space(reader);
		s->host = gr_host(world->space[s->space], s->addr, TORTURE_PAGE, access);
		if (!s->host)
			continue;
		world_read_stamp(s->host, &s->stamp);
		desc = world_check(world, &s->stamp, s->space, s->addr, access, since);
		if (!desc)
			continue;
		count++;
		/* a store that comes too late is found when the memory is used again */
		if (access & GR_WRITE)
			__atomic_store_n((uint64_t *)((uintptr_t)s->host + SCRATCH), since,
					 __ATOMIC_RELAXED);
		if (!below(reader, 64))
			other_names(reader, desc, s);
	}
	look_again(reader, seen, count);
	gr_read_end();
	reader->lookups += (uint64_t)lookups;
}

/* Many sections in a row at one place, as a queue's ring is looked up. */
static void by_cursor(void *context)
{
	struct reader *reader = context;
	struct world *world = reader->world;
	int i;

	if (!below(reader, 4)) {
		reader->writer = (int)below(reader, (uint64_t)world->options->writers);
		reader->slot = (int)below(reader, TORTURE_SLOTS);
		reader->place = (int)below(reader, TORTURE_PLACES);
	}
	for (i = 0; i < BATCH; i++) {
		uint64_t since = world_now(world);
		struct seen seen = {.space = SPACE_GUEST};

		gr_read_begin();
		seen.addr = pick(reader, reader->writer, reader->slot, reader->place);
		seen.host = gr_cursor_host(&reader->cursor, seen.addr, TORTURE_PAGE, GR_READ);
		if (seen.host) {
			world_read_stamp(seen.host, &seen.stamp);
			if (world_check(world, &seen.stamp, seen.space, seen.addr, GR_READ, since))
				look_again(reader, &seen, 1);
		}
		gr_read_end();
	}
	reader->lookups += BATCH;
}

static void unpin(struct reader *reader, struct pinned *pinned)
{
	struct stamp now;

	world_read_stamp(pinned->pin.host, &now);
	if (memcmp(&now, &pinned->stamp, sizeof(now)) != 0)
		world_stale(reader->world, "a stamp changed under a pin", SPACE_GUEST, pinned->addr,
			    &now);
	gr_unpin(&pinned->pin);
	pinned->held = false;
}

/* Takes or gives back one of a few pins, so that they are held over many sections. */
static void by_pin(void *context)
{
	struct reader *reader = context;
	struct world *world = reader->world;
	struct pinned *pinned = &reader->pin[below(reader, PINS)];
	enum torture_space space = pick_space(reader);
	uint64_t since = world_now(world);
	struct desc *desc;

	if (pinned->held) {
		unpin(reader, pinned);
		return;
	}
	pinned->addr = pick_any(reader);
	reader->lookups++;
	if (gr_pin(world->space[space], pinned->addr, TORTURE_PAGE, GR_READ, &pinned->pin) < 0)
		return;
	pinned->held = true;
	world_read_stamp(pinned->pin.host, &pinned->stamp);
	desc = world_check(world, &pinned->stamp, space, pinned->addr, GR_READ, since);
	if (desc)
		__atomic_store_n(&desc->pinned, true, __ATOMIC_RELAXED);
}

/* Loads and stores by address. */
static void by_access(void *context)
{
	struct reader *reader = context;
	struct world *world = reader->world;
	enum torture_space space = pick_space(reader);
	uint64_t addr = pick_any(reader);
	uint64_t since = world_now(world);
	struct stamp stamp;

	/* the stamp is checked in the section, as its descriptor is another's after it */
	gr_read_begin();
	if (!gr_load(world->space[space], addr, &stamp, sizeof(stamp)))
		world_check(world, &stamp, space, addr, GR_READ, since);
	gr_read_end();
	gr_store_u64(world->space[space], addr + SCRATCH, since);
	reader->lookups += 2;
}

static int same_version(void *context, const struct gr_range *range)
{
	struct gr_block_info info;
	uint64_t *version = context;
	const struct desc *desc;

	gr_block_get_info(range->block, &info);
	desc = info.user;
	if (*version && desc->version != *version)
		return 1;
	*version = desc->version;
	return 0;
}

/*
 * The table that is replaced whole: it has no hole at any time, no lookup of a section goes back
 * to an older table than one before it, and one view has the ranges of one table.
 */
static void by_table(void *context)
{
	struct reader *reader = context;
	struct world *world = reader->world;
	struct gr_space *space = world->space[SPACE_TABLE];
	uint64_t since = world_now(world), version = 0;
	struct seen seen[BATCH];
	int count = 0, i;

	gr_read_begin();
	for (i = 0; i < BATCH; i++) {
		struct seen *s = &seen[count];
		struct desc *desc;

		s->space = SPACE_TABLE;
		s->addr = below(reader, TORTURE_TABLE) * TORTURE_SMALL +
			  below(reader, TORTURE_SMALL / TORTURE_PAGE) * TORTURE_PAGE;
		s->host = gr_host(space, s->addr, TORTURE_PAGE, GR_READ);
		if (!s->host) {
			world_stale(world, "a hole in a table that has none", s->space, s->addr,
				    NULL);
			continue;
		}
		world_read_stamp(s->host, &s->stamp);
		desc = world_check(world, &s->stamp, s->space, s->addr, GR_READ, since);
		if (!desc)
			continue;
		count++;
		if (desc->version < version)
			world_stale(world, "an older table after a newer one", s->space, s->addr,
				    &s->stamp);
		version = desc->version;
	}
	version = 0;
	if (!below(reader, 8) && gr_space_each_range(space, same_version, &version))
		world_stale(world, "one view has ranges of two tables", SPACE_TABLE, 0, NULL);
	look_again(reader, seen, count);
	gr_read_end();
	reader->lookups += BATCH;
}

static void drop_pins(void *context)
{
	struct reader *reader = context;
	int i;

	for (i = 0; i < PINS; i++) {
		if (reader->pin[i].held)
			unpin(reader, &reader->pin[i]);
	}
}

void *torture_reader(void *argument)
{
	static void (*const steps[])(void *context) = {
		by_host, by_host, by_host, by_cursor, by_cursor, by_pin, by_access, by_table,
	};
	struct torture_thread *thread = argument;
	struct world *world = thread->world;
	struct reader *reader = calloc(1, sizeof(*reader));

	if (!reader) {
		world_error(world, -12, "a reader");
		return NULL;
	}
	reader->world = world;
	reader->random = torture_seed(world->options->seed, (uint64_t)thread->number);
	gr_cursor_init(&reader->cursor, world->space[SPACE_GUEST]);
	while (!torture_stopped(world)) {
		torture_guarded(world, steps[below(reader, sizeof(steps) / sizeof(steps[0]))],
				reader);
		if (reader->lookups >= 1024) {
			torture_count(&world->lookups, reader->lookups);
			reader->lookups = 0;
		}
	}
	torture_guarded(world, drop_pins, reader);
	torture_count(&world->lookups, reader->lookups);
	free(reader);
	return NULL;
}
