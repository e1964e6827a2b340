/* SPDX-License-Identifier: MIT */
/* The table of slots, their numbers, and what is kept for blocks. Lock held in all of it. */
#include "base/range.h"
#include "kvm/kvm.h"
#include "os/alloc.h"
#include "os/event.h"
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#define BITS 64u
#define WITH_GUEST_MEMFD (1u << 2) /* KVM_MEM_GUEST_MEMFD */

/* Slots have at least a page and never wrap: the range was checked. */
static uint64_t last_of(const struct gr_range *range)
{
	uint64_t last = range->addr;

	gr__range_last(range->addr, range->visible, &last);
	return last;
}

unsigned gr__kvm_find(const struct gr_kvm *kvm, uint64_t addr)
{
	unsigned low = 0, high = kvm->count;

	while (low < high) {
		unsigned middle = low + (high - low) / 2;

		if (last_of(&kvm->table[middle]->range) < addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct gr__kvm_slot *gr__kvm_overlap(const struct gr_kvm *kvm, const struct gr_range *range)
{
	unsigned place = gr__kvm_find(kvm, range->addr);

	if (place == kvm->count || kvm->table[place]->range.addr > last_of(range))
		return NULL;
	return kvm->table[place];
}

bool gr__kvm_same(const struct gr_range *a, const struct gr_range *b)
{
	return a->addr == b->addr && a->visible == b->visible && a->length == b->length &&
	       a->block == b->block && a->offset == b->offset && a->host == b->host &&
	       a->access == b->access;
}

struct gr__kvm_slot *gr__kvm_exact(const struct gr_kvm *kvm, const struct gr_range *range)
{
	struct gr__kvm_slot *slot = gr__kvm_overlap(kvm, range);

	if (slot && gr__kvm_same(&slot->range, range))
		return slot;
	cds_list_for_each_entry (slot, &kvm->pending, node)
		if ((slot->state == GR__KVM_GONE || slot->state == GR__KVM_MISSING) &&
		    gr__kvm_same(&slot->range, range))
			return slot;
	return NULL;
}

int gr__kvm_reserve(struct gr_kvm *kvm)
{
	unsigned room = kvm->room ? 2 * kvm->room : 16;
	struct gr__kvm_slot **table;

	if (kvm->count + kvm->gone + kvm->stats.missing < kvm->room)
		return 0;
	table = gr__alloc_array(room, sizeof(struct gr__kvm_slot *));
	if (!table)
		return -ENOMEM;
	if (kvm->count)
		memcpy(table, kvm->table, kvm->count * sizeof(struct gr__kvm_slot *));
	gr__free(kvm->table);
	kvm->table = table;
	kvm->room = room;
	return 0;
}

void gr__kvm_insert(struct gr_kvm *kvm, struct gr__kvm_slot *slot)
{
	unsigned place = gr__kvm_find(kvm, slot->range.addr);

	memmove(&kvm->table[place + 1], &kvm->table[place],
		(kvm->count - place) * sizeof(struct gr__kvm_slot *));
	kvm->table[place] = slot;
	kvm->count++;
}

void gr__kvm_remove(struct gr_kvm *kvm, const struct gr__kvm_slot *slot)
{
	unsigned place = gr__kvm_find(kvm, slot->range.addr);

	kvm->count--;
	memmove(&kvm->table[place], &kvm->table[place + 1],
		(kvm->count - place) * sizeof(struct gr__kvm_slot *));
}

int gr__kvm_take_number(struct gr_kvm *kvm, bool back, unsigned *number)
{
	uint64_t promised = 0;
	struct gr__kvm_slot *slot;
	unsigned word;

	/* a change that is undone has its slots back */
	cds_list_for_each_entry (slot, &kvm->pending, node)
		if (!back && slot->state == GR__KVM_GONE &&
		    !pthread_equal(slot->changer, pthread_self()))
			promised++;
	if (kvm->stats.slots + promised >= kvm->stats.slots_max)
		return -ENOSPC;
	for (word = 0; !~kvm->numbers[word]; word++)
		;
	*number = word * BITS + (unsigned)__builtin_ctzll(~kvm->numbers[word]);
	kvm->numbers[word] |= 1ull << (*number % BITS);
	kvm->stats.slots++;
	if (kvm->stats.slots > kvm->stats.slots_peak)
		kvm->stats.slots_peak = kvm->stats.slots;
	return 0;
}

void gr__kvm_put_number(struct gr_kvm *kvm, unsigned number)
{
	kvm->numbers[number / BITS] &= ~(1ull << (number % BITS));
	kvm->stats.slots--;
}

struct gr__kvm_block *gr__kvm_block_of(struct gr_kvm *kvm, const struct gr_block *block, bool make)
{
	struct gr__kvm_block *known;
	struct gr_block_info info;

	if (cds_list_empty(&kvm->blocks) && !make)
		return NULL;
	/* RAM offsets, unlike addresses of structures, are not reused before we are told */
	gr_block_get_info(block, &info);
	cds_list_for_each_entry (known, &kvm->blocks, node)
		if (known->ram_offset == info.ram_offset)
			return known;
	if (!make)
		return NULL;
	known = gr__alloc(sizeof(*known));
	if (!known)
		return NULL;
	known->ram_offset = info.ram_offset;
	known->guest_memfd = -1;
	cds_list_add(&known->node, &kvm->blocks);
	return known;
}

void gr__kvm_block_forget(struct gr_kvm *kvm, struct gr__kvm_block *block)
{
	cds_list_del(&block->node);
	gr__fd_close(block->guest_memfd);
	gr__free(block);
}

unsigned gr__kvm_flags(struct gr_kvm *kvm, const struct gr_range *range)
{
	const struct gr__kvm_block *known = gr__kvm_block_of(kvm, range->block, false);
	unsigned flags = 0;

	if (!(range->access & GR_WRITE))
		flags |= KVM_MEM_READONLY;
	if (kvm->log_dirty || kvm->source_logs || (known && known->log_dirty))
		flags |= KVM_MEM_LOG_DIRTY_PAGES;
	if (kvm->opts.flags & GR_KVM_GUEST_MEMFD)
		flags |= WITH_GUEST_MEMFD;
	return flags;
}

unsigned gr__kvm_number(const struct gr_kvm *kvm, const struct gr__kvm_slot *slot)
{
	return kvm->opts.address_space << 16 | (kvm->opts.first_slot + slot->number);
}

int gr__kvm_set(struct gr_kvm *kvm, const struct gr__kvm_slot *slot, unsigned flags)
{
	return gr__kvm_set_at(kvm, slot, flags, slot->range.addr);
}

int gr__kvm_set_at(struct gr_kvm *kvm, const struct gr__kvm_slot *slot, unsigned flags,
		   uint64_t addr)
{
	const struct gr__kvm_block *known = NULL;
	struct gr__kvm_region region = {
		.number = gr__kvm_number(kvm, slot),
		.flags = flags,
		.addr = addr,
		.size = slot->range.visible,
		.host = slot->range.host,
	};

	if (flags & WITH_GUEST_MEMFD) {
		known = gr__kvm_block_of(kvm, slot->range.block, false);
		if (!known || known->guest_memfd < 0)
			return -EBADF;
		region.guest_memfd = known->guest_memfd;
		region.guest_memfd_offset = slot->range.offset;
	}
	return gr__kvm_set_region(kvm->vm_fd, &region);
}

int gr__kvm_delete(struct gr_kvm *kvm, const struct gr__kvm_slot *slot)
{
	const struct gr__kvm_region region = {
		.number = gr__kvm_number(kvm, slot),
		.addr = slot->range.addr,
		.host = slot->range.host,
	};

	return gr__kvm_set_region(kvm->vm_fd, &region);
}
