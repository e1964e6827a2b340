/* SPDX-License-Identifier: MIT */
/*
 * Windows on the memory of another Xen domain, by libxenforeignmemory: functions for
 * GR_BACKING_FOREIGN. Only in a library that was built with the meson option `xen`. Offsets of the
 * block are guest-physical addresses from @first_gfn on.
 */
#ifndef GUESTRAM_XEN_H
#define GUESTRAM_XEN_H

#include <guestram.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gr_xen;

extern GR_API const struct gr_foreign_ops gr_xen_ops;

/**
 * gr_xen_open() - the context for a block of a domain's memory
 * @domain:    its number
 * @first_gfn: of the block's first page
 * @xen:       result: gr_block_opts.foreign_context beside gr_xen_ops. The block that is made with
 *             it ends it when it is reclaimed
 *
 * A window of which the hypervisor cannot map every page is not mapped: the lookup fails with that
 * page's error. Call gr_foreign_invalidate() when the domain's pages change places.
 *
 * Context: any thread, privileged as Xen asks. Return: 0, -EINVAL, -ENOMEM, or the error of
 * xenforeignmemory_open(). Since 0.1.
 */
GR_API int gr_xen_open(uint32_t domain, uint64_t first_gfn, struct gr_xen **xen);

/** gr_xen_close() - end a context that no block was made with; NULL does nothing. Since 0.1. */
GR_API void gr_xen_close(struct gr_xen *xen);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_XEN_H */
