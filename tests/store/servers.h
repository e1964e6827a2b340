/* SPDX-License-Identifier: MIT */
/*
 * NBD servers that the tests start, kill and start again: nbdkit and qemu-nbd on a Unix socket.
 *
 * Threads: the test's own.
 */
#ifndef SERVERS_H
#define SERVERS_H

#include "testing.h"

/* A folder for sockets and images, made once; the test removes it with servers_end(). */
const char *servers_folder(void);
void servers_end(void);

/* Is there such a program? What is missing is said. */
bool have_program(const char *name);

struct server {
	pid_t pid;
	char socket[108];
	char words[16][256];
	char *argv[17];
};

/* Started with those words, %s in one of which is the socket; returns when it listens. */
void server_start(struct server *server, const char *const *words);
/* kill -9, and it is gone. */
void server_kill(struct server *server);
/* It says nothing any more; returns when that is so. server_kill() ends it. */
void server_stop(struct server *server);
/* The same again. */
void server_again(struct server *server);

/* An image of @length bytes with the pattern of @block, where @zero_every-th 64 KiB are holes. */
void make_image(const char *path, unsigned block, uint64_t length, unsigned zero_every);
bool image_is_zero(uint64_t offset, unsigned zero_every);
/* Is what was read at @offset right? */
bool image_is_right(unsigned block, unsigned zero_every, uint64_t offset, const char *bytes,
		    uint64_t length);

#endif
