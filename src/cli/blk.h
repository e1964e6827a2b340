/* SPDX-License-Identifier: MIT */
/*
 * A file or block device as a virtio-blk device: what `guestram serve blk` offers. It uses only
 * <guestram/vhost.h>.
 *
 * Threads: blk_open() and blk_close() as the server's; requests on the server's workers, each with
 * a ring and counters of its own, so workers share nothing that is written.
 */
#ifndef BLK_H
#define BLK_H

#include <guestram/vhost.h>
#include <liburing.h>
#include <stdbool.h>

enum blk_io {
	BLK_IO_AUTO, /* io_uring where the kernel lets us, else plain */
	BLK_IO_URING,
	BLK_IO_PLAIN,
};

enum blk_count {
	BLK_READ,
	BLK_WRITE,
	BLK_FLUSH,
	BLK_DISCARD,
	BLK_WRITE_ZEROES,
	BLK_GET_ID,
	BLK_UNSUPPORTED,
	BLK_ERRORS,
	BLK_BYTES_READ,
	BLK_BYTES_WRITTEN,
	BLK_COUNTS,
};

#define BLK_ID_BYTES 20
#define BLK_POLL_US 32 /* most that workers look for before they sleep, unless told */
#define BLK_SECTOR 512
#define BLK_BLOCK_MAX (2u << 20)
#define BLK_SEG_MAX 126
#define BLK_DISCARD_SECTORS_MAX (1u << 22)
#define BLK_ZEROES_SECTORS_MAX (1u << 16)

/* A worker of the server. */
struct blk_worker {
	struct blk *blk;
	bool uring;
	struct io_uring ring;
	char *bounce;		     /* for what cannot go past the page cache; NULL: not yet */
	uint64_t counts[BLK_COUNTS]; /* written by the worker, read relaxed by anybody */
};

struct blk {
	int fd; /* -1: a null disk, which keeps nothing */
	bool read_only;
	bool direct;	     /* the file is read and written past the page cache */
	bool keep_discarded; /* a discard does nothing, and zeroes make no holes */
	bool zeroes;	     /* a null disk: reads give zeroes, or else nothing */
	bool write_through;  /* atomic, relaxed: the driver knows no flush */
	enum blk_io io;
	uint64_t sectors;
	uint32_t block_size; /* a power of two; requests are whole blocks */
	unsigned queues;
	char id[BLK_ID_BYTES + 1];
	struct gr_vhost_ops ops;
	struct blk_worker **workers; /* const once opened */
	unsigned worker_max;
};

/* A request while the device has it: gr_vhost_request.room. */
struct blk_op {
	struct gr_vhost_request *request;
	volatile uint8_t *status;
	struct iovec *iov; /* what is left to move */
	unsigned count;
	int kind;	 /* enum blk_count */
	int mode;	 /* of fallocate */
	uint64_t offset; /* in the file, in bytes */
	uint64_t left;
	uint64_t moved;
};

/* 0, or -errno with *what naming the step. */
int blk_open(struct blk *blk, const char *path, const char **what);
void blk_close(struct blk *blk);
uint64_t blk_counted(const struct blk *blk, enum blk_count count);

/* blk_io.c */
/* What offsets must be a multiple of in a file that was opened O_DIRECT; 0: unknown. */
uint32_t blk_io_direct_align(int fd);
int blk_io_open(struct blk_worker *worker);
void blk_io_close(struct blk_worker *worker);
/* Does the operation, or begins it. */
void blk_io_start(struct blk_worker *worker, struct blk_op *op);
/* Submits, completes; returns how many it completed. */
unsigned blk_io_work(struct blk_worker *worker);

/* blk.c: an operation is over, with a negative errno or 0. */
void blk_finish(struct blk_worker *worker, struct blk_op *op, int error);

#endif
