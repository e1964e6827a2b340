/* SPDX-License-Identifier: MIT */
/*
 * The record of requests in flight, of split rings: of all sorts, made by hand as a crash at each
 * step would leave them, and as nobody should send them.
 */
#include "backend.h"
#include "frontend.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(16) << 20)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | 0xffffffu)
#define QUEUES 2
#define NUM 64u

/* As the vhost-user specification has it, for split rings. */
struct head_state {
	uint8_t inflight, padding[5];
	uint16_t next;
	uint64_t counter;
};

struct queue_state {
	uint64_t features;
	uint16_t version, desc_num, last_batch_head, used_idx;
	struct head_state desc[];
};

static struct be be;
static struct fe fe;
static struct fe_inflight inflight;
static int record_fd = -1;
static uint8_t *record;

static int start(void **state)
{
	if (be_start(&be, false, NULL) || fe_open(&fe, be.sock, RAM))
		return -1;
	fe.protocol_more = FE_P_INFLIGHT_SHMFD;
	return 0;
}

static int stop(void **state)
{
	bool died = !be_alive(&be);

	fe_close(&fe);
	if (record)
		munmap(record, inflight.size);
	if (record_fd >= 0)
		close(record_fd);
	record = NULL;
	record_fd = -1;
	if (!died)
		return be_stop(&be);
	print_error("the back-end died\n");
	return -1;
}

/* Negotiate, and get a record, which is all zero. */
static void begin(unsigned queues)
{
	assert_int_equal(fe_negotiate(&fe, ALL,
				      FE_P_MQ | FE_P_REPLY_ACK | FE_P_CONFIG | FE_P_MEM_SLOTS |
					      FE_P_INFLIGHT_SHMFD),
			 0);
	assert_true(fe.protocol & FE_P_INFLIGHT_SHMFD);
	assert_int_equal(fe_set_table(&fe), 0);
	assert_int_equal(fe_get_inflight(&fe, queues, NUM, &inflight, &record_fd), 0);
	assert_int_equal(inflight.queues, queues);
	assert_int_equal(inflight.queue_size, NUM);
	assert_true(inflight.size >=
		    queues * (sizeof(struct queue_state) + NUM * sizeof(struct head_state)));
	record = mmap(NULL, inflight.size, PROT_READ | PROT_WRITE, MAP_SHARED, record_fd, 0);
	assert_ptr_not_equal(record, MAP_FAILED);
	for (uint64_t i = 0; i < inflight.size; i++)
		assert_int_equal(record[i], 0);
}

static struct queue_state *state_of(unsigned queue)
{
	return (struct queue_state *)(void *)(record + queue * (inflight.size / inflight.queues));
}

static void nothing_is_in_flight(unsigned queue)
{
	struct queue_state *s = state_of(queue);

	for (int tries = 0; tries < 1000; tries++) {
		unsigned count = 0;

		for (unsigned i = 0; i < NUM; i++)
			count += __atomic_load_n(&s->desc[i].inflight, __ATOMIC_ACQUIRE);
		if (!count && s->used_idx == fe.queues[queue].used->idx)
			return;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	fail_msg("queue %u has requests in flight, or another used index", queue);
}

static void record_follows_the_ring(void **state)
{
	begin(QUEUES);
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
	assert_int_equal(fe_queues_start(&fe, QUEUES, NUM), 0);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(fe_blk(&fe.queues[1], VIRTIO_BLK_T_IN, 0, FE_DATA, 4096),
				 VIRTIO_BLK_S_OK);
	assert_int_equal(state_of(1)->version, 1);
	assert_int_equal(state_of(1)->desc_num, NUM);
	nothing_is_in_flight(1);
	/* each was taken in its turn */
	assert_int_equal(state_of(1)->desc[0].counter, 9);
	/* not while a ring runs */
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), -EREMOTEIO);
}

/* ------------------------------------------------------------------------------ records by hand */

/*
 * A ring of @count requests that answer at once, all of them published by the driver; none is taken
 * yet, since the ring is not told to the back-end.
 */
static struct fe_queue *ring_of(unsigned count)
{
	struct fe_queue *q;
	uint32_t base;

	begin(1);
	assert_int_equal(fe_queues_start(&fe, 1, NUM), 0);
	q = &fe.queues[0];
	assert_int_equal(fe_queue_stop(q, &base), 0);
	for (unsigned i = 0; i < count; i++) {
		struct fe_buf id = {FE_GPA + FE_DATA + 65536 + 64 * i, 20, true};

		assert_int_equal(
			fe_blk_submit(q, FE_DATA + 32 * i, VIRTIO_BLK_T_GET_ID, 0, &id, 1, i), 0);
	}
	fe_kick(q);
	state_of(0)->version = 1;
	state_of(0)->desc_num = NUM;
	return q;
}

static void run_with_record(struct fe_queue *q)
{
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
	assert_int_equal(fe_queue_tell(q, 0), 0);
}

static void expect(struct fe_queue *q, const unsigned *order, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint64_t cookie = 99;

		assert_int_equal(fe_wait(q, FE_TIMEOUT_MS, &cookie, NULL), 1);
		assert_int_equal(cookie, order[i]);
	}
	nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	assert_int_equal(fe_poll(q, NULL, NULL), 0);
	nothing_is_in_flight(0);
}

/* Heads are numbered as they were submitted; indirect, so that each is one descriptor. */
static void taken_again_by_age_then_the_rest(void **state)
{
	struct fe_queue *q = ring_of(5);
	struct queue_state *s = state_of(0);

	s->desc[0] = (struct head_state){.inflight = 1, .counter = 9};
	s->desc[1] = (struct head_state){.inflight = 1, .counter = 4};
	s->desc[2] = (struct head_state){.inflight = 1, .counter = 7};
	run_with_record(q);
	expect(q, (unsigned[]){1, 2, 0, 3, 4}, 5);
}

/* Died after the used index was published, and before the record said so. */
static void published_batch_is_not_taken_again(void **state)
{
	struct fe_queue *q = ring_of(5);
	struct queue_state *s = state_of(0);

	for (unsigned i = 0; i < 3; i++)
		s->desc[i] = (struct head_state){.inflight = 1, .counter = i};
	q->used->ring[0].id = 2;
	q->used->ring[1].id = 0;
	s->desc[2].next = 31; /* of an older batch */
	s->desc[0].next = 2;
	s->last_batch_head = 0;
	__atomic_store_n(&q->used->idx, 2, __ATOMIC_RELEASE);
	assert_int_equal(fe_poll(q, NULL, NULL), 1);
	assert_int_equal(fe_poll(q, NULL, NULL), 1);
	run_with_record(q);
	expect(q, (unsigned[]){1, 3, 4}, 3);
}

/* Died after the batch was listed, and before it was published: it is taken again. */
static void listed_batch_is_taken_again(void **state)
{
	struct fe_queue *q = ring_of(3);
	struct queue_state *s = state_of(0);

	for (unsigned i = 0; i < 2; i++)
		s->desc[i] = (struct head_state){.inflight = 1, .counter = i, .next = 1};
	s->last_batch_head = 0;
	run_with_record(q);
	expect(q, (unsigned[]){0, 1, 2}, 3);
}

static void hostile_records(void **state)
{
	unsigned seed = 3;
	struct fe_queue *q = ring_of(8);

	for (unsigned round = 0; round < 200; round++) {
		struct queue_state *s = state_of(0);

		for (uint64_t i = 0; i < inflight.size; i++)
			record[i] = (uint8_t)rand_r(&seed);
		s->features = round % 4 == 3;
		s->version = (uint16_t)(round % 3);
		s->desc_num = round % 5 ? NUM : (uint16_t)rand_r(&seed);
		assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
		assert_int_equal(fe_queue_tell(q, 0), 0);
		assert_int_equal(fe_queue_stop(q, NULL), 0);
		assert_true(be_alive(&be));
	}
	/* the ring is as good as ever with a record that is */
	memset(record, 0, inflight.size);
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
	assert_int_equal(fe_queue_setup(q, 0), 0);
	assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
}

static void records_that_are_refused(void **state)
{
	struct fe_inflight bad;
	int fds;

	begin(QUEUES);
	assert_int_equal(fe_set_table(&fe), 0); /* by now the record's descriptor is closed */
	assert_int_equal(be_wait_reclaimed(&be), 0);
	fds = be_fds(&be);
	for (unsigned i = 0; i < 9; i++) {
		bad = inflight;
		if (i == 0)
			bad.queues = 0;
		if (i == 1)
			bad.queues = BE_QUEUES + 1;
		if (i == 2)
			bad.queue_size = 0;
		if (i == 3)
			bad.queue_size = 2048;
		if (i == 4)
			bad.size = inflight.size - 64;
		if (i == 5)
			bad.offset = UINT64_MAX - 63;
		if (i == 6)
			bad.offset = 64;
		if (i == 7)
			bad.offset = 4;
		if (i == 8)
			bad.size = UINT64_MAX;
		assert_int_equal(fe_set_inflight(&fe, &bad, record_fd), -EREMOTEIO);
	}
	assert_int_equal(fe_set_inflight(&fe, &inflight, fe.sock), -EREMOTEIO);
	assert_int_equal(be_fds(&be), fds);
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
	/* a ring with more entries than the record has is not run */
	assert_int_equal(fe_queues_start(&fe, 1, 2 * NUM), 0);
	assert_int_equal(fe_blk_submit(&fe.queues[0], FE_DATA, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, 0),
			 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], 50, NULL, NULL), -ETIMEDOUT);
	assert_true(be_status(&be, "broken_queues") > 0);
}

int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(record_follows_the_ring),
		TEST(taken_again_by_age_then_the_rest),
		TEST(published_batch_is_not_taken_again),
		TEST(listed_batch_is_taken_again),
		TEST(hostile_records),
		TEST(records_that_are_refused),
	};

	be_args(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
