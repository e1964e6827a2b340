/* SPDX-License-Identifier: MIT */
/*
 * guestram qemu save: a running guest of QEMU becomes a snapshot. It is stopped; QEMU writes what
 * its devices are in into a pipe (a migration that leaves shared memory out); the memory is copied
 * out of its files; and it goes on. Whatever fails on the way, it goes on.
 *
 * Threads: main, and those of gr_snapshot_save().
 */
#include "cli.h"
#include "out.h"
#include "qemu.h"
#include "qemu_memory.h"
#include "qmp.h"
#include <errno.h>
#include <fcntl.h>
#include <guestram/snapshot.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STATE_MAX ((size_t)256 << 20)
enum { STATE_MS = 60000, LOOK_MS = 100 };

struct args {
	const char *socket, *out, *parent;
	bool quit, stay, packed, json;
};

enum option_key { KEY_QMP = 256, KEY_PARENT, KEY_QUIT, KEY_STAY, KEY_PACKED, KEY_JSON };

static const struct argp_option options[] = {
	{"qmp", KEY_QMP, "SOCKET", 0, "QEMU's control socket (-qmp unix:SOCKET,server=on,wait=off)",
	 0},
	{"parent", KEY_PARENT, "FILE", 0, "Keep only what differs from this snapshot, as its child",
	 0},
	{"quit", KEY_QUIT, NULL, 0, "End QEMU when it is saved", 0},
	{"stay", KEY_STAY, NULL, 0, "Leave it stopped", 0},
	{"packed", KEY_PACKED, NULL, 0, "Compress the snapshot", 0},
	{"json", KEY_JSON, NULL, 0, "Print one JSON object", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case KEY_QMP:
		args->socket = arg;
		return 0;
	case KEY_PARENT:
		args->parent = arg;
		return 0;
	case KEY_QUIT:
		args->quit = true;
		return 0;
	case KEY_STAY:
		args->stay = true;
		return 0;
	case KEY_PACKED:
		args->packed = true;
		return 0;
	case KEY_JSON:
		args->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num)
			cli_usage(state, "unexpected: %s", arg);
		args->out = arg;
		return 0;
	case ARGP_KEY_END:
		if (!args->socket || !args->out)
			cli_usage(state, "--qmp SOCKET and SNAPSHOT are needed");
		if (args->quit && args->stay)
			cli_usage(state, "--quit and --stay: one of them");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "SNAPSHOT",
	.doc = "Freeze a running guest of QEMU into a file. Its memory has to be in "
	       "memory-backend-memfd "
	       "or memory-backend-file, with share=on.",
};

/* --------------------------------------------------------------------------------- device state */

struct state {
	char *bytes;
	size_t length, room;
};

/* 1: there may be more; 0: that was all; or -errno. */
static int read_some(int fd, struct state *state)
{
	ssize_t got;

	if (state->length == state->room) {
		size_t room = state->room ? 2 * state->room : (size_t)1 << 20;
		char *bytes = state->room >= STATE_MAX ? NULL : realloc(state->bytes, room);

		if (!bytes)
			return state->room >= STATE_MAX ? -EFBIG : -ENOMEM;
		state->bytes = bytes;
		state->room = room;
	}
	got = read(fd, state->bytes + state->length, state->room - state->length);
	if (got < 0)
		return errno == EINTR ? 1 : -errno;
	state->length += (size_t)got;
	return got > 0;
}

/* What has become of the migration: 1 it runs, 0 it is done, or CLI_FAILED < 0 as -1, told. */
static int look_at_migration(struct qmp *qmp)
{
	char status[32], why[512];
	json_t *answer;
	int rc = -1;

	if (qmp_run(qmp, "query-migrate", NULL, -1, &answer))
		return -1;
	if (!qmp_text(answer, "status", status, sizeof(status))) {
		if (!strcmp(status, "completed"))
			rc = 0;
		else if (strcmp(status, "failed") != 0 && strcmp(status, "cancelled") != 0)
			rc = 1;
		else if (!json_object_get(answer, "error-desc"))
			cli_fail(0, "QEMU could not write its devices' state");
		else if (!qmp_text(answer, "error-desc", why, sizeof(why)))
			cli_fail(0, "QEMU could not write its devices' state: %s", why);
	}
	json_decref(answer);
	return rc;
}

static int receive(struct qmp *qmp, int fd, struct state *state)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	int waited = 0, more = 1, rc;

	while (more > 0) {
		rc = poll(&poll_fd, 1, LOOK_MS);
		if (rc > 0) {
			more = read_some(fd, state);
			continue;
		}
		waited += LOOK_MS;
		if (look_at_migration(qmp) < 0)
			return CLI_FAILED;
		if (waited > STATE_MS)
			more = -ETIMEDOUT;
	}
	if (more < 0)
		return cli_fail(more, "the devices' state");
	/* it closes the pipe a moment before it says that it is done */
	while ((rc = look_at_migration(qmp)) > 0 && waited < STATE_MS) {
		poll(NULL, 0, 5);
		waited += 5;
	}
	return rc ? CLI_FAILED : CLI_OK;
}

static int take_state(struct qmp *qmp, struct state *state)
{
	int fds[2], rc;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return cli_fail(errno, "no pipe");
	rc = qmp_give(qmp, QEMU_FD, fds[1]);
	close(fds[1]);
	if (!rc)
		rc = qmp_run(qmp, "migrate", json_pack("{s:s}", "uri", "fd:" QEMU_FD), -1, NULL);
	if (!rc) {
		rc = receive(qmp, fds[0], state);
		if (rc)
			(void)qmp_run(qmp, "migrate_cancel", NULL, -1, NULL);
	}
	close(fds[0]);
	return rc;
}

/* -------------------------------------------------------------------------------------- snapshot
 */

static int put_state(void *context, struct gr_snapshot_state *into)
{
	const struct state *state = context;

	return gr_snapshot_put_state(into, QEMU_STATE, state->bytes, state->length);
}

static int add_blocks(struct gr_ram *ram, const struct qemu_memory *memory)
{
	size_t n;

	for (n = 0; n < memory->count; n++) {
		const struct qemu_block *block = &memory->blocks[n];
		struct gr_block_opts opts = {
			.name = block->id,
			.backing = GR_BACKING_FILE,
			.length = block->size,
			.fd = block->fd,
		};
		struct gr_block *made;
		int rc = gr_block_new(ram, &opts, &made);

		if (rc < 0)
			return cli_fail_gr(rc, "%s", block->id);
	}
	return CLI_OK;
}

static int write_snapshot(const struct args *args, const struct qemu_memory *memory,
			  struct state *state, struct gr_snapshot *parent,
			  struct gr_snapshot_stats *stats)
{
	static const struct gr_snapshot_ops ops = {.state = put_state};
	const struct gr_snapshot_opts opts = {
		.layout = args->packed ? GR_SNAPSHOT_PACKED : GR_SNAPSHOT_MAPPED,
		.parent = parent,
		.ops = &ops,
		.context = state,
	};
	struct gr_ram *ram;
	int rc = gr_ram_open(NULL, &ram);

	if (rc < 0)
		return cli_fail_gr(rc, "save");
	rc = add_blocks(ram, memory);
	if (!rc) {
		rc = gr_snapshot_save(ram, args->out, &opts, stats);
		if (rc < 0)
			rc = cli_fail_gr(rc, "%s", args->out);
	}
	gr_ram_close(ram);
	return rc;
}

/* ------------------------------------------------------------------------------------------ save
 */

static double now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static int is_running(struct qmp *qmp, bool *running)
{
	json_t *answer;
	int rc = qmp_run(qmp, "query-status", NULL, -1, &answer);

	if (rc)
		return rc;
	*running = json_is_true(json_object_get(answer, "running"));
	json_decref(answer);
	return CLI_OK;
}

struct figures {
	double pause_ms, device_ms;
	size_t device_bytes;
	struct gr_snapshot_stats stats;
};

/* While it is stopped. */
static int freeze(const struct args *args, struct qmp *qmp, const struct qemu_memory *memory,
		  struct gr_snapshot *parent, struct figures *figures)
{
	struct state state = {0};
	double start = now_ms();
	int rc = qmp_ignore_shared(qmp, true);

	if (!rc) {
		rc = take_state(qmp, &state);
		if (qmp_ignore_shared(qmp, false))
			rc = CLI_FAILED;
	}
	figures->device_ms = now_ms() - start;
	figures->device_bytes = state.length;
	if (!rc)
		rc = write_snapshot(args, memory, &state, parent, &figures->stats);
	free(state.bytes);
	return rc;
}

static int stop_and_freeze(const struct args *args, struct qmp *qmp,
			   const struct qemu_memory *memory, struct gr_snapshot *parent,
			   struct figures *figures)
{
	double start = now_ms();
	bool running;
	int rc = is_running(qmp, &running);

	if (!rc && running)
		rc = qmp_run(qmp, "stop", NULL, -1, NULL);
	if (rc)
		return rc;
	rc = freeze(args, qmp, memory, parent, figures);
	if (!rc && args->quit)
		return qmp_quit(qmp);
	/* one that did not run does not begin to */
	if (running && (rc || !args->stay) && qmp_run(qmp, "cont", NULL, -1, NULL))
		return cli_fail(0, "the guest is left stopped");
	figures->pause_ms = now_ms() - start;
	return rc;
}

static int print(const struct args *args, const struct figures *figures)
{
	const struct gr_snapshot_stats *stats = &figures->stats;
	json_t *object;
	int rc;

	if (args->json) {
		object = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "snapshot",
				   args->out, "memory_bytes", (json_int_t)stats->bytes,
				   "data_bytes", (json_int_t)stats->bytes_data, "stored_bytes",
				   (json_int_t)stats->bytes_stored, "file_bytes",
				   (json_int_t)stats->file_bytes, "device_bytes",
				   (json_int_t)figures->device_bytes, "device_ms",
				   figures->device_ms, "pause_ms", figures->pause_ms);
		rc = object ? out_json(object) : -ENOMEM;
		json_decref(object);
	} else {
		printf("%s: %.1f of %.1f MiB, %zu KiB of devices; stopped for %.0f ms\n", args->out,
		       (double)stats->bytes_data / (1 << 20), (double)stats->bytes / (1 << 20),
		       figures->device_bytes >> 10, figures->pause_ms);
		rc = 0;
	}
	if (!rc)
		rc = out_flush();
	return rc < 0 ? cli_fail(rc, "standard output") : CLI_OK;
}

int cmd_qemu_save(int argc, char **argv)
{
	struct gr_snapshot *parent = NULL;
	struct figures figures = {0};
	struct qemu_memory memory;
	struct args args = {0};
	struct qmp qmp;
	int rc;

	cli_parse(&argp, "qemu save", argc, argv, 0, NULL, &args);
	rc = qmp_open(args.socket, 0, 0, &qmp);
	if (rc)
		return rc;
	if (args.parent) {
		rc = gr_snapshot_open(args.parent, NULL, &parent);
		if (rc < 0) {
			rc = cli_fail_gr(rc, "%s", args.parent);
			goto close_qmp;
		}
	}
	rc = qemu_memory_find(&qmp, &memory);
	if (!rc) {
		rc = stop_and_freeze(&args, &qmp, &memory, parent, &figures);
		qemu_memory_close(&memory);
	}
	gr_snapshot_close(parent);
	if (!rc)
		rc = print(&args, &figures);
close_qmp:
	qmp_close(&qmp);
	return rc;
}
