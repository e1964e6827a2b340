/* SPDX-License-Identifier: MIT */
/*
 * A memfd of the block's own, which others can map too. It has max_length bytes from the start, of
 * which only touched ones cost memory, so no resize of the block has to change its size and the
 * seals can forbid everybody to do so. Threads and locks as in backing.h.
 */
#include "backing/kind.h"
#include "base/error.h"
#include "os/file.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

static int open_memfd(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	unsigned flags = gr__huge_memfd_flags(mem->page_size);
	int rc;

	if (!(mem->flags & GR_UNSEALED))
		flags |= MFD_ALLOW_SEALING;
	rc = gr__file_memfd(opts->name ? opts->name : mem->name, flags);
	if (rc < 0)
		return gr__fail(rc, "block %s: memfd_create: %s", mem->name, strerrordesc_np(-rc));
	mem->fd = rc;
	mem->resizable = 1;
	return 0;
}

static int set_size_and_seal(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	int rc = gr__file_set_size(mem->fd, mem->max_length);

	if (rc < 0)
		return gr__fail(rc, "block %s: ftruncate of its memfd to %#llx: %s", mem->name,
				(unsigned long long)mem->max_length, strerrordesc_np(-rc));
	if (mem->flags & GR_UNSEALED)
		return 0;
	rc = gr__file_seal(mem->fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	if (rc < 0)
		return gr__fail(rc, "block %s: sealing its memfd: %s", mem->name,
				strerrordesc_np(-rc));
	return 0;
}

const struct gr__backing gr__backing_memfd = {
	.name = "GR_BACKING_MEMFD",
	.flags = GR__FLAGS_ANY | GR__FLAGS_OWN | GR_UNSEALED,
	.open = open_memfd,
	.fit = set_size_and_seal,
	.piece = gr__piece_of_file,
	.discard = gr__discard_in_file,
};
