/* SPDX-License-Identifier: MIT */
/* See hold.h. */
#include "snapshot/hold.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "ram/directory.h"
#include "ram/reclaim.h"
#include <errno.h>

static enum gr__pages_kind kind_of(const struct gr__mem *mem)
{
	bool shared = mem->flags & GR_SHARED;

	if (mem->fd >= 0)
		return shared ? GR__PAGES_SHARED_FILE : GR__PAGES_PRIVATE_FILE;
	if (mem->backing == GR_BACKING_ANON)
		return shared ? GR__PAGES_SHARED_ANON : GR__PAGES_PRIVATE;
	return GR__PAGES_UNKNOWN;
}

/* Without it all pages may have content: nothing is lost but time. */
static void open_pages(struct gr__held *held)
{
	const struct gr__mem *mem = &held->block->mem;
	struct gr__pages_of of = {
		.kind = kind_of(mem),
		.host = (uintptr_t)mem->host,
		.length = held->used,
		.fd = mem->fd,
		.fd_offset = mem->fd_offset,
	};

	held->pages = gr__alloc(sizeof(*held->pages));
	if (!held->pages)
		return;
	held->pages_length = held->used;
	if (gr__pages_open(held->pages, &of) < 0) {
		gr__free(held->pages);
		held->pages = NULL;
		return;
	}
	/* a memfd is sealed against shrinking; another file may lose pages under us */
	held->by_file = mem->backing == GR_BACKING_FILE && held->pages->by_file;
}

static void close_pages(struct gr__held *held)
{
	if (held->pages)
		gr__pages_close(held->pages);
	gr__free(held->pages);
	held->pages = NULL;
	held->by_file = false;
}

/* In a read section. */
static int take_blocks(struct gr__holds *holds)
{
	const struct gr__directory *directory = gr__directory_get(holds->ram);
	size_t i;

	if (directory && directory->count > WIRE_BLOCKS_MAX)
		return gr__fail(-ERANGE, "snapshot: %zu blocks; %u at most", directory->count,
				WIRE_BLOCKS_MAX);
	holds->items =
		gr__alloc_array((directory ? directory->count : 0) + 1, sizeof(*holds->items));
	if (!holds->items)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	for (i = 0; directory && i < directory->count; i++) {
		struct gr_block *block = directory->by_offset[i];

		gr__block_get(block);
		holds->items[holds->count++] = (struct gr__held){
			.block = block,
			.host = block->mem.host,
			.used = gr__block_length(block),
		};
	}
	return 0;
}

int gr__holds_take(struct gr_ram *ram, struct gr__holds *holds)
{
	unsigned i;
	int rc;

	*holds = (struct gr__holds){.ram = ram};
	gr_read_begin();
	rc = take_blocks(holds);
	gr_read_end();
	for (i = 0; i < holds->count && !rc; i++) {
		struct gr__held *held = &holds->items[i];

		if (!held->host)
			rc = gr__fail(-ENOTSUP,
				      "snapshot: block %s is seen through windows, and has no "
				      "address",
				      held->block->name);
		else
			open_pages(held);
	}
	if (rc < 0)
		gr__holds_drop(holds);
	return rc;
}

void gr__holds_drop(struct gr__holds *holds)
{
	unsigned i;

	for (i = 0; i < holds->count; i++) {
		close_pages(&holds->items[i]);
		gr__block_put(holds->items[i].block);
	}
	gr__free(holds->items);
	*holds = (struct gr__holds){0};
}

int gr__holds_check(struct gr__holds *holds)
{
	const struct gr__directory *directory;
	unsigned i;
	int rc = 0;

	gr_read_begin();
	directory = gr__directory_get(holds->ram);
	if ((directory ? directory->count : 0) != holds->count)
		rc = -EBUSY;
	for (i = 0; i < holds->count && !rc; i++) {
		if (directory->by_offset[i] != holds->items[i].block)
			rc = -EBUSY;
		else
			holds->items[i].used = gr__block_length(holds->items[i].block);
	}
	gr_read_end();
	return rc ? gr__fail(rc, "snapshot: the set of blocks changed meanwhile") : 0;
}

void gr__holds_forget(struct gr__holds *holds)
{
	unsigned i;

	for (i = 0; i < holds->count; i++) {
		struct gr__held *held = &holds->items[i];

		held->asked = held->first = held->end = 0;
		if (held->pages)
			gr__pages_forget(held->pages);
	}
}

uint64_t gr__held_may(struct gr__held *held, uint64_t number, uint64_t *next)
{
	uint64_t begin = number * WIRE_CHUNK, at = begin, bits = 0, count, stop,
		 all = gr__chunk_pages(held->used, number), end = begin + WIRE_CHUNK;

	*next = number + 1;
	if (!held->pages || held->unknown)
		return all;
	if (end > held->used)
		end = held->used;
	while (at < end) {
		if (at >= held->pages_length) /* it has grown */
			return all & (bits | ~UINT64_C(0) << ((at - begin) / WIRE_PAGE & 63));
		if (at < held->asked || at >= held->end) {
			if (gr__pages_next(held->pages, at, &held->first, &count) < 0) {
				held->unknown = true; /* look at all from now on */
				return all;
			}
			held->asked = at;
			held->first = gr__align_down(held->first, WIRE_PAGE);
			if (held->first < at)
				held->first = at;
			held->end = held->first + count;
		}
		if (at < held->first) {
			at = held->first < end ? held->first : end;
			continue;
		}
		stop = (held->end + WIRE_PAGE - 1) & ~(uint64_t)(WIRE_PAGE - 1);
		if (stop > end)
			stop = end;
		if (stop > at) /* else nothing is known yet: it is asked again */
			bits |= gr__chunk_bits((unsigned)((at - begin) / WIRE_PAGE),
					       (unsigned)((stop - at) / WIRE_PAGE));
		at = stop;
	}
	if (!bits && held->first / WIRE_CHUNK > *next)
		*next = held->first / WIRE_CHUNK;
	return bits;
}
