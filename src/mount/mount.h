/* SPDX-License-Identifier: MIT */
/*
 * Blocks of a page source as files of a file system (FUSE):
 *
 *   DIR/<block>            the source's bytes; may be mapped privately by who opens it to write
 *   DIR/clone-<n>/<block>  the same with a clone's own writes over them
 *   DIR/state/<name>       pieces of other state
 *
 *   mmap'ed by QEMU ─► page cache ─miss, write-back─► /dev/fuse ─► threads ─► overlay ─► base ─►
 * source
 *
 * A name that is none for a file, or that stands for something here, is shown with %XX for its
 * letters that cannot stay.
 */
#ifndef GR__MOUNT_H
#define GR__MOUNT_H

#include <guestram/pager.h>
#include <stdbool.h>

/* A piece of state; the bytes stay where they are. */
struct gr__mount_state {
	const char *name;
	const void *bytes;
	uint64_t length;
};

/*
 * @source, @blocks, @block_count: what to show; names as the source finds them
 * @states, @state_count: may be none
 * @clones:  folders with files of their own over the base
 * @overlay: directory of what they write; NULL: in memory
 * @cache:   bytes for chunks of the source
 * @threads: that answer requests
 * @others:  let every user in
 * @ready:   it is mounted; from another thread
 * @log:     a sentence; from any thread, one at a time
 */
struct gr__mount_opts {
	const struct gr_page_source *source;
	const char *const *blocks;
	unsigned block_count;
	const struct gr__mount_state *states;
	unsigned state_count;
	unsigned clones;
	const char *overlay;
	uint64_t cache;
	unsigned threads;
	bool others;
	void (*ready)(void *context);
	void (*log)(void *context, const char *message);
	void *context;
};

/*
 * Mount it at @directory and serve until @signals, a signalfd of signals that are blocked in all
 * threads, has one, or somebody unmounts it.
 *
 * Return: 0, -ENOENT (a block that the source does not have), -EINVAL, -ENOMEM, -EIO (it could not
 * be mounted: the log has why), or the error of a call on the overlays' files. -ETIMEDOUT: a second
 * signal came while requests had no answer yet: it is unmounted, but threads are still in it; the
 * caller has nothing to do but to end the process.
 */
int gr__mount_run(const struct gr__mount_opts *opts, const char *directory, int signals);

#endif
