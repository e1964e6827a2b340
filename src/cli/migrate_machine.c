/* SPDX-License-Identifier: MIT */
/*
 * See migrate_machine.h. It shows what <guestram/migrate.h> does, and what an embedder owes it.
 *
 * Threads: main waits in gr_migrate_send() or _receive(), which call back on it; the guest is one
 * of its own (migrate_guest.h).
 */
#include "migrate_machine.h"
#include "cli.h"
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define CONNECT_MS 10000 /* the receiver may be a little late */

/* ------------------------------------------------------------------------------------- sockets */

/* One socket of the address, connected or listening; -errno, said. */
static int open_unix(const char *path, bool listens)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, rc = 0;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (listens && (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
			listen(fd, GR_MIGRATE_CHANNELS_MAX)))
		rc = -errno;
	if (!listens && connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		rc = -errno;
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

static int open_tcp_at(const struct addrinfo *at, bool listens)
{
	int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, rc = 0;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (listens &&
	    (bind(fd, at->ai_addr, at->ai_addrlen) || listen(fd, GR_MIGRATE_CHANNELS_MAX)))
		rc = -errno;
	if (!listens && connect(fd, at->ai_addr, at->ai_addrlen))
		rc = -errno;
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

static int open_tcp(const char *where, bool listens)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
				       .ai_flags = listens ? AI_PASSIVE : 0};
	const char *colon = strrchr(where, ':');
	struct addrinfo *list = NULL, *at;
	char host[256];
	int rc = -EINVAL;

	if (!colon || (size_t)(colon - where) >= sizeof(host))
		return -EINVAL;
	snprintf(host, sizeof(host), "%.*s", (int)(colon - where), where);
	if (getaddrinfo(*host ? host : NULL, colon + 1, &hints, &list))
		return -EADDRNOTAVAIL;
	for (at = list; at && rc < 0; at = at->ai_next)
		rc = open_tcp_at(at, listens);
	freeaddrinfo(list);
	return rc;
}

static int open_socket(const char *address, bool listens)
{
	return !strncmp(address, "unix:", 5) ? open_unix(address + 5, listens)
					     : open_tcp(address + 4, listens);
}

static int connect_all(struct machine *machine)
{
	const struct migrate_options *options = &machine->options;
	unsigned waited = 0;

	while (machine->fd_count < options->channels) {
		int fd = open_socket(options->address, false);

		if (fd >= 0) {
			machine->fds[machine->fd_count++] = fd;
			continue;
		}
		if ((fd != -ECONNREFUSED && fd != -ENOENT) || waited >= CONNECT_MS)
			return cli_fail(fd, "migrate: %s", options->address), fd;
		usleep(20000);
		waited += 20;
	}
	return 0;
}

static int accept_all(struct machine *machine)
{
	const struct migrate_options *options = &machine->options;
	int listener = open_socket(options->address, true), fd = 0;

	if (listener < 0)
		return cli_fail(listener, "migrate: %s", options->address), listener;
	while (machine->fd_count < options->channels && fd >= 0) {
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			machine->fds[machine->fd_count++] = fd;
		else if (errno == EINTR)
			fd = 0;
		else
			fd = -errno;
	}
	close(listener);
	if (!strncmp(options->address, "unix:", 5))
		unlink(options->address + 5);
	return fd < 0 ? (cli_fail(fd, "migrate: %s", options->address), fd) : 0;
}

/* ----------------------------------------------------------------------------------- callbacks */

static int on_stop(void *context)
{
	guest_stop(&((struct machine *)context)->guest);
	return 0;
}

static void on_resume(void *context)
{
	guest_run(&((struct machine *)context)->guest);
}

static void on_throttle(void *context, unsigned percent)
{
	struct machine *machine = context;

	__atomic_store_n(&machine->guest.less, percent, __ATOMIC_RELAXED);
}

static int on_save(void *context, struct gr_migrate_state *state)
{
	const struct machine *machine = context;

	return gr_migrate_put_state(state, "registers", &machine->guest.registers,
				    sizeof(machine->guest.registers));
}

/* What comes is the other side's: its size is checked, and no number in it is used as an index. */
static int on_load(void *context, const char *name, const void *bytes, uint64_t length)
{
	struct machine *machine = context;

	if (strcmp(name, "registers") != 0 || length != sizeof(machine->guest.registers))
		return -EINVAL;
	memcpy(&machine->guest.registers, bytes, length);
	machine->has_registers = true;
	return 0;
}

/* ---------------------------------------------------------------------------------------- both */

int machine_open(struct machine *machine)
{
	const struct gr_block_opts opts = {.name = "ram", .length = machine->options.memory * MIB};
	struct gr_block_info info;
	int rc = gr_ram_open(NULL, &machine->ram);

	if (!rc)
		rc = gr_block_new(machine->ram, &opts, &machine->block);
	if (rc < 0)
		return cli_fail_gr(rc, "migrate: memory"), rc;
	gr_block_get_info(machine->block, &info);
	machine->guest.host = info.host;
	machine->guest.pages = info.length / PAGE;
	machine->guest.pages_per_second = machine->options.writes * (MIB / PAGE);
	rc = guest_start(&machine->guest);
	return rc < 0 ? (cli_fail(rc, "migrate: the guest"), rc) : 0;
}

void machine_close(struct machine *machine)
{
	guest_end(&machine->guest);
	while (machine->fd_count)
		close(machine->fds[--machine->fd_count]);
	if (machine->ram)
		gr_ram_close(machine->ram);
}

static struct gr_migrate_opts make_opts(struct machine *machine)
{
	static const struct gr_migrate_ops ops = {
		.throttle = on_throttle,
		.stop = on_stop,
		.resume = on_resume,
		.state_save = on_save,
		.state_load = on_load,
	};
	const struct migrate_options *options = &machine->options;

	return (struct gr_migrate_opts){
		.fds = machine->fds,
		.fd_count = options->channels,
		.flags = options->postcopy ? GR_MIGRATE_POSTCOPY : 0,
		.zstd_level = options->zstd,
		.max_rounds = options->rounds,
		.max_bytes_per_second = options->rate * MIB,
		.max_downtime_ms = options->downtime,
		.ops = &ops,
		.context = machine,
	};
}

static void say_how(const char *what, const struct gr_migrate_stats *stats)
{
	printf("%s: %s, %llu rounds, %llu bytes copied, %llu zero, %llu on the wire, %llu "
	       "requests, "
	       "stopped for %.1f ms, %.0f ms in all\n",
	       what, stats->postcopy ? "postcopy" : "precopy", (unsigned long long)stats->rounds,
	       (unsigned long long)stats->bytes_copied, (unsigned long long)stats->bytes_zero,
	       (unsigned long long)stats->bytes_wire, (unsigned long long)stats->requests,
	       (double)stats->downtime_us / 1e3, (double)stats->total_us / 1e3);
}

int machine_send(struct machine *machine)
{
	const struct gr_migrate_opts opts = make_opts(machine);
	struct gr_migrate_stats stats;
	int rc;

	guest_run(&machine->guest);
	usleep((useconds_t)machine->options.seconds * 1000000);
	if (connect_all(machine) < 0)
		return CLI_FAILED;
	rc = gr_migrate_send(machine->ram, &opts, &stats);
	if (rc < 0) {
		cli_fail_gr(rc, "migrate");
		fprintf(stderr, "guestram: migrate: the guest is %s\n",
			stats.guest == GR_GUEST_HERE	? "here, and runs on"
			: stats.guest == GR_GUEST_THERE ? "there"
			: stats.guest == GR_GUEST_LOST	? "lost"
							: "stopped here; the other side knows");
		return CLI_FAILED;
	}
	say_how("sent", &stats);
	return CLI_OK;
}

/* The guest runs on for a while, and then all memory is looked at. */
int machine_receive(struct machine *machine)
{
	const struct gr_migrate_opts opts = make_opts(machine);
	struct gr_migrate_stats stats;
	uint64_t wrong, sum;
	int rc = accept_all(machine);

	if (rc < 0)
		return CLI_FAILED;
	rc = gr_migrate_receive(machine->ram, &opts, &stats);
	if (rc < 0)
		return cli_fail_gr(rc, "migrate");
	usleep((useconds_t)machine->options.seconds * 1000000);
	guest_stop(&machine->guest);
	say_how("received", &stats);
	wrong = guest_check(&machine->guest, &sum) + machine->guest.registers.wrong;
	printf("memory: %llu pages, %llu wrong, sum %016llx\n",
	       (unsigned long long)machine->guest.pages, (unsigned long long)wrong,
	       (unsigned long long)sum);
	if (!machine->has_registers)
		return cli_fail(0, "migrate: the guest came without its registers");
	return wrong ? CLI_FAILED : CLI_OK;
}
