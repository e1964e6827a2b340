/* SPDX-License-Identifier: MIT */
/* Clients, marks and harvests, one case at a time. */
#include "testing.h"
#include <guestram/dirty.h>
#include <os/hooks.h>
#include <sys/resource.h>

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

static struct gr_dirty *open_client(const char *name, uint64_t granularity, unsigned flags)
{
	const struct gr_dirty_opts opts = {
		.name = name, .granularity = granularity, .flags = flags};
	struct gr_dirty *client;

	assert_ok(gr_dirty_open(ram, &opts, &client));
	return client;
}

/* What a harvest of a whole block gives, as "offset+length" in pages, and forgets it. */
static const char *harvest(struct gr_dirty *client, struct gr_block *block)
{
	static char text[4096];
	struct gr_harvest *got;
	uint64_t offset, length, sum = 0;
	size_t at = 0;

	assert_ok(gr_dirty_harvest(client, block, 0, 0, &got));
	text[0] = 0;
	while (gr_harvest_next(got, &offset, &length)) {
		at += snprintf(text + at, sizeof(text) - at, at ? " %llu+%llu" : "%llu+%llu",
			       (unsigned long long)(offset / PAGE),
			       (unsigned long long)(length / PAGE));
		sum += length;
	}
	assert_int_equal(gr_harvest_bytes(got), sum);
	gr_harvest_commit(got);
	return text;
}

static uint64_t dirty_bytes(struct gr_dirty *client, struct gr_block *block)
{
	uint64_t bytes = 1;

	assert_ok(gr_dirty_bytes(client, block, &bytes));
	return bytes;
}

/* --------------------------------------------------------------------- P37: who marks, who not */

static void p37_every_way_to_write_marks_and_none_to_read(void **unused)
{
	struct gr_block *low = new_anon(ram, "low", 16 * PAGE, 0);
	struct gr_block *high = new_memfd(ram, "high", 4 * MIB);
	struct gr_dirty *client = open_client("test", 0, 0);
	uint64_t value = 0;
	uint32_t word = 1;
	char bytes[3 * PAGE] = {0};
	struct iovec iov[4];
	struct gr_pin pin, pins[2];
	int count;

	assert_ok(gr_space_map(space, 0, low, 0, 16 * PAGE, RW));
	assert_ok(gr_space_map(space, 16 * PAGE, high, 0, 4 * MIB, RW));

	/* reading */
	assert_ok(gr_load(space, 0, bytes, sizeof(bytes)));
	assert_ok(gr_load_u64(space, 8, &value));
	assert_ok(gr_load_u64_be(space, 3, &value));
	assert_int_equal(gr_cmpxchg_u32(space, 0, &word, 5), 0); /* it is 0, not 1 */
	gr_read_begin();
	assert_non_null(gr_host(space, 0, 8, GR_READ));
	assert_true(gr_spans(space, 15 * PAGE, 2 * PAGE, RW, iov, 4) == 2);
	gr_read_end();
	assert_ok(gr_pin(space, PAGE, PAGE, GR_READ, &pin));
	gr_unpin(&pin);
	assert_int_equal(gr_store(space, 0, bytes, 0), 0);
	assert_int_equal(gr_store(space, 1 * GIB, bytes, 1), -EFAULT);
	assert_string_equal(harvest(client, low), "");
	assert_string_equal(harvest(client, high), "");

	/* writing */
	assert_ok(gr_store(space, PAGE + 5, bytes, 1));
	assert_string_equal(harvest(client, low), "1+1");
	assert_ok(gr_store(space, 2 * PAGE - 1, bytes, 2));
	assert_string_equal(harvest(client, low), "1+2");
	assert_ok(gr_store(space, 15 * PAGE, bytes, 3 * PAGE)); /* over the seam */
	assert_string_equal(harvest(client, low), "15+1");
	assert_string_equal(harvest(client, high), "0+2");
	assert_ok(gr_store_u8(space, 3 * PAGE, 1));
	assert_ok(gr_store_u16_be(space, 4 * PAGE + 1, 1)); /* unaligned */
	assert_ok(gr_store_u32_le(space, 6 * PAGE, 1));
	assert_ok(gr_store_u64(space, 8 * PAGE, 1));
	assert_ok(gr_store_u64(space, 11 * PAGE - 4, 1)); /* over a page's end */
	assert_string_equal(harvest(client, low), "3+2 6+1 8+1 10+2");
	assert_ok(gr_fill(space, 0, 7, 16 * PAGE));
	assert_string_equal(harvest(client, low), "0+16");
	assert_ok(gr_fill(space, 16 * PAGE + 2 * MIB - 1, 7, 2));
	assert_string_equal(harvest(client, high), "511+2");
	word = 0x07070707;
	assert_int_equal(gr_cmpxchg_u32(space, 5 * PAGE, &word, 9), 1);
	value = 0x0707070707070707;
	assert_int_equal(gr_cmpxchg_u64(space, 7 * PAGE, &value, 9), 1);
	assert_string_equal(harvest(client, low), "5+1 7+1");
	assert_ok(gr_pin(space, 9 * PAGE, 2 * PAGE, RW, &pin));
	assert_string_equal(harvest(client, low), "");
	gr_unpin(&pin);
	assert_string_equal(harvest(client, low), "9+2");
	count = gr_pin_spans(space, 15 * PAGE, 2 * PAGE, GR_WRITE, pins, 2);
	assert_int_equal(count, 2);
	gr_unpin(&pins[0]);
	assert_string_equal(harvest(client, high), "");
	gr_unpin(&pins[1]);
	assert_string_equal(harvest(client, low), "15+1");
	assert_string_equal(harvest(client, high), "0+1");
	assert_ok(gr_block_discard(low, 3 * PAGE, PAGE));
	assert_string_equal(harvest(client, low), "3+1");
	gr_mark_host((char *)info_of(low).host + 2 * PAGE + 4095, 2);
	assert_string_equal(harvest(client, low), "2+2");
	gr_mark_host(info_of(low).host, 0);
	gr_dirty_mark(low, 14 * PAGE, UINT64_MAX); /* cut at its end */
	gr_dirty_mark(low, 16 * PAGE, 1);
	assert_string_equal(harvest(client, low), "14+2");
	assert_ok(gr_dirty_close(client));
}

/* ------------------------------------------------------------------------------------ clients */

static void clients_do_not_see_each_other(void **unused)
{
	struct gr_block *block = new_anon(ram, "b", 100 * PAGE, 0);
	struct gr_dirty *one = open_client("one", 0, 0);
	struct gr_dirty *all, *late;

	gr_dirty_mark(block, 5 * PAGE, PAGE);
	all = open_client("all", 0, GR_DIRTY_ALL);
	late = open_client("late", 4 * PAGE, 0);
	assert_int_equal(dirty_bytes(late, block), 0);
	gr_dirty_mark(block, 70 * PAGE, PAGE);
	assert_string_equal(harvest(all, block), "0+100");
	assert_string_equal(harvest(late, block), "68+4");
	assert_string_equal(harvest(one, block), "5+1 70+1");
	assert_string_equal(harvest(one, block), "");
	assert_ok(gr_dirty_close(one));
	gr_dirty_mark(block, 99 * PAGE, PAGE);
	assert_string_equal(harvest(all, block), "99+1");
	assert_string_equal(harvest(late, block), "96+4");
	assert_ok(gr_dirty_close(all));
	assert_ok(gr_dirty_close(late));
	/* what was marked while nobody asked, and in between, is nobody's */
	gr_dirty_mark(block, 0, PAGE);
	one = open_client("one", 0, 0);
	assert_string_equal(harvest(one, block), "");
	assert_ok(gr_dirty_close(one));
}

static void granularities(void **unused)
{
	struct gr_block *block = new_anon(ram, "b", 2 * MIB + 3 * PAGE, 0);
	struct gr_dirty *kib = open_client("1k", 1 * KIB, 0), *two = open_client("2k", 2 * KIB, 0);
	struct gr_dirty *mib = open_client("1m", 1 * MIB, 0), *gib = open_client("1g", 1 * GIB, 0);
	struct gr_harvest *got;
	uint64_t offset, length;

	gr_mark_host((char *)info_of(block).host + 2 * MIB + PAGE + 1024, 1);
	assert_ok(gr_dirty_harvest(kib, block, 0, 0, &got));
	assert_int_equal(gr_harvest_next(got, &offset, &length), 1);
	assert_int_equal(offset, 2 * MIB + PAGE + 1024);
	assert_int_equal(length, 1024);
	assert_int_equal(gr_harvest_next(got, &offset, &length), 0);
	gr_harvest_commit(got);
	assert_ok(gr_dirty_harvest(two, block, 2 * MIB, 3 * PAGE, &got));
	assert_int_equal(gr_harvest_next(got, &offset, &length), 1);
	assert_int_equal(offset, 2 * MIB + PAGE);
	assert_int_equal(length, 2048);
	gr_harvest_commit(got);
	assert_ok(gr_dirty_harvest(mib, block, 0, 2 * MIB, &got));
	assert_int_equal(gr_harvest_bytes(got), 0);
	gr_harvest_commit(got);
	assert_ok(gr_dirty_harvest(mib, block, 2 * MIB, 0, &got));
	assert_int_equal(gr_harvest_bytes(got), 3 * PAGE); /* cut at the block's end */
	gr_harvest_commit(got);
	assert_int_equal(dirty_bytes(gib, NULL), 2 * MIB + 3 * PAGE);
	assert_ok(gr_dirty_close(kib));
	assert_ok(gr_dirty_close(two));
	assert_ok(gr_dirty_close(mib));
	assert_ok(gr_dirty_close(gib));
}

static void p40_a_harvest_that_is_returned_has_lost_nothing(void **unused)
{
	struct gr_block *block = new_anon(ram, "b", 10 * PAGE, 0), *other;
	struct gr_dirty *client = open_client("test", 0, 0);
	struct gr_harvest *got, *gone;

	gr_dirty_mark(block, 2 * PAGE, PAGE);
	assert_ok(gr_dirty_harvest(client, block, 0, 0, &got));
	gr_dirty_mark(block, 4 * PAGE, PAGE);
	assert_error(gr_dirty_close(client), -EBUSY, "1 harvests");
	assert_error(gr_ram_close(ram), -EBUSY, "dirty");
	gr_harvest_return(got);
	assert_string_equal(harvest(client, block), "2+1 4+1");

	/* of a block that is gone, and of another at its place */
	gr_dirty_mark(block, 0, PAGE);
	assert_ok(gr_dirty_harvest(client, block, 0, 0, &gone));
	assert_ok(gr_block_delete(block));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	other = new_anon(ram, "b", 10 * PAGE, 0);
	gr_harvest_return(gone);
	assert_string_equal(harvest(client, other), "");
	assert_ok(gr_dirty_close(client));
}

/* ------------------------------------------------------------------------------------- blocks */

static void p30_blocks_that_come_while_a_client_runs(void **unused)
{
	struct gr_dirty *client = open_client("some", 0, 0);
	struct gr_dirty *all = open_client("all", 0, GR_DIRTY_ALL);
	struct gr_block *block;

	for (int round = 0; round < 3; round++) {
		block = new_anon(ram, "late", 64 * PAGE, 0);
		assert_string_equal(harvest(client, block), "");
		assert_string_equal(harvest(all, block), "0+64");
		assert_ok(gr_space_map(space, 0, block, 0, 64 * PAGE, RW));
		assert_ok(gr_store_u8(space, 63 * PAGE, 1));
		assert_ok(gr_store_u8(space, 0, 1));
		assert_string_equal(harvest(client, block), "0+1 63+1");
		assert_ok(gr_store_u8(space, 9 * PAGE, 1)); /* and goes with it */
		assert_ok(gr_space_unmap(space, 0, 64 * PAGE));
		assert_ok(gr_block_delete(block));
		assert_ok(gr_ram_drain(ram, LONG_MS));
	}
	assert_ok(gr_dirty_close(client));
	assert_ok(gr_dirty_close(all));
}

static void p31_p33_blocks_at_odd_and_high_places(void **unused)
{
	char *memory = reserve(64 * PAGE);
	struct gr_block *odd, *big;
	struct gr_dirty *client = open_client("test", 0, 0);

	assert_ok(mprotect(memory, 64 * PAGE, PROT_READ | PROT_WRITE));
	/* three blocks side by side: none sees a bit of its neighbours */
	odd = new_caller(ram, "odd", memory + 7 * PAGE, 3 * PAGE, NULL);
	new_caller(ram, "before", memory, 7 * PAGE, NULL);
	new_caller(ram, "after", memory + 10 * PAGE, 54 * PAGE, NULL);
	gr_mark_host(memory, 64 * PAGE);
	assert_string_equal(harvest(client, odd), "0+3");
	assert_string_equal(harvest(client, odd), "");
	assert_int_equal(dirty_bytes(client, NULL), 61 * PAGE);
	big = new_anon(ram, "big", 5 * GIB, 0);
	assert_ok(gr_space_map(space, 1 * TIB, big, 0, 5 * GIB, RW));
	assert_ok(gr_store_u8(space, 1 * TIB + 4 * GIB + 512 * MIB, 1));
	assert_ok(gr_store_u8(space, 1 * TIB + 5 * GIB - 1, 1));
	assert_string_equal(harvest(client, big), "1179648+1 1310719+1");
	assert_ok(gr_dirty_close(client));
}

static void what_a_resize_changes(void **unused)
{
	struct gr_block *block = new_anon(ram, "b", 4 * PAGE, 16 * PAGE);
	struct gr_dirty *client = open_client("test", 0, 0);
	struct gr_dirty *all = open_client("all", 2 * PAGE, GR_DIRTY_ALL);

	assert_int_equal(dirty_bytes(all, block), 4 * PAGE); /* only what is used */
	assert_ok(gr_block_resize(block, 7 * PAGE));
	assert_string_equal(harvest(client, block), "4+3");
	assert_string_equal(harvest(all, block), "0+7");
	gr_dirty_mark(block, 6 * PAGE, PAGE);
	assert_ok(gr_block_resize(block, 2 * PAGE));
	assert_string_equal(harvest(client, block), "");
	assert_ok(gr_block_resize(block, 16 * PAGE));
	assert_string_equal(harvest(client, block), "2+14");
	assert_ok(gr_dirty_close(client));
	assert_ok(gr_dirty_close(all));
}

/* ------------------------------------------------------------------------------------- errors */

static void errors_that_are_told(void **unused)
{
	const struct gr_dirty_opts bad[] = {
		{.name = NULL},
		{.name = ""},
		{.name = "0123456789012345678901234567890123456789012345678901234567890123"},
		{.name = "x", .granularity = 512},
		{.name = "x", .granularity = 3 * KIB},
		{.name = "x", .granularity = 2 * GIB},
		{.name = "x", .flags = 8},
		{.name = "x", .reserved = {0, 1}},
	};
	struct gr_block *block = new_anon(ram, "b", 10 * PAGE, 20 * PAGE), *strange;
	struct gr_harvest *got = NULL;
	struct gr_dirty *client;
	struct gr_ram *other;

	for (size_t i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(gr_dirty_open(ram, &bad[i], &client), -EINVAL);
	assert_int_equal(gr_dirty_open(ram, NULL, &client), -EINVAL);
	gr_read_begin();
	assert_int_equal(gr_dirty_open(ram, &(struct gr_dirty_opts){.name = "x"}, &client),
			 -EDEADLK);
	gr_read_end();
	client = open_client("test", 2 * PAGE, 0);
	gr_read_begin();
	assert_int_equal(gr_dirty_close(client), -EDEADLK);
	gr_read_end();
	assert_error(gr_dirty_harvest(client, block, PAGE, 0, &got), -EINVAL, "offset");
	assert_error(gr_dirty_harvest(client, block, 0, PAGE, &got), -EINVAL, "length");
	assert_error(gr_dirty_harvest(client, block, 20 * PAGE, 0, &got), -ERANGE, "past");
	assert_error(gr_dirty_harvest(client, block, 2 * PAGE, 20 * PAGE, &got), -ERANGE, "leave");
	assert_error(gr_dirty_harvest(client, block, 2 * PAGE, 0 - 2 * PAGE, &got), -ERANGE,
		     "leave");
	assert_ok(gr_ram_open(NULL, &other));
	strange = new_anon(other, "b", PAGE, 0);
	assert_error(gr_dirty_harvest(client, strange, 0, 0, &got), -ENOENT, "no live block");
	assert_ok(gr_ram_close(other));
	assert_null(got);
	/* past the used length there is nothing, and that is no error */
	assert_ok(gr_dirty_harvest(client, block, 12 * PAGE, 4 * PAGE, &got));
	assert_int_equal(gr_harvest_bytes(got), 0);
	gr_harvest_commit(got);
	gr_harvest_commit(NULL);
	gr_harvest_return(NULL);
	assert_ok(gr_dirty_close(client));
	assert_ok(gr_dirty_close(NULL));
}

/* A source that knows of page 3, and fails when told to. */
static int source_fails, source_blocks;

static int source_added(void *context, struct gr_block *block)
{
	source_blocks++;
	return source_fails;
}

static void source_removed(void *context, struct gr_block *block)
{
	source_blocks--;
}

static int source_collect(void *context, struct gr_block *block, uint64_t offset, uint64_t length,
			  struct gr_dirty_sink *sink)
{
	if (source_fails)
		return source_fails;
	if (offset <= 3 * PAGE && offset + length > 3 * PAGE)
		gr_dirty_report(sink, 3 * PAGE, PAGE);
	return 0;
}

static void a_source_is_asked_and_its_failure_loses_nothing(void **unused)
{
	static const struct gr_dirty_source_ops ops = {
		.added = source_added, .removed = source_removed, .collect = source_collect};
	static const struct gr_dirty_source_ops none = {.added = source_added};
	struct gr_block *block = new_anon(ram, "b", 10 * PAGE, 0), *refused;
	struct gr_dirty *client = open_client("test", 0, 0);
	struct gr_dirty_source *source;
	struct gr_harvest *got;

	assert_int_equal(gr_dirty_source_open(ram, &none, NULL, &source), -EINVAL);
	source_fails = -EXDEV;
	assert_int_equal(gr_dirty_source_open(ram, &ops, NULL, &source), -EXDEV);
	source_fails = source_blocks = 0;
	assert_ok(gr_dirty_source_open(ram, &ops, NULL, &source));
	assert_int_equal(source_blocks, 1);
	assert_string_equal(harvest(client, block), "3+1");
	gr_dirty_mark(block, 0, PAGE);
	source_fails = -EIO;
	assert_int_equal(gr_dirty_harvest(client, block, 0, 0, &got), -EIO);
	assert_int_equal(
		gr_block_new(ram, &(struct gr_block_opts){.name = "no", .length = PAGE}, &refused),
		-EIO);
	source_fails = 0;
	assert_string_equal(harvest(client, block), "0+1 3+1");
	source_fails = -EIO; /* one that cannot say any more: all may be dirty */
	source_blocks = 1;
	gr_dirty_source_close(source);
	assert_int_equal(source_blocks, 0);
	assert_string_equal(harvest(client, block), "0+10");
	source_fails = 0;
	assert_ok(gr_dirty_close(client));
}

/* Each call that can fail fails once, at every position; then the same works. */
static int fault_at, fault_count;

static int fail_once(const char *call)
{
	if (!strcmp(call, "membarrier"))
		return 0; /* no error: marks get slower */
	return ++fault_count == fault_at ? ENOMEM : 0;
}

static void every_fault_of_open_and_harvest(void **unused)
{
	struct gr_block *block = new_anon(ram, "b", 10 * PAGE, 0), *late;
	struct gr_dirty_opts opts = {.name = "x", .granularity = 1 * KIB};
	struct gr_block_opts more = {.name = "late", .length = 64 * PAGE};
	struct gr_dirty *client = NULL;
	struct gr_harvest *got = NULL;
	int positions = 0, rc;

	for (int step = 0; step < 3; step++) {
		for (fault_at = 1;; fault_at++) {
			fault_count = 0;
			gr__hook_fault = fail_once;
			if (step == 0)
				rc = gr_dirty_open(ram, &opts, &client);
			else if (step == 1)
				rc = gr_block_new(ram, &more, &late);
			else
				rc = gr_dirty_harvest(client, block, 0, 0, &got);
			gr__hook_fault = NULL;
			if (rc == 0)
				break;
			positions++;
			assert_int_equal(rc, -ENOMEM);
			assert_int_equal(stats_of(ram).blocks, 1 + (step == 2));
		}
		gr_dirty_mark(block, PAGE, PAGE);
	}
	assert_true(positions >= 8);
	assert_int_equal(gr_harvest_bytes(got), PAGE);
	gr_harvest_commit(got);
	assert_ok(gr_dirty_close(client));
}

static void without_membarrier_marks_have_the_barrier(void **unused)
{
	struct gr_block *block = new_anon(ram, "b", 10 * PAGE, 0);
	struct gr_dirty *client = open_client("test", 0, 0);

	__atomic_store_n(&gr__marks.slow, 1, __ATOMIC_RELAXED);
	gr_dirty_mark(block, PAGE, PAGE);
	gr_mark_host(info_of(block).host, 1);
	assert_string_equal(harvest(client, block), "0+2");
	__atomic_store_n(&gr__marks.slow, 0, __ATOMIC_RELAXED);
	assert_ok(gr_dirty_close(client));
}

static long resident_kib(void)
{
	long size, pages;
	FILE *statm = fopen("/proc/self/statm", "r");

	assert_non_null(statm);
	assert_int_equal(fscanf(statm, "%ld %ld", &size, &pages), 2);
	fclose(statm);
	return pages * 4;
}

static void p35_maps_and_clients_that_come_and_go_leave_nothing(void **unused)
{
	struct gr_block *block = new_anon(ram, "b", 64 * MIB, 0);
	struct gr_dirty *client = open_client("stays", 0, 0);
	long before = 0;

	for (int i = 0; i < 20000; i++) {
		assert_ok(gr_space_map(space, 0, block, 0, 64 * MIB, RW));
		assert_ok(gr_store_u8(space, (i * 5 % 4) * PAGE, 1));
		assert_ok(gr_space_unmap(space, 0, 64 * MIB));
		if (i % 100 == 0) {
			assert_ok(gr_dirty_close(client));
			client = open_client("again", 0, GR_DIRTY_ALL);
		}
		if (i == 2000)
			before = resident_kib();
	}
	assert_true(WATCHED || resident_kib() - before < 4096);
	assert_ok(gr_dirty_close(client));
}

int main(void)
{
#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)
	const struct CMUnitTest tests[] = {
		each(p37_every_way_to_write_marks_and_none_to_read),
		each(clients_do_not_see_each_other),
		each(granularities),
		each(p40_a_harvest_that_is_returned_has_lost_nothing),
		each(p30_blocks_that_come_while_a_client_runs),
		each(p31_p33_blocks_at_odd_and_high_places),
		each(what_a_resize_changes),
		each(errors_that_are_told),
		each(a_source_is_asked_and_its_failure_loses_nothing),
		each(every_fault_of_open_and_harvest),
		each(without_membarrier_marks_have_the_barrier),
		each(p35_maps_and_clients_that_come_and_go_leave_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
