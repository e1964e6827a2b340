/* SPDX-License-Identifier: MIT */
/* What the granules of one block are, for the files of this folder; see plug.c. */
#ifndef GR__PLUG_H
#define GR__PLUG_H

#include "ram/ram.h"
#include <guestram/plug.h>

struct gr_plug {
	struct gr_block *block;		/* const */
	struct gr__granules *granules;	/* const */
	struct gr_discard_claim *claim; /* const: GR_DISCARD_NEED_TOLD */
};

/*
 * The caller is the one who changes the granules, until end; its block stays as long. Lock held. 0,
 * or -EBUSY with it said.
 */
int gr__plug_begin(struct gr_plug *plug);
void gr__plug_end(struct gr_plug *plug);

/* 0, -EINVAL, -ERANGE: is that a run of granules within the first @end bytes? */
int gr__plug_check_run(const struct gr_plug *plug, const char *verb, struct gr__run run,
		       uint64_t end);

#endif
