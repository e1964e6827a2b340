/* SPDX-License-Identifier: MIT */
/* What is refused before anything is made, each with a sentence that names the reason. */
#include "backing_util.h"

static char page[4096] __attribute__((aligned(4096)));

static void release(void *context, void *host, uint64_t length)
{
	++*(int *)context;
}

#define ANON .backing = GR_BACKING_ANON
#define MEMFD .backing = GR_BACKING_MEMFD
#define FILE_ .backing = GR_BACKING_FILE
#define CALLER .backing = GR_BACKING_CALLER
#define ONE_PAGE .length = 4096

static const struct {
	struct gr_block_opts opts;
	int rc;
	const char *says; /* a part of the sentence */
} refused[] = {
	{{ANON, ONE_PAGE, .flags = GR_THP | GR_NO_THP}, -EINVAL, "GR_THP and GR_NO_THP"},
	{{ANON, ONE_PAGE, .flags = 1u << 31}, -EINVAL, "0x80000000"},
	{{ANON, ONE_PAGE, .flags = GR_READ_ONLY}, -EINVAL, "GR_READ_ONLY"},
	{{ANON, ONE_PAGE, .flags = GR_CREATE}, -EINVAL, "GR_CREATE"},
	{{ANON, ONE_PAGE, .flags = GR_TEMPORARY}, -EINVAL, "GR_TEMPORARY"},
	{{ANON, ONE_PAGE, .flags = GR_UNSEALED}, -EINVAL, "GR_UNSEALED"},
	{{ANON, ONE_PAGE, .flags = GR_SURVIVE_TRUNCATION}, -EINVAL, "GR_SURVIVE_TRUNCATION"},
	{{ANON, ONE_PAGE, .flags = GR_SHARED | GR_MERGEABLE}, -EINVAL, "GR_MERGEABLE"},
	{{ANON, ONE_PAGE, .path = "/tmp/x"}, -EINVAL, "path"},
	{{ANON, ONE_PAGE, .fd = 2}, -EINVAL, "fd"},
	{{ANON, ONE_PAGE, .fd_offset = 4096}, -EINVAL, "fd_offset"},
	{{ANON, ONE_PAGE, .host = page}, -EINVAL, "host"},
	{{ANON, ONE_PAGE, .release = release}, -EINVAL, "release"},
	{{ANON, ONE_PAGE, .reserved = {[3] = 1}}, -EINVAL, "reserved[3]"},
	{{ANON, ONE_PAGE, .flags = GR_WINDOWED}, -EINVAL, "GR_WINDOWED"},
	{{ANON, ONE_PAGE, .max_windows = 1}, -EINVAL, "max_windows"},
	{{ANON, ONE_PAGE, .align = 3 * 4096}, -EINVAL, "power of two"},
	{{ANON, ONE_PAGE, .page_size = 8192}, -EINVAL, "0x2000"},
	{{ANON, ONE_PAGE, .page_size = 1}, -EINVAL, "page_size"},
	{{ANON, ONE_PAGE, .page_size = 2 * MIB, .flags = GR_THP}, -EINVAL, "GR_THP"},
	{{ANON, .length = 0}, -EINVAL, "length 0"},
	{{ANON, .length = 8192, .max_length = 4096}, -EINVAL, "max_length"},
	{{ANON, .length = UINT64_MAX}, -ERANGE, "2^64"},
	{{ANON, .length = UINT64_MAX - 4095}, -ERANGE, "2^63"},
	{{ANON, .length = 1, .max_length = UINT64_MAX - 100}, -ERANGE, "2^64"},
	{{ANON, .length = UINT64_MAX - 4096, .page_size = 2 * MIB}, -ERANGE, "2^64"},
	{{ANON, .length = 1 << 20, .max_length = INT64_MAX - 4095, .align = 1ull << 63},
	 -ENOMEM,
	 "0xfffffffffffff000"},
	{{ANON, .length = 1ull << 62}, -ENOMEM, "reserving"},
	{{ANON, ONE_PAGE, .numa_nodes = "0"}, -EINVAL, "numa_policy"},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND}, -EINVAL, "numa_nodes"},
	{{ANON, ONE_PAGE, .numa_policy = 77, .numa_nodes = "0"}, -EINVAL, "77"},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND, .numa_nodes = ""}, -EINVAL, "\"\""},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND, .numa_nodes = "0,"}, -EINVAL, "\"0,\""},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND, .numa_nodes = "1-0"}, -EINVAL, "1-0"},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND, .numa_nodes = "0,1-0"}, -EINVAL, "0,1-0"},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND, .numa_nodes = "all"}, -EINVAL, "all"},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND, .numa_nodes = "0 "}, -EINVAL, "0 "},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND, .numa_nodes = "1024"}, -EINVAL, "1024"},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND, .numa_nodes = "4294967296"}, -EINVAL, "429"},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_BIND, .numa_nodes = "0,1023"},
	 -EINVAL,
	 "no node 1023"},
	{{ANON, ONE_PAGE, .numa_policy = GR_NUMA_PREFERRED, .numa_nodes = "0-1"},
	 -EINVAL,
	 "one node"},
	{{MEMFD, ONE_PAGE, .flags = GR_READ_ONLY}, -EINVAL, "GR_READ_ONLY"},
	{{MEMFD, ONE_PAGE, .flags = GR_MERGEABLE}, -EINVAL, "GR_MERGEABLE"},
	{{MEMFD, ONE_PAGE, .path = "/tmp"}, -EINVAL, "path"},
	{{FILE_, ONE_PAGE, .fd = -1}, -EINVAL, "without path or fd"},
	{{FILE_, ONE_PAGE, .path = "/tmp/x", .fd = 7}, -EINVAL, "which"},
	{{FILE_, ONE_PAGE, .fd = 0, .flags = GR_CREATE}, -EINVAL, "path"},
	{{FILE_, ONE_PAGE, .fd = 0, .flags = GR_TEMPORARY}, -EINVAL, "path"},
	{{FILE_, ONE_PAGE, .path = "/tmp", .flags = GR_TEMPORARY | GR_CREATE}, -EINVAL, "GR_TEMP"},
	{{FILE_, ONE_PAGE, .path = "/tmp", .flags = GR_TEMPORARY | GR_READ_ONLY}, -EINVAL, "ONLY"},
	{{FILE_, ONE_PAGE, .path = "/tmp/x", .flags = GR_CREATE | GR_READ_ONLY}, -EINVAL, "ONLY"},
	{{FILE_, ONE_PAGE, .path = "/tmp/x", .flags = GR_SURVIVE_TRUNCATION},
	 -EINVAL,
	 "gr_sigbus_install"},
	{{FILE_, ONE_PAGE, .path = "/tmp"}, -EINVAL, "directory"},
	{{FILE_, ONE_PAGE, .path = "/dev/null"}, -ENOTSUP, "regular"},
	{{FILE_, ONE_PAGE, .path = "/nowhere/x"}, -ENOENT, "/nowhere/x"},
	{{FILE_, ONE_PAGE, .path = "/nowhere/x", .flags = GR_CREATE}, -ENOENT, "/nowhere/x"},
	{{FILE_, ONE_PAGE, .path = "/nowhere", .flags = GR_TEMPORARY}, -ENOENT, "/nowhere"},
	{{FILE_, ONE_PAGE, .fd = 999999}, -EBADF, "(fd)"},
	{{FILE_, ONE_PAGE, .path = "/tmp", .flags = GR_TEMPORARY, .fd_offset = 100},
	 -EINVAL,
	 "fd_offset"},
	{{FILE_, ONE_PAGE, .path = "/tmp", .flags = GR_TEMPORARY, .fd_offset = INT64_MAX - 4095},
	 -ERANGE,
	 "2^63"},
	{{FILE_, ONE_PAGE, .path = "/tmp", .flags = GR_TEMPORARY, .fd_offset = UINT64_MAX - 4095},
	 -ERANGE,
	 "2^63"},
	{{FILE_, .length = 2 * MIB, .path = "/tmp", .flags = GR_TEMPORARY, .page_size = 2 * MIB},
	 -EINVAL,
	 "0x200000"},
	{{CALLER, ONE_PAGE}, -EINVAL, "without host"},
	{{CALLER, ONE_PAGE, .host = page + 8}, -EINVAL, "multiple"},
	{{CALLER, .length = 100, .host = page}, -EINVAL, "lengths"},
	{{CALLER, ONE_PAGE, .max_length = 5000, .host = page}, -EINVAL, "lengths"},
	{{CALLER, ONE_PAGE, .host = page, .align = 1ull << 50}, -EINVAL, "multiple"},
	{{CALLER, .length = 0, .host = page}, -EINVAL, "length 0"},
	{{CALLER, .length = 8192, .host = (void *)(UINTPTR_MAX - 4095)}, -ERANGE, "2^64"},
	{{CALLER, ONE_PAGE, .host = page, .flags = GR_SHARED}, -EINVAL, "GR_SHARED"},
	{{CALLER, ONE_PAGE, .host = page, .flags = GR_LOCKED}, -EINVAL, "GR_LOCKED"},
	{{CALLER, ONE_PAGE, .host = page, .flags = GR_PREALLOC}, -EINVAL, "GR_PREALLOC"},
	{{CALLER, ONE_PAGE, .host = page, .numa_policy = GR_NUMA_BIND, .numa_nodes = "0"},
	 -EINVAL,
	 "caller"},
	{{.backing = 5, ONE_PAGE}, -EINVAL, "backing 5"},
	{{.backing = -1, ONE_PAGE}, -EINVAL, "backing"},
};

static void test_refused_with_a_sentence_and_nothing_left(void **unused)
{
	static struct state before;
	struct gr__mem mem;
	size_t i;

	take_state(&before);
	for (i = 0; i < COUNT_OF(refused); i++) {
		struct gr_block_opts opts = refused[i].opts;
		int rc;

		opts.name = "refused";
		rc = gr__mem_map(&opts, &mem);
		/* The sentence names the block too; os/numa.h does not know it. */
		if (rc != refused[i].rc || !strstr(gr_last_error(), refused[i].says) ||
		    !(opts.numa_policy || opts.numa_nodes || strstr(gr_last_error(), "refused")))
			fail_msg("row %zu: %d \"%s\", not %d \"…%s…\"", i, rc, gr_last_error(),
				 refused[i].rc, refused[i].says);
	}
	assert_same_state(&before);
}

/* The caller keeps his memory when the block is not made, and gets it back once when it is. */
static void test_caller_memory_is_released_once_and_stays_mapped(void **unused)
{
	static struct state before;
	int released = 0;
	struct gr_block_opts opts = {
		.name = "caller",
		CALLER,
		ONE_PAGE,
		.host = page,
		.release = release,
		.release_context = &released,
	};
	struct gr__mem mem;

	take_state(&before);
	memset(page, 0x5a, sizeof(page));
	map_ok(&opts, &mem);
	assert_ptr_equal(mem.host, page);
	assert_int_equal(mem.length, PAGE);
	assert_int_equal(mem.reserved_length, 0);
	assert_int_equal(gr__mem_resize(&mem, PAGE), -ENOTSUP);
	assert_int_equal(gr__mem_discard(&mem, 0, PAGE), -ENOTSUP);
	assert_int_equal(released, 0);
	gr__mem_undo(&mem);
	assert_int_equal(released, 0);
	map_ok(&opts, &mem);
	gr__mem_release(&mem);
	assert_int_equal(released, 1);
	assert_int_equal(page[4095], 0x5a);
	assert_same_state(&before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused_with_a_sentence_and_nothing_left),
		cmocka_unit_test(test_caller_memory_is_released_once_and_stays_mapped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
