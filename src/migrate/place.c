/* SPDX-License-Identifier: MIT */
/*
 * Records of pages: checked, then into memory. See receiver.h.
 *
 * Everything in a record is the peer's. Extents are compared with the block's agreed length before
 * a byte is put anywhere. What is not packed is read straight to its place in precopy, and the
 * hashes of its pages are compared afterwards.
 *
 * A page whose hash is wrong while the rest of the record is right was damaged on its way, or is
 * *torn*: the guest wrote to it between the sender's two looks. Then it is dirty there, and comes
 * again. So it is noted until it comes whole, and there is no guest while one is noted.
 */
#include "base/zero.h"
#include "migrate/receiver.h"
#include "os/alloc.h"
#include <endian.h>
#include <errno.h>
#include <guestram/mark.h>
#include <string.h>

static int broken(struct gr__reader *reader, const char *what)
{
	return gr__session_fail(&reader->receiver->session, -EBADMSG,
				"channel %u: pages of block %u: %s", reader->channel->number,
				reader->head.block, what);
}

/* Bytes of one kind, or a failure. */
static int check_extents(struct gr__reader *reader, const struct gr__moved *moved)
{
	uint64_t unit = gr__in_postcopy(reader->receiver) ? moved->page_size : WIRE_PAGE,
		 copied = 0;
	unsigned i;

	for (i = 0; i < reader->head.extents; i++) {
		struct wire_extent *e = &reader->extents[i];

		*e = (struct wire_extent){le64toh(e->offset), le32toh(e->pages), le32toh(e->kind)};
		if (e->kind != WIRE_COPY && e->kind != WIRE_ZERO)
			return broken(reader, "of an unknown kind");
		if (!e->pages || e->offset % unit || e->pages % (unit / WIRE_PAGE))
			return broken(reader, "they are in pieces");
		if (e->offset > moved->used || e->pages > (moved->used - e->offset) / WIRE_PAGE)
			return broken(reader, "they leave it");
		if (e->kind == WIRE_COPY)
			copied += (uint64_t)e->pages * WIRE_PAGE;
	}
	if (copied != reader->head.memory || copied > WIRE_DATA_MAX)
		return broken(reader, "too many, or too few");
	return 0;
}

/*
 * Where our granules are unplugged there is nothing for the guest: bytes would be lost when it gets
 * memory there.
 */
static int check_plugged(struct gr__reader *reader, const struct gr__moved *moved)
{
	unsigned i;

	for (i = 0; i < reader->head.extents; i++) {
		const struct wire_extent *e = &reader->extents[i];
		uint64_t length = (uint64_t)e->pages * WIRE_PAGE, known = length;

		if (e->kind == WIRE_COPY &&
		    (!gr__block_plugged(moved->block, e->offset, &known) || known < length))
			return gr__session_fail(
				&reader->receiver->session, -EINVAL,
				"block %.200s: at %#llx granules are plugged there and not here",
				moved->block->name, (unsigned long long)e->offset);
	}
	return 0;
}

static int take_head(struct gr__reader *reader, struct gr__moved **moved)
{
	struct gr__channel *channel = reader->channel;
	struct wire_pages *head = &reader->head;
	bool packed = channel->head.flags & WIRE_ZSTD;
	int rc = gr__channel_take(channel, head, sizeof(*head));

	if (rc < 0)
		return rc;
	*head = (struct wire_pages){le32toh(head->block), le32toh(head->extents),
				    le32toh(head->data), le32toh(head->memory)};
	if (head->block >= reader->receiver->blocks.count ||
	    !gr__moves(&reader->receiver->blocks.items[head->block]))
		return broken(reader, "it is not sent");
	*moved = &reader->receiver->blocks.items[head->block];
	if (!head->extents || head->extents > WIRE_EXTENTS_MAX || head->memory > WIRE_DATA_MAX)
		return broken(reader, "too many");
	rc = gr__channel_take(channel, reader->extents, head->extents * sizeof(struct wire_extent));
	if (!rc)
		rc = check_extents(reader, *moved);
	if (!rc &&
	    (packed ? !head->data || head->data >= head->memory : head->data != head->memory))
		rc = broken(reader, "their length is wrong");
	if (!rc)
		rc = gr__channel_take(channel, reader->hashes,
				      head->memory / WIRE_PAGE * sizeof(reader->hashes[0]));
	return rc < 0 ? rc : check_plugged(reader, *moved);
}

static int want(struct gr__reader *reader, char **room)
{
	if (!*room)
		*room = gr__alloc_aligned(WIRE_PAGE, WIRE_DATA_MAX);
	return *room ? 0 : gr__session_fail(&reader->receiver->session, -ENOMEM, "no memory");
}

/* Unpacked, and with the right hash, into reader->memory. */
static int take_aside(struct gr__reader *reader)
{
	struct gr__channel *channel = reader->channel;
	bool packed = channel->head.flags & WIRE_ZSTD;
	struct iovec piece = {0};
	uint64_t at;
	int rc = want(reader, &reader->memory);

	if (!rc && packed)
		rc = want(reader, &reader->packed);
	if (!rc && packed && !reader->zstd) {
		reader->zstd = ZSTD_createDCtx();
		if (!reader->zstd)
			rc = gr__session_fail(&reader->receiver->session, -ENOMEM, "no memory");
	}
	if (!rc)
		piece = (struct iovec){packed ? reader->packed : reader->memory, reader->head.data};
	if (!rc)
		rc = gr__channel_take_data(channel, &piece, 1);
	if (!rc)
		rc = gr__channel_end(channel);
	if (!rc && packed &&
	    ZSTD_decompressDCtx(reader->zstd, reader->memory, reader->head.memory, reader->packed,
				reader->head.data) != reader->head.memory)
		rc = broken(reader, "they do not unpack");
	/* here nobody wrote meanwhile */
	for (at = 0; !rc && at < reader->head.memory; at += WIRE_PAGE)
		if (XXH3_64bits(reader->memory + at, WIRE_PAGE) !=
		    le64toh(reader->hashes[at / WIRE_PAGE]))
			rc = broken(reader, "the hash of one is wrong");
	return rc;
}

/* ------------------------------------------------------------------------------------ precopy */

/* Memory that was never written is zero already, if it was fresh. Lock held. */
static void put_zeroes(struct gr__moved *moved, const struct wire_extent *e)
{
	uint64_t page = e->offset / WIRE_PAGE, end = page + e->pages, next;

	while (moved->fresh && (page = gr__bits_next(moved->bits, page, end, true)) < end) {
		next = gr__bits_next(moved->bits, page, end, false);
		memset(moved->host + page * WIRE_PAGE, 0, (next - page) * WIRE_PAGE);
		gr_mark_host(moved->host + page * WIRE_PAGE, (next - page) * WIRE_PAGE);
		gr__bits_put(moved->bits, page, next - page, false);
		page = next;
	}
	for (; !moved->fresh && page < end; page++) {
		char *host = moved->host + page * WIRE_PAGE;

		if (gr__is_zero(host, WIRE_PAGE))
			continue;
		memset(host, 0, WIRE_PAGE);
		gr_mark_host(host, WIRE_PAGE);
	}
}

/* Note pages as torn, or as whole. Lock held. */
static int note_torn(struct gr__receiver *receiver, struct gr__moved *moved, uint64_t page,
		     uint64_t pages, bool torn)
{
	uint64_t changed;

	if (torn && !moved->torn)
		moved->torn = gr__bits_new(moved->block);
	if (!moved->torn)
		return torn ? -ENOMEM : 0;
	changed = gr__bits_put(moved->torn, page, pages, torn);
	receiver->torn = torn ? receiver->torn + changed : receiver->torn - changed;
	return 0;
}

/* The hashes of what stands in guest memory now; wrong ones become bits. True: some are. */
static bool find_torn(struct gr__reader *reader, const struct gr__moved *moved)
{
	const uint64_t *hash = reader->hashes;
	uint64_t at, end, torn = 0;
	unsigned i;

	memset(reader->torn, 0, sizeof(reader->torn));
	for (i = 0; i < reader->head.extents; i++) {
		const struct wire_extent *e = &reader->extents[i];

		if (e->kind != WIRE_COPY)
			continue;
		end = e->offset + (uint64_t)e->pages * WIRE_PAGE;
		for (at = e->offset; at < end; at += WIRE_PAGE, hash++) {
			if (XXH3_64bits(moved->host + at, WIRE_PAGE) == le64toh(*hash))
				continue;
			gr__bits_put(reader->torn, (uint64_t)(hash - reader->hashes), 1, true);
			torn++;
		}
	}
	return torn;
}

/* Lock held. */
static int note_pages(struct gr__reader *reader, struct gr__moved *moved, bool torn)
{
	uint64_t copy = 0, page, end;
	unsigned i;
	int rc = 0;

	for (i = 0; i < reader->head.extents && !rc; i++) {
		const struct wire_extent *e = &reader->extents[i];

		page = e->offset / WIRE_PAGE;
		end = page + e->pages;
		rc = note_torn(reader->receiver, moved, page, e->pages, false);
		if (e->kind == WIRE_ZERO) {
			put_zeroes(moved, e);
			continue;
		}
		for (; torn && page < end && !rc; page++, copy++)
			if (gr__bits_next(reader->torn, copy, copy + 1, true) == copy)
				rc = note_torn(reader->receiver, moved, page, 1, true);
		gr__bits_put(moved->bits, e->offset / WIRE_PAGE, e->pages, true);
		gr_mark_host(moved->host + e->offset, (uint64_t)e->pages * WIRE_PAGE);
	}
	return rc;
}

static int place_precopy(struct gr__reader *reader, struct gr__moved *moved)
{
	bool packed = reader->channel->head.flags & WIRE_ZSTD, torn = false;
	struct gr__session *session = &reader->receiver->session;
	const char *from = NULL;
	int count = 0, rc = 0;
	unsigned i;

	if (packed) {
		rc = take_aside(reader);
		from = reader->memory;
	}
	for (i = 0; i < reader->head.extents && !rc; i++) {
		const struct wire_extent *e = &reader->extents[i];

		if (e->kind != WIRE_COPY)
			continue;
		reader->pieces[count++] =
			(struct iovec){moved->host + e->offset, (size_t)e->pages * WIRE_PAGE};
		if (packed)
			memcpy(moved->host + e->offset, from, (size_t)e->pages * WIRE_PAGE);
		from = packed ? from + (size_t)e->pages * WIRE_PAGE : NULL;
	}
	if (!rc && !packed)
		rc = gr__channel_take_data(reader->channel, reader->pieces, count);
	if (!rc && !packed)
		rc = gr__channel_end(reader->channel);
	if (rc < 0)
		return rc;
	if (!packed)
		torn = find_torn(reader, moved);
	pthread_mutex_lock(&session->lock);
	rc = note_pages(reader, moved, torn);
	pthread_mutex_unlock(&session->lock);
	return rc < 0 ? gr__session_fail(session, rc, "no memory") : 0;
}

int gr__place_whole(struct gr__receiver *receiver)
{
	const struct gr__moved *moved;
	uint64_t torn, page = 0, pages;
	unsigned i;

	pthread_mutex_lock(&receiver->session.lock);
	torn = receiver->torn;
	pthread_mutex_unlock(&receiver->session.lock);
	for (i = 0; torn && i < receiver->blocks.count; i++) {
		moved = &receiver->blocks.items[i];
		pages = moved->used / WIRE_PAGE;
		if (moved->torn && (page = gr__bits_next(moved->torn, 0, pages, true)) < pages)
			return gr__session_fail(
				&receiver->session, -EBADMSG,
				"block %.200s: the page at %#llx came damaged, and not again; so "
				"did %llu others",
				moved->block->name, (unsigned long long)(page * WIRE_PAGE),
				(unsigned long long)(torn - 1));
	}
	return 0;
}

/* ---------------------------------------------------------------------------------------- all */

int gr__place(struct gr__reader *reader)
{
	struct gr__session *session = &reader->receiver->session;
	struct gr__moved *moved = NULL;
	uint64_t copied = 0, zero = 0;
	unsigned i;
	int rc = take_head(reader, &moved);

	if (rc < 0 || !moved)
		return rc;
	if (gr__in_postcopy(reader->receiver)) {
		rc = take_aside(reader);
		if (!rc)
			rc = gr__fault_fill(reader->receiver, reader, reader->memory);
	} else {
		rc = place_precopy(reader, moved);
	}
	if (rc < 0)
		return rc;
	for (i = 0; i < reader->head.extents; i++)
		if (reader->extents[i].kind == WIRE_COPY)
			copied += (uint64_t)reader->extents[i].pages * WIRE_PAGE;
		else
			zero += (uint64_t)reader->extents[i].pages * WIRE_PAGE;
	reader->copied += copied;
	reader->zero += zero;
	pthread_mutex_lock(&session->lock);
	session->stats.bytes_copied += copied;
	session->stats.bytes_zero += zero;
	session->stats.bytes_left = reader->receiver->missing;
	pthread_mutex_unlock(&session->lock);
	return 0;
}

void gr__reader_free(struct gr__reader *reader)
{
	if (!reader)
		return;
	ZSTD_freeDCtx(reader->zstd);
	gr__free(reader->packed);
	gr__free(reader->memory);
	gr__free(reader);
}
