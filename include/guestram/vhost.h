/* SPDX-License-Identifier: MIT */
/*
 * A vhost-user back-end for any device, on the RAM map: a device author gives features,
 * configuration space and a handler of requests, and gets buffers that are translated, checked and
 * kept in memory until they are completed. The front-end may add and remove memory at any time;
 * queues do not stop for it.
 *
 * Caveats first:
 *  - Everything in a buffer comes from the guest, who may change it at any time: read once, check
 *    the copy, use the copy. gr_vhost_pull() reads once.
 *  - Handlers run on worker threads, one for each queue unless fewer were asked for; a queue always
 *    stays on the same worker. A handler that waits holds up all queues of its worker.
 *  - One front-end at a time; the next is accepted when it has left.
 *  - A message that stops a queue (and the end of a connection) waits for the requests in flight,
 *    so a request must be completed in the end, whatever happens.
 *
 * Drawing:   front-end ─socket─ server thread: messages, memory table
 *            guest ─kick─ worker threads: ring → handler → … → gr_vhost_complete() → ring ─call─
 *
 * Protocol: vhost-user with MQ, REPLY_ACK, CONFIG, CONFIGURE_MEM_SLOTS, RESET_DEVICE, LOG_SHMFD
 * (live migration), PAGEFAULT (postcopy), INFLIGHT_SHMFD (recovery after a crash); virtio 1.x
 * rings, split and packed, with indirect descriptors and event index. See docs/vhost.md.
 */
#ifndef GUESTRAM_VHOST_H
#define GUESTRAM_VHOST_H

#include <guestram.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gr_vhost;
struct gr_vhost_worker;

/* Most bytes of configuration space, and most buffers of one request. */
#define GR_VHOST_CONFIG_MAX 256
#define GR_VHOST_SEGMENTS_MAX 1024

/**
 * struct gr_vhost_request - what the driver asks for
 * @queue:     its queue
 * @error:     0, or -EFAULT: a buffer lies outside guest memory. Then @out is empty, and @in is the
 *             last device-writable buffer if that one is good: room for an answer.
 * @out, @out_count, @out_length: pieces that the device reads, in order
 * @in, @in_count, @in_length:    pieces that it writes, in order
 * @room:      ops->request_size bytes of the device's own, not cleared between requests
 *
 * The device owns it from ops->handle to gr_vhost_complete(), and may change iovecs and counts
 * meanwhile (to trim a header, say). Pieces of different ranges of guest memory are not merged.
 */
struct gr_vhost_request {
	unsigned queue;
	int error;
	struct iovec *out;
	struct iovec *in;
	unsigned out_count;
	unsigned in_count;
	uint64_t out_length;
	uint64_t in_length;
	void *room;
};

/**
 * struct gr_vhost_ops - a device; constant, must outlive the server
 * @features:      of the device itself (its own bits, 0 to 23 and from 50 on); those of the
 *                 transport are the server's
 * @request_size:  bytes at gr_vhost_request.room
 * @config_size:   bytes of configuration space the device has, at most GR_VHOST_CONFIG_MAX
 * @get_config:    fill @config, which has config_size bytes; bytes past it read as 0
 * @set_config:    the driver wrote @size bytes, all of them within config_size; NULL: nothing is
 *                 writable. 0 or -errno.
 * @set_features:  the driver accepted these, all of them offered; NULL allowed
 * @worker_open:   a worker starts; *worker_context is given to the calls on it; NULL: nothing to do
 * @worker_close:  it ends; no request is in flight on it
 * @worker_fd:     a descriptor that wakes the worker when it is readable (completions), or -1; NULL
 *                 allowed
 * @handle:        @count requests of one queue. Each may be completed in the call or any time
 *                 later, in any order.
 * @work:          after each round of handle calls, and when worker_fd is readable: submit and
 *                 complete; returns how many requests it completed (0: the worker may sleep). NULL
 *                 allowed.
 * @reset:         the front-end reset the device, or left; queues are stopped. NULL allowed.
 *
 * Context: get_config, set_config, set_features and reset on the server's thread; the others on the
 * worker's, except worker_open and worker_fd, which run in gr_vhost_open(), and worker_close, which
 * runs there or in gr_vhost_close(). No lock held, not in a read section.
 */
struct gr_vhost_ops {
	uint64_t features;
	size_t request_size;
	size_t config_size;
	void (*get_config)(void *context, void *config);
	int (*set_config)(void *context, uint32_t offset, const void *bytes, uint32_t size);
	void (*set_features)(void *context, uint64_t features);
	int (*worker_open)(void *context, unsigned index, void **worker_context);
	void (*worker_close)(void *context, void *worker_context);
	int (*worker_fd)(void *context, void *worker_context);
	void (*handle)(void *context, void *worker_context,
		       struct gr_vhost_request *const *requests, unsigned count);
	unsigned (*work)(void *context, void *worker_context);
	void (*reset)(void *context);
	void *reserved[8]; /* NULL */
};

/* gr_vhost_opts.flags */
#define GR_VHOST_SIGBUS                                                                            \
	(1u << 0) /* survive front-ends that truncate their memory, or leave in the midst of       \
		     postcopy, which is offered with this alone: installs the process's SIGBUS     \
		     handler, see gr_sigbus_install() */

/**
 * struct gr_vhost_opts - a server
 * @socket_path: where to listen; a dead socket there is replaced, a live one is -EADDRINUSE
 * @ops, @context: the device
 * @queues:      it has at most, 1 to 256; 0: 1
 * @threads:     workers, at most @queues; 0: one for each queue
 * @queue_size_max: entries of a ring, split or packed: a power of two, 2 to 32768; 0: 1024
 * @log, @log_context: lines for people; NULL: nowhere. May run on any thread of the server.
 * @poll_ns:     a worker without work looks at its rings for as long as this before it sleeps,
 *               while what comes, comes within this time; 0: it sleeps at once
 */
struct gr_vhost_opts {
	const char *socket_path;
	const struct gr_vhost_ops *ops;
	void *context;
	unsigned flags;
	unsigned queues;
	unsigned threads;
	unsigned queue_size_max;
	gr_log_fn log;
	void *log_context;
	uint64_t poll_ns;
	uint64_t reserved[7]; /* zero */
};

/**
 * gr_vhost_open() - listen, and start the workers
 * @server: result; ended by gr_vhost_close()
 *
 * Nothing is answered until gr_vhost_run() or gr_vhost_process().
 *
 * Context: any thread. Return: 0, -EINVAL, -ENAMETOOLONG, -EADDRINUSE, -ENOMEM, -EMFILE, -EAGAIN
 * (no thread to be had), what worker_open refused with, or the error of a system call on the path.
 * Since 0.1.
 */
GR_API int gr_vhost_open(const struct gr_vhost_opts *opts, struct gr_vhost **server);

/**
 * gr_vhost_run() - serve until gr_vhost_stop()
 *
 * Context: one thread; not together with gr_vhost_process(). Return: 0, or -errno of poll(2). Since
 * 0.1.
 */
GR_API int gr_vhost_run(struct gr_vhost *server);

/** gr_vhost_stop() - let gr_vhost_run() return. Context: any thread, signal handlers too. Since
 * 0.1. */
GR_API void gr_vhost_stop(struct gr_vhost *server);

/**
 * gr_vhost_fd() / gr_vhost_process() - for a caller with a loop of his own
 *
 * The descriptor is readable when gr_vhost_process() has something to do; the server owns it. The
 * call answers what has arrived; it waits only for requests in flight of a queue that is stopped.
 *
 * Context: one thread at a time; not inside a read section. Return: the descriptor; 0 or -errno.
 * Since 0.1.
 */
GR_API int gr_vhost_fd(struct gr_vhost *server);
GR_API int gr_vhost_process(struct gr_vhost *server);

/**
 * gr_vhost_close() - hang up, wait for requests in flight, end the workers, remove the socket
 *
 * Context: any thread but the workers, when gr_vhost_run() has returned; not inside a read section.
 * Return: 0 (NULL too), -EDEADLK, -EBUSY while pins of the front-end's memory are held, -ENOMEM;
 * with an error it has hung up, and is to be called again. Since 0.1.
 */
GR_API int gr_vhost_close(struct gr_vhost *server);

/** gr_vhost_ram() - the front-end's memory, for stats and listeners; the server's own. Since 0.1.
 */
GR_API struct gr_ram *gr_vhost_ram(struct gr_vhost *server);

/** gr_vhost_gpa() / gr_vhost_uaddr() - the spaces over it: guest-physical, front-end's. Since 0.1.
 */
GR_API struct gr_space *gr_vhost_gpa(struct gr_vhost *server);
GR_API struct gr_space *gr_vhost_uaddr(struct gr_vhost *server);

/**
 * gr_vhost_complete() - give a request back to the driver
 * @written: bytes written to @in from its start; more than there were are told as all
 *
 * Its memory may go at once; @request is dead. The driver is told after the batch of the worker.
 *
 * Context: any thread, also in ops->handle and ops->work; cheapest on the request's worker. Never
 * waits. Since 0.1.
 */
GR_API void gr_vhost_complete(struct gr_vhost_request *request, uint64_t written);

/**
 * gr_vhost_pull() - copy the first bytes of @out and take them off it
 *
 * Return: 0, -EFAULT when there are fewer (nothing moved). Context: the request's owner. Since 0.1.
 */
GR_API int gr_vhost_pull(struct gr_vhost_request *request, void *buf, size_t length);

/**
 * gr_vhost_push() - copy into the first bytes of @in and take them off it; return as pull. Since
 * 0.1. */
GR_API int gr_vhost_push(struct gr_vhost_request *request, const void *buf, size_t length);

/**
 * gr_vhost_wrote() - bytes of @in were written elsewhere than at its start
 * @host: where in the pieces that the request came with
 *
 * What gr_vhost_push() wrote and what gr_vhost_complete() tells is noted as dirty by itself, for a
 * front-end that migrates and for clients of <guestram/dirty.h>. The rest wants this call, after
 * the write: a status at the end of @in of a request that was done in part, say.
 *
 * Context: the request's owner, before gr_vhost_complete(). Since 0.1.
 */
GR_API void gr_vhost_wrote(struct gr_vhost_request *request, const void *host, uint64_t length);

/**
 * struct gr_vhost_stats - a server at one moment; counts are since gr_vhost_open()
 * @connected:      1 while a front-end is there
 * @connections:    accepted
 * @messages:       handled, @refused: answered with an error or by hanging up
 * @table_changes:  of the memory table
 * @requests:       completed, @in_flight: not yet
 * @bad_requests:   given to the device with an error
 * @broken_queues:  times that a queue was found broken by its driver
 * @kicks, @calls:  wake-ups of ours by the driver, and of the driver by us
 * @last_reclaim_us: from the last removal that was reclaimed to its reclaim
 */
struct gr_vhost_stats {
	uint64_t connected;
	uint64_t connections;
	uint64_t messages;
	uint64_t refused;
	uint64_t table_changes;
	uint64_t requests;
	uint64_t in_flight;
	uint64_t bad_requests;
	uint64_t broken_queues;
	uint64_t kicks;
	uint64_t calls;
	uint64_t last_reclaim_us;
	uint64_t reserved[8];
};

/** gr_vhost_get_stats() - a server's figures. Context: any thread; never waits. Since 0.1. */
GR_API void gr_vhost_get_stats(struct gr_vhost *server, struct gr_vhost_stats *stats);

#ifdef __cplusplus
}
#endif

#endif /* GUESTRAM_VHOST_H */
