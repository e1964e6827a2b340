/* SPDX-License-Identifier: MIT */
/* Listeners that keep account of what they are told; see world.h. Each callback is a point. */
#include "world.h"
#include <string.h>

static unsigned page_of(const struct gr_range *range)
{
	check(range->addr % PAGE == 0 && range->addr / PAGE < LEDGER_PAGES && range->length == PAGE,
	      "a range of %#llx bytes at %#llx is none of the script's",
	      (unsigned long long)range->length, (unsigned long long)range->addr);
	return range->addr / PAGE;
}

/* @space: NULL when it is about a block. */
static void enter(struct ledger *ledger, const struct gr_space *space, const char *point)
{
	check(!ledger->ended, "%c tells listener %c of %s after its close", sched_letter(),
	      ledger->name, point);
	check(!world.closed, "listener %c is told of %s after the RAM's close", ledger->name,
	      point);
	ledger->told++;
	sched_point(point);
	check(!space || space == world.space, "listener %c is told of %s in a space that is closed",
	      ledger->name, point);
	check(!ledger->ended, "listener %c is closed while %c tells it of %s", ledger->name,
	      sched_letter(), point);
}

static char letter_of(const struct gr_block *block)
{
	struct gr_block_info info;

	gr_block_get_info(block, &info);
	return info.name[0];
}

static int block_added(void *context, struct gr_block *block)
{
	struct ledger *ledger = context;
	unsigned letter = (unsigned char)letter_of(block);

	enter(ledger, NULL, "told.block");
	check(!ledger->has_block[letter], "listener %c is told of block %c twice", ledger->name,
	      letter);
	ledger->has_block[letter] = true;
	return 0;
}

static void block_deleting(void *context, struct gr_block *block)
{
	struct ledger *ledger = context;
	unsigned letter = (unsigned char)letter_of(block), i;

	enter(ledger, NULL, "told.delete");
	check(ledger->has_block[letter], "block %c leaves listener %c, who has not got it", letter,
	      ledger->name);
	for (i = 0; i < LEDGER_PAGES; i++)
		check(!ledger->has_range[i] || ledger->owner[i] != (char)letter,
		      "block %c leaves listener %c before its ranges", letter, ledger->name);
	ledger->has_block[letter] = false;
}

static void block_reclaimed(void *context, const struct gr_block_info *info)
{
	struct ledger *ledger = context;
	unsigned letter = (unsigned char)info->name[0];

	enter(ledger, NULL, "told.reclaimed");
	check(!ledger->has_block[letter], "block %c is reclaimed while listener %c has it", letter,
	      ledger->name);
	check(!ledger->reclaimed[letter], "listener %c is told twice that %c is reclaimed",
	      ledger->name, letter);
	ledger->reclaimed[letter] = true;
}

static int range_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct ledger *ledger = context;
	unsigned page = page_of(range);
	char owner = letter_of(range->block);

	enter(ledger, space, "told.range");
	if (ledger->refuse & 1u << page && owner == ledger->refuse_owner)
		return -EPERM;
	check(!ledger->has_range[page], "listener %c is told of page %u twice", ledger->name, page);
	check(ledger->has_block[(unsigned char)owner],
	      "listener %c is told of a range of block %c before the block", ledger->name, owner);
	ledger->has_range[page] = true;
	ledger->owner[page] = owner;
	return 0;
}

static void range_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	struct ledger *ledger = context;
	unsigned page = page_of(range);

	enter(ledger, space, "told.removed");
	check(ledger->has_range[page], "page %u leaves listener %c, who has not got it", page,
	      ledger->name);
	check(ledger->owner[page] == letter_of(range->block),
	      "page %u leaves listener %c as %c, it was %c", page, ledger->name,
	      letter_of(range->block), ledger->owner[page]);
	ledger->has_range[page] = false;
}

static void committed(void *context, struct gr_space *space, uint64_t generation)
{
	enter(context, space, "told.committed");
}

static const struct gr_listener_ops ops = {
	.block_added = block_added,
	.block_deleting = block_deleting,
	.block_reclaimed = block_reclaimed,
	.range_added = range_added,
	.range_removed = range_removed,
	.committed = committed,
};

int ledger_open(struct ledger *ledger, char name, int priority)
{
	unsigned refuse = ledger->refuse;
	char refuse_owner = ledger->refuse_owner;

	*ledger = (struct ledger){.name = name, .refuse = refuse, .refuse_owner = refuse_owner};
	return gr_listener_open(world.ram, &ops, ledger, priority, &ledger->listener);
}

static void must_be_empty(const struct ledger *ledger, const char *when)
{
	size_t i;

	for (i = 0; i < LEDGER_PAGES; i++)
		check(!ledger->has_range[i], "listener %c still has page %zu %s", ledger->name, i,
		      when);
	for (i = 0; i < sizeof(ledger->has_block); i++)
		check(!ledger->has_block[i], "listener %c still has block %c %s", ledger->name,
		      (char)i, when);
}

void ledger_end(struct ledger *ledger)
{
	ledger->ended = true;
	must_be_empty(ledger, "after its close");
}

void ledger_close(struct ledger *ledger)
{
	succeed(gr_listener_close(ledger->listener));
	ledger_end(ledger);
}

static int compare_range(void *context, const struct gr_range *range)
{
	struct ledger *rest = context;
	unsigned page = page_of(range);

	check(rest->has_range[page], "page %u is published, and listener %c does not know", page,
	      rest->name);
	check(rest->owner[page] == letter_of(range->block),
	      "page %u is of %c, and listener %c thinks of %c", page, letter_of(range->block),
	      rest->name, rest->owner[page]);
	rest->has_range[page] = false;
	return 0;
}

static int compare_block(void *context, struct gr_block *block)
{
	struct ledger *rest = context;
	unsigned letter = (unsigned char)letter_of(block);

	check(rest->has_block[letter], "block %c is live, and listener %c does not know", letter,
	      rest->name);
	rest->has_block[letter] = false;
	return 0;
}

void ledger_compare(const struct ledger *ledger)
{
	struct ledger rest = *ledger;

	gr_read_begin();
	gr_space_each_range(world.space, compare_range, &rest);
	gr_ram_each_block(world.ram, compare_block, &rest);
	gr_read_end();
	must_be_empty(&rest, "that is not published");
}
