/* SPDX-License-Identifier: MIT */
/*
 * guestram qemu clone: QEMU with the memory of a snapshot, read when it is touched, goes on where
 * the saved guest stopped.
 *
 *   guestram ──┬── mount      (a child; unless a folder of a mount is given)
 *              └── QEMU       -object memory-backend-file,mem-path=…  -incoming defer
 *
 * Threads: main. Both children end with it, whatever ends it.
 */
#include "cli.h"
#include "mounting.h"
#include "qemu.h"
#include "qemu_words.h"
#include "qmp.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { START_MS = 30000, LOAD_MS = 60000, LOOK_MS = 5 };

struct args {
	struct mounting mounting;
	const char *name;
	char **words; /* QEMU's, up to NULL */
	bool private, stopped, quiet;
};

enum option_key {
	KEY_NAME = 256,
	KEY_PRIVATE,
	KEY_OVERLAY,
	KEY_PARENT,
	KEY_STOPPED,
	KEY_QUIET,
};

static const struct argp_option options[] = {
	{"name", KEY_NAME, "NAME", 0, "What messages call it (default: clone)", 0},
	{"private", KEY_PRIVATE, NULL, 0,
	 "Do not share the memory with other processes: all clones then share the snapshot's "
	 "pages, "
	 "but such a clone has no vhost-user devices and cannot be saved",
	 0},
	{"overlay", KEY_OVERLAY, "DIR", 0, "Keep what it writes in a file of DIR (default: memory)",
	 0},
	{"parent", KEY_PARENT, "FILE", 0,
	 "The snapshot's parent (default: where the snapshot says)", 0},
	{"stopped", KEY_STOPPED, NULL, 0, "Do not let it run", 0},
	{"quiet", KEY_QUIET, NULL, 0, "Do not say when it goes on", 0},
	{0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct args *args = state->input;

	switch (key) {
	case KEY_NAME:
		args->name = arg;
		return 0;
	case KEY_PRIVATE:
		args->private = true;
		return 0;
	case KEY_OVERLAY:
		args->mounting.overlay = arg;
		return 0;
	case KEY_PARENT:
		args->mounting.parent = arg;
		return 0;
	case KEY_STOPPED:
		args->stopped = true;
		return 0;
	case KEY_QUIET:
		args->quiet = true;
		return 0;
	case ARGP_KEY_ARG:
		/* options end at SNAPSHOT: what follows is QEMU's */
		args->mounting.stored = arg;
		args->words = state->argv + state->next;
		if (*args->words && !strcmp(*args->words, "--"))
			args->words++;
		state->next = state->argc;
		return 0;
	case ARGP_KEY_END:
		if (!args->mounting.stored)
			cli_usage(state, "SNAPSHOT is needed");
		if (!*args->words)
			cli_usage(state, "QEMU's command line is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "SNAPSHOT|DIR -- QEMU ARGUMENT…",
	.doc = "Start QEMU as a clone of a saved guest. The arguments are those of the saved one: "
	       "the same "
	       "machine and devices. Its -object memory-backend-… is replaced. DIR: a clone's "
	       "folder in "
	       "a mount, or with --private the mount itself.",
};

struct clone {
	const struct args *args;
	char folder[PATH_MAX]; /* of the files */
	char home[64];	       /* ours: mount point and socket; removed at the end */
	char mount_point[80];  /* "": the mount is another's */
	char socket[80];
	char state[PATH_MAX + 32];
	pid_t mount, qemu; /* 0: none */
	struct timespec start;
};

/* --------------------------------------------------------------------------------------- its files
 */

static int join(char *path, size_t size, const char *folder, const char *name)
{
	return (size_t)snprintf(path, size, "%s/%s", folder, name) < size
		       ? CLI_OK
		       : cli_fail(ENAMETOOLONG, "%s", folder);
}

static int start_mount(struct clone *clone)
{
	struct mounting mounting = clone->args->mounting;
	int rc;

	snprintf(clone->mount_point, sizeof(clone->mount_point), "%s/memory", clone->home);
	if (mkdir(clone->mount_point, 0700) < 0) {
		rc = cli_fail(errno, "%s", clone->mount_point);
		clone->mount_point[0] = '\0';
		return rc;
	}
	mounting.directory = clone->mount_point;
	mounting.clones = clone->args->private ? 0 : 1;
	rc = mounting_start(&mounting, true, &clone->mount);
	if (rc)
		return rc;
	snprintf(clone->folder, sizeof(clone->folder), "%s%s", clone->mount_point,
		 clone->args->private ? "" : "/clone-1");
	return join(clone->state, sizeof(clone->state), clone->mount_point, "state/" QEMU_STATE);
}

/* A folder of a mount that somebody else has made; its state stands in it, or beside it. */
static int use_mount(struct clone *clone)
{
	int rc;

	if (!realpath(clone->args->mounting.stored, clone->folder))
		return cli_fail(errno, "%s", clone->args->mounting.stored);
	rc = join(clone->state, sizeof(clone->state), clone->folder, "state/" QEMU_STATE);
	if (!rc && access(clone->state, F_OK) < 0)
		rc = join(clone->state, sizeof(clone->state), clone->folder,
			  "../state/" QEMU_STATE);
	return rc;
}

static int find_files(struct clone *clone)
{
	const char *stored = clone->args->mounting.stored;
	struct stat st;
	int rc;

	if (stat(stored, &st) < 0)
		return cli_fail(errno, "%s", stored);
	rc = S_ISDIR(st.st_mode) ? use_mount(clone) : start_mount(clone);
	if (!rc && access(clone->state, R_OK) < 0)
		rc = cli_fail(0, "%s: QEMU's state is not in it (%s)", stored, strerror(errno));
	return rc;
}

/* ------------------------------------------------------------------------------------------- QEMU
 */

static int start_qemu(struct clone *clone)
{
	struct qemu_words words;
	char control[128];
	pid_t parent = getpid();
	char **list = NULL;
	int rc = qemu_words_make(clone->args->words, clone->folder, !clone->args->private, &words);

	if (rc)
		return rc;
	snprintf(control, sizeof(control), "unix:%s,server=on,wait=off", clone->socket);
	rc = qemu_words_add(&words, "-qmp", control);
	if (!rc)
		rc = qemu_words_add(&words, "-incoming", "defer");
	if (!rc) {
		list = qemu_words_list(&words);
		rc = list ? CLI_OK : CLI_FAILED;
	}
	if (rc)
		goto free_words;
	clone->qemu = fork();
	if (clone->qemu < 0) {
		clone->qemu = 0;
		rc = cli_fail(errno, "no process");
	} else if (!clone->qemu) {
		sigset_t none;

		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		/* without the mount's process its memory is gone */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent)
			execvp(list[0], list);
		cli_fail(errno, "%s", list[0]);
		_exit(127);
	}
free_words:
	free(list);
	qemu_words_free(&words);
	return rc;
}

/* Until it has taken the state in. */
static int wait_until_loaded(struct qmp *qmp)
{
	char status[64] = "inmigrate";
	json_t *answer;
	int waited, rc;

	for (waited = 0; waited < LOAD_MS; waited += LOOK_MS) {
		rc = qmp_run(qmp, "query-status", NULL, -1, &answer);
		if (!rc) {
			rc = qmp_text(answer, "status", status, sizeof(status));
			json_decref(answer);
		}
		if (rc)
			return rc;
		if (strcmp(status, "inmigrate") != 0)
			return CLI_OK;
		poll(NULL, 0, LOOK_MS);
	}
	return cli_fail(0, "QEMU has not taken in its state within %d s", LOAD_MS / 1000);
}

static int load(struct clone *clone, struct qmp *qmp)
{
	int fd = open(clone->state, O_RDONLY | O_CLOEXEC), rc;

	if (fd < 0)
		return cli_fail(errno, "%s", clone->state);
	rc = qmp_ignore_shared(qmp, true);
	if (!rc)
		rc = qmp_give(qmp, QEMU_FD, fd);
	close(fd);
	if (!rc)
		rc = qmp_run(qmp, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" QEMU_FD), -1,
			     NULL);
	if (!rc)
		rc = wait_until_loaded(qmp);
	if (!rc)
		rc = qmp_ignore_shared(qmp, false);
	if (!rc && !clone->args->stopped)
		rc = qmp_run(qmp, "cont", NULL, -1, NULL);
	return rc;
}

static int go_on(struct clone *clone)
{
	struct timespec now;
	struct qmp qmp;
	int rc = qmp_open(clone->socket, START_MS, clone->qemu, &qmp);

	if (rc)
		return rc;
	rc = load(clone, &qmp);
	qmp_close(&qmp);
	if (rc || clone->args->quiet)
		return rc;
	clock_gettime(CLOCK_MONOTONIC, &now);
	fprintf(stderr, "guestram: %s: process %d %s after %.0f ms\n", clone->args->name,
		(int)clone->qemu, clone->args->stopped ? "is ready" : "goes on",
		(double)(now.tv_sec - clone->start.tv_sec) * 1e3 +
			(double)(now.tv_nsec - clone->start.tv_nsec) / 1e6);
	return CLI_OK;
}

/* Its exit status as this program's; signals that ask us to end, ask it. */
static int wait_for_qemu(struct clone *clone, const sigset_t *signals)
{
	int number, status;

	while (!waitpid(clone->qemu, &status, WNOHANG)) {
		if (!sigwait(signals, &number) && number != SIGCHLD)
			kill(clone->qemu, SIGTERM);
	}
	clone->qemu = 0;
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	return cli_fail(0, "%s: QEMU was killed by signal %d", clone->args->name, WTERMSIG(status));
}

/* ------------------------------------------------------------------------------------------- clone
 */

static void clean(struct clone *clone)
{
	if (clone->qemu) {
		kill(clone->qemu, SIGKILL);
		while (waitpid(clone->qemu, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (clone->mount)
		mounting_stop(clone->mount);
	if (clone->mount_point[0])
		rmdir(clone->mount_point);
	unlink(clone->socket);
	rmdir(clone->home);
}

int cmd_qemu_clone(int argc, char **argv)
{
	struct args args = {.mounting = mounting_defaults, .name = "clone"};
	struct clone clone = {.args = &args};
	const char *run_in = getenv("XDG_RUNTIME_DIR");
	sigset_t signals;
	int rc;

	cli_parse(&argp, "qemu clone", argc, argv, ARGP_IN_ORDER, NULL, &args);
	clock_gettime(CLOCK_MONOTONIC, &clone.start);
	snprintf(clone.home, sizeof(clone.home), "%s/guestram-XXXXXX",
		 run_in && strlen(run_in) < 40 ? run_in : "/tmp");
	if (!mkdtemp(clone.home))
		return cli_fail(errno, "%s", clone.home);
	snprintf(clone.socket, sizeof(clone.socket), "%s/qmp", clone.home);
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	rc = find_files(&clone);
	if (!rc) {
		/* after the mount has started, which has its own way with them */
		sigprocmask(SIG_BLOCK, &signals, NULL);
		rc = start_qemu(&clone);
	}
	if (!rc)
		rc = go_on(&clone);
	if (!rc)
		rc = wait_for_qemu(&clone, &signals);
	clean(&clone);
	return rc;
}
