/* SPDX-License-Identifier: MIT */
/* See mutant.h; more of them are in wrap.c, where threads wait and wake. */
#include "mutant.h"
#include "ram/listener.h"
#include "ram/reclaim.h"
#include "ram/registry.h"
#include "schedule.h"
#include "space/builder.h"
#include "space/change.h"
#include "window/window.h"
#include <string.h>
#include <urcu/urcu-memb.h>

static const struct {
	const char *name, *text;
} texts[MUTANTS] = {
	[NO_MUTANT] = {"none", "the code as it is"},
	[NO_GRACE] = {"no-grace", "nobody waits for readers"},
	[FREE_AT_ONCE] = {"free-at-once", "what is replaced is freed at once"},
	[STUCK_GENERATION] = {"stuck-generation", "a new view has the generation of the old one"},
	[LATE_PIN] = {"late-pin", "a pin is counted after the section that found its block"},
	[TORN_UNPIN] = {"torn-unpin", "a pin is uncounted by a load and a store"},
	[KEPT_UNPIN] = {"kept-unpin", "the last unpin does not hand its block over"},
	[NO_LOCK] = {"no-lock", "locks do not exclude"},
	[TORN_TXN] = {"torn-txn", "the changes of a transaction are published one by one"},
	[NO_CLAIMS] = {"no-claims", "a change being told about keeps nobody off its addresses"},
	[TOLD_ONCE] = {"told-once",
		       "listeners that join while a change is told are not told of it"},
	[LATE_JOIN] = {"late-join",
		       "a listener joins after its last look, in another hold of the lock"},
	[UNCOUNTED] = {"uncounted", "listeners being told are not counted as in use"},
	[NO_REFUSAL] = {"no-refusal", "a change that a listener refused is published"},
	[UNCLAIMED_COMMIT] = {"unclaimed-commit",
			      "a space, or the RAM, may be closed while a commit in it is told"},
	[NOT_BUSY] = {"not-busy", "a block being resized or deleted may be changed"},
	[NOT_KEPT] = {"not-kept", "a block being mapped, or in a transaction, may be deleted"},
	[NO_BROADCAST] = {"no-broadcast", "nobody is told that a block was reclaimed"},
	[NO_WAKE] = {"no-wake", "the worker is not woken"},
	[EARLY_OFFSET] = {"early-offset", "a RAM offset is free at the delete of its block"},
	[UNWAITED_CLOSE] = {"unwaited-close", "a close does not wait for what is pending"},
	[UNWAITED_LOOK] = {"unwaited-look", "a close does not wait for who looks at the RAM"},
	[NO_EXIT_KEY] = {"no-exit-key", "nothing is done when a thread ends"},
	[RECLAIM_WAITS] = {"reclaim-waits", "reclaim under the embedder's lock waits for readers"},
	[TORN_WINDOW] = {"torn-window", "a window's pin is uncounted by a load and a store"},
	[KEPT_WINDOW] = {"kept-window", "the last unpin of a window does not unmap it"},
	[UNSTALE] = {"unstale", "a window is published though it was invalidated while mapped"},
};

const char *mutant_name(enum mutant which)
{
	return texts[which].name;
}

const char *mutant_text(enum mutant which)
{
	return texts[which].text;
}

enum mutant mutant_by_name(const char *name)
{
	unsigned i;

	for (i = 0; i < MUTANTS; i++)
		if (!strcmp(texts[i].name, name))
			return i;
	return MUTANTS;
}

/* --------------------------------------------------------------------------- views and cursors */

/* The names are the linker's. NOLINTBEGIN(bugprone-reserved-identifier) */
void __real_gr__retire(struct gr_ram *ram, struct gr__garbage *garbage);
void __wrap_gr__retire(struct gr_ram *ram, struct gr__garbage *garbage);

void __wrap_gr__retire(struct gr_ram *ram, struct gr__garbage *garbage)
{
	if (mutant == FREE_AT_ONCE && sched_letter() != 'm') /* a RAM's close reads it later */
		garbage->free(garbage);
	else
		__real_gr__retire(ram, garbage);
}

void __real_gr__builder_publish(struct gr__builder *builder);
void __wrap_gr__builder_publish(struct gr__builder *builder);

void __wrap_gr__builder_publish(struct gr__builder *builder)
{
	if (mutant == STUCK_GENERATION)
		builder->space->ram->generation--;
	__real_gr__builder_publish(builder);
}

/* ---------------------------------------------------------------------------------------- ends */

void __real_gr__registry_leave(struct gr_ram *ram);
void __wrap_gr__registry_leave(struct gr_ram *ram);

void __wrap_gr__registry_leave(struct gr_ram *ram)
{
	if (mutant != UNWAITED_LOOK)
		__real_gr__registry_leave(ram);
}

/* ---------------------------------------------------------------------------------------- pins */

int __real_gr_pin(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
		  struct gr_pin *pin);
int __wrap_gr_pin(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
		  struct gr_pin *pin);

int __wrap_gr_pin(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
		  struct gr_pin *pin)
{
	struct gr_range range;
	int rc;

	if (mutant != LATE_PIN)
		return __real_gr_pin(space, addr, length, access, pin);
	gr_read_begin();
	rc = gr_space_find(space, addr, &range);
	gr_read_end();
	if (rc < 0)
		return rc;
	sched_point("late.pin");
	gr__block_get(range.block);
	*pin = (struct gr_pin){.host = range.host, .length = length, .block = range.block};
	return 0;
}

void __real_gr__block_put(struct gr_block *block);
void __wrap_gr__block_put(struct gr_block *block);

void __wrap_gr__block_put(struct gr_block *block)
{
	uint64_t pins = block->pins;

	if (mutant == TORN_UNPIN && pins != (GR__PINS_UNLINKED | 1)) {
		sched_point("torn.unpin");
		block->pins = pins - 1;
	} else if (mutant == KEPT_UNPIN) {
		block->pins--;
	} else {
		__real_gr__block_put(block);
	}
}

/* ------------------------------------------------------------------------------------- changes */

int __real_gr_txn_map(struct gr_txn *txn, uint64_t addr, struct gr_block *block, uint64_t offset,
		      uint64_t length, unsigned access);
int __wrap_gr_txn_map(struct gr_txn *txn, uint64_t addr, struct gr_block *block, uint64_t offset,
		      uint64_t length, unsigned access);
int __real_gr_txn_commit(struct gr_txn *txn);
int __wrap_gr_txn_commit(struct gr_txn *txn);

static struct gr_block *not_kept; /* the one in the transaction */

int __wrap_gr_txn_map(struct gr_txn *txn, uint64_t addr, struct gr_block *block, uint64_t offset,
		      uint64_t length, unsigned access)
{
	int rc = __real_gr_txn_map(txn, addr, block, offset, length, access);

	if (mutant == NOT_KEPT && !rc) {
		not_kept = block;
		block->users--;
	}
	return rc;
}

int __wrap_gr_txn_commit(struct gr_txn *txn)
{
	if (mutant == NOT_KEPT)
		not_kept->users++;
	return __real_gr_txn_commit(txn);
}

int __real_gr__change_run(struct gr__change *change);
int __wrap_gr__change_run(struct gr__change *change);

int __wrap_gr__change_run(struct gr__change *change)
{
	struct gr__change one = *change;
	size_t i;
	int rc = 0;

	if (mutant != TORN_TXN || change->op_count < 2)
		return __real_gr__change_run(change);
	for (i = 0; i < change->op_count && rc >= 0; i++) {
		one.ops = &change->ops[i];
		one.op_count = 1;
		rc = __real_gr__change_run(&one);
	}
	return rc;
}

int __real_gr__audience_take(struct gr_ram *ram, const struct gr__audience *told,
			     struct gr__audience *audience);
int __wrap_gr__audience_take(struct gr_ram *ram, const struct gr__audience *told,
			     struct gr__audience *audience);

int __wrap_gr__audience_take(struct gr_ram *ram, const struct gr__audience *told,
			     struct gr__audience *audience)
{
	size_t i;
	int rc;

	if (mutant == TOLD_ONCE && told->count)
		return 0;
	rc = __real_gr__audience_take(ram, told, audience);
	for (i = 0; mutant == UNCOUNTED && !rc && i < audience->count; i++)
		audience->listeners[i]->users--;
	return rc;
}

void __real_gr__audience_drop(struct gr_ram *ram, struct gr__audience *audience);
void __wrap_gr__audience_drop(struct gr_ram *ram, struct gr__audience *audience);

void __wrap_gr__audience_drop(struct gr_ram *ram, struct gr__audience *audience)
{
	size_t i;

	for (i = 0; mutant == UNCOUNTED && i < audience->count; i++)
		audience->listeners[i]->users++;
	__real_gr__audience_drop(ram, audience);
}

static void empty_claims(struct gr_ram *ram)
{
	struct gr__space *space;
	struct gr__claim *claim;

	cds_list_for_each_entry (space, &ram->spaces, node)
		cds_list_for_each_entry (claim, &space->claims, node)
			claim->count = 0;
}

void __real_gr__audience_tell_committed(const struct gr__audience *audience, struct gr_space *space,
					uint64_t generation);
void __wrap_gr__audience_tell_committed(const struct gr__audience *audience, struct gr_space *space,
					uint64_t generation);

void __wrap_gr__audience_tell_committed(const struct gr__audience *audience, struct gr_space *space,
					uint64_t generation)
{
	struct gr_ram *ram = gr__space_of(space)->ram;
	struct gr__claim *claim, *next;

	if (mutant == UNCLAIMED_COMMIT) {
		ram->changes--;
		cds_list_for_each_entry_safe (claim, next, &gr__space_of(space)->claims, node)
			cds_list_del_init(&claim->node);
	}
	__real_gr__audience_tell_committed(audience, space, generation);
	if (mutant == UNCLAIMED_COMMIT)
		ram->changes++;
}

int __real_gr__audience_tell(const struct gr__audience *audience, const struct gr__events *events);
int __wrap_gr__audience_tell(const struct gr__audience *audience, const struct gr__events *events);

int __wrap_gr__audience_tell(const struct gr__audience *audience, const struct gr__events *events)
{
	const struct gr__event_list *up = &events->up, *down = &events->down;
	size_t i;
	int rc;

	if (mutant == NO_CLAIMS && audience->count)
		empty_claims(audience->listeners[0]->ram);
	for (i = 0; mutant == NOT_BUSY && i < down->count; i++)
		if (!down->events[i].space)
			down->events[i].block->busy = false;
	for (i = 0; mutant == NOT_KEPT && i < up->count; i++)
		if (up->events[i].space)
			up->events[i].range.block->users--;
	rc = __real_gr__audience_tell(audience, events);
	for (i = 0; mutant == NOT_KEPT && i < up->count; i++)
		if (up->events[i].space)
			up->events[i].range.block->users++;
	return mutant == NO_REFUSAL ? 0 : rc;
}

void __real_gr__listener_insert(struct gr_listener *listener);
void __wrap_gr__listener_insert(struct gr_listener *listener);

void __wrap_gr__listener_insert(struct gr_listener *listener)
{
	if (mutant == LATE_JOIN) {
		pthread_mutex_unlock(&listener->ram->lock);
		pthread_mutex_lock(&listener->ram->lock);
	}
	__real_gr__listener_insert(listener);
}

/* ------------------------------------------------------------------------------------- reclaim */

void __real_gr__offsets_put(struct gr__offsets *offsets, uint64_t offset);
void __wrap_gr__offsets_put(struct gr__offsets *offsets, uint64_t offset);

void __wrap_gr__offsets_put(struct gr__offsets *offsets, uint64_t offset)
{
	if (mutant != EARLY_OFFSET)
		__real_gr__offsets_put(offsets, offset);
}

void __real_gr__block_reclaim_later(struct gr_block *block);
void __wrap_gr__block_reclaim_later(struct gr_block *block);

void __wrap_gr__block_reclaim_later(struct gr_block *block)
{
	if (mutant == EARLY_OFFSET)
		__real_gr__offsets_put(&block->ram->offsets, block->ram_offset);
	__real_gr__block_reclaim_later(block);
}

int __real_gr__reclaim_wait(struct gr_ram *ram, int timeout_ms);
int __wrap_gr__reclaim_wait(struct gr_ram *ram, int timeout_ms);

int __wrap_gr__reclaim_wait(struct gr_ram *ram, int timeout_ms)
{
	return mutant == UNWAITED_CLOSE ? 0 : __real_gr__reclaim_wait(ram, timeout_ms);
}

int __real_gr_ram_reclaim(struct gr_ram *ram);
int __wrap_gr_ram_reclaim(struct gr_ram *ram);

int __wrap_gr_ram_reclaim(struct gr_ram *ram)
{
	if (mutant == RECLAIM_WAITS)
		urcu_memb_synchronize_rcu();
	return __real_gr_ram_reclaim(ram);
}

/* ------------------------------------------------------------------------------------- windows */

void __real_gr__window_unpin(struct gr__mapping *window);
void __wrap_gr__window_unpin(struct gr__mapping *window);

void __wrap_gr__window_unpin(struct gr__mapping *window)
{
	uint64_t pins = window->pins;

	if (mutant == TORN_WINDOW && pins != (GR__PINS_UNLINKED | 1)) {
		sched_point("torn.window");
		window->pins = pins - 1;
	} else if (mutant == KEPT_WINDOW) {
		window->pins--;
	} else {
		__real_gr__window_unpin(window);
	}
}

int __real_gr__mem_window_map(const struct gr__mem *mem, uint64_t offset, uint64_t length,
			      void **host);
int __wrap_gr__mem_window_map(const struct gr__mem *mem, uint64_t offset, uint64_t length,
			      void **host);

int __wrap_gr__mem_window_map(const struct gr__mem *mem, uint64_t offset, uint64_t length,
			      void **host)
{
	const struct gr_block *block = caa_container_of(mem, struct gr_block, mem);
	int rc = __real_gr__mem_window_map(mem, offset, length, host);
	uint64_t i;

	if (mutant == UNSTALE) {
		sched_point("unstale");
		for (i = 0; i < block->windows->pool_used; i++)
			block->windows->pool[i].stale = false;
	}
	return rc;
}
/* NOLINTEND(bugprone-reserved-identifier) */
