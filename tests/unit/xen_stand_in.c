/* SPDX-License-Identifier: MIT */
/*
 * A stand-in for libxenforeignmemory where no Xen runs: the functions of its documented interface
 * over a memfd, whose page n is the domain's frame n. It keeps the promises of the real one that
 * matter: a mapping may come with errors for some of its pages, which are inaccessible then.
 */
#include "xen_stand_in.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

struct xenforeignmemory_handle {
	int unused;
};

struct xen_stand_in xen_stand_in;

xenforeignmemory_handle *xenforeignmemory_open(struct xentoollog_logger *logger, unsigned flags)
{
	if (xen_stand_in.open_error) {
		errno = xen_stand_in.open_error;
		return NULL;
	}
	xen_stand_in.handles++;
	return calloc(1, sizeof(xenforeignmemory_handle));
}

int xenforeignmemory_close(xenforeignmemory_handle *handle)
{
	xen_stand_in.handles--;
	free(handle);
	return 0;
}

void *xenforeignmemory_map(xenforeignmemory_handle *handle, uint32_t domain, int protection,
			   size_t pages, const xen_pfn_t gfns[], int errors[])
{
	char *addr;
	size_t i;

	if (xen_stand_in.map_error || domain != xen_stand_in.domain) {
		errno = xen_stand_in.map_error ? xen_stand_in.map_error : ESRCH;
		return NULL;
	}
	addr = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (addr == MAP_FAILED)
		return NULL;
	for (i = 0; i < pages; i++) {
		errors[i] = gfns[i] == xen_stand_in.missing_gfn ? ENOENT : 0;
		if (!errors[i] && mmap(addr + i * 4096, 4096, protection, MAP_SHARED | MAP_FIXED,
				       xen_stand_in.fd, (off_t)(gfns[i] * 4096)) == MAP_FAILED)
			errors[i] = errno;
	}
	xen_stand_in.mapped++;
	return addr;
}

int xenforeignmemory_unmap(xenforeignmemory_handle *handle, void *addr, size_t pages)
{
	xen_stand_in.mapped--;
	return munmap(addr, pages * 4096);
}
