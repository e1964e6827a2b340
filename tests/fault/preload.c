/* SPDX-License-Identifier: MIT */
/*
 * Loaded into `guestram serve` by LD_PRELOAD: calls that the program and the library make into libc
 * and liburing fail as the test wants (control.h). Calls of other libraries pass.
 *
 * A completion of io_uring "fails" after the kernel has done it: the result that is read is
 * changed. To move fewer bytes is then to tell fewer; what was moved beyond is moved again.
 *
 * Threads: any of the program's.
 */
#include "control.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <link.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static struct fault_control none, *control = &none;
static struct {
	uintptr_t first, last;
} ours[2]; /* code of the program and of the library; const after the constructor */

/* The next definition of @name, which takes what ours takes. */
#define REAL(name)                                                                                 \
	({                                                                                         \
		static __typeof__(&name) real_;                                                    \
		__typeof__(&name) now_ = __atomic_load_n(&real_, __ATOMIC_RELAXED);                \
		if (!now_) {                                                                       \
			*(void **)&now_ = dlsym(RTLD_NEXT, #name);                                 \
			__atomic_store_n(&real_, now_, __ATOMIC_RELAXED);                          \
		}                                                                                  \
		now_;                                                                              \
	})

static int find_code(struct dl_phdr_info *info, size_t size, void *unused)
{
	bool program = !info->dlpi_name[0];
	unsigned i = program ? 0 : 1;

	(void)size, (void)unused;
	if (!program && !strstr(info->dlpi_name, "libguestram.so"))
		return 0;
	for (unsigned k = 0; k < info->dlpi_phnum; k++) {
		const ElfW(Phdr) *part = &info->dlpi_phdr[k];

		if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || ours[i].last)
			continue;
		ours[i].first = info->dlpi_addr + part->p_vaddr;
		ours[i].last = ours[i].first + part->p_memsz - 1;
	}
	return 0;
}

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("GUESTRAM_FAULTS");
	void *memory;
	int fd;

	if (!path)
		return;
	dl_iterate_phdr(find_code, NULL);
	fd = REAL(open64)(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	memory = REAL(mmap64)(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (memory != MAP_FAILED)
		__atomic_store_n(&control, memory, __ATOMIC_RELEASE);
}

static bool from_us(const void *caller)
{
	uintptr_t at = (uintptr_t)caller;

	return (at >= ours[0].first && at <= ours[0].last) ||
	       (at >= ours[1].first && at <= ours[1].last);
}

static uint64_t chance(struct fault_control *c)
{
	uint64_t z = __atomic_add_fetch(&c->seed, UINT64_C(0x9e3779b97f4a7c15), __ATOMIC_RELAXED);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static bool on_disk(enum fault_call call)
{
	return call == FAULT_preadv64 || call == FAULT_pwritev64v2 || call == FAULT_fdatasync ||
	       call == FAULT_fallocate64 || call == FAULT_io_uring_peek_batch_cqe;
}

/* Of those that may come at any time and must be got over; @shorter: it can move fewer bytes. */
static int soft_error(struct fault_control *c, enum fault_call call, bool shorter)
{
	static const int disk[] = {EINTR, EAGAIN, FAULT_SHORT};
	int error = on_disk(call) ? disk[chance(c) % 3] : chance(c) % 2 ? EINTR : FAULT_SHORT;

	return error == FAULT_SHORT && !shorter ? EINTR : error;
}

/* What @call is to fail with: 0, an errno, or FAULT_SHORT. */
static int decide(enum fault_call call, bool shorter)
{
	struct fault_control *c = __atomic_load_n(&control, __ATOMIC_ACQUIRE);
	uint32_t every, soft, hard;
	uint64_t nth;
	int error = 0;

	if (__atomic_load_n(&c->trim, __ATOMIC_RELAXED)) {
		malloc_trim(0);
		__atomic_store_n(&c->trim, 0, __ATOMIC_RELEASE);
	}
	if (!(__atomic_load_n(&c->calls, __ATOMIC_ACQUIRE) & UINT64_C(1) << call))
		return 0;
	if (__atomic_load_n(&c->refused, __ATOMIC_RELAXED) & UINT64_C(1) << call) {
		__atomic_add_fetch(&c->failed[call], 1, __ATOMIC_RELAXED);
		return EOPNOTSUPP;
	}
	nth = __atomic_add_fetch(&c->seen[call], 1, __ATOMIC_RELAXED);
	every = __atomic_load_n(&c->every, __ATOMIC_RELAXED);
	soft = __atomic_load_n(&c->soft, __ATOMIC_RELAXED);
	hard = __atomic_load_n(&c->hard, __ATOMIC_RELAXED);
	if (hard && on_disk(call) && !(chance(c) % hard)) {
		error = chance(c) % 2 ? EIO : ENOSPC;
		__atomic_add_fetch(&c->hard_failed, 1, __ATOMIC_RELAXED);
	} else if (soft && !(chance(c) % soft)) {
		error = soft_error(c, call, shorter);
	} else if (every ? !(nth % every)
			 : __atomic_load_n(&c->position, __ATOMIC_RELAXED) > 0 &&
				   !__atomic_sub_fetch(&c->position, 1, __ATOMIC_RELAXED)) {
		error = __atomic_load_n(&c->error, __ATOMIC_RELAXED);
	}
	if (error == FAULT_SHORT && !shorter)
		error = 0;
	if (error)
		__atomic_add_fetch(&c->failed[call], 1, __ATOMIC_RELAXED);
	return error;
}

#define DECIDE(name, shorter)                                                                      \
	(from_us(__builtin_return_address(0)) ? decide(FAULT_##name, shorter) : 0)

/* A call that fails by -1 and errno, and moves no bytes. */
#define PLAIN(type, name, parameters, arguments)                                                   \
	EXPORT type name parameters                                                                \
	{                                                                                          \
		int error = DECIDE(name, false);                                                   \
                                                                                                   \
		if (error) {                                                                       \
			errno = error;                                                             \
			return (type)-1;                                                           \
		}                                                                                  \
		return REAL(name) arguments;                                                       \
	}

/* One that gives its error as a negative number. */
#define NEGATIVE(name, parameters, arguments)                                                      \
	EXPORT int name parameters                                                                 \
	{                                                                                          \
		int error = DECIDE(name, false);                                                   \
                                                                                                   \
		return error ? -error : REAL(name) arguments;                                      \
	}

/* One that moves bytes: @one are its arguments when it is to move one. */
#define MOVING(name, parameters, arguments, size, one)                                             \
	EXPORT ssize_t name parameters                                                             \
	{                                                                                          \
		int error = DECIDE(name, (size) > 1);                                              \
                                                                                                   \
		if (error > 0) {                                                                   \
			errno = error;                                                             \
			return -1;                                                                 \
		}                                                                                  \
		return error == FAULT_SHORT ? REAL(name) one : REAL(name) arguments;               \
	}

PLAIN(int, accept4, (int fd, struct sockaddr *addr, socklen_t *size, int flags),
      (fd, addr, size, flags))
PLAIN(int, bind, (int fd, const struct sockaddr *addr, socklen_t size), (fd, addr, size))
PLAIN(int, epoll_create1, (int flags), (flags))
PLAIN(int, epoll_wait, (int set, struct epoll_event *events, int max, int timeout),
      (set, events, max, timeout))
PLAIN(int, eventfd, (unsigned count, int flags), (count, flags))
PLAIN(int, fallocate64, (int fd, int mode, off64_t offset, off64_t length),
      (fd, mode, offset, length))
PLAIN(int, fdatasync, (int fd), (fd))
PLAIN(int, fstat64, (int fd, struct stat64 *st), (fd, st))
PLAIN(int, listen, (int fd, int backlog), (fd, backlog))
PLAIN(off64_t, lseek64, (int fd, off64_t offset, int whence), (fd, offset, whence))
PLAIN(int, poll, (struct pollfd * fds, nfds_t count, int timeout), (fds, count, timeout))
PLAIN(int, signalfd, (int fd, const sigset_t *mask, int flags), (fd, mask, flags))
PLAIN(int, sigaction, (int number, const struct sigaction *action, struct sigaction *old),
      (number, action, old))
PLAIN(int, socket, (int domain, int type, int protocol), (domain, type, protocol))

NEGATIVE(io_uring_queue_init, (unsigned entries, struct io_uring *ring, unsigned flags),
	 (entries, ring, flags))
NEGATIVE(io_uring_register_files, (struct io_uring * ring, const int *files, unsigned count),
	 (ring, files, count))
NEGATIVE(io_uring_submit, (struct io_uring * ring), (ring))

MOVING(read, (int fd, void *buf, size_t size), (fd, buf, size), 0, (fd, buf, size))
MOVING(write, (int fd, const void *buf, size_t size), (fd, buf, size), 0, (fd, buf, size))
MOVING(pwrite64, (int fd, const void *buf, size_t size, off64_t offset), (fd, buf, size, offset),
       size, (fd, buf, 1, offset))
MOVING(send, (int fd, const void *buf, size_t size, int flags), (fd, buf, size, flags), size,
       (fd, buf, 1, flags))

/* Only what is put into a set needs memory. */
EXPORT int epoll_ctl(int set, int what, int fd, struct epoll_event *event)
{
	int error = what == EPOLL_CTL_ADD ? DECIDE(epoll_ctl, false) : 0;

	if (error) {
		errno = error;
		return -1;
	}
	return REAL(epoll_ctl)(set, what, fd, event);
}

EXPORT void *calloc(size_t count, size_t size)
{
	extern void *__libc_calloc(size_t count, size_t size); /* NOLINT: libc's own name for it */

	/* not by dlsym(), which allocates */
	return DECIDE(calloc, false) ? NULL : __libc_calloc(count, size);
}

EXPORT void *mmap64(void *addr, size_t length, int protection, int flags, int fd, off64_t offset)
{
	int error = DECIDE(mmap64, false);

	if (error) {
		errno = error;
		return MAP_FAILED;
	}
	return REAL(mmap64)(addr, length, protection, flags, fd, offset);
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
			  void *arg)
{
	int error = DECIDE(pthread_create, false);

	return error ? error : REAL(pthread_create)(thread, attr, run, arg);
}

/* The third argument is an int or a pointer, or not there: a register all the same. */
EXPORT int fcntl64(int fd, int what, ...)
{
	int error = DECIDE(fcntl64, false);
	va_list rest;
	void *arg;

	va_start(rest, what);
	arg = va_arg(rest, void *);
	va_end(rest);
	if (error) {
		errno = error;
		return -1;
	}
	return REAL(fcntl64)(fd, what, arg);
}

EXPORT int open64(const char *path, int flags, ...)
{
	int error = DECIDE(open64, false);
	va_list rest;
	unsigned mode = 0;

	if (flags & (O_CREAT | __O_TMPFILE)) {
		va_start(rest, flags);
		mode = va_arg(rest, unsigned);
		va_end(rest);
	}
	if (error) {
		errno = error;
		return -1;
	}
	return REAL(open64)(path, flags, mode);
}

/* ------------------------------------------------------------------------- vectors of bytes */

static size_t bytes_of(const struct iovec *iov, int count)
{
	size_t sum = 0;

	for (int i = 0; i < count; i++)
		sum += iov[i].iov_len;
	return sum;
}

/* Its first byte; where the first piece has more, half of that. */
static struct iovec first_part(const struct iovec *iov, int count)
{
	int i = 0;

	while (i + 1 < count && !iov[i].iov_len)
		i++;
	return (struct iovec){iov[i].iov_base, iov[i].iov_len > 1 ? iov[i].iov_len / 2 : 1};
}

EXPORT ssize_t preadv64(int fd, const struct iovec *iov, int count, off64_t offset)
{
	int error = DECIDE(preadv64, bytes_of(iov, count) > 1);
	struct iovec part;

	if (error > 0) {
		errno = error;
		return -1;
	}
	if (!error)
		return REAL(preadv64)(fd, iov, count, offset);
	part = first_part(iov, count);
	return REAL(preadv64)(fd, &part, 1, offset);
}

EXPORT ssize_t pwritev64v2(int fd, const struct iovec *iov, int count, off64_t offset, int flags)
{
	int error = DECIDE(pwritev64v2, bytes_of(iov, count) > 1);
	struct iovec part;

	if (error > 0) {
		errno = error;
		return -1;
	}
	if (!error)
		return REAL(pwritev64v2)(fd, iov, count, offset, flags);
	part = first_part(iov, count);
	return REAL(pwritev64v2)(fd, &part, 1, offset, flags);
}

/* One byte, and the descriptors that come with it. */
EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	int error = DECIDE(recvmsg, bytes_of(message->msg_iov, (int)message->msg_iovlen) > 1);
	size_t whole;
	ssize_t rc;

	if (error > 0) {
		errno = error;
		return -1;
	}
	if (!error || message->msg_iovlen != 1)
		return REAL(recvmsg)(fd, message, flags);
	whole = message->msg_iov->iov_len;
	message->msg_iov->iov_len = 1;
	rc = REAL(recvmsg)(fd, message, flags);
	message->msg_iov->iov_len = whole;
	return rc;
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	int error = DECIDE(sendmsg, false);

	if (error > 0) {
		errno = error;
		return -1;
	}
	return REAL(sendmsg)(fd, message, flags);
}

/* ----------------------------------------------------------------------------- completions */

EXPORT unsigned io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes,
					unsigned count)
{
	bool from = from_us(__builtin_return_address(0));
	unsigned n = REAL(io_uring_peek_batch_cqe)(ring, cqes, count);

	for (unsigned i = 0; from && i < n; i++) {
		int error = cqes[i]->res < 0
				    ? 0
				    : decide(FAULT_io_uring_peek_batch_cqe, cqes[i]->res > 1);

		if (error == FAULT_SHORT)
			cqes[i]->res /= 2;
		else if (error)
			cqes[i]->res = -error;
	}
	return n;
}
