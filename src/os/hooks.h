/* SPDX-License-Identifier: MIT */
/*
 * Points where a test takes hold of the code: GR_POINT() stops a thread at a named place,
 * GR_FAULT() makes a system call or allocation fail. Compiled only into the test build of the
 * library
 * (-DGR_HOOKS); elsewhere they are nothing.
 */
#ifndef GR__HOOKS_H
#define GR__HOOKS_H

#ifdef GR_HOOKS

/* Set by a test before it starts threads; NULL: do nothing. */
extern void (*gr__hook_point)(const char *point);
/* Returns the errno to fail @call with, or 0. */
extern int (*gr__hook_fault)(const char *call);

#define GR_POINT(point) (gr__hook_point ? gr__hook_point(point) : (void)0)
#define GR_FAULT(call) (gr__hook_fault ? gr__hook_fault(call) : 0)

#else

#define GR_POINT(point) ((void)0)
#define GR_FAULT(call) 0

#endif

#endif
