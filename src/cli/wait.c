/* SPDX-License-Identifier: MIT */
/* See wait.h. */
#include "wait.h"
#include <errno.h>
#include <poll.h>
#include <time.h>

int64_t cli_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int cli_wait_for(int fd, short events, int64_t deadline)
{
	struct pollfd poll_fd = {.fd = fd, .events = events};
	int64_t left;
	int rc;

	do {
		left = deadline - cli_now_ms();
		rc = left <= 0 ? 0 : poll(&poll_fd, 1, (int)left);
	} while (rc < 0 && errno == EINTR);
	return rc > 0 ? 0 : rc < 0 ? -errno : -ETIMEDOUT;
}
