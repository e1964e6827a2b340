/* SPDX-License-Identifier: MIT */
/*
 * guestram snapshot: save raw images of memory into a snapshot, look at snapshots, compare, convert
 * and write them out again. What is done with each is in a function of its own; the table has their
 * arguments.
 *
 * Threads: main, and the library's crew.
 */
#include "cmd_snapshot.h"
#include "cli.h"
#include "out.h"
#include "out_file.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name, *args, *doc;
	int least, most; /* arguments */
	int (*run)(struct snapshot_args *args);
	bool draws; /* it knows --svg */
} actions[] = {
	{"save", "OUT",
	 "Save raw images of memory, each a block (--block), as one snapshot. With --parent, only "
	 "the pages that differ.",
	 1, 1, snapshot_save},
	{"load", "SNAPSHOT DIRECTORY", "Write each block to a sparse file of its name.", 2, 2,
	 snapshot_load},
	{"info", "SNAPSHOT",
	 "Show what is in it, and in its parents; or (--svg) draw which of its pages are zero, "
	 "stored, shared or changed.",
	 1, 1, snapshot_info, true},
	{"verify", "SNAPSHOT", "Read and compare every byte of it and of its parents.", 1, 1,
	 snapshot_verify},
	{"diff", "SNAPSHOT SNAPSHOT", "Show which pages differ. Exit code 1 when some do.", 2, 2,
	 snapshot_diff, true},
	{"flatten", "SNAPSHOT OUT",
	 "Write it again without parents; with --parent, on another one.", 2, 2, snapshot_flatten},
	{"pack", "SNAPSHOT OUT", "Write it again, packed, on the same parent if it has one.", 2, 2,
	 snapshot_pack},
	{"extract", "SNAPSHOT BLOCK FILE",
	 "Write one block to a sparse file ('-': standard output).", 3, 3, snapshot_extract},
	{"list-pages", "SNAPSHOT", "Show runs of pages: content or zero, and which file has them.",
	 1, 1, snapshot_list},
};

enum { ACTIONS = sizeof(actions) / sizeof(actions[0]) };
enum option_key {
	KEY_JSON = 256,
	KEY_BLOCK,
	KEY_LAYOUT,
	KEY_LEVEL,
	KEY_THREADS,
	KEY_PARENT,
	KEY_SVG,
	KEY_ORDER,
};

static const struct argp_option options[] = {
	{"json", KEY_JSON, NULL, 0, "Print one JSON object", 0},
	{"block", KEY_BLOCK, "NAME=FILE", 0, "save: a block, from a raw image (again for more)", 0},
	{"layout", KEY_LAYOUT, "mapped|packed", 0, "Of the file to write (default: mapped)", 0},
	{"level", KEY_LEVEL, "N", 0, "zstd's, 1 to 19 (default: 1)", 0},
	{"threads", KEY_THREADS, "N", 0, "1 to 64 (default: as many as processors)", 0},
	{"parent", KEY_PARENT, "SNAPSHOT", 0, "save, flatten: write a child of this one", 0},
	{"svg", KEY_SVG, "FILE", 0, "info, diff: draw a picture into FILE ('-': standard output)",
	 0},
#ifdef CLI_PAGER
	{"order", KEY_ORDER, "FILE", 0,
	 "info --svg: show what is in this working set (pager --record)", 0},
#endif
	{0},
};

static void add_block(const struct argp_state *state, struct snapshot_args *args, char *text)
{
	char *equals = strchr(text, '=');

	if (!equals || equals == text || !equals[1])
		cli_usage(state, "--block: not NAME=FILE: %s", text);
	if (args->block_count == SNAPSHOT_BLOCKS)
		cli_usage(state, "--block: %d at most", SNAPSHOT_BLOCKS);
	*equals = 0;
	args->blocks[args->block_count].name = text;
	args->blocks[args->block_count++].path = equals + 1;
}

static void check_picture(const struct argp_state *state, const struct snapshot_args *args)
{
	if (args->svg && !actions[args->action].draws)
		cli_usage(state, "--svg: for info and diff");
	if (args->svg && args->json)
		cli_usage(state, "--json and --svg: one of them");
	if (args->order && (!args->svg || actions[args->action].run != snapshot_info))
		cli_usage(state, "--order: for info with --svg");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct snapshot_args *args = state->input;

	switch (key) {
	case KEY_JSON:
		args->json = true;
		return 0;
	case KEY_BLOCK:
		add_block(state, args, arg);
		return 0;
	case KEY_LAYOUT:
		if (strcmp(arg, "mapped") != 0 && strcmp(arg, "packed") != 0)
			cli_usage(state, "--layout: mapped or packed, not %s", arg);
		args->opts.layout =
			!strcmp(arg, "packed") ? GR_SNAPSHOT_PACKED : GR_SNAPSHOT_MAPPED;
		return 0;
	case KEY_LEVEL:
		args->opts.level = (int)cli_number(state, "--level", arg, 1, 19);
		return 0;
	case KEY_THREADS:
		args->opts.threads = (unsigned)cli_number(state, "--threads", arg, 1, 64);
		return 0;
	case KEY_PARENT:
		args->parent = arg;
		return 0;
	case KEY_SVG:
		args->svg = arg;
		return 0;
	case KEY_ORDER:
		args->order = arg;
		return 0;
	case ARGP_KEY_ARG:
		if ((int)state->arg_num >= actions[args->action].most)
			cli_usage(state, "unexpected: %s", arg);
		args->args[state->arg_num] = arg;
		return 0;
	case ARGP_KEY_END:
		if ((int)state->arg_num < actions[args->action].least)
			cli_usage(state, "missing: %s", actions[args->action].args);
		check_picture(state, args);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* atomic: a signal asks for the end, so that no half file stays */
static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
	interrupted = number;
}

static int progress(void *context, const struct gr_snapshot_stats *stats)
{
	(void)context;
	out_progress("%5.1f%% of %llu MiB",
		     stats->bytes ? 100.0 * (double)stats->bytes_done / (double)stats->bytes
				  : 100.0,
		     (unsigned long long)(stats->bytes >> 20));
	return interrupted;
}

static void watch_signals(void)
{
	struct sigaction action = {.sa_handler = interrupt, .sa_flags = SA_RESTART};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

/* argp frees what this returns when it is not @text. */
static char *list_actions(int key, const char *text, void *input)
{
	size_t size = 0;
	char *list = NULL;
	FILE *stream;
	int i;

	(void)input;
	if (key != ARGP_KEY_HELP_POST_DOC)
		return (char *)text;
	stream = open_memstream(&list, &size);
	if (!stream)
		return (char *)text;
	for (i = 0; i < ACTIONS; i++)
		fprintf(stream, "  snapshot %s %s\n", actions[i].name, actions[i].args);
	fputs("\n'guestram snapshot ACTION --help' tells more.", stream);
	fclose(stream);
	return list;
}

/* No action is given: help, or a mistake. */
static error_t parse_none(int key, char *arg, struct argp_state *state)
{
	if (key == ARGP_KEY_ARG)
		cli_usage(state, "no such action: %s", arg);
	if (key == ARGP_KEY_NO_ARGS)
		cli_usage(state, "which action? save, load, info, verify, diff, flatten, pack, "
				 "extract or list-pages");
	return ARGP_ERR_UNKNOWN;
}

int cmd_snapshot(int argc, char **argv)
{
	static const struct argp none = {
		.parser = parse_none,
		.args_doc = "ACTION [OPTION...] ...",
		.doc = "Guest memory in files.\v ",
		.help_filter = list_actions,
	};
	struct gr_snapshot_ops ops = {.progress = progress};
	struct snapshot_args args = {.opts = {.ops = &ops}};
	struct argp argp = {.options = options, .parser = parse};
	char verb[40];
	int rc;

	for (args.action = 0; args.action < ACTIONS; args.action++)
		if (argc > 1 && !strcmp(argv[1], actions[args.action].name))
			break;
	if (args.action == ACTIONS)
		cli_parse(&none, "snapshot", argc, argv, 0, NULL, NULL);
	if (args.action == ACTIONS)
		return CLI_USAGE;
	snprintf(verb, sizeof(verb), "snapshot %s", actions[args.action].name);
	args.what = verb;
	argp.args_doc = actions[args.action].args;
	argp.doc = actions[args.action].doc;
	cli_parse(&argp, verb, argc - 1, argv + 1, 0, NULL, &args);
	watch_signals();
	rc = actions[args.action].run(&args);
	out_progress_end();
	return rc;
}
