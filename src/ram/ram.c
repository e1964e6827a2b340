/* SPDX-License-Identifier: MIT */
/* Opening a RAM, its stats and its log. gr_ram_close() is in space/teardown.c: it ends spaces too.
 */
#include "ram/ram.h"
#include "base/error.h"
#include "os/alloc.h"
#include "ram/directory.h"
#include "ram/reclaim.h"
#include "ram/registry.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static bool is_zero(const uint64_t *words, size_t count)
{
	size_t i;

	for (i = 0; i < count; i++)
		if (words[i])
			return false;
	return true;
}

int gr_ram_open(const struct gr_ram_opts *opts, struct gr_ram **result)
{
	pthread_condattr_t attr;
	struct gr_ram *ram;
	int rc;

	if (!result)
		return gr__fail(-EINVAL, "RAM: no place for the result");
	if (opts && !is_zero(opts->reserved, sizeof(opts->reserved) / sizeof(opts->reserved[0])))
		return gr__fail(-EINVAL, "RAM: reserved options are not zero");
	rc = gr__section_init();
	if (rc < 0)
		return rc;
	ram = gr__alloc(sizeof(*ram));
	if (!ram)
		return gr__fail(-ENOMEM, "RAM: no memory");
	if (opts)
		ram->opts = *opts;
	ram->pid = getpid();
	CDS_INIT_LIST_HEAD(&ram->reserved);
	CDS_INIT_LIST_HEAD(&ram->spaces);
	CDS_INIT_LIST_HEAD(&ram->listeners);
	CDS_INIT_LIST_HEAD(&ram->claims);
	CDS_INIT_LIST_HEAD(&ram->pending);
	pthread_mutex_init(&ram->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&ram->reclaimed, &attr);
	pthread_condattr_destroy(&attr);
	ram->directory = gr__directory_edit(NULL, NULL, NULL);
	if (!ram->directory) {
		rc = gr__fail(-ENOMEM, "RAM: no memory");
		goto free_ram;
	}
	rc = gr__reclaim_start(ram);
	if (rc < 0)
		goto free_directory;
	rc = gr__registry_enter(ram);
	if (rc < 0)
		goto stop_reclaim;
	*result = ram;
	return 0;

stop_reclaim:
	gr__reclaim_stop(ram);
free_directory:
	gr__directory_free((struct gr__directory *)ram->directory);
free_ram:
	pthread_cond_destroy(&ram->reclaimed);
	pthread_mutex_destroy(&ram->lock);
	gr__free(ram);
	return rc;
}

int gr__ram_check(const struct gr_ram *ram, const char *call)
{
	if (gr_unlikely(ram->pid != getpid()))
		return gr__fail(
			-ENOTSUP,
			"%s: this process was forked from the one that opened the RAM: it may "
			"read and exec, not change",
			call);
	return 0;
}

int gr__ram_check_open(const struct gr_ram *ram)
{
	return ram->closing ? gr__fail(-EBUSY, "the RAM is being closed") : 0;
}

void gr__ram_log(struct gr_ram *ram, enum gr_log_level level, const char *format, ...)
{
	char message[512];
	va_list args;

	if (!ram->opts.log)
		return;
	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	gr__callback_begin();
	ram->opts.log(ram->opts.log_context, level, message);
	gr__callback_end();
}

static uint64_t pins_of(const struct gr_block *block)
{
	return __atomic_load_n(&block->pins, __ATOMIC_RELAXED) & ~GR__PINS_UNLINKED;
}

uint64_t gr__ram_pins(struct gr_ram *ram)
{
	const struct gr__directory *live = ram->directory;
	struct gr_block *block;
	uint64_t pins = 0;
	size_t i;

	for (i = 0; i < live->count; i++)
		pins += pins_of(live->by_offset[i]);
	cds_list_for_each_entry (block, &ram->pending, node)
		pins += pins_of(block);
	return pins;
}

uint64_t gr__now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void gr__ram_stats(struct gr_ram *ram, struct gr_ram_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	stats->blocks = ram->directory->count;
	stats->spaces = ram->space_count;
	stats->ranges = ram->ranges;
	stats->generation = ram->generation;
	stats->bytes = ram->bytes;
	stats->bytes_reserved = ram->bytes_reserved;
	stats->index_bytes = ram->index_bytes;
	stats->range_bytes = ram->range_bytes;
	stats->blocks_pending = ram->blocks_pending;
	stats->bytes_pending = ram->bytes_pending;
	stats->blocks_reclaimed = ram->blocks_reclaimed;
	stats->bytes_reclaimed = ram->bytes_reclaimed;
	stats->grace_periods = __atomic_load_n(&ram->grace_periods, __ATOMIC_RELAXED);
	stats->pins = gr__ram_pins(ram);
}

void gr_ram_get_stats(struct gr_ram *ram, struct gr_ram_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	if (gr__ram_check(ram, "stats") < 0)
		return; /* in a forked child the lock may be held by a thread that is not there */
	pthread_mutex_lock(&ram->lock);
	gr__ram_stats(ram, stats);
	pthread_mutex_unlock(&ram->lock);
}
