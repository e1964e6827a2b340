/* SPDX-License-Identifier: MIT */
/*
 * See base.h. A source that knows chunks (packed, or checked as a whole) is read a chunk at a time,
 * into slots:
 *
 *   EMPTY ──take──► LOADING ──read──► READY ──oldest, unused──► LOADING (another one)
 *                      └─failed──► FAILED ──last waiter left──► EMPTY
 *
 * Threads: any. `lock` guards the slots but the bytes of one: LOADING, they are its loader's; READY
 * with users, nobody changes them. A thread holds one slot at a time, so a free one always comes.
 */
#include "mount/base.h"
#include "base/range.h"
#include "os/alloc.h"
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

enum { MOST_SLOTS = 4096 };

enum slot_state { EMPTY = 0, LOADING, READY, FAILED };

struct slot {
	uint64_t number; /* of the chunk in its block */
	uint64_t used;	 /* by the clock of asking */
	int block;
	enum slot_state state;
	int rc; /* FAILED: why */
	unsigned users;
	char *bytes; /* NULL until it is first used */
};

struct gr__mount_base {
	struct gr_page_source source; /* const */
	uint64_t chunk;		      /* const */
	unsigned slot_count;	      /* const */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* a slot is loaded, or free */
	uint64_t clock;		/* wr: lock */
	struct slot *slots;	/* wr: lock */
};

int gr__mount_base_new(const struct gr_page_source *source, uint64_t chunk, uint64_t cache,
		       struct gr__mount_base **base)
{
	struct gr__mount_base *b = gr__alloc(sizeof(*b));
	uint64_t slots = chunk ? cache / chunk : 0;

	if (!b)
		return -ENOMEM;
	if (slots > MOST_SLOTS)
		slots = MOST_SLOTS;
	b->source = *source;
	b->chunk = chunk;
	b->slot_count = slots < 2 ? 2 : (unsigned)slots;
	b->slots = gr__alloc_array(b->slot_count, sizeof(*b->slots));
	if (!b->slots) {
		gr__free(b);
		return -ENOMEM;
	}
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->changed, NULL);
	*base = b;
	return 0;
}

void gr__mount_base_free(struct gr__mount_base *base)
{
	unsigned i;

	if (!base)
		return;
	for (i = 0; i < base->slot_count; i++)
		gr__free(base->slots[i].bytes);
	gr__free(base->slots);
	pthread_cond_destroy(&base->changed);
	pthread_mutex_destroy(&base->lock);
	gr__free(base);
}

int gr__mount_base_look(const struct gr__mount_base *base, const struct gr__mount_block *block,
			uint64_t offset, uint64_t *length)
{
	int kind;

	*length = block->length - offset;
	if (!base->source.ops->look)
		return GR_PAGES_DATA;
	kind = base->source.ops->look(base->source.context, block->block, offset, length);
	if (kind >= 0 && (!*length || *length > block->length - offset))
		return -EIO; /* it breaks its word: no loop shall stand on that */
	return kind;
}

/* ------------------------------------------------------------------------------------------ slots
 */

/* The slot that has the chunk or loads it; else the one to take for it, NULL while all are in use.
 */
static struct slot *find(struct gr__mount_base *base, int block, uint64_t number, bool *here)
{
	struct slot *oldest = NULL;
	unsigned i;

	for (i = 0; i < base->slot_count; i++) {
		struct slot *slot = &base->slots[i];

		*here = (slot->state == LOADING || slot->state == READY) &&
			slot->number == number && slot->block == block;
		if (*here)
			return slot;
		if (!slot->users && (!oldest || slot->used < oldest->used))
			oldest = slot;
	}
	return oldest;
}

static int load(struct gr__mount_base *base, struct slot *slot, const struct gr__mount_block *block)
{
	uint64_t offset = slot->number * block->chunk, length = block->length - offset;

	if (!slot->bytes)
		slot->bytes = gr__alloc_aligned(GR_PAGE_SIZE, base->chunk);
	if (!slot->bytes)
		return -ENOMEM;
	if (length > block->chunk)
		length = block->chunk;
	return base->source.ops->read(base->source.context, block->block, offset, slot->bytes,
				      length);
}

static void put(struct gr__mount_base *base, struct slot *slot)
{
	slot->users--;
	if (!slot->users) {
		if (slot->state == FAILED)
			slot->state = EMPTY;
		pthread_cond_broadcast(&base->changed);
	}
}

/* With the lock. A READY one that has one user more; or NULL, and why in *rc. */
static struct slot *get(struct gr__mount_base *base, const struct gr__mount_block *block,
			uint64_t number, int *rc)
{
	struct slot *slot;
	bool here;

	while (!(slot = find(base, block->block, number, &here)))
		pthread_cond_wait(&base->changed, &base->lock);
	slot->users++;
	slot->used = ++base->clock;
	if (here) {
		while (slot->state == LOADING)
			pthread_cond_wait(&base->changed, &base->lock);
	} else {
		slot->block = block->block;
		slot->number = number;
		slot->state = LOADING;
		pthread_mutex_unlock(&base->lock);
		*rc = load(base, slot, block);
		pthread_mutex_lock(&base->lock);
		slot->state = *rc < 0 ? FAILED : READY;
		slot->rc = *rc;
		pthread_cond_broadcast(&base->changed);
	}
	if (slot->state == FAILED) {
		*rc = slot->rc;
		put(base, slot);
		return NULL;
	}
	return slot;
}

/* At most to the end of the chunk that has @offset; how much, or -errno. */
static int64_t read_chunk(struct gr__mount_base *base, const struct gr__mount_block *block,
			  uint64_t offset, char *buf, uint64_t length)
{
	uint64_t skip = offset & (block->chunk - 1), have = block->chunk - skip;
	struct slot *slot;
	int rc = 0;

	if (length > have)
		length = have;
	pthread_mutex_lock(&base->lock);
	slot = get(base, block, offset / block->chunk, &rc);
	pthread_mutex_unlock(&base->lock);
	if (!slot)
		return rc;
	memcpy(buf, slot->bytes + skip, length);
	pthread_mutex_lock(&base->lock);
	put(base, slot);
	pthread_mutex_unlock(&base->lock);
	return (int64_t)length;
}

/* ---------------------------------------------------------------------------------------- reading
 */

/* Of a source without chunks: whole pages to their place, a piece of one by way of the stack. */
static int64_t read_pages(struct gr__mount_base *base, const struct gr__mount_block *block,
			  uint64_t offset, char *buf, uint64_t length)
{
	uint64_t skip = offset & (GR_PAGE_SIZE - 1), whole = gr__align_down(length, GR_PAGE_SIZE);
	char page[GR_PAGE_SIZE];
	int rc;

	if (!skip && whole) {
		rc = base->source.ops->read(base->source.context, block->block, offset, buf, whole);
		return rc < 0 ? rc : (int64_t)whole;
	}
	rc = base->source.ops->read(base->source.context, block->block, offset - skip, page,
				    GR_PAGE_SIZE);
	if (rc < 0)
		return rc;
	if (length > GR_PAGE_SIZE - skip)
		length = GR_PAGE_SIZE - skip;
	memcpy(buf, page + skip, length);
	return (int64_t)length;
}

int gr__mount_base_read(struct gr__mount_base *base, const struct gr__mount_block *block,
			uint64_t offset, void *buf, uint64_t length)
{
	char *to = buf;

	while (length) {
		uint64_t page = gr__align_down(offset, GR_PAGE_SIZE), run;
		int kind = gr__mount_base_look(base, block, page, &run);
		int64_t got;

		if (kind < 0)
			return kind;
		run -= offset - page;
		got = (int64_t)(run < length ? run : length);
		if (kind == GR_PAGES_ZERO)
			memset(to, 0, (uint64_t)got);
		else if (block->chunk)
			got = read_chunk(base, block, offset, to, (uint64_t)got);
		else
			got = read_pages(base, block, offset, to, (uint64_t)got);
		if (got < 0)
			return (int)got;
		to += got;
		offset += (uint64_t)got;
		length -= (uint64_t)got;
	}
	return 0;
}
