/* SPDX-License-Identifier: MIT */
/*
 * What a hostile guest writes into a virtqueue, split or packed: descriptors, indirect tables,
 * available rings and wishes, also while the device reads them (words are flipped before chosen
 * reads), with memory that comes and goes and rings that move. Devices: one that writes into its
 * buffers and completes when the input says, and the disk of `guestram serve blk`.
 *
 * Kept: nothing outside the guest's memory is touched; inside, only buffers for the device and the
 * used ring; the used ring gets each request once, and nothing else.
 *
 * Input: two bytes of set-up, then steps of one byte and operands.
 */
#include "ring_guest.h"
#include <sys/eventfd.h>
#include <unistd.h>
#ifdef FUZZ_BLK
#include "blk.h"
#include <errno.h>
#include <sys/mman.h>
#endif

#define STEPS 300
#define DATA 0x3000 /* in region 0: what the guest puts into requests */
#define DISK 0x10000

struct ring {
	struct fuzz_input in;
	struct front front;
	int kick;
	bool deferring;
	bool tight;	    /* parts of the ring end where their regions end */
	bool short_of_room; /* and the event words do not fit any more */
	struct gr_vhost_request *held[HELD_MAX];
	unsigned held_count;
};

static struct ring *current;

/* ---------------------------------------------------------------------------- the first device */

static void complete(struct gr_vhost_request *request, uint8_t how)
{
	uint64_t all = request->in_length, length = how & 1 ? all : all / 2;

	for (unsigned i = 0; i < request->in_count; i++)
		if (request->in[i].iov_len) {
			((volatile uint8_t *)request->in[i].iov_base)[0] = how;
			((volatile uint8_t *)request->in[i].iov_base)[request->in[i].iov_len - 1] =
				how;
		}
	gr_vhost_complete(request, how & 2 ? UINT64_MAX : length);
}

static void handle(void *context, void *worker, struct gr_vhost_request *const *requests,
		   unsigned count)
{
	(void)context;
	(void)worker;
	for (unsigned i = 0; i < count; i++) {
		struct gr_vhost_request *request = requests[i];
		uint8_t bytes[32];

		guest_note_request(request);
		if (current->deferring && current->held_count < HELD_MAX) {
			current->held[current->held_count++] = request;
			continue;
		}
		gr_vhost_pull(request, bytes, request->out_length & 31);
		gr_vhost_push(request, bytes, request->in_length & 15);
		/* the rest of it */
		complete(request, (uint8_t)request->in_length);
	}
}

static const struct gr_vhost_ops plain_ops = {.handle = handle};

/* ------------------------------------------------------------------------------ the disk */

#ifdef FUZZ_BLK
/* By plain system calls, and by io_uring where the kernel lets us. */
static struct blk disks[2] = {
	{.fd = -1, .block_size = BLK_SECTOR, .queues = 1, .worker_max = 1},
	{.fd = -1, .block_size = BLK_SECTOR, .queues = 1, .worker_max = 1},
};
static struct gr_vhost_ops disk_ops[2];
static int disk_file = -1;

static void blk_handle(void *context, void *worker, struct gr_vhost_request *const *requests,
		       unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		guest_note_request(requests[i]);
	((struct blk *)context)->ops.handle(context, worker, requests, count);
}

/* By itself a disk takes plain calls for a file in memory, as this one is. */
static enum blk_io by_uring(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(2, &ring, 0) < 0)
		return BLK_IO_PLAIN;
	io_uring_queue_exit(&ring);
	return BLK_IO_URING;
}

static struct gr_vhost *open_disk(unsigned i)
{
	const char *what;
	char path[64];

	disks[i].io = i ? by_uring() : BLK_IO_PLAIN;
	if (disk_file < 0)
		disk_file = memfd_create("fuzz-disk", MFD_CLOEXEC);
	FUZZ_CHECK(disk_file >= 0 && !ftruncate(disk_file, DISK));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", disk_file);
	FUZZ_CHECK(blk_open(&disks[i], path, &what) == 0);
	disk_ops[i] = disks[i].ops;
	disk_ops[i].handle = blk_handle;
	return front_server(&disk_ops[i], &disks[i], 1, 1);
}
#endif

/* ------------------------------------------------------------------------------- operands */

static uint64_t take_addr(struct fuzz_input *in)
{
	uint8_t how = fuzz_u8(in);
	uint64_t small = (how >> 3) * 64;

	switch (how & 7) {
	case 0:
		return guest_gpa(0) + DATA + small;
	case 1:
		return guest_gpa(1) + small;
	case 2:
		return guest_gpa(1) - small - 1; /* over the seam */
	case 3:
		return guest_gpa(1) + REGION - small - 1; /* over the end */
	case 4:
		return 0 - small - 1; /* up to 2^64 */
	case 5:
		return guest_gpa(2) - small;
	case 6:
		return guest_gpa(0) + TABLES + small;
	default:
		return how & 8 ? fuzz_u64(in) : guest_gpa(0) + fuzz_u16(in);
	}
}

static uint32_t take_length(struct fuzz_input *in)
{
	static const uint32_t lengths[] = {
		0, 1, 16, 64, 512, 4096, REGION, 2 * REGION, UINT32_MAX, 0x80000000, 1u << 20};
	uint8_t how = fuzz_u8(in);

	if (how & 0x80)
		return how & 0x40 ? fuzz_u32(in) : (how & 0x3fu) * 16;
	return lengths[how % COUNT_OF(lengths)];
}

static struct wire_desc take_desc(struct fuzz_input *in)
{
	struct wire_desc desc = {0};
	uint8_t how = fuzz_u8(in);

	desc.flags = how & 7;
	if (how & 0x80)
		desc.flags = fuzz_u16(in);
	if (desc.flags & WIRE_DESC_INDIRECT && how & 0x40) {
		desc.addr = guest_gpa(0) + TABLES + (how >> 3 & 7) * 512;
		desc.length = fuzz_u8(in) * 16u;
	} else {
		desc.addr = take_addr(in);
		desc.length = take_length(in);
	}
	desc.next = fuzz_u8(in);
	return desc;
}

/* ---------------------------------------------------------------------------------- the ring */

/* Either all in region 0, or each part at the very end of a region. */
static void place(struct ring *ring)
{
	/* 2 bytes each, and what keeps the used ring aligned */
	uint64_t event = guest.event_idx && !ring->short_of_room ? 4 : 0;
	uint64_t desc = guest.num * sizeof(struct wire_desc);
	uint64_t avail = sizeof(struct wire_avail) + guest.num * 2;
	uint64_t used = sizeof(struct wire_used) + guest.num * 8;

	if (guest.packed) {
		avail = used = sizeof(uint32_t);
		event = 0;
	}
	if (ring->tight) {
		guest.desc = REGION - desc;
		guest.avail = 2 * REGION - avail - event / 2;
		guest.used = 3 * REGION - used - event;
	} else {
		guest.desc = 0;
		guest.avail = 0x1000;
		guest.used = 0x2000;
	}
}

static void tell_addr(struct ring *ring)
{
	struct wire_vring_addr addr = {
		.desc = guest_uaddr(guest.desc),
		.avail = guest_uaddr(guest.avail),
		.used = guest_uaddr(guest.used),
	};

	front_must(&ring->front, WIRE_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0);
}

static void start(struct ring *ring, uint32_t base)
{
	struct wire_vring_state state = {0, base}, on = {0, 1};
	uint64_t index = 0;

	guest_restart(base);
	front_must(&ring->front, WIRE_SET_VRING_BASE, &state, sizeof(state), NULL, 0);
	tell_addr(ring);
	front_must(&ring->front, WIRE_SET_VRING_ENABLE, &on, sizeof(on), NULL, 0);
	front_must(&ring->front, WIRE_SET_VRING_KICK, &index, sizeof(index), &ring->kick, 1);
}

static bool check_now(void *unused)
{
	(void)unused;
	guest_check();
	return true;
}

static void settle(struct ring *ring)
{
	struct gr__worker *worker = &ring->front.server->workers[0];
	struct gr_vhost_stats stats;

	do { /* io_uring ends what it does in its own time */
		front_settle(worker);
		gr_vhost_get_stats(ring->front.server, &stats);
	} while (stats.in_flight > ring->held_count);
	/* a kick that was not needed may be there still: it is taken with the next wake-up */
	guest_wait_asleep();
	/* on the worker, which else asks for a kick in the used ring meanwhile */
	gr__worker_call(worker, check_now, NULL);
	guest_wait_asleep();
}

static void complete_held(struct ring *ring, uint8_t how)
{
	while (ring->held_count) {
		unsigned i = how % ring->held_count;
		struct gr_vhost_request *request = ring->held[i];

		ring->held[i] = ring->held[--ring->held_count];
		complete(request, how);
		settle(ring); /* the worker may take, and hold, more */
		if (how & 0x80)
			return; /* just one */
	}
	settle(ring);
}

static void stop_and_start(struct ring *ring)
{
	struct wire_vring_state state = {0, 0};
	uint8_t how = fuzz_u8(&ring->in);
	uint32_t base;

	ring->deferring = false;
	complete_held(ring, 0);
	front_message(&ring->front, WIRE_GET_VRING_BASE, WIRE_VERSION, &state, sizeof(state), NULL,
		      0);
	front_process(&ring->front);
	FUZZ_CHECK(front_answer(&ring->front));
	base = ring->front.payload.state.num;
	settle(ring);
	if (how & 1)
		base = guest.packed ? fuzz_u32(&ring->in) : fuzz_u16(&ring->in);
	if (how & 2) {
		struct wire_vring_state num = {0, 2u << (how >> 4) % 8};

		guest.num = num.num;
		front_must(&ring->front, WIRE_SET_VRING_NUM, &num, sizeof(num), NULL, 0);
	}
	if (how & 4)
		ring->tight = !ring->tight;
	place(ring);
	if (how & 8 && !guest.packed)
		guest_write_u16(guest.used + 2, fuzz_u16(&ring->in));
	if (guest.packed) /* an index past the ring is refused */
		base = (base & 0x80008000) | (base >> 16 & 0x7fff) % guest.num << 16 |
		       (base & 0x7fff) % guest.num;
	if (guest.absent && ring->tight)
		ring->tight = false, place(ring);
	start(ring, base);
	settle(ring);
}

static void move_region(struct ring *ring)
{
	struct wire_mem_reg message = {0, guest_region(1)};

	guest.unsure = true;
	if (guest.absent)
		front_must(&ring->front, WIRE_ADD_MEM_REG, &message, sizeof(message), &guest.file,
			   1);
	else
		front_must(&ring->front, WIRE_REM_MEM_REG, &message, sizeof(message), NULL, 0);
	guest.absent = !guest.absent;
	settle(ring);
	guest.unsure = false;
}

/* The ring goes elsewhere while it runs. */
static void move_ring(struct ring *ring)
{
	struct gr__queue *q = &ring->front.server->queues[0];

	if (guest.absent || ring->short_of_room)
		return;
	settle(ring);
	guest_leave_ring();
	ring->tight = !ring->tight;
	place(ring);
	guest.avail_idx = guest.take_at = q->last_avail; /* the worker sleeps */
	guest.avail_wrap = q->avail_wrap;
	guest.seen_used = q->used_idx;
	guest.seen_wrap = q->used_wrap;
	if (!guest.packed) {
		guest_write_u16(guest.used + 2, q->used_idx);
		guest_write_u16(guest.avail + 2, q->last_avail);
	}
	tell_addr(ring);
	settle(ring);
}

static void add_flip(struct ring *ring)
{
	struct flip flip = {.at = fuzz_u8(&ring->in)};
	uint8_t what = fuzz_u8(&ring->in);
	uint16_t index = fuzz_u16(&ring->in);

	switch (what & 3) {
	case 0: /* a word of the descriptor table */
		flip.size = 8;
		flip.offset = guest.desc + index % (guest.num * 2) * 8;
		break;
	case 1: /* the available index, or a head */
		flip.size = 2;
		flip.offset = guest.avail + index % (guest.num + 2) * 2;
		break;
	case 2: /* flags and next of a descriptor */
		flip.size = 4;
		flip.offset = guest.desc + index % guest.num * 16 + 12;
		break;
	default: /* an indirect table */
		flip.size = 8;
		flip.offset = TABLES + index % 512 * 8;
	}
	fuzz_take(&ring->in, flip.bytes, what & 4 ? flip.size : 2);
	guest_flip(&flip);
}

static void put_desc(uint64_t offset, const struct wire_desc *desc)
{
	struct wire_packed_desc packed = guest_packed(desc);

	guest_write(offset, guest.packed ? (const void *)&packed : desc, sizeof(*desc));
}

static void publish(struct ring *ring, uint16_t head)
{
	if (guest.packed) { /* what stands at the next place, or at another one */
		struct wire_packed_desc desc;

		memcpy(&desc, guest.memory + guest.desc + head % guest.num * sizeof(desc),
		       sizeof(desc));
		guest_add(&(struct wire_desc){desc.addr, desc.length, desc.flags, desc.id});
		return;
	}
	guest_write_u16(guest.avail + 4 + (guest.avail_idx & (guest.num - 1)) * 2u, head);
	guest.avail_idx++;
	guest_write_u16(guest.avail + 2, guest.avail_idx);
	(void)ring;
}

/* A request of the disk as a driver makes it, in one table or the other. */
static void put_request(struct ring *ring)
{
	uint8_t how = fuzz_u8(&ring->in), type = fuzz_u8(&ring->in), segments = how >> 2 & 7;
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header = {type & 0x1f, 0, fuzz_u8(&ring->in)};
	struct wire_desc descs[10] = {
		{guest_gpa(0) + DATA, sizeof(header), WIRE_DESC_NEXT, 1},
	};
	uint16_t first = how & 1 || guest.packed ? 0 : fuzz_u8(&ring->in), count = 1;
	bool to_guest = type & 0x80;
	uint64_t table;

	guest_write(DATA, &header, sizeof(header));
	for (unsigned i = 0; i < segments && i < 7; i++) {
		descs[count].addr = take_addr(&ring->in);
		descs[count].length = take_length(&ring->in);
		descs[count].flags = WIRE_DESC_NEXT | (to_guest ? WIRE_DESC_WRITE : 0);
		count++;
	}
	descs[count++] =
		(struct wire_desc){guest_gpa(0) + DATA + 256 + segments, 1, WIRE_DESC_WRITE, 0};
	if (how & 1) { /* in an indirect table, which one descriptor names */
		struct wire_desc all = {0, count * 16u, WIRE_DESC_INDIRECT, 0};

		table = TABLES + (how >> 5) * 512;
		for (uint16_t i = 0; i < count; i++) {
			descs[i].next = (uint16_t)(i + 1);
			put_desc(table + i * 16u, &descs[i]);
		}
		all.addr = guest_gpa(0) + table;
		if (guest.packed) {
			all.next = fuzz_u8(&ring->in);
			guest_add(&all);
			goto kick;
		}
		first = fuzz_u8(&ring->in) % guest.num;
		guest_write(guest.desc + first * 16u, &all, sizeof(all));
	} else if (guest.packed) {
		uint16_t id = fuzz_u8(&ring->in);

		for (uint16_t i = 0; i < count; i++) {
			descs[i].next = id;
			guest_add(&descs[i]);
		}
		goto kick;
	} else {
		for (uint16_t i = 0; i < count; i++) {
			uint16_t at = (first + i) % guest.num;

			descs[i].next = (first + i + 1) % guest.num;
			guest_write(guest.desc + at * 16u, &descs[i], sizeof(descs[i]));
		}
	}
	publish(ring, first % guest.num);
kick:
	if (how & 2) {
		eventfd_write(ring->kick, 1);
		settle(ring);
	}
}

static void one_step(struct ring *ring)
{
	struct fuzz_input *in = &ring->in;
	uint8_t code = fuzz_u8(in), size;
	struct wire_desc desc;
	uint8_t bytes[64];
	uint16_t at;

	FUZZ_SAY("step %u\n", code & 15u);
	switch (code & 15) {
	case 0:
		at = fuzz_u8(in) % guest.num;
		desc = take_desc(in);
		if (code & 0x80 && guest.packed) {
			guest_add(&desc);
			break;
		}
		put_desc(guest.desc + at * 16u, &desc);
		if (code & 0x80)
			publish(ring, at);
		break;
	case 1:
		at = fuzz_u8(in);
		desc = take_desc(in);
		put_desc(TABLES + at * 16u, &desc);
		break;
	case 2:
		publish(ring, code & 0x80 ? fuzz_u16(in) : fuzz_u8(in) % guest.num);
		break;
	case 3:
		if (guest.packed) { /* what it makes available next stands elsewhere */
			at = fuzz_u8(in);
			guest.avail_idx = at % guest.num;
			guest.avail_wrap = code & 0x80;
			break;
		}
		guest.avail_idx =
			code & 0x80 ? fuzz_u16(in) : (uint16_t)(guest.avail_idx + fuzz_u8(in) % 16);
		guest_write_u16(guest.avail + 2, guest.avail_idx);
		break;
	case 4:
		if (guest.packed) {
			guest_write_u16(guest.avail + 2, fuzz_u8(in));
			guest_write_u16(guest.avail, fuzz_u16(in));
			break;
		}
		guest_write_u16(guest.avail, fuzz_u8(in));
		if (guest.event_idx && !ring->short_of_room)
			guest_write_u16(guest.avail + 4 + guest.num * 2, fuzz_u16(in));
		break;
	case 5:
	case 6:
		eventfd_write(ring->kick, 1);
		settle(ring);
		break;
	case 7:
	case 8:
		add_flip(ring);
		break;
	case 9:
	case 10:
		put_request(ring);
		break;
	case 11:
		ring->deferring = code & 0x80;
		complete_held(ring, fuzz_u8(in));
		break;
	case 12:
		move_region(ring);
		break;
	case 13:
		stop_and_start(ring);
		break;
	case 14:
		size = fuzz_u8(in) % sizeof(bytes);
		fuzz_take(in, bytes, size);
		guest_write(DATA + (code >> 4) * 64u, bytes, size);
		break;
	default:
		move_ring(ring);
	}
}

static struct gr_vhost *choose_server(uint8_t how)
{
	static struct gr_vhost *plain;
#ifdef FUZZ_BLK
	static struct gr_vhost *with_disk[2];
	unsigned i = how >> 5 & 1;

	if (how & 1) {
		if (!with_disk[i]) {
			with_disk[i] = open_disk(i);
			guest_watch(with_disk[i]);
		}
		disks[i].read_only = how & 2;
		FUZZ_CHECK(!ftruncate(disk_file, 0) && !ftruncate(disk_file, DISK));
		return with_disk[i];
	}
#endif
	(void)how;
	if (!plain) {
		plain = front_server(&plain_ops, NULL, 1, 1);
		guest_watch(plain);
	}
	return plain;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ring ring = {.in = {data, size}};
	uint8_t how = fuzz_u8(&ring.in), shape = fuzz_u8(&ring.in);
	uint64_t features = WIRE_F_VERSION_1 | WIRE_F_PROTOCOL_FEATURES;
	struct wire_vring_state num = {0, 2u << shape % 8};
	struct wire_table table = {.count = REGIONS};
	int fds[REGIONS];

	current = &ring;
	front_begin(&ring.front, choose_server(how));
	guest_open(ring.front.server);
	ring.kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	FUZZ_CHECK(ring.kick >= 0);
	guest.num = num.num;
	guest.event_idx = how & 4;
	guest.indirect = !(how & 16);
	ring.tight = how & 8;
	ring.short_of_room = how & 64;
	guest.packed = how & 128;
	if (guest.packed && shape & 128) /* of any size */
		guest.num = num.num -= 1 + (shape >> 3 & 15) % (num.num / 2);
	features |= guest.packed ? WIRE_F_RING_PACKED : 0;
	features |= guest.event_idx ? WIRE_F_EVENT_IDX : 0;
	features |= guest.indirect ? WIRE_F_INDIRECT_DESC : 0;
	for (unsigned i = 0; i < REGIONS; i++) {
		table.regions[i] = guest_region(i);
		fds[i] = guest.file;
	}
	front_must_u64(&ring.front, WIRE_SET_FEATURES, features);
	front_must_u64(&ring.front, WIRE_SET_PROTOCOL_FEATURES, WIRE_P_CONFIGURE_MEM_SLOTS);
	front_must(&ring.front, WIRE_SET_MEM_TABLE, &table, sizeof(table.regions[0]) * REGIONS + 8,
		   fds, REGIONS);
	front_must(&ring.front, WIRE_SET_VRING_NUM, &num, sizeof(num), NULL, 0);
	place(&ring);
	start(&ring, guest.packed ? 0x80008000 : 0);
	settle(&ring);
	for (unsigned i = 0; i < STEPS && ring.in.left; i++)
		one_step(&ring);
	ring.deferring = false;
	complete_held(&ring, 1);
	front_hang_up(&ring.front);
	guest_close();
#ifdef FUZZ_BLK
	if (how & 1) /* no request reaches past the disk */
		FUZZ_CHECK(lseek(disk_file, 0, SEEK_END) == DISK);
#endif
	close(ring.kick);
	front_end(&ring.front);
	return 0;
}
