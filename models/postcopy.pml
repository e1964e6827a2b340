/* SPDX-License-Identifier: MIT */
/*
 * Postcopy: the guest runs, and reads each page as the sender had it, whether it was pushed, asked
 * for, or zero from the beginning; nobody waits for ever.
 *
 * Models switch_over(), finish_postcopy() (src/migrate/receive.c), gr__fault_begin(), answer(),
 * fill_extent(), gr__fault_end() (src/migrate/fault.c), take_push(), push() (src/migrate/sender.c).
 *
 * Three pages. 0 and 1 are missing at the switch: what the receiver has of them is old. 2 was zero
 * from the beginning, and has no memory. Two virtual processors touch pages in any order; the kernel
 * lets one that finds nothing wait, and tells the thread of faults. Two senders take pages of one
 * bitmap, each into a channel of its own, with a reader at its end.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted cleared-first: a reader clears the bit before the page is there
 * MUTANT 2 refuted in-place: a page is read into guest memory, not put there at once
 * MUTANT 3 refuted run-first: the guest runs before what is missing is taken away
 * MUTANT 4 refuted kept: what is missing is not taken away
 * MUTANT 5 refuted no-wake: who waits is not woken by a page that comes
 * MUTANT 6 refuted end-of-one: it is over when one channel has ended
 * MUTANT 7 refuted only-requests: a touch of a page that is not missing is asked for, too
 * MUTANT 8 refuted taken-twice: senders look at the bit and clear it in two steps, and the last page
 *     counts the end
 */
#define PAGES 3
#define NOTHING 0
#define OLD 1
#define HALF 2
#define DATA 3
#define ZERO 4

byte content[PAGES] = NOTHING;
bit missing[PAGES];
bit waiting[PAGES * 2]; /* page * 2 + processor */
bit left[PAGES];        /* the sender's: not sent yet */
byte left_count = 2;
bit running, registered, over, patient;
byte done;
byte ended;
byte sent[PAGES];

chan events = [4] of { byte };
chan requests = [4] of { byte };
chan pages0 = [4] of { byte };
chan pages1 = [4] of { byte };
#define END 9

inline wake(p) {
	waiting[p * 2] = 0;
	waiting[p * 2 + 1] = 0
}

/* UFFDIO_COPY, UFFDIO_ZEROPAGE: one step of the kernel's. */
inline put(p, what) {
	d_step {
		if
		:: content[p] == NOTHING -> content[p] = what
		:: else
		fi;
#if MUTANT == 5
		if
		:: what == ZERO -> wake(p)
		:: else
		fi
#else
		wake(p)
#endif
	}
}

proctype processor(byte me; byte first; byte second; byte touches) {
	byte p = first, n;

	(running);
	do
	:: n < touches ->
		do
		:: atomic { content[p] == NOTHING && registered -> waiting[p * 2 + me] = 1; events!p };
			(!waiting[p * 2 + me] || !registered)
		:: atomic { content[p] == NOTHING && !registered -> content[p] = ZERO }
		:: content[p] != NOTHING -> break
		od;
		assert(content[p] == (p == 2 -> ZERO : DATA));
		p = second;
		n++
	:: else -> break
	od;
	done++
}

proctype faults() {
	byte p;
	bit was;

	do
	:: events?p ->
		was = missing[p]; /* under the lock */
#if MUTANT == 7
		was = 1;
#endif
		if
		:: was -> requests!p
		:: else -> put(p, ZERO)
		fi
	:: over && empty(events) -> break
	od
}

inline take(p) {
#if MUTANT == 8
	left[p];
	atomic { left[p] = 0; left_count--; got = p + 1 }
#else
	atomic {
		if
		:: left[p] -> left[p] = 0; left_count--; got = p + 1
		:: else
		fi
	}
#endif
}

inline choose() {
	if
	:: requests?p -> take(p)
	:: left[0] -> take(0)
	:: left[1] -> take(1)
	:: !left_count
	fi
}

proctype sender(bit me) {
	byte p, got;

	do
	:: left_count ->
#if MUTANT == 8
		got = 0;
		choose();
#else
		atomic { got = 0; choose() };
#endif
		atomic {
			if
			:: got && me -> sent[got - 1]++; assert(sent[got - 1] == 1); pages1!(got - 1)
			:: got && !me -> sent[got - 1]++; assert(sent[got - 1] == 1); pages0!(got - 1)
			:: else
			fi
		}
	:: !left_count -> break
	od;
	if
	:: me -> pages1!END
	:: else -> pages0!END
	fi
}

inline place(p) {
	was = missing[p]; /* under the lock */
	if
	:: was ->
#if MUTANT == 1
		missing[p] = 0;
#endif
#if MUTANT == 2
		atomic { content[p] = HALF; wake(p) };
		content[p] = DATA;
#else
		put(p, DATA);
#endif
		missing[p] = 0
	:: else
	fi
}

proctype reader(bit me) {
	byte p;
	bit was;

	do
	:: (me) -> pages1?p;
		if
		:: p == END -> break
		:: else -> place(p)
		fi
	:: (!me) -> pages0?p;
		if
		:: p == END -> break
		:: else -> place(p)
		fi
	od;
	ended++
}

/* The caller's thread: the switch, and the end. Requests that are left are the sender's to forget. */
init {
	byte p;

	d_step {
		content[0] = OLD;
		content[1] = OLD;
		missing[0] = 1;
		missing[1] = 1;
		left[0] = 1;
		left[1] = 1
	};
	atomic { run processor(0, 0, 2, 2); run processor(1, 0, 0, 1) };
	if /* the end wakes everybody, so nobody may need it: in some runs it waits for them */
	:: patient = 1
	:: patient = 0
	fi;
#if MUTANT == 3
	running = 1;
#endif
	registered = 1;
#if MUTANT != 4
	content[0] = NOTHING;
	content[1] = NOTHING;
#endif
	running = 1;
	atomic { run faults(); run sender(0); run sender(1); run reader(0); run reader(1) };
#if MUTANT == 6
	(ended >= 1);
#else
	(ended == 2);
	assert(!missing[0] && !missing[1]);
#endif
	(!patient || done == 2);
	over = 1;
	registered = 0
}
