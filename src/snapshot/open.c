/* SPDX-License-Identifier: MIT */
/*
 * A snapshot with its parents, and what it tells of itself. See snapshot.h.
 *
 * A parent is looked for under a name that has no slash, in its child's directory, so that a file
 * cannot have others opened. It is its child's when both its id and its digest are.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/pages.h"
#include "snapshot/snapshot.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has_parent(const struct gr__snap_file *file)
{
	static const uint8_t none[GR_SNAPSHOT_ID];

	return memcmp(file->header.parent, none, sizeof(none)) != 0;
}

/* The parent's path, from @child's and its name in there; to be freed. NULL: no memory. */
static char *path_of_parent(const struct gr__snap_file *child)
{
	const char *slash = strrchr(child->path, '/');
	size_t folder = slash ? (size_t)(slash + 1 - child->path) : 0;
	char *path = gr__alloc(folder + strlen(child->parent_name) + 1);

	if (path)
		snprintf(path, folder + strlen(child->parent_name) + 1, "%.*s%s", (int)folder,
			 child->path, child->parent_name);
	return path;
}

static int open_parent(const struct gr__snap_file *child, const char *path,
		       struct gr__snap_file **parent)
{
	char *found = path ? gr__strdup(path) : path_of_parent(child);
	struct gr__snap_file *file = NULL;
	int rc;

	if (!found)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	if (!path && !*child->parent_name)
		rc = gr__fail(-ENOENT, "snapshot %s: its parent has no name; give its path",
			      child->path);
	else
		rc = gr__snap_file_open(found, &file);
	gr__free(found);
	if (rc < 0)
		return rc;
	if (memcmp(file->header.id, child->header.parent, GR_SNAPSHOT_ID) != 0 ||
	    memcmp(file->header.digest, child->header.parent_digest, GR_SNAPSHOT_ID) != 0) {
		rc = gr__fail(-ESTALE, "snapshot %s: its parent is another snapshot than %s",
			      child->path, file->path);
		gr__snap_file_close(file);
		return rc;
	}
	*parent = file;
	return 0;
}

static int find_in_parents(struct gr_snapshot *s)
{
	unsigned b, f;

	s->parents = gr__alloc_array((size_t)s->files[0]->block_count * s->file_count + 1,
				     sizeof(*s->parents));
	if (!s->parents)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	for (b = 0; b < s->files[0]->block_count; b++)
		for (f = 0; f < s->file_count; f++)
			s->parents[b * s->file_count + f] =
				f ? gr__snap_file_find(s->files[f], s->files[0]->blocks[b].name)
				  : (int)b;
	return 0;
}

int gr_snapshot_open(const char *path, const char *parent, struct gr_snapshot **snapshot)
{
	struct gr_snapshot *s;
	int rc;

	if (!path || !snapshot)
		return gr__fail(-EINVAL, "snapshot: no path");
	s = gr__alloc(sizeof(*s));
	if (!s)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	pthread_mutex_init(&s->lock, NULL);
	rc = gr__snap_file_open(path, &s->files[0]);
	while (!rc) {
		struct gr__snap_file *last = s->files[s->file_count++];

		if (!has_parent(last))
			break;
		if (s->file_count > GR__SNAPSHOT_DEPTH)
			rc = gr__fail(-ELOOP, "snapshot %s: it has more than %u parents", path,
				      GR__SNAPSHOT_DEPTH);
		else
			rc = open_parent(last, parent, &s->files[s->file_count]);
		parent = NULL;
	}
	if (!rc)
		rc = find_in_parents(s);
	if (rc < 0) {
		gr_snapshot_close(s);
		return rc;
	}
	*snapshot = s;
	return 0;
}

void gr_snapshot_close(struct gr_snapshot *snapshot)
{
	unsigned f;

	if (!snapshot)
		return;
	while (snapshot->readers) {
		struct gr__snap_reader *reader = snapshot->readers;

		snapshot->readers = reader->next;
		gr__snap_reader_free(reader);
	}
	for (f = 0; f < snapshot->file_count; f++)
		gr__snap_file_close(snapshot->files[f]);
	pthread_mutex_destroy(&snapshot->lock);
	gr__free(snapshot->parents);
	gr__free(snapshot);
}

/* ------------------------------------------------------------------------------- what it tells */

static int by_place(const void *a, const void *b)
{
	uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;

	return (first > second) - (first < second);
}

/* Bytes of content in the file, shared ones once. */
static int count_stored(const struct gr__snap_file *file, struct gr_snapshot_info *info)
{
	uint64_t(*places)[2] = gr__alloc_array(info->chunks + 1, sizeof(*places));
	uint64_t count = 0, i;
	unsigned b;

	if (!places)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	for (b = 0; b < file->block_count; b++)
		for (i = 0; i < file->blocks[b].entry_count; i++) {
			places[count][0] = file->blocks[b].entries[i].place;
			places[count++][1] = file->blocks[b].entries[i].stored;
		}
	qsort(places, count, sizeof(*places), by_place);
	for (i = 0; i < count; i++)
		if (!i || places[i][0] != places[i - 1][0])
			info->bytes_stored += places[i][1];
	gr__free(places);
	return 0;
}

int gr_snapshot_get_info(const struct gr_snapshot *snapshot, unsigned level,
			 struct gr_snapshot_info *info)
{
	const struct gr__snap_file *file;
	struct gr__file_pages pages = {0};
	struct gr_snapshot_info got;
	uint64_t i;
	unsigned b;
	int rc;

	if (level >= snapshot->file_count)
		return gr__fail(-ENOENT, "snapshot %s: it has %u parents", snapshot->files[0]->path,
				snapshot->file_count - 1);
	file = snapshot->files[level];
	got = (struct gr_snapshot_info){
		.path = file->path,
		.parent_name = file->parent_name,
		.layout = (enum gr_snapshot_layout)file->header.layout,
		.blocks = file->block_count,
		.spaces = file->space_count,
		.states = file->state_count,
		.depth = snapshot->file_count - 1 - level,
		.created_ns = file->header.created,
		.file_bytes = file->header.size,
	};
	memcpy(got.id, file->header.id, sizeof(got.id));
	memcpy(got.parent, file->header.parent, sizeof(got.parent));
	memcpy(got.digest, file->header.digest, sizeof(got.digest));
	for (b = 0; b < file->block_count; b++) {
		const struct gr__snap_block *block = &file->blocks[b];

		got.chunks += block->entry_count;
		for (i = 0; i < block->entry_count; i++) {
			unsigned data = (unsigned)__builtin_popcountll(block->entries[i].data),
				 here = (unsigned)__builtin_popcountll(block->entries[i].here);

			got.bytes_data += (uint64_t)data * WIRE_PAGE;
			got.bytes_zero += (uint64_t)(here - data) * WIRE_PAGE;
		}
	}
	if (file->header.layout == GR_SNAPSHOT_MAPPED)
		got.bytes_stored = got.bytes_data;
	rc = file->header.layout == GR_SNAPSHOT_PACKED ? count_stored(file, &got) : 0;
	if (rc < 0)
		return rc;
	if (!gr__file_pages_get(file->fd, &pages))
		got.file_allocated = pages.allocated;
	*info = got;
	return 0;
}

int gr_snapshot_get_block(const struct gr_snapshot *snapshot, unsigned block,
			  struct gr_snapshot_block *info)
{
	const struct gr__snap_block *b;
	unsigned i;

	if (block >= snapshot->files[0]->block_count)
		return gr__fail(-ENOENT, "snapshot %s: it has %u blocks", snapshot->files[0]->path,
				snapshot->files[0]->block_count);
	b = &snapshot->files[0]->blocks[block];
	*info = (struct gr_snapshot_block){
		.name = b->name,
		.length = b->used,
		.max_length = b->max,
		.page_size = b->page_size,
		.granule = b->granule,
		.flags = b->flags & WIRE_BLOCK_READ_ONLY ? GR_READ_ONLY : 0,
	};
	for (i = 0; i < b->run_count; i++)
		info->plugged += b->runs[i].length;
	return 0;
}

int gr_snapshot_find_block(const struct gr_snapshot *snapshot, const char *name)
{
	int found = name ? gr__snap_file_find(snapshot->files[0], name) : -1;

	return found < 0 ? gr__fail(-ENOENT, "snapshot %s: it has no block %s",
				    snapshot->files[0]->path, name ? name : "")
			 : found;
}

int gr_snapshot_get_space(const struct gr_snapshot *snapshot, unsigned space, const char **name,
			  unsigned *ranges)
{
	const struct gr__snap_file *file = snapshot->files[0];

	if (space >= file->space_count)
		return gr__fail(-ENOENT, "snapshot %s: it has %u spaces", file->path,
				file->space_count);
	*name = file->spaces[space].name;
	*ranges = file->spaces[space].range_count;
	return 0;
}

int gr_snapshot_get_range(const struct gr_snapshot *snapshot, unsigned space, unsigned range,
			  struct gr_snapshot_range *info)
{
	const struct gr__snap_file *file = snapshot->files[0];

	if (space >= file->space_count || range >= file->spaces[space].range_count)
		return gr__fail(-ENOENT, "snapshot %s: it has no such range", file->path);
	*info = file->spaces[space].ranges[range];
	return 0;
}

int gr_snapshot_get_state(const struct gr_snapshot *snapshot, unsigned state, const char **name,
			  const void **bytes, uint64_t *length)
{
	const struct gr__snap_file *file = snapshot->files[0];

	if (state >= file->state_count)
		return gr__fail(-ENOENT, "snapshot %s: it has %u pieces of state", file->path,
				file->state_count);
	*name = file->states[state].name;
	*bytes = file->states[state].bytes;
	*length = file->states[state].length;
	return 0;
}

/* --------------------------------------------------------------------------------------- pages */

/*
 * What is known of page @page of a chunk: 1 or 0, who tells it in *level, and which pages of the
 * chunk are the same in both, in *same.
 */
static int look_chunk(const struct gr_snapshot *s, unsigned block, uint64_t number, unsigned page,
		      int *level, uint64_t *same)
{
	uint64_t want = ~UINT64_C(0), untold = 0, bit = UINT64_C(1) << page;
	unsigned f;

	for (f = 0; f < s->file_count && want; f++) {
		int there = s->parents[block * s->file_count + f];
		const struct gr__snap_block *its = there < 0 ? NULL : &s->files[f]->blocks[there];
		const struct wire_entry *entry = its ? gr__snap_entry_from(its, number) : NULL;
		uint64_t pages = its ? gr__snap_pages(its, number) : 0;

		untold |= want & ~pages;
		want &= pages;
		if (!entry || entry->number != number)
			continue;
		if (want & entry->here & bit) {
			*level = (int)f;
			*same = want & entry->here &
				(entry->data & bit ? entry->data : ~entry->data);
			return (entry->data & bit) != 0;
		}
		want &= ~entry->here;
	}
	*level = -1;
	*same = want | untold;
	return 0;
}

int gr__snap_look(const struct gr_snapshot *snapshot, unsigned block, uint64_t offset,
		  uint64_t *length, int *level)
{
	uint64_t used = snapshot->files[0]->blocks[block].used, at = offset, end = used, number,
		 same, rest;
	int kind, of, next_kind, next_of;
	unsigned page;

	if (*length < used - offset)
		end = offset + *length;
	page = at / WIRE_PAGE % WIRE_CHUNK_PAGES;
	next_kind = kind = look_chunk(snapshot, block, at / WIRE_CHUNK, page, &of, &same);
	next_of = of;
	while (next_kind == kind && next_of == of) {
		rest = ~(same >> page);
		if (page)
			rest &= (UINT64_C(1) << (WIRE_CHUNK_PAGES - page)) - 1;
		number = at / WIRE_CHUNK;
		if (rest) { /* it ends in this chunk */
			at = number * WIRE_CHUNK +
			     (page + (unsigned)__builtin_ctzll(rest)) * (uint64_t)WIRE_PAGE;
			break;
		}
		number++;
		/* chunks that no file tells of are passed at once */
		if (of < 0 && !gr__snap_next(snapshot, block, &number))
			number = end / WIRE_CHUNK + 1;
		at = number * WIRE_CHUNK;
		if (at >= end)
			break;
		page = 0;
		next_kind = look_chunk(snapshot, block, number, 0, &next_of, &same);
	}
	*length = (at < end ? at : end) - offset;
	*level = of;
	return kind;
}

int gr_snapshot_look(const struct gr_snapshot *snapshot, unsigned block, uint64_t offset,
		     uint64_t *length, int *level)
{
	uint64_t used, got = UINT64_MAX;
	int of, kind;

	if (block >= snapshot->files[0]->block_count)
		return gr__fail(-ENOENT, "snapshot %s: it has %u blocks", snapshot->files[0]->path,
				snapshot->files[0]->block_count);
	used = snapshot->files[0]->blocks[block].used;
	if (offset >= used)
		return gr__fail(-ERANGE, "snapshot %s: %#llx is past the block's %#llx bytes",
				snapshot->files[0]->path, (unsigned long long)offset,
				(unsigned long long)used);
	kind = gr__snap_look(snapshot, block, offset, &got, &of);
	*length = got;
	if (level)
		*level = of;
	return kind;
}

int gr_snapshot_locate(const struct gr_snapshot *snapshot, unsigned block, uint64_t offset,
		       uint64_t *length, struct gr_snapshot_place *place)
{
	const struct wire_entry *entry;
	uint64_t run, left = WIRE_CHUNK - offset % WIRE_CHUNK;
	int level, there, kind = gr_snapshot_look(snapshot, block, offset, &run, &level);

	if (kind < 0)
		return kind;
	if (!kind)
		return gr__fail(-ENOENT, "snapshot %s: it is zero at %#llx",
				snapshot->files[0]->path, (unsigned long long)offset);
	there = snapshot->parents[block * snapshot->file_count + (unsigned)level];
	entry = gr__snap_entry_from(&snapshot->files[level]->blocks[there], offset / WIRE_CHUNK);
	*length = run < left ? run : left;
	*place = (struct gr_snapshot_place){
		.level = (unsigned)level,
		.chunk = gr__align_down(offset, WIRE_CHUNK),
		.offset = entry->place,
		.stored = entry->stored,
	};
	return 0;
}

static struct gr__snap_reader *take_reader(struct gr_snapshot *snapshot)
{
	struct gr__snap_reader *reader;

	pthread_mutex_lock(&snapshot->lock);
	reader = snapshot->readers;
	if (reader)
		snapshot->readers = reader->next;
	pthread_mutex_unlock(&snapshot->lock);
	return reader ? reader : gr__snap_reader_new();
}

static void give_reader(struct gr_snapshot *snapshot, struct gr__snap_reader *reader)
{
	pthread_mutex_lock(&snapshot->lock);
	reader->next = snapshot->readers;
	snapshot->readers = reader;
	pthread_mutex_unlock(&snapshot->lock);
}

/* Zeroes where there is no content. */
static void fill_rest(char *to, uint64_t zero)
{
	unsigned first, count;

	while (gr__chunk_run(&zero, &first, &count))
		memset(to + first * (uint64_t)WIRE_PAGE, 0, count * (uint64_t)WIRE_PAGE);
}

int gr_snapshot_read(struct gr_snapshot *snapshot, unsigned block, uint64_t offset, void *buf,
		     uint64_t length)
{
	const struct gr__snap_file *file = snapshot->files[0];
	struct gr__snap_reader *reader;
	uint64_t at, part, want, data;
	char *to = buf;
	int rc = 0;

	if (block >= file->block_count)
		return gr__fail(-ENOENT, "snapshot %s: it has %u blocks", file->path,
				file->block_count);
	if ((offset | length) % WIRE_PAGE)
		return gr__fail(-EINVAL, "snapshot %s: %#llx bytes at %#llx are no whole pages",
				file->path, (unsigned long long)length, (unsigned long long)offset);
	if (!gr__range_within(offset, length, file->blocks[block].used))
		return gr__fail(-ERANGE, "snapshot %s: %#llx bytes at %#llx leave block %s",
				file->path, (unsigned long long)length, (unsigned long long)offset,
				file->blocks[block].name);
	reader = take_reader(snapshot);
	if (!reader)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	for (at = offset; at < offset + length && !rc; at += part) {
		uint64_t in = at % WIRE_CHUNK;

		part = WIRE_CHUNK - in < offset + length - at ? WIRE_CHUNK - in
							      : offset + length - at;
		want = gr__chunk_bits((unsigned)(in / WIRE_PAGE), (unsigned)(part / WIRE_PAGE));
		/* the chunk's page 0 would stand before @buf: nothing is written there */
		rc = gr__snap_read(snapshot, block, at / WIRE_CHUNK, want, reader,
				   (char *)((uintptr_t)to - in), &data);
		if (!rc)
			fill_rest((char *)((uintptr_t)to - in), want & ~data);
		to += part;
	}
	give_reader(snapshot, reader);
	return rc;
}
