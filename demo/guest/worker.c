/* SPDX-License-Identifier: MIT */
/*
 * The load inside the demo's guest: writes blocks with a pattern to the disk, reads them back with
 * O_DIRECT and checks every word, while memory comes and goes.
 *
 * Each I/O thread owns a part of the disk, cut into slots. A block's pattern follows from its slot
 * and a version that the thread remembers, so a read that brings another block, an older version,
 * or bytes of somebody else's memory is seen. Buffers are mapped anew for each request: Linux takes
 * such pages from the Movable zone first, which is the plugged DIMM, and /proc/self/pagemap tells
 * how many of them really lie there. So the disk's back-end reads and writes the DIMM itself.
 *
 * The host speaks to us on a serial line, one command a line:
 *   dimm FIRST SIZE  a DIMM was plugged at this physical address: count what lies in it
 *   use              fill memory, more than there was before the DIMM
 *   free             check what was filled, and give back all but a few MiB
 *   keep             read blocks into a buffer that stays, again and again, and check each a round
 *                    later: what the back-end wrote must outlive what happens to the machine
 *                    meanwhile
 *   lend             have the back-end read what was filled, from where it is, a page here and
 * there: nobody in the guest has touched it since random           read 64 KiB from the hardware's
 * random numbers stop             end the load and check the whole disk and is told lines of `word
 * key=value …`; a `stat` line comes every 200 ms.
 *
 * Threads: the main one reads commands; `threads` I/O threads; one that keeps; one that prints
 * `stat`. The hog
 * belongs to the main thread; the counters are relaxed atomics that order nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/fs.h>

#define PAGE 4096UL
#define THREADS 3
#define SLOT (256UL << 10)
#define MIB (1UL << 20)
#define RETIRED 32
#define KEEP (4 * MIB)		/* the buffer that stays; at the disk's end, two versions of it */
#define KEEP_CHUNK (64UL << 10) /* read at once */
#define LENT PAGE		/* before it: a place for a page that was lent */
#define LEND_STEP 8		/* pages of the hog from one that is lent to the next */
#define HOG_SPARE (64 * MIB)	/* left free, so that the guest never meets its OOM killer */
#define HOG_KEEP (8 * MIB) /* stays in use while the DIMM goes, so that the guest must move it */
#define HOG_STEP 512	   /* pages that are brought in at once */
#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_PFN ((1ULL << 55) - 1)

struct buffer {
	void *memory;
	uint64_t length;
};

struct io_thread {
	pthread_t thread;
	uint64_t first_slot, slots;
	uint64_t *version;	    /* of each slot; 0: never written */
	uint32_t *length;	    /* of each slot's block, in bytes */
	uint64_t random;	    /* state of next_random() */
	struct buffer old[RETIRED]; /* used ones that are not unmapped yet, as a ring */
	uint64_t retired;
};

static int disk, pagemap;
static atomic_bool stopping;
/* page frame numbers, inclusive; none: first > last */
static _Atomic uint64_t dimm_first, dimm_last;
static _Atomic uint64_t chunks_kept; /* verified a round after they were read */
static _Atomic uint64_t blocks_ok, blocks_bad, io_errors, flushes;
static _Atomic uint64_t dimm_blocks; /* verified reads whose buffer lay in the DIMM */
static uint64_t *hog;
static uint64_t hog_length;

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* The words of a block are seed, seed + step, seed + 2 * step …: cheap, and each tells its place.
 */
static uint64_t seed_of(uint64_t slot, uint64_t version)
{
	return (slot + 1) * 0x9e3779b97f4a7c15ULL ^ version * 0xc2b2ae3d27d4eb4fULL;
}

#define STEP 0xd6e8feb86659fd93ULL

static void fill(uint64_t *words, uint64_t length, uint64_t seed)
{
	for (uint64_t i = 0; i < length / 8; i++)
		words[i] = seed + i * STEP;
}

/* The index of the first wrong word, or -1. */
static int64_t first_wrong(const uint64_t *words, uint64_t length, uint64_t seed)
{
	for (uint64_t i = 0; i < length / 8; i++)
		if (words[i] != seed + i * STEP)
			return (int64_t)i;
	return -1;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	char line[256];
	va_list ap;
	int length;

	va_start(ap, format);
	length = vsnprintf(line, sizeof(line) - 1, format, ap);
	va_end(ap);
	if (length < 0)
		return;
	if ((size_t)length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	/* one write, so that lines of two threads do not mix */
	if (write(STDOUT_FILENO, line, (size_t)length) < 0)
		exit(1);
}

/* How many of these pages lie in the DIMM; 0 when none is plugged. */
static uint64_t pages_in_dimm(const void *memory, uint64_t length)
{
	uint64_t entries[SLOT / PAGE],
		first = atomic_load_explicit(&dimm_first, memory_order_relaxed),
		last = atomic_load_explicit(&dimm_last, memory_order_relaxed), count = 0;

	if (first > last)
		return 0;
	for (uint64_t done = 0; done < length;) {
		uint64_t pages = (length - done) / PAGE;
		ssize_t got;

		if (pages > SLOT / PAGE)
			pages = SLOT / PAGE;
		got = pread(pagemap, entries, pages * 8,
			    (off_t)(((uintptr_t)memory + done) / PAGE * 8));
		if (got <= 0)
			break;
		for (uint64_t i = 0; i < (uint64_t)got / 8; i++) {
			uint64_t pfn = entries[i] & PAGEMAP_PFN;

			if ((entries[i] & PAGEMAP_PRESENT) && pfn >= first && pfn <= last)
				count++;
		}
		done += (uint64_t)got / 8 * PAGE;
	}
	return count;
}

static void *map_fresh(uint64_t length)
{
	void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

/* Unmaps it some requests later: the pages differ from one request to the next, all over the DIMM.
 */
static void retire(struct io_thread *t, void *memory, uint64_t length)
{
	struct buffer *oldest = &t->old[t->retired++ % RETIRED];

	if (oldest->memory)
		munmap(oldest->memory, oldest->length);
	oldest->memory = memory;
	oldest->length = length;
}

static void write_slot(struct io_thread *t, uint64_t slot)
{
	uint64_t length = (1 + next_random(&t->random) % (SLOT / PAGE)) * PAGE;
	uint64_t version = t->version[slot] + 1;
	uint64_t *buffer = map_fresh(length);

	if (!buffer)
		return;
	fill(buffer, length, seed_of(t->first_slot + slot, version));
	if (pwrite(disk, buffer, length, (off_t)((t->first_slot + slot) * SLOT)) ==
	    (ssize_t)length) {
		t->version[slot] = version;
		t->length[slot] = (uint32_t)length;
	} else {
		say("error write slot=%llu length=%llu errno=%d",
		    (unsigned long long)(t->first_slot + slot), (unsigned long long)length, errno);
		atomic_fetch_add_explicit(&io_errors, 1, memory_order_relaxed);
		t->version[slot] = 0; /* what is there now is not known */
	}
	retire(t, buffer, length);
}

static void read_slot(struct io_thread *t, uint64_t slot)
{
	uint64_t length = t->length[slot], in_dimm;
	uint64_t *buffer;
	int64_t wrong;

	if (!t->version[slot])
		return;
	buffer = map_fresh(length);
	if (!buffer)
		return;
	in_dimm = pages_in_dimm(buffer, length);
	if (pread(disk, buffer, length, (off_t)((t->first_slot + slot) * SLOT)) !=
	    (ssize_t)length) {
		say("error read slot=%llu length=%llu errno=%d",
		    (unsigned long long)(t->first_slot + slot), (unsigned long long)length, errno);
		atomic_fetch_add_explicit(&io_errors, 1, memory_order_relaxed);
		retire(t, buffer, length);
		return;
	}
	wrong = first_wrong(buffer, length, seed_of(t->first_slot + slot, t->version[slot]));
	if (wrong < 0) {
		atomic_fetch_add_explicit(&blocks_ok, 1, memory_order_relaxed);
		if (in_dimm)
			atomic_fetch_add_explicit(&dimm_blocks, 1, memory_order_relaxed);
	} else {
		say("bad slot=%llu version=%llu length=%llu byte=%lld found=%#llx",
		    (unsigned long long)(t->first_slot + slot),
		    (unsigned long long)t->version[slot], (unsigned long long)length,
		    (long long)wrong * 8, (unsigned long long)buffer[wrong]);
		atomic_fetch_add_explicit(&blocks_bad, 1, memory_order_relaxed);
	}
	retire(t, buffer, length);
}

static void *run_io(void *arg)
{
	struct io_thread *t = arg;

	for (uint64_t n = 0; !atomic_load_explicit(&stopping, memory_order_relaxed); n++) {
		uint64_t slot = next_random(&t->random) % t->slots;

		write_slot(t, slot);
		read_slot(t, slot);
		read_slot(t, next_random(&t->random) % t->slots); /* an older one */
		if (n % 64 == 0 && fdatasync(disk) == 0)
			atomic_fetch_add_explicit(&flushes, 1, memory_order_relaxed);
	}
	for (uint64_t slot = 0; slot < t->slots; slot++)
		read_slot(t, slot);
	return NULL;
}

static bool write_kept(uint64_t first, uint64_t *buffer, uint64_t version)
{
	fill(buffer, KEEP, seed_of(version, 77));
	return pwrite(disk, buffer, KEEP, (off_t)(first + version * KEEP)) == (ssize_t)KEEP;
}

/* The word at @at of the buffer, when it has this version. */
static uint64_t kept_seed(uint64_t version, uint64_t at)
{
	return seed_of(version, 77) + at / 8 * STEP;
}

/*
 * Two versions of a region are read by turns, so that a chunk which misses what was written last
 * has the other version. Between the read and the check the processor only looks at the buffer.
 */
static void *run_keep(void *arg)
{
	const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
	uint64_t first = *(const uint64_t *)arg, version = 1;
	uint64_t *buffer = map_fresh(KEEP);

	if (!buffer || !write_kept(first, buffer, 0) || !write_kept(first, buffer, 1)) {
		say("error keep errno=%d", errno);
		atomic_fetch_add_explicit(&io_errors, 1, memory_order_relaxed);
		return NULL;
	}
	for (; !atomic_load_explicit(&stopping, memory_order_relaxed); version = !version) {
		for (uint64_t at = 0; at < KEEP; at += KEEP_CHUNK) {
			uint64_t *chunk = buffer + at / 8;
			int64_t wrong = first_wrong(chunk, KEEP_CHUNK, kept_seed(version, at));

			if (wrong < 0) {
				atomic_fetch_add_explicit(&chunks_kept, 1, memory_order_relaxed);
			} else {
				say("bad keep version=%llu byte=%llu found=%#llx",
				    (unsigned long long)version,
				    (unsigned long long)at + (uint64_t)wrong * 8,
				    (unsigned long long)chunk[wrong]);
				atomic_fetch_add_explicit(&blocks_bad, 1, memory_order_relaxed);
			}
			if (pread(disk, chunk, KEEP_CHUNK, (off_t)(first + !version * KEEP + at)) !=
			    (ssize_t)KEEP_CHUNK)
				atomic_fetch_add_explicit(&io_errors, 1, memory_order_relaxed);
			nanosleep(&pause, NULL);
		}
	}
	return NULL;
}

static uint64_t meminfo(const char *key)
{
	char line[128];
	uint64_t kib = 0;
	FILE *file = fopen("/proc/meminfo", "r");

	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
			kib = strtoull(line + strlen(key) + 1, NULL, 10);
	fclose(file);
	return kib;
}

static void say_counters(const char *word)
{
	say("%s mem=%llu free=%llu ok=%llu bad=%llu errors=%llu flushes=%llu dimm=%llu kept=%llu",
	    word, (unsigned long long)meminfo("MemTotal"),
	    (unsigned long long)meminfo("MemAvailable"),
	    (unsigned long long)atomic_load_explicit(&blocks_ok, memory_order_relaxed),
	    (unsigned long long)atomic_load_explicit(&blocks_bad, memory_order_relaxed),
	    (unsigned long long)atomic_load_explicit(&io_errors, memory_order_relaxed),
	    (unsigned long long)atomic_load_explicit(&flushes, memory_order_relaxed),
	    (unsigned long long)atomic_load_explicit(&dimm_blocks, memory_order_relaxed),
	    (unsigned long long)atomic_load_explicit(&chunks_kept, memory_order_relaxed));
}

static void *run_stat(void *arg)
{
	const struct timespec pause = {.tv_nsec = 200 * 1000 * 1000};

	while (!atomic_load_explicit(&stopping, memory_order_relaxed)) {
		say_counters("stat");
		nanosleep(&pause, NULL);
	}
	return arg;
}

/*
 * Each page of the hog has 8 words of its own. They are brought in step by step: all at once would
 * keep the I/O threads from mapping their buffers meanwhile.
 */
static void fill_hog(void)
{
	for (uint64_t page = 0; page < hog_length / PAGE; page++) {
		if (page % HOG_STEP == 0) {
			uint64_t left = hog_length / PAGE - page;

			madvise((char *)hog + page * PAGE,
				(left < HOG_STEP ? left : HOG_STEP) * PAGE, MADV_POPULATE_WRITE);
		}
		fill(hog + page * PAGE / 8, 64, seed_of(page, 0));
	}
}

/* Checks what is in the hog and gives back all but the first @keep bytes of it. */
static void shrink_hog(uint64_t keep)
{
	if (!hog)
		return;
	for (uint64_t page = 0; page < hog_length / PAGE; page++) {
		if (first_wrong(hog + page * PAGE / 8, 64, seed_of(page, 0)) < 0)
			continue;
		say("bad memory page=%llu found=%#llx", (unsigned long long)page,
		    (unsigned long long)hog[page * PAGE / 8]);
		atomic_fetch_add_explicit(&blocks_bad, 1, memory_order_relaxed);
	}
	if (keep < hog_length) {
		munmap((char *)hog + keep, hog_length - keep);
		hog_length = keep;
	}
	if (!keep)
		hog = NULL;
}

/* A page goes from the hog to the disk by itself; what came there is read into another one. */
static void lend_hog(uint64_t place)
{
	static uint64_t back[PAGE / 8] __attribute__((aligned(4096)));
	uint64_t lent = 0;

	for (uint64_t page = 0; page < hog_length / PAGE; page += LEND_STEP) {
		if (pwrite(disk, hog + page * PAGE / 8, PAGE, (off_t)place) != (ssize_t)PAGE ||
		    pread(disk, back, PAGE, (off_t)place) != (ssize_t)PAGE) {
			atomic_fetch_add_explicit(&io_errors, 1, memory_order_relaxed);
			continue;
		}
		lent++;
		if (first_wrong(back, 64, seed_of(page, 0)) < 0)
			continue;
		say("bad lent page=%llu found=%#llx", (unsigned long long)page,
		    (unsigned long long)back[0]);
		atomic_fetch_add_explicit(&blocks_bad, 1, memory_order_relaxed);
	}
	say("lent pages=%llu", (unsigned long long)lent);
}

static void watch_dimm(uint64_t first, uint64_t size)
{
	atomic_store_explicit(&dimm_last, (first + size - 1) / PAGE, memory_order_relaxed);
	atomic_store_explicit(&dimm_first, first / PAGE, memory_order_relaxed);
	say_counters("watching");
}

/* Fills most of what is free; more than there was before the plug, so the DIMM must be in it. */
static void use_dimm(void)
{
	uint64_t available, length;
	void *memory;

	shrink_hog(0);
	available = meminfo("MemAvailable") << 10;
	length =
		available > HOG_SPARE + HOG_KEEP ? (available - HOG_SPARE) / PAGE * PAGE : HOG_KEEP;
	memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		say("error use: no memory");
		return;
	}
	hog = memory;
	hog_length = length;
	fill_hog();
	say("used bytes=%llu in_dimm=%llu", (unsigned long long)length,
	    (unsigned long long)pages_in_dimm(hog, length) * PAGE);
}

static void read_random(void)
{
	static unsigned char bytes[64 << 10];
	bool seen[256] = {false};
	size_t have = 0;
	unsigned distinct = 0;
	int fd = open("/dev/hwrng", O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && have < sizeof(bytes)) {
		ssize_t got = read(fd, bytes + have, sizeof(bytes) - have);

		if (got <= 0)
			break;
		have += (size_t)got;
	}
	if (fd >= 0)
		close(fd);
	for (size_t i = 0; i < have; i++) {
		distinct += !seen[bytes[i]];
		seen[bytes[i]] = true;
	}
	say("random bytes=%zu distinct=%u", have, distinct);
}

static void prepare(struct io_thread *t, uint64_t number, uint64_t slots)
{
	t->first_slot = number * slots;
	t->slots = slots;
	t->random = (number + 1) * 0x2545f4914f6cdd1dULL;
	t->version = calloc(slots, sizeof(*t->version));
	t->length = calloc(slots, sizeof(*t->length));
	if (!t->version || !t->length || pthread_create(&t->thread, NULL, run_io, t)) {
		say("error start: no memory");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static struct io_thread threads[THREADS];
	pthread_t stat_thread, keep_thread;
	uint64_t disk_size, keep_first;
	bool keeps = false;
	char line[128];

	if (argc != 2) {
		fprintf(stderr, "usage: worker DISK\n");
		return 2;
	}
	disk = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (disk < 0 || pagemap < 0 || ioctl(disk, BLKGETSIZE64, &disk_size) < 0) {
		say("error open %s: errno=%d", argv[1], errno);
		return 1;
	}
	atomic_store_explicit(&dimm_first, 1, memory_order_relaxed);
	say_counters("ready");
	for (uint64_t i = 0; i < THREADS; i++)
		prepare(&threads[i], i, (disk_size - 2 * KEEP - LENT) / SLOT / THREADS);
	keep_first = disk_size - 2 * KEEP;
	if (pthread_create(&stat_thread, NULL, run_stat, NULL))
		return 1;
	while (fgets(line, sizeof(line), stdin)) {
		char *rest = line + 4;
		uint64_t first;

		if (!strncmp(line, "dimm", 4)) {
			first = strtoull(rest, &rest, 0);
			watch_dimm(first, strtoull(rest, NULL, 0));
		} else if (!strncmp(line, "use", 3)) {
			use_dimm();
		} else if (!strncmp(line, "free", 4)) {
			shrink_hog(HOG_KEEP);
			say_counters("freed");
		} else if (!strncmp(line, "keep", 4) && !keeps) {
			keeps = !pthread_create(&keep_thread, NULL, run_keep, &keep_first);
			say_counters("keeping");
		} else if (!strncmp(line, "lend", 4)) {
			lend_hog(keep_first - LENT);
		} else if (!strncmp(line, "random", 6)) {
			read_random();
		} else if (!strncmp(line, "stop", 4)) {
			break;
		}
	}
	atomic_store_explicit(&stopping, true, memory_order_relaxed);
	for (uint64_t i = 0; i < THREADS; i++)
		pthread_join(threads[i].thread, NULL);
	pthread_join(stat_thread, NULL);
	if (keeps)
		pthread_join(keep_thread, NULL);
	shrink_hog(0);
	say_counters("done");
	return 0;
}
