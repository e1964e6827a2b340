/* SPDX-License-Identifier: MIT */
/* See file.h. */
#include "os/file.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* What a system call returned, or -errno. */
static int result(int rc)
{
	return rc < 0 ? -errno : rc;
}

int gr__file_open(const char *path, int flags, unsigned mode)
{
	int error = GR_FAULT("open");
	int fd;

	if (error)
		return -error;
	do
		fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, mode);
	while (fd < 0 && errno == EINTR);
	return result(fd);
}

/* For file systems without O_TMPFILE: the name exists for a moment. */
static int open_and_unlink(const char *directory)
{
	static const char suffix[] = "/guestram-XXXXXX";
	size_t size = strlen(directory) + sizeof(suffix);
	int error = GR_FAULT("mkostemp");
	char *path;
	int fd;

	if (error)
		return -error;
	path = gr__alloc_raw(size);
	if (!path)
		return -ENOMEM;
	snprintf(path, size, "%s%s", directory, suffix);
	fd = result(mkostemp(path, O_CLOEXEC));
	if (fd >= 0)
		unlink(path);
	gr__free(path);
	return fd;
}

int gr__file_open_unnamed(const char *directory)
{
	int error = GR_FAULT("open.tmpfile");
	int fd;

	do
		fd = error ? -error
			   : result(open(directory, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
	while (fd == -EINTR);
	/* EISDIR: a kernel that does not know the flag */
	if (fd == -EOPNOTSUPP || fd == -EISDIR)
		return open_and_unlink(directory);
	return fd;
}

int gr__file_memfd(const char *name, unsigned flags)
{
	char shown[250]; /* the kernel's limit, with the terminator */
	int error = GR_FAULT("memfd_create");

	if (error)
		return -error;
	snprintf(shown, sizeof(shown), "%s", name);
	return result(memfd_create(shown, flags | MFD_CLOEXEC));
}

int gr__file_dup(int fd)
{
	int error = GR_FAULT("dup");

	return error ? -error : result(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

int gr__file_get_info(int fd, struct gr__file_info *info)
{
	struct statfs system;
	struct stat file;
	int error, mode;

	error = GR_FAULT("fstat");
	if (error || fstat(fd, &file) < 0)
		return error ? -error : -errno;
	error = GR_FAULT("fstatfs");
	if (error || fstatfs(fd, &system) < 0)
		return error ? -error : -errno;
	error = GR_FAULT("fcntl");
	if (error)
		return -error;
	mode = fcntl(fd, F_GETFL);
	if (mode < 0)
		return -errno;
	*info = (struct gr__file_info){
		.size = file.st_size,
		.huge_page_size = system.f_type == HUGETLBFS_MAGIC ? system.f_bsize : 0,
		.regular = S_ISREG(file.st_mode),
		.directory = S_ISDIR(file.st_mode),
		.readable = (mode & O_ACCMODE) != O_WRONLY && !(mode & O_PATH),
		.writable = (mode & O_ACCMODE) != O_RDONLY,
	};
	return 0;
}

int gr__file_set_size(int fd, uint64_t size)
{
	int error = GR_FAULT("ftruncate");
	int rc;

	if (error)
		return -error;
	do
		rc = ftruncate(fd, size);
	while (rc < 0 && errno == EINTR);
	return result(rc);
}

static int change_pages(int fd, int mode, uint64_t offset, uint64_t length)
{
	int rc;

	do
		rc = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset, length);
	while (rc < 0 && errno == EINTR);
	return result(rc);
}

int gr__file_allocate(int fd, uint64_t offset, uint64_t length)
{
	int error = GR_FAULT("fallocate");

	return error ? -error : change_pages(fd, 0, offset, length);
}

int gr__file_punch(int fd, uint64_t offset, uint64_t length)
{
	int error = GR_FAULT("fallocate.punch");

	return error ? -error : change_pages(fd, FALLOC_FL_PUNCH_HOLE, offset, length);
}

int gr__file_seal(int fd, int seals)
{
	int error = GR_FAULT("seal");

	return error ? -error : result(fcntl(fd, F_ADD_SEALS, seals));
}

void gr__file_unlink(const char *path, int fd)
{
	struct stat named, ours;

	if (!fstat(fd, &ours) && !lstat(path, &named) && named.st_dev == ours.st_dev &&
	    named.st_ino == ours.st_ino)
		unlink(path);
}

bool gr__file_huge_pages_known(uint64_t page_size)
{
	char path[80];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB",
		 (unsigned long long)page_size / 1024);
	return access(path, F_OK) == 0;
}
