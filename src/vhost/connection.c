/* SPDX-License-Identifier: MIT */
/*
 * One front-end, from accept to the end: messages in, answers out, everything undone when it goes.
 * Context: the server's thread.
 */
#include "os/event.h"
#include "os/hooks.h"
#include "vhost/server.h"
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

/* Messages in one call, so that the caller's loop gets its turn. */
#define MESSAGES_MAX 64

/*
 * While a front-end is there the next one waits in the backlog. The listener stays in the set: to
 * be put in again might be refused (ENOMEM, ENOSPC), and nobody would be accepted any more.
 */
static void watch_listener(struct gr_vhost *server, bool on)
{
	struct epoll_event event = {.events = on ? EPOLLIN : 0, .data.fd = server->listener};

	epoll_ctl(server->epoll, EPOLL_CTL_MOD, server->listener, &event);
}

void gr__connection_begin(struct gr_vhost *server, int fd)
{
	struct gr__connection *connection = &server->connection;
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
	int error;

	/* what the last one could not be rid of is not for this one to see */
	if (gr__memory_clear(&server->memory) < 0) {
		gr__vhost_log(server, GR_LOG_ERROR,
			      "a connection is refused: no memory to end the last one's");
		gr__fd_close(fd);
		return;
	}
	error = GR_FAULT("epoll_ctl");
	if (error || epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event)) {
		gr__vhost_log(server, GR_LOG_ERROR, "a connection cannot be watched: %s",
			      strerror(error ? error : errno));
		gr__fd_close(fd);
		return;
	}
	watch_listener(server, false);
	connection->fd = fd;
	connection->features = connection->protocol = 0;
	gr__message_init(&connection->message);
	gr__count(&server->connections, 1);
	__atomic_store_n(&server->connected, 1, __ATOMIC_RELAXED);
	gr__vhost_log(server, GR_LOG_INFO, "a front-end has connected");
}

void gr__connection_end(struct gr_vhost *server)
{
	struct gr__connection *connection = &server->connection;

	if (connection->fd < 0)
		return;
	/* first: a worker may wait for a page that does not come any more, and we for the worker */
	gr__postcopy_end(&server->postcopy, false);
	gr__protocol_forget(server);
	gr__memory_clear(&server->memory);
	gr__message_clear(&connection->message);
	epoll_ctl(server->epoll, EPOLL_CTL_DEL, connection->fd, NULL);
	gr__fd_close(connection->fd);
	connection->fd = -1;
	__atomic_store_n(&server->connected, 0, __ATOMIC_RELAXED);
	gr__vhost_log(server, GR_LOG_INFO, "the front-end has left");
	watch_listener(server, true);
}

void gr__connection_read(struct gr_vhost *server)
{
	struct gr__connection *connection = &server->connection;
	struct gr__message *message = &connection->message;

	for (int i = 0; i < MESSAGES_MAX; i++) {
		int rc = gr__message_recv(connection->fd, message);

		if (rc == -EAGAIN)
			return;
		if (rc <= 0) {
			if (rc < 0)
				gr__vhost_log(server, GR_LOG_ERROR, "hanging up: %s",
					      rc == -ECONNRESET ? "a message is cut short"
					      : rc == -EMSGSIZE ? "a message is too long"
								: strerror(-rc));
			break;
		}
		rc = gr__protocol_handle(server, message);
		gr__message_clear(message);
		if (rc < 0) {
			gr__vhost_log(server, GR_LOG_ERROR, "hanging up: %s",
				      rc == -EAGAIN ? "answers are not read" : strerror(-rc));
			break;
		}
		if (i == MESSAGES_MAX - 1)
			return;
	}
	gr__connection_end(server);
}
