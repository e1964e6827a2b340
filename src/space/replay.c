/* SPDX-License-Identifier: MIT */
/*
 * Opening and closing listeners.
 *
 * A listener that is opened is told the state as it was at one moment, with no lock held, then what
 * has changed since, and so on until nothing has: then, under the lock, it joins the list. The
 * views and blocks it is told of are kept by one read section around all that; only lengths and
 * bits of granules are copied. Changes that are being told to others at that moment find it in the
 * list before they publish, and tell it too (space/change.c).
 *
 * That section keeps all that is replaced meanwhile, so there is a bound: who cannot catch up, for
 * others change without a pause or it does so itself at each thing it is told, gets -EBUSY.
 */
#include "space/replay.h"
#include "base/error.h"
#include "os/alloc.h"
#include "ram/directory.h"
#include "space/space.h"
#include <errno.h>
#include <string.h>

/* How often a listener that opens looks for what has changed meanwhile. */
#define ROUNDS 1000

/* What changes of a block while it is there. */
struct state {
	uint64_t length;
	const struct gr__granules *granules; /* open ones, or NULL */
	uint64_t version;
	uint64_t *plugged; /* a copy of the bits */
};

/* A RAM's state at one moment: a directory, the state of each of its blocks, and the view of each
 * space in order of opening. */
struct moment {
	const struct gr__directory *directory;
	struct state *states;
	struct gr_space **spaces;
	const struct gr__view **views;
	size_t count;
};

static void moment_fini(struct moment *moment)
{
	size_t i;

	for (i = 0; moment->states && i < moment->directory->count; i++)
		gr__free(moment->states[i].plugged);
	gr__free(moment->states);
	gr__free(moment->spaces);
	gr__free(moment->views);
	memset(moment, 0, sizeof(*moment));
}

static size_t words_of(const struct gr__granules *granules)
{
	return (granules->count + 63) / 64;
}

/* Lock held. */
static int state_take(const struct gr_block *block, struct state *state)
{
	const struct gr__granules *granules = gr__block_open_granules(block);

	state->length = block->length;
	if (!granules)
		return 0;
	state->plugged = gr__alloc_array(words_of(granules), sizeof(uint64_t));
	if (!state->plugged)
		return -ENOMEM;
	memcpy(state->plugged, granules->plugged, words_of(granules) * sizeof(uint64_t));
	state->granules = granules;
	state->version = granules->version;
	return 0;
}

static int take_all(struct gr_ram *ram, struct moment *moment)
{
	struct gr__space *space;
	size_t i;
	int rc = 0;

	moment->directory = ram->directory;
	if (ram->directory->count) {
		moment->states = gr__alloc_array(ram->directory->count, sizeof(*moment->states));
		if (!moment->states)
			return -ENOMEM;
	}
	for (i = 0; i < ram->directory->count && !rc; i++)
		rc = state_take(ram->directory->by_offset[i], &moment->states[i]);
	if (rc < 0 || !ram->space_count)
		return rc;
	moment->spaces = gr__alloc_array(ram->space_count, sizeof(struct gr_space *));
	moment->views = gr__alloc_array(ram->space_count, sizeof(struct gr__view *));
	if (!moment->spaces || !moment->views)
		return -ENOMEM;
	cds_list_for_each_entry (space, &ram->spaces, node) {
		moment->spaces[moment->count] = &space->read;
		moment->views[moment->count++] = gr__space_current(space);
	}
	return 0;
}

/* Lock held, in a read section. */
static int moment_take(struct gr_ram *ram, struct moment *moment)
{
	memset(moment, 0, sizeof(*moment));
	if (take_all(ram, moment) < 0) {
		moment_fini(moment);
		return gr__fail(-ENOMEM, "listener: no memory");
	}
	return 0;
}

static bool is_same(const struct moment *a, const struct moment *b)
{
	size_t i;

	if (a->directory != b->directory || a->count != b->count)
		return false;
	for (i = 0; i < a->directory->count; i++)
		if (a->states[i].length != b->states[i].length ||
		    a->states[i].granules != b->states[i].granules ||
		    a->states[i].version != b->states[i].version)
			return false;
	return !a->count || (!memcmp(a->spaces, b->spaces, a->count * sizeof(struct gr_space *)) &&
			     !memcmp(a->views, b->views, a->count * sizeof(struct gr__view *)));
}

struct adder {
	struct gr__event_list *list;
	struct gr_space *space;
};

static int add_range(void *context, uint64_t first, const struct gr__range *range)
{
	const struct adder *adder = context;
	struct gr__event event = {.kind = GR__EVENT_RANGE, .space = adder->space};

	gr__range_describe(first, range, &event.range);
	return gr__event_add(adder->list, &event);
}

/* Ranges of @from that are not in @to, into @list. */
static int add_ranges(const struct moment *from, const struct moment *to,
		      struct gr__event_list *list)
{
	size_t i, k;
	int rc = 0;

	for (i = 0; i < from->count && !rc; i++) {
		struct adder adder = {list, from->spaces[i]};
		const struct gr__view *other = NULL;

		for (k = 0; k < to->count; k++)
			if (to->spaces[k] == from->spaces[i])
				other = to->views[k];
		rc = gr__view_diff(other, from->views[i], 0, UINT64_MAX, NULL, add_range, &adder);
	}
	return rc;
}

/* Blocks of @from that are not in @to, into @list. Both are sorted by RAM offset. */
static int add_blocks(const struct gr__directory *from, const struct gr__directory *to,
		      struct gr__event_list *list)
{
	size_t i, k = 0;
	int rc = 0;

	for (i = 0; from && i < from->count && !rc; i++) {
		struct gr__event event = {.block = from->by_offset[i]};

		while (to && k < to->count &&
		       to->by_offset[k]->ram_offset < event.block->ram_offset)
			k++;
		if (to && k < to->count && to->by_offset[k] == event.block)
			continue;
		rc = gr__event_add(list, &event);
	}
	return rc;
}

/* Plugged runs of @from that are not plugged in @to (may be NULL), into @list. */
static int add_runs(struct gr_block *block, const struct state *from, const struct state *to,
		    struct gr__event_list *list)
{
	const struct gr__granules *granules = from->granules;
	struct gr__run run = {0, 0};
	uint64_t *bits;
	size_t i;
	int rc = 0;

	if (!granules)
		return 0;
	bits = gr__alloc_array(words_of(granules), sizeof(uint64_t));
	if (!bits)
		return gr__fail(-ENOMEM, "listener: no memory");
	for (i = 0; i < words_of(granules); i++)
		bits[i] = from->plugged[i] &
			  ~(to && to->granules == granules ? to->plugged[i] : UINT64_C(0));
	while (!rc &&
	       gr__granules_next(granules, bits, granules->count * granules->granule, &run)) {
		struct gr__event event = {
			.kind = GR__EVENT_GRANULES,
			.block = block,
			.offset = run.offset,
			.length = run.length,
		};

		rc = gr__event_add(list, &event);
	}
	gr__free(bits);
	return rc;
}

/* Granules of @from that are not plugged in @to, into @list; and lengths where @lengths. */
static int add_states(const struct moment *from, const struct moment *to, bool lengths,
		      struct gr__event_list *list)
{
	size_t from_count = from->directory ? from->directory->count : 0, i, k = 0;
	size_t to_count = to->directory ? to->directory->count : 0;
	int rc = 0;

	for (i = 0; i < from_count && !rc; i++) {
		struct gr_block *block = from->directory->by_offset[i];
		const struct state *other = NULL;

		while (k < to_count && to->directory->by_offset[k]->ram_offset < block->ram_offset)
			k++;
		if (k < to_count && to->directory->by_offset[k] == block)
			other = &to->states[k];
		if (lengths && other && other->length != from->states[i].length) {
			struct gr__event event = {
				.kind = GR__EVENT_LENGTH,
				.block = block,
				.length = other->length,
			};

			rc = gr__event_add(list, &event);
		}
		if (!rc)
			rc = add_runs(block, &from->states[i], other, list);
	}
	return rc;
}

static int collect(const struct moment *from, const struct moment *to, struct gr__events *events)
{
	int rc = add_ranges(from, to, &events->down);

	if (!rc)
		rc = add_states(from, to, false, &events->down);
	if (!rc)
		rc = add_blocks(from->directory, to->directory, &events->down);
	if (!rc)
		rc = add_blocks(to->directory, from->directory, &events->up);
	if (!rc)
		rc = add_states(to, from, true, &events->up);
	if (!rc)
		rc = add_ranges(to, from, &events->up);
	return rc;
}

/* Bring @listener from one moment to another. */
static int tell_difference(struct gr_listener *listener, const struct moment *from,
			   const struct moment *to)
{
	struct gr__audience audience = {&listener, 1};
	struct gr__events events = {.forced = false};
	int rc = collect(from, to, &events);

	if (!rc)
		rc = gr__audience_tell(&audience, &events);
	gr__events_fini(&events);
	return rc;
}

int gr__collect_all(struct gr_ram *ram, struct gr__events *events)
{
	struct moment now, nothing = {NULL, NULL, NULL, NULL, 0};
	int rc = moment_take(ram, &now);

	if (!rc)
		rc = collect(&now, &nothing, events);
	moment_fini(&now);
	return rc;
}

int gr_listener_open(struct gr_ram *ram, const struct gr_listener_ops *ops, void *context,
		     int priority, struct gr_listener **result)
{
	struct moment told = {NULL, NULL, NULL, NULL, 0}, now,
		      nothing = {NULL, NULL, NULL, NULL, 0};
	struct gr_listener *listener;
	unsigned rounds = 0;
	bool joined = false;
	int rc = gr__ram_check(ram, "listener");

	if (rc < 0)
		return rc;
	if (!ops || !result)
		return gr__fail(-EINVAL, "listener: no operations or no place for the result");
	listener = gr__alloc(sizeof(*listener));
	if (!listener)
		return gr__fail(-ENOMEM, "listener: no memory");
	listener->ram = ram;
	listener->ops = ops;
	listener->context = context;
	listener->priority = priority;

	gr_read_begin();
	do {
		pthread_mutex_lock(&ram->lock);
		rc = gr__ram_check_open(ram);
		if (!rc)
			rc = moment_take(ram, &now);
		joined = !rc && is_same(&told, &now);
		if (joined)
			gr__listener_insert(listener);
		pthread_mutex_unlock(&ram->lock);
		if (rc < 0)
			break;
		if (!joined && ++rounds > ROUNDS)
			rc = gr__fail(-EBUSY,
				      "listener: others have changed the RAM %u times "
				      "without a pause while it was told what there is",
				      ROUNDS);
		else if (!joined)
			rc = tell_difference(listener, &told, &now);
		if (rc < 0) {
			moment_fini(&now);
			break;
		}
		moment_fini(&told);
		told = now;
	} while (!joined);
	if (rc < 0 && tell_difference(listener, &told, &nothing) < 0)
		gr__ram_log(ram, GR_LOG_WARNING,
			    "no memory to tell a refused listener what it no longer has");
	moment_fini(&told);
	gr_read_end();

	if (rc < 0) {
		gr__free(listener);
		return rc;
	}
	*result = listener;
	return 0;
}

int gr_listener_close(struct gr_listener *listener)
{
	struct gr__audience audience = {&listener, 1};
	struct gr__events events = {.forced = false};
	struct gr_ram *ram;
	int rc;

	if (!listener)
		return 0;
	ram = listener->ram;
	rc = gr__ram_check(ram, "listener close");
	if (!rc)
		rc = gr__may_wait("listener close");
	if (rc < 0)
		return rc;

	/* When no change is telling it, what it was told is what is published. */
	for (;;) {
		pthread_mutex_lock(&ram->lock);
		while (listener->users)
			pthread_cond_wait(&ram->reclaimed, &ram->lock);
		pthread_mutex_unlock(&ram->lock);
		gr_read_begin(); /* not around the wait, nor under the lock */
		pthread_mutex_lock(&ram->lock);
		if (!listener->users)
			break;
		pthread_mutex_unlock(&ram->lock);
		gr_read_end();
	}
	rc = gr__collect_all(ram, &events);
	if (!rc)
		cds_list_del(&listener->node);
	pthread_mutex_unlock(&ram->lock);
	if (!rc)
		gr__audience_tell(&audience, &events);
	gr__events_fini(&events);
	gr_read_end();
	if (!rc)
		gr__free(listener);
	return rc;
}
