/* SPDX-License-Identifier: MIT */
/*
 * A thread that runs queues: rings → device → rings, then sleeps in epoll on kicks, on the device's
 * descriptor and on its own event.
 *
 * Threads: run on the worker, save gr__worker_call() (the server's thread) and gr__worker_give()
 * (any). Locks: lock guards the command; nothing is called under it.
 * Invariant: the worker never waits for the server's thread, so that a call always ends once the
 * requests in flight do.
 */
#ifndef GR__VHOST_WORKER_H
#define GR__VHOST_WORKER_H

#include "vhost/queue.h"
#include <pthread.h>

/* Runs on the worker until it returns true. */
typedef bool (*gr__worker_fn)(void *arg);

struct gr__worker {
	struct gr_vhost *server;   /* const */
	unsigned index;		   /* const */
	struct gr__queue **queues; /* const: queue_count of them */
	unsigned queue_count;
	void *context; /* the device's, const */
	bool opened;   /* worker_open succeeded */
	int epoll;
	int wake;
	int device_fd; /* the device's, or -1 */
	pthread_t thread;
	bool started;

	unsigned signalled;	 /* atomic: set (release) after what it tells of, taken (acquire) */
	struct gr__slot *remote; /* atomic: completed elsewhere, a stack */

	pthread_mutex_t lock;
	pthread_cond_t answered;
	gr__worker_fn command; /* wr: lock; NULL: none */
	void *command_arg;
	bool stop; /* wr: lock */

	/* of the thread */
	gr__worker_fn pending; /* a command not yet done */
	void *pending_arg;
	uint64_t poll_ns;    /* how long to look before it sleeps, for now */
	uint64_t idle_since; /* when it began to look, or 0 */
};

/* The device's worker and the thread; queues and queue_count are set. 0 or -errno. */
int gr__worker_open(struct gr__worker *worker, struct gr_vhost *server, unsigned index);
/* Nothing is in flight. A worker that was never opened is fine. */
void gr__worker_close(struct gr__worker *worker);

/* Run @fn on the worker and wait until it has returned true. */
void gr__worker_call(struct gr__worker *worker, gr__worker_fn fn, void *arg);
/* Have it look at everything. */
void gr__worker_wake(struct gr__worker *worker);
/* Is this its thread? */
bool gr__worker_is_me(const struct gr__worker *worker);
/* A request that was completed on another thread. */
void gr__worker_give(struct gr__worker *worker, struct gr__slot *slot);

/* On the worker. */
void gr__worker_handle(struct gr__worker *worker, struct gr_vhost_request *const *requests,
		       unsigned count);
int gr__worker_watch(struct gr__worker *worker, struct gr__queue *q);
void gr__worker_unwatch(struct gr__worker *worker, struct gr__queue *q);

#endif
