/* SPDX-License-Identifier: MIT */
/* Every way to ask must say what the model says. See map_world.h. */
#include "map_world.h"
#include "space/view.h"

static struct gr_ram_stats stats_now(struct gr_ram *ram)
{
	struct gr_ram_stats stats;

	gr_ram_get_stats(ram, &stats);
	return stats;
}

void map_probe(struct world *world, unsigned at, uint64_t addr, uint64_t length, unsigned access)
{
	struct map_space *s = &world->spaces[at];
	const struct model_range *in = model_find(&s->model, addr);
	struct model_piece pieces[6];
	struct iovec iov[6];
	struct gr_pin pins[6], pin;
	struct gr_range range;
	int want = model_spans(&s->model, addr, length, access, pieces, 6), rc, i;
	void *host = model_host(&s->model, addr, length, access);
	uint64_t held = world->pin_count;

	gr_read_begin();
	/* bits that mean nothing are not for the inline functions */
	if (!(access & ~RW)) {
		FUZZ_CHECK_SAY(gr_host(s->space, addr, length, access) == host, "%#llx + %#llx",
			       (unsigned long long)addr, (unsigned long long)length);
		/* one is asked always, one now and then, one rarely: they grow old */
		FUZZ_CHECK_SAY(gr_cursor_host(&s->cursors[0], addr, length, access) == host,
			       "%#llx + %#llx", (unsigned long long)addr,
			       (unsigned long long)length);
		if (!(addr / PAGE & 3))
			FUZZ_CHECK(gr_cursor_host(&s->cursors[1], addr, length, access) == host);
		if (!(addr / PAGE & 31))
			FUZZ_CHECK(gr_cursor_host(&s->cursors[2], addr, length, access) == host);
	}
	rc = gr_spans(s->space, addr, length, access, iov, 6);
	FUZZ_CHECK_SAY(rc == want, "%d, not %d", rc, want);
	for (i = 0; i < rc && i < 6; i++) {
		FUZZ_CHECK(iov[i].iov_base == model_place(pieces[i].range, pieces[i].addr));
		FUZZ_CHECK(iov[i].iov_len == pieces[i].length);
	}
	rc = gr_space_find(s->space, addr, &range);
	FUZZ_CHECK(rc == (in ? 0 : -EFAULT));
	if (in) {
		FUZZ_CHECK(range.addr == in->first && range.length - 1 == in->last - in->first);
		FUZZ_CHECK(range.visible == model_visible(in));
		FUZZ_CHECK(range.block == in->block->block && range.offset == in->offset);
		FUZZ_CHECK(range.host == model_place(in, in->first));
		FUZZ_CHECK(range.access == in->access);
	}
	gr_read_end();

	rc = gr_pin_spans(s->space, addr, length, access, pins, 6);
	FUZZ_CHECK(rc == want);
	for (i = 0; rc <= 6 && i < rc; i++) {
		FUZZ_CHECK(pins[i].host == iov[i].iov_base && pins[i].length == iov[i].iov_len);
		FUZZ_CHECK(pins[i].block == pieces[i].range->block->block);
		held++;
	}
	FUZZ_CHECK(stats_now(world->ram).pins == held);
	for (i = 0; rc <= 6 && i < rc; i++)
		gr_unpin(&pins[i]);
	rc = gr_pin(s->space, addr, length, access, &pin);
	if (!length) /* for wrong bits, too */
		FUZZ_CHECK(rc == -EINVAL);
	else
		FUZZ_CHECK(rc == (want > 1 ? -EXDEV : want == 1 ? 0 : want));
	if (!rc) {
		FUZZ_CHECK(pin.host == host && pin.length == length);
		gr_unpin(&pin);
	}
}

/* ------------------------------------------------------------------------------ what is in it */

static void probe_around(struct world *world, unsigned at, struct interval interval,
			 unsigned access)
{
	const uint64_t places[] = {
		interval.first,
		interval.first - 1,
		interval.last,
		interval.last + 1,
		interval.first + (interval.last - interval.first) / 2,
		interval.last / GR_GRANULE * GR_GRANULE,
		interval.first / GR_GRANULE * GR_GRANULE,
	};
	const uint64_t length = interval.last - interval.first + 1;

	for (unsigned i = 0; i < COUNT_OF(places); i++)
		map_probe(world, at, places[i], 1, 0);
	map_probe(world, at, interval.first, length, access);
	map_probe(world, at, interval.first, length + 1, access);
	map_probe(world, at, interval.last, 2, GR_READ);
	map_probe(world, at, interval.last / GR_GRANULE * GR_GRANULE, GR_GRANULE, access);
}

struct listing {
	const struct model *model;
	size_t count;
};

static int compare_range(void *context, const struct gr_range *range)
{
	struct listing *listing = context;
	const struct model_range *want = &listing->model->ranges[listing->count];

	FUZZ_CHECK(listing->count < listing->model->count);
	listing->count++;
	FUZZ_CHECK(range->addr == want->first && range->length - 1 == want->last - want->first);
	FUZZ_CHECK(range->visible == model_visible(want) && range->access == want->access);
	FUZZ_CHECK(range->block == want->block->block && range->offset == want->offset);
	FUZZ_CHECK(range->host == model_place(want, want->first));
	return 0;
}

/* The words that these granules should have; a word left out would be slow, and not seen else. */
static void check_word(const struct map_space *s, uint64_t addr)
{
	const struct gr_view *view = gr__space_view(s->space);
	uint64_t lowest = s->model.ranges[0].first >> GR__SLOT_SHIFT; /* sorted */
	uint64_t slot = addr >> GR__SLOT_SHIFT;
	uint64_t granule = addr >> GR_GRANULE_SHIFT, want = model_word(&s->model, granule);

	if (!view->flat_count && slot - lowest >= GR__SLOTS_MAX)
		want = GR__WORD_NONE;
	FUZZ_CHECK_SAY(gr__view_word(view, addr) == want, "granule %#llx",
		       (unsigned long long)granule);
}

static void check_space(struct world *world, unsigned at, bool thorough)
{
	struct map_space *s = &world->spaces[at];
	struct listing listing = {&s->model, 0};
	const struct gr_view *view;
	uint64_t highest;

	if (!s->space)
		return;
	model_sort(&s->model);
	gr_read_begin();
	FUZZ_CHECK(gr_space_each_range(s->space, compare_range, &listing) == 0);
	FUZZ_CHECK(listing.count == s->model.count);
	view = gr__space_view(s->space);
	if (!s->model.count) {
		FUZZ_CHECK(!view->flat_count && !view->slot_count);
	} else {
		highest = s->model.ranges[s->model.count - 1].last;
		FUZZ_CHECK(!view->flat_count == (highest >> GR_GRANULE_SHIFT >= GR__FLAT_MAX));
		for (size_t i = 0; i < s->model.count; i++) {
			check_word(s, s->model.ranges[i].first);
			check_word(s, s->model.ranges[i].first + GR_GRANULE);
			check_word(s, s->model.ranges[i].last);
			check_word(s, s->model.ranges[i].last + 1);
		}
	}
	gr_read_end();
	for (size_t i = 0; thorough && i < s->model.count && i < 40; i++)
		probe_around(world, at,
			     (struct interval){s->model.ranges[i].first, s->model.ranges[i].last},
			     s->model.ranges[i].access);
}

static int count_block(void *context, struct gr_block *block)
{
	unsigned *count = context;

	(void)block;
	++*count;
	return 0;
}

static void check_block(struct world *world, const struct map_block *block)
{
	const struct life *life = block->life;
	struct gr_block_info info;
	unsigned mapped = 0;
	uint64_t into;
	int fd, rc;

	for (unsigned at = 0; at <= MAP_SPACES; at++)
		mapped += model_mapped(&world->spaces[at].model, &block->model);
	gr_block_get_info(block->model.block, &info);
	FUZZ_CHECK(!strcmp(info.name, block->name));
	FUZZ_CHECK(info.host == block->model.host && info.length == block->model.used);
	FUZZ_CHECK(info.max_length == block->model.maximum && info.mapped == mapped);
	FUZZ_CHECK(info.pins == life->pins && info.ram_offset == life->ram_offset);
	FUZZ_CHECK(info.user == life && info.flags == block->flags);
	rc = gr_block_share_fd(block->model.block, &fd, &into);
	FUZZ_CHECK(rc == (info.fd >= 0 && block->flags & GR_SHARED ? 0 : -ENOTSUP));
	if (!rc)
		FUZZ_CHECK(fd == info.fd && into == info.fd_offset);
	gr_read_begin();
	FUZZ_CHECK(gr_block_by_name(world->ram, block->name) == block->model.block);
	FUZZ_CHECK(gr_block_by_offset(world->ram, life->ram_offset + life->maximum - 1, &into) ==
		   block->model.block);
	FUZZ_CHECK(into == life->maximum - 1);
	FUZZ_CHECK(gr_block_by_host(world->ram, block->model.host + life->maximum - 1, &into) ==
		   block->model.block);
	FUZZ_CHECK(into == life->maximum - 1);
	FUZZ_CHECK(gr_block_by_offset(world->ram, life->ram_offset + life->maximum, &into) !=
		   block->model.block);
	gr_read_end();
}

/* Of blocks that are live or pinned, no two share an offset, nor a word of a dirty bitmap. */
static void check_offsets(const struct world *world)
{
	const uint64_t unit = 64 * PAGE;

	for (unsigned i = 0; i < world->life_count; i++) {
		const struct life *a = &world->lives[i];

		if (!a->used || (a->dead && !a->pins))
			continue;
		FUZZ_CHECK(!(a->ram_offset % unit));
		for (unsigned k = 0; k < i; k++) {
			const struct life *b = &world->lives[k];

			if (!b->used || (b->dead && !b->pins))
				continue;
			FUZZ_CHECK(a->ram_offset / unit > (b->ram_offset + b->maximum - 1) / unit ||
				   b->ram_offset / unit > (a->ram_offset + a->maximum - 1) / unit);
		}
		FUZZ_CHECK(!__atomic_load_n(&a->released, __ATOMIC_ACQUIRE));
		FUZZ_CHECK(!__atomic_load_n(&a->reclaimed, __ATOMIC_ACQUIRE));
	}
}

static void check_listener(const struct world *world, const struct map_listener *listener)
{
	size_t ranges = 0, blocks = 0;

	for (unsigned at = 0; at <= MAP_SPACES; at++)
		ranges += world->spaces[at].model.count;
	for (unsigned i = 0; i <= MAP_BLOCKS; i++)
		blocks += world->blocks[i].model.block != NULL;
	FUZZ_CHECK_SAY(listener->range_count == ranges, "%u told, %zu there are",
		       listener->range_count, ranges);
	FUZZ_CHECK_SAY(listener->block_count == blocks, "%u told, %zu there are",
		       listener->block_count, blocks);
	/* as many, and no two told ones overlap: then it is enough to find each */
	for (unsigned i = 0; i < listener->range_count; i++) {
		const struct told_range *told = &listener->ranges[i];
		const struct model_range *want = NULL;

		for (unsigned at = 0; at <= MAP_SPACES; at++)
			if (told->space == world->spaces[at].space)
				want = model_find(&world->spaces[at].model, told->range.addr);
		FUZZ_CHECK_SAY(want && want->first == told->range.addr, "%#llx",
			       (unsigned long long)told->range.addr);
		FUZZ_CHECK(told->range.length - 1 == want->last - want->first);
		FUZZ_CHECK(told->range.visible == model_visible(want));
		FUZZ_CHECK(told->range.block == want->block->block);
		FUZZ_CHECK(told->range.offset == want->offset);
		FUZZ_CHECK(told->range.access == want->access);
	}
}

void map_check(struct world *world, bool thorough)
{
	struct gr_ram_stats stats = stats_now(world->ram);
	uint64_t ranges = 0, bytes = 0, reserved = 0, blocks = 0, spaces = 0, pinned_dead = 0;
	unsigned count = 0;

	for (unsigned at = 0; at <= MAP_SPACES; at++) {
		check_space(world, at, thorough);
		ranges += world->spaces[at].model.count;
		spaces += world->spaces[at].space != NULL;
	}
	if (world->spaces[world->near_space].space)
		probe_around(world, world->near_space, world->near, RW);
	for (unsigned i = 0; i <= MAP_BLOCKS; i++) {
		const struct map_block *block = &world->blocks[i];

		if (!block->model.block)
			continue;
		check_block(world, block);
		blocks++;
		bytes += block->model.used;
		reserved += block->model.maximum;
	}
	check_offsets(world);
	for (unsigned i = 0; i < MAP_LISTENERS; i++)
		if (world->listeners[i].listener)
			check_listener(world, &world->listeners[i]);
	for (unsigned i = 0; i < world->life_count; i++)
		pinned_dead += world->lives[i].dead && world->lives[i].pins;
	FUZZ_CHECK(stats.ranges == ranges && stats.spaces == spaces);
	FUZZ_CHECK(stats.blocks == blocks && stats.bytes == bytes);
	FUZZ_CHECK(stats.bytes_reserved == reserved && stats.pins == world->pin_count);
	FUZZ_CHECK(stats.blocks_pending >= pinned_dead);
	FUZZ_CHECK_SAY(stats.blocks_pending + stats.blocks_reclaimed == world->dead_count,
		       "%llu + %llu, not %u", (unsigned long long)stats.blocks_pending,
		       (unsigned long long)stats.blocks_reclaimed, world->dead_count);
	gr_read_begin();
	FUZZ_CHECK(gr_ram_each_block(world->ram, count_block, &count) == 0 && count == blocks);
	gr_read_end();
}

/* --------------------------------------------------------------------------------- access */

static void model_copy_out(const struct model_piece *pieces, int count, uint8_t *to)
{
	for (int i = 0; i < count; i++) {
		memcpy(to, model_place(pieces[i].range, pieces[i].addr), pieces[i].length);
		to += pieces[i].length;
	}
}

void map_check_access(struct world *world, unsigned at, uint64_t addr, uint64_t length)
{
	struct map_space *s = &world->spaces[at];
	uint8_t was[256], is[256], put[256];
	struct model_piece read[16], write[16];
	int can_read, can_write, rc;
	uint64_t expected, value;
	uint32_t word;

	if (length > sizeof(was))
		length = sizeof(was);
	can_read = model_spans(&s->model, addr, length, GR_READ, read, 16);
	can_write = model_spans(&s->model, addr, length, GR_WRITE, write, 16);
	if (can_read > 16 || can_write > 16)
		return;
	/* only in memory that costs little to write */
	for (int i = 0; i < can_read; i++)
		if (!((struct map_block *)read[i].range->block)->touchable)
			return;
	for (int i = 0; i < can_write; i++)
		if (!((struct map_block *)write[i].range->block)->touchable)
			return;
	memset(is, 0xee, sizeof(is));
	model_copy_out(read, can_read, was);
	rc = gr_load(s->space, addr, is, length);
	FUZZ_CHECK(rc == (can_read < 0 ? can_read : 0));
	if (!rc)
		FUZZ_CHECK(!memcmp(is, was, length));
	else
		FUZZ_CHECK(is[0] == 0xee);
	for (unsigned i = 0; i < length; i++)
		put[i] = (uint8_t)(addr + i * 7 + length);
	rc = gr_store(s->space, addr, put, length);
	FUZZ_CHECK(rc == (can_write < 0 ? can_write : 0));
	if (!rc) {
		model_copy_out(write, can_write, is);
		FUZZ_CHECK(!memcmp(is, put, length));
		FUZZ_CHECK(gr_fill(s->space, addr, 0x5a, length / 2) == 0);
		model_copy_out(write, can_write, is);
		for (unsigned i = 0; i < length; i++)
			FUZZ_CHECK(is[i] == (i < length / 2 ? 0x5a : put[i]));
	} else {
		FUZZ_CHECK(gr_fill(s->space, addr, 0x5a, length) == rc);
	}
	if (can_read >= 0 && can_write < 0) {
		model_copy_out(read, can_read, is); /* nothing was written */
		FUZZ_CHECK(!memcmp(is, was, length));
	}

	/* single values, and exchanges */
	can_read = model_spans(&s->model, addr, 8, GR_READ, read, 16);
	can_write = model_spans(&s->model, addr, 8, RW, write, 16);
	for (int i = 0; i < can_read; i++)
		if (!((struct map_block *)read[i].range->block)->touchable)
			return;
	rc = gr_load_u64_be(s->space, addr, &value);
	FUZZ_CHECK(rc == (can_read < 0 ? can_read : 0));
	if (!rc) {
		model_copy_out(read, can_read, is);
		for (unsigned i = 0; i < 8; i++)
			FUZZ_CHECK((uint8_t)(value >> (56 - 8 * i)) == is[i]);
	}
	if (can_read >= 0) {
		model_copy_out(read, can_read, is);
		FUZZ_CHECK(gr_load_u32(s->space, addr, &word) == 0 && !memcmp(&word, is, 4));
	}
	if (can_write >= 0) { /* a part of the value may lie where nothing may be touched */
		word = 0x5a5a5a5a;
		rc = gr_cmpxchg_u32(s->space, addr, &word, 0x5a5a5a5a);
		FUZZ_CHECK(rc == (addr & 3 ? -EINVAL : word == 0x5a5a5a5a));
	}
	expected = 0;
	rc = gr_cmpxchg_u64(s->space, addr, &expected, 1);
	if (addr & 7) {
		FUZZ_CHECK(rc == -EINVAL);
	} else if (can_write < 0) {
		FUZZ_CHECK(rc == can_write);
	} else {
		/* aligned, so in one range */
		FUZZ_CHECK(can_write == 1);
		if (!rc)
			FUZZ_CHECK(expected && gr_cmpxchg_u64(s->space, addr, &expected, 1) == 1);
		memcpy(&value, model_place(write[0].range, addr), 8);
		FUZZ_CHECK(value == 1);
		word = 1;
		FUZZ_CHECK(gr_cmpxchg_u32(s->space, addr, &word, 7) == 1);
		FUZZ_CHECK(gr_store_u16_le(s->space, addr + 1, 0x1234) == 0);
		memcpy(is, model_place(write[0].range, addr), 8);
		FUZZ_CHECK(is[0] == 7 && is[1] == 0x34 && is[2] == 0x12);
	}
}
