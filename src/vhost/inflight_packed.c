/* SPDX-License-Identifier: MIT */
/* The record of a packed ring. See inflight.h. */
#include "vhost/inflight.h"
#include <errno.h>
#include <string.h>

#define VERSION 1
#define UNSEEN UINT16_MAX /* no entry has this number, nor a list this end */

/* 0 stands for memory that nobody has used yet. */
static int check(struct gr__inflight *inflight, uint32_t num, uint16_t used_idx, bool used_wrap)
{
	struct wire_packed_record *record = inflight->packed;
	uint16_t version = __atomic_load_n(&record->version, __ATOMIC_RELAXED);

	if (inflight->size < num || version > VERSION)
		return -EINVAL;
	if (version)
		return record->features || record->desc_num != inflight->size ? -EINVAL : 0;
	memset(record, 0, sizeof(*record) + inflight->size * sizeof(record->desc[0]));
	for (uint32_t i = 0; i < inflight->size; i++)
		record->desc[i].next = (uint16_t)(i + 1);
	record->desc_num = (uint16_t)inflight->size;
	record->used_idx = record->old_used_idx = used_idx;
	record->used_wrap = record->old_used_wrap = used_wrap;
	__atomic_store_n(&record->version, VERSION, __ATOMIC_RELEASE); /* last: now it is whole */
	return 0;
}

/* What is being given back was, for the record. */
static void commit(struct wire_packed_record *record, uint16_t free_head, uint16_t used_idx,
		   bool used_wrap)
{
	__atomic_store_n(&record->old_free_head, free_head, __ATOMIC_RELEASE);
	/* the index last: as long as it differs, the ring is asked */
	__atomic_store_n(&record->old_used_wrap, used_wrap, __ATOMIC_RELEASE);
	__atomic_store_n(&record->old_used_idx, used_idx, __ATOMIC_RELEASE);
}

/* End or undo what was begun when we died. */
static int settle(struct gr__inflight *inflight, const struct gr__ring *ring, uint32_t num,
		  uint16_t *used_idx, bool *used_wrap)
{
	struct wire_packed_record *record = inflight->packed;
	uint16_t old = __atomic_load_n(&record->old_used_idx, __ATOMIC_RELAXED);
	uint16_t now = __atomic_load_n(&record->used_idx, __ATOMIC_RELAXED);
	bool old_wrap = __atomic_load_n(&record->old_used_wrap, __ATOMIC_RELAXED);
	bool wrap = __atomic_load_n(&record->used_wrap, __ATOMIC_RELAXED);
	uint16_t head = __atomic_load_n(&record->old_free_head, __ATOMIC_RELAXED);

	if (old >= num || now >= num)
		return -EINVAL;
	if ((old != now || old_wrap != wrap) && !gr__packed_is_available(ring, old, old_wrap)) {
		head = __atomic_load_n(&record->free_head, __ATOMIC_RELAXED);
		commit(record, head, now, wrap);
		old = now;
		old_wrap = wrap;
	}
	inflight->free_head = head;
	__atomic_store_n(&record->free_head, head, __ATOMIC_RELEASE);
	__atomic_store_n(&record->used_wrap, old_wrap, __ATOMIC_RELEASE);
	__atomic_store_n(&record->used_idx, old, __ATOMIC_RELEASE);
	*used_idx = old;
	*used_wrap = old_wrap;
	return 0;
}

/* The link of an entry that is seen now for the first time; -EINVAL: it is in two lists. */
static int follow(struct gr__inflight *inflight, uint16_t entry, bool last)
{
	uint16_t next = __atomic_load_n(&inflight->packed->desc[entry].next, __ATOMIC_RELAXED);

	if (inflight->next[entry] != UNSEEN)
		return -EINVAL;
	if (last || next > inflight->size)
		next = (uint16_t)inflight->size;
	inflight->next[entry] = next;
	return next;
}

/* How many entries are free, none of which is in flight. */
static int walk_free(struct gr__inflight *inflight)
{
	int at = inflight->free_head, count = 0;

	while (at >= 0 && (uint32_t)at < inflight->size) {
		__atomic_store_n(&inflight->packed->desc[at].inflight, 0, __ATOMIC_RELEASE);
		at = follow(inflight, (uint16_t)at, false);
		count++;
	}
	return at < 0 ? at : count;
}

static int walk_request(struct gr__inflight *inflight, uint16_t head, unsigned count)
{
	int at = head;

	for (unsigned i = 0; i < count; i++) {
		if ((uint32_t)at >= inflight->size)
			return -EINVAL;
		at = follow(inflight, (uint16_t)at, i + 1 == count);
		if (at < 0)
			return at;
	}
	return 0;
}

int gr__inflight_packed_begin(struct gr__inflight *inflight, const struct gr__ring *ring,
			      uint32_t num, uint16_t *used_idx, bool *used_wrap,
			      struct gr__resubmit *found)
{
	const struct wire_packed_state *states = inflight->packed->desc;
	unsigned count = 0, taken = 0;
	int free_count, rc = check(inflight, num, *used_idx, *used_wrap);

	if (!rc)
		rc = settle(inflight, ring, num, used_idx, used_wrap);
	if (rc < 0)
		return rc;
	memset(inflight->next, 0xff, inflight->size * sizeof(*inflight->next));
	free_count = walk_free(inflight);
	if (free_count < 0)
		return free_count;
	for (uint32_t head = 0; head < inflight->size; head++) {
		struct gr__resubmit one = {.head = (uint16_t)head};

		if (inflight->next[head] != UNSEEN ||
		    !__atomic_load_n(&states[head].inflight, __ATOMIC_RELAXED))
			continue;
		one.counter = __atomic_load_n(&states[head].counter, __ATOMIC_RELAXED);
		one.count = __atomic_load_n(&states[head].num, __ATOMIC_RELAXED);
		if (!one.count || one.count > num - taken ||
		    walk_request(inflight, one.head, one.count) < 0)
			return -EINVAL;
		taken += one.count;
		found[count++] = one; /* num at most, as each has a descriptor */
	}
	if (free_count + taken != inflight->size)
		return -EINVAL;
	gr__inflight_sort(found, count);
	inflight->counter = count ? found[count - 1].counter + 1 : 0;
	return (int)count;
}

static uint16_t last_of(const struct gr__inflight *inflight, uint16_t entry, unsigned count)
{
	while (--count)
		entry = inflight->next[entry];
	return entry;
}

void gr__inflight_packed_taken(struct gr__inflight *inflight, unsigned count)
{
	struct wire_packed_record *record = inflight->packed;
	struct wire_packed_state *state = &record->desc[inflight->free_head];
	uint16_t last = last_of(inflight, inflight->free_head, count);
	uint16_t free_head = inflight->next[last];

	__atomic_store_n(&state->num, (uint16_t)count, __ATOMIC_RELAXED);
	__atomic_store_n(&state->last, last, __ATOMIC_RELAXED);
	__atomic_store_n(&state->counter, inflight->counter++, __ATOMIC_RELAXED);
	__atomic_store_n(&state->inflight, 1, __ATOMIC_RELEASE);
	inflight->free_head = free_head;
	__atomic_store_n(&record->free_head, free_head, __ATOMIC_RELEASE);
	__atomic_store_n(&record->old_free_head, free_head, __ATOMIC_RELEASE); /* see head */
}

void gr__inflight_packed_returning(struct gr__inflight *inflight, uint16_t entry, unsigned count,
				   uint16_t used_idx, bool used_wrap)
{
	struct wire_packed_record *record = inflight->packed;
	uint16_t last = last_of(inflight, entry, count);

	inflight->next[last] = inflight->free_head;
	__atomic_store_n(&record->desc[last].next, inflight->free_head, __ATOMIC_RELEASE);
	inflight->free_head = entry;
	__atomic_store_n(&record->free_head, entry, __ATOMIC_RELEASE);
	__atomic_store_n(&record->used_wrap, used_wrap, __ATOMIC_RELEASE);
	__atomic_store_n(&record->used_idx, used_idx, __ATOMIC_RELEASE);
}

void gr__inflight_packed_returned(struct gr__inflight *inflight, uint16_t entry, uint16_t used_idx,
				  bool used_wrap)
{
	__atomic_store_n(&inflight->packed->desc[entry].inflight, 0, __ATOMIC_RELEASE);
	commit(inflight->packed, inflight->free_head, used_idx, used_wrap);
}
