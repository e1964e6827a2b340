/* SPDX-License-Identifier: MIT */
/*
 * Which granules of a block are plugged, and how often each is pinned. The layers above change it
 * (plug/plug.c, space/change.c); pins look at it (space/pin.c).
 *
 *   plugged    what is plugged: published together with the views that show it
 *   pinnable   what may be pinned: the same, but a removal takes this bit away first
 *   pins       pins that reach into the granule
 *
 * A pin is taken inside a read section: it looks at `pinnable` and, where that is set, counts in
 * `pins`. A removal clears `pinnable`, waits for a grace period, and then looks at `pins`. So a
 * section that saw the bit set began before the grace period ended and its count is seen; one that
 * begins later sees it clear and counts nothing.
 *
 * A block gets its table when granules are opened on it for the first time and keeps it to its end,
 * since pins know it. While they are not open every granule can be pinned.
 */
#ifndef GR__GRANULES_H
#define GR__GRANULES_H

#include <stdbool.h>
#include <stdint.h>
#include <urcu/list.h>

struct gr_block;
struct gr__change;

struct gr__granules {
	struct gr__granules *older;   /* wr: who opens granules: pins may still count in it */
	uint64_t granule, count;      /* const */
	bool open;		      /* wr: ram->lock: granules are plugged and unplugged */
	bool busy;		      /* wr: ram->lock: one thread changes them */
	uint64_t version;	      /* wr: ram->lock: grows when `plugged` changes */
	struct cds_list_head windows; /* wr: ram->lock: struct gr__window, strict ones */
	uint64_t bytes;		      /* wr: ram->lock, read atomically: plugged */
	uint64_t *plugged;	      /* bits; wr: ram->lock, read atomically */
	uint64_t *pinnable;	      /* bits; wr: who has `busy`, read atomically */
	uint64_t *pins;		      /* atomic counts */
};

/* Granules of a block, whole ones. */
struct gr__run {
	uint64_t offset, length;
};

/* Nothing plugged, nothing pinnable, not open; or NULL. */
struct gr__granules *gr__granules_new(uint64_t granule, uint64_t count);
/* With those behind it; NULL does nothing. */
void gr__granules_free(struct gr__granules *granules);

/* Set or clear a run's bits in one of the two. */
void gr__granules_mark(const struct gr__granules *granules, uint64_t *bits, struct gr__run run,
		       bool on);
/* How many granules of the run are set. */
uint64_t gr__granules_count(const struct gr__granules *granules, const uint64_t *bits,
			    struct gr__run run);

/*
 * The next run of granules set in @bits at or after *run's end, within the first @end bytes; a run
 * of {0, 0} finds the first. False: there is none.
 */
bool gr__granules_next(const struct gr__granules *granules, const uint64_t *bits, uint64_t end,
		       struct gr__run *run);

/* Count a pin of [offset, offset + length) in each granule; false: one may not be pinned. Inside a
 * read section. */
bool gr__granules_pin(struct gr__granules *granules, uint64_t offset, uint64_t length);
void gr__granules_unpin(struct gr__granules *granules, uint64_t offset, uint64_t length);
/* After a grace period in which the run was not pinnable: does a pin reach into it? */
bool gr__granules_pinned(const struct gr__granules *granules, struct gr__run run);

#endif
