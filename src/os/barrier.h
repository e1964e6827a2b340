/* SPDX-License-Identifier: MIT */
/* membarrier(2): every running thread of the process passes a full memory barrier. */
#ifndef GR__BARRIER_H
#define GR__BARRIER_H

#include <stdbool.h>

/* Announce that gr__os_barrier() will be used; false: the kernel has no such call (before 4.14). */
bool gr__os_barrier_init(void);
/* Cannot fail after gr__os_barrier_init(). */
void gr__os_barrier(void);

#endif
