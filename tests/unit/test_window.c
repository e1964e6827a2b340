/* SPDX-License-Identifier: MIT */
/*
 * Foreign memory and files through windows, one thread: what lookups, loads, pins and invalidation
 * give, which window goes, and what is refused.
 */
#include "foreign_domain.h"
#include <fcntl.h>
#include <sys/stat.h>

#define WINDOW (64 * KIB)
#define WINDOWS 4
#define LENGTH (4 * MIB) /* 64 windows: 2 granules */
#define BASE (6 * MIB)

static struct domain domain;
static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;

static void open_with(uint64_t window_size, uint64_t max_windows, struct gr_ram_opts *ram_opts)
{
	struct gr_block_opts opts;

	domain_open(&domain, LENGTH);
	opts = domain_opts(&domain, window_size, max_windows);
	assert_ok(gr_ram_open(ram_opts, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	assert_ok(gr_block_new(ram, &opts, &block));
	assert_ok(gr_space_map(space, BASE, block, 0, LENGTH, RW));
}

static int open_world(void **unused)
{
	open_with(WINDOW, WINDOWS, NULL);
	return 0;
}

static int close_world(void **unused)
{
	assert_ok(gr_ram_close(ram));
	assert_int_equal(domain.released, 1);
	assert_in_range(domain.most, 0, 2 * WINDOWS);
	domain_close(&domain);
	return 0;
}

static struct gr_foreign_stats stats(void)
{
	struct gr_foreign_stats now;

	assert_ok(gr_foreign_get_stats(block, &now));
	return now;
}

static uint64_t load(uint64_t offset)
{
	uint64_t value = 0;

	assert_ok(gr_load_u64(space, BASE + offset, &value));
	return value;
}

/* Is the window of @offset there, as far as nobody needs to map it to tell? */
static bool is_there(uint64_t offset)
{
	uint64_t misses = stats().misses;

	load(offset);
	return stats().misses == misses;
}

/* ------------------------------------------------------------------------------------ lookups */

static void test_a_hit_maps_nothing(void **unused)
{
	void *first = look_up(space, BASE + 8, 8, RW);

	assert_non_null(first);
	assert_ptr_equal(look_up(space, BASE + 16, 8, RW), (char *)first + 8);
	assert_int_equal(stats().misses, 1);
	assert_int_equal(domain.maps, 1);
	assert_int_equal(domain_mapped(&domain), 1);
}

static void test_every_page_shows_its_own_memory(void **unused)
{
	uint64_t offset;

	for (offset = 0; offset < LENGTH; offset += PAGE)
		assert_int_equal(load(offset), domain_stamp(offset, false));
	for (offset = LENGTH; offset; offset -= PAGE)
		assert_int_equal(load(offset - PAGE), domain_stamp(offset - PAGE, false));
}

static void test_a_block_without_an_address_tells_none(void **unused)
{
	struct gr_block_info info = info_of(block);
	struct gr_range range;
	uint64_t offset;
	int fd;

	assert_null(info.host);
	assert_int_equal(info.backing, GR_BACKING_FOREIGN);
	gr_read_begin();
	assert_ok(gr_space_find(space, BASE + PAGE, &range));
	gr_read_end();
	assert_null(range.host);
	assert_int_equal(range.length, LENGTH);
	gr_read_begin();
	/* it would hold these if NULL were its address */
	assert_null(gr_block_by_host(ram, (void *)PAGE, NULL));
	assert_null(gr_block_by_host(ram, NULL, NULL));
	assert_null(gr_block_by_host(ram, gr_host(space, BASE, 8, GR_READ), NULL));
	assert_ptr_equal(gr_block_by_offset(ram, info.ram_offset + 5, &offset), block);
	gr_read_end();
	assert_error(gr_block_share_fd(block, &fd, &offset), -ENOTSUP, "foreign");
}

static void test_a_cursor_keeps_nothing_of_foreign_memory(void **unused)
{
	struct gr_cursor cursor;
	uint64_t i;

	gr_cursor_init(&cursor, space);
	for (i = 0; i < LENGTH; i += WINDOW) {
		const uint64_t *host;

		gr_read_begin();
		host = gr_cursor_host(&cursor, BASE + i, 8, GR_READ);
		assert_non_null(host);
		assert_int_equal(*host, domain_stamp(i, false));
		assert_null(gr_cursor_host(&cursor, BASE + i, 8, 8));
		gr_read_end();
		assert_ok(gr_ram_drain(ram, 0));
		assert_true(wait_until(stats().retired < WINDOWS));
	}
	assert_int_equal(cursor.generation, 0);
}

static void test_rights_of_the_range_hold(void **unused)
{
	uint64_t value = 1;

	assert_ok(gr_space_unmap(space, BASE, LENGTH));
	assert_ok(gr_space_map(space, BASE, block, 0, LENGTH, GR_READ));
	assert_null(look_up(space, BASE, 8, GR_WRITE));
	assert_error(gr_store_u64(space, BASE, value), -EACCES, "access");
	assert_int_equal(load(0), domain_stamp(0, false));
}

/* P1, P4, P6 of windows: exactly to the last byte, and no pointer across. */
static void test_no_pointer_crosses_a_window(void **unused)
{
	struct gr_pin pin;
	struct iovec iov[3];

	assert_non_null(look_up(space, BASE + WINDOW - 8, 8, RW));
	assert_null(look_up(space, BASE + WINDOW - 7, 8, RW));
	assert_null(look_up(space, BASE, 0, RW));
	assert_non_null(look_up(space, BASE + LENGTH - 8, 8, RW));
	assert_null(look_up(space, BASE + LENGTH - 7, 8, RW));
	assert_error(gr_pin(space, BASE + WINDOW - 4, 8, RW, &pin), -EXDEV, "windows");
	assert_error(gr_block_pin(block, WINDOW - 4, 8, RW, &pin), -EXDEV, "window");
	gr_read_begin();
	assert_int_equal(gr_spans(space, BASE + WINDOW - 4, WINDOW + 8, RW, iov, 3), 3);
	assert_int_equal(iov[0].iov_len, 4);
	assert_int_equal(iov[1].iov_len, WINDOW);
	assert_int_equal(iov[2].iov_len, 4);
	assert_int_equal(*(uint64_t *)iov[1].iov_base, domain_stamp(WINDOW, false));
	/* what there is no room for is counted, not mapped */
	assert_int_equal(gr_spans(space, BASE, LENGTH, RW, iov, 2), LENGTH / WINDOW);
	gr_read_end();
	assert_error(gr_spans(space, BASE, LENGTH + 1, RW, NULL, 0), -EFAULT, "no memory");
}

static void test_words_and_bytes_across_windows(void **unused)
{
	uint64_t value = 0, expected = 7;
	char *bytes = calloc(1, 3 * WINDOW), *back = calloc(1, 3 * WINDOW);
	uint64_t i;

	assert_ok(gr_store_u64(space, BASE + WINDOW - 3, UINT64_C(0x1122334455667788)));
	assert_ok(gr_load_u64(space, BASE + WINDOW - 3, &value));
	assert_int_equal(value, UINT64_C(0x1122334455667788));
	for (i = 0; i < 3 * WINDOW; i++)
		bytes[i] = (char)(i * 31 + i / 251);
	assert_ok(gr_store(space, BASE + WINDOW / 2, bytes, 3 * WINDOW));
	assert_ok(gr_load(space, BASE + WINDOW / 2, back, 3 * WINDOW));
	assert_memory_equal(bytes, back, 3 * WINDOW);
	assert_ok(gr_fill(space, BASE + WINDOW - 1, 0x5a, WINDOW + 2));
	assert_ok(gr_load(space, BASE + WINDOW - 1, back, WINDOW + 2));
	for (i = 0; i < WINDOW + 2; i++)
		assert_int_equal(back[i], 0x5a);
	assert_ok(gr_store_u64(space, BASE + 8, 7));
	assert_int_equal(gr_cmpxchg_u64(space, BASE + 8, &expected, 9), 1);
	assert_int_equal(load(8), 9);
	free(bytes);
	free(back);
}

/* More than can be mapped at once, in one call. */
static void test_one_load_of_all_of_it(void **unused)
{
	uint64_t *all = malloc(LENGTH), i;

	assert_ok(gr_load(space, BASE, all, LENGTH));
	for (i = 0; i < LENGTH; i += PAGE)
		assert_int_equal(all[i / 8], domain_stamp(i, false));
	memset(all, 0x11, LENGTH);
	assert_ok(gr_store(space, BASE, all, LENGTH));
	for (i = 0; i < LENGTH; i += PAGE)
		assert_int_equal(load(i), UINT64_C(0x1111111111111111));
	free(all);
}

/* A stretch of which a later byte has no memory moves nothing, however many windows it has. */
static void test_a_store_past_the_end_moves_nothing(void **unused)
{
	char *bytes = calloc(1, LENGTH + 1);

	assert_error(gr_store(space, BASE, bytes, LENGTH + 1), -EFAULT, "no memory");
	assert_int_equal(load(0), domain_stamp(0, false));
	assert_int_equal(load(LENGTH - PAGE), domain_stamp(LENGTH - PAGE, false));
	free(bytes);
}

static void test_ranges_in_pieces_and_beside_other_memory(void **unused)
{
	struct gr_block *ordinary = new_anon(ram, "ordinary", 2 * PAGE, 0);
	char bytes[3 * PAGE], back[3 * PAGE];
	struct iovec iov[4];

	memset(bytes, 0x77, sizeof(bytes));
	assert_ok(gr_space_map(space, BASE + LENGTH, ordinary, 0, 2 * PAGE, RW));
	assert_ok(gr_store(space, BASE + LENGTH - PAGE, bytes, sizeof(bytes)));
	assert_ok(gr_load(space, BASE + LENGTH - PAGE, back, sizeof(back)));
	assert_memory_equal(bytes, back, sizeof(bytes));
	/* a piece that begins in the middle of a window, and a hole in another */
	assert_ok(gr_space_map(space, 0, block, WINDOW / 2, 2 * WINDOW, RW));
	assert_ok(gr_space_unmap(space, WINDOW, PAGE));
	gr_read_begin();
	assert_int_equal(gr_spans(space, 0, WINDOW, RW, iov, 4), 2);
	assert_int_equal(iov[0].iov_len, WINDOW / 2);
	assert_int_equal(*(uint64_t *)iov[0].iov_base, domain_stamp(WINDOW / 2, false));
	assert_int_equal(gr_spans(space, WINDOW + PAGE, WINDOW - PAGE, RW, iov, 4), 2);
	assert_int_equal(*(uint64_t *)iov[0].iov_base,
			 domain_stamp(WINDOW / 2 + WINDOW + PAGE, false));
	gr_read_end();
}

/* Above 64 GiB the index has slots: a foreign range costs no leaf where it fills a GiB. */
static void test_high_addresses(void **unused)
{
	uint64_t value = 0;

	assert_ok(gr_space_map(space, 70 * GIB, block, 0, LENGTH, RW));
	assert_ok(gr_load_u64(space, 70 * GIB + WINDOW, &value));
	assert_int_equal(value, domain_stamp(WINDOW, false));
	assert_int_equal(load(WINDOW), value);
	assert_ok(gr_space_map(space, UINT64_MAX - LENGTH + 1, block, 0, LENGTH, RW));
	assert_ok(gr_load_u64(space, UINT64_MAX - 7, &value));
	assert_int_equal(value, 0);
}

/* ------------------------------------------------------------------------------------ eviction */

static void test_the_least_recently_used_window_goes(void **unused)
{
	uint64_t i;

	for (i = 0; i < WINDOWS; i++)
		load(i * WINDOW);
	load(0); /* 1 is the oldest now */
	load(WINDOWS * WINDOW);
	assert_int_equal(stats().evictions, 1);
	assert_true(is_there(0));
	assert_true(is_there(2 * WINDOW));
	assert_true(is_there(3 * WINDOW));
	assert_true(is_there(WINDOWS * WINDOW));
	assert_false(is_there(1 * WINDOW));
}

static bool is_mapped(uint64_t offset)
{
	unsigned i;

	for (i = 0; i < DOMAIN_MAPPINGS; i++)
		if (domain.mappings[i].host && domain.mappings[i].offset == offset)
			return true;
	return false;
}

/* What goes at a miss was used before all others, as counted in misses. */
static void test_eviction_follows_use(void **unused)
{
	uint64_t used[LENGTH / WINDOW] = {0}, now, next, i, gone, oldest;
	struct rng rng = {seed_of_the_day()};
	unsigned others = 0;

	for (now = 1; now < 600; now++) {
		for (i = rng_below(&rng, 3); i; i--) {
			next = rng_below(&rng, 8);
			if (!used[next])
				continue;
			assert_true(is_there(next * WINDOW));
			used[next] = now - 1;
		}
		do
			next = rng_below(&rng, 8);
		while (used[next]);
		load(next * WINDOW);
		used[next] = now;
		/* what was retired is unmapped then */
		assert_ok(gr_foreign_invalidate(block, LENGTH - 1, 1));
		for (i = 0, gone = 8, oldest = UINT64_MAX; i < 8; i++) {
			if (used[i] && used[i] < oldest)
				oldest = used[i];
			if (used[i] && !is_mapped(i * WINDOW)) {
				assert_int_equal(gone, 8);
				gone = i;
			}
		}
		if (now <= WINDOWS) {
			assert_int_equal(gone, 8);
			continue;
		}
		assert_int_not_equal(gone, 8);
		assert_int_equal(used[gone], oldest);
		others += oldest != now - WINDOWS; /* not just the first that came */
		used[gone] = 0;
	}
	assert_in_range(others, 100, 600);
}

static void test_a_pinned_window_stays(void **unused)
{
	struct gr_pin pin;
	uint64_t round, i;

	assert_ok(gr_pin(space, BASE + 5 * PAGE, 8, RW, &pin));
	assert_int_equal(info_of(block).pins, 1);
	for (round = 0; round < 3; round++)
		for (i = 1; i < 3 * WINDOWS; i++)
			load(i * WINDOW);
	assert_true(is_there(0));
	assert_int_equal(*(uint64_t *)pin.host, domain_stamp(5 * PAGE, false));
	gr_unpin(&pin);
	for (i = 1; i < 3 * WINDOWS; i++)
		load(i * WINDOW);
	assert_false(is_there(0));
}

static void test_when_all_are_pinned_there_is_no_other(void **unused)
{
	struct gr_pin pins[WINDOWS + 1];
	uint64_t i, value = 0;

	for (i = 0; i < WINDOWS; i++)
		assert_ok(gr_pin(space, BASE + i * WINDOW, 8, RW, &pins[i]));
	assert_error(gr_pin(space, BASE + i * WINDOW, 8, RW, &pins[i]), -ENOBUFS, "pinned");
	assert_error(gr_load_u64(space, BASE + i * WINDOW, &value), -ENOBUFS, "pinned");
	assert_null(look_up(space, BASE + i * WINDOW, 8, GR_READ));
	assert_int_equal(load(0), domain_stamp(0, false));
	gr_unpin(&pins[2]);
	assert_int_equal(load(i * WINDOW), domain_stamp(i * WINDOW, false));
	gr_unpin(&pins[0]);
	gr_unpin(&pins[1]);
	gr_unpin(&pins[3]);
	assert_int_equal(stats().published, WINDOWS);
}

static void test_pins_of_all_pieces_or_none(void **unused)
{
	struct gr_pin pins[WINDOWS + 1];
	int i;

	assert_int_equal(gr_pin_spans(space, BASE + 8, 3 * WINDOW, RW, pins, WINDOWS + 1), 4);
	for (i = 0; i < 4; i++)
		gr_unpin(&pins[i]);
	/* one more than there can be */
	assert_error(gr_pin_spans(space, BASE, 5 * WINDOW, RW, pins, WINDOWS + 1), -ENOBUFS,
		     "pinned");
	assert_int_equal(info_of(block).pins, 0);
	assert_int_equal(gr_pin_spans(space, BASE, 5 * WINDOW, RW, pins, WINDOWS), 5);
	assert_int_equal(info_of(block).pins, 0);
}

/* A pointer promised until the end of the section is not taken away. */
static void test_inside_a_section_windows_run_out(void **unused)
{
	uint64_t *seen[2 * WINDOWS], value, i;
	char byte;

	gr_read_begin();
	for (i = 0; i < 2 * WINDOWS; i++) {
		seen[i] = gr_host(space, BASE + i * WINDOW, 8, GR_READ);
		assert_non_null(seen[i]);
	}
	assert_null(gr_host(space, BASE + i * WINDOW, 8, GR_READ));
	assert_error(gr_load_u64(space, BASE + i * WINDOW, &value), -ENOBUFS, "section");
	assert_error(gr_load(space, BASE + i * WINDOW, &byte, 1), -ENOBUFS, "section");
	for (i = 0; i < 2 * WINDOWS; i++)
		assert_int_equal(*seen[i], domain_stamp(i * WINDOW, false));
	gr_read_end();
	assert_int_equal(load(i * WINDOW), domain_stamp(i * WINDOW, false));
	assert_in_range(stats().waits, 3, UINT64_MAX);
}

static void test_under_embedder_reclaim_nothing_waits(void **unused)
{
	struct gr_ram_opts opts = {.embedder_reclaim = 1};
	uint64_t value = 0, i;
	int rc = 0;

	open_with(WINDOW, WINDOWS, &opts);
	for (i = 0; i < 1000 && !rc; i++) /* the RAM's thread makes room all the same */
		rc = gr_load_u64(space, BASE + i % 64 * WINDOW, &value);
	assert_true(!rc || rc == -ENOBUFS);
	assert_true(wait_until(!gr_load_u64(space, BASE, &value)));
	close_world(NULL);
}

/* ------------------------------------------------------------------------------------- errors */

/* Q7: what comes with an error, or can be no address, is never used as one. */
static void test_an_error_is_no_address(void **unused)
{
	static const struct {
		int fail;
		void *lie;
		int want;
	} cases[] = {
		{-EPERM, NULL, -EPERM},		 {-EIO, (void *)0x5000, -EIO},
		{0, (void *)1, -EIO} /* NULL */, {0, (void *)-1, -EIO} /* MAP_FAILED */,
		{0, (void *)0x5004, -EIO},	 {1, NULL, -EIO},
		{-EAGAIN, NULL, -EIO},
	};
	uint64_t value = 5;
	struct gr_pin pin;
	struct iovec iov;
	size_t i;

	for (i = 0; i < COUNT_OF(cases); i++) {
		__atomic_store_n(&domain.fail, cases[i].fail, __ATOMIC_RELEASE);
		__atomic_store_n(&domain.lie, cases[i].lie, __ATOMIC_RELEASE);
		assert_null(look_up(space, BASE, 8, GR_READ));
		assert_error(gr_load_u64(space, BASE, &value), cases[i].want, "foreign");
		assert_error(gr_pin(space, BASE, 8, RW, &pin), cases[i].want, "foreign");
		gr_read_begin();
		assert_error(gr_spans(space, BASE, 8, RW, &iov, 1), cases[i].want, "foreign");
		gr_read_end();
		assert_int_equal(value, 5);
		assert_int_equal(stats().published + stats().mapping + stats().retired, 0);
	}
	__atomic_store_n(&domain.fail, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&domain.lie, NULL, __ATOMIC_RELEASE);
	assert_int_equal(load(0), domain_stamp(0, false));
	assert_int_equal(stats().failures, 4 * COUNT_OF(cases) + COUNT_OF(cases));
}

/* Of few windows the second cannot be mapped: nothing of the first was stored to. */
static void test_a_store_whose_second_window_fails_moves_nothing(void **unused)
{
	char bytes[2 * PAGE] = {0};

	load(0);
	__atomic_store_n(&domain.fail, -ENXIO, __ATOMIC_RELEASE);
	assert_error(gr_store(space, BASE + WINDOW - PAGE, bytes, 2 * PAGE), -ENXIO, "foreign");
	__atomic_store_n(&domain.fail, 0, __ATOMIC_RELEASE);
	assert_int_equal(load(WINDOW - PAGE), domain_stamp(WINDOW - PAGE, false));
}

static void test_options_that_do_not_go(void **unused)
{
	static const struct gr_foreign_ops no_unmap = {.map = NULL};
	struct gr_block_opts good = domain_opts(&domain, WINDOW, WINDOWS), opts;
	struct gr_block *other;

	good.name = "other";
#define REFUSED(field, value, error, part)                                                         \
	do {                                                                                       \
		opts = good;                                                                       \
		opts.field = value;                                                                \
		assert_error(gr_block_new(ram, &opts, &other), error, part);                       \
	} while (0)
	REFUSED(foreign, NULL, -EINVAL, "functions");
	REFUSED(foreign, &no_unmap, -EINVAL, "functions");
	REFUSED(window_size, WINDOW + PAGE, -EINVAL, "window_size");
	REFUSED(window_size, PAGE / 2, -EINVAL, "window_size");
	REFUSED(max_windows, (1 << 24) + 1, -ERANGE, "max_windows");
	REFUSED(flags, GR_PREALLOC, -EINVAL, "GR_PREALLOC");
	REFUSED(flags, GR_WINDOWED, -EINVAL, "GR_WINDOWED");
	REFUSED(align, 2 * MIB, -EINVAL, "place");
	REFUSED(host, &opts, -EINVAL, "host");
	REFUSED(path, "/tmp/x", -EINVAL, "path");
	REFUSED(backing, GR_BACKING_ANON, -EINVAL, "foreign");
#undef REFUSED
	opts = (struct gr_block_opts){.name = "other", .length = PAGE, .max_windows = 1};
	assert_error(gr_block_new(ram, &opts, &other), -EINVAL, "window_size");
	opts = (struct gr_block_opts){.name = "other",
				      .length = PAGE,
				      .backing = GR_BACKING_FILE,
				      .flags = GR_WINDOWED | GR_TEMPORARY,
				      .path = "/tmp"};
	assert_error(gr_block_new(ram, &opts, &other), -EINVAL, "GR_SHARED");
	assert_error(gr_block_pin(block, 0, 0, RW, &(struct gr_pin){0}), -EINVAL, "0 bytes");
	assert_int_equal(domain.released, 0);
}

/* ------------------------------------------------------------------------------- invalidation */

static void test_an_invalidated_window_is_mapped_anew(void **unused)
{
	load(0);
	load(WINDOW);
	load(2 * WINDOW);
	domain_move(&domain);
	assert_int_equal(load(0), domain_stamp(0, false)); /* by the old window */
	/* one byte of the one, the first byte of the other */
	assert_ok(gr_foreign_invalidate(block, WINDOW - 1, 2));
	assert_int_equal(domain_mapped(&domain), 1);
	assert_int_equal(load(0), domain_stamp(0, true));
	assert_int_equal(load(WINDOW), domain_stamp(WINDOW, true));
	assert_int_equal(load(2 * WINDOW), domain_stamp(2 * WINDOW, false));
	assert_int_equal(stats().invalidated, 2);
	assert_ok(gr_foreign_invalidate(block, 0, LENGTH));
	assert_int_equal(domain_mapped(&domain), 0);
	assert_ok(gr_foreign_invalidate(block, 0, 0));
	assert_error(gr_foreign_invalidate(block, 1, LENGTH), -ERANGE, "leaves");
	assert_error(gr_foreign_invalidate(block, UINT64_MAX, 2), -ERANGE, "leaves");
	gr_read_begin();
	assert_error(gr_foreign_invalidate(block, 0, PAGE), -EDEADLK, "section");
	gr_read_end();
	assert_error(gr_foreign_invalidate(new_anon(ram, "ordinary", PAGE, 0), 0, PAGE), -EINVAL,
		     "windows");
}

static void test_a_pinned_window_is_invalidated_out_of_sight(void **unused)
{
	struct gr_pin old, next;

	assert_ok(gr_pin(space, BASE, 8, RW, &old));
	domain_move(&domain);
	assert_error(gr_foreign_invalidate(block, 0, PAGE), -EBUSY, "pin");
	assert_int_equal(*(uint64_t *)old.host, domain_stamp(0, false));
	assert_int_equal(load(0), domain_stamp(0, true));
	assert_ok(gr_pin(space, BASE, 8, RW, &next));
	assert_int_equal(*(uint64_t *)next.host, domain_stamp(0, true));
	gr_unpin(&next);
	assert_int_equal(domain_mapped(&domain), 2);
	gr_unpin(&old);
	assert_int_equal(domain_mapped(&domain), 1);
	assert_ok(gr_foreign_invalidate(block, 0, PAGE));
}

/* Ballooned pages: the owner may put others there. */
static void test_discard_maps_windows_anew(void **unused)
{
	load(0);
	load(WINDOW);
	assert_ok(gr_block_discard(block, PAGE, PAGE));
	assert_int_equal(domain.discards, 1);
	assert_int_equal(load(0), domain_stamp(0, true));
	assert_int_equal(load(WINDOW), domain_stamp(WINDOW, false));
}

static void test_delete_unmaps_each_window_once(void **unused)
{
	struct gr_pin pin, gone;
	uint64_t i;

	for (i = 0; i < 3 * WINDOWS; i++)
		load(i * WINDOW);
	assert_ok(gr_pin(space, BASE, 8, RW, &pin));
	assert_ok(gr_pin(space, BASE + WINDOW, 8, RW, &gone));
	assert_error(gr_foreign_invalidate(block, WINDOW, PAGE), -EBUSY, "pin");
	assert_ok(gr_space_unmap(space, BASE, LENGTH));
	assert_ok(gr_block_delete(block));
	assert_int_equal(gr_ram_drain(ram, 20), -ETIMEDOUT);
	assert_int_equal(domain.released, 0);
	assert_int_equal(*(uint64_t *)pin.host, domain_stamp(0, false));
	assert_int_equal(*(uint64_t *)gone.host, domain_stamp(WINDOW, false));
	gr_unpin(&pin);
	assert_int_equal(gr_ram_drain(ram, 20), -ETIMEDOUT);
	gr_unpin(&gone);
	assert_ok(gr_ram_drain(ram, LONG_MS));
	assert_int_equal(domain_mapped(&domain), 0);
	assert_int_equal(domain.released, 1);
}

static void test_resize_moves_the_end_of_the_last_window(void **unused)
{
	struct gr_block_opts opts = domain_opts(&domain, WINDOW, WINDOWS);
	struct gr_block *growing;
	uint64_t value = 0;

	opts.name = "growing";
	opts.length = WINDOW + PAGE;
	opts.max_length = LENGTH;
	assert_ok(gr_block_new(ram, &opts, &growing));
	assert_ok(gr_space_map(space, 32 * MIB, growing, 0, LENGTH, RW));
	assert_ok(gr_load_u64(space, 32 * MIB + WINDOW, &value));
	assert_int_equal(gr_load_u64(space, 32 * MIB + WINDOW + PAGE, &value), -EFAULT);
	assert_ok(gr_block_resize(growing, 3 * WINDOW));
	assert_ok(gr_load_u64(space, 32 * MIB + WINDOW + PAGE, &value));
	assert_int_equal(value, domain_stamp(WINDOW + PAGE, false));
	assert_ok(gr_load_u64(space, 32 * MIB + 2 * WINDOW, &value));
	assert_ok(gr_block_resize(growing, WINDOW + PAGE));
	assert_int_equal(gr_load_u64(space, 32 * MIB + WINDOW + PAGE, &value), -EFAULT);
	assert_ok(gr_load_u64(space, 32 * MIB + WINDOW, &value));
	assert_int_equal(value, domain_stamp(WINDOW, true)); /* the tail was discarded */
	assert_ok(gr_space_unmap(space, 32 * MIB, LENGTH));
	assert_ok(gr_block_delete(growing));
	assert_ok(gr_ram_drain(ram, LONG_MS));
	domain.released = 0;
}

/* --------------------------------------------------------------------------------------- files */

static uint64_t address_space(void)
{
	FILE *statm = fopen("/proc/self/statm", "r");
	unsigned long pages = 0;

	assert_non_null(statm);
	assert_int_equal(fscanf(statm, "%lu", &pages), 1);
	fclose(statm);
	return pages * PAGE;
}

/* The everyday use: 64 GiB, sparse, through 256 MiB of windows. */
static void test_a_large_file_through_small_windows(void **unused)
{
	struct gr_block_opts opts = {
		.name = "file",
		.backing = GR_BACKING_FILE,
		.flags = GR_WINDOWED | GR_SHARED | GR_TEMPORARY,
		.path = "/tmp",
		.length = 64 * GIB,
		.window_size = MIB,
		.max_windows = 128,
	};
	uint64_t before, value, i, offset;
	struct gr_foreign_stats now;
	struct gr_block *file;
	struct stat st;
	int fd;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	before = address_space();
	assert_ok(gr_block_new(ram, &opts, &file));
	assert_ok(gr_space_map(space, 0, file, 0, opts.length, RW));
	for (i = 0; i < 2000; i++)
		assert_ok(gr_store_u64(space, i * 7919 % 65536 * MIB + 8 * i, i));
	for (i = 0; i < 2000; i++) {
		assert_ok(gr_load_u64(space, i * 7919 % 65536 * MIB + 8 * i, &value));
		assert_int_equal(value, i);
	}
	assert_in_range(address_space() - before, 0, 256 * MIB + 8 * MIB);
	assert_ok(gr_foreign_get_stats(file, &now));
	assert_in_range(now.published + now.retired, 1, 256);
	assert_in_range(now.misses, 3000, 4001);
	assert_ok(gr_block_share_fd(file, &fd, &offset));
	assert_int_equal(pread(fd, &value, 8, 7919 * MIB + 8), 8);
	assert_int_equal(value, 1);
	/* a hole in the file shows in windows at once */
	assert_ok(gr_load_u64(space, 7919 * MIB + 8, &value));
	assert_ok(gr_block_discard(file, 7919 * MIB, MIB));
	assert_ok(gr_load_u64(space, 7919 * MIB + 8, &value));
	assert_int_equal(value, 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_in_range(st.st_blocks * 512, 0, 64 * MIB);
	assert_ok(gr_ram_close(ram));
	assert_in_range(address_space() - before + 16 * MIB, 0, 32 * MIB);
}

static void test_a_read_only_file_with_a_partial_page(void **unused)
{
	char path[] = "/tmp/guestram-window-XXXXXX";
	int fd = mkstemp(path);
	struct gr_block_opts opts = {
		.name = "file",
		.backing = GR_BACKING_FILE,
		.flags = GR_WINDOWED | GR_READ_ONLY,
		.path = path,
		.length = 3 * PAGE + 5,
		.window_size = PAGE,
		.max_windows = 1,
	};
	struct gr_block *file;
	char bytes[3 * PAGE + 5], back[3 * PAGE + 5];
	size_t i;

	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(i % 251);
	assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
	close(fd);
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	assert_ok(gr_block_new(ram, &opts, &file));
	unlink(path);
	assert_error(gr_space_map(space, 0, file, 0, 4 * PAGE, RW), -EACCES, "read-only");
	assert_ok(gr_space_map(space, 0, file, 0, 4 * PAGE, GR_READ));
	assert_ok(gr_load(space, 0, back, sizeof(back))); /* four windows, one at a time */
	assert_memory_equal(bytes, back, sizeof(bytes));
	assert_error(gr_block_discard(file, 0, PAGE), -EACCES, "read-only");
	assert_ok(gr_ram_close(ram));
}

static void test_a_windowed_file_grows_and_shrinks(void **unused)
{
	struct gr_block_opts opts = {
		.name = "file",
		.backing = GR_BACKING_FILE,
		.flags = GR_WINDOWED | GR_SHARED | GR_TEMPORARY,
		.path = "/tmp",
		.length = PAGE,
		.max_length = 4 * MIB,
		.window_size = MIB,
		.max_windows = 2,
	};
	struct gr_block *file;
	uint64_t value = 0;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	assert_ok(gr_block_new(ram, &opts, &file));
	assert_ok(gr_space_map(space, 0, file, 0, 4 * MIB, RW));
	assert_ok(gr_store_u64(space, 0, 1));
	assert_int_equal(gr_store_u64(space, PAGE, 2), -EFAULT);
	assert_ok(gr_block_resize(file, 4 * MIB));
	assert_ok(gr_store_u64(space, PAGE, 2));
	assert_ok(gr_store_u64(space, 3 * MIB, 3));
	assert_ok(gr_block_resize(file, PAGE));
	assert_int_equal(gr_load_u64(space, PAGE, &value), -EFAULT);
	assert_ok(gr_block_resize(file, 4 * MIB));
	assert_ok(gr_load_u64(space, 0, &value));
	assert_int_equal(value, 1);
	assert_ok(gr_load_u64(space, PAGE, &value));
	assert_int_equal(value, 0);
	assert_ok(gr_load_u64(space, 3 * MIB, &value));
	assert_int_equal(value, 0);
	assert_ok(gr_ram_close(ram));
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, open_world, close_world)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_WORLD(test_a_hit_maps_nothing),
		IN_WORLD(test_every_page_shows_its_own_memory),
		IN_WORLD(test_a_block_without_an_address_tells_none),
		IN_WORLD(test_a_cursor_keeps_nothing_of_foreign_memory),
		IN_WORLD(test_rights_of_the_range_hold),
		IN_WORLD(test_no_pointer_crosses_a_window),
		IN_WORLD(test_words_and_bytes_across_windows),
		IN_WORLD(test_one_load_of_all_of_it),
		IN_WORLD(test_a_store_past_the_end_moves_nothing),
		IN_WORLD(test_ranges_in_pieces_and_beside_other_memory),
		IN_WORLD(test_high_addresses),
		IN_WORLD(test_the_least_recently_used_window_goes),
		IN_WORLD(test_eviction_follows_use),
		IN_WORLD(test_a_pinned_window_stays),
		IN_WORLD(test_when_all_are_pinned_there_is_no_other),
		IN_WORLD(test_pins_of_all_pieces_or_none),
		IN_WORLD(test_inside_a_section_windows_run_out),
		cmocka_unit_test(test_under_embedder_reclaim_nothing_waits),
		IN_WORLD(test_an_error_is_no_address),
		IN_WORLD(test_a_store_whose_second_window_fails_moves_nothing),
		IN_WORLD(test_options_that_do_not_go),
		IN_WORLD(test_an_invalidated_window_is_mapped_anew),
		IN_WORLD(test_a_pinned_window_is_invalidated_out_of_sight),
		IN_WORLD(test_discard_maps_windows_anew),
		IN_WORLD(test_delete_unmaps_each_window_once),
		IN_WORLD(test_resize_moves_the_end_of_the_last_window),
		cmocka_unit_test(test_a_large_file_through_small_windows),
		cmocka_unit_test(test_a_read_only_file_with_a_partial_page),
		cmocka_unit_test(test_a_windowed_file_grows_and_shrinks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
