/* SPDX-License-Identifier: MIT */
/*
 * A hostile snapshot: a whole file is made, then changed as the input says, its hashes and digest
 * put right again unless the input wants otherwise, so that what is behind them is reached. It is
 * opened, shown, verified, read, loaded and converted.
 *
 * Kept: errors or success, and what verifies can be read; a source and a read agree; nothing is
 * touched outside of blocks; no descriptor, no file and no memory stays. Memory is never lacking: a
 * file of so few bytes has no use for much.
 *
 * Input: a byte of options (FEED_…), then changes: where (2 bytes; from the tail on, or in the
 * first page), how many bytes (1), the bytes.
 *
 * Threads: one, and the library's crew of one.
 */
#include "fuzz.h"
#include "snapshot/wire.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <guestram/pager.h>
#include <guestram/snapshot.h>
#include <sys/mman.h>
#include <unistd.h>
#define XXH_STATIC_LINKING_ONLY /* the state's size */
#include <xxhash.h>

#define PAGE 4096
#define PAGES 80 /* more than a chunk */

enum { FEED_PACKED = 1, FEED_BAD_DIGEST = 2, FEED_BAD_HASH = 4, FEED_CUT = 8, FEED_GROW = 16 };

static struct gr_ram *make_ram(bool filled)
{
	struct gr_block_opts opts = {.name = "low", .length = PAGES * PAGE};
	struct gr_block_info info;
	struct gr_space *space;
	struct gr_block *block;
	struct gr_ram *ram = NULL;

	FUZZ_CHECK(!gr_ram_open(NULL, &ram));
	FUZZ_CHECK(!gr_block_new(ram, &opts, &block));
	FUZZ_CHECK(!gr_space_open(ram, "system", &space));
	FUZZ_CHECK(!gr_space_map(space, PAGE, block, 0, 4 * PAGE, GR_READ | GR_WRITE));
	gr_block_get_info(block, &info);
	if (filled) {
		memset((char *)info.host + PAGE, 'a', PAGE);
		memset((char *)info.host + 70 * PAGE, 'b', 2 * PAGE);
	}
	opts = (struct gr_block_opts){
		.name = "high", .backing = GR_BACKING_MEMFD, .length = 2 * PAGE};
	FUZZ_CHECK(!gr_block_new(ram, &opts, &block));
	return ram;
}

static int put_state(void *context, struct gr_snapshot_state *state)
{
	(void)context;
	return gr_snapshot_put_state(state, "cpu", "1234567", 7);
}

static void save(const char *path, unsigned options)
{
	static const struct gr_snapshot_ops ops = {.state = put_state};
	struct gr_snapshot_opts opts = {
		.layout = options & FEED_PACKED ? GR_SNAPSHOT_PACKED : GR_SNAPSHOT_MAPPED,
		.threads = 1,
		.ops = &ops,
	};
	struct gr_ram *ram = make_ram(true);

	FUZZ_CHECK(!gr_snapshot_save(ram, path, &opts, NULL));
	FUZZ_CHECK(!gr_ram_close(ram));
}

static uint64_t get_u64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return le64toh(value);
}

/* Hash and digest over what stands there now. */
static void put_right(uint8_t *file, uint64_t size, unsigned options)
{
	uint64_t tail = get_u64(file + offsetof(struct wire_header, tail)), hash;
	XXH128_canonical_t digest;
	XXH3_state_t state;

	if (!(options & FEED_BAD_DIGEST) && tail <= size) {
		XXH3_128bits_reset(&state);
		XXH3_128bits_update(&state, file, offsetof(struct wire_header, digest));
		XXH3_128bits_update(&state, file + tail, size - tail);
		XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(&state));
		memcpy(file + offsetof(struct wire_header, digest), &digest, sizeof(digest));
	}
	if (!(options & FEED_BAD_HASH)) {
		hash = htole64(XXH3_64bits(file, WIRE_HASH_AT));
		memcpy(file + WIRE_HASH_AT, &hash, sizeof(hash));
	}
}

static void change(const char *path, struct fuzz_input *in, unsigned options)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	off_t size = lseek(fd, 0, SEEK_END);
	uint64_t tail;
	uint8_t *file;

	FUZZ_CHECK(fd >= 0 && size > PAGE);
	file = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	FUZZ_CHECK(file != MAP_FAILED);
	tail = get_u64(file + offsetof(struct wire_header, tail));
	while (in->left) {
		uint16_t where = fuzz_u16(in);
		uint8_t bytes[255], count = fuzz_u8(in);
		/* the header, or what stands from the tail on */
		uint64_t at = where & 0x8000 ? where & 0x7fff : tail + where;

		fuzz_take(in, bytes, count);
		for (unsigned i = 0; i < count && at + i < (uint64_t)size; i++)
			file[at + i] = bytes[i];
	}
	put_right(file, (uint64_t)size, options);
	munmap(file, (size_t)size);
	if (options & FEED_CUT)
		FUZZ_CHECK(!ftruncate(fd, size - 1));
	if (options & FEED_GROW)
		FUZZ_CHECK(!ftruncate(fd, size + 48));
	close(fd);
}

/* All that can be asked of it; what is told and what is read agree. */
static void ask(struct gr_snapshot *snapshot, bool whole)
{
	static char buf[PAGES * PAGE];
	struct gr_page_source_info about;
	struct gr_snapshot_range range;
	struct gr_snapshot_block block;
	struct gr_snapshot_info info;
	struct gr_page_source source;
	uint64_t length, at, sum = 0;
	const uint8_t *bytes;
	const char *name;
	unsigned i, k, ranges;
	int rc, fd;

	FUZZ_CHECK(!gr_snapshot_get_info(snapshot, 0, &info));
	FUZZ_CHECK(!gr_snapshot_source(snapshot, &source));
	for (i = 0; !gr_snapshot_get_state(snapshot, i, &name, (const void **)&bytes, &length); i++)
		for (sum += strlen(name), at = 0; at < length; at++)
			sum += bytes[at];
	for (i = 0; !gr_snapshot_get_space(snapshot, i, &name, &ranges); i++)
		for (k = 0; k < ranges; k++)
			FUZZ_CHECK(!gr_snapshot_get_range(snapshot, i, k, &range));
	for (i = 0; !gr_snapshot_get_block(snapshot, i, &block); i++) {
		FUZZ_CHECK(source.ops->find(source.context, block.name, &about) == (int)i);
		for (at = 0, k = 0; at < block.length && k < 1000; at += length, k++) {
			int kind = gr_snapshot_look(snapshot, i, at, &length, NULL);

			FUZZ_CHECK(kind >= 0 && length && length <= block.length - at);
			if (length > sizeof(buf))
				break;
			rc = gr_snapshot_read(snapshot, i, at, buf, length);
			FUZZ_CHECK(!whole || !rc);
			if (!rc && !kind)
				FUZZ_CHECK(!buf[0] && !memcmp(buf, buf + 1, length - 1));
			source.ops->place(source.context, (int)i, at, &length, &fd, &about.chunk);
		}
	}
	FUZZ_SAY("sum %llu\n", (unsigned long long)sum);
}

static int told(const char *what, int rc)
{
	FUZZ_SAY("%s: %d %s\n", what, rc, rc ? gr_last_error() : "");
	FUZZ_CHECK_SAY(rc != -ENOMEM, "%s: %s\n", what, gr_last_error());
	return rc;
}

static void use(const char *path, const char *other)
{
	struct gr_snapshot_opts opts = {.threads = 1};
	struct gr_snapshot *snapshot;
	struct gr_ram *ram;
	int rc = told("open", gr_snapshot_open(path, NULL, &snapshot));

	if (rc)
		return;
	rc = told("verify", gr_snapshot_verify(snapshot, &opts, NULL));
	ask(snapshot, !rc);
	ram = make_ram(false);
	told("load", gr_snapshot_load(snapshot, ram, &opts, NULL));
	if (!told("convert", gr_snapshot_convert(snapshot, other, &opts, NULL))) {
		struct gr_snapshot *converted;

		rc = gr_snapshot_open(other, NULL, &converted);
		FUZZ_CHECK_SAY(!rc, "what was converted: %s\n", gr_last_error());
		FUZZ_CHECK(!gr_snapshot_verify(converted, &opts, NULL));
		gr_snapshot_close(converted);
		unlink(other);
	}
	gr_snapshot_close(snapshot);
	FUZZ_CHECK(!gr_ram_close(ram));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = {data, size};
	struct fuzz_ledger before = fuzz_ledger_now();
	unsigned options = fuzz_u8(&in);
	char path[100], other[110];

	snprintf(path, sizeof(path), "%s/guestram-fuzz-%d",
		 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", (int)getpid());
	snprintf(other, sizeof(other), "%s-other", path);
	save(path, options);
	change(path, &in, options);
	use(path, other);
	unlink(path);
	fuzz_ledger_check(&before);
	return 0;
}
