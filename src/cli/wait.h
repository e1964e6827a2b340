/* SPDX-License-Identifier: MIT */
/* Time that only goes on, and descriptors that are waited for until then. */
#ifndef CLI_WAIT_H
#define CLI_WAIT_H

#include <stdint.h>

/* ms of CLOCK_MONOTONIC */
int64_t cli_now_ms(void);

/* Until @fd is ready for @events of poll(2): 0, -ETIMEDOUT at @deadline, or another -errno. */
int cli_wait_for(int fd, short events, int64_t deadline);

#endif
