/* SPDX-License-Identifier: MIT */
/*
 * Publication of views: a reader sees a view whole or not at all, and nothing it reaches is freed
 * before its section ends; two writers lose no change of each other.
 *
 * Models gr__builder_begin(), own_chunk(), drop_chunk(), gr__builder_publish() (src/space/builder.c),
 * gr__space_view() (include/guestram/fast.h), gr__retire(), gr__retire_surplus(),
 * gr__retire_settle(), take_garbage(), work() (src/ram/reclaim.c).
 *
 * A view names two chunks. Writer w replaces chunk w by a new one and shares the other. Chunks and
 * views are numbered; a freed one is marked, and touching it is the error.
 *
 * MUTANT 0 holds as-built
 * MUTANT 1 refuted publish-unfinished: the pointer is stored before the view is filled
 * MUTANT 2 refuted no-grace: the worker frees what it took at once
 * MUTANT 3 refuted grace-then-take: the worker waits first and takes the queue afterwards
 * MUTANT 4 refuted retire-shared: a chunk that the new view still names is retired too
 * MUTANT 5 refuted build-unlocked: the base is read before the lock is taken
 * MUTANT 6 refuted settle-at-once: a writer frees the surplus without waiting
 * MUTANT 7 refuted edit-in-place: the chunk of the base is written instead of a copy
 */
#define READERS 2
#define WAITERS 3
#include "rcu.inc"

#define VIEWS 3
byte current;         /* space->view: which view */
byte name[6];         /* name[2 * v + i]: chunk i of view v */
bool filled[VIEWS];   /* the view is complete */
bool view_freed[VIEWS];
byte value[4];        /* of a chunk: how often it was changed */
bool chunk_freed[4];  /* chunks 0, 1: of the first view; 2 + w: made by writer w */
byte garbage_views, garbage_chunks; /* bit sets: retired */
byte view_count = 1;

init {
	d_step { name[0] = 0; name[1] = 1; filled[0] = true }
	atomic { run writer(0); run writer(1); run reader(0); run reader(1); run worker() }
}

inline free_all(views, chunks) {
	d_step {
		i = 0;
		do
		:: i < VIEWS -> view_freed[i] = view_freed[i] || (views & (1 << i)); i++
		:: else -> break
		od;
		i = 0;
		do
		:: i < 4 -> chunk_freed[i] = chunk_freed[i] || (chunks & (1 << i)); i++
		:: else -> break
		od;
		i = 0; views = 0; chunks = 0
	}
}

proctype writer(byte w) {
	byte base, view, old, views, chunks, i;

#if MUTANT == 5
	base = current;
#endif
	lock();
#if MUTANT != 5
	base = current;
#endif
	d_step { view = view_count; view_count++; old = name[2 * base + w] }
#if MUTANT == 1
	current = view;
#endif
#if MUTANT == 7
	value[old] = value[old] + 1;
	name[2 * view + w] = old;
#else
	value[2 + w] = value[old] + 1; /* own_chunk() */
	name[2 * view + w] = 2 + w;
#endif
	name[2 * view + 1 - w] = name[2 * base + 1 - w];
	filled[view] = true;
#if MUTANT != 1
	current = view;
#endif
	garbage_views = garbage_views | (1 << base);
#if MUTANT != 7
	garbage_chunks = garbage_chunks | (1 << old);
#endif
#if MUTANT == 4
	garbage_chunks = garbage_chunks | (1 << name[2 * view + 1 - w]);
#endif
	if
	:: d_step { true -> views = garbage_views; chunks = garbage_chunks; /* too much waits */
		garbage_views = 0; garbage_chunks = 0 }
	:: true
	fi;
	unlock();
	if
	:: views ->
#if MUTANT != 6
		grace(w);
#endif
		free_all(views, chunks)
	:: else
	fi
}

proctype worker() {
	byte views, chunks, i;

end:
	do
	:: garbage_views ->
#if MUTANT == 3
		grace(2);
#endif
		lock();
		d_step { views = garbage_views; chunks = garbage_chunks; garbage_views = 0;
			garbage_chunks = 0 }
		unlock();
#if MUTANT != 2 && MUTANT != 3
		grace(2);
#endif
		free_all(views, chunks)
	od
}

/* One section: nothing is carried from one to the next, so two readers stand for any number. */
proctype reader(byte r) {
	byte view, chunk, first;

	section_begin(r);
	view = current;
	assert(filled[view] && !view_freed[view]);
	chunk = name[2 * view];
	assert(!chunk_freed[chunk]);
	first = value[chunk];
	chunk = name[2 * view + 1];
	assert(!chunk_freed[chunk] && value[chunk] <= 1);
	chunk = name[2 * view];
	assert(!view_freed[view] && !chunk_freed[chunk]);
	assert(value[chunk] == first); /* a view is constant */
	section_end(r);
	d_step { view = 0; chunk = 0; first = 0 }
}

/* When all is done: both changes are in the view, and all that was retired is freed. */
active proctype monitor() {
	timeout ->
	assert(value[name[2 * current]] == 1 && value[name[2 * current + 1]] == 1);
	assert(!view_freed[current] && view_freed[0] + view_freed[1] + view_freed[2] == 2)
}
