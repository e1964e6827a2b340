/* SPDX-License-Identifier: MIT */
/*
 * A file: by path or descriptor, created, existing or unnamed, shared or private, also on a
 * hugetlbfs. A file that is empty gets the size that max_length needs; any other keeps its size,
 * and what is in it is its owner's, so such a block is not resized. Threads and locks as in
 * backing.h.
 */
#include "os/file.h"
#include "backing/kind.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/memory.h"
#include "os/sigbus.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* The file may come and go between two looks, but not for ever. */
#define CREATE_TRIES 8

static int create(const char *path, struct gr__mem *mem)
{
	int tries, rc = -EEXIST;

	/* First, since the file could not be removed again without it. */
	mem->created_path = gr__strdup(path);
	if (!mem->created_path)
		return -ENOMEM;
	for (tries = 0; tries < CREATE_TRIES; tries++) {
		rc = gr__file_open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
		if (rc != -EEXIST)
			break;
		rc = gr__file_open(path, O_RDWR, 0);
		if (rc != -ENOENT) {
			gr__free(mem->created_path);
			mem->created_path = NULL;
			break;
		}
	}
	return rc;
}

/* A descriptor for @mem. */
static int get_descriptor(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	bool store = mem->flags & GR_SHARED && !(mem->flags & GR_READ_ONLY);

	if (!opts->path)
		return gr__file_dup(opts->fd);
	if (mem->flags & GR_TEMPORARY)
		return gr__file_open_unnamed(opts->path);
	if (mem->flags & GR_CREATE)
		return create(opts->path, mem);
	return gr__file_open(opts->path, store ? O_RDWR : O_RDONLY, 0);
}

static int open_file(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	const char *path = opts->path ? opts->path : "(fd)";
	bool store = mem->flags & GR_SHARED && !(mem->flags & GR_READ_ONLY);
	struct gr__file_info info;
	int rc;

	rc = get_descriptor(opts, mem);
	if (rc < 0)
		return gr__fail(rc, "block %s: open %s: %s", mem->name, path, strerrordesc_np(-rc));
	mem->fd = rc;
	rc = gr__file_get_info(mem->fd, &info);
	if (rc < 0)
		return gr__fail(rc, "block %s: stat of %s: %s", mem->name, path,
				strerrordesc_np(-rc));
	if (info.directory)
		return gr__fail(-EINVAL,
				"block %s: %s is a directory; GR_TEMPORARY makes a file in it",
				mem->name, path);
	if (!info.regular)
		return gr__fail(-ENOTSUP, "block %s: %s is not a regular file", mem->name, path);
	if (!info.readable || (store && !info.writable))
		return gr__fail(-EACCES, "block %s: %s is not open for %s", mem->name, path,
				info.readable ? "writing, as GR_SHARED needs" : "reading");
	mem->page_size = info.huge_page_size ? info.huge_page_size : gr__os_page_size();
	return 0;
}

static int fit_file(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	const char *path = opts->path ? opts->path : "(fd)";
	uint64_t whole = mem->fd_offset + mem->max_length; /* checked by gr__options_lengths() */
	struct gr__file_info info;
	int rc = gr__file_get_info(mem->fd, &info);

	if (rc < 0)
		return gr__fail(rc, "block %s: stat of %s: %s", mem->name, path,
				strerrordesc_np(-rc));
	if (info.size || !info.writable || mem->flags & GR_READ_ONLY) {
		/* The last page may be one that the file fills in part. */
		if (gr__range_within(mem->fd_offset, opts->length, info.size))
			return 0;
		return gr__fail(
			-ERANGE,
			"block %s: %#llx bytes at fd_offset %#llx pass the end of %s, which has "
			"%#llx; only an empty, writable file is grown",
			mem->name, (unsigned long long)opts->length,
			(unsigned long long)mem->fd_offset, path, (unsigned long long)info.size);
	}
	mem->sized = 1;
	mem->resizable = 1;
	rc = gr__file_set_size(mem->fd, whole);
	if (rc < 0)
		return gr__fail(rc, "block %s: ftruncate of %s to %#llx: %s", mem->name, path,
				(unsigned long long)whole, strerrordesc_np(-rc));
	return 0;
}

int gr__piece_of_file(const struct gr__mem *mem, uint64_t offset, uint64_t length, void **addr)
{
	int flags = (mem->flags & GR_SHARED ? MAP_SHARED : MAP_PRIVATE) | gr__mem_reserve_flag(mem);
	int rc = gr__os_map(length, gr__mem_protection(mem), flags, mem->fd,
			    mem->fd_offset + offset, addr);

	return rc < 0 ? gr__piece_failed(mem, rc, length) : 0;
}

int gr__discard_in_file(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	int rc = gr__file_punch(mem->fd, mem->fd_offset + offset, length);

	if (rc < 0)
		return gr__fail(rc == -EOPNOTSUPP ? -ENOTSUP : rc,
				"block %s: a hole of %#llx bytes at %#llx in its file: %s%s",
				mem->name, (unsigned long long)length,
				(unsigned long long)(mem->fd_offset + offset), strerrordesc_np(-rc),
				rc == -EOPNOTSUPP ? " by this file system" : "");
	return 0;
}

static int discard(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	int rc;

	if (!(mem->flags & GR_SHARED))
		return gr__discard_private(mem, offset, length);
	rc = gr__discard_in_file(mem, offset, length);
	/* Zero pages that stand for lost ones are in no file. */
	if (!rc && mem->guard && gr__sigbus_guard_lost(mem->guard))
		rc = gr__discard_private(mem, offset, length);
	return rc;
}

static int map_window(const struct gr__mem *mem, uint64_t offset, uint64_t length, void **addr)
{
	int rc = gr__piece_of_file(mem, offset, length, addr);

	/* over the limit of locked memory, after mlockall(); else it means to wait for a window */
	return rc == -EAGAIN ? -ENOMEM : rc;
}

static void unmap_window(const struct gr__mem *mem, void *addr, uint64_t length)
{
	gr__os_unmap(addr, length);
}

const struct gr__backing gr__backing_file = {
	.name = "GR_BACKING_FILE",
	.flags = GR__FLAGS_ANY | GR__FLAGS_OWN | GR_READ_ONLY | GR_CREATE | GR_TEMPORARY |
		 GR_MERGEABLE | GR_SURVIVE_TRUNCATION,
	.open = open_file,
	.fit = fit_file,
	.piece = gr__piece_of_file,
	.discard = discard,
};

/* The same file without an address of its own. Advice that is given once to a whole does not go. */
const struct gr__backing gr__backing_windowed = {
	.name = "GR_WINDOWED",
	.flags = GR__FLAGS_ANY | GR_WINDOWED | GR_SHARED | GR_READ_ONLY | GR_CREATE | GR_TEMPORARY,
	.open = open_file,
	.fit = fit_file,
	.window = map_window,
	.unwindow = unmap_window,
	.discard = gr__discard_in_file,
};
