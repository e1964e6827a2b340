/* SPDX-License-Identifier: MIT */
/*
 * Making, deleting and resizing blocks: the memory (backing), the name and RAM offset (ram) and the
 * ranges that show it (space), put together so that nothing is visible before it is complete and a
 * step that fails undoes those before it.
 */
#include "base/error.h"
#include "base/range.h"
#include "ram/claims.h"
#include "ram/directory.h"
#include "ram/listener.h"
#include "ram/marks.h"
#include "ram/reclaim.h"
#include "space/change.h"
#include "window/window.h"
#include <errno.h>
#include <string.h>

/* Take the name. Until the block is live it stands in ram->reserved. */
static int reserve_name(struct gr_block *block)
{
	struct gr_ram *ram = block->ram;
	struct gr_block *other;
	int rc = 0;

	pthread_mutex_lock(&ram->lock);
	rc = gr__ram_check_open(ram);
	if (!rc && gr_block_by_name(ram, block->name))
		rc = -EEXIST;
	cds_list_for_each_entry (other, &ram->reserved, node) {
		if (!rc && !strcmp(other->name, block->name))
			rc = -EEXIST;
	}
	if (!rc)
		cds_list_add(&block->node, &ram->reserved);
	pthread_mutex_unlock(&ram->lock);
	return rc == -EEXIST ? gr__fail(rc, "block %s: the name is taken", block->name) : rc;
}

static void release_name(struct gr_block *block)
{
	pthread_mutex_lock(&block->ram->lock);
	cds_list_del(&block->node);
	pthread_mutex_unlock(&block->ram->lock);
}

static int take_offset(struct gr_block *block)
{
	int rc;

	pthread_mutex_lock(&block->ram->lock);
	rc = gr__offsets_take(&block->ram->offsets, block->mem.max_length, &block->ram_offset);
	pthread_mutex_unlock(&block->ram->lock);
	return rc;
}

static void put_offset(struct gr_block *block)
{
	pthread_mutex_lock(&block->ram->lock);
	gr__offsets_put(&block->ram->offsets, block->ram_offset);
	pthread_mutex_unlock(&block->ram->lock);
}

/*
 * Nobody but listeners has seen the block, and they were told that it goes. Have they let go of it?
 * Waits for their read sections where that is allowed, so that what was created for the block is
 * gone when the caller is told of the failure: he may try again with the same file.
 */
static bool is_let_go(struct gr_block *block)
{
	/* The caller may hold the embedder's lock, for which a reader in its section may wait. */
	if (gr__may_wait(NULL) < 0 || block->ram->opts.embedder_reclaim)
		return false;
	gr__synchronize();
	return !__atomic_load_n(&block->pins, __ATOMIC_ACQUIRE) && /* pairs with gr__block_put() */
	       (!block->windows || gr__windows_unused(block->windows));
}

static void undo_memory(struct gr_block *block, bool told)
{
	struct gr_block_info info;

	gr_block_get_info(block, &info);
	info.host = NULL;
	info.fd = -1;
	if (block->windows)
		gr__windows_close(block);
	gr__mem_undo(&block->mem);
	if (told)
		gr__listeners_tell_reclaimed(block->ram, &info);
}

/* Undo later, as for a block that was deleted. */
static void reclaim_refused(struct gr_block *block)
{
	block->refused = true;
	pthread_mutex_lock(&block->ram->lock);
	cds_list_del(&block->node);
	gr__block_reclaim_later(block);
	pthread_mutex_unlock(&block->ram->lock);
}

int gr_block_new(struct gr_ram *ram, const struct gr_block_opts *opts, struct gr_block **result)
{
	struct gr__change change = {.ram = ram};
	struct gr_block *block;
	int rc = gr__ram_check(ram, "block");

	if (rc < 0)
		return rc;
	if (!opts || !result)
		return gr__fail(-EINVAL, "block: no options or no place for the result");
	rc = gr__reclaim_throttle(ram, !(opts->flags & GR_NO_WAIT));
	if (rc < 0)
		return rc;
	rc = gr__block_alloc(ram, opts, &block);
	if (rc < 0)
		return rc;
	rc = reserve_name(block);
	if (rc < 0)
		goto free_block;
	rc = gr__mem_map(opts, &block->mem);
	if (rc < 0)
		goto release_name;
	block->length = block->mem.length;
	rc = gr__windows_open(block);
	if (rc < 0)
		goto undo_memory;
	rc = take_offset(block);
	if (rc < 0)
		goto undo_memory;
	change.add = block;
	rc = gr__change_run(&change);
	if (rc < 0 && change.told && !is_let_go(block)) {
		reclaim_refused(block);
		return rc;
	}
	if (rc < 0)
		goto undo_block;
	*result = block;
	return 0;

undo_block:
	/* the offset last, as in a release: nobody else gets it while the memory is there */
	undo_memory(block, change.told);
	put_offset(block);
	goto release_name;

undo_memory:
	undo_memory(block, false);
release_name:
	release_name(block);
free_block:
	gr__block_free(block);
	return rc;
}

int gr_block_delete(struct gr_block *block)
{
	struct gr__change change = {.ram = block->ram, .remove = block};
	int rc = gr__ram_check(block->ram, "delete");

	return rc < 0 ? rc : gr__change_run(&change);
}

/* -------------------------------------------------------------------------------- resize */

/* Lock held. When it is fine, a discard has begun. */
static int check_shrink(struct gr_block *block, uint64_t length)
{
	const struct gr__granules *granules = gr__block_open_granules(block);

	if (__atomic_load_n(&block->pins, __ATOMIC_RELAXED))
		return gr__fail(-EBUSY, "block %s: it is pinned", block->name);
	if (granules) {
		/* from the granule on that would be cut */
		uint64_t from = gr__align_down(length, granules->granule);
		uint64_t end = granules->count * granules->granule;
		struct gr__run rest = {from, end - from};

		if (gr__granules_count(granules, granules->plugged, rest))
			return gr__fail(-EBUSY, "block %s: granules past %#llx are plugged",
					block->name, (unsigned long long)length);
	}
	return gr__discard_begin(block, GR__DISCARD_TOLD);
}

static int begin_resize(struct gr_block *block, bool shrink, uint64_t length)
{
	int rc = 0;

	pthread_mutex_lock(&block->ram->lock);
	if (block->busy || block->users)
		rc = gr__fail(-EBUSY, "block %s: another thread is changing it", block->name);
	else if (!block->live)
		rc = gr__fail(-EBUSY, "block %s: it is not published yet", block->name);
	else if (shrink)
		rc = check_shrink(block, length);
	if (!rc)
		block->busy = true;
	pthread_mutex_unlock(&block->ram->lock);
	return rc;
}

static void end_resize(struct gr_block *block, bool shrink)
{
	pthread_mutex_lock(&block->ram->lock);
	if (shrink)
		gr__discard_end(block, GR__DISCARD_TOLD);
	block->busy = false;
	pthread_mutex_unlock(&block->ram->lock);
}

/* Let readers see @length bytes of the block; @again: as it was before. */
static int show_length(struct gr_block *block, uint64_t length, bool again)
{
	struct gr__change change = {
		.ram = block->ram,
		.resize = block,
		.length = length,
		.undo = again,
	};

	return gr__change_run(&change);
}

/* This thread has `busy`, so granules are neither opened nor closed. */
static bool is_granular(struct gr_block *block)
{
	bool open;

	pthread_mutex_lock(&block->ram->lock);
	open = gr__block_open_granules(block);
	pthread_mutex_unlock(&block->ram->lock);
	return open;
}

static int grow(struct gr_block *block, uint64_t length)
{
	uint64_t before = block->length;
	int rc = gr__mem_resize(&block->mem, length);

	if (rc < 0)
		return rc;
	gr__mark_block(block, before, length - before);
	rc = show_length(block, length, false);
	if (rc < 0 && gr__mem_resize(&block->mem, before) < 0)
		gr__ram_log(block->ram, GR_LOG_WARNING, "block %s: its memory stays grown: %s",
			    block->name, gr_last_error());
	/* what it grew by is unplugged, whatever GR_PREALLOC or GR_LOCKED made of it */
	if (!rc && is_granular(block) && gr__mem_discard(&block->mem, before, length - before) < 0)
		gr__ram_log(block->ram, GR_LOG_WARNING,
			    "block %s: unplugged granules keep their memory: %s", block->name,
			    gr_last_error());
	return rc;
}

static int shrink(struct gr_block *block, uint64_t length)
{
	uint64_t before = block->length;
	int rc = show_length(block, length, false);

	if (rc < 0)
		return rc;
	/* From here on new sections do not see the tail; wait for those that do. */
	gr__synchronize();
	if (__atomic_load_n(&block->pins, __ATOMIC_ACQUIRE)) {
		rc = gr__fail(-EBUSY, "block %s: it was pinned while it was to shrink",
			      block->name);
		goto show_again;
	}
	/* what is mapped of the tail goes before it, but for a window that the rest needs */
	if (block->windows)
		block->window_ops->drop(block, length, before - length);
	gr__callback_begin(); /* gr_foreign_ops.discard runs in there */
	rc = gr__mem_resize(&block->mem, length);
	gr__callback_end();
	if (rc < 0)
		goto show_again;
	return 0;

show_again:
	if (show_length(block, before, true) < 0)
		gr__ram_log(block->ram, GR_LOG_WARNING, "block %s: its tail stays hidden: %s",
			    block->name, gr_last_error());
	return rc;
}

/*
 * A shrink before this one could neither discard its tail nor show it again. Nobody has seen it
 * since that shrink waited for readers.
 */
static int give_tail_back(struct gr_block *block)
{
	return gr__mem_resize(&block->mem, block->length);
}

int gr_block_resize(struct gr_block *block, uint64_t used_length)
{
	uint64_t length, before;
	bool shrink_it;
	int rc = gr__ram_check(block->ram, "resize");

	if (rc < 0)
		return rc;
	if (!used_length)
		return gr__fail(-EINVAL, "block %s: resize to 0 bytes", block->name);
	if (!gr__align_up(used_length, block->mem.page_size, &length) ||
	    length > block->mem.max_length)
		return gr__fail(-ERANGE, "block %s: %#llx bytes are over its maximum of %#llx",
				block->name, (unsigned long long)used_length,
				(unsigned long long)block->mem.max_length);
	before = gr__block_length(block);
	shrink_it = length < before;
	if (shrink_it) {
		rc = gr__may_wait("resize");
		if (rc < 0)
			return rc;
	}
	rc = begin_resize(block, shrink_it, length);
	if (rc < 0)
		return rc;
	if (!shrink_it && length < block->length) {
		rc = gr__fail(-EBUSY, "block %s: another thread has resized it", block->name);
		goto end_resize;
	}
	before = block->length; /* nobody else changes it now */
	/* before anybody is told of a length that cannot be: to tell it back may fail */
	if (length != before)
		rc = gr__mem_check_resizable(&block->mem);
	if (!rc && before < block->mem.length)
		rc = give_tail_back(block);
	if (rc < 0)
		goto end_resize;
	if (length > before)
		rc = grow(block, length);
	else if (length < before)
		rc = shrink(block, length);
end_resize:
	end_resize(block, shrink_it);
	return rc;
}
