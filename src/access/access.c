/* SPDX-License-Identifier: MIT */
/*
 * Bytes to and from guest memory. The only place that touches it.
 *
 * All or nothing: the pieces are counted first and moved second, on one view and inside one read
 * section, so nothing can go away in between. The guest may write at the same time: what is moved
 * is then some mixture of bytes, as on real hardware.
 */
#include "base/error.h"
#include "space/lookup.h"
#include <errno.h>
#include <guestram.h>
#include <string.h>

struct mover {
	void *to;	  /* load: where the next piece goes */
	const void *from; /* store: where it comes from */
	int byte;	  /* fill */
};

static int load_piece(void *context, const struct gr__piece *piece, int index)
{
	struct mover *mover = context;

	memcpy(mover->to, gr__piece_host(piece), piece->length);
	mover->to = (char *)mover->to + piece->length;
	return 0;
}

static int store_piece(void *context, const struct gr__piece *piece, int index)
{
	struct mover *mover = context;

	memcpy(gr__piece_host(piece), mover->from, piece->length);
	gr_mark_host(gr__piece_host(piece), piece->length);
	mover->from = (const char *)mover->from + piece->length;
	return 0;
}

static int fill_piece(void *context, const struct gr__piece *piece, int index)
{
	memset(gr__piece_host(piece), ((struct mover *)context)->byte, piece->length);
	gr_mark_host(gr__piece_host(piece), piece->length);
	return 0;
}

/* What does not lie in one range with the right access. In the caller's read section. */
static __attribute__((noinline)) int
move_slow(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
	  int (*fn)(void *context, const struct gr__piece *piece, int index), struct mover *mover)
{
	const struct gr__view *view = gr__view_of(gr__space_view(space));
	int rc = gr__check_span(addr, length, access);

	if (!rc)
		rc = gr__walk_pieces(view, addr, length, access, NULL, NULL);
	if (rc > 0)
		rc = gr__walk_pieces(view, addr, length, access, fn, mover);
	return rc < 0 ? rc : 0;
}

int gr__load_slow(struct gr_space *space, uint64_t addr, void *buf, uint64_t length)
{
	struct mover mover = {.to = buf};

	return move_slow(space, addr, length, GR_READ, load_piece, &mover);
}

int gr__store_slow(struct gr_space *space, uint64_t addr, const void *buf, uint64_t length)
{
	struct mover mover = {.from = buf};

	return move_slow(space, addr, length, GR_WRITE, store_piece, &mover);
}

int gr__fill_slow(struct gr_space *space, uint64_t addr, int byte, uint64_t length)
{
	struct mover mover = {.byte = byte};

	return move_slow(space, addr, length, GR_WRITE, fill_piece, &mover);
}

static int locate_piece(void *context, const struct gr__piece *piece, int index)
{
	((struct mover *)context)->to = gr__piece_host(piece);
	return 0;
}

/* The place of a naturally aligned value, which lies in one page and so in one range. */
static int locate_value(struct gr_space *space, uint64_t addr, uint64_t size, void **host)
{
	unsigned access = GR_READ | GR_WRITE;
	struct mover mover;
	int rc;

	if (addr & (size - 1))
		return gr__fail(-EINVAL, "cmpxchg: %#llx is not a multiple of %u",
				(unsigned long long)addr, (unsigned)size);
	*host = gr_host(space, addr, size, access);
	if (gr_likely(*host != NULL))
		return 0;
	/* an error; or a place that was mapped a moment ago */
	rc = move_slow(space, addr, size, access, locate_piece, &mover);
	if (!rc)
		*host = mover.to;
	return rc;
}

int gr_cmpxchg_u32(struct gr_space *space, uint64_t addr, uint32_t *expected, uint32_t desired)
{
	void *host = NULL;
	int rc;

	gr_read_begin();
	rc = locate_value(space, addr, sizeof(desired), &host);
	if (!rc)
		rc = __atomic_compare_exchange_n((uint32_t *)host, expected, desired, 0,
						 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	if (rc > 0)
		gr_mark_host(host, sizeof(desired));
	gr_read_end();
	return rc;
}

int gr_cmpxchg_u64(struct gr_space *space, uint64_t addr, uint64_t *expected, uint64_t desired)
{
	void *host = NULL;
	int rc;

	gr_read_begin();
	rc = locate_value(space, addr, sizeof(desired), &host);
	if (!rc)
		rc = __atomic_compare_exchange_n((uint64_t *)host, expected, desired, 0,
						 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	if (rc > 0)
		gr_mark_host(host, sizeof(desired));
	gr_read_end();
	return rc;
}
