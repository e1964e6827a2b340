/* SPDX-License-Identifier: MIT */
/*
 * Starts the back-end process under test on a fresh image in a fresh folder.
 *   test guestram /path/to/guestram [--packed] [more options of serve blk]
 *   test qemu     /path/to/qemu-storage-daemon
 */
#ifndef TEST_BACKEND_H
#define TEST_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define BE_IMAGE_SIZE (UINT64_C(16) << 20)
#define BE_QUEUES 4

struct be {
	bool ours;
	pid_t pid;
	char dir[64];
	char sock[96];
	char status[96]; /* ours only */
	char image[96];
	char log[96]; /* its standard error */
};

/* Reads the command line of the test; exits with 77 (skipped) when the program is not there. */
void be_args(int argc, char **argv);
/* @extra: further options of `serve blk`, NULL-terminated, or NULL. */
int be_start(struct be *be, bool read_only, char *const *extra);
/* Another process on the same image and socket, once the one before has died. */
int be_start_again(struct be *be);
/* SIGKILL, and wait for its end. */
void be_kill(struct be *be);
/* Its exit status after SIGTERM, or -errno; the folder is removed. */
int be_stop(struct be *be);
bool be_alive(struct be *be);
/* Number of entries of /proc/PID/fd, lines of /proc/PID/maps, or -errno. */
int be_fds(const struct be *be);
int be_maps(const struct be *be);
/* Mappings of memfds of front-ends. */
int be_guest_maps(const struct be *be);
/* A number of its status object (ours only; keys are unique in it), or -errno. */
long long be_status(const struct be *be, const char *key);
/* Wait until it is 0: 0, or -ETIMEDOUT. What workers do after they answered is seen a little later.
 */
int be_wait_zero(const struct be *be, const char *key);
/* The same for memory that was removed and is not given back yet. */
int be_wait_reclaimed(const struct be *be);
/* The whole of its log, to be freed. */
char *be_read_log(const struct be *be);

#endif
