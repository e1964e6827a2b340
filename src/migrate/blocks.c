/* SPDX-License-Identifier: MIT */
/* See blocks.h. */
#include "migrate/blocks.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "ram/reclaim.h"
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------ bits of pages */

uint64_t gr__bits_put(uint64_t *bits, uint64_t first, uint64_t count, bool set)
{
	uint64_t last = first + count - 1, changed = 0, at;

	for (at = first >> 6; count && at <= last >> 6; at++) {
		uint64_t mask = gr__bits_mask(at, first, last);

		changed += __builtin_popcountll((set ? ~bits[at] : bits[at]) & mask);
		bits[at] = set ? bits[at] | mask : bits[at] & ~mask;
	}
	return changed;
}

/* ------------------------------------------------------------------------------------ collect */

struct collector {
	struct gr__blocks *blocks;
	unsigned room;
	unsigned live;
};

static int count_block(void *context, struct gr_block *block)
{
	((struct collector *)context)->live++;
	return 0;
}

static int collect_block(void *context, struct gr_block *block)
{
	struct collector *collector = context;
	struct gr__moved *moved;

	if (collector->blocks->count == collector->room)
		return -EAGAIN; /* there are more than a moment ago */
	moved = &collector->blocks->items[collector->blocks->count];
	gr__block_get(block); /* as a pin, of none of its granules */
	moved->held = true;
	moved->block = block;
	moved->host = block->mem.host;
	moved->used = gr__block_length(block);
	moved->page_size = block->mem.page_size;
	moved->flags = block->mem.flags & GR_READ_ONLY ? WIRE_BLOCK_READ_ONLY : 0;
	collector->blocks->count++;
	return 0;
}

void gr__blocks_free(struct gr__blocks *blocks)
{
	unsigned i;

	for (i = 0; i < blocks->count; i++) {
		if (blocks->items[i].held)
			gr__block_put(blocks->items[i].block);
		gr__free(blocks->items[i].bits);
		gr__free(blocks->items[i].torn);
	}
	gr__free(blocks->items);
	*blocks = (struct gr__blocks){0};
}

int gr__blocks_collect(struct gr__session *session, struct gr__blocks *blocks)
{
	struct collector collector = {.blocks = blocks};
	int rc;

	do {
		gr__blocks_free(blocks);
		collector.live = 0;
		gr_read_begin();
		gr_ram_each_block(session->ram, count_block, &collector);
		gr_read_end();
		if (collector.live > WIRE_BLOCKS_MAX)
			return gr__fail(-ERANGE, "%s: %u blocks; %u can be moved", session->who,
					collector.live, WIRE_BLOCKS_MAX);
		collector.room = collector.live;
		blocks->items = gr__alloc_array(collector.room + 1, sizeof(*blocks->items));
		if (!blocks->items)
			return gr__fail(-ENOMEM, "%s: no memory for %u blocks", session->who,
					collector.live);
		gr_read_begin();
		rc = gr_ram_each_block(session->ram, collect_block, &collector);
		gr_read_end();
	} while (rc == -EAGAIN);
	return rc;
}

int gr__blocks_judge(struct gr__session *session, struct gr__blocks *blocks)
{
	unsigned i;
	int rc;

	for (i = 0; i < blocks->count; i++) {
		struct gr__moved *moved = &blocks->items[i];
		const struct gr__mem *mem = &moved->block->mem;

		if (session->opts.flags & GR_MIGRATE_SHARED_IN_PLACE && mem->flags & GR_SHARED)
			moved->flags |= WIRE_BLOCK_IN_PLACE;
		rc = session->ops.block ? session->ops.block(session->opts.context, moved->block)
					: 0;
		if (rc < 0)
			return gr__fail(rc, "%s: block %s was refused here: %s", session->who,
					moved->block->name, strerrordesc_np(-rc));
		if (rc > 0)
			moved->flags |= WIRE_BLOCK_IN_PLACE;
		if (!moved->host && gr__moves(moved))
			return gr__fail(-ENOTSUP,
					"%s: block %s has no memory of this process; leave it in "
					"place",
					session->who, moved->block->name);
	}
	return 0;
}

struct comparer {
	const struct gr__blocks *blocks;
	unsigned at;
	char name[256];
};

static int compare_block(void *context, struct gr_block *block)
{
	struct comparer *comparer = context;

	/* both in order of RAM offset; held ones keep their offset and structure */
	if (comparer->at < comparer->blocks->count &&
	    comparer->blocks->items[comparer->at].block == block) {
		comparer->at++;
		return 0;
	}
	snprintf(comparer->name, sizeof(comparer->name), "%s", block->name);
	return 1;
}

int gr__blocks_same(struct gr__session *session, const struct gr__blocks *blocks)
{
	struct comparer comparer = {.blocks = blocks};
	int rc;

	gr_read_begin();
	rc = gr_ram_each_block(session->ram, compare_block, &comparer);
	gr_read_end();
	if (!rc && comparer.at == blocks->count)
		return 0;
	if (comparer.at < blocks->count)
		return gr__session_fail(session, -EBUSY,
					"the set of blocks changed: near block %.200s",
					blocks->items[comparer.at].block->name);
	return gr__session_fail(session, -EBUSY, "the set of blocks changed: block %.200s has come",
				comparer.name);
}

uint64_t *gr__bits_new(const struct gr_block *block)
{
	uint64_t pages = block->mem.max_length / WIRE_PAGE;

	return gr__alloc_array((pages + 63) / 64, sizeof(uint64_t));
}

int gr__blocks_bits(struct gr__session *session, struct gr__blocks *blocks)
{
	unsigned i;

	for (i = 0; i < blocks->count; i++) {
		struct gr__moved *moved = &blocks->items[i];

		if (!gr__moves(moved))
			continue;
		moved->bits = gr__bits_new(moved->block);
		if (!moved->bits)
			return gr__fail(-ENOMEM, "%s: no memory for block %s's pages", session->who,
					moved->block->name);
	}
	return 0;
}

/* ----------------------------------------------------------------------------------- manifest */

#define MANIFEST_PART 65536

int gr__blocks_put_manifest(struct gr__session *session, const struct gr__blocks *blocks)
{
	char *part = gr__alloc(MANIFEST_PART);
	size_t used = 0;
	unsigned i;
	int rc = 0;

	if (!part)
		return gr__session_fail(session, -ENOMEM, "no memory");
	for (i = 0; i < blocks->count && !rc; i++) {
		const struct gr__moved *moved = &blocks->items[i];
		const char *name = moved->block->name;
		size_t length = strlen(name);
		struct wire_block entry = {
			.used = htole64(moved->used),
			.max = htole64(moved->block->mem.max_length),
			.page_size = htole64(moved->page_size),
			.flags = htole32(moved->flags),
			.name_length = htole16((uint16_t)length),
		};

		if (used + sizeof(entry) + length > MANIFEST_PART) {
			rc = gr__channel_put_one(session->channels[0], WIRE_MANIFEST, WIRE_MORE,
						 part, used);
			used = 0;
		}
		memcpy(part + used, &entry, sizeof(entry));
		/* NOLINTNEXTLINE(bugprone-not-null-terminated-result): no text ends here */
		memcpy(part + used + sizeof(entry), name, length);
		used += sizeof(entry) + length;
	}
	if (!rc)
		rc = gr__channel_put_one(session->channels[0], WIRE_MANIFEST, 0, part, used);
	gr__free(part);
	return rc;
}

/* -------------------------------------------------------------------------------------- match */

struct matcher {
	struct gr__session *session;
	struct gr__blocks *own;
	struct gr__blocks *sorted; /* the result: what is held moves over */
	char *refusal;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct gr__moved *)a)->block->name,
		      ((const struct gr__moved *)b)->block->name);
}

static int name_is(const void *name, const void *moved)
{
	return strcmp(name, ((const struct gr__moved *)moved)->block->name);
}

#define REFUSE(matcher, ...) (void)snprintf((matcher)->refusal, WIRE_TEXT_MAX + 1, __VA_ARGS__)

static void compare_lengths(struct matcher *matcher, const char *name,
			    const struct wire_block *there, const struct gr__moved *here)
{
	uint64_t max = le64toh(there->max), used = le64toh(there->used),
		 page = le64toh(there->page_size);

	if (page != here->page_size)
		REFUSE(matcher, "block %.200s has pages of %llu bytes there, of %llu here", name,
		       (unsigned long long)page, (unsigned long long)here->page_size);
	else if (max != here->block->mem.max_length)
		REFUSE(matcher, "block %.200s can have %llu bytes there, %llu here", name,
		       (unsigned long long)max, (unsigned long long)here->block->mem.max_length);
	else if (!used || used > max || !gr__is_aligned(used, page))
		REFUSE(matcher, "block %.200s uses %llu of %llu bytes there", name,
		       (unsigned long long)used, (unsigned long long)max);
	else if (used != here->used && here->block->mem.backing == GR_BACKING_CALLER)
		REFUSE(matcher,
		       "block %.200s uses %llu bytes there, %llu here, and is not ours to "
		       "resize",
		       name, (unsigned long long)used, (unsigned long long)here->used);
}

static void compare_flags(struct matcher *matcher, const char *name, unsigned there,
			  struct gr__moved *here)
{
	static const char *const say[] = {"writable", "read-only"};
	unsigned read_only = there & WIRE_BLOCK_READ_ONLY;

	if (there & ~(WIRE_BLOCK_IN_PLACE | WIRE_BLOCK_READ_ONLY))
		REFUSE(matcher, "block %.200s has unknown flags %#x there", name, there);
	else if (read_only != (here->flags & WIRE_BLOCK_READ_ONLY))
		REFUSE(matcher, "block %.200s is %s there, %s here", name, say[read_only != 0],
		       say[read_only == 0]);
	else if (there & WIRE_BLOCK_IN_PLACE && !(here->flags & WIRE_BLOCK_IN_PLACE) &&
		 !(here->block->mem.flags & GR_SHARED))
		REFUSE(matcher, "block %.200s is left in place there, and private here", name);
	else if (!(there & WIRE_BLOCK_IN_PLACE) && here->flags & WIRE_BLOCK_IN_PLACE)
		REFUSE(matcher, "block %.200s is sent there, left in place here", name);
	here->flags |= there & WIRE_BLOCK_IN_PLACE;
}

static void match_one(struct matcher *matcher, const struct wire_block *entry, const char *name)
{
	struct gr__moved *found =
		bsearch(name, matcher->own->items, matcher->own->count, sizeof(*found), name_is);

	if (*matcher->refusal)
		return; /* the first one is told */
	if (!found) {
		REFUSE(matcher, "block %.200s is there and not here", name);
	} else if (!found->held) {
		REFUSE(matcher, "block %.200s comes twice", name);
	} else {
		compare_lengths(matcher, name, entry, found);
		if (!*matcher->refusal)
			compare_flags(matcher, name, le32toh(entry->flags), found);
		if (*matcher->refusal)
			return;
		matcher->sorted->items[matcher->sorted->count] = *found;
		matcher->sorted->items[matcher->sorted->count++].used = le64toh(entry->used);
		found->held = false;
	}
}

/* One record of entries. */
static int match_part(struct matcher *matcher, struct gr__channel *channel)
{
	while (channel->left) {
		struct wire_block entry;
		char name[256];
		uint16_t length;
		int rc = gr__channel_take(channel, &entry, sizeof(entry));

		if (rc < 0)
			return rc;
		length = le16toh(entry.name_length);
		if (!length || length > 255 || entry.zero)
			return gr__session_fail(matcher->session, -EBADMSG,
						"a block's name has %u bytes", length);
		rc = gr__channel_take(channel, name, length);
		if (rc < 0)
			return rc;
		name[length] = 0;
		if (strlen(name) != length)
			return gr__session_fail(matcher->session, -EBADMSG,
						"a block's name has a zero");
		match_one(matcher, &entry, name);
	}
	return gr__channel_end(channel);
}

static void name_the_rest(struct matcher *matcher)
{
	unsigned i;

	for (i = 0; i < matcher->own->count && !*matcher->refusal; i++)
		if (matcher->own->items[i].held)
			REFUSE(matcher, "block %.200s is here and not there",
			       matcher->own->items[i].block->name);
}

int gr__blocks_match(struct gr__session *session, struct gr__blocks *blocks,
		     char refusal[WIRE_TEXT_MAX + 1])
{
	struct gr__channel *channel = session->channels[0];
	struct gr__blocks sorted = {0};
	struct matcher matcher = {session, blocks, &sorted, refusal};
	unsigned i, records = 0;
	int rc;

	*refusal = 0;
	sorted.items = gr__alloc_array(blocks->count + 1, sizeof(*sorted.items));
	if (!sorted.items)
		return gr__session_fail(session, -ENOMEM, "no memory");
	qsort(blocks->items, blocks->count, sizeof(*blocks->items), by_name);
	do {
		rc = gr__channel_head(channel);
		if (!rc && channel->head.type != WIRE_MANIFEST)
			rc = gr__session_fail(session, -EPROTO, "record %u in the manifest",
					      channel->head.type);
		if (!rc && records++ > WIRE_BLOCKS_MAX)
			rc = gr__session_fail(session, -EPROTO, "an endless manifest");
		if (!rc)
			rc = match_part(&matcher, channel);
	} while (!rc && channel->head.flags & WIRE_MORE);
	if (!rc)
		name_the_rest(&matcher);
	/* those that were not matched stay held until all are freed */
	for (i = 0; i < blocks->count; i++)
		if (blocks->items[i].held)
			sorted.items[sorted.count++] = blocks->items[i];
	gr__free(blocks->items);
	*blocks = sorted;
	return rc;
}
