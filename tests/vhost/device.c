/* SPDX-License-Identifier: MIT */
/*
 * Requests of a device of our own: completed from other threads and out of order, held while memory
 * goes, given back twice; the configuration; rings that are stopped under them.
 */
#include "inverter.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static void completed_elsewhere_out_of_order(void **state)
{
	struct gr_vhost_stats stats;

	assert_int_equal(fe_start(&fe, 4, 64, ~UINT64_C(0)), 0);
	hold_requests();
	for (unsigned round = 0; round < 50; round++) {
		uint32_t written = 0;

		for (unsigned i = 0; i < 32; i++)
			assert_int_equal(submit(&fe.queues[i % 4], i), 0);
		for (unsigned q = 0; q < 4; q++)
			fe_kick(&fe.queues[q]);
		wait_held(32);
		gr_vhost_get_stats(server, &stats);
		assert_int_equal(stats.in_flight, 32);
		give_back();
		for (unsigned i = 0; i < 32; i++) {
			uint64_t cookie = 99;

			assert_int_equal(
				fe_wait(&fe.queues[i % 4], FE_TIMEOUT_MS, &cookie, &written), 1);
			assert_int_equal(written, 16);
			assert_int_equal(cookie % 4, i % 4);
			assert_inverted((unsigned)cookie);
		}
	}
	gr_vhost_get_stats(server, &stats);
	assert_int_equal(stats.in_flight, 0);
	assert_int_equal(stats.requests, 50 * 32);
}

/* P17: memory that was removed stays for the request in flight, and goes with it. */
static void p17_removed_memory_stays_for_requests_in_flight(void **state)
{
	struct fe_region region = {0x40000000, 1 << 20, 0x700000000000, 0};
	struct fe_buf bufs[2] = {{0x40000000, 16, false}, {0x40000040, 16, true}};
	int fd = memfd_create("front-end", MFD_CLOEXEC);
	struct gr_ram_stats stats;
	uint8_t *mem;

	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(mem, MAP_FAILED);
	memset(mem, 0x33, 16);
	assert_int_equal(fe_start(&fe, 1, 64, ~UINT64_C(0)), 0);
	assert_int_equal(fe_add_region(&fe, &region, fd), 0);
	hold_requests();
	assert_int_equal(fe_submit(&fe.queues[0], bufs, 2, 0), 0);
	fe_kick(&fe.queues[0]);
	wait_held(1);
	/* answered while the request is in flight */
	assert_int_equal(fe_remove_region(&fe, &region, -1), 0);
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	gr_ram_get_stats(gr_vhost_ram(server), &stats);
	assert_int_equal(stats.blocks, 1);
	assert_int_equal(stats.blocks_pending, 1);
	assert_int_equal(stats.pins, 1);
	give_back();
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(mem[0x40], 0xcc);
	assert_int_equal(gr_ram_drain(gr_vhost_ram(server), FE_TIMEOUT_MS), 0);
	gr_ram_get_stats(gr_vhost_ram(server), &stats);
	assert_int_equal(stats.pins, 0);
	assert_int_equal(stats.bytes_reclaimed, 1 << 20);
	munmap(mem, 4096);
	close(fd);
}

/* Q2: a range that a request in flight still holds is gone for new ones; they see what came after.
 */
static void q2_held_ranges_take_no_new_requests(void **state)
{
	struct fe_region region = {0x40000000, 1 << 20, 0x700000000000, 0};
	struct fe_buf bufs[2] = {{0x40000000, 16, false}, {0x40000040, 16, true}};
	int fds[2];
	uint8_t *mem[2];

	assert_int_equal(fe_start(&fe, 1, 64, ~UINT64_C(0)), 0);
	hold_requests();
	for (unsigned i = 0; i < 2; i++) {
		fds[i] = memfd_create("front-end", MFD_CLOEXEC);
		assert_int_equal(ftruncate(fds[i], 1 << 20), 0);
		mem[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
		assert_ptr_not_equal(mem[i], MAP_FAILED);
		memset(mem[i], 0x33 + (int)i, 16);
		assert_int_equal(fe_add_region(&fe, &region, fds[i]), 0);
		assert_int_equal(fe_submit(&fe.queues[0], bufs, 2, i), 0);
		fe_kick(&fe.queues[0]);
		wait_held(i + 1);
		assert_int_equal(fe_remove_region(&fe, &region, -1), 0);
	}
	/* and with nothing there, a new one finds nothing */
	assert_int_equal(fe_submit(&fe.queues[0], bufs, 2, 2), 0);
	fe_kick(&fe.queues[0]);
	wait_held(3);
	assert_int_equal(errors(), 1);
	give_back();
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(mem[i][0x40], (uint8_t) ~(0x33 + i));
		munmap(mem[i], 4096);
		close(fds[i]);
	}
}

/* P28: a device that reads no byte itself is told that a buffer's memory was lost. */
static void p28_lost_memory_is_an_error(void **state)
{
	struct fe_region region = {0x40000000, 1 << 20, 0x700000000000, 0};
	struct fe_buf bufs[2] = {{0x40000000, 16, false}, {FE_GPA + FE_DATA, 16, true}};
	int fd = memfd_create("front-end", MFD_CLOEXEC);
	struct sigaction before;
	uint32_t written = 9;

	assert_int_equal(sigaction(SIGBUS, &sigbus, &before), 0);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(fe_start(&fe, 1, 64, ~UINT64_C(0)), 0);
	assert_int_equal(fe_add_region(&fe, &region, fd), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	/* the first one finds out when it reads, the second one is told beforehand */
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(errors(), 0);
		assert_int_equal(fe_submit(&fe.queues[0], bufs, 2, 0), 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, &written), 1);
		assert_int_equal(written, 0);
	}
	assert_int_equal(errors(), 1);
	assert_int_equal(sigaction(SIGBUS, &before, NULL), 0);
	close(fd);
}

static void *give_later(void *arg)
{
	nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
	give_back();
	return NULL;
}

/* GET_VRING_BASE answers when what was in flight is in the used ring. */
static void stop_waits_for_requests_in_flight(void **state)
{
	uint32_t base = 0;
	pthread_t thread;

	assert_int_equal(fe_start(&fe, 2, 64, ~UINT64_C(0)), 0);
	hold_requests();
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(submit(&fe.queues[0], i), 0);
	fe_kick(&fe.queues[0]);
	wait_held(5);
	assert_int_equal(pthread_create(&thread, NULL, give_later, NULL), 0);
	assert_int_equal(fe_queue_stop(&fe.queues[0], &base), 0);
	assert_int_equal(base, fe.packed ? fe_packed_base(&fe.queues[0]) : 5);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(fe_poll(&fe.queues[0], NULL, NULL), 1);
	pthread_join(thread, NULL);
}

/* A full ring of held requests: no more are taken, none is lost. */
static void a_full_ring_waits(void **state)
{
	unsigned done = 0;

	assert_int_equal(fe_start(&fe, 1, 16, ~UINT64_C(0)), 0);
	hold_requests();
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(submit(&fe.queues[0], i), 0);
	assert_int_equal(submit(&fe.queues[0], 16), -ENOSPC);
	fe_kick(&fe.queues[0]);
	wait_held(16);
	give_back();
	while (done < 16) {
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		done++;
	}
}

static void config_is_read_and_written(void **state)
{
	struct fe_config write = {.offset = 2, .size = 3, .bytes = {7, 8, 9}};
	uint8_t back[16];

	assert_int_equal(fe_negotiate(&fe, ~UINT64_C(0), FE_P_CONFIG | FE_P_REPLY_ACK), 0);
	assert_int_equal(fe_ack(&fe, FE_SET_CONFIG, &write, 15, NULL, 0), 0);
	assert_int_equal(fe_get_config(&fe, 0, back, 16), 0);
	assert_memory_equal(back, ((uint8_t[16]){0, 0, 7, 8, 9}), 16);
	write.offset = 6; /* the device is not asked about bytes that it has not */
	assert_int_equal(fe_ack(&fe, FE_SET_CONFIG, &write, 15, NULL, 0), -EREMOTEIO);
	write.size = 0; /* nor about none of them */
	write.offset = 9;
	assert_int_equal(fe_ack(&fe, FE_SET_CONFIG, &write, 12, NULL, 0), -EREMOTEIO);
	write.offset = 8;
	assert_int_equal(fe_ack(&fe, FE_SET_CONFIG, &write, 12, NULL, 0), 0);
}

static void reset_device_stops_rings_and_keeps_memory(void **state)
{
	assert_int_equal(fe_start(&fe, 1, 64, ~UINT64_C(0)), 0);
	assert_int_equal(submit(&fe.queues[0], 1), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(device.resets, 0);
	assert_int_equal(fe_ack(&fe, FE_RESET_DEVICE, NULL, 0, NULL, 0), 0);
	assert_int_equal(device.resets, 1);
	assert_int_equal(submit(&fe.queues[0], 2), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], 20, NULL, NULL), -ETIMEDOUT);
	assert_int_equal(fe_set_u64(&fe, FE_SET_FEATURES, fe.features), 0);
	assert_int_equal(fe_queue_setup(&fe.queues[0], 0), 0);
	assert_int_equal(submit(&fe.queues[0], 3), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_inverted(3);
}

/* Requests that name a hole reach the device as such. */
static void errors_reach_the_device(void **state)
{
	struct fe_buf bufs[2] = {{0x10, 16, false}, {FE_GPA + FE_DATA, 16, true}};
	uint32_t written = 9;

	assert_int_equal(fe_start(&fe, 1, 64, ~UINT64_C(0)), 0);
	assert_int_equal(fe_submit(&fe.queues[0], bufs, 2, 0), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, &written), 1);
	assert_int_equal(written, 0);
	assert_int_equal(errors(), 1);
}

/* A device that gives a request back twice is heard once, and no slot is two requests after it. */
static void a_request_is_completed_once(void **state)
{
	struct gr_vhost_stats stats;
	uint32_t written;

	assert_int_equal(fe_start(&fe, 1, 64, ~UINT64_C(0)), 0);
	pthread_mutex_lock(&device.lock);
	device.twice = true;
	pthread_mutex_unlock(&device.lock);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(submit(&fe.queues[0], i), 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, &written), 1);
		assert_int_equal(written, 16);
		assert_inverted(i);
	}
	hold_requests();
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(submit(&fe.queues[0], i), 0);
	fe_kick(&fe.queues[0]);
	wait_held(8);
	assert_int_equal(fe_poll(&fe.queues[0], NULL, NULL), 0);
	gr_vhost_get_stats(server, &stats);
	assert_int_equal(stats.in_flight, 8);
	pthread_mutex_lock(&device.lock);
	for (unsigned i = 0; i < 8; i++)
		for (unsigned k = 0; k < i; k++)
			assert_ptr_not_equal(device.held[i], device.held[k]);
	pthread_mutex_unlock(&device.lock);
	give_back();
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
}

/* What was completed while the ring was not in memory is told once it is back. */
static void answers_wait_for_the_ring(void **state)
{
	struct fe_region region = {FE_GPA, RAM, (uintptr_t)fe.mem, 0};

	assert_int_equal(fe_start(&fe, 1, 64, ~UINT64_C(0)), 0);
	hold_requests();
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(submit(&fe.queues[0], i), 0);
	fe_kick(&fe.queues[0]);
	wait_held(5);
	assert_int_equal(fe_remove_region(&fe, &region, -1), 0);
	give_back();
	assert_int_equal(fe_wait(&fe.queues[0], 20, NULL, NULL), -ETIMEDOUT);
	assert_int_equal(fe_add_region(&fe, &region, fe.memfd), 0);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_inverted(i);
	}
}

/* The driver is told of no more bytes than it had room for, whatever the device says. */
static void a_device_that_says_too_much(void **state)
{
	uint32_t written = 0;

	assert_int_equal(fe_start(&fe, 1, 64, ~UINT64_C(0)), 0);
	hold_requests();
	assert_int_equal(submit(&fe.queues[0], 0), 0);
	fe_kick(&fe.queues[0]);
	wait_held(1);
	pthread_mutex_lock(&device.lock);
	gr_vhost_complete(device.held[--device.count], 33);
	pthread_mutex_unlock(&device.lock);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, &written), 1);
	assert_int_equal(written, 32);
}

static void a_worker_cannot_close_the_server(void **state)
{
	int rc;

	assert_int_equal(fe_start(&fe, 1, 64, ~UINT64_C(0)), 0);
	pthread_mutex_lock(&device.lock);
	device.closes = true;
	pthread_mutex_unlock(&device.lock);
	assert_int_equal(submit(&fe.queues[0], 0), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_inverted(0);
	pthread_mutex_lock(&device.lock);
	rc = device.close_rc;
	pthread_mutex_unlock(&device.lock);
	assert_int_equal(rc, -EDEADLK);
}

/* packed: with such rings. */
int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start_server, stop_server)
	const struct CMUnitTest tests[] = {
		TEST(completed_elsewhere_out_of_order),
		TEST(p17_removed_memory_stays_for_requests_in_flight),
		TEST(q2_held_ranges_take_no_new_requests),
		TEST(p28_lost_memory_is_an_error),
		TEST(stop_waits_for_requests_in_flight),
		TEST(a_full_ring_waits),
		TEST(config_is_read_and_written),
		TEST(reset_device_stops_rings_and_keeps_memory),
		TEST(errors_reach_the_device),
		TEST(a_request_is_completed_once),
		TEST(answers_wait_for_the_ring),
		TEST(a_device_that_says_too_much),
		TEST(a_worker_cannot_close_the_server),
	};

	fe_wants_packed = argc > 1 && !strcmp(argv[1], "packed");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
