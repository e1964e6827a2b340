/* SPDX-License-Identifier: MIT */
/*
 * See sigbus.h.
 *
 * The handler does only what may be done in one: atomic loads and stores, mmap(2), sigaction(2).
 *
 * Finding the guard. Each node is a sequence lock of its own: odd while its owner writes it, so
 * that a node which is being used again is never taken for one that covers the fault. The node that
 * does cover it is stable: its range is in use, or there would have been no fault.
 *
 * One replacement for each page. Several threads can fault on one page at once, and a zero page
 * that were mapped a second time would take the first thread's stores away. So each page has a bit:
 * who sets it maps the page, the others return, fault again, and come back until it is there.
 */
#include "os/sigbus.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include <errno.h>
#include <guestram.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WORD_BITS 64

struct gr__sigbus_guard {
	struct gr__sigbus_guard *next; /* const once published */
	atomic_uint taken;    /* a block owns the node; no byte, which riscv64 cannot swap */
	atomic_uint sequence; /* odd: being written; 0: never written */
	/* written by the owner between two steps of sequence, read by the handler */
	atomic_uintptr_t first, last; /* first > last: guards nothing */
	_Atomic uint64_t page_size;
	atomic_int protection;
	_Atomic(_Atomic uint64_t *) replaced; /* one bit for each page */
	_Atomic uint64_t lost;
};

/* The newest node; nodes are never freed. */
static _Atomic(struct gr__sigbus_guard *) newest;

static pthread_mutex_t install_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool installed;	  /* wr: install_lock */
static struct sigaction previous; /* wr: install_lock, before the handler is installed */

/* -------------------------------------------------------------------------- in the handler */

/* The range of a guard, as read in one piece. */
struct range {
	uintptr_t first, last;
	uint64_t page_size;
	int protection;
	_Atomic uint64_t *replaced;
};

static bool read_range(struct gr__sigbus_guard *guard, struct range *range)
{
	/* acquire: pairs with the release in end_write() */
	unsigned before = atomic_load_explicit(&guard->sequence, memory_order_acquire);

	if (before & 1)
		return false;
	range->first = atomic_load_explicit(&guard->first, memory_order_relaxed);
	range->last = atomic_load_explicit(&guard->last, memory_order_relaxed);
	range->page_size = atomic_load_explicit(&guard->page_size, memory_order_relaxed);
	range->protection = atomic_load_explicit(&guard->protection, memory_order_relaxed);
	range->replaced = atomic_load_explicit(&guard->replaced, memory_order_relaxed);
	/* The loads above come before the load below; pairs with the fence in begin_write(). */
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&guard->sequence, memory_order_relaxed) == before;
}

/* Put a zero page over the one at @addr, if that is in a guarded range. */
static bool replace_page(uintptr_t addr)
{
	/* acquire: pairs with the release in push_guard() */
	struct gr__sigbus_guard *guard = atomic_load_explicit(&newest, memory_order_acquire);
	struct range range;
	uint64_t page, bit;

	for (; guard; guard = guard->next)
		if (read_range(guard, &range) && range.first <= addr && addr <= range.last)
			break;
	if (!guard)
		return false;
	page = (addr - range.first) / range.page_size;
	bit = UINT64_C(1) << page % WORD_BITS;
	/* Relaxed: the bit decides who maps and orders nothing else; the page tables do. */
	if (atomic_fetch_or_explicit(&range.replaced[page / WORD_BITS], bit, memory_order_relaxed) &
	    bit)
		return true; /* another thread does it, or has done it */
	/*
	 * Small pages, also over a huge one: they cannot be exhausted as those can. The bare call,
	 * since a mmap() that somebody has put around it may do what a handler must not.
	 */
	if (syscall(SYS_mmap, range.first + page * range.page_size, range.page_size,
		    range.protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
		    0) == -1) {
		atomic_fetch_and_explicit(&range.replaced[page / WORD_BITS], ~bit,
					  memory_order_relaxed);
		return false;
	}
	atomic_fetch_add_explicit(&guard->lost, 1, memory_order_relaxed);
	return true;
}

/* Not ours: what would have happened without us. */
static void pass_on(int number, siginfo_t *info, void *context)
{
	struct sigaction fallback = {.sa_handler = SIG_DFL};

	if (previous.sa_flags & SA_SIGINFO) {
		previous.sa_sigaction(number, info, context);
		return;
	}
	if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
		previous.sa_handler(number);
		return;
	}
	/* si_code > 0: raised by a fault, which the kernel does not let anybody ignore */
	if (previous.sa_handler == SIG_IGN && info->si_code <= 0)
		return;
	sigaction(number, &fallback, NULL);
	/* A fault comes again by itself, at the instruction that a core dump should show. */
	if (info->si_code <= 0)
		raise(number);
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	int saved_errno = errno;

	/* BUS_ADRERR only: a page whose hardware failed is not for us to hide. */
	if (info->si_code != BUS_ADRERR || !replace_page((uintptr_t)info->si_addr))
		pass_on(number, info, context);
	errno = saved_errno;
}

/* ------------------------------------------------------------------------- outside of it */

static int set_action(const struct sigaction *action, struct sigaction *old)
{
	int error = GR_FAULT("sigaction");

	if (error)
		return -error;
	return sigaction(SIGBUS, action, old) < 0 ? -errno : 0;
}

int gr_sigbus_install(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus};
	int rc = 0;

	pthread_mutex_lock(&install_lock);
	if (atomic_load_explicit(&installed, memory_order_relaxed))
		goto unlock;
	/* The handler may run before sigaction() has returned the old action, so ask first. */
	rc = set_action(NULL, &previous);
	if (rc < 0)
		goto unlock;
	action.sa_mask = previous.sa_mask;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK | (previous.sa_flags & (SA_RESTART | SA_NODEFER));
	rc = set_action(&action, NULL);
	if (rc < 0)
		goto unlock;
	/* Release: who sees it has a handler; pairs with gr__sigbus_installed(). */
	atomic_store_explicit(&installed, true, memory_order_release);
unlock:
	pthread_mutex_unlock(&install_lock);
	return rc;
}

bool gr__sigbus_installed(void)
{
	return atomic_load_explicit(&installed, memory_order_acquire);
}

static void begin_write(struct gr__sigbus_guard *guard)
{
	atomic_fetch_add_explicit(&guard->sequence, 1, memory_order_relaxed);
	/* The odd number is seen before any store that follows; pairs with read_range(). */
	atomic_thread_fence(memory_order_release);
}

static void end_write(struct gr__sigbus_guard *guard)
{
	/* Release: the even number is seen after the stores; pairs with read_range(). */
	atomic_fetch_add_explicit(&guard->sequence, 1, memory_order_release);
}

static void write_range(struct gr__sigbus_guard *guard, const struct range *range)
{
	begin_write(guard);
	atomic_store_explicit(&guard->first, range->first, memory_order_relaxed);
	atomic_store_explicit(&guard->last, range->last, memory_order_relaxed);
	atomic_store_explicit(&guard->page_size, range->page_size, memory_order_relaxed);
	atomic_store_explicit(&guard->protection, range->protection, memory_order_relaxed);
	atomic_store_explicit(&guard->replaced, range->replaced, memory_order_relaxed);
	end_write(guard);
}

static const struct range nothing = {.first = UINTPTR_MAX, .last = 0, .page_size = 1};

static void push_guard(struct gr__sigbus_guard *guard)
{
	guard->next = atomic_load_explicit(&newest, memory_order_relaxed);
	/* Release: the node is whole for who finds it; pairs with the loads of newest. */
	while (!atomic_compare_exchange_weak_explicit(&newest, &guard->next, guard,
						      memory_order_release, memory_order_relaxed))
		;
}

/* A node that no block owns, or a new one; ours from now on. */
static struct gr__sigbus_guard *take_guard(void)
{
	/* acquire: pairs with the release in push_guard() */
	struct gr__sigbus_guard *guard = atomic_load_explicit(&newest, memory_order_acquire);

	for (; guard; guard = guard->next)
		/* Acquire: the last owner's writes are over; pairs with gr__sigbus_guard_remove().
		 */
		if (!atomic_exchange_explicit(&guard->taken, true, memory_order_acquire))
			return guard;
	guard = gr__alloc(sizeof(*guard));
	if (!guard)
		return NULL;
	atomic_store_explicit(&guard->taken, true, memory_order_relaxed);
	write_range(guard, &nothing);
	push_guard(guard);
	return guard;
}

int gr__sigbus_guard_add(void *host, uint64_t length, uint64_t page_size, int protection,
			 struct gr__sigbus_guard **result)
{
	uint64_t words = (length / page_size + WORD_BITS - 1) / WORD_BITS;
	struct range range = {
		.first = (uintptr_t)host,
		.last = (uintptr_t)host + (length - 1),
		.page_size = page_size,
		.protection = protection,
	};
	struct gr__sigbus_guard *guard;

	range.replaced = gr__alloc_array(words, sizeof(*range.replaced));
	if (!range.replaced)
		return -ENOMEM;
	guard = take_guard();
	if (!guard) {
		gr__free(range.replaced);
		return -ENOMEM;
	}
	atomic_store_explicit(&guard->lost, 0, memory_order_relaxed);
	write_range(guard, &range);
	*result = guard;
	return 0;
}

void gr__sigbus_guard_reset(struct gr__sigbus_guard *guard, uint64_t offset, uint64_t length)
{
	_Atomic uint64_t *replaced = atomic_load_explicit(&guard->replaced, memory_order_relaxed);
	uint64_t page_size = atomic_load_explicit(&guard->page_size, memory_order_relaxed);
	uint64_t page = offset / page_size, left = length / page_size;

	for (; left; page++, left--)
		atomic_fetch_and_explicit(&replaced[page / WORD_BITS],
					  ~(UINT64_C(1) << page % WORD_BITS), memory_order_relaxed);
}

void gr__sigbus_guard_remove(struct gr__sigbus_guard *guard)
{
	_Atomic uint64_t *replaced;

	if (!guard)
		return;
	replaced = atomic_load_explicit(&guard->replaced, memory_order_relaxed);
	write_range(guard, &nothing);
	/* Nobody faults in the range any more, so no handler uses its bits. */
	gr__free((void *)replaced);
	/* Release: our writes are over for the next owner; pairs with take_guard(). */
	atomic_store_explicit(&guard->taken, false, memory_order_release);
}

uint64_t gr__sigbus_guard_lost(const struct gr__sigbus_guard *guard)
{
	return atomic_load_explicit(&guard->lost, memory_order_relaxed);
}
