/* SPDX-License-Identifier: MIT */
/*
 * What the system may do with a file system of ours that is mounted. For the program alone.
 *
 * Threads: no state.
 */
#ifndef GR__MOUNTED_H
#define GR__MOUNTED_H

/*
 * Let it have as many dirty pages as any disk. A file system of a user's process gets one hundredth
 * of that, and who writes to a mapping of it is slowed down from there on. 0, or -errno: it takes
 * root, and a kernel with strict_limit (6.2). Does not ask the file system.
 */
int gr__mounted_allow_dirty(const char *directory);

/* Take it away, though it is in use. 0 or -errno. */
int gr__mounted_detach(const char *directory);

#endif
