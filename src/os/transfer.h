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
 * The next piece at or past @offset that is no hole, as [*first, *end). 0, -ENXIO: none; a file
 * system that knows no holes has one piece. Fault: "file.data".
 */
int gr__file_next_data(int fd, uint64_t offset, uint64_t *first, uint64_t *end);

#endif
