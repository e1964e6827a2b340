/* SPDX-License-Identifier: MIT */
/*
 * The status socket of `guestram serve`: each connection gets one JSON object, then the end. The
 * keys are in docs/vhost.md. Main thread only.
 */
#ifndef BLK_STATUS_H
#define BLK_STATUS_H

#include "blk.h"

/* A listening, non-blocking socket at @path, mode 0600; or -errno. */
int blk_status_listen(const char *path);
/* Answer one connection that waits. */
void blk_status_answer(int listener, const struct blk *blk, struct gr_vhost *server);

#endif
