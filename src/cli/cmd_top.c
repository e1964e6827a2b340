/* SPDX-License-Identifier: MIT */
/*
 * guestram top: the figures of a running program again and again. Lookups are not among them: to
 * count them would cost each of them a store.
 */
#include "cli.h"
#include "grid.h"
#include "live.h"
#include "out.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Blocks of a RAM that are listed, those with most pins first. */
#define BLOCKS_SHOWN 15

struct args {
	const char *target;
	double interval;
	uint64_t count; /* 0: until it is interrupted, or the program ends */
};

enum option_key { KEY_INTERVAL = 256, KEY_COUNT };

static const struct argp_option options[] = {
	{"interval", KEY_INTERVAL, "S", 0, "Seconds between two looks, 0.1 to 3600 (1)", 0},
	{"count", KEY_COUNT, "N", 0, "Look so often (default: until the program ends)", 0},
	{0},
};

static double interval_of(const struct argp_state *state, const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (text[0] < '0' || text[0] > '9' || *end || !(value >= 0.1 && value <= 3600))
		cli_usage(state, "--interval: not between 0.1 and 3600: %s", text);
	return value;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case KEY_INTERVAL:
		args->interval = interval_of(state, arg);
		return 0;
	case KEY_COUNT:
		args->count = cli_number(state, "--count", arg, 1, UINT32_MAX);
		return 0;
	case ARGP_KEY_ARG:
		live_target(state, &args->target, arg);
		return 0;
	case ARGP_KEY_END:
		live_target_end(state, args->target);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "SOCKET|PID-FILE",
	.doc = "Show what changes in the memory of a running program: changes and reclaim per "
	       "second, "
	       "pins, what is pending.",
};

/* One look. */
struct look {
	struct live live;
	double at; /* seconds */
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static const struct live_ram *find_ram(const struct look *look, uint64_t number)
{
	size_t i;

	for (i = 0; i < look->live.count; i++)
		if (look->live.rams[i].number == number)
			return &look->live.rams[i];
	return NULL;
}

/* Since the look before; "-" when there is none, or the program is another one by now. */
static const char *rate(char text[24], uint64_t before, uint64_t after, double seconds)
{
	if (seconds <= 0 || after < before)
		return "-";
	snprintf(text, 24, "%.4g", (double)(after - before) / seconds);
	return text;
}

static void print_rams(const struct look *look, const struct look *before, bool colours)
{
	static const char *const heads[] = {
		"RAM",	    ">blocks",	  ">used",	 ">spaces", ">ranges",	">changes/s",
		">grace/s", ">reclaim/s", ">MiB back/s", ">pins",   ">pending", ">bytes pending"};
	static const struct gr_ram_stats none;
	double seconds = before ? look->at - before->at : 0;
	struct grid grid;
	char text[24];
	size_t i;

	grid_begin(&grid, heads, sizeof(heads) / sizeof(heads[0]));
	for (i = 0; i < look->live.count; i++) {
		const struct live_ram *ram = &look->live.rams[i];
		const struct live_ram *old = before ? find_ram(before, ram->number) : NULL;
		const struct gr_ram_stats *a = old ? &old->stats : &none, *b = &ram->stats;
		double span = old ? seconds : 0;

		grid_row(&grid, b->blocks_pending ? 33 : 0);
		grid_cell(&grid, "%llu", (unsigned long long)ram->number);
		grid_cell(&grid, "%llu", (unsigned long long)b->blocks);
		grid_cell(&grid, "%s", human_size(text, b->bytes));
		grid_cell(&grid, "%llu", (unsigned long long)b->spaces);
		grid_cell(&grid, "%llu", (unsigned long long)b->ranges);
		grid_cell(&grid, "%s", rate(text, a->generation, b->generation, span));
		grid_cell(&grid, "%s", rate(text, a->grace_periods, b->grace_periods, span));
		grid_cell(&grid, "%s", rate(text, a->blocks_reclaimed, b->blocks_reclaimed, span));
		grid_cell(&grid, "%s",
			  rate(text, a->bytes_reclaimed >> 20, b->bytes_reclaimed >> 20, span));
		grid_cell(&grid, "%llu", (unsigned long long)b->pins);
		grid_cell(&grid, "%llu", (unsigned long long)b->blocks_pending);
		grid_cell(&grid, "%s", human_size(text, b->bytes_pending));
	}
	grid_end(&grid, stdout, 2, colours);
}

static int by_pins(const void *a, const void *b)
{
	const struct live_block *x = *(const struct live_block *const *)a;
	const struct live_block *y = *(const struct live_block *const *)b;

	if (x->pins != y->pins)
		return x->pins < y->pins ? 1 : -1;
	return x->length != y->length ? (x->length < y->length ? 1 : -1) : strcmp(x->name, y->name);
}

static void print_blocks(const struct live_ram *ram, bool colours)
{
	static const char *const heads[] = {"block",	  "backing", ">used",
					    ">in memory", ">ranges", ">pins"};
	const struct live_block **blocks;
	struct grid grid;
	char text[24];
	size_t i;

	if (!ram->block_count)
		return;
	blocks = calloc(ram->block_count, sizeof(const struct live_block *));
	if (!blocks)
		return;
	for (i = 0; i < ram->block_count; i++)
		blocks[i] = &ram->blocks[i];
	qsort(blocks, ram->block_count, sizeof(const struct live_block *), by_pins);
	putchar('\n');
	grid_begin(&grid, heads, sizeof(heads) / sizeof(heads[0]));
	for (i = 0; i < ram->block_count && i < BLOCKS_SHOWN; i++) {
		grid_row(&grid, 0);
		grid_cell(&grid, "%s", blocks[i]->name);
		grid_cell(&grid, "%s", blocks[i]->backing);
		grid_cell(&grid, "%s", human_size(text, blocks[i]->length));
		grid_cell(&grid, "%s",
			  blocks[i]->resident == UINT64_MAX
				  ? "?"
				  : human_size(text, blocks[i]->resident));
		grid_cell(&grid, "%llu", (unsigned long long)blocks[i]->mapped);
		grid_cell(&grid, "%llu", (unsigned long long)blocks[i]->pins);
	}
	grid_end(&grid, stdout, 2, colours);
	if (ram->block_count > BLOCKS_SHOWN)
		printf("  and %zu more\n", ram->block_count - BLOCKS_SHOWN);
	free(blocks);
}

static int print_look(const struct look *look, const struct look *before, bool screen)
{
	bool colours = grid_colours(stdout);
	char stamp[32];
	time_t clock = time(NULL);
	struct tm local;
	size_t i;

	if (screen)
		fputs("\033[H\033[2J", stdout);
	else if (before)
		putchar('\n');
	localtime_r(&clock, &local);
	strftime(stamp, sizeof(stamp), "%H:%M:%S", &local);
	printf("%s  process %d, %s, library %s\n", stamp, (int)look->live.pid, look->live.program,
	       look->live.library);
	print_rams(look, before, colours);
	for (i = 0; i < look->live.count; i++)
		print_blocks(&look->live.rams[i], colours);
	return out_flush();
}

int cmd_top(int argc, char **argv)
{
	struct args args = {.interval = 1};
	struct look looks[2] = {0};
	struct timespec pause;
	bool screen = isatty(STDOUT_FILENO);
	uint64_t i;
	int rc = CLI_OK;

	cli_parse(&argp, "top", argc, argv, 0, NULL, &args);
	pause.tv_sec = (time_t)args.interval;
	pause.tv_nsec = (long)((args.interval - (double)pause.tv_sec) * 1e9);
	for (i = 0; !args.count || i < args.count; i++) {
		struct look *look = &looks[i % 2], *before = i ? &looks[(i + 1) % 2] : NULL;

		if (i)
			nanosleep(&pause, NULL);
		live_free(&look->live);
		rc = live_fetch(args.target, &look->live);
		if (rc)
			break;
		look->at = now();
		errno = 0;
		rc = print_look(look, before, screen && args.count != 1);
		if (rc < 0) {
			rc = cli_fail(rc, "standard output");
			break;
		}
	}
	live_free(&looks[0].live);
	live_free(&looks[1].live);
	return rc;
}
