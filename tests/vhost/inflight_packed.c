/* SPDX-License-Identifier: MIT */
/*
 * The record of requests in flight of packed rings: made by hand as a crash at each step would
 * leave it, and as nobody should send it.
 */
#include "backend.h"
#include "frontend.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(16) << 20)
#define NUM 16u
#define USED (1u << VRING_PACKED_DESC_F_USED)

/* As the vhost-user specification has it, for packed rings. */
struct desc_state {
	uint8_t inflight, padding;
	uint16_t next, last, num;
	uint64_t counter;
	uint16_t id, flags;
	uint32_t len;
	uint64_t addr;
};

struct queue_state {
	uint64_t features;
	uint16_t version, desc_num, free_head, old_free_head, used_idx, old_used_idx;
	uint8_t used_wrap_counter, old_used_wrap_counter, padding[7];
	struct desc_state desc[];
};

static struct be be;
static struct fe fe;
static struct fe_inflight inflight;
static int record_fd = -1;
static struct queue_state *record;
static unsigned record_num = NUM; /* entries, at least as many as the ring has */

static int start(void **state)
{
	if (be_start(&be, false, NULL) || fe_open(&fe, be.sock, RAM))
		return -1;
	fe.packed = true;
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
	return died ? -1 : be_stop(&be);
}

/*
 * A ring with @count requests that answer at once, published by the driver and not told to the
 * back-end; and a record in which nobody has taken them. @features: direct or indirect.
 */
static struct fe_queue *ring_of(unsigned count, uint64_t features)
{
	struct fe_queue *q;

	assert_int_equal(fe_negotiate(&fe, FE_F_EVENT_IDX | features,
				      FE_P_MQ | FE_P_REPLY_ACK | FE_P_CONFIG | FE_P_INFLIGHT_SHMFD),
			 0);
	assert_int_equal(fe_set_table(&fe), 0);
	assert_int_equal(fe_get_inflight(&fe, 1, record_num, &inflight, &record_fd), 0);
	assert_true(inflight.size >= sizeof(*record) + NUM * sizeof(record->desc[0]));
	record = mmap(NULL, inflight.size, PROT_READ | PROT_WRITE, MAP_SHARED, record_fd, 0);
	assert_ptr_not_equal(record, MAP_FAILED);
	assert_int_equal(fe_queues_start(&fe, 1, NUM), 0);
	q = &fe.queues[0];
	assert_int_equal(fe_queue_stop(q, NULL), 0);
	for (unsigned i = 0; i < count; i++) {
		struct fe_buf id = {FE_GPA + FE_DATA + 65536 + 64 * i, 20, true};

		assert_int_equal(
			fe_blk_submit(q, FE_DATA + 32 * i, VIRTIO_BLK_T_GET_ID, 0, &id, 1, i), 0);
	}
	fe_kick(q);
	record->version = 1;
	record->desc_num = (uint16_t)record_num;
	record->used_wrap_counter = record->old_used_wrap_counter = 1;
	for (unsigned i = 0; i < record_num; i++)
		record->desc[i].next = (uint16_t)(i + 1);
	return q;
}

/* The chain of @count descriptors from @at on was taken; of those only the record knows now. */
static void take(struct fe_queue *q, unsigned at, unsigned count, uint64_t counter)
{
	for (unsigned i = at; i < at + count; i++) {
		struct vring_packed_desc *desc = &fe_packed_desc(q)[i];
		struct desc_state *state = &record->desc[i];

		state->addr = desc->addr;
		state->len = desc->len;
		state->id = desc->id;
		state->flags = desc->flags;
		desc->addr = 0x10;
		desc->len = 1;
	}
	record->desc[at].inflight = 1;
	record->desc[at].counter = counter;
	record->desc[at].num = (uint16_t)count;
	record->desc[at].last = (uint16_t)(at + count - 1);
	record->free_head = record->old_free_head = (uint16_t)(at + count);
}

static void run(struct fe_queue *q)
{
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
	assert_int_equal(fe_queue_tell(q, 0), 0);
}

static void expect(struct fe_queue *q, const unsigned *order, unsigned count)
{
	unsigned left = 1;

	for (unsigned i = 0; i < count; i++) {
		uint64_t cookie = 99;

		assert_int_equal(fe_wait(q, FE_TIMEOUT_MS, &cookie, NULL), 1);
		assert_int_equal(cookie, order[i]);
		assert_int_equal(fe_blk_status(&fe, FE_DATA + 32 * cookie), VIRTIO_BLK_S_OK);
	}
	for (int tries = 0; left && tries < 1000; tries++) {
		left = 0;
		for (unsigned i = 0; i < NUM; i++)
			left += __atomic_load_n(&record->desc[i].inflight, __ATOMIC_ACQUIRE);
		left += record->used_idx != record->old_used_idx ||
			record->used_idx != q->avail_idx;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	assert_int_equal(left, 0);
	assert_int_equal(fe_poll(q, NULL, NULL), 0);
}

static void taken_again_by_age_then_the_rest(void **state)
{
	struct fe_queue *q = ring_of(5, FE_F_INDIRECT);

	take(q, 0, 1, 9);
	take(q, 1, 1, 4);
	take(q, 2, 1, 7);
	run(q);
	expect(q, (unsigned[]){1, 2, 0, 3, 4}, 5);
}

static void chains_of_several(void **state)
{
	struct fe_queue *q = ring_of(4, 0);

	take(q, 0, 3, 2);
	take(q, 3, 3, 1);
	run(q);
	expect(q, (unsigned[]){1, 0, 2, 3}, 4);
}

/* Request 0 was being given back. */
static void give_back(struct fe_queue *q)
{
	record->desc[2].next = record->free_head;
	record->free_head = 0;
	record->used_idx = 3;
	(void)q;
}

/* Died after the ring had it, and before the record said so. */
static void published_is_not_taken_again(void **state)
{
	struct fe_queue *q = ring_of(4, 0);

	take(q, 0, 3, 1);
	take(q, 3, 3, 2);
	give_back(q);
	fe.mem[FE_DATA + 16] = VIRTIO_BLK_S_OK;
	fe_packed_desc(q)[0].id = record->desc[0].id;
	__atomic_fetch_or(&fe_packed_desc(q)[0].flags, USED, __ATOMIC_RELEASE);
	run(q);
	expect(q, (unsigned[]){0, 1, 2, 3}, 4);
	/* nothing more came for the first: it would have been -EBADMSG */
}

static void not_published_is_taken_again(void **state)
{
	struct fe_queue *q = ring_of(4, 0);

	take(q, 0, 3, 1);
	take(q, 3, 3, 2);
	give_back(q);
	run(q);
	expect(q, (unsigned[]){0, 1, 2, 3}, 4);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
}

/* Died while it was being taken: it is where it was in the ring. */
static void half_taken_is_taken_once(void **state)
{
	struct fe_queue *q = ring_of(2, 0);
	struct vring_packed_desc saved[3];

	memcpy(saved, fe_packed_desc(q), sizeof(saved));
	take(q, 0, 3, 1);
	memcpy(fe_packed_desc(q), saved, sizeof(saved));
	record->old_free_head = 0;
	run(q);
	expect(q, (unsigned[]){0, 1}, 2);
}

static void records_that_are_none(void **state)
{
	struct fe_queue *q = ring_of(2, 0);
	unsigned seed = 5;

	for (unsigned round = 0; round < 300; round++) {
		uint8_t *bytes = (uint8_t *)record;
		long long broken = be_status(&be, "broken_queues");

		for (uint64_t i = 0; round >= 8 && i < inflight.size; i++)
			bytes[i] = (uint8_t)(rand_r(&seed) % (round % 2 ? 256 : 20));
		if (round < 8) {
			memset(record, 0, inflight.size);
			for (unsigned i = 0; i < NUM; i++)
				record->desc[i].next = (uint16_t)(i + 1);
			record->used_wrap_counter = record->old_used_wrap_counter = 1;
			take(q, 0, 3, 1);
		}
		record->features = round == 0;
		record->version = round == 1 ? 2 : 1;
		record->desc_num = round == 2 ? NUM + 1 : NUM;
		if (round == 3) /* free, and in flight */
			record->desc[NUM - 1].next = 1;
		if (round == 4) /* a free list that goes round */
			record->desc[NUM - 1].next = 4;
		if (round == 5) /* more than the ring has */
			record->desc[0].num = NUM + 1;
		if (round == 6) /* in neither list */
			record->old_free_head = 5;
		if (round == 7)
			record->used_idx = record->old_used_idx = NUM;
		assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
		assert_int_equal(fe_queue_tell(q, 0), 0);
		assert_int_equal(fe_queue_stop(q, NULL), 0);
		assert_true(be_alive(&be));
		if (round < 8 && be_status(&be, "broken_queues") != broken + 1)
			fail_msg("record %u was believed", round);
	}
	/* the ring is as good as ever with a record that is */
	memset(record, 0, inflight.size);
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
	assert_int_equal(fe_queue_setup(q, 0), 0);
	assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
}

/* Its lists are right, and have more descriptors than there are in the ring. */
static void a_record_of_more_than_the_ring(void **state)
{
	struct fe_queue *q;

	record_num = 2 * NUM;
	q = ring_of(5, 0);
	record_num = NUM;
	take(q, 0, 12, 1);
	for (unsigned i = 12; i < 20; i++)
		record->desc[i].flags = VRING_DESC_F_NEXT;
	record->desc[12] = (struct desc_state){.inflight = 1, .next = 13, .num = 8, .counter = 2};
	record->free_head = record->old_free_head = 20;
	run(q);
	assert_int_equal(fe_queue_stop(q, NULL), 0);
	assert_int_equal(be_status(&be, "broken_queues"), 1);
	assert_int_equal(be_status(&be, "in_flight"), 0);
	assert_int_equal(fe_blk_status(&fe, FE_DATA), 0xff); /* none of it was taken */
}

static void records_too_small_for_the_layout(void **state)
{
	ring_of(1, 0);
	inflight.size = 64 + NUM * 16; /* enough for a split ring */
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), -EREMOTEIO);
	inflight.size = sizeof(*record) + NUM * sizeof(record->desc[0]);
	inflight.size = (inflight.size + 63) & ~UINT64_C(63);
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
}

int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(taken_again_by_age_then_the_rest), TEST(chains_of_several),
		TEST(published_is_not_taken_again),	TEST(not_published_is_taken_again),
		TEST(half_taken_is_taken_once),		TEST(records_that_are_none),
		TEST(a_record_of_more_than_the_ring),	TEST(records_too_small_for_the_layout),
	};

	be_args(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
