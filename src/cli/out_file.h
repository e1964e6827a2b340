/* SPDX-License-Identifier: MIT */
/*
 * A file that is there whole or not at all: written under another name in the same directory, and
 * renamed at the end. What is no regular file (a pipe, /dev/null) is written as it is; "-" is
 * standard output.
 */
#ifndef OUT_FILE_H
#define OUT_FILE_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

struct out_file {
	int fd;
	bool own; /* the descriptor is ours to close */
	char *path, *temporary;
};

/* @mode as for open(2). CLI_OK, or CLI_FAILED with the reason told. */
int out_file_open(struct out_file *file, const char *path, mode_t mode);
/* Make it the file of that name; or tell why not. It is closed either way. */
int out_file_commit(struct out_file *file);
/* Leave no trace of it. After a commit it does nothing. */
void out_file_abandon(struct out_file *file);

/* All of it at once: what @write prints. CLI_OK, or CLI_FAILED with the reason told. */
int out_file_write(const char *path, void (*write)(const void *context, FILE *out),
		   const void *context);

#endif
