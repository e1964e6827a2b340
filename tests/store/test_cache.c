/* SPDX-License-Identifier: MIT */
/*
 * The cache in front of a source: what it keeps, for how long, one fetch for many, a file that is
 * damaged or cannot be written, a source that fails; and every call of both sources failing.
 *
 * Threads: readers of the tests; they leave what they saw.
 */
#include "../fault/nth.h"
#include "../fault/tally.h"
#include "../pager/pattern.h"
#include "servers.h"
#include <guestram/store.h>
#include <signal.h>

#define CHUNK (64 * KIB)

static struct gr_page_source open_cache(struct pattern_source *below, uint64_t chunks)
{
	struct gr_cache_opts opts = {.max_bytes = chunks * CHUNK, .chunk = CHUNK};
	struct gr_page_source_info info;
	struct gr_page_source source;

	assert_ok(gr_cache_source_open(&below->source, &opts, &source));
	assert_int_equal(source.ops->find(source.context, "b0", &info), 0);
	assert_int_equal(info.chunk, CHUNK);
	return source;
}

static struct gr_cache_stats cache_stats(const struct gr_page_source *source)
{
	struct gr_cache_stats stats;

	assert_ok(gr_cache_source_get_stats(source, &stats));
	return stats;
}

static int read_page(const struct gr_page_source *source, uint64_t offset)
{
	char page[4096];
	int rc = source->ops->read(source->context, 0, offset, page, PAGE);

	return rc ? rc : pattern_is(0, offset, page, PAGE) ? 0 : 1;
}

static void what_was_used_lately_stays(void **unused)
{
	struct pattern_source below;
	struct gr_page_source source;
	struct gr_cache_stats stats;
	char *buf = malloc(MIB);

	pattern_source_init(&below, 1, MIB + 2 * PAGE);
	source = open_cache(&below, 4);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(read_page(&source, i * PAGE), 0); /* one chunk */
	assert_int_equal(get(&below.reads), 1);
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(read_page(&source, i * CHUNK), 0);
	assert_int_equal(get(&below.reads), 4);
	assert_int_equal(read_page(&source, 4 * CHUNK), 0); /* all were used: the first goes */
	assert_int_equal(read_page(&source, 1 * CHUNK), 0);
	assert_int_equal(get(&below.reads), 5);
	assert_int_equal(read_page(&source, 5 * CHUNK), 0); /* 2, since 1 was used again */
	assert_int_equal(read_page(&source, 1 * CHUNK), 0);
	assert_int_equal(get(&below.reads), 6);
	stats = cache_stats(&source);
	assert_int_equal(stats.misses, 6);
	assert_int_equal(stats.hits, 15 + 1 + 2);
	assert_int_equal(stats.evicted, 2);
	assert_int_equal(stats.bytes, 4 * CHUNK);
	assert_int_equal(stats.max_bytes, 4 * CHUNK);
	/* all of it, over chunks, with the end that is no whole chunk, twice; and any byte */
	for (unsigned i = 0; i < 2; i++) {
		assert_ok(source.ops->read(source.context, 0, 2 * PAGE, buf, MIB));
		assert_true(pattern_is(0, 2 * PAGE, buf, MIB));
		assert_ok(source.ops->read(source.context, 0, MIB + 8, buf, 2 * PAGE - 8));
		assert_true(pattern_is(0, MIB + 8, buf, 2 * PAGE - 8));
	}
	assert_int_equal(read_page(&source, MIB + 2 * PAGE), -ERANGE);
	assert_int_equal(source.ops->read(source.context, 7, 0, buf, PAGE), -ENOENT);
	gr_page_source_close(&source);
	free(buf);
}

struct many {
	const struct gr_page_source *source;
	int rc;
};

static void *read_first(void *arg)
{
	struct many *many = arg;

	many->rc = read_page(many->source, PAGE);
	return NULL;
}

static void one_fetch_for_many(void **unused)
{
	struct pattern_source below;
	struct gr_page_source source;
	struct many many[8];
	pthread_t threads[8];
	struct gate hold;

	pattern_source_init(&below, 1, MIB);
	source = open_cache(&below, 4);
	gate_init(&hold);
	below.hold = &hold;
	for (unsigned i = 0; i < 8; i++) {
		many[i] = (struct many){&source, -1};
		threads[i] = thread_start(read_first, &many[i]);
	}
	assert_true(wait_until(cache_stats(&source).shared == 7));
	gate_open(&hold);
	for (unsigned i = 0; i < 8; i++) {
		thread_join(threads[i]);
		assert_int_equal(many[i].rc, 0);
	}
	assert_int_equal(get(&below.reads), 1);
	gr_page_source_close(&source);
}

static void a_failing_source_leaves_nothing(void **unused)
{
	struct pattern_source below;
	struct gr_page_source source;

	pattern_source_init(&below, 1, MIB);
	source = open_cache(&below, 4);
	set(&below.failing, EIO);
	assert_int_equal(read_page(&source, PAGE), -EIO);
	assert_int_equal(cache_stats(&source).bytes, 0);
	set(&below.failing, 0);
	assert_int_equal(read_page(&source, PAGE), 0);
	assert_int_equal(cache_stats(&source).bytes, CHUNK);
	gr_page_source_close(&source);
}

/* The cache's memfd, by its name. */
static int find_file(void)
{
	char path[64], target[128];
	ssize_t got;

	for (int fd = 3; fd < 256; fd++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		got = readlink(path, target, sizeof(target) - 1);
		target[got < 0 ? 0 : got] = 0;
		if (strstr(target, "guestram-cache"))
			return fd;
	}
	return -1;
}

static void a_damaged_file_never_lies(void **unused)
{
	struct pattern_source below;
	struct gr_page_source source;
	int fd;

	pattern_source_init(&below, 1, MIB);
	source = open_cache(&below, 4);
	for (uint64_t at = 0; at < 4 * CHUNK; at += CHUNK)
		assert_int_equal(read_page(&source, at), 0);
	fd = find_file();
	assert_true(fd >= 0);
	for (uint64_t at = 100; at < 2 * CHUNK; at += PAGE)
		assert_int_equal(pwrite(fd, "x", 1, (off_t)at), 1);
	assert_int_equal(ftruncate(fd, 2 * CHUNK), 0);
	for (uint64_t at = 0; at < 4 * CHUNK; at += PAGE)
		assert_int_equal(read_page(&source, at), 0);
	assert_int_equal(cache_stats(&source).damaged, 4);
	assert_int_equal(cache_stats(&source).evicted, 0);
	assert_int_equal(cache_stats(&source).bytes, 4 * CHUNK);
	gr_page_source_close(&source);
}

static void every_call_of_a_cache_fails(void **unused)
{
	unsigned fds = open_fds(), refused = 0, went_on = 0;

	for (int nth = 1;; nth++) {
		struct gr_cache_opts opts = {.max_bytes = 4 * CHUNK, .chunk = CHUNK};
		struct gr_page_source_info info;
		struct pattern_source below;
		struct gr_page_source source;
		const char *call;
		int rc;

		opts.directory = nth & 1 ? NULL : "/tmp";
		pattern_source_init(&below, 1, MIB);
		arm(nth / 2 + 1);
		rc = gr_cache_source_open(&below.source, &opts, &source);
		if (rc) {
			call = disarm();
			assert_non_null(call);
			tally_fault("gr_cache_source_open", call);
			assert_int_equal(open_fds(), fds);
			refused++;
			continue;
		}
		rc = source.ops->find(source.context, "b0", &info);
		if (rc == -ENOMEM)
			rc = source.ops->find(source.context, "b0", &info);
		assert_int_equal(rc, 0);
		for (unsigned i = 0; i < 32; i++) /* misses, hits, in part: all right */
			assert_int_equal(read_page(&source, i % 16 * PAGE * 4), 0);
		call = disarm();
		if (call) {
			tally_fault("gr_cache_source_open", call);
			went_on++;
		}
		gr_page_source_close(&source);
		assert_int_equal(open_fds(), fds);
		if (!call && nth > 2)
			break;
	}
	assert_true(refused >= 8);
	assert_true(went_on >= 10);
	tally_nothing("gr_cache_source_get_stats");
}

static void every_call_of_an_nbd_source_fails(void **unused)
{
	char image[128], page[4096];
	const char *words[] = {"nbdkit", "-f", "-U", "%s", "file", image, NULL};
	unsigned fds, refused = 0, went_on = 0;
	struct server server;

	if (!have_program("nbdkit"))
		skip();
	snprintf(image, sizeof(image), "%s/image", servers_folder());
	make_image(image, 0, MIB, 4);
	server_start(&server, words);
	fds = open_fds();
	for (int nth = 1;; nth++) {
		struct gr_nbd_opts opts = {.socket = server.socket, .connections = 1};
		struct gr_page_source source;
		const char *call;
		int rc;

		arm(nth);
		rc = gr_nbd_source_open(NULL, &opts, &source);
		if (rc) {
			call = disarm();
			assert_non_null(call);
			tally_fault("gr_nbd_source_open", call);
			assert_int_equal(open_fds(), fds);
			refused++;
			continue;
		}
		for (uint64_t at = 0; at < MIB; at += PAGE) {
			rc = source.ops->read(source.context, 0, at, page, PAGE);
			assert_int_equal(rc, 0);
			assert_true(image_is_right(0, 4, at, page, PAGE));
		}
		call = disarm();
		gr_page_source_close(&source);
		assert_int_equal(open_fds(), fds);
		if (!call)
			break;
		tally_fault("gr_nbd_source_open", call);
		went_on++;
	}
	tally_nothing("gr_nbd_source_get_stats");
	server_kill(&server);
	assert_true(refused >= 6);
	assert_true(went_on >= 17); /* samples, status, reads */
}

static void what_is_malformed_is_refused(void **unused)
{
	struct gr_cache_opts opts = {.max_bytes = CHUNK, .chunk = CHUNK + 1};
	struct pattern_source below;
	struct gr_cache_stats stats;
	struct gr_page_source source;

	pattern_source_init(&below, 1, MIB);
	assert_error(gr_cache_source_open(NULL, NULL, &source), -EINVAL, "no source");
	assert_error(gr_cache_source_open(&below.source, &opts, &source), -EINVAL, "chunks of");
	opts.chunk = 2 * CHUNK;
	assert_error(gr_cache_source_open(&below.source, &opts, &source), -EINVAL, "chunks of");
	opts.chunk = CHUNK;
	opts.directory = "/nowhere/at/all";
	assert_error(gr_cache_source_open(&below.source, &opts, &source), -ENOENT, "/nowhere");
	assert_error(gr_cache_source_get_stats(&below.source, &stats), -EINVAL, "no such source");
	gr_page_source_close(&below.source);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_used_lately_stays),
		cmocka_unit_test(one_fetch_for_many),
		cmocka_unit_test(a_failing_source_leaves_nothing),
		cmocka_unit_test(a_damaged_file_never_lies),
		cmocka_unit_test(every_call_of_a_cache_fails),
		cmocka_unit_test(every_call_of_an_nbd_source_fails),
		cmocka_unit_test(what_is_malformed_is_refused),
	};
	int wrong;

	testing_end_after(110);
	wrong = cmocka_run_group_tests_name("caches", tests, NULL, NULL);
	servers_end();
	return wrong;
}
