/* SPDX-License-Identifier: MIT */
/*
 * An NBD export as a source of pages: readers, and a thread for each connection.
 *
 *   read() ─► pieces ─► `queue` ─► link 0: its handle, ≤ in_flight requests ─► server
 *     ▲                       └──► link 1: …
 *     └──── all answered ◄─────────┘   lost: its pieces go back into the queue
 *
 * A link is DIALING, then CHECKING (is it the export that we know?), then SERVING; when it is lost
 * it dials again, after a while that doubles.
 *
 * Invariants:
 *  - A piece's buffer is written by one link at most, the one that it flies on. It leaves that link
 *    only when it was answered, or after the handle is closed, when nothing writes any more.
 *  - No byte is given that came over a connection which had not been checked.
 *
 * Threads: readers and links; what they share is under store->lock, which is held over no call that
 * waits, nor into libnbd. A handle is its link's alone.
 */
#ifndef GR__NBD_H
#define GR__NBD_H

#include <guestram/store.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>

#define GR__NBD_LINKS 16
#define GR__NBD_FLYING 64
#define GR__NBD_PIECE (UINT64_C(1) << 20)
#define GR__NBD_SAMPLES 16
#define GR__NBD_TRIES 8

struct gr__nbd_call {
	pthread_cond_t done; /* with lock */
	unsigned left;	     /* wr: lock: pieces without an answer */
	int rc;		     /* wr: lock: of the first that failed */
};

struct gr__nbd_piece {
	struct gr__nbd_piece *next; /* in the queue (lock), or its link's answers */
	struct gr__nbd_call *call;
	struct gr__nbd_link *link; /* that it flies on, else NULL */
	char *buf;
	uint64_t offset;
	uint32_t length;
	uint32_t seen; /* bytes that came, in order */
	bool torn;     /* they did not come in order */
	unsigned slot;
	unsigned tries;
	int error;	     /* errno of its answer */
	uint64_t since;	     /* ns: in the queue, or flying */
	uint64_t not_before; /* ns */
};

struct gr__nbd_pieces {
	struct gr__nbd_piece *first, **end;
};

enum gr__nbd_state { GR__NBD_DIALING, GR__NBD_CHECKING, GR__NBD_SERVING };

struct gr__nbd_link {
	struct gr__nbd_store *store;
	pthread_t thread; /* const */
	int wake;	  /* const: an event; -1: it never ran */
	bool serving;	  /* wr: lock */
	unsigned load;	  /* wr: lock: pieces that fly on it */

	/* the thread's own */
	struct nbd_handle *nbd;
	enum gr__nbd_state state;
	bool served; /* once */
	bool idle;   /* the last wait brought nothing */
	int rc;	     /* why it is lost */
	char reason[256];
	uint64_t deadline, retry_after;
	struct gr__nbd_piece *flying[GR__NBD_FLYING];
	struct gr__nbd_pieces answers;
	struct gr__nbd_call check; /* of the samples; only left and rc are used */
	struct gr__nbd_piece samples[GR__NBD_SAMPLES];
	char *sample_bytes;
	unsigned sample_count;
	bool asking; /* a block status is under way */
	bool asking_over;
	int asking_error;
	uint64_t asking_since;
	uint64_t status_at, status_end, zero_from;
};

struct gr__nbd_store {
	/* const once open */
	struct gr_nbd_opts opts;
	char *uri, *name; /* @name: for people */
	char *socket, *export_name, *tls_certificates, *tls_username, *tls_psk_file;
	uint64_t size, length; /* of the export, and in whole pages */
	uint64_t min_block, max_piece, chunk;
	uint64_t sample_size;
	uint64_t digest;
	unsigned may_connections;
	bool has_status;
	/* bits of pages that are zero, or NULL; written by the link that asks, read by any: atomic,
	 * relaxed, since nothing else is told by them */
	uint64_t *zeroes;

	int stop; /* atomic */
	pthread_mutex_t lock;
	pthread_cond_t change;	     /* with lock: the first link, block status */
	struct gr__nbd_pieces queue; /* wr: lock */
	unsigned queued;	     /* wr: lock */
	bool known;		     /* wr: lock: the fields above are set, by the first link */
	bool failed;		     /* wr: lock: the first link could not */
	int rc;			     /* wr: lock: why */
	char reason[256];	     /* wr: lock: what was said last of a loss */
	bool refused;		     /* wr: lock: the last that answered is another export */
	struct gr__nbd_link *status_link;  /* wr: lock: that asks for the block status */
	uint64_t status_at;		   /* wr: lock: known up to there */
	unsigned status_asked;		   /* wr: lock */
	uint64_t stalled_since, warned_at; /* wr: lock: ns; 0: it is there */
	struct gr_nbd_stats stats;	   /* wr: lock */
	struct gr__nbd_link links[GR__NBD_LINKS];
	unsigned link_count; /* const once open */
};

/* Starts link @number: 0 or -errno. */
int gr__nbd_link_start(struct gr__nbd_store *store, unsigned number);
/* All of them end, and with them every piece. */
void gr__nbd_links_stop(struct gr__nbd_store *store);

void gr__nbd_pieces_init(struct gr__nbd_pieces *pieces);
void gr__nbd_pieces_add(struct gr__nbd_pieces *pieces, struct gr__nbd_piece *piece);
struct gr__nbd_piece *gr__nbd_pieces_take(struct gr__nbd_pieces *pieces);

/* Lock held: it has its answer, good or bad. */
void gr__nbd_piece_end(struct gr__nbd_piece *piece, int rc);

__attribute__((format(printf, 3, 4))) void
gr__nbd_say(struct gr__nbd_store *store, enum gr_log_level level, const char *format, ...);

/* ---- what is zero (nbd_status.c) ---- */

/* Room for the answers, if the server gives any and it is not too much. */
void gr__nbd_status_init(struct gr__nbd_store *store);
/* The link serves: it asks for more, if nobody does. */
void gr__nbd_status_ask(struct gr__nbd_link *link);
/* It is answered, or its link lost. */
void gr__nbd_status_end(struct gr__nbd_link *link, bool lost);
/* Is the page at @offset zero, and for how many bytes does that hold, at most *length? */
bool gr__nbd_is_zero(const struct gr__nbd_store *store, uint64_t offset, uint64_t *length);

#endif
