/* SPDX-License-Identifier: MIT */
/*
 * The log of dirty pages for live migration: every page that the back-end wrote has its bit, no
 * other has, and a log that is too small or moves is refused or followed.
 */
#include "backend.h"
#include "frontend.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
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

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER
#endif
#endif

#define RAM (UINT64_C(8) << 20)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | FE_F_LOG_ALL | 0xffffffu)
#define PAGE UINT64_C(4096)
#define MAX UINT64_MAX
/* a log that reaches the last page of RAM, and nothing after it */
#define LOG_SIZE ((FE_GPA + RAM) / PAGE / 8)
#define HIGH_GPA UINT64_C(0x120000000) /* 4.5 GiB */
#define HIGH_LOG_SIZE ((HIGH_GPA + 65536) / PAGE / 8)
#define LOG_FILE (UINT64_C(1) << 20)

static struct be be;
static struct fe fe;
static int log_fd = -1;
static uint8_t *log_file;

static int make_log(void)
{
	log_fd = memfd_create("front-end", MFD_CLOEXEC);
	if (log_fd < 0 || ftruncate(log_fd, (off_t)LOG_FILE))
		return -1;
	log_file = mmap(NULL, LOG_FILE, PROT_READ | PROT_WRITE, MAP_SHARED, log_fd, 0);
	return log_file == MAP_FAILED ? -1 : 0;
}

static int start(void **state)
{
	if (make_log() || be_start(&be, false, NULL) || fe_open(&fe, be.sock, RAM))
		return -1;
	fe.protocol_more = FE_P_LOG_SHMFD;
	return 0;
}

static int stop(void **state)
{
	bool died = !be_alive(&be);

	fe_close(&fe);
	munmap(log_file, LOG_FILE);
	close(log_fd);
	if (!died)
		return be_stop(&be);
	print_error("the back-end died\n");
	return -1;
}

/* Rings are logged from now on, at their own guest addresses, and devices' writes are. */
static void log_everything(uint64_t size, uint64_t offset)
{
	assert_int_equal(fe_set_log(&fe, log_fd, size, offset), 0);
	assert_int_equal(fe_set_u64(&fe, FE_SET_FEATURES, fe.features), 0);
	for (unsigned i = 0; i < fe.queue_count; i++) {
		fe.queues[i].logged = true;
		fe.queues[i].log_gpa = fe_gpa(&fe, fe.queues[i].used);
		assert_int_equal(fe_queue_tell_addr(&fe.queues[i]), 0);
	}
}

/* fe_start(), with LOG_ALL known but not set yet. */
static void begin(void)
{
	uint64_t features;

	assert_int_equal(fe_start(&fe, 1, 64, ALL & ~FE_F_LOG_ALL), 0);
	assert_int_equal(fe_get_u64(&fe, FE_GET_FEATURES, &features), 0);
	assert_true(features & FE_F_LOG_ALL);
	assert_true(fe.protocol & FE_P_LOG_SHMFD);
	fe.features |= FE_F_LOG_ALL;
}

/* Take all bits; how many there were. @want: guest addresses of pages that must be among them. */
static unsigned harvest(uint64_t offset, uint64_t size, const uint64_t *want, unsigned count)
{
	unsigned bits = 0, found = 0;

	for (uint64_t i = 0; i < size; i++) {
		uint8_t byte = __atomic_exchange_n(&log_file[offset + i], 0, __ATOMIC_ACQ_REL);

		bits += (unsigned)__builtin_popcount(byte);
		for (unsigned k = 0; k < count; k++)
			found += want[k] / PAGE / 8 == i && byte & 1u << want[k] / PAGE % 8;
	}
	assert_int_equal(found, count);
	return bits;
}

/* Nothing is dirty besides @want. The worker writes its wish for kicks after it has answered. */
static void assert_exactly(uint64_t offset, uint64_t size, const uint64_t *want, unsigned count)
{
	nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	assert_int_equal(harvest(offset, size, want, count), count);
}

static uint64_t used_gpa(void)
{
	return fe_gpa(&fe, fe.queues[0].used);
}

/* Where fe_blk() has its status. */
#define STATUS_GPA (FE_GPA + FE_DATA - PAGE)

static void reads_dirty_their_buffers(void **state)
{
	uint64_t at = FE_DATA + 3 * PAGE;
	uint64_t want[] = {0, STATUS_GPA, FE_GPA + at, FE_GPA + at + PAGE, FE_GPA + at + 2 * PAGE};

	begin();
	want[0] = used_gpa();
	log_everything(LOG_SIZE, 0);
	harvest(0, LOG_SIZE, NULL, 0);
	/* from the middle of the first page into the third */
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, at + 2048, 8192),
			 VIRTIO_BLK_S_OK);
	assert_exactly(0, LOG_SIZE, want, 5);
	/* and once more, since the bits were taken */
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, at + 2048, 2048),
			 VIRTIO_BLK_S_OK);
	assert_exactly(0, LOG_SIZE, want, 3);
}

static void writes_dirty_their_status_only(void **state)
{
	uint64_t want[2];

	begin();
	log_everything(LOG_SIZE, 0);
	harvest(0, LOG_SIZE, NULL, 0);
	want[0] = used_gpa();
	want[1] = STATUS_GPA;
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_OUT, 0, FE_DATA, 65536),
			 VIRTIO_BLK_S_OK);
	assert_exactly(0, LOG_SIZE, want, 2);
}

/* What is refused has a status behind a buffer that was not written. */
static void refused_reads_dirty_their_status(void **state)
{
	uint64_t want[2];

	begin();
	log_everything(LOG_SIZE, 0);
	harvest(0, LOG_SIZE, NULL, 0);
	want[0] = used_gpa();
	want[1] = STATUS_GPA;
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, BE_IMAGE_SIZE / 512, FE_DATA, 4096),
			 VIRTIO_BLK_S_IOERR);
	nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	harvest(0, LOG_SIZE, want, 2);
}

static void rings_are_logged_where_they_say(void **state)
{
	uint64_t want[] = {FE_GPA + RAM - 2 * PAGE};
	struct fe_queue *q;

	begin();
	q = &fe.queues[0];
	log_everything(LOG_SIZE, 0);
	/* nobody else's writes: LOG_ALL is off */
	assert_int_equal(fe_set_u64(&fe, FE_SET_FEATURES, fe.features & ~FE_F_LOG_ALL), 0);
	q->log_gpa = want[0];
	assert_int_equal(fe_queue_tell_addr(q), 0);
	harvest(0, LOG_SIZE, NULL, 0);
	assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 4096), VIRTIO_BLK_S_OK);
	assert_exactly(0, LOG_SIZE, want, 1);
	q->logged = false;
	assert_int_equal(fe_queue_tell_addr(q), 0);
	harvest(0, LOG_SIZE, NULL, 0);
	assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 4096), VIRTIO_BLK_S_OK);
	assert_exactly(0, LOG_SIZE, NULL, 0);
	/* and not where the log does not reach, or round 2^64 */
	q->logged = true;
	q->log_gpa = FE_GPA + RAM - 64;
	assert_int_equal(fe_queue_tell_addr(q), -EREMOTEIO);
	q->log_gpa = MAX - 15;
	assert_int_equal(fe_queue_tell_addr(q), -EREMOTEIO);
	q->log_gpa = 0;
	assert_int_equal(fe_queue_tell_addr(q), 0);
}

static void p36_log_of_every_size(void **state)
{
	const struct {
		const char *what;
		uint64_t size, offset;
		int want;
	} cases[] = {
		{"a byte too small", LOG_SIZE - 1, 0, -EREMOTEIO},
		{"nothing", 0, 0, -EREMOTEIO},
		{"size and offset wrap", LOG_SIZE, MAX - LOG_SIZE + 1, -EREMOTEIO},
		{"size and offset wrap by far", MAX, MAX, -EREMOTEIO},
		{"past the end of its file", LOG_SIZE, LOG_FILE - LOG_SIZE + 1, -EREMOTEIO},
		{"larger than its file", LOG_FILE + 1, 0, -EREMOTEIO},
		{"exact", LOG_SIZE, 0, 0},
		{"at the file's end", LOG_SIZE, LOG_FILE - LOG_SIZE, 0},
	};
	int fds, maps;

	begin();
	fds = be_fds(&be);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int rc = fe_set_log(&fe, log_fd, cases[i].size, cases[i].offset);

		if (rc != cases[i].want)
			fail_msg("%s: %d", cases[i].what, rc);
		assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512),
				 VIRTIO_BLK_S_OK);
	}
	assert_int_equal(be_fds(&be), fds);
	maps = be_guest_maps(&be);
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(fe_set_log(&fe, log_fd, LOG_SIZE, i * PAGE), 0);
	assert_int_equal(be_guest_maps(&be), maps);
	assert_int_equal(be_fds(&be), fds);
	/* what is no memory */
	assert_int_equal(fe_set_log(&fe, fe.queues[0].call, LOG_SIZE, 0), -EREMOTEIO);
}

static void offset_is_honoured_once(void **state)
{
	const uint64_t offset = 3 * PAGE + 5; /* of any alignment */
	uint64_t want[3];

	begin();
	want[0] = used_gpa();
	want[1] = STATUS_GPA;
	want[2] = FE_GPA + FE_DATA;
	log_everything(LOG_SIZE, offset);
	harvest(0, LOG_FILE, NULL, 0);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 4096), VIRTIO_BLK_S_OK);
	assert_exactly(offset, LOG_SIZE, want, 3);
	assert_int_equal(harvest(0, LOG_FILE, NULL, 0), 0); /* nothing anywhere else */
}

/* P30, P33: a region that comes while the log is there, at 4.5 GiB. */
static void p30_p33_regions_that_come_later(void **state)
{
	struct fe_region region = {HIGH_GPA, 65536, 0x700000000000, 0};
	struct fe_buf data = {HIGH_GPA + 3 * PAGE, 4096, true};
	int fd = memfd_create("front-end", MFD_CLOEXEC);
	uint64_t want[3], meta = FE_DATA - 8192;

	assert_int_equal(ftruncate(fd, 65536), 0);
	begin();
	log_everything(HIGH_LOG_SIZE - 1, 0);
	/* P36: its last page has no bit */
	assert_int_equal(fe_add_region(&fe, &region, fd), -EREMOTEIO);
	log_everything(HIGH_LOG_SIZE, 0);
	assert_int_equal(fe_add_region(&fe, &region, fd), 0);
	harvest(0, HIGH_LOG_SIZE, NULL, 0);
	assert_int_equal(fe_blk_submit(&fe.queues[0], meta, VIRTIO_BLK_T_IN, 0, &data, 1, 0), 0);
	fe_kick(&fe.queues[0]);
	assert_int_equal(fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL), 1);
	want[0] = used_gpa();
	want[1] = FE_GPA + meta;
	want[2] = data.gpa;
	assert_exactly(0, HIGH_LOG_SIZE, want, 3);
	/* the log may not become too small for it */
	assert_int_equal(fe_set_log(&fe, log_fd, LOG_SIZE, 0), -EREMOTEIO);
	/* nobody who has stopped logging needs a log for a region; he does to begin again */
	assert_int_equal(fe_set_u64(&fe, FE_SET_FEATURES, fe.features & ~FE_F_LOG_ALL), 0);
	assert_int_equal(fe_remove_region(&fe, &region, -1), 0);
	assert_int_equal(fe_set_log(&fe, log_fd, LOG_SIZE, 0), 0);
	assert_int_equal(fe_add_region(&fe, &region, fd), 0);
	assert_int_equal(fe_set_u64(&fe, FE_SET_FEATURES, fe.features), -EREMOTEIO);
	close(fd);
}

/* After the answer nothing more is marked in the log that was; all that comes is in the new one. */
static void moves_under_load(void **state)
{
	struct fe_queue *q;

	begin();
	q = &fe.queues[0];
	log_everything(LOG_SIZE, 0);
	for (unsigned round = 0; round < 200; round++) {
		uint64_t from = round & 1 ? 512 * 1024 : 0, to = round & 1 ? 0 : 512 * 1024;

		for (unsigned i = 0; i < 32; i++) {
			struct fe_buf data = {FE_GPA + FE_DATA + 65536 + i * PAGE, 4096, true};

			assert_int_equal(fe_blk_submit(q, FE_DATA + 32 * i, VIRTIO_BLK_T_IN, 8 * i,
						       &data, 1, i),
					 0);
		}
		fe_kick(q);
		assert_int_equal(fe_set_log(&fe, log_fd, LOG_SIZE, to), 0);
		memset(log_file + from, 0, LOG_SIZE);
		for (unsigned i = 0; i < 32; i++)
			assert_int_equal(fe_wait(q, FE_TIMEOUT_MS, NULL, NULL), 1);
		for (uint64_t i = 0; i < LOG_SIZE; i++)
			assert_int_equal(log_file[from + i], 0);
		memset(log_file + to, 0, LOG_SIZE);
		assert_int_equal(fe_blk(q, VIRTIO_BLK_T_IN, 0, FE_DATA, 4096), VIRTIO_BLK_S_OK);
		harvest(to, LOG_SIZE, (uint64_t[]){FE_GPA + FE_DATA}, 1);
	}
}

static void log_descriptor_is_signalled(void **state)
{
	int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct pollfd wait = {.fd = event, .events = POLLIN};

	begin();
	assert_int_equal(fe_ack(&fe, FE_SET_LOG_FD, NULL, 0, &event, 1), 0);
	log_everything(LOG_SIZE, 0);
	for (unsigned i = 0; i < 3; i++) {
		uint64_t count;

		assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512),
				 VIRTIO_BLK_S_OK);
		assert_int_equal(poll(&wait, 1, FE_TIMEOUT_MS), 1);
		assert_int_equal(read(event, &count, sizeof(count)), sizeof(count));
	}
	close(event);
}

/* A log whose file is cut short harms its owner alone. */
static void log_is_cut_short(void **state)
{
#if defined(__SANITIZE_THREAD__) || defined(THREAD_SANITIZER)
	skip(); /* it holds a lock of its own around an atomic OR, and the handler wants it, too */
#endif
	begin();
	log_everything(LOG_SIZE, 0);
	assert_int_equal(ftruncate(log_fd, 0), 0);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 65536),
				 VIRTIO_BLK_S_OK);
	assert_true(be_alive(&be));
}

int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(reads_dirty_their_buffers),
		TEST(writes_dirty_their_status_only),
		TEST(refused_reads_dirty_their_status),
		TEST(rings_are_logged_where_they_say),
		TEST(p36_log_of_every_size),
		TEST(offset_is_honoured_once),
		TEST(p30_p33_regions_that_come_later),
		TEST(moves_under_load),
		TEST(log_descriptor_is_signalled),
		TEST(log_is_cut_short),
	};

	be_args(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
