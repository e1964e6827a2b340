/* SPDX-License-Identifier: MIT */
#include "ram/listener.h"
#include "base/error.h"
#include "os/alloc.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* -------------------------------------------------------------------------------- events */

int gr__event_add(struct gr__event_list *list, const struct gr__event *event)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 8;
		struct gr__event *events = gr__alloc_array(room, sizeof(*events));

		if (!events)
			return gr__fail(-ENOMEM, "listeners: no memory for %zu events", room);
		if (list->count)
			memcpy(events, list->events, list->count * sizeof(*events));
		gr__free(list->events);
		list->events = events;
		list->room = room;
	}
	list->events[list->count++] = *event;
	return 0;
}

void gr__event_list_fini(struct gr__event_list *list)
{
	gr__free(list->events);
	memset(list, 0, sizeof(*list));
}

void gr__events_fini(struct gr__events *events)
{
	gr__event_list_fini(&events->ask);
	gr__event_list_fini(&events->down);
	gr__event_list_fini(&events->up);
}

/* ------------------------------------------------------------------------------- telling */

/* One event to one listener: it comes (and may be refused) … */
static int tell_up(const struct gr_listener *listener, const struct gr__event *event)
{
	const struct gr_listener_ops *ops = listener->ops;
	int rc = 0;

	gr__callback_begin();
	switch (event->kind) {
	case GR__EVENT_BLOCK:
		if (ops->block_added)
			rc = ops->block_added(listener->context, event->block);
		break;
	case GR__EVENT_GRANULES:
		if (ops->granules_plugging)
			rc = ops->granules_plugging(listener->context, event->block, event->offset,
						    event->length);
		break;
	case GR__EVENT_RANGE:
		if (ops->range_added)
			rc = ops->range_added(listener->context, event->space, &event->range);
		break;
	case GR__EVENT_LENGTH:
		if (ops->block_resized)
			ops->block_resized(listener->context, event->block, event->length);
		break;
	}
	gr__callback_end();
	return rc;
}

/* … or it leaves; only granules, when they are asked for, may refuse. */
static int tell_down(const struct gr_listener *listener, const struct gr__event *event)
{
	const struct gr_listener_ops *ops = listener->ops;
	int rc = 0;

	gr__callback_begin();
	switch (event->kind) {
	case GR__EVENT_BLOCK:
		if (ops->block_deleting)
			ops->block_deleting(listener->context, event->block);
		break;
	case GR__EVENT_GRANULES:
		if (ops->granules_unplugging)
			rc = ops->granules_unplugging(listener->context, event->block,
						      event->offset, event->length);
		break;
	case GR__EVENT_RANGE:
		if (ops->range_removed)
			ops->range_removed(listener->context, event->space, &event->range);
		break;
	case GR__EVENT_LENGTH:
		break;
	}
	gr__callback_end();
	return rc;
}

static void log_refusal(const struct gr_listener *listener)
{
	gr__ram_log(listener->ram, GR_LOG_WARNING,
		    "a listener refused to take back what it had before");
}

/* Tell one listener that the first @count events of @list, which it heard, have not happened. */
static void give_back(const struct gr_listener *listener, const struct gr__event_list *list,
		      size_t count)
{
	while (count-- > 0)
		if (tell_up(listener, &list->events[count]) < 0)
			log_refusal(listener);
}

static void take_back(const struct gr_listener *listener, const struct gr__event_list *list,
		      size_t count)
{
	while (count-- > 0)
		if (tell_down(listener, &list->events[count]) < 0)
			gr__ram_log(listener->ram, GR_LOG_WARNING,
				    "a listener refused to let go of what is not there");
}

/* The same for all who heard the whole list. */
static void give_back_to_all(const struct gr__audience *audience, const struct gr__event_list *list)
{
	size_t i;

	for (i = 0; i < audience->count; i++)
		give_back(audience->listeners[i], list, list->count);
}

static int ask(const struct gr__audience *audience, const struct gr__event_list *list)
{
	size_t i, k;
	int rc = 0;

	for (i = audience->count; i-- > 0;) {
		for (k = 0; k < list->count; k++) {
			rc = tell_down(audience->listeners[i], &list->events[k]);
			if (rc < 0)
				goto refused;
		}
	}
	return 0;

refused:
	give_back(audience->listeners[i], list, k);
	while (++i < audience->count)
		give_back(audience->listeners[i], list, list->count);
	return gr__fail(rc, "a listener refused to let granules go: %s", strerror(-rc));
}

int gr__audience_tell(const struct gr__audience *audience, const struct gr__events *events)
{
	char why[256];
	unsigned said;
	size_t i, k;
	int rc = ask(audience, &events->ask);

	if (rc < 0)
		return rc;
	for (i = audience->count; i-- > 0;)
		for (k = 0; k < events->down.count; k++)
			if (tell_down(audience->listeners[i], &events->down.events[k]) < 0)
				gr__ram_log(audience->listeners[i]->ram, GR_LOG_WARNING,
					    "a listener refused to let go of what is gone");
	for (i = 0; i < audience->count; i++) {
		for (k = 0; k < events->up.count; k++) {
			said = gr__said();
			rc = tell_up(audience->listeners[i], &events->up.events[k]);
			if (rc < 0 && events->forced)
				log_refusal(audience->listeners[i]);
			else if (rc < 0)
				goto refused;
		}
	}
	return 0;

refused:
	/* its own reason, if it said one; what is told back may say others */
	snprintf(why, sizeof(why), "%s", gr__said() != said ? gr_last_error() : strerror(-rc));
	take_back(audience->listeners[i], &events->up, k);
	while (i-- > 0)
		take_back(audience->listeners[i], &events->up, events->up.count);
	give_back_to_all(audience, &events->down);
	give_back_to_all(audience, &events->ask);
	return gr__fail(rc, "a listener refused the change: %s", why);
}

void gr__audience_tell_back(const struct gr__audience *audience, const struct gr__events *events)
{
	size_t i;

	for (i = audience->count; i-- > 0;)
		take_back(audience->listeners[i], &events->up, events->up.count);
	give_back_to_all(audience, &events->down);
	give_back_to_all(audience, &events->ask);
}

void gr__audience_tell_resized(const struct gr__audience *audience, struct gr_block *block,
			       uint64_t old_length)
{
	const struct gr__event event = {
		.kind = GR__EVENT_LENGTH,
		.block = block,
		.length = old_length,
	};
	size_t i;

	for (i = 0; i < audience->count; i++)
		tell_up(audience->listeners[i], &event);
}

void gr__audience_tell_committed(const struct gr__audience *audience, struct gr_space *space,
				 uint64_t generation)
{
	size_t i;

	gr__callback_begin();
	for (i = 0; i < audience->count; i++)
		if (audience->listeners[i]->ops->committed)
			audience->listeners[i]->ops->committed(audience->listeners[i]->context,
							       space, generation);
	gr__callback_end();
}

void gr__listeners_tell_reclaimed(struct gr_ram *ram, const struct gr_block_info *info)
{
	struct gr_listener *listener;

	/* By falling priority. A listener whose user is counted stays in its place in the list. */
	pthread_mutex_lock(&ram->lock);
	cds_list_for_each_entry_reverse (listener, &ram->listeners, node) {
		if (!listener->ops->block_reclaimed)
			continue;
		listener->users++;
		pthread_mutex_unlock(&ram->lock);
		gr__callback_begin();
		listener->ops->block_reclaimed(listener->context, info);
		gr__callback_end();
		pthread_mutex_lock(&ram->lock);
		listener->users--;
	}
	pthread_cond_broadcast(&ram->reclaimed);
	pthread_mutex_unlock(&ram->lock);
}

/* ------------------------------------------------------------------------------ audience */

static bool is_in(const struct gr__audience *audience, const struct gr_listener *listener)
{
	size_t i;

	for (i = 0; i < audience->count; i++)
		if (audience->listeners[i] == listener)
			return true;
	return false;
}

int gr__audience_take(struct gr_ram *ram, const struct gr__audience *told,
		      struct gr__audience *audience)
{
	struct gr_listener *listener;
	size_t count = 0;

	cds_list_for_each_entry (listener, &ram->listeners, node)
		if (!is_in(told, listener))
			count++;
	if (!count)
		return 0;
	audience->listeners = gr__alloc_array(count, sizeof(struct gr_listener *));
	if (!audience->listeners)
		return gr__fail(-ENOMEM, "listeners: no memory for %zu", count);
	cds_list_for_each_entry (listener, &ram->listeners, node) {
		if (is_in(told, listener))
			continue;
		listener->users++;
		audience->listeners[audience->count++] = listener;
	}
	return 0;
}

int gr__audience_merge(struct gr__audience *told, struct gr__audience *more)
{
	size_t count = told->count + more->count, a = 0, b = 0, i;
	struct gr_listener **both;

	if (!told->count) {
		*told = *more;
		memset(more, 0, sizeof(*more));
		return 0;
	}
	both = gr__alloc_array(count, sizeof(struct gr_listener *));
	if (!both)
		return gr__fail(-ENOMEM, "listeners: no memory for %zu", count);
	for (i = 0; i < count; i++) {
		bool from_more = a == told->count ||
				 (b < more->count &&
				  more->listeners[b]->priority < told->listeners[a]->priority);

		both[i] = from_more ? more->listeners[b++] : told->listeners[a++];
	}
	gr__free(told->listeners);
	gr__free(more->listeners);
	told->listeners = both;
	told->count = count;
	memset(more, 0, sizeof(*more));
	return 0;
}

void gr__audience_drop(struct gr_ram *ram, struct gr__audience *audience)
{
	size_t i;

	if (!audience->count)
		return;
	for (i = 0; i < audience->count; i++)
		audience->listeners[i]->users--;
	pthread_cond_broadcast(&ram->reclaimed); /* gr_listener_close() may wait for it */
	gr__free(audience->listeners);
	memset(audience, 0, sizeof(*audience));
}

void gr__listener_insert(struct gr_listener *listener)
{
	struct cds_list_head *place = &listener->ram->listeners;
	struct gr_listener *other;

	/* after the last one of the same or a lower priority */
	cds_list_for_each_entry_reverse (other, &listener->ram->listeners, node) {
		if (other->priority <= listener->priority) {
			place = &other->node;
			break;
		}
	}
	cds_list_add(&listener->node, place);
}
