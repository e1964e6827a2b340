/* SPDX-License-Identifier: MIT */
/*
 * A running guest's memory, and its device state, to another process or host.
 *
 * Caveats first:
 *  - Writes through host pointers must be marked or watched (<guestram/dirty.h>), or they stay
 *    behind.
 *  - While it runs no block may come, go or shrink: the migration fails then. Blocks may grow.
 *  - The receiver must not touch the memory before it is told that the guest may run; its content
 *    from before is lost.
 *  - Where both sides have granules (<guestram/plug.h>), the receiver's are plugged as the sender's
 *    before it begins.
 *  - Bytes are checked against damage, not against an attacker: use a tunnel for that. A hostile
 *    peer can give the guest any content, and can do nothing else.
 *
 * One process calls gr_migrate_send(), the other gr_migrate_receive(), each with the same number of
 * connected descriptors; both calls return when it is over. Memory is sent while the guest writes
 * it (precopy), round by round, until what is left can be sent in max_downtime_ms; then the guest
 * is stopped for the last round. Where it writes faster than the link, the rest can be fetched
 * while it runs on the other side (postcopy).
 *
 * Where the guest is when it is over is in gr_migrate_stats.guest, and never in two places. Up to
 * the moment at which the sender lets go, any failure leaves the guest with the sender, running.
 * The format is in docs/migration-format.md.
 */
#ifndef GUESTRAM_MIGRATE_H
#define GUESTRAM_MIGRATE_H

#include <guestram.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GR_MIGRATE_CHANNELS_MAX 16

/* gr_migrate_opts.flags */
#define GR_MIGRATE_ONE_WAY (1u << 0)  /* files and pipes: no answers, and so no postcopy */
#define GR_MIGRATE_POSTCOPY (1u << 1) /* sender: may switch to it, where the receiver can too */
#define GR_MIGRATE_SHARED_IN_PLACE                                                                 \
	(1u << 2) /* sender: blocks with GR_SHARED are the same memory on both sides, and stay */

/**
 * enum gr_migrate_guest - where the guest is
 * @GR_GUEST_HERE:    on this side: it runs on (sender), or may run now (receiver)
 * @GR_GUEST_THERE:   on the other side
 * @GR_GUEST_UNKNOWN: sender: let go of, and the connection broke before the answer: it is stopped
 *                    here; ask the other side before you run it. Receiver: ready, and the
 *                    connection broke before it was told to run; it must not run here
 * @GR_GUEST_LOST:    the connection broke in postcopy: its newest memory is in two pieces. What is
 *                    missing here raises SIGBUS or SIGSEGV
 */
enum gr_migrate_guest {
	GR_GUEST_HERE = 0,
	GR_GUEST_THERE,
	GR_GUEST_UNKNOWN,
	GR_GUEST_LOST,
};

/**
 * struct gr_migrate_stats - how it goes, and how it went
 * @guest:        where the guest is
 * @postcopy:     1 since the switch
 * @rounds:       begun
 * @bytes_memory: used length of the blocks that are sent
 * @bytes_left:   sender: dirty at the last look; receiver: not there yet, in postcopy
 * @bytes_copied: memory that was sent as it is, or packed
 * @bytes_zero:   memory that was all zeroes
 * @bytes_wire:   what went through the channels
 * @bytes_per_second: sender: memory for each second, in the last round
 * @throttle:     sender: percent that was asked for last
 * @requests:     postcopy: faults that had to be asked for
 * @downtime_us:  sender: from stop() to the answer that the guest runs there
 * @total_us:     of the call
 */
struct gr_migrate_stats {
	enum gr_migrate_guest guest;
	int postcopy;
	uint64_t rounds;
	uint64_t bytes_memory;
	uint64_t bytes_left;
	uint64_t bytes_copied;
	uint64_t bytes_zero;
	uint64_t bytes_wire;
	uint64_t bytes_per_second;
	uint64_t throttle;
	uint64_t requests;
	uint64_t downtime_us;
	uint64_t total_us;
	uint64_t reserved[8];
};

struct gr_migrate_state;

/**
 * struct gr_migrate_ops - what the embedder does; any of them may be NULL
 * @progress:   several times a second; non-zero cancels (-ECANCELED) where nothing is decided yet
 * @throttle:   sender: let the guest run @percent less, 0 to 99: it writes faster than the link
 * @stop:       sender: stop the guest and all devices that write to its memory; < 0 fails. When it
 *              returns all that they wrote is marked
 * @resume:     sender: it failed after stop(), let the guest go on. Receiver: the guest is here and
 *              complete (or will be fetched): let it run. Before the call returns in postcopy, the
 *              guest may already wait for pages
 * @state_save: sender, after stop(): give each piece of the guest's other state to
 *              gr_migrate_put_state(); < 0 fails
 * @state_load: receiver: one such piece; bytes are the sender's and not to be trusted; < 0 fails
 * @block:      what is done with a block: 0 it is sent, 1 it is left in place, < 0 refuses. Asked
 * on both sides
 * @plugged:    sender: does memory at @offset exist for the guest? 1 or 0, and for how many bytes
 *              from there on, at most *length, that holds (multiples of 4 KiB). What does not exist
 *              is not read, and is zero on the other side. Any thread, several at once. Not needed
 *              for granules of gr_plug_open(), which the library asks itself
 *
 * All are called on the thread that called gr_migrate_send() or _receive(), but for @plugged, with
 * no lock held; they must not call gr_migrate_ functions but gr_migrate_put_state().
 */
struct gr_migrate_ops {
	int (*progress)(void *context, const struct gr_migrate_stats *stats);
	void (*throttle)(void *context, unsigned percent);
	int (*stop)(void *context);
	void (*resume)(void *context);
	int (*state_save)(void *context, struct gr_migrate_state *state);
	int (*state_load)(void *context, const char *name, const void *bytes, uint64_t length);
	int (*block)(void *context, struct gr_block *block);
	int (*plugged)(void *context, struct gr_block *block, uint64_t offset, uint64_t *length);
};

/**
 * struct gr_migrate_opts - one side of a migration
 * @fds:       connected streams, the caller's; they are non-blocking during the call. Channel 0 is
 *             two-way unless GR_MIGRATE_ONE_WAY; the receiver's may be in any order if so is its
 *             first, which answers
 * @fd_count:  1 to GR_MIGRATE_CHANNELS_MAX, the same on both sides
 * @flags:     GR_MIGRATE_…
 * @zstd_level: sender: 0 sends pages as they are; 1 to 19 packs them
 * @max_bytes_per_second: sender: through all channels; 0: as much as goes
 * @max_downtime_ms: sender: 0: 300
 * @max_rounds: sender: 0: 30. Then postcopy begins if it may; otherwise it fails with -ETIMEDOUT.
 * @timeout_ms: no byte moved for so long: the connection is dead; 0: 30,000
 * @max_state:  receiver: bytes of state it takes; 0: 64 MiB
 * @ops, @context: see above; may be NULL
 */
struct gr_migrate_opts {
	const int *fds;
	unsigned fd_count;
	unsigned flags;
	unsigned zstd_level;
	unsigned max_rounds;
	uint64_t max_bytes_per_second;
	uint64_t max_downtime_ms;
	unsigned timeout_ms;
	uint64_t max_state;
	const struct gr_migrate_ops *ops;
	void *context;
	uint64_t reserved[8]; /* zero */
};

/**
 * gr_migrate_send() - move the guest away
 * @stats: how it went, also after an error; may be NULL
 *
 * After a failure sockets are shut down, so that the other side learns of it. Dirty tracking is on
 * during the call.
 *
 * Context: any thread; waits; not inside a read section or callback.
 * Return: 0: the guest is there. -ECANCELED (progress), -ETIMEDOUT (no answer; or it does not
 * converge), -EPIPE, -ECONNRESET … (connection), -ECONNREFUSED (the receiver refused, and
 * gr_last_error() has its words), -EBUSY (blocks changed), -EBADMSG, -EPROTO, -EINVAL, -ENOMEM,
 * -EDEADLK, what a callback failed with; and gr_migrate_stats.guest tells where it is. Since 0.1.
 */
GR_API int gr_migrate_send(struct gr_ram *ram, const struct gr_migrate_opts *opts,
			   struct gr_migrate_stats *stats);

/**
 * gr_migrate_receive() - take a guest
 * @ram: has the same blocks as the sender's, by name, length and page size
 *
 * Blocks that do not fit are refused before any is changed. After any other error their contents
 * are undefined.
 *
 * Context: as gr_migrate_send().
 * Return: 0: the guest is here, and ops->resume() was called. -EINVAL (blocks or granules do not
 * fit), -ECONNABORTED (the sender gave up), -EBADMSG (damaged; or the sender's guest writes to
 * memory and does not mark it), others as above. Since 0.1.
 */
GR_API int gr_migrate_receive(struct gr_ram *ram, const struct gr_migrate_opts *opts,
			      struct gr_migrate_stats *stats);

/**
 * gr_migrate_put_state() - inside ops->state_save: one piece of state
 * @name: 1 to 255 bytes
 *
 * Return: 0 or -errno, which state_save should return. Since 0.1.
 */
GR_API int gr_migrate_put_state(struct gr_migrate_state *state, const char *name, const void *bytes,
				uint64_t length);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_MIGRATE_H */
