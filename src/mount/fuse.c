/* SPDX-License-Identifier: MIT */
/*
 * See fuse.h. Nothing here changes but clones' bytes, and those through the kernel alone; so it may
 * keep names, attributes and pages for ever (KEEP_CACHE), and asks for a page once.
 *
 * A base file that is opened to write is given uncached (DIRECT_IO): the kernel then refuses to map
 * it shared, in which case one clone's stores would be seen by all; private mappings do work, and
 * share the page cache.
 *
 * Pages that somebody has written through a mapping are here after write-back only. So nothing of a
 * clone's file is called a hole, but through the descriptor that was synced last: what is a hole
 * then was one at that time.
 *
 * Threads: any number of requests at once; the state of each is on its stack.
 */
#define FUSE_USE_VERSION 312
#include "mount/fuse.h"
#include "base/range.h"
#include "os/alloc.h"
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FOR_EVER 1e9

static struct gr__mount_fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static struct gr__mount_node node_of(fuse_req_t req, fuse_ino_t ino)
{
	return gr__mount_node_of(&fs_of(req)->tree, ino);
}

static struct gr__mount_overlay *overlay_of(const struct gr__mount_tree *tree,
					    struct gr__mount_node node)
{
	return tree->overlays[(size_t)node.clone * tree->block_count + node.item];
}

static bool is_folder(struct gr__mount_node node)
{
	return node.kind == GR__MOUNT_ROOT || node.kind == GR__MOUNT_STATES ||
	       node.kind == GR__MOUNT_CLONE;
}

/* A source that is away would fill the log: one line a second, with how many came since. */
static void log_failure(struct gr__mount_fs *fs, struct gr__mount_node node, const char *what,
			uint64_t offset, int rc)
{
	struct timespec now;
	char text[512], more[48] = "";
	int64_t ms;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ms = now.tv_sec * 1000 + now.tv_nsec / 1000000;
	pthread_mutex_lock(&fs->log_lock);
	if (fs->logged_ms && ms - fs->logged_ms < 1000) {
		fs->untold++;
		pthread_mutex_unlock(&fs->log_lock);
		return;
	}
	if (fs->untold)
		snprintf(more, sizeof(more), " (and %llu others before)",
			 (unsigned long long)fs->untold);
	fs->untold = 0;
	fs->logged_ms = ms;
	snprintf(text, sizeof(text), "%s of %s at %#llx%s%.0d: %s%s", what,
		 fs->tree.blocks[node.item].name, (unsigned long long)offset,
		 node.kind == GR__MOUNT_CLONE_FILE ? " in clone " : "",
		 node.kind == GR__MOUNT_CLONE_FILE ? (int)node.clone + 1 : 0, strerrordesc_np(-rc),
		 more);
	fs->opts->log(fs->opts->context, text);
	pthread_mutex_unlock(&fs->log_lock);
}

/* ------------------------------------------------------------------------------------- attributes
 */

static uint64_t size_of(const struct gr__mount_tree *tree, struct gr__mount_node node)
{
	switch (node.kind) {
	case GR__MOUNT_STATE:
		return tree->states[node.item].length;
	case GR__MOUNT_BASE_FILE:
	case GR__MOUNT_CLONE_FILE:
		return tree->blocks[node.item].length;
	default:
		return 0;
	}
}

static int fill(struct gr__mount_fs *fs, struct gr__mount_node node, struct stat *st)
{
	const struct gr__mount_tree *tree = &fs->tree;
	unsigned others = fs->opts->others ? 066 : 0;

	memset(st, 0, sizeof(*st));
	if (node.kind == GR__MOUNT_NONE)
		return -ENOENT;
	st->st_ino = gr__mount_number_of(tree, node);
	st->st_uid = fs->uid;
	st->st_gid = fs->gid;
	st->st_blksize = GR_PAGE_SIZE;
	st->st_atim = st->st_mtim = st->st_ctim = fs->born;
	if (is_folder(node)) {
		st->st_mode = S_IFDIR | 0500 | (fs->opts->others ? 055 : 0);
		st->st_nlink = 2 + (node.kind == GR__MOUNT_ROOT
					    ? tree->clones + (tree->state_count ? 1 : 0)
					    : 0);
		return 0;
	}
	st->st_mode =
		S_IFREG | (node.kind == GR__MOUNT_STATE ? 0400 | (others & 044) : 0600 | others);
	st->st_nlink = 1;
	st->st_size = (off_t)size_of(tree, node);
	/* what it takes here; never 0, which some take for a file without any byte */
	st->st_blocks = GR_PAGE_SIZE / 512;
	if (node.kind == GR__MOUNT_CLONE_FILE)
		st->st_blocks += (blkcnt_t)(gr__mount_overlay_bytes(overlay_of(tree, node)) / 512);
	return 0;
}

static void reply_attr(fuse_req_t req, struct gr__mount_node node)
{
	struct stat st;
	int rc = fill(fs_of(req), node, &st);

	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_attr(req, &st,
				node.kind == GR__MOUNT_CLONE_FILE ? 1.0 /* blocks */ : FOR_EVER);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)fi;
	reply_attr(req, node_of(req, ino));
}

/* Sizes are the machine's, rights the mount's; times nobody keeps. */
static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *to, int what,
		       struct fuse_file_info *fi)
{
	struct gr__mount_node node = node_of(req, ino);

	(void)fi;
	if (what & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) ||
	    ((what & FUSE_SET_ATTR_SIZE) &&
	     (to->st_size < 0 || (uint64_t)to->st_size != size_of(&fs_of(req)->tree, node))))
		fuse_reply_err(req, EPERM);
	else
		reply_attr(req, node);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {.attr_timeout = FOR_EVER, .entry_timeout = FOR_EVER};
	struct gr__mount_fs *fs = fs_of(req);
	struct gr__mount_node folder = node_of(req, parent), node;

	if (!is_folder(folder)) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	/* without one, number 0 says so, and may be kept, too */
	if (gr__mount_find(&fs->tree, folder, name, &node)) {
		fill(fs, node, &entry.attr);
		entry.ino = entry.attr.st_ino;
		if (node.kind == GR__MOUNT_CLONE_FILE)
			entry.attr_timeout = 1.0;
	}
	fuse_reply_entry(req, &entry);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t from,
		       struct fuse_file_info *fi)
{
	struct gr__mount_fs *fs = fs_of(req);
	struct gr__mount_node folder = node_of(req, ino), node;
	char name[256], *buf;
	size_t used = 0;
	uint64_t n;

	(void)fi;
	if (!is_folder(folder)) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	buf = gr__alloc_raw(size ? size : 1);
	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	/* entries 0 and 1 are "." and ".." */
	for (n = from < 0 ? UINT64_MAX - 2 : (uint64_t)from;; n++) {
		struct stat st = {0};
		size_t need;

		if (n < 2) {
			strcpy(name, n ? ".." : ".");
			st.st_mode = S_IFDIR;
			st.st_ino = n ? FUSE_ROOT_ID : ino;
		} else if (gr__mount_child(&fs->tree, folder, n - 2, &node, name)) {
			fill(fs, node, &st);
		} else {
			break;
		}
		need = fuse_add_direntry(req, buf + used, size - used, name, &st, (off_t)n + 1);
		if (need > size - used)
			break;
		used += need;
	}
	fuse_reply_buf(req, buf, used);
	gr__free(buf);
}

/* -------------------------------------------------------------------------------------- the bytes
 */

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct gr__mount_node node = node_of(req, ino);
	bool writes = (fi->flags & O_ACCMODE) != O_RDONLY;

	if (node.kind == GR__MOUNT_NONE || is_folder(node)) {
		fuse_reply_err(req, node.kind == GR__MOUNT_NONE ? ENOENT : EISDIR);
		return;
	}
	if (node.kind == GR__MOUNT_STATE && writes) {
		fuse_reply_err(req, EACCES);
		return;
	}
	/* relaxed: it is told nobody twice, and that is all */
	fi->fh = __atomic_add_fetch(&fs_of(req)->opened, 1, __ATOMIC_RELAXED);
	fi->keep_cache = 1;
	fi->noflush = 1;
	if (node.kind == GR__MOUNT_BASE_FILE && writes)
		fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at,
		    struct fuse_file_info *fi)
{
	struct gr__mount_fs *fs = fs_of(req);
	struct gr__mount_node node = node_of(req, ino);
	uint64_t offset = (uint64_t)at, all = size_of(&fs->tree, node), length = size;
	void *buf;
	int rc;

	(void)fi;
	if (at < 0 || offset >= all) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	if (length > all - offset)
		length = all - offset;
	if (node.kind == GR__MOUNT_STATE) {
		fuse_reply_buf(req, (const char *)fs->tree.states[node.item].bytes + offset,
			       length);
		return;
	}
	buf = gr__alloc_raw(length ? length : 1);
	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	rc = node.kind == GR__MOUNT_BASE_FILE
		     ? gr__mount_base_read(fs->tree.base, &fs->tree.blocks[node.item], offset, buf,
					   length)
		     : gr__mount_overlay_read(overlay_of(&fs->tree, node), offset, buf, length);
	if (rc < 0) {
		log_failure(fs, node, "read", offset, rc);
		/* whatever it was: who faults on it gets SIGBUS, who reads it EIO */
		fuse_reply_err(req, EIO);
	} else {
		fuse_reply_buf(req, buf, length);
	}
	gr__free(buf);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t at,
		     struct fuse_file_info *fi)
{
	struct gr__mount_fs *fs = fs_of(req);
	struct gr__mount_node node = node_of(req, ino);
	int rc;

	(void)fi;
	if (node.kind != GR__MOUNT_CLONE_FILE) {
		fuse_reply_err(req, EROFS);
		return;
	}
	if (at < 0 || !gr__range_within((uint64_t)at, size, size_of(&fs->tree, node))) {
		fuse_reply_err(req, EFBIG);
		return;
	}
	rc = gr__mount_overlay_write(overlay_of(&fs->tree, node), (uint64_t)at, buf, size);
	if (rc < 0) {
		log_failure(fs, node, "write", (uint64_t)at, rc);
		fuse_reply_err(req, rc == -ENOSPC ? ENOSPC : EIO);
	} else {
		fuse_reply_write(req, size);
	}
}

/* Balloons and virtio-mem give pages back by it. */
static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t at, off_t length,
			 struct fuse_file_info *fi)
{
	struct gr__mount_fs *fs = fs_of(req);
	struct gr__mount_node node = node_of(req, ino);
	uint64_t all = size_of(&fs->tree, node), offset = (uint64_t)at, bytes = (uint64_t)length;
	int rc = 0;

	(void)fi;
	if (node.kind != GR__MOUNT_CLONE_FILE || at < 0 || length <= 0) {
		fuse_reply_err(req, node.kind == GR__MOUNT_CLONE_FILE ? EINVAL : EROFS);
		return;
	}
	if (mode && mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) &&
	    mode != FALLOC_FL_KEEP_SIZE) {
		fuse_reply_err(req, EOPNOTSUPP);
		return;
	}
	if (mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)) {
		/* room for all of it there is, as far as there is at all */
		fuse_reply_err(req, mode || gr__range_within(offset, bytes, all) ? 0 : EFBIG);
		return;
	}
	if (offset < all)
		rc = gr__mount_overlay_punch(overlay_of(&fs->tree, node), offset,
					     bytes < all - offset ? bytes : all - offset);
	if (rc < 0)
		log_failure(fs, node, "discard", offset, rc);
	fuse_reply_err(req, -rc);
}

/* The next piece of @data or of none, from @offset on; the end is a hole. */
static int seek(struct gr__mount_fs *fs, struct gr__mount_node node, uint64_t offset, bool data,
		uint64_t *at)
{
	uint64_t all = size_of(&fs->tree, node), run, page;
	const struct gr__mount_block *block = &fs->tree.blocks[node.item];
	int kind;

	while (offset < all) {
		page = gr__align_down(offset, GR_PAGE_SIZE);
		kind = node.kind == GR__MOUNT_BASE_FILE
			       ? gr__mount_base_look(fs->tree.base, block, page, &run)
			       : gr__mount_overlay_look(overlay_of(&fs->tree, node), page, &run);
		if (kind < 0)
			return kind;
		if ((kind == GR_PAGES_DATA) == data) {
			*at = offset;
			return 0;
		}
		offset = page + run;
	}
	*at = all;
	return data ? -ENXIO : 0;
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t from, int whence,
		     struct fuse_file_info *fi)
{
	struct gr__mount_fs *fs = fs_of(req);
	struct gr__mount_node node = node_of(req, ino);
	uint64_t all = size_of(&fs->tree, node), at = all;
	bool clone = node.kind == GR__MOUNT_CLONE_FILE;
	int rc = 0;

	if (from < 0 || (uint64_t)from >= all)
		rc = -ENXIO;
	else if (whence != SEEK_DATA && whence != SEEK_HOLE)
		rc = -EINVAL;
	else if (node.kind == GR__MOUNT_STATE ||
		 (clone && !gr__mount_overlay_was_synced(overlay_of(&fs->tree, node), fi->fh)))
		at = whence == SEEK_DATA ? (uint64_t)from : all;
	else
		rc = seek(fs, node, (uint64_t)from, whence == SEEK_DATA, &at);
	if (rc < 0)
		fuse_reply_err(req, -rc);
	else
		fuse_reply_lseek(req, (off_t)at);
}

/* The kernel has written back what was dirty, and that is in the overlay when it is answered. */
static void op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
	struct gr__mount_node node = node_of(req, ino);

	(void)data_only;
	if (node.kind == GR__MOUNT_CLONE_FILE)
		gr__mount_overlay_sync(overlay_of(&fs_of(req)->tree, node), fi->fh);
	fuse_reply_err(req, 0);
}

/* Names neither come nor go. */
static void op_remove(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	(void)parent;
	(void)name;
	fuse_reply_err(req, EROFS);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	(void)mode;
	op_remove(req, parent, name);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
	(void)mode;
	(void)device;
	op_remove(req, parent, name);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to_parent,
		      const char *to, unsigned flags)
{
	(void)to_parent;
	(void)to;
	(void)flags;
	op_remove(req, parent, name);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct gr__mount_fs *fs = userdata;

	/* read-ahead and write-back are what the kernel counts as background */
	conn->max_background = fs->opts->threads * 2;
	conn->congestion_threshold = fs->opts->threads * 2;
	if (fs->opts->ready)
		fs->opts->ready(fs->opts->context);
}

const struct fuse_lowlevel_ops *gr__mount_fuse_ops(size_t *size)
{
	static const struct fuse_lowlevel_ops ops = {
		.init = op_init,
		.lookup = op_lookup,
		.getattr = op_getattr,
		.setattr = op_setattr,
		.readdir = op_readdir,
		.unlink = op_remove,
		.rmdir = op_remove,
		.mkdir = op_mkdir,
		.mknod = op_mknod,
		.rename = op_rename,
		.open = op_open,
		.read = op_read,
		.write = op_write,
		.fsync = op_fsync,
		.fallocate = op_fallocate,
		.lseek = op_lseek,
	};

	*size = sizeof(ops);
	return &ops;
}
