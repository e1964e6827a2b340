/* SPDX-License-Identifier: MIT */
/*
 * Anonymous memory, private or shared with forked children, in small or huge pages. Threads and
 * locks as in backing.h.
 */
#include "backing/kind.h"
#include "base/error.h"
#include "os/memory.h"
#include <errno.h>
#include <string.h>

static int open_anon(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	mem->resizable = 1;
	return 0;
}

static int map_piece(const struct gr__mem *mem, uint64_t offset, uint64_t length, void **addr)
{
	int flags = MAP_ANONYMOUS | (mem->flags & GR_SHARED ? MAP_SHARED : MAP_PRIVATE) |
		    gr__mem_reserve_flag(mem) | gr__huge_map_flags(mem->page_size);
	int rc = gr__os_map(length, gr__mem_protection(mem), flags, -1, 0, addr);

	return rc < 0 ? gr__piece_failed(mem, rc, length) : 0;
}

int gr__discard_private(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	int advice = mem->flags & GR_LOCKED ? MADV_DONTNEED_LOCKED : MADV_DONTNEED;
	int rc = gr__os_advise(gr__mem_at(mem, offset), length, advice);

	if (rc == -EINVAL)
		return gr__fail(
			-ENOTSUP,
			"block %s: discarding locked or huge private pages needs Linux 5.18",
			mem->name);
	if (rc < 0)
		return gr__fail(rc, "block %s: discard of %#llx bytes at %#llx: madvise: %s",
				mem->name, (unsigned long long)length, (unsigned long long)offset,
				strerrordesc_np(-rc));
	return 0;
}

static int discard_failed(const struct gr__mem *mem, int rc, uint64_t offset, uint64_t length,
			  const char *step)
{
	return gr__fail(rc, "block %s: discard of %#llx bytes at %#llx: %s: %s", mem->name,
			(unsigned long long)length, (unsigned long long)offset, step,
			strerrordesc_np(-rc));
}

/*
 * The pages of a locked range cannot be removed: unlock it, and lock what comes back. The last step
 * cannot be tried beforehand: when it fails, the pages are gone and the range is not locked.
 */
static int discard_shared_locked(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	void *addr = gr__mem_at(mem, offset);
	int rc = gr__os_unlock(addr, length);

	if (rc < 0)
		return discard_failed(mem, rc, offset, length, "munlock");
	rc = gr__os_remove(addr, length);
	if (rc < 0) {
		gr__os_lock(addr, length);
		return discard_failed(mem, rc, offset, length, "madvise");
	}
	rc = gr__os_lock_on_fault(addr, length);
	if (rc < 0)
		return discard_failed(mem, rc, offset, length,
				      "done, but it cannot be locked again: mlock2");
	return 0;
}

static int discard(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	int rc;

	if (!(mem->flags & GR_SHARED))
		return gr__discard_private(mem, offset, length);
	if (mem->flags & GR_LOCKED)
		return discard_shared_locked(mem, offset, length);
	rc = gr__os_remove(gr__mem_at(mem, offset), length);
	return rc < 0 ? discard_failed(mem, rc, offset, length, "madvise") : 0;
}

const struct gr__backing gr__backing_anon = {
	.name = "GR_BACKING_ANON",
	.flags = GR__FLAGS_ANY | GR__FLAGS_OWN | GR_MERGEABLE,
	.open = open_anon,
	.piece = map_piece,
	.discard = discard,
};
