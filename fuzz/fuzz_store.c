/* SPDX-License-Identifier: MIT */
/*
 * An NBD server that says what the input makes up: its greeting, its options, and to each request
 * the right answer, one with gaps, overlaps, other offsets, an error, somebody else's cookie, a
 * wrong length, bytes of the input, silence, or an end.
 *
 * Kept: a read that succeeds gave for each byte what this server says is at that offset, or a zero
 * where it said that there are zeroes; opening and reading end within their deadlines; no
 * descriptor, thread or memory stays. What a server sends after a wrong length cannot be told
 * apart from data, so what is asked on that connection from then on is not judged.
 *
 * Input: options (SERVE_…), size - 1 in 2 bytes, READS times offset and length in 2 bytes each, and
 * then a byte (ANSWER_…) for each thing that the server answers, with what belongs to it.
 *
 * Threads: the input's own, and the client's one link. src/store/nbd*.c is built with poll(), the
 * clock and the condition variables' calls replaced by the fuzz_… ones here. The server runs within
 * the link's poll, and only while the reader waits, so that an input does the same each time; when
 * neither can go on, the clock does. world.lock is taken last.
 */
#include "fuzz.h"
#include <endian.h>
#include <errno.h>
#include <guestram/store.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MS UINT64_C(1000000)
#define READS 3
#define TIMEOUT 100
#define AWAY 100
#define SIZE_MAX_HERE 65536
/* Of a piece: a try each flies, or waits for a link that dials, rests and dials; then its pause. */
#define PIECE_MS (8 * (3 * TIMEOUT + AWAY + 1000 + 1280))
#define PIECES 32 /* that one read can become here */

enum { SERVE_STRUCTURED = 1, SERVE_STATUS = 2, SERVE_BLOCKS = 4, SERVE_DF = 8, SERVE_BADLY = 16 };

enum answer {
	ANSWER_RIGHT,
	ANSWER_PARTS,	/* in two, in order */
	ANSWER_GAP,	/* the first part only */
	ANSWER_TURNED,	/* two parts, the last one first */
	ANSWER_TWICE,	/* the first part twice: in sum as long as what was asked */
	ANSWER_HOLE,	/* zeroes */
	ANSWER_ELSE,	/* of an offset beside it */
	ANSWER_NOTHING, /* done, without data */
	ANSWER_ERROR,
	ANSWER_COOKIE,
	ANSWER_LATE,
	ANSWER_LONG, /* more bytes than it says; fewer */
	ANSWER_RAW,
	ANSWER_END,
	ANSWER_SIZE, /* and right; the next connection is to an export of another size */
	ANSWERS
};

enum stage { STAGE_FLAGS, STAGE_OPTIONS, STAGE_REQUESTS };

static struct {
	struct fuzz_input in;
	unsigned options, dials;
	uint64_t size;
	int fd; /* the server's end, -1: none */
	enum stage stage;
	bool structured, status, lost_track;
	uint64_t quiet_until; /* ns */
	uint8_t asked[4096];
	size_t asked_used;
	uint8_t said[1 << 19];
	size_t said_first, said_end;
	bool zero[SIZE_MAX_HERE], any[SIZE_MAX_HERE];
} server;

static struct {
	pthread_mutex_t lock;
	pthread_cond_t parked_change;
	bool waiting, parked, timed_out;  /* wr: lock */
	pthread_cond_t *waits_for;	  /* wr: lock */
	pthread_mutex_t *waits_with;	  /* wr: lock */
	uint64_t timed_until, hang_until; /* ns, wr: lock; 0: none */
	uint64_t now;			  /* ns, atomic: the link's thread moves it */
	int kick;			  /* an event: waiting became true */
} world = {.lock = PTHREAD_MUTEX_INITIALIZER, .parked_change = PTHREAD_COND_INITIALIZER};

uint64_t fuzz_now_ns(void);
int fuzz_poll(struct pollfd *fds, nfds_t count, int ms);
int fuzz_clock_gettime(clockid_t clock, struct timespec *ts);
int fuzz_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock);
int fuzz_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until);
int fuzz_cond_signal(pthread_cond_t *cond);
int fuzz_cond_broadcast(pthread_cond_t *cond);

uint64_t fuzz_now_ns(void)
{
	return __atomic_load_n(&world.now, __ATOMIC_RELAXED); /* it tells of nothing else */
}

/* What the export has: never zero but in each fourth page. */
static uint8_t byte_at(uint64_t offset)
{
	return offset / PAGE % 4 == 3 ? 0 : (uint8_t)((offset * 37 + offset / 256 * 11) | 1);
}

/* --------------------------------------------------------------------------- what the server says
 */

static void hang_up(void)
{
	if (server.fd >= 0)
		close(server.fd);
	server.fd = -1;
}

static void say(const void *bytes, size_t size)
{
	if (size > sizeof(server.said) - server.said_end) {
		hang_up();
		return;
	}
	memcpy(server.said + server.said_end, bytes, size);
	server.said_end += size;
}

static void say16(uint16_t value)
{
	value = htobe16(value);
	say(&value, sizeof(value));
}

static void say32(uint32_t value)
{
	value = htobe32(value);
	say(&value, sizeof(value));
}

static void say64(uint64_t value)
{
	value = htobe64(value);
	say(&value, sizeof(value));
}

static void say_data(uint64_t offset, uint64_t length)
{
	static uint8_t bytes[SIZE_MAX_HERE];
	uint64_t i;

	for (i = 0; i < length && i < sizeof(bytes); i++)
		bytes[i] = byte_at(offset + i);
	say(bytes, i);
}

static void say_raw(void)
{
	uint8_t bytes[64], size = fuzz_u8(&server.in) % sizeof(bytes);

	fuzz_take(&server.in, bytes, size);
	say(bytes, size);
}

static void say_option(uint32_t option, uint32_t type, uint32_t length)
{
	say64(UINT64_C(0x3e889045565a9));
	say32(option);
	say32(type);
	say32(length);
}

static void say_export(uint32_t option)
{
	unsigned flags = 1 | 2 | (server.options & SERVE_DF && server.structured ? 1 << 7 : 0);

	if (server.options & SERVE_BLOCKS) {
		uint32_t least = 1u << fuzz_u8(&server.in) % 13;

		say_option(option, 3, 14);
		say16(3);
		say32(least);
		say32(PAGE);
		say32(fuzz_u8(&server.in) & 1 ? PAGE : 1 << 25);
	}
	say_option(option, 3, 12);
	say16(0);
	say64(server.size);
	say16((uint16_t)flags);
	say_option(option, 1, 0);
	server.stage = STAGE_REQUESTS;
}

static void answer_option(uint32_t option)
{
	if (server.options & SERVE_BADLY && fuzz_u8(&server.in) & 1) {
		server.lost_track = true;
		say_raw();
	}
	if (option == 8 && server.options & SERVE_STRUCTURED) {
		server.structured = true;
		say_option(option, 1, 0);
	} else if (option == 10 && server.options & SERVE_STATUS && server.structured) {
		say_option(option, 4, 4 + 15);
		say32(7);
		say("base:allocation", 15);
		say_option(option, 1, 0);
	} else if (option == 10) {
		say_option(option, 1, 0);
	} else if (option == 7) {
		say_export(option);
	} else if (option == 2) {
		hang_up();
	} else {
		say_option(option, 0x80000001, 0);
	}
}

struct request {
	uint16_t type;
	uint64_t cookie, offset;
	uint32_t length;
};

static void say_chunk(const struct request *r, bool last, unsigned type, uint32_t length)
{
	say32(0x668e33ef);
	say16(last);
	say16((uint16_t)type);
	say64(r->cookie);
	say32(length);
}

static void say_part(const struct request *r, bool last, uint64_t offset, uint32_t length)
{
	if (!length) {
		say_chunk(r, last, 0, 0);
		return;
	}
	say_chunk(r, last, 1, 8 + length);
	say64(offset);
	say_data(offset, length);
}

static void answer_simply(const struct request *r, enum answer how)
{
	bool failed = how == ANSWER_ERROR || r->type;

	say32(0x67446698);
	say32(failed ? 5 : 0);
	say64(r->cookie);
	if (!failed)
		say_data(r->offset, r->length);
}

static void answer_read(const struct request *r, enum answer how)
{
	uint32_t half = r->length / 2, rest = r->length - half;
	uint64_t middle = r->offset + half, end = r->offset + r->length, i;

	switch (how) {
	case ANSWER_PARTS:
		say_part(r, false, r->offset, half);
		say_part(r, true, middle, rest);
		return;
	case ANSWER_GAP:
		say_part(r, true, r->offset, half);
		return;
	case ANSWER_TURNED:
		say_part(r, false, middle, rest);
		say_part(r, true, r->offset, half);
		return;
	case ANSWER_TWICE:
		say_part(r, false, r->offset, half);
		say_part(r, true, r->offset, rest);
		return;
	case ANSWER_HOLE:
		say_chunk(r, true, 2, 12);
		say64(r->offset);
		say32(r->length);
		for (i = r->offset; i < end && i < SIZE_MAX_HERE; i++)
			server.zero[i] = true;
		return;
	case ANSWER_ELSE:
		say_part(r, true, r->offset + 1, r->length);
		return;
	case ANSWER_NOTHING:
		say_part(r, true, r->offset, 0);
		return;
	case ANSWER_ERROR:
		say_chunk(r, true, 0x8001, 6);
		say32(5);
		say16(0);
		return;
	default:
		say_part(r, true, r->offset, r->length);
	}
}

/* Extents of any length; zeroes of the export, or of the input's will. */
static void answer_status(const struct request *r, enum answer how)
{
	uint64_t at = r->offset, end = at + r->length;
	unsigned count = how == ANSWER_RIGHT ? 1 : 4;

	if (how == ANSWER_ERROR || how == ANSWER_NOTHING) {
		answer_read(r, how);
		return;
	}
	say_chunk(r, true, 5, 4 + 8 * count);
	say32(how == ANSWER_ELSE ? 8 : 7);
	for (unsigned i = 0; i < count; i++) {
		uint32_t length = count == 1 ? r->length : fuzz_u16(&server.in);
		bool zero = count > 1 && fuzz_u8(&server.in) & 1;

		say32(length);
		say32(zero ? 2 | 1 : 0);
		for (; length && at < end && at < SIZE_MAX_HERE; at++, length--)
			server.zero[at] |= zero;
	}
}

static void answer(struct request *r)
{
	enum answer how = fuzz_u8(&server.in) % ANSWERS;
	uint64_t i;

	FUZZ_SAY("%llu ms: request %u of %u bytes at %llu: answer %d\n",
		 (unsigned long long)(fuzz_now_ns() / MS), r->type, r->length,
		 (unsigned long long)r->offset, how);
	if (how == ANSWER_LONG || how == ANSWER_RAW)
		server.lost_track = true;
	for (i = r->offset; server.lost_track && i < r->offset + r->length && i < SIZE_MAX_HERE;
	     i++)
		server.any[i] = true;
	if (how == ANSWER_RAW || how == ANSWER_LONG)
		say_raw();
	if (how == ANSWER_END) {
		hang_up();
		return;
	}
	if (how == ANSWER_SIZE)
		server.size = server.size % SIZE_MAX_HERE + 1;
	if (how == ANSWER_COOKIE)
		r->cookie += 1 + fuzz_u8(&server.in);
	if (how == ANSWER_LATE)
		server.quiet_until = fuzz_now_ns() + fuzz_u8(&server.in) * MS;
	if (!server.structured)
		answer_simply(r, how);
	else if (r->type == 7)
		answer_status(r, how);
	else
		answer_read(r, how);
}

/* ------------------------------------------------------------------------ what the client says */

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get32(const uint8_t *at)
{
	return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static uint64_t get64(const uint8_t *at)
{
	return (uint64_t)get32(at) << 32 | get32(at + 4);
}

/* One thing that it said: how many bytes that was, 0: not all of it is there. */
static size_t hear(const uint8_t *at, size_t left)
{
	struct request r;

	switch (server.stage) {
	case STAGE_FLAGS:
		if (left < 4)
			return 0;
		server.stage = STAGE_OPTIONS;
		return 4;
	case STAGE_OPTIONS:
		if (left < 16 || left < 16 + (size_t)get32(at + 12))
			return 0;
		FUZZ_CHECK(get64(at) == UINT64_C(0x49484156454f5054));
		answer_option(get32(at + 8));
		return 16 + get32(at + 12);
	case STAGE_REQUESTS:
		/* who was told nonsense may still be at its options */
		if (left < 28 || get32(at) != 0x25609513)
			return server.lost_track ? left : 0;
		r = (struct request){get16(at + 6), get64(at + 8), get64(at + 16), get32(at + 24)};
		if (r.type == 2) {
			hang_up();
			return 28;
		}
		FUZZ_CHECK(r.type == 0 || (r.type == 7 && server.structured));
		FUZZ_CHECK(server.lost_track || (r.length && r.offset < SIZE_MAX_HERE &&
						 r.length <= SIZE_MAX_HERE - r.offset));
		answer(&r);
		return 28;
	}
	return 0;
}

static void serve(void)
{
	size_t used = 0, one;
	ssize_t n;

	if (server.fd < 0 || fuzz_now_ns() < server.quiet_until)
		return;
	n = recv(server.fd, server.asked + server.asked_used,
		 sizeof(server.asked) - server.asked_used, MSG_DONTWAIT);
	if (n > 0)
		server.asked_used += (size_t)n;
	while (server.fd >= 0 && fuzz_now_ns() >= server.quiet_until && used < server.asked_used &&
	       (one = hear(server.asked + used, server.asked_used - used)))
		used += one;
	server.asked_used -= used;
	memmove(server.asked, server.asked + used, server.asked_used);
	while (server.fd >= 0 && server.said_first < server.said_end) {
		n = send(server.fd, server.said + server.said_first,
			 server.said_end - server.said_first, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n <= 0)
			return;
		server.said_first += (size_t)n;
	}
	server.said_first = server.said_end = 0;
}

/* The link dials. */
static int connect_to_it(void *context)
{
	int fds[2];

	(void)context;
	hang_up();
	FUZZ_CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
	server.fd = fds[0];
	server.dials++;
	server.stage = STAGE_FLAGS;
	server.structured = server.lost_track = false;
	server.asked_used = server.said_first = server.said_end = 0;
	server.quiet_until = 0;
	if (server.options & SERVE_BADLY && fuzz_u8(&server.in) & 1) {
		server.lost_track = true;
		say_raw();
	}
	say("NBDMAGICIHAVEOPT", 16);
	say16(3);
	return fds[1];
}

/* ----------------------------------------------------------------------------- in place of libc's
 */

/* world.lock is held. Both would wait: time goes on, by @ms or until somebody does something. */
static void pass(int ms)
{
	uint64_t until = fuzz_now_ns() + (uint64_t)ms * MS;

	if (server.fd >= 0 && server.quiet_until > fuzz_now_ns() && server.quiet_until < until)
		until = server.quiet_until;
	if (world.timed_until && world.timed_until < until)
		until = world.timed_until > fuzz_now_ns() ? world.timed_until : fuzz_now_ns();
	__atomic_store_n(&world.now, until, __ATOMIC_RELAXED);
	FUZZ_CHECK_SAY(until <= world.hang_until, "%llu ms", (unsigned long long)(until / MS));
}

static bool expire(void)
{
	pthread_mutex_t *lock = NULL;
	bool expired;

	pthread_mutex_lock(&world.lock);
	if (world.waiting && world.timed_until && fuzz_now_ns() >= world.timed_until)
		lock = world.waits_with;
	pthread_mutex_unlock(&world.lock);
	if (!lock)
		return false;
	pthread_mutex_lock(lock);
	pthread_mutex_lock(&world.lock);
	expired = world.waiting;
	if (expired) {
		world.timed_out = true;
		world.waiting = false;
		world.timed_until = 0;
		pthread_cond_broadcast(world.waits_for);
	}
	pthread_mutex_unlock(&world.lock);
	pthread_mutex_unlock(lock);
	return expired;
}

/* The link has nothing to do: until its event is set, or the reader waits. */
static bool park(struct pollfd *wake)
{
	struct pollfd fds[2] = {*wake, {.fd = world.kick, .events = POLLIN}};
	uint64_t value;
	bool woken = false;

	pthread_mutex_lock(&world.lock);
	while (!world.waiting && !woken) {
		world.parked = true;
		pthread_cond_broadcast(&world.parked_change);
		pthread_mutex_unlock(&world.lock);
		poll(fds, 2, -1);
		if (fds[1].revents && read(world.kick, &value, sizeof(value)) < 0)
			FUZZ_CHECK(errno == EAGAIN);
		woken = fds[0].revents;
		pthread_mutex_lock(&world.lock);
	}
	world.parked = false;
	pthread_mutex_unlock(&world.lock);
	return woken;
}

int fuzz_poll(struct pollfd *fds, nfds_t count, int ms)
{
	int rc;

	if (!park(&fds[0]))
		serve();
	rc = poll(fds, count, 0);
	if (rc || !ms)
		return rc;
	pthread_mutex_lock(&world.lock);
	if (world.waiting)
		pass(ms);
	pthread_mutex_unlock(&world.lock);
	expire();
	return 0;
}

int fuzz_clock_gettime(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	ts->tv_sec = (time_t)(fuzz_now_ns() / (1000 * MS));
	ts->tv_nsec = (long)(fuzz_now_ns() % (1000 * MS));
	return 0;
}

static int wait_for(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t until)
{
	const uint64_t one = 1;
	bool timed_out;

	pthread_mutex_lock(&world.lock);
	world.waiting = true;
	world.timed_out = false;
	world.waits_for = cond;
	world.waits_with = lock;
	world.timed_until = until;
	pthread_mutex_unlock(&world.lock);
	FUZZ_CHECK(write(world.kick, &one, sizeof(one)) == sizeof(one));
	pthread_cond_wait(cond, lock);
	pthread_mutex_lock(&world.lock);
	timed_out = world.timed_out;
	world.waiting = false;
	world.timed_until = 0;
	pthread_mutex_unlock(&world.lock);
	return timed_out ? ETIMEDOUT : 0;
}

int fuzz_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock)
{
	return wait_for(cond, lock, 0);
}

int fuzz_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock, const struct timespec *until)
{
	return wait_for(cond, lock, (uint64_t)until->tv_sec * 1000 * MS + (uint64_t)until->tv_nsec);
}

/* Time stands still until the one that was woken waits again. */
int fuzz_cond_broadcast(pthread_cond_t *cond)
{
	pthread_mutex_lock(&world.lock);
	if (cond == world.waits_for)
		world.waiting = false;
	pthread_mutex_unlock(&world.lock);
	return pthread_cond_broadcast(cond);
}

int fuzz_cond_signal(pthread_cond_t *cond)
{
	return fuzz_cond_broadcast(cond);
}

/* -------------------------------------------------------------------------------------- an input
 */

static void must_end_within(uint64_t ms)
{
	pthread_mutex_lock(&world.lock);
	world.hang_until = fuzz_now_ns() + ms * MS;
	pthread_mutex_unlock(&world.lock);
}

static void wait_until_parked(void)
{
	pthread_mutex_lock(&world.lock);
	while (!world.parked)
		pthread_cond_wait(&world.parked_change, &world.lock);
	pthread_mutex_unlock(&world.lock);
}

static void read_some(struct gr_page_source *source, uint64_t offset, uint64_t length)
{
	static uint8_t bytes[SIZE_MAX_HERE + PAGE];
	struct gr_page_source_info info;
	uint64_t i;
	int rc;

	FUZZ_CHECK(!source->ops->find(source->context, "", &info));
	FUZZ_CHECK(info.length && info.length <= SIZE_MAX_HERE && info.length % PAGE == 0);
	offset %= info.length;
	length = length % (info.length - offset) + 1;
	for (i = 0; i < length; i++)
		bytes[i] = (uint8_t)~byte_at(offset + i);
	bytes[length] = 0x5a;
	wait_until_parked();
	must_end_within((uint64_t)PIECES * PIECE_MS);
	rc = source->ops->read(source->context, 0, offset, bytes, length);
	FUZZ_SAY("%llu ms: read of %llu bytes at %llu: %d\n",
		 (unsigned long long)(fuzz_now_ns() / MS), (unsigned long long)length,
		 (unsigned long long)offset, rc);
	FUZZ_CHECK(rc <= 0);
	FUZZ_CHECK(bytes[length] == 0x5a);
	for (i = 0; !rc && i < length; i++) {
		uint64_t at = offset + i;
		uint8_t want = byte_at(at);

		FUZZ_CHECK_SAY(bytes[i] == want || server.any[at] || (!bytes[i] && server.zero[at]),
			       "%#x at %llu, not %#x", bytes[i], (unsigned long long)at, want);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_ledger before = fuzz_ledger_now();
	struct gr_nbd_opts opts = {.connect = connect_to_it,
				   .connections = 1,
				   .in_flight = 8,
				   .timeout_ms = TIMEOUT,
				   .away_ms = AWAY,
				   .status_ms = 50};
	struct gr_page_source source = {0};
	uint16_t reads[READS][2];
	uint64_t first_size, i;
	int rc;

	memset(&server, 0, offsetof(__typeof__(server), said));
	memset(server.zero, 0, sizeof(server.zero));
	memset(server.any, 0, sizeof(server.any));
	server.said_first = server.said_end = 0;
	server.in = (struct fuzz_input){data, size};
	server.fd = -1;
	server.options = fuzz_u8(&server.in);
	first_size = server.size = (uint64_t)fuzz_u16(&server.in) + 1;
	fuzz_take(&server.in, reads, sizeof(reads));
	/* the page that the export's end cuts goes on with zeroes */
	for (i = first_size; i < SIZE_MAX_HERE; i++)
		server.zero[i] = true;
	world.waiting = world.parked = false;
	world.waits_for = NULL;
	__atomic_store_n(&world.now, 1000 * MS, __ATOMIC_RELAXED);
	world.kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	FUZZ_CHECK(world.kick >= 0);

	must_end_within(TIMEOUT + 1000 + 50);
	rc = gr_nbd_source_open(NULL, &opts, &source);
	FUZZ_SAY("%llu ms: open: %d: %s\n", (unsigned long long)(fuzz_now_ns() / MS), rc,
		 rc ? gr_last_error() : "");
	FUZZ_CHECK(rc <= 0 && server.dials);
	for (i = 0; !rc && i < READS; i++)
		read_some(&source, reads[i][0], reads[i][1]);
	gr_page_source_close(&source);
	hang_up();
	close(world.kick);
	fuzz_ledger_check(&before);
	return 0;
}
