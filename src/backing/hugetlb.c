/* SPDX-License-Identifier: MIT */
/* Huge pages of a pool: their sizes, and what to say when the pool is empty. No state. */
#include "backing/kind.h"
#include "base/error.h"
#include "os/file.h"
#include "os/memory.h"
#include <errno.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <string.h>

static const struct {
	uint64_t page_size;
	int map_flags;
	unsigned memfd_flags;
} sizes[] = {
	{UINT64_C(2) << 20, MAP_HUGETLB | MAP_HUGE_2MB, MFD_HUGETLB | MFD_HUGE_2MB},
	{UINT64_C(1) << 30, MAP_HUGETLB | MAP_HUGE_1GB, MFD_HUGETLB | MFD_HUGE_1GB},
};

#define SIZE_COUNT (sizeof(sizes) / sizeof(sizes[0]))

/* SIZE_COUNT: not one of them */
static size_t find_size(uint64_t page_size)
{
	size_t i;

	for (i = 0; i < SIZE_COUNT; i++)
		if (sizes[i].page_size == page_size)
			break;
	return i;
}

bool gr__mem_is_huge(const struct gr__mem *mem)
{
	return mem->page_size != gr__os_page_size();
}

int gr__huge_check(const struct gr__mem *mem)
{
	if (!gr__mem_is_huge(mem))
		return 0;
	if (find_size(mem->page_size) == SIZE_COUNT)
		return gr__fail(
			-EINVAL,
			"block %s: page_size %#llx is none of %#llx, 2 MiB (0x200000) and 1 GiB "
			"(0x40000000)",
			mem->name, (unsigned long long)mem->page_size,
			(unsigned long long)gr__os_page_size());
	if (mem->backing != GR_BACKING_CALLER && mem->backing != GR_BACKING_FOREIGN &&
	    !gr__file_huge_pages_known(mem->page_size))
		return gr__fail(-ENOTSUP, "block %s: this machine has no huge pages of %llu KiB",
				mem->name, (unsigned long long)mem->page_size / 1024);
	return 0;
}

int gr__huge_map_flags(uint64_t page_size)
{
	size_t i = find_size(page_size);

	return i < SIZE_COUNT ? sizes[i].map_flags : 0;
}

unsigned gr__huge_memfd_flags(uint64_t page_size)
{
	size_t i = find_size(page_size);

	return i < SIZE_COUNT ? sizes[i].memfd_flags : 0;
}

int gr__piece_failed(const struct gr__mem *mem, int rc, uint64_t length)
{
	unsigned long long kib = mem->page_size / 1024;

	if (rc == -ENOMEM && gr__mem_is_huge(mem))
		return gr__fail(rc,
				"block %s: %llu huge pages of %llu KiB are not free; add some in "
				"/sys/kernel/mm/hugepages/hugepages-%llukB/nr_hugepages",
				mem->name, (unsigned long long)(length / mem->page_size), kib, kib);
	return gr__fail(rc, "block %s: mmap of %#llx bytes of %s: %s", mem->name,
			(unsigned long long)length, mem->ops->name, strerrordesc_np(-rc));
}
