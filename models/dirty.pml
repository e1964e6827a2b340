/* SPDX-License-Identifier: MIT */
/*
 * Marks against harvests: what a client has copied after its last harvest is the memory, though a bit
 * that is set is not set again, and though a processor may look at a bit before its store to the page
 * is seen by others.
 *
 * Models gr_mark_host() (include/guestram/mark.h), gr__marks_take(), gr__marks_settle()
 * (src/ram/marks.c), gr__dirty_collect(), gr_dirty_harvest(), gr_harvest_return()
 * (src/dirty/harvest.c).
 *
 * Two pages, whose bits are in one word. Each writer has a store buffer of one store, which leaves it
 * at any time, in front of an atomic read-modify-write of his, and when the barrier is asked of all
 * threads. A clear flag is a plain load; setting is one atomic operation. Two clients harvest under a
 * lock, and copy outside of it; a harvest may fail, and is returned then.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted no-barrier: harvesters do not ask for it
 * MUTANT 2 refuted barrier-first: they ask before the bits are cleared
 * MUTANT 3 refuted copy-first: pages are copied before their bits are cleared
 * MUTANT 4 refuted mark-first: a writer marks before he stores
 * MUTANT 5 refuted plain-clear: the word is read and then zeroed, in two steps
 * MUTANT 6 refuted own-bits: what the log had is given to the client that asks, only
 * MUTANT 7 refuted barrier-if-cleared: only a harvest that itself cleared a bit of the log asks
 * MUTANT 8 refuted forgotten: a harvest that failed is not returned
 */
#define CLIENTS 2
#define FREE 9

byte page[2];        /* as others see them */
byte held[2] = FREE; /* what each writer has in its buffer: the page's number, its value is next */
byte value[2];
byte word;           /* the log: a bit for each page */
byte bits[CLIENTS];  /* of the clients */
byte copy[4];        /* client * 2 + page */
byte written[2];     /* stores to each page so far, in program order */
bit locked;
byte writers = 2;

#define lock() atomic { !locked -> locked = 1 }
#define unlock() locked = 0

inline drain(w) {
	if
	:: held[w] != FREE -> page[held[w]] = value[w]; held[w] = FREE
	:: else
	fi
}

/* Writer @w's own page. */
inline mark(w) {
	if
	:: (word & (1 << w)) /* set already: a look, no store */
	:: !(word & (1 << w)) -> atomic { drain(w); word = word | (1 << w) }
	fi
}

/* One page, which no other writer stores to, so that its stores can be counted. */
proctype writer(byte w) {
	byte i;

	do
	:: i < 2 ->
#if MUTANT == 4
		mark(w);
#endif
		atomic { (held[w] == FREE); written[w]++; held[w] = w; value[w] = written[w] };
#if MUTANT != 4
		mark(w);
#endif
		i++
	:: else -> break
	od;
	atomic { drain(w); writers-- }
}

proctype buffer(byte w) {
	do
	:: atomic { held[w] != FREE -> drain(w) }
	:: atomic { writers == 0 && held[w] == FREE -> break }
	od
}

inline barrier_in_all() {
	atomic { drain(0); drain(1) }
}

proctype harvester(byte c) {
	byte taken, i = c, got; /* the second one harvests once less */
	bit last;
#if MUTANT == 3
	byte early[2];
#endif

	do
	:: i < 3 ->
		if
		:: i == 2 -> (writers == 0); last = 1
		:: else
		fi;
#if MUTANT == 2
		barrier_in_all();
#endif
#if MUTANT == 3
		d_step { early[0] = page[0]; early[1] = page[1] };
#endif
		lock();
#if MUTANT == 5
		taken = word;
		word = 0;
#else
		d_step { taken = word; word = 0 };
#endif
#if MUTANT == 6
		bits[c] = bits[c] | taken;
#else
		d_step { bits[0] = bits[0] | taken; bits[1] = bits[1] | taken };
#endif
		d_step { got = bits[c]; bits[c] = 0 };
		unlock();
#if MUTANT == 7
		if
		:: taken -> barrier_in_all()
		:: else
		fi;
#elif MUTANT != 1 && MUTANT != 2
		barrier_in_all();
#endif
		if
		:: true ->
#if MUTANT == 3
#define page early
#endif
			if
			:: got & 1 -> copy[c * 2] = page[0]
			:: else
			fi;
			if
			:: got & 2 -> copy[c * 2 + 1] = page[1]
			:: else
			fi
#undef page
		:: !last -> /* it failed */
			lock();
#if MUTANT != 8
			bits[c] = bits[c] | got;
#endif
			unlock()
		fi;
		got = 0;
		i++
	:: else -> break
	od;
	assert(copy[c * 2] == written[0] && copy[c * 2 + 1] == written[1])
}

init {
	atomic { run writer(0); run writer(1); run buffer(0); run buffer(1); run harvester(0);
		 run harvester(1) }
}
