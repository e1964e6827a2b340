/* SPDX-License-Identifier: MIT */
/*
 * One connection to an NBD server, from dialing to its loss, and again. See nbd.h.
 *
 * Threads: everything here runs on the link's own thread, but start and stop. libnbd calls back
 * from within its functions, with its handle locked: those take no lock of ours and note down what
 * came.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/hooks.h"
#include "os/thread.h"
#include "ram/ram.h"
#include "store/nbd.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#define MS UINT64_C(1000000)
#define RETRY_LEAST (10 * MS)
#define RETRY_MOST (1000 * MS)
#define WARN_EVERY (10000 * MS)

static bool is_stopping(const struct gr__nbd_store *store)
{
	/* relaxed: the lock or the event comes after it */
	return __atomic_load_n(&store->stop, __ATOMIC_RELAXED);
}

/* Why the link is lost; the first reason stays. */
__attribute__((format(printf, 3, 4))) static int lose(struct gr__nbd_link *link, int rc,
						      const char *format, ...)
{
	va_list args;

	if (!link->rc) {
		va_start(args, format);
		/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): begun above */
		vsnprintf(link->reason, sizeof(link->reason), format, args);
		va_end(args);
		link->rc = rc;
	}
	return link->rc;
}

/* What libnbd's last call on this thread failed with. */
static int lose_nbd(struct gr__nbd_link *link)
{
	int error = nbd_get_errno();
	const char *text = nbd_get_error();

	return lose(link, error > 0 ? -error : -EPROTO, "%s", text ? text : "it broke");
}

/* -------------------------------------------------------------------------------------- dialing */

static int set_up(struct gr__nbd_link *link)
{
	const struct gr__nbd_store *store = link->store;
	struct nbd_handle *nbd = link->nbd;
	bool bad;

	/* each buffer is filled whole or not used: see took_chunk() */
	bad = nbd_set_pread_initialize(nbd, false) < 0 ||
	      nbd_set_request_block_size(nbd, true) < 0 ||
	      nbd_set_uri_allow_local_file(nbd, store->opts.flags & GR_NBD_URI_FILES) < 0 ||
	      (!(store->opts.flags & GR_NBD_NO_STATUS) &&
	       nbd_add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0) ||
	      (store->opts.tls && nbd_set_tls(nbd, (int)store->opts.tls) < 0) ||
	      (store->tls_certificates &&
	       nbd_set_tls_certificates(nbd, store->tls_certificates) < 0) ||
	      (store->tls_username && nbd_set_tls_username(nbd, store->tls_username) < 0) ||
	      (store->tls_psk_file && nbd_set_tls_psk_file(nbd, store->tls_psk_file) < 0) ||
	      (store->export_name && nbd_set_export_name(nbd, store->export_name) < 0);
	return bad ? lose_nbd(link) : 0;
}

static int dial(struct gr__nbd_link *link)
{
	struct gr__nbd_store *store = link->store;
	int error = GR_FAULT("nbd.connect"), fd, rc;

	link->rc = 0;
	link->idle = false;
	link->state = GR__NBD_DIALING;
	link->deadline = gr__now_ns() + store->opts.timeout_ms * MS;
	if (error)
		return lose(link, -error, "%s", strerrordesc_np(error));
	link->nbd = nbd_create();
	if (!link->nbd)
		return lose_nbd(link);
	if (set_up(link) < 0)
		return link->rc;
	if (store->uri) {
		rc = nbd_aio_connect_uri(link->nbd, store->uri);
	} else if (store->socket) {
		rc = nbd_aio_connect_unix(link->nbd, store->socket);
	} else {
		fd = store->opts.connect(store->opts.connect_context);
		if (fd < 0)
			return lose(link, fd, "no socket: %s", strerrordesc_np(-fd));
		rc = nbd_aio_connect_socket(link->nbd, fd);
	}
	return rc < 0 ? lose_nbd(link) : 0;
}

/* ------------------------------------------------------------------------------------- requests */

/* Bytes count when they come in order, so that a sum cannot hide a gap behind an overlap. */
static int took_chunk(void *user, const void *bytes, size_t count, uint64_t offset, unsigned status,
		      int *error)
{
	struct gr__nbd_piece *piece = user;

	(void)bytes;
	if (status == LIBNBD_READ_ERROR)
		return 0;
	if (offset != piece->offset + piece->seen || count > piece->length - piece->seen)
		piece->torn = true;
	else
		piece->seen += (uint32_t)count;
	(void)error;
	return 0;
}

static int answered(void *user, int *error)
{
	struct gr__nbd_piece *piece = user;

	piece->error = *error;
	if (!piece->error && (piece->torn || piece->seen != piece->length))
		piece->error = EPROTO; /* the buffer has holes */
	gr__nbd_pieces_add(&piece->link->answers, piece);
	return 1; /* libnbd forgets it */
}

static void send_piece(struct gr__nbd_link *link, struct gr__nbd_piece *piece)
{
	nbd_chunk_callback chunk = {.callback = took_chunk, .user_data = piece};
	nbd_completion_callback done = {.callback = answered, .user_data = piece};
	int fault = GR_FAULT("nbd.read");
	uint32_t flags = nbd_can_df(link->nbd) > 0 ? LIBNBD_CMD_FLAG_DF : 0;
	unsigned slot = 0;

	while (link->flying[slot])
		slot++; /* load < in_flight: there is one */
	piece->slot = slot;
	piece->link = link;
	piece->seen = 0;
	piece->torn = false;
	piece->error = 0;
	piece->since = gr__now_ns();
	link->flying[slot] = piece;
	if (!fault && nbd_aio_pread_structured(link->nbd, piece->buf, piece->length, piece->offset,
					       chunk, done, flags) >= 0)
		return;
	/* refused before it was sent: nothing will answer it */
	piece->error = fault ? fault : nbd_get_errno() > 0 ? nbd_get_errno() : EIO;
	gr__nbd_pieces_add(&link->answers, piece);
}

/* As many as it may have. */
static void send_queued(struct gr__nbd_link *link)
{
	struct gr__nbd_store *store = link->store;
	struct gr__nbd_pieces mine, rest;
	struct gr__nbd_piece *piece;
	uint64_t now = gr__now_ns();
	unsigned share;

	gr__nbd_pieces_init(&mine);
	gr__nbd_pieces_init(&rest);
	pthread_mutex_lock(&store->lock);
	share = store->stats.connections ? store->queued / store->stats.connections + 1 : 0;
	while (share && link->load < store->opts.in_flight &&
	       (piece = gr__nbd_pieces_take(&store->queue))) {
		if (piece->not_before > now) {
			gr__nbd_pieces_add(&rest, piece);
			continue;
		}
		store->queued--;
		share--;
		link->load++;
		store->stats.in_flight++;
		gr__nbd_pieces_add(&mine, piece);
	}
	while ((piece = gr__nbd_pieces_take(&store->queue)))
		gr__nbd_pieces_add(&rest, piece);
	while ((piece = gr__nbd_pieces_take(&rest)))
		gr__nbd_pieces_add(&store->queue, piece);
	if (store->stats.in_flight_most < store->stats.in_flight)
		store->stats.in_flight_most = store->stats.in_flight;
	pthread_mutex_unlock(&store->lock);
	while ((piece = gr__nbd_pieces_take(&mine)))
		send_piece(link, piece);
}

/* Lock held. Once more, or not. */
static void settle(struct gr__nbd_link *link, struct gr__nbd_piece *piece, bool lost)
{
	struct gr__nbd_store *store = link->store;
	uint64_t now = gr__now_ns();

	link->load--;
	store->stats.in_flight--;
	if (!piece->error && !lost) {
		store->stats.reads++;
		store->stats.read_bytes += piece->length;
		gr__nbd_piece_end(piece, 0);
		return;
	}
	if (++piece->tries >= GR__NBD_TRIES || is_stopping(store)) {
		gr__nbd_piece_end(piece, lost ? -ETIMEDOUT : -piece->error);
		return;
	}
	store->stats.retries++;
	piece->not_before = lost ? 0 : now + (RETRY_LEAST << (piece->tries - 1));
	piece->since = now;
	gr__nbd_pieces_add(&store->queue, piece);
	store->queued++;
}

static bool is_sample(const struct gr__nbd_link *link, const struct gr__nbd_piece *piece)
{
	return piece->call == &link->check;
}

static void land(struct gr__nbd_link *link, struct gr__nbd_piece *piece, bool lost)
{
	link->flying[piece->slot] = NULL;
	if (is_sample(link, piece)) {
		if (piece->error && !lost && ++piece->tries < GR__NBD_TRIES) {
			send_piece(link, piece);
			return;
		}
		link->check.left--;
		if (piece->error || lost)
			link->check.rc = lost ? -EIO : -piece->error;
		return;
	}
	pthread_mutex_lock(&link->store->lock);
	settle(link, piece, lost);
	pthread_mutex_unlock(&link->store->lock);
}

static bool is_dead(const struct gr__nbd_link *link)
{
	return nbd_aio_is_dead(link->nbd) != 0 || nbd_aio_is_closed(link->nbd) != 0;
}

static void take_answers(struct gr__nbd_link *link)
{
	bool dead = is_dead(link); /* then errors are the connection's, not the request's */
	struct gr__nbd_pieces answers = link->answers;
	struct gr__nbd_piece *piece;

	if (!answers.first)
		gr__nbd_pieces_init(&answers);
	gr__nbd_pieces_init(&link->answers); /* more may come from landing these */
	while ((piece = gr__nbd_pieces_take(&answers)))
		land(link, piece, dead && piece->error);
	if (link->asking_over && !dead)
		gr__nbd_status_end(link, false);
}

/* --------------------------------------------------------------------------------- which export */

static uint64_t pow2_or_0(int64_t value)
{
	return value > 0 && gr__is_pow2((uint64_t)value) ? (uint64_t)value : 0;
}

/* The first link learns what the export is like. Nobody else uses it yet. */
static int learn(struct gr__nbd_link *link, uint64_t size)
{
	struct gr__nbd_store *store = link->store;
	int64_t least = nbd_get_block_size(link->nbd, LIBNBD_SIZE_MINIMUM);
	int64_t most = nbd_get_block_size(link->nbd, LIBNBD_SIZE_MAXIMUM);

	store->min_block = least <= 0 ? 1 : pow2_or_0(least);
	if (!store->min_block || store->min_block > 65536 || (most > 0 && most < least))
		return lose(link, -EPROTO, "blocks of %lld to %lld bytes", (long long)least,
			    (long long)most);
	if (!gr__is_aligned(size, store->min_block))
		return lose(link, -EINVAL, "%llu bytes in blocks of %llu", (unsigned long long)size,
			    (unsigned long long)store->min_block);
	store->max_piece = GR__NBD_PIECE;
	if (most > 0 && (uint64_t)most < store->max_piece)
		store->max_piece = gr__align_down((uint64_t)most, store->min_block);
	store->chunk = pow2_or_0(nbd_get_block_size(link->nbd, LIBNBD_SIZE_PREFERRED));
	if (store->chunk <= GR_PAGE_SIZE || store->chunk > (UINT64_C(32) << 20))
		store->chunk = 0;
	store->size = size;
	(void)gr__align_up(size, GR_PAGE_SIZE, &store->length); /* int64: it fits */
	store->sample_size = store->min_block > GR_PAGE_SIZE ? store->min_block : GR_PAGE_SIZE;
	store->may_connections = nbd_can_multi_conn(link->nbd) > 0 ? store->opts.connections : 1;
	store->has_status = nbd_can_meta_context(link->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
	return 0;
}

/* Connected: is it of the size that is known, and which bytes has it? */
static int greet(struct gr__nbd_link *link)
{
	struct gr__nbd_store *store = link->store;
	int64_t size = nbd_get_size(link->nbd);
	unsigned i;
	int rc;

	if (size < 0)
		return lose_nbd(link);
	if (!size || (uint64_t)size > INT64_MAX - GR_PAGE_SIZE)
		return lose(link, -EINVAL, "an export of %lld bytes", (long long)size);
	if (store->known && (uint64_t)size != store->size)
		return lose(link, -ESTALE, "another export: it had %llu bytes, now it has %lld",
			    (unsigned long long)store->size, (long long)size);
	if (store->known &&
	    nbd_get_block_size(link->nbd, LIBNBD_SIZE_MINIMUM) > (int64_t)store->min_block)
		return lose(link, -ESTALE, "its blocks became larger");
	if (!store->known) {
		rc = learn(link, (uint64_t)size);
		if (rc < 0)
			return rc;
	}
	if (!link->sample_bytes)
		link->sample_bytes = gr__alloc_array(GR__NBD_SAMPLES, store->sample_size);
	if (!link->sample_bytes)
		return lose(link, -ENOMEM, "no memory");
	link->state = GR__NBD_CHECKING;
	link->check.left = link->sample_count = GR__NBD_SAMPLES;
	link->check.rc = 0;
	for (i = 0; i < GR__NBD_SAMPLES; i++) {
		struct gr__nbd_piece *piece = &link->samples[i];
		uint64_t last = (store->size - 1) / store->sample_size;
		uint64_t number = last / (GR__NBD_SAMPLES - 1) * i +
				  last % (GR__NBD_SAMPLES - 1) * i / (GR__NBD_SAMPLES - 1);
		uint64_t left = store->size - number * store->sample_size;

		memset(piece, 0, sizeof(*piece));
		piece->call = &link->check;
		piece->buf = link->sample_bytes + i * store->sample_size;
		piece->offset = number * store->sample_size;
		piece->length = (uint32_t)(left < store->sample_size ? left : store->sample_size);
		send_piece(link, piece);
	}
	return 0;
}

/* The samples are there. */
static int check(struct gr__nbd_link *link)
{
	struct gr__nbd_store *store = link->store;
	uint64_t digest, now = gr__now_ns();

	if (link->check.rc)
		return lose(link, link->check.rc, "its bytes cannot be read: %s",
			    strerrordesc_np(-link->check.rc));
	digest = XXH3_64bits(link->sample_bytes, GR__NBD_SAMPLES * store->sample_size);
	if (store->known && digest != store->digest)
		return lose(link, -ESTALE, "another export: it has other bytes");
	if (!store->known) {
		store->digest = digest;
		gr__nbd_status_init(store);
	}
	pthread_mutex_lock(&store->lock);
	if (!store->known) /* written once: other links, started after it, read it without the lock
			    */
		store->known = true;
	store->refused = false;
	link->serving = true;
	store->stats.connections++;
	store->stats.reconnects += link->served;
	if (store->stalled_since)
		store->stats.stalled_ns += now - store->stalled_since;
	digest = store->stalled_since ? now - store->stalled_since : 0;
	store->stalled_since = 0;
	pthread_cond_broadcast(&store->change);
	pthread_mutex_unlock(&store->lock);
	link->state = GR__NBD_SERVING;
	link->served = true;
	link->retry_after = RETRY_LEAST;
	if (digest)
		gr__nbd_say(store, GR_LOG_INFO, "nbd %s: back after %llu ms", store->name,
			    (unsigned long long)(digest / MS));
	return 0;
}

/* ---------------------------------------------------------------------------------------- loops */

/* When the oldest of what flies must have been answered; UINT64_MAX: nothing does. */
static uint64_t patience_end(const struct gr__nbd_link *link)
{
	uint64_t since = link->asking ? link->asking_since : UINT64_MAX;

	if (link->state != GR__NBD_SERVING)
		return link->deadline;
	for (unsigned i = 0; i < GR__NBD_FLYING; i++)
		if (link->flying[i] && link->flying[i]->since < since)
			since = link->flying[i]->since;
	return since == UINT64_MAX ? since : since + link->store->opts.timeout_ms * MS;
}

/* When a piece of the queue may be sent. */
static uint64_t next_queued(struct gr__nbd_link *link)
{
	struct gr__nbd_store *store = link->store;
	uint64_t at = UINT64_MAX;
	struct gr__nbd_piece *piece;

	if (link->state != GR__NBD_SERVING)
		return at;
	pthread_mutex_lock(&store->lock);
	if (link->load < store->opts.in_flight)
		for (piece = store->queue.first; piece; piece = piece->next)
			if (piece->not_before < at)
				at = piece->not_before;
	pthread_mutex_unlock(&store->lock);
	return at;
}

static int wait_ms(uint64_t until)
{
	uint64_t now = gr__now_ns();

	if (until <= now)
		return 0;
	return until - now > 1000 * MS ? 1000 : (int)((until - now) / MS) + 1;
}

static int wait_for_socket(struct gr__nbd_link *link, uint64_t until)
{
	unsigned way = nbd_aio_get_direction(link->nbd);
	struct pollfd fds[2] = {{.fd = link->wake, .events = POLLIN},
				{.fd = nbd_aio_get_fd(link->nbd)}};
	int rc = 0;

	fds[1].events = (short)((way & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				(way & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	link->idle = poll(fds, 2, wait_ms(until)) <= 0;
	if (link->idle)
		return 0; /* time, or a signal */
	if (fds[0].revents)
		gr__event_clear(link->wake);
	way = nbd_aio_get_direction(link->nbd);
	if (fds[1].revents & (POLLIN | POLLHUP) && way & LIBNBD_AIO_DIRECTION_READ)
		rc = nbd_aio_notify_read(link->nbd);
	else if (fds[1].revents & (POLLOUT | POLLHUP | POLLERR) && way & LIBNBD_AIO_DIRECTION_WRITE)
		rc = nbd_aio_notify_write(link->nbd);
	else if (fds[1].revents & (POLLERR | POLLNVAL | POLLHUP))
		return lose(link, -ECONNRESET, "the connection broke");
	return rc < 0 ? lose_nbd(link) : 0;
}

/* From a handle that connects until it is lost. */
static int run_connection(struct gr__nbd_link *link)
{
	uint64_t until, queued;
	int rc = 0;

	while (!rc) {
		if (is_stopping(link->store))
			return lose(link, -ECANCELED, "closed");
		take_answers(link);
		if (is_dead(link))
			return lose(link, -ECONNRESET, "the connection ended");
		if (link->state == GR__NBD_DIALING && nbd_aio_is_ready(link->nbd) > 0)
			rc = greet(link);
		if (!rc && link->state == GR__NBD_CHECKING && !link->check.left)
			rc = check(link);
		if (!rc && link->state == GR__NBD_SERVING) {
			send_queued(link);
			gr__nbd_status_ask(link);
		}
		if (rc)
			break;
		until = patience_end(link);
		/* what came while this thread did not run is not late */
		if (link->idle && until <= gr__now_ns())
			return lose(link, -ETIMEDOUT, "no answer for %u ms",
				    link->store->opts.timeout_ms);
		queued = next_queued(link);
		if (queued < until)
			until = queued;
		if (link->answers.first || link->asking_over)
			until = 0; /* refused before they were sent */
		rc = wait_for_socket(link, until);
	}
	return rc;
}

/* Close it; what flew goes back. The handle first: then nothing writes the buffers. */
static void hang_up(struct gr__nbd_link *link)
{
	struct gr__nbd_store *store = link->store;
	bool fresh = false;

	if (link->nbd)
		nbd_close(link->nbd);
	link->nbd = NULL;
	gr__nbd_pieces_init(&link->answers);
	for (unsigned i = 0; i < GR__NBD_FLYING; i++)
		if (link->flying[i])
			land(link, link->flying[i], true);
	gr__nbd_status_end(link, true);
	pthread_mutex_lock(&store->lock);
	store->stats.lost += link->serving;
	store->stats.connections -= link->serving;
	if (link->serving && !store->stats.connections) {
		store->stalled_since = store->warned_at = gr__now_ns();
		fresh = !is_stopping(store);
	}
	if (link->rc == -ESTALE) {
		fresh |= !store->refused;
		store->refused = true;
		store->stats.refused++;
	}
	link->serving = false;
	memcpy(store->reason, link->reason, sizeof(store->reason));
	if (!store->known) {
		store->failed = true;
		store->rc = link->rc;
	}
	pthread_cond_broadcast(&store->change);
	pthread_mutex_unlock(&store->lock);
	if (fresh)
		gr__nbd_say(store, link->rc == -ESTALE ? GR_LOG_ERROR : GR_LOG_WARNING,
			    "nbd %s: lost, reads wait for it: %s", store->name, link->reason);
}

/* While none serves: readers are told after a while, and the log now and then. */
static void expire(struct gr__nbd_link *link)
{
	struct gr__nbd_store *store = link->store;
	struct gr__nbd_pieces rest;
	struct gr__nbd_piece *piece;
	uint64_t away = 0, now;

	gr__nbd_pieces_init(&rest);
	pthread_mutex_lock(&store->lock);
	now = gr__now_ns(); /* with the lock: not before any time that it guards */
	while (!store->stats.connections && (piece = gr__nbd_pieces_take(&store->queue))) {
		if (now - piece->since < store->opts.away_ms * MS) {
			gr__nbd_pieces_add(&rest, piece);
			continue;
		}
		store->queued--;
		gr__nbd_piece_end(piece, store->refused ? -ESTALE : -ETIMEDOUT);
	}
	while ((piece = gr__nbd_pieces_take(&rest)))
		gr__nbd_pieces_add(&store->queue, piece);
	if (store->stalled_since && now - store->warned_at >= WARN_EVERY) {
		store->warned_at = now;
		away = now - store->stalled_since;
	}
	pthread_mutex_unlock(&store->lock);
	if (away)
		gr__nbd_say(store, GR_LOG_WARNING, "nbd %s: away for %llu s: %s", store->name,
			    (unsigned long long)(away / 1000 / MS), link->reason);
}

static void rest_a_while(struct gr__nbd_link *link)
{
	uint64_t until = gr__now_ns() + link->retry_after, now;
	struct pollfd wake = {.fd = link->wake, .events = POLLIN};

	while (!is_stopping(link->store) && (now = gr__now_ns()) < until) {
		expire(link);
		poll(&wake, 1, until - now > 50 * MS ? 50 : (int)((until - now) / MS) + 1);
		gr__event_clear(link->wake);
	}
	link->retry_after = link->retry_after * 2 < RETRY_MOST ? link->retry_after * 2 : RETRY_MOST;
}

static void run(void *arg)
{
	struct gr__nbd_link *link = arg;
	struct gr__nbd_store *store = link->store;

	while (!is_stopping(store)) {
		if (!dial(link))
			run_connection(link);
		hang_up(link);
		if (!store->known) /* nobody else runs: the opening has failed */
			break;
		rest_a_while(link);
	}
}

int gr__nbd_link_start(struct gr__nbd_store *store, unsigned number)
{
	struct gr__nbd_link *link = &store->links[number];
	int rc;

	link->store = store;
	link->retry_after = RETRY_LEAST;
	gr__nbd_pieces_init(&link->answers);
	link->wake = rc = gr__event_open();
	if (rc < 0)
		return rc;
	rc = gr__thread_start(run, link, "gr-nbd", &link->thread);
	if (rc < 0) {
		gr__fd_close(link->wake);
		link->wake = -1;
		return rc;
	}
	store->link_count = number + 1;
	return 0;
}

void gr__nbd_links_stop(struct gr__nbd_store *store)
{
	unsigned i;

	__atomic_store_n(&store->stop, 1, __ATOMIC_RELAXED);
	for (i = 0; i < store->link_count; i++)
		gr__event_set(store->links[i].wake);
	for (i = 0; i < store->link_count; i++) {
		gr__thread_join(store->links[i].thread);
		gr__fd_close(store->links[i].wake);
		gr__free(store->links[i].sample_bytes);
	}
	store->link_count = 0;
}
