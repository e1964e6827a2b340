/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd(2) for write protection, PAGEMAP_SCAN: which pages were written; and userfaultfd for
 * pages that are not there yet.
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
 * The next write or touch that waits: its address and true, or false when there is none (any more).
 * Not for one that is async.
 */
bool gr__uffd_next(int fd, uintptr_t *addr);

/*
 * One for pages that are missing: whoever touches one waits until it is copied or declared zero.
 * Anonymous, shared and huge memory. -ENOTSUP, -EPERM. Faults: "userfaultfd", "uffdio.api".
 */
int gr__uffd_open_missing(void);
/* Fault: "uffdio.register". */
int gr__uffd_register_missing(int fd, void *addr, uint64_t length);

/*
 * Give pages of @page_size their bytes, at once, and wake who waits; those that are there stay as
 * they are. gr__uffd_zero() likewise, with zeroes, but for huge pages, where it is -EINVAL. Faults:
 * "uffdio.copy", "uffdio.zeropage".
 */
int gr__uffd_copy(int fd, void *to, const void *from, uint64_t length, uint64_t page_size);
int gr__uffd_zero(int fd, void *addr, uint64_t length, uint64_t page_size);

/*
 * One call of the kernel's: so many bytes are *done then, whatever is returned. -EAGAIN: go on from
 * there; when nothing was done the address space is changing, and events may wait to be read.
 * -EEXIST: the page is there, and nobody was woken. -ENOENT: no such memory (any more). -EFAULT: it
 * is past the end of its file. -ESRCH: no such process. Faults: "uffdio.copy", "uffdio.zeropage".
 *
 * gr__uffd_try_map() maps what the file that is mapped there has: -EEXIST: a page is mapped
 * already, -EFAULT: the file has none, -EINVAL: it is no such memory (shared memory and huge pages
 * are). Fault: "uffdio.continue".
 */
int gr__uffd_try_copy(int fd, uint64_t to, const void *from, uint64_t length, uint64_t *done);
int gr__uffd_try_zero(int fd, uint64_t to, uint64_t length, uint64_t *done);
int gr__uffd_try_map(int fd, uint64_t to, uint64_t length, uint64_t *done);

/* Make one that somebody gave us fit for poll(2). Fault: "uffd.adopt". */
int gr__uffd_adopt(int fd);

/* Let those go on who wait for [addr, addr + length); they look again. Fault: "uffdio.wake". */
int gr__uffd_wake(int fd, uint64_t addr, uint64_t length);
/* The same of memory of ours, which is registered with it. */
void gr__uffd_let_go(int fd, void *addr, uint64_t length);

enum gr__uffd_kind {
	GR__UFFD_FAULT,
	GR__UFFD_REMOVE, /* discarded or unmapped */
	GR__UFFD_MOVE,	 /* mremap() */
	GR__UFFD_FORK,
	GR__UFFD_OTHER,
};

struct gr__uffd_event {
	enum gr__uffd_kind kind;
	bool minor;    /* FAULT: the shared file has the page */
	uint64_t addr; /* FAULT: of any byte of the page */
	uint64_t length;
	int fd; /* FORK: the child's userfaultfd, whoever reads the event owns it */
};

/* In one call. */
#define GR__UFFD_EVENTS 32

/* What has happened: how many, 0: nothing more, or -errno. Fault: "uffd.read". */
int gr__uffd_read(int fd, struct gr__uffd_event *events, int max);

/*
 * These pages will never come: from now on touching one raises SIGBUS, also in those who wait
 * (Linux 6.6), or SIGSEGV before that.
 */
void gr__uffd_give_up(int fd, void *addr, uint64_t length);

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
