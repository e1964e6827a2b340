/* SPDX-License-Identifier: MIT */
/*
 * Two sides of a migration in one process: each a RAM with the same blocks, and a guest that is a
 * thread which writes to its memory. The guest must never run on both sides.
 *
 * Threads: the test's own is the sender; the receiver has one; so has each guest.
 */
#ifndef PAIR_H
#define PAIR_H

#include "testing.h"
#include <guestram/dirty.h>
#include <guestram/migrate.h>

#define PAIR_CHANNELS 4

enum pair_pipe { PAIR_SOCKETS, PAIR_TCP, PAIR_PIPES };

struct side {
	struct gr_ram *ram;
	struct gr_space *space;
	struct gr_block *low, *high; /* anonymous; memfd, half of it used */
	int running;		     /* atomic: the guest may run here */
	int parked;		     /* atomic: its thread is not writing */
	int over;		     /* atomic: its thread ends */
	pthread_t guest;
	bool has_guest;
	unsigned mark; /* 0: gr_store(); 1: raw and marked; 2: raw, not marked */
	unsigned stops, resumes;
	unsigned throttle;
	uint64_t writes; /* atomic */
	unsigned pause_us;
	char state[64];
	uint64_t state_length;
	int load_error, stop_error, save_error;
	uint64_t cancel_at; /* rounds; 0: never */
	int fds[PAIR_CHANNELS];
	struct gr_migrate_stats stats;
	int rc;
	char why[512];
	struct gr_migrate_opts opts;
};

struct pair {
	struct side from, to;
	unsigned channels;
	pthread_t receiver;
};

#define LOW_BYTES (4 * MIB)
#define HIGH_BYTES (1 * MIB)
#define HIGH_MAX (4 * MIB)

extern const struct gr_migrate_ops pair_ops;

/* Both sides with the same blocks, connected; the sender's memory has some content. */
void pair_open(struct pair *pair, unsigned channels, enum pair_pipe how);
void pair_close(struct pair *pair);
void pair_connect(struct pair *pair, enum pair_pipe how);
/* Ends are closed, so that the other side sees it. */
void side_hang_up(struct side *side);

void side_open_ram(struct side *side, uint64_t low_bytes);
void side_start_guest(struct side *side);
void side_end_guest(struct side *side);

/* Runs both; fills rc, why and stats of each. */
void pair_run(struct pair *pair);
void pair_begin_receiver(struct pair *pair);
void pair_end_receiver(struct pair *pair);

/* Both sides have the same bytes in all blocks. */
void assert_same_memory(const struct pair *pair);
/* At most one side runs; exactly one if the sender knows. */
void assert_one_guest(const struct pair *pair);

#endif
