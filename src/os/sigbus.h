/* SPDX-License-Identifier: MIT */
/*
 * Ranges of memory in which a SIGBUS is healed: the file behind them got shorter, so the page that
 * is missing becomes a zero page of our own. See gr_sigbus_install().
 *
 *   newest ──► guard ──► guard ──► NULL      pushed at the front, never removed, used again
 *
 * The registry is one for the process, since a signal handler is. It is read by the handler, on any
 * thread at any moment, so it has no lock and frees no node.
 *
 * Threads: add, remove, reset and lost from any thread for different guards; calls on one guard are
 * serialised by its owner, who calls remove when nobody accesses the range any more.
 */
#ifndef GR__SIGBUS_H
#define GR__SIGBUS_H

#include <stdbool.h>
#include <stdint.h>

struct gr__sigbus_guard;

/* Was gr_sigbus_install() called? */
bool gr__sigbus_installed(void);

/*
 * Guard [host, host + length), both multiples of @page_size, a power of two; zero pages get
 * @protection. 0 or -ENOMEM.
 */
int gr__sigbus_guard_add(void *host, uint64_t length, uint64_t page_size, int protection,
			 struct gr__sigbus_guard **guard);

/* A part of the range has been mapped anew: its pages may be lost again. */
void gr__sigbus_guard_reset(struct gr__sigbus_guard *guard, uint64_t offset, uint64_t length);

/* Cannot fail; NULL does nothing. */
void gr__sigbus_guard_remove(struct gr__sigbus_guard *guard);

/* Pages that were replaced since gr__sigbus_guard_add(). */
uint64_t gr__sigbus_guard_lost(const struct gr__sigbus_guard *guard);

#endif
