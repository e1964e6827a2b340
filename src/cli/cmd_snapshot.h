/* SPDX-License-Identifier: MIT */
/* What the actions of `guestram snapshot` share; each returns an exit code, with failures told. */
#ifndef CMD_SNAPSHOT_H
#define CMD_SNAPSHOT_H

#include <guestram/snapshot.h>
#include <stdbool.h>

#define SNAPSHOT_BLOCKS 64

struct snapshot_args {
	int action;
	const char *what; /* "snapshot save", for messages */
	const char *args[3];
	struct {
		const char *name, *path;
	} blocks[SNAPSHOT_BLOCKS];
	int block_count;
	const char *parent;
	const char *svg, *order; /* NULL: no picture; no working set in it */
	bool json;
	struct gr_snapshot_opts opts;
};

int snapshot_save(struct snapshot_args *args);
int snapshot_load(struct snapshot_args *args);
int snapshot_info(struct snapshot_args *args);
int snapshot_verify(struct snapshot_args *args);
int snapshot_diff(struct snapshot_args *args);
int snapshot_flatten(struct snapshot_args *args);
int snapshot_pack(struct snapshot_args *args);
int snapshot_extract(struct snapshot_args *args);
int snapshot_list(struct snapshot_args *args);

/* The picture of `info --svg`; snapshot_svg.c */
int snapshot_draw(struct snapshot_args *args, struct gr_snapshot *snapshot);

/* NULL, told. */
struct gr_snapshot *snapshot_open(const struct snapshot_args *args, const char *path);

#endif
