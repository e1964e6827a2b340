/* SPDX-License-Identifier: MIT */
/*
 * A page of a file that two monitors map, each with a session of its own, whose pagers know nothing
 * of each other: whoever touches it finds the source's bytes, and zeroes only where somebody has
 * discarded; nobody waits for ever. What one discards is zero for both from then on when the other's
 * session has the page already, and may be the source's again when it has not. Clones, whose memory
 * is private, do not see each other's discards; their own show what the file has.
 *
 * Models take_event(), add_waiting(), serve(), map_ahead() (src/pager/paging.c), gr__paged_put(),
 * gr__paged_map(), settle() (src/pager/paged.c), and of the kernel what it promises of a file that is
 * registered for missing pages and for minor faults: a copy into shared memory is refused when the
 * file has the page, a mapping when it has not; both are, in the discarder's session, until its event
 * is read.
 *
 * The file has the page from the start, or not. The first monitor discards it once; once, either
 * somebody who has no session takes it out of the file, of which no event tells, or the kernel takes
 * it out of the page tables (reclaim). A pager's thread may be slow at any step, so that reads need
 * no thread of their own here.
 *
 * MUTANT 0 holds shared: memory is the file
 * MUTANT 1 holds clones: memory is private, over the file
 * MUTANT 2 refuted minor-as-missing: what the file has is answered as if it had it not
 * MUTANT 3 refuted hole-forgotten: a page that left the file before it was mapped is not looked for
 *     again
 * MUTANT 4 refuted done-is-zero: clones; what is done and not in the page table was discarded
 * MUTANT 5 refuted remove-unread: a discard's event changes nothing
 * MUTANT 6 refuted remove-starts-over: the page is fetched again after a discard's event
 * MUTANT 7 refuted discard-for-all: a discard is for good, whatever the other's session has
 */
#define NOTHING 0
#define DATA 1
#define ZERO 2

#define PRIVATE (MUTANT == 1 || MUTANT == 4)
/* A touch is woken in vain by what may be taken away again, and no more often than that. */
#define IN_VAIN 6

byte file = NOTHING;
byte own[2];    /* private copies */
bit mapped[2];  /* the file's page is in the page table */
bit waiting[2]; /* in the kernel */
bit missing[2], minor[2]; /* events of touches */
bit changing, unread;     /* of the first one's discard */
bit gone[2];    /* ghost: a discard that it may see has begun */
bit sure;       /* ghost: one is over that is for good */
bit done_bit[2], wants[2], in_file[2];
bit woken[2];

#define there(i) (own[i] != NOTHING || mapped[i])
#define content(i) (own[i] != NOTHING -> own[i] : file)

proctype toucher(byte me; byte times) {
	bit was;
	byte n, vain;

	do
	:: n < times ->
		was = sure;
		do
		:: atomic { !there(me) ->
				waiting[me] = 1;
				if
				:: file == NOTHING -> missing[me] = 1
				:: else -> minor[me] = 1
				fi;
				woken[me] = 1 };
			atomic { !waiting[me] -> vain++; assert(vain <= IN_VAIN) }
		:: atomic { there(me) ->
				assert(content(me) == DATA || gone[me]);
				assert(!was || content(me) == ZERO || (PRIVATE && (me || file == DATA)));
				vain = 0;
				was = 0 };
			break
		od;
		n++
	:: else -> break
	od
}

/* madvise() of the first one. */
proctype discarder() {
	bit good;

	atomic {
		gone[0] = 1;
#if !PRIVATE
		gone[1] = 1;
#endif
		changing = 1;
		unread = 1;
		woken[0] = 1
	};
	(!unread);
	changing = 0;
	atomic {
#if PRIVATE
		own[0] = NOTHING;
		mapped[0] = 0;
		good = 1
#else
		good = (MUTANT == 7 || done_bit[1]);
		file = NOTHING;
		mapped[0] = 0;
		mapped[1] = 0
#endif
	};
	sure = sure || good
}

/* fallocate() of somebody else, or the kernel, which is short of memory. */
proctype other() {
	atomic {
		if
		:: gone[0] = 1;
			gone[1] = 1;
			file = NOTHING
		:: skip
		fi;
		mapped[0] = 0;
		mapped[1] = 0
	}
}

inline given() {
	d_step {
		done_bit[me] = 1;
		wants[me] = 0;
		in_file[me] = 0;
		waiting[me] = 0
	}
}

/* UFFDIO_CONTINUE, and what follows from the answer. */
inline map() {
	if
	:: changing && me == 0 -> again = 1
	:: !(changing && me == 0) && there(me) -> given()
	:: !(changing && me == 0) && !there(me) && file != NOTHING -> mapped[me] = 1; given()
	:: else ->
#if MUTANT == 3
		wants[me] = 0;
#endif
		in_file[me] = 0
	fi
}

/* UFFDIO_COPY or _ZEROPAGE; when the page is there, what the file has. */
inline put(what) {
	if
	:: changing && me == 0 -> again = 1
	:: !(changing && me == 0) && !there(me) && (PRIVATE || file == NOTHING) ->
#if PRIVATE
		own[me] = what;
#else
		file = what;
		mapped[me] = 1;
#endif
		given()
	:: else ->
#if MUTANT != 2 && !PRIVATE
		if
		:: file != NOTHING -> mapped[me] = 1
		:: else
		fi;
#endif
		given()
	fi
}

/* One read(2). */
inline take_events() {
	atomic {
		woken[me] = 0;
		again = 0;
		do
		:: me == 0 && unread ->
#if MUTANT == 6
			done_bit[0] = 0;
#elif MUTANT != 5
			done_bit[0] = 1;
#endif
			unread = 0
		:: missing[me] -> missing[me] = 0; wants[me] = 1
		:: minor[me] ->
			minor[me] = 0;
			wants[me] = 1;
#if MUTANT != 2
			in_file[me] = 1
#endif
		:: else -> break
		od
	}
}

proctype pager(byte me) {
	bit again;

end:	do
	:: woken[me] || again || !done_bit[me] ->
		take_events();
		atomic {
			if
#if MUTANT == 4
			:: wants[me] && in_file[me] && !done_bit[me] -> map(); again = 1
			:: wants[me] && done_bit[me] -> put(ZERO); again = 1
#else
			:: wants[me] && in_file[me] -> map(); again = 1
			:: wants[me] && !in_file[me] && done_bit[me] -> put(ZERO); again = 1
#endif
			:: !done_bit[me] && !wants[me] -> map() /* ahead */
			:: !done_bit[me] && !in_file[me] -> put(DATA) /* a read has landed */
			:: else
			fi
		}
	od
}

init {
	atomic {
		if
		:: file = DATA
		:: skip
		fi;
		run toucher(0, 2);
		run toucher(1, 2);
		run discarder();
		run other();
		run pager(0);
		run pager(1)
	}
}
