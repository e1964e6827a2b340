/* SPDX-License-Identifier: MIT */
/*
 * Making a block's windows, the miss, and the end of windows. See window.h.
 *
 * Two threads that miss the same window may both map it; who comes second to publish unmaps his own
 * again, which nobody has seen. To let one wait for the other would make a reader wait for whatever
 * the other's map function does.
 */
#include "base/error.h"
#include "os/alloc.h"
#include "os/memory.h"
#include "ram/reclaim.h"
#include "window/window.h"
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <urcu/compiler.h>
#include <urcu/urcu-memb.h>

/* ------------------------------------------------------------------------- making and ending */

static void free_cache(struct gr__windows *windows)
{
	gr__os_unmap(windows->slots, windows->slots_bytes);
	gr__os_unmap(windows->pool, 2 * windows->max * sizeof(*windows->pool));
	gr__os_unmap(windows->heap, windows->max * sizeof(struct gr__mapping *));
	pthread_cond_destroy(&windows->changed);
	pthread_mutex_destroy(&windows->lock);
	gr__free(windows);
}

/* Zeroes that cost memory where they are touched only. */
static int map_zeroes(uint64_t length, void **addr)
{
	return gr__os_map(length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, addr);
}

int gr__windows_open(struct gr_block *block)
{
	const struct gr__mem *mem = &block->mem;
	void *slots = NULL, *pool = NULL, *heap = NULL;
	uint64_t max = mem->max_windows, slots_bytes;
	struct gr__windows *windows;
	int rc;

	if (!mem->window_size)
		return 0;
	/* max_length is below 2^63 and a window at least a page, so nothing here wraps */
	slots_bytes =
		((mem->max_length - 1) / mem->window_size + 1) * sizeof(struct gr__window_slot);
	windows = gr__alloc(sizeof(*windows));
	if (!windows)
		return gr__fail(-ENOMEM, "block %s: no memory", block->name);
	rc = map_zeroes(slots_bytes, &slots);
	if (rc < 0)
		goto free_windows;
	rc = map_zeroes(2 * max * sizeof(*windows->pool), &pool);
	if (rc < 0)
		goto unmap_slots;
	rc = map_zeroes(max * sizeof(struct gr__mapping *), &heap);
	if (rc < 0)
		goto unmap_pool;
	windows->slots = slots;
	windows->slots_bytes = slots_bytes;
	windows->pool = pool;
	windows->heap = heap;
	windows->shift = __builtin_ctzll(mem->window_size);
	windows->size = mem->window_size;
	windows->max = max;
	windows->now = 1;
	windows->block = block;
	pthread_mutex_init(&windows->lock, NULL);
	pthread_cond_init(&windows->changed, NULL);
	block->windows = windows;
	block->window_ops = &gr__window_ops;
	return 0;

unmap_pool:
	gr__os_unmap(pool, 2 * max * sizeof(*windows->pool));
unmap_slots:
	gr__os_unmap(slots, slots_bytes);
free_windows:
	gr__free(windows);
	return gr__fail(rc, "block %s: addresses for its table of windows: %s", block->name,
			strerrordesc_np(-rc));
}

static void unmap(struct gr__mapping *window)
{
	gr__callback_begin();
	gr__mem_window_unmap(&window->windows->block->mem, window->host, window->length);
	gr__callback_end();
}

void gr__windows_close(struct gr_block *block)
{
	struct gr__windows *windows = block->windows;
	uint64_t i;

	/* Nobody else knows them; the lock is for those who only just let go of it. */
	pthread_mutex_lock(&windows->lock);
	pthread_mutex_unlock(&windows->lock);
	for (i = 0; i < windows->published; i++)
		unmap(windows->heap[i]);
	block->windows = NULL;
	free_cache(windows);
}

bool gr__windows_unused(struct gr__windows *windows)
{
	bool unused;

	pthread_mutex_lock(&windows->lock);
	unused = !windows->published && !windows->mapping && !windows->retired;
	pthread_mutex_unlock(&windows->lock);
	return unused;
}

/* -------------------------------------------------------------------------- a window's end */

void gr__window_free(struct gr__mapping *window)
{
	struct gr__windows *windows = window->windows;

	if (window->state == GR__WINDOW_RETIRED)
		windows->retired--;
	else
		windows->mapping--;
	window->state = GR__WINDOW_FREE;
	window->next_free = windows->free;
	windows->free = window;
	pthread_cond_broadcast(&windows->changed);
}

static void unmap_and_free(struct gr__mapping *window, bool waiting)
{
	struct gr__windows *windows = window->windows;

	unmap(window);
	pthread_mutex_lock(&windows->lock);
	windows->waiting -= waiting;
	gr__window_free(window);
	pthread_mutex_unlock(&windows->lock);
}

/* A grace period after it was retired, on the RAM's thread. */
static void end_window(struct gr__garbage *garbage)
{
	struct gr__mapping *window = caa_container_of(garbage, struct gr__mapping, garbage);
	struct gr__windows *windows = window->windows;

	GR_POINT("window.end");
	/* both as in mark_unlinked() of ram/reclaim.c; pairs with gr__window_unpin() */
	if (!__atomic_fetch_or(&window->pins, GR__PINS_UNLINKED, __ATOMIC_ACQ_REL)) {
		unmap_and_free(window, true);
		return;
	}
	/*
	 * The last unpin has it, or had it. What follows is still there: the block's release comes
	 * after this function, on this thread or handed on by it.
	 */
	pthread_mutex_lock(&windows->lock);
	windows->waiting--;
	pthread_mutex_unlock(&windows->lock);
}

void gr__window_unpin(struct gr__mapping *window)
{
	/* as gr__block_put(): one of us and end_window() finds UNLINKED and no other pin, once */
	if (gr_unlikely(__atomic_fetch_sub(&window->pins, 1, __ATOMIC_ACQ_REL) ==
			(GR__PINS_UNLINKED | 1)))
		unmap_and_free(window, false);
}

int gr__window_retire(struct gr__mapping *window, bool soon)
{
	struct gr__windows *windows = window->windows;
	struct gr_block *block = windows->block;
	struct gr_ram *ram = block->ram;
	struct gr__window_slot *slot = gr__window_slot(windows, window->offset);
	int rc = 0;

	pthread_mutex_lock(&ram->lock);
	if (block->sequence) {
		/* only readers who found it before see it still; its release ends all windows */
		rc = gr__fail(-EFAULT, "block %s: it is deleted", block->name);
		goto unlock;
	}
	/* relaxed: the grace period orders them before the unmapping */
	__atomic_store_n(&slot->host, NULL, __ATOMIC_RELAXED);
	__atomic_store_n(&slot->window, NULL, __ATOMIC_RELAXED);
	GR_POINT("window.unpublished");
	gr__heap_remove(windows, window);
	window->state = GR__WINDOW_RETIRED;
	window->garbage.free = end_window;
	windows->retired++;
	windows->waiting++;
	gr__retire_mapping(ram, &window->garbage, soon || windows->waiting > windows->max / 4);
unlock:
	pthread_mutex_unlock(&ram->lock);
	return rc;
}

/* ------------------------------------------------------------------------------------ the miss */

static bool covers(const struct gr__mapping *window, uint64_t offset, uint64_t length)
{
	return gr__range_within(offset - window->offset, length, window->length);
}

/* @passes: others leave some in a moment, or after a grace period. */
static int no_room(struct gr__windows *windows, bool passes)
{
	windows->waits++;
	if (passes) {
		/* this thread may not be one that waits */
		gr__retire_mappings_soon(windows->block->ram);
		return gr__fail(-EAGAIN, "block %s: its windows wait for readers",
				windows->block->name);
	}
	return gr__fail(-ENOBUFS, "block %s: all of its %llu windows are pinned",
			windows->block->name, (unsigned long long)windows->max);
}

/* Room for one more. Lock held. */
static int make_room(struct gr__windows *windows)
{
	struct gr__mapping *oldest;
	int rc;

	/* retired ones too: what is evicted is mapped until later */
	if (windows->published + windows->mapping + windows->retired >= 2 * windows->max)
		return no_room(windows, windows->waiting);
	if (windows->published + windows->mapping < windows->max)
		return 0;
	oldest = gr__heap_oldest(windows);
	if (!oldest)
		return no_room(windows, windows->mapping);
	rc = gr__window_retire(oldest, false);
	if (!rc)
		windows->evictions++;
	return rc;
}

static struct gr__mapping *take_free(struct gr__windows *windows)
{
	struct gr__mapping *window = windows->free;

	if (window)
		windows->free = window->next_free;
	else
		window = &windows->pool[windows->pool_used++];
	return window;
}

/* A window to map, MAPPING; or the one that was published meanwhile. Lock held. */
static int prepare(struct gr__windows *windows, uint64_t offset, uint64_t length,
		   struct gr__mapping **result)
{
	uint64_t first = gr__align_down(offset, windows->size), end;
	struct gr__mapping *window = gr__window_slot(windows, offset)->window;
	int rc;

	*result = window;
	if (window && covers(window, offset, length))
		return 0;
	/* one that ends where its block ended, before it grew */
	rc = window ? gr__window_retire(window, false) : 0;
	if (!rc)
		rc = make_room(windows);
	if (rc < 0)
		return rc;
	/* What the caller's view shows there is, whatever this thread knows of the length. */
	end = gr__block_length(windows->block);
	if (end < offset + length)
		end = offset + length;
	window = take_free(windows);
	*window = (struct gr__mapping){
		.serial = windows->now,
		.offset = first,
		.length = end - first < windows->size ? end - first : windows->size,
		.windows = windows,
		.state = GR__WINDOW_MAPPING,
	};
	windows->mapping++;
	/* relaxed: see gr__window_get() */
	__atomic_store_n(&windows->now, windows->now + 1, __ATOMIC_RELAXED);
	*result = window;
	return 0;
}

/* Lock held. */
static void publish(struct gr__windows *windows, struct gr__mapping *window)
{
	struct gr__window_slot *slot = gr__window_slot(windows, window->offset);

	window->state = GR__WINDOW_PUBLISHED;
	__atomic_store_n(&slot->stamp, windows->now, __ATOMIC_RELAXED);
	windows->mapping--;
	gr__heap_insert(windows, window);
	/* release, both: a reader who finds it finds it whole; pair with GR__SLOT_LOAD() */
	__atomic_store_n(&slot->window, window, __ATOMIC_RELEASE);
	if (window->length == windows->size)
		__atomic_store_n(&slot->host, window->host, __ATOMIC_RELEASE);
	/* who waits for room may now evict it */
	pthread_cond_broadcast(&windows->changed);
}

static int map(struct gr__mapping *window)
{
	void *host = NULL;
	int rc;

	GR_POINT("window.map");
	gr__callback_begin();
	rc = gr__mem_window_map(&window->windows->block->mem, window->offset, window->length,
				&host);
	gr__callback_end();
	GR_POINT("window.mapped");
	if (!rc)
		window->host = host;
	return rc;
}

/*
 * Map @window and publish it: 0. Or -errno, or 1: it is not to be used, *result has the one that is
 * or NULL, when what was mapped is not there any more.
 */
static int map_and_publish(struct gr__windows *windows, struct gr__mapping *window,
			   struct gr__mapping **result)
{
	int rc = map(window);

	pthread_mutex_lock(&windows->lock);
	*result = gr__window_slot(windows, window->offset)->window;
	if (window->stale)
		*result = NULL;
	if (!rc && !window->stale && !*result) {
		publish(windows, window);
		*result = window;
		pthread_mutex_unlock(&windows->lock);
		return 0;
	}
	if (rc < 0) {
		windows->failures++;
		gr__window_free(window);
		pthread_mutex_unlock(&windows->lock);
		return rc;
	}
	pthread_mutex_unlock(&windows->lock);
	GR_POINT("window.lost");
	unmap(window); /* before it is free: gr_foreign_invalidate() waits for that */
	pthread_mutex_lock(&windows->lock);
	gr__window_free(window);
	pthread_mutex_unlock(&windows->lock);
	return 1;
}

__attribute__((noinline)) int gr__window_miss(struct gr__windows *windows, uint64_t offset,
					      uint64_t length, struct gr__mapping **result)
{
	struct gr__mapping *window;
	int rc = gr__ram_check(windows->block->ram, "lookup of an unmapped window");

	if (rc < 0)
		return rc;
	for (;;) {
		pthread_mutex_lock(&windows->lock);
		rc = prepare(windows, offset, length, &window);
		if (rc < 0 || window->state == GR__WINDOW_PUBLISHED) {
			pthread_mutex_unlock(&windows->lock);
			break;
		}
		pthread_mutex_unlock(&windows->lock);
		rc = map_and_publish(windows, window, &window);
		if (rc <= 0)
			break;
		/* the section keeps another's window, but it may be shorter than ours was */
		if (window && covers(window, offset, length)) {
			rc = 0;
			break;
		}
	}
	if (!rc)
		*result = window;
	return rc;
}

bool gr__windows_wait(struct gr_ram *ram)
{
	if (ram->opts.embedder_reclaim) {
		/* he may hold a lock that the readers we would wait for want */
		gr__say("no window is free, and under embedder_reclaim nothing waits for readers");
		return false;
	}
	if (gr__may_wait("no window is free: waiting for one") < 0)
		return false;
	/* those that are being mapped are free in a moment */
	if (!gr__retire_mappings_wait(ram))
		sched_yield();
	return true;
}
