/* SPDX-License-Identifier: MIT */
/*
 * The memory of one block: mapped, advised, bound, preallocated, resized, discarded and released.
 *
 * Threads: the caller serialises all calls on one gr__mem, except that discards may overlap each
 * other, and lost_pages anything but release; different ones are independent.
 * Invariant: gr__mem_map() leaves either a whole gr__mem or nothing (no mapping, no descriptor, no
 * file that it created).
 */
#ifndef GR__BACKING_H
#define GR__BACKING_H

#include "os/numa.h"
#include <guestram.h>
#include <stdbool.h>

struct gr__backing;
struct gr__sigbus_guard;

/*
 * Who fills the memory while it is used (the pager), and must know what is discarded. Its functions
 * are called in a read section, so that it may end a grace period after it has left gr__mem.filler;
 * any thread, no lock of ours held.
 */
struct gr__filler;

struct gr__filler_hold {
	struct gr__filler *filler; /* that was asked, or NULL */
	uint64_t offset, length;
	struct gr__filler_hold *next; /* the filler's */
};

struct gr__filler_ops {
	/* From here on to release() it puts nothing into the hold; who touches what is missing
	 * there waits. */
	void (*hold)(struct gr__filler *filler, struct gr__filler_hold *hold);
	/* @discarded: what is in it is zero for good; else all is as it was. */
	void (*release)(struct gr__filler *filler, struct gr__filler_hold *hold, bool discarded);
	/* The memory is about to be given up: not a byte is put there any more. */
	void (*end)(struct gr__filler *filler);
};

struct gr__filler {
	const struct gr__filler_ops *ops;
};

struct gr__mem {
	const struct gr__backing *ops; /* table of this kind of backing */
	void *host;		       /* first byte of the block; NULL: seen through windows */
	uint64_t length; /* used now, a multiple of page_size; wr: who makes or resizes the block */
	uint64_t max_length; /* address space, a multiple of page_size */
	uint64_t page_size;
	void *reserved; /* what to unmap: alignment slack is given back, the guard page is in it */
	uint64_t reserved_length; /* 0: nothing of ours (CALLER) */
	int fd;			  /* ours, or -1 */
	uint64_t fd_offset;
	unsigned flags; /* GR_…, GR_SHARED set for MEMFD */
	enum gr_backing backing;
	int resizable; /* memory, or a file whose size we gave it: what is in it is ours */
	gr_release_fn release;
	void *release_context;
	const struct gr_foreign_ops *foreign; /* or NULL */
	void *foreign_context;
	uint64_t window_size; /* a power of two; 0: it has a host address and no windows */
	uint64_t max_windows;
	struct gr__sigbus_guard *guard; /* or NULL, see os/sigbus.h */
	unsigned prealloc_threads;	/* 0: as many as there are processors */
	struct gr__numa numa;		/* for what it grows by, too */
	char name[80];			/* cut: for /proc/self/maps and sentences */
	char *created_path;		/* of a file that gr__mem_undo() removes, or NULL */
	struct gr__filler *filler;	/* atomic, or NULL: set and cleared by itself */
	int sized;			/* the file was empty: gr__mem_undo() makes it so again */
};

/* Checks @opts (all but the name), then makes the memory. 0 or -errno with gr__fail() said. */
int gr__mem_map(const struct gr_block_opts *opts, struct gr__mem *mem);

/* 0, or -ENOTSUP: the memory is not ours to resize. */
int gr__mem_check_resizable(const struct gr__mem *mem);

/*
 * Move the used length; both lengths are multiples of page_size and at most max_length. Growing
 * makes the new part usable (and preallocated where that was asked); shrinking gives the tail back
 * and makes it inaccessible. On an error nothing has changed.
 */
int gr__mem_resize(struct gr__mem *mem, uint64_t length);

/*
 * Make sure that a touch of the pages, which were discarded, finds memory, where that was promised
 * (GR_PREALLOC, huge pages); sets @fetched when it has done anything. On an error some may be
 * there.
 */
int gr__mem_fetch(struct gr__mem *mem, uint64_t offset, uint64_t length, int *fetched);

/* 0, or -errno: what is discarded does not read as zero, or cannot be discarded. */
int gr__mem_check_discard_zeroes(const struct gr__mem *mem);

/*
 * Move what is mapped at @addr over [offset, offset + length), page-aligned: pages of it that were
 * lost before, and replaced, may be lost again. 0, or -errno, @addr being unmapped and nothing
 * changed. Others may touch the range meanwhile.
 */
int gr__mem_cover(struct gr__mem *mem, uint64_t offset, uint64_t length, void *addr);

/* Give pages back; the range was checked to lie in the used length, page-aligned. */
int gr__mem_discard(struct gr__mem *mem, uint64_t offset, uint64_t length);

/*
 * Instead of gr__mem_release(), for a block that nobody has got to see because a later step failed:
 * what gr__mem_map() has created is removed again, and no release callback runs.
 */
void gr__mem_undo(struct gr__mem *mem);

/* Exactly once; needs no memory and cannot fail. */
void gr__mem_release(struct gr__mem *mem);

/*
 * Of memory with windows: map [offset, offset + length), which lies in the used length, and unmap
 * what that gave. Other than the calls above, any number of threads at once; callbacks run in
 * there. 0 or -errno with gr__fail() said; *host is then unchanged.
 */
int gr__mem_window_map(const struct gr__mem *mem, uint64_t offset, uint64_t length, void **host);
void gr__mem_window_unmap(const struct gr__mem *mem, void *host, uint64_t length);

/* Pages its file lost under us. */
uint64_t gr__mem_lost_pages(const struct gr__mem *mem);

#endif
