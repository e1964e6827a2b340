/* SPDX-License-Identifier: MIT */
/* See source_arg.h. */
#include "source_arg.h"
#include "cli.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef CLI_SNAPSHOT
#include <guestram/snapshot.h>
#endif
#ifdef CLI_NBD
#include <guestram/store.h>
#endif

enum option_key {
	KEY_IMAGE = 512, /* apart from the verbs' own */
	KEY_SNAPSHOT,
	KEY_BLOCK,
	KEY_PARENT,
	KEY_NBD,
	KEY_CACHE,
	KEY_CACHE_DIRECTORY,
};

static const struct argp_option options[] = {
	{NULL, 0, NULL, 0, "Where pages come from, one of:", 1},
	{"image", KEY_IMAGE, "FILE", 0, "A raw file, whose holes are zero", 1},
	{"snapshot", KEY_SNAPSHOT, "FILE", 0, "A snapshot, with its parents", 1},
	{"nbd", KEY_NBD, "URI", 0, "An NBD export: nbd://HOST/NAME, nbd+unix:///NAME?socket=PATH",
	 1},
	{NULL, 0, NULL, 0, "Of a snapshot:", 2},
	{"block", KEY_BLOCK, "NAME", 0,
	 "Which block of it (again for more: one after the other, in that order)", 2},
	{"parent", KEY_PARENT, "FILE", 0, "Its parent, where that is not beside it any more", 2},
	{NULL, 0, NULL, 0, "Of an NBD export:", 3},
	{"cache", KEY_CACHE, "MIB", 0, "Keep so much of it here (default: nothing)", 3},
	{"cache-dir", KEY_CACHE_DIRECTORY, "DIRECTORY", 0,
	 "In a file without a name there (default: in memory)", 3},
	{0},
};

static void check(const struct argp_state *state, const struct source_arg *arg)
{
	if (!!arg->image + !!arg->snapshot + !!arg->nbd != 1)
		cli_usage(state, "one of --image, --snapshot and --nbd is needed");
	if ((arg->block_count || arg->parent) && !arg->snapshot)
		cli_usage(state, "--block and --parent are for --snapshot");
	if ((arg->cache || arg->cache_directory) && !arg->nbd)
		cli_usage(state, "--cache and --cache-dir are for --nbd");
	if (arg->cache_directory && !arg->cache)
		cli_usage(state, "--cache-dir: how much? --cache MIB");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct source_arg *arg = state->input;

	switch (key) {
	case KEY_IMAGE:
		arg->image = text;
		return 0;
	case KEY_SNAPSHOT:
		arg->snapshot = text;
		return 0;
	case KEY_BLOCK:
		if (arg->block_count == SOURCE_BLOCKS)
			cli_usage(state, "--block: %d at most", SOURCE_BLOCKS);
		arg->blocks[arg->block_count++] = text;
		return 0;
	case KEY_PARENT:
		arg->parent = text;
		return 0;
	case KEY_NBD:
		arg->nbd = text;
		return 0;
	case KEY_CACHE:
		arg->cache = cli_number(state, "--cache", text, 1, 1 << 20) << 20;
		return 0;
	case KEY_CACHE_DIRECTORY:
		arg->cache_directory = text;
		return 0;
	case ARGP_KEY_END:
		check(state, arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp source_argp = {.options = options, .parser = parse};

const char *source_arg_name(const struct source_arg *arg)
{
	return arg->image ? arg->image : arg->snapshot ? arg->snapshot : arg->nbd;
}

/* ------------------------------------------------------------------------------------- snapshot */

#ifdef CLI_SNAPSHOT
/* It has several blocks, and none was named: which would be right, nobody but the user knows. */
static int tell_blocks(const struct source_arg *arg, const char *verb)
{
	struct gr_snapshot_block block;
	size_t size = 0;
	char *list = NULL;
	FILE *stream = open_memstream(&list, &size);

	if (!stream)
		return cli_fail(errno, "%s", verb);
	for (unsigned i = 0; !gr_snapshot_get_block(arg->opened, i, &block); i++)
		fprintf(stream, "%s%s", i ? ", " : "", block.name);
	if (!fclose(stream))
		cli_fail(0, "%s: %s has several blocks: --block NAME, of %s", verb, arg->snapshot,
			 list);
	free(list);
	return CLI_FAILED;
}

static int open_snapshot(struct source_arg *arg, const char *verb)
{
	struct gr_snapshot_info info = {0};
	struct gr_page_source all;
	int rc = gr_snapshot_open(arg->snapshot, arg->parent, &arg->opened);

	if (!rc)
		rc = gr_snapshot_get_info(arg->opened, 0, &info);
	for (int i = 0; !rc && i < arg->block_count; i++) {
		int block = gr_snapshot_find_block(arg->opened, arg->blocks[i]);

		rc = block < 0 ? block : 0;
	}
	if (!rc)
		rc = gr_snapshot_source(arg->opened, &all);
	if (rc < 0)
		return cli_fail_gr(rc, "%s", verb);
	if (!info.blocks)
		return cli_fail(0, "%s: %s has no blocks", verb, arg->snapshot);
	if (!arg->block_count && info.blocks > 1)
		return tell_blocks(arg, verb);
	if (arg->block_count < 2) {
		arg->source = all;
		arg->block = arg->blocks[0];
		return CLI_OK;
	}
	rc = source_row_open(&all, arg->blocks, arg->block_count, &arg->source);
	return rc < 0 ? cli_fail(rc, "%s: blocks of %s", verb, arg->snapshot) : CLI_OK;
}
#else
static int open_snapshot(struct source_arg *arg, const char *verb)
{
	return cli_fail(0, "%s: %s: built without snapshots (option snapshot)", verb,
			arg->snapshot);
}
#endif

/* ------------------------------------------------------------------------------------------ nbd */

#ifdef CLI_NBD
static int open_nbd(struct source_arg *arg, const char *verb, gr_log_fn log, void *log_context)
{
	struct gr_nbd_opts opts = {
		/* who gives the URI is who the program runs for: it may name files */
		.flags = GR_NBD_URI_FILES,
		.log = log,
		.log_context = log_context,
	};
	struct gr_cache_opts cache = {.directory = arg->cache_directory, .max_bytes = arg->cache};
	struct gr_page_source below;
	int rc = gr_nbd_source_open(arg->nbd, &opts, &below);

	if (rc < 0)
		return cli_fail_gr(rc, "%s", verb);
	if (!arg->cache) {
		arg->source = below;
		return CLI_OK;
	}
	rc = gr_cache_source_open(&below, &cache, &arg->source);
	if (!rc)
		return CLI_OK;
	cli_fail_gr(rc, "%s", verb);
	gr_page_source_close(&below);
	return CLI_FAILED;
}
#else
static int open_nbd(struct source_arg *arg, const char *verb, gr_log_fn log, void *log_context)
{
	(void)log;
	(void)log_context;
	return cli_fail(0, "%s: %s: built without NBD (option nbd)", verb, arg->nbd);
}
#endif

/* ------------------------------------------------------------------------------------------ all */

int source_arg_open(struct source_arg *arg, const char *verb, gr_log_fn log, void *log_context)
{
	int rc, status;

	if (arg->image) {
		rc = gr_image_source_open(arg->image, &arg->source);
		status = rc < 0 ? cli_fail_gr(rc, "%s", verb) : CLI_OK;
	} else if (arg->snapshot) {
		status = open_snapshot(arg, verb);
	} else {
		status = open_nbd(arg, verb, log, log_context);
	}
	if (status)
		source_arg_close(arg);
	return status;
}

void source_arg_close(struct source_arg *arg)
{
	gr_page_source_close(&arg->source);
#ifdef CLI_SNAPSHOT
	gr_snapshot_close(arg->opened);
#endif
	arg->opened = NULL;
}
