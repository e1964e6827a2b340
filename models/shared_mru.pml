/* SPDX-License-Identifier: MIT */
/*
 * The old design, a most-recently-used pointer shared by all readers: refuted; and its two repairs.
 *
 * Models mru_find(), mru_remove() (bench/baseline/shared_mru.h, bench/baseline/shared_mru.c). The second repair is
 * the one that cursor.pml has in full.
 *
 * One block, one writer that removes it, two readers that look it up twice each.
 *
 * MUTANT 0 refuted old-design: the pointer is set to NULL once, before the grace period
 * MUTANT 1 holds repair-null-twice: NULL again after the grace period, free after a second one
 * MUTANT 2 holds repair-own-cursor: the caller owns the cache, trusted only at its generation
 * MUTANT 3 refuted null-twice-free-early: NULL again, but free without the second grace period
 * MUTANT 4 refuted null-late: NULL only after the first grace period, and free
 */
#define READERS 2
#define WAITERS 1
#include "rcu.inc"

bool in_list = true; /* linked; or: the current view has it */
bool mru = false;    /* mru points to it */
byte generation = 1;
bool freed = false;

#define use() assert(!freed)

proctype reader(byte r) {
	byte n;
#if MUTANT == 2
	byte mine, seen; /* the cursor's generation, the view's */
	bool cached, has;
#else
	bool hit;
#endif

	do
	:: n < 2 ->
		section_begin(r);
#if MUTANT == 2
		d_step { seen = generation; has = in_list } /* one load: a view is constant */
		if
		:: mine == seen && cached -> use()
		:: else ->
			if
			:: has -> use()
			:: else
			fi;
			d_step { cached = has; mine = seen }
		fi;
#else
		hit = mru;
		if
		:: hit -> use()
		:: else ->
			if
			:: in_list -> use(); mru = true; use()
			:: else
			fi
		fi;
		hit = false;
#endif
		section_end(r);
		n++
	:: else -> break
	od
}

proctype writer() {
	d_step { in_list = false; generation++ }
#if MUTANT != 4
	mru = false;
#endif
	grace(0);
#if MUTANT == 1 || MUTANT == 3 || MUTANT == 4
	mru = false;
#endif
#if MUTANT == 1
	grace(0);
#endif
	freed = true
}

init {
	atomic { run writer(); run reader(0); run reader(1) }
}
