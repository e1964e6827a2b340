/* SPDX-License-Identifier: MIT */
/*
 * The kernel's calls on the files behind blocks, each with a name by which a test makes it fail.
 * Calls return 0 (or a descriptor, close-on-exec) or -errno; interrupted ones are repeated.
 *
 * Threads: no state of ours; any number at once.
 */
#ifndef GR__FILE_H
#define GR__FILE_H

#include <stdbool.h>
#include <stdint.h>

/* What an open file is. */
struct gr__file_info {
	uint64_t size;
	uint64_t huge_page_size; /* of its hugetlbfs, else 0 */
	bool regular;
	bool directory;
	bool readable, writable; /* through this descriptor */
};

/* Fault: "open". Never waits for a peer of a FIFO, never takes a terminal. */
int gr__file_open(const char *path, int flags, unsigned mode);
/* An unnamed file in @directory. Faults: "open.tmpfile", and for the way without: "mkostemp". */
int gr__file_open_unnamed(const char *directory);
/* @flags: MFD_…; the name is cut at the kernel's limit. Fault: "memfd_create". */
int gr__file_memfd(const char *name, unsigned flags);
/* Fault: "dup". */
int gr__file_dup(int fd);

/* Faults: "fstat", "fstatfs", "fcntl". */
int gr__file_get_info(int fd, struct gr__file_info *info);

/* Faults: "ftruncate", "fallocate", "fallocate.punch", "seal". The size is changed by none but the
 * first. */
int gr__file_set_size(int fd, uint64_t size);
int gr__file_allocate(int fd, uint64_t offset, uint64_t length);
int gr__file_punch(int fd, uint64_t offset, uint64_t length);
int gr__file_seal(int fd, int seals);

/* Undo a creation: remove @path if it still names the file of @fd. */
void gr__file_unlink(const char *path, int fd);

/* Does this machine have huge pages of that size, be it none at the moment? */
bool gr__file_huge_pages_known(uint64_t page_size);

#endif
