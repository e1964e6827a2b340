/* SPDX-License-Identifier: MIT */
/*
 * One place of a foreign block that is mapped on demand: readers who hit or miss, pins, eviction.
 * Nobody has a window that is unmapped; each is unmapped once; none is lost.
 *
 * Models gr__window_miss(), prepare(), map_and_publish(), publish(), gr__window_retire(),
 * end_window(), gr__window_unpin(), unmap_and_free() (src/window/cache.c), the hit of
 * gr__window_hit() (src/window/window.h), and the pins of gr_pin() (src/space/pin.c).
 *
 * Two windows for one slot: the one that is found, and one that is retired or being mapped. Two
 * readers look, one of them twice, and may pin what they found; one thread takes the window out twice.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted no-grace: a retired window is unmapped at once
 * MUTANT 2 refuted pins-ignored: it is unmapped though it is pinned
 * MUTANT 3 refuted kept-unpin: the last unpin leaves it mapped
 * MUTANT 4 refuted torn-end: UNLINKED is set and the pins are looked at in two steps
 * MUTANT 5 refuted late-pin: a pin is counted after the section that found the window
 * MUTANT 6 refuted late-slot: the slot is emptied after the grace period
 * MUTANT 7 refuted no-second-look: who has mapped a window publishes it over another's
 * MUTANT 8 refuted early-free: a window may be taken again before it is unmapped
 */
#define READERS 2
#define WAITERS 1
#include "rcu.inc"

#define NONE 2
#define FREE 0
#define USED 1

byte slot = NONE;
bit mapped[2], unlinked[2], state[2];
byte pins[2], users[2];
byte running = 3;

inline unmap(w) {
	d_step { assert(mapped[w] && !users[w]); mapped[w] = 0 }
}

inline unmap_and_free(w) {
#if MUTANT == 8
	lock(); state[w] = FREE; unlock();
	unmap(w)
#else
	unmap(w);
	lock(); state[w] = FREE; unlock()
#endif
}

/* In a section; w is NONE when there is no room. */
inline miss(w) {
	lock();
	w = slot;
	if
	:: w == NONE && state[0] == FREE -> w = 0
	:: w == NONE && state[0] != FREE && state[1] == FREE -> w = 1
	:: w == NONE && state[0] != FREE && state[1] != FREE -> unlock(); goto missed
	:: w != NONE -> unlock(); goto missed
	fi;
	d_step { state[w] = USED; pins[w] = 0; unlinked[w] = 0 };
	unlock();
	d_step { assert(!mapped[w]); mapped[w] = 1 };
	lock();
	if
#if MUTANT != 7
	:: slot != NONE ->
		other = slot;
		unlock();
		unmap_and_free(w);
		w = other
#endif
	:: MUTANT == 7 || slot == NONE -> slot = w; unlock()
	fi;
missed:
	skip
}

inline unpin(w) {
	d_step { pins[w]--; last = (unlinked[w] && !pins[w]) };
	if
	:: last && MUTANT != 3 -> unmap_and_free(w)
	:: else
	fi
}

proctype reader(byte r) {
	byte w, other, turn = r; /* the first one comes twice */
	bit last, pinned;

again:
	section_begin(r);
	w = slot;
	if
	:: w == NONE -> miss(w)
	:: else
	fi;
	if
	:: w == NONE -> section_end(r)
	:: else ->
		d_step { assert(mapped[w]); users[w]++ };
		if
		:: pinned = 1;
#if MUTANT == 5
			d_step { users[w]-- };
			section_end(r);
			d_step { pins[w]++; users[w]++ };
#else
			pins[w]++;
			section_end(r);
#endif
		:: pinned = 0;
			users[w]--;
			section_end(r)
		fi;
		if
		:: pinned ->
			d_step { assert(mapped[w]); users[w]-- };
			unpin(w)
		:: else
		fi
	fi;
	d_step { w = 0; other = 0; last = 0; turn++ };
	if
	:: turn < 2 -> goto again
	:: else -> running--
	fi
}

proctype evictor() {
	byte i, w;
	bit zero;

	do
	:: i < 2 ->
		lock();
		w = slot;
		if
		:: w == NONE -> unlock()
		:: else ->
#if MUTANT != 6
			slot = NONE;
#endif
			unlock();
#if MUTANT != 1
			grace(0);
#endif
#if MUTANT == 6
			lock(); slot = NONE; unlock();
#endif
#if MUTANT == 4
			unlinked[w] = 1;
			zero = !pins[w];
#else
			d_step { unlinked[w] = 1; zero = !pins[w] };
#endif
#if MUTANT == 2
			zero = 1;
#endif
			if
			:: zero -> unmap_and_free(w)
			:: else
			fi
		fi;
		i++
	:: else -> break
	od;
	running--
}

init {
	atomic { run reader(0); run reader(1); run evictor() };
	(running == 0);
	/* what is mapped is found */
	assert(!mapped[0] || slot == 0);
	assert(!mapped[1] || slot == 1);
	assert(slot == NONE || mapped[slot])
}
