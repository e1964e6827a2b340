/* SPDX-License-Identifier: MIT */
/*
 * A raw image of memory as a source of pages. Holes are looked up once, when it is opened, since
 * the answer must not wait; the rest is plain reads.
 *
 * Threads: const once open.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/file.h"
#include "os/transfer.h"
#include <errno.h>
#include <fcntl.h>
#include <guestram/pager.h>
#include <string.h>

struct extent {
	uint64_t first, end; /* data, in whole pages */
};

struct image {
	int fd;
	uint64_t size;	 /* of the file */
	uint64_t length; /* in whole pages */
	struct extent *extents;
	size_t count, room;
};

static int find(void *context, const char *name, struct gr_page_source_info *info)
{
	const struct image *image = context;

	(void)name;
	memset(info, 0, sizeof(*info));
	info->length = image->length;
	return 0;
}

static int look(void *context, int block, uint64_t offset, uint64_t *length)
{
	const struct image *image = context;
	size_t low = 0, high = image->count;
	uint64_t until;
	int kind = GR_PAGES_ZERO;

	(void)block;
	if (offset >= image->length)
		return -ERANGE;
	/* the first extent that ends past @offset */
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (image->extents[middle].end <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	until = image->length;
	if (low < image->count && image->extents[low].first <= offset) {
		kind = GR_PAGES_DATA;
		until = image->extents[low].end;
	} else if (low < image->count) {
		until = image->extents[low].first;
	}
	if (*length > until - offset)
		*length = until - offset;
	return kind;
}

static int read_pages(void *context, int block, uint64_t offset, void *buf, uint64_t length)
{
	const struct image *image = context;
	int64_t got;

	(void)block;
	if (!gr__range_within(offset, length, image->length))
		return -ERANGE;
	got = gr__file_read(image->fd, buf, length, offset);
	if (got < 0)
		return (int)got;
	/* only the last page may be cut; a file that has shrunk has lost its bytes */
	if (offset + (uint64_t)got < image->size && (uint64_t)got < length)
		return -EIO;
	memset((char *)buf + got, 0, length - (uint64_t)got);
	return 0;
}

static int place(void *context, int block, uint64_t offset, uint64_t *length, int *fd,
		 uint64_t *fd_offset)
{
	const struct image *image = context;
	uint64_t whole = gr__align_down(image->size, GR_PAGE_SIZE);

	(void)block;
	if (offset >= whole)
		return -ENOTSUP; /* the page that is cut */
	if (*length > whole - offset)
		*length = whole - offset;
	*fd = image->fd;
	*fd_offset = offset;
	return 0;
}

static void close_image(void *context)
{
	struct image *image = context;

	gr__fd_close(image->fd);
	gr__free(image->extents);
	gr__free(image);
}

static const struct gr_page_source_ops ops = {
	.find = find,
	.look = look,
	.read = read_pages,
	.place = place,
	.close = close_image,
};

static int add(struct image *image, uint64_t first, uint64_t end)
{
	struct extent *last = image->count ? &image->extents[image->count - 1] : NULL;

	first = gr__align_down(first, GR_PAGE_SIZE);
	if (!gr__align_up(end, GR_PAGE_SIZE, &end) || end > image->length)
		end = image->length;
	if (last && first <= last->end) {
		last->end = end > last->end ? end : last->end;
		return 0;
	}
	if (!image->extents || image->count == image->room) {
		size_t room = image->room ? 2 * image->room : 64;
		struct extent *extents = gr__alloc_array(room, sizeof(*extents));

		if (!extents)
			return -ENOMEM;
		if (image->extents)
			memcpy(extents, image->extents, image->count * sizeof(*extents));
		gr__free(image->extents);
		image->extents = extents;
		image->room = room;
	}
	image->extents[image->count++] = (struct extent){first, end};
	return 0;
}

static int find_data(struct image *image)
{
	uint64_t at = 0, first, end;
	int rc;

	while (at < image->size) {
		rc = gr__file_next_data(image->fd, at, &first, &end);
		if (rc == -ENXIO)
			return 0;
		if (!rc)
			rc = end > first ? add(image, first, end) : -EIO;
		if (rc < 0)
			return rc;
		at = end;
	}
	return 0;
}

int gr_image_source_open(const char *path, struct gr_page_source *source)
{
	struct gr__file_info info;
	struct image *image;
	int rc;

	if (!path || !source)
		return gr__fail(-EINVAL, "image: no path or no place for the result");
	image = gr__alloc(sizeof(*image));
	if (!image)
		return gr__fail(-ENOMEM, "image %s: no memory", path);
	image->fd = gr__file_open(path, O_RDONLY, 0);
	if (image->fd < 0) {
		rc = gr__fail(image->fd, "image %s: %s", path, strerrordesc_np(-image->fd));
		goto close_it;
	}
	rc = gr__file_get_info(image->fd, &info);
	if (rc < 0) {
		rc = gr__fail(rc, "image %s: %s", path, strerrordesc_np(-rc));
		goto close_it;
	}
	if (!info.regular || !info.size || !gr__align_up(info.size, GR_PAGE_SIZE, &image->length)) {
		rc = gr__fail(-EINVAL, "image %s: it is %s", path,
			      info.regular ? "empty" : "no regular file");
		goto close_it;
	}
	image->size = info.size;
	rc = find_data(image);
	if (rc < 0) {
		rc = gr__fail(rc, "image %s: its holes: %s", path, strerrordesc_np(-rc));
		goto close_it;
	}
	source->ops = &ops;
	source->context = image;
	return 0;

close_it:
	close_image(image);
	return rc;
}

void gr_page_source_close(struct gr_page_source *source)
{
	if (!source || !source->ops)
		return;
	if (source->ops->close)
		source->ops->close(source->context);
	source->ops = NULL;
}
