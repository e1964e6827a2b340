/* SPDX-License-Identifier: MIT */
/* See transfer.h. */
#include "os/transfer.h"
#include "os/hooks.h"
#include <errno.h>
#include <unistd.h>

int64_t gr__file_read(int fd, void *buf, uint64_t length, uint64_t offset)
{
	int error = GR_FAULT("file.read");
	uint64_t done = 0;
	ssize_t got;

	if (error)
		return -error;
	while (done < length) {
		got = pread(fd, (char *)buf + done, length - done, (off_t)(offset + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		done += (uint64_t)got;
	}
	return (int64_t)done;
}

int gr__file_next_data(int fd, uint64_t offset, uint64_t *first, uint64_t *end)
{
	int error = GR_FAULT("file.data");
	off_t data, hole;

	if (error)
		return -error;
	data = lseek(fd, (off_t)offset, SEEK_DATA);
	if (data < 0)
		return -errno;
	hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0)
		return -errno;
	*first = (uint64_t)data;
	*end = (uint64_t)hole;
	return 0;
}
