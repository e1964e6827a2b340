/* SPDX-License-Identifier: MIT */
/*
 * The memory table changes while requests are in flight: nothing stops, nothing is lost, nothing
 * leaks. Ids in names are those of the catalogue of cases.
 */
#include "backend.h"
#include "frontend.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(16) << 20)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | 0xffffffu)
#define EXTRA_GPA UINT64_C(0x200000000)
#define EXTRA_UADDR UINT64_C(0x700000000000)
#define EXTRA_SIZE (UINT64_C(2) << 20)

static struct be be;
static struct fe fe;

static int start(void **state)
{
	return be_start(&be, false, NULL) || fe_open(&fe, be.sock, RAM);
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

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static long long status(const char *key)
{
	long long value = be_status(&be, key);

	if (value < 0)
		fail_msg("no %s: %lld", key, value);
	return value;
}

static void wait_reclaimed(void)
{
	assert_int_equal(be_wait_reclaimed(&be), 0);
}

static int extra_memfd(uint64_t size)
{
	int fd = memfd_create("front-end", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static struct fe_region extra(unsigned i)
{
	return (struct fe_region){EXTRA_GPA + i * EXTRA_SIZE, EXTRA_SIZE,
				  EXTRA_UADDR + i * EXTRA_SIZE, 0};
}

/* ------------------------------------------------------------------ a disk under load meanwhile */

struct load {
	struct fe_queue *q;
	pthread_t thread;
	bool stop; /* atomic */
	uint64_t done, wrong;
};

/* 8 requests in flight at all times; every read is compared with what was written. */
static void *run_load(void *arg)
{
	struct load *load = arg;
	enum { depth = 8, size = 8192 };
	uint64_t area = FE_DATA + 65536 + (uint64_t)load->q->index * depth * 2 * size;
	uint64_t meta = FE_DATA + (uint64_t)load->q->index * depth * 32;
	uint64_t round[depth] = {0};

	for (unsigned i = 0; i < depth; i++)
		round[i] = 1; /* the first read finds zeroes: write first */
	for (unsigned i = 0; i < depth; i++) {
		struct fe_buf buf = {FE_GPA + area + i * 2 * size, size, false};

		memset(fe.mem + area + i * 2 * size, (int)(i + 1), size);
		if (fe_blk_submit(load->q, meta + 32 * i, VIRTIO_BLK_T_OUT,
				  (area - FE_DATA + i * 2 * size) / 512, &buf, 1, i))
			load->wrong++;
	}
	fe_kick(load->q);
	for (unsigned flying = depth; flying;) {
		uint64_t i = 0;
		uint8_t *data;
		bool was_read;
		struct fe_buf buf;

		if (fe_wait(load->q, FE_TIMEOUT_MS, &i, NULL) != 1) {
			load->wrong++;
			return NULL;
		}
		flying--;
		data = fe.mem + area + i * 2 * size;
		was_read = !(round[i] & 1);
		if (fe_blk_status(&fe, meta + 32 * i) != VIRTIO_BLK_S_OK)
			load->wrong++;
		if (was_read && memcmp(data + size, data, size))
			load->wrong++;
		load->done++;
		round[i]++;
		if (__atomic_load_n(&load->stop, __ATOMIC_RELAXED))
			continue;
		if (round[i] & 1) {
			memset(data, (int)(i + round[i] * 7), size);
			buf = (struct fe_buf){FE_GPA + area + i * 2 * size, size, false};
		} else {
			memset(data + size, 0xee, size);
			buf = (struct fe_buf){FE_GPA + area + i * 2 * size + size, size, true};
		}
		if (fe_blk_submit(load->q, meta + 32 * i,
				  buf.write ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
				  (area - FE_DATA + i * 2 * size) / 512, &buf, 1, i))
			load->wrong++;
		fe_kick(load->q);
		flying++;
	}
	return NULL;
}

static void load_begin(struct load *load, struct fe_queue *q)
{
	*load = (struct load){.q = q};
	assert_int_equal(pthread_create(&load->thread, NULL, run_load, load), 0);
}

static uint64_t load_end(struct load *load)
{
	__atomic_store_n(&load->stop, true, __ATOMIC_RELAXED);
	pthread_join(load->thread, NULL);
	assert_int_equal(load->wrong, 0);
	return load->done;
}

/* ----------------------------------------------------------------------------------------- tests
 */

static void p16_p24_regions_come_and_go_under_load(void **state)
{
	enum { cycles = 2000 };
	struct fe_region region = extra(0);
	struct load load[2];
	int fds, maps, fd;
	uint64_t done = 0;

	assert_int_equal(fe_start(&fe, 2, 64, ALL), 0);
	fd = extra_memfd(EXTRA_SIZE);
	assert_int_equal(fe_add_region(&fe, &region, fd), 0);
	assert_int_equal(fe_remove_region(&fe, &region, -1), 0);
	wait_reclaimed();
	fds = be_fds(&be);
	maps = be_guest_maps(&be);
	for (unsigned i = 0; i < 2; i++)
		load_begin(&load[i], &fe.queues[i]);
	for (unsigned i = 0; i < cycles; i++) {
		assert_int_equal(fe_add_region(&fe, &region, fd), 0);
		assert_int_equal(fe_remove_region(&fe, &region, -1), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		done += load_end(&load[i]);
	assert_true(done > 100);
	wait_reclaimed();
	assert_int_equal(be_fds(&be), fds);
	assert_int_equal(be_guest_maps(&be), maps);
	assert_int_equal(status("blocks"), 1);
	assert_int_equal(status("ranges"), 2);
	assert_true(status("blocks_reclaimed") >= cycles);
	close(fd);
}

/* The whole table, with the ring in it, is replaced: queues go on, by the new addresses. */
static void p24_tables_replaced_under_load(void **state)
{
	enum { cycles = 1000 };
	struct load load;
	int fds, maps;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_int_equal(fe_set_table(&fe), 0);
	wait_reclaimed();
	fds = be_fds(&be);
	maps = be_guest_maps(&be);
	load_begin(&load, &fe.queues[0]);
	for (unsigned i = 0; i < cycles; i++)
		assert_int_equal(fe_set_table(&fe), 0);
	assert_true(load_end(&load) > 100);
	wait_reclaimed();
	assert_int_equal(be_fds(&be), fds);
	assert_int_equal(be_guest_maps(&be), maps);
	assert_true(status("table_changes") >= cycles);
}

/* Q2, Q3: the same address gets other memory; requests see the new one at once. */
static void q2_q3_a_new_block_at_the_same_address(void **state)
{
	struct fe_region region = extra(0);

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	for (unsigned i = 1; i <= 50; i++) {
		uint64_t meta = FE_DATA - 8192;
		struct fe_buf buf = {region.gpa, 4096, false};
		int fd = extra_memfd(EXTRA_SIZE);
		uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		assert_ptr_not_equal(page, MAP_FAILED);
		memset(page, (int)i, 4096);
		assert_int_equal(fe_add_region(&fe, &region, fd), 0);
		assert_int_equal(
			fe_blk_submit(&fe.queues[0], meta, VIRTIO_BLK_T_OUT, 0, &buf, 1, 0), 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe_blk_status(&fe, meta), VIRTIO_BLK_S_OK);
		assert_int_equal(fe_remove_region(&fe, &region, -1), 0);
		munmap(page, 4096);
		close(fd);
		/* it is gone: an error for the request, nothing worse */
		assert_int_equal(
			fe_blk_submit(&fe.queues[0], meta, VIRTIO_BLK_T_OUT, 0, &buf, 1, 0), 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe_blk_status(&fe, meta), VIRTIO_BLK_S_IOERR);
		assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 4096),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(fe.mem[FE_DATA], (int)i);
		assert_int_equal(fe.mem[FE_DATA + 4095], (int)i);
	}
	wait_reclaimed();
	assert_int_equal(be_guest_maps(&be), 1);
	assert_int_equal(status("bad_requests"), 50);
}

static void p22_509_regions_and_no_more(void **state)
{
	uint64_t slots = 0;
	int fd;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_int_equal(fe_get_u64(&fe, FE_GET_MAX_MEM_SLOTS, &slots), 0);
	assert_int_equal(slots, 509);
	fd = extra_memfd(EXTRA_SIZE);
	for (unsigned i = 0; i < 508; i++) {
		struct fe_region region = extra(i);

		assert_int_equal(fe_add_region(&fe, &region, fd), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		struct fe_region region = extra(508 + i);

		assert_int_equal(fe_add_region(&fe, &region, fd), -EREMOTEIO);
	}
	assert_int_equal(status("ranges"), 2 * 509);
	assert_int_equal(be_guest_maps(&be), 509);
	/* the others are intact */
	for (unsigned i = 0; i < 508; i += 127) {
		struct fe_buf buf = {extra(i).gpa + 4096, 512, true};

		assert_int_equal(fe_blk_submit(&fe.queues[0], FE_DATA - 8192, VIRTIO_BLK_T_IN, 0,
					       &buf, 1, 0),
				 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe_blk_status(&fe, FE_DATA - 8192), VIRTIO_BLK_S_OK);
	}
	/* and one may come when one has gone */
	assert_int_equal(
		fe_remove_region(
			&fe, &(struct fe_region){extra(7).gpa, EXTRA_SIZE, extra(7).uaddr, 0}, -1),
		0);
	assert_int_equal(
		fe_add_region(&fe,
			      &(struct fe_region){extra(508).gpa, EXTRA_SIZE, extra(508).uaddr, 0},
			      fd),
		0);
	close(fd);
}

/* P8: a buffer over two regions whose memory is apart; and a table that straddles them too. */
static void p8_buffers_cross_regions(void **state)
{
	struct fe_region first = extra(0), second = extra(1);
	struct fe_buf buf = {second.gpa - 2048, 4096, false};
	uint64_t meta = FE_DATA - 8192;
	struct fe_queue *q;
	struct vring_desc table[3];
	uint8_t *a, *b;
	int fd;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	q = &fe.queues[0];
	fd = extra_memfd(2 * EXTRA_SIZE);
	first.offset = EXTRA_SIZE; /* in the other order in the file */
	assert_int_equal(fe_add_region(&fe, &first, fd), 0);
	assert_int_equal(fe_add_region(&fe, &second, fd), 0);
	b = mmap(NULL, 2 * EXTRA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(b, MAP_FAILED);
	a = b + EXTRA_SIZE;
	memset(a + EXTRA_SIZE - 2048, 0x11, 2048);
	memset(b, 0x22, 2048);
	assert_int_equal(fe_blk_submit(q, meta, VIRTIO_BLK_T_OUT, 0, &buf, 1, 0), 0);
	fe_kick(q);
	assert_int_equal(fe_wait(q, FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(fe_blk_status(&fe, meta), VIRTIO_BLK_S_OK);
	assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(fe.mem[FE_DATA], 0x11);
	assert_int_equal(fe.mem[FE_DATA + 2047], 0x11);
	assert_int_equal(fe.mem[FE_DATA + 2048], 0x22);
	assert_int_equal(fe.mem[FE_DATA + 4095], 0x22);

	/* an indirect table, 24 bytes of it in the first region: a descriptor is split */
	table[0] = (struct vring_desc){FE_GPA + meta, 16, VRING_DESC_F_NEXT, 1};
	table[1] = (struct vring_desc){FE_GPA + FE_DATA, 512,
				       VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2};
	table[2] = (struct vring_desc){FE_GPA + meta + 16, 1, VRING_DESC_F_WRITE, 0};
	memcpy(a + EXTRA_SIZE - 24, table, 24);
	memcpy(b, (char *)table + 24, 24);
	((struct virtio_blk_outhdr *)(void *)(fe.mem + meta))->type = VIRTIO_BLK_T_IN;
	fe.mem[meta + 16] = 0xff;
	q->desc[q->free_head].addr = second.gpa - 24;
	q->desc[q->free_head].len = sizeof(table);
	q->desc[q->free_head].flags = VRING_DESC_F_INDIRECT;
	q->avail->ring[q->avail_idx % q->num] = q->free_head;
	q->chain_length[q->free_head] = 1;
	q->free_head = q->desc[q->free_head].next;
	q->free_count--;
	q->avail_idx++;
	fe_kick(q);
	assert_int_equal(fe_wait(q, FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(fe_blk_status(&fe, meta), VIRTIO_BLK_S_OK);
	munmap(b, 2 * EXTRA_SIZE);
	close(fd);
}

/* A chain whose @count buffers each lie over two regions: two pieces each, and header and status.
 */
static void offer_split_chain(struct fe_queue *q, uint64_t border, unsigned count)
{
	uint64_t meta = FE_DATA - 8192, place = FE_DATA - 65536;
	struct vring_desc *table = (struct vring_desc *)(void *)(fe.mem + place);

	memset(fe.mem + meta, 0, 16);
	fe.mem[meta + 16] = 0xff;
	table[0] = (struct vring_desc){FE_GPA + meta, 16, VRING_DESC_F_NEXT, 1};
	for (unsigned i = 1; i <= count; i++)
		table[i] = (struct vring_desc){border - 512, 1024,
					       VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
					       (uint16_t)(i + 1)};
	table[count + 1] = (struct vring_desc){FE_GPA + meta + 16, 1, VRING_DESC_F_WRITE, 0};
	q->desc[0].addr = FE_GPA + place;
	q->desc[0].len = (count + 2) * sizeof(*table);
	q->desc[0].flags = VRING_DESC_F_INDIRECT;
	q->chain_length[0] = 1;
	q->avail->ring[q->avail_idx++ % q->num] = 0;
	fe_kick(q);
}

/* P8: 1,024 pieces are a request as any other, and the queue stops at one more buffer. */
static void p8_as_many_pieces_as_there_may_be(void **state)
{
	struct fe_region first = extra(0), second = extra(1);
	struct pollfd error;
	struct fe_queue *q;
	int fd;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	q = &fe.queues[0];
	fd = extra_memfd(2 * EXTRA_SIZE);
	first.offset = EXTRA_SIZE;
	assert_int_equal(fe_add_region(&fe, &first, fd), 0);
	assert_int_equal(fe_add_region(&fe, &second, fd), 0);
	offer_split_chain(q, second.gpa, 511);
	assert_int_equal(fe_wait(q, FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(fe_blk_status(&fe, FE_DATA - 8192), VIRTIO_BLK_S_OK);
	error = (struct pollfd){.fd = q->err, .events = POLLIN};
	assert_int_equal(poll(&error, 1, 0), 0);
	offer_split_chain(q, second.gpa, 512);
	assert_int_equal(poll(&error, 1, FE_TIMEOUT_MS), 1);
	assert_int_equal(q->used->idx, q->last_used); /* nothing was answered */
	assert_int_equal(fe_queue_stop(q, NULL), 0);
	assert_int_equal(fe_queue_setup(q, 0), 0);
	assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
	close(fd);
}

/* P26: offsets in the file are honoured, once, and cost no address space. */
static void p26_offset_in_the_descriptor(void **state)
{
	struct fe_region region = {EXTRA_GPA, 1 << 20, EXTRA_UADDR, UINT64_C(3) << 30};
	uint64_t meta = FE_DATA - 8192;
	struct fe_buf buf = {EXTRA_GPA + 8192, 512, false};
	uint8_t *page;
	int fd;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	fd = extra_memfd(region.offset + region.size);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    (off_t)region.offset + 8192);
	assert_ptr_not_equal(page, MAP_FAILED);
	memset(page, 0x5a, 4096);
	assert_int_equal(fe_add_region(&fe, &region, fd), 0);
	assert_int_equal(status("bytes"), RAM + region.size);
	assert_int_equal(fe_blk_submit(&fe.queues[0], meta, VIRTIO_BLK_T_OUT, 0, &buf, 1, 0), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(fe.mem[FE_DATA], 0x5a);
	assert_int_equal(fe.mem[FE_DATA + 511], 0x5a);
	munmap(page, 4096);
	close(fd);
}

/* The region that holds the ring goes and comes back: the queue waits, then goes on. */
static void q2_the_ring_leaves_and_returns(void **state)
{
	struct fe_region region = {FE_GPA, RAM, (uintptr_t)fe.mem, 0};

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < 20; i++) {
		struct fe_buf buf = {FE_GPA + FE_DATA, 512, true};
		uint64_t meta = FE_DATA - 8192;

		assert_int_equal(fe_remove_region(&fe, &region, -1), 0);
		assert_int_equal(fe_blk_submit(&fe.queues[0], meta, VIRTIO_BLK_T_IN, 0, &buf, 1, 0),
				 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], 5, NULL, NULL), -ETIMEDOUT);
		/* by either message */
		assert_int_equal(i & 1 ? fe_set_table(&fe) : fe_add_region(&fe, &region, fe.memfd),
				 0);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe_blk_status(&fe, meta), VIRTIO_BLK_S_OK);
	}
	wait_reclaimed();
	assert_int_equal(be_guest_maps(&be), 1);
}

/* A front-end that dies with requests in flight leaves nothing behind. */
static void p24_front_ends_that_vanish(void **state)
{
	int fds = -1, maps = -1;
	uint64_t features;

	for (unsigned i = 0; i < 40; i++) {
		if (i)
			assert_int_equal(fe_reconnect(&fe, be.sock), 0);
		assert_int_equal(fe_start(&fe, 2, 64, ALL), 0);
		if (i == 5) {
			wait_reclaimed();
			fds = be_fds(&be);
			maps = be_guest_maps(&be);
		}
		for (unsigned k = 0; k < 16; k++) {
			struct fe_buf buf = {FE_GPA + FE_DATA + 65536 * (1 + k), 65536, k & 1};

			assert_int_equal(fe_blk_submit(&fe.queues[k % 2], FE_DATA + 32 * k,
						       k & 1 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
						       k * 128, &buf, 1, k),
					 0);
		}
		fe_kick(&fe.queues[0]);
		fe_kick(&fe.queues[1]);
	}
	wait_reclaimed();
	assert_int_equal(be_fds(&be), fds);
	assert_int_equal(be_guest_maps(&be), maps);
	assert_int_equal(fe_queue_stop(&fe.queues[0], NULL), 0);
	assert_int_equal(fe_queue_stop(&fe.queues[1], NULL), 0);
	assert_int_equal(status("in_flight"), 0);
	assert_int_equal(be_wait_zero(&be, "pins"), 0);
	/* the next one finds nothing of its memory */
	assert_true(maps > 0);
	assert_int_equal(fe_reconnect(&fe, be.sock), 0);
	assert_int_equal(fe_get_u64(&fe, FE_GET_FEATURES, &features), 0);
	wait_reclaimed();
	assert_int_equal(be_guest_maps(&be), 0);
}

/* P28: memory whose file is cut short under us: errors, never a dead process. */
static void p28_truncated_data_is_an_io_error(void **state)
{
	struct fe_region region = extra(0);
	uint64_t meta = FE_DATA - 8192;
	struct fe_buf buf = {region.gpa, 4096, true};
	int fd;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	fd = extra_memfd(EXTRA_SIZE);
	assert_int_equal(fe_add_region(&fe, &region, fd), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	for (unsigned type = VIRTIO_BLK_T_IN; type <= VIRTIO_BLK_T_OUT; type++) {
		buf.write = type == VIRTIO_BLK_T_IN;
		assert_int_equal(fe_blk_submit(&fe.queues[0], meta, type, 0, &buf, 1, 0), 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe_blk_status(&fe, meta), VIRTIO_BLK_S_IOERR);
	}
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
	close(fd);
}

static void p28_truncated_header_is_an_io_error(void **state)
{
	struct fe_region region = extra(0);
	struct fe_buf bufs[3] = {
		{region.gpa, 16, false},
		{FE_GPA + FE_DATA, 512, true},
		{FE_GPA + FE_DATA + 512, 1, true},
	};
	int fd;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	fd = extra_memfd(EXTRA_SIZE);
	assert_int_equal(fe_add_region(&fe, &region, fd), 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	for (unsigned i = 0; i < 3; i++) {
		fe.mem[FE_DATA] = 0x77;
		fe.mem[FE_DATA + 512] = 0xff;
		assert_int_equal(fe_submit(&fe.queues[0], bufs, 3, 0), 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe.mem[FE_DATA + 512], VIRTIO_BLK_S_IOERR);
		assert_int_equal(fe.mem[FE_DATA], 0x77); /* not taken for a read of sector 0 */
	}
	/* the page that stands in for the lost one now is not written to the disk */
	for (unsigned i = 0; i < 3; i++) {
		struct fe_buf lost = {region.gpa, 4096, false};

		assert_int_equal(fe_blk_submit(&fe.queues[0], FE_DATA - 8192, VIRTIO_BLK_T_OUT, 0,
					       &lost, 1, 0),
				 0);
		fe_kick(&fe.queues[0]);
		assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
		assert_int_equal(fe_blk_status(&fe, FE_DATA - 8192), VIRTIO_BLK_S_IOERR);
	}
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
	close(fd);
}

static void p28_truncated_rings_do_no_harm(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		struct fe_queue *q;

		assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
		q = &fe.queues[0];
		assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
		assert_int_equal(ftruncate(fe.memfd, 0), 0);
		for (unsigned k = 0; k < 10; k++) {
			uint64_t one = 1;

			assert_int_equal(write(q->kick, &one, sizeof(one)), sizeof(one));
			sleep_ms(1);
		}
		assert_true(be_alive(&be));
		fe_close(&fe);
		/* the next front-end finds a working disk */
		assert_int_equal(fe_open(&fe, be.sock, RAM), 0);
	}
	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
}

int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(p16_p24_regions_come_and_go_under_load),
		TEST(p24_tables_replaced_under_load),
		TEST(q2_q3_a_new_block_at_the_same_address),
		TEST(p22_509_regions_and_no_more),
		TEST(p8_buffers_cross_regions),
		TEST(p8_as_many_pieces_as_there_may_be),
		TEST(p26_offset_in_the_descriptor),
		TEST(q2_the_ring_leaves_and_returns),
		TEST(p24_front_ends_that_vanish),
		TEST(p28_truncated_data_is_an_io_error),
		TEST(p28_truncated_header_is_an_io_error),
		TEST(p28_truncated_rings_do_no_harm),
	};

	be_args(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
