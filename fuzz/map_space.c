/* SPDX-License-Identifier: MIT */
/*
 * What the steps of fuzz_map.c have in common, and those that change spaces: operands from the
 * input, what a call should return, maps, unmaps and transactions. See map_world.h.
 */
#include "map_world.h"

const uint64_t map_units[4] = {PAGE, 64 * KIB, 2 * MIB, GIB};

/* --------------------------------------------------------------------------------- operands */

uint64_t map_take_addr(struct world *world)
{
	uint8_t how = fuzz_u8(&world->in);
	uint64_t base = world->windows[how & 3], unit = map_units[how >> 2 & 3];

	if ((how >> 4 & 3) == 3)
		return fuzz_u64(&world->in);
	return base + unit * (how & 0x80 ? fuzz_u16(&world->in) : fuzz_u8(&world->in));
}

uint64_t map_take_length(struct world *world)
{
	uint8_t how = fuzz_u8(&world->in);

	if ((how & 0x3f) == 0x3f)
		return fuzz_u64(&world->in);
	return map_units[how >> 6] * (how & 0x3f);
}

struct map_space *map_take_space(struct world *world, unsigned *at)
{
	*at = fuzz_u8(&world->in) % MAP_SPACES;
	return world->spaces[*at].space ? &world->spaces[*at] : NULL;
}

/* One that is there, or NULL. */
struct map_block *map_take_block(struct world *world)
{
	struct map_block *block = &world->blocks[fuzz_u8(&world->in) % MAP_BLOCKS];

	return block->model.block ? block : NULL;
}

void map_remember(struct world *world, unsigned at, uint64_t addr, uint64_t length)
{
	world->near_space = at;
	world->near = (struct interval){addr, addr + (length ? length - 1 : 0)};
}

/* ----------------------------------------------------------------------------- what to expect */

void map_want(struct wants *wants, bool condition, int error)
{
	if (condition)
		wants->errors[wants->count++] = error;
}

/* Did it change anything? All else is an error that was to be expected, or the end. */
bool map_settle(struct world *world, const char *what, int rc, const struct wants *wants)
{
	bool failed = map_failed, refused = world->refused, known = !wants->count && rc >= 0;

	FUZZ_SAY("%s: %d%s%s\n", what, rc, failed ? ", no memory" : "", refused ? ", refused" : "");
	map_fail_in = 0;
	map_failed = world->refused = false;
	world->busy_space = MAP_SPACES;
	if (failed && rc == -ENOMEM)
		return false;
	if (refused) {
		FUZZ_CHECK_SAY(rc == MAP_REFUSED, "%s: %d \"%s\" though it was refused", what, rc,
			       gr_last_error());
		return false;
	}
	for (unsigned i = 0; i < wants->count; i++)
		known |= wants->errors[i] == rc;
	FUZZ_CHECK_SAY(known, "%s: %d \"%s\", want %d or %u others", what, rc, gr_last_error(),
		       wants->count ? wants->errors[0] : 0, wants->count ? wants->count - 1 : 0);
	return rc >= 0;
}

static void want_range(struct wants *wants, uint64_t addr, uint64_t length)
{
	map_want(wants, !length, -EINVAL);
	map_want(wants, (addr | length) % PAGE != 0, -EINVAL);
	map_want(wants, length && UINT64_MAX - addr < length - 1, -ERANGE);
}

static void want_map(struct wants *wants, const struct map_block *block, uint64_t addr,
		     uint64_t offset, uint64_t length, unsigned access)
{
	want_range(wants, addr, length);
	map_want(wants,
		 offset % PAGE || offset > block->model.maximum ||
			 length > block->model.maximum - offset,
		 -EINVAL);
	map_want(wants, !access || access & ~RW, -EINVAL);
	map_want(wants, access & GR_WRITE && block->flags & GR_READ_ONLY, -EACCES);
}

/* ------------------------------------------------------------------- spaces, maps, transactions */

void map_open_space(struct world *world, unsigned at)
{
	struct map_space *s = &world->spaces[at];
	struct wants none = {.count = 0};

	if (!map_settle(world, "open", gr_space_open(world->ram, at ? "one" : "zero", &s->space),
			&none)) {
		s->space = NULL;
		return;
	}
	for (unsigned i = 0; i < MAP_CURSORS; i++)
		gr_cursor_init(&s->cursors[i], s->space);
}

void map_step_space(struct world *world)
{
	unsigned at = fuzz_u8(&world->in) % MAP_SPACES;
	struct map_space *s = &world->spaces[at];
	struct wants wants = {.count = 0};

	if (!s->space) {
		map_open_space(world, at);
		return;
	}
	map_want(&wants, world->txn && world->txn_space == at, -EBUSY);
	world->busy_space = at;
	if (!map_settle(world, "close", gr_space_close(s->space), &wants))
		return;
	s->space = NULL;
	model_fini(&s->model);
}

static struct model_range make_range(struct map_block *block, uint64_t addr, uint64_t offset,
				     uint64_t length, unsigned access)
{
	return (struct model_range){
		.first = addr,
		.last = addr + (length - 1),
		.block = &block->model,
		.offset = offset,
		.access = access,
	};
}

void map_step_map(struct world *world)
{
	unsigned at;
	struct map_space *s = map_take_space(world, &at);
	struct map_block *block = map_take_block(world);
	uint64_t addr = map_take_addr(world), offset = map_take_length(world),
		 length = map_take_length(world);
	unsigned access = fuzz_u8(&world->in);
	struct wants wants = {.count = 0};
	struct model_range range;
	struct model next;

	if (!s || !block)
		return;
	/* mostly what makes sense */
	access = access & 0xf0 ? 1 + access % 3 : access;
	if (length > block->model.maximum && length % PAGE == 0 && addr % 3)
		length = block->model.maximum;
	want_map(&wants, block, addr, offset, length, access);
	range = make_range(block, addr, offset, length, access);
	model_copy(&next, &s->model);
	if (!wants.count)
		map_want(&wants, model_map(&next, &range) < 0, -EEXIST);
	map_remember(world, at, addr, length);
	world->busy_space = at;
	if (map_settle(world, "map",
		       gr_space_map(s->space, addr, block->model.block, offset, length, access),
		       &wants)) {
		model_fini(&s->model);
		s->model = next;
	} else {
		model_fini(&next);
	}
}

void map_step_unmap(struct world *world)
{
	unsigned at;
	struct map_space *s = map_take_space(world, &at);
	uint8_t how = fuzz_u8(&world->in);
	uint64_t addr = map_take_addr(world), length = map_take_length(world);
	struct wants wants = {.count = 0};
	struct model next;

	if (!s)
		return;
	if (how & 1 && s->model.count) { /* something that is there, or a piece of it */
		const struct model_range *range = &s->model.ranges[how / 2 % s->model.count];
		uint64_t pages = (range->last - range->first) / PAGE + 1;

		addr = range->first + (how & 0x80 ? addr / PAGE % pages * PAGE : 0);
		length = range->last - addr + 1;
		if (how & 0x40 && length > PAGE)
			length -= PAGE;
	}
	want_range(&wants, addr, length);
	model_copy(&next, &s->model);
	if (!wants.count)
		map_want(&wants, !model_unmap(&next, addr, addr + (length - 1)), -ENOENT);
	map_remember(world, at, addr, length);
	world->busy_space = at;
	if (map_settle(world, "unmap", gr_space_unmap(s->space, addr, length), &wants)) {
		model_fini(&s->model);
		s->model = next;
	} else {
		model_fini(&next);
	}
}

/* @kind 0: begin, 1: map, 2: unmap */
static void txn_add(struct world *world, unsigned kind, struct map_block *block, uint64_t addr,
		    uint64_t offset, uint64_t length, unsigned access)
{
	struct txn_op *op = &world->txn_ops[world->txn_count];
	struct wants wants = {.count = 0};

	if (world->txn_count == MAP_TXN_OPS)
		return;
	if (kind == 1) {
		want_map(&wants, block, addr, offset, length, access);
		if (!map_settle(world, "txn map",
				gr_txn_map(world->txn, addr, block->model.block, offset, length,
					   access),
				&wants))
			return;
		block->txn_users++;
	} else {
		want_range(&wants, addr, length);
		if (!map_settle(world, "txn unmap", gr_txn_unmap(world->txn, addr, length), &wants))
			return;
	}
	op->map = kind == 1;
	op->range = block ? make_range(block, addr, offset, length, access)
			  : (struct model_range){.first = addr, .last = addr + (length - 1)};
	world->txn_count++;
	map_remember(world, world->txn_space, addr, length);
}

void map_txn_end(struct world *world, bool commit)
{
	struct map_space *s = &world->spaces[world->txn_space];
	struct wants wants = {.count = 0};
	struct model next;

	model_copy(&next, &s->model);
	for (unsigned i = 0; i < world->txn_count; i++) {
		struct txn_op *op = &world->txn_ops[i];

		if (op->map)
			((struct map_block *)op->range.block)->txn_users--;
		if (wants.count)
			continue;
		if (op->map)
			map_want(&wants, model_map(&next, &op->range) < 0, -EEXIST);
		else
			model_unmap(&next, op->range.first, op->range.last);
	}
	world->busy_space = world->txn_space;
	if (!commit) {
		gr_txn_abort(world->txn);
		model_fini(&next);
	} else if (map_settle(world, "commit", gr_txn_commit(world->txn), &wants)) {
		model_fini(&s->model);
		s->model = next;
	} else {
		model_fini(&next);
	}
	world->busy_space = MAP_SPACES;
	world->txn = NULL;
	world->txn_count = 0;
}

void map_step_txn(struct world *world)
{
	uint8_t kind = fuzz_u8(&world->in);
	struct wants none = {.count = 0};
	struct map_block *block;
	uint64_t addr, offset, length;
	unsigned at;

	if (!world->txn) {
		struct map_space *s = map_take_space(world, &at);

		if (!s || !map_settle(world, "begin", gr_txn_begin(s->space, &world->txn), &none)) {
			world->txn = NULL;
			return;
		}
		world->txn_space = at;
	}
	switch (kind & 7) {
	case 0:
	case 1:
	case 2:
		block = map_take_block(world);
		addr = map_take_addr(world);
		offset = map_take_length(world);
		length = map_take_length(world);
		if (block)
			txn_add(world, 1, block, addr, offset, length, 1 + kind / 8 % 3);
		break;
	case 3:
		addr = map_take_addr(world);
		length = map_take_length(world);
		txn_add(world, 2, NULL, addr, 0, length, 0);
		break;
	case 4: /* a row of pieces, so that chunks fill and split */
		block = map_take_block(world);
		addr = map_take_addr(world);
		length = map_units[kind >> 3 & 1 ? 2 : 0];
		for (unsigned i = 0; block && i < kind / 16 + 2u; i++)
			txn_add(world, 1, block, addr + i * length * (kind & 0x80 ? 2 : 1), 0,
				length, 1 + i % 3);
		break;
	case 5:
		map_txn_end(world, false);
		break;
	default:
		map_txn_end(world, true);
	}
}
