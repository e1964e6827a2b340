/* SPDX-License-Identifier: MIT */
/*
 * A block whose granules come and go (guestram/plug.h): what is unplugged is not read, takes no
 * memory and no time on the wire, and is zero on the other side.
 */
#include "pair.h"
#include <guestram/plug.h>
#include <sys/mman.h>

#define GRANULE (64 * KIB)
#define GRANULES 64
#define VMEM (GRANULES * GRANULE)

struct vmem {
	struct gr_block *block[2];
	struct gr_plug *plug[2];
	char *host[2];
};

/* The first granule is unplugged, so that nothing rests on it. */
static bool is_odd(uint64_t granule)
{
	return granule % 2;
}

static void open_vmem(struct pair *pair, struct vmem *vmem, bool receiver_too)
{
	const struct gr_block_opts opts = {
		.name = "vmem", .backing = GR_BACKING_MEMFD, .length = VMEM};
	const struct gr_plug_opts granules = {.granule = GRANULE};
	struct side *sides[2] = {&pair->from, &pair->to};

	for (unsigned i = 0; i < 2; i++) {
		vmem->plug[i] = NULL;
		assert_ok(gr_block_new(sides[i]->ram, &opts, &vmem->block[i]));
		vmem->host[i] = info_of(vmem->block[i]).host;
		if (i && !receiver_too)
			continue;
		assert_ok(gr_plug_open(vmem->block[i], &granules, &vmem->plug[i]));
		for (uint64_t n = 0; n < GRANULES; n++)
			if (is_odd(n))
				assert_ok(gr_plug_add(vmem->plug[i], n * GRANULE, GRANULE));
	}
	for (uint64_t n = 0; n < GRANULES; n++)
		if (is_odd(n))
			memset(vmem->host[0] + n * GRANULE, (int)n, GRANULE);
}

static void close_vmem(struct vmem *vmem)
{
	for (unsigned i = 0; i < 2; i++) {
		if (!vmem->plug[i])
			continue;
		assert_ok(gr_plug_remove_all(vmem->plug[i]));
		assert_ok(gr_plug_close(vmem->plug[i]));
	}
}

/* Does the file have memory in this granule? */
static bool has_memory(struct gr_block *block, uint64_t granule)
{
	off_t at = lseek(info_of(block).fd, (off_t)(granule * GRANULE), SEEK_DATA);

	return at >= 0 && (uint64_t)at < (granule + 1) * GRANULE;
}

static void check(struct vmem *vmem)
{
	static const char zero[GRANULE];

	for (uint64_t n = 0; n < GRANULES; n++) {
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(has_memory(vmem->block[i], n), is_odd(n));
		assert_memory_equal(vmem->host[1] + n * GRANULE,
				    is_odd(n) ? vmem->host[0] + n * GRANULE : zero, GRANULE);
	}
}

static void move(bool receiver_too, unsigned flags)
{
	struct vmem vmem;
	struct pair pair;

	pair_open(&pair, 2, PAIR_SOCKETS);
	open_vmem(&pair, &vmem, receiver_too);
	pair.from.opts.flags |= flags;
	pair_run(&pair);
	if (pair.from.rc || pair.to.rc)
		fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc, pair.to.why);
	check(&vmem);
	close_vmem(&vmem);
	pair_close(&pair);
}

static void both_sides_have_granules(void **unused)
{
	move(true, 0);
}

static void the_receiver_has_none(void **unused)
{
	move(false, 0);
}

static void a_block_may_be_switched(void **unused)
{
	move(true, GR_MIGRATE_POSTCOPY);
}

/*
 * Unplugged memory is not so much as looked at: here it cannot be, and whoever does gets SIGSEGV.
 * No file tells of its holes in this block.
 */
static void unplugged_memory_is_not_read(void **unused)
{
	const struct gr_block_opts opts = {.name = "blind", .length = VMEM, .flags = GR_PREALLOC};
	const struct gr_plug_opts granules = {.granule = GRANULE};
	struct gr_block *here, *there;
	struct gr_plug *plug;
	struct pair pair;
	char *host;

	pair_open(&pair, 1, PAIR_SOCKETS);
	assert_ok(gr_block_new(pair.from.ram, &opts, &here));
	assert_ok(gr_block_new(pair.to.ram, &opts, &there));
	assert_ok(gr_plug_open(here, &granules, &plug));
	assert_ok(gr_plug_add(plug, 3 * GRANULE, GRANULE));
	host = info_of(here).host;
	memset(host, 0x11, VMEM); /* nobody should, but it shows who reads it */
	assert_int_equal(mprotect(host, 3 * GRANULE, PROT_NONE), 0);
	memset(info_of(there).host, 0xee, VMEM);
	pair_run(&pair);
	assert_int_equal(pair.from.rc, 0);
	assert_int_equal(mprotect(host, 3 * GRANULE, PROT_READ | PROT_WRITE), 0);
	host = info_of(there).host;
	for (uint64_t at = 0; at < VMEM; at++)
		if (host[at] != (at / GRANULE == 3 ? 0x11 : 0))
			fail_msg("%#llx is %#x", (unsigned long long)at, host[at]);
	assert_ok(gr_plug_remove_all(plug));
	assert_ok(gr_plug_close(plug));
	pair_close(&pair);
}

/* Bytes for a granule that is unplugged there would be lost when it is plugged. */
static void other_granules_are_refused(void **unused)
{
	struct vmem vmem;
	struct pair pair;

	pair_open(&pair, 2, PAIR_SOCKETS);
	open_vmem(&pair, &vmem, true);
	assert_ok(gr_plug_remove(vmem.plug[1], 5 * GRANULE, GRANULE));
	pair_run(&pair);
	assert_int_equal(pair.to.rc, -EINVAL);
	assert_non_null(strstr(pair.to.why, "block vmem: at 0x50000 granules are plugged there"));
	assert_int_equal(pair.from.stats.guest, GR_GUEST_HERE);
	assert_one_guest(&pair);
	close_vmem(&vmem);
	pair_close(&pair);
}

static int unplug_one(void *context, const struct gr_migrate_stats *stats)
{
	struct vmem *vmem = context;

	if (vmem->plug[0] && stats->rounds == 1 && gr_plug_is(vmem->plug[0], GRANULE, GRANULE)) {
		assert_ok(gr_plug_remove(vmem->plug[0], GRANULE, GRANULE));
		assert_ok(gr_plug_remove(vmem->plug[1], GRANULE, GRANULE));
	}
	return 0;
}

/* On both sides, after its bytes were sent. */
static void a_granule_that_goes_meanwhile(void **unused)
{
	const struct gr_migrate_ops ops = {.progress = unplug_one};
	struct vmem vmem;
	struct pair pair;

	pair_open(&pair, 1, PAIR_SOCKETS);
	open_vmem(&pair, &vmem, true);
	pair.from.opts.ops = &ops;
	pair.from.opts.context = &vmem;
	pair_run(&pair);
	if (pair.from.rc || pair.to.rc)
		fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc, pair.to.why);
	assert_true(pair.from.stats.rounds >= 2);
	assert_false(gr_plug_is(vmem.plug[0], GRANULE, GRANULE));
	for (uint64_t at = 0; at < GRANULE; at++)
		assert_int_equal(vmem.host[1][GRANULE + at], 0);
	close_vmem(&vmem);
	pair_close(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_sides_have_granules),
		cmocka_unit_test(the_receiver_has_none),
		cmocka_unit_test(a_block_may_be_switched),
		cmocka_unit_test(unplugged_memory_is_not_read),
		cmocka_unit_test(other_granules_are_refused),
		cmocka_unit_test(a_granule_that_goes_meanwhile),
	};

	alarm(170);
	return cmocka_run_group_tests_name("migrate: plugged", tests, NULL, NULL);
}
