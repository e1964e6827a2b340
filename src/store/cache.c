/* SPDX-License-Identifier: MIT */
/*
 * A bounded cache in front of a source: chunks in the slots of a file, each in one slot at most.
 *
 *   (block, number) ─► bucket ─► slot: EMPTY ─► FETCHING ─► FULL ─► EMPTY …
 *                                                  └─► FAILED: those that waited read for
 * themselves
 *
 * Invariants:
 *  - A slot that is FETCHING, or has users, keeps its chunk. So a reader of the file, which holds
 * no lock, reads the chunk that it found.
 *  - No byte of the file is given that does not match the checksum of its page, which is in memory.
 *  - The file has no name and is empty at first: nothing of an earlier process is ever read.
 *
 * Threads: any number read. All but the bytes of the file is under cache->lock, which is held over
 * no read or write.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/file.h"
#include "os/transfer.h"
#include <errno.h>
#include <guestram/store.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#define NO_SLOT UINT32_MAX

enum slot_state { SLOT_EMPTY, SLOT_FETCHING, SLOT_FULL, SLOT_FAILED };

struct slot {
	uint64_t number; /* of the chunk, in its block */
	int block;
	enum slot_state state;
	uint32_t next;	/* in its bucket */
	unsigned users; /* that read it from the file, or wait for it */
	bool used;	/* since the hand went by */
};

struct block_info {
	int block;
	uint64_t length;
};

struct cache {
	struct gr_page_source below; /* const */
	uint64_t chunk;		     /* const */
	uint32_t slot_count;	     /* const */
	uint32_t bucket_mask;	     /* const */
	int fd;			     /* const */
	pthread_mutex_t lock;
	pthread_cond_t change;	   /* with lock: a fetch is over */
	struct slot *slots;	   /* wr: lock */
	uint32_t *buckets;	   /* wr: lock */
	uint64_t *sums;		   /* of each page of each slot; of a FETCHING one its fetcher's */
	uint32_t hand;		   /* wr: lock */
	struct block_info *blocks; /* wr: lock: those that were found */
	unsigned block_count;	   /* wr: lock */
	struct gr_cache_stats stats; /* wr: lock */
};

/* ---------------------------------------------------------------------------------------- slots */

static uint32_t *bucket_of(struct cache *cache, int block, uint64_t number)
{
	uint64_t key = (number ^ (uint64_t)(unsigned)block << 40) * UINT64_C(0x9e3779b97f4a7c15);

	return &cache->buckets[(key >> 32) & cache->bucket_mask];
}

static uint32_t find_slot(struct cache *cache, int block, uint64_t number)
{
	uint32_t at = *bucket_of(cache, block, number);

	while (at != NO_SLOT &&
	       (cache->slots[at].number != number || cache->slots[at].block != block))
		at = cache->slots[at].next;
	return at;
}

/* No users. */
static void empty_slot(struct cache *cache, uint32_t index)
{
	struct slot *slot = &cache->slots[index];
	uint32_t *link = bucket_of(cache, slot->block, slot->number);

	while (*link != index)
		link = &cache->slots[*link].next;
	*link = slot->next;
	if (slot->state == SLOT_FULL)
		cache->stats.bytes -= cache->chunk;
	slot->state = SLOT_EMPTY;
	slot->used = false; /* the hand takes it before it evicts */
}

/* One that can be had: the hand goes round twice at most. */
static uint32_t take_slot(struct cache *cache)
{
	for (uint64_t i = 0; i < 2 * (uint64_t)cache->slot_count; i++) {
		uint32_t index = cache->hand;
		struct slot *slot = &cache->slots[index];

		cache->hand = index + 1 == cache->slot_count ? 0 : index + 1;
		if (slot->users || slot->state == SLOT_FETCHING)
			continue;
		if (slot->used) {
			slot->used = false;
			continue;
		}
		if (slot->state != SLOT_EMPTY) {
			cache->stats.evicted++;
			empty_slot(cache, index);
		}
		return index;
	}
	return NO_SLOT;
}

static void leave_slot(struct cache *cache, uint32_t index)
{
	struct slot *slot = &cache->slots[index];

	slot->users--;
	if (!slot->users && slot->state == SLOT_FAILED)
		empty_slot(cache, index);
}

/* -------------------------------------------------------------------------------------- reading */

/* A piece of one chunk. */
struct part {
	int block;
	uint64_t number;
	uint64_t offset, length; /* in the chunk */
	uint64_t whole;		 /* bytes of the chunk: less at the block's end */
	char *buf;
};

static int read_below(struct cache *cache, const struct part *part)
{
	return cache->below.ops->read(cache->below.context, part->block,
				      part->number * cache->chunk + part->offset, part->buf,
				      part->length);
}

static uint64_t *sums_of(struct cache *cache, uint32_t slot)
{
	return cache->sums + slot * (cache->chunk / GR_PAGE_SIZE);
}

/*
 * Of a slot that it uses. 0, or an error: what the file has is not what was written. Pages that are
 * asked for in part are read whole.
 */
static int read_file(struct cache *cache, uint32_t index, const struct part *part)
{
	const uint64_t *sums = sums_of(cache, index);
	uint64_t base = index * cache->chunk, at, end;
	char page[GR_PAGE_SIZE];
	int64_t got;

	if (gr__is_aligned(part->offset | part->length, GR_PAGE_SIZE)) {
		got = gr__file_read(cache->fd, part->buf, part->length, base + part->offset);
		if (got != (int64_t)part->length)
			return got < 0 ? (int)got : -EBADMSG;
		for (at = 0; at < part->length; at += GR_PAGE_SIZE)
			if (XXH3_64bits(part->buf + at, GR_PAGE_SIZE) !=
			    sums[(part->offset + at) / GR_PAGE_SIZE])
				return -EBADMSG;
		return 0;
	}
	for (at = part->offset; at < part->offset + part->length; at = end) {
		uint64_t first = gr__align_down(at, GR_PAGE_SIZE);

		end = first + GR_PAGE_SIZE;
		if (end > part->offset + part->length)
			end = part->offset + part->length;
		got = gr__file_read(cache->fd, page, GR_PAGE_SIZE, base + first);
		if (got != GR_PAGE_SIZE ||
		    XXH3_64bits(page, GR_PAGE_SIZE) != sums[first / GR_PAGE_SIZE])
			return -EBADMSG;
		memcpy(part->buf + (at - part->offset), page + (at - first), end - at);
	}
	return 0;
}

/* Fills a slot that is FETCHING; the part is served from it. *kept: the file has it. */
static int fetch(struct cache *cache, uint32_t index, const struct part *part, bool *kept)
{
	struct part all = *part;
	uint64_t *sums = sums_of(cache, index), at;
	char *bytes = NULL;
	int rc;

	*kept = false;
	if (part->length != part->whole) {
		bytes = gr__alloc_raw(cache->chunk);
		if (!bytes)
			return read_below(cache, part);
		all.buf = bytes;
		all.offset = 0;
		all.length = part->whole;
	}
	rc = read_below(cache, &all);
	if (!rc) {
		for (at = 0; at < all.length; at += GR_PAGE_SIZE)
			sums[at / GR_PAGE_SIZE] = XXH3_64bits(all.buf + at, GR_PAGE_SIZE);
		*kept = !gr__file_write(cache->fd, all.buf, all.length, index * cache->chunk);
		if (bytes)
			memcpy(part->buf, bytes + part->offset, part->length);
	}
	gr__free(bytes);
	return rc;
}

/* Lock held, and given back: it has no slot yet. */
static int miss(struct cache *cache, const struct part *part)
{
	uint32_t index = take_slot(cache), *bucket;
	struct slot *slot;
	bool kept;
	int rc;

	cache->stats.misses++;
	if (index == NO_SLOT) {
		cache->stats.unkept++;
		pthread_mutex_unlock(&cache->lock);
		return read_below(cache, part);
	}
	slot = &cache->slots[index];
	bucket = bucket_of(cache, part->block, part->number);
	*slot = (struct slot){.block = part->block,
			      .number = part->number,
			      .state = SLOT_FETCHING,
			      .next = *bucket,
			      .users = 1,
			      .used = true};
	*bucket = index;
	pthread_mutex_unlock(&cache->lock);

	rc = fetch(cache, index, part, &kept);

	pthread_mutex_lock(&cache->lock);
	slot->state = kept ? SLOT_FULL : SLOT_FAILED;
	cache->stats.unkept += !rc && !kept;
	if (kept)
		cache->stats.bytes += cache->chunk;
	pthread_cond_broadcast(&cache->change);
	leave_slot(cache, index);
	pthread_mutex_unlock(&cache->lock);
	return rc;
}

static int read_part(struct cache *cache, const struct part *part)
{
	struct slot *slot;
	uint32_t index;
	int rc;

	pthread_mutex_lock(&cache->lock);
	index = find_slot(cache, part->block, part->number);
	if (index == NO_SLOT)
		return miss(cache, part);
	slot = &cache->slots[index];
	slot->users++;
	slot->used = true;
	cache->stats.shared += slot->state == SLOT_FETCHING;
	cache->stats.hits += slot->state == SLOT_FULL;
	while (slot->state == SLOT_FETCHING)
		pthread_cond_wait(&cache->change, &cache->lock);
	rc = slot->state == SLOT_FULL ? 0 : -EAGAIN;
	pthread_mutex_unlock(&cache->lock);
	if (!rc)
		rc = read_file(cache, index, part);
	pthread_mutex_lock(&cache->lock);
	if (rc && slot->state == SLOT_FULL) {
		/* others may still read it, each with its own check; it is fetched anew after them
		 */
		cache->stats.damaged++;
		cache->stats.bytes -= cache->chunk;
		slot->state = SLOT_FAILED;
	}
	leave_slot(cache, index);
	pthread_mutex_unlock(&cache->lock);
	return rc ? read_below(cache, part) : 0;
}

static bool length_of(struct cache *cache, int block, uint64_t *length)
{
	bool found = false;

	pthread_mutex_lock(&cache->lock);
	for (unsigned i = 0; i < cache->block_count && !found; i++) {
		found = cache->blocks[i].block == block;
		*length = cache->blocks[i].length;
	}
	pthread_mutex_unlock(&cache->lock);
	return found;
}

static int read_pages(void *context, int block, uint64_t offset, void *buf, uint64_t length)
{
	struct cache *cache = context;
	uint64_t size, done = 0;
	int rc = 0;

	if (!length_of(cache, block, &size))
		return -ENOENT;
	if (!gr__range_within(offset, length, size))
		return -ERANGE;
	while (!rc && done < length) {
		uint64_t at = offset + done;
		struct part part = {.block = block, .buf = (char *)buf + done};

		part.number = at / cache->chunk;
		part.offset = at & (cache->chunk - 1);
		part.length = cache->chunk - part.offset;
		if (part.length > length - done)
			part.length = length - done;
		part.whole = size - part.number * cache->chunk;
		if (part.whole > cache->chunk)
			part.whole = cache->chunk;
		rc = read_part(cache, &part);
		done += part.length;
	}
	return rc;
}

static int find(void *context, const char *name, struct gr_page_source_info *info)
{
	struct cache *cache = context;
	int block = cache->below.ops->find(cache->below.context, name, info);
	struct block_info *blocks;
	uint64_t length;

	if (block < 0)
		return block;
	if (!gr__is_aligned(info->length, GR_PAGE_SIZE))
		return -EINVAL; /* no source says so */
	if (info->chunk < cache->chunk)
		info->chunk = cache->chunk;
	if (length_of(cache, block, &length))
		return block;
	pthread_mutex_lock(&cache->lock);
	blocks = gr__alloc_array(cache->block_count + 1, sizeof(*blocks));
	if (blocks) {
		if (cache->block_count)
			memcpy(blocks, cache->blocks, cache->block_count * sizeof(*blocks));
		blocks[cache->block_count++] = (struct block_info){block, info->length};
		gr__free(cache->blocks);
		cache->blocks = blocks;
	}
	pthread_mutex_unlock(&cache->lock);
	return blocks ? block : -ENOMEM;
}

static int look(void *context, int block, uint64_t offset, uint64_t *length)
{
	const struct cache *cache = context;

	return cache->below.ops->look
		       ? cache->below.ops->look(cache->below.context, block, offset, length)
		       : GR_PAGES_DATA;
}

/* ----------------------------------------------------------------------------- opening, closing */

static void free_cache(struct cache *cache)
{
	gr__fd_close(cache->fd);
	gr__free(cache->slots);
	gr__free(cache->buckets);
	gr__free(cache->sums);
	gr__free(cache->blocks);
	pthread_cond_destroy(&cache->change);
	pthread_mutex_destroy(&cache->lock);
	gr__free(cache);
}

static void close_cache(void *context)
{
	struct cache *cache = context;
	struct gr_page_source below = cache->below;

	free_cache(cache);
	gr_page_source_close(&below);
}

static const struct gr_page_source_ops ops = {
	.find = find,
	.look = look,
	.read = read_pages,
	.close = close_cache,
};

int gr_cache_source_open(const struct gr_page_source *below, const struct gr_cache_opts *opts,
			 struct gr_page_source *source)
{
	static const struct gr_cache_opts none;
	uint64_t max, chunk, count, buckets = 1;
	struct cache *cache;
	int rc;

	if (!below || !below->ops || !source)
		return gr__fail(-EINVAL, "cache: no source, or no place for the result");
	opts = opts ? opts : &none;
	max = opts->max_bytes ? opts->max_bytes : UINT64_C(256) << 20;
	chunk = opts->chunk ? opts->chunk : UINT64_C(256) << 10;
	count = max / chunk;
	if (!gr__is_pow2(chunk) || chunk < GR_PAGE_SIZE || chunk > UINT64_C(4) << 20 || !count ||
	    count >= NO_SLOT / 2)
		return gr__fail(-EINVAL, "cache: chunks of %#llx bytes in %#llx",
				(unsigned long long)chunk, (unsigned long long)max);
	while (buckets < count)
		buckets *= 2;
	cache = gr__alloc(sizeof(*cache));
	if (!cache)
		return gr__fail(-ENOMEM, "cache: no memory");
	cache->fd = -1;
	cache->below = *below;
	cache->chunk = chunk;
	cache->slot_count = (uint32_t)count;
	cache->bucket_mask = (uint32_t)(buckets - 1);
	cache->stats.max_bytes = count * chunk;
	pthread_mutex_init(&cache->lock, NULL);
	pthread_cond_init(&cache->change, NULL);
	cache->slots = gr__alloc_array(count, sizeof(*cache->slots));
	cache->buckets = gr__alloc_array(buckets, sizeof(*cache->buckets));
	cache->sums = gr__alloc_array(count * (chunk / GR_PAGE_SIZE), sizeof(*cache->sums));
	if (!cache->slots || !cache->buckets || !cache->sums) {
		rc = gr__fail(-ENOMEM, "cache: no memory for %llu chunks",
			      (unsigned long long)count);
		goto free_it;
	}
	memset(cache->buckets, 0xff, buckets * sizeof(*cache->buckets)); /* NO_SLOT */
	cache->fd = opts->directory ? gr__file_open_unnamed(opts->directory)
				    : gr__file_memfd("guestram-cache", MFD_CLOEXEC);
	if (cache->fd < 0) {
		rc = gr__fail(cache->fd, "cache: a file in %s: %s",
			      opts->directory ? opts->directory : "memory",
			      strerrordesc_np(-cache->fd));
		goto free_it;
	}
	source->ops = &ops;
	source->context = cache;
	return 0;

free_it:
	free_cache(cache);
	return rc;
}

int gr_cache_source_get_stats(const struct gr_page_source *source, struct gr_cache_stats *stats)
{
	struct cache *cache;

	if (!source || source->ops != &ops || !stats)
		return gr__fail(-EINVAL, "cache: no such source, or no place for its figures");
	cache = source->context;
	pthread_mutex_lock(&cache->lock);
	*stats = cache->stats;
	pthread_mutex_unlock(&cache->lock);
	return 0;
}
