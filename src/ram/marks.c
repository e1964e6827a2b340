/* SPDX-License-Identifier: MIT */
/*
 * The logs of writes; <guestram/mark.h> says what they are and how they are ordered.
 *
 * A log covers all addresses that the kernel gives to a process that does not ask for more, with
 * one bit for 4 KiB (or 1 KiB): 4 (16) GiB of reservation on x86-64, which has memory only where
 * bits were set. It is not put away at its last close, since a mark may still be writing to it; its
 * memory is.
 *
 * Threads: opening and closing under `lock`; marking and taking take none. Taking clears a bit
 * before the page is read, marking sets it after the page is written: a write is therefore either
 * in what the taker reads, or marked for the next one.
 */
#include "ram/marks.h"
#include "base/bits.h"
#include "base/error.h"
#include "os/barrier.h"
#include "os/memory.h"
#include "ram/ram.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Addresses that mmap() gives without being asked for higher ones. */
#if defined(__aarch64__)
#define ADDRESS_BITS 48
#else
#define ADDRESS_BITS 47
#endif

struct gr__marks gr__marks;

struct log {
	unsigned shift;
	unsigned users;	   /* wr: lock */
	void *reservation; /* wr: lock: once it is made it stays */
	uintptr_t *shown;  /* what marks look at */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct log logs[] = {
	{.shift = GR__MARK_SHIFT, .shown = &gr__marks.log},
	{.shift = GR__MARK_FINE_SHIFT, .shown = &gr__marks.fine},
};
static bool has_barrier; /* wr: lock, at the first open */

static struct log *log_of(unsigned shift)
{
	return shift == GR__MARK_SHIFT ? &logs[0] : &logs[1];
}

static uint64_t log_bytes(const struct log *log)
{
	return UINT64_C(1) << (ADDRESS_BITS - log->shift - 3);
}

/* ------------------------------------------------------------------------------- open, close */

static int reserve(struct log *log)
{
	int rc = gr__os_map(log_bytes(log), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, &log->reservation);

	if (rc < 0)
		return gr__fail(rc, "dirty: %llu MiB of address space for the log of writes: %s",
				(unsigned long long)(log_bytes(log) >> 20), strerrordesc_np(-rc));
	/* best effort: a huge page would stand for a GiB of bits that nobody sets */
	gr__os_advise(log->reservation, log_bytes(log), MADV_NOHUGEPAGE);
	gr__os_advise(log->reservation, log_bytes(log), MADV_DONTDUMP);
	gr__os_name(log->reservation, log_bytes(log), "guestram marks");
	return 0;
}

int gr__marks_open(unsigned shift)
{
	struct log *log = log_of(shift);
	int rc = 0;

	pthread_mutex_lock(&lock);
	if (!log->reservation) {
		has_barrier = gr__os_barrier_init();
		rc = reserve(log);
	}
	if (!rc && !log->users++) {
		if (shift != GR__MARK_SHIFT || !has_barrier)
			__atomic_store_n(&gr__marks.slow, 1, __ATOMIC_RELAXED);
		/* release: the log is there for whoever sees it */
		__atomic_store_n(log->shown, (uintptr_t)log->reservation, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&lock);
	/* whoever saw none was in a section that began before */
	if (!rc)
		gr__synchronize();
	return rc;
}

void gr__marks_close(unsigned shift)
{
	struct log *log = log_of(shift);
	bool last;

	pthread_mutex_lock(&lock);
	last = !--log->users;
	if (last) {
		__atomic_store_n(log->shown, 0, __ATOMIC_RELAXED);
		if (shift != GR__MARK_SHIFT && has_barrier)
			__atomic_store_n(&gr__marks.slow, 0, __ATOMIC_RELAXED);
		/* under the lock, so that no other open comes between; no section takes it */
		gr__synchronize();
		gr__os_advise(log->reservation, log_bytes(log), MADV_DONTNEED);
	}
	pthread_mutex_unlock(&lock);
}

bool gr__marks_reach(uintptr_t last)
{
	return !(last >> ADDRESS_BITS);
}

/* -------------------------------------------------------------------------------------- mark */

/* release: as in gr_mark_host() */
static inline void set_some(uint64_t *word, uint64_t bits)
{
	if ((__atomic_load_n(word, __ATOMIC_RELAXED) & bits) != bits)
		__atomic_fetch_or(word, bits, __ATOMIC_RELEASE);
}

/* Units [first, last]. Whole words are stored: nobody can set more bits than all. */
static void set_bits(uint64_t *words, uint64_t first, uint64_t last)
{
	uint64_t at = first >> 6, end = (last + 1) >> 6; /* no address is that high that it wraps */

	if (at == last >> 6 && last - first < 63) {
		set_some(&words[at], (~UINT64_C(0) >> (63 - (last - first))) << (first & 63));
		return;
	}
	if (first & 63)
		set_some(&words[at++], ~UINT64_C(0) << (first & 63));
	for (; at < end; at++)
		if (__atomic_load_n(&words[at], __ATOMIC_RELAXED) != ~UINT64_C(0))
			__atomic_store_n(&words[at], ~UINT64_C(0), __ATOMIC_RELEASE);
	if ((last + 1) & 63)
		set_some(&words[end], ~UINT64_C(0) >> (63 - (last & 63)));
}

void gr__mark_slow(const void *host, uint64_t length)
{
	uintptr_t log = __atomic_load_n(&gr__marks.log, __ATOMIC_RELAXED);
	uintptr_t fine = __atomic_load_n(&gr__marks.fine, __ATOMIC_RELAXED);
	uint64_t first = (uintptr_t)host, last;

	if (!length || __builtin_add_overflow(first, length - 1, &last) || !gr__marks_reach(last))
		return;
	if (gr_unlikely(__atomic_load_n(&gr__marks.slow, __ATOMIC_RELAXED)) && !has_barrier)
		__atomic_thread_fence(
			__ATOMIC_SEQ_CST); /* the data's store before the bit's load */
	else
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
	if (log)
		set_bits((uint64_t *)log, first >> GR__MARK_SHIFT,
			 last >> GR__MARK_SHIFT); /* NOLINT */
	if (fine)
		set_bits((uint64_t *)fine, first >> GR__MARK_FINE_SHIFT, /* NOLINT */
			 last >> GR__MARK_FINE_SHIFT);
}

void gr__mark_block(struct gr_block *block, uint64_t offset, uint64_t length)
{
	if (block->mem.host)	     /* else seen through windows: not tracked */
		if (block->mem.host) /* what is seen through windows is not noted */
			gr_mark_host((char *)block->mem.host + offset, length);
}

/* -------------------------------------------------------------------------------------- take */

void gr__marks_take(unsigned shift, const struct gr_block *block, uint64_t offset, uint64_t length,
		    gr__marks_fn fn, void *context)
{
	const struct log *log = log_of(shift);
	uintptr_t words_at = __atomic_load_n(log->shown, __ATOMIC_RELAXED);
	uint64_t *words = (uint64_t *)words_at; /* NOLINT: the caller has it open, if it is */
	uint64_t host = (uintptr_t)block->mem.host + offset;
	uint64_t first = host >> shift, last = (host + (length - 1)) >> shift;
	uint64_t at, end = last >> 6, mask, bits;

	if (!words || !length || !block->mem.host)
		return;
	for (at = first >> 6; at <= end; at++) {
		if (!__atomic_load_n(&words[at], __ATOMIC_RELAXED))
			continue; /* nearly always; a bit that comes now is the next taker's */
		mask = gr__bits_mask(at, first, last);
		/* acquire: pairs with the release of the mark */
		bits = __atomic_fetch_and(&words[at], ~mask, __ATOMIC_ACQ_REL) & mask;
		if (!bits || !fn)
			continue;
		if (at == first >> 6)
			fn(context, 0, bits >> (first & 63));
		else
			fn(context, at * 64 - first, bits);
	}
}

void gr__marks_settle(void)
{
	if (has_barrier)
		gr__os_barrier();
	else
		__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with that of gr__mark_slow() */
}
