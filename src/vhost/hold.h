/* SPDX-License-Identifier: MIT */
/*
 * Holds: pins that requests of one queue share. A hold pins one range of the guest-physical space;
 * requests in flight count as its users, so that a busy queue pins a range once and not once for
 * each buffer.
 *
 *   current: [ hold  hold  hold ]      of the generation last seen, sorted by address
 *      users:     3     0     1
 *   retired holds stand in no table: the requests that use them lead to them
 *
 * Threads: all of the queue's worker. Invariants: a current hold is given to a new request only
 * while the space's generation is the one it was made under (checked at the start of each batch, so
 * a batch may still use what was mapped when its read section began); a hold that is retired, or
 * unused when its worker goes to sleep, is unpinned at once. So an idle queue pins nothing, and a
 * removed range goes when the last request on it is completed.
 */
#ifndef GR__VHOST_HOLD_H
#define GR__VHOST_HOLD_H

#include <guestram.h>
#include <stdbool.h>

#define GR__HOLDS_FIRST 8 /* made at once, doubled when more are needed */

struct gr__hold {
	struct gr__hold *next; /* in spare */
	uint64_t addr;	       /* first guest address, and how many bytes */
	uint64_t length;
	char *host;
	unsigned access;
	unsigned users;
	bool current;
	bool lossy; /* its file can be cut short under us */
	struct gr_pin pin;
};

struct gr__holds {
	struct gr_space *space;
	uint64_t generation; /* of the current ones */
	struct gr__hold **current;
	struct gr__hold *recent; /* the current one used last, or NULL */
	unsigned current_count;
	unsigned current_room;
	struct gr__hold *spare; /* unpinned, for the next ones: none is allocated in a section */
	unsigned spare_count;
	unsigned made; /* all there are */
};

void gr__holds_init(struct gr__holds *holds, struct gr_space *space);
/* No request is in flight any more. */
void gr__holds_fini(struct gr__holds *holds);

/* Retire what the newest view may not have. In a read section. */
void gr__holds_sync(struct gr__holds *holds);
/* Unpin current ones that nobody uses. */
void gr__holds_idle(struct gr__holds *holds);
/* More spare ones, at least as many as there are. Not in a read section. 0 or -ENOMEM. */
int gr__holds_grow(struct gr__holds *holds);

/*
 * The hold of the range that has @addr, with one more user. In a read section.
 * 0, -EFAULT no (trustworthy) memory, -EACCES, -ENOBUFS no spare one.
 */
int gr__holds_get(struct gr__holds *holds, uint64_t addr, unsigned access, struct gr__hold **hold);
void gr__hold_put(struct gr__holds *holds, struct gr__hold *hold);
/* Has its file been cut short? */
bool gr__hold_lost(const struct gr__hold *hold);

#endif
