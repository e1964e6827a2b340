/* SPDX-License-Identifier: MIT */
#include "testing.h"
#include <dirent.h>

void assert_ok_at(int rc, const char *expression, const char *file, int line)
{
	if (rc >= 0)
		return;
	print_error("%s: %d: %s\n", expression, rc, gr_last_error());
	_fail(file, line);
}

void assert_error_at(int rc, int error, const char *part, const char *expression, const char *file,
		     int line)
{
	if (rc == error && strstr(gr_last_error(), part))
		return;
	print_error("%s: %d \"%s\", not %d \"…%s…\"\n", expression, rc, gr_last_error(), error,
		    part);
	_fail(file, line);
}

/* splitmix64: every seed is a good one */
uint64_t rng_next(struct rng *rng)
{
	uint64_t z = rng->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint64_t rng_below(struct rng *rng, uint64_t bound)
{
	return rng_next(rng) % bound;
}

bool rng_one_in(struct rng *rng, unsigned chances)
{
	return !rng_below(rng, chances);
}

uint64_t seed_of_the_day(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec << 20 ^ (uint64_t)now.tv_nsec ^ (uint64_t)getpid() << 40;
}

void *reserve(uint64_t length)
{
	void *memory =
		mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(memory, MAP_FAILED);
	return memory;
}

static struct gr_block *new_block(struct gr_ram *ram, const struct gr_block_opts *opts)
{
	struct gr_block *block = NULL;

	assert_ok(gr_block_new(ram, opts, &block));
	return block;
}

struct gr_block *new_anon(struct gr_ram *ram, const char *name, uint64_t length, uint64_t maximum)
{
	struct gr_block_opts opts = {.name = name, .length = length, .max_length = maximum};

	return new_block(ram, &opts);
}

struct gr_block *new_memfd(struct gr_ram *ram, const char *name, uint64_t length)
{
	struct gr_block_opts opts = {.name = name, .backing = GR_BACKING_MEMFD, .length = length};

	return new_block(ram, &opts);
}

static void count_release(void *context, void *host, uint64_t length)
{
	__atomic_add_fetch((int *)context, 1, __ATOMIC_ACQ_REL);
}

struct gr_block *new_caller(struct gr_ram *ram, const char *name, void *host, uint64_t length,
			    int *released)
{
	struct gr_block_opts opts = {
		.name = name,
		.backing = GR_BACKING_CALLER,
		.length = length,
		.host = host,
		.release = released ? count_release : NULL,
		.release_context = released,
	};

	return new_block(ram, &opts);
}

void *look_up(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access)
{
	void *host;

	gr_read_begin();
	host = gr_host(space, addr, length, access);
	gr_read_end();
	return host;
}

struct gr_ram_stats stats_of(struct gr_ram *ram)
{
	struct gr_ram_stats stats;

	gr_ram_get_stats(ram, &stats);
	return stats;
}

struct gr_block_info info_of(const struct gr_block *block)
{
	struct gr_block_info info;

	gr_block_get_info(block, &info);
	return info;
}

unsigned open_fds(void)
{
	DIR *folder = opendir("/proc/self/fd");
	unsigned count = 0;

	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

pthread_t thread_start(void *(*run)(void *), void *arg)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, run, arg), 0);
	return thread;
}

static struct timespec realtime_in(int timeout_ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	return until;
}

void thread_join_at(pthread_t thread, const char *file, int line)
{
	struct timespec until = realtime_in(2 * LONG_MS);

	if (pthread_timedjoin_np(thread, NULL, &until)) {
		print_error("a thread does not end\n");
		_fail(file, line);
	}
}

void gate_init(struct gate *gate)
{
	sem_init(&gate->sem, 0, 0);
}

void gate_open(struct gate *gate)
{
	sem_post(&gate->sem);
}

bool gate_wait_ms(struct gate *gate, int timeout_ms)
{
	struct timespec until = realtime_in(timeout_ms);
	int rc;

	do
		rc = sem_timedwait(&gate->sem, &until);
	while (rc < 0 && errno == EINTR);
	if (!rc)
		sem_post(&gate->sem); /* open for the next one, too */
	return !rc;
}

bool gate_wait(struct gate *gate)
{
	return gate_wait_ms(gate, LONG_MS);
}

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void sleep_us(unsigned us)
{
	struct timespec time = {us / 1000000, (long)(us % 1000000) * 1000};

	nanosleep(&time, NULL);
}
