/* SPDX-License-Identifier: MIT */
/* The machine that `guestram migrate` moves: its options, memory, guest and connections. */
#ifndef MIGRATE_MACHINE_H
#define MIGRATE_MACHINE_H

#include "migrate_guest.h"
#include <guestram/migrate.h>

struct migrate_options {
	const char *verb, *address;
	unsigned channels, zstd, rounds;
	uint64_t rate, memory, writes, downtime; /* MiB a second, MiB, MiB a second, ms */
	uint64_t seconds;
	bool postcopy;
};

struct machine {
	struct migrate_options options;
	struct gr_ram *ram;
	struct gr_block *block;
	struct guest guest;
	int fds[GR_MIGRATE_CHANNELS_MAX];
	unsigned fd_count;
	bool has_registers;
};

/* Of machine->options, the rest zero: memory, and a guest that does not run. 0 or -errno, said. */
int machine_open(struct machine *machine);
/* Takes half-opened ones too. */
void machine_close(struct machine *machine);

/* The exit code. */
int machine_send(struct machine *machine);
int machine_receive(struct machine *machine);

#endif
