/* SPDX-License-Identifier: MIT */
/*
 * The server: its socket, its one connection, its queues and workers.
 *
 * Threads: the members below belong to the server's thread (that of gr_vhost_run() or
 * gr_vhost_process()) once gr_vhost_open() is over; what others read is const or atomic.
 */
#ifndef GR__VHOST_SERVER_H
#define GR__VHOST_SERVER_H

#include "vhost/log.h"
#include "vhost/memory.h"
#include "vhost/message.h"
#include "vhost/postcopy.h"
#include "vhost/worker.h"
#include <guestram/vhost.h>

/* One front-end. */
struct gr__connection {
	int fd; /* -1: nobody is there */
	uint64_t features;
	uint64_t protocol;
	struct gr__message message;
};

struct gr_vhost {
	const struct gr_vhost_ops *ops; /* const from here on */
	void *context;
	gr_log_fn log;
	void *log_context;
	char *socket_path;
	unsigned queue_size_max;
	uint64_t poll_ns; /* const */
	unsigned queue_count, worker_count;
	struct gr__queue *queues;
	struct gr__worker *workers;
	struct gr__queue **worker_queues; /* what workers[].queues point into */
	struct gr_space *gpa, *uaddr;

	int listener;
	int epoll;
	int stop; /* event */
	struct gr__memory memory;
	struct gr__postcopy postcopy;
	struct gr__log dirty_log;   /* of the connection's front-end; see there who reads it */
	struct gr__shared inflight; /* likewise; each ring's worker has its part */
	uint16_t inflight_queues, inflight_size;
	uint16_t *inflight_next; /* likewise: links of each ring's, inflight_size of them */
	struct gr__connection connection;

	uint64_t log_second; /* atomic, relaxed: lines are bounded, see gr__vhost_log() */
	unsigned log_lines;

	/* counters: one writer, read relaxed by anybody */
	uint64_t connected, connections, messages, refused;
};

__attribute__((format(printf, 3, 4))) void
gr__vhost_log(struct gr_vhost *server, enum gr_log_level level, const char *format, ...);

/* protocol.c: act on a whole message. 0, or -errno: hang up. */
int gr__protocol_handle(struct gr_vhost *server, struct gr__message *message);
/* All rings stopped and all that was told of them forgotten; the device reset; log and record of
 * requests in flight unmapped. */
void gr__protocol_forget(struct gr_vhost *server);

/* connection.c */
void gr__connection_begin(struct gr_vhost *server, int fd);
void gr__connection_end(struct gr_vhost *server);
/* Handle what has arrived; hangs up when it must. */
void gr__connection_read(struct gr_vhost *server);

#endif
