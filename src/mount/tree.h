/* SPDX-License-Identifier: MIT */
/*
 * What stands where in a mount, without a node for each: an inode number is a kind, a clone and an
 * item, and its name follows from that.
 *
 * Threads: const once built.
 */
#ifndef GR__MOUNT_TREE_H
#define GR__MOUNT_TREE_H

#include "mount/base.h"
#include "mount/mount.h"
#include "mount/overlay.h"

enum gr__mount_kind {
	GR__MOUNT_NONE = 0,
	GR__MOUNT_ROOT,
	GR__MOUNT_STATES, /* the folder */
	GR__MOUNT_STATE,
	GR__MOUNT_CLONE, /* a folder */
	GR__MOUNT_BASE_FILE,
	GR__MOUNT_CLONE_FILE,
};

struct gr__mount_node {
	enum gr__mount_kind kind;
	unsigned clone; /* from 0 on */
	unsigned item;	/* block or state */
};

struct gr__mount_tree {
	struct gr__mount_base *base;
	struct gr__mount_block *blocks; /* names are owned */
	unsigned block_count;
	const struct gr__mount_state *states;
	char **state_names; /* as shown */
	unsigned state_count;
	unsigned clones;
	struct gr__mount_overlay **overlays; /* clone by clone */
};

/* 0, or as gr__mount_run(). After an error, too, gr__mount_tree_fini() frees it. */
int gr__mount_tree_init(struct gr__mount_tree *tree, const struct gr__mount_opts *opts);
void gr__mount_tree_fini(struct gr__mount_tree *tree);

/* Numbers are what the kernel was told, but may be any; the root's is 1. */
struct gr__mount_node gr__mount_node_of(const struct gr__mount_tree *tree, uint64_t number);
uint64_t gr__mount_number_of(const struct gr__mount_tree *tree, struct gr__mount_node node);

/* The child number @n of a folder, and its name (of at least 256 bytes); false: there is none. */
bool gr__mount_child(const struct gr__mount_tree *tree, struct gr__mount_node folder, uint64_t n,
		     struct gr__mount_node *node, char *name);
bool gr__mount_find(const struct gr__mount_tree *tree, struct gr__mount_node folder,
		    const char *name, struct gr__mount_node *node);

#endif
