/* SPDX-License-Identifier: MIT */
/* See barrier.h. No state of ours; the kernel remembers the announcement for the process. */
#include "os/barrier.h"
#include "os/hooks.h"
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

static int membarrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0);
}

bool gr__os_barrier_init(void)
{
	if (GR_FAULT("membarrier"))
		return false;
	return membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
}

void gr__os_barrier(void)
{
	membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
}
