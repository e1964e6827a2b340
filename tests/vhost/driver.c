/* SPDX-License-Identifier: MIT */
/*
 * The split-ring driver of the front-end, and virtio-blk requests on either. See frontend.h.
 * Orders are those of the virtio specification's driver: descriptors before avail->idx (release),
 * used->idx (acquire) before used elements, and a full fence between writing an index and reading
 * the other side's wish to be notified.
 */
#include "frontend.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void fill(struct vring_desc *desc, const struct fe_buf *buf, bool more, uint16_t next)
{
	desc->addr = buf->gpa;
	desc->len = buf->length;
	desc->flags =
		(uint16_t)((buf->write ? VRING_DESC_F_WRITE : 0) | (more ? VRING_DESC_F_NEXT : 0));
	desc->next = next;
}

int fe_submit(struct fe_queue *q, const struct fe_buf *bufs, unsigned count, uint64_t cookie)
{
	bool indirect = q->indirect && count > 1 && count <= FE_TABLE;
	uint16_t head = q->free_head, at = head;
	unsigned need = indirect ? 1 : count;

	if (q->packed)
		return fe_packed_submit(q, bufs, count, cookie);
	if (!count || need > q->free_count)
		return -ENOSPC;
	if (indirect) {
		struct vring_desc *table = q->tables + (size_t)head * FE_TABLE;

		for (unsigned i = 0; i < count; i++)
			fill(&table[i], &bufs[i], i + 1 < count, (uint16_t)(i + 1));
		q->free_head = q->desc[head].next;
		q->desc[head].addr = q->tables_gpa + (uint64_t)head * FE_TABLE * sizeof(*table);
		q->desc[head].len = (uint32_t)(count * sizeof(*table));
		q->desc[head].flags = VRING_DESC_F_INDIRECT;
	} else {
		for (unsigned i = 0; i < count; i++) {
			uint16_t next = q->desc[at].next;

			fill(&q->desc[at], &bufs[i], i + 1 < count, next);
			at = next;
		}
		q->free_head = at;
	}
	q->free_count -= (uint16_t)need;
	q->chain_length[head] = (uint16_t)need;
	q->cookies[head] = cookie;
	q->avail->ring[q->avail_idx % q->num] = head;
	q->avail_idx++;
	return 0;
}

void fe_kick(struct fe_queue *q)
{
	uint16_t old = q->kicked_idx;
	bool need;

	if (q->packed) {
		fe_packed_kick(q);
		return;
	}
	if (old == q->avail_idx)
		return;
	__atomic_store_n(&q->avail->idx, q->avail_idx, __ATOMIC_RELEASE);
	q->kicked_idx = q->avail_idx;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (q->event_idx) {
		uint16_t event =
			__atomic_load_n((uint16_t *)&q->used->ring[q->num], __ATOMIC_RELAXED);

		need = (uint16_t)(q->avail_idx - event - 1) < (uint16_t)(q->avail_idx - old);
	} else {
		need = !(__atomic_load_n(&q->used->flags, __ATOMIC_RELAXED) &
			 VRING_USED_F_NO_NOTIFY);
	}
	if (need) {
		uint64_t one = 1;

		if (write(q->kick, &one, sizeof(one)) < 0)
			return; /* the counter is full: it is readable all the more */
	}
}

int fe_poll(struct fe_queue *q, uint64_t *cookie, uint32_t *written)
{
	struct vring_used_elem elem;
	uint16_t head, at;

	if (q->packed)
		return fe_packed_poll(q, cookie, written);
	if (__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE) == q->last_used)
		return 0;
	elem = q->used->ring[q->last_used % q->num];
	if (elem.id >= q->num || !q->chain_length[elem.id])
		return -EBADMSG; /* never submitted, or used twice */
	head = at = (uint16_t)elem.id;
	for (unsigned i = 1; i < q->chain_length[head]; i++)
		at = q->desc[at].next;
	q->desc[at].next = q->free_head;
	q->free_head = head;
	q->free_count += q->chain_length[head];
	q->chain_length[head] = 0;
	q->last_used++;
	if (cookie)
		*cookie = q->cookies[head];
	if (written)
		*written = elem.len;
	return 1;
}

/* Until the device calls: 0, or -ETIMEDOUT. */
static int wait_for_call(struct fe_queue *q, int timeout_ms)
{
	struct pollfd wait = {.fd = q->call, .events = POLLIN};
	struct timespec begin, now;
	uint64_t count;

	if (q->spin_ns)
		clock_gettime(CLOCK_MONOTONIC, &begin);
	for (int64_t spent = 0; spent < q->spin_ns;) {
		if (read(q->call, &count, sizeof(count)) > 0)
			return 0;
		clock_gettime(CLOCK_MONOTONIC, &now);
		spent = (now.tv_sec - begin.tv_sec) * 1000000000 + now.tv_nsec - begin.tv_nsec;
	}
	if (poll(&wait, 1, timeout_ms) != 1)
		return -ETIMEDOUT;
	return read(q->call, &count, sizeof(count)) < 0 && errno != EAGAIN ? -errno : 0;
}

int fe_wait(struct fe_queue *q, int timeout_ms, uint64_t *cookie, uint32_t *written)
{
	for (;;) {
		int rc = fe_poll(q, cookie, written);

		if (rc)
			return rc;
		/* ask to be told of the next one, then look again */
		if (q->event_idx || q->packed) {
			if (q->packed)
				fe_packed_ask_call(q);
			else
				__atomic_store_n(&q->avail->ring[q->num], q->last_used,
						 __ATOMIC_RELAXED);
			__atomic_thread_fence(__ATOMIC_SEQ_CST);
			rc = fe_poll(q, cookie, written);
			if (rc)
				return rc;
		}
		rc = wait_for_call(q, timeout_ms);
		if (rc < 0)
			return rc;
	}
}

int fe_blk_submit(struct fe_queue *q, uint64_t meta, uint32_t type, uint64_t sector,
		  const struct fe_buf *data, unsigned count, uint64_t cookie)
{
	struct fe *fe = q->fe;
	struct virtio_blk_outhdr header = {.type = type, .sector = sector};
	struct fe_buf bufs[FE_TABLE];

	if (count + 2 > FE_TABLE)
		return -ENOSPC;
	memcpy(fe->mem + meta, &header, sizeof(header));
	fe->mem[meta + 16] = 0xff;
	bufs[0] = (struct fe_buf){FE_GPA + meta, sizeof(header), false};
	if (count)
		memcpy(bufs + 1, data, sizeof(*data) * count);
	bufs[count + 1] = (struct fe_buf){FE_GPA + meta + 16, 1, true};
	return fe_submit(q, bufs, count + 2, cookie);
}

int fe_blk(struct fe_queue *q, uint32_t type, uint64_t sector, uint64_t offset, uint32_t length)
{
	/* headers of synchronous requests lie just below the data */
	uint64_t meta = FE_DATA - 4096 + 32 * (uint64_t)q->index;
	struct fe_buf data = {FE_GPA + offset, length,
			      type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID};
	int rc = fe_blk_submit(q, meta, type, sector, &data, length ? 1 : 0, meta);

	if (rc < 0)
		return rc;
	fe_kick(q);
	rc = fe_wait(q, FE_TIMEOUT_MS, NULL, NULL);
	return rc < 0 ? rc : fe_blk_status(q->fe, meta);
}
