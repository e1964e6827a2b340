/* SPDX-License-Identifier: MIT */
/*
 * The guest that `guestram migrate` moves: a program whose data is in guest memory and whose
 * registers are the machine's state. It visits pages in a fixed order, checks what it wrote there
 * the last time, writes the next, and says a line now and then; the lines are numbered.
 *
 * From the registers alone follows what each page has to hold. So a page that was lost, came late
 * or twice, and a register that was not taken over, are noticed by the guest itself.
 *
 * Threads: the guest is one. `running` and `parked` are between it and who stops it; the rest is
 * the guest's while it runs, and its owner's while it does not.
 */
#ifndef MIGRATE_GUEST_H
#define MIGRATE_GUEST_H

#include <guestram.h>
#include <pthread.h>
#include <stdbool.h>

/* All that the guest knows but its memory; goes over as it is, little-endian as its memory. */
struct guest_registers {
	uint64_t step;	/* pages visited */
	uint64_t lines; /* said */
	uint64_t wrong; /* pages that were not as they should be */
	uint64_t first; /* of those, plus 1 */
};

struct guest {
	char *host; /* const: guest memory */
	uint64_t pages;
	uint64_t pages_per_second;
	struct guest_registers registers;
	int running;   /* atomic: it may */
	int parked;    /* atomic: it does not, and has seen it */
	int over;      /* atomic: its thread ends */
	unsigned less; /* atomic: percent that it is to do less */
	pthread_t thread;
	bool started;
};

/* 0 or -errno; it does not run yet. */
int guest_start(struct guest *guest);
void guest_run(struct guest *guest);
/* When it returns the guest does nothing. */
void guest_stop(struct guest *guest);
/* Its thread ends, if it was started. */
void guest_end(struct guest *guest);

/* Of all memory, now: pages that are not as the registers say, and a sum. The guest is stopped. */
uint64_t guest_check(const struct guest *guest, uint64_t *sum);

#endif
