/* SPDX-License-Identifier: MIT */
/*
 * interleave - every schedule of the scripts, and that each script fails on the mutants it names.
 *
 *   interleave [--quick | --bound N] [--no-mutants] [--points] [SCRIPT...]
 *   interleave --list
 *   interleave --replay 'SCRIPT[/MUTANT] SCHEDULE'
 *
 * Prints a line for each search, TAP-like, and with --points where the threads were stopped. Exit
 * status: 0, 1 when a search did not end as it must (for a replay: when the schedule fails), 2
 * usage.
 */
#include "scripts.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Those that take longest first, so that two processors share them well. */
static const struct script *const scripts[] = {
	&script_thread_exit,	   &script_drain_delete,   &script_listener_close,
	&script_cursor_granule,	   &script_close,	   &script_word_delete,
	&script_name_delete,	   &script_throttle,	   &script_listener_new,
	&script_pin_delete,	   &script_offset_reuse,   &script_unpin_two,
	&script_unpin_reclaim,	   &script_lookup_delete,  &script_cursor_reuse,
#ifdef INTERLEAVE_BASELINE
	&script_shared_mru,	   &script_repaired_mru,
#endif
	&script_txn_txn,	   &script_txn_told,	   &script_txn_delete,
	&script_unmap_hole,	   &script_settle,	   &script_embedder,
	&script_resize_lookup,	   &script_resize_pin,	   &script_resize_delete,
	&script_resize_close,	   &script_resize_discard, &script_listener_open,
	&script_listener_refusal,  &script_map_delete,	   &script_find_map,
	&script_refused_block,	   &script_space_close,	   &script_close_change,
	&script_close_look,	   &script_plug_lookup,	   &script_plug_pin,
	&script_plug_listener,	   &script_window_evict,   &script_window_three,
	&script_window_invalidate, &script_window_pin,	   &script_window_delete,
};
#define COUNT (sizeof(scripts) / sizeof(scripts[0]))

static unsigned passed, failed;
static bool show_points;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void name_of(const struct script *script, enum mutant which, char *text, size_t size)
{
	snprintf(text, size, "%s%s%s", script->name, which ? "/" : "",
		 which ? mutant_name(which) : "");
}

static void report(bool ok, const char *name, const char *said, double seconds)
{
	printf("%s - %s: %s, %.1f s\n", ok ? "ok" : "not ok", name, said, seconds);
	fflush(stdout);
	if (ok)
		passed++;
	else
		failed++;
}

static void print_points(struct outcome *outcome)
{
	char *point = strtok(outcome->points, "\n");

	for (; point; point = strtok(NULL, "\n"))
		printf("    point %s\n", point);
}

static void search_all(const struct script *script, unsigned bound)
{
	struct outcome outcome = {0};
	double start = now();
	char said[300];

	explore(script, NO_MUTANT, bound, &outcome);
	snprintf(said, sizeof(said), "%llu schedules, %s %u preemptions, of up to %u steps",
		 (unsigned long long)outcome.schedules,
		 outcome.all ? "all there are, which have at most" : "all that have up to",
		 outcome.bound, outcome.steps);
	if (!outcome.failed) {
		report(true, script->name, said, now() - start);
		if (show_points)
			print_points(&outcome);
		return;
	}
	snprintf(said, sizeof(said), "fails with %u preemptions, after %llu schedules",
		 outcome.preemptions, (unsigned long long)outcome.schedules);
	report(false, script->name, said, now() - start);
	printf("    %s\n    --replay '%s %s'\n", outcome.message, script->name, outcome.schedule);
	explore_replay(script, NO_MUTANT, outcome.schedule, true, &outcome);
}

/* It must fail, and fail again in the same way when the schedule is replayed. */
static void search_wrong(const struct script *script, enum mutant which, unsigned bound)
{
	struct outcome outcome = {0}, again = {0};
	double start = now();
	char name[100], said[300];

	name_of(script, which, name, sizeof(name));
	explore(script, which, bound, &outcome);
	if (!outcome.failed) {
		snprintf(said, sizeof(said), "NOT FOUND in %llu schedules: %s",
			 (unsigned long long)outcome.schedules, mutant_text(which));
		report(false, name, said, now() - start);
		return;
	}
	explore_replay(script, which, outcome.schedule, false, &again);
	if (!again.failed || strcmp(again.message, outcome.message) != 0) {
		snprintf(said, sizeof(said), "found, but its replay ends with: %.200s",
			 again.failed ? again.message : "nothing wrong");
		report(false, name, said, now() - start);
	} else {
		snprintf(said, sizeof(said), "found with %u preemptions, after %llu schedules",
			 outcome.preemptions, (unsigned long long)outcome.schedules);
		report(true, name, said, now() - start);
	}
	printf("    %s\n    --replay '%s %s'\n", outcome.message, name, outcome.schedule);
}

static void search(const struct script *script, bool quick, int bound, bool mutants)
{
	unsigned of_script = quick ? script->quick : script->full, i;

	if (bound >= 0)
		of_script = bound;
	if (script->wrong)
		search_wrong(script, NO_MUTANT, script->full);
	else
		search_all(script, of_script);
	for (i = 0; mutants && script->mutants[i]; i++)
		search_wrong(script, script->mutants[i], script->full);
}

static const struct script *script_by_name(const char *name)
{
	size_t i;

	for (i = 0; i < COUNT; i++)
		if (!strcmp(scripts[i]->name, name))
			return scripts[i];
	return NULL;
}

static int replay(const char *given)
{
	char name[100] = "", *slash;
	const struct script *script;
	enum mutant which = NO_MUTANT;
	struct outcome outcome = {0};
	int used = 0;

	if (sscanf(given, "%99s %n", name, &used) != 1)
		return 2;
	slash = strchr(name, '/');
	if (slash) {
		*slash = '\0';
		which = mutant_by_name(slash + 1);
	}
	script = script_by_name(name);
	if (!script || which == MUTANTS) {
		fprintf(stderr, "interleave: no script or mutant of that name: %s\n", given);
		return 2;
	}
	explore_replay(script, which, given + used, true, &outcome);
	printf("%s\n", outcome.failed ? outcome.message : "nothing wrong");
	return outcome.failed;
}

static void list(void)
{
	size_t i, k;

	for (i = 0; i < COUNT; i++) {
		printf("%-18s %s\n", scripts[i]->name, scripts[i]->what);
		for (k = 0; scripts[i]->mutants[k]; k++)
			printf("    /%-18s %s\n", mutant_name(scripts[i]->mutants[k]),
			       mutant_text(scripts[i]->mutants[k]));
	}
}

static int usage(void)
{
	fprintf(stderr,
		"usage: interleave [--quick | --bound N] [--no-mutants] [--points] [SCRIPT...]\n"
		"       interleave --list\n"
		"       interleave --replay 'SCRIPT[/MUTANT] SCHEDULE'\n");
	return 2;
}

int main(int argc, char **argv)
{
	bool quick = false, mutants = true;
	int bound = -1, first = 1, i;
	size_t k;

	for (i = 1; i < argc && argv[i][0] == '-'; first = ++i) {
		if (!strcmp(argv[i], "--list") && argc == 2) {
			list();
			return 0;
		}
		if (!strcmp(argv[i], "--replay") && argc == 3)
			return replay(argv[2]);
		if (!strcmp(argv[i], "--quick"))
			quick = true;
		else if (!strcmp(argv[i], "--no-mutants"))
			mutants = false;
		else if (!strcmp(argv[i], "--points"))
			show_points = true;
		else if (!strcmp(argv[i], "--bound") && i + 1 < argc)
			bound = atoi(argv[++i]);
		else
			return usage();
		if (bound > BOUND_MAX)
			return usage();
	}
	for (i = first; i < argc; i++)
		if (!script_by_name(argv[i]))
			return usage();
	for (i = first; i < argc; i++)
		search(script_by_name(argv[i]), quick, bound, mutants);
	for (k = 0; k < COUNT && first == argc; k++)
		search(scripts[k], quick, bound, mutants);
	printf("%u passed, %u failed\n", passed, failed);
	return failed || !passed;
}
