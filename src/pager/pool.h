/* SPDX-License-Identifier: MIT */
/*
 * Threads that read from a source, and the buffers they read into, which never hold more than they
 * may.
 *
 *   paging ─ gr__pool_submit() ─► touched │ ahead ─► worker: source->read() ─► paging's `answers`
 *
 * What somebody waits for goes before what is fetched ahead, and a part of the buffers is for it
 * alone. A job is its paging's but while it is in a queue of the pool or with a worker.
 *
 * Threads: all under pool->lock, which is held for no call that waits.
 */
#ifndef GR__POOL_H
#define GR__POOL_H

#include <guestram/pager.h>
#include <pthread.h>
#include <stdbool.h>

struct gr__paging;

/* Bytes of a read ahead, unless the memory's pages are larger. */
#define GR__POOL_CHUNK UINT64_C(262144)

struct gr__job {
	struct gr__job *next;
	struct gr__job *flying; /* the paging's list of those that are with the pool */
	struct gr__paging *paging;
	unsigned piece;	 /* of the paging */
	bool touched;	 /* somebody waits for it */
	bool early;	 /* asked for before all that the order names was */
	int rc;		 /* of the read */
	uint64_t offset; /* in the piece */
	uint64_t length;
	uint64_t at; /* installed so far, from @offset */
	uint64_t size;
	void *buf; /* of @size bytes */
};

struct gr__jobs {
	struct gr__job *first, **end;
};

struct gr__pool {
	const struct gr_page_source *source; /* const */
	pthread_mutex_t lock;
	pthread_cond_t work;		/* with lock */
	struct gr__jobs touched, ahead; /* wr: lock */
	struct gr__job *spare;		/* wr: lock: with buffers of GR__POOL_CHUNK bytes */
	uint64_t used, most, max;	/* wr: lock: bytes of buffers, the spare ones too */
	uint64_t spare_bytes;		/* wr: lock */
	bool stop;			/* wr: lock */
	unsigned count;			/* const once open: workers */
	pthread_t *workers;
};

/* 0 or -errno, said. @largest: of the pages it will be for, where that is known. */
int gr__pool_open(struct gr__pool *pool, const struct gr_page_source *source, unsigned workers,
		  uint64_t max, uint64_t largest);
/* No job is queued or with a worker. Takes one that was never opened, all zero. */
void gr__pool_close(struct gr__pool *pool);

/* A job with room for @length bytes. NULL: none now; later, when others are put back. */
struct gr__job *gr__pool_take(struct gr__pool *pool, uint64_t length, bool touched);
void gr__pool_put(struct gr__pool *pool, struct gr__job *job);

/* Its paging gets it back with rc set, in `answers`. */
void gr__pool_submit(struct gr__pool *pool, struct gr__job *job);
/* Somebody waits for what was to be read ahead: it goes before others, if it is still queued. */
void gr__pool_hurry(struct gr__pool *pool, struct gr__job *job);
/* Take its jobs out of the queues, and put them back; those with workers still come. */
unsigned gr__pool_cancel(struct gr__pool *pool, struct gr__paging *paging);

void gr__jobs_init(struct gr__jobs *jobs);
void gr__jobs_add(struct gr__jobs *jobs, struct gr__job *job);
struct gr__job *gr__jobs_take(struct gr__jobs *jobs);

#endif
