/* SPDX-License-Identifier: MIT */
/*
 * A server of pages in the test's own process, whose source the test has in its hands, and monitors
 * of it.
 *
 * Threads: the server's run on one of their own; what they tell is atomic or under `lock`.
 */
#ifndef SERVING_H
#define SERVING_H

#include "monitor.h"

#define SERVED_LENGTH (8 * MIB)
/* What with_huge_pages() sets aside where tests use some. */
#define SERVED_HUGE_PAGES 12

struct serving {
	char path[64]; /* of the socket */
	struct pattern_source source;
	struct gr_pager_server_opts opts;
	struct gr_pager_server *server;
	pthread_t thread;
	int rc, begun, complete, ended, given_up; /* atomic */
	char said[4096];			  /* under @lock */
	pthread_mutex_t lock;
};

/* SERVED_LENGTH bytes, of which every fifth run is zero; options as a test may change them. */
void serving_init(struct serving *serving);
void serving_start(struct serving *serving);
/* The thread alone, of a server that the test has opened. */
void serving_run(struct serving *serving);
void serving_end(struct serving *serving);

/* In what the server's threads have told. */
bool was_said(struct serving *serving, const char *part);
void forget_said(struct serving *serving);
struct gr_pager_server_stats stats_now(struct serving *serving);

/* All of its memory, in small pages, touched by two threads. */
struct monitor usual(const struct serving *serving);
/* From its begin to its end, which must be a good one. false: not possible here. */
bool run_one(struct serving *serving, const struct monitor *monitor, const char *what);
/* Of one that was started. */
bool end_one(const struct monitor *monitor, pid_t pid, const char *what);
/* Touches nothing, and stays until kill_one(). */
pid_t start_staying(struct serving *serving, struct monitor *monitor);
void kill_one(pid_t pid);

/* From now on the next @times calls of that name fail, until the end, which says how many did not.
 */
void fail_begin(const char *call, int error, int times);
int fail_end(void);

void with_huge_pages(unsigned pages);

#endif
