/* SPDX-License-Identifier: MIT */
/* See mounting.h. */
#include "mounting.h"
#include "cli.h"
#include "mount/mount.h"
#include "stored.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

const struct mounting mounting_defaults = {.threads = 16, .cache = (uint64_t)64 << 20};

struct telling {
	const struct mounting *mounting;
	int fd;	   /* a byte when it is mounted; -1: a line on stdout */
	bool away; /* from then on: no terminal is ours */
};

/* A line's reader would wait for our end otherwise. */
static void leave_terminal(void)
{
	int null = open("/dev/null", O_RDWR), fd;

	for (fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	openlog("guestram", LOG_PID, LOG_DAEMON);
}

static void ready(void *context)
{
	struct telling *telling = context;

	if (telling->fd >= 0) {
		if (telling->away)
			leave_terminal();
		(void)!write(telling->fd, "r", 1); /* nobody listens: nobody minds */
		return;
	}
	printf("guestram: %s is mounted at %s by process %d\n", telling->mounting->stored,
	       telling->mounting->directory, (int)getpid());
	fflush(stdout);
}

static void log_line(void *context, const char *message)
{
	const struct telling *telling = context;

	fprintf(stderr, "guestram: mount: %s\n", message);
	if (telling->away)
		syslog(LOG_ERR, "mount: %s", message);
}

/* What the kernel would say of a folder without telling why. */
static int check_directory(const char *directory)
{
	struct stat st;

	if (stat(directory, &st) < 0)
		return cli_fail(errno,
				errno == ENOTCONN
					? "%s: a mount is left over, whose server is gone "
					  "(umount it)"
					: "%s",
				directory);
	return S_ISDIR(st.st_mode) ? CLI_OK : cli_fail(ENOTDIR, "%s", directory);
}

static int serve_stored(const struct stored *stored, struct telling *telling, int signals)
{
	const struct mounting *mounting = telling->mounting;
	const struct gr__mount_opts opts = {
		.source = &stored->source,
		.blocks = stored->blocks,
		.block_count = stored->block_count,
		.states = stored->states,
		.state_count = stored->state_count,
		.clones = mounting->clones,
		.overlay = mounting->overlay,
		.cache = mounting->cache,
		.threads = mounting->threads,
		.others = mounting->others,
		.ready = ready,
		.log = log_line,
		.context = telling,
	};
	int rc = gr__mount_run(&opts, mounting->directory, signals);

	if (rc == -ETIMEDOUT) { /* threads wait for a store that does not answer */
		cli_fail(0, "mount: requests without an answer are given up");
		_exit(CLI_FAILED);
	}
	return rc < 0 ? cli_fail(rc, "%s cannot be mounted at %s", mounting->stored,
				 mounting->directory)
		      : CLI_OK;
}

static int serve(struct telling *telling)
{
	struct stored stored;
	int signals, rc = check_directory(telling->mounting->directory);
	sigset_t mask;

	if (rc)
		return rc;
	/* blocked before there are threads, so that none of them gets one */
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		return cli_fail(errno, "mount: no signal descriptor");
	rc = stored_open(telling->mounting->stored, telling->mounting->parent,
			 telling->mounting->image, &stored);
	if (!rc) {
		rc = serve_stored(&stored, telling, signals);
		stored_close(&stored);
	}
	close(signals);
	return rc;
}

int mounting_serve(const struct mounting *mounting)
{
	struct telling telling = {mounting, -1, false};

	return serve(&telling);
}

int mounting_start(const struct mounting *mounting, bool with_us, pid_t *pid)
{
	struct telling telling = {mounting, -1, !with_us};
	pid_t parent = getpid(), child;
	int fds[2];
	char byte;

	if (pipe(fds) < 0)
		return cli_fail(errno, "mount: no pipe");
	fflush(NULL);
	child = fork();
	if (child < 0) {
		close(fds[0]);
		close(fds[1]);
		return cli_fail(errno, "mount: no process");
	}
	if (!child) {
		close(fds[0]);
		setsid(); /* a terminal's Ctrl-C is for who uses it, first */
		if (with_us) {
			prctl(PR_SET_PDEATHSIG, SIGTERM);
			if (getppid() != parent)
				_exit(CLI_FAILED);
		}
		telling.fd = fds[1];
		exit(serve(&telling));
	}
	close(fds[1]);
	while (read(fds[0], &byte, 1) < 0 && errno == EINTR)
		byte = 0;
	close(fds[0]);
	if (byte != 'r') {
		waitpid(child, NULL, 0);
		return CLI_FAILED; /* it has told why */
	}
	*pid = child;
	return CLI_OK;
}

void mounting_stop(pid_t pid)
{
	kill(pid, SIGTERM);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}
