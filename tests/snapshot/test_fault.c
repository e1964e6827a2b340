/* SPDX-License-Identifier: MIT */
/*
 * Every system call and allocation of each call fails once, at position 1, 2, 3 …, until it gets
 * through. A save that fails leaves the old file as it was, no other, and all that was dirty dirty.
 *
 * Threads: the failing call may be a crew's.
 */
#include "../fault/nth.h"
#include "../fault/tally.h"
#include "world.h"
#include <guestram/plug.h>

static struct world world;
static struct gr_snapshot_chain *chain;
static struct gr_snapshot *opened;
static int stops, resumes;
static unsigned children; /* that were saved */

static void stop(void *context)
{
	stops++;
	write_page(world.high, 5, 55); /* nobody else writes: it is what is dirty late */
}

static void resume(void *context)
{
	resumes++;
}

static int state(void *context, struct gr_snapshot_state *to)
{
	int rc = gr_snapshot_put_state(to, "cpu", "1234", 4);

	return rc ? rc : gr_snapshot_put_state(to, "disk", "5678", 4);
}

static const struct gr_snapshot_ops running = {.stop = stop, .resume = resume, .state = state};

static int save_packed(void)
{
	struct gr_snapshot_opts opts = {.layout = GR_SNAPSHOT_PACKED, .threads = 1};

	return gr_snapshot_save(world.ram, file_at("saved"), &opts, NULL);
}

static int save_running(void)
{
	struct gr_snapshot_opts opts = {.threads = 2, .ops = &running, .max_pause_bytes = PAGE};

	return gr_snapshot_save(world.ram, file_at("saved"), &opts, NULL);
}

static int save_chain(void)
{
	struct gr_snapshot_opts opts = {
		.threads = 1, .chain = chain, .ops = &running, .layout = GR_SNAPSHOT_PACKED};
	char name[20];
	int rc;

	snprintf(name, sizeof(name), "child-%u", children);
	rc = gr_snapshot_save(world.ram, file_at(name), &opts, NULL);
	children += !rc;
	return rc;
}

static int convert(void)
{
	struct gr_snapshot_opts opts = {.threads = 1, .parent = opened};

	return gr_snapshot_convert(opened, file_at("saved"), &opts, NULL);
}

static int open_again(void)
{
	struct gr_snapshot_info info;
	struct gr_snapshot *snapshot;
	char page[PAGE];
	int rc = gr_snapshot_open(file_at("saved"), NULL, &snapshot);

	if (rc)
		return rc;
	rc = gr_snapshot_get_info(snapshot, 0, &info);
	if (!rc)
		rc = gr_snapshot_read(snapshot, 0, PAGE, page, PAGE);
	gr_snapshot_close(snapshot);
	return rc;
}

static int verify(void)
{
	return gr_snapshot_verify(opened, &(struct gr_snapshot_opts){.threads = 1}, NULL);
}

static int load(void)
{
	struct gr_snapshot_opts opts = {.threads = 1, .chain = chain};

	return gr_snapshot_load(opened, world.ram, &opts, NULL);
}

static int map(void)
{
	struct gr_block *block;
	struct gr_ram *ram;
	int rc = gr_ram_open(NULL, &ram);

	if (rc)
		return rc;
	rc = gr_snapshot_map_block(opened, ram, "low", NULL, &block);
	gr_ram_close(ram);
	return rc;
}

static int open_chain(void)
{
	struct gr_snapshot_chain *other;
	int rc = gr_snapshot_chain_open(world.ram, &other);

	return rc ? rc : gr_snapshot_chain_close(other);
}

static const struct {
	const char *what, *functions;
	int (*run)(void);
	bool saves;
} cases[] = {
	{"save, packed", "gr_snapshot_save", save_packed, true},
	{"save, running", "gr_snapshot_save gr_snapshot_put_state", save_running, true},
	{"save, chain", "gr_snapshot_save", save_chain, true},
	{"convert", "gr_snapshot_convert", convert, true},
	{"open", "gr_snapshot_open gr_snapshot_get_info gr_snapshot_read", open_again, false},
	{"verify", "gr_snapshot_verify", verify, false},
	{"load", "gr_snapshot_load", load, false},
	{"map", "gr_snapshot_map_block", map, false},
	{"chain", "gr_snapshot_chain_open gr_snapshot_chain_close", open_chain, false},
};

static uint64_t sum_of(const char *name)
{
	static uint64_t words[8192];
	FILE *file = fopen(file_at(name), "r");
	uint64_t sum = 0;
	size_t count, i;

	assert_non_null(file);
	while ((count = fread(words, 1, sizeof(words), file)))
		for (i = 0; i < count / 8; i++)
			sum = sum * 31 + words[i];
	fclose(file);
	return sum;
}

static void every_call_fails(void **unused)
{
	struct rng rng = {5};
	unsigned files, errors, lived;
	uint64_t sum;
	const char *call;
	int rc;

	world_open(&world);
	scribble(&world, &rng, 64);
	assert_ok(gr_snapshot_chain_open(world.ram, &chain));
	assert_ok(gr_snapshot_save(world.ram, file_at("other"),
				   &(struct gr_snapshot_opts){.chain = chain}, NULL));
	assert_ok(save_packed());
	opened = open_file("other");
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		errors = lived = 0;
		for (int n = 1;; n++) {
			write_page(world.low, 7, (uint64_t)n);
			files = files_there() - children;
			sum = sum_of("saved");
			stops = resumes = 0;
			arm(n);
			rc = cases[i].run();
			call = disarm();
			assert_int_equal(stops, resumes);
			if (files_there() - children != files)
				fail_msg("%s, %s: %u files, not %u", cases[i].what, call,
					 files_there() - children, files);
			if (rc && sum_of("saved") != sum)
				fail_msg("%s, %s: the old file is another", cases[i].what, call);
			if (!call) {
				assert_ok(rc);
				break;
			}
			tally_fault(cases[i].functions, call);
			errors += rc < 0;
			lived += !rc;
			if (cases[i].saves && !rc) {
				struct gr_snapshot *saved = open_file("saved");

				assert_ok(gr_snapshot_verify(saved, NULL, NULL));
				gr_snapshot_close(saved);
			}
		}
		print_message("%s: %u failed, %u went on\n", cases[i].what, errors, lived);
		assert_true(errors > 0);
	}
	/* after all that, a child has all that changed since its parent */
	scribble(&world, &rng, 20);
	assert_ok(save_chain());
	{
		struct world to;
		char name[20];

		snprintf(name, sizeof(name), "child-%u", children - 1);
		load_new(name, &to);
		assert_same_memory(&world, &to);
		world_close(&to);
	}
	gr_snapshot_close(opened);
	assert_ok(gr_snapshot_chain_close(chain));
	world_close(&world);
}

int main(void)
{
	static const char *const nothing[] = {
		"gr_snapshot_close",	 "gr_snapshot_find_block", "gr_snapshot_get_block",
		"gr_snapshot_get_range", "gr_snapshot_get_space",  "gr_snapshot_get_state",
		"gr_snapshot_locate",	 "gr_snapshot_look",	   "gr_snapshot_source",
	};
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_call_fails)};

	alarm(170);
	for (unsigned i = 0; i < COUNT_OF(nothing); i++)
		tally_nothing(nothing[i]);
	return cmocka_run_group_tests_name("snapshot: every fault", tests, folder_open,
					   folder_close);
}
