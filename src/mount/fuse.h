/* SPDX-License-Identifier: MIT */
/* The answers to the kernel's requests about a tree (libfuse, low level). */
#ifndef GR__MOUNT_FUSE_H
#define GR__MOUNT_FUSE_H

#include "mount/tree.h"
#include <pthread.h>
#include <time.h>

/* The session's user data. */
struct gr__mount_fs {
	struct gr__mount_tree tree;
	const struct gr__mount_opts *opts;
	struct timespec born;
	unsigned uid, gid;
	uint64_t opened; /* atomic: files so far, which numbers them */
	pthread_mutex_t log_lock;
	int64_t logged_ms; /* wr: log_lock; when the last failure was told */
	uint64_t untold;   /* wr: log_lock; failures since */
};

struct fuse_lowlevel_ops;
const struct fuse_lowlevel_ops *gr__mount_fuse_ops(size_t *size);

#endif
