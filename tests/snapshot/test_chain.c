/* SPDX-License-Identifier: MIT */
/*
 * Children, by what changed and by comparing; and guests that run while they are saved.
 *
 * Threads: a guest that writes, in the tests that say so.
 */
#include "world.h"
#include <guestram/pager.h>

static const enum gr_snapshot_layout layouts[] = {GR_SNAPSHOT_MAPPED, GR_SNAPSHOT_PACKED};

#define GENERATIONS 5

static void load_generation(unsigned i, const struct copy *copy)
{
	struct gr_snapshot *snapshot;
	struct gr_snapshot_info info;
	struct world to;
	char name[16];

	snprintf(name, sizeof(name), "child-%u", i);
	snapshot = open_file(name);
	assert_ok(gr_snapshot_get_info(snapshot, 0, &info));
	assert_int_equal(info.depth, i);
	assert_ok(gr_snapshot_convert(snapshot, file_at("flat"),
				      &(struct gr_snapshot_opts){.layout = layouts[i / 2 % 2]},
				      NULL));
	gr_snapshot_close(snapshot);
	load_new(name, &to);
	assert_is_copy(&to, copy);
	world_close(&to);
	snapshot = open_file("flat");
	assert_ok(gr_snapshot_get_info(snapshot, 0, &info));
	assert_int_equal(info.depth, 0);
	gr_snapshot_close(snapshot);
	load_new("flat", &to);
	assert_is_copy(&to, copy);
	world_close(&to);
}

/* Q24, P40: zeroes, clean last pages, and a block that grows and shrinks. */
static void children_have_what_changed(void **unused)
{
	struct rng rng = {seed_of_the_day()};
	struct gr_snapshot_chain *chain;
	struct gr_snapshot_stats stats;
	struct copy copies[GENERATIONS];
	struct world from;
	char name[16];

	world_open(&from);
	scribble(&from, &rng, 2);
	assert_ok(gr_snapshot_chain_open(from.ram, &chain));
	for (unsigned i = 0; i < GENERATIONS; i++) {
		static const uint64_t lengths[GENERATIONS] = {LOW_BYTES, 5 * MIB, 2 * MIB, 4 * MIB,
							      4 * MIB};
		struct gr_snapshot_opts opts = {.layout = layouts[i % 2], .chain = chain};

		snprintf(name, sizeof(name), "child-%u", i);
		assert_ok(gr_snapshot_save(from.ram, file_at(name), &opts, &stats));
		if (i && lengths[i - 1] < MIB)
			assert_true(stats.bytes < (LOW_BYTES + HIGH_BYTES) / 4);
		copy_take(&copies[i], &from);
		scribble(&from, &rng, 20);
		assert_ok(gr_block_resize(from.low, lengths[i]));
	}
	for (unsigned i = 0; i < GENERATIONS; i++) {
		load_generation(i, &copies[i]);
		copy_free(&copies[i]);
	}
	assert_ok(gr_snapshot_chain_close(chain));
	world_close(&from);
}

/* P40: the first block's last page is clean, one page of the second is dirty. */
static void two_pages_of_two_blocks(void **unused)
{
	struct gr_snapshot_opts opts = {0};
	struct gr_snapshot_stats stats;
	struct world from, to;

	world_open(&from);
	write_page(from.low, LOW_BYTES / PAGE - 1, 1);
	assert_ok(gr_snapshot_chain_open(from.ram, &opts.chain));
	assert_ok(gr_snapshot_save(from.ram, file_at("two"), &opts, NULL));
	write_page(from.high, 0, 2);
	zero_page(from.low, LOW_BYTES / PAGE - 2);
	assert_ok(gr_snapshot_save(from.ram, file_at("two-child"), &opts, &stats));
	assert_int_equal(stats.bytes, 2 * PAGE);
	assert_int_equal(stats.bytes_data, PAGE);
	assert_int_equal(stats.bytes_zero, PAGE);
	load_new("two-child", &to);
	assert_same_memory(&from, &to);
	world_close(&to);
	assert_ok(gr_snapshot_chain_close(opts.chain));
	world_close(&from);
}

/* A load makes the chain go on from there. */
static void a_chain_goes_on_after_a_load(void **unused)
{
	struct rng rng = {11};
	struct gr_snapshot_opts opts = {0};
	struct gr_snapshot_stats stats;
	struct gr_snapshot *snapshot;
	struct world from, to, again;

	world_open(&from);
	scribble(&from, &rng, 2);
	assert_ok(gr_snapshot_save(from.ram, file_at("first"), NULL, NULL));
	world_open(&to);
	assert_ok(gr_snapshot_chain_open(to.ram, &opts.chain));
	snapshot = open_file("first");
	assert_ok(gr_snapshot_load(snapshot, to.ram, &opts, NULL));
	gr_snapshot_close(snapshot);
	write_page(to.low, 100, 5);
	zero_page(to.high, 7);
	assert_ok(gr_snapshot_save(to.ram, file_at("second"), &opts, &stats));
	assert_int_equal(stats.bytes, 2 * PAGE);
	load_new("second", &again);
	assert_same_memory(&to, &again);
	world_close(&again);
	/* one with everything, if that is asked for */
	opts.flags = GR_SNAPSHOT_FULL;
	assert_ok(gr_snapshot_save(to.ram, file_at("third"), &opts, NULL));
	unlink(file_at("first"));
	load_new("third", &again);
	assert_same_memory(&to, &again);
	world_close(&again);
	assert_ok(gr_snapshot_chain_close(opts.chain));
	world_close(&to);
	world_close(&from);
}

/* Without a chain a child has what differs; re-based, what differs from another. */
static void pages_are_compared(void **unused)
{
	struct gr_snapshot *a, *b, *moved;
	struct gr_snapshot_opts opts = {.layout = GR_SNAPSHOT_PACKED};
	struct gr_snapshot_info info;
	struct rng rng = {12};
	struct world world, to;

	world_open(&world);
	scribble(&world, &rng, 2);
	write_page(world.low, 9, 1);
	assert_ok(gr_snapshot_save(world.ram, file_at("a"), &opts, NULL));
	write_page(world.low, 8, 1);
	zero_page(world.low, 9);
	a = open_file("a");
	opts.parent = a;
	assert_ok(gr_snapshot_save(world.ram, file_at("b"), &opts, NULL));
	b = open_file("b");
	assert_ok(gr_snapshot_get_info(b, 0, &info));
	assert_int_equal(info.bytes_data, PAGE);
	assert_int_equal(info.bytes_zero, PAGE);
	assert_int_equal(info.depth, 1);
	opts = (struct gr_snapshot_opts){0};
	write_page(world.low, 10, 1);
	assert_ok(gr_snapshot_save(world.ram, file_at("c"), &opts, NULL));
	opts.parent = open_file("c");
	assert_ok(gr_snapshot_convert(b, file_at("b-on-c"), &opts, NULL));
	gr_snapshot_close(opts.parent);
	moved = open_file("b-on-c");
	assert_ok(gr_snapshot_get_info(moved, 0, &info));
	assert_int_equal(info.bytes_data + info.bytes_zero, PAGE);
	gr_snapshot_close(moved);
	load_new("b-on-c", &to);
	write_page(to.low, 10, 1);
	assert_same_memory(&world, &to);
	world_close(&to);
	gr_snapshot_close(a);
	gr_snapshot_close(b);
	world_close(&world);
}

static void pages_are_looked_at(void **unused)
{
	struct gr_snapshot_opts opts = {0};
	struct gr_snapshot_place place;
	struct gr_snapshot *a, *b;
	struct world world;
	uint64_t length;
	char page[2 * PAGE];
	int level, block;

	world_open(&world);
	write_page(world.high, 1, 1);
	write_page(world.high, 2, 2);
	assert_ok(gr_snapshot_save(world.ram, file_at("old"), &opts, NULL));
	write_page(world.high, 2, 3);
	zero_page(world.high, 1);
	a = open_file("old");
	opts.parent = a;
	assert_ok(gr_snapshot_save(world.ram, file_at("new"), &opts, NULL));
	b = open_file("new");
	block = gr_snapshot_find_block(b, "high");
	assert_int_equal(gr_snapshot_look(b, block, 0, &length, &level), 0);
	assert_int_equal(level, -1);
	assert_int_equal(length, PAGE);
	assert_int_equal(gr_snapshot_look(b, block, PAGE, &length, &level), 0);
	assert_int_equal(level, 0);
	assert_int_equal(gr_snapshot_look(b, block, 2 * PAGE, &length, &level), 1);
	assert_int_equal(level, 0);
	assert_int_equal(length, PAGE);
	assert_int_equal(gr_snapshot_look(b, block, 3 * PAGE, &length, &level), 0);
	assert_int_equal(length, HIGH_BYTES - 3 * PAGE);
	assert_int_equal(gr_snapshot_look(a, block, PAGE, &length, &level), 1);
	assert_int_equal(length, 2 * PAGE);
	assert_int_equal(gr_snapshot_look(b, block, HIGH_BYTES, &length, NULL), -ERANGE);
	assert_ok(gr_snapshot_locate(b, block, 2 * PAGE, &length, &place));
	assert_int_equal(length, PAGE);
	assert_int_equal(place.level, 0);
	assert_int_equal(place.chunk, 0);
	assert_true(place.offset > 0 && place.stored == PAGE);
	assert_int_equal(gr_snapshot_locate(b, block, PAGE, &length, &place), -ENOENT);
	assert_int_equal(gr_snapshot_locate(b, block, HIGH_BYTES, &length, &place), -ERANGE);
	assert_int_equal(gr_snapshot_locate(b, 9, 0, &length, &place), -ENOENT);
	assert_ok(gr_snapshot_read(b, block, PAGE, page, 2 * PAGE));
	assert_memory_equal(page, host_of(world.high) + PAGE, 2 * PAGE);
	assert_int_equal(gr_snapshot_read(b, block, HIGH_BYTES, page, PAGE), -ERANGE);
	assert_int_equal(gr_snapshot_read(b, block, 1, page, PAGE), -EINVAL);
	assert_int_equal(gr_snapshot_read(b, 9, 0, page, PAGE), -ENOENT);
	gr_snapshot_close(a);
	gr_snapshot_close(b);
	world_close(&world);
}

/* Each page by the source's functions, of a child and its parents in both layouts. */
static void check_source(struct gr_snapshot *snapshot, const struct copy *copy, bool places)
{
	struct gr_page_source_info info;
	struct gr_page_source source;
	uint64_t at, length, place;
	static const char zeroes[PAGE];
	char page[PAGE];
	unsigned placed = 0;
	int block, fd, kind;

	assert_ok(gr_snapshot_source(snapshot, &source));
	assert_int_equal(source.ops->find(source.context, "none", &info), -ENOENT);
	assert_int_equal(source.ops->find(source.context, NULL, &info), 0);
	block = source.ops->find(source.context, "low", &info);
	assert_true(block >= 0);
	assert_int_equal(info.length, copy->low_bytes);
	assert_int_equal(info.chunk, 256 * KIB);
	for (at = 0; at < copy->low_bytes; at += PAGE) {
		const char *want = copy->low + at;

		length = 16 * PAGE;
		kind = source.ops->look(source.context, block, at, &length);
		assert_true(length >= PAGE && length <= 16 * PAGE);
		if (kind == GR_PAGES_ZERO)
			assert_memory_equal(want, zeroes, PAGE);
		assert_ok(source.ops->read(source.context, block, at, page, PAGE));
		assert_memory_equal(page, want, PAGE);
		length = PAGE;
		if (source.ops->place(source.context, block, at, &length, &fd, &place))
			continue;
		placed++;
		assert_int_equal(kind, GR_PAGES_DATA);
		assert_int_equal(pread(fd, page, PAGE, (off_t)place), PAGE);
		assert_memory_equal(page, want, PAGE);
	}
	assert_int_equal(placed > 0, places);
	assert_int_equal(source.ops->look(source.context, block, copy->low_bytes, &length),
			 -ERANGE);
	gr_page_source_close(&source);
}

static void a_source_of_pages(void **unused)
{
	struct gr_snapshot_opts opts = {0};
	struct gr_snapshot *snapshot;
	struct rng rng = {seed_of_the_day()};
	struct world world;
	struct copy copy;

	world_open(&world);
	assert_ok(gr_snapshot_chain_open(world.ram, &opts.chain));
	for (unsigned i = 0; i < 3; i++) {
		static const char *const names[] = {"source-0", "source-1", "source-2"};

		scribble(&world, &rng, 4);
		opts.layout = layouts[(i + 1) % 2];
		assert_ok(gr_snapshot_save(world.ram, file_at(names[i]), &opts, NULL));
		copy_take(&copy, &world);
		snapshot = open_file(names[i]);
		check_source(snapshot, &copy, i > 0);
		gr_snapshot_close(snapshot);
		copy_free(&copy);
	}
	assert_ok(gr_snapshot_chain_close(opts.chain));
	world_close(&world);
}

/* ------------------------------------------------------------------------------------- running */

struct guest {
	struct world world;
	struct copy at_stop;
	int running, parked, end; /* atomic */
	uint64_t writes;	  /* atomic */
	unsigned pause_us;
};

/* Each write is a page; when it is not to run it stands still between two. */
static void *run_guest(void *arg)
{
	struct guest *guest = arg;
	struct rng rng = {99};

	while (!get(&guest->end)) {
		if (!get(&guest->running)) {
			set(&guest->parked, 1);
			sleep_us(20);
			continue;
		}
		if (rng_one_in(&rng, 8))
			zero_page(guest->world.low, rng_below(&rng, LOW_BYTES / PAGE));
		else
			write_page(rng_one_in(&rng, 2) ? guest->world.low : guest->world.high,
				   rng_below(&rng, HIGH_BYTES / PAGE), rng_next(&rng));
		write_page(guest->world.low, 3, guest->writes); /* in each round */
		__atomic_add_fetch(&guest->writes, 1, __ATOMIC_RELAXED);
		if (guest->pause_us)
			sleep_us(guest->pause_us);
	}
	return NULL;
}

static void stop_guest(void *context)
{
	struct guest *guest = context;

	set(&guest->parked, 0);
	set(&guest->running, 0);
	while (!get(&guest->parked))
		sleep_us(5);
	copy_take(&guest->at_stop, &guest->world);
}

static void resume_guest(void *context)
{
	set(&((struct guest *)context)->running, 1);
}

/* A point in time, whatever the guest writes; and children of it. */
static void a_running_guest(void **unused)
{
	static const struct gr_snapshot_ops ops = {.stop = stop_guest, .resume = resume_guest};
	struct guest guest = {.running = 1, .pause_us = 20};
	struct gr_snapshot_chain *chain = NULL;
	struct gr_snapshot_stats stats;
	uint64_t before, rounds = 0;
	struct rng rng = {3};
	struct world to;
	pthread_t thread;
	char name[20];

	world_open(&guest.world);
	scribble(&guest.world, &rng, 2);
	thread = thread_start(run_guest, &guest);
	for (unsigned i = 0; i < 12; i++) {
		struct gr_snapshot_opts opts = {
			.layout = layouts[i % 2],
			.threads = 1 + i % 3,
			.chain = chain,
			.max_pause_bytes = 16 * KIB,
			.max_held_bytes = i / 2 % 2 ? 0 : PAGE, /* to the file again */
			.ops = &ops,
			.context = &guest,
		};

		snprintf(name, sizeof(name), "running-%u", i);
		assert_ok(gr_snapshot_save(guest.world.ram, file_at(name), &opts, &stats));
		assert_true(stats.pause_ns > 0);
		rounds += stats.rounds;
		print_message("%u %d\n", i, (int)stats.rounds);
		before = __atomic_load_n(&guest.writes, __ATOMIC_RELAXED);
		assert_true(wait_until(__atomic_load_n(&guest.writes, __ATOMIC_RELAXED) > before));
		load_new(name, &to);
		assert_is_copy(&to, &guest.at_stop);
		copy_free(&guest.at_stop);
		world_close(&to);
		if (i == 3)
			assert_ok(gr_snapshot_chain_open(guest.world.ram, &chain));
	}
	assert_true(rounds > 0);
	set(&guest.end, 1);
	thread_join(thread);
	assert_ok(gr_snapshot_chain_close(chain));
	world_close(&guest.world);
}

/* ------------------------------------------------------------------------------------ failures */

static int cancel(void *context, const struct gr_snapshot_stats *stats)
{
	(void)context;
	return stats->bytes_done > 0;
}

static void a_failed_save_loses_nothing(void **unused)
{
	static const struct gr_snapshot_ops ops = {.progress = cancel};
	struct gr_snapshot_opts opts = {.threads = 1};
	struct gr_block *big;
	struct world world, to;
	unsigned files;

	world_open(&world);
	write_page(world.low, 1, 1);
	assert_ok(gr_snapshot_chain_open(world.ram, &opts.chain));
	assert_ok(gr_snapshot_save(world.ram, file_at("kept"), &opts, NULL));
	write_page(world.low, 2, 1);
	big = new_anon(world.ram, "big", 64 * MIB, 64 * MIB);
	files = files_there();
	opts.ops = &ops;
	assert_error(gr_snapshot_save(world.ram, file_at("lost"), &opts, NULL), -ECANCELED,
		     "cancelled");
	assert_int_equal(files_there(), files);
	assert_ok(gr_block_delete(big));
	opts.ops = NULL;
	assert_ok(gr_snapshot_save(world.ram, file_at("next"), &opts, NULL));
	load_new("next", &to);
	assert_same_memory(&world, &to);
	world_close(&to);
	assert_ok(gr_snapshot_chain_close(opts.chain));
	world_close(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(children_have_what_changed),
		cmocka_unit_test(two_pages_of_two_blocks),
		cmocka_unit_test(a_chain_goes_on_after_a_load),
		cmocka_unit_test(pages_are_compared),
		cmocka_unit_test(pages_are_looked_at),
		cmocka_unit_test(a_source_of_pages),
		cmocka_unit_test(a_running_guest),
		cmocka_unit_test(a_failed_save_loses_nothing),
	};

	alarm(170);
	return cmocka_run_group_tests_name("snapshot: children, running guests", tests, folder_open,
					   folder_close);
}
