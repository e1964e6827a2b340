/* SPDX-License-Identifier: MIT */
/*
 * guestram dump: the memory of a running program's space as an ELF core. The program is not asked
 * for its bytes: its status says where they are, and they are read through /proc, from its files
 * where they are shared and from its address space else. So this works while it hangs, too; only
 * the status has to answer.
 *
 * Nothing in that process keeps its blocks for us. The space's generation is compared before and
 * after; when it changed, that is told.
 *
 * Threads: main alone.
 */
#include "cli.h"
#include "grid.h"
#include "live.h"
#include "os/pages.h"
#include "out.h"
#include "out_file.h"
#include <errno.h>
#include <guestram/dump.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct args {
	const char *target, *space, *out;
	unsigned machine;
	bool no_vaddr;
};

enum option_key { KEY_OUT = 256, KEY_MACHINE, KEY_NO_VADDR };

static const struct argp_option options[] = {
	{"out", KEY_OUT, "FILE", 0, "Write the core there, sparse; '-' (default): standard output",
	 0},
	{"machine", KEY_MACHINE, "N", 0, "e_machine of the guest (default: this processor's)", 0},
	{"no-vaddr", KEY_NO_VADDR, NULL, 0, "Leave p_vaddr 0 (gdb then finds no memory)", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case KEY_OUT:
		args->out = arg;
		return 0;
	case KEY_MACHINE:
		args->machine = (unsigned)cli_number(state, "--machine", arg, 1, UINT16_MAX);
		return 0;
	case KEY_NO_VADDR:
		args->no_vaddr = true;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num > 1)
			cli_usage(state, "unexpected: %s", arg);
		*(state->arg_num ? &args->space : &args->target) = arg;
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
	.args_doc = "SOCKET|PID-FILE [SPACE]",
	.doc = "Write the memory of a running program's address space as an ELF core, for gdb, "
	       "readelf "
	       "and crash. SPACE may be left out when there is one alone.",
};

/* atomic: a signal asks for the end, so that no half file stays */
static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
	interrupted = number;
}

/* ------------------------------------------------------------------------------------- source */

struct remote {
	const struct live *live;
	const struct live_ram *ram;
	const struct live_space *space;
	struct gr_dump_range *ranges;
	size_t *which; /* of the space's ranges */
	size_t count;
	struct gr__pages *pages; /* of range `current` */
	size_t current;
	char failed[300]; /* block and reason of an error that ended the dump */
};

static enum gr__pages_kind kind_of(const struct live_block *block)
{
	bool shared = live_block_has(block, "shared");

	if (block->fd >= 0)
		return shared ? GR__PAGES_SHARED_FILE : GR__PAGES_PRIVATE_FILE;
	if (!strcmp(block->backing, "anon"))
		return shared ? GR__PAGES_SHARED_ANON : GR__PAGES_PRIVATE;
	return GR__PAGES_UNKNOWN;
}

static int fail_block(struct remote *remote, const struct live_block *block, int rc)
{
	snprintf(remote->failed, sizeof(remote->failed), "block %.128s: %s%s", block->name,
		 rc == -ESTALE ? "its file is another one by now" : strerror(-rc),
		 rc == -EACCES || rc == -EPERM
			 ? " (reading another process's memory takes root, or its user and the "
			   "system's leave to trace)"
			 : "");
	return rc;
}

static int open_range(struct remote *remote, size_t range)
{
	const struct live_range *at = &remote->space->ranges[remote->which[range]];
	const struct live_block *block = &remote->ram->blocks[at->block];
	struct gr__pages_of of = {
		.kind = kind_of(block),
		.pid = remote->live->pid,
		.host = block->host + at->offset,
		.length = remote->ranges[range].length,
		.fd = block->fd,
		.fd_offset = block->fd_offset + at->offset,
		.inode = block->inode,
	};
	int rc;

	if (remote->current == range)
		return 0;
	if (remote->current != SIZE_MAX)
		gr__pages_close(remote->pages);
	remote->current = SIZE_MAX;
	if (!block->host) /* in windows: it has no address that we could read at */
		return fail_block(remote, block, -ENOTSUP);
	rc = gr__pages_open(remote->pages, &of);
	if (rc < 0)
		return fail_block(remote, block, rc);
	remote->current = range;
	return 0;
}

static int next_bytes(void *context, size_t range, uint64_t offset, uint64_t *first,
		      uint64_t *length)
{
	struct remote *remote = context;
	int rc = open_range(remote, range);

	return rc < 0 ? rc : gr__pages_next(remote->pages, offset, first, length);
}

static int read_bytes(void *context, size_t range, uint64_t offset, void *buf, uint64_t length)
{
	struct remote *remote = context;
	int rc = open_range(remote, range);

	return rc < 0 ? rc : gr__pages_read(remote->pages, offset, buf, length);
}

static int progress(void *context, uint64_t done, uint64_t total)
{
	(void)context;
	out_progress("%5.1f%% of %llu MiB", total ? 100.0 * (double)done / (double)total : 100.0,
		     (unsigned long long)(total >> 20));
	return interrupted;
}

static int collect(struct remote *remote)
{
	size_t i;

	remote->ranges = calloc(remote->space->count + 1, sizeof(*remote->ranges));
	remote->which = calloc(remote->space->count + 1, sizeof(*remote->which));
	remote->pages = calloc(1, sizeof(*remote->pages));
	if (!remote->ranges || !remote->which || !remote->pages)
		return cli_fail(ENOMEM, "dump");
	for (i = 0; i < remote->space->count; i++) {
		const struct live_range *range = &remote->space->ranges[i];

		if (!range->visible)
			continue;
		remote->ranges[remote->count] = (struct gr_dump_range){range->addr, range->visible};
		remote->which[remote->count++] = i;
	}
	return CLI_OK;
}

/* -------------------------------------------------------------------------------------- dumping */

/* NULL, told, when there is not exactly one of that name (any, when it is NULL). */
static const struct live_space *find_space(const struct live *live, const char *name,
					   const struct live_ram **ram)
{
	const struct live_space *space = NULL;
	size_t i, k, found = 0, all = 0;

	for (i = 0; i < live->count; i++) {
		for (k = 0; k < live->rams[i].space_count; k++) {
			all++;
			if (name && strcmp(live->rams[i].spaces[k].name, name) != 0)
				continue;
			found++;
			*ram = &live->rams[i];
			space = &live->rams[i].spaces[k];
		}
	}
	if (found == 1)
		return space;
	if (!all) {
		cli_fail(0, "%s has no address space", live->program);
		return NULL;
	}
	fprintf(stderr, "guestram: %s: %s; there are:", live->program,
		!name	? "which address space?"
		: found ? "several address spaces have that name"
			: "no such address space");
	for (i = 0; i < live->count; i++)
		for (k = 0; k < live->rams[i].space_count; k++)
			fprintf(stderr, " %s", live->rams[i].spaces[k].name);
	fputc('\n', stderr);
	return NULL;
}

/* Did the space change since? Told, and no failure: much of a core is worth having all the same. */
static void compare(const char *target, const struct remote *before)
{
	const struct live_space *space = NULL;
	const struct live_ram *ram;
	struct live live;

	if (live_fetch(target, &live)) {
		fprintf(stderr,
			"guestram: the process does not answer any more: its memory may have "
			"changed meanwhile\n");
		return;
	}
	if (live.pid != before->live->pid) {
		fprintf(stderr,
			"guestram: another process answers now: what was dumped may be wrong\n");
	} else {
		space = find_space(&live, before->space->name, &ram);
		if (!space || space->generation != before->space->generation)
			fprintf(stderr,
				"guestram: the address space changed meanwhile (generation %llu to "
				"%llu): ranges may be missing or hold other bytes\n",
				(unsigned long long)before->space->generation,
				(unsigned long long)(space ? space->generation : 0));
	}
	live_free(&live);
}

static void watch_signals(void)
{
	struct sigaction action = {.sa_handler = interrupt, .sa_flags = SA_RESTART};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN); /* it is an error of write() then */
}

static int write_core(struct remote *remote, const struct args *args, int fd,
		      struct gr_dump_stats *stats)
{
	const struct gr_dump_source source = {
		.ranges = remote->ranges,
		.count = remote->count,
		.next = next_bytes,
		.read = read_bytes,
		.context = remote,
	};
	const struct gr_dump_opts opts = {
		.flags = args->no_vaddr ? GR_DUMP_NO_VADDR : 0,
		.machine = args->machine,
		.progress = progress,
		.stats = stats,
	};
	int rc = gr_dump_from(&source, fd, &opts);

	out_progress_end();
	if (remote->current != SIZE_MAX)
		gr__pages_close(remote->pages);
	if (rc == -ECANCELED)
		return cli_fail(0, "dump: interrupted");
	if (rc < 0 && remote->failed[0])
		return cli_fail(0, "dump: %s", remote->failed);
	return rc < 0 ? cli_fail(rc, "dump: %s", gr_last_error()) : CLI_OK;
}

static int dump(struct remote *remote, const struct args *args)
{
	const char *path = args->out ? args->out : "-";
	char bytes[24], written[24], lost[24];
	struct gr_dump_stats stats = {0};
	struct out_file file;
	int rc = collect(remote);

	if (rc)
		return rc;
	rc = out_file_open(&file, path, 0600);
	if (rc)
		return rc;
	watch_signals();
	rc = write_core(remote, args, file.fd, &stats);
	if (rc) {
		out_file_abandon(&file);
		return rc;
	}
	rc = out_file_commit(&file);
	if (rc)
		return rc;
	compare(args->target, remote);
	if (stats.lost)
		fprintf(stderr, "guestram: %s could not be read and stand as zeroes\n",
			human_size(lost, stats.lost));
	fprintf(strcmp(path, "-") != 0 ? stdout : stderr,
		"space %s of %s (%d), generation %llu: %llu ranges, %s, of which %s are not zero\n",
		remote->space->name, remote->live->program, (int)remote->live->pid,
		(unsigned long long)remote->space->generation, (unsigned long long)stats.segments,
		human_size(bytes, stats.bytes), human_size(written, stats.written));
	errno = 0;
	rc = out_flush();
	return rc < 0 ? cli_fail(rc, "standard output") : CLI_OK;
}

int cmd_dump(int argc, char **argv)
{
	struct args args = {0};
	struct live live;
	struct remote remote = {.live = &live, .current = SIZE_MAX};
	int rc;

	cli_parse(&argp, "dump", argc, argv, 0, NULL, &args);
	rc = live_fetch(args.target, &live);
	if (rc)
		return rc;
	if ((!args.out || !strcmp(args.out, "-")) && isatty(STDOUT_FILENO))
		rc = cli_fail(0, "dump: a terminal shows no core: give --out FILE");
	if (!rc) {
		remote.space = find_space(&live, args.space, &remote.ram);
		rc = remote.space ? CLI_OK : CLI_FAILED;
	}
	if (!rc && live.pid <= 0)
		rc = cli_fail(0, "%s: its process is in no namespace that is seen from here",
			      args.target);
	if (!rc)
		rc = dump(&remote, &args);
	free(remote.ranges);
	free(remote.which);
	free(remote.pages);
	live_free(&live);
	return rc;
}
