/* SPDX-License-Identifier: MIT */
/*
 * Which pages of a block's memory hold anything, and their bytes, without giving memory to pages
 * that have none: for dumps and for looking at a process.
 *
 * What a page is known by depends on what it is a page of:
 *
 *   shared file, memfd    the file's own holes (SEEK_DATA), which covers swapped pages; bytes by
 *                         reading the file, which fills no hole and raises no SIGBUS past its end
 *   private anonymous     the page table (/proc/PID/pagemap: present or swapped)
 *   private file          either of the two
 *   anonymous and shared  the page cache (mincore), while there is no swap; else every page counts
 *   the caller's          as private anonymous where /proc/PID/maps says so, else every page counts
 *
 * Where the kernel refuses to tell, every page counts, so that nothing is left out.
 *
 * Calls return 0 or -errno, and say nothing to gr_last_error(): this file needs nothing of the
 * library, so that the program can use it for another process.
 *
 * Threads: no state but the structure, which belongs to its caller.
 */
#ifndef GR__PAGES_H
#define GR__PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

uint64_t gr__pages_size(void);

/* How many bytes of whole pages are in memory. Fault: "mincore". */
int gr__pages_resident(const void *addr, uint64_t length, uint64_t *bytes);

struct gr__file_pages {
	uint64_t inode, device;
	uint64_t allocated, size;
};

/* As far as it is known without asking a file server. Faults: "statx", "readlink". */
int gr__file_pages_get(int fd, struct gr__file_pages *file);
int gr__file_path(int fd, char *path, size_t size);

#define GR__PAGES_ENTRIES 4096

enum gr__pages_kind {
	GR__PAGES_SHARED_FILE,
	GR__PAGES_PRIVATE_FILE,
	GR__PAGES_PRIVATE,
	GR__PAGES_SHARED_ANON,
	GR__PAGES_UNKNOWN, /* the caller's */
};

/* Where a block's memory is. */
struct gr__pages_of {
	enum gr__pages_kind kind;
	pid_t pid; /* 0: this process */
	uint64_t host, length;
	int fd; /* number in that process, or -1 */
	uint64_t fd_offset;
	uint64_t inode; /* of @fd, if not 0: another one is -ESTALE */
};

struct gr__pages {
	struct gr__pages_of of;
	int file;    /* opened anew, or -1 */
	int pagemap; /* of the process, or -1 */
	int mem;     /* of another process, or -1 */
	bool by_file, holes, table, cache;
	/* entries of the page table, or bytes of mincore, from this page on */
	uint64_t entries_first, entries_count;
	union {
		uint64_t entries[GR__PAGES_ENTRIES];
		unsigned char resident[GR__PAGES_ENTRIES];
	};
};

/*
 * 0; -ESTALE; for another process also what opening its memory ended in. Faults: "open.pages",
 * "open.pagemap", "open.mem", "open.maps".
 */
int gr__pages_open(struct gr__pages *pages, const struct gr__pages_of *of);
void gr__pages_close(struct gr__pages *pages);

/* What was learned of the page table is old: it is asked again. */
static inline void gr__pages_forget(struct gr__pages *pages)
{
	pages->entries_count = 0;
}

/*
 * From @offset on, nothing but zeroes stands before *first; the *count bytes from there may be
 * others. *count 0: nothing is known from *first on yet, ask again. Bounded work in each call.
 * Faults: "lseek", "pagemap", "mincore".
 */
int gr__pages_next(struct gr__pages *pages, uint64_t offset, uint64_t *first, uint64_t *count);

/* Bytes; -EIO, -EFAULT where there is none any more. Faults: "pread.file", "pread.mem". */
int gr__pages_read(const struct gr__pages *pages, uint64_t offset, void *buf, uint64_t length);

#endif
