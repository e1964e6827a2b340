/* SPDX-License-Identifier: MIT */
/*
 * A guest that keeps a number of requests in flight, as a driver does: it sleeps until the disk
 * calls, takes all that is done, and puts as many new ones. See bench_blk.h.
 *
 * Memory of the guest: rings below FE_DATA, then 32 bytes for each request (header, status), then a
 * buffer for each. Before it sleeps it looks for a call for 200 us, as a virtual processor does
 * whose host is Linux (kvm's halt_poll_ns), where there is a processor to do so. Requests of more
 * than a piece have several, as a guest's pages are scattered.
 */
#include "bench_blk.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define PIECE (128u << 10) /* of a long request */

enum {
	RING = 256,
	DEPTH_MAX = 128,
	META = 32,
	MEMORY_MIB = 64,
	SPIN_NS = 200000,
	PATIENCE_MS = 30000
};

#define META_AT FE_DATA
#define DATA_AT (FE_DATA + (UINT64_C(1) << 16))

/* ------------------------------------------------------------------------------- a connection */

int blk_guest_open(struct blk_guest *guest, const char *socket, uint64_t disk_size, bool spins)
{
	int rc;

	memset(guest, 0, sizeof(*guest));
	guest->disk_size = disk_size;
	guest->x = UINT64_C(88172645463325252);
	guest->ns = calloc(BLK_SAMPLES_MAX, sizeof(*guest->ns));
	guest->began = calloc(DEPTH_MAX, sizeof(*guest->began));
	if (!guest->ns || !guest->began)
		return -ENOMEM;
	rc = fe_open(&guest->fe, socket, MEMORY_MIB * MIB);
	if (rc < 0)
		return rc;
	memset(guest->fe.mem, 0, guest->fe.size); /* no page faults later */
	rc = fe_start(&guest->fe, 1, RING, FE_F_EVENT_IDX | FE_F_INDIRECT);
	if (!rc && spins)
		guest->fe.queues->spin_ns = SPIN_NS;
	return rc;
}

void blk_guest_close(struct blk_guest *guest)
{
	fe_close(&guest->fe);
	free(guest->ns);
	free(guest->began);
	memset(guest, 0, sizeof(*guest));
}

/* ------------------------------------------------------------------------------------ requests */

static uint8_t *buffer(const struct blk_guest *guest, const struct blk_load *load, unsigned slot)
{
	return guest->fe.mem + DATA_AT + (uint64_t)slot * load->length;
}

static int submit(struct blk_guest *guest, const struct blk_load *load, unsigned slot,
		  uint64_t block)
{
	struct fe_buf data[FE_TABLE];
	unsigned count = 0;

	for (uint32_t at = 0; at < load->length; at += PIECE) {
		uint32_t left = load->length - at;

		data[count++] = (struct fe_buf){fe_gpa(&guest->fe, buffer(guest, load, slot) + at),
						left < PIECE ? left : PIECE, !load->write};
	}
	return fe_blk_submit(guest->fe.queues, META_AT + (uint64_t)slot * META,
			     load->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
			     block * (load->length / 512), data, count, slot);
}

static uint64_t next_block(struct blk_guest *guest, const struct blk_load *load)
{
	uint64_t blocks = guest->disk_size / load->length;

	if (load->sequential)
		return guest->next++ % blocks;
	guest->x ^= guest->x << 13;
	guest->x ^= guest->x >> 7;
	guest->x ^= guest->x << 17;
	return (uint64_t)(((unsigned __int128)guest->x * blocks) >> 64);
}

/* A request that is done: its slot, or -EIO. */
static int judge(const struct blk_guest *guest, const struct blk_load *load, uint64_t slot,
		 uint32_t written)
{
	if (fe_blk_status(&guest->fe, META_AT + slot * META) ||
	    written != (load->write ? 1 : load->length + 1))
		return -EIO;
	return (int)slot;
}

/* The next one that is done; -EAGAIN: none is. */
static int take(struct blk_guest *guest, const struct blk_load *load)
{
	uint32_t written;
	uint64_t slot;
	int rc = fe_poll(guest->fe.queues, &slot, &written);

	if (rc <= 0)
		return rc ? rc : -EAGAIN;
	return judge(guest, load, slot, written);
}

/* Wait for one at least, and take it. */
static int wait(struct blk_guest *guest, const struct blk_load *load)
{
	uint32_t written;
	uint64_t slot;
	int rc = fe_wait(guest->fe.queues, PATIENCE_MS, &slot, &written);

	return rc < 0 ? rc : judge(guest, load, slot, written);
}

/* ------------------------------------------------------------------------------------- a piece */

static void note(struct blk_guest *guest, unsigned slot, double now)
{
	guest->requests++;
	if (guest->samples < BLK_SAMPLES_MAX)
		guest->ns[guest->samples++] = now - guest->began[slot];
}

int blk_guest_run(struct blk_guest *guest, const struct blk_load *load, double length_ns)
{
	struct fe_queue *q = guest->fe.queues;
	double begin = bench_now(), now = begin;
	unsigned flying = 0;
	int rc = 0;

	if (load->depth > DEPTH_MAX)
		return -EINVAL;
	guest->requests = guest->samples = 0;
	for (; flying < load->depth && !rc; flying++) {
		guest->began[flying] = now;
		rc = submit(guest, load, flying, next_block(guest, load));
	}
	fe_kick(q);
	while (rc >= 0 && flying) {
		bool again;

		rc = wait(guest, load);
		now = bench_now();
		again = now - begin < length_ns;
		for (; rc >= 0; rc = take(guest, load)) {
			note(guest, (unsigned)rc, now);
			flying--;
			if (!again)
				continue;
			guest->began[rc] = now;
			rc = submit(guest, load, (unsigned)rc, next_block(guest, load));
			if (rc < 0)
				break;
			flying++;
		}
		if (rc == -EAGAIN)
			rc = 0;
		fe_kick(q);
	}
	guest->took = bench_now() - begin;
	return rc < 0 ? rc : 0;
}

struct changer {
	struct blk_guest *guest;
	unsigned changes; /* in a second */
	bool stop;	  /* atomic, relaxed: it looks again soon */
	unsigned done;
	int rc;
};

static void *change(void *arg)
{
	struct changer *changer = arg;
	struct fe *fe = &changer->guest->fe;
	struct fe_region region = {FE_GPA + (UINT64_C(1) << 36), 64 * MIB, 0, 0};
	struct timespec pause = {.tv_nsec = 1000000000L / (long)changer->changes};
	int fd = memfd_create("plugged", MFD_CLOEXEC);
	bool there = false;

	changer->rc = fd < 0 || ftruncate(fd, (off_t)region.size) ? -errno : 0;
	region.uaddr = (uintptr_t)fe->mem + (UINT64_C(1) << 40);
	while (!changer->rc && (there || !__atomic_load_n(&changer->stop, __ATOMIC_RELAXED))) {
		changer->rc =
			there ? fe_remove_region(fe, &region, -1) : fe_add_region(fe, &region, fd);
		there = !there;
		changer->done++;
		nanosleep(&pause, NULL);
	}
	if (fd >= 0)
		close(fd);
	return NULL;
}

int blk_guest_run_changing(struct blk_guest *guest, const struct blk_load *load, double length_ns,
			   unsigned changes, unsigned *done)
{
	struct changer changer = {.guest = guest, .changes = changes};
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, change, &changer);

	if (rc)
		return -rc;
	rc = blk_guest_run(guest, load, length_ns);
	__atomic_store_n(&changer.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	*done = changer.done;
	return rc < 0 ? rc : changer.rc;
}

/* -------------------------------------------------------------------------------- data, checked */

uint64_t blk_pattern(uint64_t seed, uint64_t offset)
{
	uint64_t x = (offset ^ seed) * UINT64_C(0x9e3779b97f4a7c15);

	return x ^ x >> 29;
}

static void fill(const struct blk_guest *guest, const struct blk_load *load, unsigned slot,
		 uint64_t block, uint64_t seed)
{
	uint8_t *to = buffer(guest, load, slot);

	for (uint32_t at = 0; at < load->length; at += 8) {
		uint64_t word = blk_pattern(seed, block * load->length + at);

		memcpy(to + at, &word, 8);
	}
}

static int check(const struct blk_guest *guest, const struct blk_load *load, unsigned slot,
		 uint64_t block, uint64_t seed)
{
	const uint8_t *from = buffer(guest, load, slot);
	uint64_t wrong = 0;

	for (uint32_t at = 0; at < load->length; at += 8) {
		uint64_t word;

		memcpy(&word, from + at, 8);
		wrong |= word ^ blk_pattern(seed, block * load->length + at);
	}
	return wrong ? -EBADMSG : 0;
}

/* Each block once, the disk and a request being powers of two: "random" goes by an odd stride. */
static int all_blocks(struct blk_guest *guest, const struct blk_load *load, uint64_t seed)
{
	uint64_t blocks = guest->disk_size / load->length, block_of[DEPTH_MAX], next = 0;
	uint64_t stride = load->sequential ? 1 : blocks * 5 / 8 | 1;
	unsigned flying = 0, slot;
	int rc = load->depth > DEPTH_MAX ? -EINVAL : 0;

	while (rc >= 0 && (flying || next < blocks)) {
		slot = flying;
		if (flying == load->depth || next == blocks) {
			rc = wait(guest, load);
			if (rc < 0)
				break;
			slot = (unsigned)rc;
			rc = load->write ? 0 : check(guest, load, slot, block_of[slot], seed);
			flying--;
		}
		if (rc < 0 || next == blocks)
			continue;
		block_of[slot] = next++ * stride % blocks;
		if (load->write)
			fill(guest, load, slot, block_of[slot], seed);
		else
			memset(buffer(guest, load, slot), 0xee, load->length);
		rc = submit(guest, load, slot, block_of[slot]);
		flying++;
		fe_kick(guest->fe.queues);
	}
	return rc < 0 ? rc : 0;
}

int blk_guest_fill(struct blk_guest *guest, const struct blk_load *load, uint64_t seed)
{
	struct blk_load writing = *load;

	writing.write = true;
	return all_blocks(guest, &writing, seed);
}

int blk_guest_check(struct blk_guest *guest, const struct blk_load *load, uint64_t seed)
{
	struct blk_load reading = *load;

	reading.write = false;
	return all_blocks(guest, &reading, seed);
}
