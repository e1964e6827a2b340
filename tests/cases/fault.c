/* SPDX-License-Identifier: MIT */
/* See fault.h. */
#include "fault.h"
#include "../fault/tally.h"
#include "os/hooks.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BASE GIB

/* ---------------------------------------------------------------------------- failing calls */

static struct {
	int position; /* atomic: the call that fails, counted down */
	int error;
	const char *call;    /* atomic: that failed */
	const char *missing; /* always fails; const while armed */
	unsigned seen;	     /* atomic: calls that could have */
} armed;

static int fail_one(const char *call)
{
	if (armed.missing && !strcmp(armed.missing, call))
		return EOPNOTSUPP;
	__atomic_add_fetch(&armed.seen, 1, __ATOMIC_SEQ_CST);
	if (__atomic_sub_fetch(&armed.position, 1, __ATOMIC_SEQ_CST) != 0)
		return 0;
	__atomic_store_n(&armed.call, call, __ATOMIC_SEQ_CST);
	return armed.error;
}

static void arm(int position, int error)
{
	armed.position = position;
	armed.error = error;
	armed.call = NULL;
	armed.seen = 0;
	gr__hook_fault = fail_one;
}

static void disarm(void)
{
	gr__hook_fault = NULL;
}

unsigned fault_count(void (*fn)(struct fault_world *world), struct fault_world *world)
{
	arm(0, 0);
	fn(world);
	disarm();
	return armed.seen;
}

/* ------------------------------------------------------------------------------ allocations */

/*
 * The linker leads the library's and our own calls through these (--wrap), but not libc's. The
 * names are the linker's. NOLINTBEGIN(bugprone-reserved-identifier)
 */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
int __real_posix_memalign(void **memory, size_t align, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
int __wrap_posix_memalign(void **memory, size_t align, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *memory);
/* NOLINTEND(bugprone-reserved-identifier) */

static int object_count; /* atomic */

static int objects(void)
{
	return __atomic_load_n(&object_count, __ATOMIC_SEQ_CST);
}

static void *count_object(void *memory)
{
	if (memory)
		__atomic_add_fetch(&object_count, 1, __ATOMIC_SEQ_CST);
	return memory;
}

void *__wrap_malloc(size_t size)
{
	return count_object(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
	return count_object(__real_calloc(count, size));
}

int __wrap_posix_memalign(void **memory, size_t align, size_t size)
{
	int rc = __real_posix_memalign(memory, align, size);

	if (!rc)
		count_object(*memory);
	return rc;
}

char *__wrap_strdup(const char *text)
{
	return count_object(__real_strdup(text));
}

void __wrap_free(void *memory)
{
	if (memory)
		__atomic_sub_fetch(&object_count, 1, __ATOMIC_SEQ_CST);
	__real_free(memory);
}

/* ------------------------------------------------------------------------------------ world */

static struct gr_block *make(struct fault_world *world, const char *name, enum gr_backing backing,
			     unsigned flags)
{
	struct gr_block_opts opts = {
		.name = name,
		.backing = backing,
		.flags = flags | GR_DELETE_UNMAP,
		.length = 4 * PAGE,
		.max_length = 16 * PAGE,
		.path = backing == GR_BACKING_FILE ? world->directory : NULL,
	};
	struct gr_block *block;

	assert_ok(gr_block_new(world->ram, &opts, &block));
	return block;
}

static struct ledger books[2];
static char directory[64];

void fault_world_open(struct fault_world *world, bool listeners, const struct fault_case *operation)
{
	unsigned i;

	memset(world, 0, sizeof(*world));
	world->directory = directory;
	snprintf(directory, sizeof(directory), "/tmp/guestram-case-XXXXXX");
	assert_non_null(mkdtemp(directory));
	world->lent = case_pages(4 * PAGE);
	if (operation && operation->no_ram)
		return;
	world->ram = case_ram();
	if (listeners) {
		world->books = books;
		ledger_open(&books[0], world->ram, -1);
		ledger_open(&books[1], world->ram, 1);
	}
	world->flat = case_space(world->ram, "flat");
	world->wide = case_space(world->ram, "wide");
	world->anon = make(world, "anon", GR_BACKING_ANON, 0);
	world->memfd = make(world, "memfd", GR_BACKING_MEMFD, 0);
	world->shared = make(world, "shared", GR_BACKING_FILE, GR_TEMPORARY | GR_SHARED);
	world->spare = make(world, "spare", GR_BACKING_ANON, 0);
	for (i = 0; i < 64; i++) /* a full chunk of ranges */
		case_map(world->flat, BASE + 2 * i * PAGE, world->anon, i % 4 * PAGE, PAGE, RW);
	case_map(world->wide, 0, world->anon, 0, 4 * PAGE, RW);
	case_map(world->wide, 300 * GIB, world->anon, 0, 16 * PAGE, GR_READ);
	case_map(world->wide, TOP(PAGE), world->memfd, 0, PAGE, RW);
	if (operation && operation->prepare)
		operation->prepare(world);
}

void fault_world_close(struct fault_world *world)
{
	disarm();
	if (world->ram)
		case_close(world->ram);
	if (world->books) {
		assert_int_equal(books[0].wrong + books[1].wrong, 0);
		assert_int_equal(books[0].range_count + books[0].block_count, 0);
	}
	munmap(world->lent, 4 * PAGE);
	if (rmdir(directory) < 0)
		fail_msg("%s: %s", directory, strerror(errno)); /* something is left in it */
}

/* ------------------------------------------------------------------------------------ state */

struct snapshot {
	struct process_state process;
	struct case_table flat, wide;
	struct gr_ram_stats stats;
	struct gr_block_info infos[16];
	size_t blocks;
	int files, released;
};

static int take_info(void *context, struct gr_block *block)
{
	struct snapshot *now = context;

	if (now->blocks < COUNT_OF(now->infos))
		gr_block_get_info(block, &now->infos[now->blocks++]);
	return 0;
}

static int count_files(const char *path)
{
	DIR *handle = opendir(path);
	int count = 0;

	assert_non_null(handle);
	while (readdir(handle))
		count++;
	closedir(handle);
	return count;
}

static void snapshot_take(struct fault_world *world, struct snapshot *now)
{
	memset(now, 0, sizeof(*now));
	if (world->ram) {
		case_drain(world->ram);
		case_table_take(world->flat, &now->flat);
		case_table_take(world->wide, &now->wide);
		gr_ram_get_stats(world->ram, &now->stats);
		gr_read_begin();
		gr_ram_each_block(world->ram, take_info, now);
		gr_read_end();
	}
	now->files = count_files(world->directory);
	now->released = case_released(&world->released);
	process_take(&now->process);
}

static bool same_infos(const struct snapshot *a, const struct snapshot *b)
{
	size_t i;

	if (a->blocks != b->blocks)
		return false;
	for (i = 0; i < a->blocks; i++) {
		const struct gr_block_info *x = &a->infos[i], *y = &b->infos[i];

		if (strcmp(x->name, y->name) != 0 || x->host != y->host || x->length != y->length ||
		    x->max_length != y->max_length || x->ram_offset != y->ram_offset ||
		    x->fd != y->fd || x->flags != y->flags || x->mapped != y->mapped ||
		    x->pins != y->pins)
			return false;
	}
	return true;
}

static bool same_tables(const struct case_table *a, const struct case_table *b)
{
	size_t i;

	if (a->count != b->count)
		return false;
	for (i = 0; i < a->count; i++)
		if (!case_same_range(&a->ranges[i], &b->ranges[i]))
			return false;
	return true;
}

/* A sentence, or NULL when nothing differs. */
static const char *difference(const struct snapshot *a, const struct snapshot *b, bool republishes)
{
	const struct gr_ram_stats *x = &a->stats, *y = &b->stats;

	if (x->blocks != y->blocks || x->spaces != y->spaces || x->ranges != y->ranges)
		return "blocks, spaces or ranges";
	if (x->bytes != y->bytes || x->bytes_reserved != y->bytes_reserved)
		return "bytes";
	if (x->index_bytes != y->index_bytes || x->range_bytes != y->range_bytes)
		return "bytes of the views";
	if (x->blocks_pending != y->blocks_pending || x->bytes_pending != y->bytes_pending)
		return "pending blocks";
	if (x->pins != y->pins)
		return "pins";
	if (!republishes && x->generation != y->generation)
		return "generation";
	if (!same_tables(&a->flat, &b->flat) || !same_tables(&a->wide, &b->wide))
		return "ranges";
	if (!same_infos(a, b))
		return "blocks";
	if (a->files != b->files)
		return "files";
	if (a->released != b->released)
		return "release callbacks";
	if (strcmp(a->process.fds, b->process.fds) != 0)
		return "descriptors";
	if (strcmp(a->process.maps, b->process.maps) != 0)
		return "mappings";
	return NULL;
}

/* What an operation ends in does not depend on whether it failed before. But for addresses in this
 * process, the worlds of all runs are alike. */
static const char *other_end(const struct snapshot *a, const struct snapshot *b)
{
	const struct case_table *x[2] = {&a->flat, &a->wide}, *y[2] = {&b->flat, &b->wide};
	size_t i, k;

	if (a->blocks != b->blocks)
		return "number of blocks";
	for (i = 0; i < a->blocks; i++)
		if (a->infos[i].ram_offset != b->infos[i].ram_offset ||
		    a->infos[i].length != b->infos[i].length ||
		    a->infos[i].mapped != b->infos[i].mapped)
			return "RAM offset, length or ranges of a block";
	for (k = 0; k < 2; k++) {
		if (x[k]->count != y[k]->count)
			return "number of ranges";
		for (i = 0; i < x[k]->count; i++)
			if (x[k]->ranges[i].addr != y[k]->ranges[i].addr ||
			    x[k]->ranges[i].length != y[k]->ranges[i].length ||
			    x[k]->ranges[i].offset != y[k]->ranges[i].offset ||
			    x[k]->ranges[i].access != y[k]->ranges[i].access)
				return "ranges";
	}
	return NULL;
}

/* Nothing is kept busy: all can be changed and taken away. */
static int take_first(void *context, struct gr_block *block)
{
	*(struct gr_block **)context = block;
	return 1;
}

static void take_apart(struct fault_world *world)
{
	struct gr_block *block;
	int found;

	for (;;) {
		gr_read_begin();
		found = gr_ram_each_block(world->ram, take_first, &block);
		gr_read_end();
		if (!found)
			break;
		assert_ok(gr_block_delete(block));
	}
	assert_ok(gr_space_close(world->flat));
	assert_ok(gr_space_close(world->wide));
	assert_ok(gr_space_close(world->space));
	assert_ok(gr_listener_close(world->extra));
}

static void assert_books(struct fault_world *world)
{
	struct gr_space *spaces[3] = {world->flat, world->wide, world->space};
	size_t i;

	for (i = 0; world->ram && world->books && i < 2; i++)
		assert_ledger(&world->books[i], world->ram, spaces, world->space ? 3 : 2);
}

/* ------------------------------------------------------------------------------------- runs */

/* False once the operation met no fault. */
static bool run_once(const struct fault_case *operation, bool listeners, int position, int error)
{
	static struct snapshot before, after, end;
	static struct fault_world world;
	const char *call, *differs;
	int rc;

	fault_world_open(&world, listeners, operation);
	snapshot_take(&world, &before);
	armed.missing = operation->missing;
	arm(position, error);
	rc = operation->run(&world);
	if (world.ram)
		gr_ram_drain(world.ram, 10000);
	disarm();
	call = armed.call;
	if (rc < 0 && !call) {
		print_error("%s: %d: %s\n", operation->name, rc, gr_last_error());
		fail();
	}
	if (rc < 0) {
		if (!gr_last_error()[0])
			fail_msg("%s: %s failed and nothing is said", operation->name, call);
		snapshot_take(&world, &after);
		differs = difference(&before, &after, operation->republishes);
		if (differs) {
			print_error("%s: call %d (%s) failed with %d, result %d (%s): %s differ\n",
				    operation->name, position, call, error, rc, gr_last_error(),
				    differs);
			if (strcmp(before.process.maps, after.process.maps) != 0)
				print_error("%s----\n%s", before.process.maps, after.process.maps);
			fail();
		}
		assert_books(&world);
		rc = operation->run(&world);
		if (rc < 0) {
			print_error("%s: after call %d (%s) failed, the next try: %d: %s\n",
				    operation->name, position, call, rc, gr_last_error());
			fail();
		}
	}
	if (call && operation->covers)
		tally_fault(operation->covers, call);
	else if (call)
		tally_add(operation->name, strcspn(operation->name, " "), call, 1);
	/* a fault may also have been got over: that is a success like any other */
	assert_books(&world);
	snapshot_take(&world, &after);
	if (!position)
		end = after; /* the run without a fault comes first */
	differs = other_end(&end, &after);
	if (differs)
		fail_msg("%s: after call %d (%s) had failed, it ends in another state: %s",
			 operation->name, position, call ? call : "none", differs);
	if (operation->check)
		operation->check(&world);
	if (world.ram)
		take_apart(&world);
	fault_world_close(&world);
	return call != NULL;
}

void fault_run(const struct fault_case *operation)
{
	/* the second: what many calls answer where a feature is missing */
	static const int errors[] = {ENOMEM, EOPNOTSUPP, EINVAL};
	static struct process_state before;
	unsigned positions;
	size_t i;
	int listeners, heap;

	for (listeners = 0; listeners < (operation->no_ram ? 1 : 2); listeners++) {
		/* once without a fault: stacks of threads and the like are there from then on */
		run_once(operation, listeners, 0, 0);
		process_take(&before);
		for (i = 0; i < COUNT_OF(errors); i++) {
			positions = 1;
			heap = objects();
			while (run_once(operation, listeners, (int)positions, errors[i]))
				positions++;
			if (objects() != heap)
				fail_msg("%s: %d objects were not freed", operation->name,
					 objects() - heap);
			if (positions == 1)
				tally_add(operation->name, strcspn(operation->name, " "), "-", 0);
			if (positions - 1 < operation->at_least)
				fail_msg("%s: only %u calls that can fail", operation->name,
					 positions - 1);
		}
		assert_same_process(&before);
	}
}

void fault_run_named(const struct fault_case *operations, size_t count, const char *start)
{
	size_t i, found = 0;

	for (i = 0; i < count; i++) {
		if (strncmp(operations[i].name, start, strlen(start)) != 0)
			continue;
		found++;
		fault_run(&operations[i]);
	}
	assert_true(found);
}
