/* SPDX-License-Identifier: MIT */
/* The threads, whose turn it is, and what they wait for. What waits stands in wrap.c. */
#include "schedule.h"
#include "explore.h"
#include "threads.h"
#include <guestram.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct thread threads[THREADS_MAX];
static unsigned thread_count;
static sem_t turns[THREADS_MAX];
static char letters[THREADS_MAX + 1];
static bool exploring;
static bool real_threads;
static struct thread *starting; /* has the turn up to its first point */
static pthread_key_t end_key;

__thread struct thread *thread_self;
bool sched_tracing;

/* ----------------------------------------------------------------------------- what is enabled */

static bool in_section(const struct thread *thread)
{
	return thread->reader && thread->reader->ctr & URCU_GP_CTR_NEST_MASK;
}

static unsigned open_sections(void)
{
	unsigned open = 0, i;

	for (i = 0; i < thread_count; i++)
		if (in_section(&threads[i]))
			open |= 1u << i;
	return open;
}

static bool scripts_ended(void)
{
	unsigned i;

	for (i = 0; i < thread_count; i++)
		if (threads[i].scripted && threads[i].state != ENDED)
			return false;
	return true;
}

static bool is_enabled(struct thread *thread, unsigned open)
{
	switch (thread->state) {
	case READY:
		return true;
	case WAIT_LOCK:
	case WAIT_TIMED: /* its time may be up at any moment */
		return !threads_lock_owner(thread->object);
	case WAIT_GRACE:
		thread->graces &= open;
		return !thread->graces;
	case WAIT_EVENT:
		return threads_event_is_set(thread->fd);
	case WAIT_FLAG:
		return *(const int *)thread->object;
	case WAIT_THREAD:
		return ((const struct thread *)thread->object)->state == ENDED;
	case WAIT_SCRIPTS:
		return scripts_ended();
	case WAIT_CONDITION:
	case ENDED:
		return false;
	}
	return false;
}

static void describe(const struct thread *thread, char *text, size_t size)
{
	static const char *const waits[] = {
		[READY] = "could go on",
		[WAIT_LOCK] = "waits for a lock",
		[WAIT_CONDITION] = "waits for a condition",
		[WAIT_TIMED] = "waits for a condition, with a time-out",
		[WAIT_GRACE] = "waits for readers",
		[WAIT_EVENT] = "waits for an event",
		[WAIT_FLAG] = "waits for a step of the script",
		[WAIT_THREAD] = "waits for a thread's end",
		[WAIT_SCRIPTS] = "waits for all",
		[ENDED] = "has ended",
	};
	const struct thread *owner =
		thread->state == WAIT_LOCK ? threads_lock_owner(thread->object) : NULL;
	size_t used = strlen(text);

	used += snprintf(text + used, size - used, "%s%c %s", used ? "; " : "", thread->letter,
			 waits[thread->state]);
	if (owner && used < size)
		snprintf(text + used, size - used, " of %c", owner->letter);
}

static void find_deadlock(void)
{
	char text[400] = "";
	unsigned i;

	for (i = 1; i < thread_count; i++)
		if (threads[i].state != ENDED)
			describe(&threads[i], text, sizeof(text));
	found("deadlock: %s", text);
}

/* ------------------------------------------------------------------------------------ the turn */

static struct thread *pick(void)
{
	unsigned open = open_sections(), enabled = 0, next, i;

	for (i = 0; i < thread_count; i++)
		if (is_enabled(&threads[i], open))
			enabled |= 1u << i;
	if (exploring && scripts_ended())
		exploring = false;
	if (!enabled)
		find_deadlock();
	if (!exploring)
		next = enabled & 1u << thread_self->number ? thread_self->number
							   : (unsigned)__builtin_ctz(enabled);
	else
		next = explore_choose(thread_self->number, enabled, thread_self->point);
	threads[next].state = READY;
	return &threads[next];
}

static void wait_turn(void)
{
	while (sem_wait(thread_self->turn) < 0)
		;
}

void threads_yield(enum thread_state state, const void *object, const char *point)
{
	struct thread *next;

	thread_self->state = state;
	thread_self->object = object;
	thread_self->point = point;
	sched_trace("%s", point);
	if (starting == thread_self) {
		starting = NULL;
		next = &threads[0];
	} else {
		next = pick();
	}
	if (next == thread_self)
		return;
	sem_post(next->turn);
	wait_turn();
}

void sched_point(const char *name)
{
	if (thread_self)
		threads_yield(READY, NULL, name);
}

void sched_await(const int *flag)
{
	threads_yield(WAIT_FLAG, flag, "await");
}

void sched_await_event(int fd)
{
	thread_self->fd = fd;
	threads_yield(WAIT_EVENT, NULL, "await.event");
}

void threads_wait_for_readers(void)
{
	thread_self->graces = open_sections();
	check(!(thread_self->graces & 1u << thread_self->number),
	      "%c waits for readers inside its own section", thread_self->letter);
	threads_yield(WAIT_GRACE, NULL, "grace.end");
}

void threads_signal(const void *condition)
{
	unsigned i;

	for (i = 0; i < thread_count; i++) {
		struct thread *thread = &threads[i];

		if ((thread->state != WAIT_CONDITION && thread->state != WAIT_TIMED) ||
		    thread->condition != condition)
			continue;
		thread->state = WAIT_LOCK; /* its object is the lock already */
		thread->signalled = true;
	}
}

/* ------------------------------------------------------------------------- threads come and go */

/*
 * Threads that run one script's thread after another: making one anew for each run would take most
 * of the time. Where threads' ends are what is tested, they are made anew (sched_begin()).
 */
struct runner {
	sem_t start;
	struct thread *thread;
	bool busy;
};

static struct runner runners[THREADS_MAX];
static unsigned runner_count;

static struct thread *add(char letter)
{
	struct thread *thread = &threads[thread_count];

	if (thread_count == THREADS_MAX || memchr(letters, letter, thread_count))
		found("the script has too many threads, or two called %c", letter);
	*thread = (struct thread){
		.number = thread_count,
		.letter = letter,
		.turn = &turns[thread_count],
		.state = READY,
		.point = "start",
	};
	letters[thread_count++] = letter;
	letters[thread_count] = '\0';
	return thread;
}

/* In its thread, before anything else of it. */
static void enter(struct thread *thread)
{
	thread_self = thread;
	wait_turn();
	thread->reader = &URCU_TLS(urcu_memb_reader);
}

/* The last step of it: others may use the structure from here on. */
static void leave(void)
{
	struct thread *thread = thread_self, *next = &threads[0];

	check(!in_section(thread), "%c has ended inside a section", thread->letter);
	check(!threads_holds_lock(thread), "%c has ended with a lock held", thread->letter);
	thread->reader = NULL;
	thread->state = ENDED;
	sched_trace("end");
	if (starting == thread)
		starting = NULL;
	else
		next = pick();
	thread_self = NULL;
	sem_post(next->turn);
}

static void *run_runner(void *arg)
{
	struct runner *runner = arg;

	for (;;) {
		while (sem_wait(&runner->start) < 0)
			;
		enter(runner->thread);
		thread_self->run(thread_self->arg);
		runner->busy = false;
		leave();
	}
	return NULL;
}

/*
 * The last destructor of a thread. The library's own runs in the same rounds, and again when
 * another one has read after it, so this one lets three rounds pass (POSIX grants four).
 */
static void end_thread(void *arg)
{
	struct thread *thread = arg;

	if (++thread->rounds < 3) {
		threads_real_setspecific(end_key, thread);
		return;
	}
	check(!thread->reader->registered, "%c has ended, and liburcu still knows it as a reader",
	      thread->letter);
	leave();
}

static void *run_thread(void *arg)
{
	enter(arg);
	threads_real_setspecific(end_key, arg);
	thread_self->run(thread_self->arg);
	return NULL;
}

static void give_runner(struct thread *thread)
{
	struct runner *runner = runners;
	pthread_t id;

	while (runner < runners + runner_count && runner->busy)
		runner++;
	runner->thread = thread;
	runner->busy = true;
	if (runner == runners + runner_count) {
		runner_count++;
		sem_init(&runner->start, 0, 0);
		if (pthread_create(&id, NULL, run_runner, runner))
			found("no thread");
	}
	sem_post(&runner->start);
}

/* Let it run up to its first point: nothing that others could see happens before. */
static void start(struct thread *thread, void (*run)(void *arg), void *arg)
{
	thread->run = run;
	thread->arg = arg;
	if (!real_threads)
		give_runner(thread);
	else if (pthread_create(&thread->id, NULL, run_thread, thread))
		found("no thread");
	starting = thread;
	sem_post(thread->turn);
	wait_turn();
}

static void run_script(void *arg)
{
	((void (*)(void))arg)();
}

void sched_thread(char letter, void (*run)(void))
{
	struct thread *thread = add(letter);

	thread->scripted = true;
	start(thread, run_script, (void *)run);
}

/* Not by the library's gr__thread_start(): it frees memory in the new thread before it has the
 * turn. */
void threads_start_worker(void (*run)(void *arg), void *arg, pthread_t *id)
{
	struct thread *thread = add('w');

	start(thread, run, arg);
	*id = (pthread_t)thread;
}

void threads_join(pthread_t id)
{
	struct thread *thread = (struct thread *)id;

	threads_yield(WAIT_THREAD, thread, "join");
	if (real_threads)
		pthread_join(thread->id, NULL);
}

void sched_begin(bool real)
{
	static bool made;
	unsigned i;

	if (!made) { /* after the library's key, whose destructor then runs first in each round */
		gr_read_begin();
		gr_read_end();
		pthread_key_create(&end_key, end_thread);
		for (i = 0; i < THREADS_MAX; i++)
			sem_init(&turns[i], 0, 0);
		made = true;
	}
	thread_count = 0;
	exploring = false;
	real_threads = real;
	thread_self = add('m');
	thread_self->reader = &URCU_TLS(urcu_memb_reader);
	threads_reset_objects();
}

void sched_run(void)
{
	unsigned i;

	exploring = true;
	threads_yield(WAIT_SCRIPTS, NULL, "run");
	for (i = 0; real_threads && i < thread_count; i++)
		if (threads[i].scripted)
			pthread_join(threads[i].id, NULL);
}

/* -------------------------------------------------------------------------------------- asking */

char sched_letter(void)
{
	return thread_self->letter;
}

unsigned sched_number(void)
{
	return thread_self->number;
}

const char *sched_letters(void)
{
	return letters;
}

bool sched_uses_lock(const pthread_mutex_t *mutex)
{
	unsigned i;

	for (i = 0; i < thread_count; i++)
		if (threads[i].object == mutex &&
		    (threads[i].state == WAIT_LOCK || threads[i].state == WAIT_CONDITION ||
		     threads[i].state == WAIT_TIMED))
			return true;
	return threads_lock_owner(mutex);
}

void sched_trace(const char *format, ...)
{
	va_list args;

	if (!sched_tracing || !thread_self)
		return;
	printf("    %*s%c ", (int)(4 * thread_self->number), "", thread_self->letter);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}
