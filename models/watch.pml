/* SPDX-License-Identifier: MIT */
/*
 * A watch by write protection that a thread of ours answers: no write is missed, nobody waits for
 * ever.
 *
 * Models answer(), close_pages(), collect(), on_removed(), on_noted() (src/dirty/watch.c).
 *
 * One page. A writer whose page is protected waits for the answer and tries again, as the kernel has
 * him do. The harvester collects and copies; somebody discards the page once, which takes its
 * protection off and is marked.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted late: a collect protects a page after it was copied
 * MUTANT 2 refuted report-first: a page is noted as closed and copied in one step, and protected in a
 *             second one
 * MUTANT 3 refuted answer-first: the answer takes the protection off, and then notes the page, outside
 *             the lock
 * MUTANT 4 refuted discard-unseen: what was discarded is not noted
 * MUTANT 5 refuted no-wake: a watch that ends leaves its waiters
 */
byte memory, copy, written;
bit protect_on = 1, open, discarded, waiting, locked, ended, writer_done, gone;

#define lock() atomic { !locked -> locked = 1 }
#define unlock() locked = 0

proctype writer() {
	byte i;

	do
	:: i < 2 ->
		do
		:: atomic { !protect_on -> written++; memory = written; break }
		:: atomic { protect_on -> waiting = 1 }; (!waiting) /* and again */
		od;
		i++
	:: else -> break
	od;
	writer_done = 1
}

/* MADV_DONTNEED, as if it wrote. */
proctype discarder() {
	atomic { written = written + 4; memory = written; protect_on = 0; discarded = 1 };
	gone = 1
}

proctype answerer() {
	do
	:: waiting ->
#if MUTANT == 3
		d_step { protect_on = 0; waiting = 0 };
		lock(); open = 1; unlock();
#else
		lock(); open = 1; d_step { protect_on = 0; waiting = 0 }; unlock();
#endif
	:: ended -> break
	od
}

proctype harvester() {
	byte i;
	bit dirty;

	do
	:: i < 3 ->
		if
		:: i == 2 -> (writer_done && gone)
		:: else
		fi;
		lock();
		dirty = 0;
#if MUTANT != 4
		if
		:: atomic { discarded -> discarded = 0; open = 1 }
		:: else
		fi;
#endif
		if
		:: open ->
			open = 0;
#if MUTANT == 2
			unlock();
			copy = memory;
			lock();
			protect_on = 1;
#elif MUTANT == 1
			dirty = 1
#else
			protect_on = 1;
			dirty = 1
#endif
		:: else
		fi;
		unlock();
		if
		:: dirty -> copy = memory
		:: else
		fi;
#if MUTANT == 1
		if
		:: dirty -> protect_on = 1
		:: else
		fi;
#endif
		i++
	:: else -> break
	od;
	assert(copy == written);
	ended = 1
}

/* Another watch of the same page that is closed under its waiter. */
bit other_on = 1, other_waits;

proctype other_writer() {
	do
	:: atomic { !other_on -> break }
	:: atomic { other_on -> other_waits = 1 }; (!other_waits)
	od
}

proctype closer() {
	d_step {
		other_on = 0;
#if MUTANT != 5
		other_waits = 0
#endif
	}
}

init {
	atomic { run writer(); run discarder(); run answerer(); run harvester(); run other_writer();
		 run closer() }
}
