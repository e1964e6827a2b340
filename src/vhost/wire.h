/* SPDX-License-Identifier: MIT */
/*
 * What travels: vhost-user messages on the socket and rings in guest memory, as the vhost-user and
 * virtio 1.x specifications define them. Little-endian (vhost-user: the host's order, which for us
 * must be little-endian, see the test below), fixed width.
 */
#ifndef GR__VHOST_WIRE_H
#define GR__VHOST_WIRE_H

#include <assert.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "vhost-user messages are in host order and rings little-endian; only where both agree"
#endif

enum wire_request {
	WIRE_GET_FEATURES = 1,
	WIRE_SET_FEATURES = 2,
	WIRE_SET_OWNER = 3,
	WIRE_RESET_OWNER = 4,
	WIRE_SET_MEM_TABLE = 5,
	WIRE_SET_LOG_BASE = 6,
	WIRE_SET_LOG_FD = 7,
	WIRE_SET_VRING_NUM = 8,
	WIRE_SET_VRING_ADDR = 9,
	WIRE_SET_VRING_BASE = 10,
	WIRE_GET_VRING_BASE = 11,
	WIRE_SET_VRING_KICK = 12,
	WIRE_SET_VRING_CALL = 13,
	WIRE_SET_VRING_ERR = 14,
	WIRE_GET_PROTOCOL_FEATURES = 15,
	WIRE_SET_PROTOCOL_FEATURES = 16,
	WIRE_GET_QUEUE_NUM = 17,
	WIRE_SET_VRING_ENABLE = 18,
	WIRE_GET_CONFIG = 24,
	WIRE_SET_CONFIG = 25,
	WIRE_POSTCOPY_ADVISE = 28,
	WIRE_POSTCOPY_LISTEN = 29,
	WIRE_POSTCOPY_END = 30,
	WIRE_GET_INFLIGHT_FD = 31,
	WIRE_SET_INFLIGHT_FD = 32,
	WIRE_RESET_DEVICE = 34,
	WIRE_GET_MAX_MEM_SLOTS = 36,
	WIRE_ADD_MEM_REG = 37,
	WIRE_REM_MEM_REG = 38,
	WIRE_REQUESTS,
};

/* wire_header.flags */
#define WIRE_VERSION_MASK 3u
#define WIRE_VERSION 1u
#define WIRE_REPLY (1u << 2)
#define WIRE_NEED_REPLY (1u << 3)

/* In the number of SET_VRING_KICK, CALL and ERR. */
#define WIRE_VRING_INDEX_MASK UINT64_C(0xff)
#define WIRE_VRING_NO_FD (UINT64_C(1) << 8)

#define WIRE_VRING_LOG 1u /* wire_vring_addr.flags */

#define WIRE_TABLE_REGIONS 8
#define WIRE_CONFIG_BYTES 256

#define BIT_U64(n) (UINT64_C(1) << (n))

/* Feature bits of the transport. */
#define WIRE_F_LOG_ALL BIT_U64(26)
#define WIRE_F_INDIRECT_DESC BIT_U64(28)
#define WIRE_F_EVENT_IDX BIT_U64(29)
#define WIRE_F_PROTOCOL_FEATURES BIT_U64(30)
#define WIRE_F_VERSION_1 BIT_U64(32)
#define WIRE_F_RING_PACKED BIT_U64(34)

/* Protocol features. */
#define WIRE_P_MQ BIT_U64(0)
#define WIRE_P_LOG_SHMFD BIT_U64(1)
#define WIRE_P_REPLY_ACK BIT_U64(3)
#define WIRE_P_PAGEFAULT BIT_U64(8)
#define WIRE_P_CONFIG BIT_U64(9)
#define WIRE_P_INFLIGHT_SHMFD BIT_U64(12)
#define WIRE_P_RESET_DEVICE BIT_U64(13)
#define WIRE_P_CONFIGURE_MEM_SLOTS BIT_U64(15)

struct wire_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload */
};

struct wire_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t uaddr;
	uint64_t offset; /* in the descriptor */
};

struct wire_table {
	uint32_t count;
	uint32_t padding;
	struct wire_region regions[WIRE_TABLE_REGIONS];
};

struct wire_mem_reg {
	uint64_t padding;
	struct wire_region region;
};

struct wire_vring_state {
	uint32_t index;
	uint32_t num;
};

struct wire_vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc;
	uint64_t used;
	uint64_t avail;
	uint64_t log;
};

struct wire_log {
	uint64_t size;	 /* in bytes, of the log */
	uint64_t offset; /* of its first byte in the descriptor */
};

struct wire_inflight {
	uint64_t size;
	uint64_t offset;
	uint16_t queues;
	uint16_t queue_size;
	uint32_t padding; /* some front-ends leave it out */
};
#define WIRE_INFLIGHT_SHORT 20

struct wire_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t bytes[WIRE_CONFIG_BYTES];
};
#define WIRE_CONFIG_HEAD 12

union wire_payload {
	uint64_t u64;
	struct wire_table table;
	struct wire_mem_reg mem_reg;
	struct wire_vring_state state;
	struct wire_vring_addr addr;
	struct wire_log log;
	struct wire_inflight inflight;
	struct wire_config config;
	uint8_t bytes[512]; /* room for messages of a later version, to be refused by name */
};

_Static_assert(sizeof(struct wire_header) == 12, "header");
_Static_assert(sizeof(struct wire_region) == 32, "region");
_Static_assert(sizeof(struct wire_table) == 264, "table");
_Static_assert(sizeof(struct wire_mem_reg) == 40, "memory region");
_Static_assert(sizeof(struct wire_vring_state) == 8, "vring state");
_Static_assert(sizeof(struct wire_vring_addr) == 40, "vring address");
_Static_assert(sizeof(struct wire_log) == 16, "log");
_Static_assert(sizeof(struct wire_inflight) == 24, "in flight");
_Static_assert(sizeof(struct wire_config) == 268, "config");
_Static_assert(sizeof(union wire_payload) == 512, "payload");

/* ------------------------------------------- requests in flight, in memory that is shared */

struct wire_inflight_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

struct wire_inflight_queue {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct wire_inflight_desc desc[];
};

/* The same for packed rings: what was read from descriptors, since the ring forgets them. */
struct wire_packed_state {
	uint8_t inflight;
	uint8_t padding;
	uint16_t next;
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint16_t id;
	uint16_t flags;
	uint32_t length;
	uint64_t addr;
};

struct wire_packed_record {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	uint16_t used_idx;
	uint16_t old_used_idx;
	uint8_t used_wrap;
	uint8_t old_used_wrap;
	uint8_t padding[10];
	struct wire_packed_state desc[];
};

_Static_assert(sizeof(struct wire_inflight_desc) == 16, "state of a descriptor");
_Static_assert(sizeof(struct wire_inflight_queue) == 16, "state of a queue");
_Static_assert(sizeof(struct wire_packed_state) == 32, "state of a packed ring's descriptor");
_Static_assert(sizeof(struct wire_packed_record) == 32, "state of a packed ring");

/* ------------------------------------------------------------------------------- split ring */

#define WIRE_DESC_NEXT 1u
#define WIRE_DESC_WRITE 2u
#define WIRE_DESC_INDIRECT 4u

#define WIRE_AVAIL_NO_INTERRUPT 1u
#define WIRE_USED_NO_NOTIFY 1u

struct wire_desc {
	uint64_t addr;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

struct wire_avail {
	uint16_t flags;
	uint16_t idx;
	uint16_t ring[]; /* num, then used_event */
};

struct wire_used_elem {
	uint32_t id;
	uint32_t length;
};

struct wire_used {
	uint16_t flags;
	uint16_t idx;
	struct wire_used_elem ring[]; /* num, then avail_event */
};

/* ------------------------------------------------------------------------------ packed ring */

#define WIRE_DESC_AVAIL (1u << 7)
#define WIRE_DESC_USED (1u << 15)

#define WIRE_WRAP (1u << 15) /* beside an index of 15 bits: the ring's wrap counter */

struct wire_packed_desc {
	uint64_t addr;
	uint32_t length;
	uint16_t id;
	uint16_t flags;
};

/* The driver's wish for calls, and ours for kicks: index and wrap counter, then what of this in
 * the upper half. */
#define WIRE_EVENT_ENABLE (0u << 16)
#define WIRE_EVENT_DISABLE (1u << 16)
#define WIRE_EVENT_DESC (2u << 16)
#define WIRE_EVENT_FLAGS (3u << 16)

_Static_assert(sizeof(struct wire_packed_desc) == 16, "packed descriptor");
_Static_assert(sizeof(struct wire_desc) == 16, "descriptor");
_Static_assert(sizeof(struct wire_avail) == 4, "available ring");
_Static_assert(sizeof(struct wire_used_elem) == 8, "used element");
_Static_assert(sizeof(struct wire_used) == 4, "used ring");

#endif
