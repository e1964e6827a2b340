/* SPDX-License-Identifier: MIT */
/*
 * When workers look and when they tell: a worker that may look at its rings before it sleeps takes
 * requests without a kick, stops looking when nothing comes, and what is done of a batch is told
 * before the rest.
 */
#include "frontend.h"
#include <errno.h>
#include <guestram/vhost.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(4) << 20)
#define POLL_NS (UINT64_C(100) * 1000000)
#define MANY 16 /* requests of one batch */

/* Completes what it gets; of a batch of MANY the last one when the others have been seen. */
struct device {
	sem_t seen;
	bool waited; /* in vain */
};

static char dir[64], path[96];
static struct device device;
static struct gr_vhost *server;
static struct fe fe;
static pthread_t runner;

static void handle(void *context, void *worker, struct gr_vhost_request *const *requests,
		   unsigned count)
{
	struct device *d = context;
	struct timespec end;

	(void)worker;
	for (unsigned i = 0; i < count; i++) {
		if (count == MANY && i == MANY - 1) {
			clock_gettime(CLOCK_REALTIME, &end);
			end.tv_sec += 5;
			d->waited = sem_timedwait(&d->seen, &end) != 0;
		}
		gr_vhost_complete(requests[i], 0);
	}
}

static const struct gr_vhost_ops ops = {.handle = handle};

static void *run(void *arg)
{
	(void)arg;
	gr_vhost_run(server);
	return NULL;
}

static void begin(uint64_t poll_ns)
{
	struct gr_vhost_opts opts = {
		.socket_path = path, .ops = &ops, .context = &device, .poll_ns = poll_ns};

	strcpy(dir, "/tmp/guestram-pace-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/socket", dir);
	device.waited = false;
	assert_int_equal(sem_init(&device.seen, 0, 0), 0);
	assert_int_equal(gr_vhost_open(&opts, &server), 0);
	assert_int_equal(pthread_create(&runner, NULL, run, NULL), 0);
	assert_int_equal(fe_open(&fe, path, RAM), 0);
	assert_int_equal(fe_start(&fe, 1, 64, FE_F_EVENT_IDX), 0);
}

static void end(void)
{
	fe_close(&fe);
	gr_vhost_stop(server);
	pthread_join(runner, NULL);
	assert_int_equal(gr_vhost_close(server), 0);
	sem_destroy(&device.seen);
	rmdir(dir);
}

static void put(unsigned count)
{
	const struct fe_buf buf = {FE_GPA + FE_DATA, 8, false};

	for (unsigned i = 0; i < count; i++)
		assert_int_equal(fe_submit(fe.queues, &buf, 1, i), 0);
}

/* Made available, and no kick. */
static void publish(void)
{
	__atomic_store_n(&fe.queues->avail->idx, fe.queues->avail_idx, __ATOMIC_RELEASE);
}

static double now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static bool comes_within(unsigned ms)
{
	double end = now_ms() + ms;

	do {
		if (fe_poll(fe.queues, NULL, NULL) == 1)
			return true;
		usleep(1000);
	} while (now_ms() < end);
	return false;
}

static void pause_ms(unsigned ms)
{
	usleep(ms * 1000);
}

/* Has the worker asked for a kick, as it does before it sleeps? */
static bool sleeps_within(unsigned ms)
{
	const struct fe_queue *q = fe.queues;
	const uint16_t *event = (const uint16_t *)&q->used->ring[q->num];
	double end = now_ms() + ms;

	do {
		/* what is seen too late, since others had our processor, counts as not seen */
		if (__atomic_load_n(event, __ATOMIC_RELAXED) == q->avail_idx)
			return now_ms() < end;
		usleep(1000);
	} while (now_ms() < end);
	return false;
}

/* It learns that requests come soon after one another. */
static void teach(void)
{
	for (unsigned i = 0; i < 40; i++) {
		put(1);
		fe_kick(fe.queues);
		assert_true(comes_within(5000));
		pause_ms(i / 2); /* longer than it looks for so far, shorter than it may */
	}
}

static void test_worker_sleeps_unless_asked(void **state)
{
	(void)state;
	begin(0);
	teach();
	assert_true(sleeps_within(5000));
	pause_ms(5);
	put(1);
	publish();
	assert_false(comes_within(100));
	fe_kick(fe.queues); /* from the index of before: it is wanted */
	assert_true(comes_within(5000));
	end();
}

static void test_worker_looks_before_it_sleeps(void **state)
{
	unsigned seen = 0;

	(void)state;
	begin(POLL_NS);
	teach();
	for (unsigned i = 0; i < 5; i++) {
		/* the machine may take our processor away for longer than that: of five, one is
		 * enough */
		put(1);
		fe_kick(fe.queues);
		assert_true(comes_within(5000));
		put(1);
		publish();
		seen += comes_within(50);
		fe_kick(fe.queues);
		while (fe.queues->last_used != fe.queues->avail_idx)
			assert_true(comes_within(5000));
	}
	assert_true(seen > 0);
	end();
}

static void test_worker_forgets_after_a_long_sleep(void **state)
{
	unsigned at_once = 0;

	(void)state;
	begin(POLL_NS);
	teach();
	for (unsigned i = 0; i < 5; i++) {
		assert_true(sleeps_within(5000));
		pause_ms(2 * POLL_NS / 1000000);
		put(1);
		fe_kick(fe.queues);
		assert_true(comes_within(5000));
		at_once += sleeps_within(POLL_NS / 1000000 / 2);
	}
	assert_true(at_once > 0);
	end();
}

static void test_part_of_batch_is_told(void **state)
{
	unsigned seen = 0;

	(void)state;
	begin(0);
	put(MANY);
	fe_kick(fe.queues);
	while (seen < 8) {
		assert_true(comes_within(10000));
		seen++;
	}
	sem_post(&device.seen);
	for (; seen < MANY; seen++)
		assert_true(comes_within(10000));
	end();
	assert_false(device.waited);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_worker_sleeps_unless_asked),
		cmocka_unit_test(test_worker_looks_before_it_sleeps),
		cmocka_unit_test(test_worker_forgets_after_a_long_sleep),
		cmocka_unit_test(test_part_of_batch_is_told),
	};

	alarm(100);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
