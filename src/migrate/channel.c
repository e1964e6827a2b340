/* SPDX-License-Identifier: MIT */
/*
 * Records through a descriptor. Threads as in session.h; the functions that read belong to one
 * thread, those that write take the channel's out_lock.
 *
 * Nothing that a head says is used before it was compared with the limits of wire.h; a payload's
 * bytes are taken piece by piece, never more than the head announced, and its hash is known when
 * all were taken. Pages may stand in guest memory by then: a receiver whose stream is damaged has
 * no guest, so it does not matter what its memory holds.
 */
#include "base/range.h"
#include "migrate/session.h"
#include "os/hooks.h"
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECES_MAX 1024 /* of one readv() or writev(): IOV_MAX */

static int fail(struct gr__channel *channel, int rc, const char *what)
{
	return gr__session_fail(channel->session, rc, "channel %u: %s: %s", channel->number, what,
				strerrordesc_np(-rc));
}

/* What went through all channels so far. */
static uint64_t moved_by_all(const struct gr__session *session)
{
	uint64_t sum = 0;
	unsigned i;

	for (i = 0; i < session->count; i++)
		sum += __atomic_load_n(&session->channels[i]->in.bytes, __ATOMIC_RELAXED) +
		       __atomic_load_n(&session->channels[i]->out.bytes, __ATOMIC_RELAXED);
	return sum;
}

/* A wait for pages ends when so much of them is there, so that few waits are enough. */
#define LOW_WATER (256 * 1024)
#define LOW_WATER_FROM (16 * 1024)

void gr__channel_low_water(struct gr__channel *channel, uint64_t bytes)
{
	int low;

	if (!channel->low_before)
		return;
	low = bytes < LOW_WATER_FROM ? channel->low_before
	      : bytes < LOW_WATER    ? (int)bytes
				     : LOW_WATER;
	if (low != channel->low_now &&
	    !setsockopt(channel->fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof(low)))
		channel->low_now = low;
}

/* Until the descriptor is ready, or everybody is to leave. One channel may be idle for long. */
static int wait_for(struct gr__channel *channel, short events)
{
	struct pollfd fds[2] = {{.fd = channel->fd, .events = events},
				{.fd = channel->session->stop_fd, .events = POLLIN}};
	uint64_t before, after = moved_by_all(channel->session);
	int ready, error = GR_FAULT("migrate.poll");

	do {
		before = after;
		ready = error ? -1 : poll(fds, 2, (int)channel->session->opts.timeout_ms);
		if (!ready) { /* less than was waited for is something too */
			gr__channel_low_water(channel, 0);
			ready = poll(fds, 2, 0);
		}
		after = moved_by_all(channel->session);
	} while (!error && ((ready < 0 && errno == EINTR) || (!ready && after != before)));
	if (ready < 0)
		return fail(channel, error ? -error : -errno, "poll");
	if (!ready)
		return gr__session_fail(channel->session, -ETIMEDOUT,
					"channel %u: nothing moved for %u ms", channel->number,
					channel->session->opts.timeout_ms);
	return gr__session_failed(channel->session);
}

/* How much of what is read is sure to come: nothing of what is read ahead. */
static uint64_t wanted(const struct gr__channel *channel, const struct iovec *pieces, int count)
{
	uint64_t sum = 0;
	int i;

	for (i = 0; i < count && sum < LOW_WATER; i++)
		sum += pieces[i].iov_base == channel->front ? 0 : pieces[i].iov_len;
	return sum;
}

/* One step of a transfer: bytes moved, or a failure. Waits. */
static ssize_t transfer(struct gr__channel *channel, const struct iovec *pieces, int count,
			bool out)
{
	for (;;) {
		int error = GR_FAULT(out ? "migrate.write" : "migrate.read");
		ssize_t bytes = -1;
		int rc;

		if (!error) {
			bytes = out ? writev(channel->fd, pieces, count)
				    : readv(channel->fd, pieces, count);
			error = bytes < 0 ? errno : 0;
		}
		if (bytes > 0) {
			struct gr__direction *way = out ? &channel->out : &channel->in;

			__atomic_fetch_add(&way->bytes, (uint64_t)bytes, __ATOMIC_RELAXED);
			return bytes;
		}
		if (!error)
			return gr__session_fail(channel->session, -EPIPE,
						"channel %u: the other side closed it",
						channel->number);
		if (error == EINTR)
			continue;
		if (error != EAGAIN)
			return fail(channel, -error, out ? "write" : "read");
		if (!out)
			gr__channel_low_water(channel, wanted(channel, pieces, count));
		rc = wait_for(channel, out ? POLLOUT : POLLIN);
		if (rc < 0)
			return rc;
	}
}

/* @bytes of what the pieces name are done. */
static void advance(struct iovec **pieces, int *count, size_t bytes)
{
	while (*count && bytes >= (*pieces)->iov_len) {
		bytes -= (*pieces)->iov_len;
		(*pieces)++;
		(*count)--;
	}
	if (bytes && *count) {
		(*pieces)->iov_base = (char *)(*pieces)->iov_base + bytes;
		(*pieces)->iov_len -= bytes;
	}
}

/* Changes @pieces. */
static int transfer_all(struct gr__channel *channel, struct iovec *pieces, int count, bool out)
{
	advance(&pieces, &count, 0); /* empty ones */
	while (count) {
		ssize_t bytes = gr__session_failed(channel->session);

		if (!bytes)
			bytes = transfer(channel, pieces, count < PIECES_MAX ? count : PIECES_MAX,
					 out);
		if (bytes < 0)
			return (int)bytes;
		advance(&pieces, &count, (size_t)bytes);
	}
	return 0;
}

/* ------------------------------------------------------------------------------------ writing */

static uint64_t seed_of(const struct wire_record *head, uint64_t sequence)
{
	uint64_t first;

	memcpy(&first, head, sizeof(first));
	return le64toh(first) + sequence;
}

static void note(struct gr__direction *way, uint64_t hash)
{
	way->digest = (way->digest << 1 | way->digest >> 63) ^ hash;
	way->sequence++;
}

int gr__channel_put_long(struct gr__channel *channel, unsigned type, unsigned flags,
			 struct iovec *pieces, int count, int hashed)
{
	struct wire_record head = {.type = (uint8_t)type, .flags = (uint8_t)flags};
	uint64_t length = 0, hash;
	int i, rc;

	pthread_mutex_lock(&channel->out_lock);
	for (i = 1; i < count; i++)
		length += pieces[i].iov_len;
	head.length = htole32((uint32_t)length);
	head.sequence = htole64(channel->out.sequence);
	XXH3_64bits_reset_withSeed(&channel->out.hash, seed_of(&head, channel->out.sequence));
	for (i = 1; i <= hashed; i++)
		if (pieces[i].iov_len)
			XXH3_64bits_update(&channel->out.hash, pieces[i].iov_base,
					   pieces[i].iov_len);
	hash = XXH3_64bits_digest(&channel->out.hash);
	head.hash = htole64(hash);
	pieces[0] = (struct iovec){&head, sizeof(head)};
	rc = transfer_all(channel, pieces, count, true);
	pieces[0] = (struct iovec){0};
	if (!rc)
		note(&channel->out, hash);
	pthread_mutex_unlock(&channel->out_lock);
	return rc;
}

int gr__channel_put(struct gr__channel *channel, unsigned type, unsigned flags,
		    const struct iovec *pieces, int count)
{
	struct iovec all[4] = {{0}};

	memcpy(all + 1, pieces, (size_t)count * sizeof(*pieces));
	return gr__channel_put_long(channel, type, flags, all, count + 1, count);
}

int gr__channel_put_one(struct gr__channel *channel, unsigned type, unsigned flags,
			const void *payload, uint64_t length)
{
	const struct iovec piece = {(void *)payload, length};

	return gr__channel_put(channel, type, flags, &piece, 1);
}

int gr__channel_put_raw(struct gr__channel *channel, const void *bytes, uint64_t length)
{
	struct iovec piece = {(void *)bytes, length};

	return transfer_all(channel, &piece, 1, true);
}

/* ------------------------------------------------------------------------------------ reading */

/* Small pieces come from what was read ahead; large ones are read where they belong. */
static int read_pieces(struct gr__channel *channel, struct iovec *pieces, int count)
{
	while (count) {
		uint64_t there = channel->front_end - channel->front_at;
		struct iovec front = {channel->front, sizeof(channel->front)};
		ssize_t bytes = 0;

		if (!pieces->iov_len) {
			pieces++;
			count--;
			continue;
		}
		if (!there && (pieces->iov_len >= sizeof(channel->front) / 2 || count > 1))
			return transfer_all(channel, pieces, count, false);
		if (!there) {
			bytes = gr__session_failed(channel->session);
			if (!bytes)
				bytes = transfer(channel, &front, 1, false);
			if (bytes < 0)
				return (int)bytes;
			channel->front_at = 0;
			channel->front_end = there = (uint64_t)bytes;
		}
		if (there > pieces->iov_len)
			there = pieces->iov_len;
		memcpy(pieces->iov_base, channel->front + channel->front_at, there);
		channel->front_at += there;
		advance(&pieces, &count, there);
	}
	return 0;
}

int gr__channel_get_raw(struct gr__channel *channel, void *bytes, uint64_t length)
{
	struct iovec piece = {bytes, length};

	return read_pieces(channel, &piece, 1);
}

static int damaged(struct gr__channel *channel, const char *what)
{
	return gr__session_fail(channel->session, -EBADMSG, "channel %u: record %llu, type %u: %s",
				channel->number, (unsigned long long)channel->in.sequence,
				channel->head.type, what);
}

int gr__channel_head(struct gr__channel *channel)
{
	int rc = gr__channel_get_raw(channel, &channel->head, sizeof(channel->head));

	if (rc < 0)
		return rc;
	channel->left = le32toh(channel->head.length);
	if (channel->left > WIRE_PAYLOAD_MAX)
		return damaged(channel, "it is too long");
	if (le64toh(channel->head.sequence) != channel->in.sequence)
		return damaged(channel, "it is out of order");
	if (channel->head.zero || channel->head.flags & ~(WIRE_MORE | WIRE_ZSTD))
		return damaged(channel, "unknown flags");
	XXH3_64bits_reset_withSeed(&channel->in.hash,
				   seed_of(&channel->head, channel->in.sequence));
	return 0;
}

int gr__channel_take_data(struct gr__channel *channel, struct iovec *pieces, int count)
{
	uint64_t length = 0;
	int i, rc;

	for (i = 0; i < count; i++)
		length += pieces[i].iov_len;
	if (length > channel->left)
		return damaged(channel, "it is too short");
	rc = read_pieces(channel, pieces, count);
	if (rc < 0)
		return rc;
	channel->left -= length;
	return 0;
}

int gr__channel_take(struct gr__channel *channel, void *to, uint64_t length)
{
	struct iovec piece = {to, length};
	int rc = gr__channel_take_data(channel, &piece, 1);

	if (!rc && length)
		XXH3_64bits_update(&channel->in.hash, to, length);
	return rc;
}

int gr__channel_end(struct gr__channel *channel)
{
	uint64_t hash = XXH3_64bits_digest(&channel->in.hash);

	if (channel->left)
		return damaged(channel, "it is too long");
	if (hash != le64toh(channel->head.hash))
		return damaged(channel, "its hash is wrong");
	note(&channel->in, hash);
	return 0;
}

bool gr__channel_readable(struct gr__channel *channel)
{
	struct pollfd fd = {.fd = channel->fd, .events = POLLIN};

	return channel->front_at < channel->front_end || poll(&fd, 1, 0) > 0;
}

int gr__channel_text(struct gr__channel *channel, char text[WIRE_TEXT_MAX + 1])
{
	uint64_t length = channel->left, i;
	int rc;

	if (length > WIRE_TEXT_MAX)
		return damaged(channel, "it is too long");
	rc = gr__channel_take(channel, text, length);
	if (!rc)
		rc = gr__channel_end(channel);
	if (rc < 0)
		return rc;
	for (i = 0; i < length; i++)
		if (text[i] < ' ' || text[i] > '~')
			text[i] = '?';
	text[length] = 0;
	return 0;
}
