/* SPDX-License-Identifier: MIT */
/* See worker.h. */
#include "vhost/worker.h"
#include "os/event.h"
#include "os/hooks.h"
#include "os/thread.h"
#include "vhost/server.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

/* Of a ring whose driver gives no kicks, between two looks at it. */
#define POLL_MS 1
/* How long a worker looks at first before it sleeps, when it may. */
#define POLL_FIRST_NS 4000

static _Thread_local struct gr__worker *this_worker;

bool gr__worker_is_me(const struct gr__worker *worker)
{
	return this_worker == worker;
}

void gr__worker_wake(struct gr__worker *worker)
{
	/* release: pairs with the exchange in take_signals() */
	if (!__atomic_exchange_n(&worker->signalled, 1, __ATOMIC_ACQ_REL))
		gr__event_set(worker->wake);
}

void gr__worker_give(struct gr__worker *worker, struct gr__slot *slot)
{
	struct gr__slot *head = __atomic_load_n(&worker->remote, __ATOMIC_RELAXED);

	do
		slot->next = head;
	while (!__atomic_compare_exchange_n(&worker->remote, &head, slot, true, __ATOMIC_RELEASE,
					    __ATOMIC_RELAXED)); /* pairs: take_remote() */
	gr__worker_wake(worker);
}

void gr__worker_call(struct gr__worker *worker, gr__worker_fn fn, void *arg)
{
	pthread_mutex_lock(&worker->lock);
	worker->command = fn;
	worker->command_arg = arg;
	pthread_mutex_unlock(&worker->lock);
	gr__worker_wake(worker);
	pthread_mutex_lock(&worker->lock);
	while (worker->command)
		pthread_cond_wait(&worker->answered, &worker->lock);
	pthread_mutex_unlock(&worker->lock);
}

void gr__worker_handle(struct gr__worker *worker, struct gr_vhost_request *const *requests,
		       unsigned count)
{
	struct gr_vhost *server = worker->server;

	server->ops->handle(server->context, worker->context, requests, count);
}

int gr__worker_watch(struct gr__worker *worker, struct gr__queue *q)
{
	/*
	 * Edge-triggered: each kick wakes us and its count is never read, which saves a system call
	 * for each. Nothing is lost, since the ring is looked at after every wake-up.
	 */
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = q};
	int error = GR_FAULT("epoll_ctl");

	if (error)
		return -error;
	return epoll_ctl(worker->epoll, EPOLL_CTL_ADD, q->kick, &event) ? -errno : 0;
}

void gr__worker_unwatch(struct gr__worker *worker, struct gr__queue *q)
{
	/* needed before the close: the front-end has the same open file, which epoll watches */
	epoll_ctl(worker->epoll, EPOLL_CTL_DEL, q->kick, NULL);
}

static unsigned take_remote(struct gr__worker *worker)
{
	/* acquire: pairs with gr__worker_give() */
	struct gr__slot *slot = __atomic_exchange_n(&worker->remote, NULL, __ATOMIC_ACQUIRE);
	unsigned count = 0;

	while (slot) {
		struct gr__slot *next = slot->next;

		gr__queue_complete(slot, slot->written);
		slot = next;
		count++;
	}
	return count;
}

/* Takes what others left; true: the worker is to end. */
static bool take_signals(struct gr__worker *worker, unsigned *done)
{
	bool stop;

	if (gr_likely(!__atomic_load_n(&worker->signalled, __ATOMIC_RELAXED)))
		return false;
	__atomic_exchange_n(&worker->signalled, 0, __ATOMIC_ACQ_REL); /* pairs: wake() */
	*done += take_remote(worker);
	pthread_mutex_lock(&worker->lock);
	worker->pending = worker->command;
	worker->pending_arg = worker->command_arg;
	stop = worker->stop;
	pthread_mutex_unlock(&worker->lock);
	return stop;
}

static void run_pending(struct gr__worker *worker)
{
	if (gr_likely(!worker->pending) || !worker->pending(worker->pending_arg))
		return;
	worker->pending = NULL;
	pthread_mutex_lock(&worker->lock);
	worker->command = NULL;
	pthread_cond_signal(&worker->answered);
	pthread_mutex_unlock(&worker->lock);
}

static void sleep_until_event(struct gr__worker *worker)
{
	struct epoll_event events[16];
	int timeout = -1, count;

	for (unsigned i = 0; i < worker->queue_count; i++) {
		struct gr__queue *q = worker->queues[i];

		if (gr__queue_arm(q))
			return;
		if (q->runnable && q->polled)
			timeout = POLL_MS;
	}
	GR_POINT("worker.sleep");
	count = epoll_wait(worker->epoll, events, 16, timeout);
	GR_POINT("worker.awake");
	for (int i = 0; i < count; i++) {
		/* cleared here, before the flag is looked at: whoever sets the flag sets it after
		 */
		if (events[i].data.ptr == &worker->wake)
			gr__event_clear(worker->wake);
		for (unsigned k = 0; k < worker->queue_count; k++) {
			if (events[i].data.ptr == worker->queues[k])
				gr__count(&worker->queues[k]->kicks, 1);
		}
	}
}

/* One round over all queues; returns how much was done. */
static unsigned run_queues(struct gr__worker *worker)
{
	const struct gr_vhost_ops *ops = worker->server->ops;
	unsigned done = 0;

	for (unsigned i = 0; i < worker->queue_count; i++)
		done += gr__queue_run(worker->queues[i]);
	if (ops->work)
		done += ops->work(worker->server->context, worker->context);
	return done;
}

/* ns, of CLOCK_MONOTONIC */
static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* A round found nothing. true: look again, something is likely to come before a sleep would end. */
static bool poll_on(struct gr__worker *worker)
{
	uint64_t now;

	if (!worker->poll_ns)
		return false;
	now = now_ns();
	if (!worker->idle_since)
		worker->idle_since = now;
	return now - worker->idle_since < worker->poll_ns;
}

/*
 * What came soon after we went to sleep would have been met by a longer look: look twice as long
 * next time. After a long sleep start over.
 */
static void sleep_and_learn(struct gr__worker *worker)
{
	uint64_t most = worker->server->poll_ns, begin = most ? now_ns() : 0;

	sleep_until_event(worker);
	if (!most)
		return;
	if (now_ns() - begin > most)
		worker->poll_ns = 0;
	else
		worker->poll_ns = worker->poll_ns ? worker->poll_ns * 2 : POLL_FIRST_NS;
	if (worker->poll_ns > most)
		worker->poll_ns = most;
}

static void run(void *arg)
{
	struct gr__worker *worker = arg;

	this_worker = worker;
	for (;;) {
		unsigned done = 0;

		if (take_signals(worker, &done))
			return;
		done += run_queues(worker);
		for (unsigned i = 0; i < worker->queue_count; i++)
			gr__queue_flush(worker->queues[i]);
		run_pending(worker);
		if (!done && poll_on(worker))
			continue;
		if (!done)
			sleep_and_learn(worker);
		worker->idle_since = 0;
	}
}

static int watch_fd(struct gr__worker *worker, int *fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};
	int error = GR_FAULT("epoll_ctl");

	if (error)
		return -error;
	return epoll_ctl(worker->epoll, EPOLL_CTL_ADD, *fd, &event) ? -errno : 0;
}

int gr__worker_open(struct gr__worker *worker, struct gr_vhost *server, unsigned index)
{
	const struct gr_vhost_ops *ops = server->ops;
	char name[16];
	int rc;

	worker->server = server;
	worker->index = index;
	worker->wake = worker->epoll = worker->device_fd = -1;
	pthread_mutex_init(&worker->lock, NULL);
	pthread_cond_init(&worker->answered, NULL);
	if (ops->worker_open) {
		rc = ops->worker_open(server->context, index, &worker->context);
		if (rc < 0)
			goto destroy_lock;
	}
	worker->opened = true;
	rc = GR_FAULT("epoll_create1");
	worker->epoll = rc ? -1 : epoll_create1(EPOLL_CLOEXEC);
	if (worker->epoll < 0) {
		rc = rc ? -rc : -errno;
		goto close_device;
	}
	rc = gr__event_open();
	if (rc < 0)
		goto close_epoll;
	worker->wake = rc;
	rc = watch_fd(worker, &worker->wake);
	if (rc < 0)
		goto close_wake;
	if (ops->worker_fd)
		worker->device_fd = ops->worker_fd(server->context, worker->context);
	if (worker->device_fd >= 0) {
		rc = watch_fd(worker, &worker->device_fd);
		if (rc < 0)
			goto close_wake;
	}
	snprintf(name, sizeof(name), "vhost-%u", index);
	rc = gr__thread_start(run, worker, name, &worker->thread);
	if (rc < 0)
		goto close_wake;
	worker->started = true;
	return 0;

close_wake:
	gr__fd_close(worker->wake);
close_epoll:
	gr__fd_close(worker->epoll);
close_device:
	if (ops->worker_close)
		ops->worker_close(server->context, worker->context);
	worker->opened = false;
destroy_lock:
	pthread_cond_destroy(&worker->answered);
	pthread_mutex_destroy(&worker->lock);
	return rc;
}

void gr__worker_close(struct gr__worker *worker)
{
	struct gr_vhost *server = worker->server;

	if (!worker->started)
		return;
	pthread_mutex_lock(&worker->lock);
	worker->stop = true;
	pthread_mutex_unlock(&worker->lock);
	gr__worker_wake(worker);
	gr__thread_join(worker->thread);
	worker->started = false;
	gr__fd_close(worker->wake);
	gr__fd_close(worker->epoll);
	if (server->ops->worker_close)
		server->ops->worker_close(server->context, worker->context);
	pthread_cond_destroy(&worker->answered);
	pthread_mutex_destroy(&worker->lock);
}
