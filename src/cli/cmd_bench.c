/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench WHAT`: options and exit code; the measuring is in bench/.
 */
#include "bench.h"
#include "cli.h"
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	const char *what;
	int (*run)(struct bench *bench);
} benches[] = {
	{"lookup", "ns for each guest address turned into a host pointer", bench_lookup},
	{"update", "map and unmap among many, endless plugging, memory of the index", bench_update},
	{"access", "loads, stores and copies by guest address", bench_access},
	{"reclaim", "from the last reader's leave to the release of memory", bench_reclaim},
	{"dirty", "marks, and harvests of what changed", bench_dirty},
	{"change", "lookups while blocks are resized, plugged and discarded; preallocation",
	 bench_change},
#ifdef CLI_PAGER
	{"pager", "touches of missing pages, and what recorded orders take away", bench_pager},
#endif
	{"window", "memory that is mapped on demand, in windows", bench_window},
#ifdef CLI_VHOST
	{"blk", "a served disk beside qemu-storage-daemon's", bench_blk},
#endif
#ifdef CLI_MIGRATE
	{"migrate", "a guest's memory through sockets, and how long it stands still",
	 bench_migrate},
#endif
#ifdef CLI_SNAPSHOT
	{"snapshot", "guest memory to files and back", bench_snapshot},
#endif
};

enum { BENCHES = sizeof(benches) / sizeof(benches[0]), KEY_JSON = 256, KEY_QUICK };

struct options {
	const char *which;
	bool json, quick;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct options *options = state->input;

	switch (key) {
	case KEY_JSON:
		options->json = true;
		return 0;
	case KEY_QUICK:
		options->quick = true;
		return 0;
	case ARGP_KEY_ARG:
		if (options->which)
			cli_usage(state, "one benchmark at a time: %s", arg);
		options->which = arg;
		return 0;
	case ARGP_KEY_END:
		if (!options->which)
			cli_usage(state, "which benchmark? lookup, update, access, reclaim, dirty, "
					 "window, change, blk, migrate, pager or "
					 "snapshot");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_bench(int argc, char **argv)
{
	static const struct argp_option known[] = {
		{"json", KEY_JSON, NULL, 0, "Print one JSON object", 0},
		{"quick", KEY_QUICK, NULL, 0,
		 "Short pieces, to see that it works; its figures are none", 0},
		{0},
	};
	static const struct argp argp = {
		known,
		parse,
		"lookup|update|access|reclaim|dirty|window|change|blk|migrate|pager|snapshot",
		"Measure guestram beside its peers and judge the figures.\v"
		"Exit code 1 when a goal is not met. Every contender is measured in turn, several "
		"times; figures are medians. Keep the machine idle meanwhile.",
		NULL,
		NULL,
		NULL,
	};
	struct options options = {0};
	struct bench bench;
	int rc, i;

	cli_parse(&argp, "bench", argc, argv, 0, NULL, &options);
	for (i = 0; i < BENCHES && strcmp(options.which, benches[i].name) != 0; i++)
		;
	if (i == BENCHES)
		cli_usage(NULL, "no such benchmark: %s", options.which);
	rc = bench_init(&bench, benches[i].name, options.quick);
	if (rc < 0)
		return cli_fail(rc, "bench %s", benches[i].name);
	rc = benches[i].run(&bench);
	if (rc < 0) {
		bench_fini(&bench);
		return CLI_FAILED; /* the benchmark said why */
	}
	rc = bench_print(&bench, options.json);
	if (rc < 0)
		cli_fail(rc, "bench %s: printing", benches[i].name);
	bench_fini(&bench);
	return rc < 0 || bench.not_met ? CLI_FAILED : CLI_OK;
}
