/* SPDX-License-Identifier: MIT */
/*
 * The guest runs on the other side before its memory is there: it reads what it had written, and
 * writes on. The guest here keeps a count in each page that it also keeps in its "registers", so
 * that a page which came late, twice or not at all is noticed.
 */
#include "pair.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/socket.h>

#define PAGES ((LOW_BYTES + HIGH_BYTES) / PAGE)

static uint64_t registers[PAGES]; /* of the guest: moves with it, in this process */
static int wrong;		  /* atomic */

static void *run_counter(void *arg)
{
	struct side *side = arg;
	struct rng rng = {(uintptr_t)side};

	while (!get(&side->over)) {
		set(&side->parked, 0);
		__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with on_stop() of pair.c */
		if (!get(&side->running)) {
			set(&side->parked, 1);
			sleep_us(100);
			continue;
		}
		for (unsigned i = 0; i < 32; i++) {
			uint64_t page = rng_below(&rng, PAGES), value = 0;

			if (gr_load_u64(side->space, page * PAGE + 64, &value) < 0 ||
			    value != registers[page])
				set(&wrong, 1);
			registers[page]++;
			gr_store_u64(side->space, page * PAGE + 64, registers[page]);
		}
		__atomic_fetch_add(&side->writes, 32, __ATOMIC_RELAXED);
		set(&side->parked, 1);
		sleep_us(200);
	}
	set(&side->parked, 1);
	return NULL;
}

static bool have_uffd(struct pair *pair)
{
	if (strstr(pair->from.why, "does not converge")) {
		print_message("no postcopy here: see vm.unprivileged_userfaultfd\n");
		return false;
	}
	return true;
}

static void prepare(struct pair *pair, unsigned channels)
{
	pair_open(pair, channels, PAIR_TCP);
	for (uint64_t page = 0; page < PAGES; page++) {
		registers[page] = page;
		assert_ok(gr_store_u64(pair->from.space, page * PAGE + 64, page));
	}
	wrong = 0;
	pair->from.opts.flags |= GR_MIGRATE_POSTCOPY;
	pair->from.opts.max_rounds = 1;
	pair->from.opts.max_downtime_ms = 1;
	pair->from.opts.max_bytes_per_second = 40 * MIB;
	pair->from.guest = thread_start(run_counter, &pair->from);
	pair->from.has_guest = true;
}

static void move(unsigned channels, unsigned zstd)
{
	struct pair pair;
	uint64_t before;

	prepare(&pair, channels);
	pair.from.opts.zstd_level = zstd;
	if (zstd)
		pair.from.opts.max_bytes_per_second = 2 * MIB;
	pair.to.guest = thread_start(run_counter, &pair.to);
	pair.to.has_guest = true;
	pair_run(&pair);
	if (!have_uffd(&pair)) {
		pair_close(&pair);
		skip();
	}
	if (pair.from.rc || pair.to.rc)
		fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc, pair.to.why);
	assert_int_equal(pair.from.stats.postcopy, 1);
	assert_int_equal(pair.to.stats.postcopy, 1);
	assert_one_guest(&pair);
	before = __atomic_load_n(&pair.to.writes, __ATOMIC_RELAXED);
	assert_true(wait_until(__atomic_load_n(&pair.to.writes, __ATOMIC_RELAXED) > before + 500));
	set(&pair.to.running, 0);
	side_end_guest(&pair.to);
	assert_int_equal(wrong, 0);
	for (uint64_t page = 0; page < PAGES; page++) {
		uint64_t value;

		assert_ok(gr_load_u64(pair.to.space, page * PAGE + 64, &value));
		if (value != registers[page])
			fail_msg("page %llu has %llu, not %llu", (unsigned long long)page,
				 (unsigned long long)value, (unsigned long long)registers[page]);
	}
	print_message("%u channels: %llu requests, %llu us down, %llu us in all\n", channels,
		      (unsigned long long)pair.to.stats.requests,
		      (unsigned long long)pair.from.stats.downtime_us,
		      (unsigned long long)pair.from.stats.total_us);
	if (channels == 1) /* with others the rest may come before it is touched */
		assert_true(pair.to.stats.requests > 0);
	pair_close(&pair);
}

static void one_channel(void **unused)
{
	move(1, 0);
}

static void three_channels_packed(void **unused)
{
	move(3, 1);
}

/* ------------------------------------------------------------------------------ it breaks down */

static sigjmp_buf out;
static volatile sig_atomic_t caught;

static void on_fault(int signal)
{
	caught = signal;
	siglongjmp(out, 1);
}

/* A page that will not come raises a signal: it neither hangs nor reads as zero. */
static void *read_all(void *arg)
{
	struct side *side = arg;
	volatile const char *low = info_of(side->low).host;
	uint64_t sum = 0;

	if (!sigsetjmp(out, 1))
		for (uint64_t at = 0; at < LOW_BYTES; at += PAGE)
			sum += (uint64_t)low[at];
	return (void *)(uintptr_t)(sum & 0);
}

static int hang_up_after_resume(void *context, const struct gr_migrate_stats *stats)
{
	struct side *side = context;

	if (stats->postcopy) /* the sender's side of the world breaks down */
		for (unsigned i = 0; i < side->opts.fd_count; i++)
			shutdown(side->fds[i], 2);
	return 0;
}

static void a_broken_connection(void **unused)
{
	struct sigaction action = {.sa_handler = on_fault}, bus, segv;
	struct gr_migrate_ops ops = pair_ops;
	struct pair pair;

	ops.progress = hang_up_after_resume;
	prepare(&pair, 2);
	pair.from.opts.ops = &ops;
	pair.from.opts.max_bytes_per_second = 4 * MIB;
	pair_run(&pair);
	if (!have_uffd(&pair)) {
		pair_close(&pair);
		skip();
	}
	assert_true(pair.from.rc < 0 && pair.to.rc < 0);
	assert_int_equal(pair.from.stats.guest, GR_GUEST_LOST);
	assert_int_equal(pair.to.stats.guest, GR_GUEST_LOST);
	assert_int_equal(pair.from.resumes, 0);
	assert_non_null(strstr(pair.to.why, "postcopy"));
	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGSEGV, &action, &segv);
	read_all(&pair.to);
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	assert_true(caught == SIGBUS || caught == SIGSEGV);
	set(&pair.to.running, 0);
	pair_close(&pair);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_channel),
		cmocka_unit_test(three_channels_packed),
		cmocka_unit_test(a_broken_connection),
	};

	testing_end_after(170);
	return cmocka_run_group_tests_name("migrate: postcopy", tests, NULL, NULL);
}
