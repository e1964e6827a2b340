/* SPDX-License-Identifier: MIT */
/*
 * A mount in this process or in a child of its own: for the verbs mount and qemu.
 *
 * Threads: call it while main is alone.
 */
#ifndef MOUNTING_H
#define MOUNTING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct mounting {
	const char *stored, *parent; /* as for stored_open() */
	bool image;
	const char *directory;
	const char *overlay; /* directory, or NULL: memory */
	unsigned clones, threads;
	uint64_t cache; /* bytes */
	bool others;
};

/* What the options are when nothing is said. */
extern const struct mounting mounting_defaults;

/* Serve until SIGTERM, SIGINT or an unmount; says so on stdout when it is mounted. CLI_… */
int mounting_serve(const struct mounting *mounting);

/*
 * The same in a child, from when it is mounted on. @with_us: it is ended with this process; else it
 * leaves the terminal, and complains to the system's log. CLI_OK, or CLI_FAILED with the reason
 * told.
 */
int mounting_start(const struct mounting *mounting, bool with_us, pid_t *pid);
/* End it, and wait for that. */
void mounting_stop(pid_t pid);

#endif
