/* SPDX-License-Identifier: MIT */
/*
 * What a process does once, when it first calls us: each call of it fails, in a process that is
 * fresh, and then the same call works.
 *
 * Threads: one in each process.
 */
#include "os/hooks.h"
#include "tally.h"
#include <errno.h>
#include <guestram.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* What a child tells: shared memory. */
static struct {
	char call[32]; /* that failed */
} * told;

static int position;

static int fail_one(const char *call)
{
	if (--position)
		return 0;
	strncpy(told->call, call, sizeof(told->call) - 1);
	return EAGAIN;
}

static void arm(int nth)
{
	position = nth;
	gr__hook_fault = fail_one;
}

static void disarm(void)
{
	gr__hook_fault = NULL;
}

/* 0: all is right; else the number of the step that was not. */
static int open_a_ram(int nth)
{
	struct gr_ram *ram = NULL;
	int rc;

	arm(nth);
	rc = gr_ram_open(NULL, &ram);
	disarm();
	if (rc < 0 && (ram || rc != -(told->call[0] ? EAGAIN : 0)) && rc != -ENOMEM)
		return 1;
	if (!rc && told->call[0] && gr_ram_close(ram))
		return 2;
	if ((rc || told->call[0]) && gr_ram_open(NULL, &ram))
		return 3;
	return gr_ram_close(ram) ? 4 : 0;
}

static void *read_and_end(void *unused)
{
	gr_read_begin();
	gr_read_end();
	return unused;
}

/* True when it ended. The next such thread has the same place in memory. */
static bool run_reader(void)
{
	pthread_t thread;

	return !pthread_create(&thread, NULL, read_and_end, NULL) && !pthread_join(thread, NULL);
}

/*
 * Without a key the section has nothing to keep; with one the thread is registered, and whatever
 * failed then, the thread is known no more when it has ended: one that were known twice would make
 * a ring of the list that a wait for readers goes through.
 */
static int read_first(int nth)
{
	struct gr_ram *ram;
	bool ended;

	arm(nth);
	ended = run_reader();
	disarm();
	if (!ended || !run_reader())
		return 4;
	if (gr_ram_open(NULL, &ram))
		return 1;
	gr_read_begin();
	if (gr_ram_drain(ram, 0) != -EDEADLK)
		return 2; /* it does not know that we read */
	gr_read_end();
	return gr_ram_close(ram) ? 3 : 0;
}

static int install(int nth)
{
	struct sigaction before, after;
	int rc;

	sigaction(SIGBUS, NULL, &before);
	arm(nth);
	rc = gr_sigbus_install();
	disarm();
	sigaction(SIGBUS, NULL, &after);
	if (!!rc != !!told->call[0] || (rc && after.sa_handler != before.sa_handler))
		return 1;
	if (gr_sigbus_install())
		return 2;
	sigaction(SIGBUS, NULL, &after);
	return after.sa_handler == before.sa_handler ? 3 : 0;
}

static void run_each(const char *operation, int (*run)(int nth), int at_least)
{
	int nth = 1;

	for (;; nth++) {
		int status;
		pid_t child;

		memset(told, 0, sizeof(*told));
		fflush(stdout);
		child = fork();
		assert_true(child >= 0);
		if (!child) {
			alarm(10);
			_exit(run(nth));
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		if (status)
			fail_msg("%s: call %d, %s, failed: step %d is wrong (status %#x)",
				 operation, nth, told->call[0] ? told->call : "none",
				 WEXITSTATUS(status), (unsigned)status);
		if (!told->call[0])
			break;
		tally_fault(operation, told->call);
	}
	assert_true(nth > at_least);
}

static void the_first_ram(void **state)
{
	run_each("gr_ram_open", open_a_ram, 4);
}

static void the_first_section(void **state)
{
	run_each("gr_read_begin gr_read_end gr__thread_register", read_first, 2);
}

static void the_handler(void **state)
{
	run_each("gr_sigbus_install", install, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_ram),
		cmocka_unit_test(the_first_section),
		cmocka_unit_test(the_handler),
	};

	told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (told == MAP_FAILED)
		return 2;
	return cmocka_run_group_tests_name("fault-first", tests, NULL, NULL);
}
