/* SPDX-License-Identifier: MIT */
/*
 * Stops the first thread that comes to a named point of the library (src/os/hooks.h), once: the
 * test sets gr__hook_point to stop_at(), arms a point, waits for `arrived` and opens `go_on`. Who
 * was never let go says so in `stuck`.
 */
#ifndef STOP_H
#define STOP_H

#include "os/hooks.h"
#include "testing.h"

static const char *stop_point;
static struct gate arrived, go_on;
static int stuck;

static void stop_at(const char *point)
{
	const char *wanted = __atomic_load_n(&stop_point, __ATOMIC_ACQUIRE);

	if (!wanted || strcmp(point, wanted) ||
	    !__atomic_compare_exchange_n(&stop_point, &wanted, NULL, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return;
	gate_open(&arrived);
	if (!gate_wait(&go_on))
		set(&stuck, 1);
}

static void arm(const char *point)
{
	gate_init(&arrived);
	gate_init(&go_on);
	__atomic_store_n(&stop_point, point, __ATOMIC_RELEASE);
}

#endif
