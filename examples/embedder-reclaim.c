/* SPDX-License-Identifier: MIT */
/*
 * A monitor with one big lock and an event loop runs reclaim itself: the RAM says by a descriptor
 * that blocks are ready, and gr_ram_reclaim() releases them under the monitor's lock, on its loop.
 * The waiting for readers is done before, by the RAM's own thread, under no lock: so a vCPU that
 * waits for the big lock inside a read section delays reclaim, and does not deadlock with it.
 *
 * Threads: a vCPU, and main(), which is the loop. Lock: big_lock guards all but `stop`.
 */
#include <guestram.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>

#define BASE 0x80000000ull
#define SIZE (2ull << 20)
#define BLOCKS 20

static pthread_mutex_t big_lock = PTHREAD_MUTEX_INITIALIZER;
static bool locked;	  /* big_lock is held */
static pthread_t loop;	  /* const */
static unsigned released; /* blocks whose memory came back */
static unsigned wrong;	  /* … but not under the lock, on the loop */
static uint64_t exits;	  /* of the vCPU that needed the big lock */
static atomic_bool stop;

static void take_big_lock(void)
{
	pthread_mutex_lock(&big_lock);
	locked = true;
}

static void drop_big_lock(void)
{
	locked = false;
	pthread_mutex_unlock(&big_lock);
}

/* The memory is the monitor's own; it comes back here. */
static void take_back(void *context, void *host, uint64_t length)
{
	(void)context;
	if (!locked || !pthread_equal(pthread_self(), loop))
		wrong++;
	munmap(host, length);
	released++;
}

static void *run_vcpu(void *arg)
{
	struct gr_space *space = arg;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		unsigned char *host;

		gr_read_begin();
		host = gr_host(space, BASE, 1, GR_WRITE);
		take_big_lock(); /* a device model runs here, still in the section */
		exits++;
		drop_big_lock();
		if (host)
			(*host)++; /* good until the section ends, however long that took */
		gr_read_end();
	}
	return NULL;
}

static int plug(struct gr_ram *ram, struct gr_space *space, int number, struct gr_block **block)
{
	char name[16];
	struct gr_block_opts opts = {
		.name = name, .backing = GR_BACKING_CALLER, .length = SIZE, .release = take_back};
	int rc;

	snprintf(name, sizeof(name), "dimm%d", number);
	opts.host = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (opts.host == MAP_FAILED)
		return -1;
	rc = gr_block_new(ram, &opts, block);
	if (rc < 0) {
		munmap(opts.host, SIZE); /* a block that was not made takes nothing */
		return rc;
	}
	return gr_space_map(space, BASE, *block, 0, SIZE, GR_READ | GR_WRITE);
}

/* One turn of the loop: sleep without the lock, work with it. False: nothing came for 5 s. */
static bool turn(struct gr_ram *ram)
{
	struct pollfd ready = {.fd = gr_ram_reclaim_fd(ram), .events = POLLIN};

	if (poll(&ready, 1, 5000) <= 0)
		return false;
	take_big_lock();
	gr_ram_reclaim(ram);
	drop_big_lock();
	return true;
}

int main(void)
{
	struct gr_ram_opts opts = {.embedder_reclaim = 1};
	struct gr_space *space;
	struct gr_block *block;
	struct gr_ram *ram;
	pthread_t vcpu;
	int number, rc;

	loop = pthread_self();
	if (gr_ram_open(&opts, &ram) || gr_space_open(ram, "guest-physical", &space) ||
	    pthread_create(&vcpu, NULL, run_vcpu, space)) {
		fprintf(stderr, "embedder-reclaim: %s\n", gr_last_error());
		return 1;
	}
	for (number = 1; number <= BLOCKS; number++) {
		take_big_lock();
		rc = plug(ram, space, number, &block);
		if (!rc)
			rc = gr_space_unmap(space, BASE, SIZE);
		if (!rc)
			rc = gr_block_delete(block); /* does not wait for the vCPU */
		drop_big_lock();
		if (rc) {
			fprintf(stderr, "embedder-reclaim: %s\n", gr_last_error());
			return 1;
		}
		while (released < number)
			if (!turn(ram)) {
				fprintf(stderr, "embedder-reclaim: a block never became ready\n");
				return 1;
			}
	}
	atomic_store(&stop, true);
	pthread_join(vcpu, NULL);
	printf("%u blocks released under the big lock, %u elsewhere; %llu vCPU exits meanwhile\n",
	       released, wrong, (unsigned long long)exits);
	return wrong || gr_ram_close(ram);
}
