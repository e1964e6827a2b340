/* SPDX-License-Identifier: MIT */
/*
 * Q1, Q2, Q3: what a reader remembers of a block outlives the block, but is never followed. The
 * interleavings are forced: a thread is stopped at a named point of the library.
 */
#include "case.h"
#include <stdlib.h>
#include <sys/mman.h>
#include <urcu/urcu-memb.h>
#ifdef CASE_BASELINE
#include "baseline/shared_mru.h"
#endif

#define BASE GIB

/* ------------------------------------------------------------------------------ the old design */

#ifdef CASE_BASELINE

static struct mru_list list;
static sem_t found, removed;

/* Reader A has found the block, and waits for its removal before it caches it. */
static void hold_in_window(struct mru_block *block)
{
	sem_post(&found);
	while (!__atomic_load_n(&block->unlinked, __ATOMIC_ACQUIRE))
		usleep(100);
}

static void no_window(struct mru_block *block)
{
	(void)block;
}

static void *find_slowly(void *unused)
{
	void *result;

	urcu_memb_register_thread();
	urcu_memb_read_lock();
	result = mru_find(&list, BASE, hold_in_window);
	urcu_memb_read_unlock();
	urcu_memb_unregister_thread();
	return result;
}

static void *remove_and_free(void *context)
{
	struct mru_block *block = context;

	urcu_memb_register_thread();
	mru_remove(&list, block); /* waits for a grace period */
	memset(block->host, 0xdb, PAGE);
	urcu_memb_unregister_thread();
	sem_post(&removed);
	return NULL;
}

/* The same steps as in the next test, on the design that they break. */
static void q1_stale_mru_follows_a_freed_block_in_the_old_design(void **unused)
{
	struct mru_block block = {.addr = BASE, .length = MIB, .host = case_pages(PAGE)};
	struct mru_block *stale;
	pthread_t reader, writer;
	void *seen;

	block.host[0] = 1;
	sem_init(&found, 0, 0);
	sem_init(&removed, 0, 0);
	mru_init(&list);
	mru_insert(&list, &block);
	assert_int_equal(pthread_create(&reader, NULL, find_slowly, NULL), 0);
	sem_wait(&found);
	assert_int_equal(pthread_create(&writer, NULL, remove_and_free, &block), 0);
	sem_wait(&removed);
	pthread_join(writer, NULL);
	pthread_join(reader, &seen);
	assert_ptr_equal(seen, &block);

	/* Reader C, long after the grace period: it gets what was freed. */
	gr_read_begin();
	stale = mru_find(&list, BASE, no_window);
	assert_ptr_equal(stale, &block);
	assert_int_equal((unsigned char)stale->host[0], 0xdb);
	gr_read_end();
	munmap(block.host, PAGE);
	pthread_mutex_destroy(&list.lock);
}

#endif

/* ------------------------------------------------------------------------------------- ours */

/* A reader with a cursor that looks up in steps, as told. */
struct cursor_reader {
	struct gr_cursor cursor;
	uint64_t addr;
	unsigned warm_up;   /* lookups in another granule before the one that is stopped */
	void *first;	    /* what that one gave, */
	unsigned char byte; /* and what was there, inside the section */
	void *second;	    /* what the next section gave */
	void *through_space;
	sem_t go_on;
};

static void *read_twice(void *context)
{
	struct cursor_reader *reader = context;
	unsigned i;

	for (i = 0; i < reader->warm_up; i++)
		case_cursor(&reader->cursor, BASE, 1, GR_READ);
	gr_read_begin();
	reader->first = gr_cursor_host(&reader->cursor, reader->addr, 1, GR_READ);
	if (reader->first)
		reader->byte = *(unsigned char *)reader->first;
	gr_read_end();

	while (sem_wait(&reader->go_on) < 0)
		;
	gr_read_begin();
	reader->second = gr_cursor_host(&reader->cursor, reader->addr, 1, GR_READ);
	reader->through_space = gr_host(reader->cursor.space, reader->addr, 1, GR_READ);
	gr_read_end();
	return NULL;
}

/*
 * Reader A is stopped before it caches X; X is removed, its grace period waits for A; A caches X
 * and leaves; X is released. What A cached must miss. @skip: which of the two ways to fill.
 */
static void force_stale_fill(uint64_t length, int skip, bool map_another)
{
	struct cursor_reader reader = {.addr = BASE + length - 1};
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	void *memory = case_pages(length), *other_memory = case_pages(length);
	int released = 0, other_released = 0;
	struct gr_block *block, *other = NULL;
	struct gate gate;
	pthread_t thread;

	memset(memory, 1, length);
	memset(other_memory, 2, length);
	block = case_caller(ram, "x", memory, length, GR_DELETE_UNMAP, &released);
	case_map(space, BASE, block, 0, length, RW);
	gr_cursor_init(&reader.cursor, space);
	sem_init(&reader.go_on, 0, 0);
	reader.warm_up = (unsigned)skip;
	gate_arm(&gate, "cursor.fill", NULL, skip);
	assert_int_equal(pthread_create(&thread, NULL, read_twice, &reader), 0);
	gate_wait(&gate);

	assert_ok(gr_block_delete(block));
	assert_null(case_lookup(space, BASE, 1, GR_READ));
	if (map_another) {
		other = case_caller(ram, "y", other_memory, length, GR_DELETE_UNMAP,
				    &other_released);
		case_map(space, BASE, other, 0, length, RW);
	}
	/* A is still inside: nothing may be released, however long we wait. */
	assert_int_equal(gr_ram_drain(ram, 60), -ETIMEDOUT);
	assert_int_equal(case_released(&released), 0);

	gate_open(&gate);
	case_drain(ram);
	assert_int_equal(case_released(&released), 1);
	sem_post(&reader.go_on);
	pthread_join(thread, NULL);
	gate_disarm(&gate);

	assert_ptr_equal(reader.first, (char *)memory + length - 1); /* as its section allowed */
	assert_int_equal(reader.byte, 1);
	assert_ptr_equal(reader.second,
			 map_another ? (char *)other_memory + length - 1 : (char *)NULL);
	assert_ptr_equal(reader.through_space, reader.second);
	case_close(ram);
	assert_int_equal(other_released, map_another);
	munmap(memory, length);
	munmap(other_memory, length);
}

static void q1_stale_cursor_misses_after_a_range_fill(void **unused)
{
	force_stale_fill(64 * KIB, 0, false);
}

static void q1_stale_cursor_misses_after_a_granule_fill(void **unused)
{
	force_stale_fill(4 * MIB, 0, false);
	force_stale_fill(4 * MIB, 1, false); /* the second miss remembers the whole range */
}

static void q1_stale_cursor_sees_the_block_that_took_the_place(void **unused)
{
	force_stale_fill(64 * KIB, 0, true);
	force_stale_fill(4 * MIB, 0, true);
	force_stale_fill(4 * MIB, 1, true);
}

struct pin_reader {
	struct gr_space *space;
	struct gr_pin pin;
	int rc;
	bool spans;
};

static void *pin_once(void *context)
{
	struct pin_reader *reader = context;

	if (reader->spans)
		reader->rc = gr_pin_spans(reader->space, BASE, 16, RW, &reader->pin, 1);
	else
		reader->rc = gr_pin(reader->space, BASE, 16, RW, &reader->pin);
	return NULL;
}

/* The block was found and is not pinned yet when it is removed: the section keeps it until it is.
 */
static void q1_block_found_but_not_yet_pinned_survives(void **unused)
{
	int spans;

	for (spans = 0; spans < 2; spans++) {
		struct gr_ram *ram = case_ram();
		struct pin_reader reader = {.space = case_space(ram, "guest"), .spans = spans};
		void *memory = case_pages(PAGE);
		int released = 0;
		struct gr_block *block =
			case_caller(ram, "x", memory, PAGE, GR_DELETE_UNMAP, &released);
		struct gate gate;
		pthread_t thread;

		case_map(reader.space, BASE, block, 0, PAGE, RW);
		gate_arm(&gate, "pin.found", NULL, 0);
		assert_int_equal(pthread_create(&thread, NULL, pin_once, &reader), 0);
		gate_wait(&gate);
		assert_ok(gr_block_delete(block));
		assert_int_equal(gr_ram_drain(ram, 60), -ETIMEDOUT);
		assert_int_equal(case_released(&released), 0);
		gate_open(&gate);
		pthread_join(thread, NULL);
		gate_disarm(&gate);
		assert_int_equal(reader.rc, spans);

		/* Its section is over; now the pin keeps it. */
		assert_int_equal(gr_ram_drain(ram, 60), -ETIMEDOUT);
		assert_int_equal(case_released(&released), 0);
		memset(reader.pin.host, 3, 16);
		gr_unpin(&reader.pin);
		case_drain(ram);
		assert_int_equal(case_released(&released), 1);
		case_close(ram);
		munmap(memory, PAGE);
	}
}

/* A section that begins after the unlink and before the grace period finds nothing any more. */
static void q1_section_after_the_unlink_never_sees_the_block(void **unused)
{
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	void *memory = case_pages(PAGE);
	int released = 0;
	struct gr_block *block = case_caller(ram, "x", memory, PAGE, GR_DELETE_UNMAP, &released);
	uint64_t offset_in_block = 77, ram_offset;
	struct gr_block_info info;
	struct gr_cursor cursor;
	struct gate gate;

	gr_block_get_info(block, &info);
	ram_offset = info.ram_offset;
	case_map(space, BASE, block, 0, PAGE, RW);
	gr_cursor_init(&cursor, space);
	assert_ptr_equal(case_cursor(&cursor, BASE, 1, RW), memory);
	gate_arm(&gate, "reclaim.before_grace", NULL, 0);
	assert_ok(gr_block_delete(block));
	gate_wait(&gate);

	gr_read_begin();
	assert_null(gr_host(space, BASE, 1, GR_READ));
	assert_null(gr_cursor_host(&cursor, BASE, 1, GR_READ));
	assert_null(gr_block_by_name(ram, "x"));
	assert_null(gr_block_by_host(ram, memory, &offset_in_block));
	assert_null(gr_block_by_offset(ram, ram_offset, &offset_in_block));
	assert_int_equal(offset_in_block, 77);
	gr_read_end();
	assert_int_equal(case_released(&released), 0);
	gate_open(&gate);
	case_drain(ram);
	gate_disarm(&gate);
	assert_int_equal(case_released(&released), 1);
	case_close(ram);
	munmap(memory, PAGE);
}

struct map_writer {
	struct gr_space *space;
	struct gr_block *block;
	int rc;
};

static void *replace_range(void *context)
{
	struct map_writer *writer = context;
	struct gr_txn *txn;

	writer->rc = gr_txn_begin(writer->space, &txn);
	if (!writer->rc)
		writer->rc = gr_txn_unmap(txn, BASE, 4 * MIB);
	if (!writer->rc)
		writer->rc = gr_txn_map(txn, BASE, writer->block, 0, 4 * MIB, RW);
	if (!writer->rc)
		writer->rc = gr_txn_commit(txn);
	return NULL;
}

/* A writer that stands anywhere in a change, its lock held, stops no reader. */
static void q1_readers_pass_a_writer_that_is_stopped(void **unused)
{
	static const struct {
		const char *point;
		bool published;
	} points[] = {
		{"view.publish", false},
		{"view.published", true},
		{"change.unlocked", true},
	};
	size_t i;

	for (i = 0; i < COUNT_OF(points); i++) {
		struct gr_ram *ram = case_ram();
		struct map_writer writer = {.space = case_space(ram, "guest")};
		struct gr_block *before = case_anon(ram, "before", 4 * MIB);
		struct gr_block *after = case_anon(ram, "after", 4 * MIB);
		char *expect = case_host(points[i].published ? after : before);
		struct gr_cursor cursor;
		struct gr_pin pin;
		struct gate gate;
		uint8_t byte;
		pthread_t thread;

		case_map(writer.space, BASE, before, 0, 4 * MIB, RW);
		writer.block = after;
		gr_cursor_init(&cursor, writer.space);
		assert_ptr_equal(case_cursor(&cursor, BASE + 8, 8, RW),
				 (char *)case_host(before) + 8);
		gate_arm(&gate, points[i].point, NULL, 0);
		assert_int_equal(pthread_create(&thread, NULL, replace_range, &writer), 0);
		gate_wait(&gate);
		assert_ptr_equal(case_lookup(writer.space, BASE + 8, 8, RW), expect + 8);
		assert_ptr_equal(case_cursor(&cursor, BASE + 8, 8, RW), expect + 8);
		/* also where the ranges have to be asked: across granules */
		assert_ptr_equal(case_lookup(writer.space, BASE + 2 * MIB - 4, 8, RW),
				 expect + 2 * MIB - 4);
		assert_ok(gr_load_u8(writer.space, BASE, &byte));
		assert_ok(gr_pin(writer.space, BASE, PAGE, RW, &pin));
		assert_ptr_equal(pin.host, expect);
		gr_unpin(&pin);
		gate_open(&gate);
		pthread_join(thread, NULL);
		gate_disarm(&gate);
		assert_int_equal(writer.rc, 0);
		assert_ptr_equal(case_lookup(writer.space, BASE, 8, RW), case_host(after));
		case_close(ram);
	}
}

/* -------------------------------------------------------------- Q2: cached before an unmap */

/* Once, so that the cursor remembers a granule; or more often, so that it remembers the range. */
static void warm(struct gr_cursor *cursor, uint64_t addr, void *expect, int times)
{
	if (times > 1) /* a miss in the neighbour granule, with the same word or in a hole */
		case_cursor(cursor, addr ^ (2 * MIB), 1, 0);
	while (times-- > 0)
		assert_ptr_equal(case_cursor(cursor, addr, 1, RW), expect);
}

static void q2_cached_lookup_misses_after_unmap_and_sees_the_next_block(void **unused)
{
	static const uint64_t lengths[] = {PAGE, 2 * MIB, 6 * MIB, 3 * GIB};
	static const uint64_t addrs[] = {0, BASE, BASE + 5 * PAGE, 70 * GIB, 1 << 20};
	size_t i, k;
	int times;

	for (i = 0; i < COUNT_OF(lengths); i++)
		for (k = 0; k < COUNT_OF(addrs); k++)
			for (times = 1; times <= 2; times++) {
				uint64_t length = lengths[i], addr = addrs[k],
					 at = addr + length / 2;
				struct gr_ram *ram = case_ram();
				struct gr_space *space = case_space(ram, "guest");
				struct gr_block *a = case_anon(ram, "a", length);
				struct gr_block *b = case_anon(ram, "b", length);
				struct gr_cursor cursor;

				gr_cursor_init(&cursor, space);
				assert_null(case_cursor(&cursor, at, 1, RW));
				case_map(space, addr, a, 0, length, RW);
				/* something far away, so that the index is not flat */
				case_map(space, 500 * GIB, a, 0, PAGE, RW);
				warm(&cursor, at, (char *)case_host(a) + length / 2, times);
				assert_ok(gr_space_unmap(space, addr, length));
				assert_null(case_cursor(&cursor, at, 1, RW));
				assert_null(case_cursor(&cursor, at, 1, 0));
				case_map(space, addr, b, 0, length, RW);
				warm(&cursor, at, (char *)case_host(b) + length / 2, 3);
				case_close(ram);
			}
}

static void q2_cached_lookup_follows_every_kind_of_change(void **unused)
{
	const uint64_t length = 8 * MIB, at = BASE + 5 * MIB;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block_opts opts = {.name = "a", .length = length, .max_length = length};
	struct gr_block *a, *b = case_anon(ram, "b", length);
	struct gr_cursor cursor;
	struct gr_txn *txn;
	char *host;

	assert_ok(gr_block_new(ram, &opts, &a));
	host = case_host(a);
	gr_cursor_init(&cursor, space);
	case_map(space, BASE, a, 0, length, RW);
	warm(&cursor, at, host + 5 * MIB, 2);

	/* a change elsewhere */
	case_map(space, 0, b, 0, PAGE, RW);
	warm(&cursor, at, host + 5 * MIB, 2);

	/* a hole in the middle of what it remembers */
	assert_ok(gr_space_unmap(space, at, PAGE));
	assert_null(case_cursor(&cursor, at, 1, RW));
	assert_null(case_cursor(&cursor, at - 1, 2, RW));
	warm(&cursor, at - 1, host + 5 * MIB - 1, 3);
	warm(&cursor, at + PAGE, host + 5 * MIB + PAGE, 3);
	assert_null(case_cursor(&cursor, at, 1, RW));

	/* other rights at the same place */
	assert_ok(gr_space_unmap(space, BASE, length));
	case_map(space, BASE, a, 0, length, GR_READ);
	assert_null(case_cursor(&cursor, at, 1, RW));
	assert_ptr_equal(case_cursor(&cursor, at, 1, GR_READ), host + 5 * MIB);
	assert_null(case_cursor(&cursor, at, 1, GR_WRITE));

	/* both at once, in a transaction; another offset of the same block */
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, BASE, length));
	assert_ok(gr_txn_map(txn, BASE + 4 * MIB, a, 0, 4 * MIB, RW));
	assert_ok(gr_txn_commit(txn));
	warm(&cursor, at, host + MIB, 2);
	assert_null(case_cursor(&cursor, BASE, 1, RW));

	/* the block gets shorter, and longer again */
	assert_ok(gr_block_resize(a, MIB));
	assert_null(case_cursor(&cursor, at, 1, RW));
	warm(&cursor, at - 1, host + MIB - 1, 2);
	assert_null(case_cursor(&cursor, at, 1, RW)); /* now that it knows the part before */
	assert_null(case_cursor(&cursor, at - 1, 2, RW));
	assert_ok(gr_block_resize(a, length));
	warm(&cursor, at, host + MIB, 2);
	case_close(ram);
}

/* ---------------------------------------------------------- Q3: deleted, and its memory reused */

/* The same host memory becomes another block, at other addresses and offsets. */
static void q3_block_whose_memory_is_reused_is_never_mixed_up(void **unused)
{
	const uint64_t length = 4 * MIB;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	char *memory = case_pages(length);
	int released = 0, times;

	for (times = 1; times <= 2; times++) {
		struct gr_block *a, *b;
		struct gr_cursor cursor;

		a = case_caller(ram, "a", memory, length, GR_DELETE_UNMAP, &released);
		gr_cursor_init(&cursor, space);
		case_map(space, BASE, a, 0, length, RW);
		warm(&cursor, BASE + MIB, memory + MIB, times);
		assert_ok(gr_block_delete(a));
		case_drain(ram);

		b = case_caller(ram, "b", memory, length, GR_DELETE_UNMAP, &released);
		assert_null(case_cursor(&cursor, BASE + MIB, 1, RW));
		case_map(space, BASE + 64 * MIB, b, 0, length, RW);
		assert_null(case_cursor(&cursor, BASE + MIB, 1, RW));
		case_map(space, BASE, b, 2 * MIB, 2 * MIB, GR_READ);
		assert_null(case_cursor(&cursor, BASE + MIB, 1, RW));
		assert_ptr_equal(case_cursor(&cursor, BASE + MIB, 1, GR_READ), memory + 3 * MIB);
		assert_null(case_cursor(&cursor, BASE + 3 * MIB, 1, GR_READ));
		assert_ok(gr_block_delete(b));
		case_drain(ram);
	}
	assert_int_equal(released, 4);
	case_close(ram);
	munmap(memory, length);
}

/* Cursors filled at every one of many generations, all asked at every later one. */
static void q3_old_cursors_never_come_alive_again(void **unused)
{
	enum { CURSORS = 300 };
	const uint64_t length = 4 * MIB;
	static struct gr_cursor cursors[CURSORS];
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	char *memory = case_pages(2 * length);
	uint64_t generation = 0, random = 88172645463325252ull;
	struct gr_ram_stats stats;
	int released = 0;
	size_t i, k;

	for (i = 0; i < CURSORS; i++) {
		/* One of two places of memory, one of two addresses; the block structure's own
		 * memory is reused by malloc(). */
		uint64_t at = BASE + (case_random(&random) % 2) * length;
		char *host = memory + (case_random(&random) % 2) * length;
		struct gr_block *block =
			case_caller(ram, "x", host, length, GR_DELETE_UNMAP, &released);

		case_map(space, at, block, 0, length, RW);
		gr_cursor_init(&cursors[i], space);
		warm(&cursors[i], at + MIB, host + MIB, 1 + (int)(i % 2));
		for (k = 0; k <= i; k++) {
			struct gr_cursor copy = cursors[k];

			assert_ptr_equal(case_cursor(&copy, BASE + MIB, 8, RW),
					 at == BASE ? host + MIB : NULL);
			assert_ptr_equal(case_cursor(&copy, BASE + length + MIB, 8, RW),
					 at == BASE ? NULL : host + MIB);
		}
		gr_ram_get_stats(ram, &stats);
		assert_true(stats.generation > generation);
		generation = stats.generation;
		assert_ok(gr_block_delete(block));
		case_drain(ram);
		for (k = 0; k <= i; k++) {
			struct gr_cursor copy = cursors[k];

			assert_null(case_cursor(&copy, at + MIB, 8, RW));
		}
	}
	assert_int_equal(released, CURSORS);
	case_close(ram);
	munmap(memory, 2 * length);
}

/* Two spaces: a generation of one is never taken for one of the other. */
static void q3_generations_are_unique_over_all_spaces(void **unused)
{
	struct gr_ram *ram = case_ram();
	struct gr_space *a = case_space(ram, "a"), *b = case_space(ram, "b");
	struct gr_block *block = case_anon(ram, "x", 4 * MIB);
	struct gr_cursor cursor;
	int i;

	case_map(b, BASE, block, 2 * MIB, 2 * MIB, RW);
	/* a changes twice as often as b, so whatever each of them counts, it meets the other's */
	for (i = 0; i < 20; i++) {
		gr_cursor_init(&cursor, a);
		case_map(a, BASE, block, 0, 2 * MIB, RW);
		warm(&cursor, BASE, case_host(block), 2);
		cursor.space = b; /* what a caller might do with a cursor that he moves */
		assert_ptr_equal(case_cursor(&cursor, BASE, 1, RW),
				 (char *)case_host(block) + 2 * MIB);
		assert_ok(gr_space_unmap(a, BASE, 2 * MIB));
		if (i % 2)
			assert_ok(gr_space_unmap(b, 4 * BASE, PAGE));
		else
			case_map(b, 4 * BASE, block, 0, PAGE, RW);
	}
	case_close(ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#ifdef CASE_BASELINE
		cmocka_unit_test(q1_stale_mru_follows_a_freed_block_in_the_old_design),
#endif
		cmocka_unit_test(q1_stale_cursor_misses_after_a_range_fill),
		cmocka_unit_test(q1_stale_cursor_misses_after_a_granule_fill),
		cmocka_unit_test(q1_stale_cursor_sees_the_block_that_took_the_place),
		cmocka_unit_test(q1_block_found_but_not_yet_pinned_survives),
		cmocka_unit_test(q1_section_after_the_unlink_never_sees_the_block),
		cmocka_unit_test(q1_readers_pass_a_writer_that_is_stopped),
		cmocka_unit_test(q2_cached_lookup_misses_after_unmap_and_sees_the_next_block),
		cmocka_unit_test(q2_cached_lookup_follows_every_kind_of_change),
		cmocka_unit_test(q3_block_whose_memory_is_reused_is_never_mixed_up),
		cmocka_unit_test(q3_old_cursors_never_come_alive_again),
		cmocka_unit_test(q3_generations_are_unique_over_all_spaces),
	};

	case_watchdog(60);
	return cmocka_run_group_tests_name("stale lookups", tests, NULL, NULL);
}
