/* SPDX-License-Identifier: MIT */
/*
 * The n-th call that can fail, whatever it is, fails with ENOMEM from arm() on; disarm() tells
 * which it was. Atomic: the library's own threads ask too.
 */
#ifndef FAULT_NTH_H
#define FAULT_NTH_H

#include "os/hooks.h"
#include <errno.h>
#include <stddef.h>

static int position, seen;
static const char *failed;

static int fail_one(const char *call)
{
	__atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
	if (__atomic_sub_fetch(&position, 1, __ATOMIC_SEQ_CST))
		return 0;
	__atomic_store_n(&failed, call, __ATOMIC_SEQ_CST);
	return ENOMEM;
}

static void arm(int nth)
{
	position = nth;
	seen = 0;
	failed = NULL;
	__atomic_store_n(&gr__hook_fault, fail_one, __ATOMIC_RELEASE);
}

/* NULL: there were less than that many. */
static const char *disarm(void)
{
	__atomic_store_n(&gr__hook_fault, NULL, __ATOMIC_RELEASE);
	return __atomic_load_n(&failed, __ATOMIC_SEQ_CST);
}

#endif
