/* SPDX-License-Identifier: MIT */
/*
 * A small vhost-user front-end with a driver of split and packed rings, for tests and benchmarks.
 * It speaks to any back-end over a unix socket and defines the wire format on its own, so that a
 * wrong structure in the library does not agree with itself.
 *
 * Threads: a struct fe and its messages belong to one thread; each fe_queue to one thread.
 * Memory: one memfd is the guest's RAM. Addresses: gpa = FE_GPA + offset in the memfd; the
 * front-end's own addresses (uaddr) are this process's. Further regions are added by hand.
 */
#ifndef TEST_FRONTEND_H
#define TEST_FRONTEND_H

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fe_message {
	FE_GET_FEATURES = 1,
	FE_SET_FEATURES = 2,
	FE_SET_OWNER = 3,
	FE_RESET_OWNER = 4,
	FE_SET_MEM_TABLE = 5,
	FE_SET_LOG_BASE = 6,
	FE_SET_LOG_FD = 7,
	FE_SET_VRING_NUM = 8,
	FE_SET_VRING_ADDR = 9,
	FE_SET_VRING_BASE = 10,
	FE_GET_VRING_BASE = 11,
	FE_SET_VRING_KICK = 12,
	FE_SET_VRING_CALL = 13,
	FE_SET_VRING_ERR = 14,
	FE_GET_PROTOCOL_FEATURES = 15,
	FE_SET_PROTOCOL_FEATURES = 16,
	FE_GET_QUEUE_NUM = 17,
	FE_SET_VRING_ENABLE = 18,
	FE_SET_BACKEND_REQ_FD = 21,
	FE_GET_CONFIG = 24,
	FE_SET_CONFIG = 25,
	FE_POSTCOPY_ADVISE = 28,
	FE_POSTCOPY_LISTEN = 29,
	FE_POSTCOPY_END = 30,
	FE_GET_INFLIGHT_FD = 31,
	FE_SET_INFLIGHT_FD = 32,
	FE_RESET_DEVICE = 34,
	FE_GET_MAX_MEM_SLOTS = 36,
	FE_ADD_MEM_REG = 37,
	FE_REM_MEM_REG = 38,
};

#define FE_VERSION 1u
#define FE_REPLY 4u
#define FE_NEED_REPLY 8u
#define FE_NO_FD 0x100u

#define FE_F_PROTOCOL_FEATURES (UINT64_C(1) << 30)
#define FE_F_EVENT_IDX (UINT64_C(1) << 29)
#define FE_F_INDIRECT (UINT64_C(1) << 28)
#define FE_F_LOG_ALL (UINT64_C(1) << 26)
#define FE_F_VERSION_1 (UINT64_C(1) << 32)
#define FE_F_PACKED (UINT64_C(1) << 34)

#define FE_P_MQ (UINT64_C(1) << 0)
#define FE_P_LOG_SHMFD (UINT64_C(1) << 1)
#define FE_P_REPLY_ACK (UINT64_C(1) << 3)
#define FE_P_PAGEFAULT (UINT64_C(1) << 8)
#define FE_P_CONFIG (UINT64_C(1) << 9)
#define FE_P_INFLIGHT_SHMFD (UINT64_C(1) << 12)
#define FE_P_RESET_DEVICE (UINT64_C(1) << 13)
#define FE_P_MEM_SLOTS (UINT64_C(1) << 15)

struct fe_header {
	uint32_t request, flags, size;
};

struct fe_region {
	uint64_t gpa, size, uaddr, offset;
};

struct fe_table {
	uint32_t count, padding;
	struct fe_region regions[8];
};

struct fe_mem_reg {
	uint64_t padding;
	struct fe_region region;
};

struct fe_vring_state {
	uint32_t index, num;
};

struct fe_vring_addr {
	uint32_t index, flags;
	uint64_t desc, used, avail, log;
};

struct fe_log {
	uint64_t size, offset;
};

struct fe_inflight {
	uint64_t size, offset;
	uint16_t queues, queue_size;
	uint32_t padding;
};

struct fe_config {
	uint32_t offset, size, flags;
	uint8_t bytes[256];
};

#define FE_GPA UINT64_C(0x100000000)
#define FE_DATA UINT64_C(0x200000) /* rings lie below this offset of the RAM, data from here on */
#define FE_TIMEOUT_MS 5000

/* One buffer of a chain, by guest address. */
struct fe_buf {
	uint64_t gpa;
	uint32_t length;
	bool write; /* the device writes it */
};

/*
 * One ring. Pointers are into the RAM; the driver's own state is never read from it. A packed one
 * has its descriptors at desc, its event structures at avail and used, and ids for heads.
 */
struct fe_queue {
	struct fe *fe;
	unsigned index, num;
	bool packed;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	struct vring_desc *tables; /* num tables of FE_TABLE entries, for indirect chains */
	uint64_t tables_gpa;
	bool avail_wrap, used_wrap; /* packed; indices are below num then */
	uint16_t held, held_flags;  /* packed: the first head not published by fe_kick() yet */
	uint16_t added;		    /* packed: descriptors since then, 0: none */
	uint16_t avail_idx;	    /* published */
	uint16_t kicked_idx;	    /* avail_idx at the last fe_kick() */
	uint16_t last_used;
	uint16_t free_head, free_count;
	uint16_t *chain_length; /* by head, 0: not in flight */
	uint64_t *cookies;	/* by head */
	int kick, call, err;
	int64_t spin_ns; /* fe_wait() looks for a call this long before it sleeps */
	bool event_idx, indirect;
	bool logged; /* the used ring, at log_gpa */
	uint64_t log_gpa;
};
#define FE_TABLE 16

struct fe {
	int sock;
	int memfd;
	uint8_t *mem;
	uint64_t size;
	uint64_t features, protocol;
	uint64_t protocol_more; /* beside what fe_start() asks for */
	bool packed;		/* ask for packed rings, which is not done else */
	unsigned queue_max;
	struct fe_queue *queues;
	unsigned queue_count;
	uint64_t ring_next; /* next free byte for rings */
};

extern bool fe_wants_packed; /* what fe_open() puts into fe->packed */

/* All return 0 or a count, or a negative errno. fe_open() retries for FE_TIMEOUT_MS. */
int fe_open(struct fe *fe, const char *path, uint64_t size);
void fe_close(struct fe *fe);
/* A new connection with the same memory, nothing negotiated. */
int fe_reconnect(struct fe *fe, const char *path);

/* Raw: any bytes with any descriptors. fe_recv() gives -ECONNRESET when the peer has closed. */
int fe_send_raw(struct fe *fe, const void *bytes, size_t size, const int *fds, unsigned fd_count);
int fe_send(struct fe *fe, uint32_t request, uint32_t flags, const void *payload, uint32_t size,
	    const int *fds, unsigned fd_count);
int fe_recv(struct fe *fe, struct fe_header *header, void *payload, uint32_t room);
/* With one descriptor: *fd, the caller's, or -1 when none came. */
int fe_recv_fd(struct fe *fe, struct fe_header *header, void *payload, uint32_t room, int *fd);
/* Sends with NEED_REPLY; 0, or -EREMOTEIO when the answer is non-zero. */
int fe_ack(struct fe *fe, uint32_t request, const void *payload, uint32_t size, const int *fds,
	   unsigned fd_count);
int fe_get_u64(struct fe *fe, uint32_t request, uint64_t *value);
int fe_set_u64(struct fe *fe, uint32_t request, uint64_t value);
/* 1 when the peer closed the connection within the time-out, else 0. */
int fe_is_closed(struct fe *fe);

/* Features: those wanted that the back-end has. */
int fe_negotiate(struct fe *fe, uint64_t features, uint64_t protocol);
int fe_set_table(struct fe *fe);
int fe_add_region(struct fe *fe, const struct fe_region *region, int fd);
int fe_remove_region(struct fe *fe, const struct fe_region *region, int fd_or_minus_1);
int fe_get_config(struct fe *fe, uint32_t offset, void *config, uint32_t size);

int fe_queues_start(struct fe *fe, unsigned count, unsigned num);
/* Sends all messages of one ring, from @base; memory is (re)initialised when @base is 0. */
int fe_queue_setup(struct fe_queue *q, uint32_t base);
int fe_queue_stop(struct fe_queue *q, uint32_t *base);
/* The same messages with the memory as it is; and the addresses alone. */
int fe_queue_tell(struct fe_queue *q, uint32_t base);
int fe_queue_tell_addr(struct fe_queue *q);
/* Log of dirty pages; record of requests in flight. *fd is the caller's. */
int fe_set_log(struct fe *fe, int fd, uint64_t size, uint64_t offset);
int fe_get_inflight(struct fe *fe, unsigned queues, unsigned queue_size,
		    struct fe_inflight *inflight, int *fd);
int fe_set_inflight(struct fe *fe, const struct fe_inflight *inflight, int fd);
/* Postcopy, frontend_postcopy.c: a userfaultfd, which is the caller's; the table, and where the
 * back-end has it; the word that faults in it are answered, by a message of this kind. */
int fe_postcopy_advise(struct fe *fe, int *uffd);
int fe_postcopy_listen(struct fe *fe);
int fe_postcopy_table(struct fe *fe, uint64_t *base);
int fe_postcopy_ack(struct fe *fe, uint32_t request);
int fe_postcopy_end(struct fe *fe);
/* A new connection that goes on with rings and memory as they are, as after a crash. */
int fe_recover(struct fe *fe, const char *path, const struct fe_inflight *inflight, int fd);
/* negotiate + table + queues, with all that the back-end has */
int fe_start(struct fe *fe, unsigned count, unsigned num, uint64_t features);

/* -ENOSPC: no free descriptors. Published by fe_kick(), which honours suppression. */
int fe_submit(struct fe_queue *q, const struct fe_buf *bufs, unsigned count, uint64_t cookie);
void fe_kick(struct fe_queue *q);
/* 1 and the result, or 0: nothing used yet. */
int fe_poll(struct fe_queue *q, uint64_t *cookie, uint32_t *written);
/* As fe_poll(), waits on the call descriptor; -ETIMEDOUT. */
int fe_wait(struct fe_queue *q, int timeout_ms, uint64_t *cookie, uint32_t *written);

/* driver_packed.c: of the above, for packed rings; where the next descriptors go, for tests. */
void fe_packed_reset(struct fe_queue *q);
int fe_packed_submit(struct fe_queue *q, const struct fe_buf *bufs, unsigned count,
		     uint64_t cookie);
void fe_packed_add(struct fe_queue *q, const struct vring_packed_desc *desc);
void fe_packed_kick(struct fe_queue *q);
int fe_packed_poll(struct fe_queue *q, uint64_t *cookie, uint32_t *written);
void fe_packed_ask_call(struct fe_queue *q);
/* SET_VRING_BASE of a ring from which nothing is in flight. */
uint32_t fe_packed_base(const struct fe_queue *q);

static inline struct vring_packed_desc *fe_packed_desc(const struct fe_queue *q)
{
	return (struct vring_packed_desc *)(void *)q->desc;
}

static inline uint64_t fe_gpa(const struct fe *fe, const void *host)
{
	return FE_GPA + (uint64_t)((const uint8_t *)host - fe->mem);
}

/* virtio-blk on top: places header and status in the RAM at @meta (offset, 32 bytes each). */
int fe_blk_submit(struct fe_queue *q, uint64_t meta, uint32_t type, uint64_t sector,
		  const struct fe_buf *data, unsigned count, uint64_t cookie);
static inline uint8_t fe_blk_status(const struct fe *fe, uint64_t meta)
{
	return *(volatile uint8_t *)(fe->mem + meta + 16);
}
/* Submits one request, waits, and gives its status, or a negative errno. */
int fe_blk(struct fe_queue *q, uint32_t type, uint64_t sector, uint64_t offset, uint32_t length);

#endif
