/* SPDX-License-Identifier: MIT */
/* Q6, P1, P2, P4, P6: any address and any length, at every edge, by every call. */
#include "case.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BASE GIB

/* --------------------------------------------------------------------------- all calls at once */

/* What each call says of [addr, addr + length); *moved tells whether any byte was changed. */
struct answers {
	void *host, *cursor;
	int spans, pin, pin_spans, load, store, fill;
};

static void ask(struct gr_space *space, struct gr_cursor *cursor, uint64_t addr, uint64_t length,
		struct answers *answers)
{
	static char buf[1 << 16];
	struct iovec iov[4];
	struct gr_pin pins[4], pin;
	uint64_t small = length <= sizeof(buf) ? length : 0;
	int i;

	gr_read_begin();
	answers->host = gr_host(space, addr, length, RW);
	answers->cursor = gr_cursor_host(cursor, addr, length, RW);
	answers->spans = gr_spans(space, addr, length, RW, iov, 4);
	gr_read_end();
	answers->pin = gr_pin(space, addr, length, RW, &pin);
	if (!answers->pin)
		gr_unpin(&pin);
	answers->pin_spans = gr_pin_spans(space, addr, length, RW, pins, 4);
	for (i = 0; i < answers->pin_spans && answers->pin_spans <= 4; i++)
		gr_unpin(&pins[i]);
	/* A length that no buffer of ours has must fail before a byte is moved. */
	answers->load = answers->store = answers->fill = 0;
	if (small == length || answers->spans < 0) {
		answers->load = gr_load(space, addr, buf, length);
		answers->store = gr_store(space, addr, buf, length);
		answers->fill = gr_fill(space, addr, 0, length);
	}
}

static void assert_refused(struct gr_space *space, struct gr_cursor *cursor, uint64_t addr,
			   uint64_t length, int rc)
{
	struct answers answers;

	ask(space, cursor, addr, length, &answers);
	assert_null(answers.host);
	assert_null(answers.cursor);
	assert_int_equal(answers.spans, rc);
	assert_int_equal(answers.pin, rc);
	assert_int_equal(answers.pin_spans, rc);
	assert_int_equal(answers.load, rc);
	assert_int_equal(answers.store, rc);
	assert_int_equal(answers.fill, rc);
}

static void assert_one_piece(struct gr_space *space, struct gr_cursor *cursor, uint64_t addr,
			     uint64_t length, void *host)
{
	struct answers answers;

	ask(space, cursor, addr, length, &answers);
	assert_ptr_equal(answers.host, host);
	assert_ptr_equal(answers.cursor, host);
	assert_int_equal(answers.spans, 1);
	assert_int_equal(answers.pin, 0);
	assert_int_equal(answers.pin_spans, 1);
	assert_int_equal(answers.load | answers.store | answers.fill, 0);
}

/* ------------------------------------------------------------------------------------- Q6 */

static const uint64_t strange[] = {
	0,
	1,
	PAGE - 1,
	2 * MIB - 1,
	2 * MIB,
	64 * GIB,
	(UINT64_C(1) << 47) - 1,
	UINT64_C(1) << 47, /* not canonical on x86 */
	UINT64_C(1) << 48,
	UINT64_C(1) << 56,
	UINT64_C(1) << 63,
	UINT64_C(0xffff800000000000),
	UINT64_MAX - 4096,
	UINT64_MAX - 4095,
	UINT64_MAX - 1,
	UINT64_MAX,
};

static void assert_unreadable(struct gr_space *space, uint64_t addr)
{
	struct gr_cursor cursor;
	uint32_t v32 = 7;
	uint64_t v64 = 7, got64 = 99;
	uint8_t got8 = 99;

	gr_cursor_init(&cursor, space);
	assert_refused(space, &cursor, addr, 1, -EFAULT);
	if (addr <= UINT64_MAX - 7)
		assert_refused(space, &cursor, addr, 8, -EFAULT);
	assert_null(case_lookup(space, addr, 1, 0));
	assert_int_equal(gr_load_u8(space, addr, &got8), -EFAULT);
	assert_int_equal(got8, 99);
	assert_int_equal(gr_load_u64(space, addr & ~UINT64_C(7), &got64), -EFAULT);
	assert_int_equal(got64, 99);
	assert_int_equal(gr_store_u16_be(space, addr & ~UINT64_C(1), 1), -EFAULT);
	assert_int_equal(gr_cmpxchg_u32(space, addr & ~UINT64_C(3), &v32, 1), -EFAULT);
	assert_int_equal(gr_cmpxchg_u64(space, addr & ~UINT64_C(7), &v64, 1), -EFAULT);
	assert_int_equal(v32, 7);
	assert_int_equal(v64, 7);
	assert_true(gr_last_error()[0]);
}

/* And no range of which readers see less. */
static void assert_no_memory(struct gr_space *space, uint64_t addr)
{
	struct gr_range range;

	assert_unreadable(space, addr);
	gr_read_begin();
	assert_int_equal(gr_space_find(space, addr, &range), -EFAULT);
	gr_read_end();
}

static bool is_mapped(const uint64_t addrs[3], uint64_t addr)
{
	size_t i;

	for (i = 0; i < 3; i++)
		if (addrs[i] != UINT64_MAX && addr - addrs[i] < PAGE)
			return true;
	return false;
}

/* In a space of each shape: empty, one page, flat, slots, beyond the last slot. */
static void q6_lookup_of_any_address_is_an_error_at_most(void **unused)
{
	static const struct {
		const char *name;
		uint64_t addrs[3]; /* where 3 pages stand; UINT64_MAX: none */
	} shapes[] = {
		{"empty", {UINT64_MAX, UINT64_MAX, UINT64_MAX}},
		{"one page", {BASE, UINT64_MAX, UINT64_MAX}},
		{"flat", {3 * MIB, BASE, 40 * GIB}},
		{"slots", {3 * MIB, BASE, 500 * GIB}},
		{"high only", {UINT64_C(1) << 60, (UINT64_C(1) << 60) + GIB, UINT64_MAX}},
		{"past the slots", {3 * MIB, BASE, TOP(2 * PAGE)}},
	};
	uint64_t random = 42;
	size_t i, k, n;
	int round;

	for (i = 0; i < COUNT_OF(shapes); i++) {
		struct gr_ram *ram = case_ram();
		struct gr_space *space = case_space(ram, shapes[i].name);
		struct gr_block *block = case_anon(ram, "pages", 3 * PAGE);

		for (k = 0; k < 3; k++)
			if (shapes[i].addrs[k] != UINT64_MAX)
				case_map(space, shapes[i].addrs[k], block, k * PAGE, PAGE, RW);
		for (n = 0; n < COUNT_OF(strange); n++)
			if (!is_mapped(shapes[i].addrs, strange[n]))
				assert_no_memory(space, strange[n]);
		for (round = 0; round < 2000; round++) {
			uint64_t addr = case_random(&random) >> case_random(&random) % 64;

			if (!is_mapped(shapes[i].addrs, addr) && addr % PAGE < PAGE - 8)
				assert_no_memory(space, addr);
		}
		/* around each page, which itself is there */
		for (k = 0; k < 3; k++) {
			uint64_t addr = shapes[i].addrs[k];
			struct gr_cursor cursor;

			if (addr == UINT64_MAX)
				continue;
			gr_cursor_init(&cursor, space);
			assert_one_piece(space, &cursor, addr, PAGE,
					 (char *)case_host(block) + k * PAGE);
			assert_no_memory(space, addr - PAGE);
			assert_no_memory(space, addr + PAGE);
		}
		case_close(ram);
	}
}

/* A range that ends exactly at 2^64, in every shape of index, and what lies below it. */
static void q6_last_byte_of_the_address_space(void **unused)
{
	static const uint64_t lengths[] = {PAGE, 2 * MIB, 5 * MIB, 3 * GIB};
	size_t i;
	int wide;

	for (i = 0; i < COUNT_OF(lengths); i++)
		for (wide = 0; wide < 2; wide++) {
			uint64_t length = lengths[i];
			struct gr_ram *ram = case_ram();
			struct gr_space *space = case_space(ram, "guest");
			struct gr_block *block = case_anon(ram, "top", length);
			char *host = case_host(block);
			struct gr_cursor cursor;

			if (wide) /* then the top is past the last slot */
				case_map(space, 0, block, 0, PAGE, RW);
			case_map(space, TOP(length), block, 0, length, RW);
			gr_cursor_init(&cursor, space);
			assert_one_piece(space, &cursor, UINT64_MAX, 1, host + length - 1);
			assert_one_piece(space, &cursor, UINT64_MAX - 7, 8, host + length - 8);
			assert_one_piece(space, &cursor, TOP(length), length, host);
			assert_refused(space, &cursor, UINT64_MAX, 2, -ERANGE);
			assert_refused(space, &cursor, UINT64_MAX - 7, 9, -ERANGE);
			assert_refused(space, &cursor, TOP(length), length + 1, -ERANGE);
			assert_no_memory(space, TOP(length) - 8);
			assert_ok(gr_space_unmap(space, TOP(PAGE), PAGE));
			assert_no_memory(space, UINT64_MAX);
			case_close(ram);
		}
}

/* ------------------------------------------------------------------------------------- P1 */

/* Ranges whose ends lie in every way on pages and granules. */
static const struct {
	uint64_t addr, length;
} edges[] = {
	{BASE, PAGE},
	{BASE, 2 * MIB},
	{BASE + PAGE, 2 * MIB},
	{BASE, 2 * MIB + PAGE},
	{BASE + 2 * MIB - PAGE, 2 * PAGE},
	{BASE + 7 * PAGE, 4 * MIB - 7 * PAGE},
	{0, 4 * MIB},
	{64 * GIB - 2 * MIB, 4 * MIB},
	{TOP(2 * MIB), 2 * MIB},
	{TOP(PAGE), PAGE},
};

static void p1_access_that_ends_on_the_last_byte_succeeds_and_one_further_fails(void **unused)
{
	static const uint64_t lengths[] = {1, 2, 3, 4, 8, 16, 4095, 4096};
	size_t i, k;
	int warm;

	for (i = 0; i < COUNT_OF(edges); i++)
		for (k = 0; k < COUNT_OF(lengths); k++)
			for (warm = 0; warm < 2; warm++) {
				uint64_t length = lengths[k], first = edges[i].addr;
				uint64_t last = first + (edges[i].length - 1);
				int past = last == UINT64_MAX ? -ERANGE : -EFAULT;
				struct gr_ram *ram = case_ram();
				struct gr_space *space = case_space(ram, "guest");
				struct gr_block *block = case_anon(ram, "x", edges[i].length);
				char *host = case_host(block);
				struct gr_cursor cursor;

				case_map(space, first, block, 0, edges[i].length, RW);
				gr_cursor_init(&cursor, space);
				if (warm) { /* the cursor knows the range before it is asked */
					case_cursor(&cursor, first, 1, RW);
					case_cursor(&cursor, last, 1, RW);
				}
				assert_one_piece(space, &cursor, last - (length - 1), length,
						 host + edges[i].length - length);
				assert_one_piece(space, &cursor, first, length, host);
				if (length > 1)
					assert_refused(space, &cursor, last - (length - 1) + 1,
						       length, past);
				assert_refused(space, &cursor, last - (length - 1), length + 1,
					       past);
				if (first)
					assert_refused(space, &cursor, first - 1, length, -EFAULT);
				case_close(ram);
			}
}

static void p1_values_on_the_last_bytes(void **unused)
{
	size_t i;

	for (i = 0; i < COUNT_OF(edges); i++) {
		uint64_t last = edges[i].addr + (edges[i].length - 1);
		int past = last == UINT64_MAX ? -ERANGE : -EFAULT;
		struct gr_ram *ram = case_ram();
		struct gr_space *space = case_space(ram, "guest");
		struct gr_block *block = case_anon(ram, "x", edges[i].length);
		uint16_t v16 = 0;
		uint32_t v32 = 0, e32 = 0;
		uint64_t v64 = 0, e64 = 0;
		uint8_t v8 = 0;

		case_map(space, edges[i].addr, block, 0, edges[i].length, RW);
		assert_ok(gr_store_u8(space, last, 0x11));
		assert_ok(gr_load_u8(space, last, &v8));
		assert_int_equal(v8, 0x11);
		assert_ok(gr_store_u16_le(space, last - 1, 0x2211));
		assert_ok(gr_load_u16_be(space, last - 1, &v16));
		assert_int_equal(v16, 0x1122);
		assert_ok(gr_store_u32_be(space, last - 3, 0x11223344));
		assert_ok(gr_load_u32_le(space, last - 3, &v32));
		assert_int_equal(v32, 0x44332211);
		assert_ok(gr_store_u64(space, last - 7, 0));
		assert_int_equal(gr_cmpxchg_u64(space, last - 7, &e64, 5), 1);
		assert_ok(gr_load_u64(space, last - 7, &v64));
		assert_int_equal(v64, 5);
		assert_int_equal(gr_cmpxchg_u32(space, last - 3, &e32, 6), 1);

		assert_int_equal(gr_load_u16(space, last, &v16), past);
		assert_int_equal(gr_store_u16(space, last, 1), past);
		assert_int_equal(gr_load_u32(space, last - 2, &v32), past);
		assert_int_equal(gr_store_u32(space, last - 2, 1), past);
		assert_int_equal(gr_load_u64(space, last - 6, &v64), past);
		assert_int_equal(gr_store_u64(space, last - 6, 1), past);
		assert_int_equal(gr_cmpxchg_u64(space, last - 6, &e64, 1), -EINVAL);
		assert_int_equal(v64, 5);
		/* and nothing was stored in part */
		assert_ok(gr_load_u8(space, last, &v8));
		assert_int_equal(v8, 0);
		case_close(ram);
	}
}

/* The inline lookups test lengths that the compiler knows in a way of their own. */
#define CHECK_CONSTANT(length)                                                                     \
	do {                                                                                       \
		uint64_t fits = last - (length - 1);                                               \
                                                                                                   \
		assert_ptr_equal(gr_host(space, fits, length, RW), host + whole - (length));       \
		assert_ptr_equal(gr_cursor_host(&cursor, fits, length, RW),                        \
				 host + whole - (length));                                         \
		assert_ptr_equal(gr_cursor_host(&cursor, first, length, RW), host);                \
		assert_null(gr_cursor_host(&cursor, fits + 1, length, RW));                        \
		assert_null(gr_cursor_host(&cursor, first - 1, length, RW));                       \
		assert_null(gr_cursor_host(&cursor, last + 1, length, RW));                        \
		assert_null(gr_host(space, fits + 1, length, RW));                                 \
		assert_null(gr_host(space, first - 1, length, RW));                                \
	} while (0)

static void p1_lengths_that_the_compiler_knows(void **unused)
{
	size_t i;
	int warm;

	for (i = 0; i < COUNT_OF(edges); i++)
		for (warm = 0; warm < 3; warm++) {
			uint64_t first = edges[i].addr, whole = edges[i].length;
			uint64_t last = first + (whole - 1);
			struct gr_ram *ram = case_ram();
			struct gr_space *space = case_space(ram, "guest");
			struct gr_block *block = case_anon(ram, "x", whole);
			char *host = case_host(block);
			struct gr_cursor cursor;

			case_map(space, first, block, 0, whole, RW);
			gr_cursor_init(&cursor, space);
			if (warm > 0)
				case_cursor(&cursor, first, 1, RW);
			if (warm > 1)
				case_cursor(&cursor, last, 1, RW);
			gr_read_begin();
			CHECK_CONSTANT(1);
			CHECK_CONSTANT(2);
			CHECK_CONSTANT(4);
			CHECK_CONSTANT(8);
			CHECK_CONSTANT(16);
			CHECK_CONSTANT(4096);
			assert_null(gr_host(space, first, 0, RW));
			assert_null(gr_cursor_host(&cursor, first, 0, RW));
			assert_null(gr_host(space, first, UINT64_MAX, RW));
			assert_null(gr_cursor_host(&cursor, first, UINT64_MAX, RW));
			gr_read_end();
			case_close(ram);
		}
}

/* ------------------------------------------------------------------------------------- P2 */

static void p2_address_plus_length_that_wraps_is_refused_everywhere(void **unused)
{
	static const struct {
		uint64_t addr, length;
	} wraps[] = {
		{UINT64_MAX, 2},
		{TOP(PAGE), PAGE + 1},
		{TOP(PAGE), 2 * PAGE},
		{TOP(PAGE) + 8, PAGE},
		{BASE, UINT64_MAX},
		{BASE, TOP(BASE) + 1},
		{BASE, UINT64_MAX - BASE + 1 + PAGE},
		{PAGE, UINT64_MAX},
		{UINT64_MAX, UINT64_MAX},
		{UINT64_C(1) << 63, (UINT64_C(1) << 63) + PAGE},
	};
	static struct case_table before, after;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = case_anon(ram, "x", 4 * MIB);
	struct gr_ram_stats stats, now;
	struct gr_cursor cursor;
	struct gr_txn *txn;
	struct gr_pin pin;
	size_t i;

	/* Memory on both sides of the wrap, so that a sum that wraps would look fine. */
	case_map(space, 0, block, 0, 2 * MIB, RW);
	case_map(space, BASE, block, 2 * MIB, MIB, RW);
	case_map(space, TOP(MIB), block, 3 * MIB, MIB, RW);
	memset(case_host(block), 0x5a, 4 * MIB);
	case_table_take(space, &before);
	gr_ram_get_stats(ram, &stats);
	gr_cursor_init(&cursor, space);
	for (i = 0; i < COUNT_OF(wraps); i++) {
		uint64_t addr = wraps[i].addr, length = wraps[i].length;
		uint64_t page = addr & ~(PAGE - 1), pages = (length + PAGE - 1) & ~(PAGE - 1);

		case_cursor(&cursor, addr, 1, RW);
		assert_refused(space, &cursor, addr, length, -ERANGE);
		if (pages < length) /* rounding wrapped */
			continue;
		if (pages && page + (pages - 1) < page) {
			assert_int_equal(gr_space_map(space, page, block, 0, pages, RW), -ERANGE);
			assert_int_equal(gr_space_unmap(space, page, pages), -ERANGE);
			assert_ok(gr_txn_begin(space, &txn));
			assert_int_equal(gr_txn_map(txn, page, block, 0, pages, RW), -ERANGE);
			assert_int_equal(gr_txn_unmap(txn, page, pages), -ERANGE);
			assert_ok(gr_txn_commit(txn));
		}
		/* offsets in a block wrap as well */
		assert_true(gr_space_map(space, 8 * GIB, block, page, pages, RW) < 0);
		assert_int_equal(gr_block_discard(block, page, pages), -ERANGE);
		assert_true(gr_block_pin(block, addr, length, RW, &pin) < 0);
	}
	assert_int_equal(gr_block_pin(block, UINT64_MAX, 2, RW, &pin), -ERANGE);
	assert_int_equal(gr_block_pin(block, 4 * MIB - 1, 2, RW, &pin), -EFAULT);
	case_table_take(space, &after);
	assert_same_table(&before, &after);
	gr_ram_get_stats(ram, &now);
	assert_memory_equal(&stats, &now, sizeof(stats));
	for (i = 0; i < 4 * MIB; i++)
		if (((unsigned char *)case_host(block))[i] != 0x5a)
			fail_msg("byte %zu was changed", i);
	case_close(ram);
}

/* ------------------------------------------------------------------------------------- P4 */

static void assert_no_bare_pointer(struct gr_space *space, uint64_t ring, uint64_t length,
				   int pin_rc)
{
	struct gr_cursor cursor;
	struct gr_pin pin;
	int warm;

	for (warm = 0; warm < 4; warm++) {
		gr_cursor_init(&cursor, space);
		if (warm & 1)
			case_cursor(&cursor, ring, 1, RW);
		if (warm & 2)
			case_cursor(&cursor, ring - 2 * MIB, 1, RW);
		if (warm & 1)
			case_cursor(&cursor, ring, 1, RW);
		assert_null(case_cursor(&cursor, ring, length, RW));
		assert_null(case_cursor(&cursor, ring, length, 0));
		assert_non_null(case_cursor(&cursor, ring, 1, RW));
	}
	assert_null(case_lookup(space, ring, length, RW));
	assert_null(case_lookup(space, ring, length, 0));
	assert_int_equal(gr_pin(space, ring, length, RW, &pin), pin_rc);
}

static void p4_ring_that_leaves_its_range_has_no_bare_pointer(void **unused)
{
	static const uint64_t over[] = {1, 8, PAGE, 2 * MIB, 4 * GIB};
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	char *memory = case_pages(12 * MIB);
	struct gr_block_opts opts = {.name = "short", .length = MIB, .max_length = 4 * MIB};
	struct gr_block *a, *b, *half;
	int released = 0;
	size_t i;

	a = case_caller(ram, "a", memory, 4 * MIB, 0, &released);
	b = case_caller(ram, "b", memory + 4 * MIB, 4 * MIB, 0, &released);
	case_map(space, BASE, a, 0, 4 * MIB, RW);
	for (i = 0; i < COUNT_OF(over); i++) {
		/* before a hole */
		assert_no_bare_pointer(space, BASE + 4 * MIB - 64, 64 + over[i], -EFAULT);
		assert_no_bare_pointer(space, BASE + 4 * MIB - PAGE, PAGE + over[i], -EFAULT);
		assert_no_bare_pointer(space, BASE + MIB, 3 * MIB + over[i], -EFAULT);
	}
	/* before another block, although its host memory is the very next */
	case_map(space, BASE + 4 * MIB, b, 0, 4 * MIB, RW);
	assert_no_bare_pointer(space, BASE + 4 * MIB - 64, 65, -EXDEV);
	assert_no_bare_pointer(space, BASE + 4 * MIB - 64, 128, -EXDEV);
	assert_no_bare_pointer(space, BASE + 3 * MIB, 4 * MIB, -EXDEV);
	/* before another range of the same block */
	case_map(space, 4 * BASE, a, 0, 2 * MIB, RW);
	case_map(space, 4 * BASE + 2 * MIB, a, 2 * MIB, 2 * MIB, RW);
	assert_no_bare_pointer(space, 4 * BASE + 2 * MIB - 8, 16, -EXDEV);
	/* before the part that its block does not use */
	assert_ok(gr_block_new(ram, &opts, &half));
	case_map(space, 8 * BASE, half, 0, 4 * MIB, RW);
	assert_no_bare_pointer(space, 8 * BASE + MIB - 8, 9, -EFAULT);
	assert_no_bare_pointer(space, 8 * BASE + MIB - 8, 2 * MIB, -EFAULT);
	assert_null(case_lookup(space, 8 * BASE + MIB, 1, 0));
	for (i = 0; i < 3; i++) { /* just behind it, deep in it, and its last byte */
		static const uint64_t hidden[] = {MIB + PAGE, 3 * MIB, 4 * MIB - 1};
		struct gr_cursor cursor;
		uint64_t value;

		gr_cursor_init(&cursor, space);
		assert_unreadable(space, 8 * BASE + hidden[i]);
		assert_non_null(case_cursor(&cursor, 8 * BASE, 1, RW));
		assert_null(case_cursor(&cursor, 8 * BASE + hidden[i], 1, RW));
		assert_int_equal(gr_load(space, 8 * BASE + MIB - 4, &value, 8), -EFAULT);
	}
	/* a ring of exactly the rest is fine */
	assert_ptr_equal(case_lookup(space, BASE + 4 * MIB - 64, 64, RW), memory + 4 * MIB - 64);
	case_close(ram);
	munmap(memory, 12 * MIB);
}

/* ------------------------------------------------------------------------------------- P6 */

static void p6_length_0_touches_nothing_anywhere(void **unused)
{
	static const uint64_t addrs[] = {
		BASE, BASE + MIB, BASE + 4 * MIB - 1, BASE + 4 * MIB, BASE - 1,
		0,    7,	  UINT64_MAX,	      TOP(PAGE),      UINT64_C(1) << 47,
	};
	static struct case_table before, after;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	char *memory = case_pages(4 * MIB);
	int released = 0;
	struct gr_block *block = case_caller(ram, "x", memory, 4 * MIB, 0, &released);
	struct gr_block *anon = case_anon(ram, "y", 4 * MIB);
	struct gr_pin pin = {.host = &pin}, untouched = pin;
	struct gr_ram_stats stats, now;
	struct iovec iov = {&iov, 1};
	struct gr_txn *txn;
	size_t i;
	int warm;

	case_map(space, BASE, block, 0, 4 * MIB, RW);
	memset(case_host(anon), 1, PAGE);
	case_table_take(space, &before);
	gr_ram_get_stats(ram, &stats);
	for (i = 0; i < COUNT_OF(addrs); i++)
		for (warm = 0; warm < 2; warm++) {
			struct gr_cursor cursor;

			gr_cursor_init(&cursor, space);
			if (warm)
				assert_non_null(case_cursor(&cursor, BASE, 1, RW));
			assert_null(case_lookup(space, addrs[i], 0, RW));
			assert_null(case_lookup(space, addrs[i], 0, 0));
			assert_null(case_cursor(&cursor, addrs[i], 0, RW));
			gr_read_begin();
			assert_int_equal(gr_spans(space, addrs[i], 0, RW, &iov, 1), 0);
			assert_int_equal(gr_spans(space, addrs[i], 0, RW, NULL, 0), 0);
			gr_read_end();
			assert_int_equal(iov.iov_len, 1);
			assert_int_equal(gr_pin(space, addrs[i], 0, RW, &pin), -EINVAL);
			assert_int_equal(gr_pin_spans(space, addrs[i], 0, RW, &pin, 1), 0);
			assert_memory_equal(&pin, &untouched, sizeof(pin));
			assert_int_equal(gr_load(space, addrs[i], NULL, 0), 0);
			assert_int_equal(gr_store(space, addrs[i], NULL, 0), 0);
			assert_int_equal(gr_fill(space, addrs[i], 0xff, 0), 0);
			if (addrs[i] % PAGE)
				continue;
			assert_int_equal(gr_space_map(space, addrs[i], block, 0, 0, RW), -EINVAL);
			assert_int_equal(gr_space_unmap(space, addrs[i], 0), -EINVAL);
			assert_ok(gr_txn_begin(space, &txn));
			assert_int_equal(gr_txn_map(txn, addrs[i], block, 0, 0, RW), -EINVAL);
			assert_int_equal(gr_txn_unmap(txn, addrs[i], 0), -EINVAL);
			gr_txn_abort(txn);
		}
	assert_ok(gr_block_discard(anon, 0, 0));
	assert_ok(gr_block_discard(anon, 4 * MIB, 0));
	assert_int_equal(gr_block_discard(anon, 4 * MIB + PAGE, 0), -ERANGE);
	assert_int_equal(*(char *)case_host(anon), 1);
	assert_int_equal(gr_block_pin(anon, 0, 0, RW, &pin), -EINVAL);
	assert_int_equal(gr_block_resize(anon, 0), -EINVAL);
	for (i = 0; i < 4 * MIB; i++)
		assert_int_equal(memory[i], 0);
	case_table_take(space, &after);
	assert_same_table(&before, &after);
	gr_ram_get_stats(ram, &now);
	assert_memory_equal(&stats, &now, sizeof(stats));
	case_close(ram);
	munmap(memory, 4 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(q6_lookup_of_any_address_is_an_error_at_most),
		cmocka_unit_test(q6_last_byte_of_the_address_space),
		cmocka_unit_test(
			p1_access_that_ends_on_the_last_byte_succeeds_and_one_further_fails),
		cmocka_unit_test(p1_values_on_the_last_bytes),
		cmocka_unit_test(p1_lengths_that_the_compiler_knows),
		cmocka_unit_test(p2_address_plus_length_that_wraps_is_refused_everywhere),
		cmocka_unit_test(p4_ring_that_leaves_its_range_has_no_bare_pointer),
		cmocka_unit_test(p6_length_0_touches_nothing_anywhere),
	};

	case_watchdog(60);
	return cmocka_run_group_tests_name("lookups", tests, NULL, NULL);
}
