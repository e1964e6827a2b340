/* SPDX-License-Identifier: MIT */
/*
 * What a block is, apart from how it changes: building and freeing the structure, telling about it,
 * discarding pages. Making, deleting and resizing blocks changes spaces too: space/blocks.c.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/probe.h"
#include "ram/claims.h"
#include "ram/marks.h"
#include "ram/ram.h"
#include <errno.h>
#include <string.h>

int gr__block_alloc(struct gr_ram *ram, const struct gr_block_opts *opts, struct gr_block **result)
{
	size_t name_length = opts->name ? strnlen(opts->name, 256) : 0;
	struct gr_block *block;

	if (!name_length || name_length > 255)
		return gr__fail(-EINVAL, "block: a name has 1 to 255 bytes");
	block = gr__alloc(sizeof(*block));
	if (!block)
		return gr__fail(-ENOMEM, "block %s: no memory", opts->name);
	block->name = gr__strdup(opts->name);
	if (!block->name) {
		gr__free(block);
		return gr__fail(-ENOMEM, "block %s: no memory", opts->name);
	}
	block->ram = ram;
	block->user = opts->user;
	CDS_INIT_LIST_HEAD(&block->node);
	*result = block;
	return 0;
}

void gr__block_free(struct gr_block *block)
{
	if (!block)
		return;
	gr__granules_free(block->granules);
	gr__free(block->name);
	gr__free(block);
}

void gr_block_get_info(const struct gr_block *block, struct gr_block_info *info)
{
	const struct gr__mem *mem = &block->mem;

	*info = (struct gr_block_info){
		.name = block->name,
		.host = mem->host,
		.length = gr__block_length(block),
		.max_length = mem->max_length,
		.page_size = mem->page_size,
		.ram_offset = block->ram_offset,
		.fd = mem->fd,
		.fd_offset = mem->fd_offset,
		.backing = mem->backing,
		.flags = mem->flags,
		.mapped = __atomic_load_n(&block->mapped, __ATOMIC_RELAXED),
		.pins = __atomic_load_n(&block->pins, __ATOMIC_RELAXED) & ~GR__PINS_UNLINKED,
		.lost_pages = gr__mem_lost_pages(mem),
		.user = block->user,
	};
}

int gr_block_share_fd(const struct gr_block *block, int *fd, uint64_t *offset)
{
	if (block->mem.backing == GR_BACKING_FOREIGN)
		return gr__fail(-ENOTSUP, "block %s: foreign memory has no descriptor to share",
				block->name);
	if (!(block->mem.flags & GR_SHARED) || block->mem.fd < 0)
		return gr__fail(-ENOTSUP,
				"block %s: its memory is private to this process; make it with "
				"GR_BACKING_MEMFD, or GR_BACKING_FILE and GR_SHARED",
				block->name);
	*fd = block->mem.fd;
	*offset = block->mem.fd_offset;
	return 0;
}

int gr_block_discard(struct gr_block *block, uint64_t offset, uint64_t length)
{
	struct gr_ram *ram = block->ram;
	int rc = gr__ram_check(ram, "discard");

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&ram->lock);
	if (!gr__range_within(offset, length, block->length))
		rc = gr__fail(-ERANGE,
			      "block %s: discard of %#llx bytes at %#llx leaves its %#llx bytes",
			      block->name, (unsigned long long)length, (unsigned long long)offset,
			      (unsigned long long)block->length);
	else if (!gr__is_aligned(offset | length, block->mem.page_size))
		rc = gr__fail(-EINVAL,
			      "block %s: discard of %#llx bytes at %#llx: not multiples of %#llx",
			      block->name, (unsigned long long)length, (unsigned long long)offset,
			      (unsigned long long)block->mem.page_size);
	else if (block->busy || !block->live)
		rc = gr__fail(-EBUSY, "block %s: it is being resized or deleted", block->name);
	else
		rc = gr__discard_begin(block, GR__DISCARD_UNTOLD);
	if (!rc)
		block->users++;
	pthread_mutex_unlock(&ram->lock);
	if (rc < 0)
		return rc;
	gr__callback_begin(); /* gr_foreign_ops.discard runs in there */
	if (length)
		rc = gr__mem_discard(&block->mem, offset, length);
	gr__callback_end();
	/*
	 * A window of a file shows what is in the file, another may show what was there; after a
	 * failure too, which may have come half way.
	 */
	if (length && block->mem.backing == GR_BACKING_FOREIGN)
		block->window_ops->drop(block, offset, length);
	if (length && !rc)
		gr__mark_block(block, offset, length); /* it reads otherwise now */
	if (!rc)
		GR_PROBE4(discard, ram, block->name, offset, length);
	pthread_mutex_lock(&ram->lock);
	block->users--;
	gr__discard_end(block, GR__DISCARD_UNTOLD);
	pthread_mutex_unlock(&ram->lock);
	return rc;
}

bool gr__block_plugged(const struct gr_block *block, uint64_t offset, uint64_t *length)
{
	const struct gr__granules *granules = NULL;
	uint64_t at, end;
	bool there;

	/* acquire: the table is set by then; pairs with the store in gr_plug_open() */
	if (__atomic_load_n(&block->plug, __ATOMIC_ACQUIRE))
		granules = gr__block_granules(block);
	if (!granules || !*length)
		return true;
	at = offset / granules->granule;
	end = (offset + (*length - 1)) / granules->granule + 1; /* within the block */
	there = gr__bits_next(granules->plugged, at, at + 1, true) == at;
	end = gr__bits_next(granules->plugged, at, end, !there) * granules->granule - offset;
	if (end < *length)
		*length = end;
	return there;
}
