/* SPDX-License-Identifier: MIT */
/*
 * A snapshot into the memory of a RAM. First everything is compared, and nothing changed; then
 * read-only blocks are compared byte by byte; then lengths, granules and bytes are taken over.
 *
 * What is zero in the snapshot is only written where a page may have content: memory that was never
 * touched stays so.
 *
 * Threads: the caller's, and a crew that takes chunks from one feed under `lock`.
 */
#include "base/error.h"
#include "base/range.h"
#include "base/zero.h"
#include "os/alloc.h"
#include "os/memory.h"
#include "ram/marks.h"
#include "ram/ram.h"
#include "snapshot/chain.h"
#include "snapshot/crew.h"
#include "snapshot/hold.h"
#include <errno.h>
#include <guestram/plug.h>
#include <string.h>

#define BATCH 4
#define PROGRESS_BYTES (UINT64_C(16) << 20)

struct load {
	struct gr_snapshot *snapshot;
	const struct gr_snapshot_opts *opts;
	struct gr__holds holds;
	int *numbers; /* of each held block in the snapshot */
	struct gr__crew crew;
	struct gr__snap_reader **readers; /* by thread */
	bool compare;			  /* the read-only ones, or else the others */

	pthread_mutex_t lock;
	unsigned block; /* wr: lock: where the crew is */
	uint64_t number;
	struct gr_snapshot_stats stats; /* wr: lock */
	uint64_t told;			/* wr: lock */
};

struct job {
	unsigned block; /* held */
	uint64_t number, may;
};

/* --------------------------------------------------------------------------------------- match */

static bool is_read_only(const struct gr__held *held)
{
	return held->block->mem.flags & GR_READ_ONLY;
}

static uint64_t granule_of(struct gr_block *block)
{
	struct gr_plug *plug;
	uint64_t granule = 0;

	gr_read_begin();
	plug = gr_plug_of(block);
	if (plug)
		granule = gr_plug_granule(plug);
	gr_read_end();
	return granule;
}

static int match_block(const struct gr__held *held, const struct gr__snap_block *there)
{
	static const char *const say[] = {"writable", "read-only"};
	const struct gr__mem *mem = &held->block->mem;
	uint64_t granule = granule_of(held->block);
	bool read_only = there->flags & WIRE_BLOCK_READ_ONLY;
	const char *what = NULL;
	uint64_t its = 0, ours = 0;

	if (there->page_size != mem->page_size) {
		what = "has pages of";
		its = there->page_size;
		ours = mem->page_size;
	} else if (there->max != mem->max_length) {
		what = "can have";
		its = there->max;
		ours = mem->max_length;
	} else if (there->granule != granule) {
		what = "has granules of";
		its = there->granule;
		ours = granule;
	} else if (there->used != held->used &&
		   (is_read_only(held) || gr__mem_check_resizable(mem) < 0)) {
		what = "uses";
		its = there->used;
		ours = held->used;
	}
	if (what)
		return gr__fail(-EINVAL, "load: block %s %s %llu bytes in the snapshot, %llu here",
				there->name, what, (unsigned long long)its,
				(unsigned long long)ours);
	if (read_only != is_read_only(held))
		return gr__fail(-EINVAL, "load: block %s is %s in the snapshot, %s here",
				there->name, say[read_only], say[!read_only]);
	return 0;
}

static int match(struct load *load)
{
	const struct gr__snap_file *file = load->snapshot->files[0];
	unsigned i, b;
	int rc;

	for (i = 0; i < load->holds.count; i++) {
		const struct gr__held *held = &load->holds.items[i];

		load->numbers[i] = gr__snap_file_find(file, held->block->name);
		if (load->numbers[i] < 0)
			return gr__fail(-EEXIST, "load: block %s is here and not in the snapshot",
					held->block->name);
		rc = match_block(held, &file->blocks[load->numbers[i]]);
		if (rc < 0)
			return rc;
	}
	for (b = 0; b < file->block_count && load->holds.count < file->block_count; b++) {
		for (i = 0; i < load->holds.count && load->numbers[i] != (int)b; i++)
			;
		if (i == load->holds.count)
			return gr__fail(-ENOENT, "load: block %s is in the snapshot and not here",
					file->blocks[b].name);
	}
	return 0;
}

/* --------------------------------------------------------------------------- lengths, granules */

static bool same_granules(struct gr_plug *plug, const struct gr__snap_block *there)
{
	uint64_t bytes = 0;
	unsigned i;

	for (i = 0; i < there->run_count; i++) {
		if (gr_plug_is(plug, there->runs[i].offset, there->runs[i].length) != GR_PLUG_ALL)
			return false;
		bytes += there->runs[i].length;
	}
	return gr_plug_bytes(plug) == bytes;
}

static int take_granules(struct gr_block *block, const struct gr__snap_block *there)
{
	struct gr_plug *plug;
	unsigned i;
	int rc;

	gr_read_begin();
	plug = gr_plug_of(block);
	gr_read_end();
	if (!plug || same_granules(plug, there))
		return 0;
	rc = gr_plug_remove_all(plug);
	for (i = 0; i < there->run_count && !rc; i++)
		rc = gr_plug_add(plug, there->runs[i].offset, there->runs[i].length);
	return rc;
}

/* Blocks must not be held while they shrink. */
static int take_shape(struct load *load)
{
	const struct gr__snap_file *file = load->snapshot->files[0];
	struct gr_ram *ram = load->holds.ram;
	unsigned i, count = load->holds.count;
	bool change = false;
	int rc = 0;

	for (i = 0; i < count; i++) {
		const struct gr__snap_block *there = &file->blocks[load->numbers[i]];

		change |= load->holds.items[i].used != there->used || there->granule;
	}
	if (!change)
		return 0;
	gr__holds_drop(&load->holds);
	for (i = 0; i < count && !rc; i++) {
		const struct gr__snap_block *there = &file->blocks[load->numbers[i]];
		struct gr_block *block;

		gr_read_begin();
		block = gr_block_by_name(ram, there->name);
		gr_read_end();
		if (!block)
			rc = gr__fail(-EBUSY, "load: block %s has gone meanwhile", there->name);
		if (!rc && gr__block_length(block) != there->used)
			rc = gr_block_resize(block, there->used);
		if (!rc)
			rc = take_granules(block, there);
	}
	if (!rc)
		rc = gr__holds_take(ram, &load->holds);
	return rc ? rc : match(load);
}

/* --------------------------------------------------------------------------------------- bytes */

/* The next chunk that is told of, or whose memory may have content. Lock held. */
static bool next_job(struct load *load, struct job *job)
{
	for (; load->block < load->holds.count; load->block++, load->number = 0) {
		struct gr__held *held = &load->holds.items[load->block];
		unsigned number = (unsigned)load->numbers[load->block];

		if (is_read_only(held) != load->compare)
			continue;
		while (load->number * WIRE_CHUNK < held->used) {
			uint64_t told = load->number, next, at = load->number;
			bool some = gr__snap_next(load->snapshot, number, &told);

			job->block = load->block;
			job->number = at;
			job->may = gr__held_may(held, at, &next);
			if (job->may || (some && told == at)) {
				load->number = at + 1;
				load->stats.bytes_done += (uint64_t)__builtin_popcountll(
								  gr__chunk_pages(held->used, at)) *
							  WIRE_PAGE;
				return true;
			}
			if (some && told < next)
				next = told;
			if (next > held->used / WIRE_CHUNK)
				next = held->used / WIRE_CHUNK + 1;
			load->stats.bytes_done += (next - at) * WIRE_CHUNK;
			load->number = next;
		}
	}
	return false;
}

static void wipe(const struct gr__held *held, const struct job *job, uint64_t zero)
{
	char *chunk = held->host + job->number * WIRE_CHUNK;
	unsigned page;

	for (; zero; zero &= zero - 1) {
		page = (unsigned)__builtin_ctzll(zero);
		if (gr__is_zero(chunk + page * (uint64_t)WIRE_PAGE, WIRE_PAGE))
			continue;
		memset(chunk + page * (uint64_t)WIRE_PAGE, 0, WIRE_PAGE);
		gr__mark_block(held->block, job->number * WIRE_CHUNK + page * (uint64_t)WIRE_PAGE,
			       WIRE_PAGE);
	}
}

static int compare_chunk(const struct gr__held *held, const struct job *job, const char *pages,
			 uint64_t all, uint64_t data)
{
	const char *chunk = held->host + job->number * WIRE_CHUNK;
	bool same = true;
	unsigned page;

	for (; all && same; all &= all - 1) {
		page = (unsigned)__builtin_ctzll(all);
		if (pages && data >> page & 1)
			same = !memcmp(chunk + page * (uint64_t)WIRE_PAGE,
				       pages + page * (uint64_t)WIRE_PAGE, WIRE_PAGE);
		else if (job->may >> page & 1)
			same = gr__is_zero(chunk + page * (uint64_t)WIRE_PAGE, WIRE_PAGE);
	}
	return same ? 0
		    : gr__fail(-EINVAL, "load: block %s is read-only, and has other bytes at %#llx",
			       held->block->name, (unsigned long long)(job->number * WIRE_CHUNK));
}

/*
 * Memory that has no pages gets them a run at a time: one by one, as bytes come, costs a fault
 * each. What cannot be done so is done that way.
 */
static void fetch_pages(const struct load *load, const struct gr__held *held, const struct job *job)
{
	unsigned number = (unsigned)load->numbers[job->block], first, count;
	uint64_t page = gr__os_page_size(), data = 0;

	if (gr__snap_read(load->snapshot, number, job->number, ~UINT64_C(0), NULL, NULL, &data) < 0)
		return;
	data &= ~job->may & gr__chunk_pages(held->used, job->number);
	while (gr__chunk_run(&data, &first, &count)) {
		char *from = held->host + job->number * WIRE_CHUNK + first * (uint64_t)WIRE_PAGE;

		if (count > 1 &&
		    gr__is_aligned((uintptr_t)from | count * (uint64_t)WIRE_PAGE, page))
			gr__os_populate(from, count * (uint64_t)WIRE_PAGE, true);
	}
}

static int do_job(struct load *load, struct gr__snap_reader *reader, const struct job *job,
		  char *compare)
{
	const struct gr__held *held = &load->holds.items[job->block];
	unsigned number = (unsigned)load->numbers[job->block];
	uint64_t all = gr__chunk_pages(held->used, job->number), data, bits;
	char *to = load->compare ? compare : held->host + job->number * WIRE_CHUNK;
	unsigned first, count;
	int rc;

	if (!load->compare)
		fetch_pages(load, held, job);
	rc = gr__snap_read(load->snapshot, number, job->number, all, reader, to, &data);
	if (!rc && load->compare)
		rc = compare_chunk(held, job, compare, all, data);
	if (rc < 0)
		return rc;
	for (bits = load->compare ? 0 : data; gr__chunk_run(&bits, &first, &count);)
		gr__mark_block(held->block, job->number * WIRE_CHUNK + first * (uint64_t)WIRE_PAGE,
			       count * (uint64_t)WIRE_PAGE);
	if (!load->compare)
		wipe(held, job, job->may & ~data);
	pthread_mutex_lock(&load->lock);
	load->stats.bytes_data += (uint64_t)__builtin_popcountll(data) * WIRE_PAGE;
	load->stats.bytes_zero += (uint64_t)__builtin_popcountll(job->may & ~data) * WIRE_PAGE;
	pthread_mutex_unlock(&load->lock);
	return 0;
}

static int progress(struct load *load)
{
	struct gr_snapshot_stats stats;
	bool tell;
	int stop;

	pthread_mutex_lock(&load->lock);
	stats = load->stats;
	tell = stats.bytes_done - load->told >= PROGRESS_BYTES;
	if (tell)
		load->told = stats.bytes_done;
	pthread_mutex_unlock(&load->lock);
	if (!tell || !load->opts->ops || !load->opts->ops->progress)
		return 0;
	gr__callback_begin();
	stop = load->opts->ops->progress(load->opts->context, &stats);
	gr__callback_end();
	return stop ? gr__fail(-ECANCELED, "load: cancelled") : 0;
}

static int work(void *context, unsigned thread)
{
	struct load *load = context;
	struct job jobs[BATCH];
	char *compare = NULL;
	unsigned count, i;
	int rc = 0;

	if (load->compare) {
		compare = gr__alloc_raw(WIRE_CHUNK);
		if (!compare)
			return gr__fail(-ENOMEM, "load: no memory");
	}
	do {
		pthread_mutex_lock(&load->lock);
		for (count = 0; count < BATCH && next_job(load, &jobs[count]); count++)
			;
		pthread_mutex_unlock(&load->lock);
		for (i = 0; i < count && !rc; i++)
			rc = do_job(load, load->readers[thread], &jobs[i], compare);
		if (!rc && !thread)
			rc = progress(load);
	} while (count && !rc && !gr__crew_failed(&load->crew));
	gr__free(compare);
	return rc;
}

static int run(struct load *load, bool compare)
{
	load->compare = compare;
	load->block = 0;
	load->number = 0;
	gr__holds_forget(&load->holds);
	return gr__crew_run(&load->crew, work, load);
}

/* ---------------------------------------------------------------------------------------- all */

static int begin(struct load *load)
{
	unsigned i;

	load->numbers = gr__alloc_array(load->holds.count + 1, sizeof(*load->numbers));
	load->readers = gr__alloc_array(load->crew.threads, sizeof(*load->readers));
	if (!load->numbers || !load->readers)
		return gr__fail(-ENOMEM, "load: no memory");
	for (i = 0; i < load->crew.threads; i++) {
		load->readers[i] = gr__snap_reader_new();
		if (!load->readers[i])
			return gr__fail(-ENOMEM, "load: no memory");
	}
	for (i = 0; i < load->holds.count; i++)
		load->stats.bytes += load->holds.items[i].used;
	return match(load);
}

int gr_snapshot_load(struct gr_snapshot *snapshot, struct gr_ram *ram,
		     const struct gr_snapshot_opts *opts, struct gr_snapshot_stats *stats)
{
	static const struct gr_snapshot_opts defaults;
	struct load load = {.snapshot = snapshot, .opts = opts ? opts : &defaults};
	const struct gr__snap_file *file = snapshot->files[0];
	unsigned i;
	int rc = gr__ram_check(ram, "load");

	if (!rc)
		rc = gr__may_wait("load");
	if (!rc && load.opts->chain && load.opts->chain->ram != ram)
		rc = gr__fail(-EINVAL, "load: the chain is another RAM's");
	if (!rc)
		rc = gr__crew_init(&load.crew, load.opts->threads);
	if (!rc)
		rc = gr__holds_take(ram, &load.holds);
	if (rc < 0)
		return rc;
	pthread_mutex_init(&load.lock, NULL);
	rc = begin(&load);
	if (!rc)
		rc = run(&load, true);
	if (!rc)
		rc = take_shape(&load);
	if (!rc)
		rc = run(&load, false);
	if (!rc)
		rc = gr__holds_check(&load.holds);
	if (!rc && load.opts->chain) {
		rc = gr__chain_clean(load.opts->chain);
		if (!rc)
			gr__chain_set(load.opts->chain, &file->header, file->path);
	}
	for (i = 0; load.readers && i < load.crew.threads; i++)
		gr__snap_reader_free(load.readers[i]);
	gr__free(load.readers);
	gr__free(load.numbers);
	gr__holds_drop(&load.holds);
	pthread_mutex_destroy(&load.lock);
	if (!rc && stats) {
		load.stats.file_bytes = file->header.size;
		*stats = load.stats;
	}
	return rc;
}

int gr_snapshot_map_block(const struct gr_snapshot *snapshot, struct gr_ram *ram, const char *name,
			  const struct gr_block_opts *opts, struct gr_block **block)
{
	const struct gr__snap_file *file = snapshot->files[0];
	struct gr_block_opts all = opts ? *opts : (struct gr_block_opts){0};
	int found = gr_snapshot_find_block(snapshot, name);
	const struct gr__snap_block *there;

	if (found < 0)
		return found;
	there = &file->blocks[found];
	if (snapshot->file_count > 1)
		return gr__fail(-ENOTSUP, "snapshot %s: it has a parent: flatten it to map it",
				file->path);
	if (file->header.layout != GR_SNAPSHOT_MAPPED)
		return gr__fail(-ENOTSUP, "snapshot %s: it is packed: convert it to map it",
				file->path);
	all.name = there->name;
	all.backing = GR_BACKING_FILE;
	all.flags &= ~(GR_SHARED | GR_CREATE | GR_TEMPORARY | GR_WINDOWED | GR_READ_ONLY);
	if (there->flags & WIRE_BLOCK_READ_ONLY)
		all.flags |= GR_READ_ONLY;
	all.length = there->used;
	all.max_length = there->max;
	all.page_size = 0;
	all.path = NULL;
	all.fd = file->fd;
	all.fd_offset = there->area;
	return gr_block_new(ram, &all, block);
}
