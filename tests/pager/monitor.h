/* SPDX-License-Identifier: MIT */
/*
 * A monitor as the handshake knows it, in a process of its own: it maps memory, registers it, sends
 * what it has and its userfaultfd, and then touches and discards pages from threads, comparing
 * every byte.
 *
 * Threads: the test's own starts monitors and waits for them; the rest is in their processes.
 */
#ifndef MONITOR_H
#define MONITOR_H

#include "pattern.h"
#include <sys/types.h>

enum monitor_way {
	MONITOR_AT_ONCE,
	MONITOR_SPLIT, /* the array in pieces of a few bytes, the descriptor with the first */
	MONITOR_LATE,  /* the descriptor after the whole array */
	MONITOR_LONG,  /* unknown members, more than 4 KiB */
	MONITOR_OLD,   /* page_size_kib only, in bytes */
};

struct monitor {
	enum monitor_way way;
	uint64_t length, page_size;
	unsigned regions; /* of equal lengths, out of order; 0: 1 */
	bool shared, blocking;
	int file;	   /* descriptor of what it maps; 0: none */
	unsigned filled;   /* every so manieth of its pages was the source's from the start, and a
			      discard of private memory shows it again; 0: none */
	int marks;	   /* descriptor of an int for each page, for all who discard pages of the
			      file, which may be there again; 0: it is alone */
	bool minor;	   /* registered for pages that the file has, too */
	bool writes;	   /* after that each page gets bytes of its own, and keeps them */
	unsigned touchers; /* threads that read all pages; 0: none */
	bool discards;	   /* another madvise()s pages meanwhile */
	bool system_calls; /* pages are read by write(2), too: faults in the kernel */
	unsigned only;	   /* touch so many pages only, from the first; 0: all */
	int stay_ms;	   /* afterwards, or until it is killed; -1: for ever */
	bool deaf;	   /* it does not look at its connection */
	int started, go;   /* after the touches: a byte is written to one and waited for from the
			      other, then all pages are touched; 0: not so */
	const char *json;  /* instead of what is true */
	int send_fd;	   /* instead of the userfaultfd; 0: that */
	const struct pattern_source *source;
};

/* To be called first by main() of each test: a monitor runs it again, and does not return. */
void monitor_main(int argc, char **argv);
/* Its exit status is for monitor_wait(). Listens for the socket for a while. */
pid_t monitor_start(const struct monitor *monitor, const char *path);
/* 0: every byte was right; 1: not (it has said what); 2: the server hung up; 3: it is not possible
 * here; -n: signal n; -1000: it does not end, and is killed. */
int monitor_wait(pid_t pid, int timeout_ms);

#endif
