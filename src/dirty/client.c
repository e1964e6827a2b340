/* SPDX-License-Identifier: MIT */
/* Clients: who asks which pages changed. Threads and locks in dirty.h. */
#include "base/error.h"
#include "base/range.h"
#include "dirty/dirty.h"
#include "os/alloc.h"
#include <errno.h>
#include <string.h>

#define GRANULARITY_MIN (UINT64_C(1) << 10)
#define GRANULARITY_MAX (UINT64_C(1) << 30)

static int check_options(const struct gr_dirty_opts *opts, uint64_t *granularity)
{
	size_t length;

	if (!opts || !opts->name)
		return gr__fail(-EINVAL, "dirty: a client needs options and a name");
	length = strnlen(opts->name, 64);
	if (!length || length == 64)
		return gr__fail(-EINVAL, "dirty: a client's name has 1 to 63 bytes");
	if (opts->flags & ~GR_DIRTY_ALL)
		return gr__fail(-EINVAL, "dirty: unknown flags %#x", opts->flags & ~GR_DIRTY_ALL);
	for (size_t i = 0; i < sizeof(opts->reserved) / sizeof(opts->reserved[0]); i++)
		if (opts->reserved[i])
			return gr__fail(-EINVAL, "dirty: reserved options are not zero");
	*granularity = opts->granularity ? opts->granularity : 1 << GR__MARK_SHIFT;
	if (!gr__is_pow2(*granularity) || *granularity < GRANULARITY_MIN ||
	    *granularity > GRANULARITY_MAX)
		return gr__fail(-EINVAL,
				"dirty: granularity %llu is not a power of two from 1 KiB to 1 GiB",
				(unsigned long long)*granularity);
	return 0;
}

static int open_logs(bool fine)
{
	int rc = gr__marks_open(GR__MARK_SHIFT);

	if (rc < 0 || !fine)
		return rc;
	rc = gr__marks_open(GR__MARK_FINE_SHIFT);
	if (rc < 0)
		gr__marks_close(GR__MARK_SHIFT);
	return rc;
}

static void close_logs(bool fine)
{
	if (fine)
		gr__marks_close(GR__MARK_FINE_SHIFT);
	gr__marks_close(GR__MARK_SHIFT);
}

/*
 * What was written before this moment is not the new client's; it is that of the others, if there
 * are any. Lock held.
 */
static int start(struct gr_dirty *client)
{
	struct gr__dirty_state *state = client->state;
	struct gr__tracked *tracked;
	int rc;

	cds_list_for_each_entry (tracked, &state->tracked, node) {
		rc = gr__dirty_collect(state, tracked, 0, gr__block_length(tracked->block));
		if (rc < 0)
			return rc;
	}
	rc = gr__bits_add(client);
	if (!rc)
		cds_list_add_tail(&client->node, &state->clients);
	return rc;
}

int gr_dirty_open(struct gr_ram *ram, const struct gr_dirty_opts *opts, struct gr_dirty **result)
{
	struct gr_dirty *client;
	uint64_t granularity = 0;
	int rc = gr__ram_check(ram, "dirty");

	if (!rc)
		rc = gr__may_wait("dirty");
	if (!rc)
		rc = check_options(opts, &granularity);
	if (rc < 0)
		return rc;
	client = gr__alloc(sizeof(*client));
	if (!client)
		return gr__fail(-ENOMEM, "dirty: no memory");
	strcpy(client->name, opts->name);
	client->shift = __builtin_ctzll(granularity);
	client->fine = client->shift < GR__MARK_SHIFT;
	client->all = opts->flags & GR_DIRTY_ALL;
	rc = open_logs(client->fine);
	if (rc < 0)
		goto free_client;
	rc = gr__dirty_state_get(ram, &client->state);
	if (rc < 0)
		goto close_logs;
	pthread_mutex_lock(&client->state->lock);
	rc = start(client);
	pthread_mutex_unlock(&client->state->lock);
	if (rc < 0)
		goto put_state;
	*result = client;
	return 0;

put_state:
	gr__dirty_state_put(client->state);
close_logs:
	close_logs(client->fine);
free_client:
	gr__free(client);
	return rc;
}

int gr_dirty_close(struct gr_dirty *client)
{
	struct gr__dirty_state *state;
	int rc;

	if (!client)
		return 0;
	state = client->state;
	rc = gr__ram_check(state->ram, "dirty");
	if (!rc)
		rc = gr__may_wait("dirty close");
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&state->lock);
	if (client->harvests) {
		rc = gr__fail(-EBUSY, "dirty: client %s has %u harvests open", client->name,
			      client->harvests);
	} else {
		cds_list_del(&client->node);
		gr__bits_remove(client);
	}
	pthread_mutex_unlock(&state->lock);
	if (rc < 0)
		return rc;
	close_logs(client->fine);
	gr__dirty_state_put(state);
	gr__free(client);
	return 0;
}
