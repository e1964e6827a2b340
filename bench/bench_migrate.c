/* SPDX-License-Identifier: MIT */
/*
 * `guestram bench migrate`: how fast a guest's memory is moved, beside a loop of write() and one of
 * read() that move the same bytes over the same kind of socket, and beside the same loops when both
 * hash each page, which is what a move can come to that looks at its bytes; and what its parts
 * cost. How long a guest stands still is in bench_migrate_down.c.
 *
 * Source and destination are two RAMs of this process. Memory of the destination is what it is when
 * a receiver begins: discarded before each piece, for both contenders, or filled beforehand.
 *
 * Threads: the main thread sends; the receiver has one for each piece.
 */
#include "bench_migrate.h"
#include "base/zero.h"
#include "cli.h"
#include "out.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef GR__XXH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define CHUNK MIB			   /* of one read() or write() of the plain loop */
#define HASHED_CHUNK (UINT64_C(128) << 10) /* of the one that hashes: it is in the cache then */

enum contender { PLAIN, HASHED, OURS };

static const char *const kinds[] = {[BENCH_TCP] = "TCP, loopback", [BENCH_UNIX] = "unix"};

/* --------------------------------------------------------------------------------------- sides */

int bench_side_open(struct bench_side *side, uint64_t length, unsigned flags)
{
	const struct gr_block_opts opts = {.name = "ram", .length = length, .flags = flags};
	struct gr_block_info info;
	int rc;

	*side = (struct bench_side){.length = length};
	rc = gr_ram_open(NULL, &side->ram);
	if (!rc)
		rc = gr_block_new(side->ram, &opts, &side->block);
	if (rc < 0)
		return cli_fail_gr(rc, "bench migrate"), rc;
	gr_block_get_info(side->block, &info);
	side->host = info.host;
	return 0;
}

void bench_side_close(struct bench_side *side)
{
	if (side->ram)
		gr_ram_close(side->ram);
	side->ram = NULL;
}

void bench_side_fill(struct bench_side *side, uint64_t mask)
{
	uint64_t *words = (uint64_t *)side->host, x = 88172645463325252, i;

	for (i = 0; i < side->length / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		words[i] = x & mask;
	}
}

static int connect_tcp(int fds[2])
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;

	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fds[1] = -1;
	if (listener < 0 || fds[0] < 0 || bind(listener, (struct sockaddr *)&addr, length) ||
	    listen(listener, 1) || getsockname(listener, (struct sockaddr *)&addr, &length) ||
	    connect(fds[0], (struct sockaddr *)&addr, length))
		rc = -errno;
	if (!rc)
		fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (!rc && fds[1] < 0)
		rc = -errno;
	if (listener >= 0)
		close(listener);
	if (rc < 0 && fds[0] >= 0)
		close(fds[0]);
	return rc;
}

int bench_connect(struct bench_way *way)
{
	int fds[2], rc = 0;

	for (way->opened = 0; way->opened < way->channels; way->opened++) {
		if (way->kind == BENCH_TCP)
			rc = connect_tcp(fds);
		else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
			rc = -errno;
		if (rc < 0)
			return cli_fail(rc, "bench migrate: sockets"), rc;
		way->from[way->opened] = fds[0];
		way->to[way->opened] = fds[1];
	}
	return 0;
}

void bench_hang_up(struct bench_way *way)
{
	while (way->opened) {
		way->opened--;
		close(way->from[way->opened]);
		close(way->to[way->opened]);
	}
}

/* -------------------------------------------------------------------------------- one transfer */

struct receiver {
	struct bench_side *side;
	const struct bench_way *way;
	enum contender contender;
	int rc;
};

static void *receive(void *arg)
{
	struct receiver *receiver = arg;
	const struct gr_migrate_opts opts = {.fds = receiver->way->to,
					     .fd_count = receiver->way->channels};

	receiver->rc = gr_migrate_receive(receiver->side->ram, &opts, NULL);
	if (receiver->rc < 0)
		cli_fail_gr(receiver->rc, "bench migrate");
	return NULL;
}

/* Each whole page of [*from, to) gets its hash. */
static void hash_pages(const struct bench_side *side, uint64_t *from, uint64_t to)
{
	uint64_t sum = 0;

	for (; *from + PAGE <= to; *from += PAGE)
		sum ^= XXH3_64bits(side->host + *from, PAGE);
	__asm__ volatile("" : : "r"(sum)); /* it is wanted */
}

static void *read_plainly(void *arg)
{
	struct receiver *receiver = arg;
	bool hashed = receiver->contender == HASHED;
	uint64_t done = 0, at = 0, chunk = hashed ? HASHED_CHUNK : CHUNK;

	while (done < receiver->side->length) {
		uint64_t left = receiver->side->length - done;
		ssize_t got = read(receiver->way->to[0], receiver->side->host + done,
				   left < chunk ? left : chunk);

		if (got <= 0) {
			receiver->rc = got ? -errno : -EPIPE;
			break;
		}
		done += (uint64_t)got;
		if (hashed)
			hash_pages(receiver->side, &at, done);
	}
	return NULL;
}

static int write_plainly(const struct bench_side *side, int fd, bool hashed)
{
	uint64_t done = 0, at = 0, chunk = hashed ? HASHED_CHUNK : CHUNK;

	while (done < side->length) {
		uint64_t left = side->length - done, length = left < chunk ? left : chunk;
		ssize_t put;

		if (hashed)
			hash_pages(side, &at, done + length);
		put = write(fd, side->host + done, length);
		if (put < 0)
			return -errno;
		done += (uint64_t)put;
	}
	return 0;
}

static int same_memory(const struct bench_side *from, const struct bench_side *to)
{
	if (!memcmp(from->host, to->host, from->length))
		return 0;
	cli_fail(0, "bench migrate: memory is not the same afterwards");
	return -EIO;
}

/* One piece, in ns; sockets are made anew for each. 0 or -errno, said. */
static int transfer(struct bench_side *from, struct bench_side *to, struct bench_way *way,
		    enum contender contender, double *ns)
{
	const struct gr_migrate_opts opts = {
		.fds = way->from, .fd_count = way->channels, .zstd_level = way->zstd};
	struct receiver receiver = {to, way, contender, 0};
	pthread_t thread;
	double begin;
	int rc = bench_connect(way), error;

	if (rc < 0)
		return bench_hang_up(way), rc;
	begin = bench_now();
	error = pthread_create(&thread, NULL, contender == OURS ? receive : read_plainly,
			       &receiver);
	if (error) {
		bench_hang_up(way);
		return cli_fail(error, "bench migrate: a thread"), -error;
	}
	if (contender != OURS)
		rc = write_plainly(from, way->from[0], contender == HASHED);
	else
		rc = gr_migrate_send(from->ram, &opts, NULL);
	if (rc < 0)
		shutdown(way->from[0], SHUT_RDWR);
	pthread_join(thread, NULL);
	*ns = bench_now() - begin;
	bench_hang_up(way);
	if (rc < 0)
		return cli_fail_gr(rc, "bench migrate"), rc;
	return receiver.rc ? receiver.rc : same_memory(from, to);
}

int bench_side_empty(struct bench_side *side)
{
	return madvise(side->host, side->length, MADV_DONTNEED) ? -errno : 0;
}

/* ------------------------------------------------------------------------------- through sockets
 */

static double gb_s(const struct bench_side *side, const double *ns, int count)
{
	return (double)side->length / bench_median(ns, count);
}

/* Ours beside the plain loop, on one kind of socket. */
static int beside_plain(struct bench *bench, struct bench_side *from, struct bench_side *to,
			enum bench_socket kind, bool fresh)
{
	static double plain[BENCH_REPETITIONS_MAX], ours[BENCH_REPETITIONS_MAX];
	static double hashed[BENCH_REPETITIONS_MAX];
	struct bench_way way = {.kind = kind, .channels = 1};
	int n = bench->repetitions, r, rc = 0;
	double ignored, ratio;
	char name[96];

	out_progress("migrate: %s", kinds[kind]);
	rc = transfer(from, to, &way, PLAIN, &ignored); /* to warm up */
	for (r = 0; r < n && !rc; r++) {
		if (fresh)
			rc = bench_side_empty(to);
		if (!rc)
			rc = transfer(from, to, &way, PLAIN, &plain[r]);
		if (!rc && fresh)
			rc = bench_side_empty(to);
		if (!rc)
			rc = transfer(from, to, &way, HASHED, &hashed[r]);
		if (!rc && fresh)
			rc = bench_side_empty(to);
		if (!rc)
			rc = transfer(from, to, &way, OURS, &ours[r]);
	}
	if (rc < 0)
		return rc;
	ratio = bench_ratio(plain, ours, n);
	bench_row(bench, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:f}", "socket", kinds[kind],
				   "receiver", fresh ? "empty" : "populated", "read_write_gb_s",
				   gb_s(from, plain, n), "hashed_gb_s", gb_s(from, hashed, n),
				   "guestram_gb_s", gb_s(from, ours, n), "hashed_ratio",
				   bench_ratio(plain, hashed, n), "ratio", ratio));
	snprintf(name, sizeof(name), "guestram / read and write, %s, receiver %s", kinds[kind],
		 fresh ? "empty" : "populated");
	bench_goal(bench, name, ratio, AT_LEAST, 0.80);
	return 0;
}

/* Channels and packing, of memory that zstd makes a third of. */
static int by_channels(struct bench *bench, struct bench_side *from, struct bench_side *to)
{
	static double ns[BENCH_REPETITIONS_MAX];
	int n = bench->quick ? bench->repetitions : 7, r, rc = 0;
	unsigned channels, zstd;

	for (channels = 1; channels <= 4; channels *= 2) {
		for (zstd = 0; zstd <= 1; zstd++) {
			struct bench_way way = {
				.kind = BENCH_TCP, .channels = channels, .zstd = zstd};

			out_progress("migrate: %u channels, zstd %u", channels, zstd);
			for (r = 0; r < n && !rc; r++) {
				rc = bench_side_empty(to);
				if (!rc)
					rc = transfer(from, to, &way, OURS, &ns[r]);
			}
			if (rc < 0)
				return rc;
			bench_row(bench,
				  json_pack("{s:s, s:i, s:i, s:f}", "socket", kinds[way.kind],
					    "channels", (int)channels, "zstd", (int)zstd,
					    "guestram_gb_s", gb_s(from, ns, n)));
		}
	}
	return 0;
}

/* --------------------------------------------------------------------------------------- zeroes */

/* What memory gives at best: all of it, nothing done with it. */
static __attribute__((noinline)) bool read_all(const char *host, uint64_t length)
{
	const gr__vector *v = (const gr__vector *)host, *end = v + length / sizeof(*v);
	gr__vector a = {0}, b = {0}, c = {0}, d = {0};

	for (; v < end; v += 8) {
		a |= v[0] | v[4];
		b |= v[1] | v[5];
		c |= v[2] | v[6];
		d |= v[3] | v[7];
	}
	a |= b | c | d;
	return a[0] | a[1] | a[2] | a[3];
}

static __attribute__((noinline)) bool look_at_all(const char *host, uint64_t length)
{
	bool zero = true;
	uint64_t at;

	for (at = 0; at < length; at += PAGE)
		zero &= gr__is_zero(host + at, PAGE);
	return !zero;
}

static int zeroes(struct bench *bench, struct bench_side *to)
{
	static double plain[BENCH_REPETITIONS_MAX], looked[BENCH_REPETITIONS_MAX];
	static double moved[BENCH_REPETITIONS_MAX];
	struct bench_way way = {.kind = BENCH_TCP, .channels = 1};
	int n = bench->repetitions, r, rc;
	struct bench_side zero;
	bool other = false;
	double ratio;

	out_progress("migrate: zeroes");
	rc = bench_side_open(&zero, to->length, GR_PREALLOC);
	for (r = 0; r < n && !rc; r++) {
		double begin = bench_now();

		other |= read_all(zero.host, zero.length);
		plain[r] = bench_now() - begin;
		begin = bench_now();
		other |= look_at_all(zero.host, zero.length);
		looked[r] = bench_now() - begin;
		rc = bench_side_empty(to);
		if (!rc)
			rc = transfer(&zero, to, &way, OURS, &moved[r]);
	}
	if (!rc && other)
		rc = (cli_fail(0, "bench migrate: memory is not zero"), -EIO);
	if (!rc) {
		ratio = bench_ratio(plain, looked, n);
		bench_row(bench, json_pack("{s:s, s:f, s:f, s:f, s:f}", "what", "pages of zeroes",
					   "read_gb_s", gb_s(&zero, plain, n), "looked_at_gb_s",
					   gb_s(&zero, looked, n), "ratio", ratio, "moved_gb_s",
					   gb_s(&zero, moved, n)));
		bench_goal(bench, "zero detection / reading memory", ratio, AT_LEAST, 0.90);
	}
	bench_side_close(&zero);
	return rc;
}

int bench_migrate(struct bench *bench)
{
	uint64_t length = (bench->quick ? 16 : 256) * MIB;
	struct bench_side from = {0}, to = {0}, kept = {0};
	int rc = bench_side_open(&from, length, 0);

	if (!rc)
		rc = bench_side_open(&to, length, 0);
	if (!rc)
		rc = bench_side_open(&kept, length, GR_PREALLOC);
	if (!rc)
		bench_side_fill(&from, UINT64_MAX);
	for (enum bench_socket kind = BENCH_TCP; kind <= BENCH_UNIX && !rc; kind++) {
		rc = beside_plain(bench, &from, &to, kind, true);
		if (!rc)
			rc = beside_plain(bench, &from, &kept, kind, false);
	}
	if (!rc) {
		bench_side_fill(&from, 0xffff);
		rc = by_channels(bench, &from, &to);
	}
	if (!rc)
		rc = zeroes(bench, &to);
	if (!rc)
		rc = bench_migrate_down(bench, &from, &to);
	bench_side_close(&from);
	bench_side_close(&to);
	bench_side_close(&kept);
	return rc;
}
