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

/*
 * Made once, before the first RAM is opened or the first section is entered; tried again by the
 * next of them when there was none to be had. The key plus 1, 0: not made. Atomic: release when it
 * is made, acquire where it is used.
 */
static uint64_t exit_key;

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

int gr__section_init(void)
{
	uint64_t none = 0;
	pthread_key_t key;
	int rc;

	if (__atomic_load_n(&exit_key, __ATOMIC_ACQUIRE)) /* pairs with the exchange below */
		return 0;
	rc = GR_FAULT("pthread_key_create");
	if (!rc)
		rc = pthread_key_create(&key, unregister_at_exit);
	if (rc)
		return gr__fail(-rc, "RAM: no thread-specific key: the process has used them up");
	/* the other thread's key is as good; nobody has a value of ours yet */
	if (!__atomic_compare_exchange_n(&exit_key, &none, (uint64_t)key + 1, false,
					 __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		pthread_key_delete(key);
	return 0;
}

/*
 * A section cannot fail, and a thread that ended without being unregistered would be read after
 * its end. So where libc has no memory for the value just now, we wait for it.
 */
static void watch_exit(void)
{
	/* acquire: pairs with gr__section_init() */
	pthread_key_t key = (pthread_key_t)(__atomic_load_n(&exit_key, __ATOMIC_ACQUIRE) - 1);

	/* any value but NULL makes the destructor run */
	while (GR_FAULT("pthread_setspecific") || pthread_setspecific(key, &exit_key))
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void gr__thread_register(void)
{
	/* Without a key no RAM can be opened, so that the section has nothing to keep. */
	if (gr__section_init() < 0)
		return;
	watch_exit();
	urcu_memb_register_thread();
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

bool gr__section_is_outermost(void)
{
	return !callbacks &&
	       (URCU_TLS(urcu_memb_reader).ctr & URCU_GP_CTR_NEST_MASK) == URCU_GP_COUNT;
}

int gr__may_wait(const char *call)
{
	const char *where = callbacks ? "callback" : "read section";

	if (!callbacks && !urcu_memb_read_ongoing())
		return 0;
	return call ? gr__fail(-EDEADLK, "%s: would wait for this thread's own %s", call, where)
		    : -EDEADLK;
}
