/* SPDX-License-Identifier: MIT */
/*
 * Memory that somebody else maps for us, a window at a time: another domain's pages, say. What his
 * functions return is checked here, so that nothing that came with an error, and nothing that can
 * be no address, is ever used as one.
 *
 * Threads: windows by any number at once, the rest as in backing.h.
 */
#include "backing/kind.h"
#include "base/error.h"
#include "base/range.h"
#include "os/hooks.h"
#include <errno.h>
#include <string.h>

static int open_foreign(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	mem->foreign = opts->foreign;
	mem->foreign_context = opts->foreign_context;
	mem->resizable = 1; /* no more than a number of ours */
	return 0;
}

static int map_window(const struct gr__mem *mem, uint64_t offset, uint64_t length, void **addr)
{
	unsigned access = mem->flags & GR_READ_ONLY ? GR_READ : GR_READ | GR_WRITE;
	int rc = -GR_FAULT("foreign.map");
	void *host = NULL;

	if (!rc)
		rc = mem->foreign->map(mem->foreign_context, offset, length, access, &host);
	/* -EAGAIN is ours: it makes callers wait for a window */
	if (rc > 0 || rc == -EAGAIN)
		return gr__fail(-EIO, "block %s: its map function returned %d", mem->name, rc);
	if (rc < 0)
		return gr__fail(rc, "block %s: mapping %#llx bytes at offset %#llx: %s", mem->name,
				(unsigned long long)length, (unsigned long long)offset,
				strerrordesc_np(-rc));
	if (!host || host == MAP_FAILED || !gr__is_aligned((uintptr_t)host, GR_PAGE_SIZE))
		return gr__fail(-EIO, "block %s: its map function gave %p for offset %#llx",
				mem->name, host, (unsigned long long)offset);
	*addr = host;
	return 0;
}

static void unmap_window(const struct gr__mem *mem, void *addr, uint64_t length)
{
	mem->foreign->unmap(mem->foreign_context, addr, length);
}

static int discard(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	int rc;

	if (!mem->foreign->discard)
		return gr__fail(-ENOTSUP, "block %s: discard: its owner has no function for it",
				mem->name);
	rc = mem->foreign->discard(mem->foreign_context, offset, length);
	if (rc > 0)
		rc = -EIO;
	if (rc < 0)
		return gr__fail(rc, "block %s: discard of %#llx bytes at %#llx: %s", mem->name,
				(unsigned long long)length, (unsigned long long)offset,
				strerrordesc_np(-rc));
	return 0;
}

const struct gr__backing gr__backing_foreign = {
	.name = "GR_BACKING_FOREIGN",
	.flags = GR__FLAGS_ANY | GR_READ_ONLY,
	.open = open_foreign,
	.window = map_window,
	.unwindow = unmap_window,
	.discard = discard,
};
