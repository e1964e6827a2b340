/* SPDX-License-Identifier: MIT */
/*
 * Lookups beyond one word: the slow paths of the inline ones, cursors' refill, and the pieces of a
 * range. All run inside the caller's read section, on one view, without locks or stores to shared
 * memory.
 */
#include "space/lookup.h"
#include "base/error.h"
#include "base/range.h"
#include "os/hooks.h"
#include <errno.h>
#include <limits.h>

/* Inline in the lookups, so that the piece stays in registers. */
static inline __attribute__((always_inline)) bool find_piece(const struct gr__view *view,
							     uint64_t addr, struct gr__piece *piece)
{
	const struct gr__range *range;
	uint64_t first;

	if (!gr__view_seek(view, addr, &piece->place))
		return false;
	first = gr__view_first(view, piece->place);
	range = gr__view_range(view, piece->place);
	if (addr - first >= range->visible)
		return false;
	piece->range = range;
	piece->first = first;
	piece->into = addr - first;
	piece->length = range->visible - piece->into;
	return true;
}

bool gr__piece_find(const struct gr__view *view, uint64_t addr, struct gr__piece *piece)
{
	return find_piece(view, addr, piece);
}

bool gr__piece_next(const struct gr__view *view, struct gr__piece *piece)
{
	uint64_t end = piece->first + piece->range->visible; /* 0 when it ends at 2^64 */

	piece->into += piece->length;
	if (piece->into < piece->range->visible) {
		piece->length = piece->range->visible - piece->into;
		return true;
	}
	if (!gr__view_next(view, &piece->place) || gr__view_first(view, piece->place) != end)
		return false;
	piece->range = gr__view_range(view, piece->place);
	piece->first = end;
	piece->into = 0;
	piece->length = piece->range->visible;
	return piece->length > 0;
}

/* No hit of a full window. */
static __attribute__((noinline)) void *foreign_slow(struct gr__windows *windows, uint64_t offset,
						    uint64_t length)
{
	struct gr__mapping *window;

	return gr__window_get(windows, offset, length, &window) ? NULL
								: gr__window_host(window, offset);
}

/* @length bytes, at least one, that the piece has; NULL also when they cross windows. */
static inline void *foreign_host(const struct gr__piece *piece, uint64_t length)
{
	struct gr__windows *windows = piece->range->windows;
	uint64_t offset = piece->range->offset + piece->into;
	void *host;

	if (length > windows->size - (offset & (windows->size - 1)))
		return NULL;
	host = gr__window_hit(windows, offset);
	return gr_likely(host != NULL) ? host : foreign_slow(windows, offset, length);
}

__attribute__((noinline)) void *gr__host_slow(const struct gr_view *read, uint64_t addr,
					      uint64_t length, unsigned access)
{
	struct gr__piece piece;

	GR_POINT("lookup.slow");
	if (!length || access & ~(GR_READ | GR_WRITE) ||
	    !find_piece(gr__view_of(read), addr, &piece) || length > piece.length ||
	    (piece.range->access & access) != access)
		return NULL;
	if (gr_unlikely(piece.range->foreign))
		return foreign_host(&piece, length);
	return gr__piece_host(&piece);
}

/*
 * A cursor's refill. The first miss in a granule remembers just that granule, from its word, so
 * that scattered lookups cost no search; a second miss with the same word is in the same stretch,
 * and remembers the whole range.
 */
__attribute__((noinline)) void *gr__cursor_slow(struct gr_cursor *cursor, uint64_t addr,
						uint64_t length, unsigned access)
{
	const struct gr_view *read = gr__space_view(cursor->space);
	uint64_t in_granule = addr & (GR_GRANULE - 1);
	struct gr__piece piece;
	uint64_t word;

	if (!length || access & ~(GR_READ | GR_WRITE))
		return NULL;
	GR_POINT("cursor.slow");
	word = gr__view_word(read, addr);
	if (!(word & GR__WORD_INDIRECT) &&
	    !(cursor->generation == read->generation && cursor->word == word) &&
	    length <= GR_GRANULE - in_granule) {
		cursor->first = addr - in_granule;
		cursor->length = GR_GRANULE;
	} else {
		if (!gr__piece_find(gr__view_of(read), addr, &piece))
			return NULL;
		if (piece.range->foreign) { /* windows come and go within a generation */
			if (length > piece.length || (piece.range->access & access) != access)
				return NULL;
			return foreign_host(&piece, length);
		}
		cursor->first = piece.first;
		cursor->length = piece.range->visible;
		word = gr__word_of(piece.range);
	}
	GR_POINT("cursor.fill");
	cursor->word = word;
	cursor->generation = read->generation;
	if (word & access || length > cursor->length - (addr - cursor->first))
		return NULL;
	return gr__word_host(word, addr);
}

int gr__check_span(uint64_t addr, uint64_t length, unsigned access)
{
	uint64_t last;

	if (access & ~(GR_READ | GR_WRITE))
		return gr__fail(-EINVAL, "access %#x is not made of GR_READ and GR_WRITE", access);
	if (length && !gr__range_last(addr, length, &last))
		return gr__fail(-ERANGE, "%#llx bytes at %#llx pass 2^64",
				(unsigned long long)length, (unsigned long long)addr);
	return 0;
}

int gr__walk_pieces(const struct gr__view *view, uint64_t addr, uint64_t length, unsigned access,
		    int (*fn)(void *context, const struct gr__piece *piece, int index),
		    void *context)
{
	struct gr__piece piece;
	int count = 0, rc = 0;
	bool found;

	if (!length)
		return 0;
	for (found = gr__piece_find(view, addr, &piece); found;
	     found = gr__piece_next(view, &piece)) {
		if (count == INT_MAX)
			return gr__fail(-ERANGE, "more than %d pieces", INT_MAX);
		if ((piece.range->access & access) != access)
			return gr__fail(-EACCES, "block %s at %#llx does not allow access %#x",
					piece.range->block->name,
					(unsigned long long)(piece.first + piece.into), access);
		if (piece.range->foreign)
			piece.length = gr__piece_in_window(&piece);
		if (piece.length > length)
			piece.length = length;
		if (fn)
			rc = fn(context, &piece, count);
		if (rc < 0)
			return rc;
		count++;
		length -= piece.length;
		addr += piece.length;
		if (!length)
			return count;
	}
	return gr__fail(-EFAULT, "no memory at %#llx", (unsigned long long)addr);
}

struct span_filler {
	struct iovec *iov;
	int max;
};

static int fill_span(void *context, const struct gr__piece *piece, int index)
{
	const struct span_filler *filler = context;
	struct gr__mapping *window;
	void *host;
	int rc;

	if (index >= filler->max)
		return 0;
	rc = gr__piece_locate(piece, &host, &window);
	if (rc)
		return rc == -EAGAIN ? -ENOBUFS : rc;
	filler->iov[index] = (struct iovec){host, piece->length};
	return 0;
}

int gr_spans(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
	     struct iovec *iov, int max)
{
	struct span_filler filler = {iov, max};
	int rc = gr__check_span(addr, length, access);

	if (rc < 0)
		return rc;
	if (max < 0 || (max && !iov))
		return gr__fail(-EINVAL, "spans: no room for %d pieces", max);
	return gr__walk_pieces(gr__view_of(gr__space_view(space)), addr, length, access, fill_span,
			       &filler);
}

int gr_space_find(struct gr_space *space, uint64_t addr, struct gr_range *range)
{
	const struct gr__view *view = gr__view_of(gr__space_view(space));
	struct gr__place place;

	if (!gr__view_seek(view, addr, &place) || gr__view_range(view, place)->last < addr)
		return gr__fail(-EFAULT, "no range at %#llx", (unsigned long long)addr);
	gr__range_describe(gr__view_first(view, place), gr__view_range(view, place), range);
	return 0;
}

struct range_caller {
	int (*fn)(void *context, const struct gr_range *range);
	void *context;
};

static int call_range(void *context, uint64_t first, const struct gr__range *from)
{
	const struct range_caller *caller = context;
	struct gr_range range;

	gr__range_describe(first, from, &range);
	return caller->fn(caller->context, &range);
}

int gr_space_each_range(struct gr_space *space,
			int (*fn)(void *context, const struct gr_range *range), void *context)
{
	struct range_caller caller = {fn, context};

	return gr__view_diff(NULL, gr__view_of(gr__space_view(space)), 0, UINT64_MAX, NULL,
			     call_range, &caller);
}
