/* SPDX-License-Identifier: MIT */
/*
 * A raw image as a source of pages: what is where, how it is read, and every call failing.
 *
 * Threads: the test's own.
 */
#include "../fault/nth.h"
#include "../fault/tally.h"
#include "testing.h"
#include <fcntl.h>
#include <guestram/pager.h>

static char path[64];

/* Pages 1, 2 and 7 have data, the rest are holes; the last page is cut: 9 pages and 100 bytes. */
static void make_image(void)
{
	unsigned char page[4096];
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	for (int i = 0; i < 3; i++) {
		int at = i < 2 ? i + 1 : 7;

		memset(page, at, sizeof(page));
		assert_int_equal(pwrite(fd, page, sizeof(page), at * 4096), 4096);
	}
	memset(page, 9, 100);
	assert_int_equal(pwrite(fd, page, 100, 9 * 4096), 100);
	close(fd);
}

static int look_at(const struct gr_page_source *source, uint64_t page, uint64_t *pages)
{
	uint64_t length = 100 * PAGE;
	int rc = source->ops->look(source->context, 0, page * PAGE, &length);

	*pages = length / PAGE;
	return rc;
}

static void holes_are_zero(void **unused)
{
	static const struct {
		uint64_t page;
		int kind;
		uint64_t pages;
	} cases[] = {
		{0, GR_PAGES_ZERO, 1}, {1, GR_PAGES_DATA, 2}, {2, GR_PAGES_DATA, 1},
		{3, GR_PAGES_ZERO, 4}, {7, GR_PAGES_DATA, 1}, {8, GR_PAGES_ZERO, 1},
		{9, GR_PAGES_DATA, 1},
	};
	struct gr_page_source_info info;
	struct gr_page_source source;
	uint64_t pages;

	make_image();
	assert_ok(gr_image_source_open(path, &source));
	assert_int_equal(source.ops->find(source.context, "any", &info), 0);
	assert_int_equal(info.length, 10 * PAGE);
	for (unsigned i = 0; i < COUNT_OF(cases); i++) {
		assert_int_equal(look_at(&source, cases[i].page, &pages), cases[i].kind);
		assert_int_equal(pages, cases[i].pages);
	}
	assert_int_equal(look_at(&source, 10, &pages), -ERANGE);
	gr_page_source_close(&source);
	gr_page_source_close(&source);
	gr_page_source_close(NULL);
}

static void bytes_are_the_files(void **unused)
{
	unsigned char pages[3 * 4096], want[3 * 4096] = {0};
	uint64_t length = 100 * PAGE, fd_offset;
	struct gr_page_source source;
	int fd;

	make_image();
	assert_ok(gr_image_source_open(path, &source));
	memset(pages, 0xee, sizeof(pages));
	memset(want, 7, 4096);
	memset(want + 2 * 4096, 9, 100); /* the rest of the page that is cut is zero */
	assert_ok(source.ops->read(source.context, 0, 7 * PAGE, pages, sizeof(pages)));
	assert_memory_equal(pages, want, sizeof(want));
	assert_int_equal(source.ops->read(source.context, 0, 8 * PAGE, pages, sizeof(pages)),
			 -ERANGE);

	assert_ok(source.ops->place(source.context, 0, 2 * PAGE, &length, &fd, &fd_offset));
	assert_int_equal(fd_offset, 2 * PAGE);
	assert_int_equal(length, 7 * PAGE);
	assert_int_equal(pread(fd, pages, 4096, (off_t)fd_offset), 4096);
	assert_int_equal(pages[4095], 2);
	assert_int_equal(source.ops->place(source.context, 0, 9 * PAGE, &length, &fd, &fd_offset),
			 -ENOTSUP);

	/* a file that loses its end does not become zeroes */
	assert_int_equal(truncate(path, 8 * 4096), 0);
	assert_int_equal(source.ops->read(source.context, 0, 8 * PAGE, pages, 4096), -EIO);
	gr_page_source_close(&source);
}

static void what_is_no_image_is_refused(void **unused)
{
	struct gr_page_source source;

	assert_error(gr_image_source_open("/proc/self", &source), -EINVAL, "no regular file");
	assert_error(gr_image_source_open("/nowhere/at/all", &source), -ENOENT, "/nowhere");
	assert_error(gr_image_source_open(NULL, &source), -EINVAL, "no path");
	make_image();
	assert_int_equal(truncate(path, 0), 0);
	assert_error(gr_image_source_open(path, &source), -EINVAL, "empty");
}

static void every_call_fails(void **unused)
{
	struct gr_page_source source;
	unsigned fds, failures = 0;
	const char *call;
	unsigned char page[4096];

	make_image();
	fds = open_fds();
	for (int nth = 1;; nth++) {
		int rc;

		arm(nth);
		rc = gr_image_source_open(path, &source);
		call = disarm();
		if (!call) {
			assert_ok(rc);
			break;
		}
		assert_int_equal(rc, -ENOMEM);
		assert_int_equal(open_fds(), fds);
		tally_fault("gr_image_source_open", call);
		failures++;
	}
	assert_true(failures >= 7);
	arm(1);
	assert_int_equal(source.ops->read(source.context, 0, PAGE, page, 4096), -ENOMEM);
	call = disarm();
	assert_non_null(call);
	tally_fault("gr_image_source_open", call);
	assert_ok(source.ops->read(source.context, 0, PAGE, page, 4096));
	assert_int_equal(page[17], 1);
	arm(1);
	gr_page_source_close(&source);
	assert_null(disarm());
	tally_nothing("gr_page_source_close");
}

static int remove_file(void **unused)
{
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holes_are_zero),
		cmocka_unit_test(bytes_are_the_files),
		cmocka_unit_test(what_is_no_image_is_refused),
		cmocka_unit_test(every_call_fails),
	};

	snprintf(path, sizeof(path), "/tmp/guestram-image-%d", (int)getpid());
	alarm(50);
	return cmocka_run_group_tests_name("raw images", tests, NULL, remove_file);
}
