/* SPDX-License-Identifier: MIT */
/*
 * Q4, P16: the same thing very often, and readers that never stop while the whole table is
 * replaced. `test_cases_load full` runs the numbers of the cases themselves: 1,000,000 and 100,000.
 *
 * Threads (P16): readers count what they find wrong; the writer and the release callbacks stamp the
 * memory. A stamp is written before its block is mapped, and overwritten when it is released.
 */
#include "case.h"
#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BASE GIB

static bool full;

/* ------------------------------------------------------------------------------------- Q4 */

static int compare_times(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static uint32_t median(uint32_t *times, size_t count)
{
	qsort(times, count, sizeof(*times), compare_times);
	return times[count / 2];
}

/* Bytes that malloc() has given out, once nothing of ours waits to be freed. */
static uint64_t heap_in_use(struct gr_ram *ram)
{
	struct mallinfo2 info;

	unsigned i;

	/* the worker frees old views after the blocks of its round, so before those of the next */
	for (i = 0; i < 2; i++) {
		assert_ok(gr_block_delete(case_anon(ram, "flush", PAGE)));
		case_drain(ram);
	}
	info = mallinfo2();
	return info.uordblks + info.hblkhd;
}

/* What must stay flat, and how fast one round is at the start and at the end. */
static void repeat(unsigned rounds, void (*once)(void *context, unsigned round), void *context,
		   struct gr_ram *ram)
{
	enum { SAMPLE = 1000 };
	static uint32_t first[SAMPLE], last[SAMPLE];
	struct gr_ram_stats before, after;
	uint64_t resident, heap, start;
	unsigned fds, maps, i;
	uint32_t fast, slow;

	for (i = 0; i < 5000; i++) /* until malloc() has what it needs */
		once(context, i);
	heap = heap_in_use(ram);
	gr_ram_get_stats(ram, &before);
	fds = process_fds();
	maps = process_maps();
	resident = process_resident();
	for (i = 0; i < rounds; i++) {
		start = case_now_ns();
		once(context, i);
		if (i < SAMPLE)
			first[i] = (uint32_t)(case_now_ns() - start);
		else if (i >= rounds - SAMPLE)
			last[i - (rounds - SAMPLE)] = (uint32_t)(case_now_ns() - start);
	}
	assert_in_range(heap_in_use(ram), heap / 2, heap + 64 * KIB);
	gr_ram_get_stats(ram, &after);
	assert_int_equal(process_fds(), fds);
	/* a map of glibc's may come or go */
	assert_true(process_maps() + 2 >= maps && process_maps() <= maps + 2);
	/* a writer may be 32 MiB of old views ahead of the worker before it waits itself */
	assert_true(WATCHED || process_resident() < resident + 48 * MIB);
	assert_int_equal(after.blocks, before.blocks);
	assert_int_equal(after.blocks_pending, 0);
	assert_int_equal(after.ranges, before.ranges);
	assert_int_equal(after.index_bytes, before.index_bytes);
	assert_int_equal(after.range_bytes, before.range_bytes);
	assert_true(after.generation > before.generation);
	fast = median(first, SAMPLE);
	slow = median(last, SAMPLE);
	print_message("           %u rounds: first 1,000 %u ns each, last %u ns\n", rounds, fast,
		      slow);
	if (slow > 2 * fast + 1000) /* other programs run here too */
		fail_msg("the last rounds take %u ns, the first %u", slow, fast);
}

struct pair {
	struct gr_ram *ram;
	struct gr_space *space;
	struct gr_block *block;
};

static void map_and_unmap(void *context, unsigned round)
{
	struct pair *pair = context;
	uint64_t addr = BASE + (round % 64) * 4 * MIB;

	if (gr_space_map(pair->space, addr, pair->block, 0, 4 * MIB, RW) < 0 ||
	    gr_space_unmap(pair->space, addr, 4 * MIB) < 0)
		fail_msg("round %u: %s", round, gr_last_error());
}

static void make_map_unmap_delete(void *context, unsigned round)
{
	struct pair *pair = context;
	struct gr_block_opts opts = {
		.name = "x",
		.backing = round % 2 ? GR_BACKING_MEMFD : GR_BACKING_ANON,
		.length = 2 * PAGE,
	};
	struct gr_block *block = NULL;

	if (gr_block_new(pair->ram, &opts, &block) < 0 ||
	    gr_space_map(pair->space, BASE, block, 0, 2 * PAGE, RW) < 0 ||
	    gr_store_u64(pair->space, BASE + PAGE, round) < 0 ||
	    gr_space_unmap(pair->space, BASE, 2 * PAGE) < 0 || gr_block_delete(block) < 0)
		fail_msg("round %u: %s", round, gr_last_error());
	if (round % 64 == 63)
		case_drain(pair->ram);
}

static void q4_map_and_unmap_pairs_leave_nothing(void **unused)
{
	struct pair pair = {.ram = case_ram()};

	pair.space = case_space(pair.ram, "guest");
	pair.block = case_anon(pair.ram, "x", 4 * MIB);
	repeat(full ? 1000000 : 200000, map_and_unmap, &pair, pair.ram);
	/* and in a space with an index of the other kind, beside other ranges */
	case_map(pair.space, 500 * GIB, pair.block, 0, 4 * MIB, RW);
	repeat(full ? 1000000 : 20000, map_and_unmap, &pair, pair.ram);
	case_close(pair.ram);
}

static void q4_blocks_that_come_and_go_leave_nothing(void **unused)
{
	struct pair pair = {.ram = case_ram()};
	struct gr_ram_stats stats;

	pair.space = case_space(pair.ram, "guest");
	repeat(full ? 1000000 : 10000, make_map_unmap_delete, &pair, pair.ram);
	gr_ram_get_stats(pair.ram, &stats);
	/* and those that heap_in_use() makes */
	assert_int_equal(stats.blocks_reclaimed, 4 + 5000 + (full ? 1000000 : 10000));
	case_close(pair.ram);
}

/* ------------------------------------------------------------------------------------ P16 */

enum {
	READERS = 4,
	RANGES = 4, /* of one table, without gaps: pieces of one block, in changing order */
	POOL = 256, /* tables that may be in flight */
	PIECE = 8192,
};

#define DEAD UINT64_MAX

struct table_world {
	struct gr_ram *ram;
	struct gr_space *space;
	struct gr_block *current; /* the block of the newest table, or NULL */
	char *memory;
	int busy[POOL];			  /* atomic: its memory is lent to a block */
	uint64_t committed;		  /* atomic: number of the newest table */
	int stop;			  /* atomic */
	uint64_t lookups, wrong, missing; /* atomic */
};

struct loan {
	struct table_world *world;
	unsigned place;
};

/* One word in each STEP bytes tells which table the memory belongs to. */
#define STEP UINT64_C(512)

static void stamp(char *memory, uint64_t value)
{
	uint64_t at;

	for (at = 0; at < RANGES * PIECE; at += STEP)
		__atomic_store_n((uint64_t *)(memory + at), value, __ATOMIC_RELAXED);
}

static void take_back(void *context, void *host, uint64_t length)
{
	struct loan *loan = context;

	stamp(host, DEAD);
	__atomic_store_n(&loan->world->busy[loan->place], 0, __ATOMIC_RELEASE);
}

struct reader {
	struct table_world *world;
	struct gr_cursor cursor;
	uint64_t random, lookups, wrong, missing;
};

/* In one section: what is found is neither released nor older than the table at its start, and
 * stays so until its end. */
static void look_up(struct reader *reader, uint64_t since)
{
	struct gr_space *space = reader->world->space;
	const uint64_t *hosts[8];
	uint64_t at, seen;
	unsigned i;

	gr_read_begin();
	for (i = 0; i < COUNT_OF(hosts); i++) {
		at = BASE + case_random(&reader->random) % (RANGES * PIECE / STEP) * STEP;
		hosts[i] = i % 2 ? gr_host(space, at, 8, GR_READ)
				 : gr_cursor_host(&reader->cursor, at, 8, GR_READ);
		if (!hosts[i]) {
			reader->missing++;
			continue;
		}
		seen = __atomic_load_n(hosts[i], __ATOMIC_RELAXED);
		reader->wrong += seen == DEAD || seen < since;
	}
	for (i = 0; i < COUNT_OF(hosts); i++)
		reader->wrong += hosts[i] && __atomic_load_n(hosts[i], __ATOMIC_RELAXED) == DEAD;
	gr_read_end();
	reader->lookups += COUNT_OF(hosts);
}

/* A copy over a seam is of one table. */
static void copy_out(struct reader *reader, uint64_t since)
{
	uint64_t copy[STEP / 8 + 1];

	if (gr_load(reader->world->space, BASE + PIECE - STEP, copy, sizeof(copy)) < 0)
		reader->missing++;
	else
		reader->wrong += copy[0] != copy[STEP / 8] || copy[0] < since || copy[0] == DEAD;
	reader->lookups++;
}

static void *read_tables(void *context)
{
	struct table_world *world = context;
	struct reader reader = {.world = world};

	reader.random = (uintptr_t)&reader | 1;
	gr_cursor_init(&reader.cursor, world->space);
	while (!__atomic_load_n(&world->stop, __ATOMIC_RELAXED)) {
		uint64_t since = __atomic_load_n(&world->committed, __ATOMIC_ACQUIRE);

		look_up(&reader, since);
		copy_out(&reader, since);
		if (reader.lookups % 1024 < 16) /* there may be fewer processors than readers */
			sched_yield();
	}
	__atomic_add_fetch(&world->lookups, reader.lookups, __ATOMIC_RELAXED);
	__atomic_add_fetch(&world->wrong, reader.wrong, __ATOMIC_RELAXED);
	__atomic_add_fetch(&world->missing, reader.missing, __ATOMIC_RELAXED);
	return NULL;
}

static unsigned take_place(struct table_world *world)
{
	static unsigned next;
	unsigned tries;

	for (tries = 0;; tries++) {
		unsigned place = next++ % POOL;

		if (!__atomic_exchange_n(&world->busy[place], 1, __ATOMIC_ACQUIRE))
			return place;
		if (tries % POOL == POOL - 1)
			case_drain(world->ram);
	}
}

static void replace_table(struct table_world *world, bool anonymous)
{
	static struct loan loans[POOL];
	uint64_t number = world->committed + 1;
	struct gr_block_opts opts = {
		.name = number % 2 ? "odd" : "even",
		.length = RANGES * PIECE,
	};
	struct gr_block *block;
	struct gr_txn *txn;
	unsigned place, i;

	if (!anonymous) {
		place = take_place(world);
		loans[place] = (struct loan){world, place};
		opts.backing = GR_BACKING_CALLER;
		opts.host = world->memory + place * RANGES * PIECE;
		opts.release = take_back;
		opts.release_context = &loans[place];
	}
	assert_ok(gr_block_new(world->ram, &opts, &block));
	stamp(case_host(block), number);
	assert_ok(gr_txn_begin(world->space, &txn));
	assert_ok(gr_txn_unmap(txn, BASE, RANGES * PIECE));
	for (i = 0; i < RANGES; i++)
		assert_ok(gr_txn_map(txn, BASE + i * PIECE, block, (i + number) % RANGES * PIECE,
				     PIECE, RW));
	assert_ok(gr_txn_commit(txn));
	__atomic_store_n(&world->committed, number, __ATOMIC_RELEASE);
	if (world->current)
		assert_ok(gr_block_delete(world->current));
	world->current = block;
}

static void replace_under_readers(unsigned count, bool anonymous)
{
	static struct table_world world;
	pthread_t threads[READERS];
	struct gr_ram_stats stats;
	unsigned i;

	memset(&world, 0, sizeof(world));
	world.ram = case_ram();
	world.space = case_space(world.ram, "guest");
	world.memory = case_pages((uint64_t)POOL * RANGES * PIECE);
	replace_table(&world, anonymous);
	for (i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_tables, &world), 0);
	for (i = 0; i < count; i++)
		replace_table(&world, anonymous);
	__atomic_store_n(&world.stop, 1, __ATOMIC_RELAXED);
	for (i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	case_drain(world.ram);
	gr_ram_get_stats(world.ram, &stats);
	assert_int_equal(world.wrong, 0);
	assert_int_equal(world.missing, 0);
	assert_true(world.lookups > count);
	assert_int_equal(stats.ranges, RANGES);
	assert_int_equal(stats.blocks, 1);
	assert_int_equal(stats.blocks_reclaimed, count);
	print_message("           %u tables replaced, %llu lookups\n", count,
		      (unsigned long long)world.lookups);
	case_close(world.ram);
	munmap(world.memory, (uint64_t)POOL * RANGES * PIECE);
}

/* Memory that is written over when it is released. */
static void p16_whole_table_replaced_under_readers_that_copy(void **unused)
{
	replace_under_readers(full ? 100000 : 12000, false);
}

/* Memory that is unmapped: a reader that still knew it would die. */
static void p16_memory_is_unmapped_only_after_the_last_reader(void **unused)
{
	replace_under_readers(full ? 100000 : 6000, true);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(q4_map_and_unmap_pairs_leave_nothing),
		cmocka_unit_test(q4_blocks_that_come_and_go_leave_nothing),
		cmocka_unit_test(p16_whole_table_replaced_under_readers_that_copy),
		cmocka_unit_test(p16_memory_is_unmapped_only_after_the_last_reader),
	};

	full = argc > 1 && !strcmp(argv[1], "full");
	case_watchdog(full ? 900 : 100);
	return cmocka_run_group_tests_name("load", tests, NULL, NULL);
}
