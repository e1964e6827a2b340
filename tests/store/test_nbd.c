/* SPDX-License-Identifier: MIT */
/*
 * An NBD export as a source of pages, of real servers: which bytes come, what is zero without being
 * asked for, errors, a server that dies under load, stays away, or comes back as another.
 *
 * Threads: readers of the tests; they leave what they saw.
 */
#include "../pager/pattern.h"
#include "servers.h"
#include <fcntl.h>
#include <guestram/store.h>
#include <signal.h>
#include <sys/stat.h>

#define LENGTH (16 * MIB)
#define ZERO_EVERY 4

static char image[128], other[128], lines[4096];
static pthread_mutex_t lines_lock = PTHREAD_MUTEX_INITIALIZER;

static void log_line(void *context, enum gr_log_level level, const char *line)
{
	size_t used;

	pthread_mutex_lock(&lines_lock);
	used = strlen(lines);
	snprintf(lines + used, sizeof(lines) - used, "%d %s\n", (int)level, line);
	pthread_mutex_unlock(&lines_lock);
}

static void forget_lines(void)
{
	pthread_mutex_lock(&lines_lock);
	lines[0] = 0;
	pthread_mutex_unlock(&lines_lock);
}

static bool was_logged(const char *part)
{
	bool found;

	pthread_mutex_lock(&lines_lock);
	found = strstr(lines, part);
	pthread_mutex_unlock(&lines_lock);
	return found;
}

static struct gr_nbd_stats nbd_stats(const struct gr_page_source *source)
{
	struct gr_nbd_stats stats;

	assert_ok(gr_nbd_source_get_stats(source, &stats));
	return stats;
}

static int read_at(const struct gr_page_source *source, uint64_t offset, void *buf, uint64_t length)
{
	return source->ops->read(source->context, 0, offset, buf, length);
}

static void nbdkit_file(struct server *server, const char *path, const char *extra)
{
	const char *words[] = {"nbdkit", "-f", "-U", "%s", extra ? extra : "file",
			       NULL,	 NULL, NULL};

	if (extra)
		words[5] = "file";
	words[extra ? 6 : 5] = path;
	server_start(server, words);
}

static void check_all(const struct gr_page_source *source, unsigned zero_every, uint64_t step)
{
	char *buf = malloc(step);

	for (uint64_t at = 0; at < LENGTH; at += step) {
		assert_ok(read_at(source, at, buf, step));
		assert_true(image_is_right(0, zero_every, at, buf, step));
	}
	free(buf);
}

static void check_server(struct server *server)
{
	struct gr_nbd_opts opts = {.socket = server->socket, .status_ms = 5000};
	struct gr_page_source_info info;
	struct gr_page_source source;
	char page[3 * 4096];
	uint64_t length, data = 0;

	assert_ok(gr_nbd_source_open(NULL, &opts, &source));
	assert_int_equal(source.ops->find(source.context, "any", &info), 0);
	assert_int_equal(info.length, LENGTH);
	assert_int_equal(nbd_stats(&source).status_done, 1);
	/* zeroes are where they are, all of them, and cost no read */
	for (uint64_t at = 0; at < LENGTH; at += length) {
		length = LENGTH - at;
		int kind = source.ops->look(source.context, 0, at, &length);

		assert_int_equal(kind,
				 image_is_zero(at, ZERO_EVERY) ? GR_PAGES_ZERO : GR_PAGES_DATA);
		assert_int_equal(length, (kind == GR_PAGES_ZERO ? 1 : ZERO_EVERY - 1) * 64 * KIB);
		data += kind == GR_PAGES_DATA ? length : 0;
	}
	assert_int_equal(nbd_stats(&source).zero_bytes, LENGTH / ZERO_EVERY);
	check_all(&source, ZERO_EVERY, 256 * KIB);
	assert_int_equal(nbd_stats(&source).read_bytes, data);
	check_all(&source, ZERO_EVERY, 8 * MIB);
	/* any byte */
	assert_ok(read_at(&source, 64 * KIB + 5, page, 8195));
	{
		char want[3 * 4096];

		pattern_fill(0, 64 * KIB, want, sizeof(want));
		assert_memory_equal(page, want + 5, 8195);
	}
	assert_int_equal(read_at(&source, LENGTH - 4096, page, 8192), -ERANGE);
	length = PAGE;
	assert_int_equal(source.ops->look(source.context, 0, LENGTH, &length), -ERANGE);
	gr_page_source_close(&source);
	server_kill(server);
}

static void bytes_of_nbdkit(void **unused)
{
	struct server server;

	if (!have_program("nbdkit"))
		skip();
	nbdkit_file(&server, image, NULL);
	check_server(&server);
}

static void bytes_of_nbdkit_with_large_blocks(void **unused)
{
	const char *words[] = {"nbdkit",
			       "-f",
			       "-U",
			       "%s",
			       "--filter=blocksize-policy",
			       "file",
			       image,
			       "blocksize-minimum=65536",
			       "blocksize-preferred=65536",
			       "blocksize-maximum=131072",
			       "blocksize-error-policy=error",
			       NULL};
	struct server server;

	if (!have_program("nbdkit"))
		skip();
	server_start(&server, words);
	check_server(&server);
}

/*
 * Zeroes that begin and end inside of the server's blocks: what is around them is read in whole
 * blocks, since the server refuses others.
 */
static void zeroes_inside_large_blocks(void **unused)
{
	char path[160], *want, *buf = malloc(MIB);
	const char *words[] = {"nbdkit",
			       "-f",
			       "-U",
			       "%s",
			       "--filter=blocksize-policy",
			       "file",
			       path,
			       "blocksize-minimum=65536",
			       "blocksize-preferred=65536",
			       "blocksize-maximum=1048576",
			       "blocksize-error-policy=error",
			       NULL};
	struct gr_nbd_opts opts = {.status_ms = 5000};
	struct gr_page_source source;
	struct server server;
	int fd;

	if (!have_program("nbdkit"))
		skip();
	want = calloc(1, MIB);
	snprintf(path, sizeof(path), "%s.holes", image);
	memset(want, 'x', 100 * KIB);
	memset(want + 300 * KIB, 'y', 724 * KIB);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	assert_int_equal(pwrite(fd, want, 100 * KIB, 0), 100 * KIB);
	assert_int_equal(pwrite(fd, want + 300 * KIB, 724 * KIB, 300 * KIB), 724 * KIB);
	close(fd);
	server_start(&server, words);
	opts.socket = server.socket;
	assert_ok(gr_nbd_source_open(NULL, &opts, &source));
	assert_int_equal(nbd_stats(&source).zero_bytes, 200 * KIB);
	assert_ok(read_at(&source, 0, buf, MIB));
	assert_memory_equal(buf, want, MIB);
	assert_int_equal(nbd_stats(&source).retries, 0);
	gr_page_source_close(&source);
	server_kill(&server);
	unlink(path);
	free(want);
	free(buf);
}

static void bytes_of_qemu_nbd(void **unused)
{
	const char *words[] = {"qemu-nbd", "-k", "%s", "-t",  "-r", "-f",
			       "raw",	   "-e", "8",  image, NULL};
	struct server server;

	if (!have_program("qemu-nbd"))
		skip();
	server_start(&server, words);
	check_server(&server);
}

static void a_cut_page_goes_on_with_zeroes(void **unused)
{
	struct gr_page_source_info info;
	struct gr_page_source source;
	struct gr_nbd_opts opts = {0};
	struct server server;
	char page[4096], want[4096];

	if (!have_program("nbdkit"))
		skip();
	make_image(other, 0, 3 * PAGE + 100, 0);
	nbdkit_file(&server, other, NULL);
	opts.socket = server.socket;
	assert_ok(gr_nbd_source_open(NULL, &opts, &source));
	assert_int_equal(source.ops->find(source.context, NULL, &info), 0);
	assert_int_equal(info.length, 4 * PAGE);
	memset(page, 0xee, sizeof(page));
	assert_ok(read_at(&source, 3 * PAGE, page, PAGE));
	pattern_fill(0, 3 * PAGE, want, PAGE);
	memset(want + 100, 0, PAGE - 100);
	assert_memory_equal(page, want, PAGE);
	gr_page_source_close(&source);
	server_kill(&server);
}

static void errors_are_tried_again(void **unused)
{
	const char *words[] = {
		"nbdkit", "-f", "-U", "%s", "--filter=error", "file", image, "error-pread-rate=20%",
		NULL};
	struct gr_nbd_opts opts = {.flags = GR_NBD_NO_STATUS};
	struct gr_page_source source;
	struct server server;

	if (!have_program("nbdkit"))
		skip();
	server_start(&server, words);
	opts.socket = server.socket;
	assert_ok(gr_nbd_source_open(NULL, &opts, &source));
	check_all(&source, ZERO_EVERY, MIB);
	check_all(&source, ZERO_EVERY, 64 * KIB);
	assert_true(nbd_stats(&source).retries > 5);
	assert_int_equal(nbd_stats(&source).zero_bytes, 0);
	gr_page_source_close(&source);
	server_kill(&server);
}

struct reader {
	const struct gr_page_source *source;
	int stop, wrong, reads, failed;
	uint64_t seed;
};

static void *read_on(void *arg)
{
	struct reader *reader = arg;
	struct rng rng = {reader->seed};
	char *buf = malloc(256 * KIB);

	while (!get(&reader->stop)) {
		uint64_t length = (1 + rng_below(&rng, 64)) * PAGE;
		uint64_t at = rng_below(&rng, (LENGTH - length) / PAGE) * PAGE;

		memset(buf, 0xee, length);
		if (read_at(reader->source, at, buf, length) < 0)
			__atomic_add_fetch(&reader->failed, 1, __ATOMIC_SEQ_CST);
		else if (!image_is_right(0, ZERO_EVERY, at, buf, length))
			set(&reader->wrong, 1);
		__atomic_add_fetch(&reader->reads, 1, __ATOMIC_SEQ_CST);
	}
	free(buf);
	return NULL;
}

static void a_server_that_dies_under_load(void **unused)
{
	struct gr_nbd_opts opts = {.connections = 4, .away_ms = 8000, .log = log_line};
	struct reader readers[4];
	pthread_t threads[4];
	struct gr_page_source source;
	struct server server;
	unsigned i, round;

	if (!have_program("nbdkit"))
		skip();
	forget_lines();
	nbdkit_file(&server, image, "--filter=noextents");
	opts.socket = server.socket;
	assert_ok(gr_nbd_source_open(NULL, &opts, &source));
	for (i = 0; i < 4; i++) {
		readers[i] = (struct reader){.source = &source, .seed = i + 1};
		threads[i] = thread_start(read_on, &readers[i]);
	}
	for (round = 0; round < 6; round++) {
		int before = get(&readers[0].reads);

		assert_true(wait_until(get(&readers[0].reads) > before + 30));
		server_kill(&server);
		sleep_us(30000);
		server_again(&server);
		assert_true(wait_until(nbd_stats(&source).connections == 4));
	}
	for (i = 0; i < 4; i++)
		set(&readers[i].stop, 1);
	for (i = 0; i < 4; i++) {
		thread_join(threads[i]);
		assert_int_equal(readers[i].wrong, 0);
		assert_int_equal(readers[i].failed, 0);
	}
	assert_true(nbd_stats(&source).reconnects >= 6);
	assert_true(nbd_stats(&source).retries > 0);
	assert_true(nbd_stats(&source).stalled_ns > 0);
	assert_int_equal(nbd_stats(&source).in_flight, 0);
	assert_true(was_logged("lost, reads wait"));
	assert_true(was_logged("back after"));
	gr_page_source_close(&source);
	server_kill(&server);
}

static void a_server_that_stays_away(void **unused)
{
	struct gr_nbd_opts opts = {.away_ms = 100, .timeout_ms = 1000, .log = log_line};
	struct gr_page_source source;
	struct server server;
	char page[4096];

	if (!have_program("nbdkit"))
		skip();
	forget_lines();
	nbdkit_file(&server, image, NULL);
	opts.socket = server.socket;
	assert_ok(gr_nbd_source_open(NULL, &opts, &source));
	/* one that says nothing any more is given up */
	server_stop(&server);
	assert_int_equal(read_at(&source, 64 * KIB, page, PAGE), -ETIMEDOUT);
	assert_true(nbd_stats(&source).lost > 0);
	server_kill(&server);
	assert_int_equal(read_at(&source, 64 * KIB, page, PAGE), -ETIMEDOUT);
	assert_true(wait_until(nbd_stats(&source).stalled));
	assert_true(was_logged("lost, reads wait"));
	server_again(&server);
	assert_true(wait_until(!nbd_stats(&source).stalled));
	assert_ok(read_at(&source, 64 * KIB, page, PAGE));
	assert_true(image_is_right(0, ZERO_EVERY, 64 * KIB, page, PAGE));
	server_kill(&server);
	gr_page_source_close(&source); /* while it is away */

	assert_error(gr_nbd_source_open(NULL, &opts, &source), -ECONNREFUSED, "connect");
}

/* The image at its path is replaced while the server is down. */
static void serve_other(struct server *server, const struct gr_page_source *source, unsigned block,
			uint64_t length, const char *says)
{
	uint64_t before = nbd_stats(source).refused;
	char page[4096];

	forget_lines();
	server_kill(server);
	make_image(other, block, length, 0);
	server_again(server);
	if (says) {
		assert_true(wait_until(nbd_stats(source).refused > before));
		assert_int_equal(read_at(source, PAGE, page, PAGE), -ESTALE);
		if (!wait_until(was_logged(says)))
			fail_msg("%s: not in: %s", says, lines);
	} else {
		assert_true(wait_until(nbd_stats(source).connections));
		assert_ok(read_at(source, PAGE, page, PAGE));
		assert_true(pattern_is(0, PAGE, page, PAGE));
	}
}

static void another_export_is_refused(void **unused)
{
	struct gr_nbd_opts opts = {.away_ms = 300, .log = log_line};
	struct gr_page_source source;
	struct server server;

	if (!have_program("nbdkit"))
		skip();
	make_image(other, 0, MIB, 0);
	nbdkit_file(&server, other, NULL);
	opts.socket = server.socket;
	assert_ok(gr_nbd_source_open(NULL, &opts, &source));
	serve_other(&server, &source, 1, MIB, "other bytes");
	serve_other(&server, &source, 0, MIB, NULL);
	serve_other(&server, &source, 0, MIB / 2, "now it has 524288");
	serve_other(&server, &source, 0, MIB, NULL);
	serve_other(&server, &source, 0, 2 * MIB, "now it has 2097152");
	serve_other(&server, &source, 0, MIB, NULL);
	gr_page_source_close(&source);
	server_kill(&server);
}

static void a_pager_over_it(void **unused)
{
	struct gr_nbd_opts opts = {.away_ms = 100, .log = log_line};
	struct gr_page_source below, source;
	struct gr_cache_opts cache = {.max_bytes = 4 * MIB, .chunk = 64 * KIB};
	struct gr_pager_stats stats;
	struct gr_block *block;
	struct gr_pager *pager;
	struct server server;
	struct gr_ram *ram;
	char *host;
	int rc;

	if (!have_program("nbdkit"))
		skip();
	nbdkit_file(&server, image, NULL);
	opts.socket = server.socket;
	assert_ok(gr_nbd_source_open(NULL, &opts, &below));
	assert_ok(gr_cache_source_open(&below, &cache, &source));
	assert_ok(gr_ram_open(NULL, &ram));
	block = new_anon(ram, "b0", LENGTH, LENGTH);
	host = info_of(block).host;
	rc = gr_pager_open(ram, &source, NULL, &pager);
	if (rc == -ENOTSUP || rc == -EPERM) {
		print_message("skipped: %s\n", gr_last_error());
	} else {
		assert_ok(rc);
		assert_true(image_is_right(0, ZERO_EVERY, 8 * MIB, host + 8 * MIB, MIB));
		server_kill(&server);
		sleep_us(100000);
		server_again(&server);
		assert_true(image_is_right(0, ZERO_EVERY, 0, host, LENGTH));
		assert_ok(gr_pager_wait(pager, LONG_MS));
		gr_pager_get_stats(pager, &stats);
		assert_int_equal(stats.bytes_there, LENGTH);
		assert_ok(gr_pager_close(pager));
	}
	gr_page_source_close(&source);
	assert_ok(gr_ram_close(ram));
	server_kill(&server);
}

static void encrypted_with_a_shared_key(void **unused)
{
	char psk[160], option[192];
	const char *words[] = {"nbdkit", "-f",	 "-U",	"%s", "--tls=require",
			       option,	 "file", image, NULL};
	struct gr_nbd_opts opts = {
		.tls = GR_NBD_TLS_REQUIRE, .tls_username = "alice", .tls_psk_file = psk};
	struct gr_page_source source;
	struct server server;
	char uri[512];
	int fd;

	if (!have_program("nbdkit"))
		skip();
	snprintf(psk, sizeof(psk), "%s/keys.psk", servers_folder());
	snprintf(option, sizeof(option), "--tls-psk=%s", psk);
	fd = open(psk, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(dprintf(fd, "alice:00112233445566778899aabbccddeeff\n"
				"bob:ffeeddccbbaa99887766554433221100\n") > 0);
	close(fd);
	server_start(&server, words);
	opts.socket = server.socket;
	assert_ok(gr_nbd_source_open(NULL, &opts, &source));
	check_all(&source, ZERO_EVERY, MIB);
	gr_page_source_close(&source);
	/* without, with a user that has no key, and by a URI that may not name files, or may */
	opts.tls = GR_NBD_TLS_OFF;
	assert_true(gr_nbd_source_open(NULL, &opts, &source) < 0);
	opts.tls = GR_NBD_TLS_REQUIRE;
	opts.tls_username = "mallory";
	assert_true(gr_nbd_source_open(NULL, &opts, &source) < 0);
	snprintf(uri, sizeof(uri), "nbds+unix://alice@/?socket=%s&tls-psk-file=%s", server.socket,
		 psk);
	assert_error(gr_nbd_source_open(uri, NULL, &source), -EPERM, "local file");
	opts = (struct gr_nbd_opts){.flags = GR_NBD_URI_FILES};
	assert_ok(gr_nbd_source_open(uri, &opts, &source));
	check_all(&source, ZERO_EVERY, MIB);
	gr_page_source_close(&source);
	server_kill(&server);
}

static void what_is_malformed_is_refused(void **unused)
{
	struct gr_nbd_opts opts = {.socket = "/nowhere/at/all"};
	struct gr_nbd_stats stats;
	struct gr_page_source source = {0};

	assert_error(gr_nbd_source_open(NULL, NULL, &source), -EINVAL, "one of");
	assert_error(gr_nbd_source_open("nbd://localhost", &opts, &source), -EINVAL, "one of");
	assert_error(gr_nbd_source_open("nbd://localhost", NULL, NULL), -EINVAL, "no place");
	assert_error(gr_nbd_source_open(NULL, &opts, &source), -ENOENT, "/nowhere");
	assert_error(gr_nbd_source_open("http://localhost/", NULL, &source), -EINVAL, "");
	opts.connections = 17;
	assert_error(gr_nbd_source_open(NULL, &opts, &source), -EINVAL, "17 connections");
	opts.connections = 0;
	opts.in_flight = 65;
	assert_error(gr_nbd_source_open(NULL, &opts, &source), -EINVAL, "65 in flight");
	assert_error(gr_nbd_source_get_stats(&source, &stats), -EINVAL, "no such source");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_of_nbdkit),
		cmocka_unit_test(bytes_of_nbdkit_with_large_blocks),
		cmocka_unit_test(zeroes_inside_large_blocks),
		cmocka_unit_test(bytes_of_qemu_nbd),
		cmocka_unit_test(a_cut_page_goes_on_with_zeroes),
		cmocka_unit_test(errors_are_tried_again),
		cmocka_unit_test(a_server_that_dies_under_load),
		cmocka_unit_test(a_server_that_stays_away),
		cmocka_unit_test(another_export_is_refused),
		cmocka_unit_test(a_pager_over_it),
		cmocka_unit_test(encrypted_with_a_shared_key),
		cmocka_unit_test(what_is_malformed_is_refused),
	};
	int failed;

	testing_end_after(110);
	snprintf(image, sizeof(image), "%s/image", servers_folder());
	snprintf(other, sizeof(other), "%s/other", servers_folder());
	make_image(image, 0, LENGTH, ZERO_EVERY);
	failed = cmocka_run_group_tests_name("NBD sources", tests, NULL, NULL);
	servers_end();
	return failed;
}
