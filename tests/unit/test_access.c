/* SPDX-License-Identifier: MIT */
/*
 * Loads, stores, fills, values and compare-and-exchange, on every class of address:
 *
 *      0       2 pages, of block a            A
 *      2 p     1 page, of block b             B   its host memory is elsewhere
 *      3 p     1 page, read only, of block a  C
 *      4 p     hole
 *      2 MiB   a whole granule, of block a    D
 *      4 MiB   a whole granule, of block b    E
 *      6 MiB   2 pages, write only            F
 *      2^64-p  1 page, of block b             G
 */
#include "testing.h"
#include <dlfcn.h>

#define LAST_PAGE (0 - PAGE)

static struct gr_ram *ram;
static struct gr_space *space;
static unsigned char *a, *b;

static int open_ram(void **unused)
{
	struct gr_block *block_a, *block_b;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block_a = new_anon(ram, "a", 8 * MIB, 0);
	block_b = new_anon(ram, "b", 8 * MIB, 0);
	a = info_of(block_a).host;
	b = info_of(block_b).host;
	assert_ok(gr_space_map(space, 0, block_a, 0, 2 * PAGE, RW));
	assert_ok(gr_space_map(space, 2 * PAGE, block_b, 0, PAGE, RW));
	assert_ok(gr_space_map(space, 3 * PAGE, block_a, 2 * PAGE, PAGE, GR_READ));
	assert_ok(gr_space_map(space, 2 * MIB, block_a, 2 * MIB, 2 * MIB, RW));
	assert_ok(gr_space_map(space, 4 * MIB, block_b, 2 * MIB, 2 * MIB, RW));
	assert_ok(gr_space_map(space, 6 * MIB, block_b, 5 * MIB, 2 * PAGE, GR_WRITE));
	assert_ok(gr_space_map(space, LAST_PAGE, block_b, PAGE, PAGE, RW));
	return 0;
}

static int close_ram(void **unused)
{
	assert_ok(gr_ram_close(ram));
	return 0;
}

static const struct {
	const char *name;
	uint64_t addr, length;
	int load, store;
} rows[] = {
	{"within a page", 0x123, 100, 0, 0},
	{"one byte, the first", 0, 1, 0, 0},
	{"up to the last byte of A", PAGE, PAGE, 0, 0},
	{"over a seam", 2 * PAGE - 3, 7, 0, 0},
	{"over three ranges", PAGE, 3 * PAGE, 0, -EACCES},
	{"read only", 3 * PAGE, 8, 0, -EACCES},
	{"read only, its last bytes", 4 * PAGE - 8, 8, 0, -EACCES},
	{"into a hole by a byte", 4 * PAGE - 8, 9, -EFAULT, -EACCES},
	{"A to the hole", 0, 4 * PAGE + 1, -EFAULT, -EACCES},
	{"in a hole", 4 * PAGE, 1, -EFAULT, -EFAULT},
	{"before a granule", 2 * MIB - 1, 2, -EFAULT, -EFAULT},
	{"a whole granule", 2 * MIB, 2 * MIB, 0, 0},
	{"the last byte of a granule", 4 * MIB - 1, 1, 0, 0},
	{"over two granules", 2 * MIB + 5, 3 * MIB, 0, 0},
	{"over three granules", 4 * MIB + 5, 2 * MIB, -EACCES, 0},
	{"write only", 6 * MIB, 16, -EACCES, 0},
	{"out of write only", 6 * MIB + 2 * PAGE - 1, 2, -EACCES, -EFAULT},
	{"up to 2^64", LAST_PAGE, PAGE, 0, 0},
	{"the very last byte", UINT64_MAX, 1, 0, 0},
	{"wraps by a byte", UINT64_MAX, 2, -ERANGE, -ERANGE},
	{"wraps to the start", LAST_PAGE, 2 * PAGE, -ERANGE, -ERANGE},
	{"wraps as far as it can", 1, UINT64_MAX, -EFAULT, -EACCES},
	{"wraps by as much", 2, UINT64_MAX, -ERANGE, -ERANGE},
	{"before the last page", LAST_PAGE - 1, 2, -EFAULT, -EFAULT},
	{"the middle of nowhere", UINT64_C(1) << 47, 8, -EFAULT, -EFAULT},
	{"not canonical", UINT64_C(0x8000000000000000), 8, -EFAULT, -EFAULT},
	{"nothing in A", 5, 0, 0, 0},
	{"nothing at its end", 4 * PAGE, 0, 0, 0},
	{"nothing in a hole", MIB, 0, 0, 0},
	{"nothing, read only", 3 * PAGE, 0, 0, 0},
	{"nothing at the end", UINT64_MAX, 0, 0, 0},
};

/* What the guest sees, in order of address, past all rights; by the blocks' own pointers. */
static unsigned char *place_of(uint64_t addr)
{
	if (addr < 2 * PAGE)
		return a + addr;
	if (addr < 3 * PAGE)
		return b + (addr - 2 * PAGE);
	if (addr < 4 * PAGE)
		return a + (addr - PAGE);
	if (addr >= 2 * MIB && addr < 4 * MIB)
		return a + addr;
	if (addr >= 4 * MIB && addr < 6 * MIB)
		return b + (addr - 2 * MIB);
	if (addr >= 6 * MIB && addr < 6 * MIB + 2 * PAGE)
		return b + (addr - MIB);
	if (addr >= LAST_PAGE)
		return b + PAGE + (addr - LAST_PAGE);
	return NULL;
}

static unsigned char pattern(uint64_t addr)
{
	return (unsigned char)(addr * 7 ^ addr >> 8 ^ addr >> 21);
}

static void paint(unsigned char byte, bool flat)
{
	memset(a, byte, 8 * MIB);
	memset(b, byte, 8 * MIB);
	for (uint64_t addr = 0; !flat && addr < 7 * MIB; addr++)
		if (place_of(addr))
			*place_of(addr) = pattern(addr);
	for (uint64_t addr = LAST_PAGE; !flat && addr; addr++)
		*place_of(addr) = pattern(addr);
}

static void test_load_moves_all_or_nothing(void **unused)
{
	unsigned char *buf = malloc(8 * MIB);
	uint64_t k;
	size_t i;

	assert_non_null(buf);
	paint(0, false);
	for (i = 0; i < COUNT_OF(rows); i++) {
		uint64_t length = rows[i].length < 4 * MIB ? rows[i].length : 0;
		int rc;

		memset(buf, 0xee, length + 1);
		rc = gr_load(space, rows[i].addr, buf, rows[i].length);
		if (rc != rows[i].load)
			fail_msg("%s: %d, not %d", rows[i].name, rc, rows[i].load);
		for (k = 0; k < length; k++)
			if (buf[k] != (rc ? 0xee : pattern(rows[i].addr + k)))
				fail_msg("%s: byte %llu", rows[i].name, (unsigned long long)k);
		assert_int_equal(buf[length], 0xee);
	}
	free(buf);
}

/* Has the guest @want in [addr, addr + length) and @elsewhere in all other places? */
static void assert_only(const char *name, uint64_t addr, uint64_t length, const unsigned char *want,
			unsigned char elsewhere)
{
	unsigned char *place;
	uint64_t k;

	for (k = 0; k < length; k++) {
		place = place_of(addr + k);
		if (*place != want[k])
			fail_msg("%s: byte %llu", name, (unsigned long long)k);
		*place = elsewhere;
	}
	for (k = 0; k < 8 * MIB; k += sizeof(uint64_t)) {
		static const uint64_t ones = UINT64_C(0x0101010101010101);

		if (*(uint64_t *)(void *)(a + k) != ones * elsewhere ||
		    *(uint64_t *)(void *)(b + k) != ones * elsewhere)
			fail_msg("%s: also stored elsewhere, at %#llx", name,
				 (unsigned long long)k);
	}
}

static void test_store_and_fill_move_all_or_nothing(void **unused)
{
	unsigned char *buf = malloc(4 * MIB);
	uint64_t k;
	size_t i;

	assert_non_null(buf);
	for (k = 0; k < 4 * MIB; k++)
		buf[k] = (unsigned char)(k * 13 + (k >> 9));
	paint(0x11, true);
	for (i = 0; i < COUNT_OF(rows); i++) {
		uint64_t length = rows[i].store ? 0 : rows[i].length;
		int rc = gr_store(space, rows[i].addr, buf, rows[i].length);

		if (rc != rows[i].store)
			fail_msg("store, %s: %d, not %d", rows[i].name, rc, rows[i].store);
		assert_only(rows[i].name, rows[i].addr, length, buf, 0x11);
	}
	memset(buf, 0xc3, 4 * MIB);
	for (i = 0; i < COUNT_OF(rows); i++) {
		uint64_t length = rows[i].store ? 0 : rows[i].length;
		int rc = gr_fill(space, rows[i].addr, 0x7c3, rows[i].length); /* one byte of it */

		if (rc != rows[i].store)
			fail_msg("fill, %s: %d, not %d", rows[i].name, rc, rows[i].store);
		assert_only(rows[i].name, rows[i].addr, length, buf, 0x11);
	}
	free(buf);
}

/* ------------------------------------------------------------------------------------ values */

/* Where a value of 8 bytes lies: aligned, not, over a seam, over granules, at the end. */
static const uint64_t value_places[] = {
	16,	     17,	  PAGE - 4,    2 * PAGE - 3, 2 * PAGE - 8,   2 * MIB,
	4 * MIB - 1, 4 * MIB - 4, 4 * MIB - 8, 5 * MIB + 2,  UINT64_MAX - 7, UINT64_MAX - 15,
};

#define check_values(bits)                                                                         \
	static void check_values_##bits(uint64_t addr)                                             \
	{                                                                                          \
		const uint64_t all = UINT64_C(0x8122334455667788);                                 \
		uint##bits##_t value = (uint##bits##_t)all, got = 0;                               \
		unsigned char bytes[bits / 8];                                                     \
		unsigned i;                                                                        \
                                                                                                   \
		assert_ok(gr_store_u##bits##_le(space, addr, value));                              \
		assert_ok(gr_load(space, addr, bytes, sizeof(bytes)));                             \
		for (i = 0; i < sizeof(bytes); i++)                                                \
			assert_int_equal(bytes[i], (unsigned char)(value >> 8 * i));               \
		assert_ok(gr_load_u##bits##_le(space, addr, &got));                                \
		assert_int_equal(got, value);                                                      \
		assert_ok(gr_load_u##bits##_be(space, addr, &got));                                \
		assert_int_equal(got, __builtin_bswap##bits(value));                               \
		assert_ok(gr_store_u##bits##_be(space, addr, value));                              \
		assert_ok(gr_load(space, addr, bytes, sizeof(bytes)));                             \
		for (i = 0; i < sizeof(bytes); i++)                                                \
			assert_int_equal(bytes[sizeof(bytes) - 1 - i],                             \
					 (unsigned char)(value >> 8 * i));                         \
		assert_ok(gr_load_u##bits##_be(space, addr, &got));                                \
		assert_int_equal(got, value);                                                      \
		assert_ok(gr_store_u##bits(space, addr, value));                                   \
		assert_ok(gr_load(space, addr, &got, sizeof(got)));                                \
		assert_int_equal(got, value); /* the host's order */                               \
		got = 0;                                                                           \
		assert_ok(gr_load_u##bits(space, addr, &got));                                     \
		assert_int_equal(got, value);                                                      \
	}

check_values(16) check_values(32) check_values(64)

	static void test_values_in_every_order_at_every_kind_of_place(void **unused)
{
	uint8_t byte = 0;
	size_t i;

	for (i = 0; i < COUNT_OF(value_places); i++) {
		uint64_t addr = value_places[i];
		unsigned char none[2] = {0x42, 0x24}, *before = place_of(addr - 1);
		unsigned char *behind = addr + 8 ? place_of(addr + 8) : NULL;

		before = before ? before : &none[0];
		behind = behind ? behind : &none[1];
		*before = 0x42;
		*behind = 0x24;
		check_values_64(addr);
		assert_true(*before == 0x42 && *behind == 0x24);
		check_values_32(addr);
		check_values_16(addr);
		assert_ok(gr_store_u8(space, addr, 0xfe));
		assert_ok(gr_load_u8(space, addr, &byte));
		assert_int_equal(byte, 0xfe);
	}
}

static void test_values_are_refused_whole(void **unused)
{
	uint64_t value = 77;
	uint32_t half = 78;
	uint8_t byte = 79;

	paint(0x11, true);
	assert_int_equal(gr_load_u64(space, 4 * PAGE - 4, &value), -EFAULT);
	assert_int_equal(gr_load_u64_be(space, 4 * PAGE, &value), -EFAULT);
	assert_int_equal(gr_load_u64(space, UINT64_MAX - 6, &value), -ERANGE);
	assert_int_equal(gr_load_u64(space, UINT64_MAX, &value), -ERANGE);
	assert_int_equal(gr_load_u32(space, 6 * MIB, &half), -EACCES);
	assert_int_equal(gr_load_u32_le(space, 6 * MIB - 2, &half), -EACCES);
	assert_int_equal(gr_load_u8(space, MIB, &byte), -EFAULT);
	assert_true(value == 77 && half == 78 && byte == 79);
	assert_int_equal(gr_store_u64(space, 3 * PAGE - 4, 1), -EACCES);
	assert_int_equal(gr_store_u64(space, 3 * PAGE, 1), -EACCES);
	assert_int_equal(gr_store_u32_be(space, 6 * MIB + 2 * PAGE - 2, 1), -EFAULT);
	assert_int_equal(gr_store_u64(space, UINT64_MAX - 6, 1), -ERANGE);
	assert_int_equal(gr_store_u8(space, 4 * PAGE, 1), -EFAULT);
	assert_only("values", 0, 0, NULL, 0x11);
}

/* ---------------------------------------------------------------------------------- cmpxchg */

static void test_cmpxchg_exchanges_or_tells_what_is_there(void **unused)
{
	static const uint64_t places[] = {0, 2 * PAGE - 8, 2 * PAGE, 2 * MIB, 6 * MIB - 8, 0 - 8};
	size_t i;

	for (i = 0; i < COUNT_OF(places); i++) {
		uint64_t expected = 5, value = 0;
		uint32_t half = 0;

		assert_ok(gr_store_u64(space, places[i], 5));
		assert_int_equal(gr_cmpxchg_u64(space, places[i], &expected, UINT64_MAX - 1), 1);
		assert_int_equal(expected, 5);
		assert_int_equal(gr_cmpxchg_u64(space, places[i], &expected, 9), 0);
		assert_int_equal(expected, UINT64_MAX - 1);
		assert_ok(gr_load_u64(space, places[i], &value));
		assert_int_equal(value, UINT64_MAX - 1);
		half = UINT32_MAX; /* the upper half */
		assert_int_equal(gr_cmpxchg_u32(space, places[i] + 4, &half, 1), 1);
		half = 7;
		assert_int_equal(gr_cmpxchg_u32(space, places[i], &half, 1), 0);
		assert_int_equal(half, UINT32_MAX - 1);
		assert_ok(gr_load_u64(space, places[i], &value));
		assert_int_equal(value, UINT64_C(0x1fffffffe));
	}
}

static void test_cmpxchg_refused(void **unused)
{
	uint64_t value = 0x1111111111111111, same = value;
	uint32_t half = 0x11111111;

	paint(0x11, true);
	assert_error(gr_cmpxchg_u64(space, 4, &value, 1), -EINVAL, "multiple");
	assert_error(gr_cmpxchg_u32(space, 2, &half, 1), -EINVAL, "multiple");
	assert_error(gr_cmpxchg_u32(space, UINT64_MAX, &half, 1), -EINVAL, "multiple");
	assert_int_equal(gr_cmpxchg_u64(space, 4 * PAGE, &value, 1), -EFAULT);
	assert_int_equal(gr_cmpxchg_u64(space, 3 * PAGE, &value, 1), -EACCES);
	assert_int_equal(gr_cmpxchg_u32(space, 6 * MIB, &half, 1), -EACCES); /* it reads, too */
	assert_true(value == same && half == 0x11111111);
	assert_only("cmpxchg", 0, 0, NULL, 0x11);
}

#define ROUNDS 20000

static void *count_up(void *unused)
{
	int i;

	for (i = 0; i < ROUNDS; i++) {
		uint64_t seen = 0;
		int rc;

		gr_load_u64(space, 4 * MIB - 8, &seen);
		do
			rc = gr_cmpxchg_u64(space, 4 * MIB - 8, &seen, seen + 1);
		while (!rc);
		if (rc < 0)
			return (void *)(intptr_t)rc;
	}
	return NULL;
}

static void test_cmpxchg_loses_no_count_between_threads(void **unused)
{
	pthread_t one, two;
	uint64_t value = 0;

	assert_ok(gr_store_u64(space, 4 * MIB - 8, 0));
	one = thread_start(count_up, NULL);
	two = thread_start(count_up, NULL);
	thread_join(one);
	thread_join(two);
	assert_ok(gr_load_u64(space, 4 * MIB - 8, &value));
	assert_int_equal(value, 2 * ROUNDS);
}

/* -------------------------------------------------------------------------------- torn values */

static int stop_tearing;

static void *store_two_values(void *unused)
{
	while (!get(&stop_tearing)) {
		gr_store_u64(space, 5 * MIB, 0);
		gr_store_u64(space, 5 * MIB, UINT64_MAX);
	}
	return NULL;
}

static void test_aligned_values_are_never_torn(void **unused)
{
	uint64_t value = 0, torn = 0;
	pthread_t writer;
	int i;

	assert_ok(gr_store_u64(space, 5 * MIB, 0));
	writer = thread_start(store_two_values, NULL);
	for (i = 0; i < 300000; i++) {
		gr_load_u64(space, 5 * MIB, &value);
		torn += value && value != UINT64_MAX;
	}
	set(&stop_tearing, 1);
	thread_join(writer);
	assert_int_equal(torn, 0);
}

/* The symbols behind the inline functions do the same, for callers that cannot inline. */
static void test_twins_do_as_the_inline_functions(void **unused)
{
	int (*load)(struct gr_space *, uint64_t, void *, uint64_t);
	int (*store)(struct gr_space *, uint64_t, const void *, uint64_t);
	int (*fill)(struct gr_space *, uint64_t, int, uint64_t);
	unsigned char buf[2 * PAGE], want[2 * PAGE];

	*(void **)&load = dlsym(RTLD_DEFAULT, "gr_load");
	*(void **)&store = dlsym(RTLD_DEFAULT, "gr_store");
	*(void **)&fill = dlsym(RTLD_DEFAULT, "gr_fill");
	assert_non_null(load);
	assert_non_null(store);
	assert_non_null(fill);
	memset(want, 0x5a, sizeof(want));
	assert_int_equal(store(space, PAGE, want, 2 * PAGE), 0); /* over the seam of A and B */
	assert_int_equal(load(space, PAGE, buf, 2 * PAGE), 0);
	assert_memory_equal(buf, want, sizeof(buf));
	assert_int_equal(fill(space, 2 * PAGE - 1, 7, 2), 0);
	assert_int_equal(a[2 * PAGE - 1], 7);
	assert_int_equal(b[0], 7);
	assert_int_equal(load(space, 4 * PAGE, buf, 1), -EFAULT);
	assert_int_equal(store(space, 3 * PAGE, buf, 1), -EACCES);
	assert_int_equal(fill(space, UINT64_MAX, 0, 2), -ERANGE);
	assert_int_equal(load(space, 4 * PAGE, buf, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_load_moves_all_or_nothing),
		cmocka_unit_test(test_store_and_fill_move_all_or_nothing),
		cmocka_unit_test(test_values_in_every_order_at_every_kind_of_place),
		cmocka_unit_test(test_values_are_refused_whole),
		cmocka_unit_test(test_cmpxchg_exchanges_or_tells_what_is_there),
		cmocka_unit_test(test_cmpxchg_refused),
		cmocka_unit_test(test_cmpxchg_loses_no_count_between_threads),
		cmocka_unit_test(test_aligned_values_are_never_torn),
		cmocka_unit_test(test_twins_do_as_the_inline_functions),
	};

	return cmocka_run_group_tests(tests, open_ram, close_ram);
}
