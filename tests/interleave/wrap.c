/* SPDX-License-Identifier: MIT */
/*
 * Calls that wait or wake, as the linker leads them here (--wrap). Each gives the turn away first,
 * and does its work when the scheduler gives it back, so that none of them ever waits for real. The
 * real locks and eventfds are used all the same: they must agree.
 *
 * Threads: those of a script have the turn; others (thread_self is NULL) get the real thing.
 */
#include "explore.h"
#include "os/event.h"
#include "os/thread.h"
#include "threads.h"
#include <errno.h>
#include <guestram.h>
#include <time.h>

#define EVENTS 1024

/* The names are the linker's. NOLINTBEGIN(bugprone-reserved-identifier) */
int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __real_pthread_mutex_destroy(pthread_mutex_t *mutex);
int __real_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
int __real_pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
				  const struct timespec *deadline);
int __real_pthread_cond_broadcast(pthread_cond_t *condition);
int __real_pthread_setspecific(pthread_key_t key, const void *value);
void __real_urcu_memb_synchronize_rcu(void);
void __real_urcu_memb_unregister_thread(void);
int __real_gr__event_open(void);
void __real_gr__event_set(int fd);
void __real_gr__event_clear(int fd);
void __real_gr__event_wait(int fd);
int __real_gr__thread_start(void (*run)(void *arg), void *arg, const char *name, pthread_t *thread);
void __real_gr__thread_join(pthread_t thread);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_destroy(pthread_mutex_t *mutex);
int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
int __wrap_pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
				  const struct timespec *deadline);
int __wrap_pthread_cond_broadcast(pthread_cond_t *condition);
int __wrap_pthread_setspecific(pthread_key_t key, const void *value);
void __wrap_urcu_memb_synchronize_rcu(void);
void __wrap_urcu_memb_unregister_thread(void);
int __wrap_gr__event_open(void);
void __wrap_gr__event_set(int fd);
void __wrap_gr__event_clear(int fd);
void __wrap_gr__event_wait(int fd);
int __wrap_gr__thread_start(void (*run)(void *arg), void *arg, const char *name, pthread_t *thread);
void __wrap_gr__thread_join(pthread_t thread);
/* NOLINTEND(bugprone-reserved-identifier) */

/* --------------------------------------------------------------------------------------- locks */

static struct {
	const pthread_mutex_t *mutex;
	struct thread *owner;
} held[2 * THREADS_MAX];

static bool event_set[EVENTS];

void threads_reset_objects(void)
{
	size_t i;

	for (i = 0; i < sizeof(held) / sizeof(held[0]); i++)
		held[i].mutex = NULL;
	for (i = 0; i < EVENTS; i++)
		event_set[i] = false;
}

struct thread *threads_lock_owner(const pthread_mutex_t *mutex)
{
	size_t i;

	for (i = 0; i < sizeof(held) / sizeof(held[0]); i++)
		if (held[i].mutex == mutex)
			return held[i].owner;
	return NULL;
}

bool threads_holds_lock(const struct thread *thread)
{
	size_t i;

	for (i = 0; i < sizeof(held) / sizeof(held[0]); i++)
		if (held[i].mutex && held[i].owner == thread)
			return true;
	return false;
}

static int take(pthread_mutex_t *mutex)
{
	size_t i = 0;

	while (held[i].mutex)
		i++; /* never more than there are threads times locks that nest */
	held[i].mutex = mutex;
	held[i].owner = thread_self;
	return __real_pthread_mutex_lock(mutex);
}

static int give(pthread_mutex_t *mutex)
{
	size_t i = 0;

	check(threads_lock_owner(mutex) == thread_self, "%c unlocks what it did not lock",
	      thread_self->letter);
	while (held[i].mutex != mutex)
		i++;
	held[i].mutex = NULL;
	return __real_pthread_mutex_unlock(mutex);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
	if (!thread_self)
		return __real_pthread_mutex_lock(mutex);
	if (mutant == NO_LOCK) {
		sched_point("lock.left.out");
		return 0;
	}
	threads_yield(WAIT_LOCK, mutex, "lock");
	return take(mutex);
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
	if (!thread_self)
		return __real_pthread_mutex_unlock(mutex);
	/* No point: the one in front of what this thread does next serves as well. */
	return mutant == NO_LOCK ? 0 : give(mutex);
}

int __wrap_pthread_mutex_destroy(pthread_mutex_t *mutex)
{
	if (thread_self)
		check(!sched_uses_lock(mutex), "a lock is destroyed that a thread uses");
	return __real_pthread_mutex_destroy(mutex);
}

/* ---------------------------------------------------------------------------------- conditions */

static int wait_for(pthread_cond_t *condition, pthread_mutex_t *mutex, enum thread_state state)
{
	if (mutant != NO_LOCK)
		give(mutex);
	thread_self->condition = condition;
	thread_self->signalled = false;
	threads_yield(state, mutex, state == WAIT_TIMED ? "condition.timed" : "condition");
	if (mutant != NO_LOCK)
		take(mutex);
	return thread_self->signalled ? 0 : ETIMEDOUT;
}

int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
	if (!thread_self)
		return __real_pthread_cond_wait(condition, mutex);
	return wait_for(condition, mutex, WAIT_CONDITION);
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
				  const struct timespec *deadline)
{
	if (!thread_self)
		return __real_pthread_cond_timedwait(condition, mutex, deadline);
	return wait_for(condition, mutex, WAIT_TIMED);
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *condition)
{
	if (!thread_self)
		return __real_pthread_cond_broadcast(condition);
	if (!threads_holds_lock(thread_self))
		sched_point("broadcast"); /* with the lock held nobody can come in between */
	if (mutant != NO_BROADCAST)
		threads_signal(condition);
	return 0;
}

/* ------------------------------------------------------------------------------- grace periods */

void __wrap_urcu_memb_synchronize_rcu(void)
{
	if (!thread_self) {
		__real_urcu_memb_synchronize_rcu();
		return;
	}
	sched_point("grace.begin");
	if (mutant != NO_GRACE)
		threads_wait_for_readers();
}

void __wrap_urcu_memb_unregister_thread(void)
{
	sched_point("unregister");
	__real_urcu_memb_unregister_thread();
}

int threads_real_setspecific(pthread_key_t key, const void *value)
{
	return __real_pthread_setspecific(key, value);
}

/* Ours go through threads_real_setspecific() where they must not fail. */
int __wrap_pthread_setspecific(pthread_key_t key, const void *value)
{
	return mutant == NO_EXIT_KEY ? 0 : __real_pthread_setspecific(key, value);
}

/* ----------------------------------------------------------------------------- events, threads */

bool threads_event_is_set(int fd)
{
	return event_set[fd];
}

int __wrap_gr__event_open(void)
{
	int fd = __real_gr__event_open();

	check(fd < EVENTS, "too many descriptors are open");
	if (fd >= 0)
		event_set[fd] = false;
	return fd;
}

void __wrap_gr__event_set(int fd)
{
	sched_point("event.set");
	if (thread_self && mutant == NO_WAKE)
		return;
	event_set[fd] = true;
	__real_gr__event_set(fd);
}

void __wrap_gr__event_clear(int fd)
{
	sched_point("event.clear");
	event_set[fd] = false;
	__real_gr__event_clear(fd);
}

void __wrap_gr__event_wait(int fd)
{
	if (thread_self) {
		thread_self->fd = fd;
		threads_yield(WAIT_EVENT, NULL, "event");
	}
	__real_gr__event_wait(fd);
}

int __wrap_gr__thread_start(void (*run)(void *arg), void *arg, const char *name, pthread_t *thread)
{
	if (!thread_self)
		return __real_gr__thread_start(run, arg, name, thread);
	threads_start_worker(run, arg, thread);
	return 0;
}

void __wrap_gr__thread_join(pthread_t thread)
{
	if (thread_self)
		threads_join(thread);
	else
		__real_gr__thread_join(thread);
}
