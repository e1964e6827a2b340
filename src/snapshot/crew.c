/* SPDX-License-Identifier: MIT */
/* See crew.h. */
#include "snapshot/crew.h"
#include "base/error.h"
#include "os/memory.h"
#include "os/thread.h"
#include <errno.h>
#include <guestram.h>
#include <stdbool.h>
#include <stdio.h>

#define THREADS_BY_ITSELF 16

int gr__crew_init(struct gr__crew *crew, unsigned threads)
{
	*crew = (struct gr__crew){.threads = threads};
	if (threads > GR__CREW_MAX)
		return gr__fail(-EINVAL, "snapshot: %u threads; %u at most", threads, GR__CREW_MAX);
	if (!threads)
		crew->threads = gr__os_processors();
	if (!threads && crew->threads > THREADS_BY_ITSELF)
		crew->threads = THREADS_BY_ITSELF;
	if (!crew->threads)
		crew->threads = 1;
	return 0;
}

int gr__crew_failed(const struct gr__crew *crew)
{
	/* relaxed: who sees it only leaves; what was said is read after joining */
	return __atomic_load_n(&crew->failed, __ATOMIC_RELAXED);
}

static void work(struct gr__crew *crew, unsigned thread)
{
	int rc = crew->work(crew->context, thread), none = 0;

	/* relaxed: as above */
	if (rc < 0 && __atomic_compare_exchange_n(&crew->failed, &none, rc, false, __ATOMIC_RELAXED,
						  __ATOMIC_RELAXED))
		snprintf(crew->why, sizeof(crew->why), "%s", gr_last_error());
}

struct member {
	struct gr__crew *crew;
	unsigned number;
	pthread_t thread;
	bool running;
};

static void run_member(void *arg)
{
	struct member *member = arg;

	work(member->crew, member->number);
}

int gr__crew_run(struct gr__crew *crew, int (*fn)(void *context, unsigned thread), void *context)
{
	struct member members[GR__CREW_MAX];
	unsigned i, threads = crew->threads;

	crew->work = fn;
	crew->context = context;
	crew->failed = 0;
	for (i = 1; i < threads; i++) {
		members[i] = (struct member){.crew = crew, .number = i};
		members[i].running = !gr__thread_start(run_member, &members[i], "gr-snapshot",
						       &members[i].thread);
	}
	work(crew, 0);
	for (i = 1; i < threads; i++)
		if (members[i].running)
			gr__thread_join(members[i].thread);
	return crew->failed ? gr__fail(crew->failed, "%s", crew->why) : 0;
}
