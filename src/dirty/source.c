/* SPDX-License-Identifier: MIT */
/* Sources: what knows of writes beside our own marks. Threads and locks in dirty.h. */
#include "base/error.h"
#include "dirty/dirty.h"
#include "os/alloc.h"
#include <errno.h>

/* Lock held. */
static int add_blocks(struct gr__dirty_state *state, struct gr_dirty_source *source)
{
	struct gr__tracked *tracked, *told;
	int rc = 0;

	if (!source->ops->added)
		return 0;
	cds_list_for_each_entry (tracked, &state->tracked, node) {
		rc = source->ops->added(source->context, tracked->block);
		if (rc < 0)
			break;
	}
	if (rc < 0 && source->ops->removed) {
		cds_list_for_each_entry (told, &state->tracked, node) {
			if (told == tracked)
				break;
			source->ops->removed(source->context, told->block);
		}
	}
	return rc;
}

int gr__source_open(struct gr_ram *ram, const struct gr_dirty_source_ops *ops, void *context,
		    void (*free_context)(void *context), struct gr_dirty_source **result)
{
	struct gr_dirty_source *source;
	struct gr__dirty_state *state;
	int rc = gr__ram_check(ram, "dirty source");

	if (rc < 0)
		return rc;
	if (!ops || !ops->collect)
		return gr__fail(-EINVAL, "dirty source: it has no collect");
	source = gr__alloc(sizeof(*source));
	if (!source)
		return gr__fail(-ENOMEM, "dirty source: no memory");
	source->ops = ops;
	source->context = context;
	source->free = free_context;
	rc = gr__dirty_state_get(ram, &state);
	if (rc < 0)
		goto free_source;
	source->state = state;
	pthread_mutex_lock(&state->lock);
	rc = add_blocks(state, source);
	if (!rc)
		cds_list_add_tail(&source->node, &state->sources);
	pthread_mutex_unlock(&state->lock);
	if (rc < 0)
		goto put_state;
	*result = source;
	return 0;

put_state:
	gr__dirty_state_put(state);
free_source:
	gr__free(source);
	return rc;
}

int gr_dirty_source_open(struct gr_ram *ram, const struct gr_dirty_source_ops *ops, void *context,
			 struct gr_dirty_source **source)
{
	return gr__source_open(ram, ops, context, NULL, source);
}

void gr_dirty_source_close(struct gr_dirty_source *source)
{
	struct gr__dirty_state *state;
	struct gr__tracked *tracked;

	if (!source)
		return;
	state = source->state;
	pthread_mutex_lock(&state->lock);
	/* what it knows now is not lost */
	cds_list_for_each_entry (tracked, &state->tracked, node) {
		struct gr_dirty_sink sink = {tracked};
		uint64_t length = gr__block_length(tracked->block);

		if (source->ops->collect(source->context, tracked->block, 0, length, &sink) < 0)
			gr_dirty_report(&sink, 0, length); /* all, to be safe */
		if (source->ops->removed)
			source->ops->removed(source->context, tracked->block);
	}
	cds_list_del(&source->node);
	pthread_mutex_unlock(&state->lock);
	if (source->free)
		source->free(source->context);
	gr__dirty_state_put(state);
	gr__free(source);
}
