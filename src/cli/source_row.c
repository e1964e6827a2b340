/* SPDX-License-Identifier: MIT */
/*
 * Several blocks of a source in a row, as one: what a monitor's memory file is, whose regions stand
 * one after the other.
 *
 * Threads: const once open; the source below is asked by any.
 */
#include "source_arg.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct part {
	int block;
	uint64_t first, length; /* in the row */
};

struct row {
	struct gr_page_source below; /* not ours */
	uint64_t length, chunk;
	int count;
	struct part parts[SOURCE_BLOCKS];
};

/* The part that has @offset; *length no further than its end. NULL: none. */
static const struct part *find_part(const struct row *row, uint64_t offset, uint64_t *length)
{
	for (int i = 0; i < row->count; i++) {
		const struct part *part = &row->parts[i];

		if (offset < part->first || offset - part->first >= part->length)
			continue;
		if (*length > part->length - (offset - part->first))
			*length = part->length - (offset - part->first);
		return part;
	}
	return NULL;
}

static int find(void *context, const char *name, struct gr_page_source_info *info)
{
	const struct row *row = context;

	if (name)
		return -ENOENT; /* it has one block, without a name */
	*info = (struct gr_page_source_info){.length = row->length, .chunk = row->chunk};
	return 0;
}

static int look(void *context, int block, uint64_t offset, uint64_t *length)
{
	const struct row *row = context;
	const struct part *part = find_part(row, offset, length);

	(void)block;
	if (!part)
		return -ERANGE;
	if (!row->below.ops->look)
		return GR_PAGES_DATA;
	return row->below.ops->look(row->below.context, part->block, offset - part->first, length);
}

static int read_pages(void *context, int block, uint64_t offset, void *buf, uint64_t length)
{
	const struct row *row = context;
	uint64_t done = 0;
	int rc = 0;

	(void)block;
	while (!rc && done < length) {
		uint64_t run = length - done;
		const struct part *part = find_part(row, offset + done, &run);

		if (!part)
			return -ERANGE;
		rc = row->below.ops->read(row->below.context, part->block,
					  offset + done - part->first, (char *)buf + done, run);
		done += run;
	}
	return rc;
}

static int place(void *context, int block, uint64_t offset, uint64_t *length, int *fd,
		 uint64_t *fd_offset)
{
	const struct row *row = context;
	const struct part *part = find_part(row, offset, length);

	(void)block;
	if (!part)
		return -ERANGE;
	if (!row->below.ops->place)
		return -ENOTSUP;
	return row->below.ops->place(row->below.context, part->block, offset - part->first, length,
				     fd, fd_offset);
}

int source_row_open(const struct gr_page_source *below, const char *const *names, int count,
		    struct gr_page_source *source)
{
	static const struct gr_page_source_ops ops = {
		.find = find, .look = look, .read = read_pages, .place = place, .close = free};
	struct row *row = calloc(1, sizeof(*row));
	struct gr_page_source_info info;
	int i, block;

	if (!row)
		return -ENOMEM;
	row->below = *below;
	for (i = 0; i < count && i < SOURCE_BLOCKS; i++) {
		block = below->ops->find(below->context, names[i], &info);
		if (block < 0 || __builtin_add_overflow(row->length, info.length, &info.length)) {
			free(row);
			return block < 0 ? block : -EOVERFLOW;
		}
		row->parts[i] = (struct part){block, row->length, info.length - row->length};
		/* chunks that the blocks do not begin with are none */
		if (!i)
			row->chunk = info.chunk;
		else if (row->chunk != info.chunk || (info.chunk && row->length % info.chunk))
			row->chunk = 0;
		row->length = info.length;
	}
	row->count = i;
	*source = (struct gr_page_source){&ops, row};
	return 0;
}
