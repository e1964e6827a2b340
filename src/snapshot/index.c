/* SPDX-License-Identifier: MIT */
/* See index.h. */
#include "snapshot/index.h"
#include "os/alloc.h"
#include <stddef.h>

struct fork {
	struct gr__node node;
	struct gr__node *sides[2]; /* wr: the user's lock, read atomically; by the bit */
};

struct leaf {
	struct gr__node node;
	uint64_t key; /* number / GR__LEAF */
	struct wire_entry entries[GR__LEAF];
};

static struct gr__node **side_of(struct gr__node *node, uint64_t key)
{
	struct fork *fork = (struct fork *)node;

	return &fork->sides[(key & node->bit) != 0];
}

/* The leaf that @key's bits lead to, which need not be its own; NULL: there is none. */
static struct leaf *lead(const struct gr__index *index, uint64_t key)
{
	/* acquire: a node is whole when it is seen; pairs with the stores in gr__index_make() */
	struct gr__node *node = __atomic_load_n(&index->root, __ATOMIC_ACQUIRE);

	while (node && node->bit)
		node = __atomic_load_n(side_of(node, key), __ATOMIC_ACQUIRE);
	return (struct leaf *)node;
}

struct wire_entry *gr__index_find(const struct gr__index *index, uint64_t number)
{
	struct leaf *leaf = lead(index, number / GR__LEAF);

	return leaf && leaf->key == number / GR__LEAF ? &leaf->entries[number % GR__LEAF] : NULL;
}

struct wire_entry *gr__index_make(struct gr__index *index, uint64_t number)
{
	uint64_t key = number / GR__LEAF;
	struct leaf *near = lead(index, key), *leaf;
	struct gr__node **link = &index->root;
	struct fork *fork;

	if (near && near->key == key)
		return &near->entries[number % GR__LEAF];
	leaf = gr__alloc(sizeof(*leaf));
	if (!leaf)
		return NULL;
	leaf->key = key;
	if (near) {
		fork = gr__alloc(sizeof(*fork));
		if (!fork) {
			gr__free(leaf);
			return NULL;
		}
		fork->node.bit = UINT64_C(1) << (63 - __builtin_clzll(near->key ^ key));
		/* all below a fork of a lower bit are like @near in this one */
		while ((*link)->bit > fork->node.bit)
			link = side_of(*link, key);
		*side_of(&fork->node, key) = &leaf->node;
		*side_of(&fork->node, near->key) = *link;
		/* release: see lead(); who goes past meanwhile finds what was there before */
		__atomic_store_n(link, &fork->node, __ATOMIC_RELEASE);
	} else {
		__atomic_store_n(link, &leaf->node, __ATOMIC_RELEASE); /* release: likewise */
	}
	return &leaf->entries[number % GR__LEAF];
}

/* ---------------------------------------------------------------------------------------- walk */

void gr__index_walk(const struct gr__index *index, struct gr__index_walk *walk)
{
	walk->count = 0;
	if (index->root)
		walk->nodes[walk->count++] = index->root;
}

/* The next node, fork before what is below it, lower side first; NULL. */
static struct gr__node *next_node(struct gr__index_walk *walk)
{
	struct gr__node *node = walk->count ? walk->nodes[--walk->count] : NULL;

	if (node && node->bit) {
		struct fork *fork = (struct fork *)node;

		walk->nodes[walk->count++] = fork->sides[1];
		walk->nodes[walk->count++] = fork->sides[0];
	}
	return node;
}

const struct wire_entry *gr__index_next(struct gr__index_walk *walk)
{
	struct gr__node *node;

	while ((node = next_node(walk)) && node->bit)
		;
	return node ? ((struct leaf *)node)->entries : NULL;
}

void gr__index_free(struct gr__index *index)
{
	struct gr__index_walk walk;
	struct gr__node *node;

	gr__index_walk(index, &walk);
	while ((node = next_node(&walk)))
		gr__free(node);
	index->root = NULL;
}
