/* SPDX-License-Identifier: MIT */
/*
 * A snapshot with its parents as a source of pages (guestram/pager.h).
 *
 * Threads: any; the index is constant, and readers come from the snapshot's pool.
 */
#include "base/error.h"
#include "base/range.h"
#include "snapshot/snapshot.h"
#include <errno.h>
#include <guestram/pager.h>

static int find(void *context, const char *name, struct gr_page_source_info *info)
{
	const struct gr_snapshot *snapshot = context;
	const struct gr__snap_file *file = snapshot->files[0];
	int block = name || !file->block_count ? gr__snap_file_find(file, name ? name : "") : 0;

	if (block < 0)
		return -ENOENT;
	*info = (struct gr_page_source_info){
		.length = file->blocks[block].used,
		.chunk = WIRE_CHUNK,
	};
	return block;
}

static int check(const struct gr_snapshot *snapshot, int block, uint64_t offset)
{
	const struct gr__snap_file *file = snapshot->files[0];

	if (block < 0 || (unsigned)block >= file->block_count)
		return -ENOENT;
	return offset < file->blocks[block].used ? 0 : -ERANGE;
}

static int look(void *context, int block, uint64_t offset, uint64_t *length)
{
	int rc = check(context, block, offset), level;

	if (rc < 0)
		return rc;
	return gr__snap_look(context, (unsigned)block, offset, length, &level) ? GR_PAGES_DATA
									       : GR_PAGES_ZERO;
}

static int read_pages(void *context, int block, uint64_t offset, void *buf, uint64_t length)
{
	return block < 0 ? -ENOENT
			 : gr_snapshot_read(context, (unsigned)block, offset, buf, length);
}

static int place(void *context, int block, uint64_t offset, uint64_t *length, int *fd,
		 uint64_t *fd_offset)
{
	const struct gr_snapshot *snapshot = context;
	const struct gr__snap_file *file;
	uint64_t got = *length;
	int rc = check(snapshot, block, offset), level, there;

	if (rc < 0)
		return rc;
	if (!gr__snap_look(snapshot, (unsigned)block, offset, &got, &level))
		return -ENOTSUP;
	file = snapshot->files[level];
	if (file->header.layout != GR_SNAPSHOT_MAPPED)
		return -ENOTSUP;
	there = snapshot->parents[(unsigned)block * snapshot->file_count + (unsigned)level];
	*length = got;
	*fd = file->fd;
	*fd_offset = file->blocks[there].area + offset;
	return 0;
}

int gr_snapshot_source(struct gr_snapshot *snapshot, struct gr_page_source *source)
{
	static const struct gr_page_source_ops ops = {
		.find = find, .look = look, .read = read_pages, .place = place};

	if (!snapshot || !source)
		return gr__fail(-EINVAL, "snapshot: no snapshot to be a source");
	*source = (struct gr_page_source){&ops, snapshot};
	return 0;
}
