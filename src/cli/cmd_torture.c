/* SPDX-License-Identifier: MIT */
/*
 * `guestram torture`: options, the run, the verdict. What is checked and why it raises no false
 * alarms stands in torture.h.
 *
 * Threads: main starts readers and writers, shows progress, stops and joins them, then drains and
 * counts what is left.
 */
#include "bench.h"
#include "cli.h"
#include "out.h"
#include "torture.h"
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_SECONDS = 256, KEY_READERS, KEY_WRITERS, KEY_SEED, KEY_BASELINE, KEY_JSON };

/* AddressSanitizer and ThreadSanitizer keep memory back: growth is theirs, and not judged. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RSS_JUDGED false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define RSS_JUDGED false
#endif
#endif
#ifndef RSS_JUDGED
#define RSS_JUDGED true
#endif

/* More than what the C library keeps for threads that have gone. */
enum { RSS_SLACK_KIB = 8192, DRAIN_MS = 30000 };

struct verdict {
	double seconds;
	uint64_t leaked_blocks;
	long leaked_fds;
	long rss_growth_kib;
	double p50, p99; /* us */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct torture_options *options = state->input;

	switch (key) {
	case KEY_SECONDS:
		options->seconds = (int)cli_number(state, "--seconds", arg, 1, 1000000);
		return 0;
	case KEY_READERS:
		options->readers = (int)cli_number(state, "--readers", arg, 1, TORTURE_THREADS);
		return 0;
	case KEY_WRITERS:
		options->writers = (int)cli_number(state, "--writers", arg, 1, TORTURE_THREADS);
		return 0;
	case KEY_SEED:
		options->seed = cli_number(state, "--seed", arg, 0, UINT64_MAX);
		return 0;
	case KEY_BASELINE:
		if (strcmp(arg, "shared-mru") != 0)
			cli_usage(state, "no such baseline: %s (there is shared-mru)", arg);
#ifndef CLI_BASELINE
		cli_usage(state, "--baseline: this program was built without baselines");
#endif
		options->baseline = arg;
		return 0;
	case KEY_JSON:
		options->json = true;
		return 0;
	case ARGP_KEY_ARG:
		cli_usage(state, "it takes no argument: %s", arg);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void reclaimed(void *context, const struct gr_block_info *info)
{
	struct world *world = context;
	struct desc *desc = info->user;

	torture_count(&world->reclaims, 1);
	if (info->backing != GR_BACKING_CALLER)
		__atomic_store_n(&desc->state, DESC_RELEASED, __ATOMIC_RELAXED);
	else if (__atomic_load_n(&desc->state, __ATOMIC_RELAXED) != DESC_RELEASED)
		world_error(world, 0, "reclaimed without its release callback");
	world_leave(world, desc);
}

static int guestram_open(struct world *world)
{
	static const struct gr_listener_ops ops = {.block_reclaimed = reclaimed};
	/* bounded, so that writers cannot run away from reclaim */
	struct gr_ram_opts opts = {.max_pending = UINT64_C(256) << 20};
	static const char *const names[SPACES] = {"guest", "alias", "table"};
	int rc, i;

	rc = gr_ram_open(&opts, &world->ram);
	for (i = 0; i < SPACES && !rc; i++)
		rc = gr_space_open(world->ram, names[i], &world->space[i]);
	if (!rc)
		rc = gr_listener_open(world->ram, &ops, world, 0, &world->listener);
	if (!rc)
		rc = torture_table_init(world);
	if (rc < 0) {
		cli_fail_gr(rc, "torture: an empty RAM");
		gr_ram_close(world->ram);
	}
	return rc;
}

/* All is deleted and reclaimed, or it is a leak. */
static void guestram_close(struct world *world, struct verdict *verdict)
{
	struct gr_ram_stats stats;
	int rc;

	torture_table_fini(world);
	rc = gr_ram_drain(world->ram, DRAIN_MS);
	if (rc < 0)
		world_error(world, rc, "gr_ram_drain at the end");
	gr_ram_get_stats(world->ram, &stats);
	verdict->leaked_blocks = stats.blocks + stats.blocks_pending;
	if (verdict->leaked_blocks)
		return; /* closing would wait for them */
	if (stats.ranges || stats.pins)
		world_error(world, 0, "ranges or pins are left at the end");
	rc = gr_listener_close(world->listener);
	if (rc < 0)
		world_error(world, rc, "gr_listener_close");
	rc = gr_ram_close(world->ram);
	if (rc < 0)
		world_error(world, rc, "gr_ram_close");
}

static void show_progress(struct world *world, double elapsed)
{
	out_progress(
		"torture: %.0f of %d s, %llu lookups, %llu removals, %llu reclaims, %llu stale",
		elapsed / 1e9, world->options->seconds,
		(unsigned long long)torture_read(&world->lookups),
		(unsigned long long)torture_read(&world->removals),
		(unsigned long long)torture_read(&world->reclaims),
		(unsigned long long)torture_read(&world->stale));
}

/* Starts all threads, waits, stops and joins them. 0 or -errno when one could not be started. */
static int run_threads(struct world *world, void *(*reader)(void *), void *(*writer)(void *),
		       double *seconds)
{
	static struct torture_thread thread[2 * TORTURE_THREADS];
	const struct torture_options *options = world->options;
	int all = options->readers + options->writers, started, i, rc = 0;
	double begin = bench_now();

	for (started = 0; started < all; started++) {
		struct torture_thread *t = &thread[started];
		bool reads = started < options->readers;

		t->world = world;
		t->number = reads ? started : started - options->readers;
		rc = pthread_create(&t->id, NULL, reads ? reader : writer, t);
		if (rc)
			break;
	}
	while (!rc && bench_now() - begin < options->seconds * 1e9) {
		usleep(50000);
		show_progress(world, bench_now() - begin);
	}
	__atomic_store_n(&world->stop, true, __ATOMIC_RELAXED);
	*seconds = (bench_now() - begin) / 1e9;
	for (i = 0; i < started; i++)
		pthread_join(thread[i].id, NULL);
	out_progress_end();
	return -rc;
}

static void count_graces(struct world *world, struct verdict *verdict)
{
	uint64_t all = torture_read(&world->graces);
	int count = all < TORTURE_SAMPLES ? (int)all : TORTURE_SAMPLES;

	verdict->p50 = bench_percentile(world->grace, count, 0.5);
	verdict->p99 = bench_percentile(world->grace, count, 0.99);
}

static int torture(struct world *world, struct verdict *verdict)
{
	int rc;

	torture_guard_install();
#ifdef CLI_BASELINE
	if (world->options->baseline) {
		rc = baseline_open(world);
		if (!rc)
			rc = run_threads(world, baseline_reader, baseline_writer,
					 &verdict->seconds);
		if (rc < 0)
			return cli_fail(rc, "torture: a thread"), rc;
		baseline_close(world);
		verdict->leaked_blocks = world->created - world->reclaims;
		count_graces(world, verdict);
		return 0;
	}
#endif
	rc = guestram_open(world);
	if (rc < 0)
		return rc;
	rc = run_threads(world, torture_reader, torture_writer, &verdict->seconds);
	if (rc < 0)
		cli_fail(rc, "torture: a thread");
	guestram_close(world, verdict);
	if (world->created - world->reclaims > verdict->leaked_blocks)
		verdict->leaked_blocks = world->created - world->reclaims;
	count_graces(world, verdict);
	return rc;
}

static json_t *report(const struct world *world, const struct verdict *verdict)
{
	const struct torture_options *options = world->options;

	return json_pack(
		"{s:s?, s:f, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:f, s:f}, s:f, "
		"s:I, s:s?, s:s?, s:s?}",
		"baseline", options->baseline, "seconds", verdict->seconds, "readers",
		options->readers, "writers", options->writers, "seed", (json_int_t)options->seed,
		"lookups", (json_int_t)world->lookups, "removals", (json_int_t)world->removals,
		"reclaims", (json_int_t)world->reclaims, "stale", (json_int_t)world->stale,
		"leaked_blocks", (json_int_t)verdict->leaked_blocks, "leaked_fds",
		(json_int_t)verdict->leaked_fds, "rss_growth_kib",
		(json_int_t)verdict->rss_growth_kib, "grace_us", "p50", verdict->p50, "p99",
		verdict->p99, "lookups_per_second", (double)world->lookups / verdict->seconds,
		"errors", (json_int_t)world->errors, "first_stale",
		world->stale ? world->first_stale : NULL, "first_error",
		world->errors ? world->first_error : NULL, "note",
		options->baseline ? "a hook widens the window between finding a block and caching "
				    "it"
				  : NULL);
}

static void print_text(const struct world *world, const struct verdict *v)
{
	const struct torture_options *options = world->options;

	printf("torture of %s: %.1f s, %d readers, %d writers, seed %llu\n",
	       options->baseline ? options->baseline : "guestram", v->seconds, options->readers,
	       options->writers, (unsigned long long)options->seed);
	if (options->baseline)
		puts("  (a hook widens the window between finding a block and caching it)");
	printf("  lookups        %llu (%.3g in a second)\n", (unsigned long long)world->lookups,
	       (double)world->lookups / v->seconds);
	printf("  removals       %llu, reclaims %llu\n", (unsigned long long)world->removals,
	       (unsigned long long)world->reclaims);
	printf("  unlink to release, us  p50 %.1f, p99 %.1f\n", v->p50, v->p99);
	printf("  stale          %llu%s%s\n", (unsigned long long)world->stale,
	       world->stale ? "; the first: " : "", world->stale ? world->first_stale : "");
	printf("  leaked         %llu blocks, %ld descriptors; RSS grew by %ld KiB\n",
	       (unsigned long long)v->leaked_blocks, v->leaked_fds, v->rss_growth_kib);
	printf("  errors         %llu%s%s\n", (unsigned long long)world->errors,
	       world->errors ? "; the first: " : "", world->errors ? world->first_error : "");
}

/* Prints the verdict and returns the exit code. */
static int tell(const struct world *world, const struct verdict *verdict)
{
	bool failed = world->stale || world->errors || verdict->leaked_blocks ||
		      verdict->leaked_fds ||
		      (RSS_JUDGED && verdict->rss_growth_kib > RSS_SLACK_KIB);
	int rc = 0;

	if (world->options->json) {
		json_t *object = report(world, verdict);

		rc = object ? out_json(object) : -ENOMEM;
		json_decref(object);
	} else {
		print_text(world, verdict);
		puts(failed ? "verdict: FAILED" : "verdict: nothing stale, nothing leaked");
	}
	if (!rc)
		rc = out_flush();
	if (rc < 0)
		return cli_fail(rc, "torture: printing");
	return failed ? CLI_FAILED : CLI_OK;
}

int cmd_torture(int argc, char **argv)
{
	static const struct argp_option known[] = {
		{"seconds", KEY_SECONDS, "S", 0, "How long (10)", 0},
		{"readers", KEY_READERS, "R", 0, "Threads that look up (2)", 0},
		{"writers", KEY_WRITERS, "W", 0, "Threads that change the map (1)", 0},
		{"seed", KEY_SEED, "N", 0, "Of all random choices (1)", 0},
		{"baseline", KEY_BASELINE, "shared-mru", 0,
		 "Torture the old design instead, which must be caught", 0},
		{"json", KEY_JSON, NULL, 0, "Print one JSON object", 0},
		{0},
	};
	static const struct argp argp = {
		known,
		parse,
		NULL,
		"Readers look up and check every byte while writers add, map, unmap, split, delete "
		"and replace.\vExit code 1 when anything was stale, leaked or answered wrongly.",
		NULL,
		NULL,
		NULL,
	};
	struct torture_options options = {.seconds = 10, .readers = 2, .writers = 1, .seed = 1};
	struct verdict verdict = {0};
	struct world *world;
	long rss, fds;
	int rc;

	cli_parse(&argp, "torture", argc, argv, 0, NULL, &options);
	rc = world_open(&options, &world);
	if (rc < 0)
		return cli_fail(rc, "torture: its memory");
	rss = bench_rss_kib();
	fds = bench_fds();
	rc = torture(world, &verdict);
	if (rc < 0) {
		world_close(world);
		return CLI_FAILED; /* it was said why */
	}
	/* the world is still needed, but not what it was tortured with */
	verdict.leaked_fds = bench_fds() - fds;
	malloc_trim(0);
	verdict.rss_growth_kib = bench_rss_kib() - rss;
	rc = tell(world, &verdict);
	if (!verdict.leaked_blocks) /* else its memory may yet be released */
		world_close(world);
	return rc;
}
