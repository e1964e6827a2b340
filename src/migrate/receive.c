/* SPDX-License-Identifier: MIT */
/*
 * The receiver: compares blocks, empties them, takes rounds until the sender lets go.
 *
 * Nothing is changed before the whole manifest was compared. The guest may run here when GO has
 * come, and not a moment earlier: until then the sender may take everything back.
 *
 * Threads: the caller's reads channel 0; one for each other channel. At the end of a round all wait
 * for each other; the caller's thread makes blocks longer meanwhile.
 */
#include "base/error.h"
#include "migrate/receiver.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/thread.h"
#include "ram/reclaim.h"
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------------- begin */

static int refuse(struct gr__receiver *receiver, int rc, const char *text)
{
	if (!receiver->one_way)
		gr__channel_put_one(receiver->session.channels[0], WIRE_REFUSE, 0, text,
				    strlen(text));
	return gr__session_fail(&receiver->session, rc, "%s", text);
}

static int check_header(struct gr__receiver *receiver, struct wire_header *header,
			const struct wire_header *first)
{
	struct gr__session *session = &receiver->session;

	if (memcmp(header->magic, WIRE_MAGIC, sizeof(header->magic)) != 0)
		return gr__session_fail(session, -EBADMSG, "this is no migration stream");
	if (le64toh(header->hash) != XXH3_64bits(header, offsetof(struct wire_header, hash)))
		return gr__session_fail(session, -EBADMSG, "the header is damaged");
	if (le32toh(header->version) != WIRE_VERSION)
		return gr__session_fail(session, -EPROTO, "the sender speaks version %u, not %u",
					le32toh(header->version), WIRE_VERSION);
	if (le32toh(header->flags) & ~(WIRE_HEADER_ONE_WAY | WIRE_HEADER_POSTCOPY) || header->zero)
		return gr__session_fail(session, -EPROTO, "unknown flags %#x",
					le32toh(header->flags));
	if (le16toh(header->channels) != session->count)
		return gr__session_fail(session, -EPROTO, "the sender has %u channels, we have %u",
					le16toh(header->channels), session->count);
	if (le16toh(header->channel) >= session->count)
		return gr__session_fail(session, -EPROTO, "channel %u of %u",
					le16toh(header->channel), session->count);
	if (first && (memcmp(header->session, first->session, sizeof(first->session)) != 0 ||
		      header->flags != first->flags))
		return gr__session_fail(session, -EPROTO, "channel %u is of another migration",
					le16toh(header->channel));
	return 0;
}

/* Channels get the numbers that the sender gave them. */
static int read_headers(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	struct gr__channel *ordered[GR_MIGRATE_CHANNELS_MAX] = {0};
	struct wire_header header = {0}, first = {0};
	unsigned i;
	int rc = 0;

	gr__session_step(session, "greeting");
	for (i = 0; i < session->count && !rc; i++) {
		rc = gr__channel_get_raw(session->channels[i], &header, sizeof(header));
		if (!rc)
			rc = check_header(receiver, &header, i ? &first : NULL);
		if (rc < 0)
			return rc;
		if (!i)
			first = header;
		if (ordered[le16toh(header.channel)])
			return gr__session_fail(session, -EPROTO, "channel %u comes twice",
						le16toh(header.channel));
		ordered[le16toh(header.channel)] = session->channels[i];
		session->channels[i]->number = le16toh(header.channel);
	}
	memcpy(session->channels, ordered, sizeof(ordered));
	receiver->one_way = le32toh(first.flags) & WIRE_HEADER_ONE_WAY;
	receiver->wants_postcopy = le32toh(first.flags) & WIRE_HEADER_POSTCOPY;
	if (receiver->one_way != !!(session->opts.flags & GR_MIGRATE_ONE_WAY))
		return gr__session_fail(session, -EPROTO, "the sender %s answers",
					receiver->one_way ? "takes no" : "wants");
	return 0;
}

/* Give a block the sender's length, and have nothing in it. */
static int empty_block(struct gr__receiver *receiver, struct gr__moved *moved)
{
	const struct gr__mem *mem = &moved->block->mem;
	int rc = 0;

	if (moved->used != gr__block_length(moved->block)) {
		gr__block_put(moved->block); /* who is held cannot shrink */
		rc = gr_block_resize(moved->block, moved->used);
		if (rc < 0)
			gr__session_fail(&receiver->session, rc, "%s", gr_last_error());
		gr__block_get(moved->block);
	}
	if (rc < 0)
		return rc;
	/* memory that was asked for beforehand is kept; what cannot be emptied is overwritten */
	moved->fresh = mem->backing != GR_BACKING_CALLER &&
		       !(mem->flags & (GR_PREALLOC | GR_LOCKED)) &&
		       !(mem->backing == GR_BACKING_FILE && !(mem->flags & GR_SHARED)) &&
		       gr_block_discard(moved->block, 0, moved->used) == 0;
	return 0;
}

static int agree(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	struct wire_accept accept = {.version = htole32(WIRE_VERSION)};
	char refusal[WIRE_TEXT_MAX + 1];
	unsigned i;
	int rc = read_headers(receiver);

	gr__session_step(session, "comparing blocks");
	if (!rc)
		rc = gr__blocks_match(session, &receiver->blocks, refusal);
	if (!rc && *refusal)
		rc = refuse(receiver, -EINVAL, refusal);
	if (!rc && gr__blocks_bits(session, &receiver->blocks) < 0)
		rc = refuse(receiver, -ENOMEM, "no memory for bitmaps");
	if (rc < 0)
		return rc;
	gr__session_step(session, "emptying blocks");
	for (i = 0; i < receiver->blocks.count && !rc; i++) {
		if (!gr__moves(&receiver->blocks.items[i]))
			continue;
		session->stats.bytes_memory += receiver->blocks.items[i].used;
		rc = empty_block(receiver, &receiver->blocks.items[i]);
	}
	if (rc < 0 || receiver->one_way)
		return rc;
	if (receiver->wants_postcopy && gr__fault_possible(receiver))
		accept.features = htole32(WIRE_ACCEPT_POSTCOPY);
	return gr__channel_put_one(session->channels[0], WIRE_ACCEPT, 0, &accept, sizeof(accept));
}

/* ------------------------------------------------------------------------------ ends of rounds */

/* ROUND on channel 0: blocks that have grown. All others wait. */
static int take_lengths(struct gr__receiver *receiver, unsigned count)
{
	struct gr__session *session = &receiver->session;
	struct gr__channel *channel = session->channels[0];
	unsigned i;
	int rc = 0;

	for (i = 0; i < count && !rc; i++) {
		struct wire_length length;
		struct gr__moved *moved;
		uint64_t used;

		rc = gr__channel_take(channel, &length, sizeof(length));
		if (rc < 0)
			return rc;
		used = le64toh(length.used);
		if (le32toh(length.block) >= receiver->blocks.count)
			return gr__session_fail(session, -EBADMSG, "block %u grows",
						le32toh(length.block));
		moved = &receiver->blocks.items[le32toh(length.block)];
		if (!gr__moves(moved) || used < moved->used ||
		    used > moved->block->mem.max_length || used % moved->page_size)
			return gr__session_fail(session, -EBADMSG,
						"block %.200s grows to %llu bytes",
						moved->block->name, (unsigned long long)used);
		rc = gr_block_resize(moved->block, used);
		if (rc < 0)
			return gr__session_fail(session, rc, "%s", gr_last_error());
		moved->used = used;
	}
	return rc;
}

/* Lock held. A channel that has ended will never come to this round's end. */
static int wait_all(struct gr__receiver *receiver, const unsigned *count, unsigned all)
{
	struct gr__session *session = &receiver->session;

	while (*count < all && !session->failed && !(receiver->ended && count != &receiver->ended))
		pthread_cond_wait(&session->change, &session->lock);
	if (session->failed)
		return session->failed;
	return *count < all ? -EPROTO : 0;
}

static int end_round(struct gr__reader *reader)
{
	struct gr__receiver *receiver = reader->receiver;
	struct gr__session *session = &receiver->session;
	struct wire_round round;
	uint64_t over;
	int rc = gr__channel_take(reader->channel, &round, sizeof(round));

	if (rc < 0)
		return rc;
	if (gr__in_postcopy(receiver) || (reader->channel->number && round.count))
		return gr__session_fail(session, -EPROTO, "channel %u: a round's end",
					reader->channel->number);
	if (le32toh(round.count) > receiver->blocks.count)
		return gr__session_fail(session, -EBADMSG, "%u blocks grow", le32toh(round.count));
	pthread_mutex_lock(&session->lock);
	over = receiver->rounds_over;
	if (le32toh(round.round) != (uint32_t)(over + 1)) {
		rc = -EPROTO;
	} else if (reader->channel->number) {
		receiver->arrived++;
		pthread_cond_broadcast(&session->change);
		while (receiver->rounds_over == over && !session->failed && !receiver->ended)
			pthread_cond_wait(&session->change, &session->lock);
		rc = session->failed		     ? session->failed
		     : receiver->rounds_over == over ? -EPROTO
						     : 0;
	} else {
		rc = wait_all(receiver, &receiver->arrived, session->count - 1);
	}
	pthread_mutex_unlock(&session->lock);
	if (rc == -EPROTO)
		return gr__session_fail(session, rc, "channel %u: round %u ends, after %llu",
					reader->channel->number, le32toh(round.round),
					(unsigned long long)over);
	if (!rc && !reader->channel->number) {
		rc = take_lengths(receiver, le32toh(round.count));
		pthread_mutex_lock(&session->lock);
		receiver->arrived = 0;
		receiver->rounds_over++;
		session->stats.rounds++;
		__atomic_store_n(&session->round, receiver->rounds_over, __ATOMIC_RELAXED);
		pthread_cond_broadcast(&session->change);
		pthread_mutex_unlock(&session->lock);
	}
	return rc < 0 ? rc : gr__channel_end(reader->channel);
}

static int end_channel(struct gr__reader *reader)
{
	struct gr__session *session = &reader->receiver->session;
	uint64_t digest = reader->channel->in.digest; /* of the records before */
	struct wire_end end;
	int rc = gr__channel_take(reader->channel, &end, sizeof(end));

	if (!rc)
		rc = gr__channel_end(reader->channel);
	if (rc < 0)
		return rc;
	if (le64toh(end.digest) != digest || le64toh(end.copied) != reader->copied ||
	    le64toh(end.zero) != reader->zero)
		return gr__session_fail(
			session, -EBADMSG,
			"channel %u: %llu and %llu bytes were sent, %llu and %llu came",
			reader->channel->number, (unsigned long long)le64toh(end.copied),
			(unsigned long long)le64toh(end.zero), (unsigned long long)reader->copied,
			(unsigned long long)reader->zero);
	pthread_mutex_lock(&session->lock);
	reader->receiver->ended++;
	pthread_cond_broadcast(&session->change);
	pthread_mutex_unlock(&session->lock);
	return 0;
}

/* --------------------------------------------------------------------------------------- state */

static struct gr__state *new_state(struct gr__receiver *receiver, const char *name, uint64_t total)
{
	struct gr__state *state = gr__alloc(sizeof(*state));

	if (!state)
		return NULL;
	snprintf(state->name, sizeof(state->name), "%s", name);
	state->total = total;
	if (receiver->last_state)
		receiver->last_state->next = state;
	else
		receiver->states = state;
	receiver->last_state = state;
	return state;
}

/* Memory grows by what came, not by what was announced. */
static int append_state(struct gr__receiver *receiver, struct gr__state *state)
{
	struct gr__channel *channel = receiver->session.channels[0];
	uint64_t part = channel->left;
	char *bytes = gr__alloc_raw(state->length + part + 1);

	if (!bytes)
		return gr__session_fail(&receiver->session, -ENOMEM, "no memory");
	if (state->length)
		memcpy(bytes, state->bytes, state->length);
	gr__free(state->bytes);
	state->bytes = bytes;
	state->length += part;
	return gr__channel_take(channel, bytes + state->length - part, part);
}

static int take_state(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	struct gr__channel *channel = session->channels[0];
	struct gr__state *state = receiver->last_state;
	struct wire_state head;
	char name[256];
	uint64_t name_length, total;
	int rc = gr__channel_take(channel, &head, sizeof(head));

	if (rc < 0)
		return rc;
	name_length = le32toh(head.name_length);
	total = le64toh(head.total);
	if (!name_length || name_length > 255 || gr__in_postcopy(receiver))
		return gr__session_fail(session, -EBADMSG, "a state with a name of %llu bytes",
					(unsigned long long)name_length);
	rc = gr__channel_take(channel, name, name_length);
	if (rc < 0)
		return rc;
	name[name_length] = 0;
	if (!state || state->length == state->total) {
		receiver->state_bytes += sizeof(*state); /* empty ones are memory too */
		if (total > session->opts.max_state ||
		    receiver->state_bytes > session->opts.max_state - total)
			return gr__session_fail(session, -ERANGE,
						"state %.100s of %llu bytes: %llu are taken", name,
						(unsigned long long)total,
						(unsigned long long)session->opts.max_state);
		receiver->state_bytes += total;
		state = new_state(receiver, name, total);
		if (!state)
			return gr__session_fail(session, -ENOMEM, "no memory");
	}
	if (strcmp(state->name, name) != 0 || state->total != total ||
	    channel->left > total - state->length ||
	    !(channel->head.flags & WIRE_MORE) != (state->length + channel->left == total))
		return gr__session_fail(session, -EBADMSG, "state %.100s is not whole",
					state->name);
	rc = append_state(receiver, state);
	return rc < 0 ? rc : gr__channel_end(channel);
}

static int load_states(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	struct gr__state *state;
	int rc;

	gr__session_step(session, "loading state");
	for (state = receiver->states; state; state = state->next) {
		if (state->length != state->total)
			return gr__session_fail(session, -EBADMSG, "state %.100s is not whole",
						state->name);
		if (!session->ops.state_load)
			return gr__session_fail(session, -ENOENT, "nobody takes state %.100s",
						state->name);
		rc = session->ops.state_load(session->opts.context, state->name,
					     state->length ? state->bytes : "", state->length);
		if (rc < 0)
			return gr__session_fail(session, rc, "%.100s: %s", state->name,
						strerrordesc_np(-rc));
	}
	return 0;
}

static void free_states(struct gr__receiver *receiver)
{
	struct gr__state *state, *next;

	for (state = receiver->states; state; state = next) {
		next = state->next;
		gr__free(state->bytes);
		gr__free(state);
	}
}

/* ------------------------------------------------------------------------------ taking it over */

/* All is here, or will be fetched: say so, and run the guest when the sender has let go. */
static int take_over(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	struct gr__channel *channel = session->channels[0];
	int rc = load_states(receiver);

	if (!rc)
		rc = gr__session_progress(session);
	gr__session_step(session, "waiting to be let go");
	if (!rc && !receiver->one_way) {
		session->decided = true;
		session->stats.guest = GR_GUEST_UNKNOWN;
		rc = gr__channel_put_one(channel, WIRE_READY, 0, NULL, 0);
	}
	if (!rc)
		rc = gr__channel_head(channel);
	if (!rc && channel->head.type != WIRE_GO)
		rc = gr__session_fail(session, -EPROTO, "record %u instead", channel->head.type);
	if (!rc)
		rc = gr__channel_end(channel);
	if (rc < 0)
		return rc;
	session->decided = true;
	pthread_mutex_lock(&session->lock);
	session->stats.guest = GR_GUEST_HERE;
	pthread_mutex_unlock(&session->lock);
	if (session->ops.resume)
		session->ops.resume(session->opts.context);
	return 0;
}

static int finish_precopy(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	int rc;

	pthread_mutex_lock(&session->lock);
	rc = wait_all(receiver, &receiver->ended, session->count);
	pthread_mutex_unlock(&session->lock);
	if (!rc)
		rc = gr__place_whole(receiver);
	if (!rc)
		rc = take_over(receiver);
	if (rc < 0)
		return rc;
	/* the guest runs: it is all the same to it whether this arrives */
	if (!receiver->one_way)
		gr__channel_put_one(session->channels[0], WIRE_DONE, 0, NULL, 0);
	return 0;
}

static void begin_postcopy(struct gr__receiver *receiver)
{
	unsigned i;

	for (i = 0; i < receiver->blocks.count; i++) {
		struct gr__moved *moved = &receiver->blocks.items[i];

		if (moved->bits)
			gr__bits_put(moved->bits, 0, moved->block->mem.max_length / WIRE_PAGE,
				     false);
	}
	/* release: the bits' meaning; pairs with gr__in_postcopy() */
	__atomic_store_n(&receiver->postcopy, 1, __ATOMIC_RELEASE);
}

static int take_missing(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	struct gr__channel *channel = session->channels[0];
	int rc = 0;

	if (receiver->uffd < 0)
		return gr__session_fail(session, -EPROTO, "a switch that was not agreed on");
	gr__session_step(session, "switch");
	pthread_mutex_lock(&session->lock);
	if (!gr__in_postcopy(receiver))
		begin_postcopy(receiver);
	pthread_mutex_unlock(&session->lock);
	while (!rc && channel->left) {
		struct wire_run run;
		struct gr__moved *moved = NULL;

		rc = gr__channel_take(channel, &run, sizeof(run));
		if (rc < 0)
			return rc;
		run = (struct wire_run){le32toh(run.block), le32toh(run.pages),
					le64toh(run.offset)};
		if (run.block < receiver->blocks.count)
			moved = &receiver->blocks.items[run.block];
		if (!moved || !moved->bits || !run.pages || run.offset % moved->page_size ||
		    run.pages % (moved->page_size / WIRE_PAGE) || run.offset > moved->used ||
		    run.pages > (moved->used - run.offset) / WIRE_PAGE)
			return gr__session_fail(
				session, -EBADMSG, "%u pages at %#llx of block %u are missing",
				run.pages, (unsigned long long)run.offset, run.block);
		pthread_mutex_lock(&session->lock);
		receiver->missing += WIRE_PAGE * gr__bits_put(moved->bits, run.offset / WIRE_PAGE,
							      run.pages, true);
		if (moved->torn) /* it comes again */
			receiver->torn -=
				gr__bits_put(moved->torn, run.offset / WIRE_PAGE, run.pages, false);
		pthread_mutex_unlock(&session->lock);
	}
	return rc < 0 ? rc : gr__channel_end(channel);
}

/* SWITCH: this record and those that belong to it; then the guest runs, and pages come. */
static int switch_over(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	struct gr__channel *channel = session->channels[0];
	int rc = take_missing(receiver);

	while (!rc && channel->head.flags & WIRE_MORE) {
		rc = gr__channel_head(channel);
		if (!rc && channel->head.type != WIRE_SWITCH)
			rc = gr__session_fail(session, -EPROTO, "record %u instead",
					      channel->head.type);
		if (!rc)
			rc = take_missing(receiver);
	}
	if (!rc)
		rc = gr__place_whole(receiver);
	if (!rc)
		rc = gr__fault_begin(receiver);
	if (!rc)
		rc = take_over(receiver);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&session->lock);
	session->stats.postcopy = 1;
	session->stats.bytes_left = receiver->missing;
	pthread_mutex_unlock(&session->lock);
	gr__session_step(session, "postcopy");
	return 0;
}

static int finish_postcopy(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	uint64_t missing;
	int rc;

	pthread_mutex_lock(&session->lock);
	rc = wait_all(receiver, &receiver->ended, session->count);
	missing = receiver->missing;
	pthread_mutex_unlock(&session->lock);
	if (!rc && missing)
		rc = gr__session_fail(session, -EPROTO, "%llu bytes did not come",
				      (unsigned long long)missing);
	if (rc < 0)
		return rc;
	gr__fault_end(receiver, false);
	gr__channel_put_one(session->channels[0], WIRE_DONE, 0, NULL, 0);
	return 0;
}

/* ------------------------------------------------------------------------------------- records */

/* One record. 1: it was the channel's last. */
static int take_record(struct gr__reader *reader)
{
	struct gr__receiver *receiver = reader->receiver;
	unsigned type;
	int rc = gr__channel_head(reader->channel);

	if (rc < 0)
		return rc;
	type = reader->channel->head.type;
	if (type == WIRE_PAGES)
		return gr__place(reader);
	if (type == WIRE_ROUND)
		return end_round(reader);
	if (type == WIRE_END) {
		rc = end_channel(reader);
		return rc < 0 ? rc : 1;
	}
	if (!reader->channel->number && type == WIRE_STATE)
		return take_state(receiver);
	if (!reader->channel->number && type == WIRE_SWITCH && !gr__in_postcopy(receiver))
		return switch_over(receiver);
	return gr__session_fail(&receiver->session, -EPROTO, "channel %u: record %u here",
				reader->channel->number, type);
}

static void read_channel(void *arg)
{
	struct gr__reader *reader = arg;

	while (!take_record(reader))
		;
}

#define PROGRESS_NS 50000000

static int read_first(struct gr__receiver *receiver)
{
	uint64_t told = gr__now_ns();
	int rc;

	gr__session_step(&receiver->session, "round");
	while (!(rc = take_record(receiver->readers[0]))) {
		if (gr__now_ns() - told < PROGRESS_NS)
			continue;
		told = gr__now_ns();
		gr__session_progress(&receiver->session);
	}
	if (rc < 0)
		return rc;
	return gr__in_postcopy(receiver) ? finish_postcopy(receiver) : finish_precopy(receiver);
}

static int start_readers(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	unsigned i;
	int rc;

	for (i = 0; i < session->count; i++) {
		struct gr__reader *reader = gr__alloc(sizeof(*reader));

		if (!reader)
			return gr__session_fail(session, -ENOMEM, "no memory");
		receiver->readers[i] = reader;
		reader->receiver = receiver;
		reader->channel = session->channels[i];
		if (!i)
			continue;
		rc = gr__thread_start(read_channel, reader, "gr-migrate", &reader->thread);
		if (rc < 0)
			return gr__session_fail(session, rc, "no thread: %s", strerrordesc_np(-rc));
		reader->running = true;
	}
	return 0;
}

/* Threads have ended, or have nothing more to do. */
static void end_readers(struct gr__receiver *receiver)
{
	unsigned i;

	for (i = 0; i < GR_MIGRATE_CHANNELS_MAX; i++) {
		if (receiver->readers[i] && receiver->readers[i]->running)
			gr__thread_join(receiver->readers[i]->thread);
		gr__reader_free(receiver->readers[i]);
	}
}

static int receive(struct gr__receiver *receiver)
{
	int rc = gr__blocks_collect(&receiver->session, &receiver->blocks);

	if (!rc)
		rc = gr__blocks_judge(&receiver->session, &receiver->blocks);
	if (!rc)
		rc = agree(receiver);
	if (!rc)
		rc = start_readers(receiver);
	if (!rc)
		rc = read_first(receiver);
	return rc;
}

int gr_migrate_receive(struct gr_ram *ram, const struct gr_migrate_opts *opts,
		       struct gr_migrate_stats *stats)
{
	struct gr__receiver *receiver;
	struct gr__session *session;
	bool guest_was_here;
	int rc = gr__ram_check(ram, "migrate: receive");

	if (stats)
		*stats = (struct gr_migrate_stats){.guest = GR_GUEST_THERE};
	if (!rc)
		rc = gr__may_wait("migrate: receive");
	if (rc < 0)
		return rc;
	receiver = gr__alloc(sizeof(*receiver));
	if (!receiver)
		return gr__fail(-ENOMEM, "migrate: receive: no memory");
	receiver->uffd = receiver->over_fd = -1;
	session = &receiver->session;
	rc = gr__session_open(session, ram, opts, "migrate: receive");
	session->stats.guest = GR_GUEST_THERE;
	if (!rc)
		rc = receive(receiver);
	if (rc < 0)
		gr__session_adopt(session, rc);
	guest_was_here = session->stats.guest == GR_GUEST_HERE;
	if (rc < 0 && guest_was_here) {
		session->stats.guest = GR_GUEST_LOST;
		gr__fault_end(receiver, true);
	} else {
		gr__fault_end(receiver, false);
	}
	end_readers(receiver);
	if (rc < 0 && session->count && !receiver->one_way && !guest_was_here)
		gr__session_last_words(session);
	/* otherwise the answer to the sender may have failed; the guest is here all the same */
	if (rc < 0)
		rc = gr__session_say(session);
	if (stats)
		gr__session_stats(session, stats);
	free_states(receiver);
	gr__blocks_free(&receiver->blocks);
	gr__session_close(session);
	gr__free(receiver);
	return rc;
}
