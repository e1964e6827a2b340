/* SPDX-License-Identifier: MIT */
/* Between schedule.c, which knows the threads, and wrap.c, where they wait. */
#ifndef THREADS_H
#define THREADS_H

#include "schedule.h"
#include <semaphore.h>
#include <stdint.h>
#include <urcu/urcu-memb.h>

enum thread_state {
	READY,
	WAIT_LOCK,
	WAIT_CONDITION,
	WAIT_TIMED,
	WAIT_GRACE,
	WAIT_EVENT,
	WAIT_FLAG,
	WAIT_THREAD,
	WAIT_SCRIPTS,
	ENDED,
};

struct thread {
	unsigned number;
	char letter;
	bool scripted;	 /* of the script; else the preparing thread or a worker */
	bool signalled;	 /* woken from its condition, not by time */
	unsigned rounds; /* of its thread-specific destructors */
	unsigned graces; /* bits of the threads whose sections it still waits for */
	int fd;		 /* WAIT_EVENT */
	enum thread_state state;
	const void *object;    /* what it waits for: lock, flag or thread */
	const void *condition; /* with WAIT_CONDITION and WAIT_TIMED */
	const char *point;
	const struct urcu_reader *reader;
	void (*run)(void *arg);
	void *arg;
	pthread_t id; /* when it is made anew */
	sem_t *turn;
};

/* NULL in threads that no script knows: they run as they would without us. */
extern __thread struct thread *thread_self;

/* Give the turn away, and get it back when @state is over. */
void threads_yield(enum thread_state state, const void *object, const char *point);
void threads_wait_for_readers(void);
void threads_signal(const void *condition);
void threads_start_worker(void (*run)(void *arg), void *arg, pthread_t *id);
void threads_join(pthread_t id);

/* wrap.c */
void threads_reset_objects(void);
struct thread *threads_lock_owner(const pthread_mutex_t *mutex);
bool threads_holds_lock(const struct thread *thread);
bool threads_event_is_set(int fd);
int threads_real_setspecific(pthread_key_t key, const void *value);

#endif
