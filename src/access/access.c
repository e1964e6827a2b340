/* SPDX-License-Identifier: MIT */
/*
 * Bytes to and from guest memory. The only place that touches it.
 *
 * All or nothing: the pieces are counted first and moved second, on one view and inside one read
 * section, so nothing can go away in between. The guest may write at the same time: what is moved
 * is then some mixture of bytes, as on real hardware.
 *
 * Foreign memory: the windows are found, and mapped, when the pieces are counted, and kept until
 * they are moved by the section. For a few that is; with more of them, or when that is more than
 * the block may have at once, they are mapped as their turn comes. When there is no room for one,
 * and the section is none of the caller's, it is left, so that readers can be waited for, and
 * entered again.
 */
#include "base/error.h"
#include "space/lookup.h"
#include "space/space.h"
#include <errno.h>
#include <guestram.h>
#include <string.h>

/* So many windows are mapped before anything is moved. */
#define KEPT 16

struct mover {
	void *to;	  /* load: where the next piece goes */
	const void *from; /* store: where it comes from */
	int byte;	  /* fill */
	/* Foreign pieces: found, in their order; all others are found when they are moved. */
	bool keep_none;
	unsigned kept, used;
	void **hosts;
	uint64_t moved; /* bytes, in all tries */
};

/* When pieces are counted. */
static int keep_piece(void *context, const struct gr__piece *piece, int index)
{
	struct mover *mover = context;
	struct gr__mapping *window;
	int rc;

	if (!piece->range->foreign || mover->keep_none || mover->kept == KEPT)
		return 0;
	rc = gr__piece_locate(piece, &mover->hosts[mover->kept], &window);
	mover->kept += !rc;
	return rc;
}

/* When they are moved. */
static int find_piece(struct mover *mover, const struct gr__piece *piece, void **host)
{
	struct gr__mapping *window;
	int rc = 0;

	if (piece->range->foreign && mover->used < mover->kept)
		*host = mover->hosts[mover->used++];
	else
		rc = gr__piece_locate(piece, host, &window);
	mover->moved += rc ? 0 : piece->length;
	return rc;
}

/* A value that lies naturally aligned is moved by one access here too, after a miss. */
#define COPY_ALIGNED(bits, length, copy)                                                           \
	if ((length) == (bits) / 8 && !((uintptr_t)host & ((bits) / 8 - 1))) {                     \
		uint##bits##_t value;                                                              \
                                                                                                   \
		copy;                                                                              \
		return;                                                                            \
	}

static void load_bytes(void *to, const void *host, uint64_t length)
{
#define LOAD(bits)                                                                                 \
	COPY_ALIGNED(bits, length,                                                                 \
		     value = __atomic_load_n((const uint##bits##_t *)host, __ATOMIC_RELAXED);      \
		     memcpy(to, &value, sizeof(value)))
	LOAD(64)
	LOAD(32)
	LOAD(16)
#undef LOAD
	memcpy(to, host, length);
}

static void store_bytes(void *host, const void *from, uint64_t length)
{
#define STORE(bits)                                                                                \
	COPY_ALIGNED(bits, length, memcpy(&value, from, sizeof(value));                            \
		     __atomic_store_n((uint##bits##_t *)host, value, __ATOMIC_RELAXED))
	STORE(64)
	STORE(32)
	STORE(16)
#undef STORE
	memcpy(host, from, length);
}

static int load_piece(void *context, const struct gr__piece *piece, int index)
{
	struct mover *mover = context;
	void *host;
	int rc = find_piece(mover, piece, &host);

	if (rc)
		return rc;
	load_bytes(mover->to, host, piece->length);
	mover->to = (char *)mover->to + piece->length;
	return 0;
}

static int store_piece(void *context, const struct gr__piece *piece, int index)
{
	struct mover *mover = context;
	void *host;
	int rc = find_piece(mover, piece, &host);

	if (rc)
		return rc;
	store_bytes(host, mover->from, piece->length);
	gr_mark_host(host, piece->length);
	mover->from = (const char *)mover->from + piece->length;
	return 0;
}

static int fill_piece(void *context, const struct gr__piece *piece, int index)
{
	struct mover *mover = context;
	void *host;
	int rc = find_piece(mover, piece, &host);

	if (rc)
		return rc;
	memset(host, mover->byte, piece->length);
	gr_mark_host(host, piece->length);
	return 0;
}

typedef int (*piece_fn)(void *context, const struct gr__piece *piece, int index);

/* All of it, or nothing; or, see above, a part, of which mover->moved tells. */
static int move_once(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
		     piece_fn fn, struct mover *mover)
{
	const struct gr__view *view = gr__view_of(gr__space_view(space));
	int rc;

	mover->kept = mover->used = 0;
	rc = gr__walk_pieces(view, addr, length, access, keep_piece, mover);
	if (rc > 0)
		rc = gr__walk_pieces(view, addr, length, access, fn, mover);
	return rc < 0 ? rc : 0;
}

/* Leaves the section for that, when it is the outermost one and so the access's own. */
static bool wait_for_window(struct gr_space *space)
{
	bool waited;

	if (!gr__section_is_outermost()) {
		gr__say("windows run out: those that this section has seen stay until its end");
		return false;
	}
	gr_read_end();
	waited = gr__windows_wait(gr__space_of(space)->ram);
	gr_read_begin();
	return waited;
}

/* What does not lie in one range with the right access. In the caller's read section. */
static __attribute__((noinline)) int move_slow(struct gr_space *space, uint64_t addr,
					       uint64_t length, unsigned access, piece_fn fn,
					       struct mover *mover)
{
	unsigned tries = 0;
	void *hosts[KEPT]; /* not cleared each time */
	int rc = gr__check_span(addr, length, access);

	if (rc < 0)
		return rc;
	mover->hosts = hosts;
	for (;;) {
		rc = move_once(space, addr + mover->moved, length - mover->moved, access, fn,
			       mover);
		if (rc != -EAGAIN)
			return rc;
		if (!wait_for_window(space))
			return -ENOBUFS;
		/* it may be that they can never all be had at once */
		mover->keep_none = ++tries > 1;
	}
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
	struct mover *mover = context;

	return find_piece(mover, piece, &mover->to);
}

/* The place of a naturally aligned value, which lies in one page and so in one range. */
static int locate_value(struct gr_space *space, uint64_t addr, uint64_t size, void **host)
{
	unsigned access = GR_READ | GR_WRITE;
	struct mover mover = {0};
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
