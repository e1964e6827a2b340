/* SPDX-License-Identifier: MIT */
/*
 * Windows by libxenforeignmemory. Its map call may succeed in part: it gives an address, and an
 * error for each page that is not there behind it, of which a touch would kill us. So a mapping
 * counts only when every page has come; else it is undone, and the first page's error is told.
 *
 * Threads: any number at once; the library's handle is for that.
 */
#include "base/error.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include <errno.h>
#include <guestram/xen.h>
#include <string.h>
#include <sys/mman.h>
#include <xenforeignmemory.h>

#define GFN_SHIFT 12

struct gr_xen {
	xenforeignmemory_handle *handle; /* these: const */
	uint32_t domain;
	uint64_t first_gfn;
};

int gr_xen_open(uint32_t domain, uint64_t first_gfn, struct gr_xen **result)
{
	struct gr_xen *xen;
	int rc;

	if (!result || first_gfn > UINT64_MAX >> GFN_SHIFT)
		return gr__fail(-EINVAL, "xen: no place for the result, or gfn %#llx",
				(unsigned long long)first_gfn);
	xen = gr__alloc(sizeof(*xen));
	if (!xen)
		return gr__fail(-ENOMEM, "xen: no memory");
	xen->domain = domain;
	xen->first_gfn = first_gfn;
	rc = GR_FAULT("xenforeignmemory_open");
	if (!rc) {
		errno = 0;
		xen->handle = xenforeignmemory_open(NULL, 0);
		rc = xen->handle ? 0 : errno ? errno : EIO;
	}
	if (rc) {
		gr__free(xen);
		return gr__fail(-rc, "xen: xenforeignmemory_open: %s", strerrordesc_np(rc));
	}
	*result = xen;
	return 0;
}

void gr_xen_close(struct gr_xen *xen)
{
	if (!xen)
		return;
	xenforeignmemory_close(xen->handle);
	gr__free(xen);
}

static int map_pages(struct gr_xen *xen, uint64_t gfn, uint64_t count, int protection,
		     xen_pfn_t *gfns, int *errors, void **host)
{
	void *addr;
	uint64_t i;
	int rc;

	for (i = 0; i < count; i++)
		gfns[i] = gfn + i;
	errno = 0;
	addr = xenforeignmemory_map(xen->handle, xen->domain, protection, count, gfns, errors);
	/* the errors are valid only beside an address */
	if (!addr || addr == MAP_FAILED)
		return errno ? -errno : -EIO;
	for (i = 0; i < count && !errors[i]; i++)
		;
	if (i == count) {
		*host = addr;
		return 0;
	}
	/* errno values, and some versions give them negative */
	rc = errors[i] > 0 ? -errors[i] : errors[i];
	xenforeignmemory_unmap(xen->handle, addr, count);
	return rc;
}

static int map(void *context, uint64_t offset, uint64_t length, unsigned access, void **host)
{
	struct gr_xen *xen = context;
	uint64_t count = length >> GFN_SHIFT;
	int protection = access & GR_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
	xen_pfn_t *gfns = gr__alloc_array(count, sizeof(*gfns));
	int *errors = gr__alloc_array(count, sizeof(*errors));
	int rc = -ENOMEM;

	if (gfns && errors)
		rc = map_pages(xen, xen->first_gfn + (offset >> GFN_SHIFT), count, protection, gfns,
			       errors, host);
	gr__free(errors);
	gr__free(gfns);
	return rc;
}

static void unmap(void *context, void *host, uint64_t length)
{
	struct gr_xen *xen = context;

	xenforeignmemory_unmap(xen->handle, host, length >> GFN_SHIFT);
}

static void release(void *context)
{
	gr_xen_close(context);
}

/* No discard: who takes pages from the domain also knows when, and invalidates. */
const struct gr_foreign_ops gr_xen_ops = {.map = map, .unmap = unmap, .release = release};
