/* SPDX-License-Identifier: MIT */
/*
 * A guest whose memory is still on its way: the test is the front-end that answers the server's
 * page faults, or that dies instead.
 */
#include "inverter.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define FEATURES (FE_F_EVENT_IDX | FE_F_INDIRECT)
#define PROTOCOL (FE_P_MQ | FE_P_REPLY_ACK | FE_P_CONFIG | FE_P_MEM_SLOTS | FE_P_PAGEFAULT)
#define PAGE UINT64_C(4096)

static int uffd = -1;
static uint64_t base; /* the server's address of our RAM */

static int start(void **state)
{
	uffd = -1;
	return start_server(state);
}

static int stop(void **state)
{
	if (uffd >= 0)
		close(uffd);
	return stop_server(state);
}

/* Skips where the system has no such thing. */
static void negotiate(void)
{
	assert_int_equal(fe_negotiate(&fe, FEATURES, PROTOCOL), 0);
	if (!(fe.protocol & FE_P_PAGEFAULT)) {
		print_message("no userfaultfd for faults in the kernel: skipped\n");
		skip();
	}
}

static int advise(void)
{
	return fe_postcopy_advise(&fe, &uffd);
}

static void send_table(void)
{
	assert_int_equal(fe_postcopy_table(&fe, &base), 0);
	assert_true(base && base != (uintptr_t)fe.mem);
}

static void send_ack(uint32_t request)
{
	assert_int_equal(fe_postcopy_ack(&fe, request), 0);
}

static void begin(void)
{
	negotiate();
	assert_int_equal(advise(), 0);
	assert_int_equal(fe_postcopy_listen(&fe), 0);
	send_table();
	send_ack(FE_SET_MEM_TABLE);
	assert_int_equal(fe_queues_start(&fe, 2, 64), 0);
}

/* The offset in our RAM of the page that somebody of the server's waits for. */
static uint64_t next_fault(void)
{
	struct pollfd wait = {.fd = uffd, .events = POLLIN};
	struct uffd_msg msg;

	assert_int_equal(poll(&wait, 1, FE_TIMEOUT_MS), 1);
	assert_int_equal(read(uffd, &msg, sizeof(msg)), sizeof(msg));
	assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
	assert_true(msg.arg.pagefault.address - base < RAM);
	return (msg.arg.pagefault.address - base) & ~(PAGE - 1);
}

static bool is_hole(uint64_t offset)
{
	return lseek(fe.memfd, (off_t)offset, SEEK_DATA) >= (off_t)(offset + PAGE) ||
	       (errno == ENXIO && lseek(fe.memfd, (off_t)offset, SEEK_DATA) < 0);
}

static void wake(uint64_t offset)
{
	struct uffdio_range range = {base + offset, PAGE};

	assert_int_equal(ioctl(uffd, UFFDIO_WAKE, &range), 0);
}

/* A request for the 16 bytes at page @out, answered into page @in; neither is touched by us. */
static void ask(unsigned out, unsigned in)
{
	struct fe_buf bufs[2] = {{FE_GPA + FE_DATA + out * PAGE, 16, false},
				 {FE_GPA + FE_DATA + in * PAGE, 16, true}};

	assert_int_equal(fe_submit(&fe.queues[0], bufs, 2, 0), 0);
	fe_kick(&fe.queues[0]);
}

static void faults_are_answered_by_the_front_end(void **state)
{
	uint64_t at;

	begin();
	for (unsigned i = 0; i < 3; i++) {
		ask(2 * i, 2 * i + 1);
		at = next_fault();
		assert_int_equal(at, FE_DATA + 2 * i * PAGE);
		/* the worker waits, and has not put a page of its own there */
		assert_int_equal(fe_wait(&fe.queues[0], 20, NULL, NULL), -ETIMEDOUT);
		assert_true(is_hole(at));
		memset(fe.mem + at, 0x30 + (int)i, PAGE);
		wake(at);
		at = next_fault();
		assert_int_equal(at, FE_DATA + (2 * i + 1) * PAGE);
		assert_true(is_hole(at));
		memset(fe.mem + at, 0x77, PAGE);
		wake(at);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe.mem[at], (uint8_t) ~(0x30 + i));
		assert_int_equal(fe.mem[at + 16], 0x77);
	}
	/* it is over: what is missing now is zero */
	assert_int_equal(fe_postcopy_end(&fe), 0);
	ask(100, 101);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(fe.mem[FE_DATA + 101 * PAGE], 0xff);
	/* and the next table is one as always */
	assert_int_equal(fe_set_table(&fe), 0);
}

/* Nobody sees a region before the front-end has said that it can answer for it. */
static void regions_wait_for_the_front_ends_word(void **state)
{
	struct fe_queue *q;

	negotiate();
	assert_int_equal(advise(), 0);
	assert_int_equal(fe_postcopy_listen(&fe), 0);
	send_table();
	assert_int_equal(fe_queues_start(&fe, 1, 64), -EREMOTEIO); /* no memory for a ring */
	q = &fe.queues[0];
	send_table(); /* in place of the first */
	send_ack(FE_SET_MEM_TABLE);
	assert_int_equal(fe_queue_tell_addr(q), 0);
	/* an empty table is one when nothing waits, and waits then, too */
	assert_int_equal(fe_ack(&fe, FE_SET_MEM_TABLE, &(uint64_t){0}, 8, NULL, 0), 0);
	assert_int_equal(fe_queue_tell_addr(q), 0);
	send_ack(FE_SET_MEM_TABLE);
	assert_int_equal(fe_queue_tell_addr(q), -EREMOTEIO);
}

static void regions_one_by_one(void **state)
{
	struct fe_mem_reg one = {0, {FE_GPA, RAM, (uintptr_t)fe.mem, 0}}, answer;
	struct fe_header header;

	negotiate();
	assert_int_equal(advise(), 0);
	assert_int_equal(fe_postcopy_listen(&fe), 0);
	for (unsigned i = 0; i < 2; i++) {
		one.region.gpa = FE_GPA + i * RAM;
		one.region.uaddr = (uintptr_t)fe.mem + i * RAM;
		assert_int_equal(fe_send(&fe, FE_ADD_MEM_REG, 0, &one, sizeof(one), &fe.memfd, 1),
				 0);
		assert_int_equal(fe_recv(&fe, &header, &answer, sizeof(answer)), sizeof(answer));
		assert_int_equal(header.request, FE_ADD_MEM_REG);
		assert_int_equal(answer.region.gpa, one.region.gpa);
		if (!i)
			base = answer.region.uaddr;
	}
	send_ack(FE_ADD_MEM_REG);
	assert_int_equal(fe_queues_start(&fe, 1, 64), 0);
	ask(0, 1);
	assert_int_equal(next_fault(), FE_DATA);
	memset(fe.mem + FE_DATA, 1, 2 * PAGE);
	wake(FE_DATA);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(fe.mem[FE_DATA + PAGE], 0xfe);
	assert_int_equal(fe_remove_region(&fe, &one.region, -1), 0);
	assert_int_equal(fe_postcopy_end(&fe), 0);
}

static void the_order_is_kept(void **state)
{
	struct fe_mem_reg cut = {0, {FE_GPA, RAM, (uintptr_t)fe.mem, 0}};

	negotiate();
	assert_int_equal(fe_postcopy_listen(&fe), -EREMOTEIO); /* not advised */
	assert_int_equal(advise(), 0);
	close(uffd);
	assert_int_equal(advise(), 0); /* another one, after a move that was called off */
	assert_int_equal(fe_set_table(&fe), 0);
	assert_int_equal(fe_postcopy_listen(&fe), -EREMOTEIO); /* memory is there already */
	assert_int_equal(fe_ack(&fe, FE_SET_MEM_TABLE, &(uint64_t){0}, 8, NULL, 0), 0);
	assert_int_equal(fe_postcopy_listen(&fe), 0);
	assert_int_equal(fe_postcopy_listen(&fe), -EREMOTEIO);
	close(uffd);
	assert_int_equal(advise(), -EREMOTEIO);
	/* half a region, or one without a descriptor, and no word that anybody waits for */
	assert_int_equal(fe_ack(&fe, FE_ADD_MEM_REG, &cut, 8, NULL, 0), -EREMOTEIO);
	assert_int_equal(fe_ack(&fe, FE_ADD_MEM_REG, &cut, sizeof(cut), NULL, 0), -EREMOTEIO);
	assert_int_equal(fe_ack(&fe, FE_REM_MEM_REG, &cut, 8, NULL, 0), -EREMOTEIO);
	send_table();
	assert_int_equal(fe_postcopy_end(&fe), 0); /* with a table that nobody waits for any more */
	assert_int_equal(fe_set_table(&fe), 0);
	assert_int_equal(fe_queues_start(&fe, 1, 64), 0);
	assert_int_equal(submit(&fe.queues[0], 3), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_inverted(3);
	/* over is over: this one has no way to be told but the end */
	assert_int_equal(fe_send(&fe, FE_POSTCOPY_END, 0, NULL, 0, NULL, 0), 0);
	assert_int_equal(fe_is_closed(&fe), 1);
}

static void serves_the_next_one(void)
{
	assert_int_equal(fe_reconnect(&fe, server_path), 0);
	assert_int_equal(fe_start(&fe, 1, 64, FEATURES), 0);
	assert_int_equal(submit(&fe.queues[0], 3), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_inverted(3);
}

/* The worker waits for a page, nobody brings it, and the process goes on. */
static void the_front_end_dies(void **state)
{
	struct sigaction before;

	assert_int_equal(sigaction(SIGBUS, &sigbus, &before), 0); /* cmocka has its own */
	begin();
	ask(0, 1);
	next_fault();
	serves_the_next_one();
	assert_int_equal(sigaction(SIGBUS, &before, NULL), 0);
}

/* And while the server's thread waits for the worker, deaf to the socket. */
static void it_dies_when_a_ring_is_stopped(void **state)
{
	struct fe_vring_state message = {0, 0};
	struct sigaction before;

	assert_int_equal(sigaction(SIGBUS, &sigbus, &before), 0);
	begin();
	ask(0, 1);
	next_fault();
	assert_int_equal(fe_send(&fe, FE_GET_VRING_BASE, 0, &message, sizeof(message), NULL, 0), 0);
	nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
	serves_the_next_one();
	assert_int_equal(sigaction(SIGBUS, &before, NULL), 0);
}

/* A page that never came is an error for its request, and no zeroes that the device would take. */
static void lost_pages_are_no_zeroes(void **state)
{
	struct sigaction before;
	struct gr_vhost_stats stats;

	assert_int_equal(sigaction(SIGBUS, &sigbus, &before), 0);
	begin();
	memset(fe.mem + FE_DATA + PAGE, 0x55, PAGE); /* room for an answer is there */
	ask(0, 1);
	next_fault();
	close(fe.sock);
	fe.sock = -1;
	for (int tries = 0; tries < 5000; tries++) {
		gr_vhost_get_stats(server, &stats);
		if (!stats.connected)
			break;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	assert_int_equal(stats.connected, 0);
	assert_int_equal(fe.mem[FE_DATA + PAGE], 0x55);
	assert_true(is_hole(FE_DATA));
	assert_int_equal(sigaction(SIGBUS, &before, NULL), 0);
}

/* Pages that the front-end has cut off, and that zero pages replaced, are taken away, too. */
static void what_was_cut_off_is_taken_away(void **state)
{
	struct sigaction before;
	uint64_t one = 1;

	assert_int_equal(sigaction(SIGBUS, &sigbus, &before), 0);
	begin();
	assert_int_equal(ftruncate(fe.memfd, 0), 0);
	/* the worker looks at its ring */
	assert_int_equal(write(fe.queues[0].kick, &one, sizeof(one)), sizeof(one));
	nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
	assert_int_equal(ftruncate(fe.memfd, RAM), 0);
	serves_the_next_one();
	assert_int_equal(sigaction(SIGBUS, &before, NULL), 0);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(faults_are_answered_by_the_front_end),
		TEST(regions_wait_for_the_front_ends_word),
		TEST(regions_one_by_one),
		TEST(the_order_is_kept),
		TEST(the_front_end_dies),
		TEST(it_dies_when_a_ring_is_stopped),
		TEST(lost_pages_are_no_zeroes),
		TEST(what_was_cut_off_is_taken_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
