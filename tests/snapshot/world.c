/* SPDX-License-Identifier: MIT */
#include "world.h"
#include <dirent.h>
#include <guestram/mark.h>

static char folder[64];

int folder_open(void **unused)
{
	/* files are synced often, which takes long on a disk */
	snprintf(folder, sizeof(folder), "%s/guestram-snapshot-XXXXXX",
		 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
	return mkdtemp(folder) ? 0 : -1;
}

/* How many files there are; @removed: there were. */
static unsigned walk(bool removed)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	unsigned count = 0;
	char path[400];

	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
		if (removed)
			unlink(path);
		count++;
	}
	closedir(dir);
	return count;
}

int folder_close(void **unused)
{
	walk(true);
	return rmdir(folder);
}

unsigned files_there(void)
{
	return walk(false);
}

const char *file_at(const char *name)
{
	static char paths[4][200];
	static unsigned next;

	next = (next + 1) % 4;
	snprintf(paths[next], sizeof(paths[next]), "%s/%s", folder, name);
	return paths[next];
}

bool file_exists(const char *name)
{
	return !access(file_at(name), F_OK);
}

void world_open(struct world *world)
{
	assert_ok(gr_ram_open(NULL, &world->ram));
	world->low = new_anon(world->ram, "low", LOW_BYTES, LOW_MAX);
	world->high = new_memfd(world->ram, "high", HIGH_BYTES);
	world->tiny = new_anon(world->ram, "tiny", PAGE, PAGE);
}

void world_close(struct world *world)
{
	assert_ok(gr_ram_close(world->ram));
}

char *host_of(struct gr_block *block)
{
	return info_of(block).host;
}

void write_page(struct gr_block *block, uint64_t page, uint64_t seed)
{
	uint64_t *words = (uint64_t *)(host_of(block) + page * PAGE);
	struct rng rng = {seed};

	gr_read_begin();
	/* half of it is hard to pack */
	for (unsigned i = 0; i < PAGE / 8; i++)
		__atomic_store_n(&words[i], i % 2 ? seed : rng_next(&rng), __ATOMIC_RELAXED);
	gr_mark_host(words, PAGE);
	gr_read_end();
}

void zero_page(struct gr_block *block, uint64_t page)
{
	uint64_t *words = (uint64_t *)(host_of(block) + page * PAGE);

	gr_read_begin();
	for (unsigned i = 0; i < PAGE / 8; i++)
		__atomic_store_n(&words[i], 0, __ATOMIC_RELAXED);
	gr_mark_host(words, PAGE);
	gr_read_end();
}

void scribble(struct world *world, struct rng *rng, unsigned of)
{
	struct gr_block *blocks[] = {world->low, world->high, world->tiny};

	for (unsigned b = 0; b < COUNT_OF(blocks); b++)
		for (uint64_t page = 0; page < info_of(blocks[b]).length / PAGE; page++) {
			if (!rng_one_in(rng, of))
				continue;
			if (rng_one_in(rng, 4))
				zero_page(blocks[b], page);
			else
				write_page(blocks[b], page, rng_next(rng));
		}
}

static void compare(const char *what, const char *a, const char *b, uint64_t length,
		    const char *file, int line)
{
	for (uint64_t at = 0; at < length; at += PAGE)
		if (memcmp(a + at, b + at, PAGE) != 0) {
			print_error("%s differs at page %llu\n", what,
				    (unsigned long long)(at / PAGE));
			_fail(file, line);
		}
}

void assert_same_memory_at(struct world *a, struct world *b, const char *file, int line)
{
	struct copy copy;

	copy_take(&copy, a);
	assert_is_copy_at(b, &copy, file, line);
	copy_free(&copy);
}

void copy_take(struct copy *copy, struct world *world)
{
	copy->low_bytes = info_of(world->low).length;
	copy->low = malloc(copy->low_bytes);
	copy->high = malloc(HIGH_BYTES);
	copy->tiny = malloc(PAGE);
	memcpy(copy->low, host_of(world->low), copy->low_bytes);
	memcpy(copy->high, host_of(world->high), HIGH_BYTES);
	memcpy(copy->tiny, host_of(world->tiny), PAGE);
}

void assert_is_copy_at(struct world *world, const struct copy *copy, const char *file, int line)
{
	if (info_of(world->low).length != copy->low_bytes) {
		print_error("low uses %llu bytes, not %llu\n",
			    (unsigned long long)info_of(world->low).length,
			    (unsigned long long)copy->low_bytes);
		_fail(file, line);
	}
	compare("low", host_of(world->low), copy->low, copy->low_bytes, file, line);
	compare("high", host_of(world->high), copy->high, HIGH_BYTES, file, line);
	compare("tiny", host_of(world->tiny), copy->tiny, PAGE, file, line);
}

void copy_free(struct copy *copy)
{
	free(copy->low);
	free(copy->high);
	free(copy->tiny);
}

struct gr_snapshot *open_file(const char *name)
{
	struct gr_snapshot *snapshot = NULL;

	assert_ok(gr_snapshot_open(file_at(name), NULL, &snapshot));
	return snapshot;
}

void load_new_at(const char *name, struct world *world, const char *file, int line)
{
	struct gr_snapshot *snapshot = NULL;

	assert_ok_at(gr_snapshot_open(file_at(name), NULL, &snapshot), "open", file, line);
	assert_ok_at(gr_snapshot_verify(snapshot, NULL, NULL), "verify", file, line);
	world_open(world);
	assert_ok_at(gr_snapshot_load(snapshot, world->ram, NULL, NULL), "load", file, line);
	gr_snapshot_close(snapshot);
}
