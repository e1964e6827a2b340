/* SPDX-License-Identifier: MIT */
/*
 * Memory that the caller owns: nothing of it is mapped, changed or unmapped here, so it cannot be
 * resized or discarded. Threads and locks as in backing.h.
 */
#include "backing/kind.h"
#include "base/error.h"
#include "base/range.h"
#include <errno.h>

static int open_caller(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	uint64_t host = (uintptr_t)opts->host;
	uint64_t align = opts->align > mem->page_size ? opts->align : mem->page_size;
	uint64_t last;

	if (!gr__is_aligned(host, align))
		return gr__fail(-EINVAL, "block %s: host %p is not a multiple of %#llx", mem->name,
				opts->host, (unsigned long long)align);
	/* Not rounded: what is behind the caller's memory is not ours. */
	if (!gr__is_aligned(opts->length | opts->max_length, mem->page_size))
		return gr__fail(-EINVAL,
				"block %s: lengths of the caller's memory, not multiples of %#llx",
				mem->name, (unsigned long long)mem->page_size);
	if (opts->length &&
	    !gr__range_last(host, opts->max_length > opts->length ? opts->max_length : opts->length,
			    &last))
		return gr__fail(-ERANGE, "block %s: host %p and its length pass 2^64", mem->name,
				opts->host);
	mem->host = opts->host;
	mem->release = opts->release;
	mem->release_context = opts->release_context;
	return 0;
}

const struct gr__backing gr__backing_caller = {
	.name = "GR_BACKING_CALLER",
	.flags = GR__FLAGS_ANY | GR_READ_ONLY,
	.open = open_caller,
};
