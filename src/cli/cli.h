/* SPDX-License-Identifier: MIT */
/*
 * What the verbs of the program share: the verb table's type, exit codes, errors, options.
 *
 * Errors go to stderr as `guestram: what failed: why`; figures go to stdout, as text or, with
 * --json, as one JSON object; progress goes to stderr and only when that is a terminal.
 */
#ifndef CLI_H
#define CLI_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

/* What main() returns; every verb returns one of them. */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1, /* it ran and failed, or a check or goal was not met */
	CLI_USAGE = 2,	/* it was asked wrongly; nothing was done */
};

/* argv[0] is the verb itself. */
struct cli_verb {
	const char *name;
	const char *what; /* one line for --help */
	int (*run)(int argc, char **argv);
};

int cmd_bench(int argc, char **argv);
int cmd_torture(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_map(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_dump(int argc, char **argv);
int cmd_migrate(int argc, char **argv);
int cmd_pager(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_mount(int argc, char **argv);
int cmd_qemu(int argc, char **argv);

/*
 * "guestram: WHAT: WHY" on stderr. @error is a positive or negative errno that WHY is taken from,
 * or 0 when @what says it all. Returns CLI_FAILED, so that a verb can end with it.
 */
__attribute__((format(printf, 2, 3))) int cli_fail(int error, const char *what, ...);

/* As cli_fail(), for a call of the library: WHY is gr_last_error(), or the errno when it is empty.
 */
__attribute__((format(printf, 2, 3))) int cli_fail_gr(int error, const char *what, ...);

/*
 * Parse the options of "guestram VERB" (verb is argv[0]; NULL: of the program itself). A mistake is
 * told as `guestram: VERB: what: why` with a pointer to --help, and exits with CLI_USAGE; --help
 * prints and exits with CLI_OK. Options begin a verb's line; @flags are argp's.
 */
void cli_parse(const struct argp *argp, const char *verb, int argc, char **argv, unsigned flags,
	       int *next, void *input);

/* For argp parsers: say `guestram: VERB: …` and exit with CLI_USAGE. */
__attribute__((format(printf, 2, 3), noreturn)) void cli_usage(const struct argp_state *state,
							       const char *format, ...);

/* For argp parsers: @text as a whole number in [min, max], or a usage error that names @option. */
uint64_t cli_number(const struct argp_state *state, const char *option, const char *text,
		    uint64_t min, uint64_t max);

#endif
