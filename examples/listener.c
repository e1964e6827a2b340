/* SPDX-License-Identifier: MIT */
/*
 * A listener keeps the memory slots of a virtual machine in step with a space, as one does for KVM
 * or for an IOMMU: a slot for each range, of which the hardware has only a few. A change that needs
 * more is refused before anybody sees it.
 *
 * Threads and locks: callbacks come without a lock of the library, on the thread that makes the
 * change; two changes may be told at once, so the slots have a lock of their own. It is never held
 * across a call that changes the RAM or waits for it.
 */
#include <errno.h>
#include <guestram.h>
#include <pthread.h>
#include <stdio.h>

#define SLOTS 3
#define MIB (1ull << 20)

struct slot {
	uint64_t addr, length; /* length 0: free */
	void *host;
};

struct machine {
	pthread_mutex_t lock;
	struct slot slots[SLOTS];
	int used, most; /* now, and at the worst moment */
	int commits;
};

static struct slot *find_slot(struct machine *machine, uint64_t addr, uint64_t length)
{
	int i;

	for (i = 0; i < SLOTS; i++)
		if (machine->slots[i].length == length &&
		    (!length || machine->slots[i].addr == addr))
			return &machine->slots[i];
	return NULL;
}

static int range_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct machine *machine = context;
	struct slot *slot;
	int rc = 0;

	(void)space;
	if (!range->visible)
		return 0; /* the block is used shorter than this piece begins */
	pthread_mutex_lock(&machine->lock);
	slot = find_slot(machine, 0, 0);
	if (slot) {
		*slot = (struct slot){range->addr, range->visible, range->host};
		machine->used++;
		if (machine->used > machine->most)
			machine->most = machine->used;
	} else {
		rc = -ENOSPC; /* the whole change is undone, and the caller gets this */
	}
	pthread_mutex_unlock(&machine->lock);
	return rc;
}

static void range_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct machine *machine = context;
	struct slot *slot;

	(void)space;
	if (!range->visible)
		return;
	pthread_mutex_lock(&machine->lock);
	slot = find_slot(machine, range->addr, range->visible);
	if (slot) {
		slot->length = 0;
		machine->used--;
	}
	pthread_mutex_unlock(&machine->lock);
}

static void committed(void *context, struct gr_space *space, uint64_t generation)
{
	struct machine *machine = context;

	(void)generation;
	pthread_mutex_lock(&machine->lock);
	machine->commits++;
	printf("%s is changed: %d of %d slots in use\n", gr_space_name(space), machine->used,
	       SLOTS);
	pthread_mutex_unlock(&machine->lock);
}

static const struct gr_listener_ops ops = {
	.range_added = range_added,
	.range_removed = range_removed,
	.committed = committed,
};

static int expect(const char *what, int got, int wanted)
{
	if (got == wanted)
		return 0;
	fprintf(stderr, "%s: %d, wanted %d: %s\n", what, got, wanted, gr_last_error());
	return 1;
}

int main(void)
{
	struct machine machine = {.lock = PTHREAD_MUTEX_INITIALIZER};
	struct gr_block_opts opts = {.name = "ram0", .length = 64 * MIB};
	unsigned access = GR_READ | GR_WRITE;
	struct gr_listener *listener;
	struct gr_space *space;
	struct gr_block *block;
	struct gr_ram *ram;
	int bad = 0;

	if (gr_ram_open(NULL, &ram) || gr_space_open(ram, "guest-physical", &space) ||
	    gr_block_new(ram, &opts, &block) ||
	    gr_space_map(space, 0, block, 0, 16 * MIB, access) ||
	    gr_listener_open(ram, &ops, &machine, 0, &listener)) {
		fprintf(stderr, "listener: %s\n", gr_last_error());
		return 1;
	}
	bad += expect("slots after the replay of what was there", machine.used, 1);

	/* A hole in the middle splits the range: one removed, two added, told as one change. */
	bad += expect("punch", gr_space_unmap(space, 4 * MIB, 4 * MIB), 0);
	bad += expect("slots after the hole", machine.used, 2);
	bad += expect("third slot", gr_space_map(space, 64 * MIB, block, 16 * MIB, MIB, access), 0);
	bad += expect("fourth", gr_space_map(space, 80 * MIB, block, 17 * MIB, MIB, access),
		      -ENOSPC);
	printf("refused: %s\n", gr_last_error());
	bad += expect("slots after the refusal", machine.used, 3);
	bad += expect("commits", machine.commits, 2);

	/* Closing tells the matching removals: what the listener holds sums to zero. */
	bad += expect("close", gr_listener_close(listener), 0);
	bad += expect("slots at the end", machine.used, 0);
	bad += expect("most slots at once", machine.most, SLOTS);
	bad += expect("RAM close", gr_ram_close(ram), 0);
	return bad != 0;
}
