/* SPDX-License-Identifier: MIT */
/* The record of a split ring. See inflight.h. */
#include "vhost/inflight.h"
#include <errno.h>
#include <string.h>

#define VERSION 1

/* Of split rings; 0 stands for memory that nobody has used yet. */
static int check(struct gr__inflight *inflight, uint16_t used_idx, uint32_t num)
{
	struct wire_inflight_queue *queue = inflight->queue;
	uint16_t version = __atomic_load_n(&queue->version, __ATOMIC_RELAXED);

	if (inflight->size < num || version > VERSION)
		return -EINVAL;
	if (version)
		return queue->features || queue->desc_num < num ? -EINVAL : 0;
	memset(queue, 0, sizeof(*queue) + inflight->size * sizeof(queue->desc[0]));
	queue->desc_num = (uint16_t)inflight->size;
	queue->used_idx = used_idx;
	__atomic_store_n(&queue->version, VERSION, __ATOMIC_RELEASE); /* last: now it is whole */
	return 0;
}

/* The last batch was published, and we died before it was noted as given back. */
static void repair(struct gr__inflight *inflight, uint16_t used_idx, uint32_t num)
{
	struct wire_inflight_queue *queue = inflight->queue;
	uint16_t batch = (uint16_t)(used_idx - queue->used_idx);
	uint16_t head = __atomic_load_n(&queue->last_batch_head, __ATOMIC_RELAXED);

	for (unsigned i = 0; i < batch && i < num && head < num; i++) {
		gr__inflight_returned(inflight, head);
		head = __atomic_load_n(&queue->desc[head].next, __ATOMIC_RELAXED);
	}
	gr__inflight_settle(inflight, used_idx);
}

/* Let the one at @at sink to its place in a heap of @count, the newest on top. */
static void sift(struct gr__resubmit *heap, unsigned at, unsigned count)
{
	for (;;) {
		unsigned child = 2 * at + 1;
		struct gr__resubmit saved;

		if (child >= count)
			return;
		if (child + 1 < count && heap[child + 1].counter > heap[child].counter)
			child++;
		if (heap[at].counter >= heap[child].counter)
			return;
		saved = heap[at];
		heap[at] = heap[child];
		heap[child] = saved;
		at = child;
	}
}

void gr__inflight_sort(struct gr__resubmit *found, unsigned count)
{
	for (unsigned i = count / 2; i--;)
		sift(found, i, count);
	while (count > 1) {
		struct gr__resubmit newest = found[0];

		found[0] = found[--count];
		found[count] = newest;
		sift(found, 0, count);
	}
}

int gr__inflight_begin(struct gr__inflight *inflight, uint16_t used_idx, uint32_t num,
		       struct gr__resubmit *found)
{
	struct wire_inflight_queue *queue = inflight->queue;
	unsigned count = 0;
	int rc = check(inflight, used_idx, num);

	if (rc < 0)
		return rc;
	repair(inflight, used_idx, num);
	for (uint32_t head = 0; head < num; head++) {
		if (!__atomic_load_n(&queue->desc[head].inflight, __ATOMIC_RELAXED))
			continue;
		found[count].head = (uint16_t)head;
		found[count].counter =
			__atomic_load_n(&queue->desc[head].counter, __ATOMIC_RELAXED);
		count++;
	}
	gr__inflight_sort(found, count);
	inflight->counter = count ? found[count - 1].counter + 1 : 0;
	return (int)count;
}
