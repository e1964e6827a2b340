/* SPDX-License-Identifier: MIT */
/*
 * How a test tells preload.c, inside another process, which calls fail there. A page of a file that
 * both have mapped; its path is in the environment as GUESTRAM_FAULTS.
 *
 * Threads: atomic, all of it. What belongs together is set while `calls` is 0.
 */
#ifndef FAULT_CONTROL_H
#define FAULT_CONTROL_H

#include <stdint.h>

/* Calls of the program and the library, by the names that they are linked by. */
#define FAULT_CALLS(X)                                                                             \
	X(accept4)                                                                                 \
	X(bind)                                                                                    \
	X(calloc)                                                                                  \
	X(epoll_create1)                                                                           \
	X(epoll_ctl)                                                                               \
	X(epoll_wait)                                                                              \
	X(eventfd)                                                                                 \
	X(fallocate64)                                                                             \
	X(fcntl64)                                                                                 \
	X(fdatasync)                                                                               \
	X(fstat64)                                                                                 \
	X(io_uring_peek_batch_cqe)                                                                 \
	X(io_uring_queue_init)                                                                     \
	X(io_uring_register_files)                                                                 \
	X(io_uring_submit)                                                                         \
	X(listen)                                                                                  \
	X(lseek64)                                                                                 \
	X(mmap64)                                                                                  \
	X(open64)                                                                                  \
	X(poll)                                                                                    \
	X(preadv64)                                                                                \
	X(pthread_create)                                                                          \
	X(pwrite64)                                                                                \
	X(pwritev64v2)                                                                             \
	X(read)                                                                                    \
	X(recvmsg)                                                                                 \
	X(send)                                                                                    \
	X(sendmsg)                                                                                 \
	X(signalfd)                                                                                \
	X(sigaction)                                                                               \
	X(socket)                                                                                  \
	X(write)

enum fault_call {
#define X(name) FAULT_##name,
	FAULT_CALLS(X)
#undef X
		FAULT_COUNT
};

#define FAULT_BIT(name) (UINT64_C(1) << FAULT_##name)
#define FAULT_ALL ((UINT64_C(1) << FAULT_COUNT) - 1)

/* Instead of an errno: the call moves fewer bytes than it was asked for. */
#define FAULT_SHORT (-1)

/*
 * One of: the call at @position, counted over all of @calls; each @every-th of them; or by chance,
 * one in @soft with EINTR, EAGAIN or short, as the call may answer, and of those on the disk one in
 * @hard with EIO or ENOSPC.
 */
struct fault_control {
	uint64_t calls;	  /* bits of those that may fail; 0: none */
	uint64_t refused; /* bits of those that always fail, with EOPNOTSUPP */
	int32_t error;	  /* errno or FAULT_SHORT */
	uint32_t every;
	int64_t position; /* counted down */
	uint32_t soft, hard;
	uint64_t seed;
	uint64_t seen[FAULT_COUNT];   /* made while their bit was set */
	uint64_t failed[FAULT_COUNT]; /* of them */
	uint64_t hard_failed;
	uint32_t trim; /* 1: give free heap back to the kernel at the next call, and make it 0 */
};

#endif
