/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench reclaim`: from the moment the last reader leaves to the moment the release of
 * the memory begins, on an idle machine, beside liburcu's call_rcu and synchronize_rcu.
 *
 * Threads: a reader sits in a section for a few milliseconds; main deletes a block meanwhile, so
 * that whoever waits for the reader is asleep by then. The reader writes `left` as the last thing
 * inside its section; the release callback (the RAM's thread, call_rcu's thread) or, for
 * synchronize_rcu, main writes `began`. Both are handed over by semaphores.
 */
#include "bench.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <guestram.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

#define LENGTH (UINT64_C(2) << 20)

enum { SAMPLES = 500, QUICK_SAMPLES = 20, INSIDE_US = 2000 };

enum way { GUESTRAM, GUESTRAM_NO_READER, SYNCHRONIZE, CALL_RCU, WAYS };

static const char *const way_names[WAYS] = {
	[GUESTRAM] = "guestram",
	[GUESTRAM_NO_READER] = "guestram, no reader (from delete)",
	[SYNCHRONIZE] = "synchronize_rcu",
	[CALL_RCU] = "call_rcu",
};

struct world {
	struct gr_ram *ram;
	struct gr_space *space;
	void *host;
	sem_t enter, inside, out, released; /* to the reader; from it, twice; from the releaser */
	bool quit;			    /* before a post of enter */
	double left, began;
	struct rcu_head head;
};

static void *reader(void *context)
{
	struct world *world = context;

	urcu_memb_register_thread();
	for (;;) {
		while (sem_wait(&world->enter))
			;
		if (world->quit)
			break;
		gr_read_begin();
		sem_post(&world->inside);
		usleep(INSIDE_US);
		world->left = bench_now();
		gr_read_end();
		sem_post(&world->out);
	}
	urcu_memb_unregister_thread();
	return NULL;
}

static void release(void *context, void *host, uint64_t length)
{
	struct world *world = context;

	(void)host, (void)length;
	world->began = bench_now();
	sem_post(&world->released);
}

static void release_rcu(struct rcu_head *head)
{
	struct world *world = (struct world *)((char *)head - offsetof(struct world, head));

	release(world, NULL, 0);
}

static void take(sem_t *semaphore)
{
	while (sem_wait(semaphore))
		;
}

static int new_block(struct world *world, struct gr_block **block)
{
	const struct gr_block_opts opts = {.name = "bench",
					   .backing = GR_BACKING_CALLER,
					   .flags = GR_DELETE_UNMAP,
					   .length = LENGTH,
					   .host = world->host,
					   .release = release,
					   .release_context = world};
	int rc = gr_block_new(world->ram, &opts, block);

	if (rc < 0)
		return rc;
	return gr_space_map(world->space, 0, *block, 0, LENGTH, GR_READ | GR_WRITE);
}

/* us from the reader's leave, or from delete where there is none, to the release; or -errno. */
static double sample(struct world *world, enum way way)
{
	struct gr_block *block;
	int rc = 0;

	if (way <= GUESTRAM_NO_READER)
		rc = new_block(world, &block);
	if (rc < 0)
		return rc;
	if (way == GUESTRAM_NO_READER) {
		usleep(INSIDE_US); /* so that the RAM's thread is asleep */
		world->left = bench_now();
		rc = gr_block_delete(block);
		if (rc < 0)
			return rc;
		take(&world->released);
		return (world->began - world->left) / 1e3;
	}
	sem_post(&world->enter);
	take(&world->inside);
	if (way == GUESTRAM) {
		rc = gr_block_delete(block);
	} else if (way == CALL_RCU) {
		urcu_memb_call_rcu(&world->head, release_rcu);
	} else {
		urcu_memb_synchronize_rcu();
		release(world, NULL, 0);
	}
	take(&world->out);
	if (rc < 0)
		return rc;
	take(&world->released);
	return (world->began - world->left) / 1e3;
}

static int measure(struct bench *bench, struct world *world)
{
	int samples = bench->quick ? QUICK_SAMPLES : SAMPLES;
	static double us[WAYS][SAMPLES];
	int i, way;

	for (i = 0; i < samples; i++) {
		out_progress("reclaim: %d of %d", i + 1, samples);
		for (way = 0; way < WAYS; way++) {
			us[way][i] = sample(world, (enum way)way);
			/* a clock that ran backwards would show as a negative time, too */
			if (us[way][i] < 0)
				return cli_fail_gr((int)us[way][i], "bench reclaim: %s",
						   way_names[way]),
				       -EIO;
		}
	}
	for (way = 0; way < WAYS; way++)
		bench_row(bench,
			  json_pack("{s:s, s:i, s:f, s:f, s:f}", "what", way_names[way], "samples",
				    samples, "p50_us", bench_percentile(us[way], samples, 0.5),
				    "p99_us", bench_percentile(us[way], samples, 0.99), "max_us",
				    bench_percentile(us[way], samples, 1)));
	bench_goal(bench, "last reader leaves to release, p50, us",
		   bench_percentile(us[GUESTRAM], samples, 0.5), AT_MOST, 100);
	bench_goal(bench, "last reader leaves to release, p99, us",
		   bench_percentile(us[GUESTRAM], samples, 0.99), AT_MOST, 1000);
	return 0;
}

int bench_reclaim(struct bench *bench)
{
	struct world world = {0};
	pthread_t thread;
	int rc;

	world.host =
		mmap(NULL, LENGTH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (world.host == MAP_FAILED)
		return cli_fail(errno, "bench reclaim: reserving addresses"), -ENOMEM;
	sem_init(&world.enter, 0, 0);
	sem_init(&world.inside, 0, 0);
	sem_init(&world.out, 0, 0);
	sem_init(&world.released, 0, 0);
	rc = gr_ram_open(NULL, &world.ram);
	if (!rc)
		rc = gr_space_open(world.ram, "bench", &world.space);
	if (rc < 0) {
		cli_fail_gr(rc, "bench reclaim: an empty RAM");
		goto close_ram;
	}
	rc = -pthread_create(&thread, NULL, reader, &world);
	if (rc < 0) {
		cli_fail(rc, "bench reclaim: a reader thread");
		goto close_ram;
	}
	rc = measure(bench, &world);
	world.quit = true;
	sem_post(&world.enter);
	pthread_join(thread, NULL);

close_ram:
	gr_ram_close(world.ram);
	munmap(world.host, LENGTH);
	return rc;
}
