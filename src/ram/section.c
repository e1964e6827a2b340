/* SPDX-License-Identifier: MIT */
/*
 * Threads and read sections: registration with liburcu on a thread's first section, the wait for
 * all sections, and the answer to "may this thread wait?".
 *
 * A thread that liburcu knows already, because the program registered it, is left to the program.
 * The others are unregistered by a thread-specific destructor. Destructors that run after it and
 * read register the thread again, and set the key again, so that it runs again.
 */
#include "base/error.h"
#include "os/hooks.h"
#include "ram/ram.h"
#include <errno.h>
#include <urcu/urcu-memb.h>

/* Made once, before the first RAM is opened or the first section is entered. */
static pthread_key_t exit_key;
static pthread_once_t exit_key_once = PTHREAD_ONCE_INIT;
static int exit_key_rc;

/* How many callbacks of ours this thread is inside of. */
static _Thread_local unsigned callbacks;

static void unregister_at_exit(void *unused)
{
	if (!URCU_TLS(urcu_memb_reader).registered)
		return;
	GR_POINT("thread.exit");
	/* A section that the thread never left ends here: unregistering alone does not wake those
	 * who wait for it. */
	while (urcu_memb_read_ongoing())
		gr_read_end();
	urcu_memb_unregister_thread();
}

static void make_exit_key(void)
{
	exit_key_rc = GR_FAULT("pthread_key_create");
	if (!exit_key_rc)
		exit_key_rc = pthread_key_create(&exit_key, unregister_at_exit);
}

int gr__section_init(void)
{
	pthread_once(&exit_key_once, make_exit_key);
	if (exit_key_rc)
		return gr__fail(-exit_key_rc,
				"RAM: no thread-specific key: the process has used them up");
	return 0;
}

void gr__thread_register(void)
{
	/* Without a key no RAM can be opened, so that the section has nothing to keep. */
	if (gr__section_init() < 0)
		return;
	urcu_memb_register_thread();
	/* any value but NULL makes the destructor run */
	pthread_setspecific(exit_key, &exit_key);
}

void gr__synchronize(void)
{
	urcu_memb_synchronize_rcu();
#ifdef GR__TSAN
	__tsan_acquire(GR__TSAN_SECTIONS); /* pairs with gr_read_end() */
#endif
}

void gr__callback_begin(void)
{
	callbacks++;
}

void gr__callback_end(void)
{
	callbacks--;
}

int gr__may_wait(const char *call)
{
	const char *where = callbacks ? "callback" : "read section";

	if (!callbacks && !urcu_memb_read_ongoing())
		return 0;
	return call ? gr__fail(-EDEADLK, "%s: would wait for this thread's own %s", call, where)
		    : -EDEADLK;
}
