/* SPDX-License-Identifier: MIT */
/*
 * A hostile front-end: messages with descriptors of every kind, whole, damaged, cut short, in
 * bursts, with answers that are not read; files that shrink under the server; rings full of what
 * happens to be in them. The server must refuse or hang up; what a refused message was about must
 * not have changed, and when the connection is over nothing of it may be left: descriptors, maps,
 * blocks, pins.
 *
 * Input: a byte of set-up, then steps. A step is one byte (what; bit 6: do not let the server run
 * yet; bit 7: leave answers unread) and its operands.
 */
#include "vhost_front.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define QUEUES 3
#define STEPS 200
#define SLOT 0x10000u
#define UADDR UINT64_C(0x7f0000000000)
#define PAGE UINT64_C(4096)

enum { FILES = 3 };

static struct gr_vhost *server;
static unsigned peer_queues; /* of the server of this input */

struct peer {
	struct fuzz_input in;
	struct front front;
	int files[FILES]; /* memfds: unsealed, sealed, short */
	int kicks[QUEUES];
	bool queued; /* something was sent that the server has not looked at */
};

static bool packed; /* rings may be, or may have been in this input */

/* Let the server look at what was sent. */
static void process(struct peer *peer)
{
	front_process(&peer->front);
	packed |= (peer->front.server->connection.features & WIRE_F_RING_PACKED) != 0;
}

/* -------------------------------------------------------------------------------- the device */

static unsigned char config[24];

static void get_config(void *context, void *to)
{
	(void)context;
	memcpy(to, config, sizeof(config));
}

static int set_config(void *context, uint32_t offset, const void *bytes, uint32_t size)
{
	(void)context;
	FUZZ_CHECK(offset <= sizeof(config) && size <= sizeof(config) - offset);
	memcpy(config + offset, bytes, size);
	return 0;
}

static void set_features(void *context, uint64_t features)
{
	(void)context;
	FUZZ_CHECK(
		!(features & ~(UINT64_C(7) | WIRE_F_VERSION_1 | WIRE_F_INDIRECT_DESC |
			       WIRE_F_EVENT_IDX | WIRE_F_PROTOCOL_FEATURES | WIRE_F_RING_PACKED)));
}

/* Reads what is to be read, writes what is to be written. */
static void handle(void *context, void *worker, struct gr_vhost_request *const *requests,
		   unsigned count)
{
	(void)context;
	(void)worker;
	for (unsigned i = 0; i < count; i++) {
		struct gr_vhost_request *request = requests[i];
		uint64_t length = request->in_length;
		uint8_t bytes[64] = {0};
		int rc;

		FUZZ_CHECK(request->queue < QUEUES);
		do
			rc = gr_vhost_pull(request, bytes,
					   request->out_length < sizeof(bytes) ? request->out_length
									       : sizeof(bytes));
		while (!rc && request->out_length && request->out_length < 4096);
		rc = gr_vhost_push(request, bytes, length < sizeof(bytes) ? length : sizeof(bytes));
		if (request->in_count) /* the last byte, which is written by other means */
			gr_vhost_wrote(request,
				       (char *)request->in[request->in_count - 1].iov_base +
					       request->in[request->in_count - 1].iov_len - 1,
				       1);
		gr_vhost_complete(request, rc ? 0 : length);
	}
}

static const struct gr_vhost_ops ops = {
	.features = 7,
	.request_size = 24,
	.config_size = sizeof(config),
	.get_config = get_config,
	.set_config = set_config,
	.set_features = set_features,
	.handle = handle,
};

/* ----------------------------------------------------------------------------- descriptors */

/* A new one, or -1; the caller closes it. */
static int open_fd(struct peer *peer, uint8_t kind)
{
	int pair[2];

	switch (kind & 15) {
	case 0:
	case 1:
	case 2:
	case 3:
		return dup(peer->files[0]);
	case 4:
	case 5:
		return dup(peer->files[1]);
	case 6:
		return dup(peer->files[2]);
	case 7:
		return dup(peer->kicks[kind / 16 % QUEUES]);
	case 8:
		return eventfd(kind & 16 ? UINT32_MAX : 0, EFD_CLOEXEC);
	case 9:
		return open("/dev/null", (kind & 16 ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	case 10:
		return open("/", O_PATH | O_CLOEXEC);
	case 11:
		return open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	case 12:
		return epoll_create1(EPOLL_CLOEXEC);
	case 13:
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			return -1;
		close(pair[1]); /* the far end is gone */
		return pair[0];
	case 14:
		if (pipe2(pair, O_CLOEXEC))
			return -1;
		close(pair[kind >> 4 & 1]);
		return pair[!(kind >> 4 & 1)];
	default: /* a file that may only be read */
		return open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	}
}

static unsigned open_fds(struct peer *peer, int *fds, unsigned count, uint8_t kind)
{
	unsigned opened = 0;

	for (unsigned i = 0; i < count; i++) {
		uint8_t this_kind = kind & 0x80 ? fuzz_u8(&peer->in) : kind;

		fds[opened] = open_fd(peer, this_kind);
		if (fds[opened] >= 0)
			opened++;
	}
	return opened;
}

static void close_fds(const int *fds, unsigned count)
{
	while (count)
		close(fds[--count]);
}

/* --------------------------------------------------------------------------------- payloads */

static struct wire_region make_region(struct peer *peer)
{
	uint8_t slot = fuzz_u8(&peer->in);

	return (struct wire_region){
		.gpa = (slot & 0x40 ? UINT64_C(0) - 8 * SLOT : 0) + (slot & 7) * SLOT,
		.size = slot & 0x20 ? PAGE : SLOT,
		.uaddr = UADDR + (slot & 7) * SLOT,
		.offset = (slot & 3) * SLOT,
	};
}

/* A ring in the first pages of a slot: 64 bytes of slack before each part. */
static struct wire_vring_addr make_addr(struct peer *peer)
{
	uint8_t slot = fuzz_u8(&peer->in);
	uint64_t base = UADDR + (slot & 7) * SLOT;

	return (struct wire_vring_addr){
		.index = slot >> 3 & 3,
		.desc = base,
		.avail = base + PAGE + (slot & 0x80 ? SLOT - 2 * PAGE - 8 : 0),
		.used = base + 2 * PAGE + (slot & 0x40 ? SLOT - 3 * PAGE - 4 : 0),
	};
}

static uint64_t make_features(struct peer *peer, bool protocol)
{
	uint64_t all =
		protocol ? WIRE_P_MQ | WIRE_P_REPLY_ACK | WIRE_P_CONFIG | WIRE_P_RESET_DEVICE |
				   WIRE_P_CONFIGURE_MEM_SLOTS | WIRE_P_LOG_SHMFD |
				   WIRE_P_INFLIGHT_SHMFD | WIRE_P_PAGEFAULT
			 : 7 | WIRE_F_VERSION_1 | WIRE_F_INDIRECT_DESC | WIRE_F_EVENT_IDX |
				   WIRE_F_PROTOCOL_FEATURES | WIRE_F_LOG_ALL | WIRE_F_RING_PACKED;
	uint8_t how = fuzz_u8(&peer->in);

	switch (how & 3) {
	case 0:
		return all;
	case 1: /* all but one */
		return all & ~(UINT64_C(1) << (how >> 2));
	case 2:
		return all | UINT64_C(1) << (how >> 2);
	default:
		return fuzz_u64(&peer->in);
	}
}

struct plan {
	union {
		union wire_payload payload;
		uint8_t bytes[1024];
	};
	uint32_t size;
	int fds[16];
	unsigned fd_count;
};

/* What a front-end that means well would send, with values of the input. */
static void make_plan(struct peer *peer, uint32_t request, struct plan *plan)
{
	union wire_payload *p = &plan->payload;
	uint8_t value;

	switch (request) {
	case WIRE_SET_FEATURES:
	case WIRE_SET_PROTOCOL_FEATURES:
		p->u64 = make_features(peer, request == WIRE_SET_PROTOCOL_FEATURES);
		plan->size = sizeof(p->u64);
		return;
	case WIRE_SET_MEM_TABLE:
		p->table.count = fuzz_u8(&peer->in) % 9;
		for (unsigned i = 0; i < p->table.count; i++)
			if (i < WIRE_TABLE_REGIONS)
				p->table.regions[i] = make_region(peer);
		plan->size = 8 + p->table.count * (uint32_t)sizeof(struct wire_region);
		plan->fd_count = open_fds(peer, plan->fds, p->table.count, fuzz_u8(&peer->in));
		return;
	case WIRE_ADD_MEM_REG:
	case WIRE_REM_MEM_REG:
		p->mem_reg.region = make_region(peer);
		plan->size = sizeof(p->mem_reg);
		if (request == WIRE_ADD_MEM_REG)
			plan->fd_count = open_fds(peer, plan->fds, 1, fuzz_u8(&peer->in));
		return;
	case WIRE_SET_VRING_NUM:
	case WIRE_SET_VRING_BASE:
	case WIRE_GET_VRING_BASE:
	case WIRE_SET_VRING_ENABLE:
		value = fuzz_u8(&peer->in);
		p->state.index = value & 3;
		p->state.num = request == WIRE_SET_VRING_NUM	  ? 1u << (value >> 2 & 15)
			       : request == WIRE_SET_VRING_ENABLE ? value >> 2 & 1
								  : (value >> 2) * 1041u;
		if (request == WIRE_SET_VRING_BASE && packed)
			p->state.num = (value >> 2 & 15) * 0x00010001u |
				       (value >> 6) * 0x80000000u | (value >> 7) * 0x8000u;
		plan->size = sizeof(p->state);
		return;
	case WIRE_SET_VRING_ADDR:
		p->addr = make_addr(peer);
		plan->size = sizeof(p->addr);
		return;
	case WIRE_SET_VRING_KICK:
	case WIRE_SET_VRING_CALL:
	case WIRE_SET_VRING_ERR:
		value = fuzz_u8(&peer->in);
		p->u64 = (value & 3) | (value & 4 ? WIRE_VRING_NO_FD : 0);
		plan->size = sizeof(p->u64);
		if (!(value & 4))
			plan->fd_count = open_fds(peer, plan->fds, 1,
						  value & 8 ? fuzz_u8(&peer->in) | 0x80
							    : 7 | (value & 3) << 4);
		return;
	case WIRE_SET_LOG_BASE:
		value = fuzz_u8(&peer->in);
		p->log.size = value & 0x40 ? 16 : value & 0x3f; /* 16 reach all low slots */
		p->log.offset = (value & 0x80) * 33u;
		plan->size = sizeof(p->log);
		plan->fd_count = open_fds(peer, plan->fds, 1, fuzz_u8(&peer->in));
		return;
	case WIRE_SET_LOG_FD:
		plan->fd_count = open_fds(peer, plan->fds, 1, fuzz_u8(&peer->in));
		return;
	case WIRE_GET_INFLIGHT_FD:
	case WIRE_SET_INFLIGHT_FD:
		value = fuzz_u8(&peer->in);
		p->inflight.queues = 1 + (value & 3);
		p->inflight.queue_size = (uint16_t)(1u << (value >> 2 & 15));
		p->inflight.size = p->inflight.queues *
				   gr__inflight_queue_size(p->inflight.queue_size, value & 0x40);
		p->inflight.offset = value & 0x40 ? SLOT : 0;
		plan->size = value & 0x80 ? WIRE_INFLIGHT_SHORT : sizeof(p->inflight);
		if (request == WIRE_SET_INFLIGHT_FD)
			plan->fd_count = open_fds(peer, plan->fds, 1, fuzz_u8(&peer->in));
		return;
	case WIRE_GET_CONFIG:
	case WIRE_SET_CONFIG:
		value = fuzz_u8(&peer->in);
		p->config.offset = value & 15;
		p->config.size = value >> 4;
		if (value & 1)
			fuzz_take(&peer->in, p->config.bytes, p->config.size);
		plan->size = WIRE_CONFIG_HEAD + p->config.size;
		return;
	default:
		return;
	}
}

/* A word of the payload becomes something odd. */
static void damage(struct peer *peer, struct plan *plan)
{
	static const uint64_t odd[] = {
		0,
		1,
		UINT64_MAX,
		0xfff,
		0x1000,
		UINT64_C(1) << 63,
		UINT64_MAX - 0xfff,
		UINT64_C(1) << 32,
		UINT32_MAX,
		0x100,
	};
	uint8_t at = fuzz_u8(&peer->in), what = fuzz_u8(&peer->in);
	uint64_t value;

	if (plan->size < 8)
		return;
	at = (uint8_t)(at % (plan->size / 4));
	if (what & 0x80)
		value = fuzz_u64(&peer->in);
	else
		value = odd[(what & 15) % COUNT_OF(odd)];
	memcpy(plan->bytes + at * 4, &value, what & 0x40 ? 4 : 8);
}

/* ------------------------------------------------------------------------------------ steps */

/* The table is what the figures say; a message that was refused has left it alone. */
static void check_memory(struct peer *peer)
{
	const struct gr__memory *memory = &peer->front.server->memory;
	struct gr_ram_stats stats;
	struct gr_range range;

	gr_ram_get_stats(memory->ram, &stats);
	FUZZ_CHECK(stats.blocks == memory->count + memory->prepared_count);
	FUZZ_CHECK(stats.ranges == 2 * memory->count);
	FUZZ_CHECK(stats.spaces == 2);
	gr_read_begin();
	for (unsigned i = 0; i < memory->count; i++) {
		const struct gr__region *region = &memory->regions[i];

		FUZZ_CHECK(gr_space_find(memory->gpa, region->wire.gpa, &range) == 0);
		FUZZ_CHECK(range.block == region->block && range.length == region->wire.size);
		FUZZ_CHECK(gr_space_find(memory->uaddr, region->wire.uaddr, &range) == 0);
		FUZZ_CHECK(range.block == region->block && range.length == region->wire.size);
	}
	gr_read_end();
}

/* What was sent and answered by 0 must have been right in itself. */
static void check_accepted(const struct plan *plan, uint32_t request)
{
	const union wire_payload *p = &plan->payload;

	switch (request) {
	case WIRE_SET_MEM_TABLE:
		FUZZ_CHECK(p->table.count <= WIRE_TABLE_REGIONS);
		FUZZ_CHECK(plan->fd_count == p->table.count);
		FUZZ_CHECK(plan->size >= 8 + p->table.count * sizeof(struct wire_region));
		return;
	case WIRE_ADD_MEM_REG:
		FUZZ_CHECK(plan->size == 8 || (plan->fd_count == 1 && p->mem_reg.region.size));
		return;
	case WIRE_SET_VRING_NUM:
		FUZZ_CHECK(p->state.num && p->state.num <= 256 &&
			   (!(p->state.num & (p->state.num - 1)) || packed));
		/* fall through */
	case WIRE_SET_VRING_BASE:
		FUZZ_CHECK(p->state.num <= UINT16_MAX || packed);
		/* fall through */
	case WIRE_SET_VRING_ENABLE:
		FUZZ_CHECK(p->state.index < peer_queues);
		return;
	case WIRE_SET_VRING_ADDR:
		FUZZ_CHECK(p->addr.index < peer_queues);
		FUZZ_CHECK(!(p->addr.desc & 15) && !(p->addr.avail & 1) && !(p->addr.used & 3));
		return;
	case WIRE_SET_VRING_KICK:
	case WIRE_SET_VRING_CALL:
	case WIRE_SET_VRING_ERR:
		FUZZ_CHECK((p->u64 & 0xff) < peer_queues && p->u64 < 512);
		FUZZ_CHECK(plan->fd_count == !(p->u64 & WIRE_VRING_NO_FD));
		return;
	case WIRE_SET_LOG_BASE:
		FUZZ_CHECK(plan->fd_count == 1 && p->log.size);
		FUZZ_CHECK(p->log.offset <= UINT64_MAX - p->log.size);
		return;
	case WIRE_SET_INFLIGHT_FD:
		FUZZ_CHECK(plan->fd_count == 1 && p->inflight.queue_size <= 256);
		FUZZ_CHECK(p->inflight.queues && p->inflight.queues <= peer_queues);
		return;
	case WIRE_SET_CONFIG:
		FUZZ_CHECK(p->config.offset + (uint64_t)p->config.size <= sizeof(config));
		return;
	default:
		return;
	}
}

static void step_message(struct peer *peer, uint32_t request, bool at_once)
{
	uint8_t how = fuzz_u8(&peer->in);
	uint32_t flags = WIRE_VERSION | (how & 1 ? WIRE_NEED_REPLY : 0);
	uint64_t changes = peer->front.server->memory.changes;
	struct plan plan = {.size = 0};

	make_plan(peer, request, &plan);
	if (how & 2)
		damage(peer, &plan);
	if (how & 4)
		damage(peer, &plan);
	if (how & 8)
		flags = fuzz_u8(&peer->in);
	if (how & 16)
		plan.size = how & 32 ? fuzz_u32(&peer->in) : fuzz_u16(&peer->in) % 600;
	if (how & 64) {
		uint8_t count = fuzz_u8(&peer->in);

		close_fds(plan.fds, plan.fd_count);
		plan.fd_count = open_fds(peer, plan.fds, count % 17, fuzz_u8(&peer->in));
	}
	FUZZ_SAY("message %u, flags %#x, %u bytes, %u fds\n", request, flags, plan.size,
		 plan.fd_count);
	front_message(&peer->front, request, flags, plan.bytes, plan.size, plan.fds, plan.fd_count);
	close_fds(plan.fds, plan.fd_count);
	if (!at_once)
		return;
	while (front_answer(&peer->front)) /* of what was sent before */
		;
	process(peer);
	if (peer->queued || !front_answer(&peer->front) || peer->front.header.request != request)
		return;
	FUZZ_SAY("answer %llu\n", (unsigned long long)peer->front.payload.u64);
	if (peer->front.server->postcopy.listening)
		return; /* answers are of another form, and changes come later */
	if (!peer->front.payload.u64)
		check_accepted(&plan, request);
	if (request == WIRE_ADD_MEM_REG || request == WIRE_REM_MEM_REG ||
	    request == WIRE_SET_MEM_TABLE)
		FUZZ_CHECK(peer->front.server->memory.changes ==
			   changes + !peer->front.payload.u64);
}

static void step_raw(struct peer *peer)
{
	uint8_t bytes[256], size = fuzz_u8(&peer->in), kind = fuzz_u8(&peer->in);
	int fds[16];
	unsigned count = open_fds(peer, fds, kind >> 5 & 3, kind & 0x9f);

	fuzz_take(&peer->in, bytes, size);
	front_send(&peer->front, bytes, size, fds, count);
	close_fds(fds, count);
}

/* A message in two parts, the server looking at the first alone. */
static void step_halves(struct peer *peer)
{
	struct wire_header header = {0};
	struct plan plan = {.size = 0};
	uint8_t bytes[sizeof(header) + sizeof(plan.bytes)], cut;
	size_t size;

	header.request = fuzz_u8(&peer->in) % WIRE_REQUESTS;
	header.flags = WIRE_VERSION | WIRE_NEED_REPLY;
	make_plan(peer, header.request, &plan);
	header.size = plan.size;
	memcpy(bytes, &header, sizeof(header));
	memcpy(bytes + sizeof(header), plan.bytes, sizeof(plan.bytes));
	size = sizeof(header) + plan.size;
	cut = fuzz_u8(&peer->in);
	if (cut & 0x80) { /* the descriptors come with the second part */
		front_send(&peer->front, bytes, cut % size, NULL, 0);
		process(peer);
		front_send(&peer->front, bytes + cut % size, size - cut % size, plan.fds,
			   plan.fd_count);
	} else {
		front_send(&peer->front, bytes, cut % size, plan.fds, plan.fd_count);
		process(peer);
		if (cut & 0x40) /* and it ends here */
			front_hang_up(&peer->front);
		else
			front_send(&peer->front, bytes + cut % size, size - cut % size, NULL, 0);
	}
	close_fds(plan.fds, plan.fd_count);
}

/* Without holes: nobody answers faults here, so no worker may wait for a page. */
static void resize_file(int fd, uint64_t size)
{
	if (ftruncate(fd, (off_t)size) || (size && fallocate(fd, 0, 0, (off_t)size)))
		return; /* some sizes are refused; all the same */
}

static void step_file(struct peer *peer)
{
	uint8_t how = fuzz_u8(&peer->in);
	uint8_t bytes[64];

	if (how & 0x80) { /* under the server's feet */
		resize_file(peer->files[0], (how & 0x7f) * PAGE);
	} else {
		off_t at = (off_t)((how & 3) * SLOT + (how >> 2 & 3) * PAGE + fuzz_u8(&peer->in));

		fuzz_take(&peer->in, bytes, 16 + (how >> 4) * 6);
		if (pwrite(peer->files[how & 1], bytes, 16 + (how >> 4) * 6, at) < 0)
			return;
	}
}

/* One more request in a ring as set_up() places it. */
static void put_request(struct peer *peer, unsigned which)
{
	struct wire_desc desc = {
		.addr = fuzz_u8(&peer->in) * 0x1000u,
		.length = fuzz_u8(&peer->in) * 64u,
		.flags = fuzz_u8(&peer->in) & (WIRE_DESC_NEXT | WIRE_DESC_WRITE),
		.next = 1,
	};
	off_t at = (off_t)(which * SLOT);
	uint16_t idx;

	if (packed) { /* the first of its ring, in round 1 */
		uint16_t flags = desc.flags | WIRE_DESC_AVAIL;

		desc.next = flags;
		desc.flags = which;
	}
	for (unsigned i = 0; i < 2; i++) {
		int file = peer->files[i];

		if (pread(file, &idx, sizeof(idx), at + (off_t)PAGE + 2) != sizeof(idx))
			continue;
		idx++;
		if (pwrite(file, &desc, sizeof(desc), at) < 0 ||
		    pwrite(file, &idx, sizeof(idx), at + (off_t)PAGE + 2) < 0)
			return;
	}
}

static void step_kick(struct peer *peer)
{
	uint8_t how = fuzz_u8(&peer->in), which = how % QUEUES;
	uint64_t one = 1;

	if (how & 0x80)
		put_request(peer, which);
	if (write(peer->kicks[which], &one, sizeof(one)) < 0)
		return;
	front_settle(peer->front.server->queues[which].worker);
}

static void set_up(struct peer *peer, uint8_t how)
{
	const uint64_t features = 7 | WIRE_F_VERSION_1 | WIRE_F_INDIRECT_DESC |
				  WIRE_F_PROTOCOL_FEATURES | (how & 8 ? WIRE_F_EVENT_IDX : 0) |
				  ((how & 0x50) == 0x40 ? WIRE_F_RING_PACKED : 0);
	const uint64_t postcopy = gr__postcopy_is_possible() ? WIRE_P_PAGEFAULT : 0;
	struct wire_table table = {.count = 4};
	int fds[4];

	if (how & 1) {
		front_must_u64(&peer->front, WIRE_SET_FEATURES, features);
		front_must_u64(&peer->front, WIRE_SET_PROTOCOL_FEATURES,
			       WIRE_P_MQ | WIRE_P_REPLY_ACK | WIRE_P_CONFIG | WIRE_P_RESET_DEVICE |
				       WIRE_P_CONFIGURE_MEM_SLOTS | WIRE_P_LOG_SHMFD |
				       WIRE_P_INFLIGHT_SHMFD | postcopy);
		packed = features & WIRE_F_RING_PACKED;
	}
	if (!(how & 2))
		return;
	for (unsigned i = 0; i < 4; i++) {
		table.regions[i] = (struct wire_region){i * SLOT, SLOT, UADDR + i * SLOT, i * SLOT};
		fds[i] = peer->files[how >> 7];
	}
	front_must(&peer->front, WIRE_SET_MEM_TABLE, &table, 8 + 4 * sizeof(table.regions[0]), fds,
		   4);
	for (unsigned i = 0; i < QUEUES && how & 4; i++) {
		struct wire_vring_state num = {i, 8}, on = {i, 1};
		struct wire_vring_addr addr = {
			.index = i,
			.desc = UADDR + i * SLOT,
			.avail = UADDR + i * SLOT + PAGE,
			.used = UADDR + i * SLOT + 2 * PAGE,
		};
		uint64_t index = i;

		front_must(&peer->front, WIRE_SET_VRING_NUM, &num, sizeof(num), NULL, 0);
		front_must(&peer->front, WIRE_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0);
		front_must(&peer->front, WIRE_SET_VRING_KICK, &index, 8, &peer->kicks[i], 1);
		front_must(&peer->front, WIRE_SET_VRING_ENABLE, &on, sizeof(on), NULL, 0);
	}
}

static void one_step(struct peer *peer)
{
	static const uint32_t requests[] = {1,	2,  3,	4,  5,	8,  9,	10, 11, 12, 13,
					    14, 15, 16, 17, 18, 24, 25, 34, 36, 37, 38};
	static const uint32_t shared[] = {WIRE_SET_LOG_BASE,	WIRE_SET_LOG_FD,
					  WIRE_GET_INFLIGHT_FD, WIRE_SET_INFLIGHT_FD,
					  WIRE_POSTCOPY_ADVISE, WIRE_POSTCOPY_LISTEN,
					  WIRE_POSTCOPY_END,	WIRE_ADD_MEM_REG};
	uint8_t code = fuzz_u8(&peer->in), what = code & 31;
	bool at_once = !(code & 0x40);

	if (peer->front.sock < 0 || !front_is_connected(&peer->front)) {
		front_hang_up(&peer->front);
		front_connect(&peer->front);
	}
	if (what < COUNT_OF(requests))
		step_message(peer, requests[what], at_once);
	else if (what == 22)
		step_message(peer, fuzz_u8(&peer->in), at_once);
	else if (what == 23)
		step_raw(peer);
	else if (what < 26)
		step_halves(peer);
	else if (what < 28)
		step_file(peer);
	else if (what < 30)
		step_kick(peer);
	else if (what == 30)
		front_hang_up(&peer->front);
	else
		step_message(peer, shared[fuzz_u8(&peer->in) & 7], at_once);
	peer->queued = !at_once;
	if (!at_once)
		return;
	process(peer);
	if (!(code & 0x80))
		while (front_answer(&peer->front))
			;
	check_memory(peer);
}

/* A server of its own for this input, with more queues and other threads. */
static struct gr_vhost *open_own(struct fuzz_input *in)
{
	uint8_t how = fuzz_u8(in);

	return front_server(&ops, NULL, QUEUES + (how & 3), 1 + (how >> 2) % QUEUES);
}

/* What gr_vhost_open() must refuse, and leave nothing of. */
static void try_bad_options(struct fuzz_input *in)
{
	struct fuzz_ledger before = fuzz_ledger_now();
	struct gr_vhost_ops some = ops;
	struct gr_vhost_opts opts = {
		.socket_path = "/nowhere/socket",
		.ops = &some,
		.queues = fuzz_u16(in) % 300,
		.threads = fuzz_u16(in) % 300,
		.queue_size_max = fuzz_u16(in),
	};
	char too_long[200];
	uint8_t how = fuzz_u8(in);
	int rc;

	memset(too_long, 'x', sizeof(too_long));
	too_long[sizeof(too_long) - 1] = 0;
	if (how & 1)
		opts.socket_path = how & 2 ? NULL : too_long;
	some.handle = how & 4 ? NULL : handle;
	some.config_size = how & 8 ? fuzz_u16(in) : sizeof(config);
	some.get_config = how & 16 ? NULL : get_config;
	opts.reserved[0] = how & 32;
	rc = gr_vhost_open(&opts, &(struct gr_vhost *){NULL});
	FUZZ_CHECK_SAY(rc == -EINVAL || rc == -ENOENT || rc == -ENAMETOOLONG, "%d: %s", rc,
		       gr_last_error());
	fuzz_ledger_check(&before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_ledger before = fuzz_ledger_now();
	struct peer peer = {.in = {data, size}};
	struct gr_vhost *own = NULL;
	uint8_t how = fuzz_u8(&peer.in);

	packed = false;
	if (!server) {
		server = front_server(&ops, NULL, QUEUES, 2);
		before = fuzz_ledger_now();
	}
	if (how & 0x10)
		own = open_own(&peer.in);
	if (how & 0x20)
		try_bad_options(&peer.in);
	memset(config, 0x5a, sizeof(config));
	front_begin(&peer.front, own ? own : server);
	peer_queues = peer.front.server->queue_count;
	for (unsigned i = 0; i < FILES; i++) {
		peer.files[i] = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		FUZZ_CHECK(peer.files[i] >= 0);
		resize_file(peer.files[i], i == 2 ? PAGE : 4 * SLOT);
	}
	FUZZ_CHECK(!fcntl(peer.files[1], F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL));
	for (unsigned i = 0; i < QUEUES; i++) {
		peer.kicks[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		FUZZ_CHECK(peer.kicks[i] >= 0);
	}
	set_up(&peer, how);
	for (unsigned i = 0; i < STEPS && peer.in.left; i++)
		one_step(&peer);
	front_process(&peer.front);
	if (own && how & 0x40) { /* with the front-end still there */
		FUZZ_CHECK(gr_vhost_close(own) == 0);
		close(peer.front.sock);
	} else {
		front_hang_up(&peer.front);
	}
	close_fds(peer.files, FILES);
	close_fds(peer.kicks, QUEUES);
	if (!own || !(how & 0x40))
		front_end(&peer.front);
	if (own && !(how & 0x40))
		FUZZ_CHECK(gr_vhost_close(own) == 0);
	fuzz_ledger_check(&before);
	return 0;
}
