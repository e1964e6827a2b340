/* SPDX-License-Identifier: MIT */
#include "vhost_front.h"
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROUNDS_MAX 200

/* Lines for people are one line each, whatever a peer sends. */
static void log_line(void *context, enum gr_log_level level, const char *message)
{
	(void)context;
	FUZZ_CHECK(level <= GR_LOG_INFO && *message && !strchr(message, '\n'));
	FUZZ_SAY("log: %s\n", message);
}

struct gr_vhost *front_server(const struct gr_vhost_ops *ops, void *context, unsigned queues,
			      unsigned threads)
{
	char folder[] = "/tmp/fuzz-vhost-XXXXXX", path[64];
	struct gr_vhost_opts opts = {
		.socket_path = path,
		.ops = ops,
		.context = context,
		.flags = GR_VHOST_SIGBUS,
		.queues = queues,
		.threads = threads,
		.queue_size_max = 256,
		.log = log_line,
	};
	struct gr_vhost *server;

	FUZZ_CHECK(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/socket", folder);
	FUZZ_CHECK(gr_vhost_open(&opts, &server) == 0);
	/* connections are socket pairs; nothing stays in the file system */
	unlink(path);
	rmdir(folder);
	return server;
}

void front_begin(struct front *front, struct gr_vhost *server)
{
	front->before = fuzz_ledger_now();
	front->server = server;
	front->sock = -1;
	front_connect(front);
}

void front_end(struct front *front)
{
	struct gr_ram_stats stats;
	struct gr_vhost_stats figures;

	front_hang_up(front);
	FUZZ_CHECK(!front_is_connected(front));
	FUZZ_CHECK(gr_ram_drain(gr_vhost_ram(front->server), -1) == 0);
	gr_ram_get_stats(gr_vhost_ram(front->server), &stats);
	FUZZ_CHECK(!stats.blocks && !stats.ranges && !stats.pins && !stats.blocks_pending);
	gr_vhost_get_stats(front->server, &figures);
	FUZZ_CHECK(!figures.in_flight && !figures.connected);
	fuzz_ledger_check(&front->before);
}

void front_connect(struct front *front)
{
	const int small = 4096; /* a few dozen answers that are not read fill it */
	int pair[2];

	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	front->sock = pair[0];
	gr__connection_begin(front->server, pair[1]);
	FUZZ_CHECK(front_is_connected(front));
}

void front_hang_up(struct front *front)
{
	if (front->sock < 0)
		return;
	close(front->sock);
	front->sock = -1;
	front_process(front);
}

bool front_is_connected(const struct front *front)
{
	return front->server->connection.fd >= 0;
}

void front_send(struct front *front, const void *bytes, size_t size, const int *fds,
		unsigned fd_count)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * 16)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {(void *)bytes, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	FUZZ_CHECK(fd_count <= 16);
	if (front->sock < 0)
		return;
	if (fd_count) {
		struct cmsghdr *cmsg;

		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * fd_count);
	}
	while (sendmsg(front->sock, &msg, MSG_NOSIGNAL) < 0 && errno == EINTR)
		;
}

void front_message(struct front *front, uint32_t request, uint32_t flags, const void *payload,
		   uint32_t size, const int *fds, unsigned fd_count)
{
	struct wire_header header = {request, flags, size};
	uint8_t bytes[sizeof(header) + 1024];
	size_t length = size < 1024 ? size : 1024;

	memcpy(bytes, &header, sizeof(header));
	memcpy(bytes + sizeof(header), payload, length);
	front_send(front, bytes, sizeof(header) + length, fds, fd_count);
}

void front_process(struct front *front)
{
	struct pollfd fd = {.fd = gr_vhost_fd(front->server), .events = POLLIN};

	/* all that was sent is in the socket, so this ends */
	while (poll(&fd, 1, 0) > 0)
		FUZZ_CHECK(gr_vhost_process(front->server) == 0);
}

static ssize_t read_whole(int fd, void *to, size_t size)
{
	ssize_t got;

	do
		got = recv(fd, to, size, 0);
	while (got < 0 && errno == EINTR);
	return got;
}

bool front_answer(struct front *front)
{
	struct wire_header *header = &front->header;
	ssize_t got;

	if (front->sock < 0)
		return false;
	got = read_whole(front->sock, header, sizeof(*header));
	if (got <= 0)
		return false;
	if (got < (ssize_t)sizeof(*header)) {
		/* an answer that did not fit is the end */
		FUZZ_CHECK(!front_is_connected(front));
		return false;
	}
	FUZZ_CHECK(header->flags == (WIRE_VERSION | WIRE_REPLY));
	FUZZ_CHECK(header->size <= sizeof(front->payload));
	if (header->request == WIRE_GET_CONFIG)
		FUZZ_CHECK(!header->size || (header->size >= WIRE_CONFIG_HEAD &&
					     header->size <= sizeof(struct wire_config)));
	else if (header->request == WIRE_GET_INFLIGHT_FD)
		FUZZ_CHECK(header->size >= WIRE_INFLIGHT_SHORT &&
			   header->size <= sizeof(struct wire_inflight));
	else if (header->request == WIRE_POSTCOPY_ADVISE)
		FUZZ_CHECK(!header->size);
	else if (header->request == WIRE_SET_MEM_TABLE || header->request == WIRE_ADD_MEM_REG)
		FUZZ_CHECK(header->size >= sizeof(uint64_t)); /* or itself, in postcopy */
	else
		FUZZ_CHECK(header->size == sizeof(uint64_t));
	got = header->size ? read_whole(front->sock, &front->payload, header->size) : 0;
	if (got != (ssize_t)header->size) {
		FUZZ_CHECK(!front_is_connected(front));
		return false;
	}
	return true;
}

void front_must(struct front *front, uint32_t request, const void *payload, uint32_t size,
		const int *fds, unsigned fd_count)
{
	front_message(front, request, WIRE_VERSION, payload, size, fds, fd_count);
	front_process(front);
	FUZZ_CHECK_SAY(front_is_connected(front), "message %u: %s", request, gr_last_error());
	front_answer(front);
}

void front_must_u64(struct front *front, uint32_t request, uint64_t value)
{
	front_must(front, request, &value, sizeof(value), NULL, 0);
}

struct round {
	const struct gr__worker *worker;
	uint64_t progress;
};

/* On the worker, at the end of a round over its queues. */
static bool note_progress(void *arg)
{
	struct round *round = arg;

	round->progress = 0;
	for (unsigned i = 0; i < round->worker->queue_count; i++) {
		const struct gr__queue *q = round->worker->queues[i];

		round->progress += q->requests + q->in_flight + q->broken_times + q->last_avail +
				   q->avail_wrap;
	}
	return true;
}

void front_settle(struct gr__worker *worker)
{
	struct round last, now = {worker, 0};
	unsigned rounds = 0;

	gr__worker_call(worker, note_progress, &now);
	do {
		last = now;
		gr__worker_call(worker, note_progress, &now);
		/* a device that writes into its own available index is never done */
	} while (now.progress != last.progress && rounds++ < ROUNDS_MAX);
}
