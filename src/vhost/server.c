/* SPDX-License-Identifier: MIT */
/* Open, run, close; the listening socket; counters. See server.h. */
#include "vhost/server.h"
#include "base/error.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/hooks.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINES_MAX 50 /* in a second: peers cause lines, and must not fill a disk */
#define QUEUES_MAX 256
#define QUEUE_SIZE_MAX 32768

void gr__vhost_log(struct gr_vhost *server, enum gr_log_level level, const char *format, ...)
{
	struct timespec now;
	char line[512];
	va_list args;

	if (!server->log)
		return;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (__atomic_exchange_n(&server->log_second, (uint64_t)now.tv_sec, __ATOMIC_RELAXED) !=
	    (uint64_t)now.tv_sec)
		__atomic_store_n(&server->log_lines, 0, __ATOMIC_RELAXED);
	if (__atomic_add_fetch(&server->log_lines, 1, __ATOMIC_RELAXED) > LOG_LINES_MAX)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	server->log(server->log_context, level, line);
}

/* ------------------------------------------------------------------------- listening socket */

/* Is anybody listening there? */
static bool socket_is_live(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool live;

	if (fd < 0)
		return true; /* better refuse than take another's away */
	/* EAGAIN: there is one, and its backlog is full */
	live = !connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) || errno == EAGAIN;
	gr__fd_close(fd);
	return live;
}

static int listen_at(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	int fd, rc = GR_FAULT("socket");

	if (strlen(path) >= sizeof(addr.sun_path))
		return gr__fail(-ENAMETOOLONG, "%s: a socket's path has at most %zu bytes", path,
				sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	if (!lstat(path, &st)) {
		if (!S_ISSOCK(st.st_mode) || socket_is_live(&addr))
			return gr__fail(-EADDRINUSE, "%s: it is there and in use", path);
		unlink(path);
	}
	fd = rc ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return gr__fail(rc ? -rc : -errno, "%s: no socket", path);
	rc = GR_FAULT("bind");
	if (rc || bind(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		rc = gr__fail(rc ? -rc : -errno, "%s: cannot be bound", path);
		goto close_fd;
	}
	rc = GR_FAULT("listen");
	if (rc || listen(fd, 4)) {
		rc = gr__fail(rc ? -rc : -errno, "%s: cannot listen", path);
		goto unlink_path;
	}
	return fd;

unlink_path:
	unlink(path);
close_fd:
	gr__fd_close(fd);
	return rc;
}

static void accept_one(struct gr_vhost *server)
{
	int error = GR_FAULT("accept4");
	int fd = error ? -1 : accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		gr__connection_begin(server, fd);
	else if (error || (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR))
		gr__vhost_log(server, GR_LOG_ERROR, "accept: %s", strerror(error ? error : errno));
}

/* ----------------------------------------------------------------------------- open, close */

static int check_opts(const struct gr_vhost_opts *opts)
{
	const struct gr_vhost_ops *ops;

	if (!opts || !opts->ops || !opts->socket_path)
		return gr__fail(-EINVAL, "a server needs a device and a socket's path");
	ops = opts->ops;
	if (!ops->handle || (ops->config_size && !ops->get_config) ||
	    ops->config_size > GR_VHOST_CONFIG_MAX)
		return gr__fail(-EINVAL,
				"a device needs handle, and get_config for %zu bytes (at "
				"most %d)",
				ops->config_size, GR_VHOST_CONFIG_MAX);
	if (opts->queues > QUEUES_MAX || opts->threads > (opts->queues ? opts->queues : 1))
		return gr__fail(-EINVAL, "%u queues (at most %d) on %u threads", opts->queues,
				QUEUES_MAX, opts->threads);
	if (opts->queue_size_max > QUEUE_SIZE_MAX || opts->queue_size_max == 1 ||
	    opts->queue_size_max & (opts->queue_size_max - 1))
		return gr__fail(-EINVAL, "a queue size of %u, no power of two from 2 to %d",
				opts->queue_size_max, QUEUE_SIZE_MAX);
	for (size_t i = 0; i < sizeof(opts->reserved) / sizeof(opts->reserved[0]); i++)
		if (opts->reserved[i])
			return gr__fail(-EINVAL, "reserved options of a newer version");
	return 0;
}

/* Queue i runs on worker i mod n. */
static int open_workers(struct gr_vhost *server)
{
	unsigned at = 0;

	for (unsigned i = 0; i < server->worker_count; i++) {
		struct gr__worker *worker = &server->workers[i];

		worker->queues = server->worker_queues + at;
		for (unsigned k = i; k < server->queue_count; k += server->worker_count) {
			gr__queue_init(&server->queues[k], server, worker, k);
			server->worker_queues[at++] = &server->queues[k];
			worker->queue_count++;
		}
	}
	for (unsigned i = 0; i < server->worker_count; i++) {
		int rc = gr__worker_open(&server->workers[i], server, i);

		if (rc < 0)
			return gr__fail(rc, "worker %u cannot start", i);
	}
	return 0;
}

static int watch(struct gr_vhost *server, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
	int error = GR_FAULT("epoll_ctl");

	if (error)
		return -error;
	return epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

/* Ends what is there of it; NULL and half-built ones too. */
static void destroy(struct gr_vhost *server)
{
	if (!server)
		return;
	for (unsigned i = 0; server->workers && i < server->worker_count; i++)
		gr__worker_close(&server->workers[i]);
	if (server->listener >= 0) {
		unlink(server->socket_path);
		gr__fd_close(server->listener);
	}
	gr__fd_close(server->epoll);
	gr__fd_close(server->stop);
	gr__memory_close(&server->memory);
	gr__postcopy_fini(&server->postcopy);
	gr__free(server->worker_queues);
	gr__free(server->workers);
	gr__free(server->queues);
	gr__free(server->socket_path);
	gr__free(server);
}

static int open_parts(struct gr_vhost *server, const struct gr_vhost_opts *opts)
{
	struct gr_ram_opts ram_opts = {.log = opts->log, .log_context = opts->log_context};
	int rc;

	if (opts->flags & GR_VHOST_SIGBUS) {
		rc = gr_sigbus_install();
		if (rc < 0)
			return rc;
	}
	rc = gr__memory_open(&server->memory, &ram_opts, opts->flags & GR_VHOST_SIGBUS);
	if (rc < 0)
		return rc;
	server->gpa = server->memory.gpa;
	server->uaddr = server->memory.uaddr;
	rc = GR_FAULT("epoll_create1");
	server->epoll = rc ? -1 : epoll_create1(EPOLL_CLOEXEC);
	if (server->epoll < 0)
		return gr__fail(rc ? -rc : -errno, "no epoll descriptor");
	server->stop = gr__event_open();
	if (server->stop < 0)
		return gr__fail(server->stop, "no event descriptor");
	rc = listen_at(server->socket_path);
	if (rc < 0)
		return rc;
	server->listener = rc;
	rc = watch(server, server->listener);
	if (!rc)
		rc = watch(server, server->stop);
	if (rc < 0)
		return gr__fail(rc, "a descriptor cannot be watched");
	return open_workers(server);
}

GR_API int gr_vhost_open(const struct gr_vhost_opts *opts, struct gr_vhost **result)
{
	struct gr_vhost *server;
	int rc = check_opts(opts);

	if (rc < 0)
		return rc;
	server = gr__alloc(sizeof(*server));
	if (!server)
		return -ENOMEM;
	server->listener = server->epoll = server->stop = server->connection.fd = -1;
	gr__message_init(&server->connection.message);
	gr__postcopy_init(&server->postcopy);
	server->ops = opts->ops;
	server->context = opts->context;
	server->log = opts->log;
	server->log_context = opts->log_context;
	server->queue_size_max = opts->queue_size_max ? opts->queue_size_max : 1024;
	server->poll_ns = opts->poll_ns;
	server->queue_count = opts->queues ? opts->queues : 1;
	server->worker_count = opts->threads ? opts->threads : server->queue_count;
	server->socket_path = gr__strdup(opts->socket_path);
	server->queues = gr__alloc_array(server->queue_count, sizeof(*server->queues));
	server->workers = gr__alloc_array(server->worker_count, sizeof(*server->workers));
	server->worker_queues = gr__alloc_array(server->queue_count, sizeof(struct gr__queue *));
	if (!server->socket_path || !server->queues || !server->workers || !server->worker_queues) {
		rc = -ENOMEM;
		goto destroy;
	}
	rc = open_parts(server, opts);
	if (rc < 0)
		goto destroy;
	*result = server;
	return 0;

destroy:
	destroy(server);
	return rc;
}

GR_API int gr_vhost_close(struct gr_vhost *server)
{
	int rc;

	if (!server)
		return 0;
	for (unsigned i = 0; i < server->worker_count; i++)
		if (gr__worker_is_me(&server->workers[i]))
			return gr__fail(-EDEADLK, "a worker would wait for itself");
	gr__connection_end(server);
	/* first, since it may be refused; the workers have nothing to do any more */
	rc = gr__memory_close(&server->memory);
	if (rc < 0)
		return rc;
	destroy(server);
	return 0;
}

/* --------------------------------------------------------------------------------- running */

GR_API int gr_vhost_fd(struct gr_vhost *server)
{
	return server->epoll;
}

/* Handle what is there, waiting for it up to @timeout_ms. 1: told to stop. */
static int process(struct gr_vhost *server, int timeout_ms)
{
	struct epoll_event events[4];
	int stop = 0, count = epoll_wait(server->epoll, events, 4, timeout_ms);

	if (count < 0)
		return errno == EINTR ? 0 : -errno;
	for (int i = 0; i < count; i++) {
		int fd = events[i].data.fd;

		if (fd == server->stop) {
			gr__event_clear(fd);
			stop = 1;
		} else if (fd == server->listener) {
			accept_one(server);
		} else if (fd == server->connection.fd) {
			gr__connection_read(server);
		}
	}
	return stop;
}

GR_API int gr_vhost_process(struct gr_vhost *server)
{
	int rc = process(server, 0);

	return rc < 0 ? rc : 0;
}

GR_API int gr_vhost_run(struct gr_vhost *server)
{
	int rc;

	do
		rc = process(server, -1);
	while (!rc);
	return rc < 0 ? rc : 0;
}

GR_API void gr_vhost_stop(struct gr_vhost *server)
{
	gr__event_set(server->stop);
}

/* ------------------------------------------------------------------------------- questions */

GR_API struct gr_ram *gr_vhost_ram(struct gr_vhost *server)
{
	return server->memory.ram;
}

GR_API struct gr_space *gr_vhost_gpa(struct gr_vhost *server)
{
	return server->gpa;
}

GR_API struct gr_space *gr_vhost_uaddr(struct gr_vhost *server)
{
	return server->uaddr;
}

static uint64_t get(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

GR_API void gr_vhost_get_stats(struct gr_vhost *server, struct gr_vhost_stats *stats)
{
	struct gr_vhost_stats sum = {
		.connected = get(&server->connected),
		.connections = get(&server->connections),
		.messages = get(&server->messages),
		.refused = get(&server->refused),
		.table_changes = get(&server->memory.changes),
		.last_reclaim_us = get(&server->memory.last_reclaim_us),
	};

	for (unsigned i = 0; i < server->queue_count; i++) {
		const struct gr__queue *q = &server->queues[i];

		sum.requests += get(&q->requests);
		sum.in_flight += get(&q->in_flight);
		sum.bad_requests += get(&q->bad_requests);
		sum.broken_queues += get(&q->broken_times);
		sum.kicks += get(&q->kicks);
		sum.calls += get(&q->calls);
	}
	*stats = sum;
}
