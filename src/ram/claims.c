/* SPDX-License-Identifier: MIT */
/* Discards that are forbidden or needed; see claims.h. */
#include "ram/claims.h"
#include "base/error.h"
#include "os/alloc.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	bool forbids[2]; /* by enum gr__discard */
	bool needs[2];
	const char *verb;
} kinds[] = {
	[GR_DISCARD_FORBID] = {{true, true}, {false, false}, "forbids discards"},
	[GR_DISCARD_FORBID_UNTOLD] = {{true, false}, {false, false}, "forbids untold discards"},
	[GR_DISCARD_NEED] = {{false, false}, {true, true}, "needs discards"},
	[GR_DISCARD_NEED_TOLD] = {{false, false}, {false, true}, "needs told discards"},
};

static bool exclude(enum gr_discard_kind one, enum gr_discard_kind other)
{
	unsigned how;

	for (how = 0; how < 2; how++)
		if ((kinds[one].forbids[how] && kinds[other].needs[how]) ||
		    (kinds[one].needs[how] && kinds[other].forbids[how]))
			return true;
	return false;
}

static bool concerns(const struct gr_discard_claim *claim, const struct gr_block *block)
{
	return !claim->block || !block || claim->block == block;
}

/* Lock held. */
static int check_others(const struct gr_discard_claim *claim)
{
	const struct gr_discard_claim *other;

	cds_list_for_each_entry (other, &claim->ram->claims, node)
		if (concerns(other, claim->block) && exclude(claim->kind, other->kind))
			return gr__fail(-EBUSY, "discard claim \"%s\": another one %s: %s",
					claim->reason, kinds[other->kind].verb, other->reason);
	return 0;
}

/*
 * Discards that are under way and forbidden by @claim? Those that nobody was told of are over soon:
 * they wait for the kernel only, and are waited for. Others run callbacks, which may be what opens
 * the claim. Lock held, dropped meanwhile.
 */
static int wait_for_discards(const struct gr_discard_claim *claim)
{
	struct gr_ram *ram = claim->ram;
	const unsigned *under_way = claim->block ? claim->block->discards : ram->discards;

	if (kinds[claim->kind].forbids[GR__DISCARD_TOLD] && under_way[GR__DISCARD_TOLD])
		return gr__fail(-EBUSY, "discard claim \"%s\": memory is being unplugged or shrunk",
				claim->reason);
	if (!kinds[claim->kind].forbids[GR__DISCARD_UNTOLD] || !under_way[GR__DISCARD_UNTOLD])
		return 0;
	pthread_cond_wait(&ram->reclaimed, &ram->lock);
	return 1;
}

int gr_discard_claim_open(struct gr_ram *ram, struct gr_block *block, enum gr_discard_kind kind,
			  const char *reason, struct gr_discard_claim **result)
{
	struct gr_discard_claim *claim;
	int rc = gr__ram_check(ram, "discard claim");

	if (rc < 0)
		return rc;
	if ((unsigned)kind >= sizeof(kinds) / sizeof(kinds[0]) || !kinds[kind].verb)
		return gr__fail(-EINVAL, "discard claim: no such kind: %u", (unsigned)kind);
	if (!reason || !*reason || !result)
		return gr__fail(-EINVAL, "discard claim: no reason, or no place for the result");
	if (block && block->ram != ram)
		return gr__fail(-EINVAL, "discard claim: block %s belongs to another RAM",
				block->name);
	claim = gr__alloc(sizeof(*claim));
	if (!claim)
		return gr__fail(-ENOMEM, "discard claim \"%s\": no memory", reason);
	claim->ram = ram;
	claim->block = block;
	claim->kind = kind;
	snprintf(claim->reason, sizeof(claim->reason), "%s", reason);

	pthread_mutex_lock(&ram->lock);
	do {
		rc = gr__ram_check_open(ram);
		if (!rc && block && !block->live)
			rc = gr__fail(-EBUSY, "block %s: it is being made or deleted", block->name);
		if (!rc)
			rc = check_others(claim);
		if (!rc)
			rc = wait_for_discards(claim);
	} while (rc > 0);
	if (!rc)
		cds_list_add_tail(&claim->node, &ram->claims);
	pthread_mutex_unlock(&ram->lock);
	if (rc < 0) {
		gr__free(claim);
		return rc;
	}
	*result = claim;
	return 0;
}

void gr_discard_claim_close(struct gr_discard_claim *claim)
{
	if (!claim)
		return;
	/* in a forked child the lock may be held by a thread that is not there */
	if (!gr__ram_check(claim->ram, "discard claim")) {
		pthread_mutex_lock(&claim->ram->lock);
		cds_list_del(&claim->node);
		pthread_mutex_unlock(&claim->ram->lock);
	}
	gr__free(claim);
}

int gr__discard_begin(struct gr_block *block, enum gr__discard how)
{
	const struct gr_discard_claim *claim;

	cds_list_for_each_entry (claim, &block->ram->claims, node)
		if (concerns(claim, block) && kinds[claim->kind].forbids[how])
			return gr__fail(-EBUSY, "block %s: discard: %s: %s", block->name,
					kinds[claim->kind].verb, claim->reason);
	block->discards[how]++;
	block->ram->discards[how]++;
	return 0;
}

void gr__discard_end(struct gr_block *block, enum gr__discard how)
{
	block->discards[how]--;
	block->ram->discards[how]--;
	pthread_cond_broadcast(&block->ram->reclaimed);
}

void gr__claims_drop(struct gr_block *block)
{
	struct gr_discard_claim *claim, *next;

	cds_list_for_each_entry_safe (claim, next, &block->ram->claims, node)
		if (claim->block == block) {
			cds_list_del(&claim->node);
			CDS_INIT_LIST_HEAD(&claim->node); /* so that its close finds it so */
		}
}

void gr__claims_free(struct gr_ram *ram)
{
	struct gr_discard_claim *claim, *next;

	cds_list_for_each_entry_safe (claim, next, &ram->claims, node)
		gr__free(claim);
}
