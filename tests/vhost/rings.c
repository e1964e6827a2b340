/* SPDX-License-Identifier: MIT */
/*
 * A hostile guest: rings and chains that break the rules. What breaks the ring's rules stops the
 * queue and signals its error descriptor; what only names memory that is not there is an error of
 * that request. Other queues go on, and the queue works again once it is set up anew.
 */
#include "backend.h"
#include "frontend.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(16) << 20)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | 0xffffffu)
#define NUM 64
#define META (FE_DATA - 8192)
#define TABLE (FE_DATA - 65536) /* an indirect table of a test's own */
#define NEXT VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

static struct be be;
static struct fe fe;

static int start(void **state)
{
	return be_start(&be, false, NULL) || fe_open(&fe, be.sock, RAM) ||
	       fe_start(&fe, 2, NUM, ALL);
}

static int stop(void **state)
{
	bool died = !be_alive(&be);

	fe_close(&fe);
	if (died) {
		char *log = be_read_log(&be);

		print_error("the back-end died:\n%s\n", log);
		free(log);
		return -1;
	}
	return be_stop(&be);
}

static void header(uint32_t type)
{
	struct virtio_blk_outhdr h = {.type = type};

	memcpy(fe.mem + META, &h, sizeof(h));
	fe.mem[META + 16] = 0xff;
}

/* Make @head available to queue 0, whatever it is. */
static void offer(uint16_t head)
{
	struct fe_queue *q = &fe.queues[0];

	q->avail->ring[q->avail_idx++ % q->num] = head;
	fe_kick(q);
}

static bool err_signalled(int timeout_ms)
{
	struct pollfd wait = {.fd = fe.queues[0].err, .events = POLLIN};

	return poll(&wait, 1, timeout_ms) == 1;
}

/* Stop queue 0 and set it up anew: it works. */
static void revive(const char *what)
{
	struct fe_queue *q = &fe.queues[0];
	uint64_t count;
	int rc;

	assert_int_equal(fe_queue_stop(q, NULL), 0);
	if (read(q->err, &count, sizeof(count)) < 0)
		assert_int_equal(errno, EAGAIN);
	assert_int_equal(fe_queue_setup(q, 0), 0);
	rc = fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 512);
	if (rc != VIRTIO_BLK_S_OK)
		fail_msg("%s: the queue does not come back: %d", what, rc);
}

/* ------------------------------------------------------------------------------ broken chains */

struct chain_case {
	const char *what;
	uint16_t head;
	struct vring_desc ring[4];
	struct vring_desc table[4];
};

#define HEADER                                                                                     \
	{                                                                                          \
		FE_GPA + META, 16, NEXT, 1                                                         \
	}
#define AT(index) (FE_GPA + TABLE + 16 * (index))

static const struct chain_case broken[] = {
	{"head at the ring's size", NUM, {HEADER}, {{0}}},
	{"head of 65535", 65535, {HEADER}, {{0}}},
	{"a loop of one", 0, {{FE_GPA + META, 16, NEXT, 0}}, {{0}}},
	{"a loop of two", 0, {HEADER, {FE_GPA + FE_DATA, 16, NEXT, 0}}, {{0}}},
	{"a loop of empty buffers", 0, {{FE_GPA + META, 0, NEXT, 0}}, {{0}}},
	{"next past the ring", 0, {{FE_GPA + META, 16, NEXT, NUM}}, {{0}}},
	{"next of 65535", 0, {{FE_GPA + META, 16, NEXT, 65535}}, {{0}}},
	{"readable after writable",
	 0,
	 {HEADER, {FE_GPA + FE_DATA, 512, NEXT | WRITE, 2}, {FE_GPA + META, 16, 0, 0}},
	 {{0}}},
	{"indirect with next", 0, {{AT(0), 32, INDIRECT | NEXT, 1}}, {HEADER}},
	{"indirect of 0 bytes", 0, {{AT(0), 0, INDIRECT, 0}}, {HEADER}},
	{"indirect of 17 bytes", 0, {{AT(0), 17, INDIRECT, 0}}, {HEADER}},
	{"indirect of a whole chain and a byte",
	 0,
	 {{AT(0), 49, INDIRECT, 0}},
	 {HEADER, {FE_GPA + FE_DATA, 512, NEXT | WRITE, 2}, {FE_GPA + META + 16, 1, WRITE, 0}}},
	{"indirect of 2^32-16 bytes", 0, {{AT(0), 0xfffffff0, INDIRECT, 0}}, {HEADER}},
	{"indirect of 1025 entries", 0, {{AT(0), 1025 * 16, INDIRECT, 0}}, {HEADER}},
	{"indirect outside memory", 0, {{0x10, 32, INDIRECT, 0}}, {{0}}},
	{"indirect that ends outside", 0, {{FE_GPA + RAM - 16, 32, INDIRECT, 0}}, {{0}}},
	{"indirect that wraps", 0, {{UINT64_MAX - 15, 32, INDIRECT, 0}}, {{0}}},
	{"indirect in indirect", 0, {{AT(0), 16, INDIRECT, 0}}, {{AT(1), 16, INDIRECT, 0}}},
	{"indirect that loops",
	 0,
	 {{AT(0), 32, INDIRECT, 0}},
	 {HEADER, {FE_GPA + FE_DATA, 16, NEXT, 0}}},
	{"indirect that loops over empty buffers",
	 0,
	 {{AT(0), 32, INDIRECT, 0}},
	 {HEADER, {FE_GPA + FE_DATA, 0, NEXT, 1}}},
	{"next past the indirect table", 0, {{AT(0), 16, INDIRECT, 0}}, {HEADER}},
};

static void broken_chains_stop_the_queue(void **state)
{
	struct fe_queue *q = &fe.queues[0];

	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		header(VIRTIO_BLK_T_IN);
		memcpy(q->desc, broken[i].ring, sizeof(broken[i].ring));
		memcpy(fe.mem + TABLE, broken[i].table, sizeof(broken[i].table));
		offer(broken[i].head);
		if (!err_signalled(FE_TIMEOUT_MS))
			fail_msg("%s: no error", broken[i].what);
		assert_int_equal(q->used->idx, q->last_used); /* nothing was answered */
		assert_int_equal(fe.mem[META + 16], 0xff);
		/* the other queue does not mind */
		assert_int_equal(fe_blk(&fe.queues[1], VIRTIO_BLK_T_IN, 0, FE_DATA, 512),
				 VIRTIO_BLK_S_OK);
		revive(broken[i].what);
	}
	assert_int_equal(be_status(&be, "broken_queues"), sizeof(broken) / sizeof(broken[0]));
	assert_int_equal(be_wait_zero(&be, "pins"), 0);
}

static void available_index_jumps(void **state)
{
	struct fe_queue *q = &fe.queues[0];
	const uint16_t jumps[] = {NUM + 1, 1000, 32768, 65535};

	for (size_t i = 0; i < sizeof(jumps) / sizeof(jumps[0]); i++) {
		uint64_t one = 1;

		__atomic_store_n(&q->avail->idx, (uint16_t)(q->last_used + jumps[i]),
				 __ATOMIC_RELEASE);
		assert_int_equal(write(q->kick, &one, sizeof(one)), sizeof(one));
		assert_true(err_signalled(FE_TIMEOUT_MS));
		revive("a jump");
	}
}

static void indirect_that_was_not_negotiated(void **state)
{
	assert_int_equal(fe_reconnect(&fe, be.sock), 0);
	assert_int_equal(fe_start(&fe, 1, NUM, 0xffffff), 0);
	header(VIRTIO_BLK_T_IN);
	fe.queues[0].desc[0] = (struct vring_desc){AT(0), 32, INDIRECT, 0};
	offer(0);
	assert_true(err_signalled(FE_TIMEOUT_MS));
	revive("indirect");
}

/* -------------------------------------------------------------------- requests with errors */

/* The guest gets an error where there is room for one, and the queue goes on. */
static void buffers_outside_memory(void **state)
{
	static const struct {
		const char *what;
		uint64_t addr;
		uint32_t length;
	} cases[] = {
		{"in a hole", 0x1000, 512},
		{"Q6: non-canonical", UINT64_C(0x8000000000000000), 512},
		{"Q6: the last byte of all", UINT64_MAX, 1},
		{"P2: wraps", UINT64_MAX - 511, 1024},
		{"P1: one byte past the end", FE_GPA + RAM - 511, 512},
		{"before the beginning", FE_GPA - 1, 512},
		{"Q27: 2^32-1 bytes", FE_GPA + FE_DATA, UINT32_MAX},
	};
	struct fe_queue *q = &fe.queues[0];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (unsigned type = VIRTIO_BLK_T_IN; type <= VIRTIO_BLK_T_OUT; type++) {
			struct fe_buf buf = {cases[i].addr, cases[i].length, type == 0};
			int rc;

			assert_int_equal(fe_blk_submit(q, META, type, 0, &buf, 1, 0), 0);
			fe_kick(q);
			rc = fe_wait(q, FE_TIMEOUT_MS, NULL, NULL);
			if (rc != 1 || fe_blk_status(&fe, META) != VIRTIO_BLK_S_IOERR)
				fail_msg("%s: %d, status %u", cases[i].what, rc,
					 fe_blk_status(&fe, META));
		}
	}
	/* P1: and the last byte of memory is memory */
	assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, RAM - 512, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(be_wait_zero(&be, "pins"), 0);
}

static void no_room_for_an_answer(void **state)
{
	const struct {
		const char *what;
		struct fe_buf bufs[3];
		unsigned count;
	} cases[] = {
		{"nothing writable", {{FE_GPA + META, 16, false}}, 1},
		{"status outside memory", {{FE_GPA + META, 16, false}, {0x10, 1, true}}, 2},
		{"empty status", {{FE_GPA + META, 16, false}, {FE_GPA + META + 16, 0, true}}, 2},
		{"one empty buffer", {{FE_GPA + META, 0, false}}, 1},
	};
	struct fe_queue *q = &fe.queues[0];
	uint32_t written = 9;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		header(VIRTIO_BLK_T_FLUSH);
		assert_int_equal(fe_submit(q, cases[i].bufs, cases[i].count, 0), 0);
		fe_kick(q);
		if (fe_wait(q, FE_TIMEOUT_MS, NULL, &written) != 1)
			fail_msg("%s: no answer", cases[i].what);
		assert_int_equal(written, 0);
	}
	/* a header that is too short, with room for the status */
	assert_int_equal(fe_submit(q,
				   (struct fe_buf[]){{FE_GPA + META, 15, false},
						     {FE_GPA + META + 16, 1, true}},
				   2, 0),
			 0);
	fe_kick(q);
	assert_int_equal(fe_wait(q, FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(fe_blk_status(&fe, META), VIRTIO_BLK_S_IOERR);
}

/* As long as a chain may be: a table of 1,024, 1,022 of them data of 512 bytes; twice over. */
static void the_longest_chain(void **state)
{
	struct vring_desc *table = (struct vring_desc *)(void *)(fe.mem + TABLE);

	for (unsigned round = 0; round < 2; round++) {
		header(VIRTIO_BLK_T_IN);
		table[0] = (struct vring_desc){FE_GPA + META, 16, NEXT, 1};
		for (unsigned i = 1; i < 1023; i++)
			table[i] = (struct vring_desc){FE_GPA + FE_DATA + 512 * i, 512,
						       NEXT | WRITE, (uint16_t)(i + 1)};
		table[1023] = (struct vring_desc){FE_GPA + META + 16, 1, WRITE, 0};
		memset(fe.mem + FE_DATA + 512, 0xee, 512 * 1022);
		fe.queues[0].desc[0] = (struct vring_desc){AT(0), 16384, INDIRECT, 0};
		fe.queues[0].chain_length[0] = 1;
		offer(0);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe_blk_status(&fe, META), VIRTIO_BLK_S_OK);
		for (unsigned i = 512; i < 512 * 1023; i++)
			assert_int_equal(fe.mem[FE_DATA + i], 0);
		assert_int_equal(fe.mem[FE_DATA + 512 * 1023], 0);
	}
	assert_false(err_signalled(0));
}

/* A direct chain as long as the ring. */
static void a_chain_of_the_whole_ring(void **state)
{
	struct fe_queue *q = &fe.queues[0];
	struct fe_buf bufs[NUM];

	q->indirect = false;
	header(VIRTIO_BLK_T_IN);
	bufs[0] = (struct fe_buf){FE_GPA + META, 16, false};
	for (unsigned i = 1; i < NUM - 1; i++)
		bufs[i] = (struct fe_buf){FE_GPA + FE_DATA + 1024 * i, 512, true};
	bufs[NUM - 1] = (struct fe_buf){FE_GPA + META + 16, 1, true};
	for (unsigned i = 0; i < 5; i++) {
		fe.mem[META + 16] = 0xff;
		assert_int_equal(fe_submit(q, bufs, NUM, 0), 0);
		fe_kick(q);
		assert_int_equal(fe_wait(q, FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe_blk_status(&fe, META), VIRTIO_BLK_S_OK);
	}
}

/* One head made available again and again while it is in flight: only this guest is confused. */
static void the_same_head_many_times(void **state)
{
	struct fe_queue *q = &fe.queues[0];

	header(VIRTIO_BLK_T_IN);
	q->desc[0] = (struct vring_desc){FE_GPA + META, 16, NEXT, 1};
	q->desc[1] = (struct vring_desc){FE_GPA + FE_DATA, 4096, NEXT | WRITE, 2};
	q->desc[2] = (struct vring_desc){FE_GPA + META + 16, 1, WRITE, 0};
	for (unsigned round = 0; round < 50; round++) {
		uint16_t want = (uint16_t)(q->avail_idx + NUM);

		for (unsigned i = 0; i < NUM; i++)
			q->avail->ring[q->avail_idx++ % q->num] = 0;
		fe_kick(q);
		for (int tries = 0;
		     tries < 2000 && __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE) != want;
		     tries++)
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		assert_int_equal(q->used->idx, want);
	}
	assert_false(err_signalled(0));
	assert_int_equal(be_wait_zero(&be, "in_flight"), 0);
	revive("many times");
}

/* A ring that does not tell when it is kicked is looked at all the same. */
static void a_ring_without_kicks_and_calls(void **state)
{
	struct fe_queue *q = &fe.queues[0];
	uint64_t value = FE_NO_FD;

	assert_int_equal(fe_ack(&fe, FE_SET_VRING_KICK, &value, 8, NULL, 0), 0);
	assert_int_equal(fe_ack(&fe, FE_SET_VRING_CALL, &value, 8, NULL, 0), 0);
	assert_int_equal(fe_ack(&fe, FE_SET_VRING_ERR, &value, 8, NULL, 0), 0);
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(fe_blk_submit(q, META, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, 0), 0);
		__atomic_store_n(&q->avail->idx, q->avail_idx, __ATOMIC_RELEASE);
		q->kicked_idx = q->avail_idx;
		for (int tries = 0; tries < 2000 && !fe_poll(q, NULL, NULL); tries++)
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		assert_int_equal(fe_blk_status(&fe, META), VIRTIO_BLK_S_OK);
	}
}

static void a_disabled_ring_rests(void **state)
{
	struct fe_vring_state enable = {0, 0};

	assert_int_equal(fe_ack(&fe, FE_SET_VRING_ENABLE, &enable, 8, NULL, 0), 0);
	assert_int_equal(fe_blk_submit(&fe.queues[0], META, VIRTIO_BLK_T_FLUSH, 0, NULL, 0, 0), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], 30, NULL, NULL), -ETIMEDOUT);
	enable.num = 1;
	assert_int_equal(fe_ack(&fe, FE_SET_VRING_ENABLE, &enable, 8, NULL, 0), 0);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(fe_blk_status(&fe, META), VIRTIO_BLK_S_OK);
}

/* Q2: the ring moves while it runs; the old place is not touched again. */
static void q2_rings_that_move(void **state)
{
	struct fe_queue *q = &fe.queues[0];
	uint64_t at = FE_DATA + (UINT64_C(8) << 20);

	for (unsigned i = 0; i < 50; i++) {
		struct vring_desc *desc = (struct vring_desc *)(void *)(fe.mem + at);
		struct vring_avail *avail = (struct vring_avail *)(void *)(fe.mem + at + 4096);
		struct vring_used *used = (struct vring_used *)(void *)(fe.mem + at + 8192);
		struct fe_vring_addr addr = {
			0, 0, (uintptr_t)desc, (uintptr_t)used, (uintptr_t)avail, 0};

		memcpy(desc, q->desc, sizeof(*desc) * NUM);
		memcpy(avail, q->avail, 6 + 2 * NUM);
		memcpy(used, q->used, 6 + 8 * NUM);
		assert_int_equal(fe_ack(&fe, FE_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0), 0);
		memset(q->desc, 0xff, sizeof(*desc) * NUM);
		memset(q->avail, 0xff, 6 + 2 * NUM);
		memset(q->used, 0x5a, 6 + 8 * NUM);
		for (unsigned k = 0; k < 3; k++) {
			const uint8_t *old = (const uint8_t *)q->used;

			for (unsigned b = 0; k && b < 6 + 8 * NUM; b++)
				assert_int_equal(old[b], 0x5a);
			if (!k) {
				void *old_used = q->used;

				q->desc = desc;
				q->avail = avail;
				q->used = used;
				assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 512),
						 VIRTIO_BLK_S_OK);
				q->used = old_used;
			}
		}
		q->used = used;
		at = at == FE_DATA + (UINT64_C(8) << 20) ? at + 65536 : at - 65536;
	}
}

/* ------------------------------------------------------------------------------------- noise */

/* Two words, as a device reads it, so that a write flag comes with no other's address. */
static void put_desc(struct vring_desc *to, const struct vring_desc *desc)
{
	uint64_t words[2];

	memcpy(words, desc, sizeof(words));
	__atomic_store_n((uint64_t *)to + 1, 0, __ATOMIC_RELAXED);
	__atomic_store_n((uint64_t *)to, words[0], __ATOMIC_RELEASE);
	__atomic_store_n((uint64_t *)to + 1, words[1], __ATOMIC_RELEASE);
}

/* A guest that rewrites its rings at random while the device reads them. */
static void *scribble(void *arg)
{
	bool *end = arg;
	struct fe_queue *q = &fe.queues[0];
	unsigned seed = 7;

	while (!__atomic_load_n(end, __ATOMIC_RELAXED)) {
		unsigned at = (unsigned)rand_r(&seed) % NUM;
		struct vring_desc desc = {
			.addr = rand_r(&seed) % 8 ? FE_GPA + (unsigned)rand_r(&seed) % RAM
						  : (uint64_t)rand_r(&seed) << 33,
			.len = (unsigned)rand_r(&seed) % 8192,
			.flags = (uint16_t)(rand_r(&seed) % 8),
			.next = (uint16_t)(rand_r(&seed) % (NUM + 1)),
		};
		uint64_t one = 1;

		/* never a write of the device into the other queue's ring or its own */
		if (desc.flags & WRITE)
			desc.addr |= UINT64_C(12) << 20;
		put_desc(&q->desc[at], &desc);
		__atomic_store_n(&q->avail->ring[at], (uint16_t)(rand_r(&seed) % NUM),
				 __ATOMIC_RELAXED);
		if (rand_r(&seed) % 4 == 0) {
			uint16_t idx = __atomic_load_n(&q->avail->idx, __ATOMIC_RELAXED);

			__atomic_store_n(&q->avail->idx, (uint16_t)(idx + 1), __ATOMIC_RELEASE);
			if (write(q->kick, &one, sizeof(one)) < 0)
				break;
		}
	}
	return NULL;
}

static void noise(void **state)
{
	bool end = false;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, scribble, &end), 0);
	for (unsigned i = 0; i < 60; i++) {
		struct fe_vring_state enable = {0, 1};

		/* meanwhile the other queue works, and the broken one is started again */
		for (unsigned k = 0; k < 5; k++)
			assert_int_equal(fe_blk(&fe.queues[1], VIRTIO_BLK_T_IN, 0, FE_DATA, 512),
					 VIRTIO_BLK_S_OK);
		if (i % 4 == 0) {
			assert_int_equal(fe_queue_stop(&fe.queues[0], NULL), 0);
			assert_int_equal(fe_queue_setup(&fe.queues[0], 0), 0);
			assert_int_equal(fe_ack(&fe, FE_SET_VRING_ENABLE, &enable, 8, NULL, 0), 0);
		}
	}
	__atomic_store_n(&end, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	revive("noise");
	assert_int_equal(be_wait_zero(&be, "in_flight"), 0);
	assert_int_equal(be_wait_zero(&be, "pins"), 0);
}

int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(broken_chains_stop_the_queue),
		TEST(available_index_jumps),
		TEST(indirect_that_was_not_negotiated),
		TEST(buffers_outside_memory),
		TEST(no_room_for_an_answer),
		TEST(the_longest_chain),
		TEST(a_chain_of_the_whole_ring),
		TEST(the_same_head_many_times),
		TEST(a_ring_without_kicks_and_calls),
		TEST(a_disabled_ring_rests),
		TEST(q2_rings_that_move),
		TEST(noise),
	};

	be_args(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
