/* SPDX-License-Identifier: MIT */
/*
 * What the flags of a block ask of the kernel for a piece of its memory that has just been mapped
 * and is not in use yet: node, name, advice, pages, lock. An error is undone by unmapping it.
 */
#include "backing/kind.h"
#include "base/error.h"
#include "os/memory.h"
#include <errno.h>
#include <numaif.h>
#include <string.h>

static const struct {
	unsigned flag;
	int advice;
	const char *name;
	bool needless; /* a kernel that does not know it never does what it forbids */
} advices[] = {
	{GR_NO_DUMP, MADV_DONTDUMP, "GR_NO_DUMP", false},
	{GR_NO_FORK, MADV_DONTFORK, "GR_NO_FORK", false},
	{GR_THP, MADV_HUGEPAGE, "GR_THP", false},
	{GR_NO_THP, MADV_NOHUGEPAGE, "GR_NO_THP", true},
	{GR_MERGEABLE, MADV_MERGEABLE, "GR_MERGEABLE", false},
};

static int lock(struct gr__mem *mem, void *addr, uint64_t length)
{
	int rc = gr__os_lock(addr, length);

	if (rc == -EAGAIN)
		rc = -ENOMEM; /* the kernel had no page for some of it */
	if (rc < 0)
		return gr__fail(
			rc,
			"block %s: GR_LOCKED: mlock of %#llx bytes: %s; is RLIMIT_MEMLOCK too "
			"small?",
			mem->name, (unsigned long long)length, strerrordesc_np(-rc));
	return 0;
}

int gr__advise(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	void *addr = gr__mem_at(mem, offset);
	size_t i;
	int rc;

	if (mem->numa.mode != MPOL_DEFAULT) {
		/* First of all: it counts for pages that come later. */
		rc = gr__os_bind(addr, length, &mem->numa);
		if (rc < 0)
			return gr__fail(rc, "block %s: mbind to its NUMA nodes: %s", mem->name,
					strerrordesc_np(-rc));
	}
	if (mem->fd < 0)
		gr__os_name(addr, length, mem->name);
	for (i = 0; i < sizeof(advices) / sizeof(advices[0]); i++) {
		if (!(mem->flags & advices[i].flag))
			continue;
		rc = gr__os_advise(addr, length, advices[i].advice);
		if (rc == -EINVAL && advices[i].needless)
			continue;
		if (rc == -EINVAL)
			return gr__fail(-ENOTSUP, "block %s: %s: this kernel is built without it",
					mem->name, advices[i].name);
		if (rc < 0)
			return gr__fail(rc, "block %s: %s: madvise: %s", mem->name, advices[i].name,
					strerrordesc_np(-rc));
	}
	if (mem->flags & GR_PREALLOC) {
		rc = gr__populate(mem, offset, length);
		if (rc < 0)
			return rc;
	}
	/* Last: it fetches what is not there, on one thread only. */
	return mem->flags & GR_LOCKED ? lock(mem, addr, length) : 0;
}
