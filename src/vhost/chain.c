/* SPDX-License-Identifier: MIT */
/*
 * From a chain of descriptors to the pieces of a request, for both layouts of a ring. All that is
 * read here is hostile: each descriptor is read once, loops end at the ring's size, tables and
 * pieces are bounded.
 *
 * Split: a descriptor names the next one. Packed: the next one follows in the ring (round its end),
 * or in an indirect table to its last one; in the record of requests in flight it follows by our
 * own copy of the links. The last descriptor in the ring has the buffer's id.
 *
 * A chain that breaks the rules of the ring is -EPROTO and ends the queue. One that keeps them but
 * names memory that is not there is a request with an error, which the device answers.
 *
 * Context: the queue's worker, in a read section.
 */
#include "vhost/layout.h"
#include <errno.h>

struct walk {
	struct gr__queue *q;
	struct gr__slot *slot;
	unsigned pieces;
	unsigned out_pieces;
	uint64_t out_length, in_length;
	bool writing; /* a device-writable descriptor was seen */
	bool bad;     /* a buffer was not in memory: only the last one counts now */
	uint64_t last_addr;
	uint32_t last_length;
	/* split: the first descriptor; packed: id of the last one that was in no indirect table */
	uint16_t head;
	uint16_t count; /* packed: of those */
	uint16_t entry; /* packed: where the next one of them is noted */
};

/* Where descriptors are read from: the ring, an indirect table, a record of requests in flight. */
struct table {
	const char *host; /* of descriptors; NULL: not in one range, read through the space */
	uint64_t gpa;
	uint32_t count;
	bool indirect, recorded;
};

static int fault(struct gr__queue *q, const char *what)
{
	q->fault = what;
	return -EPROTO;
}

void gr__chain_drop_holds(struct gr__queue *q, struct gr__slot *slot)
{
	while (slot->hold_count)
		gr__hold_put(&q->holds, slot->holds[--slot->hold_count]);
}

/* The pieces of one buffer. -EFAULT: not (all) in memory. */
static int translate(struct walk *walk, uint64_t addr, uint32_t length, unsigned access)
{
	struct gr__slot *slot = walk->slot;

	while (length) {
		struct gr__hold *hold;
		uint64_t offset, rest;
		int rc;

		if (walk->pieces == GR_VHOST_SEGMENTS_MAX)
			return fault(walk->q, "a request of too many pieces");
		walk->q->lacks_hold = walk->pieces < slot->room;
		if (!walk->q->lacks_hold)
			return -ENOBUFS;
		rc = gr__holds_get(&walk->q->holds, addr, access, &hold);
		if (rc < 0)
			return rc == -ENOBUFS ? rc : -EFAULT;
		if (slot->hold_count && slot->holds[slot->hold_count - 1] == hold)
			hold->users--; /* this slot is one of its users already */
		else
			slot->holds[slot->hold_count++] = hold;
		offset = addr - hold->addr;
		rest = hold->length - offset;
		if (rest > length)
			rest = length;
		slot->iov[walk->pieces++] = (struct iovec){hold->host + offset, rest};
		if (access & GR_WRITE)
			slot->targets[slot->target_count++] =
				(struct gr__target){hold->host + offset, addr, rest};
		length -= (uint32_t)rest;
		if (length && __builtin_add_overflow(addr, rest, &addr))
			return -EFAULT;
	}
	return 0;
}

static int add_buffer(struct walk *walk, const struct wire_desc *desc)
{
	bool write = desc->flags & WIRE_DESC_WRITE;
	int rc;

	if (!write && walk->writing)
		return fault(walk->q, "a device-readable buffer after a writable one");
	if (write && !walk->writing) {
		walk->writing = true;
		walk->out_pieces = walk->pieces;
	}
	if (write) {
		walk->last_addr = desc->addr;
		walk->last_length = desc->length;
		walk->in_length += desc->length;
	} else {
		walk->out_length += desc->length;
	}
	if (walk->bad)
		return 0;
	rc = translate(walk, desc->addr, desc->length, write ? GR_WRITE : GR_READ);
	if (rc != -EFAULT)
		return rc;
	walk->bad = true;
	return 0;
}

/* Start over with the last writable buffer alone, so that the device has where to answer. */
static int keep_last(struct walk *walk)
{
	int rc;

	gr__chain_drop_holds(walk->q, walk->slot);
	walk->pieces = walk->out_pieces = walk->slot->target_count = 0;
	walk->out_length = walk->in_length = 0;
	if (!walk->writing)
		return 0;
	rc = translate(walk, walk->last_addr, walk->last_length, GR_WRITE);
	if (rc == -EFAULT) {
		gr__chain_drop_holds(walk->q, walk->slot);
		walk->pieces = walk->slot->target_count = 0;
		return 0;
	}
	walk->in_length = walk->last_length;
	return rc;
}

static int open_indirect(struct gr__queue *q, const struct wire_desc *desc, struct table *table)
{
	if (!q->indirect)
		return fault(q, "an indirect descriptor, which was not negotiated");
	if (table->indirect)
		return fault(q, "an indirect descriptor in an indirect table");
	if (desc->flags & WIRE_DESC_NEXT)
		return fault(q, "an indirect descriptor with a next one");
	if (!desc->length || desc->length % sizeof(*desc) ||
	    desc->length / sizeof(*desc) > GR_VHOST_SEGMENTS_MAX)
		return fault(q, "an indirect table of a bad length");
	table->indirect = true;
	table->recorded = false;
	table->gpa = desc->addr;
	table->count = desc->length / sizeof(*desc);
	table->host = gr_cursor_host(&q->table_cursor, desc->addr, desc->length, GR_READ);
	if (gr_unlikely(!table->host) &&
	    gr_spans(q->table_cursor.space, desc->addr, desc->length, GR_READ, NULL, 0) < 0)
		return fault(q, "an indirect table outside memory");
	return 0;
}

/* Bytes as they stand there. */
static int read_bytes(struct gr__queue *q, const struct table *table, unsigned index,
		      struct wire_desc *desc)
{
	uint64_t addr;

	if (table->host) {
		gr__ring_read_desc(table->host + index * sizeof(*desc), desc);
		return 0;
	}
	if (__builtin_add_overflow(table->gpa, (uint64_t)index * sizeof(*desc), &addr) ||
	    gr_load(q->table_cursor.space, addr, desc, sizeof(*desc)) < 0)
		return fault(q, "an indirect table outside memory");
	return 0;
}

static void read_recorded(const struct gr__inflight *inflight, unsigned index,
			  struct wire_packed_desc *desc)
{
	const struct wire_packed_state *state = &inflight->packed->desc[index];

	desc->addr = __atomic_load_n(&state->addr, __ATOMIC_RELAXED);
	desc->length = __atomic_load_n(&state->length, __ATOMIC_RELAXED);
	desc->id = __atomic_load_n(&state->id, __ATOMIC_RELAXED);
	desc->flags = __atomic_load_n(&state->flags, __ATOMIC_RELAXED);
}

/* One of a packed ring, told as a split ring would tell it. */
static int read_packed(struct walk *walk, const struct table *table, unsigned index,
		       struct wire_desc *desc)
{
	struct gr__queue *q = walk->q;
	struct wire_packed_desc raw;
	int rc;

	if (table->recorded) {
		read_recorded(&q->inflight, index, &raw);
	} else {
		rc = read_bytes(q, table, index, desc);
		if (rc < 0)
			return rc;
		memcpy(&raw, desc, sizeof(raw));
	}
	*desc = (struct wire_desc){raw.addr, raw.length, raw.flags, (uint16_t)(index + 1)};
	if (table->indirect) { /* to its end; all other flags mean nothing there */
		desc->flags &= WIRE_DESC_WRITE;
		desc->flags |= index + 1 < table->count ? WIRE_DESC_NEXT : 0;
		return 0;
	}
	walk->head = raw.id;
	walk->count++;
	if (table->recorded)
		desc->next = q->inflight.next[index];
	else if (index + 1 == table->count)
		desc->next = 0;
	if (q->inflight.packed && !table->recorded) {
		gr__inflight_packed_note(&q->inflight, walk->entry, &raw);
		walk->entry = q->inflight.next[walk->entry];
	}
	return 0;
}

/* One copy of it for each layout: @packed is a constant for the compiler. */
__attribute__((always_inline)) static inline int
walk_chain(struct walk *walk, struct table table, bool packed, unsigned index, unsigned left)
{
	struct gr__queue *q = walk->q;
	struct wire_desc desc;

	for (;;) {
		int rc;

		if (index >= table.count)
			return fault(q, "a descriptor past its table");
		if (!left--)
			return fault(q, "a chain that is longer than its table, or a loop");
		rc = packed ? read_packed(walk, &table, index, &desc)
			    : read_bytes(q, &table, index, &desc);
		if (rc < 0)
			return rc;
		if (desc.flags & WIRE_DESC_INDIRECT) {
			rc = open_indirect(q, &desc, &table);
			if (rc < 0)
				return rc;
			index = 0;
			left = table.count;
			continue;
		}
		rc = add_buffer(walk, &desc);
		if (rc < 0)
			return rc;
		if (!(desc.flags & WIRE_DESC_NEXT))
			return 0;
		index = desc.next;
	}
}

static int walk_ring(struct walk *walk, const struct gr__ring *ring,
		     const struct gr__resubmit *again)
{
	struct gr__queue *q = walk->q;
	struct table table = {.host = (const char *)ring->desc, .count = q->num};
	unsigned at = q->last_avail & (q->num - 1), left;

	if (!q->packed) {
		walk->head = again ? again->head : gr__ring_avail_entry(ring, at);
		return walk_chain(walk, table, false, walk->head, q->num);
	}
	walk->entry = q->inflight.free_head;
	/* those that we have are not there to be taken, whatever their flags say */
	left = q->num - q->taken;
	if (again) {
		table.recorded = true;
		table.count = q->inflight.size;
		left = again->count;
	}
	return walk_chain(walk, table, true, again ? again->head : q->last_avail, left);
}

int gr__chain_take(struct gr__queue *q, const struct gr__ring *ring,
		   const struct gr__resubmit *again, struct gr__slot *slot)
{
	struct walk walk = {.q = q, .slot = slot};
	struct gr_vhost_request *request = &slot->request;
	int rc;

	slot->hold_count = slot->target_count = 0;
	rc = walk_ring(&walk, ring, again);
	if (rc >= 0 && walk.bad)
		rc = keep_last(&walk);
	if (rc < 0)
		goto drop_holds;
	if (!walk.writing)
		walk.out_pieces = walk.pieces;
	request->error = walk.bad ? -EFAULT : 0;
	request->out = slot->iov;
	request->out_count = walk.out_pieces;
	request->out_length = walk.out_length;
	request->in = slot->iov + walk.out_pieces;
	request->in_count = walk.pieces - walk.out_pieces;
	request->in_length = walk.in_length;
	slot->in_length = walk.in_length;
	slot->head = walk.head;
	slot->count = again ? again->count : walk.count;
	slot->entry = again ? again->head : q->inflight.free_head;
	return 0;

drop_holds:
	gr__chain_drop_holds(q, slot);
	return rc;
}
