/* SPDX-License-Identifier: MIT */
/*
 * Every system call and allocation of both sides fails once, at position 1, 2, 3 …, until the guest
 * gets through. After each failure it is on one side, or the sender knows that it cannot tell; and
 * the same sides can try again.
 *
 * Threads: the failing call may be any thread's.
 */
#include "../fault/tally.h"
#include "os/hooks.h"
#include "pair.h"
#include <sys/socket.h>

static int position;	 /* atomic: counted down */
static int error;	 /* const while a call runs */
static const char *call; /* atomic: that failed */

static int fail_one(const char *name)
{
	if (__atomic_sub_fetch(&position, 1, __ATOMIC_SEQ_CST) != 0)
		return 0;
	__atomic_store_n(&call, name, __ATOMIC_SEQ_CST);
	return error;
}

static void run_faults(unsigned channels, unsigned flags, unsigned zstd, int with)
{
	unsigned failed = 0, moved_anyway = 0, fds;
	struct pair pair;
	bool through = false;

	pair_open(&pair, channels, PAIR_SOCKETS);
	side_hang_up(&pair.from);
	side_hang_up(&pair.to);
	fds = open_fds();
	error = with;
	for (int n = 1; !through; n++) {
		pair_connect(&pair, PAIR_SOCKETS);
		pair.from.opts.flags = flags;
		pair.from.opts.zstd_level = zstd;
		pair.from.opts.max_rounds = 1;
		if (flags & GR_MIGRATE_POSTCOPY) { /* something is left after the first round */
			pair.from.opts.max_downtime_ms = 1;
			pair.from.opts.max_bytes_per_second = 120 * MIB;
			if (n == 1) {
				pair.from.pause_us = 500;
				side_start_guest(&pair.from);
			}
		}
		set(&pair.from.running, 1);
		pair.to.running = 0;
		call = NULL;
		__atomic_store_n(&position, n, __ATOMIC_SEQ_CST);
		__atomic_store_n(&gr__hook_fault, fail_one, __ATOMIC_RELEASE);
		pair_run(&pair);
		__atomic_store_n(&gr__hook_fault, NULL, __ATOMIC_RELEASE);
		/* one that happened to converge had fewer calls */
		through = !call && (!(flags & GR_MIGRATE_POSTCOPY) || pair.from.stats.postcopy);
		if (get(&pair.from.running) && get(&pair.to.running))
			fail_msg("%s, call %d: it runs twice", call, n);
		if (pair.from.rc && call && pair.from.stats.guest == GR_GUEST_HERE &&
		    !get(&pair.from.running))
			fail_msg("%s, call %d: it was not resumed: %s", call, n, pair.from.why);
		assert_one_guest(&pair);
		if (through && (pair.from.rc || pair.to.rc))
			fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc,
				 pair.to.why);
		failed += pair.from.rc < 0;
		if (call)
			tally_fault("gr_migrate_send gr_migrate_receive gr_migrate_put_state",
				    call);
		moved_anyway += !pair.from.rc && !through;
		if (get(&pair.to.running) && !pair.to.rc && !(flags & GR_MIGRATE_POSTCOPY))
			assert_same_memory(&pair);
		side_hang_up(&pair.from);
		side_hang_up(&pair.to);
		if (open_fds() != fds)
			fail_msg("%s, call %d: %u descriptors, not %u", call, n, open_fds(), fds);
		if (pair.from.stats.guest == GR_GUEST_LOST ||
		    pair.to.stats.guest == GR_GUEST_LOST) {
			/* its memory is no good any more */
			set(&pair.to.running, 0);
			assert_ok(gr_ram_close(pair.to.ram));
			side_open_ram(&pair.to, LOW_BYTES);
			side_hang_up(&pair.to);
		}
	}
	print_message("%u channels, flags %u, error %d: %u failed, %u went on\n", channels, flags,
		      with, failed, moved_anyway);
	assert_true(failed > 20);
	pair_close(&pair);
}

static void precopy(void **unused)
{
	run_faults(1, 0, 0, ENOMEM);
}

static void two_channels_packed(void **unused)
{
	run_faults(2, 0, 1, EIO);
}

static void postcopy(void **unused)
{
	run_faults(2, GR_MIGRATE_POSTCOPY, 0, EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(precopy),
		cmocka_unit_test(two_channels_packed),
		cmocka_unit_test(postcopy),
	};

	testing_end_after(170);
	return cmocka_run_group_tests_name("migrate: every fault", tests, NULL, NULL);
}
