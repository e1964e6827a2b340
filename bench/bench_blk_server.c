/* SPDX-License-Identifier: MIT */
/*
 * The servers that `guestram bench blk` compares: this program's `serve blk`, and
 * qemu-storage-daemon. Each is one process with one queue; it dies with us. See bench_blk.h.
 */
#include "bench_blk.h"
#include "cli.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define QEMU "qemu-storage-daemon"

enum { WORDS = 16, STOP_TRIES = 3000 };

const char *blk_server_qemu(void)
{
	static char path[PATH_MAX];
	const char *from = getenv("PATH");

	while (from && *from) {
		size_t length = strcspn(from, ":");

		snprintf(path, sizeof(path), "%.*s/%s", (int)length, from, QEMU);
		if (!access(path, X_OK))
			return path;
		from += length + (from[length] == ':');
	}
	return NULL;
}

/* What the child runs; the texts live as long as it does. */
static void run_ours(const struct blk_server *server, const struct blk_disk *disk)
{
	char size[32];
	const char *words[] = {"guestram",
			       "serve",
			       "blk",
			       "--socket",
			       server->socket,
			       disk->file ? "--file" : "--null",
			       disk->file ? disk->file : size,
			       NULL};

	snprintf(size, sizeof(size), "%llu", (unsigned long long)disk->size);
	execv("/proc/self/exe", (char *const *)words); /* which does not write to them */
}

static void run_qemu(const struct blk_server *server, const struct blk_setting *setting,
		     const struct blk_disk *disk)
{
	char node[PATH_MAX + 128], export[256];
	const char *words[WORDS] = {QEMU};
	int n = 1;

	if (disk->file)
		snprintf(node, sizeof(node),
			 "driver=file,node-name=f,filename=%s,cache.direct=off,aio=%s", disk->file,
			 setting->aio);
	else
		snprintf(node, sizeof(node), "driver=null-co,node-name=f,size=%llu,read-zeroes=off",
			 (unsigned long long)disk->size);
	snprintf(export, sizeof(export),
		 "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=%s,writable=on%s",
		 server->socket, setting->iothread ? ",iothread=t" : "");
	if (setting->iothread) {
		words[n++] = "--object";
		words[n++] = "iothread,id=t";
	}
	words[n++] = "--blockdev";
	words[n++] = node;
	words[n++] = "--export";
	words[n++] = export;
	execv(blk_server_qemu(), (char *const *)words);
}

int blk_server_start(struct blk_server *server, const char *folder,
		     const struct blk_setting *setting, const struct blk_disk *disk, int processor)
{
	int log;

	memset(server, 0, sizeof(*server));
	snprintf(server->socket, sizeof(server->socket), "%s/%s", folder,
		 setting->aio ? "qemu" : "ours");
	snprintf(server->log, sizeof(server->log), "%s.log", server->socket);
	log = open(server->log, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	server->pid = fork();
	if (server->pid < 0) {
		server->pid = 0;
		close(log);
		return cli_fail(errno, "bench blk: no process for a server"), -EAGAIN;
	}
	if (!server->pid) {
		cpu_set_t where;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(log, 1);
		dup2(log, 2);
		if (processor >= 0) {
			CPU_ZERO(&where);
			CPU_SET(processor, &where);
			sched_setaffinity(0, sizeof(where), &where);
		}
		if (setting->aio)
			run_qemu(server, setting, disk);
		else
			run_ours(server, disk);
		_exit(127);
	}
	close(log);
	return 0;
}

static void say_log(const struct blk_server *server)
{
	FILE *file = fopen(server->log, "re");
	char line[512];

	while (file && fgets(line, sizeof(line), file))
		fprintf(stderr, "  %s", line);
	if (file)
		fclose(file);
}

/* It is gone: 0, or -EIO, and its log, when it had failed. */
static int ended(struct blk_server *server, int status)
{
	if (status)
		say_log(server);
	unlink(server->socket);
	unlink(server->log);
	return status ? -EIO : 0;
}

int blk_server_stop(struct blk_server *server)
{
	pid_t pid = server->pid;
	int status = 0;

	if (!pid)
		return 0;
	server->pid = 0;
	kill(pid, SIGTERM);
	for (int tries = 0; tries < STOP_TRIES; tries++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return ended(server, status);
		usleep(10000);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return ended(server, status);
}

double blk_server_cpu(const struct blk_server *server)
{
	struct timespec used;
	clockid_t clock;
	int rc = clock_getcpuclockid(server->pid, &clock);

	if (rc)
		return -rc;
	if (clock_gettime(clock, &used))
		return -errno;
	return (double)used.tv_sec * 1e9 + (double)used.tv_nsec;
}
