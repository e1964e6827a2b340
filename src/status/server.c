/* SPDX-License-Identifier: MIT */
/*
 * The status socket's thread: accepts, makes a document for each connection, and writes it as fast
 * as the client reads, for so long and no longer.
 *
 * Threads: one, of the process; `serving` under serving_lock, which start and stop hold and the
 * thread never takes. What a client holds is a place among CLIENTS, memory for one document, and
 * CLIENT_MS of time; others wait in the socket's backlog meanwhile.
 */
#include "base/error.h"
#include "os/event.h"
#include "os/hooks.h"
#include "os/socket.h"
#include "os/thread.h"
#include "ram/ram.h"
#include "status/status.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS 4
#define CLIENT_MS 5000
/* After accept() found no descriptor or memory: not at once again. */
#define PAUSE_MS 100

struct client {
	int fd; /* or -1 */
	char *text;
	size_t length, done;
	uint64_t deadline_ns;
};

static struct {
	pid_t pid; /* whose thread it is; 0: none */
	struct gr__socket socket;
	int stop_fd;
	pthread_t thread;
	/* the thread's own */
	struct client clients[CLIENTS];
	bool paused;
} serving;

static pthread_mutex_t serving_lock = PTHREAD_MUTEX_INITIALIZER;

static void drop(struct client *client)
{
	gr__fd_close(client->fd);
	free(client->text);
	*client = (struct client){.fd = -1};
}

/* Writes what goes in; drops a client that has all, has left, or is late. */
static void advance(struct client *client, uint64_t now)
{
	ssize_t bytes;

	while (client->done < client->length) {
		bytes = send(client->fd, client->text + client->done, client->length - client->done,
			     MSG_NOSIGNAL | MSG_DONTWAIT);
		if (bytes < 0 && errno == EINTR)
			continue;
		if (bytes < 0 && errno == EAGAIN && now < client->deadline_ns)
			return;
		if (bytes < 0)
			break;
		client->done += (size_t)bytes;
	}
	drop(client);
}

static struct client *find_place(void)
{
	size_t i;

	for (i = 0; i < CLIENTS; i++)
		if (serving.clients[i].fd < 0)
			return &serving.clients[i];
	return NULL;
}

static void welcome(struct client *client)
{
	struct ucred peer;
	int fd = gr__socket_accept(&serving.socket, &peer);

	if (fd >= 0 && peer.uid && peer.uid != geteuid()) {
		gr__fd_close(fd);
		return;
	}
	if (fd < 0) {
		serving.paused = fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM;
		return;
	}
	client->fd = fd;
	client->done = 0;
	if (gr_status_text(&client->text) < 0) {
		drop(client); /* an end without a document */
		return;
	}
	client->length = strlen(client->text);
	client->deadline_ns = gr__now_ns() + (uint64_t)CLIENT_MS * 1000000;
	advance(client, gr__now_ns());
}

/* How long poll() may wait. */
static int timeout(uint64_t now)
{
	uint64_t first = UINT64_MAX;
	size_t i;

	for (i = 0; i < CLIENTS; i++)
		if (serving.clients[i].fd >= 0 && serving.clients[i].deadline_ns < first)
			first = serving.clients[i].deadline_ns;
	if (serving.paused && first > now + (uint64_t)PAUSE_MS * 1000000)
		first = now + (uint64_t)PAUSE_MS * 1000000;
	if (first == UINT64_MAX)
		return -1;
	return first > now ? (int)((first - now) / 1000000) + 1 : 0;
}

static void serve(void *unused)
{
	struct pollfd fds[CLIENTS + 2];
	struct client *place;
	uint64_t now;
	size_t i;

	(void)unused;
	for (;;) {
		place = find_place();
		fds[0] = (struct pollfd){.fd = serving.stop_fd, .events = POLLIN};
		fds[1] = (struct pollfd){.fd = place && !serving.paused ? serving.socket.fd : -1,
					 .events = POLLIN};
		for (i = 0; i < CLIENTS; i++)
			fds[i + 2] =
				(struct pollfd){.fd = serving.clients[i].fd, .events = POLLOUT};
		if (poll(fds, CLIENTS + 2, timeout(gr__now_ns())) < 0 && errno != EINTR)
			serving.paused = true;
		else
			serving.paused = false;
		if (fds[0].revents)
			break;
		now = gr__now_ns();
		for (i = 0; i < CLIENTS; i++)
			if (serving.clients[i].fd >= 0 &&
			    (fds[i + 2].revents || now >= serving.clients[i].deadline_ns))
				advance(&serving.clients[i], now);
		if (place && fds[1].revents)
			welcome(place);
	}
	for (i = 0; i < CLIENTS; i++)
		drop(&serving.clients[i]);
}

static int start(const char *path)
{
	size_t i;
	int rc;

	if (serving.pid && serving.pid == getpid())
		return gr__fail(-EBUSY, "status: served at %s already", serving.socket.path);
	rc = gr__socket_listen("status", path, &serving.socket);
	if (rc < 0)
		return rc;
	rc = gr__event_open();
	if (rc < 0) {
		gr__say("status %s: no eventfd", path);
		goto unlisten;
	}
	serving.stop_fd = rc;
	serving.paused = false;
	for (i = 0; i < CLIENTS; i++)
		serving.clients[i] = (struct client){.fd = -1};
	rc = gr__thread_start(serve, NULL, "guestram-status", &serving.thread);
	if (rc < 0) {
		gr__say("status %s: its thread does not start", path);
		goto close_event;
	}
	serving.pid = getpid();
	return 0;

close_event:
	gr__fd_close(serving.stop_fd);
unlisten:
	gr__socket_unlisten(&serving.socket);
	return rc;
}

int gr_status_serve(const char *path)
{
	int rc;

	pthread_mutex_lock(&serving_lock);
	rc = start(path);
	pthread_mutex_unlock(&serving_lock);
	return rc;
}

int gr_status_stop(void)
{
	int rc = gr__may_wait("status stop");

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&serving_lock);
	if (serving.pid && serving.pid != getpid()) {
		rc = gr__fail(-ENOTSUP, "status stop: this process was forked from the one that "
					"serves it");
	} else if (serving.pid) {
		gr__event_set(serving.stop_fd);
		gr__thread_join(serving.thread);
		gr__fd_close(serving.stop_fd);
		gr__socket_unlisten(&serving.socket);
		serving.pid = 0;
	}
	pthread_mutex_unlock(&serving_lock);
	return rc;
}
