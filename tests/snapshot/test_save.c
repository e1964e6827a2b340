/* SPDX-License-Identifier: MIT */
/*
 * Saving and loading: what comes back is what was there, in both layouts, with what costs nothing
 * costing nothing, with granules, spaces and state.
 */
#include "world.h"
#include <fcntl.h>
#include <guestram/plug.h>
#include <sys/stat.h>

static const enum gr_snapshot_layout layouts[] = {GR_SNAPSHOT_MAPPED, GR_SNAPSHOT_PACKED};

static void comes_back(void **unused)
{
	struct rng rng = {seed_of_the_day()};
	struct gr_snapshot_stats stats;
	struct world from, to;

	for (unsigned i = 0; i < 6; i++) {
		struct gr_snapshot_opts opts = {
			.layout = layouts[i % 2], .threads = 1 + i / 2, .level = 1 + (int)i};

		world_open(&from);
		scribble(&from, &rng, 3);
		assert_ok(gr_snapshot_save(from.ram, file_at("whole"), &opts, &stats));
		assert_int_equal(stats.bytes, LOW_BYTES + HIGH_BYTES + PAGE);
		assert_int_equal(stats.bytes_done, stats.bytes);
		load_new("whole", &to);
		assert_same_memory(&from, &to);
		world_close(&to);
		world_close(&from);
	}
	assert_int_equal(files_there(), 1);
}

/* What stood in the target before is gone. */
static void replaces_what_was_there(void **unused)
{
	struct rng rng = {7};
	struct gr_snapshot *snapshot;
	struct world from, to;

	world_open(&from);
	scribble(&from, &rng, 4);
	assert_ok(gr_snapshot_save(from.ram, file_at("s"), NULL, NULL));
	world_open(&to);
	scribble(&to, &rng, 2);
	snapshot = open_file("s");
	assert_ok(gr_snapshot_load(snapshot, to.ram, NULL, NULL));
	assert_same_memory(&from, &to);
	gr_snapshot_close(snapshot);
	world_close(&to);
	world_close(&from);
}

/* What a memfd takes. */
static uint64_t taken(struct gr_block *block)
{
	struct stat st;
	uint64_t offset;
	int fd = -1;

	assert_ok(gr_block_share_fd(block, &fd, &offset));
	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void save_sparse(enum gr_snapshot_layout layout, unsigned pages)
{
	struct gr_snapshot_opts how = {.layout = layout};
	struct gr_snapshot *snapshot;
	struct gr_snapshot_info info;
	struct gr_block *block, *there;
	struct gr_ram *ram, *to;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_ram_open(NULL, &to));
	block = new_memfd(ram, "huge", 64 * GIB);
	there = new_memfd(to, "huge", 64 * GIB);
	if (pages)
		write_page(block, 5 * GIB / PAGE + 3, 1);
	assert_ok(gr_snapshot_save(ram, file_at("sparse"), &how, NULL));
	snapshot = open_file("sparse");
	assert_ok(gr_snapshot_get_info(snapshot, 0, &info));
	assert_int_equal(info.bytes_data, pages * PAGE);
	assert_true(info.file_allocated <= 64 * KIB);
	assert_ok(gr_snapshot_verify(snapshot, NULL, NULL));
	assert_ok(gr_snapshot_load(snapshot, to, NULL, NULL));
	assert_int_equal(taken(block), pages * PAGE);
	assert_int_equal(taken(there), pages * PAGE);
	if (pages)
		assert_memory_equal(host_of(there) + 5 * GIB + 3 * PAGE,
				    host_of(block) + 5 * GIB + 3 * PAGE, PAGE);
	gr_snapshot_close(snapshot);
	assert_ok(gr_ram_close(ram));
	assert_ok(gr_ram_close(to));
}

/* P42, and: memory that was never touched costs nothing, here, in the file and there. */
static void nothing_costs_nothing(void **unused)
{
	for (unsigned i = 0; i < COUNT_OF(layouts); i++) {
		save_sparse(layouts[i], 0);
		save_sparse(layouts[i], 1);
	}
}

static void equal_chunks_are_stored_once(void **unused)
{
	struct gr_snapshot_opts opts = {.layout = GR_SNAPSHOT_PACKED, .threads = 1};
	struct gr_snapshot_stats stats;
	struct gr_snapshot *snapshot;
	struct gr_snapshot_info info;
	struct world from, to;

	world_open(&from);
	for (unsigned page = 0; page < 192; page++)
		write_page(from.low, page, page % 64);
	assert_ok(gr_snapshot_save(from.ram, file_at("twice"), &opts, &stats));
	assert_int_equal(stats.bytes_data, 192 * PAGE);
	assert_int_equal(stats.bytes_shared, 128 * PAGE);
	snapshot = open_file("twice");
	assert_ok(gr_snapshot_get_info(snapshot, 0, &info));
	assert_int_equal(info.bytes_stored, stats.bytes_stored);
	assert_true(info.bytes_stored < 64 * PAGE);
	gr_snapshot_close(snapshot);
	load_new("twice", &to);
	assert_same_memory(&from, &to);
	world_close(&to);
	world_close(&from);
}

static int give_state(void *context, struct gr_snapshot_state *state)
{
	assert_ok(gr_snapshot_put_state(state, "cpu", "registers", 9));
	assert_ok(gr_snapshot_put_state(state, "none", NULL, 0));
	assert_int_equal(gr_snapshot_put_state(state, "cpu", "x", 1), -EEXIST);
	assert_int_equal(gr_snapshot_put_state(state, "", "x", 1), -EINVAL);
	assert_int_equal(gr_snapshot_put_state(state, "big", "x", GIB), -ERANGE);
	return *(int *)context;
}

static void check_told(struct gr_snapshot *snapshot)
{
	struct gr_snapshot_range range;
	const void *bytes;
	const char *name;
	uint64_t length;
	unsigned ranges;

	assert_ok(gr_snapshot_get_state(snapshot, 0, &name, &bytes, &length));
	assert_string_equal(name, "cpu");
	assert_int_equal(length, 9);
	assert_memory_equal(bytes, "registers", 9);
	assert_ok(gr_snapshot_get_state(snapshot, 1, &name, &bytes, &length));
	assert_int_equal(length, 0);
	assert_int_equal(gr_snapshot_get_state(snapshot, 2, &name, &bytes, &length), -ENOENT);
	assert_ok(gr_snapshot_get_space(snapshot, 0, &name, &ranges));
	assert_string_equal(name, "system");
	assert_int_equal(ranges, 2);
	assert_int_equal(gr_snapshot_get_space(snapshot, 1, &name, &ranges), -ENOENT);
	assert_ok(gr_snapshot_get_range(snapshot, 0, 1, &range));
	assert_int_equal(range.addr, 4 * GIB);
	assert_int_equal(range.offset, PAGE);
	assert_int_equal(range.length, MIB);
	assert_int_equal(range.access, GR_READ);
	assert_int_equal(range.block, gr_snapshot_find_block(snapshot, "high"));
	assert_int_equal(gr_snapshot_get_range(snapshot, 0, 2, &range), -ENOENT);
}

static void state_and_spaces_are_told(void **unused)
{
	static const struct gr_snapshot_ops ops = {.state = give_state};
	int answer = 0;
	struct gr_snapshot_opts opts = {.ops = &ops, .context = &answer};
	struct gr_snapshot *snapshot;
	struct gr_space *space;
	struct world world;

	world_open(&world);
	assert_ok(gr_space_open(world.ram, "system", &space));
	assert_ok(gr_space_map(space, 0, world.low, 0, MIB, RW));
	assert_ok(gr_space_map(space, 4 * GIB, world.high, PAGE, MIB, GR_READ));
	assert_ok(gr_snapshot_save(world.ram, file_at("told"), &opts, NULL));
	answer = -EIO;
	assert_error(gr_snapshot_save(world.ram, file_at("told-not"), &opts, NULL), -EIO, "state");
	assert_false(file_exists("told-not"));
	snapshot = open_file("told");
	check_told(snapshot);
	assert_ok(gr_snapshot_convert(snapshot, file_at("told-again"), NULL, NULL));
	gr_snapshot_close(snapshot);
	snapshot = open_file("told-again");
	check_told(snapshot);
	gr_snapshot_close(snapshot);
	world_close(&world);
}

/* Each page of a mapped one stands at its place, for any tool to read. */
static void mapped_pages_have_places(void **unused)
{
	struct gr_snapshot *snapshot;
	struct gr_block *block;
	struct gr_ram *to;
	struct world world;
	char page[PAGE];
	int fd;

	world_open(&world);
	write_page(world.high, 3, 33);
	assert_ok(gr_snapshot_save(world.ram, file_at("mapped"), NULL, NULL));
	fd = open(file_at("mapped"), O_RDONLY);
	/* docs/snapshot-format.md: low is at 2 MiB, with room for 8; high is behind it */
	assert_int_equal(pread(fd, page, PAGE, (off_t)(10 * MIB + 3 * PAGE)), PAGE);
	assert_memory_equal(page, host_of(world.high) + 3 * PAGE, PAGE);
	close(fd);
	snapshot = open_file("mapped");
	assert_ok(gr_ram_open(NULL, &to));
	assert_ok(gr_snapshot_map_block(snapshot, to, "high", NULL, &block));
	assert_memory_equal(host_of(block), host_of(world.high), HIGH_BYTES);
	host_of(block)[3 * PAGE] ^= 1; /* our own copy */
	assert_ok(gr_snapshot_verify(snapshot, NULL, NULL));
	assert_ok(gr_snapshot_map_block(snapshot, to, "low", NULL, &block));
	assert_int_equal(info_of(block).length, LOW_BYTES);
	assert_int_equal(info_of(block).max_length, LOW_MAX);
	assert_error(gr_snapshot_map_block(snapshot, to, "other", NULL, &block), -ENOENT, "other");
	assert_ok(gr_ram_close(to));
	gr_snapshot_close(snapshot);
	world_close(&world);
}

/* @which of the two snapshots; @its block has granules open. */
static void load_granules(const char *name, struct gr_ram *to, struct gr_plug *there,
			  struct gr_block *from, struct gr_block *its, uint64_t plugged)
{
	struct gr_snapshot *snapshot = open_file(name);
	struct gr_snapshot_block info;

	assert_ok(gr_snapshot_get_block(snapshot, 0, &info));
	assert_int_equal(info.granule, 2 * MIB);
	assert_int_equal(info.plugged, plugged);
	assert_ok(gr_snapshot_load(snapshot, to, NULL, NULL));
	assert_int_equal(gr_plug_bytes(there), plugged);
	assert_int_equal(gr_plug_is(there, 2 * MIB, plugged), GR_PLUG_ALL);
	assert_int_equal(gr_plug_is(there, 12 * MIB, 1), GR_PLUG_NONE);
	assert_memory_equal(host_of(its) + 2 * MIB, host_of(from) + 2 * MIB, PAGE);
	gr_snapshot_close(snapshot);
}

static void granules_come_back(void **unused)
{
	struct gr_snapshot_opts opts = {0};
	struct gr_plug *plug, *there;
	struct gr_block *block, *its;
	struct gr_ram *ram, *to;

	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_ram_open(NULL, &to));
	block = new_anon(ram, "dimm", 16 * MIB, 16 * MIB);
	its = new_anon(to, "dimm", 16 * MIB, 16 * MIB);
	assert_ok(gr_plug_open(block, NULL, &plug));
	assert_ok(gr_plug_open(its, NULL, &there));
	assert_ok(gr_plug_add(there, 12 * MIB, 2 * MIB));
	memset(host_of(its) + 12 * MIB, 1, MIB);
	assert_ok(gr_plug_add(plug, 2 * MIB, 4 * MIB));
	write_page(block, 2 * MIB / PAGE, 1);
	write_page(block, 4 * MIB / PAGE, 2);
	assert_ok(gr_snapshot_chain_open(ram, &opts.chain));
	assert_ok(gr_snapshot_save(ram, file_at("plugged"), &opts, NULL));
	assert_ok(gr_plug_remove(plug, 4 * MIB, 2 * MIB));
	assert_ok(gr_snapshot_save(ram, file_at("plugged-less"), &opts, NULL));
	load_granules("plugged", to, there, block, its, 4 * MIB);
	assert_int_equal(*(uint64_t *)(host_of(its) + 4 * MIB + 8), 2);
	load_granules("plugged-less", to, there, block, its, 2 * MIB);
	assert_int_equal(*(uint64_t *)(host_of(its) + 4 * MIB + 8), 0);
	assert_ok(gr_snapshot_chain_close(opts.chain));
	assert_ok(gr_plug_remove_all(plug));
	assert_ok(gr_plug_remove_all(there));
	assert_ok(gr_plug_close(plug));
	assert_ok(gr_plug_close(there));
	assert_ok(gr_ram_close(ram));
	assert_ok(gr_ram_close(to));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(comes_back),
		cmocka_unit_test(replaces_what_was_there),
		cmocka_unit_test(nothing_costs_nothing),
		cmocka_unit_test(equal_chunks_are_stored_once),
		cmocka_unit_test(state_and_spaces_are_told),
		cmocka_unit_test(mapped_pages_have_places),
		cmocka_unit_test(granules_come_back),
	};

	alarm(110);
	return cmocka_run_group_tests_name("snapshot: save and load", tests, folder_open,
					   folder_close);
}
