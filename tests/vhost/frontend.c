/* SPDX-License-Identifier: MIT */
/* The messages: connection, negotiation, memory, rings' set-up. See frontend.h. */
#include "frontend.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

bool fe_wants_packed;

static int connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	for (int tries = 0; tries < FE_TIMEOUT_MS / 10; tries++) {
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0)
			return -errno;
		if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
			return fd;
		close(fd);
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	}
	return -ECONNREFUSED;
}

int fe_open(struct fe *fe, const char *path, uint64_t size)
{
	int rc;

	memset(fe, 0, sizeof(*fe));
	fe->size = size;
	fe->packed = fe_wants_packed;
	fe->sock = -1;
	fe->memfd = memfd_create("front-end", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fe->memfd < 0)
		return -errno;
	if (ftruncate(fe->memfd, (off_t)size)) {
		rc = -errno;
		goto close_memfd;
	}
	fe->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fe->memfd, 0);
	if (fe->mem == MAP_FAILED) {
		rc = -errno;
		goto close_memfd;
	}
	rc = connect_to(path);
	if (rc < 0)
		goto unmap;
	fe->sock = rc;
	return 0;

unmap:
	munmap(fe->mem, size);
close_memfd:
	close(fe->memfd);
	memset(fe, 0, sizeof(*fe));
	return rc;
}

static void free_queues(struct fe *fe)
{
	for (unsigned i = 0; i < fe->queue_count; i++) {
		struct fe_queue *q = &fe->queues[i];

		close(q->kick);
		close(q->call);
		close(q->err);
		free(q->chain_length);
		free(q->cookies);
	}
	free(fe->queues);
	fe->queues = NULL;
	fe->queue_count = 0;
	fe->ring_next = 0;
}

void fe_close(struct fe *fe)
{
	if (!fe->mem)
		return;
	free_queues(fe);
	if (fe->sock >= 0)
		close(fe->sock);
	munmap(fe->mem, fe->size);
	close(fe->memfd);
	memset(fe, 0, sizeof(*fe));
}

int fe_reconnect(struct fe *fe, const char *path)
{
	int rc;

	free_queues(fe);
	if (fe->sock >= 0)
		close(fe->sock);
	fe->sock = -1;
	fe->features = fe->protocol = 0;
	rc = connect_to(path);
	if (rc < 0)
		return rc;
	fe->sock = rc;
	return 0;
}

int fe_send_raw(struct fe *fe, const void *bytes, size_t size, const int *fds, unsigned fd_count)
{
	union {
		char space[CMSG_SPACE(sizeof(int) * 64)];
		struct cmsghdr align;
	} control;
	struct iovec iov = {(void *)bytes, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t done;

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
	done = sendmsg(fe->sock, &msg, MSG_NOSIGNAL);
	if (done < 0)
		return -errno;
	return (size_t)done == size ? 0 : -EIO;
}

int fe_send(struct fe *fe, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
	    const int *fds, unsigned fd_count)
{
	struct fe_header header = {request, FE_VERSION | flags, size};
	uint8_t bytes[sizeof(header) + 4096];

	if (size > 4096)
		return -EMSGSIZE;
	memcpy(bytes, &header, sizeof(header));
	if (size)
		memcpy(bytes + sizeof(header), payload, size);
	return fe_send_raw(fe, bytes, sizeof(header) + size, fds, fd_count);
}

static int recv_all(struct fe *fe, void *buf, size_t size)
{
	struct pollfd wait = {.fd = fe->sock, .events = POLLIN};
	size_t have = 0;

	while (have < size) {
		ssize_t rc;

		if (poll(&wait, 1, FE_TIMEOUT_MS) != 1)
			return -ETIMEDOUT;
		rc = recv(fe->sock, (char *)buf + have, size - have, 0);
		if (rc < 0)
			return -errno;
		if (!rc)
			return -ECONNRESET;
		have += (size_t)rc;
	}
	return 0;
}

int fe_recv(struct fe *fe, struct fe_header *header, void *payload, uint32_t room)
{
	int rc = recv_all(fe, header, sizeof(*header));

	if (rc < 0)
		return rc;
	if (header->size > room)
		return -EMSGSIZE;
	rc = recv_all(fe, payload, header->size);
	return rc < 0 ? rc : (int)header->size;
}

int fe_recv_fd(struct fe *fe, struct fe_header *header, void *payload, uint32_t room, int *fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {header, sizeof(*header)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	struct pollfd wait = {.fd = fe->sock, .events = POLLIN};
	int rc;

	*fd = -1;
	if (poll(&wait, 1, FE_TIMEOUT_MS) != 1)
		return -ETIMEDOUT;
	if (recvmsg(fe->sock, &msg, MSG_WAITALL | MSG_CMSG_CLOEXEC) != sizeof(*header))
		return -ECONNRESET;
	if (CMSG_FIRSTHDR(&msg))
		memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(*fd));
	if (header->size > room)
		return -EMSGSIZE;
	rc = recv_all(fe, payload, header->size);
	return rc < 0 ? rc : (int)header->size;
}

int fe_ack(struct fe *fe, uint32_t request, const void *payload, uint32_t size, const int *fds,
	   unsigned fd_count)
{
	struct fe_header header;
	uint64_t value = 0;
	int rc = fe_send(fe, request, FE_NEED_REPLY, payload, size, fds, fd_count);

	if (rc < 0)
		return rc;
	rc = fe_recv(fe, &header, &value, sizeof(value));
	if (rc < 0)
		return rc;
	if (header.request != request || header.flags != (FE_VERSION | FE_REPLY) ||
	    rc != (int)sizeof(value))
		return -EBADMSG;
	return value ? -EREMOTEIO : 0;
}

int fe_get_u64(struct fe *fe, uint32_t request, uint64_t *value)
{
	struct fe_header header;
	int rc = fe_send(fe, request, 0, NULL, 0, NULL, 0);

	if (rc < 0)
		return rc;
	rc = fe_recv(fe, &header, value, sizeof(*value));
	if (rc < 0)
		return rc;
	return header.request == request && (header.flags & FE_REPLY) && rc == 8 ? 0 : -EBADMSG;
}

/* With an acknowledgement where that was negotiated. */
static int tell(struct fe *fe, uint32_t request, const void *payload, uint32_t size, const int *fds,
		unsigned fd_count)
{
	if (fe->protocol & FE_P_REPLY_ACK)
		return fe_ack(fe, request, payload, size, fds, fd_count);
	return fe_send(fe, request, 0, payload, size, fds, fd_count);
}

int fe_set_u64(struct fe *fe, uint32_t request, uint64_t value)
{
	return tell(fe, request, &value, sizeof(value), NULL, 0);
}

int fe_is_closed(struct fe *fe)
{
	struct pollfd wait = {.fd = fe->sock, .events = POLLIN};
	char rest[256];

	for (;;) {
		ssize_t rc;

		if (poll(&wait, 1, FE_TIMEOUT_MS) != 1)
			return 0;
		rc = recv(fe->sock, rest, sizeof(rest), 0);
		if (rc <= 0)
			return 1;
	}
}

int fe_negotiate(struct fe *fe, uint64_t features, uint64_t protocol)
{
	uint64_t have = 0;
	int rc = fe_get_u64(fe, FE_GET_FEATURES, &have);

	if (rc < 0)
		return rc;
	features = fe->packed ? features | FE_F_PACKED : features & ~FE_F_PACKED;
	fe->features = have & (features | FE_F_VERSION_1 | FE_F_PROTOCOL_FEATURES);
	if (fe->features & FE_F_PROTOCOL_FEATURES) {
		rc = fe_get_u64(fe, FE_GET_PROTOCOL_FEATURES, &have);
		if (rc < 0)
			return rc;
		have &= protocol;
		rc = fe_send(fe, FE_SET_PROTOCOL_FEATURES, 0, &have, sizeof(have), NULL, 0);
		if (rc < 0)
			return rc;
		fe->protocol = have;
	}
	fe->queue_max = 1;
	if (fe->protocol & FE_P_MQ) {
		rc = fe_get_u64(fe, FE_GET_QUEUE_NUM, &have);
		if (rc < 0)
			return rc;
		fe->queue_max = (unsigned)have;
	}
	rc = tell(fe, FE_SET_OWNER, NULL, 0, NULL, 0);
	if (rc < 0)
		return rc;
	return fe_set_u64(fe, FE_SET_FEATURES, fe->features);
}

int fe_set_table(struct fe *fe)
{
	struct fe_table table = {.count = 1};

	table.regions[0] = (struct fe_region){FE_GPA, fe->size, (uintptr_t)fe->mem, 0};
	return tell(fe, FE_SET_MEM_TABLE, &table, 8 + sizeof(struct fe_region), &fe->memfd, 1);
}

int fe_add_region(struct fe *fe, const struct fe_region *region, int fd)
{
	struct fe_mem_reg payload = {.region = *region};

	return tell(fe, FE_ADD_MEM_REG, &payload, sizeof(payload), &fd, fd >= 0);
}

int fe_remove_region(struct fe *fe, const struct fe_region *region, int fd_or_minus_1)
{
	struct fe_mem_reg payload = {.region = *region};

	return tell(fe, FE_REM_MEM_REG, &payload, sizeof(payload), &fd_or_minus_1,
		    fd_or_minus_1 >= 0);
}

int fe_get_config(struct fe *fe, uint32_t offset, void *config, uint32_t size)
{
	struct fe_config payload = {.offset = offset, .size = size};
	struct fe_header header;
	int rc;

	if (size > sizeof(payload.bytes))
		return -EMSGSIZE;
	rc = fe_send(fe, FE_GET_CONFIG, 0, &payload, 12 + size, NULL, 0);
	if (rc < 0)
		return rc;
	rc = fe_recv(fe, &header, &payload, sizeof(payload));
	if (rc < 0)
		return rc;
	if (header.request != FE_GET_CONFIG)
		return -EBADMSG;
	if (rc != (int)(12 + size))
		return -EREMOTEIO;
	memcpy(config, payload.bytes, size);
	return 0;
}

static int set_fd(struct fe *fe, uint32_t request, unsigned index, int fd)
{
	uint64_t value = index;

	return tell(fe, request, &value, sizeof(value), &fd, 1);
}

/* Atomically, since a test may have a thread that scribbles on its rings all the time. */
static void clear(void *ring, size_t size)
{
	for (size_t i = 0; i < size; i += 2)
		__atomic_store_n((uint16_t *)ring + i / 2, 0, __ATOMIC_RELAXED);
}

int fe_queue_tell_addr(struct fe_queue *q)
{
	struct fe_vring_addr addr = {
		.index = q->index,
		.flags = q->logged,
		.desc = (uintptr_t)q->desc,
		.used = (uintptr_t)q->used,
		.avail = (uintptr_t)q->avail,
		.log = q->log_gpa,
	};

	return tell(q->fe, FE_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0);
}

int fe_queue_setup(struct fe_queue *q, uint32_t base)
{
	if (!base) {
		clear(q->desc, sizeof(*q->desc) * q->num);
		clear(q->avail, 6 + 2 * (size_t)q->num);
		clear(q->used, 6 + 8 * (size_t)q->num);
		for (unsigned i = 0; i < q->num; i++)
			__atomic_store_n(&q->desc[i].next, (uint16_t)(i + 1), __ATOMIC_RELAXED);
		memset(q->chain_length, 0, sizeof(*q->chain_length) * q->num);
		q->free_head = 0;
		q->free_count = (uint16_t)q->num;
		q->avail_idx = q->kicked_idx = q->last_used = 0;
		if (q->packed) {
			clear(q->desc, sizeof(*q->desc) * q->num);
			fe_packed_reset(q);
			base = fe_packed_base(q);
		}
	}
	return fe_queue_tell(q, base);
}

int fe_queue_tell(struct fe_queue *q, uint32_t base)
{
	struct fe *fe = q->fe;
	struct fe_vring_state state = {q->index, q->num};
	int rc;

	rc = tell(fe, FE_SET_VRING_NUM, &state, sizeof(state), NULL, 0);
	if (rc < 0)
		return rc;
	state.num = base;
	rc = tell(fe, FE_SET_VRING_BASE, &state, sizeof(state), NULL, 0);
	if (rc < 0)
		return rc;
	rc = fe_queue_tell_addr(q);
	if (rc < 0)
		return rc;
	rc = set_fd(fe, FE_SET_VRING_KICK, q->index, q->kick);
	if (rc < 0)
		return rc;
	rc = set_fd(fe, FE_SET_VRING_CALL, q->index, q->call);
	if (rc < 0)
		return rc;
	rc = set_fd(fe, FE_SET_VRING_ERR, q->index, q->err);
	if (rc < 0)
		return rc;
	if (!(fe->features & FE_F_PROTOCOL_FEATURES))
		return 0;
	state.num = 1;
	return tell(fe, FE_SET_VRING_ENABLE, &state, sizeof(state), NULL, 0);
}

int fe_queue_stop(struct fe_queue *q, uint32_t *base)
{
	struct fe_vring_state state = {q->index, 0};
	struct fe_header header;
	int rc = fe_send(q->fe, FE_GET_VRING_BASE, 0, &state, sizeof(state), NULL, 0);

	if (rc < 0)
		return rc;
	rc = fe_recv(q->fe, &header, &state, sizeof(state));
	if (rc < 0)
		return rc;
	if (header.request != FE_GET_VRING_BASE || rc != sizeof(state) || state.index != q->index)
		return -EBADMSG;
	if (base)
		*base = state.num;
	return 0;
}

static void *take(struct fe *fe, uint64_t size, uint64_t align)
{
	uint64_t at = (fe->ring_next + align - 1) & ~(align - 1);

	fe->ring_next = at + size;
	return fe->ring_next <= FE_DATA ? fe->mem + at : NULL;
}

int fe_queues_start(struct fe *fe, unsigned count, unsigned num)
{
	fe->queues = calloc(count, sizeof(*fe->queues));
	if (!fe->queues)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++) {
		struct fe_queue *q = &fe->queues[i];
		int rc;

		q->fe = fe;
		q->index = i;
		q->num = num;
		q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		q->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		q->chain_length = calloc(num, sizeof(*q->chain_length));
		q->cookies = calloc(num, sizeof(*q->cookies));
		fe->queue_count = i + 1;
		q->event_idx = !!(fe->features & FE_F_EVENT_IDX);
		q->indirect = !!(fe->features & FE_F_INDIRECT);
		q->packed = !!(fe->features & FE_F_PACKED);
		q->desc = take(fe, sizeof(*q->desc) * num, 4096);
		q->avail = take(fe, 6 + 2 * (uint64_t)num, 64);
		q->used = take(fe, 6 + 8 * (uint64_t)num, 4096);
		q->tables = take(fe, sizeof(*q->desc) * FE_TABLE * num, 64);
		if (q->kick < 0 || q->call < 0 || q->err < 0)
			return -EMFILE;
		if (!q->chain_length || !q->cookies || !q->desc || !q->avail || !q->used ||
		    !q->tables)
			return -ENOMEM;
		q->tables_gpa = fe_gpa(fe, q->tables);
		rc = fe_queue_setup(q, 0);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int fe_set_log(struct fe *fe, int fd, uint64_t size, uint64_t offset)
{
	struct fe_log log = {size, offset};

	return fe_ack(fe, FE_SET_LOG_BASE, &log, sizeof(log), &fd, 1);
}

int fe_get_inflight(struct fe *fe, unsigned queues, unsigned queue_size,
		    struct fe_inflight *inflight, int *fd)
{
	struct fe_inflight asked = {.queues = (uint16_t)queues, .queue_size = (uint16_t)queue_size};
	struct fe_header header;
	int rc = fe_send(fe, FE_GET_INFLIGHT_FD, 0, &asked, sizeof(asked), NULL, 0);

	if (rc < 0)
		return rc;
	rc = fe_recv_fd(fe, &header, inflight, sizeof(*inflight), fd);
	if (rc < 0)
		return rc;
	return header.request == FE_GET_INFLIGHT_FD && rc == sizeof(*inflight) && *fd >= 0
		       ? 0
		       : -EBADMSG;
}

int fe_set_inflight(struct fe *fe, const struct fe_inflight *inflight, int fd)
{
	return tell(fe, FE_SET_INFLIGHT_FD, inflight, sizeof(*inflight), &fd, 1);
}

int fe_recover(struct fe *fe, const char *path, const struct fe_inflight *inflight, int fd)
{
	uint64_t features = fe->features, protocol = fe->protocol;
	int rc = connect_to(path);

	if (rc < 0)
		return rc;
	close(fe->sock);
	fe->sock = rc;
	rc = fe_negotiate(fe, features, protocol);
	if (rc < 0)
		return rc;
	rc = fe_set_table(fe);
	if (rc < 0)
		return rc;
	rc = fe_set_inflight(fe, inflight, fd);
	for (unsigned i = 0; !rc && i < fe->queue_count; i++) {
		struct fe_queue *q = &fe->queues[i];

		/* what a front-end knows of a back-end that died: what it gave back */
		rc = fe_queue_tell(q, q->packed ? 0
						: __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE));
	}
	return rc;
}

int fe_start(struct fe *fe, unsigned count, unsigned num, uint64_t features)
{
	int rc = fe_negotiate(fe, features,
			      fe->protocol_more | FE_P_MQ | FE_P_REPLY_ACK | FE_P_CONFIG |
				      FE_P_MEM_SLOTS | FE_P_RESET_DEVICE);

	if (rc < 0)
		return rc;
	rc = fe_set_table(fe);
	if (rc < 0)
		return rc;
	return fe_queues_start(fe, count, num);
}
