/* SPDX-License-Identifier: MIT */
/*
 * `guestram migrate send|receive`: a running guest goes from one process to another, on this host
 * or on another one. Here are the options; the rest is in migrate_machine.c.
 */
#include "cli.h"
#include "migrate_machine.h"
#include "out.h"
#include <stdlib.h>
#include <string.h>

enum {
	KEY_CHANNELS = 256,
	KEY_ZSTD,
	KEY_RATE,
	KEY_POSTCOPY,
	KEY_MEMORY,
	KEY_WRITES,
	KEY_DOWNTIME,
	KEY_ROUNDS,
	KEY_SECONDS,
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct migrate_options *options = state->input;

	switch (key) {
	case KEY_CHANNELS:
		options->channels =
			(unsigned)cli_number(state, "--channels", arg, 1, GR_MIGRATE_CHANNELS_MAX);
		return 0;
	case KEY_ZSTD:
		options->zstd = (unsigned)cli_number(state, "--zstd", arg, 0, 19);
		return 0;
	case KEY_RATE:
		options->rate = cli_number(state, "--rate", arg, 0, 1000000);
		return 0;
	case KEY_POSTCOPY:
		options->postcopy = true;
		return 0;
	case KEY_MEMORY:
		options->memory = cli_number(state, "--memory", arg, 1, 65536);
		return 0;
	case KEY_WRITES:
		options->writes = cli_number(state, "--writes", arg, 1, 100000);
		return 0;
	case KEY_DOWNTIME:
		options->downtime = cli_number(state, "--downtime", arg, 1, 1000000);
		return 0;
	case KEY_ROUNDS:
		options->rounds = (unsigned)cli_number(state, "--rounds", arg, 1, 1000);
		return 0;
	case KEY_SECONDS:
		options->seconds = cli_number(state, "--seconds", arg, 0, 1000000);
		return 0;
	case ARGP_KEY_ARG:
		if (options->address)
			cli_usage(state, "it takes no more arguments: %s", arg);
		if (options->verb)
			options->address = arg;
		else
			options->verb = arg;
		return 0;
	case ARGP_KEY_END:
		if (!options->verb ||
		    (strcmp(options->verb, "send") != 0 && strcmp(options->verb, "receive") != 0))
			cli_usage(state, "send or receive?");
		if (!options->address || (strncmp(options->address, "unix:", 5) != 0 &&
					  strncmp(options->address, "tcp:", 4) != 0))
			cli_usage(state, "where? unix:PATH or tcp:HOST:PORT");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cmd_migrate(int argc, char **argv)
{
	static const struct argp_option known[] = {
		{"channels", KEY_CHANNELS, "N", 0, "Connections, the same on both sides (1)", 0},
		{"memory", KEY_MEMORY, "MIB", 0, "Of the guest, the same on both sides (64)", 0},
		{"writes", KEY_WRITES, "MIB", 0,
		 "Pages that the guest writes in a second, the same on both sides (16)", 0},
		{"seconds", KEY_SECONDS, "N", 0,
		 "Let the guest run for so long before, or after (1)", 0},
		{"zstd", KEY_ZSTD, "LEVEL", 0, "send: pack pages (0: not)", 1},
		{"rate", KEY_RATE, "MIB", 0, "send: so much in a second at most (0: what goes)", 1},
		{"downtime", KEY_DOWNTIME, "MS", 0, "send: the guest may stand still so long (300)",
		 1},
		{"rounds", KEY_ROUNDS, "N", 0, "send: rounds before it gives up or switches (30)",
		 1},
		{"postcopy", KEY_POSTCOPY, NULL, 0,
		 "send: then run the guest there and fetch the rest", 1},
		{0},
	};
	static const struct argp argp = {
		known,
		parse,
		"send|receive unix:PATH|tcp:HOST:PORT",
		"Move a running guest to another process.\v"
		"The receiver listens; the sender connects. The guest says numbered lines wherever "
		"it runs, and checks its memory; exit code 1 when it did not move or a page is "
		"wrong.",
		NULL,
		NULL,
		NULL,
	};
	struct machine machine = {
		.options = {.channels = 1, .memory = 64, .writes = 16, .seconds = 1}};
	int code = CLI_FAILED;

	cli_parse(&argp, "migrate", argc, argv, 0, NULL, &machine.options);
	if (!machine_open(&machine))
		code = !strcmp(machine.options.verb, "send") ? machine_send(&machine)
							     : machine_receive(&machine);
	machine_close(&machine);
	return out_flush() < 0 ? CLI_FAILED : code;
}
