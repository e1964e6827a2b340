/* SPDX-License-Identifier: MIT */
/* Who forbids discards and who needs them: each against each, and against what is under way. */
#include "os/hooks.h"
#include "plug_util.h"
#include "ram/ram.h"

static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block, *another;

static int open_ram(void **unused)
{
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	block = new_anon(ram, "ram0", 2 * GRANULE, 0);
	another = new_anon(ram, "ram1", 2 * GRANULE, 0);
	assert_ok(gr_space_map(space, 0, block, 0, 2 * GRANULE, RW));
	return 0;
}

static int close_ram(void **unused)
{
	assert_ok(gr_ram_close(ram));
	return 0;
}

static struct gr_discard_claim *claim(struct gr_block *on, enum gr_discard_kind kind,
				      const char *reason)
{
	struct gr_discard_claim *result = NULL;

	assert_ok(gr_discard_claim_open(ram, on, kind, reason, &result));
	return result;
}

static const enum gr_discard_kind kinds[] = {
	GR_DISCARD_FORBID,
	GR_DISCARD_FORBID_UNTOLD,
	GR_DISCARD_NEED,
	GR_DISCARD_NEED_TOLD,
};

static const bool exclude[4][4] = {
	{false, false, true, true},
	{false, false, true, false},
	{true, true, false, false},
	{true, false, false, false},
};

static void test_each_kind_of_claim_against_each(void **unused)
{
	/* both on the block, on it and on all, on all and on it, on all, on two blocks */
	struct gr_block *where[5][2] = {
		{block, block}, {block, NULL}, {NULL, block}, {NULL, NULL}, {block, another}};
	size_t a, b, w;

	for (w = 0; w < COUNT_OF(where); w++)
		for (a = 0; a < COUNT_OF(kinds); a++)
			for (b = 0; b < COUNT_OF(kinds); b++) {
				struct gr_discard_claim *first, *second = NULL;
				int rc;

				first = claim(where[w][0], kinds[a], "the first one's reason");
				rc = gr_discard_claim_open(ram, where[w][1], kinds[b], "second",
							   &second);
				if (exclude[a][b] && w < 4) {
					assert_int_equal(rc, -EBUSY);
					assert_non_null(
						strstr(gr_last_error(), "the first one's reason"));
					assert_null(second);
				} else {
					assert_ok(rc);
				}
				gr_discard_claim_close(first);
				/* once it is gone, the other may come */
				if (!second)
					second = claim(where[w][1], kinds[b], "second");
				gr_discard_claim_close(second);
			}
	gr_discard_claim_close(NULL);
}

static void test_what_each_kind_keeps_from_being_discarded(void **unused)
{
	struct gr_block *elastic = new_anon(ram, "elastic", 4 * PAGE, 8 * PAGE);
	struct gr_plug *plug;
	size_t k;

	for (k = 0; k < COUNT_OF(kinds); k++) {
		struct gr_discard_claim *held = claim(NULL, kinds[k], "pinned for DMA by vfio");
		bool untold = kinds[k] >= GR_DISCARD_NEED, told = kinds[k] != GR_DISCARD_FORBID;
		struct gr_balloon *balloon = NULL;
		char *host = info_of(block).host;
		int rc;

		*host = 5;
		rc = gr_block_discard(block, 0, PAGE);
		assert_int_equal(rc, untold ? 0 : -EBUSY);
		if (rc)
			assert_non_null(strstr(gr_last_error(), "pinned for DMA by vfio"));
		assert_int_equal(*host, untold ? 0 : 5);
		assert_int_equal(gr_hint_free(space, 0, PAGE), untold ? (int64_t)PAGE : -EBUSY);
		assert_int_equal(gr_block_resize(elastic, 2 * PAGE), told ? 0 : -EBUSY);
		assert_int_equal(info_of(elastic).length, told ? 2 * PAGE : 4 * PAGE);
		assert_ok(gr_block_resize(elastic, 4 * PAGE)); /* growing is no discard */
		rc = gr_balloon_open(space, &balloon);
		assert_int_equal(rc, untold ? 0 : -EBUSY);
		if (rc)
			assert_non_null(strstr(gr_last_error(), "pinned for DMA by vfio"));
		assert_ok(gr_balloon_close(balloon));
		plug = NULL;
		rc = gr_plug_open(another, NULL, &plug); /* it discards what nobody was told of */
		assert_int_equal(rc, untold ? 0 : -EBUSY);
		assert_ok(gr_plug_close(plug));
		gr_discard_claim_close(held);
	}
}

/* Hardware that follows granules forbids the rest; granules come and go under it. */
static void test_told_removals_go_on_where_untold_ones_are_forbidden(void **unused)
{
	struct gr_discard_claim *vfio, *none = NULL;
	struct gr_plug *plug;

	assert_ok(gr_plug_open(another, NULL, &plug));
	assert_error(gr_discard_claim_open(ram, another, GR_DISCARD_FORBID, "vfio", &none), -EBUSY,
		     "granules");
	vfio = claim(NULL, GR_DISCARD_FORBID_UNTOLD, "vfio maps what is plugged");
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	assert_ok(gr_plug_remove(plug, 0, GRANULE));
	assert_error(gr_block_discard(another, 0, PAGE), -EBUSY, "vfio maps");
	gr_discard_claim_close(vfio);
	assert_ok(gr_plug_close(plug));
	none = claim(another, GR_DISCARD_FORBID, "vfio"); /* the need went with the granules */
	gr_discard_claim_close(none);
}

static void test_claims_that_are_malformed(void **unused)
{
	struct gr_discard_claim *result = NULL;
	struct gr_ram *other;
	char reason[400];

	assert_error(gr_discard_claim_open(ram, NULL, 0, "x", &result), -EINVAL, "kind");
	assert_error(gr_discard_claim_open(ram, NULL, 5, "x", &result), -EINVAL, "kind");
	assert_error(gr_discard_claim_open(ram, NULL, GR_DISCARD_NEED, NULL, &result), -EINVAL, "");
	assert_error(gr_discard_claim_open(ram, NULL, GR_DISCARD_NEED, "", &result), -EINVAL, "");
	assert_error(gr_discard_claim_open(ram, NULL, GR_DISCARD_NEED, "x", NULL), -EINVAL, "");
	assert_ok(gr_ram_open(NULL, &other));
	assert_error(gr_discard_claim_open(other, block, GR_DISCARD_NEED, "x", &result), -EINVAL,
		     "another RAM");
	assert_ok(gr_ram_close(other));
	assert_null(result);
	memset(reason, 'r', sizeof(reason) - 1);
	reason[sizeof(reason) - 1] = '\0';
	claim(NULL, GR_DISCARD_FORBID, reason); /* and is not closed: it ends with the RAM */
	assert_error(gr_block_discard(block, 0, PAGE), -EBUSY, "rrrr");
}

static void test_a_claim_says_nothing_once_its_block_is_deleted(void **unused)
{
	struct gr_discard_claim *old = claim(another, GR_DISCARD_FORBID, "old"), *next;
	struct gr_block *again;
	unsigned i;

	assert_ok(gr_block_delete(another));
	assert_true(cds_list_empty(&ram->claims));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	for (i = 0; i < 32; i++) { /* one of them gets the same memory for its structure */
		again = new_anon(ram, "again", GRANULE, 0);
		assert_ok(gr_block_discard(again, 0, PAGE));
		next = claim(again, GR_DISCARD_NEED, "next");
		gr_discard_claim_close(next);
		assert_ok(gr_block_delete(again));
		assert_ok(gr_ram_drain(ram, LONG_MS));
	}
	gr_discard_claim_close(old);
}

/* --------------------------------------------------------------- what is under way already */

static struct gate begun, go_on;
static int claim_rc, claimed, discard_rc;
static struct gr_discard_claim *late;

static int stop_in_discard(const char *call)
{
	if (!strcmp(call, "madvise")) {
		gate_open(&begun);
		gate_wait(&go_on);
	}
	return 0;
}

static void *discard(void *unused)
{
	discard_rc = gr_block_discard(block, 0, PAGE);
	return NULL;
}

static void *forbid(void *unused)
{
	claim_rc = gr_discard_claim_open(ram, NULL, GR_DISCARD_FORBID, "dma", &late);
	set(&claimed, 1);
	return NULL;
}

static void test_a_claim_waits_for_the_discard_that_it_forbids(void **unused)
{
	struct gr_discard_claim *other_block;
	pthread_t discarder, claimer;

	gate_init(&begun);
	gate_init(&go_on);
	claimed = 0;
	gr__hook_fault = stop_in_discard;
	discarder = thread_start(discard, NULL);
	assert_true(gate_wait(&begun));
	claimer = thread_start(forbid, NULL);
	sleep_us(20000);
	assert_int_equal(get(&claimed), 0);
	/* on another block, or of a kind that minds nothing, it does not wait */
	other_block = claim(another, GR_DISCARD_FORBID, "dma");
	gr_discard_claim_close(other_block);
	gate_open(&go_on);
	thread_join(discarder);
	thread_join(claimer);
	gr__hook_fault = NULL;
	assert_int_equal(discard_rc, 0);
	assert_int_equal(claim_rc, 0);
	assert_error(gr_block_discard(block, 0, PAGE), -EBUSY, "dma");
	gr_discard_claim_close(late);
	assert_ok(gr_block_discard(block, 0, PAGE));
}

static void claim_in_callback(struct watcher *watcher)
{
	struct gr_discard_claim *result;

	watcher->wrong +=
		gr_discard_claim_open(ram, NULL, GR_DISCARD_FORBID, "x", &result) != -EBUSY;
}

/* It would wait for itself: it is refused. */
static void test_a_claim_in_a_callback_of_a_removal_is_refused(void **unused)
{
	struct watcher watcher = {0};
	struct gr_plug *plug;

	assert_ok(gr_plug_open(another, NULL, &plug));
	watcher_open(&watcher, ram, another, 0);
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	watcher.hook = claim_in_callback;
	assert_ok(gr_plug_remove(plug, 0, GRANULE));
	watcher.hook = NULL;
	watcher_close(&watcher);
	assert_ok(gr_plug_close(plug));
}

static void forbid_when_removed(void *context, struct gr_space *in, const struct gr_range *range)
{
	struct gr_discard_claim *result;

	*(int *)context =
		gr_discard_claim_open(ram, block, GR_DISCARD_FORBID, "dma by range", &result);
}

/* Nobody needs told discards, but one is under way. */
static void test_a_claim_in_a_callback_of_a_shrink_is_refused(void **unused)
{
	struct gr_listener_ops ops = {.range_removed = forbid_when_removed};
	struct gr_listener *listener;
	int rc = 1;

	assert_ok(gr_listener_open(ram, &ops, &rc, 0, &listener));
	assert_ok(gr_block_resize(block, GRANULE));
	assert_int_equal(rc, -EBUSY);
	rc = 1;
	assert_ok(gr_listener_close(listener)); /* now there is none, and it may */
	assert_int_equal(rc, 0);
	assert_error(gr_block_discard(block, 0, PAGE), -EBUSY, "dma by range");
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_each_kind_of_claim_against_each),
		each(test_what_each_kind_keeps_from_being_discarded),
		each(test_told_removals_go_on_where_untold_ones_are_forbidden),
		each(test_claims_that_are_malformed),
		each(test_a_claim_says_nothing_once_its_block_is_deleted),
		each(test_a_claim_waits_for_the_discard_that_it_forbids),
		each(test_a_claim_in_a_callback_of_a_removal_is_refused),
		each(test_a_claim_in_a_callback_of_a_shrink_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
