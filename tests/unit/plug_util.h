/* SPDX-License-Identifier: MIT */
/*
 * A listener that keeps what it is told of granules and lengths, and refuses when asked.
 *
 * Threads: the one that changes.
 */
#ifndef PLUG_UTIL_H
#define PLUG_UTIL_H

#include "testing.h"
#include <guestram/plug.h>

#define GRANULE (2 * MIB)
#define GRANULES_MAX 64

struct watcher {
	struct gr_listener *listener;
	struct gr_block *block; /* the one it watches */
	bool plugged[GRANULES_MAX];
	unsigned wrong; /* plugging of what was plugged, unplugging of what was not */
	unsigned plugging, unplugging, resized, committed;
	uint64_t old_length, length;		/* of the last block_resized */
	int refuse_plugging, refuse_unplugging; /* errors to answer with, once */
	int always_refuse;
	unsigned order; /* of the last block_resized among all that were told */
	unsigned told;
	void (*hook)(struct watcher *watcher); /* in granules_…ing */
};

void watcher_open(struct watcher *watcher, struct gr_ram *ram, struct gr_block *block,
		  int priority);
/* What it was told adds up to nothing at the end. */
void watcher_close(struct watcher *watcher);
/* Does it know of just what is plugged? */
bool watcher_agrees(const struct watcher *watcher, struct gr_plug *plug);

#endif
