/* SPDX-License-Identifier: MIT */
/*
 * What programs add to the document.
 *
 * Threads: the list under members_lock, which is not held while a function runs; `calls` counts the
 * calls of each that run, and gr_status_remove() waits for them.
 */
#include "base/error.h"
#include "os/alloc.h"
#include "ram/ram.h"
#include "status/status.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 63

struct member {
	struct cds_list_head node; /* wr: members_lock */
	char *name;
	gr_status_fn fn;
	void *context;
	unsigned calls; /* wr: members_lock */
	bool leaving;	/* wr: members_lock */
};

static pthread_mutex_t members_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t members_called = PTHREAD_COND_INITIALIZER;
static CDS_LIST_HEAD(members);

static struct member *find(const char *name)
{
	struct member *member;

	cds_list_for_each_entry (member, &members, node)
		if (!strcmp(member->name, name))
			return member;
	return NULL;
}

int gr_status_add(const char *name, gr_status_fn fn, void *context)
{
	size_t length = name ? strnlen(name, NAME_MAX_BYTES + 1) : 0;
	json_t *text;
	struct member *member;
	int rc = 0;

	if (!length || length > NAME_MAX_BYTES || !fn)
		return gr__fail(-EINVAL,
				"status: a member has a name of 1 to %d bytes and a function",
				NAME_MAX_BYTES);
	text = json_string(name);
	if (!text)
		return gr__fail(-EINVAL, "status: a member's name is UTF-8");
	json_decref(text);
	member = gr__alloc(sizeof(*member));
	if (!member || !(member->name = gr__strdup(name))) {
		gr__free(member);
		return gr__fail(-ENOMEM, "status: no memory for member %s", name);
	}
	member->fn = fn;
	member->context = context;
	pthread_mutex_lock(&members_lock);
	if (find(name))
		rc = -EEXIST;
	else
		cds_list_add_tail(&member->node, &members);
	pthread_mutex_unlock(&members_lock);
	if (rc < 0) {
		gr__free(member->name);
		gr__free(member);
		return gr__fail(rc, "status: there is a member %s", name);
	}
	return 0;
}

int gr_status_remove(const char *name)
{
	struct member *member;
	int rc = gr__may_wait("status: remove");

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&members_lock);
	member = name ? find(name) : NULL;
	if (!member || member->leaving) {
		pthread_mutex_unlock(&members_lock);
		return gr__fail(-ENOENT, "status: no member %s", name ? name : "without a name");
	}
	member->leaving = true;
	while (member->calls)
		pthread_cond_wait(&members_called, &members_lock);
	cds_list_del(&member->node);
	pthread_mutex_unlock(&members_lock);
	gr__free(member->name);
	gr__free(member);
	return 0;
}

static int put_member(json_t *object, const struct member *member)
{
	json_t *value = NULL;
	char *text;

	gr__callback_begin();
	text = member->fn(member->context);
	gr__callback_end();
	if (!text)
		return 0;
	value = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
	free(text);
	return gr__json_put(object, member->name, value ? value : json_null());
}

int gr__status_members(json_t *object)
{
	struct member *member;
	int rc = 0;

	pthread_mutex_lock(&members_lock);
	/* one that is called stays in the list, so that the one after it can be found */
	cds_list_for_each_entry (member, &members, node) {
		if (member->leaving)
			continue;
		member->calls++;
		pthread_mutex_unlock(&members_lock);
		rc = put_member(object, member);
		pthread_mutex_lock(&members_lock);
		if (!--member->calls && member->leaving)
			pthread_cond_broadcast(&members_called);
		if (rc < 0)
			break;
	}
	pthread_mutex_unlock(&members_lock);
	return rc;
}
