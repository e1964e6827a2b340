/* SPDX-License-Identifier: MIT */
/*
 * The server of pages, with monitors that are processes of their own: every way to shake hands,
 * each kind of memory, touches against discards, answers that race, monitors that die, sources that
 * fail; handshakes that are refused; each call failing.
 *
 * Threads: the server's, in this process; monitors have their own processes.
 */
#include "../fault/nth.h"
#include "../fault/tally.h"
#include "serving.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

static char order[80];

/* ------------------------------------------------------------------------------------ sessions */

static void every_way_to_shake_hands(void **unused)
{
	static const char *const names[] = {"at once", "split", "late", "long", "old"};
	struct serving serving;

	serving_init(&serving);
	serving_start(&serving);
	for (unsigned way = 0; way < COUNT_OF(names); way++) {
		struct monitor monitor = usual(&serving);

		monitor.way = (enum monitor_way)way;
		monitor.regions = way == MONITOR_LONG ? 16 : 1 + way;
		monitor.length = way == MONITOR_LATE ? 6 * MIB : SERVED_LENGTH;
		monitor.regions = way == MONITOR_LATE || way == MONITOR_OLD ? 2 : monitor.regions;
		monitor.blocking = way == MONITOR_OLD;
		run_one(&serving, &monitor, names[way]);
	}
	assert_true(wait_until(get(&serving.ended) == COUNT_OF(names)));
	assert_int_equal(stats_now(&serving).accepted, COUNT_OF(names));
	assert_int_equal(stats_now(&serving).refused, 0);
	assert_true(stats_now(&serving).pages.faults > 0);
	serving_end(&serving);
}

static const struct memory {
	const char *name;
	bool shared;
	uint64_t page_size;
} memories[] = {
	{"private", false, 4096},
	{"shared", true, 4096},
	{"huge", false, 2097152},
	{"huge shared", true, 2097152},
};

static void touches_against_discards(void **unused)
{
	struct gr_pager_server_stats stats;
	unsigned possible = 0;

	with_huge_pages(SERVED_HUGE_PAGES);
	for (unsigned i = 0; i < 2 * COUNT_OF(memories); i++) {
		const struct memory *memory = &memories[i / 2];
		struct monitor monitor;
		struct serving serving;

		serving_init(&serving);
		serving.source.delay_us = 100 * (i % 2);
		serving.opts.flags = i % 2 ? GR_PAGER_NO_PREFETCH : 0;
		serving_start(&serving);
		monitor = usual(&serving);
		monitor.page_size = memory->page_size;
		monitor.shared = memory->shared;
		monitor.discards = true;
		monitor.touchers = 3;
		possible += run_one(&serving, &monitor, memory->name);
		stats = stats_now(&serving);
		print_message("%s: %llu faults, %llu removed, %llu parked, %llu raced\n",
			      memory->name, (unsigned long long)stats.pages.faults,
			      (unsigned long long)stats.pages.removed,
			      (unsigned long long)stats.pages.parked,
			      (unsigned long long)stats.pages.raced);
		serving_end(&serving);
	}
	with_huge_pages(0);
	assert_true(possible >= 4);
}

/* P47: read(2) and write(2) into missing pages. */
static void faults_in_system_calls(void **unused)
{
	struct monitor monitor;
	struct serving serving;

	serving_init(&serving);
	serving.opts.flags = GR_PAGER_NO_PREFETCH;
	serving_start(&serving);
	monitor = usual(&serving);
	monitor.system_calls = true;
	run_one(&serving, &monitor, "system calls");
	serving_end(&serving);
}

static void many_sessions_at_once(void **unused)
{
	enum { MONITORS = 12 };
	struct monitor monitor;
	struct serving serving;
	pid_t pids[MONITORS];

	serving_init(&serving);
	serving.opts.max_buffers = MIB;
	serving_start(&serving);
	monitor = usual(&serving);
	monitor.length = 4 * MIB;
	for (unsigned i = 0; i < MONITORS; i++)
		pids[i] = monitor_start(&monitor, serving.path);
	for (unsigned i = 0; i < MONITORS; i++)
		assert_int_equal(monitor_wait(pids[i], LONG_MS), 0);
	assert_true(wait_until(get(&serving.ended) == MONITORS));
	assert_true(stats_now(&serving).pages.buffer_bytes_most <= MIB);
	assert_int_equal(stats_now(&serving).sessions, 0);
	serving_end(&serving);
}

/* Completed: registration is gone, and what is discarded then is the kernel's own affair. */
static void a_session_completes(void **unused)
{
	struct monitor monitor;
	struct serving serving;
	pid_t pid;

	serving_init(&serving);
	serving_start(&serving);
	monitor = usual(&serving);
	pid = start_staying(&serving, &monitor);
	assert_true(wait_until(get(&serving.complete) == 1));
	assert_int_equal(stats_now(&serving).pages.bytes_there, SERVED_LENGTH);
	assert_int_equal(stats_now(&serving).pages.faults, 0);
	serving_end(&serving); /* a complete one is not given up */
	assert_int_equal(get(&serving.given_up), 0);
	assert_int_equal(monitor_wait(pid, LONG_MS), 2);
}

/* ------------------------------------------------------------------------------------- ends */

static void a_monitor_dies_in_the_middle(void **unused)
{
	struct monitor monitor;
	struct serving serving;

	serving_init(&serving);
	serving.source.delay_us = 2000;
	serving_start(&serving);
	monitor = usual(&serving);
	monitor.stay_ms = -1;
	for (unsigned i = 0; i < 10; i++) {
		pid_t pid = monitor_start(&monitor, serving.path);

		assert_true(wait_until(get(&serving.begun) == (int)i + 1));
		sleep_us(i * 1000);
		kill_one(pid);
	}
	assert_true(wait_until(get(&serving.ended) == 10));
	assert_int_equal(stats_now(&serving).sessions, 0);
	monitor.stay_ms = 0;
	__atomic_store_n(&serving.source.delay_us, 0, __ATOMIC_RELAXED);
	run_one(&serving, &monitor, "the next");
	serving_end(&serving);
}

/* Closed under a monitor that misses pages: it hears of it, and so does who keeps watch. */
static void a_server_that_closes_gives_up(void **unused)
{
	struct monitor monitor;
	struct serving serving;
	pid_t pid;

	serving_init(&serving);
	serving.source.failing = EIO;
	serving_start(&serving);
	monitor = usual(&serving);
	pid = monitor_start(&monitor, serving.path);
	assert_true(wait_until(stats_now(&serving).pages.failed_reads > 2 &&
			       stats_now(&serving).pages.faults_waiting > 0));
	assert_int_equal(stats_now(&serving).pages.stalled, 1);
	serving_end(&serving);
	assert_int_equal(get(&serving.given_up), 1);
	assert_int_equal(monitor_wait(pid, LONG_MS), 2);
	assert_true(was_said(&serving, "Input/output error"));
}

static void a_failing_source_is_asked_again(void **unused)
{
	struct monitor monitor;
	struct serving serving;
	pid_t pid;

	serving_init(&serving);
	serving.source.failing = EIO;
	serving_start(&serving);
	monitor = usual(&serving);
	pid = monitor_start(&monitor, serving.path);
	assert_true(wait_until(stats_now(&serving).pages.failed_reads > 2));
	set(&serving.source.failing, 0);
	assert_int_equal(monitor_wait(pid, LONG_MS), 0);
	serving_end(&serving);
}

/* ----------------------------------------------------------------------------- working sets */

static void a_recorded_start_is_fetched_first(void **unused)
{
	struct monitor monitor;
	struct serving serving;
	uint64_t first, data = 0;
	pid_t pid;

	serving_init(&serving);
	serving.opts.record = order;
	serving_start(&serving);
	monitor = usual(&serving);
	monitor.touchers = 1;
	monitor.only = 600;
	run_one(&serving, &monitor, "recorded");
	assert_true(wait_until(get(&serving.ended) == 1));
	first = stats_now(&serving).pages.faults;
	assert_int_equal(stats_now(&serving).pages.prefetched, 0);
	serving_end(&serving);
	assert_int_equal(access(order, R_OK), 0);

	serving_init(&serving);
	serving.opts.prefetch = order;
	serving.opts.flags = GR_PAGER_NO_PREFETCH;
	serving_start(&serving);
	monitor = usual(&serving);
	for (uint64_t page = 0; page < 600; page++)
		data += pattern_is_zero(&serving.source, page * PAGE) ? 0 : PAGE;
	pid = start_staying(&serving, &monitor);
	assert_true(wait_until(stats_now(&serving).pages.prefetched >= data));
	sleep_us(100000);
	kill_one(pid);
	assert_true(wait_until(get(&serving.ended) == 1));
	print_message("%llu faults, then %llu bytes ahead\n", (unsigned long long)first,
		      (unsigned long long)stats_now(&serving).pages.prefetched);
	assert_int_equal(stats_now(&serving).pages.prefetched, data);
	serving_end(&serving);
	unlink(order);
}

/* --------------------------------------------------------------------------- kernel's answers */

static void answers_that_race(void **unused)
{
	static const struct {
		const char *call;
		int error, times;
	} answers[] = {
		{"uffdio.copy", EAGAIN, 200},	 {"uffdio.copy", ENOMEM, 50},
		{"uffdio.zeropage", EAGAIN, 50}, {"uffd.read", ENOMEM, 20},
		{"uffdio.wake", ENOMEM, 1},
	};

	for (unsigned i = 0; i < COUNT_OF(answers); i++) {
		struct monitor monitor;
		struct serving serving;
		int status, left;

		serving_init(&serving);
		serving.opts.flags = GR_PAGER_NO_PREFETCH;
		serving_start(&serving);
		monitor = usual(&serving);
		monitor.discards = true;
		fail_begin(answers[i].call, answers[i].error, answers[i].times);
		status = monitor_wait(monitor_start(&monitor, serving.path), LONG_MS);
		left = fail_end();
		/* the wake that fails is that of the handshake, and the session refused */
		assert_int_equal(status, strcmp(answers[i].call, "uffdio.wake") ? 0 : 2);
		assert_true(left < answers[i].times);
		tally_fault("gr_pager_server_run", answers[i].call);
		if (status)
			run_one(&serving, &monitor, "the next");
		serving_end(&serving);
	}
}

/* ------------------------------------------------------------------------------------ refusals */

static void bad_handshakes_are_refused(void **unused)
{
	static const struct {
		const char *json, *why;
	} bad[] = {
		{"{}", "no JSON array"},
		{"x", "no JSON array"},
		{"[]", "0 regions"},
		{"[1]", "no object"},
		{"[{]}", "handshake: byte"},
		{"[{\"size\": 4096}]", "no base_host_virt_addr"},
		{"[{\"base_host_virt_addr\": 4096}]", "no size"},
		{"[{\"base_host_virt_addr\": -4096, \"size\": 4096}]", "no number"},
		{"[{\"base_host_virt_addr\": \"4096\", \"size\": 4096}]", "no number"},
		{"[{\"base_host_virt_addr\": 4096.5, \"size\": 4096}]", "no number"},
		{"[{\"base_host_virt_addr\": 4096, \"size\": 0}]", "wrap, or none"},
		{"[{\"base_host_virt_addr\": 4097, \"size\": 4096}]", "whole pages"},
		{"[{\"base_host_virt_addr\": 4096, \"size\": 4096, \"offset\": 1}]", "whole pages"},
		{"[{\"base_host_virt_addr\": 4096, \"size\": 4096, \"page_size\": 3}]",
		 "pages of 3"},
		{"[{\"base_host_virt_addr\": 4096, \"size\": 4096, \"page_size_kib\": 4}]",
		 "pages of 4"},
		{"[{\"base_host_virt_addr\": 4096, \"size\": 4096, \"page_size\": 2097152}]",
		 "whole pages"},
		{"[{\"base_host_virt_addr\": 4096, \"size\": 16777216}]", "source's"},
		{"[{\"base_host_virt_addr\": 4096, \"size\": 4096, \"offset\": "
		 "9223372036854771712}]",
		 "source's"},
		{"[{\"base_host_virt_addr\": 9223372036854771712, \"size\": 9223372036854771712}]",
		 "source's"},
		{"[{\"base_host_virt_addr\": 8192, \"size\": 8192}, "
		 "{\"base_host_virt_addr\": 12288, \"size\": 4096}]",
		 "overlap"},
		{"[{\"base_host_virt_addr\": 9223372036854771712, \"size\": 4096}]", "userfaultfd"},
		{"[{\"base_host_virt_addr\": 99999999999999999999, \"size\": 4096}]", "byte"},
	};
	struct monitor monitor;
	struct serving serving;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	serving_init(&serving);
	serving.opts.handshake_ms = 300;
	serving_start(&serving);
	monitor = usual(&serving);
	monitor.touchers = 0;
	monitor.stay_ms = -1;
	for (unsigned i = 0; i < COUNT_OF(bad); i++) {
		forget_said(&serving);
		monitor.json = bad[i].json;
		assert_int_equal(monitor_wait(monitor_start(&monitor, serving.path), LONG_MS), 2);
		if (!wait_until(was_said(&serving, bad[i].why)))
			fail_msg("%s: not \"%s\" but \"%s\"", bad[i].json, bad[i].why,
				 serving.said);
	}
	/* not all in time */
	forget_said(&serving);
	monitor.json = "[{\"base_host_virt_addr\": 4096, ";
	assert_int_equal(monitor_wait(monitor_start(&monitor, serving.path), LONG_MS), 2);
	assert_true(wait_until(was_said(&serving, "no whole array after 300 ms")));
	/* what is no userfaultfd */
	forget_said(&serving);
	monitor.json = NULL;
	monitor.send_fd = null;
	assert_int_equal(monitor_wait(monitor_start(&monitor, serving.path), LONG_MS), 2);
	assert_true(wait_until(was_said(&serving, "no userfaultfd")));
	close(null);
	assert_int_equal(stats_now(&serving).refused, COUNT_OF(bad) + 2);
	assert_int_equal(stats_now(&serving).accepted, 0);

	/* and the server goes on */
	monitor = usual(&serving);
	run_one(&serving, &monitor, "the next");
	serving_end(&serving);
}

static void too_many_sessions_are_refused(void **unused)
{
	struct monitor monitor;
	struct serving serving;
	pid_t first;

	serving_init(&serving);
	serving.opts.max_sessions = 1;
	serving_start(&serving);
	monitor = usual(&serving);
	monitor.touchers = 0;
	monitor.stay_ms = -1;
	first = monitor_start(&monitor, serving.path);
	assert_true(wait_until(get(&serving.begun) == 1));
	assert_int_equal(monitor_wait(monitor_start(&monitor, serving.path), LONG_MS), 2);
	kill(first, SIGKILL);
	monitor_wait(first, LONG_MS);
	assert_true(wait_until(get(&serving.ended) == 1));
	monitor = usual(&serving);
	run_one(&serving, &monitor, "the next");
	serving_end(&serving);
}

static void what_cannot_be_opened_is_refused(void **unused)
{
	struct gr_pager_server *second;
	struct serving serving;

	serving_init(&serving);
	assert_error(gr_pager_server_open(NULL, &second), -EINVAL, "no options");
	serving.opts.flags = 1u << 31;
	assert_error(gr_pager_server_open(&serving.opts, &second), -EINVAL, "flags");
	serving.opts.flags = 0;
	serving.opts.block = "b3";
	assert_error(gr_pager_server_open(&serving.opts, &second), -ENOENT, "b3");
	serving.opts.block = "b0";
	serving.opts.prefetch = "/nowhere";
	assert_error(gr_pager_server_open(&serving.opts, &second), -ENOENT, "/nowhere");
	serving.opts.prefetch = NULL;
	serving_start(&serving);
	assert_error(gr_pager_server_open(&serving.opts, &second), -EADDRINUSE, serving.path);
	serving_end(&serving);
	assert_ok(gr_pager_server_close(NULL));
}

/* --------------------------------------------------------------------------------- every fault */

static void every_call_fails(void **unused)
{
	unsigned fds = open_fds(), refused = 0, failures = 0;
	bool through = false;

	for (int nth = 1; !through; nth++) {
		struct monitor monitor;
		struct serving serving;
		const char *call;
		int status = 0, rc;
		pid_t pid;

		serving_init(&serving);
		monitor = usual(&serving);
		monitor.length = 512 * KIB;
		monitor.touchers = 1;
		pid = monitor_start(&monitor, serving.path);
		arm(nth);
		rc = gr_pager_server_open(&serving.opts, &serving.server);
		if (rc < 0) {
			call = disarm();
			assert_non_null(call);
			tally_fault("gr_pager_server_open", call);
			refused++;
			kill(pid, SIGKILL);
			monitor_wait(pid, LONG_MS);
			assert_int_equal(open_fds(), fds);
			assert_int_equal(access(serving.path, F_OK), -1);
			continue;
		}
		serving_run(&serving);
		if (wait_until(get(&serving.rc) || stats_now(&serving).accepted ||
			       stats_now(&serving).refused || was_said(&serving, "accept")) &&
		    get(&serving.rc) == 0)
			status = monitor_wait(pid, LONG_MS);
		call = disarm();
		if (get(&serving.rc)) {
			kill(pid, SIGKILL);
			monitor_wait(pid, LONG_MS);
		} else if (status != 0 && status != 2) {
			fail_msg("%s, call %d: %d", call, nth, status);
		}
		through = !call;
		if (through && status)
			fail_msg("it does not get through: %d", status);
		if (call) {
			tally_fault("gr_pager_server_run", call);
			failures++;
		}
		gr_pager_server_stop(serving.server);
		thread_join(serving.thread);
		assert_ok(gr_pager_server_close(serving.server));
		assert_int_equal(open_fds(), fds);
	}
	print_message("%u refused, %u went on or refused a monitor\n", refused, failures);
	assert_true(refused >= 10);
	assert_true(failures >= 15);
	tally_nothing("gr_pager_server_get_stats");
	tally_nothing("gr_pager_server_stop");
}

/* The record cannot be written: the close says so. */
static void a_record_that_fails_is_told(void **unused)
{
	struct monitor monitor;
	struct serving serving;

	serving_init(&serving);
	serving.opts.record = "/nowhere/at/all";
	serving_start(&serving);
	monitor = usual(&serving);
	run_one(&serving, &monitor, "recorded");
	assert_true(wait_until(get(&serving.ended) == 1));
	gr_pager_server_stop(serving.server);
	thread_join(serving.thread);
	assert_error(gr_pager_server_close(serving.server), -ENOENT, "record");
	tally_fault("gr_pager_server_close", "open");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_way_to_shake_hands),
		cmocka_unit_test(touches_against_discards),
		cmocka_unit_test(faults_in_system_calls),
		cmocka_unit_test(many_sessions_at_once),
		cmocka_unit_test(a_session_completes),
		cmocka_unit_test(a_monitor_dies_in_the_middle),
		cmocka_unit_test(a_server_that_closes_gives_up),
		cmocka_unit_test(a_failing_source_is_asked_again),
		cmocka_unit_test(a_recorded_start_is_fetched_first),
		cmocka_unit_test(answers_that_race),
		cmocka_unit_test(bad_handshakes_are_refused),
		cmocka_unit_test(too_many_sessions_are_refused),
		cmocka_unit_test(what_cannot_be_opened_is_refused),
		cmocka_unit_test(every_call_fails),
		cmocka_unit_test(a_record_that_fails_is_told),
	};

	monitor_main(argc, argv);
	snprintf(order, sizeof(order), "/tmp/guestram-pager-%d.order", (int)getpid());
	alarm(170);
	return cmocka_run_group_tests_name("pager's server", tests, NULL, NULL);
}
