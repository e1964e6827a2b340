/* SPDX-License-Identifier: MIT */
/* virtio-blk requests (virtio 1.x, 5.2) to operations on a file. See blk.h. */
#include "blk.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BIT(n) (UINT64_C(1) << (n))

static void count(struct blk_worker *worker, enum blk_count what, uint64_t add)
{
	__atomic_store_n(&worker->counts[what], worker->counts[what] + add, __ATOMIC_RELAXED);
}

uint64_t blk_counted(const struct blk *blk, enum blk_count what)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < blk->worker_max; i++)
		if (blk->workers[i])
			sum += __atomic_load_n(&blk->workers[i]->counts[what], __ATOMIC_RELAXED);
	return sum;
}

/* ------------------------------------------------------------------------------ one request */

static void answer(struct blk_worker *worker, struct blk_op *op, uint8_t status)
{
	*op->status = status;
	gr_vhost_wrote(op->request, (const void *)op->status, 1); /* beyond what was moved */
	if (status == VIRTIO_BLK_S_IOERR)
		count(worker, BLK_ERRORS, 1);
	if (status == VIRTIO_BLK_S_UNSUPP)
		count(worker, BLK_UNSUPPORTED, 1);
	gr_vhost_complete(op->request, op->moved + 1);
}

void blk_finish(struct blk_worker *worker, struct blk_op *op, int error)
{
	static const struct {
		enum blk_count bytes;
		bool to_guest;
	} moved[BLK_COUNTS] = {
		[BLK_READ] = {BLK_BYTES_READ, true},
		[BLK_WRITE] = {BLK_BYTES_WRITTEN, false},
	};

	if (moved[op->kind].bytes)
		count(worker, moved[op->kind].bytes, op->moved);
	if (!moved[op->kind].to_guest)
		op->moved = 0;
	answer(worker, op, error ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

/* The last writable byte is the status. false: there is none, so nothing can be answered. */
static bool take_status(struct blk_op *op)
{
	struct gr_vhost_request *request = op->request;
	struct iovec *last;

	if (!request->in_count)
		return false;
	last = &request->in[request->in_count - 1];
	last->iov_len--;
	op->status = (volatile uint8_t *)last->iov_base + last->iov_len;
	request->in_length--;
	if (!last->iov_len)
		request->in_count--;
	return true;
}

/* Whole blocks, within the disk? */
static bool on_disk(const struct blk *blk, uint64_t sector, uint64_t sectors)
{
	return !((sector | sectors) & (blk->block_size / BLK_SECTOR - 1)) &&
	       sector <= blk->sectors && sectors <= blk->sectors - sector;
}

static void start_move(struct blk_worker *worker, struct blk_op *op, uint64_t sector)
{
	struct gr_vhost_request *request = op->request;
	bool read = op->kind == BLK_READ;
	uint64_t length = read ? request->in_length : request->out_length;

	if (length % BLK_SECTOR || !on_disk(worker->blk, sector, length / BLK_SECTOR) ||
	    (!read && worker->blk->read_only)) {
		answer(worker, op, VIRTIO_BLK_S_IOERR);
		return;
	}
	op->iov = read ? request->in : request->out;
	op->count = read ? request->in_count : request->out_count;
	op->offset = sector * BLK_SECTOR;
	op->left = length;
	if (!length) {
		answer(worker, op, VIRTIO_BLK_S_OK);
		return;
	}
	blk_io_start(worker, op);
}

static void start_zeroes(struct blk_worker *worker, struct blk_op *op)
{
	bool discard = op->kind == BLK_DISCARD;
	uint32_t most = discard ? BLK_DISCARD_SECTORS_MAX : BLK_ZEROES_SECTORS_MAX;
	uint32_t known = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	struct virtio_blk_discard_write_zeroes what;
	bool hole;

	/* one segment, as the configuration says */
	if (op->request->out_length != sizeof(what) ||
	    gr_vhost_pull(op->request, &what, sizeof(what)) < 0 || worker->blk->read_only) {
		answer(worker, op, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (what.flags & ~known) {
		answer(worker, op, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (what.num_sectors > most || !on_disk(worker->blk, what.sector, what.num_sectors)) {
		answer(worker, op, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (!what.num_sectors || (discard && worker->blk->keep_discarded)) {
		answer(worker, op, VIRTIO_BLK_S_OK);
		return;
	}
	hole = discard || (what.flags && !worker->blk->keep_discarded);
	op->mode = FALLOC_FL_KEEP_SIZE | (hole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
	op->offset = what.sector * BLK_SECTOR;
	op->left = (uint64_t)what.num_sectors * BLK_SECTOR;
	blk_io_start(worker, op);
}

static void start_get_id(struct blk_worker *worker, struct blk_op *op)
{
	struct gr_vhost_request *request = op->request;
	uint64_t length = request->in_length < BLK_ID_BYTES ? request->in_length : BLK_ID_BYTES;

	if (gr_vhost_push(request, worker->blk->id, length) < 0) {
		answer(worker, op, VIRTIO_BLK_S_IOERR);
		return;
	}
	op->moved = length;
	answer(worker, op, VIRTIO_BLK_S_OK);
}

static void start(struct blk_worker *worker, struct gr_vhost_request *request)
{
	struct blk_op *op = request->room;
	struct virtio_blk_outhdr header;

	*op = (struct blk_op){.request = request};
	if (!take_status(op)) {
		count(worker, BLK_ERRORS, 1);
		gr_vhost_complete(request, 0);
		return;
	}
	if (request->error || gr_vhost_pull(request, &header, sizeof(header)) < 0) {
		answer(worker, op, VIRTIO_BLK_S_IOERR);
		return;
	}
	switch (header.type) {
	case VIRTIO_BLK_T_IN:
		op->kind = BLK_READ;
		count(worker, BLK_READ, 1);
		start_move(worker, op, header.sector);
		return;
	case VIRTIO_BLK_T_OUT:
		op->kind = BLK_WRITE;
		count(worker, BLK_WRITE, 1);
		start_move(worker, op, header.sector);
		return;
	case VIRTIO_BLK_T_FLUSH:
		op->kind = BLK_FLUSH;
		count(worker, BLK_FLUSH, 1);
		blk_io_start(worker, op);
		return;
	case VIRTIO_BLK_T_DISCARD:
		op->kind = BLK_DISCARD;
		count(worker, BLK_DISCARD, 1);
		start_zeroes(worker, op);
		return;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		op->kind = BLK_WRITE_ZEROES;
		count(worker, BLK_WRITE_ZEROES, 1);
		start_zeroes(worker, op);
		return;
	case VIRTIO_BLK_T_GET_ID:
		op->kind = BLK_GET_ID;
		count(worker, BLK_GET_ID, 1);
		start_get_id(worker, op);
		return;
	default:
		answer(worker, op, VIRTIO_BLK_S_UNSUPP);
	}
}

/* ------------------------------------------------------------------------------- the device */

static void handle(void *context, void *worker_context, struct gr_vhost_request *const *requests,
		   unsigned n)
{
	(void)context;
	for (unsigned i = 0; i < n; i++)
		start(worker_context, requests[i]);
}

static unsigned work(void *context, void *worker_context)
{
	(void)context;
	return blk_io_work(worker_context);
}

static void get_config(void *context, void *bytes)
{
	const struct blk *blk = context;
	struct virtio_blk_config config = {
		.capacity = blk->sectors,
		.seg_max = BLK_SEG_MAX,
		.blk_size = blk->block_size,
		.num_queues = (uint16_t)blk->queues,
	};

	if (!blk->read_only) {
		config.max_discard_sectors = BLK_DISCARD_SECTORS_MAX;
		config.max_discard_seg = 1;
		config.discard_sector_alignment = blk->block_size / BLK_SECTOR;
		config.max_write_zeroes_sectors = BLK_ZEROES_SECTORS_MAX;
		config.max_write_zeroes_seg = 1;
		config.write_zeroes_may_unmap = 1;
	}
	memcpy(bytes, &config, sizeof(config));
}

static void set_features(void *context, uint64_t features)
{
	struct blk *blk = context;

	__atomic_store_n(&blk->write_through, !(features & BIT(VIRTIO_BLK_F_FLUSH)),
			 __ATOMIC_RELAXED);
}

static int worker_open(void *context, unsigned index, void **worker_context)
{
	struct blk *blk = context;
	struct blk_worker *worker = calloc(1, sizeof(*worker));
	int rc;

	if (!worker)
		return -ENOMEM;
	worker->blk = blk;
	rc = blk_io_open(worker);
	if (rc < 0) {
		free(worker);
		return rc;
	}
	blk->workers[index] = worker;
	*worker_context = worker;
	return 0;
}

/* The counters stay: blk_close() frees them. */
static void worker_close(void *context, void *worker_context)
{
	(void)context;
	blk_io_close(worker_context);
}

static int worker_fd(void *context, void *worker_context)
{
	struct blk_worker *worker = worker_context;

	(void)context;
	return worker->uring ? worker->ring.ring_fd : -1;
}

static int open_file(struct blk *blk, const char *path, const char **what)
{
	int flags = (blk->read_only ? O_RDONLY : O_RDWR) | (blk->direct ? O_DIRECT : 0);
	int fd = open(path, flags | O_CLOEXEC), rc = -EINVAL;
	uint32_t align;
	struct stat st;
	off_t size;

	*what = "cannot be opened";
	if (fd < 0)
		return -errno;
	*what = "neither a file nor a block device";
	if (fstat(fd, &st) || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		goto close_fd;
	align = blk->direct ? blk_io_direct_align(fd) : 0;
	*what = "past the page cache its blocks are larger than the disk's: see --block-size";
	if (align > blk->block_size)
		goto close_fd;
	size = lseek(fd, 0, SEEK_END);
	*what = "has no block";
	if (size < (off_t)blk->block_size) {
		rc = size < 0 ? -errno : -EINVAL;
		goto close_fd;
	}
	blk->sectors = (uint64_t)size / BLK_SECTOR;
	blk->fd = fd;
	return 0;

close_fd:
	close(fd);
	return rc;
}

int blk_open(struct blk *blk, const char *path, const char **what)
{
	int rc = path ? open_file(blk, path, what) : 0;

	if (rc < 0)
		return rc;
	blk->sectors -= blk->sectors % (blk->block_size / BLK_SECTOR);
	*what = "has no block";
	if (!blk->sectors)
		return -EINVAL;
	*what = "no memory";
	blk->workers = calloc(blk->worker_max, sizeof(struct blk_worker *));
	if (!blk->workers) {
		blk_close(blk);
		return -ENOMEM;
	}
	blk->ops = (struct gr_vhost_ops){
		.features = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
			    BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_MQ),
		.request_size = sizeof(struct blk_op),
		.config_size = sizeof(struct virtio_blk_config),
		.get_config = get_config,
		.set_features = set_features,
		.worker_open = worker_open,
		.worker_close = worker_close,
		.worker_fd = worker_fd,
		.handle = handle,
		.work = work,
	};
	blk->ops.features |= blk->read_only
				     ? BIT(VIRTIO_BLK_F_RO)
				     : BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	return 0;
}

void blk_close(struct blk *blk)
{
	for (unsigned i = 0; i < blk->worker_max && blk->workers; i++)
		free(blk->workers[i]);
	free(blk->workers);
	blk->workers = NULL;
	if (blk->fd >= 0)
		close(blk->fd);
	blk->fd = -1;
}
