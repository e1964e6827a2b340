/* SPDX-License-Identifier: MIT */
/*
 * A hostile front-end: messages of wrong sizes, order and descriptors, cut short anywhere. Each is
 * refused or ends the connection as the table says; the process lives, its descriptors and mappings
 * are as before, and the next front-end is served.
 */
#include "backend.h"
#include "frontend.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define RAM (UINT64_C(4) << 20)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | 0xffffffu)
#define MAX UINT64_MAX

static struct be be;
static struct fe fe;
static int regular = -1; /* a memfd of 64 KiB */

static int start(void **state)
{
	regular = memfd_create("front-end", MFD_CLOEXEC);
	return regular < 0 || ftruncate(regular, 65536) || be_start(&be, false, NULL) ||
	       fe_open(&fe, be.sock, RAM);
}

static int stop(void **state)
{
	bool died = !be_alive(&be);

	fe_close(&fe);
	close(regular);
	if (died) {
		char *log = be_read_log(&be);

		print_error("the back-end died:\n%s\n", log);
		free(log);
		return -1;
	}
	return be_stop(&be);
}

/* What is open and mapped once all that was removed has been given back. */
static void settle(int *fds, int *maps)
{
	assert_int_equal(be_wait_reclaimed(&be), 0);
	*fds = be_fds(&be);
	*maps = be_guest_maps(&be);
}

static void assert_still_serves(void)
{
	assert_true(be_alive(&be));
	assert_int_equal(fe_reconnect(&fe, be.sock), 0);
	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_int_equal(fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512), VIRTIO_BLK_S_OK);
}

/* ------------------------------------------------- refused, told so, and nothing has changed */

struct payload {
	uint8_t bytes[300];
	uint32_t size;
};

static struct payload u64(uint64_t value)
{
	struct payload p = {.size = 8};

	memcpy(p.bytes, &value, 8);
	return p;
}

static struct payload state_of(uint32_t index, uint32_t num)
{
	struct fe_vring_state s = {index, num};
	struct payload p = {.size = sizeof(s)};

	memcpy(p.bytes, &s, sizeof(s));
	return p;
}

static struct payload addr_of(uint32_t index, uint32_t flags, uint64_t desc, uint64_t avail,
			      uint64_t used)
{
	struct fe_vring_addr a = {index, flags, desc, used, avail, 0};
	struct payload p = {.size = sizeof(a)};

	memcpy(p.bytes, &a, sizeof(a));
	return p;
}

static struct payload region_of(uint64_t gpa, uint64_t size, uint64_t uaddr, uint64_t offset)
{
	struct fe_mem_reg r = {0, {gpa, size, uaddr, offset}};
	struct payload p = {.size = sizeof(r)};

	memcpy(p.bytes, &r, sizeof(r));
	return p;
}

/* @count as the message says, @there in its payload; region @bad has size @size */
static struct payload table_of(uint32_t count, unsigned there, int bad, uint64_t size)
{
	struct fe_table t = {.count = count};
	struct payload p = {.size = (uint32_t)(8 + there * sizeof(struct fe_region))};

	for (unsigned i = 0; i < there && i < 8; i++)
		t.regions[i] = (struct fe_region){0x10000u * i, (int)i == bad ? size : 0x10000,
						  0x7000000000 + 0x10000u * i, 0};
	memcpy(p.bytes, &t, sizeof(t) < sizeof(p.bytes) ? sizeof(t) : sizeof(p.bytes));
	return p;
}

static struct payload config_of(uint32_t offset, uint32_t size, uint32_t there)
{
	struct fe_config c = {.offset = offset, .size = size};
	struct payload p = {.size = 12 + there};

	memcpy(p.bytes, &c, sizeof(c));
	return p;
}

static struct payload short_by(struct payload p, uint32_t bytes)
{
	p.size -= bytes;
	return p;
}

static void refused_and_nothing_changed(void **state)
{
	uint64_t ram = (uintptr_t)fe.mem;
	const struct {
		const char *what;
		uint32_t request;
		struct payload payload;
		unsigned fds;
	} cases[] = {
		{"features not offered", FE_SET_FEATURES, u64(UINT64_C(1) << 60), 0},
		{"features, short", FE_SET_FEATURES, short_by(u64(0), 1), 0},
		{"features with a descriptor", FE_SET_FEATURES, u64(FE_F_VERSION_1), 1},
		{"protocol features not offered", FE_SET_PROTOCOL_FEATURES, u64(MAX), 0},
		{"owner with a payload", FE_SET_OWNER, u64(0), 0},
		{"no such message", 35, u64(0), 0},
		{"log descriptor, none", FE_SET_LOG_FD, {.size = 0}, 0},
		{"log descriptor, two", FE_SET_LOG_FD, {.size = 0}, 2},
		{"in flight, not negotiated", FE_SET_INFLIGHT_FD, {.size = 24}, 1},
		{"no such message, with descriptors", 100, u64(0), 3},
		{"a message of another protocol feature", FE_SET_BACKEND_REQ_FD, u64(0), 1},
		{"log base, not negotiated", FE_SET_LOG_BASE, u64(0), 1},
		{"ring of 0", FE_SET_VRING_NUM, state_of(1, 0), 0},
		{"ring of 3", FE_SET_VRING_NUM, state_of(1, 3), 0},
		{"ring of 2048", FE_SET_VRING_NUM, state_of(1, 2048), 0},
		{"ring of 2^31", FE_SET_VRING_NUM, state_of(1, 1u << 31), 0},
		{"size of a running ring", FE_SET_VRING_NUM, state_of(0, 32), 0},
		{"size of queue 4 of 4", FE_SET_VRING_NUM, state_of(4, 64), 0},
		{"size of queue 2^32-1", FE_SET_VRING_NUM, state_of(UINT32_MAX, 64), 0},
		{"index of a running ring", FE_SET_VRING_BASE, state_of(0, 0), 0},
		{"index over 16 bits", FE_SET_VRING_BASE, state_of(1, 65536), 0},
		{"addresses before the size", FE_SET_VRING_ADDR,
		 addr_of(1, 0, ram, ram + 4096, ram + 8192), 0},
		{"addresses of queue 9", FE_SET_VRING_ADDR,
		 addr_of(9, 0, ram, ram + 4096, ram + 8192), 0},
		{"ring flags", FE_SET_VRING_ADDR, addr_of(0, 2, ram, ram + 4096, ram + 8192), 0},
		{"descriptors not aligned", FE_SET_VRING_ADDR,
		 addr_of(0, 0, ram + 8, ram + 4096, ram + 8192), 0},
		{"available ring not aligned", FE_SET_VRING_ADDR,
		 addr_of(0, 0, ram, ram + 4097, ram + 8192), 0},
		{"used ring not aligned", FE_SET_VRING_ADDR,
		 addr_of(0, 0, ram, ram + 4096, ram + 8194), 0},
		{"P4: descriptors end past memory", FE_SET_VRING_ADDR,
		 addr_of(0, 0, ram + RAM - 1008, ram + 4096, ram + 8192), 0},
		{"P4: available ring ends past memory", FE_SET_VRING_ADDR,
		 addr_of(0, 0, ram, ram + RAM - 130, ram + 8192), 0},
		{"P4: used ring ends past memory", FE_SET_VRING_ADDR,
		 addr_of(0, 0, ram, ram + 4096, ram + RAM - 512), 0},
		{"P2: a ring that wraps", FE_SET_VRING_ADDR,
		 addr_of(0, 0, MAX - 15, ram + 4096, ram + 8192), 0},
		{"a ring outside memory", FE_SET_VRING_ADDR, addr_of(0, 0, 0, 4096, 8192), 0},
		{"kick without descriptor", FE_SET_VRING_KICK, u64(1), 0},
		{"kick with one too many", FE_SET_VRING_KICK, u64(1), 2},
		{"kick, no descriptor said, one there", FE_SET_VRING_KICK, u64(1 | FE_NO_FD), 1},
		{"kick of queue 200", FE_SET_VRING_KICK, u64(200), 1},
		{"kick with other bits", FE_SET_VRING_KICK, u64(1 | 0x10000), 1},
		{"kick that cannot be waited for", FE_SET_VRING_KICK, u64(1), 1},
		{"call of queue 200", FE_SET_VRING_CALL, u64(200), 1},
		{"call without descriptor", FE_SET_VRING_CALL, u64(0), 0},
		{"err, 8 descriptors", FE_SET_VRING_ERR, u64(0), 8},
		{"enable by 2", FE_SET_VRING_ENABLE, state_of(1, 2), 0},
		{"enable queue 77", FE_SET_VRING_ENABLE, state_of(77, 1), 0},
		{"P24: too few descriptors", FE_SET_MEM_TABLE, table_of(2, 2, -1, 0), 1},
		{"P24: too many descriptors", FE_SET_MEM_TABLE, table_of(2, 2, -1, 0), 3},
		{"P24: 40 descriptors", FE_SET_MEM_TABLE, table_of(2, 2, -1, 0), 40},
		{"no descriptor", FE_SET_MEM_TABLE, table_of(1, 1, -1, 0), 0},
		{"9 regions", FE_SET_MEM_TABLE, table_of(9, 8, -1, 0), 8},
		{"2^32-1 regions", FE_SET_MEM_TABLE, table_of(UINT32_MAX, 8, -1, 0), 8},
		{"8 regions in the space of 2", FE_SET_MEM_TABLE, table_of(8, 2, -1, 0), 8},
		{"P24: size 0 in region 0", FE_SET_MEM_TABLE, table_of(4, 4, 0, 0), 4},
		{"P24: size past the file in region 3", FE_SET_MEM_TABLE,
		 table_of(8, 8, 3, 0x20000), 8},
		{"P24: size wraps in region 7", FE_SET_MEM_TABLE, table_of(8, 8, 7, MAX - 4095), 8},
		{"P14: regions overlap", FE_SET_MEM_TABLE, table_of(2, 2, 0, 0x11000), 2},
		{"add without descriptor", FE_ADD_MEM_REG, region_of(0, 4096, 0, 0), 0},
		{"add with two", FE_ADD_MEM_REG, region_of(0, 4096, 0, 0), 2},
		{"add, short", FE_ADD_MEM_REG, short_by(region_of(0, 4096, 0, 0), 8), 1},
		{"add of nothing", FE_ADD_MEM_REG, region_of(0, 0, 0, 0), 1},
		{"P14: add over another", FE_ADD_MEM_REG, region_of(FE_GPA + 4096, 4096, 0, 0), 1},
		{"P14: add over another's addresses", FE_ADD_MEM_REG,
		 region_of(0, 4096, ram + RAM - 4096, 0), 1},
		{"P2: add that wraps", FE_ADD_MEM_REG, region_of(MAX - 4095, 8192, 0, 0), 1},
		{"P2: addresses that wrap", FE_ADD_MEM_REG, region_of(0, 8192, MAX - 4095, 0), 1},
		{"P5: size + offset wraps", FE_ADD_MEM_REG, region_of(0, 8192, 0, MAX - 4095), 1},
		{"P28: past the end of its file", FE_ADD_MEM_REG, region_of(0, 0x11000, 0, 0), 1},
		{"P28: beginning past it", FE_ADD_MEM_REG, region_of(0, 4096, 0, 0x10000), 1},
		{"not a multiple of pages", FE_ADD_MEM_REG, region_of(0, 4097, 0, 0), 1},
		{"not at a page", FE_ADD_MEM_REG, region_of(8, 4096, 0, 0), 1},
		{"remove what is not there", FE_REM_MEM_REG, region_of(0, 4096, 0, 0), 0},
		{"remove a part", FE_REM_MEM_REG, region_of(FE_GPA, RAM / 2, ram, 0), 0},
		{"remove by another address", FE_REM_MEM_REG, region_of(FE_GPA, RAM, ram + 4096, 0),
		 0},
		{"P25: remove with a descriptor, not there", FE_REM_MEM_REG,
		 region_of(0, 4096, 0, 0), 1},
		{"remove with 5", FE_REM_MEM_REG, region_of(FE_GPA, RAM, ram, 0), 5},
		{"configuration written", FE_SET_CONFIG, config_of(0, 8, 8), 0},
		{"configuration past its end", FE_SET_CONFIG, config_of(250, 16, 16), 0},
		{"configuration size of 2^32-1", FE_SET_CONFIG, config_of(16, UINT32_MAX, 16), 0},
		{"reset with a descriptor", FE_RESET_DEVICE, {.size = 0}, 1},
	};
	int fds, maps, fds_after, maps_after, some[64];

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	settle(&fds, &maps);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int rc;

		for (unsigned k = 0; k < cases[i].fds; k++)
			some[k] = regular;
		rc = fe_ack(&fe, cases[i].request, cases[i].payload.bytes, cases[i].payload.size,
			    some, cases[i].fds);
		if (rc != -EREMOTEIO)
			fail_msg("%s: %d", cases[i].what, rc);
		rc = fe_blk(&fe.queues[0], VIRTIO_BLK_T_IN, 0, FE_DATA, 512);
		if (rc != VIRTIO_BLK_S_OK)
			fail_msg("%s: then a read gives %d", cases[i].what, rc);
		settle(&fds_after, &maps_after);
		if (fds_after != fds || maps_after != maps)
			fail_msg("%s: %d descriptors, were %d; %d maps, were %d", cases[i].what,
				 fds_after, fds, maps_after, maps);
	}
}

/* P25: an old front-end sends a descriptor with REM_MEM_REG; it is closed and all is well. */
static void p25_remove_with_a_descriptor(void **state)
{
	struct fe_region region = {0, 65536, 0x7000000000, 0};
	int fds, maps, fds_after, maps_after;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	settle(&fds, &maps);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(fe_add_region(&fe, &region, regular), 0);
		assert_int_equal(fe_remove_region(&fe, &region, regular), 0);
	}
	settle(&fds_after, &maps_after);
	assert_int_equal(fds_after, fds);
	assert_int_equal(maps_after, maps);
}

/* Descriptors that are no memory and no events. */
static void odd_descriptors(void **state)
{
	struct fe_mem_reg region = {0, {0, 4096, 0x7000000000, 0}};
	int pipes[2], sockets[2], odd[6], read_only;
	char path[64];

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", regular);
	read_only = open(path, O_RDONLY | O_CLOEXEC);
	odd[0] = pipes[0];
	odd[1] = sockets[0];
	odd[2] = open("/dev/null", O_RDWR | O_CLOEXEC);
	odd[3] = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	odd[4] = eventfd(0, EFD_CLOEXEC);
	odd[5] = read_only;
	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	for (unsigned i = 0; i < 6; i++) {
		assert_true(odd[i] >= 0);
		assert_int_equal(fe_ack(&fe, FE_ADD_MEM_REG, &region, sizeof(region), &odd[i], 1),
				 -EREMOTEIO);
	}
	/* a call that is a full pipe, which nobody reads: requests go on */
	fcntl(pipes[1], F_SETFL, O_NONBLOCK);
	while (write(pipes[1], path, sizeof(path)) > 0)
		;
	fcntl(pipes[1], F_SETFL, 0);
	assert_int_equal(fe_ack(&fe, FE_SET_VRING_CALL, &(uint64_t){0}, 8, &pipes[1], 1), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(fe_blk_submit(&fe.queues[0], FE_DATA - 8192, VIRTIO_BLK_T_FLUSH, 0,
					       NULL, 0, 0),
				 0);
		fe_kick(&fe.queues[0]);
		for (int tries = 0; tries < 1000 && !fe_poll(&fe.queues[0], NULL, NULL); tries++)
			nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		assert_int_equal(fe_blk_status(&fe, FE_DATA - 8192), VIRTIO_BLK_S_OK);
	}
	for (unsigned i = 0; i < 2; i++) {
		close(pipes[i]);
		close(sockets[i]);
	}
	for (unsigned i = 2; i < 6; i++)
		close(odd[i]);
}

/* Nothing of a message is left when its answer comes, though closing the first takes long. */
static void descriptors_are_closed_before_the_answer(void **state)
{
	struct fe_header header = {100, FE_VERSION | FE_NEED_REPLY, 8};
	int fds[2] = {memfd_create("front-end", MFD_CLOEXEC), -1}, pair[2];
	const off_t size = 64 << 20;
	uint64_t value = 0;
	char byte;

	assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
	assert_int_equal(posix_fallocate(fds[0], 0, size), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fds[1] = pair[1];
	/* the payload later: by then these descriptors are the back-end's alone */
	assert_int_equal(fe_send_raw(&fe, &header, sizeof(header), fds, 2), 0);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(recv(pair[0], &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(fe_send_raw(&fe, &value, sizeof(value), NULL, 0), 0);
	assert_int_equal(fe_recv(&fe, &header, &value, sizeof(value)), 8);
	assert_int_equal(recv(pair[0], &byte, 1, MSG_DONTWAIT), 0);
	assert_int_not_equal(value, 0);
	close(pair[0]);
}

/* ------------------------------------------------------------------- the connection is closed */

static void hangs_up(void **state)
{
	static const struct {
		const char *what;
		struct fe_header header;
		unsigned sent; /* bytes of payload that follow; if it is too few, we shut down */
		unsigned fds;
		bool negotiated;
	} cases[] = {
		{"version 0", {FE_GET_FEATURES, 0, 0}, 0, 0, false},
		{"version 2", {FE_GET_FEATURES, 2, 0}, 0, 0, false},
		{"a reply", {FE_GET_FEATURES, FE_VERSION | FE_REPLY, 0}, 0, 0, false},
		{"huge", {FE_SET_FEATURES, FE_VERSION, UINT32_MAX}, 0, 0, false},
		{"too long", {FE_SET_FEATURES, FE_VERSION, 4096}, 100, 0, false},
		{"cut short", {FE_SET_FEATURES, FE_VERSION, 8}, 7, 0, false},
		{"cut short, with descriptors", {FE_SET_MEM_TABLE, FE_VERSION, 40}, 39, 3, true},
		{"unknown, no answer asked", {99, FE_VERSION, 0}, 0, 0, true},
		{"unknown, no answer agreed on", {99, FE_VERSION | FE_NEED_REPLY, 0}, 0, 0, false},
		{"malformed, no answer asked", {FE_SET_FEATURES, FE_VERSION, 4}, 4, 5, true},
		{"base of queue 0x2a2a2a2a", {FE_GET_VRING_BASE, FE_VERSION, 8}, 8, 0, true},
		{"queue number, not negotiated", {FE_GET_QUEUE_NUM, FE_VERSION, 0}, 0, 0, false},
		{"memory slots, not negotiated",
		 {FE_GET_MAX_MEM_SLOTS, FE_VERSION, 0},
		 0,
		 0,
		 false},
		{"descriptors with a question", {FE_GET_FEATURES, FE_VERSION, 0}, 0, 20, false},
	};
	int fds = -1, maps = -1, fds_after, maps_after, some[64];

	for (unsigned k = 0; k < 64; k++)
		some[k] = regular;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t bytes[4200];

		if (cases[i].negotiated)
			assert_int_equal(fe_start(&fe, 1, 64, ALL), 0);
		memset(bytes, 0x2a, sizeof(bytes));
		memcpy(bytes, &cases[i].header, sizeof(struct fe_header));
		assert_int_equal(fe_send_raw(&fe, bytes, sizeof(struct fe_header) + cases[i].sent,
					     some, cases[i].fds),
				 0);
		/* what is longer than any message is refused at its header */
		if (cases[i].sent < cases[i].header.size && cases[i].header.size < 4096)
			shutdown(fe.sock, SHUT_WR);
		if (!fe_is_closed(&fe))
			fail_msg("%s: the connection is still open", cases[i].what);
		assert_still_serves();
		settle(&fds_after, &maps_after);
		if (fds >= 0 && (fds != fds_after || maps != maps_after))
			fail_msg("%s: %d descriptors, were %d; %d maps, were %d", cases[i].what,
				 fds_after, fds, maps_after, maps);
		fds = fds_after;
		maps = maps_after;
		assert_int_equal(fe_reconnect(&fe, be.sock), 0);
	}
}

/* A peer that dies at every byte of a message that carries descriptors. */
static void dies_at_every_byte(void **state)
{
	struct {
		struct fe_header header;
		uint8_t payload[40];
	} message = {.header = {FE_ADD_MEM_REG, FE_VERSION | FE_NEED_REPLY, 40}};
	int fds = -1, maps = -1, fds_after, maps_after;
	struct fe_mem_reg region = {0, {0, 65536, 0x7000000000, 0}};

	memcpy(message.payload, &region, sizeof(region));
	for (size_t bytes = 1; bytes < 52; bytes++) {
		assert_int_equal(fe_negotiate(&fe, ALL, FE_P_MEM_SLOTS | FE_P_REPLY_ACK), 0);
		assert_int_equal(fe_send_raw(&fe, &message, bytes, &regular, 1), 0);
		assert_int_equal(fe_reconnect(&fe, be.sock), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		assert_still_serves();
		settle(&fds_after, &maps_after);
		if (i)
			assert_int_equal(fds_after, fds);
		fds = fds_after;
		maps = maps_after;
	}
	assert_int_equal(maps, 1);
}

/* The same message, one byte in a packet. */
static void trickles_in(void **state)
{
	struct fe_header header = {FE_GET_FEATURES, FE_VERSION, 0};
	uint64_t features = 0;
	int rc;

	for (size_t i = 0; i < sizeof(header); i++) {
		assert_int_equal(fe_send_raw(&fe, (char *)&header + i, 1, NULL, 0), 0);
		nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
	}
	rc = fe_recv(&fe, &header, &features, sizeof(features));
	assert_int_equal(rc, 8);
	assert_true(features & FE_F_VERSION_1);
}

/* Questions whose answers are never read: the peer is given up, not waited for. */
static void answers_are_not_read(void **state)
{
	struct fe_header header = {FE_GET_FEATURES, FE_VERSION, 0};
	int flags = fcntl(fe.sock, F_GETFL), rc = 0;

	assert_int_equal(fcntl(fe.sock, F_SETFL, flags | O_NONBLOCK), 0);
	for (unsigned i = 0; i < 1000000 && (!rc || rc == -EAGAIN); i++)
		rc = fe_send_raw(&fe, &header, sizeof(header), NULL, 0);
	assert_true(rc == -EPIPE || rc == -ECONNRESET);
	assert_still_serves();
}

/* Random bytes: whatever happens, the process lives and leaks nothing. */
static void noise(void **state)
{
	unsigned seed = 1;
	int fds = -1, fds_after = -1, maps, some[4] = {regular, regular, regular, regular};

	for (unsigned round = 0; round < 300; round++) {
		struct fe_header header = {rand_r(&seed) % 44, FE_VERSION | FE_NEED_REPLY, 0};
		uint32_t payload[68];

		if (round % 3 == 0)
			(void)fe_start(&fe, 2, 64, ALL);
		for (unsigned i = 0; i < 20; i++) {
			uint32_t sizes[] = {0, 8, 8, 40, 40, 264, (uint32_t)rand_r(&seed) % 272};

			header.request = (uint32_t)rand_r(&seed) % 44;
			for (unsigned k = 0; k < 68; k++)
				payload[k] = rand_r(&seed) % 4 ? (uint32_t)rand_r(&seed) % 5
							       : (uint32_t)rand_r(&seed);
			if (fe_send(&fe, header.request, FE_NEED_REPLY, payload,
				    sizes[rand_r(&seed) % 7], some,
				    (unsigned)rand_r(&seed) % 5) < 0)
				break;
		}
		assert_int_equal(fe_reconnect(&fe, be.sock), 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		assert_still_serves();
		fds = fds_after;
		settle(&fds_after, &maps);
	}
	assert_int_equal(fds_after, fds);
	assert_int_equal(maps, 1);
}

int main(int argc, char **argv)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, start, stop)
	const struct CMUnitTest tests[] = {
		TEST(refused_and_nothing_changed),
		TEST(p25_remove_with_a_descriptor),
		TEST(odd_descriptors),
		TEST(descriptors_are_closed_before_the_answer),
		TEST(hangs_up),
		TEST(dies_at_every_byte),
		TEST(trickles_in),
		TEST(answers_are_not_read),
		TEST(noise),
	};

	be_args(argc, argv);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
