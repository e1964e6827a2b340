/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench pager`: how long a touch of a missing page takes, beside a bare loop that copies
 * from memory; that of a page that a shared file has, beside a bare loop that maps it; all of
 * memory in both ways; and what fetching in recorded order takes away.
 *
 * Threads: main touches; the bare loop, or the pager's threads, answer. The bytes are in the page
 * cache: what is measured is the way, not a disk. Shared pages are the server's, which main hands
 * its userfaultfd to, as a monitor does.
 */
#include "bench.h"
#include "cli.h"
#include "out.h"
#include <errno.h>
#include <fcntl.h>
#include <guestram/pager.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define LENGTH (UINT64_C(64) << 20)
#define PAGES (LENGTH / PAGE)

enum { TOUCHES = 4096, QUICK_TOUCHES = 512, RUNS = 192, RUN_PAGES = 8, THINK_NS = 25000 };

struct world {
	char path[64], order[80], socket[80];
	char *image; /* mapped */
	int file;    /* memory that has it all */
	struct gr_page_source source;
	struct gr_ram *ram;
	uint32_t pages[PAGES]; /* all, in a random order */
	double ns[TOUCHES];
	char *host;	/* what is touched, and watched by */
	int uffd, stop; /* stop: event */
	bool minor;	/* it is the file's */
};

/* ------------------------------------------------------------------------------------- set-up */

static int make_image(struct world *world)
{
	int fd;

	snprintf(world->path, sizeof(world->path), "/tmp/guestram-bench-%d", (int)getpid());
	snprintf(world->order, sizeof(world->order), "%s.order", world->path);
	snprintf(world->socket, sizeof(world->socket), "%s.sock", world->path);
	fd = open(world->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)LENGTH) < 0)
		return cli_fail(errno, "bench pager: %s", world->path), -EIO;
	world->image = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (world->image == MAP_FAILED)
		return cli_fail(errno, "bench pager: %s", world->path), -ENOMEM;
	for (uint64_t i = 0; i < PAGES; i++)
		memset(world->image + i * PAGE, (int)(i % 255) + 1, PAGE);
	world->file = memfd_create("guestram-bench", MFD_CLOEXEC);
	if (world->file < 0 || write(world->file, world->image, LENGTH) != (ssize_t)LENGTH)
		return cli_fail(errno, "bench pager: no shared memory"), -EIO;
	return 0;
}

static void shuffle(uint32_t *pages, uint64_t count)
{
	uint64_t state = 88172645463325252u;

	for (uint64_t i = 0; i < count; i++)
		pages[i] = (uint32_t)i;
	for (uint64_t i = count - 1; i; i--) {
		uint64_t other;
		uint32_t page = pages[i];

		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		other = state % (i + 1);
		pages[i] = pages[other];
		pages[other] = page;
	}
}

/* false: a byte is not what it must be. */
static bool touch(const char *host, uint32_t page)
{
	return *(const volatile unsigned char *)(host + page * PAGE) == page % 255 + 1;
}

static bool touch_all(struct world *world, const char *host, int count)
{
	for (int i = 0; i < count; i++) {
		double before = bench_now();

		if (!touch(host, world->pages[i]))
			return false;
		world->ns[i] = bench_now() - before;
	}
	return true;
}

static int touch_some(struct world *world, const char *host, int touches)
{
	/* the first is not counted: by then the other side has begun */
	return touch(host, world->pages[PAGES - 1]) && touch_all(world, host, touches) ? 0 : -EIO;
}

/* ------------------------------------------------------------------------------- a bare loop */

static void unwatch(struct world *world)
{
	close(world->uffd);
	munmap(world->host, LENGTH);
}

/* Memory of which no page is mapped yet, and its userfaultfd. */
static int watch(struct world *world, bool minor)
{
	struct uffdio_api api = {.api = UFFD_API, .features = minor ? UFFD_FEATURE_MINOR_SHMEM : 0};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING |
					      (minor ? UFFDIO_REGISTER_MODE_MINOR : 0)};
	int rc;

	world->minor = minor;
	world->host =
		mmap(NULL, LENGTH, PROT_READ | PROT_WRITE,
		     minor ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, minor ? world->file : -1, 0);
	if (world->host == MAP_FAILED)
		return -ENOMEM;
	world->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	reg.range.start = (uintptr_t)world->host;
	reg.range.len = LENGTH;
	if (world->uffd >= 0 && ioctl(world->uffd, UFFDIO_API, &api) >= 0 &&
	    ioctl(world->uffd, UFFDIO_REGISTER, &reg) >= 0)
		return 0;
	rc = -errno;
	unwatch(world);
	return rc;
}

static void *answer_bare(void *context)
{
	const struct world *world = context;
	struct pollfd fds[2] = {{.fd = world->uffd, .events = POLLIN},
				{.fd = world->stop, .events = POLLIN}};
	const uint64_t base = (uintptr_t)world->host;
	struct uffd_msg msg;

	for (;;) {
		if (poll(fds, 2, -1) < 0 || fds[1].revents)
			return NULL;
		while (read(world->uffd, &msg, sizeof(msg)) == (ssize_t)sizeof(msg)) {
			uint64_t at = msg.arg.pagefault.address & ~(PAGE - 1);
			struct uffdio_copy copy = {
				.dst = at,
				.src = (uintptr_t)world->image + (at - base),
				.len = PAGE,
			};
			struct uffdio_continue map = {.range = {at, PAGE}};

			if (world->minor)
				ioctl(world->uffd, UFFDIO_CONTINUE, &map);
			else
				ioctl(world->uffd, UFFDIO_COPY, &copy);
		}
	}
}

static int run_bare(struct world *world, int touches, bool minor)
{
	pthread_t thread;
	int rc = watch(world, minor);

	if (rc < 0)
		return rc;
	world->stop = eventfd(0, EFD_CLOEXEC);
	rc = world->stop < 0 ? -errno : -pthread_create(&thread, NULL, answer_bare, world);
	if (!rc) {
		rc = touch_some(world, world->host, touches);
		eventfd_write(world->stop, 1);
		pthread_join(thread, NULL);
	}
	close(world->stop);
	unwatch(world);
	return rc;
}

/* ------------------------------------------------------------------------------------ guestram */

static int new_block(struct world *world, struct gr_block **block, char **host)
{
	const struct gr_block_opts opts = {.name = "bench", .length = LENGTH, .flags = GR_NO_THP};
	struct gr_block_info info;
	int rc = gr_block_new(world->ram, &opts, block);

	if (rc < 0)
		return rc;
	gr_block_get_info(*block, &info);
	*host = info.host;
	return 0;
}

static int run_pager(struct world *world, int touches)
{
	const struct gr_pager_opts opts = {.flags = GR_PAGER_NO_PREFETCH};
	struct gr_block *block;
	struct gr_pager *pager;
	char *host;
	int rc = new_block(world, &block, &host);

	if (rc < 0)
		return rc;
	rc = gr_pager_open(world->ram, &world->source, &opts, &pager);
	if (!rc) {
		rc = touch_some(world, host, touches);
		gr_pager_close(pager);
	}
	gr_block_delete(block);
	gr_ram_drain(world->ram, -1);
	return rc;
}

/* As a monitor does; the connection, or -errno. */
static int shake_hands(const struct world *world)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {{0}};
	char text[120];
	struct iovec iov = {text, 0};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", world->socket);
	iov.iov_len = (size_t)snprintf(
		text, sizeof(text), "[{\"base_host_virt_addr\": %llu, \"size\": %llu}]",
		(unsigned long long)(uintptr_t)world->host, (unsigned long long)LENGTH);
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &world->uffd, sizeof(int));
	if (fd >= 0 && !connect(fd, (struct sockaddr *)&addr, sizeof(addr)) &&
	    sendmsg(fd, &msg, MSG_NOSIGNAL) == (ssize_t)iov.iov_len)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

static void *run_server(void *context)
{
	gr_pager_server_run(context);
	return NULL;
}

/* What main does while a server has its memory. */
struct use {
	int (*run)(struct world *world, struct gr_pager_server *server, struct use *use);
	bool minor;
	unsigned flags; /* of the server */
	int touches;
	double ms;
};

static int run_served(struct world *world, struct use *use)
{
	const struct gr_pager_server_opts opts = {
		.socket_path = world->socket,
		.source = &world->source,
		.flags = use->flags,
	};
	struct gr_pager_server *server;
	pthread_t thread;
	int rc = watch(world, use->minor), peer;

	if (rc < 0)
		return rc;
	rc = gr_pager_server_open(&opts, &server);
	if (rc < 0)
		goto unwatch_memory;
	rc = -pthread_create(&thread, NULL, run_server, server);
	if (rc < 0)
		goto close_server;
	peer = rc = shake_hands(world);
	if (peer >= 0)
		rc = use->run(world, server, use);
	gr_pager_server_stop(server);
	pthread_join(thread, NULL);
	if (peer >= 0)
		close(peer);
close_server:
	gr_pager_server_close(server);
unwatch_memory:
	unwatch(world);
	return rc;
}

static int touch_shared(struct world *world, struct gr_pager_server *server, struct use *use)
{
	struct gr_pager_server_stats stats;
	int rc = touch_some(world, world->host, use->touches);

	gr_pager_server_get_stats(server, &stats);
	/* the last one may not be counted yet */
	return rc < 0 || stats.pages.shared >= (uint64_t)use->touches * PAGE ? rc : -EIO;
}

static int wait_for_all(struct world *world, struct gr_pager_server *server, struct use *use)
{
	struct gr_pager_server_stats stats;

	do {
		usleep(1000);
		gr_pager_server_get_stats(server, &stats);
	} while (!stats.pages.complete_ns && !stats.ended && !stats.refused);
	use->ms = (double)stats.pages.complete_ns / 1e6;
	return stats.pages.shared == (use->minor ? LENGTH : 0) && touch(world->host, 5) ? 0 : -EIO;
}

static int run_way(struct world *world, int touches, bool minor, int way)
{
	struct use use = {touch_shared, minor, GR_PAGER_NO_PREFETCH, touches, 0};

	return !way    ? run_bare(world, touches, minor)
	       : minor ? run_served(world, &use)
		       : run_pager(world, touches);
}

static int measure_service(struct bench *bench, struct world *world, bool minor)
{
	const char *names[] = {minor ? "poll, read, UFFDIO_CONTINUE" : "poll, read, UFFDIO_COPY",
			       "guestram"};
	const char *what =
		minor ? "touch of a page that a shared file has" : "touch of a missing page";
	double p50[2][BENCH_REPETITIONS_MAX], p99[2][BENCH_REPETITIONS_MAX];
	int touches = bench->quick ? QUICK_TOUCHES : TOUCHES, rc;

	for (int i = 0; i < bench->repetitions; i++) {
		for (int way = 0; way < 2; way++) {
			rc = run_way(world, touches, minor, way);
			if (rc < 0)
				return cli_fail_gr(rc, "bench pager: %s", names[way]), rc;
			p50[way][i] = bench_percentile(world->ns, touches, 0.5);
			p99[way][i] = bench_percentile(world->ns, touches, 0.99);
		}
	}
	for (int way = 0; way < 2; way++)
		bench_row(bench,
			  json_pack("{s:s, s:s, s:f, s:f}", "what", what, "by", names[way],
				    "p50_us", bench_median(p50[way], bench->repetitions) / 1e3,
				    "p99_us", bench_median(p99[way], bench->repetitions) / 1e3));
	bench_goal(bench,
		   minor ? "minor fault service, p50, guestram / bare map"
			 : "fault service, p50, guestram / bare copy",
		   bench_ratio(p50[1], p50[0], bench->repetitions), AT_MOST, 1.3);
	bench_goal(bench,
		   minor ? "minor fault service, p99, guestram / bare map"
			 : "fault service, p99, guestram / bare copy",
		   bench_ratio(p99[1], p99[0], bench->repetitions), AT_MOST, 2);
	return 0;
}

static int measure_all(struct bench *bench, struct world *world)
{
	double ms[2][BENCH_REPETITIONS_MAX];
	int rc;

	for (int i = 0; i < bench->repetitions; i++) {
		for (int minor = 0; minor < 2; minor++) {
			struct use use = {wait_for_all, minor, 0, 0, 0};

			rc = run_served(world, &use);
			if (rc < 0)
				return cli_fail_gr(rc, "bench pager: all of memory"), rc;
			ms[minor][i] = use.ms;
		}
	}
	for (int minor = 0; minor < 2; minor++)
		bench_row(bench,
			  json_pack("{s:s, s:s, s:f, s:i}", "what", "all of memory", "pages come",
				    minor ? "by mapping a shared file's" : "by copying", "ms",
				    bench_median(ms[minor], bench->repetitions), "faults", 0));
	bench_goal(bench, "all of memory, mapping / copying",
		   bench_ratio(ms[1], ms[0], bench->repetitions), AT_MOST, 0.5);
	return 0;
}

/* ----------------------------------------------------------------------------- recorded orders */

enum start { RECORDING, DEMAND, ADDRESS_ORDER, RECORDED_ORDER, STARTS };

/* A guest that starts: pieces of memory all over, a little work between two pages. */
static int run_start(struct world *world, enum start start, double *ms, double *faults)
{
	const struct gr_pager_opts opts = {
		.flags = start == DEMAND ? GR_PAGER_NO_PREFETCH : 0,
		.record = start == RECORDING ? world->order : NULL,
		.prefetch = start == RECORDED_ORDER ? world->order : NULL,
	};
	struct gr_pager_stats stats;
	struct gr_block *block;
	struct gr_pager *pager;
	double begin, until;
	char *host;
	int rc = new_block(world, &block, &host);

	if (rc < 0)
		return rc;
	rc = gr_pager_open(world->ram, &world->source, &opts, &pager);
	if (rc < 0)
		goto delete_block;
	begin = bench_now();
	for (int i = 0; i < RUNS * RUN_PAGES && !rc; i++) {
		uint32_t run = world->pages[i / RUN_PAGES] / RUN_PAGES * RUN_PAGES;

		for (until = bench_now() + THINK_NS; bench_now() < until;)
			;
		rc = touch(host, run + (uint32_t)(i % RUN_PAGES)) ? 0 : -EIO;
	}
	*ms = (bench_now() - begin) / 1e6;
	gr_pager_get_stats(pager, &stats);
	*faults = (double)stats.faults;
	if (start == RECORDING)
		rc = gr_pager_close(pager);
	else
		gr_pager_close(pager);
delete_block:
	gr_block_delete(block);
	gr_ram_drain(world->ram, -1);
	return rc;
}

static int measure_starts(struct bench *bench, struct world *world)
{
	static const char *const names[] = {"recording", "on demand", "address order",
					    "recorded order"};
	double ms[STARTS][BENCH_REPETITIONS_MAX], faults[STARTS][BENCH_REPETITIONS_MAX];
	int count = bench->repetitions < 9 ? bench->repetitions : 9, rc;

	for (int i = 0; i < count; i++) {
		for (int start = 0; start < STARTS; start++) {
			rc = run_start(world, (enum start)start, &ms[start][i], &faults[start][i]);
			if (rc < 0)
				return cli_fail_gr(rc, "bench pager: %s", names[start]), rc;
		}
	}
	for (int start = 0; start < STARTS; start++)
		bench_row(bench, json_pack("{s:s, s:s, s:f, s:f}", "what", "a start", "pages come",
					   names[start], "ms", bench_median(ms[start], count),
					   "faults", bench_median(faults[start], count)));
	for (int i = 0; i < count; i++)
		faults[RECORDED_ORDER][i] = 1 - faults[RECORDED_ORDER][i] / faults[DEMAND][i];
	bench_goal(bench, "faults that the recorded order takes away",
		   bench_median(faults[RECORDED_ORDER], count), AT_LEAST, 0.95);
	bench_goal(bench, "a start, recorded order / address order",
		   bench_ratio(ms[RECORDED_ORDER], ms[ADDRESS_ORDER], count), AT_MOST, 1);
	return 0;
}

int bench_pager(struct bench *bench)
{
	struct world *world = calloc(1, sizeof(*world));
	int rc;

	if (!world)
		return cli_fail(ENOMEM, "bench pager"), -ENOMEM;
	world->image = MAP_FAILED;
	world->file = -1;
	shuffle(world->pages, PAGES);
	rc = make_image(world);
	if (rc < 0)
		goto unlink_image;
	rc = gr_image_source_open(world->path, &world->source);
	if (!rc)
		rc = gr_ram_open(NULL, &world->ram);
	if (rc < 0) {
		cli_fail_gr(rc, "bench pager");
		goto close_source;
	}
	out_progress("pager: touches");
	rc = measure_service(bench, world, false);
	if (!rc) {
		out_progress("pager: touches of shared pages");
		rc = measure_service(bench, world, true);
	}
	if (!rc) {
		out_progress("pager: all of memory");
		rc = measure_all(bench, world);
	}
	if (!rc) {
		out_progress("pager: starts");
		rc = measure_starts(bench, world);
	}
	gr_ram_close(world->ram);
close_source:
	gr_page_source_close(&world->source);
unlink_image:
	if (world->image != MAP_FAILED)
		munmap(world->image, LENGTH);
	if (world->file >= 0)
		close(world->file);
	unlink(world->path);
	unlink(world->order);
	free(world);
	return rc;
}
