/* SPDX-License-Identifier: MIT */
/* See postcopy.h. */
#include "vhost/postcopy.h"
#include "base/error.h"
#include "os/event.h"
#include "os/file.h"
#include "os/hooks.h"
#include "os/memory.h"
#include "os/thread.h"
#include "os/uffd.h"
#include "ram/ram.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

void gr__postcopy_init(struct gr__postcopy *postcopy)
{
	postcopy->uffd = postcopy->nothing = postcopy->wake = postcopy->peer = -1;
	pthread_mutex_init(&postcopy->lock, NULL);
}

void gr__postcopy_fini(struct gr__postcopy *postcopy)
{
	pthread_mutex_destroy(&postcopy->lock);
}

bool gr__postcopy_is_possible(void)
{
	int fd = gr__uffd_open_missing();

	gr__fd_close(fd);
	return fd >= 0;
}

int gr__postcopy_advise(struct gr__postcopy *postcopy)
{
	int fd;

	if (postcopy->listening)
		return gr__fail(-EBUSY, "the move has begun already");
	fd = gr__uffd_open_missing();
	if (fd < 0)
		return gr__fail(fd, "no userfaultfd%s",
				fd == -EPERM ? "; see vm.unprivileged_userfaultfd" : "");
	gr__fd_close(postcopy->uffd);
	postcopy->uffd = fd;
	return 0;
}

/* In place of @pin's memory there is a file without a byte. */
static int take_away(const struct gr__postcopy *postcopy, const struct gr_pin *pin)
{
	void *map;
	int rc = gr__os_map(pin->length, PROT_READ | PROT_WRITE, MAP_SHARED, postcopy->nothing, 0,
			    &map);

	return rc < 0 ? rc : gr__mem_cover(&pin->block->mem, pin->offset, pin->length, map);
}

/* Nobody will answer. */
static void give_up(struct gr__postcopy *postcopy)
{
	pthread_mutex_lock(&postcopy->lock);
	for (unsigned i = 0; i < postcopy->count && !postcopy->given_up; i++) {
		const struct gr_pin *pin = &postcopy->ranges[i];

		if (!take_away(postcopy, pin))
			gr__uffd_let_go(postcopy->uffd, pin->host, pin->length);
		else /* rather the process's end than a page that is none of the guest's */
			gr__uffd_give_up(postcopy->uffd, pin->host, pin->length);
	}
	postcopy->given_up = true;
	pthread_mutex_unlock(&postcopy->lock);
}

static void watch(void *arg)
{
	struct gr__postcopy *postcopy = arg;
	struct pollfd fds[2] = {{.fd = postcopy->wake, .events = POLLIN},
				{.fd = postcopy->peer, .events = POLLRDHUP}};

	while (poll(fds, 2, -1) < 0 || !(fds[0].revents | fds[1].revents))
		;
	if (!fds[0].revents)
		give_up(postcopy);
}

int gr__postcopy_listen(struct gr__postcopy *postcopy, int peer)
{
	int rc;

	if (postcopy->uffd < 0 || postcopy->listening)
		return gr__fail(-EPROTO, postcopy->listening ? "it listens already"
							     : "nobody has advised it");
	postcopy->nothing = gr__file_memfd("vhost-nothing", MFD_CLOEXEC);
	if (postcopy->nothing < 0)
		return gr__fail(postcopy->nothing, "no empty file");
	postcopy->wake = gr__event_open();
	if (postcopy->wake < 0) {
		rc = gr__fail(postcopy->wake, "no event descriptor");
		goto close_nothing;
	}
	postcopy->peer = peer;
	postcopy->given_up = false;
	rc = gr__thread_start(watch, postcopy, "vhost-watch", &postcopy->watcher);
	if (rc < 0) {
		rc = gr__fail(rc, "no thread to watch the front-end");
		goto close_wake;
	}
	postcopy->listening = true;
	return 0;

close_wake:
	gr__fd_close(postcopy->wake);
	postcopy->wake = -1;
close_nothing:
	gr__fd_close(postcopy->nothing);
	postcopy->nothing = -1;
	return rc;
}

int gr__postcopy_register(struct gr__postcopy *postcopy, struct gr_block *block)
{
	struct gr_block_info info;
	struct gr_pin pin;
	int rc;

	gr_block_get_info(block, &info);
	rc = gr_block_pin(block, 0, info.length, GR_READ, &pin);
	if (rc < 0)
		return rc;
	rc = gr__uffd_register_missing(postcopy->uffd, pin.host, pin.length);
	if (rc < 0) {
		gr_unpin(&pin);
		return gr__fail(rc, "a region that userfaultfd does not take");
	}
	pthread_mutex_lock(&postcopy->lock);
	if (postcopy->given_up || postcopy->count == 2 * GR__MEMORY_SLOTS)
		rc = gr__fail(-ENOSPC, "too many regions in one move");
	else
		postcopy->ranges[postcopy->count++] = pin;
	pthread_mutex_unlock(&postcopy->lock);
	if (rc < 0) {
		gr__uffd_unregister(postcopy->uffd, pin.host, pin.length);
		gr_unpin(&pin);
	}
	return rc;
}

void gr__postcopy_end(struct gr__postcopy *postcopy, bool complete)
{
	if (postcopy->listening) {
		if (!complete)
			give_up(postcopy);
		gr__event_set(postcopy->wake);
		gr__thread_join(postcopy->watcher);
		postcopy->listening = false;
	}
	/* who waits for a page that did come, but was not woken, goes on */
	for (unsigned i = 0; i < postcopy->count; i++) {
		struct gr_pin *pin = &postcopy->ranges[i];

		gr__uffd_unregister(postcopy->uffd, pin->host, pin->length);
		gr_unpin(pin);
	}
	postcopy->count = 0;
	gr__fd_close(postcopy->uffd);
	gr__fd_close(postcopy->nothing);
	gr__fd_close(postcopy->wake);
	postcopy->uffd = postcopy->nothing = postcopy->wake = postcopy->peer = -1;
}
