/* SPDX-License-Identifier: MIT */
/*
 * The server's API with a device of our own in this process: completion from other threads and out
 * of order, several workers, the embedder's loop, refusals of gr_vhost_open(), nothing left behind.
 */
#include "frontend.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <guestram/vhost.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(4) << 20)
#define HELD 64

/*
 * A device that answers each request with its readable bytes, inverted. Requests are kept until
 * another thread gives them back, newest first.
 */
struct device {
	pthread_mutex_t lock;
	struct gr_vhost_request *held[HELD]; /* lock */
	unsigned count;			     /* lock */
	bool hold;			     /* lock: do not answer in handle */
	unsigned errors;		     /* lock */
	bool twice;			     /* lock: complete each in handle, and once more */
	bool closes;			     /* lock: close the server in handle */
	int close_rc;			     /* lock */
	unsigned workers, resets;
	uint8_t config[8];
};

static char dir[64], path[96];
static struct gr_vhost *server;
static struct device device;
static struct fe fe;
static pthread_t runner;
static struct sigaction sigbus; /* the library's */
static bool sigbus_saved;

static void invert(struct gr_vhost_request *request)
{
	uint8_t bytes[64];
	uint64_t length = request->out_length < sizeof(bytes) ? request->out_length : sizeof(bytes);

	memset(request->room, 0x11, 24); /* ours to write */
	if (request->error || gr_vhost_pull(request, bytes, length) < 0) {
		gr_vhost_complete(request, 0);
		return;
	}
	for (uint64_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)~bytes[i];
	if (gr_vhost_push(request, bytes, length) < 0)
		length = 0;
	gr_vhost_complete(request, length);
}

static void handle(void *context, void *worker_context, struct gr_vhost_request *const *requests,
		   unsigned count)
{
	struct device *d = context;
	bool hold, twice;

	pthread_mutex_lock(&d->lock);
	hold = d->hold;
	twice = d->twice;
	if (d->closes)
		d->close_rc = gr_vhost_close(server);
	for (unsigned i = 0; i < count; i++)
		d->errors += requests[i]->error != 0;
	for (unsigned i = 0; hold && i < count && d->count < HELD; i++)
		d->held[d->count++] = requests[i];
	pthread_mutex_unlock(&d->lock);
	for (unsigned i = 0; !hold && i < count; i++) {
		invert(requests[i]);
		if (twice)
			gr_vhost_complete(requests[i], 1);
	}
}

/* Requests that come from now on wait for give_back(). */
static void hold_requests(void)
{
	pthread_mutex_lock(&device.lock);
	device.hold = true;
	pthread_mutex_unlock(&device.lock);
}

/* Give back all that is held, newest first, on this thread. */
static void give_back(void)
{
	pthread_mutex_lock(&device.lock);
	while (device.count)
		invert(device.held[--device.count]);
	pthread_mutex_unlock(&device.lock);
}

static unsigned held(void)
{
	unsigned count;

	pthread_mutex_lock(&device.lock);
	count = device.count;
	pthread_mutex_unlock(&device.lock);
	return count;
}

static unsigned errors(void)
{
	unsigned count;

	pthread_mutex_lock(&device.lock);
	count = device.errors;
	pthread_mutex_unlock(&device.lock);
	return count;
}

static void wait_held(unsigned count)
{
	for (int tries = 0; tries < 2000 && held() != count; tries++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(held(), count);
}

static void get_config(void *context, void *config)
{
	memcpy(config, ((struct device *)context)->config, 8);
}

static int set_config(void *context, uint32_t offset, const void *bytes, uint32_t size)
{
	struct device *d = context;

	assert_true(offset <= 8 && size <= 8 - offset);
	memcpy(d->config + offset, bytes, size);
	return 0;
}

static int worker_open(void *context, unsigned index, void **worker_context)
{
	struct device *d = context;

	if (index == 7)
		return -EDOM;
	d->workers++;
	*worker_context = d;
	return 0;
}

static void worker_close(void *context, void *worker_context)
{
	assert_ptr_equal(context, worker_context);
	((struct device *)context)->workers--;
}

static void reset(void *context)
{
	((struct device *)context)->resets++;
}

static const struct gr_vhost_ops ops = {
	.features = 1,
	.request_size = 24,
	.config_size = 8,
	.get_config = get_config,
	.set_config = set_config,
	.worker_open = worker_open,
	.worker_close = worker_close,
	.handle = handle,
	.reset = reset,
};

static void *run(void *arg)
{
	return (void *)(intptr_t)gr_vhost_run(server);
}

static struct gr_vhost_opts opts_of(unsigned queues, unsigned threads)
{
	return (struct gr_vhost_opts){.socket_path = path,
				      .ops = &ops,
				      .context = &device,
				      .flags = GR_VHOST_SIGBUS,
				      .queues = queues,
				      .threads = threads};
}

static int make_dir(void **state)
{
	strcpy(dir, "/tmp/guestram-vhost-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/device.sock", dir);
	memset(&device, 0, sizeof(device));
	return pthread_mutex_init(&device.lock, NULL);
}

static int remove_dir(void **state)
{
	pthread_mutex_destroy(&device.lock);
	return rmdir(dir); /* the server removed its socket */
}

static int start(void **state)
{
	struct gr_vhost_opts opts = opts_of(4, 2);

	if (make_dir(state) || gr_vhost_open(&opts, &server))
		return -1;
	/* cmocka puts its own handler back after this; the library installs its own once */
	if (!sigbus_saved)
		sigbus_saved = !sigaction(SIGBUS, NULL, &sigbus);
	return pthread_create(&runner, NULL, run, NULL) || fe_open(&fe, path, RAM);
}

static int stop(void **state)
{
	void *rc;

	fe_close(&fe);
	give_back();
	gr_vhost_stop(server);
	pthread_join(runner, &rc);
	if (rc || gr_vhost_close(server) || device.workers)
		return -1;
	return remove_dir(state);
}

static int submit(struct fe_queue *q, unsigned i)
{
	uint64_t at = FE_DATA + 128 * i;
	struct fe_buf bufs[3] = {{FE_GPA + at, 5, false},
				 {FE_GPA + at + 5, 11, false},
				 {FE_GPA + at + 64, 32, true}};

	memset(fe.mem + at, (int)i, 16);
	memset(fe.mem + at + 64, 0xee, 32);
	return fe_submit(q, bufs, 3, i);
}

static void assert_inverted(unsigned i)
{
	const uint8_t *answer = fe.mem + FE_DATA + 128 * i + 64;

	for (unsigned k = 0; k < 16; k++)
		assert_int_equal(answer[k], (uint8_t)~i);
	assert_int_equal(answer[16], 0xee);
}

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
	uint16_t base = 0;
	pthread_t thread;

	assert_int_equal(fe_start(&fe, 2, 64, ~UINT64_C(0)), 0);
	hold_requests();
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(submit(&fe.queues[0], i), 0);
	fe_kick(&fe.queues[0]);
	wait_held(5);
	assert_int_equal(pthread_create(&thread, NULL, give_later, NULL), 0);
	assert_int_equal(fe_queue_stop(&fe.queues[0], &base), 0);
	assert_int_equal(base, 5);
	assert_int_equal(fe.queues[0].used->idx, 5);
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
	assert_int_equal(fe.queues[0].used->idx, 3);
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

/* ------------------------------------------------------------------- opening and the own loop */

static int count_fds(void)
{
	DIR *fds = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(fds))
		count++;
	closedir(fds);
	return count;
}

static void open_refuses(void **state)
{
	static const struct gr_vhost_ops no_handle = {.config_size = 0};
	static const struct gr_vhost_ops no_config = {.config_size = 8, .handle = handle};
	static const struct gr_vhost_ops big_config = {
		.config_size = 257, .handle = handle, .get_config = get_config};
	char long_path[200];
	const struct {
		const char *what;
		struct gr_vhost_opts opts;
		int want;
	} cases[] = {
		{"no path", {.ops = &ops}, -EINVAL},
		{"no device", {.socket_path = path}, -EINVAL},
		{"no handle", {.socket_path = path, .ops = &no_handle}, -EINVAL},
		{"no get_config", {.socket_path = path, .ops = &no_config}, -EINVAL},
		{"257 bytes of config", {.socket_path = path, .ops = &big_config}, -EINVAL},
		{"257 queues", {.socket_path = path, .ops = &ops, .queues = 257}, -EINVAL},
		{"more threads than queues",
		 {.socket_path = path, .ops = &ops, .queues = 2, .threads = 3},
		 -EINVAL},
		{"size 3", {.socket_path = path, .ops = &ops, .queue_size_max = 3}, -EINVAL},
		{"size 1", {.socket_path = path, .ops = &ops, .queue_size_max = 1}, -EINVAL},
		{"reserved", {.socket_path = path, .ops = &ops, .reserved = {[7] = 1}}, -EINVAL},
		{"long path", {.socket_path = long_path, .ops = &ops}, -ENAMETOOLONG},
		{"no such folder", {.socket_path = "/nowhere/at/all", .ops = &ops}, -ENOENT},
		{"a folder", {.socket_path = dir, .ops = &ops}, -EADDRINUSE},
		{"worker 7 refuses",
		 {.socket_path = path, .ops = &ops, .context = &device, .queues = 9},
		 -EDOM},
	};
	int fds = count_fds();

	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = 0;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct gr_vhost *got = NULL;
		int rc = gr_vhost_open(&cases[i].opts, &got);

		if (rc != cases[i].want || got)
			fail_msg("%s: %d, wanted %d", cases[i].what, rc, cases[i].want);
		assert_int_equal(count_fds(), fds);
		assert_int_equal(device.workers, 0);
	}
	assert_int_equal(gr_vhost_open(NULL, &server), -EINVAL);
	assert_int_equal(gr_vhost_close(NULL), 0);
}

static void a_dead_socket_is_replaced_a_live_one_is_not(void **state)
{
	struct gr_vhost_opts opts = opts_of(1, 1);
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct gr_vhost *first, *second;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd); /* the file stays, nobody listens */
	assert_int_equal(gr_vhost_open(&opts, &first), 0);
	assert_int_equal(gr_vhost_open(&opts, &second), -EADDRINUSE);
	assert_int_equal(gr_vhost_close(first), 0);
	assert_int_equal(access(path, F_OK), -1);
}

static void *talk(void *arg)
{
	static int rc;

	rc = fe_open(&fe, path, RAM) || fe_start(&fe, 1, 64, ~UINT64_C(0)) ||
	     submit(&fe.queues[0], 5);
	if (!rc) {
		fe_kick(&fe.queues[0]);
		rc = fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL) != 1;
	}
	fe_close(&fe);
	return &rc;
}

static void the_embedders_loop(void **state)
{
	struct gr_vhost_opts opts = opts_of(1, 1);
	struct gr_vhost_stats stats = {.connections = 0};
	struct pollfd wait = {.events = POLLIN};
	pthread_t thread;
	void *rc;
	int fds = count_fds();

	for (unsigned round = 0; round < 3; round++) {
		stats.connections = 0;
		assert_int_equal(gr_vhost_open(&opts, &server), 0);
		assert_int_equal(gr_vhost_process(server), 0); /* nothing to do */
		assert_int_equal(pthread_create(&thread, NULL, talk, NULL), 0);
		wait.fd = gr_vhost_fd(server);
		while (!stats.connections || stats.connected) {
			assert_int_equal(poll(&wait, 1, FE_TIMEOUT_MS), 1);
			assert_int_equal(gr_vhost_process(server), 0);
			gr_vhost_get_stats(server, &stats);
		}
		pthread_join(thread, &rc);
		assert_int_equal(*(int *)rc, 0);
		assert_int_equal(stats.requests, 1);
		assert_int_equal(device.resets, round + 1);
		assert_int_equal(gr_vhost_close(server), 0);
		assert_int_equal(count_fds(), fds);
	}
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
#define ALONE(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)
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
		ALONE(open_refuses),
		ALONE(a_dead_socket_is_replaced_a_live_one_is_not),
		ALONE(the_embedders_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
