/* SPDX-License-Identifier: MIT */
/*
 * The memory of one block; see backing.h for the contract and kind.h for how kinds differ.
 *
 *   reserved                                                  reserved + reserved_length
 *   = host            host + length            host + max_length │
 *   ├── a piece of the backing ──┼── reservation, inaccessible ──┼ guard page ┤
 *
 * Address space for all of max_length is reserved first, inaccessible, and stays ours until
 * release: pieces of the backing are mapped elsewhere and then moved over a part of it, and what
 * leaves is replaced by a reservation again. So at no time is there a hole that another thread's
 * mmap() could take and that we then map over or unmap.
 *
 * Threads and locks as in backing.h.
 */
#include "backing/backing.h"
#include "backing/kind.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/file.h"
#include "os/memory.h"
#include "os/sigbus.h"
#include <errno.h>
#include <stddef.h>
#include <string.h>

/* From here on a block is aligned so that the kernel can use pages of this size for it. */
#define LARGE (UINT64_C(2) << 20)

/* ---------------------------------------------------------------------------- address space */

static uint64_t choose_alignment(const struct gr_block_opts *opts, const struct gr__mem *mem)
{
	uint64_t align = opts->align;

	if (!align)
		align = mem->max_length >= LARGE ? LARGE : mem->page_size;
	return align > mem->page_size ? align : mem->page_size;
}

static int reserve(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	uint64_t page = gr__os_page_size(), align = choose_alignment(opts, mem);
	uint64_t keep, total, start, host;
	void *addr;
	int rc;

	/* gr__options_lengths() keeps max_length below 2^63, so these sums do not wrap */
	keep = mem->max_length + (mem->flags & GR_NO_GUARD ? 0 : page);
	total = keep + (align - page);
	rc = gr__os_reserve(total, &addr);
	if (rc < 0)
		goto failed;
	start = (uintptr_t)addr;
	host = (start + (align - 1)) & ~(align - 1); /* within what we have just got */
	mem->reserved = addr;
	mem->reserved_length = total;
	rc = gr__os_trim(addr, host - start);
	if (rc < 0)
		goto failed;
	mem->reserved = (void *)(uintptr_t)host;
	mem->reserved_length = total - (host - start);
	rc = gr__os_trim((void *)(uintptr_t)(host + keep), mem->reserved_length - keep);
	if (rc < 0)
		goto failed;
	mem->reserved_length = keep;
	mem->host = mem->reserved;
	return 0;

failed:
	return gr__fail(rc, "block %s: reserving %#llx bytes of address space: %s", mem->name,
			(unsigned long long)total, strerrordesc_np(-rc));
}

int gr__mem_cover(struct gr__mem *mem, uint64_t offset, uint64_t length, void *addr)
{
	int rc = gr__os_move(addr, length, gr__mem_at(mem, offset));

	if (rc < 0) {
		gr__os_unmap(addr, length);
		return rc;
	}
	/* after the move: who touched a lost page in between would wait for a zero page that is
	 * gone */
	if (mem->guard)
		gr__sigbus_guard_reset(mem->guard, offset, length);
	return 0;
}

/* Make [offset, offset + length) usable, with all that its flags ask, or leave it as it was. */
static int install(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	void *addr;
	int rc = mem->ops->piece(mem, offset, length, &addr);

	if (rc < 0)
		return rc;
	rc = gr__mem_cover(mem, offset, length, addr);
	if (rc < 0)
		return gr__fail(rc, "block %s: mremap of %#llx bytes to their place: %s", mem->name,
				(unsigned long long)length, strerrordesc_np(-rc));
	rc = gr__advise(mem, offset, length);
	if (rc < 0)
		gr__os_reserve_again(gr__mem_at(mem, offset), length);
	return rc;
}

/* ------------------------------------------------------------------------------ who fills it */

static struct gr__filler *filler_of(const struct gr__mem *mem)
{
	/* acquire: it is whole; pairs with the store in gr_pager_open() */
	return __atomic_load_n(&mem->filler, __ATOMIC_ACQUIRE);
}

static void hold_filler(const struct gr__mem *mem, struct gr__filler_hold *hold)
{
	hold->filler = NULL;
	if (!filler_of(mem))
		return;
	gr_read_begin();
	hold->filler = filler_of(mem);
	if (hold->filler)
		hold->filler->ops->hold(hold->filler, hold);
	gr_read_end();
}

static void release_filler(const struct gr__mem *mem, struct gr__filler_hold *hold, bool discarded)
{
	if (!hold->filler)
		return;
	gr_read_begin();
	/* it may have ended meanwhile, and knows nothing of the hold then */
	if (filler_of(mem) == hold->filler)
		hold->filler->ops->release(hold->filler, hold, discarded);
	gr_read_end();
}

static void end_filler(const struct gr__mem *mem)
{
	struct gr__filler *filler;

	if (!filler_of(mem))
		return;
	gr_read_begin();
	filler = filler_of(mem);
	if (filler)
		filler->ops->end(filler);
	gr_read_end();
}

/* ------------------------------------------------------------------------------ life of it */

/* Takes half-built ones too. */
static void take_down(struct gr__mem *mem)
{
	gr__sigbus_guard_remove(mem->guard); /* first: others get these addresses next */
	gr__os_unmap(mem->reserved, mem->reserved_length);
	gr__fd_close(mem->fd);
	gr__free(mem->created_path);
}

void gr__mem_undo(struct gr__mem *mem)
{
	if (mem->created_path && mem->fd >= 0)
		gr__file_unlink(mem->created_path, mem->fd);
	else if (mem->sized)
		gr__file_set_size(mem->fd, 0);
	take_down(mem);
}

void gr__mem_release(struct gr__mem *mem)
{
	end_filler(mem);
	take_down(mem);
	if (mem->foreign && mem->foreign->release)
		mem->foreign->release(mem->foreign_context);
	if (mem->release)
		mem->release(mem->release_context, mem->host, mem->max_length);
}

static int add_guard(struct gr__mem *mem)
{
	int rc;

	if (!(mem->flags & GR_SURVIVE_TRUNCATION))
		return 0;
	rc = gr__sigbus_guard_add(mem->host, mem->max_length, mem->page_size,
				  gr__mem_protection(mem), &mem->guard);
	if (rc < 0)
		return gr__fail(rc, "block %s: no memory to note lost pages in", mem->name);
	return 0;
}

int gr__mem_map(const struct gr_block_opts *opts, struct gr__mem *result)
{
	struct gr__mem mem;
	int rc = gr__options_check(opts, &mem);

	if (rc < 0)
		return rc;
	rc = mem.ops->open(opts, &mem);
	if (!rc)
		rc = gr__options_lengths(opts, &mem);
	if (!rc && mem.ops->fit)
		rc = mem.ops->fit(opts, &mem);
	if (!rc && mem.ops->piece) {
		rc = reserve(opts, &mem);
		if (!rc)
			rc = add_guard(&mem);
		if (!rc)
			rc = install(&mem, 0, mem.length);
	}
	if (rc < 0) {
		gr__mem_undo(&mem);
		return rc;
	}
	*result = mem;
	return 0;
}

/* ------------------------------------------------------------------------------ changing it */

static int grow(struct gr__mem *mem, uint64_t length)
{
	uint64_t offset = mem->length;
	int rc = install(mem, offset, length - offset);

	if (rc < 0) {
		/* It may have got some pages into the file before it failed. */
		if (mem->fd >= 0 && mem->flags & GR_SHARED)
			gr__file_punch(mem->fd, mem->fd_offset + offset, length - offset);
		return rc;
	}
	mem->length = length;
	return 0;
}

static int protect(struct gr__mem *mem, void *addr, uint64_t length, int protection)
{
	int rc = gr__os_protect(addr, length, protection);

	if (rc < 0)
		return gr__fail(rc, "block %s: mprotect of %#llx bytes: %s", mem->name,
				(unsigned long long)length, strerrordesc_np(-rc));
	return 0;
}

/* Give the pages of an inaccessible tail back. */
static int discard_tail(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	struct gr__mem unlocked = *mem;
	void *addr = gr__mem_at(mem, offset);
	int rc;

	unlocked.flags &= ~GR_LOCKED;
	if (mem->flags & GR_LOCKED) {
		rc = gr__os_unlock(addr, length);
		if (rc < 0)
			return gr__fail(rc, "block %s: munlock of %#llx bytes: %s", mem->name,
					(unsigned long long)length, strerrordesc_np(-rc));
	}
	rc = mem->ops->discard(&unlocked, offset, length);
	/* Before 6.7 MADV_REMOVE wants to be able to write, though it does not. */
	if (rc == -EACCES && mem->fd < 0 && mem->flags & GR_SHARED) {
		rc = protect(mem, addr, length, gr__mem_protection(mem));
		if (!rc)
			rc = mem->ops->discard(&unlocked, offset, length);
	}
	return rc;
}

static int shrink_held(struct gr__mem *mem, uint64_t length)
{
	uint64_t tail = mem->length - length;
	void *addr = gr__mem_at(mem, length);
	int rc = protect(mem, addr, tail, PROT_NONE);

	if (rc < 0)
		return rc;
	rc = discard_tail(mem, length, tail);
	if (rc < 0) {
		gr__os_protect(addr, tail, gr__mem_protection(mem));
		if (mem->flags & GR_LOCKED)
			gr__os_lock(addr, tail);
		return rc;
	}
	/*
	 * The pages are gone, so there is no way back from here. If the kernel has no memory for
	 * this, the tail is inaccessible all the same, and the next install() goes over it.
	 */
	if (gr__os_reserve_again(addr, tail) < 0)
		gr__os_protect(addr, tail, PROT_NONE);
	mem->length = length;
	return 0;
}

static int shrink(struct gr__mem *mem, uint64_t length)
{
	struct gr__filler_hold hold = {.offset = length, .length = mem->length - length};
	int rc;

	hold_filler(mem, &hold);
	rc = shrink_held(mem, length);
	release_filler(mem, &hold, !rc);
	return rc;
}

/* Nothing of it is mapped here: windows are by others, for the length that they know. */
static int resize_windowed(struct gr__mem *mem, uint64_t length)
{
	int rc = 0;

	/* who cannot give the tail back keeps it */
	if (length < mem->length)
		rc = mem->ops->discard(mem, length, mem->length - length);
	if (rc < 0 && rc != -ENOTSUP)
		return rc;
	mem->length = length;
	return 0;
}

int gr__mem_window_map(const struct gr__mem *mem, uint64_t offset, uint64_t length, void **host)
{
	return mem->ops->window(mem, offset, length, host);
}

void gr__mem_window_unmap(const struct gr__mem *mem, void *host, uint64_t length)
{
	mem->ops->unwindow(mem, host, length);
}

int gr__mem_check_resizable(const struct gr__mem *mem)
{
	if (!mem->resizable)
		return gr__fail(-ENOTSUP,
				"block %s: resize: what is in the caller's memory, or in a file "
				"that was not "
				"empty, is not ours",
				mem->name);
	return 0;
}

int gr__mem_resize(struct gr__mem *mem, uint64_t length)
{
	int rc = gr__mem_check_resizable(mem);

	if (rc < 0)
		return rc;
	if (!length || !gr__is_aligned(length, mem->page_size))
		return gr__fail(
			-EINVAL, "block %s: resize to %#llx: not a multiple of %#llx over 0",
			mem->name, (unsigned long long)length, (unsigned long long)mem->page_size);
	if (length > mem->max_length)
		return gr__fail(-ERANGE, "block %s: resize to %#llx is over max_length %#llx",
				mem->name, (unsigned long long)length,
				(unsigned long long)mem->max_length);
	if (!mem->ops->piece)
		return resize_windowed(mem, length);
	if (length > mem->length)
		return grow(mem, length);
	return length < mem->length ? shrink(mem, length) : 0;
}

int gr__mem_discard(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	struct gr__filler_hold hold = {.offset = offset, .length = length};
	int rc;

	if (!mem->ops->discard)
		return gr__fail(-ENOTSUP, "block %s: discard: the caller's memory is not ours",
				mem->name);
	if (mem->flags & GR_READ_ONLY)
		return gr__fail(-EACCES, "block %s: discard: it is read-only", mem->name);
	if (!gr__range_within(offset, length, mem->length) ||
	    !gr__is_aligned(offset | length, mem->page_size))
		return gr__fail(
			-ERANGE,
			"block %s: discard of %#llx bytes at %#llx: not pages of its %#llx bytes",
			mem->name, (unsigned long long)length, (unsigned long long)offset,
			(unsigned long long)mem->length);
	if (!length)
		return 0;
	hold_filler(mem, &hold);
	rc = mem->ops->discard(mem, offset, length);
	release_filler(mem, &hold, !rc);
	return rc;
}

int gr__mem_fetch(struct gr__mem *mem, uint64_t offset, uint64_t length, int *fetched)
{
	*fetched = mem->flags & GR_PREALLOC || gr__mem_is_huge(mem);
	return *fetched ? gr__populate(mem, offset, length) : 0;
}

int gr__mem_check_discard_zeroes(const struct gr__mem *mem)
{
	if (!mem->ops->discard)
		return gr__fail(-ENOTSUP, "block %s: the caller's memory is not ours to discard",
				mem->name);
	if (mem->flags & GR_READ_ONLY)
		return gr__fail(-EACCES, "block %s: it is read-only", mem->name);
	if (mem->backing == GR_BACKING_FOREIGN || mem->flags & GR_WINDOWED)
		return gr__fail(-ENOTSUP, "block %s: it is mapped in windows, on demand",
				mem->name);
	if (mem->backing == GR_BACKING_FILE && !(mem->flags & GR_SHARED) && !mem->resizable)
		return gr__fail(-ENOTSUP,
				"block %s: a private file's pages read as the file again when they "
				"are discarded",
				mem->name);
	return 0;
}

uint64_t gr__mem_lost_pages(const struct gr__mem *mem)
{
	return mem->guard ? gr__sigbus_guard_lost(mem->guard) : 0;
}
