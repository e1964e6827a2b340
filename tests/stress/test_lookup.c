/* SPDX-License-Identifier: MIT */
/*
 * Readers look up through gr_host(), cursors and pins, and load, while writers map, unmap, replace
 * whole tables, delete and make blocks. Each block's memory says who it is, and is overwritten and
 * made inaccessible by its release, so that a reader that comes late sees it or dies of it.
 *
 * Page p of the space may only ever show page p of a block, so each page holds its own number, and
 * a lookup that mixes two states is seen as well.
 */
#include "testing.h"
#include <stdatomic.h>

#define SECONDS 2
#define SLOTS 8	       /* blocks live at once, one for each writer's turn */
#define SLOT (4 * MIB) /* bytes of guest address space of each */
#define MAGIC UINT64_C(0x6772616d00000000)

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *blocks[SLOTS]; /* wr: the one writer of the slot */
static atomic_int stop;
static atomic_ulong lookups, hits, pins, stale, removals, releases, errors;

static void complain(const char *what, uint64_t addr, uint64_t value)
{
	if (atomic_fetch_add(&stale, 1) < 5)
		fprintf(stderr, "%s: %#llx at %#llx\n", what, (unsigned long long)value,
			(unsigned long long)addr);
}

static void check(const char *what, uint64_t addr, const volatile uint64_t *host)
{
	uint64_t value = *host;

	if (value != (MAGIC | addr / PAGE))
		complain(what, addr, value);
}

/* ----------------------------------------------------------------------------------- readers */

static void read_in_section(struct rng *rng, struct gr_cursor *cursor)
{
	int i;

	gr_read_begin();
	for (i = 0; i < 64; i++) {
		uint64_t addr = rng_below(rng, SLOTS * SLOT / PAGE) * PAGE;
		uint64_t *host = gr_host(space, addr, PAGE, GR_READ);
		uint64_t *other = gr_cursor_host(cursor, addr, 8, GR_READ);

		if (host)
			check("host", addr, host);
		if (other)
			check("cursor", addr, other);
		atomic_fetch_add_explicit(&hits, host != NULL, memory_order_relaxed);
	}
	gr_read_end();
	atomic_fetch_add_explicit(&lookups, 128, memory_order_relaxed);
}

static void read_pinned(struct rng *rng, struct gr_pin *held)
{
	uint64_t addr = rng_below(rng, SLOTS * SLOT / PAGE) * PAGE, value = 0;

	if (held->block) { /* taken some rounds ago */
		check("pin", held->offset, held->host);
		gr_unpin(held);
	}
	held->block = NULL;
	if (!gr_pin(space, addr, PAGE, RW, held)) {
		atomic_fetch_add_explicit(&pins, 1, memory_order_relaxed);
		held->offset = addr; /* to check it by */
	}
	if (!gr_load_u64(space, addr, &value) && value != (MAGIC | addr / PAGE))
		complain("load", addr, value);
}

static void *read_on(void *arg)
{
	struct rng rng = {(uintptr_t)arg};
	struct gr_cursor cursor;
	struct gr_pin held[4] = {{0}};
	unsigned i;

	gr_cursor_init(&cursor, space);
	for (i = 0; !atomic_load(&stop); i++) {
		read_in_section(&rng, &cursor);
		read_pinned(&rng, &held[i % 4]);
	}
	for (i = 0; i < 4; i++)
		if (held[i].block)
			gr_unpin(&held[i]);
	return NULL;
}

/* ----------------------------------------------------------------------------------- writers */

static void poison(void *context, void *host, uint64_t length)
{
	uint64_t page;

	for (page = 0; page < length / PAGE; page++)
		((uint64_t *)host)[page * PAGE / 8] = 0xdeadbeef;
	if (munmap(host, length))
		atomic_fetch_add(&errors, 1);
	atomic_fetch_add(&releases, 1);
}

static int make_block(unsigned slot, unsigned round, struct gr_block **block)
{
	char name[32];
	struct gr_block_opts opts = {
		.name = name,
		.backing = GR_BACKING_CALLER,
		.flags = GR_DELETE_UNMAP,
		.length = SLOT,
		.release = poison,
	};
	uint64_t page;

	snprintf(name, sizeof(name), "slot%u.%u", slot, round);
	opts.host = mmap(NULL, SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (opts.host == MAP_FAILED)
		return -ENOMEM;
	for (page = 0; page < SLOT / PAGE; page++)
		((uint64_t *)opts.host)[page * PAGE / 8] = MAGIC | (slot * SLOT / PAGE + page);
	return gr_block_new(ram, &opts, block);
}

/* A new block in the place of the old one, by a transaction or piece by piece. */
static int replace(struct rng *rng, unsigned slot, unsigned round)
{
	struct gr_block *next, *old = blocks[slot];
	uint64_t base = slot * SLOT, cut = rng_below(rng, SLOT / PAGE - 1) * PAGE + PAGE;
	struct gr_txn *txn;
	int rc = make_block(slot, round, &next);

	if (rc)
		return rc;
	blocks[slot] = next;
	if (rng_one_in(rng, 2)) {
		rc = gr_txn_begin(space, &txn);
		if (rc)
			return rc;
		rc = gr_txn_unmap(txn, base, SLOT);
		if (!rc)
			rc = gr_txn_map(txn, base, next, 0, cut, RW);
		if (!rc && cut < SLOT)
			rc = gr_txn_map(txn, base + cut, next, cut, SLOT - cut, GR_READ);
		if (!rc)
			rc = gr_txn_commit(txn);
		else
			gr_txn_abort(txn);
		if (!rc)
			rc = gr_block_delete(old);
	} else {
		rc = gr_block_delete(old);
		if (!rc)
			rc = gr_space_map(space, base, next, 0, SLOT, RW);
	}
	atomic_fetch_add(&removals, 1);
	return rc;
}

static void *change_on(void *arg)
{
	unsigned first = (unsigned)(uintptr_t)arg, round = 1, i;
	struct rng rng = {first + 77};

	while (!atomic_load(&stop)) {
		unsigned slot = first + 2 * (unsigned)rng_below(&rng, SLOTS / 2);

		if (replace(&rng, slot, round++))
			atomic_fetch_add(&errors, 1);
		for (i = 0; i < 6; i++) { /* holes that come and go */
			uint64_t at = rng_below(&rng, SLOT / PAGE) * PAGE;

			if (gr_space_unmap(space, slot * SLOT + at, PAGE))
				atomic_fetch_add(&errors, 1);
			if (rng_one_in(&rng, 2) &&
			    gr_space_map(space, slot * SLOT + at, blocks[slot], at, PAGE, RW))
				atomic_fetch_add(&errors, 1);
			if (!look_up(space, slot * SLOT + at, 1, 0))
				break;
		}
	}
	return NULL;
}

static void test_no_reader_ever_sees_what_is_gone(void **unused)
{
	pthread_t threads[5];
	unsigned i;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	for (i = 0; i < SLOTS; i++) {
		assert_ok(make_block(i, 0, &blocks[i]));
		assert_ok(gr_space_map(space, i * SLOT, blocks[i], 0, SLOT, RW));
	}
	for (i = 0; i < 3; i++)
		threads[i] = thread_start(read_on, (void *)(uintptr_t)(i + 1));
	for (; i < 5; i++)
		threads[i] = thread_start(change_on, (void *)(uintptr_t)(i - 3));
	sleep_us(SECONDS * 1000000);
	atomic_store(&stop, 1);
	for (i = 0; i < 5; i++)
		thread_join(threads[i]);
	print_message("lookups %lu (%lu of gr_host() hit), pins %lu, removals %lu\n",
		      atomic_load(&lookups), atomic_load(&hits), atomic_load(&pins),
		      atomic_load(&removals));
	assert_int_equal(atomic_load(&stale), 0);
	assert_int_equal(atomic_load(&errors), 0);
	assert_true(atomic_load(&hits) > 1000 && atomic_load(&pins) > 100);
	assert_true(atomic_load(&removals) > 10);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(atomic_load(&releases), atomic_load(&removals));
	assert_int_equal(stats_of(ram).pins, 0);
	assert_ok(gr_ram_close(ram));
	assert_int_equal(atomic_load(&releases), atomic_load(&removals) + SLOTS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_reader_ever_sees_what_is_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
