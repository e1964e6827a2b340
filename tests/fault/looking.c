/* SPDX-License-Identifier: MIT */
/*
 * Each call that fails once in what tests/dump and tests/status leave out: dumps of memory of
 * another kind, members of the status document, its end.
 *
 * Threads: one, and the status socket's.
 */
#include "nth.h"
#include "os/hooks.h"
#include "os/pages.h"
#include "tally.h"
#include <errno.h>
#include <guestram/dump.h>
#include <guestram/status.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGE GR_PAGE_SIZE

static int read_page(void *context, size_t range, uint64_t offset, void *buf, uint64_t length)
{
	memset(buf, (int)(range + 1), length);
	return 0;
}

static void a_dump_of_another_source(void **state)
{
	static const struct gr_dump_range ranges[] = {{0, 4 * PAGE}, {1 << 30, PAGE}};
	const struct gr_dump_source source = {.ranges = ranges, .count = 2, .read = read_page};
	static char text[1 << 16], again[1 << 16];
	int fd = memfd_create("core", MFD_CLOEXEC), nth = 1, rc;
	ssize_t length;

	assert_int_equal(gr_dump_from(&source, fd, NULL), 0);
	length = pread(fd, text, sizeof(text), 0);
	assert_in_range(length, 5 * PAGE, sizeof(text) - 1);
	for (;; nth++) {
		const char *call;

		arm(nth);
		rc = gr_dump_from(&source, fd, NULL);
		call = disarm();
		if (!!rc != !!call || (rc && !gr_last_error()[0]))
			fail_msg("call %d, %s: %d", nth, call ? call : "none", rc);
		if (rc)
			rc = gr_dump_from(&source, fd, NULL);
		assert_int_equal(rc, 0);
		assert_int_equal(pread(fd, again, sizeof(again), 0), length);
		assert_memory_equal(text, again, (size_t)length);
		if (!call)
			break;
		tally_fault("gr_dump_from", call);
	}
	assert_in_range(nth, 5, 100);
	close(fd);
}

static char *tell(void *context)
{
	return strdup("1");
}

static void a_member_of_the_document(void **state)
{
	int nth = 1, rc;
	char *text;

	for (;; nth++) {
		const char *call;

		arm(nth);
		rc = gr_status_add("told", tell, NULL);
		call = disarm();
		if (rc != (call ? -ENOMEM : 0))
			fail_msg("call %d, %s: %d", nth, call ? call : "none", rc);
		assert_int_equal(gr_status_text(&text), 0);
		assert_int_equal(!strstr(text, "\"told\""), !!rc);
		free(text);
		if (rc)
			assert_int_equal(gr_status_add("told", tell, NULL), 0);
		arm(0);
		assert_int_equal(gr_status_remove("told"), 0);
		disarm();
		assert_int_equal(seen, 0);
		if (!call)
			break;
		tally_fault("gr_status_add", call);
	}
	assert_true(nth > 1);
	tally_nothing("gr_status_remove");
}

/* A directory that cannot be locked is no reason to leave the socket there. */
static void the_end_of_the_socket(void **state)
{
	char path[64];
	int nth = 1;

	snprintf(path, sizeof(path), "/tmp/guestram-fault-%d", (int)getpid());
	for (;; nth++) {
		const char *call;

		assert_int_equal(gr_status_serve(path), 0);
		arm(nth);
		assert_int_equal(gr_status_stop(), 0);
		call = disarm();
		assert_int_equal(access(path, F_OK), -1);
		if (!call)
			break;
		tally_fault("gr_status_stop", call);
	}
	assert_true(nth > 1);
}

/* Memory of the caller's own: whether its pages can be asked for is seen by /proc/self/maps. */
static void a_dump_of_lent_memory(void **state)
{
	static char page[2 * PAGE] __attribute__((aligned(4096)));
	struct gr_block_opts opts = {
		.name = "lent", .backing = GR_BACKING_CALLER, .host = page, .length = 2 * PAGE};
	int fd = memfd_create("core", MFD_CLOEXEC), nth = 1;
	struct gr_dump_stats stats;
	struct gr_dump_opts how = {.stats = &stats};
	struct gr_block *block;
	struct gr_space *space;
	struct gr_ram *ram;

	memset(page + PAGE, 1, PAGE);
	assert_int_equal(gr_ram_open(NULL, &ram), 0);
	assert_int_equal(gr_space_open(ram, "space", &space), 0);
	assert_int_equal(gr_block_new(ram, &opts, &block), 0);
	assert_int_equal(gr_space_map(space, 0, block, 0, 2 * PAGE, GR_READ), 0);
	for (;; nth++) {
		const char *call;
		int rc;

		arm(nth);
		rc = gr_dump(space, fd, &how);
		call = disarm();
		if (rc && !call)
			fail_msg("%d: %s", rc, gr_last_error());
		if (!rc)
			assert_int_equal(stats.written, PAGE);
		if (!call)
			break;
		tally_fault("gr_dump", call);
	}
	assert_int_equal(gr_ram_close(ram), 0);
	close(fd);
}

/* Of another process, as the program does. */
static void memory_that_cannot_be_opened(void **state)
{
	const struct gr__pages_of of = {.kind = GR__PAGES_SHARED_ANON,
					.pid = getpid(),
					.fd = -1,
					.host = (uintptr_t)&failed & -PAGE,
					.length = PAGE};
	static struct gr__pages pages;
	int fds = dup(0);

	close(fds);
	arm(1);
	assert_int_equal(gr__pages_open(&pages, &of), -ENOMEM);
	assert_string_equal(disarm(), "open.mem");
	assert_int_equal(dup(0), fds); /* nothing was left open */
	close(fds);
	assert_int_equal(gr__pages_open(&pages, &of), 0);
	gr__pages_close(&pages);
	tally_fault("gr_dump_from", "open.mem");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_dump_of_another_source),
		cmocka_unit_test(a_member_of_the_document),
		cmocka_unit_test(the_end_of_the_socket),
		cmocka_unit_test(a_dump_of_lent_memory),
		cmocka_unit_test(memory_that_cannot_be_opened),
	};

	return cmocka_run_group_tests_name("fault-looking", tests, NULL, NULL);
}
