/* SPDX-License-Identifier: MIT */
/*
 * A server as its embedder sees it: what gr_vhost_open() refuses, sockets that are dead or alive,
 * the embedder's own loop, nothing left behind.
 */
#include "inverter.h"
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int count_fds(void)
{
	DIR *fds = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(fds))
		count++;
	closedir(fds);
	return count;
}

static void open_refuses(void **state)
{
	static const struct gr_vhost_ops no_handle = {.config_size = 0};
	static const struct gr_vhost_ops no_config = {.config_size = 8, .handle = handle};
	static const struct gr_vhost_ops big_config = {
		.config_size = 257, .handle = handle, .get_config = get_config};
	char long_path[200];
	const struct {
		const char *what;
		struct gr_vhost_opts opts;
		int want;
	} cases[] = {
		{"no server_path", {.ops = &inverter_ops}, -EINVAL},
		{"no device", {.socket_path = server_path}, -EINVAL},
		{"no handle", {.socket_path = server_path, .ops = &no_handle}, -EINVAL},
		{"no get_config", {.socket_path = server_path, .ops = &no_config}, -EINVAL},
		{"257 bytes of config", {.socket_path = server_path, .ops = &big_config}, -EINVAL},
		{"257 queues",
		 {.socket_path = server_path, .ops = &inverter_ops, .queues = 257},
		 -EINVAL},
		{"more threads than queues",
		 {.socket_path = server_path, .ops = &inverter_ops, .queues = 2, .threads = 3},
		 -EINVAL},
		{"size 3",
		 {.socket_path = server_path, .ops = &inverter_ops, .queue_size_max = 3},
		 -EINVAL},
		{"size 1",
		 {.socket_path = server_path, .ops = &inverter_ops, .queue_size_max = 1},
		 -EINVAL},
		{"reserved",
		 {.socket_path = server_path, .ops = &inverter_ops, .reserved = {[6] = 1}},
		 -EINVAL},
		{"long server_path",
		 {.socket_path = long_path, .ops = &inverter_ops},
		 -ENAMETOOLONG},
		{"no such folder",
		 {.socket_path = "/nowhere/at/all", .ops = &inverter_ops},
		 -ENOENT},
		{"a folder", {.socket_path = server_dir, .ops = &inverter_ops}, -EADDRINUSE},
		{"worker 7 refuses",
		 {.socket_path = server_path,
		  .ops = &inverter_ops,
		  .context = &device,
		  .queues = 9},
		 -EDOM},
	};
	int fds = count_fds();

	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = 0;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct gr_vhost *got = NULL;
		int rc = gr_vhost_open(&cases[i].opts, &got);

		if (rc != cases[i].want || got)
			fail_msg("%s: %d, wanted %d", cases[i].what, rc, cases[i].want);
		assert_int_equal(count_fds(), fds);
		assert_int_equal(device.workers, 0);
	}
	assert_int_equal(gr_vhost_open(NULL, &server), -EINVAL);
	assert_int_equal(gr_vhost_close(NULL), 0);
}

static void a_dead_socket_is_replaced_a_live_one_is_not(void **state)
{
	struct gr_vhost_opts opts = opts_of(1, 1);
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct gr_vhost *first, *second;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, server_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd); /* the file stays, nobody listens */
	assert_int_equal(gr_vhost_open(&opts, &first), 0);
	assert_int_equal(gr_vhost_open(&opts, &second), -EADDRINUSE);
	assert_int_equal(gr_vhost_close(first), 0);
	assert_int_equal(access(server_path, F_OK), -1);
}

static void *talk(void *arg)
{
	static int rc;

	rc = fe_open(&fe, server_path, RAM) || fe_start(&fe, 1, 64, ~UINT64_C(0)) ||
	     submit(&fe.queues[0], 5);
	if (!rc) {
		fe_kick(&fe.queues[0]);
		rc = fe_wait(&fe.queues[0], FE_TIMEOUT_MS, NULL, NULL) != 1;
	}
	fe_close(&fe);
	return &rc;
}

static void the_embedders_loop(void **state)
{
	struct gr_vhost_opts opts = opts_of(1, 1);
	struct gr_vhost_stats stats = {.connections = 0};
	struct pollfd wait = {.events = POLLIN};
	pthread_t thread;
	void *rc;
	int fds = count_fds();

	for (unsigned round = 0; round < 3; round++) {
		stats.connections = 0;
		assert_int_equal(gr_vhost_open(&opts, &server), 0);
		assert_int_equal(gr_vhost_process(server), 0); /* nothing to do */
		assert_int_equal(pthread_create(&thread, NULL, talk, NULL), 0);
		wait.fd = gr_vhost_fd(server);
		while (!stats.connections || stats.connected) {
			assert_int_equal(poll(&wait, 1, FE_TIMEOUT_MS), 1);
			assert_int_equal(gr_vhost_process(server), 0);
			gr_vhost_get_stats(server, &stats);
		}
		pthread_join(thread, &rc);
		assert_int_equal(*(int *)rc, 0);
		assert_int_equal(stats.requests, 1);
		assert_int_equal(device.resets, round + 1);
		assert_int_equal(gr_vhost_close(server), 0);
		assert_int_equal(count_fds(), fds);
	}
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, make_dir, remove_dir)
	const struct CMUnitTest tests[] = {
		TEST(open_refuses),
		TEST(a_dead_socket_is_replaced_a_live_one_is_not),
		TEST(the_embedders_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
