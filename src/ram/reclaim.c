/* SPDX-License-Identifier: MIT */
/*
 * Reclaim: what was unlinked is given back after every reader that could have seen it has left.
 *
 * Threads. One worker for each RAM takes all that waits, waits for one grace period with no lock
 * held, and then frees the garbage (old views and directories) and hands on the blocks. Under
 * embedder_reclaim the last step, releasing blocks, is left to gr_ram_reclaim().
 *
 * Why it is safe. (a) A block is queued under ram->lock after the view and the directory without it
 * were published. (b) The worker takes the queue under the lock and then calls
 * gr__synchronize(), liburcu's grace period, which returns only after every read section that began
 * before the call has ended; a section that begins later loads the new view and directory. So from
 * then on no reader can find the block, and the pin count can only fall: all gr_pin() run inside
 * sections, or are copies of pins. (c) The worker now sets UNLINKED with one atomic
 * read-modify-write on the pin count, and gr_unpin() subtracts with another. The modification order
 * of that word decides: if the count was zero when UNLINKED was set, the worker owns the block,
 * else the unpin that makes it UNLINKED | 0 does. Exactly one of them sees its condition, once.
 *
 * A pinned block is in no queue while it waits for its last pin, so it delays no other.
 */
#include "ram/reclaim.h"
#include "base/error.h"
#include "os/event.h"
#include "os/hooks.h"
#include "os/probe.h"
#include "os/thread.h"
#include "ram/listener.h"
#include <errno.h>
#include <time.h>

/*
 * Garbage alone is not urgent, and a grace period interrupts every running reader once
 * (membarrier(2)), so the worker is called for it only from this on…
 */
#define GARBAGE_WAKE_COUNT 64
#define GARBAGE_WAKE_BYTES (UINT64_C(1) << 20)
/* … and from this on, writers wait for a grace period themselves. */
#define GARBAGE_SETTLE_COUNT 4096
#define GARBAGE_SETTLE_BYTES (UINT64_C(32) << 20)

static void wake_worker(struct gr_ram *ram)
{
	/*
	 * release: a worker whose reset comes after this sees what we queued before; else we see
	 * the reset and set the event. Both sides are read-modify-writes of one word, whose
	 * modification order says which. Pairs with the exchange in work().
	 */
	if (!__atomic_exchange_n(&ram->work_set, 1, __ATOMIC_RELEASE))
		gr__event_set(ram->work_fd);
}

static void synchronize(struct gr_ram *ram)
{
	GR_PROBE1(grace_begin, ram);
	gr__synchronize();
	GR_PROBE1(grace_end, ram);
	__atomic_add_fetch(&ram->grace_periods, 1, __ATOMIC_RELAXED);
}

/* ---------------------------------------------------------------------------------- garbage */

void gr__retire(struct gr_ram *ram, struct gr__garbage *garbage)
{
	garbage->next = ram->garbage;
	ram->garbage = garbage;
	ram->garbage_bytes += garbage->bytes;
	ram->garbage_count++;
	if (ram->garbage_count == GARBAGE_WAKE_COUNT || ram->garbage_bytes >= GARBAGE_WAKE_BYTES)
		wake_worker(ram);
}

static struct gr__garbage *take_garbage(struct gr_ram *ram)
{
	struct gr__garbage *garbage = ram->garbage;

	ram->garbage = NULL;
	ram->garbage_bytes = 0;
	ram->garbage_count = 0;
	return garbage;
}

static void free_garbage(struct gr__garbage *garbage)
{
	while (garbage) {
		struct gr__garbage *next = garbage->next;

		garbage->free(garbage);
		garbage = next;
	}
}

struct gr__garbage *gr__retire_surplus(struct gr_ram *ram)
{
	if (ram->garbage_count < GARBAGE_SETTLE_COUNT && ram->garbage_bytes < GARBAGE_SETTLE_BYTES)
		return NULL;
	if (gr__may_wait(NULL) < 0)
		return NULL; /* the worker will, once this section or callback is over */
	/* The caller may hold the embedder's lock, for which a reader in its section may wait. */
	if (ram->opts.embedder_reclaim)
		return NULL;
	return take_garbage(ram);
}

void gr__retire_settle(struct gr_ram *ram, struct gr__garbage *surplus)
{
	if (!surplus)
		return;
	synchronize(ram);
	free_garbage(surplus);
}

void gr__retire_mapping(struct gr_ram *ram, struct gr__garbage *garbage, bool soon)
{
	garbage->next = ram->mappings;
	ram->mappings = garbage;
	ram->mappings_retired++;
	if (soon)
		wake_worker(ram);
}

void gr__retire_mappings_soon(struct gr_ram *ram)
{
	wake_worker(ram);
}

bool gr__retire_mappings_wait(struct gr_ram *ram)
{
	uint64_t upto;
	bool waited;

	pthread_mutex_lock(&ram->lock);
	upto = ram->mappings_retired;
	waited = ram->mappings_freed < upto;
	if (waited)
		wake_worker(ram);
	/* the worker takes all there are, so they are freed in the order they came */
	while (ram->mappings_freed < upto)
		pthread_cond_wait(&ram->reclaimed, &ram->lock);
	pthread_mutex_unlock(&ram->lock);
	return waited;
}

/* By the worker, after their grace period. */
static void free_mappings(struct gr_ram *ram, struct gr__garbage *mappings, uint64_t upto)
{
	if (!mappings)
		return;
	free_garbage(mappings);
	pthread_mutex_lock(&ram->lock);
	ram->mappings_freed = upto;
	pthread_cond_broadcast(&ram->reclaimed);
	pthread_mutex_unlock(&ram->lock);
}

/* ----------------------------------------------------------------------------------- blocks */

void gr__block_reclaim_later(struct gr_block *block)
{
	struct gr_ram *ram = block->ram;

	block->sequence = ++ram->sequence;
	block->deleted_ns = gr__now_ns();
	cds_list_add_tail(&block->node, &ram->pending);
	ram->blocks_pending++;
	ram->bytes_pending += block->mem.max_length;
	block->link = ram->deleted;
	ram->deleted = block;
	wake_worker(ram);
}

/* This thread owns @block now: no reader and no pin knows it. */
static void release_block(struct gr_block *block)
{
	struct gr_ram *ram = block->ram;
	struct gr_block_info info;

	gr_block_get_info(block, &info);
	info.host = NULL;
	info.fd = -1;
	gr__callback_begin(); /* a caller's release runs in there */
	if (block->windows)
		block->window_ops->close(block);
	if (block->refused)
		gr__mem_undo(&block->mem);
	else
		gr__mem_release(&block->mem);
	gr__callback_end();

	GR_PROBE4(reclaim, ram, block->name, info.max_length, gr__now_ns() - block->deleted_ns);

	/* First: what a listener keeps by RAM offset is gone before a new block gets the offset. */
	gr__listeners_tell_reclaimed(ram, &info);
	pthread_mutex_lock(&ram->lock);
	gr__offsets_put(&ram->offsets, block->ram_offset);
	cds_list_del(&block->node);
	ram->blocks_pending--;
	ram->bytes_pending -= info.max_length;
	ram->blocks_reclaimed++;
	ram->bytes_reclaimed += info.max_length;
	pthread_cond_broadcast(&ram->reclaimed);
	pthread_mutex_unlock(&ram->lock);
	gr__block_free(block);
}

static void release_blocks(struct gr_block *blocks)
{
	while (blocks) {
		struct gr_block *next = blocks->link;

		release_block(blocks);
		blocks = next;
	}
}

/* The last pin of an unlinked block left: it is the caller's now, who passes it to the worker. */
static __attribute__((noinline, cold)) void hand_over(struct gr_block *block)
{
	struct gr_ram *ram = block->ram;

	/* The section keeps @ram: gr_ram_close() waits for readers after the worker released
	 * @block. */
	GR_POINT("unpin.last");
	gr_read_begin();
	block->link = __atomic_load_n(&ram->unpinned, __ATOMIC_RELAXED);
	GR_POINT("unpin.push");
	/* release: the worker sees block->link; pairs with the exchange in work() */
	while (!__atomic_compare_exchange_n(&ram->unpinned, &block->link, block, 1,
					    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
	GR_POINT("unpin.wake");
	wake_worker(ram);
	gr_read_end();
}

void gr__block_put(struct gr_block *block)
{
	/* release: what was done through the pin happens before the release of the memory;
	 * acquire: the one who takes over sees all of it. Pairs with itself and with
	 * mark_unlinked(). */
	if (gr_unlikely(__atomic_fetch_sub(&block->pins, 1, __ATOMIC_ACQ_REL) ==
			(GR__PINS_UNLINKED | 1)))
		hand_over(block);
}

/* After a grace period. True when no pin is held, so that @block is the caller's. */
static bool mark_unlinked(struct gr_block *block)
{
	return !__atomic_fetch_or(&block->pins, GR__PINS_UNLINKED, __ATOMIC_ACQ_REL);
}

/* Take all that waits, wait for the readers once, and hand it on. */
static void work(struct gr_ram *ram)
{
	struct gr_block *deleted, *next, *ready = NULL;
	struct gr__garbage *garbage, *mappings;
	uint64_t upto;

	/*
	 * acquire: the queues are read after it; pairs with wake_worker(). Not a store: it would
	 * synchronize with nothing, and C11 would let `unpinned` be read before it is seen.
	 */
	GR_POINT("reclaim.reset");
	__atomic_exchange_n(&ram->work_set, 0, __ATOMIC_ACQUIRE);
	pthread_mutex_lock(&ram->lock);
	garbage = take_garbage(ram);
	deleted = ram->deleted;
	ram->deleted = NULL;
	mappings = ram->mappings;
	ram->mappings = NULL;
	upto = ram->mappings_retired;
	pthread_mutex_unlock(&ram->lock);

	if (garbage || deleted || mappings) {
		GR_POINT("reclaim.before_grace");
		synchronize(ram);
		GR_POINT("reclaim.after_grace");
	}
	/* first: they are of blocks that may be among these, and others wait for them */
	free_mappings(ram, mappings, upto);
	for (; deleted; deleted = next) {
		next = deleted->link; /* before another thread may own it */
		if (mark_unlinked(deleted)) {
			deleted->link = ready;
			ready = deleted;
		}
		GR_POINT("reclaim.marked");
	}
	/* acquire: pairs with hand_over() */
	deleted = __atomic_exchange_n(&ram->unpinned, NULL, __ATOMIC_ACQUIRE);
	for (; deleted; deleted = next) {
		next = deleted->link;
		deleted->link = ready;
		ready = deleted;
	}
	if (!ready || !ram->opts.embedder_reclaim) {
		release_blocks(ready);
	} else {
		pthread_mutex_lock(&ram->lock);
		for (; ready; ready = next) {
			next = ready->link;
			ready->link = ram->ready;
			ram->ready = ready;
		}
		gr__event_set(ram->ready_fd);
		pthread_cond_broadcast(&ram->reclaimed);
		pthread_mutex_unlock(&ram->lock);
	}
	free_garbage(garbage);
}

static void worker(void *arg)
{
	struct gr_ram *ram = arg;

	do {
		gr__event_wait(ram->work_fd);
		gr__event_clear(ram->work_fd);
		work(ram);
		/* acquire: pairs with gr__reclaim_stop() */
	} while (!__atomic_load_n(&ram->stopping, __ATOMIC_ACQUIRE));
}

int gr__reclaim_start(struct gr_ram *ram)
{
	int rc = gr__event_open();

	if (rc < 0)
		return gr__fail(rc, "RAM: no eventfd for the reclaim thread");
	ram->work_fd = rc;
	ram->ready_fd = -1;
	if (ram->opts.embedder_reclaim) {
		rc = gr__event_open();
		if (rc < 0) {
			gr__say("RAM: no eventfd for gr_ram_reclaim_fd()");
			goto close_work;
		}
		ram->ready_fd = rc;
	}
	rc = gr__thread_start(worker, ram, "guestram", &ram->worker);
	if (rc < 0) {
		gr__say("RAM: the reclaim thread does not start");
		goto close_ready;
	}
	return 0;

close_ready:
	gr__fd_close(ram->ready_fd);
close_work:
	gr__fd_close(ram->work_fd);
	return rc;
}

void gr__reclaim_stop(struct gr_ram *ram)
{
	__atomic_store_n(&ram->stopping, 1, __ATOMIC_RELEASE); /* pairs with worker() */
	gr__event_set(ram->work_fd);
	gr__thread_join(ram->worker);
	/* Readers that still hold old views or run in hand_over(). */
	synchronize(ram);
	free_garbage(take_garbage(ram));
	gr__fd_close(ram->ready_fd);
	gr__fd_close(ram->work_fd);
}

/* ------------------------------------------------------------------------- waiting for it */

int gr_ram_reclaim_fd(struct gr_ram *ram)
{
	if (ram->ready_fd < 0)
		return gr__fail(-EINVAL,
				"reclaim_fd: the RAM was not opened with embedder_reclaim");
	return ram->ready_fd;
}

int gr_ram_reclaim(struct gr_ram *ram)
{
	struct gr_block *ready, *block;
	int count = 0;

	if (gr__ram_check(ram, "reclaim") < 0)
		return 0; /* a forked child: the event is its parent's too */
	pthread_mutex_lock(&ram->lock);
	ready = ram->ready;
	ram->ready = NULL;
	if (ram->ready_fd >= 0)
		gr__event_clear(ram->ready_fd);
	pthread_mutex_unlock(&ram->lock);
	for (block = ready; block; block = block->link)
		count++;
	release_blocks(ready);
	return count;
}

static void deadline_in(struct timespec *deadline, int timeout_ms)
{
	clock_gettime(CLOCK_MONOTONIC, deadline);
	deadline->tv_sec += timeout_ms / 1000;
	deadline->tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (deadline->tv_nsec >= 1000000000) {
		deadline->tv_sec++;
		deadline->tv_nsec -= 1000000000;
	}
}

/* Wait for a change of the queues, doing the embedder's part. Lock held, dropped meanwhile. */
static int wait_for_reclaim(struct gr_ram *ram, const struct timespec *deadline)
{
	int rc = 0;

	if (ram->ready) {
		pthread_mutex_unlock(&ram->lock);
		gr_ram_reclaim(ram);
		pthread_mutex_lock(&ram->lock);
	} else if (deadline) {
		rc = pthread_cond_timedwait(&ram->reclaimed, &ram->lock, deadline);
	} else {
		rc = pthread_cond_wait(&ram->reclaimed, &ram->lock);
	}
	return -rc;
}

static bool is_pending(struct gr_ram *ram, uint64_t sequence)
{
	/* in order of deletion: the first is the oldest */
	return !cds_list_empty(&ram->pending) &&
	       cds_list_first_entry(&ram->pending, struct gr_block, node)->sequence <= sequence;
}

int gr__reclaim_wait(struct gr_ram *ram, int timeout_ms)
{
	struct timespec deadline;
	uint64_t sequence;
	int rc = 0;

	if (timeout_ms > 0)
		deadline_in(&deadline, timeout_ms);
	pthread_mutex_lock(&ram->lock);
	sequence = ram->sequence;
	while (is_pending(ram, sequence) && rc != -ETIMEDOUT) {
		if (!timeout_ms && !ram->ready)
			rc = -ETIMEDOUT;
		else
			rc = wait_for_reclaim(ram, timeout_ms > 0 ? &deadline : NULL);
	}
	rc = is_pending(ram, sequence) ? -ETIMEDOUT : 0;
	pthread_mutex_unlock(&ram->lock);
	return rc;
}

int gr_ram_drain(struct gr_ram *ram, int timeout_ms)
{
	int rc = gr__ram_check(ram, "drain");

	if (!rc)
		rc = gr__may_wait("drain");
	if (rc < 0)
		return rc;
	rc = gr__reclaim_wait(ram, timeout_ms);
	if (rc < 0)
		return gr__fail(rc, "drain: deleted blocks are still read or pinned after %d ms",
				timeout_ms);
	return 0;
}

int gr__reclaim_throttle(struct gr_ram *ram, bool may_wait)
{
	uint64_t limit = ram->opts.max_pending;
	int rc = 0;

	if (!limit)
		return 0;
	pthread_mutex_lock(&ram->lock);
	while (ram->bytes_pending > limit && !rc) {
		if (!may_wait)
			rc = gr__fail(-ENOBUFS,
				      "block: %llu bytes wait for reclaim, over max_pending %llu",
				      (unsigned long long)ram->bytes_pending,
				      (unsigned long long)limit);
		else
			rc = gr__may_wait("block: waiting for max_pending");
		if (!rc)
			wait_for_reclaim(ram, NULL);
	}
	pthread_mutex_unlock(&ram->lock);
	return rc;
}
