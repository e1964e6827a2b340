/* SPDX-License-Identifier: MIT */
/* See mounted.h. */
#include "os/mounted.h"
#include "os/event.h"
#include "os/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static int put(unsigned major, unsigned minor, const char *name, const char *value)
{
	char path[96];
	int fd, rc = 0;

	snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/%s", major, minor, name);
	fd = gr__file_open(path, O_WRONLY, 0);
	if (fd < 0)
		return fd;
	if (write(fd, value, strlen(value)) < 0)
		rc = -errno;
	gr__fd_close(fd);
	return rc;
}

int gr__mounted_allow_dirty(const char *directory)
{
	struct statx st;
	int rc;

	if (statx(AT_FDCWD, directory, AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
		return -errno;
	rc = put(st.stx_dev_major, st.stx_dev_minor, "max_ratio", "100");
	if (!rc)
		rc = put(st.stx_dev_major, st.stx_dev_minor, "strict_limit", "0");
	return rc;
}

int gr__mounted_detach(const char *directory)
{
	return umount2(directory, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 ? -errno : 0;
}
