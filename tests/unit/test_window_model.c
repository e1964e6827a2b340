/* SPDX-License-Identifier: MIT */
/*
 * Threads that read and write foreign memory at random, while others take windows away, against
 * what they know must stand there: each thread has a word of its own in every page, and remembers
 * what it stored there; the first word of a page never changes.
 *
 * And what must hold whoever wins: never more mapped than allowed, each mapping ended once, the
 * process's mappings at the end as at the beginning.
 */
#include "foreign_domain.h"

#define WINDOW (16 * KIB)
#define WINDOWS 8
#define PAGES 512
#define LENGTH (PAGES * PAGE)
#define SEAM (PAGES / 2 + 1) /* of two ranges, in the middle of a window */
#define WORKERS 3
#define STEPS 4000
#define LONGEST (40 * WINDOW) /* bytes of a load: more windows than there can be */

static struct domain domain;
static struct gr_ram *ram;
static struct gr_space *space;
static struct gr_block *block;
static int done;

struct worker {
	unsigned number;
	struct rng rng;
	uint64_t model[PAGES]; /* what this one stored to its word of each page */
	uint64_t *buffer;
	uint64_t refused; /* times that there was no window in a section */
	int wrong;	  /* the line that found something wrong, or 0 */
};

#define EXPECT(worker, condition)                                                                  \
	do {                                                                                       \
		if (!(condition) && !(worker)->wrong)                                              \
			(worker)->wrong = __LINE__;                                                \
	} while (0)

static uint64_t word_at(const struct worker *worker, uint64_t page)
{
	return page * PAGE + 8 * (1 + worker->number);
}

static uint64_t load(const uint64_t *host)
{
	return __atomic_load_n(host, __ATOMIC_RELAXED);
}

static void store_word(struct worker *worker)
{
	uint64_t page = rng_below(&worker->rng, PAGES), value = rng_next(&worker->rng);

	EXPECT(worker, !gr_store_u64(space, word_at(worker, page), value));
	worker->model[page] = value;
}

static void load_word(struct worker *worker)
{
	uint64_t page = rng_below(&worker->rng, PAGES), value = 0;

	EXPECT(worker, !gr_load_u64(space, word_at(worker, page), &value));
	EXPECT(worker, value == worker->model[page]);
	EXPECT(worker, !gr_load_u64(space, page * PAGE, &value));
	EXPECT(worker, value == domain_stamp(page * PAGE, false));
}

/* What it can judge of bytes that stand at @buffer, from a page's beginning on. */
static void check_bytes(struct worker *worker, const uint64_t *buffer, uint64_t offset,
			uint64_t length)
{
	uint64_t page, first = (offset + PAGE - 1) / PAGE;
	const char *bytes = (const char *)buffer;

	for (page = first; (page + 1) * PAGE <= offset + length; page++) {
		const char *at = bytes + (page * PAGE - offset);
		uint64_t stamp, own;

		memcpy(&stamp, at, 8);
		memcpy(&own, at + 8 * (1 + worker->number), 8);
		EXPECT(worker, stamp == domain_stamp(page * PAGE, false));
		EXPECT(worker, own == worker->model[page]);
	}
}

#ifndef GR__TSAN
static void load_stretch(struct worker *worker)
{
	uint64_t length = 1 + rng_below(&worker->rng, LONGEST);
	uint64_t offset = rng_below(&worker->rng, LENGTH - length + 1);

	EXPECT(worker, !gr_load(space, offset, worker->buffer, length));
	check_bytes(worker, worker->buffer, offset, length);
}

#endif

/* Several pointers, all good until the section ends, however many windows come meanwhile. */
static void look_in_section(struct worker *worker)
{
	const uint64_t *hosts[WINDOWS];
	uint64_t pages[WINDOWS], i, count = 1 + rng_below(&worker->rng, WINDOWS);

	gr_read_begin();
	for (i = 0; i < count; i++) {
		pages[i] = rng_below(&worker->rng, PAGES);
		hosts[i] = gr_host(space, word_at(worker, pages[i]), 8, RW);
		worker->refused += !hosts[i];
	}
	for (i = 0; i < count; i++)
		EXPECT(worker, !hosts[i] || load(hosts[i]) == worker->model[pages[i]]);
	gr_read_end();
}

static void look_at_spans(struct worker *worker)
{
	uint64_t page = rng_below(&worker->rng, PAGES - 8);
	bool seam = page < SEAM && SEAM < page + 8;
	struct iovec iov[3];
	int rc;

	gr_read_begin();
	rc = gr_spans(space, page * PAGE, 8 * PAGE, RW, iov, 3);
	EXPECT(worker, rc == -ENOBUFS || rc == (page % 4 ? 3 : 2) + seam);
	worker->refused += rc < 0;
	if (rc > 0)
		check_bytes(worker, iov[0].iov_base, page * PAGE, iov[0].iov_len);
	gr_read_end();
}

/* One pin in each thread at a time: so there is always a window for another. */
static void pin_page(struct worker *worker)
{
	uint64_t page = rng_below(&worker->rng, PAGES), value = rng_next(&worker->rng), other;
	struct gr_pin pin;
	unsigned i;
	int rc;

	if (rng_one_in(&worker->rng, 2))
		rc = gr_pin(space, page * PAGE, PAGE, RW, &pin);
	else
		rc = gr_block_pin(block, page * PAGE, PAGE, RW, &pin);
	EXPECT(worker, !rc);
	if (rc < 0)
		return;
	__atomic_store_n((uint64_t *)pin.host + 1 + worker->number, value, __ATOMIC_RELAXED);
	worker->model[page] = value;
	for (i = 0; i < 2 * WINDOWS; i++) {
		other = rng_below(&worker->rng, PAGES) * PAGE;
		EXPECT(worker, !gr_load_u64(space, other, &value));
		EXPECT(worker, value == domain_stamp(other, false));
	}
	EXPECT(worker, load((uint64_t *)pin.host + 1 + worker->number) == worker->model[page]);
	gr_unpin(&pin);
}

static void *work(void *arg)
{
	static void (*const steps[])(struct worker * worker) = {
		store_word, load_word, look_in_section, look_at_spans, store_word,
		load_word,  pin_page,  load_word,	store_word,    load_word,
	};
	struct worker *worker = arg;
	unsigned step;

	for (step = 0; step < STEPS && !worker->wrong; step++) {
#ifndef GR__TSAN /* it reads bytes that others write, as a guest's memory is */
		if (!(step % 200))
			load_stretch(worker);
#endif
		steps[rng_below(&worker->rng, COUNT_OF(steps))](worker);
	}
	return NULL;
}

/* Invalidates stretches; the memory has not moved, so nobody can tell. */
static void *take_away(void *arg)
{
	struct worker *worker = arg;

	while (!get(&done) && !worker->wrong) {
		uint64_t offset = rng_below(&worker->rng, LENGTH);
		uint64_t length = rng_below(&worker->rng, LENGTH - offset + 1);
		int rc = gr_foreign_invalidate(block, offset, length);

		EXPECT(worker, !rc || rc == -EBUSY);
		sleep_us((unsigned)rng_below(&worker->rng, 300));
	}
	return NULL;
}

static unsigned count_maps(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned count = 0;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "memfd:domain") != NULL;
	fclose(maps);
	return count;
}

static void run(bool deletes)
{
	struct worker workers[WORKERS + 1];
	pthread_t threads[WORKERS + 1];
	struct gr_block_opts opts;
	struct gr_foreign_stats stats;
	uint64_t seed = seed_of_the_day(), refused = 0;
	unsigned i;

	domain_open(&domain, LENGTH);
	opts = domain_opts(&domain, WINDOW, WINDOWS);
	assert_ok(gr_ram_open(NULL, &ram));
	assert_ok(gr_space_open(ram, "gpa", &space));
	assert_ok(gr_block_new(ram, &opts, &block));
	/* two ranges of it, so that stretches go over a seam of these too */
	assert_ok(gr_space_map(space, 0, block, 0, SEAM * PAGE, RW));
	assert_ok(gr_space_map(space, SEAM * PAGE, block, SEAM * PAGE, LENGTH - SEAM * PAGE, RW));
	set(&done, 0);
	memset(workers, 0, sizeof(workers));
	for (i = 0; i <= WORKERS; i++) {
		workers[i].number = i;
		workers[i].rng.state = seed + i;
		workers[i].buffer = malloc(LONGEST);
		threads[i] = thread_start(i < WORKERS ? work : take_away, &workers[i]);
	}
	for (i = 0; i <= WORKERS; i++) {
		if (i == WORKERS)
			set(&done, 1);
		thread_join(threads[i]);
		refused += workers[i].refused;
		free(workers[i].buffer);
	}
	for (i = 0; i <= WORKERS; i++)
		if (workers[i].wrong)
			fail_msg("thread %u, line %d, seed %llu", i, workers[i].wrong,
				 (unsigned long long)seed);
	assert_ok(gr_foreign_get_stats(block, &stats));
	assert_int_equal(stats.mapping, 0);
	assert_in_range(stats.published + stats.retired, 0, 2 * WINDOWS);
	assert_in_range(domain.most, WINDOWS, 2 * WINDOWS);
	assert_in_range(stats.evictions, 1000, UINT64_MAX);
	assert_in_range(stats.invalidated, 10, UINT64_MAX);
	print_message("%llu misses, %llu evictions, %llu invalidated, %llu waits, %llu refused; "
		      "at most %u mapped\n",
		      (unsigned long long)stats.misses, (unsigned long long)stats.evictions,
		      (unsigned long long)stats.invalidated, (unsigned long long)stats.waits,
		      (unsigned long long)refused, domain.most);
	if (deletes) {
		assert_ok(gr_space_unmap(space, 0, LENGTH));
		assert_ok(gr_block_delete(block));
		assert_ok(gr_ram_drain(ram, LONG_MS));
		assert_int_equal(domain.released, 1);
		assert_int_equal(count_maps(), 0);
	}
	assert_ok(gr_ram_close(ram));
	assert_int_equal(domain.released, 1);
	assert_int_equal(count_maps(), 0);
	domain_close(&domain);
}

static void test_every_byte_is_where_it_belongs(void **unused)
{
	run(false);
}

static void test_the_same_and_the_block_is_deleted(void **unused)
{
	run(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_byte_is_where_it_belongs),
		cmocka_unit_test(test_the_same_and_the_block_is_deleted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
