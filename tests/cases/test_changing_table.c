/* SPDX-License-Identifier: MIT */
/* P11, P12, P14, P17, P22: ranges in every order, overlaps, pins over a removal, whole tables. */
#include "case.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BASE GIB

/* --------------------------------------------------------------------------------- P11, P12 */

enum { MOST = 600 };

/* Range number @i: pages and granules, touching and apart, far and near. */
static void place(unsigned i, bool far, uint64_t *addr, uint64_t *length)
{
	static const uint64_t lengths[] = {PAGE, 2 * MIB, 3 * PAGE, 4 * MIB, PAGE, 2 * MIB - PAGE};

	*addr = BASE + i * (far ? 300 * MIB : 4 * MIB);
	*length = lengths[i % COUNT_OF(lengths)];
	if (i % 7 == 3)
		*addr += 4 * MIB - *length; /* touches the next one */
}

static void add(struct gr_space *space, struct gr_block *block, unsigned i, bool far)
{
	uint64_t addr, length;

	place(i, far, &addr, &length);
	case_map(space, addr, block, (i % 16) * 4 * MIB, length, i % 5 ? RW : GR_READ);
}

static void remove_one(struct gr_space *space, unsigned i, bool far)
{
	uint64_t addr, length;

	place(i, far, &addr, &length);
	assert_ok(gr_space_unmap(space, addr, length));
}

static void shuffle(unsigned *order, unsigned count, uint64_t *random)
{
	unsigned i, other, kept;

	for (i = count; i > 1; i--) {
		other = (unsigned)(case_random(random) % i);
		kept = order[i - 1];
		order[i - 1] = order[other];
		order[other] = kept;
	}
}

/* Looked up at the edges of each range, with the index and with the ranges. */
static void assert_lookups(struct gr_space *space, const struct case_table *table)
{
	struct gr_cursor cursor;
	size_t i;

	gr_cursor_init(&cursor, space);
	gr_read_begin();
	for (i = 0; i < table->count; i++) {
		const struct gr_range *range = &table->ranges[i];
		uint64_t last = range->addr + (range->length - 1);
		char *host = range->host;

		assert_ptr_equal(gr_host(space, range->addr, 1, range->access), host);
		assert_ptr_equal(gr_host(space, last, 1, range->access), host + range->length - 1);
		assert_ptr_equal(gr_host(space, range->addr, range->length, GR_READ), host);
		assert_ptr_equal(gr_cursor_host(&cursor, last, 1, GR_READ),
				 host + range->length - 1);
		assert_null(gr_host(space, last, 2, 0));
		if (range->access == GR_READ)
			assert_null(gr_host(space, range->addr, 1, GR_WRITE));
		if (range->addr &&
		    (!i || table->ranges[i - 1].addr + table->ranges[i - 1].length < range->addr))
			assert_null(gr_host(space, range->addr - 1, 1, 0));
	}
	gr_read_end();
}

static void check_orders(unsigned count, bool far)
{
	static struct case_table tables[4];
	static unsigned order[MOST];
	uint64_t random = 7777 + count, first_index = 0, one = 0;
	struct gr_ram *ram = case_ram();
	struct gr_block *block = case_anon(ram, "x", 64 * MIB);
	unsigned way, i;

	for (way = 0; way < 4; way++) {
		struct gr_space *space = case_space(ram, "guest");
		struct gr_ram_stats stats;

		for (i = 0; i < count; i++)
			order[i] = way == 1 ? count - 1 - i : i;
		if (way >= 2)
			shuffle(order, count, &random);
		for (i = 0; i < count; i++) {
			add(space, block, order[i], far);
			if (!one) { /* memory of a view of one range: of a chunk of them */
				gr_ram_get_stats(ram, &stats);
				one = stats.range_bytes;
			}
		}
		if (way == 3) { /* and once through removing half of it again */
			for (i = 0; i < count; i += 2)
				remove_one(space, order[i], far);
			for (i = 0; i < count; i += 2)
				add(space, block, order[i], far);
		}
		case_table_take(space, &tables[way]);
		assert_int_equal(tables[way].count, count);
		for (i = 1; i < count; i++)
			assert_true(tables[way].ranges[i - 1].addr < tables[way].ranges[i].addr);
		assert_same_table(&tables[0], &tables[way]);
		assert_lookups(space, &tables[way]);
		gr_ram_get_stats(ram, &stats);
		assert_int_equal(stats.ranges, count);
		if (!way)
			first_index = stats.index_bytes;
		assert_int_equal(stats.index_bytes, first_index);

		shuffle(order, count, &random);
		for (i = 0; i < count; i++) {
			remove_one(space, order[i], far);
			gr_ram_get_stats(ram, &stats);
			assert_true(stats.range_bytes <= one * (3 + stats.ranges / 8));
		}
		gr_ram_get_stats(ram, &stats);
		assert_int_equal(stats.ranges, 0);
		assert_int_equal(stats.index_bytes, 0);
		assert_ok(gr_space_close(space));
	}
	case_close(ram);
}

static void p11_ranges_in_any_order_give_the_same_view(void **unused)
{
	/* around the sizes of the structures behind it, and 600 */
	static const unsigned counts[] = {1, 2, 3, 5, 16, 63, 64, 65, 128, 129, 300, MOST};
	size_t i;

	for (i = 0; i < COUNT_OF(counts); i++) {
		check_orders(counts[i], false);
		check_orders(counts[i], true);
	}
}

/* Ranges are kept in chunks of 64: one more at each place of a full chunk, one less at each. */
static void p11_one_range_more_or_less_at_every_place(void **unused)
{
	static const unsigned counts[] = {63, 64, 65, 128};
	static struct case_table table;
	struct gr_ram *ram = case_ram();
	struct gr_block *block = case_anon(ram, "x", 256 * PAGE);
	unsigned i, k, n;

	for (n = 0; n < COUNT_OF(counts); n++)
		for (i = 0; i <= counts[n]; i++) {
			struct gr_space *space = case_space(ram, "guest");

			for (k = 0; k < counts[n]; k++)
				case_map(space, BASE + (2 * k + 1) * PAGE, block, k * PAGE, PAGE,
					 RW);
			case_map(space, BASE + 2 * i * PAGE, block, 200 * PAGE, PAGE, RW);
			case_table_take(space, &table);
			assert_int_equal(table.count, counts[n] + 1);
			for (k = 0; k <= counts[n]; k++) {
				unsigned page = k < i ? 2 * k + 1 : k == i ? 2 * i : 2 * k - 1;

				assert_int_equal(table.ranges[k].addr, BASE + page * PAGE);
				assert_int_equal(table.ranges[k].offset,
						 (k == i ? 200 : page / 2) * PAGE);
			}
			assert_lookups(space, &table);
			assert_ok(gr_space_unmap(space, BASE + 2 * i * PAGE, PAGE));
			if (i < counts[n]) /* a neighbour too */
				assert_ok(gr_space_unmap(space, BASE + (2 * i + 1) * PAGE, PAGE));
			case_table_take(space, &table);
			assert_int_equal(table.count, counts[n] - (i < counts[n]));
			assert_lookups(space, &table);
			assert_ok(gr_space_close(space));
		}
	case_close(ram);
}

/* Next permutation in lexical order; false after the last. */
static bool permute(unsigned *order, unsigned count)
{
	unsigned i = count - 1, k, kept;

	while (i && order[i - 1] >= order[i])
		i--;
	if (!i)
		return false;
	for (k = count - 1; order[k] <= order[i - 1]; k--)
		;
	kept = order[k];
	order[k] = order[i - 1];
	order[i - 1] = kept;
	for (k = count - 1; i < k; i++, k--) {
		kept = order[k];
		order[k] = order[i];
		order[i] = kept;
	}
	return true;
}

static void p12_every_permutation_of_4_regions(void **unused)
{
	static const uint64_t sets[][4][2] = {
		{{0, 640 * KIB}, {MIB, 3 * GIB - MIB}, {4 * GIB, 2 * GIB}, {7 * GIB, PAGE}},
		{{0, PAGE}, {PAGE, PAGE}, {2 * PAGE, PAGE}, {3 * PAGE, PAGE}},
		{{0, PAGE}, {2 * MIB, 2 * MIB}, {70 * GIB, 4 * MIB}, {TOP(2 * MIB), 2 * MIB}},
		{{BASE, 2 * MIB},
		 {BASE + 2 * MIB, GIB},
		 {BASE + 100 * GIB, 2 * GIB},
		 {BASE + 20000 * GIB, 4 * MIB}},
	};
	static struct case_table now;
	size_t set, i;

	for (set = 0; set < COUNT_OF(sets); set++) {
		unsigned order[4] = {0, 1, 2, 3}, back[4];

		do {
			struct gr_ram *ram = case_ram();
			struct gr_space *space = case_space(ram, "guest");
			struct gr_block *blocks[4];
			char name[8];

			for (i = 0; i < 4; i++) {
				snprintf(name, sizeof(name), "b%zu", i);
				blocks[i] = case_anon(ram, name, sets[set][i][1]);
			}
			for (i = 0; i < 4; i++)
				case_map(space, sets[set][order[i]][0], blocks[order[i]], 0,
					 sets[set][order[i]][1], RW);
			case_table_take(space, &now);
			assert_int_equal(now.count, 4);
			for (i = 0; i < 4; i++) {
				assert_int_equal(now.ranges[i].addr, sets[set][i][0]);
				assert_int_equal(now.ranges[i].length, sets[set][i][1]);
				assert_ptr_equal(now.ranges[i].block, blocks[i]);
				assert_ptr_equal(now.ranges[i].host, case_host(blocks[i]));
			}
			assert_lookups(space, &now);
			/* and removed in the same order: after each, the others are whole */
			memcpy(back, order, sizeof(back));
			for (i = 0; i < 4; i++) {
				assert_ok(gr_space_unmap(space, sets[set][back[i]][0],
							 sets[set][back[i]][1]));
				case_table_take(space, &now);
				assert_int_equal(now.count, 3 - i);
				assert_lookups(space, &now);
				assert_null(case_lookup(space, sets[set][back[i]][0], 1, 0));
			}
			case_close(ram);
		} while (permute(order, 4));
	}
}

/* ------------------------------------------------------------------------------------ P14 */

static void p14_overlaps_are_refused_and_neighbours_accepted(void **unused)
{
	static const struct {
		const char *name;
		int64_t first, last; /* pages, from the first page of the range */
		int rc;
	} cases[] = {
		{"identical", 0, 7, -EEXIST},
		{"contained", 2, 5, -EEXIST},
		{"contained, same start", 0, 3, -EEXIST},
		{"contained, same end", 4, 7, -EEXIST},
		{"around it", -2, 9, -EEXIST},
		{"left, by a page", -4, 0, -EEXIST},
		{"right, by a page", 7, 9, -EEXIST},
		{"first page alone", 0, 0, -EEXIST},
		{"last page alone", 7, 7, -EEXIST},
		{"over both ranges", 5, 17, -EEXIST},
		{"touches on the left", -4, -1, 0},
		{"touches on the right", 8, 9, 0},
		{"fills the gap exactly", 8, 15, 0},
		{"one page past the gap", 8, 16, -EEXIST},
	};
	static const uint64_t bases[] = {BASE, BASE + 2 * MIB - 4 * PAGE, 100 * GIB};
	static struct case_table before, after;
	size_t b, i;

	for (b = 0; b < COUNT_OF(bases); b++)
		for (i = 0; i < COUNT_OF(cases); i++) {
			uint64_t addr = bases[b] + (uint64_t)cases[i].first * PAGE;
			uint64_t length = (uint64_t)(cases[i].last - cases[i].first + 1) * PAGE;
			struct gr_ram *ram = case_ram();
			struct gr_space *space = case_space(ram, "guest");
			struct gr_block *block = case_anon(ram, "held", 8 * PAGE);
			struct gr_block *other = case_anon(ram, "other", 64 * PAGE);
			struct gr_ram_stats stats, now;
			struct gr_txn *txn;

			case_map(space, bases[b], block, 0, 8 * PAGE, RW);
			case_map(space, bases[b] + 16 * PAGE, block, 0, 8 * PAGE, RW);
			case_table_take(space, &before);
			gr_ram_get_stats(ram, &stats);
			assert_int_equal(gr_space_map(space, addr, other, 0, length, RW),
					 cases[i].rc);
			case_table_take(space, &after);
			if (!cases[i].rc) {
				assert_int_equal(after.count, 3);
				assert_lookups(space, &after);
				case_close(ram);
				continue;
			}
			assert_non_null(strstr(gr_last_error(), "held")); /* names the other */
			assert_same_table(&before, &after);
			/* also late in a transaction, whose good part goes too */
			assert_ok(gr_txn_begin(space, &txn));
			assert_ok(gr_txn_map(txn, 0, other, 0, PAGE, RW));
			assert_ok(gr_txn_unmap(txn, bases[b] + 20 * PAGE, PAGE));
			assert_ok(gr_txn_map(txn, addr, other, 0, length, RW));
			assert_int_equal(gr_txn_commit(txn), -EEXIST);
			case_table_take(space, &after);
			assert_same_table(&before, &after);
			gr_ram_get_stats(ram, &now);
			assert_memory_equal(&stats, &now, sizeof(stats));
			assert_lookups(space, &after);
			case_close(ram);
		}
}

/* The finest that ranges can overlap by is a page; anything finer is malformed. */
static void p14_overlap_by_a_byte_is_malformed_or_refused(void **unused)
{
	static struct case_table before, after;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = case_anon(ram, "x", 16 * PAGE);

	case_map(space, BASE, block, 0, 4 * PAGE, RW);
	case_table_take(space, &before);
	assert_int_equal(gr_space_map(space, BASE + 4 * PAGE - 1, block, 8 * PAGE, PAGE, RW),
			 -EINVAL);
	assert_int_equal(gr_space_map(space, BASE + 4 * PAGE, block, 8 * PAGE, PAGE - 1, RW),
			 -EINVAL);
	assert_int_equal(gr_space_map(space, BASE - PAGE, block, 8 * PAGE, PAGE + 1, RW), -EINVAL);
	assert_int_equal(gr_space_map(space, BASE + 4 * PAGE, block, 1, PAGE, RW), -EINVAL);
	assert_int_equal(gr_space_unmap(space, BASE + 1, PAGE), -EINVAL);
	assert_int_equal(gr_space_unmap(space, BASE, PAGE + 1), -EINVAL);
	assert_int_equal(gr_space_unmap(space, BASE + 4 * PAGE, PAGE), -ENOENT);
	case_table_take(space, &after);
	assert_same_table(&before, &after);
	case_close(ram);
}

/* ------------------------------------------------------------------------------------ P17 */

static void p17_pinned_range_outlives_the_delete_of_its_block(void **unused)
{
	static const unsigned counts[] = {1, 2, 5};
	size_t i, k;

	for (i = 0; i < COUNT_OF(counts); i++) {
		struct gr_ram *ram = case_ram();
		struct gr_space *space = case_space(ram, "guest");
		char *memory = case_pages(4 * PAGE), *other_memory = case_pages(PAGE);
		int released = 0, other_released = 0;
		struct gr_block *block =
			case_caller(ram, "x", memory, 4 * PAGE, GR_DELETE_UNMAP, &released);
		struct gr_block *other =
			case_caller(ram, "y", other_memory, PAGE, GR_DELETE_UNMAP, &other_released);
		struct gr_pin pins[5];
		struct gr_ram_stats stats;
		char *host;

		case_map(space, BASE, block, 0, 4 * PAGE, RW);
		memset(memory, 0x21, 4 * PAGE);
		for (k = 0; k < counts[i]; k++) /* by both ways */
			if (k % 2)
				assert_ok(gr_block_pin(block, k, 16, RW, &pins[k]));
			else
				assert_ok(gr_pin(space, BASE + k, 16, RW, &pins[k]));
		assert_ok(gr_block_delete(block));
		assert_ok(gr_block_delete(other));
		assert_int_equal(gr_ram_drain(ram, 30), -ETIMEDOUT);
		/* it delays no other */
		assert_int_equal(case_released(&other_released), 1);
		for (k = 0; k < counts[i]; k++) {
			gr_ram_get_stats(ram, &stats);
			assert_int_equal(stats.pins, counts[i] - k);
			assert_int_equal(stats.blocks_pending, 1);
			assert_int_equal(stats.bytes_pending, 4 * PAGE);
			assert_int_equal(case_released(&released), 0);
			host = pins[k].host;
			assert_int_equal(host[15], 0x21);
			host[15] = 0x21;
			assert_int_equal(gr_ram_close(ram), -EBUSY);
			gr_unpin(&pins[k]);
		}
		case_drain(ram);
		assert_int_equal(case_released(&released), 1);
		gr_ram_get_stats(ram, &stats);
		assert_int_equal(stats.pins, 0);
		assert_int_equal(stats.blocks_pending, 0);
		assert_int_equal(stats.blocks_reclaimed, 2);
		case_close(ram);
		assert_int_equal(case_released(&released), 1);
		munmap(memory, 4 * PAGE);
		munmap(other_memory, PAGE);
	}
}

/* The last pin leaves at the very moment that the worker marks the block: one of them releases it.
 */
static void p17_last_unpin_meets_the_end_of_the_grace_period(void **unused)
{
	static const char *const points[] = {"reclaim.before_grace", "reclaim.after_grace"};
	size_t i;
	int before;

	for (i = 0; i < COUNT_OF(points); i++)
		for (before = 0; before < 2; before++) {
			struct gr_ram *ram = case_ram();
			struct gr_space *space = case_space(ram, "guest");
			char *memory = case_pages(PAGE);
			int released = 0;
			struct gr_block *block =
				case_caller(ram, "x", memory, PAGE, GR_DELETE_UNMAP, &released);
			struct gr_pin pin;
			struct gate gate;

			case_map(space, BASE, block, 0, PAGE, RW);
			assert_ok(gr_pin(space, BASE, 1, RW, &pin));
			gate_arm(&gate, points[i], NULL, 0);
			assert_ok(gr_block_delete(block));
			gate_wait(&gate);
			if (before)
				gr_unpin(&pin);
			usleep(2000);
			assert_int_equal(case_released(&released), 0);
			gate_open(&gate);
			if (!before) {
				usleep(2000);
				gr_unpin(&pin);
			}
			case_drain(ram);
			gate_disarm(&gate);
			assert_int_equal(case_released(&released), 1);
			case_close(ram);
			assert_int_equal(case_released(&released), 1);
			munmap(memory, PAGE);
		}
}

/* Many blocks, each unpinned by another thread while the worker is about to reclaim it. */
struct unpinner {
	struct gr_pin *pins;
	unsigned count;
	pthread_barrier_t *start;
};

static void *unpin_all(void *context)
{
	struct unpinner *unpinner = context;
	unsigned i;

	pthread_barrier_wait(unpinner->start);
	for (i = 0; i < unpinner->count; i++)
		gr_unpin(&unpinner->pins[i]);
	return NULL;
}

static void p17_each_block_is_released_exactly_once(void **unused)
{
	enum { BLOCKS = 64, ROUNDS = 20 };
	static struct gr_pin pins[BLOCKS];
	struct gr_ram *ram = case_ram();
	char *memory = case_pages(BLOCKS * PAGE), name[16];
	int released[BLOCKS];
	unsigned round, i;

	for (round = 0; round < ROUNDS; round++) {
		struct gr_block *blocks[BLOCKS];
		pthread_barrier_t start;
		struct unpinner unpinner = {pins, BLOCKS, &start};
		pthread_t thread;

		memset(released, 0, sizeof(released));
		pthread_barrier_init(&start, NULL, 2);
		for (i = 0; i < BLOCKS; i++) {
			snprintf(name, sizeof(name), "b%u", i);
			blocks[i] =
				case_caller(ram, name, memory + i * PAGE, PAGE, 0, &released[i]);
			assert_ok(gr_block_pin(blocks[i], 0, PAGE, RW, &pins[i]));
		}
		assert_int_equal(pthread_create(&thread, NULL, unpin_all, &unpinner), 0);
		pthread_barrier_wait(&start);
		for (i = 0; i < BLOCKS; i++)
			assert_ok(gr_block_delete(blocks[i]));
		pthread_join(thread, NULL);
		case_drain(ram);
		for (i = 0; i < BLOCKS; i++)
			assert_int_equal(case_released(&released[i]), 1);
		pthread_barrier_destroy(&start);
	}
	case_close(ram);
	munmap(memory, BLOCKS * PAGE);
}

/* ------------------------------------------------------------------------------------ P22 */

static void p22_eight_regions_in_one_table_and_509_one_by_one(void **unused)
{
	enum { SLOTS = 509 };
	static struct case_table before, after;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = case_anon(ram, "x", 64 * MIB);
	struct gr_ram_stats stats;
	uint64_t generation;
	struct gr_txn *txn;
	unsigned i;

	gr_ram_get_stats(ram, &stats);
	generation = stats.generation;
	assert_ok(gr_txn_begin(space, &txn));
	for (i = 0; i < 8; i++)
		assert_ok(gr_txn_map(txn, i * BASE, block, i * 2 * MIB, 2 * MIB, RW));
	assert_null(case_lookup(space, BASE, 1, 0)); /* not before the commit */
	assert_ok(gr_txn_commit(txn));
	gr_ram_get_stats(ram, &stats);
	assert_int_equal(stats.ranges, 8);
	assert_int_equal(stats.generation, generation + 1); /* seen at once */
	for (i = 8; i < SLOTS; i++)
		case_map(space, i * BASE, block, (i % 32) * 2 * MIB, 2 * MIB, RW);
	case_table_take(space, &before);
	assert_int_equal(before.count, SLOTS);
	assert_lookups(space, &before);
	/* one that cannot be had leaves all of them, alone or behind good ones */
	assert_int_equal(gr_space_map(space, 17 * BASE, block, 0, 4 * MIB, RW), -EEXIST);
	assert_ok(gr_txn_begin(space, &txn));
	for (i = 0; i < SLOTS; i++)
		assert_ok(gr_txn_unmap(txn, i * BASE, 2 * MIB));
	for (i = 0; i < 8; i++)
		assert_ok(gr_txn_map(txn, i * BASE, block, 0, 2 * MIB, RW));
	assert_ok(gr_txn_map(txn, 7 * BASE, block, 0, PAGE, RW));
	assert_int_equal(gr_txn_commit(txn), -EEXIST);
	case_table_take(space, &after);
	assert_same_table(&before, &after);
	assert_lookups(space, &after);
	/* and the whole replaced by a table of 8 */
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, 0, TOP(PAGE)));
	for (i = 0; i < 8; i++)
		assert_ok(gr_txn_map(txn, i * PAGE, block, (8 - i) * PAGE, PAGE, GR_READ));
	assert_ok(gr_txn_commit(txn));
	case_table_take(space, &after);
	assert_int_equal(after.count, 8);
	assert_lookups(space, &after);
	case_close(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p11_ranges_in_any_order_give_the_same_view),
		cmocka_unit_test(p11_one_range_more_or_less_at_every_place),
		cmocka_unit_test(p12_every_permutation_of_4_regions),
		cmocka_unit_test(p14_overlaps_are_refused_and_neighbours_accepted),
		cmocka_unit_test(p14_overlap_by_a_byte_is_malformed_or_refused),
		cmocka_unit_test(p17_pinned_range_outlives_the_delete_of_its_block),
		cmocka_unit_test(p17_last_unpin_meets_the_end_of_the_grace_period),
		cmocka_unit_test(p17_each_block_is_released_exactly_once),
		cmocka_unit_test(p22_eight_regions_in_one_table_and_509_one_by_one),
	};

	case_watchdog(60);
	return cmocka_run_group_tests_name("changing the table", tests, NULL, NULL);
}
