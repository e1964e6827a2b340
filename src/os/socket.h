/* SPDX-License-Identifier: MIT */
/*
 * A unix socket that listens: a name that is its owner's alone (mode 600), that replaces a dead
 * socket and no other thing, and that is removed only while it is still its own.
 *
 * Threads: the caller serialises.
 */
#ifndef GR__OS_SOCKET_H
#define GR__OS_SOCKET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* A socket that listens, and what it was as it was made. */
struct gr__socket {
	int fd;
	char *path;
	dev_t device;
	ino_t inode;
};

/*
 * 0 or -errno with gr__fail() said; sentences begin with @what. Faults: "socket", "fchmod", "bind",
 * "lstat", "listen"; "flock", without which it goes on.
 */
int gr__socket_listen(const char *what, const char *path, struct gr__socket *socket);
/* Closes it, and removes its name if that is still its own. */
void gr__socket_unlisten(struct gr__socket *socket);

/*
 * A client, non-blocking, and who it is; -EAGAIN: none waits; -EPERM: one was hung up on; -errno.
 * Faults: "accept", "peer".
 */
int gr__socket_accept(const struct gr__socket *socket, struct ucred *peer);

/*
 * Some bytes, and descriptors: *count is how many there is room for, and then how many came; those
 * over it are closed. 0: the peer has hung up; -EAGAIN: nothing is there. Fault: "recvmsg".
 */
int64_t gr__socket_receive(int fd, void *buf, size_t size, int *fds, unsigned *count);

#endif
