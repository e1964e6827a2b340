/* SPDX-License-Identifier: MIT */
/*
 * What `guestram serve blk` adds to the status document of <guestram/status.h>: the device's own
 * figures, as member "blk". The keys are in docs/vhost.md.
 */
#ifndef BLK_STATUS_H
#define BLK_STATUS_H

#include "blk.h"

struct blk_status {
	const struct blk *blk;
	struct gr_vhost *server;
};

/* A gr_status_fn; the context is a struct blk_status. Any thread, while the server is open. */
char *blk_status_text(void *context);

#endif
