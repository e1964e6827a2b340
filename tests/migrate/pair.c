/* SPDX-License-Identifier: MIT */
#include "pair.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/* --------------------------------------------------------------------------------------- guest */

static void write_one(struct side *side, struct rng *rng, uint64_t value)
{
	uint64_t addr = rng_below(rng, (LOW_BYTES + HIGH_BYTES) / 8) * 8;
	uint64_t *to;

	/* most of it in a few pages, as programs do */
	if (!rng_one_in(rng, 16))
		addr = addr % (64 * PAGE);
	if (rng_one_in(rng, 40)) { /* a page becomes zero */
		gr_fill(side->space, addr & ~(PAGE - 1), 0, PAGE);
		return;
	}
	if (!side->mark) {
		gr_store_u64(side->space, addr, value);
		return;
	}
	gr_read_begin();
	to = gr_host(side->space, addr, 8, GR_WRITE);
	__atomic_store_n(to, value, __ATOMIC_RELAXED);
	if (side->mark == 1)
		gr_mark_host(to, 8);
	gr_read_end();
}

static void *run_guest(void *arg)
{
	struct side *side = arg;
	struct rng rng = {(uintptr_t)side};
	uint64_t count = 0;

	while (!get(&side->over)) {
		/* announce, then look again: stop() waits for parked */
		set(&side->parked, 0);
		__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with on_stop() */
		if (!get(&side->running)) {
			set(&side->parked, 1);
			sleep_us(100);
			continue;
		}
		for (unsigned i = 0; i < 64; i++)
			write_one(side, &rng, ++count);
		__atomic_fetch_add(&side->writes, 64, __ATOMIC_RELAXED);
		set(&side->parked, 1);
		sleep_us(side->pause_us ? side->pause_us : 50);
	}
	set(&side->parked, 1);
	return NULL;
}

void side_start_guest(struct side *side)
{
	side->over = 0;
	side->parked = 1;
	side->guest = thread_start(run_guest, side);
	side->has_guest = true;
}

void side_end_guest(struct side *side)
{
	if (!side->has_guest)
		return;
	set(&side->over, 1);
	thread_join(side->guest);
	side->has_guest = false;
}

/* ----------------------------------------------------------------------------------- callbacks */

static int on_stop(void *context)
{
	struct side *side = context;

	side->stops++;
	if (side->stop_error)
		return side->stop_error;
	set(&side->running, 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with run_guest() */
	while (!get(&side->parked))
		sleep_us(50);
	return 0;
}

static void on_resume(void *context)
{
	struct side *side = context;

	side->resumes++;
	set(&side->running, 1);
}

static void on_throttle(void *context, unsigned percent)
{
	struct side *side = context;

	side->throttle = percent > side->throttle ? percent : side->throttle;
}

static int on_progress(void *context, const struct gr_migrate_stats *stats)
{
	const struct side *side = context;

	return side->cancel_at && stats->rounds >= side->cancel_at;
}

static int on_save(void *context, struct gr_migrate_state *state)
{
	struct side *side = context;
	static char large[3 * 1024 * 1024];
	int rc;

	if (side->save_error)
		return side->save_error;
	rc = gr_migrate_put_state(state, "cpu", side->state, side->state_length);
	if (!rc)
		rc = gr_migrate_put_state(state, "empty", NULL, 0);
	if (!rc && side->state_length) {
		memset(large, 0x5a, sizeof(large));
		rc = gr_migrate_put_state(state, "large", large, sizeof(large));
	}
	return rc;
}

static int on_load(void *context, const char *name, const void *bytes, uint64_t length)
{
	struct side *side = context;

	if (side->load_error)
		return side->load_error;
	if (!strcmp(name, "cpu") && length <= sizeof(side->state)) {
		memcpy(side->state, bytes, length);
		side->state_length = length;
		return 0;
	}
	if (!strcmp(name, "empty"))
		return length ? -EINVAL : 0;
	for (uint64_t i = 0; i < length; i++)
		if (((const char *)bytes)[i] != 0x5a)
			return -EBADMSG;
	return strcmp(name, "large") != 0 || length != 3 * MIB ? -EINVAL : 0;
}

const struct gr_migrate_ops pair_ops = {
	.progress = on_progress,
	.throttle = on_throttle,
	.stop = on_stop,
	.resume = on_resume,
	.state_save = on_save,
	.state_load = on_load,
};

/* --------------------------------------------------------------------------------------- sides */

void side_open_ram(struct side *side, uint64_t low_bytes)
{
	const struct gr_block_opts high = {.name = "high",
					   .backing = GR_BACKING_MEMFD,
					   .length = HIGH_BYTES,
					   .max_length = HIGH_MAX};

	assert_ok(gr_ram_open(NULL, &side->ram));
	assert_ok(gr_space_open(side->ram, "gpa", &side->space));
	side->low = new_anon(side->ram, "low", low_bytes, 0);
	assert_ok(gr_block_new(side->ram, &high, &side->high));
	assert_ok(gr_space_map(side->space, 0, side->low, 0, low_bytes, RW));
	assert_ok(gr_space_map(side->space, low_bytes, side->high, 0, HIGH_MAX, RW));
	side->opts = (struct gr_migrate_opts){
		.fds = side->fds,
		.max_downtime_ms = 100,
		.timeout_ms = 20000,
		.ops = &pair_ops,
		.context = side,
	};
	for (unsigned i = 0; i < PAIR_CHANNELS; i++)
		side->fds[i] = -1;
}

static void connect_tcp(int fds[2])
{
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&addr, &length), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fds[0], (struct sockaddr *)&addr, sizeof(addr)), 0);
	fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fds[1] >= 0);
	close(listener);
}

void pair_connect(struct pair *pair, enum pair_pipe how)
{
	for (unsigned i = 0; i < pair->channels; i++) {
		int fds[2];

		if (how == PAIR_TCP) {
			connect_tcp(fds);
		} else if (how == PAIR_PIPES) {
			int pipe_fds[2];

			assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
			fds[0] = pipe_fds[1];
			fds[1] = pipe_fds[0];
		} else {
			assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds),
					 0);
		}
		pair->from.fds[i] = fds[0];
		pair->to.fds[i] = fds[1];
	}
	pair->from.opts.fd_count = pair->to.opts.fd_count = pair->channels;
	if (how == PAIR_PIPES) {
		pair->from.opts.flags |= GR_MIGRATE_ONE_WAY;
		pair->to.opts.flags |= GR_MIGRATE_ONE_WAY;
	}
}

static void fill(struct side *side)
{
	struct rng rng = {7};

	for (uint64_t at = 0; at < LOW_BYTES + HIGH_BYTES; at += PAGE) {
		if (at / PAGE % 4 == 3)
			continue; /* stays untouched */
		for (unsigned i = 0; i < 8; i++)
			assert_ok(gr_store_u64(side->space, at + rng_below(&rng, PAGE / 8) * 8,
					       at / PAGE % 4 ? rng_next(&rng) : 0));
	}
	memcpy(side->state, "registers", 9);
	side->state_length = 9;
}

void pair_open(struct pair *pair, unsigned channels, enum pair_pipe how)
{
	memset(pair, 0, sizeof(*pair));
	side_open_ram(&pair->from, LOW_BYTES);
	side_open_ram(&pair->to, LOW_BYTES);
	fill(&pair->from);
	/* what the receiver has must not shine through */
	assert_ok(gr_fill(pair->to.space, 0, 0xee, 32 * PAGE));
	pair->channels = channels;
	pair_connect(pair, how);
	pair->from.running = pair->from.parked = 1;
}

void side_hang_up(struct side *side)
{
	for (unsigned i = 0; i < PAIR_CHANNELS; i++) {
		if (side->fds[i] >= 0)
			close(side->fds[i]);
		side->fds[i] = -1;
	}
}

static void close_side(struct side *side)
{
	set(&side->running, 0);
	side_end_guest(side);
	side_hang_up(side);
	assert_ok(gr_ram_close(side->ram));
}

void pair_close(struct pair *pair)
{
	close_side(&pair->from);
	close_side(&pair->to);
}

/* ------------------------------------------------------------------------------------- running */

static void *run_receiver(void *arg)
{
	struct side *side = arg;

	side->rc = gr_migrate_receive(side->ram, &side->opts, &side->stats);
	snprintf(side->why, sizeof(side->why), "%s", side->rc < 0 ? gr_last_error() : "");
	if (side->rc < 0)
		side_hang_up(side);
	return NULL;
}

void pair_begin_receiver(struct pair *pair)
{
	pair->receiver = thread_start(run_receiver, &pair->to);
}

void pair_end_receiver(struct pair *pair)
{
	thread_join(pair->receiver);
}

void pair_run(struct pair *pair)
{
	struct side *from = &pair->from;

	pair_begin_receiver(pair);
	from->rc = gr_migrate_send(from->ram, &from->opts, &from->stats);
	snprintf(from->why, sizeof(from->why), "%s", from->rc < 0 ? gr_last_error() : "");
	if (from->rc < 0 || from->opts.flags & GR_MIGRATE_ONE_WAY)
		side_hang_up(from);
	pair_end_receiver(pair);
}

void assert_same_memory(const struct pair *pair)
{
	struct gr_block *blocks[2][2] = {{pair->from.low, pair->to.low},
					 {pair->from.high, pair->to.high}};

	for (unsigned i = 0; i < 2; i++) {
		struct gr_block_info a = info_of(blocks[i][0]), b = info_of(blocks[i][1]);

		assert_int_equal(a.length, b.length);
		for (uint64_t at = 0; at < a.length; at += PAGE)
			if (memcmp((char *)a.host + at, (char *)b.host + at, PAGE) != 0)
				fail_msg("block %s differs at %#llx", a.name,
					 (unsigned long long)at);
	}
}

void assert_one_guest(const struct pair *pair)
{
	int here = get(&pair->from.running), there = get(&pair->to.running);

	assert_false(here && there);
	if (pair->from.stats.guest == GR_GUEST_HERE)
		assert_true(here && !there);
	else
		assert_false(here);
	if (pair->to.stats.guest == GR_GUEST_HERE)
		assert_true(there);
	else
		assert_false(there && pair->to.stats.guest != GR_GUEST_LOST);
	if (!here && !there) /* nobody runs it: then that was told */
		assert_true(pair->from.stats.guest == GR_GUEST_UNKNOWN ||
			    pair->from.stats.guest == GR_GUEST_LOST);
}
