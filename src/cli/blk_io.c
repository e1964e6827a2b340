/* SPDX-License-Identifier: MIT */
/*
 * Operations on the file: through io_uring, one ring for each worker, or by plain system calls on
 * the worker where io_uring is refused. Short transfers go on where they ended.
 * Context: the worker's thread; open and close: the server's, while the worker does not run.
 */
#include "blk.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define RING_ENTRIES 256
#define REAP 64
#define BOUNCE (256u << 10)
#define BOUNCE_ALIGN 4096

uint32_t blk_io_direct_align(int fd)
{
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) && (stx.stx_mask & STATX_DIOALIGN))
		return stx.stx_dio_offset_align;
#endif
	return 0;
}

/*
 * A file of tmpfs never waits, and io_uring hands each of its reads and writes to a thread, since
 * the kernel does not know that: plain calls take half the time there.
 */
static bool in_memory(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && fs.f_type == TMPFS_MAGIC;
}

int blk_io_open(struct blk_worker *worker)
{
	/* completions are taken when we look, without an interrupt; older kernels know no such flag
	 */
	static const unsigned flags[] = {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};
	struct blk *blk = worker->blk;
	int rc = -ENOSYS;

	if (blk->io == BLK_IO_PLAIN || blk->fd < 0 ||
	    (blk->io == BLK_IO_AUTO && in_memory(blk->fd)))
		return 0;
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]) && rc < 0; i++)
		rc = io_uring_queue_init(RING_ENTRIES, &worker->ring, flags[i]);
	if (rc >= 0) {
		/* spares a look-up of the descriptor for each request */
		rc = io_uring_register_files(&worker->ring, &blk->fd, 1);
		if (rc < 0)
			io_uring_queue_exit(&worker->ring);
	}
	if (rc < 0)
		return blk->io == BLK_IO_URING ? rc : 0;
	worker->uring = true;
	return 0;
}

void blk_io_close(struct blk_worker *worker)
{
	if (worker->uring)
		io_uring_queue_exit(&worker->ring);
	worker->uring = false;
	free(worker->bounce);
	worker->bounce = NULL;
}

static int write_flags(const struct blk_worker *worker)
{
	return __atomic_load_n(&worker->blk->write_through, __ATOMIC_RELAXED) ? RWF_DSYNC : 0;
}

/* Take @moved bytes off the front of what is left. */
static void advance(struct blk_op *op, uint64_t moved)
{
	op->moved += moved;
	op->left -= moved;
	op->offset += moved;
	while (moved) {
		uint64_t part = op->iov->iov_len < moved ? op->iov->iov_len : moved;

		op->iov->iov_base = (char *)op->iov->iov_base + part;
		op->iov->iov_len -= part;
		moved -= part;
		if (!op->iov->iov_len) {
			op->iov++;
			op->count--;
		}
	}
}

static int write_zeroes_by_hand(int fd, uint64_t offset, uint64_t length)
{
	static const char zeroes[65536] __attribute__((aligned(BOUNCE_ALIGN)));

	while (length) {
		size_t part = length < sizeof(zeroes) ? length : sizeof(zeroes);
		ssize_t rc = pwrite(fd, zeroes, part, (off_t)offset);

		if (rc < 0 && errno != EINTR)
			return -errno;
		if (rc > 0) {
			offset += (uint64_t)rc;
			length -= (uint64_t)rc;
		}
	}
	return 0;
}

/* What the file system has no call for is done in another way, on this thread. */
static int zeroes_otherwise(const struct blk_worker *worker, const struct blk_op *op)
{
	int fd = worker->blk->fd;

	if (op->kind == BLK_DISCARD)
		return 0; /* it is advice */
	if (!(op->mode & FALLOC_FL_PUNCH_HOLE) &&
	    !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)op->offset,
		       (off_t)op->left))
		return 0;
	return write_zeroes_by_hand(fd, op->offset, op->left);
}

/*
 * Past the page cache the kernel wants memory as it is cut in blocks, which a guest need not give:
 * one part goes through a buffer of ours.
 */
static ssize_t bounced_step(struct blk_worker *worker, const struct blk_op *op)
{
	size_t length = op->left < BOUNCE ? op->left : BOUNCE, at = 0;
	bool read = op->kind == BLK_READ;
	ssize_t rc = (ssize_t)length;

	if (!worker->bounce)
		worker->bounce = aligned_alloc(BOUNCE_ALIGN, BOUNCE);
	if (!worker->bounce)
		return -ENOMEM;
	if (read)
		rc = pread(worker->blk->fd, worker->bounce, length, (off_t)op->offset);
	if (rc < 0)
		return -errno;
	for (unsigned i = 0; at < (size_t)rc; i++) {
		size_t part = op->iov[i].iov_len;

		if (part > (size_t)rc - at)
			part = (size_t)rc - at;
		if (read)
			memcpy(op->iov[i].iov_base, worker->bounce + at, part);
		else
			memcpy(worker->bounce + at, op->iov[i].iov_base, part);
		at += part;
	}
	if (!read) {
		struct iovec iov = {worker->bounce, length};

		rc = pwritev2(worker->blk->fd, &iov, 1, (off_t)op->offset, write_flags(worker));
	}
	return rc < 0 ? -errno : rc;
}

/* One step ended with @result, as of a system call. true: the operation goes on. */
static bool step_ended(struct blk_worker *worker, struct blk_op *op, ssize_t result)
{
	bool moves = op->kind == BLK_READ || op->kind == BLK_WRITE;
	int error;

	if (result == -EINVAL && worker->blk->direct && moves)
		result = bounced_step(worker, op);
	error = result < 0 ? (int)result : 0;
	if (error == -EINTR || error == -EAGAIN)
		return true;
	if (error == -EOPNOTSUPP && (op->kind == BLK_DISCARD || op->kind == BLK_WRITE_ZEROES))
		error = zeroes_otherwise(worker, op);
	if (moves && !error) {
		if (!result)
			error = -EIO; /* the file has become shorter */
		advance(op, (uint64_t)result);
		if (op->left && !error)
			return true;
	}
	blk_finish(worker, op, error);
	return false;
}

/* ---------------------------------------------------------------------------- plain system calls
 */

/* No file: all is taken, and read as zeroes where that was asked for. */
static ssize_t null_step(const struct blk_worker *worker, struct blk_op *op)
{
	if (op->kind != BLK_READ && op->kind != BLK_WRITE)
		return 0;
	for (unsigned i = 0; i < op->count && op->kind == BLK_READ && worker->blk->zeroes; i++)
		memset(op->iov[i].iov_base, 0, op->iov[i].iov_len);
	return (ssize_t)op->left;
}

static ssize_t plain_step(struct blk_worker *worker, struct blk_op *op)
{
	int fd = worker->blk->fd;
	ssize_t rc;

	if (fd < 0)
		return null_step(worker, op);
	switch (op->kind) {
	case BLK_READ:
		rc = preadv(fd, op->iov, (int)op->count, (off_t)op->offset);
		break;
	case BLK_WRITE:
		rc = pwritev2(fd, op->iov, (int)op->count, (off_t)op->offset, write_flags(worker));
		break;
	case BLK_FLUSH:
		rc = fdatasync(fd);
		break;
	default:
		rc = fallocate(fd, op->mode, (off_t)op->offset, (off_t)op->left);
		break;
	}
	return rc < 0 ? -errno : rc;
}

/* -------------------------------------------------------------------------------------- io_uring
 */

static struct io_uring_sqe *get_sqe(struct blk_worker *worker)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&worker->ring);

	if (sqe)
		return sqe;
	io_uring_submit(&worker->ring);
	return io_uring_get_sqe(&worker->ring);
}

static void queue_step(struct blk_worker *worker, struct blk_op *op)
{
	struct io_uring_sqe *sqe = get_sqe(worker);

	if (!sqe) {
		/* the kernel takes no more for now: this one is done by hand */
		while (step_ended(worker, op, plain_step(worker, op)))
			;
		return;
	}
	switch (op->kind) {
	case BLK_READ:
		if (op->count == 1)
			io_uring_prep_read(sqe, 0, op->iov->iov_base, (unsigned)op->iov->iov_len,
					   op->offset);
		else
			io_uring_prep_readv(sqe, 0, op->iov, op->count, op->offset);
		break;
	case BLK_WRITE:
		if (op->count == 1)
			io_uring_prep_write(sqe, 0, op->iov->iov_base, (unsigned)op->iov->iov_len,
					    op->offset);
		else
			io_uring_prep_writev(sqe, 0, op->iov, op->count, op->offset);
		sqe->rw_flags = write_flags(worker);
		break;
	case BLK_FLUSH:
		io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
		break;
	default:
		io_uring_prep_fallocate(sqe, 0, op->mode, (off_t)op->offset, (off_t)op->left);
		break;
	}
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, op);
}

void blk_io_start(struct blk_worker *worker, struct blk_op *op)
{
	if (worker->uring) {
		queue_step(worker, op);
		return;
	}
	while (step_ended(worker, op, plain_step(worker, op)))
		;
}

unsigned blk_io_work(struct blk_worker *worker)
{
	struct io_uring_cqe *cqes[REAP];
	unsigned done = 0, n;

	if (!worker->uring)
		return 0;
	if (io_uring_sq_ready(&worker->ring))
		io_uring_submit(&worker->ring);
	do {
		n = io_uring_peek_batch_cqe(&worker->ring, cqes, REAP);
		for (unsigned i = 0; i < n; i++) {
			struct blk_op *op = io_uring_cqe_get_data(cqes[i]);
			int result = cqes[i]->res;

			if (step_ended(worker, op, result))
				queue_step(worker, op);
		}
		io_uring_cq_advance(&worker->ring, n);
		done += n;
	} while (n == REAP);
	/* what is left over, or was refused, must not wait for another kick */
	return done + (io_uring_sq_ready(&worker->ring) ? 1 : 0);
}
