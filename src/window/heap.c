/* SPDX-License-Identifier: MIT */
/*
 * Which window was not used for the longest time. A heap by the stamp that each window had when the
 * heap looked at it last. Stamps only grow, and readers do not tell the heap; so a window whose
 * stamp has grown is put where it belongs when it comes to the top, and a top whose stamp has not
 * is really the oldest. No window is looked at for a hit, few for a miss.
 *
 * Threads: under windows->lock.
 */
#include "window/window.h"

/* Of its window, while it is published. */
static uint64_t *stamp_of(const struct gr__mapping *window)
{
	return &gr__window_slot(window->windows, window->offset)->stamp;
}

static void put(struct gr__windows *windows, struct gr__mapping *window, uint64_t at)
{
	windows->heap[at] = window;
	window->heap_at = at;
}

static void rise(struct gr__windows *windows, struct gr__mapping *window, uint64_t at)
{
	while (at && windows->heap[(at - 1) / 2]->heap_key > window->heap_key) {
		put(windows, windows->heap[(at - 1) / 2], at);
		at = (at - 1) / 2;
	}
	put(windows, window, at);
}

static void sink(struct gr__windows *windows, struct gr__mapping *window, uint64_t at)
{
	uint64_t child;

	while ((child = 2 * at + 1) < windows->published) {
		if (child + 1 < windows->published &&
		    windows->heap[child + 1]->heap_key < windows->heap[child]->heap_key)
			child++;
		if (windows->heap[child]->heap_key >= window->heap_key)
			break;
		put(windows, windows->heap[child], at);
		at = child;
	}
	put(windows, window, at);
}

void gr__heap_insert(struct gr__windows *windows, struct gr__mapping *window)
{
	window->heap_key = __atomic_load_n(stamp_of(window), __ATOMIC_RELAXED);
	rise(windows, window, windows->published++);
}

void gr__heap_remove(struct gr__windows *windows, struct gr__mapping *window)
{
	uint64_t at = window->heap_at;
	struct gr__mapping *last = windows->heap[--windows->published];

	if (last == window)
		return;
	/* it comes from another branch, so it may belong above or below */
	if (last->heap_key < window->heap_key)
		rise(windows, last, at);
	else
		sink(windows, last, at);
}

static bool is_pinned(const struct gr__mapping *window)
{
	/* relaxed: who pins it a moment later finds it retired, and keeps it all the same */
	return __atomic_load_n(&window->pins, __ATOMIC_RELAXED);
}

/* When many are pinned, and those that are not stand below them. */
static struct gr__mapping *search(const struct gr__windows *windows)
{
	struct gr__mapping *oldest = NULL, *window;
	uint64_t i, stamp, least = UINT64_MAX;

	for (i = 0; i < windows->published; i++) {
		window = windows->heap[i];
		stamp = __atomic_load_n(stamp_of(window), __ATOMIC_RELAXED);
		if (stamp < least && !is_pinned(window)) {
			oldest = window;
			least = stamp;
		}
	}
	return oldest;
}

struct gr__mapping *gr__heap_oldest(struct gr__windows *windows)
{
	struct gr__mapping *top;
	uint64_t tries, stamp;

	for (tries = 0; tries < windows->published; tries++) {
		top = windows->heap[0];
		if (is_pinned(top)) /* in use as long as that */
			__atomic_store_n(stamp_of(top), windows->now, __ATOMIC_RELAXED);
		stamp = __atomic_load_n(stamp_of(top), __ATOMIC_RELAXED);
		if (stamp == top->heap_key && !is_pinned(top))
			return top;
		top->heap_key = stamp;
		sink(windows, top, 0);
	}
	return search(windows);
}
