/* SPDX-License-Identifier: MIT */
/*
 * Postcopy on the receiver: the guest runs, and touches pages that are not there yet.
 *
 *   guest ─ touches ─► userfaultfd ─► thread of faults ─ REQUEST ─► sender
 *   guest ◄─ goes on ── UFFDIO_COPY ◄─ readers of the channels ◄─ PAGES ─┘ (asked for or not)
 *
 * A page comes from the sender once, whether it was asked for or not. A touch of a page that is not
 * missing finds nothing there when the page was zero from the beginning, or was discarded since; it
 * gets zeroes. The bit is cleared after the page is there, never before: see models/postcopy.pml.
 *
 * Threads: one of faults; the readers. Bits under session->lock, kernel calls under none.
 */
#include "base/error.h"
#include "migrate/receiver.h"
#include "os/alloc.h"
#include "os/event.h"
#include "os/hooks.h"
#include "os/thread.h"
#include "os/uffd.h"
#include <endian.h>
#include <errno.h>
#include <poll.h>

/* What userfaultfd and our own discard can do. */
static const char *unfit(const struct gr__moved *moved)
{
	const struct gr__mem *mem = &moved->block->mem;

	if (mem->backing == GR_BACKING_CALLER)
		return "it is the caller's memory";
	if (mem->fd >= 0 && !(mem->flags & GR_SHARED))
		return "it is a private file";
	if (mem->flags & GR_LOCKED)
		return "it is locked";
	if (moved->page_size > WIRE_DATA_MAX)
		return "its pages are too large";
	return NULL;
}

bool gr__fault_possible(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	const char *why = NULL, *name = "";
	unsigned i;
	int rc;

	receiver->uffd = gr__uffd_open_missing();
	if (receiver->uffd < 0)
		why = receiver->uffd == -EPERM ? "not allowed; see vm.unprivileged_userfaultfd"
					       : "userfaultfd cannot be had";
	for (i = 0; i < receiver->blocks.count && !why; i++) {
		struct gr__moved *moved = &receiver->blocks.items[i];

		if (!gr__moves(moved))
			continue;
		name = moved->block->name;
		why = unfit(moved);
		rc = why ? 0 : gr__uffd_register_missing(receiver->uffd, moved->host, moved->used);
		if (rc < 0)
			why = rc == -EBUSY ? "it is watched already" : strerrordesc_np(-rc);
		else if (!why)
			gr__uffd_unregister(receiver->uffd, moved->host, moved->used);
	}
	if (!why)
		return true;
	gr__ram_log(session->ram, GR_LOG_WARNING, "migrate: receive: no postcopy: %s%s%s",
		    *name ? "block " : "", name, *name ? "" : why);
	gr__fd_close(receiver->uffd);
	receiver->uffd = -1;
	return false;
}

static void ask(struct gr__receiver *receiver, unsigned block, uint64_t page, uint64_t pages)
{
	struct wire_run run = {htole32(block), htole32((uint32_t)pages), htole64(page * WIRE_PAGE)};
	struct gr__session *session = &receiver->session;

	pthread_mutex_lock(&session->lock);
	session->stats.requests++;
	pthread_mutex_unlock(&session->lock);
	/* a failure is the session's */
	gr__channel_put_one(session->channels[0], WIRE_REQUEST, 0, &run, sizeof(run));
}

static void give_zeroes(struct gr__receiver *receiver, const struct gr__moved *moved, char *host)
{
	int rc = moved->page_size == WIRE_PAGE
			 ? gr__uffd_zero(receiver->uffd, host, WIRE_PAGE, WIRE_PAGE)
			 : gr__uffd_copy(receiver->uffd, host, receiver->zeroes, moved->page_size,
					 moved->page_size);

	if (rc < 0)
		gr__session_fail(&receiver->session, rc, "block %s: zeroes: %s", moved->block->name,
				 strerrordesc_np(-rc));
}

static void answer(struct gr__receiver *receiver, uintptr_t addr)
{
	struct gr__session *session = &receiver->session;
	unsigned i;

	for (i = 0; i < receiver->blocks.count; i++) {
		struct gr__moved *moved = &receiver->blocks.items[i];
		uint64_t offset = addr - (uintptr_t)moved->host, pages;
		bool missing;

		if (!moved->bits || offset >= moved->used)
			continue;
		offset -= offset % moved->page_size;
		pages = moved->page_size / WIRE_PAGE;
		pthread_mutex_lock(&session->lock);
		missing = gr__bits_next(moved->bits, offset / WIRE_PAGE, offset / WIRE_PAGE + pages,
					true) < offset / WIRE_PAGE + pages;
		pthread_mutex_unlock(&session->lock);
		GR_POINT("migrate.fault");
		if (missing)
			ask(receiver, i, offset / WIRE_PAGE, pages);
		else
			give_zeroes(receiver, moved, moved->host + offset);
		return;
	}
}

static void run_faults(void *arg)
{
	struct gr__receiver *receiver = arg;
	struct pollfd fds[3] = {{.fd = receiver->uffd, .events = POLLIN},
				{.fd = receiver->over_fd, .events = POLLIN},
				{.fd = receiver->session.stop_fd, .events = POLLIN}};
	uintptr_t addr;

	while (!fds[1].revents && !fds[2].revents) {
		if (poll(fds, 3, -1) < 0)
			continue;
		while (gr__uffd_next(receiver->uffd, &addr))
			answer(receiver, addr);
	}
}

/* Discard what is missing in a block, so that touching it is noticed. */
static int take_away(struct gr__receiver *receiver, struct gr__moved *moved)
{
	uint64_t page = 0, next, pages = moved->used / WIRE_PAGE;
	int rc;

	rc = gr__uffd_register_missing(receiver->uffd, moved->host, moved->used);
	if (rc < 0)
		return gr__session_fail(&receiver->session, rc, "block %s: userfaultfd: %s",
					moved->block->name, strerrordesc_np(-rc));
	while ((page = gr__bits_next(moved->bits, page, pages, true)) < pages) {
		next = gr__bits_next(moved->bits, page, pages, false);
		rc = gr_block_discard(moved->block, page * WIRE_PAGE, (next - page) * WIRE_PAGE);
		if (rc < 0)
			return gr__session_fail(&receiver->session, rc, "%s", gr_last_error());
		page = next;
	}
	return 0;
}

int gr__fault_begin(struct gr__receiver *receiver)
{
	struct gr__session *session = &receiver->session;
	uint64_t largest = 0;
	unsigned i;
	int rc = 0;

	for (i = 0; i < receiver->blocks.count && !rc; i++) {
		struct gr__moved *moved = &receiver->blocks.items[i];

		if (!moved->bits)
			continue;
		rc = take_away(receiver, moved);
		if (moved->page_size > largest)
			largest = moved->page_size;
	}
	if (rc < 0)
		return rc;
	if (largest > WIRE_PAGE) {
		receiver->zeroes = gr__alloc_aligned(WIRE_PAGE, largest);
		if (!receiver->zeroes)
			return gr__session_fail(session, -ENOMEM, "no memory");
	}
	receiver->over_fd = gr__event_open();
	if (receiver->over_fd < 0)
		return gr__session_fail(session, receiver->over_fd, "eventfd: %s",
					strerrordesc_np(-receiver->over_fd));
	rc = gr__thread_start(run_faults, receiver, "gr-migrate-pf", &receiver->faults);
	if (rc < 0)
		return gr__session_fail(session, rc, "no thread: %s", strerrordesc_np(-rc));
	receiver->faulting = true;
	return 0;
}

/* One run of missing pages gets its bytes; NULL: zeroes. */
static int fill_run(struct gr__receiver *receiver, const struct gr__moved *moved, uint64_t page,
		    uint64_t pages, const char *memory)
{
	char *to = moved->host + page * WIRE_PAGE;
	uint64_t length = pages * WIRE_PAGE, at;
	int rc = 0;

	if (memory)
		rc = gr__uffd_copy(receiver->uffd, to, memory, length, moved->page_size);
	else if (moved->page_size == WIRE_PAGE)
		rc = gr__uffd_zero(receiver->uffd, to, length, WIRE_PAGE);
	for (at = 0; !memory && moved->page_size > WIRE_PAGE && at < length && !rc;
	     at += moved->page_size)
		rc = gr__uffd_copy(receiver->uffd, to + at, receiver->zeroes, moved->page_size,
				   moved->page_size);
	if (rc < 0)
		return gr__session_fail(&receiver->session, rc, "block %s: page %#llx: %s",
					moved->block->name, (unsigned long long)page * WIRE_PAGE,
					strerrordesc_np(-rc));
	gr_mark_host(to, length);
	return 0;
}

static int fill_extent(struct gr__receiver *receiver, struct gr__moved *moved,
		       const struct wire_extent *e, const char *memory)
{
	struct gr__session *session = &receiver->session;
	uint64_t begin = e->offset / WIRE_PAGE, end = begin + e->pages, page = begin, next;
	int rc = 0;

	while (!rc) {
		pthread_mutex_lock(&session->lock);
		page = gr__bits_next(moved->bits, page, end, true);
		next = gr__bits_next(moved->bits, page, end, false);
		pthread_mutex_unlock(&session->lock);
		if (page >= end)
			break;
		rc = fill_run(receiver, moved, page, next - page,
			      memory ? memory + (page - begin) * WIRE_PAGE : NULL);
		if (rc < 0)
			break;
		GR_POINT("migrate.filled");
		pthread_mutex_lock(&session->lock);
		receiver->missing -=
			gr__bits_put(moved->bits, page, next - page, false) * WIRE_PAGE;
		pthread_mutex_unlock(&session->lock);
		page = next;
	}
	return rc;
}

int gr__fault_fill(struct gr__receiver *receiver, const struct gr__reader *reader,
		   const char *memory)
{
	struct gr__moved *moved = &receiver->blocks.items[reader->head.block];
	unsigned i;
	int rc = 0;

	for (i = 0; i < reader->head.extents && !rc; i++) {
		const struct wire_extent *e = &reader->extents[i];

		rc = fill_extent(receiver, moved, e, e->kind == WIRE_COPY ? memory : NULL);
		if (e->kind == WIRE_COPY)
			memory += (uint64_t)e->pages * WIRE_PAGE;
	}
	return rc;
}

static void give_up(struct gr__receiver *receiver, struct gr__moved *moved)
{
	uint64_t page = 0, next, pages = moved->used / WIRE_PAGE;

	while ((page = gr__bits_next(moved->bits, page, pages, true)) < pages) {
		next = gr__bits_next(moved->bits, page, pages, false);
		gr__uffd_give_up(receiver->uffd, moved->host + page * WIRE_PAGE,
				 (next - page) * WIRE_PAGE);
		page = next;
	}
}

void gr__fault_end(struct gr__receiver *receiver, bool lost)
{
	unsigned i;

	if (receiver->faulting) {
		gr__event_set(receiver->over_fd);
		gr__thread_join(receiver->faults);
		receiver->faulting = false;
	}
	for (i = 0; i < receiver->blocks.count && receiver->uffd >= 0; i++) {
		struct gr__moved *moved = &receiver->blocks.items[i];

		if (!moved->bits)
			continue;
		if (lost)
			give_up(receiver, moved);
		/* wakes who waits: what is not there is zero now */
		gr__uffd_unregister(receiver->uffd, moved->host, moved->used);
	}
	gr__fd_close(receiver->over_fd);
	gr__fd_close(receiver->uffd);
	gr__free(receiver->zeroes);
	receiver->over_fd = receiver->uffd = -1;
	receiver->zeroes = NULL;
}
