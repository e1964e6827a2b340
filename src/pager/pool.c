/* SPDX-License-Identifier: MIT */
/* See pool.h. */
#include "pager/pool.h"
#include "base/error.h"
#include "os/alloc.h"
#include "os/hooks.h"
#include "os/thread.h"
#include "pager/paging.h"
#include <errno.h>
#include <string.h>

#define WORKERS_MAX 64
#define WORKERS_DEFAULT 2
#define MAX_DEFAULT (UINT64_C(16) << 20)

void gr__jobs_init(struct gr__jobs *jobs)
{
	jobs->first = NULL;
	jobs->end = &jobs->first;
}

void gr__jobs_add(struct gr__jobs *jobs, struct gr__job *job)
{
	job->next = NULL;
	*jobs->end = job;
	jobs->end = &job->next;
}

struct gr__job *gr__jobs_take(struct gr__jobs *jobs)
{
	struct gr__job *job = jobs->first;

	if (!job)
		return NULL;
	jobs->first = job->next;
	if (!jobs->first)
		jobs->end = &jobs->first;
	return job;
}

/* ------------------------------------------------------------------------------------ buffers */

static void free_job(struct gr__job *job)
{
	gr__free(job->buf);
	gr__free(job);
}

static struct gr__job *new_job(uint64_t size)
{
	struct gr__job *job = gr__alloc(sizeof(*job));

	if (!job)
		return NULL;
	job->buf = gr__alloc_raw(size);
	job->size = size;
	if (job->buf)
		return job;
	gr__free(job);
	return NULL;
}

/* Lock held: may @size bytes more be used? */
static bool is_room(struct gr__pool *pool, uint64_t size, bool touched)
{
	/* a quarter is for those that somebody waits for, and one buffer there always is */
	uint64_t max = touched ? pool->max : pool->max - pool->max / 4;

	while (pool->used + size > max && pool->spare) {
		struct gr__job *job = pool->spare;

		pool->spare = job->next;
		pool->used -= job->size;
		pool->spare_bytes -= job->size;
		free_job(job);
	}
	return pool->used + size <= max || !pool->used;
}

struct gr__job *gr__pool_take(struct gr__pool *pool, uint64_t length, bool touched)
{
	uint64_t size = length <= GR__POOL_CHUNK ? GR__POOL_CHUNK : length;
	uint64_t max = touched ? pool->max : pool->max - pool->max / 4;
	struct gr__job *job = NULL;

	pthread_mutex_lock(&pool->lock);
	if (size == GR__POOL_CHUNK && pool->spare &&
	    (pool->used - pool->spare_bytes + size <= max || pool->used == pool->spare_bytes)) {
		job = pool->spare;
		pool->spare = job->next;
		pool->spare_bytes -= size;
	} else if (is_room(pool, size, touched)) {
		job = new_job(size);
		if (job)
			pool->used += size;
		if (pool->used > pool->most)
			pool->most = pool->used;
	}
	pthread_mutex_unlock(&pool->lock);
	if (job) {
		job->touched = touched;
		job->length = length;
		job->at = 0;
		job->rc = 0;
	}
	return job;
}

/* Lock held. */
static void put_back(struct gr__pool *pool, struct gr__job *job)
{
	if (job->size == GR__POOL_CHUNK) {
		job->next = pool->spare;
		pool->spare = job;
		pool->spare_bytes += job->size;
	} else {
		pool->used -= job->size;
		free_job(job);
	}
}

void gr__pool_put(struct gr__pool *pool, struct gr__job *job)
{
	pthread_mutex_lock(&pool->lock);
	put_back(pool, job);
	pthread_mutex_unlock(&pool->lock);
}

/* ------------------------------------------------------------------------------------- queues */

void gr__pool_submit(struct gr__pool *pool, struct gr__job *job)
{
	pthread_mutex_lock(&pool->lock);
	gr__jobs_add(job->touched ? &pool->touched : &pool->ahead, job);
	pthread_cond_signal(&pool->work);
	pthread_mutex_unlock(&pool->lock);
}

/* Lock held. Those of @jobs that are @job's, or any of @paging's, leave it. */
static unsigned take_out(struct gr__jobs *jobs, const struct gr__job *job,
			 const struct gr__paging *paging, struct gr__jobs *to)
{
	struct gr__jobs rest;
	struct gr__job *next;
	unsigned count = 0;

	gr__jobs_init(&rest);
	while ((next = gr__jobs_take(jobs))) {
		bool ours = next == job || next->paging == paging;

		gr__jobs_add(ours ? to : &rest, next);
		count += ours;
	}
	if (rest.first)
		*jobs = rest;
	return count;
}

void gr__pool_hurry(struct gr__pool *pool, struct gr__job *job)
{
	struct gr__jobs found;

	gr__jobs_init(&found);
	pthread_mutex_lock(&pool->lock);
	take_out(&pool->ahead, job, NULL, &found);
	job = gr__jobs_take(&found);
	if (job)
		gr__jobs_add(&pool->touched, job);
	pthread_mutex_unlock(&pool->lock);
}

unsigned gr__pool_cancel(struct gr__pool *pool, struct gr__paging *paging)
{
	struct gr__jobs found;
	struct gr__job *job;
	unsigned count;

	gr__jobs_init(&found);
	pthread_mutex_lock(&pool->lock);
	count = take_out(&pool->ahead, NULL, paging, &found);
	count += take_out(&pool->touched, NULL, paging, &found);
	while ((job = gr__jobs_take(&found)))
		put_back(pool, job);
	pthread_mutex_unlock(&pool->lock);
	return count;
}

/* ------------------------------------------------------------------------------------ workers */

static void run_worker(void *arg)
{
	struct gr__pool *pool = arg;
	struct gr__job *job;

	pthread_mutex_lock(&pool->lock);
	while (!pool->stop) {
		job = gr__jobs_take(&pool->touched);
		if (!job)
			job = gr__jobs_take(&pool->ahead);
		if (!job) {
			pthread_cond_wait(&pool->work, &pool->lock);
			continue;
		}
		pthread_mutex_unlock(&pool->lock);
		GR_POINT("pager.read");
		job->rc = gr__paging_read(job->paging, job);
		gr__paging_answer(job->paging, job);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
}

int gr__pool_open(struct gr__pool *pool, const struct gr_page_source *source, unsigned workers,
		  uint64_t max, uint64_t largest)
{
	unsigned count = workers ? workers : WORKERS_DEFAULT;
	int rc;

	memset(pool, 0, sizeof(*pool));
	pool->source = source;
	if (count > WORKERS_MAX)
		return gr__fail(-EINVAL, "pager: %u workers, more than %d", count, WORKERS_MAX);
	if (largest < GR__POOL_CHUNK)
		largest = GR__POOL_CHUNK;
	pool->max = max ? max : MAX_DEFAULT;
	if (pool->max < (count + 1) * largest)
		pool->max = (count + 1) * largest;
	gr__jobs_init(&pool->touched);
	gr__jobs_init(&pool->ahead);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pool->workers = gr__alloc_array(count, sizeof(pthread_t));
	if (!pool->workers) {
		rc = gr__fail(-ENOMEM, "pager: no memory for workers");
		goto close_pool;
	}
	for (; pool->count < count; pool->count++) {
		rc = gr__thread_start(run_worker, pool, "gr-pager-read",
				      &pool->workers[pool->count]);
		if (rc < 0) {
			rc = gr__fail(rc, "pager: worker %u cannot start: %s", pool->count,
				      strerrordesc_np(-rc));
			goto close_pool;
		}
	}
	return 0;

close_pool:
	gr__pool_close(pool);
	return rc;
}

void gr__pool_close(struct gr__pool *pool)
{
	struct gr__job *job;

	if (!pool->touched.end)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
	while (pool->count)
		gr__thread_join(pool->workers[--pool->count]);
	while ((job = pool->spare)) {
		pool->spare = job->next;
		free_job(job);
	}
	gr__free(pool->workers);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	memset(pool, 0, sizeof(*pool));
}
