/* SPDX-License-Identifier: MIT */
/*
 * The connection is cut after each number of bytes, in either direction: the guest is on one side,
 * or the sender knows that it cannot tell, and what is dirty stays dirty.
 *
 * A thread stands between the two sides and passes bytes on, up to the cut.
 */
#include "pair.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#define SMALL (4 * PAGE)

struct cutter {
	int here[2], there[2]; /* our ends: [0] to the sender, [1] to the receiver */
	int64_t left[2];       /* bytes that pass from each; negative: all */
	int64_t passed[2];
	int64_t damage; /* the byte of the sender's that is changed, or -1 */
	pthread_t thread;
};

/* False: this direction is over. */
static bool pass(struct cutter *cutter, int from, int to, unsigned way)
{
	char buffer[4096];
	size_t room = sizeof(buffer);
	ssize_t bytes, at = 0;

	if (cutter->left[way] >= 0 && (int64_t)room > cutter->left[way])
		room = (size_t)cutter->left[way];
	if (!room)
		return false;
	bytes = read(from, buffer, room);
	if (bytes <= 0)
		return false;
	if (!way && cutter->damage >= cutter->passed[0] &&
	    cutter->damage < cutter->passed[0] + bytes)
		buffer[cutter->damage - cutter->passed[0]] ^= 0x10;
	while (at < bytes) {
		ssize_t part = send(to, buffer + at, (size_t)(bytes - at), MSG_NOSIGNAL);

		if (part <= 0)
			return false;
		at += part;
	}
	cutter->passed[way] += bytes;
	if (cutter->left[way] >= 0)
		cutter->left[way] -= bytes;
	return cutter->left[way] != 0;
}

static void *run_cutter(void *arg)
{
	struct cutter *cutter = arg;
	struct pollfd fds[2] = {{.fd = cutter->here[0], .events = POLLIN},
				{.fd = cutter->there[0], .events = POLLIN}};
	bool on = cutter->left[0] != 0 && cutter->left[1] != 0;

	while (on && poll(fds, 2, LONG_MS) > 0) {
		if (fds[0].revents)
			on = pass(cutter, cutter->here[0], cutter->there[0], 0);
		if (on && fds[1].revents)
			on = pass(cutter, cutter->there[0], cutter->here[0], 1);
	}
	close(cutter->here[0]);
	close(cutter->there[0]);
	return NULL;
}

static struct side from, to; /* kept over all cuts */

static void open_small(void)
{
	memset(&from, 0, sizeof(from));
	memset(&to, 0, sizeof(to));
	assert_ok(gr_ram_open(NULL, &from.ram));
	assert_ok(gr_ram_open(NULL, &to.ram));
	from.low = new_anon(from.ram, "low", SMALL, 0);
	to.low = new_anon(to.ram, "low", SMALL, 0);
	/* all of it has memory, so that each run sends the same bytes */
	memset(info_of(from.low).host, 0, SMALL);
	memset(info_of(from.low).host, 0x21, PAGE);
	memset((char *)info_of(from.low).host + 2 * PAGE, 0x43, PAGE);
	from.parked = to.parked = 1;
	memcpy(from.state, "registers", 9);
}

static void close_small(void)
{
	assert_ok(gr_ram_close(from.ram));
	assert_ok(gr_ram_close(to.ram));
}

static void *run_to(void *unused)
{
	to.rc = gr_migrate_receive(to.ram, &to.opts, &to.stats);
	close(to.fds[0]);
	return NULL;
}

/* One migration through a cutter. How many bytes passed in each direction. */
static void run_cut(struct cutter *cutter, unsigned flags)
{
	pthread_t receiver;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, cutter->here), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, cutter->there), 0);
	from.fds[0] = cutter->here[1];
	to.fds[0] = cutter->there[1];
	from.opts = (struct gr_migrate_opts){.fds = from.fds,
					     .fd_count = 1,
					     .ops = &pair_ops,
					     .context = &from,
					     .timeout_ms = LONG_MS,
					     .flags = flags};
	to.opts = from.opts;
	to.opts.fds = to.fds;
	to.opts.context = &to;
	from.running = 1;
	to.running = 0;
	from.resumes = to.resumes = from.stops = 0;
	from.state_length = 0; /* no large state */
	cutter->passed[0] = cutter->passed[1] = 0;
	memset(info_of(to.low).host, 0xcc, SMALL);
	cutter->thread = thread_start(run_cutter, cutter);
	receiver = thread_start(run_to, NULL);
	from.rc = gr_migrate_send(from.ram, &from.opts, &from.stats);
	close(from.fds[0]);
	thread_join(receiver);
	thread_join(cutter->thread);
}

static void judge(const char *what, int64_t at)
{
	bool here = from.running, there = to.running;
	bool unknown = from.stats.guest == GR_GUEST_UNKNOWN;
	bool same = !memcmp(info_of(from.low).host, info_of(to.low).host, SMALL);

	if (here && there)
		fail_msg("%s %lld: it runs twice", what, (long long)at);
	if (!here && !there && !unknown)
		fail_msg("%s %lld: it runs nowhere, and the sender says %d", what, (long long)at,
			 from.stats.guest);
	if (here != (from.stats.guest == GR_GUEST_HERE) ||
	    there != (to.stats.guest == GR_GUEST_HERE))
		fail_msg("%s %lld: told otherwise: %d, %d", what, (long long)at, from.stats.guest,
			 to.stats.guest);
	if (there && !same)
		fail_msg("%s %lld: it runs on other memory", what, (long long)at);
	if (from.rc == 0 && !there)
		fail_msg("%s %lld: moved, it says", what, (long long)at);
	if (from.stops && here && !from.resumes)
		fail_msg("%s %lld: it was stopped, and not resumed", what, (long long)at);
}

static void cut_everywhere(unsigned way)
{
	struct cutter cutter = {.left = {-1, -1}, .damage = -1};
	int64_t all;
	unsigned failed = 0, unknown = 0;

	open_small();
	run_cut(&cutter, 0);
	assert_int_equal(from.rc, 0);
	assert_int_equal(to.rc, 0);
	judge("whole", 0);
	all = cutter.passed[way];
	assert_true(all > 24);
	for (int64_t at = 0; at < all; at++) {
		/* in the middle of a page one byte is like another */
		if (!way && at > 600 && at < all - 600 && at % 61)
			continue;
		cutter = (struct cutter){.left = {-1, -1}, .damage = -1};
		cutter.left[way] = at;
		run_cut(&cutter, 0);
		judge(way ? "answer" : "byte", at);
		if (from.rc >= 0)
			fail_msg("cut at %lld of %lld: it moved, with %lld bytes", (long long)at,
				 (long long)all, (long long)cutter.passed[way]);
		failed++;
		unknown += from.stats.guest == GR_GUEST_UNKNOWN;
	}
	print_message("%lld bytes, %u cuts, %u of them unknown to the sender\n", (long long)all,
		      failed, unknown);
	/* only GO on its way, or the answer to it */
	assert_true(unknown <= 24 && (!way || unknown >= 23));
	/* nothing of all that has changed the sender */
	cutter = (struct cutter){.left = {-1, -1}, .damage = -1};
	run_cut(&cutter, 0);
	assert_int_equal(from.rc, 0);
	judge("again", 0);
	close_small();
}

static void cut_after_each_byte(void **unused)
{
	cut_everywhere(0);
}

static void cut_after_each_byte_of_the_answers(void **unused)
{
	cut_everywhere(1);
}

/* Each byte damaged: it is noticed, and the guest stays. */
static void damaged_at_each_byte(void **unused)
{
	struct cutter cutter = {.left = {-1, -1}, .damage = -1};
	int64_t all;

	open_small();
	run_cut(&cutter, 0);
	all = cutter.passed[0];
	for (int64_t at = 0; at < all; at++) {
		if (at > 600 && at < all - 600 && at % 61)
			continue;
		cutter = (struct cutter){.left = {-1, -1}, .damage = at};
		run_cut(&cutter, 0);
		judge("damage", at);
		/* but for the session's number, of one channel: nothing compares it */
		if (to.rc == 0)
			fail_msg("byte %lld: not noticed", (long long)at);
	}
	close_small();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cut_after_each_byte),
		cmocka_unit_test(cut_after_each_byte_of_the_answers),
		cmocka_unit_test(damaged_at_each_byte),
	};

	testing_end_after(170);
	return cmocka_run_group_tests_name("migrate: cuts", tests, NULL, NULL);
}
