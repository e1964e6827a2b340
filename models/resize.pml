/* SPDX-License-Identifier: MIT */
/*
 * Resizing against readers, pins and delete: nobody has the tail of a block, by section or by pin,
 * when it is discarded; a tail is shown only when its memory is there; a block is not released while
 * it is resized.
 *
 * Models begin_resize(), end_resize(), show_length(), shrink(), grow(), gr_block_delete()
 * (src/space/blocks.c), the resize of publish() and check_change() (src/space/change.c), gr_pin(),
 * gr_block_pin() (src/space/pin.c), gr__block_length() (src/ram/ram.h).
 *
 * A block of a head and a tail, used to its full length at first. `view` is what the space's view
 * shows of it, `length` what gr_block_pin() reads; they are published by two stores. One thread
 * shrinks and grows it, one deletes it, two readers use the tail, or pin it by either way.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted no-grace: the tail is discarded as soon as it is hidden
 * MUTANT 2 refuted pins-before-grace: pins are looked at before the readers are waited for, only
 * MUTANT 3 refuted no-pin-check: they are not looked at after it
 * MUTANT 4 refuted length-stays: the view is replaced, the block's length is not
 * MUTANT 5 refuted pin-outside: gr_block_pin() reads the length outside a section
 * MUTANT 6 refuted show-first: growing shows the tail before it makes its memory
 * MUTANT 7 refuted delete-ignores-busy: a block that is being resized can be deleted
 * MUTANT 8 refuted stays-hidden: a shrink that is refused leaves the tail hidden
 */
#define READERS 2
#define WAITERS 2
#include "rcu.inc"

#define HIDDEN 0
#define HEAD 1
#define WHOLE 2
byte view = WHOLE;   /* HIDDEN: unmapped by the delete */
byte length = WHOLE;
bool tail = true;    /* its memory is there */
bool busy, live = true, released;
byte pins;
byte tail_users;

/* Publishes a view, then stores the length, under the lock. */
inline set_visible(what) {
	lock();
	view = (live -> what : HIDDEN);
#if MUTANT != 4
	length = what;
#endif
	unlock()
}

inline set_tail(there) {
	d_step { assert(!released && (there || !tail_users)); tail = there }
}

proctype resizer() {
	bit refused;

	lock();
	if
	:: busy || !live || pins -> refused = 1
	:: else -> busy = true
	fi;
	unlock();
	if
	:: refused -> goto done
	:: else
	fi;
	set_visible(HEAD);
#if MUTANT == 2
	refused = (pins > 0);
#endif
#if MUTANT != 1
	grace(0);
#endif
#if MUTANT != 2 && MUTANT != 3
	refused = (pins > 0);
#endif
	if
	:: refused ->
#if MUTANT != 8
		set_visible(WHOLE)
#endif
	:: else -> set_tail(false)
	fi;
	assert(refused || !tail);
	lock(); busy = false; unlock();
	assert(busy || !live || view == (tail -> WHOLE : HEAD));

	/* grow */
	lock();
	if
	:: busy || !live || tail -> unlock(); goto done
	:: else -> busy = true
	fi;
	unlock();
#if MUTANT == 6
	set_visible(WHOLE);
#endif
	set_tail(true);
#if MUTANT != 6
	set_visible(WHOLE);
#endif
	lock(); busy = false; unlock();
done:
	skip
}

proctype deleter() {
	bit refused;

	lock();
#if MUTANT != 7
	refused = busy;
#endif
	if
	:: !refused -> d_step { view = HIDDEN; live = false }
	:: else
	fi;
	unlock();
	if
	:: !refused -> grace(1); (pins == 0); released = true
	:: else
	fi
}

proctype reader(byte r) {
	byte seen;
	bit pinned;

#if MUTANT == 5
	seen = length;
#endif
	section_begin(r);
	if
	:: seen = view
	:: view != HIDDEN -> /* a block that was found; its length is read by gr_block_pin() */
#if MUTANT != 5
		seen = length
#endif
	fi;
	if
	:: seen == WHOLE ->
		d_step { assert(tail && !released); tail_users++ };
		if
		:: pins++; pinned = 1
		:: true -> tail_users--
		fi
	:: seen == HEAD -> assert(!released)
	:: else
	fi;
	section_end(r);
	if
	:: pinned ->
		d_step { assert(tail && !released); tail_users-- };
		pins--
	:: else
	fi
}

init {
	atomic { run resizer(); run deleter(); run reader(0); run reader(1) }
}
