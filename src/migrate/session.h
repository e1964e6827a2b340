/* SPDX-License-Identifier: MIT */
/*
 * One side of a migration: its channels, and what ends all of them at once.
 *
 * The first failure wins: it is kept with its sentence, and an event wakes every thread that waits
 * on a channel. Nobody waits longer than the time-out without a byte being moved.
 *
 * Threads: the caller's and the session's own; each channel has one that reads and one that writes
 * at a time. What several share is marked.
 */
#ifndef GR__MIGRATE_SESSION_H
#define GR__MIGRATE_SESSION_H

#include "migrate/wire.h"
#include "ram/ram.h"
#include <guestram/migrate.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/uio.h>
#define XXH_STATIC_LINKING_ONLY /* the state's size */
#ifdef GR__XXH_DISPATCH
#include <xxh_x86dispatch.h> /* the same functions, by what the processor can */
#else
#include <xxhash.h>
#endif

/* Small, since bytes of pages that were read ahead are copied once more. */
#define GR__CHANNEL_FRONT 2048

struct gr__session;

/* Numbers of one direction; owned by the thread that works in it. */
struct gr__direction {
	XXH3_state_t hash; /* first: aligned */
	uint64_t sequence;
	uint64_t digest;
	uint64_t bytes; /* atomic: on the wire */
};

struct gr__channel {
	struct gr__direction in, out;
	struct gr__session *session; /* const */
	int fd;			     /* const, the caller's */
	unsigned number;	     /* const once the header is known */
	int status_flags;	     /* of fd before, or -1 */
	int low_before, low_now;     /* TCP: SO_RCVLOWAT; else 0, and not used */
	pthread_mutex_t out_lock;    /* around a whole record, where two threads may write */

	struct wire_record head; /* of the record being read */
	uint64_t left;		 /* bytes of its payload that were not taken */
	uint64_t front_at, front_end;
	char front[GR__CHANNEL_FRONT]; /* read ahead */
};

struct gr__session {
	struct gr_ram *ram;
	struct gr_migrate_opts opts; /* const: with defaults in the place of zeroes */
	struct gr_migrate_ops ops;   /* const */
	const char *who;	     /* const: "migrate: send" */
	uint64_t begin_ns;	     /* const */
	int stop_fd;		     /* event: it has failed, all leave */
	const char *step;	     /* atomic: a constant text */
	uint64_t round;		     /* atomic */
	bool decided;		     /* the caller's thread's: it is too late to cancel */

	pthread_mutex_t lock;
	pthread_cond_t change;	       /* with lock */
	int failed;		       /* wr: lock, read atomically: -errno of the first failure */
	char why[480];		       /* wr: lock */
	uint64_t limit_ns;	       /* wr: lock: when the next byte may go */
	struct gr_migrate_stats stats; /* wr: lock */

	sigset_t mask; /* of the calling thread before */
	bool pipe_was_pending;
	unsigned count; /* const */
	struct gr__channel *channels[GR_MIGRATE_CHANNELS_MAX];
};

/* Checks and copies; 0 or -errno, said. Ended by _close(), which takes half-built ones too. */
int gr__session_open(struct gr__session *session, struct gr_ram *ram,
		     const struct gr_migrate_opts *opts, const char *who);
/* Gives descriptors their flags back; shuts sockets down if it has failed. */
void gr__session_close(struct gr__session *session);

/* Note a failure, if it is the first, and wake everybody. Returns @rc. */
__attribute__((format(printf, 3, 4))) int gr__session_fail(struct gr__session *session, int rc,
							   const char *format, ...);
/* A failure that was said already, by gr__fail() of this thread. */
void gr__session_adopt(struct gr__session *session, int rc);
/* 0 or the first failure. */
int gr__session_failed(const struct gr__session *session);
/* Say the first failure's sentence. Returns its -errno. */
int gr__session_say(struct gr__session *session);
void gr__session_step(struct gr__session *session, const char *step);

/* Wait until @bytes more may go by the rate that was asked for. 0, or the failure meanwhile. */
int gr__session_limit(struct gr__session *session, uint64_t bytes);

/* The stats with what is counted elsewhere, for a callback or the end. */
void gr__session_stats(struct gr__session *session, struct gr_migrate_stats *stats);
/* ops->progress; 0, -ECANCELED or an earlier failure. */
int gr__session_progress(struct gr__session *session);

/* Tell the sender why this side has failed, once all other threads have ended. */
void gr__session_last_words(struct gr__session *session);

/* ------------------------------------------------------------------------------------ records */

/* A record of these pieces; 0 or the session's failure. Any thread, one record at a time. */
int gr__channel_put(struct gr__channel *channel, unsigned type, unsigned flags,
		    const struct iovec *pieces, int count);
int gr__channel_put_one(struct gr__channel *channel, unsigned type, unsigned flags,
			const void *payload, uint64_t length);
/*
 * The same, of which only the first @hashed pieces are in the record's hash. pieces[0] is left free
 * for its head; @count has it, @hashed has not. Changes @pieces.
 */
int gr__channel_put_long(struct gr__channel *channel, unsigned type, unsigned flags,
			 struct iovec *pieces, int count, int hashed);
/* Bytes without a record around them: headers. */
int gr__channel_put_raw(struct gr__channel *channel, const void *bytes, uint64_t length);
int gr__channel_get_raw(struct gr__channel *channel, void *bytes, uint64_t length);

/* The next record's head, checked as far as it can be alone. 0 or a failure. */
int gr__channel_head(struct gr__channel *channel);
/* Some of its payload. A payload that has less is damage. */
int gr__channel_take(struct gr__channel *channel, void *to, uint64_t length);
/* Likewise what is not in the record's hash. Changes @pieces. */
int gr__channel_take_data(struct gr__channel *channel, struct iovec *pieces, int count);
/* All of it was taken, and has its hash? */
int gr__channel_end(struct gr__channel *channel);
/* TCP: a wait for something to read ends when @bytes are there, or some of them; 0: as it was. */
void gr__channel_low_water(struct gr__channel *channel, uint64_t bytes);
/* Is there something to be read now? */
bool gr__channel_readable(struct gr__channel *channel);
/* The rest of the payload as a text, shortened, only printable. */
int gr__channel_text(struct gr__channel *channel, char text[WIRE_TEXT_MAX + 1]);

#endif
