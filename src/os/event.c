/* SPDX-License-Identifier: MIT */
/* See event.h. */
#include "os/event.h"
#include "os/hooks.h"
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int gr__event_open(void)
{
	int error = GR_FAULT("eventfd");
	int fd;

	if (error)
		return -error;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

void gr__event_set(int fd)
{
	uint64_t one = 1;

	/* EAGAIN: the count is at its maximum, so it is readable already. */
	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void gr__event_clear(int fd)
{
	uint64_t count;

	/* EAGAIN: it was not set. One read takes the whole count. */
	while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
}

void gr__event_wait(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	while (poll(&poll_fd, 1, -1) < 0 && errno == EINTR)
		;
}

void gr__fd_close(int fd)
{
	/* Not repeated on EINTR: Linux has released the descriptor by then. */
	if (fd >= 0)
		close(fd);
}
