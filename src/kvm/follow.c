/* SPDX-License-Identifier: MIT */
/* What the space tells us, and what the machine is told; the states are those in kvm/kvm.h. */
#include "base/error.h"
#include "base/range.h"
#include "kvm/dirty.h"
#include "kvm/kvm.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "ram/ram.h"
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>

#define SLOT_PAGES_MAX ((1ull << 31) - 1) /* KVM_MEM_MAX_NR_PAGES of the kernel */

/* Keep the first of these until the lock is dropped: the log may call us. */
#define complain(kvm, ...)                                                                         \
	do {                                                                                       \
		if (!(kvm)->complaint[0])                                                          \
			snprintf((kvm)->complaint, sizeof((kvm)->complaint), __VA_ARGS__);         \
	} while (0)

void gr__kvm_unlock(struct gr_kvm *kvm)
{
	char complaint[sizeof(kvm->complaint)];

	memcpy(complaint, kvm->complaint, sizeof(complaint));
	kvm->complaint[0] = 0;
	pthread_mutex_unlock(&kvm->lock);
	if (complaint[0])
		gr__ram_log(kvm->ram, GR_LOG_ERROR, "%s", complaint);
}

/* --------------------------------------------------------------------------------- pausing */

/* After it no processor runs, until resume(). Lock held, dropped meanwhile. */
static void pause_machine(struct gr_kvm *kvm)
{
	if (!kvm->opts.pause || kvm->eager)
		return;
	while (kvm->machine != GR__KVM_PAUSED) {
		if (kvm->machine != GR__KVM_RUNNING) { /* another thread is at it */
			pthread_cond_wait(&kvm->changed, &kvm->lock);
			continue;
		}
		kvm->machine = GR__KVM_PAUSING;
		pthread_mutex_unlock(&kvm->lock);
		GR_POINT("kvm.pausing");
		kvm->opts.pause(kvm->opts.pause_context);
		pthread_mutex_lock(&kvm->lock);
		kvm->machine = GR__KVM_PAUSED;
		kvm->stats.pauses++;
		pthread_cond_broadcast(&kvm->changed);
	}
}

/* Let it run, unless something is gone that a change has yet to give back. Lock held, dropped. */
static void resume_machine(struct gr_kvm *kvm)
{
	if (kvm->machine != GR__KVM_PAUSED || kvm->gone)
		return;
	kvm->machine = GR__KVM_RESUMING;
	pthread_mutex_unlock(&kvm->lock);
	kvm->opts.resume(kvm->opts.pause_context);
	pthread_mutex_lock(&kvm->lock);
	kvm->machine = GR__KVM_RUNNING;
	pthread_cond_broadcast(&kvm->changed);
}

/* ---------------------------------------------------------------------------------- states */

/* Does the space show exactly this range to readers now? */
static bool is_published(const struct gr_kvm *kvm, const struct gr_range *range)
{
	struct gr_range found;
	bool same;

	gr_read_begin();
	same = !gr_space_find(kvm->space, range->addr, &found) && gr__kvm_same(&found, range);
	gr_read_end();
	return same;
}

static void become(struct gr_kvm *kvm, struct gr__kvm_slot *slot, enum gr__kvm_state state)
{
	if (slot->state != GR__KVM_LIVE)
		cds_list_del(&slot->node);
	if (state != GR__KVM_LIVE)
		cds_list_add_tail(&slot->node, &kvm->pending);
	kvm->gone += (state == GR__KVM_GONE) - (slot->state == GR__KVM_GONE);
	kvm->stats.stuck += (state == GR__KVM_STUCK) - (slot->state == GR__KVM_STUCK);
	kvm->stats.missing += (state == GR__KVM_MISSING) - (slot->state == GR__KVM_MISSING);
	slot->state = state;
}

static void keep_memory(struct gr__kvm_slot *slot)
{
	const struct gr_range *range = &slot->range;

	if (!slot->pinned)
		slot->pinned = !gr_block_pin(range->block, range->offset, range->visible, GR_READ,
					     &slot->pin);
}

static void let_go(struct gr__kvm_slot *slot)
{
	if (slot->pinned)
		gr_unpin(&slot->pin);
	slot->pinned = false;
}

static void forget(struct gr_kvm *kvm, struct gr__kvm_slot *slot)
{
	become(kvm, slot, GR__KVM_LIVE); /* out of all lists */
	let_go(slot);
	gr__free(slot);
}

/* Out of KVM and of the table. 0, or KVM's error and nothing changed. */
static int take_out(struct gr_kvm *kvm, struct gr__kvm_slot *slot)
{
	int rc;

	gr__kvm_dirty_leave(kvm, slot, kvm->machine == GR__KVM_PAUSED);
	rc = gr__kvm_delete(kvm, slot);
	if (rc < 0) {
		if (gr__kvm_dirty_stay(kvm, slot) < 0)
			complain(kvm, "%s", gr_last_error());
		return rc;
	}
	gr__kvm_dirty_left(kvm, slot, kvm->machine == GR__KVM_PAUSED);
	gr__kvm_remove(kvm, slot);
	gr__kvm_put_number(kvm, slot->number);
	kvm->stats.removed++;
	kvm->stats.bytes -= slot->range.visible;
	return 0;
}

/* Nothing of this slot comes back. Where KVM does not give it up, its memory must stay: -errno. */
static int end_slot(struct gr_kvm *kvm, struct gr__kvm_slot *slot)
{
	int rc = take_out(kvm, slot);

	if (!rc) {
		forget(kvm, slot);
	} else if (slot->state != GR__KVM_STUCK) {
		keep_memory(slot);
		become(kvm, slot, GR__KVM_STUCK);
		complain(kvm,
			 "KVM did not delete slot %u of [%#llx, %#llx bytes]: %s; its memory stays",
			 gr__kvm_number(kvm, slot), (unsigned long long)slot->range.addr,
			 (unsigned long long)slot->range.visible, strerror(-rc));
	}
	return rc;
}

/* A slot that is leaving goes before its change is published. Lock held, dropped meanwhile. */
static int vacate(struct gr_kvm *kvm, struct gr__kvm_slot *slot)
{
	int rc;

	/* it stays as it is meanwhile: the change that it leaves with is told on this thread */
	pause_machine(kvm);
	rc = take_out(kvm, slot);
	if (rc < 0)
		return gr__fail(rc, "KVM did not delete slot %u of [%#llx, %#llx bytes]: %s",
				gr__kvm_number(kvm, slot), (unsigned long long)slot->range.addr,
				(unsigned long long)slot->range.visible, strerror(-rc));
	let_go(slot);
	become(kvm, slot, GR__KVM_GONE);
	return 0;
}

/* Set a slot that has its place reserved: number, KVM, table. */
static int put_in(struct gr_kvm *kvm, struct gr__kvm_slot *slot)
{
	const struct gr_range *range = &slot->range;
	int rc = gr__kvm_take_number(kvm, slot->back, &slot->number);

	if (rc < 0)
		return gr__fail(rc,
				"KVM: no slot is left for [%#llx, %#llx bytes]: all %llu are taken",
				(unsigned long long)range->addr, (unsigned long long)range->visible,
				(unsigned long long)kvm->stats.slots_max);
	slot->flags = gr__kvm_flags(kvm, range);
	rc = gr__kvm_set(kvm, slot, slot->flags);
	if (rc < 0) {
		gr__kvm_put_number(kvm, slot->number);
		return gr__fail(rc, "KVM: slot %u of [%#llx, %#llx bytes] at %p: %s%s",
				gr__kvm_number(kvm, slot), (unsigned long long)range->addr,
				(unsigned long long)range->visible, range->host, strerror(-rc),
				rc == -EEXIST ? " (a slot of somebody else is there)" : "");
	}
	become(kvm, slot, GR__KVM_LIVE);
	gr__kvm_insert(kvm, slot);
	kvm->stats.added++;
	kvm->stats.bytes += range->visible;
	return 0;
}

void gr__kvm_settle(struct gr_kvm *kvm)
{
	struct gr__kvm_slot *slot, *next;

	cds_list_for_each_entry_safe (slot, next, &kvm->pending, node) {
		switch (slot->state) {
		case GR__KVM_LEAVING:
			if (!is_published(kvm, &slot->range))
				end_slot(kvm, slot);
			break;
		case GR__KVM_GONE:
			if (!is_published(kvm, &slot->range))
				forget(kvm, slot);
			break;
		case GR__KVM_STUCK:
			end_slot(kvm, slot);
			break;
		case GR__KVM_MISSING:
			put_in(kvm, slot); /* if not, the next time */
			break;
		case GR__KVM_LIVE:
			break;
		}
	}
	resume_machine(kvm);
}

int gr__kvm_clear(struct gr_kvm *kvm)
{
	struct gr__kvm_slot *slot, *next;
	unsigned i;
	int rc = 0;

	for (i = kvm->count; i-- > 0;) {
		uint64_t addr = kvm->table[i]->range.addr;
		int error = end_slot(kvm, kvm->table[i]);

		if (error < 0)
			rc = gr__fail(error, "KVM kept %u slots, one of them at %#llx: %s",
				      kvm->count, (unsigned long long)addr, strerror(-error));
	}
	cds_list_for_each_entry_safe (slot, next, &kvm->pending, node)
		if (slot->state == GR__KVM_GONE || slot->state == GR__KVM_MISSING)
			forget(kvm, slot);
	resume_machine(kvm);
	return rc;
}

/* ----------------------------------------------------------------------------------- events */

/* Can this range be a slot at all? */
static int check_range(const struct gr_kvm *kvm, const struct gr_range *range)
{
	unsigned long long addr = range->addr, bytes = range->visible;
	struct gr_block_info info;

	if (!range->host) {
		gr_block_get_info(range->block, &info);
		return gr__fail(-ENOTSUP,
				"KVM: [%#llx, %#llx bytes] is of block %s, whose memory has no one "
				"host address (a foreign window): no slot can show it",
				addr, bytes, info.name);
	}
	if (!gr__is_aligned(addr | bytes | (uintptr_t)range->host, kvm->page_size))
		return gr__fail(
			-EINVAL,
			"KVM: [%#llx, %#llx bytes] at %p is not in whole pages of %#llx bytes",
			addr, bytes, range->host, (unsigned long long)kvm->page_size);
	if (bytes / kvm->page_size > SLOT_PAGES_MAX)
		return gr__fail(-ERANGE,
				"KVM: [%#llx, %#llx bytes] is over the %llu pages of a slot", addr,
				bytes, SLOT_PAGES_MAX);
	if (range->addr + range->visible < range->addr || !(range->addr + range->visible))
		return gr__fail(-ERANGE,
				"KVM: [%#llx, %#llx bytes] ends at 2^64, which no slot can", addr,
				bytes);
	if (range->access & GR_WRITE)
		return 0;
	if (!kvm->has_read_only)
		return gr__fail(-ENOTSUP,
				"KVM: [%#llx, %#llx bytes] is read-only, and this machine has no "
				"KVM_CAP_READONLY_MEM",
				addr, bytes);
	if (kvm->opts.flags & GR_KVM_GUEST_MEMFD)
		return gr__fail(-ENOTSUP,
				"KVM: [%#llx, %#llx bytes] is read-only, which no slot with a "
				"guest_memfd can be",
				addr, bytes);
	return 0;
}

/* The block's guest_memfd, once for all its ranges. */
static int give_guest_memfd(struct gr_kvm *kvm, const struct gr_range *range)
{
	struct gr__kvm_block *known = gr__kvm_block_of(kvm, range->block, true);
	struct gr_block_info info;
	int fd;

	if (!known)
		return gr__fail(-ENOMEM, "KVM: no memory for a block");
	if (known->guest_memfd >= 0)
		return 0;
	gr_block_get_info(range->block, &info);
	fd = gr__kvm_guest_memfd(kvm->vm_fd, info.max_length, kvm->opts.guest_memfd_flags);
	if (fd < 0)
		return gr__fail(fd, "KVM: a guest_memfd of %#llx bytes for block %s: %s",
				(unsigned long long)info.max_length, info.name, strerror(-fd));
	known->guest_memfd = fd;
	return 0;
}

/* One that leaves in this thread's change: its number may serve what comes in the same change. */
static struct gr__kvm_slot *own_leaving(struct gr_kvm *kvm)
{
	struct gr__kvm_slot *slot;

	cds_list_for_each_entry (slot, &kvm->pending, node)
		if (slot->state == GR__KVM_LEAVING && pthread_equal(slot->changer, pthread_self()))
			return slot;
	return NULL;
}

/* What stands where @range comes, and what else must go for it. Lock held, dropped meanwhile. */
static int make_way(struct gr_kvm *kvm, const struct gr_range *range)
{
	struct gr__kvm_slot *slot;
	int rc = 0;

	while (!rc && (slot = gr__kvm_overlap(kvm, range))) {
		if (slot->state == GR__KVM_LEAVING && !is_published(kvm, &slot->range)) {
			end_slot(kvm, slot); /* of a change that is just being finished */
			continue;
		}
		if (slot->state != GR__KVM_LEAVING)
			return gr__fail(-EBUSY,
					"KVM: slot %u is at [%#llx, %#llx bytes] still: it did not "
					"give it up",
					gr__kvm_number(kvm, slot),
					(unsigned long long)slot->range.addr,
					(unsigned long long)slot->range.visible);
		rc = vacate(kvm, slot);
	}
	if (!rc && kvm->stats.slots == kvm->stats.slots_max) {
		slot = own_leaving(kvm);
		rc = slot ? vacate(kvm, slot) : 0;
	}
	return rc;
}

/* A slot that is in no list and not in the table gets there, or -errno. */
static int place(struct gr_kvm *kvm, struct gr__kvm_slot *slot)
{
	int rc = check_range(kvm, &slot->range);

	if (!rc && (kvm->opts.flags & GR_KVM_GUEST_MEMFD))
		rc = give_guest_memfd(kvm, &slot->range);
	if (!rc)
		rc = make_way(kvm, &slot->range);
	if (!rc && gr__kvm_reserve(kvm) < 0)
		rc = gr__fail(-ENOMEM, "KVM: no memory for the table of slots");
	return rc ? rc : put_in(kvm, slot);
}

static int add_range(struct gr_kvm *kvm, const struct gr_range *range)
{
	struct gr__kvm_slot *slot = gr__kvm_exact(kvm, range);
	bool was_there = slot;
	int rc;

	if (slot && slot->state == GR__KVM_LEAVING) { /* told back, or mapped again since */
		become(kvm, slot, GR__KVM_LIVE);
		let_go(slot);
		return 0;
	}
	if (slot) { /* gone, and told back; its room in the table is kept: no lock is dropped */
		become(kvm, slot, GR__KVM_LIVE);
	} else {
		slot = gr__alloc(sizeof(*slot));
		if (!slot)
			return gr__fail(-ENOMEM, "KVM: no memory for a slot");
	}
	slot->range = *range;
	slot->back = was_there && is_published(kvm, range);
	rc = place(kvm, slot);
	slot->back = false;
	if (!rc)
		return 0;
	if (was_there && is_published(kvm, range)) { /* KVM's own refusal: a number was there */
		become(kvm, slot, GR__KVM_MISSING);
		complain(kvm, "%s; the machine lacks these addresses until KVM takes them",
			 gr_last_error());
	} else {
		gr__free(slot);
	}
	return rc;
}

static int range_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct gr_kvm *kvm = context;
	int rc;

	if (space != kvm->space || !range->visible)
		return 0;
	pthread_mutex_lock(&kvm->lock);
	rc = add_range(kvm, range);
	if (rc < 0)
		kvm->stats.refused++;
	resume_machine(kvm); /* if this brought back the last one that was gone */
	gr__kvm_unlock(kvm);
	return rc;
}

static void remove_range(struct gr_kvm *kvm, const struct gr_range *range)
{
	struct gr__kvm_slot *slot = gr__kvm_exact(kvm, range);

	if (!slot) {
		complain(kvm, "KVM: [%#llx, %#llx bytes] leaves and has no slot",
			 (unsigned long long)range->addr, (unsigned long long)range->visible);
		return;
	}
	if (slot->state == GR__KVM_MISSING) {
		forget(kvm, slot);
		return;
	}
	if (kvm->eager || !is_published(kvm, range)) {
		end_slot(kvm, slot); /* we come or leave, or its addition is told back */
		return;
	}
	slot->changer = pthread_self();
	keep_memory(slot);
	become(kvm, slot, GR__KVM_LEAVING);
	if (!slot->pinned && vacate(kvm, slot) < 0) /* its memory might go first */
		complain(kvm, "%s; its memory goes", gr_last_error());
}

static void range_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct gr_kvm *kvm = context;

	if (space != kvm->space || !range->visible)
		return;
	pthread_mutex_lock(&kvm->lock);
	remove_range(kvm, range);
	gr__kvm_unlock(kvm);
}

static void committed(void *context, struct gr_space *space, uint64_t generation)
{
	struct gr_kvm *kvm = context;

	(void)generation;
	if (space != kvm->space)
		return;
	pthread_mutex_lock(&kvm->lock);
	if (!cds_list_empty(&kvm->pending) || kvm->machine == GR__KVM_PAUSED)
		gr__kvm_settle(kvm);
	gr__kvm_unlock(kvm);
}

static void block_reclaimed(void *context, const struct gr_block_info *info)
{
	struct gr_kvm *kvm = context;
	struct gr__kvm_block *known;

	pthread_mutex_lock(&kvm->lock);
	cds_list_for_each_entry (known, &kvm->blocks, node) {
		if (known->ram_offset == info->ram_offset) {
			gr__kvm_block_forget(kvm, known);
			break;
		}
	}
	pthread_mutex_unlock(&kvm->lock);
}

const struct gr_listener_ops gr__kvm_listener = {
	.block_reclaimed = block_reclaimed,
	.range_added = range_added,
	.range_removed = range_removed,
	.committed = committed,
};
