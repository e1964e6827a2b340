/* SPDX-License-Identifier: MIT */
/*
 * Every byte of a snapshot's files: header, manifest and index were compared when it was opened;
 * here chunks are, and what no chunk has must be zero.
 *
 * Threads: the caller's, and a crew for the chunks.
 */
#include "base/error.h"
#include "base/range.h"
#include "base/zero.h"
#include "os/alloc.h"
#include "os/transfer.h"
#include "ram/ram.h"
#include "snapshot/crew.h"
#include "snapshot/snapshot.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 4
#define PROGRESS_BYTES (UINT64_C(16) << 20)

struct verify {
	const struct gr__snap_file *file;
	const struct gr_snapshot_opts *opts;
	struct gr__crew crew;
	pthread_mutex_t lock;
	unsigned block; /* wr: lock: the next entry */
	uint64_t entry;
	struct gr_snapshot_stats stats; /* wr: lock */
	uint64_t told;			/* wr: lock */
};

static int bad_chunk(const struct verify *verify, unsigned block, const struct wire_entry *entry,
		     int rc)
{
	return gr__fail(rc, "snapshot %s: block %s at %#llx: %s", verify->file->path,
			verify->file->blocks[block].name,
			(unsigned long long)(entry->number * WIRE_CHUNK),
			rc == -EBADMSG ? "damaged" : strerrordesc_np(-rc));
}

static int progress(struct verify *verify)
{
	struct gr_snapshot_stats stats;
	bool tell;
	int stop;

	pthread_mutex_lock(&verify->lock);
	stats = verify->stats;
	tell = stats.bytes_done - verify->told >= PROGRESS_BYTES;
	if (tell)
		verify->told = stats.bytes_done;
	pthread_mutex_unlock(&verify->lock);
	if (!tell || !verify->opts->ops || !verify->opts->ops->progress)
		return 0;
	gr__callback_begin();
	stop = verify->opts->ops->progress(verify->opts->context, &stats);
	gr__callback_end();
	return stop ? gr__fail(-ECANCELED, "verify: cancelled") : 0;
}

/* Lock held. */
static unsigned take(struct verify *verify, const struct wire_entry **entries, unsigned *blocks)
{
	unsigned count = 0;

	while (count < BATCH && verify->block < verify->file->block_count) {
		const struct gr__snap_block *block = &verify->file->blocks[verify->block];

		if (verify->entry == block->entry_count) {
			verify->block++;
			verify->entry = 0;
			continue;
		}
		entries[count] = &block->entries[verify->entry++];
		blocks[count++] = verify->block;
	}
	return count;
}

static int work(void *context, unsigned thread)
{
	struct verify *verify = context;
	struct gr__snap_reader *reader = gr__snap_reader_new();
	const struct wire_entry *entries[BATCH];
	char *pages = gr__alloc_aligned(WIRE_PAGE, WIRE_CHUNK);
	unsigned blocks[BATCH], count, i;
	int rc = 0;

	if (!reader || !pages)
		rc = gr__fail(-ENOMEM, "verify: no memory");
	do {
		uint64_t done = 0, stored = 0;

		pthread_mutex_lock(&verify->lock);
		count = take(verify, entries, blocks);
		pthread_mutex_unlock(&verify->lock);
		for (i = 0; i < count && !rc; i++) {
			rc = gr__entry_read(verify->file->fd, entries[i], reader, entries[i]->data,
					    pages);
			if (rc < 0)
				rc = bad_chunk(verify, blocks[i], entries[i], rc);
			done += (uint64_t)__builtin_popcountll(entries[i]->data) * WIRE_PAGE;
			stored += entries[i]->stored;
		}
		pthread_mutex_lock(&verify->lock);
		verify->stats.bytes_done += done;
		verify->stats.bytes_data += done;
		verify->stats.bytes_stored += stored;
		pthread_mutex_unlock(&verify->lock);
		if (!rc && !thread)
			rc = progress(verify);
	} while (count && !rc && !gr__crew_failed(&verify->crew));
	gr__snap_reader_free(reader);
	gr__free(pages);
	return rc;
}

/* ----------------------------------------------------------------------------- what no chunk has
 */

struct piece {
	uint64_t first, end;
};

static int by_first(const void *a, const void *b)
{
	const struct piece *one = a, *two = b;

	return (one->first > two->first) - (one->first < two->first);
}

/* Bytes [first, end) of the file are zero. */
static int check_zero(const struct verify *verify, uint64_t first, uint64_t end, char *buf)
{
	const struct gr__snap_file *file = verify->file;
	uint64_t data, hole, part, i;
	int rc;

	while (first < end) {
		rc = gr__file_next_data(file->fd, first, &data, &hole);
		if (rc == -ENXIO || (!rc && data >= end))
			return 0;
		if (rc < 0)
			return gr__fail(rc, "snapshot %s: which parts it has", file->path);
		if (data > first)
			first = data;
		if (hole > end)
			hole = end;
		for (; first < hole; first += part) {
			part = hole - first < WIRE_CHUNK ? hole - first : WIRE_CHUNK;
			if (gr__file_read(file->fd, buf, part, first) != (int64_t)part)
				return gr__fail(-EIO, "snapshot %s: reading at %llu", file->path,
						(unsigned long long)first);
			for (i = 0; i < part && !buf[i]; i++)
				;
			if (i < part)
				return gr__fail(-EBADMSG,
						"snapshot %s: byte %llu belongs to nothing, and is "
						"not zero",
						file->path, (unsigned long long)(first + i));
		}
	}
	return 0;
}

/* A walk over what entries have, in the order of the file. */
struct gaps {
	const struct verify *verify;
	uint64_t at; /* where the last piece ends */
	char *buf;   /* WIRE_CHUNK */
};

/* The next piece. */
static int pass_piece(struct gaps *gaps, uint64_t first, uint64_t end)
{
	int rc;

	if (first < gaps->at)
		return gr__fail(-EBADMSG, "snapshot %s: chunks overlap at %llu",
				gaps->verify->file->path, (unsigned long long)first);
	rc = check_zero(gaps->verify, gaps->at, first, gaps->buf);
	gaps->at = end;
	return rc;
}

/* Areas rise by block, and chunks in them: that was compared when the file was opened. */
static int pass_mapped(struct gaps *gaps)
{
	const struct gr__snap_file *file = gaps->verify->file;
	unsigned b, first, count;
	uint64_t k, bits;
	int rc = 0;

	for (b = 0; b < file->block_count; b++) {
		for (k = 0; k < file->blocks[b].entry_count; k++) {
			const struct wire_entry *e = &file->blocks[b].entries[k];

			for (bits = e->data; !rc && gr__chunk_run(&bits, &first, &count);) {
				uint64_t at = e->place + first * (uint64_t)WIRE_PAGE;

				rc = pass_piece(gaps, at, at + count * (uint64_t)WIRE_PAGE);
			}
		}
	}
	return rc;
}

/* Chunks are anywhere, and some have two names. */
static int pass_packed(struct gaps *gaps)
{
	const struct gr__snap_file *file = gaps->verify->file;
	uint64_t most = file->header.index_length / sizeof(struct wire_entry), count = 0, k;
	struct piece *pieces = gr__alloc_array(most + 1, sizeof(*pieces));
	unsigned b;
	int rc = 0;

	if (!pieces)
		return gr__fail(-ENOMEM, "verify: no memory");
	for (b = 0; b < file->block_count; b++) {
		for (k = 0; k < file->blocks[b].entry_count; k++) {
			const struct wire_entry *e = &file->blocks[b].entries[k];

			if (e->stored)
				pieces[count++] = (struct piece){e->place, e->place + e->stored};
		}
	}
	qsort(pieces, count, sizeof(*pieces), by_first);
	for (k = 0; k < count && !rc; k++)
		if (!k || pieces[k].first != pieces[k - 1].first ||
		    pieces[k].end != pieces[k - 1].end)
			rc = pass_piece(gaps, pieces[k].first, pieces[k].end);
	gr__free(pieces);
	return rc;
}

static int check_gaps(const struct verify *verify)
{
	const struct gr__snap_file *file = verify->file;
	struct gaps gaps = {verify, WIRE_PAGE, gr__alloc_raw(WIRE_CHUNK)};
	int rc;

	if (!gaps.buf)
		return gr__fail(-ENOMEM, "verify: no memory");
	rc = file->header.layout == GR_SNAPSHOT_MAPPED ? pass_mapped(&gaps) : pass_packed(&gaps);
	if (!rc)
		rc = pass_piece(&gaps, file->header.tail, file->header.tail);
	gr__free(gaps.buf);
	return rc;
}

/* ---------------------------------------------------------------------------------------- all */

static int verify_file(struct verify *verify)
{
	int rc;

	verify->block = 0;
	verify->entry = 0;
	verify->stats.file_bytes += verify->file->header.size;
	rc = gr__crew_run(&verify->crew, work, verify);
	return rc ? rc : check_gaps(verify);
}

int gr_snapshot_verify(struct gr_snapshot *snapshot, const struct gr_snapshot_opts *opts,
		       struct gr_snapshot_stats *stats)
{
	static const struct gr_snapshot_opts defaults;
	struct verify verify = {.opts = opts ? opts : &defaults};
	struct gr_snapshot_info info;
	unsigned f;
	int rc = gr__crew_init(&verify.crew, verify.opts->threads);

	for (f = 0; f < snapshot->file_count && !rc; f++) {
		rc = gr_snapshot_get_info(snapshot, f, &info);
		verify.stats.bytes += info.bytes_data;
	}
	if (rc < 0)
		return rc;
	pthread_mutex_init(&verify.lock, NULL);
	for (f = 0; f < snapshot->file_count && !rc; f++) {
		verify.file = snapshot->files[f];
		rc = verify_file(&verify);
	}
	pthread_mutex_destroy(&verify.lock);
	if (!rc && stats)
		*stats = verify.stats;
	return rc;
}
