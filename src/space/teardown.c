/* SPDX-License-Identifier: MIT */
/*
 * The end of a RAM. Nobody else may be using it, but sections may still be open, requests may have
 * ended a moment ago, and deletions may be queued.
 */
#include "base/error.h"
#include "os/alloc.h"
#include "ram/claims.h"
#include "ram/directory.h"
#include "ram/listener.h"
#include "ram/reclaim.h"
#include "ram/registry.h"
#include "space/replay.h"
#include "space/space.h"
#include <errno.h>

/* Lock held. */
static int check_idle(struct gr_ram *ram)
{
	const struct gr__directory *live = ram->directory;
	struct gr__space *space;
	uint64_t pins = gr__ram_pins(ram);
	size_t i;

	if (ram->closing)
		return gr__fail(-EBUSY, "RAM close: another thread is closing it");
	if (pins)
		return gr__fail(-EBUSY, "RAM close: %llu pins are held", (unsigned long long)pins);
	if (ram->holders)
		return gr__fail(-EBUSY, "RAM close: %u dirty clients or sources are open",
				ram->holders);
	if (ram->changes || !cds_list_empty(&ram->reserved))
		return gr__fail(-EBUSY, "RAM close: another thread is changing it");
	cds_list_for_each_entry (space, &ram->spaces, node) {
		if (space->txns)
			return gr__fail(-EBUSY, "RAM close: a transaction of space %s is open",
					space->name);
		if (space->balloons)
			return gr__fail(-EBUSY, "RAM close: a balloon of space %s is open",
					space->name);
	}
	for (i = 0; i < live->count; i++)
		if (gr__block_open_granules(live->by_offset[i]))
			return gr__fail(-EBUSY, "RAM close: granules of block %s are open",
					live->by_offset[i]->name);
	for (i = 0; i < live->count; i++)
		if (live->by_offset[i]->busy || live->by_offset[i]->users)
			return gr__fail(-EBUSY, "RAM close: another thread is changing block %s",
					live->by_offset[i]->name);
	return 0;
}

/* After the last reader. */
static void free_space(struct gr__space *space)
{
	struct gr__view *view = (struct gr__view *)gr__space_current(space);
	uint64_t i;

	for (i = 0; i < view->chunk_count; i++)
		gr__free(view->chunks[i]);
	for (i = 0; i < view->read.slot_count; i++) {
		struct gr__leaf *leaf = gr__leaf_of(gr__view_slots(view)[i]);

		if (gr__view_slots(view)[i] != gr__empty_words && !--leaf->slots)
			gr__free(leaf);
	}
	gr__view_free(view);
	gr__free(space->name);
	gr__free(space);
}

int gr_ram_close(struct gr_ram *ram)
{
	struct gr__audience audience = {NULL, 0}, nobody = {NULL, 0};
	struct gr__events events = {.forced = false};
	struct gr__directory *empty = NULL;
	struct gr_listener *listener, *next_listener;
	struct gr__space *space, *next_space;
	const struct gr__directory *live;
	size_t i;
	int rc;

	if (!ram)
		return 0;
	rc = gr__ram_check(ram, "RAM close");
	if (!rc)
		rc = gr__may_wait("RAM close");
	if (rc < 0)
		return rc;

	pthread_mutex_lock(&ram->lock);
	rc = check_idle(ram);
	if (!rc)
		rc = gr__collect_all(ram, &events);
	if (!rc)
		rc = gr__audience_take(ram, &nobody, &audience);
	if (!rc && !(empty = gr__directory_edit(NULL, NULL, NULL)))
		rc = gr__fail(-ENOMEM, "RAM close: no memory");
	if (rc < 0) {
		gr__audience_drop(ram, &audience);
		pthread_mutex_unlock(&ram->lock);
		gr__events_fini(&events);
		return rc;
	}
	ram->closing = true;
	pthread_mutex_unlock(&ram->lock);

	/* From here on nothing can fail. */
	gr__audience_tell(&audience, &events);
	gr__events_fini(&events);
	pthread_mutex_lock(&ram->lock);
	gr__audience_drop(ram, &audience);
	live = ram->directory;
	gr__directory_publish(ram, empty);
	/* `live` stays until the worker has had the lock */
	for (i = 0; i < live->count; i++)
		gr__block_reclaim_later(live->by_offset[i]);
	pthread_mutex_unlock(&ram->lock);
	gr__reclaim_wait(ram, -1);
	gr__reclaim_stop(ram);
	gr__registry_leave(ram);

	cds_list_for_each_entry_safe (space, next_space, &ram->spaces, node)
		free_space(space);
	cds_list_for_each_entry_safe (listener, next_listener, &ram->listeners, node)
		gr__free(listener);
	gr__claims_free(ram);
	if (ram->dirty)
		ram->dirty_free(ram->dirty);
	gr__directory_free(empty);
	gr__offsets_fini(&ram->offsets);
	pthread_cond_destroy(&ram->reclaimed);
	pthread_mutex_destroy(&ram->lock);
	gr__free(ram);
	return 0;
}
