/* SPDX-License-Identifier: MIT */
/*
 * Transactions against readers: all of one or nothing of it, for readers and on errors; two
 * transactions lose nothing of each other.
 *
 * Models gr_txn_commit(), run_ops() (src/space/space.c), build(), build_part(), abandon(),
 * publish(), gr__change_run() (src/space/change.c), gr__walk_pieces() (src/space/lookup.c),
 * gr__space_view() (include/guestram/fast.h).
 *
 * A space of two ranges. Each transaction counts both up by one, in two steps; the second may fail
 * (no memory, an overlap). So what anybody sees has both equal. A view is constant once published:
 * it is one number here.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted publish-each: a view is published after each step
 * MUTANT 2 refuted base-unlocked: the base is read before the lock is taken
 * MUTANT 3 refuted publish-failed: what was built is published although a step failed
 * MUTANT 4 refuted view-per-piece: a reader loads the view again for the second range
 * MUTANT 5 refuted edit-in-place: the first step writes into the view that readers have
 */
#define READERS 1
#define WAITERS 1
#include "rcu.inc"

#define VIEWS 5
byte current, view_count = 1;
byte first[VIEWS], second[VIEWS];
byte committed;

proctype writer() {
	byte n, base, view;
	bit failed;

	do
	:: n < 2 ->
#if MUTANT == 2
		base = current;
#endif
		lock();
#if MUTANT != 2
		base = current;
#endif
		d_step { view = view_count; view_count++ }
		second[view] = second[base];
		first[view] = first[base] + 1;
#if MUTANT == 5
		first[base] = first[base] + 1;
#elif MUTANT == 1
		current = view;
#endif
		if
		:: second[view] = second[view] + 1
		:: failed = 1 /* abandon() */
		fi;
		if
#if MUTANT == 3
		:: true -> current = view; committed++
#else
		:: !failed -> current = view; committed++
		:: else
#endif
		fi;
		unlock();
		d_step { n++; base = 0; view = 0; failed = 0 }
	:: else -> break
	od
}

proctype reader() {
	byte view, n, a, b;

	do
	:: n < 2 ->
		section_begin(0);
		view = current;
		a = first[view];
#if MUTANT == 4
		view = current;
#endif
		b = second[view];
		assert(a == b);
		section_end(0);
		d_step { view = 0; a = 0; b = 0; n++ }
	:: else -> break
	od
}

init {
	atomic { run writer(); run writer(); run reader() }
}

active proctype monitor() {
	timeout -> assert(first[current] == committed && second[current] == committed)
}
