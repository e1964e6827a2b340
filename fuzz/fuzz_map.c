/* SPDX-License-Identifier: MIT */
/*
 * Sequences of operations on a RAM against a plain model of it: blocks made, deleted, resized and
 * discarded; spaces, maps, unmaps and transactions; pins held across all that; listeners that
 * refuse and call back; allocations that fail. After each step every way to look up, the figures
 * and what listeners were told must be what the model says, and an operation must return what the
 * contract of <guestram.h> says, with nothing changed when that is an error.
 *
 * Input: a byte of options, then steps. A step is one byte (the operation; bit 6: inside a read
 * section; bit 7: not checked at once) and its operands.
 */
#include "map_world.h"
#include "os/hooks.h"
#include <sys/mman.h>

#define AREA_PART (64 * GIB) /* address space of one caller's block; never touched */

static char *area;

/* Where addresses are taken from; the shapes make the index take each of its forms. */
static const uint64_t shapes[8][4] = {
	{0, 2 * MIB - 8 * PAGE, 5 * MIB, 512 * MIB},
	{64 * GIB - 4 * MIB, 64 * GIB - 64 * KIB, 0, 63 * GIB},
	{3 * GIB, 66 * GIB, 100 * GIB, 127 * GIB},
	{512 * MIB, 16 * TIB - 2 * GIB, 16 * TIB + 512 * MIB, 40 * TIB},
	{0 - 16 * MIB, 0 - 64 * KIB, 0 - 2 * GIB, 0 - 80 * GIB},
	{0, TIB, UINT64_C(1) << 63, 0 - GIB},
	{0, 4 * MIB, 64 * GIB, 0 - 4 * MIB},
	{GIB - 2 * MIB, GIB, 2 * GIB, 3 * GIB},
};

_Thread_local unsigned map_fail_in;
_Thread_local bool map_failed;

static int fail_one(const char *call)
{
	if (strcmp(call, "alloc") || !map_fail_in || --map_fail_in)
		return 0;
	map_failed = true;
	return ENOMEM;
}

/* -------------------------------------------------------------------------------- blocks */

static void released(void *context, void *host, uint64_t length)
{
	struct life *life = context;

	FUZZ_CHECK(host == life->host && length == life->maximum);
	FUZZ_CHECK(__atomic_add_fetch(&life->released, 1, __ATOMIC_RELEASE) == 1);
}

static bool name_is_taken(const struct world *world, const char *name)
{
	for (unsigned i = 0; i <= MAP_BLOCKS; i++)
		if (world->blocks[i].model.block && !strcmp(world->blocks[i].name, name))
			return true;
	return false;
}

/* Too much may be waiting for reclaim, which goes on meanwhile. */
static void want_room(struct world *world, struct wants *wants, struct gr_block_opts *opts,
		      bool *maybe)
{
	struct gr_ram_stats stats;
	uint64_t pinned = 0;
	bool stuck;

	*maybe = false;
	gr_ram_get_stats(world->ram, &stats);
	if (!world->max_pending || stats.bytes_pending <= world->max_pending)
		return;
	for (unsigned i = 0; i < world->life_count; i++)
		if (world->lives[i].dead && world->lives[i].pins)
			pinned += world->lives[i].maximum;
	stuck = pinned > world->max_pending;
	/* never wait for what will not come */
	opts->flags |= stuck && !world->in_section ? GR_NO_WAIT : 0;
	stuck |= world->embedder;
	if (opts->flags & GR_NO_WAIT)
		map_want(wants, true, -ENOBUFS);
	else
		map_want(wants, world->in_section, -EDEADLK);
	*maybe = wants->count && !stuck; /* or it was reclaimed in time */
}

/* Refused or out of memory: where that must not wait for readers, it waits for reclaim. */
static void count_refused(struct world *world)
{
	struct gr_ram_stats stats;
	uint64_t dead;

	gr_ram_get_stats(world->ram, &stats);
	dead = stats.blocks_pending + stats.blocks_reclaimed;
	FUZZ_CHECK(dead == world->dead_count || dead == world->dead_count + 1);
	world->dead_count = (unsigned)dead;
}

static void step_new(struct world *world)
{
	unsigned number = fuzz_u8(&world->in) % MAP_BLOCKS, kind = fuzz_u8(&world->in);
	struct map_block *block = &world->blocks[number];
	uint64_t used = map_take_length(world), maximum = map_take_length(world);
	struct life *life = &world->lives[world->life_count];
	struct wants wants = {.count = 0};
	struct gr_block_opts opts = {.user = life};
	struct gr_block_info info;
	struct wants full = {.count = 0};
	struct gr_block *made;
	char name[16];
	bool maybe;
	int rc;

	if (block->model.block || world->life_count == MAP_LIVES)
		return;
	used = used % (4 * GIB + PAGE);
	maximum = maximum % (8 * GIB + PAGE);
	snprintf(name, sizeof(name), "b%u", kind & 0x80 ? 0 : number);
	opts.name = name;
	opts.length = used;
	opts.max_length = maximum;
	opts.flags = (kind & 4 ? 0 : GR_DELETE_UNMAP) | (kind & 0x40 ? 0 : GR_NO_WAIT);
	*life = (struct life){0};
	switch (kind & 3) {
	case 0:
		opts.backing = GR_BACKING_ANON;
		opts.flags |= kind & 8 ? GR_SHARED : 0;
		opts.flags |= kind & 16 ? GR_NO_GUARD : 0;
		break;
	case 1:
		opts.backing = GR_BACKING_MEMFD;
		opts.flags |= kind & 8 ? GR_SHARED : 0;
		break;
	default:
		opts.backing = GR_BACKING_CALLER;
		opts.flags |= kind & 8 ? GR_READ_ONLY : 0;
		opts.host = area + number * AREA_PART;
		opts.release = released;
		opts.release_context = life;
		life->caller = true;
		life->host = opts.host;
		life->maximum = maximum ? maximum : used;
		map_want(&wants, (used | maximum) % PAGE != 0, -EINVAL);
	}
	used = (used + PAGE - 1) / PAGE * PAGE;
	maximum = maximum ? (maximum + PAGE - 1) / PAGE * PAGE : used;
	map_want(&wants, !used, -EINVAL);
	map_want(&wants, maximum < used, -EINVAL);
	map_want(&wants, maximum < used, -ERANGE);
	map_want(&wants, name_is_taken(world, name), -EEXIST);
	life->maximum = maximum;
	want_room(world, &full, &opts, &maybe);
	rc = gr_block_new(world->ram, &opts, &made);
	if (full.count && (!maybe || rc == full.errors[0]))
		wants = full; /* that is looked at first */
	if (!map_settle(world, "new", rc, &wants)) {
		world->life_count++;			  /* listeners may yet be told of it */
		if (world->in_section || world->embedder) /* it may not wait for readers */
			count_refused(world);
		return;
	}
	gr_block_get_info(made, &info);
	FUZZ_CHECK(info.max_length == maximum);
	life->used = true;
	life->host = info.host;
	life->ram_offset = info.ram_offset;
	world->life_count++;
	block->life = life;
	block->flags = opts.flags | (opts.backing == GR_BACKING_MEMFD ? GR_SHARED : 0);
	block->touchable = !life->caller;
	block->model = (struct model_block){
		.block = made,
		.host = info.host,
		.used = used,
		.maximum = maximum,
		.resizable = !life->caller,
	};
	memcpy(block->name, name, sizeof(name));
}

static void step_delete(struct world *world)
{
	struct map_block *block = map_take_block(world);
	struct wants wants = {.count = 0};
	unsigned mapped = 0;

	if (!block)
		return;
	for (unsigned at = 0; at < MAP_SPACES; at++)
		mapped += model_mapped(&world->spaces[at].model, &block->model);
	map_want(&wants, block->txn_users, -EBUSY);
	map_want(&wants, mapped && !(block->flags & GR_DELETE_UNMAP), -EBUSY);
	if (!map_settle(world, "delete", gr_block_delete(block->model.block), &wants))
		return;
	for (unsigned at = 0; at < MAP_SPACES; at++)
		model_unmap_block(&world->spaces[at].model, &block->model);
	block->life->dead = true;
	block->life->audience = world->audience;
	block->model.block = NULL;
	world->dead_count++;
}

static void step_resize(struct world *world)
{
	struct map_block *block = map_take_block(world);
	uint64_t used = map_take_length(world), rounded = (used + PAGE - 1) / PAGE * PAGE;
	struct wants wants = {.count = 0};
	bool shrinks;

	if (!block)
		return;
	shrinks = rounded < block->model.used;
	if (!used)
		map_want(&wants, true, -EINVAL);
	else if (used > block->model.maximum)
		map_want(&wants, true, -ERANGE);
	else if (shrinks && world->in_section)
		map_want(&wants, true, -EDEADLK);
	else if (block->txn_users || (shrinks && block->life->pins))
		map_want(&wants, true, -EBUSY);
	else
		map_want(&wants, rounded != block->model.used && !block->model.resizable, -ENOTSUP);
	if (map_settle(world, "resize", gr_block_resize(block->model.block, used), &wants))
		block->model.used = rounded;
}

static void step_discard(struct world *world)
{
	struct map_block *block = map_take_block(world);
	uint64_t offset = map_take_length(world), length = map_take_length(world);
	struct wants wants = {.count = 0};

	if (!block)
		return;
	map_want(&wants, offset > block->model.used || length > block->model.used - offset,
		 -ERANGE);
	map_want(&wants, (offset | length) % PAGE != 0, -EINVAL);
	map_want(&wants, length && block->life->caller, -ENOTSUP);
	if (!map_settle(world, "discard", gr_block_discard(block->model.block, offset, length),
			&wants))
		return;
	if (length) {
		FUZZ_CHECK(!block->model.host[offset] && !block->model.host[offset + length - 1]);
	}
}

/* ---------------------------------------------------------------------------- pins, reclaim */

static struct life *life_of(struct world *world, const struct gr_pin *pin)
{
	for (unsigned i = 0; i <= MAP_BLOCKS; i++)
		if (world->blocks[i].model.block == pin->block)
			return world->blocks[i].life;
	FUZZ_CHECK(!"a pin of a block that is not there");
	return NULL;
}

static void step_pin(struct world *world)
{
	uint8_t how = fuzz_u8(&world->in);
	struct map_pin *held = &world->pins[world->pin_count];
	uint64_t addr = map_take_addr(world), length = map_take_length(world);
	struct map_block *block;
	unsigned at;
	struct map_space *s = map_take_space(world, &at);
	int rc;

	if (how & 1 && world->pin_count) {
		held = &world->pins[how / 2 % world->pin_count];
		if (held->readable) /* it is there, whatever became of its block */
			FUZZ_CHECK(*(volatile char *)held->pin.host |
				   (((volatile char *)held->pin.host)[held->pin.length - 1] | 1));
		gr_unpin(&held->pin);
		held->life->pins--;
		*held = world->pins[--world->pin_count];
		return;
	}
	if (world->pin_count == MAP_PINS)
		return;
	if (how & 2) {
		struct wants wants = {.count = 0};

		block = &world->blocks[addr % MAP_BLOCKS];
		if (!block->model.block)
			return;
		addr = addr / MAP_BLOCKS % (block->model.used + PAGE);
		map_want(&wants, !length, -EINVAL);
		map_want(&wants, length && UINT64_MAX - addr < length - 1, -ERANGE);
		map_want(&wants, addr > block->model.used || length > block->model.used - addr,
			 -EFAULT);
		rc = gr_block_pin(block->model.block, addr, length, GR_READ, &held->pin);
		if (!map_settle(world, "block pin", rc, &wants))
			return;
	} else {
		if (!s)
			return;
		if (how & 4 && s->model.count)
			addr = s->model.ranges[how / 8 % s->model.count].first;
		length = length ? length : 1;
		rc = gr_pin(s->space, addr, length, how & 8 ? GR_READ : 0, &held->pin);
		map_fail_in = 0;
		map_failed = false;
		if (rc < 0)
			return; /* judged by map_probe() */
	}
	held->life = life_of(world, &held->pin);
	held->readable = !held->life->caller;
	held->life->pins++;
	world->pin_count++;
}

static bool any_pinned_dead(const struct world *world)
{
	for (unsigned i = 0; i < world->pin_count; i++)
		if (world->pins[i].life->dead)
			return true;
	return false;
}

static void step_drain(struct world *world)
{
	uint8_t how = fuzz_u8(&world->in);
	bool held = any_pinned_dead(world);
	unsigned listening = 0;
	int rc;

	if (how & 1 && world->embedder)
		FUZZ_CHECK(gr_ram_reclaim(world->ram) >= 0);
	if (how & 2) {
		rc = gr_ram_drain(world->ram, 0); /* looks once: both answers may be true */
		FUZZ_CHECK(world->in_section ? rc == -EDEADLK : !rc || rc == -ETIMEDOUT);
		if (held)
			FUZZ_CHECK(rc < 0);
		return;
	}
	rc = gr_ram_drain(world->ram, held ? 1 : -1);
	FUZZ_CHECK_SAY(rc == (world->in_section ? -EDEADLK : held ? -ETIMEDOUT : 0), "%d", rc);
	if (rc < 0)
		return;
	for (unsigned i = 0; i < MAP_LISTENERS; i++)
		listening += world->listeners[i].listener != NULL;
	for (unsigned i = 0; i < world->life_count; i++) {
		struct life *life = &world->lives[i];

		if (!life->dead)
			continue;
		FUZZ_CHECK(life->released == (life->caller ? 1 : 0));
		if (life->audience == world->audience)
			FUZZ_CHECK_SAY(life->reclaimed == (int)listening, "%d told, %u listen",
				       life->reclaimed, listening);
	}
}

/* --------------------------------------------------------------------------------- listeners */

static void close_listener(struct world *world, struct map_listener *listener)
{
	struct wants wants = {.count = 0};

	map_want(&wants, world->in_section, -EDEADLK);
	listener->replaying = true;
	if (map_settle(world, "listener close", gr_listener_close(listener->listener), &wants)) {
		listener->listener = NULL;
		world->audience++;
		FUZZ_CHECK(!listener->range_count && !listener->block_count);
	}
	listener->replaying = false;
}

static void step_listener(struct world *world)
{
	uint8_t which = fuzz_u8(&world->in);
	struct map_listener *listener = &world->listeners[(which & 3) % MAP_LISTENERS];
	struct wants none = {.count = 0};

	if (listener->listener) {
		close_listener(world, listener);
		return;
	}
	listener->world = world;
	listener->replaying = true;
	listener->range_count = listener->block_count = 0;
	if (!map_settle(world, "listen",
			gr_listener_open(world->ram, &map_listener_ops, listener, which / 4 % 4 - 2,
					 &listener->listener),
			&none)) {
		listener->listener = NULL;
		/* what could be told back was; without memory some of it may not */
		listener->range_count = listener->block_count = 0;
	} else {
		world->audience++;
	}
	listener->replaying = false;
}

static void step_mood(struct world *world)
{
	uint8_t mood = fuzz_u8(&world->in);

	world->answer = mood & 15;
	world->refuse_in = mood >> 4;
}

static void step_probe(struct world *world)
{
	unsigned at;
	struct map_space *s = map_take_space(world, &at);
	uint64_t addr = map_take_addr(world), length = map_take_length(world);
	uint8_t how = fuzz_u8(&world->in);

	map_fail_in = 0;
	if (!s)
		return;
	if (how & 0x10 && s->model.count) { /* at a seam */
		const struct model_range *range = &s->model.ranges[how / 32 % s->model.count];

		addr = range->last - (addr & 15);
	}
	map_probe(world, at, addr, length, how & 0x0f);
	map_check_access(world, at, addr, 1 + length % 251);
}

/* --------------------------------------------------------------------------------- an input */

typedef void (*step_fn)(struct world *world);

static const step_fn steps[] = {
	map_step_map, map_step_map, map_step_unmap, map_step_txn, step_new,
	step_delete,  step_resize,  step_pin,	    step_probe,	  step_listener,
	step_mood,    step_drain,   map_step_space, step_discard,
};

static void one_step(struct world *world)
{
	uint8_t code = fuzz_u8(&world->in), what = code & 0x3f;

	world->in_section = code & 0x40;
	world->side_changes = 4;
	for (unsigned i = 0; i < MAP_LISTENERS; i++) {
		world->listeners[i].gone_count = 0;
		world->listeners[i].gone_block = NULL;
	}
	if (what >= 0x20) { /* the same, and the n-th allocation fails */
		map_fail_in = 1 + fuzz_u8(&world->in) % 16;
		what -= 0x20;
	}
	FUZZ_SAY("step %#x%s, fail in %u\n", what % (unsigned)COUNT_OF(steps),
		 world->in_section ? " in a section" : "", map_fail_in);
	if (world->in_section)
		gr_read_begin();
	steps[what % COUNT_OF(steps)](world);
	if (world->in_section)
		gr_read_end();
	world->in_section = false;
	map_fail_in = 0;
	map_failed = false;
	if (!(code & 0x80))
		map_check(world, false);
}

static void finish(struct world *world)
{
	uint8_t how = fuzz_u8(&world->in);

	world->refuse_in = 0;
	map_check(world, true);
	world->closing = true;
	if (world->pin_count || world->txn) {
		FUZZ_CHECK(gr_ram_close(world->ram) == -EBUSY);
		map_check(world, false);
	}
	while (world->pin_count) {
		gr_unpin(&world->pins[--world->pin_count].pin);
		world->pins[world->pin_count].life->pins--;
	}
	if (world->txn)
		map_txn_end(world, how & 1);
	if (how & 2)
		for (unsigned i = 0; i < MAP_LISTENERS; i++)
			if (world->listeners[i].listener)
				close_listener(world, &world->listeners[i]);
	map_fail_in = how >> 4;
	if (gr_ram_close(world->ram) < 0) {
		FUZZ_CHECK(map_failed);
		map_failed = false;
		map_check(world, false);
		FUZZ_CHECK(gr_ram_close(world->ram) == 0);
	}
	map_fail_in = 0;
	for (unsigned i = 0; i < MAP_LISTENERS; i++)
		FUZZ_CHECK(!world->listeners[i].listener ||
			   (!world->listeners[i].range_count && !world->listeners[i].block_count));
	for (unsigned i = 0; i < world->life_count; i++) {
		const struct life *life = &world->lives[i];

		FUZZ_CHECK_SAY(life->released == (life->used && life->caller), "%d times",
			       life->released);
	}
	for (unsigned at = 0; at <= MAP_SPACES; at++)
		model_fini(&world->spaces[at].model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world world;
	struct fuzz_ledger before = fuzz_ledger_now();
	struct gr_ram_opts opts = {0};
	uint8_t how;

	if (!area) {
		area = mmap(NULL, MAP_BLOCKS * AREA_PART, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		FUZZ_CHECK(area != MAP_FAILED);
		gr__hook_fault = fail_one;
	}
	memset(&world, 0, sizeof(world));
	world.in = (struct fuzz_input){data, size};
	how = fuzz_u8(&world.in);
	world.windows = shapes[how & 7];
	opts.embedder_reclaim = world.embedder = how & 8;
	world.busy_space = MAP_SPACES;
	opts.max_pending = world.max_pending = how & 16 ? MIB : 0;
	map_fail_in = how >> 5;
	if (gr_ram_open(&opts, &world.ram) < 0) {
		FUZZ_CHECK(map_failed);
		FUZZ_CHECK(gr_ram_open(&opts, &world.ram) == 0);
	}
	map_fail_in = 0;
	map_failed = false;
	map_side_open(&world);
	for (unsigned at = 0; at < MAP_SPACES; at++)
		map_open_space(&world, at);
	for (unsigned i = 0; i < MAP_STEPS && world.in.left; i++)
		one_step(&world);
	finish(&world);
	fuzz_ledger_check(&before);
	return 0;
}
