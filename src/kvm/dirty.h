/* SPDX-License-Identifier: MIT */
/*
 * What the guest wrote, as a source for clients of <guestram/dirty.h>. KVM tells it by slots: in a
 * bitmap for each (dirty.c), or in a ring for each virtual processor (ring.c). We keep it by block
 * (dirty/saved.h), so that it outlives the slot, and report it from there.
 *
 * Order. A collect makes pages clean in KVM, which protects them again, before it returns; its
 * caller reads memory then. So a write is either in what he reads, or noted for the next.
 *
 * A slot goes while processors run. KVM forgets its bitmap with it, and what was written after we
 * fetched that would be lost. So the slot is *moved* first, to an address where no processor looks:
 * KVM keeps the bitmap, and nobody writes through the slot any more; then it is fetched, then the
 * slot deleted. Where it cannot be moved and no pause was given, all of the slot is reported. Rings
 * keep what they have of a slot that is gone: they are emptied after it went, and before its number
 * is used again.
 *
 * Threads: all under kvm->lock; the dirty state's lock may be held around that.
 */
#ifndef GR__KVM_DIRTY_H
#define GR__KVM_DIRTY_H

#include "dirty/saved.h"
#include "kvm/kvm.h"

struct gr__kvm_dirty {
	struct gr_kvm *kvm; /* const */
	bool manual;	    /* const: fetching a log does not clear it: KVM_CLEAR_DIRTY_LOG does */
	bool late;	    /* const: see gr__kvm_tells_late() */
	struct cds_list_head saved; /* wr: kvm->lock: struct gr__saved */
	/* wr: kvm->lock: bitmaps */
	uint64_t *log; /* room for the log of a slot */
	uint64_t log_words;
	unsigned park_bits; /* slots can move below this power of two; 0: not known, 1: nowhere */
	/* wr: kvm->lock: rings */
	uint64_t ring_bytes; /* const: of each; 0: bitmaps */
	struct cds_list_head rings;
	uint64_t owed; /* entries that were given back and are not reset */
	bool overrun;  /* KVM has lost entries of a ring: see ring.c */
	struct gr__kvm_slot **by_number;
};

/* ------------------------------------------- dirty.c: a slot is about to go, did not go, is gone
 */

/* @paused: no processor runs. */
void gr__kvm_dirty_leave(struct gr_kvm *kvm, struct gr__kvm_slot *slot, bool paused);
/* 0, or -errno, said: KVM has it at another address. */
int gr__kvm_dirty_stay(struct gr_kvm *kvm, struct gr__kvm_slot *slot);
/* It is in the table still, and its number is taken. */
void gr__kvm_dirty_left(struct gr_kvm *kvm, const struct gr__kvm_slot *slot, bool paused);

/* ------------------------------------------------------------------------- ring.c: rings */

/*
 * All that rings have is saved, and their pages are protected again; 0, or -errno, said: not yet.
 */
int gr__kvm_rings_take(struct gr__kvm_dirty *dirty);
void gr__kvm_rings_close(struct gr__kvm_dirty *dirty);
/* The source as it was opened by gr_kvm_dirty_open(), or NULL when it is another. */
struct gr__kvm_dirty *gr__kvm_dirty_of(const struct gr_dirty_source *source);

#endif
