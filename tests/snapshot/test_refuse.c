/* SPDX-License-Identifier: MIT */
/*
 * What does not fit is refused, with both values, and changes nothing; what is damaged is found.
 */
#define XXH_INLINE_ALL
#include "snapshot/wire.h"
#include "world.h"
#include <fcntl.h>
#include <guestram/plug.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>

/* ------------------------------------------------------------------------------------ Q28: load */

struct shape {
	const char *what;
	struct gr_block_opts block;
	int error;
	const char *say[2];
};

static char page_of_ours[PAGE] __attribute__((aligned(4096)));

static const struct shape shapes[] = {
	{"missing", {0}, -ENOENT, {"block mem", "not here"}},
	{"renamed", {.name = "mem2", .length = MIB}, -EEXIST, {"mem2", "not in the snapshot"}},
	{"bigger", {.name = "mem", .length = 2 * MIB}, -EINVAL, {"1048576", "2097152"}},
	{"smaller", {.name = "mem", .length = 512 * KIB}, -EINVAL, {"1048576", "524288"}},
	{"more room",
	 {.name = "mem", .length = MIB, .max_length = 3 * MIB},
	 -EINVAL,
	 {"1048576", "3145728"}},
};

static void other_blocks_are_refused(void **unused)
{
	struct gr_snapshot *snapshot;
	struct gr_block *block, *keep;
	struct gr_ram *ram;

	assert_ok(gr_ram_open(NULL, &ram));
	write_page(new_anon(ram, "mem", MIB, MIB), 1, 1);
	write_page(new_anon(ram, "a-keep", MIB, MIB), 1, 1);
	assert_ok(gr_snapshot_save(ram, file_at("shape"), NULL, NULL));
	assert_ok(gr_ram_close(ram));
	snapshot = open_file("shape");
	for (unsigned i = 0; i < COUNT_OF(shapes); i++) {
		assert_ok(gr_ram_open(NULL, &ram));
		keep = new_anon(ram, "a-keep", MIB, MIB);
		if (shapes[i].block.name)
			assert_ok(gr_block_new(ram, &shapes[i].block, &block));
		memset(host_of(keep), 'k', MIB);
		print_message("%s\n", shapes[i].what);
		assert_error(gr_snapshot_load(snapshot, ram, NULL, NULL), shapes[i].error,
			     shapes[i].say[0]);
		assert_non_null(strstr(gr_last_error(), shapes[i].say[1]));
		for (uint64_t at = 0; at < MIB; at += 512)
			assert_int_equal(host_of(keep)[at], 'k');
		assert_ok(gr_ram_close(ram));
	}
	gr_snapshot_close(snapshot);
}

static void granules_are_compared(void **unused)
{
	struct gr_snapshot *snapshot;
	struct gr_plug *plug;
	struct gr_block *block;
	struct gr_ram *ram;

	assert_ok(gr_ram_open(NULL, &ram));
	block = new_anon(ram, "dimm", 4 * MIB, 4 * MIB);
	assert_ok(gr_snapshot_save(ram, file_at("no-granules"), NULL, NULL));
	assert_ok(gr_plug_open(block, NULL, &plug));
	snapshot = open_file("no-granules");
	assert_error(gr_snapshot_load(snapshot, ram, NULL, NULL), -EINVAL, "granules of 0");
	gr_snapshot_close(snapshot);
	assert_ok(gr_plug_close(plug));
	assert_ok(gr_ram_close(ram));
}

/* A read-only block must have the bytes already. */
static void read_only_blocks_are_compared(void **unused)
{
	struct gr_block_opts opts = {.name = "rom",
				     .backing = GR_BACKING_CALLER,
				     .flags = GR_READ_ONLY,
				     .length = PAGE,
				     .host = page_of_ours};
	struct gr_snapshot *snapshot;
	struct gr_block *block, *ram_block;
	struct gr_ram *ram;

	page_of_ours[100] = 1;
	assert_ok(gr_ram_open(NULL, &ram));
	ram_block = new_anon(ram, "ram", PAGE, PAGE);
	assert_ok(gr_block_new(ram, &opts, &block));
	assert_ok(gr_snapshot_save(ram, file_at("rom"), NULL, NULL));
	snapshot = open_file("rom");
	assert_ok(gr_snapshot_load(snapshot, ram, NULL, NULL));
	page_of_ours[100] = 2;
	memset(host_of(ram_block), 'r', PAGE);
	assert_error(gr_snapshot_load(snapshot, ram, NULL, NULL), -EINVAL, "read-only");
	assert_int_equal(host_of(ram_block)[0], 'r');
	page_of_ours[100] = 1;
	assert_ok(gr_block_delete(block));
	opts.flags = 0;
	assert_ok(gr_block_new(ram, &opts, &block));
	assert_error(gr_snapshot_load(snapshot, ram, NULL, NULL), -EINVAL,
		     "read-only in the snapshot, writable here");
	gr_snapshot_close(snapshot);
	assert_ok(gr_ram_close(ram));
}

/* ------------------------------------------------------------------------------------- parents */

static void copy_file(const char *from, const char *to)
{
	char command[500];

	snprintf(command, sizeof(command), "cp --sparse=always %s %s", file_at(from), file_at(to));
	assert_int_equal(system(command), 0);
}

static void the_parent_is_the_parent(void **unused)
{
	struct gr_snapshot_opts opts = {0}, compared = {0};
	struct gr_snapshot *snapshot;
	struct world world;

	world_open(&world);
	write_page(world.low, 1, 1);
	assert_ok(gr_snapshot_chain_open(world.ram, &opts.chain));
	assert_ok(gr_snapshot_save(world.ram, file_at("mother"), &opts, NULL));
	write_page(world.low, 2, 1);
	assert_error(gr_snapshot_save(world.ram, file_at("mother"), &opts, NULL), -EEXIST,
		     "parent");
	assert_ok(gr_snapshot_save(world.ram, file_at("daughter"), &opts, NULL));
	compared.parent = open_file("daughter");
	assert_error(gr_snapshot_save(world.ram, file_at("mother"), &compared, NULL), -EEXIST,
		     "parent");
	assert_error(gr_snapshot_convert(compared.parent, file_at("mother"), &compared, NULL),
		     -EEXIST, "parent");
	gr_snapshot_close(compared.parent);
	assert_ok(gr_snapshot_chain_close(opts.chain));
	copy_file("mother", "aside");
	/* another one of the same memory is not the same */
	assert_ok(gr_snapshot_save(world.ram, file_at("mother"), NULL, NULL));
	assert_error(gr_snapshot_open(file_at("daughter"), NULL, &snapshot), -ESTALE, "another");
	unlink(file_at("mother"));
	assert_error(gr_snapshot_open(file_at("daughter"), NULL, &snapshot), -ENOENT, "mother");
	/* wherever it is */
	assert_ok(gr_snapshot_open(file_at("daughter"), file_at("aside"), &snapshot));
	assert_ok(gr_snapshot_verify(snapshot, NULL, NULL));
	assert_error(gr_snapshot_map_block(snapshot, world.ram, "low", NULL, &world.high), -ENOTSUP,
		     "parent");
	gr_snapshot_close(snapshot);
	world_close(&world);
}

/* -------------------------------------------------------------------------------------- damage */

/* Some pages, a space and state in a packed file of few bytes, or a mapped one. */
static off_t save_small(const char *name, enum gr_snapshot_layout layout)
{
	struct gr_snapshot_opts opts = {.layout = layout};
	struct gr_space *space;
	struct gr_block *block;
	struct gr_ram *ram;
	off_t size;
	int fd;

	assert_ok(gr_ram_open(NULL, &ram));
	block = new_anon(ram, "mem", 16 * PAGE, 32 * PAGE);
	memset(host_of(block) + 2 * PAGE, 'x', PAGE);
	memset(host_of(block) + 5 * PAGE, 'y', 2 * PAGE);
	assert_ok(gr_space_open(ram, "system", &space));
	assert_ok(gr_space_map(space, PAGE, block, 0, 16 * PAGE, RW));
	assert_ok(gr_snapshot_save(ram, file_at(name), &opts, NULL));
	assert_ok(gr_ram_close(ram));
	fd = open(file_at(name), O_RDONLY);
	size = lseek(fd, 0, SEEK_END);
	close(fd);
	return size;
}

static int open_and_verify(const char *name)
{
	struct gr_snapshot *snapshot;
	int rc = gr_snapshot_open(file_at(name), NULL, &snapshot);

	if (rc)
		return rc;
	rc = gr_snapshot_verify(snapshot, &(struct gr_snapshot_opts){.threads = 1}, NULL);
	gr_snapshot_close(snapshot);
	return rc;
}

/* Each byte of the file, with each of its bits, and cut before each byte. */
static void every_byte_counts(void **unused)
{
	static const enum gr_snapshot_layout layouts[] = {GR_SNAPSHOT_PACKED, GR_SNAPSHOT_MAPPED};

	for (unsigned i = 0; i < COUNT_OF(layouts); i++) {
		off_t size = save_small("small", layouts[i]);
		unsigned step = layouts[i] == GR_SNAPSHOT_PACKED ? 1 : 41;
		int fd = open(file_at("small"), O_RDWR);
		unsigned char *bytes = malloc((size_t)size);

		assert_int_equal(pread(fd, bytes, (size_t)size, 0), size);
		for (off_t at = 0; at < size; at += step) {
			unsigned char wrong = bytes[at] ^ (unsigned char)(1u << at % 8);
			int rc;

			assert_int_equal(pwrite(fd, &wrong, 1, at), 1);
			rc = open_and_verify("small");
			if (rc != -EBADMSG && rc != -ENOTSUP && rc != -ESTALE && rc != -ENOENT)
				fail_msg("byte %ld of %ld: %d", (long)at, (long)size, rc);
			assert_int_equal(pwrite(fd, &bytes[at], 1, at), 1);
		}
		assert_ok(open_and_verify("small"));
		for (off_t at = size - 1; at >= 0; at -= step) {
			assert_int_equal(ftruncate(fd, at), 0);
			if (open_and_verify("small") != -EBADMSG)
				fail_msg("cut at byte %ld of %ld", (long)at, (long)size);
		}
		free(bytes);
		close(fd);
	}
}

/* The header's two hashes, as of one who means to deceive. */
static void seal(unsigned char *bytes, size_t size)
{
	struct wire_header *header = (struct wire_header *)bytes;
	XXH3_state_t *state = XXH3_createState();
	XXH128_canonical_t digest;
	uint64_t hash;

	XXH3_128bits_reset(state);
	XXH3_128bits_update(state, bytes, offsetof(struct wire_header, digest));
	XXH3_128bits_update(state, bytes + header->tail, size - header->tail);
	XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(state));
	XXH3_freeState(state);
	memcpy(header->digest, &digest, sizeof(digest));
	hash = XXH3_64bits(bytes, WIRE_HASH_AT);
	memcpy(bytes + WIRE_HASH_AT, &hash, sizeof(hash));
}

/* Each chunk has the right hash, and the second one's bytes are a part of the first one's. */
static void chunks_that_overlap_are_found(void **unused)
{
	struct gr_snapshot_opts opts = {.layout = GR_SNAPSHOT_PACKED};
	struct rng rng = {7};
	struct gr_snapshot *snapshot;
	struct wire_header *header;
	struct wire_entry *entries;
	struct gr_block *block;
	unsigned char *bytes;
	struct gr_ram *ram;
	struct stat stat;
	int fd;

	assert_ok(gr_ram_open(NULL, &ram));
	block = new_anon(ram, "mem", 2 * WIRE_CHUNK, 2 * WIRE_CHUNK);
	for (uint64_t at = 0; at < 2 * WIRE_CHUNK - PAGE; at += 8) /* nothing to pack */
		*(uint64_t *)(host_of(block) + at) = rng_next(&rng);
	assert_ok(gr_snapshot_save(ram, file_at("over"), &opts, NULL));
	assert_ok(gr_ram_close(ram));
	assert_ok(open_and_verify("over"));

	fd = open(file_at("over"), O_RDWR | O_CLOEXEC);
	assert_int_equal(fstat(fd, &stat), 0);
	bytes = mmap(NULL, (size_t)stat.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(bytes != MAP_FAILED);
	header = (struct wire_header *)bytes;
	entries = (struct wire_entry *)(bytes + header->tail + header->manifest_length);
	assert_int_equal(header->index_length, 2 * sizeof(*entries));
	assert_int_equal(entries[0].stored, WIRE_CHUNK);
	assert_int_equal(entries[1].stored, WIRE_CHUNK - PAGE);
	entries[1].place = entries[0].place + PAGE;
	entries[1].hash = XXH3_64bits(bytes + entries[1].place, entries[1].stored);
	seal(bytes, (size_t)stat.st_size);
	munmap(bytes, (size_t)stat.st_size);
	close(fd);

	assert_ok(gr_snapshot_open(file_at("over"), NULL, &snapshot));
	assert_error(gr_snapshot_verify(snapshot, NULL, NULL), -EBADMSG, "chunks overlap");
	gr_snapshot_close(snapshot);
}

/* Cut, or damaged, after it was opened: no wrong byte is given. */
static void damage_after_opening(void **unused)
{
	static const enum gr_snapshot_layout layouts[] = {GR_SNAPSHOT_PACKED, GR_SNAPSHOT_MAPPED};
	struct gr_snapshot *snapshot;
	struct gr_block *block;
	struct gr_ram *ram;
	char page[PAGE];

	for (unsigned i = 0; i < COUNT_OF(layouts); i++) {
		save_small("late", layouts[i]);
		snapshot = open_file("late");
		assert_ok(gr_ram_open(NULL, &ram));
		block = new_anon(ram, "mem", 16 * PAGE, 32 * PAGE);
		assert_int_equal(truncate(file_at("late"), PAGE + 10), 0);
		assert_error(gr_snapshot_read(snapshot, 0, 2 * PAGE, page, PAGE), -EBADMSG,
			     "damaged");
		assert_error(gr_snapshot_load(snapshot, ram, NULL, NULL), -EBADMSG, "mem");
		assert_error(gr_snapshot_verify(snapshot, NULL, NULL), -EBADMSG, "mem");
		assert_error(gr_snapshot_convert(snapshot, file_at("other"), NULL, NULL), -EBADMSG,
			     "mem");
		assert_false(file_exists("other"));
		(void)block;
		gr_snapshot_close(snapshot);
		assert_ok(gr_ram_close(ram));
	}
}

static void what_is_malformed_is_refused(void **unused)
{
	struct gr_snapshot_opts bad[] = {
		{.layout = 3}, {.level = 20}, {.threads = 65}, {.flags = 2}, {.reserved = {1}},
	};
	struct gr_snapshot *snapshot;
	struct world world;

	world_open(&world);
	for (unsigned i = 0; i < COUNT_OF(bad); i++)
		assert_int_equal(gr_snapshot_save(world.ram, file_at("bad"), &bad[i], NULL),
				 -EINVAL);
	assert_false(file_exists("bad"));
	assert_error(gr_snapshot_save(world.ram, file_at("none/bad"), NULL, NULL), -ENOENT, "none");
	assert_error(gr_snapshot_open("/dev/null", NULL, &snapshot), -EBADMSG, "regular");
	gr_read_begin();
	assert_int_equal(gr_snapshot_save(world.ram, file_at("bad"), NULL, NULL), -EDEADLK);
	gr_read_end();
	world_close(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(other_blocks_are_refused),
		cmocka_unit_test(granules_are_compared),
		cmocka_unit_test(read_only_blocks_are_compared),
		cmocka_unit_test(the_parent_is_the_parent),
		cmocka_unit_test(every_byte_counts),
		cmocka_unit_test(chunks_that_overlap_are_found),
		cmocka_unit_test(damage_after_opening),
		cmocka_unit_test(what_is_malformed_is_refused),
	};

	alarm(170);
	return cmocka_run_group_tests_name("snapshot: refused, damaged", tests, folder_open,
					   folder_close);
}
