/* SPDX-License-Identifier: MIT */
/*
 * guestram pager: serve the pages of an image, a snapshot or a store to monitors that hand over
 * their userfaultfd, until SIGTERM or SIGINT.
 *
 * Processes: the one that was started keeps watch (pager_keeper.c); its child opens the source,
 * which may start threads, and serves. Threads of the child: main waits for signals, one opens the
 * source, later one runs the server, the rest are the library's.
 */
#include "cli.h"
#include "pager_keeper.h"
#include "source_arg.h"
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
	struct source_arg source;
	const char *socket, *record, *prefetch;
	bool no_prefetch, leave, quiet;
	unsigned workers, sessions, handshake_ms;
	uint64_t max_buffers;
};

enum option_key {
	KEY_SOCKET = 256,
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
	{"record", KEY_RECORD, "FILE", 0,
	 "Write which pages the first monitor touches, in order, when it has gone", 0},
	{"prefetch", KEY_PREFETCH, "FILE", 0, "Fetch these first, as they were recorded", 0},
	{"no-prefetch", KEY_NO_PREFETCH, NULL, 0, "Fetch nothing else before it is touched", 0},
	{"workers", KEY_WORKERS, "N", 0, "Threads that read the source (default 2)", 0},
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
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &args->source;
		return 0;
	case KEY_SOCKET:
		args->socket = arg;
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
		if (!args->socket)
			cli_usage(state, "--socket is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child pager_children[] = {{&source_argp, 0, NULL, 0}, {0}};
static const struct argp pager_argp = {
	.options = options,
	.parser = parse,
	.doc = "Serve the pages of a guest's memory to monitors (Firecracker and others) that hand "
	       "over their userfaultfd.",
	.children = pager_children,
};

struct serving {
	struct source_arg *source;
	struct gr_pager_server *server;
	bool quiet;
	int keeper;  /* or -1 */
	int signals; /* signalfd */
	int over;    /* event: the thread has done what it was started for */
	int rc;	     /* of the server's run */
	int status;  /* of opening the source */
};

static void say_over(const struct serving *serving)
{
	uint64_t one = 1;

	(void)!write(serving->over, &one, sizeof(one)); /* an eventfd takes a 1 */
}

static void *run(void *arg)
{
	struct serving *serving = arg;

	serving->rc = gr_pager_server_run(serving->server);
	say_over(serving);
	return NULL;
}

/* false: a signal was faster. */
static bool wait_over(const struct serving *serving)
{
	struct pollfd fds[] = {
		{.fd = serving->over, .events = POLLIN},
		{.fd = serving->signals, .events = POLLIN},
	};
	uint64_t count;

	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	return fds[0].revents && read(serving->over, &count, sizeof(count)) == sizeof(count);
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

static void *open_source(void *arg)
{
	struct serving *serving = arg;

	serving->status = source_arg_open(serving->source, "pager", log_line, serving);
	say_over(serving);
	return NULL;
}

/* On a thread, since a store that does not answer takes its time, and signals are not to wait. */
static int open_or_end(struct serving *serving)
{
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, open_source, serving);

	if (rc)
		return cli_fail(rc, "pager: no thread");
	if (!wait_over(serving))
		_exit(CLI_OK); /* nothing has begun that others would see */
	pthread_join(thread, NULL);
	return serving->status;
}

static int serve_source(const struct args *args, struct serving *serving)
{
	struct gr_pager_server_opts opts = {
		.socket_path = args->socket,
		.source = &serving->source->source,
		.block = serving->source->block,
		.flags = args->no_prefetch ? GR_PAGER_NO_PREFETCH : 0,
		.workers = args->workers,
		.max_sessions = args->sessions,
		.handshake_ms = args->handshake_ms,
		.max_buffers = args->max_buffers,
		.record = args->record,
		.prefetch = args->prefetch,
		.session = tell_keeper,
		.log = log_line,
		.log_context = serving,
	};
	pthread_t thread;
	int rc = gr_pager_server_open(&opts, &serving->server), status = CLI_OK;

	if (rc < 0)
		return cli_fail_gr(rc, "pager %s", args->socket);
	rc = pthread_create(&thread, NULL, run, serving);
	if (rc) {
		status = cli_fail(rc, "pager: no thread");
		goto close_server;
	}
	printf("guestram: pages of %s at %s\n", source_arg_name(serving->source), args->socket);
	fflush(stdout);
	wait_over(serving);
	gr_pager_server_stop(serving->server);
	pthread_join(thread, NULL);
	if (serving->rc < 0)
		status = cli_fail(serving->rc, "pager %s", args->socket);
close_server:
	rc = gr_pager_server_close(serving->server);
	return rc < 0 ? cli_fail_gr(rc, "pager") : status;
}

static int serve(struct args *args, int keeper, int signals)
{
	struct serving serving = {
		.source = &args->source,
		.quiet = args->quiet,
		.keeper = keeper,
		.signals = signals,
		.over = eventfd(0, EFD_CLOEXEC),
	};
	int status;

	if (serving.over < 0)
		return cli_fail(errno, "pager: no eventfd");
	status = open_or_end(&serving);
	if (!status) {
		status = serve_source(args, &serving);
		source_arg_close(&args->source);
	}
	close(serving.over);
	return status;
}

static int with_keeper(struct args *args, int signals)
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
		rc = serve(args, pair[1], signals);
		exit(rc);
	}
	close(pair[1]);
	return pager_keeper_run(pair[0], child, signals);
}

int cmd_pager(int argc, char **argv)
{
	struct args args = {0};
	int signals, status;
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
	status = args.leave ? serve(&args, -1, signals) : with_keeper(&args, signals);
	close(signals);
	return status;
}
