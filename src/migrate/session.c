/* SPDX-License-Identifier: MIT */
/* Beginning, failing and ending; see session.h. */
#include "migrate/session.h"
#include "base/error.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/hooks.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DOWNTIME_MS 300
#define ROUNDS 30
#define TIMEOUT_MS 30000
#define STATE_BYTES (UINT64_C(64) << 20)
/* What may go at once under a rate limit: so much of a second. */
#define BURST_NS 20000000

#define KNOWN_FLAGS (GR_MIGRATE_ONE_WAY | GR_MIGRATE_POSTCOPY | GR_MIGRATE_SHARED_IN_PLACE)

static int check_opts(const struct gr_migrate_opts *opts, const char *who)
{
	static const uint64_t zero[sizeof(opts->reserved) / sizeof(opts->reserved[0])];
	unsigned i;

	if (!opts || !opts->fds || !opts->fd_count || opts->fd_count > GR_MIGRATE_CHANNELS_MAX)
		return gr__fail(-EINVAL, "%s: %u channels; there can be 1 to %u", who,
				opts ? opts->fd_count : 0, GR_MIGRATE_CHANNELS_MAX);
	if (opts->flags & ~KNOWN_FLAGS || memcmp(opts->reserved, zero, sizeof(zero)) != 0)
		return gr__fail(-EINVAL, "%s: unknown flags %#x, or reserved fields not zero", who,
				opts->flags & ~KNOWN_FLAGS);
	if (opts->flags & GR_MIGRATE_ONE_WAY && opts->flags & GR_MIGRATE_POSTCOPY)
		return gr__fail(-EINVAL, "%s: postcopy needs answers", who);
	if (opts->zstd_level > 19)
		return gr__fail(-EINVAL, "%s: zstd level %u is over 19", who, opts->zstd_level);
	for (i = 0; i < opts->fd_count; i++)
		if (opts->fds[i] < 0)
			return gr__fail(-EINVAL, "%s: channel %u has descriptor %d", who, i,
					opts->fds[i]);
	return 0;
}

/* Only where the kernel is known to look at it, and where it can be set back. */
static void find_low_water(struct gr__channel *channel)
{
	int protocol = 0, low = 0;
	socklen_t length = sizeof(int);

	if (!getsockopt(channel->fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) &&
	    protocol == IPPROTO_TCP &&
	    !getsockopt(channel->fd, SOL_SOCKET, SO_RCVLOWAT, &low, &length))
		channel->low_before = channel->low_now = low;
}

static int open_channel(struct gr__session *session, unsigned number)
{
	struct gr__channel *channel = gr__alloc_aligned(64, sizeof(*channel));
	int flags;

	if (!channel)
		return gr__fail(-ENOMEM, "%s: no memory", session->who);
	pthread_mutex_init(&channel->out_lock, NULL);
	session->channels[number] = channel;
	channel->session = session;
	channel->number = number;
	channel->fd = session->opts.fds[number];
	channel->status_flags = -1;
	flags = fcntl(channel->fd, F_GETFL);
	if (flags < 0 || fcntl(channel->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return gr__fail(-errno, "%s: channel %u: descriptor %d: %s", session->who, number,
				channel->fd, strerrordesc_np(errno));
	channel->status_flags = flags;
	find_low_water(channel);
	return 0;
}

/* Writing to a pipe that nobody reads raises a signal; it must not end the program. */
static void hold_sigpipe(struct gr__session *session)
{
	sigset_t pipe_alone, pending;

	sigpending(&pending);
	session->pipe_was_pending = sigismember(&pending, SIGPIPE) == 1;
	sigemptyset(&pipe_alone);
	sigaddset(&pipe_alone, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_alone, &session->mask);
}

static void let_sigpipe(struct gr__session *session)
{
	const struct timespec now = {0, 0};
	sigset_t pipe_alone;

	sigemptyset(&pipe_alone);
	sigaddset(&pipe_alone, SIGPIPE);
	if (!session->pipe_was_pending)
		while (sigtimedwait(&pipe_alone, NULL, &now) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &session->mask, NULL);
}

int gr__session_open(struct gr__session *session, struct gr_ram *ram,
		     const struct gr_migrate_opts *opts, const char *who)
{
	unsigned i;
	int rc;

	memset(session, 0, sizeof(*session));
	session->stop_fd = -1;
	session->who = who;
	session->ram = ram;
	session->step = "begin";
	session->begin_ns = gr__now_ns();
	pthread_mutex_init(&session->lock, NULL);
	pthread_cond_init(&session->change, NULL);
	hold_sigpipe(session);
	rc = check_opts(opts, who);
	if (rc < 0)
		return rc;
	session->opts = *opts;
	if (opts->ops)
		session->ops = *opts->ops;
	if (!opts->max_downtime_ms)
		session->opts.max_downtime_ms = DOWNTIME_MS;
	if (!opts->max_rounds)
		session->opts.max_rounds = ROUNDS;
	if (!opts->timeout_ms)
		session->opts.timeout_ms = TIMEOUT_MS;
	if (!opts->max_state)
		session->opts.max_state = STATE_BYTES;
	session->stop_fd = gr__event_open();
	if (session->stop_fd < 0)
		return gr__fail(session->stop_fd, "%s: eventfd: %s", who,
				strerrordesc_np(-session->stop_fd));
	for (i = 0; i < opts->fd_count; i++) {
		rc = open_channel(session, i);
		if (rc < 0)
			return rc;
		session->count = i + 1;
	}
	return 0;
}

void gr__session_close(struct gr__session *session)
{
	unsigned i;

	for (i = 0; i < GR_MIGRATE_CHANNELS_MAX; i++) {
		struct gr__channel *channel = session->channels[i];

		if (!channel)
			continue;
		gr__channel_low_water(channel, 0);
		if (session->failed)
			shutdown(channel->fd, SHUT_RDWR); /* no socket: nothing happens */
		if (channel->status_flags >= 0)
			fcntl(channel->fd, F_SETFL, channel->status_flags);
		pthread_mutex_destroy(&channel->out_lock);
		gr__free(channel);
	}
	gr__fd_close(session->stop_fd);
	let_sigpipe(session);
	pthread_cond_destroy(&session->change);
	pthread_mutex_destroy(&session->lock);
}

int gr__session_fail(struct gr__session *session, int rc, const char *format, ...)
{
	va_list args;
	size_t used;

	pthread_mutex_lock(&session->lock);
	if (!session->failed) {
		used = (size_t)snprintf(session->why, sizeof(session->why), "%s: %s", session->who,
					__atomic_load_n(&session->step, __ATOMIC_RELAXED));
		if (__atomic_load_n(&session->round, __ATOMIC_RELAXED))
			used += (size_t)snprintf(session->why + used, sizeof(session->why) - used,
						 " %llu",
						 (unsigned long long)__atomic_load_n(
							 &session->round, __ATOMIC_RELAXED));
		used += (size_t)snprintf(session->why + used, sizeof(session->why) - used, ": ");
		va_start(args, format);
		vsnprintf(session->why + used, sizeof(session->why) - used, format, args);
		va_end(args);
		/* relaxed: the sentence is read under the lock */
		__atomic_store_n(&session->failed, rc, __ATOMIC_RELAXED);
		gr__event_set(session->stop_fd);
		pthread_cond_broadcast(&session->change);
	}
	pthread_mutex_unlock(&session->lock);
	return rc;
}

void gr__session_adopt(struct gr__session *session, int rc)
{
	pthread_mutex_lock(&session->lock);
	if (!session->failed) {
		snprintf(session->why, sizeof(session->why), "%s", gr_last_error());
		__atomic_store_n(&session->failed, rc, __ATOMIC_RELAXED);
		if (session->stop_fd >= 0)
			gr__event_set(session->stop_fd);
	}
	pthread_mutex_unlock(&session->lock);
}

int gr__session_failed(const struct gr__session *session)
{
	return __atomic_load_n(&session->failed, __ATOMIC_RELAXED);
}

int gr__session_say(struct gr__session *session)
{
	pthread_mutex_lock(&session->lock);
	gr__say("%s", session->why);
	pthread_mutex_unlock(&session->lock);
	return session->failed;
}

void gr__session_step(struct gr__session *session, const char *step)
{
	__atomic_store_n(&session->step, step, __ATOMIC_RELAXED);
}

int gr__session_limit(struct gr__session *session, uint64_t bytes)
{
	uint64_t rate = session->opts.max_bytes_per_second, now, until;
	struct pollfd stop = {.fd = session->stop_fd, .events = POLLIN};

	if (!rate)
		return gr__session_failed(session);
	pthread_mutex_lock(&session->lock);
	now = gr__now_ns();
	if (session->limit_ns + BURST_NS < now)
		session->limit_ns = now - BURST_NS;
	session->limit_ns += (uint64_t)((double)bytes * 1e9 / (double)rate);
	until = session->limit_ns;
	pthread_mutex_unlock(&session->lock);
	while (now < until && !gr__session_failed(session)) {
		struct timespec wait = {.tv_sec = (time_t)((until - now) / 1000000000),
					.tv_nsec = (long)((until - now) % 1000000000)};

		ppoll(&stop, 1, &wait, NULL);
		now = gr__now_ns();
	}
	return gr__session_failed(session);
}

void gr__session_stats(struct gr__session *session, struct gr_migrate_stats *stats)
{
	unsigned i;

	pthread_mutex_lock(&session->lock);
	*stats = session->stats;
	pthread_mutex_unlock(&session->lock);
	stats->total_us = (gr__now_ns() - session->begin_ns) / 1000;
	stats->bytes_wire = 0;
	for (i = 0; i < session->count; i++) {
		struct gr__channel *channel = session->channels[i];

		stats->bytes_wire += __atomic_load_n(&channel->in.bytes, __ATOMIC_RELAXED) +
				     __atomic_load_n(&channel->out.bytes, __ATOMIC_RELAXED);
	}
}

int gr__session_progress(struct gr__session *session)
{
	struct gr_migrate_stats stats;

	if (gr__session_failed(session) || !session->ops.progress)
		return gr__session_failed(session);
	gr__session_stats(session, &stats);
	if (session->ops.progress(session->opts.context, &stats) && !session->decided)
		gr__session_fail(session, -ECANCELED, "cancelled");
	return gr__session_failed(session);
}

#define LAST_WORDS_MS 500

void gr__session_last_words(struct gr__session *session)
{
	struct gr__channel *channel = session->channels[0];
	char why[sizeof(session->why)];
	int failed = session->failed;
	struct pollfd fd = {.fd = channel->fd, .events = POLLIN};
	uint64_t begin = gr__now_ns();
	size_t length;

	memcpy(why, session->why, sizeof(why));
	length = strlen(why);
	session->failed = 0;
	gr__channel_low_water(channel, 0);
	session->opts.timeout_ms = LAST_WORDS_MS;
	gr__event_clear(session->stop_fd);
	length = length < WIRE_TEXT_MAX ? length : WIRE_TEXT_MAX;
	if (!gr__channel_put_one(channel, WIRE_FAILED, 0, why, length)) {
		/* bytes that nobody reads would take the words with them when the socket closes */
		while ((gr__now_ns() - begin) / 1000000 < LAST_WORDS_MS &&
		       poll(&fd, 1, LAST_WORDS_MS) > 0 &&
		       read(channel->fd, channel->front, sizeof(channel->front)) > 0)
			;
	}
	/* that this was heard does not matter: the first failure is the one that is told */
	memcpy(session->why, why, sizeof(why));
	session->failed = failed;
}
