/* SPDX-License-Identifier: MIT */
#include "os/thread.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include <errno.h>
#include <signal.h>

struct start {
	void (*run)(void *arg);
	void *arg;
};

static void *run_start(void *arg)
{
	struct start start = *(struct start *)arg;

	gr__free(arg);
	start.run(start.arg);
	return NULL;
}

int gr__thread_start(void (*run)(void *arg), void *arg, const char *name, pthread_t *thread)
{
	struct start *start;
	sigset_t all, before;
	int rc = GR_FAULT("pthread_create");

	if (rc)
		return -rc;
	start = gr__alloc(sizeof(*start));
	if (!start)
		return -ENOMEM;
	start->run = run;
	start->arg = arg;
	sigfillset(&all);
	/* those that a fault raises: a blocked one would end the process whatever handler there is
	 */
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGTRAP);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(thread, NULL, run_start, start);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc) {
		gr__free(start);
		return -rc;
	}
	pthread_setname_np(*thread, name);
	return 0;
}

void gr__thread_join(pthread_t thread)
{
	pthread_join(thread, NULL);
}
