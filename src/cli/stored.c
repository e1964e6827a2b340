/* SPDX-License-Identifier: MIT */
/* See stored.h. */
#include "stored.h"
#include "cli.h"
#include <errno.h>
#ifdef CLI_SNAPSHOT
#include <guestram/snapshot.h>
#endif
#include <stdlib.h>
#include <string.h>

static int open_image(const char *path, struct stored *stored)
{
	const char *slash = strrchr(path, '/');
	char *dot;
	int rc;

	stored->image_name = strdup(slash ? slash + 1 : path);
	stored->blocks = calloc(1, sizeof(*stored->blocks));
	if (!stored->image_name || !stored->blocks)
		return cli_fail(ENOMEM, "%s", path);
	dot = strrchr(stored->image_name, '.');
	if (dot && dot != stored->image_name)
		*dot = '\0';
	stored->blocks[0] = stored->image_name;
	stored->block_count = 1;
	rc = gr_image_source_open(path, &stored->source);
	return rc < 0 ? cli_fail_gr(rc, "%s", path) : CLI_OK;
}

#ifdef CLI_SNAPSHOT

static int list(struct stored *stored)
{
	struct gr_snapshot_info info;
	unsigned n;

	if (gr_snapshot_get_info(stored->snapshot, 0, &info) < 0)
		return -ENOMEM;
	stored->blocks = calloc(info.blocks + 1, sizeof(*stored->blocks));
	stored->states = calloc(info.states + 1, sizeof(*stored->states));
	if (!stored->blocks || !stored->states)
		return -ENOMEM;
	for (n = 0; n < info.blocks; n++) {
		struct gr_snapshot_block block;

		gr_snapshot_get_block(stored->snapshot, n, &block);
		stored->blocks[n] = block.name;
	}
	for (n = 0; n < info.states; n++) {
		struct gr__mount_state *state = &stored->states[n];

		gr_snapshot_get_state(stored->snapshot, n, &state->name, &state->bytes,
				      &state->length);
	}
	stored->block_count = info.blocks;
	stored->state_count = info.states;
	return 0;
}

static int open_snapshot(const char *path, const char *parent, struct stored *stored)
{
	int rc = gr_snapshot_open(path, parent, &stored->snapshot);

	if (rc < 0)
		return cli_fail_gr(rc, "%s", path);
	rc = list(stored);
	if (!rc)
		rc = gr_snapshot_source(stored->snapshot, &stored->source);
	return rc < 0 ? cli_fail(rc, "%s", path) : CLI_OK;
}

#endif

int stored_open(const char *path, const char *parent, bool image, struct stored *stored)
{
	int rc;

	memset(stored, 0, sizeof(*stored));
#ifdef CLI_SNAPSHOT
	rc = image ? open_image(path, stored) : open_snapshot(path, parent, stored);
#else
	(void)parent;
	rc = image ? open_image(path, stored)
		   : cli_fail(0, "%s: this program is built without snapshots (--image)", path);
#endif
	if (rc)
		stored_close(stored);
	return rc;
}

void stored_close(struct stored *stored)
{
	gr_page_source_close(&stored->source);
#ifdef CLI_SNAPSHOT
	gr_snapshot_close(stored->snapshot);
#endif
	free(stored->blocks);
	free(stored->states);
	free(stored->image_name);
	memset(stored, 0, sizeof(*stored));
}
