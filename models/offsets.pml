/* SPDX-License-Identifier: MIT */
/*
 * RAM offsets: one is free for reuse only after the release of its block, and two blocks whose
 * memory exists never overlap; so what a reader or a pin notes under an offset (a dirty bit) is its
 * own block's.
 *
 * Models gr__offsets_take(), gr__offsets_put() (src/ram/offsets.c), take_offset(), gr_block_new(),
 * undo_memory(), reclaim_refused() (src/space/blocks.c), release_block() (src/ram/reclaim.c),
 * gr__directory_publish(), gr_block_by_offset() (src/ram/directory.c).
 *
 * Three units of RAM offset, blocks of one and two units; each is made, possibly refused by a
 * listener, published, deleted. Any gap that fits may be chosen, the best one among them. A
 * reader finds a block by its first unit, and notes that it writes there, in its section or later
 * under a pin.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted put-at-delete: the offset is free as soon as the block is unlinked
 * MUTANT 2 refuted put-before-pins: it is free after the grace period, pinned or not
 * MUTANT 3 refuted take-unlocked: the gap is looked for before the lock is taken
 * MUTANT 4 refuted put-before-release: the offset is given back before the memory
 * MUTANT 5 refuted refused-twice: a refused block gives it back at once, and again at its release
 * MUTANT 6 refuted half-length: used length is taken instead of max length
 */
#define READERS 1
#define WAITERS 2
#include "rcu.inc"

#define UNITS 3
#define NONE 0
byte taken;           /* bit u: unit u is in an extent */
byte directory[UNITS]; /* by first unit: the live block, or NONE */
byte memory[UNITS];   /* whose memory exists for that unit: block, or NONE */
byte pins[3];         /* by block: 1 and 2 */

proctype maker(byte b; byte units) {
	byte first, mask, n;
	bit refused;

	do
	:: n < 2 - (b == 2) ->
#if MUTANT == 6
		mask = 1;
#else
		mask = (1 << units) - 1;
#endif
#if MUTANT != 3
		lock();
#endif
		first = 0;
		do
		:: first + units <= UNITS && (taken & (mask << first)) == 0 -> break
		:: first + units < UNITS -> first++
		:: first + units >= UNITS && (taken & (mask << first)) != 0 -> first = UNITS; break
		od;
#if MUTANT == 3
		lock();
#endif
		if
		:: first == UNITS -> unlock(); goto next /* no gap */
		:: else -> taken = taken | (mask << first)
		fi;
		unlock();
		d_step { /* the mapping exists */
			assert(memory[first] == NONE);
			memory[first] = b;
			if
			:: units == 2 -> assert(memory[first + 1] == NONE); memory[first + 1] = b
			:: else
			fi
		};
		if
		:: refused = 1
#if MUTANT == 5
			; lock(); taken = taken & ~(mask << first); unlock()
#endif
		:: lock(); directory[first] = b; unlock();
			lock(); directory[first] = NONE; /* delete */
#if MUTANT == 1
			taken = taken & ~(mask << first);
#endif
			unlock()
		fi;
		grace(b - 1);
#if MUTANT == 2
		lock(); taken = taken & ~(mask << first); unlock();
#endif
		(pins[b] == 0);
#if MUTANT == 4
		lock(); taken = taken & ~(mask << first); unlock();
#endif
		d_step { /* release */
			assert(memory[first] == b);
			memory[first] = NONE;
			if
			:: units == 2 -> memory[first + 1] = NONE
			:: else
			fi
		};
#if MUTANT != 4
		lock();
#if MUTANT != 1 && MUTANT != 2
		assert((taken & (mask << first)) == (mask << first)); /* as taken */
#endif
		taken = taken & ~(mask << first);
		unlock();
#endif
next:
		first = 0;
		d_step { mask = 0; refused = 0; n++ }
	:: else -> break
	od
}

proctype reader() {
	byte unit, b;

	if
	:: unit = 0
	:: unit = 1
	:: unit = 2
	fi;
	section_begin(0);
	b = directory[unit];
	if
	:: b != NONE -> assert(memory[unit] == b); pins[b]++
	:: else
	fi;
	section_end(0);
	if
	:: b != NONE -> assert(memory[unit] == b); pins[b]--
	:: else
	fi
}

init {
	atomic { run maker(1, 1); run maker(2, 2); run reader() }
}
