/* SPDX-License-Identifier: MIT */
/* guestram map: the memory of a running program that uses the library. */
#include "cli.h"
#include "map.h"
#include "out.h"
#include "out_file.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct args {
	const char *target, *svg;
	bool json;
};

enum option_key { KEY_JSON = 256, KEY_SVG };

static const struct argp_option options[] = {
	{"json", KEY_JSON, NULL, 0, "Print the document that the program gave, checked", 0},
	{"svg", KEY_SVG, "FILE", 0, "Draw a picture into FILE ('-': standard output)", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case KEY_JSON:
		args->json = true;
		return 0;
	case KEY_SVG:
		args->svg = arg;
		return 0;
	case ARGP_KEY_ARG:
		live_target(state, &args->target, arg);
		return 0;
	case ARGP_KEY_END:
		live_target_end(state, args->target);
		if (args->json && args->svg)
			cli_usage(state, "--json and --svg: one of them");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "SOCKET|PID-FILE",
	.doc = "Show the memory of a running program: its address spaces, blocks, pins, and what "
	       "waits "
	       "for reclaim. The program offers it with gr_status_serve(), or --status.",
};

static void draw(const void *live, FILE *out)
{
	map_draw(live, out);
}

/* The document as it came: JSON has escapes of its own for what a terminal would mind. */
static int print_json(const struct live *live)
{
	json_t *document = json_loadb(live->text, live->text_length, 0, NULL);
	int rc = document ? out_json(document) : -ENOMEM;

	json_decref(document);
	return rc;
}

int cmd_map(int argc, char **argv)
{
	struct args args = {0};
	struct live live;
	int rc;

	cli_parse(&argp, "map", argc, argv, 0, NULL, &args);
	rc = live_fetch(args.target, &live);
	if (rc)
		return rc;
	if (args.svg) {
		rc = out_file_write(args.svg, draw, &live);
	} else {
		errno = 0;
		if (args.json)
			rc = print_json(&live);
		else
			map_print(&live);
		if (!rc)
			rc = out_flush();
		if (rc < 0)
			rc = cli_fail(rc, "standard output");
	}
	live_free(&live);
	return rc;
}
