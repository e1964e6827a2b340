/* SPDX-License-Identifier: MIT */
/* NUMA nodes as people write them, as mbind(2) takes them. No state; any thread. */
#ifndef GR__NUMA_H
#define GR__NUMA_H

#include <guestram.h>

#define GR__NUMA_NODES 1024 /* as many as a Linux kernel can be built for */
#define GR__NUMA_WORD (8 * sizeof(unsigned long))

struct gr__numa {
	int mode; /* MPOL_…; MPOL_DEFAULT: leave the thread's own policy */
	unsigned long nodes[GR__NUMA_NODES / GR__NUMA_WORD];
};

/*
 * @nodes: as in "0-1,3". 0, or with gr__fail() said: -EINVAL for a list or a policy that is none, a
 * node that does not exist; -ENOTSUP when the kernel knows no nodes. Fault: "numa".
 */
int gr__numa_parse(enum gr_numa_policy policy, const char *nodes, struct gr__numa *numa);

#endif
