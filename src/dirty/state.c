/* SPDX-License-Identifier: MIT */
/*
 * The dirty state of a RAM: which blocks there are, and the clients' bits of each. It learns of
 * blocks as a listener of the lowest priority, so that the bits of a block are there before anybody
 * else is told of it, and go after everybody else. Threads and locks in dirty.h.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/range.h"
#include "dirty/dirty.h"
#include "os/alloc.h"
#include <errno.h>
#include <limits.h>

/* One thread at a time makes a state. Taken with no other lock held. */
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

/* -------------------------------------------------------------------------------------- bits */

void gr__bits_set(struct gr__bits *bits, uint64_t offset, uint64_t length)
{
	unsigned shift = bits->client->shift;
	uint64_t first, at, last;

	if (!gr__range_last(offset, length, &last))
		return;
	last >>= shift;
	if (last >= bits->count)
		last = bits->count - 1;
	first = offset >> shift;
	for (at = first >> 6; first <= last && at <= last >> 6; at++)
		bits->words[at] |= gr__bits_mask(at, first, last);
}

struct gr__bits *gr__bits_find(struct gr__tracked *tracked, const struct gr_dirty *client)
{
	struct gr__bits *bits;

	cds_list_for_each_entry (bits, &tracked->bits, node)
		if (bits->client == client)
			return bits;
	return NULL;
}

static int add_bits(struct gr__tracked *tracked, struct gr_dirty *client)
{
	uint64_t granularity = UINT64_C(1) << client->shift;
	uint64_t length = tracked->block->mem.max_length;
	struct gr__bits *bits = gr__alloc(sizeof(*bits));

	if (!bits)
		goto no_memory;
	bits->client = client;
	bits->count = (length + granularity - 1) >> client->shift; /* below 2^63: no wrap */
	bits->words = gr__alloc_array((bits->count + 63) / 64, sizeof(uint64_t));
	if (!bits->words)
		goto no_memory;
	if (client->all)
		gr__bits_set(bits, 0, length);
	cds_list_add_tail(&bits->node, &tracked->bits);
	return 0;

no_memory:
	gr__free(bits);
	return gr__fail(-ENOMEM, "dirty: no memory for the bits of block %s", tracked->block->name);
}

static void free_bits(struct gr__bits *bits)
{
	cds_list_del(&bits->node);
	gr__free(bits->words);
	gr__free(bits);
}

int gr__bits_add(struct gr_dirty *client)
{
	struct gr__tracked *tracked;
	int rc = 0;

	cds_list_for_each_entry (tracked, &client->state->tracked, node) {
		rc = add_bits(tracked, client);
		if (rc < 0)
			break;
	}
	if (rc < 0)
		gr__bits_remove(client);
	return rc;
}

void gr__bits_remove(struct gr_dirty *client)
{
	struct gr__tracked *tracked;
	struct gr__bits *bits;

	cds_list_for_each_entry (tracked, &client->state->tracked, node) {
		bits = gr__bits_find(tracked, client);
		if (bits)
			free_bits(bits);
	}
}

/* ------------------------------------------------------------------------------------ blocks */

struct gr__tracked *gr__tracked_find(struct gr__dirty_state *state, const struct gr_block *block)
{
	struct gr__tracked *tracked;

	cds_list_for_each_entry (tracked, &state->tracked, node)
		if (tracked->block == block)
			return tracked;
	return NULL;
}

static void free_tracked(struct gr__tracked *tracked)
{
	struct gr__bits *bits, *next;

	cds_list_for_each_entry_safe (bits, next, &tracked->bits, node)
		free_bits(bits);
	gr__free(tracked);
}

/* Tell the sources up to @end (not included; NULL: all) that the block goes. Lock held. */
static void tell_removed(struct gr__dirty_state *state, struct gr_block *block,
			 const struct gr_dirty_source *end)
{
	struct gr_dirty_source *source;

	cds_list_for_each_entry (source, &state->sources, node) {
		if (source == end)
			break;
		if (source->ops->removed)
			source->ops->removed(source->context, block);
	}
}

/* Lock held. */
static int tell_added(struct gr__dirty_state *state, struct gr_block *block)
{
	struct gr_dirty_source *source;
	int rc;

	cds_list_for_each_entry (source, &state->sources, node) {
		rc = source->ops->added ? source->ops->added(source->context, block) : 0;
		if (rc < 0) {
			tell_removed(state, block, source);
			return rc;
		}
	}
	return 0;
}

/* Lock held. */
static int track(struct gr__dirty_state *state, struct gr_block *block)
{
	struct gr__tracked *tracked;
	struct gr_dirty *client;
	uintptr_t last = (uintptr_t)block->mem.host + (block->mem.max_length - 1);
	int rc = 0;

	if (!block->mem.host)
		return gr__fail(-ENOTSUP,
				"dirty: block %s is seen through windows: its writes cannot be "
				"noted",
				block->name);
	if (!gr__marks_reach(last))
		return gr__fail(-ERANGE, "dirty: block %s lies at %p, above what can be noted",
				block->name, block->mem.host);
	tracked = gr__alloc(sizeof(*tracked));
	if (!tracked)
		return gr__fail(-ENOMEM, "dirty: no memory to track block %s", block->name);
	tracked->block = block;
	tracked->id = state->next_id++;
	CDS_INIT_LIST_HEAD(&tracked->bits);
	cds_list_for_each_entry (client, &state->clients, node) {
		rc = add_bits(tracked, client);
		if (rc < 0)
			goto undo;
	}
	rc = tell_added(state, block);
	if (rc < 0)
		goto undo;
	/* marks of whoever had these addresses before */
	gr__marks_take(GR__MARK_SHIFT, block, 0, block->mem.max_length, NULL, NULL);
	gr__marks_take(GR__MARK_FINE_SHIFT, block, 0, block->mem.max_length, NULL, NULL);
	cds_list_add_tail(&tracked->node, &state->tracked);
	return 0;

undo:
	free_tracked(tracked);
	return rc;
}

static int on_added(void *context, struct gr_block *block)
{
	struct gr__dirty_state *state = context;
	int rc;

	pthread_mutex_lock(&state->lock);
	rc = track(state, block);
	pthread_mutex_unlock(&state->lock);
	return rc;
}

static void on_deleting(void *context, struct gr_block *block)
{
	struct gr__dirty_state *state = context;
	struct gr__tracked *tracked;

	pthread_mutex_lock(&state->lock);
	tracked = gr__tracked_find(state, block);
	if (tracked) {
		tell_removed(state, block, NULL);
		cds_list_del(&tracked->node);
		free_tracked(tracked);
	}
	pthread_mutex_unlock(&state->lock);
}

static void on_resized(void *context, struct gr_block *block, uint64_t old_length)
{
	struct gr__dirty_state *state = context;
	struct gr_dirty_source *source;

	pthread_mutex_lock(&state->lock);
	cds_list_for_each_entry (source, &state->sources, node)
		if (source->ops->resized && gr__tracked_find(state, block))
			source->ops->resized(source->context, block, old_length);
	pthread_mutex_unlock(&state->lock);
}

static const struct gr_listener_ops listener_ops = {
	.block_added = on_added,
	.block_deleting = on_deleting,
	.block_resized = on_resized,
};

/* ----------------------------------------------------------------------------- life of a state */

static void free_state(void *dirty)
{
	struct gr__dirty_state *state = dirty;

	pthread_mutex_destroy(&state->lock);
	gr__free(state);
}

/* `making` held. */
static int make_state(struct gr_ram *ram, struct gr__dirty_state **result)
{
	struct gr__dirty_state *state = gr__alloc(sizeof(*state));
	struct gr_listener *listener; /* ends with the RAM */
	int rc;

	if (!state)
		return gr__fail(-ENOMEM, "dirty: no memory");
	state->ram = ram;
	pthread_mutex_init(&state->lock, NULL);
	CDS_INIT_LIST_HEAD(&state->clients);
	CDS_INIT_LIST_HEAD(&state->sources);
	CDS_INIT_LIST_HEAD(&state->tracked);
	rc = gr_listener_open(ram, &listener_ops, state, INT_MIN, &listener);
	if (rc < 0) {
		free_state(state);
		return rc;
	}
	*result = state;
	return 0;
}

int gr__dirty_state_get(struct gr_ram *ram, struct gr__dirty_state **result)
{
	struct gr__dirty_state *state;
	int rc = 0;

	pthread_mutex_lock(&making);
	state = ram->dirty; /* written under `making` too */
	if (!state)
		rc = make_state(ram, &state);
	if (!rc) {
		pthread_mutex_lock(&ram->lock);
		ram->dirty = state;
		ram->dirty_free = free_state;
		ram->holders++;
		pthread_mutex_unlock(&ram->lock);
		*result = state;
	}
	pthread_mutex_unlock(&making);
	return rc;
}

void gr__dirty_state_put(struct gr__dirty_state *state)
{
	struct gr_ram *ram = state->ram;

	pthread_mutex_lock(&ram->lock);
	ram->holders--;
	pthread_mutex_unlock(&ram->lock);
}
