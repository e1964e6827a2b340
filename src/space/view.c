/* SPDX-License-Identifier: MIT */
#include "space/view.h"
#include "os/alloc.h"
#include <string.h>
#include <urcu/compiler.h>

const uint64_t gr__empty_words[GR__LEAF_WORDS] __attribute__((aligned(64))) = {
	[0 ... GR__LEAF_WORDS - 1] = GR__WORD_NONE,
};

static void free_garbage(struct gr__garbage *garbage)
{
	gr__view_free(caa_container_of(garbage, struct gr__view, garbage));
}

struct gr__view *gr__view_new(unsigned chunk_count, const struct gr_view *shape)
{
	uint64_t index_count = shape->flat_count + shape->slot_count; /* one of them is 0 */
	size_t size = sizeof(struct gr__view) + index_count * sizeof(uint64_t) +
		      chunk_count * (sizeof(uint64_t) + sizeof(struct gr__chunk *));
	struct gr__view *view = gr__alloc_raw(size);

	if (!view)
		return NULL;
	memset(view, 0, sizeof(*view));
	view->garbage = (struct gr__garbage){.free = free_garbage, .bytes = size};
	view->read = *shape;
	view->chunk_count = chunk_count;
	view->firsts = gr__view_words(view) + index_count;
	view->chunks = (struct gr__chunk **)(view->firsts + chunk_count);
	return view;
}

void gr__view_free(struct gr__view *view)
{
	gr__free(view);
}

static bool is_same(const struct gr__range *a, const struct gr__range *b)
{
	return a->last == b->last && a->visible == b->visible && a->delta == b->delta &&
	       a->block == b->block && a->offset == b->offset && a->access == b->access;
}

/* Walks the ranges of one view that begin in [from, to]. */
struct walk {
	const struct gr__view *view;
	struct gr__place place;
	uint64_t to;
	bool more;
};

static void walk_check(struct walk *walk)
{
	walk->more = walk->more && gr__view_first(walk->view, walk->place) <= walk->to;
}

static void walk_begin(struct walk *walk, const struct gr__view *view, uint64_t from, uint64_t to)
{
	walk->view = view;
	walk->to = to;
	walk->more = view && view->chunk_count;
	if (!walk->more)
		return;
	walk->place = (struct gr__place){0, 0};
	if (gr__view_seek(view, from, &walk->place) && gr__view_first(view, walk->place) < from)
		walk->more = gr__view_next(view, &walk->place);
	walk_check(walk);
}

static void walk_next(struct walk *walk)
{
	walk->more = gr__view_next(walk->view, &walk->place);
	walk_check(walk);
}

int gr__view_diff(const struct gr__view *old, const struct gr__view *next, uint64_t from,
		  uint64_t to, gr__range_fn gone, gr__range_fn came, void *context)
{
	struct walk a, b;
	int rc = 0;

	walk_begin(&a, old, from, to);
	walk_begin(&b, next, from, to);
	while ((a.more || b.more) && !rc) {
		uint64_t first_a = a.more ? gr__view_first(a.view, a.place) : UINT64_MAX;
		uint64_t first_b = b.more ? gr__view_first(b.view, b.place) : UINT64_MAX;
		bool take_a = a.more && (!b.more || first_a <= first_b);
		bool take_b = b.more && (!a.more || first_b <= first_a);

		if (take_a && take_b &&
		    is_same(gr__view_range(a.view, a.place), gr__view_range(b.view, b.place)))
			; /* in both */
		else {
			if (take_a && gone)
				rc = gone(context, first_a, gr__view_range(a.view, a.place));
			if (take_b && came && !rc)
				rc = came(context, first_b, gr__view_range(b.view, b.place));
		}
		if (take_a)
			walk_next(&a);
		if (take_b)
			walk_next(&b);
	}
	return rc;
}
