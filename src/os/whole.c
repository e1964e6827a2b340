/* SPDX-License-Identifier: MIT */
/* See whole.h. */
#include "os/whole.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/file.h"
#include "os/hooks.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TRIES 100

int gr__whole_open(struct gr__whole *file, const char *path)
{
	size_t size = strlen(path) + 32;
	int tries, rc = -ENOMEM;

	*file = (struct gr__whole){.fd = -1};
	file->path = gr__strdup(path);
	file->temporary = gr__alloc_raw(size);
	if (!file->path || !file->temporary)
		goto free_names;
	for (tries = 0; tries < TRIES; tries++) {
		snprintf(file->temporary, size, "%s.%d-%d.tmp", path, (int)getpid(), tries);
		rc = gr__file_open(file->temporary, O_RDWR | O_CREAT | O_EXCL, 0600);
		if (rc != -EEXIST)
			break;
	}
	if (rc < 0)
		goto free_names;
	file->fd = rc;
	return 0;

free_names:
	gr__free(file->path);
	gr__free(file->temporary);
	*file = (struct gr__whole){.fd = -1};
	return rc;
}

int gr__whole_write(const struct gr__whole *file, const void *buf, uint64_t length, uint64_t offset)
{
	int error = GR_FAULT("file.put");
	ssize_t bytes;

	if (error)
		return -error;
	while (length) {
		bytes = pwrite(file->fd, buf, length, (off_t)offset);
		if (bytes < 0 && errno == EINTR)
			continue;
		if (bytes <= 0)
			return bytes ? -errno : -EIO;
		buf = (const char *)buf + bytes;
		length -= (uint64_t)bytes;
		offset += (uint64_t)bytes;
	}
	return 0;
}

static int sync_file(int fd)
{
	int error = GR_FAULT("file.sync");

	return error ? -error : fsync(fd) < 0 ? -errno : 0;
}

static int rename_file(const char *from, const char *to)
{
	int error = GR_FAULT("rename");

	return error ? -error : rename(from, to) < 0 ? -errno : 0;
}

/* The name itself may reach the disk later: after a crash it is the old file's or the new one's. */
static void sync_folder(const char *path)
{
	char *folder = gr__strdup(path), *slash;
	int fd;

	if (!folder)
		return;
	slash = strrchr(folder, '/');
	if (slash)
		slash[slash == folder] = 0;
	fd = gr__file_open(slash ? folder : ".", O_RDONLY | O_DIRECTORY, 0);
	if (fd >= 0)
		sync_file(fd);
	gr__fd_close(fd);
	gr__free(folder);
}

int gr__whole_commit(struct gr__whole *file)
{
	int rc = sync_file(file->fd);

	if (!rc)
		rc = rename_file(file->temporary, file->path);
	if (!rc) {
		sync_folder(file->path);
		gr__free(file->temporary);
		file->temporary = NULL;
	}
	gr__whole_abandon(file);
	return rc;
}

void gr__whole_abandon(struct gr__whole *file)
{
	if (file->temporary)
		gr__file_unlink(file->temporary, file->fd);
	gr__fd_close(file->fd);
	gr__free(file->path);
	gr__free(file->temporary);
	*file = (struct gr__whole){.fd = -1};
}
