/* SPDX-License-Identifier: MIT */
/*
 * One ring and its requests. What split and packed rings have apart stands in layout.h.
 *
 *   guest: ring ──► gr__queue_run() ──► slots ──► ops->handle … gr__queue_complete() ──► done[]
 *                                                           gr__queue_flush() ──► ring, call
 *
 * Threads: all members belong to the queue's worker, save that the server's thread changes set-up
 * through gr__worker_call() (which runs on the worker) and that counters are read by anybody.
 * Ring addresses are the front-end's (uaddr); host pointers are looked up by cursors for each
 * batch, in its read section, so a ring that is unmapped or moved is noticed at the next batch.
 * Invariant: requests in flight and in done[] are together at most num, and so are the descriptors
 * of a packed ring that they took; a slot's holds live until it is completed.
 */
#ifndef GR__VHOST_QUEUE_H
#define GR__VHOST_QUEUE_H

#include "vhost/hold.h"
#include "vhost/inflight.h"
#include "vhost/ring.h"
#include <guestram/vhost.h>

struct gr__worker;

#define GR__QUEUE_BATCH 64
#define GR__QUEUE_FLUSH 8 /* done, and published without waiting for the end of the batch */
#define GR__SLOT_ROOM 16  /* pieces of a request for which no memory is sought */

/* A piece of a request that the device writes: where it is to be marked. The iovecs that the device
 * has may change under its hands. */
struct gr__target {
	char *host;
	uint64_t gpa;
	uint64_t length;
};

/* A request: what the device sees, and what we keep of it. */
struct gr__slot {
	struct gr_vhost_request request;
	struct gr__queue *queue;    /* const */
	struct gr__slot *next;	    /* in free, or in the worker's remote list */
	struct iovec *iov;	    /* pieces: out, then in */
	struct gr__hold **holds;    /* hold_count of them, no neighbours alike */
	struct gr__target *targets; /* target_count of them, the pieces of in as taken */
	unsigned target_count;
	unsigned room; /* of the three arrays */
	unsigned hold_count;
	uint64_t in_length; /* as taken; the device may change its own copy */
	uint64_t written;   /* when completed elsewhere */
	uint16_t head;	    /* split: of the chain; packed: its buffer's id */
	uint16_t count;	    /* packed: descriptors of the ring that it has */
	uint16_t entry;	    /* packed: where it stands in the record of requests in flight */
	bool grown;	    /* the arrays are not the slab's */
	/* atomic: 1 from take to complete; a second complete does nothing. riscv64 swaps words. */
	uint32_t taken;
};

struct gr__done {
	uint32_t length;
	uint16_t id, count, entry; /* as in the slot */
};

struct gr__queue {
	struct gr_vhost *server;   /* const */
	struct gr__worker *worker; /* const */
	unsigned index;		   /* const */

	/* set-up */
	uint32_t num;  /* 0: not told; a power of two if it is split */
	uint32_t base; /* where it goes on when it starts, as SET_VRING_BASE has it */
	bool base_told;
	bool packed;
	struct wire_vring_addr addr;
	uint64_t desc_gpa; /* packed: of its descriptors, for the log */
	bool addr_set;
	bool kick_set;
	bool polled; /* told that no kick comes */
	bool enabled;
	bool event_idx;
	bool indirect;
	int kick, call, err;

	/* state */
	bool runnable; /* all of the above, and not broken */
	bool broken;
	bool fresh;   /* nothing done since it was started */
	bool stalled; /* its ring is not in memory (told once) */
	bool notify_off;
	bool called;	     /* the driver was, or refused to be, since the ring was started */
	uint16_t last_avail; /* packed: below num, and the round that it is in */
	uint16_t used_idx;
	bool avail_wrap, used_wrap;
	uint16_t taken; /* packed: descriptors that we have */
	struct gr_cursor desc_cursor, avail_cursor, used_cursor;
	struct gr_cursor table_cursor; /* indirect tables, guest-physical */
	struct gr__holds holds;
	const char *fault; /* what a chain that was refused had wrong */
	bool lacks_hold;   /* what a chain lacked: a spare hold, or room in its slot */

	/* requests */
	char *slots; /* slot_count of slot_size */
	size_t slot_size;
	unsigned slot_count;
	struct iovec *iov_slab;
	struct gr__hold **hold_slab;
	struct gr__target *target_slab;
	struct gr__slot *free;
	unsigned free_count;
	struct gr__done *done;
	unsigned done_count;

	/* requests that a back-end before us took and did not answer */
	struct gr__inflight inflight;
	struct gr__resubmit *resubmit; /* room for num; [resubmit_at, resubmit_count) are left */
	unsigned resubmit_at, resubmit_count;

	/* counters: written by the worker, read relaxed by anybody */
	uint64_t requests, in_flight, bad_requests, broken_times, kicks, calls;
};

static inline void gr__count(uint64_t *counter, uint64_t add)
{
	/* one writer; relaxed: readers want a number, no order */
	__atomic_store_n(counter, *counter + add, __ATOMIC_RELAXED);
}

void gr__queue_init(struct gr__queue *q, struct gr_vhost *server, struct gr__worker *worker,
		    unsigned index);
/* All descriptors closed and set-up forgotten; nothing is in flight. */
void gr__queue_reset(struct gr__queue *q);
/* Slots for a ring of @num, 0: none; the old ones go. Nothing is in flight. 0 or -ENOMEM. */
int gr__queue_resize(struct gr__queue *q, uint32_t num);
/* After a change of set-up: may it run? */
void gr__queue_update(struct gr__queue *q);

/* Take a batch and give it to the device; returns how many. */
unsigned gr__queue_run(struct gr__queue *q);
/* Ask for a kick; true: something came meanwhile, do not sleep. */
bool gr__queue_arm(struct gr__queue *q);
/* Publish what is done and call the driver if he wants. */
void gr__queue_flush(struct gr__queue *q);
/* The slot's request is over (the worker's thread only). */
void gr__queue_complete(struct gr__slot *slot, uint64_t written);
/* The driver broke the rules: no more from this ring until it is set up anew. */
void gr__queue_break(struct gr__queue *q, const char *why);

/*
 * Take the next chain of the ring into @slot, or the one that a back-end before us took. In a read
 * section. 0; -ENOBUFS: room or a spare hold is lacking; -EPROTO: the chain is malformed, q->fault
 * says how. On an error nothing is held.
 */
int gr__chain_take(struct gr__queue *q, const struct gr__ring *ring,
		   const struct gr__resubmit *again, struct gr__slot *slot);
void gr__chain_drop_holds(struct gr__queue *q, struct gr__slot *slot);

/* mark.c: the first @written bytes of what the device writes have been written. */
void gr__slot_mark_first(struct gr__slot *slot, uint64_t written);
/* In a read section: these bytes, in some of its pieces, have been. */
void gr__slot_mark(struct gr__slot *slot, const void *host, uint64_t length);
/* In the read section in which the ring was mapped: this part of the used ring (of a packed one: of
 * our wish for kicks) has been; and so many descriptors of a packed ring. */
void gr__queue_mark_used(struct gr__queue *q, const struct gr__ring *ring, uint64_t offset,
			 uint64_t length);
void gr__queue_mark_desc(struct gr__queue *q, const struct gr__ring *ring, unsigned at,
			 unsigned count);

#endif
