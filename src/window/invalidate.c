/* SPDX-License-Identifier: MIT */
/*
 * Windows over memory that has changed its place, and what is told of windows.
 *
 * What makes it safe against misses that are under way: such a one has its window in the pool,
 * MAPPING, before it asks for the memory. Either it is found here and marked stale, and then never
 * published; or it is made after this, and maps what is there now.
 */
#include "base/error.h"
#include "ram/reclaim.h"
#include "window/window.h"
#include <errno.h>
#include <guestram.h>
#include <string.h>

struct span {
	uint64_t offset, length; /* length > 0 */
};

static bool overlaps(const struct gr__mapping *window, const struct span *span)
{
	return window->offset < span->offset + span->length &&
	       span->offset < window->offset + window->length;
}

/* Lock held. */
static void take_out(struct gr__windows *windows, const struct span *span)
{
	struct gr__mapping *window;
	uint64_t i;

	for (i = 0; i < windows->pool_used; i++) {
		window = &windows->pool[i];
		if (window->state == GR__WINDOW_MAPPING && overlaps(window, span))
			window->stale = true;
		/* of a deleted block all go anyway */
		if (window->state == GR__WINDOW_PUBLISHED && overlaps(window, span) &&
		    !gr__window_retire(window, true))
			windows->invalidated++;
	}
}

static void drop(struct gr_block *block, uint64_t offset, uint64_t length)
{
	struct span span = {offset, length};

	pthread_mutex_lock(&block->windows->lock);
	take_out(block->windows, &span);
	pthread_mutex_unlock(&block->windows->lock);
	GR_POINT("window.dropped");
}

/* One that was there, or under way, when windows->now was @upto, and is still. Lock held. */
static bool is_left(const struct gr__windows *windows, const struct span *span, uint64_t upto,
		    enum gr__window_state state)
{
	const struct gr__mapping *window;
	uint64_t i;

	for (i = 0; i < windows->pool_used; i++) {
		window = &windows->pool[i];
		if (window->state == state && overlaps(window, span) && window->serial < upto)
			return true;
	}
	return false;
}

static int invalidate(struct gr_block *block, const struct span *span)
{
	struct gr__windows *windows = block->windows;
	uint64_t upto;
	int rc = 0;

	pthread_mutex_lock(&windows->lock);
	upto = windows->now;
	take_out(windows, span);
	pthread_mutex_unlock(&windows->lock);
	GR_POINT("window.dropped");
	gr__retire_mappings_wait(block->ram);
	pthread_mutex_lock(&windows->lock);
	while (is_left(windows, span, upto, GR__WINDOW_MAPPING))
		pthread_cond_wait(&windows->changed, &windows->lock);
	if (is_left(windows, span, upto, GR__WINDOW_RETIRED))
		rc = gr__fail(-EBUSY,
			      "block %s: windows over %#llx bytes at offset %#llx are pinned; they "
			      "go with their last pin",
			      block->name, (unsigned long long)span->length,
			      (unsigned long long)span->offset);
	pthread_mutex_unlock(&windows->lock);
	return rc;
}

static int check_windows(const struct gr_block *block, const char *call)
{
	int rc = gr__ram_check(block->ram, call);

	if (!rc && !block->windows)
		rc = gr__fail(-EINVAL, "block %s: %s: it is not seen through windows", block->name,
			      call);
	return rc;
}

int gr_foreign_invalidate(struct gr_block *block, uint64_t offset, uint64_t length)
{
	struct gr_ram *ram = block->ram;
	struct span span = {offset, length};
	int rc = check_windows(block, "invalidate");

	if (!rc)
		rc = gr__may_wait("invalidate");
	if (rc < 0)
		return rc;
	if (!gr__range_within(offset, length, block->mem.max_length))
		return gr__fail(-ERANGE,
				"block %s: invalidate of %#llx bytes at %#llx leaves its %#llx",
				block->name, (unsigned long long)length, (unsigned long long)offset,
				(unsigned long long)block->mem.max_length);
	if (!length)
		return 0;
	pthread_mutex_lock(&ram->lock);
	if (block->busy)
		rc = gr__fail(-EBUSY, "block %s: it is being resized or deleted", block->name);
	else
		block->users++; /* it stays live meanwhile */
	pthread_mutex_unlock(&ram->lock);
	if (rc < 0)
		return rc;
	rc = invalidate(block, &span);
	pthread_mutex_lock(&ram->lock);
	block->users--;
	pthread_mutex_unlock(&ram->lock);
	return rc;
}

int gr_foreign_get_stats(struct gr_block *block, struct gr_foreign_stats *stats)
{
	struct gr__windows *windows = block->windows;
	int rc = check_windows(block, "stats");

	if (rc < 0)
		return rc;
	memset(stats, 0, sizeof(*stats));
	pthread_mutex_lock(&windows->lock);
	stats->window_size = windows->size;
	stats->max_windows = windows->max;
	stats->published = windows->published;
	stats->retired = windows->retired;
	stats->mapping = windows->mapping;
	stats->misses = windows->now - 1;
	stats->failures = windows->failures;
	stats->evictions = windows->evictions;
	stats->invalidated = windows->invalidated;
	stats->waits = windows->waits;
	pthread_mutex_unlock(&windows->lock);
	return 0;
}

const struct gr__window_ops gr__window_ops = {
	.drop = drop,
	.close = gr__windows_close,
};
