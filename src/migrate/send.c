/* SPDX-License-Identifier: MIT */
/*
 * The sender: rounds until what is left is small, the stop, and letting go.
 *
 *   header, MANIFEST ─► ACCEPT
 *   [harvest ─ pages of all channels ─ ROUND] …      the guest runs and writes
 *   stop() ─ the last harvest
 *     precopy:  pages, ROUND, STATE, END             ─► READY, GO ─► DONE
 *     postcopy: ROUND, STATE, SWITCH                 ─► READY, GO, pages ◄─ REQUEST …, END ─► DONE
 *
 * The guest is here until GO is written whole: until then every failure ends with resume(). From
 * then on it never runs here again. A harvest is committed when its pages were sent, and returned
 * when something fails, so that the guest's memory and its dirty state are as if nothing had
 * happened.
 *
 * Threads: the caller's; the senders of sender.h.
 */
#include "base/error.h"
#include "migrate/sender.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>

/* A round that leaves more than this part of what it sent does not bring the end nearer. */
#define NO_PROGRESS_PERCENT 50
#define THROTTLE_FIRST 20
#define THROTTLE_STEP 10
#define THROTTLE_MOST 99

struct gr_migrate_state {
	struct gr__session *session;
};

struct send {
	struct gr__sender sender;
	bool stopped;  /* stop() was called, resume() not */
	bool postcopy; /* both can */
	uint64_t stop_ns;
	unsigned throttle, slow_rounds;
};

/* ------------------------------------------------------------------------------------- begin */

static int greet(struct gr__session *session)
{
	struct wire_header header = {.version = htole32(WIRE_VERSION),
				     .channels = htole16((uint16_t)session->count)};
	unsigned flags = 0, i;
	int rc = 0;

	memcpy(header.magic, WIRE_MAGIC, sizeof(header.magic));
	if (getrandom(header.session, sizeof(header.session), GRND_NONBLOCK) < 0)
		return gr__session_fail(session, -errno, "getrandom: %s", strerrordesc_np(errno));
	if (session->opts.flags & GR_MIGRATE_ONE_WAY)
		flags |= WIRE_HEADER_ONE_WAY;
	if (session->opts.flags & GR_MIGRATE_POSTCOPY)
		flags |= WIRE_HEADER_POSTCOPY;
	header.flags = htole32(flags);
	for (i = 0; i < session->count && !rc; i++) {
		header.channel = htole16((uint16_t)i);
		header.hash = htole64(XXH3_64bits(&header, offsetof(struct wire_header, hash)));
		rc = gr__channel_put_raw(session->channels[i], &header, sizeof(header));
	}
	return rc;
}

/* The next answer, which should be @type: its head is read. A refusal is a failure, with its text.
 */
static int hear(struct gr__session *session, unsigned type)
{
	struct gr__channel *channel = session->channels[0];
	char text[WIRE_TEXT_MAX + 1];
	int rc = gr__channel_head(channel);

	if (rc < 0 || channel->head.type == type)
		return rc;
	if (channel->head.type != WIRE_REFUSE && channel->head.type != WIRE_FAILED)
		return gr__session_fail(session, -EPROTO, "answer %u where %u should be",
					channel->head.type, type);
	rc = gr__channel_text(channel, text);
	if (rc < 0)
		return rc;
	if (channel->head.type == WIRE_REFUSE)
		return gr__session_fail(session, -ECONNREFUSED, "refused: %s", text);
	return gr__session_fail(session, -ECONNABORTED, "the receiver failed: %s", text);
}

static int hear_empty(struct gr__session *session, unsigned type)
{
	int rc = hear(session, type);

	return rc < 0 ? rc : gr__channel_end(session->channels[0]);
}

static int agree(struct send *send)
{
	struct gr__session *session = &send->sender.session;
	struct wire_accept accept;
	int rc;

	gr__session_step(session, "greeting");
	rc = greet(session);
	if (!rc)
		rc = gr__blocks_put_manifest(session, &send->sender.blocks);
	if (rc < 0 || session->opts.flags & GR_MIGRATE_ONE_WAY)
		return rc;
	rc = hear(session, WIRE_ACCEPT);
	if (!rc)
		rc = gr__channel_take(session->channels[0], &accept, sizeof(accept));
	if (!rc)
		rc = gr__channel_end(session->channels[0]);
	if (!rc && le32toh(accept.version) != WIRE_VERSION)
		rc = gr__session_fail(session, -EPROTO, "the receiver speaks version %u, not %u",
				      le32toh(accept.version), WIRE_VERSION);
	if (!rc)
		send->postcopy = session->opts.flags & GR_MIGRATE_POSTCOPY &&
				 le32toh(accept.features) & WIRE_ACCEPT_POSTCOPY;
	return rc;
}

/* ------------------------------------------------------------------------------------ harvests */

static void end_harvests(struct gr__sender *sender, bool commit)
{
	unsigned i;

	for (i = 0; i < sender->blocks.count; i++) {
		if (commit)
			gr_harvest_commit(sender->harvests[i]);
		else
			gr_harvest_return(sender->harvests[i]);
		sender->harvests[i] = NULL;
	}
}

static int harvest(struct gr__sender *sender)
{
	unsigned i;
	int rc;

	for (i = 0; i < sender->blocks.count; i++) {
		struct gr__moved *moved = &sender->blocks.items[i];

		if (!gr__moves(moved))
			continue;
		rc = gr_dirty_harvest(sender->client, moved->block, 0, moved->used,
				      &sender->harvests[i]);
		if (rc < 0)
			return gr__session_fail(&sender->session, rc == -ENOENT ? -EBUSY : rc,
						"block %s: %s", moved->block->name,
						gr_last_error());
		/* pages that came since it was last asked must be seen */
		sender->pages[i].entries_count = 0;
	}
	sender->at_block = 0;
	sender->rest = (struct gr__migrate_run){0, 0};
	sender->rest_until = 0;
	sender->taken = 0;
	return 0;
}

/* Lengths that are told to the receiver with this round's end, and hold from the next one on. */
static bool note_lengths(struct gr__sender *sender, bool apply)
{
	bool grown = false;
	unsigned i;

	if (apply) {
		for (i = 0; i < sender->length_count; i++)
			sender->blocks.items[le32toh(sender->lengths[i].block)].used =
				le64toh(sender->lengths[i].used);
		sender->length_count = 0;
		return false;
	}
	sender->length_count = 0;
	for (i = 0; i < sender->blocks.count; i++) {
		struct gr__moved *moved = &sender->blocks.items[i];
		uint64_t used = gr__block_length(moved->block);

		if (!gr__moves(moved) || used == moved->used)
			continue;
		grown = true;
		sender->lengths[sender->length_count++] =
			(struct wire_length){.block = htole32(i), .used = htole64(used)};
	}
	return grown;
}

static int run_round(struct send *send)
{
	struct gr__sender *sender = &send->sender;
	struct gr__session *session = &sender->session;
	uint64_t begin = gr__now_ns(), ns;
	int rc;

	pthread_mutex_lock(&session->lock);
	session->stats.rounds++;
	pthread_mutex_unlock(&session->lock);
	__atomic_fetch_add(&session->round, 1, __ATOMIC_RELAXED);
	gr__session_step(session, send->stopped ? "last round" : "round");
	rc = gr__blocks_same(session, &sender->blocks);
	if (!rc)
		rc = harvest(sender);
	if (!rc) {
		note_lengths(sender, false);
		rc = gr__sender_run(sender, GR__JOB_ROUND);
	}
	end_harvests(sender, !rc);
	if (rc < 0)
		return rc;
	note_lengths(sender, true);
	ns = gr__now_ns() - begin;
	pthread_mutex_lock(&session->lock);
	session->stats.bytes_per_second =
		(uint64_t)((double)sender->taken * 1e9 / (double)(ns ? ns : 1));
	pthread_mutex_unlock(&session->lock);
	return gr__session_progress(session);
}

/* -------------------------------------------------------------------------------- convergence */

static void throttle(struct send *send, unsigned percent)
{
	struct gr__session *session = &send->sender.session;

	if (send->throttle == percent)
		return;
	send->throttle = percent;
	pthread_mutex_lock(&session->lock);
	session->stats.throttle = percent;
	pthread_mutex_unlock(&session->lock);
	if (session->ops.throttle)
		session->ops.throttle(session->opts.context, percent);
}

static int count_dirty(struct gr__sender *sender, uint64_t *left)
{
	uint64_t sum = 0, bytes;
	unsigned i;
	int rc;

	for (i = 0; i < sender->blocks.count; i++) {
		struct gr__moved *moved = &sender->blocks.items[i];

		if (!gr__moves(moved))
			continue;
		rc = gr_dirty_bytes(sender->client, moved->block, &bytes);
		if (rc < 0)
			return gr__session_fail(&sender->session, rc == -ENOENT ? -EBUSY : rc,
						"block %s: %s", moved->block->name,
						gr_last_error());
		sum += bytes;
	}
	*left = sum;
	return 0;
}

enum verdict { ANOTHER_ROUND, STOP_AND_SEND, STOP_AND_SWITCH };

/* 0 or more: what comes after this round. */
static int judge(struct send *send)
{
	struct gr__sender *sender = &send->sender;
	struct gr__session *session = &sender->session;
	uint64_t left = 0, rate, sent = sender->taken;
	double ms;
	int rc = count_dirty(sender, &left);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&session->lock);
	session->stats.bytes_left = left;
	rate = session->stats.bytes_per_second;
	pthread_mutex_unlock(&session->lock);
	/* a round of nothing has no rate */
	ms = left ? (double)left * 1000 / (double)(rate ? rate : 1) : 0;
	if (ms <= (double)session->opts.max_downtime_ms)
		return STOP_AND_SEND;
	if (session->round >= session->opts.max_rounds) {
		if (send->postcopy)
			return STOP_AND_SWITCH;
		return gr__session_fail(session, -ETIMEDOUT,
					"it does not converge: %llu bytes are left, which take "
					"%.0f ms at %llu bytes/s; at most %llu ms are allowed",
					(unsigned long long)left, ms, (unsigned long long)rate,
					(unsigned long long)session->opts.max_downtime_ms);
	}
	send->slow_rounds = left > sent / 100 * NO_PROGRESS_PERCENT ? send->slow_rounds + 1 : 0;
	if (send->slow_rounds >= 2 && session->round > 2) {
		send->slow_rounds = 0;
		throttle(send, !send->throttle ? THROTTLE_FIRST
			       : send->throttle + THROTTLE_STEP < THROTTLE_MOST
				       ? send->throttle + THROTTLE_STEP
				       : THROTTLE_MOST);
	}
	return ANOTHER_ROUND;
}

/* ---------------------------------------------------------------------------------------- stop */

static int stop(struct send *send)
{
	struct gr__session *session = &send->sender.session;
	int rc = 0;

	gr__session_step(session, "stop");
	send->stop_ns = gr__now_ns();
	if (session->ops.stop)
		rc = session->ops.stop(session->opts.context);
	if (rc < 0)
		return gr__session_fail(session, rc, "the guest does not stop: %s",
					strerrordesc_np(-rc));
	send->stopped = true;
	return 0;
}

#define STATE_PART (UINT64_C(1) << 20)

int gr_migrate_put_state(struct gr_migrate_state *state, const char *name, const void *bytes,
			 uint64_t length)
{
	struct gr__session *session = state->session;
	uint64_t name_length = name ? strlen(name) : 0, done = 0, part;
	struct wire_state head = {.total = htole64(length)};
	int rc;

	if (!name_length || name_length > 255 || (length && !bytes))
		return gr__fail(-EINVAL, "migrate: a state's name has %llu bytes",
				(unsigned long long)name_length);
	head.name_length = htole32((uint32_t)name_length);
	do {
		part = length - done < STATE_PART ? length - done : STATE_PART;
		const struct iovec pieces[3] = {{&head, sizeof(head)},
						{(void *)name, name_length},
						{(char *)bytes + done, part}};

		rc = gr__channel_put(session->channels[0], WIRE_STATE,
				     done + part < length ? WIRE_MORE : 0, pieces, 3);
		done += part;
	} while (!rc && done < length);
	return rc < 0 ? gr__session_say(session) : 0;
}

static int save_state(struct gr__session *session)
{
	struct gr_migrate_state state = {session};
	int rc;

	gr__session_step(session, "state");
	if (!session->ops.state_save)
		return 0;
	rc = session->ops.state_save(session->opts.context, &state);
	if (gr__session_failed(session))
		return gr__session_failed(session);
	return rc < 0 ? gr__session_fail(session, rc, "it could not be saved: %s",
					 strerrordesc_np(-rc))
		      : 0;
}

/* Blocks that grew up to the stop need a round that says so before their last pages. */
static int settle_lengths(struct send *send)
{
	int rc = 0;

	while (!rc && note_lengths(&send->sender, false))
		rc = run_round(send);
	return rc;
}

/* --------------------------------------------------------------------------------- letting go */

/* READY was promised; GO is written whole or not at all, as far as the other side can see. */
static int let_go(struct send *send)
{
	struct gr__session *session = &send->sender.session;
	bool answers = !(session->opts.flags & GR_MIGRATE_ONE_WAY);
	int rc = 0;

	gr__session_step(session, "waiting for the receiver");
	if (answers)
		rc = hear_empty(session, WIRE_READY);
	if (!rc)
		rc = gr__session_progress(session);
	if (rc < 0)
		return rc;
	gr__session_step(session, "letting go");
	rc = gr__channel_put_one(session->channels[0], WIRE_GO, 0, NULL, 0);
	if (rc < 0)
		return rc;
	/* from here on it may run there, so never here */
	send->stopped = false;
	session->decided = true;
	pthread_mutex_lock(&session->lock);
	session->stats.guest = answers ? GR_GUEST_UNKNOWN : GR_GUEST_THERE;
	pthread_mutex_unlock(&session->lock);
	return 0;
}

static void note_downtime(struct send *send)
{
	struct gr__session *session = &send->sender.session;

	pthread_mutex_lock(&session->lock);
	session->stats.downtime_us = (gr__now_ns() - send->stop_ns) / 1000;
	pthread_mutex_unlock(&session->lock);
}

static int finish_precopy(struct send *send)
{
	struct gr__sender *sender = &send->sender;
	struct gr__session *session = &sender->session;
	int rc = settle_lengths(send);

	if (!rc)
		rc = run_round(send);
	if (!rc)
		rc = save_state(session);
	gr__session_step(session, "end");
	if (!rc)
		rc = gr__sender_run(sender, GR__JOB_END);
	if (!rc)
		rc = let_go(send);
	if (!rc && !(session->opts.flags & GR_MIGRATE_ONE_WAY))
		rc = hear_empty(session, WIRE_DONE);
	if (rc < 0)
		return rc;
	note_downtime(send);
	pthread_mutex_lock(&session->lock);
	session->stats.guest = GR_GUEST_THERE;
	session->stats.bytes_left = 0;
	pthread_mutex_unlock(&session->lock);
	return 0;
}

/* ------------------------------------------------------------------------------------ postcopy */

#define RUNS_PART 4096

struct runs {
	struct gr__session *session;
	struct wire_run *items;
	unsigned count;
};

static int put_runs(struct runs *runs, bool more)
{
	int rc = gr__channel_put_one(runs->session->channels[0], WIRE_SWITCH, more ? WIRE_MORE : 0,
				     runs->items, runs->count * sizeof(*runs->items));

	runs->count = 0;
	return rc;
}

/* What is dirty now, by whole pages of the block, becomes the bits of what is to be sent. */
static int mark_missing(struct gr__sender *sender)
{
	uint64_t offset, length, first, end;
	unsigned i;

	for (i = 0; i < sender->blocks.count; i++) {
		struct gr__moved *moved = &sender->blocks.items[i];

		while (sender->harvests[i] &&
		       gr_harvest_next(sender->harvests[i], &offset, &length)) {
			first = offset - offset % moved->page_size;
			end = (offset + length + moved->page_size - 1) / moved->page_size *
			      moved->page_size;
			sender->left += WIRE_PAGE * gr__bits_put(moved->bits, first / WIRE_PAGE,
								 (end - first) / WIRE_PAGE, true);
		}
	}
	return 0;
}

static int tell_missing(struct gr__sender *sender)
{
	struct runs runs = {.session = &sender->session};
	unsigned i;
	int rc = 0;

	runs.items = gr__alloc_array(RUNS_PART, sizeof(*runs.items));
	if (!runs.items)
		return gr__session_fail(runs.session, -ENOMEM, "no memory");
	for (i = 0; i < sender->blocks.count && !rc; i++) {
		struct gr__moved *moved = &sender->blocks.items[i];
		uint64_t page = 0, next, pages = moved->used / WIRE_PAGE;

		while (moved->bits && !rc &&
		       (page = gr__bits_next(moved->bits, page, pages, true)) < pages) {
			next = gr__bits_next(moved->bits, page, pages, false);
			if (next - page > UINT32_MAX / WIRE_PAGE)
				next = page + UINT32_MAX / WIRE_PAGE / 512 * 512;
			runs.items[runs.count++] =
				(struct wire_run){htole32(i), htole32((uint32_t)(next - page)),
						  htole64(page * WIRE_PAGE)};
			page = next;
			if (runs.count == RUNS_PART)
				rc = put_runs(&runs, true);
		}
	}
	if (!rc)
		rc = put_runs(&runs, false);
	gr__free(runs.items);
	return rc;
}

/* A request goes to the senders; what is not ours to send is left out by them. */
static int take_request(struct gr__sender *sender)
{
	struct gr__session *session = &sender->session;
	struct gr__channel *channel = session->channels[0];
	struct wire_run run;
	const struct gr__moved *moved;
	int rc = gr__channel_take(channel, &run, sizeof(run));

	if (!rc)
		rc = gr__channel_end(channel);
	if (rc < 0)
		return rc;
	run = (struct wire_run){le32toh(run.block), le32toh(run.pages), le64toh(run.offset)};
	moved = run.block < sender->blocks.count ? &sender->blocks.items[run.block] : NULL;
	if (!moved || !moved->bits || !run.pages || run.offset % moved->page_size ||
	    run.offset >= moved->used || run.pages > (moved->used - run.offset) / WIRE_PAGE ||
	    run.pages > sender->unit / WIRE_PAGE)
		return gr__session_fail(session, -EPROTO,
					"a request for %u pages at %#llx of block %u", run.pages,
					(unsigned long long)run.offset, run.block);
	pthread_mutex_lock(&session->lock);
	while (sender->request_count == GR__REQUESTS && !session->failed)
		pthread_cond_wait(&session->change, &session->lock);
	if (sender->request_count < GR__REQUESTS)
		sender->requests[(sender->request_first + sender->request_count++) % GR__REQUESTS] =
			run;
	session->stats.requests++;
	session->stats.bytes_left = sender->left;
	pthread_cond_broadcast(&session->change);
	pthread_mutex_unlock(&session->lock);
	return gr__session_failed(session);
}

/* Requests are taken while the senders push; then the end, and the receiver's last word. */
static int serve(struct gr__sender *sender)
{
	struct gr__session *session = &sender->session;
	struct gr__channel *channel = session->channels[0];
	bool ending = false;
	int rc = gr__sender_begin(sender, GR__JOB_PUSH);

	while (!rc) {
		struct pollfd fd = {.fd = channel->fd, .events = POLLIN};

		if (!ending && !gr__sender_busy(sender)) {
			gr__sender_begin(sender, GR__JOB_END);
			ending = true;
		}
		/* the push may end without a word from the other side */
		if (!ending && channel->front_at == channel->front_end && poll(&fd, 1, 10) <= 0) {
			rc = gr__session_progress(session);
			continue;
		}
		rc = gr__channel_head(channel);
		if (rc < 0)
			break;
		if (channel->head.type == WIRE_REQUEST) {
			rc = take_request(sender);
		} else if (channel->head.type == WIRE_DONE && ending) {
			return gr__channel_end(channel);
		} else {
			char text[WIRE_TEXT_MAX + 1] = "";

			if (channel->head.type == WIRE_FAILED)
				gr__channel_text(channel, text);
			rc = gr__session_fail(session, -ECONNABORTED, "answer %u in postcopy: %s",
					      channel->head.type, text);
		}
	}
	return rc;
}

static int finish_postcopy(struct send *send)
{
	struct gr__sender *sender = &send->sender;
	struct gr__session *session = &sender->session;
	int rc = settle_lengths(send);

	gr__session_step(session, "switch");
	if (!rc)
		rc = gr__blocks_same(session, &sender->blocks);
	if (!rc)
		rc = gr__blocks_bits(session, &sender->blocks) < 0
			     ? gr__session_fail(session, -ENOMEM, "no memory")
			     : 0;
	if (!rc)
		rc = harvest(sender);
	if (!rc)
		rc = mark_missing(sender);
	if (!rc)
		rc = save_state(session);
	if (!rc)
		rc = tell_missing(sender);
	if (!rc)
		rc = let_go(send);
	end_harvests(sender, !rc);
	if (rc < 0)
		return rc;
	note_downtime(send);
	pthread_mutex_lock(&session->lock);
	session->stats.postcopy = 1;
	session->stats.guest = GR_GUEST_LOST; /* if it ends now */
	session->stats.bytes_left = sender->left;
	pthread_mutex_unlock(&session->lock);
	gr__session_step(session, "postcopy");
	rc = serve(sender);
	if (rc < 0 && !sender->left && !gr__sender_busy(sender)) {
		pthread_mutex_lock(&session->lock);
		session->stats.guest = GR_GUEST_UNKNOWN; /* all was sent */
		pthread_mutex_unlock(&session->lock);
	}
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&session->lock);
	session->stats.guest = GR_GUEST_THERE;
	session->stats.bytes_left = 0;
	pthread_mutex_unlock(&session->lock);
	return 0;
}

/* ---------------------------------------------------------------------------------------- all */

static int prepare_pages(struct gr__sender *sender)
{
	unsigned i;

	sender->harvests = gr__alloc_array(sender->blocks.count + 1, sizeof(*sender->harvests));
	sender->lengths = gr__alloc_array(sender->blocks.count + 1, sizeof(*sender->lengths));
	sender->pages = gr__alloc_array(sender->blocks.count + 1, sizeof(*sender->pages));
	sender->has_pages = gr__alloc_array(sender->blocks.count + 1, sizeof(*sender->has_pages));
	if (!sender->harvests || !sender->lengths || !sender->pages || !sender->has_pages)
		return gr__fail(-ENOMEM, "%s: no memory for %u blocks", sender->session.who,
				sender->blocks.count);
	for (i = 0; i < sender->blocks.count; i++) {
		struct gr__moved *moved = &sender->blocks.items[i];
		const struct gr__mem *mem = &moved->block->mem;
		bool shared = mem->flags & GR_SHARED;
		struct gr__pages_of of = {
			.kind = mem->fd >= 0
					? (shared ? GR__PAGES_SHARED_FILE : GR__PAGES_PRIVATE_FILE)
				: mem->backing != GR_BACKING_ANON ? GR__PAGES_UNKNOWN
				: shared			  ? GR__PAGES_SHARED_ANON
								  : GR__PAGES_PRIVATE,
			.host = (uintptr_t)mem->host,
			.length = mem->max_length,
			.fd = mem->fd,
			.fd_offset = mem->fd_offset,
		};

		if (!gr__moves(moved))
			continue;
		sender->session.stats.bytes_memory += moved->used;
		if (moved->page_size > sender->unit && moved->page_size <= WIRE_DATA_MAX)
			sender->unit = moved->page_size;
		/* where nothing can be told of its holes, all of it is read */
		sender->has_pages[i] = gr__pages_open(&sender->pages[i], &of) == 0;
	}
	return 0;
}

static void free_pages(struct gr__sender *sender)
{
	unsigned i;

	for (i = 0; i < sender->blocks.count && sender->has_pages; i++)
		if (sender->has_pages[i])
			gr__pages_close(&sender->pages[i]);
	gr__free(sender->harvests);
	gr__free(sender->lengths);
	gr__free(sender->pages);
	gr__free(sender->has_pages);
}

static int open_all(struct send *send)
{
	const struct gr_dirty_opts dirty = {.name = "migrate", .flags = GR_DIRTY_ALL};
	struct gr__sender *sender = &send->sender;
	int rc = gr__blocks_collect(&sender->session, &sender->blocks);

	if (!rc)
		rc = gr__blocks_judge(&sender->session, &sender->blocks);
	if (!rc)
		rc = prepare_pages(sender);
	if (!rc)
		rc = gr_dirty_open(sender->session.ram, &dirty, &sender->client);
	if (!rc)
		rc = gr__sender_start(sender);
	return rc;
}

static int move(struct send *send)
{
	int rc = agree(send);

	while (!rc) {
		rc = run_round(send);
		if (!rc)
			rc = judge(send);
		if (rc != STOP_AND_SEND && rc != STOP_AND_SWITCH)
			continue;
		send->postcopy = rc == STOP_AND_SWITCH;
		rc = stop(send);
		if (!rc)
			rc = send->postcopy ? finish_postcopy(send) : finish_precopy(send);
		break;
	}
	return rc;
}

int gr_migrate_send(struct gr_ram *ram, const struct gr_migrate_opts *opts,
		    struct gr_migrate_stats *stats)
{
	struct send *send;
	struct gr__session *session;
	int rc = gr__ram_check(ram, "migrate: send");

	if (stats)
		*stats = (struct gr_migrate_stats){.guest = GR_GUEST_HERE};
	if (!rc)
		rc = gr__may_wait("migrate: send");
	if (rc < 0)
		return rc;
	send = gr__alloc(sizeof(*send));
	if (!send)
		return gr__fail(-ENOMEM, "migrate: send: no memory");
	session = &send->sender.session;
	send->sender.unit = GR__UNIT;
	rc = gr__session_open(session, ram, opts, "migrate: send");
	if (!rc)
		rc = open_all(send);
	if (!rc)
		rc = move(send);
	if (rc < 0)
		gr__session_adopt(session, rc);
	gr__sender_stop(&send->sender);
	throttle(send, 0);
	if (send->stopped && session->ops.resume)
		session->ops.resume(session->opts.context);
	gr_dirty_close(send->sender.client);
	free_pages(&send->sender);
	gr__blocks_free(&send->sender.blocks);
	if (gr__session_failed(session))
		rc = gr__session_say(session); /* after callbacks, whose sentences are not it */
	if (stats)
		gr__session_stats(session, stats);
	gr__session_close(session);
	gr__free(send);
	return rc;
}
