/* SPDX-License-Identifier: MIT */
/*
 * Memory that comes when it is touched: faults answered from a source of pages, and the rest
 * fetched behind them.
 *
 *    guest ─ touches ─► userfaultfd ─► one thread: events, and every copy into the memory
 *                                        │ ▲
 *                        what must wait  ▼ │  buffers with bytes
 *                                     workers ─► source (a snapshot, an image, a store)
 *
 * gr_pager_open() does that for blocks of this process, gr_pager_server_open() for monitors that
 * hand over their userfaultfd through a socket. Both end by themselves when all is there.
 *
 * Caveats first:
 *  - A source that fails stalls those who touch missing pages. It is asked again and again, and the
 *    figures and the log tell; nothing else is ever put in the place of its bytes.
 *  - Who touches a page that is missing must be allowed to wait: not with a lock that the source
 *    needs.
 *  - Another process that maps the same shared memory finds zeroes where pages are missing, and
 *    makes them stay so. Let it in when all is there, or with a session of its own at a server
 *    (docs/pager.md, "Memory that is shared").
 *  - A fault inside a system call needs the right to handle it: vm.unprivileged_userfaultfd = 1, or
 *    CAP_SYS_PTRACE.
 */
#ifndef GUESTRAM_PAGER_H
#define GUESTRAM_PAGER_H

#include <guestram.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------------- sources of pages */

/** enum gr_pages - what a source has somewhere. */
enum gr_pages {
	GR_PAGES_DATA = 0,
	GR_PAGES_ZERO = 1,
};

/**
 * struct gr_page_source_info - one of the blocks that a source has
 * @length: bytes
 * @chunk:  reads that begin and end at multiples of it cost least (packed chunks, objects of a
 *          store); a power of two, or 0: no matter
 */
struct gr_page_source_info {
	uint64_t length;
	uint64_t chunk;
	uint64_t reserved[6];
};

/**
 * struct gr_page_source_ops - where pages come from; constant, outlives the source
 * @find:  the number of the block of that name, 0 or more, and what is known of it; -ENOENT. A NULL
 *         name asks for the first. Called when a pager opens
 * @look:  what is at @offset, and for how many bytes from there on, at most *length, that holds:
 *         enum gr_pages or -errno. *length comes and goes > 0, a multiple of 4 KiB. Must not wait:
 *         it is asked while a guest waits. NULL: data all over
 * @read:  @length bytes at @offset, both multiples of 4 KiB, within the block; may wait. All of
 *         them, or -errno: whatever it is, it is asked again later
 * @place: where those bytes lie in a file just as they are: the descriptor (the source's), the
 *         offset in it, and for how many bytes from there on, at most *length, that holds.
 * -ENOTSUP: they do not (they are packed, or remote). Must not wait. NULL: never. Pages that are in
 *         the page cache then need no worker, and shared ones no copy
 * @close: from gr_page_source_close(), when nobody uses it any more. May be NULL
 *
 * Context: any thread, several at once, no lock held. They must not touch memory that the pager
 * still fills.
 */
struct gr_page_source_ops {
	int (*find)(void *context, const char *name, struct gr_page_source_info *info);
	int (*look)(void *context, int block, uint64_t offset, uint64_t *length);
	int (*read)(void *context, int block, uint64_t offset, void *buf, uint64_t length);
	int (*place)(void *context, int block, uint64_t offset, uint64_t *length, int *fd,
		     uint64_t *fd_offset);
	void (*close)(void *context);
	void *reserved[3]; /* NULL */
};

/** struct gr_page_source - a source: its functions, and their first argument; may be copied. */
struct gr_page_source {
	const struct gr_page_source_ops *ops;
	void *context;
};

/**
 * gr_image_source_open() - a raw image of memory as a source: the byte at an offset of the memory
 * is the one at that offset of the file
 * @source: result; ends with gr_page_source_close()
 *
 * It has one block, which any name finds. Holes of the file are zero; they are looked up once,
 * here. The file must not change while it is used; its last page may be cut, the rest of that is
 * zero.
 *
 * Context: any thread. Return: 0, -EINVAL (not a regular file, or an empty one), -ENOMEM, or the
 * error of a system call on the file. Since 0.1.
 */
GR_API int gr_image_source_open(const char *path, struct gr_page_source *source);

/** gr_page_source_close() - end it, when no pager uses it; closed or NULL ones are left alone.
 * Since 0.1. */
GR_API void gr_page_source_close(struct gr_page_source *source);

/* --------------------------------------------------------------------------------- in process */

struct gr_pager;

/* gr_pager_opts.flags, gr_pager_server_opts.flags */
#define GR_PAGER_NO_PREFETCH                                                                       \
	(1u << 0) /* fetch what is touched, and what @prefetch names; no more */

/**
 * struct gr_pager_opts - how blocks get their pages; all zero is a good default
 * @block:         the one; NULL: all that there are
 * @name:          of the source's block, for @block; NULL: its own name
 * @source_offset: where in the source's block the memory begins, for @block
 * @flags:         GR_PAGER_…
 * @workers:       threads that read from the source, 1 to 64; 0: 2
 * @max_buffers:   bytes in flight between source and memory, more than which are never held; 0: 16
 *                 MiB. At least one page of the largest size for each worker, and one
 * @record:        file to write the order of first touches to, when the pager is closed, or NULL.
 * It appears whole or not at all. Nothing is fetched before it is touched then
 * @prefetch:      file that was recorded: its pages first, in its order; or NULL
 */
struct gr_pager_opts {
	struct gr_block *block;
	const char *name;
	uint64_t source_offset;
	unsigned flags;
	unsigned workers;
	uint64_t max_buffers;
	const char *record;
	const char *prefetch;
	uint64_t reserved[8]; /* zero */
};

/* Latencies in steps of a quarter of a power of two: step 4 * n + q holds those from
 * (4 + q) << (n - 2) nanoseconds on, up to the next (n from 2 on). */
#define GR_PAGER_STEPS 160

/**
 * struct gr_pager_stats - a pager at one moment
 * @bytes:        of the memory
 * @bytes_there:  which are there, or were discarded
 * @faults:       touches of missing pages that were answered
 * @faults_waiting: that are not yet
 * @copied, @zeroed, @shared: bytes given by copy, as zeroes, by mapping what a shared file has
 * @prefetched:   bytes given before they were touched
 * @removed:      bytes discarded before they came, zero from then on
 * @raced:        answers that met a page that was mapped (EEXIST), memory that had gone (ENOENT,
 *                EFAULT)
 * @parked:       answers that the kernel refused for a moment (EAGAIN) and that were given later
 * @failed_reads: of the source; each is tried again
 * @stalled:      1 while the source fails
 * @buffer_bytes: in flight now, @buffer_bytes_most: ever
 * @p50_ns, @p99_ns, @most_ns: of the time from the event to the page being there
 * @latency:      how many answers took how long, in steps as above
 * @working_set_ns: from the start until all that @prefetch names was there; 0: not yet
 * @complete_ns:  from the start until all was there; 0: not yet
 */
struct gr_pager_stats {
	uint64_t bytes;
	uint64_t bytes_there;
	uint64_t faults;
	uint64_t faults_waiting;
	uint64_t copied;
	uint64_t zeroed;
	uint64_t shared;
	uint64_t prefetched;
	uint64_t removed;
	uint64_t raced;
	uint64_t parked;
	uint64_t failed_reads;
	uint64_t stalled;
	uint64_t buffer_bytes;
	uint64_t buffer_bytes_most;
	uint64_t p50_ns;
	uint64_t p99_ns;
	uint64_t most_ns;
	uint64_t working_set_ns;
	uint64_t complete_ns;
	uint64_t latency[GR_PAGER_STEPS];
	uint64_t reserved[8];
};

/**
 * gr_pager_open() - from now on blocks have the bytes of a source
 * @source: outlives the pager; has every block, under its name, at least as long as it
 * @opts:   copied; may be NULL
 * @pager:  result; ends with gr_pager_close()
 *
 * What the blocks held is discarded, and nobody may have been looking at it. When it returns they
 * can be used: who touches what is missing waits for it. Blocks may be mapped, discarded, resized,
 * unplugged and deleted meanwhile: what is discarded or grown is zero, whatever the source has.
 * Memory is private or shared, with pages of any size; not the caller's, foreign, locked, read-only
 * or a private file's.
 *
 * Context: any thread; not in a read section or callback.
 * Return: 0, -EINVAL, -ENOENT (the source has no such block: gr_last_error() names it), -ERANGE (it
 * has it shorter), -EBUSY (a claim forbids discards, it is watched or paged already, or being
 * changed), -ENOTSUP (such memory, or a kernel without userfaultfd), -EPERM (see above), -EBADMSG
 * (@prefetch is no such file), -ENOMEM, -EMFILE, -EAGAIN, -EDEADLK; no block is changed then,
 * unless it is the error of a discard. Since 0.1.
 */
GR_API int gr_pager_open(struct gr_ram *ram, const struct gr_page_source *source,
			 const struct gr_pager_opts *opts, struct gr_pager **pager);

/**
 * gr_pager_wait() - until all is there
 * @timeout_ms: 0 looks once, negative waits for ever
 *
 * Context: any thread; waits. Return: 0, -ETIMEDOUT, or the error of the kernel that it ended
 * with: what was missing then raises SIGBUS (the log has told). Since 0.1.
 */
GR_API int gr_pager_wait(struct gr_pager *pager, int timeout_ms);

/** gr_pager_get_stats() - its figures. Context: any thread; never waits. Since 0.1. */
GR_API void gr_pager_get_stats(struct gr_pager *pager, struct gr_pager_stats *stats);

/**
 * gr_pager_close() - end it
 *
 * What is not there by then will never come: touching it raises SIGBUS, for those who wait already
 * too (SIGSEGV before Linux 6.6), since no other bytes would be right. Blocks must be alive, or
 * have been deleted while it was open. It waits for reads of the source under way.
 *
 * Context: any thread but those of the source's functions; waits; not in a read section or
 * callback. Return: 0 (NULL too), -EDEADLK, or the error of writing opts.record; it is closed then.
 * Since 0.1.
 */
GR_API int gr_pager_close(struct gr_pager *pager);

/* ------------------------------------------------------------------------------ other processes */

struct gr_pager_server;

/**
 * enum gr_pager_news - what becomes of a session
 * @GR_PAGER_BEGINS:   nothing is answered before the callback returns; < 0 refuses it
 * @GR_PAGER_COMPLETE: all is there; its monitor needs us no more
 * @GR_PAGER_ENDS:     its monitor has gone, or has hung up
 * @GR_PAGER_GIVEN_UP: the server ends it, and its monitor still misses pages: nobody answers it any
 *                     more
 */
enum gr_pager_news {
	GR_PAGER_BEGINS,
	GR_PAGER_COMPLETE,
	GR_PAGER_ENDS,
	GR_PAGER_GIVEN_UP,
};

/**
 * struct gr_pager_server_opts - a server of pages
 * @socket_path: where to listen; a dead socket there is replaced, a live one is -EADDRINUSE
 * @source:      outlives the server
 * @block:       of the source, which offsets of monitors are in; NULL: its first
 * @flags:       GR_PAGER_…
 * @workers:     for all sessions, 1 to 64; 0: 2
 * @max_sessions: at once; the next is refused; 0: 1,024
 * @max_buffers: as in struct gr_pager_opts; for all sessions
 * @handshake_ms: a monitor that has not sent all by then is refused; 0: 5,000
 * @record, @prefetch: as in struct gr_pager_opts; the first session that ends is recorded
 * @session:     told of a session by a number that none other has; at its begin, of its monitor's
 *               process (0: not known) and userfaultfd, else 0 and -1. From the thread that runs or
 *               closes the server. NULL allowed
 * @log, @log_context: lines for people; NULL: nowhere. May run on any thread of the server; also
 *               the first argument of @session
 */
struct gr_pager_server_opts {
	const char *socket_path;
	const struct gr_page_source *source;
	const char *block;
	unsigned flags;
	unsigned workers;
	unsigned max_sessions;
	unsigned handshake_ms;
	uint64_t max_buffers;
	const char *record;
	const char *prefetch;
	int (*session)(void *context, uint64_t number, enum gr_pager_news news, int pid, int uffd);
	gr_log_fn log;
	void *log_context;
	uint64_t reserved[8]; /* zero */
};

/**
 * struct gr_pager_server_stats - a server at one moment
 * @sessions:  now; @accepted, @refused, @ended, @completed: since it was opened
 * @pages:     of all sessions together, those that have ended too
 */
struct gr_pager_server_stats {
	uint64_t sessions;
	uint64_t accepted;
	uint64_t refused;
	uint64_t ended;
	uint64_t completed;
	uint64_t reserved[8];
	struct gr_pager_stats pages;
};

/**
 * gr_pager_server_open() - listen, and start the workers
 * @server: result; ended by gr_pager_server_close()
 *
 * A monitor connects and sends one JSON array with its userfaultfd, as docs/pager.md describes;
 * from then on its pages come from the source, but for those that a file has which it maps: they
 * are mapped, and so shared by all who map it. The connection stays open for as long as the
 * session; when either side goes, it is over.
 *
 * Context: any thread. Return: 0, -EINVAL, -ENOENT (@block), -ENAMETOOLONG, -EADDRINUSE, -EBADMSG
 * (@prefetch), -ENOMEM, -EMFILE, -EAGAIN (no thread to be had), or the error of a system call on
 * the path. Since 0.1.
 */
GR_API int gr_pager_server_open(const struct gr_pager_server_opts *opts,
				struct gr_pager_server **server);

/**
 * gr_pager_server_run() - serve until gr_pager_server_stop()
 *
 * Context: one thread. Return: 0, or -errno of poll(2). Since 0.1.
 */
GR_API int gr_pager_server_run(struct gr_pager_server *server);

/** gr_pager_server_stop() - let gr_pager_server_run() return. Context: any thread, signal handlers
 * too. Since 0.1. */
GR_API void gr_pager_server_stop(struct gr_pager_server *server);

/** gr_pager_server_get_stats() - its figures. Context: any thread; waits for short work of others,
 * never for the source. Since 0.1. */
GR_API void gr_pager_server_get_stats(struct gr_pager_server *server,
				      struct gr_pager_server_stats *stats);

/**
 * gr_pager_server_close() - end all sessions, and remove the socket
 *
 * Monitors that still miss pages are not served any more: see docs/pager.md on what becomes of
 * them.
 *
 * Context: any thread, when gr_pager_server_run() has returned. Return: 0 (NULL too), or the error
 * of writing opts.record; it is closed then. Since 0.1.
 */
GR_API int gr_pager_server_close(struct gr_pager_server *server);

/* ------------------------------------------------------------------------- a working set */

/** gr_working_set_fn - a run of pages that was touched; not 0 ends the reading with that. */
typedef int (*gr_working_set_fn)(void *context, int block, uint64_t offset, uint64_t length);

/**
 * gr_working_set_read() - look at what a pager recorded (opts.record), in the order of its touches
 * @path:    the file
 * @source:  which blocks it is of; those that this source has not are left out
 * @run:     called for each run: @block is the source's; whole pages, which may be past its end and
 *           may come again, since the file is anybody's
 * @context: its argument
 *
 * Context: any thread; waits for the disk. Return: 0, -EINVAL, -EBADMSG (@path is no such file),
 * -ENOMEM, the error of reading it, or what @run gave. Since 0.1.
 */
GR_API int gr_working_set_read(const char *path, const struct gr_page_source *source,
			       gr_working_set_fn run, void *context);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_PAGER_H */
