/* SPDX-License-Identifier: MIT */
/*
 * Granules: what is plugged of a block, and how that changes.
 *
 *   remove:  claims, pins ─ not pinnable ─ grace ─ pins ─ [tell ─ unpublish] ─ grace ─ discard
 *   add:     discard ─ memory ─ [tell ─ publish, pinnable]
 *
 * What stands in [ ] is one change of all windows in all spaces (space/change.c, space/windows.c).
 *
 * Threads and locks. One thread at a time changes a block's granules: it has granules->busy, set
 * under ram->lock, and others get -EBUSY, since that thread may run a callback of ours, or wait for
 * a reader, and no lock may be held meanwhile. It is counted in block->users too, so the block is
 * neither deleted nor resized. Questions take no lock: bits and sum are read atomically.
 *
 * Why a removal takes a granule from nobody. (a) Pins: it clears `pinnable`, waits for a grace
 * period, and then looks at the counts; see ram/granules.h. Nothing has shown so far, so a pin that
 * is found costs no one anything. (b) Readers: a second grace period begins after the views without
 * the granules are published. (c) The memory is discarded only then.
 */
#include "plug/plug.h"
#include "base/error.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "ram/claims.h"
#include "ram/marks.h"
#include "ram/reclaim.h"
#include "space/change.h"
#include <errno.h>

#define GRANULE_DEFAULT (UINT64_C(2) << 20)

/* ------------------------------------------------------------------------- one thread at a time */

int gr__plug_begin(struct gr_plug *plug)
{
	struct gr_block *block = plug->block;
	int rc = gr__ram_check_open(block->ram);

	if (rc < 0)
		return rc;
	if (plug->granules->busy)
		return gr__fail(-EBUSY, "block %s: another thread is changing its granules",
				block->name);
	if (block->busy)
		return gr__fail(-EBUSY, "block %s: another thread is changing it", block->name);
	plug->granules->busy = true;
	block->users++;
	return 0;
}

void gr__plug_end(struct gr_plug *plug)
{
	plug->granules->busy = false;
	plug->block->users--;
}

static void end(struct gr_plug *plug)
{
	pthread_mutex_lock(&plug->block->ram->lock);
	gr__plug_end(plug);
	pthread_mutex_unlock(&plug->block->ram->lock);
}

int gr__plug_check_run(const struct gr_plug *plug, const char *verb, struct gr__run run,
		       uint64_t end_at)
{
	const char *name = plug->block->name;
	uint64_t granule = plug->granules->granule;

	if (!run.length || !gr__is_aligned(run.offset | run.length, granule))
		return gr__fail(-EINVAL,
				"block %s: %s of %#llx bytes at %#llx: not granules of %#llx", name,
				verb, (unsigned long long)run.length,
				(unsigned long long)run.offset, (unsigned long long)granule);
	if (!gr__range_within(run.offset, run.length, end_at))
		return gr__fail(-ERANGE, "block %s: %s of %#llx bytes at %#llx leaves its %#llx",
				name, verb, (unsigned long long)run.length,
				(unsigned long long)run.offset, (unsigned long long)end_at);
	return 0;
}

/* ---------------------------------------------------------------------------- open and close */

static struct gr__run whole(const struct gr__granules *granules)
{
	return (struct gr__run){0, granules->count * granules->granule};
}

static int choose_granule(const struct gr_block *block, const struct gr_plug_opts *opts,
			  uint64_t *granule)
{
	const struct gr__mem *mem = &block->mem;
	size_t i;

	for (i = 0; opts && i < sizeof(opts->reserved) / sizeof(opts->reserved[0]); i++)
		if (opts->reserved[i])
			return gr__fail(-EINVAL, "block %s: reserved options are not zero",
					block->name);
	*granule = opts ? opts->granule : 0;
	if (!*granule)
		*granule = mem->page_size > GRANULE_DEFAULT ? mem->page_size : GRANULE_DEFAULT;
	if (!gr__is_pow2(*granule) || !gr__is_aligned(*granule, mem->page_size) ||
	    !gr__is_aligned(mem->max_length, *granule))
		return gr__fail(-EINVAL,
				"block %s: granules of %#llx bytes: not a power of two that its "
				"pages of %#llx and its %#llx bytes are multiples of",
				block->name, (unsigned long long)*granule,
				(unsigned long long)mem->page_size,
				(unsigned long long)mem->max_length);
	return 0;
}

/* A table that the block has from before, or a new one. */
static struct gr__granules *get_table(struct gr_block *block, uint64_t granule)
{
	struct gr__granules *granules = block->granules;

	/* the newest only: pins that are held count in it, and none is held when it is replaced */
	if (!granule || (granules && granules->granule == granule))
		return granules;
	return gr__granules_new(granule, block->mem.max_length / granule);
}

/* Make the table the block's, with nothing pinnable. Lock held. */
static int install(struct gr_block *block, struct gr_plug *plug)
{
	struct gr__granules *granules = plug->granules;
	int rc;

	if (block->plug)
		return gr__fail(-EEXIST, "block %s: it has granules already", block->name);
	if (!block->live || block->busy || block->users)
		return gr__fail(-EBUSY, "block %s: another thread is changing it", block->name);
	/* relaxed: looked at again after a grace period */
	if (__atomic_load_n(&block->pins, __ATOMIC_RELAXED))
		return gr__fail(-EBUSY, "block %s: it is pinned", block->name);
	rc = gr__discard_begin(block, GR__DISCARD_UNTOLD);
	if (rc < 0)
		return rc;
	gr__discard_end(block, GR__DISCARD_UNTOLD); /* not yet: readers are waited for first */
	if (granules != block->granules)
		granules->older = block->granules;
	gr__granules_mark(granules, granules->pinnable, whole(granules), false);
	/* release: pairs with gr__block_granules() and gr_plug_of() */
	__atomic_store_n(&block->granules, granules, __ATOMIC_RELEASE);
	__atomic_store_n(&block->plug, plug, __ATOMIC_RELEASE);
	granules->open = true;
	granules->busy = true;
	block->users++;
	return 0;
}

/* Ordinary memory again. Lock held. */
static void uninstall(struct gr_plug *plug)
{
	struct gr__granules *granules = plug->granules;

	gr__granules_mark(granules, granules->pinnable, whole(granules), true);
	granules->open = false;
	__atomic_store_n(&plug->block->plug, NULL, __ATOMIC_RELAXED);
	gr__plug_end(plug);
}

/* What is discarded reads otherwise now. */
static int discard_run(struct gr_block *block, struct gr__run run)
{
	int rc = gr__mem_discard(&block->mem, run.offset, run.length);

	if (!rc)
		gr__mark_block(block, run.offset, run.length);
	return rc;
}

/* Nobody has a pin from before: then nothing keeps the memory from being discarded. */
static int empty(struct gr_plug *plug)
{
	struct gr_block *block = plug->block;
	int rc;

	GR_POINT("plug.opened");
	gr__synchronize();
	if (__atomic_load_n(&block->pins, __ATOMIC_ACQUIRE)) /* pairs with gr__block_put() */
		return gr__fail(-EBUSY, "block %s: it was pinned while its granules were opened",
				block->name);
	pthread_mutex_lock(&block->ram->lock);
	rc = gr__discard_begin(block, GR__DISCARD_UNTOLD);
	pthread_mutex_unlock(&block->ram->lock);
	if (rc < 0)
		return rc;
	/* no pin, so none that counts in an older table, and no section from before this one */
	gr__granules_free(plug->granules->older);
	plug->granules->older = NULL;
	rc = discard_run(block, (struct gr__run){0, block->mem.length});
	pthread_mutex_lock(&block->ram->lock);
	gr__discard_end(block, GR__DISCARD_UNTOLD);
	pthread_mutex_unlock(&block->ram->lock);
	return rc;
}

int gr_plug_open(struct gr_block *block, const struct gr_plug_opts *opts, struct gr_plug **result)
{
	struct gr_ram *ram = block->ram;
	struct gr__granules *unused = NULL;
	struct gr_plug *plug;
	uint64_t granule = 0;
	int rc = gr__ram_check(ram, "granules");

	if (!rc)
		rc = gr__may_wait("granules");
	if (!rc && !result)
		rc = gr__fail(-EINVAL, "block %s: no place for its granules", block->name);
	if (!rc)
		rc = gr__mem_check_discard_zeroes(&block->mem);
	if (!rc)
		rc = choose_granule(block, opts, &granule);
	if (rc < 0)
		return rc;
	plug = gr__alloc(sizeof(*plug));
	if (!plug)
		return gr__fail(-ENOMEM, "block %s: no memory for its granules", block->name);
	plug->block = block;
	rc = gr_discard_claim_open(ram, block, GR_DISCARD_NEED_TOLD,
				   "its granules are plugged and unplugged", &plug->claim);
	if (rc < 0)
		goto free_plug;

	pthread_mutex_lock(&ram->lock);
	plug->granules = get_table(block, granule);
	if (!plug->granules)
		rc = gr__fail(-ENOMEM, "block %s: no memory for its granules", block->name);
	if (!rc)
		rc = install(block, plug);
	if (rc < 0 && plug->granules != block->granules)
		unused = plug->granules;
	pthread_mutex_unlock(&ram->lock);
	if (rc < 0)
		goto free_table;
	rc = empty(plug);
	if (rc < 0)
		goto uninstall;
	end(plug);
	*result = plug;
	return 0;

uninstall:
	pthread_mutex_lock(&ram->lock);
	uninstall(plug);
	pthread_mutex_unlock(&ram->lock);
	gr__synchronize(); /* gr_plug_of() */
free_table:
	gr__granules_free(unused);
	gr_discard_claim_close(plug->claim);
free_plug:
	gr__free(plug);
	return rc;
}

int gr_plug_close(struct gr_plug *plug)
{
	struct gr_ram *ram;
	int rc;

	if (!plug)
		return 0;
	ram = plug->block->ram;
	rc = gr__ram_check(ram, "granules");
	if (!rc)
		rc = gr__may_wait("granules");
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&ram->lock);
	if (plug->granules->bytes)
		rc = gr__fail(-EBUSY, "block %s: %#llx bytes are plugged", plug->block->name,
			      (unsigned long long)plug->granules->bytes);
	else if (!cds_list_empty(&plug->granules->windows))
		rc = gr__fail(-EBUSY, "block %s: it is mapped in strict windows",
			      plug->block->name);
	else
		rc = gr__plug_begin(plug);
	if (!rc)
		uninstall(plug);
	pthread_mutex_unlock(&ram->lock);
	if (rc < 0)
		return rc;
	gr__synchronize(); /* gr_plug_of() */
	gr_discard_claim_close(plug->claim);
	gr__free(plug);
	return 0;
}

/* ------------------------------------------------------------------------------------ adding */

static int change(struct gr_plug *plug, const struct gr__run *runs, size_t count, bool on,
		  bool undo)
{
	const struct gr__granule_change granules = {
		.block = plug->block,
		.runs = runs,
		.run_count = count,
		.plug = on,
	};
	struct gr__change all = {.ram = plug->block->ram, .granules = &granules, .undo = undo};

	return gr__change_run(&all);
}

static void log_kept(struct gr_block *block)
{
	gr__ram_log(block->ram, GR_LOG_WARNING,
		    "block %s: unplugged granules keep their memory: %s", block->name,
		    gr_last_error());
}

static int begin_add(struct gr_plug *plug, struct gr__run run)
{
	struct gr_block *block = plug->block;
	int rc;

	pthread_mutex_lock(&block->ram->lock);
	rc = gr__plug_check_run(plug, "plug", run, block->length);
	if (!rc && gr__granules_count(plug->granules, plug->granules->plugged, run))
		rc = gr__fail(-EEXIST, "block %s: of %#llx bytes at %#llx some are plugged already",
			      block->name, (unsigned long long)run.length,
			      (unsigned long long)run.offset);
	if (!rc)
		rc = gr__plug_begin(plug);
	pthread_mutex_unlock(&block->ram->lock);
	return rc;
}

int gr_plug_add(struct gr_plug *plug, uint64_t offset, uint64_t length)
{
	struct gr__mem *mem = &plug->block->mem;
	struct gr__run run = {offset, length};
	int rc = gr__ram_check(plug->block->ram, "plug"), fetched = 0;

	if (!rc)
		rc = begin_add(plug, run);
	if (rc < 0)
		return rc;
	/* who has it mapped by gr_space_map() may have stored there */
	rc = discard_run(plug->block, run);
	if (!rc)
		rc = gr__mem_fetch(mem, offset, length, &fetched);
	GR_POINT("plug.fetched");
	if (!rc)
		rc = change(plug, &run, 1, true, false);
	if (rc < 0 && fetched && gr__mem_discard(mem, offset, length) < 0)
		log_kept(plug->block);
	end(plug);
	return rc;
}

/* ---------------------------------------------------------------------------------- removing */

struct removal {
	struct gr_plug *plug;
	const struct gr__run *runs;
	size_t count;
};

static void mark_pinnable(const struct removal *removal, bool on)
{
	const struct gr__granules *granules = removal->plug->granules;
	size_t i;

	for (i = 0; i < removal->count; i++)
		gr__granules_mark(granules, granules->pinnable, removal->runs[i], on);
}

static int check_pins(const struct removal *removal)
{
	size_t i;

	for (i = 0; i < removal->count; i++)
		if (gr__granules_pinned(removal->plug->granules, removal->runs[i]))
			return gr__fail(-EBUSY, "block %s: of %#llx bytes at %#llx some are pinned",
					removal->plug->block->name,
					(unsigned long long)removal->runs[i].length,
					(unsigned long long)removal->runs[i].offset);
	return 0;
}

/*
 * Once a run is discarded there is no way back: its bytes are gone. So what fails after that keeps
 * its memory for now, and is unplugged all the same; plugging discards it again.
 */
static int discard(const struct removal *removal)
{
	struct gr_block *block = removal->plug->block;
	size_t i;
	int rc;

	for (i = 0; i < removal->count; i++) {
		rc = discard_run(block, removal->runs[i]);
		if (rc < 0 && !i)
			return rc;
		if (rc < 0)
			log_kept(block);
	}
	return 0;
}

/* Each step undoes what was done when it fails. The granules are all plugged. */
static int run_removal(const struct removal *removal)
{
	struct gr_plug *plug = removal->plug;
	int rc;

	mark_pinnable(removal, false);
	GR_POINT("plug.closed");
	gr__synchronize();
	rc = check_pins(removal);
	if (!rc)
		rc = change(plug, removal->runs, removal->count, false, false);
	if (rc < 0) {
		mark_pinnable(removal, true);
		return rc;
	}
	GR_POINT("plug.unpublished");
	gr__synchronize();
	GR_POINT("plug.discard");
	rc = discard(removal);
	if (rc < 0 && change(plug, removal->runs, removal->count, true, true) < 0)
		gr__ram_log(plug->block->ram, GR_LOG_WARNING,
			    "block %s: granules whose memory could not be given back stay "
			    "unplugged: %s",
			    plug->block->name, gr_last_error());
	return rc;
}

/* Lock held. */
static int begin_remove(const struct removal *removal)
{
	struct gr_plug *plug = removal->plug;
	int rc = gr__plug_begin(plug);

	if (rc < 0)
		return rc;
	rc = check_pins(removal);
	if (!rc)
		rc = gr__discard_begin(plug->block, GR__DISCARD_TOLD);
	if (rc < 0)
		gr__plug_end(plug);
	return rc;
}

static void end_remove(struct gr_plug *plug)
{
	pthread_mutex_lock(&plug->block->ram->lock);
	gr__discard_end(plug->block, GR__DISCARD_TOLD);
	gr__plug_end(plug);
	pthread_mutex_unlock(&plug->block->ram->lock);
}

static int check_call(struct gr_plug *plug)
{
	int rc = gr__ram_check(plug->block->ram, "unplug");

	return rc < 0 ? rc : gr__may_wait("unplug");
}

int gr_plug_remove(struct gr_plug *plug, uint64_t offset, uint64_t length)
{
	struct gr_block *block = plug->block;
	const struct gr__granules *granules = plug->granules;
	struct gr__run run = {offset, length};
	const struct removal removal = {plug, &run, 1};
	int rc = check_call(plug);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&block->ram->lock);
	rc = gr__plug_check_run(plug, "unplug", run, block->mem.max_length);
	if (!rc &&
	    gr__granules_count(granules, granules->plugged, run) != length / granules->granule)
		rc = gr__fail(-ENOENT, "block %s: of %#llx bytes at %#llx some are not plugged",
			      block->name, (unsigned long long)length, (unsigned long long)offset);
	if (!rc)
		rc = begin_remove(&removal);
	pthread_mutex_unlock(&block->ram->lock);
	if (rc < 0)
		return rc;
	rc = run_removal(&removal);
	end_remove(plug);
	return rc;
}

/* Lock held. All plugged runs, in an array of the caller's; NULL with *count 0 when there are none.
 */
static int copy_runs(const struct gr_plug *plug, struct gr__run **runs, size_t *count)
{
	const struct gr__granules *granules = plug->granules;
	uint64_t end_at = whole(granules).length;
	struct gr__run run = {0, 0};
	size_t i = 0;

	*runs = NULL;
	*count = 0;
	while (gr__granules_next(granules, granules->plugged, end_at, &run))
		++*count;
	if (!*count)
		return 0;
	*runs = gr__alloc_array(*count, sizeof(**runs));
	if (!*runs)
		return gr__fail(-ENOMEM, "block %s: no memory for %zu runs", plug->block->name,
				*count);
	for (run = (struct gr__run){0, 0};
	     gr__granules_next(granules, granules->plugged, end_at, &run);)
		(*runs)[i++] = run;
	return 0;
}

int gr_plug_remove_all(struct gr_plug *plug)
{
	struct gr_ram *ram = plug->block->ram;
	struct removal removal = {plug, NULL, 0};
	struct gr__run *runs;
	int rc = check_call(plug);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&ram->lock);
	rc = copy_runs(plug, &runs, &removal.count);
	removal.runs = runs;
	if (!rc)
		rc = begin_remove(&removal);
	pthread_mutex_unlock(&ram->lock);
	if (!rc) {
		if (removal.count)
			rc = run_removal(&removal);
		end_remove(plug);
	}
	gr__free(runs);
	return rc;
}

/* --------------------------------------------------------------------------------- questions */

int gr_plug_is(const struct gr_plug *plug, uint64_t offset, uint64_t length)
{
	const struct gr__granules *granules = plug->granules;
	struct gr__run run;
	uint64_t last, set;

	if (!length)
		return gr__fail(-EINVAL, "block %s: 0 bytes are neither plugged nor unplugged",
				plug->block->name);
	if (!gr__range_within(offset, length, whole(granules).length))
		return gr__fail(-ERANGE, "block %s: %#llx bytes at %#llx leave its granules",
				plug->block->name, (unsigned long long)length,
				(unsigned long long)offset);
	last = gr__align_down(offset + (length - 1), granules->granule);
	run.offset = gr__align_down(offset, granules->granule);
	run.length = last - run.offset + granules->granule;
	set = gr__granules_count(granules, granules->plugged, run);
	if (!set)
		return GR_PLUG_NONE;
	return set == run.length / granules->granule ? GR_PLUG_ALL : GR_PLUG_MIXED;
}

uint64_t gr_plug_bytes(const struct gr_plug *plug)
{
	/* relaxed: a figure that says nothing of anything else */
	return __atomic_load_n(&plug->granules->bytes, __ATOMIC_RELAXED);
}

uint64_t gr_plug_granule(const struct gr_plug *plug)
{
	return plug->granules->granule;
}

struct gr_block *gr_plug_block(const struct gr_plug *plug)
{
	return plug->block;
}

struct gr_plug *gr_plug_of(const struct gr_block *block)
{
	/* acquire: pairs with install() */
	return __atomic_load_n(&block->plug, __ATOMIC_ACQUIRE);
}

int gr_plug_each(struct gr_plug *plug, int (*fn)(void *context, uint64_t offset, uint64_t length),
		 void *context)
{
	struct gr_ram *ram = plug->block->ram;
	struct gr__run *runs;
	size_t count, i;
	int rc = gr__ram_check(ram, "granules");

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&ram->lock);
	rc = copy_runs(plug, &runs, &count);
	pthread_mutex_unlock(&ram->lock);
	for (i = 0; i < count && !rc; i++)
		rc = fn(context, runs[i].offset, runs[i].length);
	gr__free(runs);
	return rc;
}
