/* SPDX-License-Identifier: MIT */
/*
 * What the server writes into guest memory is marked: for clients of <guestram/dirty.h> in this
 * process, exactly; and in a front-end's log, which stays mapped as long as somebody marks in it.
 */
#include "inverter.h"
#include "stop.h"
#include <guestram/dirty.h>

#define LOG_SIZE ((FE_GPA + RAM) / PAGE / 8)
#define FEATURES (FE_F_EVENT_IDX | FE_F_INDIRECT)

static struct gr_block *find_block(void)
{
	struct gr_range range;

	gr_read_begin();
	assert_ok(gr_space_find(gr_vhost_gpa(server), FE_GPA, &range));
	gr_read_end();
	return range.block; /* which stays: nobody changes the table */
}

/* Which pages of RAM are dirty, each as a number, and no more of them than there is room for. */
static unsigned harvest(struct gr_dirty *client, uint64_t *pages, unsigned room)
{
	struct gr_harvest *got;
	uint64_t offset, length;
	unsigned count = 0;

	assert_ok(gr_dirty_harvest(client, find_block(), 0, 0, &got));
	while (gr_harvest_next(got, &offset, &length))
		for (uint64_t at = 0; at < length; at += PAGE, count++)
			if (count < room)
				pages[count] = (offset + at) / PAGE;
	gr_harvest_commit(got);
	return count;
}

static void a_client_sees_what_the_server_writes(void **state)
{
	const struct gr_dirty_opts opts = {.name = "test"};
	struct gr_dirty *client;
	uint64_t pages[4];

	assert_int_equal(fe_start(&fe, 1, 64, FEATURES), 0);
	assert_ok(gr_dirty_open(gr_vhost_ram(server), &opts, &client));
	/* the answers to request 0 and 40 lie in the first two pages of data */
	for (unsigned i = 0; i <= 40; i += 40) {
		assert_int_equal(submit(&fe.queues[0], i), 0);
		sleep_us(5000); /* the worker sleeps: its wish for kicks was stored */
		harvest(client, pages, 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		sleep_us(5000);
		assert_int_equal(harvest(client, pages, COUNT_OF(pages)), 2);
		assert_int_equal(pages[0], ((uint8_t *)fe.queues[0].used - fe.mem) / PAGE);
		assert_int_equal(pages[1], FE_DATA / PAGE + i / 32);
	}
	assert_int_equal(harvest(client, pages, 0), 0);
	assert_ok(gr_dirty_close(client));
}

static int answered;

static void *set_log(void *arg)
{
	int rc = fe_set_log(&fe, *(int *)arg, LOG_SIZE, 0);

	set(&answered, 1);
	return (void *)(intptr_t)rc;
}

/* SET_LOG_BASE is answered, and the old log unmapped, when nobody marks in it any more. */
static void a_log_stays_while_somebody_marks_in_it(void **state)
{
	int fds[2];
	pthread_t thread;
	uint8_t *log;
	void *rc;

	for (unsigned i = 0; i < 2; i++) {
		fds[i] = memfd_create("front-end", MFD_CLOEXEC);
		assert_int_equal(ftruncate(fds[i], LOG_SIZE), 0);
	}
	log = mmap(NULL, LOG_SIZE, PROT_READ, MAP_SHARED, fds[0], 0);
	assert_ptr_not_equal(log, MAP_FAILED);
	fe.protocol_more = FE_P_LOG_SHMFD;
	assert_int_equal(fe_start(&fe, 1, 64, FEATURES | FE_F_LOG_ALL), 0);
	assert_int_equal(fe_set_log(&fe, fds[0], LOG_SIZE, 0), 0);
	assert_int_equal(submit(&fe.queues[0], 0), 0);
	set(&answered, 0);
	gr__hook_point = stop_at;
	arm("log.mark");
	fe_kick(&fe.queues[0]);
	assert_true(gate_wait(&arrived));
	assert_int_equal(pthread_create(&thread, NULL, set_log, &fds[1]), 0);
	sleep_us(50000);
	assert_int_equal(get(&answered), 0);
	gate_open(&go_on);
	pthread_join(thread, &rc);
	gr__hook_point = NULL;
	assert_null(rc);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_inverted(0);
	/* the worker was in time for the log that it had */
	assert_true(log[(FE_GPA + FE_DATA) / PAGE / 8] & 1u << (FE_GPA + FE_DATA) / PAGE % 8);
	assert_int_equal(stuck, 0);
	munmap(log, LOG_SIZE);
	for (unsigned i = 0; i < 2; i++)
		close(fds[i]);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start_server, stop_server)
	const struct CMUnitTest tests[] = {
		TEST(a_client_sees_what_the_server_writes),
		TEST(a_log_stays_while_somebody_marks_in_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
