/* SPDX-License-Identifier: MIT */
/*
 * Pages out of a snapshot: each from the first file that tells of it, child before parent. What was
 * stored is read whole, compared with its hash, and unpacked; where all of it is wanted and it is
 * not packed, it is read straight to its place.
 *
 * Threads: any number, each with a reader of its own.
 */
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/transfer.h"
#include "snapshot/snapshot.h"
#include <errno.h>
#include <string.h>

struct gr__snap_reader *gr__snap_reader_new(void)
{
	struct gr__snap_reader *reader = gr__alloc(sizeof(*reader));

	if (!reader)
		return NULL;
	reader->zstd = ZSTD_createDCtx();
	reader->stored = gr__alloc_aligned(WIRE_PAGE, WIRE_CHUNK);
	reader->pages = gr__alloc_aligned(WIRE_PAGE, WIRE_CHUNK);
	if (!reader->zstd || !reader->stored || !reader->pages) {
		gr__snap_reader_free(reader);
		return NULL;
	}
	return reader;
}

void gr__snap_reader_free(struct gr__snap_reader *reader)
{
	if (!reader)
		return;
	ZSTD_freeDCtx(reader->zstd);
	gr__free(reader->stored);
	gr__free(reader->pages);
	gr__free(reader);
}

/* ------------------------------------------------------------------------------------ one entry */

static int read_whole(int fd, void *to, uint64_t length, uint64_t at)
{
	int64_t got = gr__file_read(fd, to, length, at);

	if (got < 0)
		return (int)got;
	return (uint64_t)got == length ? 0 : -EBADMSG; /* cut since it was opened */
}

/* Where the stored bytes of a page stand: one after the other, or in its place. */
static uint64_t place_of(const struct wire_entry *entry, bool mapped, unsigned page)
{
	return entry->place +
	       (mapped ? page : gr__chunk_before(entry->data, page)) * (uint64_t)WIRE_PAGE;
}

/* All its pages, not packed, run by run: to their places in @to, or one after the other. */
static int read_plain(int fd, const struct wire_entry *entry, bool mapped, bool compact, char *to)
{
	uint64_t bits = entry->data;
	unsigned first, count, done = 0;
	XXH3_state_t state; /* aligned to 64 by its type */
	int rc = 0;

	XXH3_64bits_reset(&state);
	while (!rc && gr__chunk_run(&bits, &first, &count)) {
		char *at = to + (compact ? done : first) * (uint64_t)WIRE_PAGE;

		rc = read_whole(fd, at, count * (uint64_t)WIRE_PAGE,
				place_of(entry, mapped, first));
		if (!rc)
			XXH3_64bits_update(&state, at, count * (uint64_t)WIRE_PAGE);
		done += count;
	}
	if (rc)
		return rc;
	return XXH3_64bits_digest(&state) == entry->hash ? 0 : -EBADMSG;
}

/* All its pages, one after the other, to @to. */
static int read_packed(int fd, const struct wire_entry *entry, struct gr__snap_reader *reader,
		       char *to)
{
	size_t length = (size_t)__builtin_popcountll(entry->data) * WIRE_PAGE;
	int rc = read_whole(fd, reader->stored, entry->stored, entry->place);

	if (rc)
		return rc;
	if (XXH3_64bits(reader->stored, entry->stored) != entry->hash)
		return -EBADMSG;
	return ZSTD_decompressDCtx(reader->zstd, to, length, reader->stored, entry->stored) ==
			       length
		       ? 0
		       : -EBADMSG;
}

static void spread(const struct wire_entry *entry, uint64_t want, const char *from, char *to)
{
	unsigned first, count;

	while (gr__chunk_run(&want, &first, &count))
		memcpy(to + first * (uint64_t)WIRE_PAGE,
		       from + gr__chunk_before(entry->data, first) * (uint64_t)WIRE_PAGE,
		       count * (uint64_t)WIRE_PAGE);
}

static bool one_run(uint64_t bits)
{
	unsigned first, count;

	return gr__chunk_run(&bits, &first, &count) && !bits;
}

int gr__entry_read(int fd, const struct wire_entry *entry, struct gr__snap_reader *reader,
		   uint64_t want, char *to)
{
	bool mapped = entry->flags & GR__ENTRY_MAPPED, whole = want == entry->data;
	int rc;

	if (!want)
		return 0;
	if (!(entry->flags & WIRE_ENTRY_ZSTD)) {
		rc = read_plain(fd, entry, mapped, !whole, whole ? to : reader->pages);
		if (!rc && !whole)
			spread(entry, want, reader->pages, to);
		return rc;
	}
	if (whole && one_run(want))
		return read_packed(fd, entry, reader,
				   to + __builtin_ctzll(want) * (uint64_t)WIRE_PAGE);
	rc = read_packed(fd, entry, reader, reader->pages);
	if (!rc)
		spread(entry, want, reader->pages, to);
	return rc;
}

/* ------------------------------------------------------------------------------------ all files */

uint64_t gr__snap_pages(const struct gr__snap_block *block, uint64_t number)
{
	uint64_t all = gr__chunk_pages(block->used, number), plugged = 0,
		 first = number * WIRE_CHUNK, last = first + WIRE_CHUNK - 1;
	unsigned from = 0, count = block->run_count;

	if (!block->granule)
		return all;
	while (count) { /* the first run that ends behind @first */
		unsigned half = count / 2;
		const struct wire_run *run = &block->runs[from + half];

		if (run->offset + run->length <= first) {
			from += half + 1;
			count -= half + 1;
		} else {
			count = half;
		}
	}
	for (; from < block->run_count && block->runs[from].offset <= last; from++) {
		const struct wire_run *run = &block->runs[from];
		uint64_t begin = run->offset > first ? run->offset : first,
			 end = run->offset + run->length - 1 < last ? run->offset + run->length
								    : last + 1;

		plugged |= gr__chunk_bits((unsigned)((begin - first) / WIRE_PAGE),
					  (unsigned)((end - begin) / WIRE_PAGE));
	}
	return all & plugged;
}

bool gr__snap_next(const struct gr_snapshot *snapshot, unsigned block, uint64_t *number)
{
	uint64_t end = snapshot->files[0]->blocks[block].used, best = UINT64_MAX;
	unsigned f;

	for (f = 0; f < snapshot->file_count; f++) {
		int there = snapshot->parents[block * snapshot->file_count + f];
		const struct wire_entry *entry =
			there < 0
				? NULL
				: gr__snap_entry_from(&snapshot->files[f]->blocks[there], *number);

		if (entry && entry->number < best)
			best = entry->number;
	}
	if (best > end / WIRE_CHUNK || best * WIRE_CHUNK >= end)
		return false;
	*number = best;
	return true;
}

int gr__snap_read(const struct gr_snapshot *snapshot, unsigned block, uint64_t number,
		  uint64_t want, struct gr__snap_reader *reader, char *to, uint64_t *data)
{
	unsigned f;
	int rc;

	*data = 0;
	want &= gr__snap_pages(&snapshot->files[0]->blocks[block], number);
	for (f = 0; f < snapshot->file_count && want; f++) {
		const struct gr__snap_file *file = snapshot->files[f];
		int there = snapshot->parents[block * snapshot->file_count + f];
		const struct gr__snap_block *its = there < 0 ? NULL : &file->blocks[there];
		const struct wire_entry *entry = its ? gr__snap_entry_from(its, number) : NULL;
		uint64_t got;

		if (!its)
			break; /* the block is younger than that file */
		/* what an older file does not have, it had as zero */
		if (entry && entry->number == number) {
			got = want & entry->data;
			if (to && got) {
				rc = gr__entry_read(file->fd, entry, reader, got, to);
				if (rc < 0)
					return gr__fail(rc, "snapshot %s: block %s at %#llx: %s",
							file->path, its->name,
							(unsigned long long)(number * WIRE_CHUNK),
							rc == -EBADMSG ? "damaged"
								       : strerrordesc_np(-rc));
			}
			*data |= got;
			want &= ~entry->here;
		}
		want &= gr__snap_pages(its, number);
	}
	return 0;
}
