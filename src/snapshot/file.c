/* SPDX-License-Identifier: MIT */
/*
 * One file of a snapshot: header, manifest and index are read, hashed and checked, once. Everything
 * in it is hostile: numbers are compared with the file's own length and with each other before they
 * are used, and what is allocated is in proportion to bytes that were read.
 *
 * Threads: the caller's.
 */
#include "os/file.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/transfer.h"
#include "snapshot/snapshot.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static int bad(const struct gr__snap_file *file, const char *what)
{
	return gr__fail(-EBADMSG, "snapshot %s: %s", file->path, what);
}

/* ------------------------------------------------------------------------------------- header */

static int read_exactly(const struct gr__snap_file *file, void *to, uint64_t length, uint64_t at)
{
	int64_t got = gr__file_read(file->fd, to, length, at);

	if (got < 0)
		return gr__fail((int)got, "snapshot %s: reading at %llu", file->path,
				(unsigned long long)at);
	return (uint64_t)got == length ? 0 : bad(file, "it is cut");
}

static int check_header(struct gr__snap_file *file, const char *page, uint64_t size)
{
	struct wire_header *h = &file->header;
	uint64_t hash, i;

	memcpy(h, page, sizeof(*h));
	if (memcmp(h->magic, WIRE_MAGIC, sizeof(h->magic)) != 0)
		return bad(file, "this is no snapshot");
	h->version = le32toh(h->version);
	if (h->version != WIRE_VERSION)
		return gr__fail(-ENOTSUP, "snapshot %s: its version is %u; %u is known", file->path,
				h->version, WIRE_VERSION);
	memcpy(&hash, page + WIRE_HASH_AT, sizeof(hash));
	if (le64toh(hash) != XXH3_64bits(page, WIRE_HASH_AT))
		return bad(file, "its header is damaged");
	for (i = sizeof(*h); i < WIRE_HASH_AT; i++)
		if (page[i])
			return bad(file, "its header has unknown fields");
	h->layout = le32toh(h->layout);
	h->size = le64toh(h->size);
	h->tail = le64toh(h->tail);
	h->manifest_length = le64toh(h->manifest_length);
	h->index_length = le64toh(h->index_length);
	h->created = le64toh(h->created);
	if (h->layout != GR_SNAPSHOT_MAPPED && h->layout != GR_SNAPSHOT_PACKED)
		return bad(file, "its layout is unknown");
	if (le32toh(h->chunk) != WIRE_CHUNK || le32toh(h->page) != WIRE_PAGE)
		return bad(file, "it has other chunks or pages");
	if (h->size != size)
		return gr__fail(-EBADMSG, "snapshot %s: it is %llu bytes long, not %llu",
				file->path, (unsigned long long)size, (unsigned long long)h->size);
	if (h->tail < WIRE_PAGE || h->tail % WIRE_PAGE || h->tail > h->size ||
	    h->manifest_length > h->size - h->tail ||
	    h->index_length != h->size - h->tail - h->manifest_length ||
	    h->size - h->tail > WIRE_TAIL_MAX || h->manifest_length % 8 ||
	    h->index_length % sizeof(struct wire_entry))
		return bad(file, "its header does not fit its length");
	return 0;
}

static int check_digest(struct gr__snap_file *file, const char *page)
{
	XXH3_state_t *state = gr__alloc_aligned(64, sizeof(*state));
	XXH128_canonical_t digest;

	if (!state)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	XXH3_128bits_reset(state);
	XXH3_128bits_update(state, page, offsetof(struct wire_header, digest));
	XXH3_128bits_update(state, file->tail, file->header.size - file->header.tail);
	XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(state));
	gr__free(state);
	return memcmp(&digest, file->header.digest, sizeof(digest)) != 0
		       ? bad(file, "its manifest or index is damaged")
		       : 0;
}

/* ----------------------------------------------------------------------------------- manifest */

/* What is left of the manifest. */
struct rest {
	const char *at;
	uint64_t left;
	char *name; /* where the next name goes */
};

/* The next @size bytes, which end at a multiple of 8; NULL: there are not so many. */
static const void *take(struct rest *rest, uint64_t size)
{
	const char *at = rest->at;
	uint64_t whole;

	if (!gr__align_up(size, 8, &whole) || whole > rest->left)
		return NULL;
	for (; size < whole; size++)
		if (at[size])
			return NULL; /* padding is zero */
	rest->at += whole;
	rest->left -= whole;
	return at;
}

/* The next name, which has no zero byte and at most 255; @least is 0 or 1. */
static const char *take_name(struct rest *rest, uint32_t length, unsigned least)
{
	const char *bytes = length <= 255 && length >= least ? take(rest, length) : NULL;
	char *name = rest->name;

	if (!bytes || memchr(bytes, 0, length))
		return NULL;
	memcpy(name, bytes, length);
	name[length] = 0;
	rest->name += length + 1;
	return name;
}

static bool runs_fit(const struct gr__snap_block *block)
{
	uint64_t end = 0;
	unsigned i;

	for (i = 0; i < block->run_count; i++) {
		const struct wire_run *run = &block->runs[i];

		if (!run->length || run->offset < end || (i && run->offset == end) ||
		    (run->offset | run->length) % block->granule ||
		    !gr__range_within(run->offset, run->length, block->max))
			return false;
		end = run->offset + run->length;
	}
	return true;
}

/* @end: where the area of the block before ends. */
static int take_block(struct gr__snap_file *file, struct rest *rest, struct gr__snap_block *block,
		      uint64_t *entries, uint64_t *end)
{
	const struct wire_block *wire = take(rest, sizeof(*wire));
	struct wire_run *runs;
	unsigned i;

	if (!wire)
		return bad(file, "its manifest is cut");
	*block = (struct gr__snap_block){
		.used = le64toh(wire->used),
		.max = le64toh(wire->max),
		.page_size = le64toh(wire->page_size),
		.granule = le64toh(wire->granule),
		.area = le64toh(wire->area),
		.flags = le32toh(wire->flags),
		.run_count = le32toh(wire->runs),
		.entry_count = le64toh(wire->entries),
	};
	block->name = take_name(rest, le32toh(wire->name_length), 1);
	if (!block->name || wire->zero)
		return bad(file, "a block's name is malformed");
	if (!gr__is_pow2(block->page_size) || block->page_size < WIRE_PAGE || !block->used ||
	    block->used > block->max || block->max > INT64_MAX ||
	    (block->used | block->max) & (block->page_size - 1) ||
	    block->flags & ~(unsigned)WIRE_BLOCK_READ_ONLY ||
	    (block->granule && (!gr__is_pow2(block->granule) || block->granule < WIRE_PAGE)) ||
	    (!block->granule && block->run_count))
		return bad(file, "a block's lengths are malformed");
	runs = (struct wire_run *)take(rest, (uint64_t)block->run_count * sizeof(*runs));
	if (!runs)
		return bad(file, "its manifest is cut");
	for (i = 0; i < block->run_count; i++)
		runs[i] = (struct wire_run){le64toh(runs[i].offset), le64toh(runs[i].length)};
	block->runs = runs;
	if (!runs_fit(block))
		return bad(file, "a block's granules are malformed");
	if (file->header.layout == GR_SNAPSHOT_MAPPED) {
		if (block->area < *end || block->area % WIRE_PAGE ||
		    !gr__range_within(block->area, block->max, file->header.tail))
			return bad(file, "a block's area is malformed");
		*end = block->area + block->max;
	} else if (block->area) {
		return bad(file, "a block's area is malformed");
	}
	if (block->entry_count > *entries)
		return bad(file, "its index is cut");
	*entries -= block->entry_count;
	return 0;
}

static int take_space(struct gr__snap_file *file, struct rest *rest, struct gr__snap_space *space,
		      struct gr_snapshot_range *ranges)
{
	const struct wire_space *wire = take(rest, sizeof(*wire));
	const struct wire_range *wires;
	uint64_t last = 0, past = 0;
	unsigned i;

	if (!wire)
		return bad(file, "its manifest is cut");
	space->range_count = le32toh(wire->ranges);
	space->name = take_name(rest, le32toh(wire->name_length), 1);
	if (!space->name)
		return bad(file, "a space's name is malformed");
	wires = take(rest, (uint64_t)space->range_count * sizeof(*wires));
	if (!wires)
		return bad(file, "its manifest is cut");
	space->ranges = ranges;
	for (i = 0; i < space->range_count; i++) {
		struct gr_snapshot_range *range = &ranges[i];

		*range = (struct gr_snapshot_range){
			.addr = le64toh(wires[i].addr),
			.length = le64toh(wires[i].length),
			.offset = le64toh(wires[i].offset),
			.block = le32toh(wires[i].block),
			.access = le32toh(wires[i].access),
		};
		past = last;
		if (!gr__range_last(range->addr, range->length, &last) ||
		    (i && range->addr <= past) || range->block >= file->block_count ||
		    !range->access || range->access & ~(GR_READ | GR_WRITE) ||
		    (range->addr | range->offset | range->length) % WIRE_PAGE ||
		    !gr__range_within(range->offset, range->length, file->blocks[range->block].max))
			return bad(file, "a space's range is malformed");
	}
	return 0;
}

static int take_state(struct gr__snap_file *file, struct rest *rest, struct gr__snap_state *state)
{
	const struct wire_state *wire = take(rest, sizeof(*wire));

	if (!wire)
		return bad(file, "its manifest is cut");
	state->length = le64toh(wire->length);
	state->name = take_name(rest, le32toh(wire->name_length), 1);
	if (!state->name || wire->zero)
		return bad(file, "a piece of state's name is malformed");
	state->bytes = take(rest, state->length);
	return state->bytes ? 0 : bad(file, "its manifest is cut");
}

/* --------------------------------------------------------------------------------------- index */

static bool entry_fits(const struct gr__snap_file *file, const struct gr__snap_block *block,
		       const struct wire_entry *e)
{
	uint64_t bytes = (uint64_t)__builtin_popcountll(e->data) * WIRE_PAGE;

	if (e->number > block->used / WIRE_CHUNK || !e->here || e->data & ~e->here ||
	    e->here & ~gr__chunk_pages(block->used, e->number))
		return false;
	if (file->header.layout == GR_SNAPSHOT_MAPPED)
		return e->place == block->area + e->number * WIRE_CHUNK && e->stored == bytes &&
		       !e->flags;
	if (!bytes)
		return !e->place && !e->stored && !e->flags;
	if (e->place < WIRE_PAGE || !gr__range_within(e->place, e->stored, file->header.tail))
		return false;
	return e->flags == WIRE_ENTRY_ZSTD ? e->stored && e->stored < bytes
					   : !e->flags && e->stored == bytes;
}

static int take_index(struct gr__snap_file *file, struct wire_entry *entry)
{
	unsigned i;
	uint64_t k;

	for (i = 0; i < file->block_count; i++) {
		struct gr__snap_block *block = &file->blocks[i];

		block->entries = entry;
		for (k = 0; k < block->entry_count; k++, entry++) {
			*entry = (struct wire_entry){
				le64toh(entry->number), le64toh(entry->here),
				le64toh(entry->data),	le64toh(entry->place),
				le32toh(entry->stored), le32toh(entry->flags),
				le64toh(entry->hash),
			};
			if (!entry_fits(file, block, entry) ||
			    (k && entry->number <= entry[-1].number))
				return gr__fail(-EBADMSG,
						"snapshot %s: entry %llu of block %s is malformed",
						file->path, (unsigned long long)k, block->name);
			if (file->header.layout == GR_SNAPSHOT_MAPPED)
				entry->flags |= GR__ENTRY_MAPPED;
		}
	}
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	const struct gr__snap_block *const *one = a, *const *two = b;

	return strcmp((*one)->name, (*two)->name);
}

static int sort_names(struct gr__snap_file *file)
{
	unsigned i;

	for (i = 0; i < file->block_count; i++)
		file->by_name[i] = &file->blocks[i];
	qsort(file->by_name, file->block_count, sizeof(*file->by_name), compare_names);
	for (i = 1; i < file->block_count; i++)
		if (!strcmp(file->by_name[i - 1]->name, file->by_name[i]->name))
			return bad(file, "two blocks have one name");
	return 0;
}

/* @count structures of @size cannot be more than the manifest has room for. */
static bool counts_fit(const struct gr__snap_file *file, const struct wire_manifest *head)
{
	uint64_t most = file->header.manifest_length;

	return file->block_count <= WIRE_BLOCKS_MAX &&
	       file->block_count <= most / sizeof(struct wire_block) &&
	       file->space_count <= most / sizeof(struct wire_space) &&
	       file->state_count <= most / sizeof(struct wire_state) &&
	       le32toh(head->parent_name_length) <= 255;
}

static int take_manifest(struct gr__snap_file *file)
{
	struct rest rest = {(const char *)file->tail, file->header.manifest_length, NULL};
	uint64_t entries = file->header.index_length / sizeof(struct wire_entry), end = WIRE_PAGE;
	const struct wire_manifest *head = take(&rest, sizeof(*head));
	unsigned blocks, i;
	uint64_t range = 0;
	int rc = 0;

	if (!head)
		return bad(file, "its manifest is cut");
	blocks = file->block_count = le32toh(head->blocks);
	file->space_count = le32toh(head->spaces);
	file->state_count = le32toh(head->states);
	if (!counts_fit(file, head))
		return bad(file, "its manifest is malformed");
	/* no name has a longer copy than it has bytes and padding there, but for its zero */
	file->names = gr__alloc(file->header.manifest_length + blocks + file->space_count +
				file->state_count + 1);
	file->blocks = gr__alloc_array(blocks + 1, sizeof(*file->blocks));
	file->by_name = gr__alloc_array(blocks + 1, sizeof(*file->by_name));
	file->spaces = gr__alloc_array(file->space_count + 1, sizeof(*file->spaces));
	file->states = gr__alloc_array(file->state_count + 1, sizeof(*file->states));
	file->ranges = gr__alloc_array(file->header.manifest_length / sizeof(struct wire_range) + 1,
				       sizeof(*file->ranges));
	if (!file->names || !file->blocks || !file->by_name || !file->spaces || !file->states ||
	    !file->ranges)
		return gr__fail(-ENOMEM, "snapshot %s: no memory", file->path);
	rest.name = file->names;
	file->parent_name = take_name(&rest, le32toh(head->parent_name_length), 0);
	if (!file->parent_name || strchr(file->parent_name, '/'))
		return bad(file, "its parent's name is malformed");
	file->block_count = 0;
	for (i = 0; i < blocks && !rc; i++) {
		rc = take_block(file, &rest, &file->blocks[i], &entries, &end);
		file->block_count += !rc;
	}
	if (!rc)
		rc = sort_names(file);
	for (i = 0; i < file->space_count && !rc; i++) {
		rc = take_space(file, &rest, &file->spaces[i], &file->ranges[range]);
		range += file->spaces[i].range_count;
	}
	for (i = 0; i < file->state_count && !rc; i++)
		rc = take_state(file, &rest, &file->states[i]);
	if (!rc && (rest.left || entries))
		rc = bad(file, "its manifest or index is longer than what it tells");
	if (!rc)
		rc = take_index(file, (struct wire_entry *)((char *)file->tail +
							    file->header.manifest_length));
	return rc;
}

/* ----------------------------------------------------------------------------------------- all */

int gr__snap_file_find(const struct gr__snap_file *file, const char *name)
{
	const struct gr__snap_block block = {.name = name}, *key = &block, **found;

	found = bsearch(&key, file->by_name, file->block_count, sizeof(*found), compare_names);
	return found ? (int)(*found - file->blocks) : -1;
}

const struct wire_entry *gr__snap_entry_from(const struct gr__snap_block *block, uint64_t number)
{
	uint64_t first = 0, count = block->entry_count;

	while (count) {
		uint64_t half = count / 2;

		if (block->entries[first + half].number < number) {
			first += half + 1;
			count -= half + 1;
		} else {
			count = half;
		}
	}
	return first < block->entry_count ? &block->entries[first] : NULL;
}

void gr__snap_file_close(struct gr__snap_file *file)
{
	if (!file)
		return;
	gr__fd_close(file->fd);
	gr__free(file->names);
	gr__free(file->ranges);
	gr__free(file->blocks);
	gr__free(file->by_name);
	gr__free(file->spaces);
	gr__free(file->states);
	gr__free(file->tail);
	gr__free(file->path);
	gr__free(file);
}

static int read_file(struct gr__snap_file *file)
{
	struct gr__file_info info;
	int rc = gr__file_get_info(file->fd, &info);
	char *page = gr__alloc(WIRE_PAGE);

	if (!page)
		rc = gr__fail(-ENOMEM, "snapshot: no memory");
	else if (rc < 0)
		rc = gr__fail(rc, "snapshot %s: what file that is", file->path);
	else if (!info.regular)
		rc = bad(file, "this is no regular file");
	if (!rc)
		rc = read_exactly(file, page, WIRE_PAGE, 0);
	if (!rc)
		rc = check_header(file, page, info.size);
	if (!rc) {
		file->tail = gr__alloc_raw(file->header.size - file->header.tail + 1);
		rc = file->tail
			     ? read_exactly(file, file->tail, file->header.size - file->header.tail,
					    file->header.tail)
			     : gr__fail(-ENOMEM, "snapshot: no memory");
	}
	if (!rc)
		rc = check_digest(file, page);
	gr__free(page);
	return rc ? rc : take_manifest(file);
}

int gr__snap_file_open(const char *path, struct gr__snap_file **file)
{
	struct gr__snap_file *f = gr__alloc(sizeof(*f));
	int rc;

	if (!f)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	f->fd = -1;
	f->path = gr__strdup(path);
	if (!f->path) {
		rc = gr__fail(-ENOMEM, "snapshot: no memory");
		goto close_file;
	}
	rc = gr__file_open(path, O_RDONLY, 0);
	if (rc < 0) {
		rc = gr__fail(rc, "snapshot %s: %s", path, strerrordesc_np(-rc));
		goto close_file;
	}
	f->fd = rc;
	rc = read_file(f);
	if (rc < 0)
		goto close_file;
	*file = f;
	return 0;

close_file:
	gr__snap_file_close(f);
	return rc;
}
