/* SPDX-License-Identifier: MIT */
/*
 * The windows of a block that has no host address: parts of it that are mapped on demand, found by
 * readers without a lock, and taken out again when others are wanted more.
 *
 *   gr_block ─► gr__windows ─┬─ slots[offset >> shift] ─► host, gr__window       (RCU)
 *                            └─ pool: all windows that there can be
 *
 *   a window:  FREE ──miss──► MAPPING ──────────► PUBLISHED
 *               ▲               │ failed,            │ evicted, invalidated: out of its slot
 *               │               │ lost, stale        ▼
 *               ├───────────────┘                 RETIRED ── grace period ─► UNLINKED set in pins
 *               │                                                               │ count is 0, or
 *               └─────────── unmapped ◄─────────────────────────────────────────┘ the last unpin
 *
 * Invariants. (1) A slot is emptied before its window is retired, under windows->lock. (2) A
 * window is unmapped exactly once: when it lost before it was published, by whoever finds its pins
 * UNLINKED and zero (as a block's, ram/reclaim.c), or by the block's release, which comes after the
 * last reader and pin. (3) PUBLISHED and MAPPING together are at most max_windows, and with RETIRED
 * twice as many: the pool has no more. (4) Retired windows are unmapped before the memory of their
 * block goes: they are queued before it, and its deletion ends all retiring.
 *
 * Threads: hits and pins inside a read section, without a lock; all else under windows->lock,
 * inside which ram->lock may be taken, never the other way round. Neither is held while something
 * is mapped or unmapped.
 */
#ifndef GR__WINDOW_H
#define GR__WINDOW_H

#include "base/range.h"
#include "os/hooks.h"
#include "ram/ram.h"

enum gr__window_state {
	GR__WINDOW_FREE,
	GR__WINDOW_MAPPING,
	GR__WINDOW_PUBLISHED,
	GR__WINDOW_RETIRED
};

struct gr__mapping {
	char *host;	 /* these four: const from MAPPING (host: PUBLISHED) to FREE */
	uint64_t offset; /* in the block */
	uint64_t length; /* less than the block's window_size at its end */
	uint64_t serial; /* windows->now before it was mapped: no two have the same */
	uint64_t pins;	 /* atomic: as a block's, GR__PINS_UNLINKED once no lookup can find it */
	struct gr__windows *windows; /* const from its first use on */
	enum gr__window_state state; /* wr: windows->lock */
	bool stale;		     /* wr: windows->lock: MAPPING what was invalidated meanwhile */
	unsigned heap_at;	     /* wr: windows->lock: where in the heap, when PUBLISHED */
	uint64_t heap_key; /* wr: windows->lock: its slot's stamp when the heap looked last */
	struct gr__mapping *next_free; /* wr: windows->lock */
	struct gr__garbage garbage;
};

/* Where a window is found: what a hit reads, and no more. Half a cache line. */
struct gr__window_slot {
	char *host;		    /* RCU, wr: lock: of a window of full size, or NULL */
	struct gr__mapping *window; /* RCU, wr: lock: or NULL */
	/* atomic, relaxed: windows->now when it was last looked up; nobody but eviction minds */
	uint64_t stamp;
	uint64_t unused;
};

struct gr__windows {
	struct gr__window_slot *slots; /* const */
	unsigned shift;		       /* const */
	uint64_t size;		       /* const */
	uint64_t now;		       /* atomic, relaxed; wr: lock: misses so far, and 1 */

	char apart[GR__LINE];	/* as in struct gr_block */
	struct gr_block *block; /* const */
	uint64_t slots_bytes;	/* const */
	uint64_t max;		/* const */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* with lock: a window is FREE again */
	struct gr__mapping *pool;
	uint64_t pool_used;	   /* wr: lock: of the pool, from the first on */
	struct gr__mapping *free;  /* wr: lock */
	struct gr__mapping **heap; /* wr: lock: PUBLISHED ones, least recently used first */
	uint64_t published, mapping, retired; /* wr: lock */
	uint64_t waiting; /* wr: lock: of the retired, those that wait for no pin */
	uint64_t failures, evictions, invalidated, waits; /* wr: lock */
};

/* Give @block what its lookups need; nothing when it has a host address. 0 or -errno. */
int gr__windows_open(struct gr_block *block);

/* At the block's release. */
void gr__windows_close(struct gr_block *block);

/* Has no window ever been mapped, or are all gone, retired ones too? */
bool gr__windows_unused(struct gr__windows *windows);

/*
 * The window of @offset, mapped now: it covers @length bytes, which lie in one window_size. In a
 * read section, at whose end the window is dead unless it is pinned. 0, -EAGAIN: there is no room
 * before others end their section, -ENOBUFS: before they unpin; or what mapping it failed with.
 */
int gr__window_miss(struct gr__windows *windows, uint64_t offset, uint64_t length,
		    struct gr__mapping **result);

/*
 * After -EAGAIN, when the caller has left his section: wait for room, which others may take. false:
 * waiting is not allowed here; it is said.
 */
bool gr__windows_wait(struct gr_ram *ram);

#ifdef GR__TSAN
#define GR__SLOT_LOAD(member) __atomic_load_n(member, __ATOMIC_ACQUIRE)
#else
/* relaxed, as in gr__space_view(); pairs with the releases in publish() */
#define GR__SLOT_LOAD(member) __atomic_load_n(member, __ATOMIC_RELAXED)
#endif

/*
 * The one store of a lookup to what others read: once for each window after a miss, so that windows
 * that stay are not stored to.
 */
static inline void gr__window_touch(const struct gr__windows *windows, struct gr__window_slot *slot)
{
	uint64_t now = __atomic_load_n(&windows->now, __ATOMIC_RELAXED);

	if (gr_unlikely(__atomic_load_n(&slot->stamp, __ATOMIC_RELAXED) < now))
		__atomic_store_n(&slot->stamp, now, __ATOMIC_RELAXED);
}

static inline struct gr__window_slot *gr__window_slot(const struct gr__windows *windows,
						      uint64_t offset)
{
	return &windows->slots[offset >> windows->shift];
}

/* The host address of @offset when it is a hit of a full window; NULL: ask gr__window_get(). */
static inline char *gr__window_hit(const struct gr__windows *windows, uint64_t offset)
{
	struct gr__window_slot *slot = gr__window_slot(windows, offset);
	char *host = GR__SLOT_LOAD(&slot->host);

	if (gr_unlikely(!host))
		return NULL;
	GR_POINT("window.hit");
	gr__window_touch(windows, slot);
	return host + (offset & (windows->size - 1));
}

static inline int gr__window_get(struct gr__windows *windows, uint64_t offset, uint64_t length,
				 struct gr__mapping **result)
{
	struct gr__window_slot *slot = gr__window_slot(windows, offset);
	struct gr__mapping *window = GR__SLOT_LOAD(&slot->window);

	if (gr_unlikely(!window ||
			!gr__range_within(offset - window->offset, length, window->length)))
		return gr__window_miss(windows, offset, length, result);
	GR_POINT("window.hit");
	gr__window_touch(windows, slot);
	*result = window;
	return 0;
}

static inline char *gr__window_host(const struct gr__mapping *window, uint64_t offset)
{
	return window->host + (offset - window->offset);
}

/* Keep a window that was found in this read section. */
static inline void gr__window_pin(struct gr__mapping *window)
{
	/* relaxed: the section keeps the window until after it; see gr__block_get() */
	__atomic_add_fetch(&window->pins, 1, __ATOMIC_RELAXED);
}

/* Before the pin of its block is put. */
void gr__window_unpin(struct gr__mapping *window);

/* ---- between the files of this folder; windows->lock held */

/* Take a published window out of its slot, to be unmapped later. 0, -EFAULT: its block is deleted
 */
int gr__window_retire(struct gr__mapping *window, bool soon);
/* MAPPING or RETIRED: the caller has unmapped it, or it never was mapped. */
void gr__window_free(struct gr__mapping *window);

/* heap.c */
void gr__heap_insert(struct gr__windows *windows, struct gr__mapping *window);
void gr__heap_remove(struct gr__windows *windows, struct gr__mapping *window);
/* The least recently used one that is not pinned, or NULL. */
struct gr__mapping *gr__heap_oldest(struct gr__windows *windows);

extern const struct gr__window_ops gr__window_ops;

#endif
