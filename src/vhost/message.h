/* SPDX-License-Identifier: MIT */
/*
 * Messages of the socket: received in pieces without waiting, with their descriptors; sent whole.
 *
 * Threads: the server's. Invariant: a descriptor that came in is in message->fds until a handler
 * takes it (gr__message_take_fd()), and gr__message_clear() closes the rest; none is ever lost.
 */
#ifndef GR__VHOST_MESSAGE_H
#define GR__VHOST_MESSAGE_H

#include "vhost/wire.h"
#include <stdbool.h>
#include <stddef.h>

#define GR__MESSAGE_FDS 8 /* no message has more; what comes beyond is closed and counted */

struct gr__message {
	struct wire_header header;
	union wire_payload payload;
	int fds[GR__MESSAGE_FDS];
	unsigned fd_count; /* came in, over GR__MESSAGE_FDS too */
	bool fds_lost;	   /* the kernel could not give us all */
	size_t have;	   /* bytes of header and payload */
};

void gr__message_init(struct gr__message *message);
/* Close what nobody took. */
void gr__message_close_fds(struct gr__message *message);
/* That, and be ready for the next one. */
void gr__message_clear(struct gr__message *message);
/* -1 when there is no such descriptor (any more). */
int gr__message_take_fd(struct gr__message *message, unsigned i);

/*
 * 1: a message is whole; -EAGAIN: not yet; 0: the peer left between two messages; -ECONNRESET: in
 * the middle of one; -EMSGSIZE: it announces more than any message has; else of recvmsg(2).
 */
int gr__message_recv(int fd, struct gr__message *message);
/*
 * With descriptor @pass, which stays the caller's; -1: none. 0 or -errno; a peer that does not read
 * its answers is -EAGAIN.
 */
int gr__message_send(int fd, uint32_t request, const void *payload, uint32_t size, int pass);

#endif
