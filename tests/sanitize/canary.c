/* SPDX-License-Identifier: MIT */
/*
 * Faults that a sanitizer must see, one for each argument, so that a run which finds nothing means
 * something: scripts/run-sanitized has each of them found before it runs the tests.
 *
 * The last two are about what gr_read_end() and gr__synchronize() tell ThreadSanitizer of grace
 * periods. Memory that a section read is written by another thread: after gr_ram_drain() that is no
 * fault, and at once it is one. Between the two threads there is no order but what the library
 * makes: they wait for each other with relaxed loads.
 */
#include <guestram.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LENGTH = 2 << 20 };

static struct gr_space *space;
static _Alignas(LENGTH) char memory[LENGTH];
static volatile char seen;
static int has_read; /* atomic, and orders nothing */

/* What the compiler cannot know. */
static volatile int one = 1;

static int read_freed(void)
{
	volatile char *heap = malloc(16);

	if (!heap)
		return 1;
	free((char *)heap);
	return heap[one] == 77; /* NOLINT: this is the fault */
}

static int read_past_end(void)
{
	static volatile char bytes[4];

	return bytes[3 + one] == 77;
}

static int leak(void)
{
	static void *volatile lost;

	lost = malloc(100);
	lost = NULL;
	return lost != NULL;
}

static int overflow(void)
{
	int sum = 0x7fffffff;

	sum += one;
	return sum == 77;
}

static int shared;

static void *count(void *unused)
{
	shared++;
	return unused;
}

static int race(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, count, NULL))
		return 1;
	shared++;
	return pthread_join(thread, NULL);
}

static void *read_in_section(void *unused)
{
	const char *host;

	gr_read_begin();
	host = gr_host(space, 0, 1, GR_READ);
	if (host)
		seen = *host;
	__atomic_store_n(&has_read, 1, __ATOMIC_RELAXED);
	gr_read_end();
	while (__atomic_load_n(&has_read, __ATOMIC_RELAXED) != 2)
		usleep(100); /* a thread's exit would order what it did */
	return unused;
}

static int section(int drain)
{
	const struct gr_block_opts opts = {.name = "ram",
					   .backing = GR_BACKING_CALLER,
					   .length = LENGTH,
					   .host = memory,
					   .flags = GR_DELETE_UNMAP};
	struct gr_block *block;
	struct gr_ram *ram;
	pthread_t thread;

	if (gr_ram_open(NULL, &ram) < 0 || gr_space_open(ram, "guest", &space) < 0 ||
	    gr_block_new(ram, &opts, &block) < 0 ||
	    gr_space_map(space, 0, block, 0, LENGTH, GR_READ | GR_WRITE) < 0 ||
	    pthread_create(&thread, NULL, read_in_section, NULL))
		return 1;
	while (__atomic_load_n(&has_read, __ATOMIC_RELAXED) != 1)
		usleep(100);
	if (gr_block_delete(block) < 0 || (drain && gr_ram_drain(ram, 10000) < 0))
		return 1;
	memory[0] = 1;
	__atomic_store_n(&has_read, 2, __ATOMIC_RELAXED);
	if (pthread_join(thread, NULL))
		return 1;
	return gr_ram_close(ram) < 0;
}

static int write_at_once(void)
{
	return section(0);
}

static int write_after_grace(void)
{
	return section(1);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(void);
	} faults[] = {
		{"read-freed", read_freed},
		{"read-past-end", read_past_end},
		{"leak", leak},
		{"overflow", overflow},
		{"race", race},
		{"write-at-once", write_at_once},
		{"write-after-grace", write_after_grace},
	};

	for (size_t i = 0; argc == 2 && i < sizeof(faults) / sizeof(faults[0]); i++)
		if (!strcmp(argv[1], faults[i].name))
			return faults[i].run() ? 3 : 0;
	fprintf(stderr, "canary: which fault?\n");
	return 2;
}
