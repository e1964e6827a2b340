/* SPDX-License-Identifier: MIT */
/*
 * How a change is made.
 *
 * Nobody listens:  lock ─ build ─ publish ─ unlock.
 * Listeners:       lock ─ build (to check it and to know its events) ─ claim ─ unlock
 *                       ─ tell the events; one may refuse ─
 *                  lock ─ build again, on what is current now ─ publish ─ release the claim ─
 * unlock ─ tell that it is committed.
 *
 * Callbacks run with no lock held, so that they may change things themselves and so that a listener
 * that waits for a lock of its own cannot block other writers. In exchange other changes can happen
 * in between. The claim keeps them apart: it covers the addresses, and every whole range, whose
 * removal or addition is being told; a change that touches claimed addresses gets -EBUSY instead of
 * waiting, since the claim's holder may be waiting for it. So what is told once stays true until it
 * is published, and additions and removals of one range never overtake each other. A claim without
 * addresses stays until all are told that it is committed, so that the space stays open; so does
 * the count in ram->changes, so that the RAM does. Blocks are kept by `busy` (deleted or resized by
 * this change) and `users` (mapped by this change).
 *
 * A listener that is opened in between has replayed the state without this change: the loop tells
 * it too before it publishes. All memory is had before the first step that shows.
 */
#include "space/change.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "os/probe.h"
#include "ram/claims.h"
#include "ram/directory.h"
#include "ram/listener.h"
#include "ram/reclaim.h"
#include "space/builder.h"
#include "space/windows.h"
#include <errno.h>
#include <string.h>

/* The edits of one space. */
struct part {
	struct gr__space *space;
	struct gr__op op; /* for changes of a block; of granules: run.granule_ops */
	const struct gr__op *ops;
	size_t op_count;
	bool close;
	struct gr__builder builder;
	struct gr__claim claim;
	uint64_t generation; /* as published */
};

struct run {
	struct gr__change *change;
	struct part *parts;
	size_t part_count;
	struct part single;	    /* the usual case needs no memory */
	struct gr__op *granule_ops; /* one for each window */
	struct gr__directory *directory;
	struct gr__events events;
	struct gr__audience told;
	bool counted; /* in ram->changes */
	bool published;
	uint64_t old_length; /* of change->resize, then */
};

/* ------------------------------------------------------------------------------ building */

static int check_block(const struct gr_block *block)
{
	if (block->busy)
		return gr__fail(-EBUSY, "block %s: it is being resized or deleted", block->name);
	if (!block->live)
		return gr__fail(-EBUSY, "block %s: it is not published yet", block->name);
	return 0;
}

static int apply_op(struct gr__builder *builder, const struct gr__op *op, bool check)
{
	bool found = false;
	int rc;

	switch (op->kind) {
	case GR__OP_MAP:
		rc = check ? check_block(op->block) : 0;
		if (rc < 0)
			return rc;
		return gr__builder_map(builder, op->first, op->block, op->offset,
				       op->last - op->first + 1, op->access);
	case GR__OP_UNMAP:
		rc = gr__builder_unmap(builder, op->first, op->last, &found);
		if (!rc && !found && op->hole_is_error)
			return gr__fail(-ENOENT, "space %s: nothing is mapped in [%#llx, %#llx]",
					builder->space->name, (unsigned long long)op->first,
					(unsigned long long)op->last);
		return rc;
	case GR__OP_UNMAP_BLOCK:
		return gr__builder_unmap_block(builder, op->block);
	case GR__OP_RESIZE:
		return gr__builder_resize(builder, op->block, op->length);
	case GR__OP_WINDOW_OPEN:
		return gr__window_show(builder, op->window);
	case GR__OP_WINDOW_CLOSE:
		return gr__window_hide(builder, op->window);
	case GR__OP_GRANULES:
		return gr__window_change(builder, op->window, op->granules);
	}
	return -EINVAL;
}

/*
 * What a change keeps others from: all it touches, and all that its ops name, holes too, since a
 * range that came into a hole before an unmap is published would leave with it, untold. False: op
 * without such addresses.
 */
static bool needs_claim(const struct part *part, size_t index, struct gr__interval *interval)
{
	const struct gr__op *op;

	if (index < part->builder.touched_count) {
		*interval = part->builder.touched[index];
		return true;
	}
	op = &part->ops[index - part->builder.touched_count];
	*interval = (struct gr__interval){op->first, op->last};
	return op->kind == GR__OP_MAP || op->kind == GR__OP_UNMAP ||
	       op->kind == GR__OP_WINDOW_OPEN || op->kind == GR__OP_WINDOW_CLOSE;
}

static bool is_claimed(const struct gr__claim *claim, const struct gr__interval *interval)
{
	size_t i;

	for (i = 0; i < claim->count; i++)
		if (gr__ranges_overlap(claim->intervals[i].first, claim->intervals[i].last,
				       interval->first, interval->last))
			return true;
	return false;
}

/* Of what its ops name and, once it is built, of what it touches. */
static int check_claims(const struct part *part)
{
	size_t count = part->builder.touched_count + part->op_count, i;
	const struct gr__claim *claim;
	struct gr__interval interval;

	if (cds_list_empty(&part->space->claims))
		return 0;
	for (i = 0; i < count; i++) {
		if (!needs_claim(part, i, &interval))
			continue;
		cds_list_for_each_entry (claim, &part->space->claims, node) {
			if (is_claimed(claim, &interval))
				return gr__fail(-EBUSY,
						"space %s: addresses in [%#llx, %#llx] are being "
						"changed",
						part->space->name,
						(unsigned long long)interval.first,
						(unsigned long long)interval.last);
		}
	}
	return 0;
}

/* What is to be known before anything is built: "overlaps" or "nothing is mapped there" may be so
 * only for the time being, while others are being told. */
static int check_part(const struct part *part)
{
	size_t i;
	int rc = 0;

	if (part->space->closing)
		return gr__fail(-EBUSY, "space %s: it is being closed", part->space->name);
	rc = check_claims(part);
	if (cds_list_empty(&part->space->windows))
		return rc;
	for (i = 0; i < part->op_count && !rc; i++)
		if (part->ops[i].kind == GR__OP_MAP || part->ops[i].kind == GR__OP_UNMAP ||
		    part->ops[i].kind == GR__OP_WINDOW_OPEN)
			rc = gr__windows_check(part->space, &part->ops[i]);
	return rc;
}

/* Lock held. @check is false when this change holds its claims already. */
static int build_part(struct part *part, bool check)
{
	size_t i;
	int rc;

	rc = check ? check_part(part) : 0;
	if (!rc)
		rc = gr__builder_begin(&part->builder, part->space);
	for (i = 0; i < part->op_count && !rc; i++)
		rc = apply_op(&part->builder, &part->ops[i], check);
	if (!rc && (part->builder.touched_count || part->close))
		rc = gr__builder_finish(&part->builder);
	if (!rc && check)
		rc = check_claims(part);
	return rc;
}

static void abandon(struct run *run)
{
	size_t i;

	for (i = 0; i < run->part_count; i++)
		gr__builder_abandon(&run->parts[i].builder);
	gr__directory_free(run->directory);
	run->directory = NULL;
}

static int build(struct run *run, bool check)
{
	struct gr__change *change = run->change;
	size_t i;
	int rc = 0;

	if (change->add || change->remove) {
		run->directory =
			gr__directory_edit(change->ram->directory, change->add, change->remove);
		if (!run->directory)
			return gr__fail(-ENOMEM, "block: no memory for the directory");
	}
	for (i = 0; i < run->part_count && !rc; i++)
		rc = build_part(&run->parts[i], check);
	if (rc < 0)
		abandon(run);
	return rc;
}

/* A part for each space that shows some of the granules in a window, with an op for each window. */
static int collect_windows(struct run *run)
{
	const struct gr__granule_change *granules = run->change->granules;
	struct cds_list_head *windows = &granules->block->granules->windows;
	struct gr_ram *ram = run->change->ram;
	struct gr__window *window;
	struct gr__space *space;
	size_t count = 0, spaces = 0;

	cds_list_for_each_entry (window, windows, in_granules)
		count++;
	if (!count)
		return 0;
	run->granule_ops = gr__alloc_array(count, sizeof(*run->granule_ops));
	spaces = count < ram->space_count ? count : ram->space_count;
	run->parts = gr__alloc_array(spaces, sizeof(*run->parts));
	if (!run->granule_ops || !run->parts)
		return gr__fail(-ENOMEM, "block %s: no memory for a change of granules",
				granules->block->name);
	count = 0;
	cds_list_for_each_entry (space, &ram->spaces, node) {
		struct part *part = &run->parts[run->part_count];

		part->ops = &run->granule_ops[count];
		cds_list_for_each_entry (window, windows, in_granules) {
			if (window->space != space)
				continue;
			run->granule_ops[count++] = (struct gr__op){
				.kind = GR__OP_GRANULES,
				.window = window,
				.granules = granules,
			};
			part->op_count++;
		}
		if (!part->op_count)
			continue;
		part->space = space;
		run->part_count++;
		if (run->part_count == spaces)
			break;
	}
	return 0;
}

/* A part for each space there is, for a block that @op is about. */
static int collect_spaces(struct run *run, const struct gr__op *op)
{
	struct gr__change *change = run->change;
	struct gr__space *space;

	run->parts = gr__alloc_array(change->ram->space_count, sizeof(*run->parts));
	if (!run->parts)
		return gr__fail(-ENOMEM, "block %s: no memory for a change", op->block->name);
	cds_list_for_each_entry (space, &change->ram->spaces, node) {
		struct part *part = &run->parts[run->part_count++];

		part->space = space;
		part->op = *op;
		part->ops = &part->op;
		part->op_count = 1;
	}
	return 0;
}

/* Which spaces the change edits. */
static int collect_parts(struct run *run)
{
	struct gr__change *change = run->change;
	struct gr_block *block = change->remove ? change->remove : change->resize;
	const struct gr__op op = {
		.kind = change->remove ? GR__OP_UNMAP_BLOCK : GR__OP_RESIZE,
		.block = block,
		.length = change->length,
	};

	if (change->granules)
		return collect_windows(run);
	if (change->space) {
		run->parts = &run->single;
		run->part_count = 1;
		run->single.space = change->space;
		run->single.ops = change->ops;
		run->single.op_count = change->op_count;
		run->single.close = change->close;
		return 0;
	}
	return block && block->mapped ? collect_spaces(run, &op) : 0;
}

/* ----------------------------------------------------------------------------- publishing */

/* Tell tracers what is published. Lock held. */
static void probe_ops(const struct part *part)
{
	size_t i;

	for (i = 0; i < part->op_count; i++) {
		const struct gr__op *op = &part->ops[i];

		if (op->kind == GR__OP_MAP)
			GR_PROBE6(map, part->space->name, op->first, op->last, op->block->name,
				  op->offset, op->access);
		else if (op->kind == GR__OP_UNMAP)
			GR_PROBE3(unmap, part->space->name, op->first, op->last);
	}
}

/* The bits first: whoever sees a range of plugged granules can pin them. Lock held. */
static void publish_granules(const struct gr__granule_change *change)
{
	struct gr__granules *granules = change->block->granules;
	uint64_t bytes = granules->bytes;
	size_t i;

	for (i = 0; i < change->run_count; i++) {
		gr__granules_mark(granules, granules->plugged, change->runs[i], change->plug);
		gr__granules_mark(granules, granules->pinnable, change->runs[i], change->plug);
		bytes += change->plug ? change->runs[i].length : -change->runs[i].length;
	}
	/* relaxed: for gr_plug_bytes() */
	__atomic_store_n(&granules->bytes, bytes, __ATOMIC_RELAXED);
	granules->version++;
}

/* Lock held. */
static void publish_windows(const struct part *part)
{
	struct gr__window *window;
	size_t i;

	for (i = 0; i < part->op_count; i++) {
		window = part->ops[i].window;
		if (part->ops[i].kind == GR__OP_WINDOW_OPEN) {
			cds_list_add_tail(&window->in_space, &part->space->windows);
			cds_list_add_tail(&window->in_granules, &window->block->granules->windows);
		} else if (part->ops[i].kind == GR__OP_WINDOW_CLOSE) {
			cds_list_del(&window->in_space);
			cds_list_del(&window->in_granules);
		}
	}
}

/* Lock held; everything is built. Cannot fail. */
static void publish(struct run *run)
{
	struct gr__change *change = run->change;
	struct gr_ram *ram = change->ram;
	size_t i;

	run->published = true;
	if (change->granules)
		publish_granules(change->granules);
	for (i = 0; i < run->part_count; i++) {
		struct part *part = &run->parts[i];

		publish_windows(part);
		if (!part->builder.view) {
			gr__builder_abandon(&part->builder); /* nothing to change in it */
			continue;
		}
		gr__builder_publish(&part->builder);
		probe_ops(part);
		if (!change->close) /* nobody is told of a space that is gone */
			part->generation = ram->generation;
	}
	if (run->directory)
		gr__directory_publish(ram, run->directory);
	run->directory = NULL;
	if (change->add) {
		/* it leaves ram->reserved at once: another thread may find and delete it */
		cds_list_del(&change->add->node);
		change->add->live = true;
		ram->bytes += change->add->length;
		ram->bytes_reserved += change->add->mem.max_length;
	}
	if (change->remove) {
		GR_PROBE3(delete, ram, change->remove->name, change->remove->mem.max_length);
		change->remove->live = false;
		gr__claims_drop(change->remove);
		ram->bytes -= change->remove->length;
		ram->bytes_reserved -= change->remove->mem.max_length;
		gr__block_reclaim_later(change->remove);
	}
	if (change->resize) {
		GR_PROBE4(resize, ram, change->resize->name, change->resize->length,
			  change->length);
		run->old_length = change->resize->length;
		ram->bytes += change->length - change->resize->length;
		/* relaxed: see gr__block_length() */
		__atomic_store_n(&change->resize->length, change->length, __ATOMIC_RELAXED);
	}
	if (change->close) {
		cds_list_del(&change->space->node);
		ram->space_count--;
		ram->index_bytes -= change->space->index_bytes;
		ram->range_bytes -= change->space->range_bytes;
		gr__retire(ram, (struct gr__garbage *)&gr__space_current(change->space)->garbage);
		gr__retire(ram, &change->space->garbage);
	}
}

/* ------------------------------------------------------------------------------ announcing */

struct event_adder {
	struct gr__event_list *down, *up;
	struct gr_space *space;
};

static int add_gone(void *context, uint64_t first, const struct gr__range *range)
{
	struct event_adder *adder = context;
	struct gr__event event = {.kind = GR__EVENT_RANGE, .space = adder->space};

	gr__range_describe(first, range, &event.range);
	return gr__event_add(adder->down, &event);
}

static int add_came(void *context, uint64_t first, const struct gr__range *range)
{
	struct event_adder *adder = context;
	struct gr__event event = {.kind = GR__EVENT_RANGE, .space = adder->space};

	gr__range_describe(first, range, &event.range);
	return gr__event_add(adder->up, &event);
}

static void reverse(struct gr__event_list *list)
{
	size_t i;

	for (i = 0; i < list->count / 2; i++) {
		struct gr__event other = list->events[i];

		list->events[i] = list->events[list->count - 1 - i];
		list->events[list->count - 1 - i] = other;
	}
}

static int add_granules(const struct gr__granule_change *change, struct gr__events *events)
{
	size_t i;
	int rc = 0;

	for (i = 0; i < change->run_count && !rc; i++) {
		const struct gr__event event = {
			.kind = GR__EVENT_GRANULES,
			.block = change->block,
			.offset = change->runs[i].offset,
			.length = change->runs[i].length,
		};

		rc = gr__event_add(change->plug ? &events->up : &events->ask, &event);
	}
	return rc;
}

/* What listeners are to be told: ranges leave before their blocks, and come after them. */
static int collect_events(struct run *run)
{
	struct gr__change *change = run->change;
	struct gr__event block = {.block = change->add ? change->add : change->remove};
	size_t i, k;
	int rc = change->add ? gr__event_add(&run->events.up, &block) : 0;

	run->events.forced = change->undo;
	if (change->granules)
		rc = add_granules(change->granules, &run->events);
	for (i = 0; i < run->part_count; i++) {
		struct gr__builder *builder = &run->parts[i].builder;
		struct event_adder adder = {&run->events.down, &run->events.up,
					    &builder->space->read};

		for (k = 0; k < builder->touched_count && !rc; k++)
			rc = gr__view_diff(builder->base, builder->view, builder->touched[k].first,
					   builder->touched[k].last, add_gone, add_came, &adder);
	}
	reverse(&run->events.down);
	if (!rc && change->remove)
		rc = gr__event_add(&run->events.down, &block);
	return rc;
}

static int copy_claims(struct run *run)
{
	size_t i, k;

	for (i = 0; i < run->part_count; i++) {
		struct part *part = &run->parts[i];
		size_t count = part->builder.touched_count + part->op_count;
		struct gr__claim *claim = &part->claim;

		claim->intervals = gr__alloc_array(count, sizeof(struct gr__interval));
		if (!claim->intervals)
			return gr__fail(-ENOMEM, "space %s: no memory for a claim",
					part->space->name);
		for (k = 0; k < count; k++)
			if (needs_claim(part, k, &claim->intervals[claim->count]))
				claim->count++;
	}
	return 0;
}

/* Keep (or no longer) what the change is about while no lock is held. Lock held now. */
static void hold(struct run *run, bool on)
{
	struct gr__change *change = run->change;
	struct gr_block *busy = change->remove ? change->remove : change->resize;
	size_t i, k;

	for (i = 0; i < run->part_count; i++) {
		struct part *part = &run->parts[i];

		if (on)
			cds_list_add(&part->claim.node, &part->space->claims);
		else if (part->generation) /* it covers no address now, but keeps the space */
			part->claim.count = 0;
		else
			cds_list_del(&part->claim.node);
		for (k = 0; k < part->op_count; k++) {
			if (part->ops[k].kind != GR__OP_MAP)
				continue;
			if (on)
				part->ops[k].block->users++;
			else
				part->ops[k].block->users--;
		}
	}
	if (busy && !change->resize) /* who resizes holds it longer than this */
		busy->busy = on;
	if (change->close)
		change->space->closing = on;
}

/* From the first word to listeners to the last one gr_ram_close() refuses. Lock held. */
static void count_change(struct run *run, bool on)
{
	if (run->counted == on)
		return;
	run->counted = on;
	if (on)
		run->change->ram->changes++;
	else
		run->change->ram->changes--;
}

/* Tell everybody who listens by now. Lock held, dropped meanwhile. */
static int tell_all(struct run *run)
{
	struct gr_ram *ram = run->change->ram;
	struct gr__audience more = {NULL, 0};
	int rc;

	for (;;) {
		rc = gr__audience_take(ram, &run->told, &more);
		if (rc < 0 || !more.count)
			return rc;
		pthread_mutex_unlock(&ram->lock);
		rc = gr__audience_tell(&more, &run->events);
		pthread_mutex_lock(&ram->lock);
		if (!rc) {
			rc = gr__audience_merge(&run->told, &more);
			if (rc < 0) {
				pthread_mutex_unlock(&ram->lock);
				gr__audience_tell_back(&more, &run->events);
				pthread_mutex_lock(&ram->lock);
			}
		}
		if (rc < 0) {
			gr__audience_drop(ram, &more);
			return rc;
		}
	}
}

/* Built and checked; lock held, dropped meanwhile. */
static int announce_and_publish(struct run *run)
{
	struct gr_ram *ram = run->change->ram;
	int rc = collect_events(run);

	if (!rc)
		rc = copy_claims(run);
	abandon(run);
	if (rc < 0)
		return rc;
	hold(run, true);
	count_change(run, true);
	GR_POINT("change.claimed");
	run->change->told = true;
	rc = tell_all(run);
	if (!rc)
		rc = build(run, false);
	if (!rc) {
		publish(run);
	} else {
		pthread_mutex_unlock(&ram->lock);
		gr__audience_tell_back(&run->told, &run->events);
		pthread_mutex_lock(&ram->lock);
	}
	hold(run, false);
	return rc;
}

static void tell_committed(struct run *run)
{
	struct gr_ram *ram = run->change->ram;
	size_t i;

	for (i = 0; i < run->part_count; i++)
		if (run->parts[i].generation)
			gr__audience_tell_committed(&run->told, &run->parts[i].space->read,
						    run->parts[i].generation);
	if (run->published && run->change->resize)
		gr__audience_tell_resized(&run->told, run->change->resize, run->old_length);
	pthread_mutex_lock(&ram->lock);
	for (i = 0; i < run->part_count; i++)
		if (run->parts[i].generation)
			cds_list_del(&run->parts[i].claim.node);
	gr__audience_drop(ram, &run->told);
	count_change(run, false);
	pthread_mutex_unlock(&ram->lock);
}

/* ------------------------------------------------------------------------------------ run */

/* Lock held. */
static int check_change(const struct gr__change *change)
{
	const struct gr_block *block = change->remove ? change->remove : change->resize;

	int rc = gr__ram_check_open(change->ram);

	if (rc < 0)
		return rc;
	if (change->close && change->space->txns)
		return gr__fail(-EBUSY, "space %s: a transaction is open", change->space->name);
	if (change->close && change->space->balloons)
		return gr__fail(-EBUSY, "space %s: a balloon is open", change->space->name);
	if (change->close && !cds_list_empty(&change->space->windows))
		return gr__fail(-EBUSY, "space %s: it has strict windows", change->space->name);
	if (change->close && !cds_list_empty(&change->space->claims))
		return gr__fail(-EBUSY, "space %s: another thread is changing it",
				change->space->name);
	if (!block || change->resize) /* the resizer holds `busy` itself */
		return 0;
	if (block->busy || block->users)
		return gr__fail(-EBUSY, "block %s: another thread is changing it", block->name);
	if (!block->live)
		return gr__fail(-EBUSY, "block %s: it is not published yet", block->name);
	if (gr__block_open_granules(block))
		return gr__fail(-EBUSY, "block %s: its granules are open", block->name);
	if (block->mapped && !(block->mem.flags & GR_DELETE_UNMAP))
		return gr__fail(-EBUSY, "block %s: it is mapped in %u ranges", block->name,
				block->mapped);
	return 0;
}

int gr__change_run(struct gr__change *change)
{
	struct gr_ram *ram = change->ram;
	struct run run = {.change = change};
	struct gr__garbage *surplus = NULL;
	size_t i;
	int rc;

	pthread_mutex_lock(&ram->lock);
	rc = check_change(change);
	if (!rc)
		rc = collect_parts(&run);
	if (!rc)
		rc = build(&run, true);
	if (!rc) {
		if (cds_list_empty(&ram->listeners))
			publish(&run);
		else
			rc = announce_and_publish(&run);
	}
	surplus = gr__retire_surplus(ram);
	if (rc < 0)
		gr__audience_drop(ram, &run.told);
	if (!run.told.count)
		count_change(&run, false);
	pthread_mutex_unlock(&ram->lock);
	GR_POINT("change.unlocked");

	if (run.told.count)
		tell_committed(&run);
	gr__retire_settle(ram, surplus);
	gr__events_fini(&run.events);
	for (i = 0; i < run.part_count; i++)
		gr__free(run.parts[i].claim.intervals);
	gr__free(run.granule_ops);
	if (run.parts != &run.single)
		gr__free(run.parts);
	return rc;
}
