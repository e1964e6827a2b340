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

void gr__uffd_let_go(int fd, void *addr, uint64_t length)
{
	struct uffdio_range arg = {(uintptr_t)addr, length};

	ioctl(fd, UFFDIO_WAKE, &arg);
}

int gr__uffd_adopt(int fd)
{
	int error = GR_FAULT("uffd.adopt"), flags;

	if (error)
		return -error;
	flags = fcntl(fd, F_GETFL);
	/* poll(2) is of no use on one that blocks */
	if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
		return -errno;
	return 0;
}

int gr__uffd_wake(int fd, uint64_t addr, uint64_t length)
{
	struct uffdio_range arg = {addr, length};

	return call(fd, UFFDIO_WAKE, &arg, "uffdio.wake");
}

int gr__uffd_try_copy(int fd, uint64_t to, const void *from, uint64_t length, uint64_t *done)
{
	struct uffdio_copy arg = {.dst = to, .src = (uintptr_t)from, .len = length};
	int rc = call(fd, UFFDIO_COPY, &arg, "uffdio.copy");

	/* a part is EAGAIN, also when what stopped it was another error */
	*done = !rc ? length : arg.copy > 0 ? (uint64_t)arg.copy : 0;
	return rc;
}

int gr__uffd_try_zero(int fd, uint64_t to, uint64_t length, uint64_t *done)
{
	struct uffdio_zeropage arg = {.range = {to, length}};
	int rc = call(fd, UFFDIO_ZEROPAGE, &arg, "uffdio.zeropage");

	*done = !rc ? length : arg.zeropage > 0 ? (uint64_t)arg.zeropage : 0;
	return rc;
}

int gr__uffd_try_map(int fd, uint64_t to, uint64_t length, uint64_t *done)
{
	struct uffdio_continue arg = {.range = {to, length}};
	int rc = call(fd, UFFDIO_CONTINUE, &arg, "uffdio.continue");

	*done = !rc ? length : arg.mapped > 0 ? (uint64_t)arg.mapped : 0;
	return rc;
}

/* Give [to, to + length) what @from has, or zeroes when it is NULL. */
static int fill(int fd, char *to, const char *from, uint64_t length, uint64_t page_size)
{
	uint64_t done = 0, some;
	int rc = 0;

	while (done < length) {
		uint64_t at = (uintptr_t)to + done;

		rc = from ? gr__uffd_try_copy(fd, at, from + done, length - done, &some)
			  : gr__uffd_try_zero(fd, at, length - done, &some);
		if (rc == -EEXIST) {
			gr__uffd_let_go(fd, to + done, page_size);
			some = page_size;
		} else if (rc < 0 && rc != -EAGAIN) { /* nothing, while the address space changes */
			return rc;
		}
		done += some;
	}
	return 0;
}

int gr__uffd_copy(int fd, void *to, const void *from, uint64_t length, uint64_t page_size)
{
	return fill(fd, to, from, length, page_size);
}

int gr__uffd_zero(int fd, void *addr, uint64_t length, uint64_t page_size)
{
	return fill(fd, addr, NULL, length, page_size);
}

static struct gr__uffd_event decode(const struct uffd_msg *message)
{
	struct gr__uffd_event event = {.kind = GR__UFFD_OTHER, .fd = -1};

	switch (message->event) {
	case UFFD_EVENT_PAGEFAULT:
		event.kind = GR__UFFD_FAULT;
		event.addr = message->arg.pagefault.address;
		event.minor = message->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR;
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		event.kind = GR__UFFD_REMOVE;
		event.addr = message->arg.remove.start;
		event.length = message->arg.remove.end - message->arg.remove.start;
		break;
	case UFFD_EVENT_REMAP:
		event.kind = GR__UFFD_MOVE;
		event.addr = message->arg.remap.from;
		event.length = message->arg.remap.len;
		break;
	case UFFD_EVENT_FORK:
		event.kind = GR__UFFD_FORK;
		event.fd = (int)message->arg.fork.ufd;
		break;
	default:
		break;
	}
	return event;
}

int gr__uffd_read(int fd, struct gr__uffd_event *events, int max)
{
	struct uffd_msg messages[GR__UFFD_EVENTS];
	int error = GR_FAULT("uffd.read"), i;
	ssize_t got;

	if (error)
		return -error;
	if (max > GR__UFFD_EVENTS)
		max = GR__UFFD_EVENTS;
	do
		got = read(fd, messages, (size_t)max * sizeof(messages[0]));
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return errno == EAGAIN ? 0 : -errno;
	for (i = 0; i < (int)((size_t)got / sizeof(messages[0])); i++)
		events[i] = decode(&messages[i]);
	return i;
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
	gr__uffd_let_go(fd, addr, length);
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
