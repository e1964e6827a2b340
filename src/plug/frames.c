/* SPDX-License-Identifier: MIT */
#include "plug/frames.h"
#include "os/alloc.h"
#include <errno.h>
#include <string.h>

#define PAGE_SHIFT 12
#define CHUNK_SHIFT 21
#define CHUNK (UINT64_C(1) << CHUNK_SHIFT)
#define WORDS (CHUNK >> PAGE_SHIFT >> 6)
#define FREE UINT64_MAX
#define ROOM_MIN 16

struct gr__frame_chunk {
	uint64_t key; /* host address >> CHUNK_SHIFT, or FREE */
	uint64_t count;
	uint64_t bits[WORDS];
};

void gr__frames_fini(struct gr__frames *frames)
{
	gr__free(frames->chunks);
	memset(frames, 0, sizeof(*frames));
}

/* ------------------------------------------------------------------------------- the table */

static uint64_t hash(uint64_t key)
{
	return key * UINT64_C(0x9e3779b97f4a7c15) >> 20;
}

/* Where @key stands or would stand. There is a free place: the table is never full. */
static uint64_t place_of(const struct gr__frames *frames, uint64_t key)
{
	uint64_t at = hash(key) & (frames->room - 1);

	while (frames->chunks[at].key != key && frames->chunks[at].key != FREE)
		at = (at + 1) & (frames->room - 1);
	return at;
}

static struct gr__frame_chunk *find(const struct gr__frames *frames, uint64_t key)
{
	struct gr__frame_chunk *chunk;

	if (!frames->room)
		return NULL;
	chunk = &frames->chunks[place_of(frames, key)];
	return chunk->key == key ? chunk : NULL;
}

/* Move into a table of another size. */
static int resize(struct gr__frames *frames, uint64_t room)
{
	struct gr__frames next = {
		.chunks = gr__alloc_array(room, sizeof(struct gr__frame_chunk)),
		.room = room,
		.used = frames->used,
		.count = frames->count,
	};
	uint64_t i;

	if (!next.chunks)
		return -ENOMEM;
	for (i = 0; i < room; i++)
		next.chunks[i].key = FREE;
	for (i = 0; i < frames->room; i++)
		if (frames->chunks[i].key != FREE)
			next.chunks[place_of(&next, frames->chunks[i].key)] = frames->chunks[i];
	gr__free(frames->chunks);
	*frames = next;
	return 0;
}

int gr__frames_reserve(struct gr__frames *frames, uint64_t length)
{
	uint64_t want = frames->used + (length >> CHUNK_SHIFT) + 2, room = frames->room;

	if (!room)
		room = ROOM_MIN;
	while (want > room / 2) /* half full at most */
		room *= 2;
	return room == frames->room ? 0 : resize(frames, room);
}

/* Close the gap that a chunk leaves, so that every other is still found from its own place on. */
static void drop(struct gr__frames *frames, struct gr__frame_chunk *chunk)
{
	uint64_t mask = frames->room - 1, gap = (uint64_t)(chunk - frames->chunks), at = gap;

	for (;;) {
		uint64_t home;

		at = (at + 1) & mask;
		if (frames->chunks[at].key == FREE)
			break;
		home = hash(frames->chunks[at].key) & mask;
		if (((at - home) & mask) < ((at - gap) & mask))
			continue; /* it does not reach back over the gap */
		frames->chunks[gap] = frames->chunks[at];
		gap = at;
	}
	frames->chunks[gap].key = FREE;
	frames->used--;
	/* as much memory as there are pages; without it, more than that */
	if (frames->room > ROOM_MIN && frames->used < frames->room / 8)
		resize(frames, frames->room / 2);
}

/* --------------------------------------------------------------------------- pages in chunks */

/* The part of [host, host + length) that lies in the first chunk of it. */
static uint64_t part_of(uint64_t host, uint64_t length)
{
	uint64_t left = CHUNK - (host & (CHUNK - 1));

	return length < left ? length : left;
}

static uint64_t change_bits(struct gr__frame_chunk *chunk, uint64_t host, uint64_t length, bool on)
{
	uint64_t first = (host & (CHUNK - 1)) >> PAGE_SHIFT, changed = 0, i;

	for (i = first; i < first + (length >> PAGE_SHIFT); i++) {
		uint64_t bit = UINT64_C(1) << i % 64;

		if (!(chunk->bits[i / 64] & bit) != on)
			continue;
		chunk->bits[i / 64] ^= bit;
		changed++;
	}
	return changed;
}

uint64_t gr__frames_add(struct gr__frames *frames, uint64_t host, uint64_t length)
{
	uint64_t added = 0, part, changed;

	for (; length; host += part, length -= part) {
		uint64_t key = host >> CHUNK_SHIFT;
		struct gr__frame_chunk *chunk = &frames->chunks[place_of(frames, key)];

		part = part_of(host, length);
		if (chunk->key == FREE) {
			memset(chunk, 0, sizeof(*chunk));
			chunk->key = key;
			frames->used++;
		}
		changed = change_bits(chunk, host, part, true);
		chunk->count += changed;
		added += changed;
	}
	frames->count += added;
	return added;
}

uint64_t gr__frames_remove(struct gr__frames *frames, uint64_t host, uint64_t length)
{
	uint64_t removed = 0, part, changed;

	for (; length && frames->count; host += part, length -= part) {
		struct gr__frame_chunk *chunk = find(frames, host >> CHUNK_SHIFT);

		part = part_of(host, length);
		if (!chunk)
			continue;
		changed = change_bits(chunk, host, part, false);
		chunk->count -= changed;
		frames->count -= changed;
		removed += changed;
		if (!chunk->count)
			drop(frames, chunk);
	}
	return removed;
}

uint64_t gr__frames_count(const struct gr__frames *frames, uint64_t host, uint64_t length)
{
	uint64_t last = host + (length - 1), at = host, count = 0, end;

	while (length && gr__frames_next(frames, &at, last, true)) {
		end = at;
		if (!gr__frames_next(frames, &end, last, false))
			return count + ((last - at) >> PAGE_SHIFT) + 1;
		count += (end - at) >> PAGE_SHIFT;
		at = end;
	}
	return count;
}

bool gr__frames_next(const struct gr__frames *frames, uint64_t *host, uint64_t last, bool in)
{
	uint64_t at = *host;

	while (at <= last) {
		const struct gr__frame_chunk *chunk = find(frames, at >> CHUNK_SHIFT);
		uint64_t i = (at & (CHUNK - 1)) >> PAGE_SHIFT;

		for (; chunk && i < WORDS * 64; i++)
			if (!!(chunk->bits[i / 64] & UINT64_C(1) << i % 64) == in)
				break;
		if (chunk ? i < WORDS * 64 : !in) {
			if (chunk)
				at = (at & ~(CHUNK - 1)) + (i << PAGE_SHIFT);
			*host = at;
			return at <= last;
		}
		at = (at & ~(CHUNK - 1)) + CHUNK; /* host addresses end far below 2^64 */
	}
	return false;
}
