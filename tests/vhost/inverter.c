/* SPDX-License-Identifier: MIT */
/* See inverter.h. */
#include "inverter.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

char server_dir[64], server_path[96];
struct gr_vhost *server;
struct device device;
struct fe fe;
struct sigaction sigbus;
static pthread_t runner;
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

void handle(void *context, void *worker_context, struct gr_vhost_request *const *requests,
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

void hold_requests(void)
{
	pthread_mutex_lock(&device.lock);
	device.hold = true;
	pthread_mutex_unlock(&device.lock);
}

void give_back(void)
{
	pthread_mutex_lock(&device.lock);
	while (device.count)
		invert(device.held[--device.count]);
	pthread_mutex_unlock(&device.lock);
}

unsigned held(void)
{
	unsigned count;

	pthread_mutex_lock(&device.lock);
	count = device.count;
	pthread_mutex_unlock(&device.lock);
	return count;
}

unsigned errors(void)
{
	unsigned count;

	pthread_mutex_lock(&device.lock);
	count = device.errors;
	pthread_mutex_unlock(&device.lock);
	return count;
}

void wait_held(unsigned count)
{
	for (int tries = 0; tries < 2000 && held() != count; tries++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	assert_int_equal(held(), count);
}

void get_config(void *context, void *config)
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

const struct gr_vhost_ops inverter_ops = {
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

struct gr_vhost_opts opts_of(unsigned queues, unsigned threads)
{
	return (struct gr_vhost_opts){.socket_path = server_path,
				      .ops = &inverter_ops,
				      .context = &device,
				      .flags = GR_VHOST_SIGBUS,
				      .queues = queues,
				      .threads = threads};
}

int make_dir(void **state)
{
	strcpy(server_dir, "/tmp/guestram-vhost-XXXXXX");
	if (!mkdtemp(server_dir))
		return -1;
	snprintf(server_path, sizeof(server_path), "%s/device.sock", server_dir);
	memset(&device, 0, sizeof(device));
	return pthread_mutex_init(&device.lock, NULL);
}

int remove_dir(void **state)
{
	pthread_mutex_destroy(&device.lock);
	return rmdir(server_dir); /* the server removed its socket */
}

int start_server(void **state)
{
	struct gr_vhost_opts opts = opts_of(4, 2);

	if (make_dir(state) || gr_vhost_open(&opts, &server))
		return -1;
	/* cmocka puts its own handler back after this; the library installs its own once */
	if (!sigbus_saved)
		sigbus_saved = !sigaction(SIGBUS, NULL, &sigbus);
	return pthread_create(&runner, NULL, run, NULL) || fe_open(&fe, server_path, RAM);
}

int stop_server(void **state)
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

int submit(struct fe_queue *q, unsigned i)
{
	uint64_t at = FE_DATA + 128 * i;
	struct fe_buf bufs[3] = {{FE_GPA + at, 5, false},
				 {FE_GPA + at + 5, 11, false},
				 {FE_GPA + at + 64, 32, true}};

	memset(fe.mem + at, (int)i, 16);
	memset(fe.mem + at + 64, 0xee, 32);
	return fe_submit(q, bufs, 3, i);
}

void assert_inverted(unsigned i)
{
	const uint8_t *answer = fe.mem + FE_DATA + 128 * i + 64;

	for (unsigned k = 0; k < 16; k++)
		assert_int_equal(answer[k], (uint8_t)~i);
	assert_int_equal(answer[16], 0xee);
}
