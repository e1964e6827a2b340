/* SPDX-License-Identifier: MIT */
/* See registry.h. One for the process, as gr_status_serve() is. */
#include "ram/registry.h"
#include "base/error.h"
#include "os/hooks.h"

static struct {
	pthread_mutex_t lock;
	pthread_cond_t looked;	   /* with lock: the last looker of some RAM left */
	struct cds_list_head rams; /* wr: lock */
	uint64_t opened;	   /* wr: lock: RAMs so far */
	bool forks_watched;	   /* wr: lock */
} registry = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.looked = PTHREAD_COND_INITIALIZER,
	.rams = CDS_LIST_HEAD_INIT(registry.rams),
};

/* The lock may have been held, the list half changed, by a thread that is not there. */
static void begin_child(void)
{
	pthread_mutex_init(&registry.lock, NULL);
	pthread_cond_init(&registry.looked, NULL);
	CDS_INIT_LIST_HEAD(&registry.rams);
}

/* With the lock. What is watched once is watched for good, in the children too. */
static int watch_forks(void)
{
	int rc;

	if (registry.forks_watched)
		return 0;
	rc = GR_FAULT("pthread_atfork");
	if (!rc)
		rc = pthread_atfork(NULL, NULL, begin_child);
	if (rc)
		return gr__fail(-rc, "RAM: forks cannot be watched");
	registry.forks_watched = true;
	return 0;
}

int gr__registry_enter(struct gr_ram *ram)
{
	int rc;

	pthread_mutex_lock(&registry.lock);
	rc = watch_forks();
	if (!rc) {
		ram->number = ++registry.opened;
		cds_list_add_tail(&ram->open_node, &registry.rams);
	}
	pthread_mutex_unlock(&registry.lock);
	return rc;
}

void gr__registry_leave(struct gr_ram *ram)
{
	pthread_mutex_lock(&registry.lock);
	ram->leaving = true; /* nobody new looks */
	while (ram->lookers)
		pthread_cond_wait(&registry.looked, &registry.lock);
	cds_list_del(&ram->open_node);
	pthread_mutex_unlock(&registry.lock);
}

int gr__registry_each(int (*fn)(void *context, struct gr_ram *ram), void *context)
{
	struct gr_ram *ram;
	int rc = 0;

	pthread_mutex_lock(&registry.lock);
	/* a RAM with a looker stays in the list, so that the one after it can be found */
	cds_list_for_each_entry (ram, &registry.rams, open_node) {
		if (ram->leaving)
			continue;
		ram->lookers++;
		pthread_mutex_unlock(&registry.lock);
		GR_POINT("registry.look");
		rc = fn(context, ram);
		pthread_mutex_lock(&registry.lock);
		if (!--ram->lookers && ram->leaving)
			pthread_cond_broadcast(&registry.looked);
		if (rc)
			break;
	}
	pthread_mutex_unlock(&registry.lock);
	return rc;
}
