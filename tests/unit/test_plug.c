/* SPDX-License-Identifier: MIT */
/* Granules and strict windows: what is promised, and what is refused with nothing changed. */
#include "plug_util.h"
#include "recorder.h"
#include <sys/wait.h>

#define COUNT 16
#define BASE (4 * GIB)

static struct gr_ram *ram;
static struct gr_space *space, *other;
static struct gr_block *block;
static struct gr_plug *plug;
static char *host;

static int open_ram(void **unused)
{
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	assert_ok(gr_space_open(ram, "iova", &other));
	block = new_anon(ram, "vmem", COUNT * GRANULE, 0);
	host = info_of(block).host;
	assert_ok(gr_plug_open(block, NULL, &plug));
	return 0;
}

static int close_ram(void **unused)
{
	if (plug) {
		gr_plug_unmap(plug, space, BASE);
		gr_plug_unmap(plug, other, 0);
		assert_ok(gr_plug_remove_all(plug));
		assert_ok(gr_plug_close(plug));
	}
	assert_ok(gr_ram_close(ram));
	return 0;
}

static uint64_t resident(const char *at, uint64_t length)
{
	static unsigned char pages[COUNT * GRANULE / PAGE];
	uint64_t count = 0, i;

	assert_int_equal(mincore((void *)at, length, pages), 0);
	for (i = 0; i < length / PAGE; i++)
		count += pages[i] & 1;
	return count;
}

/* ------------------------------------------------------------------------------ ranges of runs */

struct expected {
	uint64_t first, length; /* in granules of the window */
};

struct comparison {
	const struct expected *want;
	size_t count, at;
	bool differs;
};

static int compare(void *context, const struct gr_range *range)
{
	struct comparison *c = context;

	if (c->at == c->count || range->addr != BASE + c->want[c->at].first * GRANULE ||
	    range->length != c->want[c->at].length * GRANULE || range->visible != range->length ||
	    range->host != host + c->want[c->at].first * GRANULE)
		c->differs = true;
	c->at++;
	return 0;
}

static void assert_ranges_at(const struct expected *want, size_t count, int line)
{
	struct comparison c = {want, count, 0, false};

	gr_read_begin();
	gr_space_each_range(space, compare, &c);
	gr_read_end();
	if (c.differs || c.at != count)
		fail_msg("line %d: %zu ranges, not the %zu expected", line, c.at, count);
}
#define assert_ranges(...)                                                                         \
	assert_ranges_at((const struct expected[]){__VA_ARGS__},                                   \
			 sizeof((const struct expected[]){__VA_ARGS__}) / sizeof(struct expected), \
			 __LINE__)

static void test_plugged_runs_are_maximal_ranges_of_a_strict_window(void **unused)
{
	assert_ok(gr_plug_map(plug, space, BASE, 0, COUNT * GRANULE, RW));
	assert_ranges_at(NULL, 0, __LINE__);
	assert_null(look_up(space, BASE, 1, GR_READ));
	assert_ok(gr_plug_add(plug, 2 * GRANULE, GRANULE));
	assert_ranges({2, 1});
	assert_ok(gr_plug_add(plug, 4 * GRANULE, 2 * GRANULE));
	assert_ranges({2, 1}, {4, 2});
	assert_ok(gr_plug_add(plug, 3 * GRANULE, GRANULE)); /* joins both */
	assert_ranges({2, 4});
	assert_ok(gr_plug_add(plug, GRANULE, GRANULE)); /* on the left */
	assert_ranges({1, 5});
	assert_ok(gr_plug_add(plug, 6 * GRANULE, GRANULE)); /* on the right */
	assert_ranges({1, 6});
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	assert_ok(gr_plug_add(plug, 15 * GRANULE, GRANULE));
	assert_ranges({0, 7}, {15, 1});
	/* across seams of granules it is one range */
	assert_ptr_equal(look_up(space, BASE + GRANULE - 8, 16, RW), host + GRANULE - 8);
	assert_ok(gr_plug_remove(plug, 3 * GRANULE, GRANULE)); /* splits */
	assert_ranges({0, 3}, {4, 3}, {15, 1});
	assert_null(look_up(space, BASE + 3 * GRANULE, 1, GR_READ));
	assert_null(look_up(space, BASE + 3 * GRANULE - 8, 16, GR_READ));
	assert_ptr_equal(look_up(space, BASE + 3 * GRANULE - 8, 8, RW), host + 3 * GRANULE - 8);
	assert_ok(gr_plug_remove_all(plug));
	assert_ranges_at(NULL, 0, __LINE__);
	assert_int_equal(gr_plug_bytes(plug), 0);
}

static void test_a_window_shows_what_was_plugged_before_and_only_its_piece(void **unused)
{
	assert_ok(gr_plug_add(plug, GRANULE, 6 * GRANULE));
	assert_ok(gr_plug_add(plug, 9 * GRANULE, GRANULE));
	assert_ok(gr_plug_map(plug, other, 0, 5 * GRANULE, 4 * GRANULE, GR_READ));
	assert_ptr_equal(look_up(other, 0, 2 * GRANULE, GR_READ), host + 5 * GRANULE);
	assert_null(look_up(other, 0, 1, RW)); /* its own rights */
	assert_null(look_up(other, 2 * GRANULE, 1, GR_READ));
	assert_ok(
		gr_plug_add(plug, 7 * GRANULE, 2 * GRANULE)); /* outside it joins, inside it ends */
	assert_ptr_equal(look_up(other, 0, 4 * GRANULE, GR_READ), host + 5 * GRANULE);
	assert_null(look_up(other, 4 * GRANULE, 1, GR_READ));
	assert_int_equal(stats_of(ram).ranges, 1);
	assert_ok(gr_plug_unmap(plug, other, 0));
	assert_int_equal(stats_of(ram).ranges, 0);
	assert_error(gr_plug_unmap(plug, other, 0), -ENOENT, "window");
}

static void test_one_change_is_seen_in_all_windows_of_all_spaces(void **unused)
{
	assert_ok(gr_plug_map(plug, space, BASE, 0, COUNT * GRANULE, RW));
	assert_ok(gr_plug_map(plug, space, GIB, 0, 2 * GRANULE, GR_READ)); /* twice in a space */
	assert_ok(gr_plug_map(plug, other, 0, GRANULE, GRANULE, RW));
	assert_ok(gr_plug_add(plug, 0, 3 * GRANULE));
	assert_ptr_equal(look_up(space, BASE, 3 * GRANULE, RW), host);
	assert_ptr_equal(look_up(space, GIB, 2 * GRANULE, GR_READ), host);
	assert_ptr_equal(look_up(other, 0, GRANULE, RW), host + GRANULE);
	assert_int_equal(stats_of(ram).ranges, 3);
	assert_int_equal(info_of(block).mapped, 3);
	assert_ok(gr_plug_remove(plug, GRANULE, GRANULE));
	assert_int_equal(stats_of(ram).ranges, 3); /* two pieces, one, none */
	assert_null(look_up(other, 0, 1, GR_READ));
	assert_ok(gr_plug_unmap(plug, space, GIB));
	assert_int_equal(stats_of(ram).ranges, 2);
}

static void test_a_lenient_range_reads_unplugged_granules_as_zero(void **unused)
{
	char *at;

	assert_ok(gr_space_map(space, GIB, block, 0, COUNT * GRANULE, RW));
	assert_ok(gr_plug_add(plug, 0, 2 * GRANULE));
	at = look_up(space, GIB, COUNT * GRANULE, RW);
	assert_ptr_equal(at, host);
	memset(at, 7, 2 * GRANULE);
	assert_ok(gr_plug_remove(plug, 0, GRANULE));
	assert_int_equal(resident(host, 2 * GRANULE), GRANULE / PAGE);
	assert_int_equal(at[0], 0);
	assert_int_equal(at[GRANULE - 1], 0);
	assert_int_equal(at[GRANULE], 7); /* the neighbour */
	/* what is stored into an unplugged one is not there when it is plugged */
	at[5] = 9;
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	assert_int_equal(at[5], 0);
	assert_int_equal(at[GRANULE], 7);
	assert_ok(gr_space_unmap(space, GIB, COUNT * GRANULE));
}

/* -------------------------------------------------------------------------- refused, unchanged */

static void test_granules_are_plugged_and_unplugged_all_or_none(void **unused)
{
	assert_ok(gr_plug_map(plug, space, BASE, 0, COUNT * GRANULE, RW));
	assert_ok(gr_plug_add(plug, 2 * GRANULE, 2 * GRANULE));
	assert_error(gr_plug_add(plug, GRANULE, 2 * GRANULE), -EEXIST, "plugged already");
	assert_error(gr_plug_add(plug, 3 * GRANULE, 2 * GRANULE), -EEXIST, "plugged already");
	assert_error(gr_plug_remove(plug, GRANULE, 2 * GRANULE), -ENOENT, "not plugged");
	assert_error(gr_plug_remove(plug, 3 * GRANULE, 2 * GRANULE), -ENOENT, "not plugged");
	assert_error(gr_plug_add(plug, 5, GRANULE), -EINVAL, "granules");
	assert_error(gr_plug_add(plug, 0, GRANULE + PAGE), -EINVAL, "granules");
	assert_error(gr_plug_add(plug, 0, 0), -EINVAL, "granules");
	assert_error(gr_plug_add(plug, 15 * GRANULE, 2 * GRANULE), -ERANGE, "leaves");
	assert_error(gr_plug_add(plug, 0 - GRANULE, 2 * GRANULE), -ERANGE, "leaves");
	assert_error(gr_plug_remove(plug, 0 - GRANULE, 2 * GRANULE), -ERANGE, "leaves");
	assert_error(gr_plug_remove(plug, 0, 0), -EINVAL, "granules");
	assert_ranges({2, 2});
	assert_int_equal(gr_plug_bytes(plug), 2 * GRANULE);
	assert_int_equal(gr_plug_is(plug, 2 * GRANULE, 2 * GRANULE), GR_PLUG_ALL);
	assert_int_equal(gr_plug_is(plug, 3 * GRANULE - 1, 1), GR_PLUG_ALL);
	assert_int_equal(gr_plug_is(plug, 2 * GRANULE - 1, 1), GR_PLUG_NONE);
	assert_int_equal(gr_plug_is(plug, 2 * GRANULE - 1, 2), GR_PLUG_MIXED);
	assert_int_equal(gr_plug_is(plug, 0, COUNT * GRANULE), GR_PLUG_MIXED);
	assert_error(gr_plug_is(plug, 0, COUNT * GRANULE + 1), -ERANGE, "leave");
	assert_error(gr_plug_is(plug, UINT64_MAX, 2), -ERANGE, "leave");
	assert_error(gr_plug_is(plug, 0, 0), -EINVAL, "0 bytes");
}

static void test_a_windows_addresses_are_its_own(void **unused)
{
	struct gr_block *ram0 = new_anon(ram, "ram0", 64 * MIB, 0);
	struct gr_txn *txn;

	assert_ok(gr_plug_map(plug, space, BASE, 0, COUNT * GRANULE, RW));
	assert_ok(gr_plug_add(plug, 2 * GRANULE, GRANULE));
	assert_error(gr_space_map(space, BASE, ram0, 0, PAGE, RW), -EEXIST, "strict window");
	assert_error(gr_space_map(space, BASE - PAGE, ram0, 0, 2 * PAGE, RW), -EEXIST, "vmem");
	assert_error(gr_space_map(space, BASE + 2 * GRANULE, ram0, 0, PAGE, RW), -EEXIST, "vmem");
	assert_error(gr_space_unmap(space, BASE + 2 * GRANULE, GRANULE), -EBUSY, "gr_plug_unmap");
	assert_error(gr_space_unmap(space, 0, 8 * GIB), -EBUSY, "strict window");
	assert_error(gr_plug_map(plug, space, BASE + GRANULE, 0, GRANULE, RW), -EEXIST, "window");
	assert_ok(gr_txn_begin(space, &txn));
	assert_ok(gr_txn_map(txn, 0, ram0, 0, PAGE, RW));
	assert_ok(gr_txn_unmap(txn, BASE + 5 * GRANULE, PAGE));
	assert_error(gr_txn_commit(txn), -EBUSY, "strict window");
	assert_null(look_up(space, 0, 1, GR_READ));
	/* up to its edges others may map */
	assert_ok(gr_space_map(space, BASE - PAGE, ram0, 0, PAGE, RW));
	assert_ok(gr_space_map(space, BASE + COUNT * GRANULE, ram0, PAGE, PAGE, RW));
	/* and what is plugged at the edge is not joined with that */
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	assert_ok(gr_plug_add(plug, (COUNT - 1) * GRANULE, GRANULE));
	assert_ptr_equal(look_up(space, BASE - PAGE, PAGE, RW), info_of(ram0).host);
	assert_ptr_equal(look_up(space, BASE + COUNT * GRANULE, PAGE, RW),
			 (char *)info_of(ram0).host + PAGE);
	assert_ptr_equal(look_up(space, BASE, GRANULE, RW), host);
	assert_null(look_up(space, BASE - PAGE, 2 * PAGE, RW));
	assert_error(gr_plug_map(plug, space, BASE - 2 * PAGE, 0, GRANULE, RW), -EEXIST, "window");
	assert_error(gr_plug_map(plug, space, 0, 0, GRANULE, 0), -EINVAL, "access");
	assert_error(gr_plug_map(plug, space, 5, 0, GRANULE, RW), -EINVAL, "multiple");
	assert_error(gr_plug_map(plug, space, 0, 0, PAGE, RW), -EINVAL, "granules");
	assert_error(gr_plug_map(plug, space, 0, 0, 0, RW), -EINVAL, "empty");
	assert_error(gr_plug_map(plug, space, 0 - GRANULE, 0, 2 * GRANULE, RW), -ERANGE, "2^64");
	assert_error(gr_plug_map(plug, space, 0, 15 * GRANULE, 2 * GRANULE, RW), -ERANGE, "leaves");
	assert_ok(gr_plug_map(plug, other, 0 - 2 * GRANULE, GRANULE, 2 * GRANULE, RW));
	assert_ptr_equal(look_up(other, 0 - GRANULE, GRANULE, RW), host + 2 * GRANULE);
	assert_error(gr_space_close(other), -EBUSY, "strict windows");
	assert_ok(gr_plug_unmap(plug, other, 0 - 2 * GRANULE));
	/* a range in the way of a window that has nothing to show yet */
	assert_ok(gr_space_map(space, GIB + GRANULE, ram0, 0, PAGE, RW));
	assert_error(gr_plug_map(plug, space, GIB, 4 * GRANULE, 4 * GRANULE, RW), -EEXIST, "ram0");
}

static void test_a_block_with_open_granules_stays(void **unused)
{
	struct gr_plug *second;

	assert_error(gr_plug_open(block, NULL, &second), -EEXIST, "already");
	assert_error(gr_block_delete(block), -EBUSY, "granules are open");
	assert_error(gr_ram_close(ram), -EBUSY, "granules of block vmem");
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	assert_error(gr_plug_close(plug), -EBUSY, "plugged");
	assert_ok(gr_plug_remove_all(plug));
	assert_ok(gr_plug_map(plug, space, BASE, 0, GRANULE, RW));
	assert_error(gr_plug_close(plug), -EBUSY, "windows");
	assert_ok(gr_plug_unmap(plug, space, BASE));
	gr_read_begin();
	assert_ptr_equal(gr_plug_of(block), plug);
	assert_error(gr_plug_close(plug), -EDEADLK, "");
	gr_read_end();
	assert_ok(gr_plug_close(plug));
	plug = NULL;
	gr_read_begin();
	assert_null(gr_plug_of(block));
	gr_read_end();
	assert_ok(gr_plug_close(NULL));
	assert_ok(gr_block_delete(block));
}

static void test_options_and_backings_that_cannot_have_granules(void **unused)
{
	struct gr_plug_opts opts = {.granule = 3 * MIB};
	void *memory = reserve(4 * MIB);
	struct gr_block *odd = new_anon(ram, "odd", 5 * MIB, 0), *owned;
	struct gr_plug *other_plug = NULL;

	assert_error(gr_plug_open(odd, NULL, &other_plug), -EINVAL, "granules of");
	assert_error(gr_plug_open(odd, &opts, &other_plug), -EINVAL, "granules of");
	opts.granule = 2048;
	assert_error(gr_plug_open(odd, &opts, &other_plug), -EINVAL, "granules of");
	opts.granule = MIB;
	opts.reserved[3] = 1;
	assert_error(gr_plug_open(odd, &opts, &other_plug), -EINVAL, "reserved");
	opts.reserved[3] = 0;
	owned = new_caller(ram, "owned", memory, 4 * MIB, NULL);
	assert_error(gr_plug_open(owned, NULL, &other_plug), -ENOTSUP, "caller's");
	assert_null(other_plug);
	assert_ok(gr_plug_open(odd, &opts, &other_plug));
	assert_int_equal(gr_plug_granule(other_plug), MIB);
	assert_ptr_equal(gr_plug_block(other_plug), odd);
	assert_ok(gr_plug_add(other_plug, 4 * MIB, MIB));
	assert_ok(gr_plug_remove(other_plug, 4 * MIB, MIB));
	assert_ok(gr_plug_close(other_plug));
	/* other granules, and the same again */
	opts.granule = PAGE;
	assert_ok(gr_plug_open(odd, &opts, &other_plug));
	assert_ok(gr_plug_add(other_plug, 7 * PAGE, PAGE));
	assert_ok(gr_plug_remove_all(other_plug));
	assert_ok(gr_plug_close(other_plug));
	assert_ok(gr_plug_open(odd, &opts, &other_plug));
	assert_ok(gr_plug_close(other_plug));
}

/* ------------------------------------------------------------------------------------- pins */

static void test_a_pinned_granule_stays_and_an_unplugged_one_is_not_pinned(void **unused)
{
	struct gr_pin pin, second, pins[2];

	assert_ok(gr_space_map(other, GIB, block, 0, COUNT * GRANULE, RW));
	assert_ok(gr_plug_map(plug, space, BASE, 0, COUNT * GRANULE, RW));
	assert_ok(gr_plug_add(plug, GRANULE, 3 * GRANULE));
	assert_error(gr_pin(other, GIB, PAGE, RW, &pin), -EFAULT, "unplugged");
	assert_error(gr_pin(other, GIB + GRANULE - PAGE, 2 * PAGE, RW, &pin), -EFAULT, "unplugged");
	assert_error(gr_block_pin(block, 0, PAGE, RW, &pin), -EFAULT, "unplugged");
	assert_error(gr_pin_spans(other, GIB, PAGE, RW, pins, 2), -EFAULT, "unplugged");
	assert_int_equal(info_of(block).pins, 0);
	/* over the seam of two: both are kept */
	assert_ok(gr_pin(space, BASE + 2 * GRANULE - PAGE, 2 * PAGE, RW, &pin));
	assert_ok(gr_pin(other, GIB + GRANULE, PAGE, GR_READ, &second));
	memset(pin.host, 5, 2 * PAGE);
	assert_error(gr_plug_remove(plug, GRANULE, GRANULE), -EBUSY, "pinned");
	assert_error(gr_plug_remove(plug, 2 * GRANULE, GRANULE), -EBUSY, "pinned");
	assert_error(gr_plug_remove_all(plug), -EBUSY, "pinned");
	assert_ranges({1, 3});
	assert_int_equal(((char *)pin.host)[PAGE], 5);
	assert_int_equal(gr_plug_bytes(plug), 3 * GRANULE);
	/* what is refused can be pinned as before */
	assert_ok(gr_pin(space, BASE + GRANULE, PAGE, RW, &pins[0]));
	gr_unpin(&pins[0]);
	assert_ok(gr_plug_remove(plug, 3 * GRANULE, GRANULE)); /* nobody has this one */
	gr_unpin(&pin);
	assert_ok(gr_plug_remove(plug, 2 * GRANULE, GRANULE));
	assert_error(gr_plug_remove(plug, GRANULE, GRANULE), -EBUSY, "pinned");
	gr_unpin(&second);
	assert_ok(gr_plug_remove(plug, GRANULE, GRANULE));
	assert_int_equal(info_of(block).pins, 0);
}

/* Of several pieces one is unplugged: nothing of the others stays counted. */
static void test_a_pin_of_pieces_that_fails_on_the_way_keeps_nothing(void **unused)
{
	struct gr_pin pins[3];

	assert_ok(gr_plug_add(plug, 0, 2 * GRANULE));
	assert_ok(gr_space_map(other, 0, block, GRANULE, GRANULE, RW));
	assert_ok(gr_space_map(other, GRANULE, block, 0, GRANULE, RW));
	assert_ok(gr_space_map(other, 2 * GRANULE, block, 5 * GRANULE, GRANULE, RW));
	assert_int_equal(gr_pin_spans(other, 0, 2 * GRANULE, RW, pins, 3), 2);
	gr_unpin(&pins[0]);
	gr_unpin(&pins[1]);
	assert_error(gr_pin_spans(other, 0, 2 * GRANULE + PAGE, RW, pins, 3), -EFAULT, "unplugged");
	assert_int_equal(info_of(block).pins, 0);
	assert_ok(gr_plug_remove_all(plug));
}

static void test_granules_do_not_open_on_a_pinned_block(void **unused)
{
	struct gr_block *ram0 = new_anon(ram, "ram0", 4 * MIB, 0);
	struct gr_plug *second;
	struct gr_pin pin, late;

	assert_ok(gr_block_pin(ram0, 0, PAGE, RW, &pin));
	memset(pin.host, 3, PAGE);
	assert_error(gr_plug_open(ram0, NULL, &second), -EBUSY, "pinned");
	assert_int_equal(*(char *)pin.host, 3);
	gr_unpin(&pin);
	assert_ok(gr_plug_open(ram0, NULL, &second));
	assert_int_equal(*(char *)info_of(ram0).host, 0);
	assert_ok(gr_plug_close(second));
	/* ordinary memory again: any page can be pinned, and such a pin can outlive it all */
	assert_ok(gr_block_pin(ram0, 3 * MIB, PAGE, RW, &late));
	assert_error(gr_plug_open(ram0, NULL, &second), -EBUSY, "pinned");
	assert_ok(gr_block_delete(ram0));
	assert_int_equal(gr_ram_drain(ram, 20), -ETIMEDOUT);
	gr_unpin(&late);
	assert_ok(gr_ram_drain(ram, LONG_MS));
}

/* -------------------------------------------------------------------------------- listeners */

static void test_listeners_may_refuse_granules_either_way(void **unused)
{
	struct watcher low = {0}, high = {0};
	struct recorder recorder = {0};

	assert_ok(gr_plug_map(plug, space, BASE, 0, COUNT * GRANULE, RW));
	recorder_open(&recorder, ram, 5);
	watcher_open(&low, ram, block, -1);
	watcher_open(&high, ram, block, 1);
	high.refuse_plugging = -EPERM;
	assert_error(gr_plug_add(plug, 0, GRANULE), -EPERM, "refused");
	assert_ranges_at(NULL, 0, __LINE__);
	assert_int_equal(low.plugging, 1);
	assert_int_equal(low.unplugging, 1); /* told back */
	assert_int_equal(recorder.count, 1); /* the block, and no range */
	assert_ok(gr_plug_add(plug, 0, 2 * GRANULE));
	assert_true(watcher_agrees(&low, plug) && watcher_agrees(&high, plug));
	assert_true(recorder_agrees(&recorder, space));
	memset(host, 1, 2 * GRANULE);

	low.refuse_unplugging = -EAGAIN; /* the last one asked */
	low.committed = 0;
	log_clear();
	assert_error(gr_plug_remove(plug, 0, GRANULE), -EAGAIN, "refused");
	assert_ranges({0, 2});
	assert_int_equal(events_of(RANGE_REMOVED, &recorder), 0); /* asked before any is told */
	assert_true(watcher_agrees(&low, plug) && watcher_agrees(&high, plug));
	assert_int_equal(low.committed, 0);
	assert_int_equal(host[0], 1); /* and nothing is discarded */
	high.refuse_unplugging = -EAGAIN;
	assert_error(gr_plug_remove_all(plug), -EAGAIN, "refused");
	assert_true(watcher_agrees(&low, plug) && watcher_agrees(&high, plug));
	assert_ok(gr_plug_remove_all(plug));
	assert_true(recorder_agrees(&recorder, space));
	assert_ok(gr_plug_add(plug, 5 * GRANULE, GRANULE));
	watcher_close(&low);
	watcher_close(&high);
	recorder_close(&recorder);
}

static void test_a_late_listener_is_told_of_the_plugged_runs(void **unused)
{
	struct watcher late = {0};

	assert_ok(gr_plug_add(plug, 0, GRANULE));
	assert_ok(gr_plug_add(plug, GRANULE, GRANULE));
	assert_ok(gr_plug_add(plug, 7 * GRANULE, 9 * GRANULE));
	watcher_open(&late, ram, block, 0);
	assert_int_equal(late.plugging, 2); /* runs */
	assert_true(watcher_agrees(&late, plug));
	assert_ok(gr_plug_remove(plug, 8 * GRANULE, GRANULE));
	assert_true(watcher_agrees(&late, plug));
	late.always_refuse = -EPERM; /* which changes nothing at a close */
	assert_ok(gr_listener_close(late.listener));
	assert_int_equal(late.unplugging, 1 + 3);
}

static void change_in_callback(struct watcher *watcher)
{
	watcher->hook = NULL;
	if (gr_plug_add(plug, 9 * GRANULE, GRANULE) != -EBUSY)
		watcher->wrong += 1000;
	if (gr_plug_remove(plug, 0, GRANULE) != -EDEADLK)
		watcher->wrong += 1000;
	if (gr_plug_map(plug, other, 0, 0, GRANULE, RW) != -EBUSY)
		watcher->wrong += 1000;
	if (gr_block_delete(block) != -EBUSY || gr_block_resize(block, GRANULE) != -EDEADLK)
		watcher->wrong += 1000;
}

static void test_a_callback_does_not_change_granules_that_are_being_changed(void **unused)
{
	struct watcher watcher = {.hook = change_in_callback};

	watcher_open(&watcher, ram, block, 0);
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	watcher_close(&watcher);
}

/* --------------------------------------------------------------------------------- resizing */

static void test_plugged_granules_keep_a_block_from_shrinking_under_them(void **unused)
{
	struct gr_block *elastic = new_anon(ram, "elastic", 4 * GRANULE, 8 * GRANULE);
	struct gr_plug *granules;

	assert_ok(gr_plug_open(elastic, NULL, &granules));
	assert_error(gr_plug_add(granules, 4 * GRANULE, GRANULE), -ERANGE, "leaves");
	assert_ok(gr_block_resize(elastic, 8 * GRANULE));
	assert_ok(gr_plug_map(granules, other, 0, 0, 8 * GRANULE, RW)); /* not yet plugged */
	assert_ok(gr_plug_add(granules, 4 * GRANULE, GRANULE));
	assert_error(gr_block_resize(elastic, 4 * GRANULE), -EBUSY, "plugged");
	assert_error(gr_block_resize(elastic, 4 * GRANULE + PAGE), -EBUSY, "plugged");
	assert_ok(gr_block_resize(elastic, 5 * GRANULE));
	assert_ok(gr_plug_remove(granules, 4 * GRANULE, GRANULE));
	assert_ok(gr_block_resize(elastic, 2 * GRANULE + PAGE));
	assert_error(gr_plug_add(granules, 2 * GRANULE, GRANULE), -ERANGE, "leaves");
	assert_ok(gr_plug_add(granules, GRANULE, GRANULE));
	assert_ok(gr_plug_unmap(granules, other, 0));
	assert_ok(gr_plug_remove_all(granules));
	assert_ok(gr_plug_close(granules));
	assert_ok(gr_block_delete(elastic));
}

static void test_preallocated_granules_have_their_memory_and_give_it_back(void **unused)
{
	struct gr_block_opts opts = {
		.name = "prealloc",
		.backing = GR_BACKING_MEMFD,
		.flags = GR_PREALLOC,
		.length = 4 * GRANULE,
		.max_length = 8 * GRANULE,
	};
	struct watcher watcher = {0};
	struct gr_plug *granules;
	struct gr_block *made;
	char *at;

	assert_ok(gr_block_new(ram, &opts, &made));
	at = info_of(made).host;
	assert_int_equal(resident(at, 4 * GRANULE), 4 * GRANULE / PAGE);
	assert_ok(gr_plug_open(made, NULL, &granules));
	assert_int_equal(resident(at, 4 * GRANULE), 0);
	assert_ok(gr_plug_add(granules, GRANULE, 2 * GRANULE));
	assert_int_equal(resident(at, 4 * GRANULE), 2 * GRANULE / PAGE);
	assert_ok(gr_plug_remove(granules, GRANULE, GRANULE));
	assert_int_equal(resident(at, 4 * GRANULE), GRANULE / PAGE);
	assert_ok(gr_block_resize(made, 8 * GRANULE)); /* what it grows by is unplugged */
	assert_int_equal(resident(at, 8 * GRANULE), GRANULE / PAGE);
	watcher_open(&watcher, ram, made, 0);
	watcher.refuse_plugging = -EPERM; /* by then it has its memory */
	assert_error(gr_plug_add(granules, 5 * GRANULE, GRANULE), -EPERM, "refused");
	assert_int_equal(resident(at, 8 * GRANULE), GRANULE / PAGE);
	watcher_close(&watcher);
	assert_ok(gr_plug_remove_all(granules));
	assert_ok(gr_plug_close(granules));
}

static int add_run(void *context, uint64_t offset, uint64_t length)
{
	uint64_t *sum = context;

	sum[0]++;
	sum[1] += offset / GRANULE * (length / GRANULE);
	return sum[0] == 3 ? 77 : 0;
}

/* Bits are kept in words of 64: runs over one, two and three of them, and of one whole. */
static void test_runs_that_are_longer_than_a_word_of_bits(void **unused)
{
	const struct gr_plug_opts opts = {.granule = PAGE};
	struct gr_block *many = new_anon(ram, "many", 256 * PAGE, 0);
	uint64_t sum[2] = {0, 0};
	struct gr_plug *granules;
	struct gr_pin pin;

	assert_ok(gr_plug_open(many, &opts, &granules));
	assert_ok(gr_plug_map(granules, other, GIB, 0, 256 * PAGE, RW));
	assert_ok(gr_plug_add(granules, 3 * PAGE, 197 * PAGE));
	assert_int_equal(gr_plug_is(granules, 3 * PAGE, 197 * PAGE), GR_PLUG_ALL);
	assert_int_equal(gr_plug_is(granules, 3 * PAGE, 198 * PAGE), GR_PLUG_MIXED);
	assert_int_equal(gr_plug_bytes(granules), 197 * PAGE);
	assert_ptr_equal(look_up(other, GIB + 3 * PAGE, 197 * PAGE, RW),
			 (char *)info_of(many).host + 3 * PAGE);
	assert_ok(gr_plug_each(granules, add_run, sum));
	assert_int_equal(sum[0], 1);
	assert_ok(gr_block_pin(many, 3 * PAGE, 197 * PAGE, RW, &pin));
	assert_error(gr_plug_remove(granules, 199 * PAGE, PAGE), -EBUSY, "pinned");
	gr_unpin(&pin);
	assert_ok(gr_plug_remove(granules, 64 * PAGE, 64 * PAGE)); /* one word */
	assert_int_equal(gr_plug_is(granules, 64 * PAGE, 64 * PAGE), GR_PLUG_NONE);
	assert_int_equal(gr_plug_is(granules, 63 * PAGE, PAGE), GR_PLUG_ALL);
	assert_int_equal(gr_plug_is(granules, 128 * PAGE, PAGE), GR_PLUG_ALL);
	assert_ok(gr_plug_unmap(granules, other, GIB));
	assert_ok(gr_plug_map(granules, other, GIB, 0, 256 * PAGE, RW)); /* from the bits */
	assert_int_equal(stats_of(ram).ranges, 2);
	assert_ptr_equal(look_up(other, GIB + 128 * PAGE, 72 * PAGE, RW),
			 (char *)info_of(many).host + 128 * PAGE);
	assert_ok(gr_plug_unmap(granules, other, GIB));
	assert_ok(gr_plug_remove_all(granules));
	assert_ok(gr_plug_close(granules));
}

/* A discard of pages inside a granule leaves the granule as it is. */
static void test_pages_inside_a_granule_can_be_discarded(void **unused)
{
	assert_ok(gr_plug_map(plug, space, BASE, 0, COUNT * GRANULE, RW));
	assert_ok(gr_plug_add(plug, GRANULE, GRANULE));
	memset(host + GRANULE, 6, GRANULE);
	assert_ok(gr_block_discard(block, GRANULE + 3 * PAGE, 2 * PAGE));
	assert_int_equal(gr_plug_is(plug, GRANULE, GRANULE), GR_PLUG_ALL);
	assert_ranges({1, 1});
	assert_int_equal(host[GRANULE + 3 * PAGE - 1], 6);
	assert_int_equal(host[GRANULE + 3 * PAGE], 0);
	assert_int_equal(host[GRANULE + 5 * PAGE], 6);
}

/* ------------------------------------------------------------------------------- the rest */

static void test_each_run_is_told_once(void **unused)
{
	uint64_t sum[2] = {0, 0};

	assert_ok(gr_plug_each(plug, add_run, sum));
	assert_int_equal(sum[0], 0);
	assert_ok(gr_plug_add(plug, 0, GRANULE));
	assert_ok(gr_plug_add(plug, 3 * GRANULE, 2 * GRANULE));
	assert_ok(gr_plug_each(plug, add_run, sum));
	assert_int_equal(sum[0], 2);
	assert_int_equal(sum[1], 0 * 1 + 3 * 2);
	assert_ok(gr_plug_add(plug, 15 * GRANULE, GRANULE));
	sum[0] = 0;
	assert_int_equal(gr_plug_each(plug, add_run, sum), 77);
}

static void test_waiting_calls_are_refused_where_they_would_wait_for_themselves(void **unused)
{
	struct gr_plug *second;

	assert_ok(gr_plug_map(plug, space, BASE, 0, COUNT * GRANULE, RW));
	gr_read_begin();
	assert_ok(gr_plug_add(plug, 0, GRANULE)); /* waits for nobody */
	assert_ptr_equal(gr_host(space, BASE, GRANULE, RW), host);
	assert_error(gr_plug_remove(plug, 0, GRANULE), -EDEADLK, "");
	assert_error(gr_plug_remove_all(plug), -EDEADLK, "");
	assert_error(gr_plug_open(block, NULL, &second), -EDEADLK, "");
	gr_read_end();
}

static void test_a_forked_child_may_ask_but_not_change(void **unused)
{
	pid_t child;
	int status;

	assert_ok(gr_plug_add(plug, 0, GRANULE));
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		struct gr_plug *second;
		uint64_t sum[2] = {0, 0};
		struct gr_discard_claim *claim;

		if (gr_plug_is(plug, 0, GRANULE) != GR_PLUG_ALL || gr_plug_bytes(plug) != GRANULE)
			_exit(1);
		if (gr_plug_add(plug, GRANULE, GRANULE) != -ENOTSUP ||
		    gr_plug_remove(plug, 0, GRANULE) != -ENOTSUP ||
		    gr_plug_remove_all(plug) != -ENOTSUP || gr_plug_close(plug) != -ENOTSUP ||
		    gr_plug_open(block, NULL, &second) != -ENOTSUP ||
		    gr_plug_map(plug, space, 0, 0, GRANULE, RW) != -ENOTSUP ||
		    gr_plug_unmap(plug, space, 0) != -ENOTSUP ||
		    gr_plug_each(plug, add_run, sum) != -ENOTSUP)
			_exit(2);
		if (gr_discard_claim_open(ram, NULL, GR_DISCARD_FORBID, "x", &claim) != -ENOTSUP ||
		    gr_hint_free(space, 0, 0) != -ENOTSUP)
			_exit(3);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_granules_under_embedder_reclaim(void **unused)
{
	struct gr_ram_opts opts = {.embedder_reclaim = 1};
	struct gr_space *guest;
	struct gr_block *vmem;
	struct gr_plug *granules;
	struct gr_ram *embedded;

	assert_ok(gr_ram_open(&opts, &embedded));
	assert_ok(gr_space_open(embedded, "gpa", &guest));
	vmem = new_memfd(embedded, "vmem", 8 * GRANULE);
	assert_ok(gr_plug_open(vmem, NULL, &granules));
	assert_ok(gr_plug_map(granules, guest, 0, 0, 8 * GRANULE, RW));
	assert_ok(gr_plug_add(granules, 0, 8 * GRANULE));
	assert_ok(gr_plug_remove(granules, 2 * GRANULE, GRANULE));
	assert_int_equal(stats_of(embedded).ranges, 2);
	assert_ok(gr_plug_remove_all(granules));
	assert_ok(gr_plug_unmap(granules, guest, 0));
	assert_ok(gr_plug_close(granules));
	assert_ok(gr_block_delete(vmem));
	assert_ok(gr_ram_drain(embedded, LONG_MS));
	assert_ok(gr_ram_close(embedded));
}

#define each(test) cmocka_unit_test_setup_teardown(test, open_ram, close_ram)

int main(void)
{
	const struct CMUnitTest tests[] = {
		each(test_plugged_runs_are_maximal_ranges_of_a_strict_window),
		each(test_a_window_shows_what_was_plugged_before_and_only_its_piece),
		each(test_one_change_is_seen_in_all_windows_of_all_spaces),
		each(test_a_lenient_range_reads_unplugged_granules_as_zero),
		each(test_granules_are_plugged_and_unplugged_all_or_none),
		each(test_a_windows_addresses_are_its_own),
		each(test_a_block_with_open_granules_stays),
		each(test_options_and_backings_that_cannot_have_granules),
		each(test_a_pinned_granule_stays_and_an_unplugged_one_is_not_pinned),
		each(test_a_pin_of_pieces_that_fails_on_the_way_keeps_nothing),
		each(test_granules_do_not_open_on_a_pinned_block),
		each(test_listeners_may_refuse_granules_either_way),
		each(test_a_late_listener_is_told_of_the_plugged_runs),
		each(test_a_callback_does_not_change_granules_that_are_being_changed),
		each(test_plugged_granules_keep_a_block_from_shrinking_under_them),
		each(test_preallocated_granules_have_their_memory_and_give_it_back),
		each(test_runs_that_are_longer_than_a_word_of_bits),
		each(test_pages_inside_a_granule_can_be_discarded),
		each(test_each_run_is_told_once),
		each(test_waiting_calls_are_refused_where_they_would_wait_for_themselves),
		each(test_a_forked_child_may_ask_but_not_change),
		each(test_granules_under_embedder_reclaim),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
