/* SPDX-License-Identifier: MIT */
#include "foreign_domain.h"
#include <sys/syscall.h>

uint64_t domain_stamp(uint64_t offset, bool moved)
{
	return (offset / PAGE + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (moved ? UINT64_MAX : 0);
}

void domain_open(struct domain *domain, uint64_t length)
{
	uint64_t *pages, i;

	memset(domain, 0, sizeof(*domain));
	pthread_mutex_init(&domain->lock, NULL);
	domain->length = length;
	domain->fd = memfd_create("domain", MFD_CLOEXEC);
	assert_true(domain->fd >= 0);
	assert_int_equal(ftruncate(domain->fd, 2 * (off_t)length), 0);
	pages = mmap(NULL, 2 * length, PROT_READ | PROT_WRITE, MAP_SHARED, domain->fd, 0);
	assert_ptr_not_equal(pages, MAP_FAILED);
	for (i = 0; i < 2 * length; i += PAGE)
		pages[i / 8] = domain_stamp(i % length, i >= length);
	munmap(pages, 2 * length);
}

void domain_close(struct domain *domain)
{
	assert_int_equal(domain->wrong, 0);
	assert_int_equal(domain->mapped, 0);
	close(domain->fd);
	pthread_mutex_destroy(&domain->lock);
}

void domain_move(struct domain *domain)
{
	pthread_mutex_lock(&domain->lock);
	domain->fd_shift = domain->length;
	pthread_mutex_unlock(&domain->lock);
}

unsigned domain_mapped(struct domain *domain)
{
	unsigned mapped;

	pthread_mutex_lock(&domain->lock);
	mapped = domain->mapped;
	pthread_mutex_unlock(&domain->lock);
	return mapped;
}

static void note(struct domain *domain, void *host, uint64_t offset, uint64_t length)
{
	unsigned i;

	for (i = 0; i < DOMAIN_MAPPINGS && domain->mappings[i].host; i++)
		;
	if (i == DOMAIN_MAPPINGS) {
		domain->wrong++;
		return;
	}
	domain->mappings[i].host = host;
	domain->mappings[i].offset = offset;
	domain->mappings[i].length = length;
	domain->maps++;
	if (++domain->mapped > domain->most)
		domain->most = domain->mapped;
}

static int map(void *context, uint64_t offset, uint64_t length, unsigned access, void **host)
{
	struct domain *domain = context;
	int protection = access & GR_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
	int rc = __atomic_load_n(&domain->fail, __ATOMIC_ACQUIRE);
	void *lie = __atomic_load_n(&domain->lie, __ATOMIC_ACQUIRE), *addr;

	if (lie) {
		*host = lie == (void *)1 ? NULL : lie;
		return rc;
	}
	if (rc)
		return rc;
	pthread_mutex_lock(&domain->lock);
	if (!length || offset % PAGE || length % PAGE || offset + length > domain->length)
		domain->wrong++;
	addr = mmap(NULL, length, protection, MAP_SHARED, domain->fd,
		    (off_t)(domain->fd_shift + offset));
	rc = addr == MAP_FAILED ? -errno : 0;
	if (!rc)
		note(domain, addr, offset, length);
	pthread_mutex_unlock(&domain->lock);
	if (domain->while_mapping)
		domain->while_mapping();
	*host = addr;
	return rc;
}

static void unmap(void *context, void *host, uint64_t length)
{
	struct domain *domain = context;
	unsigned i;

	pthread_mutex_lock(&domain->lock);
	for (i = 0; i < DOMAIN_MAPPINGS && domain->mappings[i].host != host; i++)
		;
	if (domain->released || i == DOMAIN_MAPPINGS || domain->mappings[i].length != length ||
	    munmap(host, length)) {
		domain->wrong++;
	} else {
		domain->mappings[i].host = NULL;
		domain->mapped--;
	}
	pthread_mutex_unlock(&domain->lock);
}

/* The pages' place is another's now. */
static int discard(void *context, uint64_t offset, uint64_t length)
{
	struct domain *domain = context;

	pthread_mutex_lock(&domain->lock);
	domain->discards++;
	domain->fd_shift = domain->length;
	pthread_mutex_unlock(&domain->lock);
	return 0;
}

static void release(void *context)
{
	struct domain *domain = context;

	pthread_mutex_lock(&domain->lock);
	domain->released++;
	if (domain->mapped)
		domain->wrong++;
	pthread_mutex_unlock(&domain->lock);
}

const struct gr_foreign_ops domain_ops = {map, unmap, discard, release};

struct gr_block_opts domain_opts(struct domain *domain, uint64_t window_size, uint64_t max_windows)
{
	return (struct gr_block_opts){
		.name = "foreign",
		.backing = GR_BACKING_FOREIGN,
		.length = domain->length,
		.foreign = &domain_ops,
		.foreign_context = domain,
		.window_size = window_size,
		.max_windows = max_windows,
	};
}
