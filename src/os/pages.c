/* SPDX-License-Identifier: MIT */
/* See pages.h. */
#include "os/pages.h"
#include "os/hooks.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Bits of a pagemap entry, see the kernel's admin-guide/mm/pagemap. */
#define PRESENT_OR_SWAPPED (UINT64_C(3) << 62)

uint64_t gr__pages_size(void)
{
	return sysconf(_SC_PAGESIZE);
}

int gr__pages_resident(const void *addr, uint64_t length, uint64_t *bytes)
{
	unsigned char resident[GR__PAGES_ENTRIES];
	uint64_t page = gr__pages_size(), at, piece, i, sum = 0;
	int error = GR_FAULT("mincore");

	if (error)
		return -error;
	for (at = 0; at < length; at += piece) {
		piece = length - at < page * GR__PAGES_ENTRIES ? length - at
							       : page * GR__PAGES_ENTRIES;
		if (mincore((char *)addr + at, piece, resident) < 0)
			return -errno;
		for (i = 0; i < piece / page; i++)
			sum += resident[i] & 1 ? page : 0;
	}
	*bytes = sum;
	return 0;
}

int gr__file_pages_get(int fd, struct gr__file_pages *file)
{
	int error = GR_FAULT("statx");
	struct statx st;

	if (error)
		return -error;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &st) < 0)
		return -errno;
	*file = (struct gr__file_pages){
		.inode = st.stx_ino,
		.device = makedev(st.stx_dev_major, st.stx_dev_minor),
		.allocated = st.stx_blocks * 512,
		.size = st.stx_size,
	};
	return 0;
}

int gr__file_path(int fd, char *path, size_t size)
{
	int error = GR_FAULT("readlink");
	char link[64];
	ssize_t length;

	if (error)
		return -error;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, size - 1);
	if (length < 0)
		return -errno;
	path[length] = 0;
	return 0;
}

/* ---------------------------------------------------------------------------------- opening */

/* A file of /proc/PID; or -errno. */
static int open_proc(pid_t pid, const char *what)
{
	char path[64];
	int fd;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, what);
	else
		snprintf(path, sizeof(path), "/proc/self/%s", what);
	do
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	while (fd < 0 && errno == EINTR);
	return fd < 0 ? -errno : fd;
}

/* Anew, so that its position is nobody else's. */
static int open_file(const struct gr__pages_of *of)
{
	int error = GR_FAULT("open.pages"), fd;
	struct gr__file_pages file = {0};
	char name[32];

	if (of->fd < 0)
		return -EBADF;
	if (error)
		return -error;
	snprintf(name, sizeof(name), "fd/%d", of->fd);
	fd = open_proc(of->pid, name);
	if (fd >= 0 && of->inode &&
	    (gr__file_pages_get(fd, &file) < 0 || file.inode != of->inode)) {
		close(fd);
		return -ESTALE;
	}
	return fd;
}

static int open_pagemap(const struct gr__pages_of *of)
{
	int error = GR_FAULT("open.pagemap");

	return error ? -error : open_proc(of->pid, "pagemap");
}

static int open_mem(const struct gr__pages_of *of)
{
	int error = GR_FAULT("open.mem");

	return error ? -error : open_proc(of->pid, "mem");
}

/* Does all of it lie in private mappings of no file? False when that cannot be told. */
static bool is_private(const struct gr__pages_of *of)
{
	uint64_t at = of->host, first, end;
	unsigned long long inode;
	int error = GR_FAULT("open.maps"), fd;
	char line[512], rights[8];
	bool whole = true, more = true, begun = true;
	FILE *maps;

	fd = error ? -error : open_proc(of->pid, "maps");
	maps = fd < 0 ? NULL : fdopen(fd, "re");
	if (!maps) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while (more && whole && fgets(line, sizeof(line), maps)) {
		unsigned long from, to;
		bool begins = begun;

		begun = strchr(line, '\n') != NULL; /* a long path's rest is no line */
		if (!begins ||
		    sscanf(line, "%lx-%lx %7s %*x %*x:%*x %llu", &from, &to, rights, &inode) != 4)
			continue;
		first = from;
		end = to;
		if (end <= at)
			continue;
		whole = first <= at && rights[3] == 'p' && !inode;
		at = end;
		more = at - of->host < of->length;
	}
	fclose(maps);
	return whole && !more;
}

static bool has_swap(void)
{
	struct sysinfo info;

	return sysinfo(&info) < 0 || info.totalswap;
}

int gr__pages_open(struct gr__pages *pages, const struct gr__pages_of *of)
{
	enum gr__pages_kind kind = of->kind;

	pages->of = *of;
	pages->file = pages->pagemap = pages->mem = -1;
	pages->by_file = pages->holes = pages->table = pages->cache = false;
	pages->entries_count = 0;
	if (kind == GR__PAGES_UNKNOWN && is_private(of))
		kind = GR__PAGES_PRIVATE;
	if (kind == GR__PAGES_SHARED_FILE || kind == GR__PAGES_PRIVATE_FILE) {
		pages->file = open_file(of);
		if (pages->file == -ESTALE)
			return -ESTALE;
		pages->holes = pages->file >= 0;
		pages->by_file = pages->file >= 0 && kind == GR__PAGES_SHARED_FILE;
	}
	if (kind == GR__PAGES_PRIVATE || kind == GR__PAGES_PRIVATE_FILE) {
		pages->pagemap = open_pagemap(of);
		pages->table = pages->pagemap >= 0;
		/* one without the other leaves something out */
		if (kind == GR__PAGES_PRIVATE_FILE && (!pages->holes || !pages->table))
			pages->holes = pages->table = false;
	}
	pages->cache = kind == GR__PAGES_SHARED_ANON && !of->pid && !has_swap();
	if (of->pid && !pages->by_file) {
		pages->mem = open_mem(of);
		if (pages->mem < 0) {
			int rc = pages->mem;

			gr__pages_close(pages);
			return rc;
		}
	}
	return 0;
}

void gr__pages_close(struct gr__pages *pages)
{
	int *const fds[] = {&pages->file, &pages->pagemap, &pages->mem};
	size_t i;

	for (i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
}

/* ---------------------------------------------------------------------------------- looking */

/* The same with the file's holes; all that they do not cover counts. */
static int next_in_file(const struct gr__pages *pages, uint64_t offset, uint64_t *first,
			uint64_t *count)
{
	uint64_t left = pages->of.length - offset;
	off_t at = (off_t)(pages->of.fd_offset + offset), data, hole;
	int error = GR_FAULT("lseek");

	if (error)
		return -error;
	data = lseek(pages->file, at, SEEK_DATA);
	if (data < 0 && errno == ENXIO) { /* a hole up to its end, or past it */
		*first = pages->of.length;
		*count = 0;
		return 0;
	}
	*first = offset;
	*count = left;
	if (data < 0) /* a file system without holes to tell of */
		return errno == EINVAL || errno == EOPNOTSUPP ? 0 : -errno;
	if ((uint64_t)(data - at) >= left) {
		*first = pages->of.length;
		*count = 0;
		return 0;
	}
	hole = lseek(pages->file, data, SEEK_HOLE);
	*first = offset + (uint64_t)(data - at);
	*count = pages->of.length - *first;
	/* a file that changes meanwhile may answer anything: it never makes the stretch longer */
	if (hole > data && (uint64_t)(hole - data) < *count)
		*count = (uint64_t)(hole - data);
	return 0;
}

/* Read what is known of pages from @page on, unless it is there. */
static int fill_entries(struct gr__pages *pages, uint64_t page, uint64_t size)
{
	uint64_t whole = (pages->of.length + size - 1) / size, count;
	int error;

	if (page >= pages->entries_first && page - pages->entries_first < pages->entries_count)
		return 0;
	count = whole - page < GR__PAGES_ENTRIES ? whole - page : GR__PAGES_ENTRIES;
	pages->entries_count = 0;
	if (pages->cache) {
		error = GR_FAULT("mincore");
		if (error)
			return -error;
		if (mincore((char *)(uintptr_t)pages->of.host + page * size,
			    count * size, /* NOLINT */
			    pages->resident) < 0)
			return -errno;
	} else {
		off_t at = (off_t)((pages->of.host / size + page) * sizeof(pages->entries[0]));
		ssize_t bytes;

		error = GR_FAULT("pagemap");
		if (error)
			return -error;
		bytes = pread(pages->pagemap, pages->entries, count * sizeof(pages->entries[0]),
			      at);
		if (bytes < (ssize_t)sizeof(pages->entries[0]))
			return bytes < 0 ? -errno : -EIO; /* 0: the process is gone */
		count = (uint64_t)bytes / sizeof(pages->entries[0]);
	}
	pages->entries_first = page;
	pages->entries_count = count;
	return 0;
}

static bool is_there(const struct gr__pages *pages, uint64_t page)
{
	uint64_t index = page - pages->entries_first;

	return pages->cache ? pages->resident[index] & 1
			    : (pages->entries[index] & PRESENT_OR_SWAPPED) != 0;
}

static int next_in_table(struct gr__pages *pages, uint64_t offset, uint64_t *first, uint64_t *count)
{
	uint64_t size = gr__pages_size(), page = offset / size, end, from;
	int rc = fill_entries(pages, page, size);

	if (rc < 0)
		return rc;
	end = pages->entries_first + pages->entries_count;
	while (page < end && !is_there(pages, page))
		page++;
	from = page;
	while (page < end && is_there(pages, page))
		page++;
	*first = from * size > offset ? from * size : offset;
	if (*first > pages->of.length)
		*first = pages->of.length;
	end = page * size < pages->of.length ? page * size : pages->of.length;
	*count = end > *first ? end - *first : 0;
	return 0;
}

int gr__pages_next(struct gr__pages *pages, uint64_t offset, uint64_t *first, uint64_t *count)
{
	bool table = pages->table || pages->cache;
	uint64_t other, other_count;
	int rc;

	*first = offset;
	*count = pages->of.length - offset;
	if (!*count || (!table && !pages->holes))
		return 0;
	if (!table)
		return next_in_file(pages, offset, first, count);
	rc = next_in_table(pages, offset, first, count);
	if (rc < 0 || !pages->holes)
		return rc;
	rc = next_in_file(pages, offset, &other, &other_count);
	if (rc < 0)
		return rc;
	/* both: the earlier one; up to where the table is known when it is the file */
	if (other < *first || (other == *first && other_count > *count)) {
		if (*count && other < *first && other_count > *first - other)
			other_count = *first - other;
		*first = other;
		*count = other_count;
	}
	return 0;
}

/* ---------------------------------------------------------------------------------- reading */

int gr__pages_read(const struct gr__pages *pages, uint64_t offset, void *buf, uint64_t length)
{
	int fd = pages->by_file ? pages->file : pages->mem;
	uint64_t at = offset + (pages->by_file ? pages->of.fd_offset : pages->of.host);
	uint64_t done = 0;

	if (fd < 0) { /* our own memory, which the caller keeps */
		memcpy(buf, (const void *)(uintptr_t)at, length); /* NOLINT */
		return 0;
	}
	while (done < length) {
		int error = GR_FAULT(pages->by_file ? "pread.file" : "pread.mem");
		ssize_t bytes =
			error ? -1
			      : pread(fd, (char *)buf + done, length - done, (off_t)(at + done));

		if (bytes < 0 && !error && errno == EINTR)
			continue;
		if (bytes < 0)
			return error ? -error : -errno;
		if (!bytes && !pages->by_file)
			return -EIO;
		if (!bytes) { /* past the end of the file: nobody's */
			memset((char *)buf + done, 0, length - done);
			return 0;
		}
		done += (uint64_t)bytes;
	}
	return 0;
}
