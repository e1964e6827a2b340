/* SPDX-License-Identifier: MIT */
/* See writer.h. The tail is written by tail.c. */
#include "snapshot/writer.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/file.h"
#include "os/transfer.h"
#include <errno.h>
#include <string.h>

#define LEVEL_MAX 19
#define AREA_ALIGN_MAX (UINT64_C(2) << 20)

void gr__meta_set_parent(struct gr__snap_meta *meta, const struct gr_snapshot *parent)
{
	const struct gr__snap_file *file = parent->files[0];
	const char *slash = strrchr(file->path, '/');

	meta->parent = file->header.id;
	meta->parent_digest = file->header.digest;
	meta->parent_name = slash ? slash + 1 : file->path;
}

int gr__writer_open(struct gr__writer *writer, const char *path,
		    const struct gr_snapshot_opts *opts, unsigned block_count)
{
	int rc;

	*writer = (struct gr__writer){
		.layout = opts->layout ? opts->layout : GR_SNAPSHOT_MAPPED,
		.level = opts->level ? opts->level : 1,
		.area = WIRE_PAGE,
		.next = WIRE_PAGE,
	};
	writer->file.fd = -1;
	pthread_mutex_init(&writer->lock, NULL);
	if ((writer->layout != GR_SNAPSHOT_MAPPED && writer->layout != GR_SNAPSHOT_PACKED) ||
	    writer->level < 1 || writer->level > LEVEL_MAX) {
		rc = gr__fail(-EINVAL, "snapshot: layout %d, level %d", (int)writer->layout,
			      writer->level);
		goto destroy_lock;
	}
	writer->blocks = gr__alloc_array(block_count + 1, sizeof(*writer->blocks));
	if (!writer->blocks) {
		rc = gr__fail(-ENOMEM, "snapshot: no memory");
		goto destroy_lock;
	}
	rc = gr__whole_open(&writer->file, path);
	if (rc < 0) {
		rc = gr__fail(rc, "snapshot %s: a file beside it cannot be made", path);
		goto free_blocks;
	}
	return 0;

free_blocks:
	gr__free(writer->blocks);
destroy_lock:
	pthread_mutex_destroy(&writer->lock);
	return rc;
}

int gr__writer_add_block(struct gr__writer *writer, const struct gr__written *block)
{
	struct gr__written *b = &writer->blocks[writer->block_count];
	uint64_t align = AREA_ALIGN_MAX;

	*b = *block;
	writer->block_count++;
	if (writer->layout == GR_SNAPSHOT_PACKED)
		return 0;
	while (align > WIRE_PAGE && align > b->max)
		align /= 2;
	if (!gr__align_up(writer->area, align, &b->area) || b->max > INT64_MAX ||
	    b->area > INT64_MAX - b->max)
		return gr__fail(-EFBIG, "snapshot: block %s's %#llx bytes have no place in a file",
				b->name, (unsigned long long)b->max);
	writer->area = b->area + b->max;
	return 0;
}

void gr__writer_close(struct gr__writer *writer)
{
	unsigned i;

	for (i = 0; i < writer->block_count; i++)
		gr__index_free(&writer->blocks[i].index);
	gr__free(writer->blocks);
	gr__free(writer->known);
	gr__whole_abandon(&writer->file);
	pthread_mutex_destroy(&writer->lock);
}

int gr__packer_init(struct gr__packer *packer, const struct gr__writer *writer)
{
	*packer = (struct gr__packer){0};
	packer->pages = gr__alloc_aligned(WIRE_PAGE, WIRE_CHUNK);
	packer->compare = gr__alloc_aligned(WIRE_PAGE, WIRE_CHUNK);
	packer->reader = gr__snap_reader_new();
	if (!packer->pages || !packer->compare || !packer->reader)
		goto no_memory;
	if (writer->layout == GR_SNAPSHOT_PACKED) {
		packer->zstd = ZSTD_createCCtx();
		packer->packed = gr__alloc_raw(WIRE_CHUNK);
		if (!packer->zstd || !packer->packed)
			goto no_memory;
	}
	return 0;

no_memory:
	gr__packer_fini(packer);
	return gr__fail(-ENOMEM, "snapshot: no memory for a thread");
}

void gr__packer_fini(struct gr__packer *packer)
{
	ZSTD_freeCCtx(packer->zstd);
	gr__snap_reader_free(packer->reader);
	gr__free(packer->packed);
	gr__free(packer->compare);
	gr__free(packer->pages);
	*packer = (struct gr__packer){0};
}

/* ------------------------------------------------------------------------------------- entries */

const struct wire_entry *gr__writer_entry(struct gr__writer *writer, unsigned block,
					  uint64_t number)
{
	const struct wire_entry *entry = gr__index_find(&writer->blocks[block].index, number);

	return entry && entry->here ? entry : NULL;
}

static struct wire_entry *make_entry(struct gr__writer *writer, unsigned block, uint64_t number)
{
	struct gr__index *index = &writer->blocks[block].index;
	struct wire_entry *entry = gr__index_find(index, number);

	if (entry)
		return entry;
	pthread_mutex_lock(&writer->lock);
	entry = gr__index_make(index, number);
	pthread_mutex_unlock(&writer->lock);
	return entry;
}

/* -------------------------------------------------------------------------------- equal chunks */

/* The slot of that, or the free one where it would be. Lock held; there is a free one. */
static struct gr__stored *slot_of(const struct gr__writer *writer, const struct gr__stored *what)
{
	uint64_t at = what->hash & (writer->known_size - 1);

	for (;; at = (at + 1) & (writer->known_size - 1)) {
		struct gr__stored *slot = &writer->known[at];

		if (!slot->stored || (slot->hash == what->hash && slot->stored == what->stored &&
				      slot->flags == what->flags))
			return slot;
	}
}

/* For want of memory equal chunks are stored twice. Lock held. */
static void make_room(struct gr__writer *writer)
{
	struct gr__stored *old = writer->known;
	uint64_t size = writer->known_size, i;

	if (writer->known_count < size / 2)
		return;
	writer->known = gr__alloc_array(size ? size * 2 : 1024, sizeof(*old));
	if (!writer->known) {
		writer->known = old;
		return;
	}
	writer->known_size = size ? size * 2 : 1024;
	for (i = 0; i < size; i++)
		if (old[i].stored)
			*slot_of(writer, &old[i]) = old[i];
	gr__free(old);
}

/* Is it stored already, byte for byte? Then at what->place. */
static bool stored_before(struct gr__writer *writer, struct gr__packer *packer,
			  struct gr__stored *what, const char *bytes)
{
	struct gr__stored found = {0};

	pthread_mutex_lock(&writer->lock);
	if (writer->known_size)
		found = *slot_of(writer, what);
	pthread_mutex_unlock(&writer->lock);
	if (!found.stored || gr__file_read(writer->file.fd, packer->compare, found.stored,
					   found.place) != (int64_t)found.stored)
		return false;
	what->place = found.place;
	return memcmp(packer->compare, bytes, found.stored) == 0;
}

/* It is in the file now: others may name it. */
static void remember(struct gr__writer *writer, const struct gr__stored *what)
{
	struct gr__stored *slot;

	pthread_mutex_lock(&writer->lock);
	make_room(writer);
	if (writer->known_count < writer->known_size / 2 + writer->known_size / 4) {
		slot = slot_of(writer, what);
		writer->known_count += !slot->stored;
		*slot = *what;
	}
	pthread_mutex_unlock(&writer->lock);
}

/* --------------------------------------------------------------------------------------- bytes */

static int fail_write(const struct gr__writer *writer, int rc)
{
	return gr__fail(rc, "snapshot %s: writing: %s", writer->file.path, strerrordesc_np(-rc));
}

int gr__writer_wipe(struct gr__writer *writer, uint64_t at, uint64_t length)
{
	static const char zeroes[WIRE_PAGE];
	int rc = gr__file_punch(writer->file.fd, at, length);
	uint64_t part;

	if (rc != -EOPNOTSUPP && rc != -ENOSYS)
		return rc;
	for (rc = 0; length && !rc; at += part, length -= part) {
		part = length < sizeof(zeroes) ? length : sizeof(zeroes);
		rc = gr__whole_write(&writer->file, zeroes, part, at);
	}
	return rc;
}

static int put_mapped(struct gr__writer *writer, struct wire_entry *entry,
		      const struct wire_entry *old, const char *bytes)
{
	uint64_t bits = entry->data;
	unsigned first, count;
	int rc = 0;

	entry->stored = (uint32_t)__builtin_popcountll(bits) * WIRE_PAGE;
	entry->flags = GR__ENTRY_MAPPED;
	entry->hash = XXH3_64bits(bytes, entry->stored);
	while (!rc && gr__chunk_run(&bits, &first, &count)) {
		rc = gr__whole_write(&writer->file, bytes, count * (uint64_t)WIRE_PAGE,
				     entry->place + first * (uint64_t)WIRE_PAGE);
		bytes += count * (uint64_t)WIRE_PAGE;
	}
	bits = old->data & ~entry->data;
	while (!rc && gr__chunk_run(&bits, &first, &count))
		rc = gr__writer_wipe(writer, entry->place + first * (uint64_t)WIRE_PAGE,
				     count * (uint64_t)WIRE_PAGE);
	return rc;
}

static int put_packed(struct gr__writer *writer, struct gr__packer *packer,
		      struct wire_entry *entry, bool *shared, const char *bytes)
{
	size_t length = (size_t)__builtin_popcountll(entry->data) * WIRE_PAGE, packed;
	struct gr__stored what;
	int rc;

	if (!length)
		return 0;
	packed = ZSTD_compressCCtx(packer->zstd, packer->packed, length - 1, bytes, length,
				   writer->level);
	if (ZSTD_isError(packed)) { /* it does not get shorter */
		packed = length;
	} else {
		bytes = packer->packed;
		entry->flags = WIRE_ENTRY_ZSTD;
	}
	entry->stored = (uint32_t)packed;
	entry->hash = XXH3_64bits(bytes, packed);
	what = (struct gr__stored){entry->hash, 0, entry->stored, entry->flags};
	*shared = stored_before(writer, packer, &what, bytes);
	if (*shared) {
		entry->place = what.place;
		return 0;
	}
	pthread_mutex_lock(&writer->lock);
	what.place = writer->next;
	writer->next += packed;
	pthread_mutex_unlock(&writer->lock);
	entry->place = what.place;
	rc = gr__whole_write(&writer->file, bytes, packed, entry->place);
	if (!rc)
		remember(writer, &what);
	return rc;
}

int gr__writer_put(struct gr__writer *writer, struct gr__packer *packer, unsigned block,
		   uint64_t number, uint64_t here, uint64_t data, const char *bytes)
{
	struct wire_entry *slot = make_entry(writer, block, number),
			  entry = {.number = number, .here = here, .data = data}, old;
	bool shared = false;
	int rc;

	if (!slot)
		return gr__fail(-ENOMEM, "snapshot: no memory for the index");
	old = *slot;
	if (writer->layout == GR_SNAPSHOT_MAPPED) {
		entry.place = writer->blocks[block].area + number * WIRE_CHUNK;
		rc = put_mapped(writer, &entry, &old, bytes);
	} else {
		rc = put_packed(writer, packer, &entry, &shared, bytes);
	}
	if (rc < 0)
		return fail_write(writer, rc);
	*slot = entry;
	pthread_mutex_lock(&writer->lock);
	writer->gaps |= old.stored && writer->layout == GR_SNAPSHOT_PACKED;
	writer->stored += shared ? 0 : entry.stored;
	writer->shared += shared ? (uint64_t)__builtin_popcountll(data) * WIRE_PAGE : 0;
	pthread_mutex_unlock(&writer->lock);
	return 0;
}

int gr__writer_read(struct gr__writer *writer, struct gr__packer *packer,
		    const struct wire_entry *entry, uint64_t want, char *to)
{
	int rc = gr__entry_read(writer->file.fd, entry, packer->reader, want, to);

	return rc < 0 ? gr__fail(rc, "snapshot %s: reading what was written: %s", writer->file.path,
				 rc == -EBADMSG ? "it is damaged" : strerrordesc_np(-rc))
		      : 0;
}

/* --------------------------------------------------------------------------- equal to a parent */

int gr__drop_same(const struct gr_snapshot *parent, int there, uint64_t number,
		  struct gr__packer *packer, uint64_t *here, uint64_t *data, char *bytes)
{
	uint64_t has = 0, kept = 0, bit;
	unsigned page, from = 0, to = 0;
	int rc;

	/* a block that the parent has not is zero there */
	if (there >= 0) {
		rc = gr__snap_read(parent, (unsigned)there, number, *here, packer->reader,
				   packer->compare, &has);
		if (rc < 0)
			return rc;
	}
	for (page = 0; page < WIRE_CHUNK_PAGES; page++) {
		const char *mine = bytes + from * (uint64_t)WIRE_PAGE;
		bool full = *data & (bit = UINT64_C(1) << page), same;

		same = full == !!(has & bit) &&
		       (!full ||
			!memcmp(mine, packer->compare + page * (uint64_t)WIRE_PAGE, WIRE_PAGE));
		if (*here & bit && same)
			*here &= ~bit;
		if (full && !same) {
			if (from != to)
				memcpy(bytes + to * (uint64_t)WIRE_PAGE, mine, WIRE_PAGE);
			kept |= bit;
			to++;
		}
		from += full;
	}
	*data = kept;
	return 0;
}
