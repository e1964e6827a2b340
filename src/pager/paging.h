/* SPDX-License-Identifier: MIT */
/*
 * One process's memory, in pieces, whose pages come from a source as they are touched.
 *
 *   event FAULT ─► `waiting` ─► its file has the page?  map it
 *                             ─► page is done?  zeroes (or it is there: wake)
 *                             ─► in the page cache: read now, copy
 *                             ─► else a job for the workers ─► `answers` ─► copy
 *   event REMOVE ─► its pages are done
 *   nothing waits ─► what is missing, recorded order first ─► its file has it?  map it
 *                             ─► else jobs ─► `answers` ─► copy by slices
 *
 * Invariants:
 *  - A page is *done* when the source's bytes have been put there, or will never be: it was zero in
 *    the source, discarded, or is memory no more. What is done gets nothing from the source any
 *    more; whoever touches it and finds nothing gets zeroes. So nothing that was discarded comes
 *    back, whatever reads are under way.
 *  - In another process memory may be a file that others map, too. What the file has is right,
 *    whoever put it there: it is mapped, and never replaced. A discard is one of the file, or of a
 *    private copy over it; what others put into the file after that is there again. See
 *    models/share.pml.
 *  - Only the paging's own thread reads events, and only it puts pages into the memory. A copy that
 *    it decides on after it has read all events is either before the discard, which takes it away,
 *    or refused by the kernel (EAGAIN), since the event of that discard has not been read. See
 *    models/pager.pml.
 *  - In this process discards take `lock` instead of sending events: a hold (backing.h) covers them
 *    from before they begin until they are done, and no page is put there meanwhile.
 *  - That thread never waits for a worker: what is not there yet stays in `waiting`.
 *
 * Threads: the paging's own; workers, in gr__paging_read() and _answer(); in process, those that
 * discard. `lock` is held by none over a call that waits for anything but the memory's own locks in
 * the kernel.
 */
#ifndef GR__PAGING_H
#define GR__PAGING_H

#include "backing/backing.h"
#include "pager/order.h"
#include "pager/pool.h"
#include <guestram/pager.h>
#include <pthread.h>
#include <stdbool.h>

/* Bytes between two looks at what is waiting. */
#define GR__SLICE UINT64_C(65536)

struct gr__paged {
	struct gr__filler filler;      /* in process; first: the piece is found by it */
	struct gr__paging *paging;     /* const */
	struct gr__mem *mem;	       /* const: in process, or NULL */
	struct gr_block *owner;	       /* const: likewise */
	char *name;		       /* const: of the source's block; NULL: its first */
	uint64_t addr;		       /* const: in the process it belongs to */
	uint64_t length, page_size;    /* const */
	int block;		       /* const: of the source */
	uint64_t source_offset;	       /* const: in it */
	uint64_t chunk;		       /* const: the source's */
	uint64_t *done;		       /* wr: lock: a bit for each page */
	uint64_t left;		       /* wr: lock: pages that are not */
	bool ended;		       /* wr: lock: the memory is given up */
	struct gr__filler_hold *holds; /* wr: lock */
	bool in_file;		       /* the thread's: not known to be memory without a file */
	unsigned holes;		       /* the thread's: pages in a row that its file has not */
};

struct gr__waiting {
	unsigned piece;
	uint64_t offset; /* of the page, in the piece */
	uint64_t since;	 /* ns */
	bool minor;	 /* its file had the page when it was touched */
};

struct gr__paging {
	struct gr__pool *pool;		     /* const */
	const struct gr_page_source *source; /* const */
	const struct gr__order *order;	     /* const: what comes first, or NULL */
	unsigned flags;			     /* const: GR_PAGER_… */
	bool recording;			     /* const */
	int uffd;			     /* the thread's, once it runs */
	int peer;			     /* const: its monitor's socket, or -1 */
	int ended;		  /* const: event: it is complete, or the thread has left; or -1 */
	int wake;		  /* event: answers, holds that ended, stop */
	struct gr__paged *pieces; /* by address */
	unsigned count;		  /* const */
	uint64_t largest;	  /* const: page */
	void (*say)(void *context, enum gr_log_level level, const char *line); /* const */
	void *say_context;

	pthread_t thread;
	int go, stop;	      /* atomic */
	pthread_mutex_t lock; /* done, left, holds, ended */
	pthread_cond_t over;  /* with lock */
	bool complete, left;  /* wr: lock: all is done; the thread has left */
	int rc;		      /* wr: lock: why it left */

	pthread_mutex_t answers_lock;
	struct gr__jobs answers; /* wr: answers_lock */

	/* the thread's own */
	struct gr__waiting *waiting;
	size_t waiting_count, waiting_room;
	struct gr__job *flying; /* with the pool, by their other link */
	unsigned flying_count;
	struct gr__jobs installing; /* have their bytes */
	struct gr__order record;
	void *page;   /* of @largest bytes: for what is read at once */
	void *zeroes; /* of @largest bytes, if those are no small pages */
	size_t ahead_run;
	unsigned ahead_piece;
	uint64_t ahead_offset;
	bool ahead_order_done;
	uint64_t retry_at, retry_after; /* ns: a read failed; no more until then */
	uint64_t parked_since;		/* ns: the kernel asks to wait; 0: it does not */
	bool parked;

	/* atomic, relaxed: written by the thread; times in ns */
	struct gr_pager_stats stats;
	uint64_t started;
};

/*
 * @pieces with all but paging and done filled in, by address; the paging takes them when it
 * succeeds; all of its const fields are set. 0 or -errno, said.
 */
int gr__paging_open(struct gr__paging *paging, struct gr__paged *pieces, unsigned count);

/*
 * Starts the thread, which does nothing yet: 0 or -errno, said; lets it go, when the memory is
 * watched; ends it.
 */
int gr__paging_start(struct gr__paging *paging);
void gr__paging_go(struct gr__paging *paging);
void gr__paging_stop(struct gr__paging *paging);
/* In process, the thread having ended: blocks forget it; what is missing raises SIGBUS from then
 * on. */
void gr__paging_leave(struct gr__paging *paging);
/* Frees all but the structure; the thread has ended. In process: no block knows it any more. */
void gr__paging_close(struct gr__paging *paging);

void gr__paging_stats(struct gr__paging *paging, struct gr_pager_stats *stats);

/* For workers. */
int gr__paging_read(struct gr__paging *paging, struct gr__job *job);
void gr__paging_answer(struct gr__paging *paging, struct gr__job *job);

/* ---- between paging.c (events, answers, the loop) and paged.c (what is put where) ---- */

/* Lock held. Pages that lie wholly in [offset, offset + length): how many were not done yet. */
uint64_t gr__paged_finish(struct gr__paged *piece, uint64_t offset, uint64_t length);
bool gr__paged_is_done(struct gr__paged *piece, uint64_t offset);
bool gr__paged_is_held(struct gr__paged *piece, uint64_t offset);
/* The first run of what is not done from *offset on: false when there is none. Lock not held. */
bool gr__paged_next_missing(struct gr__paged *piece, uint64_t *offset, uint64_t *length);
/* All that the source has as zeroes is done; larger runs are no more watched at all. */
void gr__paged_drop_zeroes(struct gr__paging *paging);

/*
 * Put bytes of the source, at most one slice of them: *at moves on from where they are put to
 * @length. 0, or -errno: -EAGAIN (park it), -ESRCH (the process is gone), others are the kernel's
 * want of memory. Pages that are done or held stay as they are.
 */
int gr__paged_put(struct gr__paging *paging, unsigned piece, uint64_t offset, uint64_t length,
		  const void *bytes, uint64_t *at);
/* A page that is done is touched. */
int gr__paged_put_zeroes(struct gr__paging *paging, unsigned piece, uint64_t offset);
/*
 * Map what the file has from @offset on, at most @length bytes, done or not: so many are *done
 * then. 0, -EFAULT (it has not that page; or there is no file), or -errno as above.
 */
int gr__paged_map(struct gr__paging *paging, unsigned piece, uint64_t offset, uint64_t length,
		  uint64_t *done);

/* All who wait for pages in there have been woken: bytes of their pages. */
uint64_t gr__paging_answered(struct gr__paging *paging, unsigned piece, uint64_t offset,
			     uint64_t length);
void gr__paging_count(uint64_t *counter, uint64_t more);
uint64_t gr__paging_now(void);

extern const struct gr__filler_ops gr__paged_filler_ops;

#endif
