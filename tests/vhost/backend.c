/* SPDX-License-Identifier: MIT */
/* See backend.h. */
#include "backend.h"
#include "frontend.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *program;
static bool program_is_ours;
static char *const *program_options;

void be_args(int argc, char **argv)
{
	if (argc < 3 || (strcmp(argv[1], "guestram") && strcmp(argv[1], "qemu"))) {
		fprintf(stderr, "usage: %s guestram|qemu PROGRAM [--packed] [OPTION…]\n", argv[0]);
		exit(2);
	}
	program_is_ours = !strcmp(argv[1], "guestram");
	program = argv[2];
	program_options = argv + 3;
	if (argc > 3 && !strcmp(argv[3], "--packed")) {
		fe_wants_packed = true;
		program_options++;
	}
	if (access(program, X_OK)) {
		fprintf(stderr, "%s is not there: skipped\n", program);
		exit(77);
	}
}

static void run_ours(struct be *be, bool read_only, char *const *extra)
{
	const char *args[48];
	char queues[16];
	int n = 0;

	snprintf(queues, sizeof(queues), "%d", BE_QUEUES);
	args[n++] = program;
	args[n++] = "serve";
	args[n++] = "blk";
	args[n++] = "--socket";
	args[n++] = be->sock;
	args[n++] = "--file";
	args[n++] = be->image;
	args[n++] = "--status";
	args[n++] = be->status;
	args[n++] = "--queues";
	args[n++] = queues;
	if (read_only)
		args[n++] = "--read-only";
	for (char *const *arg = program_options; *arg && n < 32; arg++)
		args[n++] = *arg;
	for (char *const *arg = extra; arg && *arg && n < 46; arg++)
		args[n++] = *arg;
	args[n] = NULL;
	execv(program, (char *const *)args); /* which does not write to them */
}

static void run_qemu(struct be *be, bool read_only)
{
	char file[256], raw[128], export[256];

	snprintf(file, sizeof(file),
		 "driver=file,filename=%s,node-name=f0,locking=off,discard=unmap,read-only=%s",
		 be->image, read_only ? "on" : "off");
	snprintf(raw, sizeof(raw), "driver=raw,file=f0,node-name=d0,discard=unmap,read-only=%s",
		 read_only ? "on" : "off");
	snprintf(export, sizeof(export),
		 "vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path=%s,writable=%s,"
		 "num-queues=%d",
		 be->sock, read_only ? "off" : "on", BE_QUEUES);
	execl(program, program, "--blockdev", file, "--blockdev", raw, "--export", export, NULL);
}

static int spawn(struct be *be, bool read_only, char *const *extra)
{
	int fd;

	be->pid = fork();
	if (be->pid < 0)
		return -errno;
	if (!be->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fd = open(be->log, O_RDWR | O_CREAT | O_APPEND, 0600);
		if (fd >= 0) {
			dup2(fd, 1);
			dup2(fd, 2);
			close(fd);
		}
		if (be->ours)
			run_ours(be, read_only, extra);
		else
			run_qemu(be, read_only);
		_exit(127);
	}
	return 0;
}

int be_start(struct be *be, bool read_only, char *const *extra)
{
	int fd, rc;

	memset(be, 0, sizeof(*be));
	be->ours = program_is_ours;
	strcpy(be->dir, "/tmp/guestram-vhost-XXXXXX");
	if (!mkdtemp(be->dir))
		return -errno;
	snprintf(be->sock, sizeof(be->sock), "%s/blk.sock", be->dir);
	snprintf(be->status, sizeof(be->status), "%s/status.sock", be->dir);
	snprintf(be->image, sizeof(be->image), "%s/image", be->dir);
	snprintf(be->log, sizeof(be->log), "%s/log", be->dir);
	fd = open(be->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	rc = ftruncate(fd, (off_t)BE_IMAGE_SIZE);
	close(fd);
	if (rc)
		return -errno;
	return spawn(be, read_only, extra);
}

int be_start_again(struct be *be)
{
	return spawn(be, false, NULL);
}

void be_kill(struct be *be)
{
	kill(be->pid, SIGKILL);
	waitpid(be->pid, NULL, 0);
	be->pid = 0;
}

static void remove_dir(struct be *be)
{
	const char *const paths[] = {be->sock, be->status, be->image, be->log};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		unlink(paths[i]);
	rmdir(be->dir);
}

int be_stop(struct be *be)
{
	int status = 0;

	if (be->pid <= 0)
		return -ESRCH;
	kill(be->pid, SIGTERM);
	for (int tries = 0; tries < 500; tries++) {
		if (waitpid(be->pid, &status, WNOHANG) == be->pid) {
			be->pid = 0;
			remove_dir(be);
			return WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
		}
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	kill(be->pid, SIGKILL);
	waitpid(be->pid, &status, 0);
	be->pid = 0;
	remove_dir(be);
	return -ETIMEDOUT;
}

bool be_alive(struct be *be)
{
	return be->pid > 0 && waitpid(be->pid, NULL, WNOHANG) == 0;
}

int be_fds(const struct be *be)
{
	char path[64];
	int count = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)be->pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static int count_maps(const struct be *be, const char *word)
{
	char path[64], line[1024];
	int count = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)be->pid);
	file = fopen(path, "re");
	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file))
		count += !word || strstr(line, word);
	fclose(file);
	return count;
}

int be_maps(const struct be *be)
{
	return count_maps(be, NULL);
}

int be_guest_maps(const struct be *be)
{
	return count_maps(be, "/memfd:front-end");
}

long long be_status(const struct be *be, const char *key)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	static char text[1 << 20]; /* one thread asks */
	char quoted[64];
	const char *at;
	size_t have = 0;
	ssize_t rc;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	strncpy(addr.sun_path, be->status, sizeof(addr.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		rc = -errno;
		close(fd);
		return rc;
	}
	while ((rc = read(fd, text + have, sizeof(text) - 1 - have)) > 0)
		have += (size_t)rc;
	close(fd);
	text[have] = 0;
	snprintf(quoted, sizeof(quoted), "\"%s\":", key);
	at = strstr(text, quoted);
	return at ? strtoll(at + strlen(quoted), NULL, 10) : -ENOENT;
}

int be_wait_zero(const struct be *be, const char *key)
{
	for (int tries = 0; tries < 2000; tries++) {
		if (!be_status(be, key))
			return 0;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	fprintf(stderr, "%s: %lld\n", key, be_status(be, key));
	return -ETIMEDOUT;
}

int be_wait_reclaimed(const struct be *be)
{
	return be_wait_zero(be, "blocks_pending");
}

char *be_read_log(const struct be *be)
{
	FILE *file = fopen(be->log, "re");
	char *text = calloc(1, 65536);

	if (file) {
		if (text && !fread(text, 1, 65535, file))
			text[0] = 0;
		fclose(file);
	}
	return text;
}
