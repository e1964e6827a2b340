/* SPDX-License-Identifier: MIT */
/*
 * Pages out of the channels into guest memory: one thread for each channel but the first, which the
 * caller's thread reads.
 *
 * In precopy nobody but these threads touches the memory, and a page is in one channel at a time:
 * between two rounds all channels wait for each other, so that the newer content of a page comes
 * last. In postcopy the guest runs: pages come whole, by userfaultfd, and each once.
 *
 *   gr__moved.bits   precopy: 1: it was written, so that zeroes must be written too (of memory that
 *                    was all zero at first)
 *                    postcopy: 1: missing. Cleared *after* the page is there: whoever finds it
 *                    clear may take an untouched page for zero
 *
 * Threads: bits: wr: session->lock.
 */
#ifndef GR__MIGRATE_RECEIVER_H
#define GR__MIGRATE_RECEIVER_H

#include "migrate/blocks.h"
#include <zstd.h>

struct gr__receiver;

struct gr__reader {
	struct gr__receiver *receiver;
	struct gr__channel *channel;
	pthread_t thread;
	bool running;
	struct wire_pages head;
	struct wire_extent extents[WIRE_EXTENTS_MAX]; /* checked, in our order of bytes */
	uint64_t hashes[WIRE_COPIES_MAX];
	uint64_t torn[WIRE_COPIES_MAX / 64]; /* bits: hashes that are wrong */
	struct iovec pieces[WIRE_EXTENTS_MAX];
	char *memory; /* WIRE_DATA_MAX, on first use */
	char *packed;
	ZSTD_DCtx *zstd;
	uint64_t copied, zero;
};

struct gr__state {
	struct gr__state *next;
	char name[256];
	uint64_t length, total;
	char *bytes;
};

struct gr__receiver {
	struct gr__session session;
	struct gr__blocks blocks;
	bool one_way;	     /* const */
	bool wants_postcopy; /* const: the sender may switch */
	struct gr__reader *readers[GR_MIGRATE_CHANNELS_MAX];

	unsigned arrived;     /* wr: lock: channels at the end of the round */
	unsigned ended;	      /* wr: lock: channels that have ended */
	uint64_t rounds_over; /* wr: lock */
	int postcopy;	      /* atomic: set before READY */
	uint64_t missing;     /* wr: lock: bytes */
	uint64_t torn;	      /* wr: lock: pages */

	struct gr__state *states, *last_state; /* the caller's thread's */
	uint64_t state_bytes;

	/* postcopy */
	int uffd;      /* or -1 */
	int over_fd;   /* event: the thread of faults leaves */
	bool faulting; /* it runs */
	pthread_t faults;
	char *zeroes; /* of a huge page, or NULL */
};

static inline bool gr__in_postcopy(const struct gr__receiver *receiver)
{
	/* acquire: the bits' meaning; pairs with begin_postcopy() in receive.c */
	return __atomic_load_n(&receiver->postcopy, __ATOMIC_ACQUIRE);
}

/* place.c: the rest of a PAGES record, whose head was read. 0 or a failure. */
int gr__place(struct gr__reader *reader);
/* In precopy, or at the switch: has every page come whole? 0 or a failure. */
int gr__place_whole(struct gr__receiver *receiver);
void gr__reader_free(struct gr__reader *reader);

/* fault.c. Can all blocks be fetched page by page? Says why not, in the RAM's log. */
bool gr__fault_possible(struct gr__receiver *receiver);
/* The bits say what is missing now: take that away and have faults answered. */
int gr__fault_begin(struct gr__receiver *receiver);
/* Pages of the extents of a record that are missing; @memory has those of WIRE_COPY. */
int gr__fault_fill(struct gr__receiver *receiver, const struct gr__reader *reader,
		   const char *memory);
/* All is there, or @lost: what is missing will not come. */
void gr__fault_end(struct gr__receiver *receiver, bool lost);

#endif
