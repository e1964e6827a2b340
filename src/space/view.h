/* SPDX-License-Identifier: MIT */
/*
 * A view: the published state of a space. Immutable once published; replaced whole.
 *
 *   gr_space ─► gr__view ─┬─ firsts[] / chunks[] ─► gr__chunk: up to 64 ranges, sorted by address
 *                         └─ words behind it (flat), or slots behind it ─► gr__leaf: 512 words (1
 * GiB)
 *
 * Successive views share the chunks and leaves that did not change. A chunk stands in one place of
 * a view; a leaf may stand in many slots (one leaf serves every GiB that one range covers whole)
 * and counts them. Since views follow one another, what a new view no longer names can only be
 * reached from older ones, so one grace period frees the old view together with its dropped chunks
 * and leaves.
 *
 * Threads: readers inside a read section; made by a builder and published under ram->lock.
 */
#ifndef GR__VIEW_H
#define GR__VIEW_H

#include "ram/ram.h"

#define GR__CHUNK_RANGES 64
/* A space that ends below this many granules (64 GiB) has a flat index. */
#define GR__FLAT_MAX (UINT64_C(1) << (36 - GR_GRANULE_SHIFT))
/* The slots end here (16 TiB from the lowest range on); what lies above takes the slow path. */
#define GR__SLOTS_MAX (UINT64_C(1) << 14)

struct gr__range {
	uint64_t last;	  /* inclusive, as mapped */
	uint64_t visible; /* bytes from the first on that readers see; 0: none */
	union {
		uint64_t delta;		     /* host minus guest address */
		struct gr__windows *windows; /* foreign: where its windows are found */
	};
	struct gr_block *block;
	uint64_t offset; /* in the block */
	unsigned access;
	bool foreign; /* its block has no host address: it has no words, nor cursors */
};

struct gr__chunk {
	struct gr__garbage garbage;
	const void *builder;	   /* wr: ram->lock: who made it, until it is published */
	struct gr__chunk *dropped; /* wr: ram->lock: link of that builder's list */
	unsigned count;
	uint64_t firsts[GR__CHUNK_RANGES];
	struct gr__range ranges[GR__CHUNK_RANGES];
};

struct gr__leaf {
	struct gr__garbage garbage;
	uint64_t slots;		/* wr: ram->lock: how many slots of the current view name it */
	uint64_t uniform;	/* the word in all its places, or GR__WORD_NONE */
	const void *builder;	/* wr: ram->lock */
	struct gr__leaf *fresh; /* wr: ram->lock: link of that builder's list */
	uint64_t words[GR__LEAF_WORDS] __attribute__((aligned(64)));
};

struct gr__view {
	struct gr__garbage garbage;
	uint64_t ranges;
	unsigned chunk_count;
	uint64_t *firsts; /* of each chunk; in this allocation, as is: */
	struct gr__chunk **chunks;
	struct gr_view
		read; /* last: what the inline lookup sees, and then the words of a flat one */
};
_Static_assert(sizeof(struct gr__view) == offsetof(struct gr__view, read) + sizeof(struct gr_view),
	       "the words or slots follow the read part");

/* The leaf of slots without memory. */
extern const uint64_t gr__empty_words[GR__LEAF_WORDS];

/* The leaf of a slot that is not gr__empty_words; its bookkeeping is the writers'. */
static inline struct gr__leaf *gr__leaf_of(const uint64_t *words)
{
	return (struct gr__leaf *)((uintptr_t)words -
				   offsetof(struct gr__leaf, words)); /* NOLINT */
}

static inline const struct gr__view *gr__view_of(const struct gr_view *read)
{
	return (const struct gr__view *)((const char *)read - offsetof(struct gr__view, read));
}

/* Of a flat view. */
static inline uint64_t *gr__view_words(struct gr__view *view)
{
	return (uint64_t *)(view + 1);
}

/* Of one that is not: each the words of a leaf. */
static inline const uint64_t **gr__view_slots(const struct gr__view *view)
{
	return (const uint64_t **)(view + 1);
}

/* The word of a granule that a range, not a foreign one, covers whole. */
static inline uint64_t gr__word_of(const struct gr__range *range)
{
	return range->delta | (range->access ^ (GR_READ | GR_WRITE));
}

/* How many of the sorted @keys are at most @value. */
static inline unsigned gr__count_upto(const uint64_t *keys, unsigned count, uint64_t value)
{
	const uint64_t *base = keys;

	if (!count)
		return 0;
	/* no branch depends on the keys: they would be mispredicted half of the time */
	while (count > 1) {
		unsigned half = count / 2;

		base += base[half] <= value ? half : 0;
		count -= half;
	}
	return (unsigned)(base - keys) + (*base <= value);
}

/* A place among the ranges of a view. */
struct gr__place {
	unsigned chunk, index;
};

/* The last range that begins at or below @addr; false when there is none. */
static inline bool gr__view_seek(const struct gr__view *view, uint64_t addr,
				 struct gr__place *place)
{
	unsigned chunk = gr__count_upto(view->firsts, view->chunk_count, addr);

	if (!chunk)
		return false;
	place->chunk = chunk - 1;
	/* at least the first one of its chunk does */
	place->index = gr__count_upto(view->chunks[chunk - 1]->firsts,
				      view->chunks[chunk - 1]->count, addr) -
		       1;
	return true;
}

static inline bool gr__view_next(const struct gr__view *view, struct gr__place *place)
{
	if (++place->index < view->chunks[place->chunk]->count)
		return true;
	place->index = 0;
	return ++place->chunk < view->chunk_count;
}

static inline uint64_t gr__view_first(const struct gr__view *view, struct gr__place place)
{
	return view->chunks[place.chunk]->firsts[place.index];
}

static inline const struct gr__range *gr__view_range(const struct gr__view *view,
						     struct gr__place place)
{
	return &view->chunks[place.chunk]->ranges[place.index];
}

/* The public description of a range. */
static inline void gr__range_describe(uint64_t first, const struct gr__range *from,
				      struct gr_range *range)
{
	*range = (struct gr_range){
		.addr = first,
		.length = from->last - first + 1,
		.visible = from->visible,
		.block = from->block,
		.offset = from->offset,
		.host = from->foreign ? NULL
				      : (void *)(uintptr_t)(first + from->delta), /* NOLINT */
		.access = from->access,
	};
}

/* A view with room for so many chunks and for the index of @shape's counts, both unset; or NULL. */
struct gr__view *gr__view_new(unsigned chunk_count, const struct gr_view *shape);
/* Frees a view that was never published, or whose readers have left; not its chunks and leaves. */
void gr__view_free(struct gr__view *view);

/*
 * Tell the difference of two views between two addresses that cut no range: @gone for each range of
 * @old that is not in @next, @came for each of @next that is not in @old, both by rising address.
 * Either view may be NULL (empty), either function too. Returns the first non-zero result.
 */
typedef int (*gr__range_fn)(void *context, uint64_t first, const struct gr__range *range);
int gr__view_diff(const struct gr__view *old, const struct gr__view *next, uint64_t from,
		  uint64_t to, gr__range_fn gone, gr__range_fn came, void *context);

#endif
