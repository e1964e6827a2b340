/* SPDX-License-Identifier: MIT */
/*
 * Every schedule of a script with up to so many preemptions, one after the other: iterative context
 * bounding (Musuvathi and Qadeer, "Iterative context bounding for systematic testing of
 * multithreaded programs", PLDI 2007). The search keeps no states: it runs the script again from
 * its start with the choices of the last run up to the last one that has an alternative, takes
 * that, and lets the running thread run on from there. A switch is a preemption when the thread
 * that had the turn could have gone on; switches from one that waits or has ended cost nothing.
 * Bounds are searched from 0 up, so what is found first needs the fewest preemptions.
 *
 * A script must do the same for the same choices. That is checked: each step of a repeated prefix
 * has to be at the same point with the same threads enabled.
 *
 * Each exploration runs in a child process, so that a failure of any kind (a check, a deadlock, a
 * crash, a hang) ends only that; what it found is in memory that both share.
 */
#ifndef EXPLORE_H
#define EXPLORE_H

#include "mutant.h"
#include <stdbool.h>
#include <stdint.h>

#define BOUND_MAX 9

struct script {
	const char *name;
	const char *what;
	void (*prepare)(void);	/* the thread 'm': opens a RAM, adds threads */
	void (*judge)(void);	/* the same, after they have ended; closes the RAM */
	bool ends;		/* threads' ends are a part of it */
	unsigned quick, full;	/* preemptions, in a quick search and in a full one */
	enum mutant mutants[8]; /* with each it must fail; 0 ends them */
	bool wrong;		/* it must fail as it is */
};

struct outcome {
	uint64_t schedules; /* explored, with up to `bound` preemptions */
	unsigned bound;
	bool all;	/* and there are no others */
	unsigned steps; /* of the longest one */
	bool failed;
	unsigned preemptions; /* of the one that failed */
	char points[1500];    /* those that were come to, a line each */
	char message[600];
	char schedule[4000];
};

/* All schedules with up to @bound preemptions, or up to the first one that fails. */
void explore(const struct script *script, enum mutant mutant, unsigned bound,
	     struct outcome *outcome);
/* The one schedule, printed step by step when @trace. When it ends before the script, the rest is
 * as it comes. */
void explore_replay(const struct script *script, enum mutant mutant, const char *schedule,
		    bool trace, struct outcome *outcome);

/* Which of the @enabled threads (bits) goes on? @running: the one at @point, enabled or not. */
unsigned explore_choose(unsigned running, unsigned enabled, const char *point);

/* The schedule is one in which the code is wrong. Ends the exploration. */
__attribute__((noreturn, format(printf, 1, 2))) void found(const char *format, ...);

/* A check of a script. */
#define check(condition, ...) ((condition) ? (void)0 : found(__VA_ARGS__))

#endif
