/* SPDX-License-Identifier: MIT */
/*
 * The packed-ring driver of the front-end. See frontend.h. A descriptor is the device's when its
 * available bit is the wrap counter and its used bit is not. Of what one fe_kick() publishes the
 * first head's flags are stored last (release), so that nothing of it is seen before; flags that
 * the device gave back are loaded (acquire) before the rest of their descriptor.
 */
#include "frontend.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED (1u << VRING_PACKED_DESC_F_USED)
#define WRAP (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

static struct vring_packed_desc_event *driver_event(const struct fe_queue *q)
{
	return (struct vring_packed_desc_event *)(void *)q->avail;
}

static uint16_t place(uint16_t at, bool wrap)
{
	return (uint16_t)(at | (wrap ? WRAP : 0));
}

uint32_t fe_packed_base(const struct fe_queue *q)
{
	return (uint32_t)place(q->avail_idx, q->avail_wrap) << 16 |
	       place(q->avail_idx, q->avail_wrap);
}

void fe_packed_reset(struct fe_queue *q)
{
	q->avail_wrap = q->used_wrap = true;
	q->added = 0;
}

void fe_packed_add(struct fe_queue *q, const struct vring_packed_desc *desc)
{
	struct vring_packed_desc *to = &fe_packed_desc(q)[q->avail_idx];
	uint16_t flags = (uint16_t)(desc->flags | (q->avail_wrap ? AVAIL : USED));

	to->addr = desc->addr;
	to->len = desc->len;
	to->id = desc->id;
	if (q->added) {
		__atomic_store_n(&to->flags, flags, __ATOMIC_RELEASE);
	} else {
		q->held = q->avail_idx;
		q->held_flags = flags;
	}
	q->added++;
	if (++q->avail_idx == q->num) {
		q->avail_idx = 0;
		q->avail_wrap = !q->avail_wrap;
	}
}

int fe_packed_submit(struct fe_queue *q, const struct fe_buf *bufs, unsigned count, uint64_t cookie)
{
	bool indirect = q->indirect && count > 1 && count <= FE_TABLE;
	unsigned need = indirect ? 1 : count;
	uint16_t id = q->free_head;

	if (!count || need > q->free_count)
		return -ENOSPC;
	while (q->chain_length[id])
		id = (uint16_t)((id + 1) % q->num);
	for (unsigned i = 0; i < count; i++) {
		struct vring_packed_desc desc = {
			.addr = bufs[i].gpa,
			.len = bufs[i].length,
			.id = id,
			.flags = bufs[i].write ? VRING_DESC_F_WRITE : 0,
		};

		if (indirect) {
			memcpy(&q->tables[(size_t)id * FE_TABLE + i], &desc, sizeof(desc));
			continue;
		}
		desc.flags |= i + 1 < count ? VRING_DESC_F_NEXT : 0;
		fe_packed_add(q, &desc);
	}
	if (indirect)
		fe_packed_add(q, &(struct vring_packed_desc){
					 .addr = q->tables_gpa +
						 (uint64_t)id * FE_TABLE * sizeof(*q->tables),
					 .len = (uint32_t)(count * sizeof(*q->tables)),
					 .id = id,
					 .flags = VRING_DESC_F_INDIRECT,
				 });
	q->free_head = (uint16_t)((id + 1) % q->num);
	q->free_count -= (uint16_t)need;
	q->chain_length[id] = (uint16_t)need;
	q->cookies[id] = cookie;
	return 0;
}

void fe_packed_kick(struct fe_queue *q)
{
	const uint32_t *device = (const uint32_t *)(const void *)q->used;
	uint16_t added = q->added, at;
	uint32_t event;
	uint64_t one = 1;

	if (!added)
		return;
	__atomic_store_n(&fe_packed_desc(q)[q->held].flags, q->held_flags, __ATOMIC_RELEASE);
	q->added = 0;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = __atomic_load_n(device, __ATOMIC_RELAXED);
	if (event >> 16 == VRING_PACKED_EVENT_FLAG_DISABLE)
		return;
	at = (uint16_t)(event & ~WRAP & UINT16_MAX);
	if (!!(event & WRAP) != q->avail_wrap)
		at = (uint16_t)(at - q->num);
	if (event >> 16 == VRING_PACKED_EVENT_FLAG_DESC &&
	    (uint16_t)(q->avail_idx - at - 1) >= added)
		return;
	if (write(q->kick, &one, sizeof(one)) < 0)
		return; /* the counter is full: it is readable all the more */
}

int fe_packed_poll(struct fe_queue *q, uint64_t *cookie, uint32_t *written)
{
	const struct vring_packed_desc *desc = &fe_packed_desc(q)[q->last_used];
	uint16_t flags = __atomic_load_n(&desc->flags, __ATOMIC_ACQUIRE), id = desc->id;

	if (!!(flags & AVAIL) != q->used_wrap || !!(flags & USED) != q->used_wrap)
		return 0;
	if (id >= q->num || !q->chain_length[id])
		return -EBADMSG; /* never submitted, or used twice */
	if (written)
		*written = desc->len;
	if (cookie)
		*cookie = q->cookies[id];
	q->free_count += q->chain_length[id];
	q->last_used += q->chain_length[id];
	if (q->last_used >= q->num) {
		q->last_used -= (uint16_t)q->num;
		q->used_wrap = !q->used_wrap;
	}
	q->chain_length[id] = 0;
	return 1;
}

void fe_packed_ask_call(struct fe_queue *q)
{
	__atomic_store_n(&driver_event(q)->off_wrap, place(q->last_used, q->used_wrap),
			 __ATOMIC_RELAXED);
	__atomic_store_n(&driver_event(q)->flags,
			 q->event_idx ? VRING_PACKED_EVENT_FLAG_DESC
				      : VRING_PACKED_EVENT_FLAG_ENABLE,
			 __ATOMIC_RELEASE);
}
