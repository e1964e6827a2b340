/* SPDX-License-Identifier: MIT */
/*
 * A snapshot into another file: other layout, without parents, or as a child of another one, of
 * which equal pages are left out.
 *
 * Threads: the caller's, and a crew that takes chunks under `lock`.
 */
#include "base/error.h"
#include "os/alloc.h"
#include "ram/ram.h"
#include "snapshot/crew.h"
#include "snapshot/writer.h"
#include <errno.h>
#include <string.h>

#define PROGRESS_BYTES (UINT64_C(16) << 20)

struct convert {
	struct gr_snapshot *snapshot;
	const struct gr_snapshot_opts *opts;
	struct gr__writer writer;
	struct gr__crew crew;
	struct gr__packer *packers; /* by thread */
	int *there;		    /* of each block in opts->parent */

	pthread_mutex_t lock;
	unsigned block; /* wr: lock: the next chunk */
	uint64_t number;
	struct gr_snapshot_stats stats; /* wr: lock */
	uint64_t told;			/* wr: lock */
};

/* The next chunk that is told of, here or in the parent to be. Lock held. */
static bool next_chunk(struct convert *convert, unsigned *block, uint64_t *number)
{
	const struct gr_snapshot *parent = convert->opts->parent;
	const struct gr__snap_file *file = convert->snapshot->files[0];

	for (; convert->block < file->block_count; convert->block++, convert->number = 0) {
		uint64_t own = convert->number, other = convert->number,
			 used = file->blocks[convert->block].used;
		int there = convert->there[convert->block];
		bool some = gr__snap_next(convert->snapshot, convert->block, &own);

		if (parent && there >= 0 && gr__snap_next(parent, (unsigned)there, &other) &&
		    (!some || other < own) && other * WIRE_CHUNK < used) {
			own = other;
			some = true;
		}
		if (!some)
			continue;
		*block = convert->block;
		*number = own;
		convert->number = own + 1;
		return true;
	}
	return false;
}

static int convert_chunk(struct convert *convert, struct gr__packer *packer, unsigned block,
			 uint64_t number)
{
	const struct gr__snap_block *from = &convert->snapshot->files[0]->blocks[block];
	uint64_t here = gr__chunk_pages(from->used, number), data, bits;
	char *to = packer->pages;
	unsigned first, count;
	int rc = gr__snap_read(convert->snapshot, block, number, here, packer->reader,
			       packer->pages, &data);

	if (rc < 0)
		return rc;
	for (bits = data; gr__chunk_run(&bits, &first, &count);) {
		memmove(to, packer->pages + first * (uint64_t)WIRE_PAGE,
			count * (uint64_t)WIRE_PAGE);
		to += count * (uint64_t)WIRE_PAGE;
	}
	if (convert->opts->parent)
		rc = gr__drop_same(convert->opts->parent, convert->there[block], number, packer,
				   &here, &data, packer->pages);
	if (rc < 0 || !(convert->opts->parent ? here : data))
		return rc;
	rc = gr__writer_put(&convert->writer, packer, block, number, here, data, packer->pages);
	pthread_mutex_lock(&convert->lock);
	convert->stats.bytes_data += (uint64_t)__builtin_popcountll(data) * WIRE_PAGE;
	convert->stats.bytes_zero += (uint64_t)__builtin_popcountll(here & ~data) * WIRE_PAGE;
	pthread_mutex_unlock(&convert->lock);
	return rc;
}

static int progress(struct convert *convert)
{
	struct gr_snapshot_stats stats;
	bool tell;
	int stop;

	pthread_mutex_lock(&convert->lock);
	stats = convert->stats;
	tell = stats.bytes_done - convert->told >= PROGRESS_BYTES;
	if (tell)
		convert->told = stats.bytes_done;
	pthread_mutex_unlock(&convert->lock);
	if (!tell || !convert->opts->ops || !convert->opts->ops->progress)
		return 0;
	gr__callback_begin();
	stop = convert->opts->ops->progress(convert->opts->context, &stats);
	gr__callback_end();
	return stop ? gr__fail(-ECANCELED, "convert: cancelled") : 0;
}

static int work(void *context, unsigned thread)
{
	struct convert *convert = context;
	uint64_t number = 0;
	unsigned block = 0;
	bool more;
	int rc = 0;

	do {
		pthread_mutex_lock(&convert->lock);
		more = next_chunk(convert, &block, &number);
		convert->stats.bytes_done += more ? WIRE_CHUNK : 0;
		pthread_mutex_unlock(&convert->lock);
		if (more)
			rc = convert_chunk(convert, &convert->packers[thread], block, number);
		if (!rc && !thread)
			rc = progress(convert);
	} while (more && !rc && !gr__crew_failed(&convert->crew));
	return rc;
}

static int run(struct convert *convert, struct wire_header *header)
{
	const struct gr__snap_file *file = convert->snapshot->files[0];
	const struct gr_snapshot *parent = convert->opts->parent;
	struct gr__snap_meta meta = {
		.spaces = file->spaces,
		.space_count = file->space_count,
		.states = file->states,
		.state_count = file->state_count,
	};
	unsigned b;
	int rc = 0;

	for (b = 0; b < file->block_count && !rc; b++) {
		const struct gr__snap_block *from = &file->blocks[b];
		struct gr__written block = {
			.name = from->name,
			.used = from->used,
			.max = from->max,
			.page_size = from->page_size,
			.granule = from->granule,
			.flags = from->flags,
			.runs = from->runs,
			.run_count = from->run_count,
		};

		rc = gr__writer_add_block(&convert->writer, &block);
		convert->there[b] = parent ? gr__snap_file_find(parent->files[0], from->name) : -1;
		convert->stats.bytes += from->used;
	}
	for (b = 0; b < convert->crew.threads && !rc; b++)
		rc = gr__packer_init(&convert->packers[b], &convert->writer);
	if (!rc)
		rc = gr__crew_run(&convert->crew, work, convert);
	if (rc < 0)
		return rc;
	if (parent)
		gr__meta_set_parent(&meta, parent);
	return gr__writer_commit(&convert->writer, &meta, header);
}

int gr_snapshot_convert(struct gr_snapshot *snapshot, const char *path,
			const struct gr_snapshot_opts *opts, struct gr_snapshot_stats *stats)
{
	static const struct gr_snapshot_opts defaults;
	struct convert convert = {.snapshot = snapshot, .opts = opts ? opts : &defaults};
	struct wire_header header;
	unsigned i;
	int rc = 0;

	if (!path || convert.opts->chain || convert.opts->flags)
		return gr__fail(-EINVAL, "convert: path, chain or flags are malformed");
	for (i = 0; convert.opts->parent && i < convert.opts->parent->file_count && !rc; i++)
		rc = gr__writer_spare(path, convert.opts->parent->files[i]->header.id);
	if (!rc)
		rc = gr__crew_init(&convert.crew, convert.opts->threads);
	if (rc < 0)
		return rc;
	pthread_mutex_init(&convert.lock, NULL);
	convert.packers = gr__alloc_array(convert.crew.threads, sizeof(*convert.packers));
	convert.there =
		gr__alloc_array(snapshot->files[0]->block_count + 1, sizeof(*convert.there));
	if (!convert.packers || !convert.there)
		rc = gr__fail(-ENOMEM, "convert: no memory");
	if (!rc)
		rc = gr__writer_open(&convert.writer, path, convert.opts,
				     snapshot->files[0]->block_count);
	if (!rc) {
		rc = run(&convert, &header);
		gr__writer_close(&convert.writer);
	}
	for (i = 0; convert.packers && i < convert.crew.threads; i++)
		gr__packer_fini(&convert.packers[i]);
	gr__free(convert.packers);
	gr__free(convert.there);
	pthread_mutex_destroy(&convert.lock);
	if (!rc && stats) {
		convert.stats.bytes_stored = convert.writer.stored;
		convert.stats.bytes_shared = convert.writer.shared;
		convert.stats.file_bytes = header.size;
		*stats = convert.stats;
	}
	return rc;
}
