/* SPDX-License-Identifier: MIT */
/*
 * Reclaim under the embedder's lock: he may hold his big lock around any call that is said not to
 * wait for readers, while readers wait for that lock inside their sections and listeners take it in
 * callbacks; nothing deadlocks, and all that was deleted is released.
 *
 * Models gr_ram_reclaim(), work(), gr__retire_surplus() (src/ram/reclaim.c) under
 * gr_ram_opts.embedder_reclaim, and the locks of gr__change_run() and tell_all()
 * (src/space/change.c).
 *
 * `big` is the embedder's lock. One thread of his deletes two blocks and changes a map under it,
 * another one polls gr_ram_reclaim_fd() and reclaims under it. A third thread, without it, makes a
 * change whose listener takes it. Readers take it inside their sections.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted grace-under-big-lock: the worker holds the big lock while it waits for readers
 * MUTANT 2 refuted grace-under-ram-lock: it holds the RAM's lock meanwhile
 * MUTANT 3 refuted reclaim-waits: gr_ram_reclaim() waits for readers
 * MUTANT 4 refuted writer-settles: a writer that is ahead of the worker waits for readers
 * MUTANT 5 refuted told-under-lock: listeners are called with the RAM's lock held
 * MUTANT 6 refuted clear-late: the event is cleared after the lock that guards the list is dropped
 * MUTANT 7 refuted section-locked: a section holds the RAM's lock
 */
#define READERS 2
#define WAITERS 3
#include "rcu.inc"

bit big;
byte queued, ready, released; /* bit sets of blocks */
bit work, ready_event;

#define big_lock() atomic { !big -> big = 1 }
#define big_unlock() big = 0

proctype reader(byte r) {
	section_begin(r);
#if MUTANT == 7
	lock();
#endif
	big_lock();
	big_unlock();
#if MUTANT == 7
	unlock();
#endif
	section_end(r)
}

proctype embedder() {
	byte b;

	do
	:: b < 2 ->
		big_lock();
		lock();
		d_step { queued = queued | (1 << b); work = 1 };
		unlock();
#if MUTANT == 4
		if
		:: grace(1) /* too much waits already */
		:: true
		fi;
#endif
		big_unlock();
		b++
	:: else -> break
	od
}

proctype poller() {
	byte mine;

end:
	do
	:: ready_event ->
		big_lock();
		lock();
		d_step { mine = ready; ready = 0 };
#if MUTANT != 6
		ready_event = 0;
#endif
		unlock();
#if MUTANT == 6
		ready_event = 0;
#endif
#if MUTANT == 3
		grace(1);
#endif
		d_step { assert(!(released & mine)); released = released | mine; mine = 0 };
		big_unlock()
	od
}

proctype other_writer() {
	lock();
#if MUTANT != 5
	unlock();
#endif
	big_lock(); /* the listener */
	big_unlock();
#if MUTANT != 5
	lock();
#endif
	unlock()
}

proctype worker() {
	byte taken;

end:
	do
	:: work ->
		work = 0;
#if MUTANT == 1
		big_lock();
#endif
		lock();
		d_step { taken = queued; queued = 0 };
#if MUTANT != 2
		unlock();
#endif
		grace(0);
#if MUTANT == 2
		unlock();
#endif
#if MUTANT == 1
		big_unlock();
#endif
		if
		:: taken ->
			lock();
			d_step { ready = ready | taken; taken = 0 };
			ready_event = 1;
			unlock()
		:: else
		fi
	od
}

init {
	atomic {
		run reader(0); run reader(1); run embedder(); run poller(); run worker();
		run other_writer()
	}
}

active proctype monitor() {
	timeout -> assert(released == 3 && !big && !locked)
}
