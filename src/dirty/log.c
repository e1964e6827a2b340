/* SPDX-License-Identifier: MIT */
/*
 * The log of a vhost-user back-end, as a source: a bit for each 4 KiB of guest addresses, in shared
 * memory that another process sets bits in.
 *
 *   back-end: data, then its bit (an atomic OR)
 *   collect:  takes the bits (an atomic exchange), finds whose they are by the ranges of the space;
 *             its caller reads memory then
 *
 * Bits are by address, clients ask by block. So we follow the space. A range that is unmapped is
 * kept as `left`, since the back-end may not know yet; what it still marks there is that range's
 * until the addresses have another one, or many others have left since.
 *
 * What the peer writes are bits, of which none can lead out of a block. It has the descriptor: the
 * file is sealed, so that it cannot cut it under us.
 *
 * Threads: log->lock around all of it. The dirty state's lock may be held around that; none is
 * taken inside.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/range.h"
#include "dirty/dirty.h"
#include "dirty/saved.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/file.h"
#include "os/memory.h"
#include "space/space.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_SHIFT 12 /* of vhost-user's logs */
#define LEFT_MAX 64

/* A range of the space, or one that was. Those that are there never overlap. */
struct logged {
	struct cds_list_head node;
	uint64_t addr, length, offset;
	struct gr_block *block; /* to be compared; alive while saved pages of it are kept */
	bool left;
};

struct gr_dirty_log {
	struct gr_space *space;		/* const */
	struct gr_dirty_source *source; /* const once open */
	struct gr_listener *listener;	/* of who opens and closes */
	struct gr_txn *hold;		/* keeps the space open */
	uint64_t last;			/* const: address that has a bit */
	uint64_t bytes;			/* const: of the file */
	int fd;				/* const */
	uint64_t *words;		/* shared with the peer; atomic */

	pthread_mutex_t lock;
	struct cds_list_head ranges; /* wr: lock: those that left in the order in which they did */
	unsigned left;		     /* wr: lock: how many did */
	struct cds_list_head saved;  /* wr: lock: struct gr__saved */
};

/* -------------------------------------------------------------------------------------- bits */

/* The bits of @from to @last, addresses of @range, are taken and saved; @saved NULL: forgotten. */
static void take(struct gr_dirty_log *log, const struct logged *range, uint64_t from, uint64_t last,
		 struct gr__saved *saved)
{
	uint64_t first = from >> PAGE_SHIFT, end = last >> PAGE_SHIFT, at;

	for (at = first >> 6; at <= end >> 6; at++) {
		uint64_t mask = gr__bits_mask(at, first, end), bits, page, next;

		/* relaxed: a bit that comes now is the next one's */
		if (!__atomic_load_n(&log->words[at], __ATOMIC_RELAXED))
			continue;
		/* acquire: the data comes with the bit, which the peer sets by a release */
		bits = le64toh(__atomic_fetch_and(&log->words[at], ~htole64(mask),
						  __ATOMIC_ACQ_REL)) &
		       mask;
		for (page = gr__bits_next(&bits, 0, 64, true); page < 64;
		     page = gr__bits_next(&bits, next, 64, true)) {
			uint64_t addr = (at * 64 + page) << PAGE_SHIFT;

			next = gr__bits_next(&bits, page, 64, false);
			gr__saved_put(saved, range->offset + (addr - range->addr),
				      (next - page) << PAGE_SHIFT);
		}
	}
}

static uint64_t last_of(const struct logged *range)
{
	return range->addr + (range->length - 1); /* a range does not wrap */
}

static void take_all(struct gr_dirty_log *log, const struct logged *range)
{
	take(log, range, range->addr, last_of(range), gr__saved_find(&log->saved, range->block));
}

/* ------------------------------------------------------------------------------------- ranges */

static void forget(struct gr_dirty_log *log, struct logged *range)
{
	log->left -= range->left;
	cds_list_del(&range->node);
	gr__free(range);
}

/* Those that have left from these addresses have them no more. Lock held. */
static void make_way(struct gr_dirty_log *log, uint64_t first, uint64_t last)
{
	struct logged *range, *next;

	cds_list_for_each_entry_safe (range, next, &log->ranges, node) {
		if (!range->left || !gr__ranges_overlap(range->addr, last_of(range), first, last))
			continue;
		take_all(log, range);
		forget(log, range);
	}
}

static int on_range_added(void *context, struct gr_space *space, const struct gr_range *added)
{
	struct gr_dirty_log *log = context;
	struct logged *range;
	uint64_t last;

	if (space != log->space)
		return 0;
	if (!gr__range_last(added->addr, added->length, &last) || last > log->last)
		return gr__fail(-ERANGE,
				"dirty log: [%#llx, %#llx bytes] is above %#llx, the last address "
				"that has a bit",
				(unsigned long long)added->addr, (unsigned long long)added->length,
				(unsigned long long)log->last);
	range = gr__alloc(sizeof(*range));
	if (!range)
		return gr__fail(-ENOMEM, "dirty log: no memory for a range");
	range->addr = added->addr;
	range->length = added->length;
	range->offset = added->offset;
	range->block = added->block;
	pthread_mutex_lock(&log->lock);
	make_way(log, range->addr, last);
	/* what else is marked here is of nobody that is known */
	take(log, range, range->addr, last, NULL);
	cds_list_add(&range->node, &log->ranges);
	pthread_mutex_unlock(&log->lock);
	return 0;
}

static struct logged *oldest_left(struct gr_dirty_log *log)
{
	struct logged *range;

	cds_list_for_each_entry (range, &log->ranges, node)
		if (range->left)
			return range;
	return NULL;
}

/* Lock held. */
static void leave(struct gr_dirty_log *log, struct logged *range)
{
	take_all(log, range);
	if (!gr__saved_find(&log->saved, range->block)) {
		forget(log, range); /* its block is deleted */
		return;
	}
	range->left = true;
	cds_list_del(&range->node);
	cds_list_add_tail(&range->node, &log->ranges);
	if (++log->left <= LEFT_MAX)
		return;
	range = oldest_left(log);
	take_all(log, range);
	forget(log, range);
}

static void on_range_removed(void *context, struct gr_space *space, const struct gr_range *removed)
{
	struct gr_dirty_log *log = context;
	struct logged *range, *next;

	if (space != log->space)
		return;
	pthread_mutex_lock(&log->lock);
	cds_list_for_each_entry_safe (range, next, &log->ranges, node) {
		if (!range->left && range->addr == removed->addr) {
			leave(log, range);
			break;
		}
	}
	pthread_mutex_unlock(&log->lock);
}

static const struct gr_listener_ops listener_ops = {
	.range_added = on_range_added,
	.range_removed = on_range_removed,
};

/* ---------------------------------------------------------------------------------- the source */

static int on_added(void *context, struct gr_block *block)
{
	struct gr_dirty_log *log = context;
	struct gr__saved *saved = gr__saved_new(block);

	if (!saved)
		return -ENOMEM;
	pthread_mutex_lock(&log->lock);
	cds_list_add_tail(&saved->node, &log->saved);
	pthread_mutex_unlock(&log->lock);
	return 0;
}

static void on_removed(void *context, struct gr_block *block)
{
	struct gr_dirty_log *log = context;
	struct logged *range, *next;

	pthread_mutex_lock(&log->lock);
	gr__saved_forget(&log->saved, block);
	/* another block may be made at the same address */
	cds_list_for_each_entry_safe (range, next, &log->ranges, node)
		if (range->left && range->block == block)
			forget(log, range);
	pthread_mutex_unlock(&log->lock);
}

static int on_collect(void *context, struct gr_block *block, uint64_t offset, uint64_t length,
		      struct gr_dirty_sink *sink)
{
	struct gr_dirty_log *log = context;
	struct gr__saved *saved;
	struct logged *range;

	pthread_mutex_lock(&log->lock);
	saved = gr__saved_find(&log->saved, block);
	cds_list_for_each_entry (range, &log->ranges, node) {
		uint64_t from = range->offset > offset ? range->offset : offset;
		uint64_t to = range->offset + range->length;

		to = to < offset + length ? to : offset + length;
		if (range->block == block && from < to)
			take(log, range, range->addr + (from - range->offset),
			     range->addr + (to - 1 - range->offset), saved);
	}
	if (saved)
		gr__saved_report(saved, offset, length, sink);
	pthread_mutex_unlock(&log->lock);
	return 0;
}

static const struct gr_dirty_source_ops source_ops = {
	.added = on_added,
	.removed = on_removed,
	.collect = on_collect,
};

/* -------------------------------------------------------------------------------- open, close */

static int make_file(struct gr_dirty_log *log)
{
	uint64_t bytes = (log->last >> PAGE_SHIFT) / 8 + 1;
	void *words = NULL;
	int rc;

	if (!gr__align_up(bytes, gr__os_page_size(), &log->bytes))
		return gr__fail(-ERANGE, "dirty log: it is too long");
	rc = gr__file_memfd("guestram log", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (rc >= 0) {
		log->fd = rc;
		rc = gr__file_set_size(log->fd, log->bytes);
	}
	if (!rc)
		rc = gr__file_seal(log->fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	if (!rc)
		rc = gr__os_map(log->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, log->fd, 0, &words);
	if (rc < 0)
		return gr__fail(rc, "dirty log: a file of %#llx bytes: %s",
				(unsigned long long)log->bytes, strerrordesc_np(-rc));
	log->words = words;
	return 0;
}

static void free_log(struct gr_dirty_log *log)
{
	struct logged *range, *next;

	cds_list_for_each_entry_safe (range, next, &log->ranges, node)
		forget(log, range);
	if (log->words)
		gr__os_unmap(log->words, log->bytes);
	gr__fd_close(log->fd);
	pthread_mutex_destroy(&log->lock);
	gr__free(log);
}

int gr_dirty_log_open(struct gr_space *space, uint64_t last, struct gr_dirty_log **result)
{
	struct gr_dirty_log *log = gr__alloc(sizeof(*log));
	struct gr_ram *ram = gr__space_of(space)->ram;
	int rc;

	if (!log)
		return gr__fail(-ENOMEM, "dirty log: no memory");
	log->space = space;
	log->last = last | ((1 << PAGE_SHIFT) - 1);
	log->fd = -1;
	pthread_mutex_init(&log->lock, NULL);
	CDS_INIT_LIST_HEAD(&log->ranges);
	CDS_INIT_LIST_HEAD(&log->saved);
	rc = make_file(log);
	if (rc < 0)
		goto free_log;
	/* an open transaction is what a space is not closed under */
	rc = gr_txn_begin(space, &log->hold);
	if (rc < 0)
		goto free_log;
	rc = gr__source_open(ram, &source_ops, log, NULL, &log->source);
	if (rc < 0)
		goto let_go;
	/* told last of what goes: whoever tells the peer has done so */
	rc = gr_listener_open(ram, &listener_ops, log, INT_MIN, &log->listener);
	if (rc < 0)
		goto close_source;
	*result = log;
	return 0;

close_source:
	gr_dirty_source_close(log->source);
let_go:
	gr_txn_abort(log->hold);
free_log:
	free_log(log);
	return rc;
}

int gr_dirty_log_close(struct gr_dirty_log *log)
{
	int rc;

	if (!log)
		return 0;
	/* all its ranges are told as removed, so what is marked is saved */
	rc = gr_listener_close(log->listener);
	if (rc < 0)
		return rc;
	gr_dirty_source_close(log->source);
	gr_txn_abort(log->hold);
	free_log(log);
	return 0;
}

int gr_dirty_log_fd(const struct gr_dirty_log *log, uint64_t *bytes)
{
	*bytes = log->bytes;
	return log->fd;
}
