/* SPDX-License-Identifier: MIT */
/*
 * A guest's memory as an ELF core, for gdb, readelf, crash: a PT_LOAD for each range, a PT_NOTE.
 *
 * Caveats first:
 *  - Readers, writers and the guest go on meanwhile. The ranges are those of one moment; the bytes
 *    are each of some moment between the call and its return.
 *  - Blocks are pinned for that time: one that is deleted stays until the end, one that is to
 * shrink is refused (-EBUSY).
 *  - Pages that were never touched, and pages of zeroes, are holes in the file; dumping gives no
 *    memory to the guest's untouched pages. See docs/looking.md for what this rests on.
 */
#ifndef GUESTRAM_DUMP_H
#define GUESTRAM_DUMP_H

#include <guestram.h>

#ifdef __cplusplus
extern "C" {
#endif

/* gr_dump_opts.flags */
#define GR_DUMP_NO_VADDR (1u << 0) /* p_vaddr is 0, not the guest-physical address */

/**
 * struct gr_dump_stats - what a dump came to
 * @segments:   PT_LOADs
 * @bytes:      of guest memory in them
 * @written:    bytes of pages that were not all zeroes
 * @lost:       bytes that could not be read and stand as zeroes
 * @generation: of the view that was dumped; 0 from gr_dump_from()
 */
struct gr_dump_stats {
	uint64_t segments;
	uint64_t bytes;
	uint64_t written;
	uint64_t lost;
	uint64_t generation;
	uint64_t reserved[8];
};

/**
 * struct gr_dump_opts - how to dump; all zero is a good default
 * @flags:      GR_DUMP_NO_VADDR
 * @machine:    e_machine of the guest, see <elf.h>; 0: this processor's
 * @vmcoreinfo, @vmcoreinfo_length: what the guest told of itself, for a note VMCOREINFO; NULL: none
 * @notes, @notes_length: whole ELF notes, put in as they are (NT_PRSTATUS of the processors, say)
 * @progress:   told now and then how many bytes of guest memory are @done of @total; not 0 cancels
 * @progress_context: its first argument
 * @stats:      filled on success; may be NULL
 */
struct gr_dump_opts {
	unsigned flags;
	unsigned machine;
	const void *vmcoreinfo;
	size_t vmcoreinfo_length;
	const void *notes;
	size_t notes_length;
	int (*progress)(void *context, uint64_t done, uint64_t total);
	void *progress_context;
	struct gr_dump_stats *stats;
	uint64_t reserved[8]; /* zero */
};

/**
 * gr_dump() - write a space's memory as an ELF64 core
 * @fd:   a regular file, which is emptied first and made sparse; or a pipe, socket or device, which
 *        is given all the zeroes. Not opened with O_APPEND.
 * @opts: NULL for the defaults
 *
 * After a failure the file holds a part of a core.
 *
 * Context: any thread; takes long; not inside a read section or callback. Return: 0, -EINVAL,
 * -ECANCELED (@opts->progress), -ENOMEM, -EFBIG, -ENOSPC, -EPIPE, -EDEADLK, or the error of a
 * system call on @fd. Since 0.1.
 */
GR_API int gr_dump(struct gr_space *space, int fd, const struct gr_dump_opts *opts);

/** struct gr_dump_range - guest-physical addresses; multiples of GR_PAGE_SIZE, may end at 2^64 */
struct gr_dump_range {
	uint64_t addr;
	uint64_t length;
};

/**
 * struct gr_dump_source - memory of another kind to dump: another process's, a saved one
 * @ranges, @count: by rising address, apart
 * @next: from @offset in the range on, nothing but zeroes stands before *first; the *length bytes
 *        from there may be others. *length 0: ask again from *first on. NULL: all may be others
 * @read: bytes of a range; -EIO or -EFAULT: there are none any more, they stand as zeroes
 * @context: first argument of both
 *
 * Functions return 0 or a negative errno, which ends the dump.
 */
struct gr_dump_source {
	const struct gr_dump_range *ranges;
	size_t count;
	int (*next)(void *context, size_t range, uint64_t offset, uint64_t *first,
		    uint64_t *length);
	int (*read)(void *context, size_t range, uint64_t offset, void *buf, uint64_t length);
	void *context;
};

/**
 * gr_dump_from() - the same of memory that @source knows
 *
 * Context: any thread. Return: as gr_dump(), -ERANGE a range wraps, or what @source failed with.
 * Since 0.1.
 */
GR_API int gr_dump_from(const struct gr_dump_source *source, int fd,
			const struct gr_dump_opts *opts);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_DUMP_H */
