/* SPDX-License-Identifier: MIT */
/*
 * `guestram torture`: readers against writers, with every byte that is read checked.
 *
 * The world is a set of descriptors, one for each block. A block's pages carry stamps that name
 * it: its serial number, its descriptor, the page. The descriptor lists where the block was mapped
 * and when that ended. So a reader that looked up an address can tell, from the bytes it finds,
 * whether it may see them:
 *
 *  - The stamp is whole and names a live descriptor with the same serial. When caller-supplied
 *    memory is released its stamps are poisoned before anybody may use it again; other memory is
 *    unmapped, and a touch of it is a fault that is caught and counted.
 *  - The descriptor says that this page of the block was mapped at the address, with the rights
 *    asked for, and not that the mapping had ended before the reader's section began.
 *  - At the section's end all stamps are still the same.
 *
 * Why there are no false alarms: stamps and descriptor are written before the block is mapped, and
 * change only from its release on. A mapping's end is noted after the call that ended it returned:
 * `ended` takes the next value of the clock `now` (release), and a reader takes the clock (acquire)
 * before it enters its section; if it sees a time at or after the end, its section began after the
 * call had returned, and no view that it can load has the mapping.
 *
 * Threads: one owner (writer) for each descriptor; readers only read it. Members say who else.
 */
#ifndef TORTURE_H
#define TORTURE_H

#include <guestram.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#define TORTURE_PAGE UINT64_C(4096)
#define TORTURE_LARGE (UINT64_C(2) << 20)	/* a granule of the index: the fast path */
#define TORTURE_SMALL (UINT64_C(64) << 10)	/* four of them share a granule: the slow path */
#define TORTURE_SMALL_BLOCK (2 * TORTURE_SMALL) /* one half or the other of it is mapped */
#define TORTURE_POISON UINT64_C(0xdeadbeefdeadbeef)

enum {
	TORTURE_POOL = 32,    /* descriptors with caller-supplied memory of their own */
	TORTURE_DESCS = 512,  /* all of them */
	TORTURE_MAPPINGS = 4, /* of one block, over its life */
	TORTURE_SLOTS = 8,    /* of 4 MiB each, for each writer, in each space */
	TORTURE_PLACES = 5,   /* in a slot: a large one, then small ones in the granule behind */
	TORTURE_TABLE = 8,    /* ranges of the space whose table is replaced whole */
	TORTURE_THREADS = 64, /* readers and writers, each */
	TORTURE_SAMPLES = 1 << 16,
};

enum torture_space { SPACE_GUEST, SPACE_ALIAS, SPACE_TABLE, SPACES };

/* At the start of a stamped page; constant from before the block is mapped until its release. */
struct stamp {
	uint64_t serial;
	uint64_t desc; /* index */
	uint64_t page; /* in the block */
	uint64_t check;
};

/* Where readers store, behind the stamp. */
enum { SCRATCH = 64 };

struct mapping {
	enum torture_space space;
	unsigned access;
	uint64_t addr, length, offset;
	uint64_t ended; /* atomic: clock; 0 while it lasts */
	/* One piece of it that was unmapped earlier. */
	uint64_t hole, hole_length;
	uint64_t hole_ended; /* atomic: clock; 0: there is no hole, the two above mean nothing */
};

enum desc_state { DESC_FREE, DESC_LIVE, DESC_RELEASED };

struct desc {
	uint64_t serial;       /* atomic: 0 when free; changed by the owner and on reclaim */
	enum desc_state state; /* atomic */
	char *host;
	uint64_t length;
	uint64_t version; /* of the table it belongs to, or 0 */
	bool pinned;	  /* atomic: a reader pinned it: its release waited for more than a grace */
	double deleted;	  /* when, ns */
	unsigned mappings; /* atomic: those that are filled (release, readers acquire) */
	struct mapping mapping[TORTURE_MAPPINGS];
	int holders;	     /* atomic: its owner and its memory, who may leave in any order */
	struct world *world; /* const: for callbacks that are given the descriptor alone */
	/* the owner's */
	struct gr_block *block;
	unsigned flags;
	int live;	   /* mappings that have not ended */
	struct desc *next; /* on the list of free ones: world->lock */
};

struct torture_options {
	int seconds, readers, writers;
	uint64_t seed;
	bool json;
	const char *baseline; /* NULL: guestram itself */
};

struct world {
	const struct torture_options *options;
	struct gr_ram *ram;
	struct gr_space *space[SPACES];
	struct gr_listener *listener;
	char *pool;
	struct desc desc[TORTURE_DESCS];
	uint64_t now; /* atomic: clock of `ended`, starts at 1 */
	bool stop;    /* atomic */
	pthread_mutex_t lock;
	struct desc *free_pool, *free_other; /* lock */
	uint64_t next_serial;		     /* atomic */
	pthread_mutex_t table_lock;
	struct desc *table[TORTURE_TABLE]; /* table_lock */
	uint64_t table_version;		   /* table_lock */
	/* atomic counters */
	uint64_t lookups, removals, created, reclaims, stale, errors;
	char first_error[256]; /* lock */
	char first_stale[256]; /* lock */
	/* us from unlink to release; ring */
	double grace[TORTURE_SAMPLES];
	uint64_t graces; /* atomic */
};

static inline uint64_t torture_count(uint64_t *counter, uint64_t more)
{
	return __atomic_add_fetch(counter, more, __ATOMIC_RELAXED);
}

static inline uint64_t torture_read(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static inline bool torture_stopped(struct world *world)
{
	return __atomic_load_n(&world->stop, __ATOMIC_RELAXED);
}

/* xorshift64*; the state is never 0 */
static inline uint64_t torture_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * UINT64_C(2685821657736338717);
}

static inline uint64_t torture_seed(uint64_t seed, uint64_t thread)
{
	return (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + thread * UINT64_C(0xbf58476d1ce4e5b9) +
	       1;
}

/* Pages of a block or place that carry a stamp: all of a small one, 16 of a large one. */
static inline uint64_t torture_step(uint64_t length)
{
	return length > TORTURE_SMALL_BLOCK ? length / 16 : TORTURE_PAGE;
}

static inline uint64_t torture_place(int writer, int slot, int place)
{
	uint64_t addr = ((uint64_t)writer * TORTURE_SLOTS + (uint64_t)slot) * 2 * TORTURE_LARGE;

	return place ? addr + TORTURE_LARGE + (uint64_t)(place - 1) * 2 * TORTURE_SMALL : addr;
}

static inline uint64_t torture_place_length(int place)
{
	return place ? TORTURE_SMALL : TORTURE_LARGE;
}

/* torture_world.c */
int world_open(const struct torture_options *options, struct world **world);
void world_close(struct world *world);
/* A free descriptor with a new serial, its length set; NULL: wait for reclaim. */
struct desc *world_take(struct world *world, bool pool, uint64_t length);
/*
 * One of its two holders leaves: its owner, once he writes to it no more, and whoever saw its
 * memory reclaimed (or could not make any). The second puts it back to the free ones.
 */
void world_leave(struct world *world, struct desc *desc);
void world_stamp(struct world *world, struct desc *desc);
/* A new mapping of @desc, filled and visible to readers; NULL when it had its share. */
struct mapping *world_map(struct desc *desc, enum torture_space space, uint64_t addr,
			  uint64_t length, uint64_t offset, unsigned access);
/* The value for `ended`: the next of the clock. */
uint64_t world_tick(struct world *world);
/* Its memory is about to be free: note the time, poison it. */
void world_release(struct world *world, struct desc *desc);
void world_error(struct world *world, int rc, const char *what);
void world_stale(struct world *world, const char *why, enum torture_space space, uint64_t addr,
		 const struct stamp *stamp);

static inline uint64_t world_now(struct world *world)
{
	return __atomic_load_n(&world->now, __ATOMIC_ACQUIRE); /* pairs with world_tick() */
}

void world_read_stamp(const void *host, struct stamp *stamp);
/*
 * What a reader found at the page-aligned @addr, in a section that began after the clock was
 * @since. Returns the block's descriptor, or NULL after having counted it as stale.
 */
struct desc *world_check(struct world *world, const struct stamp *stamp, enum torture_space space,
			 uint64_t addr, unsigned access, uint64_t since);

/*
 * Run @step(context); when it touches memory that is gone, count that as stale, leave its read
 * sections and return false. For reader threads; the process's SIGSEGV and SIGBUS handlers are
 * ours meanwhile.
 */
bool torture_guarded(struct world *world, void (*step)(void *context), void *context);
void torture_guard_install(void);

/* A thread of each kind. */
struct torture_thread {
	struct world *world;
	int number;
	pthread_t id;
};

void *torture_reader(void *thread);
void *torture_writer(void *thread);
/* The table's first blocks, before readers start; and the end of it all. 0 or -errno. */
int torture_table_init(struct world *world);
int torture_table_fini(struct world *world);

/* The old design: its own readers and writers on the same world. */
int baseline_open(struct world *world);
void baseline_close(struct world *world);
void *baseline_reader(void *thread);
void *baseline_writer(void *thread);

#endif
