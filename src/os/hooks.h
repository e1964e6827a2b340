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

/* atomic: a test may set it while threads run; NULL: do nothing. */
extern void (*gr__hook_point)(const char *point);
/* Returns the errno to fail @call with, or 0; likewise. */
extern int (*gr__hook_fault)(const char *call);

static inline void gr__point(const char *point)
{
	/* acquire: what the test made ready before it set the hook */
	void (*hook)(const char *point) = __atomic_load_n(&gr__hook_point, __ATOMIC_ACQUIRE);

	if (hook)
		hook(point);
}

static inline int gr__fault(const char *call)
{
	int (*hook)(const char *call) = __atomic_load_n(&gr__hook_fault, __ATOMIC_ACQUIRE);

	return hook ? hook(call) : 0;
}

#define GR_POINT(point) gr__point(point)
#define GR_FAULT(call) gr__fault(call)

#else

#define GR_POINT(point) ((void)0)
#define GR_FAULT(call) 0

#endif

#endif
