/* SPDX-License-Identifier: MIT */
/*
 * Guest memory is replaced while other threads keep reading it. Each block is filled with its own
 * number, so a reader that saw freed memory, two blocks at once, or one that was gone before its
 * read section began would notice.
 *
 * Threads: two readers with a cursor each, one with a pin, and main(), which plugs and unplugs.
 */
#include <guestram.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#define BASE 0x100000000ull
#define SIZE (4ull << 20)
#define WORDS 64 /* read from one lookup */
#define ROUNDS 100

static struct gr_space *space;
static atomic_bool stop;
/* Raised by main() after a publish; release, so that who reads N finds block N or a later one. */
static _Atomic uint64_t published;

/* Are these words all one number, of a block no older than @oldest? */
static bool is_right(const uint64_t *words, uint64_t oldest)
{
	uint64_t number = words[0];
	int i;

	for (i = 1; i < WORDS; i++)
		if (words[i] != number)
			return false;
	return number >= oldest;
}

struct reader {
	pthread_t thread;
	uint64_t lookups, wrong;
};

static void *read_on(void *arg)
{
	struct reader *reader = arg;
	struct gr_cursor cursor; /* one caller's cache: here, one for each reader */

	gr_cursor_init(&cursor, space);
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		uint64_t oldest = atomic_load_explicit(&published, memory_order_acquire);
		const uint64_t *words;
		int i;

		gr_read_begin(); /* one section for many lookups */
		for (i = 0; i < 64; i++) {
			words = gr_cursor_host(&cursor, BASE + i * 4096, WORDS * 8, GR_READ);
			if (!words || !is_right(words, oldest))
				reader->wrong++;
			reader->lookups++;
		}
		gr_read_end();
	}
	return NULL;
}

/* A request in flight: its memory stays, whatever happens to the block meanwhile. */
static void *pin_on(void *arg)
{
	struct reader *reader = arg;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		uint64_t number, seen = atomic_load_explicit(&published, memory_order_acquire);
		struct gr_pin pin;

		if (gr_pin(space, BASE, WORDS * 8, GR_READ, &pin) < 0) {
			reader->wrong++;
			continue;
		}
		number = *(const uint64_t *)pin.host;
		/* sleep over two replacements; no read section is held */
		while (atomic_load_explicit(&published, memory_order_relaxed) < seen + 2 &&
		       !atomic_load_explicit(&stop, memory_order_relaxed))
			nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
		if (!is_right(pin.host, number) || *(const uint64_t *)pin.host != number)
			reader->wrong++;
		gr_unpin(&pin);
		reader->lookups++;
	}
	return NULL;
}

/* A new block full of @number, not yet visible to the guest. */
static int make_block(struct gr_ram *ram, uint64_t number, struct gr_block **block)
{
	char name[32];
	struct gr_block_opts opts = {.name = name, .length = SIZE};
	struct gr_block_info info;
	size_t i;
	int rc;

	snprintf(name, sizeof(name), "dimm%llu", (unsigned long long)number);
	rc = gr_block_new(ram, &opts, block);
	if (rc < 0)
		return rc;
	gr_block_get_info(*block, &info);
	for (i = 0; i < SIZE / 8; i++)
		((uint64_t *)info.host)[i] = number;
	return 0;
}

/* Out with the old (if there is one), in with the new; readers see one of them, never neither. */
static int replace(struct gr_block *old, struct gr_block *block)
{
	struct gr_txn *txn;
	int rc = gr_txn_begin(space, &txn);

	if (rc < 0)
		return rc;
	rc = old ? gr_txn_unmap(txn, BASE, SIZE) : 0;
	if (!rc)
		rc = gr_txn_map(txn, BASE, block, 0, SIZE, GR_READ | GR_WRITE);
	if (rc < 0) {
		gr_txn_abort(txn);
		return rc;
	}
	rc = gr_txn_commit(txn);
	if (!rc && old)
		rc = gr_block_delete(old); /* does not wait for the readers */
	return rc;
}

/* Blocks first … last, one after the other, at one place. */
static int plug(struct gr_ram *ram, uint64_t first, uint64_t last, struct gr_block **current)
{
	uint64_t number;
	int rc = 0;

	for (number = first; !rc && number <= last; number++) {
		struct gr_block *block;

		rc = make_block(ram, number, &block);
		if (!rc)
			rc = replace(*current, block);
		if (rc < 0)
			return rc;
		*current = block;
		atomic_store_explicit(&published, number, memory_order_release);
	}
	return rc;
}

static int fail(void)
{
	fprintf(stderr, "hotplug: %s\n", gr_last_error());
	return 1;
}

int main(void)
{
	struct reader readers[3] = {{0}};
	struct gr_block *current = NULL;
	struct gr_ram_stats stats;
	struct gr_ram *ram;
	uint64_t wrong = 0;
	int rc, i;

	if (gr_ram_open(NULL, &ram) || gr_space_open(ram, "guest-physical", &space) ||
	    plug(ram, 1, 1, &current))
		return fail();
	for (i = 0; i < 3; i++) {
		if (pthread_create(&readers[i].thread, NULL, i < 2 ? read_on : pin_on,
				   &readers[i])) {
			fprintf(stderr, "hotplug: no thread\n");
			return 1;
		}
	}
	rc = plug(ram, 2, ROUNDS, &current);
	atomic_store(&stop, true);
	for (i = 0; i < 3; i++) {
		pthread_join(readers[i].thread, NULL);
		wrong += readers[i].wrong;
	}
	if (rc || gr_ram_drain(ram, 5000))
		return fail();
	gr_ram_get_stats(ram, &stats);
	printf("%d blocks replaced under %llu lookups and %llu pins; %llu wrong; %llu reclaimed\n",
	       ROUNDS - 1, (unsigned long long)(readers[0].lookups + readers[1].lookups),
	       (unsigned long long)readers[2].lookups, (unsigned long long)wrong,
	       (unsigned long long)stats.blocks_reclaimed);
	return wrong || stats.blocks_reclaimed != ROUNDS - 1 || gr_ram_close(ram);
}
