/* SPDX-License-Identifier: MIT */
/*
 * What any vhost-user-blk back-end must do, run against ours and QEMU's: the front-end is proven by
 * a back-end that we did not write. Where ours promises more, the test says so.
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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(16) << 20)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | ~UINT64_C(0) >> 40)
#define BLK(bit) (UINT64_C(1) << (bit))
#define PLAIN 0xffffffu /* the device's own features, none of the ring's */

static struct be be;
static struct fe fe;

static int start_writable(void **state)
{
	return be_start(&be, false, NULL) || fe_open(&fe, be.sock, RAM);
}

static int start_read_only(void **state)
{
	return be_start(&be, true, NULL) || fe_open(&fe, be.sock, RAM);
}

static int stop(void **state)
{
	int rc;

	fe_close(&fe);
	if (!be_alive(&be)) {
		char *log = be_read_log(&be);

		print_error("the back-end died:\n%s\n", log);
		free(log);
		return -1;
	}
	rc = be_stop(&be);
	if (rc)
		print_error("the back-end ended with %d\n", rc);
	return rc;
}

static void pattern(uint8_t *bytes, uint64_t length, uint64_t seed)
{
	for (uint64_t i = 0; i < length; i += 8) {
		uint64_t value = (seed + i) * UINT64_C(0x9e3779b97f4a7c15);

		memcpy(bytes + i, &value, 8);
	}
}

static bool has_pattern(const uint8_t *bytes, uint64_t length, uint64_t seed)
{
	for (uint64_t i = 0; i < length; i += 8) {
		uint64_t value = (seed + i) * UINT64_C(0x9e3779b97f4a7c15);

		if (memcmp(bytes + i, &value, 8))
			return false;
	}
	return true;
}

static bool is_zero(const uint8_t *bytes, uint64_t length)
{
	for (uint64_t i = 0; i < length; i++)
		if (bytes[i])
			return false;
	return true;
}

static void config_tells_the_disk(void **state)
{
	struct virtio_blk_config config;

	assert_int_equal(fe_negotiate(&fe, ALL, FE_P_MQ | FE_P_REPLY_ACK | FE_P_CONFIG), 0);
	assert_true(fe.features & FE_F_VERSION_1);
	assert_true(fe.features & FE_F_EVENT_IDX);
	assert_true(fe.features & FE_F_INDIRECT);
	assert_true(fe.features & BLK(VIRTIO_BLK_F_FLUSH));
	assert_false(fe.features & BLK(VIRTIO_BLK_F_RO));
	assert_int_equal(fe.queue_max, BE_QUEUES);
	assert_int_equal(fe_get_config(&fe, 0, &config, 60), 0);
	assert_int_equal(config.capacity, BE_IMAGE_SIZE / 512);
	assert_int_equal(config.blk_size, 512);
	assert_int_equal(config.num_queues, BE_QUEUES);
	assert_in_range(config.seg_max, 1, 1022);
	if (be.ours) {
		struct virtio_blk_config part;

		assert_int_equal(fe_get_config(&fe, 8, &part, 16), 0);
		assert_memory_equal(&part, (char *)&config + 8, 16);
		/* past the end: the reply has no payload */
		assert_int_equal(fe_get_config(&fe, 250, &part, 8), -EREMOTEIO);
		assert_int_equal(fe_get_config(&fe, UINT32_MAX, &part, 8), -EREMOTEIO);
	}
}

static void write_read_verify(uint64_t features)
{
	int fd;
	uint8_t *back;

	assert_int_equal(fe_start(&fe, 1, 64, features), 0);
	pattern(fe.mem + FE_DATA, 65536, 1);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, 8, FE_DATA, 65536),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 8, FE_DATA + 65536, 65536),
			 VIRTIO_BLK_S_OK);
	assert_true(has_pattern(fe.mem + FE_DATA + 65536, 65536, 1));
	/* the neighbours: before, and after */
	memset(fe.mem + FE_DATA, 0xaa, 4096);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 4096), VIRTIO_BLK_S_OK);
	assert_true(is_zero(fe.mem + FE_DATA, 4096));
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 8 + 128, FE_DATA, 4096),
			 VIRTIO_BLK_S_OK);
	assert_true(is_zero(fe.mem + FE_DATA, 4096));
	/* and in the file itself */
	back = malloc(65536);
	fd = open(be.image, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, back, 65536, 4096), 65536);
	assert_true(has_pattern(back, 65536, 1));
	close(fd);
	free(back);
}

static void write_read_plain_ring(void **state)
{
	write_read_verify(PLAIN);
}

static void write_read_indirect(void **state)
{
	write_read_verify(PLAIN | FE_F_INDIRECT);
}

static void write_read_event_idx(void **state)
{
	write_read_verify(PLAIN | FE_F_EVENT_IDX);
}

static void write_read_everything(void **state)
{
	write_read_verify(ALL);
}

/* Header and status may be split anywhere, data in many pieces (virtio 1.x, 2.7.4). */
static void any_layout(void **state)
{
	struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_OUT, .sector = 40};
	uint64_t meta = FE_DATA - 8192;
	struct fe_buf bufs[FE_TABLE];
	uint32_t written = 0;
	unsigned n = 0;

	assert_int_equal(fe_start(&fe, 1, 64, PLAIN), 0);
	pattern(fe.mem + FE_DATA, 4096, 7);
	memcpy(fe.mem + meta, &header, 16);
	bufs[n++] = (struct fe_buf){FE_GPA + meta, 5, false};
	bufs[n++] = (struct fe_buf){FE_GPA + meta + 5, 11, false};
	for (unsigned at = 0; at < 4096; at += 1024)
		bufs[n++] = (struct fe_buf){FE_GPA + FE_DATA + at, 1024, false};
	bufs[n++] = (struct fe_buf){FE_GPA + meta + 16, 1, true};
	fe.mem[meta + 16] = 0xff;
	assert_int_equal(fe_submit(&fe.queues[0], bufs, n, 0), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	assert_int_equal(fe_blk_status(&fe, meta), VIRTIO_BLK_S_OK);

	/* the status in one descriptor with the data */
	header.type = VIRTIO_BLK_T_IN;
	memcpy(fe.mem + meta, &header, 16);
	bufs[0] = (struct fe_buf){FE_GPA + meta, 16, false};
	bufs[1] = (struct fe_buf){FE_GPA + FE_DATA + 8192, 4097, true};
	fe.mem[FE_DATA + 8192 + 4096] = 0xff;
	assert_int_equal(fe_submit(&fe.queues[0], bufs, 2, 0), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, &written), 1);
	assert_int_equal(fe.mem[FE_DATA + 8192 + 4096], VIRTIO_BLK_S_OK);
	assert_true(has_pattern(fe.mem + FE_DATA + 8192, 4096, 7));
	assert_int_equal(written, 4097);
}

static void outside_the_disk(void **state)
{
	uint64_t sectors = BE_IMAGE_SIZE / 512;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, sectors - 8, FE_DATA, 4096),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, sectors - 7, FE_DATA, 4096),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, sectors, FE_DATA, 512),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, UINT64_MAX / 512, FE_DATA, 512),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, UINT64_MAX, FE_DATA, 512),
			 VIRTIO_BLK_S_IOERR);
	if (be.ours) /* not a number of sectors */
		assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, 0, FE_DATA, 511),
				 VIRTIO_BLK_S_IOERR);
}

static void get_id(void **state)
{
	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	memset(fe.mem + FE_DATA, 0xaa, 64);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_GET_ID, 0, FE_DATA, 20),
			 VIRTIO_BLK_S_OK);
	assert_int_not_equal(fe.mem[FE_DATA], 0xaa);
	assert_int_equal(fe.mem[FE_DATA + 20], 0xaa);
}

static void unsupported(void **state)
{
	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_int_equal(fe_blk(&fe.queues[0], 0x7777, 0, FE_DATA, 512), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
}

static int zero_or_discard(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes what = {
		.sector = sector, .num_sectors = sectors, .flags = flags};

	memcpy(fe.mem + FE_DATA, &what, sizeof(what));
	return fe_blk(&fe.queues[0], type, 0, FE_DATA, sizeof(what));
}

static void discard_and_write_zeroes(void **state)
{
	struct stat before, after;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_true(fe.features & BLK(VIRTIO_BLK_F_DISCARD));
	assert_true(fe.features & BLK(VIRTIO_BLK_F_WRITE_ZEROES));
	pattern(fe.mem + FE_DATA + 4096, 1 << 20, 3);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, 0, FE_DATA + 4096, 1 << 20),
			 VIRTIO_BLK_S_OK);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(stat(be.image, &before), 0);
	assert_int_equal(zero_or_discard(VIRTIO_BLK_T_DISCARD, 8, 1024, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(stat(be.image, &after), 0);
	assert_true(after.st_blocks < before.st_blocks);
	assert_int_equal(after.st_size, before.st_size);

	assert_int_equal(zero_or_discard(VIRTIO_BLK_T_WRITE_ZEROES, 1100, 8, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 1092, FE_DATA + 4096, 24 * 512),
			 VIRTIO_BLK_S_OK);
	assert_true(has_pattern(fe.mem + FE_DATA + 4096, 8 * 512, 3 + 1092 * 512));
	assert_true(is_zero(fe.mem + FE_DATA + 4096 + 8 * 512, 8 * 512));
	assert_true(has_pattern(fe.mem + FE_DATA + 4096 + 16 * 512, 8 * 512, 3 + 1108 * 512));

	assert_int_equal(zero_or_discard(VIRTIO_BLK_T_DISCARD, BE_IMAGE_SIZE / 512, 8, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(zero_or_discard(VIRTIO_BLK_T_DISCARD, UINT64_MAX - 3, 8, 0),
			 VIRTIO_BLK_S_IOERR);
	/* unmap is not a flag of discard, and there is no bit 1 */
	assert_int_equal(zero_or_discard(VIRTIO_BLK_T_DISCARD, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(zero_or_discard(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
}

/* Many in flight on all queues at once; every one comes back, with its own data. */
static void many_queues_deep(void **state)
{
	enum { depth = 32, rounds = 20, size = 4096 };
	uint64_t meta = FE_DATA;
	uint64_t data = FE_DATA + 65536;

	assert_int_equal(fe_start(&fe, BE_QUEUES, 128, ALL), 0);
	for (unsigned round = 0; round < rounds; round++) {
		bool read = round & 1;

		for (unsigned i = 0; i < depth * BE_QUEUES; i++) {
			struct fe_queue *q = &fe.queues[i % BE_QUEUES];
			struct fe_buf buf = {FE_GPA + data + size * i, size, read};

			if (read)
				memset(fe.mem + data + size * i, 0xee, size);
			else
				pattern(fe.mem + data + size * i, size, i + 1000 * round);
			assert_int_equal(fe_blk_submit(q, meta + 32 * i,
						       read ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
						       i * (size / 512), &buf, 1, i),
					 0);
		}
		for (unsigned i = 0; i < BE_QUEUES; i++)
			fe_kick(&fe.queues[i]);
		for (unsigned i = 0; i < BE_QUEUES; i++) {
			uint64_t seen = 0;

			for (unsigned k = 0; k < depth; k++) {
				uint64_t cookie = 0;

				assert_int_equal(
					fe_wait(&fe.queues[i], FE_TIMEOUT_MS, &cookie, NULL), 1);
				assert_int_equal(cookie % BE_QUEUES, i);
				assert_false(seen & BLK(cookie / BE_QUEUES));
				seen |= BLK(cookie / BE_QUEUES);
				assert_int_equal(fe_blk_status(&fe, meta + 32 * cookie),
						 VIRTIO_BLK_S_OK);
			}
		}
		for (unsigned i = 0; read && i < depth * BE_QUEUES; i++)
			assert_true(has_pattern(fe.mem + data + size * i, size,
						i + 1000 * (round - 1)));
	}
}

/* The ring's index goes round 2^16 and nothing is lost; suppression must not lose a wake-up. */
static void index_wraps(void **state)
{
	struct fe_queue *q;
	unsigned done = 0;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	q = &fe.queues[0];
	while (done < 70000) {
		unsigned batch = 1 + done % 16;

		for (unsigned i = 0; i < batch; i++)
			assert_int_equal(
				fe_blk_submit(q, FE_DATA + 32 * i, VIRTIO_BLK_T_GET_ID, 0,
					      &(struct fe_buf){FE_GPA + FE_DATA + 8192, 20, true},
					      1, i),
				0);
		fe_kick(q);
		for (unsigned i = 0; i < batch; i++)
			assert_int_equal(fe_wait(q, FE_TIMEOUT_MS, NULL, NULL), 1);
		done += batch;
	}
}

static void stop_gives_the_index_and_start_goes_on(void **state)
{
	uint32_t base = 0xffff;
	struct fe_queue *q;

	assert_int_equal(fe_start(&fe, 2, 64, ALL), 0);
	q = &fe.queues[1];
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(fe_queue_stop(q, &base), 0);
	assert_int_equal(base, q->packed ? fe_packed_base(q) : 5);
	assert_int_equal(fe_queue_setup(q, base), 0);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(fe_queue_stop(q, &base), 0);
	assert_int_equal(base, q->packed ? fe_packed_base(q) : 10);
}

static void reconnect(void **state)
{
	int fds = 0;

	for (unsigned i = 0; i < 10; i++) {
		if (i)
			assert_int_equal(fe_reconnect(&fe, be.sock), 0);
		assert_int_equal(fe_start(&fe, 1 + i % BE_QUEUES, 64, ALL), 0);
		pattern(fe.mem + FE_DATA, 4096, i);
		assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, i, FE_DATA, 4096),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, i, FE_DATA + 4096, 4096),
				 VIRTIO_BLK_S_OK);
		assert_true(has_pattern(fe.mem + FE_DATA + 4096, 4096, i));
		if (i == 5 && be.ours) {
			assert_int_equal(be_wait_reclaimed(&be), 0);
			fds = be_fds(&be);
		}
	}
	/* as many queues at connections 5 and 9 */
	if (be.ours) {
		assert_int_equal(be_wait_reclaimed(&be), 0);
		assert_int_equal(be_fds(&be), fds);
	}
}

static void read_only_refuses_writes(void **state)
{
	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_true(fe.features & BLK(VIRTIO_BLK_F_RO));
	pattern(fe.mem + FE_DATA, 4096, 1);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, 0, FE_DATA, 4096),
			 VIRTIO_BLK_S_IOERR);
	if (be.ours) {
		assert_int_equal(zero_or_discard(VIRTIO_BLK_T_DISCARD, 0, 8, 0),
				 VIRTIO_BLK_S_IOERR);
		assert_int_equal(zero_or_discard(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0),
				 VIRTIO_BLK_S_IOERR);
	}
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 4096), VIRTIO_BLK_S_OK);
	assert_true(is_zero(fe.mem + FE_DATA, 4096));
}

int main(int argc, char **argv)
{
#define WRITABLE(test) cmocka_unit_test_setup_teardown(test, start_writable, stop)
	const struct CMUnitTest tests[] = {
		WRITABLE(config_tells_the_disk),
		WRITABLE(write_read_plain_ring),
		WRITABLE(write_read_indirect),
		WRITABLE(write_read_event_idx),
		WRITABLE(write_read_everything),
		WRITABLE(any_layout),
		WRITABLE(outside_the_disk),
		WRITABLE(get_id),
		WRITABLE(unsupported),
		WRITABLE(discard_and_write_zeroes),
		WRITABLE(many_queues_deep),
		WRITABLE(index_wraps),
		WRITABLE(stop_gives_the_index_and_start_goes_on),
		WRITABLE(reconnect),
		cmocka_unit_test_setup_teardown(read_only_refuses_writes, start_read_only, stop),
	};

	be_args(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
