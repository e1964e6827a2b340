/* SPDX-License-Identifier: MIT */
/* See backing_util.h. */
#include "backing_util.h"
#include "os/hooks.h"
#include <dirent.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>

void assert_ok_at(int rc, const char *expression, const char *file, int line)
{
	if (rc < 0) {
		print_error("%s is %d: %s\n", expression, rc, gr_last_error());
		_fail(file, line);
	}
}

void map_ok_at(const struct gr_block_opts *opts, struct gr__mem *mem, const char *file, int line)
{
	assert_ok_at(gr__mem_map(opts, mem), "gr__mem_map", file, line);
}

/* ------------------------------------------------------------------- what the process holds */

/* The maps but for [heap], read with a buffer that is not allocated. */
static void read_maps(char *maps, size_t size)
{
	static char raw[1 << 16];
	char *line, *end, *out = maps;
	ssize_t got, length = 0;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	while ((got = read(fd, raw + length, sizeof(raw) - 1 - length)) > 0)
		length += got;
	close(fd);
	assert_true(length < (ssize_t)sizeof(raw) - 1 && size >= sizeof(raw));
	raw[length] = '\0';
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

static void read_fds(char *fds)
{
	static char names[200][300];
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	size_t count = 0, i;
	char path[40], target[256];
	ssize_t got;

	assert_non_null(directory);
	while ((entry = readdir(directory))) {
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(directory))
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%.10s", entry->d_name);
		got = readlink(path, target, sizeof(target) - 1);
		target[got < 0 ? 0 : got] = '\0';
		assert_true(count < COUNT_OF(names));
		snprintf(names[count++], sizeof(names[0]), "%.10s %s\n", entry->d_name, target);
	}
	closedir(directory);
	qsort(names, count, sizeof(names[0]), compare_names);
	for (*fds = '\0', i = 0; i < count; i++)
		strcat(fds, names[i]);
}

void take_state(struct state *state)
{
	read_fds(state->fds);
#ifdef HAS_SANITIZER
	state->maps[0] = '\0';
	(void)read_maps;
#else
	read_maps(state->maps, sizeof(state->maps));
#endif
}

void assert_same_state_at(const struct state *before, const char *file, int line)
{
	static struct state now;

	take_state(&now);
	_assert_string_equal(before->fds, now.fds, file, line);
	_assert_string_equal(before->maps, now.maps, file, line);
}

/* ------------------------------------------------------------ what the kernel says of memory */

/* A pipe's buffer is filled from memory, and emptied to it: both answer EFAULT, not a signal. */
bool is_readable(const void *addr)
{
	int ends[2];
	bool yes;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	yes = write(ends[1], addr, 1) == 1;
	close(ends[0]);
	close(ends[1]);
	return yes;
}

bool is_writable(void *addr)
{
	int ends[2];
	bool yes;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	yes = write(ends[1], addr, 1) == 1 && read(ends[0], addr, 1) == 1;
	close(ends[0]);
	close(ends[1]);
	return yes;
}

bool has_vm_flag(const void *addr, const char *flag)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	char line[1024], word[8];
	unsigned long first, end;
	bool inside = false, found = false;

	assert_non_null(file);
	snprintf(word, sizeof(word), " %s ", flag);
	while (!found && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &first, &end) == 2)
			inside = first <= (uintptr_t)addr && (uintptr_t)addr < end;
		else if (inside && !strncmp(line, "VmFlags:", 8))
			found = strstr(line, word);
	}
	fclose(file);
	return found;
}

void assert_locked_at(const void *addr, bool expect, const char *file, int line)
{
#ifndef HAS_SANITIZER
	if (has_vm_flag(addr, "lo") != expect) {
		print_error("%slocked\n", expect ? "not " : "");
		_fail(file, line);
	}
#endif
}

bool find_map(const char *path, const void *addr, char *line, size_t size)
{
	FILE *file = fopen(path, "re");
	char start[24];
	bool found = false;

	assert_non_null(file);
	snprintf(start, sizeof(start), "%lx", (unsigned long)(uintptr_t)addr);
	while (!found && fgets(line, size, file))
		found = !strncmp(line, start, strlen(start));
	fclose(file);
	return found;
}

uint64_t count_resident(void *addr, uint64_t length)
{
	uint64_t pages = length / PAGE, count = 0, i;
	unsigned char *resident = malloc(pages);

	assert_non_null(resident);
	assert_int_equal(mincore(addr, length, resident), 0);
	for (i = 0; i < pages; i++)
		count += resident[i] & 1;
	free(resident);
	return count;
}

uint64_t bytes_on_disk(int fd)
{
	struct stat file;

	assert_int_equal(fstat(fd, &file), 0);
	return (uint64_t)file.st_blocks * 512;
}

/* ---------------------------------------------------------------------------------- patterns */

/* One word for each KiB tells where it is. */
#define STEP 1024

static uint64_t *word_at(const struct gr__mem *mem, uint64_t offset)
{
	return (uint64_t *)((char *)mem->host + offset);
}

void fill(const struct gr__mem *mem, uint64_t offset, uint64_t length, uint64_t seed)
{
	uint64_t end = offset + length;

	for (; offset < end; offset += STEP)
		*word_at(mem, offset) = seed + offset + 1;
}

bool is_filled(const struct gr__mem *mem, uint64_t offset, uint64_t length, uint64_t seed)
{
	uint64_t end = offset + length;

	for (; offset < end; offset += STEP)
		if (*word_at(mem, offset) != seed + offset + 1)
			return false;
	return true;
}

bool is_zero(const struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	const char *start = (char *)mem->host + offset;

	return !*start && !memcmp(start, start + 1, length - 1);
}

/* --------------------------------------------------------------------------- failing calls */

static atomic_int countdown;
static int fault_error;
static const char *fault_name;
static _Atomic(const char *) fired, latest, before_fired;

static int fail_call(const char *call)
{
	const char *before = atomic_exchange(&latest, call);

	if (fault_name ? strcmp(fault_name, call) != 0 : atomic_fetch_sub(&countdown, 1) != 1)
		return 0;
	atomic_store(&fired, call);
	atomic_store(&before_fired, before);
	return fault_error;
}

static void arm(int nth, const char *name, int error)
{
	atomic_store(&countdown, nth);
	atomic_store(&fired, NULL);
	atomic_store(&latest, NULL);
	fault_name = name;
	fault_error = error;
	gr__hook_fault = nth || name ? fail_call : NULL;
}

void arm_fault(int nth, int error)
{
	arm(nth, NULL, error);
}

void arm_fault_by_name(const char *call, int error)
{
	arm(0, call, error);
}

void disarm_faults(void)
{
	gr__hook_fault = NULL;
}

const char *fired_fault(void)
{
	return atomic_load(&fired);
}

const char *call_before_fault(void)
{
	return atomic_load(&before_fired);
}

/* ------------------------------------------------------------------------------------ places */

void make_directory(char *path, size_t size)
{
	snprintf(path, size, "/tmp/guestram-test-XXXXXX");
	assert_non_null(mkdtemp(path));
}

bool is_empty_directory(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	int count = 0;

	assert_non_null(directory);
	while ((entry = readdir(directory)))
		count += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
	closedir(directory);
	return !count;
}

bool mount_private(const char *type, const char *options, char *path, size_t size)
{
	static bool is_private;

	if (!is_private &&
	    (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)) {
		print_message("skipped: no mount namespace (CAP_SYS_ADMIN): %s\n", strerror(errno));
		return false;
	}
	is_private = true;
	make_directory(path, size);
	if (mount("none", path, type, 0, options) < 0) {
		print_message("skipped: mount of %s %s: %s\n", type, options, strerror(errno));
		rmdir(path);
		return false;
	}
	return true;
}

void unmount_private(const char *path)
{
	assert_int_equal(umount2(path, 0), 0);
	assert_int_equal(rmdir(path), 0);
}
