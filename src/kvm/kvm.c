/* SPDX-License-Identifier: MIT */
/*
 * Opening, closing and asking a machine that follows a space; following is in follow.c. What
 * threads and locks there are is in kvm/kvm.h.
 */
#include "kvm/kvm.h"
#include "base/error.h"
#include "os/alloc.h"
#include "os/memory.h"
#include "space/space.h"
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#define FLAGS (GR_KVM_LOG_DIRTY | GR_KVM_GUEST_MEMFD)
#define SLOTS_OF_OLD 32u /* what a machine has that cannot say how many */
#define ADDRESS_SPACE_BITS 16
/* Linux 6.8 */
#define CAP_USER_MEMORY2 231
#define CAP_GUEST_MEMFD 234

static int check_opts(const struct gr_kvm_opts *opts)
{
	size_t i;

	for (i = 0; i < sizeof(opts->reserved) / sizeof(opts->reserved[0]); i++)
		if (opts->reserved[i])
			return gr__fail(-EINVAL, "gr_kvm_open: reserved[%zu] is not zero", i);
	if (opts->flags & ~FLAGS)
		return gr__fail(-EINVAL, "gr_kvm_open: unknown flags %#x", opts->flags & ~FLAGS);
	if (!opts->pause != !opts->resume)
		return gr__fail(-EINVAL, "gr_kvm_open: pause and resume come together");
	if (opts->address_space >> ADDRESS_SPACE_BITS)
		return gr__fail(-ERANGE, "gr_kvm_open: address space %u: KVM has 16 bits for it",
				opts->address_space);
	if ((opts->flags & GR_KVM_GUEST_MEMFD) && (opts->flags & GR_KVM_LOG_DIRTY))
		return gr__fail(-ENOTSUP,
				"gr_kvm_open: KVM logs no dirty pages of guest_memfd slots");
	return 0;
}

/* What the machine can do, and which numbers are ours. */
static int ask_machine(struct gr_kvm *kvm)
{
	const struct gr_kvm_opts *opts = &kvm->opts;
	int slots = gr__kvm_check(kvm->vm_fd, KVM_CAP_NR_MEMSLOTS);
	int spaces, rc;

	if (slots < 0)
		return gr__fail(slots == -ENOTTY ? -EINVAL : slots,
				"gr_kvm_open: descriptor %d is no virtual machine of KVM: %s",
				kvm->vm_fd, strerror(-slots));
	if (!slots)
		slots = SLOTS_OF_OLD;
	if (opts->first_slot >= (unsigned)slots ||
	    opts->max_slots > (unsigned)slots - opts->first_slot)
		return gr__fail(-ERANGE,
				"gr_kvm_open: %u slots from number %u on: the machine has %d",
				opts->max_slots, opts->first_slot, slots);
	kvm->stats.slots_max =
		opts->max_slots ? opts->max_slots : (unsigned)slots - opts->first_slot;

	if (opts->address_space) {
		spaces = gr__kvm_check(kvm->vm_fd, KVM_CAP_MULTI_ADDRESS_SPACE);
		if (spaces < 0 || opts->address_space >= (unsigned)spaces)
			return gr__fail(-ENOTSUP,
					"gr_kvm_open: address space %u: the machine has %d "
					"(KVM_CAP_MULTI_ADDRESS_SPACE)",
					opts->address_space, spaces > 0 ? spaces : 1);
	}
	rc = gr__kvm_check(kvm->vm_fd, KVM_CAP_READONLY_MEM);
	kvm->has_read_only = rc > 0;
	if ((opts->flags & GR_KVM_GUEST_MEMFD) &&
	    (gr__kvm_check(kvm->vm_fd, CAP_GUEST_MEMFD) <= 0 ||
	     gr__kvm_check(kvm->vm_fd, CAP_USER_MEMORY2) <= 0))
		return gr__fail(
			-ENOTSUP,
			"gr_kvm_open: this machine has no guest_memfd (KVM_CAP_GUEST_MEMFD, "
			"KVM_CAP_USER_MEMORY2): it needs Linux 6.8 and may need another type "
			"of machine");
	return 0;
}

static void free_all(struct gr_kvm *kvm)
{
	struct gr__kvm_block *known, *next;

	cds_list_for_each_entry_safe (known, next, &kvm->blocks, node)
		gr__kvm_block_forget(kvm, known);
	gr__free(kvm->table);
	gr__free(kvm->numbers);
	pthread_cond_destroy(&kvm->changed);
	pthread_mutex_destroy(&kvm->lock);
	gr__free(kvm);
}

int gr_kvm_open(struct gr_space *space, int vm_fd, const struct gr_kvm_opts *opts,
		struct gr_kvm **result)
{
	static const struct gr_kvm_opts defaults;
	struct gr_kvm *kvm;
	int rc, stuck = 0;

	if (!opts)
		opts = &defaults;
	rc = check_opts(opts);
	if (rc < 0)
		return rc;
	kvm = gr__alloc(sizeof(*kvm));
	if (!kvm)
		return gr__fail(-ENOMEM, "gr_kvm_open: no memory");
	kvm->space = space;
	kvm->ram = gr__space_of(space)->ram;
	kvm->opts = *opts;
	kvm->vm_fd = vm_fd;
	kvm->page_size = gr__os_page_size();
	kvm->eager = true;
	kvm->log_dirty = opts->flags & GR_KVM_LOG_DIRTY;
	CDS_INIT_LIST_HEAD(&kvm->pending);
	CDS_INIT_LIST_HEAD(&kvm->blocks);
	pthread_mutex_init(&kvm->lock, NULL);
	pthread_cond_init(&kvm->changed, NULL);
	rc = ask_machine(kvm);
	if (rc < 0)
		goto free_kvm;
	kvm->numbers = gr__alloc_array(kvm->stats.slots_max / 64 + 1, sizeof(*kvm->numbers));
	if (!kvm->numbers) {
		rc = gr__fail(-ENOMEM, "gr_kvm_open: no memory for slot numbers");
		goto free_kvm;
	}
	/* an open transaction is what a space is not closed under */
	rc = gr_txn_begin(space, &kvm->hold);
	if (rc < 0)
		goto free_kvm;
	rc = gr_listener_open(kvm->ram, &gr__kvm_listener, kvm, opts->priority, &kvm->listener);
	pthread_mutex_lock(&kvm->lock);
	kvm->eager = false;
	if (rc < 0) /* what was told before the refusal was told back; is there more? */
		stuck = gr__kvm_clear(kvm);
	gr__kvm_unlock(kvm);
	if (rc < 0)
		goto let_go;
	*result = kvm;
	return 0;

let_go:
	gr_txn_abort(kvm->hold);
	if (stuck) /* KVM shows that memory to the machine, so its pins must stay */
		return rc;
free_kvm:
	free_all(kvm);
	return rc;
}

int gr_kvm_close(struct gr_kvm *kvm)
{
	int rc = 0;

	if (!kvm)
		return 0;
	pthread_mutex_lock(&kvm->lock);
	if (kvm->dirty)
		rc = gr__fail(-EBUSY, "gr_kvm_close: its source of dirty pages is open");
	else
		kvm->eager = true;
	gr__kvm_unlock(kvm);
	if (rc < 0)
		return rc;
	if (kvm->listener) {
		rc = gr_listener_close(kvm->listener);
		if (rc < 0) {
			pthread_mutex_lock(&kvm->lock);
			kvm->eager = false;
			gr__kvm_unlock(kvm);
			return rc;
		}
		kvm->listener = NULL;
	}
	pthread_mutex_lock(&kvm->lock);
	rc = gr__kvm_clear(kvm);
	gr__kvm_unlock(kvm);
	if (rc < 0)
		return rc;
	gr_txn_abort(kvm->hold);
	free_all(kvm);
	return 0;
}

/* -------------------------------------------------------------------------------- dirty log */

/* Tell KVM the flags that slots have by now; on an error those that were told are told back. */
static int update_flags(struct gr_kvm *kvm)
{
	unsigned i;
	int rc;

	for (i = 0; i < kvm->count; i++) {
		struct gr__kvm_slot *slot = kvm->table[i];
		unsigned flags = gr__kvm_flags(kvm, &slot->range);

		if (flags == slot->flags || slot->state == GR__KVM_STUCK)
			continue;
		rc = gr__kvm_set(kvm, slot, flags);
		if (rc < 0)
			return gr__fail(rc, "KVM: flags of slot %u of [%#llx, %#llx bytes]: %s",
					gr__kvm_number(kvm, slot),
					(unsigned long long)slot->range.addr,
					(unsigned long long)slot->range.visible, strerror(-rc));
		slot->flags = flags;
		slot->parked = false; /* it was told its own address */
	}
	return 0;
}

int gr__kvm_set_log(struct gr_kvm *kvm, bool *flag, bool on)
{
	char why[256];
	bool before = *flag;
	int rc;

	*flag = on;
	rc = update_flags(kvm);
	if (!rc)
		return 0;
	*flag = before;
	strncpy(why, gr_last_error(), sizeof(why) - 1);
	why[sizeof(why) - 1] = 0;
	update_flags(
		kvm); /* it had these flags a moment ago; if not, slot->flags tells the truth */
	return gr__fail(rc, "%s", why);
}

int gr__kvm_may_log(const struct gr_kvm *kvm)
{
	if (kvm->opts.flags & GR_KVM_GUEST_MEMFD)
		return gr__fail(-ENOTSUP, "KVM logs no dirty pages of guest_memfd slots");
	return 0;
}

int gr_kvm_set_dirty_log(struct gr_kvm *kvm, int on)
{
	int rc = on ? gr__kvm_may_log(kvm) : 0;

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&kvm->lock);
	rc = gr__kvm_set_log(kvm, &kvm->log_dirty, on);
	gr__kvm_unlock(kvm);
	return rc;
}

int gr_kvm_set_block_dirty_log(struct gr_kvm *kvm, struct gr_block *block, int on)
{
	struct gr__kvm_block *known;
	int rc = on ? gr__kvm_may_log(kvm) : 0;

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&kvm->lock);
	known = gr__kvm_block_of(kvm, block, on);
	if (known)
		rc = gr__kvm_set_log(kvm, &known->log_dirty, on);
	else if (on)
		rc = gr__fail(-ENOMEM, "KVM: no memory for a block");
	gr__kvm_unlock(kvm);
	return rc;
}

/* ---------------------------------------------------------------------------------- looking */

int gr_kvm_get_slots(struct gr_kvm *kvm, struct gr_kvm_slot *slots, int max)
{
	int count, i;

	pthread_mutex_lock(&kvm->lock);
	count = (int)kvm->count;
	for (i = 0; i < count && i < max; i++) {
		const struct gr__kvm_slot *slot = kvm->table[i];

		slots[i] = (struct gr_kvm_slot){
			.number = gr__kvm_number(kvm, slot),
			.flags = slot->flags,
			.addr = slot->range.addr,
			.length = slot->range.visible,
			.host = slot->range.host,
		};
	}
	gr__kvm_unlock(kvm);
	return count;
}

void gr_kvm_get_stats(struct gr_kvm *kvm, struct gr_kvm_stats *stats)
{
	const struct gr__kvm_slot *slot;

	pthread_mutex_lock(&kvm->lock);
	*stats = kvm->stats;
	cds_list_for_each_entry (slot, &kvm->pending, node)
		stats->pending += slot->state == GR__KVM_LEAVING || slot->state == GR__KVM_GONE;
	gr__kvm_unlock(kvm);
}
