/* SPDX-License-Identifier: MIT */
/* See memory.h. */
#include "vhost/memory.h"
#include "base/error.h"
#include "base/range.h"
#include "os/hooks.h"
#include "ram/ram.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

/* ------------------------------------------------------------------ how long reclaim took */

static void note_deleting(void *context, struct gr_block *block)
{
	struct gr__memory *memory = context;
	struct gr_block_info info;

	gr_block_get_info(block, &info);
	pthread_mutex_lock(&memory->lock);
	memory->removed[memory->removed_next].ram_offset = info.ram_offset;
	memory->removed[memory->removed_next].at = gr__now_ns();
	memory->removed_next = (memory->removed_next + 1) % GR__MEMORY_TIMES;
	pthread_mutex_unlock(&memory->lock);
}

static void note_reclaimed(void *context, const struct gr_block_info *info)
{
	struct gr__memory *memory = context;
	uint64_t took = 0;

	pthread_mutex_lock(&memory->lock);
	for (unsigned i = 0; i < GR__MEMORY_TIMES; i++) {
		if (!memory->removed[i].at || memory->removed[i].ram_offset != info->ram_offset)
			continue;
		took = gr__now_ns() - memory->removed[i].at;
		memory->removed[i].at = 0;
	}
	pthread_mutex_unlock(&memory->lock);
	if (took)
		__atomic_store_n(&memory->last_reclaim_us, took / 1000, __ATOMIC_RELAXED);
}

static const struct gr_listener_ops reclaim_ops = {
	.block_deleting = note_deleting,
	.block_reclaimed = note_reclaimed,
};

int gr__memory_open(struct gr__memory *memory, const struct gr_ram_opts *opts, bool survive)
{
	int rc;

	memset(memory, 0, sizeof(*memory));
	memory->survive = survive;
	rc = gr_ram_open(opts, &memory->ram);
	if (rc < 0)
		return rc;
	pthread_mutex_init(&memory->lock, NULL);
	rc = gr_space_open(memory->ram, "gpa", &memory->gpa);
	if (rc < 0)
		goto close_ram;
	rc = gr_space_open(memory->ram, "uaddr", &memory->uaddr);
	if (rc < 0)
		goto close_ram;
	rc = gr_listener_open(memory->ram, &reclaim_ops, memory, 0, &memory->listener);
	if (rc < 0)
		goto close_ram;
	return 0;

close_ram:
	gr_ram_close(memory->ram);
	pthread_mutex_destroy(&memory->lock);
	memory->ram = NULL;
	return rc;
}

int gr__memory_close(struct gr__memory *memory)
{
	int rc = gr_ram_close(memory->ram);

	if (rc < 0 || !memory->ram)
		return rc;
	pthread_mutex_destroy(&memory->lock);
	memory->ram = NULL;
	return 0;
}

/* ------------------------------------------------------------------------------ leftovers */

/* What was not to be had for one delete may be there for the next. */
static void drop_leftovers(struct gr__memory *memory)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < memory->leftover_count; i++) {
		if (gr_block_delete(memory->leftovers[i]) < 0)
			memory->leftovers[kept++] = memory->leftovers[i];
	}
	memory->leftover_count = kept;
}

/* Is there room for all blocks that one change may leave over? */
static bool has_room(const struct gr__memory *memory)
{
	return memory->leftover_count <= GR__MEMORY_SLOTS;
}

static void drop(struct gr__memory *memory, struct gr_block *block)
{
	if (gr_block_delete(block) < 0)
		memory->leftovers[memory->leftover_count++] = block;
}

/* ------------------------------------------------------------------------------- one region */

/* The page size of @fd's files: of its mount for huge pages. */
static int file_page_size(int fd, uint64_t *page_size)
{
	struct statfs fs;
	struct stat st;
	int error = GR_FAULT("fstat");

	if (error)
		return -error;
	if (fstat(fd, &st) || fstatfs(fd, &fs))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return gr__fail(-EINVAL, "a region's descriptor is no file (mode %#o)",
				(unsigned)st.st_mode);
	*page_size = fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize : GR_PAGE_SIZE;
	return 0;
}

/* A block for @wire; mapped nowhere yet. @lossy: pages may be lost, whatever its seals say. */
static int build(struct gr__memory *memory, const struct wire_region *wire, int fd, bool lossy,
		 struct gr__region *region)
{
	char name[64];
	struct gr_block_opts opts = {
		.name = name,
		.backing = GR_BACKING_FILE,
		.flags = GR_SHARED | GR_NO_GUARD | GR_NO_DUMP | GR_DELETE_UNMAP,
		.fd = fd,
	};
	uint64_t page_size = GR_PAGE_SIZE, last;
	int seals, rc;

	if (!gr__range_last(wire->offset, wire->size, &last) ||
	    !gr__range_last(wire->gpa, wire->size, &last) ||
	    !gr__range_last(wire->uaddr, wire->size, &last))
		return gr__fail(-ERANGE, "a region of %#llx bytes at %#llx is empty or wraps",
				(unsigned long long)wire->size, (unsigned long long)wire->gpa);
	rc = file_page_size(fd, &page_size);
	if (rc < 0)
		return rc;
	/* the file is mapped from its huge page on, so that all else stays as the peer said it */
	opts.fd_offset = gr__align_down(wire->offset, page_size);
	region->block_offset = wire->offset - opts.fd_offset;
	if (__builtin_add_overflow(wire->size, region->block_offset, &opts.length))
		return gr__fail(-ERANGE, "a region's size and offset wrap");
	seals = fcntl(fd, F_GET_SEALS);
	if (memory->survive && (lossy || seals < 0 || !(seals & F_SEAL_SHRINK)))
		opts.flags |= GR_SURVIVE_TRUNCATION;
	snprintf(name, sizeof(name), "vhost-%llu", (unsigned long long)memory->serial);
	rc = gr_block_new(memory->ram, &opts, &region->block);
	if (rc < 0)
		return rc;
	memory->serial++;
	region->wire = *wire;
	return 0;
}

static int map(struct gr_space *space, uint64_t addr, const struct gr__region *region)
{
	return gr_space_map(space, addr, region->block, region->block_offset, region->wire.size,
			    GR_READ | GR_WRITE);
}

static void changed(struct gr__memory *memory)
{
	__atomic_store_n(&memory->changes, memory->changes + 1, __ATOMIC_RELAXED);
}

int gr__memory_add(struct gr__memory *memory, const struct wire_region *wire, int fd)
{
	struct gr__region region;
	int rc;

	if (memory->count == GR__MEMORY_SLOTS)
		return gr__fail(-ENOSPC, "all %d slots for regions are taken", GR__MEMORY_SLOTS);
	drop_leftovers(memory);
	if (!has_room(memory))
		return gr__fail(-ENOMEM, "regions that were removed are still there");
	rc = build(memory, wire, fd, false, &region);
	if (rc < 0)
		return rc;
	rc = map(memory->gpa, wire->gpa, &region);
	if (rc < 0)
		goto delete_block;
	rc = map(memory->uaddr, wire->uaddr, &region);
	if (rc < 0)
		goto delete_block; /* which unmaps it from the other space */
	memory->regions[memory->count++] = region;
	changed(memory);
	return 0;

delete_block:
	drop(memory, region.block);
	return rc;
}

int gr__memory_remove(struct gr__memory *memory, const struct wire_region *wire)
{
	for (unsigned i = 0; i < memory->count; i++) {
		struct gr__region *region = &memory->regions[i];
		int rc;

		if (region->wire.gpa != wire->gpa || region->wire.uaddr != wire->uaddr ||
		    region->wire.size != wire->size)
			continue;
		rc = gr_block_delete(region->block); /* unpublishes it in both spaces */
		if (rc < 0)
			return rc;
		*region = memory->regions[--memory->count];
		changed(memory);
		return 0;
	}
	return gr__fail(-ENOENT, "no region of %#llx bytes at %#llx",
			(unsigned long long)wire->size, (unsigned long long)wire->gpa);
}

/* ---------------------------------------------------------------------------- the whole table */

static uint64_t addr_in(const struct gr__memory *memory, const struct gr_space *space,
			const struct gr__region *region)
{
	return space == memory->gpa ? region->wire.gpa : region->wire.uaddr;
}

/* One transaction: all of @from out of @space, all of @to in. */
static int swap(struct gr__memory *memory, struct gr_space *space, const struct gr__region *from,
		unsigned from_count, const struct gr__region *to, unsigned to_count)
{
	struct gr_txn *txn;
	int rc = gr_txn_begin(space, &txn);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < from_count && !rc; i++)
		rc = gr_txn_unmap(txn, addr_in(memory, space, &from[i]), from[i].wire.size);
	for (unsigned i = 0; i < to_count && !rc; i++)
		rc = gr_txn_map(txn, addr_in(memory, space, &to[i]), to[i].block,
				to[i].block_offset, to[i].wire.size, GR_READ | GR_WRITE);
	if (rc < 0) {
		gr_txn_abort(txn);
		return rc;
	}
	return gr_txn_commit(txn);
}

/* All of @fresh in, after the whole old table went out if @whole. On an error @fresh stays
 * unmapped. */
static int publish(struct gr__memory *memory, const struct gr__region *fresh, unsigned count,
		   bool whole)
{
	unsigned old = whole ? memory->count : 0;
	int rc;

	if (memory->count - old + count > GR__MEMORY_SLOTS)
		return gr__fail(-ENOSPC, "all %d slots for regions are taken", GR__MEMORY_SLOTS);
	rc = swap(memory, memory->gpa, memory->regions, old, fresh, count);
	if (rc < 0)
		return rc;
	rc = swap(memory, memory->uaddr, memory->regions, old, fresh, count);
	if (rc < 0)
		goto restore_gpa;
	for (unsigned i = 0; i < old; i++)
		drop(memory, memory->regions[i].block);
	memory->count -= old;
	memcpy(memory->regions + memory->count, fresh, sizeof(*fresh) * count);
	memory->count += count;
	changed(memory);
	return 0;

restore_gpa:
	if (swap(memory, memory->gpa, fresh, count, memory->regions, old) < 0)
		rc = -EIO; /* the old table is gone: nothing to go on with */
	return rc;
}

/* Blocks for all of them, or for none. */
static int build_all(struct gr__memory *memory, const struct wire_region *wire, const int *fds,
		     unsigned count, bool lossy, struct gr__region *fresh)
{
	unsigned built = 0;
	int rc = 0;

	drop_leftovers(memory);
	if (!has_room(memory))
		return gr__fail(-ENOMEM, "regions that were removed are still there");
	while (built < count && !rc) {
		rc = build(memory, &wire[built], fds[built], lossy, &fresh[built]);
		built += !rc;
	}
	while (rc < 0 && built)
		drop(memory, fresh[--built].block);
	return rc;
}

int gr__memory_set(struct gr__memory *memory, const struct wire_region *wire, const int *fds,
		   unsigned count)
{
	struct gr__region fresh[WIRE_TABLE_REGIONS] = {0};
	int rc;

	if (count > WIRE_TABLE_REGIONS)
		return gr__fail(-EINVAL, "a table of %u regions, at most %u fit", count,
				WIRE_TABLE_REGIONS);
	rc = build_all(memory, wire, fds, count, false, fresh);
	if (rc < 0)
		return rc;
	rc = publish(memory, fresh, count, true);
	while (rc < 0 && count)
		drop(memory, fresh[--count].block);
	return rc;
}

void gr__memory_forget_prepared(struct gr__memory *memory)
{
	while (memory->prepared_count)
		drop(memory, memory->prepared[--memory->prepared_count].block);
	memory->prepared_waits = false;
}

int gr__memory_prepare(struct gr__memory *memory, const struct wire_region *wire, const int *fds,
		       unsigned count, bool whole)
{
	int rc;

	if (whole)
		gr__memory_forget_prepared(memory);
	if (memory->prepared_count + count > GR__MEMORY_SLOTS)
		return gr__fail(-ENOSPC, "all %d slots for regions are taken", GR__MEMORY_SLOTS);
	rc = build_all(memory, wire, fds, count, true, memory->prepared + memory->prepared_count);
	if (rc < 0)
		return rc;
	memory->prepared_whole = whole || (memory->prepared_waits && memory->prepared_whole);
	memory->prepared_waits = true;
	memory->prepared_count += count;
	return 0;
}

int gr__memory_publish_prepared(struct gr__memory *memory)
{
	int rc = publish(memory, memory->prepared, memory->prepared_count, memory->prepared_whole);

	if (rc < 0)
		return rc;
	memory->prepared_count = 0;
	memory->prepared_waits = false;
	return 0;
}

bool gr__memory_find_uaddr(const struct gr__memory *memory, uint64_t uaddr, uint64_t *gpa)
{
	for (unsigned i = 0; i < memory->count; i++) {
		const struct wire_region *wire = &memory->regions[i].wire;

		if (uaddr - wire->uaddr >= wire->size)
			continue;
		*gpa = wire->gpa + (uaddr - wire->uaddr);
		return true;
	}
	return false;
}

int gr__memory_clear(struct gr__memory *memory)
{
	gr__memory_forget_prepared(memory);
	drop_leftovers(memory);
	if (memory->count && has_room(memory)) {
		changed(memory);
		for (unsigned i = 0; i < memory->count; i++)
			drop(memory, memory->regions[i].block);
		memory->count = 0;
	}
	return memory->count || memory->leftover_count ? -ENOMEM : 0;
}
