/* SPDX-License-Identifier: MIT */
/*
 * GR_PREALLOC: every page of a new piece gets its memory now, on several threads, since most of the
 * time goes into filling pages with zeroes.
 *
 * Nothing here may raise SIGBUS. Blocks of a shared file are allocated by fallocate(2) first; then
 * the kernel fetches the pages, and answers -EFAULT for what a touch could not have had. Kernels
 * before 5.14 cannot; there each page is touched, which is safe because the pages are private
 * (accounted), huge (reserved) or allocated already.
 *
 * Threads: the calling one and helpers that it joins; they share struct job. A helper that does not
 * start is not missed: chunks are taken, not dealt out.
 */
#include "backing/kind.h"
#include "base/error.h"
#include "base/range.h"
#include "os/file.h"
#include "os/memory.h"
#include "os/thread.h"
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#define MAX_THREADS 64
#define DEFAULT_MAX_THREADS 16
/* Below this much for each, starting a thread costs more than it saves. */
#define DEFAULT_MIN_SHARE (UINT64_C(32) << 20)
#define MIN_CHUNK (UINT64_C(2) << 20)

struct job {
	char *start;	    /* const */
	uint64_t length;    /* const */
	uint64_t chunk;	    /* const */
	uint64_t page_size; /* const */
	bool write;	    /* const: read-only pages are fetched as they are in the file */
	bool may_touch;	    /* const */
	/* Relaxed, both: they hand out work; joining the threads orders what they did. */
	_Atomic uint64_t next; /* offset of the first chunk that nobody has taken */
	atomic_int rc;	       /* the first error */
};

static void touch_pages(char *start, uint64_t length, uint64_t page_size)
{
	uint64_t offset;

	/*
	 * Adding nothing, atomically: others who share the file may be writing to it. A word, since
	 * some processors have no such instruction for a byte.
	 */
	for (offset = 0; offset < length; offset += page_size)
		__atomic_fetch_add((uint32_t *)(start + offset), 0, __ATOMIC_RELAXED);
}

static int fetch_chunk(const struct job *job, uint64_t offset, uint64_t length)
{
	int rc = gr__os_populate(job->start + offset, length, job->write);

	if (rc != -EINVAL)
		return rc;
	if (!job->write)
		return 0; /* they are in the file, and come when they are read */
	if (!job->may_touch)
		return -ENOTSUP;
	touch_pages(job->start + offset, length, job->page_size);
	return 0;
}

static void fetch_chunks(void *arg)
{
	struct job *job = arg;
	uint64_t offset, left;
	int none = 0, rc;

	while (!atomic_load_explicit(&job->rc, memory_order_relaxed)) {
		offset = atomic_fetch_add_explicit(&job->next, job->chunk, memory_order_relaxed);
		if (offset >= job->length)
			return;
		left = job->length - offset;
		rc = fetch_chunk(job, offset, left < job->chunk ? left : job->chunk);
		if (rc < 0)
			atomic_compare_exchange_strong_explicit(
				&job->rc, &none, rc, memory_order_relaxed, memory_order_relaxed);
	}
}

static unsigned count_threads(const struct gr__mem *mem, uint64_t length)
{
	uint64_t threads = mem->prealloc_threads, most = MAX_THREADS;

	if (!threads) {
		threads = gr__os_processors();
		most = length / DEFAULT_MIN_SHARE;
		if (most > DEFAULT_MAX_THREADS)
			most = DEFAULT_MAX_THREADS;
	}
	if (threads > most)
		threads = most;
	return threads ? threads : 1;
}

static int run(struct job *job, unsigned threads)
{
	pthread_t helpers[MAX_THREADS];
	unsigned started = 0, i;

	while (started + 1 < threads &&
	       !gr__thread_start(fetch_chunks, job, "guestram-fetch", &helpers[started]))
		started++;
	fetch_chunks(job);
	for (i = 0; i < started; i++)
		gr__thread_join(helpers[i]);
	return atomic_load_explicit(&job->rc, memory_order_relaxed);
}

/* Blocks for a shared file. Sets @allocated where the file system could. */
static int allocate_in_file(struct gr__mem *mem, uint64_t offset, uint64_t length, bool *allocated)
{
	int rc;

	*allocated = false;
	if (mem->fd < 0 || !(mem->flags & GR_SHARED) || mem->flags & GR_READ_ONLY)
		return 0;
	rc = gr__file_allocate(mem->fd, mem->fd_offset + offset, length);
	if (rc == -EOPNOTSUPP)
		return 0;
	if (rc < 0)
		return gr__fail(rc, "block %s: GR_PREALLOC: fallocate of %#llx bytes at %#llx: %s",
				mem->name, (unsigned long long)length,
				(unsigned long long)(mem->fd_offset + offset),
				strerrordesc_np(-rc));
	*allocated = true;
	return 0;
}

int gr__populate(struct gr__mem *mem, uint64_t offset, uint64_t length)
{
	unsigned threads = count_threads(mem, length);
	struct job job = {
		.start = gr__mem_at(mem, offset),
		.length = length,
		.page_size = mem->page_size,
		.write = !(mem->flags & GR_READ_ONLY),
	};
	bool allocated;
	int rc;

	/* More than there is would be fetched until the kernel kills somebody. */
	if (mem->backing != GR_BACKING_FILE && !gr__mem_is_huge(mem) &&
	    length > gr__os_total_memory())
		return gr__fail(-ENOMEM,
				"block %s: GR_PREALLOC of %#llx bytes: the machine has %#llx",
				mem->name, (unsigned long long)length,
				(unsigned long long)gr__os_total_memory());
	rc = allocate_in_file(mem, offset, length, &allocated);
	if (rc < 0)
		return rc;
	job.may_touch =
		allocated || gr__mem_is_huge(mem) || mem->fd < 0 || !(mem->flags & GR_SHARED);
	/* length is a multiple of page_size and fits the address space: this cannot wrap */
	gr__align_up(length / threads / 4 + 1,
		     mem->page_size > MIN_CHUNK ? mem->page_size : MIN_CHUNK, &job.chunk);
	rc = run(&job, threads);
	if (rc == -EFAULT)
		rc = mem->fd < 0 || gr__mem_is_huge(mem) ? -ENOMEM : -ENOSPC;
	if (rc == -EHWPOISON)
		rc = -EIO;
	if (rc < 0)
		return gr__fail(rc, "block %s: GR_PREALLOC of %#llx bytes: fetching the pages: %s",
				mem->name, (unsigned long long)length, strerrordesc_np(-rc));
	return 0;
}
