/* SPDX-License-Identifier: MIT */
/*
 * A page that comes when it is touched, while it is fetched ahead and discarded: whoever touches it
 * finds the source's bytes until a discard is over, and zeroes from then on; nobody waits for ever.
 *
 * Models take_events(), serve(), serve_from_source(), install_some() (src/pager/paging.c),
 * gr__paged_put(), settle(), hold_pages(), release_pages() (src/pager/paged.c), and of the kernel
 * what it promises of events: who discards waits until its event is read, copies are refused while
 * he does, and the page is taken away after that.
 *
 * One page stands for all, since no step looks at another. Two threads touch it; it is discarded
 * once, after that once more; a worker reads it from the source, for a touch or ahead of one.
 *
 * MUTANT 0 holds events: another process's memory, discards told by events
 * MUTANT 1 holds holds: memory of this process, discards take a hold, and may fail
 * MUTANT 2 refuted worker-puts: the worker puts the page when it has it
 * MUTANT 3 refuted remove-unread: a discard's event changes nothing
 * MUTANT 4 refuted copy-again: a copy that was refused is done again without a look at the page
 * MUTANT 5 refuted refused-forgotten: a touch whose copy was refused is not answered later
 * MUTANT 6 refuted done-is-there: a touch of a page that is done is taken to find something
 * MUTANT 7 refuted no-hold: in this process, a discard tells when it is over, and not before
 * MUTANT 8 refuted done-first: in this process, the page is done when the discard begins, and stays
 *     so when that fails
 * MUTANT 9 refuted hold-ends-alone: in this process, the end of a hold wakes nobody
 * MUTANT 10 refuted done-early: the page is done when its read begins, so that it is not read twice
 */
#define NOTHING 0
#define DATA 1
#define ZERO 2

#define HOLDS (MUTANT == 1 || MUTANT == 7 || MUTANT == 8 || MUTANT == 9)

byte content = NOTHING;
bit waiting[2]; /* in the kernel */
bit done_bit, hold;
bit over;    /* ghost: a discard is over */
bit begun;   /* ghost: one has begun and did not fail */
bit wants;   /* the pager's list of touches */
bit flying, landed;
bit parked;  /* a copy was refused: `put` is decided on */
bit woken;   /* its descriptors are readable */
bit busy;    /* it did something, and so looks again */
byte left = 3;
bit changing;
bit unread; /* the event of the discard */
bit faults; /* events of touches */

inline wake() {
	waiting[0] = 0;
	waiting[1] = 0
}

proctype toucher(byte me; byte times) {
	bit was;
	byte n;

	do
	:: n < times ->
		was = over;
		do
		:: atomic { content == NOTHING -> waiting[me] = 1; faults = 1; woken = 1 };
			(!waiting[me])
		:: atomic { content != NOTHING ->
				assert(content == DATA || begun);
				assert(!was || content == ZERO) };
			break
		od;
		n++
	:: else -> break
	od;
	left--
}

proctype discarder() {
	byte n;
#if HOLDS
	bit fails;
#endif

	do
	:: n < 2 ->
#if !HOLDS
		/* madvise() of another process */
		atomic { begun = 1; changing = 1; unread = 1; woken = 1 };
		(!unread);
		changing = 0;
		content = NOTHING;
		over = 1;
#else
#if MUTANT == 8
		done_bit = 1;
#elif MUTANT != 7
		hold = 1; /* under the lock, which copies hold */
#endif
		if
		:: fails = 1
		:: fails = 0; begun = 1; content = NOTHING
		fi;
		atomic {
			hold = 0;
			if
			:: !fails -> done_bit = 1; over = 1
			:: else
			fi
		};
#if MUTANT != 9
		woken = 1;
#endif
#endif
		n++
	:: else -> break
	od;
	left--
}

proctype worker() {
	do
	:: flying && !landed ->
#if MUTANT == 2
		if
		:: !done_bit ->
			if
			:: atomic { !changing && content == NOTHING -> content = DATA; wake() };
				done_bit = 1
			:: else
			fi
		:: else
		fi;
#endif
		atomic { landed = 1; woken = 1 }
	:: left == 0 -> break
	od
}

#if !HOLDS
/* UFFDIO_COPY or _ZEROPAGE, and what follows from the answer. */
inline put(what) {
	if
	:: atomic { changing ->
#if MUTANT == 5
			wants = 0;
#endif
			parked = 1 }
	:: atomic { !changing ->
			if
			:: content == NOTHING -> content = what
			:: else
			fi;
			done_bit = 1; wants = 0; parked = 0; wake() }
	fi
}
#else
/* The same under the lock, after a look at the page. */
inline put(what) {
	atomic {
		if
		:: !hold && (what == ZERO || !done_bit) ->
			if
			:: content == NOTHING -> content = what
			:: else
			fi;
			done_bit = 1; wants = 0; wake()
		:: else
		fi
	}
}
#endif

/* All events, before anything is put. */
inline take_events() {
	do
#if !HOLDS
	:: unread ->
		unread = 0; /* the discarder goes on from here … */
#if MUTANT != 3
		done_bit = 1 /* … and the page is done before anything else is put */
#endif
#endif
	:: atomic { faults -> faults = 0; wants = 1 }
	:: else -> break
	od
}

proctype pager() {
	do
	:: (woken || busy || parked || left == 0) ->
		atomic { woken = 0; busy = 0 };
		take_events();
		if
		:: left == 0 -> break
#if MUTANT == 6
		:: wants && !hold && done_bit -> wants = 0
#else
		:: wants && !hold && done_bit -> put(ZERO); busy = !wants
#endif
		:: landed && done_bit && !wants -> landed = 0; flying = 0; parked = 0; busy = 1
		:: landed && !done_bit && !hold ->
#if MUTANT == 4
			do
			:: put(DATA);
				if
				:: parked -> take_events()
				:: else -> break
				fi
			od;
#else
			put(DATA); /* where there are events, another step than the look */
#endif
			if
			:: !parked && done_bit -> landed = 0; flying = 0; busy = 1
			:: else
			fi
		:: !done_bit && !flying && !hold -> /* touched, or ahead of it */
#if MUTANT == 10
			done_bit = 1;
#endif
			flying = 1
		:: else
		fi
	od
}

init {
	atomic {
		run toucher(0, 2);
		run toucher(1, 1);
		run discarder();
		run worker();
		run pager()
	}
}
