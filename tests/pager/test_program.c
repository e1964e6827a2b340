/* SPDX-License-Identifier: MIT */
/*
 * `guestram pager` as it is shipped, with monitors that do not look at their connection: whichever
 * of its processes dies, and however, none of them is left waiting (S14).
 *
 * Usage: pager_program GUESTRAM
 */
#include "monitor.h"
#include "program.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#define LENGTH (4 * MIB)
/* So much that a monitor cannot have all of it before a process has died on a loaded machine. */
#define LONG_LENGTH (64 * MIB)
/* What docs/pager.md promises, and what a loaded machine may need more. */
#define PROMISED_MS 1000
#define LOADED_MS 4000

static const char *program;
static char path[64], image[80], order[80];
static struct pattern_source source;

static pid_t start_program(const char *more, const char *value)
{
	const char *words[] = {"--socket", path, "--image", image, "--quiet", more, value, NULL};

	return program_start(program, words, NULL);
}

static struct monitor deaf(void)
{
	return (struct monitor){
		.length = LENGTH,
		.page_size = PAGE,
		.touchers = 1,
		.deaf = true,
		.stay_ms = -1,
		.source = &source,
	};
}

/* A monitor that has some of its pages, and goes on to touch those it misses when @go is written.
 */
static pid_t start_monitor(int *go)
{
	struct monitor monitor = deaf();
	int started[2], goes[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe2(started, O_CLOEXEC), 0);
	assert_int_equal(pipe2(goes, O_CLOEXEC), 0);
	monitor.length = LONG_LENGTH;
	monitor.only = 10;
	monitor.started = started[1];
	monitor.go = goes[0];
	pid = monitor_start(&monitor, path);
	close(started[1]);
	close(goes[0]);
	assert_int_equal(read(started[0], &byte, 1), 1);
	close(started[0]);
	*go = goes[1];
	return pid;
}

static void is_ended(pid_t monitor, int64_t since)
{
	assert_int_equal(monitor_wait(monitor, LOADED_MS), -SIGKILL);
	print_message("ended after %lld ms\n", (long long)(now_ms() - since));
	if (now_ms() - since > PROMISED_MS)
		print_message("(promised: %d ms)\n", PROMISED_MS);
}

static void run_death(bool server, int signal, int status)
{
	pid_t keeper = start_program("--no-prefetch", NULL), monitor, victim;
	int64_t since;
	int go;

	monitor = start_monitor(&go);
	victim = server ? server_of(keeper) : keeper;
	assert_true(victim > 0);
	since = now_ms();
	assert_int_equal(kill(victim, signal), 0);
	/* it touches what is missing now, if it has not been ended yet */
	assert_true(write(go, "x", 1) == 1 || errno == EPIPE);
	is_ended(monitor, since);
	close(go);
	assert_int_equal(monitor_wait(keeper, LONG_MS), status);
	/* the next monitor is not to find this server while it ends */
	if (!server)
		assert_true(wait_until(access(path, F_OK) == -1));
}

static void the_server_is_killed(void **unused)
{
	run_death(true, SIGKILL, 1);
	run_death(true, SIGSEGV, 1);
}

static void the_server_is_told_to_end(void **unused)
{
	run_death(false, SIGTERM, 0);
}

static void the_keeper_is_killed(void **unused)
{
	run_death(false, SIGKILL, -SIGKILL);
}

/* A monitor that has all its pages is let be, and has them still. */
static void who_misses_nothing_is_let_be(void **unused)
{
	struct monitor monitor = deaf();
	pid_t keeper = start_program("--workers", "2"), pid;

	monitor.stay_ms = 5000;
	pid = monitor_start(&monitor, path);
	sleep_us(3000000);
	assert_int_equal(kill(keeper, SIGTERM), 0);
	assert_int_equal(monitor_wait(keeper, LONG_MS), 0);
	assert_int_equal(monitor_wait(pid, LONG_MS), 0);
}

static void a_start_is_recorded(void **unused)
{
	struct monitor monitor = deaf();
	pid_t keeper = start_program("--record", order);
	char line[64];
	FILE *file;

	monitor.stay_ms = 0;
	monitor.only = 50;
	assert_int_equal(monitor_wait(monitor_start(&monitor, path), LONG_MS), 0);
	assert_true(wait_until(!access(order, R_OK)));
	assert_int_equal(kill(keeper, SIGTERM), 0);
	assert_int_equal(monitor_wait(keeper, LONG_MS), 0);
	file = fopen(order, "r");
	assert_non_null(file);
	assert_non_null(fgets(line, sizeof(line), file));
	assert_string_equal(line, "guestram working set 1\n");
	fclose(file);

	keeper = start_program("--prefetch", order);
	monitor.only = 0;
	assert_int_equal(monitor_wait(monitor_start(&monitor, path), LONG_MS), 0);
	assert_int_equal(kill(keeper, SIGTERM), 0);
	assert_int_equal(monitor_wait(keeper, LONG_MS), 0);
	unlink(order);
}

static void mistakes_are_told(void **unused)
{
	char command[300];
	int status;

	snprintf(command, sizeof(command), "%s pager --socket %s >/dev/null 2>&1", program, path);
	status = system(command);
	assert_int_equal(WEXITSTATUS(status), 2);
	snprintf(command, sizeof(command), "%s pager --socket %s --image /nowhere >/dev/null 2>&1",
		 program, path);
	status = system(command);
	assert_int_equal(WEXITSTATUS(status), 1);
}

static int make_image(void **unused)
{
	pattern_source_init(&source, 1, LONG_LENGTH);
	source.zero_every = 4;
	return pattern_source_to_file(&source, image) ? 0 : -1;
}

static int remove_files(void **unused)
{
	unlink(image);
	unlink(path);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_server_is_killed),
		cmocka_unit_test(the_server_is_told_to_end),
		cmocka_unit_test(the_keeper_is_killed),
		cmocka_unit_test(who_misses_nothing_is_let_be),
		cmocka_unit_test(a_start_is_recorded),
		cmocka_unit_test(mistakes_are_told),
	};

	monitor_main(argc, argv);
	if (argc != 2)
		return 2;
	program = argv[1];
	snprintf(path, sizeof(path), "/tmp/guestram-pager-%d.sock", (int)getpid());
	snprintf(image, sizeof(image), "%s.image", path);
	snprintf(order, sizeof(order), "%s.order", path);
	signal(SIGPIPE, SIG_IGN);
	alarm(110);
	return cmocka_run_group_tests_name("guestram pager", tests, make_image, remove_files);
}
