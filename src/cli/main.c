/* SPDX-License-Identifier: MIT */
/*
 * The guestram program: a table of verbs, and what all of them share (errors, options).
 *
 * Threads: main() is alone until a verb starts threads of its own.
 */
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <guestram.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct cli_verb verbs[] = {
#ifdef CLI_VHOST
	{"serve", "offer a file as a disk to virtual machines (vhost-user)", cmd_serve},
#endif
#ifdef CLI_PAGER
	{"pager", "give guests their pages as they touch them (userfaultfd)", cmd_pager},
#endif
	{"map", "show the memory of a running program: spaces, blocks, pins, reclaim", cmd_map},
	{"top", "show what changes in it, again and again", cmd_top},
#ifdef CLI_DUMP
	{"dump", "write its guest's memory as an ELF core", cmd_dump},
#endif
#ifdef CLI_MIGRATE
	{"migrate", "move a running guest to another process or host", cmd_migrate},
#endif
#ifdef CLI_SNAPSHOT
	{"snapshot", "save, look at, compare and convert guest memory in files", cmd_snapshot},
#endif
#ifdef CLI_FUSE
	{"mount", "show a snapshot's memory as files, for QEMU and others, and clones of it",
	 cmd_mount},
#ifdef CLI_SNAPSHOT
	{"qemu", "freeze a running guest of QEMU into a snapshot, start clones of one", cmd_qemu},
#endif
#endif
	{"torture", "readers against writers: every stale pointer and leak is counted",
	 cmd_torture},
	{"bench", "measure lookups, updates, accesses and reclaim beside their peers", cmd_bench},
};

enum { VERBS = sizeof(verbs) / sizeof(verbs[0]) };

/* For the usage line; getopt prints argv[0]. Both are set by cli_parse(). */
static char help_name[64] = "guestram";
static const char *verb_now;

static int say(const char *why, const char *what, va_list args)
{
	fputs("guestram: ", stderr);
	vfprintf(stderr, what, args);
	if (why && *why)
		fprintf(stderr, ": %s", why);
	fputc('\n', stderr);
	return CLI_FAILED;
}

int cli_fail(int error, const char *what, ...)
{
	va_list args;

	va_start(args, what);
	say(error ? strerror(abs(error)) : NULL, what, args);
	va_end(args);
	return CLI_FAILED;
}

int cli_fail_gr(int error, const char *what, ...)
{
	const char *why = gr_last_error();
	va_list args;

	va_start(args, what);
	say(*why ? why : strerror(abs(error)), what, args);
	va_end(args);
	return CLI_FAILED;
}

static __attribute__((noreturn)) void say_try(void)
{
	fprintf(stderr, "Try '%s --help'.\n", help_name);
	exit(CLI_USAGE);
}

void cli_usage(const struct argp_state *state, const char *format, ...)
{
	va_list args;

	(void)state;
	fputs("guestram: ", stderr);
	if (verb_now)
		fprintf(stderr, "%s: ", verb_now);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	say_try();
}

uint64_t cli_number(const struct argp_state *state, const char *option, const char *text,
		    uint64_t min, uint64_t max)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 10);
	/* strtoull takes signs and leading blanks, which no count has */
	if (text[0] < '0' || text[0] > '9' || *end)
		cli_usage(state, "%s: not a whole number: %s", option, text);
	if (errno || value < min || value > max)
		cli_usage(state, "%s: %s is not between %llu and %llu", option, text,
			  (unsigned long long)min, (unsigned long long)max);
	return value;
}

enum { KEY_HELP = '?', KEY_VERSION = 'V' };

/*
 * argp's own --help would show argv[0], where getopt's messages need another text than the usage
 * line; so help and version are ours, and the verb's parser is a child of this one.
 */
static error_t common_parser(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = state->input;
		state->err_stream = NULL; /* cli_parse() says the rest, once getopt said what */
		return 0;
	case KEY_HELP:
		state->name = help_name;
		argp_state_help(state, stdout, ARGP_HELP_STD_HELP);
		return 0;
	case KEY_VERSION:
		printf("guestram %s\n", gr_version());
		exit(out_flush() < 0 ? CLI_FAILED : CLI_OK);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

void cli_parse(const struct argp *argp, const char *verb, int argc, char **argv, unsigned flags,
	       int *next, void *input)
{
	static const struct argp_option common[] = {
		{"help", KEY_HELP, NULL, 0, "Show this", -1},
		{"version", KEY_VERSION, NULL, 0, "Show the version", -1},
		{0},
	};
	const struct argp_child children[] = {{argp, 0, NULL, 0}, {NULL, 0, NULL, 0}};
	const struct argp all = {common, common_parser, NULL, NULL, children, NULL, NULL};
	static char getopt_name[64];

	verb_now = verb;
	if (verb) {
		snprintf(help_name, sizeof(help_name), "guestram %s", verb);
		snprintf(getopt_name, sizeof(getopt_name), "guestram: %s", verb);
	} else {
		snprintf(getopt_name, sizeof(getopt_name), "guestram");
	}
	argv[0] = getopt_name;
	if (argp_parse(&all, argc, argv, flags | ARGP_NO_HELP, next, input))
		say_try();
}

static error_t main_parser(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	switch (key) {
	case ARGP_KEY_ARG:
		/* the verb: what follows is its own */
		state->next--;
		*(int *)state->input = state->next;
		state->next = state->argc;
		return 0;
	case ARGP_KEY_NO_ARGS:
		cli_usage(state, "no verb given");
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* argp frees what this returns when it is not @text. */
static char *main_help(int key, const char *text, void *input)
{
	size_t size = 0;
	char *list = NULL;
	FILE *stream;
	size_t i;

	(void)input;
	if (key != ARGP_KEY_HELP_POST_DOC)
		return (char *)text;
	stream = open_memstream(&list, &size);
	if (!stream)
		return (char *)text;
	fputs("Verbs:\n", stream);
	for (i = 0; i < VERBS; i++)
		fprintf(stream, "  %-10s %s\n", verbs[i].name, verbs[i].what);
	fputs("\n'guestram VERB --help' tells more. Exit code: 0 ok, 1 failed, 2 used wrongly.",
	      stream);
	if (fclose(stream)) {
		free(list);
		return (char *)text;
	}
	return list;
}

int main(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = main_parser,
		.args_doc = "VERB [OPTION...]",
		.doc = "Guest RAM that any thread looks up without a lock while another takes it "
		       "away.\v ",
		.help_filter = main_help,
	};
	int verb = 0;
	size_t i;

	if (argc < 1)
		return CLI_USAGE;
	cli_parse(&argp, NULL, argc, argv, ARGP_IN_ORDER, NULL, &verb);
	for (i = 0; i < VERBS; i++) {
		if (!strcmp(argv[verb], verbs[i].name))
			return verbs[i].run(argc - verb, argv + verb);
	}
	cli_usage(NULL, "no such verb: %s", argv[verb]);
}
