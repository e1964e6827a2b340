/* SPDX-License-Identifier: MIT */
/*
 * Unplugging and plugging a granule against readers and pins: nobody has it, by section or by pin,
 * when its memory is discarded; it is shown and can be pinned only when its memory is there; a removal
 * that a pin refuses leaves everything as it was.
 *
 * Models begin_remove(), run_removal(), gr_plug_add() (src/plug/plug.c), publish_granules()
 * (src/space/change.c), gr__granules_pin(), gr__granules_unpin(), gr__granules_pinned()
 * (src/ram/granules.c), take() (src/space/pin.c).
 *
 * One granule, plugged at first, in a strict window (`view`) and in a lenient range, through which it
 * can always be found to be pinned. One thread removes it and plugs it again, twice; two readers look
 * it up, or pin it; a pin looks at `pinnable` and counts in two steps.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted no-first-grace: pins are counted as soon as no new ones are allowed
 * MUTANT 2 refuted no-second-grace: the memory is discarded as soon as the granule is hidden
 * MUTANT 3 refuted no-pin-check: pins are looked at before the grace period, only
 * MUTANT 4 refuted late-bit: new pins are allowed until the granule is hidden
 * MUTANT 5 refuted pin-outside: a pin looks at the bit outside a section
 * MUTANT 6 refuted unchecked: a pin counts whatever the bit says
 * MUTANT 7 refuted show-first: plugging shows the granule before it makes its memory
 * MUTANT 8 refuted stays-closed: a removal that is refused leaves the granule unpinnable
 * MUTANT 9 refuted discard-first: the memory is discarded when no pin is left, and then hidden
 */
#define READERS 2
#define WAITERS 1
#include "rcu.inc"

bool view = true;     /* the window shows it */
bool pinnable = true;
bool memory = true;   /* its bytes are there */
byte pins;
byte users;           /* who may touch it */

inline set_memory(there) {
	d_step { assert(there || !users); memory = there }
}

proctype changer() {
	bit refused;
	byte turns;

	do
	:: turns == 2 -> break
	:: else ->
		turns++;
		refused = (pins > 0);
		if
		:: !refused ->
#if MUTANT != 4
			pinnable = false;
#endif
#if MUTANT != 1
			grace(0);
#endif
#if MUTANT != 3
			refused = (pins > 0);
#endif
			if
			:: refused ->
#if MUTANT != 8
				pinnable = true
#endif
			:: else ->
#if MUTANT == 9
				set_memory(false);
#endif
				lock(); d_step { pinnable = false; view = false }; unlock();
#if MUTANT != 2
				grace(0);
#endif
#if MUTANT != 9
				set_memory(false);
#endif
				/* and again */
#if MUTANT == 7
				lock(); view = true; unlock();
#endif
				set_memory(true);
				lock();
				pinnable = true; /* before the view: what is seen can be pinned */
				view = true;
				unlock()
			fi
		:: else
		fi;
		assert(view && pinnable && memory)
	od
}

proctype reader(byte r) {
	byte turns;
	bit may, pinned;

	do
	:: turns == 2 -> break
	:: else ->
		turns++;
		may = 0;
		pinned = 0;
#if MUTANT == 5
		may = pinnable;
#endif
		section_begin(r);
		if
		:: view -> /* a lookup, used to the end of the section */
			d_step { assert(memory); users++ };
			users--
		:: true ->
#if MUTANT == 6
			may = 1;
#elif MUTANT != 5
			may = pinnable;
#endif
			if
			:: may -> pins++; pinned = 1; d_step { assert(memory); users++ }
			:: else
			fi
		fi;
		section_end(r);
		if
		:: pinned -> d_step { assert(memory); users-- }; pins--
		:: else
		fi
	od
}

init {
	atomic { run changer(); run reader(0); run reader(1) }
}
