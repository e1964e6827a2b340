/* SPDX-License-Identifier: MIT */
/*
 * A pager for blocks of this process: what it takes to begin and to end. The rest is in paging.h.
 *
 * Threads: gr_pager_open() keeps each block from being changed (users, a discard under way) until
 * its memory is watched and knows who fills it. A block that is deleted later ends its piece when
 * it is reclaimed, since readers may touch it until then.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/uffd.h"
#include "pager/paging.h"
#include "ram/claims.h"
#include "ram/marks.h"
#include "ram/ram.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct gr_pager {
	struct gr_ram *ram;
	struct gr_page_source source;
	struct gr__pool pool;
	struct gr__order order;
	struct gr__paging paging;
	char *record; /* or NULL */
};

static void log_line(void *context, enum gr_log_level level, const char *line)
{
	gr__ram_log(context, level, "%s", line);
}

/* --------------------------------------------------------------------------- which blocks */

struct blocks {
	struct gr_block **items;
	unsigned count, room;
};

static int count_block(void *context, struct gr_block *block)
{
	(void)block;
	(*(unsigned *)context)++;
	return 0;
}

static int add_block(void *context, struct gr_block *block)
{
	struct blocks *blocks = context;

	blocks->items[blocks->count++] = block;
	return 0;
}

/* What userfaultfd and our own discard can do. */
static const char *unfit(const struct gr__mem *mem)
{
	if (mem->backing == GR_BACKING_CALLER)
		return "it is the caller's memory";
	if (!mem->host)
		return "it is seen through windows";
	if (mem->fd >= 0 && !(mem->flags & GR_SHARED))
		return "it is a private file";
	if (mem->flags & GR_LOCKED)
		return "it is locked";
	if (mem->flags & GR_READ_ONLY)
		return "it is read-only";
	return NULL;
}

/* Lock held: keep it as it is until put_blocks(). */
static int hold_block(struct gr_block *block)
{
	const char *why = unfit(&block->mem);
	int rc;

	if (why)
		return gr__fail(-ENOTSUP, "pager: block %s: %s", block->name, why);
	if (!block->live || block->busy)
		return gr__fail(-EBUSY, "pager: block %s: another thread is changing it",
				block->name);
	if (block->mem.filler)
		return gr__fail(-EBUSY, "pager: block %s has a pager", block->name);
	rc = gr__discard_begin(block, GR__DISCARD_UNTOLD);
	if (!rc)
		block->users++;
	return rc;
}

static void put_blocks(struct gr_ram *ram, struct blocks *blocks)
{
	pthread_mutex_lock(&ram->lock);
	while (blocks->count) {
		struct gr_block *block = blocks->items[--blocks->count];

		gr__discard_end(block, GR__DISCARD_UNTOLD);
		block->users--;
	}
	pthread_mutex_unlock(&ram->lock);
	gr__free(blocks->items);
}

/* Lock held. */
static int hold_blocks(struct gr_ram *ram, struct gr_block *only, struct blocks *blocks)
{
	unsigned count = only ? 1 : 0, held;
	int rc = 0;

	if (!only)
		gr_ram_each_block(ram, count_block, &count);
	if (!count)
		return gr__fail(-EINVAL, "pager: the RAM has no block");
	blocks->items = gr__alloc_array(count, sizeof(struct gr_block *));
	if (!blocks->items)
		return gr__fail(-ENOMEM, "pager: no memory for %u blocks", count);
	if (only)
		add_block(blocks, only);
	else
		gr_ram_each_block(ram, add_block, blocks);
	for (held = 0; held < blocks->count && !rc; held++)
		rc = hold_block(blocks->items[held]);
	if (rc < 0)
		blocks->count = held - 1;
	return rc;
}

static int take_blocks(struct gr_ram *ram, struct gr_block *only, struct blocks *blocks)
{
	int rc;

	gr_read_begin();
	pthread_mutex_lock(&ram->lock);
	rc = hold_blocks(ram, only, blocks);
	pthread_mutex_unlock(&ram->lock);
	gr_read_end();
	if (rc < 0)
		put_blocks(ram, blocks);
	return rc;
}

/* ---------------------------------------------------------------------------- their pieces */

static int by_address(const void *a, const void *b)
{
	const struct gr__paged *one = a, *other = b;

	return one->addr < other->addr ? -1 : one->addr > other->addr;
}

static int fill_piece(struct gr_pager *pager, struct gr__paged *piece, struct gr_block *block,
		      const struct gr_pager_opts *opts)
{
	const char *name = opts->block && opts->name ? opts->name : block->name;
	uint64_t offset = opts->block ? opts->source_offset : 0;
	struct gr_page_source_info info;
	int found = pager->source.ops->find(pager->source.context, name, &info);

	if (found < 0)
		return gr__fail(found, "pager: the source's block %s for block %s: %s", name,
				block->name, strerrordesc_np(-found));
	if (!gr__is_aligned(offset, GR_PAGE_SIZE))
		return gr__fail(-EINVAL, "pager: block %s: an offset of %#llx, no multiple of %u",
				block->name, (unsigned long long)offset, GR_PAGE_SIZE);
	if (!gr__range_within(offset, block->mem.length, info.length))
		return gr__fail(-ERANGE,
				"pager: block %s has %#llx bytes, from %#llx on in the source's "
				"%#llx",
				block->name, (unsigned long long)block->mem.length,
				(unsigned long long)offset, (unsigned long long)info.length);
	piece->name = gr__strdup(name);
	if (!piece->name)
		return gr__fail(-ENOMEM, "pager: block %s: no memory", block->name);
	*piece = (struct gr__paged){
		.name = piece->name,
		.filler = {&gr__paged_filler_ops},
		.mem = &block->mem,
		.owner = block,
		.addr = (uintptr_t)block->mem.host,
		.length = block->mem.length,
		.page_size = block->mem.page_size,
		.block = found,
		.source_offset = offset,
		.chunk = info.chunk,
	};
	return 0;
}

static int fill_pieces(struct gr_pager *pager, struct gr__paged *pieces,
		       const struct blocks *blocks, const struct gr_pager_opts *opts)
{
	unsigned i, k;
	int rc;

	for (i = 0; i < blocks->count; i++) {
		rc = fill_piece(pager, &pieces[i], blocks->items[i], opts);
		if (rc < 0)
			return rc;
		for (k = 0; k < i; k++)
			if (pieces[k].block == pieces[i].block)
				return gr__fail(-EINVAL,
						"pager: blocks %s and %s are one of the source's",
						pieces[k].owner->name, pieces[i].owner->name);
	}
	qsort(pieces, blocks->count, sizeof(*pieces), by_address);
	return 0;
}

/* Granules that are not plugged are zero, whatever the source has. */
static void finish_unplugged(struct gr__paged *piece)
{
	const struct gr__granules *granules = gr__block_open_granules(piece->owner);
	uint64_t offset;

	for (offset = 0; granules && offset < piece->length; offset += granules->granule)
		if (!gr__granules_count(granules, granules->plugged,
					(struct gr__run){offset, granules->granule}))
			gr__paged_finish(piece, offset, granules->granule);
}

static int watch_pieces(struct gr_pager *pager)
{
	struct gr__paging *paging = &pager->paging;
	unsigned i;
	int rc;

	paging->uffd = gr__uffd_open_missing();
	if (paging->uffd < 0)
		return gr__fail(paging->uffd, "pager: userfaultfd: %s%s",
				strerrordesc_np(-paging->uffd),
				paging->uffd == -EPERM ? "; see vm.unprivileged_userfaultfd" : "");
	for (i = 0; i < paging->count; i++) {
		struct gr__paged *piece = &paging->pieces[i];

		rc = gr__uffd_register_missing(paging->uffd, piece->mem->host, piece->length);
		if (rc < 0)
			return gr__fail(rc, "pager: block %s: %s", piece->owner->name,
					rc == -EBUSY ? "it is watched by another userfaultfd"
						     : strerrordesc_np(-rc));
	}
	return 0;
}

/* Nothing is there any more, and whoever touches it from now on is heard of. */
static int empty_pieces(struct gr_pager *pager)
{
	struct gr__paging *paging = &pager->paging;
	struct gr_ram *ram = pager->ram;
	unsigned i;
	int rc = 0;

	for (i = 0; i < paging->count && !rc; i++) {
		struct gr__paged *piece = &paging->pieces[i];

		rc = gr__mem_discard(piece->mem, 0, piece->length);
		if (!rc)
			gr__mark_block(piece->owner, 0, piece->length);
	}
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&ram->lock);
	for (i = 0; i < paging->count; i++) {
		finish_unplugged(&paging->pieces[i]);
		/* release: it is whole; pairs with filler_of() */
		__atomic_store_n(&paging->pieces[i].mem->filler, &paging->pieces[i].filler,
				 __ATOMIC_RELEASE);
	}
	ram->holders++;
	pthread_mutex_unlock(&ram->lock);
	return 0;
}

/* -------------------------------------------------------------------------------- open, close */

static void free_pager(struct gr_pager *pager)
{
	gr__pool_close(&pager->pool);
	gr__order_fini(&pager->order);
	gr__free(pager->record);
	gr__free(pager);
}

static int check_opts(const struct gr_page_source *source, const struct gr_pager_opts *opts,
		      struct gr_pager **result)
{
	size_t i;

	if (!source || !source->ops || !source->ops->find || !source->ops->read || !result)
		return gr__fail(-EINVAL, "pager: no source, or no place for the result");
	if (opts->flags & ~GR_PAGER_NO_PREFETCH)
		return gr__fail(-EINVAL, "pager: flags %#x", opts->flags);
	for (i = 0; i < sizeof(opts->reserved) / sizeof(opts->reserved[0]); i++)
		if (opts->reserved[i])
			return gr__fail(-EINVAL, "pager: reserved options are not zero");
	return 0;
}

static int open_parts(struct gr_pager *pager, const struct gr_pager_opts *opts)
{
	struct gr__paging *paging = &pager->paging;
	int rc;

	paging->pool = &pager->pool;
	paging->source = &pager->source;
	paging->flags = opts->flags;
	paging->uffd = paging->peer = paging->wake = paging->ended = -1;
	paging->say = log_line;
	paging->say_context = pager->ram;
	if (opts->record) {
		pager->record = gr__strdup(opts->record);
		if (!pager->record)
			return gr__fail(-ENOMEM, "pager: no memory");
		paging->recording = true;
	}
	if (!opts->prefetch)
		return 0;
	rc = gr__order_load(&pager->order, opts->prefetch, &pager->source);
	paging->order = &pager->order;
	return rc;
}

/* Of a pager whose blocks are held. */
static int begin(struct gr_pager *pager, const struct blocks *blocks,
		 const struct gr_pager_opts *opts)
{
	struct gr__paging *paging = &pager->paging;
	struct gr__paged *pieces = gr__alloc_array(blocks->count, sizeof(*pieces));
	unsigned i;
	int rc;

	if (!pieces)
		return gr__fail(-ENOMEM, "pager: no memory for %u blocks", blocks->count);
	rc = fill_pieces(pager, pieces, blocks, opts);
	if (!rc)
		rc = gr__paging_open(paging, pieces, blocks->count);
	if (rc < 0) {
		for (i = 0; i < blocks->count; i++)
			gr__free(pieces[i].name);
		gr__free(pieces);
		return rc;
	}
	rc = gr__pool_open(&pager->pool, &pager->source, opts->workers, opts->max_buffers,
			   paging->largest);
	if (!rc)
		rc = gr__paging_start(paging);
	if (rc < 0)
		goto close_paging;
	rc = watch_pieces(pager);
	if (!rc)
		rc = empty_pieces(pager);
	if (rc < 0)
		goto stop_paging;
	gr__paging_go(paging);
	return 0;

stop_paging:
	gr__paging_stop(paging);
close_paging:
	gr__paging_close(paging);
	return rc;
}

int gr_pager_open(struct gr_ram *ram, const struct gr_page_source *source,
		  const struct gr_pager_opts *opts, struct gr_pager **result)
{
	static const struct gr_pager_opts none;
	struct blocks blocks = {0};
	struct gr_pager *pager;
	int rc = gr__ram_check(ram, "pager");

	if (!opts)
		opts = &none;
	if (!rc)
		rc = gr__may_wait("pager");
	if (!rc)
		rc = check_opts(source, opts, result);
	if (rc < 0)
		return rc;
	pager = gr__alloc(sizeof(*pager));
	if (!pager)
		return gr__fail(-ENOMEM, "pager: no memory");
	pager->ram = ram;
	pager->source = *source;
	rc = open_parts(pager, opts);
	if (!rc)
		rc = take_blocks(ram, opts->block, &blocks);
	if (rc < 0)
		goto free_pager;
	rc = begin(pager, &blocks, opts);
	put_blocks(ram, &blocks);
	if (rc < 0)
		goto free_pager;
	*result = pager;
	return 0;

free_pager:
	free_pager(pager);
	return rc;
}

int gr_pager_wait(struct gr_pager *pager, int timeout_ms)
{
	struct gr__paging *paging = &pager->paging;
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	if (timeout_ms > 0) {
		until.tv_sec += timeout_ms / 1000;
		until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000;
		}
	}
	pthread_mutex_lock(&paging->lock);
	while (!paging->complete && !paging->left && !rc) {
		if (timeout_ms < 0)
			pthread_cond_wait(&paging->over, &paging->lock);
		else
			rc = pthread_cond_timedwait(&paging->over, &paging->lock, &until);
	}
	rc = paging->complete ? 0 : paging->left ? paging->rc : -ETIMEDOUT;
	pthread_mutex_unlock(&paging->lock);
	if (rc == -ETIMEDOUT)
		return gr__fail(rc, "pager: pages are missing after %d ms", timeout_ms);
	return rc < 0 ? gr__fail(rc, "pager: it has ended: %s", strerrordesc_np(-rc)) : 0;
}

void gr_pager_get_stats(struct gr_pager *pager, struct gr_pager_stats *stats)
{
	gr__paging_stats(&pager->paging, stats);
}

static const char *name_of(void *context, int block)
{
	const struct gr__paging *paging = context;
	unsigned i;

	for (i = 0; i < paging->count; i++)
		if (paging->pieces[i].block == block)
			return paging->pieces[i].name;
	return NULL;
}

int gr_pager_close(struct gr_pager *pager)
{
	struct gr__paging *paging;
	int rc;

	if (!pager)
		return 0;
	rc = gr__may_wait("pager");
	if (rc < 0)
		return rc;
	paging = &pager->paging;
	gr__paging_stop(paging);
	gr__paging_leave(paging);
	/* discards that still know it */
	gr__synchronize();
	if (pager->record)
		rc = gr__order_save(&paging->record, pager->record, name_of, paging);
	pthread_mutex_lock(&pager->ram->lock);
	pager->ram->holders--;
	pthread_mutex_unlock(&pager->ram->lock);
	gr__paging_close(paging);
	free_pager(pager);
	return rc;
}
