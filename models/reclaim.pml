/* SPDX-License-Identifier: MIT */
/*
 * Delete, grace period, last pin, release: each block is released exactly once, never while a
 * section or a pin has it, and the worker never sleeps while there is work.
 *
 * Models gr__block_reclaim_later(), wake_worker(), work(), worker(), mark_unlinked(),
 * gr__block_put(), hand_over(), release_blocks() (src/ram/reclaim.c), gr__block_get()
 * (src/ram/reclaim.h), pin_piece() (src/space/pin.c), gr__event_set(), gr__event_clear(),
 * gr__event_wait() (src/os/event.c).
 *
 * Two blocks. One thread deletes both, one after the other. Readers find a block in the view, use
 * it, and may pin it and use it after the section. The queues are lists linked through the blocks,
 * as in the code, so that a link that is read too late is an error too. NONE ends a list.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted no-grace: blocks are marked without waiting for readers
 * MUTANT 2 refuted mark-before-grace: UNLINKED is set first, then readers are waited for
 * MUTANT 3 refuted mark-not-atomic: UNLINKED is set by a load and a store
 * MUTANT 4 refuted put-not-atomic: the count falls by a load and a store
 * MUTANT 5 refuted zero-is-last: the last unpin hands the block over whether it is unlinked or not
 * MUTANT 6 refuted link-late: the next block is read from one that has an owner already
 * MUTANT 7 refuted reset-late: work_set is reset after the queues were read
 * MUTANT 8 refuted reset-weak: the reset is a store, which the read of `unpinned` may overtake as
 *          far as the lock lets it, which C11 allows (docs/proof.md)
 * MUTANT 9 refuted clear-after-reset: the event is cleared after work_set is reset
 * MUTANT 10 refuted wake-first: the worker is woken before the block is in the stack
 * MUTANT 11 refuted pin-late: the pin is counted after the section
 * MUTANT 12 refuted push-not-atomic: the stack's head is stored, not compared and exchanged
 * MUTANT 13 refuted delete-visible: a block is queued while the view still names it
 */
#define READERS 2
#define WAITERS 1
#include "rcu.inc"

#define NONE 2
#define UNLINKED 8

bool visible[2] = true; /* the view names it */
byte pins[2];           /* count and UNLINKED */
byte link[2] = NONE;    /* block->link */
byte deleted = NONE;    /* wr: lock */
byte unpinned = NONE;   /* atomic */
bool released[2];
bit work_set, event;
byte using[2];          /* who has a pointer into it, by section or pin */

inline wake() {
	atomic { was_set = work_set; work_set = 1 }
	if
	:: !was_set -> event = 1
	:: else
	fi
}

inline release(b) {
	d_step {
		assert(!released[b] && !using[b] && (pins[b] & ~UNLINKED) == 0);
		released[b] = true
	}
}

inline hand_over(b) {
	section_begin(r);
#if MUTANT == 10
	wake()
#endif
	do
	:: head = unpinned; link[b] = head;
#if MUTANT == 12
		unpinned = b; break
#else
		if
		:: atomic { unpinned == head -> unpinned = b; break }
		:: unpinned != head
		fi
#endif
	od;
#if MUTANT != 10
	wake();
#else
	skip;
#endif
	section_end(r);
	head = NONE
}

inline put(b) {
#if MUTANT == 4
	before = pins[b];
	pins[b] = before - 1;
#else
	d_step { before = pins[b]; pins[b] = before - 1 }
#endif
	if
#if MUTANT == 5
	:: (before & ~UNLINKED) == 1 -> hand_over(b)
#else
	:: before == (UNLINKED | 1) -> hand_over(b)
#endif
	:: else
	fi
}

proctype reader(byte r; byte b) {
	byte before, head = NONE;
	bit was_set, pinned;

	section_begin(r);
	if
	:: visible[b] ->
		d_step { assert(!released[b]); using[b]++ }
		if
		:: true
#if MUTANT != 11
			-> pins[b]++ ; pinned = 1
#else
			-> pinned = 1
#endif
		:: true -> using[b]--
		fi
	:: else
	fi;
	section_end(r);
	if
	:: pinned ->
#if MUTANT == 11
		pins[b]++;
#endif
		assert(!released[b]);
		using[b]--;
		put(b)
	:: else
	fi
}

proctype deleter() {
	byte b;
	bit was_set;

	do
	:: b < 2 ->
		lock();
#if MUTANT != 13
		visible[b] = false;
#endif
		link[b] = deleted;
		deleted = b;
		wake();
		unlock();
#if MUTANT == 13
		visible[b] = false;
#endif
		b++
	:: else -> break
	od
}

proctype worker() {
	byte list = NONE, ready = NONE, next = NONE, before;
#if MUTANT == 8
#define LATER 3
	byte early = LATER;
#endif

end:
	do
	:: event ->
#if MUTANT != 9
		event = 0;
#endif
#if MUTANT != 7 && MUTANT != 8
		work_set = 0;
#endif
#if MUTANT == 9
		event = 0;
#endif
		lock();
		d_step { list = deleted; deleted = NONE }
#if MUTANT == 8
		if
		:: list == NONE -> atomic { early = unpinned; unpinned = NONE }
		:: else
		fi;
		work_set = 0;
#endif
		unlock();
#if MUTANT != 1 && MUTANT != 2
		if
		:: list != NONE -> grace(0)
		:: else
		fi;
#endif
		do
		:: list != NONE ->
#if MUTANT != 6
			next = link[list];
#endif
#if MUTANT == 3
			before = pins[list];
			pins[list] = before | UNLINKED;
#else
			d_step { before = pins[list]; pins[list] = before | UNLINKED }
#endif
#if MUTANT == 2
			grace(0);
#endif
#if MUTANT == 6
			next = link[list];
#endif
			if
			:: before == 0 -> link[list] = ready; ready = list
			:: else
			fi;
			list = next
		:: else -> break
		od;
		before = 0;
#if MUTANT == 8
		if
		:: early == LATER -> atomic { list = unpinned; unpinned = NONE }
		:: else -> list = early; early = LATER
		fi;
#else
		d_step { list = unpinned; unpinned = NONE }
#endif
#if MUTANT == 7
		work_set = 0;
#endif
		do
		:: list != NONE ->
			next = link[list];
			link[list] = ready;
			ready = list;
			list = next
		:: else -> break
		od;
		do
		:: ready != NONE ->
			next = link[ready];
			release(ready);
			ready = next
		:: else -> break
		od;
		next = NONE
	od
}

init {
	atomic { run deleter(); run worker(); run reader(0, 0); run reader(1, 0); run reader(2, 1) }
}

/* When nothing moves any more, nothing waits. */
active proctype monitor() {
	timeout -> assert(released[0] && released[1] && unpinned == NONE && deleted == NONE)
}
