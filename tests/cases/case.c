/* SPDX-License-Identifier: MIT */
/* See case.h. */
#include "case.h"
#include "os/hooks.h"
#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

void assert_ok_at(int rc, const char *expression, const char *file, int line)
{
	if (rc < 0) {
		print_error("%s is %d: %s\n", expression, rc, gr_last_error());
		_fail(file, line);
	}
}

void case_watchdog(unsigned seconds)
{
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	alarm(seconds);
}

uint64_t case_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

uint64_t case_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	*state = x;
	return x;
}

/* -------------------------------------------------------------------- RAMs, blocks, ranges */

struct gr_ram *case_ram(void)
{
	struct gr_ram *ram = NULL;

	assert_ok(gr_ram_open(NULL, &ram));
	return ram;
}

struct gr_space *case_space(struct gr_ram *ram, const char *name)
{
	struct gr_space *space = NULL;

	assert_ok(gr_space_open(ram, name, &space));
	return space;
}

struct gr_block *case_anon(struct gr_ram *ram, const char *name, uint64_t length)
{
	struct gr_block_opts opts = {.name = name, .length = length, .flags = GR_DELETE_UNMAP};
	struct gr_block *block = NULL;

	assert_ok(gr_block_new(ram, &opts, &block));
	return block;
}

static void count_release(void *context, void *host, uint64_t length)
{
	/* What a reader sees of it from now on is wrong. */
	memset(host, 0xdb, length);
	__atomic_add_fetch((int *)context, 1, __ATOMIC_SEQ_CST);
}

struct gr_block *case_caller(struct gr_ram *ram, const char *name, void *host, uint64_t length,
			     unsigned flags, int *released)
{
	struct gr_block_opts opts = {
		.name = name,
		.backing = GR_BACKING_CALLER,
		.flags = flags,
		.length = length,
		.host = host,
		.release = count_release,
		.release_context = released,
	};
	struct gr_block *block = NULL;

	assert_ok(gr_block_new(ram, &opts, &block));
	return block;
}

void case_map(struct gr_space *space, uint64_t addr, struct gr_block *block, uint64_t offset,
	      uint64_t length, unsigned access)
{
	assert_ok(gr_space_map(space, addr, block, offset, length, access));
}

void case_drain(struct gr_ram *ram)
{
	assert_ok(gr_ram_drain(ram, 10000));
}

void case_close(struct gr_ram *ram)
{
	assert_ok(gr_ram_close(ram));
}

void *case_host(const struct gr_block *block)
{
	struct gr_block_info info;

	gr_block_get_info(block, &info);
	return info.host;
}

void *case_pages(uint64_t length)
{
	void *pages = mmap(NULL, length, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(pages, MAP_FAILED);
	return pages;
}

int case_released(const int *released)
{
	return __atomic_load_n(released, __ATOMIC_SEQ_CST);
}

void *case_lookup(struct gr_space *space, uint64_t addr, uint64_t length, unsigned access)
{
	void *host;

	gr_read_begin();
	host = gr_host(space, addr, length, access);
	gr_read_end();
	return host;
}

void *case_cursor(struct gr_cursor *cursor, uint64_t addr, uint64_t length, unsigned access)
{
	void *host;

	gr_read_begin();
	host = gr_cursor_host(cursor, addr, length, access);
	gr_read_end();
	return host;
}

/* -------------------------------------------------------------------------------- tables */

bool case_same_range(const struct gr_range *a, const struct gr_range *b)
{
	return a->addr == b->addr && a->length == b->length && a->visible == b->visible &&
	       a->block == b->block && a->offset == b->offset && a->host == b->host &&
	       a->access == b->access;
}

static int take_range(void *context, const struct gr_range *range)
{
	struct case_table *table = context;

	if (table->count == CASE_MAX_RANGES)
		return -ENOBUFS;
	table->ranges[table->count++] = *range;
	return 0;
}

void case_table_take(struct gr_space *space, struct case_table *table)
{
	memset(table, 0, sizeof(*table));
	gr_read_begin();
	assert_int_equal(gr_space_each_range(space, take_range, table), 0);
	gr_read_end();
}

void assert_same_table_at(const struct case_table *a, const struct case_table *b, const char *file,
			  int line)
{
	size_t i;

	_assert_int_equal(a->count, b->count, file, line);
	for (i = 0; i < a->count; i++)
		_assert_true(case_same_range(&a->ranges[i], &b->ranges[i]), "same range", file,
			     line);
}

/* --------------------------------------------------------------------------------- gates */

#define GATES 4

static struct gate *_Atomic gates[GATES];

static void wait_for(sem_t *sem, const char *what)
{
	struct timespec deadline;
	int rc;

	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += 10;
	do
		rc = sem_timedwait(sem, &deadline);
	while (rc < 0 && errno == EINTR);
	if (rc < 0) {
		print_error("gate: nobody came within 10 s: %s\n", what);
		abort(); /* from any thread; a test that hangs has failed */
	}
}

static void pass_point(const char *point)
{
	size_t i;

	for (i = 0; i < GATES; i++) {
		struct gate *gate = gates[i];

		if (!gate || strcmp(gate->point, point) != 0 ||
		    (!gate->any && !pthread_equal(gate->who, pthread_self())))
			continue;
		if (__atomic_load_n(&gate->spent, __ATOMIC_SEQ_CST) ||
		    __atomic_fetch_sub(&gate->skip, 1, __ATOMIC_SEQ_CST) != 0)
			continue;
		__atomic_store_n(&gate->spent, true, __ATOMIC_SEQ_CST);
		sem_post(&gate->reached);
		wait_for(&gate->go, "gate_open()");
	}
}

void gate_arm(struct gate *gate, const char *point, const pthread_t *who, int skip)
{
	size_t i;

	memset(gate, 0, sizeof(*gate));
	gate->point = point;
	gate->any = !who;
	if (who)
		gate->who = *who;
	gate->skip = skip;
	sem_init(&gate->reached, 0, 0);
	sem_init(&gate->go, 0, 0);
	__atomic_store_n(&gr__hook_point, pass_point, __ATOMIC_RELEASE);
	for (i = 0; i < GATES; i++) {
		if (!gates[i]) {
			gates[i] = gate;
			return;
		}
	}
	fail_msg("more than %d gates", GATES);
}

void gate_wait(struct gate *gate)
{
	wait_for(&gate->reached, gate->point);
}

void gate_open(struct gate *gate)
{
	sem_post(&gate->go);
}

void gate_disarm(struct gate *gate)
{
	size_t i;

	for (i = 0; i < GATES; i++)
		if (gates[i] == gate)
			gates[i] = NULL;
}

/* ------------------------------------------------------------------- what the process holds */

static size_t read_whole(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got;

	assert_true(fd >= 0);
	while ((got = read(fd, text + length, size - 1 - length)) > 0)
		length += (size_t)got;
	close(fd);
	assert_true(length < size - 1);
	text[length] = '\0';
	return length;
}

static void read_maps(char *maps, size_t size)
{
	static char raw[1 << 16];
	char *line, *end, *out = maps;

	read_whole("/proc/self/maps", raw, sizeof(raw));
	assert_true(size >= sizeof(raw));
	for (line = raw; *line; line = end + 1) {
		end = strchr(line, '\n');
		*end = '\0';
		if (!strstr(line, "[heap]"))
			out += sprintf(out, "%s\n", line);
	}
	*out = '\0';
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

static size_t list_fds(char names[][128], size_t room)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	char path[64], target[80];
	size_t count = 0;
	ssize_t got;

	assert_non_null(directory);
	while ((entry = readdir(directory))) {
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(directory))
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%.10s", entry->d_name);
		got = readlink(path, target, sizeof(target) - 1);
		target[got < 0 ? 0 : got] = '\0';
		assert_true(count < room);
		snprintf(names[count++], 128, "%.10s %s\n", entry->d_name, target);
	}
	closedir(directory);
	qsort(names, count, 128, compare_names);
	return count;
}

void process_take(struct process_state *state)
{
	char names[64][128];
	size_t count = list_fds(names, COUNT_OF(names)), i;

	state->fds[0] = '\0';
	for (i = 0; i < count && strlen(state->fds) + 128 < sizeof(state->fds); i++)
		strcat(state->fds, names[i]);
	state->maps[0] = '\0';
	if (!WATCHED)
		read_maps(state->maps, sizeof(state->maps));
}

void assert_same_process_at(const struct process_state *before, const char *file, int line)
{
	static struct process_state now;

	process_take(&now);
	_assert_string_equal(before->fds, now.fds, file, line);
	_assert_string_equal(before->maps, now.maps, file, line);
}

unsigned process_fds(void)
{
	DIR *directory = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

unsigned process_maps(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	unsigned count = 0;
	int byte;

	assert_non_null(file);
	while ((byte = getc(file)) != EOF)
		count += byte == '\n';
	fclose(file);
	return WATCHED ? 0 : count;
}

static uint64_t read_statm(int field)
{
	char text[128], *at = text;
	uint64_t value = 0;

	read_whole("/proc/self/statm", text, sizeof(text));
	for (; field >= 0; field--)
		value = strtoull(at, &at, 10);
	return value * PAGE;
}

uint64_t process_address_space(void)
{
	return read_statm(0);
}

uint64_t process_resident(void)
{
	return read_statm(1);
}
