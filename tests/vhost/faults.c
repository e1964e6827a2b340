/* SPDX-License-Identifier: MIT */
/*
 * Each system call and allocation of a server fails once, at position 1, 2, 3 …, while it is opened
 * and while it serves a front-end. A server that cannot be opened leaves nothing behind; one that
 * fails a front-end serves the next.
 *
 * Threads: any of the server's may make the call that fails; this one arms it while they wait.
 */
#include "../fault/tally.h"
#include "frontend.h"
#include "os/hooks.h"
#include <dirent.h>
#include <errno.h>
#include <guestram/vhost.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(4) << 20)
#define WAIT_MS 2000 /* for an answer that a fault may have cost */

static char dir[64], path[96];
static struct gr_vhost *server;
static pthread_t runner;
static int workers;
/* atomic, relaxed: threads that are told nothing else by them */
static unsigned fail_at, calls;
static const char *failed; /* atomic: which call it was */

static _Thread_local unsigned my_calls;
static unsigned calls_of_requests; /* atomic, relaxed */

static int fail_one(const char *call)
{
	my_calls++;
	if (__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) !=
	    __atomic_load_n(&fail_at, __ATOMIC_RELAXED))
		return 0;
	__atomic_store_n(&failed, call, __ATOMIC_RELAXED);
	return ENOMEM;
}

static void arm(unsigned position)
{
	__atomic_store_n(&calls, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&failed, NULL, __ATOMIC_RELAXED);
	__atomic_store_n(&fail_at, position, __ATOMIC_RELAXED);
	/* release: pairs with the acquire in gr__fault() */
	__atomic_store_n(&gr__hook_fault, fail_one, __ATOMIC_RELEASE);
}

/* The call that failed; NULL: there were less than that many. */
static const char *disarm(void)
{
	__atomic_store_n(&gr__hook_fault, NULL, __ATOMIC_RELEASE);
	return __atomic_load_n(&failed, __ATOMIC_RELAXED);
}

static int worker_open(void *context, unsigned index, void **worker_context)
{
	workers++;
	return 0;
}

static void worker_close(void *context, void *worker_context)
{
	workers--;
}

static void handle(void *context, void *worker_context, struct gr_vhost_request *const *requests,
		   unsigned count)
{
	unsigned before = my_calls;
	char bytes[4];

	for (unsigned i = 0; i < count; i++) {
		int rc = requests[i]->error ? -1 : gr_vhost_pull(requests[i], bytes, 4);

		if (!rc)
			rc = gr_vhost_push(requests[i], "answer", 6);
		if (!rc)
			gr_vhost_wrote(requests[i], requests[i]->in[0].iov_base, 1);
		gr_vhost_complete(requests[i], rc < 0 ? 0 : 6);
	}
	__atomic_add_fetch(&calls_of_requests, my_calls - before, __ATOMIC_RELAXED);
}

static const struct gr_vhost_ops ops = {
	.worker_open = worker_open,
	.worker_close = worker_close,
	.handle = handle,
};

static const struct gr_vhost_opts opts = {
	.socket_path = path, .ops = &ops, .flags = GR_VHOST_SIGBUS, .queues = 2, .threads = 2};

/* Until gr_vhost_stop(): by gr_vhost_run(), or by a loop of our own. */
static void *run(void *unused)
{
	return (void *)(intptr_t)gr_vhost_run(server);
}

static bool loop_ends; /* atomic */

static void *loop(void *unused)
{
	struct pollfd ready = {.fd = gr_vhost_fd(server), .events = POLLIN};
	int rc = 0;

	while (!rc && !__atomic_load_n(&loop_ends, __ATOMIC_ACQUIRE)) {
		poll(&ready, 1, 10);
		rc = gr_vhost_process(server);
	}
	return (void *)(intptr_t)rc;
}

static void begin(void *(*how)(void *))
{
	assert_int_equal(gr_vhost_open(&opts, &server), 0);
	__atomic_store_n(&loop_ends, false, __ATOMIC_RELEASE);
	assert_int_equal(pthread_create(&runner, NULL, how, NULL), 0);
}

static void stop(void)
{
	void *rc;

	__atomic_store_n(&loop_ends, true, __ATOMIC_RELEASE);
	gr_vhost_stop(server);
	assert_int_equal(pthread_join(runner, &rc), 0);
	assert_null(rc);
}

static unsigned count_fds(void)
{
	DIR *fds = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(fds);
	while (readdir(fds))
		count++;
	closedir(fds);
	return count;
}

static int make_dir(void **state)
{
	strcpy(dir, "/tmp/guestram-vhost-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/device.sock", dir);
	/* what is made once in a process is made here */
	return gr_vhost_open(&opts, &server) || gr_vhost_close(server);
}

static int remove_dir(void **state)
{
	disarm(); /* of a test that failed */
	return rmdir(dir);
}

static void a_server_that_cannot_be_opened_leaves_nothing(void **state)
{
	const unsigned fds = count_fds();
	unsigned position = 1;

	for (;; position++) {
		const char *call;
		int rc;

		arm(position);
		rc = gr_vhost_open(&opts, &server);
		call = disarm();
		if (!rc && gr_vhost_close(server))
			fail();
		if (!call)
			break;
		tally_fault("gr_vhost_open", call);
		if (rc != -ENOMEM || workers || count_fds() != fds || !access(path, F_OK))
			fail_msg("call %u, %s, failed: result %d, %d workers, %u descriptors "
				 "of %u, path %s",
				 position, call, rc, workers, count_fds(), fds,
				 access(path, F_OK) ? "gone" : "there");
	}
	assert_in_range(position, 12, 1000);
	assert_int_equal(workers, 0);
	assert_int_equal(count_fds(), fds);
}

/* Buffers are not shared by queues, which may answer late. */
static int ask(struct fe_queue *q, uint64_t memory)
{
	const uint64_t gpa = memory + 4096 * q->index;
	const struct fe_buf bufs[2] = {{gpa, 16, false}, {gpa + 64, 16, true}};
	uint32_t written = 0;
	int rc = fe_submit(q, bufs, 2, 7);

	if (rc < 0)
		return rc;
	fe_kick(q);
	rc = fe_wait(q, WAIT_MS, NULL, &written);
	if (rc < 0)
		return rc;
	return rc == 1 && written == 6 ? 0 : -EIO;
}

/* A record of requests in flight for rings that are stopped meanwhile, and a log. */
static int share(struct fe *fe, int log)
{
	struct fe_inflight inflight;
	uint32_t bases[2] = {0};
	int fd = -1, rc = fe_get_inflight(fe, 2, 64, &inflight, &fd);

	for (unsigned i = 0; i < 2 && !rc; i++)
		rc = fe_queue_stop(&fe->queues[i], &bases[i]);
	if (!rc)
		rc = fe_set_inflight(fe, &inflight, fd);
	for (unsigned i = 0; i < 2 && !rc; i++)
		rc = fe_queue_tell(&fe->queues[i], bases[i]);
	if (!rc)
		rc = fe_set_log(fe, log, (FE_GPA + RAM) / 4096 / 8, 0);
	if (!rc)
		rc = fe_ack(fe, FE_SET_LOG_FD, NULL, 0, &fe->queues[0].err, 1);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* A guest moves in, by postcopy, and all its memory is there at once. */
static int move_in(struct fe *fe)
{
	uint64_t base;
	int uffd = -1, rc;

	rc = fe_negotiate(fe, ~UINT64_C(0), FE_P_PAGEFAULT | FE_P_REPLY_ACK);
	if (rc || !(fe->protocol & FE_P_PAGEFAULT))
		return rc;
	rc = fe_postcopy_advise(fe, &uffd);
	if (!rc)
		rc = fe_postcopy_listen(fe);
	if (!rc)
		rc = fe_postcopy_table(fe, &base);
	if (!rc)
		rc = fe_postcopy_ack(fe, FE_SET_MEM_TABLE);
	if (!rc)
		rc = fe_postcopy_end(fe);
	if (uffd >= 0)
		close(uffd);
	return rc;
}

/* All that a front-end does; 0, or the first thing that went wrong. */
static int converse(struct fe *fe, int more_memory)
{
	const struct fe_region region = {0x40000000, 1 << 20, 0x700000000000, 0};
	int rc = move_in(fe);

	if (rc)
		return rc;
	fe->protocol_more = FE_P_LOG_SHMFD | FE_P_INFLIGHT_SHMFD;
	rc = fe_start(fe, 2, 64, ~UINT64_C(0));
	if (!rc)
		rc = share(fe, more_memory);
	for (unsigned i = 0; i < 2 && !rc; i++)
		rc = ask(&fe->queues[i], FE_GPA + FE_DATA);
	if (!rc)
		rc = fe_add_region(fe, &region, more_memory);
	for (unsigned i = 0; i < 2 && !rc; i++)
		rc = ask(&fe->queues[i], region.gpa);
	if (!rc)
		rc = fe_remove_region(fe, &region, -1);
	if (!rc)
		rc = ask(&fe->queues[0], FE_GPA + FE_DATA);
	if (!rc) { /* a second table instead of the first */
		struct fe_table table = {.count = 2};
		int fds[2] = {fe->memfd, more_memory};

		table.regions[0] =
			(struct fe_region){FE_GPA, fe->size, (uint64_t)(uintptr_t)fe->mem, 0};
		table.regions[1] = region;
		rc = fe_ack(fe, FE_SET_MEM_TABLE, &table, 8 + 2 * sizeof(table.regions[0]), fds, 2);
	}
	if (!rc)
		rc = ask(&fe->queues[1], region.gpa);
	return rc;
}

/* Blocks that the server has: those of regions, and none that was forgotten. */
static uint64_t blocks(void)
{
	struct gr_ram_stats stats;

	gr_ram_get_stats(gr_vhost_ram(server), &stats);
	return stats.blocks;
}

static void fail_front_ends(void *(*how)(void *), const char *operations)
{
	const unsigned fds = count_fds();
	int more_memory = memfd_create("front-end", MFD_CLOEXEC);
	unsigned position = 1, hurt = 0;
	const char *call = "";
	struct fe fe;

	assert_int_equal(ftruncate(more_memory, 1 << 20), 0);
	for (; call; position++) {
		struct gr_vhost_stats stats;
		int first, second;

		begin(how);
		arm(position);
		first = fe_open(&fe, path, RAM);
		assert_int_equal(first, 0);
		first = converse(&fe, more_memory);
		call = disarm();
		assert_int_equal(fe_reconnect(&fe, path), 0);
		second = converse(&fe, more_memory);
		gr_vhost_get_stats(server, &stats);
		if (second || (first && !call) || stats.in_flight || blocks() != 2)
			fail_msg("call %u, %s, failed: result %d; then %d, %lu in flight, %lu "
				 "blocks",
				 position, call ? call : "none", first, second,
				 (unsigned long)stats.in_flight, (unsigned long)blocks());
		if (call)
			tally_fault(operations, call);
		hurt += first != 0;
		fe_close(&fe);
		stop();
		assert_int_equal(gr_vhost_close(server), 0);
		assert_int_equal(workers, 0);
	}
	close(more_memory);
	assert_int_equal(count_fds(), fds);
	print_message("           %u positions, %u of which a front-end noticed\n", position - 2,
		      hurt);
	assert_in_range(hurt, 10, position);
}

static void a_front_end_that_was_failed_is_followed_by_one_that_is_not(void **state)
{
	fail_front_ends(run, "gr_vhost_run");
}

static void the_same_in_a_loop_of_the_embedder(void **state)
{
	fail_front_ends(loop, "gr_vhost_process");
}

static bool is_connected(void)
{
	struct gr_vhost_stats stats;

	gr_vhost_get_stats(server, &stats);
	return stats.connected;
}

/* What a front-end leaves goes, whatever fails then; and so does the server. */
static void an_end_that_fails_leaves_nothing(void **state)
{
	const unsigned fds = count_fds();
	int more_memory = memfd_create("front-end", MFD_CLOEXEC);
	unsigned position = 1, refused = 0;
	const char *call = "", *closing = "";
	struct fe fe;

	assert_int_equal(ftruncate(more_memory, 1 << 20), 0);
	for (; call || closing; position++) {
		int rc, tries = 0;

		begin(run);
		assert_int_equal(fe_open(&fe, path, RAM), 0);
		assert_int_equal(converse(&fe, more_memory), 0);
		arm(position);
		close(fe.sock);
		fe.sock = -1;
		while (is_connected() && ++tries < 5000)
			poll(NULL, 0, 1);
		call = disarm();
		if (call)
			tally_fault("gr_vhost_run", call);
		assert_int_equal(fe_reconnect(&fe, path), 0);
		rc = converse(&fe, more_memory);
		if (rc || blocks() != 2)
			fail_msg("call %u, %s, failed: result %d, %lu blocks", position,
				 call ? call : "none", rc, (unsigned long)blocks());
		stop();
		arm(position);
		rc = gr_vhost_close(server);
		closing = disarm();
		refused += rc != 0;
		if (closing)
			tally_fault("gr_vhost_close", closing);
		if (rc && (!closing || gr_vhost_close(server)))
			fail_msg("call %u, %s, failed: result %d", position, closing, rc);
		fe_close(&fe);
		assert_int_equal(workers, 0);
		assert_int_equal(access(path, F_OK), -1);
	}
	close(more_memory);
	assert_int_equal(count_fds(), fds);
	assert_in_range(refused, 1, position);
}

/* What never waits makes no call that could fail. */
static void requests_and_questions_have_nothing_that_can_fail(void **state)
{
	struct gr_vhost_stats stats;

	assert_int_equal(__atomic_load_n(&calls_of_requests, __ATOMIC_RELAXED), 0);
	tally_nothing("gr_vhost_pull");
	tally_nothing("gr_vhost_push");
	tally_nothing("gr_vhost_wrote");
	tally_nothing("gr_vhost_complete");
	assert_int_equal(gr_vhost_open(&opts, &server), 0);
	my_calls = 0;
	arm(0);
	gr_vhost_get_stats(server, &stats);
	assert_non_null(gr_vhost_ram(server));
	assert_non_null(gr_vhost_gpa(server));
	assert_non_null(gr_vhost_uaddr(server));
	assert_true(gr_vhost_fd(server) >= 0);
	gr_vhost_stop(server);
	disarm();
	assert_int_equal(my_calls, 0);
	tally_nothing("gr_vhost_get_stats");
	tally_nothing("gr_vhost_ram");
	tally_nothing("gr_vhost_gpa");
	tally_nothing("gr_vhost_uaddr");
	tally_nothing("gr_vhost_fd");
	tally_nothing("gr_vhost_stop");
	assert_int_equal(gr_vhost_close(server), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_server_that_cannot_be_opened_leaves_nothing),
		cmocka_unit_test(a_front_end_that_was_failed_is_followed_by_one_that_is_not),
		cmocka_unit_test(the_same_in_a_loop_of_the_embedder),
		cmocka_unit_test(an_end_that_fails_leaves_nothing),
		cmocka_unit_test(requests_and_questions_have_nothing_that_can_fail),
	};

	return cmocka_run_group_tests_name("vhost-faults", tests, make_dir, remove_dir);
}
