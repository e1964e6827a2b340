/* SPDX-License-Identifier: MIT */
/*
 * See overlay.h.
 *
 *   bit `here`  clear: the page is the base's        set: it is the file's (a hole of it is zero)
 *   bit `lost`  set: a write of it failed; reading it is -EIO until it is written as a whole
 *
 * Threads: any. A page's bytes are in the file before its bit is set (release); a reader that sees
 * the bit (acquire) finds them. The first write of a part of a page copies the rest from the base:
 * it takes `lock` alone, so that no other write of the page falls between; all other writes share
 * it.
 */
#include "mount/overlay.h"
#include "base/bits.h"
#include "base/range.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/file.h"
#include "os/transfer.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

struct gr__mount_overlay {
	struct gr__mount_base *base;	     /* const */
	const struct gr__mount_block *block; /* const */
	int fd;				     /* const */
	uint64_t pages;			     /* const */
	pthread_rwlock_t lock;
	uint64_t *here;	     /* atomic: release pairs with the acquire in run_of() */
	uint64_t *lost;	     /* atomic, likewise */
	bool any_lost;	     /* atomic: set before the first bit, so that false tells of none */
	uint64_t here_count; /* atomic, relaxed: a figure */
	uint64_t synced;     /* atomic, relaxed: who asks about it has waited for his answer */
};

int gr__mount_overlay_new(const char *directory, struct gr__mount_base *base,
			  const struct gr__mount_block *block, struct gr__mount_overlay **overlay)
{
	struct gr__mount_overlay *o = gr__alloc(sizeof(*o));
	uint64_t words;
	int rc = -ENOMEM;

	if (!o)
		return -ENOMEM;
	o->base = base;
	o->block = block;
	o->pages = block->length / GR_PAGE_SIZE + !gr__is_aligned(block->length, GR_PAGE_SIZE);
	words = o->pages / 64 + 1;
	o->here = gr__alloc_array(words, sizeof(*o->here));
	o->lost = gr__alloc_array(words, sizeof(*o->lost));
	if (!o->here || !o->lost)
		goto free_overlay;
	o->fd = directory ? gr__file_open_unnamed(directory)
			  : gr__file_memfd("guestram-overlay", MFD_CLOEXEC);
	rc = o->fd;
	if (rc < 0)
		goto free_overlay;
	rc = gr__file_set_size(o->fd, o->pages * GR_PAGE_SIZE);
	if (rc < 0)
		goto close_file;
	pthread_rwlock_init(&o->lock, NULL);
	*overlay = o;
	return 0;

close_file:
	gr__fd_close(o->fd);
free_overlay:
	gr__free(o->here);
	gr__free(o->lost);
	gr__free(o);
	return rc;
}

void gr__mount_overlay_free(struct gr__mount_overlay *overlay)
{
	if (!overlay)
		return;
	pthread_rwlock_destroy(&overlay->lock);
	gr__fd_close(overlay->fd);
	gr__free(overlay->here);
	gr__free(overlay->lost);
	gr__free(overlay);
}

uint64_t gr__mount_overlay_bytes(const struct gr__mount_overlay *overlay)
{
	/* relaxed: a figure */
	return __atomic_load_n(&overlay->here_count, __ATOMIC_RELAXED) * GR_PAGE_SIZE;
}

void gr__mount_overlay_sync(struct gr__mount_overlay *overlay, uint64_t who)
{
	__atomic_store_n(&overlay->synced, who, __ATOMIC_RELAXED);
}

bool gr__mount_overlay_was_synced(const struct gr__mount_overlay *overlay, uint64_t who)
{
	return __atomic_load_n(&overlay->synced, __ATOMIC_RELAXED) == who;
}

/* ------------------------------------------------------------------------------------------- bits
 */

/* How many bits of [first, last] became @set. */
static uint64_t set_bits(uint64_t *bits, uint64_t first, uint64_t last, bool set)
{
	uint64_t word, changed = 0;

	for (word = first >> 6; word <= last >> 6; word++) {
		uint64_t mask = gr__bits_mask(word, first, last), old;

		/* release: the bytes in the file; pairs with the acquire in run_of() */
		old = set ? __atomic_fetch_or(&bits[word], mask, __ATOMIC_RELEASE)
			  : __atomic_fetch_and(&bits[word], ~mask, __ATOMIC_RELEASE);
		changed += (uint64_t)__builtin_popcountll((set ? ~old : old) & mask);
	}
	return changed;
}

/* Is the page of @offset in the file; *length: for how many bytes from @offset on that holds. */
static bool run_of(const struct gr__mount_overlay *overlay, uint64_t offset, uint64_t *length)
{
	uint64_t page = offset / GR_PAGE_SIZE, end, bytes;
	bool here;

	here = gr__bits_next(overlay->here, page, page + 1, true) == page;
	end = gr__bits_next(overlay->here, page, overlay->pages, !here);
	__atomic_thread_fence(__ATOMIC_ACQUIRE); /* pairs with the release in set_bits() */
	bytes = end * GR_PAGE_SIZE < overlay->block->length ? end * GR_PAGE_SIZE
							    : overlay->block->length;
	*length = bytes - offset;
	return here;
}

static bool is_lost(const struct gr__mount_overlay *overlay, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / GR_PAGE_SIZE, end = (offset + length - 1) / GR_PAGE_SIZE + 1;

	/* acquire: pairs with the release in lose() */
	return __atomic_load_n(&overlay->any_lost, __ATOMIC_ACQUIRE) &&
	       gr__bits_next(overlay->lost, first, end, true) < end;
}

static void lose(struct gr__mount_overlay *overlay, uint64_t offset, uint64_t length)
{
	/* release: pairs with the acquire in is_lost() */
	__atomic_store_n(&overlay->any_lost, true, __ATOMIC_RELEASE);
	set_bits(overlay->lost, offset / GR_PAGE_SIZE, (offset + length - 1) / GR_PAGE_SIZE, true);
}

/* Whole pages are in the file. */
static void have(struct gr__mount_overlay *overlay, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / GR_PAGE_SIZE, last = (offset + length - 1) / GR_PAGE_SIZE, new;

	new = set_bits(overlay->here, first, last, true);
	if (is_lost(overlay, offset, length))
		set_bits(overlay->lost, first, last, false);
	__atomic_fetch_add(&overlay->here_count, new, __ATOMIC_RELAXED); /* a figure */
}

/* ---------------------------------------------------------------------------------- read and look
 */

int gr__mount_overlay_look(struct gr__mount_overlay *overlay, uint64_t offset, uint64_t *length)
{
	uint64_t run, known, first, end;
	int rc;

	if (!run_of(overlay, offset, &run)) {
		rc = gr__mount_base_look(overlay->base, overlay->block, offset, &known);
		*length = known < run ? known : run;
		return rc;
	}
	*length = run;
	rc = gr__file_next_data(overlay->fd, offset, &first, &end);
	if (rc == -ENXIO)
		return GR_PAGES_ZERO;
	if (rc < 0)
		return rc;
	/* holes of the file are of whole pages or larger ones, and count as such only */
	if (first > offset) {
		known = gr__align_down(first - offset, GR_PAGE_SIZE);
		*length = known && known < run ? known : run;
		return known ? GR_PAGES_ZERO : GR_PAGES_DATA;
	}
	if (end - offset < run && gr__is_aligned(end, GR_PAGE_SIZE))
		*length = end - offset;
	return GR_PAGES_DATA;
}

int gr__mount_overlay_read(struct gr__mount_overlay *overlay, uint64_t offset, void *buf,
			   uint64_t length)
{
	char *to = buf;

	if (length && is_lost(overlay, offset, length))
		return -EIO;
	while (length) {
		uint64_t run;
		bool here = run_of(overlay, offset, &run);
		int64_t got;

		if (run > length)
			run = length;
		if (here) {
			got = gr__file_read(overlay->fd, to, run, offset);
			if (got >= 0 && (uint64_t)got < run)
				got = -EIO;
		} else {
			got = gr__mount_base_read(overlay->base, overlay->block, offset, to, run);
		}
		if (got < 0)
			return (int)got;
		to += run;
		offset += run;
		length -= run;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------ write
 */

/* Bytes of one page, not all of them, or to the cut end of the block. The lock is held alone. */
static int write_part(struct gr__mount_overlay *overlay, uint64_t offset, const char *buf,
		      uint64_t length)
{
	uint64_t page = gr__align_down(offset, GR_PAGE_SIZE), run, size;
	char bytes[GR_PAGE_SIZE] = {0};
	int rc = 0;

	size = overlay->block->length - page;
	if (size > GR_PAGE_SIZE)
		size = GR_PAGE_SIZE;
	if (length < size) {
		if (is_lost(overlay, offset, length))
			return -EIO;
		if (run_of(overlay, offset, &run))
			return gr__file_write(overlay->fd, buf, length, offset);
		rc = gr__mount_base_read(overlay->base, overlay->block, page, bytes, size);
	}
	if (!rc) {
		memcpy(bytes + (offset - page), buf, length);
		rc = gr__file_write(overlay->fd, bytes, GR_PAGE_SIZE, page);
	}
	if (!rc)
		have(overlay, page, GR_PAGE_SIZE);
	return rc;
}

static int write_whole(struct gr__mount_overlay *overlay, uint64_t offset, const char *buf,
		       uint64_t length)
{
	int rc = gr__file_write(overlay->fd, buf, length, offset);

	if (!rc)
		have(overlay, offset, length);
	return rc;
}

static int punch_whole(struct gr__mount_overlay *overlay, uint64_t offset, uint64_t length)
{
	int rc = gr__file_punch(overlay->fd, offset, length);

	if (!rc)
		have(overlay, offset, length);
	return rc;
}

/* @buf NULL: zeroes. Head and tail that are no whole pages go one by one, with the lock alone. */
static int change(struct gr__mount_overlay *overlay, uint64_t offset, const char *buf,
		  uint64_t length)
{
	static const char zeroes[GR_PAGE_SIZE];
	int rc = 0;

	while (length) {
		uint64_t skip = offset & (GR_PAGE_SIZE - 1),
			 some = gr__align_down(length, GR_PAGE_SIZE);

		if (skip || !some) {
			some = GR_PAGE_SIZE - skip < length ? GR_PAGE_SIZE - skip : length;
			pthread_rwlock_wrlock(&overlay->lock);
			rc = write_part(overlay, offset, buf ? buf : zeroes, some);
		} else {
			pthread_rwlock_rdlock(&overlay->lock);
			rc = buf ? write_whole(overlay, offset, buf, some)
				 : punch_whole(overlay, offset, some);
		}
		pthread_rwlock_unlock(&overlay->lock);
		if (rc < 0)
			break;
		offset += some;
		length -= some;
		if (buf)
			buf += some;
	}
	/* who wrote through a mapping is not told, and its pages leave the cache as if all were
	 * well */
	if (rc < 0 && buf)
		lose(overlay, offset, length);
	return rc;
}

int gr__mount_overlay_write(struct gr__mount_overlay *overlay, uint64_t offset, const void *buf,
			    uint64_t length)
{
	return change(overlay, offset, buf, length);
}

int gr__mount_overlay_punch(struct gr__mount_overlay *overlay, uint64_t offset, uint64_t length)
{
	return change(overlay, offset, NULL, length);
}
