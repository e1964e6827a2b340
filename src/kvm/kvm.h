/* SPDX-License-Identifier: MIT */
/*
 * A machine that follows a space. The space tells what leaves and what comes; KVM can only set and
 * delete one slot at a time, and a change may still be refused after we were told. So:
 *
 *                    map                                unmap
 *        (nothing) ───────► LIVE ◄───── told back ────► LEAVING ──── published ───► (nothing)
 *                             ▲                            │
 *                             │                            │ its addresses come back in the same
 *                             └────── told back ─────── GONE ◄┘ change: pause, delete
 *                                                          └──────── published ───► (nothing)
 *
 * A range that leaves keeps its slot (LEAVING), its memory pinned, until the change is published: a
 * change that is refused has not disturbed the machine, and an unmap disturbs nobody but those who
 * use what is unmapped. Only when addresses of it come back is the slot deleted before (GONE); that
 * is when processors are paused. Two states should never be: STUCK, a slot that KVM does not give
 * up, so its memory must stay; MISSING, a range that KVM does not take back.
 *
 * Is a change published, undone, or still under way? Nobody tells us which of several changes an
 * event belongs to, but the space itself can be asked: what leaves is still published until its
 * change is, and what came and is not published is being undone.
 *
 * Threads: callbacks come on any thread, several at once for different addresses. kvm->lock guards
 * all of struct gr_kvm but what is const. It is dropped around pause and resume, and no other lock
 * is taken inside it, but the one of the space's readers, who wait for nothing.
 */
#ifndef GR__KVM_H
#define GR__KVM_H

#include <guestram/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <urcu/list.h>

enum gr__kvm_state {
	GR__KVM_LIVE,
	GR__KVM_LEAVING,
	GR__KVM_GONE,
	GR__KVM_STUCK,
	GR__KVM_MISSING,
};

struct gr__kvm_slot {
	struct gr_range range;
	enum gr__kvm_state state;
	unsigned number; /* from 0; meaningless for GONE and MISSING */
	unsigned flags;	 /* KVM_MEM_…, as set */
	bool back;	 /* gone before, and told back: a number is kept for it */
	bool parked;	 /* at an address where no processor looks: it is about to go */
	bool pinned;
	struct gr_pin pin;
	pthread_t changer;	   /* of LEAVING and GONE: the thread whose change it is */
	struct cds_list_head node; /* in kvm->pending unless LIVE */
};

/* What is kept for a block until it is reclaimed. */
struct gr__kvm_block {
	struct cds_list_head node;
	uint64_t ram_offset;
	bool log_dirty;
	int guest_memfd; /* or -1 */
};

struct gr_kvm {
	struct gr_space *space;	      /* const */
	struct gr_ram *ram;	      /* const */
	struct gr_kvm_opts opts;      /* const */
	struct gr_listener *listener; /* of who opens and closes */
	struct gr_txn *hold;	      /* keeps the space open */
	int vm_fd;		      /* const */
	bool has_read_only;	      /* const: KVM_CAP_READONLY_MEM */
	uint64_t page_size;	      /* const: of the host */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* pausing */
	enum { GR__KVM_RUNNING, GR__KVM_PAUSING, GR__KVM_PAUSED, GR__KVM_RESUMING } machine;
	bool eager; /* opening or closing: what is told as removed goes at once */
	bool log_dirty;
	bool source_logs;	     /* a source wants the logs of all */
	struct gr__kvm_dirty *dirty; /* that source, or NULL; see dirty.h */
	/* in order of address, never overlapping: all that KVM has */
	struct gr__kvm_slot **table;
	/* room >= count + gone + missing, so that those can always come back */
	unsigned count, room;
	unsigned gone; /* slots in that state */
	struct cds_list_head pending;
	struct cds_list_head blocks;
	uint64_t *numbers; /* bit set: in use */
	struct gr_kvm_stats stats;
	char complaint[256]; /* for the RAM's log, once the lock is dropped; empty: none */
};

/* ------------------------------------------------------------- vm.c: calls on the machine */

/* What the machine says of a capability: 0 or more, or -errno. Fault: "kvm.check". */
int gr__kvm_check(int vm_fd, unsigned capability);

/*
 * Set a slot, or its flags when it is set; size 0 deletes it. 0 or -errno. Faults: "kvm.set",
 * "kvm.delete".
 */
struct gr__kvm_region {
	unsigned number, flags; /* KVM_MEM_… */
	uint64_t addr, size;
	void *host;
	int guest_memfd; /* with KVM_MEM_GUEST_MEMFD */
	uint64_t guest_memfd_offset;
};

int gr__kvm_set_region(int vm_fd, const struct gr__kvm_region *region);

/* A descriptor or -errno. Fault: "kvm.guest_memfd". */
int gr__kvm_guest_memfd(int vm_fd, uint64_t size, uint64_t flags);

/* 0 or -errno. Faults: "kvm.enable", "kvm.get_log", "kvm.clear_log", "kvm.reset_rings". */
int gr__kvm_enable(int vm_fd, unsigned capability, uint64_t argument);
/* @words: room for a bit for each page of the slot. */
int gr__kvm_get_log(int vm_fd, unsigned number, uint64_t *words);
/* @first: a multiple of 64; @words: from there on; @count: likewise, or up to the slot's end. */
int gr__kvm_clear_log(int vm_fd, unsigned number, uint64_t first, uint64_t count, uint64_t *words);
/* How many entries it was. */
int gr__kvm_reset_rings(int vm_fd);

/*
 * Has this machine processors that buffer which pages they wrote (Intel's page modification log),
 * so that KVM learns of a write when they leave the guest, which may be after a slot went?
 */
bool gr__kvm_tells_late(void);

/* ------------------------------------------------------------ slots.c: which slots there are */

/* Where in the table is the first slot that ends at or after @addr? */
unsigned gr__kvm_find(const struct gr_kvm *kvm, uint64_t addr);
/* The first slot of the table that has an address of @range in it, or NULL. */
struct gr__kvm_slot *gr__kvm_overlap(const struct gr_kvm *kvm, const struct gr_range *range);
/* The slot, of the table, gone or missing, that stands for exactly @range, or NULL. */
struct gr__kvm_slot *gr__kvm_exact(const struct gr_kvm *kvm, const struct gr_range *range);
bool gr__kvm_same(const struct gr_range *a, const struct gr_range *b);

/* Room for one more slot in the table; 0 or -ENOMEM. */
int gr__kvm_reserve(struct gr_kvm *kvm);
void gr__kvm_insert(struct gr_kvm *kvm, struct gr__kvm_slot *slot);
void gr__kvm_remove(struct gr_kvm *kvm, const struct gr__kvm_slot *slot);

/*
 * A free number, or -ENOSPC; those that other threads' changes may need back are not free, but for
 * what is given @back itself: its own is kept for it, though others may keep more than they need.
 */
int gr__kvm_take_number(struct gr_kvm *kvm, bool back, unsigned *number);
void gr__kvm_put_number(struct gr_kvm *kvm, unsigned number);

/* As KVM has it, with the address space. */
unsigned gr__kvm_number(const struct gr_kvm *kvm, const struct gr__kvm_slot *slot);

/* What is kept for a block; NULL: nothing, or with @make: no memory. */
struct gr__kvm_block *gr__kvm_block_of(struct gr_kvm *kvm, const struct gr_block *block, bool make);
void gr__kvm_block_forget(struct gr_kvm *kvm, struct gr__kvm_block *block);

/* KVM_MEM_… that a slot of @range has now. */
unsigned gr__kvm_flags(struct gr_kvm *kvm, const struct gr_range *range);
/* As KVM is to be told it; @flags may differ from those it has. */
int gr__kvm_set(struct gr_kvm *kvm, const struct gr__kvm_slot *slot, unsigned flags);
/* The same at another address: a slot that is set moves there. */
int gr__kvm_set_at(struct gr_kvm *kvm, const struct gr__kvm_slot *slot, unsigned flags,
		   uint64_t addr);
int gr__kvm_delete(struct gr_kvm *kvm, const struct gr__kvm_slot *slot);

/* Let @flag, one of those that slots log for, be @on in KVM too; 0, or -errno and it is as it was.
 */
int gr__kvm_set_log(struct gr_kvm *kvm, bool *flag, bool on);
/* May slots log at all? 0 or -ENOTSUP, said. */
int gr__kvm_may_log(const struct gr_kvm *kvm);

/* ------------------------------------------------- follow.c: what the space tells, what we do */

extern const struct gr_listener_ops gr__kvm_listener;

/* Finish what is published by now. Lock held, dropped when the machine is resumed. */
void gr__kvm_settle(struct gr_kvm *kvm);
/* Drop all that is left once nothing is told any more. Lock held, dropped likewise. 0, or -errno.
 */
int gr__kvm_clear(struct gr_kvm *kvm);
/* Drop the lock, and tell the log what went wrong under it. */
void gr__kvm_unlock(struct gr_kvm *kvm);

#endif
