/* SPDX-License-Identifier: MIT */
/* See uffd.h. No state of ours. */
#include "os/uffd.h"
#include "os/hooks.h"
#include "os/uffd_abi.h"
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int call(int fd, unsigned long request, void *arg, const char *fault)
{
	int error = GR_FAULT(fault);

	if (error)
		return -error;
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

static int open_one(bool async)
{
	int error = GR_FAULT("userfaultfd"), fd;

	if (error)
		return -error;
	/* All writes, also those of system calls; without that right, only those of user mode,
	 * which is no less for an async one: the kernel answers itself. */
	fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == EPERM && async)
		fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd < 0)
		return errno == ENOSYS ? -ENOTSUP : -errno;
	return fd;
}

int gr__uffd_open(bool async)
{
	const uint64_t some = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	const uint64_t shared = UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	const uint64_t all = UFFD_FEATURE_WP_UNPOPULATED | (async ? UFFD_FEATURE_WP_ASYNC : 0);
	const uint64_t tries[] = {some | shared | all, some | shared, some};
	unsigned count = async ? 1 : sizeof(tries) / sizeof(tries[0]), i;
	int fd, rc;

	for (i = 0; i < count; i++) {
		struct uffdio_api api = {.api = UFFD_API, .features = tries[i]};

		fd = open_one(async);
		if (fd < 0)
			return fd;
		rc = call(fd, UFFDIO_API, &api, "uffdio.api");
		if (!rc)
			return fd;
		close(fd); /* a descriptor whose API was refused takes no second one */
		if (rc != -EINVAL)
			return rc;
	}
	return -ENOTSUP;
}

int gr__uffd_register(int fd, void *addr, uint64_t length)
{
	struct uffdio_register arg = {.range = {(uintptr_t)addr, length},
				      .mode = UFFDIO_REGISTER_MODE_WP};

	return call(fd, UFFDIO_REGISTER, &arg, "uffdio.register");
}

void gr__uffd_unregister(int fd, void *addr, uint64_t length)
{
	struct uffdio_range arg = {(uintptr_t)addr, length};

	ioctl(fd, UFFDIO_UNREGISTER, &arg);
}

int gr__uffd_protect(int fd, void *addr, uint64_t length, bool on)
{
	struct uffdio_writeprotect arg = {.range = {(uintptr_t)addr, length},
					  .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
	int rc;

	do
		rc = call(fd, UFFDIO_WRITEPROTECT, &arg, "uffdio.writeprotect");
	while (rc == -EAGAIN); /* the address space is being changed by another thread */
	return rc;
}

bool gr__uffd_next(int fd, uintptr_t *addr)
{
	struct uffd_msg message;
	ssize_t got;

	do {
		got = read(fd, &message, sizeof(message));
		if (got == sizeof(message) && message.event == UFFD_EVENT_PAGEFAULT) {
			*addr = message.arg.pagefault.address;
			return true;
		}
	} while (got == sizeof(message) || (got < 0 && errno == EINTR));
	return false;
}

/* ------------------------------------------------------------------------------------ missing */

int gr__uffd_open_missing(void)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_MISSING_HUGETLBFS |
					     UFFD_FEATURE_MISSING_SHMEM};
	int fd = open_one(false), rc;

	if (fd < 0)
		return fd;
	rc = call(fd, UFFDIO_API, &api, "uffdio.api");
	if (!rc)
		return fd;
	close(fd);
	return rc == -EINVAL ? -ENOTSUP : rc;
}

int gr__uffd_register_missing(int fd, void *addr, uint64_t length)
{
	struct uffdio_register arg = {.range = {(uintptr_t)addr, length},
				      .mode = UFFDIO_REGISTER_MODE_MISSING};

	return call(fd, UFFDIO_REGISTER, &arg, "uffdio.register");
}

void gr__uffd_wake(int fd, void *addr, uint64_t length)
{
	struct uffdio_range arg = {(uintptr_t)addr, length};

	ioctl(fd, UFFDIO_WAKE, &arg);
}

int gr__uffd_copy(int fd, void *to, const void *from, uint64_t length, uint64_t page_size)
{
	uint64_t done = 0;

	while (done < length) {
		struct uffdio_copy arg = {.dst = (uintptr_t)to + done,
					  .src = (uintptr_t)from + done,
					  .len = length - done};
		int rc = call(fd, UFFDIO_COPY, &arg, "uffdio.copy");

		if (!rc) {
			return 0;
		} else if (rc == -EAGAIN) {
			/* a part, or nothing while the address space changes */
			done += arg.copy > 0 ? (uint64_t)arg.copy : 0;
		} else if (rc == -EEXIST) {
			gr__uffd_wake(fd, (char *)to + done, page_size);
			done += page_size;
		} else {
			return rc;
		}
	}
	return 0;
}

int gr__uffd_zero(int fd, void *addr, uint64_t length, uint64_t page_size)
{
	uint64_t done = 0;

	while (done < length) {
		struct uffdio_zeropage arg = {.range = {(uintptr_t)addr + done, length - done}};
		int rc = call(fd, UFFDIO_ZEROPAGE, &arg, "uffdio.zeropage");

		if (!rc) {
			return 0;
		} else if (rc == -EAGAIN) {
			done += arg.zeropage > 0 ? (uint64_t)arg.zeropage : 0;
		} else if (rc == -EEXIST) {
			gr__uffd_wake(fd, (char *)addr + done, page_size);
			done += page_size;
		} else {
			return rc;
		}
	}
	return 0;
}

void gr__uffd_give_up(int fd, void *addr, uint64_t length)
{
	struct uffdio_poison arg = {.range = {(uintptr_t)addr, length}};
	int rc;

	do
		rc = ioctl(fd, UFFDIO_POISON, &arg) < 0 ? -errno : 0;
	while (rc == -EAGAIN);
	if (rc < 0)
		mprotect(addr, length, PROT_NONE);
	gr__uffd_wake(fd, addr, length);
}

int gr__pagemap_open(void)
{
	int error = GR_FAULT("open.pagemap"), fd;

	if (error)
		return -error;
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int gr__pagemap_take_written(int pagemap, void *room, void *addr, uint64_t length,
			     gr__written_fn fn, void *context)
{
	const struct page_region *regions = room;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (uintptr_t)addr,
		.end = (uintptr_t)addr + length,
		.vec = (uintptr_t)room,
		.vec_len = GR__PAGEMAP_ROOM / sizeof(*regions),
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_WRITTEN,
	};

	while (arg.start < arg.end) {
		int error = GR_FAULT("pagemap.scan");
		int count = error ? -1 : ioctl(pagemap, PAGEMAP_SCAN, &arg);

		if (count < 0) {
			error = error ? error : errno;
			if (error == EINTR)
				continue;
			return error == ENOTTY ? -ENOTSUP : -error;
		}
		for (int i = 0; i < count; i++)
			fn(context, regions[i].start, regions[i].end - regions[i].start);
		arg.start = arg.walk_end;
	}
	return 0;
}
