/* SPDX-License-Identifier: MIT */
/* P8, P9, Q27: buffers in several pieces, and buffers longer than 32 bits can tell. */
#include "case.h"
#include <sys/mman.h>
#include <unistd.h>

#define BASE GIB

/* ---------------------------------------------------------------------------------- P8, P9 */

static void p8_p9_buffer_across_two_ranges_is_two_pieces(void **unused)
{
	static const uint64_t seams[] = {BASE, BASE + 5 * PAGE, 64 * GIB};
	size_t s;

	for (s = 0; s < COUNT_OF(seams); s++) {
		const uint64_t seam = seams[s], length = 3000;
		struct gr_ram *ram = case_ram();
		struct gr_space *space = case_space(ram, "guest");
		struct gr_block *a = case_anon(ram, "a", 2 * MIB), *b;
		struct gr_block *gap = case_anon(ram, "gap", 2 * MIB); /* keeps them apart */
		struct iovec iov[3];
		struct gr_pin pins[2], pin;
		struct gr_cursor cursor;
		char out[3000], back[3000];
		uint64_t v64 = 0;
		size_t i;

		b = case_anon(ram, "b", 2 * MIB);
		case_map(space, seam - 2 * MIB, a, 0, 2 * MIB, RW);
		case_map(space, seam, b, 0, 2 * MIB, RW);
		assert_ptr_not_equal((char *)case_host(a) + 2 * MIB, case_host(b));
		gr_cursor_init(&cursor, space);
		for (i = 0; i < length; i++)
			out[i] = (char)(i * 7 + 1);

		assert_null(case_lookup(space, seam - 1000, length, RW));
		assert_null(case_cursor(&cursor, seam - 1000, length, RW));
		assert_int_equal(gr_pin(space, seam - 1000, length, RW, &pin), -EXDEV);
		memset(iov, 0, sizeof(iov));
		gr_read_begin();
		assert_int_equal(gr_spans(space, seam - 1000, length, RW, iov, 3), 2);
		gr_read_end();
		assert_ptr_equal(iov[0].iov_base, (char *)case_host(a) + 2 * MIB - 1000);
		assert_int_equal(iov[0].iov_len, 1000);
		assert_ptr_equal(iov[1].iov_base, case_host(b));
		assert_int_equal(iov[1].iov_len, 2000);
		assert_null(iov[2].iov_base);
		assert_int_equal(gr_pin_spans(space, seam - 1000, length, RW, pins, 2), 2);
		assert_ptr_equal(pins[0].host, iov[0].iov_base);
		assert_ptr_equal(pins[1].host, iov[1].iov_base);
		assert_ptr_equal(pins[0].block, a);
		assert_int_equal(pins[0].offset, 2 * MIB - 1000);
		assert_ptr_equal(pins[1].block, b);
		assert_int_equal(pins[1].offset, 0);
		gr_unpin(&pins[0]);
		gr_unpin(&pins[1]);

		assert_ok(gr_store(space, seam - 1000, out, length));
		assert_ok(gr_load(space, seam - 1000, back, length));
		assert_memory_equal(out, back, length);
		assert_memory_equal(case_host(b), out + 1000, 2000);
		assert_memory_equal((char *)case_host(a) + 2 * MIB - 1000, out, 1000);
		/* values across the seam, in each split */
		for (i = 1; i < 8; i++) {
			assert_ok(gr_store_u64_le(space, seam - i, 0x8877665544332211));
			assert_ok(gr_load_u64_be(space, seam - i, &v64));
			assert_int_equal(v64, 0x1122334455667788);
			assert_ok(gr_load(space, seam - i, back, 8));
			assert_memory_equal(back, "\x11\x22\x33\x44\x55\x66\x77\x88", 8);
		}
		assert_ok(gr_fill(space, seam - 1, 0x77, 2));
		assert_int_equal(((char *)case_host(a))[2 * MIB - 1], 0x77);
		assert_int_equal(((char *)case_host(b))[0], 0x77);
		case_close(ram);
		(void)gap;
	}
}

/* What follows a hole is not what follows the range. */
static void p8_hole_between_two_ranges_is_no_seam(void **unused)
{
	static const uint64_t holes[] = {PAGE, 2 * MIB, 8 * GIB};
	size_t i;

	for (i = 0; i < COUNT_OF(holes); i++) {
		struct gr_ram *ram = case_ram();
		struct gr_space *space = case_space(ram, "guest");
		struct gr_block *block = case_anon(ram, "x", 2 * PAGE);
		char *host = case_host(block), buf[2 * PAGE];
		struct iovec iov[2];
		struct gr_pin pins[2];
		uint64_t value;

		case_map(space, BASE, block, 0, PAGE, RW);
		case_map(space, BASE + PAGE + holes[i], block, PAGE, PAGE, RW);
		memset(buf, 1, sizeof(buf));
		gr_read_begin();
		assert_int_equal(gr_spans(space, BASE, 2 * PAGE, RW, iov, 2), -EFAULT);
		assert_int_equal(gr_spans(space, BASE + PAGE - 1, 2, RW, iov, 2), -EFAULT);
		gr_read_end();
		assert_int_equal(gr_pin_spans(space, BASE + PAGE - 4, 8, RW, pins, 2), -EFAULT);
		assert_int_equal(gr_pin(space, BASE + PAGE - 4, 8, RW, pins), -EFAULT);
		assert_int_equal(gr_store(space, BASE, buf, 2 * PAGE), -EFAULT);
		assert_int_equal(gr_fill(space, BASE + PAGE - 4, 1, 8), -EFAULT);
		assert_int_equal(gr_store_u64(space, BASE + PAGE - 4, UINT64_MAX), -EFAULT);
		assert_int_equal(gr_load(space, BASE + PAGE - 4, buf, 8), -EFAULT);
		assert_int_equal(gr_load_u64(space, BASE + PAGE - 4, &value), -EFAULT);
		assert_int_equal(buf[0], 1);
		assert_int_equal(host[PAGE - 1] | host[0] | host[PAGE], 0);
		case_close(ram);
	}
}

static void p9_needed_count_is_told_when_there_is_no_room(void **unused)
{
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = case_anon(ram, "x", 16 * PAGE);
	struct gr_ram_stats stats;
	struct iovec iov[4];
	struct gr_pin pins[4];
	int max, i;

	/* three ranges, in no order of host memory; the last read-only behind a hole */
	case_map(space, BASE, block, 8 * PAGE, PAGE, RW);
	case_map(space, BASE + PAGE, block, 0, PAGE, RW);
	case_map(space, BASE + 2 * PAGE, block, 4 * PAGE, PAGE, RW);
	case_map(space, BASE + 3 * PAGE, block, 12 * PAGE, PAGE, GR_READ);
	for (max = 3; max >= 0; max--) {
		memset(iov, 0xee, sizeof(iov));
		memset(pins, 0xee, sizeof(pins));
		gr_read_begin();
		assert_int_equal(
			gr_spans(space, BASE + 8, 3 * PAGE - 16, RW, max ? iov : NULL, max), 3);
		gr_read_end();
		for (i = 0; i < 3; i++) {
			static const uint64_t offsets[] = {8 * PAGE + 8, 0, 4 * PAGE};
			static const uint64_t lengths[] = {PAGE - 8, PAGE, PAGE - 8};

			if (i < max) {
				assert_ptr_equal(iov[i].iov_base,
						 (char *)case_host(block) + offsets[i]);
				assert_int_equal(iov[i].iov_len, lengths[i]);
			} else {
				assert_int_equal(iov[i].iov_len, 0xeeeeeeeeeeeeeeee);
			}
		}
		assert_int_equal(
			gr_pin_spans(space, BASE + 8, 3 * PAGE - 16, RW, max ? pins : NULL, max),
			3);
		gr_ram_get_stats(ram, &stats);
		assert_int_equal(stats.pins, max == 3 ? 3 : 0);
		if (max == 3)
			for (i = 0; i < 3; i++)
				gr_unpin(&pins[i]);
		else
			assert_int_equal(pins[0].length, 0xeeeeeeeeeeeeeeee);
	}
	gr_read_begin();
	assert_int_equal(gr_spans(space, BASE, PAGE, RW, iov, -1), -EINVAL);
	assert_int_equal(gr_spans(space, BASE, PAGE, RW, NULL, 1), -EINVAL);
	assert_int_equal(gr_spans(space, BASE, PAGE, 8, iov, 1), -EINVAL);
	/* a piece further on that lacks rights, or is not there, pins nothing */
	assert_int_equal(gr_spans(space, BASE, 4 * PAGE, RW, iov, 4), -EACCES);
	assert_int_equal(gr_spans(space, BASE, 4 * PAGE, GR_READ, iov, 4), 4);
	assert_int_equal(gr_spans(space, BASE, 4 * PAGE + 1, GR_READ, iov, 4), -EFAULT);
	gr_read_end();
	assert_int_equal(gr_pin_spans(space, BASE, 4 * PAGE, RW, pins, 4), -EACCES);
	assert_int_equal(gr_pin_spans(space, BASE, 4 * PAGE + 1, GR_READ, pins, 4), -EFAULT);
	gr_ram_get_stats(ram, &stats);
	assert_int_equal(stats.pins, 0);
	/* all or nothing: what fails on the last range has not written to the first */
	assert_int_equal(gr_fill(space, BASE, 0x11, 4 * PAGE), -EACCES);
	assert_int_equal(gr_store(space, BASE + 2 * PAGE, "1234", 4), 0);
	assert_int_equal(((char *)case_host(block))[8 * PAGE], 0);
	assert_int_equal(((char *)case_host(block))[0], 0);
	case_close(ram);
}

/* ------------------------------------------------------------------------------------ Q27 */

/*
 * 5 GiB of address space over little memory: all pages are the first 2 MiB of a file, but for the
 * last 2 MiB, which are its own. A length that was cut to 32 bits never gets there.
 */
static char *map_folded(int fd, uint64_t length)
{
	char *memory =
		mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t at;

	assert_ptr_not_equal(memory, MAP_FAILED);
	for (at = 0; at < length; at += 2 * MIB)
		assert_ptr_not_equal(mmap(memory + at, 2 * MIB, PROT_READ | PROT_WRITE,
					  MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd,
					  at + 2 * MIB < length ? 0 : 2 * MIB),
				     MAP_FAILED);
	return memory;
}

static void q27_lengths_of_4_gib_and_more(void **unused)
{
	static const uint64_t lengths[] = {
		UINT32_MAX,
		UINT64_C(1) << 32,
		(UINT64_C(1) << 32) + 5,
		UINT64_C(5) * GIB - 3 * MIB,
		UINT64_C(1) << 31,
	};
	const uint64_t whole = 5 * GIB;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = case_anon(ram, "x", whole);
	char *host = case_host(block);
	struct gr_block_info info;
	struct gr_ram_stats stats;
	struct gr_cursor cursor;
	struct iovec iov;
	struct gr_pin pin;
	size_t i;

	gr_block_get_info(block, &info);
	assert_int_equal(info.length, whole);
	assert_int_equal(info.max_length, whole);
	gr_ram_get_stats(ram, &stats);
	assert_int_equal(stats.bytes, whole);
	case_map(space, 3 * MIB, block, 3 * MIB, whole - 3 * MIB, RW);
	gr_cursor_init(&cursor, space);
	for (i = 0; i < COUNT_OF(lengths); i++) {
		uint64_t length = lengths[i], most = whole - length;
		uint64_t addr = most < 3 * MIB ? 3 * MIB : most;

		assert_ptr_equal(case_lookup(space, addr, length, RW), host + addr);
		assert_ptr_equal(case_cursor(&cursor, addr, length, RW), host + addr);
		assert_ptr_equal(case_cursor(&cursor, addr + length - 1, 1, RW),
				 host + addr + length - 1);
		gr_read_begin();
		assert_int_equal(gr_spans(space, addr, length, RW, &iov, 1), 1);
		gr_read_end();
		assert_int_equal(iov.iov_len, length);
		assert_ok(gr_pin(space, addr, length, RW, &pin));
		assert_int_equal(pin.length, length);
		assert_int_equal(pin.offset, addr);
		gr_unpin(&pin);
		if (addr + length < whole)
			continue;
		assert_null(case_lookup(space, addr, length + 1, RW));
		assert_null(case_cursor(&cursor, addr, length + 1, RW));
		assert_null(case_lookup(space, addr, length + (UINT64_C(1) << 32), RW));
		assert_int_equal(gr_pin(space, addr, length + 1, RW, &pin), -EFAULT);
	}
	/* each word of the last GiB has an address of its own */
	for (i = 0; i < 64; i++) {
		uint64_t addr = whole - 8 - i * 16 * MIB, value = 0;

		assert_ok(gr_store_u64(space, addr, addr));
		assert_int_equal(*(uint64_t *)(host + addr), addr);
		assert_ok(gr_load_u64(space, addr, &value));
		assert_int_equal(value, addr);
	}
	/* discards and unmaps beyond 4 GiB, and lengths over it */
	assert_ok(gr_block_discard(block, (UINT64_C(1) << 32) + PAGE,
				   whole - (UINT64_C(1) << 32) - PAGE));
	assert_int_equal(*(uint64_t *)(host + whole - 8), 0);
	*(uint64_t *)host = 1;
	*(uint64_t *)(host + (UINT64_C(1) << 32)) = 2;
	assert_ok(gr_block_discard(block, PAGE, (UINT64_C(1) << 32) - PAGE));
	assert_int_equal(*(uint64_t *)host, 1);
	assert_int_equal(*(uint64_t *)(host + (UINT64_C(1) << 32)), 2);
	assert_ok(gr_block_discard(block, PAGE, (UINT64_C(1) << 32) + PAGE));
	assert_int_equal(*(uint64_t *)host, 1);
	assert_int_equal(*(uint64_t *)(host + (UINT64_C(1) << 32)), 0);
	assert_ok(gr_space_unmap(space, 4 * MIB, UINT64_C(1) << 32));
	assert_null(case_lookup(space, UINT64_C(1) << 32, 1, 0));
	assert_ptr_equal(case_lookup(space, (UINT64_C(1) << 32) + 4 * MIB, 1, 0),
			 host + (UINT64_C(1) << 32) + 4 * MIB);
	case_close(ram);
}

static void q27_bytes_moved_beyond_4_gib(void **unused)
{
	const uint64_t whole = 4 * GIB + 4 * MIB, last = whole - 1;
	int fd = memfd_create("folded", MFD_CLOEXEC), released = 0;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block;
	char *memory, *copy;

#ifdef GR__TSAN
	print_message("skipped: ThreadSanitizer needs 32 GiB to watch 8 GiB\n");
	skip();
#endif
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4 * MIB), 0);
	memory = map_folded(fd, whole);
	copy = map_folded(fd, whole);
	block = case_caller(ram, "x", memory, whole, 0, &released);
	case_map(space, BASE, block, 0, whole, RW);
	memory[last] = 1;
	memory[last - 2 * MIB] = 2;
	assert_ok(gr_fill(space, BASE, 0x44, whole - 1));
	assert_int_equal(memory[last], 1);
	assert_int_equal(memory[last - 1], 0x44);
	/* Both are the same memory, so the copy is seen by what it does in its last 2 MiB alone. */
	memory[last - 2 * MIB] = 3;
	munmap(copy + whole - 2 * MIB, 2 * MIB);
	assert_ptr_not_equal(mmap(copy + whole - 2 * MIB, 2 * MIB, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			     MAP_FAILED);
	assert_ok(gr_load(space, BASE, copy, whole));
	assert_int_equal(copy[last], 1);
	assert_int_equal(copy[last - 1], 0x44);
	memset(copy + whole - 2 * MIB, 0x55, 2 * MIB);
	assert_ok(gr_store(space, BASE, copy, whole - 1));
	assert_int_equal(memory[last], 1);
	assert_int_equal(memory[last - 1], 0x55);
	/* count_release() must not fill 4 GiB */
	assert_ok(gr_space_unmap(space, BASE, whole));
	mprotect(memory, whole, PROT_READ | PROT_WRITE);
	case_close(ram);
	assert_int_equal(released, 1);
	munmap(memory, whole);
	munmap(copy, whole);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p8_p9_buffer_across_two_ranges_is_two_pieces),
		cmocka_unit_test(p8_hole_between_two_ranges_is_no_seam),
		cmocka_unit_test(p9_needed_count_is_told_when_there_is_no_room),
		cmocka_unit_test(q27_lengths_of_4_gib_and_more),
		cmocka_unit_test(q27_bytes_moved_beyond_4_gib),
	};

	case_watchdog(60);
	return cmocka_run_group_tests_name("pieces", tests, NULL, NULL);
}
