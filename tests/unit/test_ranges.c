/* SPDX-License-Identifier: MIT */
/*
 * Many ranges that come and go in every order: the same view whatever the order, and memory that
 * follows the number of ranges both ways. Ranges stand in chunks of 64 (space/view.h).
 */
#include "testing.h"

#define RANGES 640

enum order { RISING, FALLING, RANDOM, INSIDE_OUT, ORDERS };

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;
static char *host;
static unsigned places[RANGES];

static int open_ram(void **unused)
{
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_caller(ram, "ram0", reserve(2 * RANGES * PAGE), 2 * RANGES * PAGE, NULL);
	host = info_of(block).host;
	return 0;
}

static int close_ram(void **unused)
{
	assert_ok(gr_ram_close(ram));
	return 0;
}

static void arrange(enum order order, struct rng *rng)
{
	unsigned i;

	for (i = 0; i < RANGES; i++)
		if (order == FALLING)
			places[i] = RANGES - 1 - i;
		else if (order == INSIDE_OUT)
			places[i] = i % 2 ? RANGES / 2 - 1 - i / 2 : RANGES / 2 + i / 2;
		else
			places[i] = i;
	for (i = RANGES; order == RANDOM && --i;) {
		unsigned other = (unsigned)rng_below(rng, i + 1), place = places[i];

		places[i] = places[other];
		places[other] = place;
	}
}

/* Range number i: page 2 i of the space shows page 2 i of the block; a hole follows. */
static int come(unsigned i)
{
	return gr_space_map(space, 2 * i * PAGE, block, 2 * i * PAGE, PAGE, RW);
}

static int go(unsigned i)
{
	return gr_space_unmap(space, 2 * i * PAGE, PAGE);
}

static void assert_only_these(const bool *there)
{
	struct gr_cursor cursor;
	unsigned i;

	gr_cursor_init(&cursor, space);
	gr_read_begin();
	for (i = 0; i < 2 * RANGES; i++) {
		char *want = i % 2 || !there[i / 2] ? NULL : host + i * PAGE;

		assert_ptr_equal(gr_host(space, i * PAGE, PAGE, RW), want);
		assert_ptr_equal(gr_cursor_host(&cursor, i * PAGE + 8, 8, GR_READ),
				 want ? want + 8 : NULL);
	}
	gr_read_end();
}

static void test_ranges_come_and_go_in_every_order(void **unused)
{
	bool there[RANGES] = {false};
	struct rng rng = {42};
	unsigned in, out, i;

	for (in = 0; in < ORDERS; in++) {
		for (out = 0; out < ORDERS; out++) {
			arrange(in, &rng);
			for (i = 0; i < RANGES; i++) {
				assert_ok(come(places[i]));
				there[places[i]] = true;
				if (i % 160 == 97)
					assert_only_these(there);
			}
			assert_only_these(there);
			assert_int_equal(stats_of(ram).ranges, RANGES);
			assert_int_equal(info_of(block).mapped, RANGES);
			arrange(out, &rng);
			for (i = 0; i < RANGES; i++) {
				assert_ok(go(places[i]));
				there[places[i]] = false;
				if (i % 160 == 97)
					assert_only_these(there);
			}
			assert_int_equal(stats_of(ram).ranges, 0);
			assert_int_equal(stats_of(ram).index_bytes, 0);
		}
	}
}

static void test_memory_follows_the_number_of_ranges(void **unused)
{
	bool there[RANGES] = {false};
	struct rng rng = {43};
	uint64_t one;
	unsigned i;

	assert_ok(come(0));
	one = stats_of(ram).range_bytes; /* one chunk and a view */
	there[0] = true;
	for (i = 1; i < RANGES; i++) {
		assert_ok(come(i));
		there[i] = true;
	}
	/* a growing table fills its chunks: 640 ranges in 10 */
	assert_true(stats_of(ram).range_bytes <= one * (RANGES / 64));
	arrange(RANDOM, &rng);
	for (i = 0; i < RANGES; i++) {
		if (places[i] % 20)
			assert_ok(go(places[i]));
		there[places[i]] = places[i] % 20 == 0;
	}
	assert_only_these(there);
	assert_int_equal(stats_of(ram).ranges, RANGES / 20);
	/* small neighbours have become one: 32 ranges in no more than 3 */
	assert_true(stats_of(ram).range_bytes <= 3 * one);
	for (i = 0; i < RANGES; i += 20)
		assert_ok(go(i));
	assert_true(stats_of(ram).range_bytes < one / 4);
}

/* A cut in the middle of full chunks, and one unmap over many of them. */
static void test_one_unmap_takes_many_chunks(void **unused)
{
	bool there[RANGES];
	unsigned i;

	for (i = 0; i < RANGES; i++) {
		assert_ok(come(i));
		there[i] = true;
	}
	assert_ok(gr_space_unmap(space, 2 * 70 * PAGE, 2 * 400 * PAGE));
	for (i = 70; i < 470; i++)
		there[i] = false;
	assert_only_these(there);
	assert_int_equal(stats_of(ram).ranges, RANGES - 400);
	assert_int_equal(info_of(block).mapped, RANGES - 400);
	for (i = 470; i-- > 70;) {
		assert_ok(come(i));
		there[i] = true;
	}
	assert_only_these(there);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_ranges_come_and_go_in_every_order),
		each(test_memory_follows_the_number_of_ranges),
		each(test_one_unmap_takes_many_chunks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
