/* SPDX-License-Identifier: MIT */
/*
 * guestram pager: serve the pages of an image to monitors that hand over their userfaultfd, until
 * SIGTERM or SIGINT.
 *
 * Processes: the one that was started keeps watch (pager_keeper.c); its child serves. Threads of
 * the child: main waits for signals, one runs the server, the rest are the library's.
 */
#include "cli.h"
#include "pager_keeper.h"
#include <errno.h>
#include <guestram/pager.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

struct args {
	const char *socket, *image, *record, *prefetch;
	bool no_prefetch, leave, quiet;
	unsigned workers, sessions, handshake_ms;
	uint64_t max_buffers;
};

enum option_key {
	KEY_SOCKET = 256,
	KEY_IMAGE,
	KEY_RECORD,
	KEY_PREFETCH,
	KEY_NO_PREFETCH,
	KEY_WORKERS,
	KEY_SESSIONS,
	KEY_BUFFERS,
	KEY_HANDSHAKE,
	KEY_LEAVE,
	KEY_QUIET,
};

static const struct argp_option options[] = {
	{"socket", KEY_SOCKET, "PATH", 0, "Listen for monitors here", 0},
	{"image", KEY_IMAGE, "FILE", 0, "The memory: a raw file, whose holes are zero", 0},
	{"record", KEY_RECORD, "FILE", 0,
	 "Write which pages the first monitor touches, in order, when it has gone", 0},
	{"prefetch", KEY_PREFETCH, "FILE", 0, "Fetch these first, as they were recorded", 0},
	{"no-prefetch", KEY_NO_PREFETCH, NULL, 0, "Fetch nothing else before it is touched", 0},
	{"workers", KEY_WORKERS, "N", 0, "Threads that read the image (default 2)", 0},
	{"sessions", KEY_SESSIONS, "N", 0, "Monitors at once (default 1024)", 0},
	{"buffers", KEY_BUFFERS, "MIB", 0, "Memory in flight, of all monitors (default 16)", 0},
	{"handshake-ms", KEY_HANDSHAKE, "N", 0,
	 "Refuse a monitor that has not told all by then (default 5000)", 0},
	{"leave-orphans", KEY_LEAVE, NULL, 0,
	 "Do not kill monitors that miss pages when this ends: they hang", 0},
	{"quiet", KEY_QUIET, NULL, 0, "Say nothing but errors", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case KEY_SOCKET:
		args->socket = arg;
		return 0;
	case KEY_IMAGE:
		args->image = arg;
		return 0;
	case KEY_RECORD:
		args->record = arg;
		return 0;
	case KEY_PREFETCH:
		args->prefetch = arg;
		return 0;
	case KEY_NO_PREFETCH:
		args->no_prefetch = true;
		return 0;
	case KEY_WORKERS:
		args->workers = (unsigned)cli_number(state, "--workers", arg, 1, 64);
		return 0;
	case KEY_SESSIONS:
		args->sessions = (unsigned)cli_number(state, "--sessions", arg, 1, 4096);
		return 0;
	case KEY_BUFFERS:
		args->max_buffers = cli_number(state, "--buffers", arg, 1, 65536) << 20;
		return 0;
	case KEY_HANDSHAKE:
		args->handshake_ms = (unsigned)cli_number(state, "--handshake-ms", arg, 1, 3600000);
		return 0;
	case KEY_LEAVE:
		args->leave = true;
		return 0;
	case KEY_QUIET:
		args->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		cli_usage(state, "unexpected: %s", arg);
	case ARGP_KEY_END:
		if (!args->socket || !args->image)
			cli_usage(state, "--socket and --image are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp pager_argp = {
	.options = options,
	.parser = parse,
	.doc = "Serve the pages of a memory image to monitors (Firecracker and others) that hand "
	       "over their userfaultfd.",
};

struct serving {
	struct gr_pager_server *server;
	bool quiet;
	int keeper; /* or -1 */
	int ended;  /* event: run() is over */
	int rc;
};

static void *run(void *arg)
{
	struct serving *serving = arg;
	uint64_t one = 1;

	serving->rc = gr_pager_server_run(serving->server);
	(void)!write(serving->ended, &one, sizeof(one)); /* a fresh eventfd takes a 1 */
	return NULL;
}

static void log_line(void *context, enum gr_log_level level, const char *message)
{
	static const char *const names[] = {"error: ", "warning: ", ""};
	const struct serving *serving = context;

	if (level != GR_LOG_INFO || !serving->quiet)
		fprintf(stderr, "guestram: pager: %s%s\n", names[level], message);
}

static int tell_keeper(void *context, uint64_t number, enum gr_pager_news news, int pid, int uffd)
{
	const struct serving *serving = context;
	int rc = serving->keeper < 0 ? 0
				     : pager_keeper_tell(serving->keeper, number, news, pid, uffd);

	if (rc == -ESRCH)
		log_line(context, GR_LOG_ERROR,
			 "the monitor's process is not to be seen from here (another PID "
			 "namespace?); see --leave-orphans");
	return rc;
}

static int serve(const struct args *args, const struct gr_page_source *source, int keeper,
		 int signals)
{
	struct serving serving = {.keeper = keeper, .quiet = args->quiet};
	struct gr_pager_server_opts opts = {
		.socket_path = args->socket,
		.source = source,
		.flags = args->no_prefetch ? GR_PAGER_NO_PREFETCH : 0,
		.workers = args->workers,
		.max_sessions = args->sessions,
		.handshake_ms = args->handshake_ms,
		.max_buffers = args->max_buffers,
		.record = args->record,
		.prefetch = args->prefetch,
		.session = tell_keeper,
		.log = log_line,
		.log_context = &serving,
	};
	struct pollfd fds[2];
	pthread_t thread;
	int rc = gr_pager_server_open(&opts, &serving.server), status = CLI_OK;

	if (rc < 0)
		return cli_fail_gr(rc, "pager %s", args->socket);
	serving.ended = eventfd(0, EFD_CLOEXEC);
	if (serving.ended < 0) {
		status = cli_fail(errno, "pager: no eventfd");
		goto close_server;
	}
	rc = pthread_create(&thread, NULL, run, &serving);
	if (rc) {
		status = cli_fail(rc, "pager: no thread");
		goto close_server;
	}
	printf("guestram: pages of %s at %s\n", args->image, args->socket);
	fflush(stdout);
	fds[0] = (struct pollfd){.fd = signals, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = serving.ended, .events = POLLIN};
	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	gr_pager_server_stop(serving.server);
	pthread_join(thread, NULL);
	if (serving.rc < 0)
		status = cli_fail(serving.rc, "pager %s", args->socket);
close_server:
	rc = gr_pager_server_close(serving.server);
	if (serving.ended >= 0)
		close(serving.ended);
	return rc < 0 ? cli_fail_gr(rc, "pager") : status;
}

static int with_keeper(const struct args *args, const struct gr_page_source *source, int signals)
{
	pid_t parent = getpid(), child;
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return cli_fail(errno, "pager: no socket pair");
	child = fork();
	if (child < 0)
		return cli_fail(errno, "pager: no process");
	if (!child) {
		close(pair[0]);
		/* it ends with its parent, so that killing either ends all */
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != parent)
			_exit(CLI_FAILED);
		rc = serve(args, source, pair[1], signals);
		exit(rc);
	}
	close(pair[1]);
	return pager_keeper_run(pair[0], child, signals);
}

int cmd_pager(int argc, char **argv)
{
	struct gr_page_source source;
	struct args args = {0};
	int signals, rc;
	sigset_t mask;

	cli_parse(&pager_argp, "pager", argc, argv, 0, NULL, &args);
	/* blocked before there are threads, so that none of them gets one */
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	pthread_sigmask(SIG_BLOCK, &mask, NULL);
	signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		return cli_fail(errno, "pager: no signal descriptor");
	rc = gr_image_source_open(args.image, &source);
	if (rc < 0) {
		rc = cli_fail_gr(rc, "pager");
		goto close_signals;
	}
	rc = args.leave ? serve(&args, &source, -1, signals) : with_keeper(&args, &source, signals);
	gr_page_source_close(&source);
close_signals:
	close(signals);
	return rc;
}
