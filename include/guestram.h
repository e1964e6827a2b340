/* SPDX-License-Identifier: MIT */
/*
 * guestram - guest RAM that any thread looks up without a lock while another takes it away.
 *
 * Caveats first:
 *  - A host pointer lives until the end of the read section it was looked up in, or until its pin
 *    is released. Nothing else keeps it.
 *  - A read section that never ends lets nothing be reclaimed. Do not sleep in one for long.
 *  - gr_ram_drain(), gr_ram_close(), gr_listener_close(), a shrinking gr_block_resize(), and of
 *    <guestram/plug.h> gr_plug_open(), gr_plug_close() and gr_plug_remove() wait for readers;
 * inside a read section or a callback they return -EDEADLK.
 *  - Callbacks run with no lock of the library held, possibly on several threads at once.
 *  - After fork() the child may exec, _exit, and use pointers it had; changing calls answer
 *    -ENOTSUP there, since the threads that reclaim do not exist in it (see docs/embedding.md).
 *
 * Words: a *RAM* owns *blocks*; an address *space* maps guest ranges to pieces of blocks; its
 * published state is a *view*, replaced whole. See docs/architecture.md.
 *
 * Errors: 0 or a count, else a negative errno; outputs are written only on success; a change that
 * fails changes nothing. gr_last_error() has a sentence for this thread's last failure.
 *   -EINVAL malformed   -ERANGE wraps or leaves a limit   -EFAULT no memory there
 *   -EXDEV memory, but in several pieces   -EACCES rights   -EEXIST   -ENOENT
 *   -EBUSY pinned, mapped or forbidden   -ETIMEDOUT   -EDEADLK would wait for itself
 *   -ENOBUFS too much pending   -ENOTSUP kernel or build lacks it   -ENOMEM   -ENOSPC   -EIO
 */
#ifndef GUESTRAM_H
#define GUESTRAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GR_VERSION_MAJOR 0
#define GR_VERSION_MINOR 1
#define GR_VERSION_PATCH 0

#define GR_API __attribute__((visibility("default")))

struct gr_ram;
struct gr_block;
struct gr_space;
struct gr_txn;
struct gr_listener;
struct gr_foreign_ops;
struct gr__granules;

/** gr_version() - the library's version, "0.1.0". Context: any. Since 0.1. */
GR_API const char *gr_version(void);

/**
 * gr_last_error() - what this thread's last failed call was doing
 *
 * The sentence names the step, the value it failed on and, where there is one, the way out. It is
 * empty before the first failure and stays until the next one.
 *
 * Context: any thread. Return: a string owned by the thread, never NULL. Since 0.1.
 */
GR_API const char *gr_last_error(void);

/* ------------------------------------------------------------------ RAM: the blocks of a machine
 */

enum gr_log_level { GR_LOG_ERROR, GR_LOG_WARNING, GR_LOG_INFO };

/** gr_log_fn - told of what no return value can tell; may run on any thread, with no lock held. */
typedef void (*gr_log_fn)(void *context, enum gr_log_level level, const char *message);

/**
 * struct gr_ram_opts - how a RAM behaves; all zero is a good default
 * @max_pending:      bytes that deleted blocks may hold until they are reclaimed; a new block then
 *                    waits, or fails with -ENOBUFS under GR_NO_WAIT. 0: no bound.
 * @embedder_reclaim: release memory only inside gr_ram_reclaim(), and in calls that wait for it
 *                    (drain, close, a gr_block_new() over @max_pending), for an embedder with a big
 *                    lock; gr_ram_reclaim_fd() says when. Grace periods are still waited for by
 *                    the RAM's own thread, under no lock.
 * @log:              where warnings go; NULL: nowhere
 * @log_context:      first argument of @log
 */
struct gr_ram_opts {
	uint64_t max_pending;
	int embedder_reclaim;
	gr_log_fn log;
	void *log_context;
	uint64_t reserved[8]; /* zero */
};

/**
 * gr_ram_open() - an empty RAM and its reclaim thread
 * @opts: NULL for the defaults; copied
 * @ram:  result; owned by the caller, who ends it with gr_ram_close()
 *
 * Context: any thread; does not wait. Return: 0, -EINVAL, -ENOMEM, -EMFILE, -EAGAIN (no thread or
 * thread-specific key to be had). Since 0.1.
 */
GR_API int gr_ram_open(const struct gr_ram_opts *opts, struct gr_ram **ram);

/**
 * gr_ram_close() - unmap, delete and reclaim everything, then free the RAM
 *
 * Listeners are told of every removal. When it returns 0 no callback of this RAM runs any more and
 * all pointers of it are dead. No other thread may be using @ram.
 *
 * Context: any thread; waits for readers and callbacks; not inside a read section or callback.
 * Return: 0 (NULL too), -EBUSY while pins are held, a transaction, granules of a block, a balloon
 * or a pager are open, or another thread is changing it, -ENOMEM (either way nothing changed),
 * -EDEADLK, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_ram_close(struct gr_ram *ram);

/**
 * gr_ram_drain() - wait until all that was deleted before the call is reclaimed
 * @timeout_ms: 0 looks once, negative waits for ever
 *
 * Under embedder_reclaim it also does the releasing.
 *
 * Context: any thread; waits; not inside a read section or callback.
 * Return: 0, -ETIMEDOUT, -EDEADLK, -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_ram_drain(struct gr_ram *ram, int timeout_ms);

/**
 * gr_ram_reclaim_fd() - readable while blocks are ready for gr_ram_reclaim()
 *
 * An eventfd owned by the RAM; poll it, do not read or close it.
 *
 * Return: the descriptor, or -EINVAL when the RAM was not opened with embedder_reclaim. Since 0.1.
 */
GR_API int gr_ram_reclaim_fd(struct gr_ram *ram);

/**
 * gr_ram_reclaim() - release the blocks whose readers and pins have left
 *
 * Context: any thread, also under the embedder's lock and inside read sections; may wait for a
 * writer, never for readers. Return: how many blocks it released; 0 when the RAM was not opened
 * with embedder_reclaim. Since 0.1.
 */
GR_API int gr_ram_reclaim(struct gr_ram *ram);

/**
 * struct gr_ram_stats - a RAM at one moment
 * @blocks:          live blocks
 * @spaces:          open spaces
 * @ranges:          ranges of all spaces
 * @generation:      of the newest view of any space; grows by at least one for each change
 * @bytes:           used length of all live blocks
 * @bytes_reserved:  max length of all live blocks
 * @index_bytes:     memory of the current views' indexes: words, leaves and slots
 * @range_bytes:     memory of their ranges
 * @blocks_pending:  deleted and not yet reclaimed
 * @bytes_pending:   their max length
 * @blocks_reclaimed, @bytes_reclaimed: since gr_ram_open()
 * @grace_periods:   waited for since gr_ram_open()
 * @pins:            held now, on live and pending blocks
 */
struct gr_ram_stats {
	uint64_t blocks;
	uint64_t spaces;
	uint64_t ranges;
	uint64_t generation;
	uint64_t bytes;
	uint64_t bytes_reserved;
	uint64_t index_bytes;
	uint64_t range_bytes;
	uint64_t blocks_pending;
	uint64_t bytes_pending;
	uint64_t blocks_reclaimed;
	uint64_t bytes_reclaimed;
	uint64_t grace_periods;
	uint64_t pins;
	uint64_t reserved[8];
};

/**
 * gr_ram_get_stats() - the figures of a RAM, all of one moment
 *
 * Context: any thread; may wait for a writer, never for readers. Since 0.1.
 */
GR_API void gr_ram_get_stats(struct gr_ram *ram, struct gr_ram_stats *stats);

/* --------------------------------------------------------------------- blocks: memory, one backing
 */

/**
 * enum gr_backing - where a block's memory comes from
 * @GR_BACKING_ANON:   anonymous memory of this process
 * @GR_BACKING_MEMFD:  a memfd made for the block, sealed against shrinking; shared
 * @GR_BACKING_FILE:   a file by @path or @fd
 * @GR_BACKING_CALLER: memory the caller owns and takes back through @release
 * @GR_BACKING_FOREIGN: mapped on demand, in windows, by @foreign; see <guestram/foreign.h>
 *
 * page_size 2 MiB or 1 GiB makes ANON and MEMFD use hugetlb pages; a FILE on hugetlbfs has the
 * page size of its mount.
 */
enum gr_backing {
	GR_BACKING_ANON = 0,
	GR_BACKING_MEMFD,
	GR_BACKING_FILE,
	GR_BACKING_CALLER,
	GR_BACKING_FOREIGN,
};

/* gr_block_opts.flags */
#define GR_SHARED (1u << 0)    /* ANON, FILE: others see our stores (MAP_SHARED); MEMFD always is */
#define GR_READ_ONLY (1u << 1) /* FILE, CALLER: no stores; maps with GR_WRITE are refused */
#define GR_CREATE (1u << 2)    /* FILE: create @path; an existing empty file is grown to fit */
#define GR_TEMPORARY (1u << 3) /* FILE: @path is a directory; an unnamed file in it */
#define GR_NO_GUARD (1u << 4)  /* no inaccessible page after the memory */
#define GR_PREALLOC (1u << 5)  /* give it all its pages now, or fail with -ENOMEM or -ENOSPC */
#define GR_RESERVE (1u << 6)   /* account swap or hugetlb pages now (no MAP_NORESERVE) */
#define GR_THP (1u << 7)       /* ask for transparent huge pages */
#define GR_NO_THP (1u << 8)    /* forbid them */
#define GR_MERGEABLE (1u << 9) /* let KSM merge equal pages */
#define GR_LOCKED (1u << 10)   /* mlock */
#define GR_NO_DUMP (1u << 11)  /* keep out of core dumps */
#define GR_NO_FORK (1u << 12)  /* keep out of forked children */
#define GR_DELETE_UNMAP (1u << 13)	 /* gr_block_delete() also unmaps it from every space */
#define GR_NO_WAIT (1u << 14)		 /* -ENOBUFS instead of waiting for max_pending */
#define GR_UNSEALED (1u << 15)		 /* MEMFD: no seals, for peers that resize it */
#define GR_SURVIVE_TRUNCATION (1u << 16) /* FILE: needs gr_sigbus_install(), see there */
#define GR_WINDOWED                                                                                \
	(1u << 17) /* FILE, shared or read-only: seen through windows, see foreign.h               \
		    */

/** enum gr_numa_policy - see set_mempolicy(2); GR_NUMA_DEFAULT leaves the thread's own policy. */
enum gr_numa_policy {
	GR_NUMA_DEFAULT = 0,
	GR_NUMA_BIND,
	GR_NUMA_PREFERRED,
	GR_NUMA_INTERLEAVE,
};

/** gr_release_fn - the caller's memory is free again: no reader and no pin knows it. */
typedef void (*gr_release_fn)(void *context, void *host, uint64_t length);

/**
 * struct gr_block_opts - a block to make
 * @name:       1 to 255 bytes, unique among live blocks; shown in /proc/self/maps where possible
 * @backing:    where the memory comes from
 * @flags:      GR_SHARED …
 * @length:     bytes used now, > 0; rounded up to the page size
 * @max_length: bytes it can grow to, 0: @length; address space for all of it is reserved
 * @page_size:  0: the backing's own; 2 MiB, 1 GiB: hugetlb
 * @align:      of the host address, a power of two; 0: the page size, or 2 MiB from 2 MiB on
 * @path:       FILE: its name (or its directory)
 * @fd:         FILE: used instead of @path when @path is NULL; duplicated, the caller keeps his
 * @fd_offset:  FILE: where the block begins, a multiple of the page size
 * @host:       CALLER: page-aligned memory of @max_length bytes
 * @release:    CALLER: called once, from the thread that reclaims; may be NULL
 * @release_context: its first argument
 * @prealloc_threads: 0: as many as there are processors, at most 16
 * @numa_policy, @numa_nodes: where pages come from; nodes as in "0-1,3"
 * @foreign:    FOREIGN: how its windows come and go; must outlive the block
 * @foreign_context: first argument of its functions
 * @window_size: FOREIGN, GR_WINDOWED: a power of two, at least a page; 0: 2 MiB, or a page that is
 *              larger
 * @max_windows: FOREIGN, GR_WINDOWED: that lookups find at once; 0: 128
 * @user:       the caller's own pointer, given back in struct gr_block_info
 */
struct gr_block_opts {
	const char *name;
	enum gr_backing backing;
	unsigned flags;
	uint64_t length;
	uint64_t max_length;
	uint64_t page_size;
	uint64_t align;
	const char *path;
	int fd;
	unsigned prealloc_threads;
	uint64_t fd_offset;
	void *host;
	gr_release_fn release;
	void *release_context;
	enum gr_numa_policy numa_policy;
	const char *numa_nodes;
	void *user;
	const struct gr_foreign_ops *foreign;
	void *foreign_context;
	uint64_t window_size;
	uint64_t max_windows;
	uint64_t reserved[4]; /* zero */
};

/**
 * gr_block_new() - memory with a name, ready to be mapped
 * @opts:  copied; strings too
 * @block: result; valid until gr_block_delete()
 *
 * The memory is mapped, advised, bound, preallocated and told to listeners before anybody can find
 * the block. A file is created or grown when it is empty or new, never resized when it is not.
 *
 * Context: any thread; may wait for a writer and, over max_pending, for reclaim.
 * Return: 0, -EINVAL, -ERANGE (offset + length wraps, or past the end of the file), -EEXIST (name),
 * -ENOMEM, -ENOSPC, -ENOBUFS, -EDEADLK, -ENOTSUP, what a listener refused with, or the error of a
 * system call on the file (-EACCES, -ENOENT, -EIO …). Since 0.1.
 */
GR_API int gr_block_new(struct gr_ram *ram, const struct gr_block_opts *opts,
			struct gr_block **block);

/**
 * gr_block_delete() - unlink at once, reclaim after readers and pins have left
 *
 * Its name is free when the call returns, its RAM offset and memory after reclaim. @block is dead
 * for the caller.
 *
 * Context: any thread, also inside read sections and callbacks; does not wait for readers.
 * Return: 0, -EBUSY while it is mapped (without GR_DELETE_UNMAP), its granules are open
 * (gr_plug_open()) or another thread changes it, -ENOMEM. Since 0.1.
 */
GR_API int gr_block_delete(struct gr_block *block);

/**
 * gr_block_resize() - move the used length between one page and max_length
 *
 * Ranges that reach past the used length end there for readers. The order is, growing: memory
 * (preallocated where that was asked), listeners hear of the ranges as they will be (removed,
 * added), readers see them, listeners hear `committed` of each space and then `block_resized`;
 * shrinking: the same from the ranges on, then it waits for readers, and then the tail is
 * discarded. When it fails on the way, listeners are told back, block_resized too.
 *
 * Should a shrink's discard fail and then memory be lacking to show the tail again, the block stays
 * short and its tail's memory is still taken: gr_block_info.length tells, and the next resize, to
 * any length, puts it right.
 *
 * Context: any thread; shrinking waits, and is refused with -EDEADLK inside a read section or
 * callback. Return: 0, -EINVAL (0), -ERANGE (over max_length), -EBUSY (shrinking under pins, under
 * a claim that forbids discards or below plugged granules, or another thread is changing it),
 * -ENOMEM, -ENOSPC, -ENOTSUP (CALLER memory, a file that was not empty), or what a listener refused
 * with. Since 0.1.
 */
GR_API int gr_block_resize(struct gr_block *block, uint64_t used_length);

/**
 * gr_block_discard() - give pages back while the block stays
 * @offset, @length: multiples of the page size within the used length; length 0 does nothing
 *
 * Anonymous and shared memory reads as zero afterwards and is really freed, also in the file of a
 * shared one. A private file reads as the file again.
 *
 * Context: any thread; does not wait for readers, who see old bytes or zeroes.
 * Return: 0, -EINVAL, -ERANGE, -EACCES (read-only), -EBUSY (it is being resized or deleted, or a
 * claim forbids it: gr_last_error() has its reason), -ENOTSUP (CALLER memory; a kernel or file
 * system that cannot), -EIO. Since 0.1.
 */
GR_API int gr_block_discard(struct gr_block *block, uint64_t offset, uint64_t length);

/**
 * enum gr_discard_kind - what somebody has to say about giving pages back
 * @GR_DISCARD_FORBID:        none at all: hardware has all of the memory pinned for DMA, and would
 * go on using the pages that are gone
 * @GR_DISCARD_FORBID_UNTOLD: none but those that listeners hear of first: granules that are
 *                            unplugged, blocks that shrink
 * @GR_DISCARD_NEED:          a balloon, or free-page hints, work by discards that nobody hears of
 * @GR_DISCARD_NEED_TOLD:     granules are plugged and unplugged
 *
 * FORBID excludes both needs, FORBID_UNTOLD excludes NEED.
 */
enum gr_discard_kind {
	GR_DISCARD_FORBID = 1,
	GR_DISCARD_FORBID_UNTOLD,
	GR_DISCARD_NEED,
	GR_DISCARD_NEED_TOLD,
};

struct gr_discard_claim;

/**
 * gr_discard_claim_open() - say whether pages may be given back, and be held to it
 * @block:  NULL: all of the RAM, blocks to come too
 * @reason: for people; whoever is refused because of this claim finds it in gr_last_error().
 * Copied, cut at 127 bytes
 * @claim:  result; ends with gr_discard_claim_close(), or with its RAM. A claim on a block says
 *          nothing any more once that is deleted
 *
 * gr_block_discard(), gr_hint_free(), balloons, gr_plug_remove() and a shrinking gr_block_resize()
 * ask all claims. A claim that forbids is given when no discard it forbids is under way: it waits
 * for those of single pages, which are over soon, and is refused while granules are being unplugged
 * or a block shrinks. Preparing memory that nobody was given yet (gr_block_new(), gr_plug_add())
 * is no discard.
 *
 * Context: any thread; may wait for a discard, never for readers or callbacks.
 * Return: 0, -EBUSY the opposite is claimed (its reason is said) or going on, -EINVAL, -ENOMEM,
 * -ENOTSUP in a forked child. Since 0.1.
 */
GR_API int gr_discard_claim_open(struct gr_ram *ram, struct gr_block *block,
				 enum gr_discard_kind kind, const char *reason,
				 struct gr_discard_claim **claim);

/** gr_discard_claim_close() - take it back; NULL does nothing. Context: any thread. Since 0.1. */
GR_API void gr_discard_claim_close(struct gr_discard_claim *claim);

/**
 * struct gr_block_info - what is known of a block
 * @name:       valid as long as the block
 * @host:       its first byte in this process; NULL when it is seen through windows
 * @length:     used now; @max_length: it can grow to
 * @page_size:  of the backing
 * @ram_offset: where it sits in the RAM's numbering, for dirty bitmaps and migration
 * @fd:         of its memory or -1; owned by the block
 * @fd_offset:  where in @fd it begins
 * @flags, @backing, @user: as given, MEMFD with GR_SHARED
 * @pins:       held now
 * @mapped:     ranges that name it, over all spaces
 * @lost_pages: pages that its file lost under us, see gr_sigbus_install()
 */
struct gr_block_info {
	const char *name;
	void *host;
	uint64_t length;
	uint64_t max_length;
	uint64_t page_size;
	uint64_t ram_offset;
	int fd;
	enum gr_backing backing;
	uint64_t fd_offset;
	unsigned flags;
	unsigned mapped;
	uint64_t pins;
	uint64_t lost_pages;
	void *user;
};

/**
 * gr_block_get_info() - what is known of a block at this moment
 *
 * Context: any thread that knows @block to be alive; no lock, no wait. Since 0.1.
 */
GR_API void gr_block_get_info(const struct gr_block *block, struct gr_block_info *info);

/**
 * gr_block_share_fd() - the descriptor another process can map this block by
 * @fd: result, owned by the block; @offset: where the block begins in it
 *
 * Return: 0, -ENOTSUP for memory that is private to this process: gr_last_error() says how to make
 * it shared. Since 0.1.
 */
GR_API int gr_block_share_fd(const struct gr_block *block, int *fd, uint64_t *offset);

/**
 * gr_block_by_name() / by_offset() / by_host() - find a live block
 * @ram_offset, @host: any byte of it, up to max_length
 * @offset_in_block:   result, may be NULL
 *
 * Context: inside a read section, at whose end the result dies unless it is pinned or the caller
 * knows better; no lock, no wait. Return: the block or NULL. Since 0.1.
 */
GR_API struct gr_block *gr_block_by_name(struct gr_ram *ram, const char *name);
GR_API struct gr_block *gr_block_by_offset(struct gr_ram *ram, uint64_t ram_offset,
					   uint64_t *offset_in_block);
GR_API struct gr_block *gr_block_by_host(struct gr_ram *ram, const void *host,
					 uint64_t *offset_in_block);

/**
 * gr_ram_each_block() - call @fn for each live block in order of RAM offset
 *
 * Context: inside a read section. Return: 0, or the first non-zero that @fn returned. Since 0.1.
 */
GR_API int gr_ram_each_block(struct gr_ram *ram, int (*fn)(void *context, struct gr_block *block),
			     void *context);

/**
 * gr_sigbus_install() - survive peers that truncate a file we have mapped
 *
 * Installs a SIGBUS handler for the process, once. A fault in a block made with
 * GR_SURVIVE_TRUNCATION puts a zero page there, counts it in gr_block_info.lost_pages, and goes on;
 * any other SIGBUS goes to the handler that was there before. Without this call the library
 * installs no handler.
 *
 * Context: any thread; call it after other users of SIGBUS installed theirs.
 * Return: 0 (again too), or the error of sigaction(2). Since 0.1.
 */
GR_API int gr_sigbus_install(void);

/* ------------------------------------------------------------------ spaces: guest ranges to blocks
 */

#define GR_READ 1u
#define GR_WRITE 2u

/* Addresses, offsets and lengths of ranges are multiples of this, whatever the block's pages are.
 */
#define GR_PAGE_SIZE 4096u

/**
 * gr_space_open() - an empty address space
 * @name:  1 to 255 bytes, for people; need not be unique
 *
 * Context: any thread; may wait for a writer. Return: 0, -EINVAL, -ENOMEM. Since 0.1.
 */
GR_API int gr_space_open(struct gr_ram *ram, const char *name, struct gr_space **space);

/**
 * gr_space_close() - unmap all its ranges and end it
 *
 * Readers inside their section may go on with @space until its end; cursors of it are dead.
 *
 * Context: any thread; does not wait for readers.
 * Return: 0 (NULL too), -EBUSY while a transaction or a balloon of it is open, it has strict
 * windows (gr_plug_map()) or another thread is changing it, -ENOMEM. Since 0.1.
 */
GR_API int gr_space_close(struct gr_space *space);

/** gr_space_name() - as given; valid as long as the space. Since 0.1. */
GR_API const char *gr_space_name(const struct gr_space *space);

/**
 * gr_space_map() - publish a piece of a block in an address space
 * @addr:   first address; the range may end exactly at 2^64
 * @offset: in the block; offset + length within its max_length. Readers see no byte past its used
 *          length.
 * @length: bytes, > 0
 * @access: GR_READ, GR_WRITE or both
 *
 * All three are multiples of GR_PAGE_SIZE.
 *
 * Context: any thread; may wait for another writer. It waits for readers only when thousands of
 * replaced views wait for them already, and never inside a read section or callback, nor under
 * embedder_reclaim.
 * Return: 0, -EEXIST overlap with a range or a strict window (gr_last_error() names it), -ERANGE
 * wraps, -EINVAL alignment or past the block, -EACCES write access to a read-only block, -EBUSY
 * another thread is changing the same range or deleting the block, -ENOMEM, or what a listener
 * refused with. Since 0.1.
 */
GR_API int gr_space_map(struct gr_space *space, uint64_t addr, struct gr_block *block,
			uint64_t offset, uint64_t length, unsigned access);

/**
 * gr_space_unmap() - take every range, or piece of one, in [addr, addr + length) out of the space
 *
 * Ranges that reach over an end are split. When it returns, new read sections see nothing there;
 * sections that began before may, until they end.
 *
 * Context: as gr_space_map().
 * Return: 0, -ENOENT nothing was mapped there, -ERANGE, -EINVAL, -EBUSY (being changed, or a strict
 * window), -ENOMEM, or what a listener refused the remaining pieces with. Since 0.1.
 */
GR_API int gr_space_unmap(struct gr_space *space, uint64_t addr, uint64_t length);

/**
 * gr_txn_begin() - collect changes of one space, to be published at once
 *
 * A transaction belongs to one thread at a time. Until its commit nothing is checked against the
 * space and nothing is visible; the space cannot be closed, and blocks it maps must not be deleted.
 *
 * Context: any thread; may wait for a writer. Return: 0, -EBUSY the space is being closed, -ENOMEM.
 * Since 0.1.
 */
GR_API int gr_txn_begin(struct gr_space *space, struct gr_txn **txn);

/**
 * gr_txn_map() - as gr_space_map(); what depends on the space's state is told by the commit
 *
 * The block cannot be deleted or resized (-EBUSY) until the transaction is over. Since 0.1.
 */
GR_API int gr_txn_map(struct gr_txn *txn, uint64_t addr, struct gr_block *block, uint64_t offset,
		      uint64_t length, unsigned access);

/** gr_txn_unmap() - as gr_space_unmap(), but a hole is no error. Since 0.1. */
GR_API int gr_txn_unmap(struct gr_txn *txn, uint64_t addr, uint64_t length);

/**
 * gr_txn_commit() - all of it, or -errno and none of it; the transaction is over either way
 *
 * Changes apply in the order they were collected; readers see the state before or after all of
 * them.
 *
 * Context and return as gr_space_map(). Since 0.1.
 */
GR_API int gr_txn_commit(struct gr_txn *txn);

/** gr_txn_abort() - forget a transaction; NULL does nothing. Since 0.1. */
GR_API void gr_txn_abort(struct gr_txn *txn);

/**
 * struct gr_range - a piece of a block in a space
 * @length: as mapped; @visible: what readers see of it, less when the block is used shorter
 * @host:   of its first byte; NULL when its block is seen through windows
 */
struct gr_range {
	uint64_t addr;
	uint64_t length;
	uint64_t visible;
	struct gr_block *block;
	uint64_t offset;
	void *host;
	unsigned access;
};

/**
 * gr_space_find() - the range that holds @addr
 *
 * Context: inside a read section, at whose end *range dies. Return: 0, -EFAULT. Since 0.1.
 */
GR_API int gr_space_find(struct gr_space *space, uint64_t addr, struct gr_range *range);

/**
 * gr_space_each_range() - call @fn for each range in order of address, all of one view
 *
 * Context: inside a read section. Return: 0, or the first non-zero that @fn returned. Since 0.1.
 */
GR_API int gr_space_each_range(struct gr_space *space,
			       int (*fn)(void *context, const struct gr_range *range),
			       void *context);

/* ------------------------------------------------------------------------------------- listeners
 */

/**
 * struct gr_listener_ops - what a listener is told; any of them may be NULL
 * @block_added:     a block is complete and about to be findable; < 0 refuses it
 * @block_deleting:  it is about to be unlinked
 * @block_reclaimed: its memory is gone; its RAM offset is free once all listeners were told. Only
 *                   @info->name, lengths, page_size, ram_offset, backing, flags and user are still
 *                   meaningful. Comes for a refused block too, if any listener was told of it
 * @range_added:     a range is about to be published; < 0 refuses the whole change
 * @range_removed:   a range is about to leave; the memory stays until after the callback
 * @committed:       a change is published: new read sections see it. Of changes on several threads
 *                   a later generation may be told first
 * @granules_plugging:   granules of a block (<guestram/plug.h>) have their memory and are about to
 * be plugged; < 0 refuses the whole change
 * @granules_unplugging: they are about to be unplugged; < 0 refuses the whole change. The memory
 * stays until after the change
 * @block_resized:   the used length of a block has changed from @old_length to what
 *                   gr_block_get_info() says by now: readers see it; a tail that leaves is not
 *                   discarded yet
 *
 * One change is told as granules that are to be unplugged (by falling priority), all its removals
 * (by falling priority), then all its additions, granules before ranges (by rising priority), then,
 * once published, @committed for each space, then @block_resized. A change that is refused or fails
 * is told back in reverse: what was added as removed, what was removed as added, what was to be
 * unplugged as plugging. What is told back cannot be refused: a listener that tries is logged, and
 * has it all the same. A range that is split is told as removed, and its remaining pieces as added;
 * a resized block's ranges, and those of granules that grow together, likewise. Granules are told
 * in runs, which need not be the same when they go as when they came: the sums are the plugged
 * ones. Additions and removals of one range never overtake each other; changes of different ranges
 * may be told at the same time from different threads. A block's @block_reclaimed may come before
 * the
 * @committed of the very change that deleted it.
 *
 * Context: no lock held. May call any gr_ function except those that wait, which return -EDEADLK;
 * a change of addresses that the change being told is about (all that it unmaps, holes too) returns
 * -EBUSY, as does closing a space that is being told about.
 */
struct gr_listener_ops {
	int (*block_added)(void *context, struct gr_block *block);
	void (*block_deleting)(void *context, struct gr_block *block);
	void (*block_reclaimed)(void *context, const struct gr_block_info *info);
	int (*range_added)(void *context, struct gr_space *space, const struct gr_range *range);
	void (*range_removed)(void *context, struct gr_space *space, const struct gr_range *range);
	void (*committed)(void *context, struct gr_space *space, uint64_t generation);
	int (*granules_plugging)(void *context, struct gr_block *block, uint64_t offset,
				 uint64_t length);
	int (*granules_unplugging)(void *context, struct gr_block *block, uint64_t offset,
				   uint64_t length);
	void (*block_resized)(void *context, struct gr_block *block, uint64_t old_length);
};

/**
 * gr_listener_open() - tell @ops of all there is, then of all that changes
 * @ops:      must outlive the listener
 * @priority: lower ones are told of additions first, of removals last
 * @listener: result
 *
 * Every live block is told as added, then every plugged run of granules, then every range; that
 * runs inside a read section of the calling thread. What changes meanwhile is told after that, and
 * so on until nothing has. A refusal during that ends the listener; so does, with -EBUSY, others
 * (or @ops itself, in its callbacks) changing the RAM 1,000 times over without a pause.
 *
 * Context: any thread, also in a callback. Return: 0, -EINVAL, -ENOMEM, -EBUSY, or what @ops
 * refused with. Since 0.1.
 */
GR_API int gr_listener_open(struct gr_ram *ram, const struct gr_listener_ops *ops, void *context,
			    int priority, struct gr_listener **listener);

/**
 * gr_listener_close() - tell the matching removals, then nothing any more
 *
 * Ranges are told as removed, then granules as unplugging (a refusal is logged and changes
 * nothing), then blocks as deleting (not as reclaimed).
 *
 * Context: any thread; waits for callbacks that are running; -EDEADLK inside a read section or
 * callback. Return: 0 (NULL too), -EDEADLK, -ENOMEM. Since 0.1.
 */
GR_API int gr_listener_close(struct gr_listener *listener);

/* -------------------------------------------------------------------------- reading: pieces, pins
 */

/**
 * gr_spans() - the host pieces of a guest range
 * @iov: filled with the first @max pieces; may be NULL when @max is 0
 *
 * Pieces of different ranges are never merged. Length 0 has no pieces, anywhere.
 *
 * Context: inside a read section, at whose end the pieces die.
 * Return: the number of pieces needed (it may be over @max), -EFAULT when a byte has no memory,
 * -EACCES, -ERANGE wraps, -EINVAL (@access or @max). Since 0.1.
 */
GR_API int gr_spans(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
		    struct iovec *iov, int max);

/**
 * struct gr_pin - a piece of a block that stays until gr_unpin()
 * @host, @length: the memory; @block, @offset: where it belongs
 * @granules, @window: the library's own
 */
struct gr_pin {
	void *host;
	uint64_t length;
	struct gr_block *block;
	uint64_t offset;
	unsigned access;
	struct gr__granules *granules;
	void *window;
};

/**
 * gr_pin() - look up and keep
 *
 * The memory outlives unmap and delete of its block until gr_unpin(); it says nothing about what
 * the guest has there by then. A granule that is pinned cannot be unplugged.
 *
 * Context: any thread, in or out of a read section; never waits.
 * Return: 0, -EFAULT (an unplugged granule, or one that is being unplugged, too), -EXDEV (memory,
 * but in several ranges: see gr_pin_spans()), -EACCES, -ERANGE, -EINVAL (length 0, @access). Since
 * 0.1.
 */
#if defined(__cplusplus) && defined(__GNUC__)
#pragma GCC diagnostic push /* a function hides a structure of its name, as with stat(2) */
#pragma GCC diagnostic ignored "-Wshadow"
#endif
GR_API int gr_pin(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
		  struct gr_pin *pin);
#if defined(__cplusplus) && defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

/**
 * gr_pin_spans() - pin every piece of a guest range, or none
 * @pins: room for @max
 *
 * Return: the number of pieces; when that is over @max, nothing is pinned. Errors as gr_spans().
 * Context as gr_pin(). Since 0.1.
 */
GR_API int gr_pin_spans(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access,
			struct gr_pin *pins, int max);

/**
 * gr_block_pin() - keep a piece of a block
 *
 * Context: inside a read section in which @block was found, or by its owner before he deletes it.
 * Return: 0, -EFAULT (past the used length, or in an unplugged granule), -EACCES, -ERANGE, -EINVAL.
 * Since 0.1.
 */
GR_API int gr_block_pin(struct gr_block *block, uint64_t offset, uint64_t length, unsigned access,
			struct gr_pin *pin);

/** gr_unpin() - let go of a pin, which is dead then. Context: any thread; never waits. Since 0.1.
 */
GR_API void gr_unpin(struct gr_pin *pin);

#ifdef __cplusplus
}
#endif

#include <guestram/access.h>
#include <guestram/fast.h>
#include <guestram/foreign.h>

#endif /* GUESTRAM_H */
