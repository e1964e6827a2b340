/* SPDX-License-Identifier: MIT */
/* See world.h. The ledgers of listeners are in ledger.c. */
#include "world.h"
#include <string.h>
#include <sys/mman.h>

struct world world;

#define RELEASED 0xdb

/* -------------------------------------------------------------------------------------- memory */

static unsigned char *cell_memory(void)
{
	static unsigned char *memory;
	void *reserved;

	if (memory)
		return memory;
	reserved = mmap(NULL, (CELLS + 1) * CELL_LENGTH, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(reserved != MAP_FAILED, "no address space");
	memory = (unsigned char *)(((uintptr_t)reserved + CELL_LENGTH - 1) & ~(CELL_LENGTH - 1));
	return memory;
}

static struct cell *cell_at(const void *host)
{
	size_t i;

	for (i = 0; i < CELLS; i++)
		if (world.cells[i].host <= (const unsigned char *)host &&
		    (const unsigned char *)host < world.cells[i].host + CELL_LENGTH)
			return &world.cells[i];
	found("%c was given a pointer to nobody's memory", sched_letter());
}

static void release(void *context, void *host, uint64_t length)
{
	struct cell *cell = context;

	check(!world.closed, "memory is released after the close");
	check(cell->owner && host == cell->host, "memory is released twice");
	check(!cell->holders, "the memory of %c is released while a thread has it", cell->owner);
	cell->owner = 0;
	cell->released++;
	memset(cell->host, RELEASED, PAGE);
	sched_trace("(releases it)");
	sched_point("release");
}

char owner_at(const void *host)
{
	const struct cell *cell = cell_at(host);

	check(cell->owner, "%c sees memory that was released", sched_letter());
	check(cell->host[0] == (unsigned char)cell->owner, "%c sees %#x in the memory of %c",
	      sched_letter(), cell->host[0], cell->owner);
	return cell->owner;
}

char hold(const void *host)
{
	char owner = owner_at(host);

	cell_at(host)->holders |= 1u << sched_number();
	sched_trace("(has %c)", owner);
	return owner;
}

void use(const void *host, char owner)
{
	check(owner_at(host) == owner, "the memory of %c became that of %c under %c", owner,
	      owner_at(host), sched_letter());
}

void drop(const void *host)
{
	cell_at(host)->holders &= ~(1u << sched_number());
}

/* ------------------------------------------------------------------------------------- the RAM */

void world_open(const struct gr_ram_opts *opts)
{
	size_t i;

	memset(&world, 0, sizeof(world));
	for (i = 0; i < CELLS; i++)
		world.cells[i].host = cell_memory() + i * CELL_LENGTH;
	succeed(gr_ram_open(opts, &world.ram));
	succeed(gr_space_open(world.ram, "space", &world.space));
}

void world_close(void)
{
	struct gr_ram_stats stats;
	uint64_t made = 0;
	size_t i;

	if (!world.closed) {
		succeed(gr_ram_drain(world.ram, -1));
		gr_ram_get_stats(world.ram, &stats);
		for (i = 0; i < CELLS; i++)
			made += world.cells[i].made;
		check(!stats.pins, "%llu pins are left", (unsigned long long)stats.pins);
		check(stats.blocks + stats.blocks_reclaimed == made + world.others &&
			      !stats.blocks_pending,
		      "%llu blocks live and %llu reclaimed, of %llu",
		      (unsigned long long)stats.blocks, (unsigned long long)stats.blocks_reclaimed,
		      (unsigned long long)(made + world.others));
		succeed(gr_ram_close(world.ram));
		world.closed = true;
	}
	for (i = 0; i < CELLS; i++)
		check(world.cells[i].made == world.cells[i].released,
		      "of %u blocks in cell %zu %u were released", world.cells[i].made, i,
		      world.cells[i].released);
}

int world_try_block(char letter, unsigned number, uint64_t length, unsigned flags,
		    struct gr_block **block)
{
	struct cell *cell = &world.cells[number];
	char name[] = {letter, '\0'};
	struct gr_block_opts opts = {
		.name = name,
		.backing = GR_BACKING_CALLER,
		.flags = flags,
		.length = length,
		.host = cell->host,
		.release = release,
		.release_context = cell,
	};
	int rc;

	check(!cell->owner, "the script puts two blocks in a cell");
	cell->owner = letter;
	cell->host[0] = letter;
	rc = gr_block_new(world.ram, &opts, block);
	if (rc < 0)
		cell->owner = 0; /* undone: no release */
	else
		cell->made++;
	return rc;
}

struct gr_block *world_block(char letter, unsigned cell, unsigned flags)
{
	struct gr_block *block = NULL;

	succeed(world_try_block(letter, cell, PAGE, flags, &block));
	return block;
}

struct gr_block *world_big_block(char letter, unsigned cell, unsigned flags)
{
	struct gr_block *block = NULL;

	succeed(world_try_block(letter, cell, CELL_LENGTH, flags, &block));
	return block;
}

void world_map(uint64_t addr, struct gr_block *block, uint64_t length)
{
	succeed(gr_space_map(world.space, addr, block, 0, length, RW));
}

/* --------------------------------------------------------------------------------------- steps */

void section_begin(void)
{
	sched_point("section");
	gr_read_begin();
	sched_point("section.begun");
}

void section_end(const void *host, char owner)
{
	sched_point("section.end");
	if (host) {
		use(host, owner);
		drop(host);
	}
	gr_read_end();
}

void succeed_at(int rc, const char *call)
{
	sched_trace("(%s: %d)", call, rc);
	check(rc >= 0, "%c: %s: %s: %s", sched_letter(), call, strerrorname_np(-rc),
	      gr_last_error());
}

int succeed_or_at(int error, int rc, const char *call)
{
	sched_trace("(%s: %d)", call, rc);
	check(rc >= 0 || rc == error, "%c: %s: %s: %s", sched_letter(), call, strerrorname_np(-rc),
	      gr_last_error());
	return rc;
}
