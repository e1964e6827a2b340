/* SPDX-License-Identifier: MIT */
/*
 * P39, Q15: writers store and mark while a harvester copies what it harvests: at the end its copy
 * is the memory. That no processor runs the look at a bit ahead of the data's store is shown by
 * models/dirty.pml: a test meets it too seldom.
 */
#include "testing.h"
#include <guestram/dirty.h>

#define PAGES 64 /* few, so that they meet */
#define WRITERS 2
#define RUN_MS 1500

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;
static struct gr_dirty *client;
static int stop;
static uint64_t stores; /* atomic */

static void *write_pages(void *arg)
{
	struct rng rng = {(uintptr_t)arg + 1};
	uint64_t count = 0;

	while (!get(&stop)) {
		uint64_t addr = rng_below(&rng, PAGES) * PAGE + (uintptr_t)arg * 8;

		gr_store_u64(space, addr, ++count);
	}
	__atomic_fetch_add(&stores, count, __ATOMIC_RELAXED);
	return NULL;
}

/* A writer through its pointer, as an emulator is. */
static void *write_raw(void *arg)
{
	struct rng rng = {(uintptr_t)arg + 1};
	uint64_t count = 0;

	while (!get(&stop)) {
		uint64_t *to;

		gr_read_begin();
		to = gr_host(space, rng_below(&rng, PAGES) * PAGE + (uintptr_t)arg * 8, 8,
			     GR_WRITE);
		__atomic_store_n(to, ++count, __ATOMIC_RELAXED);
		gr_mark_host(to, 8);
		gr_read_end();
	}
	__atomic_fetch_add(&stores, count, __ATOMIC_RELAXED);
	return NULL;
}

static void copy_dirty(char *copy, const char *memory, uint64_t *pages)
{
	struct gr_harvest *got;
	uint64_t offset, length;

	assert_ok(gr_dirty_harvest(client, block, 0, 0, &got));
	while (gr_harvest_next(got, &offset, &length)) {
		for (uint64_t at = offset; at < offset + length; at += 8)
			*(uint64_t *)(copy + at) =
				__atomic_load_n((const uint64_t *)(memory + at), __ATOMIC_RELAXED);
		*pages += length / PAGE;
	}
	gr_harvest_commit(got);
}

static void p39_no_write_is_missed(void **unused)
{
	static char copy[PAGES * PAGE];
	const struct gr_dirty_opts opts = {.name = "race"};
	pthread_t threads[WRITERS];
	uint64_t pages = 0, rounds = 0;
	int64_t end;
	char *memory;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "b", PAGES * PAGE, 0);
	memory = info_of(block).host;
	assert_ok(gr_space_map(space, 0, block, 0, PAGES * PAGE, RW));
	assert_ok(gr_dirty_open(ram, &opts, &client));
	for (uintptr_t i = 0; i < WRITERS; i++)
		threads[i] = thread_start(i % 2 ? write_raw : write_pages, (void *)i);
	for (end = now_ms() + RUN_MS; now_ms() < end; rounds++)
		copy_dirty(copy, memory, &pages);
	set(&stop, 1);
	for (unsigned i = 0; i < WRITERS; i++)
		thread_join(threads[i]);
	copy_dirty(copy, memory, &pages);
	print_message("%llu stores, %llu harvests of %llu pages\n", (unsigned long long)stores,
		      (unsigned long long)rounds, (unsigned long long)pages);
	assert_true(stores > 1000 && rounds > 10);
	assert_memory_equal(copy, memory, PAGES * PAGE);
	assert_ok(gr_dirty_close(client));
	assert_ok(gr_ram_close(ram));
}

/* Clients that come and go under writers: what is written after an open is seen. */
static void an_open_sees_all_that_begins_after_it(void **unused)
{
	const struct gr_dirty_opts opts = {.name = "race"};
	pthread_t thread;
	uint64_t bytes;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "b", (PAGES + 1) * PAGE, 0);
	assert_ok(gr_space_map(space, 0, block, 0, (PAGES + 1) * PAGE, RW));
	set(&stop, 0);
	thread = thread_start(write_pages, (void *)1);
	for (unsigned i = 0; i < 300; i++) {
		assert_ok(gr_dirty_open(ram, &opts, &client));
		assert_ok(gr_store_u8(space, PAGES * PAGE, (uint8_t)i));
		assert_ok(gr_dirty_bytes(client, block, &bytes));
		assert_true(bytes >= PAGE);
		assert_ok(gr_dirty_close(client));
	}
	set(&stop, 1);
	thread_join(thread);
	assert_ok(gr_ram_close(ram));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p39_no_write_is_missed),
		cmocka_unit_test(an_open_sees_all_that_begins_after_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
