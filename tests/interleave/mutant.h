/* SPDX-License-Identifier: MIT */
/*
 * The library broken on purpose, without touching it: the linker leads calls between its files
 * through mutant.c, where a step is left out, moved or torn. A script that does not fail on the
 * mutants it names shows nothing.
 */
#ifndef MUTANT_H
#define MUTANT_H

enum mutant {
	NO_MUTANT,
	NO_GRACE,
	FREE_AT_ONCE,
	STUCK_GENERATION,
	LATE_PIN,
	TORN_UNPIN,
	KEPT_UNPIN,
	NO_LOCK,
	TORN_TXN,
	NO_CLAIMS,
	TOLD_ONCE,
	LATE_JOIN,
	UNCOUNTED,
	NO_REFUSAL,
	UNCLAIMED_COMMIT,
	NOT_BUSY,
	NOT_KEPT,
	NO_BROADCAST,
	NO_WAKE,
	EARLY_OFFSET,
	UNWAITED_CLOSE,
	UNWAITED_LOOK,
	NO_EXIT_KEY,
	RECLAIM_WAITS,
	TORN_WINDOW,
	KEPT_WINDOW,
	UNSTALE,
	MUTANTS
};

/* The one in force, in an exploration. */
extern enum mutant mutant;

const char *mutant_name(enum mutant which);
const char *mutant_text(enum mutant which);
/* MUTANTS when there is none of that name. */
enum mutant mutant_by_name(const char *name);

#endif
