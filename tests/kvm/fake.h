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

struct fake_slot {
	unsigned flags;
	uint64_t addr, size, host, guest_memfd_offset;
	int guest_memfd;
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
};

extern struct fake fake;
void fake_reset(void);
/* The slot that shows @addr, or NULL. */
const struct fake_slot *fake_at(uint64_t addr);

/* Has the machine a slot for each range of @space, as it is, and no other, and nothing pending? */
bool slots_equal_ranges(struct gr_kvm *kvm, struct gr_space *space);

#endif
