/* SPDX-License-Identifier: MIT */
/*
 * What may be asked of a block, as tables: which flag goes with which kind of backing and with
 * which other flag. Nothing is made here. No state; any thread.
 */
#include "backing/kind.h"
#include "base/error.h"
#include "base/range.h"
#include "os/memory.h"
#include "os/sigbus.h"
#include <errno.h>
#include <stdio.h>

static const struct gr__backing *const kinds[] = {
	[GR_BACKING_ANON] = &gr__backing_anon,	     [GR_BACKING_MEMFD] = &gr__backing_memfd,
	[GR_BACKING_FILE] = &gr__backing_file,	     [GR_BACKING_CALLER] = &gr__backing_caller,
	[GR_BACKING_FOREIGN] = &gr__backing_foreign,
};

static const struct {
	unsigned flag;
	const char *name;
} flags[] = {
	{GR_SHARED, "GR_SHARED"},
	{GR_READ_ONLY, "GR_READ_ONLY"},
	{GR_CREATE, "GR_CREATE"},
	{GR_TEMPORARY, "GR_TEMPORARY"},
	{GR_NO_GUARD, "GR_NO_GUARD"},
	{GR_PREALLOC, "GR_PREALLOC"},
	{GR_RESERVE, "GR_RESERVE"},
	{GR_THP, "GR_THP"},
	{GR_NO_THP, "GR_NO_THP"},
	{GR_MERGEABLE, "GR_MERGEABLE"},
	{GR_LOCKED, "GR_LOCKED"},
	{GR_NO_DUMP, "GR_NO_DUMP"},
	{GR_NO_FORK, "GR_NO_FORK"},
	{GR_DELETE_UNMAP, "GR_DELETE_UNMAP"},
	{GR_NO_WAIT, "GR_NO_WAIT"},
	{GR_UNSEALED, "GR_UNSEALED"},
	{GR_SURVIVE_TRUNCATION, "GR_SURVIVE_TRUNCATION"},
	{GR_WINDOWED, "GR_WINDOWED"},
};

#define FLAG_COUNT (sizeof(flags) / sizeof(flags[0]))

static const struct {
	unsigned both;
	const char *why;
} conflicts[] = {
	{GR_THP | GR_NO_THP, "GR_THP and GR_NO_THP contradict each other"},
	{GR_CREATE | GR_TEMPORARY, "GR_CREATE makes a file with a name, GR_TEMPORARY one without"},
	{GR_CREATE | GR_READ_ONLY, "GR_CREATE makes a file that GR_READ_ONLY could never fill"},
	{GR_TEMPORARY | GR_READ_ONLY,
	 "GR_TEMPORARY makes a file that GR_READ_ONLY could never fill"},
	{GR_MERGEABLE | GR_SHARED,
	 "GR_MERGEABLE: the kernel merges private pages only, not GR_SHARED"},
};

/* Windows, once the page size is known: the defaults, and what a cache of them can be. */
#define DEFAULT_WINDOW (UINT64_C(2) << 20)
#define DEFAULT_WINDOWS 128
#define MOST_WINDOWS (UINT64_C(1) << 24)

static int check_flags(const struct gr_block_opts *opts, const struct gr__backing *kind,
		       const char *name)
{
	unsigned known = 0;
	size_t i;

	for (i = 0; i < FLAG_COUNT; i++) {
		known |= flags[i].flag;
		if (opts->flags & flags[i].flag & ~kind->flags)
			return gr__fail(-EINVAL, "block %s: %s does not go with %s", name,
					flags[i].name, kind->name);
	}
	if (opts->flags & ~known)
		return gr__fail(-EINVAL, "block %s: unknown flags %#x", name, opts->flags & ~known);
	for (i = 0; i < sizeof(conflicts) / sizeof(conflicts[0]); i++)
		if ((opts->flags & conflicts[i].both) == conflicts[i].both)
			return gr__fail(-EINVAL, "block %s: %s", name, conflicts[i].why);
	if (opts->flags & GR_WINDOWED && !(opts->flags & (GR_SHARED | GR_READ_ONLY)))
		return gr__fail(-EINVAL,
				"block %s: GR_WINDOWED needs GR_SHARED or GR_READ_ONLY: what is "
				"stored to a private window is lost with it",
				name);
	if (opts->flags & GR_SURVIVE_TRUNCATION && !gr__sigbus_installed())
		return gr__fail(
			-EINVAL,
			"block %s: GR_SURVIVE_TRUNCATION needs gr_sigbus_install() before it",
			name);
	return 0;
}

static int check_window_fields(const struct gr_block_opts *opts, const char *name)
{
	bool is_foreign = opts->backing == GR_BACKING_FOREIGN;

	if (!is_foreign && (opts->foreign || opts->foreign_context))
		return gr__fail(-EINVAL, "block %s: foreign goes with GR_BACKING_FOREIGN only",
				name);
	if (is_foreign && (!opts->foreign || !opts->foreign->map || !opts->foreign->unmap))
		return gr__fail(-EINVAL,
				"block %s: GR_BACKING_FOREIGN needs functions that map and unmap",
				name);
	if (!is_foreign && !(opts->flags & GR_WINDOWED)) {
		if (opts->window_size || opts->max_windows)
			return gr__fail(
				-EINVAL,
				"block %s: window_size and max_windows go with GR_BACKING_FOREIGN "
				"and GR_WINDOWED only",
				name);
		return 0;
	}
	if (opts->align || opts->numa_policy || opts->numa_nodes)
		return gr__fail(-EINVAL,
				"block %s: what is seen through windows has no place of its own to "
				"align or bind",
				name);
	return 0;
}

/* Fields that belong to one kind, given with another, are a mistake and not ignored. */
static int check_fields(const struct gr_block_opts *opts, const char *name)
{
	bool is_file = opts->backing == GR_BACKING_FILE;
	bool is_caller = opts->backing == GR_BACKING_CALLER;
	size_t i;
	int rc;

	for (i = 0; i < sizeof(opts->reserved) / sizeof(opts->reserved[0]); i++)
		if (opts->reserved[i])
			return gr__fail(-EINVAL, "block %s: reserved[%zu] is not zero", name, i);
	if (!is_file && (opts->path || opts->fd > 0 || opts->fd_offset))
		return gr__fail(-EINVAL,
				"block %s: path, fd and fd_offset go with GR_BACKING_FILE only",
				name);
	if (!is_caller && (opts->host || opts->release || opts->release_context))
		return gr__fail(-EINVAL,
				"block %s: host and release go with GR_BACKING_CALLER only", name);
	if (is_caller && !opts->host)
		return gr__fail(-EINVAL, "block %s: GR_BACKING_CALLER without host", name);
	if (is_caller && (opts->numa_policy || opts->numa_nodes))
		return gr__fail(-EINVAL, "block %s: where the caller's memory lies is the caller's",
				name);
	rc = check_window_fields(opts, name);
	if (rc < 0 || !is_file)
		return rc;
	if (opts->path && opts->fd > 0)
		return gr__fail(-EINVAL, "block %s: path \"%s\" and fd %d: which of them?", name,
				opts->path, opts->fd);
	if (!opts->path && opts->flags & (GR_CREATE | GR_TEMPORARY))
		return gr__fail(-EINVAL, "block %s: GR_CREATE and GR_TEMPORARY need a path", name);
	if (!opts->path && opts->fd < 0)
		return gr__fail(-EINVAL, "block %s: GR_BACKING_FILE without path or fd", name);
	return 0;
}

int gr__options_check(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	const char *name = opts->name ? opts->name : "guestram";
	bool windowed = opts->backing == GR_BACKING_FILE && opts->flags & GR_WINDOWED;
	int rc;

	if ((unsigned)opts->backing >= sizeof(kinds) / sizeof(kinds[0]))
		return gr__fail(-EINVAL, "block %s: backing %u: there is no such kind", name,
				(unsigned)opts->backing);
	*mem = (struct gr__mem){
		.ops = windowed ? &gr__backing_windowed : kinds[opts->backing],
		.backing = opts->backing,
		.fd = -1,
		.fd_offset = opts->fd_offset,
		.flags = opts->flags | (opts->backing == GR_BACKING_MEMFD ? GR_SHARED : 0),
		.prealloc_threads = opts->prealloc_threads,
	};
	snprintf(mem->name, sizeof(mem->name), "%s", name);
	rc = check_flags(opts, mem->ops, mem->name);
	if (!rc)
		rc = check_fields(opts, mem->name);
	if (!rc)
		rc = gr__numa_parse(opts->numa_policy, opts->numa_nodes, &mem->numa);
	if (rc < 0)
		return rc;
	if (opts->align && !gr__is_pow2(opts->align))
		return gr__fail(-EINVAL, "block %s: align %#llx is not a power of two", mem->name,
				(unsigned long long)opts->align);
	mem->page_size = opts->page_size ? opts->page_size : gr__os_page_size();
	return gr__huge_check(mem);
}

static int set_windows(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	uint64_t size = opts->window_size;

	if (!size)
		size = mem->page_size > DEFAULT_WINDOW ? mem->page_size : DEFAULT_WINDOW;
	if (!gr__is_pow2(size) || size < mem->page_size)
		return gr__fail(-EINVAL,
				"block %s: window_size %#llx is no power of two of at least a page "
				"of %#llx",
				mem->name, (unsigned long long)size,
				(unsigned long long)mem->page_size);
	if (opts->max_windows > MOST_WINDOWS)
		return gr__fail(-ERANGE, "block %s: max_windows %llu is over %llu", mem->name,
				(unsigned long long)opts->max_windows,
				(unsigned long long)MOST_WINDOWS);
	mem->window_size = size;
	mem->max_windows = opts->max_windows ? opts->max_windows : DEFAULT_WINDOWS;
	return 0;
}

int gr__options_lengths(const struct gr_block_opts *opts, struct gr__mem *mem)
{
	uint64_t wanted = opts->max_length ? opts->max_length : opts->length;
	uint64_t last;

	if (opts->page_size && opts->page_size != mem->page_size)
		return gr__fail(-EINVAL,
				"block %s: page_size %#llx, but the pages of its file have %#llx",
				mem->name, (unsigned long long)opts->page_size,
				(unsigned long long)mem->page_size);
	if (gr__mem_is_huge(mem) && mem->flags & (GR_THP | GR_NO_THP | GR_MERGEABLE))
		return gr__fail(
			-EINVAL,
			"block %s: GR_THP, GR_NO_THP and GR_MERGEABLE are for small pages, these "
			"have %#llx bytes",
			mem->name, (unsigned long long)mem->page_size);
	if (!opts->length)
		return gr__fail(-EINVAL, "block %s: length 0", mem->name);
	if (wanted < opts->length)
		return gr__fail(-EINVAL, "block %s: length %#llx is over max_length %#llx",
				mem->name, (unsigned long long)opts->length,
				(unsigned long long)wanted);
	if (!gr__align_up(wanted, mem->page_size, &mem->max_length))
		return gr__fail(-ERANGE, "block %s: max_length %#llx rounds up past 2^64",
				mem->name, (unsigned long long)wanted);
	gr__align_up(opts->length, mem->page_size, &mem->length); /* at most as much */
	if (!gr__is_aligned(mem->fd_offset, mem->page_size))
		return gr__fail(-EINVAL, "block %s: fd_offset %#llx is not a multiple of %#llx",
				mem->name, (unsigned long long)mem->fd_offset,
				(unsigned long long)mem->page_size);
	/* The kernel's offsets are signed. */
	if (!gr__range_last(mem->fd_offset, mem->max_length, &last) || last >= INT64_MAX)
		return gr__fail(-ERANGE, "block %s: fd_offset %#llx + %#llx bytes passes 2^63",
				mem->name, (unsigned long long)mem->fd_offset,
				(unsigned long long)mem->max_length);
	return mem->ops->window ? set_windows(opts, mem) : 0;
}
