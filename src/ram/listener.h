/* SPDX-License-Identifier: MIT */
/*
 * Listeners, and the events of one change as they are told to them.
 *
 * The events of a change are three lists. `ask` is granules that are about to be unplugged; told
 * first, by falling priority, and may be refused. `down` is what leaves: ranges by falling address,
 * then granules, then blocks; told by falling priority. `up` is what comes: blocks, granules, then
 * ranges by rising address; told by rising priority, and an `up` event may be refused. Undoing is
 * telling the lists backwards with the meanings swapped.
 *
 * Threads: ram->listeners and the users counts under ram->lock; telling with no lock held. A
 * listener is freed only at users == 0.
 */
#ifndef GR__LISTENER_H
#define GR__LISTENER_H

#include "ram/ram.h"

struct gr_listener {
	struct gr_ram *ram;		   /* const */
	const struct gr_listener_ops *ops; /* const */
	void *context;			   /* const */
	int priority;			   /* const */
	struct cds_list_head node;	   /* wr: ram->lock */
	unsigned users;			   /* wr: ram->lock: changes that are telling it */
};

enum gr__event_kind {
	GR__EVENT_BLOCK,
	GR__EVENT_GRANULES,
	GR__EVENT_RANGE,
	GR__EVENT_LENGTH, /* in `up` only, not to be refused, without an end */
};

struct gr__event {
	enum gr__event_kind kind;
	struct gr_block *block;	 /* all but RANGE */
	uint64_t offset, length; /* GRANULES; LENGTH: the old one */
	struct gr_space *space;	 /* RANGE */
	struct gr_range range;
};

struct gr__event_list {
	struct gr__event *events;
	size_t count, room;
};

struct gr__events {
	struct gr__event_list ask, down, up;
	bool forced; /* refusals are logged, no more */
};

/* 0 or -ENOMEM. */
int gr__event_add(struct gr__event_list *list, const struct gr__event *event);
void gr__event_list_fini(struct gr__event_list *list);
void gr__events_fini(struct gr__events *events);

/* Some of a RAM's listeners, by rising priority, each with a user counted. */
struct gr__audience {
	struct gr_listener **listeners;
	size_t count;
};

/* Those of the RAM that are not in @told. Lock held. 0 or -ENOMEM; @audience is empty at first. */
int gr__audience_take(struct gr_ram *ram, const struct gr__audience *told,
		      struct gr__audience *audience);
/* Move @more into @told, in order of priority; 0 or -ENOMEM (then @more is unchanged). */
int gr__audience_merge(struct gr__audience *told, struct gr__audience *more);
/* Gives the users back. Lock held. */
void gr__audience_drop(struct gr_ram *ram, struct gr__audience *audience);

/* No lock held. When one refuses, those who were told are told back, and its error returned. */
int gr__audience_tell(const struct gr__audience *audience, const struct gr__events *events);
void gr__audience_tell_back(const struct gr__audience *audience, const struct gr__events *events);
void gr__audience_tell_committed(const struct gr__audience *audience, struct gr_space *space,
				 uint64_t generation);

void gr__audience_tell_resized(const struct gr__audience *audience, struct gr_block *block,
			       uint64_t old_length);

/* After a block's reclaim. No lock held; needs no memory. */
void gr__listeners_tell_reclaimed(struct gr_ram *ram, const struct gr_block_info *info);

/* Put a listener where its priority wants it. Lock held. */
void gr__listener_insert(struct gr_listener *listener);

#endif
