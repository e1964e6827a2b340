/* SPDX-License-Identifier: MIT */
/*
 * What the program prints: progress, aligned tables, JSON. Main thread only.
 */
#ifndef OUT_H
#define OUT_H

#include <jansson.h>
#include <stdbool.h>

/* One line on stderr that the next one overwrites; nothing when stderr is not a terminal. */
__attribute__((format(printf, 1, 2))) void out_progress(const char *format, ...);
/* Wipe that line. */
void out_progress_end(void);

/*
 * Rows (a JSON array of flat objects) as aligned tables: neighbours with the same keys share one;
 * null is printed as "-". @indent columns stand before each line.
 */
void out_table(const json_t *rows, int indent);

/* One JSON object and a newline on stdout. 0 or -errno; takes no reference. */
int out_json(const json_t *object);

/* stdout was written whole? 0 or -errno; what a verb that printed figures asks last. */
int out_flush(void);

#endif
