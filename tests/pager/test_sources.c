/* SPDX-License-Identifier: MIT */
/*
 * What `guestram pager` serves: a snapshot with its parents, blocks of one in a row, an NBD export
 * of real servers; each byte is compared by a monitor. What cannot be served is told; a store that
 * dies or hangs leaves nobody waiting for ever.
 *
 * Usage: pager_sources GUESTRAM
 */
#include "../store/servers.h"
#include "monitor.h"
#include "program.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define LENGTH (4 * MIB)
#define ZERO_EVERY 4
/* Of the blocks in a row; no border of anything else. */
#define BORDER (MIB + 3 * PAGE)
/* As in test_program.c. */
#define LOADED_MS 4000

static const char *program;
static char path[80], said[80], truth[80], told[8192];
static struct pattern_source source;

/* A file of the folder. */
#define IN(name) (const char *)in(name, (char[96]){0})
static char *in(const char *name, char *text)
{
	snprintf(text, 96, "%s/%s", servers_folder(), name);
	return text;
}

/* "guestram WORDS": its exit code; what it says is in `told`. */
__attribute__((format(printf, 1, 2))) static int run_program(const char *words, ...)
{
	char command[1024];
	va_list args;
	size_t used = (size_t)snprintf(command, sizeof(command), "cd %s && timeout 20 %s ",
				       servers_folder(), program);
	size_t size;
	FILE *pipe;

	va_start(args, words);
	used += (size_t)vsnprintf(command + used, sizeof(command) - used, words, args);
	va_end(args);
	snprintf(command + used, sizeof(command) - used, " 2>&1");
	pipe = popen(command, "re");
	assert_non_null(pipe);
	size = fread(told, 1, sizeof(told) - 1, pipe);
	told[size] = 0;
	return WEXITSTATUS(pclose(pipe));
}

static bool was_said(const char *part)
{
	FILE *file = fopen(said, "re");
	size_t size = file ? fread(told, 1, sizeof(told) - 1, file) : 0;

	told[size] = 0;
	if (file)
		fclose(file);
	return strstr(told, part);
}

#define serve(...) serve_words((const char *[]){"--socket", path, __VA_ARGS__, NULL})
static pid_t serve_words(const char *const *words)
{
	return program_start(program, words, said);
}

static void end_serving(pid_t keeper)
{
	assert_int_equal(kill(keeper, SIGTERM), 0);
	assert_int_equal(monitor_wait(keeper, LONG_MS), 0);
}

static struct monitor usual(void)
{
	return (struct monitor){
		.length = LENGTH,
		.page_size = PAGE,
		.touchers = 2,
		.regions = 2,
		.source = &source,
	};
}

static int touch(void)
{
	struct monitor monitor = usual();

	return monitor_wait(monitor_start(&monitor, path), LONG_MS);
}

/* ------------------------------------------------------------------------------------ snapshots */

#ifdef CLI_SNAPSHOT
/* What the truth has in every other page only: the rest, zeroes too, is something else. */
static void make_base(const char *name)
{
	char *page = malloc(PAGE);
	int fd = open(truth, O_RDONLY | O_CLOEXEC), to;

	to = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && to >= 0);
	for (uint64_t at = 0; at < LENGTH; at += PAGE) {
		if (at / PAGE % 2)
			pattern_fill(7, at, page, PAGE);
		else
			assert_int_equal(pread(fd, page, PAGE, (off_t)at), PAGE);
		assert_int_equal(pwrite(to, page, PAGE, (off_t)at), PAGE);
	}
	close(fd);
	close(to);
	free(page);
}

static void a_chain_is_served(void **unused)
{
	static const char *const layouts[] = {"mapped", "packed"};

	make_base(IN("base"));
	for (unsigned i = 0; i < COUNT_OF(layouts); i++) {
		pid_t keeper;

		assert_int_equal(run_program("snapshot save --layout %s --block ram=base base.gr",
					     layouts[i]),
				 0);
		assert_int_equal(run_program("snapshot save --layout %s --block ram=truth "
					     "--parent base.gr child.gr",
					     layouts[i]),
				 0);
		keeper = serve("--snapshot", IN("child.gr"));
		assert_int_equal(touch(), 0);
		assert_int_equal(touch(), 0);
		end_serving(keeper);
		/* the parent alone is something else, and is seen to be */
		keeper = serve("--snapshot", IN("base.gr"));
		assert_int_equal(touch(), 1);
		end_serving(keeper);
	}
	/* the parent has gone elsewhere */
	mkdir(IN("away"), 0700);
	assert_int_equal(rename(IN("base.gr"), IN("away/base.gr")), 0);
	assert_int_equal(run_program("pager --socket %s --snapshot child.gr", path), 1);
	assert_non_null(strstr(told, "base.gr: No such file"));
	{
		pid_t keeper = serve("--snapshot", IN("child.gr"), "--parent", IN("away/base.gr"),
				     "--block", "ram", "--no-prefetch");

		assert_int_equal(touch(), 0);
		end_serving(keeper);
	}
}

static void copy_part(const char *name, uint64_t from, uint64_t length)
{
	char command[400];

	snprintf(command, sizeof(command),
		 "dd if=%s of=%s bs=4096 skip=%llu count=%llu conv=sparse status=none", truth, name,
		 (unsigned long long)(from / PAGE), (unsigned long long)(length / PAGE));
	assert_int_equal(system(command), 0);
	assert_int_equal(truncate(name, (off_t)length), 0);
}

static void blocks_are_served_in_a_row(void **unused)
{
	static const char *const layouts[] = {"mapped", "packed"};
	pid_t keeper;

	copy_part(IN("low"), 0, BORDER);
	copy_part(IN("high"), BORDER, LENGTH - BORDER);
	make_image(IN("rom"), 9, 64 * KIB, 0);
	for (unsigned i = 0; i < COUNT_OF(layouts); i++) {
		assert_int_equal(
			run_program("snapshot save --layout %s --block rom=rom --block high=high "
				    "--block low=low --block whole=truth many.gr",
				    layouts[i]),
			0);
		keeper = serve("--snapshot", IN("many.gr"), "--block", "low", "--block", "high");
		assert_int_equal(touch(), 0);
		end_serving(keeper);
		keeper = serve("--snapshot", IN("many.gr"), "--block", "whole");
		assert_int_equal(touch(), 0);
		end_serving(keeper);
	}
	keeper = serve("--snapshot", IN("many.gr"), "--block", "high", "--block", "low");
	assert_int_equal(touch(), 1);
	end_serving(keeper);
	/* a monitor that has more than the block is refused */
	keeper = serve("--snapshot", IN("many.gr"), "--block", "high");
	assert_int_equal(touch(), 2);
	end_serving(keeper);
	assert_true(was_said("of the source's"));
	/* a start is recorded and fetched in the row's own offsets */
	keeper = serve("--snapshot", IN("many.gr"), "--block", "low", "--block", "high", "--record",
		       IN("order"));
	assert_int_equal(touch(), 0);
	end_serving(keeper);
	keeper = serve("--snapshot", IN("many.gr"), "--block", "low", "--block", "high",
		       "--prefetch", IN("order"));
	assert_int_equal(touch(), 0);
	end_serving(keeper);

	assert_int_equal(run_program("pager --socket %s --snapshot many.gr", path), 1);
	assert_non_null(strstr(told, "several blocks: --block NAME, of rom, high, low, whole"));
	assert_int_equal(run_program("pager --socket %s --snapshot many.gr --block rom "
				     "--block none",
				     path),
			 1);
	assert_non_null(strstr(told, "no block none"));
}

static void change_byte(const char *name, off_t at)
{
	int fd = open(name, O_RDWR | O_CLOEXEC);
	char byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte = (char)~byte;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

/* Its guests wait, and it says why; nothing else is put there. */
static void a_damaged_snapshot_gives_no_wrong_page(void **unused)
{
	struct monitor monitor = usual();
	struct stat st;
	pid_t keeper, pid;

	assert_int_equal(run_program("snapshot save --layout packed --block ram=truth bad.gr"), 0);
	assert_int_equal(stat(IN("bad.gr"), &st), 0);
	change_byte(IN("bad.gr"), st.st_size / 2);
	monitor.deaf = true;
	keeper = serve("--snapshot", IN("bad.gr"));
	pid = monitor_start(&monitor, path);
	assert_true(wait_until(was_said("Bad message") || was_said("damaged")));
	sleep_us(200000);
	assert_int_equal(kill(keeper, SIGTERM), 0);
	assert_int_equal(monitor_wait(pid, LOADED_MS), -SIGKILL);
	assert_int_equal(monitor_wait(keeper, LONG_MS), 0);

	change_byte(IN("bad.gr"), 9);
	assert_int_equal(run_program("pager --socket %s --snapshot bad.gr", path), 1);
	assert_non_null(strstr(told, "snapshot bad.gr"));
	assert_int_equal(truncate(IN("bad.gr"), 0), 0);
	assert_int_equal(run_program("pager --socket %s --snapshot bad.gr", path), 1);
	assert_non_null(strstr(told, "snapshot bad.gr"));
}
#else
static void a_snapshot_is_not_for_this_build(void **unused)
{
	assert_int_equal(run_program("pager --socket %s --snapshot x", path), 1);
	assert_non_null(strstr(told, "built without snapshots"));
}
#endif

/* ------------------------------------------------------------------------------------------ NBD */

#ifdef CLI_NBD
static const char *uri_of(const struct server *server)
{
	static char uri[200];

	snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s", server->socket);
	return uri;
}

static void start_nbdkit(struct server *server)
{
	server_start(server, (const char *[]){"nbdkit", "-f", "-U", "%s", "file", truth, NULL});
}

static void an_export_is_served(void **unused)
{
	struct server server;
	pid_t keeper;

	if (!have_program("nbdkit"))
		skip();
	start_nbdkit(&server);
	keeper = serve("--nbd", uri_of(&server));
	assert_int_equal(touch(), 0);
	assert_int_equal(touch(), 0);
	end_serving(keeper);
	/* less of a cache than there is, in memory and in a file */
	keeper = serve("--nbd", uri_of(&server), "--cache", "1", "--workers", "4");
	assert_int_equal(touch(), 0);
	assert_int_equal(touch(), 0);
	end_serving(keeper);
	keeper = serve("--nbd", uri_of(&server), "--cache", "64", "--cache-dir", servers_folder());
	assert_int_equal(touch(), 0);
	/* it has all: the server is not needed any more */
	server_kill(&server);
	assert_int_equal(touch(), 0);
	end_serving(keeper);
}

static void an_export_of_qemu_is_served(void **unused)
{
	struct server server;
	pid_t keeper;

	if (!have_program("qemu-nbd"))
		skip();
	server_start(&server, (const char *[]){"qemu-nbd", "-r", "-t", "-f", "raw", "-e", "4", "-k",
					       "%s", truth, NULL});
	keeper = serve("--nbd", uri_of(&server), "--record", IN("order"));
	assert_int_equal(touch(), 0);
	end_serving(keeper);
	keeper = serve("--nbd", uri_of(&server), "--prefetch", IN("order"));
	assert_int_equal(touch(), 0);
	end_serving(keeper);
	server_kill(&server);
}

static void a_store_that_comes_back_goes_on(void **unused)
{
	struct monitor monitor = usual();
	struct server server;
	pid_t keeper, pid;
	int status;

	if (!have_program("nbdkit"))
		skip();
	start_nbdkit(&server);
	keeper = serve("--nbd", uri_of(&server), "--no-prefetch");
	assert_true(wait_until(!access(path, F_OK)));
	server_kill(&server);
	pid = monitor_start(&monitor, path);
	assert_true(wait_until(was_said("lost, reads wait")));
	assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
	server_again(&server);
	assert_int_equal(monitor_wait(pid, LONG_MS), 0);
	assert_true(was_said("back"));
	end_serving(keeper);
	server_kill(&server);
}

/* Told to end while its reads are under way and nobody answers them. */
static void a_store_that_hangs_leaves_nobody_waiting(void **unused)
{
	struct monitor monitor = usual();
	struct server server;
	pid_t keeper, pid;
	int64_t since;

	if (!have_program("nbdkit"))
		skip();
	start_nbdkit(&server);
	keeper = serve("--nbd", uri_of(&server), "--no-prefetch");
	assert_true(wait_until(!access(path, F_OK)));
	server_stop(&server);
	monitor.deaf = true;
	pid = monitor_start(&monitor, path);
	assert_true(wait_until(was_said("session 1 begins")));
	sleep_us(200000);
	since = now_ms();
	assert_int_equal(kill(keeper, SIGTERM), 0);
	assert_int_equal(monitor_wait(pid, LOADED_MS), -SIGKILL);
	print_message("ended after %lld ms\n", (long long)(now_ms() - since));
	server_kill(&server);
	assert_int_equal(monitor_wait(keeper, LONG_MS), 0);
	assert_int_equal(access(path, F_OK), -1);

	/* and while it opens */
	server_again(&server);
	server_stop(&server);
	keeper = serve("--nbd", uri_of(&server));
	assert_true(wait_until(server_of(keeper) > 0));
	sleep_us(200000);
	assert_int_equal(kill(keeper, SIGTERM), 0);
	assert_int_equal(monitor_wait(keeper, LOADED_MS), 0);
	assert_int_equal(access(path, F_OK), -1);
	server_kill(&server);
}
#else
static void an_export_is_not_for_this_build(void **unused)
{
	assert_int_equal(run_program("pager --socket %s --nbd nbd://x", path), 1);
	assert_non_null(strstr(told, "built without NBD"));
}
#endif

/* ------------------------------------------------------------------------------------- mistakes */

static void mistakes_are_told(void **unused)
{
	static const struct {
		const char *words, *why;
		int status;
	} bad[] = {
		{"", "one of --image, --snapshot and --nbd", 2},
		{"--image truth --nbd nbd://x", "one of --image, --snapshot and --nbd", 2},
		{"--image truth --snapshot x", "one of --image, --snapshot and --nbd", 2},
		{"--image truth --block ram", "are for --snapshot", 2},
		{"--nbd x --parent ram", "are for --snapshot", 2},
		{"--image truth --cache 1", "are for --nbd", 2},
		{"--nbd x --cache-dir .", "--cache MIB", 2},
		{"--nbd x --cache 0", "not between 1", 2},
		{"--image nowhere", "image nowhere: No such file", 1},
		{"--image .", "no regular file", 1},
#ifdef CLI_SNAPSHOT
		{"--snapshot nowhere", "snapshot nowhere: No such file", 1},
		{"--snapshot truth", "snapshot truth: this is no snapshot", 1},
#endif
#ifdef CLI_NBD
		{"--nbd nowhere", "nbd nowhere: ", 1},
		{"--nbd 'nbd+unix:///?socket=nowhere'", "No such file", 1},
#endif
	};

	for (unsigned i = 0; i < COUNT_OF(bad); i++) {
		int status = run_program("pager --socket %s %s", path, bad[i].words);

		if (status != bad[i].status || !strstr(told, bad[i].why))
			fail_msg("%s: %d, not \"%s\" but \"%s\"", bad[i].words, status, bad[i].why,
				 told);
		if (strncmp(told, "guestram: pager: ", 17) != 0)
			fail_msg("%s: \"%s\"", bad[i].words, told);
		assert_int_equal(access(path, F_OK), -1);
	}
}

static int make_truth(void **unused)
{
	snprintf(path, sizeof(path), "%s/socket", servers_folder());
	snprintf(said, sizeof(said), "%s/said", servers_folder());
	snprintf(truth, sizeof(truth), "%s/truth", servers_folder());
	make_image(truth, 0, LENGTH, ZERO_EVERY);
	pattern_source_init(&source, 1, LENGTH);
	source.zero_every = ZERO_EVERY;
	return 0;
}

static int remove_all(void **unused)
{
	servers_end();
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#ifdef CLI_SNAPSHOT
		cmocka_unit_test(a_chain_is_served),
		cmocka_unit_test(blocks_are_served_in_a_row),
		cmocka_unit_test(a_damaged_snapshot_gives_no_wrong_page),
#else
		cmocka_unit_test(a_snapshot_is_not_for_this_build),
#endif
#ifdef CLI_NBD
		cmocka_unit_test(an_export_is_served),
		cmocka_unit_test(an_export_of_qemu_is_served),
		cmocka_unit_test(a_store_that_comes_back_goes_on),
		cmocka_unit_test(a_store_that_hangs_leaves_nobody_waiting),
#else
		cmocka_unit_test(an_export_is_not_for_this_build),
#endif
		cmocka_unit_test(mistakes_are_told),
	};

	monitor_main(argc, argv);
	if (argc != 2)
		return 2;
	program = realpath(argv[1], NULL);
	signal(SIGPIPE, SIG_IGN);
	alarm(170);
	return cmocka_run_group_tests_name("sources of guestram pager", tests, make_truth,
					   remove_all);
}
