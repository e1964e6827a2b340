/* SPDX-License-Identifier: MIT */
/*
 * What packed rings have and split ones have not: wrap counters, descriptors that are given back in
 * place, ids of buffers, event structures, indices with wrap bits in messages; and guests that
 * break their rules. What both have is tested by the other files, which are run with such rings,
 * too.
 */
#include "inverter.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FEATURES (FE_F_EVENT_IDX | FE_F_INDIRECT)
#define NEXT VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT
#define WRAP 0x8000u
#define TABLE (FE_DATA - 65536) /* an indirect table of a test's own */
#define OUT (FE_GPA + FE_DATA)
#define IN (FE_GPA + FE_DATA + 64)

static void begin(unsigned num, uint64_t features)
{
	fe.packed = true;
	assert_int_equal(fe_start(&fe, 1, num, features), 0);
	assert_true(fe.features & FE_F_PACKED);
}

static struct fe_queue *queue(void)
{
	return &fe.queues[0];
}

static bool broken(void)
{
	struct pollfd wait = {.fd = queue()->err, .events = POLLIN};

	return poll(&wait, 1, FE_TIMEOUT_MS) == 1;
}

static void one_request(unsigned i)
{
	assert_int_equal(submit(queue(), i), 0);
	fe_kick(queue());
	assert_int_equal(fe_wait(queue(), FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_inverted(i);
}

/* ---------------------------------------------------------------------------------- going round */

/* Direct chains of three, in rings that they do not fill; the last one is no power of two. */
static void chains_go_round_the_end(void **state)
{
	static const unsigned sizes[] = {4, 8, 37};

	for (unsigned i = 0; i < 3; i++) {
		if (i)
			assert_int_equal(fe_reconnect(&fe, server_path), 0);
		begin(sizes[i], i == 2 ? 0 : FE_F_EVENT_IDX);
		for (unsigned n = 0; n < 200; n++)
			one_request(n % 128);
	}
}

/* As many as fit, given back in another order, so that ids and places go apart. */
static void out_of_order_with_full_rings(void **state)
{
	unsigned seen, in_ring = 0;

	begin(16, FE_F_EVENT_IDX);
	hold_requests();
	for (unsigned round = 0; round < 100; round++) {
		for (in_ring = 0; !submit(queue(), in_ring); in_ring++)
			;
		assert_int_equal(in_ring, 5);
		fe_kick(queue());
		wait_held(in_ring);
		give_back();
		seen = 0;
		for (unsigned i = 0; i < in_ring; i++) {
			uint64_t cookie = 99;

			assert_int_equal(fe_wait(queue(), FE_TIMEOUT_MS, &cookie, NULL), 1);
			assert_inverted((unsigned)cookie);
			seen |= 1u << cookie;
		}
		assert_int_equal(seen, 0x1f);
	}
}

/* -------------------------------------------------------------------------------- ids and tables
 */

static void wait_used(unsigned at, uint16_t id)
{
	const struct vring_packed_desc *desc = &fe_packed_desc(queue())[at];

	for (int tries = 0; tries < 5000; tries++) {
		uint16_t flags = __atomic_load_n(&desc->flags, __ATOMIC_ACQUIRE);

		if (flags & 1u << VRING_PACKED_DESC_F_USED) {
			assert_true(flags & 1u << VRING_PACKED_DESC_F_AVAIL);
			assert_int_equal(desc->id, id);
			assert_int_equal(desc->len, 16);
			assert_true(flags & WRITE);
			return;
		}
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	fail_msg("descriptor %u was not given back", at);
}

static void add(struct vring_packed_desc desc)
{
	fe_packed_add(queue(), &desc);
}

/* The last descriptor has the buffer's id, which may be any number. */
static void ids_are_the_drivers(void **state)
{
	begin(16, FEATURES);
	memset(fe.mem + FE_DATA, 0, 16);
	memset(fe.mem + FE_DATA + 64, 0xee, 32);
	add((struct vring_packed_desc){OUT, 5, 7, NEXT});
	add((struct vring_packed_desc){OUT + 5, 11, 9, NEXT});
	add((struct vring_packed_desc){IN, 32, 65535, WRITE});
	fe_kick(queue());
	wait_used(0, 65535);
	assert_inverted(0);
}

/* In an indirect table descriptors follow each other to its end; only WRITE means something. */
static void flags_in_tables_mean_nothing(void **state)
{
	struct vring_packed_desc table[3] = {
		{OUT, 5, 1, 0x8080}, {OUT + 5, 11, 2, NEXT | INDIRECT}, {IN, 32, 3, WRITE | NEXT}};

	begin(16, FEATURES);
	memset(fe.mem + FE_DATA, 0, 16);
	memset(fe.mem + FE_DATA + 64, 0xee, 32);
	memcpy(fe.mem + TABLE, table, sizeof(table));
	add((struct vring_packed_desc){FE_GPA + TABLE, sizeof(table), 40, INDIRECT});
	fe_kick(queue());
	wait_used(0, 40);
	assert_inverted(0);
}

/* --------------------------------------------------------------------------------- broken rules */

static void chains_that_break_the_rules(void **state)
{
	static const struct {
		const char *what;
		struct vring_packed_desc descs[3];
	} cases[] = {
		{"readable after writable", {{IN, 16, 0, NEXT | WRITE}, {OUT, 16, 0, 0}}},
		{"indirect with next", {{FE_GPA + TABLE, 32, 0, INDIRECT | NEXT}, {OUT, 16, 0, 0}}},
		{"indirect of 0 bytes", {{FE_GPA + TABLE, 0, 0, INDIRECT}}},
		{"indirect of 17 bytes", {{FE_GPA + TABLE, 17, 0, INDIRECT}}},
		{"indirect of 1025 entries", {{FE_GPA + TABLE, 1025 * 16, 0, INDIRECT}}},
		{"indirect outside memory", {{0x10, 32, 0, INDIRECT}}},
		{"indirect that ends outside", {{FE_GPA + RAM - 16, 32, 0, INDIRECT}}},
		{"indirect that wraps", {{UINT64_MAX - 15, 32, 0, INDIRECT}}},
	};
	uint64_t count;

	begin(16, FEATURES);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (unsigned k = 0; k < 3 && (!k || cases[i].descs[k - 1].flags & NEXT); k++)
			add(cases[i].descs[k]);
		fe_kick(queue());
		if (!broken())
			fail_msg("%s: the queue goes on", cases[i].what);
		assert_int_equal(read(queue()->err, &count, sizeof(count)), sizeof(count));
		assert_int_equal(fe_queue_stop(queue(), NULL), 0);
		assert_int_equal(fe_queue_setup(queue(), 0), 0);
		one_request(i);
	}
}

static void a_chain_without_an_end(void **state)
{
	begin(16, FEATURES);
	for (unsigned i = 0; i < 16; i++)
		add((struct vring_packed_desc){OUT, 1, 0, NEXT});
	fe_kick(queue());
	assert_true(broken());
	assert_int_equal(held(), 0);
}

/* The driver says "available" of descriptors that the device has: none is taken twice. */
static void descriptors_that_are_taken_already(void **state)
{
	struct gr_vhost_stats stats;

	begin(4, 0);
	hold_requests();
	assert_int_equal(submit(queue(), 0), 0); /* three of the four */
	fe_kick(queue());
	wait_held(1);
	for (unsigned i = 0; i < 2; i++) /* the fourth, and the first once more */
		add((struct vring_packed_desc){OUT, 16, 3, i ? 0 : NEXT});
	fe_kick(queue());
	assert_true(broken());
	gr_vhost_get_stats(server, &stats);
	assert_int_equal(stats.in_flight, 1);
	give_back();
}

static void indices_past_the_ring(void **state)
{
	static const uint32_t bad[] = {0x80088008, 0x80008008, 0x80088000, 0x00087fff, 0xffffffff};
	struct fe_vring_state message = {0, 0};

	begin(8, FEATURES);
	assert_int_equal(fe_queue_stop(queue(), NULL), 0);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		message.num = bad[i];
		assert_int_equal(fe_ack(&fe, FE_SET_VRING_BASE, &message, sizeof(message), NULL, 0),
				 -EREMOTEIO);
	}
	/* before the size is known it cannot be refused; then it is when the ring begins */
	message.num = 0x80078007;
	assert_int_equal(fe_ack(&fe, FE_SET_VRING_BASE, &message, sizeof(message), NULL, 0), 0);
	message.num = 4;
	assert_int_equal(fe_ack(&fe, FE_SET_VRING_NUM, &message, sizeof(message), NULL, 0), 0);
	assert_int_equal(fe_queue_tell_addr(queue()), 0);
	message.num = 0;
	assert_int_equal(fe_ack(&fe, FE_SET_VRING_KICK, &(uint64_t){0}, 8, &queue()->kick, 1), 0);
	assert_true(broken());
}

/* ------------------------------------------------------------------------------------- messages */

static void goes_on_in_a_round_of_0(void **state)
{
	uint32_t base;

	begin(8, 0);
	for (unsigned i = 0; i < 3; i++)
		one_request(i);
	assert_int_equal(fe_queue_stop(queue(), &base), 0);
	assert_int_equal(base, 0x00010001); /* nine descriptors of eight */
	assert_int_equal(fe_queue_tell(queue(), base), 0);
	for (unsigned i = 0; i < 3; i++)
		one_request(i);
	assert_int_equal(fe_queue_stop(queue(), &base), 0);
	assert_int_equal(base, 0x80028002);
}

static void addresses_are_aligned_to_4(void **state)
{
	begin(8, FEATURES);
	queue()->avail = (void *)((char *)queue()->avail + 2);
	assert_int_equal(fe_queue_tell_addr(queue()), -EREMOTEIO);
}

static void the_layout_changes_between_runs(void **state)
{
	begin(16, FEATURES);
	one_request(0);
	assert_int_equal(fe_set_u64(&fe, FE_SET_FEATURES, fe.features & ~FE_F_PACKED), -EREMOTEIO);
	one_request(1);
	for (unsigned i = 0; i < 4; i++) {
		bool packed = i & 1;

		assert_int_equal(fe_queue_stop(queue(), NULL), 0);
		fe.features = packed ? fe.features | FE_F_PACKED : fe.features & ~FE_F_PACKED;
		assert_int_equal(fe_set_u64(&fe, FE_SET_FEATURES, fe.features), 0);
		queue()->packed = packed;
		assert_int_equal(fe_queue_setup(queue(), 0), 0);
		one_request(i);
	}
}

/* --------------------------------------------------------------------------------- notifications
 */

static bool called(int timeout_ms)
{
	struct pollfd wait = {.fd = queue()->call, .events = POLLIN};
	uint64_t count;

	if (poll(&wait, 1, timeout_ms) != 1)
		return false;
	assert_int_equal(read(queue()->call, &count, sizeof(count)), sizeof(count));
	return true;
}

static void set_wish(uint16_t off_wrap, uint16_t flags)
{
	struct vring_packed_desc_event *event = (void *)queue()->avail;

	__atomic_store_n(&event->off_wrap, off_wrap, __ATOMIC_RELAXED);
	__atomic_store_n(&event->flags, flags, __ATOMIC_RELEASE);
}

/* A request that answers without our asking for a call. */
static void quiet_request(unsigned i)
{
	assert_int_equal(submit(queue(), i), 0);
	fe_kick(queue());
	for (int tries = 0; tries < 5000; tries++) {
		int rc = fe_poll(queue(), NULL, NULL);

		if (rc == 1)
			return;
		assert_int_equal(rc, 0);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	fail_msg("no answer");
}

static void calls_are_made_where_they_are_asked_for(void **state)
{
	begin(4, FEATURES); /* each request is one descriptor */
	while (called(20))
		;
	set_wish(0, VRING_PACKED_EVENT_FLAG_DISABLE);
	quiet_request(0);
	assert_false(called(20));
	set_wish(0, VRING_PACKED_EVENT_FLAG_ENABLE);
	quiet_request(1);
	assert_true(called(FE_TIMEOUT_MS));
	/* the second one from here, which is the last of the ring */
	set_wish(3 | WRAP, VRING_PACKED_EVENT_FLAG_DESC);
	quiet_request(2);
	assert_false(called(20));
	quiet_request(3);
	assert_true(called(FE_TIMEOUT_MS));
	/* the second one of the next round, and not the one that has this place now */
	set_wish(1, VRING_PACKED_EVENT_FLAG_DESC);
	quiet_request(4);
	assert_false(called(20));
	quiet_request(5);
	assert_true(called(FE_TIMEOUT_MS));
	/* one that is passed, and one past the ring */
	set_wish(1, VRING_PACKED_EVENT_FLAG_DESC);
	quiet_request(6);
	assert_false(called(20));
	set_wish(0x7fff, VRING_PACKED_EVENT_FLAG_DESC);
	quiet_request(7);
	while (called(20))
		;
	/* the place that comes next, but in the round after this one */
	set_wish(0, VRING_PACKED_EVENT_FLAG_DESC);
	for (unsigned i = 0; i < 4; i++)
		quiet_request(i);
	assert_false(called(20));
	quiet_request(4);
	assert_true(called(FE_TIMEOUT_MS));
}

/* What it wants to be kicked for, once it sleeps. */
static uint32_t wish(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	return __atomic_load_n((uint32_t *)(void *)queue()->used, __ATOMIC_ACQUIRE);
}

static void kicks_are_asked_for(void **state)
{
	begin(4, FEATURES);
	assert_int_equal(wish(), 2u << 16 | WRAP);
	for (unsigned i = 0; i < 5; i++)
		one_request(i);
	assert_int_equal(wish(), 2u << 16 | 1);
	assert_int_equal(fe_reconnect(&fe, server_path), 0);
	begin(4, 0);
	assert_int_equal(wish() >> 16, VRING_PACKED_EVENT_FLAG_ENABLE);
	one_request(0);
	assert_int_equal(wish() >> 16, VRING_PACKED_EVENT_FLAG_ENABLE);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start_server, stop_server)
	const struct CMUnitTest tests[] = {
		TEST(chains_go_round_the_end),
		TEST(out_of_order_with_full_rings),
		TEST(ids_are_the_drivers),
		TEST(flags_in_tables_mean_nothing),
		TEST(chains_that_break_the_rules),
		TEST(a_chain_without_an_end),
		TEST(descriptors_that_are_taken_already),
		TEST(indices_past_the_ring),
		TEST(goes_on_in_a_round_of_0),
		TEST(addresses_are_aligned_to_4),
		TEST(the_layout_changes_between_runs),
		TEST(calls_are_made_where_they_are_asked_for),
		TEST(kicks_are_asked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
