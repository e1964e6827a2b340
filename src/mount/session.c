/* SPDX-License-Identifier: MIT */
/*
 * A mount from its beginning to its end.
 *
 *   caller   waits for a signal, or for the end
 *   session  fuse_session_loop_mt(): starts threads as requests come; ends when somebody unmounts
 * it, or the caller says so
 *
 * libfuse 3.14 has no call that wakes its loop from another thread: fuse_session_exit() says that
 * it shall end, and a signal with an empty handler interrupts its wait, again and again until it
 * has seen it.
 *
 * Threads: `rc` is the session thread's until it sets `ended`.
 */
#define FUSE_USE_VERSION 312
#include "mount/fuse.h"
#include "os/event.h"
#include "os/mounted.h"
#include <errno.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define WAKE SIGUSR2
#define WAKE_MS 20

struct session {
	struct fuse_session *fuse;
	unsigned threads;
	int ended; /* event */
	int rc;
};

static void *run(void *arg)
{
	struct session *session = arg;
	struct fuse_loop_config *config = fuse_loop_cfg_create();

	session->rc = -ENOMEM;
	if (config) {
		fuse_loop_cfg_set_max_threads(config, session->threads);
		fuse_loop_cfg_set_idle_threads(config, session->threads);
		session->rc = fuse_session_loop_mt(session->fuse, config);
		fuse_loop_cfg_destroy(config);
	}
	gr__event_set(session->ended);
	return NULL;
}

static void do_nothing(int number)
{
	(void)number;
}

/* Is the session over, or has a signal come, within that time? Takes the signal. */
static bool wait_for(const struct session *session, int signals, int timeout_ms, bool *signalled)
{
	struct pollfd fds[] = {
		{.fd = session->ended, .events = POLLIN},
		{.fd = signals, .events = POLLIN},
	};
	struct signalfd_siginfo info;
	int rc;

	do
		rc = poll(fds, 2, timeout_ms);
	while (rc < 0 && errno == EINTR);
	*signalled = rc > 0 && fds[1].revents && read(signals, &info, sizeof(info)) > 0;
	return rc > 0 && fds[0].revents;
}

/* Until it is over: 0; -ETIMEDOUT: told twice to end, it has not. */
static int serve(struct session *session, pthread_t thread, int signals)
{
	bool ended, signalled;

	ended = wait_for(session, signals, -1, &signalled);
	fuse_session_exit(session->fuse);
	while (!ended) {
		pthread_kill(thread, WAKE);
		ended = wait_for(session, signals, WAKE_MS, &signalled);
		if (!ended && signalled)
			return -ETIMEDOUT;
	}
	pthread_join(thread, NULL);
	return 0;
}

/* libfuse's sentences. It passes nothing to know whose they are by: a process has one mount. */
static const struct gr__mount_opts *log_opts;

static void log_line(enum fuse_log_level level, const char *format, va_list args)
{
	char text[300];

	(void)level;
	vsnprintf(text, sizeof(text), format, args);
	text[strcspn(text, "\n")] = '\0';
	if (text[0])
		log_opts->log(log_opts->context, text);
}

static int mount_and_serve(struct gr__mount_fs *fs, struct session *session, const char *directory,
			   int signals)
{
	struct sigaction wake = {.sa_handler = do_nothing}, before;
	sigset_t mask, old;
	pthread_t thread;
	int rc;

	if (fuse_session_mount(session->fuse, directory) < 0)
		return -EIO; /* the log has why */
	sigaction(WAKE, &wake, &before);
	/* the session's thread alone takes it; those that it starts block what it blocks */
	sigemptyset(&mask);
	sigaddset(&mask, WAKE);
	pthread_sigmask(SIG_UNBLOCK, &mask, &old);
	rc = -pthread_create(&thread, NULL, run, session);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!rc) {
		/* a matter of speed, and of rights that one need not have */
		if (fs->tree.clones)
			(void)gr__mounted_allow_dirty(directory);
		rc = serve(session, thread, signals);
		if (rc < 0) {
			(void)gr__mounted_detach(directory);
			return rc;
		}
		/* positive: a signal that libfuse met, and we give it none */
		rc = session->rc < 0 ? session->rc : 0;
	}
	sigaction(WAKE, &before, NULL);
	fuse_session_unmount(session->fuse);
	return rc;
}

static int open_session(struct gr__mount_fs *fs, struct session *session)
{
	/* nothing of it is a device, and rights are looked at by the kernel */
	char name[] = "guestram", option[] = "-o",
	     plain[] = "fsname=guestram,subtype=guestram,default_permissions,nodev,nosuid,noexec",
	     others[] = "allow_other";
	char *argv[] = {name, option, plain, option, others, NULL};
	struct fuse_args args = FUSE_ARGS_INIT(fs->opts->others ? 5 : 3, argv);
	const struct fuse_lowlevel_ops *ops;
	size_t size;

	ops = gr__mount_fuse_ops(&size);
	session->fuse = fuse_session_new(&args, ops, size, fs);
	fuse_opt_free_args(&args);
	return session->fuse ? 0 : -EIO;
}

int gr__mount_run(const struct gr__mount_opts *opts, const char *directory, int signals)
{
	struct gr__mount_fs fs = {.opts = opts, .uid = getuid(), .gid = getgid()};
	struct session session = {.threads = opts->threads};
	int rc;

	clock_gettime(CLOCK_REALTIME, &fs.born);
	pthread_mutex_init(&fs.log_lock, NULL);
	log_opts = opts;
	fuse_set_log_func(log_line);
	session.ended = gr__event_open();
	if (session.ended < 0)
		return session.ended;
	rc = gr__mount_tree_init(&fs.tree, opts);
	if (!rc)
		rc = open_session(&fs, &session);
	if (!rc) {
		rc = mount_and_serve(&fs, &session, directory, signals);
		if (rc == -ETIMEDOUT)
			return rc; /* threads are still in it */
		fuse_session_destroy(session.fuse);
	}
	gr__mount_tree_fini(&fs.tree);
	gr__fd_close(session.ended);
	pthread_mutex_destroy(&fs.log_lock);
	return rc;
}
