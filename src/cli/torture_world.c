/* SPDX-License-Identifier: MIT */
/*
 * The world of `guestram torture`: descriptors, stamps, poison, and the check of what was read; see
 * torture.h for what it rests on.
 */
#include "bench.h"
#include "torture.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int world_open(const struct torture_options *options, struct world **result)
{
	struct world *world;
	uint64_t at;
	char *pool;
	int i;

	world = mmap(NULL, sizeof(*world), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	if (world == MAP_FAILED)
		return -ENOMEM;
	pool = mmap(NULL, TORTURE_POOL * TORTURE_LARGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pool == MAP_FAILED) {
		munmap(world, sizeof(*world));
		return -ENOMEM;
	}
	/* all of it now, so that none of it looks like growth later */
	memset(world, 0, sizeof(*world));
	for (at = 0; at < TORTURE_POOL * TORTURE_LARGE; at += TORTURE_PAGE) {
		if (at % TORTURE_LARGE < TORTURE_SMALL_BLOCK ||
		    at % torture_step(TORTURE_LARGE) == 0)
			*(volatile char *)(pool + at) = 0;
	}
	world->pool = pool;
	world->options = options;
	world->now = 1;
	pthread_mutex_init(&world->lock, NULL);
	pthread_mutex_init(&world->table_lock, NULL);
	for (i = TORTURE_DESCS - 1; i >= 0; i--) {
		struct desc *desc = &world->desc[i];

		desc->world = world;
		if (i >= TORTURE_POOL) {
			desc->next = world->free_other;
			world->free_other = desc;
			continue;
		}
		desc->host = world->pool + (uint64_t)i * TORTURE_LARGE;
		desc->length = TORTURE_LARGE;
		desc->next = world->free_pool;
		world->free_pool = desc;
	}
	*result = world;
	return 0;
}

void world_close(struct world *world)
{
	munmap(world->pool, TORTURE_POOL * TORTURE_LARGE);
	pthread_mutex_destroy(&world->lock);
	pthread_mutex_destroy(&world->table_lock);
	munmap(world, sizeof(*world));
}

static bool in_pool(const struct world *world, const struct desc *desc)
{
	return desc - world->desc < TORTURE_POOL;
}

void world_error(struct world *world, int rc, const char *what)
{
	pthread_mutex_lock(&world->lock);
	if (!torture_read(&world->errors))
		snprintf(world->first_error, sizeof(world->first_error), "%s: %s", what,
			 rc ? strerror(-rc) : "it should not happen");
	torture_count(&world->errors, 1);
	pthread_mutex_unlock(&world->lock);
}

void world_stale(struct world *world, const char *why, enum torture_space space, uint64_t addr,
		 const struct stamp *stamp)
{
	static const char *const names[SPACES] = {"guest", "alias", "table"};

	pthread_mutex_lock(&world->lock);
	if (!torture_read(&world->stale))
		snprintf(world->first_stale, sizeof(world->first_stale),
			 "%s: space %s, address %#llx, stamp %#llx %llu %llu", why, names[space],
			 (unsigned long long)addr, (unsigned long long)(stamp ? stamp->serial : 0),
			 (unsigned long long)(stamp ? stamp->desc : 0),
			 (unsigned long long)(stamp ? stamp->page : 0));
	torture_count(&world->stale, 1);
	pthread_mutex_unlock(&world->lock);
}

/* ------------------------------------------------------------------------------- descriptors */

/* The last one that was given back comes first: memory is reused as early as it can be. */
struct desc *world_take(struct world *world, bool pool, uint64_t length)
{
	struct desc **list = pool ? &world->free_pool : &world->free_other;
	struct desc *desc;

	pthread_mutex_lock(&world->lock);
	desc = *list;
	if (desc)
		*list = desc->next;
	pthread_mutex_unlock(&world->lock);
	if (!desc)
		return NULL;
	desc->length = length;
	desc->version = 0;
	desc->deleted = 0;
	desc->block = NULL;
	desc->live = 0;
	__atomic_store_n(&desc->holders, 2, __ATOMIC_RELAXED);
	__atomic_store_n(&desc->pinned, false, __ATOMIC_RELAXED);
	__atomic_store_n(&desc->mappings, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&desc->serial, torture_count(&world->next_serial, 1), __ATOMIC_RELAXED);
	__atomic_store_n(&desc->state, DESC_LIVE, __ATOMIC_RELAXED);
	return desc;
}

void world_leave(struct world *world, struct desc *desc)
{
	struct desc **list = in_pool(world, desc) ? &world->free_pool : &world->free_other;

	/* each sees what the other wrote before he left */
	if (__atomic_sub_fetch(&desc->holders, 1, __ATOMIC_ACQ_REL))
		return;
	__atomic_store_n(&desc->serial, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&desc->state, DESC_FREE, __ATOMIC_RELAXED);
	pthread_mutex_lock(&world->lock);
	desc->next = *list;
	*list = desc;
	pthread_mutex_unlock(&world->lock);
}

struct mapping *world_map(struct desc *desc, enum torture_space space, uint64_t addr,
			  uint64_t length, uint64_t offset, unsigned access)
{
	unsigned n = desc->mappings;

	if (n == TORTURE_MAPPINGS)
		return NULL;
	desc->mapping[n] = (struct mapping){
		.space = space, .access = access, .addr = addr, .length = length, .offset = offset};
	__atomic_store_n(&desc->mappings, n + 1, __ATOMIC_RELEASE); /* pairs with find_mapping() */
	return &desc->mapping[n];
}

uint64_t world_tick(struct world *world)
{
	return __atomic_add_fetch(&world->now, 1, __ATOMIC_RELEASE); /* pairs with world_now() */
}

/* ------------------------------------------------------------------------------------ stamps */

static uint64_t mix(const struct stamp *stamp)
{
	uint64_t x = stamp->serial * UINT64_C(0x9e3779b97f4a7c15) ^ stamp->desc << 32 ^ stamp->page;

	return x ^ x >> 29;
}

static void write_stamp(char *host, const struct stamp *stamp)
{
	uint64_t *to = (uint64_t *)host;

	__atomic_store_n(&to[0], stamp->serial, __ATOMIC_RELAXED);
	__atomic_store_n(&to[1], stamp->desc, __ATOMIC_RELAXED);
	__atomic_store_n(&to[2], stamp->page, __ATOMIC_RELAXED);
	__atomic_store_n(&to[3], stamp->check, __ATOMIC_RELAXED);
}

void world_read_stamp(const void *host, struct stamp *stamp)
{
	const uint64_t *from = host;

	stamp->serial = __atomic_load_n(&from[0], __ATOMIC_RELAXED);
	stamp->desc = __atomic_load_n(&from[1], __ATOMIC_RELAXED);
	stamp->page = __atomic_load_n(&from[2], __ATOMIC_RELAXED);
	stamp->check = __atomic_load_n(&from[3], __ATOMIC_RELAXED);
}

/* Nobody may have touched the pool's memory between its release and now. */
static void check_poison(struct world *world, const struct desc *desc, uint64_t at)
{
	const uint64_t *page = (const uint64_t *)(desc->host + at);
	uint64_t serial = __atomic_load_n(&page[0], __ATOMIC_RELAXED);
	uint64_t scratch = __atomic_load_n(&page[SCRATCH / 8], __ATOMIC_RELAXED);

	/* 0: first use */
	if ((serial && serial != TORTURE_POISON) || (scratch && scratch != TORTURE_POISON))
		world_stale(world, "released memory was stored to", SPACE_GUEST, at, NULL);
}

void world_stamp(struct world *world, struct desc *desc)
{
	struct stamp stamp = {.serial = desc->serial, .desc = (uint64_t)(desc - world->desc)};
	uint64_t at;

	for (at = 0; at < desc->length; at += torture_step(desc->length)) {
		if (in_pool(world, desc))
			check_poison(world, desc, at);
		stamp.page = at / TORTURE_PAGE;
		stamp.check = mix(&stamp);
		write_stamp(desc->host + at, &stamp);
		/* the scratch word's first legal value */
		__atomic_store_n((uint64_t *)(desc->host + at + SCRATCH), 1, __ATOMIC_RELAXED);
	}
}

void world_release(struct world *world, struct desc *desc)
{
	static const struct stamp poison = {TORTURE_POISON, TORTURE_POISON, TORTURE_POISON,
					    TORTURE_POISON};
	double now = bench_now();
	uint64_t at;

	if (__atomic_exchange_n(&desc->state, DESC_RELEASED, __ATOMIC_RELAXED) != DESC_LIVE)
		world_error(world, 0, "memory was released twice");
	if (desc->deleted > 0 && !__atomic_load_n(&desc->pinned, __ATOMIC_RELAXED)) {
		uint64_t sample = torture_count(&world->graces, 1) - 1;

		world->grace[sample % TORTURE_SAMPLES] = (now - desc->deleted) / 1e3;
	}
	for (at = 0; at < desc->length; at += torture_step(desc->length)) {
		write_stamp(desc->host + at, &poison);
		__atomic_store_n((uint64_t *)(desc->host + at + SCRATCH), TORTURE_POISON,
				 __ATOMIC_RELAXED);
	}
}

/* Why the block of @desc may not be seen at @addr, or NULL when it may. */
static const char *judge_mapping(const struct desc *desc, const struct stamp *stamp,
				 enum torture_space space, uint64_t addr, unsigned access,
				 uint64_t since)
{
	unsigned n =
		__atomic_load_n(&desc->mappings, __ATOMIC_ACQUIRE); /* pairs with world_map() */
	const char *why = "the block was never mapped here";
	unsigned i;

	for (i = 0; i < n && i < TORTURE_MAPPINGS; i++) {
		const struct mapping *m = &desc->mapping[i];
		uint64_t offset = addr - m->addr;
		uint64_t ended, hole;

		if (m->space != space || offset >= m->length ||
		    (offset + m->offset) / TORTURE_PAGE != stamp->page)
			continue;
		if ((m->access & access) != access) {
			why = "the rights were never given";
			continue;
		}
		ended = __atomic_load_n(&m->ended, __ATOMIC_RELAXED);
		hole = __atomic_load_n(&m->hole_ended, __ATOMIC_ACQUIRE); /* with punch() */
		if (ended && ended <= since) {
			why = "it was unmapped before the section began";
			continue;
		}
		if (hole && hole <= since && addr - m->hole < m->hole_length) {
			why = "this piece was unmapped before the section began";
			continue;
		}
		return NULL;
	}
	return why;
}

struct desc *world_check(struct world *world, const struct stamp *stamp, enum torture_space space,
			 uint64_t addr, unsigned access, uint64_t since)
{
	const char *why = NULL;
	struct desc *desc = NULL;

	if (stamp->serial == TORTURE_POISON)
		why = "poison: the memory was released";
	else if (stamp->check != mix(stamp) || stamp->desc >= TORTURE_DESCS)
		why = "no whole stamp: the memory is somebody else's";
	if (!why) {
		desc = &world->desc[stamp->desc];
		if (__atomic_load_n(&desc->serial, __ATOMIC_RELAXED) != stamp->serial)
			why = "the block is reclaimed";
		else
			why = judge_mapping(desc, stamp, space, addr, access, since);
	}
	if (!why)
		return desc;
	world_stale(world, why, space, addr, stamp);
	return NULL;
}

/* ------------------------------------------------------------------------------------- faults */

static _Thread_local sigjmp_buf *guard_jump; /* set while this thread may touch guest memory */

static void fault(int signal, siginfo_t *info, void *context)
{
	(void)info, (void)context;
	if (guard_jump)
		siglongjmp(*guard_jump, 1);
	/* not ours: the instruction runs again and ends the process as it would have */
	sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
}

void torture_guard_install(void)
{
	struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

bool torture_guarded(struct world *world, void (*step)(void *context), void *context)
{
	sigjmp_buf jump;

	if (sigsetjmp(jump, 0)) {
		guard_jump = NULL;
		while (_urcu_memb_read_ongoing())
			gr_read_end();
		world_stale(world, "a touch of memory that is gone", SPACE_GUEST, 0, NULL);
		return false;
	}
	guard_jump = &jump;
	step(context);
	guard_jump = NULL;
	return true;
}
