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

/* Room for three pages of data, of which the answer is 16 bytes. Returns the first one's number. */
static uint64_t ask(unsigned i)
{
	uint64_t at = FE_DATA + (4 * i + 2) * PAGE;
	struct fe_buf bufs[2] = {{FE_GPA + FE_DATA, 16, false}, {FE_GPA + at, 3 * PAGE, true}};

	assert_int_equal(fe_submit(&fe.queues[0], bufs, 2, i), 0);
	return at / PAGE;
}

static void answer(void)
{
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	sleep_us(5000); /* the worker sleeps: its wish for kicks was stored */
}

static uint64_t page_of(const void *host)
{
	return ((const uint8_t *)host - fe.mem) / PAGE;
}

static void a_client_sees_what_the_server_writes(void **state)
{
	const struct gr_dirty_opts opts = {.name = "test"};
	struct gr_dirty *client;
	uint64_t pages[4];

	assert_int_equal(fe_start(&fe, 1, 64, FEATURES), 0);
	assert_ok(gr_dirty_open(gr_vhost_ram(server), &opts, &client));
	for (unsigned i = 0; i < 2; i++) {
		uint64_t page = ask(i);
		unsigned at = 0;

		sleep_us(5000);
		harvest(client, pages, 0);
		answer();
		assert_int_equal(harvest(client, pages, COUNT_OF(pages)), fe.packed ? 3 : 2);
		if (fe.packed)
			assert_int_equal(pages[at++], page_of(fe.queues[0].desc));
		assert_int_equal(pages[at++], page_of(fe.queues[0].used));
		assert_int_equal(pages[at++], page);
	}
	assert_int_equal(harvest(client, pages, 0), 0);
	assert_ok(gr_dirty_close(client));
}

static void packed_client(void **state)
{
	fe.packed = true;
	a_client_sees_what_the_server_writes(state);
}

/* ------------------------------------------------------------------------- the front-end's log */

static unsigned take_bits(uint8_t *log, const uint64_t *pages, unsigned count)
{
	unsigned bits = 0, found = 0;

	for (unsigned i = 0; i < count; i++)
		found += log[pages[i] / 8] >> pages[i] % 8 & 1;
	assert_int_equal(found, count);
	for (uint64_t i = 0; i < LOG_SIZE; i++)
		bits += (unsigned)__builtin_popcount(
			__atomic_exchange_n(&log[i], 0, __ATOMIC_ACQ_REL));
	return bits;
}

/*
 * Of a packed ring the log address is that of our wish for kicks; its descriptors are logged where
 * the guest has them, also when that place changes.
 */
static void packed_rings_are_logged(void **state)
{
	int fd = memfd_create("front-end", MFD_CLOEXEC);
	struct fe_region region = {FE_GPA, RAM, (uintptr_t)fe.mem, 0};
	uint64_t pages[3];
	struct fe_queue *q;
	uint8_t *log;

	assert_int_equal(ftruncate(fd, LOG_SIZE), 0);
	log = mmap(NULL, LOG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(log, MAP_FAILED);
	fe.packed = true;
	fe.protocol_more = FE_P_LOG_SHMFD;
	assert_int_equal(fe_start(&fe, 1, 64, FEATURES | FE_F_LOG_ALL), 0);
	q = &fe.queues[0];
	assert_int_equal(fe_set_log(&fe, fd, LOG_SIZE, 0), 0);
	q->logged = true;
	q->log_gpa = (UINT64_C(5) << 20);
	assert_int_equal(fe_queue_tell_addr(q), 0);
	pages[2] = FE_GPA / PAGE + ask(0);
	sleep_us(5000);
	take_bits(log, NULL, 0);
	answer();
	pages[0] = FE_GPA / PAGE + page_of(q->desc);
	pages[1] = q->log_gpa / PAGE;
	assert_int_equal(take_bits(log, pages, 3), 3);
	/* the guest has its memory elsewhere now, lower, so that the log reaches it */
	assert_int_equal(fe_remove_region(&fe, &region, -1), 0);
	region.gpa -= RAM;
	assert_int_equal(fe_add_region(&fe, &region, fe.memfd), 0);
	pages[0] -= RAM / PAGE;
	take_bits(log, pages, 1); /* what was written meanwhile may have been marked there */
	assert_int_equal(fe_submit(q, &(struct fe_buf){region.gpa + FE_DATA, 16, false}, 1, 0), 0);
	answer();
	assert_int_equal(take_bits(log, pages, 2), 2);
	munmap(log, LOG_SIZE);
	close(fd);
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
	__atomic_store_n(&gr__hook_point, stop_at, __ATOMIC_RELEASE); /* pairs: gr__point() */
	arm("log.mark");
	fe_kick(&fe.queues[0]);
	assert_true(gate_wait(&arrived));
	assert_int_equal(pthread_create(&thread, NULL, set_log, &fds[1]), 0);
	sleep_us(50000);
	assert_int_equal(get(&answered), 0);
	gate_open(&go_on);
	pthread_join(thread, &rc);
	__atomic_store_n(&gr__hook_point, NULL, __ATOMIC_RELEASE);
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
		TEST(packed_client),
		TEST(packed_rings_are_logged),
		TEST(a_log_stays_while_somebody_marks_in_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
