/* SPDX-License-Identifier: MIT */
/* See serving.h. */
#include "serving.h"
#include "os/hooks.h"
#include <signal.h>

static void on_line(void *context, enum gr_log_level level, const char *line)
{
	struct serving *serving = context;
	size_t used;

	(void)level;
	pthread_mutex_lock(&serving->lock);
	used = strlen(serving->said);
	snprintf(serving->said + used, sizeof(serving->said) - used, "%s\n", line);
	pthread_mutex_unlock(&serving->lock);
}

bool was_said(struct serving *serving, const char *part)
{
	bool is;

	pthread_mutex_lock(&serving->lock);
	is = strstr(serving->said, part);
	pthread_mutex_unlock(&serving->lock);
	return is;
}

void forget_said(struct serving *serving)
{
	pthread_mutex_lock(&serving->lock);
	serving->said[0] = 0;
	pthread_mutex_unlock(&serving->lock);
}

static int on_session(void *context, uint64_t number, enum gr_pager_news news, int pid, int uffd)
{
	struct serving *serving = context;
	int *counts[] = {&serving->begun, &serving->complete, &serving->ended, &serving->given_up};

	if (news == GR_PAGER_BEGINS && (pid <= 0 || uffd < 0 || !number))
		return -EINVAL;
	__atomic_add_fetch(counts[news], 1, __ATOMIC_SEQ_CST);
	return 0;
}

static void *run_server(void *arg)
{
	struct serving *serving = arg;

	set(&serving->rc, gr_pager_server_run(serving->server));
	return NULL;
}

void serving_init(struct serving *serving)
{
	memset(serving, 0, sizeof(*serving));
	snprintf(serving->path, sizeof(serving->path), "/tmp/guestram-pager-%d.sock",
		 (int)getpid());
	pthread_mutex_init(&serving->lock, NULL);
	pattern_source_init(&serving->source, 1, SERVED_LENGTH);
	serving->source.zero_every = 5;
	serving->opts.socket_path = serving->path;
	serving->opts.source = &serving->source.source;
	serving->opts.session = on_session;
	serving->opts.log = on_line;
	serving->opts.log_context = serving;
}

void serving_start(struct serving *serving)
{
	assert_ok(gr_pager_server_open(&serving->opts, &serving->server));
	serving_run(serving);
}

void serving_run(struct serving *serving)
{
	serving->thread = thread_start(run_server, serving);
}

void serving_end(struct serving *serving)
{
	gr_pager_server_stop(serving->server);
	thread_join(serving->thread);
	assert_ok(serving->rc);
	assert_ok(gr_pager_server_close(serving->server));
	assert_int_equal(access(serving->path, F_OK), -1);
}

struct gr_pager_server_stats stats_now(struct serving *serving)
{
	struct gr_pager_server_stats stats;

	gr_pager_server_get_stats(serving->server, &stats);
	return stats;
}

struct monitor usual(const struct serving *serving)
{
	return (struct monitor){
		.length = SERVED_LENGTH,
		.page_size = PAGE,
		.touchers = 2,
		.source = &serving->source,
	};
}

void with_huge_pages(unsigned pages)
{
	FILE *file = fopen("/proc/sys/vm/nr_hugepages", "w");

	if (!file)
		return;
	fprintf(file, "%u\n", pages);
	fclose(file);
}

/* Has another program of this machine changed the pool meanwhile? Then touches wait for ever. */
static bool huge_pages_are_gone(unsigned pages)
{
	FILE *file = fopen("/proc/sys/vm/nr_hugepages", "r");
	unsigned now = 0;

	if (!file || fscanf(file, "%u", &now) != 1)
		now = 0;
	if (file)
		fclose(file);
	return now != pages;
}

bool end_one(const struct monitor *monitor, pid_t pid, const char *what)
{
	int status = monitor_wait(pid, LONG_MS);

	if (status == 3 || (status == -1000 && monitor->page_size > PAGE &&
			    huge_pages_are_gone(SERVED_HUGE_PAGES))) {
		print_message("%s: not here\n", what);
		return false;
	}
	if (status)
		fail_msg("%s: %d", what, status);
	return true;
}

bool run_one(struct serving *serving, const struct monitor *monitor, const char *what)
{
	return end_one(monitor, monitor_start(monitor, serving->path), what);
}

pid_t start_staying(struct serving *serving, struct monitor *monitor)
{
	monitor->touchers = 0;
	monitor->stay_ms = -1;
	return monitor_start(monitor, serving->path);
}

void kill_one(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(monitor_wait(pid, LONG_MS), -SIGKILL);
}

static const char *failing_call;	 /* const while armed */
static int failing_error, failing_times; /* @failing_times atomic: counted down */

static int fail_named(const char *name)
{
	if (strcmp(name, failing_call) != 0)
		return 0;
	return __atomic_sub_fetch(&failing_times, 1, __ATOMIC_SEQ_CST) >= 0 ? failing_error : 0;
}

void fail_begin(const char *call, int error, int times)
{
	failing_call = call;
	failing_error = error;
	failing_times = times;
	__atomic_store_n(&gr__hook_fault, fail_named, __ATOMIC_RELEASE);
}

int fail_end(void)
{
	__atomic_store_n(&gr__hook_fault, NULL, __ATOMIC_RELEASE);
	return get(&failing_times);
}
