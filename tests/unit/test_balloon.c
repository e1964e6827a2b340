/* SPDX-License-Identifier: MIT */
/*
 * Hints and balloons: what is given back is really given back, never a part of a backing's page,
 * and nothing that the guest uses; hostile addresses change nothing. The set of pages beside a
 * plain one.
 *
 * Large pages without those of the machine: the test sets the page size of a block of small ones,
 * which do not mind.
 */
#include "plug/frames.h"
#include "plug_util.h"
#include "ram/ram.h"

#define LENGTH (8 * MIB)
#define BIG (64 * KIB)

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;
static struct gr_balloon *balloon;
static char *host;

static int open_ram(void **unused)
{
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_memfd(ram, "ram0", LENGTH);
	host = info_of(block).host;
	assert_ok(gr_space_map(space, 0, block, 0, LENGTH, RW));
	assert_ok(gr_balloon_open(space, &balloon));
	memset(host, 1, LENGTH);
	return 0;
}

static int close_ram(void **unused)
{
	assert_ok(gr_balloon_close(balloon));
	assert_ok(gr_ram_close(ram));
	return 0;
}

static uint64_t resident(void)
{
	static unsigned char pages[LENGTH / PAGE];
	uint64_t count = 0, i;

	assert_int_equal(mincore(host, LENGTH, pages), 0);
	for (i = 0; i < LENGTH / PAGE; i++)
		count += pages[i] & 1;
	return count * PAGE;
}

/* ------------------------------------------------------------------------------------- hints */

static void test_a_hint_gives_whole_pages_back(void **unused)
{
	assert_int_equal(gr_hint_free(space, PAGE, 3 * PAGE), 3 * PAGE);
	assert_int_equal(resident(), LENGTH - 3 * PAGE);
	assert_int_equal(host[PAGE - 1], 1);
	assert_int_equal(host[PAGE], 0);
	assert_int_equal(host[4 * PAGE], 1);
	/* a byte less at either end: two pages less */
	assert_int_equal(gr_hint_free(space, 8 * PAGE + 1, 4 * PAGE - 2), 2 * PAGE);
	assert_int_equal(host[8 * PAGE], 1);
	assert_int_equal(host[9 * PAGE], 0);
	assert_int_equal(host[11 * PAGE], 1);
	assert_int_equal(gr_hint_free(space, 20 * PAGE + 5, PAGE), 0);
	assert_int_equal(gr_hint_free(space, 20 * PAGE, 0), 0);
	assert_int_equal(host[20 * PAGE], 1);
}

static void test_hostile_hints_change_nothing(void **unused)
{
	struct gr_block *rom = new_anon(ram, "rom", 4 * PAGE, 0);

	assert_ok(gr_space_map(space, GIB, rom, 0, 4 * PAGE, GR_READ));
	memset(info_of(rom).host, 2, 4 * PAGE);
	assert_error(gr_hint_free(space, LENGTH - PAGE, 2 * PAGE), -EFAULT, "no memory");
	assert_error(gr_hint_free(space, LENGTH, PAGE), -EFAULT, "no memory");
	assert_error(gr_hint_free(space, UINT64_MAX - PAGE, 2 * PAGE), -ERANGE, "2^64");
	assert_error(gr_hint_free(space, 0, UINT64_MAX), -EFAULT, "no memory");
	assert_error(gr_hint_free(space, GIB, PAGE), -EACCES, "rom");
	assert_int_equal(resident(), LENGTH);
	assert_int_equal(*(char *)info_of(rom).host, 2);
}

static void test_a_hint_over_pieces_gives_back_what_it_can(void **unused)
{
	struct gr_block *owned = new_caller(ram, "owned", reserve(PAGE), PAGE, NULL);

	assert_ok(gr_space_map(space, LENGTH, owned, 0, PAGE, RW));
	/* the caller's memory is not ours to give back, the rest is */
	assert_int_equal(gr_hint_free(space, LENGTH - 2 * PAGE, 3 * PAGE), 2 * PAGE);
	assert_int_equal(resident(), LENGTH - 2 * PAGE);
	assert_error(gr_hint_free(space, LENGTH, PAGE), -ENOTSUP, "caller's");
}

/* ----------------------------------------------------------------------------------- balloons */

static void test_what_is_in_the_balloon_is_given_back(void **unused)
{
	assert_ok(gr_balloon_inflate(balloon, 4 * PAGE, 2 * PAGE));
	assert_int_equal(gr_balloon_bytes(balloon), 2 * PAGE);
	assert_int_equal(resident(), LENGTH - 2 * PAGE);
	assert_ok(gr_balloon_inflate(balloon, 5 * PAGE, 2 * PAGE)); /* one of them again */
	assert_int_equal(gr_balloon_bytes(balloon), 3 * PAGE);
	assert_int_equal(resident(), LENGTH - 3 * PAGE);
	assert_int_equal(host[3 * PAGE], 1);
	assert_int_equal(host[4 * PAGE], 0);
	assert_ok(gr_balloon_deflate(balloon, 4 * PAGE, PAGE));
	assert_int_equal(gr_balloon_bytes(balloon), 2 * PAGE);
	host[4 * PAGE] = 3;
	assert_ok(gr_balloon_inflate(balloon, 6 * PAGE, PAGE)); /* leaves it alone */
	assert_int_equal(host[4 * PAGE], 3);
	assert_ok(gr_balloon_deflate(balloon, 0, LENGTH)); /* most of it is not in there */
	assert_int_equal(gr_balloon_bytes(balloon), 0);
	assert_ok(gr_balloon_inflate(balloon, 0, LENGTH));
	assert_int_equal(gr_balloon_bytes(balloon), LENGTH);
	assert_int_equal(resident(), 0);
}

static void test_hostile_pages_change_nothing(void **unused)
{
	struct gr_block *rom = new_anon(ram, "rom", 4 * PAGE, 0);

	assert_ok(gr_space_map(space, GIB, rom, 0, 4 * PAGE, GR_READ));
	assert_error(gr_balloon_inflate(balloon, LENGTH - PAGE, 2 * PAGE), -EFAULT, "no memory");
	assert_error(gr_balloon_inflate(balloon, 1, PAGE), -EINVAL, "multiples");
	assert_error(gr_balloon_inflate(balloon, 0, PAGE + 1), -EINVAL, "multiples");
	assert_error(gr_balloon_inflate(balloon, 0 - PAGE, 2 * PAGE), -ERANGE, "2^64");
	assert_error(gr_balloon_inflate(balloon, 0 - PAGE, PAGE), -EFAULT, "no memory");
	assert_error(gr_balloon_inflate(balloon, GIB, PAGE), -EACCES, "rom");
	assert_error(gr_balloon_deflate(balloon, LENGTH, PAGE), -EFAULT, "no memory");
	assert_error(gr_balloon_deflate(balloon, 1, PAGE), -EINVAL, "multiples");
	assert_ok(gr_balloon_inflate(balloon, 0, 0));
	assert_int_equal(gr_balloon_bytes(balloon), 0);
	assert_int_equal(resident(), LENGTH);
}

/* A page of the backing goes when all of it is in there, in whatever order; and only then. */
static void test_a_larger_page_waits_for_all_its_parts(void **unused)
{
	unsigned i;

	block->mem.page_size = BIG; /* which our memory does not mind */
	for (i = 0; i < 16; i++) {
		unsigned part = i * 7 % 16;

		assert_int_equal(host[BIG], 1);
		assert_ok(gr_balloon_inflate(balloon, BIG + part * PAGE, PAGE));
		assert_int_equal(resident(), i < 15 ? LENGTH : LENGTH - BIG);
	}
	assert_int_equal(gr_balloon_bytes(balloon), BIG);
	assert_int_equal(host[BIG], 0);
	assert_int_equal(host[BIG - 1], 1);
	assert_int_equal(host[2 * BIG], 1);
	/* one comes out and is used: the page stays until it is in again */
	assert_ok(gr_balloon_deflate(balloon, BIG + 3 * PAGE, PAGE));
	memset(host + BIG, 4, BIG);
	assert_ok(gr_balloon_inflate(balloon, BIG + 5 * PAGE, PAGE));
	assert_int_equal(host[BIG + 3 * PAGE], 4);
	assert_ok(gr_balloon_inflate(balloon, BIG + 3 * PAGE, PAGE));
	assert_int_equal(host[BIG + 3 * PAGE], 0);
	/* two and a half pages, from the middle of one on: two whole ones */
	memset(host, 1, LENGTH);
	assert_ok(gr_balloon_inflate(balloon, 10 * BIG + BIG / 2, 2 * BIG + BIG / 2));
	assert_int_equal(resident(), LENGTH - 2 * BIG);
	assert_int_equal(host[11 * BIG - 1], 1);
	assert_int_equal(host[11 * BIG], 0);
	assert_int_equal(host[13 * BIG], 1);
	/* hints, too */
	assert_int_equal(gr_hint_free(space, 20 * BIG + PAGE, 2 * BIG), BIG);
	assert_int_equal(host[21 * BIG - 1], 1);
	assert_int_equal(host[21 * BIG], 0);
	assert_int_equal(host[22 * BIG], 1);
	block->mem.page_size = PAGE;
}

/* A range that shows but a part of a large page: it stays, whatever of it is in the balloon. */
static void test_a_page_that_is_mapped_in_part_stays(void **unused)
{
	assert_ok(gr_space_unmap(space, 0, LENGTH));
	block->mem.page_size = BIG;
	assert_ok(gr_space_map(space, 0, block, BIG / 2, 2 * BIG, RW));
	assert_ok(gr_balloon_inflate(balloon, 0, 2 * BIG));
	assert_int_equal(resident(), LENGTH - BIG);
	assert_int_equal(host[BIG - 1], 1);
	assert_int_equal(host[BIG], 0);
	assert_int_equal(host[2 * BIG], 1);
	/* its other half is in a range of its own: then it is all in there */
	assert_ok(gr_space_map(space, GIB, block, 0, BIG / 2, RW));
	assert_ok(gr_balloon_inflate(balloon, GIB, BIG / 2));
	assert_int_equal(host[0], 0);
	assert_int_equal(host[BIG - 1], 0);
	assert_int_equal(host[2 * BIG], 1);
	block->mem.page_size = PAGE;
}

/* What is unmapped is in there no more: what comes to its address is another page. */
static void test_what_is_unmapped_leaves_the_balloon(void **unused)
{
	struct gr_block *next;

	block->mem.page_size = BIG;
	assert_ok(gr_balloon_inflate(balloon, BIG, BIG - PAGE)); /* all but its last page */
	assert_ok(gr_space_unmap(space, BIG, BIG));
	assert_int_equal(gr_balloon_bytes(balloon), 0);
	assert_ok(gr_space_map(space, BIG, block, BIG, BIG, RW)); /* the same, used again */
	assert_ok(gr_balloon_inflate(balloon, 2 * BIG - PAGE, PAGE));
	assert_int_equal(host[BIG], 1);
	assert_int_equal(gr_balloon_bytes(balloon), PAGE);

	/* ranges that are split or joined lose nothing */
	assert_ok(gr_balloon_inflate(balloon, 0, 4 * PAGE));
	assert_ok(gr_space_unmap(space, 8 * PAGE, PAGE));
	assert_int_equal(gr_balloon_bytes(balloon), 5 * PAGE);
	assert_ok(gr_space_unmap(space, 2 * PAGE, PAGE));
	assert_int_equal(gr_balloon_bytes(balloon), 4 * PAGE);

	assert_ok(gr_space_unmap(space, 0, LENGTH));
	assert_int_equal(gr_balloon_bytes(balloon), 0);
	block->mem.page_size = PAGE;
	assert_ok(gr_space_map(space, 0, block, 0, LENGTH, RW));
	assert_ok(gr_balloon_inflate(balloon, 0, 2 * PAGE));
	assert_ok(gr_space_unmap(space, 0, LENGTH));
	assert_ok(gr_block_delete(block));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(gr_balloon_bytes(balloon), 0);
	next = new_memfd(ram, "ram1", LENGTH);
	assert_ok(gr_space_map(space, 0, next, 0, LENGTH, RW));
	assert_ok(gr_balloon_deflate(balloon, 0, LENGTH)); /* none of it */
	assert_ok(gr_balloon_inflate(balloon, 0, PAGE));
	assert_int_equal(gr_balloon_bytes(balloon), PAGE);
}

static void test_granules_that_come_and_go_keep_their_neighbours_in_the_balloon(void **unused)
{
	struct gr_block *vmem = new_memfd(ram, "vmem", 4 * GRANULE);
	struct gr_plug *plug;

	assert_ok(gr_plug_open(vmem, NULL, &plug));
	assert_ok(gr_plug_map(plug, space, GIB, 0, 4 * GRANULE, RW));
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	assert_ok(gr_balloon_inflate(balloon, GIB, 8 * PAGE));
	assert_ok(gr_plug_add(plug, GRANULE, GRANULE)); /* joins the range: removed and added */
	assert_ok(gr_balloon_inflate(balloon, GIB + GRANULE, PAGE));
	assert_int_equal(gr_balloon_bytes(balloon), 9 * PAGE);
	assert_ok(gr_plug_remove(plug, GRANULE, GRANULE));
	assert_int_equal(gr_balloon_bytes(balloon), 8 * PAGE);
	assert_ok(gr_plug_remove_all(plug));
	assert_int_equal(gr_balloon_bytes(balloon), 0);
	assert_ok(gr_plug_unmap(plug, space, GIB));
	assert_ok(gr_plug_close(plug));
}

static void test_a_balloon_keeps_its_space_and_forbids_the_opposite(void **unused)
{
	struct gr_discard_claim *claim = NULL;
	struct gr_balloon *second;

	assert_error(gr_space_close(space), -EBUSY, "balloon");
	assert_error(gr_ram_close(ram), -EBUSY, "balloon");
	assert_error(gr_discard_claim_open(ram, block, GR_DISCARD_FORBID, "vfio", &claim), -EBUSY,
		     "balloon");
	assert_ok(gr_balloon_open(space, &second)); /* two do not mind each other */
	gr_read_begin();
	assert_error(gr_balloon_close(second), -EDEADLK, "");
	assert_ok(gr_balloon_inflate(second, 0, PAGE));
	gr_read_end();
	assert_ok(gr_balloon_close(second));
	assert_ok(gr_balloon_close(NULL));
	assert_int_equal(gr_balloon_bytes(balloon), 0);
}

/* -------------------------------------------------------------------------- the set of pages */

static void test_the_set_of_pages_agrees_with_a_plain_one(void **unused)
{
	enum { PAGES = 8192 };
	static bool plain[PAGES];
	const uint64_t base = UINT64_C(0x7f1234400000);
	struct gr__frames frames = {0};
	struct rng rng = {11};
	unsigned step;

	memset(plain, 0, sizeof(plain));
	for (step = 0; step < 4000; step++) {
		uint64_t first = rng_below(&rng, PAGES);
		uint64_t count = 1 + rng_below(&rng, rng_one_in(&rng, 20) ? PAGES - first : 40);
		uint64_t want = 0, total = 0, at, i;
		bool on = rng_one_in(&rng, step / 500 % 2 ? 4 : 2), in = rng_one_in(&rng, 2);

		if (count > PAGES - first)
			count = PAGES - first;
		for (i = first; i < first + count; i++) {
			want += plain[i] != on;
			plain[i] = on;
		}
		if (on)
			assert_ok(gr__frames_reserve(&frames, count * PAGE));
		assert_int_equal((on ? gr__frames_add : gr__frames_remove)(
					 &frames, base + first * PAGE, count * PAGE),
				 want);
		for (i = 0; i < PAGES; i++)
			total += plain[i];
		assert_int_equal(frames.count, total);
		/* a piece and the next page, of another place */
		first = rng_below(&rng, PAGES);
		count = 1 + rng_below(&rng, PAGES - first);
		for (i = first, want = 0; i < first + count; i++)
			want += plain[i];
		assert_int_equal(gr__frames_count(&frames, base + first * PAGE, count * PAGE),
				 want);
		for (i = first; i < first + count && plain[i] != in; i++)
			;
		at = base + first * PAGE;
		assert_int_equal(
			gr__frames_next(&frames, &at, base + (first + count - 1) * PAGE, in),
			i < first + count);
		if (i < first + count)
			assert_int_equal(at, base + i * PAGE);
		/* in proportion: at most half of the room is free twice over */
		assert_true(frames.room <= 16 || frames.used >= frames.room / 16);
	}
	gr__frames_remove(&frames, base, PAGES * PAGE);
	assert_int_equal(frames.count, 0);
	assert_int_equal(frames.used, 0);
	gr__frames_fini(&frames);
}

/* One page in each of many places, so that they stand in each other's way in the table. */
static void test_the_set_of_pages_finds_what_is_far_apart(void **unused)
{
	enum { PLACES = 600 };
	static bool plain[PLACES];
	struct gr__frames frames = {0};
	struct rng rng = {12};
	unsigned step, i;

	memset(plain, 0, sizeof(plain));
	for (step = 0; step < 6000; step++) {
		uint64_t place = rng_below(&rng, PLACES);
		uint64_t at = UINT64_C(0x7f0000000000) + place * 6 * MIB;
		bool on = rng_one_in(&rng, step / 1000 % 2 ? 4 : 2);

		if (on)
			assert_ok(gr__frames_reserve(&frames, PAGE));
		assert_int_equal((on ? gr__frames_add : gr__frames_remove)(&frames, at, PAGE),
				 plain[place] != on);
		plain[place] = on;
		for (i = 0; step % 50 == 0 && i < PLACES; i++)
			assert_int_equal(gr__frames_count(&frames,
							  UINT64_C(0x7f0000000000) + i * 6 * MIB,
							  PAGE),
					 plain[i]);
	}
	gr__frames_fini(&frames);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_a_hint_gives_whole_pages_back),
		each(test_hostile_hints_change_nothing),
		each(test_a_hint_over_pieces_gives_back_what_it_can),
		each(test_what_is_in_the_balloon_is_given_back),
		each(test_hostile_pages_change_nothing),
		each(test_a_larger_page_waits_for_all_its_parts),
		each(test_a_page_that_is_mapped_in_part_stays),
		each(test_what_is_unmapped_leaves_the_balloon),
		each(test_granules_that_come_and_go_keep_their_neighbours_in_the_balloon),
		each(test_a_balloon_keeps_its_space_and_forbids_the_opposite),
		cmocka_unit_test(test_the_set_of_pages_agrees_with_a_plain_one),
		cmocka_unit_test(test_the_set_of_pages_finds_what_is_far_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
