/* SPDX-License-Identifier: MIT */
/* See transfer.h. */
#include "os/transfer.h"
#include "os/hooks.h"
#include <errno.h>
#include <stdio.h>
#include <sys/uio.h>
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

int64_t gr__file_read_now(int fd, void *buf, uint64_t length, uint64_t offset)
{
	int error = GR_FAULT("file.read_now");
	struct iovec iov = {buf, length};
	ssize_t got;

	if (error)
		return -error;
	got = preadv2(fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
	if (got < 0)
		return errno == EOPNOTSUPP || errno == EINTR || errno == ENOSYS ? -EAGAIN : -errno;
	return (uint64_t)got < length ? -EAGAIN : (int64_t)got;
}

int gr__file_write(int fd, const void *buf, uint64_t length, uint64_t offset)
{
	int error = GR_FAULT("file.write");
	uint64_t done = 0;
	ssize_t got;

	if (error)
		return -error;
	while (done < length) {
		got = pwrite(fd, (const char *)buf + done, length - done, (off_t)(offset + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		done += (uint64_t)got;
	}
	return 0;
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

int gr__file_sync(int fd)
{
	int error = GR_FAULT("file.sync");

	if (error)
		return -error;
	return fsync(fd) < 0 ? -errno : 0;
}

int gr__file_rename(const char *from, const char *to)
{
	int error = GR_FAULT("rename");

	if (error)
		return -error;
	return rename(from, to) < 0 ? -errno : 0;
}
