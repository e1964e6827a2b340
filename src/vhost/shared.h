/* SPDX-License-Identifier: MIT */
/*
 * Memory beside the guest's that a front-end shares with us by a descriptor: the log of dirty pages
 * and the record of requests in flight. A file that is cut short later is healed as the guest's
 * memory is (GR_VHOST_SIGBUS): what is lost there harms its owner alone.
 *
 * Threads: none of its own; who unmaps makes sure that nobody looks any more.
 */
#ifndef GR__VHOST_SHARED_H
#define GR__VHOST_SHARED_H

#include "os/sigbus.h"
#include <stdbool.h>
#include <stdint.h>

struct gr__shared {
	uint8_t *bytes; /* NULL: not mapped */
	uint64_t size;
	void *map; /* whole pages around it */
	uint64_t map_length;
	struct gr__sigbus_guard *guard;
};

/*
 * @size bytes at @offset of the file, which must have them. 0, -EINVAL, -ERANGE (nothing, or it
 * wraps), -EACCES, -ENOMEM; said. The descriptor stays the caller's.
 */
int gr__shared_map(int fd, uint64_t offset, uint64_t size, bool survive, struct gr__shared *shared);
/* Not mapped: nothing. */
void gr__shared_unmap(struct gr__shared *shared);

#endif
