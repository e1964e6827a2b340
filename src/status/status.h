/* SPDX-License-Identifier: MIT */
/* What the files of the status socket share: the document, the members, the socket. */
#ifndef GR__STATUS_H
#define GR__STATUS_H

#include <guestram/status.h>
#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

/* Of the document; a reader refuses a larger one. Members may be added without a new number. */
#define GR__STATUS_VERSION 1

/* Put @value, which is taken over, under @key. 0, or -ENOMEM, also when @value is NULL. */
int gr__json_put(json_t *object, const char *key, json_t *value);

/* The members of programs, called; -ENOMEM or 0. members.c */
int gr__status_members(json_t *object);

/* A socket that listens, and what it was as it was made. socket.c */
struct gr__status_socket {
	int fd;
	char *path;
	dev_t device;
	ino_t inode;
};

/* 0 or -errno with gr__fail() said. */
int gr__status_listen(const char *path, struct gr__status_socket *socket);
/* Closes it, and removes its name if that is still its own. */
void gr__status_unlisten(struct gr__status_socket *socket);
/* A client that may ask, non-blocking; -EAGAIN: none waits; -EPERM: one was hung up on; -errno. */
int gr__status_accept(const struct gr__status_socket *socket);

#endif
