/* SPDX-License-Identifier: MIT */
/* The source of dirty pages that KVM tells of, and its bitmaps; see dirty.h. */
#include "kvm/dirty.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/range.h"
#include "dirty/dirty.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

/* Where slots are parked: as high as the machine lets them, from 2^52 down. */
#define PARK_BITS_MAX 52
#define PARK_BITS_MIN 36
#define PARK_NOWHERE 1

static bool is_logged(const struct gr__kvm_slot *slot)
{
	return slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
}

/* ----------------------------------------------------------------------------------- bitmaps */

static int make_room(struct gr__kvm_dirty *dirty, uint64_t words)
{
	uint64_t *log;

	if (words <= dirty->log_words)
		return 0;
	log = gr__alloc_array(words, sizeof(*log));
	if (!log)
		return gr__fail(-ENOMEM, "KVM: no memory for the dirty log of a slot");
	gr__free(dirty->log);
	dirty->log = log;
	dirty->log_words = words;
	return 0;
}

/* All that KVM has in the log of a slot, into what is saved of its block. */
static int fetch(struct gr__kvm_dirty *dirty, const struct gr__kvm_slot *slot,
		 struct gr__saved *saved)
{
	struct gr_kvm *kvm = dirty->kvm;
	uint64_t page = kvm->page_size, pages = slot->range.visible / page, at, next;
	int rc = make_room(dirty, (pages + 63) / 64);

	if (!rc)
		rc = gr__kvm_get_log(kvm->vm_fd, gr__kvm_number(kvm, slot), dirty->log);
	if (rc < 0)
		return gr__fail(rc, "KVM: dirty log of slot %u of [%#llx, %#llx bytes]: %s",
				gr__kvm_number(kvm, slot), (unsigned long long)slot->range.addr,
				(unsigned long long)slot->range.visible, strerror(-rc));
	for (at = gr__bits_next(dirty->log, 0, pages, true); at < pages;
	     at = gr__bits_next(dirty->log, next, pages, true)) {
		next = gr__bits_next(dirty->log, at, pages, false);
		gr__saved_put(saved, slot->range.offset + at * page, (next - at) * page);
	}
	return 0;
}

/* Fetch, and make [offset, offset + length) of the slot clean in KVM, more than nothing. */
static int take(struct gr__kvm_dirty *dirty, const struct gr__kvm_slot *slot,
		struct gr__saved *saved, uint64_t offset, uint64_t length)
{
	struct gr_kvm *kvm = dirty->kvm;
	uint64_t pages = slot->range.visible / kvm->page_size;
	uint64_t first = gr__align_down(offset / kvm->page_size, 64);
	uint64_t end = ((offset + (length - 1)) / kvm->page_size / 64 + 1) * 64;
	int rc = fetch(dirty, slot, saved);

	if (rc < 0 || !dirty->manual)
		return rc;
	GR_POINT("kvm.fetched");
	if (end > pages)
		end = pages;
	if (gr__bits_next(dirty->log, first, end, true) == end)
		return 0; /* what came since is for the next time */
	/* what is cleared has been saved, be it asked for or not */
	rc = gr__kvm_clear_log(kvm->vm_fd, gr__kvm_number(kvm, slot), first, end - first,
			       dirty->log + first / 64);
	if (rc < 0)
		return gr__fail(rc, "KVM: clearing the dirty log of slot %u: %s",
				gr__kvm_number(kvm, slot), strerror(-rc));
	return 0;
}

static int take_logs(struct gr__kvm_dirty *dirty, struct gr__saved *saved, uint64_t offset,
		     uint64_t length)
{
	struct gr_kvm *kvm = dirty->kvm;
	unsigned i;
	int rc = 0;

	for (i = 0; !rc && i < kvm->count; i++) {
		const struct gr__kvm_slot *slot = kvm->table[i];
		uint64_t from = slot->range.offset, to = from + slot->range.visible;

		if (slot->range.block != saved->block || (slot->flags & KVM_MEM_READONLY))
			continue;
		from = from > offset ? from : offset;
		to = to < offset + length ? to : offset + length;
		if (from >= to)
			continue;
		if (is_logged(slot))
			rc = take(dirty, slot, saved, from - slot->range.offset, to - from);
		else /* one that KVM did not give up before we came */
			gr__saved_put(saved, from, to - from);
	}
	return rc;
}

/* ------------------------------------------------------------------------------ slots that go */

/* Where a slot of this size is below 2^bits, if that is not where it is. */
static bool park_at(struct gr_kvm *kvm, struct gr__kvm_slot *slot, unsigned bits)
{
	uint64_t size = slot->range.visible, limit = UINT64_C(1) << bits;
	uint64_t last = slot->range.addr + (size - 1);

	if (size > limit / 4 || last >= limit - size)
		return false;
	return !gr__kvm_set_at(kvm, slot, slot->flags, limit - size);
}

/* From the return of true on no processor writes through the slot, and its log is there still. */
static bool park(struct gr__kvm_dirty *dirty, struct gr__kvm_slot *slot)
{
	unsigned bits = dirty->park_bits ? dirty->park_bits : PARK_BITS_MAX;
	unsigned lowest = dirty->park_bits ? dirty->park_bits : PARK_BITS_MIN;

	for (; bits >= lowest && bits != PARK_NOWHERE; bits--) {
		if (park_at(dirty->kvm, slot, bits)) {
			dirty->park_bits = bits;
			return true;
		}
	}
	if (!dirty->park_bits)
		dirty->park_bits = PARK_NOWHERE;
	return false;
}

void gr__kvm_dirty_leave(struct gr_kvm *kvm, struct gr__kvm_slot *slot, bool paused)
{
	struct gr__kvm_dirty *dirty = kvm->dirty;
	struct gr__saved *saved;

	if (!dirty || dirty->ring_bytes || (slot->flags & KVM_MEM_READONLY))
		return;
	saved = gr__saved_find(&dirty->saved, slot->range.block);
	if (!saved)
		return; /* its block is deleted */
	if (is_logged(slot) && !paused && !dirty->late && !slot->parked)
		slot->parked = park(dirty, slot);
	GR_POINT("kvm.parked");
	if (!is_logged(slot) || (!paused && !slot->parked) || fetch(dirty, slot, saved) < 0)
		gr__saved_put(saved, slot->range.offset, slot->range.visible);
}

int gr__kvm_dirty_stay(struct gr_kvm *kvm, struct gr__kvm_slot *slot)
{
	int rc;

	if (!slot->parked)
		return 0;
	rc = gr__kvm_set(kvm, slot, slot->flags);
	if (rc < 0)
		return gr__fail(rc,
				"KVM did not take slot %u back to [%#llx, %#llx bytes]: %s; the "
				"machine lacks these addresses",
				gr__kvm_number(kvm, slot), (unsigned long long)slot->range.addr,
				(unsigned long long)slot->range.visible, strerror(-rc));
	slot->parked = false;
	return 0;
}

void gr__kvm_dirty_left(struct gr_kvm *kvm, const struct gr__kvm_slot *slot, bool paused)
{
	struct gr__kvm_dirty *dirty = kvm->dirty;

	if (!dirty || !dirty->ring_bytes || (slot->flags & KVM_MEM_READONLY))
		return;
	/* what is saved stays so, be it that its pages cannot be protected again now */
	gr__kvm_rings_take(dirty);
	if (!is_logged(slot) || (dirty->late && !paused))
		gr__saved_put(gr__saved_find(&dirty->saved, slot->range.block), slot->range.offset,
			      slot->range.visible);
}

/* --------------------------------------------------------------------------------- the source */

static int on_added(void *context, struct gr_block *block)
{
	struct gr__kvm_dirty *dirty = context;
	struct gr__saved *saved = gr__saved_new(block);

	if (!saved)
		return -ENOMEM;
	pthread_mutex_lock(&dirty->kvm->lock);
	cds_list_add_tail(&saved->node, &dirty->saved);
	gr__kvm_unlock(dirty->kvm);
	return 0;
}

static void on_removed(void *context, struct gr_block *block)
{
	struct gr__kvm_dirty *dirty = context;

	pthread_mutex_lock(&dirty->kvm->lock);
	gr__saved_forget(&dirty->saved, block);
	gr__kvm_unlock(dirty->kvm);
}

static int on_collect(void *context, struct gr_block *block, uint64_t offset, uint64_t length,
		      struct gr_dirty_sink *sink)
{
	struct gr__kvm_dirty *dirty = context;
	struct gr__saved *saved;
	int rc = 0;

	pthread_mutex_lock(&dirty->kvm->lock);
	saved = gr__saved_find(&dirty->saved, block);
	if (saved) {
		rc = dirty->ring_bytes ? gr__kvm_rings_take(dirty)
				       : take_logs(dirty, saved, offset, length);
		if (!rc)
			gr__saved_report(saved, offset, length, sink);
	}
	gr__kvm_unlock(dirty->kvm);
	return rc;
}

static const struct gr_dirty_source_ops dirty_ops = {
	.added = on_added,
	.removed = on_removed,
	.collect = on_collect,
};

struct gr__kvm_dirty *gr__kvm_dirty_of(const struct gr_dirty_source *source)
{
	return source->ops == &dirty_ops ? source->context : NULL;
}

/* Slots log no more for it. Its blocks are gone. */
static void free_dirty(void *context)
{
	struct gr__kvm_dirty *dirty = context;
	struct gr_kvm *kvm = dirty->kvm;

	pthread_mutex_lock(&kvm->lock);
	/* slots that do not take it log on, to no effect; KVM's logs go with them */
	gr__kvm_set_log(kvm, &kvm->source_logs, false);
	kvm->source_logs = false;
	kvm->dirty = NULL;
	gr__kvm_unlock(kvm);
	gr__kvm_rings_close(dirty);
	gr__free(dirty->by_number);
	gr__free(dirty->log);
	gr__free(dirty);
}

/* What does the machine know of? Lock held. */
static int ask_machine(struct gr__kvm_dirty *dirty)
{
	struct gr_kvm *kvm = dirty->kvm;
	int rc;

	if (dirty->ring_bytes) {
		rc = gr__kvm_reset_rings(kvm->vm_fd);
		if (rc < 0)
			return gr__fail(rc == -EINVAL || rc == -ENOTTY ? -ENOTSUP : rc,
					"KVM: rings of dirty pages: %s; this machine has none "
					"(gr_kvm_ring_enable())",
					strerror(-rc));
		return 0;
	}
	/* there is no such slot, but a machine with rings says that first */
	if (gr__kvm_get_log(kvm->vm_fd, UINT32_MAX, NULL) == -ENXIO)
		return gr__fail(-ENOTSUP,
				"KVM: this machine has rings of dirty pages, and no bitmaps then");
	rc = gr__kvm_check(kvm->vm_fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	dirty->manual = rc > 0 && (rc & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	/* not INITIALLY_SET: what nobody wrote is not dirty */
	if (dirty->manual)
		dirty->manual = !gr__kvm_enable(kvm->vm_fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
						KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	return 0;
}

/* Slots log from the return on. */
static int arm(struct gr__kvm_dirty *dirty)
{
	struct gr_kvm *kvm = dirty->kvm;
	int rc;

	pthread_mutex_lock(&kvm->lock);
	rc = kvm->dirty ? gr__fail(-EBUSY, "KVM: this machine has a source of dirty pages")
			: ask_machine(dirty);
	if (!rc)
		rc = gr__kvm_set_log(kvm, &kvm->source_logs, true);
	if (!rc)
		kvm->dirty = dirty;
	gr__kvm_unlock(kvm);
	return rc;
}

int gr_kvm_dirty_open(struct gr_kvm *kvm, uint64_t ring_bytes, struct gr_dirty_source **source)
{
	struct gr__kvm_dirty *dirty;
	int rc = gr__kvm_may_log(kvm);

	if (rc < 0)
		return rc;
	if (ring_bytes && (!gr__is_pow2(ring_bytes) || ring_bytes < kvm->page_size))
		return gr__fail(-EINVAL, "KVM: rings of %#llx bytes",
				(unsigned long long)ring_bytes);
	dirty = gr__alloc(sizeof(*dirty));
	if (!dirty)
		return gr__fail(-ENOMEM, "KVM: no memory for a source of dirty pages");
	dirty->kvm = kvm;
	dirty->ring_bytes = ring_bytes;
	dirty->late = gr__kvm_tells_late();
	CDS_INIT_LIST_HEAD(&dirty->saved);
	CDS_INIT_LIST_HEAD(&dirty->rings);
	if (ring_bytes) {
		dirty->by_number = gr__alloc_array(kvm->stats.slots_max, sizeof(void *));
		if (!dirty->by_number) {
			rc = gr__fail(-ENOMEM, "KVM: no memory for slots by number");
			goto free_memory;
		}
	}
	rc = arm(dirty);
	if (rc < 0)
		goto free_memory;
	rc = gr__source_open(kvm->ram, &dirty_ops, dirty, free_dirty, source);
	if (rc < 0)
		free_dirty(dirty);
	return rc;

free_memory:
	gr__free(dirty->by_number);
	gr__free(dirty);
	return rc;
}
