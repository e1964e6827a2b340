/* SPDX-License-Identifier: MIT */
/* What listeners are told, in which order, how they refuse, and what they may call. */
#include "recorder.h"

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;
static char *host;

static int open_ram(void **unused)
{
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "ram0", 64 * PAGE, 0);
	host = info_of(block).host;
	log_clear();
	return 0;
}

static int close_ram(void **unused)
{
	assert_ok(gr_ram_close(ram));
	return 0;
}

static int map(uint64_t page, uint64_t pages)
{
	return gr_space_map(space, page * PAGE, block, page * PAGE, pages * PAGE, RW);
}

static int unmap(uint64_t page, uint64_t pages)
{
	return gr_space_unmap(space, page * PAGE, pages * PAGE);
}

static bool is_range(size_t at, enum event_kind kind, const struct recorder *recorder,
		     uint64_t page, uint64_t pages)
{
	return event_is(at, kind, recorder, page * PAGE, pages * PAGE);
}

/* ------------------------------------------------------------------------------------ replay */

static void test_replay_tells_blocks_then_ranges_and_close_the_reverse(void **unused)
{
	struct gr_block *second = new_anon(ram, "ram1", PAGE, 0);
	struct recorder recorder = {0};
	struct gr_space *other;

	assert_ok(gr_space_open(ram, "iova", &other));
	assert_ok(gr_space_map(other, 0, second, 0, PAGE, GR_READ));
	assert_ok(map(8, 2));
	assert_ok(map(1, 2));
	recorder_open(&recorder, ram, 0);
	assert_int_equal(event_count, 5);
	assert_true(event_log[0].kind == BLOCK_ADDED && event_log[0].block == block);
	assert_true(event_log[1].kind == BLOCK_ADDED && event_log[1].block == second);
	assert_true(is_range(2, RANGE_ADDED, &recorder, 1, 2));
	assert_true(is_range(3, RANGE_ADDED, &recorder, 8, 2));
	assert_true(is_range(4, RANGE_ADDED, &recorder, 0, 1));
	assert_true(event_log[4].space == other && event_log[4].range.access == GR_READ);
	assert_ptr_equal(event_log[3].range.host, host + 8 * PAGE);
	log_clear();
	recorder_close(&recorder);
	assert_int_equal(event_count, 5);
	assert_int_equal(events_of(RANGE_REMOVED, &recorder), 3);
	assert_true(event_log[3].kind == BLOCK_DELETING && event_log[4].kind == BLOCK_DELETING);
	log_clear();
	assert_ok(unmap(1, 2)); /* told of nothing any more */
	assert_int_equal(event_count, 0);
	assert_ok(gr_listener_close(NULL));
}

static void test_a_refusal_at_any_place_of_the_replay_ends_the_listener(void **unused)
{
	int at;

	assert_ok(map(1, 2));
	assert_ok(map(8, 2));
	for (at = 1; at <= 3; at++) {
		struct recorder recorder = {.refuse_in = at, .refuse_with = -EPERM};

		assert_error(recorder_try(&recorder, ram, 0), -EPERM, "refused");
		assert_true(!recorder.count && !recorder.wrong);
		log_clear();
		assert_ok(map(20, 1));
		assert_ok(unmap(20, 1));
		assert_int_equal(event_count, 0);
	}
}

/* ------------------------------------------------------------------------------------- order */

static void test_additions_rise_and_removals_fall_by_priority(void **unused)
{
	struct recorder mid = {0}, low = {0}, high = {0}, mid2 = {0};

	recorder_open(&mid, ram, 5);
	recorder_open(&high, ram, 9);
	recorder_open(&low, ram, -3);
	recorder_open(&mid2, ram, 5); /* after the one of the same priority */
	log_clear();
	assert_ok(map(4, 4));
	assert_int_equal(event_count, 8);
	assert_true(is_range(0, RANGE_ADDED, &low, 4, 4));
	assert_true(is_range(1, RANGE_ADDED, &mid, 4, 4));
	assert_true(is_range(2, RANGE_ADDED, &mid2, 4, 4));
	assert_true(is_range(3, RANGE_ADDED, &high, 4, 4));
	assert_int_equal(event_log[7].kind, COMMITTED);
	assert_int_equal(event_log[7].generation, stats_of(ram).generation);
	log_clear();
	assert_ok(unmap(5, 1)); /* a split */
	assert_int_equal(event_count, 4 + 8 + 4);
	assert_true(is_range(0, RANGE_REMOVED, &high, 4, 4));
	assert_true(is_range(1, RANGE_REMOVED, &mid2, 4, 4));
	assert_true(is_range(2, RANGE_REMOVED, &mid, 4, 4));
	assert_true(is_range(3, RANGE_REMOVED, &low, 4, 4));
	assert_true(is_range(4, RANGE_ADDED, &low, 4, 1));
	assert_true(is_range(5, RANGE_ADDED, &low, 6, 2));
	assert_ptr_equal(event_log[5].range.host, host + 6 * PAGE);
	assert_true(is_range(11, RANGE_ADDED, &high, 6, 2));
	assert_int_equal(event_log[12].kind, COMMITTED);
	assert_true(recorder_agrees(&low, space) && recorder_agrees(&high, space));
	recorder_close(&low);
	recorder_close(&mid);
	recorder_close(&mid2);
	recorder_close(&high);
}

static void test_blocks_are_told_around_their_ranges(void **unused)
{
	struct gr_block_opts opts = {.name = "dimm", .length = PAGE, .flags = GR_DELETE_UNMAP};
	struct recorder recorder = {0};
	struct gr_block *dimm;
	uint64_t ram_offset;

	recorder_open(&recorder, ram, 0);
	log_clear();
	assert_ok(gr_block_new(ram, &opts, &dimm));
	ram_offset = info_of(dimm).ram_offset;
	assert_int_equal(event_count, 1);
	assert_true(event_log[0].kind == BLOCK_ADDED && event_log[0].block == dimm);
	assert_ok(gr_space_map(space, 0, dimm, 0, PAGE, RW));
	assert_ok(gr_space_map(space, 9 * PAGE, dimm, 0, PAGE, RW));
	log_clear();
	assert_ok(gr_block_delete(dimm));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(event_count, 5);
	assert_true(is_range(0, RANGE_REMOVED, &recorder, 9, 1)); /* by falling address */
	assert_true(is_range(1, RANGE_REMOVED, &recorder, 0, 1));
	assert_true(event_log[2].kind == BLOCK_DELETING && event_log[2].block == dimm);
	assert_int_equal(events_of(COMMITTED, &recorder), 1);
	assert_int_equal(events_of(BLOCK_RECLAIMED, &recorder), 1);
	/* by another thread, perhaps before this one has told that the change is published */
	assert_int_equal(event_log[event_log[4].kind == COMMITTED ? 3 : 4].ram_offset, ram_offset);
	recorder_close(&recorder);
}

static void test_a_resize_is_told_as_removal_and_addition(void **unused)
{
	struct gr_block *dimm = new_anon(ram, "dimm", 2 * PAGE, 8 * PAGE);
	struct recorder recorder = {0};
	struct gr_space *other;

	assert_ok(gr_space_map(space, 0, dimm, 0, 8 * PAGE, RW));
	assert_ok(gr_space_map(space, 8 * PAGE, dimm, 0, PAGE, RW)); /* not changed by it */
	assert_ok(gr_space_open(ram, "other", &other));
	assert_ok(gr_space_map(other, 0, dimm, 0, PAGE, RW)); /* nor is this space at all */
	recorder_open(&recorder, ram, 0);
	log_clear();
	assert_ok(gr_block_resize(dimm, 4 * PAGE));
	assert_int_equal(event_count, 3);
	assert_true(is_range(0, RANGE_REMOVED, &recorder, 0, 8));
	assert_int_equal(event_log[0].range.visible, 2 * PAGE);
	assert_true(is_range(1, RANGE_ADDED, &recorder, 0, 8));
	assert_int_equal(event_log[1].range.visible, 4 * PAGE);
	assert_int_equal(event_log[2].kind, COMMITTED);
	assert_ok(gr_space_close(other));
	assert_true(recorder_agrees(&recorder, space));
	recorder.refuse_in = 1;
	recorder.refuse_with = -EIO;
	assert_int_equal(gr_block_resize(dimm, 8 * PAGE), -EIO);
	assert_int_equal(info_of(dimm).length, 4 * PAGE);
	assert_null(look_up(space, 4 * PAGE, 1, 0));
	recorder.refuse_in = 1;
	assert_int_equal(gr_block_resize(dimm, PAGE), -EIO);
	assert_int_equal(info_of(dimm).length, 4 * PAGE);
	assert_non_null(look_up(space, 0, 4 * PAGE, RW));
	assert_true(recorder_agrees(&recorder, space));
	assert_ok(gr_block_resize(dimm, 8 * PAGE));
	assert_ok(gr_block_resize(dimm, PAGE));
	assert_true(recorder_agrees(&recorder, space));
	recorder_close(&recorder);
}

/* What leaves and comes again in one transaction is told when anything of it differs. */
static void test_a_replaced_range_is_told_when_it_differs(void **unused)
{
	struct gr_block *second = new_anon(ram, "ram1", 64 * PAGE, 0);
	const struct {
		struct gr_block *block;
		uint64_t offset;
		unsigned access;
		size_t events;
	} rows[] = {
		{block, 4 * PAGE, RW, 0},	{block, 4 * PAGE, GR_READ, 2},
		{block, 5 * PAGE, GR_READ, 2},	{second, 5 * PAGE, GR_READ, 2},
		{second, 5 * PAGE, GR_READ, 0},
	};
	struct recorder recorder = {0};
	struct gr_txn *txn;
	size_t i;

	assert_ok(map(4, 1));
	recorder_open(&recorder, ram, 0);
	for (i = 0; i < COUNT_OF(rows); i++) {
		log_clear();
		assert_ok(gr_txn_begin(space, &txn));
		assert_ok(gr_txn_unmap(txn, 4 * PAGE, PAGE));
		assert_ok(gr_txn_map(txn, 4 * PAGE, rows[i].block, rows[i].offset, PAGE,
				     rows[i].access));
		assert_ok(gr_txn_commit(txn));
		assert_int_equal(events_of(RANGE_REMOVED, &recorder), rows[i].events / 2);
		assert_int_equal(events_of(RANGE_ADDED, &recorder), rows[i].events / 2);
		assert_true(recorder_agrees(&recorder, space));
	}
	recorder_close(&recorder);
}

static void test_closing_a_space_tells_its_removals(void **unused)
{
	struct recorder recorder = {0};

	assert_ok(map(1, 2));
	assert_ok(map(8, 2));
	recorder_open(&recorder, ram, 0);
	log_clear();
	assert_ok(gr_space_close(space));
	assert_int_equal(events_of(RANGE_REMOVED, &recorder), 2);
	assert_int_equal(event_count, 2);
	recorder_close(&recorder);
}

static bool saw_old, saw_new;

static void look_at_page_4(struct recorder *recorder, const struct event *event)
{
	void *now = look_up(space, 4 * PAGE, 1, 0);

	if (event->kind == RANGE_ADDED)
		saw_new |= now != NULL; /* not yet */
	if (event->kind == RANGE_REMOVED)
		saw_old |= now == NULL; /* still */
	if (event->kind == COMMITTED && events_of(RANGE_REMOVED, recorder))
		saw_new |= now != NULL;
	else if (event->kind == COMMITTED)
		saw_old |= now == NULL;
}

static void test_told_before_it_is_published_and_committed_after(void **unused)
{
	struct recorder recorder = {0};

	recorder_open(&recorder, ram, 0);
	log_clear();
	saw_old = saw_new = false;
	recorder.hook = look_at_page_4;
	assert_ok(map(4, 1));
	assert_false(saw_old || saw_new);
	assert_ok(unmap(4, 1));
	assert_false(saw_old || saw_new);
	assert_int_equal(events_of(COMMITTED, &recorder), 2);
	recorder.hook = NULL;
	recorder_close(&recorder);
}

/* ---------------------------------------------------------------------------------- refusals */

static enum event_kind opposite(enum event_kind kind)
{
	return kind == RANGE_ADDED ? RANGE_REMOVED : RANGE_ADDED;
}

static int replace(void)
{
	struct gr_txn *txn;

	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, 2 * PAGE, PAGE));
	assert_ok(gr_txn_unmap(txn, 8 * PAGE, 2 * PAGE));
	assert_ok(gr_txn_map(txn, 8 * PAGE, block, 0, PAGE, GR_READ));
	assert_ok(gr_txn_map(txn, 20 * PAGE, block, 0, PAGE, RW));
	return gr_txn_commit(txn);
}

static void test_a_refusal_at_each_position_is_told_back_in_reverse(void **unused)
{
	struct recorder recorders[3] = {0};
	int who, at, i;
	size_t k;

	assert_ok(map(1, 3)); /* is split in two */
	assert_ok(map(8, 2)); /* is replaced */
	for (i = 0; i < 3; i++)
		recorder_open(&recorders[i], ram, i);
	for (who = 0; who < 3; who++) {
		for (at = 1; at <= 4; at++) { /* of its 4 additions */
			uint64_t generation = stats_of(ram).generation;

			log_clear();
			recorders[who].refuse_in = at;
			recorders[who].refuse_with = -EXFULL;
			assert_error(replace(), -EXFULL, "refused");
			assert_int_equal(recorders[who].refuse_in, 0);
			assert_int_equal(stats_of(ram).generation, generation);
			/* 2 removals each, then additions up to the refusal; and all of it back */
			assert_int_equal(event_count, 2 * (3 * 2 + who * 4 + at - 1));
			for (k = 0; k < event_count / 2; k++) {
				const struct event *to = &event_log[k];

				assert_true(event_is(event_count - 1 - k, opposite(to->kind),
						     to->recorder, to->range.addr,
						     to->range.length));
			}
			for (i = 0; i < 3; i++)
				assert_true(recorder_agrees(&recorders[i], space));
		}
	}
	assert_ok(replace());
	for (i = 0; i < 3; i++) {
		assert_true(recorder_agrees(&recorders[i], space));
		recorder_close(&recorders[i]);
	}
}

static void count_release(void *context, void *memory, uint64_t length)
{
	++*(int *)context;
}

static void test_a_refused_block_leaves_nothing(void **unused)
{
	struct recorder first = {0}, second = {0};
	char path[] = "/tmp/guestram-listener-XXXXXX";
	struct gr_block_opts opts = {.name = "dimm", .length = PAGE};
	struct gr_block *dimm = NULL;
	int released = 0;

	recorder_open(&first, ram, 0);
	recorder_open(&second, ram, 1);
	second.refuse_in = 1;
	second.refuse_with = -EPERM;
	log_clear();
	assert_error(gr_block_new(ram, &opts, &dimm), -EPERM, "refused");
	assert_null(dimm);
	assert_int_equal(events_of(BLOCK_ADDED, &first), 1);
	assert_int_equal(events_of(BLOCK_DELETING, &first), 1);
	assert_int_equal(stats_of(ram).blocks, 1);

	opts.backing = GR_BACKING_CALLER; /* the caller keeps what was not taken */
	opts.host = reserve(PAGE);
	opts.release = count_release;
	opts.release_context = &released;
	second.refuse_in = 1;
	assert_int_equal(gr_block_new(ram, &opts, &dimm), -EPERM);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(released, 0);

	close(mkstemp(path));
	unlink(path);
	opts = (struct gr_block_opts){
		.name = "dimm",
		.backing = GR_BACKING_FILE,
		.flags = GR_CREATE | GR_SHARED,
		.length = PAGE,
		.path = path,
	};
	second.refuse_in = 1;
	assert_int_equal(gr_block_new(ram, &opts, &dimm), -EPERM);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(access(path, F_OK), -1); /* created, and removed again */
	assert_int_equal(stats_of(ram).bytes, 64 * PAGE);
	assert_ok(gr_block_new(ram, &opts, &dimm)); /* the name is free, the next try works */
	assert_int_equal(info_of(dimm).ram_offset, 64 * PAGE);
	unlink(path);
	recorder_close(&first);
	recorder_close(&second);
}

/* ---------------------------------------------------------------------------- reclaimed once */

static void test_reclaimed_is_told_once_also_by_close(void **unused)
{
	static struct recorder recorder, deaf;
	static const struct gr_listener_ops none;
	struct gr_block *one, *two;
	struct gr_listener *silent;
	struct gr_pin pin;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	recorder_open(&recorder, ram, 0);
	recorder_open(&deaf, ram, 1);
	assert_ok(gr_listener_open(ram, &none, NULL, 2, &silent)); /* any may be NULL */
	one = new_anon(ram, "one", PAGE, 0);
	two = new_anon(ram, "two", PAGE, 0);
	assert_ok(gr_space_map(space, 0, two, 0, PAGE, RW));
	recorder_close(&deaf);
	log_clear();
	assert_ok(gr_block_pin(one, 0, PAGE, GR_READ, &pin));
	assert_ok(gr_block_delete(one));
	assert_int_equal(gr_ram_drain(ram, 20), -ETIMEDOUT);
	assert_int_equal(events_of(BLOCK_RECLAIMED, &recorder), 0);
	gr_unpin(&pin);
	assert_ok(gr_ram_drain(ram, LONG_MS)); /* the listeners were told by then */
	assert_int_equal(events_of(BLOCK_RECLAIMED, &recorder), 1);
	log_clear();
	assert_ok(gr_ram_close(ram));
	assert_int_equal(event_count, 3);
	assert_true(event_is(0, RANGE_REMOVED, &recorder, 0, PAGE));
	assert_int_equal(event_log[1].kind, BLOCK_DELETING);
	assert_int_equal(event_log[2].kind, BLOCK_RECLAIMED);
	assert_true(!recorder.count && !recorder.wrong);
}

/* ----------------------------------------------------------------------------- calling back */

static struct recorder inner;
static struct gr_block *inner_block;
static int failures; /* of the hook, which must not assert on a library's thread */
#define expect(condition)                                                                          \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			failures++;                                                                \
			print_error("%s:%d: %s: %s\n", __FILE__, __LINE__, #condition,             \
				    gr_last_error());                                              \
		}                                                                                  \
	} while (0)

static void call_back(struct recorder *recorder, const struct event *event)
{
	struct gr_block_opts opts = {.name = "inner", .length = 2 * PAGE};
	struct gr_space *other;
	struct gr_pin pin;

	if (event->kind != RANGE_ADDED || event->range.addr != 4 * PAGE)
		return;
	recorder->hook = NULL; /* what follows is told as well */
	/* the very range being told, and all that holds it */
	expect(map(4, 1) == -EBUSY || map(4, 1) == -EEXIST);
	expect(unmap(4, 2) == -EBUSY || unmap(4, 2) == -ENOENT);
	expect(gr_space_close(space) == -EBUSY);
	expect(gr_block_delete(block) == -EBUSY);
	/* what waits */
	expect(gr_ram_drain(ram, 10) == -EDEADLK);
	expect(gr_ram_close(ram) == -EDEADLK);
	expect(gr_listener_close(recorder->listener) == -EDEADLK);
	expect(gr_block_resize(block, PAGE) == -EDEADLK || gr_block_resize(block, PAGE) == -EBUSY);
	/* all the rest */
	expect(map(10, 1) == 0);
	expect(unmap(20, 1) == 0);
	expect(gr_block_new(ram, &opts, &inner_block) == 0);
	expect(gr_space_map(space, 30 * PAGE, inner_block, 0, PAGE, RW) == 0);
	expect(gr_block_pin(inner_block, 0, 8, RW, &pin) == 0);
	gr_unpin(&pin);
	expect(gr_space_unmap(space, 30 * PAGE, PAGE) == 0);
	expect(gr_block_resize(inner_block, PAGE) == -EDEADLK);
	expect(gr_block_delete(inner_block) == 0);
	expect(gr_space_open(ram, "inner", &other) == 0);
	expect(gr_space_close(other) == 0);
	expect(recorder_try(&inner, ram, 7) == 0);
	expect(stats_of(ram).blocks == 1);
}

static void test_a_callback_may_call_all_but_what_waits(void **unused)
{
	struct recorder recorder = {.hook = call_back};

	memset(&inner, 0, sizeof(inner));
	failures = 0;
	assert_ok(map(20, 1));
	recorder_open(&recorder, ram, 0);
	assert_ok(map(4, 4));
	assert_int_equal(failures, 0);
	assert_ptr_equal(look_up(space, 4 * PAGE, PAGE, RW), host + 4 * PAGE);
	assert_ptr_equal(look_up(space, 10 * PAGE, PAGE, RW), host + 10 * PAGE);
	assert_null(look_up(space, 20 * PAGE, 1, 0));
	assert_true(recorder_agrees(&recorder, space));
	assert_true(recorder_agrees(&inner, space)); /* the opened one knows the change, too */
	recorder_close(&inner);
	recorder_close(&recorder);
	assert_ok(gr_ram_drain(ram, LONG_MS));
}

/* What gr_txn_map() itself says, not the commit. */
static int map_later(struct gr_block *which)
{
	struct gr_txn *txn;
	int rc = gr_txn_begin(space, &txn);

	if (rc < 0)
		return rc;
	rc = gr_txn_map(txn, 0, which, 0, PAGE, RW);
	gr_txn_abort(txn);
	return rc;
}

static void change_own_block(struct recorder *recorder, const struct event *event)
{
	if (event->kind == BLOCK_ADDED && event->block != block) {
		expect(gr_block_delete(event->block) == -EBUSY);
		expect(gr_block_resize(event->block, 2 * PAGE) == -EBUSY);
		expect(gr_space_map(space, 0, event->block, 0, PAGE, RW) == -EBUSY);
		expect(map_later(event->block) == -EBUSY);
	} else if (event->kind == BLOCK_DELETING) {
		expect(gr_block_delete(event->block) == -EBUSY);
		expect(gr_block_resize(event->block, 2 * PAGE) == -EBUSY);
		expect(gr_space_map(space, 0, event->block, 0, PAGE, RW) == -EBUSY);
		expect(map_later(event->block) == -EBUSY);
	}
}

static void test_a_block_that_comes_or_goes_cannot_be_changed_in_its_callback(void **unused)
{
	struct recorder recorder = {.hook = change_own_block};
	struct gr_block *dimm;
	unsigned i;

	failures = 0;
	recorder_open(&recorder, ram, 0);
	for (i = 0; i < 3; i++) {
		dimm = new_anon(ram, "dimm", PAGE, 4 * PAGE);
		assert_ok(gr_block_delete(dimm));
	}
	assert_int_equal(failures, 0);
	assert_int_equal(stats_of(ram).blocks, 1);
	assert_int_equal(stats_of(ram).bytes, 64 * PAGE);
	recorder.hook = NULL;
	recorder_close(&recorder);
}

static void discard_at_once(struct recorder *recorder, const struct event *event)
{
	expect(gr_block_discard(block, 0, PAGE) == -EBUSY);
}

static void test_a_block_that_is_resized_discards_nothing(void **unused)
{
	struct recorder recorder = {0};

	failures = 0;
	recorder_open(&recorder, ram, 0);
	assert_ok(map(60, 4));
	log_clear();
	recorder.hook = discard_at_once;
	assert_ok(gr_block_resize(block, 62 * PAGE));
	assert_ok(gr_block_resize(block, 64 * PAGE));
	recorder.hook = NULL;
	assert_int_equal(events_of(RANGE_REMOVED, &recorder), 2);
	assert_int_equal(failures, 0);
	assert_ok(gr_block_discard(block, 0, PAGE));
	recorder_close(&recorder);
}

static struct recorder third;

static void open_one_that_refuses(struct recorder *recorder, const struct event *event)
{
	if (event->kind != RANGE_ADDED)
		return;
	recorder->hook = NULL;
	third = (struct recorder){.refuse_in = 2, .refuse_with = -ENOSPC}; /* after the block */
	expect(recorder_try(&third, ram, 9) == 0);
}

static void open_inner(struct recorder *recorder, const struct event *event)
{
	if (event->kind != RANGE_ADDED)
		return;
	recorder->hook = NULL;
	inner = (struct recorder){.hook = open_one_that_refuses};
	expect(recorder_try(&inner, ram, -1) == 0);
}

static void test_those_who_came_meanwhile_are_told_back_by_priority(void **unused)
{
	struct recorder recorder = {0};

	failures = 0;
	recorder_open(&recorder, ram, 0);
	recorder.hook = open_inner;
	log_clear();
	assert_error(map(4, 2), -ENOSPC, "refused");
	assert_int_equal(failures, 0);
	assert_int_equal(event_count, 6);
	assert_true(is_range(0, RANGE_ADDED, &recorder, 4, 2));
	assert_int_equal(event_log[1].kind, BLOCK_ADDED); /* to the second, as it opens */
	assert_true(is_range(2, RANGE_ADDED, &inner, 4, 2));
	assert_int_equal(event_log[3].kind, BLOCK_ADDED); /* to the third */
	assert_true(is_range(4, RANGE_REMOVED, &recorder, 4, 2));
	assert_true(is_range(5, RANGE_REMOVED, &inner, 4, 2));
	recorder_close(&third);
	recorder_close(&inner);
	recorder_close(&recorder);
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_replay_tells_blocks_then_ranges_and_close_the_reverse),
		each(test_a_refusal_at_any_place_of_the_replay_ends_the_listener),
		each(test_additions_rise_and_removals_fall_by_priority),
		each(test_blocks_are_told_around_their_ranges),
		each(test_a_resize_is_told_as_removal_and_addition),
		each(test_a_replaced_range_is_told_when_it_differs),
		each(test_closing_a_space_tells_its_removals),
		each(test_told_before_it_is_published_and_committed_after),
		each(test_a_refusal_at_each_position_is_told_back_in_reverse),
		each(test_a_refused_block_leaves_nothing),
		cmocka_unit_test(test_reclaimed_is_told_once_also_by_close),
		each(test_a_callback_may_call_all_but_what_waits),
		each(test_a_block_that_comes_or_goes_cannot_be_changed_in_its_callback),
		each(test_a_block_that_is_resized_discards_nothing),
		each(test_those_who_came_meanwhile_are_told_back_by_priority),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
