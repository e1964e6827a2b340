/* SPDX-License-Identifier: MIT */
/*
 * A source that sees every write to the RAM's blocks by page protection.
 *
 * ASYNC: the kernel takes the protection off a page that is written, and tells which by
 * PAGEMAP_SCAN, which puts it on again in the same step: no write is between two scans without
 * being in one.
 *
 * SYNC: a write to a protected page waits for our thread, which notes the page as open and takes
 * the protection off. A collect protects an open page again first and reports it then, so that a
 * write in between waits, and is noted for the next. Both under watch->lock.
 *
 * Only the used part of a block is protected: the rest is no memory. `seen` says how much of it is.
 * What a block shrinks by is another mapping when it comes back: it is taken in, and reported as
 * written, at the next collect.
 *
 * Threads: added, removed and collect one at a time (state->lock of dirty.h); watch->lock, inside
 * that, is for the thread of SYNC.
 */
#include "base/error.h"
#include "base/range.h"
#include "dirty/dirty.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/thread.h"
#include "os/uffd.h"
#include <errno.h>
#include <poll.h>
#include <string.h>

struct watched {
	struct cds_list_head node; /* wr: watch->lock */
	struct gr_block *block;
	char *host;	    /* const */
	uint64_t page_size; /* const */
	uint64_t seen;	    /* wr: watch->lock: bytes that are registered */
	uint64_t *open;	    /* wr: watch->lock: SYNC: pages without protection, or NULL */
};

struct watch {
	enum gr_watch_mode mode; /* const */
	int uffd;
	int pagemap; /* ASYNC */
	void *room;  /* ASYNC; wr: lock: for what the kernel says */
	int stop;    /* SYNC: event that ends the thread */
	pthread_t thread;
	bool has_thread;
	pthread_mutex_t lock;
	struct cds_list_head blocks; /* wr: lock */
};

static struct watched *find(struct watch *watch, const struct gr_block *block)
{
	struct watched *watched;

	cds_list_for_each_entry (watched, &watch->blocks, node)
		if (watched->block == block)
			return watched;
	return NULL;
}

static uint64_t words_of(uint64_t length, uint64_t page_size)
{
	return (length / page_size + 63) / 64;
}

/* ------------------------------------------------------------------------------------ blocks */

/* Take in what the block has grown to. watch->lock held. */
static int take_in(struct watch *watch, struct watched *watched, uint64_t length)
{
	char *from = watched->host + watched->seen;
	uint64_t more = length - watched->seen;
	int rc = gr__uffd_register(watch->uffd, from, more);

	if (rc < 0)
		return gr__fail(rc == -EINVAL ? -ENOTSUP : rc,
				"watch: block %s: the kernel cannot write-protect this kind of "
				"memory: %s",
				watched->block->name, strerrordesc_np(-rc));
	rc = gr__uffd_protect(watch->uffd, from, more, true);
	if (rc < 0) {
		gr__uffd_unregister(watch->uffd, from, more);
		return gr__fail(rc, "watch: block %s: write protection: %s", watched->block->name,
				strerrordesc_np(-rc));
	}
	watched->seen = length;
	return 0;
}

static void free_watched(struct watched *watched)
{
	gr__free(watched->open);
	gr__free(watched);
}

static int on_added(void *context, struct gr_block *block)
{
	struct watch *watch = context;
	struct watched *watched = gr__alloc(sizeof(*watched));
	int rc;

	if (!watched)
		return gr__fail(-ENOMEM, "watch: no memory for block %s", block->name);
	watched->block = block;
	watched->host = block->mem.host;
	watched->page_size = block->mem.page_size;
	if (watch->mode == GR_WATCH_SYNC) {
		watched->open = gr__alloc_array(words_of(block->mem.max_length, watched->page_size),
						sizeof(uint64_t));
		if (!watched->open) {
			rc = gr__fail(-ENOMEM, "watch: no memory for block %s", block->name);
			goto free_watched;
		}
	}
	pthread_mutex_lock(&watch->lock);
	/* in the list first: a write may wait as soon as it is protected */
	cds_list_add_tail(&watched->node, &watch->blocks);
	rc = take_in(watch, watched, gr__block_length(block));
	if (rc < 0)
		cds_list_del(&watched->node);
	pthread_mutex_unlock(&watch->lock);
	if (!rc)
		return 0;

free_watched:
	free_watched(watched);
	return rc;
}

static void on_removed(void *context, struct gr_block *block)
{
	struct watch *watch = context;
	struct watched *watched;

	pthread_mutex_lock(&watch->lock);
	watched = find(watch, block);
	if (watched) {
		/* takes the protection off, and wakes who waits */
		gr__uffd_unregister(watch->uffd, watched->host, watched->seen);
		cds_list_del(&watched->node);
		free_watched(watched);
	}
	pthread_mutex_unlock(&watch->lock);
}

/* ----------------------------------------------------------------------------------- collect */

struct reporter {
	struct gr_dirty_sink *sink;
	uintptr_t host;
};

static void report(void *context, uintptr_t addr, uint64_t length)
{
	const struct reporter *reporter = context;

	gr_dirty_report(reporter->sink, addr - reporter->host, length);
}

/* Open pages [first, last], by runs. watch->lock held. */
static int close_pages(struct watch *watch, struct watched *watched, uint64_t first, uint64_t last,
		       struct gr_dirty_sink *sink)
{
	uint64_t page_size = watched->page_size, page = first, run;
	int rc;

	while (page <= last) {
		if (!(watched->open[page >> 6] >> (page & 63))) {
			page = gr__align_down(page, 64) + 64;
			continue;
		}
		page += __builtin_ctzll(watched->open[page >> 6] >> (page & 63));
		for (run = page; run <= last && watched->open[run >> 6] >> (run & 63) & 1; run++)
			watched->open[run >> 6] &= ~(UINT64_C(1) << (run & 63));
		if (run == page)
			break; /* past the part */
		rc = gr__uffd_protect(watch->uffd, watched->host + page * page_size,
				      (run - page) * page_size, true);
		if (rc < 0) {
			for (; run-- > page;)
				watched->open[run >> 6] |= UINT64_C(1) << (run & 63);
			return gr__fail(rc, "watch: block %s: write protection: %s",
					watched->block->name, strerrordesc_np(-rc));
		}
		gr_dirty_report(sink, page * page_size, (run - page) * page_size);
		page = run;
	}
	return 0;
}

static int collect(struct watch *watch, struct watched *watched, uint64_t offset, uint64_t length,
		   struct gr_dirty_sink *sink)
{
	uint64_t used = gr__block_length(watched->block), end = offset + length;
	struct reporter reporter = {sink, (uintptr_t)watched->host};
	uint64_t seen = watched->seen;
	int rc;

	if (used > seen) {
		rc = take_in(watch, watched, used);
		if (rc < 0)
			return rc;
		gr_dirty_report(sink, seen, used - seen);
	}
	end = end < seen ? end : seen;
	if (offset >= end)
		return 0;
	if (watch->mode == GR_WATCH_SYNC)
		return close_pages(watch, watched, offset / watched->page_size,
				   (end - 1) / watched->page_size, sink);
	/* whole pages of the backing: a huge one is written or not as a whole */
	offset = gr__align_down(offset, watched->page_size);
	if (!gr__align_up(end, watched->page_size, &end))
		return -ERANGE;
	rc = gr__pagemap_take_written(watch->pagemap, watch->room, watched->host + offset,
				      end - offset, report, &reporter);
	if (rc < 0)
		return gr__fail(rc, "watch: block %s: PAGEMAP_SCAN: %s", watched->block->name,
				strerrordesc_np(-rc));
	return 0;
}

static int on_collect(void *context, struct gr_block *block, uint64_t offset, uint64_t length,
		      struct gr_dirty_sink *sink)
{
	struct watch *watch = context;
	struct watched *watched;
	int rc;

	pthread_mutex_lock(&watch->lock);
	watched = find(watch, block);
	rc = watched ? collect(watch, watched, offset, length, sink) : 0;
	pthread_mutex_unlock(&watch->lock);
	return rc;
}

/* Pages that were given back have lost their protection; so may others that were marked. */
static void on_noted(void *context, struct gr_block *block, uint64_t offset, uint64_t length)
{
	struct watch *watch = context;
	struct watched *watched;
	uint64_t page, last;

	if (watch->mode != GR_WATCH_SYNC)
		return; /* PAGEMAP_SCAN sees them */
	pthread_mutex_lock(&watch->lock);
	watched = find(watch, block);
	if (watched && offset < watched->seen) {
		last = (offset + length < watched->seen ? offset + length : watched->seen) - 1;
		for (page = offset / watched->page_size; page <= last / watched->page_size; page++)
			watched->open[page >> 6] |= UINT64_C(1) << (page & 63);
	}
	pthread_mutex_unlock(&watch->lock);
}

/* What the block grows by is taken in by the next collect. */
static void on_resized(void *context, struct gr_block *block, uint64_t old_length)
{
	struct watch *watch = context;
	uint64_t length = gr__block_length(block);
	struct watched *watched;

	pthread_mutex_lock(&watch->lock);
	watched = find(watch, block);
	if (watched && watched->seen > length)
		watched->seen = length;
	pthread_mutex_unlock(&watch->lock);
}

static const struct gr_dirty_source_ops watch_ops = {
	.added = on_added,
	.removed = on_removed,
	.resized = on_resized,
	.noted = on_noted,
	.collect = on_collect,
};

/* ------------------------------------------------------------------------------ thread of SYNC */

static void answer(struct watch *watch, uintptr_t addr)
{
	struct watched *watched;

	pthread_mutex_lock(&watch->lock);
	cds_list_for_each_entry (watched, &watch->blocks, node) {
		uint64_t page = (addr - (uintptr_t)watched->host) / watched->page_size;

		if (addr - (uintptr_t)watched->host >= watched->seen)
			continue;
		watched->open[page >> 6] |= UINT64_C(1) << (page & 63);
		gr__uffd_protect(watch->uffd, watched->host + page * watched->page_size,
				 watched->page_size, false);
		break;
	}
	pthread_mutex_unlock(&watch->lock);
}

static void serve(void *arg)
{
	struct watch *watch = arg;
	struct pollfd fds[] = {{.fd = watch->uffd, .events = POLLIN},
			       {.fd = watch->stop, .events = POLLIN}};
	uintptr_t addr;

	while (!fds[1].revents) {
		if (poll(fds, 2, -1) < 0)
			continue;
		while (gr__uffd_next(watch->uffd, &addr))
			answer(watch, addr);
	}
}

/* --------------------------------------------------------------------------- opening, closing */

static void free_watch(void *context)
{
	struct watch *watch = context;

	if (watch->has_thread) {
		gr__event_set(watch->stop);
		gr__thread_join(watch->thread);
	}
	gr__fd_close(watch->stop);
	gr__fd_close(watch->pagemap);
	gr__fd_close(watch->uffd);
	gr__free(watch->room);
	pthread_mutex_destroy(&watch->lock);
	gr__free(watch);
}

static int open_kernel(struct watch *watch, enum gr_watch_mode mode)
{
	bool async = mode != GR_WATCH_SYNC;
	int rc = gr__uffd_open(async);

	if (rc == -ENOTSUP && mode == GR_WATCH_AUTO) {
		async = false;
		rc = gr__uffd_open(async);
	}
	if (rc < 0)
		return gr__fail(rc, "watch: userfaultfd%s: %s", async ? " with WP_ASYNC" : "",
				rc == -ENOTSUP ? "this kernel has none"
				: rc == -EPERM ? "not allowed; see vm.unprivileged_userfaultfd"
					       : strerrordesc_np(-rc));
	watch->uffd = rc;
	watch->mode = async ? GR_WATCH_ASYNC : GR_WATCH_SYNC;
	rc = async ? gr__pagemap_open() : gr__event_open();
	if (rc < 0)
		return gr__fail(rc, "watch: %s: %s", async ? "/proc/self/pagemap" : "eventfd",
				strerrordesc_np(-rc));
	if (async) {
		watch->pagemap = rc;
		watch->room = gr__alloc_raw(GR__PAGEMAP_ROOM);
		return watch->room ? 0 : gr__fail(-ENOMEM, "watch: no memory");
	}
	watch->stop = rc;
	rc = gr__thread_start(serve, watch, "gr-watch", &watch->thread);
	if (rc < 0)
		return gr__fail(rc, "watch: no thread: %s", strerrordesc_np(-rc));
	watch->has_thread = true;
	return 0;
}

int gr_dirty_watch_open(struct gr_ram *ram, enum gr_watch_mode mode,
			struct gr_dirty_source **result)
{
	struct watch *watch;
	int rc;

	if ((unsigned)mode > GR_WATCH_SYNC)
		return gr__fail(-EINVAL, "watch: no mode %d", mode);
	watch = gr__alloc(sizeof(*watch));
	if (!watch)
		return gr__fail(-ENOMEM, "watch: no memory");
	watch->uffd = watch->pagemap = watch->stop = -1;
	pthread_mutex_init(&watch->lock, NULL);
	CDS_INIT_LIST_HEAD(&watch->blocks);
	rc = open_kernel(watch, mode);
	if (!rc)
		rc = gr__source_open(ram, &watch_ops, watch, free_watch, result);
	if (rc < 0)
		free_watch(watch);
	return rc;
}

enum gr_watch_mode gr_dirty_watch_mode(const struct gr_dirty_source *source)
{
	return ((const struct watch *)source->context)->mode;
}
