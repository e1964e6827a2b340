/* SPDX-License-Identifier: MIT */
/*
 * guestram serve blk: a file as a vhost-user disk, until SIGTERM or SIGINT.
 *
 * Threads: main waits for signals; one thread serves messages; the library's workers run the
 * queues, and one more answers the status socket, so that it answers while requests hang.
 */
#include "blk_args.h"
#ifdef CLI_STATUS
#include "blk_status.h"
#endif
#include "cli.h"
#include <errno.h>
#include <guestram/vhost.h>
#ifdef CLI_STATUS
#include <guestram/status.h>
#endif
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum option_key {
	KEY_SOCKET = 256,
	KEY_FILE,
	KEY_NULL,
	KEY_READ_ONLY,
	KEY_DIRECT,
	KEY_BLOCK_SIZE,
	KEY_QUEUES,
	KEY_THREADS,
	KEY_POLL,
	KEY_STATUS,
	KEY_IO,
	KEY_SERIAL,
	KEY_BLOCKDEV,
	KEY_EXPORT,
	KEY_OBJECT,
};

static const struct argp_option options[] = {
	{"socket", KEY_SOCKET, "PATH", 0, "Listen for a vhost-user front-end here", 0},
	{"file", KEY_FILE, "FILE", 0, "The disk: a file or block device", 0},
	{"null", KEY_NULL, "SIZE", 0,
	 "No file: a disk of SIZE bytes that keeps nothing, to measure all but the file", 0},
	{"read-only", KEY_READ_ONLY, NULL, 0, "Refuse writes", 0},
	{"direct", KEY_DIRECT, NULL, 0, "Go past the host's page cache", 0},
	{"block-size", KEY_BLOCK_SIZE, "BYTES", 0,
	 "What the disk says its blocks have, a power of two (default 512)", 0},
	{"queues", KEY_QUEUES, "N", 0, "Queues the disk has (default 1)", 0},
	{"threads", KEY_THREADS, "N", 0, "Threads that run them (default: one each)", 0},
	{"poll", KEY_POLL, "US", 0,
	 "Look at the rings for up to US microseconds before sleeping, while that is worth it "
	 "(default 32; 0: never)",
	 0},
#ifdef CLI_STATUS
	{"status", KEY_STATUS, "PATH", 0,
	 "Let 'guestram map', 'top' and 'dump' look at it through this socket", 0},
	{"status-socket", 0, NULL, OPTION_ALIAS, NULL, 0},
#endif
	{"io", KEY_IO, "uring|plain", 0,
	 "How the file is read and written (default: plain calls in memory, else uring if it can "
	 "be)",
	 0},
	{"serial", KEY_SERIAL, "TEXT", 0,
	 "The disk's identification, up to 20 bytes (default: the file's name, if it is as short)",
	 0},
	{NULL, 0, NULL, 0, "The words of qemu-storage-daemon, instead of --socket and --file:", 1},
	{"blockdev", KEY_BLOCKDEV, "driver=file,node-name=NODE,filename=FILE,…", 0,
	 "The disk; driver: file, host_device, null-co, or raw over another node", 0},
	{"export", KEY_EXPORT,
	 "type=vhost-user-blk,id=ID,node-name=NODE,addr.type=unix,addr.path=PATH,…", 0,
	 "Where it is offered", 0},
	{"object", KEY_OBJECT, "iothread,id=ID[,poll-max-ns=NS]", 0,
	 "A thread that an export may name", 0},
	{0},
};

/* @option and what --blockdev or --export said are the same thing. */
static void say_once(const struct argp_state *state, const char *option, bool given)
{
	if (given)
		cli_usage(state, "%s, and --blockdev or --export: say it in one way", option);
}

/* All was read: is it a disk? */
static void check(const struct argp_state *state, struct blk_args *args)
{
	if (blk_words_given(&args->words)) {
		say_once(state, "--socket", args->socket);
		say_once(state, "--null", args->null_size);
		say_once(state, "--file", args->file);
		say_once(state, "--read-only", args->read_only);
		say_once(state, "--direct", args->direct);
		say_once(state, "--block-size", args->block_size);
		say_once(state, "--queues", args->queues);
		blk_words_apply(state, &args->words, args);
	}
	args->queues = args->queues ? args->queues : 1;
	args->block_size = args->block_size ? args->block_size : BLK_SECTOR;
	if (!args->socket || (!args->file && !args->null_size))
		cli_usage(state, "--socket and --file are needed");
	if (args->file && args->null_size)
		cli_usage(state, "--file and --null: one disk for each program");
	if (args->block_size & (args->block_size - 1))
		cli_usage(state, "a block of %u bytes: not a power of two", args->block_size);
	if (args->threads > args->queues)
		cli_usage(state, "--threads: %u for %u queues", args->threads, args->queues);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct blk_args *args = state->input;

	switch (key) {
	case KEY_SOCKET:
		args->socket = arg;
		return 0;
	case KEY_FILE:
		args->file = arg;
		return 0;
	case KEY_NULL:
		args->null_size = cli_number(state, "--null", arg, 512, UINT64_C(1) << 62);
		return 0;
	case KEY_READ_ONLY:
		args->read_only = true;
		return 0;
	case KEY_DIRECT:
		args->direct = true;
		return 0;
	case KEY_BLOCK_SIZE:
		args->block_size =
			(unsigned)cli_number(state, "--block-size", arg, 512, BLK_BLOCK_MAX);
		return 0;
	case KEY_QUEUES:
		args->queues = (unsigned)cli_number(state, "--queues", arg, 1, 256);
		return 0;
	case KEY_THREADS:
		args->threads = (unsigned)cli_number(state, "--threads", arg, 1, 256);
		return 0;
	case KEY_POLL:
		args->poll_us = (unsigned)cli_number(state, "--poll", arg, 0, 1000000);
		return 0;
	case KEY_STATUS:
		args->status = arg;
		return 0;
	case KEY_SERIAL:
		if (strlen(arg) > BLK_ID_BYTES)
			cli_usage(state, "--serial: at most %d bytes: %s", BLK_ID_BYTES, arg);
		args->id = arg;
		return 0;
	case KEY_IO:
		if (strcmp(arg, "uring") && strcmp(arg, "plain"))
			cli_usage(state, "--io: neither uring nor plain: %s", arg);
		args->io = strcmp(arg, "uring") ? BLK_IO_PLAIN : BLK_IO_URING;
		return 0;
	case KEY_BLOCKDEV:
		blk_words_take(state, &args->words, "--blockdev", arg);
		return 0;
	case KEY_EXPORT:
		blk_words_take(state, &args->words, "--export", arg);
		return 0;
	case KEY_OBJECT:
		blk_words_take(state, &args->words, "--object", arg);
		return 0;
	case ARGP_KEY_ARG:
		cli_usage(state, "unexpected: %s", arg);
	case ARGP_KEY_END:
		check(state, args);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp blk_argp = {
	.options = options,
	.parser = parse,
	.doc = "Offer a file as a disk to a virtual machine, over vhost-user.",
};

struct serving {
	struct gr_vhost *server;
	int ended; /* event: run() is over */
	int rc;
};

static void *run(void *arg)
{
	struct serving *serving = arg;
	uint64_t one = 1;

	serving->rc = gr_vhost_run(serving->server);
	(void)!write(serving->ended, &one, sizeof(one)); /* a fresh eventfd takes a 1 */
	return NULL;
}

static void log_line(void *context, enum gr_log_level level, const char *message)
{
	static const char *const names[] = {"error: ", "warning: ", ""};

	(void)context;
	fprintf(stderr, "guestram: %s%s\n", names[level], message);
}

/* Until a signal comes or the server fails. */
static void wait_for_end(int signals, struct serving *serving)
{
	struct pollfd fds[] = {
		{.fd = signals, .events = POLLIN},
		{.fd = serving->ended, .events = POLLIN},
	};

	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
}

#ifdef CLI_STATUS
static int show_status(const struct blk_args *args, struct blk_status *status)
{
	int rc = args->status ? gr_status_add("blk", blk_status_text, status) : 0;

	if (!rc && args->status)
		rc = gr_status_serve(args->status);
	return rc < 0 ? cli_fail_gr(rc, "serve") : CLI_OK;
}

static void hide_status(const struct blk_args *args)
{
	if (!args->status)
		return;
	gr_status_stop();
	gr_status_remove("blk");
}
#endif

static int serve(const struct blk_args *args, struct blk *blk, int signals)
{
	struct gr_vhost_opts opts = {
		.socket_path = args->socket,
		.ops = &blk->ops,
		.context = blk,
		.flags = GR_VHOST_SIGBUS,
		.queues = args->queues,
		.threads = args->threads,
		.poll_ns = args->poll_us * UINT64_C(1000),
		.log = log_line,
	};
	struct serving serving = {.rc = 0};
#ifdef CLI_STATUS
	struct blk_status status = {.blk = blk};
#endif
	pthread_t thread;
	int rc = gr_vhost_open(&opts, &serving.server);

	if (rc < 0)
		return cli_fail_gr(rc, "serve %s", args->socket);
	serving.ended = eventfd(0, EFD_CLOEXEC);
	if (serving.ended < 0) {
		rc = cli_fail(errno, "serve: no eventfd");
		goto close_server;
	}
#ifdef CLI_STATUS
	status.server = serving.server;
	rc = show_status(args, &status);
	if (rc)
		goto hide_status;
#endif
	rc = pthread_create(&thread, NULL, run, &serving);
	if (rc) {
		rc = cli_fail(rc, "serve: no thread");
		goto hide_status;
	}
	printf("guestram: serving %s (%llu bytes) at %s\n", args->file ? args->file : "nothing",
	       (unsigned long long)blk->sectors * BLK_SECTOR, args->socket);
	fflush(stdout);
	wait_for_end(signals, &serving);
	gr_vhost_stop(serving.server);
	pthread_join(thread, NULL);
	rc = serving.rc < 0 ? cli_fail(serving.rc, "serve %s", args->socket) : CLI_OK;
hide_status:
#ifdef CLI_STATUS
	hide_status(args);
#endif
close_server:
	gr_vhost_close(serving.server);
	if (serving.ended >= 0)
		close(serving.ended);
	return rc;
}

/* What the guest reads as its serial number. A name that does not fit would be another one's. */
static const char *identification(const struct blk_args *args)
{
	const char *name = args->file ? args->file : "null", *slash = strrchr(name, '/');

	if (args->id)
		return args->id;
	name = slash ? slash + 1 : name;
	return strlen(name) > BLK_ID_BYTES ? "" : name;
}

static int serve_blk(const struct blk_args *args)
{
	struct blk blk = {
		.fd = -1,
		.sectors = args->null_size / BLK_SECTOR,
		.block_size = args->block_size,
		.read_only = args->read_only,
		.direct = args->direct,
		.keep_discarded = args->keep_discarded,
		.zeroes = args->zeroes,
		.io = args->io,
		.queues = args->queues,
		.worker_max = args->threads ? args->threads : args->queues,
	};
	const char *name = args->file ? args->file : "null", *what;
	int signals, rc;
	sigset_t mask;

	snprintf(blk.id, sizeof(blk.id), "%s", identification(args));
	/* blocked before there are threads, so that none of them gets one */
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	pthread_sigmask(SIG_BLOCK, &mask, NULL);
	signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		return cli_fail(errno, "serve: no signal descriptor");
	rc = blk_open(&blk, args->file, &what);
	if (rc < 0) {
		rc = cli_fail(rc, "%s: %s", name, what);
		goto close_signals;
	}
	rc = serve(args, &blk, signals);
	blk_close(&blk);
close_signals:
	close(signals);
	return rc;
}

int cmd_serve(int argc, char **argv)
{
	struct blk_args args = {.poll_us = BLK_POLL_US};
	static const struct argp none = {
		.args_doc = "blk OPTION…",
		.doc = "Serve a device over vhost-user. Devices: blk (see 'guestram serve blk "
		       "--help').",
	};

	if (argc < 2 || strcmp(argv[1], "blk")) {
		int next = 0;

		cli_parse(&none, "serve", argc, argv, ARGP_IN_ORDER | ARGP_NO_ARGS, &next, NULL);
		cli_usage(NULL, argc < 2 ? "no device given" : "no such device: %s", argv[1]);
	}
	cli_parse(&blk_argp, "serve blk", argc - 1, argv + 1, 0, NULL, &args);
	return serve_blk(&args);
}
