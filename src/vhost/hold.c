/* SPDX-License-Identifier: MIT */
/* See hold.h. */
#include "vhost/hold.h"
#include "os/alloc.h"
#include <errno.h>
#include <string.h>

void gr__holds_init(struct gr__holds *holds, struct gr_space *space)
{
	*holds = (struct gr__holds){.space = space};
}

static void release(struct gr__holds *holds, struct gr__hold *hold)
{
	gr_unpin(&hold->pin);
	hold->next = holds->spare;
	holds->spare = hold;
	holds->spare_count++;
}

/* Take all out of current that @keep_used does not keep. */
static void sweep(struct gr__holds *holds, bool keep_used)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < holds->current_count; i++) {
		struct gr__hold *hold = holds->current[i];

		if (keep_used && hold->users) {
			holds->current[kept++] = hold;
			continue;
		}
		hold->current = false;
		if (!hold->users)
			release(holds, hold);
	}
	holds->current_count = kept;
	holds->recent = NULL;
}

void gr__holds_idle(struct gr__holds *holds)
{
	sweep(holds, true);
}

void gr__holds_fini(struct gr__holds *holds)
{
	sweep(holds, false);
	while (holds->spare) {
		struct gr__hold *hold = holds->spare;

		holds->spare = hold->next;
		gr__free(hold);
	}
	gr__free(holds->current);
	holds->current = NULL;
	holds->current_room = holds->spare_count = holds->made = 0;
	holds->generation = 0;
}

bool gr__hold_lost(const struct gr__hold *hold)
{
	struct gr_block_info info;

	if (!hold->lossy)
		return false;
	gr_block_get_info(hold->pin.block, &info);
	return info.lost_pages != 0;
}

void gr__holds_sync(struct gr__holds *holds)
{
	uint64_t generation = gr__space_view(holds->space)->generation;
	bool stale = generation != holds->generation;

	for (unsigned i = 0; i < holds->current_count && !stale; i++)
		stale = gr__hold_lost(holds->current[i]);
	if (stale) {
		sweep(holds, false);
		holds->generation = generation;
	}
}

int gr__holds_grow(struct gr__holds *holds)
{
	unsigned want = holds->made ? holds->made : GR__HOLDS_FIRST;
	struct gr__hold **current = gr__alloc_array(holds->made + want, sizeof(struct gr__hold *));

	if (!current)
		return -ENOMEM;
	if (holds->current_count)
		memcpy(current, holds->current, holds->current_count * sizeof(*current));
	gr__free(holds->current);
	holds->current = current;
	holds->current_room = holds->made + want;
	for (unsigned i = 0; i < want; i++) {
		struct gr__hold *hold = gr__alloc(sizeof(*hold));

		if (!hold)
			return i ? 0 : -ENOMEM;
		hold->next = holds->spare;
		holds->spare = hold;
		holds->spare_count++;
		holds->made++;
	}
	return 0;
}

static int make(struct gr__holds *holds, uint64_t addr, unsigned access, struct gr__hold **result)
{
	struct gr__hold *hold = holds->spare;
	struct gr_block_info info;
	struct gr_range range;
	int rc;

	if (!hold || holds->current_count == holds->current_room)
		return -ENOBUFS;
	rc = gr_space_find(holds->space, addr, &range);
	if (rc < 0)
		return rc;
	if (addr - range.addr >= range.visible)
		return -EFAULT;
	if ((range.access & access) != access)
		return -EACCES;
	/* for reading: its end must not mark the whole range; what was written is marked by bytes
	 */
	rc = gr_block_pin(range.block, range.offset, range.visible, GR_READ, &hold->pin);
	if (rc < 0)
		return rc;
	gr_block_get_info(range.block, &info);
	if (info.lost_pages) {
		gr_unpin(&hold->pin);
		return -EFAULT;
	}
	holds->spare = hold->next;
	holds->spare_count--;
	hold->lossy = !!(info.flags & GR_SURVIVE_TRUNCATION);
	hold->addr = range.addr;
	hold->length = range.visible;
	hold->host = hold->pin.host;
	hold->access = range.access;
	hold->users = 0;
	hold->current = true;
	*result = hold;
	return 0;
}

/* How many current ones begin at or below @addr. */
static unsigned count_upto(const struct gr__holds *holds, uint64_t addr)
{
	unsigned low = 0, high = holds->current_count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (holds->current[mid]->addr <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int get_slow(struct gr__holds *holds, uint64_t addr, unsigned access,
		    struct gr__hold **result)
{
	unsigned at = count_upto(holds, addr);
	struct gr__hold *hold = at ? holds->current[at - 1] : NULL;
	int rc;

	if (!hold || addr - hold->addr >= hold->length) {
		rc = make(holds, addr, access, &hold);
		if (rc < 0)
			return rc;
		at = count_upto(holds, hold->addr);
		memmove(holds->current + at + 1, holds->current + at,
			(holds->current_count - at) * sizeof(struct gr__hold *));
		holds->current[at] = hold;
		holds->current_count++;
	}
	if ((hold->access & access) != access)
		return -EACCES;
	holds->recent = hold;
	hold->users++;
	*result = hold;
	return 0;
}

int gr__holds_get(struct gr__holds *holds, uint64_t addr, unsigned access, struct gr__hold **result)
{
	struct gr__hold *hold = holds->recent;

	if (gr_unlikely(!hold || addr - hold->addr >= hold->length ||
			(hold->access & access) != access))
		return get_slow(holds, addr, access, result);
	hold->users++;
	*result = hold;
	return 0;
}

void gr__hold_put(struct gr__holds *holds, struct gr__hold *hold)
{
	if (!--hold->users && !hold->current)
		release(holds, hold);
}
