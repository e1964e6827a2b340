/* SPDX-License-Identifier: MIT */
/* See monitor.h. */
#include "monitor.h"
#include "os/uffd_abi.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define REGIONS_MAX 64

enum { RIGHT = 0, WRONG = 1, HUNG_UP = 2, IMPOSSIBLE = 3 };

/* The child's own. */
static struct {
	const struct monitor *how;
	int uffd, peer;
	char *memory[REGIONS_MAX];
	uint64_t each;	/* bytes of a region */
	int *discarded; /* by page, atomic: 1 under way, 2 over */
	int stop;
} own;

#define leave(status, ...)                                                                         \
	do {                                                                                       \
		fprintf(stderr, "monitor: " __VA_ARGS__);                                          \
		fputc('\n', stderr);                                                               \
		_exit(status);                                                                     \
	} while (0)

static char *page_at(uint64_t page)
{
	uint64_t at = page * PAGE;

	return own.memory[at / own.each] + at % own.each;
}

/* ----------------------------------------------------------------------------------- set-up */

static void make_memory(unsigned regions)
{
	const struct monitor *how = own.how;
	int flags = how->shared ? MAP_SHARED : MAP_PRIVATE;
	int huge = how->page_size > PAGE ? MAP_HUGETLB | 21 << MAP_HUGE_SHIFT : 0;
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_EVENT_REMOVE |
					     UFFD_FEATURE_MISSING_HUGETLBFS |
					     UFFD_FEATURE_MISSING_SHMEM};
	unsigned mode = UFFDIO_REGISTER_MODE_MISSING;
	unsigned i;

	if (!how->file)
		flags |= MAP_ANONYMOUS | huge;
	if (how->minor) {
		api.features |= UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS;
		mode |= UFFDIO_REGISTER_MODE_MINOR;
	}
	own.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | (how->blocking ? 0 : O_NONBLOCK));
	if (own.uffd < 0 || ioctl(own.uffd, UFFDIO_API, &api) < 0)
		leave(IMPOSSIBLE, "userfaultfd: %s", strerror(errno));
	own.each = how->length / regions;
	for (i = 0; i < regions; i++) {
		struct uffdio_register reg = {.mode = mode};

		own.memory[i] =
			mmap(NULL, own.each, PROT_READ | PROT_WRITE, flags,
			     how->file ? how->file : -1, how->file ? (off_t)(i * own.each) : 0);
		if (own.memory[i] == MAP_FAILED)
			leave(IMPOSSIBLE, "mmap: %s", strerror(errno));
		reg.range.start = (uintptr_t)own.memory[i];
		reg.range.len = own.each;
		if (ioctl(own.uffd, UFFDIO_REGISTER, &reg) < 0)
			leave(IMPOSSIBLE, "UFFDIO_REGISTER: %s", strerror(errno));
	}
}

static char *tell_memory(unsigned regions)
{
	const struct monitor *how = own.how;
	size_t size = 1 << 20, used = 0;
	char *text = malloc(size);
	unsigned i, k;

	used += (size_t)snprintf(text, size, "[");
	for (k = 0; k < regions; k++) {
		i = regions - 1 - k; /* in another order than their offsets' */
		used += (size_t)snprintf(
			text + used, size - used,
			"%s{\"base_host_virt_addr\": %llu, \"size\": %llu", k ? ", " : "",
			(unsigned long long)(uintptr_t)own.memory[i], (unsigned long long)own.each);
		used += (size_t)snprintf(text + used, size - used, ", \"offset\": %llu",
					 (unsigned long long)(i * own.each));
		if (how->way != MONITOR_OLD)
			used += (size_t)snprintf(text + used, size - used, ", \"page_size\": %llu",
						 (unsigned long long)how->page_size);
		used += (size_t)snprintf(text + used, size - used, ", \"page_size_kib\": %llu",
					 (unsigned long long)how->page_size);
		if (how->way == MONITOR_LONG)
			used += (size_t)snprintf(text + used, size - used,
						 ", \"new\\\"]\": {\"a]\": [1, [2], \"%5000s\"]}",
						 "x");
		used += (size_t)snprintf(text + used, size - used, "}");
	}
	snprintf(text + used, size - used, "]");
	return text;
}

static void send_some(const char *bytes, size_t size, int fd)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {{0}};
	struct iovec iov = {(void *)(uintptr_t)bytes, size};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *cmsg;
	ssize_t sent;

	while (size) {
		if (fd >= 0) {
			msg.msg_control = &control;
			msg.msg_controllen = sizeof(control);
			cmsg = CMSG_FIRSTHDR(&msg);
			cmsg->cmsg_level = SOL_SOCKET;
			cmsg->cmsg_type = SCM_RIGHTS;
			cmsg->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
		}
		sent = sendmsg(own.peer, &msg, MSG_NOSIGNAL);
		if (sent < 0)
			leave(HUNG_UP, "it hung up in the handshake: %s", strerror(errno));
		fd = -1;
		msg.msg_control = NULL;
		msg.msg_controllen = 0;
		iov.iov_base = (char *)iov.iov_base + sent;
		iov.iov_len -= (size_t)sent;
		size -= (size_t)sent;
	}
}

static void shake_hands(const char *path, unsigned regions)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const struct monitor *how = own.how;
	char *text = how->json ? strdup(how->json) : tell_memory(regions);
	int fd = how->send_fd ? how->send_fd : own.uffd;
	size_t size = strlen(text), at;

	own.peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(addr.sun_path, path);
	for (int tries = 0; connect(own.peer, (struct sockaddr *)&addr, sizeof(addr)) < 0;
	     tries++) {
		if (tries == 500)
			leave(IMPOSSIBLE, "connect: %s", strerror(errno));
		usleep(10000);
	}
	switch (how->way) {
	case MONITOR_SPLIT:
		for (at = 0; at < size; at += 7) {
			send_some(text + at, size - at < 7 ? size - at : 7, at ? -1 : fd);
			usleep(200);
		}
		break;
	case MONITOR_LATE:
		send_some(text, size, -1);
		usleep(50000);
		send_some("\n", 1, fd);
		break;
	default:
		send_some(text, size, fd);
	}
	free(text);
}

/* ------------------------------------------------------------------------------------- work */

/* Does a discarded page show what the file has had from the start? */
static bool shows_file(uint64_t page)
{
	const struct monitor *how = own.how;

	return how->filled && !how->shared && !(page * PAGE / how->page_size % how->filled);
}

/* Each word is the source's, or zero. */
static bool is_either(uint64_t page, const unsigned char *copy)
{
	uint64_t data[PAGE / 8], words[PAGE / 8];
	unsigned i;

	memcpy(words, copy, PAGE);
	pattern_fill(0, page * PAGE, data, PAGE);
	for (i = 0; i < PAGE / 8 && (!words[i] || words[i] == data[i]); i++)
		;
	return i == PAGE / 8;
}

static bool is_right(uint64_t page, const unsigned char *copy, int before)
{
	bool zero = pattern_is_zero(own.how->source, page * PAGE);

	if (before == 2 && own.how->marks && !zero)
		return is_either(page, copy);
	if (zero || (before == 2 && !shows_file(page)))
		return zeroes_are(copy, PAGE);
	return pattern_is(0, page * PAGE, copy, PAGE);
}

static void check_page(uint64_t page, const unsigned char *copy, int before)
{
	char text[200];

	if (is_right(page, copy, before))
		return;
	/* it may be half gone while that is under way */
	if (before != 2 && get(&own.discarded[page]))
		return;
	pattern_describe(0, page * PAGE, copy, text, sizeof(text));
	leave(WRONG, "%s, discarded %d", text, before);
}

static void *touch_all(void *arg)
{
	struct rng rng = {(uintptr_t)arg};
	uint64_t pages = own.how->only ? own.how->only : own.how->length / PAGE, i;
	unsigned char copy[4096];
	int pipes[2];

	if (pipe2(pipes, O_CLOEXEC) < 0)
		leave(WRONG, "no pipe");
	for (i = 0; i < 2 * pages; i++) {
		uint64_t page =
			i < pages ? (i * 7 + (uintptr_t)arg) % pages : rng_below(&rng, pages);
		int before = get(&own.discarded[page]);

		if (own.how->system_calls && i % 3 == 0) {
			if (write(pipes[1], page_at(page), PAGE) != (ssize_t)PAGE ||
			    read(pipes[0], copy, PAGE) != (ssize_t)PAGE)
				leave(WRONG, "page %llu: write: %s", (unsigned long long)page,
				      strerror(errno));
		} else {
			memcpy(copy, page_at(page), PAGE);
		}
		check_page(page, copy, before);
	}
	close(pipes[0]);
	close(pipes[1]);
	return NULL;
}

static void *discard_some(void *arg)
{
	struct rng rng = {99};
	uint64_t size = own.how->page_size, units = own.how->length / size;

	while (!get(&own.stop)) {
		uint64_t first = rng_below(&rng, units) * size / PAGE, i;

		for (i = 0; i < size / PAGE; i++) {
			int none = 0;

			__atomic_compare_exchange_n(&own.discarded[first + i], &none, 1, false,
						    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
		}
		if (madvise(page_at(first), size, own.how->shared ? MADV_REMOVE : MADV_DONTNEED) <
		    0)
			leave(WRONG, "madvise: %s", strerror(errno));
		for (i = 0; i < size / PAGE; i++)
			set(&own.discarded[first + i], 2);
		usleep(50); /* so that others get something in between */
	}
	return arg;
}

static void write_all(void)
{
	uint64_t pages = own.how->length / PAGE, page;
	uint64_t mark = (uint64_t)getpid() << 32;

	for (page = 0; page < pages; page++)
		for (uint64_t *word = (uint64_t *)page_at(page), i = 0; i < PAGE / 8; i++)
			word[i] = mark + page;
	for (page = 0; page < pages; page++)
		for (uint64_t *word = (uint64_t *)page_at(page), i = 0; i < PAGE / 8; i++)
			if (word[i] != mark + page)
				leave(WRONG, "page %llu, word %llu: not what was written",
				      (unsigned long long)page, (unsigned long long)i);
}

static void *watch_peer(void *arg)
{
	struct pollfd fd = {.fd = own.peer, .events = POLLIN};

	while (poll(&fd, 1, -1) < 0)
		;
	leave(HUNG_UP, "the server hung up");
	return arg;
}

static void run_monitor(const struct monitor *how, const char *path)
{
	pthread_t threads[16], discarder, watcher;
	unsigned regions = how->regions ? how->regions : 1, i;
	uint64_t page;
	char byte;

	own.how = how;
	own.discarded = how->marks ? mmap(NULL, how->length / PAGE * sizeof(int),
					  PROT_READ | PROT_WRITE, MAP_SHARED, how->marks, 0)
				   : calloc(how->length / PAGE, sizeof(int));
	make_memory(regions);
	shake_hands(path, regions);
	if (!how->deaf)
		pthread_create(&watcher, NULL, watch_peer, NULL);
	discarder = how->discards ? thread_start(discard_some, NULL) : pthread_self();
	for (i = 0; i < how->touchers; i++)
		pthread_create(&threads[i], NULL, touch_all, (void *)(uintptr_t)(i + 1));
	for (i = 0; i < how->touchers; i++)
		pthread_join(threads[i], NULL);
	set(&own.stop, 1);
	if (how->discards)
		pthread_join(discarder, NULL);
	for (page = 0; how->touchers && !how->only && page < how->length / PAGE; page++)
		check_page(page, (unsigned char *)page_at(page), get(&own.discarded[page]));
	if (how->started && write(how->started, "x", 1) == 1 && read(how->go, &byte, 1) == 1)
		for (page = 0; page < how->length / PAGE; page++)
			check_page(page, (unsigned char *)page_at(page), 0);
	if (how->writes)
		write_all();
	if (how->stay_ms)
		poll(NULL, 0, how->stay_ms);
	_exit(RIGHT);
}

/* ------------------------------------------------------------------------------------ start */

/* What a monitor is told, in a file in memory that it inherits; the text of its JSON follows. */
struct orders {
	struct monitor how;
	unsigned zero_every; /* of its source */
	char path[108];
	size_t json_size; /* 0: none */
};

static char executable[PATH_MAX];

void monitor_main(int argc, char **argv)
{
	static struct pattern_source source;
	static struct orders orders;
	pid_t parent = getppid();
	char *json = NULL;
	int file;

	if (argc != 3 || strcmp(argv[1], "--monitor")) {
		if (realpath("/proc/self/exe", executable))
			return;
		leave(IMPOSSIBLE, "/proc/self/exe: %s", strerror(errno));
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		leave(HUNG_UP, "the test has ended");
	file = atoi(argv[2]);
	if (pread(file, &orders, sizeof(orders), 0) != (ssize_t)sizeof(orders))
		leave(IMPOSSIBLE, "no orders");
	if (orders.json_size) {
		json = calloc(1, orders.json_size + 1);
		if (pread(file, json, orders.json_size, sizeof(orders)) !=
		    (ssize_t)orders.json_size)
			leave(IMPOSSIBLE, "no JSON");
	}
	close(file);
	orders.how.json = json;
	source.zero_every = orders.zero_every;
	orders.how.source = &source;
	run_monitor(&orders.how, orders.path);
}

static int write_orders(const struct monitor *monitor, const char *path)
{
	struct orders orders = {.how = *monitor};
	int file = memfd_create("monitor", MFD_CLOEXEC);

	snprintf(orders.path, sizeof(orders.path), "%s", path);
	if (monitor->source)
		orders.zero_every = monitor->source->zero_every;
	if (monitor->json)
		orders.json_size = strlen(monitor->json);
	assert_true(file >= 0);
	assert_int_equal(pwrite(file, &orders, sizeof(orders), 0), sizeof(orders));
	if (monitor->json)
		assert_int_equal(pwrite(file, monitor->json, orders.json_size, sizeof(orders)),
				 orders.json_size);
	return file;
}

/* The child is a program of its own: a mere copy of a process that has threads could do next to
 * nothing, since each of its locks may be held by a thread that it has not. */
pid_t monitor_start(const struct monitor *monitor, const char *path)
{
	int inherited[] = {write_orders(monitor, path),
			   monitor->started,
			   monitor->go,
			   monitor->send_fd,
			   monitor->file,
			   monitor->marks};
	char number[16], way[] = "--monitor", *argv[] = {executable, way, number, NULL};
	posix_spawn_file_actions_t actions;
	pid_t pid;

	snprintf(number, sizeof(number), "%d", inherited[0]);
	posix_spawn_file_actions_init(&actions);
	for (unsigned i = 0; i < COUNT_OF(inherited); i++)
		if (inherited[i]) /* onto itself: it stays open */
			posix_spawn_file_actions_adddup2(&actions, inherited[i], inherited[i]);
	assert_int_equal(posix_spawn(&pid, executable, &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(inherited[0]);
	return pid;
}

int monitor_wait(pid_t pid, int timeout_ms)
{
	int64_t end = now_ms() + timeout_ms;
	int status;

	while (!waitpid(pid, &status, WNOHANG)) {
		if (now_ms() > end) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return -1000;
		}
		sleep_us(1000);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
