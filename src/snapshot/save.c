/* SPDX-License-Identifier: MIT */
/*
 * Saving. Of a guest that runs, in this order:
 *
 *   harvest or all memory ─► file      the guest runs
 *   harvest ─► memory, again and again until little is left; first to the file, if it is much
 *   stop()                             ┐
 *   harvest ─► memory                  │ the pause: what is in the snapshot is of this moment
 *   granules, spaces, state()          │
 *   resume()                           ┘
 *   what was taken ─► file             over the same chunks
 *   manifest, index, name
 *
 * Write protection by userfaultfd would need no rounds, but would have each first write of the
 * guest wait for us; rounds take the clients of dirty tracking that children need anyway.
 *
 * Harvests are committed when the file has its name, and returned if it never gets it.
 *
 * Threads: the caller's, and a crew in the passes.
 */
#include "snapshot/save.h"
#include "base/error.h"
#include "os/alloc.h"
#include "ram/ram.h"
#include <errno.h>
#include <string.h>

#define PAUSE_BYTES (UINT64_C(8) << 20)
#define ROUNDS 10
#define HELD_BYTES (UINT64_C(256) << 20) /* or an eighth of what is saved */

/* --------------------------------------------------------------------------------------- chain */

int gr_snapshot_chain_open(struct gr_ram *ram, struct gr_snapshot_chain **chain)
{
	struct gr_snapshot_chain *c = gr__alloc(sizeof(*c));
	int rc;

	if (!c)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	c->ram = ram;
	rc = gr_dirty_open(ram, &(struct gr_dirty_opts){.name = "snapshot", .flags = GR_DIRTY_ALL},
			   &c->client);
	if (rc < 0) {
		gr__free(c);
		return rc;
	}
	*chain = c;
	return 0;
}

int gr_snapshot_chain_close(struct gr_snapshot_chain *chain)
{
	int rc = chain ? gr_dirty_close(chain->client) : 0;

	if (!rc)
		gr__free(chain);
	return rc;
}

void gr__chain_set(struct gr_snapshot_chain *chain, const struct wire_header *header,
		   const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

	memcpy(chain->id, header->id, sizeof(chain->id));
	memcpy(chain->digest, header->digest, sizeof(chain->digest));
	chain->name[0] = 0;
	if (strlen(name) < sizeof(chain->name))
		strcpy(chain->name, name); /* NOLINT(clang-analyzer-security.*): it fits */
	chain->has_last = true;
}

static int clean_block(void *context, struct gr_block *block)
{
	struct gr_harvest *harvest;
	int rc = gr_dirty_harvest(context, block, 0, 0, &harvest);

	if (!rc)
		gr_harvest_commit(harvest);
	return rc;
}

int gr__chain_clean(struct gr_snapshot_chain *chain)
{
	int rc;

	gr_read_begin();
	rc = gr_ram_each_block(chain->ram, clean_block, chain->client);
	gr_read_end();
	return rc;
}

/* -------------------------------------------------------------------------------------- rounds */

/* What is dirty now, of all blocks, kept until the save ends. */
static int harvest(struct gr__save *save)
{
	struct gr__round *round = gr__alloc(sizeof(*round));
	unsigned i;
	int rc = 0;

	if (!round)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	round->harvests = gr__alloc_array(save->holds.count + 1, sizeof(*round->harvests));
	round->older = save->rounds;
	save->rounds = round;
	if (!round->harvests)
		return gr__fail(-ENOMEM, "snapshot: no memory");
	for (i = 0; i < save->holds.count && !rc; i++)
		rc = gr_dirty_harvest(save->client, save->holds.items[i].block, 0, 0,
				      &round->harvests[i]);
	return rc;
}

static uint64_t round_bytes(const struct gr__save *save)
{
	uint64_t sum = 0;
	unsigned i;

	for (i = 0; i < save->holds.count; i++)
		sum += gr_harvest_bytes(save->rounds->harvests[i]);
	return sum;
}

static void end_rounds(struct gr__save *save, bool commit)
{
	unsigned i;

	while (save->rounds) {
		struct gr__round *round = save->rounds;

		for (i = 0; round->harvests && i < save->holds.count; i++)
			if (commit)
				gr_harvest_commit(round->harvests[i]);
			else
				gr_harvest_return(round->harvests[i]);
		save->rounds = round->older;
		gr__free(round->harvests);
		gr__free(round);
	}
}

/*
 * While the guest runs. What it wrote is taken into memory, page by page: that is fast, so each
 * round finds less than the one before. (A page in the file costs its whole chunk.) Once pages are
 * there nothing goes to the file before them.
 */
static int run_rounds(struct gr__save *save)
{
	uint64_t most = save->opts->max_pause_bytes ? save->opts->max_pause_bytes : PAUSE_BYTES,
		 room = save->opts->max_held_bytes, left = 0;
	unsigned rounds = save->opts->max_rounds ? save->opts->max_rounds : ROUNDS;
	int rc = 0;

	if (!room)
		room = save->stats.bytes / 8 > HELD_BYTES ? save->stats.bytes / 8 : HELD_BYTES;
	while (!rc && save->stats.rounds < rounds) {
		rc = gr_dirty_bytes(save->client, NULL, &left);
		if (rc || left <= most ||
		    (save->late_bytes && (save->late_bytes > room || left > room)))
			break;
		rc = harvest(save);
		if (!rc)
			rc = gr__holds_check(&save->holds);
		if (rc)
			break;
		left = round_bytes(save);
		save->stats.bytes += left;
		rc = !save->late_bytes && left > room
			     ? gr__save_pass(save, save->rounds->harvests, false)
			     : gr__save_take_late(save, save->rounds->harvests);
		save->stats.rounds++;
	}
	if (!rc)
		rc = gr_dirty_bytes(save->client, NULL, &left);
	return rc ? rc : gr__save_make_slab(save, left > most ? left + left / 4 : most);
}

/* ----------------------------------------------------------------------------------- the pause */

static void resume(struct gr__save *save)
{
	if (!save->stopped)
		return;
	save->stopped = false;
	gr__callback_begin();
	if (save->ops.resume)
		save->ops.resume(save->opts->context);
	gr__callback_end();
}

static int pause_guest(struct gr__save *save)
{
	uint64_t begin = gr__now_ns(), before = save->late_bytes;
	int rc;

	gr__callback_begin();
	save->ops.stop(save->opts->context);
	gr__callback_end();
	save->stopped = true;
	rc = harvest(save);
	if (!rc)
		rc = gr__holds_check(&save->holds);
	if (!rc)
		rc = gr__save_take_late(save, save->rounds->harvests);
	if (!rc)
		rc = gr__save_moment(save);
	resume(save);
	save->stats.pause_ns = gr__now_ns() - begin;
	save->stats.bytes_paused = save->late_bytes - before;
	save->stats.bytes += save->stats.bytes_paused;
	return rc ? rc : gr__save_put_late(save);
}

/* ----------------------------------------------------------------------------------------- all */

static int check(struct gr_ram *ram, const char *path, const struct gr_snapshot_opts *opts)
{
	unsigned i;
	int rc = gr__ram_check(ram, "snapshot");

	if (!rc)
		rc = gr__may_wait("snapshot");
	if (rc < 0)
		return rc;
	for (i = 0; i < sizeof(opts->reserved) / sizeof(opts->reserved[0]); i++)
		if (opts->reserved[i])
			return gr__fail(-EINVAL, "snapshot: reserved options are not zero");
	if (!path || opts->flags & ~GR_SNAPSHOT_FULL || (opts->chain && opts->parent) ||
	    (opts->chain && opts->chain->ram != ram))
		return gr__fail(-EINVAL, "snapshot: path, flags, chain or parent are malformed");
	return 0;
}

/* A child must not take the place of a parent. */
static int spare_parents(const struct gr__save *save, const char *path)
{
	const struct gr_snapshot *parent = save->opts->parent;
	unsigned f;
	int rc = 0;

	for (f = 0; parent && f < parent->file_count && !rc; f++)
		rc = gr__writer_spare(path, parent->files[f]->header.id);
	if (!parent && save->child)
		rc = gr__writer_spare(path, save->opts->chain->id);
	return rc;
}

static int begin(struct gr__save *save, const char *path)
{
	unsigned i;
	int rc = spare_parents(save, path);

	if (!rc)
		rc = gr__writer_open(&save->writer, path, save->opts, save->holds.count);
	if (rc < 0)
		return rc;
	for (i = 0; i < save->holds.count && !rc; i++) {
		const struct gr__held *held = &save->holds.items[i];
		struct gr__written block = {
			.name = held->block->name,
			.used = held->used,
			.max = held->block->mem.max_length,
			.page_size = held->block->mem.page_size,
			.flags = held->block->mem.flags & GR_READ_ONLY ? WIRE_BLOCK_READ_ONLY : 0,
		};

		rc = gr__writer_add_block(&save->writer, &block);
		save->there[i] =
			save->opts->parent
				? gr__snap_file_find(save->opts->parent->files[0], block.name)
				: -1;
	}
	for (i = 0; i < save->crew.threads && !rc; i++)
		rc = gr__packer_init(&save->packers[i], &save->writer);
	if (rc < 0)
		gr__writer_close(&save->writer);
	return rc;
}

static int first_pass(struct gr__save *save)
{
	bool by_harvest = save->child && save->opts->chain;
	unsigned i;
	int rc = save->opts->chain ? harvest(save) : 0;

	if (rc < 0)
		return rc;
	for (i = 0; i < save->holds.count && !by_harvest; i++)
		save->stats.bytes += save->holds.items[i].used;
	if (by_harvest)
		save->stats.bytes = round_bytes(save);
	return gr__save_pass(save, by_harvest ? save->rounds->harvests : NULL, true);
}

static int run(struct gr__save *save, struct wire_header *header)
{
	const struct gr_snapshot_chain *chain = save->opts->chain;
	const struct gr_snapshot *parent = save->opts->parent;
	struct gr__snap_meta meta = {0};
	int rc = first_pass(save);

	if (!rc && save->ops.stop) {
		rc = run_rounds(save);
		if (!rc)
			rc = pause_guest(save);
	} else if (!rc) {
		rc = gr__holds_check(&save->holds);
		if (!rc)
			rc = gr__save_moment(save);
	}
	if (rc < 0)
		return rc;
	meta.spaces = save->spaces;
	meta.space_count = save->space_count;
	meta.states = save->state.items;
	meta.state_count = save->state.count;
	if (parent) {
		gr__meta_set_parent(&meta, parent);
	} else if (chain && save->child) {
		meta.parent = chain->id;
		meta.parent_digest = chain->digest;
		meta.parent_name = chain->name;
	}
	return gr__writer_commit(&save->writer, &meta, header);
}

static void finish(struct gr__save *save)
{
	unsigned i;

	while (save->slabs) {
		struct gr__slab *slab = save->slabs;

		save->slabs = slab->older;
		gr__free(slab->bytes);
		gr__free(slab);
	}
	gr__free(save->late);
	gr__save_moment_free(save);
	for (i = 0; save->packers && i < save->crew.threads; i++)
		gr__packer_fini(&save->packers[i]);
	gr__free(save->packers);
	gr__free(save->there);
}

int gr_snapshot_save(struct gr_ram *ram, const char *path, const struct gr_snapshot_opts *opts,
		     struct gr_snapshot_stats *stats)
{
	static const struct gr_snapshot_opts defaults;
	struct gr__save save = {.ram = ram, .opts = opts ? opts : &defaults};
	struct wire_header header;
	int rc = check(ram, path, save.opts);

	if (!rc)
		rc = gr__crew_init(&save.crew, save.opts->threads);
	if (!rc)
		rc = gr__holds_take(ram, &save.holds);
	if (rc < 0)
		return rc;
	if (save.opts->ops)
		save.ops = *save.opts->ops;
	save.child = save.opts->parent || (save.opts->chain && save.opts->chain->has_last &&
					   !(save.opts->flags & GR_SNAPSHOT_FULL));
	pthread_mutex_init(&save.lock, NULL);
	save.packers = gr__alloc_array(save.crew.threads, sizeof(*save.packers));
	save.there = gr__alloc_array(save.holds.count + 1, sizeof(*save.there));
	if (!save.packers || !save.there)
		rc = gr__fail(-ENOMEM, "snapshot: no memory");
	save.client = save.opts->chain ? save.opts->chain->client : NULL;
	if (!rc && !save.client && save.ops.stop) {
		rc = gr_dirty_open(ram, &(struct gr_dirty_opts){.name = "snapshot"}, &save.client);
		save.own_client = !rc;
	}
	if (!rc)
		rc = begin(&save, path);
	if (!rc) {
		rc = run(&save, &header);
		save.stats.bytes_stored = save.writer.stored;
		save.stats.bytes_shared = save.writer.shared;
		save.stats.file_bytes = rc ? 0 : header.size;
		gr__writer_close(&save.writer);
	}
	end_rounds(&save, !rc);
	if (save.own_client)
		gr_dirty_close(save.client);
	if (!rc && save.opts->chain)
		gr__chain_set(save.opts->chain, &header, path);
	finish(&save);
	gr__holds_drop(&save.holds);
	pthread_mutex_destroy(&save.lock);
	if (!rc && stats)
		*stats = save.stats;
	return rc;
}
