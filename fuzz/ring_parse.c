/* SPDX-License-Identifier: MIT */
/*
 * What a chain of descriptors means, written as plainly as can be from the virtio specification and
 * <guestram/vhost.h>: the reference for what the server makes of it. Used only where the guest
 * changed nothing between the server's reads and ours.
 */
#include "ring_guest.h"

static bool in_region(uint64_t gpa, uint64_t *offset)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		if (i == 1 && guest.absent)
			continue;
		if (gpa - guest_gpa(i) < REGION) {
			*offset = i * REGION + (gpa - guest_gpa(i));
			return true;
		}
	}
	return false;
}

/* Bytes at @gpa, one after the other. */
static bool read_guest(uint64_t gpa, void *to, uint64_t size)
{
	uint8_t *bytes = to;
	uint64_t offset;

	for (uint64_t i = 0; i < size; i++) {
		if (gpa + i < gpa || !in_region(gpa + i, &offset))
			return false;
		bytes[i] = guest.memory[offset];
	}
	return true;
}

static bool is_memory(uint64_t gpa, uint64_t length)
{
	uint64_t offset;

	for (uint64_t i = 0; i < length; i++)
		if (gpa + i < gpa || !in_region(gpa + i, &offset))
			return false;
	return true;
}

/* The pieces of one buffer; false: not all of it is memory. */
static bool add_pieces(struct parsed *parsed, unsigned *count, uint64_t gpa, uint64_t length)
{
	while (length) {
		uint64_t offset, left;

		if (!in_region(gpa, &offset))
			return false;
		left = REGION - offset % REGION;
		if (left > length)
			left = length;
		if (*count == GR_VHOST_SEGMENTS_MAX)
			return false;
		parsed->pieces[(*count)++] = (struct piece){offset, left};
		length -= left;
		if (length && gpa + left < gpa)
			return false; /* past 2^64 */
		gpa += left;
	}
	return true;
}

static void read_ring(unsigned index, struct wire_packed_desc *desc)
{
	memcpy(desc, guest.memory + guest.desc + index * sizeof(*desc), sizeof(*desc));
}

/* Those of a packed indirect table, from @count on in @descs. */
static int collect_table(const struct wire_packed_desc *by, struct parsed *parsed,
			 struct wire_desc *descs, unsigned count)
{
	if (!guest.indirect || by->flags & WIRE_DESC_NEXT || !by->length || by->length % 16 ||
	    by->length > GR_VHOST_SEGMENTS_MAX * 16 || !is_memory(by->addr, by->length))
		return -1;
	parsed->odd_table = by->addr < guest_gpa(0) + TABLES || by->length > TABLES_SIZE ||
			    by->addr - guest_gpa(0) > TABLES + TABLES_SIZE - by->length;
	for (uint64_t i = 0; i < by->length / 16; i++) {
		struct wire_packed_desc desc;

		read_guest(by->addr + i * 16, &desc, sizeof(desc));
		descs[count++] =
			(struct wire_desc){desc.addr, desc.length, desc.flags & WIRE_DESC_WRITE, 0};
	}
	return (int)count;
}

/* As collect(), of the chain that begins at @at in a packed ring. */
static int collect_packed(unsigned at, struct parsed *parsed, struct wire_desc *descs)
{
	for (unsigned count = 0; count < guest.num; count++) {
		struct wire_packed_desc desc;

		read_ring((at + count) % guest.num, &desc);
		parsed->id = desc.id;
		parsed->count++;
		if (desc.flags & WIRE_DESC_INDIRECT)
			return collect_table(&desc, parsed, descs, count);
		descs[count] = (struct wire_desc){desc.addr, desc.length, desc.flags, 0};
		if (!(desc.flags & WIRE_DESC_NEXT))
			return (int)count + 1;
	}
	return -1;
}

/* Descriptors in order into @descs; how many, or -1 when the chain is malformed. */
static int collect(unsigned head, struct parsed *parsed, struct wire_desc *descs, unsigned max)
{
	uint64_t table = 0;
	unsigned count = 0, index = head, size = guest.num, steps = 0;
	bool indirect = false;

	for (;;) {
		struct wire_desc desc;

		if (index >= size || steps++ == size || count == max)
			return -1;
		if (indirect) {
			if (!read_guest(table + index * sizeof(desc), &desc, sizeof(desc)))
				return -1;
		} else {
			memcpy(&desc, guest.memory + guest.desc + index * sizeof(desc),
			       sizeof(desc));
		}
		if (desc.flags & WIRE_DESC_INDIRECT) {
			if (indirect || !guest.indirect || desc.flags & WIRE_DESC_NEXT ||
			    !desc.length || desc.length % sizeof(desc) ||
			    desc.length > GR_VHOST_SEGMENTS_MAX * sizeof(desc) ||
			    !is_memory(desc.addr, desc.length))
				return -1;
			indirect = true;
			table = desc.addr;
			size = desc.length / sizeof(desc);
			parsed->odd_table =
				table < guest_gpa(0) + TABLES || desc.length > TABLES_SIZE ||
				table - guest_gpa(0) > TABLES + TABLES_SIZE - desc.length;
			index = steps = 0;
			continue;
		}
		descs[count++] = desc;
		if (!(desc.flags & WIRE_DESC_NEXT))
			return (int)count;
		index = desc.next;
	}
}

bool guest_parse(unsigned head, struct parsed *parsed)
{
	static struct wire_desc descs[RING_MAX + GR_VHOST_SEGMENTS_MAX];
	unsigned pieces = 0;
	bool good = true;
	int count, i;

	memset(parsed, 0, sizeof(*parsed));
	count = guest.packed ? collect_packed(head, parsed, descs)
			     : collect(head, parsed, descs, COUNT_OF(descs));
	if (count < 0)
		return false;
	for (i = 0; i < count; i++) {
		bool write = descs[i].flags & WIRE_DESC_WRITE;

		if (i && !write && descs[i - 1].flags & WIRE_DESC_WRITE)
			return false;
		if (good)
			good = add_pieces(parsed, &pieces, descs[i].addr, descs[i].length);
		if (!write)
			parsed->out_count = pieces;
	}
	parsed->in_count = pieces - parsed->out_count;
	if (good)
		return true;
	/* somewhere there is no memory: what is left is room for an answer, or nothing */
	parsed->error = true;
	parsed->out_count = parsed->in_count = pieces = 0;
	if (descs[count - 1].flags & WIRE_DESC_WRITE &&
	    add_pieces(parsed, &pieces, descs[count - 1].addr, descs[count - 1].length))
		parsed->in_count = pieces;
	return true;
}
