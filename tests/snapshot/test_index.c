/* SPDX-License-Identifier: MIT */
/*
 * The index of a block while it is written: against a plain array, with numbers of every kind, in
 * any order, and without memory.
 */
#include "../fault/nth.h"
#include "snapshot/index.h"
#include "testing.h"

#define MANY 3000u

static int by_number(const void *a, const void *b)
{
	uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;

	return (first > second) - (first < second);
}

static void put(struct gr__index *index, uint64_t number)
{
	struct wire_entry *entry = gr__index_make(index, number);

	assert_non_null(entry);
	assert_ptr_equal(gr__index_find(index, number), entry);
	assert_true(!entry->here || entry->number == number);
	entry->number = number;
	entry->here = 1;
}

/* Exactly the @count numbers, which are put in order, by rising number; how many leaves it has. */
static unsigned assert_has(const struct gr__index *index, uint64_t *numbers, unsigned count)
{
	const struct wire_entry *entries;
	struct gr__index_walk walk;
	unsigned at = 0, leaves = 0, i;

	qsort(numbers, count, sizeof(*numbers), by_number);
	gr__index_walk(index, &walk);
	for (; (entries = gr__index_next(&walk)); leaves++) {
		for (i = 0; i < GR__LEAF; i++) {
			if (!entries[i].here)
				continue;
			while (at && at < count && numbers[at] == numbers[at - 1])
				at++;
			assert_in_range(at, 0, count - 1);
			assert_int_equal(entries[i].number, numbers[at++]);
		}
	}
	while (at && at < count && numbers[at] == numbers[at - 1])
		at++;
	assert_int_equal(at, count);
	return leaves;
}

static uint64_t in_order(struct rng *rng, unsigned i)
{
	return i;
}

static uint64_t backwards(struct rng *rng, unsigned i)
{
	return MANY - i;
}

static uint64_t near(struct rng *rng, unsigned i)
{
	return rng_below(rng, 2 * MANY);
}

static uint64_t anywhere(struct rng *rng, unsigned i)
{
	return rng_next(rng) >> rng_below(rng, 64);
}

/* As deep as it gets: each differs from all before in a bit of its own. */
static uint64_t one_bit(struct rng *rng, unsigned i)
{
	return i % 65 == 64 ? UINT64_MAX : UINT64_C(1) << i % 65;
}

static void all_are_found_in_order(void **unused)
{
	uint64_t (*const kinds[])(struct rng *, unsigned) = {in_order, backwards, near, anywhere,
							     one_bit};
	uint64_t numbers[MANY];
	struct rng rng = {7};

	for (unsigned kind = 0; kind < COUNT_OF(kinds); kind++) {
		struct gr__index index = {NULL};
		unsigned leaves;

		assert_null(gr__index_find(&index, 0));
		assert_has(&index, numbers, 0);
		for (unsigned i = 0; i < MANY; i++) {
			numbers[i] = kinds[kind](&rng, i);
			put(&index, numbers[i]);
		}
		for (unsigned i = 0; i < MANY; i++)
			assert_int_equal(gr__index_find(&index, numbers[i])->number, numbers[i]);
		leaves = assert_has(&index, numbers, MANY);
		if (kinds[kind] == in_order) /* neighbours share a leaf */
			assert_int_equal(leaves, MANY / GR__LEAF);
		gr__index_free(&index);
		assert_null(index.root);
	}
}

/* What has no memory changes nothing. */
static void without_memory(void **unused)
{
	uint64_t numbers[] = {5, 1000, UINT64_MAX};
	struct gr__index index = {NULL};

	for (unsigned i = 0; i < COUNT_OF(numbers); i++) {
		for (unsigned nth = 1; nth <= (i ? 2 : 1); nth++) { /* a leaf, and a fork */
			arm((int)nth);
			assert_null(gr__index_make(&index, numbers[i]));
			assert_string_equal(disarm(), "alloc");
			assert_null(gr__index_find(&index, numbers[i]));
			assert_has(&index, numbers, i);
		}
		put(&index, numbers[i]);
	}
	gr__index_free(&index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_are_found_in_order),
		cmocka_unit_test(without_memory),
	};

	alarm(60);
	return cmocka_run_group_tests_name("snapshot: the index", tests, NULL, NULL);
}
