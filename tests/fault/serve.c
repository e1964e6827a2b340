/* SPDX-License-Identifier: MIT */
/*
 * `guestram serve blk` as a process, while calls it makes into the kernel fail: each while it
 * starts; those of messages and wake-ups; those on the disk, with every error and with fewer bytes
 * than asked for; and front-ends that die at every byte of every message. preload.c fails them.
 *
 *   test guestram PROGRAM PRELOAD
 *
 * Threads: one.
 */
#include "backend.h"
#include "control.h"
#include "frontend.h"
#include "tally.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(16) << 20)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | 0xffffffu)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define SECTOR 512
#define PIECE 16384 /* of the disk, that a request moves */

static const char *preload, *names[] = {
#define X(name) #name,
				    FAULT_CALLS(X)
#undef X
};
static char control_path[64];
static struct fault_control *control;
static struct be be;
static struct fe fe;

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* ------------------------------------------------------------------------------- arming */

static void disarm(void)
{
	__atomic_store_n(&control->calls, 0, __ATOMIC_SEQ_CST);
}

/* One of the two: the @position-th of @calls, or each @every-th of each. */
static void arm(uint64_t calls, int error, unsigned position, unsigned every)
{
	memset(control, 0, sizeof(*control));
	control->error = error;
	control->position = position;
	control->every = every;
	__atomic_store_n(&control->calls, calls, __ATOMIC_SEQ_CST);
}

/* How many failed; each is told as one of @operation. */
static uint64_t failed(const char *operation)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < FAULT_COUNT; i++) {
		uint64_t n = __atomic_load_n(&control->failed[i], __ATOMIC_SEQ_CST);

		if (n)
			tally_add(operation, strlen(operation), names[i], (unsigned)n);
		sum += n;
	}
	return sum;
}

static const char *what_failed(void)
{
	for (unsigned i = 0; i < FAULT_COUNT; i++)
		if (__atomic_load_n(&control->failed[i], __ATOMIC_SEQ_CST))
			return names[i];
	return "nothing";
}

static int start_server(char *const *extra)
{
	int rc;

	if (setenv("LD_PRELOAD", preload, 1) || setenv("GUESTRAM_FAULTS", control_path, 1))
		return -1;
	rc = be_start(&be, false, extra);
	unsetenv("LD_PRELOAD");
	return rc;
}

static char option_io[] = "--io", by_plain[] = "plain", by_uring[] = "uring";
static char *const plain[] = {option_io, by_plain, NULL};
static char *const uring[] = {option_io, by_uring, NULL};

/* Its exit status once it has ended, or -1 once it says that it serves. */
static int outcome_of_start(void)
{
	for (int tries = 0; tries < 10000; tries++) {
		bool ended, serves;
		char *log;
		int status;

		ended = waitpid(be.pid, &status, WNOHANG) == be.pid;
		log = be_read_log(&be);
		serves = strstr(log, "guestram: serving ");
		free(log);
		if (ended)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
		if (serves)
			return -1;
		sleep_ms(1);
	}
	return -2;
}

static int serve(char *const *extra)
{
	disarm();
	/* so that what is made to fail is not its start */
	return start_server(extra) || outcome_of_start() != -1 || fe_open(&fe, be.sock, RAM);
}

static int serve_plain(void **state)
{
	return serve(plain);
}

static int serve_uring(void **state)
{
	return serve(uring);
}

static int stop(void **state)
{
	bool died;

	disarm();
	died = !be_alive(&be);
	fe_close(&fe);
	if (died) {
		char *log = be_read_log(&be);

		print_error("the back-end died:\n%s\n", log);
		free(log);
		return -1;
	}
	return be_stop(&be);
}

/* ------------------------------------------------------------------------------- starting */

/* Of messages and wake-ups. */
#define TALKING                                                                                    \
	(FAULT_BIT(epoll_wait) | FAULT_BIT(recvmsg) | FAULT_BIT(sendmsg) | FAULT_BIT(accept4) |    \
	 FAULT_BIT(read) | FAULT_BIT(write) | FAULT_BIT(poll) | FAULT_BIT(send))

static void a_start_fails_at_every_call(char *const *extra, int error, unsigned at_least)
{
	unsigned position = 1, refused = 0;

	for (;; position++) {
		char *log;
		int rc;

		arm(FAULT_ALL & ~TALKING, error, position, 0);
		assert_int_equal(start_server(extra), 0);
		rc = outcome_of_start();
		disarm();
		log = be_read_log(&be);
		/* it starts all the same where there is another way; else it says what is wrong */
		if (rc == -1 ? be_stop(&be) : rc != 1 || strncmp(log, "guestram: ", 10) != 0)
			fail_msg("call %u, %s, failed with %d: exit status %d, \"%s\"", position,
				 what_failed(), error, rc, log);
		free(log);
		if (rc != -1) {
			refused++;
			/* the folder is empty but for the image and the log: unlinks the rest, too
			 */
			assert_int_not_equal(access(be.sock, F_OK), 0);
			assert_int_not_equal(access(be.status, F_OK), 0);
			unlink(be.image);
			unlink(be.log);
			assert_int_equal(rmdir(be.dir), 0);
		}
		if (!failed("serve"))
			break;
	}
	assert_in_range(refused, at_least, 200);
}

static void starting_by_plain_calls(void **state)
{
	a_start_fails_at_every_call(plain, ENOMEM, 30);
}

static void starting_with_io_uring(void **state)
{
	a_start_fails_at_every_call(uring, EPERM, 30);
}

/* ------------------------------------------------------------------- messages and wake-ups */

static int ask(struct fe_queue *q, uint32_t type, uint64_t sector, uint64_t offset, uint32_t length)
{
	int rc = fe_blk(q, type, sector, offset, length);

	return rc > 0 ? -EIO : rc;
}

/* All that a front-end does; 0, or the first thing that went wrong. */
static int converse(int more_memory)
{
	const struct fe_region region = {0x200000000, 1 << 20, 0x700000000000, 0};
	uint8_t config[8];
	uint32_t base;
	int rc = fe_start(&fe, 2, 64, ALL);

	if (!rc)
		rc = fe_get_config(&fe, 0, config, sizeof(config));
	for (unsigned i = 0; i < 8 && !rc; i++) {
		memset(fe.mem + FE_DATA, (int)(i + 1), 4096);
		rc = ask(&fe.queues[i % 2], VIRTIO_BLK_T_OUT, i, FE_DATA, 4096);
		if (!rc)
			rc = ask(&fe.queues[i % 2], VIRTIO_BLK_T_IN, i, FE_DATA + 4096, 4096);
		if (!rc && memcmp(fe.mem + FE_DATA, fe.mem + FE_DATA + 4096, 4096) != 0)
			rc = -EBADMSG;
	}
	if (!rc)
		rc = fe_add_region(&fe, &region, more_memory);
	if (!rc)
		rc = fe_remove_region(&fe, &region, -1);
	if (!rc)
		rc = fe_set_table(&fe);
	if (!rc)
		rc = fe_queue_stop(&fe.queues[0], &base);
	return rc;
}

/* Signals at any time, bytes that come singly: nobody notices. */
static void interruptions_and_short_messages_are_not_noticed(void **state)
{
	static const struct {
		int error;
		uint64_t calls;
		unsigned every;
	} rows[] = {
		{EINTR, TALKING, 2},	   {EINTR, TALKING, 3},
		{EINTR, TALKING, 7},	   {FAULT_SHORT, FAULT_BIT(recvmsg), 1},
		{FAULT_SHORT, TALKING, 1}, {FAULT_SHORT, TALKING, 3},
	};
	int more_memory = memfd_create("front-end", MFD_CLOEXEC);
	size_t i;

	assert_int_equal(ftruncate(more_memory, 1 << 20), 0);
	for (i = 0; i < COUNT_OF(rows); i++) {
		int rc;

		arm(rows[i].calls, rows[i].error, 0, rows[i].every);
		assert_int_equal(fe_reconnect(&fe, be.sock), 0);
		rc = converse(more_memory);
		assert_true(be_status(&be, "in_flight") >= 0);
		disarm();
		if (rc || !failed("serve"))
			fail_msg("row %zu: %d", i, rc);
	}
	/* and any single one */
	for (unsigned position = 1;; position++) {
		int rc;

		arm(TALKING, EINTR, position, 0);
		assert_int_equal(fe_reconnect(&fe, be.sock), 0);
		rc = converse(more_memory);
		disarm();
		if (rc)
			fail_msg("call %u, %s, was interrupted: %d", position, what_failed(), rc);
		if (!failed("serve"))
			break;
	}
	close(more_memory);
}

/* Errors that end a connection, or a change of memory: the next front-end is served. */
static void a_front_end_that_was_failed_is_followed_by_one_that_is_not(void **state)
{
	static const int errors[] = {ENOMEM, EPIPE};
	int more_memory = memfd_create("front-end", MFD_CLOEXEC), fds = -1, maps = -1;
	size_t i;

	assert_int_equal(ftruncate(more_memory, 1 << 20), 0);
	for (i = 0; i < COUNT_OF(errors); i++) {
		for (unsigned position = 1;; position++) {
			int first, second;
			bool hurt;

			arm(FAULT_BIT(recvmsg) | FAULT_BIT(sendmsg) | FAULT_BIT(accept4) |
				    FAULT_BIT(mmap64) | FAULT_BIT(epoll_ctl) | FAULT_BIT(fstat64) |
				    FAULT_BIT(fcntl64),
			    errors[i], position, 0);
			assert_int_equal(fe_reconnect(&fe, be.sock), 0);
			first = converse(more_memory);
			disarm();
			hurt = failed("serve");
			assert_int_equal(fe_reconnect(&fe, be.sock), 0);
			second = converse(more_memory);
			if (second || (first && !hurt))
				fail_msg("call %u, %s, failed with %d: %d, then %d", position,
					 what_failed(), errors[i], first, second);
			assert_int_equal(be_wait_reclaimed(&be), 0);
			if (position == 1 && !i) {
				fds = be_fds(&be);
				maps = be_guest_maps(&be);
			}
			assert_int_equal(be_fds(&be), fds);
			assert_int_equal(be_guest_maps(&be), maps);
			if (!hurt)
				break;
		}
	}
	close(more_memory);
}

/* ------------------------------------------------------------------------------- the disk */

static const struct {
	uint32_t type;
	uint32_t flags; /* of zeroes */
	const char *name;
} operations[] = {
	{VIRTIO_BLK_T_IN, 0, "read"},
	{VIRTIO_BLK_T_OUT, 0, "write"},
	{VIRTIO_BLK_T_FLUSH, 0, "flush"},
	{VIRTIO_BLK_T_DISCARD, 0, "discard"},
	{VIRTIO_BLK_T_WRITE_ZEROES, 0, "zeroes"},
	{VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, "zeroes, unmapped"},
};

static void fill_image(uint8_t byte)
{
	uint8_t bytes[PIECE];
	int fd = open(be.image, O_WRONLY | O_CLOEXEC);

	memset(bytes, byte, sizeof(bytes));
	for (int i = 0; i < 4; i++)
		assert_int_equal(pwrite(fd, bytes, sizeof(bytes), (off_t)i * PIECE), PIECE);
	close(fd);
}

/* The disk's second piece is all @byte, and its neighbours are as filled. */
static bool image_is(uint8_t byte, uint8_t around)
{
	uint8_t bytes[3 * PIECE];
	int fd = open(be.image, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	close(fd);
	for (size_t i = 0; i < sizeof(bytes); i++)
		if (bytes[i] != (i / PIECE == 1 ? byte : around))
			return false;
	return true;
}

/* The status of operation @op on the second piece; a read is compared with what is there. */
static int run_operation(size_t op, uint8_t there, bool *right)
{
	const uint64_t sector = PIECE / SECTOR, meta = FE_DATA - 8192;
	struct virtio_blk_discard_write_zeroes zeroes = {sector, PIECE / SECTOR,
							 operations[op].flags};
	bool read = operations[op].type == VIRTIO_BLK_T_IN;
	/* three pieces of different kinds, whose parts are moved one after the other */
	struct fe_buf data[3] = {{FE_GPA + FE_DATA, 512, read},
				 {FE_GPA + FE_DATA + 512, PIECE - 513, read},
				 {FE_GPA + FE_DATA + PIECE - 1, 1, read}};
	unsigned count = operations[op].type == VIRTIO_BLK_T_FLUSH ? 0 : 3;
	int rc;

	memset(fe.mem + FE_DATA, read ? 0xee : 0x22, PIECE);
	if (operations[op].type >= VIRTIO_BLK_T_DISCARD) {
		memcpy(fe.mem + FE_DATA, &zeroes, sizeof(zeroes));
		data[0].length = sizeof(zeroes);
		count = 1;
	}
	rc = fe_blk_submit(&fe.queues[0], meta, operations[op].type, sector, data, count, 0);
	if (rc < 0)
		return rc;
	fe_kick(&fe.queues[0]);
	rc = fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL);
	if (rc < 0)
		return rc;
	rc = fe_blk_status(&fe, meta);
	*right = true;
	for (size_t i = 0; read && !rc && i < PIECE; i++)
		*right &= fe.mem[FE_DATA + i] == there;
	return rc;
}

/* What the disk's second piece holds after operation @op, when it held @there. */
static uint8_t after(size_t op, uint8_t there)
{
	switch (operations[op].type) {
	case VIRTIO_BLK_T_OUT:
		return 0x22;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return 0;
	default:
		return there;
	}
}

static const struct {
	int error;
	const char *name;
	bool hidden;	/* the driver does not notice */
	bool other_way; /* nor for discards and zeroes */
} errors[] = {
	{EINTR, "EINTR", true, true},	    {EAGAIN, "EAGAIN", true, true},
	{FAULT_SHORT, "short", true, true}, {EOPNOTSUPP, "EOPNOTSUPP", false, true},
	{EIO, "EIO", false, false},	    {ENOSPC, "ENOSPC", false, false},
};

#define DISK                                                                                       \
	(FAULT_BIT(preadv64) | FAULT_BIT(pwritev64v2) | FAULT_BIT(fdatasync) |                     \
	 FAULT_BIT(fallocate64) | FAULT_BIT(io_uring_peek_batch_cqe))

static void try_operation(size_t op, size_t e, unsigned position, unsigned every, bool *hurt)
{
	bool zeroes = operations[op].type >= VIRTIO_BLK_T_DISCARD, right = false;
	bool hidden = errors[e].hidden || (zeroes && errors[e].other_way);
	uint8_t there = 0x11;
	int rc;

	fill_image(there);
	arm(DISK, errors[e].error, position, every);
	rc = run_operation(op, there, &right);
	disarm();
	*hurt = failed("serve");
	if (!*hurt ? rc : rc != (hidden ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR))
		fail_msg("%s, %s at call %u: status %d", operations[op].name, errors[e].name,
			 position, rc);
	/* a discard may be left undone where there is no way to do it: it is advice */
	if (!rc && operations[op].type == VIRTIO_BLK_T_DISCARD && errors[e].error == EOPNOTSUPP)
		right &= image_is(0, there) || image_is(there, there);
	else if (!rc)
		right &= image_is(after(op, there), there);
	if (!rc && !right)
		fail_msg("%s, %s at call %u: other bytes", operations[op].name, errors[e].name,
			 position);
	/* the same once more, with nothing failing */
	rc = run_operation(op, rc ? 0x11 : after(op, there), &right);
	if (rc || !right || !image_is(after(op, there), there))
		fail_msg("%s after %s at call %u: status %d", operations[op].name, errors[e].name,
			 position, rc);
}

static void every_fault_of_every_request(void **state)
{
	size_t op, e;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	for (op = 0; op < COUNT_OF(operations); op++) {
		for (e = 0; e < COUNT_OF(errors); e++) {
			unsigned position = 1;
			bool hurt = true;

			for (; hurt; position++)
				try_operation(op, e, position, 0, &hurt);
			/* fewer bytes are only had where bytes move */
			if (position == 2 && errors[e].error != FAULT_SHORT)
				fail_msg("%s, %s: no call that fails", operations[op].name,
					 errors[e].name);
			/* again and again: each but the first; for fewer bytes, all of them */
			if (errors[e].hidden)
				try_operation(op, e, 0, errors[e].error == FAULT_SHORT ? 1 : 2,
					      &hurt);
		}
	}
}

/* Where the file system can neither zero nor punch, zeroes are written, through every fault. */
static void zeroes_by_hand(void **state)
{
	static const struct {
		int error;
		unsigned position, every;
		int status;
	} rows[] = {
		{EINTR, 1, 0, VIRTIO_BLK_S_OK},	      {EINTR, 0, 2, VIRTIO_BLK_S_OK},
		{FAULT_SHORT, 0, 2, VIRTIO_BLK_S_OK}, {EIO, 1, 0, VIRTIO_BLK_S_IOERR},
		{ENOSPC, 1, 0, VIRTIO_BLK_S_IOERR},
	};
	const uint64_t refused = FAULT_BIT(fallocate64) | FAULT_BIT(io_uring_peek_batch_cqe);
	bool right = false;
	size_t i;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	for (i = 0; i < COUNT_OF(rows); i++) {
		int rc;

		fill_image(0x11);
		arm(0, rows[i].error, rows[i].position, rows[i].every);
		control->refused = refused;
		__atomic_store_n(&control->calls, refused | FAULT_BIT(pwrite64), __ATOMIC_SEQ_CST);
		rc = run_operation(4, 0x11, &right);
		disarm();
		/* both ways were refused; and a write may have been hurt */
		assert_true(failed("serve") >= 2);
		assert_int_equal(rc, rows[i].status);
		if (!rc)
			assert_true(image_is(0, 0x11));
	}
}

static void a_disk_that_gets_shorter(void **state)
{
	bool right = false;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_int_equal(truncate(be.image, PIECE + 100), 0);
	assert_int_equal(run_operation(0, 0x11, &right), VIRTIO_BLK_S_IOERR);
	assert_int_equal(truncate(be.image, (off_t)BE_IMAGE_SIZE), 0);
	fill_image(0x11);
	assert_int_equal(run_operation(0, 0x11, &right), VIRTIO_BLK_S_OK);
	assert_true(right);
}

/* A ring that takes no submission for a while. */
static void submissions_that_fail(void **state)
{
	static const int refused[] = {EAGAIN, EBUSY, EINTR, ENOMEM};
	bool right = false;
	size_t i;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	fill_image(0x11);
	for (i = 0; i < COUNT_OF(refused); i++) {
		for (unsigned every = 2; every < 4; every++) {
			arm(FAULT_BIT(io_uring_submit), refused[i], 0, every);
			for (int k = 0; k < 10; k++) {
				assert_int_equal(run_operation(0, 0x11, &right), VIRTIO_BLK_S_OK);
				assert_true(right);
			}
			disarm();
			assert_true(failed("serve") >= 2);
		}
	}
}

/* ---------------------------------------------------------------------- peers that die */

struct message {
	uint32_t request, size;
	unsigned fds;
	union {
		uint64_t value;
		struct fe_vring_state state;
		struct fe_vring_addr addr;
		struct fe_table table;
		struct fe_mem_reg region;
		struct fe_config config;
	} payload;
};

static void die_at_every_byte(const struct message *message, int memory)
{
	struct {
		struct fe_header header;
		uint8_t payload[512];
	} bytes = {.header = {message->request, FE_VERSION | FE_NEED_REPLY, message->size}};
	int fds[2] = {memory, memory};

	memcpy(bytes.payload, &message->payload, message->size);
	for (size_t length = 1; length <= sizeof(bytes.header) + message->size; length++) {
		int rc = fe_reconnect(&fe, be.sock);

		if (!rc)
			rc = fe_start(&fe, 1, 64, ALL);
		if (!rc)
			rc = fe_send_raw(&fe, &bytes, length, fds, message->fds);
		if (rc)
			fail_msg("message %u, %zu bytes: %d", message->request, length, rc);
		tally_add("serve", 5, "peer", 1);
	}
}

static void peers_die_at_every_byte_of_every_message(void **state)
{
	const uint64_t uaddr = 0x700000000000;
	struct message messages[] = {
		{FE_GET_FEATURES, 0, 0, {0}},
		{FE_SET_FEATURES, 8, 0, {.value = FE_F_VERSION_1}},
		{FE_SET_OWNER, 0, 0, {0}},
		{FE_RESET_OWNER, 0, 0, {0}},
		{FE_SET_MEM_TABLE,
		 8 + 2 * sizeof(struct fe_region),
		 2,
		 {.table = {2, 0, {{FE_GPA, 65536, uaddr, 0}, {0, 65536, uaddr + 65536, 65536}}}}},
		{FE_SET_LOG_BASE, 16, 1, {0}},
		{FE_SET_VRING_NUM, 8, 0, {.state = {0, 32}}},
		{FE_SET_VRING_ADDR, sizeof(struct fe_vring_addr), 0, {0}},
		{FE_SET_VRING_BASE, 8, 0, {.state = {0, 3}}},
		{FE_GET_VRING_BASE, 8, 0, {.state = {0, 0}}},
		{FE_SET_VRING_KICK, 8, 1, {.value = 0}},
		{FE_SET_VRING_CALL, 8, 1, {.value = 0}},
		{FE_SET_VRING_ERR, 8, 1, {.value = 0}},
		{FE_GET_PROTOCOL_FEATURES, 0, 0, {0}},
		{FE_SET_PROTOCOL_FEATURES, 8, 0, {.value = FE_P_REPLY_ACK}},
		{FE_GET_QUEUE_NUM, 0, 0, {0}},
		{FE_SET_VRING_ENABLE, 8, 0, {.state = {0, 0}}},
		{FE_SET_BACKEND_REQ_FD, 0, 1, {0}},
		{FE_GET_CONFIG, 12 + 8, 0, {.config = {0, 8, 0, {0}}}},
		{FE_SET_CONFIG, 12 + 8, 0, {.config = {0, 8, 0, {0}}}},
		{FE_RESET_DEVICE, 0, 0, {0}},
		{FE_GET_MAX_MEM_SLOTS, 0, 0, {0}},
		{FE_ADD_MEM_REG,
		 sizeof(struct fe_mem_reg),
		 1,
		 {.region = {0, {0, 65536, uaddr, 0}}}},
		{FE_REM_MEM_REG,
		 sizeof(struct fe_mem_reg),
		 1,
		 {.region = {0, {FE_GPA, RAM, (uintptr_t)fe.mem, 0}}}},
	};
	int memory = memfd_create("front-end", MFD_CLOEXEC), fds = -1;
	size_t i;

	assert_int_equal(ftruncate(memory, RAM), 0);
	for (i = 0; i < COUNT_OF(messages); i++) {
		die_at_every_byte(&messages[i], memory);
		assert_int_equal(fe_reconnect(&fe, be.sock), 0);
		assert_int_equal(converse(memory), 0);
		assert_int_equal(be_wait_reclaimed(&be), 0);
		if (!i)
			fds = be_fds(&be);
		assert_int_equal(be_fds(&be), fds);
		assert_int_equal(be_guest_maps(&be), 1);
	}
	close(memory);
}

int main(int argc, char **argv)
{
#define PLAIN(name)                                                                                \
	{                                                                                          \
#name ", plain", name, serve_plain, stop, NULL                                     \
	}
#define URING(name)                                                                                \
	{                                                                                          \
#name ", io_uring", name, serve_uring, stop, NULL                                  \
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(starting_by_plain_calls),
		cmocka_unit_test(starting_with_io_uring),
		PLAIN(interruptions_and_short_messages_are_not_noticed),
		URING(interruptions_and_short_messages_are_not_noticed),
		PLAIN(a_front_end_that_was_failed_is_followed_by_one_that_is_not),
		PLAIN(every_fault_of_every_request),
		URING(every_fault_of_every_request),
		PLAIN(zeroes_by_hand),
		URING(zeroes_by_hand),
		PLAIN(a_disk_that_gets_shorter),
		URING(a_disk_that_gets_shorter),
		URING(submissions_that_fail),
		PLAIN(peers_die_at_every_byte_of_every_message),
	};
	int fd, rc;

	if (argc < 4)
		return 2;
	preload = argv[3];
	argv[3] = NULL;
	be_args(3, argv);
	strcpy(control_path, "/tmp/guestram-faults-XXXXXX");
	fd = mkostemp(control_path, O_CLOEXEC);
	if (fd < 0 || ftruncate(fd, sizeof(*control)))
		return 2;
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED)
		return 2;
	rc = cmocka_run_group_tests_name("fault-serve", tests, NULL, NULL);
	unlink(control_path);
	return rc;
}
