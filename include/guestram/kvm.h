/* SPDX-License-Identifier: MIT */
/*
 * The memory slots of a KVM virtual machine, kept in step with a space: a range that is mapped is a
 * slot, a range that is unmapped is none, whichever thread changes the space and whatever the
 * virtual processors do meanwhile.
 *
 * Caveats first:
 *  - KVM changes one slot at a time. Where a change takes a range away and gives some of its
 *    addresses back (a split, other rights, a replacement, a resize), a processor finds no memory
 *    there for some microseconds. Either give @pause and @resume, or be ready for exits of kind
 *    KVM_EXIT_MMIO on addresses that are memory: complete them by gr_load() and gr_store(). Code
 * and page tables in such ranges need @pause: KVM cannot fetch by exits.
 *  - Other ranges are never disturbed, and a plain map or unmap disturbs nobody.
 *  - The slots from first_slot on are ours alone. Nobody else may set them.
 *  - A followed space can be closed only after gr_kvm_close(), and so can its RAM.
 *
 * See docs/kvm.md.
 */
#ifndef GUESTRAM_KVM_H
#define GUESTRAM_KVM_H

#include <guestram.h>
#include <guestram/dirty.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gr_kvm;

/* gr_kvm_opts.flags */
#define GR_KVM_LOG_DIRTY (1u << 0)   /* slots log dirty pages from the start */
#define GR_KVM_GUEST_MEMFD (1u << 1) /* a guest_memfd for each block, or -ENOTSUP */

/**
 * struct gr_kvm_opts - how a machine follows a space; all zero is a good default
 * @flags:            GR_KVM_…
 * @first_slot:       number of the first slot that is ours
 * @max_slots:        how many are, 0: all that the machine has from @first_slot on
 * @address_space:    of the machine (x86: 1 is that of system management mode), see
 *                    KVM_CAP_MULTI_ADDRESS_SPACE
 * @priority:         of our listener, see gr_listener_open()
 * @guest_memfd_flags: for KVM_CREATE_GUEST_MEMFD
 * @pause:            return when no virtual processor runs guest code, and let none begin; NULL:
 * see the caveats
 * @resume:           let them run again; given if and only if @pause is
 * @pause_context:    first argument of both
 *
 * @pause is called on the thread that changes the space, with no lock held, when a slot is about to
 * go whose addresses come back; @resume on the thread whose change is the last one to be published
 * or refused. So a processor counts as paused as soon as its thread is not inside KVM_RUN, whatever
 * else that thread is doing: it may itself be the one that changes the space.
 */
struct gr_kvm_opts {
	unsigned flags;
	unsigned first_slot;
	unsigned max_slots;
	unsigned address_space;
	int priority;
	uint64_t guest_memfd_flags;
	void (*pause)(void *context);
	void (*resume)(void *context);
	void *pause_context;
	uint64_t reserved[8]; /* zero */
};

/**
 * gr_kvm_open() - give a machine all ranges of a space as slots, and all that come later
 * @vm_fd: what KVM_CREATE_VM gave; must stay open until gr_kvm_close(); the caller closes it
 * @opts:  NULL for the defaults; copied
 * @kvm:   result; ended by gr_kvm_close()
 *
 * From then on a change of the space fails when KVM refuses it: -ENOSPC with no slot left, -ENOTSUP
 * for memory that has no host address (foreign windows) or read-only ranges on a machine without
 * KVM_CAP_READONLY_MEM, -ERANGE for what no slot can hold, -EEXIST when a slot that is not ours is
 * there, or KVM's own error. Nothing is changed then: slots and space are as they were.
 *
 * A range that is readable only becomes a read-only slot: writes exit as MMIO. Of a block that is
 * used shorter than it is mapped, the machine sees the used part.
 *
 * Context: any thread; not inside a read section or callback. Return: 0, -EINVAL (options; not a
 * virtual machine), -ERANGE (slot numbers), -ENOTSUP, -EDEADLK, -ENOMEM, or what a range was
 * refused with. Since 0.1.
 */
GR_API int gr_kvm_open(struct gr_space *space, int vm_fd, const struct gr_kvm_opts *opts,
		       struct gr_kvm **kvm);

/**
 * gr_kvm_close() - take all our slots out of the machine and stop following
 *
 * Context: any thread; waits for changes that are being told; not inside a read section or
 * callback. Return: 0 (NULL too), -EDEADLK, -ENOMEM (nothing changed), or KVM's error when it did
 * not give up a slot: the memory of that slot stays pinned, the rest is done, and the call may be
 * repeated. Since 0.1.
 */
GR_API int gr_kvm_close(struct gr_kvm *kvm);

/**
 * gr_kvm_set_dirty_log() / gr_kvm_set_block_dirty_log() - let all slots log dirty pages, or those
 * of one block whatever the rest does
 *
 * Slots that are there and slots to come, of all blocks or of a live one. A slot logs when either
 * asks for it. The log of a slot ends when the slot does.
 *
 * Context: any thread. Return: 0, -ENOTSUP (GR_KVM_GUEST_MEMFD: KVM logs none), -ENOMEM, or KVM's
 * error, and nothing changed. Since 0.1.
 */
GR_API int gr_kvm_set_dirty_log(struct gr_kvm *kvm, int on);
GR_API int gr_kvm_set_block_dirty_log(struct gr_kvm *kvm, struct gr_block *block, int on);

/**
 * gr_kvm_dirty_open() - what the guest writes, for clients of <guestram/dirty.h>
 * @ring_bytes: 0: by KVM's bitmaps; else by rings of this size, as gr_kvm_ring_enable() gave
 * @source:     result, ended by gr_dirty_source_close(), before gr_kvm_close()
 *
 * All slots that are there, and all that come, log dirty pages as long as it is open; a harvest
 * fetches what it is asked for and has KVM protect it again. Slots may come, go, be split and move
 * meanwhile, with processors running: what was written through one that goes is kept for its block.
 * Where KVM cannot tell that of a slot that goes (a machine that does not move slots, or Intel's
 * page modification log) and no gr_kvm_opts.pause was given, all of that slot is reported.
 *
 * By bitmaps it sets KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 where the machine has it, for good; nobody
 * else may fetch or clear the logs of our slots meanwhile. With rings each virtual processor has to
 * be told by gr_kvm_ring_add(), and pages of slots that are not ours are told to nobody.
 *
 * Context: any thread; not in a callback. Return: 0, -ENOTSUP (guest_memfd; rings where the machine
 * has none, or bitmaps where it has rings), -EINVAL, -EBUSY (there is one), -ENOMEM, or KVM's
 * error. Since 0.1.
 */
GR_API int gr_kvm_dirty_open(struct gr_kvm *kvm, uint64_t ring_bytes,
			     struct gr_dirty_source **source);

/**
 * gr_kvm_ring_enable() - give a machine rings of dirty pages instead of bitmaps
 * @vm_fd: before its first virtual processor is made; cannot be taken back
 * @bytes: of each ring, 16 for a page: a power of two, at least a page; 0: 64 KiB, or what the
 * machine has. Becomes what it is
 *
 * Rings cost what is written rather than what there is, so they suit large guests that write
 * little.
 *
 * Context: any thread. Return: 0, -ENOTSUP, -ERANGE (more than the machine has), or KVM's error:
 * -EINVAL when there is a virtual processor, or rings. Since 0.1.
 */
GR_API int gr_kvm_ring_enable(int vm_fd, uint64_t *bytes);

/**
 * gr_kvm_ring_add() - a virtual processor whose ring the source is to read
 * @source: of gr_kvm_dirty_open(), with rings
 * @cpu_fd: may be closed later
 *
 * Once for each, after the open and before it next enters the guest: what it writes before is not
 * seen.
 *
 * Context: any thread. Return: 0, -EINVAL, -ENOMEM, or mmap()'s error. Since 0.1.
 */
GR_API int gr_kvm_ring_add(struct gr_dirty_source *source, int cpu_fd);

/**
 * gr_kvm_ring_empty() - make room in the rings; call it on each KVM_EXIT_DIRTY_RING_FULL
 *
 * What they had is kept for the next harvest. Then the processor may run on.
 *
 * Context: any thread; waits for a harvest that is being taken. Return: 0, -EINVAL, -EIO (a fault
 * of KVM: it wrote over entries; all memory is dirty in each harvest from then on, and the
 * processor may never run again), or KVM's error. Since 0.1.
 */
GR_API int gr_kvm_ring_empty(struct gr_dirty_source *source);

/**
 * struct gr_kvm_slot - a slot as KVM has it
 * @number: as in kvm_userspace_memory_region.slot, address space included
 * @flags:  KVM_MEM_…
 */
struct gr_kvm_slot {
	unsigned number;
	unsigned flags;
	uint64_t addr;
	uint64_t length;
	void *host;
};

/**
 * gr_kvm_get_slots() - the slots of this moment, in order of address
 * @slots: filled with the first @max; may be NULL when @max is 0
 *
 * Context: any thread. Return: how many there are; it may be over @max. Since 0.1.
 */
GR_API int gr_kvm_get_slots(struct gr_kvm *kvm, struct gr_kvm_slot *slots, int max);

/**
 * struct gr_kvm_stats - a machine's slots at one moment; counts are since gr_kvm_open()
 * @slots:      in use, @slots_max: ours, @slots_peak: most at once
 * @bytes:      of guest memory in them
 * @pending:    slots whose range is leaving, or is being replaced, in a change under way
 * @added, @removed: slots set and deleted
 * @refused:    ranges that KVM or a limit refused
 * @pauses:     calls of pause
 * @stuck:      slots that KVM did not give up; their memory stays pinned, and it is tried again
 * @missing:    ranges that KVM refused to take back when a change was undone; likewise
 */
struct gr_kvm_stats {
	uint64_t slots;
	uint64_t slots_max;
	uint64_t slots_peak;
	uint64_t bytes;
	uint64_t pending;
	uint64_t added;
	uint64_t removed;
	uint64_t refused;
	uint64_t pauses;
	uint64_t stuck;
	uint64_t missing;
	uint64_t reserved[8];
};

/** gr_kvm_get_stats() - a machine's figures. Context: any thread. Since 0.1. */
GR_API void gr_kvm_get_stats(struct gr_kvm *kvm, struct gr_kvm_stats *stats);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_KVM_H */
