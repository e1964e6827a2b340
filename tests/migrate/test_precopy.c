/* SPDX-License-Identifier: MIT */
/* A guest that writes while it is moved: every byte arrives, over every kind of stream. */
#include "pair.h"
#include <fcntl.h>
#include <sys/wait.h>

static void move(unsigned channels, enum pair_pipe how, unsigned zstd, unsigned mark)
{
	struct pair pair;

	pair_open(&pair, channels, how);
	pair.from.opts.zstd_level = zstd;
	pair.from.mark = mark;
	side_start_guest(&pair.from);
	wait_until(__atomic_load_n(&pair.from.writes, __ATOMIC_RELAXED) > 100);
	pair_run(&pair);
	if (pair.from.rc || pair.to.rc)
		fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc, pair.to.why);
	assert_int_equal(pair.from.stats.guest, GR_GUEST_THERE);
	assert_int_equal(pair.to.stats.guest, GR_GUEST_HERE);
	assert_one_guest(&pair);
	assert_int_equal(pair.from.stops, 1);
	assert_int_equal(pair.from.resumes, 0);
	assert_int_equal(pair.to.resumes, 1);
	assert_memory_equal(pair.to.state, "registers", 9);
	assert_same_memory(&pair);
	assert_true(pair.from.stats.rounds >= 2);
	assert_int_equal(pair.from.stats.bytes_copied, pair.to.stats.bytes_copied);
	assert_int_equal(pair.from.stats.bytes_zero, pair.to.stats.bytes_zero);
	assert_int_equal(pair.from.stats.bytes_wire, pair.to.stats.bytes_wire);
	print_message("%u channels, zstd %u: %llu rounds, %llu copied, %llu zero, %llu on the "
		      "wire, %llu us down\n",
		      channels, zstd, (unsigned long long)pair.from.stats.rounds,
		      (unsigned long long)pair.from.stats.bytes_copied,
		      (unsigned long long)pair.from.stats.bytes_zero,
		      (unsigned long long)pair.from.stats.bytes_wire,
		      (unsigned long long)pair.from.stats.downtime_us);
	pair_close(&pair);
}

static void one_channel(void **unused)
{
	move(1, PAIR_SOCKETS, 0, 0);
}

static void four_channels_over_tcp(void **unused)
{
	move(4, PAIR_TCP, 0, 1);
}

static void two_channels_packed(void **unused)
{
	move(2, PAIR_TCP, 3, 0);
}

static void pipes_without_answers(void **unused)
{
	move(2, PAIR_PIPES, 1, 0);
}

/* The tests above must need the marks: a guest that does not make them loses writes, or a page that
 * it wrote to on the way is missed. */
static void unmarked_writes_are_lost_or_told(void **unused)
{
	struct pair pair;
	char *here, *there;

	pair_open(&pair, 1, PAIR_SOCKETS);
	pair.from.opts.max_rounds = 5;
	pair.from.mark = 2;
	side_start_guest(&pair.from);
	wait_until(__atomic_load_n(&pair.from.writes, __ATOMIC_RELAXED) > 100);
	/* slowly, so that it writes to what was sent */
	pair.from.opts.max_bytes_per_second = 20 * MIB;
	pair_run(&pair);
	here = info_of(pair.from.low).host;
	there = info_of(pair.to.low).host;
	if (pair.from.rc)
		assert_non_null(strstr(pair.to.why, "came damaged, and not again"));
	else
		assert_true(memcmp(here, there, LOW_BYTES) != 0);
	pair_close(&pair);
}

/* A watch sees them. */
static void unmarked_writes_are_seen_by_a_watch(void **unused)
{
	struct gr_dirty_source *watch;
	struct pair pair;
	int rc;

	pair_open(&pair, 2, PAIR_SOCKETS);
	rc = gr_dirty_watch_open(pair.from.ram, GR_WATCH_AUTO, &watch);
	if (rc < 0) {
		pair_close(&pair);
		print_message("no watch here: %s\n", gr_last_error());
		skip();
	}
	pair.from.mark = 2;
	side_start_guest(&pair.from);
	wait_until(__atomic_load_n(&pair.from.writes, __ATOMIC_RELAXED) > 100);
	pair.from.opts.max_bytes_per_second = 40 * MIB;
	pair.from.opts.max_downtime_ms = 2000; /* it writes everywhere */
	pair_run(&pair);
	if (pair.from.rc || pair.to.rc)
		fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc, pair.to.why);
	assert_same_memory(&pair);
	gr_dirty_source_close(watch);
	pair_close(&pair);
}

/* A file is a stream as well: written whole, read later. */
static void a_file(void **unused)
{
	char path[] = "/tmp/guestram-migrate-XXXXXX";
	struct pair pair;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	pair_open(&pair, 1, PAIR_PIPES);
	dup2(fd, pair.from.fds[0]);
	dup2(fd, pair.to.fds[0]);
	pair.from.rc = gr_migrate_send(pair.from.ram, &pair.from.opts, &pair.from.stats);
	assert_ok(pair.from.rc);
	lseek(fd, 0, SEEK_SET);
	assert_ok(gr_migrate_receive(pair.to.ram, &pair.to.opts, &pair.to.stats));
	assert_same_memory(&pair);
	close(fd);
	pair_close(&pair);
}

/* What was never written has no memory on either side afterwards. */
static void holes_stay_holes(void **unused)
{
	const struct gr_block_opts opts = {
		.name = "sparse", .backing = GR_BACKING_MEMFD, .length = 256 * MIB};
	struct gr_block *blocks[2];
	struct pair pair;
	struct gr_migrate_stats *stats = &pair.from.stats;

	pair_open(&pair, 2, PAIR_SOCKETS);
	assert_ok(gr_block_new(pair.from.ram, &opts, &blocks[0]));
	assert_ok(gr_block_new(pair.to.ram, &opts, &blocks[1]));
	((char *)info_of(blocks[0]).host)[100 * MIB] = 1;
	pair_run(&pair);
	assert_int_equal(pair.from.rc, 0);
	assert_int_equal(((char *)info_of(blocks[1]).host)[100 * MIB], 1);
	assert_true(stats->bytes_zero > 250 * MIB);
	for (unsigned i = 0; i < 2; i++) {
		int fd = info_of(blocks[i]).fd;

		assert_int_equal(lseek(fd, 0, SEEK_DATA), 100 * MIB);
		assert_true(lseek(fd, 101 * MIB, SEEK_DATA) < 0);
	}
	pair_close(&pair);
}

/* P33: a dirty page beyond 4 GiB of a block. */
static void p33_a_dirty_page_at_4_5_gib(void **unused)
{
	struct gr_block *blocks[2];
	struct pair pair;

	pair_open(&pair, 1, PAIR_SOCKETS);
	blocks[0] = new_anon(pair.from.ram, "vast", 6 * GIB, 0);
	blocks[1] = new_anon(pair.to.ram, "vast", 6 * GIB, 0);
	memset((char *)info_of(blocks[0]).host + 4 * GIB + 512 * MIB, 0x45, PAGE);
	memset((char *)info_of(blocks[0]).host + 6 * GIB - PAGE, 0x46, PAGE);
	pair_run(&pair);
	assert_int_equal(pair.from.rc, 0);
	assert_memory_equal((char *)info_of(blocks[1]).host + 4 * GIB + 512 * MIB,
			    (char *)info_of(blocks[0]).host + 4 * GIB + 512 * MIB, PAGE);
	assert_int_equal(((char *)info_of(blocks[1]).host)[6 * GIB - 1], 0x46);
	assert_int_equal(((char *)info_of(blocks[1]).host)[512 * MIB], 0);
	pair_close(&pair);
}

/* A block grows while it is moved. */
static void *grow(void *arg)
{
	struct pair *pair = arg;

	sleep_us(30000);
	if (gr_block_resize(pair->from.high, 2 * MIB) < 0 ||
	    gr_store_u64(pair->from.space, LOW_BYTES + 2 * MIB - 8, 0x1122334455667788) < 0)
		return NULL;
	return arg;
}

static void a_block_that_grows(void **unused)
{
	struct pair pair;
	pthread_t thread;
	uint64_t value;

	pair_open(&pair, 2, PAIR_SOCKETS);
	pair.from.opts.max_bytes_per_second = 30 * MIB; /* long enough */
	pair.from.opts.max_downtime_ms = 2000;
	pair.from.pause_us = 2000;
	side_start_guest(&pair.from);
	thread = thread_start(grow, &pair);
	pair_run(&pair);
	thread_join(thread);
	if (pair.from.rc || pair.to.rc)
		fail_msg("%d %s; %d %s", pair.from.rc, pair.from.why, pair.to.rc, pair.to.why);
	assert_int_equal(info_of(pair.to.high).length, 2 * MIB);
	assert_ok(gr_load_u64(pair.to.space, LOW_BYTES + 2 * MIB - 8, &value));
	assert_int_equal(value, 0x1122334455667788);
	assert_same_memory(&pair);
	pair_close(&pair);
}

/* The receiver's block gets the length that the sender's has. */
static void a_block_that_is_used_otherwise(void **unused)
{
	struct pair pair;

	pair_open(&pair, 1, PAIR_SOCKETS);
	assert_ok(gr_block_resize(pair.to.high, 3 * MIB));
	pair_run(&pair);
	assert_int_equal(pair.from.rc, 0);
	assert_int_equal(info_of(pair.to.high).length, HIGH_BYTES);
	assert_same_memory(&pair);
	pair_close(&pair);
}

/* Memory that is not there for the guest is not read, and is zero there. */
static int plugged(void *context, struct gr_block *block, uint64_t offset, uint64_t *length)
{
	if (strcmp(info_of(block).name, "low") != 0)
		return 1;
	if (offset < MIB) {
		*length = MIB - offset < *length ? MIB - offset : *length;
		return 1;
	}
	return 0;
}

static void unplugged_memory_is_zero_there(void **unused)
{
	struct gr_migrate_ops ops = pair_ops;
	struct pair pair;
	char *here, *there;

	ops.plugged = plugged;
	pair_open(&pair, 2, PAIR_SOCKETS);
	pair.from.opts.ops = &ops;
	pair_run(&pair);
	assert_int_equal(pair.from.rc, 0);
	here = info_of(pair.from.low).host;
	there = info_of(pair.to.low).host;
	assert_memory_equal(here, there, MIB);
	for (uint64_t at = MIB; at < LOW_BYTES; at++)
		if (there[at])
			fail_msg("%#llx is not zero", (unsigned long long)at);
	pair_close(&pair);
}

/* The guest writes faster than the link: it is throttled, and in the end it is told. */
static void no_convergence_is_told(void **unused)
{
	struct pair pair;

	pair_open(&pair, 1, PAIR_SOCKETS);
	pair.from.opts.max_bytes_per_second = 8 * MIB;
	pair.from.opts.max_downtime_ms = 1;
	pair.from.opts.max_rounds = 6;
	pair.from.pause_us = 10;
	side_start_guest(&pair.from);
	pair_run(&pair);
	assert_int_equal(pair.from.rc, -ETIMEDOUT);
	assert_non_null(strstr(pair.from.why, "does not converge"));
	assert_true(pair.from.throttle >= 20);
	assert_int_equal(pair.from.stops, 0);
	assert_true(get(&pair.from.running));
	assert_true(pair.to.rc < 0);
	assert_one_guest(&pair);
	pair_close(&pair);
}

static void the_rate_is_kept(void **unused)
{
	struct pair pair;
	int64_t begin;

	pair_open(&pair, 2, PAIR_SOCKETS);
	memset(info_of(pair.from.low).host, 1, LOW_BYTES);
	pair.from.opts.max_bytes_per_second = 16 * MIB;
	begin = now_ms();
	pair_run(&pair);
	assert_int_equal(pair.from.rc, 0);
	assert_true(now_ms() - begin >= 200); /* 4 MiB and more at 16 MiB a second */
	pair_close(&pair);
}

/* The receiver of another_process(), in a process of its own. */
static int receive_here(char **argv)
{
	struct side to;

	memset(&to, 0, sizeof(to));
	side_open_ram(&to, LOW_BYTES);
	to.fds[0] = atoi(argv[2]);
	to.fds[1] = atoi(argv[3]);
	to.opts.fd_count = 2;
	to.rc = gr_migrate_receive(to.ram, &to.opts, &to.stats);
	if (to.rc)
		fprintf(stderr, "receive: %s\n", gr_last_error());
	return to.rc || !to.running || ((char *)info_of(to.low).host)[5 * PAGE] != 0x77;
}

/* Two processes. */
static void another_process(void **unused)
{
	char first[16], second[16];
	struct pair pair;
	int status;
	pid_t child;

	pair_open(&pair, 2, PAIR_TCP);
	assert_ok(gr_fill(pair.from.space, 5 * PAGE, 0x77, PAGE));
	snprintf(first, sizeof(first), "%d", dup(pair.to.fds[0])); /* not closed by exec */
	snprintf(second, sizeof(second), "%d", dup(pair.to.fds[1]));
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		execl("/proc/self/exe", "migrate", "receive", first, second, NULL);
		_exit(127);
	}
	close(atoi(first));
	close(atoi(second));
	side_hang_up(&pair.to);
	assert_ok(gr_migrate_send(pair.from.ram, &pair.from.opts, &pair.from.stats));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	pair_close(&pair);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_channel),
		cmocka_unit_test(four_channels_over_tcp),
		cmocka_unit_test(two_channels_packed),
		cmocka_unit_test(pipes_without_answers),
		cmocka_unit_test(unmarked_writes_are_lost_or_told),
		cmocka_unit_test(unmarked_writes_are_seen_by_a_watch),
		cmocka_unit_test(a_file),
		cmocka_unit_test(holes_stay_holes),
		cmocka_unit_test(p33_a_dirty_page_at_4_5_gib),
		cmocka_unit_test(a_block_that_grows),
		cmocka_unit_test(a_block_that_is_used_otherwise),
		cmocka_unit_test(unplugged_memory_is_zero_there),
		cmocka_unit_test(no_convergence_is_told),
		cmocka_unit_test(the_rate_is_kept),
		cmocka_unit_test(another_process),
	};

	testing_end_after(170);
	if (argc == 4 && !strcmp(argv[1], "receive"))
		return receive_here(argv);
	return cmocka_run_group_tests_name("migrate: precopy", tests, NULL, NULL);
}
