/* SPDX-License-Identifier: MIT */
/*
 * A server inside the fuzzer and the front-end's end of its socket. The server lives as long as the
 * process; each input is one or more connections, after which nothing of them may be left.
 *
 * Threads: the fuzzer's is the server's too (gr_vhost_process()); workers run the queues.
 */
#ifndef FUZZ_VHOST_FRONT_H
#define FUZZ_VHOST_FRONT_H

#include "fuzz.h"
#include "vhost/server.h"

struct front {
	struct gr_vhost *server;
	int sock; /* -1: not connected */
	struct fuzz_ledger before;
	/* of the last answer read */
	struct wire_header header;
	union wire_payload payload;
};

/* A server for @ops that listens nowhere. */
struct gr_vhost *front_server(const struct gr_vhost_ops *ops, void *context, unsigned queues,
			      unsigned threads);

/* Before anything of an input is opened; and after all of it was closed. */
void front_begin(struct front *front, struct gr_vhost *server);
void front_end(struct front *front);

void front_connect(struct front *front);
void front_hang_up(struct front *front);
/* Does the server still hold the connection? */
bool front_is_connected(const struct front *front);

/* Bytes as they are, with descriptors. What the peer no longer takes is lost. */
void front_send(struct front *front, const void *bytes, size_t size, const int *fds,
		unsigned fd_count);
/* A message. */
void front_message(struct front *front, uint32_t request, uint32_t flags, const void *payload,
		   uint32_t size, const int *fds, unsigned fd_count);
/* Let the server handle all that was sent. */
void front_process(struct front *front);
/* The next answer, checked for its form; false: there is none. */
bool front_answer(struct front *front);
/* A message that must be accepted: sent, handled, and its answer (if one) dropped. */
void front_must(struct front *front, uint32_t request, const void *payload, uint32_t size,
		const int *fds, unsigned fd_count);
void front_must_u64(struct front *front, uint32_t request, uint64_t value);

/* Waits until @worker has done all that there is to do. */
void front_settle(struct gr__worker *worker);

#endif
