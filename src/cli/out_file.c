/* SPDX-License-Identifier: MIT */
#include "out_file.h"
#include "cli.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void forget(struct out_file *file)
{
	if (file->own && file->fd >= 0)
		close(file->fd);
	free(file->path);
	free(file->temporary);
	*file = (struct out_file){.fd = -1};
}

/* A name that nobody has, beside @path. */
static int create_beside(struct out_file *file, mode_t mode)
{
	size_t size = strlen(file->path) + 32;
	int tries, error;

	file->temporary = malloc(size);
	if (!file->temporary)
		return -ENOMEM;
	for (tries = 0; tries < 100; tries++) {
		snprintf(file->temporary, size, "%s.%d-%d.tmp", file->path, (int)getpid(), tries);
		file->fd = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
		if (file->fd >= 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	error = errno;
	free(file->temporary);
	file->temporary = NULL;
	return -error;
}

int out_file_open(struct out_file *file, const char *path, mode_t mode)
{
	char real[PATH_MAX];
	struct stat st;
	int rc = 0;

	*file = (struct out_file){.fd = -1, .own = true};
	if (!strcmp(path, "-")) {
		file->fd = STDOUT_FILENO;
		file->own = false;
		return CLI_OK;
	}
	/* a link stays one, and what it leads to is replaced */
	file->path = strdup(realpath(path, real) ? real : path);
	if (!file->path)
		return cli_fail(ENOMEM, "%s", path);
	if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
		file->fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
		rc = file->fd < 0 ? -errno : 0;
	} else {
		rc = create_beside(file, mode);
	}
	if (rc < 0) {
		forget(file);
		return cli_fail(rc, "%s", path);
	}
	return CLI_OK;
}

int out_file_commit(struct out_file *file)
{
	int rc = CLI_OK;

	if (file->temporary && fsync(file->fd) < 0 && errno != EINVAL && errno != EROFS)
		rc = cli_fail(errno, "%s", file->path);
	if (file->own && close(file->fd) < 0 && errno != EINTR && !rc)
		rc = cli_fail(errno, "%s", file->path);
	file->own = false;
	if (!rc && file->temporary && rename(file->temporary, file->path) < 0)
		rc = cli_fail(errno, "%s", file->path);
	if (rc && file->temporary)
		unlink(file->temporary);
	forget(file);
	return rc;
}

void out_file_abandon(struct out_file *file)
{
	if (file->temporary)
		unlink(file->temporary);
	forget(file);
}

int out_file_write(const char *path, void (*write)(const void *context, FILE *out),
		   const void *context)
{
	struct out_file file;
	FILE *stream;
	int rc = out_file_open(&file, path, 0666), fd;

	if (rc)
		return rc;
	fd = dup(file.fd);
	stream = fd < 0 ? NULL : fdopen(fd, "w");
	if (!stream) {
		rc = cli_fail(errno, "%s", path);
		if (fd >= 0)
			close(fd);
		goto abandon;
	}
	write(context, stream);
	if (ferror(stream) | fclose(stream)) {
		rc = cli_fail(errno ? errno : EIO, "%s", path);
		goto abandon;
	}
	return out_file_commit(&file);

abandon:
	out_file_abandon(&file);
	return rc;
}
