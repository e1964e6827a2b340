/* SPDX-License-Identifier: MIT */
/*
 * Cursors: a cached word is followed only when its generation is that of the view that this section
 * loaded; so it gives what the view gives, and never memory that is gone or has another owner.
 *
 * Models gr_cursor_host(), gr__space_view() (include/guestram/fast.h), gr__cursor_slow()
 * (src/space/lookup.c), the generation of gr__builder_publish() (src/space/builder.c) and
 * gr_space_open() (src/space/space.c).
 *
 * One address. The writer maps a block, replaces it at once by another, takes that away, and maps a
 * third one in the host memory of the first. A word is a host address, which has one owner at a
 * time. Views are constant; a freed view is marked. Each reader has a cursor that lives through its
 * sections.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted no-compare: a filled cursor is followed always
 * MUTANT 2 refuted no-new-generation: an unmap keeps the generation of the view before
 * MUTANT 3 refuted generation-repeats: a view takes the generation of one that is gone
 * MUTANT 4 refuted compare-current: the section's view gives the word, a later one the generation
 * MUTANT 5 refuted shared-cursor: two threads use one cursor
 * MUTANT 6 refuted no-grace: the block is released as soon as it is unlinked
 */
#define READERS 2
#define WAITERS 1
#include "rcu.inc"

#define VIEWS 5
#define NONE 0

byte current;             /* view 0 is the empty one of gr_space_open() */
byte generation[VIEWS];
byte word[VIEWS];         /* host address, 1 or 2, or NONE */
byte block[VIEWS];        /* whose memory that is */
bool freed[VIEWS];
byte owner[3];            /* of a host address: the block whose bytes are there; NONE: unmapped */
byte cursor_generation[READERS], cursor_word[READERS];
byte last_generation;

#if MUTANT == 5
#define CURSOR 0
#else
#define CURSOR r
#endif

inline publish(v, what, host) {
	d_step {
		word[v] = host;
		block[v] = what;
#if MUTANT == 2
		if
		:: what == NONE
		:: else -> last_generation++
		fi;
#elif MUTANT == 3
		last_generation = 1 + (v % 2);
#else
		last_generation++;
#endif
		generation[v] = last_generation
	}
	current = v
}

proctype writer() {
	d_step { owner[1] = 1; owner[2] = 2 }
	publish(1, 1, 1);
	publish(2, 2, 2);
	publish(3, NONE, NONE);
#if MUTANT != 6
	grace(0);
#endif
	d_step {
		freed[0] = true; freed[1] = true; freed[2] = true;
		owner[1] = NONE; owner[2] = NONE
	}
	owner[1] = 3; /* another block, whose mmap lands at the same place */
	publish(4, 3, 1)
}

proctype reader(byte r) {
	byte view, got, n;

	do
	:: n < 3 ->
		section_begin(r);
		view = current;
		assert(!freed[view]);
		if
#if MUTANT == 1
		:: cursor_generation[CURSOR] != 0 -> got = cursor_word[CURSOR]
#else
		:: generation[view] == cursor_generation[CURSOR] -> got = cursor_word[CURSOR]
#endif
		:: else ->
#if MUTANT != 4
			view = current; /* gr__cursor_slow() loads its own */
#endif
			got = word[view];
			if
			:: got != NONE ->
				cursor_word[CURSOR] = got;
#if MUTANT == 4
				cursor_generation[CURSOR] = generation[current]
#else
				cursor_generation[CURSOR] = generation[view]
#endif
			:: else
			fi
		fi;
		assert(got == word[view] && !freed[view]);
		if
		:: got != NONE -> assert(owner[got] == block[view]) /* the access */
		:: else
		fi;
		section_end(r);
		d_step { view = 0; got = 0; n++ }
	:: else -> break
	od
}

init {
	d_step { last_generation = 1; generation[0] = 1 }
	atomic { run writer(); run reader(0); run reader(1) }
}
