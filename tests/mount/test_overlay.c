/* SPDX-License-Identifier: MIT */
/*
 * What a mount reads and writes, without a mount: the cache before a page source, and clones'
 * writes over it, compared byte by byte with plain memory.
 *
 * Threads: those of a test check what they read themselves, and count what is wrong.
 */
#include "../fault/nth.h"
#include "mount/overlay.h"
#include "mount/tree.h"
#include "testing.h"

enum { CHUNK = 16384 };
#define LENGTH (64 * PAGE)

/* Data and zeroes by turns of three pages; what the bytes are follows from where they stand. */
struct fake {
	struct gr_page_source source;
	uint64_t chunk;
	int reads;	   /* atomic */
	int fail;	   /* atomic: reads end in this */
	int break_look;	   /* look() gives lengths that it must not */
	struct gate *slow; /* a read waits for it */
};

static bool is_data(uint64_t offset)
{
	return offset / PAGE / 3 % 2 == 0;
}

static char byte_at(uint64_t offset)
{
	return is_data(offset) ? (char)(1 + (offset * 7 + offset / PAGE) % 251) : 0;
}

static int fake_find(void *context, const char *name, struct gr_page_source_info *info)
{
	const struct fake *fake = context;

	if (!strcmp(name, "none"))
		return -ENOENT;
	*info = (struct gr_page_source_info){.length = LENGTH, .chunk = fake->chunk};
	return !strcmp(name, "odd") ? 1 : 0;
}

static int fake_look(void *context, int block, uint64_t offset, uint64_t *length)
{
	const struct fake *fake = context;
	uint64_t run = 3 * PAGE - offset % (3 * PAGE);

	(void)block;
	if (fake->break_look) {
		*length = fake->break_look > 0 ? 0 : LENGTH + PAGE;
		return GR_PAGES_ZERO;
	}
	*length = run < *length ? run : *length;
	return is_data(offset) ? GR_PAGES_DATA : GR_PAGES_ZERO;
}

static int fake_read(void *context, int block, uint64_t offset, void *buf, uint64_t length)
{
	struct fake *fake = context;
	int rc = get(&fake->fail);
	uint64_t n;

	(void)block;
	__atomic_add_fetch(&fake->reads, 1, __ATOMIC_SEQ_CST);
	if (fake->slow && !gate_wait(fake->slow))
		return -ETIMEDOUT;
	/* what the interface promises to a source */
	if (rc || offset % PAGE || length % PAGE || !length || offset + length > LENGTH)
		return rc ? rc : -EINVAL;
	for (n = 0; n < length; n++)
		((char *)buf)[n] = byte_at(offset + n);
	return 0;
}

static const struct gr_page_source_ops fake_ops = {
	.find = fake_find, .look = fake_look, .read = fake_read};

static struct gr__mount_base *base_of(struct fake *fake, uint64_t cache)
{
	struct gr__mount_base *base;

	fake->source = (struct gr_page_source){&fake_ops, fake};
	assert_int_equal(gr__mount_base_new(&fake->source, fake->chunk, cache, &base), 0);
	return base;
}

static struct gr__mount_block block_of(const struct fake *fake)
{
	return (struct gr__mount_block){"ram", 0, LENGTH, fake->chunk};
}

static bool is_base(const char *buf, uint64_t offset, uint64_t length)
{
	uint64_t n;

	for (n = 0; n < length; n++) {
		if (buf[n] != byte_at(offset + n))
			return false;
	}
	return true;
}

/* ------------------------------------------------------------------------------------------- base
 */

static void base_any_offset(void **state)
{
	static const uint64_t chunks[] = {0, CHUNK};
	struct rng rng = {seed_of_the_day()};
	static char buf[LENGTH];
	size_t c;
	int n;

	(void)state;
	for (c = 0; c < COUNT_OF(chunks); c++) {
		struct fake fake = {.chunk = chunks[c]};
		struct gr__mount_block block = block_of(&fake);
		struct gr__mount_base *base = base_of(&fake, 0);

		for (n = 0; n < 2000; n++) {
			uint64_t offset = rng_below(&rng, LENGTH),
				 length = rng_below(&rng, LENGTH - offset + 1);

			memset(buf, 0x55, sizeof(buf));
			assert_int_equal(gr__mount_base_read(base, &block, offset, buf, length), 0);
			assert_true(is_base(buf, offset, length));
			assert_true(length == LENGTH || buf[length] == 0x55);
		}
		gr__mount_base_free(base);
	}
}

/* Zeroes are not asked for, chunks once while there is room, and again when there is none. */
static void base_cache(void **state)
{
	struct fake fake = {.chunk = CHUNK};
	struct gr__mount_block block = block_of(&fake);
	struct gr__mount_base *base = base_of(&fake, 4 * CHUNK);
	char buf[PAGE];
	int round, i;

	(void)state;
	assert_int_equal(gr__mount_base_read(base, &block, 3 * PAGE, buf, PAGE), 0);
	assert_int_equal(fake.reads, 0);
	for (round = 0; round < 10; round++) {
		for (i = 0; i < 4; i++)
			assert_int_equal(gr__mount_base_read(base, &block, (uint64_t)i * 6 * PAGE,
							     buf, PAGE),
					 0);
	}
	assert_int_equal(fake.reads, 4);
	/* a fifth one takes the place of the oldest, the first */
	assert_int_equal(gr__mount_base_read(base, &block, 36 * PAGE, buf, PAGE), 0);
	assert_int_equal(gr__mount_base_read(base, &block, 18 * PAGE, buf, PAGE), 0);
	assert_int_equal(fake.reads, 5);
	assert_int_equal(gr__mount_base_read(base, &block, 0, buf, PAGE), 0);
	assert_int_equal(fake.reads, 6);
	gr__mount_base_free(base);
}

static void base_failing(void **state)
{
	static const uint64_t chunks[] = {0, CHUNK};
	char buf[2 * PAGE];
	size_t c;

	(void)state;
	for (c = 0; c < COUNT_OF(chunks); c++) {
		struct fake fake = {.chunk = chunks[c], .fail = -ENETDOWN};
		struct gr__mount_block block = block_of(&fake);
		struct gr__mount_base *base = base_of(&fake, 2 * CHUNK);

		assert_int_equal(gr__mount_base_read(base, &block, 100, buf, PAGE), -ENETDOWN);
		assert_int_equal(gr__mount_base_read(base, &block, 0, buf, 2 * PAGE), -ENETDOWN);
		/* it is asked anew, and what it says then is kept */
		set(&fake.fail, 0);
		assert_int_equal(gr__mount_base_read(base, &block, 100, buf, PAGE), 0);
		assert_true(is_base(buf, 100, PAGE));
		/* a source that says nothing of some bytes is no endless loop, nor one of too many
		 */
		fake.break_look = 1;
		assert_int_equal(gr__mount_base_read(base, &block, 0, buf, PAGE), -EIO);
		fake.break_look = -1;
		assert_int_equal(gr__mount_base_read(base, &block, 0, buf, PAGE), -EIO);
		gr__mount_base_free(base);
	}
}

struct reader {
	struct gr__mount_base *base;
	struct gr__mount_block block;
	uint64_t offset;
	int rc;
};

static void *read_one(void *arg)
{
	struct reader *reader = arg;
	char buf[PAGE];

	reader->rc = gr__mount_base_read(reader->base, &reader->block, reader->offset, buf, PAGE);
	if (!reader->rc && !is_base(buf, reader->offset, PAGE))
		reader->rc = -EBADMSG;
	return NULL;
}

/* Six that want one chunk while it is read: one read, which all of them get, or its error. */
static void base_one_read_for_all(void **state)
{
	enum { READERS = 6 };
	int fail;

	(void)state;
	for (fail = 0; fail < 2; fail++) {
		struct gate gate;
		struct fake fake = {.chunk = CHUNK, .slow = &gate, .fail = fail ? -EIO : 0};
		struct gr__mount_base *base = base_of(&fake, 2 * CHUNK);
		struct reader readers[READERS];
		pthread_t threads[READERS];
		int i;

		gate_init(&gate);
		for (i = 0; i < READERS; i++) {
			readers[i] =
				(struct reader){base, block_of(&fake), (uint64_t)(i % 3) * PAGE, 1};
			threads[i] = thread_start(read_one, &readers[i]);
		}
		assert_true(wait_until(get(&fake.reads) == 1));
		sleep_us(20000);
		gate_open(&gate);
		/* one that came too late to wait may ask again after a failure */
		for (i = 0; fail && i < READERS; i++)
			gate_open(&gate);
		for (i = 0; i < READERS; i++) {
			thread_join(threads[i]);
			assert_int_equal(readers[i].rc, fail ? -EIO : 0);
		}
		if (!fail)
			assert_int_equal(fake.reads, 1);
		gr__mount_base_free(base);
	}
}

struct crowd {
	struct gr__mount_base *base;
	struct gr__mount_block block;
	uint64_t seed;
	int wrong; /* atomic */
};

static void *read_many(void *arg)
{
	struct crowd *crowd = arg;
	struct rng rng = {__atomic_add_fetch(&crowd->seed, 1, __ATOMIC_SEQ_CST)};
	char buf[3 * PAGE];
	int n;

	for (n = 0; n < 3000; n++) {
		uint64_t offset = rng_below(&rng, LENGTH - sizeof(buf));

		if (gr__mount_base_read(crowd->base, &crowd->block, offset, buf, sizeof(buf)) ||
		    !is_base(buf, offset, sizeof(buf)))
			__atomic_add_fetch(&crowd->wrong, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* More threads than slots: each gets one in the end. */
static void base_crowd(void **state)
{
	struct fake fake = {.chunk = CHUNK};
	struct crowd crowd = {base_of(&fake, 0), block_of(&fake), seed_of_the_day(), 0};
	pthread_t threads[6];
	size_t i;

	(void)state;
	for (i = 0; i < COUNT_OF(threads); i++)
		threads[i] = thread_start(read_many, &crowd);
	for (i = 0; i < COUNT_OF(threads); i++)
		thread_join(threads[i]);
	assert_int_equal(crowd.wrong, 0);
	gr__mount_base_free(crowd.base);
}

/* ---------------------------------------------------------------------------------------- overlay
 */

/* Random reads, writes and holes, whole pages or not, against plain memory. */
static void overlay_model(void **state)
{
	static char model[LENGTH], buf[LENGTH];
	struct fake fake = {.chunk = CHUNK};
	struct gr__mount_block block = block_of(&fake);
	struct gr__mount_base *base = base_of(&fake, 2 * CHUNK);
	struct gr__mount_overlay *overlay, *other;
	struct rng rng = {seed_of_the_day()};
	uint64_t n, written = 0;
	int i;

	(void)state;
	assert_int_equal(gr__mount_overlay_new(NULL, base, &block, &overlay), 0);
	assert_int_equal(gr__mount_overlay_new("/tmp", base, &block, &other), 0);
	for (n = 0; n < LENGTH; n++)
		model[n] = byte_at(n);
	for (i = 0; i < 4000; i++) {
		bool whole = rng_one_in(&rng, 2);
		uint64_t unit = whole ? PAGE : 1, offset = rng_below(&rng, LENGTH / unit) * unit,
			 most = LENGTH - offset > 5 * PAGE ? 5 * PAGE : LENGTH - offset,
			 length = (1 + rng_below(&rng, most / unit)) * unit;

		if (rng_one_in(&rng, 3)) {
			memset(buf, (int)rng_below(&rng, 256), length);
			assert_int_equal(gr__mount_overlay_write(overlay, offset, buf, length), 0);
			memcpy(model + offset, buf, length);
		} else if (rng_one_in(&rng, 8)) {
			assert_int_equal(gr__mount_overlay_punch(overlay, offset, length), 0);
			memset(model + offset, 0, length);
		} else {
			assert_int_equal(gr__mount_overlay_read(overlay, offset, buf, length), 0);
			assert_memory_equal(buf, model + offset, length);
		}
		if (i == 20)
			written = gr__mount_overlay_bytes(overlay);
	}
	assert_true(written > 0 && written < LENGTH);
	assert_true(gr__mount_overlay_bytes(overlay) <= LENGTH);
	/* what look() calls zero is */
	for (n = 0; n < LENGTH;) {
		uint64_t run;
		int kind = gr__mount_overlay_look(overlay, n, &run);

		assert_true(kind >= 0 && run > 0 && run <= LENGTH - n && run % PAGE == 0);
		for (; run--; n++)
			assert_true(kind == GR_PAGES_DATA || !model[n]);
	}
	/* nothing of it in its neighbour */
	assert_int_equal(gr__mount_overlay_bytes(other), 0);
	assert_int_equal(gr__mount_overlay_read(other, 0, buf, LENGTH), 0);
	assert_true(is_base(buf, 0, LENGTH));
	gr__mount_overlay_free(overlay);
	gr__mount_overlay_free(other);
	gr__mount_base_free(base);
}

static int fail_write(const char *call)
{
	return !strcmp(call, "file.write") ? ENOSPC : 0;
}

/* A page whose write-back failed is an error, never what it was before, until it is written anew.
 */
static void overlay_lost_pages(void **state)
{
	struct fake fake = {.chunk = CHUNK};
	struct gr__mount_block block = block_of(&fake);
	struct gr__mount_base *base = base_of(&fake, 2 * CHUNK);
	struct gr__mount_overlay *overlay;
	char buf[4 * PAGE] = {1};

	(void)state;
	assert_int_equal(gr__mount_overlay_new(NULL, base, &block, &overlay), 0);
	assert_int_equal(gr__mount_overlay_write(overlay, 0, buf, PAGE), 0);
	gr__hook_fault = fail_write;
	/* the end of page 0, pages 1 and 2, the beginning of page 3 */
	assert_int_equal(gr__mount_overlay_write(overlay, PAGE - 8, buf, 2 * PAGE + 16), -ENOSPC);
	gr__hook_fault = NULL;
	assert_int_equal(gr__mount_overlay_read(overlay, 0, buf, 1), -EIO);
	assert_int_equal(gr__mount_overlay_read(overlay, 2 * PAGE, buf, 1), -EIO);
	assert_int_equal(gr__mount_overlay_read(overlay, 3 * PAGE + 100, buf, 1), -EIO);
	assert_int_equal(gr__mount_overlay_read(overlay, 4 * PAGE, buf, PAGE), 0);
	/* a piece of it does not make it whole */
	assert_int_equal(gr__mount_overlay_write(overlay, 2 * PAGE, buf, 100), -EIO);
	assert_int_equal(gr__mount_overlay_write(overlay, 0, buf, 4 * PAGE), 0);
	assert_int_equal(gr__mount_overlay_read(overlay, 0, buf, 4 * PAGE), 0);
	/* a source that fails under the first piece of a page loses it, too */
	set(&fake.fail, -EIO);
	assert_int_equal(gr__mount_overlay_write(overlay, 37 * PAGE, buf, 100), -EIO);
	set(&fake.fail, 0);
	assert_int_equal(gr__mount_overlay_read(overlay, 37 * PAGE, buf, 1), -EIO);
	assert_int_equal(gr__mount_overlay_punch(overlay, 37 * PAGE, PAGE), 0);
	assert_int_equal(gr__mount_overlay_read(overlay, 37 * PAGE, buf, 1), 0);
	gr__mount_overlay_free(overlay);
	gr__mount_base_free(base);
}

struct writer {
	struct gr__mount_overlay *overlay;
	uint64_t which; /* each has every fourth piece of 64 bytes */
	int wrong;
};

static void *write_pieces(void *arg)
{
	struct writer *writer = arg;
	char buf[64], back[64];
	uint64_t at;

	memset(buf, (int)(0x80 + writer->which), sizeof(buf));
	for (at = writer->which * 64; at < LENGTH; at += 256) {
		if (gr__mount_overlay_write(writer->overlay, at, buf, sizeof(buf)) ||
		    gr__mount_overlay_read(writer->overlay, at, back, sizeof(back)) ||
		    memcmp(buf, back, sizeof(buf)) != 0)
			writer->wrong++;
	}
	return NULL;
}

/* Pieces of the same pages at once: the first write of one does not undo another's. */
static void overlay_writers(void **state)
{
	struct fake fake = {.chunk = 0};
	struct gr__mount_block block = block_of(&fake);
	struct gr__mount_base *base = base_of(&fake, 0);
	static char buf[LENGTH];
	int round, i;
	uint64_t n;

	(void)state;
	for (round = 0; round < 20; round++) {
		struct gr__mount_overlay *overlay;
		struct writer writers[4];
		pthread_t threads[4];

		assert_int_equal(gr__mount_overlay_new(NULL, base, &block, &overlay), 0);
		for (i = 0; i < 4; i++) {
			writers[i] = (struct writer){overlay, (uint64_t)i, 0};
			threads[i] = thread_start(write_pieces, &writers[i]);
		}
		for (i = 0; i < 4; i++) {
			thread_join(threads[i]);
			assert_int_equal(writers[i].wrong, 0);
		}
		assert_int_equal(gr__mount_overlay_read(overlay, 0, buf, LENGTH), 0);
		for (n = 0; n < LENGTH; n++)
			assert_int_equal((unsigned char)buf[n], 0x80 + n / 64 % 4);
		gr__mount_overlay_free(overlay);
	}
	gr__mount_base_free(base);
}

/* ------------------------------------------------------------------------------------------- tree
 */

static const char *const names[] = {"ram", "a/b%", "state", "clone-1", "odd", ".."};
static const struct gr__mount_state states[] = {{"qemu", "bytes", 5}, {"x/y", "", 0}};

static struct gr__mount_opts opts_of(struct fake *fake)
{
	fake->source = (struct gr_page_source){&fake_ops, fake};
	return (struct gr__mount_opts){
		.source = &fake->source,
		.blocks = names,
		.block_count = COUNT_OF(names),
		.states = states,
		.state_count = COUNT_OF(states),
		.clones = 3,
		.cache = MIB,
	};
}

/* Every name leads to its number, every number to its node, and no name is there twice. */
static void tree_names(void **state)
{
	static const char *const shown[] = {"ram",  "a%2Fb%25", "%73tate", "%63lone-1", "odd",
					    "%2E.", "state",	"clone-1", "clone-2",	"clone-3"};
	const struct gr__mount_node root = {GR__MOUNT_ROOT, 0, 0};
	struct gr__mount_node node, folder;
	struct fake fake = {.chunk = CHUNK};
	struct gr__mount_opts opts = opts_of(&fake);
	struct gr__mount_tree tree;
	char name[256];
	uint64_t n, number;

	(void)state;
	assert_int_equal(gr__mount_tree_init(&tree, &opts), 0);
	for (n = 0; gr__mount_child(&tree, root, n, &node, name); n++) {
		assert_true(n < COUNT_OF(shown));
		assert_string_equal(name, shown[n]);
		assert_true(gr__mount_find(&tree, root, name, &folder));
		assert_memory_equal(&node, &folder, sizeof(node));
	}
	assert_int_equal(n, COUNT_OF(shown));
	assert_true(gr__mount_find(&tree, root, "clone-3", &folder));
	assert_true(gr__mount_find(&tree, folder, "odd", &node));
	assert_int_equal(node.kind, GR__MOUNT_CLONE_FILE);
	assert_int_equal(node.clone, 2);
	assert_int_equal(node.item, 4);
	assert_false(gr__mount_find(&tree, folder, "state", &node));
	assert_true(gr__mount_find(&tree, root, "state", &folder));
	assert_true(gr__mount_find(&tree, folder, "x%2Fy", &node));
	assert_false(gr__mount_find(&tree, folder, "ram", &node));
	assert_false(gr__mount_find(&tree, root, "clone-0", &node));
	assert_false(gr__mount_find(&tree, root, "clone-4", &node));
	assert_false(gr__mount_find(&tree, root, "clone-01", &node));
	assert_false(gr__mount_find(&tree, root, "clone-18446744073709551615", &node));
	for (number = 0; number < 64; number++) {
		node = gr__mount_node_of(&tree, number);
		if (node.kind != GR__MOUNT_NONE)
			assert_int_equal(gr__mount_number_of(&tree, node), number);
		else
			assert_true(number < 16 || number >= 16 + 6 + 2 + 3 + 18);
	}
	assert_int_equal(gr__mount_node_of(&tree, UINT64_MAX).kind, GR__MOUNT_NONE);
	gr__mount_tree_fini(&tree);
}

/* Each call fails once: nothing is left, not a descriptor. */
static void tree_faults(void **state)
{
	struct fake fake = {.chunk = CHUNK};
	struct gr__mount_opts opts = opts_of(&fake);
	struct gr__mount_tree tree;
	unsigned fds = open_fds();
	const char *call;
	int nth, rc;

	(void)state;
	for (nth = 1;; nth++) {
		arm(nth);
		rc = gr__mount_tree_init(&tree, &opts);
		call = disarm();
		gr__mount_tree_fini(&tree);
		assert_int_equal(open_fds(), fds);
		if (!call)
			break;
		assert_int_equal(rc, -ENOMEM);
	}
	assert_int_equal(rc, 0);
	assert_true(nth > 50);
	opts.blocks = (const char *const[]){"ram", "none"};
	opts.block_count = 2;
	assert_int_equal(gr__mount_tree_init(&tree, &opts), -ENOENT);
	gr__mount_tree_fini(&tree);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(base_any_offset),    cmocka_unit_test(base_cache),
		cmocka_unit_test(base_failing),	      cmocka_unit_test(base_one_read_for_all),
		cmocka_unit_test(base_crowd),	      cmocka_unit_test(overlay_model),
		cmocka_unit_test(overlay_lost_pages), cmocka_unit_test(overlay_writers),
		cmocka_unit_test(tree_names),	      cmocka_unit_test(tree_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
