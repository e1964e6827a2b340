/* SPDX-License-Identifier: MIT */
/* See sender.h. */
#include "migrate/sender.h"
#include "base/error.h"
#include "base/zero.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "os/thread.h"
#include <endian.h>
#include <errno.h>
#include <string.h>

#define TICK_NS 50000000 /* between looks at progress and at the channel of answers */

/* ------------------------------------------------------------------------- work of a round */

/*
 * What is known of the page at the cursor: whether it has only zeroes, and up to where that holds.
 * Looking at a page of shared memory that was never written would give it memory. Lock held.
 */
static int look_for_holes(struct gr__sender *sender)
{
	struct gr__moved *moved = &sender->blocks.items[sender->at_block];
	uint64_t end = sender->rest.offset + sender->rest.length, first, count;
	int rc;

	if (sender->rest_until > sender->rest.offset)
		return 0;
	sender->rest_hole = false;
	sender->rest_until = end;
	if (!sender->has_pages[sender->at_block])
		return 0;
	rc = gr__pages_next(&sender->pages[sender->at_block], sender->rest.offset, &first, &count);
	if (rc < 0)
		return rc;
	first &= ~(uint64_t)(WIRE_PAGE - 1);
	if (first > sender->rest.offset) {
		sender->rest_hole = true;
		sender->rest_until = first < end ? first : end;
	} else if (count < end - sender->rest.offset) {
		/* by whole pages: what is not known to be zero is looked at */
		count = (first + count - sender->rest.offset + WIRE_PAGE - 1) &
			~(uint64_t)(WIRE_PAGE - 1);
		if (!count)
			count = WIRE_PAGE;
		if (count < sender->rest.length)
			sender->rest_until = sender->rest.offset + count;
	}
	if (sender->rest_until > moved->used)
		sender->rest_until = end;
	return 0;
}

/* Go on to the next run of the harvests; false at their end. Lock held. */
static bool next_run(struct gr__sender *sender)
{
	while (!sender->rest.length && sender->at_block < sender->blocks.count) {
		struct gr_harvest *harvest = sender->harvests[sender->at_block];

		sender->rest_until = 0;
		if (harvest && gr_harvest_next(harvest, &sender->rest.offset, &sender->rest.length))
			return true;
		sender->rest.length = 0;
		sender->at_block++;
	}
	return sender->rest.length > 0;
}

/* Some runs of one block; false: there are no more. Lock held. */
static bool take_round(struct gr__sender *sender, struct gr__batch *batch)
{
	uint64_t room = GR__UNIT, part;

	batch->count = 0;
	batch->hole = false;
	while (room && batch->count < GR__UNIT_PAGES && next_run(sender)) {
		if (batch->count && batch->block != sender->at_block)
			break;
		if (look_for_holes(sender) < 0) { /* look at all of it then */
			gr__pages_close(&sender->pages[sender->at_block]);
			sender->has_pages[sender->at_block] = false;
		}
		if (batch->count && (sender->rest_hole || batch->hole))
			break;
		batch->block = sender->at_block;
		batch->hole = sender->rest_hole;
		part = sender->rest_until - sender->rest.offset;
		if (!batch->hole && part > room)
			part = room;
		batch->runs[batch->count++] = (struct gr__migrate_run){sender->rest.offset, part};
		sender->rest.offset += part;
		sender->rest.length -= part;
		sender->taken += part;
		if (batch->hole)
			break;
		room -= part;
	}
	return batch->count > 0;
}

/* ---------------------------------------------------------------------- work of postcopy */

/* What of [offset, offset + length) was not sent yet, as runs. Lock held. */
static void take_bits(struct gr__sender *sender, struct gr__batch *batch, unsigned block,
		      uint64_t page, uint64_t pages)
{
	struct gr__moved *moved = &sender->blocks.items[block];
	uint64_t end = page + pages, next;

	batch->block = block;
	while (batch->count < GR__UNIT_PAGES &&
	       (page = gr__bits_next(moved->bits, page, end, true)) < end) {
		next = gr__bits_next(moved->bits, page, end, false);
		gr__bits_put(moved->bits, page, next - page, false);
		sender->left -= (next - page) * WIRE_PAGE;
		batch->runs[batch->count++] =
			(struct gr__migrate_run){page * WIRE_PAGE, (next - page) * WIRE_PAGE};
		page = next;
	}
}

static bool take_push(struct gr__sender *sender, struct gr__batch *batch, bool only_requests)
{
	batch->count = 0;
	batch->hole = false;
	while (!batch->count && sender->request_count) {
		struct wire_run *run = &sender->requests[sender->request_first];

		sender->request_first = (sender->request_first + 1) % GR__REQUESTS;
		sender->request_count--;
		pthread_cond_broadcast(&sender->session.change);
		take_bits(sender, batch, run->block, run->offset / WIRE_PAGE, run->pages);
		/* what stands behind it is likely to be next */
		sender->push_block = run->block;
		sender->push_page = run->offset / WIRE_PAGE + run->pages;
	}
	while (!batch->count && sender->left && !only_requests) {
		struct gr__moved *moved = &sender->blocks.items[sender->push_block];
		uint64_t pages = moved->used / WIRE_PAGE, unit, first = pages;

		if (moved->bits && sender->push_page < pages)
			first = gr__bits_next(moved->bits, sender->push_page, pages, true);
		if (first >= pages) {
			sender->push_block = (sender->push_block + 1) % sender->blocks.count;
			sender->push_page = 0;
			continue;
		}
		unit = moved->page_size > GR__PUSH_UNIT ? moved->page_size : GR__PUSH_UNIT;
		unit /= WIRE_PAGE;
		first -= first % (moved->page_size / WIRE_PAGE);
		if (unit > pages - first)
			unit = pages - first;
		take_bits(sender, batch, (unsigned)sender->push_block, first, unit);
		sender->push_page = first + unit;
	}
	return batch->count > 0;
}

/* ------------------------------------------------------------------------------------ records */

/* Of the looks for zeroes: pages are not read in order, but for their first bytes, mostly. */
#define AHEAD (4 * WIRE_PAGE)

/* What is packed must not change meanwhile; and ThreadSanitizer sees what the kernel reads. */
#ifdef GR__TSAN
#define COPIES(worker) true
#else
#define COPIES(worker) ((worker)->zstd != NULL)
#endif

/* The pages as one packed piece, if that is shorter. */
static bool pack(struct gr__worker *worker)
{
	size_t size;

	if (!worker->zstd || !worker->filled)
		return false;
	size = ZSTD_compressCCtx(worker->zstd, worker->packed, worker->packed_room, worker->buffer,
				 worker->filled, (int)worker->sender->session.opts.zstd_level);
	if (ZSTD_isError(size) || size >= worker->filled)
		return false;
	worker->pieces[GR__PIECES_BEFORE] = (struct iovec){worker->packed, size};
	worker->piece_count = 1;
	return true;
}

static int put_pages(struct gr__worker *worker, bool limited)
{
	struct wire_pages head = {
		.block = htole32(worker->batch.block),
		.extents = htole32(worker->extent_count),
		.memory = htole32((uint32_t)worker->filled),
	};
	unsigned flags = pack(worker) ? WIRE_ZSTD : 0, i;
	uint64_t data = 0;
	int rc = 0;

	if (!worker->extent_count)
		return 0;
	for (i = 0; i < worker->piece_count; i++)
		data += worker->pieces[GR__PIECES_BEFORE + i].iov_len;
	head.data = htole32((uint32_t)data);
	GR_POINT("migrate.hashed");
	worker->pieces[1] = (struct iovec){&head, sizeof(head)};
	worker->pieces[2] =
		(struct iovec){worker->extents, worker->extent_count * sizeof(struct wire_extent)};
	worker->pieces[3] =
		(struct iovec){worker->hashes, worker->hash_count * sizeof(worker->hashes[0])};
	if (limited)
		rc = gr__session_limit(&worker->sender->session,
				       sizeof(head) + worker->pieces[2].iov_len +
					       worker->pieces[3].iov_len + data);
	if (!rc)
		rc = gr__channel_put_long(worker->channel, WIRE_PAGES, flags, worker->pieces,
					  GR__PIECES_BEFORE + (int)worker->piece_count,
					  GR__PIECES_BEFORE - 1);
	worker->extent_count = worker->piece_count = worker->hash_count = 0;
	worker->filled = 0;
	return rc;
}

/* True: it makes an extent longer that is there. */
static bool add_extent(struct gr__worker *worker, uint64_t offset, uint64_t length, unsigned kind)
{
	uint64_t pages = length / WIRE_PAGE;

	if (worker->extent_count) {
		struct wire_extent *last = &worker->extents[worker->extent_count - 1];
		uint64_t last_pages = le32toh(last->pages);

		if (last->kind == htole32(kind) &&
		    le64toh(last->offset) + last_pages * WIRE_PAGE == offset &&
		    last_pages + pages <= UINT32_MAX) {
			last->pages = htole32((uint32_t)(last_pages + pages));
			return true;
		}
	}
	worker->extents[worker->extent_count++] = (struct wire_extent){
		.offset = htole64(offset),
		.pages = htole32((uint32_t)pages),
		.kind = htole32(kind),
	};
	return false;
}

/* @length has pages of the block; there is room for them. */
static void add_memory(struct gr__worker *worker, char *host, uint64_t offset, uint64_t length)
{
	struct iovec *last;
	uint64_t at;

	if (gr__is_zero(host + offset, length)) {
		add_extent(worker, offset, length, WIRE_ZERO);
		worker->zero += length;
		return;
	}
	host += offset;
	if (COPIES(worker)) {
		gr__copy_guest(worker->buffer + worker->filled, host, length);
		host = worker->buffer + worker->filled;
	}
	if (!add_extent(worker, offset, length, WIRE_COPY)) {
		last = &worker->pieces[GR__PIECES_BEFORE + worker->piece_count++];
		*last = (struct iovec){host, 0};
	}
	last = &worker->pieces[GR__PIECES_BEFORE + worker->piece_count - 1];
	last->iov_len += length;
	for (at = 0; at < length; at += WIRE_PAGE)
		worker->hashes[worker->hash_count++] = htole64(XXH3_64bits(host + at, WIRE_PAGE));
	worker->filled += length;
	worker->copied += length;
}

/* Zeroes that are not looked at. */
static int add_hole(struct gr__worker *worker, uint64_t offset, uint64_t length, bool limited)
{
	const uint64_t most = (uint64_t)1 << 40; /* fits an extent's count */
	uint64_t done = 0, part;
	int rc = 0;

	for (; done < length && !rc; done += part) {
		part = length - done < most ? length - done : most;
		if (worker->extent_count == GR__UNIT_PAGES)
			rc = put_pages(worker, limited);
		add_extent(worker, offset + done, part, WIRE_ZERO);
		worker->zero += part;
	}
	return rc;
}

/*
 * Is there memory for the guest at @offset? And for how much of *length, in steps of @step, that
 * holds. The block's granules say it, then the embedder.
 */
static bool is_plugged(struct gr__worker *worker, struct gr_block *block, uint64_t offset,
		       uint64_t step, uint64_t *length)
{
	const struct gr__session *session = &worker->sender->session;
	bool there = gr__block_plugged(block, offset, length);
	uint64_t known = *length;

	if (there && session->ops.plugged)
		there = session->ops.plugged(session->opts.context, block, offset, &known) > 0;
	if (known < *length)
		*length = known - known % step;
	if (*length)
		return there;
	*length = step; /* a part of a page of the block: the whole of it is looked at */
	return true;
}

/* In rounds by pages of 4 KiB, in postcopy by those of the block. */
static int put_batch(struct gr__worker *worker, bool postcopy)
{
	const struct gr__batch *batch = &worker->batch;
	struct gr__moved *moved = &worker->sender->blocks.items[batch->block];
	uint64_t step = postcopy ? moved->page_size : WIRE_PAGE;
	bool limited = !worker->urgent;
	unsigned i;
	int rc = 0;

	for (i = 0; i < batch->count && !rc; i++) {
		uint64_t at = batch->runs[i].offset, end = at + batch->runs[i].length, known;

		if (batch->hole) {
			rc = add_hole(worker, at, end - at, limited);
			continue;
		}
		while (at < end && !rc) {
			known = end - at;
			if (!is_plugged(worker, moved->block, at, step, &known)) {
				rc = add_hole(worker, at, known, limited);
				at += known;
				continue;
			}
			for (known += at; at < known && !rc; at += step) {
				if (worker->filled + step > worker->sender->unit ||
				    worker->extent_count == GR__UNIT_PAGES)
					rc = put_pages(worker, limited);
				__builtin_prefetch(moved->host + at +
						   AHEAD); /* may be nothing there */
				if (!rc)
					add_memory(worker, moved->host, at, step);
			}
		}
	}
	return rc ? rc : put_pages(worker, limited);
}

/* --------------------------------------------------------------------------------------- jobs */

static void count(struct gr__worker *worker, uint64_t copied, uint64_t zero)
{
	struct gr__session *session = &worker->sender->session;

	session->stats.bytes_copied += worker->copied - copied;
	session->stats.bytes_zero += worker->zero - zero;
}

static int send_round(struct gr__worker *worker)
{
	struct gr__sender *sender = worker->sender;
	struct gr__session *session = &sender->session;
	struct wire_round round = {0};
	uint64_t copied, zero;
	bool more;
	int rc = 0;

	do {
		copied = worker->copied;
		zero = worker->zero;
		pthread_mutex_lock(&session->lock);
		more = take_round(sender, &worker->batch);
		pthread_mutex_unlock(&session->lock);
		if (more)
			rc = put_batch(worker, false);
		pthread_mutex_lock(&session->lock);
		count(worker, copied, zero);
		pthread_mutex_unlock(&session->lock);
	} while (more && !rc);
	if (rc < 0)
		return rc;
	round.round = htole32((uint32_t)__atomic_load_n(&session->round, __ATOMIC_RELAXED));
	if (!worker->channel->number) {
		const struct iovec pieces[2] = {
			{&round, sizeof(round)},
			{sender->lengths, sender->length_count * sizeof(struct wire_length)},
		};

		round.count = htole32(sender->length_count);
		return gr__channel_put(worker->channel, WIRE_ROUND, 0, pieces, 2);
	}
	return gr__channel_put_one(worker->channel, WIRE_ROUND, 0, &round, sizeof(round));
}

/* Channel 0 is kept free for what is asked for, if there are others. */
static int push(struct gr__worker *worker)
{
	struct gr__sender *sender = worker->sender;
	struct gr__session *session = &sender->session;
	bool only_requests = !worker->channel->number && session->count > 1;
	int rc = 0;

	pthread_mutex_lock(&session->lock);
	while (!rc && sender->left) {
		uint64_t copied = worker->copied, zero = worker->zero;

		worker->urgent = sender->request_count > 0;
		if (!take_push(sender, &worker->batch, only_requests)) {
			if (sender->left)
				pthread_cond_wait(&session->change, &session->lock);
			rc = session->failed;
			continue;
		}
		if (!sender->left)
			pthread_cond_broadcast(&session->change);
		pthread_mutex_unlock(&session->lock);
		rc = put_batch(worker, true);
		pthread_mutex_lock(&session->lock);
		count(worker, copied, zero);
	}
	pthread_mutex_unlock(&session->lock);
	return rc;
}

static int send_end(struct gr__worker *worker)
{
	struct wire_end end = {
		.copied = htole64(worker->copied),
		.zero = htole64(worker->zero),
		.digest = htole64(worker->channel->out.digest),
	};

	return gr__channel_put_one(worker->channel, WIRE_END, 0, &end, sizeof(end));
}

static void work(void *arg)
{
	struct gr__worker *worker = arg;
	struct gr__sender *sender = worker->sender;
	struct gr__session *session = &sender->session;
	enum gr__job job;

	for (;;) {
		pthread_mutex_lock(&session->lock);
		while (worker->done == sender->job_number)
			pthread_cond_wait(&session->change, &session->lock);
		job = sender->job;
		pthread_mutex_unlock(&session->lock);
		if (job == GR__JOB_QUIT)
			return;
		/* a failure is the session's */
		if (job == GR__JOB_ROUND)
			send_round(worker);
		else if (job == GR__JOB_PUSH)
			push(worker);
		else
			send_end(worker);
		pthread_mutex_lock(&session->lock);
		worker->done++;
		pthread_cond_broadcast(&session->change);
		pthread_mutex_unlock(&session->lock);
	}
}

/* Lock held. */
static bool all_done(const struct gr__sender *sender)
{
	unsigned i;

	for (i = 0; i < sender->session.count; i++)
		if (sender->workers[i]->done != sender->job_number)
			return false;
	return true;
}

bool gr__sender_busy(struct gr__sender *sender)
{
	bool busy;

	pthread_mutex_lock(&sender->session.lock);
	busy = !all_done(sender);
	pthread_mutex_unlock(&sender->session.lock);
	return busy;
}

int gr__sender_begin(struct gr__sender *sender, enum gr__job job)
{
	pthread_mutex_lock(&sender->session.lock);
	sender->job = job;
	sender->job_number++;
	pthread_cond_broadcast(&sender->session.change);
	pthread_mutex_unlock(&sender->session.lock);
	return gr__session_failed(&sender->session);
}

/* The receiver speaks only when it has failed. */
static void hear(struct gr__sender *sender)
{
	struct gr__channel *channel = sender->session.channels[0];
	char text[WIRE_TEXT_MAX + 1];

	if (sender->session.opts.flags & GR_MIGRATE_ONE_WAY || !gr__channel_readable(channel))
		return;
	if (gr__channel_head(channel) < 0)
		return;
	if (channel->head.type != WIRE_FAILED)
		gr__session_fail(&sender->session, -EPROTO, "answer %u came by itself",
				 channel->head.type);
	else if (!gr__channel_text(channel, text))
		gr__session_fail(&sender->session, -ECONNABORTED, "the receiver failed: %s", text);
}

int gr__sender_run(struct gr__sender *sender, enum gr__job job)
{
	struct gr__session *session = &sender->session;
	bool done = false;

	gr__sender_begin(sender, job);
	while (!done) {
		struct timespec until;
		int late = 0;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += TICK_NS;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		pthread_mutex_lock(&session->lock);
		while (!(done = all_done(sender)) && !late)
			late = pthread_cond_timedwait(&session->change, &session->lock, &until);
		pthread_mutex_unlock(&session->lock);
		if (done || gr__session_failed(session))
			continue;
		gr__session_progress(session);
		hear(sender);
	}
	return gr__session_failed(session);
}

/* --------------------------------------------------------------------------- beginning, ending */

static int start_worker(struct gr__sender *sender, unsigned number)
{
	struct gr__session *session = &sender->session;
	struct gr__worker *worker = gr__alloc(sizeof(*worker));
	int rc;

	if (!worker)
		return -ENOMEM;
	sender->workers[number] = worker;
	worker->sender = sender;
	worker->channel = session->channels[number];
	if (session->opts.zstd_level) {
		worker->packed_room = ZSTD_compressBound(sender->unit);
		worker->packed = gr__alloc_raw(worker->packed_room);
		worker->zstd = ZSTD_createCCtx();
		if (!worker->packed || !worker->zstd)
			return -ENOMEM;
	}
	if (COPIES(worker)) {
		worker->buffer = gr__alloc_aligned(WIRE_PAGE, sender->unit);
		if (!worker->buffer)
			return -ENOMEM;
	}
	rc = gr__thread_start(work, worker, "gr-migrate", &worker->thread);
	worker->running = !rc;
	return rc;
}

int gr__sender_start(struct gr__sender *sender)
{
	unsigned i;
	int rc;

	for (i = 0; i < sender->session.count; i++) {
		rc = start_worker(sender, i);
		if (rc < 0)
			return gr__fail(rc, "%s: channel %u: %s", sender->session.who, i,
					rc == -ENOMEM ? "no memory" : "no thread");
	}
	return 0;
}

void gr__sender_stop(struct gr__sender *sender)
{
	unsigned i;

	gr__sender_begin(sender, GR__JOB_QUIT);
	for (i = 0; i < GR_MIGRATE_CHANNELS_MAX; i++) {
		struct gr__worker *worker = sender->workers[i];

		if (!worker)
			continue;
		if (worker->running)
			gr__thread_join(worker->thread);
		ZSTD_freeCCtx(worker->zstd);
		gr__free(worker->packed);
		gr__free(worker->buffer);
		gr__free(worker);
	}
}
