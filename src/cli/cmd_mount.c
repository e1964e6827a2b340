/* SPDX-License-Identifier: MIT */
/* guestram mount: a snapshot's blocks as files, as they are or with clones' own writes over them.
 */
#include "cli.h"
#include "mounting.h"
#include "out.h"
#include <stdio.h>

struct args {
	struct mounting mounting;
	bool background;
};

enum option_key {
	KEY_IMAGE = 256,
	KEY_CLONES,
	KEY_OVERLAY,
	KEY_PARENT,
	KEY_CACHE,
	KEY_THREADS,
	KEY_OTHERS,
	KEY_BACKGROUND,
};

static const struct argp_option options[] = {
	{"image", KEY_IMAGE, NULL, 0,
	 "SNAPSHOT is a raw image of memory: one block, of the file's name", 0},
	{"clones", KEY_CLONES, "N", 0,
	 "Folders clone-1 to clone-N, whose files may be written and shared (default 0)", 0},
	{"overlay", KEY_OVERLAY, "DIR", 0,
	 "Keep what they write in files of DIR, without names (default: in memory)", 0},
	{"parent", KEY_PARENT, "FILE", 0,
	 "The snapshot's parent (default: where the snapshot says)", 0},
	{"cache", KEY_CACHE, "MIB", 0, "Memory for chunks of the snapshot (default 64)", 0},
	{"threads", KEY_THREADS, "N", 0, "Requests answered at once (default 16)", 0},
	{"allow-other", KEY_OTHERS, NULL, 0, "Let every user read, and write clones", 0},
	{"background", KEY_BACKGROUND, NULL, 0,
	 "Return when it is mounted; 'umount DIR' or SIGTERM ends it", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;
	struct mounting *mounting = &args->mounting;

	switch (key) {
	case KEY_IMAGE:
		mounting->image = true;
		return 0;
	case KEY_CLONES:
		mounting->clones = (unsigned)cli_number(state, "--clones", arg, 0, 65536);
		return 0;
	case KEY_OVERLAY:
		mounting->overlay = arg;
		return 0;
	case KEY_PARENT:
		mounting->parent = arg;
		return 0;
	case KEY_CACHE:
		mounting->cache = cli_number(state, "--cache", arg, 0, 1 << 20) << 20;
		return 0;
	case KEY_THREADS:
		mounting->threads = (unsigned)cli_number(state, "--threads", arg, 1, 256);
		return 0;
	case KEY_OTHERS:
		mounting->others = true;
		return 0;
	case KEY_BACKGROUND:
		args->background = true;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num > 1)
			cli_usage(state, "unexpected: %s", arg);
		*(state->arg_num ? &mounting->directory : &mounting->stored) = arg;
		return 0;
	case ARGP_KEY_END:
		if (!mounting->directory)
			cli_usage(state, mounting->stored ? "where? DIR is needed"
							  : "SNAPSHOT and DIR are needed");
		if (mounting->image && mounting->parent)
			cli_usage(state, "--image and --parent: one of them");
		if (mounting->overlay && !mounting->clones)
			cli_usage(state, "--overlay: without --clones nobody writes");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "SNAPSHOT DIR",
	.doc = "Show the blocks of a snapshot as files in DIR. Pages are "
	       "read when they are touched. SIGTERM, SIGINT, or 'umount DIR' ends it.",
};

int cmd_mount(int argc, char **argv)
{
	struct args args = {.mounting = mounting_defaults};
	pid_t pid;
	int rc;

	cli_parse(&argp, "mount", argc, argv, 0, NULL, &args);
	if (!args.background)
		return mounting_serve(&args.mounting);
	rc = mounting_start(&args.mounting, false, &pid);
	if (rc)
		return rc;
	printf("guestram: %s is mounted at %s by process %d\n", args.mounting.stored,
	       args.mounting.directory, (int)pid);
	rc = out_flush();
	return rc < 0 ? cli_fail(rc, "standard output") : CLI_OK;
}
