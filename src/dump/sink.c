/* SPDX-License-Identifier: MIT */
/* See sink.h. */
#include "dump/sink.h"
#include "base/error.h"
#include "os/hooks.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char zeroes[65536];

static int set_length(int fd, uint64_t length)
{
	int error = GR_FAULT("ftruncate"), rc;

	if (error)
		return -error;
	do
		rc = ftruncate(fd, (off_t)length);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

int gr__sink_open(struct gr__sink *sink, int fd)
{
	int error = GR_FAULT("fstat"), mode, rc;
	struct stat st;

	*sink = (struct gr__sink){.fd = fd};
	if (error || fstat(fd, &st) < 0)
		return gr__fail(error ? -error : -errno, "dump: no file to write to");
	error = GR_FAULT("fcntl");
	mode = error ? -1 : fcntl(fd, F_GETFL);
	if (mode < 0)
		return gr__fail(error ? -error : -errno, "dump: no file to write to");
	if ((mode & O_ACCMODE) == O_RDONLY)
		return gr__fail(-EINVAL, "dump: the file is open for reading only");
	if (mode & O_APPEND)
		return gr__fail(-EINVAL, "dump: the file is open with O_APPEND");
	sink->sparse = S_ISREG(st.st_mode);
	if (!sink->sparse)
		return 0;
	rc = set_length(fd, 0);
	return rc < 0 ? gr__fail(rc, "dump: the file cannot be emptied") : 0;
}

static void wait_for_room(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};

	poll(&poll_fd, 1, -1);
}

int gr__sink_put(struct gr__sink *sink, const void *buf, uint64_t length)
{
	while (length) {
		int error = GR_FAULT("write");
		ssize_t bytes = -1;

		if (!error) {
			bytes = sink->sparse ? pwrite(sink->fd, buf, length, (off_t)sink->at)
					     : write(sink->fd, buf, length);
			error = bytes < 0 ? errno : 0;
		}
		if (error == EINTR)
			continue;
		if (error == EAGAIN) {
			wait_for_room(sink->fd);
			continue;
		}
		if (error || !bytes)
			return gr__fail(error ? -error : -EIO, "dump: writing at %#llx",
					(unsigned long long)sink->at);
		buf = (const char *)buf + bytes;
		length -= (uint64_t)bytes;
		sink->at += (uint64_t)bytes;
		sink->pushed += (uint64_t)bytes;
	}
	return 0;
}

int gr__sink_skip(struct gr__sink *sink, uint64_t length)
{
	int rc = 0;

	if (sink->sparse) {
		sink->at += length;
		return 0;
	}
	while (length && !rc) {
		uint64_t piece = length < sizeof(zeroes) ? length : sizeof(zeroes);

		rc = gr__sink_put(sink, zeroes, piece);
		length -= piece;
	}
	return rc;
}

int gr__sink_end(struct gr__sink *sink)
{
	int rc = sink->sparse ? set_length(sink->fd, sink->at) : 0;

	return rc < 0 ? gr__fail(rc, "dump: the file cannot have %llu bytes",
				 (unsigned long long)sink->at)
		      : 0;
}
