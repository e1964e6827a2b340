/* SPDX-License-Identifier: MIT */
/*
 * Q13: random marks, harvests, returns, blocks that come and go, against a plain model: for each
 * client and block an array of one byte for each KiB.
 */
#include "testing.h"
#include <guestram/dirty.h>

#define BLOCKS 6
#define CLIENTS 4
#define PAGES_MAX 130
#define KIBS (PAGES_MAX * 4)

static const uint64_t granularities[CLIENTS] = {4096, 1024, 32768, 1 << 20};

static struct gr_ram *ram;
static struct gr_dirty *clients[CLIENTS];
static char *memory; /* room for blocks at odd places, side by side */

static struct world_block {
	struct gr_block *block; /* or NULL */
	uint64_t length;
	char *host;
	uint8_t dirty[CLIENTS][KIBS];
} blocks[BLOCKS];

static void add_block(struct rng *rng, unsigned i)
{
	struct world_block *b = &blocks[i];
	char name[16];

	snprintf(name, sizeof(name), "b%u", i);
	b->length = (1 + rng_below(rng, PAGES_MAX)) * PAGE;
	if (i % 2) {
		b->block = new_anon(ram, name, b->length, 0);
	} else {
		/* neighbours share words of the log */
		b->block =
			new_caller(ram, name, memory + i / 2 * PAGES_MAX * PAGE, b->length, NULL);
	}
	b->host = info_of(b->block).host;
	memset(b->dirty, 0, sizeof(b->dirty));
	memset(b->dirty[3], 1, sizeof(b->dirty[3])); /* GR_DIRTY_ALL */
}

static void mark(struct rng *rng, struct world_block *b)
{
	uint64_t offset = rng_below(rng, b->length);
	uint64_t length = 1 + rng_below(rng, rng_one_in(rng, 3) ? b->length - offset
								: 1 + (b->length - offset) / 50);

	if (rng_one_in(rng, 2))
		gr_mark_host(b->host + offset, length);
	else
		gr_dirty_mark(b->block, offset, length);
	for (unsigned c = 0; c < CLIENTS; c++) {
		uint64_t unit = granularities[c], at;

		for (at = offset / unit * unit; at < offset + length; at += 1024)
			b->dirty[c][at / 1024] = 1;
		for (; at % unit && at < b->length; at += 1024)
			b->dirty[c][at / 1024] = 1;
	}
}

static void harvest(struct rng *rng, struct world_block *b, unsigned c)
{
	uint64_t unit = granularities[c], units = (b->length + unit - 1) / unit;
	uint64_t first = rng_below(rng, units), count = 1 + rng_below(rng, units - first);
	uint64_t offset = first * unit, length = count * unit, bytes, expected = 0;
	uint64_t from, size, at;
	uint8_t seen[KIBS] = {0};
	struct gr_harvest *got;
	bool back = rng_one_in(rng, 3);

	if (offset + length > b->length)
		length = b->length - offset;
	if (rng_one_in(rng, 5)) {
		assert_ok(gr_dirty_bytes(clients[c], b->block, &bytes));
		for (at = 0; at < b->length / 1024; at++)
			expected += b->dirty[c][at] * 1024;
		assert_int_equal(bytes, expected);
		expected = 0;
	}
	assert_ok(gr_dirty_harvest(clients[c], b->block, offset, length, &got));
	while (gr_harvest_next(got, &from, &size)) {
		assert_true(size && from >= offset && from + size <= offset + length);
		for (at = from; at < from + size; at += 1024)
			seen[at / 1024]++;
	}
	for (at = offset / 1024; at < (offset + length) / 1024; at++) {
		assert_int_equal(seen[at], b->dirty[c][at]);
		expected += seen[at] * 1024;
	}
	assert_int_equal(gr_harvest_bytes(got), expected);
	if (back) {
		gr_harvest_return(got);
	} else {
		gr_harvest_commit(got);
		memset(b->dirty[c] + offset / 1024, 0, length / 1024);
	}
}

static void q13_harvests_equal_a_model(void **unused)
{
	struct rng rng = {seed_of_the_day()};
	unsigned i, c;

	print_message("seed %llu\n", (unsigned long long)rng.state);
	memory = reserve(BLOCKS * PAGES_MAX * PAGE);
	assert_ok(mprotect(memory, BLOCKS * PAGES_MAX * PAGE, PROT_READ | PROT_WRITE));
	assert_ok(gr_ram_open(NULL, &ram));
	for (c = 0; c < CLIENTS; c++) {
		struct gr_dirty_opts opts = {.name = "model",
					     .granularity = granularities[c],
					     .flags = c == 3 ? GR_DIRTY_ALL : 0};

		assert_ok(gr_dirty_open(ram, &opts, &clients[c]));
	}
	for (unsigned step = 0; step < 20000; step++) {
		struct world_block *b = &blocks[i = rng_below(&rng, BLOCKS)];

		if (!b->block) {
			add_block(&rng, i);
		} else if (rng_one_in(&rng, 200)) {
			assert_ok(gr_block_delete(b->block));
			assert_ok(gr_ram_drain(ram, LONG_MS));
			b->block = NULL;
		} else if (rng_one_in(&rng, 3)) {
			harvest(&rng, b, rng_below(&rng, CLIENTS));
		} else {
			mark(&rng, b);
		}
	}
	for (c = 0; c < CLIENTS; c++)
		assert_ok(gr_dirty_close(clients[c]));
	assert_ok(gr_ram_close(ram));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(q13_harvests_equal_a_model)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
