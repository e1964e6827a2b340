/* SPDX-License-Identifier: MIT */
/* Blocks: names, RAM offsets, the three ways to find one, resize, discard, delete. */
#include "testing.h"
#include <sys/stat.h>

#define UNIT (64 * PAGE) /* of RAM offsets: one word of a dirty bitmap */

static struct gr_ram *ram;
static struct gr_space *space;

static int open_ram(void **unused)
{
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	return 0;
}

static int close_ram(void **unused)
{
	assert_ok(gr_ram_close(ram));
	return 0;
}

static struct gr_block *by_name(const char *name)
{
	struct gr_block *block;

	gr_read_begin();
	block = gr_block_by_name(ram, name);
	gr_read_end();
	return block;
}

static struct gr_block *by_offset(uint64_t ram_offset, uint64_t *offset)
{
	struct gr_block *block;

	gr_read_begin();
	block = gr_block_by_offset(ram, ram_offset, offset);
	gr_read_end();
	return block;
}

static struct gr_block *by_host(const void *host, uint64_t *offset)
{
	struct gr_block *block;

	gr_read_begin();
	block = gr_block_by_host(ram, host, offset);
	gr_read_end();
	return block;
}

/* ---------------------------------------------------------------------------------- names */

static void test_names_are_unique_among_live_blocks(void **unused)
{
	struct gr_block *block = new_anon(ram, "ram0", PAGE, 0), *other = NULL;
	struct gr_block_opts opts = {.name = "ram0", .length = PAGE};
	struct gr_ram_stats before = stats_of(ram);

	assert_error(gr_block_new(ram, &opts, &other), -EEXIST, "ram0");
	assert_null(other);
	assert_int_equal(stats_of(ram).blocks, before.blocks);
	assert_int_equal(stats_of(ram).bytes, before.bytes);
	assert_ptr_equal(by_name("ram0"), block);
	assert_ok(gr_block_delete(block));
	assert_null(by_name("ram0"));
	other = new_anon(ram, "ram0", PAGE, 0); /* free at once, not after reclaim */
	assert_ptr_equal(by_name("ram0"), other);
}

static void test_names_have_1_to_255_bytes(void **unused)
{
	char name[258] = "";
	struct gr_block_opts opts = {.name = name, .length = PAGE};
	struct gr_block *block = NULL;

	assert_error(gr_block_new(ram, &opts, &block), -EINVAL, "1 to 255");
	opts.name = NULL;
	assert_error(gr_block_new(ram, &opts, &block), -EINVAL, "1 to 255");
	opts.name = name;
	memset(name, 'x', 256);
	assert_error(gr_block_new(ram, &opts, &block), -EINVAL, "1 to 255");
	name[255] = 0;
	assert_ok(gr_block_new(ram, &opts, &block));
	memset(name, 'y', 255); /* it was copied */
	assert_int_equal(strlen(info_of(block).name), 255);
	assert_int_equal(info_of(block).name[254], 'x');
	assert_null(by_name(name));
	assert_error(gr_block_new(ram, NULL, &block), -EINVAL, "");
	assert_error(gr_block_new(ram, &opts, NULL), -EINVAL, "");
}

static void test_many_names_are_found_in_any_order_of_making(void **unused)
{
	struct gr_block *blocks[50];
	char name[16];
	unsigned i;

	for (i = 0; i < COUNT_OF(blocks); i++) {
		snprintf(name, sizeof(name), "b%u", i * 37 % 50);
		blocks[i * 37 % 50] = new_anon(ram, name, PAGE, 0);
	}
	for (i = 0; i < COUNT_OF(blocks); i += 3)
		assert_ok(gr_block_delete(blocks[i]));
	for (i = 0; i < COUNT_OF(blocks); i++) {
		snprintf(name, sizeof(name), "b%u", i);
		assert_ptr_equal(by_name(name), i % 3 ? blocks[i] : NULL);
	}
	assert_null(by_name("b"));
	assert_null(by_name(""));
	assert_null(by_name("zzz"));
}

/* ------------------------------------------------------------------------------ finding */

static void test_found_by_every_byte_up_to_max_length(void **unused)
{
	struct gr_block *a = new_anon(ram, "a", 3 * PAGE, 5 * PAGE);
	struct gr_block *b = new_anon(ram, "b", UNIT + PAGE, 0);
	struct gr_block_info info[2] = {info_of(a), info_of(b)};
	struct gr_block *blocks[2] = {a, b};
	uint64_t offset;
	unsigned i;

	for (i = 0; i < 2; i++) {
		uint64_t length = info[i].max_length, first = info[i].ram_offset;
		const char *host = info[i].host;

		assert_ptr_equal(by_offset(first, &offset), blocks[i]);
		assert_int_equal(offset, 0);
		assert_ptr_equal(by_offset(first + length - 1, &offset), blocks[i]);
		assert_int_equal(offset, length - 1);
		assert_ptr_not_equal(by_offset(first + length, NULL), blocks[i]);
		assert_ptr_equal(by_host(host, &offset), blocks[i]);
		assert_int_equal(offset, 0);
		assert_ptr_equal(by_host(host + length - 1, &offset), blocks[i]);
		assert_int_equal(offset, length - 1);
		assert_null(by_host(host + length, NULL)); /* the guard page */
	}
	assert_null(by_host(NULL, NULL));
	assert_null(by_host((void *)UINTPTR_MAX, NULL));
	assert_null(by_offset(UINT64_MAX, NULL));
	assert_null(by_offset(info[0].ram_offset + 5 * PAGE, NULL)); /* between two of them */
}

static int note_block(void *context, struct gr_block *block)
{
	struct gr_block ***next = context;

	*(*next)++ = block;
	return 0;
}

static int stop_at_once(void *context, struct gr_block *block)
{
	++*(int *)context;
	return 7;
}

static void test_each_block_comes_in_order_of_ram_offset_and_can_be_stopped(void **unused)
{
	struct gr_block *a = new_anon(ram, "z", PAGE, 0), *b = new_anon(ram, "y", PAGE, 0);
	struct gr_block *c = new_anon(ram, "x", PAGE, 0), *seen[4] = {0}, **next = seen;
	int calls = 0;

	gr_read_begin();
	assert_int_equal(gr_ram_each_block(ram, note_block, &next), 0);
	assert_int_equal(gr_ram_each_block(ram, stop_at_once, &calls), 7);
	gr_read_end();
	assert_int_equal(calls, 1);
	assert_int_equal(next - seen, 3);
	assert_true(seen[0] == a && seen[1] == b && seen[2] == c);
}

/* -------------------------------------------------------------------------- RAM offsets */

static uint64_t offset_of(const struct gr_block *block)
{
	return info_of(block).ram_offset;
}

static void test_ram_offsets_take_the_best_gap_and_share_no_word(void **unused)
{
	struct gr_block *blocks[5], *small, *exact;
	static const uint64_t units[5] = {1, 3, 1, 2, 1};
	char name[8];
	unsigned i;

	for (i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		/* a page less than whole units: still apart */
		blocks[i] = new_anon(ram, name, units[i] * UNIT - PAGE, 0);
		assert_int_equal(offset_of(blocks[i]) % UNIT, 0);
		if (i)
			assert_int_equal(offset_of(blocks[i]),
					 offset_of(blocks[i - 1]) + units[i - 1] * UNIT);
	}
	assert_ok(gr_block_delete(blocks[1])); /* leaves a gap of 3 … */
	assert_ok(gr_block_delete(blocks[3])); /* … and one of 2 */
	assert_ok(gr_ram_drain(ram, LONG_MS));
	exact = new_anon(ram, "exact", 2 * UNIT, 0);
	assert_int_equal(offset_of(exact), UNIT * 5); /* the gap of 2, though that of 3 is first */
	small = new_anon(ram, "small", PAGE, 3 * UNIT); /* max_length counts */
	assert_int_equal(offset_of(small), UNIT);
	assert_int_equal(offset_of(new_anon(ram, "behind", PAGE, 0)), UNIT * 8);
}

static void test_ram_offset_is_reused_only_after_reclaim(void **unused)
{
	struct gr_block *block = new_anon(ram, "ram0", UNIT, 0), *other;
	struct gr_pin pin;

	assert_ok(gr_block_pin(block, 0, PAGE, GR_READ, &pin));
	assert_ok(gr_block_delete(block));
	assert_int_equal(gr_ram_drain(ram, 20), -ETIMEDOUT);
	other = new_anon(ram, "ram0", UNIT, 0);
	assert_int_equal(offset_of(other), UNIT);
	gr_unpin(&pin);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(offset_of(new_anon(ram, "ram1", UNIT, 0)), 0);
}

/* ----------------------------------------------------------------------------- info, share */

static void test_info_tells_what_was_asked(void **unused)
{
	int tag;
	struct gr_block_opts opts = {
		.name = "memfd",
		.backing = GR_BACKING_MEMFD,
		.length = 3 * PAGE - 5,
		.max_length = 9 * PAGE - 1,
		.user = &tag,
	};
	struct gr_block *block, *anon = new_anon(ram, "anon", PAGE, 0);
	struct gr_block_info info;
	uint64_t offset = 99;
	struct stat st;
	int fd = -1;

	assert_ok(gr_block_new(ram, &opts, &block));
	info = info_of(block);
	assert_string_equal(info.name, "memfd");
	assert_int_equal(info.length, 3 * PAGE);
	assert_int_equal(info.max_length, 9 * PAGE);
	assert_int_equal(info.page_size, PAGE);
	assert_int_equal(info.backing, GR_BACKING_MEMFD);
	assert_int_equal(info.flags, GR_SHARED);
	assert_int_equal(info.pins, 0);
	assert_int_equal(info.mapped, 0);
	assert_ptr_equal(info.user, &tag);
	assert_ok(gr_block_share_fd(block, &fd, &offset));
	assert_int_equal(fd, info.fd);
	assert_int_equal(offset, info.fd_offset);
	assert_int_equal(fstat(fd, &st), 0);
	assert_error(gr_block_share_fd(anon, &fd, &offset), -ENOTSUP, "GR_BACKING_MEMFD");
	assert_int_equal(fd, info.fd); /* outputs are written on success only */
	assert_int_equal(info_of(anon).fd, -1);
}

/* --------------------------------------------------------------------------------- delete */

static void test_delete_of_a_mapped_block_is_busy_without_the_flag(void **unused)
{
	struct gr_block *block = new_anon(ram, "ram0", 4 * PAGE, 0);
	struct gr_space *other;

	assert_ok(gr_space_open(ram, "other", &other));
	assert_ok(gr_space_map(space, 0, block, 0, PAGE, RW));
	assert_ok(gr_space_map(other, PAGE, block, PAGE, PAGE, GR_READ));
	assert_int_equal(info_of(block).mapped, 2);
	assert_error(gr_block_delete(block), -EBUSY, "2 ranges");
	assert_ok(gr_space_unmap(space, 0, PAGE));
	assert_error(gr_block_delete(block), -EBUSY, "1 range");
	assert_ptr_equal(by_name("ram0"), block);
	assert_non_null(look_up(other, PAGE, 1, GR_READ));
	assert_ok(gr_space_close(other));
	assert_ok(gr_block_delete(block));
}

static void test_delete_unmap_takes_it_out_of_every_space(void **unused)
{
	struct gr_block_opts opts = {.name = "ram0", .length = 4 * MIB, .flags = GR_DELETE_UNMAP};
	struct gr_block *block, *stays = new_anon(ram, "stays", 4 * MIB, 0);
	struct gr_space *other;

	assert_ok(gr_block_new(ram, &opts, &block));
	assert_ok(gr_space_open(ram, "other", &other));
	assert_ok(gr_space_map(space, 0, block, 0, 4 * MIB, RW));
	assert_ok(gr_space_map(space, 4 * MIB, stays, 0, 4 * MIB, RW));
	assert_ok(gr_space_map(space, 8 * MIB, block, PAGE, PAGE, RW));
	assert_ok(gr_space_map(other, 0 - 4 * MIB, block, 0, 4 * MIB, RW));
	assert_ok(gr_block_delete(block));
	assert_null(look_up(space, 0, 1, 0));
	assert_non_null(look_up(space, 4 * MIB, 4 * MIB, RW));
	assert_null(look_up(space, 8 * MIB, 1, 0));
	assert_null(look_up(other, 0 - 4 * MIB, 1, 0));
	assert_int_equal(stats_of(ram).ranges, 1);
	assert_ok(gr_ram_drain(ram, LONG_MS));
}

/* --------------------------------------------------------------------------------- resize */

static void test_resize_moves_what_readers_see(void **unused)
{
	struct gr_block *block = new_memfd(ram, "fixed", PAGE);
	struct gr_block_opts opts = {
		.name = "ram0",
		.backing = GR_BACKING_MEMFD,
		.length = 3 * MIB,
		.max_length = 8 * MIB,
	};
	struct gr_range range;
	struct stat st;
	char *host;

	assert_error(gr_block_resize(block, 2 * PAGE), -ERANGE, "maximum");
	assert_ok(gr_block_new(ram, &opts, &block));
	assert_ok(gr_space_map(space, 0, block, 0, 8 * MIB, RW));
	assert_non_null(look_up(space, 3 * MIB - 1, 1, RW));
	assert_null(look_up(space, 3 * MIB - 1, 2, RW));
	assert_null(look_up(space, 3 * MIB, 1, 0));
	gr_read_begin();
	assert_ok(gr_space_find(space, 8 * MIB - 1, &range));
	gr_read_end();
	assert_int_equal(range.visible, 3 * MIB);
	assert_int_equal(range.length, 8 * MIB);

	assert_ok(gr_block_resize(block, 6 * MIB + 1));
	assert_int_equal(info_of(block).length, 6 * MIB + PAGE);
	assert_int_equal(stats_of(ram).bytes, 6 * MIB + 2 * PAGE);
	assert_ok(gr_fill(space, 0, 0x5a, 6 * MIB + PAGE));
	assert_int_equal(gr_fill(space, 0, 0x5a, 6 * MIB + PAGE + 1), -EFAULT);

	assert_ok(gr_block_resize(block, MIB));
	assert_null(look_up(space, MIB, 1, 0));
	assert_int_equal(stats_of(ram).bytes, MIB + PAGE);
	assert_int_equal(fstat(info_of(block).fd, &st), 0);
	assert_true(st.st_blocks * 512 <= (int64_t)MIB); /* the tail is given back */
	assert_ok(gr_block_resize(block, 8 * MIB));
	host = look_up(space, 0, 8 * MIB, RW);
	assert_int_equal(host[MIB - 1], 0x5a);
	assert_int_equal(host[MIB], 0); /* and comes back as zeroes */
	assert_int_equal(host[8 * MIB - 1], 0);
	assert_ok(gr_space_unmap(space, 0, 8 * MIB));
	assert_ok(gr_block_delete(block));
	assert_int_equal(stats_of(ram).bytes, PAGE);
	assert_int_equal(stats_of(ram).bytes_reserved, PAGE);
}

static void test_resize_refused(void **unused)
{
	struct gr_block *block = new_anon(ram, "ram0", 4 * PAGE, 8 * PAGE);
	struct gr_block *caller = new_caller(ram, "caller", reserve(2 * PAGE), 2 * PAGE, NULL);
	uint64_t generation;
	struct gr_pin pin;

	assert_ok(gr_space_map(space, 0, block, 0, 8 * PAGE, RW));
	assert_error(gr_block_resize(block, 0), -EINVAL, "0");
	assert_error(gr_block_resize(block, 8 * PAGE + 1), -ERANGE, "maximum");
	assert_error(gr_block_resize(block, UINT64_MAX), -ERANGE, "maximum");
	assert_ok(gr_block_pin(block, 0, PAGE, GR_READ, &pin));
	generation = stats_of(ram).generation;
	assert_error(gr_block_resize(block, 3 * PAGE), -EBUSY, "pinned");
	assert_ok(gr_block_resize(block, 4 * PAGE)); /* nothing to do */
	assert_int_equal(stats_of(ram).generation, generation);
	assert_ok(gr_block_resize(block, 5 * PAGE)); /* growing takes nothing away */
	gr_unpin(&pin);
	gr_read_begin();
	assert_error(gr_block_resize(block, PAGE), -EDEADLK, "section");
	assert_ok(gr_block_resize(block, 6 * PAGE)); /* growing does not wait */
	gr_read_end();
	assert_int_equal(info_of(block).length, 6 * PAGE);
	assert_non_null(look_up(space, 6 * PAGE - 1, 1, RW));
	assert_int_equal(gr_block_resize(caller, PAGE), -ENOTSUP);
	assert_int_equal(info_of(caller).length, 2 * PAGE);
	assert_ok(gr_block_resize(block, PAGE));
	assert_null(look_up(space, PAGE, 1, 0));
}

struct section {
	struct gate inside, leave;
	struct gr_space *space;
	volatile char *host;
	int last_byte;
};

static void *read_in_section(void *arg)
{
	struct section *section = arg;

	gr_read_begin();
	section->host = gr_host(section->space, 3 * PAGE, PAGE, GR_READ);
	gate_open(&section->inside);
	gate_wait(&section->leave);
	section->last_byte = (unsigned char)section->host[PAGE - 1];
	gr_read_end();
	return NULL;
}

static void *shrink(void *block)
{
	return (void *)(intptr_t)gr_block_resize(block, PAGE);
}

static void test_shrinking_waits_for_readers_of_the_tail(void **unused)
{
	struct gr_block *block = new_anon(ram, "ram0", 4 * PAGE, 0);
	struct section section = {.space = space};
	pthread_t reader, writer;

	gate_init(&section.inside);
	gate_init(&section.leave);
	assert_ok(gr_space_map(space, 0, block, 0, 4 * PAGE, RW));
	assert_ok(gr_fill(space, 0, 0x77, 4 * PAGE));
	reader = thread_start(read_in_section, &section);
	assert_true(gate_wait(&section.inside));
	writer = thread_start(shrink, block);
	assert_true(wait_until(!look_up(space, 3 * PAGE, 1, 0)));
	sleep_us(20000);
	gate_open(&section.leave);
	thread_join(reader);
	thread_join(writer);
	assert_int_equal(section.last_byte, 0x77);
	assert_int_equal(info_of(block).length, PAGE);
}

/* -------------------------------------------------------------------------------- discard */

static void test_discard(void **unused)
{
	struct gr_block *block = new_memfd(ram, "ram0", 4 * PAGE);
	struct gr_block *caller = new_caller(ram, "caller", reserve(PAGE), PAGE, NULL);
	char *host = info_of(block).host;
	struct gr_pin pin;

	memset(host, 1, 4 * PAGE);
	assert_error(gr_block_discard(block, 1, PAGE), -EINVAL, "multiples");
	assert_error(gr_block_discard(block, 0, PAGE - 1), -EINVAL, "multiples");
	assert_error(gr_block_discard(block, 0, 5 * PAGE), -ERANGE, "leaves");
	assert_error(gr_block_discard(block, 4 * PAGE, PAGE), -ERANGE, "leaves");
	assert_error(gr_block_discard(block, 0 - PAGE, 2 * PAGE), -ERANGE, "leaves");
	assert_error(gr_block_discard(block, PAGE, 0 - PAGE), -ERANGE, "leaves");
	assert_int_equal(gr_block_discard(caller, 0, PAGE), -ENOTSUP);
	assert_ok(gr_block_discard(block, 0, 0));
	assert_ok(gr_block_discard(block, 4 * PAGE, 0));
	assert_int_equal(host[0] + host[4 * PAGE - 1], 2);
	assert_ok(gr_block_pin(block, 0, PAGE, GR_READ, &pin)); /* a pin keeps memory, not bytes */
	assert_ok(gr_block_discard(block, PAGE, 2 * PAGE));
	gr_unpin(&pin);
	assert_int_equal(host[PAGE - 1], 1);
	assert_int_equal(host[PAGE], 0);
	assert_int_equal(host[3 * PAGE - 1], 0);
	assert_int_equal(host[3 * PAGE], 1);
}

/* -------------------------------------------------------------------------------- refused */

static void test_block_pin_checks_its_arguments(void **unused)
{
	struct gr_block *block = new_anon(ram, "ram0", 2 * PAGE, 4 * PAGE), *fixed;
	struct gr_block_opts opts = {
		.name = "rom",
		.backing = GR_BACKING_CALLER,
		.flags = GR_READ_ONLY,
		.length = PAGE,
		.host = reserve(PAGE),
	};
	struct gr_pin pin;

	assert_ok(gr_block_new(ram, &opts, &fixed));
	assert_error(gr_block_pin(block, 0, 0, GR_READ, &pin), -EINVAL, "0 bytes");
	assert_error(gr_block_pin(block, 0, 1, 4, &pin), -EINVAL, "access");
	assert_error(gr_block_pin(block, 2, UINT64_MAX, GR_READ, &pin), -ERANGE, "2^64");
	assert_error(gr_block_pin(block, 2 * PAGE - 1, 2, GR_READ, &pin), -EFAULT, "leave");
	assert_error(gr_block_pin(block, 3 * PAGE, 1, GR_READ, &pin), -EFAULT, "leave");
	assert_error(gr_block_pin(fixed, 0, 1, GR_WRITE, &pin), -EACCES, "read-only");
	assert_error(gr_space_map(space, 0, fixed, 0, PAGE, RW), -EACCES, "read-only");
	assert_int_equal(stats_of(ram).pins, 0);
	assert_ok(gr_block_pin(block, 2 * PAGE - 1, 1, RW, &pin));
	assert_ptr_equal(pin.host, (char *)info_of(block).host + 2 * PAGE - 1);
	assert_true(pin.block == block && pin.offset == 2 * PAGE - 1 && pin.length == 1);
	assert_int_equal(stats_of(ram).pins, 1);
	gr_unpin(&pin);
	assert_int_equal(info_of(block).pins, 0);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_names_are_unique_among_live_blocks),
		each(test_names_have_1_to_255_bytes),
		each(test_many_names_are_found_in_any_order_of_making),
		each(test_found_by_every_byte_up_to_max_length),
		each(test_each_block_comes_in_order_of_ram_offset_and_can_be_stopped),
		each(test_ram_offsets_take_the_best_gap_and_share_no_word),
		each(test_ram_offset_is_reused_only_after_reclaim),
		each(test_info_tells_what_was_asked),
		each(test_delete_of_a_mapped_block_is_busy_without_the_flag),
		each(test_delete_unmap_takes_it_out_of_every_space),
		each(test_resize_moves_what_readers_see),
		each(test_resize_refused),
		each(test_shrinking_waits_for_readers_of_the_tail),
		each(test_discard),
		each(test_block_pin_checks_its_arguments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
