/* SPDX-License-Identifier: MIT */
/*
 * Changes and listeners: what a listener is told adds up to what is published, in order, for
 * listeners that come and go while changes are under way; a space stays open while it is told of.
 *
 * Models gr__change_run(), announce_and_publish(), tell_all(), hold(), needs_claim(),
 * check_claims(), tell_committed(), check_change() (src/space/change.c), gr_listener_open(),
 * gr_listener_close() (src/space/replay.c), gr__audience_take(), gr__audience_tell(),
 * gr__audience_tell_back(), gr__audience_drop() (src/ram/listener.c).
 *
 * A space of two addresses; a range is mapped at the first. One thread unmaps both at once (the
 * second is a hole then), or unmaps and maps the first; another one maps and unmaps the second. Listener 0 is there from the
 * start and is closed; listener 1 is opened. `has` is what a listener was told it has. Views are
 * numbers; that their memory stays is publish.pml's matter.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted claim-without-holes: an unmap claims the ranges it finds, not all it unmaps
 * MUTANT 2 refuted no-claims: changes of one range overtake each other
 * MUTANT 3 refuted tell-once: a listener that joined meanwhile is not told before the publish
 * MUTANT 4 refuted join-unchecked: it joins after its replay without looking whether all is as it was
 * MUTANT 5 refuted join-then-replay: it joins the list first
 * MUTANT 6 refuted close-at-once: a close does not wait for changes that are telling it
 * MUTANT 7 refuted publish-first-build: what was built before the telling is published
 * MUTANT 8 refuted no-tell-back: a change that fails leaves listeners with what it told
 * MUTANT 9 refuted committed-unclaimed: the space may close while listeners hear of the commit
 * MUTANT 10 refuted publish-relocked: the lock is dropped between the last look and the publish
 */
#define READERS 1
#define WAITERS 1
#include "rcu.inc"

byte view = 1, generation = 1; /* bit a: address a has a range */
byte claims, holders;          /* addresses; claims in the list, with addresses or without */
byte listed = 1;               /* bit l: listener l is in the list */
byte users[2];
byte has[2];
bool closed[2], joined, space_gone;

inline tell_gone(l, mask, a) {
	if
	:: mask & (1 << a) ->
		d_step {
			assert(!closed[l] && (has[l] & (1 << a)));
			has[l] = has[l] & ~(1 << a)
		}
	:: else
	fi
}

inline tell_came(l, mask, a) {
	if
	:: mask & (1 << a) ->
		d_step {
			assert(!closed[l] && !(has[l] & (1 << a)));
			has[l] = has[l] | (1 << a)
		}
	:: else
	fi
}

/* What leaves by falling address, then what comes by rising address. */
inline tell(l, leaves, comes) {
	tell_gone(l, leaves, 1);
	tell_gone(l, leaves, 0);
	tell_came(l, comes, 0);
	tell_came(l, comes, 1)
}

inline tell_each(who, gone_all, came_all) {
	if
	:: who & 1 -> tell(0, gone_all, came_all)
	:: else
	fi;
	if
	:: who & 2 -> tell(1, gone_all, came_all)
	:: else
	fi
}

inline count_users(who, n) {
	d_step {
		users[0] = users[0] + n * (who & 1);
		users[1] = users[1] + n * (who >> 1)
	}
}

#define AFTER(before) (on -> ((before) | mask) : ((before) & ~mask))

proctype changer(byte mask; bit on; byte times) {
	byte next, claim, gone, came, told, more;

again:
	lock();
	d_step {
		next = AFTER(view);
		gone = view & ~next;
		came = next & ~view;
#if MUTANT == 1
		claim = gone | came;
#else
		claim = (on -> came : mask);
#endif
	}
	if
	:: space_gone || (on && (view & mask)) || (claims & claim) -> unlock()
	:: else ->
		if
		:: !listed -> d_step { view = next; generation++ }; unlock()
		:: else ->
			d_step {
#if MUTANT != 2
				claims = claims | claim;
#endif
				holders++
			};
			do
			:: more = listed & ~told;
				if
				:: more == 0 -> break
				:: else
				fi;
				count_users(more, 1);
				unlock();
				tell_each(more, gone, came);
				lock();
				d_step { told = told | more; more = 0 }
#if MUTANT == 3
				; break
#endif
			od;
#if MUTANT == 10
			unlock();
			lock();
#endif
			if
			:: d_step {
#if MUTANT != 7
				next = AFTER(view);
#endif
				view = next;
				generation++
				};
				assert(!(listed & 1) || ((has[0] ^ view) & claim) == 0);
				assert(!(listed & 2) || ((has[1] ^ view) & claim) == 0);
				d_step {
					claims = claims & ~claim;
#if MUTANT == 9
					holders--
#endif
				};
				unlock();
				assert(!space_gone); /* tell_committed() names it */
				lock();
#if MUTANT != 9
				holders--;
#endif
			:: unlock(); /* no memory to build it again */
#if MUTANT != 8
				tell_each(told, came, gone);
#endif
				lock();
				d_step { claims = claims & ~claim; holders-- }
			fi;
			count_users(told, -1);
			unlock()
		fi
	fi;
	d_step { next = 0; claim = 0; gone = 0; came = 0; told = 0; more = 0 }
	if
	:: times > 1 -> d_step { times--; on = 1 - on }; goto again
	:: else
	fi
}

proctype opener() {
	byte told, told_generation, now, now_generation;

#if MUTANT == 5
	lock();
	listed = listed | 2;
	unlock();
#endif
	do
	:: lock();
		d_step { now = view; now_generation = generation }
		if
#if MUTANT == 4
		:: told_generation != 0 -> listed = listed | 2; unlock(); break
#else
		:: now_generation == told_generation -> listed = listed | 2; unlock(); break
#endif
		:: else -> unlock()
		fi;
		tell(1, told & ~now, now & ~told);
		d_step { told = now; told_generation = now_generation; now = 0; now_generation = 0 }
	od;
	joined = true
}

proctype closer() {
	byte now;

#if MUTANT == 6
	lock();
#else
	atomic { !locked && users[0] == 0 -> locked = 1 }
#endif
	now = view;
	listed = listed & ~1;
	unlock();
	tell_gone(0, now, 1);
	tell_gone(0, now, 0);
	assert(has[0] == 0);
	closed[0] = true
}

/* Closes the space once it is empty. What closing an empty one tells is nothing. */
proctype space_closer() {
end:
	atomic { !locked && view == 0 && holders == 0 -> space_gone = true }
}

init {
	atomic {
		has[0] = 1;
		if
		:: run changer(3, 0, 1)
		:: run changer(1, 0, 2)
		fi;
		run changer(2, 1, 2); run opener(); run closer();
		run space_closer()
	}
}

active proctype monitor() {
	timeout ->
	assert(joined && closed[0] && has[1] == view && !claims && !holders && !users[0] && !users[1])
}
