/* SPDX-License-Identifier: MIT */
/*
 * Requests in flight outlive the back-end: it is killed under load and started again, and each
 * request is answered exactly once, with the right bytes on the disk.
 */
#include "backend.h"
#include "frontend.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(16) << 20)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | 0xffffffu)
#define QUEUES 2
#define NUM 64u
#define KILLS 20

static struct be be;
static struct fe fe;
static struct fe_inflight inflight;
static int record_fd = -1;

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
	if (record_fd >= 0)
		close(record_fd);
	record_fd = -1;
	return died ? -1 : be_stop(&be);
}

struct slot {
	uint64_t version; /* on the disk, or on its way there */
	bool busy;
};

static uint64_t indirect = FE_F_INDIRECT;
static struct slot slots[QUEUES][NUM / 4];

static uint64_t data_of(unsigned queue, unsigned i)
{
	return FE_DATA + 65536 + (uint64_t)(queue * (NUM / 4) + i) * 8192;
}

static uint64_t sector_of(unsigned queue, unsigned i)
{
	return (uint64_t)(queue * (NUM / 4) + i) * 16;
}

static void fill(uint64_t offset, uint64_t seed)
{
	uint64_t *words = (uint64_t *)(void *)(fe.mem + offset);

	for (unsigned i = 0; i < 1024; i++)
		words[i] = seed * 0x9e3779b97f4a7c15 + i;
}

static bool is_filled(uint64_t offset, uint64_t seed)
{
	const uint64_t *words = (const uint64_t *)(const void *)(fe.mem + offset);

	for (unsigned i = 0; i < 1024; i++)
		if (words[i] != seed * 0x9e3779b97f4a7c15 + i)
			return false;
	return true;
}

static uint64_t seed_of(unsigned queue, unsigned i)
{
	return slots[queue][i].version << 16 | queue << 8 | i;
}

/* Write every slot that is idle, then take what has been answered. */
static unsigned turn(unsigned queue, bool submit)
{
	struct fe_queue *q = &fe.queues[queue];
	uint64_t cookie;
	unsigned done = 0;
	int rc;

	for (unsigned i = 0; submit && i < NUM / 4; i++) {
		struct fe_buf data = {FE_GPA + data_of(queue, i), 8192, false};

		if (slots[queue][i].busy)
			continue;
		slots[queue][i].busy = true;
		slots[queue][i].version++;
		fill(data_of(queue, i), seed_of(queue, i));
		assert_int_equal(fe_blk_submit(q, FE_DATA + 32 * (queue * NUM + i),
					       VIRTIO_BLK_T_OUT, sector_of(queue, i), &data, 1, i),
				 0);
	}
	fe_kick(q);
	while ((rc = fe_poll(q, &cookie, NULL)) == 1) {
		assert_true(cookie < NUM / 4 && slots[queue][cookie].busy);
		assert_int_equal(fe_blk_status(&fe, FE_DATA + 32 * (queue * NUM + cookie)),
				 VIRTIO_BLK_S_OK);
		slots[queue][cookie].busy = false;
		done++;
	}
	assert_int_equal(rc, 0); /* -EBADMSG: answered twice */
	return done;
}

static unsigned busy(void)
{
	unsigned count = 0;

	for (unsigned queue = 0; queue < QUEUES; queue++)
		for (unsigned i = 0; i < NUM / 4; i++)
			count += slots[queue][i].busy;
	return count;
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void killed_under_load_and_started_again(void **state)
{
	unsigned seed = 7, in_flight = 0;

	memset(slots, 0, sizeof(slots));
	assert_int_equal(fe_negotiate(&fe, ALL & (~FE_F_INDIRECT | indirect),
				      FE_P_MQ | FE_P_REPLY_ACK | FE_P_CONFIG | FE_P_MEM_SLOTS |
					      FE_P_INFLIGHT_SHMFD),
			 0);
	assert_int_equal(fe_set_table(&fe), 0);
	assert_int_equal(fe_get_inflight(&fe, QUEUES, NUM, &inflight, &record_fd), 0);
	assert_int_equal(fe_set_inflight(&fe, &inflight, record_fd), 0);
	assert_int_equal(fe_queues_start(&fe, QUEUES, NUM), 0);
	for (unsigned kill = 0; kill < KILLS; kill++) {
		uint64_t until = now_us() + 2000 + (uint64_t)rand_r(&seed) % 20000;

		while (now_us() < until)
			for (unsigned queue = 0; queue < QUEUES; queue++)
				turn(queue, true);
		be_kill(&be);
		in_flight += busy();
		assert_int_equal(be_start_again(&be), 0);
		assert_int_equal(fe_recover(&fe, be.sock, &inflight, record_fd), 0);
	}
	assert_true(in_flight > KILLS); /* it was under load */
	for (int tries = 0; busy() && tries < 5000; tries++) {
		for (unsigned queue = 0; queue < QUEUES; queue++)
			turn(queue, false);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	assert_int_equal(busy(), 0);
	for (unsigned queue = 0; queue < QUEUES; queue++) {
		for (unsigned i = 0; i < NUM / 4; i++) {
			uint64_t at = data_of(queue, i);

			memset(fe.mem + at, 0, 8192);
			assert_int_equal(fe_blk(&fe.queues[queue], VIRTIO_BLK_T_IN,
						sector_of(queue, i), at, 8192),
					 VIRTIO_BLK_S_OK);
			if (!is_filled(at, seed_of(queue, i)))
				fail_msg("queue %u, block %u: not what was written", queue, i);
		}
	}
}

/* Chains in the ring itself, so that the record has lists of several entries for packed rings. */
static void killed_with_direct_chains(void **state)
{
	indirect = 0;
	killed_under_load_and_started_again(state);
	indirect = FE_F_INDIRECT;
}

int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(killed_under_load_and_started_again),
		TEST(killed_with_direct_chains),
	};

	be_args(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
