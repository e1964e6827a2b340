/* SPDX-License-Identifier: MIT */
/*
 * A server of pages: monitors connect, tell of their memory and hand over their userfaultfd; from
 * then on each is a session, with a thread of its own (paging.h) and the server's workers.
 *
 * Threads: gr_pager_server_run() accepts, listens to handshakes, begins sessions and takes those
 * away that have ended. `lock` is for the list of sessions, and held for no call that waits.
 */
#include "base/error.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/hooks.h"
#include "os/socket.h"
#include "os/uffd.h"
#include "pager/handshake.h"
#include "pager/latency.h"
#include "pager/paging.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define SESSIONS_DEFAULT 1024
#define HANDSHAKE_MS 5000
#define GUESTS_MAX 64 /* that have not told all yet */
#define MS UINT64_C(1000000)

struct guest {
	int fd; /* -1: nobody */
	int pid;
	uint64_t deadline; /* ns */
	struct gr__handshake handshake;
};

struct session {
	struct session *next; /* wr: server->lock */
	uint64_t number;
	bool complete_seen; /* the server's thread's */
	struct gr__paging paging;
};

struct gr_pager_server {
	struct gr_page_source source; /* const, as all up to `stop` */
	struct gr__order order;
	bool ordered;
	int block;
	uint64_t length, chunk;
	char *name; /* of the block; NULL: the first */
	unsigned flags, max_sessions, handshake_ms;
	char *record;
	int (*session)(void *context, uint64_t number, enum gr_pager_news news, int pid, int uffd);
	gr_log_fn log;
	void *log_context;
	struct gr__socket socket;
	struct gr__pool pool;
	int stop, ended; /* events */

	/* the running thread's */
	struct guest guests[GUESTS_MAX];
	bool recorded; /* a session is, or was */
	int record_rc;

	pthread_mutex_t lock;
	struct session *sessions;	    /* wr: lock */
	struct gr_pager_server_stats stats; /* wr: lock; pages: of those that have ended */
};

static void say(void *context, enum gr_log_level level, const char *line)
{
	struct gr_pager_server *server = context;

	if (server->log)
		server->log(server->log_context, level, line);
}

static void say_error(struct gr_pager_server *server, const char *what)
{
	char line[400];

	snprintf(line, sizeof(line), "%s: %s", what, gr_last_error());
	say(server, GR_LOG_ERROR, line);
}

/* ------------------------------------------------------------------------------------ sessions */

static void add_stats(struct gr_pager_stats *sum, const struct gr_pager_stats *more)
{
	const uint64_t *from = (const uint64_t *)more;
	uint64_t *to = (uint64_t *)sum, most = sum->most_ns;
	size_t i;

	for (i = 0; i < sizeof(*sum) / sizeof(*to); i++)
		to[i] += from[i];
	sum->most_ns = most > more->most_ns ? most : more->most_ns;
}

static const char *name_of(void *context, int block)
{
	const struct gr_pager_server *server = context;

	(void)block;
	return server->name;
}

/* Its thread has left, or is told to. The session is in no list. */
static void end_session(struct gr_pager_server *server, struct session *session)
{
	struct gr_pager_stats stats;
	char line[200];
	int rc;

	gr__paging_stop(&session->paging);
	gr__paging_stats(&session->paging, &stats);
	snprintf(line, sizeof(line),
		 "session %llu ends: %llu faults, %llu of %llu MiB there, %llu shared, p50 %llu "
		 "us, p99 %llu us",
		 (unsigned long long)session->number, (unsigned long long)stats.faults,
		 (unsigned long long)stats.bytes_there >> 20, (unsigned long long)stats.bytes >> 20,
		 (unsigned long long)stats.shared >> 20, (unsigned long long)stats.p50_ns / 1000,
		 (unsigned long long)stats.p99_ns / 1000);
	say(server, GR_LOG_INFO, line);
	if (session->paging.recording) {
		rc = gr__order_save(&session->paging.record, server->record, name_of, server);
		if (rc < 0) {
			server->record_rc = rc;
			say_error(server, "record");
		}
	}
	rc = session->paging.rc;
	if (server->session)
		server->session(server->log_context, session->number,
				stats.complete_ns || rc == -ECONNRESET || rc == -ESRCH
					? GR_PAGER_ENDS
					: GR_PAGER_GIVEN_UP,
				0, -1);
	pthread_mutex_lock(&server->lock);
	stats.faults_waiting = stats.stalled = 0;
	add_stats(&server->stats.pages, &stats);
	server->stats.sessions--;
	server->stats.ended++;
	server->stats.completed += stats.complete_ns != 0;
	pthread_mutex_unlock(&server->lock);
	gr__paging_close(&session->paging);
	gr__free(session);
}

static void look_at_complete(struct gr_pager_server *server)
{
	struct session *session;
	bool complete;

	/* this thread alone changes the list */
	for (session = server->sessions; session; session = session->next) {
		pthread_mutex_lock(&session->paging.lock);
		complete = session->paging.complete;
		pthread_mutex_unlock(&session->paging.lock);
		if (!complete || session->complete_seen)
			continue;
		session->complete_seen = true;
		if (server->session)
			server->session(server->log_context, session->number, GR_PAGER_COMPLETE, 0,
					-1);
	}
}

/* Those whose thread has left. */
static void reap(struct gr_pager_server *server)
{
	struct session **link, *session, *gone = NULL;

	gr__event_clear(server->ended);
	look_at_complete(server);
	pthread_mutex_lock(&server->lock);
	for (link = &server->sessions; (session = *link) != NULL;) {
		bool left;

		pthread_mutex_lock(&session->paging.lock);
		left = session->paging.left;
		pthread_mutex_unlock(&session->paging.lock);
		if (!left) {
			link = &session->next;
			continue;
		}
		*link = session->next;
		session->next = gone;
		gone = session;
	}
	pthread_mutex_unlock(&server->lock);
	while ((session = gone)) {
		gone = session->next;
		end_session(server, session);
	}
}

static int make_pieces(struct gr_pager_server *server, const struct gr__region *regions,
		       unsigned count, struct gr__paging *paging)
{
	struct gr__paged *pieces = gr__alloc_array(count, sizeof(*pieces));
	unsigned i;
	int rc;

	if (!pieces)
		return gr__fail(-ENOMEM, "no memory for %u regions", count);
	for (i = 0; i < count; i++) {
		pieces[i].addr = regions[i].addr;
		pieces[i].length = regions[i].length;
		pieces[i].page_size = regions[i].page_size;
		pieces[i].block = server->block;
		pieces[i].source_offset = regions[i].offset;
		pieces[i].chunk = server->chunk;
	}
	rc = gr__paging_open(paging, pieces, count);
	if (rc < 0)
		gr__free(pieces);
	return rc;
}

/* Is it one, and of that memory? Who has been waiting for a pager that has gone asks again. */
static int try_uffd(int uffd, const struct gr__region *regions, unsigned count)
{
	unsigned i;
	int rc = gr__uffd_adopt(uffd);

	for (i = 0; i < count && !rc; i++)
		rc = gr__uffd_wake(uffd, regions[i].addr, regions[i].length);
	if (rc == -ENOTTY)
		return gr__fail(rc, "the descriptor is no userfaultfd");
	if (rc < 0)
		return gr__fail(rc, "region at %#llx: userfaultfd: %s",
				(unsigned long long)regions[i ? i - 1 : 0].addr,
				strerrordesc_np(-rc));
	return 0;
}

/* The guest's descriptors are the session's when it succeeds. */
static int begin_session(struct gr_pager_server *server, struct guest *guest,
			 const struct gr__region *regions, unsigned count)
{
	struct session *session = gr__alloc(sizeof(*session));
	struct gr__paging *paging;
	int rc;

	if (!session)
		return gr__fail(-ENOMEM, "no memory for a session");
	session->number = server->stats.accepted + 1;
	paging = &session->paging;
	paging->pool = &server->pool;
	paging->source = &server->source;
	paging->order = server->ordered ? &server->order : NULL;
	paging->flags = server->flags;
	paging->recording = server->record && !server->recorded;
	paging->uffd = paging->peer = paging->wake = -1;
	paging->ended = server->ended;
	paging->say = say;
	paging->say_context = server;
	rc = make_pieces(server, regions, count, paging);
	if (rc < 0)
		goto free_session;
	rc = try_uffd(guest->handshake.fd, regions, count);
	if (!rc)
		rc = gr__paging_start(paging);
	if (rc < 0)
		goto close_paging;
	if (server->session) {
		rc = server->session(server->log_context, session->number, GR_PAGER_BEGINS,
				     guest->pid, guest->handshake.fd);
		if (rc < 0) {
			rc = gr__fail(rc, "it was refused: %s", strerrordesc_np(-rc));
			goto stop_paging;
		}
	}
	paging->uffd = guest->handshake.fd;
	paging->peer = guest->fd;
	guest->handshake.fd = guest->fd = -1;
	server->recorded |= paging->recording;
	pthread_mutex_lock(&server->lock);
	session->next = server->sessions;
	server->sessions = session;
	server->stats.sessions++;
	server->stats.accepted++;
	pthread_mutex_unlock(&server->lock);
	gr__paging_go(paging);
	return 0;

stop_paging:
	gr__paging_stop(paging);
close_paging:
	gr__paging_close(paging);
free_session:
	gr__free(session);
	return rc;
}

/* -------------------------------------------------------------------------------------- guests */

static void drop(struct guest *guest)
{
	gr__fd_close(guest->fd);
	guest->fd = -1;
	gr__handshake_fini(&guest->handshake);
}

static void refuse(struct gr_pager_server *server, struct guest *guest)
{
	pthread_mutex_lock(&server->lock);
	server->stats.refused++;
	pthread_mutex_unlock(&server->lock);
	say_error(server, "a monitor is refused");
	drop(guest);
}

static int begin(struct gr_pager_server *server, struct guest *guest)
{
	struct gr__region *regions;
	unsigned count;
	char line[160];
	int rc;

	if (server->stats.sessions >= server->max_sessions)
		return gr__fail(-EBUSY, "there are %u sessions", server->max_sessions);
	rc = gr__handshake_parse(&guest->handshake, server->length, &regions, &count);
	if (rc < 0)
		return rc;
	rc = begin_session(server, guest, regions, count);
	if (!rc) {
		snprintf(line, sizeof(line), "session %llu begins: process %d, %u regions",
			 (unsigned long long)server->stats.accepted, guest->pid, count);
		say(server, GR_LOG_INFO, line);
	}
	gr__free(regions);
	return rc;
}

static void listen_to(struct gr_pager_server *server, struct guest *guest)
{
	char bytes[16384];
	int fds[8];
	int64_t got;
	int rc = 0;

	do {
		unsigned count = 8, i;

		got = gr__socket_receive(guest->fd, bytes, sizeof(bytes), fds, &count);
		/* the first is the one; others are the monitor's mistake */
		for (i = 0; i < count; i++) {
			if (guest->handshake.fd < 0)
				guest->handshake.fd = fds[i];
			else
				gr__fd_close(fds[i]);
		}
		if (got > 0)
			rc = gr__handshake_add(&guest->handshake, bytes, (size_t)got);
	} while (!rc && got > 0 && !(guest->handshake.whole && guest->handshake.fd >= 0));
	if (!rc && guest->handshake.whole && guest->handshake.fd >= 0)
		rc = begin(server, guest);
	else if (!rc && got == 0)
		rc = gr__fail(-ECONNRESET, "it hung up in the middle of its handshake");
	else if (!rc && got < 0 && got != -EAGAIN)
		rc = gr__fail((int)got, "receiving: %s", strerrordesc_np((int)-got));
	if (rc < 0)
		refuse(server, guest);
	else if (guest->fd < 0)
		drop(guest);
}

static void accept_all(struct gr_pager_server *server)
{
	struct ucred peer;
	unsigned i;

	for (i = 0; i < GUESTS_MAX; i++) {
		struct guest *guest = &server->guests[i];
		int fd;

		if (guest->fd >= 0)
			continue;
		fd = gr__socket_accept(&server->socket, &peer);
		if (fd == -EAGAIN)
			return;
		if (fd < 0) {
			gr__say("accept: %s", strerrordesc_np(-fd));
			say_error(server, "a monitor is not heard");
			return;
		}
		guest->fd = fd;
		guest->pid = peer.pid;
		guest->deadline = gr__paging_now() + server->handshake_ms * MS;
		gr__handshake_init(&guest->handshake);
	}
}

/* ------------------------------------------------------------------------------------- running */

static int fill_poll(struct gr_pager_server *server, struct pollfd *fds, int *timeout_ms)
{
	uint64_t now = gr__paging_now(), next = UINT64_MAX;
	bool room = false;
	unsigned i;

	for (i = 0; i < GUESTS_MAX; i++) {
		const struct guest *guest = &server->guests[i];

		fds[3 + i] = (struct pollfd){.fd = guest->fd, .events = POLLIN};
		room |= guest->fd < 0;
		if (guest->fd >= 0 && guest->deadline < next)
			next = guest->deadline;
	}
	fds[0] = (struct pollfd){.fd = server->stop, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = server->ended, .events = POLLIN};
	fds[2] = (struct pollfd){.fd = room ? server->socket.fd : -1, .events = POLLIN};
	*timeout_ms = next == UINT64_MAX ? -1 : next <= now ? 0 : (int)((next - now) / MS) + 1;
	return 3 + GUESTS_MAX;
}

int gr_pager_server_run(struct gr_pager_server *server)
{
	struct pollfd fds[3 + GUESTS_MAX];
	int count, timeout_ms, error;
	unsigned i;

	for (;;) {
		count = fill_poll(server, fds, &timeout_ms);
		error = GR_FAULT("server.poll");
		if (error || poll(fds, (nfds_t)count, timeout_ms) < 0) {
			error = error ? error : errno;
			if (error == EINTR)
				continue;
			return gr__fail(-error, "pager: poll: %s", strerrordesc_np(error));
		}
		if (fds[0].revents) {
			gr__event_clear(server->stop);
			return 0;
		}
		if (fds[1].revents)
			reap(server);
		for (i = 0; i < GUESTS_MAX; i++) {
			struct guest *guest = &server->guests[i];

			if (guest->fd < 0)
				continue;
			if (fds[3 + i].revents) {
				listen_to(server, guest);
			} else if (gr__paging_now() >= guest->deadline) {
				gr__say("no %s after %u ms",
					guest->handshake.whole ? "descriptor" : "whole array",
					server->handshake_ms);
				refuse(server, guest);
			}
		}
		if (fds[2].revents)
			accept_all(server);
	}
}

void gr_pager_server_stop(struct gr_pager_server *server)
{
	gr__event_set(server->stop);
}

void gr_pager_server_get_stats(struct gr_pager_server *server, struct gr_pager_server_stats *stats)
{
	struct gr_pager_stats one;
	struct session *session;

	pthread_mutex_lock(&server->lock);
	*stats = server->stats;
	for (session = server->sessions; session; session = session->next) {
		gr__paging_stats(&session->paging, &one);
		add_stats(&stats->pages, &one);
		stats->completed += one.complete_ns != 0;
	}
	pthread_mutex_unlock(&server->lock);
	pthread_mutex_lock(&server->pool.lock);
	stats->pages.buffer_bytes = server->pool.used;
	stats->pages.buffer_bytes_most = server->pool.most;
	pthread_mutex_unlock(&server->pool.lock);
	stats->pages.p50_ns = gr__latency_rank(stats->pages.latency, 500);
	stats->pages.p99_ns = gr__latency_rank(stats->pages.latency, 990);
}

/* --------------------------------------------------------------------------------- open, close */

static int check_opts(const struct gr_pager_server_opts *opts)
{
	const struct gr_page_source *source;
	size_t i;

	if (!opts || !opts->socket_path || !opts->source || !opts->source->ops)
		return gr__fail(-EINVAL, "pager: no options, no socket or no source");
	source = opts->source;
	if (!source->ops->find || !source->ops->read)
		return gr__fail(-EINVAL, "pager: a source needs find and read");
	if (opts->flags & ~GR_PAGER_NO_PREFETCH)
		return gr__fail(-EINVAL, "pager: flags %#x", opts->flags);
	for (i = 0; i < sizeof(opts->reserved) / sizeof(opts->reserved[0]); i++)
		if (opts->reserved[i])
			return gr__fail(-EINVAL, "pager: reserved options are not zero");
	return 0;
}

static void destroy(struct gr_pager_server *server)
{
	gr__pool_close(&server->pool);
	if (server->socket.fd >= 0)
		gr__socket_unlisten(&server->socket);
	gr__fd_close(server->stop);
	gr__fd_close(server->ended);
	gr__order_fini(&server->order);
	gr__free(server->record);
	gr__free(server->name);
	pthread_mutex_destroy(&server->lock);
	gr__free(server);
}

static int copy_text(const char *text, char **copy)
{
	*copy = text ? gr__strdup(text) : NULL;
	return text && !*copy ? gr__fail(-ENOMEM, "pager: no memory") : 0;
}

static int open_parts(struct gr_pager_server *server, const struct gr_pager_server_opts *opts)
{
	struct gr_page_source_info info;
	int rc = copy_text(opts->block, &server->name);

	if (!rc)
		rc = copy_text(opts->record, &server->record);
	if (rc < 0)
		return rc;
	server->block = server->source.ops->find(server->source.context, opts->block, &info);
	if (server->block < 0)
		return gr__fail(server->block, "pager: the source's block %s: %s",
				opts->block ? opts->block : "(first)",
				strerrordesc_np(-server->block));
	server->length = info.length;
	server->chunk = info.chunk;
	if (opts->prefetch) {
		rc = gr__order_load(&server->order, opts->prefetch, &server->source);
		if (rc < 0)
			return rc;
		server->ordered = true;
	}
	server->stop = gr__event_open();
	server->ended = server->stop < 0 ? server->stop : gr__event_open();
	if (server->ended < 0)
		return gr__fail(server->ended, "pager: eventfd: %s",
				strerrordesc_np(-server->ended));
	rc = gr__pool_open(&server->pool, &server->source, opts->workers, opts->max_buffers, 0);
	if (rc < 0)
		return rc;
	return gr__socket_listen("pager", opts->socket_path, &server->socket);
}

int gr_pager_server_open(const struct gr_pager_server_opts *opts, struct gr_pager_server **result)
{
	struct gr_pager_server *server;
	int rc = check_opts(opts);
	unsigned i;

	if (rc < 0)
		return rc;
	if (!result)
		return gr__fail(-EINVAL, "pager: no place for the result");
	server = gr__alloc(sizeof(*server));
	if (!server)
		return gr__fail(-ENOMEM, "pager: no memory");
	pthread_mutex_init(&server->lock, NULL);
	server->socket.fd = server->stop = server->ended = -1;
	for (i = 0; i < GUESTS_MAX; i++)
		server->guests[i].fd = -1;
	server->source = *opts->source;
	server->flags = opts->flags;
	server->max_sessions = opts->max_sessions ? opts->max_sessions : SESSIONS_DEFAULT;
	server->handshake_ms = opts->handshake_ms ? opts->handshake_ms : HANDSHAKE_MS;
	server->session = opts->session;
	server->log = opts->log;
	server->log_context = opts->log_context;
	rc = open_parts(server, opts);
	if (rc < 0) {
		destroy(server);
		return rc;
	}
	*result = server;
	return 0;
}

int gr_pager_server_close(struct gr_pager_server *server)
{
	struct session *session;
	unsigned i;
	int rc;

	if (!server)
		return 0;
	for (i = 0; i < GUESTS_MAX; i++)
		if (server->guests[i].fd >= 0)
			drop(&server->guests[i]);
	while ((session = server->sessions)) {
		pthread_mutex_lock(&server->lock);
		server->sessions = session->next;
		pthread_mutex_unlock(&server->lock);
		end_session(server, session);
	}
	rc = server->record_rc;
	destroy(server);
	return rc < 0 ? gr__fail(rc, "pager: the record was not written: %s", strerrordesc_np(-rc))
		      : 0;
}
