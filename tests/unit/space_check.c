/* SPDX-License-Identifier: MIT */
/*
 * Every way to look up must say what the model says; and the index, the chunks and the figures must
 * be what they should be, since a word left out is only slow, and a wrong count shows much later.
 */
#include "space/space.h"
#include "space_world.h"

#define check(condition)                                                                           \
	do {                                                                                       \
		if (!(condition))                                                                  \
			fail_msg("%s, step %u, space %u: %s", world->shape->name, world->step, at, \
				 #condition);                                                      \
	} while (0)
#define check_at(condition, addr)                                                                  \
	do {                                                                                       \
		if (!(condition))                                                                  \
			fail_msg("%s, step %u, space %u, %#llx: %s", world->shape->name,           \
				 world->step, at, (unsigned long long)(addr), #condition);         \
	} while (0)

static void check_pins(struct world *world, unsigned at, uint64_t addr, uint64_t length,
		       unsigned access)
{
	struct gr_space *space = world->spaces[at];
	struct model_piece pieces[8];
	struct gr_pin pins[8], pin;
	int want = model_spans(&world->models[at], addr, length, access, pieces, 8);
	int max = (int)rng_below(&world->rng, 9), rc, i;

	rc = gr_pin_spans(space, addr, length, access, pins, max);
	check_at(rc == want, addr);
	for (i = 0; rc <= max && i < rc; i++) {
		const struct model_range *range = pieces[i].range;

		check_at(pins[i].host == model_place(range, pieces[i].addr), addr);
		check_at(pins[i].length == pieces[i].length, addr);
		check_at(pins[i].block == range->block->block, addr);
		check_at(pins[i].offset == range->offset + (pieces[i].addr - range->first), addr);
		check_at(pins[i].access == access, addr);
	}
	check_at(stats_of(world->ram).pins == (rc > 0 && rc <= max ? (uint64_t)rc : 0), addr);
	for (i = 0; rc <= max && i < rc; i++)
		gr_unpin(&pins[i]);
	want = !length ? -EINVAL : want > 1 ? -EXDEV : want == 1 ? 0 : want;
	rc = gr_pin(space, addr, length, access, &pin);
	check_at(rc == want, addr);
	if (rc < 0)
		return;
	check_at(pin.host == model_place(pieces[0].range, addr) && pin.length == length, addr);
	check_at(info_of(pin.block).pins == 1, addr);
	gr_unpin(&pin);
}

static void check_lookup(struct world *world, unsigned at, uint64_t addr, uint64_t length,
			 unsigned access)
{
	struct gr_space *space = world->spaces[at];
	const struct model *model = &world->models[at];
	void *want = model_host(model, addr, length, access);
	struct model_piece pieces[4];
	struct iovec iov[4];
	int count, i;

	gr_read_begin();
	check_at(gr_host(space, addr, length, access) == want, addr);
	check_at(gr_cursor_host(&world->cursors[at][0], addr, length, access) == want, addr);
	if (rng_one_in(&world->rng, 5))
		check_at(gr_cursor_host(&world->cursors[at][1], addr, length, access) == want,
			 addr);
	if (rng_one_in(&world->rng, 90))
		check_at(gr_cursor_host(&world->cursors[at][2], addr, length, access) == want,
			 addr);
	count = model_spans(model, addr, length, access, pieces, 4);
	check_at(gr_spans(space, addr, length, access, iov, 4) == count, addr);
	for (i = 0; i < count && i < 4; i++) {
		check_at(iov[i].iov_base == model_place(pieces[i].range, pieces[i].addr), addr);
		check_at(iov[i].iov_len == pieces[i].length, addr);
	}
	gr_read_end();
}

static void check_find(struct world *world, unsigned at, uint64_t addr)
{
	const struct model_range *want = model_find(&world->models[at], addr);
	struct gr_range range;
	int rc;

	gr_read_begin();
	rc = gr_space_find(world->spaces[at], addr, &range);
	gr_read_end();
	check_at(rc == (want ? 0 : -EFAULT), addr);
	if (!want)
		return;
	check_at(range.addr == want->first && range.length == want->last - want->first + 1, addr);
	check_at(range.visible == model_visible(want), addr);
	check_at(range.block == want->block->block && range.offset == want->offset, addr);
	check_at(range.host == model_place(want, want->first), addr);
	check_at(range.access == want->access, addr);
}

static void probe(struct world *world, unsigned at, uint64_t addr)
{
	static const uint64_t lengths[] = {0, 1, 8, PAGE, GR_GRANULE, GR_GRANULE + 1, 3 * GIB};
	const struct model_range *range = model_find(&world->models[at], addr);
	unsigned access = (unsigned)rng_below(&world->rng, 4);
	uint64_t length = lengths[rng_below(&world->rng, COUNT_OF(lengths))];
	uint64_t visible = range ? model_visible(range) : 0;

	check_lookup(world, at, addr, 1, 0);
	check_lookup(world, at, addr, length, access);
	if (range && addr - range->first < visible) { /* up to its end, and one byte more */
		uint64_t left = visible - (addr - range->first);

		check_lookup(world, at, addr, left, range->access);
		check_lookup(world, at, addr, left + 1, range->access);
		check_lookup(world, at, addr, GR_GRANULE - addr % GR_GRANULE, access);
	}
	if (rng_one_in(&world->rng, 4))
		check_find(world, at, addr);
	if (rng_one_in(&world->rng, 8))
		check_pins(world, at, addr, length, access);
	if (rng_one_in(&world->rng, 50))
		check_pins(world, at, addr, 1, access | 4u << rng_below(&world->rng, 30));
}

static void probe_around(struct world *world, unsigned at, struct interval interval)
{
	uint64_t pages = (interval.last - interval.first) / PAGE + 1;
	uint64_t inside = interval.first + rng_below(&world->rng, pages) * PAGE;

	probe(world, at, interval.first);
	probe(world, at, interval.first - 1);
	probe(world, at, interval.last);
	probe(world, at, interval.last + 1);
	probe(world, at, inside + rng_below(&world->rng, PAGE));
	probe(world, at, inside / GR_GRANULE * GR_GRANULE);
	probe(world, at, (interval.first + (GR_GRANULE - 1)) / GR_GRANULE * GR_GRANULE);
	probe(world, at, interval.last / GR_GRANULE * GR_GRANULE);
}

static void probe_places(struct world *world, unsigned at)
{
	const struct model *model = &world->models[at];
	unsigned known = world->recent_count[at] < RECENT ? world->recent_count[at] : RECENT;
	unsigned i;

	if (known) /* the newest surely */
		probe_around(world, at, world->recent[at][(world->recent_count[at] - 1) % RECENT]);
	for (i = 0; i < world->shape->probes; i++) {
		if (known)
			probe_around(world, at, world->recent[at][rng_below(&world->rng, known)]);
		if (model->count) {
			const struct model_range *range =
				&model->ranges[rng_below(&world->rng, model->count)];

			probe_around(world, at, (struct interval){range->first, range->last});
		}
	}
	probe(world, at, world_choose_interval(world).first + rng_below(&world->rng, PAGE));
	probe(world, at, rng_next(&world->rng));
	probe(world, at, 0);
	probe(world, at, UINT64_MAX);
	probe(world, at, UINT64_C(1) << 63);
}

struct listing {
	struct world *world;
	const struct model *model;
	size_t count;
	unsigned at;
};

static int compare_range(void *context, const struct gr_range *range)
{
	struct listing *listing = context;
	struct world *world = listing->world;
	unsigned at = listing->at;
	const struct model_range *want;

	check_at(listing->count < listing->model->count, range->addr);
	want = &listing->model->ranges[listing->count++];
	check_at(range->addr == want->first, range->addr);
	check_at(range->length == want->last - want->first + 1, range->addr);
	check_at(range->visible == model_visible(want), range->addr);
	check_at(range->block == want->block->block && range->offset == want->offset, range->addr);
	check_at(range->access == want->access, range->addr);
	return 0;
}

/* The index: each word. */
static void check_words(struct world *world, unsigned at)
{
	const struct gr_view *view = world->spaces[at]->view;
	struct model *model = &world->models[at];
	uint64_t lowest = UINT64_MAX, highest = 0, last_slot;
	size_t i;
	unsigned w;

	for (i = 0; i < model->count; i++) {
		if (model->ranges[i].first < lowest)
			lowest = model->ranges[i].first;
		if (model->ranges[i].last > highest)
			highest = model->ranges[i].last;
	}
	if (!model->count) {
		check(!view->flat_count && !view->slot_count);
		return;
	}
	check((view->flat_count != 0) == (highest >> GR_GRANULE_SHIFT < GR__FLAT_MAX));
	last_slot = (lowest >> GR__SLOT_SHIFT) + (GR__SLOTS_MAX - 1);
	for (w = 0; w < COUNT_OF(world->shape->windows); w++) {
		const struct window *window = &world->shape->windows[w];
		uint64_t granule = window->base >> GR_GRANULE_SHIFT;
		uint64_t count = (window->size + (GR_GRANULE - 1)) >> GR_GRANULE_SHIFT;
		uint64_t step = 1 + count / 4096;

		for (; count; count -= count < step ? count : step, granule += step) {
			uint64_t addr = granule << GR_GRANULE_SHIFT;
			bool reached = view->flat_count || addr >> GR__SLOT_SHIFT <= last_slot ||
				       last_slot < lowest >> GR__SLOT_SHIFT;

			check_at(gr__view_word(view, addr) ==
					 (reached ? model_word(model, granule) : GR__WORD_NONE),
				 addr);
		}
	}
}

static int compare_pointers(const void *left, const void *right)
{
	const uintptr_t *a = left, *b = right;

	return *a < *b ? -1 : *a > *b;
}

/* What stands behind the view: chunks, and leaves that are counted right. Returns index bytes. */
static uint64_t check_inside(struct world *world, unsigned at, uint64_t *range_bytes)
{
	const struct gr__view *view = gr__space_current(gr__space_of(world->spaces[at]));
	uint64_t count = view->read.slot_count, leaves = 0, i, k, ranges = 0;
	uintptr_t *sorted;

	for (i = 0; i < view->chunk_count; i++) {
		const struct gr__chunk *chunk = view->chunks[i];

		check(chunk->count && chunk->count <= GR__CHUNK_RANGES);
		check(chunk->firsts[0] == view->firsts[i]);
		ranges += chunk->count;
	}
	check(ranges == world->models[at].count && ranges == view->ranges);
	check(view->chunk_count <= ranges / 6 + 2);
	if (world->changed[at]) /* a space that is new has nothing to count */
		*range_bytes +=
			sizeof(*view) + view->chunk_count * (sizeof(struct gr__chunk) +
							     sizeof(uint64_t) + sizeof(void *));
	if (!count)
		return view->read.flat_count * sizeof(uint64_t);
	sorted = calloc(count, sizeof(*sorted));
	assert_non_null(sorted);
	memcpy(sorted, gr__view_slots(view), count * sizeof(*sorted));
	qsort(sorted, count, sizeof(*sorted), compare_pointers);
	for (i = 0; i < count; i = k) {
		const uint64_t *words = (const uint64_t *)sorted[i];

		for (k = i; k < count && sorted[k] == sorted[i]; k++)
			;
		if (words == gr__empty_words)
			continue;
		leaves++;
		check(gr__leaf_of(words)->slots == k - i);
	}
	free(sorted);
	return count * sizeof(uint64_t) + leaves * sizeof(struct gr__leaf);
}

void world_check(struct world *world, bool thorough)
{
	struct gr_ram_stats stats = stats_of(world->ram);
	uint64_t ranges = 0, index_bytes = 0, range_bytes = 0, bytes = 0;
	unsigned at, i, mapped;

	for (at = 0; at < SPACES; at++) {
		struct listing listing = {world, &world->models[at], 0, at};

		ranges += world->models[at].count;
		probe_places(world, at);
		if (!thorough)
			continue;
		model_sort(&world->models[at]);
		gr_read_begin();
		gr_space_each_range(world->spaces[at], compare_range, &listing);
		gr_read_end();
		check(listing.count == world->models[at].count);
		check_words(world, at);
		index_bytes += check_inside(world, at, &range_bytes);
	}
	at = SPACES;
	for (i = 0; i < BLOCKS; i++) {
		struct gr_block_info info = info_of(world->blocks[i].block);

		mapped = model_mapped(&world->models[0], &world->blocks[i]) +
			 model_mapped(&world->models[1], &world->blocks[i]);
		check(info.mapped == mapped);
		check(info.length == world->blocks[i].used);
		bytes += info.length;
	}
	check(stats.ranges == ranges);
	check(stats.bytes == bytes && stats.blocks == BLOCKS && stats.spaces == SPACES);
	if (thorough)
		check(stats.index_bytes == index_bytes && stats.range_bytes == range_bytes);
}
