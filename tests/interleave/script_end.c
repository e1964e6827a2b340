/* SPDX-License-Identifier: MIT */
/* Waiting for reclaim, and ends: of blocks, of a RAM, of threads. */
#include "ram/registry.h"
#include "scripts.h"
#include "world.h"

static struct gr_block *blocks[2]; /* X, Y */
static struct ledger ledger;

static void prepare_blocks(const struct gr_ram_opts *opts)
{
	world_open(opts);
	blocks[0] = world_block('X', 0, GR_DELETE_UNMAP);
	blocks[1] = world_block('Y', 1, GR_DELETE_UNMAP);
	world_map(0, blocks[0], PAGE);
	world_map(PAGE, blocks[1], PAGE);
}

static void look_up(uint64_t addr, int *inside)
{
	void *host;
	char owner = 0;

	section_begin();
	host = gr_host(world.space, addr, 1, GR_READ);
	if (host)
		owner = hold(host);
	if (inside)
		*inside = 1;
	section_end(host, owner);
}

static void look_up_y(void)
{
	look_up(PAGE, NULL);
}

static void delete_x(void)
{
	succeed(gr_block_delete(blocks[0]));
}

/* --------------------------------------------------------------------------------------- drain */

static void delete_x_and_drain(void)
{
	delete_x();
	succeed(gr_ram_drain(world.ram, -1));
	check(world.cells[0].released, "drained, and X is not released");
}

static void delete_y_and_wait(void)
{
	succeed(gr_block_delete(blocks[1]));
	if (!succeed_or(-ETIMEDOUT, gr_ram_drain(world.ram, 5)))
		check(world.cells[1].released, "drained in time, and Y is not released");
}

static void prepare_drain(void)
{
	prepare_blocks(NULL);
	sched_thread('x', delete_x_and_drain);
	sched_thread('y', delete_y_and_wait);
	sched_thread('r', look_up_y);
}

const struct script script_drain_delete = {
	.name = "drain-delete",
	.what = "two deletes, a drain, a drain with a time-out, and a reader",
	.prepare = prepare_drain,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, NO_BROADCAST, NO_WAKE},
};

/* ------------------------------------------------------------------------------------ throttle */

static void make_waiting(void)
{
	struct gr_block *block;

	succeed(world_try_block('N', 2, PAGE, 0, &block));
}

static void make_without_waiting(void)
{
	struct gr_block *block;

	sched_point("new");
	succeed_or(-ENOBUFS, world_try_block('O', 3, PAGE, GR_NO_WAIT, &block));
}

static void prepare_throttle(void)
{
	static const struct gr_ram_opts opts = {.max_pending = PAGE - 1};

	prepare_blocks(&opts);
	sched_thread('d', delete_x);
	sched_thread('n', make_waiting);
	sched_thread('o', make_without_waiting);
}

const struct script script_throttle = {
	.name = "throttle",
	.what = "new blocks, one waiting and one not, while a delete is over max_pending",
	.prepare = prepare_throttle,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {NO_BROADCAST, NO_WAKE},
};

/* --------------------------------------------------------------------- the embedder's own lock */

static pthread_mutex_t big = PTHREAD_MUTEX_INITIALIZER;

static void change_under_lock(void)
{
	pthread_mutex_lock(&big);
	succeed(gr_space_unmap(world.space, 0, PAGE));
	delete_x();
	pthread_mutex_unlock(&big);
	pthread_mutex_lock(&big);
	succeed(gr_block_delete(blocks[1]));
	pthread_mutex_unlock(&big);
}

static void reclaim_under_lock(void)
{
	while (!world.cells[0].released || !world.cells[1].released) {
		sched_await_event(gr_ram_reclaim_fd(world.ram));
		pthread_mutex_lock(&big);
		gr_ram_reclaim(world.ram);
		pthread_mutex_unlock(&big);
	}
}

static void take_lock_in_section(void)
{
	void *host;
	char owner = 0;

	section_begin();
	host = gr_host(world.space, 0, 1, GR_READ);
	if (host)
		owner = hold(host);
	pthread_mutex_lock(&big);
	pthread_mutex_unlock(&big);
	section_end(host, owner);
}

static void prepare_embedder(void)
{
	static const struct gr_ram_opts opts = {.embedder_reclaim = 1};

	prepare_blocks(&opts);
	sched_thread('d', change_under_lock);
	sched_thread('e', reclaim_under_lock);
	sched_thread('r', take_lock_in_section);
}

const struct script script_embedder = {
	.name = "embedder",
	.what = "two deletes and their reclaim under the embedder's lock, which a reader takes in "
		"its "
		"section",
	.prepare = prepare_embedder,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, RECLAIM_WAITS, NO_WAKE},
};

/* ------------------------------------------------------------------------------- a RAM's close */

static struct gr_pin pin;
static int inside, unpinned;

static void look_up_before_close(void)
{
	look_up(PAGE, &inside);
}

static void unpin(void)
{
	void *host = pin.host;
	char owner = hold(host);

	sched_point("pinned");
	use(host, owner);
	drop(host);
	gr_unpin(&pin);
	unpinned = 1;
}

static void close_ram(void)
{
	sched_await(&inside); /* nobody enters the RAM while it closes */
	if (succeed_or(-EBUSY, gr_ram_close(world.ram)) < 0) {
		sched_await(&unpinned);
		succeed(gr_ram_close(world.ram));
	}
	world.closed = true;
	ledger_end(&ledger);
}

static void prepare_close(void)
{
	prepare_blocks(NULL);
	succeed(ledger_open(&ledger, 'l', 0));
	succeed(gr_block_pin(blocks[0], 0, PAGE, RW, &pin));
	delete_x(); /* its reclaim has begun */
	inside = 0;
	unpinned = 0;
	sched_thread('r', look_up_before_close);
	sched_thread('q', unpin);
	sched_thread('c', close_ram);
}

const struct script script_close = {
	.name = "close",
	.what = "a RAM's close against a late unpin, an open section, reclaim and its listener",
	.prepare = prepare_close,
	.judge = world_close,
	.quick = 2,
	.full = 3,
	.mutants = {NO_GRACE, UNWAITED_CLOSE, NO_BROADCAST},
};

/* ----------------------------------------------------------- a RAM's close while it is changed */

static void map_again(void)
{
	world_map(2 * PAGE, blocks[1], PAGE);
}

static void close_while_mapped(void)
{
	sched_await(&ledger.told);
	if (succeed_or(-EBUSY, gr_ram_close(world.ram)) == 0) {
		world.closed = true;
		ledger_end(&ledger);
	}
}

static void prepare_close_change(void)
{
	prepare_blocks(NULL);
	succeed(ledger_open(&ledger, 'l', 0));
	ledger.told = 0;
	sched_thread('n', map_again);
	sched_thread('c', close_while_mapped);
}

static void judge_close_change(void)
{
	if (!world.closed)
		ledger_close(&ledger);
	world_close();
}

const struct script script_close_change = {
	.name = "close-change",
	.what = "a RAM's close while a map is told to its listener",
	.prepare = prepare_close_change,
	.judge = judge_close_change,
	.quick = 2,
	.full = 5,
	.mutants = {UNCLAIMED_COMMIT},
};

/* --------------------------------------------------------- a RAM's close while it is looked at */

static int look_at_ram(void *context, struct gr_ram *ram)
{
	struct gr_ram_stats stats;

	gr_ram_get_stats(ram, &stats);
	sched_point("look");
	gr_ram_get_stats(ram, &stats);
	check(!world.closed, "a RAM is looked at whose close has returned");
	check(stats.spaces == 1, "a RAM of %llu spaces", (unsigned long long)stats.spaces);
	return 0;
}

static void look_at_all(void)
{
	gr__registry_each(look_at_ram, NULL);
}

static void close_while_looked_at(void)
{
	succeed(gr_ram_close(world.ram));
	world.closed = true;
}

static void prepare_look(void)
{
	prepare_blocks(NULL);
	sched_thread('l', look_at_all);
	sched_thread('k', look_at_all);
	sched_thread('c', close_while_looked_at);
}

static int find_closed(void *context, struct gr_ram *ram)
{
	check(false, "a RAM can be looked at that is closed");
	return 0;
}

/* At once: else the next run would come to what this one has left. */
static void judge_look(void)
{
	world_close();
	gr__registry_each(find_closed, NULL);
}

const struct script script_close_look = {
	.name = "close-look",
	.what = "a RAM's close while two threads look at all RAMs of the process",
	.prepare = prepare_look,
	.judge = judge_look,
	.quick = 2,
	.full = 3,
	.mutants = {UNWAITED_LOOK, NO_BROADCAST},
};

/* ---------------------------------------------------------------------------- threads that end */

static pthread_key_t late_key;

/* A destructor of the program, which reads after the library has unregistered the thread. */
static void read_late(void *unused)
{
	look_up(0, NULL);
}

static void end_inside(void)
{
	void *host;
	char owner;

	section_begin();
	host = gr_host(world.space, 0, 1, GR_READ);
	if (!host)
		return;
	owner = hold(host);
	sched_point("inside");
	use(host, owner);
	drop(host); /* the section is not left, but nothing of it is used any more */
}

static void end_outside(void)
{
	look_up(0, NULL);
	pthread_setspecific(late_key, &late_key);
}

static void prepare_exit(void)
{
	static bool made;

	if (!made)
		pthread_key_create(&late_key, read_late);
	made = true;
	prepare_blocks(NULL);
	sched_thread('i', end_inside);
	sched_thread('o', end_outside);
	sched_thread('d', delete_x_and_drain);
}

const struct script script_thread_exit = {
	.name = "thread-exit",
	.what = "threads end inside a section and after one, with a destructor that reads, against "
		"a delete",
	.prepare = prepare_exit,
	.judge = world_close,
	.ends = true,
	.quick = 2,
	.full = 3,
	.mutants = {NO_EXIT_KEY, NO_GRACE},
};
