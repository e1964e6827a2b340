/* SPDX-License-Identifier: MIT */
/* Strict windows in a space: who may change what is there, and how plugged runs become ranges. */
#ifndef GR__WINDOWS_H
#define GR__WINDOWS_H

#include "space/builder.h"
#include "space/change.h"

/* May @op, which is no window's own, touch its addresses? 0, -EEXIST (map), -EBUSY. Lock held. */
int gr__windows_check(const struct gr__space *space, const struct gr__op *op);

/* Edits of a builder, each 0 or -errno; lock held, the granules' `busy` by the caller. */
int gr__window_show(struct gr__builder *builder, const struct gr__window *window);
int gr__window_hide(struct gr__builder *builder, const struct gr__window *window);
int gr__window_change(struct gr__builder *builder, const struct gr__window *window,
		      const struct gr__granule_change *change);

#endif
