/* SPDX-License-Identifier: MIT */
/* See message.h. */
#include "vhost/message.h"
#include "os/event.h"
#include "os/hooks.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* The kernel passes at most 253 descriptors at once (SCM_MAX_FD): room for all, to close them. */
#define KERNEL_FDS 253

void gr__message_init(struct gr__message *message)
{
	memset(message, 0, sizeof(*message));
	for (unsigned i = 0; i < GR__MESSAGE_FDS; i++)
		message->fds[i] = -1;
}

void gr__message_close_fds(struct gr__message *message)
{
	for (unsigned i = 0; i < GR__MESSAGE_FDS; i++) {
		gr__fd_close(message->fds[i]);
		message->fds[i] = -1;
	}
}

void gr__message_clear(struct gr__message *message)
{
	gr__message_close_fds(message);
	message->fd_count = 0;
	message->fds_lost = false;
	message->have = 0;
}

int gr__message_take_fd(struct gr__message *message, unsigned i)
{
	int fd;

	if (i >= GR__MESSAGE_FDS)
		return -1;
	fd = message->fds[i];
	message->fds[i] = -1;
	return fd;
}

static void keep_fds(struct gr__message *message, struct msghdr *msg)
{
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		size_t count;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
			if (message->fd_count < GR__MESSAGE_FDS)
				message->fds[message->fd_count] = fd;
			else
				gr__fd_close(fd);
			message->fd_count++;
		}
	}
	if (msg->msg_flags & MSG_CTRUNC)
		message->fds_lost = true;
}

/* Bytes got, 0 at the end, or -errno. */
static ssize_t recv_some(int fd, struct gr__message *message, void *buf, size_t size)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * KERNEL_FDS)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {buf, size};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t rc;
	int error;

	do {
		error = GR_FAULT("recvmsg");
		if (error)
			return -error;
		rc = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -errno;
	keep_fds(message, &msg);
	return rc;
}

int gr__message_recv(int fd, struct gr__message *message)
{
	const size_t head = sizeof(message->header);

	for (;;) {
		size_t want = head;
		char *to = (char *)&message->header;
		ssize_t got;

		if (message->have >= head) {
			if (message->header.size > sizeof(message->payload))
				return -EMSGSIZE;
			want += message->header.size;
			to = (char *)&message->payload - head;
		}
		if (message->have == want)
			return 1;
		got = recv_some(fd, message, to + message->have, want - message->have);
		if (got < 0)
			return (int)got;
		if (!got)
			return message->have ? -ECONNRESET : 0;
		message->have += (size_t)got;
	}
}

int gr__message_send(int fd, uint32_t request, const void *payload, uint32_t size, int pass)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct wire_header header = {request, WIRE_VERSION | WIRE_REPLY, size};
	struct iovec iov[2] = {{&header, sizeof(header)}, {(void *)payload, size}};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t rc;
	int error;

	if (pass >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control.space);
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), &pass, sizeof(pass));
	}
	do {
		error = GR_FAULT("sendmsg");
		if (error)
			return -error;
		rc = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -errno;
	/* a part of it: the peer has not read thousands of answers */
	return (size_t)rc == sizeof(header) + size ? 0 : -EAGAIN;
}
