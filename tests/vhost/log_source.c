/* SPDX-License-Identifier: MIT */
/*
 * A front-end on our library that lets a back-end in another process log what it writes: with
 * gr_dirty_log_open() each page that the back-end wrote is in a harvest, by block and offset, and
 * no other is.
 */
#include "backend.h"
#include "frontend.h"
#include <guestram/dirty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(8) << 20)
#define PAGE UINT64_C(4096)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | FE_F_LOG_ALL | 0xffffffu)

static struct be be;
static struct fe fe;
static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *low, *high; /* the first half of the guest's RAM, and the other */
static struct gr_dirty *client;
static struct gr_dirty_log *marks;

static struct gr_block *block_at(const char *name, uint64_t offset)
{
	const struct gr_block_opts opts = {
		.name = name,
		.backing = GR_BACKING_CALLER,
		.host = fe.mem + offset,
		.length = RAM / 2,
	};
	struct gr_block *block;

	assert_int_equal(gr_block_new(ram, &opts, &block), 0);
	assert_int_equal(
		gr_space_map(space, FE_GPA + offset, block, 0, RAM / 2, GR_READ | GR_WRITE), 0);
	return block;
}

static int start(void **state)
{
	const struct gr_dirty_opts opts = {.name = "migration"};

	if (be_start(&be, false, NULL) || fe_open(&fe, be.sock, RAM))
		return -1;
	fe.protocol_more = FE_P_LOG_SHMFD;
	assert_int_equal(gr_ram_open(NULL, &ram), 0);
	assert_int_equal(gr_space_open(ram, "gpa", &space), 0);
	low = block_at("low", 0);
	high = block_at("high", RAM / 2);
	assert_int_equal(gr_dirty_open(ram, &opts, &client), 0);
	assert_int_equal(gr_dirty_log_open(space, FE_GPA + RAM - 1, &marks), 0);
	return 0;
}

static int stop(void **state)
{
	bool died = !be_alive(&be);

	assert_int_equal(gr_dirty_log_close(marks), 0);
	assert_int_equal(gr_dirty_close(client), 0);
	assert_int_equal(gr_ram_close(ram), 0);
	fe_close(&fe);
	return died ? -1 : be_stop(&be);
}

/* The back-end logs rings and buffers from the return on. */
static void begin_logging(void)
{
	uint64_t bytes;
	int fd = gr_dirty_log_fd(marks, &bytes);

	assert_int_equal(fe_start(&fe, 1, 64, ALL & ~FE_F_LOG_ALL), 0);
	assert_int_equal(fe_set_log(&fe, fd, bytes, 0), 0);
	fe.features |= FE_F_LOG_ALL;
	assert_int_equal(fe_set_u64(&fe, FE_SET_FEATURES, fe.features), 0);
	fe.queues[0].logged = true;
	fe.queues[0].log_gpa = fe_gpa(&fe, fe.queues[0].used);
	assert_int_equal(fe_queue_tell_addr(&fe.queues[0]), 0);
}

/* Pages that a harvest of both blocks gives are set to 1, by offset in the RAM; how many. */
static unsigned harvest(uint8_t *pages)
{
	struct gr_block *const blocks[] = {low, high};
	struct gr_harvest *got;
	uint64_t offset, length;
	unsigned count = 0;

	/* the worker writes its wish for kicks after it has answered */
	nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	memset(pages, 0, RAM / PAGE);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(gr_dirty_harvest(client, blocks[i], 0, 0, &got), 0);
		while (gr_harvest_next(got, &offset, &length)) {
			memset(pages + (i * RAM / 2 + offset) / PAGE, 1, length / PAGE);
			count += (unsigned)(length / PAGE);
		}
		gr_harvest_commit(got);
	}
	return count;
}

static void pages_that_the_back_end_writes_are_harvested_and_no_other(void **state)
{
	/* over the seam of the blocks, and within the last page */
	const uint64_t seam = RAM / 2 - PAGE - 2048, end = RAM - 2048;
	static uint8_t pages[RAM / PAGE];

	begin_logging();
	harvest(pages);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, seam, 8192), VIRTIO_BLK_S_OK);
	/* three pages, the status and the used ring */
	assert_int_equal(harvest(pages), 5);
	assert_true(pages[seam / PAGE] && pages[seam / PAGE + 1] && pages[seam / PAGE + 2]);
	assert_true(pages[(FE_DATA - PAGE) / PAGE]);
	assert_true(pages[(fe_gpa(&fe, fe.queues[0].used) - FE_GPA) / PAGE]);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, end, 2048), VIRTIO_BLK_S_OK);
	assert_int_equal(harvest(pages), 3);
	assert_true(pages[RAM / PAGE - 1]);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, 0, FE_DATA, 65536),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(harvest(pages), 2); /* it read the rest */
	assert_int_equal(harvest(pages), 0);
}

/* As precopy does: copied by harvests while the back-end writes, it is the memory at the end. */
static void a_copy_by_harvests_is_the_memory(void **state)
{
	static uint8_t pages[RAM / PAGE], copy[RAM];
	unsigned rounds;

	begin_logging();
	memcpy(copy, fe.mem, RAM);
	for (rounds = 0; rounds < 60; rounds++) {
		uint64_t at = FE_DATA + rounds * 13 % 80 * PAGE / 2;

		memset(fe.mem + at, (int)rounds + 1, 65536);
		gr_mark_host(fe.mem + at, 65536); /* the guest's own */
		assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, rounds * 8, at, 65536),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, rounds * 8,
					FE_DATA + (RAM - FE_DATA) / 2 + rounds % 20 * 65536, 65536),
				 VIRTIO_BLK_S_OK);
		harvest(pages);
		for (uint64_t page = 0; page < RAM / PAGE; page++)
			if (pages[page])
				memcpy(copy + page * PAGE, fe.mem + page * PAGE, PAGE);
	}
	/* the driver's own writes to rings and request headers are nobody's to mark here */
	assert_memory_equal(copy + FE_DATA, fe.mem + FE_DATA, RAM - FE_DATA);
}

int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(pages_that_the_back_end_writes_are_harvested_and_no_other),
		TEST(a_copy_by_harvests_is_the_memory),
	};

	be_args(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
