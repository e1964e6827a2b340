/* SPDX-License-Identifier: MIT */
/*
 * A RAM: its live blocks, their RAM offsets, and what waits for reclaim.
 *
 *   gr_ram ── directory (RCU) ──► live blocks, by RAM offset, name and host address
 *          ── offsets             what the live and the pending blocks occupy
 *          ── spaces              owned by the layer above
 *          ── listeners
 *          ── deleted ─► grace period ─► (unpinned) ─► [ready] ─► release
 *             garbage ─► grace period ─► free
 *
 * Threads: ram->lock serialises writers and is never held while a grace period, a callback or a
 * system call on a block's memory is waited for. Readers take no lock.
 *
 * Life of a block, each step by one thread:
 *   reserved (name taken, not findable) → live (in the directory) → unlinked (in no directory and
 * no view that a new read section can load) → after a grace period: UNLINKED is set in its pins →
 *   whoever sees the count at zero then, the reclaim thread or the last gr_unpin(), hands it on to
 * be released, exactly once.
 */
#ifndef GR__RAM_H
#define GR__RAM_H

#include "backing/backing.h"
#include "ram/granules.h"
#include "ram/offsets.h"
#include <guestram.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>
#include <urcu/list.h>

/* A cache line. */
#define GR__LINE 64

/* A block's pins: the number held, and this bit once no lookup can find the block any more. */
#define GR__PINS_UNLINKED (UINT64_C(1) << 63)

/* What is freed one grace period after it was replaced. Lives inside the thing, so needs no memory.
 */
struct gr__garbage {
	struct gr__garbage *next; /* wr: ram->lock */
	void (*free)(struct gr__garbage *garbage);
	uint64_t bytes;
};

struct gr__windows;

/* What the window layer does for the layers below it. No lock held. */
struct gr__window_ops {
	/* No lookup from now on finds a window that was mapped before. Does not wait. */
	void (*drop)(struct gr_block *block, uint64_t offset, uint64_t length);
	/* Unmap them all; no reader and no pin knows the block. */
	void (*close)(struct gr_block *block);
};

struct gr_block {
	struct gr_ram *ram;  /* const */
	char *name;	     /* const */
	void *user;	     /* const */
	struct gr__mem mem;  /* its length: wr: who made or resizes the block; the rest const */
	uint64_t length;     /* what readers may see; wr: ram->lock, read atomically by them */
	uint64_t ram_offset; /* const */
	struct gr__windows *windows; /* const once live: how it is seen; NULL: at mem.host */
	const struct gr__window_ops *window_ops; /* const once live; with it */
	unsigned mapped;      /* wr: ram->lock: ranges of current views that name it */
	unsigned users;	      /* wr: ram->lock: changes under way that need it to stay live */
	bool live;	      /* wr: ram->lock: in the directory */
	bool busy;	      /* wr: ram->lock: one thread is deleting or resizing it */
	bool refused;	      /* const once pending: it was never live, and its memory is undone */
	uint64_t sequence;    /* wr: ram->lock: of its deletion */
	uint64_t deleted_ns;  /* wr: ram->lock: when, by the monotonic clock */
	unsigned discards[2]; /* wr: ram->lock: under way, by enum gr__discard */
	struct gr__granules *granules; /* atomic, set under ram->lock; NULL: never had any */
	struct gr_plug *plug;	       /* wr: ram->lock, read atomically: while granules are open */
	struct cds_list_head node;     /* wr: ram->lock: in ram->reserved, then in ram->pending */
	struct gr_block *link;	       /* owned by the queue it is in: deleted, unpinned or ready */

	/*
	 * atomic; a line away from the rest, since every request in flight writes to it. (Not an
	 * aligned member: walking a list of blocks computes the address of one that is none.)
	 */
	char apart[GR__LINE];
	uint64_t pins;
};

struct gr_ram {
	struct cds_list_head open_node; /* these four: wr: the registry's lock, registry.c */
	uint64_t number;		/* const once open: its place in the order of opening */
	unsigned lookers;		/* who look at it, and keep it from being closed */
	bool leaving;			/* gr_ram_close() waits for them */
	pthread_mutex_t lock;
	pthread_cond_t
		reclaimed; /* with lock: a block left pending, or became ready, or a change ended */
	pid_t pid;	   /* const: whose threads these are */
	struct gr_ram_opts opts; /* const */

	const struct gr__directory *directory; /* RCU: replaced under lock */
	struct gr__offsets offsets;	       /* wr: lock */
	struct cds_list_head
		reserved; /* wr: lock: blocks whose name is taken before they are live */
	uint64_t bytes, bytes_reserved; /* wr: lock: of live blocks */

	struct cds_list_head spaces; /* wr: lock: struct gr__space */
	unsigned space_count;	     /* wr: lock */
	bool closing;		     /* wr: lock: gr_ram_close() is past the point of no return */
	unsigned changes;     /* wr: lock: changes that are telling listeners, without the lock */
	uint64_t generation;  /* wr: lock: of the newest view */
	uint64_t ranges;      /* wr: lock: over all spaces */
	uint64_t index_bytes; /* wr: lock */
	uint64_t range_bytes; /* wr: lock */

	struct cds_list_head listeners; /* wr: lock: by rising priority */
	struct cds_list_head claims;	/* wr: lock: struct gr_discard_claim */
	unsigned discards[2];		/* wr: lock: of all blocks, by enum gr__discard */

	unsigned holders; /* wr: lock: what must be closed before the RAM */
	void *dirty;	  /* wr: lock, once: of the layer above, which says how it ends */
	void (*dirty_free)(void *dirty);

	struct gr__garbage *garbage;  /* wr: lock */
	uint64_t garbage_bytes;	      /* wr: lock */
	unsigned garbage_count;	      /* wr: lock */
	struct gr__garbage *mappings; /* wr: lock: garbage that only the worker frees */
	uint64_t mappings_retired;    /* wr: lock: how many have come there */
	uint64_t mappings_freed;      /* wr: lock: how many of them are freed */
	struct gr_block *deleted;     /* wr: lock: waiting for a grace period */
	struct gr_block *ready;	      /* wr: lock: for gr_ram_reclaim() */
	struct cds_list_head pending; /* wr: lock: deleted, not reclaimed, in order of deletion */
	uint64_t sequence;	      /* wr: lock: deletions so far */
	uint64_t blocks_pending, bytes_pending;
	uint64_t blocks_reclaimed, bytes_reclaimed;
	uint64_t grace_periods;	   /* atomic */
	struct gr_block *unpinned; /* atomic: stack of blocks whose last pin left after UNLINKED */

	pthread_t worker;
	int work_fd;  /* an event: there is work for the worker */
	int work_set; /* atomic: work_fd was set and the worker has not looked yet */
	int stopping; /* atomic: the worker leaves when it is idle */
	int ready_fd; /* event for the embedder, or -1 */
};

/* May this thread wait for readers and callbacks? 0 or -EDEADLK, said for @call if not NULL. */
int gr__may_wait(const char *call);

/* Is the read section that this thread is in the only one, and no callback around it? */
bool gr__section_is_outermost(void);

/* What read sections need of the process; 0 or -errno. */
int gr__section_init(void);

/* Wait until every read section that has begun is over. No lock held; only where gr__may_wait(). */
void gr__synchronize(void);

/* Nanoseconds of the monotonic clock. */
uint64_t gr__now_ns(void);

/* Around every callback: gr__may_wait() says no inside. Nests. */
void gr__callback_begin(void);
void gr__callback_end(void);

/* 0, or -ENOTSUP in a forked child, whose reclaim thread does not exist. */
int gr__ram_check(const struct gr_ram *ram, const char *call);

/* 0, or -EBUSY for a callback that changes a RAM which is being closed. Lock held. */
int gr__ram_check_open(const struct gr_ram *ram);

/* To the embedder's log hook, if there is one. No lock may be held. */
__attribute__((format(printf, 3, 4))) void gr__ram_log(struct gr_ram *ram, enum gr_log_level level,
						       const char *format, ...);

/* gr_ram_get_stats() for a caller who holds the lock. */
void gr__ram_stats(struct gr_ram *ram, struct gr_ram_stats *stats);

/* Pins held on live and pending blocks. Lock held. */
uint64_t gr__ram_pins(struct gr_ram *ram);

/* A block with a name and no memory yet; not findable. */
int gr__block_alloc(struct gr_ram *ram, const struct gr_block_opts *opts, struct gr_block **block);
/* Frees a block whose memory is released, or was never made. */
void gr__block_free(struct gr_block *block);

/* NULL: the block has no granules, and never had. */
static inline struct gr__granules *gr__block_granules(const struct gr_block *block)
{
	/* acquire: the table is whole; pairs with the store in gr_plug_open() */
	return __atomic_load_n(&block->granules, __ATOMIC_ACQUIRE);
}

/* The same when granules are open on it now. Lock held. */
static inline struct gr__granules *gr__block_open_granules(const struct gr_block *block)
{
	return block->granules && block->granules->open ? block->granules : NULL;
}

/*
 * Is there memory for the guest at @offset, or is its granule unplugged? That holds for *length
 * bytes from there on, which becomes less where the next granules are otherwise. True where there
 * are no granules. No lock: a change may come at once, and is marked dirty then. The caller has a
 * pin or is in a read section, so that the table stays.
 */
bool gr__block_plugged(const struct gr_block *block, uint64_t offset, uint64_t *length);

static inline uint64_t gr__block_length(const struct gr_block *block)
{
	/* relaxed: whoever shrinks a block waits for a grace period before it touches the tail */
	return __atomic_load_n(&block->length, __ATOMIC_RELAXED);
}

#endif
