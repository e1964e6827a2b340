/* SPDX-License-Identifier: MIT */
/*
 * Where a core goes: bytes and stretches of zeroes, one after the other. A regular file gets the
 * bytes alone and keeps holes; anything else is given the zeroes.
 *
 * Threads: one at a time.
 */
#ifndef GR__SINK_H
#define GR__SINK_H

#include <stdbool.h>
#include <stdint.h>

struct gr__sink {
	int fd;
	bool sparse;
	uint64_t at;	 /* position of the next byte */
	uint64_t pushed; /* bytes that were written */
};

/* Empties a regular file. 0 or -errno, said. Faults: "fstat", "fcntl", "ftruncate". */
int gr__sink_open(struct gr__sink *sink, int fd);
/* 0 or -errno, said. Fault: "write". */
int gr__sink_put(struct gr__sink *sink, const void *buf, uint64_t length);
int gr__sink_skip(struct gr__sink *sink, uint64_t length);
/* Gives a file its length. Fault: "ftruncate". */
int gr__sink_end(struct gr__sink *sink);

#endif
