/* SPDX-License-Identifier: MIT */
/*
 * Drain and close against callbacks: drain returns when what was deleted before is reclaimed and
 * told; each callback comes once, none to a closed listener and none after close; nothing touches
 * the RAM once close has freed it; nobody sleeps for ever.
 *
 * Models gr_ram_close(), check_idle() (src/space/teardown.c), gr_ram_drain(), gr__reclaim_wait(),
 * is_pending(), gr__reclaim_stop(), worker(), work(), release_block(), hand_over()
 * (src/ram/reclaim.c), gr__listeners_tell_reclaimed() (src/ram/listener.c), the wait of
 * gr_listener_close() (src/space/replay.c).
 *
 * Block 0 is deleted while a request holds a pin on it, which the request gives back at some time.
 * Block 1 is live when the RAM is closed, or was never made. Listener 0 may be closed by a
 * thread of its own, listener 1 stays. By the contract the other users are done when close is called, but a
 * section may still be open, and the unpin that brought the last count to zero may still run.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted no-last-grace: close frees the RAM when its worker has left
 * MUTANT 2 refuted hand-over-outside: the last unpin wakes the worker outside a section
 * MUTANT 3 refuted no-join: close does not wait for the worker's end
 * MUTANT 4 refuted drain-by-queue: drain looks at the queue of the worker, not at what is pending
 * MUTANT 5 refuted no-broadcast: who waits is not told that a block is gone
 * MUTANT 6 refuted told-last: the block leaves the pending ones before the listeners hear of it
 * MUTANT 7 refuted told-uncounted: a listener that is being told is not counted as in use
 * MUTANT 8 refuted stop-first: the worker is stopped before the pending ones are waited for
 * MUTANT 9 refuted unpin-looks-back: an unpin that was not the last one touches the RAM afterwards
 */
#define READERS 2
#define WAITERS 2
#include "rcu.inc"

#define UNLINKED 8
byte pins[2];
bool queued[2], pending[2], unpinned[2], released[2];
byte told[4];                /* told[2 * l + b]: how often listener l heard of block b's reclaim */
bit in_list[2] = 1, users[2];
bit work_set, event, stopping;
bool sleeping[2];            /* on ram->reclaimed: 0 the main thread, 1 who closes listener 0 */
bool listener_closed, closer_done, closing, worker_left, ram_freed;

#define touch() assert(!ram_freed)

inline wake() {
	atomic { touch(); was_set = work_set; work_set = 1 }
	if
	:: !was_set -> touch(); event = 1
	:: else
	fi
}

inline broadcast() {
	d_step { sleeping[0] = false; sleeping[1] = false }
}

/* pthread_cond_wait() */
inline sleep(who) {
	atomic { sleeping[who] = true; unlock() };
	atomic { !sleeping[who] && !locked -> locked = 1 }
}

inline queue(b) {
	d_step { queued[b] = true; pending[b] = true }
}

#if MUTANT == 4
#define is_pending() (queued[0] || queued[1])
#else
#define is_pending() (pending[0] || pending[1])
#endif

inline wait_for_all() {
	lock();
	do
	:: is_pending() -> sleep(0)
	:: else -> break
	od;
	unlock()
}

inline stop() {
	stopping = 1;
	event = 1;
#if MUTANT != 3
	(worker_left)
#endif
}

proctype closer() {
	if
	:: true ->
		lock();
		do
		:: users[0] -> sleep(1)
		:: else -> break
		od;
		in_list[0] = 0;
		unlock();
		listener_closed = true
	:: true
	fi;
	closer_done = true
}

proctype main() {
	bit was_set;

	lock();
	queue(0);
	wake();
	unlock();
	if
	:: wait_for_all(); assert(told[2] == 1 && released[0]) /* drain */
	:: true                                                /* or it timed out */
	fi;
	(closer_done);
	atomic { !locked && (pins[0] & ~UNLINKED) == 0 -> locked = 1 } /* no pins: not -EBUSY */
	closing = true;
	if
	:: queue(1); wake()
	:: true
	fi;
	unlock();
#if MUTANT == 8
	stop();
#endif
	wait_for_all();
#if MUTANT != 8
	stop();
#endif
#if MUTANT != 1
	grace(1);
#endif
	ram_freed = true;
	assert(released[0] && told[2] == 1 && told[3] == released[1]);
	assert(told[0] <= 1 && told[1] <= 1 && (listener_closed || told[0] == 1))
}

inline tell(l, b) {
	if
	:: in_list[l] ->
#if MUTANT != 7
		users[l] = 1;
#endif
		unlock();
		d_step { assert(!ram_freed && !(l == 0 && listener_closed)); told[2 * l + b]++ }
		lock();
		users[l] = 0
	:: else
	fi
}

inline forget(b) {
	d_step { touch(); pending[b] = false };
#if MUTANT != 5
	broadcast()
#else
	skip
#endif
}

inline release(b) {
	d_step { assert(!released[b] && (pins[b] & ~UNLINKED) == 0); released[b] = true };
	lock();
#if MUTANT == 6
	forget(b);
#endif
	tell(1, b);
	tell(0, b);
	broadcast();
	unlock();
#if MUTANT != 6
	lock();
	forget(b);
	unlock()
#endif
}

inline take(b) {
	if
	:: taken & (1 << b) ->
		atomic {
			if
			:: pins[b] == 0 -> ready = ready | (1 << b)
			:: else
			fi;
			pins[b] = pins[b] | UNLINKED
		}
	:: else
	fi
}

proctype worker() {
	byte taken, ready;

	do
	:: event ->
		event = 0;
		work_set = 0;
		lock();
		d_step {
			taken = queued[0] + 2 * queued[1];
			queued[0] = false;
			queued[1] = false
		};
		unlock();
		if
		:: taken -> grace(0)
		:: else
		fi;
		take(0);
		take(1);
		atomic { ready = ready | unpinned[0]; unpinned[0] = false };
		if
		:: ready & 1 -> release(0)
		:: else
		fi;
		if
		:: ready & 2 -> release(1)
		:: else
		fi;
		d_step { taken = 0; ready = 0 };
		touch();
		if
		:: stopping -> break
		:: else
		fi
	od;
	worker_left = true
}

proctype request() {
	byte before;
	bit was_set;

	atomic { before = pins[0]; pins[0] = before - 1 };
	if
	:: before == (UNLINKED | 1) ->
#if MUTANT != 2
		section_begin(1);
#endif
		touch();
		unpinned[0] = true;
		wake();
#if MUTANT != 2
		section_end(1)
#endif
	:: else ->
#if MUTANT == 9
		touch()
#endif
	fi
}

proctype reader() {
	if
	:: atomic { !closing -> section_begin(0) };
		touch(); /* a view */
		section_end(0)
	:: closing
	fi
}

init {
	atomic {
		pins[0] = 1;
		run main(); run worker(); run request(); run reader(); run closer()
	}
}
