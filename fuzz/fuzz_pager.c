/* SPDX-License-Identifier: MIT */
/*
 * What strangers give a pager: the handshake of a monitor, and the file of a working set.
 *
 * Kept: the same bytes mean the same, in however many pieces they come; regions that are accepted
 * are whole pages, by address, apart from each other, and within the source; runs of a working set
 * are whole pages that do not wrap; what was saved of it loads as the same.
 *
 * Input: a byte: bit 0: a working set, else a handshake; the rest: bytes of a piece. Then the text.
 *
 * Threads: one.
 */
#include "fuzz.h"
#include "os/alloc.h"
#include "pager/handshake.h"
#include "pager/order.h"
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#define SOURCE_LENGTH (UINT64_C(1) << 32)

/* ------------------------------------------------------------------------------------ handshake */

static int take(const char *text, size_t size, size_t piece, struct gr__region **regions,
		unsigned *count)
{
	struct gr__handshake handshake;
	size_t at, part;
	int rc = 0;

	gr__handshake_init(&handshake);
	for (at = 0; at < size && !rc; at += part) {
		part = size - at < piece ? size - at : piece;
		rc = gr__handshake_add(&handshake, text + at, part);
	}
	if (!rc)
		rc = handshake.whole
			     ? gr__handshake_parse(&handshake, SOURCE_LENGTH, regions, count)
			     : -EAGAIN;
	gr__handshake_fini(&handshake);
	return rc;
}

static void check_regions(const struct gr__region *regions, unsigned count)
{
	unsigned i;

	FUZZ_CHECK(count > 0 && count <= GR__HANDSHAKE_REGIONS);
	for (i = 0; i < count; i++) {
		const struct gr__region *region = &regions[i];
		uint64_t page = region->page_size;

		FUZZ_CHECK(page >= 4096 && !(page & (page - 1)));
		FUZZ_CHECK(region->length > 0 && !((region->addr | region->length) & (page - 1)));
		FUZZ_CHECK(!(region->offset & 4095));
		FUZZ_CHECK(region->addr + (region->length - 1) >= region->addr);
		FUZZ_CHECK(region->length <= SOURCE_LENGTH &&
			   region->offset <= SOURCE_LENGTH - region->length);
		FUZZ_CHECK(!i || (regions[i - 1].addr < region->addr &&
				  region->addr - regions[i - 1].addr >= regions[i - 1].length));
	}
}

static void run_handshake(const char *text, size_t size, size_t piece)
{
	struct gr__region *one = NULL, *other = NULL;
	unsigned one_count = 0, other_count = 0;
	int rc = take(text, size, size ? size : 1, &one, &one_count);
	int again = take(text, size, piece, &other, &other_count);

	FUZZ_SAY("%d, %u regions\n", rc, one_count);
	FUZZ_CHECK(rc <= 0 && rc == again && one_count == other_count);
	if (!rc) {
		check_regions(one, one_count);
		FUZZ_CHECK(!memcmp(one, other, one_count * sizeof(*one)));
	}
	gr__free(one);
	gr__free(other);
}

/* ---------------------------------------------------------------------------------- working set */

static int find(void *context, const char *name, struct gr_page_source_info *info)
{
	(void)context;
	memset(info, 0, sizeof(*info));
	info->length = SOURCE_LENGTH;
	return name && name[0] == 'x' ? -ENOENT : name ? name[0] & 3 : 0;
}

static const char *name_of(void *context, int block)
{
	static const char *const names[] = {"d", "a a", "b%", "\x7f"};

	(void)context;
	return names[block & 3];
}

static void run_order(const char *text, size_t size)
{
	static const struct gr_page_source_ops ops = {.find = find};
	const struct gr_page_source source = {.ops = &ops};
	struct gr__order order = {0}, again = {0};
	char path[64], saved[64];
	int fd = memfd_create("order", MFD_CLOEXEC), rc;
	size_t i;

	FUZZ_CHECK(fd >= 0 && write(fd, text, size) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	snprintf(saved, sizeof(saved), "/tmp/guestram-fuzz-order-%d", (int)getpid());
	rc = gr__order_load(&order, path, &source);
	FUZZ_SAY("%d, %zu runs\n", rc, order.count);
	FUZZ_CHECK(!rc || rc == -EBADMSG);
	for (i = 0; i < order.count; i++) {
		const struct gr__run_of *run = &order.runs[i];

		FUZZ_CHECK(run->length && !((run->offset | run->length) & 4095));
		FUZZ_CHECK(run->offset + (run->length - 1) >= run->offset);
		FUZZ_CHECK(run->block >= 0 && run->block <= 3);
	}
	if (!rc) {
		FUZZ_CHECK(!gr__order_save(&order, saved, name_of, NULL));
		FUZZ_CHECK(!gr__order_load(&again, saved, &source));
		FUZZ_CHECK(again.count == order.count);
		FUZZ_CHECK(!order.count ||
			   !memcmp(order.runs, again.runs, order.count * sizeof(*order.runs)));
		unlink(saved);
	} else {
		FUZZ_CHECK(!order.count && !order.runs);
	}
	gr__order_fini(&order);
	gr__order_fini(&again);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_ledger before = fuzz_ledger_now();
	char *text;

	if (!size)
		return 0;
	text = malloc(size); /* so that a byte past it is seen */
	FUZZ_CHECK(text);
	memcpy(text, data + 1, size - 1);
	if (data[0] & 1)
		run_order(text, size - 1);
	else
		run_handshake(text, size - 1, (data[0] >> 1) + 1u);
	free(text);
	fuzz_ledger_check(&before);
	return 0;
}
