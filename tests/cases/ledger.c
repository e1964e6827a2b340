/* SPDX-License-Identifier: MIT */
/*
 * A listener that keeps books, see case.h: it knows what it was told of, and notes every removal of
 * something it does not have and every addition of something it has.
 */
#include "case.h"

static bool has_block(const struct ledger *ledger, const struct gr_block *block)
{
	size_t i;

	for (i = 0; i < ledger->block_count; i++)
		if (ledger->blocks[i] == block)
			return true;
	return false;
}

static int note_block_added(void *context, struct gr_block *block)
{
	struct ledger *ledger = context;

	pthread_mutex_lock(&ledger->lock);
	ledger->calls++;
	if (has_block(ledger, block) || ledger->block_count == LEDGER_MAX)
		ledger->wrong++;
	else
		ledger->blocks[ledger->block_count++] = block;
	pthread_mutex_unlock(&ledger->lock);
	return 0;
}

static void note_block_deleting(void *context, struct gr_block *block)
{
	struct ledger *ledger = context;
	size_t i;

	pthread_mutex_lock(&ledger->lock);
	ledger->calls++;
	ledger->deleting++;
	for (i = 0; i < ledger->block_count && ledger->blocks[i] != block; i++)
		;
	if (i == ledger->block_count)
		ledger->wrong++;
	else
		ledger->blocks[i] = ledger->blocks[--ledger->block_count];
	/* its ranges have left before it */
	for (i = 0; i < ledger->range_count; i++)
		ledger->wrong += ledger->ranges[i].range.block == block;
	pthread_mutex_unlock(&ledger->lock);
}

static void note_block_reclaimed(void *context, const struct gr_block_info *info)
{
	struct ledger *ledger = context;

	pthread_mutex_lock(&ledger->lock);
	ledger->calls++;
	ledger->reclaimed++;
	pthread_mutex_unlock(&ledger->lock);
}

static int note_range_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct ledger *ledger = context;
	size_t i;
	int rc;

	pthread_mutex_lock(&ledger->lock);
	ledger->calls++;
	rc = ledger->refuse;
	ledger->refuse = 0;
	if (!rc) {
		ledger->added++;
		/* nothing it has overlaps, and the block came before */
		for (i = 0; i < ledger->range_count; i++)
			ledger->wrong +=
				ledger->ranges[i].space == space &&
				ledger->ranges[i].range.addr <= range->addr + (range->length - 1) &&
				range->addr <= ledger->ranges[i].range.addr +
						       (ledger->ranges[i].range.length - 1);
		ledger->wrong += !has_block(ledger, range->block);
		if (ledger->range_count == LEDGER_MAX) {
			ledger->wrong++;
		} else {
			ledger->ranges[ledger->range_count].space = space;
			ledger->ranges[ledger->range_count++].range = *range;
		}
	}
	pthread_mutex_unlock(&ledger->lock);
	return rc;
}

static void note_range_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct ledger *ledger = context;
	size_t i;

	pthread_mutex_lock(&ledger->lock);
	ledger->calls++;
	ledger->removed++;
	for (i = 0; i < ledger->range_count; i++)
		if (ledger->ranges[i].space == space &&
		    case_same_range(&ledger->ranges[i].range, range))
			break;
	if (i == ledger->range_count)
		ledger->wrong++;
	else
		ledger->ranges[i] = ledger->ranges[--ledger->range_count];
	pthread_mutex_unlock(&ledger->lock);
}

static void note_committed(void *context, struct gr_space *space, uint64_t generation)
{
	struct ledger *ledger = context;

	pthread_mutex_lock(&ledger->lock);
	ledger->calls++;
	ledger->committed++;
	pthread_mutex_unlock(&ledger->lock);
}

const struct gr_listener_ops ledger_ops = {
	.block_added = note_block_added,
	.block_deleting = note_block_deleting,
	.block_reclaimed = note_block_reclaimed,
	.range_added = note_range_added,
	.range_removed = note_range_removed,
	.committed = note_committed,
};

void ledger_init(struct ledger *ledger)
{
	memset(ledger, 0, sizeof(*ledger));
	pthread_mutex_init(&ledger->lock, NULL);
}

void ledger_open(struct ledger *ledger, struct gr_ram *ram, int priority)
{
	ledger_init(ledger);
	assert_ok(gr_listener_open(ram, &ledger_ops, ledger, priority, &ledger->listener));
}

/* ------------------------------------------------------------------- against what there is */

struct audit {
	struct ledger *ledger;
	struct gr_space *space;
	size_t blocks, ranges;
	unsigned missing;
};

static int audit_block(void *context, struct gr_block *block)
{
	struct audit *audit = context;

	audit->blocks++;
	audit->missing += !has_block(audit->ledger, block);
	return 0;
}

static int audit_range(void *context, const struct gr_range *range)
{
	struct audit *audit = context;
	size_t i;

	audit->ranges++;
	for (i = 0; i < audit->ledger->range_count; i++)
		if (audit->ledger->ranges[i].space == audit->space &&
		    case_same_range(&audit->ledger->ranges[i].range, range))
			return 0;
	audit->missing++;
	return 0;
}

void assert_ledger_at(struct ledger *ledger, struct gr_ram *ram, struct gr_space **spaces,
		      size_t count, const char *file, int line)
{
	struct audit audit = {.ledger = ledger};
	size_t i;

	pthread_mutex_lock(&ledger->lock);
	gr_read_begin();
	gr_ram_each_block(ram, audit_block, &audit);
	for (i = 0; i < count; i++) {
		audit.space = spaces[i];
		gr_space_each_range(spaces[i], audit_range, &audit);
	}
	gr_read_end();
	pthread_mutex_unlock(&ledger->lock);
	_assert_int_equal(ledger->wrong, 0, file, line);
	_assert_int_equal(audit.missing, 0, file, line);
	_assert_int_equal(audit.blocks, ledger->block_count, file, line);
	_assert_int_equal(audit.ranges, ledger->range_count, file, line);
}
