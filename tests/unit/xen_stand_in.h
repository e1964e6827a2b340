/* SPDX-License-Identifier: MIT */
/* See xen_stand_in.c. One thread. */
#ifndef XEN_STAND_IN_H
#define XEN_STAND_IN_H

#include <stdint.h>
#include <xenforeignmemory.h>

extern struct xen_stand_in {
	int fd;
	uint32_t domain;
	uint64_t missing_gfn;
	int open_error, map_error;
	int handles, mapped; /* now */
} xen_stand_in;

#endif
