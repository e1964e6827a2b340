/* SPDX-License-Identifier: MIT */
/*
 * Records of pages: checked, then into memory. See receiver.h.
 *
 * Everything in a record is the peer's. Extents are compared with the block's agreed length before
 * a byte is put anywhere. What is not packed is read straight to its place in precopy; its hash is
 * known afterwards, and if it is wrong there is no guest.
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
	return rc;
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
	int rc = want(reader, &reader->memory);

	if (!rc && packed)
		rc = want(reader, &reader->packed);
	if (!rc && packed && !reader->zstd) {
		reader->zstd = ZSTD_createDCtx();
		if (!reader->zstd)
			rc = gr__session_fail(&reader->receiver->session, -ENOMEM, "no memory");
	}
	if (!rc)
		rc = gr__channel_take(channel, packed ? reader->packed : reader->memory,
				      reader->head.data);
	if (!rc)
		rc = gr__channel_end(channel);
	if (!rc && packed &&
	    ZSTD_decompressDCtx(reader->zstd, reader->memory, reader->head.memory, reader->packed,
				reader->head.data) != reader->head.memory)
		rc = broken(reader, "they do not unpack");
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

static int place_precopy(struct gr__reader *reader, struct gr__moved *moved)
{
	bool packed = reader->channel->head.flags & WIRE_ZSTD;
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
	if (!rc && !packed && count)
		rc = gr__channel_takev(reader->channel, reader->pieces, count);
	if (!rc && !packed)
		rc = gr__channel_end(reader->channel);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&session->lock);
	for (i = 0; i < reader->head.extents; i++) {
		const struct wire_extent *e = &reader->extents[i];

		if (e->kind == WIRE_ZERO) {
			put_zeroes(moved, e);
			continue;
		}
		gr__bits_put(moved->bits, e->offset / WIRE_PAGE, e->pages, true);
		gr_mark_host(moved->host + e->offset, (uint64_t)e->pages * WIRE_PAGE);
	}
	pthread_mutex_unlock(&session->lock);
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
