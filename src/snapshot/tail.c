/* SPDX-License-Identifier: MIT */
/*
 * The end of writing a snapshot: gaps become zero, then manifest, index and header, then the file
 * gets its name.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/file.h"
#include "os/transfer.h"
#include "snapshot/writer.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* Bytes that grow; once memory is lacking they stay as they are. */
struct bytes {
	char *at;
	uint64_t length, room;
	bool failed;
};

/* Room for @length bytes, padded with zeroes to 8; NULL. */
static char *more(struct bytes *bytes, uint64_t length)
{
	uint64_t whole, room;
	char *at;

	if (!gr__align_up(length, 8, &whole) || whole > WIRE_TAIL_MAX ||
	    bytes->length + whole > WIRE_TAIL_MAX)
		bytes->failed = true;
	if (bytes->failed)
		return NULL;
	if (bytes->length + whole > bytes->room) {
		room = (bytes->length + whole) * 2;
		at = gr__alloc(room);
		bytes->failed = !at;
		if (!at)
			return NULL;
		if (bytes->length)
			memcpy(at, bytes->at, bytes->length);
		gr__free(bytes->at);
		bytes->at = at;
		bytes->room = room;
	}
	at = bytes->at + bytes->length;
	bytes->length += whole;
	return at;
}

static void put(struct bytes *bytes, const void *what, uint64_t length)
{
	char *at = more(bytes, length);

	if (at && length)
		memcpy(at, what, length);
}

/* ----------------------------------------------------------------------------------- manifest */

static void put_block(struct bytes *bytes, const struct gr__written *b, uint64_t entries)
{
	struct wire_block wire = {
		.used = htole64(b->used),
		.max = htole64(b->max),
		.page_size = htole64(b->page_size),
		.granule = htole64(b->granule),
		.area = htole64(b->area),
		.entries = htole64(entries),
		.flags = htole32(b->flags),
		.runs = htole32(b->run_count),
		.name_length = htole32((uint32_t)strlen(b->name)),
	};
	unsigned i;

	put(bytes, &wire, sizeof(wire));
	put(bytes, b->name, strlen(b->name));
	for (i = 0; i < b->run_count; i++) {
		struct wire_run run = {htole64(b->runs[i].offset), htole64(b->runs[i].length)};

		put(bytes, &run, sizeof(run));
	}
}

static void put_space(struct bytes *bytes, const struct gr__snap_space *space)
{
	struct wire_space wire = {
		.name_length = htole32((uint32_t)strlen(space->name)),
		.ranges = htole32(space->range_count),
	};
	unsigned i;

	put(bytes, &wire, sizeof(wire));
	put(bytes, space->name, strlen(space->name));
	for (i = 0; i < space->range_count; i++) {
		const struct gr_snapshot_range *range = &space->ranges[i];
		struct wire_range r = {
			htole64(range->addr),  htole64(range->length), htole64(range->offset),
			htole32(range->block), htole32(range->access),
		};

		put(bytes, &r, sizeof(r));
	}
}

static void put_state(struct bytes *bytes, const struct gr__snap_state *state)
{
	struct wire_state wire = {
		.length = htole64(state->length),
		.name_length = htole32((uint32_t)strlen(state->name)),
	};

	put(bytes, &wire, sizeof(wire));
	put(bytes, state->name, strlen(state->name));
	put(bytes, state->bytes, state->length);
}

/* -------------------------------------------------------------------------------------- index */

/* The entry as it is told, or false: there is nothing to tell. */
static bool tell(const struct gr__written *b, const struct wire_entry *entry, bool child,
		 struct wire_entry *told)
{
	*told = *entry;
	told->here &= gr__chunk_pages(b->used, entry->number);
	told->flags &= ~GR__ENTRY_MAPPED;
	if (!child) /* what nobody tells of is zero */
		told->here &= told->data;
	return told->here != 0;
}

/* Appends to the index; how many entries, or as many as there was room for. */
static uint64_t put_entries(struct bytes *bytes, const struct gr__written *b, bool child)
{
	const struct wire_entry *entries;
	struct gr__index_walk walk;
	struct wire_entry entry;
	uint64_t count = 0;
	unsigned i;

	gr__index_walk(&b->index, &walk);
	while ((entries = gr__index_next(&walk))) {
		for (i = 0; i < GR__LEAF; i++) {
			if (!tell(b, &entries[i], child, &entry))
				continue;
			entry = (struct wire_entry){
				htole64(entry.number), htole64(entry.here),   htole64(entry.data),
				htole64(entry.place),  htole32(entry.stored), htole32(entry.flags),
				htole64(entry.hash),
			};
			put(bytes, &entry, sizeof(entry));
			count++;
		}
	}
	return count;
}

/* --------------------------------------------------------------------------------------- gaps */

static int by_place(const void *a, const void *b)
{
	const struct gr__stored *first = a, *second = b;

	return (first->place > second->place) - (first->place < second->place);
}

/* What was replaced, between the chunks that are named. */
static int close_gaps(struct gr__writer *writer, const struct bytes *index)
{
	const struct wire_entry *entries = (const struct wire_entry *)index->at;
	uint64_t count = index->length / sizeof(*entries), at = WIRE_PAGE, i;
	struct gr__stored *places;
	int rc = 0;

	if (!writer->gaps)
		return 0;
	places = gr__alloc_array(count + 1, sizeof(*places));
	if (!places)
		return -ENOMEM;
	for (i = 0; i < count; i++)
		places[i] = (struct gr__stored){
			.place = entries[i].stored ? le64toh(entries[i].place) : WIRE_PAGE,
			.stored = le32toh(entries[i].stored),
		};
	places[count].place = writer->next;
	qsort(places, count + 1, sizeof(*places), by_place);
	for (i = 0; i <= count && !rc; i++) {
		if (places[i].place > at)
			rc = gr__writer_wipe(writer, at, places[i].place - at);
		if (places[i].place + places[i].stored > at)
			at = places[i].place + places[i].stored;
	}
	gr__free(places);
	return rc;
}

/* ---------------------------------------------------------------------------------------- all */

static int fill_header(const struct gr__writer *writer, const struct gr__snap_meta *meta,
		       const struct bytes *manifest, const struct bytes *index,
		       struct wire_header *header)
{
	struct timespec now;
	uint64_t tail;

	clock_gettime(CLOCK_REALTIME, &now);
	*header = (struct wire_header){
		.version = WIRE_VERSION,
		.layout = writer->layout,
		.manifest_length = manifest->length,
		.index_length = index->length,
		.created = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec,
		.chunk = WIRE_CHUNK,
		.page = WIRE_PAGE,
	};
	memcpy(header->magic, WIRE_MAGIC, sizeof(header->magic));
	if (!gr__align_up(writer->layout == GR_SNAPSHOT_MAPPED ? writer->area : writer->next,
			  WIRE_PAGE, &tail) ||
	    tail > INT64_MAX - manifest->length - index->length)
		return -EFBIG;
	header->tail = tail;
	header->size = tail + manifest->length + index->length;
	if (meta->parent) {
		memcpy(header->parent, meta->parent, sizeof(header->parent));
		memcpy(header->parent_digest, meta->parent_digest, sizeof(header->parent_digest));
	}
	return getrandom(header->id, sizeof(header->id), 0) == sizeof(header->id) ? 0 : -EIO;
}

/* As it stands in the file, whole, with hash and digest, which come back in @header. */
static int seal(const struct bytes *manifest, const struct bytes *index, struct wire_header *header,
		char *page)
{
	XXH3_state_t *state = gr__alloc_aligned(64, sizeof(*state));
	struct wire_header wire = *header;
	XXH128_canonical_t digest;
	uint64_t hash;

	if (!state)
		return -ENOMEM;
	wire.version = htole32(wire.version);
	wire.layout = htole32(wire.layout);
	wire.size = htole64(wire.size);
	wire.tail = htole64(wire.tail);
	wire.manifest_length = htole64(wire.manifest_length);
	wire.index_length = htole64(wire.index_length);
	wire.created = htole64(wire.created);
	wire.chunk = htole32(wire.chunk);
	wire.page = htole32(wire.page);
	XXH3_128bits_reset(state);
	XXH3_128bits_update(state, &wire, offsetof(struct wire_header, digest));
	XXH3_128bits_update(state, manifest->at, manifest->length);
	XXH3_128bits_update(state, index->at, index->length);
	XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(state));
	gr__free(state);
	memcpy(wire.digest, &digest, sizeof(wire.digest));
	memcpy(header->digest, &digest, sizeof(header->digest));
	memcpy(page, &wire, sizeof(wire));
	hash = htole64(XXH3_64bits(page, WIRE_HASH_AT));
	memcpy(page + WIRE_HASH_AT, &hash, sizeof(hash));
	return 0;
}

static int write_tail(struct gr__writer *writer, const struct bytes *manifest,
		      const struct bytes *index, struct wire_header *header)
{
	char *page = gr__alloc(WIRE_PAGE);
	int rc;

	if (!page)
		return -ENOMEM;
	rc = seal(manifest, index, header, page);
	if (!rc)
		rc = gr__file_set_size(writer->file.fd, header->size);
	if (!rc)
		rc = gr__whole_write(&writer->file, manifest->at, manifest->length, header->tail);
	if (!rc)
		rc = gr__whole_write(&writer->file, index->at, index->length,
				     header->tail + manifest->length);
	if (!rc)
		rc = gr__whole_write(&writer->file, page, WIRE_PAGE, 0);
	gr__free(page);
	return rc;
}

int gr__writer_spare(const char *path, const uint8_t id[GR_SNAPSHOT_ID])
{
	int fd = gr__file_open(path, O_RDONLY, 0);
	struct wire_header header;
	bool same;

	if (fd < 0)
		return 0; /* there is none, or it tells why when it is replaced */
	same = gr__file_read(fd, &header, sizeof(header), 0) == sizeof(header) &&
	       !memcmp(header.id, id, sizeof(header.id));
	gr__fd_close(fd);
	return same ? gr__fail(-EEXIST, "snapshot %s: it is the parent of what is to be written",
			       path)
		    : 0;
}

int gr__writer_commit(struct gr__writer *writer, const struct gr__snap_meta *meta,
		      struct wire_header *header)
{
	struct wire_manifest head = {
		.blocks = htole32(writer->block_count),
		.spaces = htole32(meta->space_count),
		.states = htole32(meta->state_count),
		.parent_name_length =
			htole32(meta->parent ? (uint32_t)strlen(meta->parent_name) : 0),
	};
	struct bytes manifest = {0}, index = {0};
	uint64_t entries;
	unsigned i;
	int rc = 0;

	put(&manifest, &head, sizeof(head));
	put(&manifest, meta->parent_name, meta->parent ? strlen(meta->parent_name) : 0);
	for (i = 0; i < writer->block_count; i++) {
		entries = put_entries(&index, &writer->blocks[i], meta->parent != NULL);
		put_block(&manifest, &writer->blocks[i], entries);
	}
	for (i = 0; i < meta->space_count; i++)
		put_space(&manifest, &meta->spaces[i]);
	for (i = 0; i < meta->state_count; i++)
		put_state(&manifest, &meta->states[i]);
	if (manifest.failed || index.failed || manifest.length + index.length > WIRE_TAIL_MAX)
		rc = manifest.length + index.length > WIRE_TAIL_MAX / 2 ? -EFBIG : -ENOMEM;
	if (!rc)
		rc = close_gaps(writer, &index);
	if (!rc)
		rc = fill_header(writer, meta, &manifest, &index, header);
	if (!rc)
		rc = write_tail(writer, &manifest, &index, header);
	gr__free(manifest.at);
	gr__free(index.at);
	if (rc < 0)
		return gr__fail(rc, "snapshot %s: its end cannot be written: %s", writer->file.path,
				strerrordesc_np(-rc));
	rc = gr__whole_commit(&writer->file);
	return rc < 0 ? gr__fail(rc, "snapshot: the new file cannot take its name: %s",
				 strerrordesc_np(-rc))
		      : 0;
}
