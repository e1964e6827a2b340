/* SPDX-License-Identifier: MIT */
/*
 * A listener that writes down what it is told, refuses when asked, and counts what must not happen:
 * something added that it has, or removed that it has not.
 *
 * Threads: any; the log is one for all recorders, so that their order is known.
 */
#ifndef RECORDER_H
#define RECORDER_H

#include "testing.h"

enum event_kind {
	BLOCK_ADDED,
	BLOCK_DELETING,
	BLOCK_RECLAIMED,
	RANGE_ADDED,
	RANGE_REMOVED,
	COMMITTED,
};

struct event {
	enum event_kind kind;
	struct recorder *recorder;
	struct gr_block *block; /* of block events and ranges, not of BLOCK_RECLAIMED */
	struct gr_space *space;
	struct gr_range range;
	uint64_t ram_offset, generation;
};

struct recorder {
	struct gr_listener *listener;
	struct event has[128]; /* RANGE_ADDED and BLOCK_ADDED without their end */
	size_t count;
	int refuse_in; /* this many additions from now are refused with @refuse_with; 0: none */
	int refuse_with;
	int wrong; /* additions of what it had, removals of what it had not */
	/* called after the event was written down, with no lock of the recorder held */
	void (*hook)(struct recorder *recorder, const struct event *event);
};

extern struct event event_log[1024];
extern size_t event_count;

void recorder_open(struct recorder *recorder, struct gr_ram *ram, int priority);
int recorder_try(struct recorder *recorder, struct gr_ram *ram, int priority);
void recorder_close(struct recorder *recorder);
void log_clear(void);

/* Does @recorder have exactly the ranges of @space, and of no other space? */
bool recorder_agrees(const struct recorder *recorder, struct gr_space *space);
/* Is event number @at of this kind, told to @recorder, about [addr, addr + length)? */
bool event_is(size_t at, enum event_kind kind, const struct recorder *recorder, uint64_t addr,
	      uint64_t length);
size_t events_of(enum event_kind kind, const struct recorder *recorder);

#endif
