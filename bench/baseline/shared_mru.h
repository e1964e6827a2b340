/* SPDX-License-Identifier: MIT */
/*
 * The old design, kept as a baseline: a list of blocks under RCU with one shared
 * most-recently-used pointer, after QEMU's "exec: protect mru_block with RCU" (2015).
 *
 *      head ──► block ──► block ──► …        mru ──► the block that was looked up last
 *
 * It is wrong, and that is why it is here. A reader that found X may be stopped before it stores X
 * to `mru`; the writer unlinks X, sets mru to NULL and waits for that reader; the reader stores X
 * and leaves; X is freed; the next reader follows mru to it. `guestram torture --baseline
 * shared-mru` shows it, `guestram bench lookup` shows what the list and the shared pointer cost.
 *
 * Threads: readers (any that is registered with urcu-memb, inside its read section) call
 * mru_find(); writers hold `lock` inside mru_insert() and mru_remove().
 */
#ifndef SHARED_MRU_H
#define SHARED_MRU_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <urcu/pointer.h>

/* One cache line; a real one is larger, which makes walking the list slower still. */
struct mru_block {
	uint64_t addr; /* const while linked */
	uint64_t length;
	char *host;
	struct mru_block *next; /* RCU, wr: list->lock */
	int unlinked;		/* atomic: set once mru was NULLed after the unlink */
	char pad[28];
};

struct mru_list {
	struct mru_block *head; /* RCU, wr: lock */
	struct mru_block *mru;	/* readers store to it, without a lock: the design's fault */
	pthread_mutex_t lock;
};

void mru_init(struct mru_list *list);
/* At the end, as blocks that are plugged later stand behind those of the start. */
void mru_insert(struct mru_list *list, struct mru_block *block);
/*
 * Unlink, NULL mru once, wait for a grace period: the caller may then free the block, says the old
 * design. Not inside a read section.
 */
void mru_remove(struct mru_list *list, struct mru_block *block);

/*
 * @window runs between finding a block in the list and storing it to mru; NULL, a constant in the
 * benchmark's loops, leaves nothing of it.
 */
static inline __attribute__((always_inline)) struct mru_block *
mru_find(struct mru_list *list, uint64_t addr, void (*window)(struct mru_block *block))
{
	struct mru_block *block = rcu_dereference(list->mru); /* pairs with mru_insert() */

	if (block && addr - block->addr < block->length)
		return block;
	for (block = rcu_dereference(list->head); block; block = rcu_dereference(block->next)) {
		if (addr - block->addr < block->length) {
			if (window)
				window(block);
			__atomic_store_n(&list->mru, block, __ATOMIC_RELAXED);
			return block;
		}
	}
	return NULL;
}

#endif
