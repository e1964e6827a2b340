/* SPDX-License-Identifier: MIT */
/*
 * How long a guest stands still while it moves: one that writes to pages of its memory at a steady
 * rate. What gr_migrate_stats.downtime_us says stands beside what the guest sees, which is the time
 * between its last write on one side and its first one on the other.
 *
 * Threads: the guest; the receiver; the main thread sends. They share `world`.
 */
#include "bench_migrate.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <guestram/mark.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define PAGES_IN_MIB 256

enum { NOWHERE = -1, OVER = -2 }; /* or the side's number */

struct pace {
	const char *how;
	unsigned writes_mib_s, link_mib_s, allowed_ms, goal_ms;
	unsigned flags;
};

struct world {
	struct bench_side *side[2];
	const struct pace *pace;
	struct bench_way way;
	int where;  /* atomic: the side on which the guest runs */
	int parked; /* atomic: it has seen that it does not */
	double last_here, first_there;
	struct gr_migrate_stats stats;
	int rc;
};

static int get(const int *value)
{
	return __atomic_load_n(value, __ATOMIC_SEQ_CST);
}

static void set(int *value, int to)
{
	__atomic_store_n(value, to, __ATOMIC_SEQ_CST);
}

/* As many pages as it should have written by now, in steps of half a millisecond. */
static void *run_guest(void *arg)
{
	struct world *world = arg;
	double begin = bench_now();
	uint64_t done = 0, pages = world->side[0]->length / PAGE / 4, due;

	for (;;) {
		int where;

		due = (uint64_t)((bench_now() - begin) / 1e9 * world->pace->writes_mib_s *
				 PAGES_IN_MIB);
		if (due > done + 64)
			done = due - 64; /* it stood still: that is not made up for */
		while (done < due || get(&world->where) < 0) {
			set(&world->parked, 0);
			where = get(&world->where);
			if (where >= 0) {
				char *host = world->side[where]->host + done++ * 97 % pages * PAGE;

				__atomic_fetch_add((uint64_t *)host, 1, __ATOMIC_RELAXED);
				gr_mark_host(host, 8);
				if (where)
					world->first_there = world->first_there ?: bench_now();
				else
					world->last_here = bench_now();
			}
			set(&world->parked, 1);
			if (where == OVER)
				return NULL;
			if (where == NOWHERE)
				usleep(50);
		}
		usleep(500);
	}
}

static int on_stop(void *context)
{
	struct world *world = context;

	set(&world->where, NOWHERE);
	while (!get(&world->parked))
		usleep(10);
	return 0;
}

static void on_resume(void *context)
{
	struct world *world = context;

	set(&world->where, 1);
}

static void *receive(void *arg)
{
	static const struct gr_migrate_ops ops = {.resume = on_resume};
	struct world *world = arg;
	const struct gr_migrate_opts opts = {
		.fds = world->way.to, .fd_count = 1, .ops = &ops, .context = world};

	world->rc = gr_migrate_receive(world->side[1]->ram, &opts, NULL);
	if (world->rc < 0)
		cli_fail_gr(world->rc, "bench migrate: downtime");
	return NULL;
}

static int move_once(struct world *world)
{
	static const struct gr_migrate_ops ops = {.stop = on_stop};
	const struct pace *pace = world->pace;
	const struct gr_migrate_opts opts = {
		.fds = world->way.from,
		.fd_count = 1,
		.flags = pace->flags,
		.max_bytes_per_second = pace->link_mib_s * MIB,
		.max_downtime_ms = pace->allowed_ms,
		.max_rounds = pace->flags & GR_MIGRATE_POSTCOPY ? 1 : 0,
		.ops = &ops,
		.context = world,
	};
	pthread_t receiver;
	int rc = pthread_create(&receiver, NULL, receive, world);

	if (rc)
		return cli_fail(rc, "bench migrate: a thread"), -rc;
	rc = gr_migrate_send(world->side[0]->ram, &opts, &world->stats);
	if (rc < 0) {
		cli_fail_gr(rc, "bench migrate: downtime");
		shutdown(world->way.from[0], SHUT_RDWR);
	}
	pthread_join(receiver, NULL);
	while (!rc && !world->rc && !world->first_there)
		usleep(100);
	return rc < 0 ? rc : world->rc;
}

static int move(struct world *world)
{
	pthread_t guest;
	int rc = bench_side_empty(world->side[1]), error;

	if (!rc)
		rc = bench_connect(&world->way);
	if (rc < 0)
		return rc;
	error = pthread_create(&guest, NULL, run_guest, world);
	if (error) {
		bench_hang_up(&world->way);
		return cli_fail(error, "bench migrate: a thread"), -error;
	}
	rc = move_once(world);
	set(&world->where, OVER);
	pthread_join(guest, NULL);
	bench_hang_up(&world->way);
	return rc;
}

static int one_pace(struct bench *bench, struct bench_side *from, struct bench_side *to,
		    const struct pace *pace)
{
	static double down[BENCH_REPETITIONS_MAX], seen[BENCH_REPETITIONS_MAX];
	static double rounds[BENCH_REPETITIONS_MAX];
	int n = pace->link_mib_s || bench->quick ? 3 : 15, r, rc = 0;
	bool postcopy = true;
	char name[96];

	out_progress("migrate: a guest stands still, %s", pace->how);
	for (r = 0; r < n && !rc; r++) {
		struct world world = {.side = {from, to},
				      .pace = pace,
				      .way = {.kind = BENCH_TCP, .channels = 1}};

		rc = move(&world);
		down[r] = (double)world.stats.downtime_us / 1e3;
		seen[r] = (world.first_there - world.last_here) / 1e6;
		rounds[r] = (double)world.stats.rounds;
		postcopy &= world.stats.postcopy;
	}
	if (rc < 0)
		return rc;
	bench_row(bench, json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:f}", "move", pace->how,
				   "writes_mib_s", (int)pace->writes_mib_s, "link_mib_s",
				   (int)pace->link_mib_s, "allowed_ms", (int)pace->allowed_ms,
				   "rounds", bench_median(rounds, n), "downtime_ms",
				   bench_median(down, n), "guest_sees_ms", bench_median(seen, n)));
	snprintf(name, sizeof(name), "downtime, ms, %s, link of %u MiB/s", pace->how,
		 pace->link_mib_s);
	if (pace->flags & GR_MIGRATE_POSTCOPY && !postcopy)
		bench_goal_missing(bench, name, AT_MOST, pace->goal_ms,
				   "it was not switched: see vm.unprivileged_userfaultfd");
	else
		bench_goal(bench, name, bench_median(down, n), AT_MOST, pace->goal_ms);
	return 0;
}

int bench_migrate_down(struct bench *bench, struct bench_side *from, struct bench_side *to)
{
	static const struct pace paces[] = {
		{"precopy", 100, 0, 30, 30, 0},
		{"precopy", 24, 96, 500, 500, 0}, /* as demo/live has QEMU do it */
		{"postcopy", 90, 96, 5, 50, GR_MIGRATE_POSTCOPY},
	};
	unsigned i;
	int rc = 0;

	for (i = 0; i < sizeof(paces) / sizeof(paces[0]) && !rc; i++)
		rc = one_pace(bench, from, to, &paces[i]);
	return rc;
}
