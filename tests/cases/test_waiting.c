/* SPDX-License-Identifier: MIT */
/* P16, Q11, Q21, Q22: what other threads can do meanwhile, and waits that must not last for ever.
 */
#include "case.h"
#include "os/hooks.h"
#include <sys/mman.h>
#include <unistd.h>

#define BASE GIB

/* ------------------------------------------------------------------------------------ Q11 */

/*
 * Another thread's mmap(), at every moment when our code is about to call the kernel. If any part
 * of what we hold or are about to map over were a gap, it would get it.
 */
static struct {
	char *first, *end; /* what the block holds for good; NULL: not known yet */
	char *mine[512];   /* pages of "the other thread" */
	unsigned count, stolen, calls;
} intruder;

static int intrude(const char *call)
{
	char *at, *page;
	unsigned i;

	intruder.calls++;
	for (at = intruder.first; at < intruder.end; at += PAGE) {
		page = mmap(at, PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (page != MAP_FAILED) {
			intruder.stolen++;
			munmap(page, PAGE);
		}
	}
	/* and where the kernel likes, which is often what was just given back */
	for (i = 0; i < 4 && intruder.count < COUNT_OF(intruder.mine); i++) {
		page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (page == MAP_FAILED)
			continue;
		memset(page, 0x66, PAGE);
		intruder.mine[intruder.count++] = page;
	}
	return 0;
}

static bool readable(const void *addr)
{
	int ends[2];
	bool yes;

	assert_int_equal(pipe(ends), 0);
	yes = write(ends[1], addr, PAGE) == (ssize_t)PAGE;
	close(ends[0]);
	close(ends[1]);
	return yes;
}

static void assert_intruder_unharmed(void)
{
	unsigned i, k;

	assert_int_equal(intruder.stolen, 0);
	for (i = 0; i < intruder.count; i++) {
		assert_true(readable(intruder.mine[i]));
		for (k = 0; k < PAGE; k++)
			assert_int_equal(intruder.mine[i][k], 0x66);
		munmap(intruder.mine[i], PAGE);
	}
	intruder.count = 0;
}

static void q11_no_mmap_of_another_thread_lands_in_a_gap_of_ours(void **unused)
{
	static const struct {
		enum gr_backing backing;
		unsigned flags;
		uint64_t align;
		const char *path;
	} kinds[] = {
		{GR_BACKING_ANON, 0, 0, NULL},
		{GR_BACKING_ANON, GR_SHARED | GR_LOCKED, 64 * KIB, NULL},
		{GR_BACKING_ANON, GR_PREALLOC | GR_NO_DUMP | GR_NO_FORK, 16 * MIB, NULL},
		{GR_BACKING_MEMFD, 0, 0, NULL},
		{GR_BACKING_MEMFD, GR_PREALLOC | GR_NO_GUARD, 2 * MIB, NULL},
		{GR_BACKING_FILE, GR_TEMPORARY | GR_SHARED, 2 * MIB, "/tmp"},
		{GR_BACKING_FILE, GR_TEMPORARY, 0, "/tmp"},
	};
	struct gr_ram *ram = case_ram();
	size_t i;

	for (i = 0; i < COUNT_OF(kinds); i++) {
		struct gr_block_opts opts = {
			.name = "x",
			.backing = kinds[i].backing,
			.flags = kinds[i].flags,
			.align = kinds[i].align,
			.path = kinds[i].path,
			.length = 4 * PAGE,
			.max_length = 16 * PAGE,
		};
		struct gr_block *block;
		struct gr_block_info info;

		memset(&intruder, 0, sizeof(intruder));
		gr__hook_fault = intrude;
		assert_ok(gr_block_new(ram, &opts, &block));
		gr__hook_fault = NULL;
		assert_true(intruder.calls > 3 && intruder.count);
		assert_intruder_unharmed();

		gr_block_get_info(block, &info);
		memset(info.host, 0x31, info.length);
		memset(&intruder, 0, sizeof(intruder));
		intruder.first = info.host;
		intruder.end =
			intruder.first + info.max_length + (opts.flags & GR_NO_GUARD ? 0 : PAGE);
		gr__hook_fault = intrude;
		assert_ok(gr_block_resize(block, 12 * PAGE));
		assert_ok(gr_block_discard(block, PAGE, PAGE));
		assert_ok(gr_block_resize(block, 2 * PAGE));
		assert_ok(gr_block_resize(block, 16 * PAGE));
		gr__hook_fault = NULL;
		assert_true(intruder.calls > 5);
		assert_intruder_unharmed();
		assert_int_equal(*(char *)info.host, 0x31);

		/* once it is being released, nothing is mapped over it any more */
		memset(&intruder, 0, sizeof(intruder));
		gr__hook_fault = intrude;
		assert_ok(gr_block_delete(block));
		case_drain(ram);
		gr__hook_fault = NULL;
		assert_intruder_unharmed();
	}
	case_close(ram);
}

/* ------------------------------------------------------------------------------- Q21, Q22 */

struct long_reader {
	struct gr_space *space;
	sem_t inside, leave;
};

static void *stay_inside(void *context)
{
	struct long_reader *reader = context;

	gr_read_begin();
	gr_host(reader->space, BASE, 1, 0);
	sem_post(&reader->inside);
	while (sem_wait(&reader->leave) < 0)
		;
	gr_read_end();
	return NULL;
}

static void q21_drain_with_a_reader_that_never_leaves_times_out_in_time(void **unused)
{
	static const int timeouts[] = {0, 1, 20, 150};
	struct gr_ram *ram = case_ram();
	struct long_reader reader = {.space = case_space(ram, "guest")};
	struct gr_block *block = case_anon(ram, "x", PAGE);
	pthread_t thread;
	size_t i;

	sem_init(&reader.inside, 0, 0);
	sem_init(&reader.leave, 0, 0);
	assert_ok(gr_ram_drain(ram, 0)); /* nothing to wait for */
	case_map(reader.space, BASE, block, 0, PAGE, RW);
	assert_int_equal(pthread_create(&thread, NULL, stay_inside, &reader), 0);
	sem_wait(&reader.inside);
	assert_ok(gr_ram_drain(ram, 0)); /* a reader alone is no reason */
	assert_ok(gr_block_delete(block));
	for (i = 0; i < COUNT_OF(timeouts); i++) {
		uint64_t start = case_now_ns(), took;

		assert_int_equal(gr_ram_drain(ram, timeouts[i]), -ETIMEDOUT);
		took = (case_now_ns() - start) / 1000000;
		assert_true(took >= (uint64_t)timeouts[i]);
		assert_true(took <= (uint64_t)timeouts[i] + 500); /* a busy machine */
	}
	sem_post(&reader.leave);
	pthread_join(thread, NULL);
	assert_ok(gr_ram_drain(ram, -1));
	case_close(ram);
}

/*
 * A writer that outruns the reclaim thread frees old views itself, and so waits for readers itself.
 * The reclaim thread is held, one reader stays in a section: the writer cannot go on for ever.
 */
struct fast_writer {
	struct gr_space *space;
	struct gr_block *block;
	unsigned pairs; /* atomic */
	int rc;
};

enum { PAIRS = 20000 };

static void *map_and_unmap(void *context)
{
	struct fast_writer *writer = context;
	unsigned i;

	for (i = 0; i < PAIRS && !writer->rc; i++) {
		writer->rc = gr_space_map(writer->space, BASE, writer->block, 0, PAGE, RW);
		if (!writer->rc)
			writer->rc = gr_space_unmap(writer->space, BASE, PAGE);
		__atomic_add_fetch(&writer->pairs, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void p16_writer_that_outruns_reclaim_waits_for_readers(void **unused)
{
	struct gr_ram *ram = case_ram();
	struct fast_writer writer = {.space = case_space(ram, "guest")};
	unsigned seen = 0, before;
	struct gate gate;
	pthread_t thread;
	int quiet;

	writer.block = case_anon(ram, "x", PAGE);
	gate_arm(&gate, "reclaim.before_grace", NULL, 0);
	/* a block brings it there: the writer may have freed its views before it has come */
	assert_int_equal(gr_block_delete(case_anon(ram, "y", PAGE)), 0);
	gate_wait(&gate);
	gr_read_begin();
	assert_int_equal(pthread_create(&thread, NULL, map_and_unmap, &writer), 0);
	/* until it stands still */
	for (quiet = 0; quiet < 40 && seen < PAIRS; quiet++) {
		usleep(5000);
		before = seen;
		seen = __atomic_load_n(&writer.pairs, __ATOMIC_SEQ_CST);
		if (seen != before)
			quiet = 0;
	}
	assert_true(seen < PAIRS);
	gr_read_end();
	gate_open(&gate);
	pthread_join(thread, NULL);
	gate_disarm(&gate);
	assert_int_equal(writer.rc, 0);
	assert_int_equal(writer.pairs, PAIRS);
	case_close(ram);
}

/* Every call that waits, where it would wait for itself. */
static struct {
	struct gr_ram *ram;
	struct gr_block *block;
	struct gr_listener *listener;
	unsigned asked, wrong;
} waiting;

static void try_to_wait(void)
{
	waiting.asked++;
	waiting.wrong += gr_ram_drain(waiting.ram, 1000) != -EDEADLK;
	waiting.wrong += gr_ram_drain(waiting.ram, 0) != -EDEADLK;
	waiting.wrong += gr_ram_close(waiting.ram) != -EDEADLK;
	if (waiting.listener)
		waiting.wrong += gr_listener_close(waiting.listener) != -EDEADLK;
	if (waiting.block)
		waiting.wrong += gr_block_resize(waiting.block, PAGE) != -EDEADLK;
}

static void release_waiting(void *context, void *host, uint64_t length)
{
	try_to_wait();
}

static int on_block_added(void *context, struct gr_block *block)
{
	try_to_wait();
	return 0;
}

static void on_block_deleting(void *context, struct gr_block *block)
{
	try_to_wait();
}

static void on_block_reclaimed(void *context, const struct gr_block_info *info)
{
	try_to_wait();
}

static int on_range_added(void *context, struct gr_space *space, const struct gr_range *range)
{
	try_to_wait();
	return 0;
}

static void on_range_removed(void *context, struct gr_space *space, const struct gr_range *range)
{
	try_to_wait();
}

static void on_committed(void *context, struct gr_space *space, uint64_t generation)
{
	try_to_wait();
}

static void q22_waiting_inside_a_section_or_callback_is_edeadlk(void **unused)
{
	static const struct gr_listener_ops ops = {
		on_block_added, on_block_deleting, on_block_reclaimed,
		on_range_added, on_range_removed,  on_committed,
	};
	struct gr_ram *ram = case_ram();
	struct gr_space *space = case_space(ram, "guest");
	struct gr_block *keep = case_anon(ram, "keep", 4 * PAGE), *block;
	char *memory = case_pages(PAGE);
	struct gr_block_opts opts = {
		.name = "x",
		.backing = GR_BACKING_CALLER,
		.host = memory,
		.length = PAGE,
		.release = release_waiting,
	};
	unsigned before;

	memset(&waiting, 0, sizeof(waiting));
	waiting.ram = ram;
	waiting.block = keep;
	gr_read_begin();
	try_to_wait();
	gr_read_begin(); /* nested: leaving one is not leaving */
	gr_read_end();
	try_to_wait();
	gr_read_end();
	assert_int_equal(waiting.wrong, 0);

	assert_ok(gr_listener_open(ram, &ops, NULL, 0, &waiting.listener));
	assert_true(waiting.asked > 2);
	before = waiting.asked;
	assert_ok(gr_block_new(ram, &opts, &block));  /* block_added */
	case_map(space, BASE, block, 0, PAGE, RW);    /* range_added, committed */
	assert_ok(gr_space_unmap(space, BASE, PAGE)); /* range_removed, committed */
	assert_ok(gr_block_delete(block));	      /* block_deleting */
	case_drain(ram);			      /* release, reclaimed */
	assert_int_equal(waiting.asked - before, 8);
	assert_int_equal(waiting.wrong, 0);
	/* and afterwards everything can be had */
	assert_ok(gr_block_resize(keep, PAGE));
	waiting.block = NULL; /* nothing to shrink any more */
	assert_ok(gr_listener_close(waiting.listener));
	waiting.listener = NULL;
	assert_int_equal(waiting.wrong, 0);
	case_close(ram);
	munmap(memory, PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(q11_no_mmap_of_another_thread_lands_in_a_gap_of_ours),
		cmocka_unit_test(q21_drain_with_a_reader_that_never_leaves_times_out_in_time),
		cmocka_unit_test(p16_writer_that_outruns_reclaim_waits_for_readers),
		cmocka_unit_test(q22_waiting_inside_a_section_or_callback_is_edeadlk),
	};

	case_watchdog(60);
	return cmocka_run_group_tests_name("waiting", tests, NULL, NULL);
}
