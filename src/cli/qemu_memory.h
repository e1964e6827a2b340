/* SPDX-License-Identifier: MIT */
/*
 * Where a running QEMU has its guest's memory: the files behind its memory back-ends, opened to be
 * read.
 *
 * Threads: none.
 */
#ifndef QEMU_MEMORY_H
#define QEMU_MEMORY_H

#include "qmp.h"
#include <stdint.h>

struct qemu_block {
	char id[256];
	uint64_t size;
	int fd;
};

struct qemu_memory {
	struct qemu_block *blocks;
	size_t count;
};

/* CLI_OK, or CLI_FAILED with the reason told: what is not in a shared back-end, cannot be saved. */
int qemu_memory_find(struct qmp *qmp, struct qemu_memory *memory);
void qemu_memory_close(struct qemu_memory *memory);

#endif
