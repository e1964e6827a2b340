/* SPDX-License-Identifier: MIT */
/*
 * A disk of `guestram serve blk` under load for a long time: every byte that is read is compared,
 * regions of memory are plugged and unplugged with requests in them, tables are replaced,
 * front-ends come and go, and calls of the server fail by chance (preload.c).
 *
 *   soak_disk PROGRAM PRELOAD uring|plain SECONDS SEED
 *
 * Prints one JSON object; exit status 1 when anything was wrong. What is judged:
 *  - what was written is read, and at the end all of the disk is what was written last;
 *  - as many requests fail as calls on the disk were made to fail, and none else;
 *  - between front-ends the server has the descriptors, mappings and blocks that it had at first,
 * no request and no pin; its resident memory stays where it was after the first tenth of the time.
 *
 * Threads: main changes memory and is the only one to send messages; one for each of LOADS queues.
 * What they share is atomic.
 */
#include "backend.h"
#include "control.h"
#include "frontend.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RAM (UINT64_C(32) << 20)
#define ALL (FE_F_EVENT_IDX | FE_F_INDIRECT | 0xffffffu)
#define REGIONS 8
#define REGION_SIZE (UINT64_C(2) << 20)
#define EXTRA_GPA UINT64_C(0x200000000)
#define EXTRA_UADDR UINT64_C(0x700000000000)
#define SLACK_KIB 4096
#define ROUND_S 5 /* how long one front-end stays */

enum { LOADS = 2, DEPTH = 16, SLOT = 8192, SECTOR = 512 };

#define FAULTS                                                                                     \
	(FAULT_BIT(preadv64) | FAULT_BIT(pwritev64v2) | FAULT_BIT(fdatasync) |                     \
	 FAULT_BIT(io_uring_peek_batch_cqe) | FAULT_BIT(epoll_wait) | FAULT_BIT(recvmsg) |         \
	 FAULT_BIT(sendmsg) | FAULT_BIT(accept4) | FAULT_BIT(poll) | FAULT_BIT(read) |             \
	 FAULT_BIT(write) | FAULT_BIT(send))

static struct be be;
static struct fe fe;
static struct fault_control *control;
static char control_path[64];
static uint64_t requests, bytes, io_errors, plugs, tables, front_ends, refused; /* atomic */
static bool round_over;								/* atomic */
static unsigned wrong;								/* atomic */
static char first_wrong[256];							/* of the first */
static pthread_mutex_t wrong_lock = PTHREAD_MUTEX_INITIALIZER;

static void add(uint64_t *counter, uint64_t more)
{
	__atomic_add_fetch(counter, more, __ATOMIC_RELAXED);
}

__attribute__((format(printf, 1, 2))) static void be_wrong(const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&wrong_lock);
	if (!__atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED)) {
		va_start(args, format);
		vsnprintf(first_wrong, sizeof(first_wrong), format, args);
		va_end(args);
	}
	pthread_mutex_unlock(&wrong_lock);
}

static bool is_wrong(void)
{
	return __atomic_load_n(&wrong, __ATOMIC_RELAXED);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ------------------------------------------------------------------------------------ load */

/* A slot of the disk and of memory: what was written there last, what is read next. */
struct slot {
	uint64_t version; /* 0: never written; zeroes */
	bool writing;	  /* the request in flight, or the next */
	bool dirty;	  /* a write has failed: what stands there is not known */
};

struct load {
	unsigned index; /* and of its queue */
	pthread_t thread;
	uint64_t random;
	struct slot slots[DEPTH]; /* over all front-ends: the disk keeps what it has */
};

static struct load loads[LOADS];

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static uint64_t word_at(const struct load *load, unsigned i, uint64_t version, size_t word)
{
	return version ? mix(version << 32 ^ (uint64_t)load->index << 24 ^ i << 16 ^ word) : 0;
}

static uint64_t slot_offset(const struct load *load, unsigned i)
{
	return ((uint64_t)load->index * DEPTH + i) * SLOT;
}

static uint64_t *memory_of(const struct load *load, unsigned i)
{
	return (uint64_t *)(fe.mem + FE_DATA + (UINT64_C(1) << 20) + slot_offset(load, i));
}

static uint64_t meta_of(const struct load *load, unsigned i)
{
	return FE_DATA + ((uint64_t)load->index * DEPTH + i) * 32;
}

static void submit(struct load *load, unsigned i)
{
	struct slot *slot = &load->slots[i];
	uint64_t *memory = memory_of(load, i);
	uint64_t gpa = FE_GPA + (uint64_t)((uint8_t *)memory - fe.mem);
	/* in two pieces of odd sizes */
	uint32_t first = 512 + (uint32_t)(mix(load->random++) % (SLOT - 1024));
	struct fe_buf data[2] = {{gpa, first, !slot->writing},
				 {gpa + first, SLOT - first, !slot->writing}};
	int rc;

	if (slot->writing)
		slot->version++;
	for (size_t k = 0; k < SLOT / 8; k++)
		memory[k] = slot->writing ? word_at(load, i, slot->version, k) : ~UINT64_C(0);
	rc = fe_blk_submit(&fe.queues[load->index], meta_of(load, i),
			   slot->writing ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
			   slot_offset(load, i) / SECTOR, data, 2, i);
	if (rc)
		be_wrong("a request is not taken: %d", rc);
}

static void check_read(const struct load *load, unsigned i)
{
	const uint64_t *memory = memory_of(load, i);

	for (size_t k = 0; k < SLOT / 8; k++)
		if (memory[k] != word_at(load, i, load->slots[i].version, k)) {
			be_wrong("queue %u, slot %u, version %" PRIu64 ", word %zu: %#" PRIx64,
				 load->index, i, load->slots[i].version, k, memory[k]);
			return;
		}
}

/* One of them has ended; what comes next for the slot. */
static void ended(struct load *load, unsigned i)
{
	struct slot *slot = &load->slots[i];
	uint8_t status = fe_blk_status(&fe, meta_of(load, i));

	add(&requests, 1);
	if (status == VIRTIO_BLK_S_OK) {
		add(&bytes, SLOT);
		if (!slot->writing)
			check_read(load, i);
		slot->dirty = false;
		slot->writing = !(mix(load->random++) % 3);
		return;
	}
	add(&io_errors, 1);
	if (status != VIRTIO_BLK_S_IOERR)
		be_wrong("queue %u, slot %u: status %u", load->index, i, status);
	/* a write that failed is made again, a read too */
	slot->dirty = slot->writing;
}

static void *run_load(void *arg)
{
	struct load *load = arg;
	struct fe_queue *q = &fe.queues[load->index];
	unsigned flying = DEPTH;

	for (unsigned i = 0; i < DEPTH; i++)
		submit(load, i);
	fe_kick(q);
	while (flying) {
		uint64_t i = 0;

		if (fe_wait(q, 6 * FE_TIMEOUT_MS, &i, NULL) != 1 || i >= DEPTH) {
			be_wrong("queue %u: %u requests have no answer", load->index, flying);
			return NULL;
		}
		ended(load, (unsigned)i);
		/* what failed is made good before the front-end leaves */
		if ((__atomic_load_n(&round_over, __ATOMIC_RELAXED) && !load->slots[i].dirty) ||
		    is_wrong()) {
			flying--;
			continue;
		}
		submit(load, (unsigned)i);
		fe_kick(q);
	}
	return NULL;
}

/* ----------------------------------------------------------------------------- memory's changes */

/* Requests into a region that goes at once: read before, or refused; never anything else. */
static void plug_and_unplug(unsigned at, int memory)
{
	struct fe_region region = {EXTRA_GPA + at * REGION_SIZE, REGION_SIZE,
				   EXTRA_UADDR + at * REGION_SIZE, 0};
	struct fe_queue *q = &fe.queues[LOADS];
	uint64_t meta = FE_DATA - 8192;
	int rc = fe_add_region(&fe, &region, memory);

	for (unsigned i = 0; i < 4 && !rc; i++) {
		struct fe_buf data = {region.gpa + i * (uint64_t)SLOT, SLOT, true};

		rc = fe_blk_submit(q, meta + 32 * i, VIRTIO_BLK_T_IN, 0, &data, 1, i);
	}
	if (!rc) {
		fe_kick(q);
		rc = fe_remove_region(&fe, &region, -1);
	}
	for (unsigned i = 0; i < 4 && !rc; i++) {
		uint64_t which = 0;

		rc = fe_wait(q, 6 * FE_TIMEOUT_MS, &which, NULL) == 1 ? 0 : -ETIMEDOUT;
		if (rc)
			break;
		add(&requests, 1);
		if (fe_blk_status(&fe, meta + 32 * which) == VIRTIO_BLK_S_IOERR)
			add(&io_errors, 1);
		else
			add(&bytes, SLOT);
	}
	if (rc)
		be_wrong("plug and unplug: %d", rc);
	add(&plugs, 1);
}

/* ------------------------------------------------------------------------------------- rounds */

/* Its own: guest memory is resident as far as it was touched since it was mapped last. */
static long resident_kib(void)
{
	char path[64], line[256];
	long kib = -1;
	FILE *file;

	/* what the C library keeps for later, after a time with much pending, is no leak */
	__atomic_store_n(&control->trim, 1, __ATOMIC_RELEASE);
	for (int tries = 0; tries < 1000 && __atomic_load_n(&control->trim, __ATOMIC_ACQUIRE);
	     tries++)
		be_status(&be, "blocks"); /* it makes a call */
	snprintf(path, sizeof(path), "/proc/%d/status", (int)be.pid);
	file = fopen(path, "re");
	if (!file)
		return -1;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "RssAnon: %ld", &kib) == 1)
			break;
	fclose(file);
	return kib;
}

static void one_front_end(double until, int memory)
{
	int rc = front_ends ? fe_reconnect(&fe, be.sock) : 0;

	if (!rc)
		rc = fe_start(&fe, LOADS + 1, 64, ALL);
	if (rc) {
		be_wrong("a front-end cannot start: %d", rc);
		return;
	}
	add(&front_ends, 1);
	__atomic_store_n(&round_over, false, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < LOADS; i++)
		if (pthread_create(&loads[i].thread, NULL, run_load, &loads[i]))
			exit(2);
	for (unsigned i = 0; now() < until && !is_wrong(); i++) {
		plug_and_unplug(i % REGIONS, memory);
		if (i % 50 == 49) {
			if (fe_set_table(&fe))
				be_wrong("a table is refused");
			add(&tables, 1);
		}
	}
	__atomic_store_n(&round_over, true, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < LOADS; i++)
		pthread_join(loads[i].thread, NULL);
	for (unsigned i = 0; i < LOADS + 1; i++)
		if (!is_wrong() && fe_queue_stop(&fe.queues[i], NULL))
			be_wrong("queue %u does not stop", i);
}

/* What the server holds while there is a front-end and nothing to do. */
struct holdings {
	int fds, maps;
	long long blocks, pins, in_flight;
};

static struct holdings take_holdings(void)
{
	be_wait_reclaimed(&be);
	be_wait_zero(&be, "pins");
	return (struct holdings){be_fds(&be), be_guest_maps(&be), be_status(&be, "blocks"),
				 be_status(&be, "pins"), be_status(&be, "in_flight")};
}

static void check_holdings(const struct holdings *first)
{
	struct holdings now = take_holdings();

	if (now.fds != first->fds || now.maps != first->maps || now.blocks != first->blocks ||
	    now.pins || now.in_flight)
		be_wrong("%d descriptors (%d), %d mappings (%d), %lld blocks (%lld), %lld pins, "
			 "%lld in flight",
			 now.fds, first->fds, now.maps, first->maps, now.blocks, first->blocks,
			 now.pins, now.in_flight);
}

/* The image itself, at the end. */
static void check_disk(void)
{
	static uint64_t words[SLOT / 8];
	int fd = open(be.image, O_RDONLY | O_CLOEXEC);

	for (unsigned k = 0; k < LOADS; k++)
		for (unsigned i = 0; i < DEPTH; i++) {
			if (pread(fd, words, SLOT, (off_t)slot_offset(&loads[k], i)) != SLOT)
				be_wrong("the image is too short");
			memcpy(memory_of(&loads[k], i), words, SLOT);
			check_read(&loads[k], i);
		}
	close(fd);
}

static void check_errors(void)
{
	uint64_t hard = __atomic_load_n(&control->hard_failed, __ATOMIC_SEQ_CST);
	long long bad = be_status(&be, "bad_requests");

	refused = (uint64_t)(bad > 0 ? bad : 0);
	if (bad < 0 || io_errors != hard + refused)
		be_wrong("%" PRIu64 " requests failed; %" PRIu64 " calls and %lld addresses had",
			 io_errors, hard, bad);
}

static int start(char **argv)
{
	static char option_io[] = "--io";
	char *extra[] = {option_io, argv[3], NULL}, *args[] = {argv[0], NULL, argv[1], NULL};
	static char ours[] = "guestram";
	int fd;

	args[1] = ours;
	be_args(3, args);
	strcpy(control_path, "/tmp/guestram-soak-XXXXXX");
	fd = mkostemp(control_path, O_CLOEXEC);
	if (fd < 0 || ftruncate(fd, sizeof(*control)))
		return -1;
	control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED || setenv("LD_PRELOAD", argv[2], 1) ||
	    setenv("GUESTRAM_FAULTS", control_path, 1) || be_start(&be, false, extra))
		return -1;
	unsetenv("LD_PRELOAD");
	return fe_open(&fe, be.sock, RAM);
}

static void report(double seconds, long grown)
{
	uint64_t faults = 0;

	for (unsigned i = 0; i < FAULT_COUNT; i++)
		faults += control->failed[i];
	printf("{\"seconds\": %.1f, \"requests\": %" PRIu64 ", \"bytes\": %" PRIu64
	       ", \"io_errors\": %" PRIu64 ", \"disk_faults\": %" PRIu64
	       ", \"refused_requests\": %" PRIu64 ", \"faults\": %" PRIu64 ", \"plugs\": %" PRIu64
	       ", \"tables\": %" PRIu64 ", \"front_ends\": %" PRIu64
	       ", \"rss_growth_kib\": %ld, \"wrong\": %u, \"first_wrong\": \"%s\"}\n",
	       seconds, requests, bytes, io_errors, control->hard_failed, refused, faults, plugs,
	       tables, front_ends, grown, wrong, first_wrong);
}

int main(int argc, char **argv)
{
	double begin = now(), seconds;
	struct holdings first = {0};
	long rss = -1, grown = 0;
	int memory, rc;

	if (argc != 6 || (seconds = strtod(argv[4], NULL)) < 1) {
		fprintf(stderr, "usage: %s PROGRAM PRELOAD uring|plain SECONDS SEED\n", argv[0]);
		return 2;
	}
	memory = memfd_create("front-end", MFD_CLOEXEC);
	if (memory < 0 || ftruncate(memory, (off_t)REGION_SIZE) || start(argv)) {
		fprintf(stderr, "%s: no server: %s\n", argv[0], strerror(errno));
		return 2;
	}
	for (unsigned i = 0; i < LOADS; i++) {
		loads[i].index = i;
		loads[i].random = mix(strtoull(argv[5], NULL, 0) + i);
		for (unsigned k = 0; k < DEPTH; k++)
			loads[i].slots[k].writing = true;
	}
	control->seed = strtoull(argv[5], NULL, 0);
	control->soft = 50;
	control->hard = 2000;
	__atomic_store_n(&control->calls, FAULTS, __ATOMIC_SEQ_CST);
	while (now() - begin < seconds && !is_wrong()) {
		double end = now() + ROUND_S;

		one_front_end(end < begin + seconds ? end : begin + seconds, memory);
		if (is_wrong())
			break;
		if (front_ends == 1)
			first = take_holdings();
		check_holdings(&first);
		if (rss < 0 && now() - begin >= seconds / 10)
			rss = resident_kib();
	}
	__atomic_store_n(&control->calls, 0, __ATOMIC_SEQ_CST);
	grown = resident_kib() - rss;
	if (!is_wrong()) {
		check_errors();
		check_disk();
		if (rss < 0 || grown > SLACK_KIB)
			be_wrong("resident memory grew by %ld KiB", grown);
	}
	if (!be_alive(&be))
		be_wrong("the server has died");
	fe_close(&fe);
	rc = be_stop(&be);
	if (rc)
		be_wrong("the server ended with %d", rc);
	report(now() - begin, grown);
	unlink(control_path);
	close(memory);
	return is_wrong() ? 1 : 0;
}
