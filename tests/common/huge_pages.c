/* SPDX-License-Identifier: MIT */
/* See huge_pages.h. Threads: the test's own. */
#include "huge_pages.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmocka.h>

/* At most one size at a time. */
static char pool[128];
static long pool_before = -1;
static int pool_lock = -1;

static long pool_value(uint64_t page_size, const char *name)
{
	char path[128];
	long value = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB/%s",
		 (unsigned long long)page_size / 1024, name);
	file = fopen(path, "re");
	if (!file)
		return -1;
	if (fscanf(file, "%ld", &value) != 1)
		value = -1;
	fclose(file);
	return value;
}

static bool set_pool(long count)
{
	FILE *file = fopen(pool, "we");

	if (!file)
		return false;
	fprintf(file, "%ld\n", count);
	return fclose(file) == 0;
}

long free_huge_pages(uint64_t page_size)
{
	return pool_value(page_size, "free_hugepages") - pool_value(page_size, "resv_hugepages");
}

bool get_huge_pages(uint64_t page_size, unsigned count)
{
	/* Another run of these tests may be using it. */
	pool_lock = open("/sys/kernel/mm/hugepages", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pool_lock >= 0)
		flock(pool_lock, LOCK_EX);
	pool_before = pool_value(page_size, "nr_hugepages");
	if (pool_before < 0) {
		put_huge_pages();
		print_message("skipped: no huge pages of %llu KiB\n",
			      (unsigned long long)page_size / 1024);
		return false;
	}
	snprintf(pool, sizeof(pool), "/sys/kernel/mm/hugepages/hugepages-%llukB/nr_hugepages",
		 (unsigned long long)page_size / 1024);
	if (!set_pool(pool_before + count - free_huge_pages(page_size)) ||
	    free_huge_pages(page_size) != count) {
		print_message(
			"skipped: %u huge pages of %llu KiB are not to be had: root, and free "
			"memory in one piece\n",
			count, (unsigned long long)page_size / 1024);
		put_huge_pages();
		return false;
	}
	return true;
}

void put_huge_pages(void)
{
	if (pool_before >= 0)
		set_pool(pool_before);
	pool_before = -1;
	if (pool_lock >= 0)
		close(pool_lock);
	pool_lock = -1;
}
