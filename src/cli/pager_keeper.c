/* SPDX-License-Identifier: MIT */
/*
 * Who touches a page waits for the pager, also when that has died. So the process that serves pages
 * has another above it that does nothing: it knows each monitor (a pidfd, which is no number that
 * another process may get) and has its userfaultfd, which keeps the kernel from answering with
 * zeroes when the server's goes. When the server is gone, or was told to end and waits for a store
 * that does not answer, monitors that miss pages are killed.
 *
 * One thread, no memory but this table: it is to be there when all else fails.
 */
#include "pager_keeper.h"
#include "cli.h"
#include "wait.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MONITORS 4096
/* From the signal to end until monitors that the server has said nothing of are killed. */
#define ENDING_MS 700

struct news {
	uint64_t number;
	int32_t news, pid, fds;
};

struct monitor {
	uint64_t number; /* 0: none */
	int pid, pidfd, uffd;
};

/* Each process has its own: the server's is for when the keeper has gone before it. */
static struct monitor monitors[MONITORS];

static struct monitor *find(uint64_t number)
{
	int i;

	for (i = 0; i < MONITORS; i++)
		if (monitors[i].number == number)
			return &monitors[i];
	return NULL;
}

static void forget(struct monitor *monitor)
{
	close(monitor->pidfd);
	if (monitor->uffd >= 0)
		close(monitor->uffd);
	monitor->number = 0;
}

static void end(struct monitor *monitor)
{
	if (!monitor->number)
		return;
	fprintf(stderr, "guestram: pager: process %d misses pages that nobody brings: killed\n",
		monitor->pid);
	syscall(SYS_pidfd_send_signal, monitor->pidfd, SIGKILL, NULL, 0);
	forget(monitor);
}

static int send_news(int keeper, const struct news *news, const int *fds)
{
	union {
		char space[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = {{0}};
	struct iovec iov = {(void *)news, sizeof(*news)};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cmsg;
	ssize_t sent;

	if (fds) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(2 * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, 2 * sizeof(int));
	}
	do
		sent = sendmsg(keeper, &msg, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

int pager_keeper_tell(int keeper, uint64_t number, enum gr_pager_news news, int pid, int uffd)
{
	struct news message = {number, (int32_t)news, pid, 0};
	struct monitor *monitor = find(news == GR_PAGER_BEGINS ? 0 : number);
	int fds[2] = {-1, uffd}, rc;

	if (!monitor)
		return news == GR_PAGER_BEGINS ? -ENOBUFS : 0;
	if (news != GR_PAGER_BEGINS) {
		rc = send_news(keeper, &message, NULL);
		if (rc < 0 && news == GR_PAGER_GIVEN_UP)
			end(monitor);
		else
			forget(monitor);
		return rc;
	}
	fds[0] = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	if (fds[0] < 0)
		return -ESRCH;
	rc = send_news(keeper, &message, fds);
	if (rc < 0) {
		close(fds[0]);
		return rc;
	}
	*monitor = (struct monitor){number, pid, fds[0], -1};
	return 0;
}

static void handle(const struct news *news, const int *fds)
{
	struct monitor *monitor = find(news->news == GR_PAGER_BEGINS ? 0 : news->number);

	if (news->news == GR_PAGER_BEGINS && monitor && fds[0] >= 0) {
		*monitor = (struct monitor){news->number, news->pid, fds[0], fds[1]};
	} else if (news->news == GR_PAGER_BEGINS) {
		close(fds[0]);
		close(fds[1]);
	} else if (monitor && news->news == GR_PAGER_GIVEN_UP) {
		end(monitor);
	} else if (monitor) {
		forget(monitor);
	}
}

/* All that the server has said. false: it has gone. */
static bool listen_to(int fd)
{
	for (;;) {
		union {
			char space[CMSG_SPACE(2 * sizeof(int))];
			struct cmsghdr align;
		} control;
		struct news news;
		struct iovec iov = {&news, sizeof(news)};
		struct msghdr msg = {
			.msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = &control,
			.msg_controllen = sizeof(control),
		};
		int fds[2] = {-1, -1};
		ssize_t got = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		struct cmsghdr *cmsg;

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno == EAGAIN;
		if (got != sizeof(news))
			return false;
		cmsg = CMSG_FIRSTHDR(&msg);
		if (cmsg && cmsg->cmsg_type == SCM_RIGHTS &&
		    cmsg->cmsg_len == CMSG_LEN(sizeof(fds)))
			memcpy(fds, CMSG_DATA(cmsg), sizeof(fds));
		handle(&news, fds);
	}
}

static void end_all(void)
{
	for (int i = 0; i < MONITORS; i++)
		end(&monitors[i]);
}

int pager_keeper_run(int server_fd, pid_t server, int signals)
{
	struct pollfd fds[] = {
		{.fd = server_fd, .events = POLLIN},
		{.fd = signals, .events = POLLIN},
	};
	struct signalfd_siginfo signal;
	int64_t ending = -1; /* when monitors are ended that nobody has spoken of; -1: never */
	int status;

	for (;;) {
		int64_t left = ending < 0 ? -1 : ending - cli_now_ms();

		if (ending >= 0 && left <= 0) {
			end_all();
			ending = left = -1;
		}
		if (poll(fds, 2, (int)left) < 0) {
			if (errno == EINTR)
				continue;
			break;
		}
		/* passed on; the server says what becomes of its sessions */
		if (fds[1].revents && read(signals, &signal, sizeof(signal)) == sizeof(signal)) {
			kill(server, SIGTERM);
			ending = cli_now_ms() + ENDING_MS;
		}
		if (fds[0].revents && !listen_to(server_fd))
			break;
	}
	end_all();
	while (waitpid(server, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	return cli_fail(0, "pager: the server was ended by signal %d", WTERMSIG(status));
}
