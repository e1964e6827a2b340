/* SPDX-License-Identifier: MIT */
/*
 * Makes the next view of a space from the current one: edits of its ranges on copies of the chunks
 * they touch, then the index of what was touched.
 *
 * A builder lives within one hold of ram->lock, from begin to publish or abandon. All that can fail
 * is over before publish.
 */
#ifndef GR__BUILDER_H
#define GR__BUILDER_H

#include "space/space.h"

struct gr__builder {
	struct gr__space *space;
	const struct gr__view *base;
	struct gr__chunk **chunks; /* the ranges as they will be */
	unsigned count, room;
	struct gr__chunk *dropped; /* chunks of base that are not in there */
	struct gr__leaf *fresh;	   /* leaves made by this builder */
	struct gr__interval *touched;
	size_t touched_count, touched_room;
	const struct gr_block *resized; /* this block counts as… */
	uint64_t resized_length;	/* … this long, or NULL */
	struct gr__view *view;		/* the result, after finish */
};

int gr__builder_begin(struct gr__builder *builder, struct gr__space *space);

/* Each 0 or -errno with gr__fail() said; after a failure only abandon is left. */
int gr__builder_map(struct gr__builder *builder, uint64_t addr, struct gr_block *block,
		    uint64_t offset, uint64_t length, unsigned access);
/* @found is set when anything was there. */
int gr__builder_unmap(struct gr__builder *builder, uint64_t first, uint64_t last, bool *found);
int gr__builder_unmap_block(struct gr__builder *builder, const struct gr_block *block);
/* Every range of @block shows what it does at @length bytes of use. */
int gr__builder_resize(struct gr__builder *builder, const struct gr_block *block, uint64_t length);

/* Sorts and joins builder->touched and makes builder->view. */
int gr__builder_finish(struct gr__builder *builder);

/* Make it the space's view; retire what it replaces. Cannot fail. */
void gr__builder_publish(struct gr__builder *builder);
void gr__builder_abandon(struct gr__builder *builder);

/* The first range that ends at or above @addr; false when there is none. */
bool gr__builder_seek(const struct gr__builder *builder, uint64_t addr, struct gr__place *place);

/* index.c: the counts that the index of builder->chunks needs. */
struct gr_view gr__index_shape(const struct gr__builder *builder);
/* Fills the words of builder->view from builder->chunks. 0 or -ENOMEM. */
int gr__index_build(struct gr__builder *builder);
/* At publish: count the slots of leaves, retire those that are in none any more. */
void gr__index_publish(struct gr__builder *builder);

#endif
