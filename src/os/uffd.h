/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd(2) for write protection, and PAGEMAP_SCAN: which pages were written.
 *
 * Calls return 0 or -errno, and have a fault by their names.
 */
#ifndef GR__UFFD_H
#define GR__UFFD_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A userfaultfd whose write protection is taken off by the kernel itself (@async, Linux 6.7), or
 * one that reports writes to be answered. -ENOTSUP: the kernel has none such; -EPERM. Faults:
 * "userfaultfd", "uffdio.api".
 */
int gr__uffd_open(bool async);

/* Fault: "uffdio.register". */
int gr__uffd_register(int fd, void *addr, uint64_t length);
void gr__uffd_unregister(int fd, void *addr, uint64_t length);

/* Protect pages, or take that off and let those go on who wait. Fault: "uffdio.writeprotect". */
int gr__uffd_protect(int fd, void *addr, uint64_t length, bool on);

/*
 * The next write that waits: its address and true, or false when there is none (any more). Only for
 * one that is not async.
 */
bool gr__uffd_next(int fd, uintptr_t *addr);

/* /proc/self/pagemap; fault "open.pagemap". */
int gr__pagemap_open(void);

/*
 * Protect again the pages of [addr, addr + length) that were written since they were protected, and
 * give them to @fn, one step of the kernel's for both. What @fn was given is protected, also when
 * an error comes later. Fault: "pagemap.scan".
 */
typedef void (*gr__written_fn)(void *context, uintptr_t addr, uint64_t length);
int gr__pagemap_take_written(int pagemap, void *room, void *addr, uint64_t length,
			     gr__written_fn fn, void *context);
/* Bytes of @room, which the kernel fills; more of it are fewer calls. */
#define GR__PAGEMAP_ROOM 98304

#endif
