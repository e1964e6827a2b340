/* SPDX-License-Identifier: MIT */
/*
 * Writers of the old design, see shared_mru.h. Do not repair it: the fault is what it is kept for.
 */
#include "shared_mru.h"
#include <urcu/urcu-memb.h>

void mru_init(struct mru_list *list)
{
	list->head = NULL;
	list->mru = NULL;
	pthread_mutex_init(&list->lock, NULL);
}

void mru_insert(struct mru_list *list, struct mru_block *block)
{
	struct mru_block **link = &list->head;

	block->next = NULL;
	__atomic_store_n(&block->unlinked, 0, __ATOMIC_RELAXED);
	pthread_mutex_lock(&list->lock);
	while (*link)
		link = &(*link)->next;
	rcu_assign_pointer(*link, block); /* pairs with rcu_dereference() in mru_find() */
	pthread_mutex_unlock(&list->lock);
}

void mru_remove(struct mru_list *list, struct mru_block *block)
{
	struct mru_block **link = &list->head;

	pthread_mutex_lock(&list->lock);
	while (*link != block)
		link = &(*link)->next;
	rcu_assign_pointer(*link, block->next);
	__atomic_store_n(&list->mru, NULL, __ATOMIC_RELAXED);
	/* pairs with the load in a window that waits for the removal */
	__atomic_store_n(&block->unlinked, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&list->lock);
	urcu_memb_synchronize_rcu();
}
