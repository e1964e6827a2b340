/* SPDX-License-Identifier: MIT */
/*
 * Rings of dirty pages: one for each virtual processor, mapped from its descriptor.
 *
 *   KVM  ── (slot, page), DIRTY ──►  entries[]  ── we: saved, then RESET ──► KVM_RESET_DIRTY_RINGS:
 *           release                             acquire, release              protected, free again
 *
 * An entry is of the slot that had the number when the page was written. Order: a page is saved
 * before its entry is given back, and protected again before anybody hears of it and reads.
 *
 * A processor leaves the guest before its ring is full. There are KVMs that write more meanwhile
 * than they have kept room for (kvm_pvm, when it emulates a guest that writes all the time): over
 * entries that we have not seen, or given back. That shows by all entries being DIRTY at once, or
 * none being reset, which is never so else. What is lost cannot be told, nor is it protected again:
 * so from then on all that slots show is dirty in each harvest, which costs time and loses nothing.
 */
#include "base/error.h"
#include "kvm/dirty.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "os/memory.h"
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/mman.h>

#define RING_BYTES UINT64_C(65536) /* 4,096 entries */

/* Guarded by kvm->lock. */
struct ring {
	struct cds_list_head node;
	struct kvm_dirty_gfn *entries; /* shared with KVM */
	uint64_t next;		       /* entry to look at, counted without end */
};

/* Lock held. */
static void number_slots(struct gr__kvm_dirty *dirty, bool set)
{
	const struct gr_kvm *kvm = dirty->kvm;
	unsigned i;

	for (i = 0; i < kvm->count; i++)
		dirty->by_number[kvm->table[i]->number] = set ? kvm->table[i] : NULL;
}

/* One entry as KVM wrote it. Those of slots that are not ours are nobody's here. */
static void save_entry(struct gr__kvm_dirty *dirty, uint32_t number, uint64_t page)
{
	const struct gr_kvm *kvm = dirty->kvm;
	uint32_t ours = number - (kvm->opts.address_space << 16 | kvm->opts.first_slot);
	const struct gr__kvm_slot *slot;

	if (ours >= kvm->stats.slots_max)
		return;
	slot = dirty->by_number[ours];
	if (!slot || page >= slot->range.visible / kvm->page_size)
		return;
	gr__saved_put(gr__saved_find(&dirty->saved, slot->range.block),
		      slot->range.offset + page * kvm->page_size, kvm->page_size);
}

static void take_ring(struct gr__kvm_dirty *dirty, struct ring *ring)
{
	uint64_t count = dirty->ring_bytes / sizeof(struct kvm_dirty_gfn), taken;

	for (taken = 0; taken < count; taken++, ring->next++) {
		struct kvm_dirty_gfn *entry = &ring->entries[ring->next & (count - 1)];

		/* acquire: pairs with KVM's release, slot and offset are there */
		if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
			return;
		save_entry(dirty, entry->slot, entry->offset);
		dirty->owed++;
		/* release: KVM may write it anew when it sees that */
		__atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	}
	dirty->overrun = true;
}

/* KVM has written over entries: all is dirty, now and in each harvest to come. */
static void lose(struct gr__kvm_dirty *dirty)
{
	const struct gr_kvm *kvm = dirty->kvm;
	unsigned i;

	dirty->overrun = true;
	dirty->owed = 0;
	for (i = 0; i < kvm->count; i++)
		gr__saved_put(gr__saved_find(&dirty->saved, kvm->table[i]->range.block),
			      kvm->table[i]->range.offset, kvm->table[i]->range.visible);
}

int gr__kvm_rings_take(struct gr__kvm_dirty *dirty)
{
	struct ring *ring;
	int rc = 0;

	number_slots(dirty, true);
	cds_list_for_each_entry (ring, &dirty->rings, node)
		take_ring(dirty, ring);
	number_slots(dirty, false);
	if (dirty->overrun)
		lose(dirty);
	GR_POINT("kvm.ring_taken");
	while (dirty->owed && !rc) {
		int count = gr__kvm_reset_rings(dirty->kvm->vm_fd);

		if (count < 0)
			rc = gr__fail(count, "KVM: resetting the rings of dirty pages: %s",
				      strerror(-count));
		else if (!count) /* it has written over what we gave back */
			lose(dirty);
		else /* a signal may leave some for the next call */
			dirty->owed -=
				(uint64_t)count < dirty->owed ? (uint64_t)count : dirty->owed;
	}
	return rc;
}

void gr__kvm_rings_close(struct gr__kvm_dirty *dirty)
{
	struct ring *ring, *next;

	cds_list_for_each_entry_safe (ring, next, &dirty->rings, node) {
		gr__os_unmap(ring->entries, dirty->ring_bytes);
		gr__free(ring);
	}
}

/* ------------------------------------------------------------------------- for the embedder */

int gr_kvm_ring_enable(int vm_fd, uint64_t *bytes)
{
	unsigned capability = KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
	uint64_t wanted = *bytes;
	int most = gr__kvm_check(vm_fd, capability), rc;

	if (most <= 0) { /* before Linux 6.1 */
		capability = KVM_CAP_DIRTY_LOG_RING;
		most = gr__kvm_check(vm_fd, capability);
	}
	if (most <= 0)
		return gr__fail(-ENOTSUP,
				"KVM: this machine has no rings of dirty pages "
				"(KVM_CAP_DIRTY_LOG_RING): %s",
				most < 0 ? strerror(-most) : "it needs Linux 5.11");
	if (!wanted)
		wanted = RING_BYTES < (uint64_t)most ? RING_BYTES : (uint64_t)most;
	if (wanted > (uint64_t)most)
		return gr__fail(-ERANGE, "KVM: a ring of %#llx bytes: this machine has %#x at most",
				(unsigned long long)wanted, (unsigned)most);
	rc = gr__kvm_enable(vm_fd, capability, wanted);
	if (rc < 0)
		return gr__fail(rc,
				"KVM: rings of %#llx bytes: %s (a power of two, before there is a "
				"virtual processor, once)",
				(unsigned long long)wanted, strerror(-rc));
	*bytes = wanted;
	return 0;
}

static int check_source(const struct gr__kvm_dirty *dirty)
{
	if (!dirty || !dirty->ring_bytes)
		return gr__fail(-EINVAL, "KVM: the source has no rings");
	return 0;
}

int gr_kvm_ring_add(struct gr_dirty_source *source, int cpu_fd)
{
	struct gr__kvm_dirty *dirty = gr__kvm_dirty_of(source);
	struct ring *ring;
	void *entries;
	int rc = check_source(dirty);

	if (rc < 0)
		return rc;
	ring = gr__alloc(sizeof(*ring));
	if (!ring)
		return gr__fail(-ENOMEM, "KVM: no memory for a ring");
	rc = gr__os_map(dirty->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cpu_fd,
			KVM_DIRTY_LOG_PAGE_OFFSET * dirty->kvm->page_size, &entries);
	if (rc < 0) {
		gr__free(ring);
		return gr__fail(rc, "KVM: the ring of virtual processor %d: %s", cpu_fd,
				strerror(-rc));
	}
	ring->entries = entries;
	pthread_mutex_lock(&dirty->kvm->lock);
	cds_list_add_tail(&ring->node, &dirty->rings);
	gr__kvm_unlock(dirty->kvm);
	return 0;
}

int gr_kvm_ring_empty(struct gr_dirty_source *source)
{
	struct gr__kvm_dirty *dirty = gr__kvm_dirty_of(source);
	int rc = check_source(dirty);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&dirty->kvm->lock);
	rc = gr__kvm_rings_take(dirty);
	if (!rc && dirty->overrun)
		rc = gr__fail(-EIO,
			      "KVM wrote over entries of a ring of dirty pages: the processor "
			      "whose it is does not run any more");
	gr__kvm_unlock(dirty->kvm);
	return rc;
}
