/* SPDX-License-Identifier: MIT */
#include "recorder.h"

struct event event_log[1024];
size_t event_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static bool is_same(const struct event *a, const struct event *b)
{
	return a->kind == b->kind && a->block == b->block && a->space == b->space &&
	       a->range.addr == b->range.addr && a->range.length == b->range.length &&
	       a->range.visible == b->range.visible && a->range.offset == b->range.offset &&
	       a->range.access == b->range.access && a->range.host == b->range.host;
}

static size_t place_in(const struct recorder *recorder, const struct event *event)
{
	size_t i;

	for (i = 0; i < recorder->count; i++)
		if (is_same(&recorder->has[i], event))
			break;
	return i;
}

static void write_down(struct recorder *recorder, const struct event *event)
{
	if (event_count < COUNT_OF(event_log))
		event_log[event_count] = *event;
	event_count++;
}

static int come(struct recorder *recorder, const struct event *event)
{
	int rc = 0;

	pthread_mutex_lock(&lock);
	if (recorder->refuse_in && !--recorder->refuse_in) {
		rc = recorder->refuse_with;
	} else {
		write_down(recorder, event);
		if (place_in(recorder, event) < recorder->count ||
		    recorder->count == COUNT_OF(recorder->has))
			recorder->wrong++;
		else
			recorder->has[recorder->count++] = *event;
	}
	pthread_mutex_unlock(&lock);
	if (!rc && recorder->hook)
		recorder->hook(recorder, event);
	return rc;
}

static void leave(struct recorder *recorder, const struct event *event)
{
	struct event added = *event;
	size_t place;

	added.kind = event->kind == RANGE_REMOVED ? RANGE_ADDED : BLOCK_ADDED;
	pthread_mutex_lock(&lock);
	write_down(recorder, event);
	place = place_in(recorder, &added);
	if (place == recorder->count)
		recorder->wrong++;
	else
		recorder->has[place] = recorder->has[--recorder->count];
	pthread_mutex_unlock(&lock);
	if (recorder->hook)
		recorder->hook(recorder, event);
}

static int block_added(void *context, struct gr_block *block)
{
	struct event event = {.kind = BLOCK_ADDED, .recorder = context, .block = block};

	event.ram_offset = info_of(block).ram_offset;
	return come(context, &event);
}

static void block_deleting(void *context, struct gr_block *block)
{
	struct event event = {.kind = BLOCK_DELETING, .recorder = context, .block = block};

	event.ram_offset = info_of(block).ram_offset;
	leave(context, &event);
}

static void block_reclaimed(void *context, const struct gr_block_info *info)
{
	struct event event = {.kind = BLOCK_RECLAIMED, .recorder = context};
	struct recorder *recorder = context;

	event.ram_offset = info->ram_offset;
	pthread_mutex_lock(&lock);
	write_down(recorder, &event);
	pthread_mutex_unlock(&lock);
	if (recorder->hook)
		recorder->hook(recorder, &event);
}

static struct event of_range(enum event_kind kind, struct recorder *recorder,
			     struct gr_space *space, const struct gr_range *range)
{
	return (struct event){
		.kind = kind,
		.recorder = recorder,
		.block = range->block,
		.space = space,
		.range = *range,
	};
}

static int range_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct event event = of_range(RANGE_ADDED, context, space, range);

	return come(context, &event);
}

static void range_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct event event = of_range(RANGE_REMOVED, context, space, range);

	leave(context, &event);
}

static void committed(void *context, struct gr_space *space, uint64_t generation)
{
	struct recorder *recorder = context;
	struct event event = {
		.kind = COMMITTED,
		.recorder = recorder,
		.space = space,
		.generation = generation,
	};

	pthread_mutex_lock(&lock);
	write_down(recorder, &event);
	pthread_mutex_unlock(&lock);
	if (recorder->hook)
		recorder->hook(recorder, &event);
}

static const struct gr_listener_ops ops = {
	block_added, block_deleting, block_reclaimed, range_added, range_removed, committed,
};

int recorder_try(struct recorder *recorder, struct gr_ram *ram, int priority)
{
	return gr_listener_open(ram, &ops, recorder, priority, &recorder->listener);
}

void recorder_open(struct recorder *recorder, struct gr_ram *ram, int priority)
{
	assert_ok(recorder_try(recorder, ram, priority));
}

/* Its matching removals leave it with nothing. */
void recorder_close(struct recorder *recorder)
{
	assert_ok(gr_listener_close(recorder->listener));
	assert_int_equal(recorder->count, 0);
	assert_int_equal(recorder->wrong, 0);
}

void log_clear(void)
{
	event_count = 0;
}

struct comparison {
	const struct recorder *recorder;
	struct gr_space *space;
	size_t count;
	bool differs;
};

static int compare_range(void *context, const struct gr_range *range)
{
	struct comparison *comparison = context;
	struct event event = of_range(RANGE_ADDED, NULL, comparison->space, range);

	comparison->count++;
	if (place_in(comparison->recorder, &event) == comparison->recorder->count)
		comparison->differs = true;
	return 0;
}

bool recorder_agrees(const struct recorder *recorder, struct gr_space *space)
{
	struct comparison comparison = {recorder, space, 0, false};
	size_t i, ranges = 0;

	gr_read_begin();
	gr_space_each_range(space, compare_range, &comparison);
	gr_read_end();
	for (i = 0; i < recorder->count; i++)
		ranges += recorder->has[i].kind == RANGE_ADDED;
	return !comparison.differs && ranges == comparison.count && !recorder->wrong;
}

bool event_is(size_t at, enum event_kind kind, const struct recorder *recorder, uint64_t addr,
	      uint64_t length)
{
	const struct event *event = &event_log[at];

	return at < event_count && event->kind == kind && event->recorder == recorder &&
	       event->range.addr == addr && event->range.length == length;
}

size_t events_of(enum event_kind kind, const struct recorder *recorder)
{
	size_t i, count = 0;

	for (i = 0; i < event_count; i++)
		count += event_log[i].kind == kind && event_log[i].recorder == recorder;
	return count;
}
