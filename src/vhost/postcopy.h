/* SPDX-License-Identifier: MIT */
/*
 * A guest whose memory is still on its way: the front-end of a migration's target answers our page
 * faults (VHOST_USER_PROTOCOL_F_PAGEFAULT).
 *
 *   ADVISE   a userfaultfd, which goes to the front-end
 *   LISTEN   from now on regions are registered with it, before anybody can see them
 *   END      all pages are there
 *
 *   worker ─ touches a page ─► kernel ─ event ─► front-end: fetches the page, puts it into the
 * shared worker ◄──────── goes on ──── UFFDIO_WAKE ◄─ file, and wakes
 *
 * Who waits: workers, in read sections too, and all that wait for workers: the server's thread in
 * most messages. It must not fault itself, nor need to: it looks at the memory table and at sizes,
 * never into the memory. So it is the front-end's matter to answer faults on another thread than
 * the one that waits for our answers.
 *
 * A front-end that dies answers nothing any more, and the server's thread, which would notice, may
 * be waiting for a worker that waits for a page. So a thread of our own watches the connection from
 * LISTEN to END. When the peer is gone it puts memory that does not exist over all that was
 * registered, and wakes. A touch is then what it is when a front-end cuts its file short: an error
 * for the request, never a zero page that would be taken for the guest's data and written to a
 * disk.
 *
 * Threads: the server's, and the watcher, which reads what lock guards. Invariant: a range of
 * ranges[] is pinned, so that its addresses stay that block's until it is taken out.
 */
#ifndef GR__VHOST_POSTCOPY_H
#define GR__VHOST_POSTCOPY_H

#include "vhost/memory.h"

struct gr__postcopy {
	int uffd;    /* -1: not advised */
	int nothing; /* an empty file */
	int wake;    /* event that ends the watcher */
	int peer;    /* the connection, which outlives the watcher */
	bool listening;
	pthread_t watcher; /* while listening */

	pthread_mutex_t lock;
	bool given_up;				    /* lock */
	unsigned count;				    /* lock */
	struct gr_pin ranges[2 * GR__MEMORY_SLOTS]; /* lock */
};

void gr__postcopy_init(struct gr__postcopy *postcopy);
void gr__postcopy_fini(struct gr__postcopy *postcopy);
/* Does this system let us do it? Asked anew each time. */
bool gr__postcopy_is_possible(void);

/* All: 0 or -errno, said. */
int gr__postcopy_advise(struct gr__postcopy *postcopy);
int gr__postcopy_listen(struct gr__postcopy *postcopy, int peer);
/* All of @block, which nobody has touched. */
int gr__postcopy_register(struct gr__postcopy *postcopy, struct gr_block *block);

/* All pages are there; or nobody will bring them any more, and who waits for one gets an error. */
void gr__postcopy_end(struct gr__postcopy *postcopy, bool complete);

#endif
