/* SPDX-License-Identifier: MIT */
/*
 * P19, P20, Q36: listeners that come late, leave early, refuse, or call back; and a close with
 * removals and callbacks queued.
 */
#include "case.h"
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define BASE GIB

/* ------------------------------------------------------------------------------- P19, P20 */

static void p19_late_listener_is_told_of_all_there_is(void **unused)
{
	static struct ledger early, late;
	struct gr_ram *ram = case_ram();
	struct gr_space *spaces[3];
	struct gr_block *blocks[5];
	char name[8];
	unsigned i;

	ledger_open(&early, ram, 0);
	assert_int_equal(early.calls, 0);
	for (i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "s%u", i);
		spaces[i] = case_space(ram, name);
	}
	for (i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		blocks[i] = case_anon(ram, name, 4 * MIB);
	}
	for (i = 0; i < 200; i++)
		case_map(spaces[i % 3], BASE + i * 4 * MIB, blocks[i % 5], (i % 4) * MIB, MIB, RW);
	assert_ok(gr_space_unmap(spaces[0], BASE + 64 * KIB, PAGE)); /* splits one */
	assert_ok(gr_space_close(spaces[2]));
	ledger_open(&late, ram, 0);
	assert_int_equal(late.block_count, 5);
	assert_int_equal(late.removed, 0); /* told of what is, not of how it came to be */
	assert_ledger(&early, ram, spaces, 2);
	assert_ledger(&late, ram, spaces, 2);
	assert_ok(gr_block_delete(blocks[0])); /* unmaps it from both */
	assert_ledger(&early, ram, spaces, 2);
	assert_ledger(&late, ram, spaces, 2);
	/* unregistered: the matching removals, to it alone */
	assert_ok(gr_listener_close(late.listener));
	assert_int_equal(late.range_count, 0);
	assert_int_equal(late.block_count, 0);
	assert_int_equal(late.wrong, 0);
	assert_int_equal(late.added, late.removed);
	assert_ledger(&early, ram, spaces, 2);
	case_drain(ram);
	assert_int_equal(early.reclaimed, 1);
	case_close(ram);
	assert_int_equal(early.range_count + early.block_count + early.wrong, 0);
	assert_int_equal(early.added, early.removed);
	assert_int_equal(early.reclaimed, 5);
	assert_int_equal(early.deleting, 5);
}

/* Random changes of every kind; the books are right after each one, and zero at the end. */
static void p20_adds_and_removes_match_exactly_and_sum_to_zero(void **unused)
{
	enum { STEPS = 1500 };
	static struct ledger ledgers[2];
	struct gr_ram *ram = case_ram();
	struct gr_space *spaces[2] = {case_space(ram, "a"), case_space(ram, "b")};
	struct gr_block_opts opts = {.name = "x", .length = 8 * MIB, .flags = GR_DELETE_UNMAP};
	struct gr_block *blocks[3];
	uint64_t random = 99;
	struct gr_txn *txn;
	unsigned step, i;

	ledger_open(&ledgers[0], ram, -1);
	ledger_open(&ledgers[1], ram, 1);
	for (i = 0; i < 3; i++) {
		opts.name = &"x\0y\0z"[2 * i];
		assert_ok(gr_block_new(ram, &opts, &blocks[i]));
	}
	for (step = 0; step < STEPS; step++) {
		uint64_t addr = BASE + case_random(&random) % 512 * 16 * KIB;
		uint64_t offset = case_random(&random) % 1024 * PAGE;
		uint64_t length = (case_random(&random) % 64 + 1) * PAGE;
		unsigned which = (unsigned)(case_random(&random) % 3);
		struct gr_space *space = spaces[case_random(&random) % 2];

		switch (case_random(&random) % 10) {
		case 0:
		case 1:
		case 2:
		case 3:
			gr_space_map(space, addr, blocks[which], offset, length, RW);
			break;
		case 4:
		case 5:
			gr_space_unmap(space, addr, length);
			break;
		case 6: /* half of them fail at their last step */
			assert_ok(gr_txn_begin(space, &txn));
			assert_ok(gr_txn_unmap(txn, addr, length));
			assert_ok(gr_txn_map(txn, addr, blocks[which], offset, PAGE, GR_READ));
			if (step % 2)
				assert_ok(gr_txn_map(txn, addr, blocks[which], 0, PAGE, GR_READ));
			assert_int_equal(gr_txn_commit(txn), step % 2 ? -EEXIST : 0);
			break;
		case 7:
			assert_ok(gr_block_resize(blocks[which], (offset % (8 * MIB)) + PAGE));
			break;
		case 8: /* refused by either, after the other was told or before */
			ledgers[step % 2].refuse = -EPERM;
			gr_space_map(space, addr, blocks[which], offset, length, RW);
			ledgers[step % 2].refuse = 0;
			break;
		default:
			if (step % 8)
				break;
			assert_ok(gr_block_delete(blocks[which]));
			opts.name = &"x\0y\0z"[2 * which];
			assert_ok(gr_block_new(ram, &opts, &blocks[which]));
		}
		for (i = 0; i < 2; i++)
			assert_ledger(&ledgers[i], ram, spaces, 2);
	}
	assert_true(ledgers[0].added > 200 && ledgers[1].removed > 200);
	assert_ok(gr_listener_close(ledgers[0].listener));
	case_close(ram);
	for (i = 0; i < 2; i++) {
		assert_int_equal(ledgers[i].range_count + ledgers[i].block_count, 0);
		assert_int_equal(ledgers[i].added, ledgers[i].removed);
		assert_int_equal(ledgers[i].wrong, 0);
	}
}

/* In which order two listeners hear of one change. */
static char heard[256];

static int hear_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	snprintf(heard + strlen(heard), sizeof(heard) - strlen(heard), "%s+%c ",
		 (const char *)context, (char)('a' + (range->addr - BASE) / PAGE));
	return 0;
}

static void hear_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	snprintf(heard + strlen(heard), sizeof(heard) - strlen(heard), "%s-%c ",
		 (const char *)context, (char)('a' + (range->addr - BASE) / PAGE));
}

static void hear_committed(void *context, struct gr_space *space, uint64_t generation)
{
	snprintf(heard + strlen(heard), sizeof(heard) - strlen(heard), "%s. ",
		 (const char *)context);
}

static int refuse_d(void *context, struct gr_space *space, const struct gr_range *range)
{
	if (range->addr == BASE + 3 * PAGE)
		return -EPERM;
	return hear_added(context, space, range);
}

static void p20_removals_come_first_and_by_priority(void **unused)
{
	static const struct gr_listener_ops ops = {
		.range_added = hear_added,
		.range_removed = hear_removed,
		.committed = hear_committed,
	};
	static const struct gr_listener_ops picky = {
		.range_added = refuse_d,
		.range_removed = hear_removed,
		.committed = hear_committed,
	};
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = case_anon(ram, "x", 16 * PAGE);
	struct gr_listener *high, *low;
	char name_high[] = "2", name_low[] = "1";
	struct gr_txn *txn;

	assert_ok(gr_listener_open(ram, &picky, name_high, 5, &high));
	assert_ok(gr_listener_open(ram, &ops, name_low, -5, &low));
	case_map(space, BASE, block, 0, PAGE, RW);
	case_map(space, BASE + PAGE, block, 0, PAGE, RW);
	assert_string_equal(heard, "1+a 2+a 1. 2. 1+b 2+b 1. 2. ");
	heard[0] = '\0';
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_map(txn, BASE + 2 * PAGE, block, 0, PAGE, RW));
	assert_ok(gr_txn_unmap(txn, BASE, 2 * PAGE));
	assert_ok(gr_txn_map(txn, BASE, block, PAGE, PAGE, RW));
	assert_ok(gr_txn_commit(txn));
	assert_string_equal(heard, "2-b 2-a 1-b 1-a 1+a 1+c 2+a 2+c 1. 2. ");
	/* the one that is told last refuses: all is told back, in reverse, and nothing committed */
	heard[0] = '\0';
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_unmap(txn, BASE, PAGE));
	assert_ok(gr_txn_map(txn, BASE + PAGE, block, 0, PAGE, RW));
	assert_ok(gr_txn_map(txn, BASE + 3 * PAGE, block, 0, PAGE, RW));
	assert_int_equal(gr_txn_commit(txn), -EPERM);
	assert_string_equal(heard, "2-a 1-a 1+b 1+d 2+b 2-b 1-d 1-b 1+a 2+a ");
	assert_non_null(case_lookup(space, BASE, 1, RW));
	assert_null(case_lookup(space, BASE + PAGE, 1, 0));
	case_close(ram);
}

/* A listener is opened while a change is being told to others: it hears of that change, once. */
struct changer {
	struct gr_space *space;
	struct gr_block *block;
	bool map;
	int rc;
};

static void *change(void *context)
{
	struct changer *changer = context;

	changer->rc = changer->map ? gr_space_map(changer->space, BASE, changer->block, 0, MIB, RW)
				   : gr_space_unmap(changer->space, BASE, MIB);
	return NULL;
}

static void p19_listener_that_comes_in_the_middle_of_a_change(void **unused)
{
	static struct ledger first, second;
	int map;

	for (map = 0; map < 2; map++) {
		struct gr_ram *ram = case_ram();
		struct changer changer = {case_space(ram, "guest"), case_anon(ram, "x", MIB), map,
					  1};
		struct gate gate;
		pthread_t thread;

		if (!map)
			case_map(changer.space, BASE, changer.block, 0, MIB, RW);
		ledger_open(&first, ram, 0);
		/* its claim is there, its lock is given up as soon as it tells; stop it before */
		gate_arm(&gate, "change.unlocked", NULL, 0);
		assert_int_equal(pthread_create(&thread, NULL, change, &changer), 0);
		gate_wait(&gate);
		ledger_open(&second, ram, -3);
		assert_ledger(&second, ram, &changer.space, 1);
		gate_open(&gate);
		pthread_join(thread, NULL);
		gate_disarm(&gate);
		assert_int_equal(changer.rc, 0);
		assert_ledger(&first, ram, &changer.space, 1);
		assert_ledger(&second, ram, &changer.space, 1);
		assert_int_equal(first.range_count, map);
		case_close(ram);
		assert_int_equal(first.wrong + second.wrong, 0);
		assert_int_equal(second.added, second.removed);
	}
}

/* Opens a second listener from within the first one's callback, in the middle of its change. */
struct opener {
	struct gr_ram *ram;
	struct ledger *ledger;
	bool done;
	int rc;
};

static int open_in_callback(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct opener *opener = context;

	if (!opener->done) {
		opener->done = true;
		opener->rc = gr_listener_open(opener->ram, &ledger_ops, opener->ledger, 0,
					      &opener->ledger->listener);
	}
	return 0;
}

static void p19_listener_opened_by_a_callback_of_the_change(void **unused)
{
	static const struct gr_listener_ops ops = {.range_added = open_in_callback};
	static struct ledger inner;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = case_anon(ram, "x", MIB);
	struct opener opener = {.ram = ram, .ledger = &inner};
	struct gr_listener *outer;

	ledger_init(&inner);
	case_map(space, 4 * BASE, block, 0, PAGE, RW);
	opener.done = true;
	assert_ok(gr_listener_open(ram, &ops, &opener, 0, &outer));
	opener.done = false;
	case_map(space, BASE, block, 0, MIB, RW);
	assert_int_equal(opener.rc, 0);
	assert_ledger(&inner, ram, &space, 1);
	assert_int_equal(inner.added, 2);
	case_close(ram);
	assert_int_equal(inner.wrong, 0);
	assert_int_equal(inner.added, inner.removed);
}

/*
 * While a change is told, what it is about stays as it was told: another change of that, by the
 * callback or by any thread, is refused and not waited for; changes of anything else go through.
 */
static struct {
	struct gr_space *space;
	struct gr_block *block, *other;
	bool armed, by_thread;
	unsigned asked, wrong;
} meddler;

static void *meddle(void *unused)
{
	struct gr_block_info info;

	gr_block_get_info(meddler.other, &info);
	meddler.asked++;
	meddler.wrong += gr_space_unmap(meddler.space, BASE, MIB) != -EBUSY;
	meddler.wrong += gr_space_unmap(meddler.space, BASE + MIB - PAGE, PAGE) != -EBUSY;
	meddler.wrong += gr_space_unmap(meddler.space, 0, 2 * BASE) != -EBUSY;
	meddler.wrong += gr_space_map(meddler.space, BASE, meddler.other, 0, PAGE, RW) != -EBUSY &&
			 gr_space_map(meddler.space, BASE, meddler.other, 0, PAGE, RW) != -EEXIST;
	meddler.wrong += gr_space_close(meddler.space) != -EBUSY;
	/* elsewhere: right beside it, and in the other block */
	meddler.armed = false;
	meddler.wrong += gr_space_map(meddler.space, BASE + MIB, meddler.other, 0, PAGE, RW) != 0;
	meddler.wrong += gr_space_unmap(meddler.space, BASE + MIB, PAGE) != 0;
	meddler.wrong += gr_block_resize(meddler.other, info.max_length) != 0;
	meddler.armed = true;
	return NULL;
}

static void meddle_by(bool thread)
{
	pthread_t other;

	if (!meddler.armed)
		return;
	if (!thread)
		meddle(NULL);
	else if (!pthread_create(&other, NULL, meddle, NULL))
		pthread_join(other, NULL);
}

static int meddle_when_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	if (meddler.armed) /* the block is about to be mapped: it stays */
		meddler.wrong += gr_block_delete(meddler.block) != -EBUSY;
	meddle_by(meddler.by_thread);
	return 0;
}

static void meddle_when_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	meddle_by(meddler.by_thread);
}

static void p20_what_is_being_told_cannot_be_changed_meanwhile(void **unused)
{
	static const struct gr_listener_ops ops = {
		.range_added = meddle_when_added,
		.range_removed = meddle_when_removed,
	};
	static struct ledger ledger;
	struct gr_listener *listener;
	struct gr_ram *ram;
	int by_thread;

	for (by_thread = 0; by_thread < 2; by_thread++) {
		ram = case_ram();
		memset(&meddler, 0, sizeof(meddler));
		meddler.by_thread = by_thread;
		meddler.space = case_space(ram, "guest");
		meddler.block = case_anon(ram, "x", MIB);
		meddler.other = case_anon(ram, "y", MIB);
		ledger_open(&ledger, ram, 0);
		assert_ok(gr_listener_open(ram, &ops, NULL, 1, &listener));
		meddler.armed = true;
		case_map(meddler.space, BASE, meddler.block, 0, MIB, RW);
		assert_int_equal(meddler.asked, 1);
		assert_ok(gr_space_unmap(meddler.space, BASE, MIB));
		assert_int_equal(meddler.asked, 2);
		meddler.armed = false;
		assert_int_equal(meddler.wrong, 0);
		assert_ledger(&ledger, ram, &meddler.space, 1);
		/* and afterwards it is free */
		case_map(meddler.space, BASE, meddler.other, 0, MIB, RW);
		assert_ok(gr_block_delete(meddler.block));
		assert_ok(gr_space_close(meddler.space));
		case_close(ram);
		assert_int_equal(ledger.wrong, 0);
	}
}

/* Many threads change different ranges while listeners come and go; every book balances. */
struct crowd {
	struct gr_ram *ram;
	struct gr_space *space;
	struct gr_block *block;
	unsigned number;
	unsigned failed;
};

static void *change_a_lot(void *context)
{
	struct crowd *crowd = context;
	uint64_t addr = BASE + crowd->number * 64 * MIB;
	unsigned i;

	for (i = 0; i < 300; i++) {
		crowd->failed += gr_space_map(crowd->space, addr, crowd->block, 0, MIB, RW) < 0;
		crowd->failed += gr_space_unmap(crowd->space, addr + PAGE, PAGE) < 0;
		crowd->failed += gr_space_unmap(crowd->space, addr, MIB) < 0;
	}
	return NULL;
}

static void p20_books_balance_under_many_threads(void **unused)
{
	enum { THREADS = 3 };
	static struct ledger steady, passing;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = case_anon(ram, "x", MIB);
	struct crowd crowds[THREADS];
	pthread_t threads[THREADS];
	unsigned i;

	ledger_open(&steady, ram, 0);
	for (i = 0; i < THREADS; i++) {
		crowds[i] = (struct crowd){ram, space, block, i, 0};
		assert_int_equal(pthread_create(&threads[i], NULL, change_a_lot, &crowds[i]), 0);
	}
	for (i = 0; i < 40; i++) {
		ledger_open(&passing, ram, (int)i % 3 - 1);
		usleep(500);
		assert_ok(gr_listener_close(passing.listener));
		assert_int_equal(passing.wrong, 0);
		assert_int_equal(passing.range_count + passing.block_count, 0);
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(crowds[i].failed, 0);
	}
	assert_ledger(&steady, ram, &space, 1);
	assert_int_equal(steady.added, THREADS * 300 * 3);
	assert_int_equal(steady.added, steady.removed);
	case_close(ram);
}

/* A block that can be found can be deleted, by whoever finds it first. */
static void *make_block(void *context)
{
	struct changer *changer = context;
	struct gr_block_opts opts = {.name = "found", .length = PAGE};

	changer->rc = gr_block_new((struct gr_ram *)changer->block, &opts, &changer->block);
	return NULL;
}

static void p20_block_deleted_before_the_call_that_made_it_returns(void **unused)
{
	struct gr_ram *ram = case_ram();
	struct changer changer = {.block = (struct gr_block *)ram};
	struct gr_block *block, *next;
	struct gr_ram_stats stats;
	struct gate gate;
	pthread_t thread;

	gate_arm(&gate, "change.unlocked", NULL, 0);
	assert_int_equal(pthread_create(&thread, NULL, make_block, &changer), 0);
	gate_wait(&gate);
	gr_read_begin();
	block = gr_block_by_name(ram, "found");
	gr_read_end();
	assert_non_null(block);
	assert_ok(gr_block_delete(block));
	next = case_anon(ram, "found", PAGE); /* its name is free at once */
	gate_open(&gate);
	pthread_join(thread, NULL);
	gate_disarm(&gate);
	assert_int_equal(changer.rc, 0);
	case_drain(ram);
	gr_ram_get_stats(ram, &stats);
	assert_int_equal(stats.blocks, 1);
	assert_int_equal(stats.blocks_pending, 0);
	assert_int_equal(stats.blocks_reclaimed, 1);
	assert_ok(gr_block_delete(next));
	case_drain(ram);
	case_close(ram);
}

/* ------------------------------------------------------------------------------------ Q36 */

static void q36_close_runs_every_queued_callback_once_and_none_after(void **unused)
{
	enum { BLOCKS = 40 };
	static struct ledger ledger, copy;
	static const char *const points[] = {"reclaim.before_grace", "reclaim.after_grace", NULL};
	size_t p;
	int embedder;

	for (embedder = 0; embedder < 2; embedder++)
		for (p = 0; p < COUNT_OF(points); p++) {
			struct gr_ram_opts opts = {.embedder_reclaim = embedder};
			char *memory = case_pages(BLOCKS * PAGE), name[16];
			int released[BLOCKS] = {0};
			struct gr_block *blocks[BLOCKS];
			struct gr_space *space;
			struct gr_ram *ram;
			struct gate gate;
			unsigned i;

			assert_ok(gr_ram_open(&opts, &ram));
			space = case_space(ram, "guest");
			ledger_open(&ledger, ram, 0);
			for (i = 0; i < BLOCKS; i++) {
				snprintf(name, sizeof(name), "b%u", i);
				blocks[i] = case_caller(ram, name, memory + i * PAGE, PAGE,
							GR_DELETE_UNMAP, &released[i]);
				case_map(space, BASE + i * PAGE, blocks[i], 0, PAGE, RW);
			}
			if (points[p])
				gate_arm(&gate, points[p], NULL, 0);
			for (i = 0; i < BLOCKS / 2; i++)
				assert_ok(gr_block_delete(blocks[i]));
			if (points[p]) {
				gate_wait(&gate); /* the worker is busy with the first ones */
				for (; i < 3 * BLOCKS / 4; i++)
					assert_ok(gr_block_delete(blocks[i]));
				gate_open(&gate);
			}
			/* the rest is live and mapped */
			case_close(ram);
			if (points[p])
				gate_disarm(&gate);
			for (i = 0; i < BLOCKS; i++)
				assert_int_equal(case_released(&released[i]), 1);
			assert_int_equal(ledger.wrong, 0);
			assert_int_equal(ledger.range_count + ledger.block_count, 0);
			assert_int_equal(ledger.reclaimed, BLOCKS);
			assert_int_equal(ledger.deleting, BLOCKS);
			assert_int_equal(ledger.added, ledger.removed);
			/* none after close has returned */
			copy = ledger;
			usleep(3000);
			assert_int_equal(copy.calls, ledger.calls);
			for (i = 0; i < BLOCKS; i++)
				assert_int_equal(case_released(&released[i]), 1);
			munmap(memory, BLOCKS * PAGE);
		}
}

/* A close that is refused has changed nothing and told nobody. */
static void q36_refused_close_changes_nothing(void **unused)
{
	static struct ledger ledger;
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *block = case_anon(ram, "x", PAGE);
	struct gr_txn *txn;
	struct gr_pin pin;
	uint64_t calls;

	ledger_open(&ledger, ram, 0);
	case_map(space, BASE, block, 0, PAGE, RW);
	calls = ledger.calls;
	assert_ok(gr_pin(space, BASE, 1, RW, &pin));
	assert_int_equal(gr_ram_close(ram), -EBUSY);
	gr_unpin(&pin);
	assert_ok(gr_txn_begin(space, &txn));
	assert_int_equal(gr_ram_close(ram), -EBUSY);
	assert_int_equal(gr_space_close(space), -EBUSY);
	gr_txn_abort(txn);
	gr_read_begin();
	assert_int_equal(gr_ram_close(ram), -EDEADLK);
	gr_read_end();
	assert_int_equal(ledger.calls, calls);
	assert_ledger(&ledger, ram, &space, 1);
	assert_non_null(case_lookup(space, BASE, 1, RW));
	case_close(ram);
	assert_int_equal(ledger.reclaimed, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p19_late_listener_is_told_of_all_there_is),
		cmocka_unit_test(p19_listener_that_comes_in_the_middle_of_a_change),
		cmocka_unit_test(p19_listener_opened_by_a_callback_of_the_change),
		cmocka_unit_test(p20_adds_and_removes_match_exactly_and_sum_to_zero),
		cmocka_unit_test(p20_removals_come_first_and_by_priority),
		cmocka_unit_test(p20_what_is_being_told_cannot_be_changed_meanwhile),
		cmocka_unit_test(p20_books_balance_under_many_threads),
		cmocka_unit_test(p20_block_deleted_before_the_call_that_made_it_returns),
		cmocka_unit_test(q36_close_runs_every_queued_callback_once_and_none_after),
		cmocka_unit_test(q36_refused_close_changes_nothing),
	};

	case_watchdog(60);
	return cmocka_run_group_tests_name("listeners", tests, NULL, NULL);
}
