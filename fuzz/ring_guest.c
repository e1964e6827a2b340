/* SPDX-License-Identifier: MIT */
#include "ring_guest.h"
#include "os/hooks.h"
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

struct guest guest;

/* ------------------------------------------------------------- where the server has our memory */

struct mapped {
	uint64_t ram_offset;
	uint8_t *host;
	uint64_t length, file_offset;
	bool before, after; /* guards that are there */
};

/* The fuzzer's thread adds, the reclaim thread removes; the worker looks up. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mapped mapped[64];
static unsigned mapped_count;

static bool put_guard(uint8_t *at)
{
	void *got = mmap(at, PAGE, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);

	if (got != MAP_FAILED && got != at)
		munmap(got, PAGE);
	return got == at;
}

static int block_added(void *context, struct gr_block *block)
{
	struct gr_block_info info;
	struct mapped *m;

	(void)context;
	gr_block_get_info(block, &info);
	pthread_mutex_lock(&lock);
	FUZZ_CHECK(mapped_count < COUNT_OF(mapped));
	m = &mapped[mapped_count++];
	m->ram_offset = info.ram_offset;
	m->host = info.host;
	m->length = info.length;
	m->file_offset = info.fd_offset;
	m->before = put_guard(m->host - PAGE);
	m->after = put_guard(m->host + m->length);
	pthread_mutex_unlock(&lock);
	return 0;
}

static void block_reclaimed(void *context, const struct gr_block_info *info)
{
	(void)context;
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < mapped_count; i++) {
		struct mapped m = mapped[i];

		if (m.ram_offset != info->ram_offset)
			continue;
		if (m.before)
			munmap(m.host - PAGE, PAGE);
		if (m.after)
			munmap(m.host + m.length, PAGE);
		mapped[i] = mapped[--mapped_count];
		break;
	}
	pthread_mutex_unlock(&lock);
}

static const struct gr_listener_ops ops = {
	.block_added = block_added,
	.block_reclaimed = block_reclaimed,
};

/* A piece that the server made must lie in memory that it was given. */
static struct piece find_piece(const struct iovec *iov)
{
	const uint8_t *at = iov->iov_base;
	struct piece piece = {0, 0};

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < mapped_count; i++) {
		const struct mapped *m = &mapped[i];

		if (at < m->host || at >= m->host + m->length)
			continue;
		FUZZ_CHECK(iov->iov_len <= m->length - (uint64_t)(at - m->host));
		piece.offset = m->file_offset + (uint64_t)(at - m->host);
		piece.length = iov->iov_len;
	}
	pthread_mutex_unlock(&lock);
	FUZZ_CHECK_SAY(piece.length, "%p + %zu", iov->iov_base, iov->iov_len);
	return piece;
}

/* -------------------------------------------------------------------------------- its memory */

uint64_t guest_gpa(unsigned region)
{
	return region == 2 ? UINT64_C(0) - REGION : GPA + region * REGION;
}

uint64_t guest_uaddr(uint64_t offset)
{
	return UADDR + offset;
}

struct wire_region guest_region(unsigned region)
{
	return (struct wire_region){
		.gpa = guest_gpa(region),
		.size = REGION,
		.uaddr = UADDR + region * REGION,
		.offset = region * REGION,
	};
}

void guest_write(uint64_t offset, const void *bytes, uint64_t size)
{
	FUZZ_CHECK(offset <= MEMORY && size <= MEMORY - offset);
	memcpy(guest.memory + offset, bytes, size);
	memcpy(guest.shadow + offset, bytes, size);
}

void guest_write_u16(uint64_t offset, uint16_t value)
{
	guest_write(offset, &value, sizeof(value));
}

void guest_flip(const struct flip *flip)
{
	if (guest.flip_count < FLIPS_MAX) {
		guest.flips[guest.flip_count] = *flip;
		guest.flips[guest.flip_count++].at += guest.reads;
	}
}

/* On the worker, before each of its reads of a ring: other processors of the guest run on. */
static void at_point(const char *point)
{
	unsigned i = 0;

	if (!guest.worker || !gr__worker_is_me(guest.worker))
		return;
	if (!strcmp(point, "worker.sleep") || !strcmp(point, "worker.awake"))
		__atomic_store_n(&guest.asleep, !strcmp(point, "worker.sleep"), __ATOMIC_SEQ_CST);
	if (strncmp(point, "ring.", 5) != 0)
		return;
	guest.reads++;
	while (i < guest.flip_count) {
		const struct flip *flip = &guest.flips[i];

		if (flip->at > guest.reads) {
			i++;
			continue;
		}
		guest_write(flip->offset, flip->bytes, flip->size);
		guest.flips_done++;
		guest.flips[i] = guest.flips[--guest.flip_count];
	}
}

void guest_watch(struct gr_vhost *server)
{
	struct gr_listener *listener;

	FUZZ_CHECK(gr_listener_open(gr_vhost_ram(server), &ops, NULL, 0, &listener) == 0);
	gr__hook_point = at_point;
}

void guest_wait_asleep(void)
{
	struct pollfd wake = {.fd = guest.worker->wake, .events = POLLIN};

	/* asleep, not woken, and still asleep: then it was all the while */
	while (!__atomic_load_n(&guest.asleep, __ATOMIC_SEQ_CST) || poll(&wake, 1, 0) > 0 ||
	       !__atomic_load_n(&guest.asleep, __ATOMIC_SEQ_CST))
		sched_yield();
}

void guest_open(struct gr_vhost *server)
{
	memset(&guest, 0, sizeof(guest));
	guest.worker = &server->workers[0];
	guest.file = memfd_create("fuzz", MFD_CLOEXEC);
	FUZZ_CHECK(guest.file >= 0 && !ftruncate(guest.file, MEMORY));
	guest.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, guest.file, 0);
	FUZZ_CHECK(guest.memory != MAP_FAILED);
}

void guest_close(void)
{
	guest_wait_asleep(); /* for good: the connection is over */
	guest.worker = NULL;
	munmap(guest.memory, MEMORY);
	close(guest.file);
}

/* ----------------------------------------------------------------------------------- requests */

static uint64_t used_size(void)
{
	if (guest.packed)
		return sizeof(uint32_t);
	return sizeof(struct wire_used) + guest.num * sizeof(struct wire_used_elem) +
	       (guest.event_idx && guest.used % REGION <= REGION - 6 - guest.num * 8
			? sizeof(uint16_t)
			: 0);
}

static bool overlaps(const struct piece *piece, uint64_t offset, uint64_t length)
{
	return piece->offset < offset + length && offset < piece->offset + piece->length;
}

static void note_piece(struct piece piece)
{
	if (guest.piece_count == PIECES_MAX)
		guest.pieces_lost = true;
	else
		guest.pieces[guest.piece_count++] = piece;
	if (overlaps(&piece, guest.desc, guest.num * sizeof(struct wire_desc)) ||
	    overlaps(&piece, guest.avail, 6 + guest.num * 2) ||
	    overlaps(&piece, guest.used, used_size()))
		guest.self_damage = true;
	if (overlaps(&piece, TABLES, TABLES_SIZE))
		guest.tables_damaged = true;
}

/*
 * Is it what the guest wrote? That can be told as long as nothing was written behind its back:
 * by flips, by requests of the same batch that were completed already, or by itself into its own
 * ring.
 */
static void compare_request(const struct gr_vhost_request *request, const struct gr__slot *slot)
{
	unsigned head = guest.packed ? guest.take_at : slot->head;
	static struct parsed parsed;
	struct piece piece;
	bool well_formed;

	if (guest.flips_done || guest.self_damage || guest.unsure || guest.tables_damaged)
		return;
	well_formed = guest_parse(head, &parsed);
	if (parsed.odd_table && guest.piece_count)
		return;
	FUZZ_CHECK_SAY(well_formed, "head %u", head);
	FUZZ_CHECK(!guest.packed || (parsed.id == slot->head && parsed.count == slot->count));
	FUZZ_CHECK(parsed.error == (request->error != 0));
	FUZZ_CHECK_SAY(parsed.out_count == request->out_count &&
			       parsed.in_count == request->in_count,
		       "%u and %u pieces, not %u and %u", request->out_count, request->in_count,
		       parsed.out_count, parsed.in_count);
	for (unsigned i = 0; i < parsed.out_count + parsed.in_count; i++) {
		piece = find_piece(i < parsed.out_count ? &request->out[i]
							: &request->in[i - parsed.out_count]);
		FUZZ_CHECK_SAY(piece.offset == parsed.pieces[i].offset &&
				       piece.length == parsed.pieces[i].length,
			       "piece %u", i);
	}
}

static const struct gr__queue *queue(void)
{
	return guest.worker->queues[0];
}

/* How far the device is; on the worker. A packed ring does not tell. */
static uint16_t used_idx(void)
{
	uint16_t idx;

	if (guest.packed)
		return queue()->used_idx;
	memcpy(&idx, guest.memory + guest.used + 2, sizeof(idx));
	return idx;
}

/* Two with one id, that have different numbers of descriptors: who can tell which one came back? */
static void note_given(const struct gr__slot *slot, uint64_t room)
{
	struct given given = {room, slot->head, slot->count};

	for (unsigned i = 0; guest.packed && i < guest.outstanding; i++)
		if (guest.given[i].id == given.id && guest.given[i].count != given.count)
			guest.self_damage = true;
	if (guest.outstanding < RING_MAX)
		guest.given[guest.outstanding++] = given;
	else
		guest.self_damage = true; /* by more than the ring has: seen below */
}

void guest_note_request(const struct gr_vhost_request *request)
{
	const struct gr__slot *slot = (const struct gr__slot *)request; /* its first member */
	uint64_t out = 0, in = 0;

	FUZZ_CHECK(request->out_count + request->in_count <= GR_VHOST_SEGMENTS_MAX);
	FUZZ_CHECK(guest.packed ? slot->count && queue()->taken <= guest.num
				: slot->head < guest.num);
	compare_request(request, slot);
	guest.take_at = (uint16_t)((guest.take_at + slot->count) % guest.num);
	for (unsigned i = 0; i < request->out_count; i++)
		out += find_piece(&request->out[i]).length;
	for (unsigned i = 0; i < request->in_count; i++) {
		struct piece piece = find_piece(&request->in[i]);

		in += piece.length;
		note_piece(piece);
	}
	FUZZ_CHECK(out == request->out_length && in == request->in_length);
	FUZZ_CHECK(!request->error || (request->error == -14 && !request->out_count));
	note_given(slot, in);
	/* what it has published since our last look, it does not have any more */
	FUZZ_CHECK(guest.packed || guest.self_damage ||
		   guest.outstanding - (uint16_t)(used_idx() - guest.seen_used) <= guest.num);
}

static void let_write(uint64_t offset, uint64_t length)
{
	if (guest.piece_count == PIECES_MAX)
		guest.pieces_lost = true;
	else
		guest.pieces[guest.piece_count++] = (struct piece){offset, length};
}

void guest_leave_ring(void)
{
	let_write(guest.used, used_size());
	if (guest.packed)
		let_write(guest.desc, guest.num * sizeof(struct wire_packed_desc));
}

void guest_restart(uint32_t base)
{
	guest.outstanding = 0;
	if (!guest.packed) {
		guest.avail_idx = (uint16_t)base;
		guest.seen_used = used_idx();
		return;
	}
	guest.avail_idx = guest.take_at = base & 0x7fff;
	guest.avail_wrap = base & WIRE_WRAP;
	guest.seen_used = base >> 16 & 0x7fff;
	guest.seen_wrap = base >> 31;
}

struct wire_packed_desc guest_packed(const struct wire_desc *desc)
{
	return (struct wire_packed_desc){desc->addr, desc->length, desc->next, desc->flags};
}

void guest_add(const struct wire_desc *desc)
{
	struct wire_packed_desc packed = guest_packed(desc);

	packed.flags &= (uint16_t) ~(WIRE_DESC_AVAIL | WIRE_DESC_USED);
	packed.flags |= guest.avail_wrap ? WIRE_DESC_AVAIL : WIRE_DESC_USED;
	guest_write(guest.desc + guest.avail_idx * sizeof(packed), &packed, sizeof(packed));
	if (++guest.avail_idx == guest.num) {
		guest.avail_idx = 0;
		guest.avail_wrap = !guest.avail_wrap;
	}
}

static void trust(uint64_t offset, uint64_t length)
{
	memcpy(guest.shadow + offset, guest.memory + offset, length);
}

/* One came back: of those with its id the one with least room that it fits in. */
static unsigned take_back(uint32_t id, uint64_t length)
{
	unsigned best = guest.outstanding, count;

	for (unsigned i = 0; i < guest.outstanding; i++)
		if (guest.given[i].id == id && guest.given[i].room >= length &&
		    (best == guest.outstanding || guest.given[i].room < guest.given[best].room))
			best = i;
	FUZZ_CHECK_SAY(best < guest.outstanding, "buffer %u of %llu bytes", id,
		       (unsigned long long)length);
	count = guest.given[best].count;
	guest.given[best] = guest.given[--guest.outstanding];
	return count;
}

/* Each new entry of the used ring is one request that the device had. */
static void check_used(void)
{
	uint16_t now = used_idx();

	if ((uint16_t)(now - guest.seen_used) > guest.num) {
		guest.self_damage = true; /* some were written over before we looked */
		return;
	}
	for (; guest.seen_used != now; guest.seen_used++) {
		struct wire_used_elem elem;

		memcpy(&elem,
		       guest.memory + guest.used + sizeof(struct wire_used) +
			       (guest.seen_used & (guest.num - 1)) * sizeof(elem),
		       sizeof(elem));
		FUZZ_CHECK(elem.id <= UINT16_MAX);
		take_back(elem.id, elem.length);
	}
}

/* And each descriptor that came back; of its chain the device writes no other. */
static void check_used_packed(void)
{
	unsigned count = 0;

	for (unsigned i = 0; i < guest.outstanding; i++)
		count += guest.given[i].count;
	if (guest.flips_done || count > guest.num)
		guest.self_damage = true; /* some may have been written over before we looked */
	while (!guest.self_damage &&
	       (guest.seen_used != queue()->used_idx || guest.seen_wrap != queue()->used_wrap)) {
		uint64_t at = guest.desc + guest.seen_used * sizeof(struct wire_packed_desc);
		struct wire_packed_desc desc;
		unsigned next;

		memcpy(&desc, guest.memory + at, sizeof(desc));
		FUZZ_CHECK((desc.flags & ~WIRE_DESC_WRITE) ==
			   (guest.seen_wrap ? WIRE_DESC_AVAIL | WIRE_DESC_USED : 0));
		FUZZ_CHECK(!(desc.flags & WIRE_DESC_WRITE) == !desc.length);
		trust(at + 8, 8); /* its address is left alone */
		next = guest.seen_used + take_back(desc.id, desc.length);
		guest.seen_wrap ^= next >= guest.num;
		guest.seen_used = (uint16_t)(next % guest.num);
	}
	if (guest.self_damage)
		trust(guest.desc, guest.num * sizeof(struct wire_packed_desc));
}

void guest_check(void)
{
	if (!guest.num)
		return;
	if (guest.packed)
		check_used_packed();
	else if (!guest.self_damage)
		check_used();
	trust(guest.used, used_size());
	for (unsigned i = 0; i < guest.piece_count; i++)
		trust(guest.pieces[i].offset, guest.pieces[i].length);
	if (!guest.pieces_lost && memcmp(guest.memory, guest.shadow, MEMORY) != 0) {
		uint64_t at = 0;

		while (guest.memory[at] == guest.shadow[at])
			at++;
		fuzz_fail(__FILE__, __LINE__, "the device wrote where it may not", "offset %#llx",
			  (unsigned long long)at);
	}
	/* those of requests that the device still has stay writable */
	if (!guest.outstanding)
		guest.piece_count = 0;
	guest.tables_damaged = guest.tables_damaged && guest.piece_count;
	guest.flips_done = 0;
}
