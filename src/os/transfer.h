/* SPDX-License-Identifier: MIT */
/*
 * Bytes of a file at an offset, all of them or an error, and where a file has any. No state;
 * interruptions are gone on from.
 */
#ifndef GR__TRANSFER_H
#define GR__TRANSFER_H

#include <stddef.h>
#include <stdint.h>

/* How many bytes, less than @length only at the file's end; or -errno. Fault: "file.read". */
int64_t gr__file_read(int fd, void *buf, uint64_t length, uint64_t offset);

/*
 * The same without waiting for a disk: -EAGAIN when some of it is not in the page cache, or that
 * cannot be known. Fault: "file.read_now".
 */
int64_t gr__file_read_now(int fd, void *buf, uint64_t length, uint64_t offset);

/* 0 or -errno. Fault: "file.write". */
int gr__file_write(int fd, const void *buf, uint64_t length, uint64_t offset);

/*
 * The next piece at or past @offset that is no hole, as [*first, *end). 0, -ENXIO: none; a file
 * system that knows no holes has one piece. Fault: "file.data".
 */
int gr__file_next_data(int fd, uint64_t offset, uint64_t *first, uint64_t *end);

/* All that was written is on the disk: 0 or -errno. Fault: "file.sync". */
int gr__file_sync(int fd);

/* Give @from the name @to, whatever had it. 0 or -errno. Fault: "rename". */
int gr__file_rename(const char *from, const char *to);

#endif
