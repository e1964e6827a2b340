/* SPDX-License-Identifier: MIT */
/*
 * What the tests of the backings share: what the process holds before and after, what the kernel
 * says of a mapping, and a system call that fails when told.
 */
#ifndef BACKING_UTIL_H
#define BACKING_UTIL_H

#include "../common/huge_pages.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
/* after the above, which it needs */
#include <cmocka.h>

#include "backing/backing.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define GIB (KIB * MIB)

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/*
 * Sanitizers map memory whenever they like and make mlock() do nothing: maps and locks are compared
 * without them.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define HAS_SANITIZER 1
#endif
#endif

/* Map or fail the test with the library's sentence. */
#define map_ok(opts, mem) map_ok_at(opts, mem, __FILE__, __LINE__)
void map_ok_at(const struct gr_block_opts *opts, struct gr__mem *mem, const char *file, int line);

#define assert_ok(expression) assert_ok_at(expression, #expression, __FILE__, __LINE__)
void assert_ok_at(int rc, const char *expression, const char *file, int line);

/* -------- what the process holds */

struct state {
	char maps[1 << 16]; /* all but the heap */
	char fds[4096];
};

void take_state(struct state *state);
#define assert_same_state(before) assert_same_state_at(before, __FILE__, __LINE__)
void assert_same_state_at(const struct state *before, const char *file, int line);

/* -------- what the kernel says of memory */

/* Can the byte be read, or (without changing it) written? No signal either way. */
bool is_readable(const void *addr);
bool is_writable(void *addr);
/* Has a two-letter flag of VmFlags in /proc/self/smaps. */
bool has_vm_flag(const void *addr, const char *flag);
#define assert_locked(addr, expect) assert_locked_at(addr, expect, __FILE__, __LINE__)
void assert_locked_at(const void *addr, bool expect, const char *file, int line);
/* The line of /proc/self/maps (or another file of that form, as numa_maps) that starts at @addr. */
bool find_map(const char *file, const void *addr, char *line, size_t size);
/* Pages that are in memory. */
uint64_t count_resident(void *addr, uint64_t length);
/* Bytes that the file of @fd holds. */
uint64_t bytes_on_disk(int fd);

/* -------- patterns */

void fill(const struct gr__mem *mem, uint64_t offset, uint64_t length, uint64_t seed);
bool is_filled(const struct gr__mem *mem, uint64_t offset, uint64_t length, uint64_t seed);
bool is_zero(const struct gr__mem *mem, uint64_t offset, uint64_t length);

/* -------- failing calls */

/* The @nth next call that can fail does so with @error; 0: none. */
void arm_fault(int nth, int error);
/* Every call of this name fails with @error. */
void arm_fault_by_name(const char *call, int error);
void disarm_faults(void);
/* The call that failed since it was armed, or NULL. */
const char *fired_fault(void);
/* The one before it that could have failed, or NULL. */
const char *call_before_fault(void);

/* -------- places */

/* A new directory under /tmp; remove_directory() says whether it was empty. */
void make_directory(char *path, size_t size);
bool is_empty_directory(const char *path);

/*
 * A file system in a mount namespace of the test's own, at a new directory; returns false when this
 * machine does not let us, after telling what is missing. Gone with the process.
 */
bool mount_private(const char *type, const char *options, char *path, size_t size);
void unmount_private(const char *path);

#endif
