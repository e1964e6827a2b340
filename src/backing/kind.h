/* SPDX-License-Identifier: MIT */
/*
 * What the kinds of backing have in common, and the table by which they differ. Inside backing/
 * only. No state; threads as in backing.h.
 */
#ifndef GR__KIND_H
#define GR__KIND_H

#include "backing/backing.h"
#include <stdbool.h>
#include <sys/mman.h>

/*
 * One kind of backing. gr__mem_map() calls open, then, when all lengths are known and checked, fit;
 * then piece for the used length, and again for what a resize adds.
 */
struct gr__backing {
	const char *name;
	unsigned flags; /* GR_… that it takes */
	/* Gets what is needed to know the page size, and sets that. Failing, it may leave anything
	 * that undo takes away. */
	int (*open)(const struct gr_block_opts *opts, struct gr__mem *mem);
	/* Sees to it that max_length fits. May be NULL. */
	int (*fit)(const struct gr_block_opts *opts, struct gr__mem *mem);
	/* Maps [offset, offset + length) of the block where the kernel likes. NULL: it is mapped.
	 */
	int (*piece)(const struct gr__mem *mem, uint64_t offset, uint64_t length, void **addr);
	/* Instead of piece, where the whole is never mapped: a part of it, by any thread. */
	int (*window)(const struct gr__mem *mem, uint64_t offset, uint64_t length, void **addr);
	void (*unwindow)(const struct gr__mem *mem, void *addr, uint64_t length);
	/* Gives pages back. NULL: they are not ours. */
	int (*discard)(struct gr__mem *mem, uint64_t offset, uint64_t length);
};

extern const struct gr__backing gr__backing_anon, gr__backing_memfd, gr__backing_file,
	gr__backing_caller, gr__backing_windowed, gr__backing_foreign;

/* Flags that any memory of our own takes, and those that mean nothing to a backing. */
#define GR__FLAGS_OWN                                                                              \
	(GR_SHARED | GR_PREALLOC | GR_RESERVE | GR_THP | GR_NO_THP | GR_LOCKED | GR_NO_DUMP |      \
	 GR_NO_FORK)
#define GR__FLAGS_ANY (GR_NO_GUARD | GR_DELETE_UNMAP | GR_NO_WAIT)

/* options.c: everything that can be said of @opts alone; sets what it says in @mem. */
int gr__options_check(const struct gr_block_opts *opts, struct gr__mem *mem);
/* options.c: lengths and offset, once the page size is known. */
int gr__options_lengths(const struct gr_block_opts *opts, struct gr__mem *mem);

/* hugetlb.c: sizes of huge pages as the kernel's calls want them. */
bool gr__mem_is_huge(const struct gr__mem *mem);
int gr__huge_check(const struct gr__mem *mem);
int gr__huge_map_flags(uint64_t page_size);
unsigned gr__huge_memfd_flags(uint64_t page_size);

/* advice.c: what the flags ask for a new piece, all but preallocation; then that. */
int gr__advise(struct gr__mem *mem, uint64_t offset, uint64_t length);
int gr__populate(struct gr__mem *mem, uint64_t offset, uint64_t length);

/* Discards by the ways the kernel has; each for its kinds of mapping. */
int gr__discard_private(struct gr__mem *mem, uint64_t offset, uint64_t length);
int gr__discard_in_file(struct gr__mem *mem, uint64_t offset, uint64_t length);

/* file.c: a piece of mem->fd. */
int gr__piece_of_file(const struct gr__mem *mem, uint64_t offset, uint64_t length, void **addr);

/* For a mapping that failed: the sentence, with the way out where it is known. Returns @rc. */
int gr__piece_failed(const struct gr__mem *mem, int rc, uint64_t length);

static inline int gr__mem_protection(const struct gr__mem *mem)
{
	return mem->flags & GR_READ_ONLY ? PROT_READ : PROT_READ | PROT_WRITE;
}

/*
 * Huge pages are always reserved, so that no touch can find the pool empty. Preallocated memory is
 * accounted, so that what cannot be had is refused rather than fetched until somebody is killed.
 */
static inline int gr__mem_reserve_flag(const struct gr__mem *mem)
{
	return mem->flags & (GR_RESERVE | GR_PREALLOC) || gr__mem_is_huge(mem) ? 0 : MAP_NORESERVE;
}

static inline void *gr__mem_at(const struct gr__mem *mem, uint64_t offset)
{
	return (char *)mem->host + offset;
}

#endif
