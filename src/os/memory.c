/* SPDX-License-Identifier: MIT */
/* See memory.h. */
#include "os/memory.h"
#include "os/hooks.h"
#include <errno.h>
#include <linux/prctl.h>
#include <numaif.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* What a system call returned, as 0 or -errno. */
static int result(long rc)
{
	return rc < 0 ? -errno : 0;
}

uint64_t gr__os_page_size(void)
{
	return sysconf(_SC_PAGESIZE);
}

unsigned gr__os_processors(void)
{
	long count = sysconf(_SC_NPROCESSORS_ONLN);

	return count < 1 ? 1 : count;
}

uint64_t gr__os_total_memory(void)
{
	struct sysinfo info;

	if (sysinfo(&info) < 0)
		return UINT64_MAX;
	return ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

static int map(void *at, uint64_t length, int protection, int flags, int fd, uint64_t offset,
	       void **addr)
{
	int error = GR_FAULT("mmap");
	void *host;

	if (error)
		return -error;
	host = mmap(at, length, protection, flags, fd, offset);
	if (host == MAP_FAILED)
		return -errno;
	*addr = host;
	return 0;
}

#define RESERVATION (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

int gr__os_reserve(uint64_t length, void **addr)
{
	return map(NULL, length, PROT_NONE, RESERVATION, -1, 0, addr);
}

int gr__os_reserve_again(void *addr, uint64_t length)
{
	return map(addr, length, PROT_NONE, RESERVATION | MAP_FIXED, -1, 0, &addr);
}

int gr__os_trim(void *addr, uint64_t length)
{
	int error;

	if (!length)
		return 0;
	error = GR_FAULT("munmap");
	return error ? -error : result(munmap(addr, length));
}

void gr__os_unmap(void *addr, uint64_t length)
{
	if (length)
		munmap(addr, length);
}

int gr__os_map(uint64_t length, int protection, int flags, int fd, uint64_t offset, void **addr)
{
	return map(NULL, length, protection, flags, fd, offset, addr);
}

int gr__os_move(void *from, uint64_t length, void *to)
{
	int error = GR_FAULT("mremap");

	if (error)
		return -error;
	/*
	 * The kernel checks all that can go wrong, the number of maps too, before it unmaps what
	 * is at @to; MAP_FIXED in mmap() does that only since 6.12.
	 */
	return mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED
		       ? -errno
		       : 0;
}

int gr__os_protect(void *addr, uint64_t length, int protection)
{
	int error = GR_FAULT("mprotect");

	return error ? -error : result(mprotect(addr, length, protection));
}

int gr__os_advise(void *addr, uint64_t length, int advice)
{
	int error = GR_FAULT("madvise");

	return error ? -error : result(madvise(addr, length, advice));
}

int gr__os_lock(void *addr, uint64_t length)
{
	int error = GR_FAULT("mlock");

	return error ? -error : result(mlock(addr, length));
}

int gr__os_lock_on_fault(void *addr, uint64_t length)
{
	int error = GR_FAULT("mlock");

	return error ? -error : result(mlock2(addr, length, MLOCK_ONFAULT));
}

int gr__os_unlock(void *addr, uint64_t length)
{
	int error = GR_FAULT("mlock");

	return error ? -error : result(munlock(addr, length));
}

int gr__os_bind(void *addr, uint64_t length, const struct gr__numa *numa)
{
	int error = GR_FAULT("mbind");

	/* The kernel takes one more than the number of bits of the mask. */
	return error ? -error
		     : result(mbind(addr, length, numa->mode, numa->nodes, GR__NUMA_NODES + 1, 0));
}

int gr__os_populate(void *addr, uint64_t length, bool write)
{
	int error = GR_FAULT("madvise.populate");

	return error ? -error
		     : result(madvise(addr, length,
				      write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ));
}

int gr__os_remove(void *addr, uint64_t length)
{
	int error = GR_FAULT("madvise.remove");

	return error ? -error : result(madvise(addr, length, MADV_REMOVE));
}

void gr__os_name(void *addr, uint64_t length, const char *name)
{
	char shown[80]; /* the kernel's limit, with the terminator */
	size_t i;

	/* These the kernel refuses in a name. */
	for (i = 0; name[i] && i < sizeof(shown) - 1; i++)
		switch (name[i]) {
		case '\\':
		case '`':
		case '$':
		case '[':
		case ']':
			shown[i] = '_';
			break;
		default:
			shown[i] = name[i] < ' ' || name[i] > '~' ? '_' : name[i];
		}
	shown[i] = '\0';
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, addr, length, shown);
}
