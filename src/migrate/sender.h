/* SPDX-License-Identifier: MIT */
/*
 * Pages out of guest memory into the channels: one thread for each channel, who take pieces of the
 * same work until there is no more.
 *
 *   work: in a round      the harvests of all blocks, one after the other
 *         in postcopy     what was asked for, then what stands behind that, then the rest;
 *                         gr__moved.bits: 1: not sent yet, to be taken by one
 *
 * Pages go from guest memory to the kernel as they are, with no copy of ours between: while the
 * guest runs it may write to one after its hash was taken, and the receiver finds the hash wrong.
 * Such a page is dirty again, and comes again before the end; the receiver sees to that (place.c).
 *
 * Threads: session->lock guards the work. The caller's thread gives it out and waits.
 */
#ifndef GR__MIGRATE_SENDER_H
#define GR__MIGRATE_SENDER_H

#include "migrate/blocks.h"
#include "os/pages.h"
#include <guestram/dirty.h>
#include <zstd.h>

/* Memory of one record that goes out: fits a processor's second cache, and so do two. */
#define GR__UNIT (UINT64_C(512) << 10)
#define GR__UNIT_PAGES (GR__UNIT / WIRE_PAGE)
/* Of what nobody has asked for, in postcopy: what was asked for waits no longer than that takes. */
#define GR__PUSH_UNIT (UINT64_C(64) << 10)
#define GR__REQUESTS 4096
#define GR__PIECES_BEFORE 4 /* in front of the memory of a record */

enum gr__job { GR__JOB_NONE, GR__JOB_ROUND, GR__JOB_PUSH, GR__JOB_END, GR__JOB_QUIT };

struct gr__migrate_run {
	uint64_t offset, length;
};

struct gr__batch {
	unsigned block;
	unsigned count;
	bool hole; /* one run, of nothing but zeroes, not to be looked at */
	struct gr__migrate_run runs[GR__UNIT_PAGES];
};

struct gr__sender;

struct gr__worker {
	struct gr__sender *sender;
	struct gr__channel *channel;
	pthread_t thread;
	bool running;
	bool urgent;   /* somebody waits for what is sent: no limit to the rate */
	unsigned done; /* wr: lock: number of the job it has finished */
	struct gr__batch batch;
	struct wire_extent extents[GR__UNIT_PAGES + 1];
	unsigned extent_count;
	uint64_t hashes[WIRE_COPIES_MAX];
	unsigned hash_count;
	/* the record's head, what PAGES begins with, extents, hashes, memory of each WIRE_COPY */
	struct iovec pieces[GR__PIECES_BEFORE + GR__UNIT_PAGES + 1];
	unsigned piece_count;
	uint64_t filled; /* bytes of the pieces of memory */
	char *buffer;	 /* they stand in here, a copy that nobody writes to; or NULL */
	char *packed;	 /* or NULL */
	size_t packed_room;
	ZSTD_CCtx *zstd;
	uint64_t copied, zero; /* of this channel */
};

struct gr__sender {
	struct gr__session session;
	struct gr__blocks blocks;
	struct gr_dirty *client;
	uint64_t unit; /* const: bytes of a record's memory at most */

	enum gr__job job;		/* wr: lock */
	unsigned job_number;		/* wr: lock */
	unsigned at_block;		/* wr: lock: the work's cursor, in rounds */
	struct gr__migrate_run rest;	/* wr: lock: of its run */
	uint64_t rest_until;		/* wr: lock: where what is known of holes ends */
	bool rest_hole;			/* wr: lock: [rest.offset, rest_until) has only zeroes */
	uint64_t taken;			/* wr: lock: bytes given out in this round */
	uint64_t push_block, push_page; /* wr: lock: the cursor in postcopy */
	uint64_t left;			/* wr: lock: bytes whose bit is set */
	struct wire_run requests[GR__REQUESTS]; /* wr: lock, a ring; in our order of bytes */
	unsigned request_first, request_count;	/* wr: lock */

	struct gr_harvest **harvests; /* of the round; the caller's thread's between jobs */
	struct gr__pages *pages;      /* of each block, likewise; lock held in rounds */
	bool *has_pages;
	/* lengths that ROUND tells on channel 0; const while a job runs */
	struct wire_length *lengths;
	unsigned length_count;
	struct gr__worker *workers[GR_MIGRATE_CHANNELS_MAX];
};

/* Workers, buffers; 0 or -errno, said. */
int gr__sender_start(struct gr__sender *sender);
/* All work is over, or the session has failed: joins them. */
void gr__sender_stop(struct gr__sender *sender);

/* Have all do a job; waits for it with calls of progress. 0 or a failure. */
int gr__sender_begin(struct gr__sender *sender, enum gr__job job);
bool gr__sender_busy(struct gr__sender *sender);
int gr__sender_run(struct gr__sender *sender, enum gr__job job);

#endif
