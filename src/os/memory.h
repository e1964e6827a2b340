/* SPDX-License-Identifier: MIT */
/*
 * The kernel's calls on address space and pages, each with a name by which a test makes it fail.
 * Calls return 0 or -errno; those that only undo (unmap) cannot fail and have no fault.
 *
 * Nothing here ever maps over an address that the library has not reserved before: mappings are
 * made where the kernel likes, and moved into our own reservation when they are whole. A mapping
 * that cannot be made therefore never leaves a hole in a reservation, into which another thread's
 * mmap() could fall.
 *
 * Threads: no state of ours; any number at once.
 */
#ifndef GR__MEMORY_H
#define GR__MEMORY_H

#include "os/numa.h"
#include <stdbool.h>
#include <stdint.h>

/* Bytes of a page, processors that are online, bytes of RAM and swap. */
uint64_t gr__os_page_size(void);
unsigned gr__os_processors(void);
uint64_t gr__os_total_memory(void);

/* Inaccessible address space that costs no memory. Fault: "mmap". */
int gr__os_reserve(uint64_t length, void **addr);
/* Turn a part of a reservation of ours back into that, whatever it holds. Fault: "mmap". */
int gr__os_reserve_again(void *addr, uint64_t length);
/* Give the slack of a reservation back; length 0 does nothing. Fault: "munmap". */
int gr__os_trim(void *addr, uint64_t length);
void gr__os_unmap(void *addr, uint64_t length);

/* A mapping where the kernel likes. Fault: "mmap". */
int gr__os_map(uint64_t length, int protection, int flags, int fd, uint64_t offset, void **addr);
/* Move a whole mapping over a part of a reservation of ours. Fault: "mremap". */
int gr__os_move(void *from, uint64_t length, void *to);

/* Faults: "mprotect", "madvise", "mlock", "mbind". */
int gr__os_protect(void *addr, uint64_t length, int protection);
int gr__os_advise(void *addr, uint64_t length, int advice);
int gr__os_lock(void *addr, uint64_t length);
/* Lock the pages that are there, and others as they come. */
int gr__os_lock_on_fault(void *addr, uint64_t length);
int gr__os_unlock(void *addr, uint64_t length);
int gr__os_bind(void *addr, uint64_t length, const struct gr__numa *numa);

/*
 * Give every page its memory: -EFAULT where a touch would have raised SIGBUS, -EINVAL when the
 * kernel cannot (before 5.14). Fault: "madvise.populate".
 */
int gr__os_populate(void *addr, uint64_t length, bool write);

/* Free the pages of shared memory that has no descriptor. Fault: "madvise.remove". */
int gr__os_remove(void *addr, uint64_t length);

/* Show @name in /proc/self/maps for anonymous memory, where the kernel can (5.17, an option). */
void gr__os_name(void *addr, uint64_t length, const char *name);

#endif
