/* SPDX-License-Identifier: MIT */
/*
 * An NBD export as a source of pages: opening, and those who read. See nbd.h.
 *
 * Threads: any number read; each waits for its own call.
 */
#include "store/nbd.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "ram/ram.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Pieces that one read has at once. */
#define WINDOW 16
/* Zeroes of that length are worth two requests instead of one. */
#define SKIP UINT64_C(65536)

void gr__nbd_pieces_init(struct gr__nbd_pieces *pieces)
{
	pieces->first = NULL;
	pieces->end = &pieces->first;
}

void gr__nbd_pieces_add(struct gr__nbd_pieces *pieces, struct gr__nbd_piece *piece)
{
	piece->next = NULL;
	*pieces->end = piece;
	pieces->end = &piece->next;
}

struct gr__nbd_piece *gr__nbd_pieces_take(struct gr__nbd_pieces *pieces)
{
	struct gr__nbd_piece *piece = pieces->first;

	if (!piece)
		return NULL;
	pieces->first = piece->next;
	if (!pieces->first)
		pieces->end = &pieces->first;
	return piece;
}

void gr__nbd_piece_end(struct gr__nbd_piece *piece, int rc)
{
	struct gr__nbd_call *call = piece->call;

	if (rc < 0 && !call->rc)
		call->rc = rc;
	/* the call is its reader's stack: not touched after this, the lock given back */
	if (!--call->left)
		pthread_cond_signal(&call->done);
}

void gr__nbd_say(struct gr__nbd_store *store, enum gr_log_level level, const char *format, ...)
{
	char line[512];
	va_list args;

	if (!store->opts.log)
		return;
	va_start(args, format);
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): it is begun above */
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	store->opts.log(store->opts.log_context, level, line);
}

/* -------------------------------------------------------------------------------------- reading */

/* Lock held. Wake those that have least to do, one for each piece. */
static void wake_links(struct gr__nbd_store *store, unsigned pieces)
{
	struct gr__nbd_link *woken[GR__NBD_LINKS];
	unsigned count, i, j;

	for (count = 0; count < pieces && count < store->link_count; count++) {
		struct gr__nbd_link *best = NULL;

		for (i = 0; i < store->link_count; i++) {
			struct gr__nbd_link *link = &store->links[i];

			for (j = 0; j < count && woken[j] != link; j++)
				;
			if (link->serving && j == count && (!best || link->load < best->load))
				best = link;
		}
		if (!best)
			return;
		woken[count] = best;
		gr__event_set(best->wake);
	}
}

/*
 * How much from @offset on is one request, or none: *zero. Short runs of zeroes are read with the
 * data around them.
 */
static uint64_t next_run(const struct gr__nbd_store *store, uint64_t offset, uint64_t length,
			 bool *zero)
{
	uint64_t at = 0;

	*zero = false;
	while (at < length) {
		uint64_t run = length - at;

		if (gr__nbd_is_zero(store, offset + at, &run) &&
		    gr__is_aligned((offset + at) | run, store->min_block) &&
		    (run >= SKIP || run == length)) {
			*zero = !at;
			return at ? at : run;
		}
		at += run;
	}
	return at;
}

/* @offset and @length as the server wants them, within the export. */
static int read_window(struct gr__nbd_store *store, char *buf, uint64_t offset, uint64_t length,
		       uint64_t *done)
{
	struct gr__nbd_piece pieces[WINDOW];
	struct gr__nbd_call call = {.left = 0};
	uint64_t at = 0;
	unsigned count = 0;
	int rc;

	while (count < WINDOW && at < length) {
		uint64_t part = length - at < store->max_piece ? length - at : store->max_piece;
		bool zero;

		part = next_run(store, offset + at, part, &zero);
		if (zero)
			memset(buf + at, 0, part);
		else
			pieces[count++] = (struct gr__nbd_piece){
				.call = &call,
				.buf = buf + at,
				.offset = offset + at,
				.length = (uint32_t)part,
				.since = gr__now_ns(),
			};
		at += part;
	}
	*done = at;
	if (!count)
		return 0;
	rc = pthread_cond_init(&call.done, NULL);
	if (rc)
		return -rc;
	call.left = count;
	pthread_mutex_lock(&store->lock);
	for (unsigned i = 0; i < count; i++)
		gr__nbd_pieces_add(&store->queue, &pieces[i]);
	store->queued += count;
	wake_links(store, count);
	while (call.left)
		pthread_cond_wait(&call.done, &store->lock);
	pthread_mutex_unlock(&store->lock);
	pthread_cond_destroy(&call.done);
	return call.rc;
}

static int read_export(struct gr__nbd_store *store, char *buf, uint64_t offset, uint64_t length)
{
	uint64_t done;
	int rc = 0;

	while (!rc && length) {
		rc = read_window(store, buf, offset, length, &done);
		buf += done;
		offset += done;
		length -= done;
	}
	return rc;
}

/* Through a buffer of whole blocks. */
static int read_unaligned(struct gr__nbd_store *store, char *buf, uint64_t offset, uint64_t length)
{
	uint64_t first = gr__align_down(offset, store->min_block), end;
	char *blocks;
	int rc;

	if (!gr__align_up(offset + length, store->min_block, &end))
		return -ERANGE;
	blocks = gr__alloc_raw(end - first);
	if (!blocks)
		return -ENOMEM;
	rc = read_export(store, blocks, first, end - first);
	if (!rc)
		memcpy(buf, blocks + (offset - first), length);
	gr__free(blocks);
	return rc;
}

static int read_pages(void *context, int block, uint64_t offset, void *buf, uint64_t length)
{
	struct gr__nbd_store *store = context;
	uint64_t there;
	int rc = 0;

	(void)block;
	if (!gr__range_within(offset, length, store->length))
		return -ERANGE;
	there = offset < store->size ? store->size - offset : 0;
	if (there > length)
		there = length;
	if (gr__is_aligned(offset | there, store->min_block))
		rc = read_export(store, buf, offset, there);
	else
		rc = read_unaligned(store, buf, offset, there);
	if (!rc)
		memset((char *)buf + there, 0, length - there);
	return rc;
}

static int find(void *context, const char *name, struct gr_page_source_info *info)
{
	const struct gr__nbd_store *store = context;

	(void)name;
	memset(info, 0, sizeof(*info));
	info->length = store->length;
	info->chunk = store->chunk;
	return 0;
}

static int look(void *context, int block, uint64_t offset, uint64_t *length)
{
	const struct gr__nbd_store *store = context;

	(void)block;
	if (offset >= store->length)
		return -ERANGE;
	if (*length > store->length - offset)
		*length = store->length - offset;
	return gr__nbd_is_zero(store, offset, length) ? GR_PAGES_ZERO : GR_PAGES_DATA;
}

/* ----------------------------------------------------------------------------- opening, closing */

static void free_store(struct gr__nbd_store *store)
{
	gr__free(store->zeroes);
	gr__free(store->uri);
	gr__free(store->socket);
	gr__free(store->export_name);
	gr__free(store->tls_certificates);
	gr__free(store->tls_username);
	gr__free(store->tls_psk_file);
	gr__free(store->name);
	pthread_cond_destroy(&store->change);
	pthread_mutex_destroy(&store->lock);
	gr__free(store);
}

static void close_store(void *context)
{
	gr__nbd_links_stop(context);
	free_store(context);
}

static const struct gr_page_source_ops ops = {
	.find = find,
	.look = look,
	.read = read_pages,
	.close = close_store,
};

static int copy(const char *from, char **to)
{
	*to = from ? gr__strdup(from) : NULL;
	return from && !*to ? -ENOMEM : 0;
}

static int take_opts(struct gr__nbd_store *store, const char *uri, const struct gr_nbd_opts *opts)
{
	struct gr_nbd_opts *o = &store->opts;
	const char *name = uri ? uri : opts->socket ? opts->socket : "socket";

	*o = *opts;
	o->connections = o->connections ? o->connections : 2;
	o->in_flight = o->in_flight ? o->in_flight : 16;
	o->timeout_ms = o->timeout_ms ? o->timeout_ms : 30000;
	o->away_ms = o->away_ms ? o->away_ms : 1000;
	o->status_ms = o->status_ms ? o->status_ms : 200;
	if (copy(uri, &store->uri) || copy(opts->socket, &store->socket) ||
	    copy(opts->export_name, &store->export_name) ||
	    copy(opts->tls_certificates, &store->tls_certificates) ||
	    copy(opts->tls_username, &store->tls_username) ||
	    copy(opts->tls_psk_file, &store->tls_psk_file) || copy(name, &store->name))
		return -ENOMEM;
	return 0;
}

static int check_opts(const char *uri, const struct gr_nbd_opts *opts)
{
	if (!!uri + !!opts->socket + !!opts->connect != 1)
		return gr__fail(-EINVAL, "nbd: give one of URI, socket and connect()");
	if (uri && opts->export_name)
		return gr__fail(-EINVAL, "nbd %s: the URI names the export", uri);
	if (opts->connections > GR__NBD_LINKS || opts->in_flight > GR__NBD_FLYING ||
	    opts->flags & ~(GR_NBD_URI_FILES | GR_NBD_NO_STATUS) || opts->tls > GR_NBD_TLS_REQUIRE)
		return gr__fail(-EINVAL, "nbd: %u connections, %u in flight, flags %#x, tls %u",
				opts->connections, opts->in_flight, opts->flags,
				(unsigned)opts->tls);
	return 0;
}

/* Until @ready, or for @ms; the lock is held. */
static void wait_for_change(struct gr__nbd_store *store, unsigned ms, bool status)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += ms % 1000 * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	while (!(status ? store->stats.status_done || !store->stats.connections
			: store->known || store->failed))
		if (pthread_cond_timedwait(&store->change, &store->lock, &until) == ETIMEDOUT)
			break;
}

static int open_first(struct gr__nbd_store *store)
{
	bool known;
	int rc = gr__nbd_link_start(store, 0);

	if (rc < 0)
		return gr__fail(rc, "nbd %s: %s", store->name, strerrordesc_np(-rc));
	pthread_mutex_lock(&store->lock);
	/* the link gives up by itself; the resolver may take its own time */
	wait_for_change(store, store->opts.timeout_ms + 1000, false);
	known = store->known;
	rc = known ? 0 : store->failed ? store->rc : -ETIMEDOUT;
	pthread_mutex_unlock(&store->lock);
	if (rc < 0)
		return gr__fail(rc, "nbd %s: %s", store->name,
				rc == -ETIMEDOUT && !store->failed ? "no answer" : store->reason);
	for (unsigned i = 1; !rc && i < store->may_connections; i++)
		rc = gr__nbd_link_start(store, i);
	if (rc < 0)
		return gr__fail(rc, "nbd %s: %s", store->name, strerrordesc_np(-rc));
	pthread_mutex_lock(&store->lock);
	wait_for_change(store, store->opts.status_ms, true);
	pthread_mutex_unlock(&store->lock);
	return 0;
}

int gr_nbd_source_open(const char *uri, const struct gr_nbd_opts *opts,
		       struct gr_page_source *source)
{
	static const struct gr_nbd_opts none;
	struct gr__nbd_store *store;
	int rc;

	if (!source)
		return gr__fail(-EINVAL, "nbd: no place for the result");
	opts = opts ? opts : &none;
	rc = check_opts(uri, opts);
	if (rc < 0)
		return rc;
	store = gr__alloc(sizeof(*store));
	if (!store)
		return gr__fail(-ENOMEM, "nbd: no memory");
	pthread_mutex_init(&store->lock, NULL);
	pthread_cond_init(&store->change, NULL);
	gr__nbd_pieces_init(&store->queue);
	for (unsigned i = 0; i < GR__NBD_LINKS; i++)
		store->links[i].wake = -1;
	rc = take_opts(store, uri, opts);
	if (rc < 0) {
		rc = gr__fail(rc, "nbd: no memory");
		goto free_it;
	}
	rc = open_first(store);
	if (rc < 0)
		goto stop_links;
	source->ops = &ops;
	source->context = store;
	return 0;

stop_links:
	gr__nbd_links_stop(store);
free_it:
	free_store(store);
	return rc;
}

int gr_nbd_source_get_stats(const struct gr_page_source *source, struct gr_nbd_stats *stats)
{
	struct gr__nbd_store *store;

	if (!source || source->ops != &ops || !stats)
		return gr__fail(-EINVAL, "nbd: no such source, or no place for its figures");
	store = source->context;
	pthread_mutex_lock(&store->lock);
	*stats = store->stats;
	stats->size = store->size;
	if (store->stalled_since) {
		stats->stalled = 1;
		stats->stalled_ns += gr__now_ns() - store->stalled_since;
	}
	pthread_mutex_unlock(&store->lock);
	return 0;
}
