/* SPDX-License-Identifier: MIT */
/*
 * Which pages of guest memory changed, for any number of clients.
 *
 * Caveats first:
 *  - What is written through host pointers is seen only if it is marked (gr_mark_host()) or watched
 *    (gr_dirty_watch_open(), which sees every writer in the process and the kernel's own writes).
 *  - A page that is harvested may be written again before it is read: harvest until the rest is
 *    small enough, stop the writers, harvest once more.
 *  - Clients, sources and watches are closed before their RAM.
 *
 * A *client* is somebody who asks: a display, a code cache, a migration, a snapshot. A *source* is
 * what knows: the library's own marks always, a watch, a hypervisor's log. A *harvest* takes what
 * is dirty for one client and makes it clean; the other clients keep theirs. It is a transaction:
 * gr_harvest_commit() when the pages are safe, gr_harvest_return() makes them dirty again, so that
 * a transfer that fails loses nothing.
 *
 * Bits are kept for each block by offset, not by guest address: what several spaces map is dirty
 * once.
 */
#ifndef GUESTRAM_DIRTY_H
#define GUESTRAM_DIRTY_H

#include <guestram.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gr_dirty;
struct gr_harvest;

/* gr_dirty_opts.flags */
#define GR_DIRTY_ALL                                                                               \
	(1u << 0) /* all memory is dirty at first, and all of each block that comes                \
		   */

/**
 * struct gr_dirty_opts - a client
 * @name:        1 to 63 bytes, for people
 * @granularity: bytes that are dirty together: a power of two from 1 KiB to 1 GiB; 0: 4 KiB.
 * Sources other than our own marks know whole pages
 * @flags:       GR_DIRTY_ALL
 */
struct gr_dirty_opts {
	const char *name;
	uint64_t granularity;
	unsigned flags;
	uint64_t reserved[4]; /* zero */
};

/**
 * gr_dirty_open() - begin to note what changes
 * @opts:   copied
 * @client: result, ended by gr_dirty_close()
 *
 * Every write that begins after the return is seen, in blocks that come later too. Costs one bit
 * for each @granularity of the blocks' max_length, and 1/32,768 of what is written.
 *
 * Context: any thread; waits for readers; not inside a read section or callback.
 * Return: 0, -EINVAL, -ENOMEM, -ERANGE (a block lies above the addresses that can be noted),
 * -ENOTSUP (a block is seen through windows; such a one is refused as long as a client is open),
 * -EDEADLK, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_dirty_open(struct gr_ram *ram, const struct gr_dirty_opts *opts,
			 struct gr_dirty **client);

/**
 * gr_dirty_close() - end it, and its harvests must have ended before
 *
 * Context: any thread; waits for readers; not inside a read section or callback.
 * Return: 0 (NULL too), -EBUSY (a harvest of it is open), -EDEADLK, -ENOTSUP. Since 0.1.
 */
GR_API int gr_dirty_close(struct gr_dirty *client);

/**
 * gr_dirty_mark() - this part of a block was written
 *
 * For writers that know offsets rather than host pointers. Parts past max_length are left out.
 *
 * Context: any thread that knows @block to be alive; no lock, no wait. Since 0.1.
 */
GR_API void gr_dirty_mark(struct gr_block *block, uint64_t offset, uint64_t length);

/**
 * gr_dirty_harvest() - take what is dirty in a part of a block, and make it clean for @client
 * @offset:  a multiple of the granularity
 * @length:  likewise, or up to the block's end; 0: all from @offset on
 * @harvest: result, ended by gr_harvest_commit() or gr_harvest_return()
 *
 * All sources are asked and re-armed first. Memory that is read after the call is as new as what
 * was harvested, or newer; what is written later is dirty for the next harvest.
 *
 * Context: any thread that knows @block to be alive; may wait for another harvest, not for readers.
 * Return: 0, -ENOENT (no live block of the client's RAM), -EINVAL, -ERANGE, -ENOMEM or what a
 * source failed with: nothing is lost then. Since 0.1.
 */
GR_API int gr_dirty_harvest(struct gr_dirty *client, struct gr_block *block, uint64_t offset,
			    uint64_t length, struct gr_harvest **harvest);

/**
 * gr_harvest_next() - the next stretch of dirty bytes
 * @offset, @length: in the block; both multiples of the granularity, but for the block's end
 *
 * Context: one thread at a time. Return: 1, or 0 when there are no more (the next call begins
 * again). Since 0.1.
 */
GR_API int gr_harvest_next(struct gr_harvest *harvest, uint64_t *offset, uint64_t *length);

/** gr_harvest_bytes() - how much is dirty in it. Since 0.1. */
GR_API uint64_t gr_harvest_bytes(const struct gr_harvest *harvest);

/** gr_harvest_commit() - its pages are dealt with; NULL does nothing. Since 0.1. */
GR_API void gr_harvest_commit(struct gr_harvest *harvest);

/**
 * gr_harvest_return() - all of it is dirty again; NULL does nothing
 *
 * If the block was deleted meanwhile, it is forgotten. Context: any thread. Since 0.1.
 */
GR_API void gr_harvest_return(struct gr_harvest *harvest);

/**
 * gr_dirty_bytes() - how much a client would harvest now
 * @block: or NULL for all
 *
 * Sources are asked, nothing becomes clean. Context and errors as gr_dirty_harvest(). Since 0.1.
 */
GR_API int gr_dirty_bytes(struct gr_dirty *client, struct gr_block *block, uint64_t *bytes);

/* ------------------------------------------------------------------------------------- sources */

struct gr_dirty_source;
struct gr_dirty_sink;

/**
 * struct gr_dirty_source_ops - something that knows of writes; any but @collect may be NULL
 * @added:   a block is about to be findable, or was there; < 0 refuses it
 * @removed: it is about to go
 * @resized: its used length was @old_length before; told with the new one
 * @noted:   our own marks say that this part was written or discarded: pages may stand there that
 * the source has not made ready. Comes before the @collect of the same harvest
 * @collect: report all writes to a part of a block since the last collect with gr_dirty_report(),
 * and be ready for the next ones, before it returns: a write must be in this report or in the next.
 * On an error, what was not reported stays for the next time
 *
 * Called one at a time for one RAM; they must not call gr_dirty_ functions but gr_dirty_report()
 * and gr_dirty_mark().
 */
struct gr_dirty_source_ops {
	int (*added)(void *context, struct gr_block *block);
	void (*removed)(void *context, struct gr_block *block);
	void (*resized)(void *context, struct gr_block *block, uint64_t old_length);
	void (*noted)(void *context, struct gr_block *block, uint64_t offset, uint64_t length);
	int (*collect)(void *context, struct gr_block *block, uint64_t offset, uint64_t length,
		       struct gr_dirty_sink *sink);
};

/**
 * gr_dirty_source_open() / _close() - have a source asked in every harvest
 * @ops: must outlive the source
 *
 * What is dirty from before a source was opened it need not know.
 *
 * Context: any thread; not in a callback. Return: 0, -ENOMEM, or what @added refused with. Since
 * 0.1.
 */
GR_API int gr_dirty_source_open(struct gr_ram *ram, const struct gr_dirty_source_ops *ops,
				void *context, struct gr_dirty_source **source);
GR_API void gr_dirty_source_close(struct gr_dirty_source *source);

/** gr_dirty_report() - inside @collect: this part was written. Since 0.1. */
GR_API void gr_dirty_report(struct gr_dirty_sink *sink, uint64_t offset, uint64_t length);

enum gr_watch_mode {
	GR_WATCH_AUTO = 0, /* the first of these that the kernel has */
	GR_WATCH_ASYNC,	   /* userfaultfd WP_ASYNC and PAGEMAP_SCAN, Linux 6.7 */
	GR_WATCH_SYNC,	   /* userfaultfd write protection, Linux 5.7; 5.19 for shared memory */
};

/**
 * gr_dirty_watch_open() - see every write to the RAM's blocks, whoever makes it
 * @mode:  GR_WATCH_AUTO
 * @watch: result, ended by gr_dirty_source_close()
 *
 * Nobody has to mark then: threads of this process and the kernel itself (read(2) into guest
 * memory) are seen through page protection. Other processes that map a shared block are not: ask
 * them for their log. The first write to a page after a harvest costs 0.5 to 1 µs (ASYNC), or a
 * fault that a thread of the watch answers (SYNC). Caller's memory must be anonymous or shared
 * memory.
 *
 * Context as gr_dirty_source_open().
 * Return: 0, -ENOTSUP (kernel, a kind of memory; gr_last_error() says which), -EPERM (userfaultfd
 * is forbidden), -ENOMEM, -EMFILE. Since 0.1.
 */
GR_API int gr_dirty_watch_open(struct gr_ram *ram, enum gr_watch_mode mode,
			       struct gr_dirty_source **watch);

/** gr_dirty_watch_mode() - which mode it has. Since 0.1. */
GR_API enum gr_watch_mode gr_dirty_watch_mode(const struct gr_dirty_source *watch);

/* ------------------------------------------------------------------- the log of another process */

struct gr_dirty_log;

/**
 * gr_dirty_log_open() - a log for a vhost-user back-end, as a source
 * @space: of guest-physical addresses
 * @last:  the last address that can ever be mapped there; costs nothing but address space, a byte
 * for 32 KiB
 * @log:   result, ended by gr_dirty_log_close()
 *
 * For a front-end: give the descriptor of gr_dirty_log_fd() to the back-end with
 * VHOST_USER_SET_LOG_BASE, for the mmap_size it says and offset 0, then negotiate VHOST_F_LOG_ALL.
 * Several back-ends may share it. What they mark is told to all clients, by block and offset; of
 * marks at addresses where nothing is mapped, nobody is told.
 *
 * When a range is unmapped, tell the back-end (REM_MEM_REG or SET_MEM_TABLE) and have its answer
 * before its addresses are mapped again: in a listener's range_removed, or after the unmap.
 *
 * While it is open, ranges above @last are refused with -ERANGE, and the space cannot be closed.
 *
 * Context: any thread; not inside a read section or callback. Return: 0, -ERANGE (a range is above
 * @last), -EDEADLK, -ENOMEM, -EMFILE. Since 0.1.
 */
GR_API int gr_dirty_log_open(struct gr_space *space, uint64_t last, struct gr_dirty_log **log);

/**
 * gr_dirty_log_close() - what is marked by now is told still
 *
 * Before it, have the back-end stop logging.
 *
 * Context: any thread; waits for changes that are being told; not inside a read section or
 * callback. Return: 0 (NULL too), -EDEADLK, -ENOMEM (nothing changed). Since 0.1.
 */
GR_API int gr_dirty_log_close(struct gr_dirty_log *log);

/**
 * gr_dirty_log_fd() - what to send to the back-end
 * @bytes: how long the log is
 *
 * Context: any thread. Return: a memfd, owned by the log and sealed against a change of its size.
 * Since 0.1.
 */
GR_API int gr_dirty_log_fd(const struct gr_dirty_log *log, uint64_t *bytes);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_DIRTY_H */
