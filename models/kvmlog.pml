/* SPDX-License-Identifier: MIT */
/*
 * What a guest writes through a slot is in a harvest, though the slot goes while processors run.
 *
 * Models take(), fetch(), park(), gr__kvm_dirty_leave() (src/kvm/dirty.c), take_out()
 * (src/kvm/follow.c), and of KVM: its bitmap belongs to the slot, moves with it and ends with it; a
 * page that is clean is protected; a write to a protected page sets the bit first and is done then,
 * which here is one step; clearing protects in one step, too.
 *
 * One page, mapped in one slot that a remover takes out and sets again. The guest writes when it
 * sees a slot at its address. The harvester copies what it is told; what the last harvest has left
 * is the memory.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted not-parked: the log is fetched, and then the slot is deleted where it was
 * MUTANT 2 refuted delete-first: the slot is deleted, and then its log is fetched
 * MUTANT 3 refuted saved-late: what was fetched is saved after the lock was dropped
 * MUTANT 4 refuted copy-first: the page is copied before it is protected again
 * MUTANT 5 refuted clear-only: what is cleared is what there is then, not what was fetched
 * MUTANT 6 refuted unlogged: a slot that is set again does not log
 */
#define NOWHERE 0
#define HERE 1
#define PARKED 2

byte slot = HERE;
bit logs = 1;      /* of the slot */
bit bitmap;        /* KVM's; with the slot */
bit saved;         /* ours, of the block */
byte memory, copy;
bit locked, writer_done;

#define lock() atomic { !locked -> locked = 1 }
#define unlock() locked = 0

proctype guest() {
	byte i;

	do
	:: i < 3 ->
		if
		:: atomic { slot == HERE -> memory++; bitmap = (logs -> 1 : bitmap) }
		:: atomic { slot != HERE -> skip } /* it exits, and does something else */
		fi;
		i++
	:: else -> break
	od;
	writer_done = 1
}

proctype remover() {
	bit fetched;

	lock();
#if MUTANT == 2
	d_step { slot = NOWHERE; bitmap = 0 };
	fetched = bitmap;
#else
#if MUTANT != 1
	slot = PARKED;
#endif
	fetched = bitmap;
#if MUTANT == 3
	d_step { slot = NOWHERE; bitmap = 0 };
	unlock();
	lock();
#endif
#endif
	saved = saved | fetched;
	d_step { slot = NOWHERE; bitmap = 0 };
	/* its addresses come back */
#if MUTANT == 6
	logs = 0;
#endif
	slot = HERE;
	unlock()
}

proctype harvester() {
	byte i;
	bit fetched, told;

	do
	:: i < 3 ->
		if
		:: i == 2 -> (writer_done)
		:: else
		fi;
		lock();
		fetched = bitmap;
#if MUTANT == 4
		if
		:: fetched -> copy = memory
		:: else
		fi;
#endif
		saved = saved | fetched;
#if MUTANT == 5
		bitmap = 0;
#else
		if
		:: fetched -> bitmap = 0
		:: else
		fi;
#endif
		d_step { told = saved; saved = 0 };
		unlock();
#if MUTANT == 4
		told = told && !fetched;
#endif
		if
		:: told -> copy = memory
		:: else
		fi;
		i++
	:: else -> break
	od;
	assert(copy == memory)
}

init {
	atomic { run guest(); run remover(); run harvester() }
}
