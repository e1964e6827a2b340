/* SPDX-License-Identifier: MIT */
/*
 * A machine of KVM that is none: ioctl() on its descriptor is led here by the linker, and keeps to
 * the rules of the real one (no overlaps, sizes and rights that cannot change, numbers in bounds).
 * So the bookkeeping is tested where there is no /dev/kvm.
 *
 * Threads: any; a lock of its own.
 */
#ifndef FAKE_H
#define FAKE_H

#include <guestram/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_FD 1000001 /* no descriptor of this process */
#define FAKE_SLOTS 1024
#define FAKE_LOG_WORDS 4      /* of a slot's log: what is written beyond is not logged */
#define FAKE_RING_BYTES 4096u /* one ring, of the processor fake_cpu() */
#define FAKE_RING_KEPT 64u    /* entries that are never used */

struct fake_slot {
	unsigned flags;
	uint64_t addr, size, host, guest_memfd_offset;
	int guest_memfd;
	uint64_t log[FAKE_LOG_WORDS];	 /* written since it was fetched or cleared */
	uint64_t queued[FAKE_LOG_WORDS]; /* in the ring, and not reset yet: not pushed again */
};

struct fake {
	int slots_max; /* what KVM_CAP_NR_MEMSLOTS says */
	int address_spaces, read_only, guest_memfd;
	struct fake_slot slots[2][FAKE_SLOTS]; /* size 0: none */
	int in_use;
	long sets, deletes, flag_changes;
	/* fail the call that takes the count to 0, or all while it is negative; 0: none */
	int fail_sets, fail_deletes, fail_with;
	long wrong; /* calls that break KVM's rules */
	/* dirty pages */
	int manual; /* what KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 says, and then whether it is on */
	int manual_on;
	int ring_max;	     /* what KVM_CAP_DIRTY_LOG_RING says */
	uint64_t ring_bytes; /* as enabled */
	uint64_t ring_head, ring_tail;
	int addr_bits; /* slots move below 2^that; 0: never */
	long moves, fetches, clears, resets;
	/* called with no lock before and after each call on the machine: a guest that runs */
	void (*meanwhile)(void);
};

extern struct fake fake;
void fake_reset(void);
/*
 * A guest writes to the page at @addr: 1 and where that is in this process; 0: no memory that can
 * be written is there; -1: the ring is full, and nothing was written.
 */
int fake_write(uint64_t addr, uint64_t *host);
/* A descriptor from which the ring can be mapped; closed by fake_reset(). */
int fake_cpu(void);
/* The slot that shows @addr, or NULL. */
const struct fake_slot *fake_at(uint64_t addr);

/* Has the machine a slot for each range of @space, as it is, and no other, and nothing pending? */
bool slots_equal_ranges(struct gr_kvm *kvm, struct gr_space *space);

#endif
